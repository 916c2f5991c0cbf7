//! Explains why a stage runs, waits or is cached: the differences to the nearest earlier record,
//! down to parameters and files, followed upstream where an input changed.
//!
//! `reason` compares two key texts; this module looks behind them. It decides nothing and prints
//! nothing.

use crate::cache::action_cache::{self, Record};
use crate::cache::key::ingredients;
use crate::cache::sources::listing;
use crate::event::progress::PartialProgress;
use crate::files::digest::Digest;
use crate::host;
use crate::pipeline::graph::{Stage, StageId};
use crate::pipeline::targets;
use crate::plan::reason::{Reason, compare, nearest};
use crate::plan::{CacheChecker, Keyed, Verdict, inputs, missing, plan};
use crate::text::path_text;
use erw_base::error::Result;
use serde::Serialize;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[derive(Debug, Serialize)]
pub struct Why {
    pub stage: String,
    pub kind: String,
    pub verdict: PlannedState,
    pub key: Option<String>,
    /// The record of a cached stage.
    pub made: Option<Fact>,
    /// This pipeline, if no record belongs to this stage in it: then `before` is from another
    /// pipeline.
    pub new_in: Option<String>,
    /// The record that `changes` are relative to.
    pub before: Option<Fact>,
    pub changes: Vec<ExplainedChange>,
    /// Differences to `before` that are in no key: name, then, now.
    pub recorded: Vec<(String, String, String)>,
    /// For a waiting stage: the stages it needs that run or lack a file, upstream first.
    pub upstream: Vec<Why>,
    /// Missing source files, as `parameter: path`.
    pub missing: Vec<String>,
    /// What an unfinished attempt left behind, for a stage that would run.
    pub left: Option<PartialProgress>,
}

/// What a run would do with a stage now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedState {
    Cached,
    /// It would run now.
    Runs,
    /// Stale, because something it needs is.
    Waits,
    /// A source file is missing.
    Missing,
}

/// The origin of a record.
#[derive(Debug, Clone, Serialize)]
pub struct Fact {
    pub pipeline: String,
    pub stage: String,
    pub key: String,
    pub created: String,
    pub seconds: f64,
    pub attempts: u32,
    /// Peak memory, in bytes.
    pub peak: Option<u64>,
    pub host: String,
    pub program: String,
    pub device: String,
    pub class: String,
    /// Other machines that contributed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<String>,
}

