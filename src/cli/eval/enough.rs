//! Whether sides hold images enough for a metric, as far as can be told from outside: what cannot be had of them is refused
//! at once, not after an hour. Computes nothing.

use super::given::Given;
use super::images::Mode;
use crate::error::{Error, Result};

/// Neighbour of precision and recall and images of a subset of KID, where nothing else is said: as the manifest of `fid`
/// has them.
const K: u32 = 3;
const KID_SUBSET_SIZE: u32 = 1000;
/// Parts of torch-fidelity's Inception Score.
const PARTS: u64 = 10;

/// A side: its place, what was given there, and what that is.
pub type Side<'a> = (&'static str, &'a str, Given);

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
        let (k, size) = (self.k.unwrap_or(K), self.kid_subset_size.unwrap_or(KID_SUBSET_SIZE));
        let (sides, least, what, hint) = match metric {
            "kid" => (
                sides,
                u64::from(size),
                format!("a subset of `kid` {size}"),
                "`--kid-subset-size` sets another, whose numbers do not compare",
            ),
            "precision" | "recall" | "density" | "coverage" => (
                sides,
                u64::from(k) + 1,
                format!("`{metric}` to neighbour {k} needs {}", u64::from(k) + 1),
                "`-k` sets another, whose numbers do not compare",
            ),
            "is" if self.mode == Mode::TorchFidelity => (
                &sides[..1],
                PARTS,
                format!("torch-fidelity's Inception Score has {PARTS} parts"),
                "that of mode adm is over parts of 5,000 images",
            ),
            _ => return Ok(()),
        };
        for (_, said, given) in sides {
            let most = self.limit.filter(|_| !given.is_statistics()).map_or(u64::MAX, u64::from);
            if let Some(n) = given.images().map(|n| n.min(most)).filter(|n| *n < least) {
                let images = if n == 1 { "image" } else { "images" };
                return Err(Error::usage(format!("`{said}` has {n} {images}, and {what}")).hint(hint));
            }
        }
        Ok(())
    }
}
