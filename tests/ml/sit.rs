//! SiT equals the released network: forward, losses and gradients of the PyTorch original, its
//! position tables, and the rules that every variant keeps.

use crate::support::golden::{self, Golden};
use candle_core::{DType, Device, Tensor};
use erw::ml::diffusion::interpolant::Path;
use erw::ml::diffusion::loss;
use erw::ml::kernels::autograd::{Gradients, gradients};
use erw::ml::models::projector::ProjectorKind;
use erw::ml::models::sit;
use erw::ml::models::sit::{MlpKind, NormKind, SiT, SiTConfig, drop_labels};
use erw::ml::nn::params::{Frozen, ParamSet, Tensors};
use erw::ml::nn::unfused;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use erw::ml::train::check_reached;

const CPU: Device = Device::Cpu;

/// The golden network with trainable parameters.
pub fn trainable(g: &Golden) -> (SiT, ParamSet) {
    let config: SiTConfig = g.config();
    let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
    let model = SiT::new(&config, vb).unwrap();
    let report = params.assign(&g.group("w")).unwrap();
    assert_eq!(report.missing.len() + report.mismatched.len(), 0, "{report}");
    let buffers: Vec<String> = model.buffers().into_keys().collect();
    assert_eq!(report.unexpected, buffers, "stored but not trained");
    (model, params)
}

/// Classes with the file's dropout mask applied.
pub fn classes(g: &Golden, null: u32) -> Tensor {
    let labels = g.get("in/y").to_dtype(DType::U32).unwrap().to_vec1().unwrap();
    let drop: Vec<bool> = g.get("in/drop").to_vec1::<u8>().unwrap().into_iter().map(|d| d != 0).collect();
    drop_labels(&labels, &drop, null, &CPU).unwrap()
}

pub fn targets(g: &Golden) -> Vec<Tensor> {
    (0..).map_while(|i| g.tensors.get(&format!("in/target{i}")).cloned()).collect()
}

/// Without RoPE the loss does not depend on the keys' bias; its gradient is rounding noise (the
/// manifest's warning).
pub fn without_key_bias(config: &SiTConfig, name: &str, t: &Tensor) -> Tensor {
    if config.rope {
        return t.clone();
    }
    if config.qk_norm {
        return if name.ends_with("k_norm.bias") { t.zeros_like().unwrap() } else { t.clone() };
    }
    if !name.ends_with("attn.qkv.bias") {
        return t.clone();
    }
    let d = config.hidden;
    Tensor::cat(&[t.narrow(0, 0, d).unwrap(), t.narrow(0, 2 * d, d).unwrap()], 0).unwrap()
}

/// The loss whose gradient is in the file, after checking the losses on the way.
fn golden_loss(g: &Golden, model: &SiT) -> Tensor {
    let config = model.config();
    let (x, y, targets) = (g.get("in/x"), classes(g, config.null_class()), targets(g));
    if config.warmup_depth.is_some() {
        let t = Tensor::zeros(x.dim(0).unwrap(), DType::F32, &CPU).unwrap();
        let projections = model.projections(&x, &t, &y).unwrap();
        let align = loss::alignment(&targets, &projections).unwrap();
        g.assert_close("alignment loss", &align, &g.get("out/loss_proj"), "loss");
        return (align * 0.5).unwrap();
    }
    let times = g.get("in/t");
    let loss_on = |path: Path, name: &str| {
        let (point, target) =
            path.point_and_velocity(&x, &g.get("in/noise"), &times.to_vec1::<f32>().unwrap()).unwrap();
        let (v, projections) = model.forward(&point, &times, &y).unwrap();
        let velocity = loss::velocity(&v, &target).unwrap();
        let align = loss::alignment(&targets, &projections).unwrap();
        g.assert_close("velocity loss", &velocity, &g.get(&format!("out/loss_v_{name}")), "loss");
        g.assert_close("alignment loss", &align, &g.get(&format!("out/loss_proj_{name}")), "loss");
        (velocity + (align * 0.5).unwrap()).unwrap()
    };
    loss_on(Path::Cosine, "cosine");
    loss_on(Path::Linear, "linear")
}

