//! What a look at an export reads.

use std::time::SystemTime;

use crate::error::Result;
use crate::export::Export;
use crate::export::fs::{Entry, Fs, Name, Status};
use crate::nfs::attributes::Time;
use crate::snapshot::record::Record as Snapshot;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use crate::volume::{health, overcommit, quota};
use crate::watch::first_seen::FirstSeen;
use crate::watch::trash_size;

/// The figures of an export, besides those of its file system. All are 0 or `None` on an export that the driver has not
/// used yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Whether the export is read-only.
    pub read_only: Option<bool>,
    /// Records of volumes.
    pub volumes: u64,
    /// Records of snapshots.
    pub snapshots: u64,
    /// Since when the oldest entry of the trash is there, as far as this process has seen.
    pub trash_oldest: Option<SystemTime>,
    /// The bytes of files in the trash, at least; `None` if it is empty.
    pub trash_bytes: Option<u64>,
    /// Since when the oldest entry of staging is there, as far as this process has seen.
    pub staging_oldest: Option<SystemTime>,
    /// The bytes that are promised to volumes, if a class with `overcommit` has asked for the sum.
    pub promised_bytes: Option<u128>,
    /// When the agent last finished a look at all volumes, in seconds since the epoch, if there ever was an agent.
    pub agent_looked: Option<u64>,
    /// The bytes that snapshots use, if an agent counts them.
    pub snapshots_bytes: Option<u64>,
}

/// What is remembered from one look at an export to the next.
#[derive(Debug, Default)]
pub struct Memory {
    volumes: Count,
    snapshots: Count,
    trash: FirstSeen,
    staging: FirstSeen,
}

/// The number of records in a directory.
#[derive(Debug, Default)]
struct Count {
    /// When the directory had last been changed, at the last look.
    changed: Option<Time>,
    /// Whether nothing had changed between the last two looks. A directory may change twice within one tick of the
    /// server's clock, so the first look after a change is not the last one that counts.
    settled: bool,
    records: u64,
}

impl Figures {
    /// Whether anything of the driver's is on the export.
    pub fn holds_anything(&self) -> bool {
        self.volumes + self.snapshots > 0 || self.trash_oldest.is_some() || self.staging_oldest.is_some()
    }

    /// Reads the figures. On an export at rest, the cost does not depend on the number of volumes.
    pub async fn read<F: Fs>(export: &Export<F>, memory: &mut Memory) -> Result<Self> {
        let Some(layout) = export.layout().await? else { return Ok(Self::default()) };
        let volumes = memory.volumes.read(export, &layout.volumes, |name| Record::of_file(name).is_some()).await?;
        let snapshots =
            memory.snapshots.read(export, &layout.snapshots, |name| Snapshot::of_file(name).is_some()).await?;
        let (trash, staging) = (export.entries(&layout.trash).await?, export.entries(&layout.staging).await?);
        let now = SystemTime::now();
        let trash_bytes = match trash.is_empty() {
            true => None,
            false => Some(trash_size::allocated(export, &layout.trash, &trash).await),
        };
        let agent = quota::agent(export).await?;
        Ok(Self {
            read_only: Some(health::is_read_only(export, &layout).await),
            volumes,
            snapshots,
            trash_oldest: memory.trash.note(&trash, now),
            trash_bytes,
            staging_oldest: memory.staging.note(&staging, now),
            promised_bytes: overcommit::indexed(export).await?,
            agent_looked: agent.map(|agent| agent.looked).filter(|looked| *looked > 0),
            snapshots_bytes: quota::snapshots(export).await?.map(|snapshots| snapshots.bytes),
        })
    }
}

