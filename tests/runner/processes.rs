//! The environment of programs, signals, and runs under tight limits.

use crate::support::deadline::Deadline;
use crate::support::disk::Disk;
use crate::support::skip;
use crate::support::space::{Said, Space};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// A stage `s` with an output `o`.
fn stage(run: &str, more: &str) -> String {
    format!("[stages.s]\nkind = \"command\"\nrun = '''\n{run}'''\noutputs = {{ o = \"t\" }}\n{more}\n")
}

/// Says when it has begun, and goes on when it may.
const WAITS: &str = "touch began; until [ -e go ]; do sleep 0.02; done; echo > {outputs.o}";

fn log(space: &Space) -> String {
    space.erw(&["logs", "p.toml", "s"]).expect(0).stdout
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

fn end(child: Child) -> Said {
    Said::from(child.wait_with_output().unwrap())
}

/// Is this tool here? If not, the test is skipped.
#[track_caller]
fn has(tool: &str) -> bool {
    let there =
        Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().is_ok_and(|o| o.status.success());
    if !there {
        skip(&format!("no `{tool}` on this machine"));
    }
    there
}

/// Runs a command line on a terminal of its own and returns what that shows.
fn on_a_terminal(space: &Space, line: &str) -> (i32, String) {
    let mut command = Command::new("script");
    command.args(["-qec", line, "typescript"]).current_dir(space.path("."));
    command.env_remove("ERW_CACHE_DIR").env_remove("ERW_REMOTE").env("TERM", "xterm");
    let said = command.stdin(Stdio::null()).finish();
    (said.status.code().unwrap_or(-1), String::from_utf8_lossy(&said.stdout).into_owned())
}

fn erw() -> &'static str {
    env!("CARGO_BIN_EXE_erw")
}

#[test]
fn a_program_leads_a_session_with_empty_stdin() {
    let run = "set -e\nread -r all < /proc/$$/stat\nset -- $all\necho $5-$6 $(cat | wc -c) > {outputs.o}; [ $5 = $$ ]; [ $6 = $$ ]";
    let space = Space::new(&stage(run, ""));
    space.run(&[]).expect(0);
    assert!(space.outputs()["s"].ends_with(" 0\n"));
}

/// A terminal that cannot move its cursor gets lines.
#[test]
fn a_dumb_terminal_gets_lines() {
    if !has("script") {
        return;
    }
    for term in ["TERM=dumb", "-u TERM", "TERM="] {
        let space = Space::new(&stage("echo > {outputs.o}", ""));
        let (status, said) = on_a_terminal(&space, &format!("env {term} {} run p.toml", erw()));
        assert_eq!(status, 0, "{said}");
        assert!(said.contains("s: started (never ran)") && said.contains("s: done in "), "{term}: {said}");
    }
}

#[test]
fn a_program_has_no_terminal() {
    if !has("script") {
        return;
    }
    for asks in ["stty -echo < /dev/tty", "echo password? > /dev/tty", "read x < /dev/tty", "exec 3<> /dev/tty"] {
        let space = Space::new(&stage(&format!("({asks}) 2>&1 || echo none; echo > {{outputs.o}}"), ""));
        let (status, said) = on_a_terminal(&space, &format!("timeout -k 1 60 {} run p.toml --plain", erw()));
        assert_eq!(status, 0, "{asks}: {said}");
        assert!(log(&space).ends_with("none\n"), "{asks}");
    }
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    for (name, signal) in [("HUP", Signal::SIGHUP), ("TERM", Signal::SIGTERM)] {
        let space = Space::new(&stage(WAITS, ""));
        let mut nohup = Command::new("sh");
        nohup.args(["-c", &format!("trap '' {name}; exec \"$@\""), "sh", erw(), "run", "p.toml", "--plain"]);
        nohup.current_dir(space.path(".")).env_remove("ERW_CACHE_DIR").env_remove("ERW_REMOTE");
        let child = nohup.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).start();
        space.until("the stage", || space.path("began").exists());
        send(&child, signal);
        space.write("go", "");
        end(child).expect(0);
    }
    // Without it, a closed terminal is a wish to stop.
    let space = Space::new(&stage(WAITS, ""));
    let child = space.start(&[]);
    space.until("the stage", || space.path("began").exists());
    send(&child, Signal::SIGHUP);
    end(child).expect(129);
}

