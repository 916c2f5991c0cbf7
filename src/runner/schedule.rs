//! Decides what runs when. One thread owns all state; helpers judge stages (keys, hits, locks) and carry out
//! actions, and report back through a channel.
//!
//! States:
//! ```text
//! Unknown -> Waiting -> Ready -> Cached                      known, nothing to do
//!               ^         |----> Running -> Done | Failed | Suspended
//!               |         |         |
//!               '---------'---------'   an input turned out damaged: its maker and this stage start over
//! any of Waiting, Ready -> Skipped                           something failed, or a stop was asked for
//! ```
//! Every transition passes through `Scheduler::set`. A stage is judged as soon as its inputs are known and not
//! before: keys hold contents, so an upstream stage that ran and made equal bytes leaves the rest cached.
//!
//! A miss is judged again under the lock of its key. If another run holds the lock, a helper waits for it without
//! taking a share of the machine, then looks again and normally finds the other's result. Whoever holds a lock
//! waits only for a share of the machine, never for another lock, so two runs cannot block each other.

use super::actions::Record;
use super::event::{Event, Failure, Listener, StageEnd, State, StoredOutput, What, WorkerEvent};
use super::graph::{Pipeline, Stage, StageId};
use super::key::Key;
use super::launch::{Launcher, Workers};
use super::perform::{End, Grant, Order, Shop, Start};
use super::plan::{self, Judge, Keyed, Missing, Verdict};
use super::pool::{Limits, Pool};
use super::reason::Reason;
use super::store::Store;
use crate::error::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// Stages judged at a time; each may be reading sources.
const JUDGES: usize = 8;
/// How often a lock held by another run is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);
/// How often a stop is looked for while nothing happens.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// Where signals are left for the scheduler.
#[derive(Debug, Default)]
pub struct Stop {
    signal: AtomicI32,
    count: AtomicUsize,
}

impl Stop {
    /// First call: put the work down. Second: end it now.
    pub fn ask(&self, signal: i32) {
        let _ = self.signal.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
        self.count.fetch_add(1, Ordering::SeqCst);
    }
    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
    fn signal(&self) -> Option<i32> {
        (self.count() > 0).then(|| self.signal.load(Ordering::SeqCst))
    }
}

pub struct Options {
    /// In topological order, with everything they need.
    pub selected: Vec<StageId>,
    /// Run even if cached.
    pub forced: BTreeSet<StageId>,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    pub limits: Limits,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    pub ends: Vec<StageEnd>,
    pub error: Option<Error>,
}

/// Runs the selected stages. An `Err` means that nothing was started.
pub fn run(
    pipeline: &Pipeline,
    store: &Store,
    launcher: &Launcher,
    options: Options,
    stop: &Stop,
    listener: &mut dyn Listener,
) -> Result<Outcome> {
    let pool = Pool::new(options.limits.clone());
    check(pipeline, &options, &pool)?;
    let judge = Judge::new(pipeline, store, options.forced.clone());
    let workers = Workers::default();
    let shop = Shop { judge: &judge, launcher, workers: &workers, verified: Mutex::default() };
    let (tell, told) = channel();
    let scheduler = Scheduler {
        pipeline,
        shop: &shop,
        stop,
        stops_heeded: 0,
        pool,
        keep_going: options.keep_going,
        stages: options.selected.iter().map(|&id| (id, Progress::default())).collect(),
        queue: BTreeMap::new(),
        judging: 0,
        locked: BTreeSet::new(),
        helpers: 0,
        began: Instant::now(),
        listener,
        tell,
    };
    Ok(std::thread::scope(|scope| scheduler.run(scope, &told, &options.limits)))
}

/// What can be known to fail before days of work is refused now.
fn check(pipeline: &Pipeline, options: &Options, pool: &Pool) -> Result<()> {
    let stages = || options.selected.iter().map(|id| &pipeline.stages[id.0]);
    let machine = stages().try_for_each(|stage| pool.check(&stage.name, &stage.resources));
    let missing: Vec<Missing> = stages().flat_map(plan::missing).collect();
    match plan::missing_error(&missing).filter(|_| !options.keep_going) {
        // Who is to fetch files should know that this machine would not do anyway.
        Some(error) => Err(error.maybe_hint(machine.err().map(|e| [vec![e.message], e.hints].concat().join("; ")))),
        None => machine,
    }
}

