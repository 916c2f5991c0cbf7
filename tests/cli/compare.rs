//! `erw metrics` and `erw compare`: recorded results of a pipeline and the difference between two,
//! without running anything.

use crate::support::scored::{SCORED, scored};
use crate::support::space::Space;
use crate::support::space::redact;
use serde_json::{Value, json};
use std::process::Command;

fn compare(space: &Space, more: &[&str]) -> String {
    space.erw(&[&["compare"], more].concat()).expect(0).stdout
}

/// `p.toml` has run, and so has `q.toml`, with more images.
fn two() -> Space {
    let space = scored("[sweep]\n\"pack.limit\" = [1, 2]\n");
    space.write("q.toml", "extends = \"p.toml\"\nname = \"q\"\n[stages.pack]\nparams = { limit = 3 }\n");
    space.run(&[]).expect(0);
    space.erw(&["run", "q.toml", "--plain"]).expect(0);
    space.ran();
    space
}

#[test]
fn metrics_shows_cached_stages_only() {
    let space = two();
    insta::assert_snapshot!("metrics", space.erw(&["metrics", "p.toml"]).expect(0).stdout);
    let csv = |more: &[&str]| space.erw(&[&["metrics", "p.toml", "--format", "csv"], more].concat()).expect(0).stdout;
    assert_eq!(csv(&[]), "stage,metric,value,status\npack,images,2,cached\npack,classes,2,cached\n");
    assert_eq!(csv(&["score"]), "stage,metric,value,status\nscore,,,cached\n");
    assert_eq!(
        csv(&["--set", "pack.limit=4"]),
        "stage,metric,value,status\npack,,,stale: params.limit 1 -> 4 (--set pack.limit)\nscore,,,waits for `pack`\n"
    );
    let rows: Value =
        serde_json::from_str(&space.erw(&["metrics", "p.toml", "--format", "json"]).expect(0).stdout).unwrap();
    assert_eq!(rows[0], json!({"stage": "pack", "metric": "images", "value": 2.0, "status": "cached"}));
    assert!(space.erw(&["metrics", "p.toml", "pakc"]).expect(2).stderr.contains("did you mean `pack`?"));
    std::fs::rename(space.path("img"), space.path("gone")).unwrap();
    assert!(csv(&[]).contains("pack,,,missing: `source`\n"));
    assert!(space.ran().is_empty());
}

#[test]
fn a_pipeline_without_results_says_so() {
    let space = Space::new("[stages.s]\nkind = \"command\"\nrun = \"echo > {outputs.o}\"\noutputs = { o = \"t\" }\n");
    space.run(&[]).expect(0);
    assert_eq!(space.erw(&["metrics", "p.toml"]).expect(0).stdout, "all stages are cached, and none has results\n");
    assert_eq!(space.erw(&["metrics", "p.toml", "--format", "json"]).expect(0).stdout, "[]\n");
}

