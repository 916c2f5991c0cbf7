//! All pairs of two sets of feature vectors, tile by tile: what precision and recall, KID and CMMD have in common.
//! Memory is that of the vectors and of one tile a thread, whatever the number of pairs.
//!
//! The inner product of two vectors has the same bits wherever they stand and in either order: every tile is filled up
//! with zeros to one shape, so that the matrix product sums each pair alike. Hence equal vectors are exactly as long
//! as their product says, and counts and (nearly) sums do not depend on the order of samples nor on threads.

use crate::kernels::matmul::{Mat, Threads, matmul};
use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

/// Rows and columns of a tile: 256 keep both operands of a product of 2048-d features in the second cache.
pub(super) const TILE: usize = 256;

/// Feature vectors, in panels of [`TILE`] samples, each `[dim, TILE]`.
#[derive(Debug, Clone)]
pub(super) struct Vectors {
    panels: Vec<Vec<f32>>,
    count: usize,
    dim: usize,
}

/// The inner products of samples `row..row + rows` of one set with `column..column + columns` of another.
pub(super) struct Tile<'a> {
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub columns: usize,
    products: &'a [f32],
}

impl Tile<'_> {
    /// Products of the `i`-th sample of the tile's rows with all of its columns.
    pub fn products(&self, i: usize) -> &[f32] {
        &self.products[i * TILE..i * TILE + self.columns]
    }

    /// Whether rows and columns are the same samples, given that the sets are.
    pub fn is_diagonal(&self) -> bool {
        self.row == self.column
    }
}

/// Feature vectors one after the other, to take some of.
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
        bail!("{what} have no features");
    }
    Ok((features.to_dtype(DType::F32)?.to_device(&Device::Cpu)?, count, dim))
}

/// The numbers of `features` if all are finite; the first of them belong to sample `first`.
fn checked(features: &Tensor, first: usize, what: &str) -> Result<Vec<f32>> {
    let dim = features.dim(1)?;
    let rows = features.flatten_all()?.to_vec1::<f32>()?;
    if let Some(at) = rows.iter().position(|x| !x.is_finite()) {
        bail!("feature {} of sample {} of {what} is not finite", at % dim, first + at / dim);
    }
    Ok(rows)
}

/// `[dim, TILE]` of up to [`TILE`] rows.
fn panel(rows: &[&[f32]], dim: usize) -> Vec<f32> {
    /// Rows read side by side: as many of their numbers fill a line of the cache.
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
    /// The rows of `features`, `[n, d]` of any float type and device. `what` names them in errors: of another shape,
    /// or with a number that is not finite.
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

    /// The numbers of vector `i`.
    pub fn row(&self, i: usize) -> impl Iterator<Item = f32> + '_ {
        self.panels[i / TILE].iter().skip(i % TILE).step_by(TILE).copied()
    }

    /// With `f` of every number.
    pub fn map(mut self, f: impl Fn(f32) -> f32 + Sync) -> Self {
        self.panels.par_iter_mut().for_each(|panel| panel.iter_mut().for_each(|x| *x = f(*x)));
        self
    }

    /// The squared length of every vector, to the bits that its product with itself has in a tile.
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

/// `f` of the tiles of all pairs within `a` on and right of the diagonal: the others are their mirror images.
pub(super) fn upper<T: Send>(a: &Vectors, f: impl Fn(&Tile) -> T + Sync) -> Vec<T> {
    let n = a.panels.len();
    over(a, a, (0..n).flat_map(|p| (p..n).map(move |q| (p, q))).collect(), f)
}

/// # Panics
/// When the dimensions differ: the callers compare them, with a message that says whose they are.
fn over<T: Send>(a: &Vectors, b: &Vectors, tiles: Vec<(usize, usize)>, f: impl Fn(&Tile) -> T + Sync) -> Vec<T> {
    let one = |products: &mut Vec<f32>, (p, q): (usize, usize)| {
        let (rows, columns) = (Mat::new(&a.panels[p], a.dim, TILE), Mat::new(&b.panels[q], b.dim, TILE));
        matmul(products, false, 1.0, rows.t(), columns, Threads::One);
        let (row, column) = (p * TILE, q * TILE);
        f(&Tile { row, rows: a.panel_len(p), column, columns: b.panel_len(q), products })
    };
    tiles.into_par_iter().map_init(|| vec![0f32; TILE * TILE], one).collect()
}

/// Sum of `kernel(i, j, product)` over all pairs of `a` and `b`, to the same bits on any number of threads.
pub(super) fn sum(a: &Vectors, b: &Vectors, kernel: impl Fn(usize, usize, f32) -> f64 + Sync) -> f64 {
    all(a, b, |t| tile_sum(t, &kernel)).iter().sum()
}

/// The same over the pairs of `a` with itself of two different samples, for a symmetric kernel.
pub(super) fn sum_of_others(a: &Vectors, kernel: impl Fn(usize, usize, f32) -> f64 + Sync) -> f64 {
    let others = |i: usize, j: usize, x: f32| if i == j { 0.0 } else { kernel(i, j, x) };
    upper(a, |t| tile_sum(t, &others) * if t.is_diagonal() { 1.0 } else { 2.0 }).iter().sum()
}

/// Eight sums side by side, or each addition would wait for the one before.
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

/// Refuses two sets of features that cannot be compared.
pub(super) fn same_dim(a: usize, b: usize, metric: &str) -> Result<()> {
    if a != b {
        bail!("{metric} of features of {a} and of {b} dimensions");
    }
    Ok(())
}