impl Count {
    async fn read<F: Fs>(
        &mut self,
        export: &Export<F>,
        dir: &F::Handle,
        is_record: impl Fn(&Name) -> bool,
    ) -> Result<u64> {
        let failed = |status: Status| export.failed("counting records", status);
        let changed = export.fs().getattr(dir).await.map_err(failed)?.mtime;
        let same = self.changed == Some(changed);
        if !(same && self.settled) {
            let is_record = |entry: &Entry| is_record(&entry.name);
            // Page by page: a listing of all would take megabytes.
            let (mut records, mut cookie) = (0, Some(0));
            while let Some(from) = cookie {
                let page = export.fs().readdir(dir, from).await.map_err(failed)?;
                records += page.entries.iter().filter(|entry| is_record(entry)).count() as u64;
                cookie = page.next;
            }
            self.records = records;
        }
        (self.changed, self.settled) = (Some(changed), same);
        Ok(self.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::crash_harness::{connect, create};
    use crate::testing::create;
    use crate::testing::memory::{MemoryFs, MemoryServer, Node};

    async fn read(export: &Export<MemoryFs>, memory: &mut Memory) -> Figures {
        Figures::read(export, memory).await.unwrap()
    }

    #[tokio::test]
    async fn an_export_that_the_driver_has_not_used_has_no_figures_and_stays_as_it_is() {
        let server = MemoryServer::new();
        let before = server.tree();
        assert_eq!(read(&connect(&server), &mut Memory::default()).await, Figures::default());
        assert_eq!(server.tree(), before);
    }

    #[tokio::test]
    async fn volumes_snapshots_trash_staging_promises_and_the_agent_are_told() {
        let server = MemoryServer::new();
        let (on, mut memory) = (connect(&server), Memory::default());
        for name in ["v", "w"] {
            create(&on, create::volume(name, 1 << 20), false).await.unwrap();
        }
        let first = read(&on, &mut memory).await;
        assert_eq!(first, Figures { volumes: 2, read_only: Some(false), ..Figures::default() });
        let plant = |path: &str, content: &str| server.plant(path, Node::file(0o600, content)).unwrap();
        plant(".csi-nfs/snapshots/s.json", "{}");
        plant(".csi-nfs/snapshots/g.group", "{}");
        let agent = r#"{"version":"1","fileSystem":"xfs","holdsRoot":true,"looked":7,"period":60}"#;
        plant(".csi-nfs/quota/agent.json", agent);
        plant(".csi-nfs/trash/one", "gone");
        plant(".csi-nfs/staging/half", "");
        plant(".csi-nfs/quota/snapshots.json", r#"{"project":1,"bytes":4096,"inodes":3}"#);
        plant(".csi-nfs/promised/index.json", r#"{"version":1,"others":"5","open":"v","counted":1}"#);
        let second = read(&on, &mut memory).await;
        assert_eq!((second.volumes, second.snapshots, second.agent_looked), (2, 1, Some(7)));
        assert_eq!((second.promised_bytes, second.snapshots_bytes), (Some(5 + (1 << 20)), Some(4096)));
        assert!(second.trash_bytes.unwrap() >= 4);
        assert!(second.trash_oldest.is_some() && second.staging_oldest.is_some() && second.holds_anything());
        server.set_read_only(true);
        assert_eq!(read(&on, &mut memory).await.read_only, Some(true));
    }

    #[tokio::test]
    async fn records_are_listed_only_if_the_directory_has_changed() {
        let server = MemoryServer::new();
        let (on, mut memory) = (connect(&server), Memory::default());
        for number in 0..200 {
            create(&on, create::volume(&format!("v{number}"), 1), false).await.unwrap();
        }
        let mut cost = Vec::new();
        for _ in 0..4 {
            let before = on.fs().operations();
            assert_eq!(read(&on, &mut memory).await.volumes, 200);
            cost.push(on.fs().operations() - before);
        }
        assert_eq!(cost[2], cost[3]);
        assert!(cost[3] + 5 < cost[0], "{cost:?}");
        create(&on, create::volume("one-more", 1), false).await.unwrap();
        assert_eq!(read(&on, &mut memory).await.volumes, 201);
    }
}
