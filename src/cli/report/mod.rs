//! `erw report`: one HTML page of a pipeline, a sweep, a run, or two of them beside each other.
//! Runs nothing.

mod anonymous;
mod build;
mod curves;
mod facts;
mod pictures;
mod subject;
mod wishes;

use super::common::pipeline_args::{PipelineArgs, SetArgs};
use super::common::print;
use super::common::signals::stop;
use super::compare::named::Named;
use super::sweep::table_options::TableArgs;
use super::{compare, plot, sweep};
use crate::report::chart::{Chart, Panel};
use crate::report::page;
use crate::report::page::content::{Again, Page, Table, Titled};
use crate::report::sheet::{Format, Sheet};
use crate::report::text::{bytes, count, instant};
use anonymous::Anonymous;
use erw_base::error::{Error, ErrorKind, Result};
use erw_runner::cache::store::Store;
use erw_runner::files::disk::{Durability, write_file};
use erw_runner::host::utc_now;
use erw_runner::journal::read::Run;
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::StageId;
use erw_runner::sweep::SweepPlan;
use erw_runner::text::shell::quoted;
use facts::{last_run, of_pipeline, of_run};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use subject::{Row, Side, Subject};
use wishes::Wishes;

/// Seconds between two pages of `--watch`.
const EVERY: u64 = 5;
/// Lines of a chart over an axis.
const LINES: usize = 12;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pipeline file, PIPELINE@TRIAL of its sweep, REVISION:PIPELINE in git, or run:ID of a past
    /// run
    #[arg(value_name = "A")]
    pub a: String,
    /// The same, to show beside it
    #[arg(value_name = "B")]
    pub b: Option<String>,
    #[command(flatten)]
    pub set: SetArgs,
    /// Show all trials of the sweep
    #[arg(long, conflicts_with = "b")]
    pub sweep: bool,
    /// HTML file to write
    #[arg(short, long, value_name = "FILE", default_value = "report.html", value_hint = clap::ValueHint::FilePath)]
    pub output: PathBuf,
    /// Write the page every few seconds, until Ctrl-C; the page reloads itself
    #[arg(short, long)]
    pub watch: bool,
    #[command(flatten)]
    pub wishes: Wishes,
    /// With `--sweep`: average over this axis instead of over the axes called `seed`
    #[arg(long, value_name = "AXIS", requires = "sweep", conflicts_with = "each")]
    pub over: Vec<String>,
    /// With `--sweep`: show every trial instead of averages
    #[arg(long, requires = "sweep")]
    pub each: bool,
    /// With `--sweep`: sort by a metric or a setting; `-METRIC` sorts in descending order
    #[arg(long, value_name = "METRIC", requires = "sweep", allow_hyphen_values = true)]
    pub sort: Option<String>,
    /// With `--sweep`: show only rows that satisfy this condition: `fd<0.3`, `status=failed`
    #[arg(long, value_name = "CONDITION", requires = "sweep")]
    pub filter: Vec<String>,
}

