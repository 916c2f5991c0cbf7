//! What a plan refuses before anything runs: files of other networks, and switches of training that
//! do not go with an input.

use crate::support::deadline::Deadline;
use crate::support::space::{Said, Space};
use candle_core::{DType, Device, Tensor};
use erw::ml::formats::torch_write;
use erw::ml::models::encoder::config::EncoderConfig;
use erw::ml::models::vae::VaeConfig;
use erw::ml::models::vit::Vit;
use erw::ml::nn::params::{self, Tensors};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

const CPU: Device = Device::Cpu;

fn plan(space: &Space, file: &str) -> Said {
    space.erw(&["plan", file])
}

/// Names and shapes of an encoder.
fn shapes(preset: &str) -> BTreeMap<String, Vec<usize>> {
    let config = EncoderConfig::named(preset).unwrap();
    let (_, shapes) = params::census(|vb| Vit::new(&config.vit, vb)).unwrap();
    shapes.into_iter().map(|(name, shape)| (name, shape.dims().to_vec())).collect()
}

/// Safetensors of zeros in half precision that take no room on the disk.
fn sparse(path: &Path, shapes: &BTreeMap<String, Vec<usize>>) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = serde_json::to_string(&header).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

/// Another stage.
const TOUCH: &str = "[stages.touch]\nkind = \"command\"\nrun = \"echo ran > ran; echo > {outputs.o}\"\n\
                     outputs = { o = \"text\" }\n";

fn encoder(source: &str, network: &str) -> String {
    format!(
        "name = \"e\"\n[stages.encoder]\nkind = \"weights\"\n\
         params = {{ as = \"encoder\", source = \"{source}\", {network} }}\n"
    )
}

#[test]
fn a_file_of_another_size_is_refused_with_the_preset_that_it_fits() {
    let space = Space::new(&encoder("small.safetensors", "preset = \"dinov2-vit-b\""));
    sparse(&space.path("small.safetensors"), &shapes("dinov2-vit-s"));
    let said = plan(&space, "p.toml").expect(2);
    let first = "error: stage `encoder`: `small.safetensors` does not fit preset `dinov2-vit-b`\n --> p.toml:4:";
    let stderr = space.plain(&said.stderr);
    assert!(stderr.starts_with(first), "{stderr}");
    let shape = "blocks.0.attn.proj.bias is [384] in the file, [768] in the network";
    assert!(stderr.contains("of another shape: ") && stderr.contains(shape), "{stderr}");
    assert!(stderr.contains("hint: the file fits `preset = \"dinov2-vit-s\"`\n"), "{stderr}");
    assert_eq!(said.stdout, "", "there is no plan");
    // A dry run is a plan; and a network of more blocks has all that is asked for.
    let dry = space.run(&["-n"]).expect(2);
    assert_eq!(dry.stderr, said.stderr);
    // A run starts nothing, unless it is to do what it can.
    space.write("p.toml", &(encoder("small.safetensors", "preset = \"dinov2-vit-b\"") + TOUCH));
    assert_eq!(space.run(&[]).expect(2).stderr, said.stderr);
    assert!(!space.path("ran").exists());
    space.run(&["--keep-going"]).expect(1);
    assert!(space.path("ran").exists());
    space.write("p.toml", &encoder("small.safetensors", "preset = \"dinov2-vit-s\""));
    plan(&space, "p.toml").expect(0);
    let mut deeper = shapes("dinov2-vit-s");
    deeper.insert("blocks.12.norm1.weight".into(), vec![384]);
    sparse(&space.path("small.safetensors"), &deeper);
    let said = plan(&space, "p.toml").expect(2).stderr;
    assert!(said.contains("1 not in the network: blocks.12.norm1.weight\n"), "{said}");
}

#[test]
fn parts_and_other_names_of_a_network_fit() {
    // Queries, keys and values apart, under the names of transformers, with a counter beside them.
    let mut theirs = BTreeMap::new();
    for (name, shape) in shapes("dinov2-vit-s") {
        let end = name.rsplit('.').next().unwrap().to_string();
        match name.split(".attn.qkv").next().unwrap().strip_prefix("blocks.") {
            Some(block) if name.contains("qkv") => {
                let mut part = shape.clone();
                part[0] /= 3;
                for layer in ["query", "key", "value"] {
                    let name = format!("encoder.layer.{block}.attention.attention.{layer}.{end}");
                    theirs.insert(name, part.clone());
                }
            }
            _ => drop(theirs.insert(name, shape)),
        }
    }
    theirs.insert("embeddings.position_ids".into(), vec![1, 1370]);
    let space = Space::new(&encoder("hub.safetensors", "preset = \"dinov2-vit-s\""));
    sparse(&space.path("hub.safetensors"), &theirs);
    plan(&space, "p.toml").expect(0);
}

