//! Attributes as they go over the wire (`fattr4`; RFC 8881, section 5, and RFC 8276).

use crate::nfs::attributes::{Attr, Kind, SetAttr, Time};
use crate::nfs4::xdr::{Malformed, Read, Reader, Writer};

/// The attributes that this client knows, by their numbers.
pub mod attribute {
    pub const SUPPORTED_ATTRS: u32 = 0;
    pub const TYPE: u32 = 1;
    pub const SIZE: u32 = 4;
    pub const FSID: u32 = 8;
    pub const LEASE_TIME: u32 = 10;
    pub const RDATTR_ERROR: u32 = 11;
    pub const ACL: u32 = 12;
    pub const FILEID: u32 = 20;
    pub const FILES_AVAIL: u32 = 21;
    pub const FILES_FREE: u32 = 22;
    pub const FILES_TOTAL: u32 = 23;
    pub const MAXREAD: u32 = 30;
    pub const MAXWRITE: u32 = 31;
    pub const MODE: u32 = 33;
    pub const NUMLINKS: u32 = 35;
    pub const OWNER: u32 = 36;
    pub const OWNER_GROUP: u32 = 37;
    pub const RAWDEV: u32 = 41;
    pub const SPACE_AVAIL: u32 = 42;
    pub const SPACE_FREE: u32 = 43;
    pub const SPACE_TOTAL: u32 = 44;
    pub const SPACE_USED: u32 = 45;
    pub const TIME_ACCESS: u32 = 47;
    pub const TIME_ACCESS_SET: u32 = 48;
    pub const TIME_MODIFY: u32 = 53;
    pub const TIME_MODIFY_SET: u32 = 54;
    pub const XATTR_SUPPORT: u32 = 82;
}
use attribute::*;

/// What `Attr` needs, and the file system.
pub const OBJECT: [u32; 13] = [
    TYPE,
    SIZE,
    FSID,
    FILEID,
    MODE,
    NUMLINKS,
    OWNER,
    OWNER_GROUP,
    RAWDEV,
    SPACE_USED,
    TIME_ACCESS,
    TIME_MODIFY,
    RDATTR_ERROR,
];

/// The most words of a bitmap: version 4.2 has three.
const BITMAP: usize = 8;
/// The most bytes of a user's or group's name.
const OWNER_NAME: usize = 1024;
/// The most bytes of an access control list, as of an extended attribute on Linux.
const LIST: usize = 64 << 10;

/// Sets of attributes: a bit for each number.
pub fn bitmap(attributes: &[u32]) -> Vec<u32> {
    let mut words = Vec::new();
    for attribute in attributes {
        let word = (attribute / 32) as usize;
        words.resize(words.len().max(word + 1), 0);
        words[word] |= 1 << (attribute % 32);
    }
    words
}

/// Whether an attribute is in the set.
pub fn has(bitmap: &[u32], attribute: u32) -> bool {
    bitmap.get((attribute / 32) as usize).is_some_and(|word| word & (1 << (attribute % 32)) != 0)
}

/// The number of an object's kind (`nfs_ftype4`).
pub fn number(kind: Kind) -> u32 {
    match kind {
        Kind::File => 1,
        Kind::Directory => 2,
        Kind::BlockDevice => 3,
        Kind::CharDevice => 4,
        Kind::Symlink => 5,
        Kind::Socket => 6,
        Kind::Fifo => 7,
    }
}

/// The kind of this number.
pub fn kind(number: u32) -> Read<Kind> {
    let kinds =
        [Kind::File, Kind::Directory, Kind::BlockDevice, Kind::CharDevice, Kind::Symlink, Kind::Socket, Kind::Fifo];
    kinds.into_iter().find(|kind| self::number(*kind) == number).ok_or(Malformed)
}

/// The user or group that a server names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// By its number.
    Number(u32),
    /// By a name, which this client has no way to give a number to.
    Name(String),
}

/// Attributes that a server returned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    pub supported: Option<Vec<u32>>,
    pub kind: Option<Kind>,
    pub size: Option<u64>,
    pub fsid: Option<(u64, u64)>,
    pub lease_time: Option<u32>,
    pub acl: Option<Vec<u8>>,
    pub fileid: Option<u64>,
    pub files: [Option<u64>; 3],
    pub maxread: Option<u64>,
    pub maxwrite: Option<u64>,
    pub mode: Option<u32>,
    pub numlinks: Option<u32>,
    pub owner: Option<Owner>,
    pub owner_group: Option<Owner>,
    pub rawdev: Option<(u32, u32)>,
    pub space: [Option<u64>; 3],
    pub space_used: Option<u64>,
    pub atime: Option<Time>,
    pub mtime: Option<Time>,
    pub xattr_support: Option<bool>,
}

impl Attributes {
    /// Reads `fattr4`.
    ///
    /// # Errors
    /// An attribute that this client does not know and so did not ask for, or one that is cut short.
    pub fn read(reader: &mut Reader<'_>) -> Read<Self> {
        let (bitmap, values) = (reader.list(BITMAP)?, reader.opaque(usize::MAX)?);
        let mut values = Reader::new(values);
        let mut read = Self::default();
        for attribute in (0..).take(bitmap.len() * 32).filter(|attribute| has(&bitmap, *attribute)) {
            read.read_one(attribute, &mut values)?;
        }
        if values.rest().is_empty() { Ok(read) } else { Err(Malformed) }
    }

