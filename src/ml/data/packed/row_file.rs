//! safetensors files of rows in a foreign layout, read like shards.

use super::{Field, Shard, open_shard};
use candle_core::{Device, Result, Tensor, bail};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One mapped safetensors file whose tensors all have the same number of rows.
#[derive(Debug)]
pub struct RowFile {
    path: PathBuf,
    shard: Shard,
    fields: BTreeMap<String, Field>,
}

impl RowFile {
    pub fn open(path: &Path) -> Result<Self> {
        let (shard, fields) = open_shard(path)?;
        Ok(Self { path: path.to_path_buf(), shard, fields })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of rows.
    pub fn len(&self) -> u64 {
        self.shard.rows
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// Shape of one row of `tensor`.
    pub fn shape(&self, tensor: &str) -> Result<&[usize]> {
        Ok(&self.field(tensor)?.shape)
    }

    /// Rows of `tensor` in the stored dtype.
    pub fn rows(&self, tensor: &str, rows: Range<u64>) -> Result<Tensor> {
        let field = self.field(tensor)?;
        if rows.end > self.len() || rows.start > rows.end {
            bail!("{}: rows {rows:?} are out of range; it has {} rows", self.path.display(), self.len());
        }
        let shape: Vec<usize> = [(rows.end - rows.start) as usize].into_iter().chain(field.shape.clone()).collect();
        Tensor::from_raw_buffer(self.shard.rows(tensor, field, rows), field.dtype, &shape, &Device::Cpu)
    }

    fn field(&self, tensor: &str) -> Result<&Field> {
        match self.fields.get(tensor) {
            Some(f) => Ok(f),
            None => bail!(
                "{}: no tensor `{tensor}` (has {})",
                self.path.display(),
                self.tensors().collect::<Vec<_>>().join(", ")
            ),
        }
    }
}
