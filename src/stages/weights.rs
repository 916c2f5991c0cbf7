//! `weights`: a local file of released weights becomes an artifact. Only safetensors are read; a file of another
//! format, a page of an error or a pointer of Git LFS is called what it is. Every tensor of the file must have its place
//! in the configured network, and every place its tensor; what does not fit is told by name.

use super::support::{create_dir, parse, write_json};
use crate::error::{Error, Result};
use crate::ml::models::encoder::{self, Encoder, EncoderConfig};
use crate::ml::models::features::open_feature_network;
use crate::ml::models::sit::{self, SiT, SiTConfig};
use crate::ml::models::vae::{AutoencoderKl, VaeConfig, modern_names};
use crate::ml::weights::{self, LoadReport, Tensors};
use crate::runner::attempt::Attempt;
use crate::runner::manifest::{Params as Values, StageKind};
use candle_core::Device;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

pub const KIND: StageKind =
    StageKind { name: "weights", manifest: include_str!("../../stages/weights.toml"), check, run };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    source: PathBuf,
    #[serde(rename = "as")]
    artifact: Artifact,
    preset: Option<String>,
    config: Option<PathBuf>,
    sha256: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    url: Option<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Artifact {
    Vae,
    Encoder,
    Inception,
    Sit,
}

impl Artifact {
    /// Names of the weights in the artifact. A released SiT is one set of weights: what starts from the model and what
    /// samples from its average both find it.
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Vae => &["vae.safetensors"],
            Self::Encoder => &[encoder::WEIGHTS_FILE],
            Self::Inception => &["inception.safetensors"],
            Self::Sit => &["ema.safetensors", "model.safetensors"],
        }
    }

    fn presets(self) -> &'static [&'static str] {
        match self {
            Self::Vae => &["sd-vae"],
            Self::Encoder => encoder::NAMES,
            Self::Inception => &["fid-inception"],
            Self::Sit => &sit::NAMES,
        }
    }

    fn check_preset(self, name: &str) -> Result<()> {
        if self.presets().contains(&name) {
            return Ok(());
        }
        Err(Error::usage(format!("unknown `preset` `{name}`")).hint(format!("known: {}", self.presets().join(", "))))
    }

    /// `config.json` of a named preset. What the name of a SiT leaves open, its file shows.
    fn preset(self, name: &str, file: &Tensors) -> Result<Value> {
        self.check_preset(name)?;
        let value = match self {
            // stabilityai/sd-vae-ft-mse and -ema.
            Self::Vae => {
                let config = VaeConfig::rgb(&[128, 256, 512, 512], 2, 4, 32, true);
                serde_json::to_value(VaeConfig { scaling_factor: 0.18215, ..config })
            }
            Self::Encoder => serde_json::to_value(EncoderConfig::named(name)),
            Self::Inception => Ok(json!({"arch": name})),
            Self::Sit => serde_json::to_value(sit_config(name, file)?),
        };
        value.map_err(|e| Error::internal(format!("preset `{name}` has no JSON")).because(e))
    }
}

/// The configuration of a released SiT. Its table of classes has a row for the null class, as all released ones.
fn sit_config(name: &str, file: &Tensors) -> Result<SiTConfig> {
    let (hidden, depth, heads, patch_size) = SiTConfig::sizes(name)?;
    let size = |tensor: &str, dim: usize| file.get(tensor).and_then(|t| t.dims().get(dim).copied());
    let needed = |tensor: &str, dim: usize| {
        size(tensor, dim).ok_or_else(|| {
            Error::stage(format!("the file has no `{tensor}`, so it is no SiT under the released names"))
                .hint("the released checkpoint keeps them below `ema`: save that dictionary alone")
        })
    };
    let blocks = (0..depth).take_while(|i| file.contains_key(&format!("blocks.{i}.attn.qkv.weight"))).count();
    let warmup_depth = (!file.contains_key("final_layer.linear.weight")).then_some(blocks);
    Ok(SiTConfig {
        input_size: needed("pos_embed", 1)?.isqrt() * patch_size,
        in_channels: needed("x_embedder.proj.weight", 1)?,
        patch_size,
        hidden,
        depth,
        heads,
        mlp_ratio: 4.0,
        num_classes: needed("y_embedder.embedding_table.weight", 0)?.saturating_sub(1),
        class_dropout: 0.1,
        z_dims: (0..).map_while(|k| size(&format!("projectors.{k}.4.weight"), 0)).collect(),
        projector_dim: size("projectors.0.0.weight", 0).unwrap_or(2048),
        // The file does not tell where the projectors sat; REPA's place. Sampling does not use them.
        encoder_depth: warmup_depth.unwrap_or(depth.min(8)),
        rope: file.contains_key("feat_rope.freqs_cos"),
        qk_norm: file.contains_key("blocks.0.attn.q_norm.weight"),
        warmup_depth,
    })
}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<Operation>(operation)?;
    let p: Params = parse(params)?;
    if let Some(sum) = &p.sha256
        && (sum.len() != 64 || !sum.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        return Err(Error::usage(format!("`sha256` is not 64 hexadecimal digits: `{sum}`")));
    }
    match (&p.preset, &p.config) {
        (Some(name), None) => p.artifact.check_preset(name),
        (None, Some(_)) => Ok(()),
        _ => {
            Err(Error::usage("give either `preset` or `config`")
                .hint("the weights do not say what network they are of"))
        }
    }
}

