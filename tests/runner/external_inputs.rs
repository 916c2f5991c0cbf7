//! Inputs from outside a pipeline, a file as `KIND:PATH` or a stage of another pipeline as
//! `FILE.toml:STAGE`, and trainings that start from them.

use crate::support::golden;
use crate::support::space::Space;
use candle_core::{DType, Device, Tensor};
use erw::ml::data::packed::PackedWriter;
use erw::ml::models::projector::ProjectorKind;
use erw::ml::models::sit::{MlpKind, NormKind, SiT, SiTConfig};
use erw::ml::nn::params;
use erw::ml::nn::params::{ParamSet, Tensors};
use erw::ml::rng;
use erw::ml::rng::Purpose;
use serde_json::json;
use std::fs;

const CPU: Device = Device::Cpu;

/// Latents 4x4 of five classes, as an artifact of a program.
const LATENTS: &str = r#"
[stages.latents]
kind = "command"
run = "mkdir -p {outputs.o}; cp latents/* {outputs.o}"
outputs = { o = "latents" }
"#;

/// No steps: what comes out is what it started from.
fn train(init: &str, network: &str, more: &str) -> String {
    format!(
        "{LATENTS}\n[stages.train]\nkind = \"train\"\ninputs = {{ latents = \"latents\", init = \"{init}\" }}\nparams = \
         {{ model = \"custom\", {network}, alignment = \"none\", encoder_depth = 1, steps = 0, batch = 2{more} }}\n"
    )
}

/// The network of `checkpoint.pt`.
const SMALL: &str = "hidden = 16, blocks = 2, heads = 2, patch_size = 2";
/// The first block of SiT-S/4.
const FIRST: &str = "hidden = 384, blocks = 1, heads = 6, patch_size = 4";

fn space(files: &[(&str, &str)]) -> Space {
    let space = Space::of(files);
    let rows: Vec<u64> = (0..10).collect();
    let normal = |tag| rng::normal_rows(tag, Purpose::Probe, 0, &rows, &[4, 4, 4], &CPU).unwrap();
    let labels = Tensor::from_iter((0..10i64).map(|i| i % 5), &CPU).unwrap();
    let all = Tensors::from([("mean".into(), normal(1)), ("std".into(), normal(2)), ("labels".into(), labels)]);
    let mut writer = PackedWriter::create(&space.path("latents"), "latents", 10).unwrap();
    writer.push(&all).unwrap();
    let meta =
        json!({"channels": 4, "height": 4, "width": 4, "scaling_factor": 1.0, "classes": ["a", "b", "c", "d", "e"]});
    writer.finish(&meta).unwrap();
    space
}

fn load(space: &Space, name: &str) -> Tensors {
    params::load(&space.path(name), &CPU).unwrap()
}

fn same(a: &Tensor, b: &Tensor) -> bool {
    let numbers = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    a.dims() == b.dims() && numbers(a) == numbers(b)
}

/// The network that stage `train` left.
fn trained(space: &Space) -> Tensors {
    space.erw(&["export", "p.toml", "train", "out", "--force"]).expect(0);
    load(space, "out/model.safetensors")
}

/// A dictionary of the released checkpoint's twin.
fn twin(set: &str) -> Tensors {
    let all = params::load(&golden::dir().join("checkpoint_twin.safetensors"), &CPU).unwrap();
    let prefix = format!("{set}/");
    all.iter().filter_map(|(k, t)| Some((k.strip_prefix(&prefix)?.to_string(), t.clone()))).collect()
}

/// A pipeline that imports the golden checkpoint, whose sizes are nobody's preset.
fn import(space: &Space) {
    fs::copy(golden::dir().join("checkpoint.pt"), space.path("0300000.pt")).unwrap();
    let ema = twin("ema");
    let size = |name: &str, dim: usize| ema[name].dims()[dim];
    let config = json!({"input_size": 4, "in_channels": 4, "patch_size": 2, "hidden": 16, "depth": 2, "heads": 2,
        "mlp_ratio": size("blocks.0.mlp.fc1.weight", 0) as f64 / 16.0, "num_classes": 5, "class_dropout": 0.1,
        "z_dims": [size("projectors.0.4.weight", 0)], "projector_dim": size("projectors.0.0.weight", 0),
        "encoder_depth": 1, "rope": true, "qk_norm": false, "warmup_depth": null});
    space.write("config.json", &config.to_string());
    let params = "params = { as = \"sit\", source = \"0300000.pt\", config = \"config.json\" }";
    space.write("import.toml", &format!("[stages.released]\nkind = \"weights\"\n{params}\n"));
}

