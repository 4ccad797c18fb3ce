//! Archives of csi-driver-nfs, unpacked on an export in memory.

use std::io::Read as _;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::{assert_presentable, run};
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::progress::Totals;
use crate::snapshot::archive::{Archive, get};
use crate::snapshot::id::ArchiveId;
use crate::snapshot::tree::{How, Stage};
use crate::testing::memory::{MemoryServer, Node, Tree};
use crate::volume::id::VolumeName;

/// The size of the volume in bytes. It allows files that are too large to be held in memory.
const LIMIT: u64 = 1 << 20;
const BLOCK: usize = 512;

/// An archive stays in its volume and within its size. The headers with a magic number get their right checksums, so
/// that a change of a header leads further than to its checksum.
pub fn archive(data: &[u8]) {
    let mut archive = data.to_vec();
    for header in archive.chunks_exact_mut(BLOCK).filter(|block| &block[257..262] == b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let _: Result<Totals> = unpack("s/v.tar", &archive);
}

/// A compressed archive has the same content as what another decompressor makes of it.
pub fn gzip(data: &[u8]) {
    let unpacked = unpack("s/v.tar.gz", data);
    let mut plain = Vec::new();
    let whole = MultiGzDecoder::new(data).take(LIMIT).read_to_end(&mut plain).is_ok();
    if whole && (plain.len() as u64) < LIMIT {
        assert_eq!(unpacked.ok(), unpack("s/v.tar", &plain).ok());
    }
}

/// Unpacks the snapshot that is in `file`.
fn unpack(file: &str, bytes: &[u8]) -> Result<Totals> {
    let server = MemoryServer::new();
    server.plant("theirs/precious", Node::file(0o644, "kept")).unwrap();
    server.plant(file, Node::file(0o644, bytes)).unwrap();
    run(async {
        let export = Arc::new(Export::new(super::export(), server.client(), Arc::default()));
        export.make_layout().await.unwrap();
        let before = outside(&server);
        let name = |name| VolumeName::parse("name", name).unwrap();
        let id = ArchiveId::new(export.source(), name("s"), name("v")).unwrap();
        let (found, how) = (get(&export, &id).await.unwrap(), How::default());
        let stage = Stage::take(&export, "r", &how.cancel).await.unwrap();
        let unpacked = Archive::new(export.clone(), found, LIMIT).unpack(&stage, &how).await;
        let totals = how.progress.totals();
        assert!(totals.bytes <= LIMIT, "{totals:?}");
        assert_eq!(outside(&server), before);
        match unpacked {
            Ok(_) => Ok(totals),
            Err(error @ (Error::Precondition(_) | Error::CapacityOutOfRange(_))) => {
                assert_presentable(&error);
                Err(error)
            }
            Err(error) => panic!("an archive is whole, damaged or too large: {error:?}"),
        }
    })
}

/// The export without what is being unpacked, whose files may have holes of any size.
fn outside(server: &MemoryServer) -> Tree {
    server.remove(".csi-nfs/staging/r").unwrap();
    server.tree()
}
