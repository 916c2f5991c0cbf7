//! What is known of a side of a comparison once its images were looked at.

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

/// Images of the reference whose features the ADM suite holds samples against, for precision and
/// recall.
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
    /// Looks at images in a pass `name`. `most` is of images whose features are kept one by one.
    /// `None` where the observer asked to stop.
    pub fn of_images(
        pass: &Pass,
        name: &str,
        pictures: &ImageSource,
        needs: Needs,
        most: Option<u64>,
    ) -> Result<Option<Self>> {
        let wanted = ExtraOutputs { spatial: needs.spatial, logits: needs.score };
        let Some(features) = pass.extract(name, pictures, wanted)? else { return Ok(None) };
        let Some(this) = Self::of_features(pass.obs, &features, needs, pass.network.mode())? else { return Ok(None) };
        let n = features.pool.len();
        let vectors = || features.pool.chosen(&spread(n, most.unwrap_or(n)));
        Ok(Some(Self { vectors: needs.vectors.then(vectors).transpose()?, ..this }))
    }

    /// All but vectors.
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
