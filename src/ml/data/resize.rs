//! Resizes 8-bit RGB exactly as Pillow does, to the byte.
//!
//! Published results depend on the pixels: ADM, EDM2 and REPA prepare ImageNet with Pillow's
//! antialiased filters. Pillow (libImaging/Resample.c) filters rows, rounds to 8 bits, then filters
//! columns, with weights in 22-bit fixed point. Since version 13 it filters columns first where the
//! height shrinks much more than the width; published data was made with rows first. A float resize
//! differs in about one pixel of twenty. Evaluation tools pass Pillow each channel as floats, which
//! takes another code path without rounding: [`resize_planes`].

use super::rgb::Rgb;
use candle_core::{Result, Tensor};
use rayon::prelude::*;

/// Fraction bits of a weight: 32, minus 8 for the pixel and 2 for filters that overshoot.
const BITS: u32 = 22;

/// A resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Mean.
    Box,
    /// Cubic with a = -0.5 (torch's non-antialiased bicubic has -0.75).
    Bicubic,
}

impl Filter {
    /// Half width, in source pixels at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        match self {
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bicubic => {
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
        }
    }
}

/// Weights of one output position, for consecutive source positions from the first.
struct Tap<T> {
    start: usize,
    weights: Vec<T>,
}

fn taps(from: usize, to: usize, filter: Filter) -> Vec<Tap<f64>> {
    let scale = from as f64 / to as f64;
    // When shrinking, the filter is stretched over the source pixels; this is the antialiasing.
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let tap = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let start = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let raw: Vec<f64> = (start..end).map(|x| filter.weight((x as f64 - centre + 0.5) * (1.0 / stretch))).collect();
        let total: f64 = raw.iter().sum();
        let part = |w: f64| if total == 0.0 { w } else { w / total };
        Tap { start, weights: raw.into_iter().map(part).collect() }
    };
    (0..to).map(tap).collect()
}

fn fixed_taps(from: usize, to: usize, filter: Filter) -> Vec<Tap<i32>> {
    let fixed = |w: &f64| {
        let w = w * f64::from(1 << BITS);
        // Round half away from zero, as a C cast after adding a signed half does.
        (w + 0.5f64.copysign(w)) as i32
    };
    let tap = |tap: Tap<f64>| Tap { start: tap.start, weights: tap.weights.iter().map(fixed).collect() };
    taps(from, to, filter).into_iter().map(tap).collect()
}

/// Resizes to `height` x `width`, both positive.
pub fn resize(image: &Rgb, height: usize, width: usize, filter: Filter) -> Rgb {
    let wide = if width == image.width { image.clone() } else { resize_rows(image, width, filter) };
    if height == image.height { wide } else { resize_columns(&wide, height, filter) }
}

/// Rounds a fixed-point sum that started at one half.
fn to_byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn resize_rows(image: &Rgb, width: usize, filter: Filter) -> Rgb {
    let taps = fixed_taps(image.width, width, filter);
    let mut data = Vec::with_capacity(image.height * width * 3);
    for row in image.data.chunks_exact(image.width * 3) {
        for tap in &taps {
            let mut sum = [1i32 << (BITS - 1); 3];
            for (pixel, w) in row[tap.start * 3..].chunks_exact(3).zip(&tap.weights) {
                for c in 0..3 {
                    sum[c] += i32::from(pixel[c]) * w;
                }
            }
            data.extend(sum.map(to_byte));
        }
    }
    Rgb { height: image.height, width, data }
}

fn resize_columns(image: &Rgb, height: usize, filter: Filter) -> Rgb {
    let line = image.width * 3;
    let mut data = Vec::with_capacity(height * line);
    let mut sums = vec![0i32; line];
    for tap in fixed_taps(image.height, height, filter) {
        sums.fill(1 << (BITS - 1));
        for (row, w) in image.data[tap.start * line..].chunks_exact(line).zip(&tap.weights) {
            sums.iter_mut().zip(row).for_each(|(s, p)| *s += i32::from(*p) * w);
        }
        data.extend(sums.iter().map(|s| to_byte(*s)));
    }
    Rgb { height, width: image.width, data }
}

