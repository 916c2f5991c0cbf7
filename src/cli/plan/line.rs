//! One line of a plan, and the plan as a whole.

use crate::common::columns;
use erw_report::markdown;
use erw_report::text::duration;
use erw_runner::event::progress::PartialProgress;
use serde::Serialize;
use serde_json::json;

/// A plan, ready to print.
pub struct Planned {
    pub pipeline: String,
    /// The commit that the pipeline is compared with, if any.
    pub since: Option<String>,
    pub stages: Vec<Line>,
    /// Warnings about valid but probably unintended settings.
    pub warnings: Vec<String>,
    /// Text below the table.
    pub notes: String,
    /// The last line.
    pub sum: String,
}

/// A stage in a plan.
#[derive(Debug, Serialize)]
pub struct Line {
    pub stage: String,
    pub kind: &'static str,
    /// Digest of the parameters, for programs that compare plans.
    pub params: String,
    /// `cached`, `run`, `waits`, `blocked`, `missing`; or `unchanged`, `new`, `stale`.
    pub verdict: &'static str,
    /// The verdict in words, with its reasons.
    pub says: Vec<String>,
    pub stale: bool,
    /// How long the same work took before, for a stale stage.
    pub past_seconds: Option<f64>,
    /// Bytes that it takes of a GPU's memory, where that is known before it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory: Option<u64>,
    /// How many processes share its work, if several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<usize>,
    /// What its job would request, as options of `sbatch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<Vec<String>>,
    /// The progress that an interrupted attempt left.
    pub left: Option<PartialProgress>,
}

impl Planned {
    /// Seconds that the stale stages took before, and the number of stages for which that is
    /// unknown.
    fn cost(&self) -> (f64, usize) {
        let stale = || self.stages.iter().filter(|l| l.stale);
        (stale().filter_map(|l| l.past_seconds).sum(), stale().filter(|l| l.past_seconds.is_none()).count())
    }

    fn knows_costs(&self) -> bool {
        self.stages.iter().any(|l| l.past_seconds.is_some())
    }

    /// The last line, with the estimated total time if anything is known of it.
    fn sum(&self) -> String {
        if !self.knows_costs() {
            return self.sum.clone();
        }
        let (seconds, unknown) = self.cost();
        match unknown {
            0 => format!("{}; estimated time {}", self.sum, duration(seconds)),
            n => format!(
                "{}; estimated time at least {}, unknown for {}",
                self.sum,
                duration(seconds),
                count(n, "stage", "stages")
            ),
        }
    }

    /// The plan as a table. The column of estimates is left out if none is known.
    pub fn text(&self) -> String {
        let costs = self.knows_costs();
        let row = |stage: &str, kind: &str, estimate: String| -> Vec<String> {
            [stage, kind].map(String::from).into_iter().chain(costs.then_some(estimate)).collect()
        };
        let mut header = row("stage", "kind", "estimate".into());
        let width = header.len();
        header.push("verdict".into());
        let mut rows = vec![header];
        for line in &self.stages {
            let mut says = line.says.iter();
            let cells = row(&line.stage, line.kind, past(line));
            rows.push(cells.into_iter().chain(says.next().cloned()).collect());
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

    pub(crate) fn markdown(&self) -> String {
        let row = |l: &Line| vec![format!("`{}`", l.stage), l.kind.to_string(), l.says.join("\n"), past(l)];
        let rows: Vec<Vec<String>> = self.stages.iter().map(row).collect();
        let table = markdown::table(&["stage", "kind", "verdict", "estimate"], &rows);
        let notes = self.notes();
        let notes = if notes.is_empty() { notes } else { format!("```text\n{}\n```\n\n", notes.trim()) };
        format!("### Plan of `{}`\n\n{table}\n{notes}{}\n", self.pipeline, self.sum())
    }

    pub(crate) fn json(&self) -> String {
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

pub(crate) fn past(line: &Line) -> String {
    match (line.stale, line.past_seconds) {
        (false, _) => String::new(),
        (true, None) => "unknown".into(),
        (true, Some(seconds)) => format!("~{}", duration(seconds)),
    }
}

pub(crate) fn count(n: usize, one: &str, several: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { several })
}
