//! `erw plan` and `erw why`: why a stage runs, what it will cost, and what a change since a git
//! revision makes stale.

use crate::support::deadline::Deadline;
use crate::support::space::{Space, redact};
use serde_json::Value;
use std::process::Command;

/// src -> a -> b -> c; `c` makes a folder.
const CHAIN: &str = r#"
name = "chain"
[stages.a]
kind = "command"
run = "tr a-z A-Z < src/x > {outputs.o}; cat src/* | wc -l >> {outputs.o}"
outputs = { o = "text" }
watch = ["src"]
[stages.b]
kind = "command"
run = "echo working; tail -n 1 {inputs.x} > {outputs.o}"
inputs = { x = "a" }
outputs = { o = "text" }
[stages.c]
kind = "command"
run = "mkdir {outputs.o}; (cat {inputs.x}; echo {params.n}) > {outputs.o}/main"
inputs = { x = "b" }
outputs = { o = "folder" }
params = { n = 1 }
"#;

fn chain() -> Space {
    let space = Space::new(CHAIN);
    space.write("src/x", "one\ntwo\n");
    space.write("src/y", "y\n");
    space
}

fn why(space: &Space, stage: &str) -> String {
    redact(&space.erw(&["why", "p.toml", stage]).expect(0).stdout)
}

#[test]
fn why_names_parameters_files_and_upstream_stages() {
    let space = chain();
    assert_eq!(why(&space, "a"), "a would run\n  never ran\n");
    space.run(&[]).expect(0);
    space.write("src/y", "y\nz\n");
    space.write("src/new", "");
    space.write("p.toml", &CHAIN.replace("n = 1", "n = 2"));
    insta::assert_snapshot!("why_stale", why(&space, "a"));
    insta::assert_snapshot!("why_waits", why(&space, "c"));
    space.run(&[]).expect(0);
    insta::assert_snapshot!("why_cached", why(&space, "b"));
    let json = space.erw(&["why", "p.toml", "b", "--json"]).expect(0).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    let cause = &json["changes"][0]["upstream"];
    assert_eq!((&json["verdict"], &cause["stage"]), (&"cached".into(), &"a".into()));
    assert_eq!(cause["changes"][0]["files"][0]["path"], "new");
    let said = space.erw(&["why", "p.toml", "bb"]).expect(2).stderr;
    assert!(said.contains("no stage `bb` in `p.toml`"), "{said}");
}

#[test]
fn what_was_added_or_removed_has_not_changed() {
    let space = chain();
    space.run(&[]).expect(0);
    space.write("more", "");
    let told = |changed: &str, stage: &str, line: &str| {
        space.write("p.toml", changed);
        let said = why(&space, stage);
        assert!(said.lines().any(|l| l.trim() == line), "{line}: {said}");
    };
    let watching = |names: &str| CHAIN.replace("watch = [\"src\"]", &format!("watch = [{names}]"));
    told(&watching("\"src\", \"more\""), "a", "source `watch.1` added");
    told(&watching(""), "a", "source `watch.0` removed");
    let more = CHAIN.replace("{ x = \"b\" }", "{ x = \"b\", y = \"a\" }");
    told(&more, "c", "input `y` added");
    told(&CHAIN.replace("inputs = { x = \"b\" }\n", "").replace("cat {inputs.x}; ", ""), "c", "input `x` removed");
    // A stage that waits does not know its inputs yet, but has them.
    let waiting = more.replace("tr a-z", "tr b-z").replace("n = 1", "n = 2");
    space.write("p.toml", &waiting);
    let said = why(&space, "c");
    assert!(said.contains("params.n 1 -> 2") && !said.contains("input `"), "{said}");
}

#[test]
fn why_reports_a_lost_output_and_a_changed_connection() {
    let space = chain();
    space.run(&[]).expect(0);
    let c = space.erw(&["show", "p.toml:c", "--json"]).expect(0).stdout;
    let c: Value = serde_json::from_str(&c).unwrap();
    std::fs::remove_dir_all(c["path"].as_str().unwrap()).unwrap();
    assert_eq!(why(&space, "c"), "c would run\n  output `o` is no longer in the store\n");
    space.run(&[]).expect(0);
    // The other stage is cached, so the input is known to be another.
    let said = space.erw(&["why", "p.toml", "c", "--set", "c.inputs.x=a"]).expect(0).stdout;
    assert!(said.contains("input `x` changed\n    from `a`: "), "{said}");
}

