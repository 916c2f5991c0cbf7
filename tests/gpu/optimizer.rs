//! `optimizer.cu`.

use super::support::{TYPES, epsilon, error, normal, round_all, run, unwritten, upload, upload_words};
use erw_gpu::kernels::optimizer::{self, AdamW, Average, NormEnd};
use erw_gpu::kernels::scalars::{Results, Scalars};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Launch, Program, Type};

fn program(launches: impl IntoIterator<Item = Launch>) -> Program {
    let mut program = Program::default();
    launches.into_iter().for_each(|l| program.launch(l));
    program
}

/// The scalars of the third update with betas 0.9 and 0.95.
fn scalars(unscale: f32, max_norm: f32) -> Vec<f32> {
    let (beta1, beta2, rate) = (0.9f64, 0.95f64, 1e-2f64);
    let mut all = vec![f32::NAN; Scalars::SIZE];
    let slots = [
        (Scalars::UNSCALE, f64::from(unscale)),
        (Scalars::MAX_NORM, f64::from(max_norm)),
        (Scalars::FIRST_KEEP, beta1),
        (Scalars::FIRST_ADD, 1.0 - beta1),
        (Scalars::SECOND_KEEP, beta2),
        (Scalars::SECOND_ADD, 1.0 - beta2),
        (Scalars::EPS, 1e-8),
        (Scalars::STEP_SIZE, rate / (1.0 - beta1.powi(3))),
        (Scalars::SECOND_SCALE, 1.0 / (1.0 - beta2.powi(3))),
        (Scalars::DECAY, 1.0 - rate * 0.1),
        (Scalars::AVERAGES, 0.9999),
        (Scalars::AVERAGES + 1, 1.0 - 0.9999),
        (Scalars::AVERAGES + 2, 0.99),
        (Scalars::AVERAGES + 3, 1.0 - 0.99),
    ];
    slots.into_iter().for_each(|(slot, value)| all[slot] = value as f32);
    all
}

/// Norm, factor and finiteness of gradients, with these losses.
fn norm(g: &[f32], unscale: f32, max_norm: f32, losses: &[f32]) -> [f32; 3] {
    let got = run(|card| {
        let gradients = upload(card, g, Type::F32);
        let results = Results(unwritten(card, Results::SIZE, Type::F32));
        let bytes: Vec<u8> = losses.iter().flat_map(|x| x.to_ne_bytes()).collect();
        card.write(results.at(Results::LOSSES), &bytes).unwrap();
        let parts = optimizer::partial_count(g.len());
        let end = NormEnd {
            partial: card.allocate(8 * parts).unwrap(),
            partial_count: parts,
            scalars: Scalars(upload(card, &scalars(unscale, max_norm), Type::F32)),
            results,
            losses: losses.len(),
        };
        let all = [
            optimizer::gradient_norm(gradients, end.partial, g.len()).unwrap(),
            optimizer::gradient_norm_end(&end).unwrap(),
        ];
        (program(all), vec![(results.at(Results::NORM), 3, Type::F32)])
    });
    [got[0][0], got[0][1], got[0][2]]
}

#[test]
fn norm_and_clipping() {
    // Three blocks, the last with 1,280 numbers.
    let g = normal(1, 2 * 65_536 + 1280);
    let length = g.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    let unscale = 1.0 / 1024.0;
    let whole = length * f64::from(unscale);
    for (max_norm, clip) in [
        (0.0, 1.0),
        (-1.0, 1.0),
        (f64::INFINITY, 1.0),
        (1.0, (1.0 / (whole + 1e-6)).min(1.0)),
        (0.125, 0.125 / (whole + 1e-6)),
    ] {
        let [n, factor, finite] = norm(&g, unscale, max_norm as f32, &[1.0, -0.5]);
        // Four squares are added in f32, a root and a product are rounded.
        assert!(error(&[n], &[whole]) < 4.0 * epsilon(Type::F32), "{n} {whole}");
        assert!(error(&[factor], &[f64::from(unscale) * clip]) < 4.0 * epsilon(Type::F32), "{max_norm} {factor}");
        assert_eq!(finite, 1.0);
    }
    assert_eq!(norm(&[0.0; 256], 1.0, 1.0, &[]), [0.0, 1.0, 1.0]);
}

