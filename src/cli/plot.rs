//! `erw plot`: the results of a sweep as curves in an SVG. Runs nothing.

use super::common::pipeline_args::PipelineArgs;
use super::common::print;
use super::sweep;
use super::sweep::table_options::TableArgs;
use erw_base::error::{Error, Result};
use erw_report::chart::{Chart, Line, Panel, Point};
use erw_report::sheet::{Cell, Column, Format, Sheet, spread};
use erw_report::text::count;
use erw_runner::kind::Registry;
use erw_runner::sweep::SweepPlan;
use erw_runner::text::shell::quoted;
use erw_runner::text::suggest;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Result to plot, named as in `erw sweep --table`; each gets a panel. `*` stands for a number,
    /// which becomes x: `fd-*` takes the results of the stages `fd-100`, `fd-200`, ...
    #[arg(long, value_name = "METRIC", required = true)]
    pub y: Vec<String>,
    /// Axis of the sweep to use as x if `--y` has no `*`; its values must be numbers, or texts that
    /// end in `@NUMBER`
    #[arg(long, value_name = "AXIS")]
    pub x: Option<String>,
    /// Title of the x axis
    #[arg(long, value_name = "TEXT")]
    pub x_title: Option<String>,
    /// Average over this axis instead of over the axes called `seed`
    #[arg(long, value_name = "AXIS")]
    pub over: Vec<String>,
    /// Plot only trials that satisfy this condition: `train.lr>=1e-4`
    #[arg(long, value_name = "CONDITION")]
    pub filter: Vec<String>,
    /// SVG file to write; default: standard output
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    if let Some(file) = args.output.as_ref().filter(|f| f.extension().is_none_or(|e| e != "svg")) {
        return Err(
            Error::usage(format!("`{}` does not end in `.svg`", file.display())).hint("plots are written as SVG")
        );
    }
    let plan = args.pipeline.sweep(registry)?;
    let (over, filter) = (args.over.clone(), args.filter.clone());
    let options = TableArgs { over, each: false, sort: None, filter, format: Format::Text };
    let sheet = sweep::cached(&plan, cache, &options)?.checked()?.sheet;
    let abscissa = args.x.as_ref().map(|name| Abscissa::find(&plan, &sheet, name)).transpose()?;
    let panel = |y: &String| panel(&sheet, y, abscissa.as_ref());
    let panels = args.y.iter().map(panel).collect::<Result<Vec<Panel>>>()?;
    if panels.iter().all(|p| p.lines.is_empty()) {
        let hint = format!("run `erw sweep {}` first", quoted(&args.pipeline.pipeline.to_string_lossy()));
        return Err(Error::usage("no trial of the sweep has a result to plot").hint(hint));
    }
    let chart = Chart { x_title: x_title(args), note: note(&sheet, &args.y, args.x.is_some()), panels };
    let Some(file) = &args.output else { return print(&chart.svg()) };
    std::fs::write(file, chart.svg()).map_err(|e| Error::io("write", file, e))?;
    let points: usize = chart.panels.iter().flat_map(|p| &p.lines).map(|l| l.points.len()).sum();
    print(&format!("{}: {}, {}\n", file.display(), count(chart.panels.len(), "panel"), count(points, "point")))
}

fn x_title(args: &Args) -> String {
    args.x_title.clone().or_else(|| args.x.clone()).unwrap_or_default()
}

/// States over how many trials the points of these metrics are averaged.
pub fn note(sheet: &Sheet, metrics: &[String], has_x: bool) -> String {
    let columns = metrics.iter().filter_map(|y| columns(sheet, y, has_x).ok()).flatten();
    let columns: BTreeSet<usize> = columns.map(|(column, _)| column).collect();
    let cells = sheet.rows.iter().flat_map(|row| columns.iter().map(|column| &row[*column]));
    let counts = cells.filter_map(|cell| if let Cell::Spread(values) = cell { Some(values.len()) } else { None });
    averaged(&counts.collect())
}

/// `mean and standard deviation of 2 to 3 trials`; empty if each value is one.
pub fn averaged(counts: &BTreeSet<usize>) -> String {
    match (counts.first(), counts.last()) {
        (_, None | Some(0 | 1)) => String::new(),
        (Some(least), Some(most)) if least < most => {
            format!("mean and standard deviation of {least} to {}", count(*most, "trial"))
        }
        (_, Some(n)) => format!("mean and standard deviation of {}", count(*n, "trial")),
    }
}

/// The sweep axis that is x.
pub struct Abscissa {
    /// The column with its values.
    column: usize,
    /// The start of the axis's part of a trial's name, such as `lr=`.
    label: String,
}

impl Abscissa {
    pub fn find(plan: &SweepPlan, sheet: &Sheet, name: &str) -> Result<Self> {
        let unknown = || {
            let names = plan.axes.iter().map(|a| a.name.as_str());
            Error::usage(format!("`--x {name}`: no such axis")).maybe_hint(suggest::hint(name, names, "the axes are"))
        };
        let called = |axis: &&erw_runner::sweep::axis::Axis| axis.name == name || axis.keys.iter().any(|k| k == name);
        let axis = plan.axes.iter().find(called).ok_or_else(unknown)?;
        let key = axis.keys.iter().find(|k| *k == name).or_else(|| axis.keys.first()).ok_or_else(unknown)?;
        let column = sheet.columns.iter().position(|c| c.group == SETTINGS && c.title == *key);
        let column =
            column.ok_or_else(|| Error::usage(format!("`--x {name}`: results are averaged over this axis")))?;
        Ok(Self { column, label: format!("{}=", axis.name) })
    }

