//! The up-to-date check: the stored answer to a run in which everything was cached. If the same run
//! is requested again and nothing that the answer depends on has changed, it is given without
//! reading the pipeline. A run of 10,000 stages then checks little more than that their files still
//! exist, as a build tool does.
//!
//! The answer depends on the following and nothing else. `tests/runner/up_to_date.rs` changes
//! each line separately and compares with a plan.
//!
//! | depends on | stored as | taken when |
//! |---|---|---|
//! | path of the pipeline file, and its links | query | at the request, and before storing |
//! | the current folder: relative paths of settings | query | likewise |
//! | `--set`, `ERW_SET__…`, targets | query | likewise |
//! | manifests of kinds, the further registry (ERW_REGISTRY, settings) | query | likewise |
//! | this program: size, times, inode | query | likewise |
//! | pipeline files: itself, parents, `from` | digest, link targets | read |
//! | watched files and source files | digest, by the rules of `sources` | digested for the keys |
//! | the record of each stage | size, time, inode | its file was open for reading or writing |
//! | the artifacts of each stage | presence, size | requested |
//!
//! The check is stored in the cache folder. Settings other than the registry, and other environment
//! variables, PATH among them, are in no key and so in no answer. If one line differs, or the stored
//! check is damaged, the run is planned normally, which is always right.
//!
//! If only some stages of a large pipeline are concerned, because the file says something else of
//! them, a source of theirs has other bytes, or their record or an artifact is gone, these and what
//! depends on them are planned and run, and the answer stands for the rest (`partial`).

mod partial;
mod stored;

use super::resources::Limits;
use crate::cache::action_cache::{Record, Stamp};
use crate::cache::key::Key;
use crate::cache::sources::Files;
use crate::cache::store::{self, Presence, Store};
use crate::event::{Event, EventKind, LISTED, Listener, StageEnd};
use crate::files::digest::{Digest, Measured};
use crate::files::disk::{self, Durability, write_file};
use crate::files::watched::Watched;
use crate::kind::Registry;
use crate::pipeline::graph::{Pipeline, SourcePath, Stage, StageId};
use crate::pipeline::layers::Overrides;
use crate::pipeline::sections::Sections;
use erw_base::error::Result;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
pub use partial::{Part, Partial};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use stored::{Check, Ended, Head, Node, Parts, Source, Stored};

/// After this long the run is planned normally once, so that nothing is believed for ever.
const GOOD_FOR: Duration = Duration::from_secs(24 * 3600);

/// The digest of everything that identifies the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query(Digest);

impl Query {
    /// `None` if it cannot be determined whether two requests are the same.
    pub fn new(pipeline: &Path, registry: Registry, overrides: &Overrides, targets: &[String]) -> Option<Self> {
        let manifests: Vec<(&str, &str)> = registry.iter().map(|kind| (kind.name, kind.manifest)).collect();
        let published = erw_fetch::registry::further().map(|(path, _)| std::fs::read(path)).transpose().ok()?;
        // The running program, whatever is at its path by now.
        let program = std::fs::metadata("/proc/self/exe").ok()?;
        let times = [program.mtime(), program.mtime_nsec(), program.ctime(), program.ctime_nsec()];
        let program = (program.len(), times, program.dev(), program.ino());
        let folder = std::env::current_dir().ok()?;
        let pipeline = (std::path::absolute(pipeline).ok()?, pipeline.canonicalize().ok()?);
        let places = (folder.to_str()?, pipeline.0.to_str()?, pipeline.1.to_str()?);
        let asked = (places, &overrides.set, &overrides.env, targets, manifests, published, program);
        Some(Self(Digest::of_bytes(&serde_json::to_vec(&asked).ok()?)))
    }

    fn file(self, store: &Store) -> PathBuf {
        store.v1("memos").join(format!("{}.memo", self.0))
    }
}

/// A stored answer that still holds.
pub struct StoredAnswer(Stored);

/// What still holds of a stored answer.
pub enum Recalled {
    All(StoredAnswer),
    /// Of most stages of a large pipeline.
    Most(Partial),
}

/// What to report about the stages.
pub enum Report {
    Listed(Vec<StageEnd>),
    /// This many are cached.
    Counted(usize),
}

/// Stores the answer to a run in which every stage has a record now. A failure is ignored: the next
/// run only takes longer.
pub fn keep(store: &Store, query: Query, pipeline: &Pipeline, records: &[(StageId, Record)]) {
    if let Some(bytes) = encode(pipeline, records) {
        let _ = write_file(&query.file(store), &bytes, Durability::Later);
    }
}

