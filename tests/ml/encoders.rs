//! Encoders: preprocessing of pixels, position tables, and the tensor names of published files.
//!
//! `tests/golden/encoders` holds tiny networks of transformers and timm as these save them;
//! `make.py` there made them.

use crate::support::golden::Golden;
use candle_core::{DType, Device, Result, Tensor};
use erw::ml::models::encoder;
use erw::ml::models::encoder::config::{EncoderConfig, Positions};
use erw::ml::models::encoder::{Encoder, Kernel, adopt, resample, resample_positions};
use erw::ml::models::vit::{Mlp, Vit, VitConfig};
use erw::ml::nn::params;
use erw::ml::nn::params::{Adopted, Frozen, ParamSet, Tensors};
use std::path::Path;

const CPU: Device = Device::Cpu;

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &CPU).unwrap()
}

fn fixed(vit: VitConfig) -> EncoderConfig {
    EncoderConfig::fixed(vit, [0.5; 3], [0.5; 3])
}

fn group(tensors: &Tensors, prefix: &str) -> Tensors {
    tensors.iter().filter_map(|(k, t)| Some((k.strip_prefix(prefix)?.to_string(), t.clone()))).collect()
}

/// max |a - b| / max(1, max |b|), the measure of golden/manifest.json.
fn difference(a: &Tensor, b: &Tensor) -> Result<f32> {
    assert_eq!(a.dims(), b.dims());
    let scale = b.abs()?.max_all()?.to_scalar::<f32>()?.max(1.0);
    Ok((a - b)?.abs()?.max_all()?.to_scalar::<f32>()? / scale)
}

/// The transformer of an adopted file that has to fit exactly.
fn build(config: &EncoderConfig, adopted: Adopted) -> Result<Vit> {
    assert_eq!(encoder::fit(config, adopted.tensors.clone())?.faults(), [""; 0]);
    Vit::new(&config.vit, Frozen::new(adopted.tensors).builder(DType::F32, &CPU))
}

/// The networks of `tests/golden/encoders`, and one tensor in each of what is dropped.
fn published() -> Vec<(&'static str, VitConfig, Option<&'static str>)> {
    let plain = VitConfig::new(12, 4, 16, 2, 2);
    let dinov2 = VitConfig { layer_scale: true, ..plain.clone() };
    let registers = VitConfig { registers: 4, ..dinov2.clone() };
    let swiglu = |dim, mlp_dim| VitConfig { dim, mlp: Mlp::SwiGlu, mlp_dim, ..dinov2.clone() };
    let clip = VitConfig {
        mlp: Mlp::QuickGelu,
        no_patch_bias: true,
        pre_norm: true,
        final_norm: false,
        eps: 1e-5,
        ..plain.clone()
    };
    let mae = VitConfig { final_norm: false, ..plain.clone() };
    let dinov3 = VitConfig { rope_theta: Some(100.0), eps: 1e-5, ..registers.clone() };
    let siglip = VitConfig { class_token: false, exact_gelu: false, ..plain.clone() };
    vec![
        ("hf_dinov2", dinov2.clone(), Some("embeddings.mask_token")),
        ("hf_dinov2_swiglu", swiglu(16, 48), Some("embeddings.mask_token")),
        ("hf_dinov2_swiglu_current", swiglu(16, 48), Some("embeddings.mask_token")),
        ("hf_dinov2_registers", registers.clone(), Some("embeddings.mask_token")),
        ("hf_clip", clip.clone(), Some("text_model.encoder.layers.0.mlp.fc1.bias")),
        ("hf_clip_vision", clip.clone(), Some("post_layernorm.weight")),
        ("hf_ijepa", VitConfig { class_token: false, ..plain.clone() }, None),
        ("hf_dino", plain.clone(), Some("pooler.dense.bias")),
        ("hf_mae", mae.clone(), Some("decoder.decoder_pred.weight")),
        ("hf_mae_current", mae.clone(), Some("layernorm.weight")),
        ("timm_dinov2", dinov2.clone(), None),
        ("timm_dinov2_registers", registers, None),
        ("timm_dinov2_swiglu", swiglu(24, 64), None),
        ("timm_clip", clip, Some("head.weight")),
        ("timm_mae", mae, Some("norm.weight")),
        ("timm_dino", plain, None),
        ("hf_dinov3", dinov3.clone(), Some("embeddings.mask_token")),
        ("hf_dinov3_current", dinov3.clone(), Some("embeddings.mask_token")),
        ("dinov3", dinov3.clone(), Some("blocks.1.attn.qkv.bias_mask")),
        ("timm_dinov3", dinov3.clone(), None),
        ("timm_dinov3_qkvb", dinov3, None),
        ("hf_siglip", siglip.clone(), Some("vision_model.head.probe")),
        ("hf_siglip_vision", siglip.clone(), Some("head.probe")),
        ("timm_siglip", siglip, Some("attn_pool.latent")),
    ]
}

