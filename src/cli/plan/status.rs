//! The status of each stage against the current cache: cached, would run and why, waits, blocked or
//! missing a file.

use super::line::{Line, Planned, count};
use crate::common::megabytes;
use erw_base::error::{Error, Result};
use erw_fetch::library::{Library, Presence};
use erw_report::table::near;
use erw_runner::cache::CacheRef;
use erw_runner::cache::action_cache::Record;
use erw_runner::kind::Registry;
use erw_runner::pipeline::command;
use erw_runner::pipeline::graph::{Pipeline, Stage, StageId};
use erw_runner::pipeline::properties::warnings;
use erw_runner::plan::action::params_digest;
use erw_runner::plan::reason::Reason;
use erw_runner::plan::{CacheChecker, Missing, Verdict, foresee, plan_part};
use erw_stages::data::weights::{KIND, published};
use erw_stages::planned_memory::foreseen::{Foreseen, Maker};
use erw_stages::planned_memory::planned_memory;
use std::collections::{BTreeSet, HashMap};

/// The plan of the selected stages: the status of each, and why it would run. Stages in `forced`
/// count as not cached.
pub fn planned(
    pipeline: &Pipeline,
    cache: CacheRef<'_>,
    selected: &[StageId],
    forced: BTreeSet<StageId>,
) -> Result<Planned> {
    let checker = CacheChecker::new(pipeline, cache, forced);
    among(&checker, vec![], selected, Some)?.ok_or_else(|| Error::internal("a plan lost its stages"))
}

/// The plan of a pipeline of which only a part was read: the selected stages, and `known` ones with
/// these records. The others among all its `stages`, given by name and kind, are cached. `None` if a
/// kind is unknown.
pub fn planned_part(
    pipeline: &Pipeline,
    cache: CacheRef<'_>,
    selected: &[StageId],
    known: Vec<(StageId, Record)>,
    stages: &[(&str, &str)],
    registry: Registry,
) -> Result<Option<Planned>> {
    let checker = CacheChecker::new(pipeline, cache, BTreeSet::new());
    among(&checker, known, selected, |lines| {
        let mut read: HashMap<String, Line> = lines.into_iter().map(|line| (line.stage.clone(), line)).collect();
        let line = |(name, kind): &(&str, &str)| read.remove(*name).or_else(|| cached(name, kind, registry));
        stages.iter().map(line).collect()
    })
}

/// The plan of the selected stages, where `known` ones have these records. `all`: adds those that
/// are not among either.
fn among(
    checker: &CacheChecker<'_>,
    known: Vec<(StageId, Record)>,
    selected: &[StageId],
    all: impl FnOnce(Vec<Line>) -> Option<Vec<Line>>,
) -> Result<Option<Planned>> {
    let pipeline = checker.pipeline;
    let verdicts = plan_part(checker, known, selected)?;
    foresee::stale(pipeline, &verdicts)?;
    let stale = verdicts.iter().any(|(_, v)| !matches!(v, Verdict::Cached(_)));
    // Reading all records takes time, and is not needed if everything is cached.
    let record_index = if stale { Some(checker.record_index()?) } else { None };
    let blocked = blocked(pipeline, &verdicts);
    let library = Library::at(&checker.store.downloads());
    let line = |(id, verdict): &(StageId, Verdict)| {
        let stage = pipeline.stage(*id);
        let cached = matches!(verdict, Verdict::Cached(_));
        let gpu_memory = if cached { None } else { gpu_memory(pipeline, checker, stage) };
        Line {
            stage: stage.name.clone(),
            kind: stage.kind.name,
            params: params_digest(stage).short()[..8].to_string(),
            verdict: match verdict {
                Verdict::Cached(_) => CACHED,
                Verdict::Run(_) => "run",
                Verdict::Missing(_) => "missing",
                Verdict::Waiting(_) if blocked.contains(id) => "blocked",
                Verdict::Waiting(_) => "waits",
            },
            says: match checker.is_remote_only(verdict) {
                true => vec!["cached (remote)".into()],
                false => words(pipeline, stage, verdict, &blocked, &library)
                    .into_iter()
                    .chain(left(checker, *id, verdict))
                    .chain(gpu_memory.map(|bytes| needs(stage, bytes)))
                    .collect(),
            },
            stale: !cached,
            past_seconds: record_index
                .filter(|_| !cached && !resourced(stage, verdict))
                .and_then(|record_index| record_index.took(&pipeline.name, stage, &checker.properties().given(stage))),
            gpu_memory,
            ranks: None,
            job: None,
            left: checker.left(*id).filter(|_| matches!(verdict, Verdict::Run(_))),
        }
    };
    let Some(lines) = all(verdicts.iter().map(line).collect()) else { return Ok(None) };
    let missing: Vec<&Missing> = verdicts.iter().flat_map(|(_, v)| absent(v)).collect();
    let sum = sum(&lines, &missing, blocked.len());
    let (warnings, notes) = (warnings(pipeline, selected), missing_list(&missing));
    Ok(Some(Planned { pipeline: pipeline.name.clone(), since: None, stages: lines, warnings, notes, sum }))
}

impl Planned {
    /// The plan of a pipeline of which all stages, given by name and kind, are cached. For people:
    /// it does not know the parameters.
    pub fn all_cached(pipeline: &str, stages: &[(&str, &str)], registry: Registry) -> Option<Self> {
        let lines = stages.iter().map(|(name, kind)| cached(name, kind, registry));
        let lines: Vec<Line> = lines.collect::<Option<_>>()?;
        let (sum, pipeline) = (sum(&lines, &[], 0), pipeline.into());
        Some(Self { pipeline, since: None, stages: lines, warnings: vec![], notes: String::new(), sum })
    }
}

