//! Writes packed arrays, shard by shard.

use super::shard_file::ShardFile;
use super::{FORMAT, META, shard_name};
use crate::nn::params::Tensors;
use candle_core::{Result, bail};
use serde_json::Value;
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
    open: Option<ShardFile>,
}

impl PackedWriter {
    /// Starts an empty array in `dir`, which is created if needed. Memory holds what is pushed, and
    /// not the shard.
    pub fn create(dir: &Path, stem: &str, rows_per_shard: usize) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let rows_per_shard = rows_per_shard.max(1);
        Ok(Self { dir: dir.to_path_buf(), stem: stem.to_string(), rows_per_shard, shards: 0, written: 0, open: None })
    }

    /// Appends rows: tensors with the same leading dimension, and the same names in every call.
    pub fn push(&mut self, rows: &Tensors) -> Result<()> {
        let mut counts = rows.iter().map(|(k, t)| (k, t.dims().first().copied().unwrap_or(0)));
        let Some((first, n)) = counts.next() else { bail!("no tensors to write to {}", self.dir.display()) };
        if let Some((name, m)) = counts.find(|(_, m)| *m != n) {
            bail!("tensor `{first}` has {n} rows, `{name}` has {m}");
        }
        let mut done = 0;
        while done < n {
            let mut shard = match self.open.take() {
                Some(shard) => shard,
                None => {
                    let path = self.dir.join(shard_name(&self.stem, self.shards));
                    ShardFile::create(&path, self.rows_per_shard, rows)?
                }
            };
            let some = shard.lacks().min(n - done);
            shard.push(rows, done, some)?;
            done += some;
            self.written += some as u64;
            match shard.lacks() {
                0 => self.close(shard)?,
                _ => self.open = Some(shard),
            }
        }
        Ok(())
    }

    fn close(&mut self, shard: ShardFile) -> Result<()> {
        self.shards += 1;
        shard.finish()
    }

    /// Completes the last shard and writes `meta.json`: `format` and `count`, then the fields of the
    /// object `meta`. Returns the number of rows.
    pub fn finish(mut self, meta: &Value) -> Result<u64> {
        if let Some(shard) = self.open.take() {
            self.close(shard)?;
        }
        write_meta(&self.dir, self.written, meta)?;
        Ok(self.written)
    }
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