    fn x(&self, row: &[Cell]) -> Result<f64> {
        let Cell::Value(value, shown) = &row[self.column] else {
            return Err(Error::usage("`--x`: some trials do not set it"));
        };
        let after = || value.as_str()?.rsplit_once('@')?.1.parse().ok();
        let text = || Error::usage(format!("`--x`: `{shown}` is not a number and does not end in `@NUMBER`"));
        value.as_f64().or_else(after).ok_or_else(text)
    }

    /// The name of a trial without this axis.
    fn name(&self, trial: &str) -> String {
        let parts: Vec<&str> = trial.split(',').filter(|part| !part.starts_with(&self.label)).collect();
        if parts.is_empty() { "all".into() } else { parts.join(",") }
    }
}

const SETTINGS: &str = "settings";
pub const RESULTS: &str = "results";

/// A line for each trial, or for all trials that differ in x only.
pub fn panel(sheet: &Sheet, y: &str, abscissa: Option<&Abscissa>) -> Result<Panel> {
    let columns = columns(sheet, y, abscissa.is_some())?;
    let mut lines: Vec<Line> = vec![];
    for row in &sheet.rows {
        let Cell::Text(trial) = &row[0] else { continue };
        let name = abscissa.map_or_else(|| trial.clone(), |a| a.name(trial));
        for (column, at) in &columns {
            let Some((mean, sd)) = value(&row[*column]) else { continue };
            let x = abscissa.map_or(Ok(*at), |a| a.x(row))?;
            let point = Point { x, mean, sd };
            match lines.iter_mut().find(|l| l.name == name) {
                Some(line) => line.points.push(point),
                None => lines.push(Line { name: name.clone(), points: vec![point], faint: false }),
            }
        }
    }
    lines.iter_mut().for_each(|l| l.points.sort_by(|a, b| a.x.total_cmp(&b.x)));
    let title = y.replace("-*", "").replace('*', "");
    Ok(Panel { title, lines })
}

/// Mean and standard deviation; `None` without a value, or if a seed's value is not finite.
fn value(cell: &Cell) -> Option<(f64, f64)> {
    match cell {
        Cell::Number(value) => Some(((*value)?, 0.0)),
        Cell::Spread(values) => {
            let (mean, sd, _) = spread(values);
            Some((mean?, sd.unwrap_or(0.0)))
        }
        _ => None,
    }
}

/// The columns of a metric, each with the number at its `*`.
fn columns(sheet: &Sheet, y: &str, has_x: bool) -> Result<Vec<(usize, f64)>> {
    let results = || sheet.columns.iter().enumerate().filter(|(_, c)| c.group == RESULTS);
    if y.contains('*') == has_x {
        let text = if has_x { "`*` and `--x` both define x" } else { "x is not defined" };
        let hint = "use a `*` in the metric, such as `fd-*`, or name an axis with `--x`";
        return Err(Error::usage(format!("`--y {y}`: {text}")).hint(hint));
    }
    let number = |c: &Column| if has_x { (c.title == y).then_some(0.0) } else { number_at(&c.title, y) };
    let mut found: Vec<(usize, f64)> = vec![];
    for (at, x) in results().filter_map(|(i, c)| Some((i, number(c)?))) {
        // The first result of a stage is its key metric.
        if found.iter().all(|(_, other)| *other != x) {
            found.push((at, x));
        }
    }
    if found.is_empty() && results().next().is_some() {
        let names = results().map(|(_, c)| c.title.as_str());
        let hint = suggest::hint(y, names, "the results are");
        return Err(Error::usage(format!("`--y {y}`: no such result")).maybe_hint(hint));
    }
    Ok(found)
}

/// The `--y` that make curves of a table without being told: stages that differ in a number at the
/// end of their names, such as `fd-300` and `fd-600`.
pub fn patterns(sheet: &Sheet) -> Vec<String> {
    let mut found: Vec<(String, usize)> = vec![];
    for column in sheet.columns.iter().filter(|c| c.group == RESULTS) {
        let Some(pattern) = pattern(&column.title) else { continue };
        match found.iter_mut().find(|(known, _)| *known == pattern) {
            Some((_, count)) => *count += 1,
            None => found.push((pattern, 1)),
        }
    }
    found.into_iter().filter(|(_, count)| *count > 1).map(|(pattern, _)| pattern).collect()
}

/// `fd-300.fd` as `fd-*.fd`.
fn pattern(title: &str) -> Option<String> {
    let (stage, result) = title.split_once('.')?;
    let (name, number) = stage.rsplit_once('-')?;
    number.parse::<u64>().ok()?;
    Some(format!("{name}-*.{result}"))
}

/// The number in `title` at the `*` of `pattern`. A pattern of a stage's name matches each of its
/// results.
fn number_at(title: &str, pattern: &str) -> Option<f64> {
    let (before, after) = pattern.split_once('*')?;
    let rest = title.strip_prefix(before)?;
    let fits = |number: &str| number.parse::<f64>().ok();
    let exactly = rest.strip_suffix(after).and_then(fits);
    exactly.or_else(|| rest.rsplit_once('.').and_then(|(stage, _)| fits(stage.strip_suffix(after)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_stage_is_x() {
        assert_eq!(number_at("fd-300.fd", "fd-*"), Some(300.0));
        assert_eq!(number_at("fd-300.fd", "fd-*.fd"), Some(300.0));
        assert_eq!(number_at("fd-0.5.fd", "fd-*"), Some(0.5));
        assert_eq!(number_at("at-7-steps.fd", "at-*-steps"), Some(7.0));
        assert_eq!(number_at("fd-sde.fd", "fd-*"), None);
        assert_eq!(number_at("fd-300.fd", "fd-*.fid"), None);
        assert_eq!(number_at("fd", "fd-*"), None);
    }
}
