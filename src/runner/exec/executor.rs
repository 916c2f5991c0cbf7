//! Executes one action under its lock: verifies inputs, runs the worker, checks, digests and
//! publishes outputs, writes the record last, removes the work folder.
//!
//! It knows one stage and the store; the scheduler decides which stage is next. A kill at any point
//! leaves the work folder, from which the next attempt resumes, and never the record of an
//! unfinished action.

use super::command;
use super::environment::Requested;
use super::launch::{AttemptEnd, AttemptReport, AttemptSite, job_file, launch};
use super::launcher::Launcher;
use super::process_exit::MemoryDeaths;
use super::processes::Workers;
use super::resources::Allocation;
use super::tamper::{InputSnapshot, IntegrityCheck};
use crate::cache::action_cache::{self, Output, Record, Shown};
use crate::cache::sources::{differences, digest_now, keep_listing};
use crate::cache::store::{self, KEPT, KeyLock, Store};
use crate::event::{Failure, WorkerEvent};
use crate::files::digest::{Digest, Measured, join, measure};
use crate::files::disk::{self, Durability, write_file};
use crate::files::watched::is_dropping;
use crate::host::{self, host, model, utc_now};
use crate::kind::attempt::{Job, PICTURES};
use crate::kind::field::Params;
use crate::pipeline::graph::{Command, Stage, StageId};
use crate::plan::{CacheChecker, Keyed};
use crate::small_map::SmallMap;
use crate::text::path_text;
use erw_base::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Actions shorter than this are not forced to disk one by one.
const QUICK: Duration = Duration::from_secs(1);
/// Spare work folders kept at most.
const SPARES: usize = 64;

/// State shared by all actions of a run.
pub struct Executor<'a> {
    pub checker: &'a CacheChecker<'a>,
    pub launcher: &'a Launcher,
    pub workers: &'a Workers,
    pub deaths: &'a MemoryDeaths,
    /// Empty work folders for reuse.
    pub spares: Mutex<Vec<PathBuf>>,
    /// Something was stored but not yet forced to disk.
    pub unsynced: AtomicBool,
    pub integrity: IntegrityCheck,
}

/// An action ready to be executed.
pub struct ReadyAction {
    pub id: StageId,
    pub keyed: Keyed,
    pub inputs: BTreeMap<String, Digest>,
    pub lock: KeyLock,
}

pub enum ActionEnd {
    Done(Box<Record>),
    Suspended,
    /// `again`: the attempt itself failed, so a retry may succeed.
    Failed {
        failure: Failure,
        again: bool,
    },
    /// These stages must run again: their outputs are damaged and were removed from the store.
    Damaged(Vec<StageId>),
}

/// Reported when the worker is about to start: attempt number and log.
pub struct ActionStart {
    pub attempt: u32,
    pub log: PathBuf,
}

