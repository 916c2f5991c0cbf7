//! The switches of training equal their papers: forward, loss and gradients of a PyTorch twin.
//! `tests/golden/methods` holds what it computed; `make.py` there is the twin.

use candle_core::{DType, Device, Tensor, Var};
use erw::ml::diffusion::interpolant::Path;
use erw::ml::diffusion::loss;
use erw::ml::diffusion::loss::Relation;
use erw::ml::kernels::autograd::{Gradients, gradients};
use erw::ml::models::projector::ProjectorKind;
use erw::ml::models::sit::{MlpKind, NormKind, SiT, SiTConfig};
use erw::ml::nn::params;
use erw::ml::nn::params::{ParamSet, Tensors};
use erw::ml::nn::unfused;
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

    fn point_and_velocity(&self) -> (Tensor, Tensor) {
        let t: Vec<f32> = self.get("in/t").to_vec1().unwrap();
        Path::Linear.point_and_velocity(&self.get("in/x"), &self.get("in/noise"), &t).unwrap()
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

/// Its samples must not depend on the batch, as those of every network.
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
