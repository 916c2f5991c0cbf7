//! Training of a SiT on latents and features: its micro-batches ([`batch`], [`features`]), the
//! losses of its two phases ([`warmup`], [`flow`]), and what looks at it on the way
//! ([`validation`], [`preview`]). The loop is [`fit_batches`](super::fit_batches). Knows nothing of
//! artifacts' inputs or of who asks for the training.

pub mod batch;
pub mod features;
pub mod flow;
pub mod preview;
pub mod validation;
pub mod warmup;
