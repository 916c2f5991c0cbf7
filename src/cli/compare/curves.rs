//! `erw compare A curves.csv`: holds the metrics by step of A against reference curves
//! (`metrics/bands.rs`). Knows nothing of results at the end, which two sides have.

use super::named::Named;
use crate::logs;
use crate::metrics::bands::{self, Band};
use crate::metrics::steps;
use erw_base::error::{Error, ErrorKind, Result};
use erw_report::sheet::{Cell, Column, Sheet};
use erw_runner::cache::key::Key;
use erw_runner::cache::store::Store;
use erw_runner::files::digest::Digest;
use erw_runner::kind::step_log::step_of;
use erw_runner::text::suggest;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A stage's metric against its curve.
struct Held<'c> {
    stage: &'c str,
    metric: &'c str,
    /// Steps of the curve that the run has reached.
    reached: usize,
    /// Those where it is outside of the band, with its value.
    outside: Vec<(&'c Band, Option<f64>)>,
}

/// A row for each metric of a stage that both know, and the error if one is outside of its band.
///
/// # Errors
/// If the curves cannot be read, or have no stage of A that has metrics by step.
pub fn sheet(named: &Named, file: &Path, store: &Store) -> Result<(Sheet, Option<Error>)> {
    let curves = bands::read(file)?;
    let mut held = vec![];
    let known: BTreeSet<&str> = curves.iter().map(|band| band.stage.as_str()).collect();
    for (name, key) in actions(named, &known, store)? {
        let curves = curves.iter().filter(|band| band.stage == name);
        let rows = steps::measured(store, &key)?;
        let marks: BTreeSet<u64> = curves.clone().map(|band| band.step).collect();
        let found = bands::means(&rows, &marks);
        let last = rows.last().and_then(step_of).unwrap_or(0);
        let mut of_metric: BTreeMap<&str, Held<'_>> = BTreeMap::new();
        for band in curves.filter(|band| band.step <= last) {
            let (stage, metric) = (band.stage.as_str(), band.metric.as_str());
            let entry = of_metric.entry(metric).or_insert(Held { stage, metric, reached: 0, outside: vec![] });
            entry.reached += 1;
            let value = found.get(&(band.metric.clone(), band.step)).copied().flatten();
            let (low, high) = band.limits();
            if !value.is_some_and(|v| (low..=high).contains(&v)) {
                entry.outside.push((band, value));
            }
        }
        held.extend(of_metric.into_values());
    }
    if held.is_empty() {
        let error = Error::usage(format!("nothing to hold against `{}`", file.display()));
        let hint =
            format!("it has curves of {}; train one of them and its metrics are compared", suggest::ticked(known));
        return Err(error.because("no stage that it names has logged its first step").hint(hint));
    }
    let columns = ["stage", "metric", "steps", "outside", "first", "value", "low", "high"].map(Column::new).to_vec();
    let rows = held.iter().map(row).collect();
    Ok((Sheet { columns, rows, grouped: true }, verdict(&held, file)))
}

/// The stages of these names whose keys are known.
fn actions(named: &Named, names: &BTreeSet<&str>, store: &Store) -> Result<Vec<(String, Key)>> {
    match named {
        Named::Pipeline { pipeline, stages, .. } => {
            let wanted = stages.iter().filter(|(name, _)| names.contains(name.as_str()));
            let with_key =
                |(name, id): &(String, _)| Ok(logs::key(pipeline, store, *id)?.map(|key| (name.clone(), key)));
            wanted.filter_map(|stage| with_key(stage).transpose()).collect()
        }
        Named::Past(run) => {
            let wanted = run.stages.iter().filter(|stage| names.contains(stage.stage.as_str()));
            let key = |text: &String| text.parse::<Digest>().ok().map(Key::from);
            Ok(wanted.filter_map(|stage| Some((stage.stage.clone(), key(stage.key.as_ref()?)?))).collect())
        }
    }
}

fn row(held: &Held<'_>) -> Vec<Cell> {
    let count = |n: u64| Cell::Value(n.into(), n.to_string());
    let mut cells = vec![Cell::Text(held.stage.into()), Cell::Text(held.metric.into())];
    cells.extend([held.reached, held.outside.len()].map(|n| count(n as u64)));
    cells.extend(match held.outside.first() {
        Some((band, value)) => {
            let (low, high) = band.limits();
            let low_high = [low, high].map(|v| Cell::Number(Some(v)));
            [vec![count(band.step), value.map_or(Cell::None, |v| Cell::Number(Some(v)))], low_high.to_vec()].concat()
        }
        None => vec![Cell::None; 4],
    });
    cells
}

/// What is outside, the first of each stage.
fn verdict(held: &[Held<'_>], file: &Path) -> Option<Error> {
    let outside = held.iter().filter_map(|h| Some((h, h.outside.first()?.0.step)));
    let words: Vec<String> =
        outside.map(|(h, step)| format!("`{}` of `{}` from step {step}", h.metric, h.stage)).collect();
    if words.is_empty() {
        return None;
    }
    let error =
        Error::new(ErrorKind::Stage, format!("outside of the curves of `{}`: {}", file.display(), words.join(", ")));
    Some(error.hint("one value in a thousand of another seed is; compare with a revision to see what changed"))
}
