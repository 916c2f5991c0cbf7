//! Whether two inputs are of the same images, as an error of a pipeline.

use erw_base::error::{Error, Result};
use erw_ml::data::packed::Packed;
use erw_ml::data::pairing;

/// [`pairing::check_pairs`] of latents and the input of this name.
pub fn check_pairs(latents: &Packed, input: &str, count: u64, labels: Option<&str>) -> Result<()> {
    pairing::check_pairs(latents, &format!("input `{input}`"), count, labels).map_err(unpaired)
}

pub fn unpaired(e: candle_core::Error) -> Error {
    Error::from(e).hint("make both from the same `images` stage")
}
