//! One trial of a sweep: what it sets, and its stages among those of all trials.

use crate::pipeline::graph::StageId;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// One point of the grid.
pub struct Trial {
    /// `seed=1`, `sit`, `sit,seed=1`.
    pub name: String,
    /// The parts of its name, one for each axis.
    pub labels: Vec<String>,
    /// What it sets, by `STAGE.NAME`.
    pub settings: Vec<(String, Json)>,
    /// By base stage name.
    pub stages: BTreeMap<String, StageId>,
}
