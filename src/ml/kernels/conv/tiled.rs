//! Convolution on the CPU as matrix products over tiles of output pixels, forward and backward.
//!
//! A tile's panel (the input laid out per kernel tap) stays in cache between being written and
//! being multiplied, which makes a 3x3 convolution as fast as a matrix product of the same size.
//! Tiles depend only on the shapes, and sums over tiles run in a fixed order, so results have the
//! same bits for any number of threads.

use super::finish::Finish;
use super::geometry::Geometry;
use crate::kernels::matmul::{Mat, Threads, matmul};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Output pixels per tile: a 3x3 panel of 32 channels then fills half of a 512 KiB L2 cache.
const TILE: usize = 256;
/// Taps per panel of the input gradient.
const TAP_BLOCK: usize = 256;
/// Partial sums of the weight gradient. Fixed, because their number decides the rounding.
const PARTS: usize = 8;

thread_local! {
    /// Panel and product of the current tile. A tile never waits for another task, so the borrow is
    /// never shared.
    static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Runs `f` with two scratch buffers of at least these lengths and unspecified contents.
fn with_scratch<R>(a: usize, b: usize, f: impl FnOnce(&mut [f32], &mut [f32]) -> R) -> R {
    SCRATCH.with(|s| {
        let (x, y) = &mut *s.borrow_mut();
        x.resize(x.len().max(a), 0.0);
        y.resize(y.len().max(b), 0.0);
        f(&mut x[..a], &mut y[..b])
    })
}

/// Output rows of some images: part of one image, or several small whole images.
struct Tile {
    images: Range<usize>,
    rows: Range<usize>,
}

impl Tile {
    fn pixels(&self, g: &Geometry) -> usize {
        self.images.len() * self.rows.len() * g.ow
    }
}

/// Rows per tile and images per tile.
fn tile_size(g: &Geometry) -> (usize, usize) {
    // Rows of about equal number per tile: a last tile of one or two rows would read all weights
    // for little work.
    let rows = g.oh.div_ceil(((g.out_plane() + TILE / 2) / TILE).max(1));
    let images = if g.pointwise() || rows < g.oh { 1 } else { (TILE / g.out_plane()).max(1) };
    (rows, images)
}

/// Tiles in the order of images, then rows.
fn tiles(g: &Geometry, rows: usize, images: usize) -> Vec<Tile> {
    let starts = (0..g.n).step_by(images);
    let tile = |i: usize, r: usize| Tile { images: i..(i + images).min(g.n), rows: r..(r + rows).min(g.oh) };
    starts.flat_map(|i| (0..g.oh).step_by(rows).map(move |r| tile(i, r))).collect()
}

/// `out = a b`, or `out += a b`, on this thread; tiles run in parallel.
fn multiply(out: &mut [f32], add: bool, a: Mat, b: Mat) {
    matmul(out, add, 1.0, a, b, Threads::One);
}

/// Output `[n, co, oh, ow]` of `x` and `weight`.
pub fn forward(g: &Geometry, x: &[f32], weight: &[f32], finish: Finish) -> Vec<f32> {
    let mut out = vec![0f32; g.n * g.co * g.out_plane()];
    let (rows, images) = tile_size(g);
    let tiles = tiles(g, rows, images);
    let pieces = split_output(g, &mut out, rows, images, tiles.len());
    tiles.par_iter().zip(pieces).for_each(|(tile, piece)| forward_tile(g, x, weight, finish, tile, piece));
    out
}

/// The parts of the output that each tile writes: one run of pixels per image and channel.
fn split_output<'a>(
    g: &Geometry,
    out: &'a mut [f32],
    rows: usize,
    images: usize,
    count: usize,
) -> Vec<Vec<&'a mut [f32]>> {
    let mut pieces: Vec<Vec<&mut [f32]>> = (0..count).map(|_| Vec::with_capacity(images * g.co)).collect();
    let per_image = g.oh.div_ceil(rows);
    for (plane, pixels) in out.chunks_exact_mut(g.out_plane()).enumerate() {
        let first = plane / g.co / images * per_image;
        pixels.chunks_mut(rows * g.ow).enumerate().for_each(|(r, run)| pieces[first + r].push(run));
    }
    pieces
}

