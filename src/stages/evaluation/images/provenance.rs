//! What is recorded beside numbers from a feature network: which network, how images were prepared
//! for it, and how the images were made. Two sets of numbers are comparable only if network and
//! preparation agree.

use crate::support::files::NOTE_FILE;
use erw_base::error::{Error, Result};
use erw_ml::data::source::left_out::LeftOut;
use erw_ml::diffusion::sampler::{ATOL, Labels, Method, RTOL, SamplerConfig};
use erw_ml::metrics::gaussian::STATS_FILE;
use erw_ml::metrics::inception_score::Score;
use erw_ml::models::feature_network::FeatureNetwork;
use erw_ml::models::feature_network::mode::Mode;
use erw_ml::models::inception::Inception;
use erw_runner::files::digest::Digest;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// In the error about features that two different networks computed.
pub const OTHER_NETWORKS: &str = "are features of other networks";

/// File of a `stats` artifact with the pooled features of some of the images.
pub const FEATURES_FILE: &str = "features.safetensors";
/// Name of the tensor in that file.
pub const POOL: &str = "pool";

/// A feature network, and how images are prepared for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Extractor {
    pub network: String,
    /// The tool whose preparation is reproduced; `None` for a network that no tool uses.
    pub mode: Option<Mode>,
    pub preparation: String,
    /// Length of pooled features.
    pub dim: usize,
    /// Digest of the network's weights.
    pub weights: String,
}

impl Extractor {
    /// Describes `network`, which was opened from the artifact in `dir`.
    pub fn by(network: &dyn FeatureNetwork, dir: &Path) -> Result<Self> {
        Ok(Self {
            network: network.name().into(),
            mode: network.mode(),
            preparation: network.preparation().into(),
            dim: network.dim(),
            weights: weights_digest(dir)?,
        })
    }

    pub fn is_inception(&self) -> bool {
        self.network == Inception::ARCH
    }

    /// Checks that numbers from both are comparable. `names` are their names in messages.
    ///
    /// # Errors
    /// If network, weights, mode or preparation differ.
    pub fn agrees(&self, other: &Self, names: [&str; 2]) -> Result<()> {
        let [ours, theirs] = names;
        if (&self.network, &self.weights) != (&other.network, &other.weights) {
            let text = format!("{ours} and {theirs} {OTHER_NETWORKS}");
            let told = |name: &str, s: &Self| format!("{name}: `{}`, weights {}", s.network, &s.weights[..12]);
            return Err(Error::stage(text)
                .because(format!("{}\n{}", told(ours, self), told(theirs, other)))
                .hint("make both with one network"));
        }
        if let (Some(mine), Some(other)) = (self.mode, other.mode)
            && mine != other
        {
            let text = format!("{ours} was made in mode {}, but {theirs} in mode {}", mine.name(), other.name());
            return Err(Error::stage(text).hint("make both with one `mode`"));
        }
        if self.preparation != other.preparation {
            let text = format!("images of {ours} and {theirs} were prepared for the network in different ways");
            return Err(Error::stage(text)
                .because(format!("{ours}: {}\n{theirs}: {}", self.preparation, other.preparation))
                .hint("make both with one `mode`"));
        }
        Ok(())
    }
}

/// Digest of the weight files alone: the same configuration can be written in different ways.
fn weights_digest(dir: &Path) -> Result<String> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))?;
    let mut files: Vec<PathBuf> =
        entries.map(|e| Ok(e.map_err(|e| Error::io("list", dir, e))?.path())).collect::<Result<_>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "safetensors"));
    files.sort();
    let digest = |f: &PathBuf| Digest::of_file(f).map_err(|e| Error::io("read", f, e));
    let digests: Vec<Digest> = files.iter().map(digest).collect::<Result<_>>()?;
    let one = match digests.as_slice() {
        [one] => *one,
        many => Digest::of_bytes(&many.iter().flat_map(Digest::bytes).collect::<Vec<_>>()),
    };
    Ok(one.to_string())
}

/// The digest of an artifact in the cache, which is the name of its folder. `None` for other
/// folders.
pub fn artifact_digest(dir: &Path) -> Option<String> {
    let name = dir.file_name()?.to_str()?;
    name.parse::<Digest>().is_ok().then(|| name.to_string())
}

/// The part of a `samples` artifact's `meta.json` that describes how the samples were made.
#[derive(Deserialize)]
struct Made {
    sampler: SamplerConfig,
    weights: String,
    /// Of the network that guided.
    guide_weights: Option<String>,
    labels: Labels,
}

/// How samples were made, on one line: `sde, 250 steps, cfg 1, labels random, weights ema`. `None`
/// for other images.
pub fn sampler(dir: &Path) -> Option<String> {
    let text = erw_base::text::read(dir.join("meta.json")).ok()?;
    let Made { sampler, weights, guide_weights, labels } = serde_json::from_str(&text).ok()?;
    let word = |value: serde_json::Result<serde_json::Value>| Some(value.ok()?.as_str()?.to_string());
    let (method, labels) = (word(serde_json::to_value(sampler.method))?, word(serde_json::to_value(labels))?);
    let guided = sampler.cfg_scale > 1.0 && (sampler.guidance_low, sampler.guidance_high) != (0.0, 1.0);
    let interval = match guided {
        true => format!(" for t from {} to {}", sampler.guidance_low, sampler.guidance_high),
        false => String::new(),
    };
    let steps = match (sampler.method, sampler.shift) {
        (Method::OdeDopri5, _) => {
            format!("atol {}, rtol {}", sampler.atol.unwrap_or(ATOL), sampler.rtol.unwrap_or(RTOL))
        }
        (_, Some(shift)) => format!("{} steps, shift {shift}", sampler.steps),
        (_, None) => format!("{} steps", sampler.steps),
    };
    let guide = guide_weights.map(|weights| format!(" by another network's {weights}")).unwrap_or_default();
    let scale = sampler.cfg_scale;
    Some(format!("{method}, {steps}, cfg {scale}{guide}{interval}, labels {labels}, weights {weights}"))
}

/// The contents of [`NOTE_FILE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    pub format: u64,
    #[serde(flatten)]
    pub seen: Extractor,
    /// Number of images behind the statistics.
    pub count: u64,
    /// Number of images whose features are kept.
    pub features: u64,
    pub inception_score: Option<Score>,
    /// How the images were made, if they are samples.
    pub sampler: Option<String>,
    /// Digest of the artifact that contains the images, if they are from one.
    pub images: Option<String>,
    /// A warning to repeat wherever these statistics are used.
    pub caution: Option<String>,
    /// Files beside the images that were left out.
    #[serde(default, skip_serializing_if = "LeftOut::is_empty")]
    pub left_out: LeftOut,
}

/// Version of the layout of [`NOTE_FILE`].
pub const FORMAT: u64 = 1;

impl Provenance {
    /// Reads the note of the artifact in `dir`; `None` if another tool made the statistics.
    ///
    /// # Errors
    /// If the note cannot be read, or has another format.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(NOTE_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let text = erw_base::text::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let unfit = |why: String| {
            let text = format!("`{}` does not describe statistics", path.display());
            Error::stage(text).because(why).hint(format!("without it, {STATS_FILE} is taken as published statistics"))
        };
        match serde_json::from_str::<Self>(&text) {
            Ok(note) if note.format == FORMAT => Ok(Some(note)),
            Ok(note) => Err(unfit(format!("format {}, this program reads format {FORMAT}", note.format))),
            Err(e) => Err(unfit(e.to_string())),
        }
    }
}
