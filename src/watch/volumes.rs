//! The health of the volumes of the exports in use, looked at in slices, round after round. Only what is not well is
//! kept.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Cookie, Fs, Status};
use crate::nfs::condition::Severity;
use crate::nfs::source::Source;
use crate::volume::id::VolumeName;
use crate::volume::kubernetes::KubernetesNames;
use crate::volume::quota::Reports;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use crate::volume::survey;

/// How many volumes a slice has.
const SLICE: usize = 64;
/// The least time between the beginnings of two rounds.
const ROUND: Duration = Duration::from_secs(60);
/// The maximum number of conditions that are told. The others are counted.
const MOST: usize = 1000;

/// A volume that is not well.
#[derive(Debug, Clone, PartialEq)]
pub struct Ill {
    /// The volume's identifier.
    pub volume: String,
    /// What Kubernetes calls it, if the driver knows it.
    pub names: KubernetesNames,
    /// What is wrong: the reason of each condition, and its severity.
    pub conditions: Vec<(&'static str, Severity)>,
}

/// What was last seen of the volumes of the exports in use.
#[derive(Debug, Default)]
pub struct VolumeWatch(Mutex<BTreeMap<Source, Kept>>);

/// What is kept of an export.
#[derive(Debug, Default)]
struct Kept {
    /// Each with the beginning of the round that has seen it last.
    ill: BTreeMap<VolumeName, (Ill, Instant)>,
    /// The last whole round, and when it ended.
    whole: Option<(Tally, SystemTime)>,
    /// Conditions of the round under way that are not kept.
    left_out: u64,
}

/// What a round has counted.
#[derive(Debug, Default)]
struct Tally {
    volumes: BTreeMap<&'static str, u64>,
    left_out: u64,
}

/// The conditions to tell of.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    /// At most [`MOST`] conditions, by export.
    pub ill: Vec<(Source, Ill)>,
    /// How many were left out.
    pub cut: u64,
}

impl VolumeWatch {
    /// The volumes that are not well.
    pub fn told(&self) -> Told {
        let (mut told, mut room) = (Told::default(), MOST);
        for (share, kept) in self.all().iter() {
            told.cut += kept.left_out.max(kept.whole.as_ref().map_or(0, |(tally, _)| tally.left_out));
            for (ill, _) in kept.ill.values() {
                let conditions = ill.conditions.len();
                if conditions > room {
                    told.cut += conditions as u64;
                } else {
                    room -= conditions;
                    told.ill.push((share.clone(), ill.clone()));
                }
            }
        }
        told
    }

    /// How many volumes of each export have a condition, by its reason: those of the last whole round.
    pub fn counts(&self) -> Vec<(Source, &'static str, u64)> {
        let all = self.all();
        let whole = all.iter().filter_map(|(share, kept)| Some((share, &kept.whole.as_ref()?.0)));
        whole
            .flat_map(|(share, tally)| tally.volumes.iter().map(|(reason, count)| (share.clone(), *reason, *count)))
            .collect()
    }

    /// When the last whole round over each export ended.
    pub fn looked(&self) -> Vec<(Source, SystemTime)> {
        let all = self.all();
        all.iter().filter_map(|(share, kept)| Some((share.clone(), kept.whole.as_ref()?.1))).collect()
    }

    /// Forgets what was seen of an export that does not answer, or is no longer in use.
    pub fn forget(&self, share: &Source) {
        self.all().remove(share);
    }

