//! The table of a sweep: trials, or groups of trials that differ by their seed only, by settings and results. Knows nothing of where the results come from.

use super::conditions::{Filter, Name, Names, compare, setting};
use crate::error::{Error, Result};
use crate::report::sheet::{Cell, Column, Format, Sheet};
use crate::runner::event::Measure;
use crate::runner::graph::StageId;
use crate::runner::suggest;
use crate::runner::sweep::axes::{Axis, RANDOM};
use crate::runner::sweep::{SweepPlan, Trial};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

#[derive(Debug, Clone, clap::Args)]
pub struct TableArgs {
    /// Take mean and standard deviation over this axis instead of over those called `seed`
    #[arg(long, value_name = "AXIS", conflicts_with = "each")]
    pub over: Vec<String>,
    /// Show every trial alone
    #[arg(long)]
    pub each: bool,
    /// Sort by a metric or a setting; `-METRIC` puts the greatest first
    #[arg(long, value_name = "METRIC", allow_hyphen_values = true)]
    pub sort: Option<String>,
    /// Show only rows where this holds: `fd<0.3`, `train.lr>=1e-4`, `status=failed`; settings and status are those of each trial
    #[arg(long, value_name = "CONDITION")]
    pub filter: Vec<String>,
    /// How the table is printed
    #[arg(long, value_enum, default_value = "text", conflicts_with = "json")]
    pub format: Format,
}

/// How a trial stands, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Cached,
    Ran,
    /// Some of its stages are not cached.
    Unfinished,
    Skipped,
    /// Given up as hopeless.
    Stopped,
    Suspended,
    Failed,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Ran => "ran",
            Self::Unfinished => "unfinished",
            Self::Skipped => "skipped",
            Self::Stopped => "stopped",
            Self::Suspended => "suspended",
            Self::Failed => "failed",
        }
    }
}

/// What is known of a stage.
pub struct Seen {
    pub status: Status,
    pub results: Vec<Measure>,
}

/// How the table is wanted, checked as far as can be before there are results.
pub struct Wishes {
    /// Axes to take means over, by number.
    over: Vec<usize>,
    sort: Option<(String, bool)>,
    filters: Vec<Filter>,
}

impl Wishes {
    pub fn read(args: &TableArgs, plan: &SweepPlan) -> Result<Self> {
        let filters = args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<_>>()?;
        let sort = args.sort.as_ref().map(|text| match text.strip_prefix('-') {
            Some(name) => (name.to_string(), true),
            None => (text.clone(), false),
        });
        Ok(Self { over: over(args, &plan.axes)?, sort, filters })
    }
}

/// What a stage may call its results.
pub enum MayGive {
    /// Nobody knows before it has run.
    Anything,
    /// `validation_*` stands for all that begin so.
    These(Vec<String>),
}

impl Wishes {
    /// Nothing is sorted and nothing filtered.
    pub fn are_plain(&self) -> bool {
        self.sort.is_none() && self.filters.is_empty()
    }

    /// Refuses a name that no result and no setting can have, before days of work. Where a program may give anything, a
    /// name that nothing known has is told.
    pub fn foresee(&self, plan: &SweepPlan, results: &[(String, MayGive)]) -> Result<()> {
        let sorts = self.sort.iter().map(|(name, _)| (name.as_str(), format!("--sort {name}")));
        let filters = self.filters.iter().map(|f| (f.name.as_str(), format!("--filter {}", f.text)));
        let named = |base: &String, pattern: &String, name: &str| {
            let is = |name: &str| match pattern.strip_suffix('*') {
                Some(head) => name.starts_with(head),
                None => name == pattern,
            };
            is(name) || name.strip_prefix(base.as_str()).and_then(|rest| rest.strip_prefix('.')).is_some_and(is)
        };
        let these = || {
            results.iter().flat_map(|(base, may)| match may {
                MayGive::These(names) => names.iter().map(|name| (base, name)).collect::<Vec<_>>(),
                MayGive::Anything => vec![],
            })
        };
        let is_open = results.iter().any(|(_, may)| matches!(may, MayGive::Anything));
        let metrics: Vec<(String, Metric)> =
            these().map(|(base, name)| (name.clone(), (base.clone(), name.clone()))).collect();
        for (name, argument) in sorts.chain(filters) {
            let mut names = Names { plan, metrics: &metrics, error: None };
            let known =
                these().any(|(base, pattern)| named(base, pattern, name)) || names.find(name, &argument).is_some();
            match names.error.filter(|_| !known) {
                Some(error) if !is_open => return Err(error),
                Some(error) => {
                    let told = error.hints.first().map_or_else(String::new, |hint| format!("; {hint}"));
                    let text = format!("warning: {} is known before the stages have run{told}\n", error.message);
                    let _ = std::io::stderr().lock().write_all(text.as_bytes());
                }
                None => {}
            }
        }
        Ok(())
    }
}

