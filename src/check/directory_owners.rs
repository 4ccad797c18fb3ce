//! Checks the directory owners in `.csi-nfs/paths`, and the records of kept directories, against the volumes.

use std::collections::BTreeMap;

use super::Finding;
use crate::check::progress::Progress;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Kind, Name, Status};
use crate::export::layout::Layout;
use crate::nfs::source::SubDir;
use crate::volume::directory;
use crate::volume::directory_owners::kept_volume;
use crate::volume::id::VolumeName;
use crate::volume::record::Record;

/// Adds owners without volumes, volumes that are not recorded as owners, and kept directories. Returns the kept
/// directories, each with the name of its deleted volume.
pub(super) async fn check<F: Fs>(
    export: &Export<F>,
    layout: &Layout<F>,
    records: &BTreeMap<VolumeName, Record>,
    progress: &Progress,
    findings: &mut Vec<Finding>,
) -> Result<Vec<(VolumeName, SubDir)>> {
    let mut missing: BTreeMap<String, &Record> = records
        .iter()
        .filter(|(_, record)| record.id.uuid.is_some())
        .map(|(name, record)| (format!("{}/#/{name}", record.id.sub_dir), record))
        .collect();
    let mut all_kept = Vec::new();
    let mut open = vec![(layout.paths.clone(), String::new())];
    while let Some((dir, above)) = open.pop() {
        for name in export.names(&dir).await? {
            progress.step();
            let path = format!("{above}{name}");
            match export.find(&dir, &name).await? {
                Some((child, attr)) if attr.kind == Kind::Directory => open.push((child, format!("{path}/"))),
                Some(_) => match parse_kept(&above, &name) {
                    Some(kept) => all_kept.push(kept),
                    None if missing.remove(&path).is_none() => findings.push(Finding::OwnerStale { owner: path }),
                    None => {}
                },
                None => {}
            }
        }
    }
    findings.extend(missing.values().filter_map(|record| {
        Some(Finding::OwnerMissing { volume: record.id.name()?.to_string(), directory: record.id.sub_dir.to_string() })
    }));
    for (name, sub_dir) in &all_kept {
        let again = records.get(name).is_some_and(|record| record.id.sub_dir == *sub_dir);
        let (volume, directory) = (name.to_string(), sub_dir.to_string());
        let found = match directory::find(export, sub_dir).await {
            Err(Error::Export { status: Status::XDev, .. }) => None,
            found => Some(found?.is_some()),
        };
        findings.push(match found {
            None => Finding::OtherFileSystem { directory },
            Some(true) if !again => Finding::VolumeKept { volume, directory },
            Some(_) => Finding::KeptStale { volume, directory },
        });
    }
    Ok(all_kept)
}

/// The deleted volume and its directory, if this file in `.csi-nfs/paths` is the record of a kept directory.
fn parse_kept(above: &str, file: &Name) -> Option<(VolumeName, SubDir)> {
    Some((kept_volume(file)?, SubDir::parse("directory", above.strip_suffix("/#/")?).ok()?))
}
