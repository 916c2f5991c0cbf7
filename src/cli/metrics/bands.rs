//! Reference curves: what a correct run measures at some of its steps, with the band that a run with
//! another seed stays in. `erw metrics --bands` makes them of a sweep over seeds; `erw compare` holds
//! a run against them. A file of them is a table in CSV, one row a stage, metric and step.
//!
//! A value at a step is the mean over the steps since the one before in the table, so it depends
//! little on how often a training logs, and not on single batches. Speeds are left out.

use super::steps;
use crate::logs::key;
use erw_base::error::{Error, Result};
use erw_report::sheet::{Cell, Column, Sheet, spread};
use erw_runner::cache::store::Store;
use erw_runner::kind::step_log::{Row, step_of};
use erw_runner::pipeline::graph::StageId;
use erw_runner::sweep::SweepPlan;
use erw_runner::text::suggest;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The steps of a table, in percent of those of the training: close together where curves bend.
const PERCENT: [u64; 14] = [1, 2, 3, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100];
/// Fewer runs tell nothing of the spread: Student's factor is 32 for three and 637 for two.
const FEWEST_RUNS: usize = 3;
const COLUMNS: [&str; 6] = ["stage", "metric", "step", "runs", "mean", "sd"];
/// Values that do not depend on the seed, as a learning rate, must agree to this part.
const ROUNDING: f64 = 1e-6;

/// A metric at a step, over runs that differ in their seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Band {
    pub stage: String,
    pub metric: String,
    pub step: u64,
    pub runs: usize,
    pub mean: f64,
    /// Standard deviation over the runs (n - 1).
    pub sd: f64,
}

impl Band {
    /// The interval that the value of one more run is in with a probability of 99.9 %, if values are
    /// normally distributed: mean ± t sd sqrt(1 + 1/n), Student's t of n - 1 degrees of freedom.
    pub fn limits(&self) -> (f64, f64) {
        let n = self.runs as f64;
        let half = student(self.runs.saturating_sub(1)) * self.sd * (1.0 + 1.0 / n).sqrt();
        let half = half.max(ROUNDING * self.mean.abs());
        (self.mean - half, self.mean + half)
    }
}

/// The 0.9995 quantile of Student's t distribution: a table (Abramowitz and Stegun 26.10), then the
/// expansion about the normal quantile (26.7.5), which is within 0.3 % there.
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 9] = [636.619, 31.599, 12.924, 8.610, 6.869, 5.959, 5.408, 5.041, 4.781];
    match freedom {
        0 => f64::INFINITY,
        1..=9 => TABLE[freedom - 1],
        _ => {
            let (z, v) = (3.290_526_731_f64, freedom as f64);
            let [z3, z5, z7] = [3, 5, 7].map(|n| z.powi(n));
            let second = (5.0 * z5 + 16.0 * z3 + 3.0 * z) / 96.0;
            let third = (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / 384.0;
            z + (z3 + z) / (4.0 * v) + second / (v * v) + third / v.powi(3)
        }
    }
}

/// The mean of each metric over the rows after the step before `marks[i]` up to it, for every mark
/// that the rows reach. A mark with a value that is not finite has none.
pub fn means(rows: &[Row], marks: &BTreeSet<u64>) -> BTreeMap<(String, u64), Option<f64>> {
    let last = rows.last().and_then(step_of).unwrap_or(0);
    let mut sums: BTreeMap<(String, u64), (f64, u32)> = BTreeMap::new();
    for row in rows {
        let Some(mark) = step_of(row).and_then(|step| marks.range(step..).next()).filter(|mark| **mark <= last) else {
            continue;
        };
        for (name, value) in row.iter().filter(|(name, _)| *name != "step") {
            let (sum, count) = sums.entry((name.clone(), *mark)).or_default();
            *sum += value.as_f64().unwrap_or(f64::NAN);
            *count += 1;
        }
    }
    sums.into_iter().map(|(at, (sum, n))| (at, Some(sum / f64::from(n)).filter(|v| v.is_finite()))).collect()
}

/// The reference curves of the stages with metrics by step in the trials of a sweep over seeds.
///
/// # Errors
/// If the sweep has an axis that is no seed, too few trials, or a trial that has not logged what
/// others have.
pub fn sheet(plan: &SweepPlan, store: &Store, stages: &[String]) -> Result<Sheet> {
    if let Some(axis) = plan.axes.iter().find(|axis| !axis.is_seed()) {
        let error = Error::usage(format!("the axis `{}` is no seed, so its trials are not one curve", axis.name));
        return Err(error.hint("reference curves are of one pipeline: state its seeds by `--axis seed=0..5`"));
    }
    let mut rows = vec![];
    for name in chosen(plan, stages)? {
        for band in of_stage(plan, store, name)? {
            let number = |n: u64| Cell::Value(n.into(), n.to_string());
            let (step, runs) = (number(band.step), number(band.runs as u64));
            let values = [band.mean, band.sd].map(|value| Cell::Number(Some(value)));
            rows.push([vec![Cell::Text(band.stage), Cell::Text(band.metric), step, runs], values.to_vec()].concat());
        }
    }
    if rows.is_empty() {
        let hint = "run `erw sweep` with it first: trainings log metrics every `log_every` steps";
        return Err(Error::usage("no stage that depends on the seed has metrics by step").hint(hint));
    }
    Ok(Sheet { columns: COLUMNS.map(Column::new).to_vec(), rows, grouped: true })
}

