//! Executes attempts as jobs of Slurm, by its commands: `sbatch`, `squeue`, `scontrol`, `scancel`.
//! Slurm decides what runs where and when; everything else passes through files of the work folder,
//! which the nodes must see.
//!
//! ```text
//! work/<key>/placed.json          attempt and name of the job
//! work/<key>/attempt-N.{json,sh,log,events,end.json}
//! work/<key>/stop                 somebody asked to suspend it: do not requeue
//! ```
//!
//! `placed.json` is forced to disk *before* the submission, and a job is found again by its name. A
//! run that was killed at any moment, and whose job has ended meanwhile or not, is continued by the
//! next one: nothing is submitted twice, and nothing that was computed is lost. The note of a job
//! that is done stays until the executor has written the record. What Slurm calls the end is not
//! believed without the report of the attempt; a job can be `COMPLETED` in which nothing ran. A job
//! that is preempted, whose node dies or whose time is over is no failure: it goes on from its
//! checkpoint, requeued by its own script, or placed anew from here.
//!
//! Does not know the graph or keys.

mod accounting;
mod array;
pub mod commands;
mod pace;
pub mod placed;
pub mod queue;
pub mod runner_job;
pub mod script;
pub mod site_check;
pub mod state;
pub mod unattended;
mod visit;

use super::local::Local;
use super::{AttemptSite, Launcher, with_tail};
use crate::event::{Failure, WorkerEvent};
use crate::exec::attempt_report::{AttemptEnd, AttemptReport, Machine};
use crate::exec::environment::GPUS;
use crate::exec::rendezvous;
use crate::exec::resources::Limits;
use crate::exec::stop_request;
use crate::exec::worker;
use crate::exec::worker_program::WorkerProgram;
use crate::files::disk::{Durability, write_file, write_json};
use crate::kind::attempt::Job;
use crate::kind::ranks::Numbering;
use crate::pipeline::graph::{Resources, Stage};
use crate::settings::{MpiStart, Settings, StageSettings};
use array::{Fate, Gathering, Member};
use commands::{Answer, LIMIT, run};
use erw_base::error::{Error, Result};
use erw_base::process::FOR_WORKERS;
use erw_fetch::registry;
use pace::{GRACE, LATENCY, POLL, TICK};
use placed::Placed;
use queue::{Queue, Sight};
use script::{Needs, Request, needs, script};
use state::{JobEnd, JobStatus, Phase};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use visit::{Visit, log};

/// After a submission that was not answered, how long the queue is watched for the job.
const UNANSWERED: Duration = Duration::from_secs(10);
/// Words by which `sbatch` says that no more jobs are taken now.
const FULL: [&str; 4] = ["job submit limit", "QOSMaxSubmit", "AssocMaxSubmit", "unable to accept job"];

/// Executes attempts as jobs of Slurm.
#[derive(Debug)]
pub struct Slurm {
    settings: Settings,
    worker: WorkerProgram,
    queue: Queue,
    gathering: Gathering,
    /// For the kinds that run beside the runner.
    local: Local,
}

impl Launcher for Slurm {
    /// Asks `sbatch --test-only` once for each kind of request.
    fn check(&self, stages: &[(&Stage, &Resources)], limits: &Limits) -> Result<()> {
        let mut asked = BTreeSet::new();
        for (stage, need) in stages {
            let Some(needs) = requested(&self.settings, stage, need, limits.without_gpus) else { continue };
            if !asked.insert(needs.clone()) {
                continue;
            }
            let arguments = [vec!["--test-only".into()], needs, vec!["--wrap".into(), "true".into()]].concat();
            // Silence is no refusal: a scheduler that is away is waited for.
            if let Answer::Refused(words) = run("sbatch", &arguments, LIMIT)? {
                return Err(Error::usage(format!("stage `{}`: Slurm would refuse its job", stage.name))
                    .because(words)
                    .hint("run `erw config list --show-origin` to see who states the partition, account and time"));
            }
        }
        Ok(())
    }

