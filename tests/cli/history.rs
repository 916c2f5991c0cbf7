//! `erw show`, `log` and `logs`: runs, logs, the lineage of artifacts, and JUnit reports.

use crate::support::deadline::Deadline;
use crate::support::disk::Disk;
use crate::support::space::redact;
use crate::support::space::{Said, Space};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::Duration;

const PIPELINE: &str = r#"
name = "back"
[stages.a]
kind = "command"
run = "echo from a; cat src > {outputs.o}"
outputs = { o = "text" }
watch = ["src"]
[stages.b]
kind = "command"
run = "cat {inputs.x} {inputs.x} > {outputs.left}; echo {params.n} > {outputs.right}"
inputs = { x = "a" }
outputs = { left = "text", right = "text" }
params = { n = 1 }
[stages.c]
kind = "command"
run = "cat {inputs.p} {inputs.q} {inputs.r} > {outputs.o}"
inputs = { p = "b.left", q = "b.right", r = "a" }
outputs = { o = "text" }
"#;

fn space() -> Space {
    let space = Space::new(PIPELINE);
    space.write("src", "hello\n");
    space
}

#[test]
fn show_traces_an_artifact_to_its_source_files() {
    let space = space();
    let said = space.erw(&["show", "p.toml:c"]).expect(2).stderr;
    assert!(said.contains("stage `c` is stale, so it has no artifact"), "{said}");
    space.run(&[]).expect(0);
    let shown = space.erw(&["show", "p.toml:c"]).expect(0).stdout;
    let path = shown.lines().nth(2).unwrap().trim().to_string();
    let (before, rest) = shown.split_once(", peak memory ").expect("the peak of memory");
    let (peak, after) = rest.split_once('\n').expect("the peak of memory");
    assert!(peak.ends_with("iB"), "{peak}");
    let shown_anywhere = format!("{before}, peak memory SIZE\n{after}").replace(&path, "PATH");
    insta::assert_snapshot!("show", redact(&shown_anywhere));
    // The same by its path and by the first digits of its digest.
    assert_eq!(space.erw(&["show", &path]).expect(0).stdout, shown);
    assert_eq!(space.erw(&["cache", "show", &path]).expect(0).stdout, shown);
    let digest = path.rsplit('/').next().unwrap();
    assert_eq!(space.erw(&["show", &digest[..12]]).expect(0).stdout, shown);
    let json: Value = serde_json::from_str(&space.erw(&["show", digest, "--json"]).expect(0).stdout).unwrap();
    assert_eq!(json["made_by"]["inputs"][0][1]["made_by"]["stage"], "b");
    let said = space.erw(&["show", "p.toml:b"]).expect(2).stderr;
    assert!(said.ends_with("hint: write `p.toml:b.left` or `p.toml:b.right`\n"), "{said}");
    assert!(space.erw(&["show", "ffffffffffff"]).expect(2).stderr.contains("no artifact `ffffffffffff`"));
    assert!(space.erw(&["show", "what"]).expect(2).stderr.contains("`what` is not an artifact"));
}

#[test]
fn log_lists_runs_with_user_and_result() {
    let space = space();
    assert_eq!(space.erw(&["log"]).expect(0).stdout, "no runs\n");
    space.run(&[]).expect(0);
    space.run(&["--force", "b"]).expect(0);
    space.write("p.toml", &PIPELINE.replace("echo from a;", "echo from a; exit 3;"));
    space.run(&[]).expect(1);
    let list = space.erw(&["log"]).expect(0).stdout;
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].contains("  back  1 failed, 2 skipped") && lines[0].ends_with("exit 1"), "{list}");
    assert!(lines[1].contains("  back  1 ran, 2 cached") && lines[1].ends_with("exit 0"), "{list}");
    let who = format!("  {}@{}  ", erw::runner::host::user(), erw::runner::host::host());
    assert!(lines.len() == 3 && lines.iter().all(|l| l.contains(&who)), "{list}");
    assert_eq!(space.erw(&["log", "-n", "1"]).expect(0).stdout.lines().count(), 1);
    let id = lines[1].split(' ').next().unwrap();
    let detail = space.erw(&["log", id]).expect(0).stdout;
    assert!(detail.contains(" run p.toml --plain --force b\n"), "{detail}");
    assert!(detail.lines().any(|l| l.starts_with("b  done") && l.ends_with("(forced)")), "{detail}");
    let json: Value = serde_json::from_str(&space.erw(&["log", "--json"]).expect(0).stdout).unwrap();
    assert_eq!((&json[0]["exit"], &json[0]["stages"][0]["state"]), (&1.into(), &"failed".into()));
    assert!(space.erw(&["log", "20"]).expect(2).stderr.contains("3 runs start with `20`"));
    assert!(space.erw(&["log", "x"]).expect(2).stderr.contains("no run `x`"));
}

