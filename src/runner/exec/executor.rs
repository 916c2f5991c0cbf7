//! Executes one action under its lock: has an attempt executed by a launcher, publishes the outputs
//! that its report names, writes the record last, removes the work folder.
//!
//! It knows one stage and the store; the scheduler decides which stage is next. A kill at any point
//! leaves the work folder, from which the next attempt resumes, and never the record of an
//! unfinished action.

use super::artifacts;
use super::attempt_report::{AttemptEnd, AttemptReport};
use super::environment::Requested;
use super::launch::{AttemptSite, Launcher};
use super::process_exit::MemoryDeaths;
use super::processes::Workers;
use super::resources::Allocation;
use super::tamper::IntegrityCheck;
use crate::cache::action_cache::{self, Output, Record, Shown};
use crate::cache::sources::{differences, digest_now, keep_listing};
use crate::cache::store::{self, KeyLock, PLACED, Store};
use crate::event::progress::PartialProgress;
use crate::event::{Failure, WorkerEvent};
use crate::files::digest::{Digest, join};
use crate::files::disk::{self, Durability};
use crate::host::utc_now;
use crate::kind::attempt::{Job, PICTURES};
use crate::kind::field::Params;
use crate::kind::ranks::{Numbering, Sharing};
use crate::pipeline::graph::{Stage, StageId};
use crate::plan::{CacheChecker, Keyed};
use crate::small_map::SmallMap;
use erw_base::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Actions shorter than this are not forced to disk one by one.
pub const QUICK: Duration = Duration::from_secs(1);
/// How often a stage is started again after an interruption.
const MOST_INTERRUPTIONS: u32 = 100;
/// How often without a new checkpoint in between.
const MOST_IN_VAIN: u32 = 3;
/// Spare work folders kept at most.
const SPARES: usize = 64;

