//! What the training loop trains: parameters with their optimizer and averages on some device. The
//! loop decides when a step is taken, skipped or saved; an engine computes it. Knows nothing of
//! schedules, curves or files.

use super::adamw::{AdamW, grad_norm};
use super::checkpoint::Checkpoint;
use super::config::{FitConfig, StepLoss};
use super::ema::Ema;
use crate::kernels::autograd::{Gradients, SetAside};
use crate::nn::params::{LoadReport, ParamSet, Tensors};
use crate::ranks::Ranks;
use crate::ranks::tree::{self, Merge};
use candle_core::{DType, Result, bail};
use std::ops::Range;

/// Parameters with their optimizer, averages and gradients.
pub trait Engine {
    /// Starts with moments of zero and averages at the weights. Either this or
    /// [`restore`](Self::restore) is called first, so that a resumed training makes no state twice.
    fn start(&mut self) -> Result<()>;

    /// Computes the gradients of a step, of `loss_scale` times the loss: `share` are the
    /// micro-batches of this rank; those of all ranks are summed, by the tree of
    /// [`tree`]. Step and micro-batches are counted from 0.
    fn gradients(&mut self, step: u64, share: Range<usize>, loss_scale: f64, ranks: &Ranks) -> Result<StepGradients>;

    /// Updates parameters and averages with the gradients times `scale`.
    fn update(&mut self, learning_rate: f64, scale: f64) -> Result<()>;

    /// Names of the parameters that no gradient of the last step reached.
    fn unreached(&self) -> Vec<String>;

    /// The gradients of the last step by name, for naming a fault.
    fn named_gradients(&self) -> Result<Tensors>;

    /// The parameters by name. They may share memory with the engine until the next update.
    fn model(&self) -> Result<Tensors>;

    /// The first average.
    fn average(&self) -> Result<Tensors>;

    /// The averages with the other decays, each with its decay, in the order of the settings.
    fn further_averages(&self) -> Result<Vec<(f64, Tensors)>>;

    /// First and second moments.
    fn moments(&self) -> Result<[Tensors; 2]>;

    /// Continues after `updates` updates from a checkpoint, whose tensors may be moved out of it.
    /// Reports which parameters the checkpoint has; nothing is restored unless it has all.
    fn restore(&mut self, saved: &mut Checkpoint, updates: u64) -> Result<LoadReport>;
}

/// What the loop learns of the gradients of a step.
pub struct StepGradients {
    /// Of the micro-batches of this rank.
    pub losses: Vec<Losses>,
    /// Norm of the gradients, which are summed over all micro-batches.
    pub norm: f64,
}

/// The losses of a micro-batch.
pub struct Losses {
    /// The scaled loss.
    pub loss: f64,
    /// Its named terms, unscaled.
    pub parts: Vec<(&'static str, f64)>,
}

impl Losses {
    /// The sum over the micro-batches of all ranks, in their order.
    pub(super) fn sum(of_rank: Vec<Self>, ranks: &Ranks) -> Result<Self> {
        let numbers = |l: &Self| [l.loss].into_iter().chain(l.parts.iter().map(|(_, x)| *x)).collect::<Vec<_>>();
        let all = ranks.gather_numbers(&of_rank.iter().flat_map(numbers).collect::<Vec<_>>())?;
        let Some(Self { parts, .. }) = of_rank.into_iter().next() else { bail!("a step without micro-batches") };
        let width = parts.len() + 1;
        let column = |i: usize| all.iter().skip(i).step_by(width).sum();
        let parts = parts.into_iter().enumerate().map(|(i, (name, _))| (name, column(i + 1))).collect();
        Ok(Self { loss: column(0), parts })
    }
}

/// The engine of networks in candle's operations: a closure gives the loss of a micro-batch, and
/// autograd its gradients.
pub(super) struct Autograd<'a> {
    params: &'a ParamSet,
    loss: &'a mut dyn FnMut(u64, usize) -> Result<StepLoss>,
    grads: Gradients,
    /// Sums of micro-batches, see [`tree`], and unused memory behind them.
    kept: Vec<SetAside>,
    optimizer: AdamW,
    /// Decays of the averages.
    decays: &'a [f64],
    /// One per decay, once the training has started.
    emas: Vec<Ema>,
}

