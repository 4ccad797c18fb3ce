//! The health of volumes (CSI 1.13, "Volume Health").

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::TryStreamExt as _;

use super::{Controller, existing_volume, secret_options};
use crate::error::Result;
use crate::export::Export;
use crate::export::fs::Fs;
use crate::export::pool::Connect;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::service::controller::list::{self, Page, Token};
use crate::service::health_response::volume_health;
use crate::service::proto::csi;
use crate::volume::find;
use crate::volume::health::{self, Condition};
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;
use crate::volume::survey::{self, Looked};
use crate::volume::whole_export::WholeExport;

/// How many volumes ControllerListVolumeHealth looks at in one call, whether they are healthy or not. The token leads
/// to the others.
const WORK: usize = 1000;

impl<C: Connect> Controller<C> {
    pub(super) async fn volume_health(
        &self,
        request: csi::ControllerGetVolumeHealthRequest,
    ) -> Result<csi::VolumeHealth> {
        let secret = secret_options(&request.secrets)?;
        let conditions = match WholeExport::parse(&request.volume_id) {
            Some(whole) => self.whole_export_health(&whole, secret.as_ref()).await,
            None => self.conditions_of(&existing_volume(&request.volume_id)?, secret.as_ref()).await,
        };
        let conditions = conditions.or_else(|error| health::from_error(error).map(|condition| vec![condition]))?;
        Ok(volume_health(request.volume_id, conditions))
    }

    async fn conditions_of(&self, id: &VolumeId, secret: Option<&MountOptions>) -> Result<Vec<Condition>> {
        let look = |export: Arc<Export<C::Fs>>| async move {
            let found = find::get(&export, id).await?;
            let mut conditions: Vec<_> = health::of_volume(id, found.directory).into_iter().collect();
            if let (Some(name), Some(record)) = (id.name(), &found.record) {
                conditions.extend(health::of_limits(&export, &name, record).await?);
            }
            conditions.extend(health::of_export(&export).await?);
            Ok(conditions)
        };
        self.exports.on_volume(id, secret, look).await
    }

    pub(super) async fn list_health(
        &self,
        request: csi::ControllerListVolumeHealthRequest,
    ) -> Result<csi::ControllerListVolumeHealthResponse> {
        let (start, mut page) = (Token::parse(&request.starting_token)?, Page::new(request.max_entries)?);
        let mut work = WORK;
        for (share, options) in self.exports.known() {
            if start.is_after(&share) {
                continue;
            }
            let after = start.last_of(&share).cloned();
            let (work_left, room) = (work, page.room());
            let look = |export: Arc<Export<C::Fs>>| {
                let after = after.clone();
                async move { survey(&export, after.as_ref(), room, work_left).await }
            };
            let survey = match self.exports.on(&share, &options, look).await {
                Ok(survey) => {
                    work -= survey.looks.min(work);
                    self.surveyed.note(&share, after.as_ref(), &survey);
                    survey
                }
                Err(error) => {
                    let Some(why) = list::listed(&share, health::from_error(error)) else { continue };
                    Survey { unhealthy: self.surveyed.inaccessible(&share, after.as_ref(), &why), ..Survey::default() }
                }
            };
            if !page.take(&share, survey.unhealthy) {
                break;
            }
            if let Some(last) = survey.until {
                page.next = Some(Token::behind(&share, &last));
                break;
            }
        }
        let entry = |(share, name, (id, conditions)): (_, _, Unhealthy)| {
            (share, name, volume_health(id.to_string(), conditions))
        };
        let (entries, next) = list::in_a_message(page.entries.into_iter().map(entry).collect(), page.next);
        Ok(csi::ControllerListVolumeHealthResponse { entries, next_token: list::text(next.as_ref()) })
    }
}

type Unhealthy = (VolumeId, Vec<Condition>);

/// The volumes that were seen on each export: all that the driver knows while the server is unreachable.
#[derive(Default)]
pub(super) struct Surveyed(Mutex<HashMap<Source, BTreeMap<VolumeName, VolumeId>>>);

impl Surveyed {
    /// Notes a survey of the volumes behind `after`. A volume in its range that it has not seen is forgotten.
    fn note(&self, share: &Source, after: Option<&VolumeName>, survey: &Survey) {
        let mut surveyed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = surveyed.entry(share.clone()).or_default();
        known.retain(|name, _| {
            after.is_some_and(|after| name <= after) || survey.until.as_ref().is_some_and(|until| name > until)
        });
        known.extend(survey.seen.clone());
    }

    /// Forgets a volume that was deleted.
    pub(super) fn forget(&self, id: &VolumeId) {
        let mut surveyed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(known), Some(name)) = (surveyed.get_mut(&id.export()), id.name()) {
            known.remove(&name);
        }
    }

    /// The volumes behind `after` on an export that cannot be reached.
    fn inaccessible(
        &self,
        share: &Source,
        after: Option<&VolumeName>,
        why: &Condition,
    ) -> Vec<(VolumeName, Unhealthy)> {
        let surveyed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let volumes = surveyed.get(share).into_iter().flat_map(|known| known.range((from, Bound::Unbounded)));
        // One more than fits on a page shows that there is another page.
        volumes.take(list::PAGE + 1).map(|(name, id)| (name.clone(), (id.clone(), vec![why.clone()]))).collect()
    }
}

/// The result of a survey of an export, or of a part of it.
#[derive(Default)]
struct Survey {
    /// All volumes that were checked.
    seen: BTreeMap<VolumeName, VolumeId>,
    unhealthy: Vec<(VolumeName, Unhealthy)>,
    /// How many records were looked at.
    looks: usize,
    /// The last volume that was looked at, if volumes are left.
    until: Option<VolumeName>,
}

/// Checks the volumes of an export in order, those after `after`: `work` of them, or until more than `room` are
/// unhealthy.
async fn survey<F: Fs>(export: &Export<F>, after: Option<&VolumeName>, room: usize, work: usize) -> Result<Survey> {
    let mut survey = Survey::default();
    let of_export = &health::of_export(export).await?;
    let mut names = Record::names(export).await?;
    names.retain(|name| after.is_none_or(|after| name > after));
    let total = names.len();
    let mut looks = pin!(survey::looks(export, names.into_iter().take(work).collect()));
    let mut last = after.cloned();
    while survey.unhealthy.len() <= room
        && let Some((name, found)) = looks.try_next().await?
    {
        survey.looks += 1;
        last = Some(name.clone());
        let Some(Looked { record: Record { id, .. }, mut conditions }) = found else { continue };
        conditions.extend(of_export.iter().cloned());
        survey.seen.insert(name.clone(), id.clone());
        if !conditions.is_empty() {
            survey.unhealthy.push((name, (id, conditions)));
        }
    }
    survey.until = last.filter(|_| survey.looks < total);
    Ok(survey)
}
