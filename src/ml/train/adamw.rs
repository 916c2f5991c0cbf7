//! AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019) with moments
//! by parameter name, global-norm clipping, and the update of the averages in the same pass.
//!
//! The arithmetic is PyTorch's: decay first, bias corrections of both moments, eps outside the
//! root. candle-nn's optimizer keeps its moments private, which makes an exact resume impossible.

use super::ema::{Ema, state_of};
use crate::kernels::adamw::{self, Mix};
use crate::kernels::autograd::{Gradient, Gradients};
use crate::nn::params::{ParamSet, Tensors};
use candle_core::{DType, Result, Tensor, Var, bail};
use serde::{Deserialize, Serialize};

/// Settings of the optimizer.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled: p <- p (1 - lr weight_decay), for the parameters that `decay` selects.
    pub weight_decay: f64,
    pub decay: Decay,
}

impl AdamWConfig {
    /// The numbers of update `updates`, counted from 1, with gradients multiplied by `grad_scale`.
    pub(crate) fn coefficients(&self, updates: u64, grad_scale: f64, ema_decay: f64) -> adamw::Coefficients {
        let Self { lr, beta1, beta2, eps, weight_decay, .. } = *self;
        let t = updates as f64;
        adamw::Coefficients {
            grad_scale: grad_scale as f32,
            first: Mix::new(beta1),
            second: Mix::new(beta2),
            eps: eps as f32,
            step_size: (lr / (1.0 - beta1.powf(t))) as f32,
            second_scale: (1.0 / (1.0 - beta2.powf(t))) as f32,
            decay: (1.0 - lr * weight_decay) as f32,
            ema: Mix::new(ema_decay),
        }
    }
}

/// Which parameters decay.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    #[default]
    All,
    /// Weights of linear and convolutional layers. Biases, norms and other one-dimensional
    /// parameters do not decay, nor do tables that are looked up or added instead of multiplied.
    /// PyTorch trainers since BERT and GPT-2 use the same rule.
    Matrices,
}

/// Suffixes of the names of tables in SiT and ViT.
const TABLES: [&str; 5] =
    ["embedding_table.weight", "pos_embed", "cls_token", "register_tokens", "position_embedding.weight"];

impl Decay {
    /// Whether a parameter with this name and rank decays.
    pub fn takes(self, name: &str, rank: usize) -> bool {
        self == Self::All || (rank >= 2 && !TABLES.iter().any(|table| name.ends_with(table)))
    }
}

/// The optimizer and its state.
#[derive(Debug, Clone)]
pub struct AdamW {
    pub config: AdamWConfig,
    /// Updates done.
    step: u64,
    first: Tensors,
    second: Tensors,
    /// Whether to use the fused update where it is supported.
    fused: bool,
}

impl AdamW {
    /// Starts with zero moments for every parameter.
    pub fn new(params: &ParamSet, config: AdamWConfig) -> Result<Self> {
        let zeros =
            || params.vars().into_iter().map(|(name, var)| Ok((name, var.zeros_like()?))).collect::<Result<_>>();
        Ok(Self { config, step: 0, first: zeros()?, second: zeros()?, fused: true })
    }

    /// Without moments: for a training that is about to start or to be restored.
    pub(super) fn without_state(config: AdamWConfig) -> Self {
        Self { config, step: 0, first: Tensors::new(), second: Tensors::new(), fused: true }
    }

    /// Like [`AdamW::new`], but always with plain candle operations.
    pub fn new_plain(params: &ParamSet, config: AdamWConfig) -> Result<Self> {
        Ok(Self { fused: false, ..Self::new(params, config)? })
    }

    /// Continues after `step` updates from saved moments, which are removed from the arguments.
    /// Every parameter must be there.
    pub fn from_tensors(
        params: &ParamSet,
        config: AdamWConfig,
        step: u64,
        first: &mut Tensors,
        second: &mut Tensors,
    ) -> Result<Self> {
        let (first, second) = (state_of(params, first, "moments")?, state_of(params, second, "moments")?);
        Ok(Self { config, step, first, second, fused: true })
    }

