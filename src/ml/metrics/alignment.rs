//! Alignment of two representations of the same samples by the measures of Huh et al. 2024, with
//! their preparation: each representation is prepared once, then compared with any number of
//! others. It does not know where features come from.

use super::bounds::Requirements;
use super::cka::{Gram, cka};
use super::cknna::{Estimator, Neighbours, cknna};
use super::mutual_knn::{Circles, mutual_knn};
use super::nearest::within;
use super::unit_rows::{Clamp, UnitRows};
use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// A measure of alignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlignmentMetric {
    Cknna,
    Cka,
    MutualKnn,
}

impl AlignmentMetric {
    pub const ALL: [Self; 3] = [Self::Cknna, Self::Cka, Self::MutualKnn];

    /// The name in parameters and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cknna => "cknna",
            Self::Cka => "cka",
            Self::MutualKnn => "mutual-knn",
        }
    }
}

/// How representations are compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Protocol {
    pub measures: Vec<AlignmentMetric>,
    /// Number of neighbours; CKA has none.
    pub k: usize,
    pub clamp: Clamp,
    /// Estimator of CKNNA and CKA.
    pub estimator: Estimator,
}

impl Protocol {
    /// The ranges and requirements of its measures, for features of length `dim`.
    pub fn bounds(&self, dim: usize) -> Requirements {
        Requirements { k: self.k, estimator: self.estimator, dim, ..Requirements::PLAIN }
    }

    /// Whether any measure needs neighbours.
    pub fn has_neighbours(&self) -> bool {
        self.measures.iter().any(|m| *m != AlignmentMetric::Cka)
    }
}

/// A representation, prepared for the measures of a protocol.
#[derive(Debug)]
pub struct Representation {
    constant: bool,
    near: Option<Neighbours>,
    circles: Option<Circles>,
    gram: Option<Gram>,
}

impl Representation {
    /// Prepares features `[n, d]`, or `[n, t, d]` averaged over t tokens, of any float type.
    pub fn of(features: &Tensor, protocol: &Protocol) -> Result<Self> {
        let rows = UnitRows::of(features, protocol.clamp)?;
        let wants = |measure| protocol.measures.contains(&measure);
        let constant = rows.are_equal();
        let (mut near, mut circles) = (None, None);
        if protocol.has_neighbours() {
            let nearest = within(&rows, protocol.k)?;
            if wants(AlignmentMetric::Cknna) {
                near = Some(Neighbours::new(&nearest, protocol.k, protocol.estimator)?);
            }
            if wants(AlignmentMetric::MutualKnn) {
                circles = Some(Circles::new(&nearest, protocol.k));
            }
        }
        let gram = if wants(AlignmentMetric::Cka) { Some(Gram::new(rows, protocol.estimator)?) } else { None };
        Ok(Self { constant, near, circles, gram })
    }

    /// Whether all samples are the same. Then every measure is 0, whatever it is compared with.
    pub fn is_constant(&self) -> bool {
        self.constant
    }

    /// A measure of this and another representation, both prepared for it.
    pub fn score(&self, other: &Self, measure: AlignmentMetric) -> Result<f64> {
        match (measure, self, other) {
            (AlignmentMetric::Cknna, Self { near: Some(a), .. }, Self { near: Some(b), .. }) => cknna(a, b),
            (AlignmentMetric::Cka, Self { gram: Some(a), .. }, Self { gram: Some(b), .. }) => cka(a, b),
            (AlignmentMetric::MutualKnn, Self { circles: Some(a), .. }, Self { circles: Some(b), .. }) => {
                mutual_knn(a, b)
            }
            _ => bail!("a representation is not prepared for {}", measure.name()),
        }
    }
}

/// Every measure of the protocol, in order, between two representations of the same samples in the
/// same order: `[n, d]` each (d may differ), or `[n, t, d]` averaged over t tokens.
pub fn alignment(a: &Tensor, b: &Tensor, protocol: &Protocol) -> Result<Vec<f64>> {
    let (rows, others) = (a.dim(0)?, b.dim(0)?);
    if rows != others {
        bail!("cannot compare representations of {rows} and {others} samples");
    }
    // One after the other: the search for neighbours needs a copy as large as the features.
    let (a, b) = (Representation::of(a, protocol)?, Representation::of(b, protocol)?);
    protocol.measures.iter().map(|m| a.score(&b, *m)).collect()
}
