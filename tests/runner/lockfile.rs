//! Results compared with a committed lock file and with a second run.

use crate::support::space::{Space, spoil};
use crate::support::toys::TOYS;
use erw::runner::cache::action_cache::{Output, Record};
use erw::runner::cache::store::Store;
use erw::runner::event::Measure;
use erw::runner::files::digest::{Digest, Measured};
use erw::runner::pipeline::graph::{Pipeline, StageId};
use erw::runner::pipeline::layers::Overrides;
use erw::runner::repro::compare::Agreement;
use erw::runner::repro::lockfile::Lock;
use std::collections::BTreeMap;
use std::path::Path;

/// `chance` says something else each time.
const PIPELINE: &str = r#"
[stages.steady]
kind = "command"
run = "echo steady >> ran; mkdir {outputs.o}; echo {params.n} > {outputs.o}/n; echo b > {outputs.o}/b"
outputs = { o = "folder" }
params = { n = 1 }
[stages.chance]
kind = "command"
run = "echo chance >> ran; mkdir {outputs.o}; cat {inputs.x}/* > {outputs.o}/same; date +%s%N > {outputs.o}/other"
inputs = { x = "steady" }
outputs = { o = "folder" }
"#;

fn locked() -> Space {
    let space = Space::new(PIPELINE);
    let said = space.run(&["--lock"]).expect(0);
    assert!(said.stdout.ends_with("locked 2 stages in p.lock\n"), "{}", said.stdout);
    space.ran();
    space
}

#[test]
fn a_lock_file_accepts_the_run_it_was_made_from() {
    let space = locked();
    let first = space.read("p.lock");
    let said = space.run(&["--locked"]).expect(0);
    assert!(said.stdout.ends_with("2 stages match p.lock byte for byte\n"), "{}", said.stdout);
    space.run(&["--lock"]).expect(0);
    assert_eq!(space.read("p.lock"), first, "the same results give the same file");
    assert!(first.contains("[stages.steady.outputs.o.files]\nb = \""), "{first}");
    // One value a line: a merge never has to look inside one.
    assert!(first.lines().all(|l| l.matches(" = ").count() <= 1), "{first}");
    // Of one target only what it needs is compared.
    let said = space.run(&["--locked", "steady"]).expect(0);
    assert!(said.stdout.ends_with("1 stage matches p.lock byte for byte\n"), "{}", said.stdout);
    assert!(space.run(&["--lock", "steady"]).expect(2).stderr.contains("cannot be used with"));
}

#[test]
fn damage_to_an_unread_output_is_found() {
    for flag in ["--locked", "--lock"] {
        let space = locked();
        let other = space.erw(&["show", "p.toml:chance", "--json"]).expect(0).stdout;
        let other: serde_json::Value = serde_json::from_str(&other).unwrap();
        let file = Path::new(other["path"].as_str().unwrap()).join("same");
        let rotten = std::fs::read(&file).unwrap().iter().map(|b| b ^ 1).collect::<Vec<u8>>();
        spoil(&file, &rotten);
        let before = space.read("p.lock");
        let said = space.run(&[flag]).expect(4).stderr;
        assert!(
            said.contains("error: output `o` of stage `chance`: artifact `") && said.contains("` is damaged\n"),
            "{said}"
        );
        assert!(said.ends_with("hint: it was moved to quarantine; run `erw run` to make it again\n"), "{said}");
        assert_eq!(space.read("p.lock"), before);
        space.erw(&["cache", "verify"]).expect(0);
        space.ran();
        space.run(&[]).expect(0);
        assert_eq!(space.ran(), ["chance"]);
        space.run(&["steady", "--locked"]).expect(0);
    }
}

#[test]
fn another_key_is_refused_before_anything_runs() {
    let space = locked();
    let said = space.run(&["--locked", "--set", "steady.n=2"]).expect(1);
    assert_eq!(
        said.stderr,
        "error: stage `steady` differs from `p.lock`\n\
         cause: steady: params.n 1 -> 2 (--set steady.n)\n\
         hint: run `erw why p.toml steady` to see what changed\n\
         hint: if the change is intended, run `erw run p.toml --lock` to update the lock file\n"
    );
    let more = "[stages.more]\nkind = \"command\"\nrun = \"true\"\noutputs = { o = \"x\" }\n";
    space.write("p.toml", &(PIPELINE.to_string() + more));
    assert!(space.run(&["--locked"]).expect(1).stderr.contains("cause: more: it is not in the lock"));
    space.write("p.toml", PIPELINE.split("[stages.chance]").next().unwrap());
    let said = space.run(&["--locked"]).expect(1).stderr;
    assert!(said.contains("cause: chance: it is in the lock file but not in the pipeline"), "{said}");
    assert!(space.ran().is_empty());
}

