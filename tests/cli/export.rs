//! `erw export`: complete copies of artifacts, which replace a folder only on request and run
//! nothing.

use crate::support::deadline::Deadline;
use crate::support::disk::Frozen;
use crate::support::experiment::Experiment;
use crate::support::python;
use crate::support::space::{Said, Space, file_names, spoil};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const TWO: &str = r#"
name = "two"
[stages.first]
kind = "command"
run = "mkdir -p {outputs.o}/sub; echo 1 > {outputs.o}/a; echo 2 > {outputs.o}/sub/b"
outputs = { o = "folder" }
[stages.second]
kind = "command"
run = "cp {inputs.x}/a {outputs.copy}; echo 3 > {outputs.text}"
inputs = { x = "first" }
outputs = { copy = "text", text = "text" }
"#;

fn two() -> Space {
    let space = Space::new(TWO);
    space.run(&[]).expect(0);
    space
}

fn export(space: &Space, args: &[&str]) -> Said {
    space.erw(&[&["export", "p.toml"], args].concat())
}

#[test]
fn an_artifact_becomes_a_folder() {
    let space = two();
    assert_eq!(export(&space, &["first", "out/here"]).expect(0).stdout, "out/here: 2 files, 4 B\n");
    assert_eq!((space.read("out/here/a"), space.read("out/here/sub/b")), ("1\n".into(), "2\n".into()));
    // Theirs to change.
    std::fs::write(space.path("out/here/a"), "changed").unwrap();
    space.erw(&["cache", "verify"]).expect(0);
    export(&space, &["second", "both"]).expect(0);
    assert_eq!((space.read("both/copy"), space.read("both/text")), ("1\n".into(), "3\n".into()));
    export(&space, &["second.text", "one"]).expect(0);
    assert_eq!(space.path("one").read_dir().unwrap().count(), 1);
    assert_eq!(space.read("one/text"), "3\n");
}

#[test]
fn the_command_of_a_hint_can_be_pasted() {
    let space = Space::of(&[("-p q.toml", TWO)]);
    let said = space.erw(&["export", "./-p q.toml", "first", "out"]).expect(2).stderr;
    assert!(said.ends_with("hint: run `erw run './-p q.toml' first` first\n"), "{said}");
}

#[test]
fn an_existing_folder_is_replaced_only_with_force() {
    let space = two();
    space.write("out/mine", "precious");
    let said = export(&space, &["first", "out"]).expect(2);
    assert_eq!(
        said.stderr,
        "error: `out` already exists\nhint: choose another folder, or pass `--force` to replace it\n"
    );
    assert_eq!(space.read("out/mine"), "precious");
    export(&space, &["first", "out", "--force"]).expect(0);
    assert!(!space.path("out/mine").exists() && space.read("out/a") == "1\n");
    std::fs::create_dir(space.path("empty")).unwrap();
    export(&space, &["first", "empty"]).expect(0);
    let left =
        space.path(".").read_dir().unwrap().flatten().filter(|e| e.file_name().to_string_lossy().starts_with(".tmp"));
    assert_eq!(left.count(), 0);
}

/// `--force` is about folders: a file in the way is somebody's.
#[test]
fn a_file_is_never_replaced() {
    let space = two();
    space.write("mine.json", "precious");
    std::os::unix::fs::symlink("mine.json", space.path("link")).unwrap();
    for (args, to) in
        [(&["-f"][..], "mine.json"), (&["--link", "-f"], "mine.json"), (&[], "mine.json"), (&["-f"], "link")]
    {
        let said = export(&space, &[&["first", to], args].concat()).expect(2).stderr;
        assert_eq!(
            said,
            format!("error: `{to}` is not a folder\nhint: choose another folder; it is created if it does not exist\n")
        );
        assert_eq!(space.read("mine.json"), "precious");
    }
}

