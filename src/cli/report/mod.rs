//! `erw report`: one HTML page of a pipeline, a sweep, a run, or two of them beside each other.
//! Runs nothing.

mod again;
mod anonymous;
mod build;
mod charts;
mod curves;
mod facts;
mod pictures;
mod subject;
mod wishes;

use super::common::pipeline_args::{PipelineArgs, SetArgs};
use super::common::print;
use super::common::signals::stop;
use super::compare::named::{Named, Parts, labels, refuse_values, short};
use super::sweep::row::Status;
use super::sweep::table_options::TableArgs;
use super::{compare, sweep};
use again::{again, typed};
use anonymous::Anonymous;
use charts::charts;
use erw_base::error::{Error, ErrorKind, Result};
use erw_report::page::content::{Again, Page, Table, Trouble};
use erw_report::sheet::Format;
use erw_report::text::{bytes, count, instant};
use erw_report::{diagnostic, page};
use erw_runner::cache::store::Store;
use erw_runner::files::disk::{Durability, write_file};
use erw_runner::host::utc_now;
use erw_runner::journal::attempts::Attempts;
use erw_runner::journal::read::Run;
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::repro::git::Commit;
use erw_runner::text::shell::quoted;
use facts::{last_run, of_pipeline, of_run, with_events};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use subject::{Row, Side, SourceFile, Subject};
use wishes::Wishes;

/// Seconds between two pages of `--watch`.
const EVERY: u64 = 5;

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
    watch(&report)
}

