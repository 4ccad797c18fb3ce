//! The parameters of a VolumeSnapshotClass, as CreateSnapshot gets them.

use std::collections::{BTreeSet, HashMap};

use crate::error::{Error, Result};
use crate::nfs::options::MountOptions;
use crate::nfs::source::{Server, Share, Source};
use crate::nfs::text::excerpt;
use crate::volume::id::VolumeId;
use crate::volume::parameters::INJECTED;

/// Where to create a snapshot. `None` means the same as for its volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters {
    /// The server.
    pub server: Option<Server>,
    /// The share.
    pub share: Option<Share>,
    /// The options that the controller mounts the share with.
    pub mount_options: Option<MountOptions>,
}

impl Parameters {
    /// The export for a snapshot of a volume on the export `of`.
    pub fn place(&self, of: &Source) -> Source {
        Source::share(
            self.server.clone().unwrap_or_else(|| of.server.clone()),
            self.share.clone().unwrap_or_else(|| of.share.clone()),
        )
    }

    /// The one export for the snapshots of all these volumes. A group's record makes all its snapshots visible in one
    /// write, so all of them must be on the record's export.
    ///
    /// # Errors
    /// [`Error::Precondition`] if the snapshots would be on several exports.
    pub fn one_place(&self, volumes: &[VolumeId]) -> Result<Source> {
        let places: BTreeSet<Source> = volumes.iter().map(|volume| self.place(&volume.export())).collect();
        match &places.iter().collect::<Vec<_>>()[..] {
            [place] => Ok((*place).clone()),
            several => {
                let named: Vec<String> = several.iter().map(ToString::to_string).collect();
                Err(Error::Precondition(format!(
                    "the volumes of a group are on several exports, {}, but all its snapshots must be on one: name \
                     that export by the parameters server and share of the VolumeGroupSnapshotClass",
                    named.join(", ")
                )))
            }
        }
    }

    /// Parses the parameters of CreateSnapshot. Keys are compared without regard to case.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the key.
    pub fn parse(parameters: &HashMap<String, String>) -> Result<Self> {
        let mut parsed = Self::default();
        for (key, value) in parameters {
            let field = format!("parameters[{}]", excerpt(key));
            let twice = match key.to_ascii_lowercase().as_str() {
                "server" => parsed.server.replace(Server::parse(&field, value)?).is_some(),
                "share" => parsed.share.replace(Share::parse(&field, value)?).is_some(),
                "mountoptions" => {
                    parsed.mount_options.replace(MountOptions::parse(&field, [value.as_str()])?).is_some()
                }
                other if other.starts_with(INJECTED) => false,
                _ => {
                    let reason = "not a parameter of this driver: server, share and mountOptions are";
                    return Err(Error::invalid(field, reason));
                }
            };
            if twice {
                return Err(Error::invalid(field, "given twice, in different spelling"));
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn keys_are_read_in_any_case_and_those_that_kubernetes_adds_are_accepted() {
        let given = [
            ("Server", "nfs"),
            ("SHARE", "/export"),
            ("mountOptions", "vers=4.1,hard"),
            ("csi.storage.k8s.io/volumesnapshot/name", "s"),
        ];
        let parsed = Parameters::parse(&map(&given)).unwrap();
        assert_eq!(parsed.server.unwrap().as_str(), "nfs");
        assert_eq!(parsed.share.unwrap().as_str(), "export");
        assert_eq!(parsed.mount_options.unwrap().to_string(), "vers=4.1,hard");
        assert_eq!(Parameters::parse(&map(&[])).unwrap(), Parameters::default());
    }

    #[rstest]
    #[case("Subdir", "x")]
    #[case("server", "a b")]
    #[case("share", "/a/../b")]
    #[case("mountOptions", "addr=1.2.3.4")]
    fn a_wrong_parameter_is_named(#[case] key: &str, #[case] value: &str) {
        match Parameters::parse(&map(&[(key, value)])) {
            Err(Error::Invalid { field, .. }) => assert_eq!(field, format!("parameters[{key}]")),
            other => panic!("{other:?}"),
        }
    }
}
