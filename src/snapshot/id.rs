//! Identifiers of snapshots and of groups of snapshots.
//!
//! This driver writes `SERVER#SHARE#NAME###snapshot` and `SERVER#SHARE#NAME###group`. These have six parts. Identifiers
//! of csi-driver-nfs have five (`SERVER#SHARE#NAME#NAME#SOURCE`), so csi-driver-nfs does not take this driver's
//! identifiers for its own. This driver reads the identifiers of both drivers.

use std::fmt;

use crate::error::{Error, Result};
use crate::nfs::source::{Server, Share, Source, SubDir};
use crate::volume::id::{VolumeName, existing, serde_as_text};

const FIELD: &str = "snapshot_id";

serde_as_text!(SnapshotId, SnapshotId::parse);
serde_as_text!(GroupId, GroupId::parse);

/// A snapshot's identifier, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SnapshotId {
    /// The server's name when the snapshot was created.
    pub server: Server,
    /// The share that the snapshot is on.
    pub share: Share,
    /// The snapshot's name.
    pub name: VolumeName,
}

impl SnapshotId {
    /// The identifier of the snapshot `name` on an export.
    pub fn new(export: &Source, name: VolumeName) -> Self {
        Self { server: export.server.clone(), share: export.share.clone(), name }
    }

    /// Parses an identifier.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the text does not have the form.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid(FIELD, "missing"));
        }
        let (server, share, name) = parse_parts(FIELD, text, "snapshot")?;
        Ok(Self { server, share, name })
    }

    /// The export that the snapshot is on.
    pub fn export(&self) -> Source {
        Source::share(self.server.clone(), self.share.clone())
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}#{}###snapshot", self.server, self.share.as_str(), self.name)
    }
}

/// The identifier of a snapshot of csi-driver-nfs: the archive `NAME/SOURCE.tar.gz` or `NAME/SOURCE.tar` on the share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ArchiveId {
    /// The server's name when the snapshot was created.
    pub server: Server,
    /// The share that the archive is on.
    pub share: Share,
    /// The snapshot's name, which is also the name of its directory.
    pub name: VolumeName,
    /// The name of the source volume.
    pub source: VolumeName,
}

impl ArchiveId {
    /// The identifier of the archive of the volume `source` in the directory `name` of an export; `None` if a snapshot
    /// cannot have that directory.
    pub fn new(export: &Source, name: VolumeName, source: VolumeName) -> Option<Self> {
        let (server, share) = (export.server.clone(), export.share.clone());
        SubDir::parse(FIELD, name.as_str()).is_ok().then_some(Self { server, share, name, source })
    }

    /// The export that the archive is on.
    pub fn export(&self) -> Source {
        Source::share(self.server.clone(), self.share.clone())
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, share, name, source } = self;
        write!(f, "{server}#{}#{name}#{name}#{source}", share.as_str())
    }
}

/// The identifier of an existing snapshot of either driver.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KnownId {
    /// A snapshot of this driver.
    Own(SnapshotId),
    /// A snapshot of csi-driver-nfs.
    Archive(ArchiveId),
}

impl KnownId {
    /// Parses an identifier of either form.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the text has neither form.
    pub fn parse(text: &str) -> Result<Self> {
        let [server, share, name, again, source] = text.split('#').collect::<Vec<_>>()[..] else {
            return SnapshotId::parse(text).map(Self::Own);
        };
        if name != again {
            return Err(Error::invalid(FIELD, "not of the form SERVER#SHARE#NAME#NAME#SOURCE"));
        }
        SubDir::parse(FIELD, name)?;
        Ok(Self::Archive(ArchiveId {
            server: Server::parse(FIELD, server)?,
            share: Share::parse_bare(FIELD, share)?,
            name: VolumeName::parse(FIELD, name)?,
            source: VolumeName::parse(FIELD, source)?,
        }))
    }

    /// Parses the identifier of a snapshot that must exist.
    ///
    /// # Errors
    /// As [`existing`].
    pub fn parse_existing(text: &str) -> Result<Self> {
        existing("snapshot", text, Self::parse(text))
    }

    /// The export that the snapshot is on.
    pub fn export(&self) -> Source {
        match self {
            Self::Own(id) => id.export(),
            Self::Archive(id) => id.export(),
        }
    }
}

impl fmt::Display for KnownId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(id) => id.fmt(f),
            Self::Archive(id) => id.fmt(f),
        }
    }
}

/// A group's identifier, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupId {
    /// The export that the group is on.
    pub export: Source,
    /// The group's name.
    pub name: VolumeName,
}

