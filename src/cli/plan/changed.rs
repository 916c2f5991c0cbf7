//! The plan relative to a git revision: which stages are new, stale or unchanged since then. The
//! cache is used for durations only.

use super::line::{Line, Planned};
use erw_base::error::Result;
use erw_report::table::near;
use erw_runner::cache::store::Store;
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::pipeline::layers::Overrides;
use erw_runner::pipeline::properties::{Properties, warnings};
use erw_runner::plan::action::params_digest;
use erw_runner::plan::record_index::RecordIndex;
use erw_runner::repro::changed_since::{StageChange, since};

/// The plan of the selected stages: whether each changed since `revision`, and why.
pub fn planned(
    pipeline: &Pipeline,
    store: &Store,
    selected: &[StageId],
    revision: &str,
    known: (Registry, &Overrides),
) -> Result<Planned> {
    let since = since(pipeline, selected, revision, known, store)?;
    let stale = since.stages.iter().any(|(_, change)| *change != StageChange::Unchanged);
    let record_index = if stale { Some(RecordIndex::read(store)?) } else { None };
    let properties = Properties::of(pipeline);
    let line = |(id, change): &(StageId, StageChange)| {
        let stage = pipeline.stage(*id);
        let (verdict, says) = match change {
            StageChange::Unchanged => ("unchanged", vec!["unchanged".into()]),
            StageChange::New => ("new", vec!["new stage".into()]),
            StageChange::Stale(causes) => {
                let mut says: Vec<String> = causes.iter().map(ToString::to_string).collect();
                if let Some(first) = says.first_mut() {
                    first.insert_str(0, "stale: ");
                }
                ("stale", says)
            }
        };
        let stale = *change != StageChange::Unchanged;
        Line {
            stage: stage.name.clone(),
            kind: stage.kind.name,
            params: params_digest(stage).short()[..8].to_string(),
            verdict,
            says,
            stale,
            past_seconds: record_index
                .as_ref()
                .filter(|_| stale)
                .and_then(|record_index| record_index.took(&pipeline.name, stage, &properties.given(stage))),
            gpu_memory: None,
            ranks: None,
            job: None,
            left: None,
        }
    };
    let stages: Vec<Line> = since.stages.iter().map(line).collect();
    let commit: String = since.commit.chars().take(10).collect();
    let named = if since.commit.starts_with(revision) { commit } else { format!("{revision} ({commit})") };
    let sum = match stages.iter().filter(|l| l.stale).count() {
        0 => format!("nothing is stale since {named}"),
        n => format!("{n} of {} stages {} stale since {named}", stages.len(), if n == 1 { "is" } else { "are" }),
    };
    let gone: Vec<String> = since.gone.iter().map(|name| format!("`{name}`")).collect();
    let mut notes = if gone.is_empty() { String::new() } else { format!("removed stages: {}\n", gone.join(", ")) };
    match &since.file {
        None => notes += &format!("`{}` did not exist\n", pipeline.file.display()),
        Some(then) if *then != pipeline.file => notes += &format!("the file was called `{}`\n", near(then)),
        Some(_) => {}
    }
    let warnings = warnings(pipeline, selected);
    Ok(Planned { pipeline: pipeline.name.clone(), since: Some(since.commit), stages, warnings, notes, sum })
}
