//! Loops over the rows of `[groups, rows, dim]`, where parameters belong to a group (the modulation
//! of one sample) or to all rows (the weights of a LayerNorm: one group).

use rayon::prelude::*;

/// Rows per task. It affects the result: partial sums are formed per task.
const ROWS_PER_TASK: usize = 64;

/// Data that can be split into rows: one matrix, or two of equal shape.
trait Matrix: Send + Sized {
    fn tasks(self, len: usize) -> impl IndexedParallelIterator<Item = Self>;
    fn rows(self, dim: usize) -> impl Iterator<Item = Self>;
}

impl Matrix for &mut [f32] {
    fn tasks(self, len: usize) -> impl IndexedParallelIterator<Item = Self> {
        self.par_chunks_mut(len.max(1))
    }

    fn rows(self, dim: usize) -> impl Iterator<Item = Self> {
        self.chunks_mut(dim.max(1))
    }
}

impl<A: Matrix, B: Matrix> Matrix for (A, B) {
    fn tasks(self, len: usize) -> impl IndexedParallelIterator<Item = Self> {
        self.0.tasks(len).zip(self.1.tasks(len))
    }

    fn rows(self, dim: usize) -> impl Iterator<Item = Self> {
        self.0.rows(dim).zip(self.1.rows(dim))
    }
}

fn each<M: Matrix>(all: M, dim: usize, f: impl Fn(usize, M) + Sync) {
    all.tasks(ROWS_PER_TASK * dim).enumerate().for_each(|(task, part)| {
        for (r, row) in part.rows(dim).enumerate() {
            f(task * ROWS_PER_TASK + r, row);
        }
    });
}

fn each_summing<M: Matrix>(
    all: M,
    dim: usize,
    rows_per_group: usize,
    width: usize,
    f: impl Fn(usize, M, &mut [f32]) + Sync,
) -> Vec<f32> {
    let of_group = |(group, rows): (usize, M)| {
        let of_task = |(task, part): (usize, M)| {
            let mut sums = vec![0f32; width];
            let first = group * rows_per_group + task * ROWS_PER_TASK;
            for (r, row) in part.rows(dim).enumerate() {
                f(first + r, row, &mut sums);
            }
            sums
        };
        add_up(rows.tasks(ROWS_PER_TASK * dim).enumerate().map(of_task).collect(), width)
    };
    let groups: Vec<Vec<f32>> = all.tasks(rows_per_group * dim).enumerate().map(of_group).collect();
    groups.concat()
}

/// Calls `f(row index, row of out)` for every row, in parallel.
pub fn each_row(out: &mut [f32], dim: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    each(out, dim, f);
}

/// [`each_row`] over two matrices of equal shape.
pub fn each_row2(a: &mut [f32], b: &mut [f32], dim: usize, f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync) {
    each((a, b), dim, |row, (a, b)| f(row, a, b));
}

/// Calls `f(row index, row of out, partial sums)` for every row, and adds the partial sums, `width`
/// values, over the rows of each group. Returns `[groups, width]`, the same for any number of
/// threads.
pub fn each_row_summing(
    out: &mut [f32],
    dim: usize,
    rows_per_group: usize,
    width: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    each_summing(out, dim, rows_per_group, width, f)
}

/// [`each_row_summing`] over two matrices of equal shape.
pub fn each_row2_summing(
    a: &mut [f32],
    b: &mut [f32],
    dim: usize,
    rows_per_group: usize,
    width: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    each_summing((a, b), dim, rows_per_group, width, |row, (a, b), sums| f(row, a, b, sums))
}

/// Sums over the rows of `[rows, dim]`, the same for any number of threads.
pub fn column_sums(x: &[f32], dim: usize) -> Vec<f32> {
    let partials: Vec<Vec<f32>> = x
        .par_chunks(ROWS_PER_TASK * dim)
        .map(|chunk| {
            let mut sums = vec![0f32; dim];
            for row in chunk.chunks(dim) {
                add_to(&mut sums, row);
            }
            sums
        })
        .collect();
    add_up(partials, dim)
}

fn add_up(partials: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    partials.into_iter().fold(vec![0f32; width], |mut total, part| {
        add_to(&mut total, &part);
        total
    })
}

/// total += x
pub fn add_to(total: &mut [f32], x: &[f32]) {
    for (t, v) in total.iter_mut().zip(x) {
        *t += v;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_cover_every_row_once() {
        let x: Vec<f32> = (0..130 * 3).map(|i| i as f32).collect();
        let want: Vec<f32> = (0..3).map(|c| (0..130).map(|r| (r * 3 + c) as f32).sum()).collect();
        assert_eq!(column_sums(&x, 3), want);

        // Two groups of 65 rows: more than one task each.
        let mut out = vec![0f32; x.len()];
        let sums = each_row_summing(&mut out, 3, 65, 1, |row, out, sums| {
            out.copy_from_slice(&x[row * 3..row * 3 + 3]);
            sums[0] += row as f32;
        });
        assert_eq!(out, x);
        assert_eq!(sums, [(0..65).sum::<i32>() as f32, (65..130).sum::<i32>() as f32]);
    }
}
