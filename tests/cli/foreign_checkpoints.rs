//! Checkpoints of other trainers: averages under many names, prefixes of wrappers, models in
//! several files, networks with another time convention. The import reports what it takes and
//! refuses what is ambiguous.

use crate::cli::weights::checkpoint_config;
use crate::support::golden::Golden;
use crate::support::pickled::{self, Value, dict};
use crate::support::space::{Said, Space};
use candle_core::{DType, Device, Tensor};
use erw::ml::models::encoder::config::EncoderConfig;
use erw::ml::models::encoder::{LANDMARKS, adopt, fit};
use erw::ml::models::inception;
use erw::ml::models::sit::convention::turn;
use erw::ml::models::sit::{SiT, SiTConfig};
use erw::ml::models::vae;
use erw::ml::models::vae::VaeConfig;
use erw::ml::models::vit::VitConfig;
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use serde_json::json;
use std::fs;

const CPU: Device = Device::Cpu;

fn config() -> SiTConfig {
    SiTConfig { rope: false, ..checkpoint_config() }
}

/// Names and tensors of a network in the order of its modules, every number the same.
type Dict = Vec<(String, Tensor)>;

fn filled(value: f32) -> Dict {
    let (sit, shapes) = params::census(|vb| SiT::new(&config(), vb)).unwrap();
    let mut shapes: Vec<_> =
        shapes.into_iter().chain(sit.buffers().into_iter().map(|(n, t)| (n, t.shape().clone()))).collect();
    // As PyTorch registers them; inside of a block and a layer weights come first.
    let place = |name: &str| {
        let parts = ["pos_embed", "x_embedder", "t_embedder", "y_embedder", "blocks", "final_layer"];
        let inner = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN", "linear", "mlp.0", "mlp.2"];
        let of = |list: &[&str]| list.iter().position(|part| name.contains(part)).unwrap_or(0);
        let block: usize = name.split('.').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        (parts.iter().position(|part| name.starts_with(part)).unwrap(), block, of(&inner), name.ends_with("bias"))
    };
    shapes.sort_by_key(|(name, _)| place(name));
    shapes.into_iter().map(|(name, shape)| (name, Tensor::full(value, shape, &CPU).unwrap())).collect()
}

fn named(prefix: &str, of: &Dict) -> Vec<(String, Value)> {
    of.iter().map(|(name, t)| (format!("{prefix}{name}"), Value::Tensor(t.clone()))).collect()
}

fn plain(of: &Dict) -> Value {
    dict(named("", of))
}

fn list(of: &Dict) -> Value {
    Value::List(of.iter().map(|(_, t)| Value::Tensor(t.clone())).collect())
}

fn count(n: i64) -> Value {
    Value::Tensor(Tensor::new(n, &CPU).unwrap())
}

fn undotted(prefix: &str, of: &Dict) -> Vec<(String, Value)> {
    let trained = of.iter().filter(|(name, _)| name != "pos_embed");
    trained.map(|(name, t)| (format!("{prefix}{}", name.replace('.', "")), Value::Tensor(t.clone()))).collect()
}

struct Import {
    space: Space,
}

impl Import {
    fn new() -> Self {
        Self { space: Space::of(&[("config.json", &serde_json::to_string(&config()).unwrap())]) }
    }

    fn pickled(&self, value: &Value, more: &[&str]) -> Said {
        pickled::save(&self.space.path("f.pt"), value);
        self.of("f.pt", more)
    }

    fn of(&self, file: &str, more: &[&str]) -> Said {
        let _ = fs::remove_dir_all(self.space.path("out"));
        let args = ["weights", "import", file, "--as", "sit", "--config", "config.json", "--out", "out"];
        self.space.erw(&[&args[..], more].concat())
    }

    /// The number that fills a file of the artifact.
    fn holds(&self, set: &str) -> f32 {
        let tensors = params::load(&self.space.path(&format!("out/{set}.safetensors")), &CPU).unwrap();
        assert_eq!(tensors.iter().filter(|(name, _)| *name != "pos_embed").count(), filled(0.0).len() - 1);
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let first = values(&tensors["x_embedder.proj.bias"])[0];
        for (name, t) in &tensors {
            // A table that is not averaged comes with the model.
            assert!(values(t).iter().all(|v| *v == first || name == "pos_embed"), "{name}");
        }
        first
    }
}