fn run(attempt: &Attempt) -> Result<()> {
    let (p, op): (Params, Operation) = (attempt.params()?, attempt.operation()?);
    import(attempt, &p).map_err(|e| match &op.url {
        Some(url) if e.kind != crate::error::ErrorKind::Suspended => e.hint(format!("the file comes from {url}")),
        _ => e,
    })
}

fn import(attempt: &Attempt, p: &Params) -> Result<()> {
    check_format(&p.source)?;
    let out = attempt.output("weights");
    create_dir(&out)?;
    let files = p.artifact.files();
    let sum = copy(attempt, &p.source, &out.join(files[0]))?;
    if let Some(want) = &p.sha256
        && !want.eq_ignore_ascii_case(&sum)
    {
        let error = Error::stage(format!("`{}` is not the file that was asked for", p.source.display()));
        let error = error.because(format!("its sha256 is {sum}\nand should be  {want}"));
        return Err(error.hint("the download is damaged or of another version"));
    }
    let tensors = weights::load(&p.source, &Device::Cpu)?;
    let config = match (&p.preset, &p.config) {
        (Some(name), _) => p.artifact.preset(name, &tensors)?,
        (None, Some(path)) => read_json(path)?,
        (None, None) => return Err(Error::usage("give either `preset` or `config`")),
    };
    write_json(&out.join("config.json"), &config)?;
    let (count, numbers) = (tensors.len(), tensors.values().map(candle_core::Tensor::elem_count).sum::<usize>());
    if let Some(report) = fit(p.artifact, &config, tensors).map_err(|e| unfit(p, e.into()))? {
        if !report.is_exact() {
            return Err(misfit(p, &report));
        }
        attempt.log(&format!("all {} tensors of the network are in the file, and no others", report.loaded.len()));
    }
    prove(p.artifact, &out).map_err(|e| match p.artifact {
        Artifact::Inception => e,
        _ => unfit(p, e),
    })?;
    for file in &files[1..] {
        let to = out.join(file);
        std::fs::copy(out.join(files[0]), &to).map_err(|e| Error::io("write", &to, e))?;
    }
    attempt.log(&format!("{count} tensors, {numbers} numbers, sha256 {sum}"));
    attempt.result("tensors", count as f64);
    Ok(())
}

fn unfit(p: &Params, e: Error) -> Error {
    let which = p.preset.as_ref().map_or("its configuration".to_string(), |name| format!("preset `{name}`"));
    e.context(format!("`{}` does not fit {which}", p.source.display()))
}

fn misfit(p: &Params, report: &LoadReport) -> Error {
    let mut faults = report.faults().into_iter();
    let first = Error::stage(faults.next().unwrap_or_default());
    let error = faults.fold(unfit(p, first), Error::because);
    let has = |prefix: &str| report.unexpected.iter().any(|n| n.starts_with(prefix));
    match p.artifact {
        Artifact::Encoder if has("embeddings.") => error
            .hint("these are the names of Hugging Face transformers; take a file with the official names, as timm's"),
        Artifact::Sit if has("ema.") || has("model.") || has("module.") => {
            error.hint("the names have a prefix: save the dictionary of the averaged weights alone")
        }
        _ => error,
    }
}

