//! AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019) with moments by parameter
//! name, global-norm clipping, and the updates of the averages in the same pass.
//!
//! The arithmetic follows PyTorch: decay first, bias corrections of both moments, eps outside the root.
//! candle-nn's optimiser keeps its moments private, which makes an exact resume impossible.

use super::backprop::{Gradient, Gradients};
use super::ema::{Buffer, Ema, is_fused, to_tensors};
use super::kernels::adamw::{self, Mix};
use super::weights::{ParamSet, Tensors};
use candle_core::{DType, Result, Tensor, Var, bail};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled: p <- p (1 - lr weight_decay), for the parameters that `decay` takes.
    pub weight_decay: f64,
    pub decay: Decay,
}

/// Which parameters decay.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    #[default]
    All,
    /// Weights of linear and convolutional layers. Biases, norms and everything else of one dimension stay, and so do
    /// tables that are looked up or added, not multiplied by: what PyTorch trainers since BERT and GPT-2 exempt.
    Matrices,
}

/// Ends of the names of tables, by network: SiT and ViT.
const TABLES: [&str; 5] =
    ["embedding_table.weight", "pos_embed", "cls_token", "register_tokens", "position_embedding.weight"];

impl Decay {
    /// Does a parameter of this name and rank decay?
    pub fn takes(self, name: &str, rank: usize) -> bool {
        self == Self::All || (rank >= 2 && !TABLES.iter().any(|table| name.ends_with(table)))
    }
}

#[derive(Debug, Clone)]
struct Moments {
    first: Buffer,
    second: Buffer,
}

/// The optimiser and its state.
#[derive(Debug, Clone)]
pub struct AdamW {
    pub config: AdamWConfig,
    /// Updates done.
    step: u64,
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// Zero moments for every parameter.
    pub fn new(params: &ParamSet, config: AdamWConfig) -> Result<Self> {
        Self::zeroed(params, config, is_fused)
    }

    /// Like [`AdamW::new`], but with the plain-candle update everywhere.
    pub fn new_plain(params: &ParamSet, config: AdamWConfig) -> Result<Self> {
        Self::zeroed(params, config, |_| false)
    }

    /// Continues after `step` updates from saved moments; every parameter must be there.
    pub fn from_tensors(
        params: &ParamSet,
        config: AdamWConfig,
        step: u64,
        first: &Tensors,
        second: &Tensors,
    ) -> Result<Self> {
        let moments = params
            .vars()
            .into_iter()
            .map(|(name, var)| {
                let buffer = |saved: &Tensors| match saved.get(&name) {
                    Some(t) if t.shape() == var.shape() => Buffer::copy_of(&t.to_device(var.device())?, is_fused(&var)),
                    _ => bail!("the saved moments have no tensor of the shape of parameter {name}"),
                };
                let moments = Moments { first: buffer(first)?, second: buffer(second)? };
                Ok((name, moments))
            })
            .collect::<Result<_>>()?;
        Ok(Self { config, step, moments })
    }

    fn zeroed(params: &ParamSet, config: AdamWConfig, fused: impl Fn(&Tensor) -> bool) -> Result<Self> {
        let moments = params
            .vars()
            .into_iter()
            .map(|(name, var)| {
                let zero = Buffer::copy_of(&var.zeros_like()?, fused(&var))?;
                Ok((name, Moments { first: zero.clone(), second: zero }))
            })
            .collect::<Result<_>>()?;
        Ok(Self { config, step: 0, moments })
    }

    /// First and second moments by parameter name.
    pub fn moments(&self, params: &ParamSet) -> Result<(Tensors, Tensors)> {
        let of = |pick: fn(&Moments) -> &Buffer| {
            let buffers = self.moments.iter().map(|(k, m)| (k.clone(), pick(m).clone())).collect();
            to_tensors(&buffers, params)
        };
        Ok((of(|m| &m.first)?, of(|m| &m.second)?))
    }

    /// One update of every parameter with gradients multiplied by `grad_scale`, then of the averages, at least one.
    pub fn step(&mut self, grads: &Gradients, grad_scale: f64, emas: &mut [Ema]) -> Result<()> {
        let Some((ema, further)) = emas.split_first_mut() else { bail!("the optimiser keeps at least one average") };
        self.step += 1;
        let coefficients = self.coefficients(grad_scale, ema.decay);
        for (name, var, grad) in grads.iter() {
            let (Some(m), Some(e)) = (self.moments.get_mut(name), ema.values.get_mut(name)) else {
                bail!("parameter {name} joined after the optimiser was made")
            };
            let further = buffers_of(further, name)?;
            let mut c = coefficients;
            if !self.config.decay.takes(name, var.rank()) {
                c.decay = 1.0;
            }
            match (grad, &mut m.first, &mut m.second, e) {
                (Gradient::Host(grad), Buffer::Host(first), Buffer::Host(second), Buffer::Host(ema)) => {
                    let further = further.into_iter().map(|(mix, b)| Ok((mix, b.host()?))).collect::<Result<_>>()?;
                    let state = RefCell::new(adamw::State { first, second, ema, further });
                    var.inplace_op1(&adamw::Update { grad, state, coefficients: c })?;
                }
                (grad, first, second, ema) => {
                    let (mut m, mut v) = (first.to_tensor(var)?, second.to_tensor(var)?);
                    plain_update(var, &grad.to_tensor(var)?, [&mut m, &mut v], c)?;
                    (*first, *second) = (Buffer::Tensor(m), Buffer::Tensor(v));
                    for (mix, average) in std::iter::once((c.ema, ema)).chain(further) {
                        let e = plain_mix(&average.to_tensor(var)?, &var.as_detached_tensor(), mix)?;
                        *average = Buffer::copy_of(&e, matches!(average, Buffer::Host(_)))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn coefficients(&self, grad_scale: f64, ema_decay: f64) -> adamw::Coefficients {
        let AdamWConfig { lr, beta1, beta2, eps, weight_decay, .. } = self.config;
        let t = self.step as f64;
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

/// The averages of a parameter, each with its decay.
fn buffers_of<'a>(emas: &'a mut [Ema], name: &str) -> Result<Vec<(Mix, &'a mut Buffer)>> {
    let buffer = |ema: &'a mut Ema| match ema.values.get_mut(name) {
        Some(buffer) => Ok((Mix::new(ema.decay), buffer)),
        None => bail!("parameter {name} has no average"),
    };
    emas.iter_mut().map(buffer).collect()
}

/// keep old + add new
fn plain_mix(old: &Tensor, new: &Tensor, m: Mix) -> Result<Tensor> {
    (old * f64::from(m.keep))? + (new * f64::from(m.add))?
}

/// The fused update in candle's own operations; `moments` are the first and the second.
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

/// Euclidean norm over all gradients, summed in f64 in the order of the names. Waits for a device once, not per tensor.
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

/// The factor that brings a norm down to `max_norm`, as `torch.nn.utils.clip_grad_norm_`; 1 when `max_norm` is 0
/// or less, which switches clipping off.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm <= 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
}
