//! Programs that leave processes running. When the outputs of a stage are hashed, nothing that it
//! started still runs, in any session or group; so no process holds a file open that becomes an
//! artifact.

use super::lives;
use crate::support::space::Space;

/// Leaves a daemon behind, in a session of its own, that goes on writing to the output through an
/// open file, and then by its name. `END` is how the stage itself ends.
const DAEMON: &str = r#"
mkdir $1
exec 3> $1/f
echo whole >&3
# Long, but not for ever: a test that fails leaves it running.
setsid sh -c 'echo $$ > pid; for i in $(seq 90000); do echo late >&3; echo late >> $0/f; sleep 0.002; done' $1 > /dev/null 2>&1 &
while ! [ -s pid ]; do sleep 0.01; done
END
"#;

fn daemon(end: &str) -> Space {
    let space = Space::new(
        r#"
[stages.s]
kind = "command"
run = ["sh", "daemon.sh", "{outputs.o}"]
outputs = { o = "folder" }
[stages.t]
kind = "command"
run = "sleep 0.05; cat {inputs.x}/f > {outputs.o}"
inputs = { x = "s" }
outputs = { o = "text" }
"#,
    );
    space.write("daemon.sh", &DAEMON.replace("END", end));
    space
}

fn pid(space: &Space) -> u32 {
    space.read("pid").trim().parse().unwrap()
}

#[test]
fn a_daemon_that_writes_to_an_output_is_ended_before_it_is_published() {
    let space = daemon("exit 0");
    space.run(&[]).expect(0);
    assert!(!lives(pid(&space)));
    space.erw(&["cache", "verify"]).expect(0);
    let artifact = space.bucket("store").into_iter().find(|p| p.is_dir()).unwrap();
    assert_eq!(std::fs::read_to_string(artifact.join("f")).unwrap(), space.outputs()["t"]);
}

#[test]
fn a_daemon_of_a_stage_that_fails_is_ended_too() {
    let space = daemon("exit 3");
    let said = space.run(&[]).expect(1);
    assert!(said.stderr.contains("error: stage `s`: `sh` exited with status 3"), "{}", said.stderr);
    assert!(!lives(pid(&space)));
    assert!(space.bucket("actions").is_empty() && space.bucket("store").is_empty());
}

#[test]
fn a_daemon_ends_with_a_runner_that_is_killed() {
    let space = daemon("sleep 60");
    let mut child = space.start(&[]);
    space.until("the daemon", || space.read("pid").ends_with('\n'));
    child.kill().unwrap();
    child.wait().unwrap();
    space.until("the daemon to end", || !lives(pid(&space)));
    // And the key is free.
    space.write("daemon.sh", "mkdir $1; echo x > $1/f");
    space.run(&[]).expect(0);
    assert_eq!(space.outputs()["t"], "x\n");
}

#[test]
fn a_daemon_ends_when_a_stop_is_asked_for() {
    let space = daemon("sleep 60");
    let child = space.start(&[]);
    space.until("the daemon", || space.read("pid").ends_with('\n'));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::SIGTERM).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    assert!(!lives(pid(&space)));
}
