//! Searches: the optimum they find, what they run and repeat, and what they refuse.

use crate::support::deadline::Deadline;
use crate::support::scored::scored;
use crate::support::space::{Said, Space};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::process::Stdio;

/// `f` measures a valley in x and y; both stand on a stage that no point changes.
const VALLEY: &str = r#"name = "valley"
[stages.base]
kind = "command"
run = "echo base >> ran; echo > {outputs.o}"
outputs = { o = "t" }
[stages.f]
kind = "command"
run = "echo f {params.x} {params.y} >> ran; awk -v x={params.x} -v y={params.y} -v n={params.n} -f f.awk > {outputs.m}"
inputs = { x = "base" }
outputs = { m = "metrics" }
params = { x = 0.5, y = 0.25, n = 3, seed = 0, word = "a" }
resources = { threads = 1 }
"#;

const FUNCTION: &str = "BEGIN { loss = (x - 1.3)^2 + (y - 0.7)^2 + (x - 1.3) * (y - 0.7) + (n - 3)^2;\n\
                        printf \"{\\\"loss\\\": %.12f, \\\"gain\\\": %.12f}\\n\", loss, -loss }\n";

fn valley(function: &str) -> Space {
    let space = Space::new(VALLEY);
    space.write("f.awk", function);
    space
}

fn search(space: &Space, more: &[&str]) -> Said {
    space.erw(&[&["sweep", "p.toml", "--plain", "--format", "csv"], more].concat())
}

const LOSS: [&str; 2] = ["--minimise", "loss"];

/// The rows of the table: the trial, whether it is the best, its status.
fn rows(said: &Said) -> Vec<(String, bool, String)> {
    let lines: Vec<&str> = said.stdout.lines().filter(|line| line.contains('=')).collect();
    let row = |line: &&str| {
        let (name, rest) = match line.strip_prefix('"') {
            Some(quoted) => quoted.split_once("\",").unwrap(),
            None => line.split_once(',').unwrap(),
        };
        let status = ["cached", "ran", "failed"].into_iter().find(|status| rest.contains(status)).unwrap();
        (name.to_string(), rest.starts_with("true"), status.to_string())
    };
    lines.iter().map(row).collect()
}

fn value(name: &str, of: &str) -> f64 {
    let part = name.split(',').find_map(|part| part.strip_prefix(&format!("{of}=")));
    part.unwrap_or_else(|| panic!("no {of} in {name}")).parse().unwrap()
}

#[test]
fn the_minimum_is_found_and_a_repetition_runs_nothing() {
    let space = valley(FUNCTION);
    // y stays at 0.25, where the valley is lowest at 1.3 + 0.45 / 2.
    let said = search(&space, &[&["--search", "f.x=0.0..4.0"], &LOSS[..]].concat()).expect(0);
    let tried = rows(&said);
    assert_eq!(said.stdout.lines().find(|l| l.contains("best")).unwrap(), "trial,best,f.x,status,loss,gain");
    assert!((value(&tried[0].0, "x") - 1.525).abs() <= 0.04, "{tried:?}");
    assert_eq!(tried.iter().filter(|row| row.1).count(), 1, "{tried:?}");
    assert!(tried[0].1 && tried.len() == 11, "{tried:?}");
    let ran = space.ran();
    assert_eq!((ran.len(), ran.iter().filter(|line| *line == "base").count()), (12, 1), "{ran:?}");
    assert!(ran.iter().all(|line| line.len() <= "f 1.525 0.25".len()), "values are short: {ran:?}");
    let next = format!("next: erw run p.toml --set f.x={}\n", value(&tried[0].0, "x"));
    assert!(said.stderr.ends_with(&next), "{}", said.stderr);
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
    // The same search again, and the trial that it found as a run of its own.
    let again = search(&space, &[&["--search", "f.x=0.0..4.0"], &LOSS[..]].concat()).expect(0);
    assert_eq!(
        rows(&again).iter().map(|row| &row.0).collect::<Vec<_>>(),
        tried.iter().map(|row| &row.0).collect::<Vec<_>>()
    );
    assert!(rows(&again).iter().all(|row| row.2 == "cached"), "{}", again.stdout);
    let set = format!("f.x={}", value(&tried[0].0, "x"));
    space.run(&["--set", &set]).expect(0);
    let stage = format!("f@{}", tried[0].0);
    let why = space.erw(&["why", "p.toml", &stage]).expect(0);
    assert!(why.stdout.starts_with(&format!("{stage} is cached\n")), "{}", why.stdout);
    // So does a wider sweep know its points.
    let axis = format!("f.x={}", tried.iter().map(|row| value(&row.0, "x").to_string()).collect::<Vec<_>>().join(","));
    space.erw(&["sweep", "p.toml", "--axis", &axis, "--plain"]).expect(0);
    assert_eq!(space.ran(), Vec::<String>::new());
}

