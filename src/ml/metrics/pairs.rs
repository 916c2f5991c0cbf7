//! All pairs of two sets of feature vectors, tile by tile: shared by precision and recall, KID and
//! CMMD. Memory is that of the vectors plus one tile per thread, whatever the number of pairs.
//!
//! The inner product of two vectors has the same bits at any position and in either order: every
//! tile is padded with zeros to one shape, so the matrix product sums each pair alike. Hence the
//! distance of equal vectors is exactly 0, and counts (and, nearly, sums) do not depend on the
//! order of samples or on threads.

use crate::kernels::matmul::{Mat, Threads, matmul};
use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

/// Rows and columns of a tile: with 256, both operands of a product of 2048-d features fit into the
/// L2 cache.
pub(super) const TILE: usize = 256;

/// Feature vectors, in panels of [`TILE`] samples, each `[dim, TILE]`.
#[derive(Debug, Clone)]
pub(super) struct Vectors {
    panels: Vec<Vec<f32>>,
    count: usize,
    dim: usize,
}

/// The inner products of samples `row..row + rows` of one set with samples
/// `column..column + columns` of another.
pub(super) struct Tile<'a> {
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub columns: usize,
    products: &'a [f32],
}

impl Tile<'_> {
    /// Products of the `i`-th row of the tile with all of its columns.
    pub fn products(&self, i: usize) -> &[f32] {
        &self.products[i * TILE..i * TILE + self.columns]
    }

    /// Whether rows and columns are the same samples, given that both sets are the same.
    pub fn is_diagonal(&self) -> bool {
        self.row == self.column
    }
}

/// Feature vectors stored row by row, for selecting some.
pub(super) struct Rows {
    data: Vec<f32>,
    count: usize,
    dim: usize,
}

impl Rows {
    /// As [`Vectors::of`].
    pub fn of(features: &Tensor, what: &str) -> Result<Self> {
        let (features, count, dim) = prepared(features, what)?;
        Ok(Self { data: checked(&features, 0, what)?, count, dim })
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The samples `indices`, in that order.
    pub fn select(&self, indices: &[u32]) -> Vectors {
        let row = |i: &u32| &self.data[*i as usize * self.dim..(*i as usize + 1) * self.dim];
        let gather = |indices: &[u32]| panel(&indices.iter().map(row).collect::<Vec<_>>(), self.dim);
        Vectors { panels: indices.chunks(TILE).map(gather).collect(), count: indices.len(), dim: self.dim }
    }
}

fn prepared(features: &Tensor, what: &str) -> Result<(Tensor, usize, usize)> {
    let Ok((count, dim)) = features.dims2() else { bail!("{what} have shape {:?}, not [n, d]", features.dims()) };
    if dim == 0 {
        bail!("{what} have dimension 0");
    }
    Ok((features.to_dtype(DType::F32)?.to_device(&Device::Cpu)?, count, dim))
}

/// The values of `features`, all finite. The first row is sample `first`.
fn checked(features: &Tensor, first: usize, what: &str) -> Result<Vec<f32>> {
    let dim = features.dim(1)?;
    let rows = features.flatten_all()?.to_vec1::<f32>()?;
    if let Some(at) = rows.iter().position(|x| !x.is_finite()) {
        bail!("feature {} of sample {} of {what} is not finite", at % dim, first + at / dim);
    }
    Ok(rows)
}

/// `[dim, TILE]` from up to [`TILE`] rows.
fn panel(rows: &[&[f32]], dim: usize) -> Vec<f32> {
    /// Rows read side by side: as many as one cache line holds values.
    const SIDE: usize = 16;
    let mut panel = vec![0f32; dim * TILE];
    for (block, rows) in rows.chunks(SIDE).enumerate() {
        for (d, to) in panel.chunks_exact_mut(TILE).enumerate() {
            to[block * SIDE..].iter_mut().zip(rows).for_each(|(to, row)| *to = row[d]);
        }
    }
    panel
}

impl Vectors {
    /// The rows of `features`, `[n, d]` of any float type on any device. `what` names them in
    /// errors about the shape or about values that are not finite.
    pub fn of(features: &Tensor, what: &str) -> Result<Self> {
        let (features, count, dim) = prepared(features, what)?;
        let panels = (0..count.div_ceil(TILE))
            .map(|p| {
                let first = p * TILE;
                let rows = checked(&features.narrow(0, first, TILE.min(count - first))?, first, what)?;
                Ok(panel(&rows.chunks_exact(dim).collect::<Vec<_>>(), dim))
            })
            .collect::<Result<_>>()?;
        Ok(Self { panels, count, dim })
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The values of vector `i`.
    pub fn row(&self, i: usize) -> impl Iterator<Item = f32> + '_ {
        self.panels[i / TILE].iter().skip(i % TILE).step_by(TILE).copied()
    }

