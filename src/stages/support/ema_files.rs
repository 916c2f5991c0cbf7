//! Names and files of the weight sets of a trained SiT: the trained weights, their averages, and
//! snapshots of the first average. A later stage selects one set by name.
//!
//! ```text
//! model      model.safetensors      the weights after the last step
//! ema        ema.safetensors        the average with the first decay
//! ema-D      ema-D.safetensors      the average with a further decay D, e.g. `ema-0.999`
//! ema@K      ema@K.safetensors      the average with the first decay after K steps; K is one of
//!                                   the training's `snapshots`
//! ```

use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_ml::nn::params::{self, Tensors};
use std::path::Path;

/// File name of the average with a further decay.
pub fn file_of_decay(decay: f64) -> String {
    format!("ema-{decay}.safetensors")
}

/// File name of the first average after `step` steps.
pub fn file_of_step(step: u64) -> String {
    format!("ema@{step}.safetensors")
}

/// Checks the parameter `snapshots`: strictly ascending steps, none after the last of the `steps`
/// of the training.
pub fn check_steps(snapshots: &[u64], steps: u64) -> Result<()> {
    if let Some(pair) = snapshots.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(Error::usage(format!("`snapshots` must ascend, but {} comes before {}", pair[0], pair[1])));
    }
    match snapshots.last().filter(|last| **last > steps) {
        Some(last) => Err(Error::usage(format!("`snapshots` has step {last}, but the training has {steps} steps"))),
        None => Ok(()),
    }
}

/// Checks that `name`, the value of parameter `param`, is a valid name of weights.
pub fn check(param: &str, name: &str) -> Result<()> {
    let decay = name.strip_prefix("ema-").and_then(|d| d.parse::<f64>().ok());
    let step = name.strip_prefix("ema@").and_then(|k| k.parse::<u64>().ok());
    // The spelling must match the file name: `ema-0.9990` would not be found.
    let is_further = decay.is_some_and(|d| format!("ema-{d}") == name);
    if matches!(name, "model" | "ema") || is_further || step.is_some_and(|k| format!("ema@{k}") == name) {
        return Ok(());
    }
    let text = format!(
        "`{param}` must be `ema`, `model`, `ema-D` with the decay of a further average or `ema@K` with a step of \
         `snapshots`, not `{name}`"
    );
    let hint = "for example `ema-0.999` for a training with `ema_decay = [0.9999, 0.999]`, or `ema@1000` for one \
                with `snapshots = [1000]`";
    Err(Error::usage(text).hint(hint))
}

/// Loads the weights `name` from the artifact in `dir`, which is connected to input `input`.
///
/// # Errors
/// If the artifact has no weights of this name, or they cannot be read.
pub fn load(dir: &Path, input: &str, name: &str, device: &Device) -> Result<Tensors> {
    let file = dir.join(format!("{name}.safetensors"));
    if name.starts_with("ema") && name != "ema" && !file.exists() {
        let text = format!("input `{input}` has no weights `{name}`");
        return Err(Error::stage(text).hint(format!("available weights are {}", there(dir)?.join(", "))));
    }
    Ok(params::load(&file, device)?)
}

/// Names of the weight sets in an artifact, in backticks, sorted.
pub fn there(dir: &Path) -> Result<Vec<String>> {
    let mut names = vec![];
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let name = entry.map_err(|e| Error::io("list", dir, e))?.file_name();
        names.extend(name.to_string_lossy().strip_suffix(".safetensors").map(str::to_string));
    }
    names.sort();
    Ok(names.into_iter().map(|n| format!("`{n}`")).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_weights_are_told_from_others() {
        for name in ["model", "ema", "ema-0.999", "ema-0.5", "ema@250"] {
            super::check("weights", name).unwrap();
        }
        for name in ["emma", "ema-", "ema-x", "ema-0.9990", "../ema", "ema-../x", "ema@", "ema@07", "ema@-1", "ema@2.5"]
        {
            let said = super::check("weights", name).unwrap_err().message;
            let text = format!(
                "`weights` must be `ema`, `model`, `ema-D` with the decay of a further average or `ema@K` with a step \
                 of `snapshots`, not `{name}`"
            );
            assert_eq!(said, text);
        }
    }

    #[test]
    fn steps_to_keep_ascend_and_are_steps() {
        let said = |snapshots: &[u64]| super::check_steps(snapshots, 9).err().map(|e| e.message);
        assert_eq!([said(&[]), said(&[1, 3, 9])], [None, None]);
        assert_eq!(said(&[3, 3]).unwrap(), "`snapshots` must ascend, but 3 comes before 3");
        assert_eq!(said(&[3, 10]).unwrap(), "`snapshots` has step 10, but the training has 9 steps");
    }
}