/// Which tensors of the file the network takes, without loading it. `None` for a network that is known by name only.
fn fit(artifact: Artifact, config: &Value, file: Tensors) -> candle_core::Result<Option<LoadReport>> {
    let (shapes, file) = match artifact {
        Artifact::Vae => {
            let config: VaeConfig = typed(config)?;
            (weights::census(|vb| AutoencoderKl::new(&config, vb))?.1, modern_names(file)?)
        }
        Artifact::Encoder => {
            return encoder::fit(&typed::<EncoderConfig>(config)?, file).map(Some);
        }
        Artifact::Sit => {
            let config: SiTConfig = typed(config)?;
            let (model, mut shapes) = weights::census(|vb| SiT::new(&config, vb))?;
            // Fixed tables may be left out; a table of a switch that is off may not be there.
            let tables = model.buffers().into_iter().filter(|(name, _)| file.contains_key(name));
            shapes.extend(tables.map(|(name, t)| (name, t.shape().clone())));
            (shapes, file)
        }
        Artifact::Inception => return Ok(None),
    };
    Ok(Some(weights::compare(&shapes, &file)))
}

fn typed<T: DeserializeOwned>(config: &Value) -> candle_core::Result<T> {
    serde_json::from_value(config.clone()).map_err(|e| candle_core::Error::Msg(format!("its configuration: {e}")))
}

/// Opens the artifact as its users will.
fn prove(artifact: Artifact, dir: &Path) -> Result<()> {
    match artifact {
        Artifact::Vae => AutoencoderKl::load(dir, &Device::Cpu).map(drop)?,
        Artifact::Encoder => Encoder::open(dir, &Device::Cpu).map(drop)?,
        // Weeks before the distance is asked for.
        Artifact::Inception => open_feature_network(dir, &Device::Cpu).map(drop).map_err(|e| {
            Error::from(e)
                .context("this version cannot run Inception, so it measures no FID")
                .hint("name the stages that do not need it: `erw run PIPELINE STAGE…`; `samples.npz` of `sample` is what the ADM suite takes")
        })?,
        // Every name and shape was compared, and there is nothing else to it.
        Artifact::Sit => {}
    }
    Ok(())
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::usage(format!("`{}` is not JSON", path.display())).because(e))
}