    /// Applies `f` to every value.
    pub fn map(mut self, f: impl Fn(f32) -> f32 + Sync) -> Self {
        self.panels.par_iter_mut().for_each(|panel| panel.iter_mut().for_each(|x| *x = f(*x)));
        self
    }

    /// The squared length of every vector, equal to the bit to its product with itself in a tile.
    pub fn squared_norms(&self) -> Vec<f32> {
        let diagonal = |t: &Tile| (0..t.rows).map(|i| t.products(i)[i]).collect::<Vec<f32>>();
        let tiles = (0..self.panels.len()).map(|p| (p, p)).collect();
        over(self, self, tiles, diagonal).concat()
    }

    fn panel_len(&self, p: usize) -> usize {
        TILE.min(self.count - p * TILE)
    }
}

/// `f` of every tile of all pairs of `a` and `b`, in order.
pub(super) fn all<T: Send>(a: &Vectors, b: &Vectors, f: impl Fn(&Tile) -> T + Sync) -> Vec<T> {
    let (m, n) = (a.panels.len(), b.panels.len());
    over(a, b, (0..m).flat_map(|p| (0..n).map(move |q| (p, q))).collect(), f)
}

/// `f` of the tiles of all pairs within `a` on and right of the diagonal; the others are their
/// mirror images.
pub(super) fn upper<T: Send>(a: &Vectors, f: impl Fn(&Tile) -> T + Sync) -> Vec<T> {
    let n = a.panels.len();
    over(a, a, (0..n).flat_map(|p| (p..n).map(move |q| (p, q))).collect(), f)
}

/// # Panics
/// When the dimensions differ. Callers check them first, with an error that names the sets.
fn over<T: Send>(a: &Vectors, b: &Vectors, tiles: Vec<(usize, usize)>, f: impl Fn(&Tile) -> T + Sync) -> Vec<T> {
    let one = |products: &mut Vec<f32>, (p, q): (usize, usize)| {
        let (rows, columns) = (Mat::new(&a.panels[p], a.dim, TILE), Mat::new(&b.panels[q], b.dim, TILE));
        matmul(products, false, 1.0, rows.t(), columns, Threads::One);
        let (row, column) = (p * TILE, q * TILE);
        f(&Tile { row, rows: a.panel_len(p), column, columns: b.panel_len(q), products })
    };
    tiles.into_par_iter().map_init(|| vec![0f32; TILE * TILE], one).collect()
}

/// Sum of `kernel(i, j, product)` over all pairs of `a` and `b`, with the same bits for any number
/// of threads.
pub(super) fn sum(a: &Vectors, b: &Vectors, kernel: impl Fn(usize, usize, f32) -> f64 + Sync) -> f64 {
    all(a, b, |t| tile_sum(t, &kernel)).iter().sum()
}

/// The same over all pairs of two different samples of `a`, for a symmetric kernel.
pub(super) fn sum_of_others(a: &Vectors, kernel: impl Fn(usize, usize, f32) -> f64 + Sync) -> f64 {
    let others = |i: usize, j: usize, x: f32| if i == j { 0.0 } else { kernel(i, j, x) };
    upper(a, |t| tile_sum(t, &others) * if t.is_diagonal() { 1.0 } else { 2.0 }).iter().sum()
}

/// Uses eight sums side by side; otherwise each addition would wait for the previous one.
fn tile_sum(t: &Tile, kernel: &impl Fn(usize, usize, f32) -> f64) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0f64; LANES];
    for i in 0..t.rows {
        for (c, products) in t.products(i).chunks(LANES).enumerate() {
            for (l, x) in products.iter().enumerate() {
                sums[l] += kernel(t.row + i, t.column + c * LANES + l, *x);
            }
        }
    }
    sums.iter().sum()
}

/// Refuses two sets of features of different dimensions.
pub(super) fn same_dim(a: usize, b: usize, metric: &str) -> Result<()> {
    if a != b {
        bail!("{metric}: features have dimensions {a} and {b}");
    }
    Ok(())
}