/// Resizes f32 images `[n, c, H, W]` with values in [0, 255] to `[n, c, height, width]` like
/// Pillow's mode `F`: weights and sums in f64, rounded to f32 after rows and after columns.
/// Overshoot is clipped, as in clean-fid and dgm-eval.
pub fn resize_planes(images: &Tensor, height: usize, width: usize, filter: Filter) -> Result<Tensor> {
    let (n, c, from_height, from_width) = images.dims4()?;
    let data = images.flatten_all()?.to_vec1::<f32>()?;
    let (across, down) = (taps(from_width, width, filter), taps(from_height, height, filter));
    let mut out = vec![0f32; n * c * height * width];
    let plane = |(to, from): (&mut [f32], &[f32])| {
        let wide = float_rows(from, from_width, (width != from_width).then_some(&across));
        float_columns(&wide, width, (height != from_height).then_some(&down), to);
        to.iter_mut().for_each(|x| *x = x.clamp(0.0, 255.0));
    };
    let planes = data.par_chunks_exact((from_height * from_width).max(1));
    out.par_chunks_exact_mut((height * width).max(1)).zip(planes).for_each(plane);
    Tensor::from_vec(out, (n, c, height, width), images.device())
}

fn float_rows<'a>(plane: &'a [f32], width: usize, taps: Option<&Vec<Tap<f64>>>) -> std::borrow::Cow<'a, [f32]> {
    let Some(taps) = taps else { return plane.into() };
    let mut out = Vec::with_capacity(plane.len() / width * taps.len());
    for row in plane.chunks_exact(width) {
        out.extend(taps.iter().map(|tap| {
            let terms = row[tap.start..].iter().zip(&tap.weights);
            terms.fold(0.0, |sum, (x, w)| sum + f64::from(*x) * w) as f32
        }));
    }
    out.into()
}

fn float_columns(plane: &[f32], width: usize, taps: Option<&Vec<Tap<f64>>>, out: &mut [f32]) {
    let Some(taps) = taps else { return out.copy_from_slice(plane) };
    let mut sums = vec![0f64; width];
    for (tap, to) in taps.iter().zip(out.chunks_exact_mut(width)) {
        sums.fill(0.0);
        for (row, w) in plane[tap.start * width..].chunks_exact(width).zip(&tap.weights) {
            sums.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x) * w);
        }
        to.iter_mut().zip(&sums).for_each(|(t, s)| *t = *s as f32);
    }
}

/// The centre crop of ADM (Dhariwal and Nichol 2021): halve with a box filter while the shorter
/// side is at least twice `size`, scale the shorter side to `size` with bicubic, crop the centre.
pub fn center_crop(image: &Rgb, size: usize) -> Rgb {
    let mut image = std::borrow::Cow::Borrowed(image);
    while image.height.min(image.width) >= 2 * size {
        image = std::borrow::Cow::Owned(resize(&image, image.height / 2, image.width / 2, Filter::Box));
    }
    let scale = size as f64 / image.height.min(image.width) as f64;
    // Python rounds halves to even.
    let scaled = |side: usize| (side as f64 * scale).round_ties_even() as usize;
    let image = resize(&image, scaled(image.height), scaled(image.width), Filter::Bicubic);
    middle(&image, size)
}

/// The largest centred square.
pub fn center_square(image: &Rgb) -> Rgb {
    middle(image, image.height.min(image.width))
}

/// The centred square of side `size`, which must fit.
fn middle(image: &Rgb, size: usize) -> Rgb {
    let (top, left) = ((image.height - size) / 2, (image.width - size) / 2);
    let mut data = Vec::with_capacity(size * size * 3);
    for y in top..top + size {
        let at = (y * image.width + left) * 3;
        data.extend_from_slice(&image.data[at..at + size * 3]);
    }
    Rgb { height: size, width: size, data }
}