#[test]
fn a_background_job_obeys_sigint() {
    let space = Space::new(&stage(WAITS, ""));
    let script = format!(
        "{} run p.toml --plain > said & P=$!; until [ -e began ]; do sleep 0.02; done; kill -INT $P; wait $P; echo $?",
        erw()
    );
    let mut sh = Command::new("sh");
    sh.args(["-c", &script]).current_dir(space.path(".")).env_remove("ERW_CACHE_DIR").env_remove("ERW_REMOTE");
    let said = Said::from(sh.finish());
    assert_eq!(said.stdout, "130\n", "{}", said.stderr);
}

/// Saves what it did when it is asked to stop, which takes a while, and goes on from there.
const SAVES: &str = "
trap 'sleep 0.3; echo saved > {checkpoints}/s; exit 0' TERM
[ -e {checkpoints}/s ] && cp {checkpoints}/s {outputs.o} && exit
touch began
while :; do sleep 0.02; done";

#[test]
fn signals_that_come_together_count_once() {
    let resumes = |space: &Space| {
        space.run(&[]).expect(0);
        assert_eq!(space.outputs()["s"], "saved\n");
    };
    for more in [vec![Signal::SIGINT], vec![Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]] {
        let space = Space::new(&stage(SAVES, ""));
        let child = space.start(&[]);
        space.until("the stage", || space.path("began").exists());
        send(&child, Signal::SIGINT);
        more.into_iter().for_each(|signal| send(&child, signal));
        let said = end(child);
        // Of several that wait it is the kernel who says which was first.
        assert!(matches!(said.status, 129 | 130 | 143), "{}", said.stderr);
        assert!(
            said.stderr.contains("s: suspended; in the next run it resumes from its checkpoints"),
            "{}",
            said.stderr
        );
        resumes(&space);
    }
    // To the whole group, and to the runner.
    let space = Space::new(&stage(SAVES, ""));
    let mut command = space.command(&["run", "p.toml", "--plain"]);
    let child = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped()).start();
    space.until("the stage", || space.path("began").exists());
    killpg(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    send(&child, Signal::SIGINT);
    end(child).expect(130);
    resumes(&space);
    if has("timeout") {
        for signal in ["INT", "TERM", "HUP"] {
            let space = Space::new(&stage(SAVES, ""));
            let line = format!("timeout -s {signal} 3 {} run p.toml --plain", erw());
            let mut sh = Command::new("sh");
            sh.args(["-c", &line]).current_dir(space.path(".")).env_remove("ERW_CACHE_DIR").env_remove("ERW_REMOTE");
            let said = Said::from(sh.finish()).expect(124);
            assert!(said.stderr.contains("s: suspended"), "{}", said.stderr);
            resumes(&space);
        }
    }
}

#[test]
fn a_second_sigint_kills_a_program_that_ignores_the_first() {
    let space = Space::new(&stage(&WAITS.replace("touch", "trap '' TERM; touch"), ""));
    let child = space.start(&[]);
    space.until("the stage", || space.path("began").exists());
    send(&child, Signal::SIGINT);
    std::thread::sleep(std::time::Duration::from_millis(1200));
    send(&child, Signal::SIGINT);
    end(child).expect(130);
}

/// The state of a process, as `ps` has it.
fn state(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?')
}

#[test]
fn ctrl_z_stops_programs_and_their_timeouts() {
    let run = WAITS.replace("touch began", "echo $$ > pid; touch began");
    let space = Space::new(&stage(&run, "timeout = \"2s\""));
    let mut command = space.command(&["run", "p.toml", "--plain"]);
    // In a group of its own whose parent can let it go on, as a shell has it.
    let child = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped()).start();
    space.until("the stage", || space.path("began").exists());
    let program: i32 = space.read("pid").trim().parse().unwrap();
    send(&child, Signal::SIGTSTP);
    space.until("both to stop", || state(program) == 'T' && state(child.id() as i32) == 'T');
    std::thread::sleep(std::time::Duration::from_millis(2200));
    space.write("go", "");
    send(&child, Signal::SIGCONT);
    end(child).expect(0);
}

#[test]
fn ctrl_z_is_ignored_without_a_shell_to_continue() {
    if !has("setsid") {
        return;
    }
    let space = Space::new(&stage(&WAITS.replace("touch began", "echo $PPID > pid; touch began"), ""));
    let mut command = Command::new("setsid");
    command.args([erw(), "run", "p.toml", "--plain"]).current_dir(space.path("."));
    command.env_remove("ERW_CACHE_DIR").env_remove("ERW_REMOTE").stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(Stdio::piped()).start();
    space.until("the stage", || space.path("began").exists());
    let runner: i32 = space.read("pid").trim().parse().unwrap();
    kill(Pid::from_raw(runner), Signal::SIGTSTP).unwrap();
    space.write("go", "");
    end(child).expect(0);
}

