//! What is mounted on this node, by server, for the metrics and the status. For the metrics, a task reads the mount
//! table when something was published or unpublished, and from time to time; a scrape reads what it has found.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};
use crate::mount::compare::less_secure;
use crate::mount::local::Local;
use crate::mount::reachability::Reachability;
use crate::mount::table::{Mount, Table, is_kubelet_target};
use crate::mount::version::is_fallback;
use crate::node::publish_intents::PublishIntents;

const MOUNTSTATS: &str = "/proc/self/mountstats";
/// How often the mount table is read if nothing happens.
const EVERY: Duration = Duration::from_secs(15);
/// The least pause between two reads, and how many times longer it is than a read.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_PER_READ: u32 = 20;

/// What mounts have in common that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The server's address.
    pub server: String,
    /// The version of NFS.
    pub version: String,
    /// The security flavour in force.
    pub sec: String,
    /// The transport security in force.
    pub xprtsec: String,
    /// Whether a better version was wanted; `None` if an earlier process made the mount.
    pub fallback: Option<bool>,
}

impl Kind {
    /// [`Self::fallback`] as text.
    pub fn fallback(&self) -> &'static str {
        match self.fallback {
            Some(true) => "true",
            Some(false) => "false",
            None => "unknown",
        }
    }
}

/// The volumes mounted on this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mounts {
    /// How many there are of each kind.
    pub kinds: BTreeMap<Kind, u64>,
    /// How many of each server are less secure than this process was asked to mount them.
    pub weaker: BTreeMap<String, u64>,
    /// When the kernel mounted the oldest of each server. Mounts of one export share this time.
    pub oldest: BTreeMap<String, SystemTime>,
}

/// Keeps the last [`Mounts`].
#[derive(Debug, Default)]
pub struct MountsWatch(Mutex<Mounts>);

impl MountsWatch {
    /// What was found last; nothing if the mount table could not be read.
    pub fn last(&self) -> Mounts {
        self.kept().clone()
    }

    /// Reads the mount table without end. Each server with mounts counts as used.
    pub async fn keep(&self, local: &Local, intents: &Arc<PublishIntents>, reachability: &Arc<Reachability>) {
        loop {
            let begun = Instant::now();
            let found = self.read(local, intents, reachability).await;
            *self.kept() = found.unwrap_or_else(|error| {
                // No value is better than a wrong one.
                tracing::warn!(%error, "the volumes on this node cannot be counted");
                Mounts::default()
            });
            tokio::time::sleep(PAUSE + begun.elapsed() * PAUSE_PER_READ).await;
            // Either way, it is time to read again.
            let _nothing_happened = timeout(EVERY, intents.changed()).await;
        }
    }

    async fn read(
        &self,
        local: &Local,
        intents: &Arc<PublishIntents>,
        reachability: &Arc<Reachability>,
    ) -> Result<Mounts> {
        let table = local.table().await?;
        for mount in volumes(&table) {
            if let Some(server) = mount.server() {
                reachability.in_use(&server, mount.tcp_port());
            }
        }
        let intents = Arc::clone(intents);
        local.run(move || Ok(count(&table, &intents, &ages()?, SystemTime::now()))).await
    }