impl Executor<'_> {
    pub fn execute(
        &self,
        ready: &ReadyAction,
        allocation: &Allocation,
        starting: &dyn Fn(ActionStart),
        tell: &mut dyn FnMut(WorkerEvent),
    ) -> ActionEnd {
        self.try_execute(ready, allocation, starting, tell)
            .unwrap_or_else(|e| ActionEnd::Failed { failure: e.into(), again: false })
    }

    fn try_execute(
        &self,
        ready: &ReadyAction,
        allocation: &Allocation,
        starting: &dyn Fn(ActionStart),
        tell: &mut dyn FnMut(WorkerEvent),
    ) -> Result<ActionEnd> {
        let damaged = self.verify(ready)?;
        if !damaged.is_empty() {
            return Ok(ActionEnd::Damaged(damaged));
        }
        let stage = self.stage(ready);
        let work = self.store().work_dir(&ready.keyed.action.key);
        let attempt = self.prepare(&work, stage)?;
        let earlier = earlier_machines(&work, stage, allocation)?;
        let log = work.join(format!("attempt-{attempt}.log"));
        starting(ActionStart { attempt, log: log.clone() });
        let began = Instant::now();
        // Only a user's program can write to its inputs; kinds read them.
        let watch = stage.command.as_ref().map(|_| self.integrity.watch(ready.inputs.values()));
        let report = self.attempt(ready, allocation, &work, &log, tell)?;
        let done = matches!(report.finish, AttemptEnd::Done);
        let unbelieved = |e: Error| if done { aside(&work, e) } else { e };
        self.inputs_unchanged(ready, watch, tell).map_err(unbelieved)?;
        match report.finish {
            AttemptEnd::Suspended => return Ok(ActionEnd::Suspended),
            AttemptEnd::Failed(failure) => return Ok(ActionEnd::Failed { failure, again: true }),
            AttemptEnd::Done => {}
        }
        report.remarks.iter().for_each(|text| tell(WorkerEvent::Log { text: text.clone() }));
        self.sources_unchanged(ready).map_err(unbelieved)?;
        let keep = if began.elapsed() < QUICK { Durability::Later } else { Durability::Now };
        let outputs = self.collect(stage, &work.join("out"), keep)?;
        let extra = undeclared(stage, &work.join("out"));
        if !extra.is_empty() {
            tell(WorkerEvent::Log {
                text: format!("discarded, because not declared as outputs: {}", extra.join(", ")),
            });
        }
        let mut record = self.record(ready, allocation, report, outputs, (attempt, earlier), began);
        record.stamp = Some(action_cache::write(self.store(), &record, keep)?);
        self.unsynced.fetch_or(keep == Durability::Later, Ordering::Relaxed);
        // From here on the action is done; the rest of its work folder only takes space.
        let left = disk::list(&work).unwrap_or_default();
        keep_logs(&left, &self.store().log_dir(&ready.keyed.action.key));
        self.leave(&work, &left);
        Ok(ActionEnd::Done(Box::new(record)))
    }

    /// Empties `out/`, keeps `checkpoints/`, and returns the number of this attempt.
    fn prepare(&self, work: &Path, stage: &Stage) -> Result<u32> {
        if stage.command.as_ref().is_some_and(|c| !keeps_checkpoints(c)) && self.take_spare(work) {
            return Ok(1);
        }
        let out = work.join("out");
        disk::remove(&out).map_err(|e| Error::io("empty", &out, e))?;
        let mut folders = vec![out.clone()];
        match &stage.command {
            // A command creates its outputs itself, as files or folders.
            Some(command) => folders.extend(keeps_checkpoints(command).then(|| work.join("checkpoints"))),
            None => {
                folders.push(work.join("checkpoints"));
                folders.extend(stage.outputs.keys().map(|name| out.join(name)));
            }
        }
        for folder in folders {
            std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
        }
        let number =
            |p: &PathBuf| p.file_name()?.to_str()?.strip_prefix("attempt-")?.strip_suffix(".log")?.parse().ok();
        Ok(disk::list(work)?.iter().filter_map(number).max().unwrap_or(0u32) + 1)
    }

    /// Renames a spare folder to the work folder, unless an earlier attempt left one.
    fn take_spare(&self, work: &Path) -> bool {
        let is_new = std::fs::symlink_metadata(work).is_err();
        let spare = if is_new { self.spares().pop() } else { None };
        spare.is_some_and(|spare| std::fs::rename(spare, work).is_ok())
    }

    /// Keeps a work folder with an empty `out/` and an empty log for the next command, and removes
    /// any other: creating and removing three inodes takes as long as a short program. `left`: the
    /// contents of the folder before its logs were moved.
    fn leave(&self, work: &Path, left: &[PathBuf]) {
        let is_bare = [work.join("attempt-1.log"), work.join("out")] == *left
            && disk::list(&left[1]).is_ok_and(|left| left.is_empty());
        let mut spares = self.spares();
        let spare = work.with_file_name(format!("{}{}-{}", store::SPARE, std::process::id(), spares.len()));
        if is_bare && spares.len() < SPARES && std::fs::rename(work, &spare).is_ok() {
            return spares.push(spare);
        }
        drop(spares);
        let _ = disk::remove(work);
    }

    fn spares(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call when no more actions follow.
    pub fn clean_up(&self) {
        self.spares().drain(..).for_each(|spare| drop(disk::remove(&spare)));
    }

    /// Starts the command's program or a worker, and waits for it.
    fn attempt(
        &self,
        ready: &ReadyAction,
        allocation: &Allocation,
        work: &Path,
        log: &Path,
        tell: &mut dyn FnMut(WorkerEvent),
    ) -> Result<AttemptReport> {
        let job = self.job(ready, allocation, work);
        let site = AttemptSite {
            launcher: self.launcher,
            workers: self.workers,
            deaths: self.deaths,
            ticket: ready.id.0,
            log,
            lock: ready.lock.file(),
            gpus: &allocation.gpus,
            stated: Requested::by(&self.stage(ready).resources),
        };
        if job.command.is_some() {
            let place = self.stage(ready).origins.get("params.run").and_then(|origin| origin.place.clone());
            return command::run(&site, &job, tell).map_err(|e| e.maybe_at(place));
        }
        let job_file = job_file(&job);
        let text = serde_json::to_vec_pretty(&job).map_err(|e| Error::io("write", &job_file, e.into()))?;
        write_file(&job_file, &text, Durability::Later).map_err(|e| Error::io("write", &job_file, e))?;
        launch(&site, &job, tell)
    }

    fn store(&self) -> &Store {
        self.checker.store
    }

    fn stage(&self, ready: &ReadyAction) -> &Stage {
        &self.checker.pipeline.stages[ready.id.0]
    }

    /// Reads every input that this run has not read yet. Returns the stages whose outputs are
    /// damaged.
    fn verify(&self, ready: &ReadyAction) -> Result<Vec<StageId>> {
        let mut makers = Vec::new();
        for (slot, digest) in &ready.inputs {
            if self.integrity.is_sound(self.store(), digest) {
                continue;
            }
            self.store().set_aside(digest)?;
            self.checker.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest);
            makers.extend(self.stage(ready).inputs.get(slot).map(|edge| edge.from));
        }
        Ok(makers)
    }

    fn job(&self, ready: &ReadyAction, allocation: &Allocation, work: &Path) -> Job {
        let stage = self.stage(ready);
        let mut params = stage.params.clone();
        for (name, source) in &stage.sources {
            let path = std::path::absolute(&source.path).unwrap_or_else(|_| source.path.clone());
            if let Some(value) = param_of(&mut params, name) {
                *value = path.to_string_lossy().into();
            }
        }
        let file = std::path::absolute(&self.checker.pipeline.file).unwrap_or_default();
        Job {
            stage: stage.name.clone(),
            kind: stage.kind.name.into(),
            key: ready.keyed.action.key.to_string(),
            params,
            operation: stage.operation.clone(),
            inputs: ready.inputs.iter().map(|(slot, d)| (slot.clone(), self.store().object(d))).collect(),
            outputs: stage.outputs.iter().map(|(name, ty)| (name.clone(), ty.clone())).collect(),
            work_dir: work.into(),
            threads: allocation.threads,
            device: allocation.device(),
            command: stage.command.as_ref().map(|c| c.run.clone()),
            pipeline_dir: file.parent().unwrap_or(Path::new("/")).into(),
            downloads: self.store().downloads(),
        }
    }

    /// An artifact whose files a program changed no longer matches its digest and leaves the store.
    /// Files that were only added to it are removed and the artifact stays; if they are what
    /// programs drop anywhere, that is not an error.
    fn inputs_unchanged(
        &self,
        ready: &ReadyAction,
        watch: Option<InputSnapshot>,
        tell: &mut dyn FnMut(WorkerEvent),
    ) -> Result<()> {
        let (mut slots, mut paths, mut lost) = (vec![], vec![], false);
        for change in watch.map_or(vec![], |w| w.changed(self.store())) {
            let of = ready.inputs.iter().filter(|(_, d)| **d == change.digest);
            let of: Vec<String> = of.map(|(slot, _)| format!("`{slot}`")).collect();
            let is_whole = self.store().clear(&change);
            if is_whole && change.added.iter().all(|path| is_dropping(path)) {
                let text =
                    format!("removed files that the stage added to input {}: {}", of.join(", "), some(&change.added));
                tell(WorkerEvent::Log { text });
                continue;
            }
            if !is_whole {
                self.store().quarantine(&change.digest)?;
                lost = true;
            }
            slots.extend(of);
            paths.extend(change.altered.into_iter().chain(change.added));
        }
        if slots.is_empty() {
            return Ok(());
        }
        paths.retain(|path| !path.as_os_str().is_empty());
        let which = if paths.is_empty() { String::new() } else { format!(": {}", some(&paths)) };
        Err(Error::stage(format!("the stage wrote to its input {}{which}", slots.join(", "))).hint(match lost {
            true => "copy an input before changing it; the stage that made the input runs again next time",
            false => "copy an input before adding files to it; the input was restored",
        }))
    }

    /// If a source changed while the worker ran, the key would not describe the result.
    fn sources_unchanged(&self, ready: &ReadyAction) -> Result<()> {
        for (name, source) in &self.stage(ready).sources {
            let changed = format!("source `{name}` changed while the stage was running");
            let before = ready.keyed.sources.get(name);
            let now = digest_now(self.store(), source).map_err(|e| e.context(changed.clone()))?;
            let Some(before) = before.filter(|b| b.measured != now.measured) else { continue };
            let paths = differences(before, &now);
            let paths: Vec<PathBuf> = paths.iter().map(|path| join(&source.path, path)).collect();
            return Err(Error::stage(format!("{changed}: {}", some(&paths)))
                .maybe_at(source.place.clone())
                .hint("it is unknown which contents the result is based on; rerun when nothing writes there"));
        }
        ready.keyed.sources.values().for_each(|outside| keep_listing(self.store(), outside));
        Ok(())
    }

    /// Checks that every declared output exists, then digests and publishes each.
    fn collect(&self, stage: &Stage, out: &Path, keep: Durability) -> Result<SmallMap<Output>> {
        let mut measured: Vec<(&String, &String, Measured)> = Vec::new();
        for (name, ty) in &stage.outputs {
            let path = out.join(name);
            if std::fs::symlink_metadata(&path).is_err() {
                return Err(self.lacking(stage, name, &path, out));
            }
            disk::own(&path)
                .map_err(|e| Error::io("take ownership of", &path, e).within(&format!("output `{name}`")))?;
            let found = measure(&path).map_err(|e| e.within(&format!("output `{name}`")))?;
            // A program creates its output folders itself, empty or not; for our kinds they were
            // created before.
            if found.files == 0 && stage.command.is_none() {
                return Err(self.lacking(stage, name, &path, out));
            }
            measured.push((name, ty, found));
        }
        let mut outputs = SmallMap::with_capacity(measured.len());
        for (name, ty, measured) in measured {
            self.store().publish(&out.join(name), &measured, keep)?;
            self.integrity.note(self.store(), &measured.digest);
            outputs.insert(name.clone(), Output { ty: ty.clone(), measured });
        }
        Ok(outputs)
    }

    fn lacking(&self, stage: &Stage, name: &str, path: &Path, out: &Path) -> Error {
        let undeclared = undeclared(stage, out);
        let error = Error::stage(format!("the stage ended without creating its output `{name}`"))
            .hint(format!("expected at `{}`", path.display()));
        if undeclared.is_empty() { error } else { error.hint(format!("found instead: {}", undeclared.join(", "))) }
    }

    fn record(
        &self,
        ready: &ReadyAction,
        allocation: &Allocation,
        report: AttemptReport,
        outputs: SmallMap<Output>,
        (attempt, earlier): (u32, Vec<String>),
        began: Instant,
    ) -> Record {
        let stage = self.stage(ready);
        Record {
            key_text: ready.keyed.action.text.clone(),
            pipeline: self.checker.pipeline.name.clone(),
            stage: stage.name.clone(),
            kind: stage.kind.name.into(),
            outputs,
            results: report.results,
            shown: report.shown.into_iter().map(|(output, file)| Shown { output, file }).collect(),
            seconds: began.elapsed().as_secs_f64(),
            attempts: attempt,
            resumed: report.resumed,
            peak: Some(report.peak),
            created: utc_now(),
            host: host(),
            program: env!("CARGO_PKG_VERSION").into(),
            device: device(allocation),
            class: host::class().into(),
            given: self.checker.properties().given(stage),
            earlier,
            stamp: None,
        }
    }
}