    fn find(&self, work: &Path) -> Result<Option<u32>> {
        Ok(Placed::read(work)?.map(|placed| placed.attempt))
    }

    fn run(&self, site: &AttemptSite<'_>, job: Job, tell: &mut dyn FnMut(WorkerEvent)) -> Result<AttemptReport> {
        let placed = Placed::read(&job.work_dir)?.filter(|placed| placed.attempt == job.attempt);
        // A job that was submitted under other settings is attended all the same.
        if placed.is_none() && is_local(&self.settings, &job.kind) {
            return self.local.run(site, job, tell);
        }
        site.workers.add_job(site.ticket);
        let visited = match placed {
            Some(placed) => self.attend(site, &job, &placed, tell),
            None => self.place(site, &job, tell),
        };
        site.workers.remove_job(site.ticket);
        let stays = match &visited {
            Ok(Visited::Left) => true,
            // Until what it made is recorded: a run that is killed before then attends it again.
            Ok(Visited::Ended(report)) => matches!(report.end, AttemptEnd::Done),
            Err(_) => false,
        };
        if !stays {
            let _ = std::fs::remove_file(Placed::file(&job.work_dir));
        }
        Ok(match visited? {
            Visited::Ended(report) => with_log(&job, *report),
            Visited::Left => AttemptReport::of(AttemptEnd::Suspended, Machine::default()),
        })
    }
}

/// Whether stages of this kind run beside the runner: compute nodes seldom reach the internet.
fn is_local(settings: &Settings, kind: &str) -> bool {
    const KINDS: [&str; 1] = ["weights"];
    settings.local_kinds.as_ref().map_or_else(|| KINDS.contains(&kind), |kinds| kinds.iter().any(|k| k == kind))
}

/// What the job of a stage requests, as options of `sbatch`; `None`: it runs beside the runner.
pub fn requested(settings: &Settings, stage: &Stage, need: &Resources, without_gpus: bool) -> Option<Vec<String>> {
    if is_local(settings, stage.kind.name) {
        return None;
    }
    let options = settings.of_stage(&stage.name, stage.kind.name);
    let threads = need.threads.or(options.job_threads).unwrap_or(1);
    let gpus = if without_gpus { 0 } else { need.gpus };
    let (ranks, mem) = (need.ranks.unwrap_or(1), need.mem.unwrap_or(0));
    let needs = needs(&options, Needs { ranks, threads, mem, gpus });
    let needs = needs.into_iter().map(|(name, value)| format!("--{name}={value}"));
    Some(needs.chain(options.sbatch.unwrap_or_default()).collect())
}

/// How the visit of a job ended.
enum Visited {
    Ended(Box<AttemptReport>),
    /// It goes on, or may do so: the next run attends it.
    Left,
}

impl Visited {
    fn of(end: AttemptEnd) -> Self {
        Self::Ended(Box::new(AttemptReport::of(end, Machine::default())))
    }
}

impl Slurm {
    pub fn new(settings: Settings, worker: WorkerProgram) -> Self {
        let local = Local { worker: worker.clone() };
        Self {
            queue: Queue::new(settings.poll.unwrap_or(POLL)),
            gathering: Gathering::default(),
            settings,
            worker,
            local,
        }
    }

