//! Matrix products on strided views, a checked wrapper around the `gemm` crate.
//!
//! Views let attention multiply slices of a packed qkv tensor, and backward passes multiply transposes,
//! without copying. The result is always a dense row-major block.

use gemm::Parallelism;

/// A read-only matrix inside a slice: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Dense rows.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::with_stride(data, rows, cols, cols)
    }

    /// Rows `row_stride` apart, of neighbouring columns.
    pub fn with_stride(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    fn is_inside(&self) -> bool {
        self.rows == 0
            || self.cols == 0
            || (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride < self.data.len()
    }
}

/// Whether a product may use the thread pool; inside a parallel loop it should not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    One,
    Pool,
}

/// `out = keep * out + scale * a b`, with `keep` 1 or 0 and `out` dense `[a.rows, b.cols]`.
///
/// # Panics
/// When the shapes do not fit together or a view reaches outside its slice: a bug of the caller.
pub fn matmul(out: &mut [f32], keep: bool, scale: f32, a: Mat, b: Mat, threads: Threads) {
    assert!(a.cols == b.rows && out.len() == a.rows * b.cols, "shapes of a matrix product do not fit");
    assert!(a.is_inside() && b.is_inside(), "a matrix view reaches outside its slice");
    if out.is_empty() {
        return;
    }
    let parallelism = match threads {
        Threads::Pool if rayon::current_num_threads() > 1 => Parallelism::Rayon(0),
        _ => Parallelism::None,
    };
    #[expect(unsafe_code, reason = "gemm takes raw pointers; the assertions above keep every access in bounds")]
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            b.cols as isize,
            keep,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_views_and_transposes() {
        // a = [1 2; 3 4] inside rows of three, b = [5 6; 7 8].
        let a = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0];
        let b = [5.0, 6.0, 7.0, 8.0];
        let (a, b) = (Mat::with_stride(&a, 2, 2, 3), Mat::new(&b, 2, 2));
        let mut out = [1.0; 4];
        matmul(&mut out, true, 2.0, a, b, Threads::One);
        assert_eq!(out, [39.0, 45.0, 87.0, 101.0]);
        matmul(&mut out, false, 1.0, a.t(), b.t(), Threads::Pool);
        assert_eq!(out, [23.0, 31.0, 34.0, 46.0]);
    }

    #[test]
    #[should_panic(expected = "outside its slice")]
    fn a_view_past_the_end_is_refused() {
        let a = [0.0; 5];
        matmul(&mut [0.0; 4], false, 1.0, Mat::with_stride(&a, 2, 2, 4), Mat::new(&[0.0; 4], 2, 2), Threads::One);
    }
}