/// What is known of a selected stage.
#[derive(Default)]
struct Progress {
    state: Option<State>,
    /// Of a cached or done stage.
    record: Option<Record>,
    key: Option<Key>,
    reasons: Vec<Reason>,
    failure: Option<Failure>,
}

impl Progress {
    fn state(&self) -> State {
        self.state.unwrap_or(State::Unknown)
    }
}

/// What helpers report.
enum Message {
    Judged(StageId, Result<Judged>),
    /// Another run is at it; the helper goes on waiting.
    Locked(StageId, Key),
    Starting(StageId, Start, Grant),
    Worker(StageId, WorkerEvent),
    Ended(StageId, Grant, End),
}

enum Judged {
    Cached(Key, Box<Record>),
    Stale(Box<Order>, Vec<Reason>),
    /// A stop was asked for while waiting for a lock.
    GaveUp,
}

struct Scheduler<'a> {
    pipeline: &'a Pipeline,
    shop: &'a Shop<'a>,
    stop: &'a Stop,
    stops_heeded: usize,
    pool: Pool,
    keep_going: bool,
    stages: BTreeMap<StageId, Progress>,
    /// Stale stages, locked, waiting for a share of the machine. Upstream first.
    queue: BTreeMap<StageId, Box<Order>>,
    /// Helpers that are judging and not waiting for a lock.
    judging: usize,
    /// Stages whose helper waits for a lock.
    locked: BTreeSet<StageId>,
    helpers: usize,
    began: Instant,
    listener: &'a mut dyn Listener,
    tell: Sender<Message>,
}