#[test]
fn a_file_of_another_architecture_is_refused() {
    let vit = json!({"image_size": 8, "patch_size": 4, "dim": 8, "depth": 1, "heads": 2, "mlp_dim": 16,
        "class_token": true, "layer_scale": false, "exact_gelu": true, "final_norm": true, "eps": 1e-6});
    let config = json!({"vit": vit, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]});
    let space = Space::of(&[
        ("config.json", &config.to_string()),
        ("p.toml", &encoder("resnet.pt", "config = \"config.json\"")),
        ("q.toml", &encoder("vit.pt", "config = \"config.json\"")),
    ]);
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &CPU).unwrap();
    let resnet = Tensors::from([
        ("bn1.weight".into(), zeros(&[64])),
        ("conv1.weight".into(), zeros(&[64, 3, 7, 7])),
        ("fc.weight".into(), zeros(&[10, 64])),
    ]);
    torch_write::save(&space.path("resnet.pt"), &[("model", &resnet)]).unwrap();
    let said = space.plain(&plan(&space, "p.toml").expect(2).stderr);
    let first = "error: stage `encoder`: `resnet.pt` does not fit the given configuration\n --> p.toml:4:";
    assert!(said.starts_with(first), "{said}");
    assert!(said.contains("not in the file: blocks.0.attn.proj.bias, "), "{said}");
    assert!(said.contains("the file has 3 tensors, first bn1.weight [64], conv1.weight [64, 3, 7, 7], fc."), "{said}");
    assert!(said.contains("hint: give another `source`, or the `preset` or `config` of its network\n"), "{said}");
    // The same of the right tensors plans.
    let config: EncoderConfig = serde_json::from_value(config).unwrap();
    let (_, shapes) = params::census(|vb| Vit::new(&config.vit, vb)).unwrap();
    let ours: Tensors = shapes.iter().map(|(name, shape)| (name.clone(), zeros(shape.dims()))).collect();
    torch_write::save(&space.path("vit.pt"), &[("model", &ours)]).unwrap();
    plan(&space, "q.toml").expect(0);
    // What is no file of weights at all is told as well.
    space.write("vit.pt", "not weights");
    let said = plan(&space, "q.toml").expect(2).stderr;
    assert!(said.contains("error: stage `encoder`: cannot read "), "{said}");
}

#[test]
fn headers_that_lie_about_sizes_fill_no_memory() {
    // A pickle may state any shape for a few bytes; safetensors are checked when they are opened.
    let space = Space::new(&encoder("w.safetensors", "preset = \"dinov2-vit-s\""));
    let header = json!({"patch_embed.proj.weight":
        {"dtype": "F16", "shape": [1u64 << 30, 1u64 << 30], "data_offsets": [0, 2]}});
    let header = header.to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0, 0]].concat();
    std::fs::write(space.path("w.safetensors"), bytes).unwrap();
    assert!(plan(&space, "p.toml").expect(2).stderr.contains("error: stage `encoder`: "));
}

#[test]
fn trainings_of_no_images_a_step_are_refused() {
    for kind in ["train-classifier", "train-encoder", "train-vae"] {
        let space = Space::new(&format!(
            "[stages.images]\nkind = \"images\"\nparams = {{ source = \"set\" }}\n\
             [stages.net]\nkind = \"{kind}\"\ninputs = {{ images = \"images\" }}\nparams = {{ batch = 0 }}\n"
        ));
        space.write("set/a/0.png", "");
        let said = plan(&space, "p.toml").expect(2).stderr;
        assert!(said.contains("`batch`") && said.contains("from 1 to 1000000"), "{kind}: {said}");
    }
}

/// A pipeline on top of a shipped one.
fn on(recipe: &str, more: &str) -> Space {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(recipe);
    Space::new(&format!("extends = \"{}\"\nname = \"p\"\n{more}", base.display()))
}

#[track_caller]
fn refused(space: &Space, first: &str, rest: &[&str]) {
    let said = plan(space, "p.toml").expect(2).stderr;
    assert!(said.starts_with(first), "{said}");
    rest.iter().for_each(|text| assert!(said.contains(text), "{text}: {said}"));
}

