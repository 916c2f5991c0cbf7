//! Flow matching: the path between noise and data ([`interpolant`]), losses, the schedule of the
//! alignment, the samplers. Knows no network.

pub mod alignment;
pub mod alignment_schedule;
pub mod interpolant;
pub mod loss;
pub mod sampler;
