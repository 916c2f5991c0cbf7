//! `erw stop PIPELINE [STAGE]`: asks runs and jobs to save a checkpoint and stop, from any host that
//! sees the cache. Runs that live see a file; jobs of runs that are gone are told by Slurm.

use super::common::print;
use super::jobs::whole;
use erw_base::error::{Error, Result};
use erw_runner::cache::key::Key;
use erw_runner::cache::store::Store;
use erw_runner::exec::launch::slurm::unattended::{self, Stopped};
use erw_runner::exec::stop_request;
use erw_runner::files::digest::Digest;
use erw_runner::host::user;
use erw_runner::journal::at_work::{AtWork, at_work};
use erw_runner::text::suggest;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long runs have to obey before their jobs are looked at. One that ends meanwhile leaves them.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pipeline file
    #[arg(value_name = "PIPELINE", value_hint = clap::ValueHint::FilePath)]
    pub pipeline: PathBuf,
    /// Only these stages; the run goes on with what does not depend on them
    pub stages: Vec<String>,
}

pub fn run(args: &Args, cache: &Path) -> Result<()> {
    let store = Store::open(cache)?;
    let file = whole(&args.pipeline)?;
    let found = at_work(&store)?;
    let me = user();
    let mine = |a: &&AtWork| a.file == file && a.user == me;
    let at_work: Vec<&AtWork> = found.all.iter().filter(mine).collect();
    let runs: Vec<&str> =
        found.runs.iter().filter(|run| run.file == file && run.user == me).map(|run| run.id.as_str()).collect();
    let chosen: Vec<&AtWork> = match args.stages.as_slice() {
        [] => at_work.clone(),
        names => chosen(&at_work, names, !runs.is_empty())?,
    };
    if let (Some(why), true) = (found.silence, chosen.iter().any(|a| a.placed.is_some())) {
        return Err(why);
    }
    let mut text = String::new();
    if args.stages.is_empty() {
        // A run that is a job is told by a signal: a run that only just ends, or begins, as that job
        // would not see a file.
        let is_job = |id: &str| at_work.iter().any(|a| a.stage.is_none() && a.run.as_deref() == Some(id));
        for id in runs.iter().filter(|id| !is_job(id)) {
            stop_request::ask(&store.runs().join(id))?;
            text += &format!("run {id}: asked to stop, with its stages\n");
        }
    }
    // First the runs, which stop their stages themselves.
    let (whole, single): (Vec<&AtWork>, Vec<&AtWork>) = chosen.into_iter().partition(|a| a.stage.is_none());
    for a in whole {
        text += &stop_run(a)?;
    }
    let until = Instant::now() + PATIENCE;
    for a in single {
        text += &stop(&store, a, args.stages.is_empty(), until)?;
    }
    print(if text.is_empty() { "nothing is queued or runs\n" } else { &text })
}

/// The stages of these names; `train` also means its trials.
fn chosen<'a>(at_work: &[&'a AtWork], names: &[String], lives: bool) -> Result<Vec<&'a AtWork>> {
    let mut chosen = vec![];
    let known: BTreeSet<&str> = at_work.iter().filter_map(|a| a.stage.as_deref()).collect();
    for name in names {
        let is_it = |a: &&&AtWork| {
            a.stage.as_deref().is_some_and(|stage| stage == name || stage.split('@').next() == Some(name.as_str()))
        };
        let found: Vec<&AtWork> = at_work.iter().filter(is_it).copied().collect();
        if found.is_empty() {
            let error = Error::usage(format!("stage `{name}` is not queued and does not run"));
            let error = error.maybe_hint(suggest::hint(name, known.iter().copied(), "at work are"));
            let all = "one that waits for its turn is stopped with its run: leave the stage out";
            return Err(error.maybe_hint(lives.then(|| all.into())));
        }
        chosen.extend(found);
    }
    Ok(chosen)
}

/// Stops a run that is a job.
fn stop_run(a: &AtWork) -> Result<String> {
    let id = a.seen.as_ref().map_or("?", |seen| seen.status.id.as_str());
    Ok(match unattended::stop_runner(a.seen.as_ref())? {
        Stopped::Cancelled => format!("the run: its job {id} waited, and was cancelled\n"),
        Stopped::Over => String::new(),
        Stopped::Asked | Stopped::Attended => format!("the run: its job {id} was asked to stop, with its stages\n"),
    })
}

/// Stops a stage. `told`: its run was asked to, if it lives.
fn stop(store: &Store, a: &AtWork, told: bool, until: Instant) -> Result<String> {
    let key = a.key.as_ref().and_then(|key| key.parse::<Digest>().ok()).map(Key::from);
    let (Some(key), Some(stage)) = (key, &a.stage) else { return Ok(String::new()) };
    let is_told = told && a.run.is_some();
    let Some(placed) = &a.placed else {
        if is_told {
            return Ok(String::new());
        }
        stop_request::ask(&store.work_dir(&key))?;
        return Ok(format!("{stage}: asked to save a checkpoint and stop\n"));
    };
    let id = a.seen.as_ref().map_or("?", |seen| seen.status.id.as_str());
    Ok(match unattended::stop(store, &key, placed, until)? {
        Stopped::Cancelled => format!("{stage}: its job {id} waited, and was cancelled\n"),
        Stopped::Asked => format!("{stage}: its job {id} was asked to save a checkpoint and stop\n"),
        Stopped::Attended | Stopped::Over if is_told => String::new(),
        Stopped::Attended => format!("{stage}: its run was asked to stop job {id}\n"),
        Stopped::Over if a.run.is_some() => format!("{stage}: stopped by its run\n"),
        Stopped::Over => format!("{stage}: its job has ended\n"),
    })
}
