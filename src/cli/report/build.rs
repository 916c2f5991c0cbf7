//! Makes the page of a subject: every part that its facts give. Reads the logs of stages; writes
//! nothing.

use super::facts::Facts;
use super::subject::Subject;
use super::wishes::Wishes;
use super::{curves, pictures};
use crate::logs;
use erw_base::error::Result;
use erw_report::page::content::{
    Again, Bar, Graph, Headline, Node, Page, StageDetail, State, Table, TimeLine, Tone, Trouble,
};
use erw_report::page::{self, time_line};
use erw_report::sheet::{Cell, Column, Sheet};
use erw_report::text::{bytes, count, duration, instant, number};
use erw_runner::cache::action_cache::Record;
use erw_runner::cache::store::Store;
use erw_runner::host;
use erw_runner::journal::read::{Run, RunState};
use erw_runner::text::{log_lines, suggest};
use std::collections::{BTreeMap, BTreeSet};

/// Stages in full; with more, the tables have to do.
const DETAILS: usize = 200;
/// Runs that are named one by one.
const RUNS: usize = 5;
/// Of times, where earlier attempts took more.
const LAST: &str = "last attempts only";

/// Fills in every part that is empty. Pictures come last: they take the room that the rest leaves.
pub fn page(mut page: Page, subject: &Subject, store: &Store, wishes: &Wishes) -> Result<Page> {
    let detailed = detailed(subject);
    page.failures = failures(subject, store);
    page.headline = headline(subject);
    if page.results.is_empty() {
        page.results.extend(results(subject));
    }
    if !subject.is_comparison {
        page.graph = graph(subject, &detailed);
    }
    page.time_line = subject.run.as_ref().and_then(|run| time_line(run, subject, &detailed, &mut page.notes));
    page.costs = costs(subject).into_iter().collect();
    page.notes.extend(replaced(subject));
    page.stages = detailed.iter().map(|at| detail(subject, *at, wishes)).collect();
    page.provenance = provenance(subject, store, wishes);
    files(subject, wishes, &mut page.again);
    let (groups, notes) = curves::groups(subject, store)?;
    page.curves = groups;
    page.notes.extend(notes);
    let rest = page::render(&page).len() as u64;
    let (galleries, notes) = pictures::galleries(subject, store, wishes.max_size.saturating_sub(rest));
    page.galleries = galleries;
    page.notes.extend(notes);
    if rest > wishes.max_size {
        page.notes.push(format!("without pictures the page has {}, more than `--max-size`", bytes(rest)));
    }
    Ok(page)
}

/// The stages in full: those that all sides share, and those of the first side; of both sides of a
/// comparison.
fn detailed(subject: &Subject) -> BTreeSet<usize> {
    let sides = if subject.is_comparison { subject.sides.len() } else { 1 };
    let first = subject.rows.first().and_then(|row| row.sides.first()).copied().unwrap_or(0);
    let of_first = subject.sides.iter().skip(first).take(sides).flat_map(|side| side.stages.values().copied());
    of_first.take(DETAILS).collect()
}

/// The name of a stage in the page: with its side in a comparison, which has each twice.
fn title(subject: &Subject, at: usize) -> String {
    let name = &subject.facts[at].name;
    match subject.label_of(at) {
        side if subject.is_comparison && !side.is_empty() => format!("{side}: {name}"),
        _ => name.clone(),
    }
}

fn failures(subject: &Subject, store: &Store) -> Vec<Trouble> {
    let failed = subject.facts.iter().enumerate().filter(|(_, facts)| facts.state.tone == Tone::Bad);
    let trouble = |(at, facts): (usize, &Facts)| {
        let error = facts.error.clone().unwrap_or_default();
        let place = error.place.iter().filter(|p| !p.is_empty()).map(|place| format!("at {place}"));
        let causes = error.causes.iter().map(|cause| format!("cause: {cause}"));
        let hints = error.hints.iter().map(|hint| format!("hint: {hint}"));
        let log = || Some(log_lines::tail(&logs::latest(store, facts.logged.as_ref()?, 0)?));
        let log = if error.tail.is_empty() { log().unwrap_or_default() } else { error.tail.clone() };
        Trouble {
            stage: title(subject, at),
            message: error.message.clone(),
            lines: place.chain(causes).chain(hints).collect(),
            log,
        }
    };
    failed.map(trouble).collect()
}

