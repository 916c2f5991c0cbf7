//! Progress bars on a terminal: one for the run, one for each running stage; finished stages scroll
//! by above them.

use super::plain::sentence;
use super::text::{duration, number};
use erw_base::limits;
use erw_runner::event::{Event, EventKind, Listener, StageState};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often bars move without an event, so that a stuck terminal can be distinguished from a busy
/// stage.
const TICK: Duration = Duration::from_millis(200);

#[derive(Default)]
pub struct Bars {
    all: MultiProgress,
    /// The bars that move without events. When this is dropped, the thread that moves them ends.
    moving: Arc<Mutex<Vec<ProgressBar>>>,
    run: Option<ProgressBar>,
    stages: HashMap<String, Bar>,
}

struct Bar {
    bar: ProgressBar,
    /// Time and position of the first progress of this attempt, from which rates are computed.
    first: Option<(f64, u64)>,
    rate: String,
    metrics: Vec<(String, Option<f64>)>,
}

impl Bar {
    /// The time left, then as many metrics as fit: a number cut at the edge would be misread.
    fn message(&self) -> String {
        let total = self.bar.length().unwrap_or(0);
        // Before the message: name, bar, `done/total`, and the blanks between.
        let before = 17 + 1 + 18 + 1 + 2 * total.to_string().len() + 1 + 2;
        let room = terminal_size::terminal_size_of(std::io::stderr()).map_or(80, |(w, _)| usize::from(w.0));
        let mut text = self.rate.clone();
        for (name, value) in &self.metrics {
            let more = format!("{}{name} {}", if text.is_empty() { "" } else { "  " }, number(*value));
            if before + text.len() + more.len() >= room {
                break;
            }
            text.push_str(&more);
        }
        text
    }
}

impl Bars {
    fn start_run(&mut self, pipeline: &str, stages: usize) {
        let bar = self.all.add(ProgressBar::new(stages as u64));
        bar.set_style(style("{prefix:>17} [{bar:16}] {pos}/{len} stages  {elapsed}"));
        bar.set_prefix(pipeline.to_string());
        self.move_steadily(&bar);
        self.run = Some(bar);
    }

    /// Moves this bar without events. One thread moves all bars; otherwise each would start a
    /// thread of its own and panic if it gets none. Without the thread, bars move at events only.
    fn move_steadily(&mut self, bar: &ProgressBar) {
        let mut moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        moving.retain(|bar| !bar.is_finished());
        moving.push(bar.clone());
        if self.run.is_none() {
            let moving = Arc::downgrade(&self.moving);
            let _ = limits::spawn("bars", move || {
                while let Some(moving) = moving.upgrade() {
                    moving.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(ProgressBar::tick);
                    drop(moving);
                    std::thread::sleep(TICK);
                }
            });
        }
    }

    fn start_stage(&mut self, stage: &str) {
        let bar = match &self.run {
            Some(run) => self.all.insert_before(run, ProgressBar::new_spinner()),
            None => self.all.add(ProgressBar::new_spinner()),
        };
        bar.set_style(style("{prefix:>17} {spinner} {elapsed}  {wide_msg}"));
        bar.set_prefix(stage.to_string());
        self.move_steadily(&bar);
        self.stages.insert(stage.to_string(), Bar { bar, first: None, rate: String::new(), metrics: vec![] });
    }

    fn progress(&mut self, at: f64, stage: &str, done: u64, total: u64) {
        let Some(bar) = self.stages.get_mut(stage) else { return };
        if bar.first.is_none() {
            bar.bar.set_style(style("{prefix:>17} [{bar:16}] {pos}/{len}  {wide_msg}"));
        }
        let (began, from) = *bar.first.get_or_insert((at, done));
        if done > from && at > began {
            bar.rate =
                format!("{} left", duration((total.saturating_sub(done)) as f64 * (at - began) / (done - from) as f64));
        }
        bar.bar.set_length(total);
        bar.bar.set_position(done);
        bar.bar.set_message(bar.message());
    }

    fn metric(&mut self, stage: &str, name: &str, value: Option<f64>) {
        let Some(bar) = self.stages.get_mut(stage) else { return };
        match bar.metrics.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => bar.metrics.push((name.to_string(), value)),
        }
        bar.bar.set_message(bar.message());
    }
}

impl Listener for Bars {
    fn event(&mut self, event: &Event) {
        match &event.what {
            EventKind::RunStarted { pipeline, stages, .. } => self.start_run(pipeline, *stages),
            EventKind::CachedStages { stages } => {
                self.run.iter().for_each(|run| run.inc(*stages as u64));
            }
            EventKind::Progress { stage, done, total } => self.progress(event.at, stage, *done, *total),
            EventKind::Metric { stage, name, value, .. } => self.metric(stage, name, *value),
            EventKind::State { stage, state } if *state != StageState::Running => {
                if let Some(bar) = self.stages.remove(stage) {
                    bar.bar.finish_and_clear();
                }
                if let Some(run) = self.run.as_ref().filter(|_| state.is_settled()) {
                    run.inc(1);
                }
            }
            EventKind::Started { stage, .. } => self.start_stage(stage),
            EventKind::RunFinished { .. } => {
                self.stages.drain().for_each(|(_, bar)| bar.bar.finish_and_clear());
                self.run.take().into_iter().for_each(|run| run.finish_and_clear());
            }
            // Checkpoints are frequent, and the bar shows progress.
            EventKind::Checkpoint { .. } => return,
            _ => {}
        }
        if let Some(text) = sentence(&event.what) {
            let _ = self.all.println(text);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_that_are_only_counted_move_the_bar_of_the_run() {
        let mut bars = Bars::default();
        let mut say = |what| bars.event(&Event { at: 0.0, what });
        say(EventKind::RunStarted { pipeline: "p".into(), stages: 300, jobs: 1, threads: 1 });
        say(EventKind::CachedStages { stages: 298 });
        say(EventKind::State { stage: "s".into(), state: StageState::Cached });
        assert_eq!(bars.run.unwrap().position(), 299);
    }
}
