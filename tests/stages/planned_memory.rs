//! What plans tell of the memory of GPUs: all networks of a stage, by the shapes that its inputs will
//! have.

use super::shipped_pipelines::load_with;
use erw::ml::gpu::sit::{Recipe, memory};
use erw::ml::gpu::vae::decoder;
use erw::ml::gpu::velocity::Evaluation;
use erw::ml::gpu::vit::VitEvaluation;
use erw::ml::models::encoder::config::EncoderConfig;
use erw::ml::models::sit::SiTConfig;
use erw::ml::models::vae::{AutoencoderKl, VaeConfig};
use erw::ml::nn::params::census;
use erw::runner::pipeline::properties::Properties;
use erw::stages::planned_memory::foreseen::{Foreseen, Maker};
use erw::stages::planned_memory::planned_memory;
use erw::stages::training::watched;
use erw_gpu::program::Type;

/// Bytes that a stage of a shipped pipeline takes; of its inputs, the makers of those that `knows`
/// takes are known.
fn told(file: &str, set: &[&str], name: &str, knows: impl Fn(&str) -> bool) -> u64 {
    let pipeline = load_with(file, set);
    let stage = pipeline.stages.iter().find(|stage| stage.name == name).unwrap();
    let maker = |from| {
        let stage = pipeline.stage(from);
        Maker { kind: stage.kind.name, params: stage.placed_params() }
    };
    let makers = stage.inputs.iter().filter(|(slot, _)| knows(slot.as_str()));
    let stage = Foreseen {
        kind: stage.kind.name,
        params: &stage.params,
        operation: &stage.operation,
        inputs: Properties::of(&pipeline).given(stage),
        makers: makers.map(|(slot, edge)| (slot.clone(), maker(edge.from))).collect(),
        ranks: 1,
    };
    planned_memory(&stage).unwrap()
}

fn autoencoder(config: &VaeConfig) -> AutoencoderKl {
    census(|vb| AutoencoderKl::new(config, vb)).unwrap().0
}

fn sd_vae() -> AutoencoderKl {
    autoencoder(&VaeConfig::rgb(&[128, 256, 512, 512], 2, 4, 32, true))
}

/// The network of `sit-xl.toml`.
fn network() -> SiTConfig {
    let published = SiTConfig::published("SiT-XL/2", [4, 32], 1000, vec![768], 14).unwrap();
    SiTConfig { rope: true, ..published }
}

#[test]
fn sampling_counts_its_decoder() {
    let config = SiTConfig { z_dims: vec![], ..network() };
    let evaluation = Evaluation { config, batch: 64, ty: Type::F32 }.memory().unwrap();
    let of_decoder = decoder(&sd_vae(), [32, 32], 16, Type::F32).memory().unwrap();
    assert_eq!(told("sit-xl.toml", &[], "sample", |_| true), (evaluation + of_decoder) as u64);
    assert_eq!(told("sit-xl.toml", &[], "sample", |_| false), evaluation as u64);
    // An autoencoder by its preset, and fewer images at a time.
    let set = ["sample.batch=4", "decoder.name=false", "decoder.source=pipelines", "decoder.preset=sd-vae"];
    let few = decoder(&sd_vae(), [32, 32], 4, Type::F32).memory().unwrap();
    let told = |knows: bool| told("sit-xl.toml", &set, "sample", |_| knows);
    assert_eq!(told(true) - told(false), few as u64);
}

#[test]
fn a_decoder_in_half_precision_takes_less() {
    let told = |set: &[&str]| told("sit-xl.toml", set, "sample", |_| true);
    let of = |ty| decoder(&sd_vae(), [32, 32], 16, ty).memory().unwrap() as u64;
    let saved = told(&[]) - told(&["sample.vae_precision=bf16"]);
    assert_eq!(saved, of(Type::F32) - of(Type::Bf16));
}

#[test]
fn a_training_counts_encoders_that_run_meanwhile() {
    let config = EncoderConfig::named("dinov2-vit-b").unwrap().vit;
    let encoder = VitEvaluation { config, grid: 16, batch: 32 }.memory().unwrap() as u64;
    for stage in ["warmup", "train"] {
        let with = told("sit-xl-online.toml", &[], stage, |_| true);
        assert_eq!(with - told("sit-xl-online.toml", &[], stage, |_| false), encoder, "{stage}");
    }
    // Where nothing is aligned, none runs.
    let set = ["train.alignment=none", "train.inputs.init=false"];
    let told = |knows: bool| told("sit-xl-online.toml", &set, "train", |_| knows);
    assert_eq!(told(true), told(false));
}

#[test]
fn a_network_of_custom_sizes_takes_what_the_published_one_of_these_sizes_does() {
    let published = told("sit-xl.toml", &["model=SiT-B/2", "train.encoder_depth=8"], "train", |_| true);
    let sizes = ["hidden=768", "blocks=12", "heads=12", "patch_size=2"];
    let of = |stage: &'static str| sizes.map(|size| format!("{stage}.{size}"));
    let custom = ["warmup", "train"].map(of).concat();
    let set: Vec<&str> = custom.iter().map(String::as_str).chain(["model=custom", "train.encoder_depth=8"]).collect();
    assert_eq!(told("sit-xl.toml", &set, "train", |_| true), published);
}

/// They share memory with the step's results. Of a micro-batch of one sample these are smaller.
#[test]
fn a_training_counts_its_validation_and_previews_where_they_take_more_than_a_step() {
    let told = |changes: &[&str], knows: bool| {
        let set: Vec<&str> = ["train.inputs.decoder=decoder"].iter().chain(changes).copied().collect();
        told("sit-xl.toml", &set, "train", |_| knows)
    };
    let plain = told(&[], true);
    assert_eq!(told(&["train.samples_every=1000", "train.validate_every=1000"], true), plain);
    let small = |more: &[&str], knows: bool| {
        let set: Vec<&str> = ["train.batch=8"].iter().chain(more).copied().collect();
        told(&set, knows)
    };
    let vae = sd_vae();
    let recipe = Recipe { micro_batches: 8, ..Recipe::new(network(), 1, Type::Bf16) };
    let of = |points, vae: Option<&AutoencoderKl>| {
        let between = watched::memory(&recipe.config, points, vae, Type::Bf16).unwrap();
        memory(&Recipe { between, ..recipe.clone() }).unwrap() as u64
    };
    assert_eq!(small(&[], true), of(0, None));
    assert_eq!(small(&["train.validate_every=1000"], true), of(1, None));
    assert_eq!(small(&["train.samples_every=1000"], true), of(16, Some(&vae)));
    assert_eq!(small(&["train.samples_every=1000"], false), of(16, None));
    assert!(of(0, None) < of(1, None) && of(1, None) < of(16, None));
}