/// State shared by all actions of a run.
pub struct Executor<'a> {
    pub checker: &'a CacheChecker<'a>,
    pub launcher: &'a dyn Launcher,
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
    /// Held from before the start of the first attempt.
    pub lock: Option<KeyLock>,
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
        let work = self.store().work_dir(&ready.keyed.action.key);
        let began = Instant::now();
        let (job, report) = self.attempts(ready, allocation, &work, starting, tell)?;
        match report.end {
            AttemptEnd::Suspended => return Ok(ActionEnd::Suspended),
            AttemptEnd::Failed(failure) => return Ok(ActionEnd::Failed { failure, again: true }),
            AttemptEnd::Rejected(failure) => return Ok(ActionEnd::Failed { failure, again: false }),
            AttemptEnd::Interrupted(message) => {
                let failure = Failure { message, ..Failure::default() };
                return Ok(ActionEnd::Failed { failure, again: false });
            }
            AttemptEnd::Damaged(slots) => return self.set_aside(ready, &slots).map(ActionEnd::Damaged),
            AttemptEnd::Done => {}
        }
        let recorded = self.take_over(ready, &job, report, tell, began);
        // From here on the action is done, or must be done again: nothing is left to be attended.
        let _ = std::fs::remove_file(work.join(PLACED));
        let record = recorded?;
        let left = disk::list(&work).unwrap_or_default();
        keep_logs(&left, &self.store().log_dir(&ready.keyed.action.key));
        self.leave(&work, &left);
        Ok(ActionEnd::Done(Box::new(record)))
    }

    /// Publishes what an attempt made, and records it.
    fn take_over(
        &self,
        ready: &ReadyAction,
        job: &Job,
        report: AttemptReport,
        tell: &mut dyn FnMut(WorkerEvent),
        began: Instant,
    ) -> Result<Record> {
        report.remarks.iter().for_each(|text| tell(WorkerEvent::Log { text: text.clone() }));
        self.sources_unchanged(ready).map_err(|e| artifacts::aside(job, e))?;
        let keep = if began.elapsed() < QUICK { Durability::Later } else { Durability::Now };
        let outputs = self.publish(job, self.stage(ready), &report, keep)?;
        let extra = artifacts::undeclared(job);
        if !extra.is_empty() {
            tell(WorkerEvent::Log {
                text: format!("discarded, because not declared as outputs: {}", extra.join(", ")),
            });
        }
        let mut record = self.record(ready, report, outputs, job.attempt, began);
        record.stamp = Some(action_cache::write(self.store(), &record, keep)?);
        self.unsynced.fetch_or(keep == Durability::Later, Ordering::Relaxed);
        Ok(record)
    }

    /// Removes the outputs of earlier attempts and returns the number of the next one.
    fn next_attempt(&self, work: &Path) -> Result<u32> {
        let mut next = 1;
        for path in disk::list(work)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(of) = name.strip_prefix("attempt-") else { continue };
            let number = of.split_once('.').map_or(of, |(number, _)| number);
            next = next.max(number.parse().map_or(0, |n: u32| n) + 1);
            if number == of {
                disk::remove(&path).map_err(|e| Error::io("empty", &path, e))?;
            }
        }
        Ok(next)
    }

    /// Makes the folders of a new attempt.
    fn prepare(&self, job: &Job) -> Result<()> {
        if !job.keeps_checkpoints() && self.take_spare(&job.work_dir) { Ok(()) } else { artifacts::make_room(job) }
    }

    /// Renames a spare folder to the work folder, unless an earlier attempt left one.
    fn take_spare(&self, work: &Path) -> bool {
        let is_new = std::fs::symlink_metadata(work).is_err();
        let spare = if is_new { self.spares().pop() } else { None };
        spare.is_some_and(|spare| std::fs::rename(spare, work).is_ok())
    }

    /// Keeps a work folder with no outputs and an empty log for the next command, and removes
    /// any other: creating and removing three inodes takes as long as a short program. `left`: the
    /// contents of the folder before its logs were moved.
    fn leave(&self, work: &Path, left: &[PathBuf]) {
        let is_bare = [work.join("attempt-1"), work.join("attempt-1.log")] == *left
            && disk::list(&left[0]).is_ok_and(|left| left.is_empty());
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

    /// Attempts until one is not interrupted. Returns the last one.
    fn attempts(
        &self,
        ready: &ReadyAction,
        allocation: &Allocation,
        work: &Path,
        starting: &dyn Fn(ActionStart),
        tell: &mut dyn FnMut(WorkerEvent),
    ) -> Result<(Job, AttemptReport)> {
        let (mut reached, mut in_vain, mut interruptions) = (None, 0, 0);
        loop {
            let found = self.launcher.find(work)?;
            let attempt = found.map_or_else(|| self.next_attempt(work), Ok)?;
            let job = self.job(ready, allocation, work, attempt);
            if found.is_none() {
                self.prepare(&job)?;
            }
            starting(ActionStart { attempt, log: job.log_file() });
            let report = self.attempt(ready, allocation, job.clone(), tell)?;
            let AttemptEnd::Interrupted(why) = &report.end else { return Ok((job, report)) };
            let step = PartialProgress::in_folder(work).and_then(|left| left.checkpoint).map(|reached| reached.step);
            interruptions += 1;
            in_vain = if step == reached { in_vain + 1 } else { 1 };
            reached = step;
            if interruptions >= MOST_INTERRUPTIONS || in_vain >= MOST_IN_VAIN {
                let message = format!("interrupted {interruptions} times, the last time because: {why}");
                return Ok((job, AttemptReport { end: AttemptEnd::Interrupted(message), ..report }));
            }
            tell(WorkerEvent::Log { text: format!("attempt {attempt} was interrupted: {why}") });
        }
    }

    /// Has the job executed, and waits for its end.
    fn attempt(
        &self,
        ready: &ReadyAction,
        allocation: &Allocation,
        job: Job,
        tell: &mut dyn FnMut(WorkerEvent),
    ) -> Result<AttemptReport> {
        let lock = ready.lock.as_ref().ok_or_else(|| Error::internal("an action was started without its lock"))?;
        let site = AttemptSite {
            store: self.store(),
            integrity: &self.integrity,
            workers: self.workers,
            deaths: self.deaths,
            ticket: ready.id.0,
            mem: allocation.mem_of_rank(),
            lock: lock.file(),
            gpus: &allocation.gpus,
            stated: Requested::by(&self.stage(ready).resources),
        };
        let run = self.stage(ready).origins.get("params.run").filter(|_| job.command.is_some());
        self.launcher.run(&site, job, tell).map_err(|e| e.maybe_at(run.and_then(|origin| origin.place.clone())))
    }

    fn store(&self) -> &Store {
        self.checker.store
    }

    fn stage(&self, ready: &ReadyAction) -> &Stage {
        &self.checker.pipeline.stages[ready.id.0]
    }

    /// Sets damaged inputs aside. Returns the stages that must make them again.
    fn set_aside(&self, ready: &ReadyAction, slots: &[String]) -> Result<Vec<StageId>> {
        let mut makers = Vec::new();
        for slot in slots {
            let Some(digest) = ready.inputs.get(slot) else { continue };
            self.store().set_aside(digest)?;
            self.checker.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest);
            makers.extend(self.stage(ready).inputs.get(slot).map(|edge| edge.from));
        }
        Ok(makers)
    }

    fn job(&self, ready: &ReadyAction, allocation: &Allocation, work: &Path, attempt: u32) -> Job {
        let stage = self.stage(ready);
        let mut params = stage.params.clone();
        for (name, source) in &stage.sources {
            let named = source.named();
            let path = std::path::absolute(&named).unwrap_or(named);
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
            attempt,
            cache: self.store().root().into(),
            unverified: vec![],
            detached: false,
            threads: allocation.threads_of_rank(),
            ranks: allocation.ranks,
            numbering: numbering(stage, allocation),
            device: allocation.device(),
            command: stage.program().map(|words| words.into_iter().map(String::from).collect()),
            pipeline: self.checker.pipeline.name.clone(),
            pipeline_file: self.checker.pipeline.file.canonicalize().unwrap_or_else(|_| file.clone()),
            pipeline_dir: file.parent().unwrap_or(Path::new("/")).into(),
            downloads: self.store().downloads(),
        }
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
            return Err(Error::stage(format!("{changed}: {}", artifacts::some(&paths)))
                .maybe_at(source.place.clone())
                .hint("it is unknown which contents the result is based on; rerun when nothing writes there"));
        }
        ready.keyed.sources.values().for_each(|outside| keep_listing(self.store(), outside));
        Ok(())
    }

    /// Moves the outputs of an attempt into the store, under the digests of its report.
    fn publish(&self, job: &Job, stage: &Stage, report: &AttemptReport, keep: Durability) -> Result<SmallMap<Output>> {
        let mut outputs = SmallMap::with_capacity(stage.outputs.len());
        for (name, ty) in &stage.outputs {
            let Some(measured) = report.outputs.get(name).copied() else {
                return Err(Error::stage(format!("the report of the attempt does not name its output `{name}`")));
            };
            self.store().publish(&job.output(name), &measured, keep)?;
            self.integrity.note(self.store(), &measured.digest);
            outputs.insert(name.clone(), Output { ty: ty.clone(), measured });
        }
        Ok(outputs)
    }

    fn record(
        &self,
        ready: &ReadyAction,
        report: AttemptReport,
        outputs: SmallMap<Output>,
        attempt: u32,
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
            host: report.machine.host,
            program: report.machine.program,
            device: report.machine.device,
            class: report.machine.class,
            given: self.checker.properties().given(stage),
            earlier: report.machine.earlier,
            stamp: None,
        }
    }
}

/// Who numbers the ranks: those that train on CPUs find each other by MPI.
fn numbering(stage: &Stage, allocation: &Allocation) -> Numbering {
    let trains = stage.manifest.ranks == Some(Sharing::MicroBatches);
    match trains && allocation.ranks > 1 && allocation.gpus.is_empty() {
        true => Numbering::Mpi,
        false => Numbering::Spawned,
    }
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
