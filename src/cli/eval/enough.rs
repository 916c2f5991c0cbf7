//! Checks that the sides have enough images for a metric, as far as is known without reading them.
//! A metric that cannot be computed is refused at once, not after an hour. Computes nothing.

use super::input::Side;
use erw_base::error::{Error, Result};
use erw_ml::evaluation::inception_score;
use erw_ml::metrics::bounds::Requirements;
use erw_ml::metrics::inception_score::Parts;
use erw_ml::metrics::kid::Subsets;
use erw_ml::metrics::precision_recall::K;
use erw_ml::models::feature_network::mode::Mode;

/// The settings that decide how many images metrics need.
pub struct Counts {
    pub k: Option<u32>,
    pub kid_subset_size: Option<u32>,
    pub mode: Mode,
    /// The `--limit` on images of each side.
    pub limit: Option<u32>,
}

impl Counts {
    /// Checks that each side has enough images for `metric`.
    ///
    /// # Errors
    /// If a side is known to have too few images.
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
                format!("a subset of `kid` needs {least}"),
                "`--kid-subset-size` sets another size; its values are not comparable",
            ),
            ("precision" | "recall" | "density" | "coverage", _) => (
                sides,
                format!("`{metric}` with {k} neighbours needs {least}"),
                "`-k` sets another number of neighbours; its values are not comparable",
            ),
            ("is", Parts::Shuffled { count, .. }) => (
                &sides[..1],
                format!("torch-fidelity's Inception Score needs {count}, one for each part"),
                "`--mode adm` computes it over parts of 5,000 images",
            ),
            _ => return Ok(()),
        };
        for side in sides {
            let most = self.limit.filter(|_| !side.given.is_statistics()).map_or(u64::MAX, u64::from);
            if let Some(n) = side.images().map(|n| n.min(most)).filter(|n| *n < least) {
                let images = if n == 1 { "image" } else { "images" };
                return Err(Error::usage(format!("`{}` has {n} {images}, but {what}", side.said)).hint(hint));
            }
        }
        Ok(())
    }
}
