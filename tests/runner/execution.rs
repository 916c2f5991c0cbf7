//! Running pipelines: what is reused, what runs and why, and what a failure stops.

use crate::support::deadline::Deadline;
use crate::support::space::{Said, Space, spoil};
use std::time::Duration;

/// src -> a -> b -> c, and d, a folder, beside them; every script notes that it ran.
const CHAIN: &str = r#"
name = "chain"
[stages.a]
kind = "command"
run = "echo a >> ran; tr a-z A-Z < src > {outputs.o}"
outputs = { o = "text" }
watch = ["src"]
[stages.b]
kind = "command"
run = "echo b >> ran; head -n 1 {inputs.x} > {outputs.o}"
inputs = { x = "a" }
outputs = { o = "text" }
[stages.c]
kind = "command"
run = "echo c >> ran; (cat {inputs.x}; echo {params.n}) > {outputs.o}"
inputs = { x = "b" }
outputs = { o = "text" }
params = { n = 1 }
[stages.d]
kind = "command"
run = "echo d >> ran; mkdir {outputs.o}; echo d > {outputs.o}/file"
outputs = { o = "folder" }
"#;

fn chain() -> Space {
    let space = Space::new(CHAIN);
    space.write("src", "one\ntwo\n");
    space
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn a_second_run_runs_nothing_and_says_so() {
    let space = chain();
    let said = space.run(&[]).expect(0);
    assert_eq!(sorted(space.ran()), ["a", "b", "c", "d"]);
    assert!(said.stderr.contains("a: started (never ran)"), "{}", said.stderr);
    let said = space.run(&[]).expect(0);
    assert!(space.ran().is_empty());
    assert!(said.stdout.contains("all 4 stages are cached"), "{}", said.stdout);
    assert_eq!(std::fs::read_dir(space.path("cache/v1/work")).unwrap().count(), 0);
}

#[test]
fn an_upstream_rerun_with_equal_bytes_reruns_nothing_downstream() {
    let space = chain();
    space.run(&[]).expect(0);
    space.ran();
    // The second line changes `a`, but not what `b` takes of it.
    space.write("src", "one\nTWO!\n");
    let said = space.run(&[]).expect(0);
    assert_eq!(space.ran(), ["a", "b"]);
    assert!(said.stderr.contains("a: started (source `watch.0` changed (src))"), "{}", said.stderr);
    assert!(said.stderr.contains("c: cached"), "{}", said.stderr);
}

#[test]
fn reasons_name_the_parameter_and_its_place() {
    let space = chain();
    space.run(&[]).expect(0);
    assert!(space.plan(&["--set", "c.n=5"]).contains("run: params.n 1 -> 5 (--set"));
    space.write("p.toml", &CHAIN.replace("n = 1", "n = 2"));
    let plan = space.plan(&[]);
    assert!(plan.contains("run: params.n 1 -> 2 (p.toml:18)"), "{plan}");
    assert!(plan.contains("1 of 4 stages would run"), "{plan}");
    assert_eq!(space.erw(&["run", "p.toml", "--dry-run"]).expect(0).stdout, plan);
    space.write("src", "other\n");
    let plan = space.plan(&[]);
    assert!(plan.contains("run: source `watch.0` changed"), "{plan}");
    assert!(plan.contains("waits: stale because `a` will run"), "{plan}");
    assert_eq!(space.read("ran").lines().count(), 4, "a plan runs nothing");
}

#[test]
fn going_back_to_an_earlier_value_is_free() {
    let space = chain();
    space.run(&[]).expect(0);
    space.run(&["--set", "c.n=2"]).expect(0);
    space.ran();
    space.run(&[]).expect(0);
    assert!(space.ran().is_empty());
}

#[test]
fn a_missing_source_is_an_error_before_anything_runs() {
    let space = chain();
    std::fs::remove_file(space.path("src")).unwrap();
    let said = space.run(&[]).expect(2);
    assert!(said.stderr.contains("stage `a`: `watch.0` is missing: no file or folder at"), "{}", said.stderr);
    assert!(space.ran().is_empty());
    assert!(space.plan(&[]).contains("missing: `watch.0`: nothing at src"));
    assert!(
        space.plan(&[]).contains("1 file or folder is missing; with --keep-going, 1 stage would run"),
        "{}",
        space.plan(&[])
    );
    // What does not need it can be had.
    space.run(&["--keep-going"]).expect(1);
    assert_eq!(space.ran(), ["d"]);
    space.run(&["d"]).expect(0);
}

#[test]
fn forcing_runs_one_stage_again_and_nothing_else() {
    let space = chain();
    space.run(&[]).expect(0);
    space.ran();
    let said = space.run(&["--force", "b"]).expect(0);
    assert_eq!(space.ran(), ["b"]);
    assert!(said.stderr.contains("b: started (forced)"), "{}", said.stderr);
    assert!(space.run(&["--force", "bb"]).expect(2).stderr.contains("`--force bb`: no such stage"));
}

#[test]
fn targets_run_their_dependencies_only() {
    let space = chain();
    space.run(&["b"]).expect(0);
    assert_eq!(space.ran(), ["a", "b"]);
}

const FAILING: &str = r#"
[stages.bad]
kind = "command"
run = "while ! [ -e began ]; do sleep 0.01; done; echo bad >> ran; echo the last words; [ -e fixed ] && echo ok > {outputs.o}"
outputs = { o = "text" }
resources = { threads = 1 }
[stages.after]
kind = "command"
run = "echo after >> ran; cp {inputs.x} {outputs.o}"
inputs = { x = "bad" }
outputs = { o = "text" }
[stages.slow]
kind = "command"
run = "touch began; while ! grep -q bad ran; do sleep 0.02; done; sleep 0.3; echo slow >> ran; echo > {outputs.o}"
outputs = { o = "text" }
resources = { threads = 1 }
[stages.later]
kind = "command"
run = "echo later >> ran; cp {inputs.x} {outputs.o}"
inputs = { x = "slow" }
outputs = { o = "text" }
"#;

#[test]
fn a_failure_stops_what_depends_on_it_and_its_error_comes_last() {
    let space = Space::new(FAILING);
    space.write("ran", "");
    let said = space.run(&["--threads", "2"]).expect(1);
    assert_eq!(space.ran(), ["bad", "slow"], "what runs is finished, nothing new is started");
    let error = said.stderr.find("error: stage `bad`: `sh` exited with status 1").expect(&said.stderr);
    assert!(said.stderr[..error].contains("  | the last words"));
    assert!(said.stderr.contains("after: skipped, needs `bad`"), "{}", said.stderr);
    assert!(!said.stderr[error..].contains("skipped"));
    let said = space.run(&["--keep-going"]).expect(1);
    assert_eq!(sorted(space.ran()), ["bad", "later"]);
    assert!(said.stderr.trim_end().lines().rev().take(3).any(|l| l.contains("error: stage `bad`")), "{}", said.stderr);
    space.write("fixed", "");
    space.run(&[]).expect(0);
    assert_eq!(space.ran(), ["bad", "after"]);
}

#[test]
fn declared_outputs_must_be_made() {
    let space = Space::new(
        "[stages.s]\nkind = \"command\"\nrun = \"echo > {outputs.a}; echo > {outputs.a}x\"\noutputs = { a = \"t\", b = \"t\" }\n",
    );
    let said = space.run(&[]).expect(1);
    assert!(said.stderr.contains("the stage ended without creating its output `b`"), "{}", said.stderr);
    assert!(said.stderr.contains("found instead: ax"), "{}", said.stderr);
    assert!(!space.path("cache/v1/actions").read_dir().unwrap().any(|_| true), "nothing is recorded");
}

#[test]
fn a_source_that_changes_during_its_stage_fails_the_stage() {
    let space = Space::new(
        "[stages.s]\nkind = \"command\"\nrun = \"cp src {outputs.a}; echo x >> src\"\noutputs = { a = \"t\" }\nwatch = [\"src\"]\n",
    );
    space.write("src", "1\n");
    assert!(space.run(&[]).expect(1).stderr.contains("source `watch.0` changed while the stage was running"));
}

#[test]
fn stages_run_side_by_side_if_they_fit() {
    // Each waits for the other's mark: one at a time they would wait until they are killed.
    let stage = |me: &str, other: &str| {
        format!(
            "[stages.{me}]\nkind = \"command\"\nrun = \"touch mark-{me}; while ! [ -e mark-{other} ]; do sleep 0.02; done; echo > {{outputs.o}}\"\n\
             outputs = {{ o = \"t\" }}\nresources = {{ threads = 1 }}\n"
        )
    };
    let space = Space::new(&(stage("a", "b") + &stage("b", "a")));
    let mut run = space.command(&["run", "p.toml", "--plain", "--threads", "2"]);
    Said::from(run.finish_within(Duration::from_secs(60))).expect(0);
}

#[test]
fn a_stage_without_threads_runs_alone() {
    let stage = |me: &str| {
        format!(
            "[stages.{me}]\nkind = \"command\"\nrun = \"mkdir busy && sleep 0.2 && rmdir busy && echo {{threads}} > {{outputs.o}}\"\noutputs = {{ o = \"t\" }}\n"
        )
    };
    let space = Space::new(&(stage("a") + &stage("b")));
    space.run(&["--threads", "3"]).expect(0);
    assert_eq!(space.outputs()["a"], "3\n");
}

#[test]
fn two_stages_with_one_key_run_once() {
    let stage = |me: &str| {
        format!(
            "[stages.{me}]\nkind = \"command\"\nrun = \"echo x >> ran; sleep 0.2; echo > {{outputs.o}}\"\noutputs = {{ o = \"t\" }}\nresources = {{ threads = 1 }}\n"
        )
    };
    let space = Space::new(&(stage("a") + &stage("b")));
    space.run(&["--threads", "2"]).expect(0);
    assert_eq!(space.ran(), ["x"]);
}

/// The second of them is found done when it is about to start; what was not ready before that must
/// not be forgotten.
#[test]
fn what_needs_two_stages_with_one_key_runs() {
    let twin = |name: &str| {
        format!(
            "[stages.{name}]\nkind = \"command\"\nrun = \"echo twin >> ran; sleep 0.2; echo 1 > {{outputs.x}}\"\noutputs = {{ x = \"text\" }}\n"
        )
    };
    let both = "[stages.both]\nkind = \"command\"\nrun = \"echo both >> ran; cat {inputs.p} {inputs.q} > {outputs.y}\"\ninputs = { p = \"a\", q = \"b\" }\noutputs = { y = \"text\" }\n";
    for options in [&["--jobs", "1"][..], &["--jobs", "2"], &["--jobs", "2", "both"]] {
        let space = Space::new(&(twin("a") + &twin("b") + both));
        let said = space.run(options).expect(0);
        assert_eq!(space.ran(), ["twin", "both"], "{}", said.stderr);
        assert!(!said.stderr.contains("skipped"), "{}", said.stderr);
        assert!(space.plan(&[]).contains("all 3 stages are cached"));
    }
    let light = |name: &str| twin(name) + "resources = { threads = 1 }\n";
    let space = Space::new(&(light("a") + &light("b") + both));
    let said = space.run(&["--jobs", "2", "--threads", "2"]).expect(0).stderr;
    assert!(said.contains("b: `a` is the same and computes it; waiting for its result\n"), "{said}");
}

#[test]
fn two_runs_at_once_compute_each_stage_once() {
    let space = Space::new(
        "[stages.s]\nkind = \"command\"\nrun = \"echo s >> ran; while ! [ -e go ]; do sleep 0.02; done; echo 1 > {outputs.o}\"\noutputs = { o = \"t\" }\n",
    );
    let first = space.start(&[]);
    space.until("the first run", || space.read("ran") == "s\n");
    let mut second = space.start(&[]);
    // The second says that it waits before it is let go.
    use std::io::{BufRead, BufReader};
    let mut lines = BufReader::new(second.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert_eq!(line, "s: another run is computing it; waiting for its result");
    space.write("go", "");
    assert!(first.wait_with_output().unwrap().status.success());
    assert_eq!(lines.next().unwrap().unwrap(), "s: cached");
    assert!(second.wait().unwrap().success());
    assert_eq!(space.ran(), ["s"]);
}

#[test]
fn a_damaged_intermediate_is_made_again_before_it_is_used() {
    let space = chain();
    space.run(&[]).expect(0);
    let good = space.outputs();
    space.ran();
    // Same length, other bytes: only reading tells.
    let b = space.bucket("store").into_iter().find(|p| std::fs::read(p).is_ok_and(|t| t == b"ONE\n")).unwrap();
    spoil(&b, b"oNE\n");
    space.run(&["--set", "c.n=7"]).expect(0);
    assert_eq!(space.ran(), ["b", "c"]);
    assert_eq!(std::fs::read(&b).unwrap(), b"ONE\n");
    assert_eq!(space.outputs(), good);
    // Another length is seen without reading.
    spoil(&b, b"");
    let said = space.run(&[]).expect(0);
    assert_eq!(space.ran(), ["b"]);
    assert!(said.stderr.contains("b: started (output `o` is damaged)"), "{}", said.stderr);
    std::fs::remove_file(&b).unwrap();
    let said = space.run(&[]).expect(0);
    assert!(said.stderr.contains("b: started (output `o` is no longer in the store)"), "{}", said.stderr);
}

#[test]
fn a_damaged_record_causes_a_rerun() {
    let space = chain();
    space.run(&[]).expect(0);
    space.ran();
    for record in space.bucket("actions") {
        spoil(&record, b"{\"format\":1,\"che");
    }
    let said = space.run(&[]).expect(0);
    assert_eq!(sorted(space.ran()), ["a", "b", "c", "d"]);
    assert!(said.stderr.contains("the action record is damaged"), "{}", said.stderr);
}

#[test]
fn verify_names_damage_and_exits_with_4() {
    let space = chain();
    space.run(&[]).expect(0);
    assert!(space.erw(&["cache", "verify"]).expect(0).stdout.contains("4 artifacts"));
    let file = space.bucket("store").into_iter().find(|p| p.is_dir()).unwrap();
    spoil(&file.join("file"), b"D\n");
    let said = space.erw(&["cache", "verify"]).expect(4);
    assert!(said.stderr.contains("of chain/d"), "{}", said.stderr);
    space.erw(&["cache", "verify"]).expect(0);
    space.ran();
    space.run(&[]).expect(0);
    assert_eq!(space.ran(), ["d"]);
}

#[test]
fn gc_keeps_what_records_need_and_what_pipelines_use() {
    let space = chain();
    space.run(&[]).expect(0);
    space.run(&["--set", "c.n=2"]).expect(0);
    let loose = space.path("cache/v1/store/ab");
    std::fs::create_dir_all(&loose).unwrap();
    std::fs::write(loose.join("ab".repeat(32)), "x").unwrap();
    assert!(space.erw(&["cache", "gc", "--dry-run"]).expect(0).stdout.contains("would remove 0 records, 1 artifact,"));
    assert!(space.erw(&["cache", "gc"]).expect(0).stdout.contains("removed 0 records, 1 artifact,"));
    assert_eq!(space.bucket("store").len(), 5);
    let said = space.erw(&["cache", "gc", "--keep-pipelines", "p.toml"]).expect(0);
    assert!(said.stdout.contains("removed 1 record, 1 artifact,"), "{}", said.stdout);
    space.ran();
    space.run(&[]).expect(0);
    assert!(space.ran().is_empty());
}

#[test]
fn renamed_and_moved_pipelines_reuse_results() {
    let space = chain();
    space.run(&[]).expect(0);
    space.ran();
    space.write("sub/src", "one\ntwo\n");
    space.write(
        "sub/q.toml",
        &CHAIN.replace("stages.b", "stages.bee").replace("\"b\"", "\"bee\"").replace("chain", "q"),
    );
    space.erw(&["run", "sub/q.toml"]).expect(0);
    assert!(space.ran().is_empty() && space.read("sub/ran").is_empty());
}

#[test]
fn an_unusable_cache_folder_is_one_error() {
    let space = chain();
    space.write("file", "");
    let said = space.run(&["--cache-dir", "file/cache"]).expect(2);
    assert!(said.stderr.contains("cannot use the cache folder `file/cache`"), "{}", said.stderr);
    assert!(space.ran().is_empty());
}

#[test]
fn the_up_to_date_answer_is_dropped_when_something_changes() {
    let space = chain();
    space.run(&[]).expect(0);
    space.ran();
    let memos = || std::fs::read_dir(space.path("cache/v1/memos")).map_or(0, Iterator::count);
    assert_eq!(memos(), 1);
    let cached = |args: &[&str]| {
        let said = space.run(args).expect(0);
        assert!(said.stdout.contains("all 4 stages are cached"), "{}", said.stdout);
        assert!(space.ran().is_empty());
    };
    cached(&[]);
    // Each thing that the answer rests on is looked at.
    space.write("src", "three\nfour\n");
    space.run(&[]).expect(0);
    assert_eq!(sorted(space.ran()), ["a", "b", "c"]);
    cached(&[]);
    space.run(&["--set", "c.n=7"]).expect(0);
    assert_eq!(space.ran(), ["c"]);
    cached(&[]);
    space.write("p.toml", &CHAIN.replace("n = 1", "n = 2"));
    space.run(&[]).expect(0);
    assert_eq!(space.ran(), ["c"]);
    space.run(&["--force", "d"]).expect(0);
    assert_eq!(space.ran(), ["d"]);
    cached(&[]);
    let record = space.bucket("actions")[0].clone();
    std::fs::remove_file(&record).unwrap();
    space.run(&[]).expect(0);
    space.ran();
    let folder = space.bucket("store").into_iter().find(|p| p.is_dir()).unwrap();
    spoil(&folder.join("file"), b"longer than it was");
    space.run(&[]).expect(0);
    assert_eq!(space.ran(), ["d"]);
    cached(&[]);
    // A damaged memo is none.
    let memo = std::fs::read_dir(space.path("cache/v1/memos")).unwrap().next().unwrap().unwrap().path();
    for memo in std::fs::read_dir(memo.parent().unwrap()).unwrap().map(|m| m.unwrap().path()) {
        let mut bytes = std::fs::read(&memo).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&memo, bytes).unwrap();
    }
    cached(&[]);
    // What ran while a source changed under it must not be taken for an answer about the new one.
    space.write(
        "p.toml",
        &CHAIN.replace("n = 1", "n = 3").replace("echo c >> ran;", "echo c >> ran; echo changed > src;"),
    );
    space.run(&[]).expect(0);
    space.ran();
    space.run(&[]).expect(0);
    assert!(space.ran().contains(&"a".to_string()));
}

#[test]
fn watch_recovers_from_a_broken_parent_at_the_start() {
    let space = chain();
    space.write("child.toml", "extends = \"p.toml\"\n");
    space.write("p.toml", "broken");
    let mut command = space.command(&["run", "child.toml", "--watch", "--plain"]);
    let mut child =
        command.stdout(std::process::Stdio::null()).stderr(std::fs::File::create(space.path("said")).unwrap()).start();
    space.until("the error", || space.read("said").contains("waiting for changes"));
    space.write("p.toml", CHAIN);
    let ran = || space.read("ran").lines().any(|l| l == "c");
    let seen = (0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        ran()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen, "{}", space.read("said"));
}

#[test]
fn watch_runs_again_when_a_file_changes() {
    let space = chain();
    let child = space.start(&["--watch"]);
    let runs = |name: &str, times: usize| {
        space.until(&format!("run {times} of `{name}`"), || {
            space.read("ran").lines().filter(|l| *l == name).count() == times
        });
    };
    // Until all is quiet, a change may be told together with the next.
    let settled = |n: usize| {
        let waiting = || {
            std::fs::read_dir(space.path("cache/runs"))
                .map_or(0, |d| d.filter(|r| r.as_ref().is_ok_and(|r| r.path().join("summary.json").exists())).count())
        };
        space.until("the end of a run", || waiting() >= n);
    };
    runs("c", 1);
    settled(1);
    space.write("src", "five\nsix\n");
    runs("a", 2);
    settled(2);
    // An error is told and does not end it; the file may come by renaming.
    space.write("p.toml", "[stages.a]\nkind = \"commando\"\n");
    std::thread::sleep(std::time::Duration::from_millis(600));
    space.write("p.new", &CHAIN.replace("n = 1", "n = 9"));
    std::fs::rename(space.path("p.new"), space.path("p.toml")).unwrap();
    runs("c", 3);
    settled(3);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("src changed") && stderr.contains("unknown kind `commando`"), "{stderr}");
}