impl<'a> Scheduler<'a> {
    /// The main loop. Start whatever can start; if then nothing is under way, all is settled; else wait for one
    /// message and begin again.
    fn run<'scope>(mut self, scope: &'scope Scope<'scope, '_>, told: &Receiver<Message>, limits: &Limits) -> Outcome
    where
        'a: 'scope,
    {
        self.say(What::RunStarted {
            pipeline: self.pipeline.name.clone(),
            stages: self.stages.len(),
            jobs: limits.jobs,
            threads: limits.threads,
        });
        let ids: Vec<StageId> = self.stages.keys().copied().collect();
        ids.iter().for_each(|&id| self.set(id, State::Waiting));
        loop {
            self.heed_stop();
            self.drop_what_is_pointless();
            self.judge_what_is_known(scope);
            self.start_what_fits(scope);
            let (store, stop) = (self.shop.judge.store, self.stop);
            let words = store.attend_remote(self.helpers == 0, &|| stop.count() > 0);
            words.into_iter().for_each(|text| self.say(What::Warning { text }));
            if self.helpers == 0 {
                break;
            }
            match told.recv_timeout(STOP_INTERVAL) {
                Ok(message) => self.hear(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.finish(&ids)
    }

    /// The one door for transitions.
    fn set(&mut self, id: StageId, state: State) {
        if let Some(progress) = self.stages.get_mut(&id) {
            progress.state = Some(state);
        }
        self.say(What::State { stage: self.stage(id).name.clone(), state });
        if state.is_settled() {
            let end = self.end(id);
            self.say(What::Ended(Box::new(end)));
        }
        if matches!(state, State::Failed | State::Suspended) {
            self.skip_dependents(id);
        }
    }

    fn stage(&self, id: StageId) -> &'a Stage {
        &self.pipeline.stages[id.0]
    }

    fn state(&self, id: StageId) -> State {
        self.stages.get(&id).map_or(State::Unknown, Progress::state)
    }

    fn say(&mut self, what: What) {
        self.listener.event(&Event { at: self.began.elapsed().as_secs_f64(), what });
    }

    fn in_state(&self, state: State) -> Vec<StageId> {
        self.stages.iter().filter(|(_, p)| p.state() == state).map(|(&id, _)| id).collect()
    }

    /// Nothing new is to start.
    fn is_closing(&self) -> bool {
        let failed = || self.stages.values().any(|p| p.state() == State::Failed);
        self.stops_heeded > 0 || (!self.keep_going && failed())
    }

    fn heed_stop(&mut self) {
        let asked = self.stop.count();
        if asked > self.stops_heeded {
            if asked >= 2 {
                self.shop.workers.kill();
            } else {
                self.shop.workers.stop();
            }
            self.stops_heeded = asked;
        }
    }

    /// Skips what a listener has given up.
    fn drop_what_is_pointless(&mut self) {
        for (name, why) in self.listener.pointless() {
            let found = self.stages.keys().copied().find(|id| self.stage(*id).name == name);
            let Some(id) = found else { continue };
            if self.state(id) == State::Waiting || self.queue.remove(&id).is_some() {
                self.skip(id, why);
                self.skip_dependents(id);
            }
        }
    }

    fn judge_what_is_known<'scope>(&mut self, scope: &'scope Scope<'scope, '_>)
    where
        'a: 'scope,
    {
        if self.is_closing() {
            return;
        }
        for id in self.in_state(State::Waiting) {
            if self.judging >= JUDGES {
                return;
            }
            let stage = self.stage(id);
            let known = |from| matches!(self.state(from), State::Cached | State::Done);
            if !stage.inputs.values().all(|edge| known(edge.from)) {
                continue;
            }
            let inputs = plan::inputs(stage, |from| self.stages.get(&from)?.record.as_ref());
            self.set(id, State::Ready);
            match inputs {
                Err(e) => self.fail(id, e.into()),
                Ok(inputs) => {
                    self.judging += 1;
                    self.helpers += 1;
                    let (shop, stop, tell) = (self.shop, self.stop, self.tell.clone());
                    scope.spawn(move || {
                        let judged = judge(shop, stop, id, inputs, &tell);
                        let _ = tell.send(Message::Judged(id, judged));
                    });
                }
            }
        }
    }

    fn start_what_fits<'scope>(&mut self, scope: &'scope Scope<'scope, '_>)
    where
        'a: 'scope,
    {
        if self.is_closing() {
            // Dropping the orders releases their locks.
            self.queue.clear();
            return;
        }
        for id in self.queue.keys().copied().collect::<Vec<_>>() {
            let Some(grant) = self.pool.take(&self.stage(id).resources) else { continue };
            let Some(order) = self.queue.remove(&id) else { continue };
            self.set(id, State::Running);
            self.helpers += 1;
            let (shop, tell) = (self.shop, self.tell.clone());
            scope.spawn(move || {
                let starting = |start| drop(tell.send(Message::Starting(id, start, grant.clone())));
                let mut pass_on = |event| drop(tell.send(Message::Worker(id, event)));
                let end = shop.perform(&order, &grant, &starting, &mut pass_on);
                drop(order);
                let _ = tell.send(Message::Ended(id, grant, end));
            });
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Judged(id, judged) => {
                self.helpers -= 1;
                if !self.locked.remove(&id) {
                    self.judging -= 1;
                }
                self.judged(id, judged);
            }
            Message::Locked(id, key) => {
                // It waits on its own time: others may be judged meanwhile.
                self.judging -= 1;
                self.locked.insert(id);
                let stage = self.stage(id).name.clone();
                self.say(What::Locked { stage, key: key.to_string() });
            }
            Message::Starting(id, start, grant) => self.tell_start(id, start, &grant),
            Message::Worker(id, event) => self.pass_on(id, event),
            Message::Ended(id, grant, end) => {
                self.helpers -= 1;
                self.pool.give_back(grant);
                self.ended(id, end);
            }
        }
    }

    fn judged(&mut self, id: StageId, judged: Result<Judged>) {
        match judged {
            Err(e) => self.fail(id, e.into()),
            Ok(Judged::GaveUp) => self.set(id, State::Waiting),
            Ok(Judged::Cached(key, record)) => {
                if let Some(progress) = self.stages.get_mut(&id) {
                    progress.key = Some(key);
                    progress.record = Some(*record);
                }
                self.set(id, State::Cached);
            }
            Ok(Judged::Stale(order, reasons)) => {
                for reason in reasons.iter().filter(|r| matches!(r, Reason::Damaged { .. })) {
                    let text = format!("stage `{}`: {reason}; it runs again", self.stage(id).name);
                    self.say(What::Warning { text });
                }
                if let Some(progress) = self.stages.get_mut(&id) {
                    progress.key = Some(order.keyed.action.key);
                    progress.reasons = reasons;
                }
                self.queue.insert(id, order);
            }
        }
    }

    fn ended(&mut self, id: StageId, end: End) {
        match end {
            End::Done(record) => {
                if let Some(progress) = self.stages.get_mut(&id) {
                    progress.record = Some(*record);
                }
                self.set(id, State::Done);
            }
            End::Suspended => self.set(id, State::Suspended),
            // Ended by the second Ctrl-C: its checkpoints are as good as those of a suspended one.
            End::Failed(_) if self.stops_heeded > 1 => self.set(id, State::Suspended),
            End::Failed(failure) => self.fail(id, failure),
            End::Damaged(makers) => {
                for maker in makers {
                    self.set(maker, State::Waiting);
                }
                self.set(id, State::Waiting);
            }
        }
    }

    fn fail(&mut self, id: StageId, failure: Failure) {
        if let Some(progress) = self.stages.get_mut(&id) {
            progress.failure = Some(failure);
        }
        self.set(id, State::Failed);
    }

    /// Skips what needs `id`, directly; through [`Self::set`] and the recursion here, all of it.
    fn skip_dependents(&mut self, id: StageId) {
        let needs = |other: &StageId| self.stage(*other).inputs.values().any(|edge| edge.from == id);
        let dependents: Vec<StageId> = self.in_state(State::Waiting).into_iter().filter(needs).collect();
        for dependent in dependents {
            // One that needs several of the skipped is told once.
            if self.state(dependent) != State::Waiting {
                continue;
            }
            self.skip(dependent, format!("needs `{}`", self.stage(id).name));
            self.skip_dependents(dependent);
        }
    }

    fn skip(&mut self, id: StageId, message: String) {
        if let Some(progress) = self.stages.get_mut(&id) {
            progress.failure = Some(Failure { message, ..Failure::default() });
        }
        self.set(id, State::Skipped);
    }

    fn tell_start(&mut self, id: StageId, start: Start, grant: &Grant) {
        let stage = self.stage(id);
        let progress = self.stages.get(&id);
        let reasons = progress.map_or(vec![], |p| p.reasons.iter().map(ToString::to_string).collect());
        let key = progress.and_then(|p| p.key).map(|k| k.to_string()).unwrap_or_default();
        self.say(What::Started {
            stage: stage.name.clone(),
            kind: stage.kind.name.into(),
            key,
            reasons,
            attempt: start.attempt,
            threads: grant.threads,
            device: grant.device(),
            log: start.log,
        });
    }

    fn pass_on(&mut self, id: StageId, event: WorkerEvent) {
        let stage = self.stage(id).name.clone();
        let what = match event {
            WorkerEvent::Progress { done, total } => What::Progress { stage, done, total },
            WorkerEvent::Metric { step, name, value } => What::Metric { stage, step, name, value },
            WorkerEvent::Log { text } => What::Log { stage, text },
            WorkerEvent::Checkpoint { step } => What::Checkpoint { stage, step },
            WorkerEvent::Resumed { step } => What::Resumed { stage, step },
            // Told when the stage has ended.
            _ => return,
        };
        self.say(what);
    }

    fn end(&self, id: StageId) -> StageEnd {
        let stage = self.stage(id);
        let store = self.shop.judge.store;
        let progress = self.stages.get(&id);
        let record = progress.and_then(|p| p.record.as_ref());
        let output = |(name, o): (&String, &super::actions::Output)| StoredOutput {
            name: name.clone(),
            digest: o.measured.digest.to_string(),
            bytes: o.measured.bytes,
            path: store.object(&o.measured.digest),
        };
        let state = self.state(id);
        let record = record.filter(|_| matches!(state, State::Cached | State::Done));
        StageEnd {
            stage: stage.name.clone(),
            kind: stage.kind.name.into(),
            state,
            key: progress.and_then(|p| p.key).map(|k| k.to_string()),
            seconds: record.map_or(0.0, |r| r.seconds),
            resumed: record.filter(|_| state == State::Done).and_then(|r| r.resumed),
            results: record.map_or(vec![], |r| r.results.clone()),
            outputs: record.map_or(vec![], |r| r.outputs.iter().map(output).collect()),
            shown: record.map_or(vec![], |r| r.shown_paths(store)),
            error: progress.and_then(|p| p.failure.clone()),
        }
    }

    /// Settles what never started and draws the sum.
    fn finish(mut self, ids: &[StageId]) -> Outcome {
        let signal = self.stop.signal();
        for &id in ids {
            if !self.state(id).is_settled() {
                let why = if signal.is_some() { "the run was stopped" } else { "another stage failed" };
                self.skip(id, why.into());
            }
        }
        let ends: Vec<StageEnd> = ids.iter().map(|&id| self.end(id)).collect();
        let error = sum(&ends, signal);
        let exit = error.as_ref().map_or(0, Error::exit_code);
        self.say(What::RunFinished { seconds: self.began.elapsed().as_secs_f64(), exit });
        Outcome { ends, error }
    }
}

