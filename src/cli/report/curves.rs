//! Curves by training step: a chart for each metric of a stage, with a line for each row and a band
//! over the sides that it averages. Further trials are drawn thin behind them.

use super::subject::{Row, Subject};
use crate::metrics::steps;
use crate::plot;
use erw_base::error::Result;
use erw_report::chart::{Chart, Line, Panel, Point};
use erw_report::page::content::{CurveGroup, Titled};
use erw_report::sheet::spread;
use erw_report::text::count;
use erw_runner::cache::store::Store;
use erw_runner::kind::step_log::{Row as StepRow, step_of};
use std::collections::{BTreeMap, BTreeSet};

/// Lines with a colour and a name; the first rows of the table.
const NAMED: usize = 8;
/// Lines behind them.
const FAINT: usize = 60;
/// Points of a line: more than a chart has pixels for would only make the page larger.
const POINTS: usize = 240;
const FAINT_POINTS: usize = 60;

/// The curves of all stages, and what is not drawn.
pub fn groups(subject: &Subject, store: &Store) -> Result<(Vec<CurveGroup>, Vec<String>)> {
    let (mut groups, mut notes) = (vec![], vec![]);
    for base in subject.bases() {
        let mut curves = Curves { subject, base, of: BTreeMap::new() };
        for stage in subject.of_base(base) {
            if let Some(key) = &subject.facts[stage].logged {
                curves.of.insert(stage, by_metric(steps::of_action(store, key)?));
            }
        }
        let charts: Vec<Titled<Chart>> = curves.metrics().iter().map(|metric| curves.chart(metric)).collect();
        if !charts.is_empty() {
            groups.push(CurveGroup { title: base.into(), charts });
        }
        let trials = subject.of_base(base).len();
        if !curves.metrics().is_empty() && trials > NAMED + FAINT {
            notes.push(format!(
                "the curves of `{base}` show the first {NAMED} rows of the table and {FAINT} of {} behind them",
                count(trials, "trial")
            ));
        }
    }
    Ok((groups, notes))
}

/// The finite values of a metric by step.
type Values = BTreeMap<u64, f64>;

/// Metrics of one attempt, in the order in which they were logged.
fn by_metric(rows: Vec<StepRow>) -> Vec<(String, Values)> {
    let mut all: Vec<(String, Values)> = vec![];
    for row in rows {
        let Some(step) = step_of(&row) else { continue };
        for (name, value) in row.iter().filter(|(name, _)| *name != "step") {
            let at = all.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                all.push((name.clone(), Values::new()));
                all.len() - 1
            });
            if let Some(value) = value.as_f64() {
                all[at].1.insert(step, value);
            }
        }
    }
    all
}

struct Curves<'a> {
    subject: &'a Subject,
    base: &'a str,
    /// By stage.
    of: BTreeMap<usize, Vec<(String, Values)>>,
}

