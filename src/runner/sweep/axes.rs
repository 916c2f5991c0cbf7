//! The dimensions of a sweep: the axes of `[sweep]` and of the command line, `[[sweep.trials]]`, `[sweep.random]`.
//! Every name in them is checked here. Knows nothing of trials.

use super::arguments;
use super::random;
use crate::error::{Error, Place, Result};
use crate::runner::graph::Origin;
use crate::runner::layers::{Given, Setting, target};
use crate::runner::located::{Entry, Node};
use crate::runner::spec::{File, Spec, flatten};
use crate::runner::value;
use serde_json::Value as Json;
use std::path::Path;

/// One dimension of the grid.
pub struct Axis {
    /// `seed`, or `train.seed` where `seed` would be ambiguous; `trials`; `random`.
    pub name: String,
    /// What its points set.
    pub keys: Vec<String>,
    pub(super) points: Vec<Point>,
}

pub(super) struct Point {
    /// `seed=1` or the trial's name.
    pub label: String,
    pub settings: Vec<(String, Json, Setting)>,
}

/// An axis as it was stated, before it has a short name.
pub(super) struct Stated {
    /// What it sets; an axis of several, as `"train.seed,warmup.seed"`, gives them all the same value.
    pub keys: Vec<String>,
    /// For messages: "axis `train.seed`".
    pub what: String,
    /// A setting for each key.
    pub values: Vec<(Json, Vec<Setting>)>,
}

pub const TRIALS: &str = "trials";
pub const RANDOM: &str = "random";

/// The dimensions of the sweep, the slowest first; `given` are those of the command line. Empty without a `[sweep]`.
pub(super) fn axes(spec: &Spec, given: &[String]) -> Result<Vec<Axis>> {
    let mut axes = vec![];
    if let Some((trials, file)) = last(spec, |f| f.trials.as_ref()) {
        axes.push(Axis::new(TRIALS, named_trials(spec, trials, &file.dir())?));
    }
    if let Some((table, file)) = last(spec, |f| f.random.as_ref()) {
        axes.push(Axis::new(RANDOM, random::points(spec, table, &file.dir())?));
    }
    let points = axes.len();
    let stated = stated(spec, given)?;
    for one in &stated {
        // `seed` alone, unless two axes are called so.
        let short = last_part(one.first());
        let twice = stated.iter().filter(|other| last_part(other.first()) == short).count() > 1;
        axes.push(one.axis(if twice { one.first() } else { short })?);
    }
    check_overlap(&axes, points)?;
    Ok(axes)
}

/// What the last file that speaks of it says, with that file.
pub(super) fn last<'a, T>(spec: &'a Spec, part: impl Fn(&'a File) -> Option<T>) -> Option<(T, &'a File)> {
    spec.files.iter().rev().find_map(|f| Some((part(f)?, f)))
}

/// The parameters that an axis of this name sets.
pub(super) fn keys_of(name: &str) -> Vec<String> {
    name.split(',').map(|key| key.trim().to_string()).collect()
}

fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// The axes of all files and of the command line; who speaks later takes the place of an earlier axis of that name.
fn stated(spec: &Spec, given: &[String]) -> Result<Vec<Stated>> {
    let mut entries: Vec<(&Entry, &File)> = vec![];
    for file in &spec.files {
        for entry in &file.axes {
            match entries.iter_mut().find(|(e, _)| e.key == entry.key) {
                Some(old) => *old = (entry, file),
                None => entries.push((entry, file)),
            }
        }
    }
    let of_file = |(entry, file): &(&Entry, &File)| Stated::of_file(spec, entry, &file.dir());
    let mut all: Vec<Stated> = entries.iter().map(of_file).collect::<Result<_>>()?;
    for text in given {
        let one = arguments::axis(spec, text)?;
        match all.iter_mut().find(|s| s.keys == one.keys) {
            Some(old) => *old = one,
            None => all.push(one),
        }
    }
    Ok(all)
}

