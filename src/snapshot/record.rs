//! The record of a snapshot: a small JSON file, `.csi-nfs/snapshots/NAME.json`, beside the snapshot's tree.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::export::fs::{Fs, Name};
use crate::export::layout::Layout;
use crate::snapshot::id::{GroupId, SnapshotId};
use crate::volume::id::VolumeName;
use crate::volume::record_file::RecordFile;

/// The state of a snapshot or of a group of snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The copy is not complete.
    Pending,
    /// The copy is complete.
    Ready,
    /// Deleted, but not removed: the deletion is not finished, or volumes are still backed by the snapshot's tree.
    Deleted,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The snapshot's identifier.
    pub id: SnapshotId,
    /// The identifier of the source volume, as the caller wrote it.
    pub source: String,
    /// The least size in bytes of a volume restored from the snapshot; 0 if unknown.
    pub size: u64,
    /// The options that the controller needs to mount the export.
    #[serde(default)]
    pub mount_options: Vec<String>,
    /// The group that the snapshot belongs to, on the same export. The snapshot has the state of that group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<VolumeName>,
    /// The state of this snapshot alone.
    pub state: State,
    /// When the pending record was written, in seconds since the epoch.
    pub created: u64,
    /// A number that no other snapshot of this name has had; the group's number for a member of a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

impl Record {
    /// The identifier of the group that the snapshot belongs to.
    pub fn group_id(&self) -> Option<GroupId> {
        self.group.clone().map(|name| GroupId { export: self.id.export(), name })
    }

    /// The file name of the snapshot's tree.
    pub fn tree(name: &VolumeName) -> Result<Name> {
        name.file(".tree")
    }

    /// The file name of the directory with a note for each volume that the snapshot's tree backs.
    pub fn shown(name: &VolumeName) -> Result<Name> {
        name.file(".shown")
    }
}

impl RecordFile for Record {
    const OF: &'static str = "snapshot";
    const DIRECTORY: &'static str = "snapshots";
    const SUFFIX: &'static str = ".json";

    fn advice(name: &VolumeName) -> String {
        format!("restore the file, or remove it and `{name}.tree` beside it")
    }

    fn directory<F: Fs>(layout: &Layout<F>) -> &F::Handle {
        &layout.snapshots
    }

    // No volume's name has a `#`, so the lock is no volume's lock.
    fn lock_name(name: &VolumeName) -> String {
        format!("#record#{name}")
    }

    fn identifier(&self) -> String {
        self.id.to_string()
    }

    fn name(&self) -> Option<VolumeName> {
        Some(self.id.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            id: SnapshotId::parse("nfs#export#s###snapshot").unwrap(),
            source: "nfs#export#v##".to_owned(),
            size: 1 << 30,
            created: 1_700_000_000,
            mount_options: vec!["vers=4.2".to_owned()],
            group: None,
            state: State::Pending,
            generation: None,
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written_and_any_other_content_is_refused() {
        let name = VolumeName::parse("name", "s").unwrap();
        let bytes = record().encode().unwrap();
        assert_eq!(Record::decode(&name, &bytes).unwrap(), record());
        assert!(Record::decode(&name, &bytes[..bytes.len() - 1]).is_err());
        assert!(Record::decode(&VolumeName::parse("name", "t").unwrap(), &bytes).is_err());
        let newer = String::from_utf8(bytes).unwrap().replace("\"version\":1", "\"version\":2");
        assert!(Record::decode(&name, newer.as_bytes()).unwrap_err().to_string().contains("upgrade"));
    }

    #[test]
    fn a_member_of_a_group_reads_back_as_it_was_written() {
        let name = VolumeName::parse("name", "s").unwrap();
        let group = Some(VolumeName::parse("name", "g").unwrap());
        let member = Record { group, generation: Some(u64::MAX), ..record() };
        assert_eq!(Record::decode(&name, &member.encode().unwrap()).unwrap(), member);
        let outside = String::from_utf8(member.encode().unwrap()).unwrap().replace("\"g\"", "\"../g\"");
        assert!(Record::decode(&name, outside.as_bytes()).is_err());
    }

    #[test]
    fn the_form_on_the_export_stays_readable() {
        insta::assert_snapshot!(String::from_utf8(record().encode().unwrap()).unwrap(), @r#"{"version":1,"id":"nfs#export#s###snapshot","source":"nfs#export#v##","size":1073741824,"mountOptions":["vers=4.2"],"state":"pending","created":1700000000}"#);
    }
}
