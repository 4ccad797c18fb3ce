//! What the driver remembers of a volume: a small JSON file in `.csi-nfs/volumes`, named after the volume.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::export::fs::{Fs, Name};
use crate::export::layout::Layout;
use crate::nfs::source::SubDir;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::limits::{Limits, Quota};
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::Attributes;
use crate::volume::record_file::{RecordFile, now};

/// What a volume was filled with when it was made (CSI `VolumeContentSource`): the identifier, as it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// A snapshot.
    Snapshot(String),
    /// Another volume.
    Volume(String),
}

/// A volume, as it was made and as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The volume's identifier, as CreateVolume answered it.
    pub id: VolumeId,
    /// Its capacity in bytes; 0 where none was asked.
    pub capacity: u64,
    /// What it was created with: a repeated CreateVolume is compared with it.
    pub created_with: Attributes,
    /// What ControllerModifyVolume made of that.
    pub attributes: Attributes,
    /// Whether ControllerModifyVolume said what becomes of the directory.
    pub on_delete_modified: bool,
    /// Whether its directory was there, with content, before it: only an explicit decision removes that directory.
    pub adopted: bool,
    /// The options that the controller needs to mount the export.
    pub mount_options: Vec<String>,
    /// When it was made, in seconds since the epoch.
    pub created: u64,
    /// What it was filled with; `None` for one that began empty.
    pub origin: Option<Origin>,
    /// The snapshot whose tree it shows, for reading, in place of a directory of its own.
    pub backing_snapshot: Option<VolumeName>,
    /// Whether it is still being filled: no volume yet, for anybody but a retry of its CreateVolume.
    pub pending: bool,
    /// The file ID of what is put in its place, while it is pending: a directory with another one is not its own.
    pub staged: Option<u64>,
    /// Tells it from an earlier attempt at the same volume, while it is pending.
    pub attempt: Option<u64>,
}

/// The form of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Json {
    id: String,
    capacity: u64,
    created_with: Attributes,
    attributes: Attributes,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    on_delete_modified: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    adopted: bool,
    #[serde(default)]
    mount_options: Vec<String>,
    created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "shows")]
    backing_snapshot: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pending: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    staged: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<u64>,
}

impl Record {
    /// The record of a volume that has none: made by hand or by csi-driver-nfs.
    pub fn unrecorded(id: &VolumeId) -> Self {
        Self {
            id: id.clone(),
            capacity: 0,
            created_with: Attributes::default(),
            attributes: Attributes { on_delete: id.on_delete, ..Attributes::default() },
            on_delete_modified: false,
            adopted: false,
            mount_options: Vec::new(),
            created: now(),
            origin: None,
            backing_snapshot: None,
            pending: false,
            staged: None,
            attempt: None,
        }
    }

    /// What becomes of the directory, where the volume's class or a VolumeAttributesClass says it in so many words; the
    /// driver's own default does not count.
    pub fn explicit_on_delete(&self) -> Option<OnDelete> {
        let explicit = self.created_with.on_delete.is_some() || self.on_delete_modified;
        self.attributes.on_delete.filter(|_| explicit)
    }

    /// The limits that the volume is to have.
    pub fn limits(&self) -> Limits {
        // A volume that shows a snapshot has no content of its own to limit.
        if self.attributes.quota == Some(Quota::None) || self.backing_snapshot.is_some() {
            return Limits::default();
        }
        Limits {
            bytes: Some(self.capacity).filter(|&bytes| bytes > 0),
            inodes: self.attributes.inodes.and_then(|inodes| inodes.of(self.capacity)),
        }
    }

    /// The names that lead to its content from the share.
    pub fn path(&self) -> Result<Vec<Name>> {
        match &self.backing_snapshot {
            Some(snapshot) => snapshot_tree(snapshot),
            None => Ok(self.id.sub_dir.names().collect()),
        }
    }
}

impl RecordFile for Record {
    type Json = Json;
    const OF: &'static str = "volume";
    const DIRECTORY: &'static str = "volumes";
    const SUFFIX: &'static str = ".json";

    fn advice(_: &VolumeName) -> String {
        "restore the file, or move it away and treat the volume as one without a record".to_owned()
    }

    fn directory<F: Fs>(layout: &Layout<F>) -> &F::Handle {
        &layout.volumes
    }

    fn lock_name(name: &VolumeName) -> String {
        name.to_string()
    }

    fn identifier(&self) -> String {
        self.id.to_string()
    }

    fn name(&self) -> Option<VolumeName> {
        self.id.name()
    }

