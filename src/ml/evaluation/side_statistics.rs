//! The statistics of one side of a comparison, computed from the features of its images.

use super::extract::{ExtraOutputs, Features, Pass, moments};
use super::image_source::ImageSource;
use super::inception_score::inception_score;
use super::metric::{Metric, Needs};
use crate::data::batches::spread;
use crate::metrics::gaussian::Gaussian;
use crate::metrics::inception_score::Score;
use crate::models::feature_network::mode::Mode;
use crate::observer::Observer;
use candle_core::{Result, Tensor};

/// Number of reference images that the ADM suite uses for precision and recall.
const ADM_REFERENCES: u64 = 10_000;

/// What the metrics need of one side.
#[derive(Debug, Default)]
pub struct SideStatistics {
    /// Number of images behind the mean and covariance; `None` if it is unknown.
    pub count: Option<u64>,
    pub pool: Option<Gaussian>,
    pub spatial: Option<Gaussian>,
    /// Pooled features of individual images `[n, dim]`.
    pub vectors: Option<Tensor>,
    pub score: Option<Score>,
}

impl SideStatistics {
    /// Computes the statistics of images in a pass called `name`. `most` limits the number of
    /// images whose individual features are kept. Returns `None` if the observer asks to stop.
    pub fn of_images(
        pass: &Pass,
        name: &str,
        pictures: &ImageSource,
        needs: Needs,
        most: Option<u64>,
    ) -> Result<Option<Self>> {
        let Some(features) = pass.extract(name, pictures, ExtraOutputs::of(needs))? else { return Ok(None) };
        let Some(this) = Self::of_features(pass.obs, &features, needs, pass.network.mode())? else { return Ok(None) };
        let n = features.pool.len();
        let vectors = || features.pool.chosen(&spread(n, most.unwrap_or(n)));
        Ok(Some(Self { vectors: needs.vectors.then(vectors).transpose()?, ..this }))
    }

    /// Computes all statistics except `vectors`. Returns `None` if the observer asks to stop.
    pub fn of_features(
        obs: &dyn Observer,
        features: &Features,
        needs: Needs,
        mode: Option<Mode>,
    ) -> Result<Option<Self>> {
        let mut this = Self { count: Some(features.pool.len()), ..Self::default() };
        let spatial = features.spatial.as_ref().filter(|_| needs.spatial);
        let pool = Some(&features.pool).filter(|_| needs.pool);
        for (rows, gaussian) in [(pool, &mut this.pool), (spatial, &mut this.spatial)] {
            let Some(rows) = rows else { continue };
            *gaussian = moments(rows, obs)?;
            if gaussian.is_none() {
                return Ok(None);
            }
        }
        let logits = features.logits.as_ref().filter(|_| needs.score);
        this.score = logits.map(|rows| inception_score(rows, mode)).transpose()?;
        Ok(Some(this))
    }
}

/// Maximum number of reference images for precision and recall; `None` for no limit.
pub fn references(mode: Option<Mode>) -> Option<u64> {
    (mode == Some(Mode::Adm)).then_some(ADM_REFERENCES)
}

/// Maximum number of reference features to keep; `None` for no limit. Kernel distances use all.
pub fn kept_references(mode: Option<Mode>, metrics: &[Metric]) -> Option<u64> {
    match metrics.iter().any(|m| matches!(m, Metric::Kid | Metric::Cmmd)) {
        true => None,
        false => references(mode),
    }
}
