//! The record of a group of snapshots: a small JSON file, `.csi-nfs/snapshots/NAME.group`, beside the records of the
//! group's snapshots.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::export::SMALL;
use crate::export::fs::Fs;
use crate::export::layout::Layout;
use crate::snapshot::id::{GroupId, SnapshotId};
use crate::snapshot::record::State;
use crate::volume::id::VolumeName;
use crate::volume::record_file::RecordFile;

/// A snapshot of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The snapshot's name.
    pub snapshot: VolumeName,
    /// The identifier of the source volume, as the caller wrote it.
    pub source: String,
    /// The least size in bytes of a volume restored from the snapshot; 0 if unknown.
    pub size: u64,
}

/// A group of snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupRecord {
    /// The group's identifier.
    pub id: GroupId,
    /// The group's snapshots, sorted by the identifiers of their source volumes.
    pub members: Vec<Member>,
    /// The options that the controller needs to mount the export.
    #[serde(default)]
    pub mount_options: Vec<String>,
    /// The state of the whole group. Its snapshots exist for callers only if it is ready.
    pub state: State,
    /// When the pending record was written, in seconds since the epoch.
    pub created: u64,
    /// A number that no other group of this name has had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

impl GroupRecord {
    /// The identifier of a snapshot of the group.
    pub fn snapshot_id(&self, member: &Member) -> SnapshotId {
        SnapshotId::new(&self.id.export, member.snapshot.clone())
    }

    /// Refuses a group with too many snapshots for one record: the driver could not read a larger record.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check_size(&self) -> Result<()> {
        // The name of a later state may be longer.
        if self.encode()?.len() + 16 > SMALL {
            let reason = format!("{} volumes are too many for one group; create several groups", self.members.len());
            return Err(Error::invalid("source_volume_ids", reason));
        }
        Ok(())
    }

    /// Refuses a list of identifiers that are not exactly the group's snapshots. The order does not matter.
    ///
    /// # Errors
    /// [`Error::Invalid`] (CSI: "Snapshot list mismatch").
    pub fn check_members(&self, snapshots: &[String]) -> Result<()> {
        let mut given: Vec<&str> = snapshots.iter().map(String::as_str).collect();
        let own: Vec<String> = self.members.iter().map(|member| self.snapshot_id(member).to_string()).collect();
        let mut own_sorted: Vec<&str> = own.iter().map(String::as_str).collect();
        given.sort_unstable();
        own_sorted.sort_unstable();
        if given == own_sorted {
            return Ok(());
        }
        let reason = format!("not the snapshots of group `{}`, which are {}", self.id, own.join(", "));
        Err(Error::invalid("snapshot_ids", reason))
    }
}

impl RecordFile for GroupRecord {
    const OF: &'static str = "group";
    const DIRECTORY: &'static str = "snapshots";
    const SUFFIX: &'static str = ".group";

    fn advice(_: &VolumeName) -> String {
        "restore the file, or remove it and delete the group's snapshots one by one".to_owned()
    }

    fn directory<F: Fs>(layout: &Layout<F>) -> &F::Handle {
        &layout.snapshots
    }

    // No volume's name has a `#`, so the lock is no volume's lock.
    fn lock_name(name: &VolumeName) -> String {
        format!("#group#{name}")
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

    fn record() -> GroupRecord {
        let member = |snapshot: &str, source: &str| Member {
            snapshot: VolumeName::parse("", snapshot).unwrap(),
            source: source.to_owned(),
            size: 1 << 30,
        };
        GroupRecord {
            id: GroupId::parse("nfs#export#g###group").unwrap(),
            members: vec![member("g-0", "nfs#export#v##"), member("g-1", "nfs#export#w##")],
            mount_options: vec!["vers=4.2".to_owned()],
            state: State::Ready,
            created: 1_700_000_000,
            generation: None,
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written_and_any_other_content_is_refused() {
        let name = VolumeName::parse("name", "g").unwrap();
        let bytes = record().encode().unwrap();
        assert_eq!(GroupRecord::decode(&name, &bytes).unwrap(), record());
        assert!(GroupRecord::decode(&name, &bytes[..bytes.len() - 1]).is_err());
        assert!(GroupRecord::decode(&VolumeName::parse("name", "h").unwrap(), &bytes).is_err());
        let text = String::from_utf8(bytes).unwrap();
        let newer = text.replace("\"version\":1", "\"version\":2");
        assert!(GroupRecord::decode(&name, newer.as_bytes()).unwrap_err().to_string().contains("upgrade"));
        assert!(GroupRecord::decode(&name, text.replace("g-1", "../g").as_bytes()).is_err());
    }

    #[test]
    fn the_form_on_the_export_stays_readable() {
        insta::assert_snapshot!(String::from_utf8(record().encode().unwrap()).unwrap(), @r#"{"version":1,"id":"nfs#export#g###group","members":[{"snapshot":"g-0","source":"nfs#export#v##","size":1073741824},{"snapshot":"g-1","source":"nfs#export#w##","size":1073741824}],"mountOptions":["vers=4.2"],"state":"ready","created":1700000000}"#);
    }

    #[test]
    fn the_list_of_its_snapshots_is_accepted_in_any_order_and_other_lists_are_refused() {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let (one, two) = ("nfs#export#g-0###snapshot", "nfs#export#g-1###snapshot");
        record().check_members(&ids(&[two, one])).unwrap();
        for other in [ids(&[]), ids(&[one]), ids(&[one, one]), ids(&[one, two, "x"])] {
            assert!(matches!(record().check_members(&other), Err(Error::Invalid { .. })), "{other:?}");
        }
    }

    #[test]
    fn a_group_with_too_many_snapshots_for_a_record_is_refused() {
        let mut many = record();
        many.members = vec![Member { source: "x".repeat(1000), ..many.members[0].clone() }; 100];
        assert!(matches!(many.check_size(), Err(Error::Invalid { .. })));
        record().check_size().unwrap();
        // The largest record that is accepted can be read in every later state, too.
        let sized = |bytes: usize| {
            let mut record = GroupRecord { state: State::Pending, ..record() };
            record.members[0].source = String::new();
            record.members[0].source = "x".repeat(bytes - record.encode().unwrap().len());
            record
        };
        assert!(sized(SMALL - 15).check_size().is_err());
        let largest = sized(SMALL - 16);
        largest.check_size().unwrap();
        for state in [State::Ready, State::Deleted] {
            assert!(GroupRecord { state, ..largest.clone() }.encode().unwrap().len() <= SMALL);
        }
    }
}
