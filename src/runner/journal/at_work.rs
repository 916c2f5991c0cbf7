//! What is queued and runs in a cache folder: the stages of runs that live, by their journals, and
//! jobs of runs that are gone, by the notes in their work folders. Starts and stops nothing.

use super::read::{Run, RunState, runs};
use crate::cache::store::Store;
use crate::exec::launch::slurm::placed::Placed;
use crate::exec::launch::slurm::runner_job::{self, RunnerJob};
use crate::exec::launch::slurm::unattended::{self, Seen};
use erw_base::error::{Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

/// A stage, or a run that is a job itself.
#[derive(Debug, Clone)]
pub struct AtWork {
    /// Name of the pipeline, and its file without links.
    pub pipeline: String,
    pub file: PathBuf,
    /// `None`: the run itself.
    pub stage: Option<String>,
    pub key: Option<String>,
    /// The name of its job.
    pub name: Option<String>,
    /// The note of its job; `None`: a process of the run's own machine.
    pub placed: Option<Placed>,
    /// What Slurm says of its job.
    pub seen: Option<Seen>,
    pub user: String,
    pub host: String,
    /// UTC.
    pub since: String,
    /// The run that attends it; `None`: none does.
    pub run: Option<String>,
}

/// Everything at work, and why Slurm could not be asked, if so.
pub struct Everything {
    pub all: Vec<AtWork>,
    /// The runs that live.
    pub runs: Vec<Run>,
    pub silence: Option<Error>,
}

/// Looks at everything at work.
pub fn at_work(store: &Store) -> Result<Everything> {
    let live: Vec<Run> = runs(store)?.into_iter().filter(|run| run.state == RunState::Running).collect();
    let placed = Placed::all(store)?;
    let runners = runner_job::all(store)?;
    let names: Vec<String> =
        placed.iter().map(|(_, placed)| placed.name.clone()).chain(runners.iter().map(|r| r.name.clone())).collect();
    let (seen, silence) = match unattended::look(&names) {
        Ok(seen) => (seen, None),
        Err(e) => (HashMap::new(), Some(e)),
    };
    let mut all: Vec<AtWork> = runners.iter().filter_map(|runner| of_runner(runner, &seen, &live)).collect();
    let mut jobs = BTreeSet::new();
    for (key, placed) in placed {
        let key = key.to_string();
        let run = live.iter().find(|run| run.stages.iter().any(|s| is_running(s, &key)));
        jobs.insert(key.clone());
        let seen = seen.get(&placed.name).cloned();
        // It waits for the next run, and for nothing else.
        if placed.stopped && seen.as_ref().is_none_or(|seen| seen.status.has_ended()) && silence.is_none() {
            continue;
        }
        all.push(AtWork {
            pipeline: placed.pipeline.clone(),
            file: placed.file.clone(),
            stage: Some(placed.stage.clone()),
            key: Some(key),
            user: placed.user.clone(),
            host: seen.as_ref().map_or_else(String::new, |seen| seen.status.nodes.clone()),
            since: seen.as_ref().and_then(|seen| seen.since.clone()).unwrap_or_else(|| placed.at.clone()),
            run: run.map(|run| run.id.clone()),
            name: Some(placed.name.clone()),
            placed: Some(placed),
            seen,
        });
    }
    // The oldest run first.
    for run in live.iter().rev() {
        for stage in run.stages.iter().filter(|s| s.state == "running") {
            let key = stage.key.clone().unwrap_or_default();
            if jobs.contains(&key) {
                continue;
            }
            all.push(AtWork {
                pipeline: run.pipeline.clone(),
                file: run.file.clone(),
                stage: Some(stage.stage.clone()),
                key: Some(key),
                name: None,
                placed: None,
                seen: None,
                user: run.user.clone(),
                host: run.host.clone(),
                since: later(&run.began, stage.started),
                run: Some(run.id.clone()),
            });
        }
    }
    Ok(Everything { all, runs: live, silence })
}

fn is_running(stage: &super::read::Ended, key: &str) -> bool {
    stage.state == "running" && stage.key.as_deref() == Some(key)
}

/// A run that is a job, while that is in the queue.
fn of_runner(runner: &RunnerJob, seen: &HashMap<String, Seen>, live: &[Run]) -> Option<AtWork> {
    let seen = seen.get(&runner.name).filter(|seen| !seen.status.has_ended())?;
    Some(AtWork {
        pipeline: runner.pipeline.clone(),
        file: runner.file.clone(),
        stage: None,
        key: None,
        name: Some(runner.name.clone()),
        placed: None,
        seen: Some(seen.clone()),
        user: runner.user.clone(),
        host: seen.status.nodes.clone(),
        since: seen.since.clone().unwrap_or_else(|| runner.at.clone()),
        run: live.iter().find(|run| is_of(run, &runner.name)).map(|run| run.id.clone()),
    })
}

/// Whether a run is this job.
fn is_of(run: &Run, name: &str) -> bool {
    run.command.contains(&runner_job::mark(name))
}

/// A time in UTC, and this many seconds later.
fn later(utc: &str, seconds: f64) -> String {
    let began = humantime::parse_rfc3339(utc).ok();
    began.map_or_else(|| utc.into(), |began| crate::host::utc(began + Duration::from_secs_f64(seconds.max(0.0))))
}
