//! Tests with archives of GNU tar, and with hostile archives.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::Header;

use super::*;
use crate::snapshot::id::KnownId;
use crate::testing::crash_harness::reach;
use crate::testing::memory::{MemoryFs, MemoryServer, Node, Tree};

mod found;
mod gnu;
mod hostile;

fn connect(server: &MemoryServer) -> Arc<Export<MemoryFs>> {
    Arc::new(reach(server))
}

const CAPACITY_LIMIT: u64 = 64 << 20;

fn id(text: &str) -> ArchiveId {
    match KnownId::parse(text).unwrap() {
        KnownId::Archive(id) => id,
        KnownId::Own(id) => panic!("{id}"),
    }
}

/// The snapshot `s` of the volume `v`.
fn snapshot() -> ArchiveId {
    id("nfs#export#s#s#v")
}

/// Unpacks that snapshot. Returns the root and its staging directory.
async fn unpack_on<F: Fs>(export: &Arc<Export<F>>, limit: u64, how: &How) -> Result<(F::Handle, Stage<F>)> {
    let found = get(export, &snapshot()).await?;
    let stage = Stage::take(export, "r", &how.cancel).await?;
    let root = Archive::new(export.clone(), found, limit).unpack(&stage, how).await?;
    Ok((root, stage))
}

/// Unpacks these bytes, an archive without compression. Returns the tree.
async fn unpacked(tar: &[u8], limit: u64) -> Result<Tree> {
    unpacked_from("s/v.tar", tar, limit).await
}

async fn unpacked_from(file: &str, bytes: &[u8], limit: u64) -> Result<Tree> {
    let server = MemoryServer::new();
    server.plant("theirs/precious", Node::file(0o644, "kept")).unwrap();
    server.plant(file, Node::file(0o644, bytes)).unwrap();
    let export = connect(&server);
    let before = outside(&server);
    let result = unpack_on(&export, limit, &How::default()).await;
    assert_eq!(outside(&server), before, "only staging has changed");
    result.map(|_| server.tree().below(".csi-nfs/staging/r"))
}

fn outside(server: &MemoryServer) -> Tree {
    let mut tree = server.tree();
    tree.0.retain(|path, _| !path.starts_with(b".csi-nfs"));
    tree
}

/// A member of an archive. `kind` is the type flag of its header.
pub(crate) fn member(kind: u8, path: &[u8], link: &[u8], content: &[u8]) -> Vec<u8> {
    member_as(kind, path, link, content, |_| {})
}

fn member_as(kind: u8, path: &[u8], link: &[u8], content: &[u8], more: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o644);
    header.set_uid(1000);
    header.set_gid(2000);
    header.set_mtime(1_700_000_000);
    header.set_size(content.len() as u64);
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path);
    old.linkname[..link.len()].copy_from_slice(link);
    more(&mut header);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub(crate) fn file(path: &str, content: &str) -> Vec<u8> {
    member(b'0', path.as_bytes(), b"", content.as_bytes())
}

/// An archive of these members, with the end-of-archive blocks.
pub(crate) fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A pax header with these records.
fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut text = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let length = (rest.len()..).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
        text += &format!("{length}{rest}");
    }
    member(b'x', b"pax", b"", text.as_bytes())
}
