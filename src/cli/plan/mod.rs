//! `erw plan`: what would run, why, and for how long, by what it took before; or what changed since a git revision.

mod changed;
mod judged;

pub use judged::planned;

use super::common::{PipelineArgs, columns, print, tell_of_link, warn_of};
use super::remote::{RemoteArgs, warn};
use crate::error::{ErrorKind, Result};
use crate::report::{duration, markdown};
use crate::runner::left::Left;
use crate::runner::manifest::Registry;
use crate::runner::select::select;
use serde::Serialize;
use serde_json::json;
use std::mem::ManuallyDrop;
use std::path::Path;

/// With `--exit-code`: there is work to do.
const WORK: i32 = 5;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages and what they need
    pub targets: Vec<String>,
    /// Judge this stage as if it were to run even if cached
    #[arg(long, value_name = "STAGE")]
    pub force: Vec<String>,
    /// Compare with the pipeline and its files as of this git revision instead of asking the cache
    #[arg(long, value_name = "REVISION", conflicts_with = "force")]
    pub since: Option<String>,
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Judge the stages of all trials of the `[sweep]`
    #[arg(long, conflicts_with = "since")]
    pub sweep: bool,
    /// Exit with 5 if there is work to do, with 0 if there is none, with 2 if a file or folder is missing, as a run would
    #[arg(long)]
    pub exit_code: bool,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    /// One object, for programs
    Json,
    /// A table, for the summary of a CI job
    Markdown,
}

/// A plan as it is shown.
pub struct Planned {
    pub pipeline: String,
    /// The commit that it is compared with.
    pub since: Option<String>,
    pub stages: Vec<Line>,
    /// What would work and is hardly meant.
    pub warnings: Vec<String>,
    /// What is told below the table.
    pub notes: String,
    /// The last line.
    pub sum: String,
}

#[derive(Debug, Serialize)]
pub struct Line {
    pub stage: String,
    pub kind: &'static str,
    /// Digest of the parameters.
    pub params: String,
    /// `cached`, `run`, `waits`, `blocked`, `missing`; or `unchanged`, `new`, `stale`.
    pub verdict: &'static str,
    pub says: Vec<String>,
    pub stale: bool,
    /// What the same work took before, for a stale stage.
    pub past_seconds: Option<f64>,
    /// What an attempt left that did not end.
    pub left: Option<Left>,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<i32> {
    // The process ends when the plan is told: a large pipeline is not taken apart piece by piece before.
    let pipeline = ManuallyDrop::new(match args.sweep {
        true => args.pipeline.load_or_sweep(true, registry)?,
        false => args.pipeline.load_for(&args.targets, registry, cache)?,
    });
    tell_of_link(&args.pipeline.pipeline);
    warn_of(&pipeline);
    let selected = select(&pipeline, &args.targets)?;
    let forced = super::run::forced(&pipeline, &args.force)?;
    let store = args.remote.store_for_plans(cache)?;
    let planned = match &args.since {
        None => planned(&pipeline, &store, &selected, forced)?,
        Some(revision) => {
            let known = (registry, &args.pipeline.overrides());
            changed::planned(&pipeline, &store, &selected, revision, known)?
        }
    };
    warn(store.remote());
    print(&match args.format {
        Format::Text => planned.text(),
        Format::Json => planned.json(),
        Format::Markdown => planned.markdown(),
    })?;
    let work = planned.stages.iter().any(|line| line.stale);
    let lacking = planned.stages.iter().any(|line| line.verdict == "missing");
    Ok(match args.exit_code {
        // As a run of it would end.
        true if lacking => ErrorKind::Usage.exit_code(),
        true if work => WORK,
        _ => 0,
    })
}

impl Planned {
    /// Seconds that the stale stages took before, and how many of them nobody knows of.
    fn cost(&self) -> (f64, usize) {
        let stale = || self.stages.iter().filter(|l| l.stale);
        (stale().filter_map(|l| l.past_seconds).sum(), stale().filter(|l| l.past_seconds.is_none()).count())
    }

    fn knows_costs(&self) -> bool {
        self.stages.iter().any(|l| l.past_seconds.is_some())
    }

    /// The last line with the cost of it all, unless nothing of it is known.
    fn sum(&self) -> String {
        if !self.knows_costs() {
            return self.sum.clone();
        }
        let (seconds, unknown) = self.cost();
        match unknown {
            0 => format!("{}; by earlier runs {}", self.sum, duration(seconds)),
            n => format!(
                "{}; by earlier runs at least {}, and {} of unknown cost",
                self.sum,
                duration(seconds),
                count(n, "stage", "stages")
            ),
        }
    }

    /// Columns: stage, kind, digest of the parameters, what it took before if any is known, verdict.
    pub fn text(&self) -> String {
        let costs = self.knows_costs();
        let mut rows = vec![];
        for line in &self.stages {
            let mut head = vec![line.stage.clone(), line.kind.into(), line.params.clone()];
            head.extend(costs.then(|| past(line)));
            let width = head.len();
            let mut says = line.says.iter();
            rows.push(head.into_iter().chain(says.next().cloned()).collect());
            // Further reasons below the first.
            let below = |more: &String| {
                let mut row = vec![String::new(); width];
                row.push(format!("     {more}"));
                row
            };
            rows.extend(says.map(below));
        }
        columns(&rows, "") + &self.notes() + &self.sum() + "\n"
    }

    fn notes(&self) -> String {
        self.warnings.iter().map(|text| format!("warning: {text}\n")).collect::<String>() + &self.notes
    }

    fn markdown(&self) -> String {
        let row = |l: &Line| vec![format!("`{}`", l.stage), l.kind.to_string(), l.says.join("\n"), past(l)];
        let rows: Vec<Vec<String>> = self.stages.iter().map(row).collect();
        let table = markdown::table(&["stage", "kind", "verdict", "took before"], &rows);
        let notes = self.notes();
        let notes = if notes.is_empty() { notes } else { format!("```text\n{}\n```\n\n", notes.trim()) };
        format!("### Plan of `{}`\n\n{table}\n{notes}{}\n", self.pipeline, self.sum())
    }

    fn json(&self) -> String {
        let (seconds, unknown) = self.cost();
        let plan = json!({
            "pipeline": self.pipeline,
            "since": self.since,
            "stages": self.stages,
            "stale": self.stages.iter().filter(|l| l.stale).count(),
            "past_seconds": seconds,
            "unknown_cost": unknown,
            "warnings": self.warnings,
        });
        format!("{plan:#}\n")
    }
}

fn past(line: &Line) -> String {
    match (line.stale, line.past_seconds) {
        (false, _) => String::new(),
        (true, None) => "unknown".into(),
        (true, Some(seconds)) => format!("~{}", duration(seconds)),
    }
}

fn count(n: usize, one: &str, several: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { several })
}