/// The seconds of the last run, and of its first stage.
fn seconds(space: &Space) -> (f64, f64) {
    let runs: Value = serde_json::from_str(&space.erw(&["log", "--json"]).expect(0).stdout).unwrap();
    (runs[0]["seconds"].as_f64().unwrap(), runs[0]["stages"][0]["seconds"].as_f64().unwrap())
}

#[test]
fn a_stage_that_failed_or_was_suspended_has_the_time_of_its_attempt() {
    let space = Space::new(&PIPELINE.replace("echo from a;", "sleep 1; exit 3;"));
    space.write("src", "hello\n");
    let said = space.erw(&["run", "p.toml", "--json", "--junit", "j.xml"]).expect(1).stdout;
    let events = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let end = events.into_iter().find(|event| event["event"] == "ended").unwrap();
    let is_whole = |seconds: f64| (1.0..60.0).contains(&seconds);
    assert!(end["stage"] == "a" && is_whole(end["seconds"].as_f64().unwrap()), "{end}");
    assert!(is_whole(seconds(&space).1), "{:?}", seconds(&space));
    let time = space.read("j.xml").split_once("name=\"a\"").unwrap().1.split("time=\"").nth(1).unwrap().to_string();
    assert!(is_whole(time.split('"').next().unwrap().parse().unwrap()), "{time}");
    // What was never begun took no time.
    assert_eq!(space.erw(&["log", "--json"]).expect(0).stdout.matches("\"seconds\": 0.0").count(), 2);
    let space = Space::new(&PIPELINE.replace("echo from a;", "touch begun; sleep 600;"));
    space.write("src", "hello\n");
    let mut child = space.start(&[]);
    space.until("the stage to begin", || space.path("begun").exists());
    std::thread::sleep(Duration::from_secs(1));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    child.wait().unwrap();
    assert!(is_whole(seconds(&space).1), "{:?}", seconds(&space));
}

#[test]
fn the_time_of_what_is_at_work_goes_on_and_that_of_what_was_killed_stands() {
    let space = Space::new(&PIPELINE.replace("echo from a;", "touch begun; sleep 600;"));
    space.write("src", "hello\n");
    let mut child = space.start(&[]);
    space.until("the stage to begin", || space.path("begun").exists());
    // It says nothing meanwhile.
    space.until("two seconds", || seconds(&space).1 > 2.0);
    let (of_run, of_stage) = seconds(&space);
    assert!(of_run >= of_stage, "{of_run} {of_stage}");
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = seconds(&space);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(seconds(&space), killed);
    assert!(killed.0 < of_run, "its last event was its start: {killed:?}");
}

#[test]
fn a_name_with_a_line_break_stays_in_its_row() {
    let space = Space::new(&PIPELINE.replace("name = \"back\"", "name = \"ba\\nck\""));
    space.write("src", "hello\n");
    space.run(&[]).expect(0);
    let list = space.erw(&["log"]).expect(0).stdout;
    assert!(list.lines().count() == 1 && list.contains("  ba ck  "), "{list}");
    assert_eq!(space.erw(&["log", "-n", "0"]).expect(0).stdout, "", "there are runs");
}

#[test]
fn log_distinguishes_running_from_cut_off() {
    let space = Space::new(&PIPELINE.replace("echo from a;", "echo from a; touch begun; sleep 600;"));
    space.write("src", "hello\n");
    let mut child = space.start(&[]);
    space.until("the stage to begin", || space.path("begun").exists());
    let list = space.erw(&["log"]).expect(0).stdout;
    assert!(list.contains("  1 running  ") && list.ends_with("running\n"), "{list}");
    child.kill().unwrap();
    child.wait().unwrap();
    let list = space.erw(&["log"]).expect(0).stdout;
    assert!(list.contains("  1 cut off  ") && list.ends_with("cut off\n"), "{list}");
    let detail = space.erw(&["log", list.split(' ').next().unwrap()]).expect(0).stdout;
    assert!(
        detail.contains("ended     cut off: the run was killed, or the machine went down; rerun to resume\n"),
        "{detail}"
    );
    // A journal without a summary, as of a version that wrote it last, is of a run that was cut
    // off.
    let run = std::fs::read_dir(space.path("cache/runs")).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(run.join("summary.json")).unwrap();
    let list = space.erw(&["log"]).expect(0).stdout;
    assert!(list.contains("  back  1 cut off  ") && list.ends_with("cut off\n"), "{list}");
}

#[test]
fn logs_are_found_during_and_after_a_stage_and_without_its_key() {
    let space = space();
    let said = space.erw(&["logs", "p.toml", "a"]).expect(2).stderr;
    assert!(said.contains("stage `a` has no log"), "{said}");
    space.run(&[]).expect(0);
    assert_eq!(space.erw(&["logs", "p.toml", "a"]).expect(0).stdout, "from a\n");
    space.write("p.toml", &PIPELINE.replace("cat {inputs.x}", "echo from b; exit 3; cat {inputs.x}"));
    space.run(&[]).expect(1);
    assert_eq!(space.erw(&["logs", "p.toml", "b"]).expect(0).stdout, "from b\n");
    // Its key cannot be told now: the journal knows what was tried last.
    space.write("src", "other\n");
    assert_eq!(space.erw(&["logs", "p.toml", "b"]).expect(0).stdout, "from b\n");
    assert_eq!(space.erw(&["logs", "p.toml", "a"]).expect(0).stdout, "from a\n");
}

