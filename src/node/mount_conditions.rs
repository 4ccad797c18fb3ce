//! The conditions of mounts and of their servers, in words: the reason of each, what it means, and what to do.

use crate::mount::table::Mount;
use crate::nfs::condition::{Condition, Severity};
use crate::nfs::status::Status;
use crate::node::mount_probe::Failure;
use crate::node::target::Place;

const SERVER_UNREACHABLE: &str = "ServerUnreachable";
const ASK_SERVER: &str = "check that the NFS server runs and that its port is open from this node";

const MOUNT_ANEW: &str = "delete the pod, so that its volumes are mounted again";

/// Some servers, each with its failure, do not answer.
pub(super) fn servers_unreachable(silent: &[String]) -> Condition {
    Condition {
        severity: Severity::Inaccessible,
        reason: SERVER_UNREACHABLE,
        message: format!("{ASK_SERVER}: {}", silent.join("; ")),
    }
}

/// The name of the mount's server has the address of `to` by now.
pub(super) fn server_moved(place: &Place, mount: &Mount, to: &str, severity: Severity) -> Condition {
    let message = format!("{} at {place} is mounted from {to}; {MOUNT_ANEW}", mount.source());
    Condition { severity, reason: "ServerMoved", message }
}

pub(super) fn wrong_volume(place: &Place, mount: &Mount) -> Condition {
    Condition {
        severity: Severity::Inaccessible,
        reason: "WrongVolumeMounted",
        message: format!("{} is mounted at {place}, not this volume; {MOUNT_ANEW}", mount.source()),
    }
}

pub(super) fn read_only(place: &Place, mount: &Mount) -> Condition {
    Condition {
        severity: Severity::Degraded,
        reason: "ReadOnlyOnServer",
        message: format!(
            "{} is mounted read-write at {place}, but the server allows no writes: export it with rw in \
             /etc/exports, and check the server's file system for errors",
            mount.source()
        ),
    }
}

pub(super) fn group_refused(place: &Place, mount: &Mount, status: Status) -> Condition {
    Condition {
        severity: Severity::Degraded,
        reason: "GroupRefused",
        message: format!(
            "{} is mounted at {place}, but the server refused to give it the group or mode that was requested \
             (fsGroup, mountPermissions): {status}; export it with no_root_squash for this node, or set the group on \
             the server and leave fsGroup out; then {MOUNT_ANEW}",
            mount.source()
        ),
    }
}

pub(super) fn lower_version(place: &Place, mount: &Mount) -> Condition {
    let version = mount.option("vers").unwrap_or_default();
    let locks = if mount.has("nolock") { ", and other nodes do not see the locks of this node" } else { "" };
    Condition {
        severity: Severity::Degraded,
        reason: "NFSVersionFallback",
        message: format!(
            "{} is mounted at {place} with NFS version {version}, because the server did not have a better one{locks}; \
             check which versions the server has, then {MOUNT_ANEW}; or set `vers={version}` in the mount options",
            mount.source()
        ),
    }
}

pub(super) fn explain(failure: &Failure, place: &Place, source: &str) -> Condition {
    let (reason, advice) = match failure {
        Failure::Unreachable(_) => (SERVER_UNREACHABLE, ASK_SERVER),
        Failure::Silent => ("ServerSilent", "check the server's load and disks"),
        Failure::Gone => ("MountMissing", MOUNT_ANEW),
        Failure::Failed(Status::Stale) => (
            "StaleFileHandle",
            "the volume's directory was removed, was replaced or is no longer exported: restore it on the server, \
             then delete the pod",
        ),
        Failure::Failed(_) => ("VolumeUnreadable", "check /etc/exports and the log of the server"),
    };
    Condition { severity: Severity::Inaccessible, reason, message: format!("{source} at {place}: {failure}; {advice}") }
}
