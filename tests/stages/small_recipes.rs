//! The recipes of the papers from their images to their samples, with a narrow network of the same
//! 28 blocks, a small autoencoder and a small DINOv2: what each of them states goes together.

use super::shipped_pipelines::{IMAGENET, golden_vae, load};
use crate::support::experiment::{ended, events, in_state};
use crate::support::golden::Golden;
use crate::support::space::Space;
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What is evaluated; the metrics of Inception need its published weights.
const TARGETS: [&str; 3] = ["sample", "sample-cfg", "cknna"];

#[test]
fn the_recipes_of_the_papers_run_small() {
    let space = with_small_data(64);
    for name in IMAGENET.into_iter().filter(|n| *n != "sit-xl-512") {
        let said = run(&space, name, 64);
        let result = |of: &str| {
            let results = said["train"]["results"].as_array().unwrap();
            results.iter().find(|r| r["name"] == of).and_then(|r| r["value"].as_f64())
        };
        assert!(result("velocity").is_some_and(f64::is_finite), "{name}");
        assert!(said.contains_key("cknna"), "{name}");
        let aligned = result("alignment").is_some_and(|x| x != 0.0);
        let alone = ["sit-xl-baseline", "lightningdit-xl", "sra-xl", "sra2-xl"].contains(&name);
        assert_eq!(aligned, !alone, "{name}");
    }
}

/// Latents of 64 x 64, so 1,024 tokens, and as many of the encoder.
#[test]
fn images_of_512_pixels_run_small() {
    let space = with_small_data(512);
    let said = run(&space, "sit-xl-512", 512);
    let latents = said["latents"]["outputs"][0]["path"].as_str().unwrap();
    let shard =
        params::load(&space.path(latents).join("latents-00000.safetensors"), &candle_core::Device::Cpu).unwrap();
    assert_eq!(shard["mean"].dims()[2..], [64, 64]);
}

/// Runs a recipe of the papers in small. The events of its ends, by stage.
fn run(space: &Space, name: &str, side: usize) -> BTreeMap<String, Value> {
    space.write("p.toml", &small(name, side));
    let said = space.erw(&[&["run", "p.toml"], &TARGETS[..], &["--json", "--threads", "2"]].concat()).expect(0);
    let events = events(&said);
    assert_eq!(in_state(&events, "failed"), [""; 0], "{name}");
    let ends: BTreeMap<String, Value> =
        ended(&events).map(|e| (e["stage"].as_str().unwrap().to_string(), e.clone())).collect();
    for sample in ["sample", "sample-cfg"] {
        let out = space.path(ends[sample]["outputs"][0]["path"].as_str().unwrap());
        let picture = image::open(out.join("png/000001.png")).unwrap();
        assert_eq!((picture.width() as usize, picture.height() as usize), (side, side), "{name}");
    }
    ends
}

fn has(name: &str, stage: &str) -> bool {
    load(&format!("{name}.toml")).stages.iter().any(|s| s.name == stage)
}

/// A pipeline that extends the recipe and states what makes it small.
fn small(name: &str, side: usize) -> String {
    // All images of a batch are compared in U-REPA, which micro-batches would split.
    let accumulate = if name == "u-repa-xl" { 1 } else { 2 };
    let own =
        |file: &str| json!({"name": false, "source": format!("{file}.safetensors"), "config": format!("{file}.json")});
    let stages = [
        ("images", json!({"resolution": side})),
        ("held-out", json!({"resolution": side})),
        ("vae", own("vae")),
        ("decoder", own("vae")),
        ("encoder", own("encoder")),
        ("latents", json!({})),
        ("features", json!({})),
        ("held-out-latents", json!({})),
        ("held-out-features", json!({})),
        ("warmup", json!({"steps": 1, "batch": 2})),
        ("train", json!({"steps": 2, "batch": 2})),
        ("sample", json!({"steps": 2, "count": 2})),
        ("sample-cfg", json!({"steps": 2, "count": 2})),
        ("cknna", json!({"images": 4, "k": 2, "timesteps": [0.5]})),
    ];
    let mut text = format!(
        "extends = \"pipelines/{name}.toml\"\nname = \"small\"\n[params]\nmodel = \"custom\"\nhidden = 32\nblocks = 28\n\
         heads = 2\npatch_size = 2\nprojector_dim = 16\naccumulate = {accumulate}\n"
    );
    for (stage, params) in stages.into_iter().filter(|(stage, _)| has(name, stage)) {
        text += &format!("[stages.{stage}.params]\n");
        params.as_object().unwrap().iter().for_each(|(key, value)| text += &format!("{key} = {value}\n"));
        text += &format!("[stages.{stage}.resources]\ngpus = 0\n");
    }
    text
}

/// The shipped recipes beside four images of each of three classes, and the weights.
fn with_small_data(side: u32) -> Space {
    let space = Space::of(&[]);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    for name in IMAGENET {
        space.write(
            &format!("pipelines/{name}.toml"),
            &fs::read_to_string(shipped.join(format!("{name}.toml"))).unwrap(),
        );
    }
    for (split, seed) in [("train", 0), ("val", 1)] {
        for (class, i) in (0..3u32).flat_map(|class| (0..4u32).map(move |i| (class, i))) {
            let folder = space.path(&format!("pipelines/data/imagenet/{split}/n{class:08}"));
            fs::create_dir_all(&folder).unwrap();
            let shade = |x: u32, y: u32| (x * (class + 2) + y * (i + 1) + 17 * seed) as u8;
            let picture = image::RgbImage::from_fn(side + 20, side + 9, |x, y| {
                image::Rgb([shade(x, y), shade(y, x), shade(x, x)])
            });
            picture.save(folder.join(format!("{i}.png"))).unwrap();
        }
    }
    let (vae, config) = golden_vae();
    params::save(&vae, &space.path("vae.safetensors")).unwrap();
    space.write("vae.json", &config.to_string());
    params::save(&dinov2_of_12_blocks(), &space.path("encoder.safetensors")).unwrap();
    let vit = json!({"image_size": 56, "patch_size": 14, "dim": 48, "depth": 12, "heads": 3, "mlp_dim": 192,
        "class_token": true, "layer_scale": true, "exact_gelu": true, "final_norm": true, "eps": 1e-6});
    let config = json!({"vit": vit, "pixels_per_token": 16, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]});
    space.write("encoder.json", &config.to_string());
    space
}

/// The two blocks of the golden file, six times: HASTE aligns with the last four of twelve.
fn dinov2_of_12_blocks() -> Tensors {
    let golden = Golden::open("dinov2").group("w");
    let mut all = Tensors::new();
    for (name, tensor) in golden {
        match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            Some((block, rest)) => {
                let first: usize = block.parse().unwrap();
                all.extend((first..12).step_by(2).map(|i| (format!("blocks.{i}.{rest}"), tensor.clone())));
            }
            None => drop(all.insert(name, tensor)),
        }
    }
    all
}
