//! Reference curves: made of a sweep over seeds, and a training held against them.

use crate::support::deadline::Deadline;
use crate::support::space::Said;
use crate::support::space::Space;
use crate::support::training::{command, space};

const SEEDS: [&str; 2] = ["--axis", "train.seed=0..4"];
const SHORT: [&str; 2] = ["--set", "train.steps=22"];

/// A space in which four seeds were trained, and their curves in `c.csv`.
fn with_curves() -> Space {
    let space = space("");
    space.erw(&[&["sweep", "p.toml", "train", "--plain"], &SEEDS[..], &SHORT].concat()).expect(0);
    let csv = bands(&space, &[&SEEDS[..], &SHORT].concat()).expect(0).stdout;
    space.write("c.csv", &csv);
    space
}

fn bands(space: &Space, more: &[&str]) -> Said {
    space.erw(&[&["metrics", "p.toml", "--bands", "--format", "csv"], more].concat())
}

fn train(space: &Space, sets: &[&str]) {
    Said::from(command(space, "cache", sets).finish()).expect(0);
}

fn compare(space: &Space, sets: &[&str]) -> Said {
    space.erw(&[&["compare", "p.toml", "c.csv", "--format", "csv"], sets].concat())
}

#[test]
fn another_seed_is_inside_and_another_recipe_is_not() {
    let space = with_curves();
    let csv = space.read("c.csv");
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("stage,metric,step,runs,mean,sd"));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row[0] == "train" && row[3] == "4"), "the warmup is one for all seeds: {csv}");
    let steps: Vec<&str> = rows.iter().filter(|row| row[1] == "loss").map(|row| row[2]).collect();
    assert_eq!(steps, ["1", "2", "3", "5", "7", "9", "11", "14", "16", "18", "20", "22"]);
    let rate = rows.iter().find(|row| row[1] == "lr" && row[2] == "22").unwrap();
    assert_eq!(rate[4..], ["0.001", "0"]);
    assert!(!csv.contains("per_s"), "speeds are not of the method");

    // A new seed, and one of the four.
    let fresh = ["--set", "train.seed=7", "--set", "train.steps=22"];
    train(&space, &fresh);
    let said = compare(&space, &fresh).expect(0);
    assert!(said.stdout.contains("train,loss,12,0,,,,\n"), "{}", said.stdout);
    let said = space.erw(&["compare", "p.toml@seed=2", "c.csv", SEEDS[0], SEEDS[1], SHORT[0], SHORT[1]]);
    assert!(said.expect(0).stdout.contains("grad_norm"));

    // The rate alone is told where it differs, and what comes of it.
    let other = [&fresh[..], &["--set", "train.lr=1e-2"]].concat();
    train(&space, &other);
    let said = compare(&space, &other).expect(1);
    assert!(said.stdout.contains("train,lr,12,12,1,0.01,"), "{}", said.stdout);
    assert!(said.stderr.contains("outside of the curves of `c.csv`: "), "{}", said.stderr);
    assert!(said.stderr.contains("`lr` of `train` from step 1"), "{}", said.stderr);

    // The last run, by its journal; and a training that never ran.
    let runs = std::fs::read_dir(space.path("cache/runs")).unwrap();
    let last = runs.map(|run| run.unwrap().file_name().into_string().unwrap()).max().unwrap();
    let said = space.erw(&["compare", &format!("run:{last}"), "c.csv"]).expect(1);
    assert!(said.stderr.contains("`lr` of `train` from step 1"), "{}", said.stderr);
    let said = space.erw(&["compare", "p.toml", "c.csv", "--set", "train.steps=21"]).expect(2);
    assert!(said.stderr.contains("nothing to hold against `c.csv`"), "{}", said.stderr);
}

#[test]
fn the_curves_of_the_quick_start_are_of_its_stages() {
    let space = Space::of(&[]);
    space.erw(&["init", "digits"]).expect(0);
    let csv = space.read("digits.curves.csv");
    let plan = space.erw(&["plan", "digits.toml"]).expect(0).stdout;
    for stage in csv.lines().skip(1).map(|line| line.split(',').next().unwrap()) {
        assert!(plan.split_whitespace().any(|word| word == stage), "no stage `{stage}`: {plan}");
    }
    let said = space.erw(&["compare", "digits.toml", "digits.curves.csv"]).expect(2).stderr;
    assert!(said.contains("nothing to hold against `digits.curves.csv`"), "{said}");
    // A recipe that changes needs other curves.
    let recipe = space.read("digits.toml");
    for (stage, steps) in [("warmup", "300"), ("train", "1500")] {
        let last = csv.lines().rfind(|line| line.starts_with(&format!("{stage},"))).unwrap();
        assert_eq!(last.split(',').nth(2), Some(steps), "{stage}");
        assert!(recipe.contains(&format!("\nsteps = {steps}\n")), "{stage}");
    }
}

#[test]
fn curves_that_would_tell_nothing_are_refused() {
    let space = with_curves();
    let refused = |more: &[&str], cause: &str| {
        let said = bands(&space, more).expect(2);
        assert!(said.stderr.contains(cause), "{more:?}: {}", said.stderr);
    };
    let short = |more: [&'static str; 2]| [&SHORT[..], &more].concat();
    refused(&short(["--axis", "train.lr=1e-3,1e-2"]), "the axis `lr` is no seed");
    refused(&short(["--axis", "train.seed=0..2"]), "2 trials of `train` do not tell its spread");
    refused(&short(["--axis", "train.seed=0..9"]), "`train@seed=4` has no metrics by step");
    refused(&short(["--axis", "latents.seed=0..4"]), "seed");
    refused(&[&SHORT[..], &SEEDS, &["trian"]].concat(), "did you mean `train`?");
    for (text, cause) in [
        ("", "`c.csv` has no reference curves"),
        ("stage,metric,step,runs,mean,sd\ntrain,loss,1,4,NaN,0\n", "c.csv:2: "),
        ("stage,metric,step,runs,mean,sd\ntrain,loss,1,4,1,-1\n", "c.csv:2: "),
        ("stage,metric,step,runs,mean,sd\ntrain,loss,1\n", "c.csv:2: "),
    ] {
        space.write("c.csv", text);
        let said = compare(&space, &SHORT).expect(2);
        assert!(said.stderr.contains(cause), "{text:?}: {}", said.stderr);
    }
    std::fs::remove_file(space.path("c.csv")).unwrap();
    assert!(compare(&space, &SHORT).expect(2).stderr.contains("cannot read `c.csv`"));
}
