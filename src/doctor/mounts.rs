//! The mounts of the export that this machine has already. A mount keeps the handle of its directory, so it can be lost
//! where a new mount is served.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout_at};

use super::report::{Report, Step};
use crate::mount::table::Mount;
use crate::nfs::source::Source;
use crate::node::mount_probe::{Failure, MountProbe};
use crate::node::target::Target;

/// How long the server may take for all mounts.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many mounts are asked for at the same time.
const AT_ONCE: usize = 8;
/// How many are named.
const NAMED: usize = 3;

const ADVICE: &str = "the server exports the file system with another fsid, or not any more, or the directories were \
                      removed: give it a fixed fsid= in the server's exports, and restart the pods that use these mounts";

/// Looks at each mount of `share`, or of a directory below it, that this machine has from the server at one of
/// `addresses`. Without such mounts, there is no step.
pub async fn examine(share: &Source, addresses: &[IpAddr], probe: &MountProbe, report: &mut Report) {
    let tried = format!("reading the mounts of {share} that this machine has");
    let mounts: Vec<Mount> = match probe.local().table().await {
        Ok(table) => table.mounts().filter(|mount| mount.is_within(share, addresses)).cloned().collect(),
        Err(error) => return report.add(Step::bad("mounts", &tried, error.to_string(), "")),
    };
    if mounts.is_empty() {
        return;
    }
    let (of, deadline) = (mounts.len(), Instant::now() + PATIENCE);
    let looks = stream::iter(mounts).map(async |mount| {
        let failure = look(probe, &mount, deadline).await?;
        Some((mount.target, failure))
    });
    let lost: Vec<_> = looks.buffered(AT_ONCE).filter_map(async |lost| lost).collect().await;
    report.add(match &*lost {
        [] => Step::good("mounts", &tried, format!("{of} answer")),
        _ => {
            let named = lost.iter().take(NAMED).map(|(target, failure)| format!("{}: {failure}", target.display()));
            let more = if lost.len() > NAMED { ", and others" } else { "" };
            let named = named.collect::<Vec<_>>().join(", ");
            Step::bad("mounts", &tried, format!("{} of {of} are lost: {named}{more}", lost.len()), ADVICE)
        }
    });
}

/// Why a mount does not answer; `None` if it does, or was unmounted meanwhile.
async fn look(probe: &MountProbe, mount: &Mount, deadline: Instant) -> Option<Failure> {
    let target = Target::try_from(mount.target.as_path()).ok()?;
    let Ok(place) = timeout_at(deadline, probe.local().run(move || target.find())).await else {
        return Some(Failure::Silent);
    };
    let read = probe.root(&Arc::new(place.ok()??), mount, deadline).await;
    read.err().filter(|failure| *failure != Failure::Gone)
}
