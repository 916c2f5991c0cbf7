//! Requirements and ranges of all metrics in one table: the minimum number of samples, the number
//! below which a value says little, and the range of values.

use super::cknna::Estimator;
use super::inception_score::Parts;

/// The settings on which the required number of samples depends.
#[derive(Debug, Clone, Copy)]
pub struct Requirements {
    /// Number of neighbours.
    pub k: usize,
    /// Samples in a subset of KID.
    pub subset_size: usize,
    /// Parts of the Inception Score.
    pub parts: Parts,
    /// Estimator of CKNNA and CKA.
    pub estimator: Estimator,
    /// Length of a feature vector, where it matters.
    pub dim: usize,
}

/// The requirements and the range of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// With fewer samples the metric is undefined.
    pub least: usize,
    /// With fewer samples a value says little, for the reason `poor`.
    pub worth: usize,
    pub poor: String,
    /// The range of values.
    pub range: [f64; 2],
}

/// How far rounding may carry a value out of its range.
const ROUNDING: f64 = 1e-6;
/// With fewer samples, a share moves by a hundredth or more with each sample.
const SHARES: usize = 100;

impl Requirements {
    /// No neighbours, no subsets, the usual parts.
    pub const PLAIN: Self = Self { k: 0, subset_size: 0, parts: Parts::ADM, estimator: Estimator::Unbiased, dim: 0 };

    /// The table. `None` for an unknown metric.
    pub fn of(&self, metric: &str) -> Option<Bounds> {
        let (k, unit) = (self.k, [0.0, 1.0]);
        let bounds = |least, worth, poor: &str, range| Some(Bounds { least, worth, poor: poor.into(), range });
        let share = |least: usize, what: &str| {
            bounds(least, SHARES.max(least), &format!("{what} moves by a hundredth and more with each of them"), unit)
        };
        let any = [f64::NEG_INFINITY, f64::INFINITY];
        match metric {
            // Unrelated normal vectors score 0.9 at n = k + 2, 0.3 at 3 k, 0.07 at 10 k; values
            // above 1 stop at 3 k.
            "cknna" => {
                let poor = match self.estimator {
                    Estimator::Unbiased => {
                        format!(
                            "with {k} neighbours unrelated representations score far above 0, and the unbiased estimate may exceed 1"
                        )
                    }
                    Estimator::Biased => format!("with {k} neighbours unrelated representations score far above 0"),
                };
                bounds((k + 1).max(self.estimator.least()), 10 * k, &poor, [-1.0, 1.0])
            }
            "cka" => match self.estimator {
                Estimator::Unbiased => {
                    bounds(4, SHARES, "the unbiased estimate spreads widely, and may exceed 1", [-1.0, 1.0])
                }
                Estimator::Biased => {
                    let poor = format!(
                        "of {} features and no more samples the biased estimate is near 1 for any two",
                        self.dim
                    );
                    bounds(2, (self.dim + 1).max(SHARES), &poor, unit)
                }
            },
            "mutual-knn" => {
                let poor = format!("unrelated representations share {k} of n neighbours by chance");
                bounds(k + 1, 10 * k, &poor, unit)
            }
            "knn" => share(1, "an accuracy"),
            "linear" => share(1, "an accuracy"),
            "accuracy" => share(1, "an accuracy"),
            "fid" | "sfid" => bounds(2, 2, "", [0.0, f64::INFINITY]),
            "kid" => bounds(self.subset_size.max(2), self.subset_size.max(2), "", any),
            "is" => match self.parts {
                Parts::Size(size) => {
                    bounds(1, size + 1, "all are in one part, so that the deviation says nothing", [1.0, f64::INFINITY])
                }
                Parts::Shuffled { count, .. } => bounds(count, count, "", [1.0, f64::INFINITY]),
            },
            "precision" | "recall" | "coverage" => share(k + 1, "a share"),
            "density" => {
                let Bounds { least, worth, poor, .. } = share(k + 1, "a density")?;
                bounds(least, worth, &poor, [0.0, f64::INFINITY])
            }
            "cmmd" => bounds(
                1,
                1_000,
                "the estimate is biased upwards by about 1000 / n times the spread of the kernel",
                [0.0, f64::INFINITY],
            ),
            _ => None,
        }
    }

    /// A warning if a value from `count` samples (those of the smaller side) says little.
    pub fn poor(&self, metric: &str, count: u64) -> Option<String> {
        let bounds = self.of(metric)?;
        let few = (count as usize) < bounds.worth && !bounds.poor.is_empty();
        few.then(|| format!("{metric} of {count} samples, fewer than {}: {}", bounds.worth, bounds.poor))
    }

    /// A warning if a value is impossible.
    pub fn impossible(&self, metric: &str, value: f64) -> Option<String> {
        let [low, high] = self.of(metric)?.range;
        if value.is_nan() {
            return Some(format!("{metric} is no number"));
        }
        let beyond = value < low - ROUNDING || value > high + ROUNDING;
        beyond.then(|| match (low.is_finite(), high.is_finite()) {
            (true, true) => format!("{metric} {value:.4} is outside of {low} to {high}, and means nothing"),
            _ => format!("{metric} {value:.4} is below {low}, and means nothing"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 15] = [
        "cknna",
        "cka",
        "mutual-knn",
        "knn",
        "linear",
        "accuracy",
        "fid",
        "sfid",
        "kid",
        "is",
        "precision",
        "recall",
        "coverage",
        "density",
        "cmmd",
    ];

    #[test]
    fn every_metric_has_its_bounds() {
        let protocol = Requirements { k: 10, subset_size: 1000, dim: 64, ..Requirements::PLAIN };
        for metric in ALL {
            let bounds = protocol.of(metric).unwrap_or_else(|| panic!("{metric}"));
            assert!(bounds.least >= 1 && bounds.worth >= bounds.least && bounds.range[0] < bounds.range[1], "{metric}");
            let inside = if bounds.range[1].is_finite() { bounds.range[1] } else { bounds.range[0].max(0.0) };
            assert_eq!(protocol.impossible(metric, inside), None, "{metric}");
            assert!(protocol.impossible(metric, f64::NAN).is_some(), "{metric}");
            assert_eq!(protocol.poor(metric, 1_000_000), None, "{metric}");
        }
        assert_eq!(protocol.of("bleu"), None);
    }

    #[test]
    fn poor_and_impossible_numbers_are_told() {
        let ten = Requirements { k: 10, ..Requirements::PLAIN };
        assert_eq!(
            ten.poor("cknna", 12).unwrap(),
            "cknna of 12 samples, fewer than 100: with 10 neighbours unrelated representations score far above 0, and the unbiased \
             estimate may exceed 1"
        );
        assert_eq!(ten.poor("cknna", 100), None);
        assert_eq!(ten.impossible("cknna", 1.31).unwrap(), "cknna 1.3100 is outside of -1 to 1, and means nothing");
        assert_eq!(ten.impossible("cknna", 1.0 + 1e-9), None);
        assert_eq!(ten.impossible("fid", -1.0).unwrap(), "fid -1.0000 is below 0, and means nothing");
        assert_eq!(ten.impossible("kid", -0.001), None, "the unbiased estimate may be below 0");
    }
}
