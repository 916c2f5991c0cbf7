//! `erw compare A B`: the parameters, outside files and results that differ, side by side. Runs
//! nothing.

pub mod curves;
pub mod named;
pub mod side;

use super::common::pipeline_args::SetArgs;
use super::common::print;
use erw_base::error::Result;
use erw_report::sheet::{Cell, Column, Format, Sheet};
use erw_runner::cache::sources::listing;
use erw_runner::cache::store::Store;
use erw_runner::files::digest::Digest;
use erw_runner::kind::{Registry, value};
use named::{Named, refuse_values};
use serde_json::Value as Json;
use side::{Side, StageSummary};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Longer values are shortened to this many characters in text.
const SHOWN: usize = 50;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pipeline file, PIPELINE@TRIAL of its sweep, REVISION:PIPELINE in git, or run:ID of a past
    /// run
    #[arg(value_name = "A")]
    pub a: String,
    /// The same, to compare with; or a CSV file with the reference curves of a recipe, in which the
    /// metrics of A's trainings should lie
    #[arg(value_name = "B")]
    pub b: String,
    #[command(flatten)]
    pub set: SetArgs,
    /// Also show what is equal
    #[arg(long)]
    pub all: bool,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let store = Store::open(cache)?;
    if Path::new(&args.b).extension().is_some_and(|ending| ending == "csv") {
        let named = Named::load(&args.a, &args.set, &store, registry)?;
        let (sheet, outside) = curves::sheet(&named, Path::new(&args.b), &store)?;
        print(&sheet.render(args.format))?;
        return outside.map_or(Ok(()), Err);
    }
    let named = |text: &str| Named::load(text, &args.set, &store, registry);
    let (a, b) = (named(&args.a)?, named(&args.b)?);
    refuse_values(&[&a, &b], &args.set)?;
    let (a, b) = (Side::of(&a, &store)?, Side::of(&b, &store)?);
    let (rows, equal) = rows(&a, &b, args.all, &store);
    let short = matches!(args.format, Format::Text | Format::Markdown);
    if rows.is_empty() && args.format == Format::Text {
        return print("no differences\n");
    }
    // Programs need fixed column names.
    let titles = if short { [args.a.as_str(), args.b.as_str()] } else { ["a", "b"] };
    let titles = ["stage", "what", titles[0], titles[1], "difference", "relative"];
    let text = Sheet { columns: titles.map(Column::new).to_vec(), rows, grouped: true }.render(args.format);
    let sum = match equal {
        0 => String::new(),
        1 => "1 stage is equal\n".into(),
        n => format!("{n} stages are equal\n"),
    };
    print(&(text + if args.format == Format::Text && !args.all { &sum } else { "" }))
}

/// The differences of two sides as a table with these titles, and the number of stages that have
/// none.
pub fn sheet(sides: [&Named; 2], titles: [&str; 2], store: &Store) -> Result<(Sheet, usize)> {
    let [a, b] = sides;
    let (rows, equal) = rows(&Side::of(a, store)?, &Side::of(b, store)?, false, store);
    let columns = ["stage", "what", titles[0], titles[1], "difference", "relative"].map(Column::new).to_vec();
    Ok((Sheet { columns, rows, grouped: false }, equal))
}

/// The rows of all stages that differ, and the number of stages that do not.
fn rows(a: &Side, b: &Side, all: bool, store: &Store) -> (Vec<Vec<Cell>>, usize) {
    let past = a.past || b.past;
    let mut names: Vec<&String> = a.stages.iter().map(|(name, _)| name).collect();
    names.extend(b.stages.iter().map(|(name, _)| name).filter(|n| a.stage(n).is_none()));
    let (mut rows, mut equal) = (vec![], 0);
    for name in names {
        let (left, right) = (a.stage(name), b.stage(name));
        let differing: Vec<Line> = lines(left, right, past, store).into_iter().filter(|l| all || l.differs).collect();
        equal += usize::from(differing.is_empty());
        rows.extend(differing.into_iter().map(|line| {
            let Line { what, a, b, change, .. } = line;
            let (difference, relative) = change.unwrap_or((Cell::None, Cell::None));
            vec![Cell::Text(name.clone()), Cell::Text(what), a, b, difference, relative]
        }));
    }
    (rows, equal)
}

/// A property in which two stages may differ.
struct Line {
    what: String,
    a: Cell,
    b: Cell,
    differs: bool,
    change: Option<(Cell, Cell)>,
}