#[test]
fn zombies_of_a_stage_are_reaped_while_it_runs() {
    let run = r#"for i in $(seq 200); do (true &); done
n=1; for i in $(seq 200); do
    n=$(awk '/^State/ { dead = /Z/ } /^PPid/ && dead && $2 == p { n++ } END { print n + 0 }' p=$PPID /proc/[0-9]*/status 2> /dev/null)
    [ "$n" = 0 ] && break; sleep 0.02
done
echo $n > {outputs.o}"#;
    let space = Space::new(&stage(run, ""));
    space.run(&[]).expect(0);
    assert_eq!(space.outputs()["s"], "0\n");
}

/// Stages beside each other, one that leaves something behind, and one that reads their outputs.
fn busy() -> String {
    let leaf = |n: usize| {
        format!(
            "[stages.s{n}]\nkind = \"command\"\nrun = \"sleep 0.02; echo {n} > {{outputs.o}}\"\noutputs = {{ o = \"t\" }}\nresources = {{ threads = 1 }}\n"
        )
    };
    (0..6).map(leaf).collect()
}

/// A run where something is short ends well, or with an error that names the limit; it neither
/// panics nor hangs.
#[track_caller]
fn well_or_clear(said: &Said, limit: &str, what: &str) {
    assert!(!said.stderr.contains("panicked") && !said.stderr.contains("allocation of"), "{what}: {}", said.stderr);
    assert!(matches!(said.status, 0..=2), "{what}: exit code {}\n{}", said.status, said.stderr);
    let told = said.stderr.contains(limit) || said.stderr.contains("ork") || said.stderr.contains("shared librar");
    assert!(said.status == 0 || told, "{what}: {}", said.stderr);
}

fn limited(space: &Space, limit: &str) -> Said {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60", "prlimit", limit, erw(), "run", "p.toml", "--plain", "--threads", "4"]);
    command.current_dir(space.path(".")).env_remove("ERW_CACHE_DIR").env_remove("ERW_REMOTE");
    Said::from(command.stdin(Stdio::null()).finish())
}

#[test]
fn a_low_limit_of_open_files_is_an_error_that_names_it() {
    let mut failed = 0;
    for files in [6, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 32] {
        let space = Space::new(&busy());
        let said = limited(&space, &format!("--nofile={files}"));
        well_or_clear(&said, "RLIMIT_NOFILE", &format!("{files} files"));
        failed += usize::from(said.status != 0);
    }
    assert!(failed > 2, "{failed}");
}

#[test]
fn a_low_limit_of_address_space_is_an_error_that_names_it() {
    for mebibytes in [200, 256, 300, 400, 600, 1000] {
        let space = Space::new(&busy());
        let said = limited(&space, &format!("--as={}", mebibytes << 20));
        well_or_clear(&said, "RLIMIT_AS", &format!("{mebibytes} MiB"));
    }
}

#[test]
fn a_low_limit_of_processes_is_an_error_that_names_it() {
    // The limit does not hold for root, and another user cannot reach every folder.
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let open = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    };
    open(dir.path());
    let program = dir.path().join("erw");
    std::fs::copy(erw(), &program).unwrap();
    open(&program);
    std::fs::write(dir.path().join("p.toml"), busy()).unwrap();
    let mut ended_well = 0;
    for (i, most) in [2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 64].into_iter().enumerate() {
        let mut command = Command::new("timeout");
        command.args([
            "-s",
            "KILL",
            "60",
            "setpriv",
            &format!("--reuid={}", 23_500 + i),
            "--regid=23500",
            "--clear-groups",
        ]);
        command.args(["prlimit", &format!("--nproc={most}")]).arg(&program).args(["run", "p.toml", "--plain"]);
        command
            .env("ERW_CACHE_DIR", dir.path().join(format!("cache-{most}")))
            .env_remove("ERW_REMOTE")
            .env("HOME", "/tmp");
        let said = Said::from(command.current_dir(dir.path()).stdin(Stdio::null()).finish());
        if said.stderr.contains("setpriv:") {
            return skip("this user cannot become another");
        }
        well_or_clear(&said, "RLIMIT_NPROC", &format!("{most} processes"));
        ended_well += usize::from(said.status == 0);
    }
    assert!(ended_well > 1, "{ended_well}");
}

