//! Backward passes that accumulate gradients in place: one buffer per parameter, for the whole
//! training.
//!
//! candle adds every gradient to a fresh zero tensor, three passes over memory each, and an
//! operation may have at most three inputs. So the fused operations of [`crate::kernels`] add the
//! gradients of their weights directly to the buffers here, with an accumulating matrix product,
//! and give candle only those of their inputs. All others (other devices and types, candle's own
//! operations) come from candle's gradient store and are added afterwards.
//!
//! An operation that captured a trained weight refuses to run backward without a collector, so that
//! no gradient is lost silently.

use crate::kernels::{self, rows};
use candle_core::backend::BackendStorage;
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, DType, Layout, Result, Shape, Storage, Tensor, TensorId, Var, bail,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// A gradient: f32 values in main memory, or a tensor on another device.
#[derive(Debug, Clone, Copy)]
pub enum Gradient<'a> {
    Host(&'a [f32]),
    Tensor(&'a Tensor),
}

impl Gradient<'_> {
    /// As a tensor with the shape of its parameter.
    pub fn to_tensor(self, like: &Tensor) -> Result<Tensor> {
        match self {
            Self::Host(buffer) => Tensor::from_slice(buffer, like.shape(), like.device()),
            Self::Tensor(t) => Ok(t.clone()),
        }
    }
}

#[derive(Debug, Clone)]
enum Value {
    /// Reused from step to step. The contents are valid only if the slot was reached in this step.
    Host(Vec<f32>),
    Tensor(Option<Tensor>),
}

#[derive(Debug)]
struct GradSlot {
    name: String,
    var: Var,
    value: Value,
    reached: bool,
}

impl GradSlot {
    /// Lets `write` set the buffer, or add to it if its second argument is true. False if there is
    /// no buffer.
    fn write(&mut self, write: impl FnOnce(&mut [f32], bool)) -> bool {
        let Value::Host(buffer) = &mut self.value else { return false };
        buffer.resize(self.var.elem_count(), 0.0);
        write(buffer, self.reached);
        self.reached = true;
        true
    }

    fn add(&mut self, grad: &Tensor) -> Result<()> {
        let grad = grad.contiguous()?;
        if let Value::Tensor(total) = &mut self.value {
            *total = Some(match total.take() {
                Some(so_far) => (so_far + grad)?,
                None => grad,
            });
            self.reached = true;
            return Ok(());
        }
        kernels::with_slices([&grad], |[grad]| {
            self.write(|buffer, keep| {
                if keep {
                    rows::add_to(buffer, grad);
                } else {
                    buffer.copy_from_slice(grad);
                }
            });
        })
    }
}

/// Gradients that were set aside, see [`Gradients::set_aside`]. Nothing by default.
#[derive(Debug, Default)]
pub struct SetAside(Vec<(Value, bool)>);

/// The gradients of a set of parameters, summed over backward passes since [`clear`](Self::clear).
#[derive(Debug)]
pub struct Gradients {
    /// Sorted by name.
    slots: Vec<GradSlot>,
    by_id: HashMap<TensorId, usize>,
}

thread_local! {
    /// What the backward pass on this thread collects into.
    static COLLECTOR: RefCell<Option<Gradients>> = const { RefCell::new(None) };
}

impl Gradients {
    /// For named variables.
    pub fn new(vars: impl IntoIterator<Item = (String, Var)>) -> Self {
        let slot = |(name, var): (String, Var)| {
            let value = if kernels::suits(&[&var]) { Value::Host(vec![]) } else { Value::Tensor(None) };
            GradSlot { name, var, value, reached: false }
        };
        let mut slots: Vec<GradSlot> = vars.into_iter().map(slot).collect();
        slots.sort_by(|a, b| a.name.cmp(&b.name));
        let by_id = slots.iter().enumerate().map(|(i, s)| (s.var.id(), i)).collect();
        Self { slots, by_id }
    }

    /// From given gradients. Names that are not parameters are ignored.
    pub fn from_tensors(
        vars: impl IntoIterator<Item = (String, Var)>,
        given: &BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        let mut all = Self::new(vars);
        all.add(given)?;
        Ok(all)
    }

