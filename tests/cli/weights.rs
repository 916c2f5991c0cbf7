//! `erw weights`: foreign weights become artifacts, ours become files for the released code, and
//! published files are fetched by name.

use crate::support::deadline::Deadline;
use crate::support::golden::{self, Golden};
use crate::support::http::{Server, unconfigured};
use crate::support::space::{Said, Space};
use candle_core::{DType, Device, Tensor};
use erw::ml::formats::WeightsFile;
use erw::ml::formats::format::Format;
use erw::ml::models::projector::ProjectorKind;
use erw::ml::models::sit::{MlpKind, NormKind, SiT, SiTConfig};
use erw::ml::models::vae::{AutoencoderKl, VaeConfig};
use erw::ml::nn::params;
use erw::ml::nn::params::{Frozen, ParamSet, Tensors};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const CPU: Device = Device::Cpu;

fn erw(space: &Space, args: &[&str]) -> Said {
    Said::from(unconfigured(space, args).finish())
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn assert_same(got: &Tensors, want: &Tensors) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (name, t) in want {
        assert!(got[name].dims() == t.dims() && numbers(&got[name]) == numbers(t), "{name}");
        assert_eq!(got[name].dtype(), DType::F32, "{name}");
    }
}

fn load(path: &Path) -> Tensors {
    params::load(path, &CPU).unwrap()
}

/// The network of `checkpoint.pt`: 2 blocks of width 16 with rotary embedding.
pub fn checkpoint_config() -> SiTConfig {
    SiTConfig {
        input_size: 4,
        in_channels: 4,
        patch_size: 2,
        hidden: 16,
        depth: 2,
        heads: 2,
        mlp_ratio: 4.0,
        mlp: MlpKind::Gelu,
        norm: NormKind::Layer,
        num_classes: 5,
        class_dropout: 0.1,
        z_dims: vec![],
        projector: ProjectorKind::Mlp,
        projector_dim: 0,
        encoder_depth: vec![1],
        rope: true,
        qk_norm: false,
        class_token: None,
        self_alignment: None,
        latent_alignment: None,
        warmup_depth: None,
    }
}

/// A dictionary of the twin of `checkpoint.pt`.
fn twin(set: &str) -> Tensors {
    let all = load(&golden::dir().join("checkpoint_twin.safetensors"));
    let prefix = format!("{set}/");
    all.iter().filter_map(|(k, t)| Some((k.strip_prefix(&prefix)?.to_string(), t.clone()))).collect()
}

#[test]
fn a_released_checkpoint_is_imported_and_exported() {
    let space = Space::of(&[]);
    fs::copy(golden::dir().join("checkpoint.pt"), space.path("0300000.pt")).unwrap();
    let ema = twin("ema");
    let size = |name: &str, dim: usize| ema[name].dims()[dim];
    let config = SiTConfig {
        z_dims: vec![size("projectors.0.4.weight", 0)],
        projector: ProjectorKind::Mlp,
        projector_dim: size("projectors.0.0.weight", 0),
        mlp_ratio: size("blocks.0.mlp.fc1.weight", 0) as f64 / 16.0,
        ..checkpoint_config()
    };
    space.write("config.json", &serde_json::to_string(&config).unwrap());
    let import = ["weights", "import", "0300000.pt", "--as", "sit", "--config", "config.json"];
    let said = erw(&space, &[&import[..], &["--out", "sit"]].concat()).expect(0);
    insta::assert_snapshot!("import_checkpoint", said.stdout);
    assert_same(&load(&space.path("sit/ema.safetensors")), &ema);
    assert_same(&load(&space.path("sit/model.safetensors")), &twin("model"));

    let said = erw(&space, &[&import[..], &["--out", "one", "--set", "model"]].concat()).expect(0);
    assert!(said.stdout.contains("`model` -> ema.safetensors, model.safetensors"), "{}", said.stdout);
    assert_same(&load(&space.path("one/ema.safetensors")), &twin("model"));
    let said = erw(&space, &[&import[..], &["--out", "none", "--set", "emma"]].concat()).expect(2);
    assert!(said.stderr.contains("no `set` called `emma`") && said.stderr.contains("`ema`"), "{}", said.stderr);
    let said = erw(&space, &[&import[..], &["--out", "sit"]].concat()).expect(2);
    assert!(said.stderr.contains("`sit` already exists"), "{}", said.stderr);

    // The state dict of the released code, tables and all.
    let said = erw(&space, &["weights", "export", "sit", "--out", "release.safetensors"]).expect(0);
    insta::assert_snapshot!("export", said.stdout);
    assert_same(&load(&space.path("release.safetensors")), &ema);
    erw(&space, &["weights", "export", "sit", "--set", "model", "--out", "release.pt"]).expect(0);
    let file = WeightsFile::open(&space.path("release.pt")).unwrap();
    assert_eq!(file.format(), Format::TorchZip);
    assert_same(&file.tensors("").unwrap(), &twin("model"));
    let said = erw(&space, &["weights", "export", "sit", "--out", "release.bin"]).expect(2);
    assert!(said.stderr.contains("neither in .safetensors nor in .pt"), "{}", said.stderr);
}

