//! Toy stage kinds for the engine, run by real worker processes: this test binary starts itself.

use super::space::Space;
use erw::error::{Error, Result};
use erw::runner::cache::store::Store;
use erw::runner::event::{Event, Listener};
use erw::runner::exec::launch::local::Local;
use erw::runner::exec::resources::Limits;
use erw::runner::exec::scheduler;
use erw::runner::exec::scheduler::{Options, Outcome, Settled, StopToken};
use erw::runner::exec::worker;
use erw::runner::exec::worker_program::WorkerProgram;
use erw::runner::kind::attempt::Attempt;
use erw::runner::kind::manifest::Manifest;
use erw::runner::kind::{Registry, StageKind, no_facts};
use erw::runner::pipeline::graph::{Pipeline, RetryPolicy, StageId};
use erw::runner::pipeline::layers::Overrides;
use erw::runner::pipeline::targets::select;
use erw::runner::plan::{CacheChecker, plan};
use serde::Deserialize;

/// Ten steps with a checkpoint after each. `fate`: the step after which it kills itself, -1 to
/// suspend, -2 to panic.
const COUNT: &str = r#"
summary = "count with checkpoints"
revision = 1
results = ["sum"]
[outputs]
total = "total"
[params]
steps = 10   # steps
[operation]
fate = 0     # see above
"#;

/// Each rank notes what it was given. `fate`: of rank 1, 1 to fail, 2 to panic; 3: all wait.
const SHARE: &str = r#"
summary = "note what each rank is given"
revision = 1
ranks = "pieces"
[outputs]
given = "given"
[operation]
fate = 0     # see above
"#;

/// The same for ranks that find each other by MPI.
const EXCHANGE: &str = r#"
summary = "note what each rank is given"
revision = 1
ranks = "micro-batches"
[outputs]
given = "given"
[params]
accumulate = 4
[operation]
fate = 0     # see above
"#;

pub const COUNTER: Registry = &[
    StageKind {
        name: "count",
        manifest: COUNT,
        check: |_, _, _| Ok(()),
        facts: no_facts,
        foresee: None,
        run: count_up,
    },
    StageKind { name: "share", manifest: SHARE, check: |_, _, _| Ok(()), facts: no_facts, foresee: None, run: share },
    StageKind {
        name: "exchange",
        manifest: EXCHANGE,
        check: |_, _, _| Ok(()),
        facts: no_facts,
        foresee: None,
        run: share,
    },
];

