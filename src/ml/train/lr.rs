//! The learning rate as a function of the step.

use serde::Deserialize;
use std::f64::consts::PI;

/// What follows the warmup.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Constant at the peak.
    #[default]
    Constant,
    /// Half a cosine from the peak to the minimum (SGDR without restarts, arXiv 1608.03983, eq. 5).
    Cosine,
}

/// A linear warmup, followed by a [`Shape`].
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct LrSchedule {
    pub shape: Shape,
    /// Warmup steps; the last of them has the peak. With 0 there is no warmup.
    pub warmup: u64,
    /// Final value of the cosine.
    pub min: f64,
}

impl LrSchedule {
    /// The learning rate at a step, counted from 0, of a training of `steps` steps with this peak.
    ///
    /// The warmup is `peak (step + 1) / warmup`: with 0 at the first step, that step would change
    /// nothing. The cosine reaches the minimum at `steps`, one after the last step.
    pub fn at(&self, step: u64, steps: u64, peak: f64) -> f64 {
        if step < self.warmup {
            return peak * ((step + 1) as f64 / self.warmup as f64);
        }
        match self.shape {
            Shape::Constant => peak,
            Shape::Cosine => {
                let done = (step - self.warmup) as f64 / steps.saturating_sub(self.warmup).max(1) as f64;
                self.min + (peak - self.min) * 0.5 * (1.0 + (PI * done.min(1.0)).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_their_formulas() {
        assert_eq!(LrSchedule::default().at(9, 10, 1e-4), 1e-4, "no schedule leaves the number as it is");
        let rise = LrSchedule { warmup: 4, ..LrSchedule::default() };
        let rates: Vec<f64> = (0..6).map(|k| rise.at(k, 100, 2.0)).collect();
        assert_eq!(rates, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]);
        let cosine = LrSchedule { shape: Shape::Cosine, warmup: 4, min: 1.0 };
        let rates: Vec<f64> = [3, 4, 8, 12].iter().map(|k| cosine.at(*k, 12, 2.0)).collect();
        assert_eq!((rates[0], rates[1], rates[3]), (2.0, 2.0, 1.0));
        assert!((rates[2] - 1.5).abs() < 1e-12, "{rates:?}");
        assert!((5..12).all(|k| cosine.at(k, 12, 2.0) < cosine.at(k - 1, 12, 2.0)));
        // A warmup as long as the training never reaches the cosine.
        assert_eq!(LrSchedule { warmup: 12, ..cosine }.at(11, 12, 2.0), 2.0);
    }
}
