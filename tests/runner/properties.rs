//! Properties of artifacts known before a run: incompatible stages are refused with both places,
//! unlikely combinations get a warning.

use crate::support::space::Space;
use erw::ml::models::encoder::config::EncoderConfig;
use erw::ml::models::vit::VitConfig;
use erw::runner::kind::expression::{Expression, Term};
use erw::runner::kind::field::Params;
use erw::runner::kind::manifest::Manifest;
use erw::runner::pipeline::graph::Pipeline;
use erw::runner::pipeline::layers::Overrides;
use erw::stages::KINDS;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The experiment of the digits on images that need not be there, a line a stage.
const WHOLE: &str = r#"name = "whole"
[stages]
images = { kind = "images", params = { source = "data", resolution = 64 } }
held-out = { kind = "images", params = { source = "data", resolution = 64, split = "holdout" } }
vae = { kind = "train-vae", inputs = { images = "images" } }
encoder = { kind = "train-encoder", inputs = { images = "images", holdout = "held-out" }, params = { patch_size = 16 } }
classifier = { kind = "train-classifier", inputs = { images = "images", holdout = "held-out" } }
latents = { kind = "latents", inputs = { images = "images", vae = "vae" } }
features = { kind = "features", inputs = { images = "images", encoder = "encoder" } }
warmup = { kind = "warmup", inputs = { latents = "latents", features = "features" }, params = { model = "custom", hidden = 32, blocks = 2, heads = 2, patch_size = 4, depth = 1 } }
train = { kind = "train", inputs = { latents = "latents", features = "features", init = "warmup" }, params = { model = "custom", hidden = 32, blocks = 2, heads = 2, patch_size = 4, encoder_depth = 1, steps = 10 } }
sample = { kind = "sample", inputs = { sit = "train", vae = "vae" } }
fd = { kind = "fid", inputs = { samples = "sample", reference = "held-out", network = "classifier" } }
accuracy = { kind = "accuracy", inputs = { samples = "sample", classifier = "classifier" } }
held-out-latents = { kind = "latents", inputs = { images = "held-out", vae = "vae" } }
held-out-features = { kind = "features", inputs = { images = "held-out", encoder = "encoder" } }
cknna = { kind = "cknna", inputs = { sit = "train", latents = "held-out-latents", features = "held-out-features" } }
probe = { kind = "probe", inputs = { sit = "train", latents = "latents", heldout = "held-out-latents" } }
"#;

fn said(space: &Space, set: &[&str]) -> String {
    let args: Vec<&str> = ["plan", "p.toml"].into_iter().chain(set.iter().flat_map(|s| ["--set", s])).collect();
    space.erw(&args).expect(2).stderr
}

#[test]
fn compatible_stages_are_planned() {
    let space = Space::new(WHOLE);
    let plan = space.plan(&[]);
    assert!(!plan.contains("warning"), "{plan}");
    // Without alignment features may be connected and are of no use.
    let unaligned = ["train.alignment=none", "train.inputs.init=false", "train.patch_size=2"];
    space.erw(&["plan", "p.toml", "--set", unaligned[0], "--set", unaligned[1], "--set", unaligned[2]]).expect(0);
}

#[test]
fn errors_name_both_stages_and_the_path_between_them() {
    // The second set of images, of which no stage before `cknna` says anything.
    let text = WHOLE.replace("resolution = 64, split", "resolution = 32, split");
    let mut stages: Vec<&str> = text.lines().collect();
    stages.retain(|l| !["encoder", "classifier", "fd", "accuracy"].iter().any(|s| l.starts_with(&format!("{s} ="))));
    let text = stages.join("\n").replace("features = { kind = \"features\", inputs = { images = \"images\", encoder = \"encoder\" } }", "encoder = { kind = \"weights\", params = { as = \"encoder\", name = \"dinov2-vit-s\" } }\nfeatures = { kind = \"features\", inputs = { images = \"images\", encoder = \"encoder\" } }");
    let space = Space::new(&text);
    let said = said(&space, &[]);
    assert!(
        said.starts_with("error: stage `cknna`: `latents.side` is 8, but `sit.side` is 16\n --> p.toml:4:"),
        "{said}"
    );
    assert!(
        said.contains(
            "cause: `latents.side` is 8 from `resolution = 32` of `held-out` (p.toml:4), via `held-out-latents`\n"
        ),
        "{said}"
    );
    assert!(
        said.contains(
            "cause: `sit.side` is 16 from `resolution = 64` of `images` (p.toml:3), via `latents`, `train`\n"
        ),
        "{said}"
    );
    assert!(said.contains("hint: the network is measured at the size that it was trained on"), "{said}");
    // A run says the same and starts nothing.
    assert_eq!(space.erw(&["run", "p.toml"]).expect(2).stderr, said);
}