#[test]
fn a_maximum_is_the_minimum_of_what_is_turned_around() {
    let space = valley(FUNCTION);
    let least = search(&space, &["--search", "f.x=0.0..4.0", "--minimise", "loss"]).expect(0);
    let most = search(&space, &["--search", "f.x=0.0..4.0", "--maximise", "f.gain"]).expect(0);
    assert_eq!(rows(&least)[0].0, rows(&most)[0].0);
    assert_eq!(space.ran().len(), 12, "the same points");
}

#[test]
fn several_parameters_are_searched_in_turn() {
    let space = valley(FUNCTION);
    let both = ["--search", "f.x=0.0..4.0", "--search", "f.y=0.0..1.0", "--tolerance", "0.01"];
    let said = search(&space, &[&both[..], &["--rounds", "6"], &LOSS[..]].concat()).expect(0);
    let best = &rows(&said)[0];
    assert!(best.1, "{best:?}");
    assert!((value(&best.0, "x") - 1.3).abs() < 0.08 && (value(&best.0, "y") - 0.7).abs() < 0.05, "{best:?}");
    let ran = space.ran().len();
    assert_eq!(ran, rows(&said).len() + 1, "each point once");
    // A further round repeats the first ones at no cost.
    let fewer = search(&space, &[&both[..], &["--rounds", "1"], &LOSS[..]].concat()).expect(0);
    assert!(rows(&fewer).len() < ran && space.ran().is_empty());
}

#[test]
fn whole_numbers_are_searched_as_whole_numbers() {
    let space = valley(FUNCTION);
    let said = search(&space, &[&["--search", "f.n=1..=9"], &LOSS[..]].concat()).expect(0);
    assert_eq!(rows(&said)[0].0, "n=3");
    assert!(rows(&said).len() <= 6, "{}", said.stdout);
    let said = search(&space, &[&["--search", "f.n=4..=9"], &LOSS[..]].concat()).expect(0);
    assert_eq!(rows(&said)[0].0, "n=4");
    let warning = "warning: the best `f.n` lies at the end of its interval, 4: search in a wider one\n";
    assert!(said.stderr.contains(warning), "{}", said.stderr);
}

#[test]
fn the_mean_over_seeds_is_searched() {
    let space = valley("BEGIN { printf \"{\\\"loss\\\": %.12f}\\n\", (x - 1 - y)^2 }\n");
    let seeds = ["--axis", "f.y=0.0,0.5,1.0", "--search", "f.x=0.0..4.0", "--tolerance", "0.1"];
    let said = search(&space, &[&seeds[..], &LOSS[..]].concat()).expect(2).stderr;
    let text = "error: a search needs one value for each point, and the sweep also varies `y`\n\
                hint: pass `--axis STAGE.NAME=VALUE` to replace an axis by one value\n\
                hint: pass `--over y` to search for the best mean\n";
    assert_eq!(said, text);
    let said = search(&space, &[&seeds[..], &LOSS[..], &["--over", "y"]].concat()).expect(0);
    assert!((value(&rows(&said)[0].0, "x") - 1.5).abs() <= 0.4, "{}", said.stdout);
    assert_eq!(space.ran().len(), 3 * rows(&said).len() + 1);
}

#[test]
fn the_first_two_points_run_together() {
    // Each waits until the other has begun.
    let space = valley(FUNCTION);
    let wait = "echo > at-{params.x}; for i in $(seq 100); do [ $(ls | grep -c at-) -ge 2 ] && break; sleep 0.1; done; \
                [ $(ls | grep -c at-) -ge 2 ] || exit 1; awk -v";
    space.write("p.toml", &VALLEY.replace("awk -v", wait));
    search(&space, &[&["--search", "f.x=0.0..4.0", "-j", "2", "-t", "2", "--tolerance", "0.5"], &LOSS[..]].concat())
        .expect(0);
}