#[test]
fn a_plan_shows_durations_and_whether_there_is_work() {
    let space = chain();
    let said = space.erw(&["plan", "p.toml", "--exit-code"]).expect(5);
    assert_eq!(said.stderr, "");
    assert!(said.stdout.ends_with("3 of 3 stages would run\n"), "nothing is known of costs: {}", said.stdout);
    space.run(&[]).expect(0);
    let said = space.erw(&["plan", "p.toml", "--exit-code"]).expect(0);
    assert!(said.stdout.ends_with("all 3 stages are cached\n"), "{}", said.stdout);
    let new = "\n[stages.d]\nkind = \"command\"\nrun = \"echo d > {outputs.o}\"\noutputs = { o = \"text\" }\n";
    // Other parameters: nobody knows what they cost.
    space.write("p.toml", &CHAIN.replace("n = 1", "n = 2"));
    let plan = space.plan(&[]);
    assert!(plan.ends_with("1 of 3 stages would run\n") && !plan.contains('~'), "{plan}");
    space.write("p.toml", &(CHAIN.to_string() + new));
    space.write("src/y", "y\nz\n");
    let plan = redact(&space.plan(&[]).replace(" ~", " ~ "));
    let line = |stage: &str| plan.lines().find(|l| l.starts_with(stage)).unwrap().to_string();
    assert!(line("a").ends_with("~ 0.0 s    run: source `watch.0` changed (y)"), "{plan}");
    assert!(line("c").ends_with("~ 0.0 s    waits: stale because `b` will run"), "{plan}");
    assert!(line("d").ends_with("unknown   run: never ran"), "{plan}");
    let sum = "4 of 4 stages would run; estimated time at least 0.0 s, unknown for 1 stage";
    assert_eq!(plan.lines().last(), Some(sum));
    let json = space.erw(&["plan", "p.toml", "--format", "json"]).expect(0).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["stale"], &json["unknown_cost"]), (&4.into(), &1.into()));
    assert!(json["past_seconds"].as_f64().unwrap() > 0.0);
    let markdown = space.erw(&["plan", "p.toml", "--format", "markdown"]).expect(0).stdout;
    assert!(markdown.starts_with("### Plan of `chain`\n\n| stage | kind | verdict | estimate |\n|---|"), "{markdown}");
    assert!(markdown.contains("| `d` | command | run: never ran | unknown |\n"), "{markdown}");
}

#[test]
fn a_missing_source_fails_plan_as_it_fails_run() {
    let space = Space::new("[stages.images]\nkind = \"images\"\nparams = { source = \"none\" }\n");
    space.run(&[]).expect(2);
    space.erw(&["plan", "p.toml", "--exit-code"]).expect(2);
    space.erw(&["plan", "p.toml"]).expect(0);
}

/// A program that keeps something, one that keeps nothing, and a program that was never begun.
#[test]
fn a_plan_says_whether_a_failed_stage_resumes() {
    let text = "[stages]\n\
        keeps = { kind = \"command\", run = \"echo x > {checkpoints}/state; exit 1\", outputs = { o = \"t\" } }\n\
        loses = { kind = \"command\", run = \"exit 1\", outputs = { o = \"t\" } }\n\
        waits = { kind = \"command\", run = \"cp {inputs.x} {outputs.o}\", inputs = { x = \"keeps\" }, outputs = { o = \"t\" } }\n";
    let space = Space::new(text);
    assert!(!space.plan(&[]).contains("again"));
    space.run(&["--keep-going"]).expect(1);
    let plan = space.plan(&[]);
    let below = |stage: &str| plan.lines().skip_while(|l| !l.starts_with(stage)).nth(1).unwrap_or_default().trim();
    assert_eq!(below("keeps"), "resumes from its checkpoints", "{plan}");
    assert_eq!(below("loses"), "starts over: no checkpoint yet", "{plan}");
    let said = why(&space, "loses");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[1].starts_with("  failed in run "), "it did run: {said}");
    assert_eq!([lines[0], lines[2]], ["loses would run", "  starts over: no checkpoint yet"], "{said}");
    let metrics = space.erw(&["metrics", "p.toml"]).expect(0).stdout;
    let line = metrics.lines().find(|line| line.starts_with(" loses")).unwrap_or_default();
    assert!(line.contains("failed in run ") && !metrics.contains("never ran"), "{metrics}");
    let json = space.erw(&["plan", "p.toml", "--format", "json"]).expect(0).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["stages"][0]["left"]["unnoted"], &json["stages"][2]["left"]), (&true.into(), &Value::Null));
}