fn share(attempt: &Attempt) -> Result<()> {
    let Operation { fate } = attempt.operation()?;
    match if attempt.rank() == 1 { fate } else { 0 } {
        1 => return Err(Error::stage("there is no such thing").hint("look elsewhere")),
        2 => panic!("toy panic"),
        _ => {}
    }
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    // Long enough to be disturbed.
    for _ in 0..if fate == 3 { 3000 } else { 0 } {
        if attempt.should_stop() {
            return Err(Error::suspended());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let given = format!("gpus {}, threads {}", variable("CUDA_VISIBLE_DEVICES"), variable("RAYON_NUM_THREADS"));
    let note = |rank: usize| attempt.checkpoint_dir().join(format!("rank-{rank}"));
    let part = note(attempt.rank()).with_extension("part");
    std::fs::write(&part, given).and_then(|()| std::fs::rename(&part, note(attempt.rank()))).unwrap();
    if attempt.rank() > 0 {
        return Ok(());
    }
    while !(0..attempt.ranks()).all(|rank| note(rank).exists()) && !attempt.should_stop() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let all: Vec<String> = (0..attempt.ranks()).map(|rank| std::fs::read_to_string(note(rank)).unwrap()).collect();
    std::fs::write(attempt.output("given").join("given"), all.join("\n")).unwrap();
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    steps: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    fate: i64,
}

fn count_up(attempt: &Attempt) -> Result<()> {
    let (Params { steps }, Operation { fate }) = (attempt.params()?, attempt.operation()?);
    let state = attempt.checkpoint_dir().join("state");
    let (mut step, mut sum) = (0, 0u64);
    if let Ok(text) = std::fs::read_to_string(&state) {
        let numbers: Vec<u64> = text.split(' ').map(|n| n.parse().unwrap()).collect();
        (step, sum) = (numbers[0], numbers[1]);
        attempt.resumed(step);
    }
    while step < steps {
        step += 1;
        sum = sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step);
        std::fs::write(&state, format!("{step} {sum}")).unwrap();
        attempt.checkpointed(step);
        attempt.progress(step, steps);
        match fate {
            -1 => return Err(Error::suspended()),
            -2 => panic!("toy panic"),
            fate if fate == step as i64 => nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap(),
            _ => {}
        }
    }
    std::fs::write(attempt.output("total").join("sum"), sum.to_string()).unwrap();
    attempt.result("sum", (sum % 1000) as f64);
    attempt.show("total", "sum");
    Ok(())
}

/// The worker's end of the trick: serves the job when the engine started this process.
#[test]
fn worker_entry() {
    // The second where `mpirun` has started it.
    let is_set = |name| std::env::var_os(name).is_some();
    if is_set(erw::runner::exec::watchdog::ATTACHED) || is_set(erw::runner::exec::process_exit::ATTEMPT_VAR) {
        let job = std::env::args().next_back().unwrap();
        std::process::exit(worker::serve(job.as_ref(), COUNTER).unwrap());
    }
    let manifest = Manifest::parse(COUNTER[0].name, COUNTER[0].manifest).unwrap();
    assert!(manifest.field("steps").is_some() && manifest.field("fate").is_some());
}

struct Deaf;

impl Listener for Deaf {
    fn event(&mut self, _: &Event) {}
}

/// Runs a pipeline of toys under these limits, with settings for ranks.
pub fn run_in(space: &Space, limits: Limits, most_ranks: Option<usize>) -> Result<Outcome> {
    let pipeline = Pipeline::load(&space.path("p.toml"), COUNTER, &Overrides::default())?;
    let selected = select(&pipeline, &[])?;
    let most_ranks = selected.iter().filter_map(|id| Some((*id, most_ranks?))).collect();
    run(space, &pipeline, limits, most_ranks)
}

/// Runs the toy in a fresh space.
pub fn count(fate: i64) -> (Space, Outcome) {
    let space = Space::new("[stages.n]\nkind = \"count\"\n");
    let outcome = count_in(&space, fate);
    (space, outcome)
}

/// What a plan says of an attempt that did not end.
pub fn left(space: &Space) -> String {
    let pipeline = Pipeline::load(&space.path("p.toml"), COUNTER, &Overrides::default()).unwrap();
    let store = Store::open(&space.path("cache")).unwrap();
    let checker = CacheChecker::new(&pipeline, &store, Default::default());
    plan(&checker, &select(&pipeline, &[]).unwrap()).unwrap();
    checker.left(StageId(0)).map(|left| left.to_string()).unwrap_or_default()
}

pub fn count_in(space: &Space, fate: i64) -> Outcome {
    let overrides = Overrides { set: vec![format!("n.fate={fate}")], env: vec![] };
    let pipeline = Pipeline::load(&space.path("p.toml"), COUNTER, &overrides).unwrap();
    run(space, &pipeline, Limits::of_machine(), Default::default()).unwrap()
}

fn run(
    space: &Space,
    pipeline: &Pipeline,
    limits: Limits,
    most_ranks: std::collections::BTreeMap<StageId, usize>,
) -> Result<Outcome> {
    let store = Store::open(&space.path("cache")).unwrap();
    let program = std::env::current_exe().unwrap();
    let args = ["--exact", "support::counter::worker_entry", "--nocapture"].map(Into::into).to_vec();
    let options = Options {
        settled: Settled::default(),
        selected: select(pipeline, &[]).unwrap(),
        forced: Default::default(),
        leave_on: vec![],
        keep_going: false,
        limits,
        most_ranks,
        stage_retry: Default::default(),
        retry: RetryPolicy::default(),
    };
    let launcher = Local { worker: WorkerProgram { program, args } };
    scheduler::run(pipeline, (&store).into(), &launcher, options, &StopToken::default(), &mut Deaf)
}
