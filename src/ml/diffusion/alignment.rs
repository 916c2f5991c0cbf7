//! How projections are compared with features: the loss, and what is done to the features first.

use super::loss;
use candle_core::{Result, Tensor};
use serde::Deserialize;

/// Deserialized by the names that a stage's parameters have.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Alignment {
    #[serde(rename = "alignment_loss")]
    pub loss: AlignmentLoss,
    /// Of NT-Xent.
    pub temperature: f64,
    pub spatial_norm: SpatialNorm,
    /// Of the z-score.
    pub spatial_norm_alpha: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlignmentLoss {
    Cosine,
    NtXent,
}

/// What is done to features first.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpatialNorm {
    None,
    Zscore,
}

impl Alignment {
    /// REPA's: the cosine of projections and features as they are.
    pub const COSINE: Self = Self {
        loss: AlignmentLoss::Cosine,
        temperature: 0.1,
        spatial_norm: SpatialNorm::None,
        spatial_norm_alpha: 0.0,
    };

    /// Whether the loss compares the images of a batch with each other.
    pub fn is_over_pairs(&self) -> bool {
        self.loss == AlignmentLoss::NtXent
    }

    /// The loss of a micro-batch; features and projections `[B, N, Z]`, one each per encoder.
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
