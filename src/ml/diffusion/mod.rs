//! Flow matching: the path between noise and data ([`interpolant`]), losses, the alignment schedule
//! and the samplers. Knows nothing of networks.

pub mod alignment;
pub mod alignment_schedule;
pub mod dopri5;
pub mod interpolant;
pub mod loss;
pub mod sampler;
