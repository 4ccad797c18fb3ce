//! What requests say: the parameters of classes, mount options, sources, and NodePublishVolume.

use std::collections::HashMap;

use rustix::mount::MountAttrFlags;

use super::{assert_below, assert_presentable};
use crate::error::Result;
use crate::mount::table::Table;
use crate::nfs::option_table::{Effect, KNOWN, VALUE_MAX};
use crate::nfs::options::{MountOptions, Role};
use crate::nfs::source::{Server, Share, Source, SubDir};
use crate::node::root::RootAttributes;
use crate::service::proto::csi;
use crate::service::proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use crate::service::publish_request::{self, Defaults};
use crate::snapshot::parameters::Parameters as SnapshotParameters;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::parameters::{ARCHIVED, Attributes, Parameters};

/// The parameters of a class, a line `KEY=VALUE` for each, mean the same in any order, and lead to a volume with an
/// identifier.
pub fn class_parameters(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(parameters) = in_any_order(text, Parameters::parse) {
        assert_export(&parameters.export);
        assert_attributes(&parameters.attributes);
        if let Some(sub_dir) = parameters.sub_dir {
            assert!(!parameters.whole_export);
            assert!(sub_dir.first() != SubDir::PRIVATE && !sub_dir.first().starts_with(ARCHIVED));
            let Source { server, share, .. } = parameters.export;
            let uuid = Some(VolumeName::parse("", "pvc-1").unwrap());
            let id = VolumeId { server, share, sub_dir, uuid, on_delete: None };
            assert_eq!(VolumeId::parse(&id.to_string()), Ok(id));
        }
    }
    if let Some(attributes) = in_any_order(text, Attributes::parse) {
        assert_attributes(&attributes);
    }
    if let Some(parameters) = in_any_order(text, SnapshotParameters::parse) {
        assert_export(&parameters.place(&super::export()));
    }
}

/// What the lines are parsed to, if they are valid.
fn in_any_order<T: PartialEq + std::fmt::Debug>(
    text: &str,
    parse: fn(&HashMap<String, String>) -> Result<T>,
) -> Option<T> {
    // Each map has an order of its own.
    let parsed = parse(&pairs(text.lines()));
    for _ in 0..4 {
        assert_eq!(parse(&pairs(text.lines())).ok().as_ref(), parsed.as_ref().ok());
    }
    parsed.inspect_err(assert_presentable).ok()
}

fn pairs<'a>(lines: impl Iterator<Item = &'a str>) -> HashMap<String, String> {
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn assert_export(export: &Source) {
    assert_eq!(Server::parse("", export.server.as_str()).as_ref(), Ok(&export.server));
    assert_eq!(Share::parse("", &export.share.to_string()).as_ref(), Ok(&export.share));
}

fn assert_attributes(attributes: &Attributes) {
    assert!(attributes.mode.is_none_or(|mode| (1..=0o7777).contains(&mode)));
    assert!(attributes.uid != Some(u32::MAX) && attributes.gid != Some(u32::MAX));
    let json = serde_json::to_vec(attributes).unwrap();
    assert_eq!(serde_json::from_slice::<Attributes>(&json).unwrap(), *attributes);
}

/// Mount options, a line for each flag, read back as they are shown, smuggle nothing in, and never drop `nodev,nosuid`.
pub fn mount_options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match MountOptions::parse("", text.lines()) {
        Ok(options) => {
            assert_options(&options);
            assert_eq!(options.recorded(), options.to_vec());
            let own = options.for_role(Role::Controller);
            assert_options(&own);
            assert_eq!(own.for_role(Role::Controller), own);
            assert_eq!((own.versions(), own.port()), (options.versions(), options.port()));
        }
        Err(error) => assert_presentable(&error),
    }
    match MountOptions::parse_secret("", text) {
        Ok(options) => {
            assert_eq!(options.to_string(), "options from a secret");
            assert_eq!(format!("{options:?}"), "MountOptions(options from a secret)");
            assert!(options.recorded().is_empty());
        }
        Err(error) => assert_presentable(&error),
    }
}

