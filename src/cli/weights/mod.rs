//! `erw weights`: published files and what is made of weights. Fetching, verifying and listing here; conversion in
//! `convert`.

mod convert;

use super::common::pipeline_args::SetArgs;
use super::common::{columns, megabytes, print};
use crate::report::download::Download;
use crate::report::table::{grid, near};
use erw_base::error::{Error, ErrorKind, Result};
use erw_fetch::library::{Check, Library, Presence};
use erw_fetch::registry::{self, RegistryEntry};
use erw_runner::kind::Registry;
use erw_runner::text::suggest;
use erw_stages::data::weights::{KIND, published};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(after_help = ENVIRONMENT)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

const ENVIRONMENT: &str = "\
Environment:
  HF_ENDPOINT             a mirror of Hugging Face
  HF_TOKEN                opens files behind a licence; sent to Hugging Face only
  HF_HUB_CACHE, HF_HOME   what Hugging Face's programs fetched; looked in first
  ALL_PROXY, HTTPS_PROXY, HTTP_PROXY
                          the proxy, the first that is set
  NO_PROXY                hosts that are reached without it
  SSL_CERT_FILE           certificates to trust, in place of Mozilla's list
  ERW_REGISTRY            further published files, as in weights/registry.toml";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the published files that pipelines can name, and which of them are here
    List {
        /// Print an array of JSON objects
        #[arg(long)]
        json: bool,
    },
    /// Fetch published files; a download that was cut goes on where it stopped
    Fetch(FetchArgs),
    /// Read fetched files and compare them with their hashes (exit code 1 if one is damaged)
    Verify {
        /// Only these; all that are here without one
        names: Vec<String>,
    },
    /// Turn a file of weights into an artifact's files, and say what became of each tensor
    Import(convert::ImportArgs),
    /// Write a SiT as the released code's state dict
    Export(convert::ExportArgs),
}

#[derive(Debug, clap::Args)]
pub struct FetchArgs {
    /// Names as `erw weights list` shows them
    #[arg(required_unless_present = "pipeline")]
    names: Vec<String>,
    /// All that the stages of this pipeline name
    #[arg(long, value_name = "PIPELINE", value_hint = clap::ValueHint::FilePath, conflicts_with = "names")]
    pipeline: Option<PathBuf>,
    #[command(flatten)]
    set: SetArgs,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let library = Library::at(&cache.join("downloads"));
    match &args.command {
        Command::List { json: true } => list_json(&library),
        Command::List { json: false } => list(&library),
        Command::Fetch(args) => fetch(args, &library, registry),
        Command::Verify { names } => verify(names, &library),
        Command::Import(args) => convert::import(args),
        Command::Export(args) => convert::export(args, cache, registry),
    }
}

fn list(library: &Library) -> Result<()> {
    let header = ["name", "becomes", "size", "licence", "here"].map(String::from);
    let mut notes = vec![];
    let mut rows = vec![];
    for entry in registry::entries()? {
        let here = match library.look(entry, None) {
            Presence::Here(_) => "yes".into(),
            Presence::InHubCache(_) => "in the hub's cache".into(),
            Presence::Part(bytes) => format!("{} of it", megabytes(bytes)),
            Presence::Absent => String::new(),
        };
        let mark = if entry.restricted.is_some() { " *" } else { "" };
        let size = entry.bytes().map_or(String::new(), megabytes);
        rows.push(vec![entry.name.clone(), entry.artifact.clone(), size, format!("{}{mark}", entry.licence), here]);
        notes.extend(entry.restricted.as_ref().map(|why| vec![format!("* {}", entry.name), why.clone()]));
    }
    print(&(grid(&header, &rows) + &columns(&notes, "")))
}

