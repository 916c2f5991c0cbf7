//! The joint: stage kinds, thin glue between the runner's attempts and `ml`. One file per kind.

pub mod accuracy;
pub mod features;
pub mod images;
pub mod latents;
mod support;
pub mod train_classifier;
pub mod train_encoder;
pub mod train_vae;

use crate::error::{Error, Result};
use crate::ml::train::Observer;
use crate::runner::attempt::Attempt;
use crate::runner::manifest::{Params, Registry};
use candle_core::Device;
use serde::de::DeserializeOwned;
use std::path::Path;

/// All of them.
pub const KINDS: Registry = &[
    accuracy::KIND,
    features::KIND,
    images::KIND,
    latents::KIND,
    train_classifier::KIND,
    train_encoder::KIND,
    train_vae::KIND,
];

/// Values as a kind's own struct, for `check`.
pub(crate) fn typed<T: DeserializeOwned>(values: &Params) -> Result<T> {
    let map = values.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    serde_json::from_value(serde_json::Value::Object(map)).map_err(|e| Error::usage(e.to_string()))
}

/// The device an attempt was given: `cpu` or `cuda:N`.
pub(crate) fn device(attempt: &Attempt) -> Result<Device> {
    let name = attempt.device();
    match name.strip_prefix("cuda:").map(str::parse) {
        Some(Ok(index)) => Ok(Device::new_cuda(index)?),
        None if name == "cpu" => Ok(Device::Cpu),
        _ => Err(Error::usage(format!("unknown device `{name}`")).hint("devices are `cpu` and `cuda:N`")),
    }
}

/// Writes a JSON file, indented, with a newline at the end.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::stage(e.to_string()))?;
    std::fs::write(path, text + "\n").map_err(|e| Error::io("write", path, e))
}

/// Passes on to an attempt what a training loop has to tell.
pub struct Reporter<'a>(pub &'a Attempt);

impl Observer for Reporter<'_> {
    fn progress(&self, done: u64, total: u64) {
        self.0.progress(done, total);
    }
    fn metric(&self, step: u64, name: &str, value: f64) {
        self.0.metric(step, name, value);
    }
    fn checkpointed(&self, step: u64) {
        self.0.checkpointed(step);
    }
    fn resumed(&self, step: u64) {
        self.0.resumed(step);
    }
    fn log(&self, text: &str) {
        self.0.log(text);
    }
    fn should_stop(&self) -> bool {
        self.0.should_stop()
    }
}
