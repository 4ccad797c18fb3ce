//! Figures in tables of a Markdown document.
use anyhow::{Context, Result, ensure};

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
