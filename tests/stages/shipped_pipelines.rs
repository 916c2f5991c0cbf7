//! The shipped pipelines load, say which data they lack and how to get it, and accept the files
//! that they name.

use crate::support::deadline::Deadline;
use crate::support::golden::Golden;
use candle_core::{DType, Device, Tensor};
use erw::ml::models::encoder::Encoder;
use erw::ml::models::vae::{AutoencoderKl, VaeConfig};
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use erw::runner::pipeline::graph::{Pipeline, Stage};
use erw::runner::pipeline::layers::Overrides;
use erw::runner::sweep::SweepPlan;
use erw::stages::KINDS;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const CPU: Device = Device::Cpu;

/// The recipes at the size of the papers.
pub const IMAGENET: [&str; 14] = [
    "sit-xl",
    "sit-xl-online",
    "sit-xl-512",
    "sit-l",
    "sit-b",
    "sit-xl-v3",
    "repa-xl",
    "sit-xl-baseline",
    "u-repa-xl",
    "lightningdit-xl",
    "sra-xl",
    "sra2-xl",
    "haste-xl",
    "reg-xl",
];

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")
}

pub fn load(name: &str) -> Pipeline {
    load_with(name, &[])
}

/// With these settings.
pub fn load_with(name: &str, set: &[&str]) -> Pipeline {
    let overrides = Overrides { set: set.iter().map(|s| s.to_string()).collect(), env: vec![] };
    Pipeline::load(&shipped().join(name), KINDS, &overrides).unwrap()
}

fn stage<'a>(pipeline: &'a Pipeline, name: &str) -> &'a Stage {
    pipeline.stages.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{}: no stage {name}", pipeline.name))
}

/// A folder without any data, and the program run in it.
struct Place(TempDir);

impl Place {
    /// With the shipped pipelines, as a user has them who downloaded nothing.
    fn with_pipelines() -> Self {
        let place = Self::new();
        fs::create_dir(place.path("pipelines")).unwrap();
        for entry in fs::read_dir(shipped()).unwrap().map(Result::unwrap).filter(|e| e.path().is_file()) {
            fs::copy(entry.path(), place.path("pipelines").join(entry.file_name())).unwrap();
        }
        place
    }

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn erw(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_erw"));
        command.current_dir(self.0.path()).args(args).args(["--cache-dir", "cache"]).stdin(Stdio::null());
        command.finish()
    }

