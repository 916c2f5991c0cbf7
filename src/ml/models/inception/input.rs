//! Preparation of images: resizing to 299 x 299 pixels and normalisation. Tools differ here, and so
//! does their FID.

use crate::data::resize::{Filter, resize_planes};
use crate::models::feature_network::mode::Mode;
use candle_core::{DType, Result, Tensor, bail};

/// Side of the network's input in pixels.
pub const SIDE: usize = 299;

/// Describes the preparation, for comparing values. Part of result files: do not change.
pub fn describe(mode: Mode) -> &'static str {
    match mode {
        Mode::Adm => "adm: bilinear to 299 as TensorFlow 1, (x - 128) / 128",
        Mode::PytorchFid => "pytorch-fid: bilinear to 299 between pixel centres, 2 x / 255 - 1",
        Mode::CleanFid => "clean-fid: antialiased bicubic to 299 as Pillow on floats, (x - 128) / 128",
        Mode::TorchFidelity => "torch-fidelity: bilinear to 299 as TensorFlow 1, (x - 128) / 128",
    }
}

/// u8 images `[n, 3, H, W]` to f32 `[n, 3, 299, 299]`.
pub fn prepare(mode: Mode, images: &Tensor) -> Result<Tensor> {
    match *images.dims() {
        [_, 3, h, w] if h > 0 && w > 0 && images.dtype() == DType::U8 => {}
        _ => bail!("Inception needs u8 images [n, 3, H, W], got {:?} {:?}", images.dtype(), images.dims()),
    }
    let x = images.to_dtype(DType::F32)?;
    match mode {
        Mode::Adm | Mode::TorchFidelity => bilinear(&x, corner)?.affine(1.0 / 128.0, -1.0),
        Mode::PytorchFid => bilinear(&x, centre)?.affine(2.0 / 255.0, -1.0),
        Mode::CleanFid => resize_planes(&x, SIDE, SIDE, Filter::Bicubic)?.affine(1.0 / 128.0, -1.0),
    }
}

/// The source position of an output pixel, given source pixels per output pixel; in f32, as in both
/// tools.
type PixelOrigin = fn(usize, f32) -> f32;

/// TensorFlow 1 without corner alignment, which shifts the image by up to half a pixel. It is part
/// of the graph of the ADM suite.
fn corner(i: usize, scale: f32) -> f32 {
    i as f32 * scale
}

/// Pixel centres at halves.
fn centre(i: usize, scale: f32) -> f32 {
    ((i as f32 + 0.5) * scale - 0.5).max(0.0)
}

/// Linear interpolation between the two nearest pixels, without antialiasing or rounding.
fn bilinear(x: &Tensor, place: PixelOrigin) -> Result<Tensor> {
    along(&along(x, 3, place)?, 2, place)
}

fn along(x: &Tensor, axis: usize, place: PixelOrigin) -> Result<Tensor> {
    let from = x.dim(axis)?;
    let scale = from as f32 / SIDE as f32;
    let place = |i: usize| {
        let at = place(i, scale);
        let low = (at as usize).min(from - 1);
        (low as u32, (low + 1).min(from - 1) as u32, at - low as f32)
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
