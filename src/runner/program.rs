//! `kind = "command"`: any program as a stage. Runs inside a worker process.
//!
//! Placeholders in its arguments: `{inputs.SLOT}`, `{outputs.NAME}`, `{params.NAME}`, `{threads}`, and
//! `{checkpoints}`, a folder kept until the stage succeeds. Other braces are left alone, as shells use them.
//! The program runs in the folder of the pipeline file; what it prints goes to the attempt's log. It must
//! make a file or a folder at the path of each output. This module does not know what the program does.

use super::attempt::{Attempt, Job};
use super::key::canonical;
use crate::error::{Error, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgrp, getpid};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a running program is checked on a stop asked for meanwhile.
const HEED_EVERY: Duration = Duration::from_millis(50);

/// Runs the program to its end, or asks it to end (SIGTERM) when the attempt is asked to stop.
pub fn run(attempt: &Attempt) -> Result<()> {
    let job = attempt.job();
    let run = job.command.as_deref().unwrap_or_default();
    let words = run.iter().map(|word| fill(word, attempt)).collect::<Result<Vec<_>>>()?;
    let Some((program, arguments)) = words.split_first() else {
        return Err(Error::usage("the command is empty"));
    };
    let to_log = || std::io::stderr().as_fd().try_clone_to_owned();
    let output = to_log().map_err(|e| Error::stage("cannot use the log").because(e))?;
    let child = std::process::Command::new(program)
        .args(arguments)
        .current_dir(&job.pipeline_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::from(output))
        .spawn();
    let mut child = child.map_err(|e| Error::stage(format!("cannot start `{program}`")).because(e))?;
    let pid = Pid::from_raw(child.id() as i32);
    let ended = AtomicBool::new(false);
    let status = std::thread::scope(|scope| {
        scope.spawn(|| pass_on_stop(attempt, pid, &ended));
        let status = child.wait();
        ended.store(true, Ordering::Relaxed);
        status
    });
    let status = status.map_err(|e| Error::stage(format!("cannot wait for `{program}`")).because(e))?;
    // A program may catch SIGTERM, tidy up and call that success: its outputs cannot be trusted to be whole.
    if attempt.should_stop() {
        return Err(Error::suspended());
    }
    if status.success() { Ok(()) } else { Err(Error::stage(format!("`{program}` {}", describe(status)))) }
}

fn pass_on_stop(attempt: &Attempt, program: Pid, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        if attempt.should_stop() {
            // Started by a runner, this process leads a group of its own; the program's children are in it too.
            let _ =
                if getpgrp() == getpid() { killpg(getpgrp(), Signal::SIGTERM) } else { kill(program, Signal::SIGTERM) };
            return;
        }
        std::thread::sleep(HEED_EVERY);
    }
}

/// How a process ended, for `the worker …`.
pub fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |s| s.to_string());
            let guess = if signal == libc::SIGKILL { ", out of memory?" } else { "" };
            format!("was killed by {name}{guess}")
        }
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "ended in an unknown way".into(),
    }
}

/// Fills the placeholders of one argument.
fn fill(word: &str, attempt: &Attempt) -> Result<String> {
    let mut filled = String::new();
    let mut rest = word;
    while let Some(open) = rest.find('{') {
        filled.push_str(&rest[..open]);
        rest = &rest[open..];
        let value = match rest.find('}') {
            Some(close) => value(&rest[1..close], attempt)?.map(|v| (v, close + 1)),
            None => None,
        };
        let (text, used) = value.unwrap_or_else(|| ("{".into(), 1));
        filled.push_str(&text);
        rest = &rest[used..];
    }
    Ok(filled + rest)
}

/// `None`: not a placeholder.
fn value(name: &str, attempt: &Attempt) -> Result<Option<String>> {
    let job: &Job = attempt.job();
    let unknown = || Error::usage(format!("nothing to fill in for `{{{name}}}`"));
    if let Some(slot) = name.strip_prefix("inputs.") {
        return job.inputs.get(slot).map(|p| Some(p.display().to_string())).ok_or_else(unknown);
    }
    if let Some(output) = name.strip_prefix("outputs.") {
        let known = job.outputs.contains_key(output);
        return known.then(|| Some(attempt.output(output).display().to_string())).ok_or_else(unknown);
    }
    if let Some(param) = name.strip_prefix("params.") {
        let text = |v: &serde_json::Value| v.as_str().map_or_else(|| canonical(v), ToString::to_string);
        return job.params.get(param).map(|v| Some(text(v))).ok_or_else(unknown);
    }
    Ok(match name {
        "threads" => Some(job.threads.to_string()),
        "checkpoints" => Some(attempt.checkpoint_dir().display().to_string()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_other_braces_left() {
        let job = serde_json::json!({"stage": "s", "kind": "command", "key": "", "params": {"n": 3, "s": "a b"},
            "operation": {}, "inputs": {"z": "/in/z"}, "outputs": {"o": "t"}, "work_dir": "/w", "threads": 2, "device": "cpu"});
        let attempt = Attempt::quiet(serde_json::from_value(job).unwrap());
        let fill = |word| fill(word, &attempt);
        assert_eq!(fill("cp {inputs.z} {outputs.o}").unwrap(), "cp /in/z /w/out/o");
        assert_eq!(fill("{params.n}{params.s} {threads}").unwrap(), "3a b 2");
        assert_eq!(fill("f() { echo ${x}; } {").unwrap(), "f() { echo ${x}; } {");
        assert_eq!(fill("{ cat {inputs.z}; }").unwrap(), "{ cat /in/z; }");
        assert!(fill("{params.m}").is_err());
        assert!(fill("{inputs.m}").is_err());
    }
}