#[test]
fn a_class_token_needs_an_encoder_that_has_one() {
    let jepa = on("reg-xl.toml", "[stages.encoder]\nparams = { name = \"jepa-vit-h\" }\n");
    let hint =
        "hint: where the class token comes from: `class_token = true` of `features`, or an encoder that has one\n";
    refused(&jepa, "error: stage `train`: ", &["`class_token = 0.03` of `train`", "`name = \"jepa-vit-h\"`", hint]);
    let stored = on("repa-xl.toml", "[stages.train]\nparams = { class_token = 0.03 }\n");
    refused(&stored, "error: stage `train`: ", &["`class_token = 0.03` of `train`", hint]);
    let with = "[stages.features]\nparams = { class_token = true }\n[stages.train]\nparams = { class_token = 0.03 }\n";
    plan(&on("repa-xl.toml", &format!("{with}[stages.cknna]\nremove = true\n")), "p.toml").expect(0);
    let none = format!("{with}[stages.encoder]\nparams = {{ name = \"jepa-vit-h\" }}\n");
    let hint = "hint: the encoder has no class token: choose one that has, or leave out `class_token`\n";
    refused(&on("repa-xl.toml", &none), "error: stage `features`: ", &["`class_token = true` of `features`", hint]);
    let checked = "[stages.train]\nparams = { validate_every = 100 }\ninputs = { validation = \"latents\" }\n";
    refused(&on("reg-xl.toml", checked), "error: stage `train`: `validate_every` has no class tokens", &[]);
}

#[test]
fn attention_is_aligned_with_blocks_that_the_encoder_has() {
    let deep = on("haste-xl.toml", "[stages.train]\nparams = { attention_encoder_blocks = [9, 10, 11, 13] }\n");
    let hint = "hint: choose `attention_encoder_blocks` among those of the encoder\n";
    refused(&deep, "error: stage `train`: ", &["`attention_encoder_blocks = [9, 10, 11, 13]` of `train`", hint]);
    let stored = on("repa-xl.toml", "[stages.train]\nparams = { attention = 1.0 }\n");
    refused(&stored, "error: stage `train`: `attention` compares with the attention of an encoder, which stored", &[]);
    plan(&on("haste-xl.toml", ""), "p.toml").expect(0);
}

#[test]
fn a_network_with_a_class_token_is_not_measured_without() {
    let held = "[stages.held]\nkind = \"images\"\nparams = { source = \"val\" }\n\
                [stages.held-features]\nkind = \"features\"\ninputs = { images = \"held\", encoder = \"encoder\" }\n\
                [stages.held-latents]\nkind = \"latents\"\ninputs = { images = \"held\", vae = \"vae\" }\n";
    let cknna = "[stages.blocks]\nkind = \"cknna\"\n\
                 inputs = { sit = \"train\", latents = \"held-latents\", features = \"held-features\" }\n";
    let hint = "hint: this network needs the class tokens of an encoder beside the latents";
    let first = "error: stage `blocks`: ";
    refused(&on("reg-xl.toml", &format!("{held}{cknna}")), first, &["`class_token = 0.03` of `train`", hint]);
    let probe = "[stages.blocks]\nkind = \"probe\"\ninputs = { sit = \"train\", latents = \"latents\", \
                 heldout = \"held-latents\" }\n";
    refused(&on("reg-xl.toml", &format!("{held}{probe}")), first, &["`class_token = 0.03` of `train`", hint]);
    let with = "[stages.held-features.params]\nclass_token = true\n";
    plan(&on("reg-xl.toml", &format!("{held}{cknna}{with}")), "p.toml").expect(0);
    // The same of a network without one plans, but for the images that are missing.
    let plain = on("repa-xl.toml", &format!("{held}{cknna}"));
    let said = plan(&plain, "p.toml").expect(0).stdout;
    assert!(said.contains("blocks"), "{said}");
}

#[test]
fn a_guide_has_a_class_token_if_the_network_has() {
    let guide = "[stages.weak]\nkind = \"train\"\ninputs = { latents = \"latents\" }\n\
                 params = { alignment = \"none\", features = \"stored\" }\n\
                 [stages.sample]\ninputs = { guide = \"weak\" }\nparams = { cfg_scale = 2.0, guide_weights = \"ema\" }\n";
    let hint = "hint: both networks take the same latents, with a class token or without\n";
    refused(&on("reg-xl.toml", guide), "error: stage `sample`: ", &["`class_token = 0.03` of `train`", hint]);
}

