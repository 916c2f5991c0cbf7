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
//! check is damaged, the run is planned normally, which is always right. Does not know the graph.
//!
//! On disk: a format line; the digest of all that follows; a line of JSON, `Head`; for each stage
//! what must be checked, as bytes; for each stage a line of JSON with its final state. The last
//! part is as long as all others together and is not read if there are too many stages to list.

use super::resources::Limits;
use crate::cache::action_cache::{Output, Record, Shown, Stamp};
use crate::cache::sources::Files;
use crate::cache::store::{Presence, Store};
use crate::event::{Event, EventKind, LISTED, Listener, Measure, StageEnd, StageState};
use crate::files::digest::{Digest, Measured};
use crate::files::disk::{Durability, write_file};
use crate::files::watched::{Rule, Watched};
use crate::kind::Registry;
use crate::pipeline::graph::{Pipeline, StageId};
use crate::pipeline::layers::Overrides;
use crate::small_map::SmallMap;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// After this long the run is planned normally once, which marks the records as used.
const GOOD_FOR: Duration = Duration::from_secs(24 * 3600);
const FORMAT: &[u8] = b"erw memo 2\n";

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

/// What the answer depends on, apart from the stages.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    pipeline: String,
    /// Pipeline files, their link targets, and the digests of their contents.
    files: Vec<(PathBuf, PathBuf, Digest)>,
    /// Source files and folders, their watch rules, and their digests in the keys.
    sources: Vec<(PathBuf, Option<Rule>, Digest)>,
    stages: usize,
    /// Length in bytes of the checks of all stages.
    checks: usize,
}

/// The final state of a stage when it ran.
#[derive(Debug, Serialize, Deserialize)]
struct StoredStage {
    name: String,
    kind: String,
    key: Digest,
    seconds: f64,
    results: Vec<Measure>,
    outputs: SmallMap<Output>,
    shown: Vec<Shown>,
}

/// A stored answer that still holds.
pub struct StoredAnswer {
    head: Head,
    /// A line of JSON for each [`StoredStage`].
    stages: Vec<u8>,
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
    let mut sources: BTreeSet<(&Path, Option<&Rule>, Digest)> = BTreeSet::new();
    let (mut checks, mut ends) = (Vec::new(), Vec::new());
    for (id, record) in records {
        let stage = pipeline.stage(*id);
        let used = record.sources();
        for (name, source) in &stage.sources {
            let rule = source.watched.as_ref().map(Watched::rule);
            sources.insert((source.path.as_path(), rule, *used.get(name)?));
        }
        let key = record.key();
        Check { key: key.into(), record: record.stamp?, outputs: record.measured() }.write(&mut checks);
        let end = StoredStage {
            name: stage.name.clone(),
            kind: record.kind.clone(),
            key: key.into(),
            seconds: record.seconds,
            results: record.results.clone(),
            outputs: record.outputs.clone(),
            shown: record.shown.clone(),
        };
        ends.extend(serde_json::to_vec(&end).ok()?);
        ends.push(b'\n');
    }
    let head = Head {
        pipeline: pipeline.name.clone(),
        files: pipeline.files.iter().map(led).collect::<Option<_>>()?,
        sources: sources
            .into_iter()
            .map(|(path, rule, digest)| Some((std::path::absolute(path).ok()?, rule.cloned(), digest)))
            .collect::<Option<_>>()?,
        stages: records.len(),
        checks: checks.len(),
    };
    let head = serde_json::to_vec(&head).ok()?;
    let mut hasher = blake3::Hasher::new();
    for part in [&head[..], b"\n", &checks, &ends] {
        hasher.update(part);
    }
    let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
    Some([FORMAT, digest.hex().as_bytes(), b"\n", &head, b"\n", &checks, &ends].concat())
}