/// Rejected outputs may have taken days to compute: they are kept for inspection.
fn aside(work: &Path, error: Error) -> Error {
    let (out, kept) = (work.join("out"), work.join(KEPT));
    let resumable = disk::list(&work.join("checkpoints")).is_ok_and(|c| !c.is_empty());
    let error = match resumable {
        true => error.hint("undo the change, and it resumes from its last checkpoint"),
        false => error,
    };
    let made = disk::list(&out).is_ok_and(|made| !made.is_empty());
    if !made || disk::remove(&kept).and_then(|()| std::fs::rename(&out, &kept)).is_err() {
        return error;
    }
    error.hint(format!("its outputs are kept in `{}`; `erw cache gc --checkpoints` removes them", kept.display()))
}

/// The first few paths.
fn some(paths: &[PathBuf]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = paths.iter().take(SHOWN).map(|path| format!("`{}`", path_text::text(path))).collect();
    match paths.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The device and its model.
fn device(allocation: &Allocation) -> String {
    match model(!allocation.gpus.is_empty()) {
        Some(model) => format!("{}, {model}", allocation.device()),
        None => allocation.device(),
    }
}

fn keeps_checkpoints(command: &Command) -> bool {
    command.run.iter().any(|word| word.contains("{checkpoints}"))
}

/// Other machine classes whose checkpoints this attempt resumes.
fn earlier_machines(work: &Path, stage: &Stage, allocation: &Allocation) -> Result<Vec<String>> {
    if stage.command.as_ref().is_some_and(|c| !keeps_checkpoints(c)) {
        return Ok(vec![]);
    }
    host::begin(work, &host::of(host::class(), &device(allocation))).map_err(|e| Error::io("write to", work, e))
}

/// Names in `out` that belong to no output and were not published.
fn undeclared(stage: &Stage, out: &Path) -> Vec<String> {
    let paths = disk::list(out).unwrap_or_default();
    let names = paths.iter().filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    names.filter(|n| !stage.outputs.contains_key(n)).collect()
}

/// The parameter that named a source: `data`, or item `data.1` of a list of paths. Watched files
/// have none.
fn param_of<'p>(params: &'p mut Params, source: &str) -> Option<&'p mut serde_json::Value> {
    if params.contains_key(source) {
        return params.get_mut(source);
    }
    let (name, index) = source.rsplit_once('.')?;
    params.get_mut(name)?.as_array_mut()?.get_mut(index.parse::<usize>().ok()?)
}

/// Moves non-empty logs, step logs and pictures to their final folder. Reuse of the action does not
/// need them, so errors are ignored.
fn keep_logs(left: &[PathBuf], kept: &Path) {
    let pictures = kept.join(PICTURES);
    let says_something = |p: &&PathBuf| {
        let is_log = p.extension().is_some_and(|e| e == "log" || e == "jsonl");
        p.file_name() == pictures.file_name() || is_log && std::fs::metadata(p).is_ok_and(|m| m.len() > 0)
    };
    // Logs of an earlier run of the same action would be in the way.
    if left.iter().any(|p| p.file_name() == pictures.file_name()) {
        let _ = disk::remove(&pictures);
    }
    for log in left.iter().filter(says_something) {
        let _ = std::fs::create_dir_all(kept);
        let _ = std::fs::rename(log, kept.join(log.file_name().unwrap_or_default()));
    }
}
