//! The switches of training equal their papers: forward, loss and gradients of a PyTorch twin.
//! `tests/golden/methods` holds what it computed; `make.py` there is the twin.

use candle_core::{DType, Device, Tensor, Var};
use erw::ml::diffusion::interpolant::Path;
use erw::ml::diffusion::loss;
use erw::ml::diffusion::loss::Relation;
use erw::ml::kernels::autograd::{Gradients, gradients};
use erw::ml::models::projector::ProjectorKind;
use erw::ml::models::sit::{Also, MlpKind, NormKind, SiT, SiTConfig};
use erw::ml::models::vit::{Vit, VitConfig};
use erw::ml::nn::params;
use erw::ml::nn::params::{Frozen, ParamSet, Tensors};
use erw::ml::nn::unfused;
use erw::ml::train::sit::self_alignment::SelfAlignment;
use std::slice::from_ref;

const CPU: Device = Device::Cpu;

/// Tensors of a golden file.
struct Golden(Tensors);

impl Golden {
    fn open(name: &str) -> Self {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/methods");
        Self(params::load(&dir.join(format!("{name}.safetensors")), &CPU).unwrap())
    }

    fn get(&self, name: &str) -> Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no tensor {name}")).clone()
    }

    fn group(&self, group: &str) -> Tensors {
        let inside =
            |(name, t): (&String, &Tensor)| Some((name.strip_prefix(group)?.strip_prefix('/')?.into(), t.clone()));
        self.0.iter().filter_map(inside).collect()
    }

    fn classes(&self) -> Tensor {
        self.get("in/y").to_dtype(DType::U32).unwrap()
    }

    fn times(&self, name: &str) -> Vec<f32> {
        self.get(name).to_vec1().unwrap()
    }

    fn point_and_velocity(&self) -> (Tensor, Tensor) {
        Path::Linear.point_and_velocity(&self.get("in/x"), &self.get("in/noise"), &self.times("in/t")).unwrap()
    }

    /// Holds the gradient of `loss` by every parameter to the file's, and the loss itself.
    fn check(&self, params: &ParamSet, loss: &Tensor) {
        close("loss", loss, &self.get("out/loss"));
        let mut collected = Gradients::new(params.vars());
        collected.backward(loss).unwrap();
        let (got, want) = (collected.tensors().unwrap(), self.group("grad"));
        assert_eq!(want.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>(), "trained parameters");
        for (name, want) in &want {
            close(name, &got[name], want);
        }
    }
}

#[track_caller]
fn close(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let most = |t: &Tensor| t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    let (error, scale) = (most(&(got - want).unwrap()), most(want).max(1.0));
    assert!(error <= 5e-5 * scale, "{what} is off by {error:e}, largest value {scale}");
}

/// The twin's network with its weights, and its trained parameters.
fn network(g: &Golden, changes: impl FnOnce(SiTConfig) -> SiTConfig) -> (SiT, ParamSet) {
    let config = changes(SiTConfig {
        input_size: 4,
        in_channels: 4,
        patch_size: 2,
        hidden: 16,
        depth: 3,
        heads: 2,
        mlp_ratio: 4.0,
        mlp: MlpKind::Gelu,
        norm: NormKind::Layer,
        num_classes: 3,
        class_dropout: 0.1,
        z_dims: vec![6],
        projector: ProjectorKind::Mlp,
        projector_dim: 12,
        encoder_depth: vec![2],
        rope: true,
        qk_norm: false,
        class_token: None,
        self_alignment: None,
        latent_alignment: None,
        warmup_depth: None,
    });
    let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
    let model = SiT::new(&config, vb).unwrap();
    let report = params.assign(&g.group("w")).unwrap();
    assert!(report.is_exact(), "{report}");
    (model, params)
}