fn encode(pipeline: &Pipeline, records: &[(StageId, Record)]) -> Option<Vec<u8>> {
    let file = file_of(pipeline, records);
    let (rest, texts) = file.map_or((None, HashMap::new()), |(rest, texts)| (Some(rest), texts));
    let numbers: HashMap<StageId, u32> = records.iter().map(|(id, _)| *id).zip(0..).collect();
    let (mut sources, mut parts) = (Sources::default(), Parts::default());
    for (id, record) in records {
        let stage = pipeline.stage(*id);
        let used = sources.of(stage, record)?;
        let node = texts.get(&stage.name).map(|text| {
            let inputs = stage.inputs.values().map(|edge| numbers.get(&edge.from).copied());
            node(stage, *text, inputs.collect::<Option<_>>()?, used).into()
        });
        parts.add(&Check::of(record)?, node.flatten().as_ref(), &Ended::line(&stage.name, record)?);
    }
    parts.stored(Head {
        pipeline: pipeline.name.clone(),
        planned: seconds_since_1970()?,
        files: pipeline.files.iter().map(led).collect::<Option<_>>()?,
        sources: sources.all,
        rest,
        ..Head::default()
    })
}

/// What the file of a large pipeline says besides its stages and of each stage, if the run was about
/// all of them and there is no other file.
fn file_of(pipeline: &Pipeline, records: &[(StageId, Record)]) -> Option<(Digest, HashMap<String, Digest>)> {
    let [(path, digest)] = &pipeline.files[..] else { return None };
    let is_whole = records.len() == pipeline.stages.len();
    let bytes = (is_whole && records.len() > LISTED).then(|| std::fs::read(path).ok()).flatten()?;
    let text = (Digest::of_bytes(&bytes) == *digest).then(|| erw_base::text::of_bytes(&bytes).ok()).flatten()?;
    let sections = Sections::of(&text)?;
    let texts: HashMap<String, Digest> =
        sections.names.iter().map(ToString::to_string).zip(sections.digests()).collect();
    let is_all = texts.len() == pipeline.stages.len() && pipeline.stages.iter().all(|s| texts.contains_key(&s.name));
    is_all.then(|| (sections.rest(), texts))
}

fn node(stage: &Stage, text: Digest, inputs: Vec<u32>, sources: Vec<u32>) -> Node<'_> {
    let outputs = stage.outputs.iter().map(|(name, ty)| (name.as_str(), ty.as_str())).collect();
    Node { text, name: &stage.name, kind: stage.kind.name, outputs, inputs, sources }
}

/// The sources of the stages, each once.
#[derive(Default)]
struct Sources {
    all: Vec<Source>,
    known: HashMap<Source, u32>,
}

impl Sources {
    /// The numbers of the sources of a stage, as they were used for its record.
    fn of(&mut self, stage: &Stage, record: &Record) -> Option<Vec<u32>> {
        let used: BTreeMap<String, Digest> = record.sources();
        let number = |(name, source): (&String, &SourcePath)| {
            let rule = source.watched.as_ref().map(|watched| watched.rule().clone());
            Some(self.number((std::path::absolute(&source.path).ok()?, rule, *used.get(name)?)))
        };
        stage.sources.iter().map(number).collect()
    }

    fn number(&mut self, source: Source) -> u32 {
        let next = self.all.len() as u32;
        *self.known.entry(source).or_insert_with_key(|source| {
            self.all.push(source.clone());
            next
        })
    }
}

fn seconds_since_1970() -> Option<u64> {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|d| d.as_secs())
}

/// What still holds of the stored answer. Marks it as used if that is all: its records are not
/// marked one by one.
pub fn recall(store: &Store, query: Query) -> Option<Recalled> {
    let file = query.file(store);
    let recalled = holding(store, read(&file)?)?;
    if let Recalled::All(_) = recalled {
        store::touch(&file);
    }
    Some(recalled)
}

/// What still holds of the stored answer about a large pipeline. Does not mark it as used: this is
/// for plans.
pub fn look(store: &Store, query: Query) -> Option<Recalled> {
    let stored = read(&query.file(store))?;
    (stored.head.nodes > 0).then(|| holding(store, stored)).flatten()
}

fn holding(store: &Store, stored: Stored) -> Option<Recalled> {
    let is_read = has_read(&stored.head);
    let sources = unchanged(store, &stored.head.sources);
    let checks = stored.checks()?;
    let in_place = in_place(store, &checks)?;
    if is_read && sources.iter().chain(&in_place).all(|holds| *holds) {
        return Some(Recalled::All(StoredAnswer(stored)));
    }
    Partial::of(stored, checks, &sources, &in_place).map(Recalled::Most)
}

/// A stored answer that is not too old.
fn read(file: &Path) -> Option<Stored> {
    let stored = Stored::of(std::fs::read(file).ok()?)?;
    let age = seconds_since_1970()?.checked_sub(stored.head.planned)?;
    (age < GOOD_FOR.as_secs()).then_some(stored)
}

/// Whether the files of the pipeline are those that were read.
fn has_read(head: &Head) -> bool {
    let is_same = |(path, real, digest): &(PathBuf, PathBuf, Digest)| {
        path.canonicalize().is_ok_and(|now| now == *real) && Digest::of_file(path).is_ok_and(|now| now == *digest)
    };
    head.files.iter().all(is_same)
}

