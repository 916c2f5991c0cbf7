//! What weights can be imported as: the artifact types, the presets of each, and the mapping of
//! tensor names to each network. It does not read files.

use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_ml::models::classifier::{Classifier, ClassifierConfig};
use erw_ml::models::encoder::config::EncoderConfig;
use erw_ml::models::encoder::{self, Encoder};
use erw_ml::models::feature_network::mode::Mode;
use erw_ml::models::feature_network::open::open_feature_network;
use erw_ml::models::inception::{self, Inception, InceptionConfig};
use erw_ml::models::sit::{self, SiTConfig, release};
use erw_ml::models::vae::{self, AutoencoderKl, VaeConfig};
use erw_ml::nn::params::{self, Adopted, LoadReport, Tensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

/// The preset whose latents are normalised by channel.
pub const VA_VAE: &str = "va-vae";

/// A type of artifact.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Artifact {
    Vae,
    Encoder,
    Inception,
    /// Trained and exported by erw; none is published.
    Classifier,
    Sit,
    /// Published mean and covariance of a data set; not a network.
    Stats,
}

impl Artifact {
    pub const ALL: [Self; 6] = [Self::Vae, Self::Encoder, Self::Inception, Self::Classifier, Self::Sit, Self::Stats];

    pub fn name(self) -> &'static str {
        match self {
            Self::Vae => "vae",
            Self::Encoder => "encoder",
            Self::Inception => "inception",
            Self::Classifier => "classifier",
            Self::Sit => "sit",
            Self::Stats => "stats",
        }
    }

    /// Names of the known networks of this type.
    pub fn presets(self) -> &'static [&'static str] {
        match self {
            Self::Vae => &["sd-vae", VA_VAE],
            Self::Encoder => encoder::NAMES,
            Self::Inception => &[Inception::ARCH],
            Self::Sit => &sit::NAMES,
            Self::Classifier | Self::Stats => &[],
        }
    }

    pub fn check_preset(self, name: &str) -> Result<()> {
        if self.presets().contains(&name) {
            return Ok(());
        }
        let error = Error::usage(format!("unknown `preset` `{name}`"));
        Err(match self.presets() {
            [] => error.hint(format!("type `{}` has no presets", self.name())),
            presets => error.hint(format!("known: {}", presets.join(", "))),
        })
    }

    /// Tensors that occur exactly once in a copy of the network; see
    /// [`erw_ml::models::state_dict`].
    pub fn landmarks(self) -> &'static [&'static str] {
        match self {
            Self::Vae => vae::LANDMARKS,
            Self::Encoder => encoder::LANDMARKS,
            Self::Inception => inception::LANDMARKS,
            Self::Classifier => &["head.weight"],
            Self::Sit => release::LANDMARKS,
            Self::Stats => &[],
        }
    }

    /// Names of the weights files in the artifact. A SiT has two. When the source holds only one
    /// set of weights, both files get it, so that stages that initialise from the model and stages
    /// that sample from its average both find their file.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Self::Vae => &[vae::WEIGHTS_FILE],
            Self::Encoder => &[encoder::WEIGHTS_FILE],
            Self::Inception => &[inception::WEIGHTS_FILE],
            Self::Classifier => &["classifier.safetensors"],
            Self::Sit => &["ema.safetensors", "model.safetensors"],
            Self::Stats => &[],
        }
    }

    /// `config.json` of a preset, or of the network that the tensors imply.
    pub fn config(self, preset: Option<&str>, file: &Tensors) -> Result<Value> {
        if let Some(name) = preset {
            self.check_preset(name)?;
        }
        let value = match (self, preset) {
            (Self::Vae, Some(VA_VAE)) => serde_json::to_value(VaeConfig::va_vae()),
            // stabilityai/sd-vae-ft-mse and -ema.
            (Self::Vae, Some(_)) => {
                let config = VaeConfig::rgb(&[128, 256, 512, 512], 2, 4, 32, true);
                serde_json::to_value(VaeConfig { scaling_factor: 0.18215, ..config })
            }
            (Self::Encoder, Some(name)) => serde_json::to_value(EncoderConfig::named(name)),
            (Self::Inception, Some(name)) => {
                serde_json::to_value(InceptionConfig { arch: name.into(), mode: Mode::default() })
            }
            (Self::Sit, name) => {
                serde_json::to_value(SiTConfig::of_release(name, &release::adopt(file.clone())?.tensors)?)
            }
            _ => return Err(Error::usage("the weights do not determine the network")),
        };
        value.map_err(|e| Error::internal("a preset cannot be written as JSON").because(e))
    }

    /// Renames the tensors of a file to our names and reports the result of loading them.
    pub fn adopt(self, config: &Value, file: Tensors) -> candle_core::Result<(Adopted, LoadReport)> {
        match self {
            Self::Vae => {
                let config: VaeConfig = typed(config)?;
                let adopted = vae::adopt(&config, file)?;
                let (_, shapes) = params::census(|vb| AutoencoderKl::new(&config, vb))?;
                let report = params::compare(&shapes, &adopted.tensors);
                Ok((adopted, report))
            }
            Self::Encoder => {
                let config: EncoderConfig = typed(config)?;
                let adopted = encoder::adopt(&config, file)?;
                let report = encoder::fit(&config, adopted.tensors.clone())?;
                Ok((adopted, report))
            }
            Self::Inception => {
                let config: InceptionConfig = typed(config)?;
                let adopted = inception::adopt(file)?;
                let (_, shapes) = params::census(|vb| Inception::new(config.mode, vb))?;
                let report = params::compare(&shapes, &adopted.tensors);
                Ok((adopted, report))
            }
            Self::Classifier => {
                let config: ClassifierConfig = typed(config)?;
                let (_, shapes) = params::census(|vb| Classifier::new(&config, vb))?;
                let report = params::compare(&shapes, &file);
                Ok((Adopted { tensors: file, ..Adopted::default() }, report))
            }
            Self::Sit => {
                let config: SiTConfig = typed(config)?;
                let adopted = release::adopt(file)?;
                let report = release::fit(&config, &adopted.tensors)?;
                Ok((adopted, report))
            }
            Self::Stats => Err(candle_core::Error::Msg("statistics are not a network".into())),
        }
    }

    /// Opens the artifact as later stages will.
    pub fn check_opens(self, dir: &Path) -> candle_core::Result<()> {
        match self {
            Self::Vae => AutoencoderKl::load(dir, &Device::Cpu).map(drop),
            Self::Encoder => Encoder::open(dir, &Device::Cpu).map(drop),
            Self::Inception | Self::Classifier => open_feature_network(dir, None, &Device::Cpu).map(drop),
            // `adopt` has compared every name and shape; nothing else can fail.
            Self::Sit | Self::Stats => Ok(()),
        }
    }
}

