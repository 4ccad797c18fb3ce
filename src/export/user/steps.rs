//! Steps that are carried out in order: as many in one request as the server takes.

use crate::export::fs::{FsResult, Kind, Name, Status, Step, check_new_mode};
use crate::export::user::content::{has_content, with_content, write_file};
use crate::export::user::handle::UserHandle;
use crate::export::user::{AROUND, UserFs, at, is_at, not_empty, other_project};
use crate::nfs4::attributes::Values;
use crate::nfs4::attributes::attribute::NUMLINKS;
use crate::nfs4::compound::{Compound, New};
use crate::nfs4::results::Results;

/// Why a request ends at a step.
enum End {
    Refused(Status),
    /// What the step removes is not there. With this the server ends a request.
    Gone,
    /// Nothing of the step is done, and the server asks to repeat it.
    Delayed,
    /// The file of [`Step::Replace`] is written. The server asks to repeat what gives it its place: another client may
    /// have the replaced file open, and has to be told first.
    Written,
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        // The server has answered, and so what it delays is all that takes too long.
        if status == Status::TimedOut { Self::Delayed } else { Self::Refused(status) }
    }
}

impl From<End> for Status {
    fn from(end: End) -> Self {
        match end {
            End::Refused(status) => status,
            End::Gone => Self::NoEnt,
            End::Delayed | End::Written => Self::TimedOut,
        }
    }
}

/// Requests of as many steps as each takes. What the server delays after another step is said by a request that begins
/// with it, so that the session repeats it.
pub(super) async fn in_order(fs: &UserFs, steps: &[Step<UserHandle>]) -> (usize, FsResult<()>) {
    let mut done = 0;
    while done < steps.len() {
        match request(fs, &steps[done..]).await {
            Ok(0) => return (done, Err(Status::TimedOut)),
            Ok(more) => done += more,
            Err((more, status)) => return (done + more, Err(status)),
        }
    }
    (done, Ok(()))
}

/// One request. Returns how many steps are done, without that which the server delays.
async fn request(fs: &UserFs, steps: &[Step<UserHandle>]) -> Result<usize, (usize, Status)> {
    let unsent = |status| (0, status);
    if let Some(Step::Replace { staged, to, mode, content }) = steps.first()
        && content.len() > fs.0.write as usize
    {
        write_file(fs, &staged.0, &staged.1, *mode, content).await.map_err(unsent)?;
        return rename(fs, staged, to).await.map(|()| 1).map_err(unsent);
    }
    let (mut compound, mut sent) = (Compound::default(), 0);
    let (mut operations, mut bytes) = (fs.0.client.limits().operations - AROUND, fs.0.write as usize);
    for step in steps {
        let its = match operations_of(fs, step) {
            Err(status) if sent == 0 => return Err(unsent(status)),
            Err(_) => break,
            Ok(its) => its,
        };
        let content = if let Step::Replace { content, .. } = step { content.len() } else { 0 };
        let left = operations.checked_sub(its.count()).zip(bytes.checked_sub(content));
        let Some(left) = left else { break };
        (operations, bytes) = left;
        (compound, sent) = (compound.then(&its), sent + 1);
    }
    let carried_out = fs.ask(compound, |results| {
        let mut done = 0;
        for step in &steps[..sent] {
            match result_of(fs, results, step) {
                Ok(()) => done += 1,
                Err(end) => return Ok((done, Some(end))),
            }
        }
        Ok((done, None))
    });
    match carried_out.await.map_err(unsent)? {
        (done, None | Some(End::Delayed)) => Ok(done),
        (done, Some(End::Gone)) => Ok(done + 1),
        (done, Some(End::Refused(status))) => Err((done, status)),
        (done, Some(End::Written)) => match &steps[done] {
            Step::Replace { staged, to, .. } => {
                rename(fs, staged, to).await.map(|()| done + 1).map_err(|status| (done, status))
            }
            _ => Err((done, Status::Io)),
        },
    }
}

/// RENAME.
pub(super) async fn rename(fs: &UserFs, from: &(UserHandle, Name), to: &(UserHandle, Name)) -> FsResult<()> {
    let step = Step::Rename { from: from.clone(), to: to.clone() };
    fs.ask(operations_of(fs, &step)?, |results| result_of(fs, results, &step).map_err(Status::from)).await
}

fn operations_of(fs: &UserFs, step: &Step<UserHandle>) -> FsResult<Compound> {
    Ok(match step {
        Step::Mkdir { at: (dir, name), mode } => {
            check_new_mode(*mode)?;
            at(dir.directory()?).create(New::Plain(Kind::Directory), name, &Values::mode(*mode))
        }
        Step::Replace { staged: (staging, staged), to: (dir, name), mode, content } => {
            check_new_mode(*mode)?;
            let written = with_content(fs, staging, staged, *mode, content)?.put(staging.directory()?).save();
            written.put(dir.directory()?).attributes(&[NUMLINKS]).rename(staged, name)
        }
        Step::Rename { from: (from_dir, from), to: (to_dir, to) } => {
            let saved = at(from_dir.directory()?).save();
            saved.put(to_dir.directory()?).attributes(&[NUMLINKS]).rename(from, to)
        }
        Step::Remove { at: (dir, name) } => at(dir.directory()?).remove(name),
    })
}

fn result_of(fs: &UserFs, results: &mut Results<'_>, step: &Step<UserHandle>) -> Result<(), End> {
    is_at(results)?;
    match step {
        Step::Mkdir { .. } => results.create().map_err(Status::from)?,
        Step::Replace { content, .. } => {
            let state = results.open().map_err(Status::from)?;
            has_content(fs, results, state, content.len()).map_err(End::Refused)?;
            let mut moved = || {
                results.put()?;
                results.save()?;
                renamed(results)
            };
            match moved() {
                Err(Status::TimedOut) => return Err(End::Written),
                moved => moved?,
            }
        }
        Step::Rename { .. } => {
            results.save().map_err(Status::from)?;
            renamed(results)?;
        }
        Step::Remove { .. } => match results.remove().map_err(not_empty) {
            Err(Status::NoEnt) => return Err(End::Gone),
            removed => removed?,
        },
    }
    Ok(())
}

/// The results of what moves something from the saved directory to another.
fn renamed(results: &mut Results<'_>) -> FsResult<()> {
    is_at(results)?;
    results.rename().map_err(not_empty).map_err(other_project)
}