impl<'a> Autograd<'a> {
    pub fn new(
        params: &'a ParamSet,
        cfg: &'a FitConfig,
        loss: &'a mut dyn FnMut(u64, usize) -> Result<StepLoss>,
    ) -> Result<Self> {
        if cfg.ema_decays.is_empty() {
            bail!("training needs at least one average of the weights");
        }
        Ok(Self {
            params,
            loss,
            grads: Gradients::new(params.vars()),
            kept: vec![],
            optimizer: AdamW::without_state(cfg.optimizer),
            decays: &cfg.ema_decays,
            emas: vec![],
        })
    }
}

impl Engine for Autograd<'_> {
    fn start(&mut self) -> Result<()> {
        self.optimizer = AdamW::new(self.params, self.optimizer.config)?;
        self.emas = self.decays.iter().map(|decay| Ema::new(self.params, *decay)).collect::<Result<_>>()?;
        Ok(())
    }

    fn gradients(&mut self, step: u64, share: Range<usize>, loss_scale: f64, ranks: &Ranks) -> Result<StepGradients> {
        let (count, mut losses) = (share.len(), vec![]);
        for (leaf, micro) in share.enumerate() {
            let StepLoss { loss, parts } = (self.loss)(step, micro)?;
            // With 1 the computation does not change.
            let loss = if loss_scale == 1.0 { loss } else { (loss * loss_scale)? };
            losses.push(Losses { loss: f64::from(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?), parts });
            self.grads.clear();
            self.grads.backward(&loss)?;
            let Merge { mut add, keep } = tree::merge(leaf, count);
            add.try_for_each(|i| self.grads.add_from(&self.kept[i]))?;
            if let Some(keep) = keep {
                if keep == self.kept.len() {
                    self.kept.push(SetAside::default());
                }
                self.grads.set_aside(&mut self.kept[keep]);
            }
        }
        if ranks.size() > 1 {
            self.grads.change(|numbers| ranks.sum(numbers))?;
        }
        Ok(StepGradients { losses, norm: grad_norm(&self.grads)? })
    }

    fn update(&mut self, learning_rate: f64, scale: f64) -> Result<()> {
        self.optimizer.config.lr = learning_rate;
        self.optimizer.step(&self.grads, scale, &mut self.emas)
    }

    fn unreached(&self) -> Vec<String> {
        self.grads.unreached().into_iter().map(String::from).collect()
    }

    fn named_gradients(&self) -> Result<Tensors> {
        self.grads.tensors()
    }

    fn model(&self) -> Result<Tensors> {
        Ok(self.params.tensors())
    }

    fn average(&self) -> Result<Tensors> {
        match self.emas.first() {
            Some(first) => Ok(first.tensors()),
            None => bail!("the training has not started"),
        }
    }

    fn further_averages(&self) -> Result<Vec<(f64, Tensors)>> {
        Ok(self.emas.iter().skip(1).map(|ema| (ema.decay, ema.tensors())).collect())
    }

    fn moments(&self) -> Result<[Tensors; 2]> {
        Ok(self.optimizer.moments().into())
    }

    fn restore(&mut self, saved: &mut Checkpoint, updates: u64) -> Result<LoadReport> {
        let report = self.params.assign(&std::mem::take(&mut saved.model))?;
        if report.loaded.len() != self.params.len() {
            return Ok(report);
        }
        let (first, second) = (&mut saved.first, &mut saved.second);
        self.optimizer = AdamW::from_tensors(self.params, self.optimizer.config, updates, first, second)?;
        self.emas = emas_from(self.params, self.decays, saved)?;
        Ok(report)
    }
}

/// The averages in a checkpoint, in the order of the decays. The first is moved out of it.
fn emas_from(params: &ParamSet, decays: &[f64], saved: &mut Checkpoint) -> Result<Vec<Ema>> {
    let average = |(i, decay): (usize, &f64)| {
        let Some(i) = i.checked_sub(1) else { return Ema::from_tensors(params, *decay, &mut saved.ema) };
        Ema::from_tensors(params, *decay, &mut saved.further_average(i))
    };
    decays.iter().enumerate().map(average).collect()
}
