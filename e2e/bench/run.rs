//! What the benchmark measures, kept for the pictures of the documentation (`make pictures`).

use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::Series;

/// The figures of one picture.
pub struct Run {
    /// The file's name without `.json`.
    name: &'static str,
    /// What the picture says about itself.
    title: &'static str,
    /// The unit of the figures: `ms`, `s` or `/s`.
    unit: &'static str,
    /// What the numbers count that each row is `at`, if they are an axis of the picture.
    axis: Option<&'static str>,
    columns: Vec<String>,
    rows: Vec<Value>,
}

impl Run {
    /// Begins a picture of bars: a group of bars for each row, with a bar for each column.
    pub fn bars(name: &'static str, title: &'static str, unit: &'static str, columns: &[&str]) -> Self {
        let columns = columns.iter().map(ToString::to_string).collect();
        Self { name, title, unit, axis: None, columns, rows: Vec::new() }
    }

    /// Begins a picture of lines: a line for each column, over what the rows count.
    pub fn lines(
        name: &'static str,
        title: &'static str,
        unit: &'static str,
        axis: &'static str,
        columns: &[&str],
    ) -> Self {
        Self { axis: Some(axis), ..Self::bars(name, title, unit, columns) }
    }

    /// Adds a row of bars; a column may have no figure. A figure is the median of the series, times `scale`.
    pub fn row(&mut self, of: &str, scale: f64, series: &[Option<&Series>]) {
        self.add(json!(of), scale, series);
    }

    /// Adds the points of the lines at this number.
    pub fn at(&mut self, number: usize, scale: f64, series: &[Option<&Series>]) {
        self.add(json!(number), scale, series);
    }

    fn add(&mut self, of: Value, scale: f64, series: &[Option<&Series>]) {
        assert_eq!(series.len(), self.columns.len(), "{}: {of}", self.name);
        let figure = |series: &Series| {
            let (low, high) = series.range();
            json!({"median": series.median() * scale, "low": low * scale, "high": high * scale})
        };
        let figures: Vec<Value> = series.iter().map(|series| series.map_or(Value::Null, figure)).collect();
        self.rows.push(json!({"of": of, "figures": figures}));
    }

    /// Writes the file into the folder that `CSI_NFS_E2E_RUNS` names, if it is set.
    pub fn keep(self) {
        let Some(runs) = std::env::var_os("CSI_NFS_E2E_RUNS").map(PathBuf::from) else { return };
        let now = humantime::format_rfc3339(SystemTime::now()).to_string();
        let (date, _) = now.split_once('T').unwrap();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let run = json!({
            "title": self.title, "date": date, "kernel": format!("Linux {}", kernel.trim()), "unit": self.unit,
            "axis": self.axis, "columns": self.columns, "rows": self.rows,
        });
        std::fs::write(runs.join(format!("{}.json", self.name)), format!("{run:#}\n")).unwrap();
    }
}
