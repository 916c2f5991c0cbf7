//! `activation.cu`.

use super::support::{TYPES, epsilon, error, normal, round_all, run, unwritten, upload};
use erw_emulator::Emulator;
use erw_gpu::kernels::activation::{self, Activation, Backward, Pass, SwiGlu};
use erw_gpu::program::{Launch, Program, Type};

/// Three blocks, the last with one thread at work.
const COUNT: usize = 2052;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Value and derivative.
fn known(f: Activation, x: f64) -> (f64, f64) {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let (s, ds) = match f {
        Activation::Silu => (x, 1.0),
        Activation::Gelu => (2.0 * root * (x + 0.044715 * x * x * x), 2.0 * root * (1.0 + 3.0 * 0.044715 * x * x)),
    };
    let y = sigmoid(s);
    (x * y, y + x * y * (1.0 - y) * ds)
}

/// Numbers in both tails, too.
fn inputs(ty: Type) -> Vec<f32> {
    round_all(&normal(1, COUNT).iter().map(|x| 3.0 * x).collect::<Vec<_>>(), ty)
}

/// A result is rounded once to its type; before that, f32's exponential and division cost a few
/// units in the last place of f32, up to 8 for the slope of GELU.
fn tolerance(ty: Type) -> f64 {
    epsilon(ty) + 16.0 * epsilon(Type::F32)
}

fn program(launches: impl IntoIterator<Item = Launch>) -> Program {
    let mut program = Program::default();
    launches.into_iter().for_each(|l| program.launch(l));
    program
}

#[test]
fn activations_and_their_gradients() {
    for ty in TYPES {
        let (x, dy) = (inputs(ty), round_all(&normal(2, COUNT), ty));
        for f in [Activation::Silu, Activation::Gelu] {
            let got = run(|card| {
                let [xs, g, in_place] = [&x, &dy, &dy].map(|t| upload(card, t, ty));
                let [y, dx] = [(); 2].map(|()| unwritten(card, COUNT, ty));
                let backward = |dy, dx| activation::backward(f, &Backward { ty, dy, x: xs, dx, count: COUNT }).unwrap();
                let forward = activation::forward(f, &Pass { ty, from: xs, to: y, count: COUNT }).unwrap();
                let all = [forward, backward(g, dx), backward(in_place, in_place)];
                (program(all), [y, dx, in_place].map(|at| (at, COUNT, ty)).to_vec())
            });
            let want: Vec<(f64, f64)> = x.iter().map(|x| known(f, f64::from(*x))).collect();
            let y: Vec<f64> = want.iter().map(|w| w.0).collect();
            let dx: Vec<f64> = want.iter().zip(&dy).map(|(w, g)| w.1 * f64::from(*g)).collect();
            let errors = [error(&got[0], &y), error(&got[1], &dx)];
            assert!(errors.iter().all(|e| *e < tolerance(ty)), "{f:?} {ty:?} {errors:?}");
            assert_eq!(got[1], got[2], "in place");
        }
    }
}

/// The error function by a series of positive terms.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..400 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

#[test]
fn activations_of_encoders() {
    for ty in TYPES {
        let x = inputs(ty);
        let got = run(|card| {
            let xs = upload(card, &x, ty);
            let [exact, quick] = [(); 2].map(|()| unwritten(card, COUNT, ty));
            let pass = |to| Pass { ty, from: xs, to, count: COUNT };
            let all = [activation::gelu_erf(&pass(exact)).unwrap(), activation::quick_gelu(&pass(quick)).unwrap()];
            (program(all), [exact, quick].map(|at| (at, COUNT, ty)).to_vec())
        });
        let of = |f: fn(f64) -> f64| x.iter().map(|x| f(f64::from(*x))).collect::<Vec<f64>>();
        let exact = of(|x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt())));
        let quick = of(|x| x * sigmoid(1.702 * x));
        let errors = [error(&got[0], &exact), error(&got[1], &quick)];
        assert!(errors.iter().all(|e| *e < tolerance(ty)), "{ty:?} {errors:?}");
    }
}

