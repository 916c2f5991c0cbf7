//! What stands beside numbers that a network gave: which network, how images came to it, who made
//! the images. Two sets of numbers compare only where the first two are the same.

use crate::support::files::NOTE_FILE;
use erw_base::error::{Error, Result};
use erw_ml::data::source::left_out::LeftOut;
use erw_ml::diffusion::sampler::{Labels, SamplerConfig};
use erw_ml::metrics::gaussian::STATS_FILE;
use erw_ml::metrics::inception_score::Score;
use erw_ml::models::feature_network::FeatureNetwork;
use erw_ml::models::feature_network::mode::Mode;
use erw_ml::models::inception::Inception;
use erw_runner::files::digest::Digest;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Pooled features of some of the images, beside the same.
pub const FEATURES_FILE: &str = "features.safetensors";
/// Their name in that file.
pub const POOL: &str = "pool";

/// A network and how images come to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Extractor {
    pub network: String,
    /// Whose tool is imitated; `None` of a network that no tool has.
    pub mode: Option<Mode>,
    pub preparation: String,
    pub dim: usize,
    /// Digest of the network's weights.
    pub weights: String,
}

impl Extractor {
    /// `dir` is the artifact that the network was opened from.
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

    /// Would numbers of both compare?
    pub fn agrees(&self, other: &Self, names: [&str; 2]) -> Result<()> {
        let [ours, theirs] = names;
        if (&self.network, &self.weights) != (&other.network, &other.weights) {
            let text = format!("{ours} and {theirs} are features of other networks");
            let told = |name: &str, s: &Self| format!("{name}: `{}`, weights {}", s.network, &s.weights[..12]);
            return Err(Error::stage(text)
                .because(format!("{}\n{}", told(ours, self), told(theirs, other)))
                .hint("make both with one network"));
        }
        if let (Some(mine), Some(other)) = (self.mode, other.mode)
            && mine != other
        {
            let text = format!("{ours} is of mode {}, {theirs} of mode {}", mine.name(), other.name());
            return Err(Error::stage(text).hint("make both with one `mode`"));
        }
        if self.preparation != other.preparation {
            let text = format!("images of {ours} and {theirs} came to the network in other ways");
            return Err(Error::stage(text)
                .because(format!("{ours}: {}\n{theirs}: {}", self.preparation, other.preparation))
                .hint("make both with one `mode`"));
        }
        Ok(())
    }
}

/// Of the weights alone: a configuration beside them may be told differently.
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

/// The digest of an artifact in the cache, which is what its folder there is called.
pub fn artifact_digest(dir: &Path) -> Option<String> {
    let name = dir.file_name()?.to_str()?;
    name.parse::<Digest>().is_ok().then(|| name.to_string())
}

/// What `meta.json` of a `samples` artifact says of their making.
#[derive(Deserialize)]
struct Made {
    sampler: SamplerConfig,
    weights: String,
    labels: Labels,
}

/// How samples were made, in a line: `sde, 250 steps, cfg 1, labels random, weights ema`. `None` of
/// other images.
pub fn sampler(dir: &Path) -> Option<String> {
    let text = erw_base::text::read(dir.join("meta.json")).ok()?;
    let Made { sampler, weights, labels } = serde_json::from_str(&text).ok()?;
    let word = |value: serde_json::Result<serde_json::Value>| Some(value.ok()?.as_str()?.to_string());
    let (method, labels) = (word(serde_json::to_value(sampler.method))?, word(serde_json::to_value(labels))?);
    let guided = sampler.cfg_scale > 1.0 && (sampler.guidance_low, sampler.guidance_high) != (0.0, 1.0);
    let interval = match guided {
        true => format!(" for t from {} to {}", sampler.guidance_low, sampler.guidance_high),
        false => String::new(),
    };
    let (steps, scale) = (sampler.steps, sampler.cfg_scale);
    Some(format!("{method}, {steps} steps, cfg {scale}{interval}, labels {labels}, weights {weights}"))
}

/// [`NOTE_FILE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    pub format: u64,
    #[serde(flatten)]
    pub seen: Extractor,
    /// Images that the statistics are of.
    pub count: u64,
    /// Images whose features are kept.
    pub features: u64,
    pub inception_score: Option<Score>,
    /// How the images were made, if they are samples.
    pub sampler: Option<String>,
    /// Artifact that the images are from.
    pub images: Option<String>,
    /// What is to be said wherever these statistics are used.
    pub caution: Option<String>,
    /// What lay beside the images and was none of them.
    #[serde(default, skip_serializing_if = "LeftOut::is_empty")]
    pub left_out: LeftOut,
}

/// Version of the layout.
pub const FORMAT: u64 = 1;

impl Provenance {
    /// `None` where the statistics were made elsewhere.
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