fn typed<T: DeserializeOwned>(config: &Value) -> candle_core::Result<T> {
    serde_json::from_value(config.clone()).map_err(|e| candle_core::Error::Msg(format!("invalid configuration: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use erw_ml::models::vit::Vit;

    #[test]
    fn presets_belong_to_their_artifact() {
        let none = Tensors::new();
        assert_eq!(Artifact::Vae.config(Some("sd-vae"), &none).unwrap()["scaling_factor"], 0.18215);
        assert_eq!(Artifact::Encoder.config(Some("dinov2-vit-l"), &none).unwrap()["vit"]["dim"], 1024);
        let e = Artifact::Encoder.config(Some("sd-vae"), &none).unwrap_err();
        assert!(e.message.contains("`sd-vae`") && e.hints[0].contains("dinov2-vit-b"));
        assert!(Artifact::Sit.check_preset("SiT-XL/2").is_ok() && Artifact::Sit.check_preset("SiT-XL/3").is_err());
    }

    /// Every entry of the shipped registry can be imported.
    #[test]
    fn the_registry_names_artifacts_and_presets_that_exist() {
        for entry in erw_fetch::registry::shipped().unwrap() {
            let artifact = Artifact::ALL.into_iter().find(|a| a.name() == entry.artifact);
            let artifact = artifact.unwrap_or_else(|| panic!("{}: `{}`", entry.name, entry.artifact));
            match &entry.preset {
                Some(preset) => artifact.check_preset(preset).unwrap(),
                None => assert_eq!(artifact, Artifact::Stats, "{}", entry.name),
            }
        }
        let entries = erw_fetch::registry::shipped().unwrap();
        assert!(
            encoder::NAMES.iter().all(|name| entries.iter().any(|e| e.name == *name)),
            "every encoder has its file"
        );
    }

    /// stabilityai/sd-vae-ft-mse has 334,643,276 bytes, timm/vit_base_patch14_dinov2.lvd142m 346
    /// MB.
    #[test]
    fn presets_are_of_the_size_of_the_released_files() {
        let numbers = |shapes: std::collections::BTreeMap<String, candle_core::Shape>| -> usize {
            shapes.values().map(candle_core::Shape::elem_count).sum()
        };
        let config: VaeConfig = typed(&Artifact::Vae.config(Some("sd-vae"), &Tensors::new()).unwrap()).unwrap();
        let bytes = 4 * numbers(params::census(|vb| AutoencoderKl::new(&config, vb)).unwrap().1);
        // The rest is the header: names, shapes and offsets of some 250 tensors.
        assert!((10_000..50_000).contains(&(334_643_276 - bytes)), "{bytes}");

        let config = EncoderConfig::named("dinov2-vit-b").unwrap();
        assert_eq!(config.vit.image_size, 518, "its table is of 37 x 37 positions");
        let ours = numbers(params::census(|vb| Vit::new(&config.vit, vb)).unwrap().1);
        assert_eq!(4 * ours / 1_000_000, 346);
    }
}