#[test]
fn files_of_transformers_and_timm_are_read() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/encoders");
    let mut files = 0;
    for (name, vit, dropped) in published() {
        let g = params::load(&folder.join(format!("{name}.safetensors")), &CPU)?;
        let config = fixed(vit);
        let adopted = adopt(&config, group(&g, "w/"))?;
        assert!(dropped.is_none_or(|d| adopted.dropped.iter().any(|n| n == d)), "{name}: {:?}", adopted.dropped);
        assert_eq!(dropped.is_none(), adopted.dropped.is_empty(), "{name}: {:?}", adopted.dropped);
        let vit = build(&config, adopted)?;
        let error = difference(&vit.tokens(&g["in/image"])?, &g["out/tokens"])?;
        assert!(error < 2e-5, "{name}: {error:e}");
        // timm resamples positions when the image is of another size.
        if let Some(large) = g.get("in/large") {
            let class = usize::from(config.vit.class_token);
            let positions = resample_positions(vit.positions(), class, large.dim(2)? / config.vit.patch_size)?;
            let tokens = vit.patches_of(&vit.encode_at(&vit.embed(large)?, &positions)?)?;
            let error = difference(&tokens, &g["out/large"])?;
            assert!(error < 2e-5, "{name}, larger: {error:e}");
        }
        files += 1;
    }
    let there = std::fs::read_dir(folder)?
        .filter(|f| f.as_ref().is_ok_and(|f| f.path().extension().is_some_and(|e| e == "safetensors")));
    assert_eq!(there.count(), files, "every file is read");
    Ok(())
}

#[test]
fn clip_is_read_from_its_official_archive() -> Result<()> {
    let g = Golden::open("clip");
    let vit = VitConfig {
        mlp: Mlp::QuickGelu,
        no_patch_bias: true,
        pre_norm: true,
        final_norm: false,
        eps: 1e-5,
        ..VitConfig::new(56, 14, 48, 2, 3)
    };
    let mut file: Tensors = g.group("w").into_iter().map(|(k, t)| (format!("visual.{k}"), t)).collect();
    for (name, shape) in [
        ("visual.ln_post.weight", &[48][..]),
        ("visual.proj", &[48, 32]),
        ("transformer.resblocks.0.attn.in_proj_weight", &[96, 32]),
        ("token_embedding.weight", &[10, 32]),
        ("positional_embedding", &[77, 32]),
        ("ln_final.bias", &[32]),
        ("text_projection", &[32, 32]),
        ("logit_scale", &[]),
        ("context_length", &[]),
    ] {
        file.insert(name.into(), zeros(shape));
    }
    let adopted = adopt(&fixed(vit.clone()), file)?;
    assert_eq!(adopted.dropped.len(), 9);
    assert_eq!(adopted.renamed["norm_pre.bias"], "visual.ln_pre.bias");
    assert_eq!(adopted.renamed["blocks.1.attn.qkv.weight"], "visual.transformer.resblocks.1.attn.in_proj_weight");
    let vit = build(&fixed(vit), adopted)?;
    let all = vit.encode(&vit.embed(&g.get("in/image"))?)?;
    g.assert_close("patches", &vit.patches_of(&all)?, &g.get("out/z"), "out");
    g.assert_close("class token", &all.narrow(1, 0, 1)?.squeeze(1)?, &g.get("out/cls"), "out");
    Ok(())
}

