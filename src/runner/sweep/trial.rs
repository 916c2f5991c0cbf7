//! One trial of a sweep: its settings, and its stages among those of all trials. Does not know the
//! axes.

use crate::pipeline::graph::StageId;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// One point of the grid.
pub struct Trial {
    /// `seed=1`, `sit`, `sit,seed=1`.
    pub name: String,
    /// The parts of its name, one per axis.
    pub labels: Vec<String>,
    /// Its settings, by `STAGE.NAME`.
    pub settings: Vec<(String, Json)>,
    /// By base stage name.
    pub stages: BTreeMap<String, StageId>,
}
