//! `erw weights import` and `export`: weight files to the folder of an artifact, and a SiT to a
//! state dict for the published PyTorch code.

use crate::common::pipeline_args::{self, PipelineArgs, SetArgs};
use crate::common::{columns, print};
use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_ml::formats::torch_write;
use erw_ml::models::projector::ProjectorKind;
use erw_ml::models::sit::convention::Convention;
use erw_ml::models::sit::{MlpKind, NormKind, SiTConfig, release};
use erw_ml::nn::params::{self, Tensors};
use erw_ml::train::saved_weights;
use erw_report::table::near;
use erw_runner::cache::store::Store;
use erw_runner::kind::Registry;
use erw_runner::pipeline::targets::select;
use erw_runner::plan::{CacheChecker, Verdict, plan};
use erw_stages::data::weights::{AdoptedDict, Artifact, Converted, Network, Request, convert, statistics};
use erw_stages::{CONFIG_FILE, ema_files};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Names listed of each kind without `--all`.
const SHOWN: usize = 8;

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Weight file: safetensors, PyTorch checkpoint, TorchScript archive or npz; for a model in
    /// several files their folder, their index or one of them
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    file: PathBuf,
    /// Artifact type (vae, encoder, classifier, inception, sit, stats), or a network such as
    /// dinov2-vit-b or SiT-XL/2
    #[arg(long = "as", value_name = "WHAT")]
    what: String,
    /// State dict of a checkpoint to read, such as ema; default for a SiT: both the average and the
    /// model
    #[arg(long)]
    set: Option<String>,
    /// Direction of time that a SiT was trained with: repa (t = 1 is noise) or sit (t = 1 is data);
    /// default: as the file shows, otherwise repa
    #[arg(long, value_parser = Convention::NAMES)]
    convention: Option<String>,
    /// Configuration of the network, if `--as` names none
    #[arg(long, value_hint = clap::ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// File with mean and deviation of each channel of an autoencoder's latents, such as
    /// latents_stats.pt; VA-VAE and REPA-E need it
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    latents_stats: Option<PathBuf>,
    /// Folder to write; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// List all tensors in the report
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Folder of a SiT (from `erw weights import` or a `train` stage), a training checkpoint, or a
    /// pipeline
    #[arg(value_name = "DIR|CHECKPOINT|PIPELINE", value_hint = clap::ValueHint::AnyPath)]
    pub from: PathBuf,
    /// Stage of the pipeline that made the SiT
    pub stage: Option<String>,
    /// Weights to export: `ema` (the average, default), `model`, or another average or snapshot of
    /// the training, such as `ema-0.999` or `ema@1000`; NAME=VALUE overrides a value of the pipeline
    #[arg(long, value_name = "ema|model|NAME=VALUE", value_parser = weights_or_value)]
    set: Vec<String>,
    /// Add a sweep axis, or replace the one of this name
    #[arg(long, value_name = "NAME=VALUES")]
    axis: Vec<String>,
    /// File to write, ending in .safetensors or .pt
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    out: PathBuf,
}

/// Parses `--set` of an export.
fn weights_or_value(text: &str) -> Result<String, String> {
    match text.contains('=') || ema_files::check("--set", text).is_ok() {
        true => Ok(text.into()),
        false => Err("expected ema, model, ema-DECAY, ema@STEP, or NAME=VALUE for a value of the pipeline".into()),
    }
}

impl ExportArgs {
    /// Which weights to export.
    fn weights(&self) -> Result<&str> {
        let mut names = self.set.iter().filter(|text| !text.contains('=')).map(String::as_str);
        let name = names.next().unwrap_or(release::EMA);
        match names.find(|other| *other != name) {
            Some(other) => Err(Error::usage(format!("`--set {name}` and `--set {other}` are both given"))
                .hint("an export holds one set of weights: call it once for each")),
            None => Ok(name),
        }
    }

    fn values(&self) -> SetArgs {
        let set = self.set.iter().filter(|text| text.contains('=')).cloned().collect();
        SetArgs { set, axis: self.axis.clone() }
    }
}

/// Parses `--as`: a type of artifact, or a network, which implies its type.
fn meant(what: &str, config: Option<&PathBuf>) -> Result<(Artifact, Network)> {
    let preset = |name: &str| Network::Preset(name.into());
    let network = Artifact::ALL.into_iter().find(|a| a.presets().contains(&what)).map(|a| (a, preset(what)));
    let ty = || Artifact::ALL.into_iter().find(|a| a.name() == what);
    match (network, config) {
        (Some(_), Some(_)) => Err(Error::usage(format!("both `--as {what}` and `--config` define the network"))
            .hint("for `--config`, give a type of artifact as `--as`")),
        (Some(found), None) => Ok(found),
        (None, config) => match (ty(), config) {
            (Some(artifact), Some(file)) => Ok((artifact, Network::Config(file.clone()))),
            // There is only one network of these types.
            (Some(artifact @ (Artifact::Vae | Artifact::Inception)), None) => {
                Ok((artifact, preset(artifact.presets()[0])))
            }
            (Some(artifact @ (Artifact::Sit | Artifact::Stats)), None) => Ok((artifact, Network::Shown)),
            (Some(Artifact::Encoder), None) => Err(Error::usage("`--as encoder` does not define the network")
                .hint(format!("give a name ({}) or `--config`", Artifact::Encoder.presets().join(", ")))),
            (Some(Artifact::Classifier), None) => Err(Error::usage("`--as classifier` does not define the network")
                .hint("give its `config.json` with `--config`")),
            (None, _) => {
                let types = Artifact::ALL.into_iter().map(Artifact::name);
                let all: Vec<&str> =
                    types.chain(Artifact::ALL.into_iter().flat_map(|a| a.presets().iter().copied())).collect();
                let hint = erw_runner::text::suggest::hint(what, all, "there are");
                Err(Error::usage(format!("`--as {what}`: no such type or network")).maybe_hint(hint))
            }
        },
    }
}

