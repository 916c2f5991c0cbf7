//! The k nearest rows by cosine similarity, with memory for k per row: similarities are computed
//! block by block and dropped. The result depends neither on the number of threads nor on the order
//! of blocks, because candidates are totally ordered: larger similarity first, then lower index.

use super::unit_rows::{BLOCK, UnitRows};
use candle_core::{Result, bail};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use std::cmp::Ordering;
use std::sync::{Mutex, PoisonError};

/// Similarity and index of a candidate.
type Candidate = (f32, u32);

/// Values scanned at a time for one that is large enough.
const LANES: usize = 16;

/// The neighbours of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Nearest {
    /// Nearest first.
    pub found: Vec<Candidate>,
    /// Similarity to itself: 1 up to rounding, 0 for a row of zeros; 0 for queries, which are not
    /// in the bank.
    pub own: f32,
}

/// The `k` nearest other rows of every row. Each similarity is computed once, for both rows. If all
/// rows are the same, none is nearer than another, and nothing is found.
pub fn within(rows: &UnitRows, k: usize) -> Result<Vec<Nearest>> {
    if k == 0 || k >= rows.len() {
        bail!("{} samples are too few for {k} neighbours each: there must be more samples than neighbours", rows.len());
    }
    if rows.are_equal() {
        return Ok(vec![Nearest { found: vec![], own: 1.0 }; rows.len()]);
    }
    let blocks = rows.blocks();
    let best: Vec<Mutex<Best>> = (0..blocks).map(|i| Mutex::new(Best::new(rows.rows_in(i), k))).collect();
    let lock = |i: usize| best[i].lock().unwrap_or_else(PoisonError::into_inner);
    let pairs: Vec<(usize, usize)> = (0..blocks).flat_map(|i| (i..blocks).map(move |j| (i, j))).collect();
    pairs.par_iter().for_each_init(Vec::new, |tile, (i, j)| {
        similarities(tile, rows.block(*i), rows.block(*j), rows.dim());
        let (height, width) = (rows.rows_in(*i), rows.rows_in(*j));
        if i == j {
            let mut best = lock(*i);
            for r in 0..height {
                // NaN is never larger, so a row is not its own neighbour.
                best.own[r] = std::mem::replace(&mut tile[r * BLOCK + r], f32::NAN);
            }
            return best.take_rows(tile, width, j * BLOCK);
        }
        lock(*i).take_rows(tile, width, j * BLOCK);
        lock(*j).take_columns(tile, height, i * BLOCK);
    });
    Ok(best.into_iter().flat_map(|b| b.into_inner().unwrap_or_else(PoisonError::into_inner).finish()).collect())
}

/// The `k` nearest rows of `bank` for every row of `queries`, or all of `bank` if it has fewer.
pub fn among(bank: &UnitRows, queries: &UnitRows, k: usize) -> Result<Vec<Nearest>> {
    if bank.dim() != queries.dim() || k == 0 {
        bail!(
            "nearest neighbours need k >= 1 and one dimension, \
             got k = {k}, queries of dimension {} and samples of dimension {}",
            queries.dim(),
            bank.dim()
        );
    }
    let of_block = |q: usize| {
        let (mut tile, mut best) = (vec![], Best::new(queries.rows_in(q), k));
        for b in 0..bank.blocks() {
            similarities(&mut tile, queries.block(q), bank.block(b), bank.dim());
            best.take_rows(&tile, bank.rows_in(b), b * BLOCK);
        }
        best.finish()
    };
    Ok((0..queries.blocks()).into_par_iter().flat_map_iter(of_block).collect())
}

/// `[BLOCK, BLOCK]` products of the rows of two blocks.
fn similarities(tile: &mut Vec<f32>, a: &[f32], b: &[f32], dim: usize) {
    tile.resize(BLOCK * BLOCK, 0.0);
    let rows = |x| MatRef::from_row_major_slice(x, BLOCK, dim);
    let out = MatMut::from_row_major_slice_mut(tile, BLOCK, BLOCK);
    matmul(out, Accum::Replace, rows(a), rows(b).transpose(), 1.0, Par::Seq);
}

/// The best candidates so far for the rows of a block.
struct Best {
    k: usize,
    /// A candidate below this is not among the `k` best of its row.
    least: Vec<f32>,
    /// At least the `k` best of each row; reduced to them when full.
    kept: Vec<Vec<Candidate>>,
    own: Vec<f32>,
}

impl Best {
    fn new(rows: usize, k: usize) -> Self {
        let kept = vec![Vec::with_capacity(2 * k); rows];
        Self { k, least: vec![f32::NEG_INFINITY; rows], kept, own: vec![0.0; rows] }
    }

    /// Offers candidates `first..` to every row, from the first `width` columns of a tile.
    fn take_rows(&mut self, tile: &[f32], width: usize, first: usize) {
        for row in 0..self.kept.len() {
            for (c, values) in tile[row * BLOCK..][..width].chunks(LANES).enumerate() {
                let least = self.least[row];
                if values.iter().fold(false, |any, v| any | (*v >= least)) {
                    values.iter().enumerate().for_each(|(i, v)| self.offer(row, *v, first + c * LANES + i));
                }
            }
        }
    }

