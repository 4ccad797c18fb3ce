//! Random histories. Most calls use the objects of earlier calls, and a third of the calls repeat an earlier call.

use super::history::{Call, Fault, Id, Origin, Random, Step};
use crate::testing::memory::Crash;
use crate::volume::on_delete::OnDelete;

const POLICIES: [OnDelete; 3] = [OnDelete::Delete, OnDelete::Retain, OnDelete::Archive];
const NAMES: [&str; 3] = ["v", "w", "x"];
/// The directories that classes request. `None` is a directory that is named after the volume.
const SUB_DIRS: [Option<&str>; 6] = [None, None, Some("media"), Some("media"), Some("team/a"), Some("team")];
const DIRS: [&str; 6] = ["v", "w", "media", "media", "team/a", "team"];
const SNAPSHOTS: [&str; 2] = ["s", "t"];

/// The theme of a history. A history with a narrow theme tests it in depth.
#[derive(Clone, Copy, PartialEq)]
enum Theme {
    All,
    /// A snapshot whose deletion is interrupted, found by a check, and repaired after somebody has taken it anew.
    Repair,
    /// Volumes that are filled in a directory that other volumes want, too.
    Copies,
}

/// The generator of a history.
struct Maker {
    random: Random,
    theme: Theme,
    /// The default policies that the controllers were started with.
    defaults: [OnDelete; 2],
    /// The requests so far.
    calls: Vec<Call>,
    /// The IDs of the volumes that were requested.
    ids: Vec<Id>,
    checked: bool,
    /// Whether the last call had a fault. A check often follows such a call.
    troubled: bool,
    /// How far the usual course of the theme has come.
    course: usize,
}

/// The history of a seed.
pub fn history(seed: u64) -> Vec<Step> {
    let mut random = Random(seed);
    let theme = random.of(&[Theme::All, Theme::All, Theme::All, Theme::Repair, Theme::Copies]);
    let mut maker = Maker {
        random,
        theme,
        defaults: [OnDelete::Delete; 2],
        calls: Vec::new(),
        ids: Vec::new(),
        checked: false,
        troubled: false,
        course: 0,
    };
    let length = 5 + maker.random.below(10);
    (0..length).map(|number| maker.step(number)).collect()
}

impl Maker {
    fn step(&mut self, number: usize) -> Step {
        let at = self.random.below(2);
        if self.theme == Theme::Repair
            && self.random.percent(75)
            && let Some(step) = self.course(at)
        {
            return step;
        }
        if std::mem::take(&mut self.troubled) && self.random.percent(20) {
            self.checked = true;
            return Step::Check;
        }
        match self.random.below(100) {
            0..13 => Step::Write { dir: self.dir(), number },
            13 => Step::MakeDir { dir: self.dir() },
            14..16 => Step::RemoveDir { dir: self.dir() },
            16..20 => {
                self.defaults[at] = self.random.of(&POLICIES);
                Step::Restart { at, default: self.defaults[at] }
            }
            20 => Step::PowerLoss,
            21..27 if self.checked => Step::Repair,
            21..24 => {
                self.checked = true;
                Step::Check
            }
            24..31 if !self.calls.is_empty() => {
                let calls = [self.call(0), self.call(1)];
                let mut pace = || self.random.below(4) as u64;
                Step::Both { calls, pace: (pace(), pace(), 8 * pace() * pace()) }
            }
            _ => {
                let call = self.call(at);
                let often = self.theme != Theme::All || matches!(call, Call::Create { from: Some(_), .. });
                let fault = self.random.percent(if often { 50 } else { 25 }).then(|| self.fault(often));
                self.troubled = fault.is_some();
                Step::Call { at, call, fault }
            }
        }
    }

    /// The next step of a history about repairs, in which nothing else happens.
    fn course(&mut self, at: usize) -> Option<Step> {
        self.course += 1;
        let (call, fault) = match self.course {
            1 => (self.create(at), None),
            2 | 5 => (Call::Snapshot { name: "s", of: *self.ids.first()? }, None),
            3 => (Call::DeleteSnapshot("s"), Some(self.fault(false))),
            4 => {
                self.checked = true;
                return Some(Step::Check);
            }
            6 => return Some(Step::Repair),
            _ => return None,
        };
        self.calls.push(call.clone());
        Some(Step::Call { at, call, fault })
    }