/// The first result of each stage that no other stage reads, which is what a pipeline is for; of
/// several sides, their range.
fn headline(subject: &Subject) -> Vec<Headline> {
    let read: BTreeSet<usize> = subject.facts.iter().flat_map(|facts| facts.inputs.iter().copied()).collect();
    let mut all = vec![];
    for base in subject.bases() {
        let stages: Vec<usize> = subject.of_base(base).into_iter().filter(|at| !read.contains(at)).collect();
        let first = |at: &usize| subject.facts[*at].results.first().map(|r| (r, *at));
        let found: Vec<_> = stages.iter().filter_map(first).collect();
        let Some((result, at)) = found.first() else { continue };
        let name = if result.name == base { base.to_string() } else { format!("{base}: {}", result.name) };
        if found.len() == 1 {
            let state = &subject.facts[*at].state;
            let word = if state.tone == Tone::Good { "" } else { &state.word };
            let note = [subject.label_of(*at), word].into_iter().filter(|part| !part.is_empty());
            all.push(Headline { name, value: number(result.value), note: note.collect::<Vec<_>>().join(", ") });
            continue;
        }
        let value = |(r, at): &(&erw_runner::event::Measure, usize)| Some((r.value?, *at));
        let mut values: Vec<(f64, usize)> = found.iter().filter_map(value).collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (Some((least, low)), Some((most, high))) = (values.first(), values.last()) else { continue };
        let (value, note) = match values.len() {
            1 => (number(Some(*least)), subject.label_of(*low).to_string()),
            2 if least == most => (number(Some(*least)), "the same in both".into()),
            n if least == most => (number(Some(*least)), format!("the same in all {n}")),
            _ => (
                format!("{} to {}", number(Some(*least)), number(Some(*most))),
                format!("{} to {}", subject.label_of(*low), subject.label_of(*high)),
            ),
        };
        all.push(Headline { name, value, note });
    }
    all.extend(total_time(subject));
    all
}

/// Stages that two sides of a comparison have in common count once.
fn total_time(subject: &Subject) -> Option<Headline> {
    let records: BTreeMap<_, &Facts> =
        subject.facts.iter().filter_map(|facts| Some((facts.record.as_ref()?.key(), facts))).collect();
    let seconds = |counts: &dyn Fn(&Record) -> bool| {
        let records = records.values().filter_map(|facts| facts.record.as_ref());
        records.filter(|record| counts(record)).map(|record| record.seconds).sum::<f64>()
    };
    let (all, on_gpu) = (seconds(&|_| true), seconds(&is_gpu));
    let gpu = (on_gpu > 0.0).then(|| format!("{} of it on GPUs", duration(on_gpu)));
    let partial = records.values().any(|facts| facts.is_last_attempt()).then(|| LAST.to_string());
    let note = gpu.into_iter().chain(partial).collect::<Vec<_>>().join("; ");
    (all > 0.0).then(|| Headline { name: "Time of all stages".into(), value: duration(all), note })
}

fn is_gpu(record: &Record) -> bool {
    !record.device.is_empty() && !record.device.starts_with("cpu")
}

fn results(subject: &Subject) -> Option<Table> {
    let row = |facts: &Facts, r: &erw_runner::event::Measure| {
        vec![Cell::Text(facts.name.clone()), Cell::Text(r.name.clone()), Cell::Number(r.value)]
    };
    let rows: Vec<Vec<Cell>> =
        subject.facts.iter().flat_map(|facts| facts.results.iter().map(|r| row(facts, r))).collect();
    let columns = ["stage", "metric", "value"].map(Column::new).to_vec();
    let table =
        Table { id: "results", title: "Results of all stages".into(), sheet: Sheet { columns, rows, grouped: false } };
    (!subject.is_comparison && !table.sheet.rows.is_empty()).then_some(table)
}

/// A node for each name of a stage, with the state of all that have it.
fn graph(subject: &Subject, detailed: &BTreeSet<usize>) -> Graph {
    let bases = subject.bases();
    let node = |base: &&str| {
        let stages = subject.of_base(base);
        let all: Vec<&Facts> = stages.iter().map(|at| &subject.facts[*at]).collect();
        let tone = [Tone::Bad, Tone::Busy, Tone::Open].into_iter().find(|t| all.iter().any(|f| f.state.tone == *t));
        let tone = tone.unwrap_or(Tone::Good);
        let good = all.iter().filter(|f| f.state.tone == Tone::Good).count();
        let (note, word) = match all.as_slice() {
            [only] => (with_time(only), only.state.word.clone()),
            _ => (format!("{} × {}", all.len(), all[0].kind), format!("{good} of {} have results", all.len())),
        };
        let name = stages.iter().find(|at| detailed.contains(at)).map(|at| subject.facts[*at].name.clone());
        Node {
            has_detail: name.is_some(),
            name: name.unwrap_or_else(|| (*base).into()),
            note,
            state: State { word, tone },
        }
    };
    let nodes = bases.iter().map(node).collect();
    let mut edges = BTreeSet::new();
    for side in &subject.sides {
        let place = |at: usize| {
            let base = side.stages.iter().find(|(_, stage)| **stage == at)?.0;
            bases.iter().position(|known| known == base)
        };
        for at in side.stages.values() {
            let to = place(*at);
            edges.extend(subject.facts[*at].inputs.iter().filter_map(|from| Some((place(*from)?, to?))));
        }
        // The other sides of a sweep have the same connections, and there may be hundreds.
        if !edges.is_empty() && subject.sides.len() > 16 {
            break;
        }
    }
    Graph { nodes, edges: edges.into_iter().collect() }
}