/// A folder of a SiT with these sets of weights, all different.
fn sit(space: &Space, config: &SiTConfig, sets: &[&str]) {
    fs::create_dir_all(space.path("sit")).unwrap();
    space.write("sit/config.json", &serde_json::to_string(config).unwrap());
    for (seed, set) in sets.iter().enumerate() {
        let (params, vb) = ParamSet::init(seed as u64, DType::F32, &CPU);
        SiT::new(config, vb).unwrap();
        params::save(&params.tensors(), &space.path(&format!("sit/{set}.safetensors"))).unwrap();
    }
}

/// The published code builds only some of the networks that have its names.
#[test]
fn an_export_says_what_loads_it() {
    let plain = SiTConfig { z_dims: vec![6], projector_dim: 8, rope: false, ..checkpoint_config() };
    let published = "the published PyTorch code loads them with `load_state_dict` into ";
    let other = |has: &str| {
        format!(
            "`load_state_dict` needs a model of 2 blocks of width 16, that has {has}; the code of REPA and ERW builds \
             none like it"
        )
    };
    let cases = [
        (plain.clone(), format!("{published}a model of 2 blocks of width 16")),
        (
            SiTConfig { rope: true, qk_norm: true, ..plain.clone() },
            format!("{published}a model of 2 blocks of width 16, built with --use_rope --qk-norm"),
        ),
        (
            SiTConfig { mlp: MlpKind::SwiGlu, norm: NormKind::Rms, ..plain.clone() },
            other("gated MLPs (SwiGLU), RMSNorm"),
        ),
        (SiTConfig { projector: ProjectorKind::Conv3, ..plain.clone() }, other("iREPA's projector, a convolution")),
        (
            SiTConfig { z_dims: vec![6, 6], encoder_depth: vec![1, 2], ..plain.clone() },
            other("projectors at several blocks"),
        ),
        (SiTConfig { z_dims: vec![], self_alignment: Some(1), ..plain.clone() }, other("SRA's head (`ap_head`)")),
        (SiTConfig { class_token: Some(6), ..plain }, other("REG's class token")),
    ];
    for (config, told) in cases {
        let space = Space::of(&[]);
        sit(&space, &config, &["ema"]);
        let said = erw(&space, &["weights", "export", "sit", "--out", "out.pt"]).expect(0).stdout;
        assert_eq!(said.lines().last(), Some(told.as_str()));
    }
}

#[test]
fn every_set_of_weights_can_be_exported_but_one_at_a_time() {
    let space = Space::of(&[]);
    let sets = ["ema", "model", "ema-0.99", "ema@20"];
    sit(&space, &checkpoint_config(), &sets);
    let export =
        |args: &[&str]| erw(&space, &[&["weights", "export", "sit", "--out", "out.safetensors"], args].concat());
    for set in sets {
        let said = export(&["--set", set]).expect(0).stdout;
        assert!(said.contains(&format!(" tensors of `{set}` written to ")), "{said}");
        let [out, own] = ["out", &format!("sit/{set}")].map(|file| load(&space.path(&format!("{file}.safetensors"))));
        let name = "x_embedder.proj.weight";
        assert_eq!(numbers(&out[name]), numbers(&own[name]), "{set}");
    }
    let said = export(&["--set", "ema-0.9"]).expect(2).stderr;
    let text = "error: `sit` has no weights `ema-0.9`\nhint: there are `ema`, `ema-0.99`, `ema@20`, `model`\n";
    assert_eq!(said, text);
    let said = export(&["--set", "ema", "--set", "model"]).expect(2).stderr;
    let text = "error: `--set ema` and `--set model` are both given\n\
                hint: an export holds one set of weights: call it once for each\n";
    assert_eq!(said, text);
    let said = export(&["--set", "emma"]).expect(2).stderr;
    assert!(said.contains("expected ema, model, ema-DECAY, ema@STEP, or NAME=VALUE"), "{said}");
}

