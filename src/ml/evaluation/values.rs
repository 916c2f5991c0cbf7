//! Computes the named values of a comparison from the statistics of its two sides, and reports the
//! settings that a tool's values depend on.

use super::inception_score;
use super::metric::{Metric, Needs};
use super::side_statistics::{SideStatistics, references};
use crate::data::batches::spread;
use crate::metrics::bounds::Requirements;
use crate::metrics::cmmd::cmmd;
use crate::metrics::frechet;
use crate::metrics::gaussian::Gaussian;
use crate::metrics::inception_score::Parts;
use crate::metrics::kid::{self, Subsets};
use crate::metrics::precision_recall::{Distances, PrecisionRecall, precision_recall};
use crate::models::feature_network::mode::Mode;
use candle_core::{Error, Result, Tensor};
use serde_json::{Map, Value, json};

/// Settings of the metrics.
pub struct Settings {
    pub mode: Option<Mode>,
    /// Whether the features are Inception's; this decides the names of values.
    pub inception: bool,
    /// Number of neighbours for precision and recall.
    pub k: usize,
    /// Number of KID subsets.
    pub subsets: usize,
    /// Images per KID subset.
    pub subset_size: usize,
}

/// Values by name, in the order of `metrics`.
pub fn values(
    metrics: &[Metric],
    settings: &Settings,
    samples: &SideStatistics,
    reference: &SideStatistics,
) -> Result<Vec<(String, f64)>> {
    let mut values = vec![];
    let mut neighbours = None;
    for &metric in metrics {
        let name = metric.called(settings.inception).to_string();
        match metric {
            Metric::Fid => values.push((name, distance(&samples.pool, &reference.pool)?)),
            Metric::Sfid => values.push((name, distance(&samples.spatial, &reference.spatial)?)),
            Metric::Is => {
                let score = samples.score.as_ref().ok_or_else(unmeasured)?;
                values.extend([(name.clone(), score.mean), (format!("{name}_std"), score.std)]);
            }
            Metric::Kid => {
                let (a, b) = vectors(samples, reference)?;
                let found = kid::kid(a, b, &settings.kid())?;
                values.extend([(name.clone(), found.mean), (format!("{name}_std"), found.std)]);
            }
            Metric::Cmmd => {
                let (a, b) = vectors(samples, reference)?;
                values.push((name, cmmd(a, b)?));
            }
            Metric::Precision | Metric::Recall | Metric::Density | Metric::Coverage => {
                if neighbours.is_none() {
                    let (a, b) = vectors(samples, reference)?;
                    let b = settings.references(b)?;
                    neighbours = Some(precision_recall(a, &b, settings.k, settings.distances())?);
                }
                values.extend(neighbours.map(|found| (name, share(metric, &found))));
            }
        }
    }
    Ok(values)
}

fn share(metric: Metric, found: &PrecisionRecall) -> f64 {
    match metric {
        Metric::Recall => found.recall,
        Metric::Density => found.density,
        Metric::Coverage => found.coverage,
        _ => found.precision,
    }
}

fn distance(a: &Option<Gaussian>, b: &Option<Gaussian>) -> Result<f64> {
    let (Some(a), Some(b)) = (a, b) else { return Err(unmeasured()) };
    frechet::between_gaussians(a, b)
}

fn vectors<'a>(samples: &'a SideStatistics, reference: &'a SideStatistics) -> Result<(&'a Tensor, &'a Tensor)> {
    samples.vectors.as_ref().zip(reference.vectors.as_ref()).ok_or_else(unmeasured)
}

fn unmeasured() -> Error {
    Error::Msg("the samples or the reference lack statistics that a metric needs".into())
}

impl Settings {
    /// The settings that determine required sample counts and ranges of values.
    pub fn bounds(&self) -> Requirements {
        Requirements {
            k: self.k,
            subset_size: self.subset_size,
            parts: inception_score::parts(self.mode),
            ..Requirements::PLAIN
        }
    }

    fn kid(&self) -> Subsets {
        Subsets { count: self.subsets, size: self.subset_size, ..Subsets::TORCH_FIDELITY }
    }

    /// Only the ADM suite rounds distances to half precision.
    fn distances(&self) -> Distances {
        match self.mode {
            Some(Mode::Adm) => Distances::Half,
            _ => Distances::Single,
        }
    }

    /// The reference features for precision and recall, spread evenly over all that are available.
    fn references(&self, all: &Tensor) -> Result<Tensor> {
        let n = all.dim(0)? as u64;
        match references(self.mode) {
            Some(most) if n > most => {
                let chosen: Vec<u32> = spread(n, most).into_iter().map(|i| i as u32).collect();
                all.index_select(&Tensor::new(chosen, all.device())?, 0)
            }
            _ => Ok(all.clone()),
        }
    }

    /// The settings that the values of these metrics depend on, as JSON.
    pub fn told(&self, metrics: &[Metric], reference: &SideStatistics) -> Value {
        let mut told = Map::new();
        if metrics.contains(&Metric::Is) {
            told.insert(
                "inception_score".into(),
                match inception_score::parts(self.mode) {
                    Parts::Size(size) => json!({"parts_of": size, "order": "as the samples"}),
                    Parts::Shuffled { count, seed } => json!({"parts": count, "order": "shuffled", "seed": seed}),
                },
            );
        }
        let is_share = |m: &Metric| !matches!(m, Metric::Kid | Metric::Cmmd) && Needs::of(&[*m]).vectors;
        if metrics.iter().any(is_share) {
            let distances = match self.distances() {
                Distances::Half => "squared, in half precision",
                Distances::Single => "in single precision",
            };
            let all = reference.vectors.as_ref().map(|v| v.dims()[0] as u64);
            let references = all.map(|n| n.min(references(self.mode).unwrap_or(n)));
            let settings = json!({"k": self.k, "distances": distances, "references": references});
            told.insert("precision_recall".into(), settings);
        }
        if metrics.contains(&Metric::Kid) {
            let Subsets { count, size, seed } = self.kid();
            let name = Metric::Kid.called(self.inception);
            told.insert(name.into(), json!({"subsets": count, "subset_size": size, "seed": seed}));
        }
        Value::Object(told)
    }
}