#[test]
fn training_checkpoints_of_moco_and_jepa_are_read() -> Result<()> {
    let g = Golden::open("vit16");
    let config = fixed(VitConfig::new(64, 16, 48, 2, 3));
    let under = |prefix: &str| g.group("w").into_iter().map(|(k, t)| (format!("{prefix}{k}"), t)).collect::<Tensors>();
    let mut file = under("module.base_encoder.");
    file.extend(under("module.momentum_encoder."));
    for name in ["module.predictor.0.weight", "module.base_encoder.head.0.weight", "module.base_encoder.head.1.bias"] {
        file.insert(name.into(), zeros(&[3]));
    }
    let vit = build(&config, adopt(&config, file)?)?;
    g.assert_close("MoCo v3", &vit.tokens(&g.get("in/image"))?, &g.get("out/z_mocov3"), "out");

    let g = Golden::open("ijepa");
    let config = fixed(VitConfig { class_token: false, ..VitConfig::new(56, 14, 48, 2, 3) });
    let file = g.group("w").into_iter().map(|(k, t)| (format!("module.{k}"), t.to_dtype(DType::BF16).unwrap()));
    let adopted = adopt(&config, file.collect())?;
    assert!(adopted.tensors.values().all(|t| t.dtype() == DType::F32));
    assert_eq!(adopted.renamed.len(), adopted.tensors.len());
    build(&config, adopted)?;
    Ok(())
}

#[test]
fn fixed_position_tables_are_computed_when_a_file_has_none() -> Result<()> {
    let table = |vit: VitConfig, positions| -> Result<Tensor> {
        let config = EncoderConfig { positions, ..fixed(vit) };
        let adopted = adopt(&config, Tensors::new())?;
        Ok(adopted.tensors["pos_embed"].clone())
    };
    let rows = |t: &Tensor, rows: &[u32]| t.index_select(&Tensor::new(rows, &CPU)?, 1);
    let g = Golden::open("vit16");
    let moco = table(VitConfig::new(256, 16, 768, 12, 12), Positions::SincosRows)?;
    g.assert_close("MoCo v3", &rows(&moco, &[0, 1, 2, 17, 256])?, &g.get("out/mocov3_pos_768_g16"), "out");
    let g = Golden::open("tables");
    let jepa = VitConfig { class_token: false, ..VitConfig::new(224, 14, 1024, 1, 16) };
    let jepa = table(jepa, Positions::Sincos)?;
    g.assert_close("I-JEPA", &rows(&jepa, &[0, 1, 17, 255])?.squeeze(0)?, &g.get("out/sincos_1024"), "out");
    let mae = table(VitConfig::new(224, 14, 1024, 1, 16), Positions::Sincos)?;
    assert_eq!(mae.narrow(1, 1, 256)?.to_vec3::<f32>()?, jepa.to_vec3::<f32>()?);
    // A learned table cannot be made up.
    assert!(adopt(&fixed(VitConfig::new(224, 14, 8, 1, 1)), Tensors::new())?.tensors.is_empty());
    Ok(())
}

#[test]
fn conflicting_and_missing_names_are_errors() -> Result<()> {
    let config = fixed(VitConfig { layer_scale: true, ..VitConfig::new(56, 14, 48, 2, 3) });
    let official = Golden::open("dinov2").group("w");
    let error = |name: &str, t: Tensor| {
        let mut file = official.clone();
        file.insert(name.into(), t);
        adopt(&config, file).unwrap_err().to_string()
    };
    let text = error("encoder.layer.0.mlp.fc1.weight", zeros(&[192, 48]));
    assert!(text.contains("both blocks.0.mlp.fc1.weight and encoder.layer.0.mlp.fc1.weight"), "{text}");

    let mut file = official.clone();
    file.remove("blocks.0.attn.qkv.weight");
    for part in ["query", "key"] {
        file.insert(format!("encoder.layer.0.attention.attention.{part}.weight"), zeros(&[48, 48]));
    }
    let faults = encoder::fit(&config, adopt(&config, file.clone())?.tensors)?.faults().join("; ");
    assert!(faults.contains("1 not in the file: blocks.0.attn.qkv.weight"), "{faults}");
    assert!(faults.contains("encoder.layer.0.attention.attention.key.weight"), "{faults}");
    file.insert("encoder.layer.0.attention.attention.value.weight".into(), zeros(&[48, 47]));
    let text = adopt(&config, file).unwrap_err().to_string();
    assert!(text.contains("attention.key.weight + encoder.layer.0.attention.attention.value.weight"), "{text}");

    let scalar = |part: &str| (format!("encoder.layer.0.attention.attention.{part}.weight"), zeros(&[]));
    // A single number is no weight of any network.
    assert_eq!(adopt(&config, ["query", "key", "value"].map(scalar).into())?.dropped.len(), 3);

    let mut file = official.clone();
    for part in ["query", "key", "value"] {
        file.insert(format!("encoder.layer.0.attention.attention.{part}.weight"), zeros(&[48, 48]));
    }
    assert!(adopt(&config, file).unwrap_err().to_string().contains("both whole and in parts"));
    Ok(())
}