    /// Imports `source` as a stage of a pipeline of its own. The artifact, or what was said.
    fn import(&self, params: &Value) -> Result<PathBuf, String> {
        let values = params.as_object().unwrap().iter().map(|(k, v)| format!("{k} = {v}\n")).collect::<String>();
        let stage =
            "[stages.w]\nkind = \"weights\"\noperation = { url = \"https://example.org/w\" }\n[stages.w.params]\n";
        fs::write(self.path("p.toml"), format!("{stage}{values}")).unwrap();
        let out = self.erw(&["run", "p.toml", "--json"]);
        let text = String::from_utf8_lossy(&out.stdout).to_string();
        let mut events = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        match (out.status.code(), events.find(|e| e["event"] == "ended")) {
            (Some(0), Some(end)) => Ok(self.path("").join(end["outputs"][0]["path"].as_str().unwrap())),
            (code, _) => Err(format!("exit {code:?}\n{}", String::from_utf8_lossy(&out.stderr))),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// By the driver's own program, as a script that says how much memory the GPUs have.
#[test]
fn a_plan_refuses_what_does_not_fit_on_a_gpu() {
    let place = Place::with_pipelines();
    let said = |mebibytes: &str, gpus: Option<&str>| {
        let tool = place.path("bin/nvidia-smi");
        fs::create_dir_all(tool.parent().unwrap()).unwrap();
        fs::write(&tool, format!("#!/bin/sh\nprintf '{mebibytes}'\n")).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_erw"));
        command.current_dir(place.0.path()).args(["plan", "pipelines/sit-xl.toml", "--cache-dir", "cache"]);
        command.envs(gpus.map(|gpus| ("ERW_GPUS", gpus)));
        let out = command.env("PATH", path).env("CUDA_VISIBLE_DEVICES", "0,1").stdin(Stdio::null()).finish();
        (out.status.code(), text(&out.stderr))
    };
    // 8 and 24 GiB: `train` takes more, `warmup` takes less.
    let (code, error) = said("8192\\n24576\\n", None);
    assert_eq!(code, Some(2), "{error}");
    insta::assert_snapshot!("plan_too_large_for_a_gpu", error);
    for (memory, gpus) in [("81559\\n81559\\n", None), ("8192\\n", Some("0")), ("no devices", None)] {
        assert_eq!(said(memory, gpus).0, Some(0), "{memory}");
    }
}

#[test]
fn a_pipeline_without_its_data_says_how_to_get_it() {
    let place = Place::with_pipelines();
    let plan = place.erw(&["plan", "pipelines/sit-xl.toml"]);
    assert!(plan.status.success(), "{}", text(&plan.stderr));
    insta::assert_snapshot!("plan_sit_xl", text(&plan.stdout));

    // Running it tells all of that at once and starts nothing.
    let run = place.erw(&["run", "pipelines/sit-xl.toml"]);
    assert_eq!(run.status.code(), Some(2));
    let said = text(&run.stderr);
    for file in ["imagenet/train", "imagenet/val"] {
        let looked = format!(
            "no file or folder at `{}",
            place.path("pipelines/data").canonicalize().unwrap_or(place.path("pipelines/data")).display()
        );
        assert!(said.contains(&looked) && said.contains(file), "{file}: {said}");
    }
    assert!(said.contains("https://image-net.org/"), "{said}");
    assert!(said.starts_with("error: 2 files and folders are missing\n"), "{said}");
}

#[test]
fn every_pipeline_loads_plans_and_states_its_expected_result() {
    let place = Place::with_pipelines();
    for name in IMAGENET {
        let file = format!("{name}.toml");
        let plan = place.erw(&["plan", &format!("pipelines/{file}")]);
        assert!(plan.status.success(), "{name}: {}", text(&plan.stderr));
        let header = fs::read_to_string(shipped().join(&file)).unwrap();
        let header: String = header.lines().take_while(|l| l.starts_with('#')).collect();
        for part in ["Expect: ", "Cost: ", "FID-50K", "evaluations", "Nothing here has been"] {
            assert!(header.replace("#   ", " ").contains(part), "{name} does not state `{part}`");
        }
        // What the release's README and the paper fix for all of them.
        let pipeline = load(&file);
        let train = stage(&pipeline, "train");
        let mut fixed = json!({"batch": 256, "lr": 1e-4, "ema_decay": 0.9999, "class_dropout": 0.1, "path": "linear",
            "time": "uniform", "beta2": 0.999, "weight_decay": 0.0, "max_grad_norm": 1.0, "projector_dim": 2048});
        if name == "lightningdit-xl" {
            // As its authors' configuration has it.
            let own = json!({"batch": 1024, "lr": 2e-4, "time": "lognormal", "beta2": 0.95, "flip": 0.5});
            fixed.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        }
        for (key, value) in fixed.as_object().unwrap() {
            assert_eq!(train.params[key], *value, "{name}: {key}");
        }
        let sample = stage(&pipeline, "sample");
        assert_eq!(
            (sample.params.get("sampler").unwrap(), sample.params.get("steps").unwrap()),
            (&json!("sde"), &json!(250))
        );
        assert_eq!(
            (sample.params.get("cfg_scale").unwrap(), sample.params.get("count").unwrap()),
            (&json!(1.0), &json!(50_000))
        );
        assert_eq!(
            (sample.params.get("weights").unwrap(), sample.operation.get("batch").unwrap()),
            (&json!("ema"), &json!(64))
        );
        assert!(
            !train.inputs.contains_key("init")
                || stage(&pipeline, "warmup").params.get("rope").unwrap() == train.params.get("rope").unwrap()
        );
    }
}

#[test]
fn pipelines_differ_where_the_methods_do() {
    // Model, alignment, coefficient, half-life, block, steps, warmup (steps, blocks), guidance.
    let of = |name: &str| {
        let p = load(&format!("{name}.toml"));
        let t = |name: &str| stage(&p, "train").params.get(name).unwrap();
        let c = |name: &str| stage(&p, "sample-cfg").params.get(name).unwrap();
        let warmup = p.stages.iter().find(|s| s.name == "warmup");
        json!([
            t("model"),
            t("rope"),
            t("alignment"),
            t("alignment_weight"),
            t("alignment_steps"),
            t("encoder_depth"),
            t("steps"),
            warmup.map(|w| json!([w.params.get("steps").unwrap(), w.params.get("depth").unwrap()])),
            [c("cfg_scale"), c("guidance_low"), c("guidance_high")]
        ])
    };
    let erw = |model: &str, weight: f64, depth: u32, steps: u32, blocks: u32| {
        json!([model, true, "half-life", weight, 50_000, depth, steps, [100_000, blocks], [2.2, 0.0, 0.95]])
    };
    assert_eq!(of("sit-xl"), erw("SiT-XL/2", 6.0, 14, 200_000, 4));
    assert_eq!(of("sit-xl-online"), of("sit-xl"));
    assert_eq!(of("sit-l"), erw("SiT-L/2", 3.0, 8, 200_000, 4));
    assert_eq!(of("sit-b"), erw("SiT-B/2", 1.0, 8, 50_000, 4));
    assert_eq!(of("sit-xl-v3"), erw("SiT-XL/2", 0.5, 18, 100_000, 5));
    let guided = json!([1.8, 0.0, 0.7]);
    assert_eq!(of("repa-xl"), json!(["SiT-XL/2", false, "constant", 0.5, 50_000, 8, 400_000, null, guided]));
    assert_eq!(of("sit-xl-baseline"), json!(["SiT-XL/2", false, "none", 0.5, 50_000, 8, 400_000, null, guided]));
}

#[test]
fn the_ablation_shares_stages_and_compares_equal_cost() {
    let plan = SweepPlan::load(&shipped().join("ablation.toml"), KINDS, &Overrides::default()).unwrap();
    let named = |kind: &str| plan.trials.iter().filter(|t| t.name.starts_with(kind)).count();
    assert_eq!([named("sit,"), named("repa,"), named("erw,")], [3, 3, 3]);
    let names: BTreeSet<&str> = plan.pipeline.stages.iter().map(|s| s.name.as_str()).collect();
    for shared in ["images", "vae", "encoder", "latents", "features", "classifier"] {
        assert!(names.contains(shared) && !names.iter().any(|n| n.starts_with(&format!("{shared}@"))), "{names:?}");
    }
    assert_eq!(names.iter().filter(|n| n.starts_with("warmup")).count(), 3, "one a seed: {names:?}");
    assert_measured_at_equal_cost(&plan, &[300.0, 600.0, 900.0, 1200.0, 1500.0]);
    let plan = SweepPlan::load(&shipped().join("ablation-variants.toml"), KINDS, &Overrides::default()).unwrap();
    assert_eq!(plan.trials.len(), 12);
    assert_measured_at_equal_cost(&plan, &[600.0, 900.0, 1200.0, 1500.0]);
}

/// With and without a warmup, in several conditions: what a condition has in common is made once.
#[test]
fn the_sweeps_over_warmups_compare_equal_cost() {
    for (name, conditions) in [("warmup-conditions", 3), ("warmup-emoji", 2)] {
        let plan = SweepPlan::load(&shipped().join(format!("{name}.toml")), KINDS, &Overrides::default()).unwrap();
        let with = plan.trials.iter().filter(|t| t.name.contains("-warmup,")).count();
        assert_eq!((with, plan.trials.len()), (3 * conditions, 6 * conditions), "{name}");
        let made = |kind: &str| plan.pipeline.stages.iter().filter(|s| s.kind.name == kind).count();
        assert_eq!((made("train-vae"), made("train-classifier"), made("features")), (1, 1, conditions), "{name}");
        assert_measured_at_equal_cost(&plan, &[600.0, 900.0]);
    }
}

#[test]
fn the_sampler_grid_shares_the_network_of_the_digits() {
    let (plan, digits) =
        (SweepPlan::load(&shipped().join("guidance.toml"), KINDS, &Overrides::default()), load("digits.toml"));
    let plan = plan.unwrap();
    assert_eq!(plan.trials.len(), 12);
    let varied = |name: &str| plan.pipeline.stages.iter().filter(|s| s.name.split('@').next() == Some(name)).count();
    assert_eq!([varied("sample"), varied("fd"), varied("accuracy"), varied("reference")], [12, 12, 12, 1]);
    for shared in ["images", "held-out", "vae", "encoder", "classifier", "latents", "features", "warmup", "train"] {
        let (ours, theirs) = (stage(&plan.pipeline, shared), stage(&digits, shared));
        assert_eq!((ours.kind.name, &ours.params), (theirs.kind.name, &theirs.params), "{shared}");
    }
    for trial in &plan.trials {
        assert_eq!(
            plan.pipeline.stage(trial.stages["fd"]).params.get("metrics").unwrap(),
            &json!(["fid", "precision", "recall"])
        );
        assert_eq!(
            plan.pipeline.stage(trial.stages["sample"]).params.get("seed").unwrap(),
            stage(&digits, "sample").params.get("seed").unwrap()
        );
    }
}

/// Numbers of papers are those of the ADM suite, against its statistics of the training set.
#[test]
fn pipelines_use_the_protocol_of_papers() {
    for name in IMAGENET {
        let pipeline = load(&format!("{name}.toml"));
        let reference = if name == "sit-xl-512" { "adm-imagenet512" } else { "adm-imagenet256" };
        assert_eq!(stage(&pipeline, "reference").params.get("name").unwrap(), reference, "{name}");
        for fid in ["fid", "fid-cfg"] {
            let fid = stage(&pipeline, fid);
            let suite = json!(["fid", "sfid", "is", "precision", "recall"]);
            assert_eq!(
                (fid.params.get("metrics").unwrap(), fid.params.get("mode").unwrap()),
                (&suite, &json!("adm")),
                "{name}"
            );
            assert_eq!(pipeline.stage(fid.inputs[&"reference".to_string()].from).name.as_str(), "reference", "{name}");
        }
    }
}

/// The weights of `sample-X` have cost X, in steps without alignment, to the nearest step.
fn assert_measured_at_equal_cost(plan: &SweepPlan, costs: &[f64]) {
    for trial in &plan.trials {
        let stage = |base: &str| plan.pipeline.stage(trial.stages[base]);
        let train = stage("train");
        let cost = Cost::of(train);
        let warmed = train.inputs.get("init").map_or(0.0, |edge| {
            let warmup = plan.pipeline.stage(edge.from);
            assert_eq!(warmup.params.get("seed").unwrap(), train.params.get("seed").unwrap());
            warmup.params.get("steps").unwrap().as_f64().unwrap()
                * cost.warmup(warmup.params.get("depth").unwrap().as_f64().unwrap())
        });
        let step = if train.params.get("alignment").unwrap() == "none" { 1.0 } else { cost.aligned() };
        let mut steps = vec![];
        for x in costs {
            let weights = stage(&format!("sample-{x}")).params.get("weights").unwrap().as_str().unwrap();
            let step_of: f64 = weights.strip_prefix("ema@").unwrap().parse().unwrap();
            assert!((warmed + step_of * step - x).abs() <= 0.5 * step, "{}: {weights} at {x}", trial.name);
            steps.push(step_of);
        }
        assert_eq!(train.params.get("snapshots").unwrap(), &json!(steps.iter().map(|s| *s as u64).collect::<Vec<_>>()));
        assert_eq!(
            train.params.get("steps").unwrap().as_f64(),
            steps.last().copied(),
            "nothing is trained that is not measured"
        );
    }
}

/// Multiplications of the forward pass for an image: 16 tokens, patches of four channels, features
/// of 96.
struct Cost {
    block: f64,
    blocks: f64,
    projector: f64,
    embedders: f64,
    last: f64,
}

impl Cost {
    fn of(train: &Stage) -> Self {
        let int = |key: &str| train.params.get(key).unwrap().as_f64().unwrap();
        let (tokens, features, frequencies) = (16.0, 96.0, 256.0);
        let numbers = 4.0 * int("patch_size") * int("patch_size");
        let (d, p) = (int("hidden"), int("projector_dim"));
        Self {
            // Queries, keys, values and their projection 4 d^2, the MLP 8 d^2; attention; scales
            // and shifts.
            block: tokens * (12.0 * d * d + 2.0 * tokens * d) + 6.0 * d * d,
            blocks: int("blocks"),
            projector: tokens * (d * p + p * p + p * features),
            embedders: tokens * numbers * d + frequencies * d + d * d,
            last: 2.0 * d * d + tokens * d * numbers,
        }
    }

    fn plain(&self) -> f64 {
        self.blocks * self.block + self.embedders + self.last
    }

    /// In steps without alignment.
    fn aligned(&self) -> f64 {
        (self.plain() + self.projector) / self.plain()
    }

    fn warmup(&self, depth: f64) -> f64 {
        (depth * self.block + self.embedders + self.projector) / self.plain()
    }
}

pub fn golden_vae() -> (Tensors, Value) {
    let config = VaeConfig::rgb(&[8, 16, 24, 24], 2, 4, 4, true);
    (Golden::open("vae").group("w"), serde_json::to_value(config).unwrap())
}

#[test]
fn an_incomplete_vae_is_refused() {
    let place = Place::new();
    let (tensors, config) = golden_vae();
    params::save(&tensors, &place.path("vae.safetensors")).unwrap();
    fs::write(place.path("config.json"), config.to_string()).unwrap();
    let mut params = json!({"as": "vae", "source": "vae.safetensors", "config": "config.json"});
    AutoencoderKl::load(&place.import(&params).unwrap(), &CPU).unwrap();

    let small = |key: &str, value: Value| {
        let mut other = config.clone();
        other[key] = value;
        fs::write(place.path("config.json"), other.to_string()).unwrap();
        place.import(&params).unwrap_err()
    };
    let said = small("layers_per_block", json!(3));
    assert!(said.contains("exit Some(2)") && said.contains("does not fit the given configuration"), "{said}");
    assert!(
        said.contains("not in the file: decoder.up_blocks.0.resnets.3.conv1.bias") && said.contains(" more"),
        "{said}"
    );
    assert!(said.contains("https://example.org/w"), "{said}");
    let said = small("layers_per_block", json!(1));
    assert!(said.contains("not in the network: decoder.up_blocks.0.resnets.2.conv1.bias"), "{said}");
    let said = small("latent_channels", json!(8));
    assert!(
        said.contains(
            "of another shape: decoder.conv_in.weight is [24, 4, 3, 3] in the file, [24, 8, 3, 3] in the network"
        ),
        "{said}"
    );

    fs::write(place.path("config.json"), config.to_string()).unwrap();
    params["sha256"] = json!("ab".repeat(32));
    let said = place.import(&params).unwrap_err();
    assert!(said.contains("is not the expected file") && said.contains(&"ab".repeat(32)), "{said}");
}

/// timm's file is the official one, with the positions of 518 pixels; transformers' has other
/// names.
#[test]
fn dinov2_is_imported_under_its_official_names() {
    let place = Place::new();
    let mut tensors = Golden::open("dinov2").group("w");
    let vit = json!({"image_size": 56, "patch_size": 14, "dim": 48, "depth": 2, "heads": 3, "mlp_dim": 192,
        "class_token": true, "layer_scale": true, "exact_gelu": true, "final_norm": true, "eps": 1e-6});
    let config = json!({"vit": vit, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]});
    fs::write(place.path("config.json"), config.to_string()).unwrap();
    let params = json!({"as": "encoder", "source": "model.safetensors", "config": "config.json"});
    let import = |tensors: &Tensors| {
        params::save(tensors, &place.path("model.safetensors")).unwrap();
        place.import(&params)
    };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &CPU).unwrap();
    import(&tensors).unwrap();
    tensors.insert("mask_token".into(), zeros(&[1, 48]));
    tensors.insert("pos_embed".into(), zeros(&[1, 37 * 37 + 1, 48]));
    assert_eq!(Encoder::open(&import(&tensors).unwrap(), &CPU).unwrap().shape(56).unwrap(), (16, 48));

    let foreign = Tensors::from([("something.else".to_string(), zeros(&[1, 1, 48]))]);
    let said = import(&foreign).unwrap_err();
    assert!(said.contains("not in the network: something.else"), "{said}");
    tensors.insert("register_tokens".into(), zeros(&[1, 4, 48]));
    let said = import(&tensors).unwrap_err();
    assert!(said.contains("1 not in the network: register_tokens"), "{said}");
}
