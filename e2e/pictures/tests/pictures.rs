//! The pictures in docs/pictures are those that the program draws, and a document shows each.
use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use csi_nfs_e2e_pictures::{pictures, read, repository};

#[test]
fn the_pictures_of_the_documentation_are_up_to_date_and_shown() -> Result<()> {
    let drawn = pictures()?;
    for (path, svg) in &drawn {
        let kept = read(path).context("run make pictures")?;
        ensure!(kept == *svg, "{path} is not what is drawn from its data; run make pictures");
        ensure!(!svg.contains("<script") && !svg.contains("href"), "{path} refers to something outside of it");
    }
    let mut shown = BTreeSet::new();
    for document in ["docs/benchmarks.md", "docs/dashboards.md"] {
        let text = read(document)?;
        let links = text.split("](pictures/").skip(1).filter_map(|rest| rest.split(')').next());
        shown.extend(links.map(|name| format!("docs/pictures/{name}")));
    }
    let files = std::fs::read_dir(repository("docs/pictures"))?;
    let files: BTreeSet<_> =
        files.map(|file| Ok(format!("docs/pictures/{}", file?.file_name().display()))).collect::<Result<_>>()?;
    let drawn: BTreeSet<_> = drawn.into_iter().map(|(path, _)| path).collect();
    ensure!(drawn == files && drawn == shown, "drawn: {drawn:?}, in docs/pictures: {files:?}, shown: {shown:?}");
    Ok(())
}
