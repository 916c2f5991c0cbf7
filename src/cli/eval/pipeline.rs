//! The pipeline of an evaluation, as text. Stages are named after the arguments of the command
//! line, so that messages about them are understood.

use super::input::{EvalInput, STATS};
use erw_base::error::{Error, Result};
use erw_runner::event::StageEnd;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The file name of such pipelines in reasons.
pub const FILE: &str = "command line";
pub const SAMPLES: &str = "samples";
pub const REFERENCE: &str = "reference";
pub const NETWORK: &str = "network";
pub const METRICS: &str = "metrics";

/// The stages of a pipeline, in the order they are added.
pub struct Stages {
    /// The name that `erw log` shows. Reasons to run compare with the last pipeline of this name,
    /// so it contains the names of the files.
    name: String,
    stages: Map<String, Value>,
}

impl Stages {
    /// A pipeline about these files, without stages.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a str>) -> Self {
        let last = |file: &'a str| file.trim_end_matches('/').rsplit('/').next().unwrap_or(file);
        let name = std::iter::once("eval").chain(files.into_iter().map(last)).collect::<Vec<_>>().join(" ");
        Self { name, stages: Map::new() }
    }

    /// Adds a stage. Entries without a value (null) are left out.
    pub fn add(&mut self, name: &str, mut stage: Value) {
        without_nulls(&mut stage);
        self.stages.insert(name.into(), stage);
    }

    pub fn text(self) -> Result<String> {
        toml::to_string(&json!({ "name": self.name, "stages": self.stages }))
            .map_err(|e| Error::internal("a written pipeline is not TOML").because(e))
    }
}

fn without_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, v| !v.is_null());
        map.values_mut().for_each(without_nulls);
    }
}

/// How features are extracted from images.
pub struct Extraction {
    pub mode: Option<&'static str>,
    pub limit: Option<usize>,
    pub batch: Option<usize>,
    /// Images to store beside the statistics.
    pub arr_0: Option<u32>,
    /// Whether to use a GPU.
    pub gpu: bool,
}

/// Rows of features that are kept of each side for precision, recall and KID: all of the usual
/// 50,000 samples. It is the same for every metric, so that all share the extraction.
const FEATURES: usize = 50_000;

impl Extraction {
    /// Adds the stage `name` that loads a side or extracts its features with `network`. Returns the
    /// name for inputs.
    pub fn add(&self, stages: &mut Stages, name: &str, given: &EvalInput, network: &str) -> Result<String> {
        let stage = match given {
            EvalInput::Stage(stage, ty, _) if ty == STATS => return Ok(stage.clone()),
            EvalInput::Statistics(path, _) => weights(STATS, json!({ "source": text(path)? })),
            EvalInput::Images(path) => self.stats(&json!(text(path)?), &Value::Null, network),
            EvalInput::Stage(stage, ..) => self.stats(&Value::Null, &json!(stage), network),
        };
        stages.add(name, stage);
        Ok(name.into())
    }

    fn stats(&self, source: &Value, images: &Value, network: &str) -> Value {
        let params = json!({
            "source": source, "mode": self.mode, "features": FEATURES, "limit": self.limit, "arr_0": self.arr_0,
        });
        let inputs = json!({ "images": images, "network": network });
        let mut stage = json!({ "kind": "stats", "inputs": inputs, "params": params });
        self.operate(&mut stage);
        stage
    }

    /// Sets batch size and device of a stage that reads images.
    pub fn operate(&self, stage: &mut Value) {
        stage["operation"] = json!({ "batch": self.batch });
        if self.gpu {
            stage["resources"] = json!({ "gpus": 1 });
        }
    }
}

/// A stage that loads weights or statistics.
pub fn weights(artifact: &str, mut params: Value) -> Value {
    params["as"] = json!(artifact);
    json!({ "kind": "weights", "params": params })
}

/// A path as text, which TOML requires.
pub fn text(path: &Path) -> Result<&str> {
    let cannot = || Error::usage(format!("the name of `{}` is not UTF-8", path.display()));
    path.to_str().ok_or_else(cannot)
}

/// The end of a run of a written pipeline.
pub(crate) struct Ran {
    pub(crate) ends: Vec<StageEnd>,
}

impl Ran {
    /// How this stage ended.
    pub(crate) fn end(&self, stage: &str) -> Result<&StageEnd> {
        let end = self.ends.iter().find(|end| end.stage == stage);
        end.ok_or_else(|| Error::internal(format!("stage `{stage}` did not end")))
    }

    /// The folder of the only output of this stage.
    pub(crate) fn output(&self, stage: &str) -> Result<PathBuf> {
        let output = self.end(stage)?.outputs.first();
        output.map(|o| o.path.clone()).ok_or_else(|| Error::internal(format!("stage `{stage}` has no output")))
    }
}