/// The error a run ends with: a signal over a failure over a suspension.
fn sum(ends: &[StageEnd], signal: Option<i32>) -> Option<Error> {
    let in_state = |state| ends.iter().filter(move |e| e.state == state);
    if let Some(signal) = signal {
        let name = if signal == libc::SIGINT { "interrupted" } else { "terminated" };
        let error = Error::new(ErrorKind::Signal(signal), name);
        return Some(error.hint("run again to resume; finished stages are cached"));
    }
    let mut failed = in_state(State::Failed);
    if let Some(first) = failed.next() {
        let failure = first.error.clone().unwrap_or_default();
        let mut error = Error::stage(format!("stage `{}`: {}", first.stage, failure.message));
        error.causes = failure.causes;
        error.hints = failure.hints;
        if let Some(log) = failure.log {
            error.hints.push(format!("its log is `{}`", log.display()));
        }
        let others: Vec<String> = failed.map(|e| format!("`{}`", e.stage)).collect();
        return Some(if others.is_empty() { error } else { error.hint(format!("also failed: {}", others.join(", "))) });
    }
    in_state(State::Suspended).next().map(|e| {
        let mut error = Error::suspended();
        error.message = format!("stage `{}`: {}", e.stage, error.message);
        error
    })
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self { message: e.message, causes: e.causes, hints: e.hints, ..Self::default() }
    }
}