/// Each is wrong in one value; the message names the stage that would have failed and what differs.
#[test]
fn incompatible_stages_are_refused_before_a_run() {
    let space = Space::new(WHOLE);
    let wrong: &[(&[&str], &str, &str)] = &[
        (&["warmup.hidden=64"], "train", "`init.width` is 64, but `width` is 32"),
        (&["warmup.heads=4"], "train", "`init.heads` is 4, but `heads` is 2"),
        (&["train.rope=false"], "train", "`init.rope` is true, but `rope` is false"),
        (&["warmup.qk_norm=true"], "train", "`init.qk_norm` is true, but `qk_norm` is false"),
        (&["train.mlp=swiglu"], "train", "`init.mlp` is \"gelu\", but `mlp` is \"swiglu\""),
        (&["train.norm=rms"], "train", "`init.norm` is \"layer\", but `norm` is \"rms\""),
        (&["warmup.projector_dim=8"], "train", "`init.projector_dim` is 8, but `projector_dim` is 2048"),
        (&["warmup.projector=conv3"], "train", "`init.projector` is \"conv3\", but `projector` is \"mlp\""),
        (&["warmup.class_dropout=0"], "train", "`init.null_class` is false, but `null_class` is true"),
        (
            &["train.init_weights=ema-0.5"],
            "train",
            "`init_weights` is \"ema-0.5\", but `init.sets` has only [\"model\", \"ema\"]",
        ),
        (&["encoder.patch_size=8"], "warmup", "`features.grid` is 8, but `latents.side / patch_size` is 4"),
        (
            &["warmup.patch_size=2", "train.patch_size=2"],
            "warmup",
            "`features.grid` is 4, but `latents.side / patch_size` is 8",
        ),
        (&["warmup.patch_size=3"], "warmup", "`latents.side` is 16, which is not a multiple of `patch_size`, 3"),
        (
            &["vae.block_out_channels=[8,8,8,8,8,8,8,8]"],
            "vae",
            "`images.resolution` is 64, which is not a multiple of `downsampling`, 128",
        ),
        (&["encoder.patch_size=9"], "encoder", "`images.resolution` is 64, which is not a multiple of `patch_size`, 9"),
        (&["held-out.resolution=32"], "classifier", "`holdout.resolution` is 32, but `images.resolution` is 64"),
        (
            &["train.flip=0.5", "train.alignment=none", "train.inputs.init=false"],
            "train",
            "`latents.flip` is false, but `flip` is true",
        ),
        (&["sample.weights=ema@7"], "sample", "`weights` is \"ema@7\", but `sit.sets` has only [\"model\", \"ema\"]"),
        (
            &["train.class_dropout=0", "warmup.class_dropout=0", "sample.cfg_scale=2"],
            "sample",
            "`sit.null_class` is false, but `null_class` is true",
        ),
        (
            &["train.class_dropout=0", "warmup.class_dropout=0"],
            "cknna",
            "`sit.null_class` is false, but `null_class` is true",
        ),
        (&["train.path=cosine"], "cknna", "`path` is \"linear\", but `sit.path` is \"cosine\""),
        (&["train.path=cosine", "sample.path=linear"], "sample", "`path` is \"linear\", but `sit.path` is \"cosine\""),
    ];
    for (set, stage, text) in wrong {
        let said = said(&space, set);
        assert!(said.starts_with(&format!("error: stage `{stage}`: {text}\n")), "{set:?}: {said}");
        assert_eq!(said.matches("cause: ").count(), 2, "{set:?}: {said}");
        let who = format!("set by `--set {}`", set[0].split('=').next().unwrap());
        assert!(said.contains(&who), "{set:?}: {said}");
    }
}

#[test]
fn each_element_of_a_list_is_checked() {
    let two = "encoder2 = { kind = \"train-encoder\", inputs = { images = \"images\" }, params = { patch_size = 32 } }\n\
               features2 = { kind = \"features\", inputs = { images = \"images\", encoder = \"encoder2\" } }\n";
    let space = Space::new(&format!(
        "{}{two}",
        WHOLE.replace("features = \"features\", init", "features = [\"features\", \"features2\"], init")
    ));
    let said = said(&space, &[]);
    assert!(
        said.starts_with("error: stage `train`: `features.1.grid` is 2, but `latents.side / patch_size` is 4\n"),
        "{said}"
    );
    // In the order of the lists, as far as both go.
    let said = self::said(&space, &["encoder2.patch_size=16", "encoder.dim=48", "warmup.inputs.features=features2"]);
    assert!(said.starts_with("error: stage `train`: `init.dims` is [96], but `features.dim` is [48, 96]\n"), "{said}");
    space.erw(&["plan", "p.toml", "--set", "encoder2.patch_size=16"]).expect(0);
}

