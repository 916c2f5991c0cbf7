//! Sizes of a convolution, and the index arithmetic between input and output pixels.

use candle_core::{Result, bail};
use std::ops::Range;

/// Zeros around an image, per side (the VAE of Stable Diffusion pads only right and bottom when it
/// downsamples).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Padding {
    pub top: usize,
    pub bottom: usize,
    pub left: usize,
    pub right: usize,
}

impl Padding {
    /// No padding.
    pub const NONE: Self = Self { top: 0, bottom: 0, left: 0, right: 0 };

    /// The same on opposite sides.
    pub const fn symmetric(vertical: usize, horizontal: usize) -> Self {
        Self { top: vertical, bottom: vertical, left: horizontal, right: horizontal }
    }
}

/// The sizes of a convolution: input `[n, ci, h, w]`, weight `[co, ci, kh, kw]`, output
/// `[n, co, oh, ow]`.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    pub n: usize,
    pub ci: usize,
    pub h: usize,
    pub w: usize,
    pub co: usize,
    pub kh: usize,
    pub kw: usize,
    pub oh: usize,
    pub ow: usize,
    pub stride: (usize, usize),
    pub padding: Padding,
}

impl Geometry {
    pub fn new(x: &[usize], weight: &[usize], stride: (usize, usize), padding: Padding) -> Result<Self> {
        let (&[n, ci, h, w], &[co, wi, kh, kw]) = (x, weight) else {
            bail!("a convolution needs an input [n, c, h, w] and a weight [o, c, kh, kw], got {x:?} and {weight:?}")
        };
        if ci != wi {
            bail!("a convolution with weight {weight:?} needs {wi} input channels, got {x:?}");
        }
        let (ph, pw) = (h + padding.top + padding.bottom, w + padding.left + padding.right);
        if stride.0 == 0 || stride.1 == 0 || kh == 0 || kw == 0 || kh > ph || kw > pw {
            bail!("a {kh}x{kw} kernel with stride {stride:?} does not fit an input of {ph}x{pw} with its padding");
        }
        let (oh, ow) = ((ph - kh) / stride.0 + 1, (pw - kw) / stride.1 + 1);
        Ok(Self { n, ci, h, w, co, kh, kw, oh, ow, stride, padding })
    }

    /// Values from which one output pixel is computed.
    pub fn taps(&self) -> usize {
        self.ci * self.kh * self.kw
    }

    /// Pixels of one input channel.
    pub fn in_plane(&self) -> usize {
        self.h * self.w
    }

    /// Pixels of one output channel.
    pub fn out_plane(&self) -> usize {
        self.oh * self.ow
    }

    pub fn out_shape(&self) -> (usize, usize, usize, usize) {
        (self.n, self.co, self.oh, self.ow)
    }

    /// Whether it is a product over channels per pixel, so that the input itself is the panel.
    pub fn pointwise(&self) -> bool {
        self.kh == 1 && self.kw == 1 && self.stride == (1, 1) && self.padding == Padding::NONE
    }

    /// Input row for kernel row `i` and output row `row`; `None` in the padding.
    fn input_row(&self, row: usize, i: usize) -> Option<usize> {
        (row * self.stride.0 + i).checked_sub(self.padding.top).filter(|y| *y < self.h)
    }

    /// Output columns whose input column for kernel column `j` lies in the image, and the first
    /// such input column.
    fn columns(&self, j: usize) -> (Range<usize>, usize) {
        let lo = self.padding.left.saturating_sub(j).div_ceil(self.stride.1).min(self.ow);
        let hi = (self.w + self.padding.left).saturating_sub(j).div_ceil(self.stride.1).clamp(lo, self.ow);
        (lo..hi, (lo * self.stride.1 + j).saturating_sub(self.padding.left))
    }

    /// Every (channel, kernel row, kernel column) of some channels, in the order of the weight.
    fn each_tap(&self, channels: Range<usize>) -> impl Iterator<Item = (usize, usize, usize)> {
        let (kh, kw) = (self.kh, self.kw);
        channels.flat_map(move |c| (0..kh).flat_map(move |i| (0..kw).map(move |j| (c, i, j))))
    }

    /// Lays out the input of the output rows `rows` of one image as a panel: the line of tap (c, i,
    /// j) begins at `tap * stride` and holds the input value of that tap for every output pixel.
    pub fn im2col(&self, image: &[f32], rows: Range<usize>, panel: &mut [f32], stride: usize) {
        let width = rows.len() * self.ow;
        for ((c, i, j), line) in self.each_tap(0..self.ci).zip(panel.chunks_mut(stride)) {
            let (span, first) = self.columns(j);
            for (row, out) in rows.clone().zip(line[..width].chunks_exact_mut(self.ow)) {
                let Some(y) = self.input_row(row, i).filter(|_| !span.is_empty()) else {
                    out.fill(0.0);
                    continue;
                };
                let source = &image[(c * self.h + y) * self.w..][first..self.w];
                out[..span.start].fill(0.0);
                out[span.end..].fill(0.0);
                let out = &mut out[span.clone()];
                if self.stride.1 == 1 {
                    out.copy_from_slice(&source[..out.len()]);
                } else {
                    out.iter_mut().zip(source.iter().step_by(self.stride.1)).for_each(|(o, s)| *o = *s);
                }
            }
        }
    }

    /// The transpose of [`im2col`](Self::im2col) for some channels: adds a panel to `planes`, which
    /// holds only those channels.
    pub fn col2im(&self, panel: &[f32], channels: Range<usize>, rows: Range<usize>, planes: &mut [f32]) {
        let width = rows.len() * self.ow;
        let base = channels.start;
        for ((c, i, j), line) in self.each_tap(channels).zip(panel.chunks_exact(width)) {
            let (span, first) = self.columns(j);
            for (row, values) in rows.clone().zip(line.chunks_exact(self.ow)) {
                let Some(y) = self.input_row(row, i).filter(|_| !span.is_empty()) else { continue };
                let target = &mut planes[((c - base) * self.h + y) * self.w..][first..self.w];
                let values = &values[span.clone()];
                if self.stride.1 == 1 {
                    target.iter_mut().zip(values).for_each(|(t, v)| *t += *v);
                } else {
                    target.iter_mut().step_by(self.stride.1).zip(values).for_each(|(t, v)| *t += *v);
                }
            }
        }
    }
}