#[test]
fn a_search_that_is_killed_resumes() {
    let space = valley(FUNCTION);
    space.write("p.toml", &VALLEY.replace("awk -v", "sleep 0.2; awk -v"));
    let args = [&["sweep", "p.toml", "--plain", "--search", "f.x=0.0..4.0"], &LOSS[..]].concat();
    let mut child = space.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).start();
    space.until("a few points", || space.read("ran").lines().count() >= 5);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    let said = search(&space, &args[3..]).expect(0);
    assert!((value(&rows(&said)[0].0, "x") - 1.525).abs() <= 0.04, "{}", said.stdout);
    let mut points = space.ran();
    let all = points.len();
    points.sort();
    points.dedup();
    assert_eq!(points.len(), 12);
    // The one that was at work when it was killed.
    assert!(all <= 14, "{all} ran");
}

#[test]
fn what_is_wrong_is_refused_before_anything_runs() {
    let space = valley(FUNCTION);
    let refused = |args: &[&str], text: &str| {
        let said = search(&space, args).expect(2).stderr;
        assert!(said.starts_with(&format!("error: {text}")), "{args:?}: {said}");
        assert!(space.ran().is_empty(), "{args:?}");
    };
    let least = |text: &'static str| ["--search", text, "--minimise", "loss"];
    refused(&least("f.x=4..1"), "`--search f.x=4..1`: the interval is empty: 4 up to 1\n");
    refused(&least("f.x=0..many"), "`--search f.x=0..many`: `many` is not a number\n");
    refused(&least("f.word=0..1"), "`--search f.word=0..1`: `word` is not a number\n");
    refused(&least("f.z=0..1"), "`--search f.z=0..1`: stage `f` has no parameter `z`\n");
    refused(&least("g.x=0..1"), "`--search g.x=0..1`: no stage `g` in `p.toml`\n");
    refused(&[&least("f.x=0..1")[..], &["--search", "f.x=0..2"]].concat(), "`--search` names `f.x` twice\n");
    refused(&[&least("f.x=0..1")[..], &["--axis", "f.x=2"]].concat(), "`f.x` is both searched and an axis\n");
    refused(
        &[&least("f.x=0..1")[..], &["--set", "f.x=2"]].concat(),
        "`--set f.x` sets a parameter that the sweep varies\n",
    );
    refused(&["--search", "f.x=0..1"], "the following required arguments were not provided");
    refused(&["--minimise", "loss"], "the following required arguments were not provided");
    refused(&[&least("f.x=0..1")[..], &["--tolerance", "2"]].concat(), "invalid value '2' for '--tolerance <PART>'");
    for flag in [["--budget-trials", "2"], ["--report", "r.html"], ["--junit", "j.xml"]] {
        let text = "the argument '--search <NAME=LO..HI>' cannot be used with";
        refused(&[&least("f.x=0..1")[..], &flag].concat(), text);
    }
    let text = "`--search f.n=0..1`: the interval holds one integer only, 0\n\
                hint: it ends before 1; write `--search f.n=0..=1` to include it\n";
    refused(&least("f.n=0..1"), text);
    for name in ["k", "search", "f.x"] {
        let none = "hint: there are no axes; pass one by `--axis STAGE.NAME=VALUES`\n";
        let text = format!("`--over {name}`: no such axis\n{none}");
        refused(&[&least("f.x=0..1")[..], &["--over", name]].concat(), &text);
    }
}

#[test]
fn metrics_of_known_kinds_are_checked_before_anything_runs() {
    let space = scored("");
    let said = search(&space, &["--search", "pack.limit=1..=4", "--minimise", "losss"]).expect(2).stderr;
    assert!(said.contains("`--minimise losss`: no stage has this metric\n"), "{said}");
    let said = search(&space, &["--search", "pack.limit=0..=4", "--minimise", "images"]).expect(2).stderr;
    assert!(said.starts_with("error: trial `limit=0`: stage `pack`: `limit` must be at least 1, not 0\n"), "{said}");
    let said = search(&space, &["--search", "score.seed=1..=4", "--minimise", "images"]).expect(2).stderr;
    let text = "error: `--minimise images`: stage `pack` depends on none of the parameters that are searched\n";
    assert!(said.starts_with(text), "{said}");
    std::fs::remove_dir_all(space.path("img")).unwrap();
    let said = search(&space, &["--search", "score.seed=1..=4", "--minimise", "anything"]).expect(2).stderr;
    assert!(said.starts_with("error: `--minimise anything`: no stage has this metric\n"), "{said}");
    let said = search(&space, &["--search", "pack.limit=1..=4", "--minimise", "images"]).expect(2).stderr;
    assert!(said.starts_with("error: 2 files and folders are missing\n"), "{said}");
    assert!(space.ran().is_empty());
}

