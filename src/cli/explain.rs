//! `erw explain PIPELINE STAGE`: a stage's kind, inputs, outputs and values, each with the place
//! where it is set.

use super::common::pipeline_args::{PipelineArgs, one};
use super::common::{columns, print};
use erw_base::error::Result;
use erw_runner::exec::environment::{self, Requested, Variable};
use erw_runner::exec::resources::Limits;
use erw_runner::kind::field::{Field, InputSlot, Params};
use erw_runner::kind::{Registry, value};
use erw_runner::pipeline::command;
use erw_runner::pipeline::graph::{Edge, Origin, Pipeline, Stage};
use std::path::Path;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Stage to explain; default: all stages
    pub stage: Option<String>,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let pipeline = args.pipeline.load_for(&args.stage, registry, cache)?;
    let here = |stage: &Stage| {
        let mut text = describe(&pipeline, stage);
        section(&mut text, "environment variables", environment(stage));
        text
    };
    print(&of_each(&pipeline, args.stage.as_deref(), here)?)
}

/// The printed text without the part that depends on the machine and the environment.
pub fn text(pipeline: &Pipeline, stage: Option<&str>) -> Result<String> {
    of_each(pipeline, stage, |stage| describe(pipeline, stage))
}

fn of_each(pipeline: &Pipeline, stage: Option<&str>, describe: impl Fn(&Stage) -> String) -> Result<String> {
    let Some(name) = stage else {
        return Ok(pipeline.stages.iter().map(describe).collect::<Vec<_>>().join("\n"));
    };
    Ok(describe(pipeline.stage(one(pipeline, name)?)))
}

fn describe(pipeline: &Pipeline, stage: &Stage) -> String {
    let mut text = format!("{}: {}\nkind {}", stage.name, stage.manifest.summary, stage.kind.name);
    if stage.kind.name != command::NAME {
        text.push_str(&format!(", revision {}", stage.manifest.revision));
    }
    text.push('\n');
    section(&mut text, "inputs", inputs(pipeline, stage));
    let outputs =
        stage.manifest.outputs.iter().map(|o| vec![o.name.clone(), stage.outputs[&o.name].clone(), note(&o.doc)]);
    section(&mut text, "outputs", outputs.collect());
    section(&mut text, "params", fields(stage, "params", &stage.manifest.params, &stage.params));
    let operation = fields(stage, "operation", &stage.manifest.operation, &stage.operation);
    section(&mut text, "operation (not in the key)", operation);
    let sources = stage.sources.iter().map(|(name, s)| vec![name.clone(), s.named().display().to_string()]);
    section(&mut text, "files outside the cache", sources.collect());
    text
}

fn section(text: &mut String, title: &str, rows: Vec<Vec<String>>) {
    if !rows.is_empty() {
        text.push_str(&format!("\n{title}\n{}", columns(&rows, "  ")));
    }
}

fn inputs(pipeline: &Pipeline, stage: &Stage) -> Vec<Vec<String>> {
    let rows = |slot: &InputSlot| -> Vec<Vec<String>> {
        let connected = stage.connected(&slot.name);
        if connected.is_empty() {
            let takes = format!("not connected (takes {})", slot.wanted());
            return vec![vec![slot.name.clone(), takes, String::new(), note(&slot.doc)]];
        }
        let row = |(name, edge): (String, &Edge)| {
            let from = format!("<- {}.{} ({})", pipeline.stage(edge.from).name, edge.output, edge.ty);
            // The elements of a list share one description, shown with the first.
            let doc = if name == slot.name { note(&slot.doc) } else { String::new() };
            vec![name.clone(), from, stated(stage, "inputs", &name), doc]
        };
        connected.into_iter().map(row).collect()
    };
    stage.manifest.inputs.iter().flat_map(rows).collect()
}

/// A longer value gets a line of its own, so that it does not widen the column.
const WIDEST: usize = 40;

fn fields(stage: &Stage, part: &str, fields: &[Field], values: &Params) -> Vec<Vec<String>> {
    let rows = |field: &Field| -> Vec<Vec<String>> {
        let shown = values.get(&field.name).map(value::show).unwrap_or_default();
        let value = vec![field.name.clone(), format!("= {shown}")];
        let about = [stated(stage, part, &field.name), note(&field.doc)];
        match shown.chars().count() {
            ..=WIDEST => vec![value.into_iter().chain(about).collect()],
            _ => vec![value, [String::new(), String::new()].into_iter().chain(about).collect()],
        }
    };
    fields.iter().flat_map(rows).collect()
}

/// The environment variables that erw sets for the stage, with the reasons.
fn environment(stage: &Stage) -> Vec<Vec<String>> {
    let user = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let given = Requested::by(&stage.resources);
    let limits = Limits::of_machine();
    let threads = stage.resources.threads.unwrap_or(usize::MAX).min(limits.threads);
    let row = |s: Variable| {
        let value = match s.value {
            // Which GPUs is known only when the stage starts.
            Some(_) if s.name == environment::GPUS && given.gpus => {
                // A rank has one.
                let own = if stage.manifest.ranks.is_some() { 1 } else { stage.resources.gpus };
                format!("{own} of {}", limits.gpus.join(","))
            }
            Some(value) if value.is_empty() => "\"\"".into(),
            Some(value) => value,
            None => user(s.name).unwrap_or_default().to_string_lossy().into_owned(),
        };
        vec![s.name.to_string(), format!("= {value}"), s.why.to_string()]
    };
    environment::settings(given, threads, &[], &|name| user(name).is_some()).into_iter().map(row).collect()
}

/// Where a value is set: a file with its line, or the layer.
fn stated(stage: &Stage, part: &str, name: &str) -> String {
    match stage.origins.get(&format!("{part}.{name}")) {
        Some(Origin { place: Some(place), .. }) => place.to_string(),
        Some(Origin { layer, .. }) if layer == "manifest" => format!("stages/{}.toml", stage.kind.name),
        Some(Origin { layer, .. }) => layer.to_string(),
        None => String::new(),
    }
}

fn note(doc: &str) -> String {
    if doc.is_empty() { String::new() } else { format!("# {doc}") }
}