#[test]
fn averages_are_found_under_the_names_of_all_trainers() {
    let import = Import::new();
    let (model, ema) = (filled(1.0), filled(2.0));
    let trained: Dict = ema.iter().filter(|(name, _)| name != "pos_embed").cloned().collect();
    let beside = |name: &str, value: Value| dict([("model", plain(&model)), (name, value)]);
    let in_one = |parts: [Vec<(String, Value)>; 2]| dict(parts.into_iter().flatten());
    let lit =
        [named("model.net.", &model), undotted("model_ema.net", &ema), vec![("model_ema.decay".into(), count(1))]];
    let lit_of_part = [named("model.diffusion_model.", &model), undotted("model_ema.diffusion_model", &ema), vec![]];
    let files: Vec<(&str, Value)> = vec![
        ("model_ema", beside("model_ema", plain(&ema))),
        ("ema_model", beside("ema_model", plain(&ema))),
        ("ema_state_dict", beside("ema_state_dict", plain(&ema))),
        ("modelEMA", beside("modelEMA", plain(&ema))),
        ("ema_0.9999", beside("ema_0.9999", plain(&ema))),
        ("averaged_model", beside("averaged_model", dict(named("module.", &ema)))),
        ("timm", dict([("state_dict", plain(&model)), ("state_dict_ema", plain(&ema))])),
        ("ema.module", beside("ema", dict([("module", plain(&ema)), ("decay", Value::Number(1))]))),
        ("ema.shadow", beside("ema", dict([("shadow", plain(&ema)), ("num_updates", Value::Number(9))]))),
        ("ema.shadow, trained alone", beside("ema", dict([("shadow", plain(&trained))]))),
        ("diffusers", beside("ema", dict([("decay", Value::Number(1)), ("shadow_params", list(&ema))]))),
        (
            "torch_ema",
            beside("ema", dict([("shadow_params", list(&trained)), ("collected_params", Value::List(vec![]))])),
        ),
        (
            "NeMo",
            dict([
                ("state_dict", dict(named("model.", &model))),
                ("optimizer_states", Value::List(vec![dict([("ema", list(&ema))])])),
            ]),
        ),
        (
            "NeMo's callback",
            dict([("state_dict", plain(&model)), ("callbacks", dict([("EMA", dict([("ema_weights", list(&ema))]))]))]),
        ),
        ("one list", beside("emas", Value::List(vec![plain(&ema)]))),
        ("Lightning", dict([("state_dict", in_one([named("model.", &model), named("ema.", &ema)]))])),
        (
            "Lightning's ema_model",
            dict([("state_dict", in_one([named("net.", &model), named("ema_model.module.", &ema)]))]),
        ),
        ("LitEma", dict([("state_dict", dict(lit.into_iter().flatten()))])),
        ("LitEma of a part", dict([("state_dict", dict(lit_of_part.into_iter().flatten()))])),
        (
            "lucidrains",
            beside(
                "ema",
                dict(
                    [
                        named("online_model.", &model),
                        named("ema_model.", &ema),
                        vec![("initted".into(), count(1)), ("step".into(), count(7))],
                    ]
                    .into_iter()
                    .flatten(),
                ),
            ),
        ),
        (
            "AveragedModel",
            beside("swa", dict(named("module.", &ema).into_iter().chain([("n_averaged".into(), count(3))]))),
        ),
        (
            "AveragedModel under any name",
            dict([
                ("net", plain(&model)),
                ("net2", dict(named("module.", &ema).into_iter().chain([("n_averaged".into(), count(3))]))),
            ]),
        ),
        (
            "WeightAveraging",
            dict([
                ("state_dict", dict(named("model.", &ema))),
                ("current_model_state", dict(named("model.", &model))),
                ("averaging_state", dict([("n_averaged", count(3))])),
            ]),
        ),
        ("composer", dict([("state", dict([("model", dict(named("module.", &model))), ("ema", plain(&ema))]))])),
    ];
    for (what, value) in files {
        let said = import.pickled(&value, &[]);
        assert_eq!(said.status, 0, "{what}: {}{}", said.stdout, said.stderr);
        assert_eq!((import.holds("ema"), import.holds("model")), (2.0, 1.0), "{what}: {}", said.stdout);
        assert!(
            said.stdout.contains("average: ema.safetensors from ") && said.stdout.contains(" (averaged, "),
            "{what}: {}",
            said.stdout
        );
    }
}

