//! Inception Score of stored class scores, split into parts like the imitated tool does.

use super::rows::Rows;
use crate::data::batches::batches;
use crate::metrics::inception_score::{InceptionScore, Parts, Score};
use crate::models::feature_network::mode::Mode;
use candle_core::Result;

/// Rows per update. Does not affect the score.
const ROWS: usize = 1024;

/// How the tool of `mode` splits samples into parts. pytorch-fid and clean-fid have no Inception
/// Score, so they get the parts of the ADM suite, whose score papers report.
pub fn parts(mode: Option<Mode>) -> Parts {
    match mode {
        Some(Mode::TorchFidelity) => Parts::TORCH_FIDELITY,
        _ => Parts::ADM,
    }
}

/// Whether there are enough images for at least one in every part.
pub fn is_possible(images: u64, mode: Option<Mode>) -> bool {
    match parts(mode) {
        Parts::Size(_) => images > 0,
        Parts::Shuffled { count, .. } => images >= count as u64,
    }
}

/// The Inception Score of class scores `[n, classes]`, one row per image.
pub fn inception_score(rows: &Rows, mode: Option<Mode>) -> Result<Score> {
    let mut sums = InceptionScore::new(rows.len() as usize, rows.dim(), parts(mode))?;
    for range in batches(rows.len(), ROWS) {
        sums.push(&rows.range(range)?)?;
    }
    sums.score()
}