impl Curves<'_> {
    fn metrics(&self) -> Vec<String> {
        let mut names: Vec<String> = vec![];
        for (name, values) in self.of.values().flatten() {
            if !values.is_empty() && !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    fn values(&self, stage: usize, metric: &str) -> Option<&Values> {
        self.of.get(&stage)?.iter().find(|(name, _)| name == metric).map(|(_, values)| values)
    }

    fn chart(&self, metric: &str) -> Titled<Chart> {
        let mut lines = vec![];
        let mut averaged = BTreeSet::new();
        if self.subject.is_shared(self.base) {
            let stage = self.subject.of_base(self.base).into_iter().next();
            let values = stage.and_then(|stage| self.values(stage, metric));
            lines.extend(values.map(|values| line("", points(&[values]), POINTS, false)));
        } else {
            let named = &self.subject.rows[..self.subject.rows.len().min(NAMED)];
            for row in named {
                let values: Vec<&Values> =
                    self.stages(row).into_iter().filter_map(|stage| self.values(stage, metric)).collect();
                if !values.is_empty() {
                    averaged.insert(values.len());
                    lines.push(line(&row.label, points(&values), POINTS, false));
                }
            }
            // Each trial of an average, then those without a line of their own.
            let is_mean = |row: &&Row| self.stages(row).len() > 1;
            let behind: BTreeSet<usize> = named.iter().filter(is_mean).flat_map(|row| self.stages(row)).collect();
            let others = self.subject.rows.iter().skip(NAMED).flat_map(|row| self.stages(row));
            let behind: Vec<usize> = behind.into_iter().chain(others).take(FAINT).collect();
            let faint = behind.iter().filter_map(|stage| self.values(*stage, metric));
            lines.extend(faint.map(|values| line("", points(&[values]), FAINT_POINTS, true)));
        }
        let note = plot::averaged(&averaged);
        let panels = vec![Panel { title: metric.into(), lines }];
        let chart = Chart { x_title: "step".into(), panels, note };
        Titled { title: format!("{} of {}", metric, self.base), content: chart }
    }

    /// Each once: sides may share a stage, which ran once.
    fn stages(&self, row: &Row) -> BTreeSet<usize> {
        row.sides.iter().filter_map(|side| self.subject.sides[*side].stages.get(self.base).copied()).collect()
    }
}

fn line(name: &str, points: Vec<Point>, most: usize, faint: bool) -> Line {
    Line { name: name.into(), points: thinned(points, most), faint }
}

/// Mean and deviation at the steps that all of them have.
fn points(all: &[&Values]) -> Vec<Point> {
    let Some(first) = all.first() else { return vec![] };
    let at = |step: &u64| {
        let values: Option<Vec<Option<f64>>> = all.iter().map(|values| values.get(step).map(|v| Some(*v))).collect();
        let (mean, sd, _) = spread(&values?);
        Some(Point { x: *step as f64, mean: mean?, sd: sd.unwrap_or(0.0) })
    };
    first.keys().filter_map(at).collect()
}

/// At most so many points, with the first and the last: of each interval the one that spans the
/// largest triangle with the point before and the mean of the next interval, so that peaks stay
/// (Steinarsson 2013, largest triangle three buckets).
fn thinned(points: Vec<Point>, most: usize) -> Vec<Point> {
    let n = points.len();
    if n <= most || most < 3 {
        return points;
    }
    let bound = |i: usize| 1 + i * (n - 2) / (most - 2);
    let mut kept = vec![points[0]];
    for i in 0..most - 2 {
        let (from, to) = (bound(i), bound(i + 1));
        let next = &points[to..bound(i + 2).min(n).max(to + 1)];
        let mean = |value: fn(&Point) -> f64| next.iter().map(value).sum::<f64>() / next.len() as f64;
        let (x, y) = (mean(|p| p.x), mean(|p| p.mean));
        let last = kept[kept.len() - 1];
        let area = |p: &Point| ((last.x - x) * (p.mean - last.mean) - (last.x - p.x) * (y - last.mean)).abs();
        kept.extend(points[from..to].iter().max_by(|a, b| area(a).total_cmp(&area(b))));
    }
    kept.push(points[n - 1]);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_curve_keeps_its_ends_and_its_spikes() {
        let at = |x: usize| Point { x: x as f64, mean: if x == 617 { 9.0 } else { (x as f64 / 50.0).sin() }, sd: 0.0 };
        let thin = thinned((0..1000).map(at).collect(), 100);
        assert_eq!(thin.len(), 100);
        assert_eq!((thin[0], thin[99]), (at(0), at(999)));
        assert!(thin.iter().any(|p| p.x == 617.0), "the spike");
        assert!(thin.windows(2).all(|pair| pair[0].x < pair[1].x));
        assert_eq!(thinned((0..5).map(at).collect(), 100).len(), 5);
    }

    #[test]
    fn a_mean_is_of_steps_that_all_have() {
        let a = Values::from([(1, 1.0), (2, 2.0), (3, 3.0)]);
        let b = Values::from([(2, 4.0), (3, 5.0), (4, 9.0)]);
        let points = points(&[&a, &b]);
        assert_eq!(points.iter().map(|p| (p.x, p.mean)).collect::<Vec<_>>(), [(2.0, 3.0), (3.0, 4.0)]);
        assert!((points[0].sd - 2f64.sqrt()).abs() < 1e-12);
    }
}
