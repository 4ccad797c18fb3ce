//! Attributes (`fattr4`): the server's side of [`crate::nfs4::attributes`].

use super::compound::Request;
use super::session::LEASE;
use super::state::StateId;
use super::{Done, Refused};
use crate::export::fs::{Fs as _, FsResult, FsStat, SetAttr, Time};
use crate::nfs4::attributes::attribute::*;
use crate::nfs4::attributes::{bitmap, has, number};
use crate::nfs4::codes::{Code, op};
use crate::nfs4::xdr::{Reader, Writer};
use crate::testing::memory::MemoryFs;

const SUPPORTED: [u32; 25] = [
    SUPPORTED_ATTRS,
    TYPE,
    SIZE,
    FSID,
    LEASE_TIME,
    RDATTR_ERROR,
    FILEID,
    FILES_AVAIL,
    FILES_FREE,
    FILES_TOTAL,
    MAXREAD,
    MAXWRITE,
    MODE,
    NUMLINKS,
    OWNER,
    OWNER_GROUP,
    RAWDEV,
    SPACE_AVAIL,
    SPACE_FREE,
    SPACE_TOTAL,
    SPACE_USED,
    TIME_ACCESS,
    TIME_ACCESS_SET,
    TIME_MODIFY,
    TIME_MODIFY_SET,
];
/// MAXREAD and MAXWRITE: small, so that tests need more than one READ or WRITE.
const MAX: u64 = 64 << 10;
/// The most words of a bitmap.
const BITMAP: usize = 8;
const BADOWNER: Code = Code(10_039);

impl Request<'_> {
    /// GETATTR, SETATTR, VERIFY and NVERIFY.
    pub(super) async fn attributes(&mut self, operation: u32, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let (fs, at) = (&self.service.fs, self.at()?);
        match operation {
            op::GETATTR => Ok(write(fs, at, &from.list(BITMAP)?, to).await?),
            op::SETATTR => {
                let state = StateId::read(from)?;
                let (set, attributes) = read(from)?;
                // The size is set through an open file.
                let object = if set.size.is_some() { self.opened(state)? } else { fs.object(at) };
                fs.setattr(&object, set).await?;
                to.list(&attributes);
                Ok(())
            }
            _ => {
                let (wanted, values) = (from.list(BITMAP)?, from.opaque(usize::MAX)?);
                let (mut here, mut there) = (Writer::default(), Writer::default());
                write(fs, at, &wanted, &mut here).await?;
                there.list(&wanted).opaque(values);
                match (operation == op::VERIFY, here.0 == there.0) {
                    (true, false) => Err(Refused(Code::NOT_SAME)),
                    (false, true) => Err(Refused(Code::SAME)),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Writes those attributes of an object that are wanted and known.
pub(super) async fn write(fs: &MemoryFs, at: u64, wanted: &[u32], to: &mut Writer) -> FsResult<()> {
    let object = fs.object(at);
    let attr = fs.getattr(&object).await?;
    let figures = [FILES_AVAIL, FILES_FREE, FILES_TOTAL, SPACE_AVAIL, SPACE_FREE, SPACE_TOTAL];
    let stat =
        if figures.iter().any(|figure| has(wanted, *figure)) { fs.statfs(&object).await? } else { FsStat::default() };
    let known: Vec<u32> = [&SUPPORTED[..], &[XATTR_SUPPORT]].concat();
    let present: Vec<u32> = known.iter().copied().filter(|attribute| has(wanted, *attribute)).collect();
    let mut values = Writer::default();
    for attribute in &present {
        match *attribute {
            SUPPORTED_ATTRS => values.list(&bitmap(&known)),
            TYPE => values.u32(number(attr.kind)),
            SIZE => values.u64(attr.size),
            FSID => values.u64(1).u64(0),
            LEASE_TIME => values.u32(LEASE.as_secs() as u32),
            FILEID => values.u64(attr.fileid),
            FILES_AVAIL | FILES_FREE => values.u64(stat.free_inodes),
            FILES_TOTAL => values.u64(stat.total_inodes),
            MAXREAD | MAXWRITE => values.u64(MAX),
            MODE => values.u32(attr.mode),
            NUMLINKS => values.u32(attr.links as u32),
            OWNER => values.opaque(attr.uid.to_string().as_bytes()),
            OWNER_GROUP => values.opaque(attr.gid.to_string().as_bytes()),
            RAWDEV => values.u32(attr.device.0).u32(attr.device.1),
            SPACE_AVAIL => values.u64(stat.available_bytes),
            SPACE_FREE => values.u64(stat.free_bytes),
            SPACE_TOTAL => values.u64(stat.total_bytes),
            SPACE_USED => values.u64(attr.used),
            TIME_ACCESS => values.i64(attr.atime.seconds).u32(attr.atime.nanoseconds),
            TIME_MODIFY => values.i64(attr.mtime.seconds).u32(attr.mtime.nanoseconds),
            XATTR_SUPPORT => values.bool(true),
            // RDATTR_ERROR: there was none.
            _ => values.u32(0),
        };
    }
    to.list(&bitmap(&present)).opaque(&values.0);
    Ok(())
}

/// Reads attributes to set, and which ones these are.
pub(super) fn read(from: &mut Reader<'_>) -> Done<(SetAttr, Vec<u32>)> {
    let (attributes, values) = (from.list(BITMAP)?, from.opaque(usize::MAX)?);
    let (mut set, mut values) = (SetAttr::default(), Reader::new(values));
    for attribute in (0..).take(attributes.len() * 32).filter(|attribute| has(&attributes, *attribute)) {
        match attribute {
            SIZE => set.size = Some(values.u64()?),
            MODE => set.mode = Some(values.u32()?),
            OWNER => set.uid = Some(owner(&mut values)?),
            OWNER_GROUP => set.gid = Some(owner(&mut values)?),
            TIME_ACCESS_SET => set.atime = Some(time(&mut values)?),
            TIME_MODIFY_SET => set.mtime = Some(time(&mut values)?),
            _ => return Err(Refused(Code::ATTRNOTSUPP)),
        }
    }
    Ok((set, attributes))
}

fn owner(from: &mut Reader<'_>) -> Done<u32> {
    let name = std::str::from_utf8(from.opaque(1024)?).map_err(|_| Refused(BADOWNER))?;
    name.parse().map_err(|_| Refused(BADOWNER))
}

/// A time of the client (SET_TO_CLIENT_TIME4).
fn time(from: &mut Reader<'_>) -> Done<Time> {
    match from.u32()? {
        1 => Ok(Time { seconds: from.i64()?, nanoseconds: from.u32()? }),
        _ => Err(Refused(Code::INVAL)),
    }
}
