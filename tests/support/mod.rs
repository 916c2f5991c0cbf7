//! What several test modules share.

pub mod arrays;
pub mod bench;
pub mod counter;
pub mod experiment;
pub mod golden;
pub mod http;
pub mod pickled;
pub mod s3;
pub mod scored;
pub mod space;
pub mod toys;
pub mod training;