/// A table without the stages that differ only in what they made of other inputs.
fn causes(csv: &str) -> String {
    csv.lines().filter(|line| !line.contains("outputs.")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn compare_shows_two_pipelines_side_by_side() {
    let space = two();
    insta::assert_snapshot!("pipelines", redact(&compare(&space, &["p.toml", "q.toml"])));
    let all = compare(&space, &["p.toml", "q.toml", "--all", "--format", "markdown"]);
    insta::assert_snapshot!("pipelines_all", redact(&all));
    assert_eq!(compare(&space, &["p.toml", "p.toml"]), "no differences\n");
    let csv = compare(&space, &["p.toml", "q.toml", "--format", "csv"]);
    assert!(csv.lines().nth(3).unwrap().starts_with("score,outputs.o,"), "equal parameters, another artifact: {csv}");
    assert_eq!(causes(&csv), "stage,what,a,b,difference,relative\npack,params.limit,1,3,,\npack,images,2,6,4,2\n");
    let rows: Value = serde_json::from_str(&compare(&space, &["q.toml", "p.toml", "--format", "json"])).unwrap();
    assert_eq!(
        rows[1],
        json!({"stage": "pack", "what": "images", "a": 6.0, "b": 2.0, "difference": -4.0, "relative": -4.0 / 6.0})
    );
    assert!(space.ran().is_empty());
}

#[test]
fn stages_that_only_one_has_are_named() {
    let space = two();
    space.write("r.toml", "extends = \"p.toml\"\n[stages.score]\nremove = true\n[stages.more]\nkind = \"command\"\nrun = \"cp -r {inputs.x} {outputs.o}\"\ninputs.x = \"pack\"\noutputs.o = \"t\"\n");
    insta::assert_snapshot!("only_one", compare(&space, &["p.toml", "r.toml"]));
}

#[test]
fn compare_takes_a_trial_of_a_sweep() {
    let space = two();
    insta::assert_snapshot!("trial", compare(&space, &["p.toml@limit=1", "p.toml@limit=2"]));
    assert_eq!(compare(&space, &["p.toml", "p.toml@limit=1"]), "no differences\n", "stages go by their own names");
    let said = space.erw(&["compare", "p.toml", "p.toml@limit=7"]).expect(2).stderr;
    assert!(said.contains("error: no trial `limit=7`\nhint: did you mean `limit="), "{said}");
    let said = space.erw(&["compare", "p.toml", "pp.toml@limit=1"]).expect(2).stderr;
    assert!(said.contains("cannot read pipeline `pp.toml`"), "{said}");
}

#[test]
fn compare_takes_a_git_revision() {
    let space = two();
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(args).current_dir(space.path(""));
        assert!(git.output().unwrap().status.success(), "{args:?}");
    };
    git(&["init", "-q"]);
    // The images are not in git: they are taken from where they are.
    git(&["add", "p.toml", "q.toml"]);
    git(&["commit", "-q", "-m", "one"]);
    space.write("p.toml", &SCORED.replace("limit = 1", "limit = 3"));
    assert_eq!(
        causes(&compare(&space, &["HEAD:p.toml", "p.toml", "--format", "csv"])),
        "stage,what,a,b,difference,relative\npack,params.limit,1,3,,\npack,images,2,6,4,2\n"
    );
    assert!(compare(&space, &["HEAD:p.toml@limit=1", "p.toml", "--format", "csv"]).contains("pack,images,2,6,4,2\n"));
    let bad = |a: &str| space.erw(&["compare", a, "p.toml"]).expect(2).stderr;
    assert!(bad("HEAD:z.toml").contains("no file `z.toml` at revision `HEAD`"));
    assert!(bad("nosuch:p.toml").contains("git knows no revision `nosuch`"));
}

#[test]
fn compare_takes_a_past_run() {
    let space = two();
    let mut runs: Vec<String> = std::fs::read_dir(space.path("cache/runs"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    runs.sort();
    let (p, q) = (format!("p.toml@run:{}", runs[0]), format!("run:{}", runs[1]));
    let expected = "stage,what,a,b,difference,relative\npack,params.limit,1,3,,\npack,images,2,6,4,2\n";
    assert_eq!(causes(&compare(&space, &[&p, &q, "--format", "csv"])), expected);
    assert_eq!(
        causes(&compare(&space, &["p.toml", &q, "--format", "csv"])),
        expected,
        "what a record cannot tell is no difference"
    );
    assert_eq!(compare(&space, &["q.toml", &q]), "no differences\n");
    let said = space.erw(&["compare", &format!("p.toml@{q}"), "p.toml"]).expect(2).stderr;
    assert!(said.contains("ran the pipeline `q`, not `scored`"), "{said}");
    let said = space.erw(&["compare", "run:none", "p.toml"]).expect(2).stderr;
    assert!(said.contains(&format!("error: no run `none`\nhint: the last run is `{}`", runs[1])), "{said}");
    let summary = space.path(&format!("cache/runs/{}/summary.json", runs[1]));
    std::fs::write(&summary, "{\"pipeline\": \"q\", \"exit\": 0, \"stages\": []}").unwrap();
    let said = space.erw(&["compare", &q, "p.toml"]).expect(2).stderr;
    assert!(
        said.contains(&format!("error: run `{}` has recorded no stages\nhint: a run that finds", runs[1])),
        "{said}"
    );
    // One that was killed tells what had ended by then.
    std::fs::remove_file(summary).unwrap();
    assert_eq!(causes(&compare(&space, &["p.toml", &q, "--format", "csv"])), expected);
}

#[test]
fn sources_that_differ_are_named() {
    let text = "name = \"n\"\n[stages.s]\nkind = \"command\"\nrun = \"echo > {outputs.o}\"\noutputs = { o = \"t\" }\nwatch = [\"one\", \"dir\"]\n";
    let space = Space::of(&[("p.toml", text), ("one", "1"), ("dir/a", "1"), ("dir/b", "1")]);
    let run = || {
        space.run(&[]).expect(0);
        let mut ids: Vec<String> = std::fs::read_dir(space.path("cache/runs"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        ids.sort();
        format!("run:{}", ids.pop().unwrap())
    };
    let first = run();
    space.write("one", "2");
    space.write("dir/b", "2");
    space.write("dir/c", "2");
    let second = run();
    let said = compare(&space, &[&first, &second, "--format", "csv"]);
    let lines: Vec<Vec<&str>> = said.lines().skip(1).map(|l| l.split(',').collect()).collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert_eq!(
        (lines[0][1], lines[1][1], lines[1][4]),
        ("files of watch.0", "files of watch.1", "b and 1 more"),
        "{said}"
    );
    assert_ne!(lines[0][2], lines[0][3]);
    // A past run against the pipeline as it is, and against itself.
    assert_eq!(compare(&space, &[&second, "p.toml"]), "no differences\n");
    assert!(compare(&space, &[&first, "p.toml"]).contains("files of watch.0"));
    assert_eq!(compare(&space, &[&first, &first]), "no differences\n");
}