/// Whoever may read one may read the other.
#[test]
fn exported_files_of_both_kinds_have_one_mode() {
    let space = Space::of(&[]);
    sit(&space, &checkpoint_config(), &["ema"]);
    let mode = |file: &str| {
        erw(&space, &["weights", "export", "sit", "--out", file]).expect(0);
        fs::metadata(space.path(file)).unwrap().permissions().mode() & 0o777
    };
    space.write("other", "");
    let other = fs::metadata(space.path("other")).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("out.safetensors"), mode("out.pt")], [other, other]);
}

/// As REPA's file, which lacks the tables of the rotary embedding; as saved by a wrapped model; in
/// half precision.
#[test]
fn wrapped_names_missing_tables_and_f16_are_read() {
    let golden = Golden::open("sit_rope_qknorm");
    let config: SiTConfig = golden.config();
    let space = Space::of(&[("config.json", &serde_json::to_string(&config).unwrap())]);
    let whole = golden.group("w");
    let bare = whole.iter().filter(|(name, _)| !name.starts_with("feat_rope."));
    let halves = bare.map(|(k, t)| (format!("module.{k}"), t.to_dtype(DType::F16).unwrap())).collect();
    params::save(&halves, &space.path("w.bin")).unwrap();
    let said = erw(&space, &["weights", "import", "w.bin", "--as", "sit", "--config", "config.json", "--out", "sit"])
        .expect(0);
    assert!(said.stdout.contains("0 missing, 0 unexpected") && said.stdout.contains("<- module."), "{}", said.stdout);
    let kept = load(&space.path("sit/ema.safetensors"));
    SiT::new(&config, Frozen::new(kept).builder(DType::F32, &CPU)).unwrap();
    erw(&space, &["weights", "export", "sit", "--set", "model", "--out", "back.safetensors"]).expect(0);
    let back = load(&space.path("back.safetensors"));
    assert_eq!(back.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
    let off = |name: &str| {
        let pairs = numbers(&back[name]).into_iter().zip(numbers(&whole[name]));
        pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
    };
    assert!(off("feat_rope.freqs_cos") < 1e-6, "made anew");
}

fn vae() -> (Tensors, VaeConfig) {
    (Golden::open("vae").group("w"), VaeConfig::rgb(&[8, 16, 24, 24], 2, 4, 4, true))
}

/// The names of the original code of latent diffusion, four levels.
fn original(name: &str) -> String {
    let mut parts: Vec<String> = name.split('.').map(String::from).collect();
    if parts[1] == "mid_block" {
        parts[1] = "mid".into();
        let unit = format!("{}.{}", parts[2], parts[3]);
        let last = parts[4..].join(".");
        let (unit, last) = match unit.as_str() {
            "resnets.0" => ("block_1", last),
            "resnets.1" => ("block_2", last),
            _ => {
                let last = last.replace("group_norm", "norm").replace("to_out.0", "proj_out").replace("to_", "");
                ("attn_1", last)
            }
        };
        return format!("{}.mid.{unit}.{last}", parts[0]);
    }
    if parts[1].ends_with("_blocks") {
        let up = parts[1] == "up_blocks";
        let level: usize = parts[2].parse().unwrap();
        let level = if up { 3 - level } else { level };
        let rest = match parts[3].as_str() {
            "resnets" => {
                format!("block.{}.{}", parts[4], parts[5..].join(".").replace("conv_shortcut", "nin_shortcut"))
            }
            other => format!("{}.{}", other.trim_end_matches("rs"), parts[5..].join(".")),
        };
        return format!("{}.{}.{level}.{rest}", parts[0], if up { "up" } else { "down" });
    }
    name.replace("conv_norm_out", "norm_out")
}

#[test]
fn an_autoencoder_of_the_original_code_is_read() {
    let (tensors, config) = vae();
    let space = Space::of(&[("config.json", &serde_json::to_string(&config).unwrap())]);
    let mut file: Tensors = Tensors::new();
    for (name, t) in &tensors {
        // Its attention is made of 1x1 convolutions.
        let conv = name.contains(".to_") && name.ends_with("weight");
        let t = if conv { t.unsqueeze(2).unwrap().unsqueeze(3).unwrap() } else { t.clone() };
        file.insert(format!("first_stage_model.{}", original(name)), t);
    }
    assert!(file.contains_key("first_stage_model.decoder.up.3.block.0.norm1.weight"));
    file.insert("model.diffusion_model.out.0.weight".into(), Tensor::zeros(3, DType::F32, &CPU).unwrap());
    file.insert("first_stage_model.loss.logvar".into(), Tensor::zeros((), DType::F32, &CPU).unwrap());
    params::save(&file, &space.path("v1-5.safetensors")).unwrap();
    let args = ["weights", "import", "v1-5.safetensors", "--as", "vae", "--config", "config.json", "--out", "vae"];
    let said = erw(&space, &args).expect(0);
    assert!(said.stdout.contains("2 dropped, 0 missing, 0 unexpected"), "{}", said.stdout);
    assert_same(&load(&space.path("vae/vae.safetensors")), &tensors);
    AutoencoderKl::load(&space.path("vae"), &CPU).unwrap();
}

#[test]
fn misfitting_weights_are_reported_and_nothing_is_written() {
    let (mut tensors, config) = vae();
    let space = Space::of(&[("config.json", &serde_json::to_string(&config).unwrap())]);
    let import = |tensors: &Tensors, what: &[&str]| {
        params::save(tensors, &space.path("w.safetensors")).unwrap();
        let said = erw(&space, &[&["weights", "import", "w.safetensors", "--out", "out", "--as"], what].concat());
        assert!(!space.path("out").exists());
        let left = fs::read_dir(space.path("")).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
        assert_eq!(left.filter(|n| n.starts_with(".erw")).count(), 0);
        said
    };
    let given = ["vae", "--config", "config.json"];
    let bias = tensors["quant_conv.bias"].clone();
    let odd = Tensor::from_vec(vec![1.0, f32::NAN, 2.0, f32::INFINITY, 0.0, 0.0, 0.0, 0.0], 8, &CPU).unwrap();
    tensors.insert("quant_conv.bias".into(), odd);
    let said = import(&tensors, &given).expect(1);
    assert!(said.stderr.contains("quant_conv.bias") && said.stderr.contains("NaN"), "{}", said.stderr);

    tensors.insert("quant_conv.bias".into(), bias);
    tensors.remove("decoder.conv_in.bias");
    tensors.insert("decoder.odd".into(), Tensor::zeros(2, DType::F32, &CPU).unwrap());
    let said = import(&tensors, &given).expect(1);
    insta::assert_snapshot!("import_misfit", format!("{}{}", said.stdout, space.plain(&said.stderr)));
    let said = import(&tensors, &["dinov2-vit-b"]).expect(1);
    assert!(said.stderr.contains("does not fit preset `dinov2-vit-b`"), "{}", said.stderr);
    insta::assert_snapshot!("import_what", import(&tensors, &["dinov2-vit-x"]).expect(2).stderr);
    insta::assert_snapshot!("import_encoder", import(&tensors, &["encoder"]).expect(2).stderr);
}

/// A stored npz of f64 arrays.
fn npz(path: &Path, arrays: &[(&str, &str, Vec<f64>)]) {
    let mut file = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, shape, values) in arrays {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        file.start_file(format!("{name}.npy"), options).unwrap();
        let mut head = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}");
        head.extend(std::iter::repeat_n(' ', 127 - (10 + head.len()) % 64));
        head.truncate((10 + head.len()) / 64 * 64 - 11);
        head.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((head.len() as u16).to_le_bytes());
        bytes.extend(head.as_bytes());
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        std::io::Write::write_all(&mut file, &bytes).unwrap();
    }
    file.finish().unwrap();
}