#[test]
fn ambiguous_sets_are_listed_and_can_be_chosen() {
    let import = Import::new();
    let (model, ema, other) = (filled(1.0), filled(2.0), filled(3.0));
    let beside = |more: Vec<(&str, Value)>| dict([("model", plain(&model))].into_iter().chain(more));
    let mut backwards = ema.clone();
    backwards.reverse();
    let mut sorted = model.clone();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let shadow = |list| vec![("ema", dict([("shadow_params", list)]))];
    let underscored = ema.iter().map(|(name, t)| (format!("ema_{}", name.replace('.', "_")), Value::Tensor(t.clone())));
    for (value, words, set, holds) in [
        (
            beside(vec![("ema_params1", plain(&ema)), ("ema_params2", plain(&other))]),
            "several averages",
            "ema_params2",
            3.0,
        ),
        (
            beside(vec![("ema", dict([("emas", Value::List(vec![plain(&ema), plain(&other)]))]))]),
            "several averages",
            "ema.emas.0",
            2.0,
        ),
        (beside(vec![("slow", plain(&ema))]), "do not say which is the average", "slow", 2.0),
        (beside(vec![("ema", plain(&ema)), ("best", plain(&other))]), "do not say which is the average", "best", 3.0),
        (beside(vec![("net", plain(&ema))]), "holds several models of the network", "net", 2.0),
        (beside(shadow(list(&backwards))), "cannot be read as a copy of this network", "model", 1.0),
        (
            dict([("model", plain(&sorted)), ("ema", dict([("shadow_params", list(&ema))]))]),
            "cannot be read",
            "model",
            1.0,
        ),
        // mmcv's hook, which swaps them before it saves: the other names are the average.
        (
            dict([("state_dict", dict(named("", &model).into_iter().chain(underscored)))]),
            "cannot be read",
            "state_dict",
            1.0,
        ),
    ] {
        let said = import.pickled(&value, &[]).expect(2);
        assert!(said.stderr.contains(words) && said.stderr.contains("it holds `"), "{words}: {}", said.stderr);
        assert!(said.stderr.contains("hint: name the one to use for both"), "{}", said.stderr);
        assert!(!import.space.path("out").exists());
        if set == "state_dict" {
            // What is taken is named, but the other half of the dictionary has no place.
            continue;
        }
        let said = import.pickled(&value, &["--set", set]).expect(0);
        assert_eq!((import.holds("ema"), import.holds("model")), (holds, holds), "{set}: {}", said.stdout);
        assert!(said.stdout.contains(&format!("`{set}` is used for both")), "{}", said.stdout);
    }
    // A list alone has no names.
    let said = import.pickled(&dict([("ema", dict([("shadow_params", list(&ema))]))]), &[]).expect(2);
    assert!(said.stderr.contains("`ema.shadow_params`"), "{}", said.stderr);
}

/// An average of some of the tensors is no copy, and to take the model in its place must be chosen.
#[test]
fn an_incomplete_average_is_refused_with_what_it_lacks() {
    let import = Import::new();
    let (model, ema) = (filled(1.0), filled(2.0));
    let part: Dict = ema.iter().filter(|(name, _)| name.starts_with("t_embedder.")).cloned().collect();
    let tensors = model.len() - 1;
    let lacks = format!(
        "(averaged, only {} of the {tensors} trained tensors of `model`: it lacks `x_embedder.proj.weight`, \
         `x_embedder.proj.bias`, `y_embedder.embedding_table.weight` and {} more)",
        part.len(),
        tensors - part.len() - 3
    );
    let in_one = dict(named("model.", &model).into_iter().chain(named("ema.module.", &part)));
    for (name, value) in [
        ("ema", dict([("model", plain(&model)), ("ema", plain(&part))])),
        ("model_ema", dict([("model", plain(&model)), ("model_ema", dict(named("module.", &part)))])),
        ("ema", in_one),
    ] {
        let said = import.pickled(&value, &[]).expect(2).stderr;
        assert!(said.contains("`f.pt` holds an average that cannot be read as a copy of this network"), "{said}");
        assert!(said.replace("\n       ", " ").contains(&format!("`{name}` {lacks}")), "{said}");
        assert!(said.contains("`set = \"model\"`") && !import.space.path("out").exists(), "{said}");
        import.pickled(&value, &["--set", "model"]).expect(0);
        assert_eq!((import.holds("ema"), import.holds("model")), (1.0, 1.0));
    }
    // One that is found and lacks others is named.
    let most: Dict = ema.iter().filter(|(name, _)| name != "final_layer.linear.bias").cloned().collect();
    let said = import.pickled(&dict([("model", plain(&model)), ("ema", plain(&most))]), &[]).expect(1).stderr;
    assert!(said.contains("`ema` in `f.pt` does not fit") && said.contains("final_layer.linear.bias"), "{said}");
    // The plan knows, too.
    import.pickled(&dict([("model", plain(&model)), ("ema", plain(&part))]), &[]).expect(2);
    import.space.write("p.toml", &stage("source = \"f.pt\""));
    let said = import.space.erw(&["plan", "p.toml"]).expect(2).stderr;
    assert!(said.contains("holds an average that cannot be read"), "{said}");
    // Numbers of other shapes under the names of the model are no average of it.
    let norms: Dict =
        part.iter().map(|(name, _)| (name.clone(), Tensor::zeros(1, DType::F32, &CPU).unwrap())).collect();
    let value = dict([("model", plain(&model)), ("ema_of_norms", plain(&norms))]);
    assert!(import.pickled(&value, &[]).expect(0).stdout.contains("NO AVERAGE in the file"));
}

#[test]
fn a_set_of_a_file_without_sets_is_refused_with_what_to_do() {
    let import = Import::new();
    let said = import.pickled(&plain(&filled(1.0)), &["--set", "ema"]).expect(2).stderr;
    let text =
        "error: the file has no `set` called `ema`\nhint: it holds one dictionary without a name: leave `set` out\n";
    assert_eq!(said, text);
}