    fn to_json(&self) -> Json {
        Json {
            id: self.id.to_string(),
            capacity: self.capacity,
            created_with: self.created_with,
            attributes: self.attributes,
            on_delete_modified: self.on_delete_modified,
            adopted: self.adopted,
            mount_options: self.mount_options.clone(),
            created: self.created,
            origin: self.origin.clone(),
            backing_snapshot: self.backing_snapshot.as_ref().map(VolumeName::to_string),
            pending: self.pending,
            staged: self.staged,
            attempt: self.attempt,
        }
    }

    fn from_json(json: Json) -> Result<Self> {
        Ok(Self {
            id: VolumeId::parse(&json.id)?,
            capacity: json.capacity,
            created_with: json.created_with,
            attributes: json.attributes,
            on_delete_modified: json.on_delete_modified,
            adopted: json.adopted,
            mount_options: json.mount_options,
            created: json.created,
            origin: json.origin,
            backing_snapshot: json.backing_snapshot.map(|name| VolumeName::parse("shows", &name)).transpose()?,
            pending: json.pending,
            staged: json.staged,
            attempt: json.attempt,
        })
    }
}

/// The names that lead to a snapshot's tree from the share.
pub fn snapshot_tree(snapshot: &VolumeName) -> Result<Vec<Name>> {
    Ok(SubDir::snapshot_tree("snapshot", snapshot.as_str())?.names().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::on_delete::OnDelete;

    fn record() -> Record {
        Record {
            id: VolumeId::parse("nfs#export#team/a#pvc-1#retain").unwrap(),
            capacity: 1 << 30,
            created_with: Attributes { mode: Some(0o770), ..Attributes::default() },
            attributes: Attributes { mode: Some(0o777), on_delete: Some(OnDelete::Archive), ..Attributes::default() },
            on_delete_modified: false,
            adopted: false,
            mount_options: vec!["vers=3".to_owned()],
            created: 1_700_000_000,
            origin: None,
            backing_snapshot: None,
            pending: false,
            staged: None,
            attempt: None,
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let name = VolumeName::parse("name", "pvc-1").unwrap();
        assert_eq!(Record::decode(&name, &record().encode().unwrap()).unwrap(), record());
    }

    #[test]
    fn a_record_that_is_torn_newer_or_of_another_volume_is_refused() {
        let name = VolumeName::parse("name", "pvc-1").unwrap();
        let bytes = record().encode().unwrap();
        assert!(Record::decode(&name, &bytes[..bytes.len() - 1]).is_err());
        assert!(Record::decode(&name, b"").is_err());
        assert!(Record::decode(&VolumeName::parse("name", "pvc-2").unwrap(), &bytes).is_err());
        let newer = String::from_utf8(bytes).unwrap().replace("\"version\":1", "\"version\":2");
        assert!(Record::decode(&name, newer.as_bytes()).unwrap_err().to_string().contains("upgrade"));
    }

    #[test]
    fn a_record_of_a_volume_that_was_filled_reads_back_as_it_was_written() {
        let name = VolumeName::parse("name", "pvc-1").unwrap();
        let origin = Some(Origin::Snapshot("nfs#export#s###snapshot".to_owned()));
        let filled = Record {
            origin,
            backing_snapshot: Some(name.clone()),
            pending: true,
            staged: Some(u64::MAX),
            attempt: Some(u64::MAX),
            ..record()
        };
        assert_eq!(Record::decode(&name, &filled.encode().unwrap()).unwrap(), filled);
        let outside = String::from_utf8(filled.encode().unwrap()).unwrap().replace("\"shows\":\"", "\"shows\":\"../");
        assert!(Record::decode(&name, outside.as_bytes()).is_err());
    }

    #[test]
    fn what_a_class_says_in_so_many_words_is_told_from_the_drivers_default() {
        let name = VolumeName::parse("name", "pvc-1").unwrap();
        let delete = Attributes { on_delete: Some(OnDelete::Delete), ..Attributes::default() };
        let by_default = Record { created_with: Attributes::default(), attributes: delete, ..record() };
        assert_eq!(by_default.explicit_on_delete(), None);
        let by_class = Record { created_with: delete, attributes: delete, adopted: true, ..record() };
        let modified = Record { on_delete_modified: true, ..by_default };
        for explicit in [by_class, modified] {
            let explicit = Record::decode(&name, &explicit.encode().unwrap()).unwrap();
            assert_eq!(explicit.explicit_on_delete(), Some(OnDelete::Delete));
        }
    }

    #[test]
    fn the_form_on_the_export_stays_readable() {
        insta::assert_snapshot!(String::from_utf8(record().encode().unwrap()).unwrap(), @r#"{"version":1,"id":"nfs#export#team/a#pvc-1#retain","capacity":1073741824,"createdWith":{"mode":504},"attributes":{"onDelete":"archive","mode":511},"mountOptions":["vers=3"],"created":1700000000}"#);
    }
}
