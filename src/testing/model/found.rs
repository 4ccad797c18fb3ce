//! Histories that once lost data. Each stands for a kind of fault.

use super::history::{Call, Fault, Id, Origin, Step};
use super::play;
use crate::testing::memory::Crash;
use crate::volume::on_delete::OnDelete;

/// The number of operations at which a crash is tried.
const OPERATIONS: u64 = 80;

const V: Id = Id { dir: "v", uuid: None, keep: None };
const MEDIA: Id = Id { dir: "media", uuid: Some("v"), keep: None };

fn call(at: usize, call: Call) -> Step {
    Step::Call { at, call, fault: None }
}

fn create(name: &'static str, dir: Option<&'static str>, from: Option<Origin>) -> Call {
    Call::Create { name, dir, on_delete: None, from }
}

fn judge(steps: &[Step]) {
    if let Err(wrong) = play(steps) {
        panic!("{steps:#?}\n{wrong}");
    }
}

/// Judges the history `before`, `cut`, `after` with a crash of controller 1 at each operation of `cut`.
fn judge_with_crashes(before: &[Step], cut: &Call, after: &[Step]) {
    for n in 0..OPERATIONS {
        for when in [Crash::BeforeEffect, Crash::AfterEffect] {
            let cut = Step::Call { at: 1, call: cut.clone(), fault: Some(Fault::Crash(n, when)) };
            judge(&[before, &[cut], after].concat());
        }
    }
}

#[test]
fn a_repeated_deletion_keeps_what_the_last_decision_kept() {
    judge(&[
        call(0, create("v", Some("media"), None)),
        Step::Write { dir: "media", number: 1 },
        call(0, Call::Modify(MEDIA, OnDelete::Retain)),
        call(0, Call::Delete(MEDIA)),
        call(1, Call::Delete(MEDIA)),
        Step::Restart { at: 1, default: OnDelete::Archive },
        call(1, Call::Delete(MEDIA)),
    ]);
}

#[test]
fn a_directory_that_an_administrator_filled_stays() {
    judge(&[
        Step::Write { dir: "media", number: 0 },
        call(0, create("v", Some("media"), None)),
        call(0, Call::Delete(MEDIA)),
        call(1, Call::Delete(MEDIA)),
    ]);
}

#[test]
fn a_volume_that_is_being_filled_has_no_neighbour() {
    let fill = create("w", Some("media"), Some(Origin::Volume(V)));
    let before = [call(0, create("v", None, None)), Step::Write { dir: "v", number: 1 }];
    judge_with_crashes(&before, &fill, &[call(0, create("x", Some("media"), None)), call(0, fill.clone())]);
}

#[test]
fn what_an_administrator_put_in_place_is_not_what_a_volume_was_filled_with() {
    let fill = create("w", Some("media"), Some(Origin::Volume(V)));
    let before = [call(0, create("v", None, None)), Step::Write { dir: "v", number: 1 }];
    judge_with_crashes(&before, &fill, &[Step::Write { dir: "media", number: 3 }, call(0, fill.clone())]);
}

#[test]
fn a_repair_with_an_old_finding_leaves_what_has_the_name_now() {
    let take = call(0, Call::Snapshot { name: "s", of: V });
    let before = [call(0, create("v", None, None)), take.clone()];
    judge_with_crashes(&before, &Call::DeleteSnapshot("s"), &[Step::Check, take, Step::Repair]);
}
