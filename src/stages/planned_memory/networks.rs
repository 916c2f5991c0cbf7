//! The frozen networks that stages use, before the stages that make them have run. Shapes are all that
//! memory depends on.

use super::foreseen::Maker;
use crate::data::weights::{self, Described};
use crate::training::{train_encoder, train_vae};
use erw_ml::models::vae::AutoencoderKl;
use erw_ml::models::vit::VitConfig;
use erw_ml::nn::params;

/// The autoencoder that this stage makes, without weights.
pub fn autoencoder(maker: &Maker) -> Option<AutoencoderKl> {
    let config = match maker.kind {
        kind if kind == weights::KIND.name => match weights::described(&maker.params)?.0 {
            Described::Vae(config) => config,
            Described::Encoder(_) => return None,
        },
        kind if kind == train_vae::KIND.name => train_vae::planned(&maker.params)?,
        _ => return None,
    };
    config.check().ok()?;
    params::census(|vb| AutoencoderKl::new(&config, vb)).ok().map(|(vae, _)| vae)
}

/// The transformer of the encoder that this stage makes, which cuts images into `grid` x `grid` tokens.
pub fn transformer(maker: &Maker, grid: usize) -> Option<VitConfig> {
    match maker.kind {
        kind if kind == weights::KIND.name => match weights::described(&maker.params)?.0 {
            Described::Encoder(config) => Some(config.vit),
            Described::Vae(_) => None,
        },
        kind if kind == train_encoder::KIND.name => train_encoder::planned(&maker.params, grid),
        _ => None,
    }
}