#[test]
fn lightningdit_equals_its_twin() {
    let g = Golden::open("lightningdit");
    let lightning = |c| SiTConfig { mlp: MlpKind::SwiGlu, norm: NormKind::Rms, qk_norm: true, ..c };
    let (model, params) = network(&g, lightning);
    let (point, target) = g.point_and_velocity();
    let (v, projections) = model.forward(&point, &g.get("in/t"), &g.classes()).unwrap();
    close("velocity", &v, &g.get("out/v"));
    let (mse, cosine) = (loss::velocity(&v, &target).unwrap(), loss::velocity_cosine(&v, &target).unwrap());
    close("squared error", &mse, &g.get("out/mse"));
    close("cosine", &cosine, &g.get("out/cosine"));
    let align = loss::alignment(&[g.get("in/features")], &projections).unwrap();
    close("alignment", &align, &g.get("out/align"));
    g.check(&params, &((mse + cosine).unwrap() + (align * 0.5).unwrap()).unwrap());
}

/// The fused kernel against its plain twin, and half precision against both.
#[test]
fn rms_norm_is_that_of_candle_operations_in_every_type() {
    let normal = |tag: u64, shape: &[usize]| {
        use erw::ml::rng;
        let noise = rng::normal_rows(4, rng::Purpose::Probe, 0, &[tag], shape, &CPU).unwrap();
        noise.get(0).unwrap()
    };
    let (x, shift, scale, weight) =
        (normal(1, &[2, 9, 30]), normal(2, &[2, 30]), normal(3, &[2, 30]), normal(4, &[30]));
    let vb = candle_nn::VarBuilder::from_tensors([("weight".to_string(), weight.clone())].into(), DType::F32, &CPU);
    let norm = erw::ml::nn::RmsNorm::new(30, 1e-6, vb).unwrap();
    let gain = (&scale + 1.0).unwrap().broadcast_mul(&weight).unwrap();
    let want = unfused::norm_affine(&x, &shift, &gain, 0.0, 1e-6, false).unwrap();
    close("f32", &norm.modulated(&x, &shift, &scale).unwrap(), &want);
    // A common part stays, which LayerNorm would remove.
    let layer = unfused::norm_affine(&x, &shift, &gain, 0.0, 1e-6, true).unwrap();
    assert!((&want - &layer).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-2);
    let lower = |t: &Tensor| t.to_dtype(DType::BF16).unwrap();
    let half = norm.modulated(&x, &lower(&shift), &lower(&scale)).unwrap();
    assert_eq!(half.dtype(), DType::BF16);
    let off = (half.to_dtype(DType::F32).unwrap() - &want).unwrap().abs().unwrap();
    assert!(off.max_all().unwrap().to_scalar::<f32>().unwrap() < 0.1);
    let var = Var::from_tensor(&x).unwrap();
    let slope = |y: Tensor| {
        let loss = (y * normal(5, &[2, 9, 30])).unwrap().sum_all().unwrap();
        gradients([("x".to_string(), var.clone())], &loss).unwrap().remove("x").unwrap()
    };
    let plain = unfused::norm_affine(&var, &shift, &gain, 0.0, 1e-6, false).unwrap();
    close("gradient", &slope(norm.modulated(&var, &shift, &scale).unwrap()), &slope(plain));
}

#[test]
fn self_alignment_equals_its_twin() {
    let g = Golden::open("self_alignment");
    let (model, params) = network(&g, |c| SiTConfig { z_dims: vec![], self_alignment: Some(1), ..c });
    let alignment = SelfAlignment::new(0.2, 3, 0.2);
    let (point, target) = g.point_and_velocity();
    let (t, less, y) = (g.get("in/t"), g.times("in/t_teacher"), g.classes());
    let out = model.forward_with(&point, &t, &y, &Also { student: true, ..Also::default() }).unwrap();
    let student = out.student.unwrap();
    close("student", &student, &g.get("out/student"));
    let (easier, _) = Path::Linear.point_and_velocity(&g.get("in/x"), &g.get("in/noise"), &less).unwrap();
    let less = g.get("in/t_teacher");
    let error = alignment.loss(&student, &easier, &less, &y).unwrap_err().to_string();
    assert!(error.contains("without a teacher"), "{error}");
    alignment.teach(&model, &g.group("in/teacher")).unwrap();
    let distance = alignment.loss(&student, &easier, &less, &y).unwrap();
    close("distance", &distance, &g.get("out/distance"));
    // The teacher's weights get no gradient: those of the student are all there are.
    g.check(&params, &(loss::velocity(&out.velocity, &target).unwrap() + (distance * 0.2).unwrap()).unwrap());
}