/// Judges a stage whose inputs are known. Runs in a helper thread.
fn judge(
    shop: &Shop<'_>,
    stop: &Stop,
    id: StageId,
    inputs: BTreeMap<String, super::digest::Digest>,
    tell: &Sender<Message>,
) -> Result<Judged> {
    let judge = shop.judge;
    let stage = &judge.pipeline.stages[id.0];
    if let Some(missing) = plan::missing(stage).first() {
        return Err(missing.error());
    }
    let keyed: Keyed = judge.key(stage, &inputs)?;
    let key = keyed.action.key;
    let mut told = false;
    loop {
        if let Verdict::Cached(record) = judge.verdict(id, &keyed)? {
            return Ok(Judged::Cached(key, record));
        }
        if let Some(lock) = judge.store.try_lock(&key)? {
            // Between the look and the lock another run may have finished it.
            return Ok(match judge.verdict(id, &keyed)? {
                Verdict::Run(reasons) => Judged::Stale(Box::new(Order { id, keyed, inputs, lock }), reasons),
                Verdict::Cached(record) => Judged::Cached(key, record),
                Verdict::Waiting(_) | Verdict::Missing(_) => Judged::GaveUp,
            });
        }
        if !told {
            told = true;
            let _ = tell.send(Message::Locked(id, key));
        }
        if stop.count() > 0 {
            return Ok(Judged::GaveUp);
        }
        std::thread::sleep(LOCK_INTERVAL);
    }
}
