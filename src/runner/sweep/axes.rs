//! The dimensions of a sweep: the axes of `[sweep]` and of the command line, `[[sweep.trials]]`,
//! `[sweep.random]`, the points of a search. Checks all their names. Does not know trials.

use super::axis::{Axis, Point, RANDOM, SEARCH, Stated, TRIALS, distinct, last, last_part, setting};
use super::probes::{self, Probe};
use super::{axis_argument, random};
use crate::pipeline::file::{File, Spec};
use crate::pipeline::targets::OF_TRIAL;
use crate::text::spanned::{Entry, Node, flatten};
use erw_base::error::{Error, Result};
use std::path::Path;

/// The dimensions of the sweep, the slowest first; `given` are those of the command line, `probes`
/// the points of a search. Empty without a `[sweep]`.
pub(crate) fn axes(spec: &Spec, given: &[String], probes: &[Probe]) -> Result<Vec<Axis>> {
    let mut axes = vec![];
    if let Some((trials, file)) = last(spec, |f| f.trials.as_ref()) {
        axes.push(Axis::new(TRIALS, signed(named_trials(spec, trials, &file.dir())?)));
    }
    if let Some((table, file)) = last(spec, |f| f.random.as_ref()) {
        axes.push(Axis::new(RANDOM, signed(random::points(spec, table, &file.dir())?)));
    }
    if !probes.is_empty() {
        axes.push(probes::dimension(spec, probes)?);
    }
    let points = axes.len();
    let is_searched = |key: &String| probes.iter().flatten().any(|(searched, _)| searched == key);
    let stated = stated(spec, given, &is_searched)?;
    for one in &stated {
        // The short name `seed`, unless two axes share it.
        let short = last_part(one.first());
        let twice = stated.iter().filter(|other| last_part(other.first()) == short).count() > 1;
        axes.push(one.axis(if twice { one.first() } else { short })?);
    }
    check_overlap(&axes, points)?;
    Ok(axes)
}

/// The points, whose names say nothing of their settings, with settings that say by which they are
/// made: `trial sit`. If there is one point only, no stage is named after it.
fn signed(mut points: Vec<Point>) -> Vec<Point> {
    for point in &mut points {
        let layer = format!("{OF_TRIAL} {}", point.label);
        point.settings.iter_mut().for_each(|(_, _, setting)| setting.origin.layer = layer.clone().into());
    }
    points
}

/// The axes of all files and of the command line; a later one replaces an earlier one with the same
/// name, and a search those of a file.
fn stated(spec: &Spec, given: &[String], is_searched: &dyn Fn(&String) -> bool) -> Result<Vec<Stated>> {
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
    all.retain(|axis| !matches!(axis.keys.as_slice(), [only] if is_searched(only)));
    for text in given {
        let one = axis_argument::axis(spec, text)?;
        match all.iter_mut().find(|s| s.keys == one.keys) {
            Some(old) => *old = one,
            None => all.push(one),
        }
    }
    Ok(all)
}

/// Refuses dimensions that set the same parameter: one would silently override the other. The first
/// `points` are named trials, random points and those of a search, then come axes.
fn check_overlap(axes: &[Axis], points: usize) -> Result<()> {
    for (i, axis) in axes.iter().enumerate() {
        for (key, _, setting) in axis.points.iter().flat_map(|p| &p.settings) {
            let Some(other) = axes[i + 1..].iter().find(|a| a.keys.contains(key)) else { continue };
            let (message, hint) = match (axis.name.as_str(), other.name.as_str()) {
                (TRIALS, RANDOM) => ("a trial sets `{}`, which is drawn at random", "set it in only one of the two"),
                (TRIALS, SEARCH) => ("a trial sets `{}`, which is searched", "set it in only one of the two"),
                (RANDOM, SEARCH) => ("`{}` is both drawn at random and searched", "set it in only one of the two"),
                (SEARCH, _) => ("`{}` is both searched and an axis", "set it in only one of the two"),
                _ if i >= points => ("`{}` is on two axes", "set it in only one of the two"),
                (RANDOM, _) => ("`{}` is both drawn at random and an axis", "set it in only one of the two"),
                _ => (
                    "a trial sets `{}`, which is an axis",
                    "move the values of the axis into the trials, or remove it from them",
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
