//! The two small buffers of a step. [`Scalars`] holds what differs from step to step; the host
//! writes it before the first launch, so that launches never change. [`Results`] holds what a step
//! tells the host. Both are f32; slots are places in units of a number.

use crate::program::Address;

/// The buffer of [`Scalars::SIZE`] numbers that the host writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scalars(pub Address);

impl Scalars {
    pub const SIZE: usize = 64;

    /// 1 / (micro-batches loss scale): turns the summed gradients of scaled losses into those of
    /// the mean loss.
    pub const UNSCALE: usize = 0;
    /// The norm to which gradients are clipped; 0 or infinity for no clipping. Behind `UNSCALE`.
    pub const MAX_NORM: usize = 1;

    /// The numbers of an AdamW update, eight from here on. First moment: beta1, then 1 - beta1,
    /// each rounded from f64.
    pub const UPDATE: usize = 4;
    pub const FIRST_KEEP: usize = 4;
    pub const FIRST_ADD: usize = 5;
    /// Second moment: beta2, then 1 - beta2.
    pub const SECOND_KEEP: usize = 6;
    pub const SECOND_ADD: usize = 7;
    /// Positive: padding relies on it.
    pub const EPS: usize = 8;
    /// learning rate / (1 - beta1^t), for the t-th update that is not skipped.
    pub const STEP_SIZE: usize = 9;
    /// 1 / (1 - beta2^t)
    pub const SECOND_SCALE: usize = 10;
    /// 1 - learning rate weight_decay
    pub const DECAY: usize = 11;

    /// What the gradient of the summed squared error is multiplied by: loss scale / numbers of the
    /// image batch.
    pub const VELOCITY_FACTOR: usize = 12;
    /// What the gradient of summed negative cosines, or of NT-Xent, is multiplied by: loss scale
    /// coefficient / (rows encoders).
    pub const ALIGNMENT_FACTOR: usize = 13;
    /// What the gradient of the summed 1 - cosine of velocities is multiplied by: loss scale weight /
    /// places of the image batch. Behind `ALIGNMENT_FACTOR`.
    pub const VELOCITY_COSINE_FACTOR: usize = 14;
    /// What the gradient of the dispersive loss is multiplied by: loss scale weight. Behind
    /// `VELOCITY_COSINE_FACTOR`.
    pub const DISPERSIVE_FACTOR: usize = 15;

    /// Averages of the weights: decay, then 1 - decay, each rounded from f64. Two numbers for each
    /// of up to [`Self::MOST_AVERAGES`].
    pub const AVERAGES: usize = 16;
    pub const MOST_AVERAGES: usize = 16;

    /// What the gradient of the summed squared error of class tokens is multiplied by: loss scale
    /// weight / numbers of the class tokens.
    pub const CLASS_VELOCITY_FACTOR: usize = 48;

    pub fn at(self, slot: usize) -> Address {
        self.0.offset(slot * 4)
    }

    /// The two numbers of an average.
    pub fn average(self, index: usize) -> Address {
        self.at(Self::AVERAGES + 2 * index)
    }
}

/// The buffer of [`Results::SIZE`] numbers that a step writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Results(pub Address);

impl Results {
    pub const SIZE: usize = 16;

    /// Losses, the first [`Self::MOST_LOSSES`] slots: means over the last micro-batch, neither scaled
    /// nor weighted.
    pub const LOSSES: usize = 0;
    pub const VELOCITY: usize = 0;
    /// Mean over encoders of the mean negative cosine, or of NT-Xent.
    pub const ALIGNMENT: usize = 1;
    /// Mean of 1 - cosine of the velocities.
    pub const VELOCITY_COSINE: usize = 2;
    pub const DISPERSIVE: usize = 3;
    /// Squared error of the velocities of class tokens.
    pub const CLASS_VELOCITY: usize = 4;
    pub const MOST_LOSSES: usize = 8;

    /// Norm of the gradient of the mean loss, before clipping.
    pub const NORM: usize = 8;
    /// What the update multiplied gradients by; 0 for a skipped step. Behind `NORM`.
    pub const FACTOR: usize = 9;
    /// 1 if the norm and the losses were finite, else 0. Behind `FACTOR`.
    pub const FINITE: usize = 10;

    pub fn at(self, slot: usize) -> Address {
        self.0.offset(slot * 4)
    }
}