    fn kept(&self) -> MutexGuard<'_, Mounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many volumes of each kind are mounted now. Reads the mount table; nothing if that fails, because no value is
/// better than a wrong one.
pub fn kinds_now(intents: &PublishIntents) -> BTreeMap<Kind, u64> {
    let counted = |table: Table| count(&table, intents, &HashMap::new(), SystemTime::now()).kinds;
    Table::read().map(counted).unwrap_or_default()
}

fn volumes(table: &Table) -> impl Iterator<Item = &Mount> {
    table.mounts().filter(|mount| mount.is_nfs() && is_kubelet_target(&mount.target))
}

fn count(table: &Table, intents: &PublishIntents, ages: &HashMap<PathBuf, Duration>, now: SystemTime) -> Mounts {
    let mut mounts = Mounts::default();
    for mount in volumes(table) {
        let (Some(server), Some(version)) = (mount.server(), mount.option("vers")) else { continue };
        let (intent, server) = (intents.at(&mount.target), server.to_string());
        let kind = Kind {
            server: server.clone(),
            version: version.to_owned(),
            sec: mount.option("sec").unwrap_or("sys").to_owned(),
            xprtsec: mount.option("xprtsec").unwrap_or("none").to_owned(),
            fallback: is_fallback(mount, intent.as_ref().map(|intent| &intent.options)),
        };
        *mounts.kinds.entry(kind).or_default() += 1;
        let is_weaker = intent.is_some_and(|one| less_secure(mount, &one.options, one.read_only_by_mode).is_some());
        *mounts.weaker.entry(server.clone()).or_default() += u64::from(is_weaker);
        if let Some(since) = ages.get(&mount.target).and_then(|age| now.checked_sub(*age)) {
            mounts.oldest.entry(server).and_modify(|oldest| *oldest = since.min(*oldest)).or_insert(since);
        }
    }
    mounts
}

/// The ages of NFS mounts by target. The kernel tells them nowhere else.
fn ages() -> Result<HashMap<PathBuf, Duration>> {
    let text = std::fs::read(MOUNTSTATS);
    text.map(|text| parse_ages(&text)).map_err(|error| Error::Internal(format!("reading {MOUNTSTATS}: {error}")))
}

/// Parses the lines `device SOURCE mounted on TARGET with fstype TYPE …` and `age: SECONDS` of mountstats.
pub(crate) fn parse_ages(text: &[u8]) -> HashMap<PathBuf, Duration> {
    let text = String::from_utf8_lossy(text);
    let (mut ages, mut target) = (HashMap::new(), None);
    for line in text.lines() {
        if line.starts_with("device ") {
            let found = line.split_once(" mounted on ").and_then(|(_, rest)| rest.rsplit_once(" with fstype "));
            target = found.map(|(target, _)| Path::new(target).to_owned());
        } else if let Some(age) = line.trim_start().strip_prefix("age:")
            && let (Some(target), Ok(seconds)) = (target.take(), age.trim().parse())
        {
            ages.insert(target, Duration::from_secs(seconds));
        }
    }
    ages
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pv/mount";

    #[test]
    fn mounts_are_counted_by_what_is_in_force() {
        let line = |id: u64, target: &str, options: &str| {
            format!("{id} 25 0:{id} / {target} rw - nfs4 nfs:/e rw,{options},addr=192.0.2.1\n")
        };
        let text = line(26, TARGET, "vers=4.2,sec=krb5p,xprtsec=tls")
            + &line(27, &TARGET.replace("pv", "other"), "vers=4.2,sec=sys")
            + &line(28, &TARGET.replace("pv", "third"), "vers=4.2,sec=sys")
            + &line(29, "/mnt", "vers=4.2,sec=sys");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let ages = [(TARGET.into(), Duration::from_secs(10)), ("/mnt".into(), Duration::from_secs(99))].into();
        let mounts = count(&Table::parse(text.as_bytes()), &PublishIntents::default(), &ages, now);
        let kinds: Vec<_> = mounts.kinds.iter().map(|(kind, count)| (&*kind.sec, &*kind.xprtsec, *count)).collect();
        assert_eq!(kinds, [("krb5p", "tls", 1), ("sys", "none", 2)]);
        assert_eq!(mounts.weaker, [("192.0.2.1".to_owned(), 0)].into());
        assert_eq!(mounts.oldest, [("192.0.2.1".to_owned(), now - Duration::from_secs(10))].into());
    }

    #[test]
    fn the_age_of_each_nfs_mount_is_found() {
        let text = "device tmpfs mounted on /run with fstype tmpfs\n\
                    device nfs:/e mounted on /a with fstype nfs4 statvers=1.1\n\topts:\trw,vers=4.2\n\tage:\t17\n\tcaps:\t0\n\
                    device nfs:/f mounted on /b with fstype nfs4 statvers=1.1\n\tage:\tnone\n\
                    device nfs:/g mounted on /c with fstype nfs statvers=1.1\n\tage:\t5\n";
        let expected = [("/a".into(), Duration::from_secs(17)), ("/c".into(), Duration::from_secs(5))];
        assert_eq!(parse_ages(text.as_bytes()), expected.into());
    }
}
