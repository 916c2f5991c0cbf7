//! Resources, priorities, timeouts, retries, and kills for lack of memory.

use crate::support::skip;
use crate::support::space::Space;
use std::path::{Path, PathBuf};

/// A stage that notes when it begins and ends.
fn noted(name: &str, more: &str) -> String {
    format!(
        "[stages.{name}]\nkind = \"command\"\nrun = \"echo +{name} >> ran; sleep 0.2; echo -{name} >> ran; echo {name} > {{outputs.o}}\"\noutputs = {{ o = \"t\" }}\n{more}\n"
    )
}

#[test]
fn a_named_resource_is_shared_out_by_units() {
    let stages = |n: u64| -> String {
        ["a", "b", "c"].map(|s| noted(s, &format!("resources = {{ threads = 1, licence = {n} }}"))).concat()
    };
    let most_at_once = |ran: Vec<String>| {
        let mut now = 0i32;
        ran.iter()
            .map(|l| {
                if l.starts_with('+') {
                    now += 1;
                    now
                } else {
                    now -= 1;
                    now
                }
            })
            .max()
            .unwrap()
    };
    let space = Space::new(&stages(1));
    space.run(&["--threads", "3"]).expect(0);
    assert_eq!(most_at_once(space.ran()), 1, "without a word about licences they take turns");
    let space = Space::new(&stages(1));
    space.run(&["--threads", "3", "--resource", "licence=2"]).expect(0);
    assert_eq!(most_at_once(space.ran()), 2);
    let space = Space::new(&stages(3));
    let said = space.run(&["--resource", "licence=2"]).expect(2);
    assert!(said.stderr.contains("stage `a` requests 3 of `licence`, this run has 2"), "{}", said.stderr);
    let said = space.run(&["--resource", "license=2"]).expect(2);
    assert!(said.stderr.contains("did you mean `licence`?"), "{}", said.stderr);
    let said = space.run(&["--resource", "x=1"]).expect(2);
    assert_eq!(said.stderr, "error: no stage requests the resource `x`\nhint: they request `licence`\n");
    for (flags, why) in [
        (["--resource", "=1"], "expected NAME=N, such as licence=2"),
        (["--resource", "threads=1"], "use `--threads`"),
        (["--resource", "mem=1GiB"], "use `--mem`"),
        (["--mem", "much"], "expected a size, such as 16GiB or 500MB"),
        (["--max-load", "nan"], "expected a number of at least 0, such as 7.5"),
    ] {
        let said = space.run(&flags).expect(2).stderr;
        assert!(said.contains(why), "{said}");
    }
    assert!(space.ran().is_empty());
}

#[test]
fn the_memory_of_a_run_may_be_less_than_that_of_the_machine() {
    let text: String = ["a", "b"].map(|s| noted(s, "resources = { threads = 1, mem = \"1MiB\" }")).concat();
    let order = |mem: &str| {
        let space = Space::new(&text);
        space.run(&["--threads", "2", "--mem", mem]).expect(0);
        space.ran().iter().map(|l| l[..1].to_string()).collect::<String>()
    };
    assert_eq!(order("1MiB"), "+-+-");
    assert_eq!(order("2MiB"), "++--");
}

#[test]
fn the_longest_chain_goes_first() {
    // Stated first, yet nothing waits for them.
    let mut text: String = ["x", "y"].map(|s| noted(s, "resources = { threads = 1 }")).concat();
    for (i, name) in ["a", "b", "c"].iter().enumerate() {
        let input = if i > 0 { format!("inputs = {{ i = \"{}\" }}", ["a", "b"][i - 1]) } else { String::new() };
        text += &noted(name, &format!("resources = {{ threads = 1 }}\n{input}"));
    }
    let space = Space::new(&text);
    space.run(&["--threads", "1"]).expect(0);
    let order: Vec<String> = space.ran().into_iter().filter(|l| l.starts_with('+')).collect();
    // The last of the chain is as urgent as the others.
    assert_eq!(order[..2], ["+a", "+b"], "{order:?}");
}

