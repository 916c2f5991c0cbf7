//! `kind = "command"`: any program as a stage.
//!
//! Placeholders in its arguments are `{inputs.SLOT}`, `{outputs.NAME}`, `{params.NAME}`,
//! `{threads}`, and `{checkpoints}`, a folder that is kept until the stage succeeds. Other braces
//! are left alone, because shells use them. The program runs in the folder of the pipeline file;
//! its output goes to the attempt's log, byte for byte. It must create a file or folder at the path
//! of each output. An output of type `metrics` that is a JSON object, or a folder with such a
//! `metrics.json`, gives the stage its results: every top-level number. Does not know what the
//! program does.

use super::attempt_report::{AttemptEnd, AttemptReport, Machine};
use super::launch::{AttemptSite, open_log};
use super::process_exit::{ATTEMPT_VAR, adopt_orphans, end_own_orphans};
use super::processes::Process;
use super::spawn::{self, Pause, Program, has_ended};
use super::worker_program::WorkerProgram;
use super::{artifacts, metrics_json, unstartable};
use crate::cache::key::canonical;
use crate::event::{Measure, WorkerEvent};
use crate::kind::attempt::Job;
use crate::kind::field::TYPE;
use erw_base::error::{Error, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// After this long without output, checks whether the program has ended and left another process
/// holding its pipe.
const SILENCE: Duration = Duration::from_millis(50);
/// A cluster's scheduler signals a worker and its program one after the other, in any order: a
/// program may have ended before its worker knows that both were asked to stop.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(200);
/// The most that can remain in a pipe without a living writer.
const LEFT_IN_PIPE: usize = 1 << 20;

/// An attempt at a stage that is a program: verifies its inputs, runs it, checks that the inputs
/// are as before, and digests its outputs. `worker` starts the watchdog.
///
/// # Errors
/// When the program cannot be started.
pub fn attempt(
    site: &AttemptSite<'_>,
    worker: &WorkerProgram,
    job: &Job,
    tell: &mut dyn FnMut(WorkerEvent),
) -> Result<AttemptReport> {
    let machine = Machine::of(job)?;
    let damaged = artifacts::damaged(site.store, site.integrity, job);
    if !damaged.is_empty() {
        return Ok(AttemptReport::of(AttemptEnd::Damaged(damaged), machine));
    }
    // Only a user's program can write to its inputs; kinds read them.
    let inputs = artifacts::watch(site.integrity, job);
    tell(WorkerEvent::Started);
    let (end, peak) = run(site, worker, job, tell)?;
    let mut report = AttemptReport { peak, ..AttemptReport::of(end, machine) };
    let done = matches!(report.end, AttemptEnd::Done);
    if let Err(e) = artifacts::inputs_unchanged(site.store, job, &inputs, tell) {
        let e = if done { artifacts::aside(job, e) } else { e };
        report.end = AttemptEnd::Rejected(e.into());
    } else if done {
        (report.results, report.remarks) = results(job);
        match artifacts::outputs(job) {
            Ok(outputs) => report.outputs = outputs,
            Err(e) => report.end = AttemptEnd::Rejected(e.into()),
        }
    }
    Ok(report)
}

/// Runs the program to its end, and returns this end and its peak memory. When asked to stop, it
/// and all its children get SIGTERM.
fn run(
    site: &AttemptSite<'_>,
    worker: &WorkerProgram,
    job: &Job,
    tell: &mut dyn FnMut(WorkerEvent),
) -> Result<(AttemptEnd, u64)> {
    let run = job.command.as_deref().unwrap_or_default();
    let words = run.iter().map(|word| fill(word, job)).collect::<Result<Vec<_>>>()?;
    let Some(name) = words.first() else {
        return Err(Error::usage("the command is empty"));
    };
    let mut log = Log { file: open_log(job)?, lost: None };
    // A pipe instead of the log itself: a program that reopens /dev/stdout for writing would
    // truncate a file.
    let (from, to) = std::io::pipe().map_err(|e| Error::stage("cannot create a pipe").caused(e))?;
    // Another run, with another cache, may be executing the same action.
    let mark = format!("{}.{}", job.key, std::process::id());
    adopt_orphans();
    let mut environment = site.environment(job, 0);
    environment.push((ATTEMPT_VAR, mark.clone()));
    let program = Program {
        words: &words,
        folder: &job.pipeline_dir,
        environment: &environment,
        output: to.as_fd(),
        held: site.lock.as_fd(),
    };
    site.workers.expect(&mark, worker);
    let pid = spawn::start(Pause::Stops, || program.spawn())
        .inspect_err(|_| site.workers.forget(&mark))
        .map_err(|e| unstartable::error(&program, e))?;
    site.workers.add(site.ticket, Process { pid, mark: Some(mark.clone()), stop: Signal::SIGTERM });
    drop(to);
    log.take_from(&from, pid);
    let ended = site.wait(pid)?;
    end_own_orphans(&mark);
    log.take_what_is_left(&from);
    if let Some(e) = log.lost {
        tell(WorkerEvent::Log { text: format!("part of the log was lost: {e}") });
    }
    if job.detached {
        std::thread::sleep(SIGNAL_INTERVAL);
    }
    let end = if site.workers.is_stopping(site.ticket) {
        // A program may catch SIGTERM, clean up and exit with 0: its outputs may be incomplete.
        AttemptEnd::Suspended
    } else if ended.status.success() {
        AttemptEnd::Done
    } else {
        let mut failure = site.failure(job, &format!("`{name}`"), ended);
        failure.hints.extend(read_by_a_shell(job));
        failure.hints.extend(unstartable::found_no_interpreter(name, &job.pipeline_dir, ended.status));
        AttemptEnd::Failed(failure)
    };
    Ok((end, ended.peak))
}

/// The log that receives a program's output.
struct Log {
    file: File,
    /// Why some of it could not be written. The program continues regardless.
    lost: Option<std::io::Error>,
}

impl Log {
    /// Reads until the pipe closes, or until the program has ended though another process holds the
    /// pipe open.
    fn take_from(&mut self, mut from: &PipeReader, pid: i32) {
        let mut looked = Instant::now();
        loop {
            if has_word(from, SILENCE) {
                match self.take(&mut from) {
                    Ok(0) | Err(_) => return,
                    Ok(_) if looked.elapsed() < SILENCE => continue,
                    Ok(_) => {}
                }
            }
            if has_ended(pid) {
                return;
            }
            looked = Instant::now();
        }
    }

    fn take_what_is_left(&mut self, mut from: &PipeReader) {
        let mut taken = 0;
        while taken < LEFT_IN_PIPE && has_word(from, Duration::ZERO) {
            match self.take(&mut from) {
                Ok(0) | Err(_) => return,
                Ok(bytes) => taken += bytes,
            }
        }
    }

    fn take(&mut self, from: &mut &PipeReader) -> std::io::Result<usize> {
        let mut block = [0; 1 << 14];
        let bytes = loop {
            match from.read(&mut block) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if self.lost.is_none() {
            self.lost = self.file.write_all(&block[..bytes]).err();
        }
        Ok(bytes)
    }
}

/// Waits until there is something to read or the end of the pipe, or the time is over.
fn has_word(from: &PipeReader, retry: Duration) -> bool {
    let mut asked = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
    let retry = PollTimeout::try_from(retry).unwrap_or(PollTimeout::ZERO);
    poll(&mut asked, retry).is_ok_and(|ready| ready > 0)
}

/// In a command line for `sh -c`, placeholders are filled in as text: a path with characters that
/// are special where it stands is a likely cause of failure.
fn read_by_a_shell(job: &Job) -> Option<String> {
    let line = match job.command.as_deref().unwrap_or_default() {
        [shell, flag, line] if shell == "sh" && flag == "-c" => line,
        _ => return None,
    };
    let is_special = |c: char, quote| match quote {
        None => c.is_whitespace() || "'\"$`\\;&|<>()*?[]#~!{}".contains(c),
        Some('"') => "\"$`\\".contains(c),
        Some(quote) => c == quote,
    };
    let is_path = |name: &str| name == "checkpoints" || name.starts_with("inputs.") || name.starts_with("outputs.");
    let (odd, quote) = placeholders(line).into_iter().filter(|(name, _)| is_path(name)).find_map(|(name, quote)| {
        let path = value(name, job).ok().flatten()?;
        path.contains(|c| is_special(c, quote)).then_some((path, quote))
    })?;
    Some(match quote {
        None => format!(
            "the shell splits or expands `{odd}`: quote the placeholders in `run`, or write `run` as a list to bypass \
             the shell"
        ),
        Some(_) => {
            format!("the shell ends the quotes at, or expands, `{odd}`: write `run` as a list to bypass the shell")
        }
    })
}

/// What is in braces on a line for a shell, each with the quote in which it stands.
fn placeholders(line: &str) -> Vec<(&str, Option<char>)> {
    // With what was quoted around each open parenthesis: within `"$(…)"`, words are split.
    let (mut found, mut quote, mut around) = (vec![], None, vec![]);
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        let rest = line.get(at..).unwrap_or_default();
        match (c, quote) {
            ('\\', None | Some('"')) => drop(chars.next()),
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('$', None | Some('"')) if rest.starts_with("$(") => {
                chars.next();
                around.push(quote.take());
            }
            ('(', None) => around.push(None),
            (')', None) => quote = around.pop().flatten(),
            ('{', _) => found.extend(rest.find('}').and_then(|end| Some((rest.get(1..end)?, quote)))),
            _ => {}
        }
    }
    found
}

/// The numbers in outputs of type `metrics`, and warnings about other contents. Those are not an
/// error: the type may mean something else to others.
fn results(job: &Job) -> (Vec<Measure>, Vec<String>) {
    let (mut results, mut remarks) = (vec![], vec![]);
    for (name, _) in job.outputs.iter().filter(|(_, ty)| *ty == TYPE) {
        let numbers = metrics_json::of_output(&job.output(name));
        remarks.extend(numbers.told(name));
        results.extend(numbers.results);
    }
    (results, remarks)
}

/// Fills the placeholders of one argument.
fn fill(word: &str, job: &Job) -> Result<String> {
    let mut filled = String::new();
    let mut rest = word;
    while let Some(open) = rest.find('{') {
        filled.push_str(&rest[..open]);
        rest = &rest[open..];
        let value = match rest.find('}') {
            Some(close) => value(&rest[1..close], job)?.map(|v| (v, close + 1)),
            None => None,
        };
        let (text, used) = value.unwrap_or_else(|| ("{".into(), 1));
        filled.push_str(&text);
        rest = &rest[used..];
    }
    Ok(filled + rest)
}

/// `None`: not a placeholder.
fn value(name: &str, job: &Job) -> Result<Option<String>> {
    let unknown = || Error::usage(format!("unknown placeholder `{{{name}}}`"));
    if let Some(slot) = name.strip_prefix("inputs.") {
        return job.inputs.get(slot).map(|p| Some(p.display().to_string())).ok_or_else(unknown);
    }
    if let Some(name) = name.strip_prefix("outputs.") {
        let known = job.outputs.contains_key(name);
        return known.then(|| Some(job.output(name).display().to_string())).ok_or_else(unknown);
    }
    if let Some(param) = name.strip_prefix("params.") {
        let text = |v: &serde_json::Value| v.as_str().map_or_else(|| canonical(v), ToString::to_string);
        return job.params.get(param).map(|v| Some(text(v))).ok_or_else(unknown);
    }
    Ok(match name {
        "threads" => Some(job.threads.to_string()),
        "checkpoints" => Some(job.checkpoint_dir().display().to_string()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn job(work: &Path) -> Job {
        let job = serde_json::json!({"stage": "s", "kind": "command", "key": "", "params": {"n": 3, "s": "a b"},
            "operation": {}, "inputs": {"z": "/in/z"}, "outputs": {"o": "t", "m": "metrics"}, "work_dir": work,
            "threads": 2, "device": "cpu"});
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn placeholders_are_filled_and_other_braces_left() {
        let job = job(Path::new("/w"));
        let fill = |word| fill(word, &job);
        assert_eq!(fill("cp {inputs.z} {outputs.o}").unwrap(), "cp /in/z /w/attempt-1/o");
        assert_eq!(fill("{params.n}{params.s} {threads}").unwrap(), "3a b 2");
        assert_eq!(fill("f() { echo ${x}; } {").unwrap(), "f() { echo ${x}; } {");
        assert_eq!(fill("{ cat {inputs.z}; }").unwrap(), "{ cat /in/z; }");
        assert!(fill("{params.m}").is_err());
        assert!(fill("{inputs.m}").is_err());
    }

    #[test]
    fn placeholders_are_found_with_their_quotes() {
        let told = |line| {
            let name = |(name, quote): (&str, Option<char>)| format!("{name} {}", quote.unwrap_or('-'));
            placeholders(line).into_iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(told("cat {a} \"{b}\" '{c}'{d}"), ["a -", "b \"", "c '", "d -"]);
        assert_eq!(told(r#"echo "it's {a}" \"{b} 'say "{c}"'"#), ["a \"", "b -", "c '"]);
        assert_eq!(told(r#"x="$(cat {a} "{b}")" y="{c}""#), ["a -", "b \"", "c \""]);
        assert_eq!(told("(cd x; cat {a}) \"{b}\") {"), ["a -", "b \""]);
    }

    #[test]
    fn only_paths_that_a_shell_changes_are_blamed() {
        let hint = |work: &str, line: &str| {
            let mut job = job(Path::new(work));
            job.command = Some(vec!["sh".into(), "-c".into(), line.into()]);
            read_by_a_shell(&job)
        };
        assert_eq!(hint("/w", "cp {inputs.z} {outputs.o}"), None);
        let told = hint("/a b", "cp {inputs.z} {outputs.o}").unwrap();
        assert!(told.starts_with("the shell splits or expands `/a b/attempt-1/o`: quote the placeholders"), "{told}");
        assert_eq!(hint("/a b", "cp {inputs.z} \"{outputs.o}\""), None);
        assert_eq!(hint("/a b", "cp {inputs.z} '{outputs.o}'"), None);
        assert_eq!(hint("/a b", "cp {inputs.z} x"), None, "it names no such path");
        let told = hint("/a$b", "cp {inputs.z} \"{outputs.o}\"").unwrap();
        assert!(told.ends_with("`/a$b/attempt-1/o`: write `run` as a list to bypass the shell"), "{told}");
    }

    #[test]
    fn numbers_of_a_metrics_file_are_results() {
        let dir = tempfile::tempdir().unwrap();
        let job = job(dir.path());
        assert_eq!(results(&job).0, []);
        let told = || results(&job).0.into_iter().map(|m| (m.name, m.value)).collect::<Vec<_>>();
        let wanted = vec![("fd".to_string(), Some(0.25)), ("n".to_string(), Some(3.0))];
        std::fs::create_dir_all(dir.path().join("attempt-1/m")).unwrap();
        std::fs::write(
            dir.path().join("attempt-1/m/metrics.json"),
            r#"{"fd": 0.25, "set": {"x": 1}, "n": 3, "t": "a"}"#,
        )
        .unwrap();
        assert_eq!(told(), wanted);
        std::fs::remove_dir_all(dir.path().join("attempt-1/m")).unwrap();
        std::fs::write(dir.path().join("attempt-1/m"), r#"{"fd": 0.25, "n": 3}"#).unwrap();
        assert_eq!(told(), wanted);
        std::fs::write(dir.path().join("attempt-1/m"), "fd 0.25").unwrap();
        assert_eq!(told(), []);
    }
}