pub fn import(args: &ImportArgs) -> Result<()> {
    let (artifact, network) = meant(&args.what, args.config.as_ref())?;
    if std::fs::symlink_metadata(&args.out).is_ok() {
        return Err(Error::usage(format!("`{}` already exists", args.out.display())).hint("give a new folder"));
    }
    let parent = match args.out.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Written beside the target and renamed, so that a kill leaves no folder that looks finished.
    let work = tempfile::Builder::new().prefix(".erw-import-").tempdir_in(parent);
    let work = work.map_err(|e| Error::io("write to", parent, e))?;
    if artifact == Artifact::Stats {
        let features = statistics(&args.file, work.path())?;
        publish(work, &args.out)?;
        return print(&format!("statistics of {features} features\nwritten to {}\n", near(&args.out)));
    }
    let convention = args.convention.as_deref().and_then(Convention::named);
    if convention.is_some() && artifact != Artifact::Sit {
        return Err(Error::usage("`--convention` applies to a SiT only"));
    }
    let set = args.set.as_deref();
    let latents_stats = args.latents_stats.as_deref();
    let request = Request { file: &args.file, artifact, network, set, convention, latents_stats, siblings: true };
    let converted = convert(&request)?;
    print(&report(&converted, args.all))?;
    converted.check(&request)?;
    converted.write(&request, work.path())?;
    publish(work, &args.out)?;
    print(&format!("written to {}\n", near(&args.out)))
}

fn publish(work: tempfile::TempDir, out: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = work.keep();
    let done = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755));
    done.and_then(|()| std::fs::rename(&path, out)).map_err(|e| {
        let _ = std::fs::remove_dir_all(&path);
        Error::io("write", out, e)
    })
}

/// The report on each tensor.
fn report(converted: &Converted, all: bool) -> String {
    let mut text = format!("read as {}\n", converted.format);
    for line in &converted.remarks {
        text.push_str(line);
        text.push('\n');
    }
    for set in &converted.sets {
        text.push_str(&one(set, all));
    }
    text
}

fn one(set: &AdoptedDict, all: bool) -> String {
    let (adopted, report) = (&set.adopted, &set.report);
    let name = if set.name.is_empty() { "the file".into() } else { format!("`{}`", set.name) };
    let mut text = format!(
        "{name} -> {}: {} mapped ({} renamed), {} dropped, {} missing, {} unexpected, {} of another shape\n",
        set.files.join(", "),
        report.loaded.len(),
        adopted.renamed.len(),
        adopted.dropped.len(),
        report.missing.len(),
        report.unexpected.len(),
        report.mismatched.len()
    );
    let renamed: Vec<String> = adopted.renamed.iter().map(|(ours, theirs)| format!("{ours} <- {theirs}")).collect();
    let unread: Vec<String> = set.unread.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    let lists = [
        ("renamed", &renamed),
        ("dropped", &adopted.dropped),
        ("left out", &unread),
        ("missing", &report.missing),
        ("unexpected", &report.unexpected),
        ("of another shape", &report.mismatched),
    ];
    for (what, names) in lists {
        let most = if all { names.len() } else { SHOWN };
        let mut rows: Vec<Vec<String>> = names.iter().take(most).map(|n| vec![what.into(), n.clone()]).collect();
        if names.len() > most {
            rows.push(vec![String::new(), format!("and {} more; `--all` lists them", names.len() - most)]);
        }
        text.push_str(&columns(&rows, "  "));
    }
    text
}

