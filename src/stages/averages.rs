//! Which weights of a trained SiT a later stage takes: those that were trained, or one of their averages.
//!
//! ```text
//! model      model.safetensors      as the last step left them
//! ema        ema.safetensors        the average with the first decay
//! ema-D      ema-D.safetensors      the average with a further decay D, as `ema-0.999`
//! ```

use crate::error::{Error, Result};
use crate::ml::weights::{self, Tensors};
use candle_core::Device;
use std::path::Path;

/// File of a further average.
pub fn file_of_decay(decay: f64) -> String {
    format!("ema-{decay}.safetensors")
}

/// Is `name`, the value of a parameter, the name of weights?
pub fn check(param: &str, name: &str) -> Result<()> {
    let decay = name.strip_prefix("ema-").and_then(|d| d.parse::<f64>().ok());
    // Written as the file's name is: `ema-0.9990` would not be found.
    if matches!(name, "model" | "ema") || decay.is_some_and(|d| format!("ema-{d}") == name) {
        return Ok(());
    }
    let text = format!("`{param}` must be `ema`, `model` or `ema-D` with the decay of a further average, not `{name}`");
    Err(Error::usage(text).hint("for example `ema-0.999`, of a training with `ema_decay = [0.9999, 0.999]`"))
}

/// The weights of this name in an artifact that came by input `input`.
pub fn load(dir: &Path, input: &str, name: &str, device: &Device) -> Result<Tensors> {
    let file = dir.join(format!("{name}.safetensors"));
    if name.starts_with("ema-") && !file.exists() {
        let text = format!("input `{input}` has no weights `{name}`");
        return Err(Error::stage(text).hint(format!("there are {}", there(dir)?.join(", "))));
    }
    Ok(weights::load(&file, device)?)
}

/// Names of the weights in an artifact, in backticks.
fn there(dir: &Path) -> Result<Vec<String>> {
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
        for name in ["model", "ema", "ema-0.999", "ema-0.5"] {
            super::check("weights", name).unwrap();
        }
        for name in ["emma", "ema-", "ema-x", "ema-0.9990", "../ema", "ema-../x"] {
            let said = super::check("weights", name).unwrap_err().message;
            let text = format!(
                "`weights` must be `ema`, `model` or `ema-D` with the decay of a further average, not `{name}`"
            );
            assert_eq!(said, text);
        }
    }
}
