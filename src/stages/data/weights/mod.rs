//! `weights`: imports published weights as an artifact, from a file that the registry knows by name
//! or from a local file of any supported format.

mod artifact;
mod choice;
mod convert;
mod foresee;
mod params;

use self::params::{Operation, Params};
use crate::support::facts::{BY_CHANNEL, encoder_blocks, network, text};
use erw_base::error::{Error, Result};
use erw_fetch::FetchObserver;
use erw_fetch::download::sha256;
use erw_fetch::library::Library;
use erw_fetch::registry::{self, RegistryEntry, is_sha256};
use erw_ml::formats::is_part;
use erw_ml::models::encoder::config::EncoderConfig;
use erw_ml::models::encoder::read_config;
use erw_ml::models::vae::VaeConfig;
use erw_ml::nn::params::Tensors;
use erw_runner::kind::StageKind;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use erw_runner::kind::property::Fact;
use serde_json::json;
use std::path::Path;

pub use artifact::Artifact;
pub use convert::{AdoptedDict, Converted, Network, Request, check_latents_stats, convert, statistics};

pub const KIND: StageKind = StageKind {
    name: "weights",
    manifest: include_str!("../../../../stages/weights.toml"),
    check,
    facts,
    foresee: Some(foresee::check_file),
    run,
};

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<Operation>(operation)?;
    let p: Params = parse(params)?;
    if let Some(sum) = p.sum().filter(|sum| !is_sha256(sum)) {
        return Err(Error::usage(format!("`sha256` is not 64 hexadecimal digits: `{sum}`")));
    }
    if p.artifact == Artifact::Stats && (p.preset.is_some() || p.config.is_some() || p.set.is_some()) {
        return Err(Error::usage("`preset`, `config` and `set` do not apply to `as = \"stats\"`"));
    }
    if p.convention.is_some() && p.artifact != Artifact::Sit {
        return Err(Error::usage("`convention` applies to `as = \"sit\"` only"));
    }
    if let Some(part) = p.source.as_ref().filter(|source| is_part(source)) {
        return Err(Error::usage(format!("`source`: `{}` is one file of a model in several files", part.display()))
            .hint("name their folder, so that the key covers all of them"));
    }
    match (p.entry()?, &p.source) {
        (None, None) => {
            return Err(Error::usage("give the `name` of a published file, or a `source`")
                .hint("run `erw weights list` to list the published files"));
        }
        (Some(entry), _) if entry.artifact != p.artifact.name() => {
            let (name, is) = (&entry.name, &entry.artifact);
            return Err(Error::usage(format!("`as`: `{name}` is of type `{is}`, not `{}`", p.artifact.name()))
                .hint(format!("write `as = \"{is}\"`")));
        }
        (Some(entry), None) if entry.locations.is_empty() => {
            return Err(Error::usage(format!("`name`: `{}` cannot be downloaded automatically", entry.name))
                .maybe_hint(entry.manual.clone()));
        }
        _ => {}
    }
    let network = p.network()?;
    check_latents_stats(p.artifact, network.preset(), p.latents_stats.is_some())
}

/// The published file that a stage with these parameters downloads, and the sha256 that it must
/// have.
pub fn published(params: &Values) -> Option<(&'static RegistryEntry, Option<String>)> {
    let p: Params = parse(params).ok()?;
    let entry = p.entry().ok()??;
    p.source.is_none().then(|| (entry, p.sum()))
}

fn run(attempt: &Attempt) -> Result<()> {
    let (p, operation): (Params, Operation) = (attempt.params()?, attempt.operation()?);
    import(attempt, &p).map_err(|e| operation.tell(e))
}

