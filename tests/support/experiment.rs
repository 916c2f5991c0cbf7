//! The digits experiment in a directory of its own, small enough to run many times, and the built
//! program to run it.

use super::deadline::Deadline;
use super::space::{Said, Space};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines};
use std::ops::Deref;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

/// `pipelines/digits.toml` with sizes and steps cut down; the stages and their wiring are the
/// shipped ones.
const SMALL: &str = r#"
extends = "digits.toml"
name = "small"

[stages.vae]
params = { steps = 30, batch = 8, block_out_channels = [4, 8, 8], measure_images = 64 }
operation = { checkpoint_every = 3 }

[stages.encoder]
params = { steps = 12, batch = 8, dim = 16, depth = 2, heads = 2 }
operation = { checkpoint_every = 3 }

[stages.classifier]
params = { steps = 12, batch = 8, channels = [4, 8], features = 16, norm_num_groups = 4 }
operation = { checkpoint_every = 3 }

[stages.warmup]
params = { steps = 120, batch = 8, hidden = 16, blocks = 2, heads = 2, projector_dim = 24, depth = 1 }
operation = { checkpoint_every = 3 }

[stages.train]
params = { steps = 120, batch = 8, hidden = 16, blocks = 2, heads = 2, projector_dim = 24, encoder_depth = 1 }
operation = { checkpoint_every = 3 }

[stages.sample]
params = { count = 24, steps = 4 }
operation = { batch = 6 }

[stages.sample-sde]
params = { count = 24, steps = 4 }
operation = { batch = 6 }
"#;

/// A space with every fourth of the digits and the small pipeline, `small.toml`.
pub struct Experiment {
    space: Space,
}

/// What a stage made: the digests of its outputs by stage.
pub type Digests = BTreeMap<String, Vec<String>>;

impl Deref for Experiment {
    type Target = Space;
    fn deref(&self) -> &Space {
        &self.space
    }
}

impl Experiment {
    pub fn new() -> Self {
        let space = Space::of(&[("small.toml", SMALL)]);
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
        std::fs::copy(shipped.join("digits.toml"), space.path("digits.toml")).expect("copy");
        some_digits(&space.path("data/digits"));
        Self { space }
    }

    /// The program with a cache of its own. Two threads whatever the machine, so that sums are
    /// split alike everywhere.
    fn running(&self, cache: &str, pipeline: &str) -> Command {
        self.command(&["run", pipeline, "--json", "--threads", "2", "--cache-dir", cache])
    }

    /// Runs the small pipeline to success and returns the events.
    pub fn events(&self, cache: &str) -> Vec<Value> {
        self.events_of(cache, "small.toml")
    }

    pub fn events_of(&self, cache: &str, pipeline: &str) -> Vec<Value> {
        events(&Said::from(self.running(cache, pipeline).finish()).expect(0))
    }

    /// Starts a run whose events can be followed.
    pub fn follow(&self, cache: &str) -> Running {
        Running::start(self.running(cache, "small.toml"))
    }

    /// Starts a run to be waited for.
    pub fn begin(&self, cache: &str) -> Child {
        let mut command = self.running(cache, "small.toml");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).start()
    }
}

/// The events that a run printed.
pub fn events(said: &Said) -> Vec<Value> {
    said.stdout.lines().map(|l| serde_json::from_str(l).expect("JSON line")).collect()
}

/// Copies every fourth of the shipped digits.
pub fn some_digits(to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/data/digits");
    for entry in walkdir::WalkDir::new(&from).sort_by_file_name() {
        let entry = entry.expect("shipped data");
        let relative = entry.path().strip_prefix(&from).expect("inside");
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(to.join(relative)).expect("mkdir");
        } else if numbered(relative).is_multiple_of(4) {
            std::fs::copy(entry.path(), to.join(relative)).expect("copy");
        }
    }
}

fn numbered(file: &Path) -> u64 {
    file.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// A run in progress.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts a run with `--json`.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).start();
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// Follows events until one satisfies `wanted`.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.find(wanted).expect("the run ended before the awaited event")
    }

    /// Like `until`, of a run that may end first.
    pub fn find(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let lines = self.lines.by_ref().map(|l| l.expect("readable"));
        lines.map(|l| serde_json::from_str(&l).expect("JSON line")).find(wanted)
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Process ids of the workers that live now; waits for the first.
    pub fn workers(&self) -> Vec<i32> {
        for _ in 0..1000 {
            let workers = self.workers_now();
            if !workers.is_empty() {
                return workers;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        panic!("no worker was started");
    }

    /// Process ids of the workers that live now, if any.
    pub fn workers_now(&self) -> Vec<i32> {
        let tasks = format!("/proc/{}/task", self.pid());
        let threads = std::fs::read_dir(&tasks).into_iter().flatten().filter_map(|t| Some(t.ok()?.path()));
        let lists = threads.filter_map(|t| std::fs::read_to_string(t.join("children")).ok());
        lists.flat_map(|l| l.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>()).collect()
    }

    /// Hears it out.
    pub fn end(mut self) -> ExitStatus {
        self.lines.by_ref().for_each(drop);
        self.child.wait().expect("ends")
    }
}

pub fn is(event: &Value, kind: &str, stage: &str) -> bool {
    event["event"] == kind && event["stage"] == stage
}

/// Output digests by stage, from the `ended` events.
pub fn digests(events: &[Value]) -> Digests {
    ended(events)
        .map(|e| {
            let outputs = e["outputs"].as_array().expect("outputs");
            (text(&e["stage"]), outputs.iter().map(|o| text(&o["digest"])).collect())
        })
        .collect()
}

/// Names of the stages that ended in this state.
pub fn in_state(events: &[Value], state: &str) -> Vec<String> {
    let mut names: Vec<String> = ended(events).filter(|e| e["state"] == state).map(|e| text(&e["stage"])).collect();
    names.sort();
    names
}

pub fn ended(events: &[Value]) -> impl Iterator<Item = &Value> {
    events.iter().filter(|e| e["event"] == "ended")
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_string()
}
