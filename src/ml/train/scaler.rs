//! Dynamic loss scaling for f16 (Micikevicius et al., "Mixed precision training", ICLR 2018), with
//! the constants of PyTorch's GradScaler. Gradients are those of a multiple of the loss, so that
//! small ones stay above 6e-8, the smallest f16. The factor is halved when a gradient overflows,
//! and doubled after 2000 steps without overflow.
//!
//! A step with overflow is skipped: weights, moments, averages and the update count for the bias
//! corrections stay (GradScaler does not call the optimizer and leaves the averages to the caller).
//! The step is counted and its samples are used up, as in a loop with GradScaler, so that data,
//! times and noise remain functions of the step. The state is part of a checkpoint.

use crate::nn::params::Tensors;
use candle_core::{Device, Result, Tensor, bail};

const START: f64 = 65536.0;
const GROWTH_INTERVAL: u64 = 2000;

/// The scale is always a power of two, so scaling and unscaling do not round.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scaler {
    scale: f64,
    /// Steps since the scale last changed.
    good: u64,
    /// Steps skipped so far.
    skipped: u64,
}

impl Scaler {
    pub fn new() -> Self {
        Self { scale: START, good: 0, skipped: 0 }
    }

    pub fn scale(&self) -> f64 {
        self.scale
    }

    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Called after a step that was not skipped.
    pub fn grow(&mut self) {
        self.good += 1;
        if self.good == GROWTH_INTERVAL {
            (self.scale, self.good) = (2.0 * self.scale, 0);
        }
    }

    /// Called after step `step`, counted from 0, whose gradients are not finite. Returns a line to
    /// log.
    ///
    /// # Errors
    /// The scale is already 1, so scaling is not the cause. From the initial scale this takes 17
    /// such steps in a row, each with other samples.
    pub fn back_off(&mut self, step: u64) -> Result<String> {
        if self.scale <= 1.0 {
            bail!(
                "the gradients are not finite in f16 at step {step} (counted from 0) with a loss scale of {}: the network \
                 leaves the range of f16, whose largest number is 65504; bf16 has the range of f32",
                self.scale
            );
        }
        let before = self.scale;
        (self.scale, self.good, self.skipped) = (before / 2.0, 0, self.skipped + 1);
        Ok(format!("skipped step {step}: gradients overflow in f16; loss scale {before} to {}", self.scale))
    }

    /// For a checkpoint.
    pub fn to_tensors(&self) -> Result<Tensors> {
        let one = |value: f64| Tensor::new(&[value], &Device::Cpu);
        let all = [("scale", self.scale), ("good", self.good as f64), ("skipped", self.skipped as f64)];
        all.into_iter().map(|(name, value)| Ok((name.to_string(), one(value)?))).collect()
    }

    pub fn from_tensors(saved: &Tensors) -> Result<Self> {
        let number = |name: &str| match saved.get(name) {
            Some(t) => t.squeeze(0)?.to_scalar::<f64>(),
            None => bail!("the loss scaling in the checkpoint has no {name}"),
        };
        Ok(Self { scale: number("scale")?, good: number("good")? as u64, skipped: number("skipped")? as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_on_overflow_and_doubles_after_two_thousand_good_steps() {
        let mut s = Scaler::new();
        assert_eq!(s.back_off(7).unwrap(), "skipped step 7: gradients overflow in f16; loss scale 65536 to 32768");
        (0..1999).for_each(|_| s.grow());
        assert_eq!(s.scale(), 32768.0);
        s = Scaler::from_tensors(&s.to_tensors().unwrap()).unwrap();
        s.grow();
        assert_eq!((s.scale(), s.skipped()), (65536.0, 1));
        (0..1999).for_each(|_| s.grow());
        s.back_off(9).unwrap();
        (0..1999).for_each(|_| s.grow());
        assert_eq!(s.scale(), 32768.0, "the count starts again after an overflow");
    }

    #[test]
    fn a_loss_that_is_not_magnified_cannot_be_scaled_down() {
        let mut s = Scaler::new();
        (0..16).for_each(|step| drop(s.back_off(step).unwrap()));
        let e = s.back_off(16).unwrap_err().to_string();
        let text = "the gradients are not finite in f16 at step 16 (counted from 0) with a loss scale of 1: the network \
                    leaves the range of f16, whose largest number is 65504; bf16 has the range of f32";
        // A backtrace may follow.
        assert_eq!(e.lines().next(), Some(text));
    }
}
