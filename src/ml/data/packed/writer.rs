//! Writes packed arrays, shard by shard.

use super::{FORMAT, META, open_shard, shard_name};
use crate::nn::params::{self, Tensors};
use candle_core::{Result, Tensor, bail};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes a packed array shard by shard. Each shard is written atomically, so a writer can
/// [`resume`](Self::resume) after the shards of an earlier one.
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

    /// Continues after the complete shards in `dir`. Shards after a damaged or incomplete one are
    /// written again.
    pub fn resume(dir: &Path, stem: &str, rows_per_shard: usize) -> Result<Self> {
        let mut this = Self::create(dir, stem, rows_per_shard)?;
        while let Ok((shard, _)) = open_shard(&this.shard_path(this.shards)) {
            if shard.rows != this.rows_per_shard as u64 {
                break;
            }
            this.shards += 1;
            this.written += shard.rows;
        }
        let mut stale = this.shards;
        while this.shard_path(stale).exists() {
            fs::remove_file(this.shard_path(stale))?;
            stale += 1;
        }
        Ok(this)
    }

    fn shard_path(&self, index: usize) -> PathBuf {
        self.dir.join(shard_name(&self.stem, index))
    }

    /// Rows that are safely on disk; a resumed writer continues there.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Appends rows: tensors with the same leading dimension, and the same names in every call.
    pub fn push(&mut self, rows: &Tensors) -> Result<()> {
        let mut counts = rows.iter().map(|(k, t)| (k, t.dims().first().copied().unwrap_or(0)));
        let Some((first, n)) = counts.next() else { bail!("no tensors to write to {}", self.dir.display()) };
        if let Some((name, m)) = counts.find(|(_, m)| *m != n) {
            bail!("tensor `{first}` has {n} rows, `{name}` has {m}");
        }
        let kind = |t: &Tensor| (t.dtype(), t.dims().get(1..).map(<[usize]>::to_vec));
        if let Some(before) = self.pending.front()
            && !before.iter().map(|(k, t)| (k, kind(t))).eq(rows.iter().map(|(k, t)| (k, kind(t))))
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
        let columns = parts.first().into_iter().flat_map(Tensors::keys).map(|k| (k.clone(), Column::of(k, &parts, n)));
        params::save_views(columns.collect::<Vec<_>>(), &self.shard_path(self.shards))?;
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
        let Value::Object(own) = meta else { bail!("`meta` for {} is not an object", self.dir.display()) };
        let mut all = serde_json::Map::new();
        all.insert("format".into(), FORMAT.into());
        all.insert("count".into(), self.written.into());
        all.extend(own.iter().filter(|(k, _)| *k != "format" && *k != "count").map(|(k, v)| (k.clone(), v.clone())));
        let text = serde_json::to_string_pretty(&Value::Object(all)).map_err(candle_core::Error::wrap)?;
        fs::write(self.dir.join(META), text + "\n")?;
        Ok(self.written)
    }
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
