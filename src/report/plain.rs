//! A line per event on standard error, for pipes, logs and CI. Progress gets a line every few
//! seconds.

use super::text::{duration, number};
use erw_runner::event::{Event, EventKind, Listener, StageEnd, StageState};
use erw_runner::text::log_lines::shown;
use std::collections::HashMap;
use std::io::Write;

/// Seconds between two lines about the progress of one stage.
const PROGRESS_EVERY: f64 = 10.0;

#[derive(Debug, Default)]
pub struct Plain {
    running: HashMap<String, Running>,
}

#[derive(Debug, Default)]
struct Running {
    told: f64,
    /// Time and position of the first progress of this attempt, from which rates are computed.
    first: Option<(f64, u64)>,
    metrics: Vec<(String, Option<f64>)>,
}

impl Plain {
    fn progress(&mut self, at: f64, stage: &str, done: u64, total: u64) -> Option<String> {
        let running = self.running.entry(stage.to_string()).or_default();
        let first = *running.first.get_or_insert((at, done));
        if at - running.told < PROGRESS_EVERY {
            return None;
        }
        running.told = at;
        let metrics = running.metrics.iter().map(|(name, value)| format!(", {name} {}", number(*value)));
        let pace = pace(first, (at, done), total).map_or_else(String::new, |pace| format!(", {pace}"));
        Some(format!("{stage}: {done} of {total}{pace}{}", metrics.collect::<String>()))
    }
}

/// Steps per second between two positions, and the time left at this rate.
fn pace((began, from): (f64, u64), (at, done): (f64, u64), total: u64) -> Option<String> {
    if done <= from || at <= began {
        return None;
    }
    let rate = (done - from) as f64 / (at - began);
    Some(format!("{}/s, {} left", number(Some(rate)), duration(total.saturating_sub(done) as f64 / rate)))
}

impl Listener for Plain {
    fn event(&mut self, event: &Event) {
        let text = match &event.what {
            EventKind::Progress { stage, done, total } => self.progress(event.at, stage, *done, *total),
            EventKind::Metric { stage, name, value, .. } => {
                let metrics = &mut self.running.entry(stage.clone()).or_default().metrics;
                match metrics.iter_mut().find(|(n, _)| n == name) {
                    Some((_, old)) => *old = *value,
                    None => metrics.push((name.clone(), *value)),
                }
                None
            }
            EventKind::Started { stage, .. } => {
                self.running.insert(stage.clone(), Running { told: event.at, ..Running::default() });
                sentence(&event.what)
            }
            what => sentence(what),
        };
        if let Some(text) = text {
            // In one write, because standard error is not buffered.
            let _ = std::io::stderr().lock().write_all((text + "\n").as_bytes());
        }
    }
}

/// An event as text, without control sequences; `None` for events that get no line.
pub fn sentence(what: &EventKind) -> Option<String> {
    words(what).map(|text| shown(&text))
}

fn words(what: &EventKind) -> Option<String> {
    Some(match what {
        EventKind::Locked { stage, twin: Some(twin), .. } => {
            format!("{stage}: `{twin}` is the same and computes it; waiting for its result")
        }
        EventKind::Locked { stage, .. } => format!("{stage}: another run is computing it; waiting for its result"),
        EventKind::Started { stage, reasons, attempt, .. } => {
            let again = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
            format!("{stage}: started ({}){again}", reasons.join("; "))
        }
        EventKind::Log { stage, text } => format!("{stage}: {text}"),
        EventKind::Checkpoint { stage, step } => format!("{stage}: checkpoint at step {step}"),
        EventKind::Resumed { stage, step } => format!("{stage}: resumes from step {step}"),
        EventKind::Retry { stage, attempt, wait, failure } => {
            format!("{stage}: failed: {}; attempt {attempt} in {}", failure.message, duration(*wait))
        }
        EventKind::Warning { text } => format!("warning: {text}"),
        EventKind::Ended(end) => ended(end)?,
        _ => return None,
    })
}

/// What the next run does with a suspended stage. One that never started left nothing.
pub fn next_run(end: &StageEnd) -> String {
    match &end.left {
        Some(left) => format!("in the next run it {left}"),
        None => "in the next run it starts".into(),
    }
}

fn ended(end: &StageEnd) -> Option<String> {
    let StageEnd { stage, seconds, error, .. } = end;
    let why = || error.as_ref().map_or_else(String::new, |e| e.message.clone());
    Some(match end.state {
        StageState::Cached => format!("{stage}: cached"),
        StageState::Done => {
            let results = end.results.iter().map(|r| format!(", {} {}", r.name, number(r.value)));
            format!("{stage}: done in {}{}", duration(*seconds), results.collect::<String>())
        }
        StageState::Failed => format!("{stage}: failed: {}", why()),
        StageState::Skipped => format!("{stage}: skipped, {}", why()),
        StageState::Suspended => format!("{stage}: suspended; {}", next_run(end)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_of_a_resumed_stage_counts_from_where_it_resumed() {
        let mut plain = Plain::default();
        assert_eq!(plain.progress(1.0, "train", 1000, 2000), None, "too early");
        plain.running.get_mut("train").unwrap().metrics.push(("loss".into(), Some(0.5)));
        let told = plain.progress(21.0, "train", 1100, 2000).unwrap();
        assert_eq!(told, "train: 1100 of 2000, 5/s, 3 min 00 s left, loss 0.5");
        assert_eq!(pace((0.0, 5), (1.0, 5), 10), None);
    }
}
