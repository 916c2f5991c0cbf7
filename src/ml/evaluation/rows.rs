//! Feature vectors of individual images, in a file that grows while the network runs. An
//! interrupted attempt resumes from it: complete rows are kept, a torn last row is cut off.
//!
//! Metrics are computed from the finished file, so results do not depend on where an attempt was
//! interrupted.

use candle_core::{DType, Device, Error, Result, Tensor};
use memmap2::Mmap;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes of an f32.
const WORD: usize = 4;

/// A file of f32 rows that is being written.
pub(super) struct Growing {
    path: PathBuf,
    file: File,
    dim: usize,
}

impl Growing {
    /// Opens `path` for rows of `dim` numbers. Creates the file if it does not exist.
    pub fn open(path: PathBuf, dim: usize) -> Result<Self> {
        match File::options().read(true).append(true).create(true).open(&path) {
            Ok(file) => Ok(Self { path, file, dim }),
            Err(e) => Err(failed("open", &path, e)),
        }
    }

    /// Number of complete rows.
    pub fn len(&self) -> Result<u64> {
        let bytes = self.file.metadata().map_err(|e| failed("read", &self.path, e))?.len();
        Ok(bytes / (self.dim * WORD) as u64)
    }

    /// Removes all rows after the first `rows`.
    pub fn cut(&self, rows: u64) -> Result<()> {
        self.file.set_len(rows * (self.dim * WORD) as u64).map_err(|e| failed("truncate", &self.path, e))
    }

    /// Appends rows and syncs them to disk.
    pub fn append(&mut self, rows: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|e| failed("write", &self.path, e))
    }

    /// Opens the finished file for reading.
    pub fn finish(self) -> Result<Rows> {
        Rows::open(&self.path, self.dim)
    }
}

fn failed(doing: &str, path: &Path, e: io::Error) -> Error {
    Error::from(e).context(format!("cannot {doing} `{}`", path.display()))
}

/// A finished file of f32 rows, mapped into memory.
#[derive(Debug)]
pub struct Rows {
    map: Mmap,
    dim: usize,
}

impl Rows {
    fn open(path: &Path, dim: usize) -> Result<Self> {
        let file = File::open(path).map_err(|e| failed("open", path, e))?;
        #[expect(unsafe_code, reason = "maps a file in the attempt's own folder that is no longer written")]
        let map = unsafe { Mmap::map(&file) };
        Ok(Self { map: map.map_err(|e| failed("map", path, e))?, dim })
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn len(&self) -> u64 {
        (self.map.len() / (self.dim * WORD)) as u64
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The rows in this range, f32 `[n, dim]`.
    pub fn range(&self, rows: Range<u64>) -> Result<Tensor> {
        let size = self.dim * WORD;
        let bytes = &self.map[rows.start as usize * size..rows.end as usize * size];
        Tensor::from_raw_buffer(bytes, DType::F32, &[bytes.len() / size, self.dim], &Device::Cpu)
    }

    /// The rows with these indices, f32 `[n, dim]`.
    pub fn chosen(&self, rows: &[u64]) -> Result<Tensor> {
        let size = self.dim * WORD;
        let mut bytes = Vec::with_capacity(rows.len() * size);
        rows.iter().for_each(|r| bytes.extend_from_slice(&self.map[*r as usize * size..(*r as usize + 1) * size]));
        Tensor::from_raw_buffer(&bytes, DType::F32, &[rows.len(), self.dim], &Device::Cpu)
    }
}