/// The stages of these names, else all, in the order of the pipeline.
fn chosen<'p>(plan: &'p SweepPlan, names: &[String]) -> Result<Vec<&'p str>> {
    let Some(trial) = plan.trials.first() else { return Ok(vec![]) };
    if let Some(unknown) = names.iter().find(|name| !trial.stages.contains_key(*name)) {
        let hint = suggest::hint(unknown, trial.stages.keys().map(String::as_str), "the stages are");
        return Err(Error::usage(format!("no stage `{unknown}`")).maybe_hint(hint));
    }
    let mut all: Vec<(&str, StageId)> = trial.stages.iter().map(|(name, id)| (name.as_str(), *id)).collect();
    all.sort_by_key(|(_, id)| *id);
    all.retain(|(name, _)| names.is_empty() || names.iter().any(|n| n == name));
    Ok(all.into_iter().map(|(name, _)| name).collect())
}

/// The bands of a stage; none of one that logs nothing, or that all trials share.
fn of_stage(plan: &SweepPlan, store: &Store, name: &str) -> Result<Vec<Band>> {
    let mut ids: Vec<StageId> = plan.trials.iter().filter_map(|trial| trial.stages.get(name).copied()).collect();
    ids.sort();
    ids.dedup();
    let logged = |id: &StageId| key(&plan.pipeline, store, *id)?.map_or(Ok(vec![]), |k| steps::measured(store, &k));
    let runs: Vec<Vec<Row>> = ids.iter().map(logged).collect::<Result<_>>()?;
    if ids.len() == 1 || runs.iter().all(Vec::is_empty) {
        return Ok(vec![]);
    }
    if runs.len() < FEWEST_RUNS {
        let error = Error::usage(format!("{} trials of `{name}` do not tell its spread", runs.len()));
        return Err(error.hint("use five seeds or more: `--axis seed=0..5`"));
    }
    if let Some(at) = runs.iter().position(Vec::is_empty) {
        let error = Error::usage(format!("`{}` has no metrics by step", plan.pipeline.stage(ids[at]).name));
        return Err(error.hint("run `erw sweep` with the same `--axis` to the end first"));
    }
    let last = runs.iter().filter_map(|rows| step_of(rows.last()?)).min().unwrap_or(0);
    let marks: BTreeSet<u64> = PERCENT.iter().map(|p| (last * p).div_ceil(100)).collect();
    let runs: Vec<_> = runs.iter().map(|rows| means(rows, &marks)).collect();
    let bands = runs[0].keys().filter_map(|at| {
        let values: Option<Vec<Option<f64>>> = runs.iter().map(|run| run.get(at).copied()).collect();
        let (Some(mean), Some(sd), runs) = spread(&values?) else { return None };
        Some(Band { stage: name.into(), metric: at.0.clone(), step: at.1, runs, mean, sd })
    });
    Ok(bands.collect())
}

/// Reads a file that `erw metrics --bands --format csv` wrote.
///
/// # Errors
/// If it cannot be read, or a line is none of such a table.
pub fn read(file: &Path) -> Result<Vec<Band>> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::io("read", file, e))?;
    let mut lines = text.lines().enumerate();
    let hint = "such a file is made by `erw metrics P --axis seed=0..5 --bands --format csv`";
    if lines.next().map(|(_, line)| line) != Some(COLUMNS.join(",").as_str()) {
        let error = Error::usage(format!("`{}` has no reference curves", file.display()));
        return Err(error.because(format!("its first line is not `{}`", COLUMNS.join(","))).hint(hint));
    }
    let bands = lines.filter(|(_, line)| !line.is_empty()).map(|(i, line)| {
        band(line).ok_or_else(|| {
            Error::usage(format!("{}:{}: `{line}` is no row of reference curves", file.display(), i + 1)).hint(hint)
        })
    });
    bands.collect()
}

fn band(line: &str) -> Option<Band> {
    let [stage, metric, step, runs, mean, sd] = line.split(',').collect::<Vec<_>>().try_into().ok()?;
    let number = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
    let (step, runs) = (step.parse().ok()?, runs.parse().ok()?);
    let (mean, sd) = (number(mean)?, number(sd).filter(|sd| *sd >= 0.0)?);
    Some(Band { stage: stage.into(), metric: metric.into(), step, runs, mean, sd })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Quantiles of `scipy.stats.t.ppf(0.9995, df)`.
    #[test]
    fn student_agrees_with_scipy() {
        for (freedom, expected) in [(2, 31.5991), (4, 8.6103), (9, 4.7809), (10, 4.5869), (30, 3.6460), (1000, 3.3003)]
        {
            let ratio = student(freedom) / expected;
            assert!((ratio - 1.0).abs() < 0.003, "{freedom}: {ratio}");
        }
    }

    #[test]
    fn a_value_is_the_mean_since_the_mark_before() {
        let row = |step: u64, loss: f64| {
            let values = [("step".to_string(), json!(step)), ("loss".to_string(), json!(loss))];
            Row::from_iter(values)
        };
        let rows = [row(1, 8.0), row(2, 4.0), row(3, 2.0), row(4, 1.0), row(5, f64::NAN)];
        let found = means(&rows, &BTreeSet::from([2, 4, 5, 9]));
        let at = |step| found.get(&("loss".to_string(), step)).copied();
        assert_eq!((at(2), at(4), at(5), at(9)), (Some(Some(6.0)), Some(Some(1.5)), Some(None), None));
    }
}
