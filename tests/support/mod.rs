//! What several test modules share.

pub mod arrays;
pub mod bench;
pub mod browser;
pub mod cluster;
pub mod counter;
pub mod deadline;
pub mod dice;
pub mod disk;
pub mod experiment;
pub mod golden;
pub mod grey_images;
pub mod http;
pub mod pickled;
pub mod python;
pub mod ranks;
pub mod s3;
pub mod scored;
mod skip;
pub mod space;
pub mod taplo;
pub mod toys;
pub mod training;
pub mod venv;

pub use skip::skip;