impl Fact {
    pub fn of(record: &Record) -> Self {
        Self {
            pipeline: record.pipeline.clone(),
            stage: record.stage.clone(),
            key: record.key().to_string(),
            created: record.created.clone(),
            seconds: record.seconds,
            attempts: record.attempts,
            peak: record.peak,
            host: record.host.clone(),
            program: record.program.clone(),
            device: record.device.clone(),
            class: record.class.clone(),
            earlier: record.earlier.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct ExplainedChange {
    /// The reason in words.
    pub text: String,
    pub reason: Reason,
    /// For a changed source: the files that differ.
    pub files: Vec<FileChange>,
    /// For a changed input: the action that made it.
    pub upstream: Option<Upstream>,
}

#[derive(Debug, Serialize)]
pub struct FileChange {
    #[serde(serialize_with = "path_text::serialize")]
    pub path: PathBuf,
    /// `changed`, `new` or `gone`.
    pub how: &'static str,
}

/// The artifact of an input, before and now.
#[derive(Debug, Serialize)]
pub struct Upstream {
    pub stage: String,
    pub output: String,
    pub old: Option<Digest>,
    pub new: Option<Digest>,
    /// When the new one was made.
    pub created: Option<String>,
    /// Why the new one was made; empty if `note` says why that is unknown.
    pub changes: Vec<ExplainedChange>,
    pub note: Option<&'static str>,
}

/// A change is followed upstream through this many stages.
const DEPTH: usize = 24;

/// Explains one stage of the checker's pipeline.
pub fn why(checker: &CacheChecker<'_>, id: StageId) -> Result<Why> {
    let needed = targets::select(checker.pipeline, &[checker.pipeline.stage(id).name.clone()])?;
    let verdicts: BTreeMap<StageId, Verdict> = plan(checker, &needed)?.into_iter().collect();
    let mut history = action_cache::all(checker.store)?.0;
    history.sort_by(|a, b| a.created.cmp(&b.created));
    Explainer { checker, history, verdicts, followed: RefCell::default() }.why(id)
}

struct Explainer<'a, 'c> {
    checker: &'a CacheChecker<'c>,
    history: Vec<Record>,
    verdicts: BTreeMap<StageId, Verdict>,
    /// Changed inputs already followed upstream. Without it, a graph with converging paths is
    /// explained once per path.
    followed: RefCell<BTreeSet<(Digest, Digest)>>,
}

impl Explainer<'_, '_> {
    fn why(&self, id: StageId) -> Result<Why> {
        let stage = self.checker.pipeline.stage(id);
        let blank = |verdict| Why {
            stage: stage.name.clone(),
            kind: stage.kind.name.into(),
            verdict,
            key: None,
            made: None,
            new_in: self.new_in(stage),
            before: None,
            changes: vec![],
            recorded: vec![],
            upstream: vec![],
            missing: vec![],
            left: None,
        };
        Ok(match self.verdicts.get(&id) {
            Some(Verdict::Cached(record)) => self.cached(stage, record, blank(PlannedState::Cached)),
            Some(Verdict::Run(reasons)) => self.runs(stage, reasons, blank(PlannedState::Runs))?,
            Some(Verdict::Missing(all)) => {
                let missing = all.iter().map(|m| format!("{}: {}", m.param, m.path.display())).collect();
                Why { missing, ..blank(PlannedState::Missing) }
            }
            Some(Verdict::Waiting(_)) | None => self.waits(id, stage, blank(PlannedState::Waits))?,
        })
    }

    fn record(&self, id: StageId) -> Option<&Record> {
        match self.verdicts.get(&id) {
            Some(Verdict::Cached(record)) => Some(record),
            _ => None,
        }
    }

    fn new_in(&self, stage: &Stage) -> Option<String> {
        let pipeline = &self.checker.pipeline.name;
        let own = |r: &Record| r.stage == stage.name && r.pipeline == *pipeline;
        (!self.history.iter().any(own)).then(|| pipeline.clone())
    }

    fn cached(&self, stage: &Stage, record: &Record, blank: Why) -> Why {
        let earlier = self.history.iter().filter(|r| r.created < record.created);
        let before = nearest(earlier, &self.checker.pipeline.name, stage, &record.key_text);
        let now = Fact::of(record);
        Why {
            key: Some(now.key.clone()),
            changes: before.map_or(vec![], |b| self.changes(stage, &b.key_text, &record.key_text, None, 0)),
            recorded: before.map_or(vec![], |b| differ(b, &now.program, Some(&now.device), &now.class)),
            before: before.map(Fact::of),
            made: Some(now),
            ..blank
        }
    }

    fn runs(&self, stage: &Stage, reasons: &[Reason], blank: Why) -> Result<Why> {
        let keyed = self.checker.key(stage, &inputs(stage, |from| self.record(from))?)?;
        let text = &keyed.action.text;
        // A lost, damaged or forced record has the same key: there is nothing to compare.
        let own = reasons.iter().any(|r| !is_difference(r));
        let before = nearest(self.history.iter(), &self.checker.pipeline.name, stage, text).filter(|_| !own);
        let plain =
            |r: &Reason| ExplainedChange { text: r.to_string(), reason: r.clone(), files: vec![], upstream: None };
        let changes = match before {
            Some(before) => self.changes(stage, &before.key_text, text, Some(&keyed), 0),
            None => reasons.iter().map(plain).collect(),
        };
        Ok(Why {
            key: Some(keyed.action.key.to_string()),
            changes,
            recorded: before.map_or(vec![], |b| differ(b, env!("CARGO_PKG_VERSION"), None, host::class())),
            before: before.map(Fact::of),
            left: PartialProgress::in_folder(&self.checker.store.work_dir(&keyed.action.key)),
            ..blank
        })
    }

    /// Its own differences are known before its inputs are.
    fn waits(&self, id: StageId, stage: &Stage, blank: Why) -> Result<Why> {
        let mut upstream = vec![];
        let needed = targets::select(self.checker.pipeline, std::slice::from_ref(&stage.name))?;
        for from in needed.into_iter().filter(|from| *from != id) {
            if matches!(self.verdicts.get(&from), Some(Verdict::Run(_) | Verdict::Missing(_))) {
                upstream.push(self.why(from)?);
            }
        }
        let mut why = Why { upstream, ..blank };
        if !missing(stage).is_empty() {
            return Ok(why);
        }
        let keyed = self.checker.key(stage, &BTreeMap::new())?;
        let text = &keyed.action.text;
        if let Some(before) = nearest(self.history.iter(), &self.checker.pipeline.name, stage, text) {
            why.changes = self.changes(stage, &before.key_text, text, Some(&keyed), 0);
            why.changes.retain(|c| !matches!(c.reason, Reason::InputChanged { .. }));
            why.before = Some(Fact::of(before));
        }
        Ok(why)
    }

    /// Differences between two key texts; `now` has the sources of the later one, if they are
    /// today's.
    fn changes(&self, stage: &Stage, old: &str, new: &str, now: Option<&Keyed>, depth: usize) -> Vec<ExplainedChange> {
        let (before, after) = (ingredients(old), ingredients(new));
        let digest = |all: &BTreeMap<(&str, &str), &str>, section: &str, name: &str| -> Option<Digest> {
            all.iter().find(|((s, n), _)| *s == section && *n == name).and_then(|(_, d)| d.parse().ok())
        };
        let look = |reason: Reason| {
            let (mut files, mut upstream) = (vec![], None);
            match &reason {
                Reason::SourceChanged { name, .. } => {
                    let old = digest(&before, "source", name);
                    let new = digest(&after, "source", name);
                    files = self.files(stage, name, old, new, now);
                }
                Reason::InputChanged { slot } => {
                    let (old, new) = (digest(&before, "input", slot), digest(&after, "input", slot));
                    upstream = self.upstream(stage, slot, old, new, depth);
                }
                _ => {}
            }
            ExplainedChange { text: reason.to_string(), reason, files, upstream }
        };
        compare(old, new, &stage.origins, &|_, _| None).into_iter().map(look).collect()
    }

    fn files(
        &self,
        stage: &Stage,
        name: &str,
        old: Option<Digest>,
        new: Option<Digest>,
        now: Option<&Keyed>,
    ) -> Vec<FileChange> {
        let store = self.checker.store;
        let kept = |digest: Option<Digest>| listing(store, &digest?);
        let today = now.and_then(|k| k.sources.get(name));
        let today = today
            .and_then(|o| o.entries())
            .map(|all| all.iter().map(|e| (e.path.clone(), e.digest)).collect::<BTreeMap<_, _>>());
        let (Some(old), Some(new)) = (kept(old), today.or_else(|| kept(new))) else { return vec![] };
        let names: BTreeSet<&PathBuf> = old.keys().chain(new.keys()).collect();
        let how = |path: &PathBuf| match (old.get(path), new.get(path)) {
            (None, _) => Some("new"),
            (_, None) => Some("gone"),
            (old, new) => (old != new).then_some("changed"),
        };
        let whole = stage.sources.get(name).map_or(Path::new(name), |s| s.path.as_path());
        let shown = |path: &PathBuf| if path.as_os_str().is_empty() { whole.to_path_buf() } else { path.clone() };
        names.into_iter().filter_map(|p| Some(FileChange { path: shown(p), how: how(p)? })).collect()
    }

    fn upstream(
        &self,
        stage: &Stage,
        slot: &str,
        old: Option<Digest>,
        new: Option<Digest>,
        depth: usize,
    ) -> Option<Upstream> {
        let edge = stage.inputs.get(slot)?;
        let from = self.checker.pipeline.stage(edge.from);
        let makers = |digest: Option<Digest>| {
            let makes = move |r: &&Record| r.outputs.values().any(|o| Some(o.measured.digest) == digest);
            let namesake = |r: &Record| r.stage == from.name && r.pipeline == self.checker.pipeline.name;
            self.history.iter().filter(makes).max_by_key(|r| (namesake(r), &r.created))
        };
        let before = makers(old);
        // Today's record of the slot, unless the question is about an earlier input.
        let current = self.record(edge.from).filter(|r| r.outputs.values().any(|o| Some(o.measured.digest) == new));
        let after = current.or_else(|| makers(new));
        let mut changes = vec![];
        let note = match (old, before, after) {
            (None, ..) => Some("the input was not connected before"),
            (_, None, _) => Some("the stage that made the earlier one is no longer recorded"),
            (_, _, None) => Some("the stage that made it is no longer recorded"),
            (_, Some(b), Some(a)) if b.kind != a.kind => Some("it comes from a stage of a different kind"),
            (_, Some(b), Some(a)) if b.key_text == a.key_text => Some("two outputs of the same action"),
            _ if depth >= DEPTH => Some("run `erw why` on that stage to go further"),
            _ if old.zip(new).is_some_and(|pair| !self.followed.borrow_mut().insert(pair)) => Some("as above"),
            (_, Some(b), Some(a)) => {
                changes = self.changes(from, &b.key_text, &a.key_text, None, depth + 1);
                None
            }
        };
        let created = after.map(|r| r.created.clone());
        Some(Upstream { stage: from.name.clone(), output: edge.output.clone(), old, new, created, changes, note })
    }
}

/// Whether this reason results from comparing two keys.
fn is_difference(reason: &Reason) -> bool {
    !matches!(reason, Reason::Forced | Reason::OutputLost { .. } | Reason::Damaged { .. } | Reason::NeverRan)
}

/// Recorded facts that are in no key; `device` is unknown for a stage that has not run.
fn differ(before: &Record, program: &str, device: Option<&str>, class: &str) -> Vec<(String, String, String)> {
    let facts = [
        ("program", before.program.as_str(), program),
        ("device", before.device.as_str(), device.unwrap_or(&before.device)),
        ("class of machine", before.class.as_str(), class),
    ];
    let differ = facts.into_iter().filter(|(_, old, new)| old != new && !old.is_empty());
    differ.map(|(name, old, new)| (name.into(), old.into(), new.into())).collect()
}
