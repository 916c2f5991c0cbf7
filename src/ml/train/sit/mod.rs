//! Training of a SiT on latents and features: its micro-batches ([`batch`], [`features`]), the
//! losses of its two phases ([`warmup`], [`flow`]) with the teacher of [`self_alignment`], and the
//! validation losses and previews during training ([`validation`], [`preview`]). The loop is
//! [`fit_batches`](super::fit_batches). Knows nothing of artifact inputs or of its callers.

pub mod batch;
pub mod features;
pub mod flow;
pub mod gpu;
pub mod preview;
pub mod self_alignment;
pub mod validation;
pub mod warmup;