/// The stored answer, if it still holds.
pub fn recall(store: &Store, query: Query) -> Option<StoredAnswer> {
    let file = query.file(store);
    let age = file.metadata().ok()?.modified().ok()?.elapsed().ok()?;
    let bytes = std::fs::read(&file).ok().filter(|_| age < GOOD_FOR)?;
    let (check, body) = line(bytes.strip_prefix(FORMAT)?)?;
    if Digest::of_bytes(body).to_string().as_bytes() != check {
        return None;
    }
    let (head, rest) = line(body)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    let (checks, stages) = rest.split_at_checked(head.checks)?;
    let checks = Check::read_all(checks)?;
    let holds = checks.len() == head.stages && head.holds(store) && all_in_place(store, &checks);
    holds.then(|| StoredAnswer { head, stages: stages.to_vec() })
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn led((path, digest): &(PathBuf, Digest)) -> Option<(PathBuf, PathBuf, Digest)> {
    Some((path.clone(), path.canonicalize().ok()?, *digest))
}

impl Head {
    fn holds(&self, store: &Store) -> bool {
        let files = Files::default();
        let unread = |(path, real, digest): &(PathBuf, PathBuf, Digest)| {
            path.canonicalize().is_ok_and(|now| now == *real) && Digest::of_file(path).is_ok_and(|now| now == *digest)
        };
        let unchanged = |(path, rule, digest): &(PathBuf, Option<Rule>, Digest)| {
            let Ok(watched) = rule.clone().map(Watched::try_from).transpose() else { return false };
            files.digest_at(store, path, watched.as_ref()).is_ok_and(|now| now.measured.digest == *digest)
        };
        self.files.iter().all(unread) && self.sources.iter().all(unchanged)
    }
}

/// What must be present for a stage.
struct Check {
    key: Digest,
    record: Stamp,
    outputs: Vec<Measured>,
}

impl Check {
    fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.key.bytes());
        self.record.iter().for_each(|n| to.extend(n.to_le_bytes()));
        to.extend((self.outputs.len() as u64).to_le_bytes());
        for Measured { digest, bytes, files } in &self.outputs {
            to.extend(digest.bytes());
            to.extend(bytes.to_le_bytes());
            to.extend(files.to_le_bytes());
        }
    }

    fn read_all(mut bytes: &[u8]) -> Option<Vec<Self>> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let key = Digest::from_bytes(take(&mut bytes)?);
            let mut number = || take(&mut bytes).map(u64::from_le_bytes);
            let record = [number()? as i64, number()? as i64, number()? as i64, number()? as i64];
            let mut outputs = Vec::new();
            for _ in 0..number()? {
                let digest = Digest::from_bytes(take(&mut bytes)?);
                let mut number = || take(&mut bytes).map(u64::from_le_bytes);
                outputs.push(Measured { digest, bytes: number()?, files: number()? });
            }
            all.push(Self { key, record, outputs });
        }
        Some(all)
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// Looks files up relative to their buckets, so that the path to the cache folder is resolved once,
/// not 20,000 times.
fn all_in_place(store: &Store, checks: &[Check]) -> bool {
    let (Ok(records), Ok(objects)) = (File::open(store.v1("actions")), File::open(store.v1("store"))) else {
        return false;
    };
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
            [found.st_size, found.st_mtime, found.st_mtime_nsec, found.st_ino as i64] == check.record
        }) && check.outputs.iter().all(whole)
    };
    checks.par_iter().with_min_len(64).all(in_place)
}

impl StoredAnswer {
    /// Reports a run in which nothing needs to run, as events and result. `all`: list the stages
    /// however many there are.
    pub fn tell(&self, store: &Store, limits: &Limits, all: bool, listener: &mut dyn Listener) -> Report {
        let began = Instant::now();
        let mut say = |what| listener.event(&Event { at: began.elapsed().as_secs_f64(), what });
        let Head { pipeline, stages, .. } = &self.head;
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
            say(EventKind::AllCached { stages: *stages });
            Report::Counted(*stages)
        };
        say(EventKind::RunFinished { seconds: began.elapsed().as_secs_f64(), exit: 0 });
        answer
    }

    fn ends(&self, store: &Store) -> Vec<StageEnd> {
        let lines = self.stages.split(|b| *b == b'\n');
        lines.filter_map(|line| Some(serde_json::from_slice::<StoredStage>(line).ok()?.end(store))).collect()
    }
}

impl StoredStage {
    fn end(&self, store: &Store) -> StageEnd {
        let path = |s: &Shown| Some(store.object(&self.outputs.get(&s.output)?.measured.digest).join(&s.file));
        StageEnd {
            stage: self.name.clone(),
            kind: self.kind.clone(),
            state: StageState::Cached,
            key: Some(self.key.to_string()),
            seconds: self.seconds,
            resumed: None,
            left: None,
            results: self.results.clone(),
            outputs: self.outputs.iter().map(|(name, output)| output.stored(store, name)).collect(),
            shown: self.shown.iter().filter_map(path).collect(),
            error: None,
        }
    }
}
