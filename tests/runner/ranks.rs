//! Ranks as the runner starts them: what each is given, who tells of a failure, which numbers are
//! possible, and that they are in no key.

use crate::support::counter::run_in;
use crate::support::skip;
use crate::support::space::Space;
use erw::ml::ranks::tree;
use erw::runner::event::StageState;
use erw::runner::exec::resources::Limits;
use erw::runner::exec::scheduler::Outcome;
use erw::runner::kind::field::Params;
use erw::runner::kind::ranks::{HAS_MPI, Sharing};

/// A machine of four threads with these GPUs.
fn machine(gpus: &[&str]) -> Limits {
    Limits { threads: 4, gpus: gpus.iter().map(ToString::to_string).collect(), ..Limits::of_machine() }
}

fn share(resources: &str, operation: &str) -> Space {
    Space::new(&format!("[stages.s]\nkind = \"share\"\nresources = {{ {resources} }}\noperation = {{ {operation} }}\n"))
}

/// What each rank was given.
fn given(space: &Space, outcome: Outcome) -> Vec<String> {
    assert!(outcome.error.is_none(), "{:?}", outcome.ends[0].error);
    let digest = outcome.records[0].1.outputs.values().next().unwrap().measured.digest.to_string();
    let store = walkdir::WalkDir::new(space.path("cache/v1")).into_iter().map(|e| e.unwrap().into_path());
    let file = store.filter(|p| p.file_name().is_some_and(|n| n == "given") && p.is_file()).last();
    let file = file.unwrap_or_else(|| panic!("{digest} is in the store"));
    std::fs::read_to_string(file).unwrap().lines().map(String::from).collect()
}

#[test]
fn every_rank_has_a_gpu_and_its_threads() {
    let space = share("threads = 2, gpus = 2", "");
    let outcome = run_in(&space, machine(&["7", "GPU-ab", "9"]), None).unwrap();
    assert_eq!(given(&space, outcome), ["gpus 7, threads 2", "gpus GPU-ab, threads 2"]);
    let space = share("gpus = 1", "");
    let outcome = run_in(&space, machine(&["7", "GPU-ab"]), Some(8)).unwrap();
    let both = ["gpus 7, threads 2", "gpus GPU-ab, threads 2"];
    assert_eq!(given(&space, outcome), both, "a setting means the GPUs that there are");
    let space = share("ranks = 3", "");
    let outcome = run_in(&space, machine(&["7"]), Some(8)).unwrap();
    assert_eq!(given(&space, outcome), ["gpus , threads 1"; 3], "what the stage states is stronger");
}

#[test]
fn without_gpus_a_stage_that_asks_for_several_runs_on_one_rank() {
    let space = share("gpus = 8", "");
    let few = run_in(&space, machine(&["7"]), None).err().unwrap();
    assert_eq!(few.message, "stage `s` requests 8 GPU(s), this run has 1");
    let outcome = run_in(&space, Limits { without_gpus: true, ..machine(&[]) }, None).unwrap();
    assert_eq!(given(&space, outcome), ["gpus , threads 4"]);
}

/// By its own words, with its own log, though the first rank is ended as well.
#[test]
fn the_rank_that_failed_is_told_of() {
    for (fate, message) in [(1, "rank 1: there is no such thing"), (2, "rank 1: the stage panicked: toy panic")] {
        let space = share("threads = 1, ranks = 3", &format!("fate = {fate}"));
        let outcome = run_in(&space, machine(&[]), None).unwrap();
        let failure = outcome.ends[0].error.as_ref().unwrap();
        assert_eq!(failure.message, message);
        let log = failure.log.as_ref().unwrap().to_str().unwrap();
        assert!(log.ends_with("attempt-1.rank-1.log"), "{log}");
        // After a panic it ends with the backtrace.
        let told = if fate == 1 { "rank 1 of 3" } else { "catch_unwind" };
        assert!(failure.tail.iter().any(|line| line.contains(told)), "{:?}", failure.tail);
        assert_eq!(failure.hints, if fate == 1 { vec!["look elsewhere".to_string()] } else { vec![] });
    }
}

/// Ranks that find each other by MPI are started by `mpirun`, and are told of like all others.
#[test]
fn mpirun_starts_ranks_that_exchange_gradients() {
    if !HAS_MPI {
        return skip("this build has no MPI");
    }
    let exchange = |operation: &str| {
        Space::new(&format!(
            "[stages.s]\nkind = \"exchange\"\nresources = {{ threads = 1, ranks = 2 }}\noperation = {{ {operation} }}\n"
        ))
    };
    let space = exchange("");
    let outcome = run_in(&space, machine(&[]), None).unwrap();
    assert_eq!(given(&space, outcome), ["gpus , threads 1"; 2]);
    let space = exchange("fate = 1");
    let outcome = run_in(&space, machine(&[]), None).unwrap();
    assert_eq!(outcome.ends[0].error.as_ref().unwrap().message, "rank 1: there is no such thing");
}

/// A plan must refuse what a training would: the rule stands in two crates that know nothing of each
/// other.
#[test]
fn a_plan_and_a_training_allow_the_same_numbers_of_ranks() {
    for batches in 1..70usize {
        let params: Params = [("accumulate".to_string(), batches.into())].into_iter().collect();
        for ranks in 1..80 {
            let planned = Sharing::MicroBatches.allows(&params, ranks);
            assert_eq!(planned, tree::can_share(batches, ranks), "{batches} micro-batches on {ranks} ranks");
        }
    }
}

/// Real kinds, whose manifests say what they share.
#[test]
fn numbers_of_ranks_that_cannot_be() {
    let bad = |name: &str, stage: &str| {
        let space = Space::new(&format!("[stages.s]\n{stage}"));
        insta::assert_snapshot!(name, space.erw(&["plan", "p.toml"]).expect(2).stderr);
    };
    let train = |resources: &str, accumulate: u64| {
        format!("kind = \"train\"\nparams = {{ accumulate = {accumulate} }}\nresources = {{ {resources} }}\n")
    };
    bad("ranks_beyond_the_micro_batches", &train("gpus = 16", 8));
    bad("ranks_and_one_micro_batch", &train("gpus = 2", 1));
    bad("ranks_with_parts_that_are_no_node", &train("ranks = 2", 12));
    bad(
        "ranks_of_a_command",
        "kind = \"command\"\nrun = \"true\"\noutputs = { o = \"text\" }\nresources = { ranks = 2 }\n",
    );
    bad("ranks_of_a_kind_that_shares_nothing", "kind = \"train-vae\"\nresources = { ranks = 2 }\n");
    bad("ranks_with_other_gpus", "kind = \"stats\"\nresources = { ranks = 2, gpus = 3 }\n");
    bad("ranks_none", "kind = \"stats\"\nresources = { ranks = 0 }\n");
    if !HAS_MPI {
        bad("ranks_without_mpi", &train("ranks = 2", 8));
    }
}

#[test]
fn ranks_are_in_no_key() {
    let space = share("ranks = 1", "");
    let outcome = run_in(&space, machine(&[]), None).unwrap();
    assert_eq!(outcome.ends[0].state, StageState::Done);
    for (resources, most) in [("ranks = 3", None), ("gpus = 2", None), ("threads = 1", Some(4))] {
        space.write("p.toml", &format!("[stages.s]\nkind = \"share\"\nresources = {{ {resources} }}\n"));
        let outcome = run_in(&space, machine(&["1", "2"]), most).unwrap();
        assert_eq!(outcome.ends[0].state, StageState::Cached, "{resources}");
    }
}
