//! What would run and why, stage by stage, as the cache stands.

use super::line::{Line, Planned, count};
use crate::cli::common::megabytes;
use crate::report::table::near;
use erw_base::error::Result;
use erw_fetch::library::{Library, Presence};
use erw_runner::cache::CacheRef;
use erw_runner::pipeline::graph::{Pipeline, Stage, StageId};
use erw_runner::pipeline::properties::doubts;
use erw_runner::plan::action::params_digest;
use erw_runner::plan::reason::Reason;
use erw_runner::plan::{CacheChecker, Missing, Verdict, plan};
use erw_stages::data::weights::{KIND, published};
use std::collections::BTreeSet;

/// The verdict on each selected stage.
pub fn planned(
    pipeline: &Pipeline,
    cache: CacheRef<'_>,
    selected: &[StageId],
    forced: BTreeSet<StageId>,
) -> Result<Planned> {
    let checker = CacheChecker::new(pipeline, cache, forced);
    let verdicts = plan(&checker, selected)?;
    let stale = verdicts.iter().any(|(_, v)| !matches!(v, Verdict::Cached(_)));
    // Reading the history is not free, and a plan that finds nothing to do has no use for it.
    let record_index = if stale { Some(checker.record_index()?) } else { None };
    let blocked = blocked(pipeline, &verdicts);
    let library = Library::at(&cache.store.downloads());
    let line = |(id, verdict): &(StageId, Verdict)| {
        let stage = pipeline.stage(*id);
        let cached = matches!(verdict, Verdict::Cached(_));
        Line {
            stage: stage.name.clone(),
            kind: stage.kind.name,
            params: params_digest(stage).short()[..8].to_string(),
            verdict: match verdict {
                Verdict::Cached(_) => "cached",
                Verdict::Run(_) => "run",
                Verdict::Missing(_) => "missing",
                Verdict::Waiting(_) if blocked.contains(id) => "blocked",
                Verdict::Waiting(_) => "waits",
            },
            says: match checker.is_afar(verdict) {
                true => vec!["cached (remote)".into()],
                false => words(pipeline, stage, verdict, &blocked, &library)
                    .into_iter()
                    .chain(left(&checker, *id, verdict))
                    .collect(),
            },
            stale: !cached,
            past_seconds: record_index
                .filter(|_| !cached && !resourced(stage, verdict))
                .and_then(|record_index| record_index.took(&pipeline.name, stage, &checker.properties().given(stage))),
            left: checker.left(*id).filter(|_| matches!(verdict, Verdict::Run(_))),
        }
    };
    let lines: Vec<Line> = verdicts.iter().map(line).collect();
    let missing: Vec<&Missing> = verdicts.iter().flat_map(|(_, v)| absent(v)).collect();
    let sum = sum(&lines, &missing, blocked.len());
    let (warnings, notes) = (doubts(pipeline, selected), shopping_list(&missing));
    Ok(Planned { pipeline: pipeline.name.clone(), since: None, stages: lines, warnings, notes, sum })
}

/// From where an attempt would go on that was begun.
fn left(checker: &CacheChecker<'_>, id: StageId, verdict: &Verdict) -> Option<String> {
    checker.left(id).filter(|_| matches!(verdict, Verdict::Run(_))).map(|left| left.to_string())
}

/// Does it read other files than before? How many they are is not known. A program's are its own text, mostly.
fn resourced(stage: &Stage, verdict: &Verdict) -> bool {
    let Verdict::Run(reasons) = verdict else { return false };
    stage.command.is_none() && reasons.iter().any(|r| matches!(r, Reason::SourceChanged { .. }))
}

fn sum(lines: &[Line], missing: &[&Missing], blocked: usize) -> String {
    let all = lines.len();
    let cached = lines.iter().filter(|l| !l.stale).count();
    let mut sum = match all - cached {
        0 if cached == 1 => "the stage is cached".into(),
        0 => format!("all {cached} stages are cached"),
        stale if missing.is_empty() => format!("{stale} of {all} stages would run"),
        _ => format!(
            "nothing runs before these are there: {}",
            count(missing.len(), "file or folder", "files and folders")
        ),
    };
    if !missing.is_empty() && blocked + cached < all {
        let free = all - cached - blocked;
        sum.push_str(&format!("; {} without them (--keep-going, or by name)", count(free, "stage runs", "stages run")));
    }
    sum
}

fn absent(verdict: &Verdict) -> &[Missing] {
    match verdict {
        Verdict::Missing(missing) => missing,
        _ => &[],
    }
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
    let (entry, sha256) = published(&stage.params).filter(|_| stage.kind.name == KIND.name)?;
    if matches!(library.look(entry, sha256.as_deref()), Presence::Here(_) | Presence::InHubCache(_)) {
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