/// The line of a cached stage; `None` if no kind is called so. It does not know the parameters.
fn cached(name: &str, kind: &str, registry: Registry) -> Option<Line> {
    Some(Line {
        stage: name.into(),
        kind: command::kinds(registry).find(|known| *known == kind)?,
        params: String::new(),
        verdict: CACHED,
        says: vec![CACHED.into()],
        stale: false,
        past_seconds: None,
        gpu_memory: None,
        ranks: None,
        job: None,
        left: None,
    })
}

/// The verdict on a cached stage.
const CACHED: &str = "cached";

/// Bytes that a stage on a GPU takes of its memory; on several GPUs, of that of each.
fn gpu_memory(pipeline: &Pipeline, checker: &CacheChecker<'_>, stage: &Stage) -> Option<u64> {
    if stage.resources.gpus == 0 {
        return None;
    }
    let maker = |from| {
        let stage = pipeline.stage(from);
        Maker { kind: stage.kind.name, params: stage.placed_params() }
    };
    planned_memory(&Foreseen {
        kind: stage.kind.name,
        params: &stage.params,
        operation: &stage.operation,
        inputs: checker.properties().given(stage),
        makers: stage.inputs.iter().map(|(slot, edge)| (slot.clone(), maker(edge.from))).collect(),
        ranks: stage.resources.ranks.unwrap_or(1),
    })
}

/// The same in words.
fn needs(stage: &Stage, bytes: u64) -> String {
    let ranks = stage.resources.ranks.unwrap_or(1);
    let place = if ranks > 1 { format!("each of {ranks} GPUs") } else { "the GPU".into() };
    let gigabytes = bytes as f64 / 1e9;
    let amount = if gigabytes < 0.05 { megabytes(bytes) } else { format!("{gigabytes:.1} GB") };
    format!("needs {amount} on {place}")
}

/// Where an interrupted attempt would resume.
fn left(checker: &CacheChecker<'_>, id: StageId, verdict: &Verdict) -> Option<String> {
    checker.left(id).filter(|_| matches!(verdict, Verdict::Run(_))).map(|left| left.to_string())
}

/// Whether the stage reads other files than before. Their number is unknown, so the earlier
/// duration does not apply. The sources of a `command` stage are mostly its own code, so they do
/// not count.
fn resourced(stage: &Stage, verdict: &Verdict) -> bool {
    let Verdict::Run(reasons) = verdict else { return false };
    let other = |r: &Reason| {
        matches!(r, Reason::SourceChanged { .. } | Reason::SourceAdded { .. } | Reason::SourceRemoved { .. })
    };
    !stage.is_command && reasons.iter().any(other)
}

fn sum(lines: &[Line], missing: &[&Missing], blocked: usize) -> String {
    let all = lines.len();
    let cached = lines.iter().filter(|l| !l.stale).count();
    let mut sum = match all - cached {
        0 if cached == 1 => "the stage is cached".into(),
        0 => format!("all {cached} stages are cached"),
        stale if missing.is_empty() => format!("{stale} of {all} stages would run"),
        _ => {
            format!("nothing would run: {} missing", count(missing.len(), "file or folder is", "files and folders are"))
        }
    };
    if !missing.is_empty() && blocked + cached < all {
        let free = all - cached - blocked;
        sum.push_str(&format!("; with --keep-going, {} would run", count(free, "stage", "stages")));
    }
    sum
}

fn absent(verdict: &Verdict) -> &[Missing] {
    match verdict {
        Verdict::Missing(missing) => missing,
        _ => &[],
    }
}

/// Stages that cannot run because a file is missing, their own or that of a dependency.
fn blocked(pipeline: &Pipeline, verdicts: &[(StageId, Verdict)]) -> BTreeSet<StageId> {
    let mut blocked = BTreeSet::new();
    // In topological order, so dependencies come first.
    for (id, verdict) in verdicts {
        let needs = |from| matches!(verdict, Verdict::Waiting(_)) && blocked.contains(&from);
        if !absent(verdict).is_empty() || pipeline.stage(*id).inputs.values().any(|edge| needs(edge.from)) {
            blocked.insert(*id);
        }
    }
    blocked
}

/// Each missing file with its expected place and how to get it.
fn missing_list(missing: &[&Missing]) -> String {
    let mut text = String::new();
    for m in missing {
        text.push_str(&format!("\n{}: `{}` is expected at {}\n", m.stage, m.param, near(&m.path)));
        m.how.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    text + if missing.is_empty() { "" } else { "\n" }
}

/// What a `weights` stage would download, and from where.
fn to_fetch(stage: &Stage, library: &Library) -> Option<String> {
    let (entry, sha256) = published(&stage.params).filter(|_| stage.kind.name == KIND.name)?;
    if matches!(library.look(entry, sha256.as_deref()), Presence::Here(_) | Presence::InHubCache(_)) {
        return None;
    }
    let size = entry.bytes().map_or(String::new(), |n| format!("{} ", megabytes(n)));
    Some(format!("downloads {size}from {}", entry.locations.first()?.site()))
}

fn words(
    pipeline: &Pipeline,
    stage: &Stage,
    verdict: &Verdict,
    blocked: &BTreeSet<StageId>,
    library: &Library,
) -> Vec<String> {
    match verdict {
        Verdict::Cached(_) => vec![CACHED.into()],
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
