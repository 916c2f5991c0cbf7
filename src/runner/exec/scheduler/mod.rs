//! Decides what runs when. One thread owns all state; helper threads check stages (keys, hits,
//! locks) and execute actions, and report back through a channel.
//!
//! States:
//! ```text
//! Unknown -> Waiting -> Ready -> Cached                      known, nothing to do
//!               ^         |----> Running -> Done | Failed | Suspended
//!               |         |         |
//!               '---------'---------'   an input is damaged: its producer and this stage restart
//!                         '-- Running   an attempt failed and is retried: wait, then start again
//! any of Waiting, Ready, Running -> Skipped   a failure elsewhere, a stop request, or pruned
//! ```
//! Every transition goes through `Scheduler::set` (`transitions`), which also counts the unknown
//! inputs of each stage, so that a run of many thousand stages looks at each edge once. A stage is
//! checked as soon as its inputs are known, not earlier: keys contain digests, so if an upstream
//! stage ran and produced equal bytes, everything downstream stays cached.
//!
//! A stale stage takes the lock of its key when it starts, and is looked up once more under it. If
//! another run holds the lock, the stage is checked again from time to time, without an allocation,
//! and normally finds the other run's result. The holder of a lock waits only for resources or for
//! its next attempt, never for another lock, so two runs cannot deadlock. Does not know what the
//! stages compute.

mod check;
pub mod message;
mod needs;
mod options;
mod ready_queue;
mod report;
mod requests;
mod retry;
mod start;
mod summary;
mod transitions;
mod workers;

use super::executor::{Executor, ReadyAction};
use super::launch::Launcher;
use super::process_exit::MemoryDeaths;
use super::processes::Workers;
use super::resources::{Limits, ResourcePool};
pub use super::stop_token::StopToken;
use super::tamper::IntegrityCheck;
use crate::cache::CacheRef;
use crate::cache::action_cache::Record;
use crate::cache::key::Key;
use crate::event::{Event, EventKind, Failure, Listener, StageEnd, StageState, WorkerEvent};
use crate::pipeline::graph::{Pipeline, RetryPolicy, Stage, StageId};
use crate::plan::reason::Reason;
use crate::plan::{self, CacheChecker, foresee};
use check::check_all;
use erw_base::error::{Error, Result};
use erw_base::limits;
use message::{CheckRequest, CheckResult, Early, Later, Message};
use needs::{Needs, check, need, needs};
pub use options::{Options, Outcome, Settled};
use ready_queue::{Priority, ReadyQueue, priority};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};
use summary::summarise;
use workers::Allocated;

/// Threads that check stages; each may be reading sources.
const CHECKERS: usize = 8;
/// Stages that are checked one after another by one of them, if each takes microseconds.
const AT_A_TIME: usize = 32;
/// How often a lock held by another run is retried.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);
/// How often stop requests, time limits and the load are checked while nothing happens.
const TICK: Duration = Duration::from_millis(50);
/// Why stages are skipped that the next run of all will run.
const ANEW: &str = "all stages are read again";
/// How often what was stored without waiting is forced to disk.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);

/// Runs the selected stages. An `Err` means that nothing was started.
pub fn run(
    pipeline: &Pipeline,
    cache: CacheRef<'_>,
    launcher: &dyn Launcher,
    options: Options,
    stop: &StopToken,
    listener: &mut dyn Listener,
) -> Result<Outcome> {
    let needs = needs(pipeline, &options)?;
    let pool = check(pipeline, &needs, launcher, &options)?;
    let checker = CacheChecker::new(pipeline, cache, options.forced.clone());
    if !options.keep_going {
        foresee::selected(&checker, &options.selected)?;
    }
    let (workers, deaths) = (Workers::default(), MemoryDeaths::default());
    let unsynced = AtomicBool::new(false);
    let executor = Executor {
        checker: &checker,
        launcher,
        workers: &workers,
        deaths: &deaths,
        unsynced,
        integrity: IntegrityCheck::default(),
        spares: Mutex::default(),
    };
    let (tell, told) = channel();
    let (ask, asked) = channel();
    let asked = Mutex::new(asked);
    let (ready, ready_actions) = channel();
    let ready_actions = Mutex::new(ready_actions);
    let scheduler = Scheduler::new(pipeline, &executor, stop, pool, needs, options, listener, tell.clone(), ask, ready);
    std::thread::scope(|scope| {
        for n in 0..limits::helpers(CHECKERS.min(scheduler.selected.len())) {
            let (executor, asked, tell) = (&executor, &asked, tell.clone());
            match limits::spawn_scoped(scope, "check", move || check_all(executor, asked, &tell)) {
                Err(e) if n == 0 => return Err(Error::usage("cannot start a thread").caused(e)),
                Err(_) => break,
                Ok(_) => {}
            }
        }
        Ok(scheduler.run(scope, &told, &ready_actions))
    })
}

