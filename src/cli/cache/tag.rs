//! `erw cache tag` and `untag`: names that protect results from gc.

use crate::common::pipeline_args::{SetArgs, file_and_stage};
use crate::common::{columns, print};
use erw_base::error::{Error, Result};
use erw_report::text::count;
use erw_runner::cache::action_cache::Record;
use erw_runner::cache::inventory::{find, looks_like_digest, records_of};
use erw_runner::cache::store::Store;
use erw_runner::cache::tags::{self, Tag};
use erw_runner::files::digest::Digest;
use erw_runner::kind::Registry;
use erw_runner::pipeline::targets::select;
use erw_runner::plan::{CacheChecker, Verdict, plan};
use std::collections::BTreeSet;
use std::path::Path;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name to give
    #[arg(requires = "target", value_name = "TAG")]
    pub name: Option<String>,
    /// What to name: a pipeline, one of its stages as PIPELINE:STAGE, or the first digits of an
    /// artifact's digest
    #[arg(value_name = "PIPELINE[:STAGE]|DIGEST")]
    pub target: Option<String>,
    /// Stage, if a pipeline is given
    pub stage: Option<String>,
    #[command(flatten)]
    pub set: SetArgs,
}

#[derive(Debug, clap::Args)]
pub struct UntagArgs {
    /// Name to remove
    #[arg(value_name = "TAG")]
    pub name: String,
}

pub fn tag(args: &Args, store: &Store, registry: Registry) -> Result<()> {
    let (Some(name), Some(target)) = (&args.name, &args.target) else { return list(store) };
    let records = records(target, &args.set, store, registry)?;
    let mut tag = Tag::new(target);
    if looks_like_digest(target) {
        tag.artifacts.insert(find(store, target)?);
    } else {
        tag.artifacts.extend(records.iter().flat_map(|r| r.outputs.values().map(|o| o.measured.digest)));
    }
    tag.keys.extend(records.iter().filter_map(|r| r.key().to_string().parse::<Digest>().ok()));
    tags::write(store, name, &tag)?;
    print(&format!("{name}: {}\n", count(tag.artifacts.len(), "artifact")))
}

pub fn untag(args: &UntagArgs, store: &Store) -> Result<()> {
    tags::remove(store, &args.name)
}

fn list(store: &Store) -> Result<()> {
    let row = |(name, tag): (String, Tag)| {
        let lost = tag.artifacts.iter().filter(|digest| !store.object(digest).exists()).count();
        let lost = if lost == 0 { String::new() } else { format!(", {lost} not in the store") };
        vec![
            name,
            count(tag.artifacts.len(), "artifact") + &lost,
            tag.created[..10.min(tag.created.len())].to_string(),
            tag.of,
        ]
    };
    let rows: Vec<Vec<String>> = tags::all(store)?.into_iter().map(row).collect();
    print(&if rows.is_empty() { "no tags\n".into() } else { columns(&rows, "") })
}

/// The records of a target.
pub fn records(target: &str, set: &SetArgs, store: &Store, registry: Registry) -> Result<Vec<Record>> {
    if looks_like_digest(target) {
        return records_of(store, &find(store, target)?);
    }
    let (file, stage) = match file_and_stage(target) {
        Some((file, stage)) if !Path::new(target).exists() => (file, Some(stage.to_string())),
        _ => (target, None),
    };
    let pipeline = set.on(file).load_for(&stage, registry, store.root())?;
    let targets: Vec<String> = stage.iter().cloned().collect();
    let checker = CacheChecker::new(&pipeline, store, BTreeSet::new());
    let mut records = vec![];
    for (id, verdict) in plan(&checker, &select(&pipeline, &targets)?)? {
        let name = &pipeline.stage(id).name;
        match verdict {
            // If a stage is named, its dependencies are not kept.
            _ if stage.as_ref().is_some_and(|s| s != name) => {}
            Verdict::Cached(record) => records.push(*record),
            _ => {
                let hint = format!("run `erw run {file}` first");
                return Err(Error::usage(format!("stage `{name}` is not up to date")).hint(hint));
            }
        }
    }
    Ok(records)
}
