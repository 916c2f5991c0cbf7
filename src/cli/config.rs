//! `erw config`: which settings hold here, and where each of them comes from.

use super::common::cache_dir;
use super::common::{columns, json, print};
use erw_base::error::{Error, Result};
use erw_runner::cache::remote::shown_address;
use erw_runner::settings::files::candidates;
use erw_runner::settings::{Entry, Origin, Resolved, keys};
use erw_runner::text::{path_text, suggest};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List all settings
    List(ListArgs),
    /// Print one setting; a table prints its lines
    Get(GetArgs),
    /// List the files of settings that are looked for, and which of them are there
    Path(PathArgs),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Pipeline whose project counts; default: the project of this folder
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub pipeline: Option<PathBuf>,
    /// Show where each value comes from
    #[arg(long)]
    pub show_origin: bool,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// Name of a setting, such as `jobs` or `kinds.fid.timeout`
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Pipeline whose project counts; default: the project of this folder
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub pipeline: Option<PathBuf>,
    /// Show where the value comes from
    #[arg(long)]
    pub show_origin: bool,
}

#[derive(Debug, clap::Args)]
pub struct PathArgs {
    /// Pipeline whose project counts; default: the project of this folder
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub pipeline: Option<PathBuf>,
}

impl Args {
    /// The pipeline whose project counts.
    pub fn pipeline(&self) -> Option<&Path> {
        match &self.command {
            Command::List(ListArgs { pipeline, .. }) | Command::Get(GetArgs { pipeline, .. }) => pipeline.as_deref(),
            Command::Path(args) => args.pipeline.as_deref(),
        }
    }
}

/// The folder in which the search for the project's file begins: that of the pipeline, or else the
/// current one.
pub fn project_folder(pipeline: Option<&Path>) -> Option<PathBuf> {
    let Some(file) = pipeline else { return std::env::current_dir().ok() };
    let folder = std::path::absolute(file).ok()?.parent()?.to_path_buf();
    // What is above `sub/..` is not `sub`.
    Some(folder.canonicalize().unwrap_or(folder))
}

/// `erw config list` and `get`. `typed` is the folder of `--cache-dir`.
pub fn run(args: &Args, typed: Option<&Path>, site: &Resolved) -> Result<()> {
    let (dir, _) = cache_dir::find(typed, site);
    match &args.command {
        Command::List(list) if list.json => print(&json(&object(site, &dir))?),
        Command::List(list) => print(&lines(site.entries.iter(), list.show_origin, &dir)),
        Command::Get(get) => print(&one(get, site, &dir)?),
        Command::Path(_) => Ok(()),
    }
}

/// `erw config path`. Reads no file, so that it also helps where one is broken.
pub fn path(args: &PathArgs) -> Result<()> {
    let folder = project_folder(args.pipeline.as_deref());
    let row = |candidate: erw_runner::settings::files::Candidate| {
        let state = match (candidate.path.symlink_metadata(), candidate.ignored) {
            (_, Some(why)) => format!("not read: {why}"),
            (Ok(_), None) => "there".into(),
            (Err(_), None) => "not there".into(),
        };
        vec![candidate.level.name().into(), candidate.path.display().to_string(), state]
    };
    let rows: Vec<Vec<String>> =
        candidates(folder.as_deref(), &|name| std::env::var_os(name)).into_iter().map(row).collect();
    print(&columns(&rows, ""))
}

fn one(args: &GetArgs, site: &Resolved, dir: &Path) -> Result<String> {
    let key = args.key.as_str();
    if let Some(entry) = site.entries.iter().find(|entry| entry.key == key) {
        let mut line = value(entry, dir).map_or(String::new(), |v| text(&v));
        if args.show_origin {
            line = format!("{line}  {}", entry.origin);
        }
        return Ok(if line.is_empty() { line } else { line + "\n" });
    }
    let below = |entry: &&Entry| entry.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
    let table = key.split('.').next().unwrap_or(key);
    if [keys::KINDS, keys::STAGES, keys::RUNNER, "resources"].contains(&table) {
        return Ok(lines(site.entries.iter().filter(below), args.show_origin, dir));
    }
    let hint = suggest::hint(key, keys::names(), "the settings are");
    Err(Error::usage(format!("no setting `{key}`")).maybe_hint(hint))
}

/// `KEY = VALUE`, with the origins in a column.
fn lines<'a>(entries: impl Iterator<Item = &'a Entry>, origins: bool, dir: &Path) -> String {
    let row = |entry: &Entry| {
        let said = value(entry, dir).map_or("not set".into(), |v| v.to_string());
        let mut row = vec![format!("{} = {said}", entry.key)];
        row.extend(origins.then(|| entry.origin.to_string()));
        row
    };
    columns(&entries.map(row).collect::<Vec<_>>(), "")
}

/// The value to show: without a password, and with the folder that is used where none is named.
fn value(entry: &Entry, dir: &Path) -> Option<Value> {
    match (entry.key.as_str(), &entry.value) {
        ("cache_dir", _) => Some(dir.to_string_lossy().into()),
        ("remote", Some(Value::String(address))) if !address.is_empty() => Some(shown_address(address).into()),
        ("registry", Some(Value::String(text))) => Some(plain_path(text).into()),
        ("trust", Some(Value::Array(texts))) => {
            Some(texts.iter().filter_map(Value::as_str).map(plain_path).collect::<Vec<_>>().into())
        }
        (_, value) => value.clone(),
    }
}

fn plain_path(text: &str) -> String {
    path_text::path(text).map_or_else(|| text.into(), |path| path.display().to_string())
}

/// A value alone, for scripts: a string without quotes.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

fn object(site: &Resolved, dir: &Path) -> Value {
    let entry = |entry: &Entry| {
        let (from, file, line, name) = match &entry.origin {
            Origin::BuiltIn => ("built-in", None, None, None),
            Origin::File(place) => {
                ("file", Some(place.source.file.display().to_string()), Some(place.line_col().0), None)
            }
            Origin::Variable(name) => ("variable", None, None, Some((*name).to_string())),
            Origin::Flag(flag) => ("flag", None, None, Some(flag.clone())),
        };
        json!({
            "key": entry.key, "value": value(entry, dir),
            "origin": { "from": from, "file": file, "line": line, "name": name },
        })
    };
    json!({ "profile": site.profile, "settings": site.entries.iter().map(entry).collect::<Vec<_>>() })
}
