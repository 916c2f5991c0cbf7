//! Whether sides hold images enough for a metric, as far as can be told from outside: what cannot be had of them is refused
//! at once, not after an hour. Computes nothing.

use super::given::Side;
use erw_base::error::{Error, Result};
use erw_ml::evaluation::inception_score;
use erw_ml::metrics::bounds::Requirements;
use erw_ml::metrics::inception_score::Parts;
use erw_ml::metrics::kid::Subsets;
use erw_ml::metrics::precision_recall::K;
use erw_ml::models::feature_network::mode::Mode;

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
        let parts = inception_score::parts(Some(self.mode));
        let k = self.k.map_or(K, |k| k as usize);
        let size = self.kid_subset_size.map_or(Subsets::TORCH_FIDELITY.size, |size| size as usize);
        let Some(bounds) = (Requirements { k, subset_size: size, parts, ..Requirements::PLAIN }).of(metric) else {
            return Ok(());
        };
        let least = bounds.least as u64;
        let (sides, what, hint) = match (metric, parts) {
            ("kid", _) => (
                sides,
                format!("a subset of `kid` {least}"),
                "`--kid-subset-size` sets another, whose numbers do not compare",
            ),
            ("precision" | "recall" | "density" | "coverage", _) => (
                sides,
                format!("`{metric}` to neighbour {k} needs {least}"),
                "`-k` sets another, whose numbers do not compare",
            ),
            ("is", Parts::Shuffled { count, .. }) => (
                &sides[..1],
                format!("torch-fidelity's Inception Score has {count} parts"),
                "that of mode adm is over parts of 5,000 images",
            ),
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
