//! The whole experiment on real digits through the built program: kills, concurrency, and what a
//! change reruns.

use crate::support::experiment::{Experiment, digests, events, in_state, is};
use crate::support::space::Said;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;

fn kill_hard(pid: i32) -> bool {
    kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
}

/// `kill -9` of the runner, of a worker, and of both, at five moments in different stages; then the
/// same artifacts as a run that nobody disturbed.
#[test]
fn a_run_killed_at_five_moments_ends_with_the_same_bytes() {
    let x = Experiment::new();
    let undisturbed = digests(&x.events("calm"));

    let moments: [(&str, &str, bool, bool); 5] = [
        ("checkpoint", "vae", false, true),
        ("started", "latents", true, false),
        ("checkpoint", "warmup", false, true),
        ("checkpoint", "train", true, true),
        ("progress", "sample", true, false),
    ];
    for (event, stage, runner, worker) in moments {
        let mut run = x.follow("stormy");
        run.until(|e| is(e, event, stage));
        let workers = if worker { run.workers() } else { vec![] };
        if runner {
            assert!(kill_hard(run.pid()), "the runner had ended before {event} of {stage}");
        }
        // One that has ended between the look and now is no kill; all of them cannot have.
        let killed = workers.iter().filter(|pid| kill_hard(**pid)).count();
        assert!(killed > 0 || !worker, "no worker was there to kill at {event} of {stage}");
        assert!(!run.end().success(), "killed at {event} of {stage}");
    }
    let events = x.events("stormy");
    assert_eq!(digests(&events), undisturbed);
    assert!(!in_state(&events, "cached").is_empty(), "finished stages must survive the kills");
    x.erw(&["cache", "verify", "--cache-dir", "stormy"]).expect(0);
}

/// Stages resume at the step of their checkpoint.
#[test]
fn a_killed_stage_resumes_from_its_checkpoint() {
    let x = Experiment::new();
    let mut run = x.follow("cache");
    run.until(|e| is(e, "checkpoint", "train") && e["step"].as_u64() >= Some(6));
    assert!(kill_hard(run.pid()));
    run.end();
    let events = x.events("cache");
    let resumed = events.iter().find(|e| is(e, "resumed", "train")).expect("train resumes");
    assert!(resumed["step"].as_u64() >= Some(6), "{resumed}");
}

/// A parameter of sampling re-runs sampling and what follows, and the plan names it with file and
/// line.
#[test]
fn a_new_guidance_scale_reruns_only_downstream_stages() {
    let x = Experiment::new();
    x.events("cache");
    let small = x.read("small.toml");
    let changed = small.replace("[stages.sample]\nparams = { ", "[stages.sample]\nparams = { cfg_scale = 3.5, ");
    x.write("small.toml", &changed);

    let plan = x.erw(&["plan", "small.toml"]).expect(0).stdout;
    let line = changed.lines().position(|l| l.contains("cfg_scale")).expect("stated") + 1;
    let reason = format!("run: params.cfg_scale 1.5 -> 3.5 (small.toml:{line})");
    let row = plan.lines().find(|l| l.starts_with("sample ")).expect("a row");
    assert!(row.contains(&reason), "{plan}");
    assert!(plan.contains("3 of 18 stages would run"), "{plan}");

    assert_eq!(in_state(&x.events("cache"), "done"), ["accuracy", "fd", "sample"]);
}

/// Times do not matter, bytes do.
#[test]
fn a_touched_image_reruns_nothing_a_changed_pixel_everything() {
    let x = Experiment::new();
    x.events("cache");

    let image = first_image(&x);
    let bytes = std::fs::read(&image).expect("read");
    std::fs::write(&image, &bytes).expect("rewrite");
    assert_eq!(in_state(&x.events("cache"), "done"), Vec::<String>::new());

    let mut pixels = image::open(&image).expect("decodes").to_luma8();
    pixels.get_pixel_mut(3, 3).0[0] ^= 0x40;
    pixels.save(&image).expect("saved");
    let done = in_state(&x.events("cache"), "done");
    assert!(done.contains(&"images".to_string()) && done.contains(&"train".to_string()), "{done:?}");
}

/// The first image of class 0 that is used for training.
fn first_image(x: &Experiment) -> PathBuf {
    let listing = std::fs::read_dir(x.path("data/digits/0")).expect("listing");
    listing.map(|e| e.expect("entry").path()).min().expect("an image")
}

/// Two runs at once: both succeed, every stage is computed once.
#[test]
fn two_runs_at_once_share_the_work() {
    let x = Experiment::new();
    let (a, b) = (x.begin("cache"), x.begin("cache"));
    let [a, b] = [a, b].map(|run| events(&Said::from(run.wait_with_output().expect("ends")).expect(0)));
    assert_eq!(digests(&a), digests(&b));
    let mut computed = [in_state(&a, "done"), in_state(&b, "done")].concat();
    computed.sort();
    let all: Vec<String> = digests(&a).into_keys().collect();
    assert_eq!(computed, all, "every stage is computed by one of them, once");
}