/// Tables of rotary positions are known by their names: the plan need not wait for the run.
#[test]
fn tables_of_an_option_that_is_off_are_refused_by_the_plan() {
    let import = Import::new();
    let table = |name: &str| (format!("feat_rope.{name}"), Tensor::zeros((4, 8), DType::F32, &CPU).unwrap());
    let all: Tensors = filled(1.0).into_iter().chain(["freqs_cos", "freqs_sin"].map(table)).collect();
    params::save(&all, &import.space.path("f.safetensors")).unwrap();
    import.space.write("p.toml", &stage("source = \"f.safetensors\""));
    let said = import.space.erw(&["plan", "p.toml"]).expect(2).stderr;
    assert!(said.contains("feat_rope.freqs_cos"), "{said}");
}

#[test]
fn a_file_without_an_average_is_reported() {
    let import = Import::new();
    let model = filled(1.0);
    let told = |value: Value, words: &str| {
        let said = import.pickled(&value, &[]).expect(0);
        assert!(said.stdout.contains(words), "{words}: {}", said.stdout);
        assert_eq!((import.holds("ema"), import.holds("model")), (1.0, 1.0));
    };
    told(
        dict([("model", plain(&model))]),
        "NO AVERAGE in the file: ema.safetensors holds `model`, which by its name is not averaged",
    );
    told(
        dict(named("net.", &model)),
        "NO AVERAGE in the file: ema.safetensors holds `net`, which by its name is not averaged",
    );
    told(plain(&model), "average: the file does not say whether the top level is averaged");
    told(dict([("ema", plain(&model))]), "average: `ema` is the only copy");
    // The decay of an average and what an optimizer keeps are no networks.
    told(
        dict([
            ("model", plain(&model)),
            ("ema_decay", Value::Number(1)),
            ("opt", dict([("state", dict([("0", dict([("exp_avg", Value::Tensor(model[0].1.clone()))]))]))])),
        ]),
        "NO AVERAGE in the file",
    );
    fs::rename(import.space.path("f.pt"), import.space.path("x.pt")).unwrap();
    let all: Tensors = model.into_iter().collect();
    params::save(&all, &import.space.path("ema_0.9999_100000.safetensors")).unwrap();
    let said = import.of("ema_0.9999_100000.safetensors", &[]).expect(0);
    assert!(said.stdout.contains("by the name of the file"), "{}", said.stdout);
}

/// Puts wrappers into a name: before it, and behind each of its first parts.
fn wrapped(name: &str, before: &str, inside: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        [first, second, rest @ ..] if !rest.is_empty() => {
            format!("{before}{first}.{second}.{inside}{}", rest.join("."))
        }
        _ => format!("{before}{name}"),
    }
}

const WRAPPINGS: [(&str, &str); 9] = [
    ("module.", ""),
    ("module._orig_mod.", ""),
    ("_orig_mod.module.", "_orig_mod."),
    ("_fsdp_wrapped_module.", "_fsdp_wrapped_module._checkpoint_wrapped_module."),
    ("_forward_module.model.", "_checkpoint_wrapped_module."),
    ("state.model.", "_orig_mod."),
    ("net.", ""),
    ("pipeline.module.inner.anything.", ""),
    ("model.diffusion_model._orig_mod.", "_checkpoint_wrapped_module.module."),
];

#[test]
fn prefixes_of_wrappers_are_removed_for_every_network() {
    let import = Import::new();
    let model = filled(1.0);
    for (before, inside) in WRAPPINGS {
        let file = model.iter().map(|(name, t)| (wrapped(name, before, inside), t.clone())).collect();
        params::save(&file, &import.space.path("f.safetensors")).unwrap();
        let said = import.of("f.safetensors", &[]).expect(0);
        assert_eq!(import.holds("ema"), 1.0, "{}", said.stdout);
        assert!(said.stdout.contains("0 missing, 0 unexpected"));
    }
    let rename = |tensors: &Tensors, (before, inside): (&str, &str)| -> Tensors {
        tensors.iter().map(|(name, t)| (wrapped(name, before, inside), t.clone())).collect()
    };
    let tensors = Golden::open("vae").group("w");
    let config = VaeConfig::rgb(&[8, 16, 24, 24], 2, 4, 4, true);
    for wrapping in WRAPPINGS.into_iter().chain([("first_stage_model.", ""), ("autoencoder.module.", "")]) {
        let adopted = vae::adopt(&config, rename(&tensors, wrapping)).unwrap();
        assert!(adopted.tensors.keys().eq(tensors.keys()), "{wrapping:?}");
    }
    let names = [
        "Conv2d_1a_3x3.conv.weight",
        "Mixed_5b.branch1x1.bn.running_mean",
        "Mixed_7c.branch_pool.conv.weight",
        "fc.bias",
    ];
    let tensors: Tensors = names.map(|name| (name.into(), Tensor::zeros(1, DType::F32, &CPU).unwrap())).into();
    for wrapping in WRAPPINGS {
        let (adopted, plain) =
            (inception::adopt(rename(&tensors, wrapping)).unwrap(), inception::adopt(tensors.clone()).unwrap());
        assert!(adopted.tensors.keys().eq(plain.tensors.keys()) && !plain.tensors.is_empty(), "{wrapping:?}");
    }
    let (config, tensors) = dinov2();
    for wrapping in WRAPPINGS {
        let adopted = adopt(&config, rename(&tensors, wrapping)).unwrap();
        assert!(fit(&config, adopted.tensors).unwrap().is_exact(), "{wrapping:?}");
    }
    // One name twice, once it is plain.
    let mut twice: Tensors = model.into_iter().collect();
    twice.insert("module.pos_embed".into(), twice["pos_embed"].clone());
    params::save(&twice, &import.space.path("f.safetensors")).unwrap();
    let said = import.of("f.safetensors", &[]).expect(1);
    assert!(
        said.stderr.contains("two tensors of the file map to pos_embed: module.pos_embed and pos_embed"),
        "{}",
        said.stderr
    );
}

