//! The dashboards with what a real Prometheus answered to their queries, as Grafana would draw them.
use anyhow::{Context, Result};
use plotters::prelude::*;
use serde_json::Value;

use crate::units::written;
use crate::{Area, COLOURS, INK, drawn, svg, text};

/// The dashboards that are drawn: their files, with the runs of that name. The last one is of a benchmark on a cluster.
pub const DASHBOARDS: [&str; 3] = [
    "deploy/helm/csi-nfs/files/dashboards/csi-nfs-fleet.json",
    "deploy/helm/csi-nfs/files/dashboards/csi-nfs-export.json",
    "e2e/pictures/burst.json",
];

/// A cell of Grafana's grid in pixels.
const CELL: (i32, i32) = (50, 26);
const MARGIN: i32 = 6;
/// The most series that a legend names.
const NAMED: usize = 4;

/// A line of a panel: its name, and its values by time in seconds.
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Draws a dashboard (its JSON) with the answers of a run: `end` and `step` in seconds since its begin, and `answers`,
/// which has for each `PANEL/QUERY` the series, each with its labels (`metric`) and `values` (pairs of time and value).
pub fn draw(dashboard: &str, run: &str) -> Result<String> {
    let (dashboard, run): (Value, Value) = (serde_json::from_str(dashboard)?, serde_json::from_str(run)?);
    let panels = dashboard["panels"].as_array().context("a dashboard without panels")?;
    let bottom = |panel: &Value| grid(panel).map(|(_, y, _, h)| y + h);
    let rows = panels.iter().map(bottom).collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or_default();
    let (top, size) = (40, (24 * CELL.0, 40 + rows * CELL.1));
    svg((size.0 as u32, size.1 as u32), |backend| {
        let root = backend.into_drawing_area();
        drawn(root.fill(&RGBColor(244, 245, 247)))?;
        let title = format!("{}, in a run of the end-to-end tests (min:s)", word(&dashboard["title"]));
        drawn(root.draw(&Text::new(title, (12, 12), text(18))))?;
        for panel in panels {
            let (x, y, w, h) = grid(panel)?;
            let at = (x * CELL.0 + MARGIN, top + y * CELL.1 + MARGIN);
            let area = root.clone().shrink(at, (w * CELL.0 - 2 * MARGIN, h * CELL.1 - 2 * MARGIN));
            draw_panel(&area, panel, &run).with_context(|| word(&panel["title"]).to_owned())?;
        }
        drawn(root.present())
    })
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The place of a panel in cells: x, y, width, height.
fn grid(panel: &Value) -> Result<(i32, i32, i32, i32)> {
    let side = |name: &str| panel["gridPos"][name].as_i64().context("a panel without a place").map(|side| side as i32);
    Ok((side("x")?, side("y")?, side("w")?, side("h")?))
}

/// The series of all queries of a panel.
fn series(panel: &Value, run: &Value) -> Result<Vec<Series>> {
    let mut found = Vec::new();
    for target in panel["targets"].as_array().into_iter().flatten() {
        let key = format!("{}/{}", panel["id"], word(&target["refId"]));
        let answer = run["answers"][&key].as_array().with_context(|| format!("the run has no answer to {key}"))?;
        for one in answer {
            let values = one["values"].as_array().context("a series without values")?;
            let point = |pair: &Value| Some((pair[0].as_f64()?, pair[1].as_f64()?));
            let points: Vec<_> = values.iter().filter_map(point).collect();
            found.push(Series { name: legend(word(&target["legendFormat"]), &one["metric"]), points });
        }
    }
    found.retain(|series| !series.points.is_empty());
    Ok(found)
}

/// The legend with the labels of a series in place of `{{LABEL}}`.
fn legend(format: &str, labels: &Value) -> String {
    let mut parts = format.split("{{");
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (label, rest) = part.split_once("}}").unwrap_or((part, ""));
        name += word(&labels[label.trim()]);
        name += rest;
    }
    name.trim().to_owned()
}

fn draw_panel(area: &Area<'_>, panel: &Value, run: &Value) -> Result<()> {
    drawn(area.fill(&WHITE))?;
    drawn(area.draw(&Text::new(word(&panel["title"]).to_owned(), (10, 8), text(14))))?;
    let series = series(panel, run)?;
    let unit = word(&panel["fieldConfig"]["defaults"]["unit"]);
    if word(&panel["type"]) != "stat" {
        return draw_lines(area, &series, unit, run);
    }
    let last = series.iter().filter_map(|series| series.points.last()).next_back();
    let value = last.map_or("no data".to_owned(), |(_, value)| written(*value, unit));
    drawn(area.draw(&Text::new(value, (14, 38), text(34).color(&COLOURS[0]))))
}

