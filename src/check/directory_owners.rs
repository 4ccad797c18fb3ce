//! Checks the directory owners in `.csi-nfs/paths`, and the records of kept directories, against the volumes.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::check::progress::Progress;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Status};
use crate::export::layout::Layout;
use crate::nfs::source::SubDir;
use crate::volume::claims::{self, Entries};
use crate::volume::directory;
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
    let mut missing: BTreeSet<(&VolumeName, &SubDir)> = records
        .iter()
        .filter(|(_, record)| record.id.uuid.is_some())
        .map(|(name, record)| (name, &record.id.sub_dir))
        .collect();
    let mut all_kept = Vec::new();
    let mut open = vec![(layout.paths.clone(), String::new())];
    while let Some((dir, above)) = open.pop() {
        for name in claims::inside(export, &dir).await? {
            progress.step();
            let path = format!("{above}{name}");
            let Entries { claims, kept, node } = claims::read(export, &dir, &name).await?;
            open.extend(node.map(|node| (node, format!("{path}/"))));
            let Ok(sub_dir) = SubDir::parse("directory", &path) else { continue };
            for claim in claims {
                let recorded = records.get_key_value(&claim.volume);
                match recorded.filter(|(_, record)| record.id.sub_dir == sub_dir) {
                    Some((name, record)) => drop(missing.remove(&(name, &record.id.sub_dir))),
                    None => findings
                        .push(Finding::OwnerStale { volume: claim.volume.to_string(), directory: sub_dir.to_string() }),
                }
            }
            all_kept.extend(kept.into_iter().map(|name| (name, sub_dir.clone())));
        }
    }
    findings.extend(missing.into_iter().map(|(volume, directory)| Finding::OwnerMissing {
        volume: volume.to_string(),
        directory: directory.to_string(),
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
