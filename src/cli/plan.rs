//! `erw plan`: what would run, and why.

use super::common::{PipelineArgs, columns, print};
use crate::error::Result;
use crate::report::table::near;
use crate::runner::graph::{Pipeline, StageId};
use crate::runner::key::params_digest;
use crate::runner::manifest::Registry;
use crate::runner::plan::{Judge, Verdict, plan};
use crate::runner::select::select;
use crate::runner::store::Store;
use std::collections::BTreeSet;
use std::path::Path;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages and what they need
    pub targets: Vec<String>,
    /// Judge this stage as if it were to run even if cached
    #[arg(long, value_name = "STAGE")]
    pub force: Vec<String>,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let pipeline = args.pipeline.load(registry)?;
    let selected = select(&pipeline, &args.targets)?;
    let forced = super::run::forced(&pipeline, &args.force)?;
    print(&text(&pipeline, &Store::open(cache)?, &selected, forced)?)
}

/// What is printed: stage, kind, digest of the parameters, verdict.
pub fn text(pipeline: &Pipeline, store: &Store, selected: &[StageId], forced: BTreeSet<StageId>) -> Result<String> {
    let judge = Judge::new(pipeline, store, forced);
    let verdicts = plan(&judge, selected)?;
    let mut rows = vec![];
    let mut hints = vec![];
    for (id, verdict) in &verdicts {
        let stage = pipeline.stage(*id);
        let head = [stage.name.clone(), stage.kind.name.into(), params_digest(stage).short()[..8].to_string()];
        let mut says = words(pipeline, verdict).into_iter();
        rows.push(head.into_iter().chain(says.next()).collect());
        // Further reasons below the first.
        rows.extend(says.map(|more| vec![String::new(), String::new(), String::new(), format!("     {more}")]));
        if let Verdict::Missing(missing) = verdict {
            hints.extend(missing.iter().filter_map(|m| Some(format!("hint: {}: {}\n", stage.name, m.how.as_ref()?))));
        }
    }
    let cached = verdicts.iter().filter(|(_, v)| matches!(v, Verdict::Cached(_))).count();
    let sum = match verdicts.len() - cached {
        0 if cached == 1 => "the stage is cached\n".into(),
        0 => format!("all {cached} stages are cached\n"),
        stale => format!("{stale} of {} stages would run\n", verdicts.len()),
    };
    Ok(columns(&rows, "") + &hints.concat() + &sum)
}

fn words(pipeline: &Pipeline, verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Cached(_) => vec!["cached".into()],
        Verdict::Run(reasons) => {
            let mut all = reasons.iter().map(ToString::to_string);
            let first = all.next().unwrap_or_default();
            std::iter::once(format!("run: {first}")).chain(all).collect()
        }
        Verdict::Waiting(on) => {
            let names: Vec<String> = on.iter().map(|id| format!("`{}`", pipeline.stage(*id).name)).collect();
            vec![format!("waits: stale because {} will run", names.join(", "))]
        }
        Verdict::Missing(missing) => {
            let one =
                |m: &crate::runner::plan::Missing| format!("missing: `{}`: nothing at {}", m.param, near(&m.path));
            missing.iter().map(one).collect()
        }
    }
}