    /// Submits the job and attends it.
    fn place(&self, site: &AttemptSite<'_>, job: &Job, tell: &mut dyn FnMut(WorkerEvent)) -> Result<Visited> {
        let work = &job.work_dir;
        let placed = Placed::now(job);
        let options = self.settings.of_stage(&job.stage, &job.kind);
        let over_mpi = job.numbering == Numbering::Mpi;
        let job = Job {
            detached: true,
            unverified: job.inputs.keys().cloned().collect(),
            threads: if site.stated.threads { job.threads } else { options.job_threads.unwrap_or(1) },
            // `srun` numbers them, unless `mpirun` starts them in the script.
            numbering: match job.numbering {
                Numbering::Mpi if options.mpi == Some(MpiStart::Mpirun) => Numbering::Mpi,
                _ => Numbering::Slurm,
            },
            ..job.clone()
        };
        write_json(&job.file(), &job, Durability::Now)?;
        let file = work.join(format!("attempt-{}.sh", job.attempt));
        let script = self.script(site, &job, &placed.name, &options, over_mpi);
        write_file(&file, script.as_bytes(), Durability::Now).map_err(|e| Error::io("write", &file, e))?;
        if job.attempt == 1 {
            let (work, cache, log_file) = (work.clone(), job.cache.clone(), job.log_file());
            let member = Member { placed: placed.clone(), work, cache, script: file.clone(), log: log_file };
            match self.gathering.submit(member, &script) {
                Fate::Alone => {}
                Fate::Submitted(task) => {
                    self.queue.stir();
                    return self.attend(site, &job, &task, tell);
                }
                Fate::Unanswered(task, submitted, words) => {
                    log(tell, format!("it is unknown whether the job was submitted: {words}"));
                    match self.was_submitted(site, &task.name, submitted)? {
                        Some(true) => return self.attend(site, &job, &task, tell),
                        Some(false) => {}
                        None => return Ok(Visited::Left),
                    }
                }
            }
        }
        placed.write(work)?;
        let mut told_full = false;
        loop {
            let submitted = Instant::now();
            match run("sbatch", &[file.to_string_lossy().into_owned()], LIMIT)? {
                Answer::Text(_) => break,
                Answer::Refused(words) if FULL.iter().any(|full| words.contains(full)) => {
                    if !std::mem::replace(&mut told_full, true) {
                        log(tell, format!("Slurm takes no more jobs now, so this one waits: {words}"));
                    }
                    if self.rest(site, self.settings.poll.unwrap_or(POLL)) {
                        return Ok(Visited::of(AttemptEnd::Suspended));
                    }
                }
                Answer::Refused(words) => {
                    let error = Error::stage("`sbatch` refused the job").because(words);
                    let error = error.hint(format!("its script is `{}`", file.display()));
                    return Ok(Visited::of(AttemptEnd::Rejected(error.into())));
                }
                Answer::Silence(words) => {
                    log(tell, format!("it is unknown whether the job was submitted: {words}"));
                    match self.was_submitted(site, &placed.name, submitted)? {
                        Some(true) => break,
                        Some(false) => {}
                        None => return Ok(Visited::Left),
                    }
                }
            }
        }
        self.queue.stir();
        self.attend(site, &job, &placed, tell)
    }

    /// Whether a submission that was not answered was obeyed; `None`: the run is to stop.
    fn was_submitted(&self, site: &AttemptSite<'_>, name: &str, submitted: Instant) -> Result<Option<bool>> {
        loop {
            if let Ok(sight) = self.queue.look(name, Instant::now())? {
                if sight.job.is_some_and(|job| !matches!(job.phase(), Phase::Ended(_))) {
                    return Ok(Some(true));
                }
                if sight.at > submitted + LIMIT + UNANSWERED {
                    return Ok(Some(false));
                }
            }
            if self.rest(site, TICK) {
                return Ok(None);
            }
        }
    }

    /// Waits, and returns whether the run is to stop.
    fn rest(&self, site: &AttemptSite<'_>, time: Duration) -> bool {
        let until = Instant::now() + time;
        while Instant::now() < until {
            if site.workers.is_stopping(site.ticket) {
                return true;
            }
            std::thread::sleep(TICK.min(time));
        }
        site.workers.is_stopping(site.ticket)
    }

