//! The answer to a run in which all was cached, kept: asked the same again, and finding nothing changed that the answer
//! rests on, it is given without reading the pipeline. What a run of 10,000 stages checks is then little more than that
//! their files are still there, which is what a build tool does too.
//!
//! The answer rests on the question (pipeline file, settings from outside, targets, this very program), the bytes of the
//! pipeline's files as they were read, the digests of sources as they stand in the keys, every record's file being what it
//! was by size and time, and every artifact being in its place with its size. Each is checked; if one differs, or the memo is damaged, the run takes
//! the long way, which is right whatever a memo says. It knows nothing of graphs.

use super::actions::{Output, Record, Shown};
use super::digest::{Digest, Measured};
use super::event::{Event, Listener, Measure, StageEnd, State, What};
use super::files::Files;
use super::graph::{Pipeline, StageId};
use super::key::Key;
use super::layers::Overrides;
use super::manifest::Registry;
use super::pool::Limits;
use super::store::{Keep, Presence, Store, write_file};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// After so long the long way is taken once, which notes that the records are still in use.
const GOOD_FOR: Duration = Duration::from_secs(24 * 3600);
const FORMAT: &str = "erw memo 1\n";

/// What is asked, as one digest.
#[derive(Debug, Clone, Copy)]
pub struct Question(Digest);

impl Question {
    /// `None`: it cannot be told whether the same is asked again.
    pub fn new(pipeline: &Path, registry: Registry, overrides: &Overrides, targets: &[String]) -> Option<Self> {
        let manifests: Vec<(&str, &str)> = registry.iter().map(|kind| (kind.name, kind.manifest)).collect();
        let published = std::env::var_os("ERW_REGISTRY").map(std::fs::read).transpose().ok()?;
        let program = std::env::current_exe().and_then(|exe| exe.metadata()).ok()?;
        let program = (program.len(), program.mtime(), program.mtime_nsec(), program.ino());
        let pipeline = std::path::absolute(pipeline).ok()?;
        let asked = (pipeline.to_str()?, &overrides.set, &overrides.env, targets, manifests, published, program);
        Some(Self(Digest::of_bytes(&serde_json::to_vec(&asked).ok()?)))
    }

    fn file(self, store: &Store) -> PathBuf {
        store.v1("memos").join(format!("{}.json", self.0))
    }
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Memo {
    pipeline: String,
    /// Pipeline files and the digests of what was read.
    files: Vec<(PathBuf, Digest)>,
    /// Outside files and folders with their digests in the keys.
    sources: Vec<(PathBuf, Digest)>,
    stages: Vec<Stage>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stage {
    name: String,
    kind: String,
    key: Digest,
    /// Size and time of change of the record's file.
    record: (u64, i64, i64),
    seconds: f64,
    results: Vec<Measure>,
    outputs: BTreeMap<String, Output>,
    shown: Vec<Shown>,
}

/// Keeps the answer to a run whose every stage has a record now. Failing to is no failure: the next run takes longer.
pub fn keep(store: &Store, question: Question, pipeline: &Pipeline, records: &[(StageId, Record)]) {
    let mut sources: BTreeSet<(PathBuf, Digest)> = BTreeSet::new();
    for (id, record) in records {
        let stage = pipeline.stage(*id);
        let used = record.sources();
        for (name, source) in &stage.sources {
            let (Some(digest), Ok(path)) = (used.get(name), std::path::absolute(&source.path)) else { return };
            sources.insert((path, *digest));
        }
    }
    let stage = |(id, record): &(StageId, Record)| Stage {
        name: pipeline.stage(*id).name.clone(),
        kind: record.kind.clone(),
        key: record.key().into(),
        record: stamp(&store.action_file(&record.key())).unwrap_or_default(),
        seconds: record.seconds,
        results: record.results.clone(),
        outputs: record.outputs.clone(),
        shown: record.shown.clone(),
    };
    let memo = Memo {
        pipeline: pipeline.name.clone(),
        files: pipeline.files.clone(),
        sources: sources.into_iter().collect(),
        stages: records.iter().map(stage).collect(),
    };
    if let Ok(body) = serde_json::to_string(&memo) {
        let text = format!("{FORMAT}{}\n{body}", Digest::of_bytes(body.as_bytes()));
        let _ = write_file(&question.file(store), text.as_bytes(), Keep::Later);
    }
}

/// The answer, if it still holds.
pub fn recall(store: &Store, question: Question) -> Option<Memo> {
    let file = question.file(store);
    let age = file.metadata().ok()?.modified().ok()?.elapsed().ok()?;
    let text = std::fs::read_to_string(&file).ok().filter(|_| age < GOOD_FOR)?;
    let (check, body) = text.strip_prefix(FORMAT)?.split_once('\n')?;
    if Digest::of_bytes(body.as_bytes()).to_string() != check {
        return None;
    }
    let memo: Memo = serde_json::from_str(body).ok()?;
    memo.holds(store).then_some(memo)
}

fn stamp(file: &Path) -> Option<(u64, i64, i64)> {
    let metadata = std::fs::symlink_metadata(file).ok()?;
    Some((metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

impl Memo {
    fn holds(&self, store: &Store) -> bool {
        let files = Files::default();
        let unread = |(path, digest): &(PathBuf, Digest)| Digest::of_file(path).is_ok_and(|now| now == *digest);
        let unchanged = |(path, digest): &(PathBuf, Digest)| {
            files.digest(store, path).is_ok_and(|now| now.measured.digest == *digest)
        };
        let in_place = |stage: &Stage| {
            let whole = |measured: &Measured| store.look(measured) == Presence::Whole;
            let record = store.action_file(&Key::from(stage.key));
            stamp(&record).is_some_and(|now| now == stage.record) && stage.outputs.values().all(|o| whole(&o.measured))
        };
        self.files.iter().all(unread)
            && self.sources.iter().all(unchanged)
            && self.stages.par_iter().with_min_len(64).all(in_place)
    }

    /// Tells the run that needs nothing, as events and as its end.
    pub fn tell(&self, store: &Store, limits: &Limits, listener: &mut dyn Listener) -> Vec<StageEnd> {
        let began = Instant::now();
        let mut say = |what| listener.event(&Event { at: began.elapsed().as_secs_f64(), what });
        say(What::RunStarted {
            pipeline: self.pipeline.clone(),
            stages: self.stages.len(),
            jobs: limits.jobs,
            threads: limits.threads,
        });
        let ends: Vec<StageEnd> = self.stages.iter().map(|stage| stage.end(store)).collect();
        ends.iter().for_each(|end| say(What::Ended(Box::new(end.clone()))));
        say(What::RunFinished { seconds: began.elapsed().as_secs_f64(), exit: 0 });
        ends
    }
}

impl Stage {
    fn end(&self, store: &Store) -> StageEnd {
        let path = |s: &Shown| Some(store.object(&self.outputs.get(&s.output)?.measured.digest).join(&s.file));
        StageEnd {
            stage: self.name.clone(),
            kind: self.kind.clone(),
            state: State::Cached,
            key: Some(self.key.to_string()),
            seconds: self.seconds,
            resumed: None,
            results: self.results.clone(),
            outputs: self.outputs.iter().map(|(name, output)| output.stored(store, name)).collect(),
            shown: self.shown.iter().filter_map(path).collect(),
            error: None,
        }
    }
}