fn git(space: &Space, args: &[&str]) {
    let who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
    let out = Command::new("git").arg("-C").arg(space.path("")).args(who).args(args).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn plan_since_follows_a_change_through_the_graph() {
    let base = CHAIN.replace("name = \"chain\"", "");
    let space = Space::of(&[("base.toml", &base), ("p.toml", "extends = \"base.toml\"\n")]);
    space.write("src/x", "one\n");
    space.write("src/untracked", "1");
    git(&space, &["init", "-q"]);
    git(&space, &["add", "base.toml", "p.toml", "src/x"]);
    git(&space, &["commit", "-q", "-m", "one"]);
    let since = |more: &[&str]| {
        let said = space.erw(&[&["plan", "p.toml", "--since", "HEAD"], more].concat());
        (said.status, redact(&said.stdout))
    };
    // Files that git does not know count as unchanged, whatever they hold; the cache is empty all
    // the while.
    space.write("src/untracked", "2");
    let (status, said) = since(&["--exit-code"]);
    assert_eq!(status, 0, "{said}");
    assert!(said.ends_with("nothing is stale since HEAD (#)\n"), "{said}");

    space.write("base.toml", &base.replace("n = 1", "n = 2"));
    let (status, said) = since(&["--exit-code"]);
    assert_eq!(status, 5, "{said}");
    assert!(said.contains("stale: params.n 1 -> 2 (base.toml:18)"), "{said}");
    assert!(said.ends_with("1 of 3 stages is stale since HEAD (#)\n"), "{said}");

    // `c` is called otherwise and a new stage stands beside it; one file of the source changes, and
    // all below it.
    let renamed = base
        .replace("stages.c]", "stages.cc]")
        .replace("n = 1", "n = 1 }\n[stages.d]\nkind = \"command\"\nrun = \"true\"\noutputs = { o = \"x\"");
    space.write("base.toml", &renamed);
    let (_, said) = since(&[]);
    assert!(said.ends_with("1 of 4 stages is stale since HEAD (#)\n"), "{said}");
    assert!(said.lines().any(|l| l.starts_with("d ") && l.ends_with("new stage")), "{said}");
    assert!(said.lines().any(|l| l.starts_with("cc") && l.ends_with("unchanged")), "{said}");
    space.write("base.toml", &base);
    space.write("src/x", "two\n");
    let (_, said) = since(&[]);
    assert!(said.contains("stale: source `watch.0` changed (x)"), "{said}");
    assert!(said.contains("stale: upstream `a`") && said.contains("stale: upstream `b`"), "{said}");
    let said = space.erw(&["plan", "p.toml", "--since", "nothing"]).expect(2).stderr;
    assert!(said.contains("git knows no revision `nothing`"), "{said}");
}

/// A repository in `sub`, a stage that reads it, and one that reads what git does not know.
fn with_submodule() -> Space {
    let stage = |name: &str, watch: &str| {
        format!(
            "[stages.{name}]\nkind = \"command\"\nrun = \"true\"\noutputs = {{ o = \"t\" }}\nwatch = [\"{watch}\"]\n"
        )
    };
    let text = [stage("whole", "../sub"), stage("part", "../sub/deep"), stage("other", "../data")].concat();
    let space = Space::of(&[("pipes/p.toml", &text), ("data", "1"), (".gitignore", "data"), ("origin/deep/x", "1")]);
    let inner = |args: &[&str]| git(&space, &[&["-C", "origin"], args].concat());
    inner(&["init", "-q"]);
    inner(&["add", "."]);
    inner(&["commit", "-q", "-m", "inner"]);
    git(&space, &["init", "-q"]);
    git(&space, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "./origin", "sub"]);
    git(&space, &["add", "pipes", ".gitignore"]);
    git(&space, &["commit", "-q", "-m", "one"]);
    space
}

