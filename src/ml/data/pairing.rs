//! Whether latents and features are of the same images: as many, with the same labels in the same
//! order.

use super::packed::Packed;
use candle_core::{Device, Result, bail};

/// What stands for the labels of an image set in the `meta.json` of features, so that pairing them
/// with latents of other images, or of the same in another order, is noticed.
pub fn labels_digest(labels: &[i64]) -> String {
    let bytes: Vec<u8> = labels.iter().flat_map(|l| l.to_le_bytes()).collect();
    blake3::hash(&bytes).to_hex().to_string()
}

/// Are the latents and another set, called `name` in messages, of the same images, as far as their
/// number and labels tell? Row i of one goes with row i of the other. `labels` is the other's
/// [`labels_digest`], `None` where it does not say.
pub fn check_pairs(latents: &Packed, name: &str, count: u64, labels: Option<&str>) -> Result<()> {
    if latents.len() != count {
        bail!("{} latents and {count} rows of {name} are not of the same images", latents.len());
    }
    let Some(theirs) = labels else { return Ok(()) };
    if labels_digest(&latents.all("labels", &Device::Cpu)?.to_vec1::<i64>()?) != theirs {
        bail!("latents and {name} are of images with other labels, or in another order");
    }
    Ok(())
}

/// The [`labels_digest`] that features keep. Those that were not made here may not say.
pub fn stated_labels(features: &Packed) -> Option<&str> {
    features.meta().get("labels")?.as_str()
}
