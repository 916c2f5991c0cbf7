//! A run as JUnit XML, which CI services show: a test case for each stage, written when the run has
//! ended.
//!
//! A stage that is cached or ran has passed; one that was skipped or suspended counts as skipped,
//! with the reason.

use super::plain::next_run;
use erw_base::error::{Error, Result};
use erw_runner::event::{Event, EventKind, Failure, Listener, StageEnd, State};
use erw_runner::host::{host, utc_now};
use erw_runner::text::log_lines::shown;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event as Xml};
use std::io::Write;
use std::path::{Path, PathBuf};

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

    fn xml(&self, seconds: f64) -> std::io::Result<Vec<u8>> {
        let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
        xml.write_event(Xml::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
        let count = |states: &[State]| self.ends.iter().filter(|e| states.contains(&e.state)).count().to_string();
        let (tests, failures) = (self.ends.len().to_string(), count(&[State::Failed]));
        let skipped = count(&[State::Skipped, State::Suspended]);
        let time = format!("{seconds:.3}");
        let counts = [("tests", &*tests), ("failures", &*failures), ("errors", "0"), ("skipped", &*skipped)];
        let suites = xml.create_element("testsuites").with_attributes(counts).with_attribute(("time", &*time));
        suites.write_inner_content(|xml| {
            let suite = xml.create_element("testsuite").with_attribute(("name", &*clean(&self.pipeline)));
            let suite = suite.with_attributes(counts).with_attribute(("time", &*time));
            // Without fraction and zone, as the schema requires.
            let began = self.began.split('.').next().unwrap_or_default();
            let suite = suite.with_attributes([("timestamp", began), ("hostname", &*clean(&host()))]);
            suite.write_inner_content(|xml| self.ends.iter().try_for_each(|end| self.case(xml, end)))?;
            Ok(())
        })?;
        let mut bytes = xml.into_inner();
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn case(&self, xml: &mut Writer<Vec<u8>>, end: &StageEnd) -> std::io::Result<()> {
        // The time of a cached stage was spent in another run.
        let time = if end.state == State::Cached { 0.0 } else { end.seconds };
        let (name, class, time) = (clean(&end.stage), clean(&self.pipeline), format!("{time:.3}"));
        let case = [("name", &*name), ("classname", &*class), ("time", &*time)];
        let case = xml.create_element("testcase").with_attributes(case);
        let failure = end.error.clone().unwrap_or_default();
        let message = clean(&failure.message);
        match end.state {
            State::Failed => case.write_inner_content(|xml| {
                let element = xml.create_element("failure").with_attribute(("message", &*message));
                element.write_text_content(BytesText::new(&clean(&details(&failure))))?;
                Ok(())
            })?,
            State::Skipped | State::Suspended => case.write_inner_content(|xml| {
                let why = match end.state {
                    State::Suspended => format!("suspended; {}", next_run(end)),
                    _ => message.to_string(),
                };
                xml.create_element("skipped").with_attribute(("message", &*why)).write_empty()?;
                Ok(())
            })?,
            State::Cached => case.write_inner_content(|xml| {
                xml.create_element("system-out").write_text_content(BytesText::new("cached"))?;
                Ok(())
            })?,
            _ => case.write_empty()?,
        };
        Ok(())
    }
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
                if let Err(e) = self.xml(*seconds).and_then(|xml| std::fs::write(&self.file, xml)) {
                    // A missing report does not fail the run.
                    let text = format!("warning: cannot write `{}`: {e}\n", self.file.display());
                    let _ = std::io::stderr().write_all(text.as_bytes());
                }
            }
            _ => {}
        }
    }
}
