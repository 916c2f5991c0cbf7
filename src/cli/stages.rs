//! `erw stages`: the stage kinds; `erw stages KIND`: the manifest of a kind.

use super::common::{columns, print};
use erw_base::error::{Error, Result};
use erw_runner::kind::Registry;
use erw_runner::kind::field::InputSlot;
use erw_runner::kind::manifest::Manifest;
use erw_runner::pipeline::command;
use erw_runner::text::suggest;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the manifest of this kind
    pub kind: Option<String>,
}

pub fn run(args: &Args, registry: Registry) -> Result<()> {
    print(&text(args.kind.as_deref(), registry)?)
}

/// The list of kinds, or the manifest of one.
pub fn text(kind: Option<&str>, registry: Registry) -> Result<String> {
    match kind {
        Some(command::NAME) => Ok(command::HELP.to_string()),
        Some(name) => match registry.iter().find(|k| k.name == name) {
            Some(kind) => Ok(kind.manifest.to_string()),
            None => Err(Error::usage(format!("unknown kind `{name}`")).maybe_hint(suggest::hint(
                name,
                command::kinds(registry),
                "the kinds are",
            ))),
        },
        None => table(registry),
    }
}

fn table(registry: Registry) -> Result<String> {
    let mut rows = vec![];
    for kind in registry {
        let manifest = Manifest::parse(kind.name, kind.manifest)?;
        let inputs = manifest.inputs.iter().map(InputSlot::text).collect::<Vec<_>>().join(", ");
        let outputs = manifest.outputs.iter().map(|o| o.ty.as_str()).collect::<Vec<_>>().join(", ");
        let arrow = if inputs.is_empty() { format!("-> {outputs}") } else { format!("{inputs} -> {outputs}") };
        rows.push(vec![kind.name.to_string(), manifest.summary.clone()]);
        rows.push(vec![String::new(), format!("{arrow} ({})", exact(&manifest))]);
    }
    rows.push(vec![command::NAME.into(), "run a program with declared inputs and outputs".into()]);
    rows.push(vec![String::new(), "any -> any (exact: machine)".into()]);
    Ok(columns(&rows, ""))
}

/// Where outputs have the same bytes, and the tolerance for results elsewhere.
fn exact(manifest: &Manifest) -> String {
    match manifest.tolerance {
        0.0 => format!("exact: {}", manifest.exact.name()),
        tolerance => format!("exact: {}, tolerance {tolerance}", manifest.exact.name()),
    }
}
