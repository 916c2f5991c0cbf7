//! Parameters of kinds: lists, devices, and errors that are the user's.

use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_runner::kind::field::{Params, parse};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The operation values of a stage that walks over a set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Walk {
    /// Rows at a time.
    pub batch: usize,
}

/// The check of such a stage whose parameters `P` need none but their types.
pub fn check_walk<P: DeserializeOwned>(params: &Params, operation: &Params, _: &[&str]) -> Result<()> {
    parse::<Walk>(operation)?;
    parse::<P>(params).map(drop)
}

/// Checks a parameter that lists what is wanted: not nothing, and nothing twice. `known` is all
/// that there is, in words.
pub fn check_list(parameter: &str, names: &[&str], known: &str) -> Result<()> {
    if names.is_empty() {
        return Err(Error::usage(format!("`{parameter}` is empty")).hint(format!("there are {known}")));
    }
    match (1..names.len()).find(|i| names[..*i].contains(&names[*i])) {
        Some(i) => Err(Error::usage(format!("`{parameter}` names `{}` twice", names[i]))),
        None => Ok(()),
    }
}

/// A set of images that cannot be taken as it is. What its error is about and what helps come
/// apart.
pub fn of_set(e: candle_core::Error) -> Error {
    let mut error = Error::from(e);
    let help = std::mem::take(&mut error.causes);
    error.hints.extend(help.iter().flat_map(|text| text.lines()).map(String::from));
    error
}

/// A failed check of parameters, told as a mistake of the pipeline.
pub fn usage(e: candle_core::Error) -> Error {
    Error::usage(e.to_string())
}

/// `cpu` or `cuda:N`.
pub fn device(name: &str) -> Result<Device> {
    match name.strip_prefix("cuda:").map(str::parse) {
        None if name == "cpu" => Ok(Device::Cpu),
        Some(Ok(_)) if cfg!(not(feature = "cuda")) => Err(Error::usage("this erw was built without CUDA").hint(
            "`cargo build --release --features cuda` builds one that has it; `--gpus 0` runs such stages on the CPU",
        )),
        Some(Ok(ordinal)) => Ok(Device::new_cuda(ordinal)?),
        _ => Err(Error::usage(format!("unknown device `{name}`")).hint("devices are `cpu` and `cuda:N`")),
    }
}