impl Stated {
    fn of_file(spec: &Spec, entry: &Entry, base: &Path) -> Result<Self> {
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

    /// The parameter that it is called by.
    fn first(&self) -> &str {
        self.keys.first().map_or("", String::as_str)
    }

    fn axis(&self, short: &str) -> Result<Axis> {
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
    fn new(name: &str, points: Vec<Point>) -> Self {
        let mut keys: Vec<String> = vec![];
        for (key, ..) in points.iter().flat_map(|p| &p.settings) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        Self { name: name.into(), keys, points }
    }
}

/// One dimension would silently undo another: the first `points` are named trials and random points, axes follow.
fn check_overlap(axes: &[Axis], points: usize) -> Result<()> {
    for (i, axis) in axes.iter().enumerate() {
        for (key, _, setting) in axis.points.iter().flat_map(|p| &p.settings) {
            let Some(other) = axes[i + 1..].iter().find(|a| a.keys.contains(key)) else { continue };
            let (message, hint) = match (axis.name.as_str(), other.name.as_str()) {
                (TRIALS, RANDOM) => ("a trial sets `{}`, which is drawn at random", "leave it to one of the two"),
                _ if i >= points => ("`{}` is on two axes", "leave it to one of the two"),
                (RANDOM, _) => ("`{}` is drawn at random and is an axis", "leave it to one of the two"),
                _ => (
                    "a trial sets `{}`, which is an axis",
                    "give the axis's values to the trials, or leave it to the axis",
                ),
            };
            let error = Error::usage(message.replace("{}", key)).maybe_at(setting.origin.place.clone());
            return Err(error.hint(hint));
        }
    }
    Ok(())
}

fn named_trials(spec: &Spec, trials: &[Node], base: &Path) -> Result<Vec<Point>> {
    let mut points = vec![];
    for trial in trials {
        let entries = trial.table("a trial")?;
        let Some(name) = trial.get("name") else {
            return Err(Error::usage("a trial needs a `name`").at(trial.place.clone()));
        };
        let label = name.string("the name of a trial")?.to_string();
        if label.is_empty() || !label.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(Error::usage(format!("`{label}` cannot name a trial"))
                .at(name.place.clone())
                .hint("names of trials are made of letters, digits, `-`, `_` and `.`"));
        }
        let settings: Vec<Entry> = entries.iter().filter(|e| e.key != "name").cloned().collect();
        let settings = flatten(&settings).into_iter().map(|e| {
            let (value, setting) = setting(spec, &e, &e.node, base, "trial")?;
            Ok((e.key.clone(), value, setting))
        });
        points.push(Point { label, settings: settings.collect::<Result<_>>()? });
    }
    if points.is_empty() {
        return Err(Error::usage("`sweep.trials` is empty"));
    }
    let places = trials.iter().map(|t| Some(t.get("name").map_or(&t.place, |n| &n.place)));
    distinct(&points, places, "`sweep.trials`")?;
    Ok(points)
}

fn distinct<'a>(points: &[Point], places: impl Iterator<Item = Option<&'a Place>>, what: &str) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for (point, place) in points.iter().zip(places) {
        if !seen.insert(&point.label) {
            return Err(Error::usage(format!("{what} has `{}` twice", point.label)).maybe_at(place.cloned()));
        }
    }
    Ok(())
}

/// One value of an axis, a trial or a distribution.
pub(super) fn setting(spec: &Spec, entry: &Entry, node: &Node, base: &Path, what: &str) -> Result<(Json, Setting)> {
    let target = target(spec, &entry.key)
        .map_err(|e| e.at(entry.key_place.clone()).within(&format!("{what} `{}`", entry.key)))?;
    let json = value::to_json(&value::from_node(node));
    let origin = Origin { layer: "trial".into(), place: Some(node.place.clone()) };
    Ok((json, Setting { target, value: Given::Node(node.clone()), origin, base: base.to_path_buf() }))
}
