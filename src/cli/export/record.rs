//! The record of a stage that is to be exported: only of one that is up to date.

use erw_base::error::{Error, Result};
use erw_runner::cache::Cache;
use erw_runner::cache::action_cache::Record;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::plan::{Verdict, verdict};
use erw_runner::text::shell::quoted;

/// # Errors
/// When the stage is not up to date; the error says why.
pub fn record(pipeline: &Pipeline, cache: &Cache, id: StageId) -> Result<Record> {
    let name = &pipeline.stage(id).name;
    let why = match verdict(pipeline, cache, id)? {
        Verdict::Cached(record) => return Ok(*record),
        Verdict::Run(reasons) => reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        Verdict::Waiting(on) => {
            let names: Vec<String> = on.iter().map(|id| format!("`{}`", pipeline.stage(*id).name)).collect();
            format!("{} must run first", names.join(", "))
        }
        Verdict::Missing(missing) => {
            return Err(missing.first().map_or_else(|| Error::usage("a source is missing"), |m| m.error()));
        }
    };
    let file = quoted(&pipeline.file.to_string_lossy());
    let error = Error::usage(format!("stage `{name}` is not up to date")).because(why);
    Err(error.hint(format!("run `erw run {file} {}` first", quoted(name))))
}
