//! `erw weights`: lists, fetches and verifies published files; `convert` imports and exports
//! weights.

mod convert;

use super::common::pipeline_args::SetArgs;
use super::common::{columns, megabytes, print};
use erw_base::error::{Error, ErrorKind, Result};
use erw_fetch::library::{Check, Library, Presence};
use erw_fetch::registry::{self, RegistryEntry};
use erw_report::download::Download;
use erw_report::table::{grid, near};
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
  HF_TOKEN                token for gated files; sent to Hugging Face only
  HF_HUB_CACHE, HF_HOME   cache of Hugging Face's tools, which is searched first
  ALL_PROXY, HTTPS_PROXY, HTTP_PROXY
                          proxy; the first that is set is used
  NO_PROXY                hosts to reach without the proxy
  SSL_CERT_FILE           certificates to trust instead of Mozilla's list
  ERW_REGISTRY            a further registry, in the format of
                          weights/registry.toml";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the published files that pipelines can name, and which of them are downloaded
    List {
        /// Print a JSON list
        #[arg(long)]
        json: bool,
    },
    /// Download published files; an interrupted download resumes
    Fetch(FetchArgs),
    /// Compare downloaded files with their hashes (exit code 1 if one is damaged)
    Verify {
        /// Only these; default: all that are downloaded
        names: Vec<String>,
    },
    /// Convert a weight file to the folder of an artifact, with a report on each tensor
    Import(convert::ImportArgs),
    /// Write a SiT as a state dict for the published PyTorch code
    Export(convert::ExportArgs),
}

#[derive(Debug, clap::Args)]
pub struct FetchArgs {
    /// Names from `erw weights list`
    #[arg(required_unless_present = "pipeline")]
    names: Vec<String>,
    /// Fetch all files that the stages of this pipeline name
    #[arg(long, value_name = "PIPELINE", value_hint = clap::ValueHint::FilePath, conflicts_with = "names")]
    pipeline: Option<PathBuf>,
    #[command(flatten)]
    set: SetArgs,
}

impl FetchArgs {
    /// The pipeline whose files are fetched.
    pub fn pipeline(&self) -> Option<&Path> {
        self.pipeline.as_deref()
    }
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
    let header = ["name", "type", "size", "licence", "downloaded"].map(String::from);
    let mut notes = vec![];
    let mut rows = vec![];
    for entry in registry::entries()? {
        let here = match library.look(entry, None) {
            Presence::Here(_) => "yes".into(),
            Presence::InHubCache(_) => "in the Hugging Face cache".into(),
            Presence::Part(bytes) => format!("{} so far", megabytes(bytes)),
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
            rows.push(vec![entry.name.clone(), "not downloaded".into()]);
        }
        for (path, check) in checks {
            let says = match &check {
                Check::Whole => "ok",
                Check::Unknown => "no known hash",
                Check::Damaged { .. } => "DAMAGED",
            };
            rows.push(vec![entry.name.clone(), says.into(), near(&path)]);
            if let Check::Damaged { found, wanted } = check {
                damaged.push(format!("`{}`\nsha256   {found}\nexpected {wanted}", near(&path)));
            }
        }
    }
    let text = if rows.is_empty() { "no published file is downloaded\n".into() } else { columns(&rows, "") };
    print(&text)?;
    if damaged.is_empty() {
        return Ok(());
    }
    let count = if damaged.len() == 1 { "1 file is".into() } else { format!("{} files are", damaged.len()) };
    let error = Error::new(ErrorKind::Stage, format!("{count} damaged"));
    Err(damaged
        .iter()
        .fold(error, Error::because)
        .hint("run `erw weights fetch` to download them again; a run does so, too"))
}
