//! Forward convolution with a 3x3 kernel and stride 1 by Winograd's minimal filtering F(4x4, 3x3)
//! (Lavin and Gray, 2016): 36 products for 16 output pixels, instead of 144.
//!
//! A 6x6 square of input and the kernel are each transformed to 36 values, those of polynomials at
//! the points 0, ±1/sqrt 2, ±sqrt 2 and infinity (in two dimensions). Channels are summed there by
//! 36 matrix products, and the result is transformed back to a 4x4 square of output. With these
//! points the largest error is a third of that with the usual 0, ±1, ±2: at 256 channels 2e-6 of
//! the largest output, while direct convolution is off by 4e-7.
//!
//! It pays for wide layers on large images. [`suits`] decides by the sizes of one image only, so
//! that an image has the same bits in any batch. Work is split into blocks of tiles, which bounds
//! memory; each product runs on one thread.

use super::finish::Finish;
use super::geometry::Geometry;
use crate::kernels::matmul::{Mat, Threads, matmul};
use crate::kernels::simd::simd;
use rayon::prelude::*;

/// Output pixels per side of a tile.
const TILE: usize = 4;
/// Input pixels per side of a tile.
const REACH: usize = TILE + 2;
/// Products per tile.
const POINTS: usize = REACH * REACH;
/// Tiles in a block: with fewer, the transformed kernel is read too often; more do not stay in
/// cache.
const BLOCK: usize = 256;
/// Unused values between the channels of a block. Without them all channels would compete for the
/// same few cache lines.
const GAP: usize = 16;

/// In narrower layers the transforms dominate; on smaller images the transform of the kernel does.
const MIN_CHANNELS: usize = 64;
const MIN_TILES: usize = 64;
/// gemm splits longer sums, at a length that depends on the number of columns.
const MAX_CHANNELS: usize = 512;

/// The positive finite points, and their squares.
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;
const A2: f32 = 0.5;
const B2: f32 = 2.0;

/// Whether this algorithm is the faster one.
pub fn suits(g: &Geometry) -> bool {
    let wide = g.co >= MIN_CHANNELS && (MIN_CHANNELS..=MAX_CHANNELS).contains(&g.ci);
    (g.kh, g.kw) == (3, 3) && g.stride == (1, 1) && wide && g.oh.div_ceil(TILE) * g.ow.div_ceil(TILE) >= MIN_TILES
}

/// Output `[n, co, oh, ow]` of `x` and `weight`.
pub fn forward(g: &Geometry, x: &[f32], weight: &[f32], finish: Finish) -> Vec<f32> {
    if g.n == 0 {
        return vec![];
    }
    let (down, across) = (g.oh.div_ceil(TILE), g.ow.div_ceil(TILE));
    let rows = BLOCK.div_ceil(across).min(g.n * down);
    let kernel = transform_kernel(g, weight);
    let mut inputs = vec![0f32; g.ci * (POINTS * rows * across + GAP)];
    let mut sums = vec![0f32; POINTS * g.co * rows * across];
    let mut out = vec![0f32; g.n * g.co * g.out_plane()];
    for (block, runs) in split_output(g, &mut out, rows).into_iter().enumerate() {
        // Rows of tiles, numbered through all images.
        let rows = block * rows..((block + 1) * rows).min(g.n * down);
        let width = rows.len() * across;
        let pitch = POINTS * width + GAP;
        let inputs = &mut inputs[..g.ci * pitch];
        inputs.par_chunks_exact_mut(pitch).enumerate().for_each_init(
            || Lines::new(across),
            |lines, (c, transformed)| {
                for (row, at) in rows.clone().zip((0..width).step_by(across)) {
                    lines.gather(g, &x[(row / down * g.ci + c) * g.in_plane()..][..g.in_plane()], row % down);
                    lines.transform_input(transformed, width, at);
                }
            },
        );
        let sums = &mut sums[..POINTS * g.co * width];
        sums.par_chunks_exact_mut(g.co * width).enumerate().for_each(|(point, sums)| {
            let kernel = Mat::with_stride(&kernel[point * g.ci..], g.co, g.ci, POINTS * g.ci);
            let inputs = Mat::with_stride(&inputs[point * width..], g.ci, width, pitch);
            matmul(sums, false, 1.0, kernel, inputs, Threads::One);
        });
        let sums = &*sums;
        runs.into_par_iter().enumerate().for_each_init(
            || Lines::new(across),
            |lines, (c, runs)| {
                let rows = runs.into_iter().flat_map(|run| run.chunks_mut(TILE * g.ow));
                for (pixels, at) in rows.zip((0..width).step_by(across)) {
                    lines.transform_output(|point| &sums[(point * g.co + c) * width + at..][..across]);
                    for (line, target) in lines.flat.chunks_exact(TILE * across).zip(pixels.chunks_exact_mut(g.ow)) {
                        finish.copy(c, &line[..g.ow], target);
                    }
                }
            },
        );
    }
    out
}

