//! Tables of docs/benchmarks.md as bars. A picture has the figures of one table, which are of one run.
use anyhow::{Context, Result, ensure};
use plotters::prelude::*;

use crate::table::{Figure, figure, first, section};
use crate::{COLOURS, INK, drawn, svg, text};

/// A picture of a table.
#[derive(Debug)]
pub struct Picture {
    /// The name of the file, without `.svg`.
    pub file: &'static str,
    /// The heading of the section; its first table is drawn.
    heading: &'static str,
    /// What the picture says about itself.
    title: &'static str,
    /// What the section says about when and how, word by word.
    when: &'static str,
    /// The columns that are drawn. A row without a figure in one of them is left out.
    columns: &'static [&'static str],
    /// Rows with another unit are left out.
    unit: &'static str,
}

/// The pictures of docs/benchmarks.md.
pub const PICTURES: [Picture; 4] = [
    Picture {
        file: "calls",
        heading: "Calls",
        title: "Calls, and the system calls that they need (milliseconds)",
        when: "2026-11-24, `make bench`, Linux 7.2",
        columns: &["this driver", "bare"],
        unit: "ms",
    },
    Picture {
        file: "beside-csi-driver-nfs",
        heading: "Beside csi-driver-nfs",
        title: "Calls beside csi-driver-nfs, one at a time (milliseconds)",
        when: "2026-11-25, both drivers in one run on one kernel",
        columns: &["this driver", "csi-driver-nfs"],
        unit: "ms",
    },
    Picture {
        file: "copies-beside-csi-driver-nfs",
        heading: "Beside csi-driver-nfs",
        title: "Clones, snapshots and restores beside csi-driver-nfs (seconds)",
        when: "2026-11-25, both drivers in one run on one kernel",
        columns: &["this driver", "csi-driver-nfs"],
        unit: "s",
    },
    Picture {
        file: "copies",
        heading: "Copying a tree",
        title: "Copies within an XFS export, and the system calls that they need (seconds)",
        when: "2026-11-24, `make bench BENCH=copies`",
        columns: &["XFS (CLONE)", "bare"],
        unit: "s",
    },
];

const WIDTH: i32 = 860;
/// Where the bars begin, and the widest one ends.
const BARS: (i32, i32) = (330, 700);
const TOP: i32 = 64;
const BAR: i32 = 14;
const GAP: i32 = 12;

/// A row of a picture: what it is about, and a figure for each column.
type Row<'a> = (&'a str, Vec<Figure>);

impl Picture {
    /// The SVG of the picture, from the document.
    pub fn draw(&self, document: &str) -> Result<String> {
        let section = section(document, self.heading)?;
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(words(section).contains(self.when), "the section {:?} does not say {:?}", self.heading, self.when);
        let rows = self.rows(section)?;
        let per_row = BAR * self.columns.len() as i32 + GAP;
        let height = TOP + per_row * rows.len() as i32 + 40;
        svg((WIDTH as u32, height as u32), |backend| {
            let root = backend.into_drawing_area();
            drawn(root.fill(&WHITE))?;
            drawn(root.draw(&Text::new(self.title, (16, 14), text(18))))?;
            drawn(root.draw(&Text::new(self.when.replace('`', ""), (16, 38), text(13))))?;
            let highest = |figure: &Figure| figure.range.map_or(figure.value, |(_, high)| high.max(figure.value));
            let most = rows.iter().flat_map(|(_, figures)| figures).map(highest).fold(0.0, f64::max);
            ensure!(most > 0.0, "nothing to draw");
            for (n, row) in rows.iter().enumerate() {
                draw_row(&root, TOP + per_row * n as i32, row, most)?;
            }
            self.draw_legend(&root, height - 26)?;
            drawn(root.present())
        })
    }

