//! What callers give back to the driver: identifiers, and tokens of lists.

use super::{assert_below, assert_presentable};
use crate::nfs::source::{Source, SubDir};
use crate::service::controller::list::Token;
use crate::snapshot::id::{GroupId, KnownId, SnapshotId};
use crate::volume::id::VolumeId;
use crate::volume::on_delete::OnDelete;
use crate::volume::whole_export::WholeExport;

/// The identifier of a volume names a directory below its share, and reads back as it was written.
pub fn volume_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let whole = WholeExport::parse(text);
    match VolumeId::parse(text) {
        Ok(id) => {
            assert_below(id.sub_dir.as_str());
            assert_ne!(id.sub_dir.first(), SubDir::PRIVATE);
            assert_export(&id.export());
            assert_eq!(id.sub_dir.names().count(), id.sub_dir.as_str().split('/').count());
            // An identifier does not say `delete`, which is the same as to say nothing.
            let written = VolumeId { on_delete: id.on_delete.filter(|policy| *policy != OnDelete::Delete), ..id };
            let text = written.to_string();
            assert_eq!(VolumeId::parse(&text).as_ref(), Ok(&written));
            assert!(VolumeId::is_generated(&text));
            assert_eq!(whole, None, "a directory is no whole export");
            let json = serde_json::to_vec(&written).unwrap();
            assert_eq!(serde_json::from_slice::<VolumeId>(&json).unwrap(), written);
        }
        Err(error) => assert_presentable(&error),
    }
    if let Some(whole) = whole {
        assert_export(&whole.export);
        assert_eq!(WholeExport::parse(&whole.to_string()), Some(whole));
    }
    if let Err(error) = VolumeId::parse_existing(text) {
        assert_presentable(&error);
    }
}

/// The identifier of a snapshot or of a group reads back as it was written, and is no other object's.
pub fn snapshot_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let group = GroupId::parse(text);
    match KnownId::parse(text) {
        Ok(id) => {
            assert_export(&id.export());
            assert_eq!(KnownId::parse(&id.to_string()).as_ref(), Ok(&id));
            assert!(group.is_err(), "a snapshot is no group");
            match &id {
                KnownId::Own(own) => {
                    assert_eq!(SnapshotId::parse(text).as_ref(), Ok(own));
                    assert!(VolumeId::parse(text).is_err(), "a snapshot is no volume");
                    assert!(WholeExport::parse(text).is_none(), "a snapshot is no volume");
                }
                KnownId::Archive(archive) => {
                    assert_below(archive.name.as_str());
                    assert_ne!(archive.name.as_str(), SubDir::PRIVATE);
                    assert_below(archive.source.as_str());
                }
            }
        }
        Err(error) => assert_presentable(&error),
    }
    match group {
        Ok(id) => {
            assert_export(&id.export);
            assert_eq!(GroupId::parse(&id.to_string()), Ok(id));
            assert!(VolumeId::parse(text).is_err(), "a group is no volume");
        }
        Err(error) => assert_presentable(&error),
    }
}

/// A token of a list reads back as it was written.
pub fn list_token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Token::parse(text) {
        Ok(token) => assert_eq!(Token::parse(&token.to_string()), Ok(token)),
        Err(error) => assert_presentable(&error),
    }
}

fn assert_export(export: &Source) {
    let share = export.share.as_str();
    if !share.is_empty() {
        assert_below(share);
    }
    assert!(share.split('/').all(|name| name != SubDir::PRIVATE));
    assert!(!export.server.as_str().contains(['/', '#', ',', ' ']));
}
