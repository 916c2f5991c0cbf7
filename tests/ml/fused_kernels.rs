//! Every fused kernel equals plain candle operations, forward and backward, and finite differences.

use candle_core::{Device, Result, Tensor, Var};
use candle_nn::Module;
use erw::ml::diffusion::loss;
use erw::ml::nn;
use erw::ml::nn::unfused;
use erw::ml::rng;
use erw::ml::rng::Purpose;

/// Normal numbers of a stream named by `tag`.
fn normal(tag: u64, shape: &[usize]) -> Tensor {
    rng::normal_rows(5, Purpose::Probe, 0, &[tag], shape, &Device::Cpu).unwrap().get(0).unwrap()
}

fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

type Layer<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Output, and gradients of `sum(output * weights)`.
fn run(layer: Layer, inputs: &[Tensor]) -> (Tensor, Vec<Tensor>) {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = layer(&tensors).unwrap();
    let weights = normal(99, out.dims());
    let grads = (&out * weights).unwrap().sum_all().unwrap().backward().unwrap();
    (out, vars.iter().map(|v| grads.get(v).expect("a gradient for every input").clone()).collect())
}

fn check(name: &str, fused: Layer, twin: Layer, inputs: &[Tensor]) {
    let (out, grads) = run(fused, inputs);
    let (want, want_grads) = run(twin, inputs);
    let error = max_difference(&out, &want);
    assert!(error < 2e-5, "{name}: forward is off by {error:e}");
    for (i, (g, w)) in grads.iter().zip(&want_grads).enumerate() {
        let scale = w.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap().max(1.0);
        let error = max_difference(g, w) / scale;
        assert!(error < 2e-5, "{name}: gradient {i} is off by {error:e}");
    }
    check_finite_differences(name, fused, inputs, &grads);
}

