//! Reruns a stage in isolation and compares the result with the stored one.
//!
//! Each stage gets its own cache folder, `v1/verify/<any>`, with the stage's inputs but not its
//! outputs. Stored artifacts are hard-linked; users' programs get copies, because they might write
//! to them. Every stage starts from the stored inputs, so one that differs does not make others
//! differ. Does not know how stages run.

use super::compare::{self, Agreement};
use crate::cache::action_cache::{self, Lookup, Record};
use crate::cache::sources::{digest_now, first_difference};
use crate::cache::store::Store;
use crate::event::{Listener, StageState};
use crate::exec::launch::Launcher;
use crate::exec::resources::Limits;
use crate::exec::scheduler::{self, Options, Settled, StopToken};
use crate::files::digest::{Digest, Kind, Links, join, walk};
use crate::files::disk::{self, Durability};
use crate::pipeline::graph::{Pipeline, RetryPolicy, SourcePath, Stage, StageId};
use crate::pipeline::targets::select;
use crate::text::path_text;
use erw_base::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// A folder older than this is locked by now, or abandoned.
const SETTLED: Duration = Duration::from_secs(60);

/// Shared by all reruns.
pub struct Bench<'a> {
    pub pipeline: &'a Pipeline,
    pub store: &'a Store,
    pub launcher: &'a dyn Launcher,
    pub limits: Limits,
    pub stop: &'a StopToken,
}

/// A rerun compared with the stored result.
#[derive(Debug)]
pub struct Verified {
    pub agreement: Agreement,
    pub seconds: f64,
    /// The last lines of the log of a failed rerun.
    pub tail: Vec<String>,
}

impl Bench<'_> {
    /// Reruns stage `id`. `records` has the records of the stage and everything it needs.
    ///
    /// # Errors
    /// When it cannot be tried or was stopped; a failing rerun counts as a difference.
    pub fn verify(
        &self,
        id: StageId,
        records: &BTreeMap<StageId, Record>,
        listener: &mut dyn Listener,
    ) -> Result<Verified> {
        let stage = self.pipeline.stage(id);
        let selected = select(self.pipeline, std::slice::from_ref(&stage.name))?;
        let scratch = Scratch::new(self.store)?;
        let direct: BTreeSet<StageId> = stage.inputs.values().map(|edge| edge.from).collect();
        for from in selected.iter().filter(|from| **from != id) {
            let Some(record) = records.get(from) else { continue };
            let copy = stage.is_command && direct.contains(from);
            for output in record.outputs.values() {
                let digest = &output.measured.digest;
                bring(self.store, &scratch.store, digest, copy)?;
            }
            action_cache::write(&scratch.store, record, Durability::Later)?;
        }
        let options = Options {
            selected,
            settled: Settled::default(),
            forced: [id].into(),
            keep_going: false,
            leave_on: vec![libc::SIGHUP],
            limits: self.limits.clone(),
            most_ranks: BTreeMap::new(),
            stage_retry: BTreeMap::new(),
            retry: RetryPolicy::default(),
        };
        let outcome =
            scheduler::run(self.pipeline, (&scratch.store).into(), self.launcher, options, self.stop, listener)?;
        let other = outcome.ends.iter().find(|e| e.stage != stage.name && e.state != StageState::Cached);
        if let Some(other) = other {
            let made = records.iter().find(|(id, _)| self.pipeline.stage(**id).name == other.stage);
            // Moves it to quarantine here too: it was found through the folder of the rerun.
            let found = made.map_or(Ok(()), |(_, record)| action_cache::check_whole(self.store, record));
            let text = format!("stage `{}` cannot be verified: an output of `{}` is damaged", stage.name, other.stage);
            let error = match found {
                Err(e) => e.context(text),
                Ok(()) => Error::stage(text),
            };
            return Err(error.hint("run `erw cache verify` to check the whole cache"));
        }
        let stored = records.get(&id).ok_or_else(|| Error::internal("a stage is verified without a record"))?;
        let Some(end) = outcome.ends.iter().find(|e| e.stage == stage.name) else {
            return Err(Error::internal("a stage was verified and did not end"));
        };
        if let Some(failure) = end.error.as_ref().filter(|_| end.state == StageState::Failed) {
            let what = vec![format!("it failed when rerun: {}", failure.message)];
            let tail = failure.tail.clone();
            return Ok(Verified { agreement: Agreement::Differs { what }, seconds: end.seconds, tail });
        }
        if let Some(error) = outcome.error {
            return Err(error);
        }
        let Lookup::Hit(made) = action_cache::lookup(&scratch.store, &stored.key())? else {
            let which: Vec<String> = changed(self.store, stage, stored);
            let which = if which.is_empty() { String::new() } else { format!(": {}", which.join(", ")) };
            let text = format!("the sources of stage `{}` changed while it was verified{which}", stage.name);
            return Err(Error::stage(text).hint("rerun when nothing writes to its sources"));
        };
        Ok(Verified {
            agreement: self.compare(id, stored, &made, &scratch.store)?,
            seconds: made.seconds,
            tail: vec![],
        })
    }

    fn compare(&self, id: StageId, stored: &Record, made: &Record, scratch: &Store) -> Result<Agreement> {
        let manifest = &self.pipeline.stage(id).manifest;
        let differs =
            |name: &String| stored.outputs.get(name).map(|o| o.measured) != made.outputs.get(name).map(|o| o.measured);
        let changed: Vec<&String> = stored.outputs.keys().filter(|name| differs(name)).collect();
        if changed.is_empty() {
            action_cache::check_whole(self.store, stored)?;
            return Ok(Agreement::Exact);
        }
        if !compare::is_owed(manifest, &stored.machine(), &made.machine()) {
            return Ok(compare::near(
                &compare::results(&stored.results),
                &compare::results(&made.results),
                manifest.tolerance,
            ));
        }
        let mut what = vec![];
        for name in changed {
            let list = |store: &Store, record: &Record| match record.outputs.get(name) {
                Some(output) => compare::list(&store.object(&output.measured.digest)),
                None => Ok(compare::Listing::new()),
            };
            what.extend(compare::files(name, &list(self.store, stored)?, &list(scratch, made)?));
        }
        Ok(Agreement::Differs { what })
    }
}

