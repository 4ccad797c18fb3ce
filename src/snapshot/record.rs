//! What the driver remembers of a snapshot: a small JSON file in `.csi-nfs/snapshots`, named after the snapshot, beside the
//! tree.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Name};
use crate::snapshot::id::{GroupId, SnapshotId};
use crate::volume::id::VolumeName;

/// The form of the records that this driver writes. Reading refuses a newer one.
const VERSION: u32 = 1;

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being copied.
    Pending,
    /// It is there.
    Ready,
    /// It is deleted, and its tree stays for the volumes that show it.
    Deleted,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its identifier.
    pub id: SnapshotId,
    /// The identifier of the volume that it is of, as it was given.
    pub source: String,
    /// The bytes that a volume made from it has at least; 0 where that is not known.
    pub size: u64,
    /// When it was begun, in seconds since the epoch.
    pub created: u64,
    /// The options that the controller needs to mount the export.
    pub mount_options: Vec<String>,
    /// The group that it is a member of, on the same export. It is there when that group is.
    pub group: Option<VolumeName>,
    /// How far it is.
    pub state: State,
    /// Tells it from an earlier attempt at the same snapshot, while it is pending.
    pub attempt: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    version: u32,
    id: String,
    source: String,
    size: u64,
    #[serde(default)]
    mount_options: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    state: State,
    created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<u64>,
}

impl Record {
    /// The bytes of the file.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let json = Json {
            version: VERSION,
            id: self.id.to_string(),
            source: self.source.clone(),
            size: self.size,
            mount_options: self.mount_options.clone(),
            group: self.group.as_ref().map(VolumeName::to_string),
            state: self.state,
            created: self.created,
            attempt: self.attempt,
        };
        let failed = |e| Error::Internal(format!("writing the record of snapshot {}: {e}", self.id));
        serde_json::to_vec(&json).map_err(failed)
    }

    /// The record of the snapshot `name` from the bytes of its file.
    pub fn decode(name: &VolumeName, bytes: &[u8]) -> Result<Self> {
        let bad = |reason: String| {
            Error::Record(format!(
                "the record `.csi-nfs/snapshots/{name}.json` cannot be used: {reason}; restore the file, or remove it and `{name}.tree` beside it"
            ))
        };
        let json: Json = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if json.version > VERSION {
            return Err(bad(format!("it is of version {}, and this driver knows {VERSION}: upgrade it", json.version)));
        }
        let id = SnapshotId::parse(&json.id).map_err(|e| bad(e.to_string()))?;
        if id.name != *name {
            return Err(bad(format!("it is of another snapshot, {id}")));
        }
        let group = json.group.map(|group| VolumeName::parse("group", &group)).transpose();
        let group = group.map_err(|e| bad(e.to_string()))?;
        let Json { source, size, created, mount_options, state, attempt, .. } = json;
        Ok(Self { id, source, size, created, mount_options, group, state, attempt })
    }

    /// The identifier of the group that it is a member of.
    pub fn group_id(&self) -> Option<GroupId> {
        self.group.clone().map(|name| GroupId { export: self.id.export(), name })
    }

    /// The name of the record's file.
    pub fn file(name: &VolumeName) -> Result<Name> {
        name.file(".json")
    }

    /// The name of the tree.
    pub fn tree(name: &VolumeName) -> Result<Name> {
        name.file(".tree")
    }

    /// The name of the directory with the names of the volumes that show the tree.
    pub fn shown(name: &VolumeName) -> Result<Name> {
        name.file(".shown")
    }

    /// The snapshot whose record is in the file of that name; `None` for a file that is no record.
    pub fn snapshot(file: &Name) -> Option<VolumeName> {
        VolumeName::of_file(file, ".json")
    }

    /// Reads a snapshot's record; `None` where there is none.
    pub async fn read<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Option<Self>> {
        let Some(layout) = export.layout().await? else { return Ok(None) };
        let bytes = export.read_small(&layout.snapshots, &Self::file(name)?).await?;
        bytes.map(|bytes| Self::decode(name, &bytes)).transpose()
    }

    /// Writes the record, in place of one that is there. The caller holds the snapshot's lock.
    pub async fn write<F: Fs>(&self, export: &Export<F>) -> Result<()> {
        let layout = export.make_layout().await?;
        let name = &self.id.name;
        export.write_small_under(&lock_name(name), &layout.snapshots, &Self::file(name)?, self.encode()?).await
    }
}

/// What the lock of a snapshot's record is called. (No volume's name has a `#`.)
pub fn lock_name(name: &VolumeName) -> String {
    format!("#record#{name}")
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
            attempt: None,
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written_and_no_other_is_taken() {
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
        let member = Record { group, attempt: Some(u64::MAX), ..record() };
        assert_eq!(Record::decode(&name, &member.encode().unwrap()).unwrap(), member);
        let outside = String::from_utf8(member.encode().unwrap()).unwrap().replace("\"g\"", "\"../g\"");
        assert!(Record::decode(&name, outside.as_bytes()).is_err());
    }

    #[test]
    fn the_form_on_the_export_stays_readable() {
        insta::assert_snapshot!(String::from_utf8(record().encode().unwrap()).unwrap(), @r#"{"version":1,"id":"nfs#export#s###snapshot","source":"nfs#export#v##","size":1073741824,"mountOptions":["vers=4.2"],"state":"pending","created":1700000000}"#);
    }
}