fn with_time(facts: &Facts) -> String {
    match facts.seconds {
        Some(seconds) => format!("{}, {}", facts.kind, duration(seconds)),
        None => facts.kind.clone(),
    }
}

/// The stages of the page that a run worked on.
fn time_line(run: &Run, subject: &Subject, detailed: &BTreeSet<usize>, notes: &mut Vec<String>) -> Option<TimeLine> {
    let worked = run.stages.iter().filter(|end| end.state != "cached" && (end.started > 0.0 || end.seconds > 0.0));
    let bar = |end: &erw_runner::journal::read::Ended| {
        let is_it = |facts: &Facts| {
            facts.name == end.stage
                && end.key.as_ref().is_none_or(|key| facts.key.map(|k| k.to_string()).as_ref() == Some(key))
        };
        let at = subject.facts.iter().position(is_it)?;
        let tone = match end.state.as_str() {
            "done" => Tone::Good,
            "failed" => Tone::Bad,
            "running" => Tone::Busy,
            _ => Tone::Open,
        };
        Some(Bar {
            name: end.stage.clone(),
            from: end.started,
            to: end.started + end.seconds,
            state: State { word: end.state.replace("done", "ran").replace('_', " "), tone },
            has_detail: detailed.contains(&at),
        })
    };
    let mut bars: Vec<Bar> = worked.filter_map(bar).collect();
    if bars.len() > time_line::MOST {
        bars.sort_by(|a, b| (b.to - b.from).total_cmp(&(a.to - a.from)));
        notes.push(format!("the time line shows the longest {} of {}", time_line::MOST, count(bars.len(), "stage")));
        bars.truncate(time_line::MOST);
    }
    let ended = match run.state {
        RunState::Running => ", still running".to_string(),
        RunState::Ended => run.exit.map_or_else(String::new, |exit| format!(", exit {exit}")),
        RunState::CutOff => ", cut off".into(),
    };
    let title = format!("Run {} of {}{ended}", run.id, instant(&run.began));
    (!bars.is_empty()).then_some(TimeLine { title, seconds: run.seconds, bars })
}

/// What each stage cost when it ran.
fn costs(subject: &Subject) -> Option<Table> {
    let is_trial = subject.sides.len() > 1;
    let row = |(at, facts): (usize, &Facts)| {
        let text = |text: String| if text.is_empty() { Cell::None } else { Cell::Text(text) };
        let record = facts.record.as_ref();
        let mut cells = vec![Cell::Text(facts.name.clone())];
        cells.extend(is_trial.then(|| text(subject.label_of(at).into())));
        cells.push(Cell::Text(facts.kind.clone()));
        cells.push(Cell::Text(facts.state.word.clone()));
        cells.push(facts.seconds.map_or(Cell::None, |seconds| Cell::Value(seconds.into(), duration(seconds))));
        cells.push(record.map_or(Cell::None, |r| Cell::Value(r.attempts.into(), r.attempts.to_string())));
        cells.push(record.and_then(|r| r.peak).map_or(Cell::None, |peak| Cell::Value(peak.into(), bytes(peak))));
        cells.push(record.map_or(Cell::None, |r| text(r.device.clone())));
        cells.push(record.map_or(Cell::None, |r| text(instant(&r.created))));
        cells.push(facts.key.as_ref().map_or(Cell::None, |key| text(key.to_string().chars().take(12).collect())));
        cells
    };
    let mut titles = vec!["stage"];
    titles.extend(is_trial.then_some(if subject.is_comparison { "side" } else { "trial" }));
    let time = if subject.facts.iter().any(Facts::is_last_attempt) { "time of the last attempt" } else { "time" };
    titles.extend(["kind", "state", time, "attempts", "peak memory", "device", "made", "key"]);
    let rows: Vec<Vec<Cell>> = subject.facts.iter().enumerate().map(row).collect();
    let sheet = Sheet { columns: titles.into_iter().map(Column::new).collect(), rows, grouped: false };
    (!sheet.rows.is_empty()).then_some(Table { id: "costs", title: "Time and memory of each stage".into(), sheet })
}

