use super::support::{TYPES, download, epsilon, error, normal, round_all, run, unwritten, upload};
use erw_emulator::Emulator;
use erw_gpu::kernels::attention::Attention;
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Program, Type};

#[derive(Debug, Clone, Copy)]
struct Shape {
    batch: usize,
    tokens: usize,
    heads: usize,
    head_dim: usize,
}

impl Shape {
    fn new(batch: usize, tokens: usize, heads: usize, head_dim: usize) -> Self {
        Self { batch, tokens, heads, head_dim }
    }

    /// Numbers of `out`.
    fn count(self) -> usize {
        self.batch * self.tokens * self.heads * self.head_dim
    }

    /// Numbers of the sums.
    fn rows(self) -> usize {
        self.batch * self.tokens * self.heads
    }

    fn attention(self, qkv: Address, out: Address, log_sums: Address, ty: Type) -> Attention {
        let Self { batch, tokens, heads, head_dim } = self;
        Attention { qkv, out, log_sums, batch, tokens, heads, head_dim, ty }
    }
}

/// What is computed: the output, log2 of the sums, delta, and the gradients of q, k, v.
type Values<T> = [Vec<T>; 6];
const NAMES: [&str; 6] = ["out", "log_sums", "delta", "dq", "dk", "dv"];

/// The definition, in f64.
fn expected(shape: Shape, qkv: &[f32], dout: &[f32]) -> Values<f64> {
    let Shape { batch, tokens, heads, head_dim: d } = shape;
    let scale = 1.0 / (d as f64).sqrt();
    let (rows, count) = (shape.rows(), shape.count());
    let mut all = [count, rows, rows, count, count, count].map(|n| vec![0f64; n]);
    let [out, log_sums, delta, dq, dk, dv] = &mut all;
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let add =
        |to: &mut [f64], x: &[f32], factor: f64| to.iter_mut().zip(x).for_each(|(t, x)| *t += factor * f64::from(*x));
    for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        let input = |n: usize, which: usize| &qkv[(((b * tokens + n) * 3 + which) * heads + h) * d..][..d];
        let at = |n: usize| ((b * tokens + n) * heads + h) * d..((b * tokens + n) * heads + h + 1) * d;
        for i in 0..tokens {
            let mut p: Vec<f64> = (0..tokens).map(|j| scale * dot(input(i, 0), input(j, 1))).collect();
            let top = p.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            let sum: f64 = p.iter().map(|s| (s - top).exp()).sum();
            p.iter_mut().for_each(|s| *s = (*s - top).exp() / sum);
            let up = &dout[at(i)];
            let dp: Vec<f64> = (0..tokens).map(|j| dot(up, input(j, 2))).collect();
            let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            let row = (b * heads + h) * tokens + i;
            log_sums[row] = (top + sum.ln()) / std::f64::consts::LN_2;
            delta[row] = mean;
            for j in 0..tokens {
                let ds = p[j] * (dp[j] - mean) * scale;
                add(&mut out[at(i)], input(j, 2), p[j]);
                add(&mut dq[at(i)], input(j, 1), ds);
                add(&mut dk[at(j)], input(i, 0), ds);
                add(&mut dv[at(j)], up, p[j]);
            }
        }
    }
    all
}

/// The same by the kernels, under every schedule.
fn computed(shape: Shape, ty: Type, qkv: &[f32], dout: &[f32]) -> Values<f32> {
    let (count, rows) = (shape.count(), shape.rows());
    let tensors = run(|card| {
        let [out, dqkv] = [count, 3 * count].map(|n| unwritten(card, n, ty));
        let [log_sums, delta] = [(); 2].map(|()| unwritten(card, rows, Type::F32));
        let attention = shape.attention(upload(card, qkv, ty), out, log_sums, ty);
        let mut program = Program::default();
        program.launch(attention.forward().unwrap());
        for launch in attention.backward(upload(card, dout, ty), delta, dqkv).unwrap() {
            program.launch(launch);
        }
        let outputs =
            vec![(out, count, ty), (log_sums, rows, Type::F32), (delta, rows, Type::F32), (dqkv, 3 * count, ty)];
        (program, outputs)
    });
    let [out, log_sums, delta, dqkv] = tensors.try_into().unwrap();
    let width = shape.heads * shape.head_dim;
    let part = |which: usize| dqkv.chunks(3 * width).flat_map(|row| row[which * width..][..width].to_vec()).collect();
    [out, log_sums, delta, part(0), part(1), part(2)]
}

fn check(shape: Shape, ty: Type) {
    check_inputs(shape, ty, &normal(1, 3 * shape.count()), 2.0, 4.0);
}

/// With the gradients of q and k within `times` what rounding to the type costs, and scores of up to
/// `scores` in units of log2.
fn check_inputs(shape: Shape, ty: Type, qkv: &[f32], times: f64, scores: f64) {
    let qkv = round_all(qkv, ty);
    let dout = round_all(&normal(2, shape.count()), ty);
    let want = expected(shape, &qkv, &dout);
    let got = computed(shape, ty, &qkv, &dout);
    for (i, name) in NAMES.into_iter().enumerate() {
        let apart = error(&got[i], &want[i]);
        // A result is rounded once, and so are p, ds and, for delta, out: errors of half a unit in
        // the last place, which add up as random numbers do. Measured are 1.5 at most. Nothing of
        // log_sums is rounded to a half type; sums in f32 are up to 5 units off. Scores are f32, and
        // p is off by what they are off.
        let roundings = match name {
            "log_sums" => 0.0,
            "dq" | "dk" => times,
            _ => 2.0,
        };
        let limit = roundings * epsilon(ty) + (roundings / 2.0f64).max(1.0) * 4.0 * scores * epsilon(Type::F32);
        assert!(apart <= limit, "{name} of {shape:?} in {ty:?} is {apart:.2e} off, more than {limit:.2e}");
    }
}