fn list_json(library: &Library) -> Result<()> {
    let object = |entry: &RegistryEntry| {
        let (state, path) = match library.look(entry, None) {
            Presence::Here(path) => ("here", Some(path)),
            Presence::InHubCache(path) => ("hub-cache", Some(path)),
            Presence::Part(_) => ("part", None),
            Presence::Absent => ("absent", None),
        };
        let from: Vec<String> = entry.locations.iter().map(registry::Location::origin).collect();
        json!({
            "name": entry.name, "what": entry.what, "as": entry.artifact, "preset": entry.preset,
            "bytes": entry.bytes(), "sha256": entry.locations.first().and_then(|l| l.sha256.as_ref()),
            "licence": entry.licence, "restricted": entry.restricted, "note": entry.note, "manual": entry.manual,
            "from": from, "state": state, "path": path,
        })
    };
    let all: Vec<serde_json::Value> = registry::entries()?.iter().map(object).collect();
    let text = serde_json::to_string_pretty(&all).map_err(|e| Error::internal("cannot write JSON").because(e))?;
    print(&(text + "\n"))
}

fn named(name: &str) -> Result<&'static RegistryEntry> {
    registry::find(name)?.ok_or_else(|| {
        let all = registry::entries().unwrap_or_default();
        let hint = suggest::hint(name, all.iter().map(|e| e.name.as_str()), "there are");
        Error::usage(format!("no published file is called `{name}`")).maybe_hint(hint)
    })
}

fn fetch(args: &FetchArgs, library: &Library, registry: Registry) -> Result<()> {
    let wanted: Vec<(&RegistryEntry, Option<String>)> = match &args.pipeline {
        None => args.names.iter().map(|name| Ok((named(name)?, None))).collect::<Result<_>>()?,
        Some(file) => {
            let pipeline = args.set.on(file).load_or_sweep(false, registry)?;
            let mut all: Vec<_> = pipeline
                .stages
                .iter()
                .filter(|s| s.kind.name == KIND.name)
                .filter_map(|s| published(&s.params))
                .collect();
            all.dedup_by(|a, b| a.0.name == b.0.name && a.1 == b.1);
            if all.is_empty() {
                return print(&format!("nothing to fetch: no stage of `{}` names a published file\n", near(file)));
            }
            all
        }
    };
    let mut rows = vec![];
    for (entry, sha256) in wanted {
        let watch = Download::of(&entry.name);
        if let Some(why) = &entry.restricted {
            erw_fetch::FetchObserver::log(&watch, &format!("licence {}: {why}", entry.licence));
        }
        let copy = library.obtain(entry, sha256.as_deref(), &watch)?;
        rows.push(vec![entry.name.clone(), near(&copy.path), format!("sha256 {}", copy.sha256)]);
    }
    print(&columns(&rows, ""))
}

fn verify(names: &[String], library: &Library) -> Result<()> {
    let entries: Vec<&RegistryEntry> = match names {
        [] => registry::entries()?.iter().collect(),
        names => names.iter().map(|name| named(name)).collect::<Result<_>>()?,
    };
    let (mut rows, mut damaged) = (vec![], vec![]);
    for entry in entries {
        let checks = library.verify(entry, &Download::of(&entry.name))?;
        if checks.is_empty() && !names.is_empty() {
            rows.push(vec![entry.name.clone(), "not here".into()]);
        }
        for (path, check) in checks {
            let says = match &check {
                Check::Whole => "whole",
                Check::Unknown => "no hash is known",
                Check::Damaged { .. } => "DAMAGED",
            };
            rows.push(vec![entry.name.clone(), says.into(), near(&path)]);
            if let Check::Damaged { found, wanted } = check {
                damaged.push(format!("`{}`: its sha256 is {found}\nand should be  {wanted}", near(&path)));
            }
        }
    }
    let text = if rows.is_empty() { "no published file is here\n".into() } else { columns(&rows, "") };
    print(&text)?;
    if damaged.is_empty() {
        return Ok(());
    }
    let count = if damaged.len() == 1 { "1 file is".into() } else { format!("{} files are", damaged.len()) };
    let error = Error::new(ErrorKind::Stage, format!("{count} not what was fetched"));
    Err(damaged.iter().fold(error, Error::because).hint("`erw weights fetch` fetches them anew, and so does a run"))
}
