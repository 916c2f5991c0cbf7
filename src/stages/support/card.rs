//! Opens a GPU as a machine of erw's own kernels: with enough memory, and with products that are
//! right. Does not know what runs on it.

#[cfg(feature = "cuda")]
use crate::support::params::of_driver;
use erw_base::error::{Error, Result};
use erw_gpu::machine::Machine;
use erw_gpu::program::Type;
use erw_runner::kind::attempt::Attempt;

/// Opens the device `cuda:N` of this attempt for `guest` (as in "the training"), which takes `memory`
/// bytes, said in the log, and products of type `ty`. `hint` says what makes it take less.
///
/// # Errors
/// No such GPU, one with too little memory, or one that computes products wrongly.
pub fn open(attempt: &Attempt, guest: &str, memory: usize, ty: Type, hint: &str) -> Result<Box<dyn Machine>> {
    attempt.log(&format!("{guest} takes {} of the GPU's memory", gigabytes(memory)));
    card(attempt.device(), guest, memory, ty, hint)
}

fn gigabytes(bytes: usize) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

#[cfg(feature = "cuda")]
fn card(device: &str, guest: &str, memory: usize, ty: Type, hint: &str) -> Result<Box<dyn Machine>> {
    let ordinal = device.strip_prefix("cuda:").and_then(|n| n.parse().ok()).unwrap_or(0);
    let card = erw_gpu::card::Card::new(ordinal).map_err(|e| of_driver(&format!("cannot use GPU `{device}`"), e))?;
    let (name, free, all) = card.describe()?;
    if memory > free {
        let text = format!("{guest} takes {}, but {} of {name} are free", gigabytes(memory), gigabytes(free));
        return Err(Error::stage(text).because(format!("the GPU has {} in all", gigabytes(all))).hint(hint));
    }
    erw_gpu::self_check::check_products(&card, ty)?;
    Ok(Box::new(card))
}

#[cfg(not(feature = "cuda"))]
fn card(_: &str, _: &str, _: usize, _: Type, _: &str) -> Result<Box<dyn Machine>> {
    // Opening the device has failed before.
    Err(Error::usage("this erw was built without CUDA"))
}
