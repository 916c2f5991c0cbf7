//! Settings as defaults of the command line: reads those that hold for a command, and fills in the
//! flags that it has and that were not given. It runs before the command, so no command needs to
//! know where a value comes from. Does not know what settings there are in files
//! (`runner::settings`).

use super::command::Command;
use super::common::pipeline_args::file_and_stage;
use super::{cache, config, weights};
use erw_base::error::Result;
use erw_fetch::registry;
use erw_report::colour;
use erw_runner::kind::Registry;
use erw_runner::pipeline::command;
use erw_runner::settings::{self, Colour, Origin, Request, Resolved, StageSettings};
use erw_runner::text::path_text;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The global flags that state settings.
#[derive(Debug, Clone, Copy)]
pub struct Globals<'a> {
    pub profile: Option<&'a str>,
    pub cache_dir: Option<&'a Path>,
    /// The flag or its variable.
    pub remote: Option<&'a str>,
    pub colour: Option<&'a str>,
}

/// The settings that hold for a command.
pub fn of(command: &Command, globals: Globals<'_>, registry: Registry) -> Result<Resolved> {
    let variable = |name: &str| std::env::var_os(name);
    let mut flags = vec![];
    flags.extend(globals.cache_dir.map(|dir| ("cache_dir", path_text::text(dir))));
    let typed = globals.remote.filter(|address| variable("ERW_REMOTE").is_none_or(|value| value != *address));
    flags.extend(globals.colour.map(|word| ("colour", word.to_string())));
    flags.extend(typed.map(|address| ("remote", address.to_string())));
    let kinds: Vec<&str> = command::kinds(registry).collect();
    let folder = config::project_folder(pipeline(command));
    let folder = folder.as_deref();
    settings::load(&Request { folder, profile: globals.profile, flags, kinds: &kinds, variable: &variable })
}

/// The pipeline that a command is about, if it is about one.
fn pipeline(command: &Command) -> Option<&Path> {
    let args = match command {
        Command::Run(a) => &a.pipeline,
        Command::Plan(a) => &a.pipeline,
        Command::Why(a) => &a.pipeline,
        Command::Explain(a) => &a.pipeline,
        Command::Graph(a) => &a.pipeline,
        Command::Sweep(a) => &a.pipeline,
        Command::Metrics(a) => &a.pipeline,
        Command::Plot(a) => &a.pipeline,
        Command::Verify(a) => &a.pipeline,
        Command::Logs(a) => &a.pipeline,
        Command::Export(a) => &a.pipeline,
        Command::Cache(cache::Args { command: cache::Command::Pull(a), .. }) => &a.pipeline,
        Command::Cache(cache::Args { command: cache::Command::Status(a), .. }) => &a.pipeline,
        Command::Jobs(a) => return a.pipeline.as_deref(),
        Command::Stop(a) => return Some(&a.pipeline),
        Command::Config(a) => return a.pipeline(),
        Command::Weights(weights::Args { command: weights::Command::Fetch(a) }) => return a.pipeline(),
        Command::Weights(weights::Args { command: weights::Command::Export(a) }) => return file(&a.from),
        Command::Show(a) => return file(Path::new(&a.artifact)),
        Command::Compare(a) => return file(Path::new(&a.a)),
        Command::Report(a) => return file(Path::new(&a.a)),
        Command::Cache(cache::Args { command: cache::Command::Show(a), .. }) => return file(Path::new(&a.artifact)),
        Command::Cache(cache::Args { command: cache::Command::Tag(a), .. }) => {
            return file(a.target.as_ref()?.as_ref());
        }
        Command::Cache(cache::Args { command: cache::Command::Push(a), .. }) => {
            return file(a.targets.first()?.as_ref());
        }
        _ => return None,
    };
    Some(&args.pipeline)
}

/// The pipeline in an argument that may also be something else: `FILE.toml` or `FILE.toml:STAGE`.
fn file(argument: &Path) -> Option<&Path> {
    let parted = || argument.to_str().and_then(file_and_stage).map(|(file, _)| Path::new(file));
    let is_pipeline = |file: &&Path| file.extension().is_some_and(|end| end == "toml") && file.is_file();
    Some(argument).filter(is_pipeline).or_else(|| parted().filter(is_pipeline))
}

/// Fills in the flags of a command that were not given.
pub fn complete(command: &mut Command, site: &Resolved) {
    match command {
        Command::Run(a) => a.flags.complete(site),
        Command::Sweep(a) => {
            a.flags.complete(site);
            a.flags.keep_going &= !a.fail_fast;
        }
        Command::Plan(a) => {
            a.remote.complete(site);
            a.settings = a.job.over(site.settings.clone(), StageSettings::default());
        }
        Command::Export(a) => a.remote.complete(site),
        Command::Cache(a) => a.remote.complete(site),
        Command::Eval(a) => {
            let how = a.how();
            how.remote.complete(site);
            how.plain |= site.settings.plain;
            how.threads = how.threads.or(site.settings.threads);
        }
        Command::Verify(a) => {
            a.threads = a.threads.or(site.settings.threads);
            a.gpus = a.gpus.or(site.settings.gpus);
        }
        _ => {}
    }
}

/// Applies what holds for the whole process, and prints warnings.
pub fn apply(site: &Resolved) {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    // A variable is stronger than a file, also those, which are not ours.
    let is_overruled = colour::VARIABLES.iter().any(is_set) && matches!(site.origin("colour"), Origin::File(_));
    if !is_overruled {
        colour::choose(match site.settings.colour {
            Colour::Auto => "auto",
            Colour::Always => "always",
            Colour::Never => "never",
        });
    }
    if let (Some(path), Origin::File(place)) = (&site.settings.registry, site.origin("registry")) {
        registry::use_file(path.clone(), place.to_string());
    }
    let mut err = std::io::stderr().lock();
    for warning in &site.warnings {
        let _ = writeln!(err, "warning: {}", warning.message);
        warning.hints.iter().for_each(|hint| drop(writeln!(err, "hint: {hint}")));
    }
}

/// The folder for the cache, for commands that use one.
pub fn cache_dir(command: &Command, globals: Globals<'_>, site: &Resolved) -> PathBuf {
    match command {
        Command::Schema(_) | Command::Config(_) => PathBuf::new(),
        _ => super::common::cache_dir::cache_dir(globals.cache_dir, site),
    }
}
