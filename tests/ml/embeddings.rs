//! Image embeddings equal those of FD-DINOv2, CMMD and clean-fid; see
//! tests/golden/embeddings/make.py.

use candle_core::{DType, Device, Result, Tensor};
use erw::ml::data::resize::{Filter, resize_planes};
use erw::ml::models::encoder;
use erw::ml::models::encoder::config::EncoderConfig;
use erw::ml::models::encoder::{Embedder, Encoder, adopt};
use erw::ml::models::feature_network::FeatureNetwork;
use erw::ml::models::feature_network::mode::Mode;
use erw::ml::models::feature_network::open::open_feature_network;
use erw::ml::models::vit::VitConfig;
use erw::ml::nn::params;
use erw::ml::nn::params::{ParamSet, Tensors};
use std::path::Path;

use crate::support::bench::Bench;

const CPU: Device = Device::Cpu;

fn golden(name: &str) -> Tensors {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/embeddings");
    params::load(&folder.join(format!("{name}.safetensors")), &CPU).unwrap()
}

fn weights_of(golden: &Tensors) -> Tensors {
    golden.iter().filter_map(|(k, t)| Some((k.strip_prefix("w/")?.to_string(), t.clone()))).collect()
}

/// max |a - b| / max |b|
fn distance(a: &Tensor, b: &Tensor) -> Result<f32> {
    assert_eq!(a.dims(), b.dims());
    let largest = |t: &Tensor| t.abs()?.max_all()?.to_scalar::<f32>();
    Ok(largest(&(a - b)?)? / largest(b)?)
}

/// What an error says; behind it stands a backtrace when RUST_BACKTRACE asks for one.
fn told<T>(result: Result<T>) -> String {
    result.err().unwrap().to_string().lines().next().unwrap().to_string()
}

/// A preset with another transformer of the same kind.
fn preset(name: &str, image_size: usize, mlp_dim: usize, registers: usize) -> EncoderConfig {
    let preset = EncoderConfig::named(name).unwrap();
    let vit = VitConfig { image_size, dim: 16, depth: 2, heads: 2, mlp_dim, registers, ..preset.vit.clone() };
    EncoderConfig { vit, ..preset }
}

fn embedder(config: &EncoderConfig, golden: &Tensors) -> Result<Embedder> {
    Embedder::new(Encoder::new(config, adopt(config, weights_of(golden))?.tensors, &CPU)?)
}

#[test]
fn dinov2_embeds_as_in_dgm_eval() -> Result<()> {
    for (name, registers) in [("dinov2", 0), ("dinov2_registers", 4)] {
        let golden = golden(name);
        let net = embedder(&preset("dinov2-vit-l", 252, 32, registers), &golden)?;
        let off = distance(&net.features(&golden["in/image_u8"])?, &golden["out/embedding"])?;
        assert!(off < 1e-5, "{name} is off by {off:e}");
    }
    Ok(())
}

#[test]
fn clip_embeds_as_in_cmmd() -> Result<()> {
    let golden = golden("clip");
    let config = preset("clip-vit-L-336", 28, 32, 0);
    let net = embedder(&config, &golden)?;
    assert_eq!(net.dim(), 8);
    let out = net.features(&golden["in/image_u8"])?;
    // CMMD's embeddings have length one.
    let out = out.broadcast_div(&out.sqr()?.sum_keepdim(1)?.sqrt()?)?;
    let off = distance(&out, &golden["out/embedding"])?;
    assert!(off < 1e-5, "off by {off:e}");
    Ok(())
}

