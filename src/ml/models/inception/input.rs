//! How images come to 299 x 299 pixels and to numbers about zero. Tools differ, and FID with them.

use candle_core::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};

/// Side of the images that the network takes.
pub const SIDE: usize = 299;

/// A tool's convention. Both interpolate linearly between the two nearest pixels without antialiasing and keep fractions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Input {
    /// TensorFlow 1 without corner alignment: output pixel i looks at `i * from / 299`, which shifts the image by up to half a
    /// pixel; then (x - 128) / 128. This is inside the graph of the ADM evaluation suite, whose numbers papers on ImageNet
    /// report, and in torch-fidelity; hence the default.
    #[default]
    Tf1,
    /// pytorch-fid, and the script in ERW's release: pixel centres at halves, then 2 x / 255 - 1.
    Pytorch,
}

impl Input {
    /// For people who compare numbers.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Tf1 => "tf1: bilinear to 299 as TensorFlow 1, (x - 128) / 128 (ADM suite, torch-fidelity)",
            Self::Pytorch => "pytorch: bilinear to 299 between pixel centres, 2 x / 255 - 1 (pytorch-fid)",
        }
    }

    /// u8 images `[n, 3, H, W]` to f32 `[n, 3, 299, 299]`.
    pub fn prepare(self, images: &Tensor) -> Result<Tensor> {
        let x = images.to_dtype(DType::F32)?;
        let x = self.resize(&self.resize(&x, 3)?, 2)?;
        match self {
            Self::Tf1 => x.affine(1.0 / 128.0, -1.0),
            Self::Pytorch => x.affine(2.0 / 255.0, -1.0),
        }
    }

    /// Along one axis. Positions are computed in f32, as both tools do.
    fn resize(self, x: &Tensor, axis: usize) -> Result<Tensor> {
        let from = x.dim(axis)?;
        let scale = from as f32 / SIDE as f32;
        let place = |i: usize| {
            let at = match self {
                Self::Tf1 => i as f32 * scale,
                Self::Pytorch => ((i as f32 + 0.5) * scale - 0.5).max(0.0),
            };
            let low = (at as usize).min(from.saturating_sub(1));
            (low as u32, (low + 1).min(from.saturating_sub(1)) as u32, at - low as f32)
        };
        let places: Vec<(u32, u32, f32)> = (0..SIDE).map(place).collect();
        let pick = |index: Vec<u32>| x.index_select(&Tensor::from_vec(index, SIDE, x.device())?, axis);
        let low = pick(places.iter().map(|p| p.0).collect())?;
        let high = pick(places.iter().map(|p| p.1).collect())?;
        let share = Tensor::from_vec(places.iter().map(|p| p.2).collect::<Vec<_>>(), SIDE, x.device())?;
        let mut dims = vec![1; x.rank()];
        dims[axis] = SIDE;
        &low + (high - &low)?.broadcast_mul(&share.reshape(dims)?)?
    }
}