    /// Adds given gradients.
    pub fn add(&mut self, given: &BTreeMap<String, Tensor>) -> Result<()> {
        for slot in &mut self.slots {
            if let Some(grad) = given.get(&slot.name) {
                slot.add(grad)?;
            }
        }
        Ok(())
    }

    /// Forgets all gradients but keeps the memory.
    pub fn clear(&mut self) {
        for slot in &mut self.slots {
            slot.reached = false;
            if let Value::Tensor(t) = &mut slot.value {
                *t = None;
            }
        }
    }

    /// Adds the gradients of a scalar.
    ///
    /// # Errors
    /// The errors of the operations behind the scalar.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        let empty = Self { slots: vec![], by_id: HashMap::new() };
        COLLECTOR.set(Some(std::mem::replace(self, empty)));
        let store = loss.backward();
        if let Some(collected) = COLLECTOR.take() {
            *self = collected;
        }
        self.take_from(&mut store?)
    }

    fn take_from(&mut self, store: &mut GradStore) -> Result<()> {
        for slot in &mut self.slots {
            if let Some(grad) = store.remove(&slot.var) {
                slot.add(&grad)?;
            }
        }
        Ok(())
    }

    /// Moves the gradients to `place`, whose memory is used for the next ones.
    pub fn set_aside(&mut self, place: &mut SetAside) {
        let nothing = |slot: &GradSlot| match slot.value {
            Value::Host(_) => (Value::Host(vec![]), false),
            Value::Tensor(_) => (Value::Tensor(None), false),
        };
        place.0.extend(self.slots.iter().skip(place.0.len()).map(nothing));
        for (slot, (value, reached)) in self.slots.iter_mut().zip(&mut place.0) {
            std::mem::swap(&mut slot.value, value);
            std::mem::swap(&mut slot.reached, reached);
        }
        self.clear();
    }

    /// Adds gradients that were set aside.
    pub fn add_from(&mut self, place: &SetAside) -> Result<()> {
        for (slot, (value, reached)) in self.slots.iter_mut().zip(&place.0) {
            match value {
                Value::Host(numbers) if *reached => {
                    slot.write(
                        |sum, keep| if keep { rows::add_to(sum, numbers) } else { sum.copy_from_slice(numbers) },
                    );
                }
                Value::Tensor(Some(t)) => slot.add(t)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Replaces the gradients by what `change` makes of them: all numbers in the order of the
    /// names, then 1 or 0 for each parameter, whether a gradient reached it.
    pub fn change(&mut self, change: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
        let mut all = vec![];
        for slot in &self.slots {
            match &slot.value {
                Value::Host(numbers) if slot.reached => all.extend_from_slice(numbers),
                Value::Tensor(Some(t)) => all.extend(t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?),
                _ => all.resize(all.len() + slot.var.elem_count(), 0.0),
            }
        }
        let reached = all.len();
        all.extend(self.slots.iter().map(|slot| f32::from(u8::from(slot.reached))));
        change(&mut all)?;
        let (mut numbers, reached) = all.split_at(reached);
        self.clear();
        for (slot, reached) in self.slots.iter_mut().zip(reached) {
            let (own, rest) = numbers.split_at(slot.var.elem_count());
            numbers = rest;
            if *reached == 0.0 {
                continue;
            }
            if !slot.write(|buffer, _| buffer.copy_from_slice(own)) {
                slot.add(&Tensor::from_slice(own, slot.var.shape(), slot.var.device())?)?;
            }
        }
        Ok(())
    }

    /// Name, variable and gradient of every parameter that a gradient reached, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var, Gradient<'_>)> {
        self.slots.iter().filter(|s| s.reached).filter_map(|s| {
            let gradient = match &s.value {
                Value::Host(buffer) => Gradient::Host(buffer),
                Value::Tensor(t) => Gradient::Tensor(t.as_ref()?),
            };
            Some((s.name.as_str(), &s.var, gradient))
        })
    }

    /// Names of the parameters that no gradient reached.
    pub fn unreached(&self) -> Vec<&str> {
        self.slots.iter().filter(|s| !s.reached).map(|s| s.name.as_str()).collect()
    }

    /// Copies of the gradients, as tensors of the parameters' shapes.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let tensor = |(name, var, gradient): (&str, &Var, Gradient)| Ok((name.to_string(), gradient.to_tensor(var)?));
        self.iter().map(tensor).collect()
    }
}

