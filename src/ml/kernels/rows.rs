//! Loops over the rows of `[groups, rows, dim]`, where parameters belong to a group (the modulation of one sample)
//! or to all rows (the weights of a LayerNorm: one group).

use rayon::prelude::*;

/// Rows that one task handles. Part of the result: partial sums are formed per task.
const ROWS_PER_TASK: usize = 64;

/// Calls `f(row index, row of out)` for every row, in parallel.
pub fn each_row(out: &mut [f32], dim: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    out.par_chunks_mut((ROWS_PER_TASK * dim).max(1)).enumerate().for_each(|(task, chunk)| {
        for (r, row) in chunk.chunks_mut(dim.max(1)).enumerate() {
            f(task * ROWS_PER_TASK + r, row);
        }
    });
}

/// [`each_row`] over two matrices of equal shape.
pub fn each_row2(a: &mut [f32], b: &mut [f32], dim: usize, f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync) {
    let share = (ROWS_PER_TASK * dim).max(1);
    a.par_chunks_mut(share).zip(b.par_chunks_mut(share)).enumerate().for_each(|(task, (a, b))| {
        for (r, (a, b)) in a.chunks_mut(dim.max(1)).zip(b.chunks_mut(dim.max(1))).enumerate() {
            f(task * ROWS_PER_TASK + r, a, b);
        }
    });
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
    let (group, share) = ((rows_per_group * dim).max(1), (ROWS_PER_TASK * dim).max(1));
    let groups: Vec<Vec<f32>> = a
        .par_chunks_mut(group)
        .zip(b.par_chunks_mut(group))
        .enumerate()
        .map(|(group, (a, b))| {
            let partials: Vec<Vec<f32>> = a
                .par_chunks_mut(share)
                .zip(b.par_chunks_mut(share))
                .enumerate()
                .map(|(task, (a, b))| {
                    let mut sums = vec![0f32; width];
                    let first = group * rows_per_group + task * ROWS_PER_TASK;
                    for (r, (a, b)) in a.chunks_mut(dim.max(1)).zip(b.chunks_mut(dim.max(1))).enumerate() {
                        f(first + r, a, b, &mut sums);
                    }
                    sums
                })
                .collect();
            add_up(partials, width)
        })
        .collect();
    groups.concat()
}

/// Calls `f(row index, row of out, partial sums)` for every row and adds the partial sums, `width` numbers, over
/// the rows of each group. Returns `[groups, width]`, the same for any number of threads.
pub fn each_row_summing(
    out: &mut [f32],
    dim: usize,
    rows_per_group: usize,
    width: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let groups: Vec<Vec<f32>> = out
        .par_chunks_mut((rows_per_group * dim).max(1))
        .enumerate()
        .map(|(group, rows)| {
            let partials: Vec<Vec<f32>> = rows
                .par_chunks_mut(ROWS_PER_TASK * dim)
                .enumerate()
                .map(|(task, chunk)| {
                    let mut sums = vec![0f32; width];
                    let first = group * rows_per_group + task * ROWS_PER_TASK;
                    for (r, row) in chunk.chunks_mut(dim.max(1)).enumerate() {
                        f(first + r, row, &mut sums);
                    }
                    sums
                })
                .collect();
            add_up(partials, width)
        })
        .collect();
    groups.concat()
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
