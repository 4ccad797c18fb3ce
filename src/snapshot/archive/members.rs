//! The members of an archive, one after the other: tar(5), what POSIX calls pax, and what GNU tar adds.
//!
//! The crate's own iterator takes names and pax records into memory whatever length the archive claims, and knows no end but
//! that of the file; so the blocks are read here, and what they hold is left to the crate.

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::Stop;
use crate::export::fs::{Attr, Fs, Kind, Name, Time};
use crate::snapshot::archive::input::Input;
use crate::snapshot::archive::pax::Pax;

const BLOCK: usize = 512;
/// The longest path of a member, and the longest pax header, in bytes.
const PATH: u64 = 32 << 10;
const PAX: u64 = 1 << 20;
/// The most parts with data of a sparse file.
const PARTS: usize = 1 << 16;
/// What follows an archive's end up to that of its file: GNU tar fills up a record, of 10 KiB where nobody says otherwise.
const FILLING: usize = 1 << 20;

/// Something in an archive.
pub(super) struct Member {
    /// The names that lead to it from the root; none for the root itself.
    pub(super) path: Vec<Name>,
    /// What it is to be.
    pub(super) what: What,
    /// Its attributes; size, links and numbers are none of the archive's.
    pub(super) attr: Attr,
}

/// What a member is.
pub(super) enum What {
    Directory,
    File(Content),
    /// A symbolic link, and its target.
    Symlink(Vec<u8>),
    /// One more name of what is at that path.
    Link(Vec<Name>),
    /// A FIFO or a device.
    Special,
}

/// The content of a regular file.
pub(super) struct Content {
    /// Bytes, holes included.
    pub(super) size: u64,
    /// Bytes in the archive.
    pub(super) stored: u64,
    /// The beginnings and lengths of its parts with data, in order.
    pub(super) parts: Vec<(u64, u64)>,
}

/// An archive's members.
pub(super) struct Members<F: Fs> {
    input: Input<F>,
    /// What a pax header said of all that follow.
    global: Pax,
    /// What is left of the member's content, and of what fills its last block.
    left: u64,
    filling: u64,
    /// Headers that may still come.
    headers: u64,
}

impl<F: Fs> Members<F> {
    /// Those of an archive, which may have up to `most`.
    pub(super) fn new(input: Input<F>, most: u64) -> Self {
        Self { input, global: Pax::default(), left: 0, filling: 0, headers: most }
    }

    /// The next member; what is left of the last one's content is passed over. `None` after the last one, when all of the
    /// file has been seen.
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