fn import(attempt: &Attempt, p: &Params) -> Result<()> {
    let entry = p.entry()?;
    if let Some((entry, why)) = entry.and_then(|e| Some((e, e.restricted.as_ref()?))) {
        attempt.log(&format!("`{}` is under the licence {}: {why}", entry.name, entry.licence));
    }
    let (file, sum) = match (&p.source, entry) {
        (Some(source), _) if source.is_dir() => (source.clone(), unhashed(p, source)?),
        (Some(source), _) => (source.clone(), Some(local(attempt, p, source, entry)?)),
        (None, Some(entry)) => {
            let copy = Library::at(attempt.downloads()).obtain(entry, p.sum().as_deref(), &Waiting(attempt))?;
            (copy.path, Some(copy.sha256))
        }
        (None, None) => return Err(Error::usage("give the `name` of a published file, or a `source`")),
    };
    let out = attempt.output("weights");
    if p.artifact == Artifact::Stats {
        let features = statistics(&file, &out)?;
        attempt.log(&format!("mean and covariance of {features} features, sha256 {}", sum.unwrap_or_default()));
        return Ok(());
    }
    let request = Request {
        file: &file,
        artifact: p.artifact,
        network: p.network()?,
        set: p.set.as_deref(),
        convention: p.convention,
        latents_stats: p.latents_stats.as_deref(),
        // The key does not cover files beside the source.
        siblings: false,
    };
    let converted = convert(&request)?;
    converted.check(&request)?;
    converted.write(&request, &out)?;
    for set in &converted.sets {
        attempt.log(&format!("{}all {} tensors match the network", within(set), set.report.loaded.len()));
    }
    converted.remarks.iter().for_each(|line| attempt.log(line));
    for set in &converted.sets {
        for (name, why) in &set.unread {
            attempt.log(&format!("{}left out: `{name}` {why}", within(set)));
        }
    }
    attempt.log(&match sum {
        Some(sum) => format!("{}, sha256 {sum}", converted.format),
        None => converted.format.to_string(),
    });
    attempt.result("tensors", converted.tensors() as f64);
    Ok(())
}

fn within(set: &AdoptedDict) -> String {
    if set.name.is_empty() { String::new() } else { format!("`{}`: ", set.name) }
}

/// Checks that no hash of a file is given for a folder.
fn unhashed(p: &Params, source: &Path) -> Result<Option<String>> {
    match (&p.sha256, p.artifact) {
        (Some(_), _) => {
            Err(Error::usage(format!("`sha256` needs a single file, but `{}` is a folder", source.display())))
        }
        (None, Artifact::Stats) => {
            Err(Error::usage(format!("`{}` is a folder", source.display())).hint("give the file of statistics in it"))
        }
        (None, _) => Ok(None),
    }
}

/// The sha256 of a local file, which must be the given one, or one that the registry knows.
fn local(attempt: &Attempt, p: &Params, source: &Path, entry: Option<&RegistryEntry>) -> Result<String> {
    let sum = sha256(source, &Waiting(attempt))?;
    let known: Vec<&str> = match (&p.sha256, entry) {
        (Some(_), _) => vec![],
        (None, Some(entry)) => {
            let name = source.file_name().unwrap_or_default().to_string_lossy();
            let namesakes = entry.locations.iter().filter(|l| l.file_name() == name);
            let all: Vec<_> =
                if namesakes.clone().count() > 0 { namesakes.collect() } else { entry.locations.iter().collect() };
            let sums: Vec<&str> = all.iter().filter_map(|l| l.sha256.as_deref()).collect();
            // One of the files may have no published hash.
            if sums.len() < all.len() { vec![] } else { sums }
        }
        (None, None) => vec![],
    };
    let wanted = p.sum();
    let wanted: Vec<&str> = wanted.as_deref().into_iter().chain(known).collect();
    if wanted.is_empty() || wanted.contains(&sum.as_str()) {
        return Ok(sum);
    }
    let error = Error::stage(format!("`{}` is not the expected file", source.display()));
    let error = error.because(format!("its sha256 is {sum}\nexpected      {}", wanted.join(" or ")));
    Err(error.hint("the download is damaged, or the file is another version"))
}

/// An attempt that downloads a file.
struct Waiting<'a>(&'a Attempt);