/// The sources that differ from those of the record, with one changed file each.
fn changed(store: &Store, stage: &Stage, stored: &Record) -> Vec<String> {
    let before = stored.sources();
    let differs = |(name, source): (&String, &SourcePath)| {
        let now = digest_now(store, source).ok();
        let old = before.get(name).filter(|old| now.as_ref().is_none_or(|n| n.measured.digest != **old))?;
        let file = now.and_then(|now| first_difference(store, old, &now)).unwrap_or_default();
        Some(format!("`{}`", path_text::text(&join(&source.path, &file))))
    };
    stage.sources.iter().filter_map(differs).collect()
}

/// A cache folder for one stage, deleted with the value.
struct Scratch {
    store: Store,
    dir: tempfile::TempDir,
}

/// Folders of artifacts are read-only.
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = disk::open_folders(self.dir.path());
    }
}

impl Scratch {
    fn new(of: &Store) -> Result<Self> {
        let parent = of.v1("verify");
        let failed = |e| Error::io("create", &parent, e);
        std::fs::create_dir_all(&parent).map_err(failed)?;
        // Left behind by a killed process: nobody has it open, and it is too old to be opened now.
        for old in disk::list(&parent)? {
            let age = old.metadata().and_then(|m| m.modified()).ok().and_then(|m| m.elapsed().ok());
            if age.is_some_and(|age| age > SETTLED) && Store::open_alone(&old).is_ok() {
                let _ = disk::remove(&old);
            }
        }
        let dir = tempfile::tempdir_in(&parent).map_err(failed)?;
        std::fs::create_dir_all(dir.path().join("v1")).map_err(failed)?;
        // Downloads and remembered digests are not artifacts and are shared.
        for (name, to) in [("downloads", of.downloads()), ("v1/files", of.v1("files"))] {
            std::os::unix::fs::symlink(to, dir.path().join(name)).map_err(failed)?;
        }
        Ok(Self { store: Store::open(dir.path())?, dir })
    }
}

/// Puts an artifact of one store into another.
fn bring(from: &Store, to: &Store, digest: &Digest, copy: bool) -> Result<()> {
    let (source, target) = (from.object(digest), to.object(digest));
    if target.exists() {
        return Ok(());
    }
    if source.is_dir() {
        std::fs::create_dir_all(&target).map_err(|e| Error::io("create", &target, e))?;
    }
    for found in walk(&source, Links::Keep)? {
        let (source, target) = (join(&source, &found.path), join(&target, &found.path));
        let failed = |e| Error::io("copy", &source, e);
        std::fs::create_dir_all(target.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        match found.kind {
            Kind::Folder => std::fs::create_dir_all(&target),
            Kind::Link(to) => std::os::unix::fs::symlink(to, &target),
            // Copies where hard links are not supported.
            Kind::File | Kind::Program if !copy && std::fs::hard_link(&source, &target).is_ok() => Ok(()),
            Kind::File | Kind::Program => std::fs::copy(&source, &target).map(drop),
        }
        .map_err(failed)?;
    }
    disk::seal_folders(&target).map_err(|e| Error::io("seal", &target, e))
}