    /// Offers candidates `first..` to every column, from the first `height` rows of a tile.
    fn take_columns(&mut self, tile: &[f32], height: usize, first: usize) {
        let width = self.kept.len();
        for r in 0..height {
            for (c, values) in tile[r * BLOCK..][..width].chunks(LANES).enumerate() {
                let least = &self.least[c * LANES..][..values.len()];
                if values.iter().zip(least).fold(false, |any, (v, l)| any | (v >= l)) {
                    values.iter().enumerate().for_each(|(i, v)| self.offer(c * LANES + i, *v, first + r));
                }
            }
        }
    }

    fn offer(&mut self, row: usize, value: f32, index: usize) {
        if value >= self.least[row] {
            self.kept[row].push((value, index as u32));
            if self.kept[row].len() >= 2 * self.k {
                self.cut(row);
            }
        }
    }

    fn cut(&mut self, row: usize) {
        let kept = &mut self.kept[row];
        if kept.len() > self.k {
            let (_, last, _) = kept.select_nth_unstable_by(self.k - 1, order);
            self.least[row] = last.0;
            kept.truncate(self.k);
        }
    }

    fn finish(mut self) -> Vec<Nearest> {
        (0..self.kept.len()).for_each(|row| self.cut(row));
        let sorted = |(mut found, own): (Vec<Candidate>, f32)| {
            found.sort_unstable_by(order);
            Nearest { found, own }
        };
        self.kept.into_iter().zip(self.own).map(sorted).collect()
    }
}

fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::unit_rows::Clamp;
    use candle_core::{Device, Tensor};

    /// Rows that repeat, so that there are ties, over more than two blocks.
    fn rows(n: usize) -> UnitRows {
        let number = |i: usize, j: usize| {
            let i = i % 700;
            ((i * 389 + j * 613 + i * i * (j + 1) * 7) % 1009) as f32 - 504.0
        };
        let data = (0..n).flat_map(|i| (0..5).map(move |j| number(i, j))).collect();
        UnitRows::of(&Tensor::from_vec(data, (n, 5), &Device::Cpu).unwrap(), Clamp::NONE).unwrap()
    }

    #[test]
    fn blocks_find_what_a_full_search_finds() {
        let (bank, k) = (rows(1100), 7);
        let found = within(&bank, k).unwrap();
        let asked = among(&bank, &bank, k + 1).unwrap();
        let dot = |i: usize, j: usize| -> f32 { bank.row(i).iter().zip(bank.row(j)).map(|(a, b)| a * b).sum() };
        for i in (0..1100).step_by(37) {
            let mut all: Vec<Candidate> = (0..1100).filter(|j| *j != i).map(|j| (dot(i, j), j as u32)).collect();
            all.sort_unstable_by(order);
            // Rounding differs from that of blocks: compare values, and check that indices were
            // found.
            for ((value, index), want) in found[i].found.iter().zip(&all) {
                assert!((value - want.0).abs() < 1e-6 && (dot(i, *index as usize) - value).abs() < 1e-6);
            }
            assert!((found[i].own - 1.0).abs() < 1e-6);
            // Its twin 700 rows away is as near as the row itself.
            let twin = if i < 400 { i + 700 } else { i - 700 * usize::from(i >= 700) };
            if twin != i {
                assert_eq!(found[i].found[0].1, twin as u32);
                assert_eq!([asked[i].found[0].1, asked[i].found[1].1], [i.min(twin) as u32, i.max(twin) as u32]);
            }
        }
    }

    /// The position of a row in its block, and the order of a pair, change no bit of the
    /// similarity.
    #[test]
    fn places_change_nothing() {
        let (n, dim) = (700, 300);
        let number = |i: usize, j: usize| ((i * 389 + j * 613 + i * i * (j + 1) * 7) % 1009) as f32 - 504.0;
        let find = |order: &dyn Fn(usize) -> usize| {
            let data = (0..n).flat_map(|i| (0..dim).map(move |j| (i, j))).map(|(i, j)| number(order(i), j)).collect();
            let rows = Tensor::from_vec(data, (n, dim), &Device::Cpu).unwrap();
            within(&UnitRows::of(&rows, Clamp::NONE).unwrap(), 5).unwrap()
        };
        let (straight, mixed) = (find(&|i| i), find(&|i| i * 331 % n));
        for i in 0..n {
            let there = mixed[i].found.iter().map(|(v, j)| (*v, (*j as usize * 331 % n) as u32));
            assert_eq!(straight[i * 331 % n].found, there.collect::<Vec<_>>());
        }
    }

    #[test]
    fn threads_change_nothing() {
        let bank = rows(1100);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| within(&bank, 3).unwrap())
        };
        assert_eq!(with(1), with(3));
    }
}