/// Verdicts by stage, and the notes below them.
fn since(space: &Space, file: &str, revision: &str) -> (Vec<String>, String) {
    let said = space.erw(&["plan", file, "--since", revision, "--format", "json"]).expect(0).stdout;
    let said: Value = serde_json::from_str(&said).unwrap();
    let line = |l: &Value| format!("{} {}", l["stage"].as_str().unwrap(), l["verdict"].as_str().unwrap());
    let text = space.erw(&["plan", file, "--since", revision]).expect(0).stdout;
    (said["stages"].as_array().unwrap().iter().map(line).collect(), text)
}

#[test]
fn the_cache_is_ignored_by_git() {
    let space = chain();
    git(&space, &["init", "-q"]);
    space.run(&[]).expect(0);
    let out = Command::new("git").arg("-C").arg(space.path("")).args(["status", "--porcelain"]).output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "?? p.toml\n?? src/\n");
    // A folder that was there may hold other things.
    space.write("mine/x", "");
    space.run(&["--cache-dir", "mine"]).expect(0);
    assert!(space.path("mine/CACHEDIR.TAG").exists() && !space.path("mine/.gitignore").exists());
}

#[test]
fn a_submodule_counts_by_its_commit_and_its_changes() {
    let space = with_submodule();
    let stale = ["other unchanged", "part stale", "whole stale"];
    let sorted = |revision: &str| {
        let mut lines = since(&space, "pipes/p.toml", revision).0;
        lines.sort();
        lines
    };
    assert_eq!(sorted("HEAD"), ["other unchanged", "part unchanged", "whole unchanged"]);
    space.write("sub/deep/x", "2");
    assert_eq!(sorted("HEAD"), stale, "changed and not committed");
    git(&space, &["-C", "sub", "commit", "-q", "-a", "-m", "two"]);
    assert_eq!(sorted("HEAD"), stale, "committed there and not here");
    git(&space, &["commit", "-q", "-a", "-m", "two"]);
    assert_eq!(sorted("HEAD~1"), stale);
    assert_eq!(sorted("HEAD"), ["other unchanged", "part unchanged", "whole unchanged"]);
    // A fresh checkout has neither the submodule's files nor what git does not know.
    git(&space, &["worktree", "add", "-q", "fresh", "HEAD"]);
    let mut fresh = since(&space, "fresh/pipes/p.toml", "HEAD").0;
    fresh.sort();
    assert_eq!(fresh, ["other unchanged", "part unchanged", "whole unchanged"]);
}

#[test]
fn plan_since_follows_a_renamed_pipeline() {
    let space = with_submodule();
    git(&space, &["mv", "pipes/p.toml", "pipes/q.toml"]);
    let (lines, text) = since(&space, "pipes/q.toml", "HEAD");
    assert!(lines.iter().all(|l| l.ends_with(" unchanged")), "{lines:?}");
    assert!(text.contains("\nthe file was called `pipes/p.toml`\n"), "{text}");
    space.write("pipes/new.toml", &space.read("pipes/q.toml"));
    let (lines, text) = since(&space, "pipes/new.toml", "HEAD");
    assert!(lines.iter().all(|l| l.ends_with(" new")), "{lines:?}");
    assert!(text.contains("\n`pipes/new.toml` did not exist\n"), "{text}");
}

/// Two stages a layer, each of which needs both of the layer before: paths double with every layer.
fn lattice(layers: usize, first: &str) -> String {
    let stage = |name: &str, layer: usize| {
        let (run, inputs) = match layer {
            0 => (format!("echo {first} {name} > {{outputs.o}}"), String::new()),
            n => (
                format!("cat {{inputs.x}} {{inputs.y}} | cksum > {{outputs.o}}; echo {name} >> {{outputs.o}}"),
                format!("inputs = {{ x = \"a{}\", y = \"b{}\" }}\n", n - 1, n - 1),
            ),
        };
        format!("[stages.{name}{layer}]\nkind = \"command\"\nrun = \"{run}\"\n{inputs}outputs = {{ o = \"t\" }}\n")
    };
    (0..layers).map(|layer| stage("a", layer) + &stage("b", layer)).collect()
}