#[test]
fn a_stage_that_times_out_is_stopped_and_resumes() {
    let run = "trap 'echo saved > {checkpoints}/s; exit 0' TERM; if [ -e {checkpoints}/s ]; then cp {checkpoints}/s {outputs.o}; exit; fi; sleep 60 & wait";
    let text = |more: &str| {
        format!(
            "[stages.s]\nkind = \"command\"\nrun = \"{run}\"\noutputs = {{ o = \"t\" }}\ntimeout = \"300ms\"\n{more}"
        )
    };
    let space = Space::new(&text(""));
    let said = space.run(&[]).expect(1);
    assert!(said.stderr.contains("error: stage `s`: it exceeded its timeout of 0.3 s"), "{}", said.stderr);
    space.run(&[]).expect(0);
    assert_eq!(space.outputs()["s"], "saved\n");
    let space = Space::new(&text("retries = 1\nbackoff = \"10ms\""));
    let said = space.run(&[]).expect(0);
    assert!(said.stderr.contains("s: failed: it exceeded its timeout of 0.3 s; attempt 2 in"), "{}", said.stderr);
    assert_eq!(space.outputs()["s"], "saved\n");
    // A stage says nothing: the command line may.
    let slow = Space::new("[stages.s]\nkind = \"command\"\nrun = [\"sleep\", \"60\"]\noutputs = { o = \"t\" }\n");
    let said = slow.run(&["--timeout", "200ms"]).expect(1);
    assert!(said.stderr.contains("timeout of 0.2 s"), "{}", said.stderr);
}

#[test]
fn a_failed_attempt_is_retried() {
    let text = |more: &str| {
        format!(
            "[stages.s]\nkind = \"command\"\nrun = \"echo s >> ran; echo to the log; [ $(wc -l < ran) -ge 3 ] && echo ok > {{outputs.o}}\"\noutputs = {{ o = \"t\" }}\nbackoff = \"10ms\"\n{more}"
        )
    };
    let space = Space::new(&text("retries = 2"));
    let said = space.run(&[]).expect(0);
    assert_eq!(space.ran().len(), 3);
    assert!(said.stderr.contains("s: failed: `sh` exited with status 1; attempt 2 in"), "{}", said.stderr);
    assert!(!said.stderr.contains("the log of"), "what went well in the end has no failure: {}", said.stderr);
    let space = Space::new(&text("retries = 1"));
    let said = space.run(&[]).expect(1);
    assert!(said.stderr.contains("hint: it failed 2 times"), "{}", said.stderr);
    let space = Space::new(&text(""));
    space.run(&["--retries", "1"]).expect(1);
    assert_eq!(space.ran().len(), 2);
    let space = Space::new(&text("retries = 0"));
    space.run(&["--retries", "5"]).expect(1);
    assert_eq!(space.ran().len(), 1, "what the stage says counts more");
}

#[test]
fn retry_options_are_not_in_the_key_and_are_checked() {
    let space = Space::new(&noted("a", "timeout = \"1h\"\nretries = 1"));
    space.run(&[]).expect(0);
    space.write("p.toml", &noted("a", "timeout = \"2h\"\nbackoff = \"3s\"\nresources = { licence = 1 }"));
    assert!(space.plan(&[]).contains("cached"));
    for (fault, message) in [
        ("timeout = 3", "stage `a`: `timeout` must be a duration"),
        ("timeout = \"soon\"", "hint: write `timeout = \"2h\"`"),
        ("retries = -1", "stage `a`: `retries` must be an integer of at least 0"),
        ("resources = { \"a b\" = 1 }", "stage `a`: `a b` cannot name a resource"),
        ("resources = { licence = \"x\" }", "stage `a`: `licence` must be an integer of at least 0"),
    ] {
        space.write("p.toml", &noted("a", fault));
        let said = space.erw(&["plan", "p.toml"]).expect(2);
        assert!(said.stderr.contains(message) && said.stderr.contains("p.toml:5"), "{}", said.stderr);
    }
}

#[test]
fn a_busy_machine_starts_one_stage_at_a_time() {
    let space = Space::new(&["a", "b", "c"].map(|s| noted(s, "resources = { threads = 1 }")).concat());
    space.run(&["--threads", "3", "--max-load", "0"]).expect(0);
    let ran = space.ran();
    // One at a time is always allowed.
    assert!(ran.chunks(2).all(|pair| pair[0].starts_with('+') && pair[1].starts_with('-')), "{ran:?}");
}

