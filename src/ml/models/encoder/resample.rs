//! Bicubic resampling of images and position tables, equal to PyTorch's and timm's.

use candle_core::{DType, Result, Tensor, bail};

/// Side of the square grid of a position table `[1, class + g g, D]`; `class` is 1 with a class
/// token, else 0.
pub fn table_grid(table: &Tensor, class: usize) -> Option<usize> {
    let [1, rows, _] = *table.dims() else { return None };
    let grid = rows.checked_sub(class)?.isqrt();
    (grid > 0 && grid * grid + class == rows).then_some(grid)
}

/// Resamples a position table `[1, class + g g, D]` to another grid like timm's
/// `resample_abs_pos_embed`. The position of the class token is kept.
pub fn resample_positions(table: &Tensor, class: usize, grid: usize) -> Result<Tensor> {
    regrid(table, class, grid, |image| resample(image, grid, grid, Kernel::Antialiased))
}

/// The same as in DINOv2's own code, for networks with a class token and without registers: without
/// antialiasing, and with 0.1 added to the new grid size before the division, a workaround for
/// rounding down.
pub fn resample_positions_dinov2(table: &Tensor, grid: usize) -> Result<Tensor> {
    regrid(table, 1, grid, |image| {
        let scale = 1.0 / ((grid as f64 + 0.1) / image.dim(3)? as f64);
        resample_scaled(image, (grid, scale), (grid, scale), Kernel::Torch)
    })
}

/// Applies `resample` to a position table without its class position, as `[1, D, g, g]`.
fn regrid(
    table: &Tensor,
    class: usize,
    grid: usize,
    resample: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let Some(old) = table_grid(table, class) else {
        bail!("a position table {:?} is not a square grid plus {class} class positions", table.dims());
    };
    if old == grid {
        return Ok(table.clone());
    }
    let dim = table.dim(2)?;
    let patches = table.narrow(1, class, old * old)?.to_dtype(DType::F32)?;
    let image = patches.reshape((1, old, old, dim))?.permute((0, 3, 1, 2))?.contiguous()?;
    let image = resample(&image)?;
    let patches = image.permute((0, 2, 3, 1))?.reshape((1, grid * grid, dim))?;
    Tensor::cat(&[&table.narrow(1, 0, class)?.to_dtype(DType::F32)?, &patches], 1)
}

/// The cubic kernels of `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// a = -0.75, four taps at any scale, edges repeated.
    Torch,
    /// `antialias=True`: a = -0.5, stretched when shrinking, weights beyond the edge dropped.
    Antialiased,
}

/// Resamples `[n, C, H, W]` f32 to `height` x `width`: one matrix per axis.
pub fn resample(x: &Tensor, height: usize, width: usize, kernel: Kernel) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let scale = |from: usize, to: usize| from as f64 / to as f64;
    resample_scaled(x, (height, scale(h, height)), (width, scale(w, width)), kernel)
}

/// The same, given the source pixels per output pixel vertically and horizontally.
fn resample_scaled(
    x: &Tensor,
    (height, down): (usize, f64),
    (width, across): (usize, f64),
    kernel: Kernel,
) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let rows = Tensor::from_vec(cubic_matrix(h, height, down, kernel), (height, h), x.device())?;
    let columns = Tensor::from_vec(cubic_matrix(w, width, across, kernel), (width, w), x.device())?;
    let x = x.reshape((n * c * h, w))?.matmul(&columns.t()?)?.reshape((n * c, h, width))?;
    rows.unsqueeze(0)?.broadcast_matmul(&x)?.reshape((n, c, height, width))
}

/// Weights `[to, from]`, row by row.
fn cubic_matrix(from: usize, to: usize, scale: f64, kernel: Kernel) -> Vec<f32> {
    let (a, stretch) = match kernel {
        Kernel::Torch => (-0.75, 1.0),
        Kernel::Antialiased => (-0.5, scale.max(1.0)),
    };
    let reach = 2.0 * stretch;
    let mut matrix = vec![0f32; to * from];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        // torch computes positions in f32, which shifts pixels by 6e-5 at the far edge of 256.
        let centre = match kernel {
            Kernel::Torch => f64::from((i as f32 + 0.5) * scale as f32 - 0.5),
            Kernel::Antialiased => (i as f64 + 0.5) * scale - 0.5,
        };
        let taps = (centre - reach).floor() as i64..=(centre + reach).ceil() as i64;
        let mut weights = vec![0f64; from];
        for j in taps {
            let inside = j.clamp(0, from as i64 - 1);
            if kernel == Kernel::Torch || inside == j {
                weights[inside as usize] += cubic((j as f64 - centre) / stretch, a);
            }
        }
        let total: f64 = weights.iter().sum();
        row.iter_mut().zip(&weights).for_each(|(r, w)| *r = (w / total) as f32);
    }
    matrix
}

/// Keys' cubic convolution kernel.
fn cubic(x: f64, a: f64) -> f64 {
    match x.abs() {
        x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
        _ => 0.0,
    }
}
