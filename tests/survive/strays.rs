//! Programs that leave something running. What is guaranteed: when the outputs of a stage are digested, nothing that it
//! started lives any more, in whatever session or group; so nobody holds a file open that becomes an artifact.

use super::lives;
use crate::support::space::Space;

/// Leaves a daemon behind, in a session of its own, that goes on writing to the output through an open file, and then by
/// its name. `END` is how the stage itself ends.
const DAEMON: &str = r#"
import os, time, sys
out, pid_file = sys.argv[1:3]
os.mkdir(out)
f = open(os.path.join(out, "f"), "w")
f.write("whole\n")
f.flush()
ready, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() > 0:
        os._exit(0)
    os.closerange(0, 3)
    open(pid_file, "w").write(str(os.getpid()))
    os.write(tell, b"x")
    # Long, but not for ever: a test that fails leaves it running.
    for _ in range(60000):
        f.write("late\n")
        f.flush()
        time.sleep(0.001)
    os._exit(0)
os.read(ready, 1)
END
"#;

fn daemon(end: &str) -> Space {
    let space = Space::new(
        r#"
[stages.s]
kind = "command"
run = ["python3", "daemon.py", "{outputs.o}", "pid"]
outputs = { o = "folder" }
[stages.t]
kind = "command"
run = "sleep 0.05; cat {inputs.x}/f > {outputs.o}"
inputs = { x = "s" }
outputs = { o = "text" }
"#,
    );
    space.write("daemon.py", &DAEMON.replace("END", end));
    space
}

fn pid(space: &Space) -> u32 {
    space.read("pid").parse().unwrap()
}

#[test]
fn a_daemon_that_writes_to_an_output_is_ended_before_it_is_published() {
    let space = daemon("");
    space.run(&[]).expect(0);
    assert!(!lives(pid(&space)));
    space.erw(&["cache", "verify"]).expect(0);
    let artifact = space.bucket("store").into_iter().find(|p| p.is_dir()).unwrap();
    assert_eq!(std::fs::read_to_string(artifact.join("f")).unwrap(), space.outputs()["t"]);
}

#[test]
fn a_daemon_of_a_stage_that_fails_is_ended_too() {
    let space = daemon("sys.exit(3)");
    let said = space.run(&[]).expect(1);
    assert!(said.stderr.contains("error: stage `s`: `python3` exited with status 3"), "{}", said.stderr);
    assert!(!lives(pid(&space)));
    assert!(space.bucket("actions").is_empty() && space.bucket("store").is_empty());
}

#[test]
fn a_daemon_ends_with_a_runner_that_is_killed() {
    let space = daemon("time.sleep(60)");
    let mut child = space.start(&[]);
    space.until("the daemon", || !space.read("pid").is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    space.until("the daemon to end", || !lives(pid(&space)));
    // And the key is free.
    space.write("daemon.py", "import sys, os; os.mkdir(sys.argv[1]); open(sys.argv[1] + '/f', 'w').write('x')");
    space.run(&[]).expect(0);
    assert_eq!(space.outputs()["t"], "x");
}

#[test]
fn a_daemon_ends_when_a_stop_is_asked_for() {
    let space = daemon("time.sleep(60)");
    let child = space.start(&[]);
    space.until("the daemon", || !space.read("pid").is_empty());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::SIGTERM).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    assert!(!lives(pid(&space)));
}