/// The parts of the output that each block writes: per channel, a run of pixel rows for each of its
/// images.
fn split_output<'a>(g: &Geometry, out: &'a mut [f32], rows: usize) -> Vec<Vec<Vec<&'a mut [f32]>>> {
    let down = g.oh.div_ceil(TILE);
    let channels = || (0..g.co).map(|_| vec![]).collect();
    let mut blocks: Vec<Vec<Vec<&mut [f32]>>> = (0..(g.n * down).div_ceil(rows)).map(|_| channels()).collect();
    for (plane, mut pixels) in out.chunks_exact_mut(g.out_plane()).enumerate() {
        let (mut row, end) = (plane / g.co * down, (plane / g.co + 1) * down);
        while row < end {
            let next = ((row / rows + 1) * rows).min(end);
            let (run, rest) = pixels.split_at_mut(((next - row) * TILE * g.ow).min(pixels.len()));
            blocks[row / rows][plane % g.co].push(run);
            (pixels, row) = (rest, next);
        }
    }
    blocks
}

/// Transforms the weight `[co, ci, 3, 3]` to `[co, 36, ci]`.
fn transform_kernel(g: &Geometry, weight: &[f32]) -> Vec<f32> {
    let mut transformed = vec![0f32; g.co * POINTS * g.ci];
    transformed.par_chunks_exact_mut(POINTS * g.ci).zip(weight.par_chunks_exact(9 * g.ci)).for_each_init(
        || (vec![0f32; 9 * g.ci], vec![0f32; 3 * REACH * g.ci]),
        |(taps, half), (transformed, weight)| {
            for (tap, line) in taps.chunks_exact_mut(g.ci).enumerate() {
                line.iter_mut().zip(weight[tap..].iter().step_by(9)).for_each(|(t, w)| *t = *w);
            }
            // Rows of the kernel, then columns: `half` is [column, point, ci].
            for (j, half) in half.chunks_exact_mut(REACH * g.ci).enumerate() {
                let [top, middle, bottom] = [0, 3, 6].map(|i| &taps[(i + j) * g.ci..][..g.ci]);
                kernel_points(top, middle, bottom, half);
            }
            for (i, transformed) in transformed.chunks_exact_mut(REACH * g.ci).enumerate() {
                let [left, middle, right] = [0, 1, 2].map(|j| &half[(j * REACH + i) * g.ci..][..g.ci]);
                kernel_points(left, middle, right, transformed);
            }
        },
    );
    transformed
}

simd! {
    /// Values of g0 + g1 p + g2 p^2 at the six points, divided by the product of distances to the
    /// other points; six lines.
    fn kernel_points(g0: &[f32], g1: &[f32], g2: &[f32], out: &mut [f32]) {
        let [p0, p1, p2, p3, p4, p5] = six(out, g0.len());
        let (g1, g2) = (&g1[..g0.len()], &g2[..g0.len()]);
        for t in 0..g0.len() {
            let (even_a, odd_a) = ((g0[t] + A2 * g2[t]) * (-2.0 / 3.0), g1[t] * (A * -2.0 / 3.0));
            let (even_b, odd_b) = ((g0[t] + B2 * g2[t]) * (1.0 / 6.0), g1[t] * (B / 6.0));
            p0[t] = g0[t];
            p1[t] = even_a + odd_a;
            p2[t] = even_a - odd_a;
            p3[t] = even_b + odd_b;
            p4[t] = even_b - odd_b;
            p5[t] = g2[t];
        }
    }
}

simd! {
    /// Transforms six values to six, at each position of the lines.
    fn input_points(d: [&[f32]; REACH], out: &mut [f32], pitch: usize, len: usize) {
        let [p0, p1, p2, p3, p4, p5] = spread(out, pitch, len);
        let [d0, d1, d2, d3, d4, d5] = d.map(|d| &d[..len]);
        for t in 0..len {
            let (even_a, odd_a) = (d4[t] - B2 * d2[t], A * (d3[t] - B2 * d1[t]));
            let (even_b, odd_b) = (d4[t] - A2 * d2[t], B * (d3[t] - A2 * d1[t]));
            p0[t] = d0[t] - (A2 + B2) * d2[t] + d4[t];
            p1[t] = even_a + odd_a;
            p2[t] = even_a - odd_a;
            p3[t] = even_b + odd_b;
            p4[t] = even_b - odd_b;
            p5[t] = d1[t] - (A2 + B2) * d3[t] + d5[t];
        }
    }
}

simd! {
    /// Transforms six values to four.
    fn output_points(m: [&[f32]; REACH], out: [&mut [f32]; TILE], len: usize) {
        let [m0, m1, m2, m3, m4, m5] = m.map(|m| &m[..len]);
        let [y0, y1, y2, y3] = out.map(|y| &mut y[..len]);
        for t in 0..len {
            let (even_a, odd_a) = (m1[t] + m2[t], m1[t] - m2[t]);
            let (even_b, odd_b) = (m3[t] + m4[t], m3[t] - m4[t]);
            y0[t] = m0[t] + even_a + even_b;
            y1[t] = A * odd_a + B * odd_b;
            y2[t] = A2 * even_a + B2 * even_b;
            y3[t] = (A * A2) * odd_a + (B * B2) * odd_b + m5[t];
        }
    }
}