    /// Notes what a slice has found: that replaces what was known of its volumes. After the last slice, what is known of
    /// volumes that the round has not met is forgotten.
    fn note(&self, share: &Source, slice: Slice, tally: &mut Tally) {
        let mut all = self.all();
        let kept = all.entry(share.clone()).or_default();
        slice.looked.iter().for_each(|name| drop(kept.ill.remove(name)));
        if slice.is_last {
            kept.ill.retain(|_, (_, round)| *round == slice.round);
        }
        let mut room = MOST.saturating_sub(kept.ill.values().map(|(ill, _)| ill.conditions.len()).sum());
        for (name, ill) in slice.ill {
            ill.conditions.iter().for_each(|(reason, _)| *tally.volumes.entry(reason).or_default() += 1);
            if ill.conditions.len() > room {
                tally.left_out += ill.conditions.len() as u64;
            } else {
                room -= ill.conditions.len();
                kept.ill.insert(name, (ill, slice.round));
            }
        }
        kept.left_out = tally.left_out;
        if slice.is_last {
            kept.whole = Some((std::mem::take(tally), SystemTime::now()));
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Source, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was found of some volumes.
struct Slice {
    looked: Vec<VolumeName>,
    ill: Vec<(VolumeName, Ill)>,
    /// When the round began.
    round: Instant,
    is_last: bool,
}

/// A round over the volumes of an export.
#[derive(Debug)]
pub struct Round {
    begun: Instant,
    /// Where the next slice begins in the directory of records.
    at: Cookie,
    tally: Tally,
}

impl Default for Round {
    /// A round that is due now.
    fn default() -> Self {
        Self::at(Instant::now())
    }
}

impl Round {
    /// The round that begins at `begun`.
    fn at(begun: Instant) -> Self {
        Self { begun, at: 0, tally: Tally::default() }
    }

    /// When the next slice is due.
    pub fn due(&self) -> Instant {
        self.begun
    }

    /// Looks at the next slice, and notes what it has found. After the last one, another round is due a while later.
    pub async fn slice<F: Fs>(&mut self, export: &Export<F>, watch: &VolumeWatch) -> Result<()> {
        if self.at == 0 {
            self.begun = Instant::now();
        }
        // One more shows that the round goes on.
        let mut some = match Record::some_names(export, self.at, SLICE + 1).await {
            Err(error @ Error::Token(_)) => {
                *self = Self::at(self.begun);
                return Err(error);
            }
            some => some?,
        };
        let is_last = some.len() <= SLICE;
        some.truncate(SLICE);
        let end = some.last().map_or(self.at, |(_, position)| *position);
        let looked: Vec<VolumeName> = some.into_iter().map(|(name, _)| name).collect();
        let mut ill = Vec::new();
        let reports = Reports::find(export).await?;
        let mut looks = pin!(survey::looks(export, &reports, looked.clone()));
        while let Some(next) = looks.next().await {
            let (name, looked) = match next {
                Err(error) if is_of_one_volume(&error) => {
                    tracing::debug!(export = %export.source(), %error, "a volume cannot be looked at");
                    continue;
                }
                next => next?,
            };
            let Some(looked) = looked.filter(|looked| !looked.conditions.is_empty()) else { continue };
            let conditions = looked.conditions.iter().map(|condition| (condition.reason, condition.severity)).collect();
            let names = looked.record.kubernetes.unwrap_or_default();
            ill.push((name, Ill { volume: looked.record.id.to_string(), names, conditions }));
        }
        watch.note(export.source(), Slice { looked, ill, round: self.begun, is_last }, &mut self.tally);
        // Only now: a slice that failed is looked at again, and what is known of its volumes stays.
        self.at = end;
        if is_last {
            *self = Self::at(self.begun + ROUND);
        }
        Ok(())
    }
}

/// Whether a look at another volume may succeed: the export answers.
fn is_of_one_volume(error: &Error) -> bool {
    matches!(error, Error::Export { status, .. } if !status.is_unanswered() && *status != Status::Stale)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::testing::crash_harness::{Connection, connect, create};
    use crate::testing::create;
    use crate::testing::memory::{Crash, MemoryServer, Node};
    use crate::volume::create::Create;
    use crate::volume::kubernetes::{CLAIM, NAMESPACE, VOLUME};

    async fn make(on: &Connection, name: &str) {
        let pairs = [(CLAIM, "data"), (NAMESPACE, "team"), (VOLUME, "pv")];
        let parameters: HashMap<String, String> =
            pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let kubernetes = KubernetesNames::of(&parameters);
        create(on, Create { kubernetes, ..create::volume(name, 0) }, false).await.unwrap();
    }

    /// One round.
    async fn round(on: &Connection, watch: &VolumeWatch) {
        let mut round = Round::default();
        let begun = round.due();
        while round.due() <= begun {
            round.slice(on, watch).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_is_told_of_with_its_names_as_long_as_it_is_not_well() {
        let server = MemoryServer::new();
        let (on, watch) = (connect(&server), VolumeWatch::default());
        for name in ["v", "w"] {
            make(&on, name).await;
        }
        round(&on, &watch).await;
        assert_eq!((watch.told(), watch.looked().len()), (Told::default(), 1));
        server.remove("v").unwrap();
        round(&on, &watch).await;
        let told = watch.told();
        let [(share, ill)] = &told.ill[..] else { panic!("{told:?}") };
        assert_eq!((share, &*ill.volume), (on.source(), "nfs#export#v##"));
        assert_eq!(ill.conditions, [("DirectoryMissing", Severity::DataLoss)]);
        assert_eq!(ill.names.labels().map(|(_, name)| name), ["data", "team", "pv"]);
        assert_eq!(watch.counts(), [(on.source().clone(), "DirectoryMissing", 1)]);
        make(&on, "v").await;
        round(&on, &watch).await;
        assert_eq!((watch.told(), watch.counts()), (Told::default(), vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_fails_is_repeated_and_takes_nothing_away() {
        let server = MemoryServer::new();
        let (on, watch) = (connect(&server), VolumeWatch::default());
        make(&on, "v").await;
        server.remove("v").unwrap();
        round(&on, &watch).await;
        let told = watch.told();
        assert_eq!(told.ill.len(), 1);
        for operation in 0.. {
            tokio::time::advance(ROUND).await;
            let (cut_off, mut round) = (connect(&server), Round::default());
            cut_off.fs().crash_at(operation, Crash::BeforeEffect);
            if round.slice(&cut_off, &watch).await.is_ok() {
                assert!(operation > 3);
                break;
            }
            assert_eq!(watch.told(), told);
            round.slice(&on, &watch).await.unwrap();
            assert_eq!(watch.told(), told, "cut off at operation {operation}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_that_cannot_be_looked_at_hides_no_other() {
        let server = MemoryServer::new();
        let (on, watch) = (connect(&server), VolumeWatch::default());
        for name in ["v", "w"] {
            make(&on, name).await;
            server.remove(name).unwrap();
        }
        server.plant("v", Node::file(0o600, "no directory")).unwrap();
        round(&on, &watch).await;
        assert_eq!(watch.told().ill.iter().map(|(_, ill)| &*ill.volume).collect::<Vec<_>>(), ["nfs#export#w##"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_is_bounded_and_what_is_counted_is_not() {
        let server = MemoryServer::new();
        let (on, watch) = (connect(&server), VolumeWatch::default());
        for number in 0..MOST + 50 {
            let name = format!("v{number}");
            make(&on, &name).await;
            server.remove(name).unwrap();
        }
        for _ in 0..2 {
            round(&on, &watch).await;
            let told = watch.told();
            assert_eq!((told.ill.len(), told.cut), (MOST, 50));
            assert_eq!(watch.counts()[0].2, (MOST + 50) as u64);
        }
        watch.forget(on.source());
        assert_eq!((watch.told(), watch.counts()), (Told::default(), vec![]));
    }
}
