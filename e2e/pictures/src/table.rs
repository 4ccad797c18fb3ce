//! Figures in tables of a Markdown document, and the pictures of tables of docs/benchmarks.md.
use anyhow::{Context, Result, ensure};

use crate::bars::Bars;

/// A picture of a table, whose figures are of one run.
pub struct Picture {
    /// The name of the file, without `.svg`.
    pub file: &'static str,
    /// The heading of the section; its first table is drawn.
    heading: &'static str,
    title: &'static str,
    /// What the section says about when and how, word by word.
    when: &'static str,
    /// The columns that are drawn. A row without a figure in one of them is left out.
    columns: &'static [&'static str],
    /// Rows with another unit are left out.
    unit: &'static str,
}

/// The pictures of tables: what was measured once, with another driver, and not by `make bench`.
pub const PICTURES: [Picture; 2] = [
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
];

impl Picture {
    /// What the document has for the picture.
    pub fn bars(&self, document: &str) -> Result<Bars> {
        let section = section(document, self.heading)?;
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(words(section).contains(self.when), "the section {:?} does not say {:?}", self.heading, self.when);
        let (columns, rows) = first(section)?;
        let at = |name: &&str| columns.iter().position(|column| column == name).with_context(|| format!("no {name:?}"));
        let places = self.columns.iter().map(at).collect::<Result<Vec<_>>>()?;
        let figures = |row: &Vec<&str>| -> Option<Vec<Figure>> {
            let all = places.iter().map(|place| figure(row.get(*place)?));
            all.map(|figure| figure.filter(|figure| figure.unit == self.unit)).collect()
        };
        let name = |row: &Vec<&str>| row[0].strip_suffix(", p50").unwrap_or(row[0]).to_owned();
        Ok(Bars {
            title: self.title.to_owned(),
            when: self.when.to_owned(),
            columns: self.columns.iter().map(ToString::to_string).collect(),
            rows: rows.iter().filter_map(|row| Some((name(row), figures(row)?))).collect(),
        })
    }
}

/// A figure with its unit, such as `4.2 ms (4.0 to 4.4)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub value: f64,
    /// The lowest and the highest figure of several rounds.
    pub range: Option<(f64, f64)>,
    /// `ms`, `s` or `/s`.
    pub unit: String,
    /// As the table has it.
    pub text: String,
}

impl Figure {
    /// The highest of its rounds.
    pub fn highest(&self) -> f64 {
        self.range.map_or(self.value, |(_, high)| high.max(self.value))
    }
}

/// Reads a cell. Returns nothing if it is no figure.
pub fn figure(cell: &str) -> Option<Figure> {
    let (main, range) = match cell.split_once(" (") {
        Some((main, range)) => (main, range.strip_suffix(')')?.split_once(" to ")),
        None => (cell, None),
    };
    let end = main.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(main.len());
    let unit = main[end..].trim();
    let range = match range {
        Some((low, high)) => Some((low.parse().ok()?, high.parse().ok()?)),
        None => None,
    };
    Some(Figure { value: main[..end].parse().ok()?, range, unit: unit.to_owned(), text: cell.to_owned() })
}

/// The text of a document below a heading of the second level, up to the next one.
pub fn section<'a>(document: &'a str, heading: &str) -> Result<&'a str> {
    let start = format!("\n## {heading}\n");
    let (_, rest) = document.split_once(start.as_str()).with_context(|| format!("no heading {heading:?}"))?;
    Ok(rest.split("\n## ").next().unwrap_or(rest))
}

/// The text below the heading of the second level that shows a picture of this name.
pub fn section_with(document: &str, picture: &str) -> Result<String> {
    let link = format!("](pictures/{picture}.svg)");
    let found = document.split("\n## ").find(|section| section.contains(&link));
    found.map(str::to_owned).with_context(|| format!("no section shows {link}"))
}

/// The first table of a section: its columns, and its rows.
pub fn first(section: &str) -> Result<(Vec<&str>, Vec<Vec<&str>>)> {
    let lines = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let mut rows: Vec<Vec<&str>> =
        lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect();
    ensure!(rows.len() > 2, "no table");
    let columns = rows.remove(0);
    rows.remove(0);
    Ok((columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = concat!(
        "# B\n\n## Beside csi-driver-nfs\n2026-11-25, both drivers in one\nrun on one kernel\n\n",
        "| call | csi-driver-nfs | this driver | ratio |\n|---|---|---|---|\n",
        "| Create, p50 | 4 ms (3 to 5) | 2 ms | 2 |\n| many | 250/s | 100/s | |\n| alone | 3 ms | | |\n",
    );

    #[test]
    fn a_picture_has_the_figures_of_the_rows_that_have_all() {
        let bars = PICTURES[0].bars(DOCUMENT).unwrap();
        let texts =
            bars.rows.iter().map(|(name, figures)| (name.as_str(), figures.iter().map(|f| f.text.as_str()).collect()));
        assert_eq!(texts.collect::<Vec<(_, Vec<_>)>>(), [("Create", vec!["2 ms", "4 ms (3 to 5)"])]);
    }

    #[test]
    fn a_picture_says_no_date_that_its_section_does_not_say() {
        let complaint = PICTURES[0].bars(&DOCUMENT.replace("2026-11-25", "2026-12-24")).err().unwrap();
        assert!(complaint.to_string().contains("does not say"), "{complaint}");
    }

    #[test]
    fn a_figure_has_a_value_a_unit_and_perhaps_a_range() {
        let read = |cell| figure(cell).map(|figure| (figure.value, figure.range, figure.unit));
        assert_eq!(read("4.2 ms (4.0 to 4.4)"), Some((4.2, Some((4.0, 4.4)), "ms".to_owned())));
        assert_eq!(read("315/s"), Some((315.0, None, "/s".to_owned())));
        assert_eq!(read("15"), Some((15.0, None, String::new())));
        for nothing in ["", "CreateVolume, p50", "5 ms (four to 6)"] {
            assert_eq!(read(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_section_ends_at_the_next_heading_and_its_first_table_has_columns_and_rows() {
        let document = "# A\n\n## One\ntext\n\n| call | ms |\n|---|---|\n| a | 1 ms |\n| b | 2 ms |\n\n## Two\n| x |\n";
        let one = section(document, "One").unwrap();
        assert!(one.starts_with("text") && !one.contains("| x |"), "{one}");
        let (columns, rows) = first(one).unwrap();
        assert_eq!(columns, ["call", "ms"]);
        assert_eq!(rows, [["a", "1 ms"], ["b", "2 ms"]]);
        assert!(section(document, "Three").is_err() && first("no table").is_err());
    }
}