    fn read_one(&mut self, attribute: u32, from: &mut Reader<'_>) -> Read<()> {
        match attribute {
            SUPPORTED_ATTRS => self.supported = Some(from.list(BITMAP)?),
            TYPE => self.kind = Some(kind(from.u32()?)?),
            SIZE => self.size = Some(from.u64()?),
            FSID => self.fsid = Some((from.u64()?, from.u64()?)),
            LEASE_TIME => self.lease_time = Some(from.u32()?),
            RDATTR_ERROR => _ = from.u32()?,
            ACL => self.acl = Some(acl(from)?),
            FILEID => self.fileid = Some(from.u64()?),
            FILES_AVAIL => self.files[0] = Some(from.u64()?),
            FILES_FREE => self.files[1] = Some(from.u64()?),
            FILES_TOTAL => self.files[2] = Some(from.u64()?),
            MAXREAD => self.maxread = Some(from.u64()?),
            MAXWRITE => self.maxwrite = Some(from.u64()?),
            MODE => self.mode = Some(from.u32()?),
            NUMLINKS => self.numlinks = Some(from.u32()?),
            OWNER => self.owner = Some(owner(from)?),
            OWNER_GROUP => self.owner_group = Some(owner(from)?),
            RAWDEV => self.rawdev = Some((from.u32()?, from.u32()?)),
            SPACE_AVAIL => self.space[0] = Some(from.u64()?),
            SPACE_FREE => self.space[1] = Some(from.u64()?),
            SPACE_TOTAL => self.space[2] = Some(from.u64()?),
            SPACE_USED => self.space_used = Some(from.u64()?),
            TIME_ACCESS => self.atime = Some(time(from)?),
            TIME_MODIFY => self.mtime = Some(time(from)?),
            XATTR_SUPPORT => self.xattr_support = Some(from.bool()?),
            _ => return Err(Malformed),
        }
        Ok(())
    }

    /// The attributes of an object, if all are there that an object must have (`OBJECT`). An owner that the server
    /// names otherwise than by number is malformed here: a connection is only made to servers that use numbers.
    pub fn object(&self) -> Read<Attr> {
        let id = |owner: &Option<Owner>| match owner {
            Some(Owner::Number(id)) => Ok(*id),
            _ => Err(Malformed),
        };
        let kind = self.kind.ok_or(Malformed)?;
        Ok(Attr {
            kind,
            mode: self.mode.ok_or(Malformed)? & 0o7777,
            uid: id(&self.owner)?,
            gid: id(&self.owner_group)?,
            size: self.size.ok_or(Malformed)?,
            used: self.space_used.ok_or(Malformed)?,
            links: self.numlinks.ok_or(Malformed)?.into(),
            fileid: self.fileid.ok_or(Malformed)?,
            device: match kind {
                Kind::CharDevice | Kind::BlockDevice => self.rawdev.ok_or(Malformed)?,
                _ => (0, 0),
            },
            atime: self.atime.ok_or(Malformed)?,
            mtime: self.mtime.ok_or(Malformed)?,
        })
    }
}

fn time(from: &mut Reader<'_>) -> Read<Time> {
    let time = Time { seconds: from.i64()?, nanoseconds: from.u32()? };
    if time.nanoseconds < 1_000_000_000 { Ok(time) } else { Err(Malformed) }
}

fn owner(from: &mut Reader<'_>) -> Read<Owner> {
    let name = from.opaque(OWNER_NAME)?;
    let number = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    Ok(number.map_or_else(|| Owner::Name(String::from_utf8_lossy(name).into_owned()), Owner::Number))
}

/// The bytes of a list, which is what Linux shows as `system.nfs4_acl`: a count, and entries of three numbers and a name.
fn acl(from: &mut Reader<'_>) -> Read<Vec<u8>> {
    let whole = from.rest();
    for _ in 0..from.u32()? {
        let _entry = (from.u32()?, from.u32()?, from.u32()?, from.opaque(OWNER_NAME)?);
    }
    let list = &whole[..whole.len() - from.rest().len()];
    if list.len() <= LIST { Ok(list.to_vec()) } else { Err(Malformed) }
}

/// Attributes to set (`fattr4`).
#[derive(Debug, Clone, Default)]
pub struct Values {
    bitmap: Vec<u32>,
    values: Writer,
}

impl Values {
    /// The values of `set`, all in one.
    pub fn of(set: &SetAttr) -> Self {
        let mut all = Self::default();
        if let Some(size) = set.size {
            all.add(SIZE).u64(size);
        }
        if let Some(mode) = set.mode {
            all.add(MODE).u32(mode);
        }
        for (attribute, id) in [(OWNER, set.uid), (OWNER_GROUP, set.gid)] {
            if let Some(id) = id {
                all.add(attribute).opaque(id.to_string().as_bytes());
            }
        }
        for (attribute, time) in [(TIME_ACCESS_SET, set.atime), (TIME_MODIFY_SET, set.mtime)] {
            if let Some(time) = time {
                // SET_TO_CLIENT_TIME4
                all.add(attribute).u32(1).i64(time.seconds).u32(time.nanoseconds);
            }
        }
        all
    }