#[test]
fn another_output_is_named_with_its_file() {
    let space = locked();
    let said = space.run(&["--locked", "--force", "chance"]).expect(1);
    assert!(said.stdout.ends_with("1 of 2 stages match p.lock byte for byte\n"), "{}", said.stdout);
    let text = "error: the outputs of stage `chance` differ from `p.lock`\n\
                cause: chance: output `o`: file `other` differs\n";
    assert!(said.stderr.contains(text), "{}", said.stderr);
    // What another class of machine made need not be equal; a program that gives no results cannot
    // be compared at all.
    let other = space.read("p.lock").replacen("class = \"", "class = \"other ", 1);
    space.write("p.lock", &other);
    let said = space.run(&["--locked"]).expect(0);
    let text = "1 of 2 stages match p.lock byte for byte\n  \
                chance  bytes differ (different classes of machine), and there are no results to compare\n";
    assert!(said.stdout.ends_with(text), "{}", said.stdout);
}

#[test]
fn a_missing_or_invalid_lock_file_is_an_error() {
    let space = Space::new(PIPELINE);
    let said = space.run(&["--locked"]).expect(2).stderr;
    assert!(said.contains("cannot read the lock file `p.lock`") && said.contains("--lock` to write it"), "{said}");
    space.write("p.lock", "format = 1\nprogram = \"0\"\nclass = \"c\"\n<<<<<<< HEAD\n");
    let said = space.run(&["--locked"]).expect(2).stderr;
    assert!(said.contains("`p.lock` is not a valid lock file:") && said.contains(" --> p.lock:4:9"), "{said}");
    space.write("p.lock", "format = 9\nprogram = \"0\"\nclass = \"c\"\n");
    let said = space.run(&["--locked"]).expect(2).stderr;
    assert!(said.contains("`p.lock` has format 9, this program reads 1"), "{said}");
}