#[test]
fn latent_alignment_equals_its_twin() {
    let g = Golden::open("latent_alignment");
    let (model, params) = network(&g, |c| SiTConfig { z_dims: vec![], latent_alignment: Some(2), ..c });
    let (point, target) = g.point_and_velocity();
    let also = Also { latents: true, ..Also::default() };
    let out = model.forward_with(&point, &g.get("in/t"), &g.classes(), &also).unwrap();
    let predicted = out.latents.unwrap();
    // The twin has patches in a row: row and column in the patch, then the channel.
    let patches = predicted.reshape(&[3, 4, 2, 2, 2, 2][..]).unwrap().permute([0, 2, 4, 3, 5, 1].as_slice()).unwrap();
    close("predicted", &patches.reshape((3, 4, 16)).unwrap(), &g.get("out/predicted"));
    let distance = loss::smooth_l1(&predicted, &g.get("in/x")).unwrap();
    close("distance", &distance, &g.get("out/distance"));
    g.check(&params, &(loss::velocity(&out.velocity, &target).unwrap() + distance).unwrap());
}

#[test]
fn a_teacher_sees_less_noise_by_a_part_of_the_interval() {
    let slots: Vec<u64> = (0..2000).collect();
    let t: Vec<f32> = slots.iter().map(|i| *i as f32 / 2000.0).collect();
    let less = SelfAlignment::new(1.0, 1, 0.2).times(&t, 3, 5, &slots);
    let gaps: Vec<f32> = t.iter().zip(&less).map(|(t, less)| t - less).collect();
    assert!(less.iter().all(|t| *t >= 0.0) && gaps.iter().all(|gap| (0.0..0.2).contains(gap)));
    let mean = gaps[400..].iter().sum::<f32>() / 1600.0;
    assert!((mean - 0.1).abs() < 0.005, "{mean}");
    // A sample's does not depend on the others.
    assert_eq!(SelfAlignment::new(1.0, 1, 0.2).times(&t[7..8], 3, 5, &slots[7..8]), less[7..8]);
}

#[test]
fn attention_transfer_equals_its_twin() {
    let g = Golden::open("attention");
    let (model, params) = network(&g, |c| c);
    let (point, target) = g.point_and_velocity();
    let also = Also { projections: true, attention: &[1, 3], ..Also::default() };
    let out = model.forward_with(&point, &g.get("in/t"), &g.classes(), &also).unwrap();
    let scores = |group: &str| [g.get(&format!("{group}/scores0")), g.get(&format!("{group}/scores1"))];
    for (ours, theirs) in out.attention.iter().zip(scores("out")) {
        close("scores", ours, &theirs);
    }
    let transfer = loss::attention_transfer(&scores("in"), &out.attention).unwrap();
    close("cross-entropy", &transfer, &g.get("out/transfer"));
    let align = loss::alignment(&[g.get("in/features")], &out.projections).unwrap();
    let rest = ((align + transfer).unwrap() * 0.5).unwrap();
    g.check(&params, &(loss::velocity(&out.velocity, &target).unwrap() + rest).unwrap());
    assert!(loss::attention_transfer(&scores("in")[..1], &out.attention).is_err());
    let bad = Also { attention: &[4], ..Also::default() };
    assert!(model.forward_with(&point, &g.get("in/t"), &g.classes(), &bad).is_err());
}