    /// A mode.
    pub fn mode(mode: u32) -> Self {
        Self::of(&SetAttr { mode: Some(mode), ..SetAttr::default() })
    }

    /// A kind, for VERIFY and NVERIFY.
    pub fn kind(kind: Kind) -> Self {
        let mut all = Self::default();
        all.add(TYPE).u32(number(kind));
        all
    }

    /// An access control list, as `Attributes::acl` has it.
    pub fn acl(list: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(list);
        let list = acl(&mut reader).ok().filter(|_| reader.rest().is_empty())?;
        let mut all = Self::default();
        all.add(ACL).fixed(&list);
        Some(all)
    }

    /// Notes an attribute, whose value has to be written next. The order of calls is that of the numbers.
    fn add(&mut self, attribute: u32) -> &mut Writer {
        for (word, more) in bitmap(&[attribute]).into_iter().enumerate() {
            self.bitmap.resize(self.bitmap.len().max(word + 1), 0);
            self.bitmap[word] |= more;
        }
        &mut self.values
    }

    /// Writes `fattr4`.
    pub fn write(&self, to: &mut Writer) {
        to.list(&self.bitmap).opaque(&self.values.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bitmap_has_a_bit_for_each_attribute() {
        assert_eq!(bitmap(&[TYPE, SIZE, MODE, XATTR_SUPPORT]), [1 << 1 | 1 << 4, 1 << 1, 1 << 18]);
        assert_eq!(bitmap(&[]), [0_u32; 0]);
        assert!(has(&bitmap(&[MODE]), MODE) && !has(&bitmap(&[MODE]), XATTR_SUPPORT));
    }

    #[test]
    fn what_is_set_is_written_in_the_order_of_the_numbers() {
        let time = Time { seconds: -2, nanoseconds: 3 };
        let set = SetAttr {
            size: Some(7),
            mode: Some(0o644),
            uid: Some(1000),
            gid: Some(0),
            atime: Some(time),
            mtime: Some(time),
        };
        let mut writer = Writer::default();
        Values::of(&set).write(&mut writer);
        let mut reader = Reader::new(&writer.0);
        let all = [SIZE, MODE, OWNER, OWNER_GROUP, TIME_ACCESS_SET, TIME_MODIFY_SET];
        assert_eq!(reader.list(3), Ok(bitmap(&all)));
        let mut values = Reader::new(reader.opaque(100).unwrap());
        assert_eq!((values.u64(), values.u32()), (Ok(7), Ok(0o644)));
        assert_eq!((values.opaque(9), values.opaque(9)), (Ok(&b"1000"[..]), Ok(&b"0"[..])));
        for _ in 0..2 {
            assert_eq!((values.u32(), super::time(&mut values)), (Ok(1), Ok(time)));
        }
        assert!(values.rest().is_empty() && reader.rest().is_empty());
    }

    #[test]
    fn a_list_that_is_none_is_not_set() {
        let mut list = Writer::default();
        list.u32(1).u32(0).u32(0).u32(0x1f).opaque(b"OWNER@");
        assert!(Values::acl(&list.0).is_some());
        for bad in [&list.0[..list.0.len() - 1], &[&list.0[..], &[0; 4]].concat(), &[]] {
            assert!(Values::acl(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn an_owner_is_a_number_or_a_name() {
        for (text, expected) in [
            ("65534", Owner::Number(65_534)),
            ("root@example.org", Owner::Name("root@example.org".into())),
            ("4294967296", Owner::Name("4294967296".into())),
        ] {
            let mut writer = Writer::default();
            writer.opaque(text.as_bytes());
            assert_eq!(owner(&mut Reader::new(&writer.0)), Ok(expected));
        }
    }

    proptest! {
        #[test]
        fn no_attributes_make_the_reader_panic(
            bitmap in prop::collection::vec(any::<u32>(), 0..4),
            values: Vec<u8>,
        ) {
            let mut writer = Writer::default();
            writer.list(&bitmap).opaque(&values);
            if let Ok(read) = Attributes::read(&mut Reader::new(&writer.0)) {
                let _: Read<Attr> = read.object();
            }
        }

        #[test]
        fn attributes_are_read_as_they_were_written(mode in 0_u32..0o10000, uid: u32, gid: u32, size: u64) {
            let mut writer = Writer::default();
            Values::of(&SetAttr { size: Some(size), mode: Some(mode), uid: Some(uid), gid: Some(gid), ..SetAttr::default() })
                .write(&mut writer);
            let read = Attributes::read(&mut Reader::new(&writer.0)).unwrap();
            prop_assert_eq!((read.size, read.mode), (Some(size), Some(mode)));
            prop_assert_eq!((read.owner, read.owner_group), (Some(Owner::Number(uid)), Some(Owner::Number(gid))));
        }
    }
}
