//! What a run of `make bench` kept: the figures of a picture, and when and on what kernel they were measured.
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bars::Bars;
use crate::lines::Lines;
use crate::table::Figure;
use crate::units::written;

/// The runs that are drawn, each a file of `e2e/pictures/runs`.
pub const RUNS: [&str; 7] =
    ["calls", "calls-in-flight", "copies", "copies-by-files", "volumes", "slow-server", "crowded"];

/// A run.
pub struct Run(Value);

impl Run {
    /// Reads a run from its JSON.
    pub fn read(json: &str) -> Result<Self> {
        Ok(Self(serde_json::from_str(json)?))
    }

    /// The SVG of the run. `section` is the text that shows it, which has to say the day of the run.
    pub fn draw(&self, section: &str) -> Result<String> {
        let date = self.text("date")?;
        ensure!(section.contains(date), "the section that shows the picture does not say {date}");
        let when = format!("{date}, make bench, {}, medians, with the range of the rounds", self.text("kernel")?);
        let title = self.text("title")?.to_owned();
        let columns: Vec<String> = self.list("columns")?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let Some(axis) = self.0["axis"].as_str() else {
            let row = |row: &Value| -> Result<_> {
                let figures = self.figures(row)?.into_iter().collect::<Option<_>>().context("a row lacks a figure")?;
                Ok((row["of"].as_str().context("a row without a name")?.to_owned(), figures))
            };
            let rows = self.list("rows")?.iter().map(row).collect::<Result<_>>()?;
            return Bars { title, when, columns, rows }.draw();
        };
        let mut lines: Vec<(String, Vec<(f64, Figure)>)> = columns.into_iter().map(|name| (name, Vec::new())).collect();
        for row in self.list("rows")? {
            let at = row["of"].as_f64().context("a row without a number")?;
            for ((_, points), figure) in lines.iter_mut().zip(self.figures(row)?) {
                points.extend(figure.map(|figure| (at, figure)));
            }
        }
        Lines { title, when, axis: axis.to_owned(), unit: self.unit()?, lines }.draw()
    }

    fn text(&self, key: &str) -> Result<&str> {
        self.0[key].as_str().with_context(|| format!("the run has no {key}"))
    }

    fn list(&self, key: &str) -> Result<&Vec<Value>> {
        self.0[key].as_array().with_context(|| format!("the run has no {key}"))
    }

    fn unit(&self) -> Result<&'static str> {
        match self.text("unit")? {
            "ms" => Ok("ms"),
            "s" => Ok("s"),
            "/s" => Ok("reqps"),
            unit => anyhow::bail!("the unit {unit:?} is unknown"),
        }
    }

    /// The figures of a row, one for each column that has one.
    fn figures(&self, row: &Value) -> Result<Vec<Option<Figure>>> {
        let unit = self.unit()?;
        let figure = |figure: &Value| {
            let number = |key: &str| figure[key].as_f64();
            let (value, low, high) = (number("median")?, number("low")?, number("high")?);
            let text = written(value, unit);
            Some(Figure { value, range: Some((low, high)), unit: unit.to_owned(), text })
        };
        let figures = row["figures"].as_array().context("a row without figures")?;
        Ok(figures.iter().map(figure).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARS: &str = r#"{"title": "Calls", "date": "2026-11-26", "kernel": "Linux 7.2", "unit": "ms", "axis": null,
        "columns": ["ours", "bare"], "rows": [{"of": "Create", "figures": [
        {"median": 2.0, "low": 1.5, "high": 2.5}, {"median": 1.0, "low": 1.0, "high": 1.0}]}]}"#;

    #[test]
    fn a_run_is_drawn_as_bars_or_as_lines_with_its_day_and_kernel() {
        let bars = Run::read(BARS).unwrap().draw("On 2026-11-26").unwrap();
        let lines = BARS.replace("null", r#""volumes""#);
        let more = r#""rows": [{"of": 10, "figures": [{"median": 1.0, "low": 1.0, "high": 1.0}, null]}, "#;
        let lines = lines.replace(r#""rows": ["#, more).replace(r#""Create""#, "1000");
        let lines = Run::read(&lines).unwrap().draw("On 2026-11-26").unwrap();
        for svg in [&bars, &lines] {
            assert!(svg.contains("2026-11-26") && svg.contains("Linux 7.2") && svg.contains("ours"), "{svg}");
        }
        assert!(bars.contains("Create") && bars.contains("2 ms") && !bars.contains("<circle"), "{bars}");
        assert_eq!(lines.matches("<circle").count(), 3, "{lines}");
    }

    #[test]
    fn a_section_has_to_say_the_day_of_the_run_that_it_shows() {
        let complaint = Run::read(BARS).unwrap().draw("On 2026-11-25").unwrap_err();
        assert!(complaint.to_string().contains("2026-11-26"), "{complaint}");
    }
}
