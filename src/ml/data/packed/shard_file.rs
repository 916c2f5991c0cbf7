//! A shard that is written row by row: each row goes to its place in the file as it comes, so that
//! memory holds what is being written and not the shard. Its bytes are those that the safetensors
//! library gives a file of the whole tensors.

use super::{Field, open_shard};
use crate::nn::params::Tensors;
use candle_core::{Result, Tensor, bail};
use erw_base::umask;
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
    fields: BTreeMap<String, Field>,
    /// Byte offset of each tensor in the file.
    offsets: BTreeMap<String, usize>,
    rows: usize,
    filled: usize,
}

impl ShardFile {
    /// A shard of `rows` rows that are like those of `first`.
    ///
    /// # Errors
    /// A scalar; a file that cannot be written.
    pub fn create(path: &Path, rows: usize, first: &Tensors) -> Result<Self> {
        let field = |(name, tensor): (&String, &Tensor)| {
            let Some(shape) = tensor.dims().get(1..) else { bail!("tensor `{name}` has no rows") };
            Ok((name.clone(), Field { dtype: tensor.dtype(), shape: shape.to_vec() }))
        };
        let fields = first.iter().map(field).collect::<Result<_>>()?;
        Self::of(path, "rows", rows, fields)
    }

    /// `ending` is that of its name while it is not whole.
    fn of(path: &Path, ending: &str, rows: usize, fields: BTreeMap<String, Field>) -> Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".");
        part.push(ending);
        let part = PathBuf::from(part);
        let begin = || {
            let headers = fields.iter().map(|(name, field)| (name.clone(), Blank::of(field, rows)));
            safetensors::serialize_to_file(headers, None, &part).map_err(candle_core::Error::wrap)?;
            umask::as_new(&part)?;
            File::options().read(true).write(true).open(&part).map_err(candle_core::Error::from)
        };
        let file = begin().map_err(|e| candle_core::Error::Msg(format!("cannot write {}: {e}", path.display())))?;
        // Its mapping ends here, before anything is written.
        let offsets = open_shard(&part)?.0.offsets;
        Ok(Self { path: path.into(), part, file, fields, offsets, rows, filled: 0 })
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
            let field = self.fields.get(name);
            field.is_some_and(|f| f.dtype == tensor.dtype() && tensor.dims().get(1..) == Some(&f.shape))
        };
        if rows.len() != self.fields.len() || !rows.iter().all(is_alike) {
            let names = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>().join(", ");
            bail!(
                "rows for {} have other tensors ({}) than the previous rows ({})",
                self.path.display(),
                names(rows.keys().collect()),
                names(self.fields.keys().collect())
            );
        }
        if count > self.lacks() {
            bail!("{}: {count} rows for a shard that lacks {}", self.path.display(), self.lacks());
        }
        for (name, tensor) in rows {
            let some = tensor.narrow(0, start, count)?;
            self.write(&View::data(&some), self.offsets[name] + self.filled * self.fields[name].bytes())?;
        }
        self.filled += count;
        Ok(())
    }

    fn write(&self, bytes: &[u8], offset: usize) -> Result<()> {
        match self.file.write_all_at(bytes, offset as u64) {
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
        let mut short = Self::of(&self.path, "short", self.filled, self.fields.clone())?;
        let mut portion = vec![0; PORTION];
        for (name, field) in &self.fields {
            let (mut done, all) = (0, self.filled * field.bytes());
            while done < all {
                let bytes = &mut portion[..PORTION.min(all - done)];
                self.file.read_exact_at(bytes, (self.offsets[name] + done) as u64)?;
                short.write(bytes, short.offsets[name] + done)?;
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

/// A tensor of which only the header is written.
struct Blank {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
}

impl Blank {
    fn of(field: &Field, rows: usize) -> Self {
        let shape = [&[rows][..], &field.shape].concat();
        Self { dtype: field.dtype.into(), shape, bytes: rows * field.bytes() }
    }
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
