//! Opens the feature network in a folder.

use super::FeatureNetwork;
use super::mode::Mode;
use crate::models::classifier::Classifier;
use crate::models::encoder::Embedder;
use crate::models::inception::Inception;
use candle_core::{Device, Result, bail};
use std::path::Path;

/// The values of `arch` in `config.json`.
pub(crate) const KNOWN: [&str; 2] = [Classifier::ARCH, Inception::ARCH];

/// A feature network of a kind that is known.
pub enum Opened {
    Inception(Box<Inception>),
    Classifier(Box<Classifier>),
    Embedder(Box<Embedder>),
}

impl Opened {
    /// Of whatever kind.
    pub fn network(self) -> Box<dyn FeatureNetwork> {
        match self {
            Self::Inception(network) => network,
            Self::Classifier(network) => network,
            Self::Embedder(network) => network,
        }
    }
}

/// [`open_kind`] for those who do not ask for the kind.
pub fn open_feature_network(dir: &Path, mode: Option<Mode>, device: &Device) -> Result<Box<dyn FeatureNetwork>> {
    open_kind(dir, mode, device).map(Opened::network)
}

/// Opens the network in `dir` by the `arch` in its `config.json`; a configuration without `arch` is
/// an encoder's. `mode` overrides how images are prepared; only Inception has several modes.
pub fn open_kind(dir: &Path, mode: Option<Mode>, device: &Device) -> Result<Opened> {
    let path = dir.join("config.json");
    let text = erw_base::text::read(&path)
        .map_err(|e| candle_core::Error::Msg(format!("cannot read {}: {e}", path.display())))?;
    let config: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| candle_core::Error::Msg(format!("{} is not JSON: {e}", path.display())))?;
    match config.get("arch").and_then(serde_json::Value::as_str) {
        Some(Inception::ARCH) => Ok(Opened::Inception(Box::new(Inception::load(dir, mode, device)?))),
        Some(Classifier::ARCH) if mode.is_some() => {
            bail!("{} is a classifier, which takes images at their own size; only Inception has modes", dir.display())
        }
        Some(Classifier::ARCH) => Ok(Opened::Classifier(Box::new(Classifier::load(dir, device)?))),
        None if config.get("vit").is_some() && mode.is_some() => {
            bail!("{} is an encoder, which prepares images in one way; only Inception has modes", dir.display())
        }
        // Encoder configurations are older than `arch`: they have `vit` instead.
        None if config.get("vit").is_some() => Ok(Opened::Embedder(Box::new(Embedder::open(dir, device)?))),
        Some(other) => bail!("{}: unknown arch `{other}`; known: {}", path.display(), KNOWN.join(", ")),
        None => bail!("{} has no `arch`; known: {}", path.display(), KNOWN.join(", ")),
    }
}