#[test]
fn a_log_is_followed_until_its_stage_ends() {
    let wait = "echo from a; until [ -e go ]; do sleep 0.01; done; echo end of a;";
    let space = Space::new(&PIPELINE.replace("echo from a;", wait));
    space.write("src", "hello\n");
    let mut child = space.start(&["a"]);
    space.until("a log", || {
        let said = space.erw(&["logs", "p.toml", "a"]);
        said.status == 0 && said.stdout == "from a\n"
    });
    let follow = space.command(&["logs", "p.toml", "a", "--follow"]).stdout(Stdio::piped()).start();
    space.write("go", "");
    let said = follow.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "from a\nend of a\n");
    assert!(child.wait().unwrap().success());
}

/// What a real parser of XML finds: a line a case.
const READ: &str = r#"
import sys, xml.etree.ElementTree as E
suites = E.parse(sys.argv[1]).getroot()
print(suites.tag, *(suites[0].attrib[k] for k in ("name", "tests", "failures", "skipped")))
for case in suites[0]:
    assert case.tag == "testcase" and float(case.attrib["time"]) >= 0
    inner = [(c.tag, c.attrib.get("message"), (c.text or "").splitlines()[-1:]) for c in case]
    print(case.attrib["classname"], case.attrib["name"], inner)
"#;

#[test]
fn a_run_is_reported_as_junit() {
    // Markup, and an escape that XML cannot hold.
    let bad = r"printf 'a <b> & \\033[31mred\\033[0m\\n'; exit 3; cat {inputs.x}";
    let space = Space::new(&PIPELINE.replace("cat {inputs.x} {inputs.x}", bad));
    space.write("src", "hello\n");
    space.write("read.py", READ);
    let read = || {
        let out = Command::new("python3").arg(space.path("read.py")).arg(space.path("j.xml")).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    space.run(&["a"]).expect(0);
    space.run(&["--junit", "j.xml"]).expect(1);
    assert_eq!(
        read(),
        "testsuites back 3 1 1\n\
         back a [('system-out', None, ['cached'])]\n\
         back b [('failure', '`sh` exited with status 3', ['  a <b> & red'])]\n\
         back c [('skipped', 'needs `b`', [])]\n"
    );
    // A dry run has nothing to report.
    let said = space.run(&["--junit", "k.xml", "--dry-run"]).expect(2).stderr;
    assert!(said.contains("cannot be used with"), "{said}");
    let said = space.run(&["--junit", "no/such/j.xml"]).expect(2).stderr;
    assert!(said.contains("cannot write `no/such/j.xml`"), "{said}");
}

#[test]
fn a_junit_report_that_cannot_be_written_leaves_no_empty_one() {
    let space = space();
    let Some(disk) = Disk::mount(space.path("full"), "size=64k,nr_inodes=100") else { return };
    disk.fill();
    let said = space.run(&["--junit", "full/j.xml"]).expect(0).stderr;
    assert!(said.contains("warning: cannot write `full/j.xml`: No space left"), "{said}");
    assert!(!space.path("full/j.xml").exists());
}

#[test]
fn events_that_cannot_be_written_end_a_run_with_an_error() {
    let space = space();
    let mut command = space.command(&["run", "p.toml", "--json"]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let child = command.stdout(full).stderr(Stdio::piped()).start();
    let said = Said::from(child.wait_with_output().unwrap()).expect(2).stderr;
    assert_eq!(said.matches("warning: cannot write events to standard output: No space left").count(), 1, "{said}");
    assert!(said.contains("error: cannot write to standard output\ncause: No space left"), "{said}");
    assert!(space.run(&[]).expect(0).stdout.contains("all 3 stages are cached"), "the run went on to its end");
    // A reader that is gone is no error.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = space.command(&["run", "p.toml", "--json", "--force", "a"]);
    let child = command.stdout(writer).stderr(Stdio::piped()).start();
    assert_eq!(Said::from(child.wait_with_output().unwrap()).expect(0).stderr, "");
}

#[test]
fn cached_stages_too_many_to_list_are_counted() {
    let stage = |i: usize| {
        format!("[stages.s{i}]\nkind = \"command\"\nrun = [\"touch\", \"{{outputs.o}}\"]\noutputs = {{ o = \"t\" }}\n")
    };
    let space = Space::new(&(0..201).map(stage).collect::<String>());
    // The second run keeps the answer for the third.
    (0..3).for_each(|_| drop(space.run(&[]).expect(0)));
    let said = space.erw(&["log", "-n", "1"]).expect(0).stdout;
    assert!(said.contains("  201 cached  "), "{said}");
}
