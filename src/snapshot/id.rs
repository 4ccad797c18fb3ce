//! Identifiers of snapshots and of groups of them.
//!
//! Those of this driver are `SERVER#SHARE#NAME###snapshot` and `SERVER#SHARE#NAME###group`: six parts, so that csi-driver-nfs,
//! whose own have five (`SERVER#SHARE#NAME#NAME#SOURCE`), takes none of them for its own, nor the other way round.

use std::fmt;

use crate::error::{Error, Result};
use crate::mount::source::{Server, Share, Source};
use crate::volume::id::VolumeName;

const FIELD: &str = "snapshot_id";

/// A snapshot's identifier, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SnapshotId {
    /// The server, as it was named when the snapshot was made.
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
    /// [`Error::Invalid`] where it has not the form; [`Error::Precondition`] for one of csi-driver-nfs's.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid(FIELD, "missing"));
        }
        if let [_, _, name, again, _] = text.split('#').collect::<Vec<_>>()[..]
            && !name.is_empty()
            && name == again
        {
            return Err(Error::Precondition(format!(
                "`{}` is a snapshot of csi-driver-nfs, which this driver leaves alone: restore or delete it with that one",
                text.escape_debug()
            )));
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
    /// [`Error::Invalid`] where it has not the form.
    pub fn parse(text: &str) -> Result<Self> {
        const FIELD: &str = "group_snapshot_id";
        if text.is_empty() {
            return Err(Error::invalid(FIELD, "missing"));
        }
        let (server, share, name) = parse_parts(FIELD, text, "group")?;
        Ok(Self { export: Source::share(server, share), name })
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

    #[test]
    fn a_snapshot_of_the_incumbent_s_is_known_for_one_and_left_alone() {
        assert!(matches!(SnapshotId::parse("s#a#n#n#pvc-1"), Err(Error::Precondition(_))));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same_and_is_no_volume_s(
            server in "[a-z][a-z0-9-]{0,20}",
            share in "([a-zA-Z0-9_ é.]{1,8}x/){0,3}",
            name in "[a-z][a-z0-9.-]{0,40}",
        ) {
            let export = Source::share(Server::parse("", &server).unwrap(), Share::parse_bare("", &share).unwrap());
            let id = SnapshotId::new(&export, VolumeName::parse("", &name).unwrap());
            prop_assert!(VolumeId::parse(&id.to_string()).is_err());
            let group = GroupId { export, name: id.name.clone() };
            prop_assert!(SnapshotId::parse(&group.to_string()).is_err() && GroupId::parse(&id.to_string()).is_err());
            prop_assert_eq!(GroupId::parse(&group.to_string()).unwrap(), group);
            prop_assert_eq!(SnapshotId::parse(&id.to_string()).unwrap(), id);
        }
    }
}