#[test]
fn forward_losses_and_gradients_equal_pytorch() {
    for name in golden::names("sit_") {
        let g = Golden::open(&name);
        let (model, params) = trainable(&g);
        let config = model.config();
        let (x, y) = (g.get("in/x"), classes(&g, config.null_class()));
        let projections = if config.warmup_depth.is_some() {
            let t = Tensor::zeros(x.dim(0).unwrap(), DType::F32, &CPU).unwrap();
            model.projections(&x, &t, &y).unwrap()
        } else {
            let (v, projections) = model.forward(&x, &g.get("in/t"), &y).unwrap();
            g.assert_close("velocity", &v, &g.get("out/v"), "out");
            let alone = model.velocity(&x, &g.get("in/t"), &y).unwrap();
            g.assert_close("velocity alone", &alone, &g.get("out/v"), "out");
            projections
        };
        for (k, z) in projections.iter().enumerate() {
            g.assert_close("projection", z, &g.get(&format!("out/z{k}")), "out");
        }
        let loss = golden_loss(&g, &model);
        g.assert_close("loss", &loss, &g.get("out/loss"), "loss");
        let mut collected = Gradients::new(params.vars());
        collected.backward(&loss).unwrap();
        check_reached(&collected).unwrap();
        let grads = collected.tensors().unwrap();
        let want = g.group("grad");
        assert_eq!(want.keys().collect::<Vec<_>>(), grads.keys().collect::<Vec<_>>(), "{name}: trained parameters");
        for (n, w) in &want {
            let cut = |t: &Tensor| without_key_bias(config, n, t);
            g.assert_close(n, &cut(&grads[n]), &cut(w), "grad");
        }
    }
}

#[test]
fn a_frozen_model_uses_every_tensor_of_its_file() {
    let g = Golden::open("sit_rope_qknorm");
    let frozen = Frozen::new(g.group("w"));
    let model = SiT::new(&g.config(), frozen.builder(DType::F32, &CPU)).unwrap();
    assert_eq!(frozen.unused(), Vec::<String>::new());
    let y = classes(&g, model.config().null_class());
    g.assert_close("velocity", &model.velocity(&g.get("in/x"), &g.get("in/t"), &y).unwrap(), &g.get("out/v"), "out");
    for (name, table) in model.buffers() {
        g.assert_close(&name, &table, &g.get(&format!("w/{name}")), "out");
    }
}

#[test]
fn position_tables_equal_pytorch() {
    let g = Golden::open("tables");
    let rows = Tensor::new(&[0u32, 1, 17, 255], &CPU).unwrap();
    for d in [384, 768, 1024, 1152] {
        let got = sit::sincos_2d(d, 16).unwrap().index_select(&rows, 0).unwrap();
        g.assert_close("position table", &got, &g.get(&format!("out/sincos_{d}")), "out");
    }
    for d in [64, 72] {
        let (cos, sin) = sit::rotary_2d(d, 16).unwrap();
        for (table, name) in [(&cos, "cos"), (&sin, "sin")] {
            let got = table.index_select(&rows, 0).unwrap();
            g.assert_close("rotary table", &got, &g.get(&format!("out/{name}_hd{d}")), "out");
        }
        // [1, H, N, D] to qkv with the same keys and values.
        let q = g.get(&format!("in/q_hd{d}")).transpose(1, 2).unwrap().reshape((1, 256, 2 * d)).unwrap();
        let qkv = Tensor::cat(&[&q, &q, &q], 2).unwrap();
        let want = g.get(&format!("out/q_hd{d}")).transpose(1, 2).unwrap().reshape((1, 256, 2 * d)).unwrap();
        let want = Tensor::cat(&[&want, &want, &q], 2).unwrap();
        g.assert_close("fused rotation", &erw::ml::nn::rope(&qkv, 2, &cos, &sin).unwrap(), &want, "out");
        g.assert_close("plain rotation", &unfused::rope(&qkv, 2, &cos, &sin).unwrap(), &want, "out");
    }
    let got = sit::timestep_sinusoid(&g.get("in/t"), 256).unwrap();
    g.assert_close("timestep sinusoid", &got, &g.get("out/t_sinusoid"), "out");
}

/// A model of digits size.
pub fn tiny(warmup_depth: Option<usize>) -> SiTConfig {
    SiTConfig {
        input_size: 4,
        in_channels: 4,
        patch_size: 2,
        hidden: 24,
        depth: 3,
        heads: 2,
        mlp_ratio: 4.0,
        mlp: MlpKind::Gelu,
        norm: NormKind::Layer,
        num_classes: 5,
        class_dropout: 0.1,
        z_dims: vec![10],
        projector: ProjectorKind::Mlp,
        projector_dim: 16,
        encoder_depth: vec![2],
        rope: true,
        qk_norm: true,
        class_token: None,
        self_alignment: None,
        latent_alignment: None,
        warmup_depth,
    }
}

/// Fills every parameter, so that no gradient is zero because a neighbour is.
pub fn scramble(params: &ParamSet) {
    for (name, var) in params.vars() {
        let noise = rng::normal_rows(3, Purpose::Probe, 0, &[rng::name_id(&name)], var.dims(), &CPU).unwrap();
        var.set(&(noise.get(0).unwrap() * 0.2).unwrap().to_device(var.device()).unwrap()).unwrap();
    }
}