fn lines(a: Option<&StageSummary>, b: Option<&StageSummary>, past: bool, store: &Store) -> Vec<Line> {
    let kind = |side: Option<&StageSummary>| match side {
        Some(facts) => Cell::Text(facts.kind.clone()),
        None => Cell::Value(Json::Null, "absent".into()),
    };
    let differs = a.map(|f| &f.kind) != b.map(|f| &f.kind);
    let mut lines = vec![Line { what: "kind".into(), a: kind(a), b: kind(b), differs, change: None }];
    if let (Some(a), Some(b)) = (a, b) {
        let values = values(a, b, past);
        let sources = sources(a, b, store);
        // If parameters or files differ, different outputs are expected and not listed.
        let told = values.iter().chain(&sources).any(|line| line.differs);
        let made = if told { vec![] } else { artifacts(a, b) };
        lines.extend(values);
        lines.extend(sources);
        lines.extend(made);
        lines.extend(results(a, b));
    }
    lines
}

fn values(a: &StageSummary, b: &StageSummary, past: bool) -> Vec<Line> {
    let (Some(left), Some(right)) = (&a.values, &b.values) else { return vec![] };
    let mut names: Vec<&String> = left.keys().chain(right.keys()).collect();
    names.sort();
    names.dedup();
    // A past run does not know inputs and paths, so these are not compared.
    let untold =
        |name: &String| past && (name.starts_with("inputs.") || a.paths.contains(name) || b.paths.contains(name));
    let cell = |value: Option<&Json>| value.map_or(Cell::None, |v| Cell::Value(v.clone(), clipped(&value::show(v))));
    let line = |name: &String| {
        let (a, b) = (left.get(name), right.get(name));
        Line { what: name.clone(), a: cell(a), b: cell(b), differs: a != b, change: None }
    };
    names.into_iter().filter(|n| !untold(n)).map(line).collect()
}

/// Outputs that differ although parameters and files are equal.
fn artifacts(a: &StageSummary, b: &StageSummary) -> Vec<Line> {
    let line = |(name, left): (&String, &Digest)| {
        let right = b.artifacts.get(name)?;
        let cell = |digest: &Digest| Cell::Value(digest.to_string().into(), digest.short());
        let (what, differs) = (format!("outputs.{name}"), left != right);
        differs.then(|| Line { what, a: cell(left), b: cell(right), differs, change: None })
    };
    a.artifacts.iter().filter_map(line).collect()
}

/// Outside files with different contents, by the first digits of their digests, and the first file
/// that differs if the listings of both are kept.
fn sources(a: &StageSummary, b: &StageSummary, store: &Store) -> Vec<Line> {
    if a.values.is_none() || b.values.is_none() {
        return vec![];
    }
    let names: BTreeSet<&String> = a.sources.keys().chain(b.sources.keys()).collect();
    let cell = |digest: Option<&Digest>| digest.map_or(Cell::None, |d| Cell::Value(d.to_string().into(), d.short()));
    let line = |name: &String| {
        let (old, new) = (a.sources.get(name), b.sources.get(name));
        let change = old.zip(new).map(|(old, new)| (differing(store, old, new), Cell::None));
        Line { what: format!("files of {name}"), a: cell(old), b: cell(new), differs: true, change }
    };
    names.into_iter().filter(|name| a.sources.get(*name) != b.sources.get(*name)).map(line).collect()
}

/// The first file that differs, and the number of others.
fn differing(store: &Store, old: &Digest, new: &Digest) -> Cell {
    let (Some(old), Some(new)) = (listing(store, old), listing(store, new)) else { return Cell::None };
    let names: BTreeSet<&PathBuf> = old.keys().chain(new.keys()).collect();
    let mut names = names.into_iter().filter(|n| old.get(*n) != new.get(*n) && !n.as_os_str().is_empty());
    let Some(first) = names.next() else { return Cell::None };
    let more = names.count();
    Cell::Text(first.display().to_string() + &if more > 0 { format!(" and {more} more") } else { String::new() })
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((i, _)) => format!("{}…", text[..i].replace('\n', " ")),
        None => text.replace('\n', " "),
    }
}

fn results(a: &StageSummary, b: &StageSummary) -> Vec<Line> {
    let mut names: Vec<&str> = a.results.iter().map(|r| r.name.as_str()).collect();
    names.extend(b.results.iter().map(|r| r.name.as_str()).filter(|n| a.result(n).is_none()));
    let cell = |facts: &StageSummary, name: &str| match facts.result(name) {
        Some(result) => Cell::Number(result.value),
        // Without the reason, which `erw plan` shows.
        None => Cell::Value(Json::Null, facts.standing.split(':').next().unwrap_or_default().into()),
    };
    let line = |name: &str| {
        let value = |facts: &StageSummary| facts.result(name).map(|r| r.value);
        let change = match (value(a).flatten(), value(b).flatten()) {
            (Some(x), Some(y)) => {
                let relative = if x == 0.0 { Cell::None } else { Cell::Relative((y - x) / x.abs()) };
                Some((Cell::Number(Some(y - x)), relative))
            }
            _ => None,
        };
        Line { what: name.into(), a: cell(a, name), b: cell(b, name), differs: value(a) != value(b), change }
    };
    names.into_iter().map(line).collect()
}