fn over(args: &TableArgs, axes: &[Axis]) -> Result<Vec<usize>> {
    let called = |axis: &Axis, name: &str| axis.name == name || axis.keys.iter().any(|k| k == name);
    if args.over.is_empty() {
        let is_seed = |axis: &Axis| axis.name.rsplit('.').next() == Some("seed");
        return Ok((0..axes.len()).filter(|i| !args.each && is_seed(&axes[*i])).collect());
    }
    let find = |name: &String| {
        axes.iter().position(|a| called(a, name)).ok_or_else(|| {
            let names = axes.iter().map(|a| a.name.as_str());
            Error::usage(format!("`--over {name}`: no such axis")).maybe_hint(suggest::hint(
                name,
                names,
                "the axes are",
            ))
        })
    };
    args.over.iter().map(find).collect()
}

/// A trial, or several under one name.
pub struct Row {
    pub name: String,
    trials: Vec<usize>,
    pub settings: Vec<(String, Json)>,
    pub status: BTreeMap<Status, usize>,
    /// By base stage and name, in the order in which stages run and name them: the first is a stage's key metric.
    results: Vec<(Metric, Vec<Option<f64>>)>,
}

/// Base stage and name.
pub type Metric = (String, String);

impl Row {
    pub fn values(&self, metric: &Metric) -> Option<&Vec<Option<f64>>> {
        self.results.iter().find(|(m, _)| m == metric).map(|(_, values)| values)
    }

    /// The worst status, with how many of the trials have it.
    fn status(&self) -> String {
        let Some((worst, count)) = self.status.last_key_value() else { return String::new() };
        match self.trials.len() {
            n if n == *count => worst.word().into(),
            n => format!("{} {count} of {n}", worst.word()),
        }
    }
}

/// The table, and what was wrong with the wishes: a table of days of work is not withheld for a wrong name.
pub fn table(
    plan: &SweepPlan,
    trials: &[usize],
    wishes: &Wishes,
    seen: &dyn Fn(StageId) -> Option<Seen>,
    stopped: &dyn Fn(usize) -> bool,
) -> (Sheet, Option<Error>) {
    // What all trials share says nothing about them.
    let first = trials.first().map(|&i| &plan.trials[i].stages);
    let is_shared = |base: &&String| {
        trials.len() > 1 && trials.iter().all(|&i| plan.trials[i].stages.get(*base) == first.and_then(|f| f.get(*base)))
    };
    let shared: BTreeSet<&String> = first.into_iter().flat_map(|f| f.keys()).filter(is_shared).collect();
    let single: Vec<Row> = trials.iter().map(|&i| row(plan, i, &shared, seen, stopped)).collect();
    let metrics = metrics(&single);
    let mut names = Names { plan, metrics: &metrics, error: None };
    let (mut each, mut grouped) = (vec![], vec![]);
    for filter in &wishes.filters {
        match names.find(&filter.name, &format!("--filter {}", filter.text)) {
            Some(Name::Metric(m)) => grouped.push((filter, Name::Metric(m))),
            Some(name) => each.push((filter, name)),
            None => {}
        }
    }
    let sort =
        wishes.sort.as_ref().and_then(|(name, down)| Some((names.find(name, &format!("--sort {name}"))?, *down)));
    let error = names.error;
    let kept = single.into_iter().filter(|row| each.iter().all(|(f, name)| f.holds(&name.cell(row))));
    let mut rows = group(plan, kept.collect(), &wishes.over);
    rows.retain(|row| grouped.iter().all(|(f, name)| f.holds(&name.cell(row))));
    if let Some((name, down)) = sort {
        rows.sort_by(|a, b| compare(&name.cell(a), &name.cell(b), down));
    }
    (sheet(plan, &rows, &metrics, !wishes.over.is_empty()), error)
}