#[test]
fn published_statistics_are_checked() {
    let space = Space::of(&[]);
    let import = |sigma: Vec<f64>| {
        npz(&space.path("ref.npz"), &[("mu", "(2,)", vec![1.0, 2.0]), ("sigma", "(2, 2)", sigma)]);
        let _ = fs::remove_dir_all(space.path("stats"));
        erw(&space, &["weights", "import", "ref.npz", "--as", "stats", "--out", "stats"])
    };
    let said = import(vec![1.0, 0.5, 0.5, 1.0]).expect(0);
    assert!(said.stdout.contains("statistics of 2 features"), "{}", said.stdout);
    assert_eq!(fs::read(space.path("stats/stats.npz")).unwrap(), fs::read(space.path("ref.npz")).unwrap());
    let said = import(vec![1.0, f64::NAN, 0.5, 1.0]).expect(1);
    assert!(
        said.stderr.contains("does not hold valid statistics") && said.stderr.contains("not finite"),
        "{}",
        said.stderr
    );
    assert!(!space.path("stats").exists());
}

/// A registry whose file `small-vae` lies on this server, a pipeline that names it, and the file.
fn published(server: &Server, more: &str) -> Space {
    let (tensors, _) = vae();
    let space = Space::of(&[]);
    params::save(&tensors, &space.path("vae.safetensors")).unwrap();
    let bytes = fs::read(space.path("vae.safetensors")).unwrap();
    server.put("/vae.safetensors", &bytes);
    registry(&space, server, &format!("sha256 = \"{}\"\n{more}", sum(&bytes)));
    space
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn registry(space: &Space, server: &Server, more: &str) {
    let entry = "[[entry]]\nname = \"small-vae\"\nwhat = \"w\"\nas = \"vae\"\nlicence = \"CC-BY-NC-4.0\"\nrestricted = \"non-commercial use only\"\n";
    space.write(
        "registry.toml",
        &format!("{entry}[[entry.from]]\nurl = \"{}\"\n{more}\n", server.url("/vae.safetensors")),
    );
}

#[test]
fn a_stage_fetches_its_file_and_the_key_excludes_the_url() {
    let server = Server::start();
    let space = published(&server, "size = 1\n");
    let bytes = fs::metadata(space.path("vae.safetensors")).unwrap().len();
    let (_, config) = vae();
    space.write("config.json", &serde_json::to_string(&config).unwrap());
    space.write(
        "p.toml",
        "[stages.vae]\nkind = \"weights\"\nparams = { as = \"vae\", name = \"small-vae\", config = \"config.json\" }\n",
    );
    let known = format!("sha256 = \"{}\"\n", sum(&fs::read(space.path("vae.safetensors")).unwrap()));
    let plan = |words: &str| {
        let said = erw(&space, &["plan", "p.toml"]).expect(0);
        assert!(said.stdout.contains(words), "{words}: {}", said.stdout);
    };
    // Another size than published: not fetched, and the stage says why.
    let said = erw(&space, &["run", "p.toml", "--plain"]).expect(1);
    assert!(said.stderr.contains(&format!("has {bytes} bytes; expected 1")), "{}", said.stderr);
    let asked = server.log().len();

    registry(&space, &server, &format!("{known}about = 909000"));
    plan("downloads 909000 B from 127.0.0.1:");
    assert_eq!(server.log().len(), asked, "a plan fetches nothing");
    let said = erw(&space, &["run", "p.toml", "--plain"]).expect(0);
    assert_eq!(said.stderr.matches("non-commercial use only").count(), 1, "{}", said.stderr);
    assert!(said.stderr.contains("vae: fetching http://127.0.0.1"), "{}", said.stderr);
    assert_eq!(server.log().len(), asked + 1);
    plan("the stage is cached");

    // A mirror, a size, a remark: the same file.
    registry(
        &space,
        &server,
        &format!("{known}size = {bytes}\n[[entry.from]]\nurl = \"https://mirror.example/v.pth\""),
    );
    plan("the stage is cached");
    // Another file under the name.
    registry(&space, &server, &format!("sha256 = \"{}\"", "0".repeat(64)));
    plan("the published file of params.name");
    let said = erw(&space, &["run", "p.toml", "--plain"]).expect(1);
    assert!(
        said.stderr.contains("is damaged; fetching it again") && said.stderr.contains("expected 000"),
        "{}",
        said.stderr
    );

    // A local file is held to the same hash.
    registry(&space, &server, &known);
    let source =
        "params = { as = \"vae\", name = \"small-vae\", config = \"config.json\", source = \"vae.safetensors\" }\n";
    space.write("p.toml", &format!("[stages.vae]\nkind = \"weights\"\n{source}"));
    let asked = server.log().len();
    erw(&space, &["run", "p.toml", "--plain"]).expect(0);
    assert_eq!(server.log().len(), asked);
    registry(&space, &server, &format!("sha256 = \"{}\"", "0".repeat(64)));
    let said = erw(&space, &["run", "p.toml", "--plain"]).expect(1);
    assert!(said.stderr.contains("vae.safetensors` is not the expected file"), "{}", said.stderr);
}

#[test]
fn fetch_verify_and_list() {
    let server = Server::start();
    let space = published(&server, "");
    space.write(
        "p.toml",
        "[stages.vae]\nkind = \"weights\"\nparams = { as = \"vae\", name = \"small-vae\", preset = \"sd-vae\" }\n",
    );
    let said = erw(&space, &["weights", "verify"]).expect(0);
    assert_eq!(said.stdout, "no published file is downloaded\n");
    let said = erw(&space, &["weights", "fetch", "--pipeline", "p.toml"]).expect(0);
    assert!(
        said.stdout.starts_with("small-vae  cache/downloads/small-vae/vae.safetensors  sha256 "),
        "{}",
        said.stdout
    );
    assert!(said.stderr.contains("non-commercial"), "{}", said.stderr);
    erw(&space, &["weights", "verify", "small-vae"]).expect(0);
    let list: Value = serde_json::from_str(&erw(&space, &["weights", "list", "--json"]).expect(0).stdout).unwrap();
    assert_eq!((&list[0]["name"], &list[0]["state"]), (&json!("small-vae"), &json!("here")));
    let said = erw(&space, &["cache", "ls"]).expect(0);
    assert!(said.stdout.contains("published files in cache/downloads"), "{}", said.stdout);
    erw(&space, &["cache", "gc"]).expect(0);

    let file = space.path("cache/downloads/small-vae/vae.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    bytes[5000] ^= 1;
    fs::write(&file, bytes).unwrap();
    let said = erw(&space, &["weights", "verify"]).expect(1);
    assert!(said.stdout.contains("DAMAGED") && said.stderr.contains("       expected "), "{}", said.stderr);
    erw(&space, &["weights", "fetch", "small-vae"]).expect(0);
    erw(&space, &["weights", "verify"]).expect(0);
}

#[test]
fn the_shipped_registry_is_listed() {
    let space = Space::of(&[]);
    insta::assert_snapshot!("list", erw(&space, &["weights", "list"]).expect(0).stdout);
    insta::assert_snapshot!("fetch_unknown", erw(&space, &["weights", "fetch", "dinov2-vitb"]).expect(2).stderr);
    insta::assert_snapshot!("help_weights", erw(&space, &["weights", "--help"]).expect(0).stdout);
}

#[test]
fn mistakes_in_a_weights_stage_are_refused_before_a_run() {
    let space = Space::of(&[]);
    let said = |params: &str| {
        space.write("p.toml", &format!("[stages.w]\nkind = \"weights\"\nparams = {{ {params} }}\n"));
        erw(&space, &["plan", "p.toml"]).expect(2).stderr
    };
    insta::assert_snapshot!("stage_unknown_name", said("as = \"vae\", name = \"sd-vae-ft-mes\""));
    insta::assert_snapshot!("stage_other_type", said("as = \"encoder\", name = \"sd-vae-ft-mse\""));
    insta::assert_snapshot!("stage_nothing", said("as = \"vae\""));
    assert!(
        said("as = \"stats\", name = \"adm-imagenet256\", set = \"x\"").contains("do not apply to `as = \"stats\"`")
    );
    space.write(
        "registry.toml",
        "[[entry]]\nname = \"by-hand\"\nwhat = \"w\"\nas = \"vae\"\nlicence = \"MIT\"\nmanual = \"ask its authors\"\n",
    );
    let by_hand = said("as = \"vae\", name = \"by-hand\", preset = \"sd-vae\"");
    assert!(by_hand.contains("cannot be downloaded automatically") && by_hand.contains("ask its authors"), "{by_hand}");
    space.write("registry.toml", "[[entry]]\nname = 3\n");
    assert!(said("as = \"vae\", name = \"sd-vae-ft-mse\"").contains("registry.toml"));
}

/// Whether statistics of latents are needed is known before a run.
#[test]
fn statistics_of_latents_are_asked_for_by_the_plan() {
    let plan = |params: &str| {
        let space =
            Space::new(&format!("[stages.w]\nkind = \"weights\"\nparams = {{ source = \"w.pt\", {params} }}\n"));
        space.erw(&["plan", "p.toml"]).expect(2).stderr
    };
    let said = plan("as = \"vae\", preset = \"va-vae\"");
    assert!(said.contains("normalised by the mean and deviation of each channel"), "{said}");
    assert!(said.contains("latents_stats.pt"), "{said}");
    let said = plan("as = \"sit\", preset = \"SiT-S/2\", latents_stats = \"s.pt\"");
    assert!(said.contains("`latents_stats` applies to `as = \"vae\"` only"), "{said}");
}