    fn rows<'a>(&self, section: &'a str) -> Result<Vec<Row<'a>>> {
        let (columns, rows) = first(section)?;
        let at = |name: &&str| columns.iter().position(|column| column == name).with_context(|| format!("no {name:?}"));
        let places = self.columns.iter().map(at).collect::<Result<Vec<_>>>()?;
        let figures = |row: &Vec<&str>| -> Option<Vec<Figure>> {
            let all = places.iter().map(|place| figure(row.get(*place)?));
            all.map(|figure| figure.filter(|figure| figure.unit == self.unit)).collect()
        };
        Ok(rows.iter().filter_map(|row| Some((row[0], figures(row)?))).collect())
    }

    fn draw_legend(&self, root: &Area<'_>, y: i32) -> Result<()> {
        let mut x = BARS.0;
        for (column, colour) in self.columns.iter().zip(COLOURS) {
            drawn(root.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], colour.filled())))?;
            drawn(root.draw(&Text::new(*column, (x + 18, y), text(13))))?;
            x += 40 + 8 * column.len() as i32;
        }
        Ok(())
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_row(root: &Area<'_>, top: i32, (name, figures): &Row<'_>, most: f64) -> Result<()> {
    let name = name.strip_suffix(", p50").unwrap_or(name);
    for (n, line) in wrapped(name, 46).into_iter().enumerate() {
        drawn(root.draw(&Text::new(line, (16, top + 1 + 14 * n as i32), text(13))))?;
    }
    let x = |value: f64| BARS.0 + (f64::from(BARS.1 - BARS.0) * value / most).round() as i32;
    for ((n, figure), colour) in figures.iter().enumerate().zip(COLOURS) {
        let y = top + BAR * n as i32;
        drawn(root.draw(&Rectangle::new([(BARS.0, y), (x(figure.value), y + BAR - 2)], colour.filled())))?;
        let mut end = x(figure.value);
        if let Some((low, high)) = figure.range {
            let middle = y + BAR / 2 - 1;
            drawn(root.draw(&PathElement::new([(x(low), middle), (x(high), middle)], INK)))?;
            end = end.max(x(high));
        }
        drawn(root.draw(&Text::new(figure.text.clone(), (end + 6, y), text(12))))?;
    }
    Ok(())
}

/// The text in lines of at most `most` letters.
fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().filter(|line| line.is_empty() || line.len() + word.len() < most);
        match last {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => *line += &format!(" {word}"),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = concat!(
        "# B\n\n## Calls\n2026-11-24, `make bench`, Linux 7.2\n\n",
        "| call | this driver | bare | ratio |\n|---|---|---|---|\n",
        "| <Create>, p50 | 4 ms (3 to 5) | 2 ms | 2 |\n| many | 250/s | 100/s | |\n| alone | 3 ms | | |\n",
    );

    #[test]
    fn a_picture_has_the_figures_of_the_rows_that_have_all_and_lengths_in_proportion() {
        let svg = PICTURES[0].draw(DOCUMENT).unwrap();
        assert!(svg.contains("4 ms (3 to 5)") && svg.contains("2 ms") && svg.contains("&lt;Create&gt;"), "{svg}");
        assert!(!svg.contains("250/s") && !svg.contains("alone") && !svg.contains("<Create>"), "{svg}");
        let widths = svg.split("<rect ").filter(|part| part.contains(&format!("x=\"{}\" y=\"", BARS.0)));
        let widths: Vec<f64> = widths
            .map(|part| part.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(widths[0] / widths[1], 2.0, "{widths:?}");
    }

    #[test]
    fn a_picture_says_no_date_that_its_section_does_not_say() {
        let complaint = PICTURES[0].draw(&DOCUMENT.replace("2026-11-24", "2026-12-24")).unwrap_err();
        assert!(complaint.to_string().contains("does not say"), "{complaint}");
    }

    #[test]
    fn a_long_name_is_wrapped_between_words() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("indivisible", 4), ["indivisible"]);
    }
}