#[test]
fn published_networks_have_the_sizes_of_their_names() {
    let space = Space::new(
        "[stages]\nimages = { kind = \"images\", params = { source = \"x\", resolution = 256 } }\n\
         vae = { kind = \"weights\", params = { as = \"vae\", name = \"sd-vae-ft-mse\" } }\n\
         encoder = { kind = \"weights\", params = { as = \"encoder\", name = \"dinov2-vit-b\" } }\n\
         latents = { kind = \"latents\", inputs = { images = \"images\", vae = \"vae\" } }\n\
         features = { kind = \"features\", inputs = { images = \"images\", encoder = \"encoder\" } }\n\
         warmup = { kind = \"warmup\", inputs = { latents = \"latents\", features = \"features\" } }\n\
         online = { kind = \"train\", inputs = { latents = \"latents\", images = \"images\", encoder = \"encoder\" }, params = { features = \"online\" } }\n",
    );
    space.erw(&["plan", "p.toml"]).expect(0);
    let begins = |set: &[&str], text: &str| {
        let said = said(&space, set);
        assert!(said.starts_with(&format!("error: {text}")), "{set:?}: {said}");
    };
    begins(&["warmup.model=SiT-XL/4"], "stage `warmup`: `features.grid` is 16, but `latents.side / patch_size` is 8\n");
    begins(
        &["online.model=SiT-B/4", "online.encoder_depth=4"],
        "stage `online`: `images.resolution / encoder.pixels_per_token` is 16, but `latents.side / patch_size` is 8\n",
    );
    begins(&["images.resolution=252"], "stage `latents`: `images.resolution` is 252, which is not a multiple of");
    begins(&["images.resolution=264"], "stage `features`: `images.resolution` is 264, which is not a multiple of");
}

#[test]
fn unlikely_combinations_have_a_warning() {
    let text = "[stages]\na = { kind = \"images\", params = { source = \"x\", resolution = 16 } }\n\
                b = { kind = \"images\", params = { source = \"x\", resolution = 32 } }\n\
                inception = { kind = \"weights\", params = { as = \"inception\", name = \"fid-inception\" } }\n\
                fid = { kind = \"fid\", inputs = { samples = \"a\", reference = \"b\", network = \"inception\" } }\n";
    let space = Space::new(text);
    let warning = "warning: stage `fid`: `samples.resolution` is 16, but `reference.resolution` is 32: images of two sizes \
                   are brought to one by the network, which shows in the distance (`resolution = 16` of `a` (p.toml:2); \
                   `resolution = 32` of `b` (p.toml:3))\n";
    assert!(space.plan(&[]).contains(warning), "{}", space.plan(&[]));
    assert!(!space.plan(&["a", "b"]).contains("warning"), "other stages are not spoken of");
    let json: Value =
        serde_json::from_str(&space.erw(&["plan", "p.toml", "--format", "json"]).expect(0).stdout).unwrap();
    assert!(warning.contains(json["warnings"][0].as_str().unwrap()));
    assert!(space.run(&[]).expect(2).stderr.starts_with(warning));
}

/// Splits by two rules have images in common.
#[test]
fn held_out_images_that_may_have_been_trained_on_are_doubted() {
    for kind in ["train-encoder", "train-classifier"] {
        let of = |holdout: &str| {
            format!(
                "[stages]\na = {{ kind = \"images\", params = {{ source = \"x\", resolution = 16, split = \"train\" }} }}\n\
                 b = {{ kind = \"images\", params = {{ source = \"x\", resolution = 16, {holdout} }} }}\n\
                 net = {{ kind = \"{kind}\", inputs = {{ images = \"a\", holdout = \"b\" }} }}\n"
            )
        };
        let space = Space::new(&of("split = \"holdout\""));
        assert!(!space.plan(&[]).contains("warning"), "{}", space.plan(&[]));
        space.write("p.toml", &of("split = \"holdout\", holdout_every = 3"));
        let said = space.plan(&[]);
        assert!(said.contains("warning: stage `net`: `holdout.partition` is "), "{said}");
        assert!(said.contains("may have images in common"), "{said}");
        // A set of its own.
        space.write("p.toml", &of("split = \"all\", part = \"test\""));
        assert!(!space.plan(&[]).contains("warning"), "{}", space.plan(&[]));
    }
}

