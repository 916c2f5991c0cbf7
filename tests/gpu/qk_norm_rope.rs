//! QK-norm and rotary embedding, forward and backward.

use super::support::{TYPES, epsilon, error, normal, round_all, run, unwritten, upload};
use erw_gpu::kernels::qk_norm_rope::{Norms, Shape, Steps, Tables, backward, backward_blocks, forward, norm_sums};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Program, Type};

const EPS: f32 = 1e-5;

/// Weights and biases of the norms, `[4, dim]`, and the tables.
struct Numbers {
    norms: Option<Vec<f32>>,
    /// RMSNorms, whose biases are 0.
    rms: bool,
    tables: Option<[Vec<f32>; 2]>,
}

fn shape(dim: usize, heads: usize, tokens: usize, ty: Type) -> Shape {
    Shape { rows: 2 * tokens, tokens, heads, dim, ty }
}

fn numbers(s: Shape, with_norms: bool, rms: bool, with_rope: bool) -> Numbers {
    let mut norms = normal(11, 4 * s.dim);
    // Weights near 1, biases near 0.
    norms.chunks_mut(s.dim).enumerate().for_each(|(i, v)| {
        v.iter_mut().for_each(|x| *x = if i % 2 == 0 { 0.2 * *x + 1.0 } else { 0.2 * *x * f32::from(!rms) });
    });
    let angle = |i: usize| (i / s.dim) as f64 * 0.9f64.powi((i % s.dim / 2) as i32);
    let table = |f: fn(f64) -> f64| (0..s.tokens * s.dim).map(|i| f(angle(i)) as f32).collect();
    Numbers { norms: with_norms.then_some(norms), rms, tables: with_rope.then(|| [table(f64::cos), table(f64::sin)]) }
}

fn steps(card: &dyn Machine, s: Shape, n: &Numbers) -> Steps {
    let norms = n.norms.as_ref().map(|v| {
        let mut vectors = v.chunks(s.dim).map(|v| upload(card, v, Type::F32));
        let mut next = || vectors.next().unwrap();
        let norms = Norms { q_weight: next(), q_bias: next(), k_weight: next(), k_bias: next() };
        if n.rms { Norms { q_bias: Address::NULL, k_bias: Address::NULL, ..norms } } else { norms }
    });
    let rope = n
        .tables
        .as_ref()
        .map(|[cos, sin]| Tables { cos: upload(card, cos, Type::F32), sin: upload(card, sin, Type::F32) });
    Steps { norms, rope, eps: EPS }
}

/// x^ of a head, and 1 / deviation.
fn normalised(x: &[f64], rms: bool) -> (Vec<f64>, f64) {
    let n = x.len() as f64;
    let mean = if rms { 0.0 } else { x.iter().sum::<f64>() / n };
    let inverse = 1.0 / (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + f64::from(EPS)).sqrt();
    (x.iter().map(|x| (x - mean) * inverse).collect(), inverse)
}

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// The row of the tables for a row of qkv.
fn angles(s: Shape, n: &Numbers, row: usize) -> Option<[Vec<f64>; 2]> {
    let at = row % s.tokens * s.dim;
    n.tables.as_ref().map(|t| [f64s(&t[0][at..][..s.dim]), f64s(&t[1][at..][..s.dim])])
}

/// The number of the head's row, and which of q, k, v it is.
fn place(s: Shape, head: usize) -> (usize, usize) {
    (head / (3 * s.heads), head / s.heads % 3)
}

fn forward64(s: Shape, n: &Numbers, qkv: &[f32]) -> Vec<f64> {
    let head = |(at, x): (usize, &[f32])| {
        let ((row, part), mut x) = (place(s, at), f64s(x));
        if part == 2 {
            return x;
        }
        if let Some(norms) = &n.norms {
            let vector = |i: usize| &norms[(2 * part + i) * s.dim..][..s.dim];
            let (normal, _) = normalised(&x, n.rms);
            x = (0..s.dim).map(|c| normal[c] * f64::from(vector(0)[c]) + f64::from(vector(1)[c])).collect();
        }
        if let Some([cos, sin]) = angles(s, n, row) {
            let turned = |c: usize| if c.is_multiple_of(2) { -x[c + 1] } else { x[c - 1] };
            x = (0..s.dim).map(|c| x[c] * cos[c] + turned(c) * sin[c]).collect();
        }
        x
    };
    qkv.chunks(s.dim).enumerate().flat_map(head).collect()
}

/// The gradient of qkv, and those of the norms `[4, dim]`.
fn backward64(s: Shape, n: &Numbers, qkv: &[f32], grad: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let mut sums = vec![0.0; 4 * s.dim];
    let head = |(at, (x, g)): (usize, (&[f32], &[f32]))| {
        let ((row, part), mut g) = (place(s, at), f64s(g));
        if part == 2 {
            return g;
        }
        if let Some([cos, sin]) = angles(s, n, row) {
            // The transposed matrix: output c takes from c and from its neighbour.
            let other = |c: usize| if c.is_multiple_of(2) { g[c + 1] * sin[c + 1] } else { -g[c - 1] * sin[c - 1] };
            g = (0..s.dim).map(|c| g[c] * cos[c] + other(c)).collect();
        }
        if let Some(norms) = &n.norms {
            let ((normal, inverse), d) = (normalised(&f64s(x), n.rms), s.dim as f64);
            for c in 0..s.dim {
                sums[2 * part * s.dim + c] += g[c] * normal[c];
                sums[(2 * part + 1) * s.dim + c] += if n.rms { 0.0 } else { g[c] };
                g[c] *= f64::from(norms[2 * part * s.dim + c]);
            }
            let mean = if n.rms { 0.0 } else { g.iter().sum::<f64>() / d };
            let along = g.iter().zip(&normal).map(|(g, n)| g * n).sum::<f64>() / d;
            g = g.iter().zip(&normal).map(|(g, n)| inverse * (g - mean - n * along)).collect();
        }
        g
    };
    let dqkv = qkv.chunks(s.dim).zip(grad.chunks(s.dim)).enumerate().flat_map(head).collect();
    (dqkv, sums)
}

