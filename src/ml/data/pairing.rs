//! Checks that latents and features describe the same images: the same number, with the same labels
//! in the same order.

use super::packed::Packed;
use candle_core::{Device, Result, bail};

/// Digest of the labels of an image set, stored in the `meta.json` of features. It detects features
/// that are paired with latents of other images, or of the same images in another order.
pub fn labels_digest(labels: &[i64]) -> String {
    let bytes: Vec<u8> = labels.iter().flat_map(|l| l.to_le_bytes()).collect();
    blake3::hash(&bytes).to_hex().to_string()
}

/// Checks by number and labels that the latents and another set, called `name` in messages,
/// describe the same images. Row i of one is paired with row i of the other. `labels` is the
/// [`labels_digest`] of the other set, or `None` if it does not state one.
///
/// # Errors
/// The numbers or the labels differ.
pub fn check_pairs(latents: &Packed, name: &str, count: u64, labels: Option<&str>) -> Result<()> {
    if latents.len() != count {
        bail!("{} latents and {count} rows of {name} do not describe the same images", latents.len());
    }
    let Some(theirs) = labels else { return Ok(()) };
    if labels_digest(&latents.all("labels", &Device::Cpu)?.to_vec1::<i64>()?) != theirs {
        bail!("latents and {name} describe images with different labels, or in a different order");
    }
    Ok(())
}

/// The [`labels_digest`] that features store. Features made elsewhere may not state one.
pub fn stated_labels(features: &Packed) -> Option<&str> {
    features.meta().get("labels")?.as_str()
}