#[test]
fn the_cache_and_the_current_folder_are_never_replaced() {
    let space = two();
    let here = space.path("");
    let cases = [
        ("cache/v1/store", "it is inside the cache folder"),
        ("cache/new", "it is inside the cache folder"),
        ("cache", "it is inside the cache folder"),
        (here.to_str().unwrap(), "it contains the cache folder"),
        ("new/../..", "it contains the cache folder"),
    ];
    for (to, why) in cases {
        let said = export(&space, &["first", to, "--force"]).expect(2).stderr;
        assert!(said.starts_with("error: cannot export to `") && said.contains(&format!("\ncause: {why}\n")), "{said}");
    }
    std::fs::rename(space.path("cache"), space.path("elsewhere")).unwrap();
    std::fs::create_dir(space.path("work")).unwrap();
    space.write("work/p.toml", TWO);
    let mut command =
        space.command(&["export", "p.toml", "first", "../work", "--force", "--cache-dir", "../elsewhere"]);
    let said = Said::from(command.current_dir(space.path("work")).finish()).expect(2).stderr;
    assert!(said.contains("\ncause: it is or contains the current folder\n"), "{said}");
    let said =
        space.erw(&["export", "work/p.toml", "first", "work", "--force", "--cache-dir", "elsewhere"]).expect(2).stderr;
    assert!(said.contains("\ncause: it contains the pipeline\n"), "{said}");
    assert_eq!(space.read("work/p.toml"), TWO);
}

#[test]
fn links_take_no_space_and_are_read_only() {
    let space = two();
    let said = export(&space, &["first", "out", "--link"]).expect(0);
    assert_eq!(said.stdout, "out: 2 files, 4 B, as read-only links into the cache: copy a file before changing it\n");
    let metadata = space.path("out/a").metadata().unwrap();
    assert!(metadata.nlink() == 2 && metadata.permissions().readonly());
}

#[test]
fn export_runs_nothing_and_refuses_damaged_artifacts() {
    let space = two();
    let said = space.erw(&["export", "p.toml", "second", "out", "--set", "first.inputs={}"]);
    assert_ne!(said.status, 0);
    space.write("p.toml", &TWO.replace("echo 3", "echo 4"));
    let said = export(&space, &["second", "out"]).expect(2);
    assert!(said.stderr.starts_with("error: stage `second` is not up to date\ncause: "), "{}", said.stderr);
    assert!(said.stderr.ends_with("hint: run `erw run p.toml second` first\n"), "{}", said.stderr);
    space.write("p.toml", &TWO.replace("echo 1", "echo 5"));
    let said = export(&space, &["second", "out"]).expect(2);
    assert!(said.stderr.contains("\ncause: `first` must run first\n"), "{}", said.stderr);
    space.write("p.toml", TWO);
    let said = export(&space, &["first.p", "out"]).expect(2);
    assert_eq!(said.stderr, "error: stage `first` has no output `p`\nhint: did you mean `o`?\n");
    let said = export(&space, &["frist", "out"]).expect(2);
    assert_eq!(said.stderr, "error: no stage `frist` in `p.toml`\nhint: did you mean `first`?\n");
    let folder = space.bucket("store").into_iter().find(|p| p.is_dir()).unwrap();
    spoil(&folder.join("a"), b"x\n");
    let said = export(&space, &["first", "out"]).expect(4);
    assert!(said.stderr.contains(" is damaged\n") && !space.path("out").exists(), "{}", said.stderr);
}

/// Turns the first stored file over, which keeps its size.
fn rot(space: &Space, stage: &str, file: &str) {
    let shown = space.erw(&["show", stage, "--json"]).expect(0).stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let path = std::path::Path::new(shown["path"].as_str().unwrap()).join(file);
    let path = if file.is_empty() { shown["path"].as_str().unwrap().into() } else { path };
    let rotten: Vec<u8> = std::fs::read(&path).unwrap().iter().map(|b| b ^ 1).collect();
    spoil(&path, &rotten);
}

/// Whoever finds damage sets it aside, so that the next run mends it.
#[test]
fn damage_found_by_export_is_repaired_by_the_next_run() {
    let other = two();
    let remote = format!("file://{}", other.path("remote").display());
    for args in [
        &["export", "p.toml", "first", "out"][..],
        &["export", "p.toml", "first", "out", "--link"],
        &["verify", "p.toml", "first"],
        &["verify", "p.toml", "second"],
        &["run", "p.toml", "--lock"],
        &["cache", "push", "--remote", &remote],
        &["cache", "push", "p.toml:first", "--again", "--remote", &remote],
        &["cache", "verify"],
    ] {
        let space = two();
        rot(&space, "p.toml:first", "a");
        let said = space.erw(args);
        assert!([1, 4].contains(&said.status), "{args:?}: {} {}", said.status, said.stderr);
        assert!(
            said.stderr.contains("damaged") || said.stderr.contains("not what was written"),
            "{args:?}: {}",
            said.stderr
        );
        assert!(said.stderr.contains("`erw run`"), "{args:?}: {}", said.stderr);
        assert!(!space.path("out").exists());
        assert!(space.plan(&[]).contains("no longer in the store"), "{args:?}");
        space.run(&[]).expect(0);
        export(&space, &["first", "out"]).expect(0);
        assert_eq!(space.read("out/a"), "1\n", "{args:?}");
        space.erw(&["cache", "verify"]).expect(0);
    }
}