fn detail(subject: &Subject, at: usize, wishes: &Wishes) -> StageDetail {
    let facts = &subject.facts[at];
    let mut told: Vec<(String, String)> = vec![];
    let mut tell = |name: &str, value: String| told.push((name.into(), value));
    if facts.record.is_none() && facts.results.is_empty() && !facts.standing.is_empty() {
        tell("why it has no results", facts.standing.clone());
    }
    if let (None, Some(seconds)) = (&facts.record, facts.seconds) {
        tell("time of the last attempt", duration(seconds));
    }
    if let Some(record) = &facts.record {
        let last = if facts.is_last_attempt() { ", the last attempt" } else { "" };
        tell("made", format!("{} in {}{last}", instant(&record.created), duration(record.seconds)));
        let resumed = record.resumed.map_or_else(String::new, |step| format!(", the last from step {step}"));
        tell("attempts", format!("{}{resumed}", record.attempts));
        record.peak.into_iter().for_each(|peak| tell("peak memory", bytes(peak)));
        tell("machine", format!("{}, {}, {}", record.host, record.device, record.machine()));
        if !record.earlier.is_empty() {
            tell("started on", record.earlier.join("; "));
        }
        tell("program", format!("erw {}", record.program));
    }
    facts.key.iter().for_each(|key| tell("key", key.to_string()));
    let value = |p: &super::facts::Param| {
        if p.is_path && wishes.anonymous { super::anonymous::LEFT_OUT.into() } else { p.value.clone() }
    };
    let outputs = facts.record.iter().flat_map(|record| record.outputs.iter());
    StageDetail {
        name: title(subject, at),
        kind: facts.kind.clone(),
        state: facts.state.clone(),
        facts: told,
        params: facts.params.iter().map(|p| [p.name.clone(), value(p), p.set_by.clone()]).collect(),
        outputs: outputs
            .map(|(name, o)| [name.clone(), o.ty.clone(), bytes(o.measured.bytes), o.measured.digest.to_string()])
            .collect(),
        results: facts.results.iter().map(|r| (r.name.clone(), number(r.value))).collect(),
    }
}

/// Where the results come from, as far as it is recorded: the runs that made what is shown, not those
/// that found it or worked on other values.
fn provenance(subject: &Subject, store: &Store, wishes: &Wishes) -> Vec<(String, String)> {
    let mut told: Vec<(String, String)> = vec![];
    let mut tell = |name: &str, value: String| {
        if !value.is_empty() {
            told.push((name.into(), value));
        }
    };
    for run in subject.makers.iter().take(RUNS) {
        tell("run", format!("{}, {}", run.id, instant(&run.began)));
        if !wishes.anonymous {
            tell("command", run.command.join(" "));
            tell("by", format!("{}@{}", run.user, run.host));
        }
        tell("class of its machine", run.class.clone());
        if let Some(commit) = &run.commit {
            let dirty = if commit.is_dirty { ", with changes that are not committed" } else { "" };
            tell("git commit of its pipeline", format!("{}{dirty}", commit.id));
        }
    }
    if subject.makers.len() > RUNS {
        tell("further runs", (subject.makers.len() - RUNS).to_string());
    }
    let records = || subject.facts.iter().filter_map(|facts| facts.record.as_ref());
    let elsewhere = subject.facts.iter().filter(|facts| facts.record.is_some() && facts.run.is_none()).count();
    if elsewhere > 0 {
        tell("made by runs that this cache does not know", count(elsewhere, "stage"));
    }
    let distinct = |of: &dyn Fn(&Record) -> String| {
        let all: BTreeSet<String> = records().map(of).filter(|text| !text.is_empty()).collect();
        all.into_iter().collect::<Vec<_>>().join("; ")
    };
    tell("stages made by erw", distinct(&|r| r.program.clone()));
    tell("stages made on", distinct(&|r| r.device.clone()));
    tell("machine classes", distinct(&Record::machine));
    tell("report written by", format!("erw {}, {}", crate::version::text().replace('\n', ", "), host::class()));
    if !wishes.anonymous {
        tell("cache", store.root().canonicalize().unwrap_or_else(|_| store.root().into()).display().to_string());
    }
    told
}

/// What a past run left and later runs of the same work replaced.
fn replaced(subject: &Subject) -> Option<String> {
    let names: Vec<&str> =
        subject.facts.iter().filter(|facts| facts.is_replaced()).map(|facts| facts.name.as_str()).collect();
    let text = || {
        let names = suggest::ticked(names.iter().copied());
        format!("later runs did the work of {names} again; what they left, such as logs and pictures, is not shown")
    };
    (!names.is_empty()).then(text)
}

/// The files of the pipeline.
fn files(subject: &Subject, wishes: &Wishes, again: &mut Again) {
    if wishes.anonymous && !subject.files.is_empty() {
        again.notes.push("The files of the pipeline are left out, as are paths, host and user.".into());
        return;
    }
    for file in &subject.files {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match &file.text {
            Some(text) => again.files.push((name, text.clone())),
            None => again.notes.push(format!("`{name}` is too large for the page, or cannot be read.")),
        }
    }
}