/// The progress of one stage.
#[derive(Default)]
struct Progress {
    /// `Unknown`: neither selected nor known.
    state: StageState,
    /// Of a cached or done stage.
    record: Option<Record>,
    key: Option<Key>,
    reasons: Vec<Reason>,
    failure: Option<Failure>,
    /// As it was reported.
    end: Option<Box<StageEnd>>,
    /// Number of needed stages that are not known yet.
    lacks: usize,
    /// The selected stages that need it, each once.
    needed_by: Vec<StageId>,
    /// It was said that another run holds its lock.
    told_of_lock: bool,
    /// Attempts that failed in this run.
    failed: u32,
    /// Why the current attempt was asked to stop early.
    ended_early: Option<Early>,
    /// When the current attempt times out; after that, when it is killed.
    deadline: Option<Instant>,
    /// When the latest attempt started, and how long it took once it has ended.
    started: Option<Instant>,
    took: Duration,
}

struct Scheduler<'a> {
    pipeline: &'a Pipeline,
    executor: &'a Executor<'a>,
    stop: &'a StopToken,
    stops_handled: usize,
    pool: ResourcePool,
    needs: Needs,
    keep_going: bool,
    leave_on: Vec<i32>,
    limits: Limits,
    stage_retry: BTreeMap<StageId, RetryPolicy>,
    retry: RetryPolicy,
    selected: Vec<StageId>,
    /// By id.
    stages: Vec<Progress>,
    by_name: HashMap<&'a str, StageId>,
    /// Waiting stages whose inputs are all known.
    checkable: BTreeSet<StageId>,
    queue: ReadyQueue,
    locked: BTreeMap<StageId, Later<Box<CheckRequest>>>,
    retries: BTreeMap<StageId, Later<Box<ReadyAction>>>,
    running: BTreeSet<StageId>,
    /// Stages that started and were not asked by a file to stop yet.
    watched: BTreeSet<StageId>,
    looked: Instant,
    /// Stages being checked, and since when.
    checking: BTreeMap<StageId, Instant>,
    /// Messages to the checkers without an answer.
    asked: usize,
    has_failed: bool,
    /// Number of settled stages, and those to be reported.
    settled: usize,
    settled_ends: Vec<StageEnd>,
    lacks_stages: bool,
    began: Instant,
    synced: Instant,
    listener: &'a mut dyn Listener,
    tell: Sender<Message>,
    ask: Sender<Vec<CheckRequest>>,
    ready: Sender<Allocated>,
    /// Threads that execute actions.
    hands: usize,
}

impl<'a> Scheduler<'a> {
    #[expect(clippy::too_many_arguments, reason = "called once, by `run`, which owns all of it")]
    fn new(
        pipeline: &'a Pipeline,
        executor: &'a Executor<'a>,
        stop: &'a StopToken,
        pool: ResourcePool,
        needs: Needs,
        options: Options,
        listener: &'a mut dyn Listener,
        tell: Sender<Message>,
        ask: Sender<Vec<CheckRequest>>,
        ready: Sender<Allocated>,
    ) -> Self {
        let mut stages: Vec<Progress> = pipeline.stages.iter().map(|_| Progress::default()).collect();
        for (id, record) in options.settled.known {
            (stages[id.0].state, stages[id.0].record) = (StageState::Cached, Some(record));
        }
        for &id in &options.selected {
            let needs = pipeline.stages[id.0].inputs.values().map(|edge| edge.from);
            let needs: BTreeSet<StageId> = needs.filter(|from| stages[from.0].record.is_none()).collect();
            stages[id.0].lacks = needs.len();
            needs.into_iter().for_each(|from| stages[from.0].needed_by.push(id));
        }
        let by_name = options.selected.iter().map(|id| (pipeline.stages[id.0].name.as_str(), *id)).collect();
        let now = Instant::now();
        Self {
            pipeline,
            executor,
            stop,
            stops_handled: 0,
            pool,
            needs,
            keep_going: options.keep_going,
            leave_on: options.leave_on,
            limits: options.limits,
            stage_retry: options.stage_retry,
            retry: options.retry,
            selected: options.selected,
            stages,
            by_name,
            checkable: BTreeSet::new(),
            queue: ReadyQueue::default(),
            locked: BTreeMap::new(),
            retries: BTreeMap::new(),
            running: BTreeSet::new(),
            watched: BTreeSet::new(),
            looked: now,
            checking: BTreeMap::new(),
            asked: 0,
            has_failed: false,
            settled: options.settled.count,
            settled_ends: options.settled.ends,
            lacks_stages: false,
            began: now,
            synced: now,
            listener,
            tell,
            ask,
            ready,
            hands: 0,
        }
    }