fn assert_options(options: &MountOptions) {
    assert_eq!(MountOptions::parse("", [options.to_string()]).as_ref(), Ok(options));
    assert_eq!(MountOptions::parse("", options.to_vec()).as_ref(), Ok(options));
    assert!(options.attributes().contains(MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID));
    for (name, value) in options.parameters() {
        let effects = KNOWN.iter().filter(|(known, ..)| *known == name).map(|(_, _, effect)| effect);
        let is_label = effects.clone().any(|effect| *effect == Effect::Label);
        assert!(effects.clone().any(|effect| !matches!(effect, Effect::Refused(_))), "{name}");
        let value = value.unwrap_or_default();
        assert!(value.len() <= VALUE_MAX && value.is_ascii(), "{value:?}");
        assert!(is_label || !value.contains(','), "{value:?}");
        assert!(!value.contains(|c: char| c.is_control() || "\"\\ =#".contains(c)), "{value:?}");
    }
}

/// A source (the lines server, share, directory) is found in the mount table that shows it.
pub fn source(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (server, share) = (Server::parse("server", line()), Share::parse("share", line()));
    let (sub_dir, tree) = (SubDir::parse("subDir", line()), SubDir::snapshot_tree("snapshot", line()));
    if let Ok(tree) = &tree {
        assert_below(tree.as_str());
        assert_eq!(tree.names().count(), 3);
    }
    for error in [server.as_ref().err(), share.as_ref().err(), sub_dir.as_ref().err(), tree.err().as_ref()] {
        error.into_iter().for_each(assert_presentable);
    }
    let (Ok(server), Ok(share)) = (server, share) else { return };
    let source = Source { server, share, sub_dir: sub_dir.ok() };
    assert_export(&source);
    let shown: String = source.to_string().chars().map(escaped).collect();
    let table = Table::parse(format!("26 25 0:26 / /target rw - nfs4 {shown} rw\n").as_bytes());
    let mount = table.mounts().next().unwrap();
    assert!(mount.is_of(&source, None), "{shown}");
    assert!(mount.is_within(&source.export(), &[]), "{shown}");
}

/// As the kernel writes a character in mountinfo.
fn escaped(char: char) -> String {
    if " \t\n\\#".contains(char) { format!("\\{:03o}", u32::from(char)) } else { char.to_string() }
}

/// A request to publish a volume mounts a directory of a share, and of the driver's own directory nothing but the tree
/// of a snapshot, read-only.
///
/// The lines are the volume's identifier, the target, the group, the number of the access mode, and then `-FLAG` for
/// each mount flag, and `KEY=VALUE` for each entry of the volume's context.
pub fn publish_request(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default().to_owned();
    let (volume_id, target_path, volume_mount_group, mode) = (line(), line(), line(), line());
    let (flags, context): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with('-'));
    let mount_flags = flags.iter().map(|flag| flag.trim_start_matches('-').to_owned()).collect();
    let mount = MountVolume { mount_flags, volume_mount_group, ..Default::default() };
    let request = csi::NodePublishVolumeRequest {
        volume_id,
        target_path,
        volume_capability: Some(csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: mode.parse().unwrap_or_default() }),
            access_type: Some(AccessType::Mount(mount)),
        }),
        volume_context: pairs(context.into_iter()),
        ..Default::default()
    };
    let inline = request.volume_context.get("csi.storage.k8s.io/ephemeral").is_some_and(|value| value == "true");
    for allow_inline in [false, true] {
        let mount_options = MountOptions::default();
        let parsed = publish_request::parse(
            request.clone(),
            &Defaults { mount_options, mount_permissions: Some(0o770), allow_inline },
        );
        match parsed {
            Ok(publish) => {
                assert!(allow_inline || !inline);
                assert_options(&publish.options);
                let target = publish.target.to_string();
                assert!(target.starts_with('/') && target.split('/').all(|name| !matches!(name, "." | "..")));
                assert_export(&publish.source);
                let Some(sub_dir) = &publish.source.sub_dir else { continue };
                assert_below(sub_dir.as_str());
                if sub_dir.first() == SubDir::PRIVATE {
                    let names: Vec<&str> = sub_dir.as_str().split('/').collect();
                    assert!(matches!(names[..], [_, "snapshots", tree] if tree.ends_with(".tree")), "{sub_dir}");
                    assert!(publish.options.read_only() && publish.root_attributes == RootAttributes::default());
                    assert!(!inline);
                }
            }
            Err(error) => assert_presentable(&error),
        }
    }
}
