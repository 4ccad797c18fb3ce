//! What is found on an export: records, the rest of the driver's private directory, and access control lists.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{assert_below, assert_presentable, run};
use crate::check::check;
use crate::export::Export;
use crate::export::copy::acl::plain;
use crate::nfs::options::MountOptions;
use crate::snapshot::group_record::GroupRecord;
use crate::snapshot::record::Record as SnapshotRecord;
use crate::testing::memory::{MemoryServer, Node};
use crate::volume::id::VolumeName;
use crate::volume::limits::Overcommit;
use crate::volume::overcommit;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile;

/// After this, a check only waits for an agent.
const WAIT: Duration = Duration::from_millis(20);

/// A record of a volume, a snapshot or a group reads back as it is written, and names nothing outside the share.
pub fn record(data: &[u8]) {
    if let Some(volume) = read::<Record>(data) {
        for name in volume.path().iter().flatten() {
            assert_below(&String::from_utf8_lossy(name.as_bytes()));
        }
        let limits = volume.limits();
        assert!(limits.bytes != Some(0) && limits.inodes != Some(0));
        let _: bool = MountOptions::parse("", &volume.mount_options).is_ok();
        for (_, label) in volume.kubernetes.iter().flat_map(|names| names.labels()) {
            assert!(!label.contains(|c: char| c == '"' || c == '\\' || c.is_control()));
        }
    }
    if let Some(snapshot) = read::<SnapshotRecord>(data) {
        assert!(snapshot.group_id().is_none_or(|group| group.export == snapshot.id.export()));
    }
    if let Some(group) = read::<GroupRecord>(data) {
        let members: Vec<String> = group.members.iter().map(|member| group.snapshot_id(member).to_string()).collect();
        assert!(group.check_members(&members).is_ok());
    }
}

fn read<R: RecordFile + DeserializeOwned + PartialEq + Debug>(data: &[u8]) -> Option<R> {
    let record = serde_json::from_slice::<R>(data).ok();
    let name = record.and_then(|record| record.name()).or_else(|| VolumeName::parse("", "pvc-1").ok())?;
    // Once written, it stays as it is. An identifier may be written in another form than it was read.
    let written = R::decode(&name, data).inspect_err(assert_presentable).ok()?.encode().unwrap();
    let record = R::decode(&name, &written).unwrap();
    assert_eq!(record.encode().unwrap(), written);
    Some(record)
}

/// `csi-nfs check` looks at any content of an export, and changes nothing.
///
/// Each line is an object: `PATH CONTENT` for a file, `PATH/` for a directory, and `PATH>TARGET` for a symbolic link.
pub fn private_directory(data: &[u8]) {
    let server = MemoryServer::new();
    run(async {
        let export = Export::new(super::export(), server.client(), Arc::default());
        export.make_layout().await.unwrap();
        for line in data.split(|byte| *byte == b'\n') {
            let mark = line.iter().position(|byte| b" >".contains(byte)).unwrap_or(line.len());
            let (path, content) = line.split_at(mark);
            let node = match (path.strip_suffix(b"/"), content.split_first()) {
                (Some(_), _) => Node::directory(0o755),
                (None, Some((b'>', target))) => Node::symlink(target),
                (None, content) => Node::file(0o600, content.map_or(&[][..], |(_, content)| content)),
            };
            // What no server could have is left out.
            let _ = server.plant(path.strip_suffix(b"/").unwrap_or(path), node);
        }
        let before = server.tree();
        let _ = timeout(WAIT, check(&export)).await;
        let _ = overcommit::indexed(&export).await;
        let _ = overcommit::left(&export, Overcommit::parse("", "1.0").ok()).await;
        assert_eq!(server.tree(), before);
    });
}

/// What is left of an access control list is shorter, and nothing of that has to go.
pub fn acl(data: &[u8]) {
    for name in [&b"system.nfs4_acl"[..], b"system.posix_acl_access", b"system.posix_acl_default"] {
        if let Some(less) = plain(name, data) {
            assert!(less.len() < data.len());
            assert_eq!(plain(name, &less), None);
        }
    }
}
