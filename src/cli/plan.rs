//! `erw plan`: what would run, and why.

use super::common::{PipelineArgs, columns, print};
use super::remote::{RemoteArgs, warn};
use super::weights::megabytes;
use crate::error::Result;
use crate::fetch::library::{Library, Presence};
use crate::report::table::near;
use crate::runner::graph::{Pipeline, Stage, StageId};
use crate::runner::key::params_digest;
use crate::runner::manifest::Registry;
use crate::runner::plan::{Judge, Missing, Verdict, plan};
use crate::runner::select::select;
use crate::runner::store::Store;
use crate::stages::weights::{KIND, published};
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
    #[command(flatten)]
    pub remote: RemoteArgs,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let pipeline = args.pipeline.load(registry)?;
    let selected = select(&pipeline, &args.targets)?;
    let forced = super::run::forced(&pipeline, &args.force)?;
    let store = args.remote.store_for_plans(cache)?;
    let planned = text(&pipeline, &store, &selected, forced);
    warn(store.remote());
    print(&planned?)
}

/// What is printed: stage, kind, digest of the parameters, verdict.
pub fn text(pipeline: &Pipeline, store: &Store, selected: &[StageId], forced: BTreeSet<StageId>) -> Result<String> {
    let judge = Judge::new(pipeline, store, forced);
    let verdicts = plan(&judge, selected)?;
    let blocked = blocked(pipeline, &verdicts);
    let library = Library::at(&store.downloads());
    let mut rows = vec![];
    for (id, verdict) in &verdicts {
        let stage = pipeline.stage(*id);
        let head = [stage.name.clone(), stage.kind.name.into(), params_digest(stage).short()[..8].to_string()];
        let mut says = match judge.is_afar(verdict) {
            true => vec!["cached (remote)".into()],
            false => words(pipeline, stage, verdict, &blocked, &library),
        }
        .into_iter();
        rows.push(head.into_iter().chain(says.next()).collect());
        // Further reasons below the first.
        rows.extend(says.map(|more| vec![String::new(), String::new(), String::new(), format!("     {more}")]));
    }
    let cached = verdicts.iter().filter(|(_, v)| matches!(v, Verdict::Cached(_))).count();
    let missing: Vec<&Missing> = verdicts.iter().flat_map(|(_, v)| absent(v)).collect();
    let mut sum = match verdicts.len() - cached {
        0 if cached == 1 => "the stage is cached".into(),
        0 => format!("all {cached} stages are cached"),
        stale if missing.is_empty() => format!("{stale} of {} stages would run", verdicts.len()),
        _ => format!(
            "nothing runs before these are there: {}",
            count(missing.len(), "file or folder", "files and folders")
        ),
    };
    if !missing.is_empty() && blocked.len() + cached < verdicts.len() {
        let free = verdicts.len() - cached - blocked.len();
        sum.push_str(&format!("; {} without them (--keep-going, or by name)", count(free, "stage runs", "stages run")));
    }
    Ok(columns(&rows, "") + &shopping_list(&missing) + &sum + "\n")
}

fn absent(verdict: &Verdict) -> &[Missing] {
    match verdict {
        Verdict::Missing(missing) => missing,
        _ => &[],
    }
}

fn count(n: usize, one: &str, several: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { several })
}

/// Stages that cannot run because a file is absent, theirs or that of a stage they need.
fn blocked(pipeline: &Pipeline, verdicts: &[(StageId, Verdict)]) -> BTreeSet<StageId> {
    let mut blocked = BTreeSet::new();
    // Topological order: what a stage needs was looked at before.
    for (id, verdict) in verdicts {
        let needs = |from| matches!(verdict, Verdict::Waiting(_)) && blocked.contains(&from);
        if !absent(verdict).is_empty() || pipeline.stage(*id).inputs.values().any(|edge| needs(edge.from)) {
            blocked.insert(*id);
        }
    }
    blocked
}

/// Each absent file with the place where it is looked for and how to get it.
fn shopping_list(missing: &[&Missing]) -> String {
    let mut text = String::new();
    for m in missing {
        text.push_str(&format!("\n{}: `{}` goes to {}\n", m.stage, m.param, near(&m.path)));
        m.how.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    text + if missing.is_empty() { "" } else { "\n" }
}

/// What such a stage would fetch, and from where.
fn to_fetch(stage: &Stage, library: &Library) -> Option<String> {
    let (entry, _) = published(&stage.params).filter(|_| stage.kind.name == KIND.name)?;
    if matches!(library.look(entry), Presence::Here(_) | Presence::InHubCache(_)) {
        return None;
    }
    let size = entry.bytes().map_or(String::new(), |n| format!("{} ", megabytes(n)));
    Some(format!("to be fetched: {size}from {}", entry.locations.first()?.site()))
}

fn words(
    pipeline: &Pipeline,
    stage: &Stage,
    verdict: &Verdict,
    blocked: &BTreeSet<StageId>,
    library: &Library,
) -> Vec<String> {
    match verdict {
        Verdict::Cached(_) => vec!["cached".into()],
        Verdict::Run(reasons) => {
            let mut all = reasons.iter().map(ToString::to_string);
            let first = all.next().unwrap_or_default();
            std::iter::once(format!("run: {first}")).chain(all).chain(to_fetch(stage, library)).collect()
        }
        Verdict::Waiting(on) => {
            let names = |ids: Vec<&StageId>| -> String {
                ids.iter().map(|id| format!("`{}`", pipeline.stage(**id).name)).collect::<Vec<_>>().join(", ")
            };
            let lacking: Vec<&StageId> = on.iter().filter(|id| blocked.contains(id)).collect();
            vec![match lacking.is_empty() {
                true => format!("waits: stale because {} will run", names(on.iter().collect())),
                false => format!("blocked: needs {}", names(lacking)),
            }]
        }
        Verdict::Missing(missing) => {
            let one = |m: &Missing| format!("missing: `{}`: nothing at {}", m.param, near(&m.path));
            missing.iter().map(one).collect()
        }
    }
}
