//! The digits experiment in a directory of its own, small enough to run many times, and the built program to run it.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use tempfile::TempDir;

/// `pipelines/digits.toml` with sizes and steps cut down; the stages and their wiring are the shipped ones.
const SMALL: &str = r#"
extends = "digits.toml"
name = "small"

[stages.vae]
params = { steps = 12, batch = 8, block_out_channels = [4, 8, 8], norm_num_groups = 4 }
operation = { checkpoint_every = 3 }

[stages.encoder]
params = { steps = 12, batch = 8, hidden = 16, depth = 2, heads = 2 }
operation = { checkpoint_every = 3 }

[stages.classifier]
params = { steps = 12, batch = 8 }
operation = { checkpoint_every = 3 }

[stages.warmup]
params = { steps = 10, batch = 8, hidden = 16, depth = 1, layers = 2, heads = 2, projector_dim = 24 }
operation = { checkpoint_every = 2 }

[stages.train]
params = { steps = 12, batch = 8, hidden = 16, layers = 2, heads = 2, projector_dim = 24, encoder_depth = 1 }
operation = { checkpoint_every = 3 }

[stages.sample]
params = { count = 24, steps = 4 }
operation = { batch = 6 }

[stages.sample-sde]
params = { count = 24, steps = 4 }
operation = { batch = 6 }
"#;

/// A copy of the digits (every fourth image) and the small pipeline.
pub struct Experiment {
    dir: TempDir,
}

/// What a stage made, by output name: digests.
pub type Digests = BTreeMap<String, Vec<String>>;

impl Experiment {
    pub fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary directory");
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
        let digits = dir.path().join("data/digits");
        for entry in walkdir::WalkDir::new(shipped.join("data/digits")).sort_by_file_name() {
            let entry = entry.expect("shipped data");
            let relative = entry.path().strip_prefix(shipped.join("data/digits")).expect("inside");
            if entry.file_type().is_dir() {
                std::fs::create_dir_all(digits.join(relative)).expect("mkdir");
            } else if numbered(relative).is_multiple_of(4) {
                std::fs::copy(entry.path(), digits.join(relative)).expect("copy");
            }
        }
        std::fs::copy(shipped.join("digits.toml"), dir.path().join("digits.toml")).expect("copy");
        std::fs::write(dir.path().join("small.toml"), SMALL).expect("write");
        Self { dir }
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub fn write(&self, relative: &str, text: &str) {
        std::fs::write(self.path(relative), text).expect("write");
    }

    /// The program, in this directory, with a cache of its own.
    pub fn erw(&self, cache: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_erw"));
        command.current_dir(self.dir.path()).args(args).args(["--cache-dir", cache]).stdin(Stdio::null());
        command
    }

    pub fn run(&self, cache: &str, args: &[&str]) -> Output {
        self.erw(cache, args).output().expect("erw starts")
    }

    /// Runs to success and returns the events.
    pub fn events(&self, cache: &str, args: &[&str]) -> Vec<Value> {
        let mut all = vec!["run", "small.toml", "--json"];
        all.extend(args);
        let out = self.run(cache, &all);
        assert!(
            out.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).lines().map(|l| serde_json::from_str(l).expect("JSON line")).collect()
    }

    /// Starts a run whose events can be followed.
    pub fn start(&self, cache: &str) -> Running {
        let mut child = self
            .erw(cache, &["run", "small.toml", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("erw starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Running { child, lines }
    }
}

fn numbered(file: &Path) -> u64 {
    file.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// A run in progress.
pub struct Running {
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Follows events until one satisfies `wanted`.
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        for line in self.lines.by_ref() {
            let event: Value = serde_json::from_str(&line.expect("readable")).expect("JSON line");
            if wanted(&event) {
                return event;
            }
        }
        panic!("the run ended before the awaited event");
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

fn ended(events: &[Value]) -> impl Iterator<Item = &Value> {
    events.iter().filter(|e| e["event"] == "ended")
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_string()
}