#[test]
fn a_step_that_is_not_finite_has_factor_zero() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        let mut g = vec![1f32; 512];
        g[300] = bad;
        let [n, factor, finite] = norm(&g, 1.0, 1.0, &[]);
        assert!(!n.is_finite(), "{bad}");
        assert_eq!((factor, finite), (0.0, 0.0), "{bad}");
        assert_eq!(norm(&[3.0; 256], 1.0, 0.0, &[1.0, bad])[1..], if bad == 1e30 { [1.0, 1.0] } else { [0.0, 0.0] });
    }
}

/// Weights, gradients, moments, averages of an update.
struct State {
    w: Vec<f32>,
    g: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
    e: [Vec<f32>; 2],
    decays: Vec<u32>,
}

impl State {
    fn new(count: usize) -> Self {
        let decays = (0..optimizer::decay_words(count)).map(|i| 0x9e37_79b9u32.wrapping_mul(i as u32 + 1)).collect();
        let v = normal(5, count).iter().map(|x| 1e-3 * x * x).collect();
        let m = normal(4, count).iter().map(|x| 0.03 * x).collect();
        Self { w: normal(2, count), g: normal(3, count), m, v, e: [6, 7].map(|seed| normal(seed, count)), decays }
    }

    /// The update in the CPU's order, in f32.
    fn after(&self, factor: f32, k: &[f32]) -> Self {
        let mut s = Self { g: self.g.clone(), decays: self.decays.clone(), ..Self::new(self.w.len()) };
        for i in 0..s.w.len() {
            let decays = self.decays[i / 8192] >> (i / 256 % 32) & 1 == 1;
            let g = self.g[i] * factor;
            s.m[i] = k[Scalars::FIRST_KEEP] * self.m[i] + k[Scalars::FIRST_ADD] * g;
            s.v[i] = k[Scalars::SECOND_KEEP] * self.v[i] + k[Scalars::SECOND_ADD] * g * g;
            let decay = if decays { k[Scalars::DECAY] } else { 1.0 };
            s.w[i] = self.w[i] * decay
                - k[Scalars::STEP_SIZE] * s.m[i] / ((s.v[i] * k[Scalars::SECOND_SCALE]).sqrt() + k[Scalars::EPS]);
            for (a, (e, old)) in s.e.iter_mut().zip(&self.e).enumerate() {
                let mix = &k[Scalars::AVERAGES + 2 * a..];
                e[i] = mix[0] * old[i] + mix[1] * s.w[i];
            }
        }
        s
    }
}

/// What an update with this factor leaves: weights, moments, two averages and the copy. Fused with
/// the first average, or with both apart.
fn update(s: &State, ty: Type, factor: f32, fused: bool, copy: bool) -> Vec<Vec<f32>> {
    let count = s.w.len();
    run(|card: &dyn Machine| {
        let [weights, gradients, m, v, first, second] =
            [&s.w, &s.g, &s.m, &s.v, &s.e[0], &s.e[1]].map(|t| upload(card, t, Type::F32));
        let results = Results(unwritten(card, Results::SIZE, Type::F32));
        card.write(results.at(Results::FACTOR), &factor.to_ne_bytes()).unwrap();
        let low = unwritten(card, count, ty);
        let a = AdamW {
            weights,
            gradients,
            moments: [m, v],
            copy: if copy { low } else { Address::NULL },
            ty,
            decays: upload_words(card, &s.decays),
            scalars: Scalars(upload(card, &scalars(1.0, 1.0), Type::F32)),
            results,
            count,
        };
        let (first_average, second_average) =
            (Average { values: first, index: 0 }, Average { values: second, index: 1 });
        let mut all = Program::default();
        if fused {
            all.launch(optimizer::adamw_average(&a, &first_average).unwrap());
        } else {
            all.launch(optimizer::adamw(&a).unwrap());
            all.launch(optimizer::average(&a, &first_average).unwrap());
        }
        all.launch(optimizer::average(&a, &second_average).unwrap());
        let mut outputs = [weights, m, v, first, second].map(|at| (at, count, Type::F32)).to_vec();
        if copy {
            outputs.push((low, count, ty));
        }
        (all, outputs)
    })
}

