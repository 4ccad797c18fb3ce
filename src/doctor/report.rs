//! What the steps found, as text for a person or as JSON.

use serde::Serialize;

use crate::error::Result;
use crate::nfs::source::Source;
use crate::nfs::text::{Format, one_line};

/// What a step means for the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It is as the driver wants it.
    Good,
    /// The driver works, with a limit that the advice is about.
    Warning,
    /// The driver does not work.
    Bad,
}

/// A step of the examination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name.
    pub step: &'static str,
    /// What it means.
    pub verdict: Verdict,
    /// What was tried.
    pub tried: String,
    /// What came.
    pub found: String,
    /// What to do, unless `found` says it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub advice: &'static str,
}

impl Step {
    /// It is as the driver wants it.
    pub fn good(step: &'static str, tried: &str, found: impl Into<String>) -> Self {
        Self { step, verdict: Verdict::Good, tried: tried.to_owned(), found: found.into(), advice: "" }
    }

    /// The driver works, with a limit.
    pub fn warning(step: &'static str, tried: &str, found: impl Into<String>, advice: &'static str) -> Self {
        Self { verdict: Verdict::Warning, advice, ..Self::good(step, tried, found) }
    }

    /// The driver does not work.
    pub fn bad(step: &'static str, tried: &str, found: impl Into<String>, advice: &'static str) -> Self {
        Self { verdict: Verdict::Bad, advice, ..Self::good(step, tried, found) }
    }
}

/// All steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `SERVER:/SHARE`.
    pub export: String,
    /// The steps, in their order. A step that needs what an earlier one did not get is left out.
    pub steps: Vec<Step>,
}

impl Report {
    pub(super) fn of(export: &Source) -> Self {
        Self { export: export.to_string(), steps: Vec::new() }
    }

    pub(super) fn add(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Adds a step that fails as `result` does, and whose error says what to do.
    pub(super) fn note<T>(&mut self, step: &'static str, tried: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.add(Step::good(step, tried, "done"));
                Some(value)
            }
            Err(error) => {
                self.add(Step::bad(step, tried, error.to_string(), ""));
                None
            }
        }
    }

    /// How many steps have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.steps.iter().filter(|step| step.verdict == verdict).count()
    }

    /// The report in the requested format.
    pub fn print(&self, format: Format) -> String {
        if format == Format::Json {
            // All fields are strings, so serialization cannot fail.
            return serde_json::to_string(self).unwrap_or_default() + "\n";
        }
        let mut text = String::new();
        for Step { step, verdict, tried, found, advice } in &self.steps {
            let verdict = match verdict {
                Verdict::Good => "good",
                Verdict::Warning => "WARNING",
                Verdict::Bad => "BAD",
            };
            text += &format!("{verdict:8} {step:10} {}: {}\n", one_line(tried), one_line(found));
            if !advice.is_empty() {
                text += &format!("{:19} -> {advice}\n", "");
            }
        }
        let (bad, warnings) = (self.count(Verdict::Bad), self.count(Verdict::Warning));
        text + &format!("{}: {} steps, {bad} bad, {warnings} with a warning\n", self.export, self.steps.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs::source::{Server, Share};

    #[test]
    fn a_report_prints_each_step_with_its_advice_as_text_or_as_json() {
        let export = Source::share(Server::parse("", "nfs").unwrap(), Share::parse("", "/e").unwrap());
        let mut report = Report::of(&export);
        report.add(Step::good("name", "looking up nfs", "10.0.0.1\nx"));
        report.add(Step::bad("port", "connecting", "refused", "start the server"));
        let text = "good     name       looking up nfs: 10.0.0.1\\nx\n\
                    BAD      port       connecting: refused\n                    -> start the server\n\
                    nfs:/e: 2 steps, 1 bad, 0 with a warning\n";
        assert_eq!(report.print(Format::Text), text);
        let json: serde_json::Value = serde_json::from_str(&report.print(Format::Json)).unwrap();
        assert_eq!(json["steps"][1]["verdict"], "bad");
        assert_eq!(json["steps"][0].get("advice"), None);
    }
}
