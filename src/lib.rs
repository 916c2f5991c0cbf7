//! `erw`: the whole experiment of Embedded Representation Warmup as a cached, resumable pipeline.
//!
//! A crate for each wing: [`runner`] (pipelines, keys, cache, scheduling) knows nothing of machine
//! learning, [`ml`] (models, training, sampling, metrics) nothing of pipelines, and [`stages`]
//! connects them. [`fetch`] downloads published files and knows neither half. Only [`report`] and
//! [`cli`] print.
//! ARCHITECTURE.md has the map.

pub use erw_base::{error, limits, process, svg, text};
pub use {
    erw_cli as cli, erw_fetch as fetch, erw_ml as ml, erw_report as report, erw_runner as runner, erw_stages as stages,
};
