//! Checks the sizes of volumes against the limits that the agent enforces.
//!
//! Project IDs and limits are on the server and cannot be read from here. The agent compares them with the records each
//! time it checks a volume. This module compares the agent's answers, and the server's figures for each volume.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Finding, check as check_all};
use crate::check::progress::Progress;
use crate::check::volumes::Volumes;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Status, gone};
use crate::volume::id::VolumeName;
use crate::volume::quota::{self, Reports, State};
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// How long the agent may take to check all volumes.
const AGENT_PASS: Duration = Duration::from_secs(10);
/// How long the agent may then take for volumes that wait for others.
const AGENT_SECOND_PASS: Duration = Duration::from_secs(2);
/// The pause between two checks of what the agent did.
const POLL: Duration = Duration::from_millis(200);

/// Adds volumes whose sizes are not enforced, limits that should not exist, and volumes that share a project ID.
pub(super) async fn check<F: Fs>(
    export: &Export<F>,
    volumes: &Volumes,
    progress: &Progress,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let reports = Reports::find(export).await?;
    let sharing = shared(volumes);
    let mut projects: BTreeMap<u32, BTreeSet<&VolumeName>> = BTreeMap::new();
    for volume in volumes.iter().filter(|volume| !volume.is_pending) {
        progress.step();
        if !reports.has_agent && !volume.is_quota_required {
            continue;
        }
        let name = &volume.name;
        let not_in_force = |reason: &str| Finding::LimitNotInForce { volume: name.to_string(), reason: reason.into() };
        let answer = reports.answer(export, name).await?;
        let state = match quota::state_of(export, volume.limits, volume.path()?, answer.as_ref()).await {
            Err(Error::Export { status: Status::XDev, .. }) => {
                State::Refused("it is on another file system".to_owned())
            }
            state => state?,
        };
        match state {
            State::Unlimited | State::InForce(_) => {}
            // Several volumes have this directory, and only one of them can have the limit.
            State::Refused(_) if sharing.contains(volume.sub_dir()) => {}
            State::Refused(reason) => findings.push(not_in_force(&reason)),
            State::Open if !reports.has_agent => findings.push(not_in_force("no agent ever worked on that export")),
            State::Open => {
                findings.push(not_in_force("the agent has not confirmed the limit, or the server does not report it"))
            }
        }
        if let Some(answer) = answer {
            projects.entry(answer.project).or_default().insert(name);
        }
    }
    for (project, volumes) in projects {
        if project > 0 && volumes.len() > 1 {
            let volumes = volumes.into_iter().map(VolumeName::to_string).collect();
            findings.push(Finding::ProjectShared { project, volumes });
        }
    }
    for volume in quota::answered(export).await? {
        // A record that cannot be read may ask for limits.
        let wants = match volumes.get(&volume) {
            Some(volume) => volume.limits.any(),
            None => !matches!(Record::read(export, &volume).await, Ok(None)),
        };
        if !wants {
            findings.push(Finding::LimitLeft { volume: volume.to_string() });
        }
    }
    Ok(())
}

/// The directories that several volumes have.
fn shared(volumes: &Volumes) -> BTreeSet<&str> {
    let all = volumes.directories(iter::empty());
    all.array_windows().filter(|[one, next]| one == next).map(|[one, _]| *one).collect()
}

/// Whether the agent has to repair this finding.
pub(super) fn is_about_quotas(finding: &Finding) -> bool {
    matches!(finding, Finding::LimitNotInForce { .. } | Finding::ProjectShared { .. } | Finding::LimitLeft { .. })
}

/// Asks the agent to check all volumes, and waits until it has repaired what was found or can do no more.
pub(super) async fn repair<F: Fs>(export: &Export<F>) -> Result<()> {
    let (layout, before) = (export.make_layout().await?, quota::agent(export).await?);
    let failed = |status| export.failed("asking the agent to check all volumes", status);
    let look = quota::look().map_err(failed)?;
    match export.fs().create(&layout.volumes, &look, 0o600).await {
        Ok(_) | Err(Status::Exist) => {}
        Err(status) => return Err(failed(status)),
    }
    gone(export.fs().unlink(&layout.volumes, &look).await).map_err(failed)?;
    let mut until = Instant::now() + AGENT_PASS;
    let mut looked = false;
    while Instant::now() < until && check_all(export).await?.iter().any(is_about_quotas) {
        sleep(POLL).await;
        if !looked && quota::agent(export).await? != before {
            (looked, until) = (true, Instant::now() + AGENT_SECOND_PASS);
        }
    }
    Ok(())
}
