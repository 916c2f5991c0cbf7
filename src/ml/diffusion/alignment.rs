//! How projections are compared with features: the loss, and the normalisation of features before
//! it.

use super::loss;
use candle_core::{Result, Tensor};
use serde::Deserialize;

/// Settings of the alignment loss. Deserialized with the names of the stage parameters.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Alignment {
    #[serde(rename = "alignment_loss")]
    pub loss: AlignmentLoss,
    /// Temperature of NT-Xent.
    pub temperature: f64,
    pub spatial_norm: SpatialNorm,
    /// Factor alpha of the z-score.
    pub spatial_norm_alpha: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlignmentLoss {
    Cosine,
    NtXent,
}

/// Normalisation of features before the loss.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpatialNorm {
    None,
    Zscore,
}

impl Alignment {
    /// REPA's setting: the cosine of projections and unmodified features.
    pub const COSINE: Self = Self {
        loss: AlignmentLoss::Cosine,
        temperature: 0.1,
        spatial_norm: SpatialNorm::None,
        spatial_norm_alpha: 0.0,
    };

    /// The factor alpha of the z-score of features, if they are normalised.
    pub fn spatial_norm(&self) -> Option<f64> {
        (self.spatial_norm == SpatialNorm::Zscore).then_some(self.spatial_norm_alpha)
    }

    /// Whether the loss compares the images of a batch with each other.
    pub fn is_over_pairs(&self) -> bool {
        self.loss == AlignmentLoss::NtXent
    }

    /// The loss of a micro-batch. Features and projections are `[B, N, Z]`, one tensor of each per
    /// encoder.
    pub fn loss(&self, features: Vec<Tensor>, projections: &[Tensor]) -> Result<Tensor> {
        let features = match self.spatial_norm {
            SpatialNorm::None => features,
            SpatialNorm::Zscore => {
                let norm = |f: &Tensor| loss::spatial_zscore(f, self.spatial_norm_alpha);
                features.iter().map(norm).collect::<Result<_>>()?
            }
        };
        match self.loss {
            AlignmentLoss::Cosine => loss::alignment(&features, projections),
            AlignmentLoss::NtXent => loss::nt_xent(&features, projections, self.temperature),
        }
    }
}
