//! Reads the members of an archive one by one: tar(5), the pax format of POSIX, and the extensions of GNU tar.
//!
//! This module reads the blocks, and the tar crate parses the headers in them. The crate's own iterator is not safe
//! with hostile archives: it reads names and pax records of any length into memory, and reads to the end of the file.

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::Stop;
use crate::export::fs::{Attr, Fs, Kind, Name, Time};
use crate::nfs::text::excerpt;
use crate::snapshot::archive::input::Input;
use crate::snapshot::archive::pax::Pax;

const BLOCK: usize = 512;
/// The longest path of a member, in bytes.
const PATH: u64 = 32 << 10;
/// The longest pax header, in bytes.
const PAX: u64 = 1 << 20;
/// The most parts with data that a sparse file may have.
const PARTS: usize = 1 << 16;
/// The most bytes after an archive's end. GNU tar pads the file to a full record, which has 10 KiB by default.
const FILLING: usize = 1 << 20;

/// A member of an archive.
pub(super) struct Member {
    /// The member's path; empty for the root.
    pub(super) path: Vec<Name>,
    /// The kind of object to create.
    pub(super) what: What,
    /// The member's attributes. Its size, link count and file ID are not from the archive.
    pub(super) attr: Attr,
}

/// The kind of a member, with what only that kind has.
pub(super) enum What {
    Directory,
    File(Content),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A hard link to the object at this path.
    Link(Vec<Name>),
    /// A FIFO or a device.
    Special,
}

/// The content of a regular file.
pub(super) struct Content {
    /// The file's size in bytes, including holes.
    pub(super) size: u64,
    /// The number of bytes in the archive.
    pub(super) stored: u64,
    /// The offsets and lengths of the parts with data, in order.
    pub(super) parts: Vec<(u64, u64)>,
}

/// The members of an archive.
pub(super) struct Members<F: Fs> {
    input: Input<F>,
    /// The global pax header, for all members that follow it.
    global: Pax,
    /// How many bytes of the member's content, and of the padding of its last block, are not read yet.
    left: u64,
    filling: u64,
    /// How many more headers the archive may have.
    headers: u64,
}

impl<F: Fs> Members<F> {
    /// The members of an archive, which may have up to `most` headers.
    pub(super) fn new(input: Input<F>, most: u64) -> Self {
        Self { input, global: Pax::default(), left: 0, filling: 0, headers: most }
    }

    /// The next member, skipping the unread content of the last one. `None` at the end, when the whole file has been
    /// read.
    pub(super) async fn next(&mut self) -> Result<Option<Member>, Stop> {
        self.left += std::mem::take(&mut self.filling);
        while self.left > 0 {
            self.data(usize::MAX).await?;
        }
        let (mut pax, mut path, mut link) = (self.global.clone(), None, None);
        loop {
            let Some(header) = self.header().await? else { return Ok(None) };
            match header.entry_type().as_byte() {
                b'x' => pax.add(&self.text(&header, PAX).await?)?,
                b'g' => {
                    let text = self.text(&header, PAX).await?;
                    self.global.add(&text)?;
                    pax.add(&text)?;
                }
                b'L' => path = Some(name(self.text(&header, PATH).await?)),
                b'K' => link = Some(name(self.text(&header, PATH).await?)),
                _ => {
                    pax.path = pax.path.or(path);
                    pax.link = pax.link.or(link);
                    return self.member(&header, pax).await.map(Some);
                }
            }
        }
    }