#[test]
fn pixels_are_preprocessed_as_for_the_originals() -> Result<()> {
    let g = Golden::open("preprocess");
    let images = g.get("in/image_u8");
    let prepare = |name: &str| EncoderConfig::named(name).expect("a preset").prepare(&images);
    for (name, want) in [("dinov2-vit-b", "out/dinov2"), ("jepa-vit-h", "out/dinov2"), ("clip-vit-L", "out/clip")] {
        g.assert_close(name, &prepare(name)?, &g.get(want), "out");
    }
    for name in ["mocov3-vit-b", "mae-vit-l", "dinov1-vit-b"] {
        let got = prepare(name)?;
        assert_eq!(got.dims(), [1, 3, 256, 256], "{name} takes images as they are");
        g.assert_close(name, &got.narrow(2, 0, 1)?.squeeze(2)?, &g.get("out/imagenet_norm_row0"), "out");
    }
    for (name, kernel) in [("small_bicubic_11x40", Kernel::Torch), ("small_bicubic_aa_11x40", Kernel::Antialiased)] {
        let got = resample(&g.get("in/small"), 11, 40, kernel)?;
        g.assert_close(name, &got, &g.get(&format!("out/{name}")), "out");
    }
    Ok(())
}

#[test]
fn position_tables_are_resampled_as_by_timm() -> Result<()> {
    let g = Golden::open("pos_resample");
    for (old, new) in [(37, 16), (14, 16), (14, 32), (16, 16)] {
        let got = resample_positions(&g.get(&format!("in/pos_{old}")), 1, new)?;
        g.assert_close(&format!("{old} to {new}"), &got, &g.get(&format!("out/pos_{old}_to_{new}")), "out");
    }
    assert!(resample_positions(&zeros(&[1, 12, 4]), 1, 4).is_err());
    assert!(resample_positions(&zeros(&[1, 0, 4]), 1, 4).is_err());
    Ok(())
}

#[test]
fn published_encoders_have_a_token_for_every_16_pixels() -> Result<()> {
    for name in encoder::NAMES {
        let config = EncoderConfig::named(name).expect("a preset");
        assert_eq!(
            (config.input_side(256)? / config.vit.patch_size, config.input_side(512)? / config.vit.patch_size),
            (16, 32)
        );
        for side in [0, 8, 250] {
            assert!(config.input_side(side).is_err(), "{name}, {side}");
        }
    }
    // DINOv2 with its table of 37 x 37 positions, but narrow.
    let preset = EncoderConfig::named("dinov2-vit-s").expect("a preset");
    let narrow = |image_size| VitConfig { image_size, dim: 8, depth: 1, heads: 2, mlp_dim: 16, ..preset.vit.clone() };
    let config = EncoderConfig { vit: narrow(518), ..preset.clone() };
    let (params, vb) = ParamSet::init(4, DType::F32, &CPU);
    Vit::new(&config.vit, vb)?;
    let follows = Encoder::new(&config, params.tensors(), &CPU)?;
    for side in [64, 96, 64] {
        let grid = side / 16;
        let images = (Tensor::arange(0f32, (2 * 3 * side * side) as f32, &CPU)?.sin()? * 100.0)?.affine(1.0, 120.0)?;
        let images = images.reshape((2, 3, side, side))?.to_dtype(DType::U8)?;
        // The same of one size, as configurations had it before encoders followed the image.
        let fixed = EncoderConfig { vit: narrow(14 * grid), pixels_per_token: None, ..preset.clone() };
        let fixed = Encoder::new(&fixed, params.tensors(), &CPU)?;
        let tokens = follows.tokens(&images)?;
        assert_eq!((tokens.dims(), follows.shape(side)?), (&[2, grid * grid, 8][..], (grid * grid, 8)));
        assert_eq!(fixed.shape(1000)?, (grid * grid, 8));
        assert_eq!(tokens.to_vec3::<f32>()?, fixed.tokens(&images)?.to_vec3::<f32>()?);
    }
    let u8s = |h, w| Tensor::zeros((1, 3, h, w), DType::U8, &CPU);
    assert!(follows.tokens(&u8s(64, 96)?).unwrap_err().to_string().contains("64 x 96"));
    assert!(follows.tokens(&u8s(60, 60)?).unwrap_err().to_string().contains("16 x 16 pixels"));
    assert!(follows.shape(0).is_err());
    Ok(())
}