#[test]
fn why_reports_each_change_once() {
    let space = Space::new(&lattice(40, "one"));
    space.run(&[]).expect(0);
    space.write("p.toml", &lattice(40, "two"));
    space.run(&[]).expect(0);
    let said = why(&space, "a39");
    assert!(said.lines().count() < 300, "{}", said.lines().count());
    assert!(said.contains("  as above\n"), "{said}");
    assert!(said.contains("run `erw why` on that stage to go further"), "{said}");
    let json = space.erw(&["why", "p.toml", "a39", "--json"]).expect(0).stdout;
    serde_json::from_str::<Value>(&json).unwrap();
    // Less deep, down to what was changed.
    let said = why(&space, "a10");
    assert!(said.contains("echo one a > {outputs.o}") && !said.contains("and so on"), "{said}");
    let shown = redact(&space.erw(&["show", "p.toml:a39"]).expect(0).stdout);
    assert!(shown.contains(", continued in `erw show #`\n"), "{shown}");
    let json = space.erw(&["show", "p.toml:a39", "--json"]).expect(0).stdout;
    serde_json::from_str::<Value>(&json).unwrap();
}

/// A repository whose stages read through links of every sort; `two` differs from `one`.
fn with_links() -> Space {
    let space = Space::of(&[("v1/f", "one\n"), ("v2/f", "two\n"), ("d/plain", "")]);
    let stage = |name: &str, watch: &str| {
        format!(
            "[stages.{name}]\nkind = \"command\"\nrun = \"true\"\noutputs = {{ o = \"t\" }}\nwatch = [\"{watch}\"]\n"
        )
    };
    let text: String = [
        stage("folder", "../current"),
        stage("file", "../file"),
        stage("below", "../current/f"),
        stage("inside", "../d"),
        stage("chain", "../chain"),
        stage("absolute", "../absolute"),
        stage("other", "../v1"),
    ]
    .concat();
    space.write("pipes/p.toml", &text);
    relink(&space, "v1", "v1/f");
    git(&space, &["init", "-q"]);
    git(&space, &["add", "."]);
    git(&space, &["commit", "-q", "-m", "one"]);
    space
}

fn relink(space: &Space, folder: &str, file: &str) {
    let absolute = space.path(folder).canonicalize().unwrap();
    let links = [
        ("current", folder.to_string()),
        ("file", file.to_string()),
        ("d/link", format!("../{folder}")),
        ("chain", "current".into()),
        ("absolute", absolute.to_str().unwrap().into()),
    ];
    for (name, to) in links {
        let _ = std::fs::remove_file(space.path(name));
        std::os::unix::fs::symlink(to, space.path(name)).unwrap();
    }
}

const RELINKED: [&str; 7] =
    ["absolute stale", "below stale", "chain stale", "file stale", "folder stale", "inside stale", "other unchanged"];

fn sorted_since(space: &Space, file: &str, revision: &str) -> Vec<String> {
    let mut lines = since(space, file, revision).0;
    lines.sort();
    lines
}

#[test]
fn a_link_that_leads_elsewhere_is_a_change() {
    let space = with_links();
    let all = |end: &str| RELINKED.map(|line| format!("{} {end}", line.split(' ').next().unwrap()));
    assert_eq!(sorted_since(&space, "pipes/p.toml", "HEAD"), all("unchanged"));
    relink(&space, "v2", "v2/f");
    assert_eq!(sorted_since(&space, "pipes/p.toml", "HEAD"), RELINKED, "in the work tree");
    git(&space, &["commit", "-q", "-a", "-m", "two"]);
    assert_eq!(sorted_since(&space, "pipes/p.toml", "HEAD~1"), RELINKED, "committed");
    assert_eq!(sorted_since(&space, "pipes/p.toml", "HEAD"), all("unchanged"));
    // To what holds the same, which is what keys go by.
    space.write("v3/f", "two\n");
    git(&space, &["add", "v3"]);
    relink(&space, "v3", "v3/f");
    assert_eq!(sorted_since(&space, "pipes/p.toml", "HEAD"), all("unchanged"));
    // By a way to the repository that is a link itself.
    std::os::unix::fs::symlink(space.path("").canonicalize().unwrap(), space.path("way")).unwrap();
    assert_eq!(sorted_since(&space, "way/pipes/p.toml", "HEAD~1"), RELINKED);
}

