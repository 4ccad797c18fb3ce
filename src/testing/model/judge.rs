//! Compares what is observed with what the model allows. The judge tracks the states that an export may be in. Every
//! answer and every look at the export narrows them.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::history::{Call, Fault, Step};
use super::reference::{State, Turn};
use super::rpc::{Answer, Code};
use super::world::{Heard, Look, World};
use crate::check::Finding;
use crate::volume::on_delete::OnDelete;

/// Longer than any call takes. The clock is paused, so waiting costs nothing.
const ENDLESS: Duration = Duration::from_secs(3600);

/// The states that an export may be in.
pub struct Judge {
    states: BTreeSet<State>,
    /// Whether a fault has occurred that may have left something for a repair to remove.
    troubled: bool,
}

impl Judge {
    pub fn new() -> Self {
        Self { states: [State::default()].into(), troubled: false }
    }

    /// Judges a step by its answers (`heard`) and by the export after it (`look`).
    ///
    /// # Errors
    /// If no state is left. The error has what was expected.
    pub fn judge(&mut self, step: &Step, defaults: [OnDelete; 2], heard: &Heard, look: &Look) -> Result<(), String> {
        let expected: BTreeSet<State> =
            self.states.iter().flat_map(|state| outcomes(state, step, defaults, heard)).collect();
        self.troubled |= !matches!(step, Step::Call { fault: None, .. } | Step::Write { .. } | Step::MakeDir { .. });
        let seen: BTreeSet<State> = expected.iter().filter(|state| state.looks_like(look)).cloned().collect();
        if seen.is_empty() {
            let answers = self.states.iter().map(|state| answers(state, step, defaults));
            return Err(format!(
                "answers {heard:?}\nexpected {:?}\nthe export is {look:#?}\npossible states before: {:#?}\n\
                 possible states after: {expected:#?}",
                answers.collect::<Vec<_>>(),
                self.states,
            ));
        }
        self.states = seen.iter().map(State::without_stale).collect();
        self.states.extend(seen);
        Ok(())
    }

    /// Judges the findings of a check.
    ///
    /// # Errors
    /// If no state explains the findings. The error has them.
    pub fn judge_findings(&self, findings: &[Finding]) -> Result<(), String> {
        if self.states.iter().any(|state| state.explains(findings, self.troubled)) {
            return Ok(());
        }
        Err(format!("a check finds {findings:#?}\npossible states: {:#?}", self.states))
    }

    /// Judges the export after a repair. A repair must not change what is visible.
    ///
    /// # Errors
    /// If no state is left. The error has the export's content.
    pub fn judge_repaired(&mut self, look: &Look) -> Result<(), String> {
        if self.states.iter().any(|state| state.looks_like(look)) {
            return Ok(());
        }
        Err(format!("after a repair the export is {look:#?}\npossible states: {:#?}", self.states))
    }
}

/// The states that may follow a step with these answers.
fn outcomes(state: &State, step: &Step, defaults: [OnDelete; 2], heard: &Heard) -> Vec<State> {
    match (step, &heard[..]) {
        (Step::Call { at, call, fault }, [(answer, _)]) => one(state.call(call, defaults[*at]), *fault, answer),
        (Step::Both { calls, .. }, [(first, _), (second, _)]) => both(state, calls, defaults)
            .into_iter()
            .filter(|(answers, _)| answers[0] == *first && answers[1] == *second)
            .map(|(_, state)| state)
            .collect(),
        _ => vec![state.outside(step)],
    }
}

/// The states after a call. A failed call with a fault may have reached any of its stages.
fn one(turn: Turn, fault: Option<Fault>, answer: &Answer) -> Vec<State> {
    match (fault, answer) {
        (Some(_), Answer::Failed(_) | Answer::NotReady) => turn.stages.into_iter().map(|(state, _)| state).collect(),
        _ if turn.answer == *answer => vec![turn.end],
        _ => Vec::new(),
    }
}

/// The answers and states after two concurrent calls: one call runs after the other, or in the middle of the other at a
/// stage that is open to other calls.
fn both(state: &State, calls: &[Call; 2], defaults: [OnDelete; 2]) -> Vec<([Answer; 2], State)> {
    let mut outcomes = Vec::new();
    for outer in [0, 1] {
        let inner = 1 - outer;
        let mut add = |outer_answer: Answer, inner_answer: Answer, state: State| {
            let answers = if outer == 0 { [outer_answer, inner_answer] } else { [inner_answer, outer_answer] };
            outcomes.push((answers, state));
        };
        let turn = state.call(&calls[outer], defaults[outer]);
        for (between, _) in turn.stages.iter().filter(|(_, open)| *open) {
            let middle = between.call(&calls[inner], defaults[inner]);
            let answer = middle.answer.clone();
            let rest = middle.end.call(&calls[outer], defaults[outer]);
            add(rest.answer.clone(), answer, rest.end);
        }
        let answer = turn.answer.clone();
        let after = turn.end.call(&calls[inner], defaults[inner]);
        add(answer, after.answer.clone(), after.end);
    }
    outcomes
}

/// The expected answers of the calls of a step, for an error message.
fn answers(state: &State, step: &Step, defaults: [OnDelete; 2]) -> Vec<Vec<Answer>> {
    match step {
        Step::Call { at, call, .. } => vec![vec![state.call(call, defaults[*at]).answer]],
        Step::Both { calls, .. } => {
            both(state, calls, defaults).into_iter().map(|(answers, _)| answers.to_vec()).collect()
        }
        _ => Vec::new(),
    }
}

/// Plays a history. Judges each of its steps, a check at the end, and a repair after the check.
///
/// # Errors
/// If a judgement fails. The error has the step and the reason.
pub async fn play(steps: &[Step]) -> Result<(), String> {
    let mut world = World::new().await;
    let mut judge = Judge::new();
    for (number, step) in steps.iter().enumerate() {
        let defaults = [world.default(0), world.default(1)];
        let heard =
            timeout(ENDLESS, world.take(step)).await.map_err(|_| format!("step {number}, {step:?}, does not end"))?;
        let look = world.look().await;
        let broken = heard.iter().any(|(answer, _)| *answer == Answer::Failed(Code::Unknown));
        let judged = if broken { Err(format!("{heard:?}")) } else { judge.judge(step, defaults, &heard, &look) };
        judged.map_err(|wrong| format!("at step {number}, {step:?}:\n{wrong}"))?;
    }
    let found = world.check().await;
    judge.judge_findings(&found).map_err(|wrong| format!("at the end:\n{wrong}"))?;
    world.repair(&found).await;
    judge.judge_repaired(&world.look().await).map_err(|wrong| format!("at the end:\n{wrong}"))
}
