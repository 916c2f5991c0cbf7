//! `erw graph PIPELINE`: the stages and their connections as text, for Graphviz, or for Mermaid.

use super::common::pipeline_args::PipelineArgs;
use super::common::{columns, print};
use erw_base::error::Result;
use erw_report::text::count;
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::pipeline::targets::select;
use std::path::Path;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages and their dependencies
    pub targets: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Show the stages of all trials of the sweep
    #[arg(long)]
    pub sweep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Table in execution order
    Text,
    /// Graphviz: `erw graph P --format dot | dot -Tsvg`
    Dot,
    /// Mermaid diagram, for Markdown pages
    Mermaid,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let pipeline = match args.sweep {
        true => args.pipeline.load_or_sweep(true, registry)?,
        false => args.pipeline.load_for(&args.targets, registry, cache)?,
    };
    let shown = select(&pipeline, &args.targets)?;
    print(&text(&pipeline, &shown, args.format))
}

/// The graph in this format.
pub fn text(pipeline: &Pipeline, shown: &[StageId], format: Format) -> String {
    match format {
        Format::Text => table(pipeline, shown),
        Format::Dot => dot(pipeline, shown),
        Format::Mermaid => mermaid(pipeline, shown),
    }
}

/// One line per stage. Stages of one level do not depend on each other or on later levels.
fn table(pipeline: &Pipeline, shown: &[StageId]) -> String {
    let mut level = vec![0usize; pipeline.stages.len()];
    let mut order: Vec<(usize, StageId)> = vec![];
    for id in shown {
        let below = pipeline.stage(*id).inputs.values().map(|e| level[e.from.0]).max().unwrap_or(0);
        level[id.0] = below + 1;
        order.push((below + 1, *id));
    }
    order.sort();
    let mut rows = vec![["level", "stage", "kind", "inputs"].map(String::from).to_vec()];
    let mut last = 0;
    for (level, id) in order {
        let stage = pipeline.stage(id);
        let mark = if level == last { String::new() } else { level.to_string() };
        last = level;
        let mut takes: Vec<&str> = stage.inputs.values().map(|e| pipeline.stage(e.from).name.as_str()).collect();
        takes.sort_unstable();
        takes.dedup();
        rows.push(vec![mark, stage.name.clone(), stage.kind.name.to_string(), takes.join(", ")]);
    }
    let count = count(shown.len(), "stage");
    format!("{}: {count}\n{}", pipeline.name, columns(&rows, "  "))
}

fn dot(pipeline: &Pipeline, shown: &[StageId]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = format!("digraph {} {{\n  rankdir = LR\n  node [shape = box]\n", quoted(&pipeline.name));
    for id in shown {
        let stage = pipeline.stage(*id);
        let label = if stage.name == stage.kind.name {
            stage.name.clone()
        } else {
            format!("{}\n{}", stage.name, stage.kind.name)
        };
        text.push_str(&format!("  {} [label = {}]\n", quoted(&stage.name), quoted(&label).replace('\n', "\\n")));
    }
    for id in shown {
        let stage = pipeline.stage(*id);
        for edge in stage.inputs.values() {
            let (from, to) = (quoted(&pipeline.stage(edge.from).name), quoted(&stage.name));
            text.push_str(&format!("  {from} -> {to} [label = {}]\n", quoted(&edge.ty)));
        }
    }
    text.push_str("}\n");
    text
}

fn mermaid(pipeline: &Pipeline, shown: &[StageId]) -> String {
    let mut text = String::from("flowchart LR\n");
    for id in shown {
        let name = pipeline.stage(*id).name.replace('"', "#quot;");
        text.push_str(&format!("  s{}[\"{name}\"]\n", id.0));
    }
    for id in shown {
        for edge in pipeline.stage(*id).inputs.values() {
            text.push_str(&format!("  s{} -->|{}| s{}\n", edge.from.0, edge.ty, id.0));
        }
    }
    text
}