/// A control group of 100 MB, of version 1 or 2 as the machine has it, if it lets us.
fn small_group() -> Option<PathBuf> {
    let versions = [
        ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]),
        ("/sys/fs/cgroup", ["memory.max", "memory.swap.max"]),
    ];
    versions.into_iter().find_map(|(root, limits)| {
        let group = Path::new(root).join(format!("erw-test-{}", std::process::id()));
        std::fs::create_dir(&group).ok()?;
        let limited = std::fs::write(group.join(limits[0]), "100M").is_ok();
        // The limit with swap is there only where the kernel counts swap.
        let _ = std::fs::write(group.join(limits[1]), if limits[1].ends_with("swap.max") { "0" } else { "100M" });
        if !limited {
            let _ = std::fs::remove_dir(&group);
        }
        limited.then_some(group)
    })
}

#[test]
fn an_out_of_memory_kill_is_reported_as_such() {
    let Some(group) = small_group() else {
        // The words are tested beside the code that chooses them.
        return skip("this user cannot make a control group for memory");
    };
    let run = format!(
        "echo $$ > {}/cgroup.procs; exec python3 -c 'x = bytearray(1 << 30); x[::4096] = bytes(len(x[::4096]))'",
        group.display()
    );
    let space = Space::new(&format!("[stages.s]\nkind = \"command\"\nrun = \"{run}\"\noutputs = {{ o = \"t\" }}\n"));
    let said = space.run(&[]).expect(1);
    let _ = std::fs::remove_dir(&group);
    assert!(said.stderr.contains("stage `s`: `sh` was killed by the kernel: out of memory"), "{}", said.stderr);
    assert!(
        said.stderr.contains("its peak memory was") && said.stderr.contains("resources = { mem ="),
        "{}",
        said.stderr
    );
}

#[test]
fn a_daemon_left_by_a_program_is_ended() {
    let run = "mkdir {outputs.o}; echo good > {outputs.o}/f; setsid sh -c 'exec 3>>{outputs.o}/f; echo $$ > daemon; while :; do echo bad >&3; sleep 0.01; done' & while ! [ -s daemon ]; do sleep 0.01; done; cp {outputs.o}/f copy";
    let space =
        Space::new(&format!("[stages.s]\nkind = \"command\"\nrun = \"\"\"{run}\"\"\"\noutputs = {{ o = \"t\" }}\n"));
    space.run(&[]).expect(0);
    let daemon = space.read("daemon");
    assert!(!Path::new("/proc").join(daemon.trim()).exists(), "still there");
    space.erw(&["cache", "verify"]).expect(0);
}

#[test]
fn metrics_written_by_a_program_are_its_results() {
    let text = "[stages.s]\nkind = \"command\"\nrun = \"echo '{\\\"fd\\\": 0.25, \\\"note\\\": \\\"x\\\"}' > {outputs.m}\"\noutputs = { m = \"metrics\" }\n";
    let space = Space::new(text);
    let said = space.run(&[]).expect(0);
    assert!(said.stdout.contains("fd 0.25"), "{}", said.stdout);
    assert!(space.run(&[]).expect(0).stdout.contains("fd 0.25"), "cached ones tell them too");
}

/// Each open file of the runner is copied for every program that it starts, so what waits must not hold
/// one: a lock is taken by what starts.
#[test]
fn stages_that_wait_hold_no_files() {
    let stage = |i: usize| {
        format!(
            "[stages.s{i}]\nkind = \"command\"\nrun = \"ls /proc/$PPID/fd > {{outputs.o}}\"\noutputs = {{ o = \"t\" }}\nparams = {{ n = {i} }}\n"
        )
    };
    let space = Space::new(&(0..150).map(stage).collect::<String>());
    space.run(&["--jobs", "1"]).expect(0);
    let open: Vec<usize> = space.outputs().values().map(|files| files.lines().count()).collect();
    assert_eq!(open.len(), 150);
    assert!(open.iter().all(|n| (3..60).contains(n)), "{open:?}");
}