fn row(
    plan: &SweepPlan,
    index: usize,
    shared: &BTreeSet<&String>,
    seen: &dyn Fn(StageId) -> Option<Seen>,
    stopped: &dyn Fn(usize) -> bool,
) -> Row {
    let trial: &Trial = &plan.trials[index];
    let mut stages: Vec<(&String, StageId)> = trial.stages.iter().map(|(base, id)| (base, *id)).collect();
    stages.sort_by_key(|(_, id)| *id);
    let (mut status, mut results) = (Status::Cached, vec![]);
    for (base, id) in stages {
        let Some(seen) = seen(id) else { continue };
        status = status.max(seen.status);
        for result in seen.results.into_iter().filter(|_| !shared.contains(base)) {
            results.push(((base.clone(), result.name), vec![result.value]));
        }
    }
    if (Status::Unfinished..=Status::Suspended).contains(&status) && stopped(index) {
        status = Status::Stopped;
    }
    Row {
        name: trial.name.clone(),
        trials: vec![index],
        settings: trial.settings.clone(),
        status: [(status, 1)].into(),
        results,
    }
}

/// One row for the trials that agree on all axes but those in `over`.
fn group(plan: &SweepPlan, rows: Vec<Row>, over: &[usize]) -> Vec<Row> {
    if over.is_empty() {
        return rows;
    }
    let mut groups: Vec<Row> = vec![];
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let averaged = |key: &String| over.iter().any(|i| plan.axes[*i].keys.contains(key));
    for mut row in rows {
        let labels = plan.trials[row.trials[0]].labels.iter().enumerate().filter(|(i, _)| !over.contains(i));
        let labels: Vec<&str> = labels.map(|(_, label)| label.as_str()).collect();
        row.name = if labels.is_empty() { "all".into() } else { labels.join(",") };
        row.settings.retain(|(key, _)| !averaged(key));
        let at = *known.entry(row.name.clone()).or_insert(groups.len());
        let Some(group) = groups.get_mut(at) else {
            groups.push(row);
            continue;
        };
        group.trials.extend(row.trials);
        row.status.into_iter().for_each(|(status, n)| *group.status.entry(status).or_default() += n);
        for (metric, values) in row.results {
            match group.results.iter_mut().find(|(m, _)| *m == metric) {
                Some((_, all)) => all.extend(values),
                None => group.results.push((metric, values)),
            }
        }
    }
    groups
}

/// Every result with its title: its name, or `stage.name` if two stages have one of that name. In the order in which
/// the rows show them.
fn metrics(rows: &[Row]) -> Vec<(String, Metric)> {
    let mut all: Vec<&Metric> = vec![];
    for (metric, _) in rows.iter().flat_map(|r| &r.results) {
        if !all.contains(&metric) {
            all.push(metric);
        }
    }
    let title = |(base, name): &Metric| {
        let shared = all.iter().filter(|(_, n)| n == name).count() > 1;
        if shared { format!("{base}.{name}") } else { name.clone() }
    };
    all.iter().map(|&metric| (title(metric), metric.clone())).collect()
}

fn sheet(plan: &SweepPlan, rows: &[Row], metrics: &[(String, Metric)], grouped: bool) -> Sheet {
    let mut settings: Vec<&str> = vec![];
    for (key, _) in rows.iter().flat_map(|r| &r.settings) {
        if !settings.contains(&key.as_str()) {
            settings.push(key);
        }
    }
    // The name of a trial says what an axis sets, and stands for what a named trial sets; `r7` says nothing.
    let drawn = |key: &str| plan.axes.iter().any(|a| a.name == RANDOM && a.keys.iter().any(|k| k == key));
    let mut columns = vec![Column::new("trial")];
    columns.extend(settings.iter().map(|k| Column::new(*k).within("settings").in_full_only(!drawn(k))));
    columns.extend(grouped.then(|| Column::new("n")));
    columns.push(Column::new("status"));
    columns.extend(metrics.iter().map(|(title, _)| Column::new(title).within("results")));
    let cells = |row: &Row| {
        let mut cells = vec![Cell::Text(row.name.clone())];
        cells.extend(settings.iter().map(|k| setting(row, k)));
        cells.extend(grouped.then(|| Cell::Value(row.trials.len().into(), row.trials.len().to_string())));
        cells.push(Cell::Text(row.status()));
        cells.extend(metrics.iter().map(|(_, m)| match (row.values(m), grouped) {
            (None, _) => Cell::None,
            (Some(values), true) => Cell::Spread(values.clone()),
            (Some(values), false) => Cell::Number(values.first().copied().flatten()),
        }));
        cells
    };
    Sheet { columns, rows: rows.iter().map(cells).collect(), grouped: false }
}