/// A checkpoint of the released layout and a published size: one warmed block of a SiT-S/4.
fn warmed(space: &Space, name: &str) -> Tensors {
    let config = SiTConfig {
        input_size: 4,
        in_channels: 4,
        patch_size: 4,
        hidden: 384,
        depth: 12,
        heads: 6,
        mlp_ratio: 4.0,
        num_classes: 5,
        class_dropout: 0.1,
        z_dims: vec![10],
        projector_dim: 8,
        encoder_depth: vec![1],
        mlp: MlpKind::Gelu,
        norm: NormKind::Layer,
        projector: ProjectorKind::Mlp,
        rope: true,
        qk_norm: false,
        class_token: None,
        self_alignment: None,
        latent_alignment: None,
        warmup_depth: Some(1),
    };
    let (params, vb) = ParamSet::init(7, DType::F32, &CPU);
    let model = SiT::new(&config, vb).unwrap();
    let mut all = params.tensors();
    all.extend(model.buffers());
    fs::create_dir_all(space.path("sit")).unwrap();
    for file in ["model.safetensors", "ema.safetensors"] {
        params::save(&all, &space.path("sit").join(file)).unwrap();
    }
    space.write("sit/config.json", &serde_json::to_string(&config).unwrap());
    space.erw(&["weights", "export", "sit", "--out", name]).expect(0);
    all
}

#[test]
fn training_starts_from_a_released_file() {
    let space = space(&[("runs/p.toml", "")]);
    let theirs = warmed(&space, "0100000.pt");
    let pipeline = train("weights:0100000.pt", FIRST, "");
    space.write("p.toml", &pipeline);
    let said = space.run(&[]).expect(0).stderr;
    let told = "train: from `init`: 17 tensors loaded (blocks.0, t_embedder, x_embedder, y_embedder)";
    assert!(said.contains(told), "{said}");
    assert!(said.contains("train: not in `init`: 4 tensors start fresh (final_layer)"), "{said}");
    assert!(said.contains("in `init` but not in this model: [\"projectors.0.0.bias\""), "{said}");
    let ours = trained(&space);
    let both: Vec<&String> = theirs.keys().filter(|k| ours.contains_key(*k)).collect();
    assert!(both.len() > 17 && both.iter().all(|k| same(&ours[*k], &theirs[*k])));

    // The key is that of the contents, and of a stage written out.
    fs::rename(space.path("0100000.pt"), space.path("warm.pt")).unwrap();
    space.write("p.toml", &train("weights:warm.pt", FIRST, ""));
    assert!(space.run(&[]).expect(0).stdout.contains("all 3 stages are cached"));
    let stage = "\n[stages.w]\nkind = \"weights\"\nparams = { as = \"sit\", source = \"warm.pt\" }\n";
    space.write("p.toml", &(train("w", FIRST, "") + stage));
    assert!(space.run(&[]).expect(0).stdout.contains("all 3 stages are cached"));
    space.write("p.toml", &train("weights:warm.pt", FIRST, ""));
    insta::assert_snapshot!("graph", space.erw(&["graph", "p.toml"]).expect(0).stdout);
    space.run(&["--lock"]).expect(0);
    space.run(&["--locked"]).expect(0);

    // A path starts at the pipeline.
    space.write("runs/p.toml", &train("weights:../warm.pt", FIRST, "").replace("cp latents", "cp ../latents"));
    let said = space.erw(&["run", "runs/p.toml", "--plain"]).expect(0).stdout;
    assert!(said.contains("weights:../warm.pt"), "{said}");
}

#[test]
fn training_starts_from_a_stage_of_another_pipeline() {
    let space = space(&[]);
    import(&space);
    for set in ["model", "ema"] {
        space.write("p.toml", &train("import.toml:released", SMALL, &format!(", init_weights = \"{set}\"")));
        space.run(&[]).expect(0);
        let ours = trained(&space);
        let theirs = twin(set);
        // Tables are made, not taken over.
        let both = theirs.keys().filter(|k| ours.contains_key(*k) && !k.contains("freqs") && *k != "pos_embed");
        let both: Vec<&String> = both.collect();
        assert!(both.len() == 31 && both.iter().all(|k| same(&ours[*k], &theirs[*k])), "{set}");
    }
    assert!(!same(&twin("ema")["blocks.0.mlp.fc1.weight"], &twin("model")["blocks.0.mlp.fc1.weight"]));
    // Whoever runs it first, it is run once.
    let said = space.erw(&["run", "import.toml", "--plain"]).expect(0).stdout;
    assert!(said.contains("released   cached"), "{said}");
    // A change there is a change here, though this file is the same.
    assert!(space.run(&[]).expect(0).stdout.contains("all 3 stages are cached"));
    let text = space.read("import.toml");
    space.write("import.toml", &text.replace("config =", "set = \"ema\", config ="));
    let plan = space.plan(&[]);
    assert!(plan.contains("import.toml:released") && !plan.contains("nothing to do"), "{plan}");
    let said = space.run(&[]).expect(0).stdout;
    assert!(!said.contains("all 3 stages are cached"), "{said}");
    // Another's output by name, and what it needs with it.
    space.write("q.toml", &train("import.toml:released.weights", SMALL, ""));
    space.write("p.toml", &train("q.toml:train.sit", SMALL, ""));
    let said = space.run(&[]).expect(0).stdout;
    for name in ["q.toml:import.toml:released", "q.toml:latents", "q.toml:train"] {
        assert!(said.contains(name), "{name}: {said}");
    }
}