#[test]
fn the_attention_of_an_encoder_equals_its_twin() {
    let (g, dinov2) = (Golden::open("encoder_attention"), crate::support::golden::Golden::open("dinov2"));
    let config = VitConfig { layer_scale: true, ..VitConfig::new(56, 14, 48, 2, 3) };
    let vit = Vit::new(&config, Frozen::new(dinov2.group("w")).builder(DType::F32, &CPU)).unwrap();
    let patches = vit.embed(&dinov2.get("in/image")).unwrap();
    // In the order that is asked for.
    let (tokens, scores) = vit.encode_attending(&patches, vit.positions(), &[2, 1]).unwrap();
    close("first block", &scores[1], &g.get("scores0"));
    close("second block", &scores[0], &g.get("scores1"));
    close("tokens", &vit.patches_of(&tokens).unwrap(), &dinov2.get("out/x_norm_patchtokens"));
    let error = vit.encode_attending(&patches, vit.positions(), &[3]).unwrap_err().to_string();
    assert!(error.contains("block 3 is not one of the encoder's blocks 1 to 2"), "{error}");
}

#[test]
fn a_class_token_equals_its_twin() {
    let g = Golden::open("class_token");
    let (model, params) = network(&g, |c| SiTConfig { rope: false, class_token: Some(6), ..c });
    let (point, target) = g.point_and_velocity();
    let (t, y, class) = (g.get("in/t"), g.classes(), g.get("in/class"));
    let (class_point, class_target) =
        Path::Linear.point_and_velocity(&class, &g.get("in/class_noise"), &g.times("in/t")).unwrap();
    let also = Also { projections: true, class_token: Some(&class_point), ..Also::default() };
    let out = model.forward_with(&point, &t, &y, &also).unwrap();
    let class_velocity = out.class_velocity.unwrap();
    close("velocity", &out.velocity, &g.get("out/v"));
    close("velocity of the class token", &class_velocity, &g.get("out/class_v"));
    let features = Tensor::cat(&[class.unsqueeze(1).unwrap(), g.get("in/features")], 1).unwrap();
    let align = loss::alignment(&[features], &out.projections).unwrap();
    close("alignment", &align, &g.get("out/align"));
    let class_loss = loss::velocity(&class_velocity, &class_target).unwrap();
    close("loss of the class token", &class_loss, &g.get("out/class_mse"));
    let velocity = loss::velocity(&out.velocity, &target).unwrap();
    let both = ((class_loss * 0.03).unwrap() + (align * 0.5).unwrap()).unwrap();
    g.check(&params, &(velocity + both).unwrap());

    // A sampler's state is both in a row.
    assert_eq!(model.config().state_shape(), [4 * 4 * 4 + 6]);
    let state = Tensor::cat(&[point.flatten_from(1).unwrap(), class_point.clone()], 1).unwrap();
    let together = model.velocity(&state, &t, &y).unwrap();
    close("the latent's part", &model.config().latents_of(&together).unwrap(), &out.velocity);
    close("the class token's part", &together.narrow(1, 64, 6).unwrap(), &class_velocity);
    let error = model.forward(&point, &t, &y).err().unwrap().to_string();
    assert!(error.contains("needs the class token"), "{error}");
    let (plain, _) = network(&Golden::open("attention"), |c| c);
    assert!(plain.forward_with(&point, &t, &y, &also).is_err());
}

#[test]
fn relations_equal_their_twin() {
    for (name, over) in [("relation_images", Relation::Images), ("relation_tokens", Relation::Tokens)] {
        let g = Golden::open(name);
        let (f, p) = (g.get("in/f"), Var::from_tensor(&g.get("w/p")).unwrap());
        let loss = loss::relation(from_ref(&f), from_ref(p.as_tensor()), over).unwrap();
        close(name, &loss, &g.get("out/loss"));
        close(name, loss.backward().unwrap().get(&p).unwrap(), &g.get("grad/p"));
        // Several encoders are averaged, and the length of features is no matter.
        let both = [f.clone(), (&f * 3.0).unwrap()];
        let twice = loss::relation(&both, &[p.as_tensor().clone(), p.as_tensor().clone()], over).unwrap();
        close("two encoders", &twice, &g.get("out/loss"));
        let one = [f.narrow(0, 0, 1).unwrap().narrow(1, 0, 1).unwrap()];
        let error = loss::relation(&one, &one, over).unwrap_err().to_string();
        assert!(error.contains("needs at least two"), "{error}");
    }
}
