//! The volumes on an export, and whether their directories exist.

use std::future::ready;
use std::pin::pin;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::Finding;
use crate::check::progress::Progress;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Name, Status};
use crate::nfs::source::SubDir;
use crate::volume::id::VolumeName;
use crate::volume::limits::{Limits, Quota};
use crate::volume::record::{Record, snapshot_tree};
use crate::volume::record_file::RecordFile as _;

/// How many directories are looked at at the same time.
const LOOKS: usize = 16;

/// What a check compares of a volume's record: there may be very many.
pub(super) struct Volume {
    pub(super) name: VolumeName,
    /// The directory, if it is not called like the volume.
    sub_dir: Option<Box<SubDir>>,
    pub(super) backing_snapshot: Option<Box<VolumeName>>,
    pub(super) limits: Limits,
    /// Whether it has to be recorded as an owner of its directory.
    pub(super) is_owner: bool,
    pub(super) is_pending: bool,
    /// Whether its limits have to be in force.
    pub(super) is_quota_required: bool,
}

impl Volume {
    fn new(name: VolumeName, record: Record) -> Self {
        Self {
            limits: record.limits(),
            is_owner: record.id.uuid.is_some(),
            is_pending: record.pending,
            is_quota_required: record.attributes.quota.is_some_and(Quota::is_required),
            backing_snapshot: record.backing_snapshot.map(Box::new),
            sub_dir: Some(record.id.sub_dir).filter(|sub_dir| sub_dir.as_str() != name.as_str()).map(Box::new),
            name,
        }
    }

    /// Its directory.
    pub(super) fn sub_dir(&self) -> &str {
        self.sub_dir.as_ref().map_or(self.name.as_str(), |sub_dir| sub_dir.as_str())
    }

    /// The path from the share to the volume's content.
    pub(super) fn path(&self) -> Result<Vec<Name>> {
        match (&self.backing_snapshot, &self.sub_dir) {
            (Some(snapshot), _) => snapshot_tree(snapshot),
            (None, Some(sub_dir)) => Ok(sub_dir.names().collect()),
            (None, None) => Ok(vec![self.name.file("")?]),
        }
    }
}

/// The volumes whose records can be read, sorted by name.
pub(super) struct Volumes(Vec<Volume>);

impl Volumes {
    /// Reads the records of all volumes.
    pub(super) async fn read<F: Fs>(
        export: &Export<F>,
        progress: &Progress,
        findings: &mut Vec<Finding>,
    ) -> Result<Self> {
        let names = Record::names(export).await?;
        progress.begin("reading records of volumes", names.len());
        let mut volumes = Vec::with_capacity(names.len());
        let mut reads = pin!(Record::read_each(export, names));
        while let Some((name, read)) = reads.next().await {
            progress.step();
            match read {
                Ok(Some(record)) => {
                    if record.pending {
                        findings.push(Finding::VolumePending { volume: name.to_string() });
                    }
                    volumes.push(Volume::new(name, record));
                }
                Ok(None) => {}
                Err(error) => {
                    let file = Record::file(&name)?.to_string();
                    findings.push(Finding::RecordUnreadable { file, reason: error.to_string() });
                }
            }
        }
        Ok(Self(volumes))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Volume> {
        self.0.iter()
    }

    /// The directories of all volumes, and of `others`, sorted.
    pub(super) fn directories<'a>(&'a self, others: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let mut directories: Vec<&str> = self.iter().map(Volume::sub_dir).chain(others).collect();
        directories.sort_unstable();
        directories
    }

    pub(super) fn get(&self, name: &VolumeName) -> Option<&Volume> {
        self.0.binary_search_by(|volume| volume.name.cmp(name)).ok().and_then(|at| self.0.get(at))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds volumes whose directories do not exist, or are on another file system.
    pub(super) async fn check_directories<F: Fs>(
        &self,
        export: &Export<F>,
        progress: &Progress,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        progress.begin("looking at directories of volumes", self.len());
        let looks = stream::iter(0..self.len()).map(async |at| {
            let Some(volume) = self.0.get(at).filter(|volume| !volume.is_pending) else { return Ok(None) };
            let found = is_there(export, volume.path()?).await?;
            progress.step();
            let directory = || volume.sub_dir().to_owned();
            Ok::<_, Error>(match found {
                Some(true) => None,
                Some(false) => {
                    Some(Finding::DirectoryMissing { volume: volume.name.to_string(), directory: directory() })
                }
                None => Some(Finding::OtherFileSystem { directory: directory() }),
            })
        });
        let found: Vec<Finding> = looks.buffered(LOOKS).try_filter_map(|found| ready(Ok(found))).try_collect().await?;
        findings.extend(found);
        Ok(())
    }
}

/// Whether there is a directory at `path`; `None` if another file system is mounted on the way.
async fn is_there<F: Fs>(export: &Export<F>, path: Vec<Name>) -> Result<Option<bool>> {
    match export.find_dir(&export.fs().root(), path).await {
        Err(Error::Export { status: Status::XDev, .. }) => Ok(None),
        found => Ok(Some(found?.is_some())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::crash_harness::reach;
    use crate::testing::memory::MemoryServer;
    use crate::volume::id::VolumeId;

    #[tokio::test]
    async fn a_check_keeps_of_each_volume_what_its_record_says() {
        let export = reach(&MemoryServer::new());
        let named = |name: &str| VolumeName::parse("", name).unwrap();
        let record = |id: &str| Record::unrecorded(&VolumeId::parse(id).unwrap());
        let records = [
            Record { capacity: 7, ..record("nfs#export#plain##") },
            record("nfs#export#team/app#nested#"),
            Record { backing_snapshot: Some(named("s")), capacity: 7, ..record("nfs#export#shown##") },
        ];
        for record in &records {
            record.write(&export).await.unwrap();
        }
        let volumes = Volumes::read(&export, &Progress::default(), &mut Vec::new()).await.unwrap();
        assert_eq!(volumes.len(), records.len());
        for record in records {
            let volume = volumes.get(&record.name().unwrap()).unwrap();
            assert_eq!(volume.sub_dir(), record.id.sub_dir.as_str());
            assert_eq!(volume.path(), record.path());
            assert_eq!(volume.limits, record.limits());
            assert_eq!(volume.is_owner, record.id.uuid.is_some());
        }
        assert!(volumes.get(&named("other")).is_none());
    }
}