    /// Some bytes of the member's content, at most `most`; none at its end.
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
            return Err(Stop::damaged("goes on after its end"));
        }
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let bytes = header.as_bytes();
        let expected = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
        if header.cksum().ok() != Some(expected) {
            return Err(Stop::damaged("is damaged, or no archive: the checksum of a header does not fit"));
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

    /// The content of a header that says something of the next one.
    async fn text(&mut self, header: &Header, most: u64) -> Result<Vec<u8>, Stop> {
        let size = header.entry_size().map_err(|error| Stop::damaged(&format!("is damaged: {error}")))?;
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
            return Err(Stop::damaged("has a sparse file in the form of pax, which the driver does not read"));
        }
        let wrong = |error: std::io::Error| Stop::damaged(&format!("is damaged: {error}"));
        let bytes = pax.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let path = components(&bytes)?;
        let link = pax.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let kind = header.entry_type().as_byte();
        // A directory, before there was a type for it.
        let kind = if matches!(kind, 0 | b'0') && bytes.ends_with(b"/") { b'5' } else { kind };
        let mut device = (0, 0);
        let (what, kind) = match kind {
            0 | b'0' | b'7' => {
                let size = pax.size.map_or_else(|| header.entry_size(), Ok).map_err(wrong)?;
                (What::File(Content { size, stored: size, parts: vec![(0, size)] }), Kind::File)
            }
            b'S' => (What::File(self.sparse(header).await?), Kind::File),
            b'1' => (What::Link(components(&link)?), Kind::File),
            b'2' => (What::Symlink(link), Kind::Symlink),
            b'3' | b'4' => {
                let number = |number: Option<u32>| number.unwrap_or_default();
                device = (number(header.device_major().map_err(wrong)?), number(header.device_minor().map_err(wrong)?));
                (What::Special, if kind == b'3' { Kind::CharDevice } else { Kind::BlockDevice })
            }
            b'5' => (What::Directory, Kind::Directory),
            b'6' => (What::Special, Kind::Fifo),
            other => {
                let shown = char::from(other).escape_default();
                return Err(Stop::damaged(&format!("has a member of type `{shown}`, which the driver does not know")));
            }
        };
        if let What::File(content) = &what {
            if content.size.max(content.stored) > i64::MAX.cast_unsigned() {
                return Err(Stop::damaged("is damaged: it has a file that is longer than any can be"));
            }
            self.left = content.stored;
            self.filling = padding(content.stored);
        }
        if path.is_empty() && kind != Kind::Directory {
            return Err(Stop::damaged("has a root that is no directory"));
        }
        let owner = |said: Option<u64>, header: std::io::Result<u64>| {
            let id = said.map_or(header, Ok).map_err(wrong)?;
            let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
            id.ok_or_else(|| Stop::damaged("has a member with an owner that cannot be"))
        };
        let mtime = match pax.mtime {
            Some(time) => time,
            // The number is of two's complement where it is not octal.
            None => Time { seconds: header.mtime().map_err(wrong)?.cast_signed(), nanoseconds: 0 },
        };
        let attr = Attr {
            kind,
            mode: header.mode().map_err(wrong)? & 0o7777,
            uid: owner(pax.uid, header.uid())?,
            gid: owner(pax.gid, header.gid())?,
            size: 0,
            used: 0,
            links: 1,
            fileid: 0,
            device,
            atime: pax.atime.unwrap_or(mtime),
            mtime,
        };
        Ok(Member { path, what, attr })
    }

    /// The content of a sparse file, as GNU tar writes it in its own form.
    async fn sparse(&mut self, header: &Header) -> Result<Content, Stop> {
        let wrong = |error: std::io::Error| Stop::damaged(&format!("is damaged: {error}"));
        let gnu = header
            .as_gnu()
            .ok_or_else(|| Stop::damaged("is damaged: it has a sparse file that is none of GNU tar's"))?;
        let (size, stored) = (gnu.real_size().map_err(wrong)?, header.entry_size().map_err(wrong)?);
        let mut parts: Vec<(u64, u64)> = Vec::new();
        let (mut end, mut held) = (0_u64, 0_u64);
        let mut add = |more: &[GnuSparseHeader]| {
            for part in more.iter().filter(|part| !part.is_empty()) {
                let (offset, length) = (part.offset().map_err(wrong)?, part.length().map_err(wrong)?);
                let next = offset.checked_add(length).filter(|next| offset >= end && *next <= size);
                end = next.ok_or_else(|| Stop::damaged("is damaged: the parts of a sparse file overlap"))?;
                // All lie in a file, so their sum is at most its size.
                held += length;
                if length > 0 {
                    parts.push((offset, length));
                }
                if parts.len() > PARTS {
                    return Err(Stop::damaged("has a sparse file of more parts than the driver reads"));
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
            return Err(Stop::damaged("is damaged: the parts of a sparse file are not as long as its data"));
        }
        Ok(Content { size, stored, parts })
    }
}

/// What fills the last block of so many bytes.
fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

/// GNU tar ends names with a NUL.
fn name(mut text: Vec<u8>) -> Vec<u8> {
    if text.last() == Some(&0) {
        text.pop();
    }
    text
}

/// The names of a path inside the archive, with or without a `./` in front.
fn components(path: &[u8]) -> Result<Vec<Name>, Stop> {
    let refuse = |why: &str| {
        let shown: String = path.escape_ascii().take(200).map(char::from).collect();
        Err(Stop::damaged(&format!("names `{shown}`, which {why}: nothing outside a volume is touched")))
    };
    if path.starts_with(b"/") {
        return refuse("is absolute");
    }
    if path.len() as u64 > PATH {
        return refuse("is longer than the driver reads");
    }
    let mut names = Vec::new();
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        match Name::new(part) {
            Ok(name) => names.push(name),
            Err(_) if part == b".." => return refuse("leads upwards"),
            Err(_) => return refuse("has a part that is no name"),
        }
    }
    Ok(names)
}

fn too_short() -> Stop {
    Stop::damaged("ends before its end: it was cut off, or is still being written")
}
