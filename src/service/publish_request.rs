//! Converts a NodePublishVolume request from the wire to a [`PublishIntent`].

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::nfs::options::MountOptions;
use crate::nfs::source::{Server, Share, Source, SubDir};
use crate::node::publish_intents::PublishIntent;
use crate::node::root::RootAttributes;
use crate::node::target::Target;
use crate::service::capability;
use crate::service::present;
use crate::service::proto::csi;
use crate::volume::access::AccessMode;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::parameters::{WHOLE_EXPORT, expand, parse_mode};

/// The defaults for requests, from the driver's flags.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// `--mount-options`: used if neither the capability nor the volume's context names options.
    pub mount_options: MountOptions,
    /// `--mount-permissions`: the mode of a volume's root if the context names none; `None` leaves the mode unchanged.
    pub mount_permissions: Option<u32>,
    /// Whether pods may name servers and shares in inline ephemeral volumes.
    pub allow_inline: bool,
}

/// Parses a request.
///
/// # Errors
/// [`Error::Invalid`], which names the field or the key of the volume's context.
pub fn parse(request: csi::NodePublishVolumeRequest, defaults: &Defaults) -> Result<PublishIntent> {
    present(&request.volume_id)?;
    let target = Target::parse("target_path", &request.target_path)?;
    let capability = capability::parse(request.volume_capability.as_ref())?;
    let context = Context(&request.volume_context);
    let is_inline = context.get("csi.storage.k8s.io/ephemeral")?.is_some_and(|(_, value)| value == "true");
    if is_inline && !defaults.allow_inline {
        return Err(Error::invalid(
            "volume_context[csi.storage.k8s.io/ephemeral]",
            "inline volumes are off, because with them whoever may create a pod may mount any share; use a \
             PersistentVolumeClaim, or set --enable-inline-volumes",
        ));
    }
    let shows_snapshot = context.get("snapshot")?.is_some();
    if shows_snapshot && is_inline {
        return Err(Error::invalid("volume_context[snapshot]", "an inline volume cannot be backed by a snapshot"));
    }
    let own = context.get("mountOptions")?;
    if let Some((field, value)) = own.as_ref().filter(|_| is_inline)
        && MountOptions::parse(field, [value])?.labels()
    {
        return Err(Error::invalid(
            field,
            "an inline volume cannot choose SELinux labels (`context=` and the like), because whoever may create a pod \
             writes it; use a PersistentVolume, or the mountOptions of a StorageClass",
        ));
    }
    let mut flags = capability.mount_options.to_vec();
    flags.extend(own.map(|(_, value)| value.to_owned()));
    if flags.is_empty() {
        flags = defaults.mount_options.to_vec();
    }
    let field = "volume_context[mountOptions]";
    flags.extend((request.readonly || shows_snapshot).then(|| "ro".to_owned()));
    let read_only_by_mode = capability.mode.is_read_only() && !MountOptions::parse(field, &flags)?.read_only();
    flags.extend(read_only_by_mode.then(|| "ro".to_owned()));
    let mode = match context.get("mountPermissions")? {
        Some((field, value)) => parse_mode(&field, value)?,
        None => defaults.mount_permissions,
    };
    Ok(PublishIntent {
        source: context.source(&request.volume_id)?,
        options: MountOptions::parse(field, flags)?,
        read_only_by_mode,
        single_target: capability.mode == AccessMode::SingleNodeSingleWriter,
        root_attributes: match shows_snapshot {
            true => RootAttributes::default(),
            false => RootAttributes { group: capability.group, mode },
        },
        mounted: None,
        volume_id: request.volume_id,
        target,
    })
}

/// CSI `volume_context`, from CreateVolume or from the author of a PersistentVolume. The case of keys does not matter.
/// Keys that mean nothing to the node are ignored.
struct Context<'a>(&'a HashMap<String, String>);

