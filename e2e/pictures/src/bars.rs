//! Pictures of bars: what is compared stands side by side, in groups below each other.
use anyhow::{Result, ensure};
use plotters::prelude::*;

use crate::table::Figure;
use crate::{Area, COLOURS, INK, drawn, head, legend, svg, text};

/// A picture of bars.
pub struct Bars {
    /// What the picture says about itself.
    pub title: String,
    /// When and how the figures were measured.
    pub when: String,
    /// What the bars of each row are, in turn.
    pub columns: Vec<String>,
    /// Groups of bars: what each is about, and a figure for each column.
    pub rows: Vec<(String, Vec<Figure>)>,
}

const WIDTH: i32 = 860;
/// Where the bars begin, and the widest one ends.
const BARS: (i32, i32) = (330, 700);
const TOP: i32 = 64;
const BAR: i32 = 14;
const GAP: i32 = 12;

impl Bars {
    /// The SVG of the picture.
    pub fn draw(&self) -> Result<String> {
        let per_row = BAR * self.columns.len() as i32 + GAP;
        let height = TOP + per_row * self.rows.len() as i32 + 40;
        svg((WIDTH as u32, height as u32), |backend| {
            let root = backend.into_drawing_area();
            head(&root, &self.title, &self.when)?;
            let most = self.rows.iter().flat_map(|(_, figures)| figures).map(Figure::highest).fold(0.0, f64::max);
            ensure!(most > 0.0, "nothing to draw");
            for (n, row) in self.rows.iter().enumerate() {
                draw_row(&root, TOP + per_row * n as i32, row, most)?;
            }
            legend(&root, (16, height - 26), self.columns.iter())?;
            drawn(root.present())
        })
    }
}

fn draw_row(root: &Area<'_>, top: i32, (name, figures): &(String, Vec<Figure>), most: f64) -> Result<()> {
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

    #[test]
    fn a_picture_has_the_figures_and_lengths_in_proportion() {
        let figure = |cell| crate::table::figure(cell).unwrap();
        let svg = Bars {
            title: "Calls".into(),
            when: "today".into(),
            columns: vec!["this driver".into(), "bare".into()],
            rows: vec![("<Create>".into(), vec![figure("4 ms (3 to 5)"), figure("2 ms")])],
        };
        let svg = svg.draw().unwrap();
        for part in ["Calls", "today", "4 ms (3 to 5)", "2 ms", "&lt;Create&gt;", "this driver"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("<Create>"), "{svg}");
        let widths = svg.split("<rect ").filter(|part| part.contains(&format!("x=\"{}\" y=\"", BARS.0)));
        let widths: Vec<f64> = widths
            .map(|part| part.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(widths[0] / widths[1], 2.0, "{widths:?}");
    }

    #[test]
    fn a_long_name_is_wrapped_between_words() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("indivisible", 4), ["indivisible"]);
    }
}
