//! Parses the parameters of a StorageClass and of a VolumeAttributesClass.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::export::fs::Name;
use crate::nfs::source::{Server, Share, Source, SubDir};
use crate::nfs::text::excerpt;
use crate::volume::kubernetes;
use crate::volume::limits::{Inodes, Overcommit, Quota};
use crate::volume::on_delete::OnDelete;

/// The prefix of the keys that external-provisioner adds with `--extra-create-metadata`.
pub const INJECTED: &str = "csi.storage.k8s.io/";

/// The prefix of archived directories. A new volume's directory may not have it.
pub const ARCHIVED: &str = "archived-";

/// Parses permission bits: octal, at most 7777. Returns `None` for `0`, which means "leave the mode as it is" to
/// csi-driver-nfs.
pub fn parse_mode(field: &str, text: &str) -> Result<Option<u32>> {
    let octal = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(text, 8) {
        Ok(0) if octal => Ok(None),
        Ok(mode) if octal && mode <= 0o7777 => Ok(Some(mode)),
        _ => {
            let shown = excerpt(text);
            Err(Error::invalid(field, format!("`{shown}` is not an octal mode from 0 to 7777, such as 0770")))
        }
    }
}

fn parse_owner(field: &str, text: &str) -> Result<u32> {
    match text.parse::<u32>() {
        // (uid_t)-1 cannot be set: it means "leave as it is" to chown(2).
        Ok(id) if id != u32::MAX && text.bytes().all(|b| b.is_ascii_digit()) => Ok(id),
        _ => Err(Error::invalid(field, format!("`{}` is not a number from 0 to 4294967294", excerpt(text)))),
    }
}

/// A parameter's name for errors.
fn field(of: &str, key: &str) -> String {
    format!("{of}[{}]", excerpt(key))
}

/// Refuses keys that differ in letter case only: either of their values might count.
fn each_once(of: &str, parameters: &HashMap<String, String>) -> Result<()> {
    let mut seen = HashSet::new();
    match parameters.keys().find(|key| !seen.insert(key.to_ascii_lowercase())) {
        Some(key) => Err(Error::invalid(field(of, key), "given twice, in different spelling")),
        None => Ok(()),
    }
}

/// The attributes of a volume that a class sets; `None` for each that it does not set. ControllerModifyVolume can
/// change all of them except `overcommit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attributes {
    /// What happens to the directory when the volume is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<OnDelete>,
    /// The directory's permission bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// The directory's owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The directory's group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Whether the volume's size is enforced as a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// How many inodes the volume may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inodes: Option<Inodes>,
    /// How many times its size the export may promise to volumes when this volume is created or expanded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overcommit: Option<Overcommit>,
}

/// The class parameters that are set, as a class writes them.
impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = [
            self.on_delete.map(|policy| format!("onDelete={}", policy.as_str())),
            self.mode.map(|mode| format!("mountPermissions={mode:04o}")),
            self.uid.map(|uid| format!("uid={uid}")),
            self.gid.map(|gid| format!("gid={gid}")),
            self.quota.map(|quota| format!("quota={}", quota.as_str())),
            self.inodes.map(|inodes| format!("inodes={}", String::from(inodes))),
            self.overcommit.map(|ratio| format!("overcommit={}", String::from(ratio))),
        ];
        let set: Vec<String> = set.into_iter().flatten().collect();
        if set.is_empty() { f.write_str("none of its own") } else { f.write_str(&set.join(" ")) }
    }
}

