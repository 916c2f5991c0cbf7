//! Stages of one shape that become ready together are submitted as one array: for the controller
//! that is one job, and hundreds of single ones are many. Nobody else knows of it: a task has a name
//! of its own, `ARRAY_TASK`, by which it is found, asked and cancelled like any other job.
//!
//! The first that comes waits a moment for others, submits, and tells them what became of it. Who
//! was not submitted together goes alone, and so does every further attempt.

use super::commands::{Answer, LIMIT, run};
use super::placed::{Placed, token};
use super::script::quoted;
use crate::files::disk::{Durability, write_file};
use erw_base::error::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long others are waited for.
const MOMENT: Duration = Duration::from_millis(500);
/// Tasks of an array at most.
const TASKS: usize = 500;

/// A job that may be submitted with others.
#[derive(Debug)]
pub(super) struct Member {
    pub placed: Placed,
    pub work: PathBuf,
    pub cache: PathBuf,
    pub script: PathBuf,
    pub log: PathBuf,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is to be submitted by itself.
    Alone,
    Submitted(Placed),
    /// The submission, at this time, was not answered, for this reason.
    Unanswered(Placed, Instant, String),
}

/// A member, and where it is told its fate.
type Waiting = (Member, Sender<Fate>);

/// Those that wait for others, by shape.
#[derive(Debug, Default)]
pub(super) struct Gathering(Mutex<HashMap<String, Vec<Waiting>>>);

impl Gathering {
    /// Submits a job together with others whose scripts ask for the same.
    pub(super) fn submit(&self, member: Member, script: &str) -> Fate {
        let shape = options(script).collect::<Vec<_>>().join("\n");
        let (tell, told) = channel();
        let is_first = {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let same = waiting.entry(shape.clone()).or_default();
            same.push((member, tell));
            same.len() == 1
        };
        if is_first {
            std::thread::sleep(MOMENT);
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let mut all = waiting.remove(&shape).unwrap_or_default();
            drop(waiting);
            while !all.is_empty() {
                let rest = all.split_off(most().min(all.len()));
                together(std::mem::replace(&mut all, rest), &shape);
            }
        }
        told.recv().unwrap_or(Fate::Alone)
    }
}

/// What a script asks for, without what is different for each job.
fn options(script: &str) -> impl Iterator<Item = &str> {
    const OWN: [&str; 3] = ["--job-name=", "--output=", "--comment="];
    let asks = script.lines().filter(|line| line.starts_with("#SBATCH "));
    asks.filter(|line| !OWN.iter().any(|own| line.contains(own)))
}

fn together(members: Vec<Waiting>, shape: &str) {
    // A failure that concerns one alone is told to that one when it tries.
    let fates = match members.len() {
        1 => Err(()),
        _ => array(members.iter().map(|(member, _)| member), shape).map_err(drop),
    };
    let fates = fates.unwrap_or_else(|()| members.iter().map(|_| Fate::Alone).collect());
    members.into_iter().zip(fates).for_each(|((_, tell), fate)| drop(tell.send(fate)));
}

/// Submits an array. The notes of all tasks are on disk before.
fn array<'m>(members: impl Iterator<Item = &'m Member> + Clone, shape: &str) -> Result<Vec<Fate>> {
    let Some(first) = members.clone().next() else { return Ok(vec![]) };
    let names: Vec<String> = members.clone().map(|m| format!("{} {}", m.placed.name, m.placed.attempt)).collect();
    let name = token(&first.cache, &names.join(" "));
    let note = |(task, member): (usize, &Member)| {
        let placed = Placed { name: format!("{name}_{task}"), ..member.placed.clone() };
        placed.write(&member.work).map(|()| placed)
    };
    let placed: Vec<Placed> = members.clone().enumerate().map(note).collect::<Result<_>>()?;
    let path = first.script.with_extension("array.sh");
    let text = script(&name, members, shape);
    write_file(&path, text.as_bytes(), Durability::Now).map_err(|e| Error::io("write", &path, e))?;
    let submitted = Instant::now();
    Ok(match run("sbatch", &[path.to_string_lossy().into_owned()], LIMIT)? {
        Answer::Text(_) => placed.into_iter().map(Fate::Submitted).collect(),
        // Each will hear why, or fits where all together do not.
        Answer::Refused(_) => placed.iter().map(|_| Fate::Alone).collect(),
        Answer::Silence(words) => {
            placed.into_iter().map(|placed| Fate::Unanswered(placed, submitted, words.clone())).collect()
        }
    })
}

/// The script of an array: each task is the script of its stage, with its own log.
fn script<'m>(name: &str, members: impl Iterator<Item = &'m Member>, shape: &str) -> String {
    let word = |path: &Path| quoted(&path.to_string_lossy());
    let tasks: Vec<String> = members
        .enumerate()
        .map(|(task, m)| format!("{task}) exec /bin/sh {} >> {} 2>&1 ;;", word(&m.script), word(&m.log)))
        .collect();
    let last = tasks.len().saturating_sub(1);
    let head = [
        "#!/bin/sh".to_string(),
        format!("#SBATCH --job-name={name} --array=0-{last} --requeue --output=/dev/null"),
        shape.to_string(),
        "case $SLURM_ARRAY_TASK_ID in".into(),
    ];
    [head.as_slice(), &tasks, &["esac".into()]].concat().join("\n") + "\n"
}

/// Tasks of an array at most, also by the site.
fn most() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| {
        let Ok(Answer::Text(text)) = run("scontrol", &["show".into(), "config".into()], LIMIT) else { return 1 };
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix("MaxArraySize")?.split('=').nth(1));
        line.and_then(|number| number.trim().parse().ok()).map_or(1, |most: usize| most.clamp(1, TASKS))
    })
}

/// The name of the job that is submitted, and the number of the task in it.
pub(super) fn parts(name: &str) -> (&str, Option<&str>) {
    name.split_once('_').map_or((name, None), |(array, task)| (array, Some(task)))
}