#[test]
fn damage_in_a_read_only_cache_is_reported() {
    let space = two();
    rot(&space, "p.toml:second.text", "");
    let Some(frozen) = Frozen::new(space.path("cache/v1")) else { return };
    std::fs::rename(space.path("cache/v1/lock"), space.path("lock")).unwrap_err();
    let said = export(&space, &["second.text", "out"]);
    drop(frozen);
    assert_eq!(said.status, 4, "{}", said.stderr);
    assert!(said.stderr.contains("` is damaged"), "{}", said.stderr);
}

/// A pipeline in a folder of its own, whose first sampling stage draws like this.
fn sampled(sampler: &str) -> String {
    format!(
        r#"
extends = "../small.toml"
name = "sampled"

[stages.train]
params = {{ steps = 60, lr = 1e-2, ema_decay = 0.9, snapshots = [20] }}

[stages.sample]
inputs = {{ sit = "train", vae = "vae", guide = "train" }}
params = {{ count = 6, cfg_scale = 2.0, guide_weights = "ema@20", {sampler} }}
"#
    )
}

/// Sampler, tolerances, shift and guiding network: what is not carried over is drawn differently
/// without a word.
#[test]
fn a_call_without_settings_draws_as_the_stage_does() {
    let space = Experiment::new();
    let python = python::python();
    let cases = [
        (
            "sampler = \"ode-dopri5\", atol = 1e-4, rtol = 1e-2, guidance_low = 0.0, guidance_high = 1.0",
            json!({"sampler": "ode-dopri5", "steps": 4, "atol": 1e-4, "rtol": 1e-2, "cfg_scale": 2.0,
                "guidance_low": 0.0, "guidance_high": 1.0}),
            "ode-dopri5, atol 0.0001, rtol 0.01, guidance 2 by `ema@20` of `train` in t 0 to 1",
        ),
        (
            "sampler = \"ode-euler\", steps = 5, time_shift = 3.0",
            json!({"sampler": "ode-euler", "steps": 5, "time_shift": 3.0, "cfg_scale": 2.0, "guidance_low": 0.1,
                "guidance_high": 0.9}),
            "ode-euler, 5 steps, shift 3, guidance 2 by `ema@20` of `train` in t 0.1 to 0.9",
        ),
    ];
    for (sampler, defaults, told) in cases {
        space.write("runs/p.toml", &sampled(sampler));
        space.erw(&["run", "runs/p.toml", "sample", "--plain"]).expect(0);
        let said = space.erw(&["export", "runs/p.toml", "train", "out", "-f", "--as", "diffusers"]).expect(0).stdout;
        let guided = "out: weights `ema` of `train`, guided by `ema@20` of `train`, with the autoencoder of `vae`, for \
                      diffusers\n";
        assert_eq!(said, guided);
        let all = ["README.md", "erw_pipeline.py", "guide", "model_index.json", "pipeline", "transformer", "vae"];
        assert_eq!(file_names(&space.path("out")), all);
        // The pipeline's files as they lie, though one is above another.
        assert_eq!(file_names(&space.path("out/pipeline")), ["digits.toml", "runs", "small.toml"]);
        assert_eq!(file_names(&space.path("out/pipeline/runs")), ["p.lock", "p.toml"]);
        assert_eq!(file_names(&space.path("out/guide")), file_names(&space.path("out/transformer")));
        let index: Value = serde_json::from_str(&space.read("out/model_index.json")).unwrap();
        assert_eq!((&index["sampling"], &index["guide"]), (&defaults, &json!(["erw_sit", "SiT"])));
        let card = space.read("out/README.md");
        assert!(card.contains(&format!("unless they say otherwise: {told}. Guidance leads away from")), "{card}");

        let Some(python) = &python else { continue };
        space.erw(&["export", "runs/p.toml", "sample", "drawn", "-f"]).expect(0);
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/check_diffusers.py");
        let said = python::run(&space, python, &program, &["out", "-", "drawn"]).expect(0).stdout;
        let said: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        for how in ["by_default", "pictures"] {
            assert!(said[how]["drawn"].as_u64().unwrap() <= 1, "{how}: {said}");
        }
        assert!(said["spread"].as_f64().unwrap() > 10.0 && said["half"] == true, "{said}");
        assert_eq!(said["defaults"][4], "time_shift is a setting of ode-euler and ode-heun, not of sde");
    }
}
