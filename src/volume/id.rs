//! Volume identifiers. This driver and csi-driver-nfs can read each other's identifiers.
//!
//! The form is `SERVER#SHARE#SUBDIR#UUID#ONDELETE`. SHARE has no slash at either end. UUID is the volume's name if the
//! class has a `subDir`; otherwise it is empty, and SUBDIR is the name. ONDELETE is `retain`, `archive` or empty. The
//! driver also reads the older form `SERVER/SHARE/SUBDIR` and forms without the last parts.

use std::fmt;

use crate::error::{Error, Result};
use crate::export::fs::Name;
use crate::nfs::source::{Server, Share, Source, SubDir};
use crate::nfs::text::excerpt;
use crate::volume::on_delete::OnDelete;

/// Writes a type in JSON as its text, and parses it from that text.
macro_rules! serde_as_text {
    ($type:ty, $parse:expr) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                $parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;

serde_as_text!(VolumeName, |text| VolumeName::parse("name", text));
serde_as_text!(VolumeId, VolumeId::parse);

/// The name that a caller gives to a volume: one path component of at most 128 bytes. It names the record and, by
/// default, the volume's directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeName(Box<str>);

impl VolumeName {
    /// CSI's limit for strings, in bytes.
    pub const MAX: usize = 128;

    /// Parses a name. Errors call it `field`.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        let bad = |reason: &str| Err(Error::invalid(field, format!("`{}`: {reason}", excerpt(text))));
        if text.is_empty() {
            return Err(Error::invalid(field, "missing: a volume needs a name"));
        }
        if text.len() > Self::MAX {
            return bad("a name has at most 128 bytes");
        }
        if text.contains('#') || text.chars().any(char::is_control) || Name::new(text).is_err() {
            return bad("a name is one path component, without `#` and control characters");
        }
        Ok(Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a file of the volume, such as its record: the volume's name and `suffix`.
    pub fn file(&self, suffix: &str) -> Result<Name> {
        Name::new(format!("{self}{suffix}")).map_err(|status| Error::invalid("name", format!("`{self}`: {status}")))
    }

    /// The volume whose [`file`](Self::file) with `suffix` has the name `file`; `None` for any other name.
    pub fn of_file(file: &Name, suffix: &str) -> Option<Self> {
        let name = std::str::from_utf8(file.as_bytes()).ok()?.strip_suffix(suffix)?;
        Self::parse("name", name).ok()
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A parsed volume identifier.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumeId {
    /// The server's name or address, as given when the volume was created.
    pub server: Server,
    /// The share.
    pub share: Share,
    /// The volume's directory on the share.
    pub sub_dir: SubDir,
    /// The volume's name, if the class has a `subDir`.
    pub uuid: Option<VolumeName>,
    /// What happens to the directory when the volume is deleted, if the identifier says so.
    pub on_delete: Option<OnDelete>,
}

/// Returns what the identifier `text` of an existing object was `parsed` to. An invalid identifier is reported as not
/// found, because no object can have it.
///
/// # Errors
/// [`Error::NotFound`] for an invalid identifier; [`Error::Invalid`] for an empty one.
pub fn existing<T>(what: &str, text: &str, parsed: Result<T>) -> Result<T> {
    parsed.map_err(|error| match error {
        Error::Invalid { reason, .. } if !text.is_empty() => {
            Error::not_found(format!("{what} `{}`", excerpt(text)), reason)
        }
        error => error,
    })
}

impl VolumeId {
    /// Parses an identifier.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the text has another form, or if it names the share itself, the driver's private
    /// directory, or a place outside the share.
    pub fn parse(text: &str) -> Result<Self> {
        const FIELD: &str = "volume_id";
        if text.is_empty() {
            return Err(Error::invalid(FIELD, "missing"));
        }
        let parts: Vec<&str> = text.split('#').collect();
        let (server, share, sub_dir, uuid, on_delete) = match parts[..] {
            [_] => {
                let (server, path) = text.split_once('/').ok_or_else(malformed)?;
                let (share, sub_dir) =
                    path.rsplit_once('/').filter(|(share, _)| !share.is_empty()).ok_or_else(malformed)?;
                (server, share, sub_dir, "", "")
            }
            [server, share, sub_dir] => (server, share, sub_dir, "", ""),
            [server, share, sub_dir, uuid] => (server, share, sub_dir, uuid, ""),
            [server, share, sub_dir, uuid, on_delete] => (server, share, sub_dir, uuid, on_delete),
            _ => return Err(malformed()),
        };
        Ok(Self {
            server: Server::parse(FIELD, server)?,
            share: Share::parse_bare(FIELD, share)?,
            sub_dir: SubDir::parse(FIELD, sub_dir)?,
            uuid: if uuid.is_empty() { None } else { Some(VolumeName::parse(FIELD, uuid)?) },
            on_delete: if on_delete.is_empty() { None } else { Some(OnDelete::parse(FIELD, on_delete)?) },
        })
    }

    /// The text of the identifier of a volume whose class says nothing about its directory and its deletion.
    pub fn usual(export: &Source, name: &VolumeName) -> String {
        format!("{}#{}#{name}##", export.server, export.share.as_str())
    }

    /// Whether `text` has the form of an identifier that this driver or csi-driver-nfs generates: four or five parts
    /// with `#` between them. Other handles, such as `SERVER/SHARE/DIRECTORY`, were written by hand, and what they name
    /// may be a coincidence.
    pub fn is_generated(text: &str) -> bool {
        (4..=5).contains(&text.split('#').count())
    }

    /// Parses the identifier of an existing volume.
    ///
    /// # Errors
    /// As [`existing`].
    pub fn parse_existing(text: &str) -> Result<Self> {
        existing("volume", text, Self::parse(text))
    }

    /// The name with which the volume was created; `None` if the identifier does not contain it: a nested directory
    /// without a UUID, which this driver never makes.
    pub fn name(&self) -> Option<VolumeName> {
        match &self.uuid {
            Some(uuid) => Some(uuid.clone()),
            None => VolumeName::parse("volume_id", self.sub_dir.as_str()).ok(),
        }
    }

    /// The directory on the server that a node mounts.
    pub fn source(&self) -> Source {
        Source { server: self.server.clone(), share: self.share.clone(), sub_dir: Some(self.sub_dir.clone()) }
    }

    /// The export that holds the volume.
    pub fn export(&self) -> Source {
        Source::share(self.server.clone(), self.share.clone())
    }
}

fn malformed() -> Error {
    Error::invalid("volume_id", "not of the form SERVER#SHARE#SUBDIR#UUID#ONDELETE or SERVER/SHARE/SUBDIR")
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uuid = self.uuid.as_ref().map_or("", VolumeName::as_str);
        let on_delete = match self.on_delete {
            Some(policy @ (OnDelete::Retain | OnDelete::Archive)) => policy.as_str(),
            Some(OnDelete::Delete) | None => "",
        };
        write!(f, "{}#{}#{}#{uuid}#{on_delete}", self.server, self.share.as_str(), self.sub_dir)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("nfs#export#pvc-1##", "nfs", "export", "pvc-1", Some("pvc-1"))]
    #[case("nfs#export/a#team/app#pvc-1#retain", "nfs", "export/a", "team/app", Some("pvc-1"))]
    #[case("nfs#export#pvc-1", "nfs", "export", "pvc-1", Some("pvc-1"))]
    #[case("nfs#export#sub#pvc-1", "nfs", "export", "sub", Some("pvc-1"))]
    #[case("nfs##pvc-1##", "nfs", "", "pvc-1", Some("pvc-1"))]
    #[case("nfs/export/a/pvc-1", "nfs", "export/a", "pvc-1", Some("pvc-1"))]
    #[case("fd00::1#export#a/b##", "fd00::1", "export", "a/b", None)]
    fn every_form_of_the_incumbent_is_read(
        #[case] text: &str,
        #[case] server: &str,
        #[case] share: &str,
        #[case] sub_dir: &str,
        #[case] name: Option<&str>,
    ) {
        let id = VolumeId::parse(text).unwrap();
        assert_eq!((id.server.as_str(), id.share.as_str(), id.sub_dir.as_str()), (server, share, sub_dir));
        assert_eq!(id.name().as_ref().map(VolumeName::as_str), name);
    }

    #[test]
    fn the_usual_id_is_that_of_a_volume_with_a_directory_of_its_name() {
        let id = VolumeId::parse("nfs#export/a#pvc-1##").unwrap();
        assert_eq!(VolumeId::usual(&id.export(), &id.name().unwrap()), id.to_string());
    }

    #[rstest]
    fn an_id_that_names_no_volume_is_refused(
        #[values(
            "",
            ".",
            "..",
            "../x",
            "a",
            "a/b",
            "/",
            "//",
            "a//b",
            "s###",
            "s#a##",
            "s#a#.#u#",
            "s#a#..##",
            "s#a#a/../b##",
            "s#a#/##",
            "s#a#.csi-nfs##",
            "s#a#.csi-nfs/volumes##",
            "s#..#a##",
            "s#a#b#c#d#e",
            "#a#b##",
            "s#a#b#u#Delete ",
            "s#a#b#u#shred",
            "--bind#a#b##",
            "-overs=3#a#b##",
            "h,opt#a#b##",
            "s#a#b\0##",
            "s#a\n#b##",
            "s#a#b#x/y#",
            "s/a/..",
            "s/a/.csi-nfs",
            "s/../b/c"
        )]
        text: &str,
    ) {
        assert!(matches!(VolumeId::parse(text), Err(Error::Invalid { .. })), "{text:?}");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(
            server in "[a-z][a-z0-9-]{0,20}",
            share in "([a-zA-Z0-9_ é.]{1,8}x/){0,3}",
            sub_dir in "[a-zA-Z0-9_é%][a-zA-Z0-9_ é.%]{0,20}(/[a-z]{1,8}){0,3}",
            uuid in proptest::option::of("[a-z][a-z0-9.-]{0,40}"),
            on_delete in proptest::option::of(prop_oneof![Just(OnDelete::Retain), Just(OnDelete::Archive)]),
        ) {
            let id = VolumeId {
                server: Server::parse("server", &server).unwrap(),
                share: Share::parse_bare("share", &share).unwrap(),
                sub_dir: SubDir::parse("subDir", &sub_dir).unwrap(),
                uuid: uuid.map(|name| VolumeName::parse("name", &name).unwrap()),
                on_delete,
            };
            prop_assert_eq!(VolumeId::parse(&id.to_string()).unwrap(), id);
        }

        #[test]
        fn no_text_makes_the_parser_panic_or_yield_a_path_outside_the_share(text in "[a-z#/.\\PC]{0,60}") {
            if let Ok(id) = VolumeId::parse(&text) {
                prop_assert!(id.sub_dir.as_str().split('/').all(|c| !c.is_empty() && c != "." && c != ".."));
                prop_assert_ne!(id.sub_dir.first(), SubDir::PRIVATE);
            }
        }
    }
}