pub fn export(args: &ExportArgs, cache: &Path, registry: Registry) -> Result<()> {
    let ending = args.out.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if !["safetensors", "pt", "pth"].contains(&ending) {
        return Err(Error::usage(format!("`{}` ends neither in .safetensors nor in .pt", args.out.display()))
            .hint("the extension selects the format"));
    }
    let weights = args.weights()?;
    let from_dir = |dir: &Path| -> Result<(SiTConfig, Tensors)> {
        let config = read_config(dir)?;
        let file = dir.join(format!("{weights}.safetensors"));
        if !file.exists() {
            let error = Error::usage(format!("`{}` has no weights `{weights}`", near(dir)));
            return Err(error.hint(format!("there are {}", ema_files::there(dir)?.join(", "))));
        }
        Ok((config, params::load(&file, &Device::Cpu)?))
    };
    let (config, tensors) = match &args.stage {
        Some(stage) => from_dir(&made_by(&args.values().on(&args.from), stage, cache, registry)?)?,
        None if args.from.is_dir() => from_dir(&args.from)?,
        None if args.from.extension().is_some_and(|e| e == "safetensors") => of_checkpoint(&args.from, weights)?,
        None => {
            return Err(Error::usage(format!(
                "`{}` is neither a folder of weights nor a checkpoint",
                args.from.display()
            ))
            .hint("for a pipeline, name the stage too: `erw weights export PIPELINE STAGE`"));
        }
    };
    let dict = release::state_dict(&config, tensors)?;
    match ending {
        "safetensors" => params::save(&dict, &args.out)?,
        _ => torch_write::save(&args.out, &[("", &dict)])?,
    }
    let written = format!("{} tensors of `{weights}` written to {}\n", dict.len(), near(&args.out));
    print(&(written + &loaded_by(&config)))
}

/// Into which model the published code loads the weights, if it has one.
fn loaded_by(config: &SiTConfig) -> String {
    let switches = [(config.rope, "--use_rope"), (config.qk_norm, "--qk-norm")];
    let switches: String = switches.iter().filter(|(on, _)| *on).map(|(_, name)| format!(" {name}")).collect();
    let switches = if switches.is_empty() { switches } else { format!(", built with{switches}") };
    let of = if config.warmup_depth.is_some() { "the warmup" } else { "a model" };
    let model = format!("{of} of {} blocks of width {}{switches}", config.blocks(), config.hidden);
    let is_aligned = !config.z_dims.is_empty();
    let further = [
        (config.mlp == MlpKind::SwiGlu, "gated MLPs (SwiGLU)"),
        (config.norm == NormKind::Rms, "RMSNorm"),
        (is_aligned && config.projector == ProjectorKind::Conv3, "iREPA's projector, a convolution"),
        (is_aligned && config.encoder_depth.len() > 1, "projectors at several blocks"),
        (config.self_alignment.is_some(), "SRA's head (`ap_head`)"),
        (config.latent_alignment.is_some(), "SRA 2's head (`latent_head`)"),
        (config.class_token.is_some(), "REG's class token"),
    ];
    let further: Vec<&str> = further.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    match further.as_slice() {
        [] => format!("the published PyTorch code loads them with `load_state_dict` into {model}\n"),
        all => format!(
            "`load_state_dict` needs {model}, that has {}; the code of REPA and ERW builds none like it\n",
            all.join(", ")
        ),
    }
}

fn read_config(dir: &Path) -> Result<SiTConfig> {
    let path = dir.join(CONFIG_FILE);
    let text = erw_base::text::read(&path).map_err(|e| Error::io("read", &path, e))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::usage(format!("`{}` does not describe a SiT", path.display())).because(e))
}

/// The weights in a checkpoint of a running or failed training. The network's configuration is
/// beside it.
fn of_checkpoint(file: &Path, set: &str) -> Result<(SiTConfig, Tensors)> {
    if ![release::EMA, release::MODEL].contains(&set) {
        let error = Error::usage(format!("no weights `{set}` in the checkpoint `{}`", file.display()));
        return Err(error.hint("a checkpoint gives `ema` and `model`, the stage all others once it is done"));
    }
    let saved = saved_weights(file)?;
    let config = read_config(file.parent().unwrap_or(Path::new("."))).map_err(|e| {
        e.hint(
            "checkpoints of `warmup` and `train` can be exported; copy the `config.json` beside a checkpoint with it",
        )
    })?;
    Ok((config, if set == release::EMA { saved.ema } else { saved.model }))
}

/// The path of a cached stage's artifact.
fn made_by(args: &PipelineArgs, stage: &str, cache: &Path, registry: Registry) -> Result<PathBuf> {
    let pipeline = args.load_for([&stage.to_string()], registry, cache)?;
    pipeline_args::one(&pipeline, stage)?;
    let store = Store::open(cache)?;
    let checker = CacheChecker::new(&pipeline, &store, BTreeSet::new());
    let selected = select(&pipeline, &[stage.to_string()])?;
    let verdicts = plan(&checker, &selected)?;
    let (_, verdict) = verdicts
        .iter()
        .rfind(|(id, _)| pipeline.stage(*id).name == stage)
        .ok_or_else(|| Error::usage(format!("`{stage}` matches several stages; name one")))?;
    let Verdict::Cached(record) = verdict else {
        let file = args.pipeline.display();
        return Err(Error::usage(format!("stage `{stage}` of `{file}` is not up to date"))
            .hint(format!("run `erw run {file} {stage}` first; `erw why {file} {stage}` explains why")));
    };
    let output = record.outputs.values().find(|o| ["sit", "warmed"].contains(&o.ty.as_str()));
    let output = output.ok_or_else(|| Error::usage(format!("stage `{stage}` does not make a SiT")))?;
    store.check(&output.measured.digest)?;
    Ok(store.object(&output.measured.digest))
}
