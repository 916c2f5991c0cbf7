//! Which feature network a folder of weights is.

use super::FeatureNetwork;
use super::mode::Mode;
use crate::models::classifier::Classifier;
use crate::models::encoder::Embedder;
use crate::models::inception::Inception;
use candle_core::{Device, Result, bail};
use std::path::Path;

/// What `arch` in `config.json` may say.
pub(crate) const KNOWN: [&str; 2] = [Classifier::ARCH, Inception::ARCH];

/// Opens the network in `dir` by what its `config.json` calls `arch`; one without is an encoder's. `mode` says how images
/// are prepared, in place of the network's own way; only Inception has several.
pub fn open_feature_network(dir: &Path, mode: Option<Mode>, device: &Device) -> Result<Box<dyn FeatureNetwork>> {
    let path = dir.join("config.json");
    let text = erw_base::text::read(&path)
        .map_err(|e| candle_core::Error::Msg(format!("cannot read {}: {e}", path.display())))?;
    let config: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| candle_core::Error::Msg(format!("{} is not JSON: {e}", path.display())))?;
    match config.get("arch").and_then(serde_json::Value::as_str) {
        Some(Inception::ARCH) => Ok(Box::new(Inception::load(dir, mode, device)?)),
        Some(Classifier::ARCH) if mode.is_some() => {
            bail!("{} is a classifier, which takes images at their own size; only Inception resizes", dir.display())
        }
        Some(Classifier::ARCH) => Ok(Box::new(Classifier::load(dir, device)?)),
        None if config.get("vit").is_some() && mode.is_some() => {
            bail!("{} is an encoder, which takes images in one way; only Inception has modes", dir.display())
        }
        // The oldest of the configurations: it says what the transformer is instead.
        None if config.get("vit").is_some() => Ok(Box::new(Embedder::open(dir, device)?)),
        Some(other) => bail!("{}: unknown arch `{other}`; known: {}", path.display(), KNOWN.join(", ")),
        None => bail!("{} does not say its `arch`; known: {}", path.display(), KNOWN.join(", ")),
    }
}
