//! The record of a volume: a small JSON file in `.csi-nfs/volumes`, named after the volume.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::export::fs::{Fs, Name};
use crate::export::layout::Layout;
use crate::nfs::source::SubDir;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::kubernetes::KubernetesNames;
use crate::volume::limits::{Limits, Quota};
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::Attributes;
use crate::volume::record_file::{RecordFile, now};

/// The source of a volume's content (CSI `VolumeContentSource`): its identifier, as the caller gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// A snapshot.
    Snapshot(String),
    /// Another volume.
    Volume(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(id) => write!(f, "snapshot `{id}`"),
            Self::Volume(id) => write!(f, "volume `{id}`"),
        }
    }
}

/// A volume, as it was created and as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The volume's identifier, as CreateVolume returned it.
    pub id: VolumeId,
    /// The capacity in bytes; 0 if none was requested.
    pub capacity: u64,
    /// The attributes that CreateVolume requested. A retried CreateVolume is compared with them.
    pub created_with: Attributes,
    /// The attributes now: those requested, with the driver's defaults, as ControllerModifyVolume has changed them.
    pub attributes: Attributes,
    /// Whether ControllerModifyVolume set `onDelete`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_delete_modified: bool,
    /// Whether the directory existed, with content, before the volume. Only an explicit `onDelete` removes such a
    /// directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// The options that the controller needs to mount the export.
    #[serde(default)]
    pub mount_options: Vec<String>,
    /// When the volume was created, in seconds since the epoch.
    pub created: u64,
    /// The source of the content; `None` for a volume that was created empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The snapshot whose tree the volume has, for reading only, instead of a directory of its own.
    #[serde(default, rename = "shows", skip_serializing_if = "Option::is_none")]
    pub backing_snapshot: Option<VolumeName>,
    /// Whether the volume is still being filled. Then it exists only for a retry of its CreateVolume.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// While the volume is pending: the file ID of the directory that is renamed into its place. A directory with
    /// another file ID is not the volume's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<u64>,
    /// A number that no other volume of this name has had. `None` for a volume that was not created by this driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What Kubernetes calls the volume, if CreateVolume said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesNames>,
}

impl Record {
    /// A record for a volume that has none, because it was made by hand or by csi-driver-nfs.
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
            generation: None,
            kubernetes: None,
        }
    }

    /// What happens to the directory on deletion, if the volume's class or a VolumeAttributesClass sets it. The
    /// driver's default does not count.
    pub fn explicit_on_delete(&self) -> Option<OnDelete> {
        let explicit = self.created_with.on_delete.is_some() || self.on_delete_modified;
        self.attributes.on_delete.filter(|_| explicit)
    }

    /// The limits that the agent should enforce for the volume.
    pub fn limits(&self) -> Limits {
        // A volume that is backed by a snapshot has no content of its own to limit.
        if self.attributes.quota == Some(Quota::None) || self.backing_snapshot.is_some() {
            return Limits::default();
        }
        Limits {
            bytes: Some(self.capacity).filter(|&bytes| bytes > 0),
            inodes: self.attributes.inodes.and_then(|inodes| inodes.of(self.capacity)),
        }
    }

    /// The path from the share to the volume's content.
    pub fn path(&self) -> Result<Vec<Name>> {
        match &self.backing_snapshot {
            Some(snapshot) => snapshot_tree(snapshot),
            None => Ok(self.id.sub_dir.names().collect()),
        }
    }
}

impl RecordFile for Record {
    const OF: &'static str = "volume";
    const DIRECTORY: &'static str = "volumes";
    const SUFFIX: &'static str = ".json";

    fn advice(_: &VolumeName) -> String {
        "restore the file from a backup, or move it away: without a record, the volume continues to work by its ID"
            .to_owned()
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
}

/// The path from the share to a snapshot's tree.
pub fn snapshot_tree(snapshot: &VolumeName) -> Result<Vec<Name>> {
    Ok(SubDir::snapshot_tree("snapshot", snapshot.as_str())?.names().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::kubernetes::CLAIM;
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
            generation: None,
            kubernetes: None,
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
    fn a_message_about_a_damaged_record_is_short_and_escaped() {
        let name = VolumeName::parse("name", "pvc-1").unwrap();
        let text = String::from_utf8(record().encode().unwrap()).unwrap();
        let hostile = text.replace("\"archive\"", &format!("\"\\u001b[2J{}\"", "x".repeat(1 << 16)));
        let error = Record::decode(&name, hostile.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(r"\u{1b}[2J") && error.len() < 1024, "{error}");
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
            generation: Some(u64::MAX),
            kubernetes: KubernetesNames::of(&[(CLAIM.to_owned(), "data".to_owned())].into()),
            ..record()
        };
        assert!(filled.kubernetes.is_some());
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
