//! Kinds that measure: images against references ([`fid`], [`stats`]), representations ([`cknna`],
//! [`probe`], [`agreement`]), classifiers ([`accuracy`]).

pub mod accuracy;
pub mod agreement;
pub mod block_features;
pub mod block_scores;
pub mod cknna;
pub mod fid;
pub mod images;
pub mod probe;
pub mod stats;