#[test]
fn work_folders_may_be_on_another_file_system() {
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let space = chain();
    std::fs::create_dir_all(space.path("cache/v1")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), space.path("cache/v1/work")).unwrap();
    space.run(&[]).expect(0);
    assert_eq!(space.bucket("store").len(), 4);
    assert!(space.bucket("store").iter().all(|p| !p.file_name().unwrap().to_string_lossy().starts_with(".tmp")));
    assert_eq!(elsewhere.path().read_dir().unwrap().count(), 0);
    space.erw(&["cache", "verify"]).expect(0);
}

/// A watched file that somebody cuts short at any moment of its reading: an error at most, and
/// nothing else ends.
#[test]
fn truncating_a_source_during_hashing_fails_only_its_stage() {
    let space = Space::new(
        r#"
[stages.first]
kind = "command"
run = "touch going; while [ ! -e go ]; do sleep 0.01; done; echo > {outputs.o}"
outputs = { o = "f" }
resources = { threads = 1 }
[stages.quick]
kind = "command"
run = "sleep 0.1; echo > {outputs.o}"
outputs = { o = "f" }
resources = { threads = 1 }
[stages.reader]
kind = "command"
run = "echo > {outputs.o}"
outputs = { o = "f" }
inputs = { i = "quick" }
watch = ["big"]
resources = { threads = 1 }
"#,
    );
    let big = std::fs::File::create(space.path("big")).unwrap();
    big.set_len(1 << 30).unwrap();
    let child = space.start(&["--keep-going", "--threads", "3"]);
    space.until("the first stage", || space.path("going").exists());
    // While it is read for the third stage, at whatever place that is.
    for i in 0..60 {
        big.set_len(0).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(10 + i % 3));
        big.set_len(1 << 30).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    space.write("go", "");
    let out = child.wait_with_output().map(Said::from).unwrap();
    assert!([0, 1].contains(&out.status), "{} {}", out.status, out.stderr);
    if out.status == 1 {
        let file = space.path("big").canonicalize().unwrap();
        assert!(out.stderr.contains("stage `reader`"), "{}", out.stderr);
        assert!(out.stderr.contains(file.to_str().unwrap()), "{}", out.stderr);
    }
    // The one beside it has come to its end.
    assert!(space.plan(&["first"]).contains("is cached"));
}

