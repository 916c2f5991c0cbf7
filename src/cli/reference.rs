//! The generated pages of the book: commands from the definition of the command line, stage kinds
//! from their manifests. `tests/docs.rs` compares them with `docs/` and renews them.

use erw_base::error::Result;
use erw_runner::kind::Registry;
use erw_runner::kind::field::{Exact, Field, InputSlot};
use erw_runner::kind::manifest::Manifest;
use erw_runner::kind::ranks::Sharing;
use erw_runner::pipeline::command;
use std::fmt::Write;

/// Columns of a terminal.
const WIDTH: usize = 100;

/// `docs/commands.md`: the help of every subcommand.
pub fn commands(command: clap::Command) -> String {
    let mut text = String::from(
        "# Commands\n\n\
         This page is generated from the definition of the command line. Each section is what `--help` prints.\n",
    );
    let mut command = command.term_width(WIDTH);
    command.build();
    help(&mut command, "erw", 2, &mut text);
    text
}

fn help(command: &mut clap::Command, name: &str, level: usize, text: &mut String) {
    let said = command.render_long_help().to_string();
    let said: Vec<&str> = said.lines().map(str::trim_end).collect();
    text.push_str(&format!("\n{} {name}\n\n```text\n{}\n```\n", "#".repeat(level), said.join("\n").trim_end()));
    for subcommand in command.get_subcommands_mut().filter(|c| !c.is_hide_set()) {
        let name = format!("{name} {}", subcommand.get_name());
        help(subcommand, &name, (level + 1).min(3), text);
    }
}

/// `docs/kinds.md`: inputs, outputs, parameters and results of every kind.
pub fn kinds(registry: Registry) -> Result<String> {
    let mut text = String::from(
        "# Stage kinds\n\n\
         This page is generated from the manifests in `stages/`. An input whose type ends in `?` is optional. \
         One whose\n\
         type ends in `*` takes no stage, one stage or a list. `a|b` accepts either type. Parameters are part of the\n\
         cache key; operation values are not.\n\n\
         | kind | inputs | output | what it does |\n|---|---|---|---|\n",
    );
    let manifests = registry.iter().map(|kind| Manifest::parse(kind.name, kind.manifest));
    let manifests: Vec<Manifest> = manifests.collect::<Result<_>>()?;
    for m in &manifests {
        let inputs: Vec<String> = m.inputs.iter().map(|s| code(&s.text())).collect();
        let outputs: Vec<String> = m.outputs.iter().map(|o| code(&o.ty)).collect();
        let name = &m.kind;
        row(&mut text, &[&format!("[`{name}`](#{name})"), &inputs.join(", "), &outputs.join(", "), &plain(&m.summary)]);
    }
    let name = command::NAME;
    row(&mut text, &[&format!("[`{name}`](#{name})"), "any", "any", "run a program with declared inputs and outputs"]);
    for (kind, m) in registry.iter().zip(&manifests) {
        section(&mut text, kind.manifest, m);
    }
    let _ = write!(text, "\n## {name}\n\n```toml\n{}\n```\n", command::HELP.trim_end());
    Ok(text)
}

fn section(text: &mut String, manifest: &str, m: &Manifest) {
    let about = manifest.lines().map_while(|line| line.strip_prefix('#')).map(|line| plain(line.trim()));
    let _ = write!(text, "\n## {}\n\n{}\n", m.kind, about.collect::<Vec<_>>().join("\n"));
    let slot = |s: &InputSlot| [code(&s.name), code(&s.text()), plain(&s.doc)];
    table(text, ["input", "type", "meaning"], m.inputs.iter().map(slot));
    table(text, ["output", "type", "meaning"], m.outputs.iter().map(|o| [code(&o.name), code(&o.ty), plain(&o.doc)]));
    table(text, ["parameter", "type", "default", "meaning"], m.params.iter().map(field));
    table(text, ["operation value", "type", "default", "meaning"], m.operation.iter().map(field));
    let results: Vec<String> = m.results.iter().map(|r| code(r)).collect();
    let bytes = match m.exact {
        Exact::Everywhere => "Outputs have the same bytes on every machine.".to_string(),
        Exact::Machine => format!(
            "Outputs have the same bytes on one class of machine; between classes, results agree within {}.",
            m.tolerance
        ),
    };
    let ranks = match m.ranks {
        Some(Sharing::MicroBatches) => " Ranks share the micro-batches of a step.",
        Some(Sharing::Pieces) => " Ranks share pieces of the data.",
        None => "",
    };
    let _ = write!(text, "\nResults: {}. {bytes}{ranks}\n", results.join(", "));
}

fn table<const N: usize>(text: &mut String, head: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    text.push('\n');
    row(text, &head);
    row(text, &["---"; N]);
    rows.for_each(|cells| row(text, &cells.each_ref().map(String::as_str)));
}

fn row(text: &mut String, cells: &[&str]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn field(field: &Field) -> [String; 4] {
    let default = match &field.default {
        Some(value) => code(&value.to_string()),
        None if field.optional => "optional".into(),
        None => "required".into(),
    };
    [code(&field.name), values(field), default, plain(&field.doc)]
}

/// The type of a field, or its allowed values.
fn values(field: &Field) -> String {
    if !field.one_of.is_empty() {
        return field.one_of.iter().map(|v| code(&v.to_string())).collect::<Vec<_>>().join(", ");
    }
    let ty = field.ty.describe();
    let ty = ["a ", "an ", "the "].iter().find_map(|article| ty.strip_prefix(article)).unwrap_or(&ty);
    match (field.min, field.max) {
        (Some(min), Some(max)) => format!("{ty}, {min} to {max}"),
        (Some(min), None) => format!("{ty}, at least {min}"),
        (None, Some(max)) => format!("{ty}, at most {max}"),
        (None, None) => ty.to_string(),
    }
}

/// Code for the cell of a table, where `|` would end the cell even within code.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

/// Text of a manifest, with `<`, `*` and `|` escaped outside of code.
fn plain(text: &str) -> String {
    let escaped = text.split('`').enumerate().map(|(i, part)| match i % 2 {
        0 => part.replace('<', "&lt;").replace('*', "\\*").replace('|', "\\|"),
        _ => part.replace('|', "\\|"),
    });
    escaped.collect::<Vec<_>>().join("`")
}
