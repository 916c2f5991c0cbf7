//! Opens a GPU as a machine of erw's own kernels: with enough memory, and with products that are
//! right. Does not know what runs on it.

#[cfg(feature = "cuda")]
use crate::support::params::of_driver;
use erw_base::error::{Error, Result};
use erw_gpu::machine::{Link, Machine};
use erw_gpu::program::Type;
use erw_runner::kind::attempt::Attempt;
use std::rc::Rc;
use std::sync::Arc;

/// Opens the device `cuda:N` of this attempt for `guest` (as in "the training"), which takes `memory`
/// bytes, said in the log, and products of type `ty`. `hint` says what makes it take less.
///
/// # Errors
/// No such GPU, one with too little memory, or one that computes products wrongly.
pub fn open(attempt: &Attempt, guest: &str, memory: usize, ty: Type, hint: &str) -> Result<Arc<dyn Machine>> {
    Ok(card(attempt, guest, memory, ty, hint, false)?.machine)
}

/// A GPU, and the way to those of the other ranks, if there are any.
pub struct Opened {
    pub machine: Arc<dyn Machine>,
    pub link: Option<Rc<dyn Link>>,
}

/// As [`open`], connected with the GPUs of the other ranks.
///
/// # Errors
/// As [`open`]; ranks that cannot be connected.
pub fn open_linked(attempt: &Attempt, guest: &str, memory: usize, ty: Type, hint: &str) -> Result<Opened> {
    card(attempt, guest, memory, ty, hint, attempt.ranks() > 1)
}

#[cfg(feature = "cuda")]
fn gigabytes(bytes: usize) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

#[cfg(feature = "cuda")]
fn card(attempt: &Attempt, guest: &str, memory: usize, ty: Type, hint: &str, linked: bool) -> Result<Opened> {
    attempt.log(&format!("{guest} takes {} of the GPU's memory", gigabytes(memory)));
    let device = attempt.device();
    let ordinal = device.strip_prefix("cuda:").and_then(|n| n.parse().ok()).unwrap_or(0);
    let card = erw_gpu::card::Card::new(ordinal).map_err(|e| of_driver(&format!("cannot use GPU `{device}`"), e))?;
    let (name, free, all) = card.describe()?;
    if memory > free {
        let text = format!("{guest} takes {}, but {} of {name} are free", gigabytes(memory), gigabytes(free));
        return Err(Error::stage(text).because(format!("the GPU has {} in all", gigabytes(all))).hint(hint));
    }
    erw_gpu::self_check::check_products(&card, ty)?;
    let link = if linked { Some(link(attempt, &card)?) } else { None };
    Ok(Opened { machine: Arc::new(card), link })
}

#[cfg(not(feature = "cuda"))]
fn card(_: &Attempt, _: &str, _: usize, _: Type, _: &str, _: bool) -> Result<Opened> {
    // Opening the device has failed before.
    Err(Error::usage("this erw was built without CUDA"))
}

#[cfg(feature = "nccl")]
fn link(attempt: &Attempt, card: &erw_gpu::card::Card) -> Result<Rc<dyn Link>> {
    let id = super::nccl_id::shared(attempt)?;
    Ok(Rc::new(card.connect(&id, attempt.rank(), attempt.ranks())?))
}

#[cfg(all(feature = "cuda", not(feature = "nccl")))]
fn link(attempt: &Attempt, _: &erw_gpu::card::Card) -> Result<Rc<dyn Link>> {
    let text = format!("{} GPUs cannot train together: this erw was built without NCCL", attempt.ranks());
    Err(Error::usage(text).hint("build one that has it by `cargo build --release --features nccl`, or set `gpus = 1`"))
}
