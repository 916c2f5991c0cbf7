//! Sweeps: their trials and table, and failures, kills, budgets and prune rules.

use crate::support::deadline::Deadline;
use crate::support::scored::{SCORED, scored};
use crate::support::space::{Said, Space};
use crate::support::toys::TOYS;
use erw::runner::sweep::SweepPlan;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::process::Stdio;

const GRID: &str = "[sweep]\n\"pack.limit\" = [2, 1, 3]\n\"score.seed\" = [0, 1]\n";

fn sweep(space: &Space, more: &[&str]) -> Said {
    space.erw(&[&["sweep", "p.toml", "--plain"], more].concat())
}

/// The table of what is cached, as CSV.
fn table(space: &Space, more: &[&str]) -> String {
    sweep(space, &[&["--table", "--format", "csv"], more].concat()).expect(0).stdout
}

/// The first column of the table.
fn names(csv: &str) -> Vec<String> {
    // Names of several labels are quoted.
    let name = |l: &str| l.strip_prefix('"').map_or(l.split(',').next(), |l| l.split('"').next()).unwrap().to_string();
    csv.lines().skip(1).map(name).collect()
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn the_command_line_adds_and_replaces_axes() {
    let space = scored("");
    let trials = |more: &[&str]| names(&table(&space, &[&["--each"], more].concat()));
    assert_eq!(trials(&["--axis", "score.seed=0..3"]), ["seed=0", "seed=1", "seed=2"]);
    assert_eq!(trials(&["--axis", "score.seed=-1..=0"]), ["seed=-1", "seed=0"]);
    assert_eq!(trials(&["--axis", "pack.limit=1,2", "--axis", "score.seed=5"]), ["limit=1,seed=5", "limit=2,seed=5"]);
    assert_eq!(trials(&["--axis", "pack.transform=none,pad"]), ["transform=none", "transform=pad"]);
    let space = scored(GRID);
    let trials = table(&space, &["--each", "--axis", "pack.limit=4"]);
    assert_eq!(names(&trials), ["limit=4,seed=0", "limit=4,seed=1"]);
    assert_eq!(trials.lines().nth(1).unwrap(), "\"limit=4,seed=0\",4,0,unfinished", "nothing has run");
}

#[test]
fn one_axis_sets_several_parameters() {
    let two = SCORED.split_once("[stages.score]").unwrap().1.replace("score {", "again {");
    let coupled = "[sweep]\n\"score.seed, again.seed\" = [3, 4]\n";
    let space = scored(&format!("[stages.again]{two}{coupled}"));
    let csv = sweep(&space, &["--each", "--format", "csv"]).expect(0).stdout;
    assert_eq!(names(&csv), ["seed=3", "seed=4"]);
    assert_eq!(csv.lines().next().unwrap(), "trial,score.seed,again.seed,status");
    assert_eq!(sorted(space.ran()), ["again 3", "again 4", "score 3", "score 4"]);
    // Means are over both at once.
    assert_eq!(names(&table(&space, &[])), ["all"]);
    let given = table(&space, &["--each", "--axis", "score.seed,again.seed=0..3"]);
    assert_eq!(names(&given), ["seed=0", "seed=1", "seed=2"], "it replaces the axis of these");
    let said = sweep(&space, &["--axis", "again.seed=1"]).expect(2).stderr;
    assert!(said.starts_with("error: `again.seed` is on two axes\n"), "{said}");
    let said = sweep(&space, &["--axis", "score.seed,again.sed=1"]).expect(2).stderr;
    let text = "error: `--axis score.seed,again.sed=1`: stage `again` has no parameter `sed`\n";
    assert!(said.starts_with(text), "{said}");
}

#[test]
fn a_diverged_trial_is_reported_and_stopped() {
    let text = "[stages.net]\nkind = \"command\"\nrun = \"echo '{\\\"loss\\\": {params.loss}}' > {outputs.m}\"\noutputs = { m = \"metrics\" }\n\
                params = { loss = \"1\" }\n[stages.use]\nkind = \"command\"\nrun = \"cat {inputs.x} >> ran; echo > {outputs.o}\"\n\
                inputs = { x = \"net\" }\noutputs = { o = \"t\" }\n[sweep]\n\"net.loss\" = [\"NaN\", \"1\"]\nstop = [\"loss > 2\"]\n";
    let space = Space::new(text);
    let said = sweep(&space, &["--format", "csv"]).expect(0);
    assert_eq!(said.stdout, "trial,net.loss,status,loss\nloss=NaN,NaN,stopped,nan\nloss=1,1,ran,1\n");
    assert_eq!(space.ran(), ["{\"loss\": 1}"]);
}

#[test]
fn stages_of_trials_work_with_all_commands() {
    let space = scored("[sweep]\n\"score.seed\" = [0, 1, 9]\n\"pack.limit\" = [1, 2]\n");
    sweep(&space, &[]).expect(1);
    let (good, bad) = ("score@seed=1,limit=2", "score@seed=9,limit=1");
    let ok = |args: &[&str]| space.erw(args).expect(0).stdout;
    assert!(ok(&["why", "p.toml", good]).starts_with(&format!("{good} is cached\n")));
    assert!(ok(&["explain", "p.toml", good]).starts_with(&format!("{good}: ")));
    assert!(ok(&["show", &format!("p.toml:{good}")]).contains(&format!("made by scored/{good} ")));
    assert_eq!(ok(&["show", &format!("p.toml:{good}.o")]), ok(&["show", &format!("p.toml:{good}")]));
    assert_eq!(
        ok(&["export", "p.toml", good, "best"]),
        ok(&["export", "p.toml", &format!("{good}.o"), "again"]).replace("again", "best")
    );
    assert_eq!(ok(&["cache", "tag", "best", &format!("p.toml:{good}")]), "best: 1 artifact\n");
    assert!(ok(&["verify", "p.toml", good]).ends_with("identical, byte for byte\n"));
    assert!(ok(&["plan", "p.toml", good]).ends_with("all 2 stages are cached\n"));
    assert!(ok(&["run", "p.toml", good, "--plain"]).contains(good));
    // What it wrote is empty, but it was found.
    space.write("p.toml", &space.read("p.toml").replace("echo score", "echo said; echo score"));
    sweep(&space, &[]).expect(1);
    assert_eq!(ok(&["logs", "p.toml", bad]), "said\n");
    let said = space.erw(&["why", "p.toml", "score@seed=7"]).expect(2).stderr;
    assert!(said.starts_with("error: no stage `score@seed=7` in `p.toml`\nhint: did you mean `score@seed="), "{said}");
}

#[test]
fn the_name_of_a_whole_trial_finds_its_stages() {
    // A stage is called after the axes that change it, which none of these does.
    let space = scored("");
    sweep(&space, &["--axis", "pack.limit=4"]).expect(0);
    assert_eq!(space.ran(), ["score 0"]);
    let found = |args: &[&str]| space.erw(args).expect(0).stdout;
    assert_eq!(
        found(&["why", "p.toml", "score@limit=4", "--axis", "pack.limit=4"]).lines().next().unwrap(),
        "score is cached"
    );
    // By the axis of the earlier run.
    assert!(found(&["why", "p.toml:score@limit=4"]).starts_with("score is cached\n"));
    assert!(found(&["show", "p.toml:score@limit=4.o"]).contains("made by scored/score "));
    found(&["run", "p.toml", "score@limit=4", "--plain"]);
    assert_eq!(space.ran(), Vec::<String>::new());
    let unknown = |name: &str, more: &[&str]| {
        let said = space.erw(&[&["why", "p.toml", name], more].concat()).expect(2).stderr;
        assert!(said.contains(&format!("no stage `{name}` in `p.toml`")), "{name}: {said}");
    };
    for name in ["score@limit=5", "score@limit=4,limit=4", "score@seed=0", "score@", "score@limit=4,", "scor@limit=4"] {
        unknown(name, &["--axis", "pack.limit=4"]);
    }
    let said = space.run(&["--force", "score@limit=1"]).expect(2).stderr;
    assert!(said.starts_with("error: `--force score@limit=1`: no such stage\n"), "no sweep set this value: {said}");
    // One value, and two.
    space.write("p.toml", &format!("{SCORED}[sweep]\n\"pack.limit\" = [4]\n\"score.seed\" = [1, 2]\n"));
    sweep(&space, &[]).expect(0);
    for (name, stage) in [
        ("score@limit=4,seed=1", "score@seed=1"),
        ("score@seed=2,limit=4", "score@seed=2"),
        ("pack@limit=4,seed=2", "pack"),
    ] {
        assert!(found(&["why", "p.toml", name]).starts_with(&format!("{stage} is cached\n")), "{name}");
    }
    for name in ["score@limit=4,seed=3", "pack@limit=4,seed=1,seed=2", "score@limit=4"] {
        unknown(name, &[]);
    }
    // A trial that has a name only.
    space.write("p.toml", &format!("{SCORED}[[sweep.trials]]\nname = \"only\"\n\"pack.limit\" = 3\n"));
    space.ran();
    found(&["run", "p.toml", "score@only", "--plain"]);
    assert_eq!(space.ran(), ["score 0"]);
    assert!(found(&["why", "p.toml", "pack@only"]).starts_with("pack is cached\n"));
    unknown("score@trial", &[]);
}

#[test]
fn a_part_of_a_name_finds_the_only_trial_with_it() {
    let space = scored("[sweep]\n\"pack.limit\" = [4]\n\"score.seed\" = [1, 2]\n");
    let said = sweep(&space, &["--trial", "seed=2", "--each", "--format", "csv"]).expect(0).stdout;
    assert_eq!(names(&said), ["limit=4,seed=2"]);
    assert_eq!(space.ran(), ["score 2"]);
    let said = sweep(&space, &["--trial", "limit=4"]).expect(2).stderr;
    let text = "error: `limit=4` is a part of 2 trials\nhint: name one of `limit=4,seed=1`, `limit=4,seed=2`\n";
    assert_eq!(said, text);
    let said = sweep(&space, &["--trial", "seed=3"]).expect(2).stderr;
    assert!(said.starts_with("error: no trial `seed=3`\n"), "{said}");
}

#[test]
fn an_axis_parameter_cannot_be_set() {
    let space = scored(GRID);
    let said = sweep(&space, &["--set", "pack.limit=4"]).expect(2).stderr;
    let hint = "hint: set it in only one of the two; pass `--axis pack.limit=VALUE` to replace an axis\n";
    assert_eq!(said, format!("error: `--set pack.limit` sets a parameter that the sweep varies\n{hint}"));
    let mut command = space.command(&["sweep", "p.toml", "--table"]);
    let said = Said::from(command.env("ERW_SET__pack__limit", "4").finish()).expect(2).stderr;
    assert_eq!(said, format!("error: `ERW_SET__pack__limit` sets a parameter that the sweep varies\n{hint}"));
    assert_eq!(names(&table(&space, &["--axis", "pack.limit=4", "--set", "pack.resolution=3"])), ["limit=4"]);
}

#[test]
fn a_sweep_has_no_lock() {
    for flag in ["--lock", "--locked"] {
        let said = sweep(&scored(GRID), &[flag]).expect(2).stderr;
        let first = format!(
            "error: `{flag}` does not apply to a sweep, which has no lock file\nhint: `erw run p.toml {flag}` "
        );
        assert!(said.starts_with(&first), "{said}");
    }
}

const RANDOM: &str = "extends = \"base.toml\"\n[sweep]\ntrain.seed = [0, 1]\n[sweep.random]\nbudget = 3\n\
                      \"train.lr\" = { log_uniform = [1e-5, 1e-3] }\ncodec.scale = { uniform = [0.0, 0.5] }\n\
                      train.steps = { int = [1, 6] }\n\"train.path\" = { choice = [\"linear\", \"cosine\"] }\n";

fn drawn(text: &str) -> Vec<(String, Vec<(String, Value)>)> {
    let plan = SweepPlan::load(&Space::one(text).path("p.toml"), TOYS, &Default::default()).unwrap();
    plan.trials.into_iter().map(|t| (t.name, t.settings)).collect()
}

#[test]
fn a_larger_budget_extends_the_same_random_points() {
    let few = drawn(RANDOM);
    let labels: Vec<&str> = few.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(labels, ["r0,seed=0", "r0,seed=1", "r1,seed=0", "r1,seed=1", "r2,seed=0", "r2,seed=1"]);
    insta::assert_snapshot!("random", few.iter().map(|t| format!("{} {}\n", t.0, json!(t.1))).collect::<String>());
    let many = drawn(&RANDOM.replace("budget = 3", "budget = 5"));
    assert_eq!(many[..6], few[..]);
    // Another parameter moves none of the others.
    let fewer = drawn(&RANDOM.replace("codec.scale = { uniform = [0.0, 0.5] }\n", ""));
    assert!(fewer.iter().zip(&few).all(|(a, b)| a.1.iter().all(|s| b.1.contains(s))), "{fewer:?}");
    let seeded = drawn(&RANDOM.replace("budget = 3", "budget = 3\nseed = 1"));
    assert!(seeded.iter().zip(&few).all(|(a, b)| a.1[0] != b.1[0]), "{seeded:?}");
}

#[test]
fn the_table_shows_means_over_seeds() {
    let space = scored(GRID);
    let said = sweep(&space, &[]).expect(0);
    insta::assert_snapshot!("table", said.stdout);
    assert_eq!(sorted(space.ran()).len(), 6);
    assert_eq!(
        table(&space, &[]),
        "trial,pack.limit,n,status,images,images_sd,images_n,classes,classes_sd,classes_n\n\
         limit=2,2,2,cached,4,,1,2,,1\nlimit=1,1,2,cached,2,,1,2,,1\nlimit=3,3,2,cached,6,,1,2,,1\n",
        "`pack` does not depend on the seed: it ran once for both"
    );
    let over = table(&space, &["--over", "limit"]);
    assert!(over.contains("seed=0,0,3,cached,4,2,3,2,0,3\n"), "{over}");
    let all = table(&space, &["--over", "pack.limit", "--over", "seed"]);
    assert!(all.contains("all,6,cached,4,2,3,2,0,3\n"), "{all}");
    let each = sweep(&space, &["--each", "--table", "--format", "json"]).expect(0).stdout;
    let each: Value = serde_json::from_str(&each).unwrap();
    let first = json!({
        "trial": "limit=2,seed=0", "settings": {"pack.limit": 2, "score.seed": 0}, "status": "cached",
        "results": {"classes": 2.0, "images": 4.0},
    });
    assert_eq!((each.as_array().unwrap().len(), &each[0]), (6, &first));
    let by_metrics = space.erw(&["metrics", "p.toml", "--sweep", "--format", "csv"]).expect(0).stdout;
    assert_eq!(by_metrics, table(&space, &[]));
    assert!(space.ran().is_empty(), "a table runs nothing");
}

#[test]
fn tables_are_sorted_and_filtered() {
    let space = scored(GRID);
    sweep(&space, &["score", "--axis", "score.seed=0,9"]).expect(1);
    let rows = |more: &[&str]| names(&table(&space, more));
    assert_eq!(rows(&["--sort", "images"]), ["limit=1", "limit=2", "limit=3"]);
    assert_eq!(rows(&["--sort", "-images"]), ["limit=3", "limit=2", "limit=1"]);
    assert_eq!(rows(&["--sort=-limit"]), ["limit=3", "limit=2", "limit=1"]);
    assert_eq!(rows(&["--filter", "images<5", "--filter", "images>=4"]), ["limit=2"]);
    assert_eq!(rows(&["--filter", "pack.images != 4"]), ["limit=1", "limit=3"]);
    assert_eq!(rows(&["--filter", "trial=limit=3"]).len(), 0, "trials have names of their own");
    assert_eq!(rows(&["--filter", "status=unfinished"]), ["limit=2", "limit=1", "limit=3"]);
    assert_eq!(
        rows(&["--each", "--filter", "status=cached", "--filter", "pack.limit>1"]),
        ["limit=2,seed=0", "limit=3,seed=0"]
    );
    let markdown = sweep(&space, &["--table", "--format", "markdown", "--filter", "limit=1"]).expect(0).stdout;
    insta::assert_snapshot!("markdown", markdown);
}

#[test]
fn a_stage_stands_for_its_first_metric_and_several_of_a_name_are_told_apart() {
    let two = "[stages.again]\nkind = \"images\"\nparams = { source = \"img\", resolution = 2, transform = \"none\", limit = 3 }\n";
    let space = scored(&format!("{two}[sweep]\n\"pack.limit, again.limit\" = [2, 1, 3]\n"));
    sweep(&space, &[]).expect(0);
    let sorted = ["limit=1", "limit=2", "limit=3"];
    assert_eq!(names(&table(&space, &["--sort", "again"])), sorted);
    assert_eq!(names(&table(&space, &["--filter", "again < 3"])), ["limit=1"]);
    let said = sweep(&space, &["--table", "--sort", "images"]).expect(2).stderr;
    let text = "error: `--sort images`: several stages have a metric `images`\nhint: write one of ";
    assert!(said.starts_with(text) && said.contains("`again.images`"), "{said}");
}

#[test]
fn the_table_shows_which_trials_failed() {
    let space = scored("[sweep]\n\"score.seed\" = [9, 0, 1]\n");
    sweep(&space, &["--trial", "seed=9", "--trial", "seed=0"]).expect(1);
    let each = |more: &[&str]| table(&space, &[&["--each"], more].concat());
    assert_eq!(each(&[]), "trial,score.seed,status\nseed=9,9,failed\nseed=0,0,cached\nseed=1,1,unfinished\n");
    assert_eq!(names(&each(&["--filter", "status=failed"])), ["seed=9"]);
    assert_eq!(names(&each(&["--filter", "status!=failed"])), ["seed=0", "seed=1"]);
    assert_eq!(table(&space, &[]), "trial,n,status\nall,3,failed 1 of 3\n");
    // A run in which it was not attempted changes nothing.
    sweep(&space, &["--trial", "seed=1"]).expect(0);
    assert_eq!(names(&each(&["--filter", "status=failed"])), ["seed=9"]);
    // Another program has not failed.
    space.write("p.toml", &space.read("p.toml").replace("!= 9", "!= 8"));
    assert!(each(&[]).contains("seed=9,9,unfinished\n"), "{}", each(&[]));
}

#[test]
fn conditions_that_cannot_hold_are_refused() {
    let space = scored(GRID);
    let refused = |condition: &str, text: &str| {
        let said = sweep(&space, &["--table", "--filter", condition]).expect(2).stderr;
        assert!(said.starts_with(&format!("error: `--filter {condition}`{text}")), "{condition}: {said}");
    };
    for slip in ["images<<1.5", "images=<1", "images=!1", "images<"] {
        refused(slip, " is not a condition\n");
    }
    refused("images<many", ": `many` is not a number\nhint: text is compared by = and != only\n");
    refused("images>=nan", ": `nan` is not a number\n");
    refused("status=faild", ": there is no status `faild`\nhint: did you mean `failed`?\n");
    assert_eq!(names(&table(&space, &["--each", "--filter", "trial!=limit=2,seed=0"])).len(), 5);
}

#[test]
fn events_that_cannot_be_written_end_a_sweep_with_an_error() {
    let space = scored("[sweep]\n\"score.seed\" = [0, 1]\n");
    let mut command = space.command(&["sweep", "p.toml", "--json"]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let child = command.stdout(full).stderr(Stdio::piped()).start();
    let said = Said::from(child.wait_with_output().unwrap()).expect(2).stderr;
    assert_eq!(said.matches("warning: cannot write events to standard output: No space left").count(), 1, "{said}");
    assert!(said.contains("error: cannot write to standard output\ncause: No space left"), "{said}");
    assert_eq!(sorted(space.ran()), ["score 0", "score 1"], "the sweep runs to its end");
}

#[test]
fn a_wrong_sort_name_still_prints_the_table() {
    let space = scored(GRID);
    sweep(&space, &[]).expect(0);
    let said = sweep(&space, &["--table", "--sort", "imagse", "--format", "csv"]).expect(2);
    assert_eq!(names(&said.stdout).len(), 3);
    assert!(
        said.stderr.contains("error: `--sort imagse`: no metric or setting `imagse`\nhint: did you mean `images`?"),
        "{}",
        said.stderr
    );
}

#[test]
fn invalid_axes_on_the_command_line_are_refused() {
    let space = scored(GRID);
    let bad = [
        "--axis=score.sede=0..3",
        "--axis=score.seed",
        "--axis=score.seed=3..3",
        "--axis=score.seed=0..1000000000",
        "--axis=score.seed=1,,2",
        "--axis=pack.limit=a,b",
        "--axis=score.seed=1,1",
        "--over=limti",
        "--filter=images",
        "--stop=images",
        "--stop=pakc.images>2",
        "--trial=limit=2,seed=7",
    ];
    let said: Vec<String> =
        bad.iter().map(|b| format!("{b}\n{}", sweep(&space, &["--table", b]).expect(2).stderr)).collect();
    insta::assert_snapshot!("refused", said.join("\n"));
}

#[test]
fn invalid_sweeps_in_a_file_are_refused() {
    let bad = [
        "[sweep.random]\nbudget = 3\n",
        "[sweep.random]\nbudget = 0\n\"train.lr\" = { uniform = [0.0, 1.0] }\n",
        "[sweep.random]\n\"train.lr\" = { lgo_uniform = [0.0, 1.0] }\n",
        "[sweep.random]\n\"train.lr\" = { log_uniform = [0.0, 1.0] }\n",
        "[sweep.random]\n\"train.lr\" = { uniform = [0.0, 1.0], int = [1, 2] }\n",
        "[sweep.random]\n\"train.rl\" = { uniform = [0.0, 1.0] }\n",
        "[sweep.random]\n\"train.steps\" = { uniform = [0.0, 1.0] }\n",
        "[sweep]\n\"train.lr\" = [0.1]\n[sweep.random]\n\"train.lr\" = { uniform = [0.0, 1.0] }\n",
        "[[sweep.trials]]\nname = \"a\"\n\"train.lr\" = 0.1\n[sweep.random]\n\"train.lr\" = { uniform = [0.0, 1.0] }\n",
        "[sweep]\n\"train.seed\" = [0, 1]\nstop = [\"trian.loss > 2\"]\n",
        "[sweep]\n\"train.seed\" = [0, 1]\nstop = [\"train.loss\"]\n",
    ];
    let said = bad.map(|text| {
        let space = Space::one(&format!("extends = \"base.toml\"\n{text}"));
        let plan = SweepPlan::load(&space.path("p.toml"), TOYS, &Default::default());
        space.message(&plan.err().unwrap_or_else(|| panic!("{text} is read")))
    });
    insta::assert_snapshot!("unreadable", said.join("\n"));
}

#[test]
fn failed_trials_do_not_stop_others() {
    let space = scored("[sweep]\n\"score.seed\" = [9, 0, 1]\n");
    let said = sweep(&space, &["--each", "--format", "csv"]).expect(1);
    assert_eq!(said.stdout, "trial,score.seed,status\nseed=9,9,failed\nseed=0,0,ran\nseed=1,1,ran\n");
    assert!(said.stderr.contains("error: stage `score@seed=9`: `sh` exited with status 1"), "{}", said.stderr);
    let grouped = sweep(&space, &["--format", "csv"]).expect(1).stdout;
    assert_eq!(grouped, "trial,n,status\nall,3,failed 1 of 3\n");
    let all = SCORED.replace("[ {params.seed} != 9 ] &&", "false &&") + "[sweep]\n\"score.seed\" = [0, 1, 2]\n";
    space.write("p.toml", &all);
    let failed = |more: &[&str]| {
        let said = sweep(&space, &[&["--format", "csv", "--threads", "1"], more].concat()).expect(1);
        said.stdout.lines().nth(1).unwrap().to_string()
    };
    assert_eq!(failed(&[]), "all,3,failed");
    assert_eq!(failed(&["--fail-fast"]), "all,3,failed 1 of 3");
}

#[test]
fn a_missing_source_is_an_error_before_any_trial_runs() {
    let space = scored(GRID);
    std::fs::remove_dir_all(space.path("img")).unwrap();
    let said = sweep(&space, &[]).expect(2);
    assert!(said.stderr.contains("files and folders are missing"), "{}", said.stderr);
}

#[test]
fn trials_finish_in_order_on_few_threads() {
    let space = Space::new(
        r#"
[stages.train]
kind = "command"
run = "echo train {params.seed} >> ran; sleep 0.05; echo {params.seed} > {outputs.o}"
outputs = { o = "text" }
params = { seed = 0 }
[stages.score]
kind = "command"
run = "echo score {inputs.x} >> ran; cp {inputs.x} {outputs.o}"
inputs = { x = "train" }
outputs = { o = "text" }
[sweep]
"train.seed" = [3, 4, 5]
"#,
    );
    sweep(&space, &[]).expect(0);
    let kinds: Vec<String> = space.ran().iter().map(|l| l.split(' ').next().unwrap().to_string()).collect();
    assert_eq!(kinds, ["train", "score", "train", "score", "train", "score"]);
}

#[test]
fn trial_names_may_list_axes_in_any_order() {
    let space = scored("[sweep]\n\"score.seed\" = [0, 1]\n\"pack.limit\" = [1, 2]\n");
    let said = sweep(&space, &["--trial", "limit=2,seed=1", "--each", "--format", "csv"]).expect(0);
    assert!(said.stdout.lines().nth(1).unwrap().starts_with("\"seed=1,limit=2\","), "{}", said.stdout);
    assert_eq!(space.ran(), ["score 1"]);
}

#[test]
fn a_budget_runs_the_next_trials() {
    let space = scored("[sweep]\n\"score.seed\" = [0, 1, 2, 3, 4]\n");
    sweep(&space, &["--trial", "seed=1"]).expect(0);
    space.ran();
    let said = sweep(&space, &["--budget-trials", "2", "--each", "--format", "csv"]).expect(0);
    assert_eq!(said.stdout, "trial,score.seed,status\nseed=0,0,ran\nseed=1,1,cached\nseed=2,2,ran\n");
    assert!(said.stderr.contains("2 of 5 trials are left; rerun to continue\n"), "{}", said.stderr);
    assert_eq!(sorted(space.ran()), ["score 0", "score 2"]);
    let said = sweep(&space, &["--budget-trials", "2"]).expect(0);
    assert!(!said.stderr.contains("left"), "{}", said.stderr);
    assert_eq!(sorted(space.ran()), ["score 3", "score 4"]);
}

#[test]
fn a_killed_sweep_resumes() {
    let stages = "[stages.a]\nkind = \"command\"\nrun = \"echo a{params.n} >> ran; [ {params.n} = 0 ] || while ! [ -e go ]; do sleep 0.02; done; echo {params.n} > {outputs.o}\"\n\
                  outputs.o = \"t\"\nparams.n = 0\nresources = { threads = 1 }\n[sweep]\n\"a.n\" = [0, 1, 2]\n";
    let space = Space::new(stages);
    let mut child = space.command(&["sweep", "p.toml", "--plain", "--threads", "1"]);
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).start();
    space.until("the second trial", || space.read("ran").lines().count() == 2);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    space.write("go", "");
    space.ran();
    let said = sweep(&space, &["--format", "csv"]).expect(0);
    assert!(said.stdout.starts_with("trial,a.n,status\nn=0,0,cached\n"), "{}", said.stdout);
    let ran = sorted(space.ran());
    assert!(!ran.contains(&"a0".to_string()) && ran.contains(&"a2".to_string()), "{ran:?}");
}

#[test]
fn prune_rules_stop_trials() {
    let space = scored(&format!("{GRID}stop = [\"pack.images > 5\"]\n"));
    let said = sweep(&space, &["--format", "csv"]).expect(0);
    assert!(
        said.stdout.contains("limit=2,2,2,ran,") && said.stdout.contains("limit=3,3,2,stopped,"),
        "{}",
        said.stdout
    );
    let why = "score@limit=3,seed=1: skipped, trial `limit=3,seed=1` was pruned: pack.images 6 > 5";
    assert!(said.stderr.contains(why), "{}", said.stderr);
    assert_eq!(space.ran().len(), 4);
    assert!(table(&space, &[]).contains("limit=3,3,2,stopped,"), "what is cached tells as much");
    // All in order of the axis: the first is the best that there is when the third is measured.
    let said =
        sweep(&space, &["--stop", "images > 1.5*best", "--threads", "1", "--jobs", "1", "--each", "--format", "csv"])
            .expect(0);
    assert!(said.stdout.contains("\"limit=2,seed=0\",2,0,cached,"), "what is complete is not stopped: {}", said.stdout);
    // A budget does not count what nobody will run.
    assert!(!sweep(&space, &["--budget-trials", "1"]).expect(0).stderr.contains("left"));
}

/// A classifier on the images of `scored`, with a rule about its loss, and a stage behind it.
const CURVE: &str = r#"
[stages.pack]
kind = "images"
params = { source = "img", resolution = 8, transform = "resize-bicubic" }
[stages.net]
kind = "train-classifier"
inputs = { images = "pack" }
params = { steps = 20, batch = 4, channels = [4, 8], features = 8, norm_num_groups = 4 }
[stages.after]
kind = "command"
run = "echo after >> ran; cp -r {inputs.x} {outputs.o}"
inputs = { x = "net" }
outputs = { o = "copy" }
[sweep]
"net.seed" = [0, 1]
stop = ["net.loss > 0 @10"]
"#;

#[test]
fn a_prune_rule_on_a_curve_skips_later_stages() {
    let space = scored("");
    space.write("p.toml", CURVE);
    let said = sweep(&space, &["--format", "csv"]).expect(0);
    assert!(said.stdout.contains("all,2,stopped"), "{}", said.stdout);
    assert!(said.stderr.contains("after@seed=0: skipped, trial `seed=0` was pruned: net.loss "), "{}", said.stderr);
    assert!(space.ran().is_empty());
    space.write("p.toml", &CURVE.replace("@10", "@100"));
    sweep(&space, &[]).expect(0);
    assert_eq!(space.ran().len(), 2, "no value counts before its step");
}

#[test]
fn a_running_stage_of_a_pruned_trial_is_stopped() {
    let space = scored("");
    // Longer than any test: it ends only if it is stopped.
    space.write("p.toml", &CURVE.replace("steps = 20", "steps = 100000000"));
    let said = sweep(&space, &["--format", "csv"]).expect(0);
    assert_eq!(said.stdout, "trial,n,status\nall,2,stopped\n");
    let why = "net@seed=0: skipped, trial `seed=0` was pruned: net.loss ";
    assert!(said.stderr.contains(why), "{}", said.stderr);
    assert!(space.ran().is_empty());
}

#[test]
fn plan_shows_all_trials() {
    let space = scored(GRID);
    let plan = space.plan(&["--sweep"]);
    assert!(plan.contains("score@limit=3,seed=1") && plan.contains("9 of 9 stages would run"), "{plan}");
    assert!(space.erw(&["graph", "p.toml", "--sweep"]).expect(0).stdout.contains("9 stages"));
}
