//! Presets of published encoders, named as in REPA's `--enc-type` (and some more), with the sizes of
//! their original code.

use super::config::{EncoderConfig, Positions};
use crate::models::vit::{Mlp, VitConfig};

/// The names that [`EncoderConfig::named`] knows.
pub const NAMES: &[&str] = &[
    "dinov2-vit-s",
    "dinov2-vit-b",
    "dinov2-vit-l",
    "dinov2-vit-g",
    "dinov2reg-vit-s",
    "dinov2reg-vit-b",
    "dinov2reg-vit-l",
    "dinov2reg-vit-g",
    "dinov1-vit-b",
    "mocov3-vit-b",
    "mocov3-vit-l",
    "mae-vit-l",
    "clip-vit-L",
    "clip-vit-L-336",
    "jepa-vit-h",
    "dinov3-vit-s",
    "dinov3-vit-b",
    "dinov3-vit-l",
    "siglip2-vit-b",
    "siglip2-vit-l",
];

/// Mean and standard deviation of ImageNet, as in torchvision.
const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
const CLIP: ([f64; 3], [f64; 3]) =
    ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]);

impl EncoderConfig {
    /// A preset by its name, as in REPA's `--enc-type`.
    pub fn named(name: &str) -> Option<Self> {
        let (family, size) = name.split_once("-vit-")?;
        // Width, depth and heads.
        let (dim, depth, heads) = match size {
            "s" => (384, 12, 6),
            "b" => (768, 12, 12),
            "l" | "L" | "L-336" => (1024, 24, 16),
            "h" => (1280, 32, 16),
            "g" => (1536, 40, 24),
            _ => return None,
        };
        // The position table has the image size of the last training phase.
        let vit = |side, patch| VitConfig::new(side, patch, dim, depth, heads);
        let (vit, positions) = match (family, size) {
            ("dinov2" | "dinov2reg", "s" | "b" | "l" | "g") => {
                let registers = if family == "dinov2reg" { 4 } else { 0 };
                (dinov2(VitConfig { registers, ..vit(518, 14) }, size), Positions::Learned)
            }
            ("dinov1", "b") => (vit(224, 16), Positions::Learned),
            ("mocov3", "b" | "l") => (vit(224, 16), Positions::SincosRows),
            ("mae", "l") => (VitConfig { final_norm: false, ..vit(224, 16) }, Positions::Sincos),
            ("clip", "L") => (clip(vit(224, 14)), Positions::Learned),
            // Not in REPA: CMMD uses it.
            ("clip", "L-336") => (clip(vit(336, 14)), Positions::Learned),
            ("jepa", "h") => (VitConfig { class_token: false, ..vit(224, 14) }, Positions::Sincos),
            // The rest is not in REPA.
            ("dinov3", "s" | "b" | "l") => (dinov3(vit(224, 16)), Positions::Learned),
            // The table is resampled as that of any other: all resolutions of the same patch size do.
            ("siglip2", "b" | "l") => (siglip(vit(256, 16)), Positions::Learned),
            _ => return None,
        };
        let (mean, std) = match family {
            "clip" => CLIP,
            "siglip2" => ([0.5; 3], [0.5; 3]),
            _ => IMAGENET,
        };
        Some(Self { vit, mean, std, pixels_per_token: Some(16), positions })
    }
}

fn dinov2(vit: VitConfig, size: &str) -> VitConfig {
    let vit = VitConfig { layer_scale: true, ..vit };
    match size {
        "g" => VitConfig { mlp: Mlp::SwiGlu, mlp_dim: swiglu_width(vit.dim), ..vit },
        _ => vit,
    }
}

/// Registers as in DINOv2 with them, rotary positions, a larger eps (Siméoni et al. 2025).
fn dinov3(vit: VitConfig) -> VitConfig {
    VitConfig { registers: 4, layer_scale: true, rope_theta: Some(100.0), eps: 1e-5, ..vit }
}

/// The vision tower of SigLIP 2 at a fixed resolution, without the pooling (Tschannen et al. 2025).
fn siglip(vit: VitConfig) -> VitConfig {
    VitConfig { class_token: false, exact_gelu: false, ..vit }
}

/// Two thirds of 4 `dim`, rounded up to a multiple of 8, so that three matrices have as many
/// weights as two had.
fn swiglu_width(dim: usize) -> usize {
    (4 * dim * 2 / 3).next_multiple_of(8)
}

/// CLIP without its own last norm: features are the output of the last block.
fn clip(vit: VitConfig) -> VitConfig {
    VitConfig { mlp: Mlp::QuickGelu, no_patch_bias: true, pre_norm: true, final_norm: false, eps: 1e-5, ..vit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::vit::Vit;
    use crate::nn::params::census;

    /// Parameter counts of the originals by timm 1.0.31, at the image size of their position table:
    /// without the head, and without the last norm where its output is not used.
    #[test]
    fn presets_have_as_many_parameters_as_the_originals() {
        for (name, count) in COUNTS {
            let config = EncoderConfig::named(name).expect("a preset");
            let (_, shapes) = census(|vb| Vit::new(&config.vit, vb)).expect("a sound preset");
            assert_eq!(shapes.values().map(|s| s.elem_count()).sum::<usize>(), *count, "{name}");
        }
        assert_eq!(COUNTS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), NAMES);
        for unknown in ["dinov2-vit-h", "clip-vit-l", "jepa-vit-g", "dinov1reg-vit-b", "dinov2", ""] {
            assert!(EncoderConfig::named(unknown).is_none(), "{unknown}");
        }
    }

    const COUNTS: &[(&str, usize)] = &[
        ("dinov2-vit-s", 22_056_192),
        ("dinov2-vit-b", 86_579_712),
        ("dinov2-vit-l", 304_367_616),
        ("dinov2-vit-g", 1_136_479_232),
        ("dinov2reg-vit-s", 22_057_728),
        ("dinov2reg-vit-b", 86_582_784),
        ("dinov2reg-vit-l", 304_371_712),
        ("dinov2reg-vit-g", 1_136_485_376),
        ("dinov1-vit-b", 85_798_656),
        ("mocov3-vit-b", 85_798_656),
        ("mocov3-vit-l", 303_301_632),
        ("mae-vit-l", 303_299_584),
        ("clip-vit-L", 303_177_728),
        ("clip-vit-L-336", 303_505_408),
        ("jepa-vit-h", 630_762_240),
        // With a bias of zeros for keys, which timm does not count.
        ("dinov3-vit-s", 21_596_160 + 12 * 384),
        ("dinov3-vit-b", 85_659_648 + 12 * 768),
        ("dinov3-vit-l", 303_128_576 + 24 * 1024),
        ("siglip2-vit-b", 85_843_200),
        ("siglip2-vit-l", 303_361_024),
    ];
}