/// A codec of toys (exact on one class of machine), and what two machines made of it.
#[test]
fn results_of_another_machine_class_are_compared_within_tolerance() {
    let text = "[stages.images]\nkind = \"images\"\nparams = { source = \"data\" }\n\
                [stages.codec]\nkind = \"codec\"\ninputs = { images = \"images\" }\n";
    let space = Space::new(text);
    space.write("data/x", "x");
    let mut pipeline = Pipeline::load(&space.path("p.toml"), TOYS, &Overrides::default()).unwrap();
    let at = pipeline.stages.iter().position(|s| s.name == "codec").unwrap();
    let mut manifest = (*pipeline.stages[at].manifest).clone();
    manifest.tolerance = 0.1;
    pipeline.stages[at].manifest = manifest.into();
    let store = Store::open(&space.path("cache")).unwrap();
    let record = |stage: usize, bytes: &str, class: &str, value: f64, inputs: &[(&str, Digest)]| {
        let stage = &pipeline.stages[stage];
        let inputs = inputs.iter().map(|(s, d)| (s.to_string(), *d)).collect();
        let sources = stage.sources.keys().map(|n| (n.clone(), Digest::of_bytes(b"data"))).collect();
        let output = |(name, ty): (&String, &String)| {
            let digest = Digest::of_bytes(format!("{name} {bytes}").as_bytes());
            (name.clone(), Output { ty: ty.clone(), measured: Measured { digest, bytes: 1, files: 1 } })
        };
        Record {
            key_text: erw::runner::plan::action::action(stage, &inputs, &sources).text,
            pipeline: "p".into(),
            stage: stage.name.clone(),
            kind: stage.kind.name.into(),
            outputs: stage.outputs.iter().map(output).collect(),
            results: vec![Measure { name: "psnr".into(), value: Some(value) }],
            shown: vec![],
            seconds: 1.0,
            attempts: 1,
            resumed: None,
            peak: None,
            created: "2026-01-31T12:00:00.000Z".into(),
            host: "h".into(),
            program: "0".into(),
            device: "cpu".into(),
            class: class.into(),
            given: Default::default(),
            earlier: vec![],
            stamp: None,
        }
    };
    let pair = |images: &str, bytes: &str, class: &str, value: f64| -> BTreeMap<StageId, Record> {
        let first = record(1 - at, images, class, 1.0, &[]);
        let digest = first.outputs.get("images").unwrap().measured.digest;
        let second = record(at, bytes, class, value, &[("images", digest)]);
        [(StageId(1 - at), first), (StageId(at), second)].into()
    };
    let lock = Lock::of(&store, &pipeline, &pair("x", "here", "here", 30.0)).unwrap();
    let compare = |made: BTreeMap<StageId, Record>| lock.compare(&store, &pipeline, &made).unwrap();
    assert_eq!(compare(pair("x", "here", "here", 30.0)).exact.len(), 2);
    // The same class owes every bit.
    assert_eq!(compare(pair("x", "there", "here", 30.0)).faults[0].what[0], "output `latents` differs");
    let near = compare(pair("x", "there", "there", 31.0));
    assert!(near.faults.is_empty() && near.exact == ["images"], "{near:?}");
    assert!(matches!(&near.others[0].1, Agreement::Near { tolerance: 0.1, results } if results[0].new == 31.0));
    let far = compare(pair("x", "there", "there", 40.0));
    assert_eq!(far.faults[0].what, ["result `psnr` is 40, not 30 within 0.1"]);
    // What is made of something at fault is not compared.
    let both = compare(pair("y", "there", "here", 30.0));
    assert_eq!((both.faults[0].stage.as_str(), both.dependent), ("images", vec!["codec".to_string()]));
}

/// Names and contents of records and artifacts.
fn cache(space: &Space) -> Vec<(String, Vec<u8>)> {
    let mut all = vec![];
    for bucket in ["store", "actions", "work", "logs"] {
        for entry in walkdir::WalkDir::new(space.path("cache/v1").join(bucket)).sort_by_file_name() {
            let Ok(entry) = entry else { continue };
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            all.push((entry.path().display().to_string(), bytes));
        }
    }
    all
}

#[test]
fn verify_runs_again_without_touching_the_cache() {
    let space = Space::new(PIPELINE);
    let said = space.erw(&["verify", "p.toml"]).expect(2).stderr;
    assert!(said.contains("stage `steady` is stale, so there is nothing to verify"), "{said}");
    space.run(&[]).expect(0);
    space.ran();
    let before = cache(&space);
    let said = space.erw(&["verify", "p.toml", "steady"]).expect(0);
    assert!(said.stdout.ends_with("identical, byte for byte\n"), "{}", said.stdout);
    assert_eq!(space.ran(), ["steady"]);
    let said = space.erw(&["verify", "p.toml"]).expect(1);
    assert!(said.stdout.ends_with("DIFFERS: output `o`: file `other` differs\n"), "{}", said.stdout);
    assert!(
        said.stderr.contains("error: the new outputs of stage `chance` differ from the cached ones"),
        "{}",
        said.stderr
    );
    assert_eq!(space.ran(), ["steady", "chance"]);
    assert!(cache(&space) == before, "the cache is as it was");
    assert_eq!(std::fs::read_dir(space.path("cache/v1/verify")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(space.path("cache/runs")).unwrap().count(), 1, "a second run is no run");
}

#[test]
fn a_program_that_fails_when_run_again_is_a_difference() {
    let space = Space::new(&PIPELINE.replace(
        "mkdir {outputs.o}; echo {params.n}",
        "test ! -e stop || { echo alas; exit 3; }; mkdir {outputs.o}; echo {params.n}",
    ));
    space.run(&[]).expect(0);
    space.write("stop", "");
    let said = space.erw(&["verify", "p.toml", "steady"]).expect(1);
    assert!(said.stdout.contains("DIFFERS: it failed when rerun: "), "{}", said.stdout);
    assert!(said.stderr.contains("end of the log of `steady`:\n  | alas\n"), "{}", said.stderr);
}
