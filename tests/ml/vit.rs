//! The vision transformer, with all of its options, against PyTorch.

use crate::support::golden::Golden;
use candle_core::{DType, Device, Result, Tensor};
use erw::ml::models::vit::{Mlp, Vit, VitConfig, patchify};
use erw::ml::nn::params::{Frozen, ParamSet};
use serde_json::json;

const CPU: Device = Device::Cpu;

/// The sizes of the golden files.
fn config(image_size: usize, patch_size: usize) -> VitConfig {
    VitConfig::new(image_size, patch_size, 48, 2, 3)
}

fn dinov2() -> VitConfig {
    VitConfig { layer_scale: true, ..config(56, 14) }
}

/// A transformer of the golden weights, which are all used but for `unused`.
fn build(config: &VitConfig, g: &Golden, unused: &[&str]) -> Result<Vit> {
    let frozen = Frozen::new(g.group("w"));
    let vit = Vit::new(config, frozen.builder(DType::F32, &CPU))?;
    assert_eq!(frozen.unused(), unused);
    Ok(vit)
}

#[test]
fn dinov2_equals_pytorch() -> Result<()> {
    let registers = VitConfig { registers: 4, ..dinov2() };
    let swiglu = VitConfig { mlp: Mlp::SwiGlu, mlp_dim: 128, ..dinov2() };
    for (name, config) in [("dinov2", dinov2()), ("dinov2_reg", registers), ("dinov2_swiglu", swiglu)] {
        let g = Golden::open(name);
        let vit = build(&config, &g, &[])?;
        let all = vit.encode(&vit.embed(&g.get("in/image"))?)?;
        let class = all.narrow(1, 0, 1)?.squeeze(1)?;
        g.assert_close("class token", &class, &g.get("out/x_norm_clstoken"), "out");
        g.assert_close("patches", &vit.tokens(&g.get("in/image"))?, &g.get("out/x_norm_patchtokens"), "out");
        if config.registers > 0 {
            g.assert_close("registers", &all.narrow(1, 1, 4)?, &g.get("out/x_norm_regtokens"), "out");
        }
    }
    Ok(())
}

#[test]
fn patch_16_features_of_moco_mae_and_dino_equal_pytorch() -> Result<()> {
    let g = Golden::open("vit16");
    let image = g.get("in/image");
    let normed = build(&config(64, 16), &g, &[])?;
    g.assert_close("MoCo v3", &normed.tokens(&image)?, &g.get("out/z_mocov3"), "out");
    let all = normed.encode(&normed.embed(&image)?)?;
    g.assert_close("DINO", &all, &g.get("out/z_dinov1_all_tokens"), "out");
    let bare = build(&VitConfig { final_norm: false, ..config(64, 16) }, &g, &["norm.bias", "norm.weight"])?;
    g.assert_close("MAE", &bare.tokens(&image)?, &g.get("out/z_mae"), "out");
    let all = bare.encode(&bare.embed(&image)?)?;
    g.assert_close("all tokens", &all, &g.get("out/tokens_after_blocks"), "out");
    Ok(())
}

#[test]
fn a_transformer_without_class_token_equals_pytorch() -> Result<()> {
    let g = Golden::open("ijepa");
    let vit = build(&VitConfig { class_token: false, ..config(56, 14) }, &g, &[])?;
    g.assert_close("I-JEPA", &vit.tokens(&g.get("in/image"))?, &g.get("out/z"), "out");
    Ok(())
}

#[test]
fn images_and_positions_of_another_size_are_refused() -> Result<()> {
    let vit = build(&dinov2(), &Golden::open("dinov2"), &[])?;
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &CPU);
    for shape in [[1, 3, 28, 28], [1, 3, 57, 56], [1, 1, 56, 56], [1, 3, 0, 0]] {
        assert!(vit.tokens(&zeros(&shape)?).is_err(), "{shape:?}");
    }
    let patches = vit.embed(&zeros(&[1, 3, 28, 42])?)?;
    assert_eq!(patches.dims(), [1, 6, 48]);
    assert!(vit.encode_at(&patches, &zeros(&[1, 6, 48])?).is_err());
    let all = vit.encode_at(&patches, &zeros(&[1, 7, 48])?)?;
    assert_eq!((all.dims(), vit.patches_of(&all)?.dims()), (&[1, 7, 48][..], &[1, 6, 48][..]));
    Ok(())
}

#[test]
fn every_parameter_of_the_transformer_gets_a_gradient() -> Result<()> {
    let plain = VitConfig { layer_scale: true, ..config(8, 4) };
    let clip = VitConfig { mlp: Mlp::QuickGelu, no_patch_bias: true, pre_norm: true, ..plain.clone() };
    let configs = [
        VitConfig { exact_gelu: false, ..plain.clone() },
        VitConfig { class_token: false, layer_scale: false, ..plain.clone() },
        VitConfig { registers: 2, mlp: Mlp::SwiGlu, ..plain.clone() },
        VitConfig { final_norm: false, ..clip },
        plain,
    ];
    for config in configs {
        let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
        let vit = Vit::new(&config, vb)?;
        let x = Tensor::arange(0f32, 384.0, &CPU)?.reshape((2, 3, 8, 8))?.sin()?;
        let all = vit.encode(&vit.embed(&x)?)?;
        let weights = Tensor::arange(0f32, all.elem_count() as f32, &CPU)?.sin()?.reshape(all.shape())?;
        let grads = (all * weights)?.sum_all()?.backward()?;
        for (name, var) in params.vars() {
            let g = grads.get(&var).unwrap_or_else(|| panic!("{name}")).abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(g > 0.0, "{name} of {config:?}");
        }
    }
    Ok(())
}

/// Files that were written before there were registers, SwiGLU and the options of CLIP.
#[test]
fn older_configurations_are_read_and_written_unchanged() {
    let older = json!({
        "image_size": 56, "patch_size": 14, "dim": 48, "depth": 2, "heads": 3, "mlp_dim": 192, "class_token": true,
        "layer_scale": true, "exact_gelu": true, "final_norm": true, "eps": 1e-6,
    });
    assert_eq!(serde_json::from_value::<VitConfig>(older.clone()).unwrap(), dinov2());
    assert_eq!(serde_json::to_value(dinov2()).unwrap(), older);
    let newer = VitConfig { registers: 4, mlp: Mlp::SwiGlu, no_patch_bias: true, pre_norm: true, ..dinov2() };
    let text = serde_json::to_string(&newer).unwrap();
    assert!(text.contains(r#""mlp":"swi-glu""#), "{text}");
    assert_eq!(serde_json::from_str::<VitConfig>(&text).unwrap(), newer);
}

#[test]
fn impossible_sizes_are_refused() {
    let huge = usize::MAX / 2;
    for bad in [
        VitConfig { depth: 0, ..config(56, 14) },
        VitConfig { depth: huge, ..config(56, 14) },
        VitConfig { image_size: huge, patch_size: 1, ..config(56, 14) },
        VitConfig { registers: huge, ..config(56, 14) },
        VitConfig { heads: 5, ..config(56, 14) },
        config(57, 14),
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
}

#[test]
fn patches_run_row_by_row() -> Result<()> {
    let x = Tensor::arange(0f32, 16.0, &CPU)?.reshape((1, 1, 4, 4))?;
    let p = patchify(&x, 2)?.squeeze(0)?.to_vec2::<f32>()?;
    assert_eq!(p, [[0., 1., 4., 5.], [2., 3., 6., 7.], [8., 9., 12., 13.], [10., 11., 14., 15.]]);
    Ok(())
}