    /// A fault. With `late`, mostly at operations where a copy or the deletion of a copy is in progress.
    fn fault(&mut self, late: bool) -> Fault {
        let (from, within) = match late && self.random.percent(60) {
            true => self.random.of(&[(5, 15), (20, 30), (50, 30)]),
            false => (0, self.random.of(&[20, 60, 120])),
        };
        let n = (from + self.random.below(within)) as u64;
        match self.random.below(6) {
            0 | 1 => Fault::Crash(n, Crash::BeforeEffect),
            2 => Fault::Crash(n, Crash::AfterEffect),
            3 => Fault::LoseAnswer(n),
            4 => self.random.of(&[Fault::Io(n), Fault::Full(n)]),
            _ => Fault::GiveUp(n),
        }
    }

    fn dir(&mut self) -> &'static str {
        match self.ids.last() {
            Some(last) if self.random.percent(40) => last.dir,
            _ => self.random.of(&DIRS),
        }
    }

    /// A request to a controller: an earlier one, or a new one.
    fn call(&mut self, at: usize) -> Call {
        if !self.calls.is_empty() && self.random.percent(35) {
            let last = self.calls.last().filter(|_| self.random.percent(35)).cloned();
            return last.unwrap_or_else(|| self.random.of(&self.calls));
        }
        let call = self.new_call(at);
        self.calls.push(call.clone());
        call
    }

    fn new_call(&mut self, at: usize) -> Call {
        match self.theme {
            _ if self.ids.is_empty() => return self.create(at),
            Theme::Copies if self.random.percent(70) => {
                let (name, dir) = (self.random.of(&NAMES), Some("media"));
                let from = self.random.percent(60).then_some(Origin::Volume(self.ids[0]));
                self.ids.push(made(name, dir, self.defaults[at]));
                return Call::Create { name, dir, on_delete: None, from };
            }
            _ => {}
        }
        match self.random.below(100) {
            0..30 => self.create(at),
            30..55 => Call::Delete(self.id()),
            55..67 => Call::Modify(self.id(), self.random.of(&POLICIES)),
            67..71 => Call::Expand(self.id(), self.random.of(&[1000, 2000])),
            71..73 => Call::Get(self.id()),
            73..83 => Call::Snapshot { name: self.random.of(&SNAPSHOTS), of: self.id() },
            83..90 => Call::DeleteSnapshot(self.random.of(&SNAPSHOTS)),
            90..96 => {
                let mut of = vec![self.id(), self.id()];
                of.sort_unstable_by_key(Id::to_string);
                of.dedup_by_key(|id| id.to_string());
                Call::Group { name: "g", of }
            }
            _ => Call::DeleteGroup("g", 1 + self.random.below(2)),
        }
    }

    fn create(&mut self, at: usize) -> Call {
        let (name, mut dir) = (self.random.of(&NAMES), self.random.of(&SUB_DIRS));
        if let Some(last) = self.ids.last().filter(|_| self.random.percent(35)) {
            dir = Some(last.dir).filter(|dir| *dir != name);
        }
        let on_delete =
            self.random.of(&[None, None, Some(OnDelete::Delete), Some(OnDelete::Retain), Some(OnDelete::Archive)]);
        let filled = !self.ids.is_empty() && self.random.percent(35);
        let from = filled.then(|| match self.random.below(3) {
            0 => Origin::Volume(self.id()),
            1 => Origin::Snapshot(self.random.of(&SNAPSHOTS)),
            _ => Origin::Snapshot(self.random.of(&["s", "g-0"])),
        });
        self.ids.push(made(name, dir, on_delete.unwrap_or(self.defaults[at])));
        Call::Create { name, dir, on_delete, from }
    }

    /// Mostly the ID of a volume that was requested, sometimes an ID that no controller returned.
    fn id(&mut self) -> Id {
        if self.random.percent(92) {
            return self.random.of(&self.ids);
        }
        let uuid = self.random.of(&[None, Some("v"), Some("w")]);
        Id {
            dir: self.random.of(&DIRS),
            uuid,
            keep: self.random.of(&[None, Some(OnDelete::Retain), Some(OnDelete::Archive)]),
        }
    }
}

/// The ID of a volume that is created with this name, directory and policy.
pub fn made(name: &'static str, dir: Option<&'static str>, policy: OnDelete) -> Id {
    let keep = Some(policy).filter(|policy| *policy != OnDelete::Delete);
    Id { dir: dir.unwrap_or(name), uuid: dir.map(|_| name), keep }
}
