//! A shard that is written row by row: each row goes to its place in the file as it comes, so that
//! memory holds what is being written and not the shard. Its bytes are those that the safetensors
//! library gives a file of the whole tensors.

use crate::nn::params::Tensors;
use candle_core::{DType, Result, Tensor, bail};
use erw_base::umask;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, View};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes that are copied at once where a shard ends early.
const PORTION: usize = 1 << 20;

/// A shard of a stated number of rows, under a name of its own until it is whole.
#[derive(Debug)]
pub struct ShardFile {
    path: PathBuf,
    part: PathBuf,
    file: File,
    columns: BTreeMap<String, Column>,
    rows: usize,
    filled: usize,
}

/// Where a tensor lies in the file.
#[derive(Debug, Clone)]
struct Column {
    dtype: DType,
    /// Of a row.
    shape: Vec<usize>,
    /// Bytes of a row.
    size: usize,
    /// Offset of the first row.
    start: u64,
}

impl Column {
    fn at(&self, row: usize) -> u64 {
        self.start + (row * self.size) as u64
    }

    /// As a tensor of so many rows of which the library writes the header alone.
    fn header(&self, rows: usize) -> Blank {
        let shape = [&[rows][..], &self.shape].concat();
        Blank { dtype: self.dtype.into(), shape, bytes: rows * self.size }
    }
}

impl ShardFile {
    /// A shard of `rows` rows that are like those of `first`.
    ///
    /// # Errors
    /// A scalar; a file that cannot be written.
    pub fn create(path: &Path, rows: usize, first: &Tensors) -> Result<Self> {
        let column = |(name, tensor): (&String, &Tensor)| {
            let Some(shape) = tensor.dims().get(1..) else { bail!("tensor `{name}` has no rows") };
            let size = shape.iter().product::<usize>() * tensor.dtype().size_in_bytes();
            Ok((name.clone(), Column { dtype: tensor.dtype(), shape: shape.to_vec(), size, start: 0 }))
        };
        let columns = first.iter().map(column).collect::<Result<_>>()?;
        Self::of(path, "rows", rows, columns)
    }

    /// `ending` is that of its name while it is not whole.
    fn of(path: &Path, ending: &str, rows: usize, mut columns: BTreeMap<String, Column>) -> Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".");
        part.push(ending);
        let part = PathBuf::from(part);
        let begin = || {
            let headers = columns.iter().map(|(name, column)| (name.clone(), column.header(rows)));
            safetensors::serialize_to_file(headers, None, &part).map_err(candle_core::Error::wrap)?;
            umask::as_new(&part)?;
            File::options().read(true).write(true).open(&part).map_err(candle_core::Error::from)
        };
        let file = begin().map_err(|e| candle_core::Error::Msg(format!("cannot write {}: {e}", path.display())))?;
        for (name, offset) in offsets(&file)? {
            if let Some(column) = columns.get_mut(&name) {
                column.start = offset;
            }
        }
        Ok(Self { path: path.into(), part, file, columns, rows, filled: 0 })
    }

    /// How many rows are missing.
    pub fn lacks(&self) -> usize {
        self.rows - self.filled
    }

    /// Appends rows from `start` on, `count` of them.
    ///
    /// # Errors
    /// Other tensors than those of the first row; more rows than are missing; a full disk.
    pub fn push(&mut self, rows: &Tensors, start: usize, count: usize) -> Result<()> {
        let is_alike = |(name, tensor): (&String, &Tensor)| {
            let column = self.columns.get(name);
            column.is_some_and(|c| c.dtype == tensor.dtype() && tensor.dims().get(1..) == Some(&c.shape))
        };
        if rows.len() != self.columns.len() || !rows.iter().all(is_alike) {
            let names = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>().join(", ");
            bail!(
                "rows for {} have other tensors ({}) than the previous rows ({})",
                self.path.display(),
                names(rows.keys().collect()),
                names(self.columns.keys().collect())
            );
        }
        if count > self.lacks() {
            bail!("{}: {count} rows for a shard that lacks {}", self.path.display(), self.lacks());
        }
        for (name, tensor) in rows {
            let some = tensor.narrow(0, start, count)?;
            self.write(&View::data(&some), self.columns[name].at(self.filled))?;
        }
        self.filled += count;
        Ok(())
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        match self.file.write_all_at(bytes, offset) {
            Ok(()) => Ok(()),
            Err(e) => bail!("cannot write {}: {e}", self.path.display()),
        }
    }

    /// Gives the file its name. One that has fewer rows than it was to have is written anew.
    pub fn finish(self) -> Result<()> {
        let whole = if self.lacks() > 0 { self.shortened()? } else { self };
        let keep = || -> std::io::Result<()> {
            whole.file.sync_all()?;
            fs::rename(&whole.part, &whole.path)
        };
        match keep() {
            Ok(()) => Ok(()),
            Err(e) => bail!("cannot write {}: {e}", whole.path.display()),
        }
    }

    /// The same rows as a shard of as many.
    fn shortened(&self) -> Result<Self> {
        let mut short = Self::of(&self.path, "short", self.filled, self.columns.clone())?;
        let mut portion = vec![0; PORTION];
        for (name, from) in &self.columns {
            let (mut done, all) = (0, self.filled * from.size);
            while done < all {
                let bytes = &mut portion[..PORTION.min(all - done)];
                self.file.read_exact_at(bytes, from.start + done as u64)?;
                short.write(bytes, short.columns[name].start + done as u64)?;
                done += bytes.len();
            }
        }
        short.filled = self.filled;
        Ok(short)
    }
}

impl Drop for ShardFile {
    /// A full disk needs the space of what was not finished. What was has its own name by now.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.part);
    }
}

/// The offset of each tensor in the file, by its header.
fn offsets(file: &File) -> Result<Vec<(String, u64)>> {
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    let mut header = vec![0; length as usize];
    file.read_exact_at(&mut header, 8)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(candle_core::Error::wrap)?;
    let of = |(name, info): (String, &safetensors::tensor::TensorInfo)| (name, 8 + length + info.data_offsets.0 as u64);
    Ok(metadata.tensors().into_iter().map(of).collect())
}

/// A tensor of which only the header is written.
struct Blank {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
}

impl View for Blank {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }

    fn data_len(&self) -> usize {
        self.bytes
    }
}