/// A manifest that speaks of a property that nothing has, or of a fact that the kind never gives,
/// would hold nobody to anything.
#[test]
fn manifests_name_existing_properties_and_facts() {
    let manifests: Vec<Manifest> = KINDS.iter().map(|k| Manifest::parse(k.name, k.manifest).unwrap()).collect();
    let mut made: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for m in &manifests {
        for (output, name, _) in &m.properties {
            let output = m.outputs.iter().find(|o| o.name == *output).unwrap();
            let types = match output.param() {
                Some(param) => m.field(param).unwrap().one_of.iter().filter_map(Value::as_str).collect(),
                None => vec![output.ty.as_str()],
            };
            for ty in types {
                made.entry(ty).or_default().insert(name);
            }
        }
    }
    let given = facts_of_shipped_pipelines();
    for m in &manifests {
        let rules = m.agree.iter().chain(&m.doubt).flat_map(|rule| [&rule.left, &rule.right]);
        for term in m.properties.iter().map(|(.., e)| e).chain(rules).flat_map(Expression::terms) {
            match term {
                Term::Fact(name) => assert!(given[m.kind.as_str()].contains(name.as_str()), "{}: kind.{name}", m.kind),
                Term::Input { slot, property } | Term::Inputs { slot, property } => {
                    let types = &m.inputs.iter().find(|s| s.name == *slot).unwrap().types;
                    let has = |ty: &String| made.get(ty.as_str()).is_some_and(|all| all.contains(property.as_str()));
                    assert!(types.iter().any(has), "{}: nothing has {slot}.{property}", m.kind);
                }
                Term::Param(_) => {}
            }
        }
        for rule in m.agree.iter().chain(&m.doubt) {
            assert!(!rule.doc.is_empty(), "{}: {rule} without a reason", m.kind);
        }
    }
}

fn facts_of_shipped_pipelines() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut given: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut take =
        |kind: &'static str, facts: fn(&Params) -> Vec<erw::runner::kind::property::Fact>, params: &Params| {
            given.entry(kind).or_default().extend(facts(params).into_iter().map(|fact| fact.name));
        };
    for file in ["digits", "sit-xl", "sit-xl-online"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("pipelines/{file}.toml"));
        for stage in Pipeline::load(&path, KINDS, &Overrides::default()).unwrap().stages {
            take(stage.kind.name, stage.kind.facts, &stage.params);
            // What is told of other settings only.
            let mut other = stage.params.clone();
            let values: [(&str, Value); 5] = [
                ("flip", 0.5.into()),
                ("label", "null".into()),
                ("cfg_scale", 2.0.into()),
                ("class_token", 1.0.into()),
                ("attention", 1.0.into()),
            ];
            for (name, value) in values {
                other.get_mut(name).into_iter().for_each(|v| *v = value.clone());
            }
            take(stage.kind.name, stage.kind.facts, &other);
        }
    }
    let probe = Params::from_iter([("label".to_string(), Value::from("null"))]);
    let sit = Params::from_iter([("as".to_string(), Value::from("sit")), ("preset".to_string(), "SiT-B/2".into())]);
    let imported: Value = serde_json::json!({"source": "latents", "scaling_factor": 0.5, "shift_factor": 0.0,
        "normalization": "channel", "rows_per_shard": 1, "flip": false});
    let imported: Params = imported.as_object().unwrap().clone().into_iter().collect();
    let with_class = Params::from_iter([("class_token".to_string(), Value::from(true))]);
    let folder = tempfile::tempdir().unwrap();
    let config = EncoderConfig::fixed(VitConfig::new(56, 14, 48, 2, 3), [0.5; 3], [0.5; 3]);
    let file = folder.path().join("config.json");
    std::fs::write(&file, serde_json::to_string(&config).unwrap()).unwrap();
    let own = [("as", Value::from("encoder")), ("config", file.display().to_string().into())];
    let own: Params = own.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    let others = [
        ("weights", &own),
        ("probe", &probe),
        ("weights", &sit),
        ("import-latents", &imported),
        ("features", &with_class),
    ];
    for (name, params) in others {
        let kind = KINDS.iter().find(|kind| kind.name == name).unwrap();
        take(kind.name, kind.facts, params);
    }
    given
}
