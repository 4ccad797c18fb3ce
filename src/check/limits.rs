//! Do the volumes' sizes and what the agent on the server enforces agree?
//!
//! Project IDs and limits are the server's, and not to be seen from here; the agent compares them with the records each time it
//! looks at a volume. What is compared here is what it says, and the server's figures for each volume.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Finding, check as check_all};
use crate::error::Result;
use crate::export::Export;
use crate::export::fs::{Fs, Status, gone};
use crate::volume::id::VolumeName;
use crate::volume::limits::Quota;
use crate::volume::quota::{self, State};
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// How long the agent is given to look at everything, and, once it did, what it does for others.
const LIMIT: Duration = Duration::from_secs(10);
const AFTERWARDS: Duration = Duration::from_secs(2);
/// Between two looks at what it did.
const PAUSE: Duration = Duration::from_millis(200);

/// Adds what does not fit.
pub(super) async fn check<F: Fs>(
    export: &Export<F>,
    records: &BTreeMap<VolumeName, Record>,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let agent = quota::agent(export).await?;
    let mut projects: BTreeMap<u32, BTreeSet<&VolumeName>> = BTreeMap::new();
    for (volume, record) in records.iter().filter(|(_, record)| !record.pending) {
        let required = record.attributes.quota.is_some_and(Quota::is_required);
        if agent.is_none() && !required {
            continue;
        }
        let not_in_force =
            |reason: &str| Finding::LimitNotInForce { volume: volume.to_string(), reason: reason.into() };
        let answer = quota::answer(export, volume).await?;
        match quota::state_of(export, record, answer.as_ref()).await? {
            State::Unlimited | State::InForce(_) => {}
            // Volumes share a directory on purpose, and one of them has the limit.
            State::Refused(_) if shares_directory(records, volume, record) => {}
            State::Refused(reason) => findings.push(not_in_force(&reason)),
            State::Open if agent.is_none() => findings.push(not_in_force("no agent ever worked on that export")),
            State::Open => findings.push(not_in_force("the agent does not say so, or the server's figures do not")),
        }
        if let Some(answer) = answer {
            projects.entry(answer.project).or_default().insert(volume);
        }
    }
    for (project, volumes) in projects {
        if project > 0 && volumes.len() > 1 {
            let volumes = volumes.into_iter().map(VolumeName::to_string).collect();
            findings.push(Finding::ProjectShared { project, volumes });
        }
    }
    for volume in quota::answered(export).await? {
        // One that cannot be read may want limits.
        let wants = match records.get(&volume) {
            Some(record) => record.limits().any(),
            None => !matches!(Record::read(export, &volume).await, Ok(None)),
        };
        if !wants {
            findings.push(Finding::LimitLeft { volume: volume.to_string() });
        }
    }
    Ok(())
}

fn shares_directory(records: &BTreeMap<VolumeName, Record>, volume: &VolumeName, record: &Record) -> bool {
    records.iter().any(|(other, of)| other != volume && of.id.sub_dir == record.id.sub_dir)
}

/// Whether a finding is one of these.
pub(super) fn is_of_limits(finding: &Finding) -> bool {
    matches!(finding, Finding::LimitNotInForce { .. } | Finding::ProjectShared { .. } | Finding::LimitLeft { .. })
}

/// Asks the agent to look at everything, and waits until that has mended what was found, or it has done what it can.
pub(super) async fn mend<F: Fs>(export: &Export<F>) -> Result<()> {
    let (layout, before) = (export.make_layout().await?, quota::agent(export).await?);
    let failed = |status| export.failed("asking the agent to look at all volumes", status);
    let look = quota::look().map_err(failed)?;
    match export.fs().create(&layout.volumes, &look, 0o600).await {
        Ok(_) | Err(Status::Exist) => {}
        Err(status) => return Err(failed(status)),
    }
    gone(export.fs().unlink(&layout.volumes, &look).await).map_err(failed)?;
    let mut until = Instant::now() + LIMIT;
    let mut looked = false;
    while Instant::now() < until && check_all(export).await?.iter().any(is_of_limits) {
        sleep(PAUSE).await;
        if !looked && quota::agent(export).await? != before {
            (looked, until) = (true, Instant::now() + AFTERWARDS);
        }
    }
    Ok(())
}
