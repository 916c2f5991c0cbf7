//! The fused transformer block equals plain operations, forward and backward, over random shapes;
//! so does a recomputed block and any checkpointed function.

use candle_core::{Device, Result, Tensor, Var};
use erw::ml::kernels::autograd::{Gradients, checkpointed};
use erw::ml::kernels::block::{Block, Weights};
use erw::ml::kernels::linear::Affine;
use erw::ml::kernels::mlp::Mlp;
use erw::ml::nn;
use erw::ml::nn::params::Tensors;
use erw::ml::nn::unfused;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
struct Case {
    batch: usize,
    tokens: usize,
    heads: usize,
    /// Planes of a head that the rotary embedding turns: half its dimension.
    planes: usize,
    inner: usize,
    qk_norm: bool,
    rope: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    // Tokens beyond one tile of attention, and few enough for the products that are padded.
    (1usize..4, prop_oneof![1usize..12, 120usize..140], 1usize..4, 2usize..7, 1usize..50, any::<bool>(), any::<bool>())
        .prop_map(|(batch, tokens, heads, planes, inner, qk_norm, rope)| Case {
            batch,
            tokens,
            heads,
            planes,
            inner,
            qk_norm,
            rope,
        })
}

fn normal(tag: u64, shape: &[usize]) -> Tensor {
    rng::normal_rows(5, Purpose::Probe, 0, &[tag], shape, &Device::Cpu).unwrap().get(0).unwrap()
}

/// The variables of a block by name, inputs included.
fn variables(c: Case) -> Vec<(String, Var)> {
    let (d, head) = (c.heads * 2 * c.planes, 2 * c.planes);
    let mut shapes = vec![
        ("x", vec![c.batch, c.tokens, d], 1.0),
        ("modulation", vec![c.batch, 6 * d], 0.5),
        ("qkv.weight", vec![3 * d, d], 1.0 / (d as f64).sqrt()),
        ("qkv.bias", vec![3 * d], 0.3),
        ("proj.weight", vec![d, d], 1.0 / (d as f64).sqrt()),
        ("proj.bias", vec![d], 0.3),
        ("fc1.weight", vec![c.inner, d], 1.0 / (d as f64).sqrt()),
        ("fc1.bias", vec![c.inner], 0.3),
        ("fc2.weight", vec![d, c.inner], 1.0 / (c.inner as f64).sqrt()),
        ("fc2.bias", vec![d], 0.3),
    ];
    if c.qk_norm {
        shapes.extend(["q.weight", "q.bias", "k.weight", "k.bias"].map(|name| (name, vec![head], 0.7)));
    }
    shapes
        .into_iter()
        .enumerate()
        .map(|(i, (name, shape, size))| {
            (name.to_string(), Var::from_tensor(&(normal(i as u64, &shape) * size).unwrap()).unwrap())
        })
        .collect()
}

fn weights(c: Case, vars: &[(String, Var)]) -> Weights {
    let get = |name: &str| vars.iter().find(|(n, _)| n == name).unwrap().1.as_tensor().clone();
    let affine = |name: &str| Affine { weight: get(&format!("{name}.weight")), bias: get(&format!("{name}.bias")) };
    let table = |tag: u64| {
        let angles = normal(tag, &[c.tokens, c.planes]).unsqueeze(2).unwrap();
        let angles = angles.broadcast_as((c.tokens, c.planes, 2)).unwrap().contiguous().unwrap();
        angles.reshape((c.tokens, 2 * c.planes)).unwrap()
    };
    Weights {
        qkv: affine("qkv"),
        proj: affine("proj"),
        fc1: affine("fc1"),
        fc2: affine("fc2"),
        qk_norm: c.qk_norm.then(|| ([affine("q"), affine("k")], 1e-5)),
        rope: c.rope.then(|| [table(70).cos().unwrap(), table(70).sin().unwrap()]),
    }
}

