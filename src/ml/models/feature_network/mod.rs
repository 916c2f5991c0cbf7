//! Networks that turn images into feature vectors, for Fréchet distances and the like, behind one trait.

pub mod mode;
pub mod open;

use candle_core::{DType, Result, Tensor};
use mode::Mode;

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

/// u8 images to f32 in [-1, 1]: x / 127.5 - 1.
pub fn pixels_to_unit(images_u8: &Tensor) -> Result<Tensor> {
    images_u8.to_dtype(DType::F32)?.affine(1.0 / 127.5, -1.0)
}
