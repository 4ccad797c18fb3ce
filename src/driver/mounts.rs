//! What is mounted on this node, for the status.

use std::collections::BTreeMap;

use crate::mount::table::{Table, is_kubelet_target};
use crate::mount::version::is_fallback;
use crate::node::publish_intents::PublishIntents;

/// How many volumes are mounted, by the server's address, the version of NFS, and whether that is lower than wanted.
pub fn mounts_by_server(intents: &PublishIntents) -> BTreeMap<[String; 3], u64> {
    let mut counts: BTreeMap<[String; 3], u64> = BTreeMap::new();
    // If the mount table cannot be read, no value is better than a wrong one.
    let Ok(table) = Table::read() else { return counts };
    for mount in table.mounts().filter(|mount| is_kubelet_target(&mount.target)) {
        let (Some(server), Some(version)) = (mount.server(), mount.option("vers")) else { continue };
        let intent = intents.at(&mount.target);
        let fallback = match is_fallback(mount, intent.as_ref().map(|intent| &intent.options)) {
            Some(true) => "true",
            Some(false) => "false",
            // An earlier process made the mount.
            None => "unknown",
        };
        *counts.entry([server.to_string(), version.to_owned(), fallback.to_owned()]).or_default() += 1;
    }
    counts
}