impl GroupId {
    /// Parses an identifier.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the text does not have the form.
    pub fn parse(text: &str) -> Result<Self> {
        const FIELD: &str = "group_snapshot_id";
        if text.is_empty() {
            return Err(Error::invalid(FIELD, "missing"));
        }
        let (server, share, name) = parse_parts(FIELD, text, "group")?;
        Ok(Self { export: Source::share(server, share), name })
    }

    /// Parses the identifier of a group that must exist.
    ///
    /// # Errors
    /// As [`existing`].
    pub fn parse_existing(text: &str) -> Result<Self> {
        existing("group", text, Self::parse(text))
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}#{}###group", self.export.server, self.export.share.as_str(), self.name)
    }
}

fn parse_parts(field: &str, text: &str, kind: &str) -> Result<(Server, Share, VolumeName)> {
    match text.split('#').collect::<Vec<_>>()[..] {
        [server, share, name, "", "", last] if last == kind => {
            Ok((Server::parse(field, server)?, Share::parse_bare(field, share)?, VolumeName::parse(field, name)?))
        }
        _ => Err(Error::invalid(field, format!("not of the form SERVER#SHARE#NAME###{kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::volume::id::VolumeId;

    #[rstest]
    fn an_id_that_names_no_snapshot_of_this_driver_is_refused(
        #[values(
            "",
            "x",
            "s#a#n",
            "s#a#n##",
            "s#a#n###group",
            "s#a#n###Snapshot",
            "s#a####snapshot",
            "s#a#..###snapshot",
            "s#a#x/y###snapshot",
            "s#a#n#x##snapshot",
            "s#a#n####snapshot",
            "s#..#n###snapshot",
            "s#.csi-nfs#n###snapshot",
            "--bind#a#n###snapshot",
            "s#a#n\n###snapshot"
        )]
        text: &str,
    ) {
        assert!(matches!(SnapshotId::parse(text), Err(Error::Invalid { .. })), "{text:?}");
    }

    #[rstest]
    fn an_id_that_names_no_group_is_refused(
        #[values("", "x", "s#a#n##", "s#a#n###snapshot", "s#a####group", "s#a#..###group", "s#.csi-nfs#n###group")]
        text: &str,
    ) {
        assert!(matches!(GroupId::parse(text), Err(Error::Invalid { .. })), "{text:?}");
    }

    #[rstest]
    fn an_id_that_names_no_archive_is_refused(
        #[values(
            "s#a#n#m#pvc-1",
            "s#a###pvc-1",
            "s#a#n#n#",
            "s#a#n#n#..",
            "s#a#n#n#x/y",
            "s#a#..#..#v",
            "s#a#x/y#x/y#v",
            "s#a#.csi-nfs#.csi-nfs#v",
            "s#a/..#n#n#v",
            "--bind#a#n#n#v",
            "s#a#n#n#v\n"
        )]
        text: &str,
    ) {
        assert!(matches!(KnownId::parse(text), Err(Error::Invalid { .. })), "{text:?}");
        assert!(SnapshotId::parse(text).is_err());
    }

    proptest! {
        #[test]
        fn an_id_reads_back_as_it_was_written_and_is_not_a_volume_id(
            server in "[a-z][a-z0-9-]{0,20}",
            share in "([a-zA-Z0-9_ é.]{1,8}x/){0,3}",
            name in "[a-z][a-z0-9.-]{0,40}",
        ) {
            let export = Source::share(Server::parse("", &server).unwrap(), Share::parse_bare("", &share).unwrap());
            let id = SnapshotId::new(&export, VolumeName::parse("", &name).unwrap());
            prop_assert!(VolumeId::parse(&id.to_string()).is_err());
            let group = GroupId { export: export.clone(), name: id.name.clone() };
            prop_assert!(SnapshotId::parse(&group.to_string()).is_err() && GroupId::parse(&id.to_string()).is_err());
            prop_assert_eq!(GroupId::parse(&group.to_string()).unwrap(), group);
            prop_assert_eq!(SnapshotId::parse(&id.to_string()).unwrap(), id.clone());
            prop_assert_eq!(KnownId::parse(&id.to_string()).unwrap(), KnownId::Own(id));
            let name = VolumeName::parse("", &name).unwrap();
            let archive = ArchiveId::new(&export, name.clone(), name).unwrap();
            prop_assert!(SnapshotId::parse(&archive.to_string()).is_err());
            prop_assert_eq!(KnownId::parse(&archive.to_string()).unwrap(), KnownId::Archive(archive));
        }
    }
}
