//! What `erw report` takes for its subject: pipelines of one name, trials that failed or satisfy a
//! condition, past runs whose work was done again, and the runs that made what is shown.

use crate::support::browser::Browser;
use crate::support::deadline::Deadline;
use crate::support::scored::scored;
use crate::support::space::Space;
use crate::support::training;
use erw::report::chart::{Chart, Line, Panel, Point};
use erw::report::page::content::{CurveGroup, Page, Titled};
use erw::report::page::render;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::process::Stdio;

/// `n` counts how often it ran; `m` is a result of its parameter.
const COUNTING: &str = r#"
name = "counting"
[stages.a]
kind = "command"
run = '''echo >> ran; echo '{"m": {params.m}, "n": '$(wc -l < ran)'}' > {outputs.o}'''
outputs = { o = "metrics" }
params = { m = 1 }
"#;

fn report(space: &Space, args: &[&str]) -> String {
    space.erw(&[&["report"], args].concat()).expect(0);
    space.read("report.html")
}

/// The ids of all runs, the latest first.
fn ids(space: &Space) -> Vec<String> {
    let list: Value = serde_json::from_str(&space.erw(&["log", "--json"]).expect(0).stdout).unwrap();
    list.as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_string()).collect()
}

/// The value and the note of a card.
fn card<'p>(page: &'p str, name: &str) -> (&'p str, &'p str) {
    let rest = page.split_once(&format!("<dt>{name}</dt><dd class=\"value\">")).expect(name).1;
    let (value, rest) = rest.split_once("</dd>").unwrap();
    let note = rest.strip_prefix("<dd class=\"soft\">").and_then(|rest| rest.split_once("</dd>"));
    (value, note.map_or("", |(note, _)| note))
}

#[test]
fn pipelines_of_one_name_and_pictures_of_both_are_told_apart() {
    let space = training::space("");
    let p = space.read("p.toml").replace("\"vae-sd\"", "\"../vae-sd\"").replace("\"shards\"", "\"../shards\"");
    space.write("A/p.toml", &p);
    space.write("B/p.toml", &p.replace("lr = 1e-3, alignment_steps = 9", "lr = 3e-3, alignment_steps = 9"));
    let short = ["--set", "train.steps=4", "--set", "train.samples_every=2"];
    for file in ["A/p.toml", "B/p.toml"] {
        space.erw(&[&["run", file, "--plain"], &short[..]].concat()).expect(0);
    }
    let page = report(&space, &[&["A/p.toml", "B/p.toml"], &short[..]].concat());
    assert!(page.contains("<code>A/p.toml</code> and <code>B/p.toml</code>; "), "{}", &page[..3000]);
    let loss = page.split_once("aria-label=\"loss of train\"").unwrap().1.split_once("</figure>").unwrap().0;
    for (line, name) in [("data-line=\"0\"", "A/p.toml"), ("data-line=\"1\"", "B/p.toml")] {
        assert_eq!(loss.matches(line).count(), 3, "two drawings and a line of the legend");
        assert!(loss.contains(name), "{name} in {loss}");
    }
    let gallery = page.split_once("Samples during train</h3>").unwrap().1.split_once("</section>").unwrap().0;
    assert!(gallery.contains("<h4>A/p.toml</h4>") && gallery.contains("<h4>B/p.toml</h4>"));
    // How to get it again keeps the values.
    assert!(page.contains("erw compare A/p.toml B/p.toml --set train.steps=4 --set train.samples_every=2"));
}

#[test]
fn a_card_says_whose_number_it_is_and_shared_stages_cost_once() {
    let slow = COUNTING.replace("echo >> ran;", "echo >> ran; sleep 1;");
    let more = "[stages.b]\nkind = \"command\"\nrun = \"echo '{\\\"k\\\": {params.k}}' > {outputs.o}\"\n\
                outputs = { o = \"metrics\" }\nparams = { k = 1 }\n";
    let space = Space::of(&[("p.toml", &format!("{slow}{more}")), ("q.toml", &format!("{slow}{more}"))]);
    space.write("q.toml", &space.read("q.toml").replace("k = 1", "k = 2"));
    space.run(&[]).expect(0);
    let page = report(&space, &["p.toml", "q.toml"]);
    assert_eq!(card(&page, "a: m"), ("1", "the same in both"));
    assert_eq!(card(&page, "b: k"), ("1", "p.toml"));
    let (seconds, _) = card(&page, "Time of all stages");
    let seconds: f64 = seconds.trim_end_matches(" s").parse().unwrap();
    assert!((1.0..1.9).contains(&seconds), "{seconds}");
    space.erw(&["run", "q.toml", "--plain"]).expect(0);
    assert_eq!(card(&report(&space, &["p.toml", "q.toml"]), "b: k"), ("1 to 2", "p.toml to q.toml"));
}

