//! Shared by the stages that fill a packed array: they resume after the last complete shard of an
//! earlier attempt. The result does not depend on where that was.

use crate::support::files::move_files;
use erw_base::error::{Error, Result};
use erw_ml::data::packed::PackedWriter;
use erw_ml::nn::params::Tensors;
use erw_runner::kind::attempt::Attempt;
use serde_json::Value;
use std::ops::Range;

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
    /// Makes the missing rows batch by batch, then completes the output and writes `meta` beside
    /// it.
    pub fn fill(
        &self,
        attempt: &Attempt,
        meta: &Value,
        mut rows: impl FnMut(Range<u64>) -> Result<Tensors>,
    ) -> Result<()> {
        let shards = attempt.checkpoint_dir().join(self.output);
        let mut writer = PackedWriter::resume(&shards, self.output, self.rows_per_shard)?;
        let mut done = writer.written().min(self.total);
        if done > 0 {
            attempt.resumed(done);
        }
        while done < self.total {
            if attempt.should_stop() {
                return Err(Error::suspended());
            }
            let batch = done..(done + self.batch.max(1) as u64).min(self.total);
            done = batch.end;
            let before = writer.written();
            writer.push(&rows(batch)?)?;
            if writer.written() > before {
                attempt.checkpointed(writer.written());
            }
            attempt.progress(done, self.total);
        }
        writer.finish(meta)?;
        move_files(&shards, &attempt.output(self.output))?;
        attempt.result("images", self.total as f64);
        Ok(())
    }
}