simd! {
    /// Distributes every fourth value to a line of its own.
    fn deinterleave(line: &[f32], phases: [&mut [f32]; TILE]) {
        let [p0, p1, p2, p3] = phases;
        for ((((quad, p0), p1), p2), p3) in line.as_chunks::<TILE>().0.iter().zip(p0).zip(p1).zip(p2).zip(p3) {
            [*p0, *p1, *p2, *p3] = *quad;
        }
    }
}

simd! {
    /// The inverse of [`deinterleave`].
    fn interleave(phases: [&[f32]; TILE], line: &mut [f32]) {
        let [p0, p1, p2, p3] = phases;
        for ((((quad, p0), p1), p2), p3) in line.as_chunks_mut::<TILE>().0.iter_mut().zip(p0).zip(p1).zip(p2).zip(p3) {
            *quad = [*p0, *p1, *p2, *p3];
        }
    }
}

#[inline(always)]
fn six(lines: &mut [f32], len: usize) -> [&mut [f32]; REACH] {
    spread(lines, len, len)
}

/// The first `len` values of each of `N` lines that begin `pitch` apart.
#[inline(always)]
fn spread<const N: usize>(mut lines: &mut [f32], pitch: usize, len: usize) -> [&mut [f32]; N] {
    std::array::from_fn(|i| {
        let end = if i + 1 < N { pitch } else { len };
        let (line, rest) = std::mem::take(&mut lines).split_at_mut(end);
        lines = rest;
        &mut line[..len]
    })
}

/// The working memory of a task: a row of tiles of one channel.
struct Lines {
    across: usize,
    /// Six or four lines of pixels.
    flat: Vec<f32>,
    /// Six lines, transformed vertically.
    transformed: Vec<f32>,
    /// One line per position in a tile.
    phases: Vec<f32>,
}

impl Lines {
    fn new(across: usize) -> Self {
        let len = TILE * (across + 1);
        let lines = || vec![0f32; REACH * len];
        Self { across, flat: lines(), transformed: lines(), phases: lines() }
    }

    /// Pixels of a line of input for a row of tiles, rounded up to a whole tile.
    fn len(&self) -> usize {
        TILE * (self.across + 1)
    }

    /// Copies the six lines of input for tile row `row`, with zeros around the image.
    fn gather(&mut self, g: &Geometry, image: &[f32], row: usize) {
        let len = self.len();
        for (i, line) in self.flat.chunks_exact_mut(len).enumerate() {
            let Some(y) = (row * TILE + i).checked_sub(g.padding.top).filter(|y| *y < g.h) else {
                line.fill(0.0);
                continue;
            };
            let left = g.padding.left.min(len);
            let count = g.w.min(len - left);
            line[..left].fill(0.0);
            line[left..left + count].copy_from_slice(&image[y * g.w..][..count]);
            line[left + count..].fill(0.0);
        }
    }

    /// Writes the 36 values of each tile to `out[point * width + at..]`.
    fn transform_input(&mut self, out: &mut [f32], width: usize, at: usize) {
        let (len, across) = (self.len(), self.across);
        let lines = std::array::from_fn(|i| &self.flat[i * len..][..len]);
        input_points(lines, &mut self.transformed, len, len);
        for (i, line) in self.transformed.chunks_exact(len).enumerate() {
            deinterleave(line, spread(&mut self.phases, across + 1, across + 1));
            // Positions 4 and 5 of a tile are 0 and 1 of the next.
            let phase = |k: usize| &self.phases[k % TILE * (across + 1) + k / TILE..][..across];
            let out = &mut out[i * REACH * width + at..];
            input_points(std::array::from_fn(phase), out, width, across);
        }
    }

    /// Computes four lines of output in `flat` from the sums of each point.
    fn transform_output<'a>(&mut self, sums: impl Fn(usize) -> &'a [f32]) {
        let across = self.across;
        for (i, transformed) in self.transformed.chunks_exact_mut(TILE * across).take(REACH).enumerate() {
            output_points(std::array::from_fn(|j| sums(i * REACH + j)), spread(transformed, across, across), across);
        }
        // `transformed` is [6, 4 positions across, tiles]. Now vertically, to
        // [4, 4 positions across, tiles].
        let line = TILE * across;
        let lines = std::array::from_fn(|i| &self.transformed[i * line..][..line]);
        output_points(lines, spread(&mut self.phases, line, line), line);
        for (phases, flat) in self.phases.chunks_exact(line).zip(self.flat.chunks_exact_mut(line)).take(TILE) {
            interleave(std::array::from_fn(|k| &phases[k * across..][..across]), flat);
        }
    }
}