#[test]
fn a_point_without_a_value_ends_the_search() {
    // Awk writes `nan`, which the runner reads as a value that is not finite.
    let space =
        valley("BEGIN { if (x > 2) print \"{\\\"loss\\\": NaN}\"; else printf \"{\\\"loss\\\": %.12f}\\n\", x }\n");
    let said = search(&space, &[&["--search", "f.x=0.0..4.0"], &LOSS[..]].concat()).expect(2);
    assert!(said.stderr.contains("error: `--minimise loss`: it is not a finite number at `x=2."), "{}", said.stderr);
    assert_eq!(rows(&said).len(), 2, "what was tried is shown: {}", said.stdout);
    // A metric of a program is known only after it has run.
    let said = search(&space, &["--search", "f.x=0.0..1.0", "--minimise", "lss"]).expect(2);
    assert!(
        said.stderr.contains("`--minimise lss`: no stage has this metric\nhint: did you mean `loss`?\n"),
        "{}",
        said.stderr
    );
    assert_eq!(space.ran().len(), 5, "the first points only");
    // A trial that fails.
    space.write("f.awk", "BEGIN { if (x > 0.5) exit 7; print \"{\\\"loss\\\": 1}\" }\n");
    let said = search(&space, &[&["--search", "f.x=0.1..0.9"], &LOSS[..]].concat()).expect(1);
    assert!(said.stderr.contains("`f@x=0.5944`") && !said.stderr.contains("next:"), "{}", said.stderr);
    let failed: Vec<bool> = rows(&said).iter().map(|row| row.2 == "failed").collect();
    assert_eq!(failed, [false, true], "{}", said.stdout);
}

#[test]
fn a_metric_of_several_stages_has_to_be_told_apart() {
    let space = valley(FUNCTION);
    let copy = "[stages.g]\nkind = \"command\"\nrun = \"cp {inputs.m} {outputs.m}\"\ninputs = { m = \"f\" }\n\
                outputs = { m = \"metrics\" }\n";
    space.write("p.toml", &format!("{VALLEY}{copy}"));
    let said = search(&space, &[&["--search", "f.x=0.0..4.0"], &LOSS[..]].concat()).expect(2);
    let text = "error: `--minimise loss`: several stages have this metric\nhint: write `f.loss` or `g.loss`\n";
    assert!(said.stderr.ends_with(text), "{}", said.stderr);
    let said = search(&space, &["--search", "f.x=0.0..4.0", "--minimise", "g.loss"]).expect(0);
    assert!((value(&rows(&said)[0].0, "x") - 1.525).abs() <= 0.04, "{}", said.stdout);
}

#[test]
fn a_search_ends_with_a_line_of_json() {
    let space = valley(FUNCTION);
    let search = |goal: [&str; 2]| {
        let said =
            space.erw(&[&["sweep", "p.toml", "--json", "--search", "f.x=0.0..4.0"], &goal[..]].concat()).expect(0);
        said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let events = search(LOSS);
    let found = events.last().unwrap();
    let x = found["settings"]["f.x"].as_f64().unwrap();
    let value = (x - 1.3_f64).powi(2) + 0.45_f64.powi(2) - 0.45 * (x - 1.3);
    assert!((x - 1.525).abs() <= 0.04 && (found["value"].as_f64().unwrap() - value).abs() < 1e-9, "{found}");
    assert_eq!(
        (&found["event"], &found["metric"], &found["goal"], &found["points"], &found["trial"], &found["at_end"]),
        (
            &json!("search_finished"),
            &json!("loss"),
            &json!("minimise"),
            &json!(11),
            &json!(format!("x={x}")),
            &json!([])
        )
    );
    assert!(events.len() > 20 && events.iter().filter(|e| e["event"] == "search_finished").count() == 1);
    // If all points are cached, there are no runs and no other events.
    assert_eq!(search(LOSS).as_slice(), std::slice::from_ref(found));
    let most = search(["--maximise", "gain"]);
    assert_eq!((&most[0]["goal"], &most[0]["settings"]), (&json!("maximise"), &found["settings"]));
    assert_eq!(most[0]["value"].as_f64().unwrap(), -found["value"].as_f64().unwrap());
}

#[test]
fn a_dry_search_shows_its_first_run() {
    let space = valley(FUNCTION);
    let said = space.erw(&[&["sweep", "p.toml", "-n", "--search", "f.x=0.0..4.0"], &LOSS[..]].concat()).expect(0);
    assert!(said.stdout.contains("f@x=1.527") && said.stdout.contains("f@x=2.472"), "{}", said.stdout);
    assert!(space.ran().is_empty() && !said.stderr.contains("next:"));
}
