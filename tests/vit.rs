//! The vision transformer against PyTorch, and what encoders do to pixels.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use erw::ml::models::encoder::{Encoder, EncoderConfig, Kernel, resample, resample_positions};
use erw::ml::models::vit::{Vit, VitConfig, patchify};
use erw::ml::weights::{self, Frozen, ParamSet, Tensors};
use std::path::Path;

const CPU: Device = Device::Cpu;

fn golden(name: &str) -> Result<Tensors> {
    weights::load(&Path::new("tests/golden").join(name), &CPU)
}

fn model_weights(g: &Tensors) -> Tensors {
    g.iter().filter_map(|(k, v)| Some((k.strip_prefix("w/")?.to_string(), v.clone()))).collect()
}

/// max |a - b| / max(1, max |b|), the measure of golden/manifest.json.
fn difference(a: &Tensor, b: &Tensor) -> Result<f32> {
    assert_eq!(a.dims(), b.dims());
    let scale = b.abs()?.max_all()?.to_scalar::<f32>()?.max(1.0);
    Ok((a - b)?.abs()?.max_all()?.to_scalar::<f32>()? / scale)
}

fn config(image_size: usize, patch_size: usize, dinov2: bool) -> VitConfig {
    VitConfig {
        image_size,
        patch_size,
        dim: 48,
        depth: 2,
        heads: 3,
        mlp_dim: 192,
        class_token: true,
        layer_scale: dinov2,
        exact_gelu: true,
        final_norm: true,
        eps: 1e-6,
    }
}

fn build(config: &VitConfig, g: &Tensors) -> Result<(Vit, Vec<String>)> {
    let frozen = Frozen::new(model_weights(g));
    let vb: VarBuilder = frozen.builder(DType::F32, &CPU);
    Ok((Vit::new(config, vb)?, frozen.unused()))
}

#[test]
fn dinov2_equals_pytorch() -> Result<()> {
    let g = golden("dinov2.safetensors")?;
    let (vit, unused) = build(&config(56, 14, true), &g)?;
    assert!(unused.is_empty(), "{unused:?}");
    let all = vit.encode(&vit.embed(&g["in/image"])?)?;
    assert!(difference(&all.narrow(1, 0, 1)?.squeeze(1)?, &g["out/x_norm_clstoken"])? < 2e-5);
    assert!(difference(&vit.tokens(&g["in/image"])?, &g["out/x_norm_patchtokens"])? < 2e-5);
    assert!(vit.tokens(&Tensor::zeros((1, 3, 28, 28), DType::F32, &CPU)?).is_err());
    Ok(())
}

#[test]
fn patch_16_features_of_moco_and_mae_equal_pytorch() -> Result<()> {
    let g = golden("vit16.safetensors")?;
    let (moco, _) = build(&config(64, 16, false), &g)?;
    assert!(difference(&moco.tokens(&g["in/image"])?, &g["out/z_mocov3"])? < 2e-5);
    let (mae, unused) = build(&VitConfig { final_norm: false, ..config(64, 16, false) }, &g)?;
    assert!(difference(&mae.tokens(&g["in/image"])?, &g["out/z_mae"])? < 2e-5);
    assert_eq!(unused, ["norm.bias", "norm.weight"]);
    Ok(())
}

#[test]
fn pixels_are_prepared_as_for_dinov2() -> Result<()> {
    let g = golden("preprocess.safetensors")?;
    let got = EncoderConfig::dinov2(384, 12, 6).prepare(&g["in/image_u8"])?;
    let d = (got - &g["out/dinov2"])?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(d < 5e-6, "{d}");
    for (name, kernel) in [("small_bicubic_11x40", Kernel::Torch), ("small_bicubic_aa_11x40", Kernel::Antialiased)] {
        let got = resample(&g["in/small"], 11, 40, kernel)?;
        let d = difference(&got, &g[&format!("out/{name}")])?;
        assert!(d < 5e-6, "{name}: {d}");
    }
    Ok(())
}

#[test]
fn position_tables_are_resampled_as_by_timm() -> Result<()> {
    let g = golden("pos_resample.safetensors")?;
    for (old, new) in [(37, 16), (14, 16), (14, 32), (16, 16)] {
        let got = resample_positions(&g[&format!("in/pos_{old}")], 1, new)?;
        let d = difference(&got, &g[&format!("out/pos_{old}_to_{new}")])?;
        assert!(d < 1e-5, "{old} to {new}: {d}");
    }
    assert!(resample_positions(&Tensor::zeros((1, 12, 4), DType::F32, &CPU)?, 1, 4).is_err());
    Ok(())
}

#[test]
fn encoders_refuse_weights_of_another_model() -> Result<()> {
    let g = golden("dinov2.safetensors")?;
    let whole = EncoderConfig { vit: config(56, 14, true), mean: [0.5; 3], std: [0.5; 3] };
    let error = |c: &EncoderConfig, w: Tensors| Encoder::new(c, w, &CPU).unwrap_err().to_string();
    let mut short = model_weights(&g);
    short.remove("blocks.1.mlp.fc1.bias");
    assert!(error(&whole, short).contains("blocks.1.mlp.fc1.bias"));
    let shallow = EncoderConfig { vit: VitConfig { depth: 1, ..config(56, 14, true) }, ..whole.clone() };
    assert!(error(&shallow, model_weights(&g)).contains("does not have: blocks.1"));
    // 56 pixels or 112, positions follow; a mask token is DINOv2's own business.
    let large = EncoderConfig { vit: config(112, 14, true), ..whole };
    let mut with_mask = model_weights(&g);
    with_mask.insert("mask_token".into(), Tensor::zeros((1, 48), DType::F32, &CPU)?);
    let encoder = Encoder::new(&large, with_mask, &CPU)?;
    let tokens = encoder.tokens(&Tensor::zeros((2, 3, 40, 40), DType::U8, &CPU)?)?;
    assert_eq!((tokens.dims(), encoder.shape()), (&[2, 64, 48][..], (64, 48)));
    Ok(())
}

#[test]
fn every_parameter_of_the_transformer_gets_a_gradient() -> Result<()> {
    for exact_gelu in [true, false] {
        let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
        let vit = Vit::new(&VitConfig { exact_gelu, ..config(8, 4, true) }, vb)?;
        let x = Tensor::arange(0f32, 384.0, &CPU)?.reshape((2, 3, 8, 8))?.sin()?;
        let all = vit.encode(&vit.embed(&x)?)?;
        let weights = Tensor::arange(0f32, all.elem_count() as f32, &CPU)?.sin()?.reshape(all.shape())?;
        let grads = (all * weights)?.sum_all()?.backward()?;
        for (name, var) in params.vars() {
            let g = grads.get(&var).unwrap_or_else(|| panic!("{name}")).abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(g > 0.0, "{name}");
        }
    }
    Ok(())
}

#[test]
fn patches_run_row_by_row() -> Result<()> {
    let x = Tensor::arange(0f32, 16.0, &CPU)?.reshape((1, 1, 4, 4))?;
    let p = patchify(&x, 2)?.squeeze(0)?.to_vec2::<f32>()?;
    assert_eq!(p, [[0., 1., 4., 5.], [2., 3., 6., 7.], [8., 9., 12., 13.], [10., 11., 14., 15.]]);
    Ok(())
}