impl<'a> Context<'a> {
    /// The name of a key for errors, and its value.
    fn get(&self, key: &str) -> Result<Option<(String, &'a str)>> {
        let mut found = self.0.iter().filter(|(other, _)| other.eq_ignore_ascii_case(key));
        let value = found.next().map(|(_, value)| (format!("volume_context[{key}]"), value.as_str()));
        match found.next() {
            Some(_) => Err(Error::invalid(format!("volume_context[{key}]"), "given twice, in different spelling")),
            None => Ok(value),
        }
    }

    /// The source to mount, from the context, or from the volume's identifier if the context does not name it.
    fn source(&self, volume_id: &str) -> Result<Source> {
        let (server, share) = match (self.get("server")?, self.get("share")?) {
            (Some(server), Some(share)) => (server, share),
            (None, None) => {
                return VolumeId::parse(volume_id).map(|id| id.source()).map_err(|_| {
                    Error::invalid(
                        "volume_context",
                        "server and share are missing, and the volume's identifier does not contain them",
                    )
                });
            }
            (None, Some(_)) => return Err(Error::invalid("volume_context[server]", "missing: the NFS server")),
            (Some(_), None) => {
                return Err(Error::invalid("volume_context[share]", "missing: the path that the server exports"));
            }
        };
        let (server, (field, text)) = (Server::parse(&server.0, server.1)?, share);
        let share = Share::parse(&field, text)?;
        if let Some((field, snapshot)) = self.get("snapshot")? {
            let snapshot = VolumeName::parse(&field, snapshot)?;
            let sub_dir = Some(SubDir::snapshot_tree(&field, snapshot.as_str())?);
            return Ok(Source { server, share, sub_dir });
        }
        let sub_dir = match self.get("subDir")? {
            None | Some((_, "" | WHOLE_EXPORT)) => None,
            Some((field, template)) => Some(SubDir::parse(&field, &expand(&field, template, self.0)?)?),
        };
        Ok(Source { server, share, sub_dir })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::service::proto::csi::volume_capability::{
        AccessMode as WireMode, AccessType, MountVolume, access_mode::Mode,
    };

    const TARGET: &str = "/kubelet/pods/u/volumes/kubernetes.io~csi/pv/mount";

    fn defaults() -> Defaults {
        Defaults {
            mount_options: MountOptions::parse("--mount-options", ["soft"]).unwrap(),
            mount_permissions: Some(0o700),
            allow_inline: false,
        }
    }

    fn request(context: &[(&str, &str)]) -> csi::NodePublishVolumeRequest {
        csi::NodePublishVolumeRequest {
            volume_id: "any".to_owned(),
            target_path: TARGET.to_owned(),
            volume_capability: Some(csi::VolumeCapability {
                access_mode: Some(WireMode { mode: Mode::MultiNodeMultiWriter.into() }),
                access_type: Some(AccessType::Mount(MountVolume::default())),
            }),
            volume_context: context.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Default::default()
        }
    }

    fn with_mount(change: impl FnOnce(&mut MountVolume)) -> csi::NodePublishVolumeRequest {
        let mut mount = MountVolume::default();
        change(&mut mount);
        let mut request = request(VOLUME);
        request.volume_capability.as_mut().unwrap().access_type = Some(AccessType::Mount(mount));
        request
    }

    const VOLUME: &[(&str, &str)] = &[("server", "nfs"), ("share", "/export"), ("subDir", "team/volume")];

    fn refused_field(request: csi::NodePublishVolumeRequest) -> String {
        match parse(request, &defaults()) {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_parsed_with_the_defaults() {
        let publish = parse(request(VOLUME), &defaults()).unwrap();
        assert_eq!(publish.source.to_string(), "nfs:/export/team/volume");
        assert_eq!(publish.target.to_string(), TARGET);
        assert_eq!(publish.options.to_string(), "soft");
        assert_eq!(publish.root_attributes, RootAttributes { group: None, mode: Some(0o700) });
        assert!(!publish.single_target);
    }

    #[rstest]
    #[case::context(&[("SERVER", "::1"), ("Share", "/"), ("SUBDIR", "/a/")], "any", "[::1]:/a")]
    #[case::share_itself(&[("server", "nfs"), ("share", "export/"), ("subDir", "")], "any", "nfs:/export")]
    #[case::whole_export(&[("server", "nfs"), ("share", "/export"), ("subDir", "/")], "any", "nfs:/export")]
    #[case::identifier(&[("onDelete", "retain")], "nfs#export#a#pvc-1#retain", "nfs:/export/a")]
    #[case::older_identifier(&[], "nfs/export/a", "nfs:/export/a")]
    #[case::context_over_identifier(&[("server", "nfs"), ("share", "/b")], "other#export#a##", "nfs:/b")]
    #[case::templates(
        &[
            ("server", "nfs"), ("share", "/e"), ("subDir", "${pvc.metadata.namespace}/${pvc.metadata.name}"),
            ("csi.storage.k8s.io/pvc/name", "claim"), ("csi.storage.k8s.io/pvc/namespace", "team"),
        ],
        "any",
        "nfs:/e/team/claim"
    )]
    fn the_source_is_from_the_context_or_else_from_the_identifier(
        #[case] context: &[(&str, &str)],
        #[case] volume_id: &str,
        #[case] expected: &str,
    ) {
        let request = csi::NodePublishVolumeRequest { volume_id: volume_id.to_owned(), ..request(context) };
        assert_eq!(parse(request, &defaults()).unwrap().source.to_string(), expected);
    }

    #[test]
    fn a_snapshot_is_mounted_read_only_whatever_the_request() {
        let mut request = with_mount(|mount| mount.volume_mount_group = "2000".to_owned());
        request.volume_context.insert("snapshot".to_owned(), "snap-1".to_owned());
        let publish = parse(request, &defaults()).unwrap();
        assert_eq!(publish.source.to_string(), "nfs:/export/.csi-nfs/snapshots/snap-1.tree");
        assert!(publish.options.read_only());
        assert_eq!(publish.root_attributes, RootAttributes::default());
    }

    #[test]
    fn an_inline_volume_cannot_be_backed_by_a_snapshot() {
        let mut request = request(VOLUME);
        request.volume_context.insert("csi.storage.k8s.io/ephemeral".to_owned(), "true".to_owned());
        request.volume_context.insert("snapshot".to_owned(), "s".to_owned());
        let refused = parse(request, &Defaults { allow_inline: true, ..defaults() });
        assert!(matches!(refused, Err(Error::Invalid { field, .. }) if field == "volume_context[snapshot]"));
    }

    #[rstest]
    #[case("server", "")]
    #[case("server", "-overs=3")]
    #[case("server", "--bind")]
    #[case("server", "h,opt")]
    #[case("share", "")]
    #[case("share", "/a/../b")]
    #[case("share", "//")]
    #[case("share", "/export\n")]
    #[case("share", "/export/.csi-nfs/volumes")]
    #[case("subDir", "..")]
    #[case("subDir", "a//b")]
    #[case("subDir", ".csi-nfs")]
    #[case("subDir", ".csi-nfs/snapshots/s.tree")]
    #[case("snapshot", "")]
    #[case("snapshot", "..")]
    #[case("snapshot", "../volumes/x")]
    #[case("snapshot", "s.tree/inside")]
    #[case("snapshot", "s\n")]
    #[case("snapshot", "s#x")]
    #[case("subDir", "a\0")]
    #[case("subDir", "${pvc.metadata.name}")]
    #[case("mountPermissions", "8")]
    #[case("mountPermissions", "77777777777")]
    #[case("mountOptions", "addr=10.0.0.1")]
    #[case("mountOptions", "hard,suid")]
    #[case("csi.storage.k8s.io/ephemeral", "true")]
    fn an_error_names_the_invalid_key_of_the_context(#[case] key: &str, #[case] value: &str) {
        let mut request = request(VOLUME);
        request.volume_context.insert(key.to_owned(), value.to_owned());
        assert_eq!(refused_field(request), format!("volume_context[{key}]"));
    }

    #[rstest]
    #[case::no_share(&[("server", "nfs")], "volume_context[share]")]
    #[case::no_server(&[("share", "/export")], "volume_context[server]")]
    #[case::neither(&[], "volume_context")]
    #[case::two_spellings(&[("server", "nfs"), ("Server", "other"), ("share", "/e")], "volume_context[server]")]
    fn a_context_without_a_source_is_an_error(#[case] context: &[(&str, &str)], #[case] field: &str) {
        assert_eq!(refused_field(request(context)), field);
    }

    #[test]
    fn the_fields_that_csi_requires_are_required() {
        let without = |change: fn(&mut csi::NodePublishVolumeRequest)| {
            let mut request = request(VOLUME);
            change(&mut request);
            refused_field(request)
        };
        assert_eq!(without(|request| request.volume_id.clear()), "volume_id");
        assert_eq!(without(|request| request.target_path.clear()), "target_path");
        assert_eq!(without(|request| request.target_path = "../t".to_owned()), "target_path");
        assert_eq!(without(|request| request.volume_capability = None), "volume_capability");
    }

    #[rstest]
    #[case::flags(&["hard", "noatime"], "", false, "hard,noatime")]
    #[case::context(&[], "hard,vers=4.1", false, "hard,vers=4.1")]
    #[case::both(&["hard"], "vers=4.1", false, "hard,vers=4.1")]
    #[case::the_driver_s(&[], "", false, "soft")]
    #[case::read_only(&["rw"], "", true, "rw,ro")]
    fn options_are_from_the_capability_and_the_context_or_else_from_the_driver(
        #[case] flags: &[&str],
        #[case] context: &str,
        #[case] readonly: bool,
        #[case] expected: &str,
    ) {
        let mut request = with_mount(|mount| mount.mount_flags = flags.iter().map(|flag| (*flag).to_owned()).collect());
        if !context.is_empty() {
            request.volume_context.insert("mountOptions".to_owned(), context.to_owned());
        }
        request.readonly = readonly;
        let options = parse(request, &defaults()).unwrap().options;
        assert_eq!((options.to_string().as_str(), options.read_only()), (expected, readonly));
    }

    #[test]
    fn a_mount_group_and_permissions_apply_to_the_volume_s_root() {
        let mut request = with_mount(|mount| mount.volume_mount_group = "2000".to_owned());
        request.volume_context.insert("mountPermissions".to_owned(), "0".to_owned());
        assert_eq!(
            parse(request, &defaults()).unwrap().root_attributes,
            RootAttributes { group: Some(2000), mode: None }
        );
        let request = with_mount(|mount| mount.volume_mount_group = "staff".to_owned());
        assert_eq!(refused_field(request), "volume_capability.mount.volume_mount_group");
    }

    #[test]
    fn a_single_writer_has_a_single_target() {
        let mut request = request(VOLUME);
        let mode = WireMode { mode: Mode::SingleNodeSingleWriter.into() };
        request.volume_capability.as_mut().unwrap().access_mode = Some(mode);
        assert!(parse(request, &defaults()).unwrap().single_target);
    }

    #[test]
    fn an_inline_volume_cannot_choose_its_label_and_a_persistent_one_can() {
        let mut request = request(VOLUME);
        let label = "context=\"system_u:object_r:container_file_t:s0:c1,c2\"".to_owned();
        request.volume_context.insert("mountOptions".to_owned(), format!("hard,{label}"));
        let allowed = Defaults { allow_inline: true, ..defaults() };
        assert_eq!(parse(request.clone(), &allowed).unwrap().options.to_string(), format!("hard,{label}"));
        request.volume_context.insert("csi.storage.k8s.io/ephemeral".to_owned(), "true".to_owned());
        let error = parse(request, &allowed).unwrap_err().to_string();
        assert!(error.contains("volume_context[mountOptions]: an inline volume cannot choose SELinux"), "{error}");
    }

    #[test]
    fn inline_volumes_are_accepted_if_allowed() {
        let mut request = request(VOLUME);
        request.volume_context.insert("csi.storage.k8s.io/ephemeral".to_owned(), "true".to_owned());
        assert!(parse(request, &Defaults { allow_inline: true, ..defaults() }).is_ok());
    }
}