/// A tar of two images, the second cut in its middle.
fn cut_tar(space: &Space, name: &str) {
    let mut tar = tar::Builder::new(vec![]);
    for class in ["a", "b"] {
        let (mut header, bytes) = (tar::Header::new_ustar(), [7; 700]);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        tar.append_data(&mut header, format!("{class}/0.png"), &bytes[..]).unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    std::fs::write(space.path(name), &bytes[..4 * 512 + 100]).unwrap();
}

/// What a listing finds is told by a plan, and by a run before anything starts; not of a stage that is
/// cached, whose files have been read.
#[test]
fn a_set_that_cannot_be_listed_is_refused_before_anything_runs() {
    let images = |more: &str| {
        format!("[stages.images]\nkind = \"images\"\nparams = {{ source = \"set\", resolution = 2{more} }}\n{TOUCH}")
    };
    let tar = Space::new(&images("").replace("\"set\"", "\"set.tar\""));
    cut_tar(&tar, "set.tar");
    let table = Space::new(&images(", labels = \"labels.csv\""));
    table.write("set/0.png", "");
    table.write("labels.csv", "name,label\n0.png,cat\n1.png,dog\n");
    let shards = Space::new(&images(""));
    std::fs::create_dir(shards.path("set")).unwrap();
    cut_tar(&shards, "set/0.tar");
    for (space, why) in [(tar, "the archive is truncated"), (table, "`1.png`"), (shards, "the archive is truncated")] {
        let said = plan(&space, "p.toml").expect(2).stderr;
        assert!(said.starts_with("error: stage `images`: ") && said.contains(" --> p.toml:3:"), "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(space.run(&[]).expect(2).stderr, said);
        assert!(!space.path("ran").exists(), "another stage was started");
        // Whoever wants all that can be had gets it.
        space.run(&["--keep-going"]).expect(1);
        assert!(space.path("ran").exists());
    }
}

#[test]
fn latents_that_do_not_go_with_their_statistics_are_refused() {
    let space = Space::new(
        "[stages.latents]\nkind = \"import-latents\"\nparams = { source = \"set\", normalization = \"channel\" }\n",
    );
    std::fs::create_dir(space.path("set")).unwrap();
    let of = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &CPU).unwrap();
    let labels = Tensor::zeros(2, DType::I64, &CPU).unwrap();
    let rows = Tensors::from([
        ("latents".into(), of(&[2, 8, 4, 4])),
        ("latents_flip".into(), of(&[2, 8, 4, 4])),
        ("labels".into(), labels),
    ]);
    params::save(&rows, &space.path("set/latents_rank00_shard000.safetensors")).unwrap();
    let said = plan(&space, "p.toml").expect(2).stderr;
    assert!(said.contains("`normalization` is \"channel\", but") && said.contains(" --> p.toml:3:"), "{said}");
    let stats = Tensors::from([("mean".into(), of(&[1, 4, 1, 1])), ("std".into(), of(&[1, 4, 1, 1]))]);
    torch_write::save(&space.path("set/latents_stats.pt"), &[("", &stats)]).unwrap();
    let said = plan(&space, "p.toml").expect(2).stderr;
    assert!(said.contains("latents_stats.pt"), "{said}");
}

/// Two sets of equal sizes and labels are not told apart by what is in them.
#[test]
fn features_of_other_images_than_those_of_the_latents_are_refused() {
    let other = |more: &str| {
        let set = "source = \"data/imagenet/train\", transform = \"center-crop-dhariwal\", resolution = 256";
        format!(
            "[stages.again]\nkind = \"images\"\nparams = {{ {set}{more} }}\n\
             [stages.features]\ninputs = {{ images = \"again\" }}\n"
        )
    };
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let here = |text: String| text.replace("data/", &format!("{}/data/", base.display()));
    plan(&on("repa-xl.toml", &here(other(""))), "p.toml").expect(0);
    let said = plan(&on("repa-xl.toml", &here(other(", limit = 30"))), "p.toml").expect(2).stderr;
    assert!(said.starts_with("error: stage `train`: `features.set` is "), "{said}");
    assert!(said.contains("make features and latents of one stage of images"), "{said}");
    let cknna = "[stages.cknna]\ninputs = { features = \"features\" }\n";
    refused(&on("repa-xl.toml", cknna), "error: stage `cknna`: `features.set` is ", &[]);
}

/// What is measured on the images of the training says so.
#[test]
fn a_measure_on_the_images_of_the_training_is_doubted() {
    let cknna = "[stages.cknna]\ninputs = { latents = \"latents\", features = \"features\" }\n";
    let doubts = |more: &str| plan(&on("repa-xl.toml", more), "p.toml").expect(0).stdout;
    let said = doubts(cknna);
    assert!(said.contains("stage `cknna`: `latents.set` and `sit.set` are the same"), "{said}");
    assert!(!doubts("").contains("are the same"));
    let validation = "[stages.train]\ninputs = { validation = \"latents\" }\nparams = { validate_every = 9 }\n";
    assert!(doubts(validation).contains("`validation.set` and `latents.set` are the same"));
}

#[test]
fn projectors_that_go_on_with_another_encoder_are_doubted() {
    let pair = "[stages.second]\nkind = \"weights\"\nparams = { as = \"encoder\", name = \"dinov2reg-vit-b\" }\n\
                [stages.more]\nkind = \"features\"\ninputs = { images = \"images\", encoder = \"second\" }\n\
                [stages.warmup]\ninputs = { features = [\"features\", \"more\"] }\n";
    let said = |order: &str| {
        let train = format!("[stages.train]\ninputs = {{ features = [{order}] }}\n");
        plan(&on("sit-xl.toml", &format!("{pair}{train}")), "p.toml").expect(0).stdout
    };
    assert!(!said("\"features\", \"more\"").contains("another encoder"));
    let swapped = said("\"more\", \"features\"");
    assert!(swapped.contains("a projector goes on with the features of another encoder"), "{swapped}");
}

/// A configuration of one's own tells a plan what the name of a published network does.
#[test]
fn networks_of_ones_own_are_known_by_their_configuration() {
    let own = |stage: &str| {
        format!("[stages.{stage}]\nparams = {{ name = false, source = \"w.safetensors\", config = \"c.json\" }}\n")
    };
    let mut config = serde_json::to_value(EncoderConfig::named("dinov2-vit-b").unwrap()).unwrap();
    let planned = |stage: &str, config: &serde_json::Value| {
        let space = on("sit-xl.toml", &own(stage));
        space.write("c.json", &config.to_string());
        plan(&space, "p.toml")
    };
    planned("encoder", &config).expect(0);
    config["pixels_per_token"] = json!(null);
    config["vit"]["image_size"] = json!(56);
    let said = planned("encoder", &config).expect(2).stderr;
    assert!(said.starts_with("error: stage `warmup`: `features.grid` is 4"), "{said}");
    let vae = |scale: f64| {
        let mut config = serde_json::to_value(VaeConfig::rgb(&[8, 8, 8, 8], 1, 4, 4, true)).unwrap();
        config["scaling_factor"] = json!(scale);
        planned("decoder", &config).expect(0).stdout
    };
    assert!(!vae(0.18215).contains("another scale") && vae(0.5).contains("another scale"), "{}", vae(0.5));
}

/// On a CPU an autoencoder is f32.
#[test]
fn an_autoencoder_in_half_precision_without_a_gpu_is_refused() {
    let latents = |more: &str| {
        Space::new(&format!(
            "name = \"h\"\n[stages.images]\nkind = \"images\"\nparams = {{ source = \"none\" }}\n\
             [stages.vae]\nkind = \"weights\"\nparams = {{ as = \"vae\", name = \"sd-vae-ft-mse\" }}\n\
             [stages.latents]\nkind = \"latents\"\ninputs = {{ images = \"images\", vae = \"vae\" }}\n{more}"
        ))
    };
    let bf16 = "params = { vae_precision = \"bf16\" }\n";
    let refused = |space: &Space, gpus: &str| {
        let said = Said::from(space.command(&["plan", "p.toml"]).env("ERW_GPUS", gpus).finish()).expect(2);
        let stderr = space.plain(&said.stderr);
        let text = "error: stage `latents`: `vae_precision` asks for an autoencoder in half precision, which only a GPU \
                    computes\n  --> p.toml:11:";
        assert!(stderr.starts_with(text), "{stderr}");
        assert!(stderr.contains("hint: set `resources = { gpus = 1 }`, or leave `vae_precision` out"), "{stderr}");
    };
    refused(&latents(bf16), "1");
    let on_a_gpu = latents(&format!("{bf16}resources = {{ gpus = 1 }}\n"));
    plan(&on_a_gpu, "p.toml").expect(0);
    refused(&on_a_gpu, "0");
    plan(&latents("params = { vae_precision = \"f32\" }\n"), "p.toml").expect(0);
}
