//! Bars on a terminal: one for the run, one per running stage; finished stages scroll by above them.

use super::number;
use super::plain::sentence;
use crate::runner::event::{Event, Listener, State, What};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::time::Duration;

/// How often bars move while no event comes, so that a stuck terminal can be told from a busy stage.
const TICK: Duration = Duration::from_millis(200);

#[derive(Default)]
pub struct Bars {
    all: MultiProgress,
    run: Option<ProgressBar>,
    stages: HashMap<String, Bar>,
}

struct Bar {
    bar: ProgressBar,
    measured: bool,
    metrics: Vec<(String, Option<f64>)>,
}

impl Bars {
    fn start_run(&mut self, pipeline: &str, stages: usize) {
        let bar = self.all.add(ProgressBar::new(stages as u64));
        bar.set_style(style("{prefix:>20} [{bar:30}] {pos}/{len} stages, {elapsed}"));
        bar.set_prefix(pipeline.to_string());
        bar.enable_steady_tick(TICK);
        self.run = Some(bar);
    }

    fn start_stage(&mut self, stage: &str) {
        let bar = match &self.run {
            Some(run) => self.all.insert_before(run, ProgressBar::new_spinner()),
            None => self.all.add(ProgressBar::new_spinner()),
        };
        bar.set_style(style("{prefix:>20} {spinner} {elapsed} {msg}"));
        bar.set_prefix(stage.to_string());
        bar.enable_steady_tick(TICK);
        self.stages.insert(stage.to_string(), Bar { bar, measured: false, metrics: vec![] });
    }

    fn progress(&mut self, stage: &str, done: u64, total: u64) {
        let Some(bar) = self.stages.get_mut(stage) else { return };
        if !bar.measured {
            bar.measured = true;
            bar.bar.set_style(style("{prefix:>20} [{bar:30}] {pos}/{len}, {per_sec}, {eta} left {msg}"));
            // The rate is that of this attempt, wherever it resumed.
            bar.bar.reset_eta();
        }
        bar.bar.set_length(total);
        bar.bar.set_position(done);
    }

    fn metric(&mut self, stage: &str, name: &str, value: Option<f64>) {
        let Some(bar) = self.stages.get_mut(stage) else { return };
        match bar.metrics.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => bar.metrics.push((name.to_string(), value)),
        }
        let text: Vec<String> = bar.metrics.iter().map(|(n, v)| format!("{n} {}", number(*v))).collect();
        bar.bar.set_message(text.join("  "));
    }
}

impl Listener for Bars {
    fn event(&mut self, event: &Event) {
        match &event.what {
            What::RunStarted { pipeline, stages, .. } => self.start_run(pipeline, *stages),
            What::Progress { stage, done, total } => self.progress(stage, *done, *total),
            What::Metric { stage, name, value, .. } => self.metric(stage, name, *value),
            What::State { stage, state } if *state != State::Running => {
                if let Some(bar) = self.stages.remove(stage) {
                    bar.bar.finish_and_clear();
                }
                if let Some(run) = self.run.as_ref().filter(|_| state.is_settled()) {
                    run.inc(1);
                }
            }
            What::Started { stage, .. } => self.start_stage(stage),
            What::RunFinished { .. } => {
                self.stages.drain().for_each(|(_, bar)| bar.bar.finish_and_clear());
                self.run.take().into_iter().for_each(|run| run.finish_and_clear());
            }
            // Every few steps; the bar shows progress well enough.
            What::Checkpoint { .. } => return,
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
