//! Shared by the stages that fill a packed array: its shards are the pieces of their work.

use crate::support::files::move_files;
use crate::support::observer::{AttemptObserver, share};
use erw_base::error::{Error, Result};
use erw_ml::data::packed::{RowFile, ShardFile, write_meta};
use erw_ml::nn::params::Tensors;
use erw_ml::pieces::Pieces;
use erw_runner::kind::attempt::Attempt;
use serde_json::Value;
use std::ops::Range;
use std::path::Path;

/// A packed array to fill.
pub struct Pack<'a> {
    /// Name of the output and of its shards.
    pub output: &'a str,
    pub rows_per_shard: usize,
    /// Number of rows.
    pub total: u64,
    /// Rows to make at once.
    pub batch: usize,
}

impl Pack<'_> {
    /// Makes the missing rows batch by batch. The first rank then completes the output and writes
    /// `meta` beside it.
    pub fn fill(
        &self,
        attempt: &Attempt,
        meta: &Value,
        mut rows: impl FnMut(Range<u64>) -> Result<Tensors>,
    ) -> Result<()> {
        let shards = attempt.checkpoint_dir().join(self.output);
        let pieces = Pieces {
            dir: shards.clone(),
            stem: self.output,
            ending: ".safetensors",
            total: self.total,
            size: self.rows_per_shard.max(1) as u64,
            share: share(attempt),
            is_sound: &|path, rows| RowFile::open(path).is_ok_and(|shard| shard.len() == rows),
            obs: &AttemptObserver(attempt),
            before: 0,
            of: self.total,
        };
        let missing = pieces.missing().map_err(|e| Error::io("prepare", &shards, e))?;
        for piece in &missing.numbers {
            let whole = pieces.range(*piece);
            let write = |path: &Path| {
                let (mut shard, mut next) = (None, whole.start);
                while next < whole.end {
                    if attempt.should_stop() {
                        return Err(Error::suspended());
                    }
                    let batch = next..(next + self.batch.max(1) as u64).min(whole.end);
                    let (count, rows) = ((batch.end - next) as usize, rows(batch)?);
                    let shard = match &mut shard {
                        Some(shard) => shard,
                        None => shard.insert(ShardFile::create(path, (whole.end - whole.start) as usize, &rows)?),
                    };
                    shard.push(&rows, 0, count)?;
                    next += count as u64;
                    missing.progress(next - whole.start);
                }
                shard.map_or(Ok(()), |shard: ShardFile| Ok(shard.finish()?))
            };
            missing.put_or(*piece, write, |e| Error::io("write", &pieces.path(*piece), e))?;
        }
        if attempt.rank() > 0 {
            return Ok(());
        }
        if !pieces.wait() {
            return Err(Error::suspended());
        }
        write_meta(&shards, self.total, meta)?;
        move_files(&shards, &attempt.output(self.output))?;
        attempt.result("images", self.total as f64);
        Ok(())
    }
}