#[test]
fn far_tails_are_finite() {
    let x = [-1e4f32, -100.0, 100.0, 1e4];
    for f in [Activation::Silu, Activation::Gelu] {
        let got = run(|card| {
            let (xs, g) = (upload(card, &x, Type::F32), upload(card, &[1.0; 4], Type::F32));
            let (y, dx) = (unwritten(card, 4, Type::F32), unwritten(card, 4, Type::F32));
            let ty = Type::F32;
            let all = [
                activation::forward(f, &Pass { ty, from: xs, to: y, count: 4 }).unwrap(),
                activation::backward(f, &Backward { ty, dy: g, x: xs, dx, count: 4 }).unwrap(),
            ];
            (program(all), vec![(y, 4, ty), (dx, 4, ty)])
        });
        assert_eq!(got, [vec![0.0, 0.0, 100.0, 1e4], vec![0.0, 0.0, 1.0, 1.0]]);
    }
}

#[test]
fn copies_between_types_round_once() {
    let wide = inputs(Type::F32);
    for ty in TYPES {
        let low = round_all(&wide, ty);
        let got = run(|card| {
            let (x, h, sum) = (upload(card, &wide, Type::F32), upload(card, &low, ty), upload(card, &wide, Type::F32));
            let [narrow, active] = [(); 2].map(|()| unwritten(card, COUNT, ty));
            let widened = unwritten(card, COUNT, Type::F32);
            let pass = |from, to| Pass { ty, from, to, count: COUNT };
            let all = [
                activation::narrow(&pass(x, narrow)).unwrap(),
                activation::silu_narrow(&pass(x, active)).unwrap(),
                activation::widen(&pass(h, widened)).unwrap(),
                activation::add(&pass(h, sum)).unwrap(),
            ];
            let f32s = [widened, sum].map(|at| (at, COUNT, Type::F32));
            (program(all), [narrow, active].map(|at| (at, COUNT, ty)).into_iter().chain(f32s).collect())
        });
        assert_eq!(got[0], low);
        let active: Vec<f64> = wide.iter().map(|x| known(Activation::Silu, f64::from(*x)).0).collect();
        assert!(error(&got[1], &active) < tolerance(ty));
        assert_eq!(got[2], low);
        assert_eq!(got[3], wide.iter().zip(&low).map(|(a, b)| a + b).collect::<Vec<f32>>());
    }
}

#[test]
fn swiglu_and_its_gradient() {
    // Two widths below a block's 1,024 numbers, one of which is no multiple of a warp's 128; and one
    // of two shares.
    for (rows, width) in [(3, 128), (2, 340), (2, 1536)] {
        for ty in TYPES {
            let x = round_all(&normal(3, rows * 2 * width), ty);
            let dy = round_all(&normal(4, rows * width), ty);
            let got = run(|card| {
                let (xs, g) = (upload(card, &x, ty), upload(card, &dy, ty));
                let in_place = upload(card, &x, ty);
                let (y, dx) = (unwritten(card, rows * width, ty), unwritten(card, 2 * rows * width, ty));
                let with = |x| SwiGlu { ty, x, rows, width };
                let all = [
                    activation::swiglu_forward(&with(xs), y).unwrap(),
                    activation::swiglu_backward(&with(xs), g, dx).unwrap(),
                    activation::swiglu_backward(&with(in_place), g, in_place).unwrap(),
                ];
                let outputs = vec![(y, rows * width, ty), (dx, 2 * rows * width, ty), (in_place, 2 * rows * width, ty)];
                (program(all), outputs)
            });
            let (mut y, mut dx) = (vec![], vec![0f64; x.len()]);
            for r in 0..rows {
                for c in 0..width {
                    let at = r * 2 * width + c;
                    let (gate, up, g) = (f64::from(x[at]), f64::from(x[at + width]), f64::from(dy[r * width + c]));
                    let (value, slope) = known(Activation::Silu, gate);
                    y.push(value * up);
                    dx[at] = g * up * slope;
                    dx[at + width] = g * value;
                }
            }
            let errors = [error(&got[0], &y), error(&got[1], &dx)];
            assert!(errors.iter().all(|e| *e < tolerance(ty)), "{width} {ty:?} {errors:?}");
            assert_eq!(got[1], got[2], "in place");
        }
    }
}

#[test]
fn counts_that_are_no_multiple_of_four_are_refused() {
    let card = Emulator::default();
    let at = upload(&card, &[1.0; 8], Type::F32);
    for count in [0, 6] {
        assert!(activation::narrow(&Pass { ty: Type::Bf16, from: at, to: at, count }).is_err());
    }
    assert!(activation::swiglu_forward(&SwiGlu { ty: Type::F32, x: at, rows: 1, width: 2 }, at).is_err());
}
