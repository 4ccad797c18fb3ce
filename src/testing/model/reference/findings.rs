//! What `csi-nfs check` may report in a state, and what it must report.

use std::collections::BTreeSet;

use super::State;
use super::snapshots::Phase;
use crate::check::Finding;

impl State {
    /// Whether an export in this state may have these findings. If a fault occurred before (`troubled`), there may be
    /// additional findings about leftovers that hold no data of a volume or a snapshot.
    pub fn explains(&self, findings: &[Finding], troubled: bool) -> bool {
        let reported =
            |of: fn(&Finding) -> Option<(&str, &str)>| findings.iter().filter_map(of).collect::<BTreeSet<_>>();
        let missing = reported(|finding| match finding {
            Finding::DirectoryMissing { volume, directory } => Some((volume, directory)),
            _ => None,
        });
        let kept = reported(|finding| match finding {
            Finding::VolumeKept { volume, directory } => Some((volume, directory)),
            _ => None,
        });
        let whole = self.volumes.iter().filter(|(_, volume)| volume.is_whole() && !self.files.has(volume.id.dir));
        missing == whole.map(|(name, volume)| (*name, volume.id.dir)).collect()
            && kept == self.kept.iter().filter(|(_, dir)| self.files.has(dir)).copied().collect()
            && findings.iter().all(|finding| self.explains_one(finding, troubled))
    }

    fn explains_one(&self, finding: &Finding, troubled: bool) -> bool {
        let owned =
            |directory: &str| self.volumes.values().any(|volume| volume.is_whole() && volume.id.dir == directory);
        match finding {
            // These are compared above.
            Finding::DirectoryMissing { .. } | Finding::VolumeKept { .. } => true,
            Finding::DirectoryUnrecorded { directory } => self.files.has(directory) && !owned(directory),
            Finding::VolumePending { volume } => {
                self.volumes.get(volume.as_str()).is_some_and(|volume| !volume.is_whole())
            }
            Finding::SnapshotPending { snapshot } => {
                self.snapshots.get(snapshot.as_str()).is_some_and(|snapshot| !snapshot.ready)
            }
            Finding::GroupPending { group } => self.group_is(group, Phase::Pending),
            Finding::GroupDeleted { group } => self.group_is(group, Phase::Deleted),
            Finding::SnapshotUnused { snapshot } => troubled && !self.snapshots.contains_key(snapshot.as_str()),
            Finding::KeptStale { volume, directory } => {
                troubled || self.kept.iter().any(|kept| *kept == (volume, directory)) && !self.files.has(directory)
            }
            Finding::OwnerStale { .. }
            | Finding::TreeUnrecorded { .. }
            | Finding::GroupMissing { .. }
            | Finding::StagingLeftover { .. }
            | Finding::TrashLeftover { .. } => troubled,
            _ => false,
        }
    }

    fn group_is(&self, name: &str, phase: Phase) -> bool {
        self.groups.get(name).is_some_and(|group| group.phase == phase)
    }
}