/// Numbers of parameters: 37 times 256, ten blocks, the last with 256 numbers; two words of decays.
const COUNT: usize = 9472;

#[test]
fn an_update_is_the_cpu_s() {
    let s = State::new(COUNT);
    let factor = 0.37;
    let want = s.after(factor, &scalars(1.0, 1.0));
    for ty in TYPES {
        for fused in [true, false] {
            let got = update(&s, ty, factor, fused, true);
            // The emulator contracts nothing: the same bits as the same arithmetic here.
            let all = [&want.w, &want.m, &want.v, &want.e[0], &want.e[1], &round_all(&want.w, ty)];
            for (i, (got, want)) in got.iter().zip(all).enumerate() {
                assert_eq!(got, want, "{ty:?} fused {fused}, tensor {i}");
            }
        }
    }
    let without = update(&s, Type::F32, factor, true, false);
    assert_eq!(without[0], want.w);
}

#[test]
fn an_update_is_adamw() {
    let s = State::new(COUNT);
    let factor = 0.37f32;
    let got = update(&s, Type::F32, factor, true, true);
    let k: Vec<f64> = scalars(1.0, 1.0).into_iter().map(f64::from).collect();
    let mut want = [(); 4].map(|()| vec![0f64; COUNT]);
    for i in 0..COUNT {
        let [w, g, m, v, e] = [s.w[i], s.g[i], s.m[i], s.v[i], s.e[0][i]].map(f64::from);
        let g = g * f64::from(factor);
        let (m, v) = (0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g);
        let decay = if s.decays[i / 8192] >> (i / 256 % 32) & 1 == 1 { 1.0 - 1e-3 } else { 1.0 };
        let root = (v / (1.0 - 0.95f64.powi(3))).sqrt() + 1e-8;
        let w = w * decay - 1e-2 / (1.0 - 0.9f64.powi(3)) * m / root;
        [w, m, v, 0.9999 * e + 1e-4 * w].into_iter().zip(&mut want).for_each(|(x, t)| t[i] = x);
    }
    assert_eq!(k[Scalars::EPS] as f32, 1e-8);
    // Each number takes up to six roundings.
    for (got, want) in got.iter().zip(&want) {
        assert!(error(got, want) < 8.0 * epsilon(Type::F32), "{}", error(got, want));
    }
}

#[test]
fn a_skipped_step_changes_nothing() {
    let s = State::new(1024);
    for (fused, ty) in [(true, Type::Bf16), (false, Type::F32)] {
        let got = update(&s, ty, 0.0, fused, true);
        assert_eq!(got[..5], [&s.w, &s.m, &s.v, &s.e[0], &s.e[1]].map(Clone::clone));
        assert!(got[5].iter().all(|x| x.is_nan()), "the copy stays as it was");
    }
}

#[test]
fn padding_stays_zero() {
    let mut s = State::new(512);
    for t in [&mut s.w, &mut s.g, &mut s.m, &mut s.v, &mut s.e[0]] {
        t[256..].fill(0.0);
    }
    let got = update(&s, Type::Bf16, 1.0, true, true);
    for tensor in [0, 1, 2, 3, 5] {
        assert!(got[tensor][256..].iter().all(|x| *x == 0.0), "tensor {tensor}");
    }
}

#[test]
fn buffers_without_padding_are_refused() {
    let results = Results(Address::NULL);
    let a = AdamW {
        weights: Address::NULL,
        gradients: Address::NULL,
        moments: [Address::NULL; 2],
        copy: Address::NULL,
        ty: Type::F32,
        decays: Address::NULL,
        scalars: Scalars(Address::NULL),
        results,
        count: 260,
    };
    assert!(optimizer::adamw(&a).is_err());
    let first = Average { values: Address::NULL, index: 0 };
    assert!(optimizer::average(&a, &first).is_err());
    let last = Average { index: Scalars::MOST_AVERAGES, ..first };
    assert!(optimizer::adamw_average(&AdamW { count: 256, ..a }, &last).is_err());
    assert!(optimizer::gradient_norm(Address::NULL, Address::NULL, 6).is_err());
}
