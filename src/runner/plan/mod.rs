//! The verdict on each stage without running it: cached, to be run and why, waiting for stages that
//! will run, or missing a source. The scheduler calls the same functions, so a plan and a run
//! cannot disagree.
//!
//! Starts nothing, and writes nothing but remembered digests of source files and the index of
//! records.

pub mod action;
pub mod foresee;
pub mod reason;
pub mod record_index;

use crate::cache::CacheRef;
use crate::cache::action_cache::{self, Lookup, Record};
use crate::cache::key::Key;
use crate::cache::remote::Remote;
use crate::cache::sources::{DigestedSource, Files, first_difference};
use crate::cache::store::{Presence, Store};
use crate::event::progress::PartialProgress;
use crate::files::digest::Digest;
use crate::pipeline::graph::{Edge, Pipeline, SourcePath, Stage, StageId};
use crate::pipeline::properties::Properties;
use crate::pipeline::targets::select;
use action::Action;
use erw_base::error::{Error, Result};
use reason::Reason;
use record_index::RecordIndex;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

#[derive(Debug)]
pub enum Verdict {
    Cached(Box<Record>),
    Run(Vec<Reason>),
    /// Unknown until these stages have run.
    Waiting(Vec<StageId>),
    Missing(Vec<Missing>),
}

/// A missing source file.
#[derive(Debug, Clone)]
pub struct Missing {
    pub stage: String,
    pub param: String,
    pub path: PathBuf,
    /// How to get it, by line.
    pub how: Vec<String>,
}

impl Missing {
    pub fn error(&self) -> Error {
        self.how.iter().fold(Error::usage(self.text()), |e, line| e.hint(line))
    }

    fn text(&self) -> String {
        let Self { stage, param, path, .. } = self;
        format!("stage `{stage}`: `{param}` is missing: no file or folder at `{}`", path.display())
    }
}

/// One error for all missing sources, each with instructions, so that the user can get them all at
/// once.
pub fn missing_error(missing: &[Missing]) -> Option<Error> {
    match missing {
        [] => None,
        [one] => Some(one.error()),
        several => {
            let error = Error::usage(format!("{} files and folders are missing", several.len()));
            let tell = |m: &Missing| std::iter::once(m.text()).chain(m.how.clone()).collect::<Vec<_>>().join("\n");
            Some(several.iter().fold(error, |e, m| e.because(tell(m))))
        }
    }
}

/// A key with the sources that went into it.
pub struct Keyed {
    pub action: Action,
    pub sources: BTreeMap<String, Arc<DigestedSource>>,
}

/// Checks the stages of one pipeline against one cache.
pub struct CacheChecker<'a> {
    pub pipeline: &'a Pipeline,
    pub store: &'a Store,
    /// Queried if the store has no record.
    pub remote: Option<&'a Remote>,
    pub files: Files,
    pub forced: BTreeSet<StageId>,
    /// Artifacts found damaged in this run.
    pub damaged: Mutex<BTreeSet<Digest>>,
    /// Hits that only the remote has; empty if a hit fetches the artifacts.
    afar: Mutex<BTreeSet<Key>>,
    /// Keys of stages that will run.
    keys: Mutex<BTreeMap<StageId, Key>>,
    record_index: OnceLock<RecordIndex<'a>>,
    properties: OnceLock<Properties>,
}

impl<'a> CacheChecker<'a> {
    pub fn new(pipeline: &'a Pipeline, cache: impl Into<CacheRef<'a>>, forced: BTreeSet<StageId>) -> Self {
        let CacheRef { store, remote } = cache.into();
        Self {
            pipeline,
            store,
            remote,
            files: Files::default(),
            forced,
            damaged: Mutex::default(),
            afar: Mutex::default(),
            keys: Mutex::default(),
            record_index: OnceLock::new(),
            properties: OnceLock::new(),
        }
    }

    /// The key of a stage whose inputs are known.
    pub fn key(&self, stage: &Stage, inputs: &BTreeMap<String, Digest>) -> Result<Keyed> {
        let mut sources = BTreeMap::new();
        for (name, source) in &stage.sources {
            let outside = self.files.digest(self.store, source);
            let outside = outside.map_err(|e| {
                e.context(format!("stage `{}`: source `{name}`", stage.name)).maybe_at(source.place.clone())
            })?;
            sources.insert(name.clone(), outside);
        }
        let digests = sources.iter().map(|(n, o)| (n.clone(), o.measured.digest)).collect();
        Ok(Keyed { action: action::action(stage, inputs, &digests), sources })
    }

    /// Whether a check of this stage reads no sources, and asks no remote.
    pub fn is_quick(&self, stage: &Stage) -> bool {
        self.remote.is_none() && stage.sources.values().all(|source| self.files.knows(source))
    }

