//! `erw export P train DIR --as diffusers`: a folder that `DiffusionPipeline.from_pretrained` loads.
//!
//! ```text
//! model_index.json                       the pipeline: defaults of a call, names of classes
//! erw_pipeline.py                        the samplers, with erw's random numbers
//! transformer/{config.json,erw_sit.py}   the SiT as a torch module
//! guide/                                 the same of the SiT that guides, if one does
//! vae/config.json                        diffusers' own AutoencoderKL
//! {transformer,guide,vae}/diffusion_pytorch_model.safetensors
//! pipeline/                              the pipeline's files and the lock of what was exported
//! README.md                              the model card
//! ```
//!
//! The Python files carry no weights and are the same in every export. The projectors of the training
//! are left out: nothing after it uses them.

mod card;
mod handover;
mod lineage;

use super::record::record;
use super::stamp::stamp;
use candle_core::Device;
use card::DIFFUSERS;
use erw_base::error::{Error, Result};
use erw_ml::models::sit::release;
use erw_ml::models::vae::{self, VaeConfig};
use erw_ml::nn::params::{self, Tensors};
use erw_runner::cache::action_cache::Record;
use erw_runner::files::lexical::logical;
use erw_runner::pipeline::graph::StageId;
use erw_runner::repro::lockfile::{self, Lock};
use erw_stages::CONFIG_FILE;
pub use handover::Handover;
use handover::{Artifact, Network};
use lineage::Measured;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const WEIGHTS_FILE: &str = "diffusion_pytorch_model.safetensors";
const PIPELINE: (&str, &str) = ("erw_pipeline.py", include_str!("erw_pipeline.py"));
/// Beside the weights of each SiT.
const SIT: (&str, &str) = ("erw_sit.py", include_str!("erw_sit.py"));
/// Parameters of `sample` that are the defaults of a call.
const SAMPLING: [&str; 8] =
    ["sampler", "steps", "time_shift", "atol", "rtol", "cfg_scale", "guidance_low", "guidance_high"];

/// Writes everything into an empty folder.
pub fn write(handover: &Handover<'_>, folder: &Path) -> Result<()> {
    put(&folder.join(PIPELINE.0), PIPELINE.1)?;
    let parameters = write_sit(&handover.sit, &folder.join("transformer"))?;
    if let Some(guide) = &handover.guide {
        write_sit(guide, &folder.join("guide"))?;
    }
    write_vae(handover, &folder.join("vae"))?;
    put_json(&folder.join("model_index.json"), &index(handover))?;
    let measured = handover.measured()?;
    let file = write_pipeline(handover, &folder.join("pipeline"), &measured)?;
    let card = card::text(handover, &measured, &format!("pipeline/{file}"), parameters);
    put(&folder.join("README.md"), &card)
}

/// Returns the number of parameters.
fn write_sit(sit: &Network, folder: &Path) -> Result<usize> {
    let c = &sit.config;
    if c.class_token.is_some() {
        return Err(Error::usage("a network with a class token cannot be handed over to diffusers")
            .hint("use `erw weights export`, which writes its weights for the published PyTorch code"));
    }
    let mut tensors = release::state_dict(c, params::load(&sit.file(), &Device::Cpu)?)?;
    tensors.retain(|name, _| !release::HEADS.iter().any(|head| name.starts_with(head)));
    let trained = tensors.iter().filter(|(name, _)| !release::TABLES.contains(&name.as_str()));
    let parameters = trained.map(|(_, t)| t.elem_count()).sum();
    save(folder, &tensors, &sit.artifact)?;
    put(&folder.join(SIT.0), SIT.1)?;
    let config = json!({
        "_class_name": "SiT",
        "_diffusers_version": DIFFUSERS,
        "input_size": c.input_size,
        "in_channels": c.in_channels,
        "patch_size": c.patch_size,
        "hidden": c.hidden,
        "depth": c.depth,
        "heads": c.heads,
        "num_classes": c.num_classes,
        "mlp_ratio": c.mlp_ratio,
        "mlp": c.mlp,
        "norm": c.norm,
        "class_dropout": c.class_dropout,
        "rope": c.rope,
        "qk_norm": c.qk_norm,
    });
    put_json(&folder.join(CONFIG_FILE), &config)?;
    Ok(parameters)
}

