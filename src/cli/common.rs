//! What several subcommands share: the pipeline argument with its overrides, and printing.

use crate::error::{Error, Result};
use crate::runner::graph::Pipeline;
use crate::runner::layers::Overrides;
use crate::runner::manifest::Registry;
use crate::runner::sweep::SweepPlan;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A pipeline and what is set from outside.
#[derive(Debug, clap::Args)]
pub struct PipelineArgs {
    /// The pipeline file
    #[arg(value_name = "PIPELINE", value_hint = clap::ValueHint::FilePath)]
    pub pipeline: PathBuf,
    /// Set a value: STAGE.NAME=VALUE, STAGE.inputs.SLOT=STAGE (or `[STAGE,STAGE]`), or NAME=VALUE for a key of `[params]`
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
}

impl PipelineArgs {
    /// A pipeline as it stands, without `--set`.
    pub fn of(file: impl Into<PathBuf>) -> Self {
        Self { pipeline: file.into(), set: vec![] }
    }

    /// `--set` and the variables `ERW_SET__…` of this process, in the order of their names.
    pub fn overrides(&self) -> Overrides {
        let text =
            |(k, v): (std::ffi::OsString, std::ffi::OsString)| Some((k.into_string().ok()?, v.into_string().ok()?));
        let mut env: Vec<_> =
            std::env::vars_os().filter_map(text).filter(|(k, _)| k.starts_with("ERW_SET__")).collect();
        env.sort();
        Overrides { set: self.set.clone(), env }
    }

    pub fn load(&self, registry: Registry) -> Result<Pipeline> {
        Pipeline::load(&self.pipeline, registry, &self.overrides())
    }

    /// The pipeline; with the trials of its `[sweep]` if one of these stages is of a trial, as `train@seed=1` is.
    pub fn load_for<'s>(&self, stages: impl IntoIterator<Item = &'s String>, registry: Registry) -> Result<Pipeline> {
        self.load_or_sweep(stages.into_iter().any(|name| name.contains('@')), registry)
    }

    /// The pipeline, or all trials of its `[sweep]` as one.
    pub fn load_or_sweep(&self, sweep: bool, registry: Registry) -> Result<Pipeline> {
        match sweep {
            true => Ok(SweepPlan::load(&self.pipeline, registry, &self.overrides())?.pipeline),
            false => self.load(registry),
        }
    }
}

/// `PIPELINE:STAGE`, of which either may hold a colon: the pipeline is there.
pub fn file_and_stage(text: &str) -> Option<(&str, &str)> {
    let mut splits = text.match_indices(':').map(|(at, _)| (&text[..at], &text[at + 1..]));
    splits.find(|(file, _)| Path::new(file).is_file()).or_else(|| text.rsplit_once(':'))
}

/// Writes to standard output. A reader that went away (`erw stages | head`) is no error.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::usage("cannot write to standard output").because(e))
        }
        _ => Ok(()),
    }
}

/// Rows in columns, two spaces apart; the last column is as long as it wants.
pub fn columns(rows: &[Vec<String>], indent: &str) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter(|r| r.len() > c + 1).map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_string();
        for (c, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if c + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', widths[c].saturating_sub(cell.chars().count()) + 2));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