/// A file that a worker has mapped, here an IDX file of images: its stage fails and names the file.
#[test]
fn truncating_a_mapped_file_fails_its_stage_with_an_error() {
    const IMAGES: u32 = 400_000;
    let space = Space::new(
        "[stages.i]\nkind = \"images\"\nparams = { source = \"t-images-idx3-ubyte\", resolution = 28, transform = \"none\", labels = \"t-labels-idx1-ubyte\" }\n",
    );
    let write = |name: &str, head: &[u32], bytes: u64| {
        let head: Vec<u8> = head.iter().flat_map(|n| n.to_be_bytes()).collect();
        std::fs::write(space.path(name), &head).unwrap();
        std::fs::File::options()
            .write(true)
            .open(space.path(name))
            .unwrap()
            .set_len(head.len() as u64 + bytes)
            .unwrap();
    };
    write("t-images-idx3-ubyte", &[0x803, IMAGES, 28, 28], u64::from(IMAGES) * 28 * 28);
    write("t-labels-idx1-ubyte", &[0x801, IMAGES], u64::from(IMAGES));
    let child = space.start(&[]);
    let journal = || {
        let runs = std::fs::read_dir(space.path("cache/runs")).into_iter().flatten().flatten();
        runs.map(|r| std::fs::read_to_string(r.path().join("events.jsonl")).unwrap_or_default()).collect::<String>()
    };
    space.until("the images to be listed", || journal().contains("images of") || journal().contains("run_finished"));
    let file = std::fs::File::options().write(true).open(space.path("t-images-idx3-ubyte")).unwrap();
    file.set_len(100).unwrap();
    let said = child.wait_with_output().map(Said::from).unwrap();
    assert_eq!(said.status, 1, "{}", said.stderr);
    assert!(said.stderr.contains("error: stage `i`: `"), "{}", said.stderr);
    assert!(said.stderr.contains("t-images-idx3-ubyte` was truncated while it was read"), "{}", said.stderr);
}