/// The block by candle's own operations.
fn twin(x: &Tensor, modulation: &Tensor, w: &Weights, heads: usize) -> Result<Tensor> {
    let m = modulation.chunk(6, 1)?;
    let linear = |x: &Tensor, l: &Affine| unfused::linear(x, &l.weight, &l.bias);
    let mut qkv = linear(&unfused::norm_affine(x, &m[0], &m[1], 1.0, 1e-6, true)?, &w.qkv)?;
    if let Some(([q, k], eps)) = &w.qk_norm {
        let (b, n, width) = qkv.dims3()?;
        let parts = qkv.reshape((b, n, 3, heads, width / 3 / heads))?;
        let norm = |i: usize, l: &Affine| {
            unfused::norm_affine(&parts.narrow(2, i, 1)?.contiguous()?, &l.bias, &l.weight, 0.0, f64::from(*eps), true)
        };
        let v = parts.narrow(2, 2, 1)?;
        qkv = Tensor::cat(&[norm(0, q)?, norm(1, k)?, v], 2)?.reshape((b, n, width))?;
    }
    if let Some([cos, sin]) = &w.rope {
        qkv = unfused::rope(&qkv, heads, cos, sin)?;
    }
    let y = linear(&unfused::attention(&qkv, heads)?, &w.proj)?;
    let x = unfused::gated_residual(x, &m[2], &y)?;
    let y = linear(&unfused::norm_affine(&x, &m[3], &m[4], 1.0, 1e-6, true)?, &w.fc1)?;
    unfused::gated_residual(&x, &m[5], &linear(&y.gelu()?, &w.fc2)?)
}

type Made<'a> = &'a dyn Fn(&Tensor, &Tensor, &Weights) -> Result<Tensor>;

/// Output, and gradients of a weighted sum of it, of `passes` backward passes.
fn run(c: Case, passes: usize, made: Made) -> (Tensor, Tensors) {
    let vars = variables(c);
    let w = weights(c, &vars);
    let mut grads = Gradients::new(vars.clone());
    let mut out = None;
    for _ in 0..passes {
        let y = made(&vars[0].1, &vars[1].1, &w).unwrap();
        grads.backward(&(&y * normal(99, y.dims())).unwrap().sum_all().unwrap()).unwrap();
        out = Some(y);
    }
    assert_eq!(grads.unreached(), Vec::<&str>::new());
    (out.unwrap(), grads.tensors().unwrap())
}

fn close(what: &str, a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let number = |t: Tensor| t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    let (error, size) = (number((a - b).unwrap()), number(b.clone()).max(1.0));
    assert!(error < 1e-4 * size, "{what} is off by {error:e} of {size}");
}

fn fused(heads: usize, recompute: bool) -> impl Fn(&Tensor, &Tensor, &Weights) -> Result<Tensor> {
    move |x, m, w| x.apply_op2(m, Block::new(w.clone(), heads, 1e-6, recompute))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]
    #[test]
    fn a_fused_block_equals_plain_operations(c in cases()) {
        let (out, grads) = run(c, 1, &fused(c.heads, false));
        let (want, want_grads) = run(c, 1, &|x, m, w| twin(x, m, w, c.heads));
        close("output", &out, &want);
        prop_assert_eq!(grads.keys().collect::<Vec<_>>(), want_grads.keys().collect::<Vec<_>>());
        for (name, grad) in &grads {
            close(name, grad, &want_grads[name]);
        }
    }
}

const CASE: Case = Case { batch: 2, tokens: 130, heads: 2, planes: 4, inner: 40, qk_norm: true, rope: true };

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_recomputed_block_gives_the_same_bits() {
    let (out, grads) = run(CASE, 1, &fused(2, false));
    let (again, again_grads) = run(CASE, 1, &fused(2, true));
    assert_eq!(bits(&out), bits(&again));
    for (name, grad) in &grads {
        assert_eq!(bits(grad), bits(&again_grads[name]), "{name}");
    }
}

#[test]
fn gradients_add_up_over_passes() {
    let (_, once) = run(CASE, 1, &fused(2, false));
    let (_, twice) = run(CASE, 2, &fused(2, false));
    for (name, grad) in &once {
        close(name, &twice[name], &(grad * 2.0).unwrap());
    }
}

