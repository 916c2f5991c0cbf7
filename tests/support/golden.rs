//! Golden tensors: inputs and outputs of the PyTorch originals, in `tests/golden` or the folder
//! that `ERW_GOLDEN_DIR` names (of the same layout, so that a set made with other seeds can be
//! checked).
//!
//! `manifest.json` says for each file how the networks were configured and how far results may be
//! off.

use candle_core::{DType, Device, Tensor};
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use erw::ml::rng;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The folder in use.
pub fn dir() -> PathBuf {
    match std::env::var_os("ERW_GOLDEN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    }
}

/// Names, without ending, of the files that begin with `prefix`, sorted.
pub fn names(prefix: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir())
        .expect("the golden folder")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".safetensors").map(str::to_string))
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no {prefix}*.safetensors in {}", dir().display());
    names
}

/// `count` numbers in [-1, 1) that any language can repeat, for tensors too large to store:
/// splitmix64 of the name's FNV-1a digest, the seed of the golden set and the index (`hashed` in
/// golden/make.py).
pub fn hashed(name: &str, count: usize) -> Vec<f32> {
    const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;
    let seed = manifest()["seed"].as_u64().expect("a seed");
    let base = rng::name_id(name).wrapping_add(seed.wrapping_mul(GOLDEN_RATIO));
    let number = |i: u64| {
        let mut z = i.wrapping_add(base).wrapping_add(GOLDEN_RATIO);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count as u64).map(number).collect()
}

fn manifest() -> Value {
    let manifest = std::fs::read(dir().join("manifest.json")).expect("the golden manifest");
    serde_json::from_slice(&manifest).expect("a manifest in JSON")
}

/// A golden file and its entry in the manifest.
pub struct Golden {
    pub name: String,
    pub tensors: Tensors,
    pub about: Value,
}

impl Golden {
    /// # Panics
    /// When the file or its manifest entry is not there.
    pub fn open(name: &str) -> Self {
        let file = format!("{name}.safetensors");
        let tensors = params::load(&dir().join(&file), &Device::Cpu).expect("a golden file");
        let about = manifest()["files"][&file].clone();
        assert!(about.is_object(), "the golden manifest has no entry {file}");
        Self { name: name.to_string(), tensors, about }
    }

    pub fn get(&self, key: &str) -> Tensor {
        self.tensors.get(key).unwrap_or_else(|| panic!("{}: no tensor {key}", self.name)).clone()
    }

    /// Tensors named `group/NAME`, by NAME.
    pub fn group(&self, group: &str) -> Tensors {
        let prefix = format!("{group}/");
        self.tensors.iter().filter_map(|(k, t)| Some((k.strip_prefix(&prefix)?.to_string(), t.clone()))).collect()
    }

    /// The manifest's `config`, as the struct of the network.
    pub fn config<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_value(self.about["config"].clone()).expect("a configuration")
    }

    pub fn tolerance(&self, of: &str) -> f64 {
        self.about["tolerance"][of].as_f64().unwrap_or_else(|| panic!("{}: no tolerance for {of}", self.name))
    }

    /// Compares as the manifest says: largest difference, relative to the largest expected value
    /// when that is above 1 unless the kind is `abs`.
    pub fn assert_close(&self, what: &str, got: &Tensor, want: &Tensor, of: &str) {
        assert_eq!(got.dims(), want.dims(), "{}: shape of {what}", self.name);
        let numbers = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let (got, want) = (numbers(got), numbers(want));
        let largest =
            |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |m, v| if v > m || v.is_nan() { v } else { m });
        let scale = if self.about["tolerance"]["kind"] == "abs" {
            1.0
        } else {
            largest(&mut want.iter().map(|v| v.abs())).max(1.0)
        };
        let error = largest(&mut got.iter().zip(&want).map(|(a, b)| (a - b).abs())) / scale;
        let limit = self.tolerance(of);
        assert!(error <= limit, "{}: {what} is off by {error:e}, allowed {limit:e}", self.name);
    }
}