fn check_tiled(head_dim: usize) {
    for ty in TYPES {
        // Ragged rows in the first tile and in the second; several samples and heads.
        check(Shape::new(2, 16, 2, head_dim), ty);
        check(Shape::new(1, 65, 3, head_dim), ty);
        check(Shape::new(1, 64, 1, head_dim), ty);
        check(Shape::new(1, 128, 1, head_dim), ty);
    }
    // Three tiles take the two buffers of the backward pass round.
    for ty in [Type::Bf16, Type::F32] {
        check(Shape::new(1, 130, 1, head_dim), ty);
    }
}

#[test]
fn heads_of_64() {
    check_tiled(64);
}

#[test]
fn heads_of_72() {
    check_tiled(72);
}

/// p of a token alone is 1, whatever its score.
#[test]
fn single_token() {
    for (head_dim, ty) in [(64, Type::Bf16), (72, Type::F16), (72, Type::F32), (40, Type::F32)] {
        let shape = Shape::new(2, 1, 2, head_dim);
        let qkv = round_all(&normal(3, 3 * shape.count()), ty);
        let dout = round_all(&normal(4, shape.count()), ty);
        let [out, _, _, dq, dk, dv] = computed(shape, ty, &qkv, &dout);
        let width = 2 * head_dim;
        let values: Vec<f32> = qkv.chunks(3 * width).flat_map(|row| row[2 * width..].to_vec()).collect();
        assert_eq!((out, dv), (values, dout));
        // dp - delta, a difference of two sums of the same numbers in another order.
        assert!(dq.iter().chain(&dk).all(|x| x.abs() < 1e-4));
    }
}

#[test]
fn plain() {
    for ty in TYPES {
        check(Shape::new(2, 9, 2, 12), ty);
        check(Shape::new(1, 18, 3, 40), ty);
    }
    check(Shape::new(1, 6, 2, 80), Type::F32);
    check(Shape::new(1, 6, 1, 256), Type::Bf16);
}

/// Scores far below zero: keys beyond the last, whose score would be 0, would take all of the
/// softmax, and 2^(0 - log_sum) is infinite. Since ds sums to 0, only what differs between the keys
/// counts in dq, a thirty-second of them: rounding of ds counts so much more.
#[test]
fn masks_hold_where_scores_are_low() {
    for (head_dim, ty) in [(64, Type::Bf16), (72, Type::F16), (64, Type::F32)] {
        for tokens in [16, 70] {
            let shape = Shape::new(1, tokens, 1, head_dim);
            let shifts = [8.0, -8.0, 0.0];
            let mut qkv = normal(5, 3 * shape.count());
            for (i, x) in qkv.iter_mut().enumerate() {
                *x = shifts[i / head_dim % 3] + 0.25 * *x;
            }
            check_inputs(shape, ty, &qkv, 32.0, 740.0);
        }
    }
}

/// Sampling keeps no sums.
#[test]
fn log_sums_may_be_null() {
    for (head_dim, ty) in [(64, Type::Bf16), (72, Type::F16), (64, Type::F32), (12, Type::F32)] {
        let shape = Shape::new(1, 20, 2, head_dim);
        let qkv = normal(6, 3 * shape.count());
        let outs = [true, false].map(|keep| {
            let card = Emulator::default();
            let out = unwritten(&card, shape.count(), ty);
            let log_sums = if keep { unwritten(&card, shape.rows(), Type::F32) } else { Address::NULL };
            let attention = shape.attention(upload(&card, &qkv, ty), out, log_sums, ty);
            let mut program = Program::default();
            program.launch(attention.forward().unwrap());
            card.run(&program).unwrap();
            let delta = unwritten(&card, shape.rows(), Type::F32);
            assert_eq!(attention.backward(out, delta, unwritten(&card, 3 * shape.count(), ty)).is_ok(), keep);
            download(&card, out, shape.count(), ty)
        });
        assert_eq!(outs[0], outs[1]);
    }
}

#[test]
fn impossible_shapes_are_refused() {
    let attention = |batch, tokens, heads, head_dim, ty, at| {
        let at = Address(at);
        Attention { qkv: at, out: at, log_sums: at, batch, tokens, heads, head_dim, ty }
    };
    assert!(attention(1, 1, 1, 64, Type::Bf16, 256).forward().is_ok());
    assert!(attention(1, 0, 1, 64, Type::Bf16, 256).forward().is_err());
    assert!(attention(1, 1, 1, 257, Type::Bf16, 256).forward().is_err());
    assert!(attention(65_536, 1, 1, 64, Type::Bf16, 256).forward().is_err());
    assert!(attention(1, 1, 1, 64, Type::Bf16, 8).forward().is_err());
    assert!(attention(1, 1, 1, 64, Type::Bf16, 0).forward().is_err());
    assert!(attention(1, 1, 1, 64, Type::Bf16, 256).backward(Address(256), Address(256), Address(256)).is_err());
}