#[test]
fn a_checkpointed_function_gives_the_same_gradients() {
    let (out, grads) = run(CASE, 1, &|x, m, w| twin(x, m, w, 2));
    let (again, again_grads) = run(CASE, 1, &|x, m, w| {
        let w = w.clone();
        checkpointed(x, m, move |x, m| twin(x, m, &w, 2))
    });
    close("output", &again, &out);
    for (name, grad) in &grads {
        close(name, &again_grads[name], grad);
    }
}

#[test]
fn a_fused_mlp_equals_plain_operations() {
    let widths = [6, 20, 33, 5];
    for layers in 1..4 {
        let mut vars = vec![("x".to_string(), Var::from_tensor(&normal(50, &[3, 41, 6])).unwrap())];
        for i in 0..layers {
            let (n_in, n_out) = (widths[i], widths[i + 1]);
            for (name, shape) in [("weight", vec![n_out, n_in]), ("bias", vec![n_out])] {
                let value = (normal((51 + 2 * i) as u64 + u64::from(name == "bias"), &shape) * 0.4).unwrap();
                vars.push((format!("{i}.{name}"), Var::from_tensor(&value).unwrap()));
            }
        }
        let tensor = |i: usize| vars[i].1.as_tensor().clone();
        let affine: Vec<Affine> =
            (0..layers).map(|i| Affine { weight: tensor(1 + 2 * i), bias: tensor(2 + 2 * i) }).collect();
        let twin = || {
            affine.iter().enumerate().fold(tensor(0), |x, (i, l)| {
                let x = if i > 0 { x.silu().unwrap() } else { x };
                unfused::linear(&x, &l.weight, &l.bias).unwrap()
            })
        };
        let run = |y: Tensor| {
            let mut grads = Gradients::new(vars.clone());
            grads.backward(&(&y * normal(99, y.dims())).unwrap().sum_all().unwrap()).unwrap();
            (y, grads.tensors().unwrap())
        };
        let (out, grads) = run(tensor(0).apply_op1(Mlp::new(affine.clone())).unwrap());
        let (want, want_grads) = run(twin());
        close("output", &out, &want);
        assert_eq!(grads.keys().collect::<Vec<_>>(), want_grads.keys().collect::<Vec<_>>());
        for (name, grad) in &grads {
            close(name, grad, &want_grads[name]);
        }
    }
}

#[test]
fn a_gradient_that_nothing_collects_is_an_error() {
    let vars = variables(CASE);
    let y = fused(2, false)(&vars[0].1, &vars[1].1, &weights(CASE, &vars)).unwrap();
    let error = y.sum_all().unwrap().backward().unwrap_err().to_string();
    assert!(error.contains("nothing collects the gradient of a captured weight"), "{error}");
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let vars = variables(CASE);
    let w = weights(CASE, &vars);
    let (x, m) = (&vars[0].1, &vars[1].1);
    for (heads, modulation) in [(3, m.as_tensor().clone()), (2, m.narrow(1, 0, 16).unwrap().contiguous().unwrap())] {
        assert!(x.apply_op2(&modulation, Block::new(w.clone(), heads, 1e-6, false)).is_err());
    }
    let short = x.narrow(1, 0, 5).unwrap().contiguous().unwrap();
    let error = short.apply_op2(m, Block::new(w, 2, 1e-6, false)).unwrap_err().to_string();
    assert!(error.contains("rotary tables do not match 5 tokens"), "{error}");
}

#[test]
fn rows_of_a_sample_do_not_depend_on_its_batch() {
    let c = Case { batch: 3, tokens: 7, ..CASE };
    let vars = variables(c);
    let (x, m, w) = (&vars[0].1, &vars[1].1, weights(c, &vars));
    let whole = fused(2, false)(x, m, &w).unwrap();
    let row = |t: &Tensor| t.narrow(0, 1, 1).unwrap().contiguous().unwrap();
    let alone = fused(2, false)(&row(x), &row(m), &w).unwrap();
    assert_eq!(bits(&row(&whole)), bits(&alone));
    // Not a test of nothing.
    assert!(nn::silu(&alone).is_ok() && bits(&alone).iter().any(|b| *b != 0));
}
