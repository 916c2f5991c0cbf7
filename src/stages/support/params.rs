//! Shared checks of parameters and operation values: batch size, lists, devices. Also converts
//! errors of `ml` into errors about the user's input.

use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_gpu::driver_error::meaning;
use erw_runner::kind::field::{Params, parse};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The operation values of a stage that processes a set in batches.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Walk {
    /// Rows per batch.
    pub batch: usize,
}

/// The check of a stage with operation values [`Walk`] whose parameters `P` need no check beyond
/// their types.
pub fn check_walk<P: DeserializeOwned>(params: &Params, operation: &Params, _: &[&str]) -> Result<()> {
    parse::<Walk>(operation)?;
    parse::<P>(params).map(drop)
}

/// Checks that a list parameter is not empty and contains no name twice. `known` lists the possible
/// names, as text for the hint.
pub fn check_list(parameter: &str, names: &[&str], known: &str) -> Result<()> {
    if names.is_empty() {
        return Err(Error::usage(format!("`{parameter}` is empty")).hint(format!("known names are {known}")));
    }
    match (1..names.len()).find(|i| names[..*i].contains(&names[*i])) {
        Some(i) => Err(Error::usage(format!("`{parameter}` names `{}` twice", names[i]))),
        None => Ok(()),
    }
}

/// Converts an error about a set of images that cannot be used. Its causes become hints, one per
/// line.
pub fn of_set(e: candle_core::Error) -> Error {
    let mut error = Error::from(e);
    let help = std::mem::take(&mut error.causes);
    error.hints.extend(help.iter().flat_map(|text| text.lines()).map(String::from));
    error
}

/// Converts a failed check of parameters in `ml` to a usage error.
pub fn usage(e: candle_core::Error) -> Error {
    Error::usage(e.to_string())
}

/// An error of the NVIDIA driver, with its meaning if it has a usual one.
pub fn of_driver(what: &str, e: candle_core::Error) -> Error {
    let text = e.to_string();
    let text = text.lines().next().unwrap_or_default();
    match meaning(text) {
        Some((cause, hint)) => Error::stage(format!("{what}: {cause}")).because(text).hint(hint),
        None => Error::stage(what.to_string()).because(text),
    }
}

/// Opens the device `cpu` or `cuda:N`.
///
/// # Errors
/// If the name is unknown, or the device is not available.
pub fn device(name: &str) -> Result<Device> {
    match name.strip_prefix("cuda:").map(str::parse) {
        None if name == "cpu" => Ok(Device::Cpu),
        Some(Ok(_)) if cfg!(not(feature = "cuda")) => Err(Error::usage("this erw was built without CUDA").hint(
            "build one that has it by `cargo build --release --features cuda`, or pass `--gpus 0` to run such stages on the CPU",
        )),
        Some(Ok(ordinal)) => Device::new_cuda(ordinal).map_err(|e| of_driver(&format!("cannot open GPU `{name}`"), e)),
        _ => Err(Error::usage(format!("unknown device `{name}`")).hint("devices are `cpu` and `cuda:N`")),
    }
}