    /// The main loop: start whatever can start. If then nothing is running, everything is settled.
    /// Otherwise wait for a message or the next time limit, handle all messages, and repeat.
    fn run<'scope>(
        mut self,
        scope: &'scope Scope<'scope, '_>,
        told: &Receiver<Message>,
        ready_actions: &'scope Mutex<Receiver<Allocated>>,
    ) -> Outcome
    where
        'a: 'scope,
    {
        self.say(EventKind::RunStarted {
            pipeline: self.pipeline.name.clone(),
            stages: self.selected.len() + self.settled,
            jobs: self.limits.jobs,
            threads: self.limits.threads,
        });
        let listed = std::mem::take(&mut self.settled_ends);
        if listed.len() < self.settled {
            self.say(EventKind::CachedStages { stages: self.settled });
        } else {
            listed.into_iter().for_each(|end| self.say(EventKind::Ended(Box::new(end))));
        }
        for i in 0..self.selected.len() {
            self.set(self.selected[i], StageState::Waiting);
        }
        loop {
            self.handle_requests();
            self.handle_stop();
            self.cancel_pruned();
            self.handle_time_limits();
            self.requeue_due();
            self.check_ready();
            self.start_ready(scope, ready_actions);
            // What was about to start may have been finished by others, so that more is ready.
            self.check_ready();
            self.sync_to_disk(scope);
            let idle = self.checking.is_empty() && self.running.is_empty();
            let idle = idle && self.locked.is_empty() && self.retries.is_empty() && self.queue.is_empty();
            self.attend_remote(idle);
            if idle {
                break;
            }
            match told.recv_timeout(TICK) {
                Ok(message) => self.handle(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Ok(message) = told.try_recv() {
                self.handle(message);
            }
        }
        self.finish()
    }

    fn stage(&self, id: StageId) -> &'a Stage {
        &self.pipeline.stages[id.0]
    }

    /// Others are known, and cannot run.
    fn is_selected(&self, id: StageId) -> bool {
        self.by_name.contains_key(self.stage(id).name.as_str())
    }

    fn state(&self, id: StageId) -> StageState {
        self.stages[id.0].state
    }

    fn say(&mut self, what: EventKind) {
        self.report(what);
    }

    /// Returns the end of a stage, if it was one.
    fn report(&mut self, what: EventKind) -> Option<Box<StageEnd>> {
        let event = Event { at: self.began.elapsed().as_secs_f64(), what };
        self.listener.event(&event);
        if let EventKind::Ended(end) = event.what { Some(end) } else { None }
    }

    /// Nothing new may start.
    fn is_closing(&self) -> bool {
        self.stops_handled > 0 || self.lacks_stages || (!self.keep_going && self.has_failed)
    }

    fn handle_stop(&mut self) {
        let asked = self.stop.count();
        if asked > self.stops_handled {
            if asked >= 2 {
                self.executor.workers.kill();
            } else if self.stop.signal().is_some_and(|signal| self.leave_on.contains(&signal)) {
                // This process is to end, which is no wish to stop what can go on without it.
                self.executor.workers.leave();
            } else {
                self.executor.workers.stop();
            }
            self.stops_handled = asked;
        }
        if self.is_closing() {
            // Dropping the actions releases their locks.
            self.queue.clear();
            self.locked.clear();
            for (id, _) in std::mem::take(&mut self.retries) {
                self.settle_failed(id);
            }
        }
    }

    fn check_ready(&mut self) {
        let checker = self.executor.checker;
        let mut quick = Vec::new();
        while self.asked < 2 * CHECKERS && !self.is_closing() {
            let Some(id) = self.checkable.pop_first() else { break };
            let inputs = plan::inputs(self.stage(id), |from| self.stages[from.0].record.as_ref());
            self.set(id, StageState::Ready);
            match inputs {
                Err(e) => self.fail(id, e.into()),
                Ok(inputs) if checker.is_quick(self.stage(id)) => {
                    quick.push(CheckRequest { id, inputs, keyed: None });
                    if quick.len() == AT_A_TIME {
                        self.ask(std::mem::take(&mut quick));
                    }
                }
                Ok(inputs) => self.ask(vec![CheckRequest { id, inputs, keyed: None }]),
            }
        }
        if !quick.is_empty() {
            self.ask(quick);
        }
    }

    fn ask(&mut self, requests: Vec<CheckRequest>) {
        let now = Instant::now();
        self.asked += 1;
        self.checking.extend(requests.iter().map(|request| (request.id, now)));
        let _ = self.ask.send(requests);
    }

    /// Forces what was stored without waiting to disk, on a helper thread.
    fn sync_to_disk<'scope>(&mut self, scope: &'scope Scope<'scope, '_>)
    where
        'a: 'scope,
    {
        if self.synced.elapsed() >= SYNC_INTERVAL && self.executor.unsynced.swap(false, Ordering::Relaxed) {
            self.synced = Instant::now();
            let store = self.executor.checker.store;
            if limits::spawn_scoped(scope, "sync", move || store.sync()).is_err() {
                // It is done at the end instead.
                self.executor.unsynced.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Passes on the remote's warnings; when everything else is done, waits for its uploads.
    fn attend_remote(&mut self, idle: bool) {
        let Some(remote) = self.executor.checker.remote else { return };
        let stop = self.stop;
        let words = remote.attend(idle, &|| stop.count() > 0);
        words.into_iter().for_each(|text| self.say(EventKind::Warning { text }));
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Checked(all) => {
                self.asked -= 1;
                for (id, checked) in all {
                    self.checking.remove(&id);
                    // Cancelled meanwhile.
                    if !self.state(id).is_settled() {
                        self.checked(id, checked);
                    }
                }
            }
            Message::Starting(id, start, allocation) => {
                self.watched.insert(id);
                self.stages[id.0].started = Some(Instant::now());
                self.report_start(id, start, &allocation);
            }
            Message::Worker(id, WorkerEvent::Started) => self.limit_time(id),
            Message::Worker(id, event) => self.forward_event(id, event),
            Message::Ended(ready, allocation, end) => {
                self.running.remove(&ready.id);
                self.pool.give_back(allocation);
                let id = ready.id;
                let progress = &mut self.stages[id.0];
                progress.deadline = None;
                progress.took = progress.started.take().map_or(Duration::ZERO, |started| started.elapsed());
                self.ended(ready, end);
                if !self.retries.contains_key(&id) {
                    self.watched.remove(&id);
                }
            }
        }
    }

    fn checked(&mut self, id: StageId, checked: Result<CheckResult>) {
        match checked {
            Err(e) => self.fail(id, e.into()),
            Ok(CheckResult::Locked(request)) => self.wait_for_lock(request),
            Ok(CheckResult::Cached(key, record)) => {
                let progress = &mut self.stages[id.0];
                progress.key = Some(key);
                progress.record = Some(*record);
                self.set(id, StageState::Cached);
            }
            Ok(CheckResult::Stale(ready, reasons)) => {
                for reason in reasons.iter().filter(|r| matches!(r, Reason::Damaged { .. })) {
                    let text = format!("stage `{}`: {reason}; it runs again", self.stage(id).name);
                    self.say(EventKind::Warning { text });
                }
                let progress = &mut self.stages[id.0];
                progress.key = Some(ready.keyed.action.key);
                progress.reasons = reasons;
                self.queue.insert(ready);
                if !self.queue.is_ranked() {
                    self.queue.rank(self.priority());
                }
            }
        }
    }

    /// Based on the duration of each stage's last run, or one second if unknown.
    fn priority(&self) -> Vec<Priority> {
        let record_index = self.executor.checker.record_index().ok();
        priority(self.pipeline, |id| match self.state(id) {
            StageState::Unknown | StageState::Cached | StageState::Done => 0.0,
            _ => record_index
                .and_then(|record_index| record_index.seconds(&self.pipeline.name, self.stage(id)))
                .unwrap_or(1.0),
        })
    }

    /// Settles stages that never started and summarises the run.
    fn finish(mut self) -> Outcome {
        let signal = self.stop.signal();
        let mut forgotten = None;
        for i in 0..self.selected.len() {
            let id = self.selected[i];
            if !self.state(id).is_settled() {
                let why = match signal {
                    Some(_) => "the run was stopped",
                    None if self.has_failed => "another stage failed",
                    None if self.lacks_stages => ANEW,
                    // Never without a word: what is not reported now would count as done.
                    None => {
                        forgotten.get_or_insert(id);
                        "it was forgotten"
                    }
                };
                self.set_skipped(id, why.into());
            }
        }
        self.executor.clean_up();
        // What a remote sent is not on disk either.
        if (self.executor.unsynced.load(Ordering::Relaxed) || self.executor.checker.remote.is_some())
            && let Err(e) = self.executor.checker.store.sync()
        {
            self.say(EventKind::Warning { text: e.to_string() });
        }
        let ends: Vec<StageEnd> = (0..self.selected.len()).map(|i| self.last_end(self.selected[i])).collect();
        let forgotten = forgotten.map(|id| Error::internal(format!("stage `{}` was forgotten", self.stage(id).name)));
        let error = summarise(&ends, signal).or(forgotten);
        let exit = error.as_ref().map_or(0, Error::exit_code);
        self.say(EventKind::RunFinished { seconds: self.began.elapsed().as_secs_f64(), exit });
        let mut record = |id: &StageId| Some((*id, self.stages[id.0].record.take()?));
        let records = self.selected.iter().filter_map(&mut record).collect();
        Outcome { ends, records, error, lacks_stages: self.lacks_stages }
    }
}
