//! Whether sides hold images enough for a metric, as far as can be told from outside: what cannot be had of them is refused
//! at once, not after an hour. Computes nothing.

use super::given::Side;
use crate::error::{Error, Result};
use crate::ml::metrics::inception_score::Parts;
use crate::ml::metrics::kid::Subsets;
use crate::ml::metrics::precision_recall::K;
use crate::ml::models::mode::Mode;
use crate::stages::inception_score_parts;

/// What decides how many images metrics need.
pub struct Counts {
    pub k: Option<u32>,
    pub kid_subset_size: Option<u32>,
    pub mode: Mode,
    /// Images of each side that are looked at, at most.
    pub limit: Option<u32>,
}

impl Counts {
    /// # Errors
    /// Where a side is known to be too small.
    pub fn check(&self, metric: &str, sides: &[Side<'_>]) -> Result<()> {
        let k = self.k.map_or(K as u64, u64::from);
        let size = self.kid_subset_size.map_or(Subsets::TORCH_FIDELITY.size as u64, u64::from);
        let (sides, least, what, hint) = match metric {
            "kid" => (
                sides,
                size,
                format!("a subset of `kid` {size}"),
                "`--kid-subset-size` sets another, whose numbers do not compare",
            ),
            "precision" | "recall" | "density" | "coverage" => (
                sides,
                k + 1,
                format!("`{metric}` to neighbour {k} needs {}", k + 1),
                "`-k` sets another, whose numbers do not compare",
            ),
            "is" => match inception_score_parts(Some(self.mode)) {
                Parts::Shuffled { count, .. } => (
                    &sides[..1],
                    count as u64,
                    format!("torch-fidelity's Inception Score has {count} parts"),
                    "that of mode adm is over parts of 5,000 images",
                ),
                Parts::Size(_) => return Ok(()),
            },
            _ => return Ok(()),
        };
        for side in sides {
            let most = self.limit.filter(|_| !side.given.is_statistics()).map_or(u64::MAX, u64::from);
            if let Some(n) = side.images().map(|n| n.min(most)).filter(|n| *n < least) {
                let images = if n == 1 { "image" } else { "images" };
                return Err(Error::usage(format!("`{}` has {n} {images}, and {what}", side.said)).hint(hint));
            }
        }
        Ok(())
    }
}