fn dinov2() -> (EncoderConfig, Tensors) {
    let vit = VitConfig { layer_scale: true, ..VitConfig::new(56, 14, 48, 2, 3) };
    (EncoderConfig::fixed(vit, [0.5; 3], [0.5; 3]), Golden::open("dinov2").group("w"))
}

/// Self-distillation keeps two networks; published features are the teacher's, and of contrastive
/// training the first's.
#[test]
fn training_checkpoints_of_encoders_are_read() {
    let (config, tensors) = dinov2();
    let zeros: Tensors = tensors.iter().map(|(name, t)| (name.clone(), t.zeros_like().unwrap())).collect();
    let under =
        |prefix: &str, of: &Tensors| of.iter().map(|(k, t)| (format!("{prefix}{k}"), t.clone())).collect::<Tensors>();
    let chunked = |of: &Tensors| -> Tensors {
        let name = |k: &str| match k.strip_prefix("blocks.") {
            Some(rest) => format!("blocks.{}.{rest}", rest.split('.').next().unwrap().parse::<usize>().unwrap() / 7),
            None => k.to_string(),
        };
        of.iter().map(|(k, t)| (name(k), t.clone())).collect()
    };
    let head = |prefix: &str| -> Tensors {
        ["dino_head.mlp.0.weight", "ibot_head.last_layer.weight"]
            .map(|k| (format!("{prefix}{k}"), Tensor::zeros(3, DType::F32, &CPU).unwrap()))
            .into()
    };
    for (what, parts) in [
        ("chunked", vec![chunked(&tensors)]),
        ("chunked and wrapped", vec![under("module.backbone.", &chunked(&tensors))]),
        (
            "teacher",
            vec![
                under("teacher.backbone.", &chunked(&tensors)),
                under("student.backbone.", &chunked(&zeros)),
                head("teacher."),
                head("student."),
            ],
        ),
        (
            "DINO",
            vec![
                under("teacher.module.backbone.", &tensors),
                under("student.module.backbone.", &zeros),
                head("teacher.module."),
            ],
        ),
        ("heads inside", vec![tensors.clone(), head("")]),
        (
            "a linear head",
            vec![
                under("backbone.", &tensors),
                [("linear_head.weight".to_string(), tensors["cls_token"].clone())].into(),
            ],
        ),
        ("MoCo", vec![under("module.base_encoder.", &tensors), under("module.momentum_encoder.", &zeros)]),
        ("I-JEPA", vec![under("encoder.module.", &tensors), under("target_encoder.module.", &zeros)]),
        ("timm", vec![under("state_dict_ema.", &tensors), under("state_dict.", &zeros)]),
        (
            "open_clip",
            vec![
                under("visual.trunk.", &tensors),
                [("text.token_embedding.weight".to_string(), tensors["cls_token"].clone())].into(),
            ],
        ),
    ] {
        let adopted = adopt(&config, parts.into_iter().flatten().collect()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(
            values(&adopted.tensors["blocks.1.attn.qkv.weight"]),
            values(&tensors["blocks.1.attn.qkv.weight"]),
            "{what}"
        );
        assert!(fit(&config, adopted.tensors).unwrap().is_exact(), "{what}");
    }
    let both: Tensors = under("a.", &tensors).into_iter().chain(under("b.", &tensors)).collect();
    let error = adopt(&config, both).unwrap_err().to_string();
    assert!(error.contains("several times: a, b"), "{error}");
    assert!(LANDMARKS.contains(&"patch_embed.proj.weight"));
}

/// A model in two files with an index, under `m/`.
fn shards(import: &Import) -> serde_json::Value {
    fs::create_dir_all(import.space.path("m")).unwrap();
    let all = filled(1.0);
    let mut map = serde_json::Map::new();
    for (i, part) in all.chunks(all.len() / 2 + 1).enumerate() {
        let name = format!("model-0000{}-of-00002.safetensors", i + 1);
        params::save(&part.iter().cloned().collect(), &import.space.path(&format!("m/{name}"))).unwrap();
        map.extend(part.iter().map(|(k, _)| (k.clone(), json!(name))));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    import.space.write("m/model.safetensors.index.json", &index.to_string());
    import.space.write("m/config.json", "{}");
    index
}

#[test]
fn a_model_in_several_files_is_read_by_any_of_them() {
    let import = Import::new();
    shards(&import);
    for file in ["m", "m/model.safetensors.index.json", "m/model-00002-of-00002.safetensors"] {
        let said = import.of(file, &[]).expect(0);
        assert!(said.stdout.contains("a model in 2 safetensors files"), "{}", said.stdout);
        assert_eq!(import.holds("ema"), 1.0);
    }
    fs::remove_file(import.space.path("m/model.safetensors.index.json")).unwrap();
    for file in ["m", "m/model-00001-of-00002.safetensors"] {
        import.of(file, &[]).expect(0);
    }
    // PyTorch's.
    fs::create_dir(import.space.path("b")).unwrap();
    let all = filled(1.0);
    let mut map = serde_json::Map::new();
    for (i, part) in all.chunks(all.len() / 3 + 1).enumerate() {
        let name = format!("pytorch_model-0000{}-of-00003.bin", i + 1);
        pickled::save(&import.space.path(&format!("b/{name}")), &plain(&part.to_vec()));
        map.extend(part.iter().map(|(k, _)| (k.clone(), json!(name))));
    }
    import.space.write("b/pytorch_model.bin.index.json", &json!({"weight_map": map}).to_string());
    let said = import.of("b", &[]).expect(0);
    assert!(said.stdout.contains("a model in 3 PyTorch checkpoints"), "{}", said.stdout);
    // One file in a folder is the model; two are not.
    fs::create_dir(import.space.path("one")).unwrap();
    params::save(&filled(1.0).into_iter().collect(), &import.space.path("one/a.safetensors")).unwrap();
    import.of("one", &[]).expect(0);
    fs::copy(import.space.path("one/a.safetensors"), import.space.path("one/b.safetensors")).unwrap();
    let said = import.of("one", &[]).expect(1);
    assert!(said.stderr.contains("several models: `a.safetensors`, `b.safetensors`; name one"), "{}", said.stderr);
    fs::create_dir(import.space.path("none")).unwrap();
    assert!(import.of("none", &[]).expect(1).stderr.contains("a folder without weights files"));
}

#[test]
fn missing_or_wrong_shards_are_named_before_reading() {
    let import = Import::new();
    let index = shards(&import);
    let refused = |file: &str, words: &[&str]| {
        let said = import.of(file, &[]).expect(1);
        for word in words {
            assert!(said.stderr.contains(word), "{file}: {word}: {}", said.stderr);
        }
    };
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut index = index.clone();
        change(&mut index);
        import.space.write("m/model.safetensors.index.json", &index.to_string());
    };
    with(&|index| index["weight_map"]["pos_embed"] = json!("model-00003-of-00002.safetensors"));
    refused("m", &["1 of the 3 files of the model is missing: `model-00003-of-00002.safetensors`"]);
    with(&|index| index["weight_map"]["no_such"] = json!("model-00001-of-00002.safetensors"));
    refused("m", &["says that tensor `no_such` is in `model-00001-of-00002.safetensors`, but it is not"]);
    for bad in ["../f.safetensors", "/etc/passwd", "", "a/../../b", "..\\\\x"] {
        with(&|index| index["weight_map"]["pos_embed"] = json!(bad));
        refused("m", &["says that tensor `pos_embed` is in", "which is not a file beside it"]);
    }
    with(&|index| index["weight_map"] = json!({}));
    refused("m", &["is a JSON index without tensors"]);
    with(&|index| index["weight_map"] = json!([1]));
    refused("m", &["is not a valid index of a model in several files"]);
    import.space.write("m/model.safetensors.index.json", "{\"weight_map\": {\"a\": \"x\", \"a\": \"y\"}}");
    refused("m", &["holds `a` twice"]);
    fs::remove_file(import.space.path("m/model.safetensors.index.json")).unwrap();
    // A tensor in two files.
    let second = import.space.path("m/model-00002-of-00002.safetensors");
    let whole = params::load(&second, &CPU).unwrap();
    let mut more = whole.clone();
    more.insert("pos_embed".into(), Tensor::zeros(1, DType::F32, &CPU).unwrap());
    params::save(&more, &second).unwrap();
    refused(
        "m",
        &["tensor `pos_embed` is both in `model-00001-of-00002.safetensors` and in `model-00002-of-00002.safetensors`"],
    );
    fs::write(&second, &fs::read(&second).unwrap()[..100]).unwrap();
    refused("m", &["`model-00002-of-00002.safetensors`: a truncated safetensors file"]);
    fs::remove_file(&second).unwrap();
    for file in ["m", "m/model-00001-of-00002.safetensors"] {
        refused(file, &["1 of the 2 files of the model is missing: `model-00002-of-00002.safetensors`"]);
    }
}

fn stage(params: &str) -> String {
    format!("[stages.w]\nkind = \"weights\"\nparams = {{ as = \"sit\", config = \"config.json\", {params} }}\n")
}

/// A key must hold the contents of all files, so a stage names their folder.
#[test]
fn a_stage_takes_the_folder_of_a_model_in_several_files() {
    let import = Import::new();
    let space = &import.space;
    shards(&import);
    for part in ["m/model.safetensors.index.json", "m/model-00001-of-00002.safetensors"] {
        space.write("p.toml", &stage(&format!("source = \"{part}\"")));
        let said = space.erw(&["plan", "p.toml"]).expect(2);
        assert!(
            said.stderr.contains("is one file of a model in several files")
                && said.stderr.contains("name their folder"),
            "{}",
            said.stderr
        );
    }
    // Under a name that does not show it.
    fs::copy(space.path("m/model.safetensors.index.json"), space.path("m/x.json")).unwrap();
    space.write("p.toml", &stage("source = \"m/x.json\""));
    assert!(space.run(&[]).expect(2).stderr.contains("name their folder"));
    fs::remove_file(space.path("m/x.json")).unwrap();

    space.write("p.toml", &stage("source = \"m\""));
    let said = space.run(&[]).expect(0);
    assert!(said.stderr.contains("a model in 2 safetensors files"), "{}", said.stderr);
    assert!(space.plan(&[]).contains("cached"));
    let second = space.path("m/model-00002-of-00002.safetensors");
    let twice: Tensors =
        params::load(&second, &CPU).unwrap().into_iter().map(|(k, t)| (k, (t * 2.0).unwrap())).collect();
    params::save(&twice, &second).unwrap();
    assert!(!space.plan(&[]).contains("the stage is cached"), "{}", space.plan(&[]));
    space.write("p.toml", &stage(&format!("source = \"m\", sha256 = \"{}\"", "0".repeat(64))));
    assert!(space.run(&[]).expect(1).stderr.contains("`sha256` needs a single file"));
}

#[test]
fn a_stage_logs_which_tensors_it_took() {
    let import = Import::new();
    let space = &import.space;
    pickled::save(&space.path("f.pt"), &dict([("model", plain(&filled(1.0))), ("model_ema", plain(&filled(2.0)))]));
    space.write("p.toml", &stage("source = \"f.pt\""));
    let said = space.run(&[]).expect(0).stderr;
    for words in [
        "`f.pt` holds `model` (32 tensors), `model_ema` (averaged, 32 tensors)",
        "average: ema.safetensors from `model_ema`, model.safetensors from `model`",
        "time: that of REPA, where t = 1 is noise (assumed",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    space.write("p.toml", &stage("source = \"f.pt\", convention = \"sit\""));
    assert!(space.run(&[]).expect(0).stderr.contains("time: that of the original SiT"));
    space.write("p.toml", &stage("source = \"f.pt\", convention = \"dit\""));
    assert!(space.erw(&["plan", "p.toml"]).expect(2).stderr.contains("`repa`"));
    space.write("p.toml", "[stages.w]\nkind = \"weights\"\nparams = { as = \"vae\", preset = \"sd-vae\", source = \"f.pt\", convention = \"sit\" }\n");
    assert!(space.erw(&["plan", "p.toml"]).expect(2).stderr.contains("`convention` applies to `as = \"sit\"` only"));
}

#[test]
fn unreadable_entries_matter_only_if_they_are_needed() {
    let import = Import::new();
    let model = filled(1.0);
    let with = |more: Vec<(String, Value)>| dict(named("", &model).into_iter().chain(more));
    let more = vec![
        ("freqs_cis".into(), Value::Complex(4)),
        ("steps".into(), count(3)),
        ("mask".into(), Value::Tensor(Tensor::zeros((2, 2), DType::I64, &CPU).unwrap())),
        ("decay".into(), Value::Tensor(Tensor::new(0.5f32, &CPU).unwrap())),
    ];
    let said = import.pickled(&with(more), &[]).expect(0);
    assert!(
        said.stdout.contains("left out  freqs_cis: is of `torch.ComplexFloatStorage`, which is not supported"),
        "{}",
        said.stdout
    );
    assert!(said.stdout.contains("3 dropped") && said.stdout.contains("dropped  mask"), "{}", said.stdout);
    assert_eq!(import.holds("ema"), 1.0);
    // A number more that could be a weight is none that may be passed by.
    let said = import.pickled(&with(vec![("cls_token".into(), Value::Tensor(model[0].1.clone()))]), &[]).expect(1);
    assert!(said.stderr.contains("1 not in the network: cls_token"), "{}", said.stderr);
    // One that is wanted.
    let mut short = model.clone();
    let (name, _) = short.remove(5);
    let said =
        import.pickled(&dict(named("", &short).into_iter().chain([(name.clone(), Value::Complex(4))])), &[]).expect(1);
    assert!(
        said.stderr.contains(&format!("not in the file: {name}")) && said.stderr.contains("ComplexFloatStorage"),
        "{}",
        said.stderr
    );

    // safetensors of types that came later, and of FP8's other kind.
    let path = import.space.path("f.safetensors");
    params::save(&model.into_iter().collect(), &path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let end = bytes.len() - 8 - length;
    for (i, dtype) in ["F8_E5M2", "C64", "F4"].iter().enumerate() {
        let offsets = [end + 8 * i, end + 8 * i + 8];
        header[format!("scale_{dtype}")] = json!({"dtype": dtype, "shape": [1], "data_offsets": offsets});
    }
    let header = header.to_string();
    let parts = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..], &[0; 24]];
    fs::write(&path, parts.concat()).unwrap();
    let said = import.of("f.safetensors", &[]).expect(0);
    assert!(
        said.stdout.contains("left out  scale_F8_E5M2: has type F8_E5M2, which is not supported"),
        "{}",
        said.stdout
    );
}

#[test]
fn the_time_convention_of_a_sit_is_reported_and_converted() {
    let import = Import::new();
    let model = filled(0.5);
    let args = |entries: &[(&str, &str)]| dict(entries.iter().map(|(k, v)| (*k, Value::Text(v.to_string()))));
    let with = |entries: &[(&str, &str)]| dict([("ema", plain(&model)), ("args", args(entries))]);
    let ours: Tensors = model.iter().cloned().collect();
    let mut turned = ours.clone();
    turn(&mut turned).unwrap();
    let taken = |want: &Tensors| {
        let got = params::load(&import.space.path("out/ema.safetensors"), &CPU).unwrap();
        for name in ["t_embedder.mlp.0.weight", "final_layer.linear.weight", "final_layer.linear.bias"] {
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&got[name]), values(&want[name]), "{name}");
        }
    };
    let sit = [("model", "SiT-XL/2"), ("path_type", "Linear"), ("prediction", "velocity")];
    let said = import.pickled(&with(&sit), &[]).expect(0);
    assert!(
        said.stdout.contains("time: that of the original SiT, where t = 1 is data; converted to ours"),
        "{}",
        said.stdout
    );
    taken(&turned);
    import.pickled(&with(&sit), &["--convention", "repa"]).expect(0);
    taken(&ours);
    let said = import.pickled(&with(&[("path_type", "linear"), ("prediction", "v")]), &[]).expect(0);
    assert!(
        said.stdout.contains("time: that of REPA, where t = 1 is noise (its arguments say path_type `linear`)"),
        "{}",
        said.stdout
    );
    taken(&ours);
    for (entries, words) in [
        ([("model", "DiT-XL/2"), ("image_size", "256")], "a DiT predicts noise"),
        ([("model", "SiT-XL/2"), ("prediction", "score")], "it predicts `score`"),
    ] {
        let said = import.pickled(&with(&entries), &["--convention", "sit"]).expect(1);
        assert!(said.stderr.contains(words), "{}", said.stderr);
    }
    // Bare, with the outputs that `learn_sigma` doubles: 2 x 2 pixels of 8 channels.
    let doubled: Dict = model
        .iter()
        .map(|(name, t)| match name.starts_with("final_layer.linear") {
            true => (name.clone(), Tensor::cat(&[t, t], 0).unwrap()),
            false => (name.clone(), t.clone()),
        })
        .collect();
    let said = import.pickled(&plain(&doubled), &[]).expect(1);
    assert!(said.stderr.contains("(learn_sigma)") && said.stderr.contains("--convention sit"), "{}", said.stderr);
    let said = import.pickled(&plain(&doubled), &["--convention", "sit"]).expect(0);
    assert!(said.stdout.contains("outputs: only the first half of the channels"), "{}", said.stdout);
    taken(&turned);
    assert!(
        import
            .space
            .erw(&["weights", "import", "f.pt", "--as", "vae", "--out", "v", "--convention", "sit"])
            .expect(2)
            .stderr
            .contains("`--convention` applies to a SiT only")
    );
}

#[test]
fn fetch_says_when_a_pipeline_needs_no_published_file() {
    let space = Space::new("[stages.w]\nkind = \"weights\"\nparams = { as = \"sit\", source = \"f.pt\" }\n");
    let said = space.erw(&["weights", "fetch", "--pipeline", "p.toml"]).expect(0);
    assert_eq!(said.stdout, "nothing to fetch: no stage of `p.toml` names a published file\n");
}
