//! Pictures of lines: what something takes or reaches, by a number that grows tenfold from mark to mark.
use anyhow::{Result, ensure};
use plotters::prelude::*;

use crate::table::Figure;
use crate::units::written;
use crate::{COLOURS, INK, drawn, head, legend, svg, text};

/// A picture of lines.
pub struct Lines {
    /// What the picture says about itself.
    pub title: String,
    /// When and how the figures were measured.
    pub when: String,
    /// What the numbers count that the figures are at.
    pub axis: String,
    /// The unit of the figures, one of Grafana's.
    pub unit: &'static str,
    /// Each line: what it is, and its figures by the number.
    pub lines: Vec<(String, Vec<(f64, Figure)>)>,
}

const SIZE: (i32, i32) = (860, 420);
const TOP: i32 = 64;
const LEGEND: i32 = 28;

impl Lines {
    /// The SVG of the picture. Both axes begin where the reader expects it: the numbers at the least, the figures at 0.
    pub fn draw(&self) -> Result<String> {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let (least, most) = points().fold((f64::MAX, 0.0_f64), |(low, high), (at, _)| (low.min(*at), high.max(*at)));
        let top = points().map(|(_, figure)| figure.highest()).fold(0.0, f64::max) * 1.08;
        ensure!(least < most && top > 0.0, "nothing to draw");
        svg((SIZE.0 as u32, SIZE.1 as u32), |backend| {
            let root = backend.into_drawing_area();
            head(&root, &self.title, &self.when)?;
            let plot = root.clone().shrink((0, TOP), (SIZE.0, SIZE.1 - TOP - LEGEND));
            let mut chart = drawn(
                ChartBuilder::on(&plot)
                    .x_label_area_size(40)
                    .y_label_area_size(72)
                    .margin_right(40)
                    .build_cartesian_2d((least..most).log_scale(), 0.0..top),
            )?;
            let mut mesh = chart.configure_mesh();
            let mesh = mesh.label_style(text(12)).axis_style(INK.mix(0.4)).bold_line_style(INK.mix(0.12));
            let mesh = mesh.light_line_style(TRANSPARENT).x_desc(&self.axis).axis_desc_style(text(13));
            let number = |at: &f64| written(at.round(), "short");
            drawn(mesh.x_label_formatter(&number).y_label_formatter(&|value| written(*value, self.unit)).draw())?;
            for ((_, points), colour) in self.lines.iter().zip(COLOURS) {
                let line = points.iter().map(|(at, figure)| (*at, figure.value));
                drawn(chart.draw_series(LineSeries::new(line.clone(), colour.stroke_width(2))))?;
                drawn(chart.draw_series(line.map(|point| Circle::new(point, 3, colour.filled()))))?;
                let ranges = points.iter().filter_map(|(at, figure)| Some((*at, figure.range?)));
                let range = |(at, (low, high))| PathElement::new([(at, low), (at, high)], colour);
                drawn(chart.draw_series(ranges.map(range)))?;
            }
            legend(&root, (72, SIZE.1 - LEGEND + 6), self.lines.iter().map(|(name, _)| name))?;
            drawn(root.present())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::figure;

    #[test]
    fn each_line_has_its_points_its_ranges_and_its_name() {
        let points =
            |cells: [&str; 2]| [10.0, 1000.0].into_iter().zip(cells.map(|cell| figure(cell).unwrap())).collect();
        let lines =
            vec![("<ours>".into(), points(["4 ms (3 to 5)", "5 ms"])), ("bare".into(), points(["1 ms", "2 ms"]))];
        let lines = Lines { title: "Calls".into(), when: "today".into(), axis: "volumes".into(), unit: "ms", lines };
        let svg = lines.draw().unwrap();
        for part in ["Calls", "today", "volumes", "&lt;ours&gt;", "bare", ">\n10\n", ">\n1000\n"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 4);
    }
}
