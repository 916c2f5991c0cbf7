//! Runs a stage again where it disturbs nothing, and compares what it makes with what is stored.
//!
//! Each stage gets a cache folder of its own, `v1/verify/<any>`, which holds what the stage needs and not what it made. The
//! stored artifacts are given as further names of the same files; programs of the user get copies, for they might write
//! to them. Every stage starts from the stored inputs, so one that differs does not make others differ.

use super::compare::{self, Agreement};
use crate::cache::action_cache::{self, Lookup, Record};
use crate::cache::sources::{digest_now, first_difference};
use crate::cache::store::Store;
use crate::event::{Listener, State};
use crate::exec::launcher::Launcher;
use crate::exec::resources::Limits;
use crate::exec::scheduler::{self, Options, StopToken};
use crate::files::digest::{Digest, Kind, Links, join, walk};
use crate::files::disk::{self, Durability};
use crate::pipeline::graph::{Pipeline, RetryPolicy, Source, Stage, StageId};
use crate::pipeline::targets::select;
use crate::text::path_text;
use erw_base::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// A folder made longer ago than this is open by now, or nobody's.
const SETTLED: Duration = Duration::from_secs(60);

/// What a second run of stages shares.
pub struct Bench<'a> {
    pub pipeline: &'a Pipeline,
    pub store: &'a Store,
    pub launcher: &'a Launcher,
    pub limits: Limits,
    pub stop: &'a StopToken,
}

/// How a second run compares with the stored one.
#[derive(Debug)]
pub struct Verified {
    pub agreement: Agreement,
    pub seconds: f64,
    /// The last lines of the log of a stage that failed.
    pub tail: Vec<String>,
}

impl Bench<'_> {
    /// Runs stage `id` again. `records` are those of the stage and of all that it needs.
    ///
    /// # Errors
    /// When it cannot be tried or was stopped; that it fails is told as a difference.
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
            let copy = stage.command.is_some() && direct.contains(from);
            for output in record.outputs.values() {
                let digest = &output.measured.digest;
                bring(self.store, &scratch.store, digest, copy)?;
            }
            action_cache::write(&scratch.store, record, Durability::Later)?;
        }
        let options = Options {
            selected,
            forced: [id].into(),
            keep_going: false,
            limits: self.limits.clone(),
            retry: RetryPolicy::default(),
        };
        let outcome =
            scheduler::run(self.pipeline, (&scratch.store).into(), self.launcher, options, self.stop, listener)?;
        let other = outcome.ends.iter().find(|e| e.stage != stage.name && e.state != State::Cached);
        if let Some(other) = other {
            let made = records.iter().find(|(id, _)| self.pipeline.stage(**id).name == other.stage);
            // Sets it aside here too: it was found in the folder of the second run.
            let found = made.map_or(Ok(()), |(_, record)| crate::cache::action_cache::check_whole(self.store, record));
            let text = format!("stage `{}` cannot be verified: what `{}` made is damaged", stage.name, other.stage);
            let error = match found {
                Err(e) => e.context(text),
                Ok(()) => Error::stage(text),
            };
            return Err(error.hint("`erw cache verify` tells what else is"));
        }
        let stored = records.get(&id).ok_or_else(|| Error::internal("a stage is verified without a record"))?;
        let Some(end) = outcome.ends.iter().find(|e| e.stage == stage.name) else {
            return Err(Error::internal("a stage was verified and did not end"));
        };
        if let Some(failure) = end.error.as_ref().filter(|_| end.state == State::Failed) {
            let what = vec![format!("it fails when run again: {}", failure.message)];
            let tail = failure.tail.clone();
            return Ok(Verified { agreement: Agreement::Differs { what }, seconds: end.seconds, tail });
        }
        if let Some(error) = outcome.error {
            return Err(error);
        }
        let Lookup::Hit(made) = action_cache::lookup(&scratch.store, &stored.key())? else {
            let which: Vec<String> = changed(self.store, stage, stored);
            let which = if which.is_empty() { String::new() } else { format!(": {}", which.join(", ")) };
            let text = format!("stage `{}` changed while it was verified{which}", stage.name);
            return Err(Error::stage(text).hint("run again when nothing writes to its sources"));
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
            crate::cache::action_cache::check_whole(self.store, stored)?;
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

/// The sources that are not what the record was made of, with a file that differs.
fn changed(store: &Store, stage: &Stage, stored: &Record) -> Vec<String> {
    let before = stored.sources();
    let differs = |(name, source): (&String, &Source)| {
        let now = digest_now(store, source).ok();
        let old = before.get(name).filter(|old| now.as_ref().is_none_or(|n| n.measured.digest != **old))?;
        let file = now.and_then(|now| first_difference(store, old, &now)).unwrap_or_default();
        Some(format!("`{}`", path_text::text(&join(&source.path, &file))))
    };
    stage.sources.iter().filter_map(differs).collect()
}

/// A cache folder for one stage, gone with the value.
struct Scratch {
    store: Store,
    dir: tempfile::TempDir,
}

/// Folders of artifacts are closed.
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = disk::open_folders(self.dir.path());
    }
}

impl Scratch {
    fn new(of: &Store) -> Result<Self> {
        let parent = of.v1("verify");
        let failed = |e| Error::io("make", &parent, e);
        std::fs::create_dir_all(&parent).map_err(failed)?;
        // Left behind by a process that was killed: nobody has it open, and it is not about to be opened.
        for old in disk::list(&parent)? {
            let age = old.metadata().and_then(|m| m.modified()).ok().and_then(|m| m.elapsed().ok());
            if age.is_some_and(|age| age > SETTLED) && Store::open_alone(&old).is_ok() {
                let _ = disk::remove(&old);
            }
        }
        let dir = tempfile::tempdir_in(&parent).map_err(failed)?;
        std::fs::create_dir_all(dir.path().join("v1")).map_err(failed)?;
        // Published files and the digests of outside files are no artifacts: what is known of them stays known.
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
        std::fs::create_dir_all(&target).map_err(|e| Error::io("make", &target, e))?;
    }
    for found in walk(&source, Links::Keep)? {
        let (source, target) = (join(&source, &found.path), join(&target, &found.path));
        let failed = |e| Error::io("copy", &source, e);
        std::fs::create_dir_all(target.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        match found.kind {
            Kind::Folder => std::fs::create_dir_all(&target),
            Kind::Link(to) => std::os::unix::fs::symlink(to, &target),
            // Where hard links are not to be had, copies do.
            Kind::File | Kind::Program if !copy && std::fs::hard_link(&source, &target).is_ok() => Ok(()),
            Kind::File | Kind::Program => std::fs::copy(&source, &target).map(drop),
        }
        .map_err(failed)?;
    }
    disk::seal_folders(&target).map_err(|e| Error::io("seal", &target, e))
}
