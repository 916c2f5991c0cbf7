//! Matrix products on strided views: a checked wrapper around the `gemm` crate.
//!
//! With views, attention multiplies slices of a packed qkv tensor and backward passes multiply
//! transposes without copying. The result is always a dense row-major block.

use gemm::Parallelism;
use std::marker::PhantomData;

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
    /// A dense matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::with_stride(data, rows, cols, cols)
    }

    /// Rows that begin `row_stride` apart.
    pub fn with_stride(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// `count` columns from `first`.
    pub fn columns(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.cols, "columns past the end of a matrix");
        // A matrix without rows has nothing to skip.
        let skipped = (first * self.col_stride).min(self.data.len());
        Self { data: &self.data[skipped..], cols: count, ..self }
    }

    /// The transpose, without a copy.
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

/// The destination of a product: a block of adjacent columns of a row-major matrix whose rows are
/// `stride` apart. Blocks of one matrix can be written from several threads, because they do not
/// overlap.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    life: PhantomData<&'a mut [f32]>,
}

#[expect(unsafe_code, reason = "a block has exclusive access to its elements, like a `&mut [f32]`")]
unsafe impl Send for MatMut<'_> {}

impl<'a> MatMut<'a> {
    /// A dense matrix.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert!(data.len() == rows * cols, "a matrix of {rows} x {cols} in {} elements", data.len());
        Self { data: data.as_mut_ptr(), rows, cols, stride: cols, life: PhantomData }
    }

    /// Splits rows of `stride` elements into blocks of `cols` columns. The last block may be
    /// narrower.
    pub fn columns(data: &'a mut [f32], stride: usize, cols: usize) -> Vec<Self> {
        assert!(
            cols > 0 && stride > 0 && data.len().is_multiple_of(stride),
            "rows do not divide into blocks of columns"
        );
        let (rows, data) = (data.len() / stride, data.as_mut_ptr());
        (0..stride)
            .step_by(cols)
            .map(|first| Self {
                data: data.wrapping_add(first),
                rows,
                cols: cols.min(stride - first),
                stride,
                life: PhantomData,
            })
            .collect()
    }

    /// Borrows `count` rows from `first`.
    pub fn rows(&mut self, first: usize, count: usize) -> MatMut<'_> {
        assert!(first + count <= self.rows, "rows past the end of a matrix");
        MatMut { data: self.data.wrapping_add(first * self.stride), rows: count, life: PhantomData, ..*self }
    }

    /// One row.
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows, "a row past the end of a matrix");
        #[expect(unsafe_code, reason = "the row lies within the block, which is borrowed as a whole")]
        unsafe {
            std::slice::from_raw_parts_mut(self.data.wrapping_add(i * self.stride), self.cols)
        }
    }
}

/// Whether a product may use the thread pool. Inside a parallel loop it should not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    One,
    Pool,
}

/// `out = keep * out + scale * a b`, with `keep` 1 or 0 and `out` dense `[a.rows, b.cols]`.
///
/// # Panics
/// When the shapes do not match or a view extends outside its slice: a bug in the caller.
pub fn matmul(out: &mut [f32], keep: bool, scale: f32, a: Mat, b: Mat, threads: Threads) {
    matmul_into(MatMut::new(out, a.rows, b.cols), keep, scale, a, b, threads);
}

/// [`matmul`] into a block.
///
/// # Panics
/// As `matmul`.
pub fn matmul_into(out: MatMut, keep: bool, scale: f32, a: Mat, b: Mat, threads: Threads) {
    assert!(
        a.cols == b.rows && out.rows == a.rows && out.cols == b.cols,
        "the shapes of a matrix product do not match"
    );
    assert!(a.is_inside() && b.is_inside(), "a matrix view extends outside its slice");
    if out.rows == 0 || out.cols == 0 {
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
            out.data,
            1,
            out.stride as isize,
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
    fn blocks_of_columns_are_written_apart() {
        let mut data = [0.0; 10];
        let mut blocks = MatMut::columns(&mut data, 5, 2);
        assert_eq!(blocks.iter().map(|b| b.cols).collect::<Vec<_>>(), [2, 2, 1]);
        let one = [1.0, 0.0, 0.0, 1.0];
        let second = blocks.remove(1);
        matmul_into(second, false, 3.0, Mat::new(&one, 2, 2), Mat::new(&one, 2, 2), Threads::One);
        blocks[1].row(1)[0] = 7.0;
        assert_eq!(data, [0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 7.0]);
    }

    #[test]
    #[should_panic(expected = "outside its slice")]
    fn a_view_past_the_end_is_refused() {
        let a = [0.0; 5];
        matmul(&mut [0.0; 4], false, 1.0, Mat::with_stride(&a, 2, 2, 4), Mat::new(&[0.0; 4], 2, 2), Threads::One);
    }
}