/// Copies a file and returns its SHA-256 in hexadecimal.
fn copy(attempt: &Attempt, from: &Path, to: &Path) -> Result<String> {
    let mut source = File::open(from).map_err(|e| Error::io("open", from, e))?;
    let total = source.metadata().map_err(|e| Error::io("read", from, e))?.len();
    let mut target = File::create(to).map_err(|e| Error::io("write", to, e))?;
    let (mut sum, mut buffer, mut done) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let n = source.read(&mut buffer).map_err(|e| Error::io("read", from, e))?;
        if n == 0 {
            break;
        }
        if attempt.should_stop() {
            return Err(Error::suspended());
        }
        sum.update(&buffer[..n]);
        target.write_all(&buffer[..n]).map_err(|e| Error::io("write", to, e))?;
        done += n as u64;
        attempt.progress(done, total);
    }
    Ok(sum.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// Refuses what is not safetensors by saying what it is.
fn check_format(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::stage(format!("`{}` is a folder", path.display())).hint("give the weights file in it"));
    }
    let mut head = Vec::new();
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    file.take(512).read_to_end(&mut head).map_err(|e| Error::io("read", path, e))?;
    let text = String::from_utf8_lossy(&head);
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let what = if text.starts_with("version https://git-lfs") {
        "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"
    } else if text.trim_start().starts_with('<') {
        "a web page, perhaps of a failed download"
    } else if head.starts_with(b"PK") && extension == "npz" {
        "an npz archive of NumPy"
    } else if head.starts_with(b"PK") {
        "a PyTorch checkpoint (zip archive of a pickle); load it with torch and save its state dict with safetensors"
    } else if head.starts_with(&[0x80]) {
        "a legacy PyTorch checkpoint (pickle); load it with torch and save its state dict with safetensors"
    } else if head.starts_with(b"\x89HDF") {
        "an HDF5 file"
    } else if head.starts_with(b"GGUF") {
        "a GGUF file"
    } else if head.get(8) != Some(&b'{') {
        "of an unknown format"
    } else {
        return Ok(());
    };
    Err(Error::stage(format!("`{}` is not a safetensors file: it is {what}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::models::vit::Vit;

    #[test]
    fn presets_belong_to_their_artifact() {
        let none = Tensors::new();
        assert_eq!(Artifact::Vae.preset("sd-vae", &none).unwrap()["scaling_factor"], 0.18215);
        assert_eq!(Artifact::Encoder.preset("dinov2-vit-l", &none).unwrap()["vit"]["dim"], 1024);
        let e = Artifact::Encoder.preset("sd-vae", &none).unwrap_err();
        assert!(e.message.contains("`sd-vae`") && e.hints[0].contains("dinov2-vit-b"));
        assert!(Artifact::Sit.check_preset("SiT-XL/2").is_ok() && Artifact::Sit.check_preset("SiT-XL/3").is_err());
    }

    /// stabilityai/sd-vae-ft-mse has 334,643,276 bytes, timm/vit_base_patch14_dinov2.lvd142m 346 MB.
    #[test]
    fn presets_are_of_the_size_of_the_released_files() {
        let numbers = |shapes: std::collections::BTreeMap<String, candle_core::Shape>| -> usize {
            shapes.values().map(candle_core::Shape::elem_count).sum()
        };
        let config: VaeConfig = typed(&Artifact::Vae.preset("sd-vae", &Tensors::new()).unwrap()).unwrap();
        let bytes = 4 * numbers(weights::census(|vb| AutoencoderKl::new(&config, vb)).unwrap().1);
        // The rest is the header: names, shapes and offsets of some 250 tensors.
        assert!((10_000..50_000).contains(&(334_643_276 - bytes)), "{bytes}");

        let config = EncoderConfig::named("dinov2-vit-b").unwrap();
        let ours = numbers(weights::census(|vb| Vit::new(&config.vit, vb)).unwrap().1);
        // Its table is of 37 x 37 positions.
        let theirs = ours + (37 * 37 - config.vit.tokens()) * config.vit.dim;
        assert_eq!(4 * theirs / 1_000_000, 346);
    }

    #[test]
    fn a_sit_file_shows_what_its_name_leaves_open() {
        let plain = SiTConfig {
            input_size: 32,
            in_channels: 4,
            patch_size: 8,
            hidden: 384,
            depth: 12,
            heads: 6,
            mlp_ratio: 4.0,
            num_classes: 1000,
            class_dropout: 0.1,
            z_dims: vec![768, 1024],
            projector_dim: 2048,
            encoder_depth: 8,
            rope: false,
            qk_norm: false,
            warmup_depth: None,
        };
        let warmed = SiTConfig { rope: true, qk_norm: true, encoder_depth: 4, warmup_depth: Some(4), ..plain.clone() };
        for config in [plain, warmed] {
            let (model, shapes) = weights::census(|vb| SiT::new(&config, vb)).unwrap();
            let zeros = |s: candle_core::Shape| {
                let zero = candle_core::Tensor::zeros((), candle_core::DType::F32, &Device::Cpu).unwrap();
                zero.broadcast_as(s).unwrap()
            };
            let mut file: Tensors = shapes.into_iter().map(|(name, s)| (name, zeros(s))).collect();
            file.extend(model.buffers());
            assert_eq!(sit_config("SiT-S/8", &file).unwrap(), config);
            let value = serde_json::to_value(&config).unwrap();
            assert!(fit(Artifact::Sit, &value, file.clone()).unwrap().unwrap().is_exact());
            // The tables may be left out, a tensor may not.
            file.remove("pos_embed");
            assert!(fit(Artifact::Sit, &value, file.clone()).unwrap().unwrap().is_exact());
            file.remove("blocks.3.mlp.fc1.bias");
            let report = fit(Artifact::Sit, &value, file.clone()).unwrap().unwrap();
            assert_eq!(report.faults(), ["1 not in the file: blocks.3.mlp.fc1.bias"]);
            assert!(sit_config("SiT-S/8", &file).unwrap_err().message.contains("`pos_embed`"));
        }
    }
}