/// Gradients of a scalar with respect to the parameters, by name: [`Gradients`] for a single pass.
pub fn gradients(vars: impl IntoIterator<Item = (String, Var)>, loss: &Tensor) -> Result<BTreeMap<String, Tensor>> {
    let mut all = Gradients::new(vars);
    all.backward(loss)?;
    all.tensors()
}

/// `f(a, b)` with activation checkpointing: only `a` and `b` are kept for the backward pass, which
/// runs `f` again (Chen et al., "Training deep nets with sublinear memory cost", 2016). The
/// gradients are the same, on any device.
pub fn checkpointed(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    // A copy, so that the storage holds only this tensor.
    let out = f(&a.detach(), &b.detach())?.detach().contiguous()?.copy()?;
    a.apply_op2(b, Checkpointed { out: Mutex::new(Some(out)), f: Box::new(f) })
}

type Function = dyn Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync;

struct Checkpointed {
    /// The result, computed beforehand; the forward pass takes it.
    out: Mutex<Option<Tensor>>,
    f: Box<Function>,
}

impl Checkpointed {
    fn take(&self) -> Result<Tensor> {
        match self.out.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(out) => Ok(out),
            None => bail!("a checkpointed function can run forward only once"),
        }
    }
}

impl CustomOp2 for Checkpointed {
    fn name(&self) -> &'static str {
        "checkpointed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.take()?;
        match &*out.storage_and_layout().0 {
            Storage::Cpu(storage) => Ok((storage.clone(), out.shape().clone())),
            _ => bail!("a checkpointed function on the CPU returned a tensor on another device"),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let out = self.take()?;
        let (storage, layout) = out.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, out.shape().clone())),
            _ => bail!("a checkpointed function on CUDA returned a tensor on another device"),
        }
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (a, b) = (Var::from_tensor(&a.detach())?, Var::from_tensor(&b.detach())?);
        let out = (self.f)(&a, &b)?;
        let mut store = (out * grad)?.sum_all()?.backward()?;
        let gradients = (store.remove(&a), store.remove(&b));
        COLLECTOR.with_borrow_mut(|collector| match collector {
            Some(all) => all.take_from(&mut store),
            None => bail!("nothing collects the gradients of a checkpointed function: use `Gradients::backward`"),
        })?;
        Ok(gradients)
    }
}

/// For the backward pass of a fused operation: lets `write(buffer, keep)` set the gradient of
/// `weight`, or add to it if `keep`. False if `weight` is not a parameter of a running
/// [`Gradients::backward`]; its gradient must then be returned to candle.
pub(crate) fn collect(weight: &Tensor, write: impl FnOnce(&mut [f32], bool)) -> bool {
    COLLECTOR.with_borrow_mut(|collector| {
        let Some(gradients) = collector else { return false };
        gradients.by_id.get(&weight.id()).is_some_and(|slot| gradients.slots[*slot].write(write))
    })
}

/// [`collect`] for an operation that cannot return the gradient to candle.
///
/// # Errors
/// A trained weight whose gradient nothing collects.
pub(crate) fn collect_captured(weight: &Tensor, write: impl FnOnce(&mut [f32], bool)) -> Result<()> {
    if !weight.is_variable() || collect(weight, write) {
        return Ok(());
    }
    bail!("nothing collects the gradient of a captured weight {:?}: use `Gradients::backward`", weight.dims())
}

/// Collects the gradient of a bias from sums per group, `width` values each: those from `first`,
/// added over the groups.
pub(crate) fn collect_bias(bias: &Tensor, sums: &[f32], width: usize, first: usize) -> Result<()> {
    collect_captured(bias, |db, keep| {
        if !keep {
            db.fill(0.0);
        }
        for group in sums.chunks(width) {
            let len = db.len();
            rows::add_to(db, &group[first..][..len]);
        }
    })
}
