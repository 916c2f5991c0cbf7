//! What several test modules share.

pub mod experiment;
pub mod golden;
pub mod toys;