#[test]
fn clip_projection_is_kept_whole_or_dropped() -> Result<()> {
    let golden = golden("clip");
    let config = preset("clip-vit-L-336", 28, 32, 0);
    let adopted = adopt(&config, weights_of(&golden))?;
    assert_eq!(adopted.tensors["head.weight"].dims(), [8, 16]);
    assert_eq!(adopted.renamed["norm_post.bias"], "vision_model.post_layernorm.bias");
    assert!(encoder::fit(&config, adopted.tensors.clone())?.is_exact());

    // The official archive has it the other way round.
    let mut file = weights_of(&golden);
    let projection = file.remove("visual_projection.weight").unwrap();
    let without = adopt(&config, file.clone())?;
    assert_eq!(without.dropped.iter().filter(|name| name.contains("post_layernorm")).count(), 2);
    let official = |name: &str| name.replace("vision_model.", "visual.").replace("post_layernorm", "ln_post");
    let mut file: Tensors = file.into_iter().map(|(name, t)| (official(&name), t)).collect();
    file.insert("visual.proj".into(), projection.t()?.contiguous()?);
    let again = adopt(&config, file)?.tensors;
    assert_eq!(again["head.weight"].to_vec2::<f32>()?, adopted.tensors["head.weight"].to_vec2::<f32>()?);

    // Tokens are the same with and without; only the embedding needs it.
    let tokens = |tensors: Tensors| {
        Encoder::new(&config, tensors, &CPU)?.tokens(&Tensor::ones((1, 3, 32, 32), DType::U8, &CPU)?)
    };
    assert_eq!(tokens(adopted.tensors.clone())?.to_vec3::<f32>()?, tokens(without.tensors.clone())?.to_vec3::<f32>()?);
    let error = told(Embedder::new(Encoder::new(&config, without.tensors, &CPU)?));
    assert_eq!(
        error,
        "this CLIP lacks `ln_post` and `proj`, which compute the embedding; import the encoder from a file that has both"
    );

    let mut wide = adopted.tensors;
    wide.insert("head.weight".into(), Tensor::zeros((8, 17), DType::F32, &CPU)?);
    let error = told(Encoder::new(&config, wide, &CPU));
    assert!(error.contains("1 of another shape: head.weight"), "{error}");
    Ok(())
}

#[test]
fn any_encoder_is_a_feature_network() -> Result<()> {
    let bench = Bench::new();
    let artifact = |name: &str, vit: VitConfig| -> Result<std::path::PathBuf> {
        let dir = bench.path(name);
        std::fs::create_dir_all(&dir)?;
        let (params, vb) = ParamSet::init(4, DType::F32, &CPU);
        erw::ml::models::vit::Vit::new(&vit, vb)?;
        let config = EncoderConfig::fixed(vit, [0.5; 3], [0.5; 3]);
        std::fs::write(dir.join(encoder::CONFIG_FILE), serde_json::to_string(&config).unwrap())?;
        params::save(&params.tensors(), &dir.join(encoder::WEIGHTS_FILE))?;
        Ok(dir)
    };
    let vit = VitConfig::new(16, 8, 12, 1, 2);
    let class = artifact("class", vit.clone())?;
    let mean = artifact("mean", VitConfig { class_token: false, ..vit })?;
    let images = Tensor::arange(0u8, 192, &CPU)?.reshape((1, 3, 8, 8))?;
    for (dir, vector) in [(&class, "class token after the last norm"), (&mean, "mean of patch tokens")] {
        let net = open_feature_network(dir, None, &CPU)?;
        assert_eq!((net.name(), net.dim()), ("encoder", 12));
        assert_eq!(net.preparation(), format!("antialiased bicubic to 16 as Pillow in 8 bits; {vector}"));
        assert_eq!(net.features(&images)?.dims(), [1, 12]);
    }
    let error = told(open_feature_network(&class, Some(Mode::CleanFid), &CPU));
    let wanted = "is an encoder, which prepares images in one way; only Inception has modes";
    assert_eq!(error, format!("{} {wanted}", class.display()));
    let net = open_feature_network(&class, None, &CPU)?;
    for shape in [&[0, 3, 8, 8][..], &[1, 3, 0, 8], &[1, 1, 8, 8], &[3, 8, 8]] {
        let error = told(net.features(&Tensor::zeros(shape, DType::U8, &CPU)?));
        assert!(error.starts_with("an encoder needs u8 images [n, 3, H, W], got"), "{error}");
    }
    Ok(())
}

#[test]
fn floats_are_resized_as_by_clean_fid() -> Result<()> {
    let golden = golden("clean_fid");
    let rows = Tensor::new(&[0u32, 1, 150, 298], &CPU)?;
    for name in ["small", "large", "wide"] {
        let image = golden[&format!("in/{name}_u8")].to_dtype(DType::F32)?.unsqueeze(0)?;
        let got = resize_planes(&image, 299, 299, Filter::Bicubic)?.squeeze(0)?.index_select(&rows, 1)?;
        // To the bit.
        assert_eq!(distance(&got, &golden[&format!("out/{name}")])?, 0.0, "{name}");
    }
    Ok(())
}
