//! Self-representation alignment (SRA, arXiv 2505.02831, section 3): a block's tokens, through a
//! head, should be those of a later block of the averaged network, which sees the same sample with
//! less noise. The network teaches itself; there is no encoder.
//!
//! The average changes with every step, so the teacher is made anew before each
//! ([`teach`](SelfAlignment::teach)). Its weights share memory with the training.

use crate::diffusion::loss;
use crate::models::sit::SiT;
use crate::nn::params::Tensors;
use crate::rng::{self, Purpose};
use candle_core::{Result, Tensor, bail};
use std::sync::{Mutex, PoisonError};

/// A self-alignment and its teacher.
pub struct SelfAlignment {
    pub weight: f64,
    /// Block of the teacher, counted from 1, whose output is the target.
    pub teacher_block: usize,
    /// The teacher's time is less by a uniform part of this, and not below 0.
    pub interval: f64,
    teacher: Mutex<Option<SiT>>,
}

impl SelfAlignment {
    pub fn new(weight: f64, teacher_block: usize, interval: f64) -> Self {
        Self { weight, teacher_block, interval, teacher: Mutex::default() }
    }

    /// Makes a teacher of these averages of the weights of `student`.
    pub fn teach(&self, student: &SiT, averages: &Tensors) -> Result<()> {
        let teacher = student.with_weights(averages)?;
        *self.teacher.lock().unwrap_or_else(PoisonError::into_inner) = Some(teacher);
        Ok(())
    }

    /// The teacher's times for the student's times `t` of the samples at `slots` of a step.
    pub fn times(&self, t: &[f32], seed: u64, step: u64, slots: &[u64]) -> Vec<f32> {
        let less = |slot: &u64| rng::stream(seed, Purpose::TeacherTime, step, *slot).uniform() * self.interval as f32;
        t.iter().zip(slots).map(|(t, slot)| (t - less(slot)).max(0.0)).collect()
    }

    /// The distance of the student's tokens `[B, N, D]` to the teacher's at its points
    /// `[B, C, H, W]`, times `[B]` and classes `[B]`.
    ///
    /// # Errors
    /// No teacher yet.
    pub fn loss(&self, student: &Tensor, point: &Tensor, t: &Tensor, classes: &Tensor) -> Result<Tensor> {
        let teacher = self.teacher.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(teacher) = teacher.as_ref() else { bail!("a self-alignment without a teacher") };
        let target = teacher.block_output(point, t, classes, self.teacher_block)?.detach();
        loss::smooth_l1(student, &target)
    }
}