#[test]
fn a_gradient_that_is_not_zero_reaches_every_parameter() {
    for warmup_depth in [None, Some(2), Some(1)] {
        let config = tiny(warmup_depth);
        let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
        let model = SiT::new(&config, vb).unwrap();
        scramble(&params);
        let normal =
            |tag, shape: &[usize]| rng::normal_rows(1, Purpose::Probe, 0, &[tag, tag + 1], shape, &CPU).unwrap();
        let (x, features) = (normal(1, &[4, 4, 4]), normal(3, &[4, 10]));
        let y = Tensor::new(&[1u32, 5], &CPU).unwrap();
        let t = Tensor::new(&[0.3f32, 0.8], &CPU).unwrap();
        let loss = if warmup_depth.is_some() {
            loss::alignment(&[features], &model.projections(&x, &t, &y).unwrap()).unwrap()
        } else {
            let (v, z) = model.forward(&x, &t, &y).unwrap();
            (loss::velocity(&v, &x).unwrap() + loss::alignment(&[features], &z).unwrap()).unwrap()
        };
        let grads = gradients(params.vars(), &loss).unwrap();
        for (name, _) in params.vars() {
            let grad = grads.get(&name).unwrap_or_else(|| panic!("no gradient reaches {name}"));
            let size = grad.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(size > 0.0, "the gradient of {name} is zero");
        }
    }
}

#[test]
fn warmup_and_full_model_start_from_the_same_values() {
    let build = |warmup| {
        let (params, vb) = ParamSet::init(7, DType::F32, &CPU);
        SiT::new(&tiny(warmup), vb).unwrap();
        params.tensors()
    };
    let (warm, full) = (build(Some(2)), build(None));
    assert!(warm.len() < full.len());
    for (name, t) in &warm {
        let same = (t - &full[name]).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(same, 0.0, "{name}");
    }
}

#[test]
fn a_new_model_predicts_zero_and_has_the_published_number_of_parameters() {
    let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
    let (hidden, depth, heads, patch_size) = SiTConfig::sizes("SiT-S/2").unwrap();
    let config = SiTConfig {
        hidden,
        depth,
        heads,
        patch_size,
        input_size: 32,
        num_classes: 1000,
        z_dims: vec![],
        rope: false,
        qk_norm: false,
        ..tiny(None)
    };
    let model = SiT::new(&config, vb).unwrap();
    // The SiT paper says 33 M. Patches 6,528, time 246,528, classes 384,384, twelve blocks of
    // 2,659,968, end 301,840.
    assert_eq!(params.count(), 32_858_896);
    let x = Tensor::ones((1, 4, 32, 32), DType::F32, &CPU).unwrap();
    let t = Tensor::new(&[0.5f32], &CPU).unwrap();
    let v = model.velocity(&x, &t, &Tensor::new(&[3u32], &CPU).unwrap()).unwrap();
    assert_eq!(v.dims(), x.dims());
    assert_eq!(v.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
}

/// Sampling and feature extraction rely on it: how samples are cut into batches is a matter of
/// cost.
#[test]
fn a_sample_has_the_same_bits_in_any_batch() {
    let config = SiTConfig { hidden: 384, heads: 6, input_size: 8, ..tiny(None) };
    let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
    let model = SiT::new(&config, vb).unwrap();
    scramble(&params);
    let ids: Vec<u64> = (0..33).collect();
    let x = rng::normal_rows(1, Purpose::Probe, 0, &ids, &[4, 8, 8], &CPU).unwrap();
    let t = Tensor::full(0.4f32, 33, &CPU).unwrap();
    let y = Tensor::from_iter(ids.iter().map(|i| (i % 6) as u32), &CPU).unwrap();
    let velocity = |from: usize, count: usize| -> Vec<f32> {
        let part = |t: &Tensor| t.narrow(0, from, count).unwrap();
        model.velocity(&part(&x), &part(&t), &part(&y)).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    let whole = velocity(0, 33);
    for batch in [1, 2, 3, 16] {
        let parts: Vec<f32> = (0..33).step_by(batch).flat_map(|i| velocity(i, batch.min(33 - i))).collect();
        let differing = whole.iter().zip(&parts).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(differing, 0, "of {} numbers in batches of {batch}", whole.len());
    }
}

#[test]
fn quantised_weights_are_named_as_such() -> candle_core::Result<()> {
    let whole = Tensor::zeros((8, 4, 2, 2), DType::I64, &CPU)?;
    let file = Tensors::from([
        ("ema.x_embedder.proj.weight".into(), whole),
        ("ema.x_embedder.proj.bias".into(), Tensor::zeros(8, DType::F32, &CPU)?),
    ]);
    let said = sit::release::adopt(file).unwrap_err().to_string();
    assert!(said.contains("its `ema.x_embedder.proj.weight` holds whole numbers, as int8 weights do"), "{said}");
    Ok(())
}
