//! The statistics of one side of a comparison: extracted from images, or loaded.

use super::side::{Side, Statistics};
use erw_base::error::{Error, Result};
use erw_ml::evaluation::extract::{ExtraOutputs, Pass};
use erw_ml::evaluation::metric::Needs;
use erw_ml::evaluation::side_statistics::SideStatistics;

/// Statistics of the side `given`, as far as `needs` asks for them. Images are read in a pass named
/// `slot`; `most` limits the number of images whose features are kept, `None` keeps all. Of loaded
/// statistics, images are read only if single features are needed and were not kept.
///
/// # Errors
/// [`Error::suspended`] if the attempt was asked to stop.
pub fn measure_side(
    pass: Option<&Pass>,
    slot: &str,
    given: &Side,
    needs: Needs,
    most: Option<u64>,
) -> Result<SideStatistics> {
    match (given, pass) {
        (Side::Images { pictures, .. }, Some(pass)) => {
            SideStatistics::of_images(pass, slot, pictures, needs, most)?.ok_or_else(Error::suspended)
        }
        (Side::Images { .. }, None) => Ok(SideStatistics::default()),
        (Side::Stats(stats), pass) => read(pass, slot, stats, needs),
    }
}

fn read(pass: Option<&Pass>, slot: &str, stats: &Statistics, needs: Needs) -> Result<SideStatistics> {
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
    Ok(SideStatistics {
        count: stats.note().map(|note| note.count),
        pool: needs.pool.then(|| stats.pool()).transpose()?,
        spatial: needs.spatial.then(|| stats.spatial()).transpose()?,
        vectors,
        score: stats.note().and_then(|note| note.inception_score.clone()),
    })
}

/// Makes the features of the images of this rank that [`measure_side`] needs.
///
/// # Errors
/// [`Error::suspended`] if the attempt was asked to stop.
pub fn make_side(pass: &Pass, slot: &str, given: &Side, needs: Needs) -> Result<()> {
    let is_made = match given {
        Side::Images { pictures, .. } => pass.make(slot, pictures, ExtraOutputs::of(needs))?,
        Side::Stats(stats) if needs.vectors && !stats.has_features() => {
            pass.make(slot, &stats.images()?, ExtraOutputs::default())?
        }
        Side::Stats(_) => true,
    };
    if is_made { Ok(()) } else { Err(Error::suspended()) }
}

/// Number of images that a pass over this side reads.
pub fn images(given: &Side, needs: Needs) -> Result<u64> {
    Ok(match given {
        Side::Images { pictures, .. } => pictures.len(),
        Side::Stats(stats) if needs.vectors && !stats.has_features() && stats.has_images() => stats.images()?.len(),
        Side::Stats(_) => 0,
    })
}