/// Writes the page again and again. Once there was one, an error is shown, in the page too, and does
/// not end it: the next change of the pipeline may mend it.
fn watch(report: &Report<'_>) -> Result<()> {
    let stop = stop()?;
    let file = &report.args.output;
    let size = report.write(Some(EVERY))?;
    print(&format!("{}: {}, written every {EVERY} s; Ctrl-C ends it\n", file.display(), bytes(size)))?;
    let mut told = String::new();
    loop {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(EVERY) {
            if let Some(signal) = stop.signal() {
                // A page that nobody writes again need not reload.
                if let Err(e) = report.write(None) {
                    report.write_error(&e, None)?;
                }
                return Err(Error::new(ErrorKind::Signal(signal), "interrupted"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let Err(e) = report.write(Some(EVERY)) else {
            told.clear();
            continue;
        };
        let text = e.to_string();
        if text != told {
            diagnostic::print(&e);
            told = text;
        }
        // If the page cannot be written, that was just told.
        let _ = report.write_error(&e, Some(EVERY));
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
        self.put(&self.page(reload)?)
    }

    /// Writes a page that says why there is no other.
    fn write_error(&self, error: &Error, reload: Option<u64>) -> Result<u64> {
        let lines = error.place.iter().map(|place| format!("at {place}"));
        let lines = lines.chain(error.causes.iter().map(|cause| format!("cause: {cause}")));
        let lines = lines.chain(error.hints.iter().map(|hint| format!("hint: {hint}")));
        let (stage, message) = (short(&self.args.a), error.message.clone());
        let mut page = Page {
            title: stage.clone(),
            lead: "There is nothing to show until this is mended.".into(),
            failures: vec![Trouble { stage, message, lines: lines.collect(), log: vec![] }],
            written: instant(&utc_now()),
            reload,
            ..Page::default()
        };
        if self.args.wishes.anonymous {
            let folder = std::path::absolute(&self.args.a).ok();
            let folders: Vec<&Path> = folder.iter().filter_map(|file| file.parent()).chain([self.cache]).collect();
            let anonymous = Anonymous::new(&folders, &[], []);
            page.each_text(&mut |text| anonymous.clean(text));
        }
        self.put(&page)
    }

    fn put(&self, page: &Page) -> Result<u64> {
        let text = page::render(page);
        let file = &self.args.output;
        write_file(file, text.as_bytes(), Durability::Later).map_err(|e| Error::io("write", file, e))?;
        Ok(text.len() as u64)
    }

    fn page(&self, reload: Option<u64>) -> Result<Page> {
        let store = Store::open(self.cache)?;
        let attempts = Attempts::read(&store)?;
        let from = Source { store: &store, attempts: &attempts };
        let wishes = &self.args.wishes;
        let (page, subject) = match &self.args.b {
            Some(b) => self.comparison(b, &from)?,
            None if self.args.sweep || !self.args.set.axis.is_empty() => self.sweep(&from)?,
            None => self.single(&from)?,
        };
        let mut page = build::page(page, &subject, &store, wishes)?;
        page.written = instant(&utc_now());
        page.reload = reload;
        if page.headline.is_empty() && page.failures.is_empty() && !subject.facts.is_empty() {
            page.notes.insert(0, "no stage has results in this cache yet".into());
        }
        if wishes.anonymous {
            let runs = subject.makers.iter().flat_map(|run| [run.host.clone(), run.user.clone()]);
            let made = subject.facts.iter().filter_map(|f| f.record.as_ref()).map(|record| record.host.clone());
            let files = subject.files.iter().map(|file| &file.path).chain(subject.makers.iter().map(|run| &run.file));
            let folders: Vec<&Path> = files.filter_map(|file| file.parent()).chain([store.root()]).collect();
            let paths: Vec<&str> = subject.facts.iter().flat_map(|facts| &facts.paths).map(String::as_str).collect();
            let anonymous = Anonymous::new(&folders, &paths, runs.chain(made));
            page.each_text(&mut |text| anonymous.clean(text));
        }
        Ok(page)
    }

    fn named(&self, text: &str, from: &Source<'_>) -> Result<Named> {
        Named::load(text, &self.args.set, from.store, self.registry)
    }

    /// A pipeline, a trial, or a run.
    fn single(&self, from: &Source<'_>) -> Result<(Page, Subject)> {
        let named = self.named(&self.args.a, from)?;
        refuse_values(&[&named], &self.args.set)?;
        let (mut subject, title) = side(&named, from)?;
        let parts = Parts::of(&self.args.a);
        subject.revision = parts.revision.map(String::from);
        let what = match &named {
            Named::Pipeline { .. } => format!("Pipeline `{}`", short(&self.args.a)),
            Named::Past(run) => format!("Run {} of {}", run.id, instant(&run.began)),
        };
        let lead = format!("{what}: {}.", states(&subject));
        let again = match &named {
            Named::Past(run) => again(&subject, typed(run)),
            Named::Pipeline { .. } => {
                let file = quoted(parts.file);
                let command = match parts.trial {
                    Some(trial) => format!("erw sweep {file} --trial {}", quoted(trial)),
                    None => format!("erw run {file}"),
                };
                again(&subject, self.with_values(&command))
            }
        };
        Ok((Page { title, lead, again, ..Page::default() }, subject))
    }

    /// Two of them beside each other.
    fn comparison(&self, b: &str, from: &Source<'_>) -> Result<(Page, Subject)> {
        let (named, other) = (self.named(&self.args.a, from)?, self.named(b, from)?);
        refuse_values(&[&named, &other], &self.args.set)?;
        let labels = labels([self.args.a.as_str(), b]);
        let (sheet, equal) = compare::sheet([&named, &other], [&labels[0], &labels[1]], from.store)?;
        let (mut subject, title) = side(&named, from)?;
        let (other, other_title) = side(&other, from)?;
        let offset = subject.facts.len();
        subject.facts.extend(other.facts.into_iter().map(|mut facts| {
            facts.inputs.iter_mut().for_each(|at| *at += offset);
            facts
        }));
        let stages = other.sides.into_iter().next().map(|side| side.stages).unwrap_or_default();
        let stages = stages.into_iter().map(|(name, at)| (name, at + offset)).collect();
        let lead = format!(
            "`{}` and `{}`; {} equal.",
            labels[0],
            labels[1],
            match equal {
                1 => "1 stage is".to_string(),
                n => format!("{n} stages are"),
            }
        );
        let [label, other_label] = labels;
        subject.sides[0].label = label;
        subject.sides.push(Side { label: other_label, stages });
        subject.is_comparison = true;
        subject.run = None;
        subject.files.clear();
        let is_new = |run: &Run| subject.makers.iter().all(|known| known.id != run.id);
        let further: Vec<Run> = other.makers.into_iter().filter(is_new).collect();
        subject.makers.extend(further);
        subject.makers.sort_by(|a, b| b.id.cmp(&a.id));
        let subject = subject.with_single_rows();
        let title = if title == other_title { title } else { format!("{title} and {other_title}") };
        let differences = Table { id: "differences", title: "Parameters, files and results that differ".into(), sheet };
        let commands = vec![self.with_values(&format!("erw compare {} {}", quoted(&self.args.a), quoted(b)))];
        let again = Again { commands, ..Again::default() };
        Ok((Page { title, lead, differences: Some(differences), again, ..Page::default() }, subject))
    }

    /// All trials of a sweep.
    fn sweep(&self, from: &Source<'_>) -> Result<(Page, Subject)> {
        let parts = Parts::of(&self.args.a);
        if let (Some(_), "") = (parts.run, parts.file) {
            let flag = if self.args.sweep { "--sweep" } else { "--axis" };
            let error = Error::usage(format!("`{flag}` does not apply to a past run"));
            return Err(error.hint("name its pipeline to see all trials"));
        }
        let plan = self.args.set.on(&self.args.a).sweep(self.registry)?;
        let all: BTreeSet<StageId> = plan.trials.iter().flat_map(|trial| trial.stages.values().copied()).collect();
        let (facts, places) = of_pipeline(&plan.pipeline, &all, from.store, from.attempts)?;
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
        let known = known.into_iter().map(|(at, id)| {
            let results = facts[at].record.as_ref().map(|record| record.results.clone());
            let end = match facts[at].ended.as_str() {
                "failed" => Some(Status::Failed),
                "suspended" => Some(Status::Suspended),
                _ => None,
            };
            (id, results, end)
        });
        let table = sweep::tabulated(&plan, known, &options)?.checked()?;
        let row = |row: &sweep::row::Row| Row { label: row.name.clone(), sides: row.trials.clone() };
        let rows: Vec<Row> = table.rows.iter().map(row).collect();
        let kept: BTreeSet<usize> = rows.iter().flat_map(|row| row.sides.iter().copied()).collect();
        let subject = Subject {
            facts,
            sides: plan.trials.iter().map(side).collect(),
            rows,
            files: files(&plan.pipeline),
            ..Subject::default()
        };
        let subject = subject.of_sides(&kept).with_runs(&plan.pipeline, from);
        let mut notes = table.warnings;
        if kept.is_empty() && !plan.trials.is_empty() {
            notes.push("no trial satisfies the conditions".into());
        }
        let charts = charts(&plan, &table.sheet);
        let mut sheet = table.sheet;
        // A page has room for the settings, which say what differs.
        sheet.columns.iter_mut().for_each(|column| column.in_full_only = false);
        let trials = match (kept.len(), plan.trials.len()) {
            (some, all) if some < all => format!("{some} of {}", count(all, "trial")),
            (_, all) => count(all, "trial"),
        };
        let lead = format!("Sweep of `{}`: {trials}, {}.", short(&self.args.a), states(&subject));
        let results = vec![Table { id: "trials", title: "Trials".into(), sheet }];
        let again = again(&subject, self.with_values(&format!("erw sweep {}", quoted(&self.args.a))));
        let title = plan.pipeline.name.clone();
        Ok((Page { title, lead, notes, charts, results, again, ..Page::default() }, subject))
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

/// What pages are made from.
struct Source<'a> {
    store: &'a Store,
    attempts: &'a Attempts,
}

fn files(pipeline: &Pipeline) -> Vec<SourceFile> {
    pipeline.files.iter().map(|(file, _)| SourceFile::read(file)).collect()
}

/// What an argument names as a subject, and its title.
fn side(named: &Named, from: &Source<'_>) -> Result<(Subject, String)> {
    match named {
        Named::Pipeline { pipeline, stages, .. } => {
            let wanted: BTreeSet<StageId> = stages.iter().map(|(_, id)| *id).collect();
            let (facts, places) = of_pipeline(pipeline, &wanted, from.store, from.attempts)?;
            let mut subject = Subject::of_one(facts);
            let named = stages.iter().filter_map(|(name, id)| Some((name.clone(), *places.get(id)?)));
            subject.sides[0].stages = named.collect();
            subject.files = files(pipeline);
            Ok((subject.with_runs(pipeline, from), pipeline.name.clone()))
        }
        Named::Past(run) => {
            let mut subject = Subject::of_one(of_run(run, from.store, from.attempts)?);
            subject.run = Some(run.clone());
            subject.makers = vec![run.clone()];
            subject.commit.clone_from(&run.commit);
            Ok((subject, run.pipeline.clone()))
        }
    }
}

impl Subject {
    /// With the runs of its stages, and the commit of its pipeline.
    fn with_runs(mut self, pipeline: &Pipeline, from: &Source<'_>) -> Self {
        let ids: BTreeSet<&str> = self.facts.iter().filter_map(|facts| facts.run.as_deref()).collect();
        let makers = from.attempts.runs.iter().filter(|run| ids.contains(run.id.as_str()));
        self.makers = makers.cloned().collect();
        self.commit = Commit::of(&pipeline.file);
        self.run = last_run(pipeline, &self.facts, from.attempts).map(|run| with_events(run, from.store));
        self
    }
}

/// `17 stages: 15 cached, 1 failed, 1 waits`.
fn states(subject: &Subject) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    subject.facts.iter().for_each(|facts| *counts.entry(&facts.state.word).or_default() += 1);
    let told = |(word, n): (&&str, &usize)| match word.split_once(' ').unwrap_or((word, "")) {
        // Of several: `2 wait`, `3 lack a file`.
        (verb @ ("waits" | "lacks"), rest) if *n > 1 => format!("{n} {} {rest}", verb.trim_end_matches('s')),
        _ => format!("{n} {word}"),
    };
    let told: Vec<String> = counts.iter().map(told).map(|text| text.trim_end().to_string()).collect();
    format!("{}: {}", count(subject.facts.len(), "stage"), told.join(", "))
}