#[test]
fn the_runs_that_made_it_are_named_and_no_others() {
    let space = Space::new(COUNTING);
    space.run(&[]).expect(0);
    space.run(&["--set", "a.m=2"]).expect(0);
    space.run(&["--set", "a.m=2"]).expect(0);
    let ids = ids(&space);
    let of = |args: &[&str]| -> Vec<bool> {
        let page = report(&space, &[&["p.toml"], args].concat());
        ids.iter().rev().map(|id| page.contains(id)).collect()
    };
    assert_eq!(of(&[]), [true, false, false], "the second ran other values");
    assert_eq!(of(&["--set", "a.m=2"]), [false, true, false], "the third found it cached");
    let page = report(&space, &["p.toml"]);
    assert!(page.contains("run p.toml --plain</dd>"), "the command of the first run: {page}");
}

#[test]
fn a_past_run_shows_nothing_that_a_later_run_left() {
    let space = Space::new(COUNTING);
    space.run(&[]).expect(0);
    let first = format!("run:{}", ids(&space)[0]);
    let told = "did the work of <code>a</code> again";
    let page = report(&space, &[&first]);
    assert!(page.contains("<dt>made</dt>") && !page.contains(told), "{page}");
    space.run(&["--force", "a"]).expect(0);
    let page = report(&space, &[&first]);
    assert!(!page.contains("<dt>made</dt>") && page.contains(told), "{page}");
    assert!(page.contains("<dt>n</dt><dd>1</dd>"), "its own result");
    let page = report(&space, &[&format!("run:{}", ids(&space)[0])]);
    assert!(page.contains("<dt>n</dt><dd>2</dd>") && page.contains("<dt>made</dt>") && !page.contains(told), "{page}");
    // Its values are what they were.
    for (args, flag) in
        [(&["--set", "a.m=2"][..], "--set"), (&["--sweep"], "--sweep"), (&["--axis", "a.m=1"], "--axis")]
    {
        let said = space.erw(&[&["report", &first], args].concat()).expect(2).stderr;
        assert!(said.starts_with(&format!("error: `{flag}` does not apply to a past run\n")), "{said}");
    }
    let said = space.erw(&["show", &first]).expect(2).stderr;
    assert!(said.contains("is a run, not an artifact\nhint: run `erw log "), "{said}");
}

#[test]
fn the_time_of_several_attempts_is_called_that_of_the_last() {
    let space = Space::new(&COUNTING.replace("echo >> ran;", "echo >> ran; [ $(wc -l < ran) != 1 ] || exit 1;"));
    space.run(&["--retries", "1"]).expect(0);
    let page = report(&space, &["p.toml"]);
    assert_eq!(card(&page, "Time of all stages").1, "last attempts only");
    assert!(page.contains("time of the last attempt") && page.contains(", the last attempt</dd>"), "{page}");
}

#[test]
fn a_sweep_shows_its_failed_trials_and_the_whole_page_is_filtered() {
    let space = scored("[sweep]\n\"score.seed\" = [9, 0, 1]\n");
    space.erw(&["sweep", "p.toml", "--plain", "--trial", "seed=9", "--trial", "seed=0"]).expect(1);
    let page = report(&space, &["p.toml", "--sweep", "--each"]);
    assert!(page.contains("<td>failed</td>") && page.contains("<td>unfinished</td>"), "{page}");
    let page = report(&space, &["p.toml", "--sweep", "--each", "--filter", "status=failed"]);
    assert!(page.contains("<th scope=\"row\">seed=9</th>") && page.contains("1 of 3 trials"), "{page}");
    assert!(!page.contains("score@seed=0") && !page.contains(">seed=0<"), "nothing is of other trials: {page}");
    let page = report(&space, &["p.toml", "--sweep", "--each", "--filter", "status=suspended"]);
    assert!(page.contains("no trial satisfies the conditions"), "{page}");
}