    /// The next bytes of the member's content, at most `most`; empty at the end.
    pub(super) async fn data(&mut self, most: usize) -> Result<&[u8], Stop> {
        let most = most.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(&[]);
        }
        let data = self.input.take(most).await?;
        if data.is_empty() {
            return Err(too_short());
        }
        self.left -= data.len() as u64;
        Ok(data)
    }

    /// The next header; `None` after the last one.
    async fn header(&mut self) -> Result<Option<Header>, Stop> {
        let mut header = Header::new_old();
        self.block(header.as_mut_bytes()).await?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            let mut rest = 0;
            while rest <= FILLING {
                match self.input.take(FILLING).await?.len() {
                    0 => return Ok(None),
                    more => rest += more,
                }
            }
            return Err(Stop::damaged("has data after its end"));
        }
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let bytes = header.as_bytes();
        let expected = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
        if header.cksum().ok() != Some(expected) {
            return Err(Stop::damaged("is damaged or not a tar archive: the checksum of a header is wrong"));
        }
        self.headers = self.headers.checked_sub(1).ok_or(Stop::TooMany)?;
        Ok(Some(header))
    }

    async fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<(), Stop> {
        let mut filled = 0;
        while filled < BLOCK {
            let data = self.input.take(BLOCK - filled).await?;
            if data.is_empty() {
                return Err(too_short());
            }
            block[filled..filled + data.len()].copy_from_slice(data);
            filled += data.len();
        }
        Ok(())
    }

    /// The content of an extension header, which describes the next member.
    async fn text(&mut self, header: &Header, most: u64) -> Result<Vec<u8>, Stop> {
        let size = header.entry_size().map_err(damaged)?;
        if size > most {
            return Err(Stop::damaged(&format!("has a header of {size} bytes, and the driver reads at most {most}")));
        }
        self.left = size;
        let mut text = Vec::new();
        while text.len() as u64 != size {
            text.extend_from_slice(self.data(usize::MAX).await?);
        }
        self.left = padding(size);
        while self.left > 0 {
            self.data(usize::MAX).await?;
        }
        Ok(text)
    }

    async fn member(&mut self, header: &Header, pax: Pax) -> Result<Member, Stop> {
        if pax.sparse {
            return Err(Stop::damaged("has a sparse file in pax format, which the driver does not support"));
        }
        let bytes = pax.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        let path = components(&bytes)?;
        let kind = header.entry_type().as_byte();
        // Old formats mark a directory only by the slash at the end of its name.
        let kind = if matches!(kind, 0 | b'0') && bytes.ends_with(b"/") { b'5' } else { kind };
        let (what, kind) = self.what(header, &pax, kind).await?;
        if let What::File(content) = &what {
            if content.size.max(content.stored) > i64::MAX.cast_unsigned() {
                return Err(Stop::damaged("is damaged: it has a file of an impossible size"));
            }
            self.left = content.stored;
            self.filling = padding(content.stored);
        }
        if path.is_empty() && kind != Kind::Directory {
            return Err(Stop::damaged("has a root that is not a directory"));
        }
        Ok(Member { path, what, attr: attributes(header, &pax, kind)? })
    }

    /// What a member of this type is.
    async fn what(&mut self, header: &Header, pax: &Pax, kind: u8) -> Result<(What, Kind), Stop> {
        let link = || {
            let link = pax.link.clone().or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
            link.unwrap_or_default()
        };
        Ok(match kind {
            0 | b'0' | b'7' => {
                let size = pax.size.map_or_else(|| header.entry_size(), Ok).map_err(damaged)?;
                (What::File(Content { size, stored: size, parts: vec![(0, size)] }), Kind::File)
            }
            b'S' => (What::File(self.sparse(header).await?), Kind::File),
            b'1' => (What::Link(components(&link())?), Kind::File),
            b'2' => (What::Symlink(link()), Kind::Symlink),
            b'3' => (What::Special, Kind::CharDevice),
            b'4' => (What::Special, Kind::BlockDevice),
            b'5' => (What::Directory, Kind::Directory),
            b'6' => (What::Special, Kind::Fifo),
            other => {
                let shown = char::from(other).escape_default();
                return Err(Stop::damaged(&format!("has a member of type `{shown}`, which the driver does not know")));
            }
        })
    }

    /// The content of a sparse file in GNU tar's own format.
    async fn sparse(&mut self, header: &Header) -> Result<Content, Stop> {
        let gnu = header
            .as_gnu()
            .ok_or_else(|| Stop::damaged("is damaged: it has a sparse file that is not in GNU tar's format"))?;
        let (size, stored) = (gnu.real_size().map_err(damaged)?, header.entry_size().map_err(damaged)?);
        let mut parts: Vec<(u64, u64)> = Vec::new();
        let (mut end, mut held) = (0_u64, 0_u64);
        let mut add = |more: &[GnuSparseHeader]| {
            for part in more.iter().filter(|part| !part.is_empty()) {
                let (offset, length) = (part.offset().map_err(damaged)?, part.length().map_err(damaged)?);
                let next = offset.checked_add(length).filter(|next| offset >= end && *next <= size);
                end = next.ok_or_else(|| Stop::damaged("is damaged: the parts of a sparse file overlap"))?;
                // No overflow: the parts do not overlap, so their sum is at most the file's size.
                held += length;
                if length > 0 {
                    parts.push((offset, length));
                }
                if parts.len() > PARTS {
                    return Err(Stop::damaged("has a sparse file with more parts than the driver supports"));
                }
            }
            Ok(())
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.block(block.as_mut_bytes()).await?;
            add(block.sparse())?;
            more = block.is_extended();
            self.headers = self.headers.checked_sub(1).ok_or(Stop::TooMany)?;
        }
        if held != stored {
            return Err(Stop::damaged("is damaged: the parts of a sparse file do not add up to its data"));
        }
        Ok(Content { size, stored, parts })
    }
}