fn draw_lines(area: &Area<'_>, series: &[Series], unit: &str, run: &Value) -> Result<()> {
    let number = |name: &str| run[name].as_f64().filter(|number| *number > 0.0);
    let (end, step) = (number("end").context("the run has no end")?, number("step").context("the run has no step")?);
    let most = series.iter().flat_map(|series| &series.points).map(|(_, value)| *value).fold(0.0, f64::max);
    let most = if most > 0.0 { most * 1.1 } else { 1.0 };
    let (_, height) = area.dim_in_pixel();
    let (upper, legend) = area.split_vertically(height as i32 - 22);
    let (_, plot) = upper.split_vertically(28);
    let mut chart = drawn(
        ChartBuilder::on(&plot)
            .x_label_area_size(22)
            .y_label_area_size(66)
            .margin_right(14)
            .build_cartesian_2d(0.0..end, 0.0..most),
    )?;
    let mut mesh = chart.configure_mesh();
    let mesh = mesh.label_style(text(11)).axis_style(INK.mix(0.4)).bold_line_style(INK.mix(0.12));
    let mesh = mesh.light_line_style(TRANSPARENT).x_labels(8).y_labels(4);
    let x = |seconds: &f64| format!("{:.0}:{:02.0}", (seconds / 60.0).floor(), seconds % 60.0);
    drawn(mesh.x_label_formatter(&x).y_label_formatter(&|value| written(*value, unit)).draw())?;
    for (series, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        for part in series.points.chunk_by(|(one, _), (next, _)| next - one < 1.5 * step) {
            let points: Vec<_> = part.iter().map(|(time, value)| (*time, *value)).collect();
            // A line of one point would not be seen.
            let alone = points.iter().filter(|_| points.len() == 1);
            drawn(chart.draw_series(alone.map(|point| Circle::new(*point, 2, colour.filled()))))?;
            drawn(chart.draw_series(LineSeries::new(points, colour.stroke_width(2))))?;
        }
    }
    draw_legend(&legend, series)
}

fn draw_legend(area: &Area<'_>, series: &[Series]) -> Result<()> {
    let mut x = 12;
    for (series, colour) in series.iter().zip(COLOURS).take(NAMED) {
        let name: String = series.name.chars().take(32).collect();
        drawn(area.draw(&Rectangle::new([(x, 9), (x + 10, 12)], colour.filled())))?;
        drawn(area.draw(&Text::new(name.clone(), (x + 15, 4), text(11))))?;
        x += 32 + 6 * name.chars().count() as i32;
    }
    let more = series.len().saturating_sub(NAMED);
    let more = if series.is_empty() {
        "no data".to_owned()
    } else if more > 0 {
        format!("and {more} more")
    } else {
        String::new()
    };
    drawn(area.draw(&Text::new(more, (x, 4), text(11))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DASHBOARD: &str = r#"{"title": "fleet", "panels": [
        {"id": 1, "type": "stat", "title": "Volumes", "gridPos": {"x": 0, "y": 0, "w": 4, "h": 4},
         "fieldConfig": {"defaults": {"unit": "short"}}, "targets": [{"refId": "A", "legendFormat": "volumes"}]},
        {"id": 2, "type": "timeseries", "title": "Round trip", "gridPos": {"x": 4, "y": 0, "w": 12, "h": 8},
         "fieldConfig": {"defaults": {"unit": "s"}},
         "targets": [{"refId": "A", "legendFormat": "{{server}}:{{port}}"}]}]}"#;
    const RUN: &str = r#"{"end": 60, "step": 5, "answers": {
        "1/A": [{"metric": {}, "values": [[0, 1], [60, 42]]}],
        "2/A": [{"metric": {"server": "<nfs>", "port": "2049"}, "values": [[0, 0.1], [10, 0.2], [15, 0.2]]}]}}"#;

    #[test]
    fn each_panel_is_drawn_with_its_last_value_or_its_lines_and_legend() {
        let svg = draw(DASHBOARD, RUN).unwrap();
        for part in ["fleet, in a run", "Volumes", ">\n42\n", "Round trip", "&lt;nfs&gt;:2049", "polyline"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("<script") && !svg.contains("no data"), "{svg}");
    }

    #[test]
    fn a_query_without_an_answer_is_an_error_and_an_empty_answer_is_said() {
        let complaint = format!("{:#}", draw(DASHBOARD, &RUN.replace("2/A", "3/A")).unwrap_err());
        assert!(complaint.contains("Round trip") && complaint.contains("2/A"), "{complaint}");
        let empty = r#"{"end": 2, "step": 1, "answers": {"1/A": [], "2/A": []}}"#;
        assert_eq!(draw(DASHBOARD, empty).unwrap().matches("no data").count(), 2);
    }
}