impl Attributes {
    /// These attributes. Those that are not set are taken from `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            on_delete: self.on_delete.or(other.on_delete),
            mode: self.mode.or(other.mode),
            uid: self.uid.or(other.uid),
            gid: self.gid.or(other.gid),
            quota: self.quota.or(other.quota),
            inodes: self.inodes.or(other.inodes),
            overcommit: self.overcommit.or(other.overcommit),
        }
    }

    /// Parses mutable parameters (CSI `mutable_parameters`): `onDelete`, `mountPermissions`, `uid`, `gid`,
    /// `quota`, `inodes`.
    pub fn parse(parameters: &HashMap<String, String>) -> Result<Self> {
        const OF: &str = "mutable_parameters";
        each_once(OF, parameters)?;
        let mut attributes = Self::default();
        for (key, value) in parameters {
            let field = field(OF, key);
            if !attributes.take(&field, key, value)? && !key.starts_with(INJECTED) {
                return Err(Error::invalid(
                    field,
                    "not a parameter that can be changed; use onDelete, mountPermissions, uid, gid, quota or inodes",
                ));
            }
        }
        Ok(attributes)
    }

    /// Sets the attribute of one parameter. Returns false if the parameter is not an attribute.
    fn take(&mut self, field: &str, key: &str, value: &str) -> Result<bool> {
        match key.to_ascii_lowercase().as_str() {
            "ondelete" => self.on_delete = Some(OnDelete::parse(field, value)?),
            "mountpermissions" => self.mode = parse_mode(field, value)?,
            "uid" => self.uid = Some(parse_owner(field, value)?),
            "gid" => self.gid = Some(parse_owner(field, value)?),
            "quota" => self.quota = Some(Quota::parse(field, value)?),
            "inodes" => self.inodes = Some(Inodes::parse(field, value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The `subDir` of a volume that is the export itself.
pub const WHOLE_EXPORT: &str = "/";

/// The parameters of a StorageClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// The export.
    pub export: Source,
    /// `subDir`: the volume's directory, with templates expanded.
    pub sub_dir: Option<SubDir>,
    /// `subDir: /`: the volume is the export itself.
    pub whole_export: bool,
    /// The attributes of the class's volumes.
    pub attributes: Attributes,
    /// `readOnlyFromSnapshot`: whether a read-only volume from a snapshot may use the snapshot's tree instead of a
    /// copy.
    pub show_snapshots: bool,
}

impl Parameters {
    /// Parses the parameters of CreateVolume or GetCapacity. The letter case of keys does not matter.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key.
    pub fn parse(parameters: &HashMap<String, String>) -> Result<Self> {
        const OF: &str = "parameters";
        each_once(OF, parameters)?;
        let (mut server, mut share, mut sub_dir) = (None, None, None);
        let mut attributes = Attributes::default();
        let mut show_snapshots = true;
        for (key, value) in parameters {
            let field = field(OF, key);
            let lower = key.to_ascii_lowercase();
            match lower.as_str() {
                "server" => server = Some(Server::parse(&field, value)?),
                "share" => share = Some(Share::parse(&field, value)?),
                "readonlyfromsnapshot" => {
                    show_snapshots = match value.to_ascii_lowercase().as_str() {
                        "direct" => true,
                        "copy" => false,
                        _ => {
                            let shown = excerpt(value);
                            return Err(Error::invalid(field, format!("`{shown}` is not one of direct and copy")));
                        }
                    }
                }
                "subdir" => sub_dir = Some((field.clone(), value)),
                "overcommit" => attributes.overcommit = Some(Overcommit::parse(&field, value)?),
                _ if attributes.take(&field, key, value)? || lower.starts_with(INJECTED) => {}
                _ => {
                    return Err(Error::invalid(
                        field,
                        "not a parameter of this driver; its parameters are server, share, subDir, onDelete, \
                         mountPermissions, uid, gid, quota, inodes, overcommit and readOnlyFromSnapshot",
                    ));
                }
            }
        }
        let missing = |key: &str, what: &str| Error::invalid(format!("parameters[{key}]"), format!("missing: {what}"));
        let export = Source::share(
            server.ok_or_else(|| missing("server", "the NFS server's host name or IP address"))?,
            share.ok_or_else(|| missing("share", "the path that the server exports, such as /export"))?,
        );
        let whole_export = sub_dir.as_ref().is_some_and(|(_, template)| *template == WHOLE_EXPORT);
        let sub_dir = match sub_dir {
            Some((_, template)) if template.is_empty() || whole_export => None,
            Some((field, template)) => Some(volume_directory(&field, &expand(&field, template, parameters)?)?),
            None => None,
        };
        Ok(Self { export, sub_dir, whole_export, attributes, show_snapshots })
    }
}

/// Parses the directory of a new volume. Refuses names that are reserved for archived volumes.
pub fn volume_directory(field: &str, text: &str) -> Result<SubDir> {
    let sub_dir = SubDir::parse(field, text)?;
    if sub_dir.first().starts_with(ARCHIVED) {
        return Err(Error::invalid(
            field,
            format!("`{ARCHIVED}…` is reserved for archived volumes; choose another name"),
        ));
    }
    Ok(sub_dir)
}

/// Expands the templates of a `subDir` with `values`, each of which must be one path component.
pub fn expand(field: &str, template: &str, values: &HashMap<String, String>) -> Result<String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| Error::invalid(field, format!("`{}`: a `${{` without `}}`", excerpt(template))))?;
        let key = match name {
            "pvc.metadata.name" => kubernetes::CLAIM,
            "pvc.metadata.namespace" => kubernetes::NAMESPACE,
            "pv.metadata.name" => kubernetes::VOLUME,
            _ => {
                return Err(Error::invalid(
                    field,
                    format!(
                        "`${{{}}}` is not one of ${{pvc.metadata.name}}, ${{pvc.metadata.namespace}} and \
                         ${{pv.metadata.name}}",
                        excerpt(name)
                    ),
                ));
            }
        };
        let value = values.get(key).ok_or_else(|| {
            Error::invalid(
                field,
                format!("`${{{name}}}` needs `{key}`: run external-provisioner with --extra-create-metadata"),
            )
        })?;
        if Name::new(value).is_err() {
            return Err(Error::invalid(
                field,
                format!("`${{{name}}}` is `{}`, which is not one path component", excerpt(value)),
            ));
        }
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn with(key: &str, value: &str) -> Result<Parameters> {
        Parameters::parse(&map(&[("server", "nfs"), ("share", "/export"), (key, value)]))
    }

    fn field(result: Result<Parameters>) -> String {
        match result {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_are_read_in_any_case() {
        let parameters = Parameters::parse(&map(&[
            ("SERVER", "nfs"),
            ("Share", "/export/"),
            ("subdir", "a/b"),
            ("onDelete", "Retain"),
            ("MountPermissions", "0770"),
            ("uid", "1000"),
            ("gid", "0"),
            ("csi.storage.k8s.io/pvc/name", "x"),
        ]))
        .unwrap();
        assert_eq!(parameters.export.to_string(), "nfs:/export");
        assert_eq!(parameters.sub_dir.unwrap().as_str(), "a/b");
        let attributes = Attributes {
            on_delete: Some(OnDelete::Retain),
            mode: Some(0o770),
            uid: Some(1000),
            gid: Some(0),
            ..Attributes::default()
        };
        assert_eq!(parameters.attributes, attributes);
    }

    #[rstest]
    #[case("subdirectory", "x")]
    #[case("onDelete", "Delete ")]
    #[case("onDelete", "")]
    #[case("mountPermissions", "8")]
    #[case("mountPermissions", "77777777777")]
    #[case("mountPermissions", "10000")]
    #[case("mountPermissions", "+7")]
    #[case("mountPermissions", "+0")]
    #[case("mountPermissions", "")]
    #[case("uid", "-1")]
    #[case("uid", "4294967295")]
    #[case("gid", "root")]
    #[case("quota", "always")]
    #[case("inodes", "many")]
    #[case("overcommit", "150%")]
    #[case("subDir", "archived-x")]
    #[case("subDir", ".csi-nfs")]
    #[case("subDir", "a/${pvc.metadata.uid}")]
    #[case("subDir", "a/${pvc.metadata.name}")]
    #[case("subDir", "${")]
    #[case("readOnlyFromSnapshot", "ro")]
    #[case("Server", "nfs")]
    fn a_wrong_parameter_is_named(#[case] key: &str, #[case] value: &str) {
        assert!(field(with(key, value)).eq_ignore_ascii_case(&format!("parameters[{key}]")));
    }

    #[test]
    fn a_key_in_two_spellings_is_refused_because_either_might_count() {
        let twice = map(&[("server", "nfs"), ("share", "/export"), ("uid", "1"), ("UID", "2")]);
        assert!(field(Parameters::parse(&twice)).eq_ignore_ascii_case("parameters[uid]"));
        let error = Attributes::parse(&map(&[("uid", "1"), ("UID", "2")])).unwrap_err().to_string();
        assert!(error.to_lowercase().starts_with("mutable_parameters[uid]: given twice"), "{error}");
    }

    #[rstest]
    fn a_message_about_a_long_value_is_short(
        #[values(
            "server",
            "share",
            "subDir",
            "onDelete",
            "mountPermissions",
            "uid",
            "quota",
            "inodes",
            "overcommit",
            "readOnlyFromSnapshot"
        )]
        key: &str,
        #[values("", "${", "${}")] template: &str,
    ) {
        let error = with(key, &(template.to_owned() + &"\u{1}".repeat(1 << 20))).unwrap_err().to_string();
        assert!(error.len() < 4096 && !error.contains('\u{1}'), "{}", error.len());
    }

    #[test]
    fn a_message_about_a_long_key_or_name_is_short() {
        let long = "x".repeat(1 << 20);
        let values = map(&[("csi.storage.k8s.io/pvc/name", &long)]);
        for error in [
            with(&long, "x").unwrap_err(),
            Attributes::parse(&map(&[(&long, "x")])).unwrap_err(),
            with("subDir", &format!("${{{long}}}")).unwrap_err(),
            expand("subDir", "${pvc.metadata.name}", &values).unwrap_err(),
        ] {
            assert!(error.to_string().len() < 4096, "{}", error.to_string().len());
        }
    }

    #[test]
    fn server_and_share_are_required() {
        assert_eq!(field(Parameters::parse(&map(&[("server", "nfs")]))), "parameters[share]");
        assert_eq!(field(Parameters::parse(&map(&[("share", "/")]))), "parameters[server]");
    }

    #[test]
    fn templates_become_one_component_each() {
        let values = map(&[
            ("csi.storage.k8s.io/pvc/name", "claim"),
            ("csi.storage.k8s.io/pvc/namespace", "team"),
            ("csi.storage.k8s.io/pv/name", "pv"),
        ]);
        let template = "${pvc.metadata.namespace}/x-${pvc.metadata.name}/${pv.metadata.name}";
        assert_eq!(expand("subDir", template, &values).unwrap(), "team/x-claim/pv");
        for hostile in ["..", "../x", "a/b", "", "."] {
            let values = map(&[("csi.storage.k8s.io/pvc/name", hostile)]);
            assert!(expand("subDir", "${pvc.metadata.name}", &values).is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn a_mode_of_zero_leaves_the_directory_as_it_is() {
        assert_eq!(parse_mode("mountPermissions", "0").unwrap(), None);
        assert_eq!(parse_mode("mountPermissions", "02770").unwrap(), Some(0o2770));
    }
}
