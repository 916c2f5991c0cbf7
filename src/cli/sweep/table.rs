//! The table of a sweep: trials, or groups of trials that differ in their seed only, with settings
//! and results. Knows nothing of where the results come from.

use super::filter::{Name, Names, compare, setting};
use super::row::{Metric, Row, StageStatus, Status};
use super::table_options::TableOptions;
use erw_base::error::{Error, Result};
use erw_report::sheet::{Cell, Column, Sheet};
use erw_runner::pipeline::graph::StageId;
use erw_runner::sweep::SweepPlan;
use erw_runner::sweep::axis::RANDOM;
use erw_runner::sweep::trial::Trial;
use std::collections::{BTreeMap, BTreeSet};

/// The table, the rows that it shows, and the error about a wrong name in the options. A wrong name
/// does not withhold the table of a long run.
pub struct Tabulated {
    pub sheet: Sheet,
    pub rows: Vec<Row>,
    pub error: Option<Error>,
    /// The error is of a name that several results have.
    pub is_ambiguous: bool,
    /// What is not known yet of names in the options.
    pub warnings: Vec<String>,
}

impl Tabulated {
    /// If a condition is on a result that no trial has yet, none satisfies it.
    #[must_use]
    pub fn without_rows(mut self) -> Self {
        self.rows.clear();
        self.sheet.rows.clear();
        self
    }

    /// # Errors
    /// If an option has a wrong name.
    pub fn checked(self) -> Result<Self> {
        match self.error {
            None => Ok(self),
            Some(error) => Err(error),
        }
    }
}

/// The table of these trials.
pub fn table(
    plan: &SweepPlan,
    trials: &[usize],
    options: &TableOptions,
    seen: &dyn Fn(StageId) -> Option<StageStatus>,
    stopped: &dyn Fn(usize) -> bool,
) -> Tabulated {
    // Results of stages that all trials share do not distinguish them.
    let first = trials.first().map(|&i| &plan.trials[i].stages);
    let is_shared = |base: &&String| {
        trials.len() > 1 && trials.iter().all(|&i| plan.trials[i].stages.get(*base) == first.and_then(|f| f.get(*base)))
    };
    let shared: BTreeSet<&String> = first.into_iter().flat_map(|f| f.keys()).filter(is_shared).collect();
    let single: Vec<Row> = trials.iter().map(|&i| row(plan, i, &shared, seen, stopped)).collect();
    let metrics = metrics(&single);
    let mut names = Names { plan, metrics: &metrics, error: None, is_ambiguous: false };
    let (mut each, mut grouped) = (vec![], vec![]);
    for filter in &options.filters {
        match names.find(&filter.name, &format!("--filter {}", filter.text)) {
            Some(Name::Metric(m)) => grouped.push((filter, Name::Metric(m))),
            Some(name) => each.push((filter, name)),
            None => {}
        }
    }
    let sort =
        options.sort.as_ref().and_then(|(name, down)| Some((names.find(name, &format!("--sort {name}"))?, *down)));
    let (error, is_ambiguous) = (names.error, names.is_ambiguous);
    let kept = single.into_iter().filter(|row| each.iter().all(|(f, name)| f.holds(&name.cell(row))));
    let mut rows = group(plan, kept.collect(), &options.over);
    rows.retain(|row| grouped.iter().all(|(f, name)| f.holds(&name.cell(row))));
    if let Some((name, down)) = sort {
        rows.sort_by(|a, b| compare(&name.cell(a), &name.cell(b), down));
    }
    let sheet = sheet(plan, &rows, &metrics, !options.over.is_empty());
    Tabulated { sheet, rows, error, is_ambiguous, warnings: vec![] }
}

fn row(
    plan: &SweepPlan,
    index: usize,
    shared: &BTreeSet<&String>,
    seen: &dyn Fn(StageId) -> Option<StageStatus>,
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

/// One row for all trials that differ only in the axes in `over`. A stage that several of them share
/// ran once and counts once.
fn group(plan: &SweepPlan, rows: Vec<Row>, over: &[usize]) -> Vec<Row> {
    if over.is_empty() {
        return rows;
    }
    let mut groups: Vec<Row> = vec![];
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let mut counted: BTreeSet<(usize, StageId)> = BTreeSet::new();
    let averaged = |key: &String| over.iter().any(|i| plan.axes[*i].keys.contains(key));
    for mut row in rows {
        let labels = plan.trials[row.trials[0]].labels.iter().enumerate().filter(|(i, _)| !over.contains(i));
        let labels: Vec<&str> = labels.map(|(_, label)| label.as_str()).collect();
        row.name = if labels.is_empty() { "all".into() } else { labels.join(",") };
        row.settings.retain(|(key, _)| !averaged(key));
        let at = *known.entry(row.name.clone()).or_insert(groups.len());
        let stages = plan.trials[row.trials[0]].stages.iter();
        let new: BTreeSet<&String> =
            stages.filter(|(_, id)| counted.insert((at, **id))).map(|(base, _)| base).collect();
        row.results.retain(|((base, _), _)| new.contains(base));
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

/// Every result with its title: its name, or `stage.name` if two stages have a result of that name.
/// In the order of the rows.
pub(crate) fn metrics(rows: &[Row]) -> Vec<(String, Metric)> {
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
    // A trial's name shows the values of its axes, or stands for a named trial; a random point such
    // as `r7` shows nothing.
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
