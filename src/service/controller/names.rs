//! The names that a list goes through. They are read once for all pages of an export.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::lines::Lines;
use crate::error::Result;
use crate::export::Export;
use crate::export::fs::Fs;
use crate::nfs::source::Source;
use crate::volume::id::VolumeName;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// For how long names are used after they were read.
const KEPT: Duration = Duration::from_secs(60);
/// Of how many exports names are kept.
const EXPORTS: usize = 16;

/// The names of the volumes of exports in the middle of which a page of a list ended.
#[derive(Default)]
pub(super) struct Names(Arc<Mutex<HashMap<Source, Kept>>>);

/// The names of the volumes of an export.
#[derive(Clone)]
struct Kept {
    names: Arc<Lines>,
    read: Instant,
}

impl Names {
    /// The names of the volumes of an export behind `after`, sorted. There are at most `most` and one more, which shows
    /// that the list goes on.
    ///
    /// A volume that another controller makes may be missing if the list began before that, as CSI allows.
    pub(super) async fn some<F: Fs>(
        &self,
        export: &Export<F>,
        after: Option<&VolumeName>,
        most: usize,
    ) -> Result<Vec<VolumeName>> {
        let share = export.source();
        let known = after.and_then(|_| lock(&self.0).get(share).filter(|kept| kept.is_fresh()).cloned());
        let kept = match &known {
            Some(known) => known.clone(),
            None => Kept::read(export).await?,
        };
        let some: Vec<VolumeName> =
            kept.names.behind(after).map(|(name, _)| name).take(most.saturating_add(1)).collect();
        match known {
            _ if some.len() <= most => self.forget(share),
            Some(_) => {}
            None => self.keep(share, kept),
        }
        Ok(some)
    }

    /// Forgets the names of an export, which has others now.
    pub(super) fn forget(&self, share: &Source) {
        lock(&self.0).remove(share);
    }

    fn keep(&self, share: &Source, kept: Kept) {
        let mut all = lock(&self.0);
        all.insert(share.clone(), kept);
        if all.len() > EXPORTS
            && let Some(oldest) = all.iter().min_by_key(|(_, kept)| kept.read).map(|(share, _)| share.clone())
        {
            all.remove(&oldest);
        }
        // A list that nobody goes on with takes no memory for long.
        let all = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            sleep(KEPT).await;
            if let Some(all) = all.upgrade() {
                lock(&all).retain(|_, kept| kept.is_fresh());
            }
        });
    }
}

impl Kept {
    async fn read<F: Fs>(export: &Export<F>) -> Result<Self> {
        let (read, mut names) = (Instant::now(), Lines::default());
        // A hundred thousand names that are allocated one by one leave their memory in pieces.
        Record::each_name(export, |name| names.push(&name, "")).await?;
        names.sort();
        Ok(Self { names: Arc::new(names), read })
    }

    fn is_fresh(&self) -> bool {
        self.read.elapsed() < KEPT
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::crash_harness::reach;
    use crate::testing::memory::{MemoryFs, MemoryServer};
    use crate::volume::id::VolumeId;

    async fn make(export: &Export<MemoryFs>, name: &str) {
        let id = VolumeId::parse(&format!("nfs#export#{name}##")).unwrap();
        Record::unrecorded(&id).write(export).await.unwrap();
    }

    async fn some(names: &Names, export: &Export<MemoryFs>, after: &str, most: usize) -> String {
        let after = VolumeName::parse("", after).ok();
        let some = names.some(export, after.as_ref(), most).await.unwrap();
        some.iter().map(VolumeName::as_str).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_read_once_for_the_pages_of_a_list_and_anew_for_another_list() {
        let (export, names) = (reach(&MemoryServer::new()), Names::default());
        for name in ["b", "d", "f"] {
            make(&export, name).await;
        }
        assert_eq!(some(&names, &export, "", 1).await, "bd");
        make(&export, "c").await;
        let operations = export.fs().operations();
        assert_eq!(some(&names, &export, "b", 1).await, "df");
        assert_eq!(export.fs().operations(), operations);
        // Nothing is kept behind the last page.
        assert_eq!(some(&names, &export, "d", 1).await, "f");
        assert!(lock(&names.0).is_empty());
        assert_eq!(some(&names, &export, "b", 2).await, "cdf");
        make(&export, "e").await;
        assert_eq!(some(&names, &export, "", 1).await, "bc");
        assert_eq!(some(&names, &export, "d", 0).await, "e");
        make(&export, "g").await;
        names.forget(export.source());
        assert_eq!(some(&names, &export, "f", 0).await, "g");
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_forgotten_after_a_while_if_nobody_goes_on_with_the_list() {
        let (export, names) = (reach(&MemoryServer::new()), Names::default());
        for name in ["b", "d"] {
            make(&export, name).await;
        }
        some(&names, &export, "", 1).await;
        sleep(KEPT / 2).await;
        // Those of another list live on.
        some(&names, &export, "", 1).await;
        sleep(KEPT * 3 / 4).await;
        assert_eq!(lock(&names.0).len(), 1);
        sleep(KEPT / 2).await;
        assert!(lock(&names.0).is_empty());
    }
}
