//! `erw cache ls` and `erw cache du`: what is stored, who made it, and how much space it takes.

use crate::common::{columns, print};
use erw_base::error::{Error, Result};
use erw_report::table::near;
use erw_report::text::{bytes, count};
use erw_runner::cache::inventory::{Artifact, Maker, artifacts};
use erw_runner::cache::store::Store;
use erw_runner::files::digest::{Links, walk};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only artifacts made by stages of this kind
    #[arg(long)]
    pub kind: Option<String>,
    /// Only artifacts made by the pipeline of this name
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Only artifacts without a record, which `gc` always removes
    #[arg(long, conflicts_with_all = ["kind", "pipeline"])]
    pub unused: bool,
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

impl Args {
    fn wants(&self, artifact: &Artifact) -> bool {
        let by = |m: &Maker| {
            self.kind.as_ref().is_none_or(|k| *k == m.kind) && self.pipeline.as_ref().is_none_or(|p| *p == m.pipeline)
        };
        match (self.unused, self.kind.is_none() && self.pipeline.is_none()) {
            (true, _) => artifact.makers.is_empty(),
            (_, true) => true,
            _ => artifact.makers.iter().any(by),
        }
    }
}

pub fn ls(args: &Args, store: &Store) -> Result<()> {
    let shown: Vec<Artifact> = artifacts(store)?.into_iter().filter(|a| args.wants(a)).collect();
    if args.json {
        return print(&as_json(&shown, store)?);
    }
    let total: u64 = shown.iter().map(|a| a.bytes).sum();
    let row = |a: &Artifact| {
        let makers: Vec<String> = a.makers.iter().map(ToString::to_string).collect();
        let made_by = if makers.is_empty() { "no record".into() } else { makers.join(", ") };
        vec![a.digest.short(), a.ty.clone().unwrap_or_else(|| "-".into()), bytes(a.bytes), made_by]
    };
    let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
    let sum = format!("{}, {}\n", count(rows.len(), "artifact"), bytes(total));
    let filtered = args.unused || args.kind.is_some() || args.pipeline.is_some();
    let published = if filtered { String::new() } else { downloads(store)? };
    print(&(columns(&rows, "") + &sum + &published))
}

fn as_json(shown: &[Artifact], store: &Store) -> Result<String> {
    let maker = |m: &Maker| json!({ "pipeline": m.pipeline, "stage": m.stage, "kind": m.kind });
    let one = |a: &Artifact| {
        json!({
            "digest": a.digest,
            "type": a.ty,
            "bytes": a.bytes,
            "files": a.files,
            "path": store.object(&a.digest),
            "made_by": a.makers.iter().map(maker).collect::<Vec<_>>(),
        })
    };
    let all: Vec<_> = shown.iter().map(one).collect();
    let text = serde_json::to_string_pretty(&all).map_err(|e| Error::usage("cannot write JSON").because(e))?;
    Ok(text + "\n")
}

/// The space that downloaded files take, which are no artifacts.
fn downloads(store: &Store) -> Result<String> {
    let folder = store.downloads();
    if !folder.is_dir() {
        return Ok(String::new());
    }
    let total: u64 = walk(&folder, Links::Keep)?.iter().map(|f| f.metadata.len()).sum();
    Ok(format!("published files in {}: {} (see `erw weights list`)\n", near(&folder), bytes(total)))
}

pub fn du(store: &Store) -> Result<()> {
    let all = artifacts(store)?;
    let kinds = sums(&all, "kinds", |m| &m.kind);
    let pipelines = sums(&all, "pipelines", |m| &m.pipeline);
    let total: u64 = all.iter().map(|a| a.bytes).sum();
    let text = format!("by kind\n{}by pipeline\n{}", columns(&kinds, "  "), columns(&pipelines, "  "));
    print(&format!("{text}{}, {}\n{}", count(all.len(), "artifact"), bytes(total), downloads(store)?))
}

/// Every artifact counts once: those that several share have a line of their own, so the lines add
/// up.
fn sums<'a>(all: &'a [Artifact], what: &str, by: impl Fn(&'a Maker) -> &'a String) -> Vec<Vec<String>> {
    let mut lines: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    for artifact in all {
        let names: BTreeSet<&String> = artifact.makers.iter().map(&by).collect();
        let line = match (names.len(), names.first()) {
            (1, Some(name)) => (*name).clone(),
            (0, _) => "(no record)".into(),
            _ => format!("(several {what})"),
        };
        let sum = lines.entry(line).or_default();
        *sum = (sum.0 + artifact.bytes, sum.1 + 1);
    }
    let mut lines: Vec<_> = lines.into_iter().collect();
    lines.sort_by_key(|(_, (bytes, _))| std::cmp::Reverse(*bytes));
    lines.into_iter().map(|(name, (n, artifacts))| vec![name, bytes(n), count(artifacts, "artifact")]).collect()
}
