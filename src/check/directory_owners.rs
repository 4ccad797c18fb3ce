//! Checks the directory owners in `.csi-nfs/paths`, and the records of kept directories, against the volumes.

use std::collections::BTreeSet;

use super::Finding;
use crate::check::progress::Progress;
use crate::check::volumes::Volumes;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Status};
use crate::export::layout::Layout;
use crate::nfs::source::SubDir;
use crate::volume::claims::{self, Entries};
use crate::volume::directory;
use crate::volume::id::VolumeName;

/// Adds owners without volumes, volumes that are not recorded as owners, and kept directories. Returns the kept
/// directories, each with the name of its deleted volume.
pub(super) async fn check<F: Fs>(
    export: &Export<F>,
    layout: &Layout<F>,
    volumes: &Volumes,
    progress: &Progress,
    findings: &mut Vec<Finding>,
) -> Result<Vec<(VolumeName, SubDir)>> {
    let mut missing: BTreeSet<&VolumeName> =
        volumes.iter().filter(|volume| volume.is_owner).map(|volume| &volume.name).collect();
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
                match volumes.get(&claim.volume).filter(|volume| volume.sub_dir() == sub_dir.as_str()) {
                    Some(volume) => drop(missing.remove(&volume.name)),
                    None => findings
                        .push(Finding::OwnerStale { volume: claim.volume.to_string(), directory: sub_dir.to_string() }),
                }
            }
            all_kept.extend(kept.into_iter().map(|name| (name, sub_dir.clone())));
        }
    }
    findings.extend(missing.into_iter().filter_map(|name| volumes.get(name)).map(|volume| Finding::OwnerMissing {
        volume: volume.name.to_string(),
        directory: volume.sub_dir().to_owned(),
    }));
    for (name, sub_dir) in &all_kept {
        let again = volumes.get(name).is_some_and(|volume| volume.sub_dir() == sub_dir.as_str());
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