/// When each record was last used by a stored answer.
pub fn uses(store: &Store) -> Result<HashMap<Key, SystemTime>> {
    let mut uses = HashMap::new();
    for path in disk::list(&store.v1("memos"))? {
        let used = std::fs::metadata(&path).and_then(|m| m.modified());
        let checks = std::fs::read(&path).ok().and_then(Stored::of).and_then(|stored| stored.checks());
        let (Ok(used), Some(checks)) = (used, checks) else { continue };
        for check in checks {
            let last = uses.entry(Key::from(check.key)).or_insert(used);
            *last = used.max(*last);
        }
    }
    Ok(uses)
}

fn led((path, digest): &(PathBuf, Digest)) -> Option<(PathBuf, PathBuf, Digest)> {
    Some((path.clone(), path.canonicalize().ok()?, *digest))
}

/// Which sources are as they were.
fn unchanged(store: &Store, sources: &[Source]) -> Vec<bool> {
    let files = Files::default();
    let is_same = |(path, rule, digest): &Source| {
        let Ok(watched) = rule.clone().map(Watched::try_from).transpose() else { return false };
        // A file with the name of the pattern would be meant instead.
        let literal = watched.as_ref().and_then(Watched::glob).map(|glob| path.join(glob));
        if literal.is_some_and(|literal| literal.symlink_metadata().is_ok()) {
            return false;
        }
        files.digest_at(store, path, watched.as_ref()).is_ok_and(|now| now.measured.digest == *digest)
    };
    sources.par_iter().with_min_len(64).map(is_same).collect()
}

/// Whether the record and the artifacts of each stage are in place. Looks files up relative to their
/// buckets, so that the path to the cache folder is resolved once, not 20,000 times.
fn in_place(store: &Store, checks: &[Check]) -> Option<Vec<bool>> {
    let (records, objects) = (File::open(store.v1("actions")).ok()?, File::open(store.v1("store")).ok()?);
    let look = |folder: &File, digest: &Digest, end: &str| {
        let mut name = [0u8; 80];
        let hex = digest.hex();
        let parts: [&[u8]; 4] = [&hex.as_bytes()[..2], b"/", hex.as_bytes(), end.as_bytes()];
        let length = parts.iter().fold(0, |at, part| {
            name[at..at + part.len()].copy_from_slice(part);
            at + part.len()
        });
        fstatat(folder, &name[..length], AtFlags::AT_SYMLINK_NOFOLLOW).ok()
    };
    let whole = |measured: &Measured| match look(&objects, &measured.digest, "") {
        Some(found) if found.st_mode & libc::S_IFMT == libc::S_IFREG => {
            found.st_size as u64 == measured.bytes && measured.files == 1
        }
        Some(_) => store.look(measured) == Presence::Whole,
        None => false,
    };
    let in_place = |check: &Check| {
        let record = look(&records, &check.key, ".json");
        record.is_some_and(|found| {
            let stamp: Stamp = [found.st_size, found.st_mtime, found.st_mtime_nsec, found.st_ino as i64];
            stamp == check.record
        }) && check.outputs.iter().all(whole)
    };
    Some(checks.par_iter().with_min_len(64).map(in_place).collect())
}

impl StoredAnswer {
    /// Reports a run in which nothing needs to run, as events and result. `all`: list the stages
    /// however many there are.
    pub fn tell(&self, store: &Store, limits: &Limits, all: bool, listener: &mut dyn Listener) -> Report {
        let began = Instant::now();
        let mut say = |what| listener.event(&Event { at: began.elapsed().as_secs_f64(), what });
        let Head { pipeline, stages, .. } = &self.0.head;
        say(EventKind::RunStarted {
            pipeline: pipeline.clone(),
            stages: *stages,
            jobs: limits.jobs,
            threads: limits.threads,
        });
        let answer = if all || *stages <= LISTED {
            let ends = self.ends(store);
            ends.iter().for_each(|end| say(EventKind::Ended(Box::new(end.clone()))));
            Report::Listed(ends)
        } else {
            say(EventKind::CachedStages { stages: *stages });
            Report::Counted(*stages)
        };
        say(EventKind::RunFinished { seconds: began.elapsed().as_secs_f64(), exit: 0 });
        answer
    }

    /// The name of the pipeline.
    pub fn pipeline(&self) -> &str {
        &self.0.head.pipeline
    }

    /// Names and kinds of the stages, if there are so many that the answer knows them without what
    /// they made.
    pub fn stages(&self) -> Option<Vec<(&str, &str)>> {
        self.0.names()
    }

    fn ends(&self, store: &Store) -> Vec<StageEnd> {
        self.0.ends().filter_map(|line| Ended::of(line, store)).collect()
    }
}
