//! Normalises the stage arguments of commands: `PIPELINE STAGE`, `PIPELINE:STAGE`, and a stage that
//! repeats its pipeline as a prefix. It runs before the command, so no command needs to know these
//! forms.

use super::command::Command;
use super::common::pipeline_args::{PipelineArgs, file_and_stage};
use super::{cache, weights};
use erw_base::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Moves each stage to the argument in which its command expects it.
pub fn settle(command: &mut Command) -> Result<()> {
    match command {
        Command::Run(a) => many(&mut a.pipeline, &mut a.targets),
        Command::Plan(a) => many(&mut a.pipeline, &mut a.targets),
        Command::Graph(a) => many(&mut a.pipeline, &mut a.targets),
        Command::Sweep(a) => many(&mut a.pipeline, &mut a.targets),
        Command::Metrics(a) => many(&mut a.pipeline, &mut a.stages),
        Command::Verify(a) => many(&mut a.pipeline, &mut a.stages),
        Command::Stop(a) => {
            let mut pipeline = PipelineArgs::of(&a.pipeline);
            many(&mut pipeline, &mut a.stages);
            a.pipeline = pipeline.pipeline;
        }
        Command::Why(a) => return one(&mut a.pipeline, &mut a.stage, "why"),
        Command::Logs(a) => return one(&mut a.pipeline, &mut a.stage, "logs"),
        Command::Explain(a) => one_or_none(&mut a.pipeline, &mut a.stage)?,
        Command::Export(a) => return to_a_folder(&mut a.pipeline, &mut a.what, &mut a.dir),
        Command::Show(a) => joined(&mut a.artifact, a.stage.take()),
        Command::Cache(a) => match &mut a.command {
            cache::Command::Show(a) => joined(&mut a.artifact, a.stage.take()),
            cache::Command::Pull(a) => many(&mut a.pipeline, &mut a.targets),
            cache::Command::Status(a) => many(&mut a.pipeline, &mut a.targets),
            cache::Command::Tag(a) => a.target.iter_mut().for_each(|target| joined(target, a.stage.take())),
            _ => {}
        },
        Command::Weights(weights::Args { command: weights::Command::Export(a) }) => {
            let mut pipeline = PipelineArgs::of(&a.from);
            one_or_none(&mut pipeline, &mut a.stage)?;
            a.from = pipeline.pipeline;
        }
        _ => {}
    }
    Ok(())
}

/// Splits `PIPELINE:STAGE`: leaves the pipeline and returns the stage.
fn parted(pipeline: &mut PathBuf) -> Option<String> {
    let text = pipeline.to_str().filter(|_| !pipeline.exists())?;
    let (file, stage) = file_and_stage(text)?;
    // The file may be missing; then the extension shows that a pipeline is meant.
    let is_pipeline = Path::new(file).is_file() || file.ends_with(".toml");
    let (file, stage) = (PathBuf::from(file), stage.to_string());
    (is_pipeline && !stage.is_empty()).then(|| {
        *pipeline = file;
        stage
    })
}

/// Removes the prefix `PIPELINE:` from a stage if it names this pipeline.
fn bare(pipeline: &Path, stage: &str) -> String {
    match file_and_stage(stage) {
        Some((file, stage)) if Path::new(file) == pipeline && !stage.is_empty() => stage.into(),
        _ => stage.into(),
    }
}

fn many(args: &mut PipelineArgs, stages: &mut Vec<String>) {
    if let Some(stage) = parted(&mut args.pipeline) {
        stages.insert(0, stage);
    }
    stages.iter_mut().for_each(|stage| *stage = bare(&args.pipeline, stage));
}

fn one_or_none(args: &mut PipelineArgs, stage: &mut Option<String>) -> Result<()> {
    match (parted(&mut args.pipeline), stage.as_deref()) {
        (Some(first), Some(second)) => {
            Err(Error::usage(format!("two stages are given, `{first}` and `{second}`")).hint("this command takes one"))
        }
        (Some(first), None) => {
            *stage = Some(first);
            Ok(())
        }
        (None, named) => {
            *stage = named.map(|named| bare(&args.pipeline, named));
            Ok(())
        }
    }
}

fn one(args: &mut PipelineArgs, stage: &mut Option<String>, command: &str) -> Result<()> {
    one_or_none(args, stage)?;
    if stage.is_some() {
        return Ok(());
    }
    let file = args.pipeline.display();
    let hint = format!("write `erw {command} {file} STAGE`, or `erw {command} {file}:STAGE`");
    Err(Error::usage(format!("`erw {command}` needs a stage")).hint(hint))
}

/// The arguments of `erw export`: `P STAGE DIR` or `P:STAGE DIR`.
fn to_a_folder(args: &mut PipelineArgs, what: &mut String, dir: &mut Option<PathBuf>) -> Result<()> {
    match (parted(&mut args.pipeline), dir.is_some()) {
        (Some(stage), false) => *dir = Some(std::mem::replace(what, stage).into()),
        (Some(stage), true) => {
            return Err(Error::usage(format!("two stages are given, `{stage}` and `{what}`"))
                .hint("write `erw export PIPELINE STAGE DIR`, or `erw export PIPELINE:STAGE DIR`"));
        }
        (None, true) => *what = bare(&args.pipeline, what),
        (None, false) => {
            let hint = "write `erw export PIPELINE STAGE[.OUTPUT] DIR`, or `erw export PIPELINE:STAGE[.OUTPUT] DIR`";
            return Err(Error::usage("`erw export` needs a pipeline, a stage and a folder").hint(hint));
        }
    }
    Ok(())
}

/// Joins `P STAGE` to `P:STAGE`, for arguments that may also be a digest or a path.
fn joined(artifact: &mut String, stage: Option<String>) {
    if let Some(stage) = stage {
        let stage = bare(Path::new(artifact.as_str()), &stage);
        *artifact = format!("{artifact}:{stage}");
    }
}