impl FetchObserver for Waiting<'_> {
    fn progress(&self, done: u64, total: u64) {
        if total > 0 {
            self.0.progress(done, total);
        }
    }
    fn log(&self, text: &str) {
        self.0.log(text);
    }
    fn should_stop(&self) -> bool {
        self.0.should_stop()
    }
}

/// A network whose sizes are known before its weights are there.
pub enum Described {
    Encoder(EncoderConfig),
    Vae(VaeConfig),
}

/// The published network that these parameters name, or the one that a configuration describes, and the
/// parameter that says so. `None` for other types of artifacts, and if the configuration cannot be read.
pub fn described(params: &Values) -> Option<(Described, &'static [&'static str])> {
    let config = text(params, "config").map(Path::new);
    let (kind, preset) = (text(params, "as")?, preset(params));
    match (kind, config, preset) {
        ("encoder", _, Some((preset, of))) => EncoderConfig::named(preset).map(|c| (Described::Encoder(c), of)),
        ("encoder", Some(path), None) => read_config(path).ok().map(|c| (Described::Encoder(c), &["config"][..])),
        ("vae", _, Some((preset, of))) => {
            let config = Artifact::Vae.config(Some(preset), &Tensors::new()).ok()?;
            serde_json::from_value(config).ok().map(|c| (Described::Vae(c), of))
        }
        ("vae", Some(path), None) => VaeConfig::read(path).ok().map(|c| (Described::Vae(c), &["config"][..])),
        _ => None,
    }
}

/// The preset, and the parameter that names it: its own, or without a configuration the name of a
/// published file.
fn preset(params: &Values) -> Option<(&str, &'static [&'static str])> {
    let named = text(params, "preset").map(|preset| (preset, &["preset"][..]));
    // A configuration given by the user overrides the registry.
    let name = text(params, "name").filter(|_| text(params, "config").is_none());
    let entry = name.and_then(|name| registry::find(name).ok().flatten());
    named.or_else(|| Some((entry?.preset.as_deref()?, &["name"][..])))
}

/// The properties of a published network, or of one that a configuration describes.
fn facts(params: &Values) -> Vec<Fact> {
    if let (Some("sit"), Some((preset, of))) = (text(params, "as"), preset(params)) {
        let sizes = Values::from_iter([("model".to_string(), json!(preset))]);
        return network(&sizes).into_iter().map(|fact| Fact { of, ..fact }).collect();
    }
    match described(params) {
        Some((Described::Encoder(config), of)) => encoder(params, &config, of),
        Some((Described::Vae(config), of)) => vae(params, &config, of),
        None => vec![],
    }
}

fn encoder(params: &Values, config: &EncoderConfig, of: &'static [&'static str]) -> Vec<Fact> {
    let tokens = match config.pixels_per_token {
        Some(n) => Fact::new("pixels_per_token", n, of),
        // Images of every size are resized to this one.
        None => Fact::new("grid", config.vit.image_size / config.vit.patch_size.max(1), of),
    };
    let blocks = encoder_blocks(config.vit.depth as u64, config.vit.class_token, of);
    let origin = text(params, "name").map(|name| Fact::new("origin", name, &["name"]));
    [Fact::new("dim", config.vit.dim, of), tokens].into_iter().chain(blocks).chain(origin).collect()
}

fn vae(params: &Values, config: &VaeConfig, of: &'static [&'static str]) -> Vec<Fact> {
    let by_channel = text(params, "latents_stats").is_some();
    let scaling = match (by_channel, &config.latents_mean) {
        (true, _) => Fact::new("scaling", BY_CHANNEL, &["latents_stats"]),
        (false, Some(_)) => Fact::new("scaling", BY_CHANNEL, of),
        (false, None) => Fact::new("scaling", config.scaling_factor, of),
    };
    vec![
        Fact::new("channels", config.latent_channels, of),
        Fact::new("downsampling", config.downsampling(), of),
        scaling,
    ]
}