/// # Errors
/// If the file cannot be a report by its name, which is better known before a run than after it.
pub fn check_name(file: &Path) -> Result<()> {
    if file.extension().is_none_or(|e| e != "html" && e != "htm") {
        let error = Error::usage(format!("`{}` does not end in `.html`", file.display()));
        return Err(error.hint("a report is one HTML page"));
    }
    Ok(())
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    check_name(&args.output)?;
    let report = Report { args, cache, registry };
    if !args.watch {
        return print(&written(&args.output, report.write(None)?));
    }
    let stop = stop()?;
    let mut is_told = false;
    loop {
        let began = Instant::now();
        let size = report.write(Some(EVERY))?;
        if !is_told {
            let text = format!("{}: {}, written every {EVERY} s; Ctrl-C ends it\n", args.output.display(), bytes(size));
            print(&text)?;
            is_told = true;
        }
        while began.elapsed() < Duration::from_secs(EVERY) {
            if let Some(signal) = stop.signal() {
                // A page that nobody writes again need not reload.
                report.write(None)?;
                return Err(Error::new(ErrorKind::Signal(signal), "interrupted"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Writes the report of a pipeline that has just run, also if it failed; returns its size.
pub fn after_run(file: &Path, pipeline: &PipelineArgs, sweep: bool, cache: &Path, registry: Registry) -> Result<u64> {
    let args = Args {
        a: pipeline.pipeline.display().to_string(),
        b: None,
        set: SetArgs { set: pipeline.set.clone(), axis: pipeline.axis.clone() },
        sweep: sweep || !pipeline.axis.is_empty(),
        output: file.into(),
        watch: false,
        wishes: Wishes::default(),
        over: vec![],
        each: false,
        sort: None,
        filter: vec![],
    };
    Report { args: &args, cache, registry }.write(None)
}

/// What was written, in a line.
pub fn written(file: &Path, size: u64) -> String {
    format!("{}: {}\n", file.display(), bytes(size))
}

struct Report<'a> {
    args: &'a Args,
    cache: &'a Path,
    registry: Registry,
}

impl Report<'_> {
    /// Writes the page, complete or not at all; returns its size.
    fn write(&self, reload: Option<u64>) -> Result<u64> {
        let page = self.page(reload)?;
        let text = page::render(&page);
        let file = &self.args.output;
        write_file(file, text.as_bytes(), Durability::Later).map_err(|e| Error::io("write", file, e))?;
        Ok(text.len() as u64)
    }

    fn page(&self, reload: Option<u64>) -> Result<Page> {
        let store = Store::open(self.cache)?;
        let wishes = &self.args.wishes;
        let (page, subject) = match &self.args.b {
            Some(b) => self.comparison(b, &store)?,
            None if self.args.sweep || !self.args.set.axis.is_empty() => self.sweep(&store)?,
            None => self.single(&store)?,
        };
        let mut page = build::page(page, &subject, &store, wishes)?;
        page.written = instant(&utc_now());
        page.reload = reload;
        if page.headline.is_empty() && page.failures.is_empty() {
            page.notes.insert(0, "no stage has results in this cache yet".into());
        }
        if wishes.anonymous {
            let runs = subject.run.iter().flat_map(|run| [run.host.clone(), run.user.clone()]);
            let made = subject.facts.iter().filter_map(|f| f.record.as_ref()).map(|record| record.host.clone());
            let mut folders: Vec<&Path> = subject.files.iter().filter_map(|file| file.parent()).collect();
            folders.push(store.root());
            let anonymous = Anonymous::new(&folders, runs.chain(made));
            page.each_text(&mut |text| anonymous.clean(text));
        }
        Ok(page)
    }

    fn named(&self, text: &str, store: &Store) -> Result<Named> {
        Named::load(text, &self.args.set, store, self.registry)
    }

    /// A pipeline, a trial, or a run.
    fn single(&self, store: &Store) -> Result<(Page, Subject)> {
        let named = self.named(&self.args.a, store)?;
        let (subject, title) = side(&named, store)?;
        let what = match &named {
            Named::Pipeline { .. } => format!("Pipeline `{}`", short(&self.args.a)),
            Named::Past(run) => format!("Run {} of {}", run.id, instant(&run.began)),
        };
        let lead = format!("{what}: {}.", states(&subject));
        let again = self.again(&subject, &format!("erw run {}", quoted(&self.args.a)));
        Ok((Page { title, lead, again, ..Page::default() }, subject))
    }

    /// Two of them beside each other.
    fn comparison(&self, b: &str, store: &Store) -> Result<(Page, Subject)> {
        let (named, other) = (self.named(&self.args.a, store)?, self.named(b, store)?);
        let (sheet, equal) = compare::sheet([&named, &other], [&self.args.a, b], store)?;
        let (mut subject, title) = side(&named, store)?;
        let (other, other_title) = side(&other, store)?;
        let offset = subject.facts.len();
        subject.facts.extend(other.facts.into_iter().map(|mut facts| {
            facts.inputs.iter_mut().for_each(|at| *at += offset);
            facts
        }));
        let stages = other.sides.into_iter().next().map(|side| side.stages).unwrap_or_default();
        let stages = stages.into_iter().map(|(name, at)| (name, at + offset)).collect();
        subject.sides[0].label = short(&self.args.a);
        subject.sides.push(Side { label: short(b), stages });
        subject.is_comparison = true;
        subject.run = None;
        subject.files.clear();
        let subject = subject.with_single_rows();
        let lead = format!(
            "`{}` and `{}`; {} equal.",
            short(&self.args.a),
            short(b),
            match equal {
                1 => "1 stage is".to_string(),
                n => format!("{n} stages are"),
            }
        );
        let title = if title == other_title { title } else { format!("{title} and {other_title}") };
        let differences = Table { id: "differences", title: "Parameters, files and results that differ".into(), sheet };
        let commands = vec![format!("erw compare {} {}", quoted(&self.args.a), quoted(b))];
        let again = Again { commands, ..Again::default() };
        Ok((Page { title, lead, differences: Some(differences), again, ..Page::default() }, subject))
    }

    /// All trials of a sweep.
    fn sweep(&self, store: &Store) -> Result<(Page, Subject)> {
        let plan = self.args.set.on(&self.args.a).sweep(self.registry)?;
        let run = last_run(&plan.pipeline, store)?;
        let all: BTreeSet<StageId> = plan.trials.iter().flat_map(|trial| trial.stages.values().copied()).collect();
        let (facts, places) = of_pipeline(&plan.pipeline, &all, store, run.as_ref())?;
        let side = |trial: &erw_runner::sweep::trial::Trial| Side {
            label: trial.name.clone(),
            stages: trial.stages.iter().filter_map(|(name, id)| Some((name.clone(), *places.get(id)?))).collect(),
        };
        let options = TableArgs {
            over: self.args.over.clone(),
            each: self.args.each,
            sort: self.args.sort.clone(),
            filter: self.args.filter.clone(),
            format: Format::Text,
        };
        let mut known: Vec<(usize, StageId)> = places.iter().map(|(id, at)| (*at, *id)).collect();
        known.sort_unstable();
        let results = |at: usize| facts[at].record.as_ref().map(|record| record.results.clone());
        let known = known.into_iter().map(|(at, id)| (id, results(at)));
        let table = sweep::tabulated(&plan, known, &options)?.checked()?;
        let row = |row: &sweep::row::Row| Row { label: row.name.clone(), sides: row.trials.clone() };
        let subject = Subject {
            facts,
            sides: plan.trials.iter().map(side).collect(),
            rows: table.rows.iter().map(row).collect(),
            files: plan.pipeline.files.iter().map(|(file, _)| file.clone()).collect(),
            run,
            ..Subject::default()
        };
        let charts = charts(&plan, &table.sheet);
        let mut sheet = table.sheet;
        // A page has room for the settings, which say what differs.
        sheet.columns.iter_mut().for_each(|column| column.in_full_only = false);
        let lead =
            format!("Sweep of `{}`: {}, {}.", short(&self.args.a), count(plan.trials.len(), "trial"), states(&subject));
        let results = vec![Table { id: "trials", title: "Trials".into(), sheet }];
        let again = self.again(&subject, &format!("erw sweep {}", quoted(&self.args.a)));
        Ok((Page { title: plan.pipeline.name.clone(), lead, charts, results, again, ..Page::default() }, subject))
    }

    /// The commands that make the same again.
    fn again(&self, subject: &Subject, command: &str) -> Again {
        let mut again = Again::default();
        let Some(run) = &subject.run else {
            again.commands.push(self.with_values(command));
            return again;
        };
        if let Some(commit) = &run.commit {
            again.commands.push(format!("git checkout {}", commit.id));
            if commit.is_dirty {
                again.notes.push("The files were not those of this commit: some had changes.".into());
            }
        }
        match self.args.a.contains("run:") {
            true => again.commands.push(typed(run)),
            false => again.commands.push(self.with_values(command)),
        }
        again.notes.push("Stages whose keys are in a cache come from there; `erw verify` runs them anew.".into());
        again
    }

    /// With `--set` and `--axis` as here, and what the environment sets.
    fn with_values(&self, command: &str) -> String {
        let mut text = String::new();
        let overrides = self.args.set.on(&self.args.a).overrides();
        for (name, value) in &overrides.env {
            text.push_str(&format!("{name}={} ", quoted(value)));
        }
        text.push_str(command);
        overrides.set.iter().for_each(|set| text.push_str(&format!(" --set {}", quoted(set))));
        self.args.set.axis.iter().for_each(|axis| text.push_str(&format!(" --axis {}", quoted(axis))));
        text
    }
}

/// What an argument names as a subject, and its title.
fn side(named: &Named, store: &Store) -> Result<(Subject, String)> {
    match named {
        Named::Pipeline { pipeline, stages, .. } => {
            let run = last_run(pipeline, store)?;
            let wanted: BTreeSet<StageId> = stages.iter().map(|(_, id)| *id).collect();
            let (facts, places) = of_pipeline(pipeline, &wanted, store, run.as_ref())?;
            let mut subject = Subject::of_one(facts);
            let named = stages.iter().filter_map(|(name, id)| Some((name.clone(), *places.get(id)?)));
            subject.sides[0].stages = named.collect();
            subject.files = pipeline.files.iter().map(|(file, _)| file.clone()).collect();
            subject.run = run;
            Ok((subject, pipeline.name.clone()))
        }
        Named::Past(run) => {
            let mut subject = Subject::of_one(of_run(run, store)?);
            subject.run = Some(run.clone());
            Ok((subject, run.pipeline.clone()))
        }
    }
}

/// The curves that the results of a sweep make: over the numbers in names of stages, or else over
/// the axes whose values are numbers.
fn charts(plan: &SweepPlan, sheet: &Sheet) -> Vec<Titled<Chart>> {
    let chart = |title: String, x_title: String, panel: Panel| {
        let mut panel = panel;
        let is_long = panel.lines.len() > LINES;
        panel.lines.iter_mut().skip(LINES).filter(|_| is_long).for_each(|line| line.faint = true);
        // The only line needs no name.
        if let [only] = panel.lines.as_mut_slice() {
            only.name.clear();
        }
        let content = Chart { x_title, panels: vec![panel], note: plot::note(sheet) };
        Titled { title, content }
    };
    let is_curve = |panel: &Panel| panel.lines.iter().any(|line| line.points.len() > 1);
    let mut all = vec![];
    for pattern in plot::patterns(sheet) {
        let panel = plot::panel(sheet, &pattern, None).ok().filter(is_curve);
        all.extend(panel.map(|panel| chart(pattern.clone(), "number in the name of the stage".into(), panel)));
    }
    let results: Vec<&str> =
        sheet.columns.iter().filter(|c| c.group == plot::RESULTS).map(|c| c.title.as_str()).collect();
    if !all.is_empty() {
        return all;
    }
    for axis in &plan.axes {
        let Ok(abscissa) = plot::Abscissa::find(plan, sheet, &axis.name) else { continue };
        for y in &results {
            let panel = plot::panel(sheet, y, Some(&abscissa)).ok().filter(is_curve);
            all.extend(panel.map(|panel| chart(format!("{y} over {}", axis.name), axis.name.clone(), panel)));
        }
    }
    all
}

/// `17 stages: 15 cached, 1 failed, 1 waits`.
fn states(subject: &Subject) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    subject.facts.iter().for_each(|facts| *counts.entry(&facts.state.word).or_default() += 1);
    let told: Vec<String> = counts.iter().map(|(word, n)| format!("{n} {word}")).collect();
    format!("{}: {}", count(subject.facts.len(), "stage"), told.join(", "))
}

/// An argument without folders.
fn short(text: &str) -> String {
    text.rsplit('/').next().unwrap_or(text).into()
}

/// The command line of a run.
fn typed(run: &Run) -> String {
    let mut words = run.command.iter();
    let program = words.next().map_or("erw".into(), |program| short(program));
    std::iter::once(program).chain(words.map(|word| quoted(word))).collect::<Vec<_>>().join(" ")
}
