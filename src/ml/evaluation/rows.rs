//! Feature vectors of individual images, in the pieces that an extraction has made. Metrics are
//! computed from them, so results do not depend on who made a piece and when.
//!
//! A piece holds its rows as f32: those of the first output, then those of the next.

use candle_core::{DType, Device, Error, Result, Tensor};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of an f32.
const WORD: usize = 4;

/// The rows of one output, mapped into memory.
#[derive(Debug)]
pub struct Rows {
    pieces: Arc<Vec<Mmap>>,
    /// Rows, and rows of a piece.
    len: u64,
    size: u64,
    /// Numbers of a row of the outputs before this one, and of this one.
    before: usize,
    dim: usize,
}

/// Bytes of a piece of so many rows, whose outputs have these lengths.
pub(super) fn bytes_of(rows: u64, dims: &[usize]) -> u64 {
    rows * (dims.iter().sum::<usize>() * WORD) as u64
}

/// Writes a piece: the rows of each output.
pub(super) fn write(path: &Path, outputs: &[&[Vec<f32>]]) -> std::io::Result<()> {
    let rows = outputs.iter().flat_map(|rows| rows.iter());
    let bytes: Vec<u8> = rows.flatten().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(path, bytes)
}

impl Rows {
    /// The rows of all outputs, whose lengths are `dims`, from pieces of `size` rows.
    pub(super) fn open(paths: &[PathBuf], len: u64, size: u64, dims: &[usize]) -> Result<Vec<Self>> {
        let map = |path: &PathBuf| {
            let failed = |e| Error::from(e).context(format!("cannot map `{}`", path.display()));
            let file = File::open(path).map_err(failed)?;
            #[expect(unsafe_code, reason = "maps a file in the attempt's own folder that is no longer written")]
            unsafe { Mmap::map(&file) }.map_err(failed)
        };
        let pieces = Arc::new(paths.iter().map(map).collect::<Result<Vec<Mmap>>>()?);
        let of =
            |i: usize| Self { pieces: Arc::clone(&pieces), len, size, before: dims[..i].iter().sum(), dim: dims[i] };
        Ok((0..dims.len()).map(of).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    fn row(&self, index: u64) -> &[u8] {
        let (piece, place) = (index / self.size, (index % self.size) as usize);
        let rows = (self.len - piece * self.size).min(self.size) as usize;
        let start = (rows * self.before + place * self.dim) * WORD;
        &self.pieces[piece as usize][start..start + self.dim * WORD]
    }

    fn collect(&self, rows: impl Iterator<Item = u64>) -> Result<Tensor> {
        let mut bytes = vec![];
        rows.for_each(|row| bytes.extend_from_slice(self.row(row)));
        Tensor::from_raw_buffer(&bytes, DType::F32, &[bytes.len() / (self.dim * WORD), self.dim], &Device::Cpu)
    }

    /// The rows in this range, f32 `[n, dim]`.
    pub fn range(&self, rows: Range<u64>) -> Result<Tensor> {
        self.collect(rows)
    }

    /// The rows with these indices, f32 `[n, dim]`.
    pub fn chosen(&self, rows: &[u64]) -> Result<Tensor> {
        self.collect(rows.iter().copied())
    }
}
