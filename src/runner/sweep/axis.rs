//! One axis of a sweep: its name, its points and the settings of each. Does not know the other
//! axes.

use crate::kind::value;
use crate::pipeline::file::{File, Spec};
use crate::pipeline::graph::Origin;
use crate::pipeline::layers::{RawValue, Setting, target};
use crate::pipeline::targets::OF_TRIAL;
use crate::text::spanned::{Entry, Node};
use erw_base::error::{Error, Place, Result};
use serde_json::Value as Json;
use std::path::Path;

/// One dimension of the grid.
pub struct Axis {
    /// `seed`, or `train.seed` where `seed` would be ambiguous; `trials`; `random`; `search`.
    pub name: String,
    /// The parameters that its points set.
    pub keys: Vec<String>,
    pub(crate) points: Vec<Point>,
}

impl Axis {
    /// Do its trials differ in a seed only?
    pub fn is_seed(&self) -> bool {
        self.name.rsplit('.').next() == Some("seed")
    }
}

pub(crate) struct Point {
    /// `seed=1`, or the name of the trial.
    pub label: String,
    pub settings: Vec<(String, Json, Setting)>,
}

/// An axis as written, before it has a short name.
pub(crate) struct Stated {
    /// The parameters it sets; an axis of several, such as `"train.seed,warmup.seed"`, sets them
    /// all to the same value.
    pub keys: Vec<String>,
    /// For messages: "axis `train.seed`".
    pub what: String,
    /// One setting per key.
    pub values: Vec<(Json, Vec<Setting>)>,
}

pub const TRIALS: &str = "trials";

pub const RANDOM: &str = "random";

pub const SEARCH: &str = "search";

/// The value in the last file that has one, with that file.
pub(crate) fn last<'a, T>(spec: &'a Spec, part: impl Fn(&'a File) -> Option<T>) -> Option<(T, &'a File)> {
    spec.files.iter().rev().find_map(|f| Some((part(f)?, f)))
}

/// The parameters that an axis with this name sets.
pub(crate) fn keys_of(name: &str) -> Vec<String> {
    name.split(',').map(|key| key.trim().to_string()).collect()
}

pub(crate) fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

impl Stated {
    pub(crate) fn of_file(spec: &Spec, entry: &Entry, base: &Path) -> Result<Self> {
        let what = format!("axis `{}`", entry.key);
        let values = entry.node.list(&what)?;
        if values.is_empty() {
            return Err(Error::usage(format!("{what} has no values")).at(entry.node.place.clone()));
        }
        let keys = keys_of(&entry.key);
        let entries: Vec<Entry> = keys.iter().map(|key| Entry { key: key.clone(), ..entry.clone() }).collect();
        let value = |node: &Node| {
            let settings = entries.iter().map(|e| Ok(setting(spec, e, node, base, "axis")?.1));
            Ok((value::to_json(&value::from_node(node)), settings.collect::<Result<_>>()?))
        };
        let values = values.iter().map(value).collect::<Result<_>>()?;
        Ok(Self { keys, what, values })
    }

    /// The parameter that names it.
    pub(crate) fn first(&self) -> &str {
        self.keys.first().map_or("", String::as_str)
    }

    pub(crate) fn axis(&self, short: &str) -> Result<Axis> {
        let point = |(value, settings): &(Json, Vec<Setting>)| Point {
            label: format!("{short}={}", value::show(value)),
            settings: self.keys.iter().zip(settings).map(|(k, s)| (k.clone(), value.clone(), s.clone())).collect(),
        };
        let points: Vec<Point> = self.values.iter().map(point).collect();
        let places = self.values.iter().map(|(_, s)| s.first().and_then(|s| s.origin.place.as_ref()));
        distinct(&points, places, &self.what)?;
        Ok(Axis { name: short.into(), keys: self.keys.clone(), points })
    }
}

impl Axis {
    pub(crate) fn new(name: &str, points: Vec<Point>) -> Self {
        let mut keys: Vec<String> = vec![];
        for (key, ..) in points.iter().flat_map(|p| &p.settings) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        Self { name: name.into(), keys, points }
    }
}

pub(crate) fn distinct<'a>(
    points: &[Point],
    places: impl Iterator<Item = Option<&'a Place>>,
    what: &str,
) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for (point, place) in points.iter().zip(places) {
        if !seen.insert(&point.label) {
            return Err(Error::usage(format!("{what} has `{}` twice", point.label)).maybe_at(place.cloned()));
        }
    }
    Ok(())
}

/// One value of an axis, a trial or a distribution.
pub(crate) fn setting(spec: &Spec, entry: &Entry, node: &Node, base: &Path, what: &str) -> Result<(Json, Setting)> {
    let target = target(spec, &entry.key)
        .map_err(|e| e.at(entry.key_place.clone()).within(&format!("{what} `{}`", entry.key)))?;
    let json = value::to_json(&value::from_node(node));
    let origin = Origin { layer: OF_TRIAL.into(), place: Some(node.place.clone()) };
    Ok((json, Setting { target, value: RawValue::Node(node.clone()), origin, base: base.to_path_buf() }))
}

/// More trials than anybody can read; a slip such as `0..1e9` must not fill the memory.
pub(crate) const MOST_TRIALS: usize = 10_000;