/// erw's autoencoder is diffusers' AutoencoderKL, by the same names.
fn write_vae(handover: &Handover<'_>, folder: &Path) -> Result<()> {
    let file = handover.vae.dir.join(vae::WEIGHTS_FILE);
    let tensors = vae::adopt(&handover.vae_config, params::load(&file, &Device::Cpu)?)?.tensors;
    save(folder, &tensors, &handover.vae)?;
    let levels = handover.vae_config.block_out_channels.len();
    // A file that leaves these out means as many as there are levels; diffusers takes one.
    let config = VaeConfig {
        down_block_types: vec!["DownEncoderBlock2D".into(); levels],
        up_block_types: vec!["UpDecoderBlock2D".into(); levels],
        ..handover.vae_config.clone()
    };
    let mut config = json!(config);
    config["_class_name"] = json!("AutoencoderKL");
    config["_diffusers_version"] = json!(DIFFUSERS);
    config["sample_size"] = json!(handover.side());
    put_json(&folder.join(CONFIG_FILE), &config)
}

fn save(folder: &Path, tensors: &Tensors, from: &Artifact) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    params::save(tensors, &folder.join(WEIGHTS_FILE))?;
    stamp(folder, &from.record.key(), &from.digest)
}

fn index(handover: &Handover<'_>) -> Value {
    let sampling = handover.lineage.sampling.map(|id| &handover.pipeline.stage(id).params);
    let named = |name: &&str| Some((name.to_string(), sampling?.get(*name).filter(|value| !value.is_null())?.clone()));
    let defaults: Map<String, Value> = SAMPLING.iter().filter_map(named).collect();
    let names = handover.classes().iter().enumerate().map(|(i, name)| (i.to_string(), json!(name)));
    let mut index = json!({
        "_class_name": ["erw_pipeline", "SiTPipeline"],
        "_diffusers_version": DIFFUSERS,
        "transformer": ["erw_sit", "SiT"],
        "vae": ["diffusers", "AutoencoderKL"],
        "path": handover.path(),
        "sampling": defaults,
        "id2label": names.collect::<Map<_, _>>(),
        "labels": sampling.and_then(|p| p.get("labels")).cloned().unwrap_or_else(|| json!("random")),
    });
    if handover.guide.is_some() {
        index["guide"] = index["transformer"].clone();
    }
    index
}

/// Copies the file of the pipeline with those that it extends or takes inputs from, and writes the
/// lock of the stages that were exported and of those that measured them. Returns the name of the
/// first.
fn write_pipeline(handover: &Handover<'_>, folder: &Path, measured: &[(Measured, Record)]) -> Result<String> {
    let files: Vec<&PathBuf> = handover.pipeline.files.iter().map(|(path, _)| path).collect();
    // Without `..`, which would lead out of the folder.
    let parent = |path: &&PathBuf| logical(path).parent().unwrap_or(path).to_path_buf();
    let shared = |a: PathBuf, b: PathBuf| a.ancestors().find(|a| b.starts_with(a)).unwrap_or(&a).to_path_buf();
    let root = files.iter().map(parent).reduce(shared).unwrap_or_default();
    // Never a path of its own, either.
    let name = |path: &Path| path.file_name().map(PathBuf::from).unwrap_or_default();
    let below = |path: &Path| logical(path).strip_prefix(&root).map_or_else(|_| name(path), Path::to_path_buf);
    let within = |path: &Path| folder.join(below(path));
    for file in &files {
        let text = std::fs::read_to_string(file).map_err(|e| Error::io("read", file, e))?;
        put(&within(file), &text)?;
    }
    let file = handover.pipeline.file.canonicalize().ok();
    let own = files.iter().find(|path| path.canonicalize().ok() == file);
    let own = own.map_or(handover.pipeline.file.as_path(), |path| path.as_path());
    let mut records: BTreeMap<StageId, Record> = measured.iter().map(|(m, record)| (m.stage, record.clone())).collect();
    for id in handover.lineage.sources(handover.pipeline) {
        records.insert(id, record(handover.pipeline, handover.cache, id)?);
    }
    let here = within(own);
    Lock::of_digests(handover.pipeline, &records)?.write(&lockfile::path(&here))?;
    let name = here.strip_prefix(folder).unwrap_or(&here);
    Ok(name.display().to_string())
}

fn put(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    let made = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, text));
    made.map_err(|e| Error::io("write", path, e))
}

fn put_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::internal("cannot write JSON").because(e))?;
    put(path, &(text + "\n"))
}