    fn script(&self, site: &AttemptSite<'_>, job: &Job, name: &str, options: &StageSettings, over_mpi: bool) -> String {
        let worker: Vec<_> = [self.worker.program.clone().into()].into_iter().chain(self.worker.args.clone()).collect();
        let gpus = site.gpus.len();
        let own = site.environment(job, 0).into_iter().filter(|(name, _)| gpus == 0 || *name != GPUS);
        let registry = registry::further().map(|(path, _)| (registry::EXTRA, path.to_string_lossy().into_owned()));
        let environment: Vec<_> =
            FOR_WORKERS.map(|(name, value)| (name, value.to_string())).into_iter().chain(own).chain(registry).collect();
        let request = Request {
            name,
            comment: &format!("erw stage {} attempt {}", job.stage, job.attempt),
            needs: Needs { ranks: job.ranks, threads: job.threads, mem: site.mem, gpus },
            over_mpi,
            log: &job.log_file(),
            stop: &stop_request::file(&job.work_dir),
            grace: self.settings.grace.unwrap_or(GRACE),
            environment: &environment,
            worker: &worker,
        };
        script(options, &request, job)
    }

    /// Attends a job until it has ended.
    fn attend(
        &self,
        site: &AttemptSite<'_>,
        job: &Job,
        placed: &Placed,
        tell: &mut dyn FnMut(WorkerEvent),
    ) -> Result<Visited> {
        let name = placed.name.as_str();
        let mut visit = Visit::of(job);
        loop {
            visit.events.pass_on(tell);
            if site.workers.is_leaving() {
                log(tell, format!("the job `{name}` goes on; the next run finds it"));
                return Ok(Visited::Left);
            }
            let report = AttemptReport::read(job)?;
            let asked = site.workers.is_stopping(site.ticket);
            if let Some(report) = report.filter(|report| asked || !matches!(report.end, AttemptEnd::Suspended)) {
                visit.events.pass_on(tell);
                if matches!(report.end, AttemptEnd::Suspended) {
                    // Ends the script too, so that it does not requeue the job.
                    self.cancel(name, &[]);
                }
                return Ok(Visited::Ended(Box::new(report)));
            }
            // A suspended worker's job is requeued by its script, if it was not asked by us.
            let since = if visit.is_over.is_some() { Instant::now() } else { visit.asked.unwrap_or(visit.began) };
            match self.queue.look(name, since)? {
                Err(words) => visit.tell_silence(&words, tell),
                // Of an earlier job of this name.
                Ok(sight) if sight.at < visit.began => {}
                Ok(sight) => {
                    visit.silent = None;
                    if let Some(end) = self.judge(site, job, placed, &mut visit, &sight, tell)? {
                        return Ok(Visited::of(end));
                    }
                }
            }
            match visit.pause() {
                TICK => std::thread::sleep(TICK),
                longer => drop(self.rest(site, longer)),
            }
        }
    }

