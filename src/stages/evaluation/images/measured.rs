//! What is known of a side once its images were looked at, or its statistics read.

use super::extract::{ExtraOutputs, Features, Pass, moments};
use super::image_source::ImageSource;
use super::inception_score::inception_score;
use super::metric::{Metric, Needs};
use super::provenance::Score;
use super::side::{Side, Statistics};
use candle_core::Tensor;
use erw_base::error::Result;
use erw_ml::data::batches::spread;
use erw_ml::metrics::gaussian::Gaussian;
use erw_ml::models::feature_network::mode::Mode;
use erw_runner::kind::attempt::Attempt;

/// Images of the reference whose features the ADM suite holds samples against, for precision and recall.
const ADM_REFERENCES: u64 = 10_000;

/// Of a side, what its metrics need.
#[derive(Debug, Default)]
pub struct Measured {
    /// Images behind mean and covariance; `None`: nobody says.
    pub count: Option<u64>,
    pub pool: Option<Gaussian>,
    pub spatial: Option<Gaussian>,
    /// Pooled features of single images `[n, dim]`.
    pub vectors: Option<Tensor>,
    pub score: Option<Score>,
}

impl Measured {
    /// Looks at a side in a pass `slot`. `most` is of images whose features are kept one by one.
    pub fn of(pass: Option<&Pass>, slot: &str, given: &Side, needs: Needs, most: Option<u64>) -> Result<Self> {
        match (given, pass) {
            (Side::Images { pictures, .. }, Some(pass)) => Self::look(pass, slot, pictures, needs, most),
            (Side::Images { .. }, None) => Ok(Self::default()),
            (Side::Stats(stats), pass) => Self::read(pass, slot, stats, needs),
        }
    }

    fn look(pass: &Pass, slot: &str, pictures: &ImageSource, needs: Needs, most: Option<u64>) -> Result<Self> {
        let wanted = ExtraOutputs { spatial: needs.spatial, logits: needs.score };
        let features = pass.extract(slot, pictures, wanted)?;
        let mode = pass.network.mode();
        let mut this = Self::of_features(pass.attempt, &features, needs, mode)?;
        if needs.vectors {
            let n = features.pool.len();
            this.vectors = Some(features.pool.chosen(&spread(n, most.unwrap_or(n)))?);
        }
        Ok(this)
    }

    /// All but vectors.
    pub fn of_features(attempt: &Attempt, features: &Features, needs: Needs, mode: Option<Mode>) -> Result<Self> {
        let pool = needs.pool.then(|| moments(&features.pool, attempt)).transpose()?;
        let spatial = match &features.spatial {
            Some(rows) if needs.spatial => Some(moments(rows, attempt)?),
            _ => None,
        };
        let score = match &features.logits {
            Some(rows) if needs.score => Some(inception_score(rows, mode)?),
            _ => None,
        };
        Ok(Self { count: Some(features.pool.len()), pool, spatial, vectors: None, score })
    }

    fn read(pass: Option<&Pass>, slot: &str, stats: &Statistics, needs: Needs) -> Result<Self> {
        let vectors = match (needs.vectors, stats.has_features(), pass) {
            (false, ..) => None,
            (true, true, _) => Some(stats.features()?),
            (true, false, Some(pass)) => {
                let features = pass.extract(slot, &stats.images()?, ExtraOutputs::default())?;
                Some(features.pool.range(0..features.pool.len())?)
            }
            (true, false, None) => None,
        };
        Ok(Self {
            count: stats.note().map(|note| note.count),
            pool: needs.pool.then(|| stats.pool()).transpose()?,
            spatial: needs.spatial.then(|| stats.spatial()).transpose()?,
            vectors,
            score: stats.note().and_then(|note| note.inception_score.clone()),
        })
    }
}

/// How many images of the reference precision and recall hold samples against, at most.
pub fn references(mode: Option<Mode>) -> Option<u64> {
    (mode == Some(Mode::Adm)).then_some(ADM_REFERENCES)
}

/// How many features of the reference are kept, at most: kernel distances are of all.
pub fn kept_references(mode: Option<Mode>, metrics: &[Metric]) -> Option<u64> {
    match metrics.iter().any(|m| matches!(m, Metric::Kid | Metric::Cmmd)) {
        true => None,
        false => references(mode),
    }
}

/// Images that a pass over this side looks at.
pub fn images(given: &Side, needs: Needs) -> Result<u64> {
    Ok(match given {
        Side::Images { pictures, .. } => pictures.len(),
        Side::Stats(stats) if needs.vectors && !stats.has_features() && stats.has_images() => stats.images()?.len(),
        Side::Stats(_) => 0,
    })
}
