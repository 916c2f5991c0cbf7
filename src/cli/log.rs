//! `erw log`: the runs of this cache, the latest first; `erw log RUN`: the stages of one run.

use super::common::{columns, json, print};
use erw_base::error::{Error, Result};
use erw_report::text::{duration, instant, number, one_line};
use erw_runner::cache::store::Store;
use erw_runner::journal::read::{Ended, Run, RunState, runs, with_events};
use std::path::Path;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show the stages of this run; a prefix of its id is enough
    pub run: Option<String>,
    /// Number of runs to list
    #[arg(short = 'n', default_value_t = 20)]
    pub number: usize,
    /// Print JSON: a list of runs, or one run
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &Args, cache: &Path) -> Result<()> {
    let store = Store::open(cache)?;
    let all = runs(&store)?;
    let Some(id) = &args.run else {
        let shown: Vec<&Run> = all.iter().take(args.number).collect();
        return match args.json {
            true => print(&json(&shown)?),
            false if all.is_empty() => print("no runs\n"),
            false => print(&list(&shown)),
        };
    };
    let mut run = find(all, id)?;
    let folder = store.runs().join(&run.id);
    with_events(&mut run, &folder);
    if args.json { print(&json(&run)?) } else { print(&detail(&run)) }
}

fn find(all: Vec<Run>, id: &str) -> Result<Run> {
    let mut found = all.into_iter().filter(|run| run.id.starts_with(id));
    match (found.next(), found.count()) {
        (Some(run), 0) => Ok(run),
        (Some(_), more) => {
            Err(Error::usage(format!("{} runs start with `{id}`", more + 1)).hint("give more of the id"))
        }
        (None, _) => Err(Error::usage(format!("no run `{id}`")).hint("run `erw log` to list the runs")),
    }
}

fn list(runs: &[&Run]) -> String {
    let row = |run: &&Run| {
        vec![
            run.id.clone(),
            who(run),
            instant(&run.began),
            one_line(&run.pipeline),
            counts(run),
            duration(run.seconds),
            end(run),
        ]
    };
    columns(&runs.iter().map(row).collect::<Vec<_>>(), "")
}

fn who(run: &Run) -> String {
    let known = |text: &str| if text.is_empty() { "?".to_string() } else { text.to_string() };
    format!("{}@{}", known(&run.user), known(&run.host))
}

/// `2 ran, 3 cached`.
fn counts(run: &Run) -> String {
    let words = [
        ("done", "ran"),
        ("cached", "cached"),
        ("failed", "failed"),
        ("skipped", "skipped"),
        ("suspended", "suspended"),
        ("running", "running"),
        ("cut_off", "cut off"),
    ];
    let unlisted = |state: &str| if state == "cached" { run.cached } else { 0 };
    let count = |state: &str| run.stages.iter().filter(|s| s.state == state).count() + unlisted(state);
    let told = words.iter().map(|(state, word)| (count(state), word)).filter(|(n, _)| *n > 0);
    let told: Vec<String> = told.map(|(n, word)| format!("{n} {word}")).collect();
    if told.is_empty() { "nothing".into() } else { told.join(", ") }
}

fn end(run: &Run) -> String {
    match (run.state, run.exit) {
        (RunState::Running, _) => "running".into(),
        (RunState::Ended, Some(exit)) => format!("exit {exit}"),
        _ => "cut off".into(),
    }
}

fn detail(run: &Run) -> String {
    let mut head = vec![
        vec!["run".to_string(), run.id.clone()],
        vec!["pipeline".into(), one_line(&run.pipeline)],
        vec!["command".into(), one_line(&run.command.join(" "))],
        vec!["by".into(), format!("{}, erw {}", who(run), run.program)],
        vec!["began".into(), instant(&run.began)],
        vec!["took".into(), duration(run.seconds)],
        vec!["ended".into(), end(run)],
    ];
    if run.state == RunState::CutOff {
        head[6][1] = "cut off: the run was killed, or the machine went down; rerun to resume".into();
    }
    let row = |s: &Ended| {
        let key = s.key.as_deref().map_or("", |k| k.get(..12).unwrap_or(k)).to_string();
        let time = match s.state.as_str() {
            _ if s.seconds <= 0.0 => String::new(),
            "cached" => format!("({})", duration(s.seconds)),
            _ => duration(s.seconds),
        };
        vec![one_line(&s.stage), s.state.replace('_', " "), time, key, remark(s)]
    };
    columns(&head, "") + "\n" + &columns(&run.stages.iter().map(row).collect::<Vec<_>>(), "")
}

/// The error or the results of a stage, and why it ran.
fn remark(stage: &Ended) -> String {
    let mut parts: Vec<String> = stage.error.iter().map(|e| e.message.clone()).collect();
    parts.extend(stage.results.iter().map(|r| format!("{} {}", r.name, number(r.value))));
    if !stage.reasons.is_empty() {
        parts.push(format!("({})", stage.reasons.join("; ")));
    }
    one_line(&parts.join(", ").replace(", (", " ("))
}