#[test]
fn a_program_that_cannot_be_started_says_why() {
    let space = Space::new("");
    let write = |name: &str, text: &[u8], mode: u32| {
        std::fs::write(space.path(name), text).unwrap();
        std::fs::set_permissions(space.path(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    write("crlf.sh", b"#!/bin/sh\r\necho hi\r\n", 0o755);
    write("crlf.py", b"#!/usr/bin/env python3\r\nprint(1)\r\n", 0o755);
    write("noexec.sh", b"#!/bin/sh\necho hi\n", 0o644);
    write("noshebang.sh", b"echo hi\n", 0o755);
    write("bom.sh", b"\xef\xbb\xbf#!/bin/sh\necho hi\n", 0o755);
    write("lost.py", b"#!/opt/none/bin/python3 -u\nprint(1)\n", 0o755);
    write("empty", b"", 0o755);
    write("win.exe", b"MZ\x90\0", 0o755);
    write("elf", b"\x7fELF\x02\x01\x01\0", 0o755);
    write("here", b"#!/bin/sh\n", 0o755);
    std::fs::create_dir(space.path("folder")).unwrap();
    std::os::unix::fs::symlink("nowhere", space.path("link")).unwrap();
    std::os::unix::fs::symlink("circle", space.path("circle")).unwrap();
    for (run, why) in [
        (r#"["nosuchprogram", "x"]"#, "no folder in PATH contains a program of this name"),
        (r#"["sort --version"]"#, "a list is a program and its arguments"),
        (r#"["sotr", "x"]"#, "hint: did you mean `sort`?"),
        (r#"["here"]"#, "write `./here` for the one beside the pipeline"),
        (r#"["./hre"]"#, "there is no file `./hre`\nhint: did you mean `here`?"),
        (r#"["./crlf.sh"]"#, r"`./crlf.sh` has Windows line endings, so its interpreter is `/bin/sh\r`"),
        (r#"["./crlf.py"]"#, r"so its interpreter is `python3\r`"),
        (r#"["./noexec.sh"]"#, "`./noexec.sh` is not executable: its mode is 644\nhint: run `chmod +x ./noexec.sh`"),
        (r#"["./noshebang.sh", "{outputs.o}"]"#, "its first line does not start with `#!`"),
        (r#"["./bom.sh"]"#, "`./bom.sh` has a byte order mark before its `#!`"),
        (r#"["./lost.py"]"#, "the interpreter `/opt/none/bin/python3` of `./lost.py` does not exist"),
        (r#"["./empty"]"#, "`./empty` is empty"),
        (r#"["./win.exe"]"#, "`./win.exe` is a Windows program"),
        (r#"["./elf"]"#, "`./elf` was built for another processor"),
        (r#"["./folder"]"#, "`./folder` is a folder"),
        (r#"["./link"]"#, "`./link` is a broken link"),
        (r#"["./circle"]"#, "cannot access `./circle`: Too many levels of symbolic links"),
        (r#"["./here/x"]"#, "cannot access `./here/x`: Not a directory"),
        (r#"["{params.none}", "x"]"#, "the program name is empty"),
        (r#"["sort", "a\u0000b"]"#, "argument 1 contains a NUL byte"),
        (r#"["sort", "{params.long}"]"#, "argument 1 has 146.5 KiB, the limit is 128.0 KiB"),
    ] {
        let long = "x".repeat(150_000);
        space.write(
            "p.toml",
            &format!(
                "[stages.s]\nkind = \"command\"\nrun = {run}\noutputs = {{ o = \"t\" }}\nparams = {{ none = \"\", long = \"{long}\" }}\n"
            ),
        );
        let said = space.run(&[]).expect(1).stderr;
        assert!(said.contains(why), "{run}: {said}");
        assert!(said.contains("error: stage `s`: "), "{run}: {said}");
        assert!(said.contains(" --> p.toml:3:") || why.contains("python3\\r"), "{run}: {said}");
    }
    // Neither is too long by itself. Of the stack a fourth may be taken, whatever this machine
    // usually has.
    let words = ", \"{params.p}\"".repeat(9);
    let word = "x".repeat(100_000);
    space.write(
        "p.toml",
        &format!("[stages.s]\nkind = \"command\"\nrun = [\"true\"{words}]\noutputs = {{ o = \"t\" }}\nparams = {{ p = \"{word}\" }}\n"),
    );
    let mut command = Command::new("prlimit");
    command.args(["--stack=8388608", erw(), "run", "p.toml", "--plain"]).current_dir(space.path("."));
    command
        .envs((0..12).map(|i| (format!("LARGE{i}"), word.clone())))
        .env_remove("ERW_CACHE_DIR")
        .env_remove("ERW_REMOTE");
    let said = Said::from(command.finish()).expect(1).stderr;
    assert!(said.contains("are too long for the system\nhint: the largest variable is `LARGE"), "{said}");
}

#[test]
fn resources_of_a_stage_override_the_environment() {
    let stages = ["", "resources = { threads = 1 }", "resources = { gpus = 1 }"];
    let text: String = stages
        .iter()
        .enumerate()
        .map(|(i, more)| {
            format!(
                "[stages.s{i}]\nkind = \"command\"\nrun = \"echo $OMP_NUM_THREADS/$RAYON_NUM_THREADS/${{CUDA_VISIBLE_DEVICES-unset}} > {{outputs.o}} # {i}\"\noutputs = {{ o = \"t\" }}\n{more}\n"
            )
        })
        .collect();
    let seen = |environment: &[(&str, &str)]| -> Vec<String> {
        let space = Space::new(&text);
        let mut command = space.command(&["run", "p.toml", "--threads", "3", "--keep-going"]);
        for name in ["OMP_NUM_THREADS", "RAYON_NUM_THREADS", "CUDA_VISIBLE_DEVICES"] {
            command.env_remove(name);
        }
        let gpus = environment.iter().any(|(name, ids)| *name == "CUDA_VISIBLE_DEVICES" && ids.len() > 2);
        command.envs(environment.iter().copied()).args(if gpus { &[][..] } else { &["--gpus", "0"][..] });
        Said::from(command.finish()).expect(0);
        space.outputs_with(&["--gpus", "0"]).into_values().map(|text| text.trim().to_string()).collect()
    };
    assert_eq!(seen(&[]), ["3/3/", "1/1/", "3/3/"]);
    assert_eq!(seen(&[("OMP_NUM_THREADS", "7")]), ["7/3/", "1/1/", "7/3/"]);
    assert_eq!(
        seen(&[("CUDA_VISIBLE_DEVICES", "GPU-ab,MIG-cd")]),
        ["3/3/GPU-ab,MIG-cd", "1/1/GPU-ab,MIG-cd", "3/3/GPU-ab"]
    );
    assert_eq!(seen(&[("CUDA_VISIBLE_DEVICES", "-1")]), ["3/3/-1", "1/1/-1", "3/3/"]);
    assert_eq!(seen(&[("CUDA_VISIBLE_DEVICES", "")]), ["3/3/", "1/1/", "3/3/"]);

    let space = Space::new(&text);
    let mut command = space.command(&["explain", "p.toml", "s1"]);
    let said = Said::from(command.env("CUDA_VISIBLE_DEVICES", "3").env("OMP_NUM_THREADS", "7").finish());
    let told: Vec<&str> = said.stdout.split("environment variables\n").nth(1).unwrap().lines().collect();
    assert_eq!(
        told[0].split_whitespace().collect::<Vec<_>>()[..4],
        ["OMP_NUM_THREADS", "=", "1", "`resources.threads`"]
    );
    assert!(told[2].ends_with("= 3  set by you"), "{told:?}");
    let help = space.erw(&["stages", "command"]).expect(0).stdout;
    assert!(
        ["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RAYON_NUM_THREADS", "ERW_ATTEMPT"]
            .iter()
            .all(|n| help.contains(n))
    );
    let mut command = space.command(&["run", "p.toml", "s2"]);
    let said = Said::from(command.env("CUDA_VISIBLE_DEVICES", "").finish()).expect(2).stderr;
    assert!(said.contains("hint: CUDA_VISIBLE_DEVICES=\"\" is set in your environment"), "{said}");
}

#[test]
fn a_stage_cannot_truncate_its_log() {
    let run = r#"echo one
echo two > /dev/stdout
echo three > /dev/stderr
: > /proc/self/fd/1
truncate -s 0 /dev/stdout 2> /dev/null
python3 -c "import os; os.ftruncate(1, 0)" 2> /dev/null
sh -c 'echo four > /proc/$PPID/fd/2'
head -c 300000 /dev/zero | tr '\0' x
echo
echo end >> /dev/stderr
echo > {outputs.o}"#;
    let space = Space::new(&stage(run, ""));
    space.run(&[]).expect(0);
    let log = log(&space);
    assert!(log.starts_with("one\ntwo\nthree\nfour\nxxx"), "{}", &log[..40]);
    assert!(log.ends_with("x\nend\n"));
    assert_eq!(log.len(), "one\ntwo\nthree\nfour\n\nend\n".len() + 300_000);
}

#[test]
fn a_full_disk_for_logs_does_not_block_the_stage() {
    let cache = std::env::temp_dir().join(format!("erw-log-{}", std::process::id()));
    let Some(disk) = Disk::mount(cache.clone(), "size=3m") else { return };
    let space = Space::new(&stage("head -c 5000000 /dev/zero; echo whole > done; exit 3; echo {outputs.o}", ""));
    let said = space.erw(&["run", "p.toml", "--plain", "--cache-dir", cache.to_str().unwrap()]).expect(1).stderr;
    assert_eq!(space.read("done"), "whole\n");
    assert!(said.contains("s: part of the log was lost: No space left on device"), "{said}");
    drop(disk);
}

/// Escapes, bytes that are no text, a bar, and a title for the window.
const ODD: &str = r#"printf '\033[31mred\033[0m \000 \377\376 ]]> <b>&amp; \010 \013 \357\277\276 end\n'
for i in 10 50 99; do printf '\r%3d%%|####    |' $i; done
printf '\n\033[2J\033[H\033]0;title\007 last\n'
exit 3; echo {outputs.o}"#;

#[test]
fn logs_are_shown_as_text() {
    let space = Space::new(&stage(ODD, ""));
    let said = space.run(&["--junit", "j.xml"]).expect(1).stderr;
    let shown = ["red  \u{fffd}\u{fffd} ]]> <b>&amp;   end", " 99%|####    |", " last"];
    let end = shown.map(|line| format!("  | {line}\n")).concat();
    assert!(said.contains(&end), "{said:?}");
    let read = "import sys, xml.etree.ElementTree as E; print(ascii(next(E.parse('j.xml').iter('failure')).text))";
    let parsed = Command::new("python3").args(["-c", read]).current_dir(space.path(".")).output().unwrap();
    let parsed = String::from_utf8(parsed.stdout).unwrap();
    assert!(parsed.contains(r"red  \ufffd\ufffd ]]> <b>&amp;   end\n   99%|####    |\n   last"), "{parsed}");
    // To a program every byte as it was written; to a terminal as it looks.
    let raw = space.command(&["logs", "p.toml", "s"]).finish().stdout;
    assert!(raw.starts_with(b"\x1b[31mred\x1b[0m \0 \xff\xfe") && raw.ends_with(b"\x1b]0;title\x07 last\n"));
    assert_eq!(
        space.command(&["logs", "p.toml", "s", "-n", "1"]).finish().stdout,
        b"\x1b[2J\x1b[H\x1b]0;title\x07 last\n"
    );
    if has("script") {
        let (status, seen) = on_a_terminal(&space, &format!("{} logs p.toml s", erw()));
        assert_eq!((status, seen.replace('\r', "")), (0, shown.map(|line| format!("{line}\n")).concat()));
    }
    let said = space.erw(&["run", "p.toml", "--json"]).expect(1);
    said.stdout.lines().for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).unwrap()));
    assert!(!said.stderr.contains('\x1b') && !said.stderr.contains('\r'), "{:?}", said.stderr);
}

#[test]
fn a_log_larger_than_memory_is_read_in_pieces() {
    // Sparse: it takes no room.
    let space = Space::new(&stage("echo begins; exit 3; echo {outputs.o}", ""));
    space.run(&[]).expect(1);
    let work = std::fs::read_dir(space.path("cache/v1/work")).unwrap().next().unwrap().unwrap().path();
    let log = std::fs::File::options().append(true).open(work.join("attempt-1.log")).unwrap();
    log.set_len(20 << 30).unwrap();
    { &log }.write_all(b"\nlast but one\nlast\n").unwrap();
    let mut command = Command::new("prlimit");
    command.args(["--as=1500000000", erw(), "logs", "p.toml", "s", "-n", "2"]).current_dir(space.path("."));
    let said = Said::from(command.env_remove("ERW_CACHE_DIR").env_remove("ERW_REMOTE").finish()).expect(0);
    assert_eq!(said.stdout, "last but one\nlast\n");
}