/// A table of another grid than the preset's, as of a network tuned at another size, is kept and
/// not resampled twice.
#[test]
fn the_position_table_of_the_file_is_kept() -> Result<()> {
    let mut file = Golden::open("dinov2").group("w");
    let vit = VitConfig { layer_scale: true, ..VitConfig::new(518, 14, 48, 2, 3) };
    let config = EncoderConfig { pixels_per_token: Some(16), ..fixed(vit) };
    let images = Tensor::full(9u8, (1, 3, 64, 64), &CPU)?;
    let encoder = Encoder::new(&config, file.clone(), &CPU)?;
    let own = EncoderConfig { vit: VitConfig { image_size: 56, ..config.vit.clone() }, ..config.clone() };
    let want = Encoder::new(&own, file.clone(), &CPU)?.tokens(&images)?;
    assert_eq!(encoder.tokens(&images)?.to_vec3::<f32>()?, want.to_vec3::<f32>()?);
    // What is not a table is told.
    file.insert("pos_embed".into(), zeros(&[1, 12, 48]));
    let text = Encoder::new(&config, file, &CPU).unwrap_err().to_string();
    assert!(text.contains("of another shape: pos_embed is [1, 12, 48]"), "{text}");
    Ok(())
}

#[test]
fn encoders_refuse_weights_of_another_model() -> Result<()> {
    let own = Golden::open("dinov2").group("w");
    let whole = fixed(VitConfig { layer_scale: true, ..VitConfig::new(56, 14, 48, 2, 3) });
    let error = |vit: VitConfig, w: Tensors| Encoder::new(&fixed(vit), w, &CPU).unwrap_err().to_string();
    let mut short = own.clone();
    short.remove("blocks.1.mlp.fc1.bias");
    let text = error(whole.vit.clone(), short);
    assert!(text.contains("1 not in the file: blocks.1.mlp.fc1.bias"), "{text}");
    let text = error(VitConfig { depth: 1, ..whole.vit.clone() }, own.clone());
    assert!(text.contains("14 not in the network: blocks.1.attn.proj.bias"), "{text}");
    let text = error(VitConfig { dim: 96, heads: 6, ..whole.vit.clone() }, own.clone());
    assert!(
        text.contains("of another shape: blocks.0.attn.proj.bias is [48] in the file, [96] in the network"),
        "{text}"
    );
    let text = error(VitConfig { mlp: Mlp::SwiGlu, ..whole.vit.clone() }, own.clone());
    assert!(text.contains("not in the file: blocks.0.mlp.w12.bias") && text.contains("not in the network"), "{text}");
    // Artifacts of earlier versions: the table of another grid, and the token of DINOv2's own
    // training.
    let large = fixed(VitConfig { image_size: 112, ..whole.vit.clone() });
    let mut with_mask = own;
    with_mask.insert("mask_token".into(), zeros(&[1, 48]));
    let encoder = Encoder::new(&large, with_mask, &CPU)?;
    let tokens = encoder.tokens(&Tensor::zeros((2, 3, 40, 44), DType::U8, &CPU)?)?;
    assert_eq!((tokens.dims(), encoder.shape(40)?), (&[2, 64, 48][..], (64, 48)));
    Ok(())
}

#[test]
fn non_finite_numbers_are_named_with_their_tensor() -> Result<()> {
    let mut tensors = Golden::open("dinov2").group("w");
    params::check_finite(&tensors)?;
    let shape = tensors["blocks.1.ls1.gamma"].dims().to_vec();
    for (value, dtype) in [(f32::NAN, DType::F32), (f32::NEG_INFINITY, DType::F16)] {
        let gamma = Tensor::full(value, shape.as_slice(), &CPU)?.to_dtype(dtype)?;
        tensors.insert("blocks.1.ls1.gamma".into(), gamma);
        let text = params::check_finite(&tensors).unwrap_err().to_string();
        assert!(text.contains("tensor blocks.1.ls1.gamma: 48 of its 48 values are NaN or infinite"), "{text}");
    }
    Ok(())
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let sound = EncoderConfig::named("mae-vit-l").expect("a preset");
    assert!(sound.check().is_ok());
    for bad in [
        EncoderConfig { pixels_per_token: Some(0), ..sound.clone() },
        EncoderConfig { std: [0.2, 0.0, 0.2], ..sound.clone() },
        EncoderConfig { mean: [f64::NAN; 3], ..sound.clone() },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
}
