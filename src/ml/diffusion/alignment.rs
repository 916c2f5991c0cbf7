//! How projections are compared with features: the losses, and the normalisation of features before
//! them.

use super::loss::{self, Relation};
use candle_core::{Result, Tensor};
use serde::Deserialize;

/// Settings of the alignment losses. Deserialized with the names of the stage parameters.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Alignment {
    #[serde(rename = "alignment_loss")]
    pub loss: AlignmentLoss,
    /// Temperature of NT-Xent.
    pub temperature: f64,
    pub spatial_norm: SpatialNorm,
    /// Factor alpha of the z-score.
    pub spatial_norm_alpha: f64,
    /// Weight of the relation loss beside the alignment loss; 0: none.
    pub relation: f64,
    pub relation_over: Relation,
}

/// The alignment losses of a micro-batch.
pub struct AlignmentLosses {
    /// Cosine or NT-Xent.
    pub alignment: Tensor,
    /// Without its weight; `None` if that is 0.
    pub relation: Option<Tensor>,
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
        relation: 0.0,
        relation_over: Relation::Images,
    };

    /// The factor alpha of the z-score of features, if they are normalised.
    pub fn spatial_norm(&self) -> Option<f64> {
        (self.spatial_norm == SpatialNorm::Zscore).then_some(self.spatial_norm_alpha)
    }

    /// The setting by which the images of a batch are compared with each other, if there is one.
    pub fn over_pairs(&self) -> Option<&'static str> {
        match self {
            Self { loss: AlignmentLoss::NtXent, .. } => Some("alignment_loss = \"nt-xent\""),
            Self { relation_over: Relation::Images, .. } if self.relation > 0.0 => Some("relation"),
            _ => None,
        }
    }

    /// The sum of the losses of a micro-batch. See [`losses`](Self::losses).
    pub fn loss(&self, features: Vec<Tensor>, projections: &[Tensor]) -> Result<Tensor> {
        self.sum(self.losses(features, projections)?)
    }

    /// The sum of these losses with their weights.
    pub fn sum(&self, losses: AlignmentLosses) -> Result<Tensor> {
        match losses.relation {
            None => Ok(losses.alignment),
            Some(relation) => losses.alignment + (relation * self.relation)?,
        }
    }

    /// The losses of a micro-batch. Features and projections are `[B, N, Z]`, one tensor of each
    /// per encoder.
    pub fn losses(&self, features: Vec<Tensor>, projections: &[Tensor]) -> Result<AlignmentLosses> {
        let features = match self.spatial_norm {
            SpatialNorm::None => features,
            SpatialNorm::Zscore => {
                let norm = |f: &Tensor| loss::spatial_zscore(f, self.spatial_norm_alpha);
                features.iter().map(norm).collect::<Result<_>>()?
            }
        };
        let alignment = match self.loss {
            AlignmentLoss::Cosine => loss::alignment(&features, projections)?,
            AlignmentLoss::NtXent => loss::nt_xent(&features, projections, self.temperature)?,
        };
        let relation = || loss::relation(&features, projections, self.relation_over);
        Ok(AlignmentLosses { alignment, relation: (self.relation > 0.0).then(relation).transpose()? })
    }
}
