//! Writes packed arrays, shard by shard.

use super::{FORMAT, META, shard_name};
use crate::nn::params::{self, Tensors};
use candle_core::{Result, Tensor, bail};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes a packed array shard by shard.
#[derive(Debug)]
pub struct PackedWriter {
    dir: PathBuf,
    stem: String,
    rows_per_shard: usize,
    shards: usize,
    written: u64,
    pending: VecDeque<Tensors>,
    pending_rows: usize,
}

impl PackedWriter {
    /// Starts an empty array in `dir`, which is created if needed. Memory holds up to
    /// `rows_per_shard` rows and one batch.
    pub fn create(dir: &Path, stem: &str, rows_per_shard: usize) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let rows_per_shard = rows_per_shard.max(1);
        let stem = stem.to_string();
        let dir = dir.to_path_buf();
        Ok(Self { dir, stem, rows_per_shard, shards: 0, written: 0, pending: VecDeque::new(), pending_rows: 0 })
    }

    fn shard_path(&self, index: usize) -> PathBuf {
        self.dir.join(shard_name(&self.stem, index))
    }

    /// Appends rows: tensors with the same leading dimension, and the same names in every call.
    pub fn push(&mut self, rows: &Tensors) -> Result<()> {
        let mut counts = rows.iter().map(|(k, t)| (k, t.dims().first().copied().unwrap_or(0)));
        let Some((first, n)) = counts.next() else { bail!("no tensors to write to {}", self.dir.display()) };
        if let Some((name, m)) = counts.find(|(_, m)| *m != n) {
            bail!("tensor `{first}` has {n} rows, `{name}` has {m}");
        }
        if let Some(before) = self.pending.front()
            && !same_kinds(before, rows)
        {
            bail!("rows for {} have other tensors than the previous rows", self.dir.display());
        }
        self.pending.push_back(rows.clone());
        self.pending_rows += n;
        while self.pending_rows >= self.rows_per_shard {
            self.write_shard(self.rows_per_shard)?;
        }
        Ok(())
    }

    /// Writes the first `n` pending rows as the next shard.
    fn write_shard(&mut self, n: usize) -> Result<()> {
        let (mut parts, mut left) = (vec![], n);
        while left > 0
            && let Some(mut part) = self.pending.pop_front()
        {
            let rows = part.values().next().map_or(0, |t| t.dims()[0]);
            if rows > left {
                // Copied, because a view would keep the whole part in memory.
                let rest = |t: &Tensor| t.narrow(0, left, rows - left)?.copy();
                self.pending.push_front(each(&part, rest)?);
                part = each(&part, |t| t.narrow(0, 0, left))?;
            }
            left -= rows.min(left);
            parts.push(part);
        }
        write_shard(&self.shard_path(self.shards), &parts)?;
        self.shards += 1;
        self.written += n as u64;
        self.pending_rows -= n;
        Ok(())
    }

    /// Writes the remaining rows and `meta.json`: `format` and `count`, then the fields of the
    /// object `meta`. Returns the number of rows.
    pub fn finish(mut self, meta: &Value) -> Result<u64> {
        if self.pending_rows > 0 {
            self.write_shard(self.pending_rows)?;
        }
        write_meta(&self.dir, self.written, meta)?;
        Ok(self.written)
    }
}

/// Writes the rows of a shard, in the parts in which they were made: tensors with the same names and
/// kinds of rows in every part. The file appears when it is whole.
pub fn write_shard(path: &Path, parts: &[Tensors]) -> Result<()> {
    let rows = parts.iter().filter_map(|part| part.values().next()).map(|t| t.dims().first().copied().unwrap_or(0));
    let rows = rows.sum();
    let Some(first) = parts.first() else { bail!("no rows to write to {}", path.display()) };
    if let Some(other) = parts.iter().find(|part| !same_kinds(first, part)) {
        let names = |part: &Tensors| part.keys().cloned().collect::<Vec<_>>().join(", ");
        bail!(
            "rows for {} have other tensors ({}) than the previous rows ({})",
            path.display(),
            names(other),
            names(first)
        );
    }
    let columns = first.keys().map(|k| (k.clone(), Column::of(k, parts, rows)));
    params::save_views(columns.collect::<Vec<_>>(), path)
}

/// Writes `meta.json` of an array with so many rows: `format` and `count`, then the fields of the
/// object `meta`.
pub fn write_meta(dir: &Path, rows: u64, meta: &Value) -> Result<()> {
    let Value::Object(own) = meta else { bail!("`meta` for {} is not an object", dir.display()) };
    let mut all = serde_json::Map::new();
    all.insert("format".into(), FORMAT.into());
    all.insert("count".into(), rows.into());
    all.extend(own.iter().filter(|(k, _)| *k != "format" && *k != "count").map(|(k, v)| (k.clone(), v.clone())));
    let text = serde_json::to_string_pretty(&Value::Object(all)).map_err(candle_core::Error::wrap)?;
    Ok(fs::write(dir.join(META), text + "\n")?)
}

/// Whether all tensors have the same names and kinds of rows.
fn same_kinds(a: &Tensors, b: &Tensors) -> bool {
    let kind = |t: &Tensor| (t.dtype(), t.dims().get(1..).map(<[usize]>::to_vec));
    a.iter().map(|(k, t)| (k, kind(t))).eq(b.iter().map(|(k, t)| (k, kind(t))))
}

fn each(tensors: &Tensors, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensors> {
    tensors.iter().map(|(name, t)| Ok((name.clone(), change(t)?))).collect()
}

/// A tensor of a shard, in the parts that were pushed. The parts are joined only while the tensor
/// is written, so memory holds the shard once plus its largest tensor.
struct Column<'a> {
    parts: Vec<&'a Tensor>,
    shape: Vec<usize>,
}

impl<'a> Column<'a> {
    fn of(name: &str, parts: &'a [Tensors], rows: usize) -> Self {
        let parts: Vec<&Tensor> = parts.iter().filter_map(|p| p.get(name)).collect();
        let mut shape = parts.first().map(|t| t.dims().to_vec()).unwrap_or_default();
        shape.iter_mut().take(1).for_each(|n| *n = rows);
        Self { parts, shape }
    }
}

impl safetensors::View for Column<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        self.parts.first().map_or(safetensors::Dtype::U8, safetensors::View::dtype)
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut all = Vec::with_capacity(self.data_len());
        self.parts.iter().for_each(|part| all.extend_from_slice(&safetensors::View::data(part)));
        Cow::Owned(all)
    }

    fn data_len(&self) -> usize {
        self.parts.iter().map(safetensors::View::data_len).sum()
    }
}