fn forward_tile(g: &Geometry, x: &[f32], weight: &[f32], finish: Finish, tile: &Tile, out: Vec<&mut [f32]>) {
    // The last panel of a batch may hold fewer images. Below 65 columns gemm sums in other blocks,
    // so the panel is widened with whatever the scratch buffer holds. An image then has the same
    // bits in any batch.
    let width = if g.pointwise() { tile.pixels(g) } else { tile.pixels(g).max(65) };
    let (taps, run) = (g.taps(), tile.rows.len() * g.ow);
    let panel_len = if g.pointwise() { 0 } else { taps * width };
    with_scratch(panel_len, g.co * width, |panel, product| {
        let weight = Mat::new(weight, g.co, taps);
        if g.pointwise() {
            multiply(product, false, weight, pointwise_panel(g, x, tile));
        } else {
            for (k, image) in tile.images.clone().enumerate() {
                g.im2col(image_of(g, x, image), tile.rows.clone(), &mut panel[k * run..], width);
            }
            multiply(product, false, weight, Mat::new(panel, taps, width));
        }
        for (piece, target) in out.into_iter().enumerate() {
            let (k, c) = (piece / g.co, piece % g.co);
            finish.copy(c, &product[c * width + k * run..][..run], target);
        }
    });
}

/// The input of a tile of one image for a 1x1 kernel, without a copy.
fn pointwise_panel<'a>(g: &Geometry, x: &'a [f32], tile: &Tile) -> Mat<'a> {
    let image = image_of(g, x, tile.images.start);
    Mat::with_stride(&image[tile.rows.start * g.ow..], g.ci, tile.rows.len() * g.ow, g.in_plane())
}

fn image_of<'a>(g: &Geometry, x: &'a [f32], image: usize) -> &'a [f32] {
    let len = g.ci * g.in_plane();
    &x[image * len..][..len]
}

/// The output gradient of some rows of one image, `[co, pixels]`.
fn grad_of<'a>(g: &Geometry, dy: &'a [f32], image: usize, rows: &Range<usize>) -> Mat<'a> {
    let plane = g.out_plane();
    Mat::with_stride(&dy[image * g.co * plane + rows.start * g.ow..], g.co, rows.len() * g.ow, plane)
}

/// Gradient of the input. Each task owns some channels of one image, so nothing is summed across
/// tasks.
pub fn grad_input(g: &Geometry, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let mut dx = vec![0f32; g.n * g.ci * g.in_plane()];
    let window = g.kh * g.kw;
    let block = (TAP_BLOCK / window).clamp(1, g.ci.max(1));
    let images = dx.chunks_exact_mut(g.ci * g.in_plane()).enumerate();
    let tasks: Vec<_> = images
        .flat_map(|(image, planes)| {
            planes.chunks_mut(block * g.in_plane()).enumerate().map(move |(b, planes)| (image, b * block, planes))
        })
        .collect();
    let (rows, _) = tile_size(g);
    tasks.into_par_iter().for_each(|(image, first, planes)| {
        let channels = first..(first + block).min(g.ci);
        let lines = channels.len() * window;
        let weight = Mat::with_stride(&weight[first * window..], g.co, lines, g.taps()).t();
        if g.pointwise() {
            multiply(planes, false, weight, grad_of(g, dy, image, &(0..g.oh)));
            return;
        }
        for start in (0..g.oh).step_by(rows) {
            let rows = start..(start + rows).min(g.oh);
            let width = rows.len() * g.ow;
            let dy = grad_of(g, dy, image, &rows);
            with_scratch(lines * width, 0, |panel, _| {
                multiply(panel, false, weight, dy);
                g.col2im(panel, channels.clone(), rows, planes);
            });
        }
    });
    dx
}

/// Gradient of the weight: a fixed number of partial sums over tiles, added in order.
pub fn grad_weight(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let tiles = tiles(g, tile_size(g).0, 1);
    let taps = g.taps();
    let partial = |tiles: &[Tile]| {
        let mut sum = vec![0f32; g.co * taps];
        for tile in tiles {
            let dy = grad_of(g, dy, tile.images.start, &tile.rows);
            if g.pointwise() {
                multiply(&mut sum, true, dy, pointwise_panel(g, x, tile).t());
                continue;
            }
            let width = tile.pixels(g);
            with_scratch(taps * width, 0, |panel, _| {
                g.im2col(image_of(g, x, tile.images.start), tile.rows.clone(), panel, width);
                multiply(&mut sum, true, dy, Mat::new(panel, taps, width).t());
            });
        }
        sum
    };
    let parts: Vec<Vec<f32>> = tiles.par_chunks(tiles.len().div_ceil(PARTS).max(1)).map(partial).collect();
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_else(|| vec![0f32; g.co * taps]);
    parts.for_each(|part| total.iter_mut().zip(&part).for_each(|(t, p)| *t += *p));
    total
}

/// Gradient of the bias.
pub fn grad_bias(g: &Geometry, dy: &[f32]) -> Vec<f32> {
    let plane = g.out_plane();
    let sum_plane = |image: usize, c: usize| -> f64 {
        let run = &dy[(image * g.co + c) * plane..][..plane];
        run.chunks(TILE).map(|part| f64::from(part.iter().sum::<f32>())).sum()
    };
    (0..g.co).into_par_iter().map(|c| (0..g.n).map(|image| sum_plane(image, c)).sum::<f64>() as f32).collect()
}
