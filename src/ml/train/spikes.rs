//! Detects loss spikes, so that the step, and with it the batch, can be inspected.
//!
//! The rule: more than six robust standard deviations above the median of the last 200 steps, with
//! at least 50 of them. A robust standard deviation is 1.4826 times the median distance from the
//! median, the standard deviation for a Gaussian. Mean and standard deviation would be worse: one
//! spike of a hundredfold widens the deviation so much that the next ones go unnoticed, while the
//! median moves only when half of the window is bad. For a Gaussian loss, one step in 10⁹ counts as
//! a spike. A steadily falling loss is below its median and gives none. After a jump to a new level
//! the window adapts within 100 steps. Only the first of consecutive spikes is reported; a
//! diverging run would report every step.
//!
//! The detector affects no result and is not in checkpoints: after a resume it first needs 50
//! steps.

use super::curve::CurvePoint;
use std::collections::VecDeque;
use std::fmt;

const WINDOW: usize = 200;
const FEWEST: usize = 50;
const DEVIATIONS: f64 = 6.0;
/// From median distance to a Gaussian's standard deviation.
const ROBUST: f64 = 1.4826;
/// Minimum deviation as a share of the median, so that a loss that hardly moves gives no spikes
/// from its last digits.
const LEAST: f64 = 1e-3;

#[derive(Default)]
pub(super) struct Spikes {
    window: VecDeque<f64>,
    /// Whether the previous step was a spike.
    inside: bool,
}

/// A loss spike.
#[derive(Debug, PartialEq)]
pub(super) struct Spike {
    /// Counted from 0, like everything that is drawn for it.
    step: u64,
    loss: f64,
    median: f64,
    deviation: f64,
    steps: usize,
    grad_norm: f64,
}

impl Spikes {
    /// Adds a step with a finite loss. Returns a spike if a new one begins.
    pub fn look(&mut self, point: &CurvePoint) -> Option<Spike> {
        let spike = self.judge(point);
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(point.loss);
        let begins = !std::mem::replace(&mut self.inside, spike.is_some());
        spike.filter(|_| begins)
    }

    fn judge(&self, point: &CurvePoint) -> Option<Spike> {
        if self.window.len() < FEWEST {
            return None;
        }
        let median = middle(self.window.iter().copied());
        let spread = ROBUST * middle(self.window.iter().map(|loss| (loss - median).abs()));
        let deviation = spread.max(LEAST * median.abs());
        (point.loss > median + DEVIATIONS * deviation).then_some(Spike {
            step: point.step - 1,
            loss: point.loss,
            median,
            deviation,
            steps: self.window.len(),
            grad_norm: point.grad_norm,
        })
    }
}

/// The upper median.
fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

impl fmt::Display for Spike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, loss, median, deviation, steps, grad_norm } = self;
        write!(
            f,
            "loss spike: {loss:.4} in the batch of step {step} (counted from 0), gradient norm {grad_norm:.4}; "
        )?;
        write!(f, "the {steps} steps before have median {median:.4}, deviation {deviation:.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    fn point(step: u64, loss: f64) -> CurvePoint {
        CurvePoint { step: step + 1, loss, parts: [].into(), grad_norm: 2.5, lr: 0.1 }
    }

    /// The steps at which spikes are reported.
    fn spikes(steps: u64, loss: impl Fn(u64) -> f64) -> Vec<u64> {
        let mut detector = Spikes::default();
        (0..steps).filter_map(|s| Some(detector.look(&point(s, loss(s)))?.step)).collect()
    }

    fn noise(step: u64) -> f64 {
        f64::from(stream(1, Purpose::Probe, step, 0).normal())
    }

    #[test]
    fn noise_and_progress_are_none() {
        assert_eq!(spikes(5000, |s| 1.0 + 0.05 * noise(s)), [0; 0]);
        assert_eq!(spikes(5000, |s| 3.0 * (-(s as f64) / 300.0).exp() + 0.02 * noise(s)), [0; 0]);
        // Without noise: the last digits give no spikes.
        assert_eq!(spikes(1000, |s| 1.0 + if s % 7 == 0 { 1e-4 } else { 0.0 }), [0; 0]);
        assert_eq!(spikes(49, |s| s as f64 * s as f64), [0; 0], "too few steps");
    }

    #[test]
    fn a_spike_is_reported_once_and_hides_nothing_after_it() {
        let at = |s: u64| 1.0 + 0.05 * noise(s) + if (300..303).contains(&s) { 100.0 } else { 0.0 };
        assert_eq!(spikes(400, |s| at(s) + if s == 310 { 1.0 } else { 0.0 }), [300, 310]);
        // A jump to a new level is reported once, and then is the level.
        assert_eq!(spikes(2000, |s| 1.0 + 0.05 * noise(s) + if s >= 1000 { 2.0 } else { 0.0 }), [1000]);
    }

    #[test]
    fn a_spike_names_the_step_its_batch_is_drawn_with() {
        let mut detector = Spikes::default();
        (0..60).for_each(|s| assert!(detector.look(&point(s, 1.0 + 0.01 * (s % 3) as f64)).is_none()));
        let said = detector.look(&point(60, 5.0)).unwrap().to_string();
        let text = "loss spike: 5.0000 in the batch of step 60 (counted from 0), gradient norm 2.5000; \
                    the 60 steps before have median 1.0100, deviation 0.0148";
        assert_eq!(said, text);
    }
}