    /// The record of the action, if its outputs exist and it is not forced to run.
    pub fn cached(&self, id: StageId, keyed: &Keyed) -> Result<Option<Box<Record>>> {
        let stage = &self.pipeline.stages[id.0];
        if self.forced.contains(&id) {
            return Ok(None);
        }
        Ok(match action_cache::lookup(self.store, &keyed.action.key)? {
            Lookup::Hit(record) => Some(record).filter(|r| self.unusable(stage, r).is_none()),
            Lookup::Damaged | Lookup::Miss => None,
        })
    }

    /// Whether the action is done, and if not, why it runs.
    pub fn verdict(&self, id: StageId, keyed: &Keyed) -> Result<Verdict> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(id, keyed.action.key);
        let stage = &self.pipeline.stages[id.0];
        if self.forced.contains(&id) {
            return Ok(Verdict::Run(vec![Reason::Forced]));
        }
        let looked = action_cache::lookup(self.store, &keyed.action.key)?;
        let unusable = match looked {
            Lookup::Hit(record) => match self.unusable(stage, &record) {
                None => return Ok(Verdict::Cached(record)),
                reason => reason,
            },
            Lookup::Damaged => Some(Reason::Damaged { what: "the action record".into() }),
            Lookup::Miss => None,
        };
        if let Some(record) = self.fetched(stage, keyed) {
            return Ok(Verdict::Cached(record));
        }
        Ok(Verdict::Run(unusable.map_or_else(|| self.reasons(stage, keyed), |reason| Ok(vec![reason]))?))
    }

    /// A record from the remote, with its artifacts fetched; in a plan, only looked up.
    fn fetched(&self, stage: &Stage, keyed: &Keyed) -> Option<Box<Record>> {
        let remote = self.remote?;
        let found = remote.record(&self.pipeline.name, &keyed.action.key)?;
        if !stage.outputs.keys().all(|name| found.record.outputs.contains_key(name)) {
            return None;
        }
        if remote.fetches() {
            let named = (self.pipeline.name.as_str(), stage.name.as_str());
            return remote.fetch(self.store, named, &found).then(|| Box::new(found.record));
        }
        self.afar.lock().unwrap_or_else(PoisonError::into_inner).insert(keyed.action.key);
        Some(Box::new(found.record))
    }

    /// Whether this verdict is a hit whose artifacts only the remote has.
    pub fn is_remote_only(&self, verdict: &Verdict) -> bool {
        let afar = self.afar.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(verdict, Verdict::Cached(record) if afar.contains(&record.key()))
    }

    /// What earlier attempts at a checked stage left behind; `None` if its inputs are not known.
    pub fn left(&self, id: StageId) -> Option<PartialProgress> {
        PartialProgress::in_folder(&self.store.work_dir(&self.key_of(id)?))
    }

    /// The key of a checked stage; `None` if its inputs are not known.
    pub fn key_of(&self, id: StageId) -> Option<Key> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }

    /// The known properties of all artifacts.
    pub fn properties(&self) -> &Properties {
        self.properties.get_or_init(|| Properties::of(self.pipeline))
    }

    /// Why the outputs of a record cannot be used.
    fn unusable(&self, stage: &Stage, record: &Record) -> Option<Reason> {
        stage.outputs.keys().find_map(|name| {
            let lost = || Reason::OutputLost { output: name.clone() };
            let Some(output) = record.outputs.get(name) else { return Some(lost()) };
            let damaged = || Reason::Damaged { what: format!("output `{name}`") };
            let digest = &output.measured.digest;
            let known_bad = self.damaged.lock().unwrap_or_else(PoisonError::into_inner).contains(digest);
            match self.store.look(&output.measured) {
                Presence::Whole => None,
                Presence::Damaged => Some(damaged()),
                Presence::Absent if known_bad => Some(damaged()),
                Presence::Absent => Some(lost()),
            }
        })
    }

    /// Every readable record as of the first call.
    pub fn record_index(&self) -> Result<&RecordIndex<'a>> {
        if let Some(record_index) = self.record_index.get() {
            return Ok(record_index);
        }
        let record_index = RecordIndex::read(self.store)?;
        Ok(self.record_index.get_or_init(|| record_index))
    }

    fn reasons(&self, stage: &Stage, keyed: &Keyed) -> Result<Vec<Reason>> {
        let text = &keyed.action.text;
        let comparable = self.record_index()?.comparable(&self.pipeline.name, stage);
        let Some(old) = reason::nearest(comparable.iter().map(Arc::as_ref), &self.pipeline.name, stage, text) else {
            return Ok(vec![Reason::NeverRan]);
        };
        let example = |name: &str, old: &Digest| {
            let inside = first_difference(self.store, old, keyed.sources.get(name).map(Arc::as_ref)?)?;
            // For a source that is a single file, the file itself.
            let file = || stage.sources.get(name).and_then(|s| s.path.file_name()).map(PathBuf::from);
            if inside.as_os_str().is_empty() { file() } else { Some(inside) }
        };
        let reasons = reason::compare(&old.key_text, text, &stage.origins, &example);
        Ok(if reasons.is_empty() { vec![Reason::NeverRan] } else { reasons })
    }
}

