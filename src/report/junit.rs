//! A run as JUnit XML, which CI services show: a test case for each stage, written when the run has
//! ended.
//!
//! A stage that is cached or ran has passed; one that was skipped or suspended counts as skipped,
//! with the reason.

use super::plain::next_run;
use erw_base::error::{Error, Result};
use erw_runner::event::{Event, EventKind, Failure, Listener, StageEnd, StageState};
use erw_runner::host::{host, utc_now};
use erw_runner::text::log_lines::shown;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Junit {
    file: PathBuf,
    pipeline: String,
    began: String,
    ends: Vec<StageEnd>,
}

impl Junit {
    /// # Errors
    /// If the file cannot be written, which is better known before a run than after it.
    pub fn new(file: &Path) -> Result<Self> {
        std::fs::write(file, "").map_err(|e| Error::io("write", file, e))?;
        Ok(Self { file: file.into(), pipeline: String::new(), began: utc_now(), ends: vec![] })
    }

    fn report(&self, seconds: f64) -> Report {
        let mut suite = TestSuite::new(clean(&self.pipeline));
        suite.set_time(time(seconds)).add_test_cases(self.ends.iter().map(|end| self.case(end)));
        suite.timestamp = self.began.parse().ok();
        suite.extra.insert("hostname".into(), clean(&host()).into());
        let mut report = Report::unnamed();
        report.set_time(time(seconds)).add_test_suite(suite);
        report
    }

    fn case(&self, end: &StageEnd) -> TestCase {
        let failure = end.error.clone().unwrap_or_default();
        let message = clean(&failure.message);
        let mut status = match end.state {
            StageState::Failed => TestCaseStatus::non_success(NonSuccessKind::Failure),
            StageState::Skipped | StageState::Suspended => TestCaseStatus::skipped(),
            _ => TestCaseStatus::success(),
        };
        match end.state {
            StageState::Failed => status.set_message(message).set_description(clean(&details(&failure))),
            StageState::Skipped => status.set_message(message),
            StageState::Suspended => status.set_message(format!("suspended; {}", next_run(end))),
            _ => &mut status,
        };
        let mut case = TestCase::new(clean(&end.stage), status);
        case.set_classname(clean(&self.pipeline));
        // The time of a cached stage was spent in another run.
        if end.state == StageState::Cached {
            case.set_time(Duration::ZERO).set_system_out("cached");
        } else {
            case.set_time(time(end.seconds));
        }
        case
    }
}

fn time(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Causes, hints and the end of the log.
fn details(failure: &Failure) -> String {
    let causes = failure.causes.iter().map(|c| format!("cause: {c}"));
    let hints = failure.hints.iter().map(|h| format!("hint: {h}"));
    let place = failure.place.iter().map(|place| format!(" --> {place}"));
    let message = std::iter::once(failure.message.clone());
    let mut lines: Vec<String> = message.chain(place).chain(causes).chain(hints).collect();
    if !failure.tail.is_empty() {
        lines.push("end of the log:".into());
        lines.extend(failure.tail.iter().map(|l| format!("  {l}")));
    }
    lines.join("\n")
}

/// Removes control sequences, and with them the characters that XML cannot express.
fn clean(text: &str) -> String {
    shown(text)
}

impl Listener for Junit {
    fn event(&mut self, event: &Event) {
        match &event.what {
            EventKind::RunStarted { pipeline, .. } => self.pipeline.clone_from(pipeline),
            EventKind::Ended(end) => {
                // A stage whose output was found damaged ends twice; its last end counts.
                self.ends.retain(|e| e.stage != end.stage);
                self.ends.push((**end).clone());
            }
            EventKind::RunFinished { seconds, .. } => {
                let xml = self.report(*seconds).to_string().map_err(std::io::Error::other);
                if let Err(e) = xml.and_then(|xml| std::fs::write(&self.file, xml)) {
                    // What is there is empty or a part, which readers take for broken. A device
                    // stays.
                    if self.file.is_file() {
                        let _ = std::fs::remove_file(&self.file);
                    }
                    // A missing report does not fail the run.
                    let text = format!("warning: cannot write `{}`: {e}\n", self.file.display());
                    let _ = std::io::stderr().write_all(text.as_bytes());
                }
            }
            _ => {}
        }
    }
}