/// Git tells a hook of which repository it is by variables, which are not meant for what else the
/// hook asks.
#[test]
fn plan_since_works_inside_git_hooks() {
    let space = with_links();
    relink(&space, "v2", "v2/f");
    git(&space, &["worktree", "add", "-q", "tree", "HEAD"]);
    let ask = |folder: &str, set: &[(&str, &str)]| {
        let mut command = space.command(&["plan", "pipes/p.toml", "--since", "HEAD", "--exit-code"]);
        command.current_dir(space.path(folder));
        command.envs(set.iter().copied());
        let out = command.finish();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let plain = ask("", &[]);
    assert_eq!((plain.0, plain.1.matches(" stale:").count()), (Some(5), 6), "{} {}", plain.1, plain.2);
    let hook = [("GIT_DIR", ".git"), ("GIT_INDEX_FILE", ".git/index"), ("GIT_PREFIX", "")];
    assert_eq!(ask("", &hook), plain);
    assert_eq!(ask("pipes/..", &[("GIT_INDEX_FILE", "/nowhere/index.lock")]), plain);
    let dir = space.path(".git/worktrees/tree");
    let there = [("GIT_DIR", dir.to_str().unwrap()), ("GIT_WORK_TREE", ".")];
    let fresh = ask("tree", &there);
    assert_eq!((fresh.0, &fresh.1), (ask("tree", &[]).0, &ask("tree", &[]).1), "{}", fresh.2);
    // A real one.
    space.write(
        ".git/hooks/pre-commit",
        &format!(
            "#!/bin/sh\n{} plan pipes/p.toml --since HEAD --exit-code > hooked\necho $? >> hooked\n",
            env!("CARGO_BIN_EXE_erw")
        ),
    );
    Command::new("chmod").arg("+x").arg(space.path(".git/hooks/pre-commit")).status().unwrap();
    git(&space, &["commit", "-q", "-a", "-m", "two"]);
    assert_eq!(space.read("hooked"), format!("{}5\n", plain.1));
}

#[test]
fn a_plan_says_on_how_many_ranks_a_stage_runs() {
    let digits = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/digits.toml");
    let space = Space::new(&format!(
        "extends = {digits:?}\n[stages.sample]\nresources = {{ gpus = 8 }}\n[stages.latents]\nresources = {{ ranks = 3 }}\n\
         [stages.vae]\nresources = {{ gpus = 1 }}\n"
    ));
    let ranks = |extra: &[&str], gpus: &str| {
        let mut plan = space.command(&[&["plan", "p.toml"], extra].concat());
        crate::support::space::Said::from(plan.env("ERW_GPUS", gpus).finish()).expect(0).stdout
    };
    let text = ranks(&[], "8");
    let told: Vec<&str> = text.lines().map(str::trim).filter(|l| l.starts_with("on ")).collect();
    assert_eq!(told, ["on 3 ranks", "on 8 ranks"], "{text}");
    let plan: Value = serde_json::from_str(&ranks(&["--format", "json"], "8")).unwrap();
    let stages = plan["stages"].as_array().unwrap();
    let of = |name: &str| stages.iter().find(|s| s["stage"] == name).unwrap_or_else(|| panic!("{name}: {plan}"));
    assert_eq!((&of("sample")["ranks"], &of("latents")["ranks"]), (&8.into(), &3.into()));
    assert!(of("vae").get("ranks").is_none() && of("train").get("ranks").is_none(), "{plan}");
    // Without GPUs a stage that asks for several runs on one rank.
    assert!(!ranks(&[], "0").contains("on 8 ranks"));
}

#[test]
fn a_dry_run_prints_the_plan_as_json_and_forces_only_what_runs() {
    let space = Space::new(CHAIN);
    space.write("src/x", "x\n");
    let plan = space.erw(&["plan", "p.toml", "--format", "json"]).expect(0).stdout;
    assert_eq!(space.erw(&["run", "p.toml", "-n", "--json"]).expect(0).stdout, plan);
    assert!(serde_json::from_str::<Value>(&plan).unwrap()["stages"].is_array());
    let said = space.run(&["a", "--force", "b"]).expect(2).stderr;
    assert!(said.starts_with("error: `--force b`: the stage is not selected\n"), "{said}");
    space.run(&["b", "--force", "a"]).expect(0);
    let said = space.run(&["--retries", "-1"]).expect(2).stderr;
    assert!(said.contains("invalid value '-1'") && !said.contains("-- -1"), "{said}");
    let said = space.erw(&["logs", "p.toml", "a", "-n", "-1"]).expect(2).stderr;
    assert!(said.contains("expected a number of lines, such as 20"), "{said}");
    let said = space.erw(&["report", "p.toml", "--max-size", "-1"]).expect(2).stderr;
    assert!(said.contains("expected a size, such as"), "{said}");
}