/// The missing sources of a stage.
pub fn missing(stage: &Stage) -> Vec<Missing> {
    let absent = stage.sources.iter().filter(|(_, s)| !s.is_there());
    let tell = |(param, source): (&String, &SourcePath)| {
        let path = source.absent().next().unwrap_or_else(|| source.named());
        let counted = source.names().map(|names| {
            let (absent, all) = (source.absent().count(), names.len());
            format!("{absent} of the {all} files that `{}` stands for are missing", source.named().display())
        });
        Missing {
            stage: stage.name.clone(),
            param: param.clone(),
            path: std::path::absolute(&path).unwrap_or(path),
            how: counted.into_iter().chain(source.missing.clone()).collect(),
        }
    };
    absent.map(tell).collect()
}

/// The missing sources of many stages. Each file and folder is looked for once.
pub fn all_missing<'s>(stages: impl Iterator<Item = &'s Stage>) -> Vec<Missing> {
    let mut there: HashSet<PathBuf> = HashSet::new();
    let mut all = vec![];
    for stage in stages {
        if stage.sources.values().all(|source| there.contains(&source.named())) {
            continue;
        }
        let absent = missing(stage);
        if absent.is_empty() {
            there.extend(stage.sources.values().map(SourcePath::named));
        }
        all.extend(absent);
    }
    all
}

/// The verdict on every selected stage, in topological order.
pub fn plan(checker: &CacheChecker<'_>, selected: &[StageId]) -> Result<Vec<(StageId, Verdict)>> {
    plan_part(checker, vec![], selected)
}

/// The same, where `known` stages have these records.
pub fn plan_part(
    checker: &CacheChecker<'_>,
    known: Vec<(StageId, Record)>,
    selected: &[StageId],
) -> Result<Vec<(StageId, Verdict)>> {
    let first = known.len();
    let mut verdicts: Vec<(StageId, Verdict)> = Vec::with_capacity(first + selected.len());
    verdicts.extend(known.into_iter().map(|(id, record)| (id, Verdict::Cached(Box::new(record)))));
    // Index of the verdict on each stage.
    let mut places: Vec<Option<usize>> = vec![None; checker.pipeline.stages.len()];
    verdicts.iter().enumerate().for_each(|(place, (id, _))| places[id.0] = Some(place));
    for &id in selected {
        let stage = &checker.pipeline.stages[id.0];
        let known = |id: StageId| match &verdicts[places[id.0]?].1 {
            Verdict::Cached(record) => Some(&**record),
            _ => None,
        };
        let absent = missing(stage);
        let unknown: BTreeSet<StageId> =
            stage.inputs.values().map(|e| e.from).filter(|from| known(*from).is_none()).collect();
        let verdict = if !absent.is_empty() {
            Verdict::Missing(absent)
        } else if !unknown.is_empty() {
            Verdict::Waiting(unknown.into_iter().collect())
        } else {
            let inputs = inputs(stage, known)?;
            checker.verdict(id, &checker.key(stage, &inputs)?)?
        };
        places[id.0] = Some(verdicts.len());
        verdicts.push((id, verdict));
    }
    Ok(verdicts.split_off(first))
}

/// The verdict on one stage.
pub fn verdict<'a>(pipeline: &'a Pipeline, cache: impl Into<CacheRef<'a>>, id: StageId) -> Result<Verdict> {
    let selected = select(pipeline, std::slice::from_ref(&pipeline.stage(id).name))?;
    let verdicts = plan(&CacheChecker::new(pipeline, cache, BTreeSet::new()), &selected)?;
    let own = verdicts.into_iter().find(|(of, _)| *of == id).map(|(_, verdict)| verdict);
    own.ok_or_else(|| Error::internal("a stage was planned but not checked"))
}

/// Digests by slot, from the records of the stages that feed it.
pub fn inputs<'r>(stage: &Stage, record: impl Fn(StageId) -> Option<&'r Record>) -> Result<BTreeMap<String, Digest>> {
    let digest = |(slot, edge): (&String, &Edge)| {
        let output = record(edge.from).and_then(|r| r.outputs.get(&edge.output));
        let output = output.ok_or_else(|| {
            Error::stage(format!("stage `{}`: input `{slot}`: its record has no output `{}`", stage.name, edge.output))
        })?;
        Ok((slot.clone(), output.measured.digest))
    };
    stage.inputs.iter().map(digest).collect()
}
