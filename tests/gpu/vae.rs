//! Autoencoders as commands of the emulated card, against candle's operations on the CPU.

use super::networks::{Counting, distance, move_away, normal};
use super::support::{card, epsilon};
use candle_core::{DType, Device};
use erw::ml::gpu::vae::{decoder, encoder};
use erw::ml::models::vae::{AutoencoderKl, Posterior, VaeConfig};
use erw::ml::nn::params::ParamSet;
use erw_gpu::program::Type;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Every switch: attention at the deepest level or at others, too, levels of equal and different width,
/// convolutions around the latents or none, widths that are no multiple of 8.
fn configs() -> Vec<VaeConfig> {
    let base = VaeConfig::rgb(&[16, 32, 32], 1, 4, 8, true);
    let mut everywhere = VaeConfig::rgb(&[12, 24], 2, 3, 4, true);
    everywhere.down_block_types[1] = "AttnDownEncoderBlock2D".into();
    everywhere.up_block_types[0] = "AttnUpDecoderBlock2D".into();
    let bare = VaeConfig { use_quant_conv: false, use_post_quant_conv: false, ..base.clone() };
    vec![base, everywhere, VaeConfig { mid_block_add_attention: false, ..bare }]
}

fn random(config: &VaeConfig) -> AutoencoderKl {
    let (params, vb) = ParamSet::init(3, DType::F32, &Device::Cpu);
    let vae = AutoencoderKl::new(config, vb).unwrap();
    move_away(&params);
    vae
}

/// Three samples by batches of two, in every type of products. A dozen layers, each rounded, with
/// sums in another order.
#[test]
fn latents_and_images_equal_those_of_the_cpu() {
    for config in configs() {
        let (vae, f) = (random(&config), config.downsampling());
        let latent = [8, 4];
        let latents = normal(1, &[3, config.latent_channels, latent[0], latent[1]]);
        let images = normal(2, &[3, 3, latent[0] * f, latent[1] * f]);
        let posterior = vae.encode(&images).unwrap();
        for ty in [Type::F32, Type::Bf16, Type::F16] {
            let bound = 20.0 * epsilon(ty) + 1e-5;
            let mut on_gpu = decoder(&vae, latent, 2, ty).on(card()).unwrap();
            let off = distance(&on_gpu.run(&latents).unwrap()[0], &vae.decode(&latents).unwrap());
            assert!(off < bound, "{config:?} {ty:?}: images off by {off:e}");
            let mut on_gpu = encoder(&vae, latent.map(|side| side * f), 2, ty).on(card()).unwrap();
            let got = Posterior::from_moments(&on_gpu.run(&images).unwrap()[0]).unwrap();
            let off = distance(&got.mean, &posterior.mean).max(distance(&got.std, &posterior.std));
            assert!(off < bound, "{config:?} {ty:?}: latents off by {off:e}");
        }
    }
}

#[test]
fn an_autoencoder_takes_the_memory_that_was_told() {
    let config = &configs()[0];
    let vae = random(config);
    let plan = decoder(&vae, [4, 4], 2, Type::Bf16);
    let card = Counting::new(card());
    let taken = card.counter();
    let mut on_gpu = plan.on(Arc::new(card)).unwrap();
    on_gpu.run(&normal(1, &[2, 4, 4, 4])).unwrap();
    assert_eq!(taken.load(Relaxed), plan.memory().unwrap());
    assert!(on_gpu.run(&normal(1, &[2, 4, 4, 5])).is_err(), "another size");
    // Attention over 9 pixels.
    assert!(decoder(&vae, [3, 3], 2, Type::F32).memory().is_err());
}

/// Memory is used again. Weights are 198 MB; where a map of 256 x 256 x 256 numbers is normalised and
/// convolved to 128 channels, two and a half of these are needed, 1.07 GB each for sixteen images.
#[test]
fn the_decoder_of_stable_diffusion_fits() {
    let config = VaeConfig::rgb(&[128, 256, 512, 512], 2, 4, 32, true);
    let (vae, _) = erw::ml::nn::params::census(|vb| AutoencoderKl::new(&config, vb)).unwrap();
    let bytes = decoder(&vae, [32, 32], 16, Type::F32).memory().unwrap();
    assert!(bytes < 3_000_000_000, "{bytes}");
}
