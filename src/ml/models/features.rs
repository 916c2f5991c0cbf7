//! Networks that turn images into feature vectors, for Fréchet distances and the like, behind one trait.

use super::classifier::Classifier;
use super::encoder::Embedder;
use super::inception::Inception;
use super::mode::Mode;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::path::Path;

/// A frozen network of images to vectors.
pub trait FeatureNetwork {
    /// As shown beside a number that was measured with it.
    fn name(&self) -> &str;
    /// What it does to pixels first, in words: distances compare only where this is the same.
    fn preparation(&self) -> &str;
    /// The tool that it agrees with; `None` of a network that no tool has.
    fn mode(&self) -> Option<Mode> {
        None
    }
    /// Height and width of the images that it was trained on, where it takes images at their own size: it looks at others
    /// too, and tells little of them.
    fn size(&self) -> Option<(usize, usize)> {
        None
    }
    /// Length of a feature vector.
    fn dim(&self) -> usize;
    /// u8 images `[n, 3, H, W]` to all that the network has to say about them.
    fn outputs(&self, images_u8: &Tensor) -> Result<Outputs>;
    /// u8 images `[n, 3, H, W]` to f32 `[n, dim]`.
    fn features(&self, images_u8: &Tensor) -> Result<Tensor> {
        Ok(self.outputs(images_u8)?.pool)
    }
}

/// What metrics take from a network, all f32.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// Pooled features `[n, dim]`.
    pub pool: Tensor,
    /// Features that still know where things are `[n, d]`, in the order height, width, channel; sFID takes Inception's.
    pub spatial: Option<Tensor>,
    /// Class scores `[n, classes]`; Inception's without the bias, as the Inception Score of the ADM suite takes them.
    pub logits: Option<Tensor>,
}

/// What `arch` in `config.json` may say.
const KNOWN: [&str; 2] = [Classifier::ARCH, Inception::ARCH];

/// Opens the network in `dir` by what its `config.json` calls `arch`; one without is an encoder's. `mode` says how images
/// are prepared, in place of the network's own way; only Inception has several.
pub fn open_feature_network(dir: &Path, mode: Option<Mode>, device: &Device) -> Result<Box<dyn FeatureNetwork>> {
    let path = dir.join("config.json");
    let text = crate::text::read(&path)
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

/// u8 images to f32 in [-1, 1]: x / 127.5 - 1.
pub fn pixels_to_unit(images_u8: &Tensor) -> Result<Tensor> {
    images_u8.to_dtype(DType::F32)?.affine(1.0 / 127.5, -1.0)
}
