//! Writes the scores of every block and timestep of a SiT: metrics.json, a table, heat maps. It
//! does not know what was measured.

use crate::support::files::{create_dir, write_json};
use erw_base::error::{Error, Result};
use erw_ml::metrics::bounds::Requirements;
use erw_ml::viz::heat_map::HeatMap;
use erw_runner::kind::attempt::Attempt;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::Path;

/// One measure.
pub struct Scores {
    /// Its name in parameters and results.
    pub measure: &'static str,
    /// The title of its heat map.
    pub title: &'static str,
    /// `[block][timestep]`
    pub values: Vec<Vec<f64>>,
}

impl Scores {
    /// A warning about the value farthest outside the possible range, if there is one.
    pub fn impossible(&self, bounds: &Requirements) -> Option<String> {
        let all = || self.values.iter().flatten().copied();
        let extremes = [all().find(|v| v.is_nan()), all().reduce(f64::max), all().reduce(f64::min)];
        extremes.into_iter().flatten().find_map(|value| bounds.impossible(self.measure, value))
    }

    /// The best block, counted from 1, at timestep number `column`, and its score.
    fn best(&self, column: usize) -> (usize, f64) {
        let scores = self.values.iter().map(|row| row[column]).enumerate();
        scores.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))).map_or((0, f64::NAN), |(i, v)| (i + 1, v))
    }
}

/// Turns `[timestep][block]` into `[block][timestep]`.
pub fn by_block(columns: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let blocks = columns.first().map_or(0, Vec::len);
    (0..blocks).map(|b| columns.iter().map(|column| column[b]).collect()).collect()
}

/// Writes output `metrics`. The key metric is the first measure at its best block at the middle
/// timestep. `about` holds the settings and other fields of metrics.json.
pub fn report(attempt: &Attempt, timesteps: &[f64], all: &[Scores], about: Value) -> Result<()> {
    let Some(first) = all.first() else { return Err(Error::stage("nothing was measured")) };
    let middle = timesteps.len() / 2;
    let (block, value) = first.best(middle);
    let measures: Map<String, Value> = all
        .iter()
        .map(|s| {
            let (block, value) = s.best(middle);
            (s.measure.to_string(), json!({"value": value, "block": block, "blocks": s.values}))
        })
        .collect();
    let mut metrics = json!({
        "metric": first.measure,
        "value": value,
        "block": block,
        "timestep": timesteps[middle],
        "timesteps": timesteps,
        "blocks": first.values,
        "measures": measures,
    });
    if let (Value::Object(metrics), Value::Object(about)) = (&mut metrics, about) {
        metrics.extend(about);
    }
    let out = attempt.output("metrics");
    create_dir(&out)?;
    write_json(&out.join("metrics.json"), &metrics)?;
    write(&out.join("scores.csv"), &table(timesteps, all))?;
    for scores in all {
        let map = heat_map(timesteps, scores);
        write(&out.join(format!("{}.svg", scores.measure)), &map.svg())?;
        map.picture().save(&out.join(format!("{}.png", scores.measure)))?;
        attempt.show("metrics", &format!("{}.png", scores.measure));
        attempt.result(scores.measure, scores.best(middle).1);
    }
    attempt.result("block", block as f64);
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Error::io("write", path, e))
}

/// One line per value, the long format that spreadsheets and data frames read.
fn table(timesteps: &[f64], all: &[Scores]) -> String {
    let mut text = "measure,block,timestep,value\n".to_string();
    for scores in all {
        for (block, row) in scores.values.iter().enumerate() {
            for (t, value) in timesteps.iter().zip(row) {
                let _ = writeln!(text, "{},{},{t},{value}", scores.measure, block + 1);
            }
        }
    }
    text
}

fn heat_map(timesteps: &[f64], scores: &Scores) -> HeatMap {
    HeatMap {
        title: scores.title.into(),
        x_title: "timestep (0: data, 1: noise)".into(),
        y_title: "block".into(),
        columns: timesteps.iter().map(f64::to_string).collect(),
        rows: (1..=scores.values.len()).map(|b| b.to_string()).collect(),
        values: scores.values.clone(),
    }
}
