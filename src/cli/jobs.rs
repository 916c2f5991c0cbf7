//! `erw jobs`: what is queued and runs in this cache, also of runs that are gone.

use super::common::{columns, json, print};
use erw_base::error::Result;
use erw_report::text::instant;
use erw_runner::cache::store::Store;
use erw_runner::journal::at_work::{AtWork, at_work};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only of this pipeline
    #[arg(value_name = "PIPELINE", value_hint = clap::ValueHint::FilePath)]
    pub pipeline: Option<PathBuf>,
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &Args, cache: &Path) -> Result<()> {
    let store = Store::open(cache)?;
    let found = at_work(&store)?;
    if let Some(why) = &found.silence {
        let causes = why.causes.iter().map(|cause| format!(": {cause}")).collect::<String>();
        let _ = writeln!(std::io::stderr().lock(), "warning: {}{causes}", why.message);
    }
    let file = args.pipeline.as_ref().map(|file| whole(file)).transpose()?;
    let all: Vec<&AtWork> = found.all.iter().filter(|a| file.as_ref().is_none_or(|file| a.file == *file)).collect();
    if args.json {
        return print(&json(&all.iter().map(|a| object(a)).collect::<Vec<_>>())?);
    }
    if all.is_empty() {
        return print("nothing is queued or runs\n");
    }
    let header = ["pipeline", "stage", "job", "state", "node", "since", "run"].map(String::from).to_vec();
    print(&columns(&std::iter::once(header).chain(all.iter().map(|a| row(a))).collect::<Vec<_>>(), ""))
}

/// A pipeline file without links, as journals and notes name it.
pub fn whole(file: &Path) -> Result<PathBuf> {
    file.canonicalize().map_err(|e| erw_base::error::Error::io("find", file, e))
}

/// The state in words.
fn state(a: &AtWork) -> String {
    match (&a.seen, &a.placed) {
        (Some(seen), _) => seen.status.state.to_lowercase(),
        (None, Some(_)) => "unknown".into(),
        (None, None) => "running".into(),
    }
}

/// Why it waits or has ended.
fn reason(a: &AtWork) -> Option<&str> {
    let reason = a.seen.as_ref().map(|seen| seen.status.reason.as_str());
    reason.filter(|reason| !reason.is_empty() && *reason != "None")
}

fn job(a: &AtWork) -> Option<&str> {
    a.seen.as_ref().map(|seen| seen.status.id.as_str())
}

fn row(a: &AtWork) -> Vec<String> {
    let state = match reason(a) {
        Some(reason) => format!("{} ({reason})", state(a)),
        None => state(a),
    };
    vec![
        a.pipeline.clone(),
        a.stage.clone().unwrap_or_else(|| "(the run itself)".into()),
        job(a).unwrap_or(if a.placed.is_some() { "?" } else { "local" }).into(),
        state,
        if a.host.is_empty() { "-".into() } else { a.host.clone() },
        instant(&a.since),
        match (&a.stage, &a.run) {
            (_, Some(run)) => run.clone(),
            (None, None) => String::new(),
            (_, None) if a.seen.as_ref().is_some_and(|seen| seen.status.has_ended()) => {
                "gone; `erw run` takes over what it left".into()
            }
            (_, None) => "gone; `erw run` attends it".into(),
        },
    ]
}

fn object(a: &AtWork) -> Value {
    json!({
        "pipeline": a.pipeline, "file": a.file, "stage": a.stage, "key": a.key,
        "launcher": if a.placed.is_some() || a.seen.is_some() { "slurm" } else { "local" },
        "job": job(a), "name": a.name,
        "state": state(a), "reason": reason(a), "host": a.host, "user": a.user, "since": a.since, "run": a.run,
    })
}
