//! Checks the records of snapshots against their trees and against the volumes that they back.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::check::groups::Groups;
use crate::check::progress::Progress;
use crate::check::volumes::Volumes;
use crate::error::Result;
use crate::export::Export;
use crate::export::fs::{Fs, Name};
use crate::export::layout::Layout;
use crate::snapshot::in_use;
use crate::snapshot::record::{Record, State};
use crate::volume::id::VolumeName;
use crate::volume::record_file::RecordFile as _;

/// Adds what is inconsistent in `.csi-nfs/snapshots`.
pub(super) async fn check<F: Fs>(
    export: &Export<F>,
    layout: &Layout<F>,
    volumes: &Volumes,
    progress: &Progress,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let mut entries: BTreeSet<Name> = export.names(&layout.snapshots).await?.into_iter().collect();
    let groups = Groups::take(export, &mut entries, findings).await?;
    let mut records = BTreeMap::new();
    let mut shown: BTreeSet<(&VolumeName, &VolumeName)> =
        volumes.iter().filter_map(|volume| Some((volume.backing_snapshot.as_deref()?, &volume.name))).collect();
    let files: Vec<Name> = entries.iter().filter(|entry| Record::of_file(entry).is_some()).cloned().collect();
    for file in files {
        progress.step();
        entries.remove(&file);
        let Some(name) = Record::of_file(&file) else { continue };
        let mut half_done = false;
        let state = match Record::read(export, &name).await {
            Ok(Some(record)) => {
                let state = record.state;
                half_done = groups.half_done(&record);
                records.insert(name.clone(), record);
                Some(state)
            }
            Ok(None) => continue,
            Err(error) => {
                findings.push(Finding::RecordUnreadable { file: file.to_string(), reason: error.to_string() });
                None
            }
        };
        let has_tree = entries.remove(&Record::tree(&name)?);
        let snapshot = name.to_string();
        let notes = Record::shown(&name)?;
        let mut live = false;
        if entries.remove(&notes)
            && let Some(dir) = export.find_dir(&layout.snapshots, [notes.clone()]).await?
        {
            for note in export.names(&dir).await? {
                if in_use::shows(export, &note, &name).await? {
                    live = true;
                    shown.retain(|(of, volume)| **of != name || volume.as_str().as_bytes() != note.as_bytes());
                } else {
                    findings.push(Finding::NoteStale { note: format!("{notes}/{note}") });
                }
            }
        }
        match state {
            _ if half_done => {}
            Some(State::Pending) => findings.push(Finding::SnapshotPending { snapshot }),
            Some(State::Deleted) if !live => findings.push(Finding::SnapshotUnused { snapshot }),
            Some(_) if !has_tree => findings.push(Finding::TreeMissing { snapshot }),
            _ => {}
        }
    }
    groups.compare(&records, findings);
    findings.extend(entries.into_iter().map(|entry| Finding::TreeUnrecorded { entry: entry.to_string() }));
    findings.extend(
        shown.into_iter().map(|(snapshot, volume)| Finding::NoteMissing {
            volume: volume.to_string(),
            snapshot: snapshot.to_string(),
        }),
    );
    Ok(())
}