/// Outputs are off by their rounding, and by some units of f32: at most 1.5e-7 of the largest were
/// measured, and 2e-7 for sums.
fn tolerance(ty: Type) -> f64 {
    1.01 * epsilon(ty) + 1e-6
}

fn check_forward(s: Shape, n: &Numbers, in_place: bool) {
    let count = s.rows * 3 * s.heads * s.dim;
    let qkv = round_all(&normal(3, count).iter().map(|x| 2.0 * x + 0.3).collect::<Vec<_>>(), s.ty);
    let got = run(|card| {
        let from = upload(card, &qkv, s.ty);
        let to = if in_place { from } else { unwritten(card, count, s.ty) };
        let mut program = Program::default();
        program.launch(forward(s, &steps(card, s, n), from, to).unwrap());
        (program, vec![(to, count, s.ty)])
    });
    let off = error(&got[0], &forward64(s, n, &qkv));
    assert!(off < tolerance(s.ty), "{s:?}: {off:.1e}");
}

fn check_backward(s: Shape, n: &Numbers) {
    let count = s.rows * 3 * s.heads * s.dim;
    let (qkv, grad) = (round_all(&normal(4, count), s.ty), round_all(&normal(5, count), s.ty));
    let got = run(|card| {
        let (steps, dqkv) = (steps(card, s, n), upload(card, &grad, s.ty));
        let mut program = Program::default();
        let mut outputs = vec![(dqkv, count, s.ty)];
        if n.norms.is_some() {
            let (qkv, blocks) = (upload(card, &qkv, s.ty), backward_blocks(s));
            let partial = unwritten(card, blocks * 4 * s.dim, Type::F32);
            program.launch(backward(s, &steps, dqkv, qkv, partial).unwrap());
            // Gradients of biases that there are not stay 0.
            let to = upload(card, &vec![0.0; 4 * s.dim], Type::F32);
            let at = |i: usize| to.offset(4 * i * s.dim);
            let bias = |i: usize| if n.rms { Address::NULL } else { at(i) };
            let gradients = Norms { q_weight: at(0), q_bias: bias(1), k_weight: at(2), k_bias: bias(3) };
            program.launch(norm_sums(s, partial, gradients).unwrap());
            outputs.push((to, 4 * s.dim, Type::F32));
        } else {
            program.launch(backward(s, &steps, dqkv, Address::NULL, Address::NULL).unwrap());
        }
        (program, outputs)
    });
    let (want, sums) = backward64(s, n, &qkv, &grad);
    let off = error(&got[0], &want);
    assert!(off < tolerance(s.ty), "{s:?}: {off:.1e}");
    if n.norms.is_some() {
        // Sums of f32 products: nothing is rounded to the type.
        let off = error(&got[1], &sums);
        assert!(off < 1e-6, "{s:?}: sums {off:.1e}");
    }
}

/// Both versions of fixed size, and sizes with one to four pairs a lane.
const DIMS: [usize; 6] = [64, 72, 6, 80, 130, 256];

#[test]
fn every_size_and_type_matches() {
    for ty in TYPES {
        for dim in DIMS {
            // Rows that fill no block; an odd number of heads, where a warp takes two.
            let s = shape(dim, 3, 9, ty);
            for rms in [false, true] {
                let n = numbers(s, true, rms, true);
                check_forward(s, &n, false);
                check_backward(s, &n);
            }
        }
    }
}

#[test]
fn steps_may_be_missing() {
    for (dim, ty) in [(64, Type::Bf16), (72, Type::F16), (32, Type::F32)] {
        for (norms, rms, rope) in [(true, false, false), (true, true, false), (false, false, true)] {
            let s = shape(dim, 10, 3, ty);
            let n = numbers(s, norms, rms, rope);
            check_forward(s, &n, true);
            check_backward(s, &n);
        }
    }
}

#[test]
fn impossible_shapes_are_refused() {
    let (s, none) = (shape(64, 2, 4, Type::Bf16), Address::NULL);
    let rope = Some(Tables { cos: none, sin: none });
    let steps = Steps { norms: None, rope, eps: EPS };
    let refused = |s: Shape, steps: &Steps| forward(s, steps, none, none).is_err();
    assert!(refused(Shape { dim: 65, ..s }, &steps));
    assert!(refused(Shape { dim: 258, ..s }, &steps));
    assert!(refused(Shape { tokens: 3, ..s }, &steps));
    assert!(refused(s, &Steps { rope: None, ..steps }));
    assert!(!refused(s, &steps));
}
