//! The trait of networks that turn images into feature vectors for Fréchet distances and similar
//! metrics.

pub mod mode;
pub mod open;

use candle_core::{DType, Result, Tensor};
use mode::Mode;

/// A frozen network from images to vectors.
pub trait FeatureNetwork {
    /// The name shown beside a value measured with it.
    fn name(&self) -> &str;
    /// How it prepares pixels, as text. Distances are comparable only if this is equal.
    fn preparation(&self) -> &str;
    /// The tool whose results it reproduces; `None` for a network that no tool has.
    fn mode(&self) -> Option<Mode> {
        None
    }
    /// Height and width of its training images, if it takes images at their own size. Its features
    /// of images of other sizes say little.
    fn size(&self) -> Option<(usize, usize)> {
        None
    }
    /// Length of a feature vector.
    fn dim(&self) -> usize;
    /// u8 images `[n, 3, H, W]` to all outputs of the network.
    fn outputs(&self, images_u8: &Tensor) -> Result<Outputs>;
    /// u8 images `[n, 3, H, W]` to f32 `[n, dim]`.
    fn features(&self, images_u8: &Tensor) -> Result<Tensor> {
        Ok(self.outputs(images_u8)?.pool)
    }
}

/// The outputs that metrics use, all f32.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// Pooled features `[n, dim]`.
    pub pool: Tensor,
    /// Features with spatial layout, flattened to `[n, d]` in the order height, width, channel;
    /// sFID uses Inception's.
    pub spatial: Option<Tensor>,
    /// Logits `[n, classes]`; Inception's without the bias, as the Inception Score of the ADM suite
    /// uses them.
    pub logits: Option<Tensor>,
}

/// u8 images to f32 in [-1, 1]: 0 becomes -1 and 255 becomes 1.
pub fn pixels_to_unit(images_u8: &Tensor) -> Result<Tensor> {
    images_u8.to_dtype(DType::F32)?.affine(1.0 / 127.5, -1.0)
}
