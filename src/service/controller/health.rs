//! The health of volumes (CSI 1.13, "Volume Health").

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::TryStreamExt as _;

use super::lines::Lines;
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
use crate::volume::quota::Reports;
use crate::volume::record::Record;
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
            if let (Some(name), Some(record)) = (id.name(), found.record.filter(|record| record.limits().any())) {
                let reports = Reports::find(&export).await?;
                conditions.extend(health::of_limits(&export, &reports, &name, &record).await?);
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
            let (after, names, room, work_left) = (start.last_of(&share), &self.names, page.room(), work);
            let look = |export: Arc<Export<C::Fs>>| async move {
                let names = names.some(&export, after, work_left).await?;
                survey(&export, names, room, work_left).await
            };
            let survey = match self.exports.on(&share, &options, look).await {
                Ok(survey) => {
                    work -= survey.looks.min(work);
                    self.surveyed.note(&share, after, &survey);
                    survey
                }
                Err(error) => {
                    let Some(why) = list::listed(&share, health::from_error(error)) else { continue };
                    Survey { unhealthy: self.surveyed.inaccessible(&share, after, &why), ..Survey::default() }
                }
            };
            if !page.take(&share, survey.unhealthy) {
                break;
            }
            if let Some(last) = survey.last.filter(|_| survey.goes_on || work == 0) {
                page.next = Some(Token::behind(&share, &last));
                break;
            }
        }
        let entry = |(share, name, (id, conditions)): (_, _, Unhealthy)| (share, name, volume_health(id, conditions));
        let (entries, next) = list::in_a_message(page.entries.into_iter().map(entry).collect(), page.next);
        Ok(csi::ControllerListVolumeHealthResponse { entries, next_token: list::text(next.as_ref()) })
    }
}

/// The identifier of a volume, and what is wrong with it.
type Unhealthy = (String, Vec<Condition>);

/// The volumes that were seen on each export: all that the driver knows while the server is unreachable. The note of a
/// volume is its identifier, or nothing if that is the [usual](VolumeId::usual) one.
#[derive(Default)]
pub(super) struct Surveyed(Mutex<HashMap<Source, Lines>>);

impl Surveyed {
    /// Notes a survey of the volumes behind `after`. A volume in its range that it has not seen is forgotten.
    fn note(&self, share: &Source, after: Option<&VolumeName>, survey: &Survey) {
        let until = survey.last.as_ref().filter(|_| survey.goes_on);
        self.all().entry(share.clone()).or_default().replace(after, until, &survey.seen);
    }

    /// Forgets a volume that was deleted.
    pub(super) fn forget(&self, id: &VolumeId) {
        if let (Some(known), Some(name)) = (self.all().get_mut(&id.export()), id.name()) {
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
        let all = self.all();
        let volumes = all.get(share).into_iter().flat_map(|known| known.behind(after));
        let id = |name: &VolumeName, note: &str| match note {
            "" => VolumeId::usual(share, name),
            id => id.to_owned(),
        };
        // One more than fits on a page shows that there is another page.
        volumes.take(list::PAGE + 1).map(|(name, note)| (name.clone(), (id(&name, note), vec![why.clone()]))).collect()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Source, Lines>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of a survey of an export, or of a part of it.
#[derive(Default)]
struct Survey {
    /// All volumes that were checked, as [`Surveyed`] keeps them.
    seen: Lines,
    unhealthy: Vec<(VolumeName, Unhealthy)>,
    /// How many records were looked at.
    looks: usize,
    /// The last volume that was looked at.
    last: Option<VolumeName>,
    /// Whether volumes are left behind it.
    goes_on: bool,
}

/// Checks these volumes of an export in order: `work` of them, or until more than `room` are unhealthy.
async fn survey<F: Fs>(export: &Export<F>, mut names: Vec<VolumeName>, room: usize, work: usize) -> Result<Survey> {
    let mut survey = Survey::default();
    let of_export = &health::of_export(export).await?;
    let total = names.len();
    names.truncate(work);
    let reports = Reports::find(export).await?;
    let mut looks = pin!(survey::looks(export, &reports, names));
    while survey.unhealthy.len() <= room
        && let Some((name, found)) = looks.try_next().await?
    {
        survey.looks += 1;
        survey.last = Some(name.clone());
        let Some(Looked { record: Record { id, .. }, mut conditions }) = found else { continue };
        conditions.extend(of_export.iter().cloned());
        let id = id.to_string();
        let is_usual = id == VolumeId::usual(export.source(), &name);
        survey.seen.push(&name, if is_usual { "" } else { &id });
        if !conditions.is_empty() {
            survey.unhealthy.push((name, (id, conditions)));
        }
    }
    survey.goes_on = survey.looks < total;
    Ok(survey)
}
