//! Checks that two inputs were made from the same images. A mismatch is an error with a hint about
//! the pipeline.

use erw_base::error::{Error, Result};
use erw_ml::data::packed::Packed;
use erw_ml::data::pairing;

/// Applies [`pairing::check_pairs`] to the latents and input `input`, which has `count` rows.
pub fn check_pairs(latents: &Packed, input: &str, count: u64, labels: Option<&str>) -> Result<()> {
    pairing::check_pairs(latents, &format!("input `{input}`"), count, labels).map_err(unpaired)
}

/// Adds the hint to an error about inputs that were made from different images.
pub fn unpaired(e: candle_core::Error) -> Error {
    Error::from(e).hint("make both from the same `images` stage")
}
