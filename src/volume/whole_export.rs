//! Volumes that are an export itself: `subDir: /` with `onDelete: retain`.
//!
//! Nothing on the export belongs to such a volume. So nothing is created, recorded, changed or deleted for it, and its
//! identifier says everything: `SERVER#SHARE##NAME#retain`, without a directory.

use std::fmt;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Fs;
use crate::nfs::source::{Server, Share, Source};
use crate::volume::create::Create;
use crate::volume::id::VolumeName;
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::Attributes;

/// A volume that is an export itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeExport {
    /// The export.
    pub export: Source,
    /// The volume's name.
    pub name: VolumeName,
}

impl WholeExport {
    /// The volume that a class with `subDir: /` asks for.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the class does not say `onDelete: retain`, or says anything that would change the export,
    /// or if the volume has a content source.
    pub fn requested(export: Source, create: &Create) -> Result<Self> {
        let bad =
            |reason: &str| Err(Error::invalid("parameters[subDir]", format!("`/` is the export itself: {reason}")));
        if create.asked.on_delete != Some(OnDelete::Retain) {
            return bad("set `onDelete: retain` in the StorageClass, because the driver never deletes an export");
        }
        if create.asked != (Attributes { on_delete: Some(OnDelete::Retain), ..Attributes::default() }) {
            return bad(
                "remove the parameters that would change it (mountPermissions, uid, gid, quota, inodes, overcommit)",
            );
        }
        if create.origin.is_some() {
            return bad("a restore or a clone needs a directory of its own");
        }
        Ok(Self { export, name: create.name.clone() })
    }

    /// Parses an identifier, also one of csi-driver-nfs with another policy; `None` for any other volume's identifier.
    pub fn parse(text: &str) -> Option<Self> {
        let (server, share, name) = match text.split('#').collect::<Vec<_>>()[..] {
            [server, share, "", name] | [server, share, "", name, _] => (server, share, name),
            _ => return None,
        };
        const FIELD: &str = "volume_id";
        let export = Source::share(Server::parse(FIELD, server).ok()?, Share::parse_bare(FIELD, share).ok()?);
        Some(Self { export, name: VolumeName::parse(FIELD, name).ok()? })
    }
}

impl fmt::Display for WholeExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { export, name } = self;
        write!(f, "{}#{}##{name}#{}", export.server, export.share.as_str(), OnDelete::Retain.as_str())
    }
}

/// Checks that the export answers.
pub async fn check<F: Fs>(export: &Export<F>) -> Result<()> {
    let fs = export.fs();
    fs.getattr(&fs.root()).await.map(drop).map_err(|e| export.failed("reading the root directory", e))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::volume::id::VolumeId;

    #[rstest]
    #[case("nfs#export##pvc-1#retain")]
    #[case("nfs#srv/export##pvc-1#")]
    #[case("nfs###pvc-1")]
    fn an_identifier_without_a_directory_is_a_whole_export(#[case] id: &str) {
        let volume = WholeExport::parse(id).unwrap();
        assert_eq!(volume.name.as_str(), "pvc-1");
        assert!(VolumeId::parse(id).is_err(), "no other call may take it for a directory");
        assert_eq!(WholeExport::parse(&volume.to_string()), Some(volume));
    }

    proptest! {
        #[test]
        fn no_identifier_is_both_a_directory_and_a_whole_export(id in "[a-z/#.]{0,24}") {
            prop_assert!(VolumeId::parse(&id).is_err() || WholeExport::parse(&id).is_none());
        }
    }
}
