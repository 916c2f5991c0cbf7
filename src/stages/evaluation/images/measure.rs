//! Sides as they are given, measured.

use super::side::{Side, Statistics};
use erw_base::error::{Error, Result};
use erw_ml::evaluation::extract::{ExtraOutputs, Pass};
use erw_ml::evaluation::measured::Measured;
use erw_ml::evaluation::metric::Needs;

/// Looks at a side in a pass `slot`. `most` is of images whose features are kept one by one.
pub fn measure_side(
    pass: Option<&Pass>,
    slot: &str,
    given: &Side,
    needs: Needs,
    most: Option<u64>,
) -> Result<Measured> {
    match (given, pass) {
        (Side::Images { pictures, .. }, Some(pass)) => {
            Measured::of_images(pass, slot, pictures, needs, most)?.ok_or_else(Error::suspended)
        }
        (Side::Images { .. }, None) => Ok(Measured::default()),
        (Side::Stats(stats), pass) => read(pass, slot, stats, needs),
    }
}

fn read(pass: Option<&Pass>, slot: &str, stats: &Statistics, needs: Needs) -> Result<Measured> {
    let vectors = match (needs.vectors, stats.has_features(), pass) {
        (false, ..) => None,
        (true, true, _) => Some(stats.features()?),
        (true, false, Some(pass)) => {
            let features = pass.extract(slot, &stats.images()?, ExtraOutputs::default())?;
            let pool = features.ok_or_else(Error::suspended)?.pool;
            Some(pool.range(0..pool.len())?)
        }
        (true, false, None) => None,
    };
    Ok(Measured {
        count: stats.note().map(|note| note.count),
        pool: needs.pool.then(|| stats.pool()).transpose()?,
        spatial: needs.spatial.then(|| stats.spatial()).transpose()?,
        vectors,
        score: stats.note().and_then(|note| note.inception_score.clone()),
    })
}

/// Images that a pass over this side looks at.
pub fn images(given: &Side, needs: Needs) -> Result<u64> {
    Ok(match given {
        Side::Images { pictures, .. } => pictures.len(),
        Side::Stats(stats) if needs.vectors && !stats.has_features() && stats.has_images() => stats.images()?.len(),
        Side::Stats(_) => 0,
    })
}
