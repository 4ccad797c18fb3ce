//! Draws the pictures of the documentation as SVG: runs of the benchmark and tables of docs/benchmarks.md as bars and
//! lines, and the dashboards with what a real Prometheus answered in the end-to-end tests. What is drawn is in the
//! repository, so anybody can draw it again.
pub mod bars;
pub mod lines;
pub mod panels;
pub mod run;
pub mod table;
pub mod units;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::{Color as _, DrawingArea, RGBColor, Rectangle, SVGBackend, Text, WHITE};
use plotters::style::{IntoFont, TextStyle};

/// A part of a picture.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The colour of all text.
pub const INK: RGBColor = RGBColor(51, 51, 51);
/// The colours of series, in turn.
pub const COLOURS: [RGBColor; 6] = [
    RGBColor(42, 111, 176),
    RGBColor(214, 120, 40),
    RGBColor(70, 150, 80),
    RGBColor(170, 60, 90),
    RGBColor(120, 90, 170),
    RGBColor(130, 130, 130),
];

/// A text of this size in pixels.
pub fn text(size: i32) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size).into_font()).color(&INK)
}

/// Draws what each picture of figures begins with: its title, and when and how they were measured.
pub fn head(root: &Area<'_>, title: &str, when: &str) -> Result<()> {
    drawn(root.fill(&WHITE))?;
    drawn(root.draw(&Text::new(title.to_owned(), (16, 14), text(18))))?;
    drawn(root.draw(&Text::new(when.to_owned(), (16, 38), text(13))))
}

/// Draws what the colours of a picture stand for, from this place on to the right.
pub fn legend<'a>(root: &Area<'_>, (mut x, y): (i32, i32), names: impl Iterator<Item = &'a String>) -> Result<()> {
    for (name, colour) in names.zip(COLOURS) {
        drawn(root.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], colour.filled())))?;
        drawn(root.draw(&Text::new(name.clone(), (x + 18, y), text(13))))?;
        x += 40 + 7 * name.chars().count() as i32;
    }
    Ok(())
}

/// Draws an SVG of this size in pixels. Returns its text, which is the same each time.
pub fn svg(size: (u32, u32), draw: impl FnOnce(SVGBackend<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    draw(SVGBackend::with_string(&mut text, size))?;
    Ok(text)
}

/// The errors of plotters, which borrow nothing.
pub fn drawn<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("drawing: {error}"))
}

/// The repository's file or folder at `path`.
pub fn repository(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

/// The text of the repository's file at `path`.
pub fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(repository(path)).with_context(|| path.to_owned())
}

/// Each picture of the documentation: its path in the repository, and its SVG.
pub fn pictures() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let benchmarks = read("docs/benchmarks.md")?;
    for picture in &table::PICTURES {
        let drawn = picture.bars(&benchmarks).and_then(|bars| bars.draw()).with_context(|| picture.file.to_owned())?;
        found.push((format!("docs/pictures/{}.svg", picture.file), drawn));
    }
    for name in run::RUNS {
        let run = run::Run::read(&read(&format!("e2e/pictures/runs/{name}.json"))?).context(name)?;
        let drawn = run.draw(&table::section_with(&benchmarks, name)?).context(name)?;
        found.push((format!("docs/pictures/{name}.svg"), drawn));
    }
    for file in panels::DASHBOARDS {
        let name = Path::new(file).file_stem().and_then(OsStr::to_str).context(file)?;
        let dashboard = read(file)?;
        let run = read(&format!("e2e/pictures/runs/{name}.json"))?;
        found.push((format!("docs/pictures/{name}.svg"), panels::draw(&dashboard, &run).context(name)?));
    }
    Ok(found)
}