    /// First and second moments by parameter name. They share memory with the state.
    pub fn moments(&self) -> (Tensors, Tensors) {
        (self.first.clone(), self.second.clone())
    }

    /// Updates every parameter, with gradients multiplied by `grad_scale`, then the averages. There
    /// must be at least one average.
    pub fn step(&mut self, grads: &Gradients, grad_scale: f64, emas: &mut [Ema]) -> Result<()> {
        let Some(ema) = emas.first() else { bail!("the optimizer needs at least one average") };
        self.step += 1;
        let coefficients = self.config.coefficients(self.step, grad_scale, ema.decay);
        for (name, var, grad) in grads.iter() {
            let (Some(m), Some(v)) = (self.first.get_mut(name), self.second.get_mut(name)) else {
                bail!("parameter {name} was added after the optimizer was created")
            };
            let mut averages = averages_of(emas, name)?;
            let mut c = coefficients;
            if !self.config.decay.takes(name, var.rank()) {
                c.decay = 1.0;
            }
            match (grad, averages.as_slice()) {
                (Gradient::Host(grad), [(_, ema), further @ ..]) if self.fused => {
                    let further: Vec<(Mix, &Tensor)> = further.iter().map(|(mix, e)| (*mix, &**e)).collect();
                    adamw::step(var, grad, [m, v, ema], &further, c)?;
                }
                _ => {
                    plain_update(var, &grad.to_tensor(var)?, [m, v], c)?;
                    for (mix, average) in &mut averages {
                        **average = plain_mix(average, &var.as_detached_tensor(), *mix)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The averages of a parameter, each with its decay.
fn averages_of<'a>(emas: &'a mut [Ema], name: &str) -> Result<Vec<(Mix, &'a mut Tensor)>> {
    let average = |ema: &'a mut Ema| match ema.values.get_mut(name) {
        Some(tensor) => Ok((Mix::new(ema.decay), tensor)),
        None => bail!("parameter {name} has no average"),
    };
    emas.iter_mut().map(average).collect()
}

/// keep old + add new
fn plain_mix(old: &Tensor, new: &Tensor, m: Mix) -> Result<Tensor> {
    (old * f64::from(m.keep))? + (new * f64::from(m.add))?
}

/// The fused update with plain candle operations. `moments` are the first and the second.
fn plain_update(var: &Var, grad: &Tensor, moments: [&mut Tensor; 2], c: adamw::Coefficients) -> Result<()> {
    let [first, second] = moments;
    let grad = (grad.to_dtype(var.dtype())? * f64::from(c.grad_scale))?;
    *first = plain_mix(first, &grad, c.first)?;
    *second = plain_mix(second, &grad.sqr()?, c.second)?;
    let root = ((&*second * f64::from(c.second_scale))?.sqrt()? + f64::from(c.eps))?;
    let step = ((&*first * f64::from(c.step_size))? / root)?;
    let value = ((var.as_detached_tensor() * f64::from(c.decay))? - step)?;
    var.set(&value)
}

/// Euclidean norm over all gradients, summed in f64 in the order of the names. Synchronises with a
/// device once, not per tensor.
pub fn grad_norm(grads: &Gradients) -> Result<f64> {
    let mut total = 0.0;
    let mut elsewhere = vec![];
    for (_, _, grad) in grads.iter() {
        match grad {
            Gradient::Host(grad) => total += adamw::sum_of_squares(grad),
            Gradient::Tensor(grad) => elsewhere.push(grad.to_dtype(DType::F32)?.sqr()?.sum_all()?),
        }
    }
    if !elsewhere.is_empty() {
        total += Tensor::stack(&elsewhere, 0)?.to_vec1::<f32>()?.into_iter().map(f64::from).sum::<f64>();
    }
    Ok(total.sqrt())
}

/// The factor that reduces a norm to `max_norm`, as `torch.nn.utils.clip_grad_norm_`. It is 1 if
/// `max_norm` is 0 or less, which disables clipping.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm <= 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
}