    /// What the state of a job without a report means; `None`: it is to be waited for.
    fn judge(
        &self,
        site: &AttemptSite<'_>,
        job: &Job,
        placed: &Placed,
        visit: &mut Visit,
        sight: &Sight,
        tell: &mut dyn FnMut(WorkerEvent),
    ) -> Result<Option<AttemptEnd>> {
        let (name, status) = (placed.name.as_str(), sight.job.as_ref());
        let phase = status.map(JobStatus::phase);
        let live = status.filter(|_| !matches!(phase, Some(Phase::Ended(_))));
        if site.workers.is_stopping(site.ticket) && visit.asked.is_none() {
            stop_request::ask(&job.work_dir)?;
            match phase {
                Some(Phase::Running) => self.cancel(name, &["--signal=TERM"]),
                // Also where the scheduler has not told of it yet.
                _ => self.cancel(name, &[]),
            }
            visit.asked = Some(Instant::now());
            return Ok(None);
        }
        if let Some(status) = live {
            visit.is_over = None;
            visit.tell_state(status, tell);
            if phase == Some(Phase::Held) {
                self.cancel(name, &[]);
                let why = "Slurm holds the job, because it had forgotten that it ran";
                return Ok(Some(AttemptEnd::Interrupted(why.into())));
            }
            if site.workers.is_killed(site.ticket) {
                self.cancel(name, &[]);
                return Ok(Some(AttemptEnd::Suspended));
            }
            return Ok(None);
        }
        if let Some(asked) = visit.asked {
            return Ok((sight.at >= asked).then_some(AttemptEnd::Suspended));
        }
        let report = AttemptReport::read(job)?;
        let suspended = report.as_ref().is_some_and(|report| matches!(report.end, AttemptEnd::Suspended));
        if report.is_some() && !suspended {
            // Written just now.
            return Ok(None);
        }
        // Nothing will requeue it, and no other report will come.
        if placed.stopped && suspended && !worker::is_at_work(job) {
            return Ok(Some(AttemptEnd::Interrupted("it was asked to stop while no run attended it".into())));
        }
        // Files of a node may be seen late; the folder is listed, because a file system on the
        // network remembers for a while that a file was not there.
        let _ = crate::files::disk::list(&job.work_dir);
        let latency = self.settings.latency.unwrap_or(LATENCY);
        let age = std::fs::metadata(Placed::file(&job.work_dir)).and_then(|m| m.modified()).ok();
        let age = age.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        // Slurm forgets a job some minutes after its end: one that it does not know is long over.
        let is_long_over = status.is_none() && visit.told.is_none() && age > latency;
        let over = *visit.is_over.get_or_insert_with(Instant::now);
        if !is_long_over && over.elapsed() < latency {
            return Ok(None);
        }
        // Of another start of the same job: it is believed rather than the scheduler.
        if worker::is_at_work(job) {
            return Ok(None);
        }
        let causes = || accounting::words(placed).into_iter().collect();
        let ended = |words: &str| Failure { message: words.into(), causes: causes(), ..Failure::default() };
        Ok(Some(match phase {
            Some(Phase::Ended(JobEnd::Cancelled)) if placed.stopped => {
                AttemptEnd::Interrupted("its job was cancelled by `erw stop`".into())
            }
            Some(Phase::Ended(JobEnd::Cancelled)) if suspended => AttemptEnd::Suspended,
            Some(Phase::Ended(JobEnd::Cancelled)) => AttemptEnd::Failed(ended("its job was cancelled from outside")),
            Some(Phase::Ended(JobEnd::OutOfMemory)) => {
                let hint = "declare its memory, as in `resources = { mem = \"8GiB\" }`";
                AttemptEnd::Failed(Failure { hints: vec![hint.into()], ..ended("Slurm ended its job: out of memory") })
            }
            _ if suspended => AttemptEnd::Interrupted("its job was not requeued".into()),
            Some(Phase::Ended(JobEnd::Completed)) => {
                AttemptEnd::Failed(ended("its job ended without a report: Slurm calls it completed"))
            }
            Some(Phase::Ended(JobEnd::Failed)) => {
                let of_rank = rendezvous::failure_in_job(job);
                AttemptEnd::Failed(of_rank.unwrap_or_else(|| ended("its job failed without a report")))
            }
            Some(Phase::Ended(JobEnd::Interrupted)) => {
                AttemptEnd::Interrupted(status.map_or("", |status| &status.state).to_lowercase())
            }
            _ => AttemptEnd::Interrupted("Slurm knows no such job".into()),
        }))
    }

    /// A scheduler that does not answer is asked again by whoever stops the run again.
    fn cancel(&self, name: &str, options: &[&str]) {
        self.queue.stir();
        let _ = unattended::cancel(name, options);
    }
}

/// A failure with the end of the log.
fn with_log(job: &Job, report: AttemptReport) -> AttemptReport {
    match report.end {
        AttemptEnd::Failed(failure) => AttemptReport { end: AttemptEnd::Failed(with_tail(job, failure)), ..report },
        _ => report,
    }
}
