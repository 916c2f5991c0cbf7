//! The whole experiment, on real digits, through the built program: kills, concurrency, and what a change re-runs.

use crate::support::experiment::{Experiment, digests, in_state, is};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;

/// Processes whose parent is `parent`: the workers of a runner.
fn children(parent: u32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the process is there");
}

/// `kill -9` of the runner, of a worker, and of both, at five moments in different stages; then the same
/// artifacts as a run that nobody disturbed.
#[test]
fn killed_at_five_moments_gives_the_same_bytes() {
    let x = Experiment::new();
    let undisturbed = digests(&x.events("calm", &[]));

    let moments: [(&str, &str, bool, bool); 5] = [
        ("checkpoint", "vae", true, false),
        ("started", "latents", false, true),
        ("checkpoint", "warmup", false, true),
        ("checkpoint", "train", true, true),
        ("progress", "sample", true, false),
    ];
    for (event, stage, runner, worker) in moments {
        let mut run = x.start("stormy");
        run.until(|e| is(e, event, stage));
        let workers = children(run.child.id());
        assert!(!workers.is_empty() || event != "checkpoint", "no worker runs {stage}");
        if runner {
            kill_hard(run.child.id() as i32);
        }
        if worker {
            // A worker may have ended between the event and now.
            workers.iter().for_each(|pid| drop(kill(Pid::from_raw(*pid), Signal::SIGKILL)));
        }
        let status = run.child.wait().expect("ends");
        if runner {
            assert!(!status.success());
        }
    }
    let events = x.events("stormy", &[]);
    assert_eq!(digests(&events), undisturbed);
    assert!(!in_state(&events, "cached").is_empty(), "finished stages must survive the kills");
}

/// Stages resume at the step of their checkpoint.
#[test]
fn a_killed_stage_resumes_from_its_checkpoint() {
    let x = Experiment::new();
    let mut run = x.start("cache");
    run.until(|e| is(e, "checkpoint", "train") && e["step"].as_u64() >= Some(6));
    kill_hard(run.child.id() as i32);
    run.child.wait().expect("ends");
    let events = x.events("cache", &[]);
    let resumed = events.iter().find(|e| is(e, "resumed", "train")).expect("train resumes");
    assert!(resumed["step"].as_u64() >= Some(6), "{resumed}");
}

/// A parameter of sampling re-runs sampling and what follows, and the plan names it with file and line.
#[test]
fn a_guidance_scale_reruns_only_what_follows() {
    let x = Experiment::new();
    x.events("cache", &[]);
    let small = std::fs::read_to_string(x.path("small.toml")).expect("read");
    x.write(
        "small.toml",
        &small.replacen(
            "[stages.sample]\nparams = { count = 24,",
            "[stages.sample]\nparams = { cfg_scale = 3.5, count = 24,",
            1,
        ),
    );

    let plan = x.run("cache", &["plan", "small.toml"]);
    let text = String::from_utf8_lossy(&plan.stdout).to_string();
    let line = std::fs::read_to_string(x.path("small.toml"))
        .expect("read")
        .lines()
        .position(|l| l.contains("cfg_scale"))
        .expect("there")
        + 1;
    assert!(text.contains("cfg_scale") && text.contains(&format!("small.toml:{line}")), "{text}");

    let events = x.events("cache", &[]);
    assert_eq!(in_state(&events, "done"), ["accuracy", "fd", "sample"]);
}

/// Times do not matter, bytes do.
#[test]
fn a_touched_image_reruns_nothing_and_a_changed_pixel_all() {
    let x = Experiment::new();
    x.events("cache", &[]);

    let image = first_image(&x);
    let bytes = std::fs::read(&image).expect("read");
    std::fs::write(&image, &bytes).expect("rewrite");
    assert_eq!(in_state(&x.events("cache", &[]), "done"), Vec::<String>::new());

    let mut pixels = image::open(&image).expect("decodes").to_luma8();
    pixels.get_pixel_mut(3, 3).0[0] ^= 0x40;
    pixels.save(&image).expect("saved");
    let done = in_state(&x.events("cache", &[]), "done");
    assert!(done.contains(&"images".to_string()) && done.contains(&"train".to_string()), "{done:?}");
}

/// The first image of class 0 that is used for training.
fn first_image(x: &Experiment) -> PathBuf {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(x.path("data/digits/0")).expect("listing").map(|e| e.expect("entry").path()).collect();
    files.sort();
    files.remove(1)
}

/// Two runs at once: both succeed, every stage is computed once.
#[test]
fn two_runs_at_once_share_the_work() {
    let x = Experiment::new();
    let args = ["run", "small.toml", "--json"];
    let spawn = || {
        x.erw("cache", &args)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("starts")
    };
    let (a, b) = (spawn(), spawn());
    let (a, b) = (a.wait_with_output().expect("ends"), b.wait_with_output().expect("ends"));
    assert!(a.status.success() && b.status.success());
    let events = |o: &std::process::Output| -> Vec<serde_json::Value> {
        String::from_utf8_lossy(&o.stdout).lines().map(|l| serde_json::from_str(l).expect("JSON line")).collect()
    };
    let (a, b) = (events(&a), events(&b));
    assert_eq!(digests(&a), digests(&b));
    let mut computed = in_state(&a, "done");
    computed.extend(in_state(&b, "done"));
    computed.sort();
    let mut once = computed.clone();
    once.dedup();
    assert_eq!(computed, once, "a stage was computed twice");
    assert_eq!(computed.len(), digests(&a).len(), "every stage was computed by one of them");
}