/// Directional derivatives of the loss along a random direction in each input, in f64 sums.
fn check_finite_differences(name: &str, layer: Layer, inputs: &[Tensor], grads: &[Tensor]) {
    let loss = |inputs: &[Tensor]| -> f64 {
        let out = layer(inputs).unwrap();
        let weights = normal(99, out.dims());
        let product = (out * weights).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        product.into_iter().map(f64::from).sum()
    };
    for (i, grad) in grads.iter().enumerate() {
        let direction = normal(200 + i as u64, inputs[i].dims());
        let h = 2e-3;
        let moved = |sign: f64| {
            let mut inputs = inputs.to_vec();
            inputs[i] = (&inputs[i] + (&direction * (sign * h)).unwrap()).unwrap();
            loss(&inputs)
        };
        let numeric = (moved(1.0) - moved(-1.0)) / (2.0 * h);
        let exact = f64::from((grad * direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
        let size = f64::from(grad.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
        assert!((numeric - exact).abs() < 0.02 * size.max(1.0), "{name}, input {i}: {numeric} against {exact}");
    }
}

#[test]
fn linear() {
    let layer = |t: &[Tensor]| nn::Linear::new(t[1].clone(), t[2].clone()).forward(&t[0]);
    let twin = |t: &[Tensor]| unfused::linear(&t[0], &t[1], &t[2]);
    check("linear", &layer, &twin, &[normal(1, &[3, 70, 20]), normal(2, &[33, 20]), normal(3, &[33])]);
    check("linear of rows", &layer, &twin, &[normal(1, &[5, 7]), normal(2, &[1, 7]), normal(3, &[1])]);
}

#[test]
fn layer_norm() {
    // 65 rows to a sample: more than one task; 30 channels: a tail behind the lanes.
    let x = normal(1, &[2, 65, 30]);
    let fused = |t: &[Tensor]| nn::modulated_norm(&t[0], &t[1], &t[2], 1e-6);
    let twin = |t: &[Tensor]| unfused::norm_affine(&t[0], &t[1], &t[2], 1.0, 1e-6, true);
    check("modulated norm", &fused, &twin, &[x.clone(), normal(2, &[2, 30]), normal(3, &[2, 30])]);
    for (name, affine) in [("affine norm", true), ("bare norm", false)] {
        let layer = |t: &[Tensor]| {
            let all = [("weight".to_string(), t[1].clone()), ("bias".to_string(), t[2].clone())];
            let vb = candle_nn::VarBuilder::from_tensors(all.into(), candle_core::DType::F32, &Device::Cpu);
            nn::LayerNorm::new(30, 1e-5, affine, vb)?.forward(&t[0])
        };
        let twin = |t: &[Tensor]| unfused::norm_affine(&t[0], &t[2], &t[1], 0.0, 1e-5, true);
        if affine {
            check(name, &layer, &twin, &[x.clone(), normal(2, &[30]), normal(3, &[30])]);
        } else {
            let (ones, zeros) = (normal(2, &[30]).ones_like().unwrap(), normal(3, &[30]).zeros_like().unwrap());
            let bare = |t: &[Tensor]| layer(&[t[0].clone(), ones.clone(), zeros.clone()]);
            let twin = |t: &[Tensor]| twin(&[t[0].clone(), ones.clone(), zeros.clone()]);
            check(name, &bare, &twin, std::slice::from_ref(&x));
        }
    }
}

#[test]
fn gelu() {
    let x = (normal(1, &[3, 50]) * 3.0).unwrap();
    check("gelu", &|t| nn::gelu_tanh(&t[0]), &|t| t[0].gelu(), &[x]);
    let far = Tensor::new(&[-90f32, -20.0, 0.0, 20.0, 90.0], &Device::Cpu).unwrap();
    let limits = Tensor::new(&[0f32, 0.0, 0.0, 20.0, 90.0], &Device::Cpu).unwrap();
    assert!(max_difference(&nn::gelu_tanh(&far).unwrap(), &limits) < 1e-30);
}

#[test]
fn exact_and_quick_gelu() {
    let x = (normal(1, &[3, 50]) * 3.0).unwrap();
    check("exact gelu", &|t| nn::gelu_erf(&t[0]), &|t| t[0].gelu_erf(), std::slice::from_ref(&x));
    check("quick gelu", &|t| nn::quick_gelu(&t[0]), &|t| unfused::quick_gelu(&t[0]), &[x]);
    let far = Tensor::new(&[-90f32, -20.0, 0.0, 20.0, 90.0], &Device::Cpu).unwrap();
    let limits = Tensor::new(&[0f32, 0.0, 0.0, 20.0, 90.0], &Device::Cpu).unwrap();
    assert!(max_difference(&nn::gelu_erf(&far).unwrap(), &limits) < 1e-30);
    assert!(max_difference(&nn::quick_gelu(&far).unwrap(), &limits) < 1e-12);
    let nan = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
    assert!(nn::gelu_erf(&nan).unwrap().to_vec1::<f32>().unwrap()[0].is_nan(), "a broken activation must show");
}

#[test]
fn swiglu() {
    // 70 rows: more than one task; halves of 9: a tail behind the lanes.
    check("swiglu", &|t| nn::swiglu(&t[0]), &|t| unfused::swiglu(&t[0]), &[normal(1, &[2, 35, 18])]);
    assert!(nn::swiglu(&normal(1, &[2, 5])).is_err());
}

#[test]
fn scaled_residual() {
    let twin = |t: &[Tensor]| &t[0] + t[2].broadcast_mul(&t[1])?;
    let inputs = [normal(1, &[2, 65, 30]), normal(2, &[30]), normal(3, &[2, 65, 30])];
    check("scaled residual", &|t| nn::scaled_residual(&t[0], &t[1], &t[2]), &twin, &inputs);
}

#[test]
fn gated_residual() {
    let inputs = [normal(1, &[2, 65, 30]), normal(2, &[2, 30]), normal(3, &[2, 65, 30])];
    let fused = |t: &[Tensor]| nn::gated_residual(&t[0], &t[1], &t[2]);
    check("gated residual", &fused, &|t| unfused::gated_residual(&t[0], &t[1], &t[2]), &inputs);
}

#[test]
fn attention() {
    // Head dimension 3 and 5 tokens; 200 tokens: two tiles.
    for (name, b, n, heads, d) in [("small attention", 2, 5, 3, 3), ("tiled attention", 1, 200, 2, 24)] {
        let qkv = normal(1, &[b, n, 3 * heads * d]);
        check(name, &|t| nn::attention(&t[0], heads), &|t| unfused::attention(&t[0], heads), &[qkv]);
    }
}

#[test]
fn attention_with_large_scores_stays_finite() {
    let qkv = (normal(1, &[1, 9, 24]) * 60.0).unwrap();
    let error = max_difference(&nn::attention(&qkv, 2).unwrap(), &unfused::attention(&qkv, 2).unwrap());
    assert!(error < 1e-3, "{error}");
    let broken = (qkv * f64::NAN).unwrap();
    assert!(nn::attention(&broken, 2).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().is_nan());
}

#[test]
fn rope() {
    let (cos, sin) = (normal(2, &[7, 6]), normal(3, &[7, 6]));
    // Pairs share an angle.
    let paired = |t: &Tensor| {
        let even = t.reshape((7, 3, 2)).unwrap().narrow(2, 0, 1).unwrap();
        even.repeat((1, 1, 2)).unwrap().reshape((7, 6)).unwrap()
    };
    let (cos, sin) = (paired(&cos), paired(&sin));
    let fused = |t: &[Tensor]| nn::rope(&t[0], 2, &cos, &sin);
    check("rope", &fused, &|t| unfused::rope(&t[0], 2, &cos, &sin), &[normal(1, &[2, 7, 36])]);
}

#[test]
fn other_dtypes_use_plain_operations() {
    let qkv = normal(1, &[1, 5, 24]);
    let wide = nn::attention(&qkv.to_dtype(candle_core::DType::F64).unwrap(), 2).unwrap();
    let narrow = nn::attention(&qkv, 2).unwrap();
    assert!(max_difference(&wide.to_dtype(candle_core::DType::F32).unwrap(), &narrow) < 1e-6);
}

#[test]
fn bad_shapes_are_errors() {
    let x = normal(1, &[2, 5, 7]);
    assert!(nn::attention(&x, 2).is_err());
    assert!(nn::Linear::new(normal(2, &[3, 6]), normal(3, &[3])).forward(&x).is_err());
    assert!(nn::gated_residual(&x, &normal(2, &[3, 7]), &x).is_err());
}

#[test]
fn losses() {
    // More rows than one task has, and a tail behind the lanes.
    let (a, b) = (normal(1, &[2, 70, 19]), normal(2, &[2, 70, 19]));
    let squared = |t: &[Tensor]| (&t[0] - &t[1])?.sqr()?.mean_all();
    check("velocity loss", &|t| loss::velocity(&t[0], &t[1]), &squared, &[a.clone(), b.clone()]);
    check(
        "cosine",
        &|t| loss::mean_cosine(&t[0], &t[1], loss::NORMALIZE),
        &|t| loss::plain_mean_cosine(&t[0], &t[1], loss::NORMALIZE),
        &[a, b],
    );
}

#[test]
fn linear_with_a_small_batch() {
    let layer = |t: &[Tensor]| nn::Linear::new(t[1].clone(), t[2].clone()).forward(&t[0]);
    let twin = |t: &[Tensor]| unfused::linear(&t[0], &t[1], &t[2]);
    // More outputs than one task has, a tail behind the lanes, and rows that fill no pass.
    for rows in [1, 3, 4, 9] {
        let inputs = [normal(1, &[rows, 37]), normal(2, &[70, 37]), normal(3, &[70])];
        check("linear of few rows", &layer, &twin, &inputs);
        let whole = layer(&inputs).unwrap();
        let row = layer(&[inputs[0].narrow(0, rows - 1, 1).unwrap(), inputs[1].clone(), inputs[2].clone()]).unwrap();
        assert_eq!(max_difference(&whole.narrow(0, rows - 1, 1).unwrap(), &row), 0.0, "a row depends on the others");
    }
}

/// Widths whose weights are turned, and gradients shared out over threads, give the bits of plain
/// products.
#[test]
fn transposed_and_threaded_linear_equal_the_plain_product() {
    for (n_in, n_out) in [(1024, 70), (96, 301)] {
        let inputs = [normal(1, &[3, 40, n_in]), normal(2, &[n_out, n_in]), normal(3, &[n_out])];
        let layer = |t: &[Tensor]| nn::Linear::new(t[1].clone(), t[2].clone()).forward(&t[0]);
        let twin = |t: &[Tensor]| unfused::linear(&t[0], &t[1], &t[2]);
        let (out, grads) = run(&layer, &inputs);
        let (want, want_grads) = run(&twin, &inputs);
        assert!(max_difference(&out, &want) < 1e-3);
        for (g, w) in grads.iter().zip(&want_grads) {
            assert!(max_difference(g, w) < 1e-3);
        }
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let bits = |threads| pool(threads).install(|| run(&layer, &inputs).1[1].to_vec2::<f32>().unwrap());
        assert_eq!(bits(1), bits(2));
        assert_eq!(bits(1), bits(4));
    }
}
