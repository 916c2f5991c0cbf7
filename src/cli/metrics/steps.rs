//! `erw metrics --steps`: metrics by training step, from the files of the last attempts. These are
//! in the work folder of a stage until it ends, then with its logs; they stay in the cache in which
//! it ran, where artifacts go to others.

use crate::logs::key;
use erw_base::error::{Error, Result};
use erw_report::sheet::{Cell, Column, Sheet};
use erw_runner::cache::action_cache::{Lookup, lookup};
use erw_runner::cache::key::Key;
use erw_runner::cache::store::Store;
use erw_runner::kind::step_log::{self, METRICS, Row, TIMES, step_of};
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::pipeline::targets::{named, select};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// In the artifact of a training: a row for each step.
const CURVE: &str = "curve.jsonl";

/// A row for each step that a stage logged; a column for each number that any of them has.
pub fn sheet(pipeline: &Pipeline, store: &Store, names: &[String]) -> Result<Sheet> {
    let mut found = vec![];
    for id in chosen(pipeline, names)? {
        let rows = key(pipeline, store, id)?.map_or(Ok(vec![]), |key| of_action(store, &key))?;
        let name = &pipeline.stage(id).name;
        if rows.is_empty() && !names.is_empty() {
            let error = Error::usage(format!("stage `{name}` has no metrics by step"));
            return Err(error.hint("trainings log them every `log_every` steps, separately for each set of values"));
        }
        found.extend(rows.into_iter().map(|row| (name, row)));
    }
    let mut titles: Vec<&String> = vec![];
    for name in found.iter().flat_map(|(_, row)| row.keys()).filter(|name| *name != "step") {
        if !titles.contains(&name) {
            titles.push(name);
        }
    }
    let cells = |(stage, row): &(&String, Row)| {
        let step = step_of(row).unwrap_or_default();
        let first = [Cell::Text((*stage).clone()), Cell::Value(step.into(), step.to_string())];
        let cell = |name: &&String| row.get(*name).map_or(Cell::None, |value| Cell::Number(value.as_f64()));
        first.into_iter().chain(titles.iter().map(cell)).collect()
    };
    let rows = found.iter().map(cells).collect();
    let columns = ["stage", "step"].map(Column::new).into_iter();
    let columns = columns.chain(titles.iter().map(|name| Column::new(name.as_str()))).collect();
    Ok(Sheet { columns, rows, grouped: true })
}

/// The stages of these names, else all.
fn chosen(pipeline: &Pipeline, names: &[String]) -> Result<Vec<StageId>> {
    // Fails for unknown names, with suggestions.
    let all = select(pipeline, names)?;
    Ok(if names.is_empty() { all } else { names.iter().flat_map(|n| named(pipeline, n)).collect() })
}

/// Metrics of the last attempt at an action, by step.
pub fn measured(store: &Store, key: &Key) -> Result<Vec<Row>> {
    folder(store, key).map_or(Ok(vec![]), |dir| read(&dir.join(METRICS)))
}

fn folder(store: &Store, key: &Key) -> Option<PathBuf> {
    [store.work_dir(key), store.log_dir(key)].into_iter().find(|dir| dir.join(METRICS).exists())
}

/// Metrics and times of the last attempt at an action, by step. Without its files, as in a cache that
/// got the record from a remote, the curve that its artifact contains.
pub fn of_action(store: &Store, key: &Key) -> Result<Vec<Row>> {
    let Some(dir) = folder(store, key) else { return of_artifact(store, key) };
    let mut times: BTreeMap<u64, Row> =
        read(&dir.join(TIMES))?.into_iter().filter_map(|row| Some((step_of(&row)?, row))).collect();
    let mut rows = read(&dir.join(METRICS))?;
    for row in &mut rows {
        let more = step_of(row).and_then(|step| times.remove(&step)).unwrap_or_default();
        row.extend(more);
    }
    Ok(rows)
}

/// The curve of the first artifact that has one. Parts of its loss are under names of their own, as
/// they are logged.
fn of_artifact(store: &Store, key: &Key) -> Result<Vec<Row>> {
    let Lookup::Hit(record) = lookup(store, key)? else { return Ok(vec![]) };
    let files = record.outputs.values().map(|output| store.object(&output.measured.digest).join(CURVE));
    let Some(file) = files.into_iter().find(|file| file.is_file()) else { return Ok(vec![]) };
    let flat = |row: Row| {
        let parts = |(name, value): (String, Value)| match value {
            Value::Object(parts) => parts.into_iter().collect(),
            value => vec![(name, value)],
        };
        row.into_iter().flat_map(parts).collect()
    };
    Ok(read(&file)?.into_iter().map(flat).collect())
}

fn read(path: &Path) -> Result<Vec<Row>> {
    step_log::read(path).map_err(|e| Error::io("read", path, e))
}