#[test]
fn a_sweep_can_be_watched_before_its_first_result() {
    let space = Space::new(&format!("{COUNTING}[sweep]\n\"a.m\" = [3, 1]\n"));
    let args = ["p.toml", "--sweep", "--filter", "n<2", "--sort", "a"];
    let page = report(&space, &args);
    assert!(page.contains("no metric or setting <code>n</code> is known before the stages have run"), "{page}");
    let table = || space.erw(&["sweep", "p.toml", "--table", "--format", "csv", "--filter", "n<2"]);
    let said = table().expect(0);
    assert_eq!(said.stdout.lines().count(), 1, "no row has it: {}", said.stdout);
    assert!(said.stderr.contains("warning: `--filter n<2`"), "{}", said.stderr);
    space.erw(&["sweep", "p.toml", "--plain", "-j1"]).expect(0);
    assert_eq!(table().expect(0).stdout.lines().count(), 2);
    assert!(report(&space, &args).contains("1 of 2 trials"));
    // All have run, so all names are known.
    let said = space.erw(&["sweep", "p.toml", "--table", "--filter", "l<2"]).expect(2).stderr;
    assert!(said.starts_with("error: `--filter l<2`: no metric or setting `l`"), "{said}");
}

#[test]
fn a_trial_and_a_revision_say_how_to_get_them_again() {
    let space = Space::new(&format!("{COUNTING}[sweep]\n\"a.m\" = [3, 1]\n"));
    let page = report(&space, &["p.toml@m=3"]);
    assert!(page.contains("erw sweep p.toml --trial m=3") && page.contains("<code>p.toml@m=3</code>"), "{page}");
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        let mut command = std::process::Command::new("git");
        assert!(command.args([&who, args].concat()).current_dir(space.path("")).output().unwrap().status.success());
    };
    git(&["init", "-q"]);
    git(&["add", "p.toml"]);
    git(&["commit", "-q", "-m", "a"]);
    space.write("p.toml", &space.read("p.toml").replace("m = 1 }", "m = 5 }"));
    let page = report(&space, &["HEAD:p.toml"]);
    assert!(page.contains("git checkout HEAD\nerw run p.toml</code>"), "{page}");
    assert!(page.contains("m = 1 }") && !page.contains("too large for the page"), "the file of the revision: {page}");
    let page = report(&space, &["HEAD:p.toml", "p.toml"]);
    assert!(page.contains("<code>HEAD:p.toml</code> and <code>p.toml</code>"), "{page}");
}

#[test]
fn a_page_that_is_watched_outlives_a_bad_save() {
    let space = Space::new(COUNTING);
    let args = ["report", "p.toml", "--watch"];
    let mut watching = space.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).start();
    let has = |text: &str| space.read("report.html").contains(text);
    space.until("the page", || has("1 never ran"));
    space.write("p.toml", &COUNTING.replace("kind = \"command\"", "kind = \"comand\""));
    space.until("the error", || has("comand") && has("What failed"));
    assert!(has("data-reload"), "somebody goes on writing it");
    space.write("p.toml", COUNTING);
    space.until("the page", || has("1 never ran") && !has("What failed"));
    kill(Pid::from_raw(watching.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(watching.wait().unwrap().code(), Some(130));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut watching.stderr.take().unwrap(), &mut said).unwrap();
    let told = said.lines().filter(|line| line.starts_with("error: ") && line.contains("comand"));
    assert_eq!(told.count(), 1, "{said}");
}

#[test]
fn values_of_lines_at_different_steps_are_told_together() {
    let Some(browser) = Browser::start() else { return };
    // As two long trainings are thinned: each line has steps of its own.
    let line = |name: &str, first: usize| Line {
        name: name.into(),
        points: (0..240).map(|i| Point { x: (4 * i + first) as f64, mean: 1.0 + i as f64, sd: 0.0 }).collect(),
        faint: false,
    };
    // Two lines of one name are two lines.
    let lines = vec![line("same", 0), line("same", 2)];
    let content =
        Chart { x_title: "step".into(), panels: vec![Panel { title: "loss".into(), lines }], note: "".into() };
    let charts = vec![Titled { title: "loss".into(), content }];
    let page = Page { curves: vec![CurveGroup { title: "train".into(), charts }], ..Page::default() };
    let space = Space::of(&[("page.html", &render(&page))]);
    browser.open(&space.path("page.html"));
    browser.run("document.querySelector('.chart').focus()");
    browser.keys(".chart", "\u{E014}\u{E014}\u{E014}");
    let found = browser.run("return Array.from(document.querySelectorAll('.legend output')).map((e) => e.textContent)");
    let values: Vec<f64> = found.as_array().unwrap().iter().map(|v| v.as_str().unwrap().parse().unwrap()).collect();
    assert!(values[0] <= 2.0 && values[1] <= 2.0, "the beginning of both: {values:?}");
}