#[test]
fn a_warmup_starts_from_imported_weights() {
    let space = space(&[]);
    let theirs = warmed(&space, "0100000.pt");
    let features = Tensors::from([("tokens".to_string(), Tensor::ones((10, 1, 10), DType::F32, &CPU).unwrap())]);
    let mut writer = PackedWriter::create(&space.path("features"), "features", 10).unwrap();
    writer.push(&features).unwrap();
    writer.finish(&json!({"tokens": 1, "dim": 10})).unwrap();
    let program = LATENTS.replace("latents", "features");
    space.write(
        "p.toml",
        &format!(
            "{LATENTS}{program}\n[stages.train]\nkind = \"warmup\"\ninputs = {{ latents = \"latents\", features = \
             \"features\", init = \"weights:0100000.pt\" }}\nparams = {{ model = \"SiT-S/4\", depth = 1, projector_dim = 8, \
             steps = 0, batch = 2 }}\n"
        ),
    );
    let said = space.run(&[]).expect(0).stderr;
    assert!(said.contains("from `init`: 23 tensors loaded ("), "{said}");
    let ours = trained(&space);
    assert!(theirs.iter().all(|(k, t)| same(t, &ours[k])));
}

#[test]
fn a_sweep_can_vary_the_initial_weights() {
    let space = space(&[]);
    import(&space);
    fs::copy(space.path("import.toml"), space.path("other.toml")).unwrap();
    let sweep = "[sweep]\n\"train.inputs.init\" = [\"import.toml:released\", \"other.toml:released\", false]\n";
    space.write("p.toml", &(train("import.toml:released", SMALL, "") + sweep));
    let said = space.erw(&["sweep", "p.toml", "--plain"]).expect(0).stdout;
    for name in ["import.toml:released.tensors", "other.toml:released.tensors", "init=false"] {
        assert!(said.contains(name), "{name}: {said}");
    }
}

#[test]
fn unusable_external_inputs_are_errors() {
    let space = space(&[]);
    import(&space);
    warmed(&space, "warm.pt");
    let plan = |init: &str| -> String {
        space.write("p.toml", &train(init, SMALL, ""));
        space.plain(&space.erw(&["plan", "p.toml"]).expect(2).stderr)
    };
    space.write("p.toml", &train("weights:0100000.pt", SMALL, ""));
    insta::assert_snapshot!("no_file", space.plain(&space.run(&[]).expect(2).stderr));
    insta::assert_snapshot!("no_path", plan("weights:"));
    insta::assert_snapshot!("no_kind", plan("wights:warm.pt"));
    insta::assert_snapshot!("wrong_kind", plan("images:pictures"));
    insta::assert_snapshot!("no_pipeline", plan("imports.toml:released"));
    insta::assert_snapshot!("no_stage", plan("import.toml:relaesed"));
    insta::assert_snapshot!("no_output", plan("import.toml:released.sit"));
    insta::assert_snapshot!("itself", plan("p.toml:train"));
    let run = |init: &str, network: &str| {
        space.write("p.toml", &train(init, network, ""));
        let said = space.run(&[]);
        assert!([1, 2].contains(&said.status), "{}", said.stderr);
        let said = space.plain(&said.stderr);
        let text = &said[said.find("error: ").unwrap()..];
        text.lines().filter(|l| !l.contains("log")).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!("another_architecture", run("weights:warm.pt", SMALL));
    insta::assert_snapshot!("nobodys_size", run("weights:0300000.pt", SMALL));
    params::save(
        &Tensors::from([("a".into(), Tensor::ones(3, DType::F32, &CPU).unwrap())]),
        &space.path("a.safetensors"),
    )
    .unwrap();
    insta::assert_snapshot!("no_sit", run("weights:a.safetensors", SMALL));
}
