//! `weights`: a local file of released weights becomes an artifact. Only safetensors are read; a file of another
//! format, a page of an error or a pointer of Git LFS is called what it is.

use super::support::{create_dir, parse, write_json};
use crate::error::{Error, Result};
use crate::ml::models::encoder::{self, Encoder, EncoderConfig};
use crate::ml::models::sit::{SiT, SiTConfig};
use crate::ml::models::vae::{AutoencoderKl, VaeConfig};
use crate::ml::weights::{self, Frozen};
use crate::runner::attempt::Attempt;
use crate::runner::manifest::{Params as Values, StageKind};
use candle_core::{DType, Device};
use serde::Deserialize;
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
    url: Option<String>,
    sha256: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Artifact {
    Vae,
    Encoder,
    Inception,
    Sit,
}

impl Artifact {
    /// Name of the weights in the artifact.
    fn file(self) -> &'static str {
        match self {
            Self::Vae => "vae.safetensors",
            Self::Encoder => encoder::WEIGHTS_FILE,
            Self::Inception => "inception.safetensors",
            Self::Sit => "ema.safetensors",
        }
    }

    /// `config.json` of a named preset.
    fn preset(self, name: &str) -> Result<Value> {
        let known = match self {
            Self::Vae => "sd-vae",
            Self::Encoder => "dinov2-vit-s, dinov2-vit-b, dinov2-vit-l",
            Self::Inception => "fid-inception",
            Self::Sit => "none; give a `config`",
        };
        let found = match (self, name) {
            // stabilityai/sd-vae-ft-mse and -ema.
            (Self::Vae, "sd-vae") => {
                let config =
                    VaeConfig { scaling_factor: 0.18215, ..VaeConfig::rgb(&[128, 256, 512, 512], 2, 4, 32, true) };
                serde_json::to_value(config).ok()
            }
            (Self::Encoder, name) => EncoderConfig::named(name).and_then(|c| serde_json::to_value(c).ok()),
            (Self::Inception, "fid-inception") => Some(json!({"arch": "fid-inception"})),
            _ => None,
        };
        found.ok_or_else(|| Error::usage(format!("unknown preset `{name}`")).hint(format!("known: {known}")))
    }
}

fn check(params: &Values, operation: &Values) -> Result<()> {
    parse::<Operation>(operation)?;
    let p: Params = parse(params)?;
    if let Some(sum) = &p.sha256
        && (sum.len() != 64 || !sum.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        return Err(Error::usage(format!("`sha256` is not 64 hexadecimal digits: `{sum}`")));
    }
    match (&p.preset, &p.config) {
        (Some(name), None) => p.artifact.preset(name).map(drop),
        (None, Some(_)) => Ok(()),
        _ => {
            Err(Error::usage("give either `preset` or `config`")
                .hint("the weights do not say what network they are of"))
        }
    }
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let from_where = |e: Error| match &p.url {
        Some(url) => e.hint(format!("the file comes from {url}")),
        None => e,
    };
    check_format(&p.source).map_err(from_where)?;
    let out = attempt.output("weights");
    create_dir(&out)?;
    let config = match (&p.preset, &p.config) {
        (Some(name), _) => p.artifact.preset(name)?,
        (None, Some(path)) => read_json(path)?,
        (None, None) => return Err(Error::usage("give either `preset` or `config`")),
    };
    write_json(&out.join("config.json"), &config)?;
    let sum = copy(attempt, &p.source, &out.join(p.artifact.file()))?;
    if let Some(want) = &p.sha256
        && !want.eq_ignore_ascii_case(&sum)
    {
        let text = format!("`{}` has sha256 {sum}, not {want}", p.source.display());
        return Err(from_where(Error::stage(text).hint("the download is damaged or of another version")));
    }
    let tensors = prove(p.artifact, &out).map_err(|e| {
        from_where(Error::from(e).context(format!("`{}` does not fit its configuration", p.source.display())))
    })?;
    attempt.log(&format!("{tensors} tensors, sha256 {sum}"));
    attempt.result("tensors", tensors as f64);
    Ok(())
}

/// Builds the network from the artifact. Returns the number of tensors in the file.
fn prove(artifact: Artifact, dir: &Path) -> candle_core::Result<usize> {
    let tensors = weights::load(&dir.join(artifact.file()), &Device::Cpu)?;
    let count = tensors.len();
    match artifact {
        Artifact::Vae => AutoencoderKl::load(dir, &Device::Cpu).map(drop)?,
        Artifact::Encoder => Encoder::open(dir, &Device::Cpu).map(drop)?,
        Artifact::Sit => {
            let text = std::fs::read_to_string(dir.join("config.json"))?;
            let config: SiTConfig = serde_json::from_str(&text).map_err(candle_core::Error::wrap)?;
            let frozen = Frozen::new(tensors);
            SiT::new(&config, frozen.builder(DType::F32, &Device::Cpu))?;
        }
        // Read when it is used: its config names an architecture, not sizes.
        Artifact::Inception => {}
    }
    Ok(count)
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

    #[test]
    fn presets_belong_to_their_artifact() {
        assert_eq!(Artifact::Vae.preset("sd-vae").unwrap()["scaling_factor"], 0.18215);
        assert_eq!(Artifact::Encoder.preset("dinov2-vit-l").unwrap()["vit"]["dim"], 1024);
        let e = Artifact::Encoder.preset("sd-vae").unwrap_err();
        assert!(e.message.contains("`sd-vae`") && e.hints[0].contains("dinov2-vit-b"));
        assert!(Artifact::Sit.preset("SiT-XL/2").is_err());
    }
}
