//! y = x W^T + b for few rows of x, one per sample of a batch, as in the layers that compute
//! modulations from the condition. The weights are read from memory once, so packing them, as a
//! general product does, only costs time.
//!
//! Every element is summed in the same order for any number of rows: the bits of a sample do not
//! depend on its batch.

use super::matmul::MatMut;
use super::simd::{LANES, add_lanes, simd};
use rayon::prelude::*;

/// Rows of x that share one pass over a row of weights.
const ROWS: usize = 4;
/// Outputs per task.
const OUTPUTS: usize = 32;

simd! {
    /// Inner products of a row of weights with `ROWS` rows of x.
    fn dots(x: [&[f32]; ROWS], w: &[f32]) -> [f32; ROWS] {
        let whole = w.len() - w.len() % LANES;
        let mut sums = [[0f32; LANES]; ROWS];
        for (i, w) in w[..whole].chunks_exact(LANES).enumerate() {
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = &x[i * LANES..][..LANES];
                for ((sum, x), w) in sums.iter_mut().zip(x).zip(w) {
                    *sum += x * w;
                }
            }
        }
        let mut out = [0f32; ROWS];
        for ((out, sums), x) in out.iter_mut().zip(sums).zip(x) {
            let tail: f32 = x[whole..].iter().zip(&w[whole..]).map(|(x, w)| x * w).sum();
            *out = add_lanes(sums) + tail;
        }
        out
    }
}

/// For x `[rows, in]`, W `[out, in]` and b `[out]`.
pub fn forward(x: &[f32], weight: &[f32], bias: &[f32], n_in: usize, y: &mut [f32]) {
    let n_out = bias.len();
    if n_out == 0 || n_in == 0 || y.is_empty() {
        return;
    }
    let rows: Vec<&[f32]> = x.chunks(n_in).collect();
    let blocks = MatMut::columns(y, n_out, OUTPUTS);
    blocks.into_par_iter().enumerate().for_each(|(block, mut y)| {
        let first = block * OUTPUTS;
        for j in first..n_out.min(first + OUTPUTS) {
            let w = &weight[j * n_in..][..n_in];
            for (group, rows) in rows.chunks(ROWS).enumerate() {
                // With fewer rows than a pass takes, repeat the last one.
                let sums = dots(std::array::from_fn(|i| rows[i.min(rows.len() - 1)]), w);
                for (i, sum) in sums.into_iter().take(rows.len()).enumerate() {
                    y.row(group * ROWS + i)[j - first] = sum + bias[j];
                }
            }
        }
    });
}
