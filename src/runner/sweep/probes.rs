//! The dimension of a search: points that were chosen one after another, each by its values. Does not
//! know who chooses them, nor their results.

use super::axis::{Axis, Point, SEARCH, last_part};
use super::axis_argument::shown;
use crate::pipeline::file::Spec;
use crate::pipeline::graph::Origin;
use crate::pipeline::layers::{RawValue, Setting, target};
use erw_base::error::Result;
use std::path::PathBuf;

/// The values of one point, by parameter (`STAGE.NAME`), as one would write them.
pub type Probe = Vec<(String, String)>;

/// The name of a trial at this point if no other dimension is varied: `cfg_scale=1.5,steps=20`. All
/// points of a search set the same parameters.
pub fn label(probe: &Probe) -> String {
    let short = |key: &str| {
        let is_shared = probe.iter().filter(|(other, _)| last_part(other) == last_part(key)).count() > 1;
        if is_shared { key.to_string() } else { last_part(key).to_string() }
    };
    let words: Vec<String> = probe.iter().map(|(key, text)| format!("{}={text}", short(key))).collect();
    words.join(",")
}

/// The dimension, in the order in which points were chosen.
pub(super) fn dimension(spec: &Spec, probes: &[Probe]) -> Result<Axis> {
    let point = |probe: &Probe| {
        let setting = |(key, text): &(String, String)| {
            let origin = Origin { layer: format!("--search {key}").into(), place: None };
            let target = target(spec, key).map_err(|e| e.within(&format!("`--search {key}`")))?;
            let value = RawValue::Text(text.clone());
            Ok((key.clone(), shown(text), Setting { target, value, origin, base: PathBuf::new() }))
        };
        Ok(Point { label: label(probe), settings: probe.iter().map(setting).collect::<Result<_>>()? })
    };
    Ok(Axis::new(SEARCH, probes.iter().map(point).collect::<Result<_>>()?))
}