/// The attributes of a member of this kind.
fn attributes(header: &Header, pax: &Pax, kind: Kind) -> Result<Attr, Stop> {
    let owner = |said: Option<u64>, header: std::io::Result<u64>| {
        let id = said.map_or(header, Ok).map_err(damaged)?;
        let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        id.ok_or_else(|| Stop::damaged("has a member with an invalid owner"))
    };
    let mtime = match pax.mtime {
        Some(time) => time,
        // A number that is not octal is in two's complement.
        None => Time { seconds: header.mtime().map_err(damaged)?.cast_signed(), nanoseconds: 0 },
    };
    let device = match kind {
        Kind::CharDevice | Kind::BlockDevice => {
            let (major, minor) = (header.device_major().map_err(damaged)?, header.device_minor().map_err(damaged)?);
            (major.unwrap_or_default(), minor.unwrap_or_default())
        }
        _ => (0, 0),
    };
    Ok(Attr {
        kind,
        mode: header.mode().map_err(damaged)? & 0o7777,
        uid: owner(pax.uid, header.uid())?,
        gid: owner(pax.gid, header.gid())?,
        size: 0,
        used: 0,
        links: 1,
        fileid: 0,
        device,
        atime: pax.atime.unwrap_or(mtime),
        mtime,
    })
}

fn damaged(error: std::io::Error) -> Stop {
    // The text has parts of the header.
    Stop::damaged(&format!("is damaged: {}", excerpt(&error.to_string())))
}

/// The padding of the last block after so many bytes.
fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

/// Removes the NUL with which GNU tar ends names.
fn name(mut text: Vec<u8>) -> Vec<u8> {
    if text.last() == Some(&0) {
        text.pop();
    }
    text
}

/// The components of a path in the archive. A path may start with `./`.
fn components(path: &[u8]) -> Result<Vec<Name>, Stop> {
    let refuse = |why: &str| {
        let shown: String = path.escape_ascii().take(200).map(char::from).collect();
        Err(Stop::damaged(&format!("has the path `{shown}`, which {why}: the driver touches nothing outside a volume")))
    };
    if path.starts_with(b"/") {
        return refuse("is absolute");
    }
    if path.len() as u64 > PATH {
        return refuse("is longer than the driver supports");
    }
    let mut names = Vec::new();
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        match Name::new(part) {
            Ok(name) => names.push(name),
            Err(_) if part == b".." => return refuse("leads upwards"),
            Err(_) => return refuse("has a component that is not a valid name"),
        }
    }
    Ok(names)
}

fn too_short() -> Stop {
    Stop::damaged("is truncated, or is still being written")
}
