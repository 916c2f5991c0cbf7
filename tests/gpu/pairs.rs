//! `pairs.cu`.

use super::support::{TYPES, epsilon, error, normal, round_all, run, unwritten, upload};
use erw_gpu::kernels::loss::{LossEnd, loss_end};
use erw_gpu::kernels::pairs::{Dispersive, MOST_IMAGES, NtXent, nt_xent, nt_xent_partials};
use erw_gpu::program::{Address, Form, Matmul, Program, Type};

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// The mean loss, and factor times the gradient of its sum.
fn contrast(p: &[f32], f: &[f32], [images, tokens, width]: [usize; 3], tau: f64, factor: f64) -> (f64, Vec<f64>) {
    let (mut sum, mut gradient) = (0.0, vec![0.0; p.len()]);
    let row = |x: &[f32], i: usize, t: usize| f64s(&x[(i * tokens + t) * width..][..width]);
    let unit = |x: Vec<f64>| {
        let length = (dot(&x, &x) + 1e-24).sqrt();
        (x.iter().map(|x| x / length).collect::<Vec<_>>(), length)
    };
    for t in 0..tokens {
        let features: Vec<_> = (0..images).map(|j| unit(row(f, j, t)).0).collect();
        for i in 0..images {
            let (own, length) = unit(row(p, i, t));
            let powers: Vec<f64> = features.iter().map(|f| (dot(&own, f) / tau).exp()).collect();
            let total: f64 = powers.iter().sum();
            sum -= (powers[i] / total).ln();
            let by = |j: usize| powers[j] / total - f64::from(u8::from(i == j));
            let g: Vec<f64> = (0..width).map(|c| (0..images).map(|j| by(j) * features[j][c]).sum()).collect();
            let along = dot(&g, &own);
            for c in 0..width {
                gradient[(i * tokens + t) * width + c] = factor / tau / length * (g[c] - along * own[c]);
            }
        }
    }
    (sum / (images * tokens) as f64, gradient)
}

fn check_nt_xent(ty: Type, sizes: [usize; 3]) {
    let [images, tokens, width] = sizes;
    let (count, factor, temperature) = (images * tokens * width, 0.37f32, 0.2);
    let p = round_all(&normal(1, count), ty);
    // Related to the projections, for else all images are alike.
    let f: Vec<f32> = p.iter().zip(normal(2, count)).map(|(p, n)| 0.5 * p + n).collect();
    let got = run(|card| {
        let (projections, features) = (upload(card, &p, ty), upload(card, &f, Type::F32));
        let (d, result) = (unwritten(card, count, ty), unwritten(card, 1, Type::F32));
        let (factor, parts) = (upload(card, &[factor], Type::F32), nt_xent_partials(images * tokens));
        let partial = card.allocate(8 * parts).unwrap();
        let a =
            NtXent { ty, projections, features, factor, dprojections: d, partial, images, tokens, width, temperature };
        let end = LossEnd { partial, count: parts, result, terms: images * tokens, add: false };
        let mut program = Program::default();
        program.launch(nt_xent(&NtXent { dprojections: Address::NULL, ..a }).unwrap());
        program.launch(nt_xent(&a).unwrap());
        program.launch(loss_end(&end).unwrap());
        program.launch(nt_xent(&NtXent { dprojections: projections, ..a }).unwrap());
        (program, vec![(d, count, ty), (result, 1, Type::F32), (projections, count, ty)])
    });
    let (mean, gradient) = contrast(&p, &f, sizes, temperature, f64::from(factor));
    let (slack, what) = (64.0 * epsilon(Type::F32), format!("{sizes:?} in {ty:?}"));
    let errors = [error(&got[0], &gradient), error(&got[1], &[mean])];
    assert!(errors[0] < epsilon(ty) + slack && errors[1] < slack, "{what}: {errors:?}");
    assert_eq!(got[0], got[2], "in place, {what}");
}

#[test]
fn nt_xent_of_every_type_and_odd_sizes() {
    for ty in TYPES {
        for sizes in [[2, 3, 128], [5, 1, 4], [3, 2, 340], [37, 3, 20]] {
            check_nt_xent(ty, sizes);
        }
    }
}

/// The loss, and factor times its gradient.
fn dispersed(z: &[f32], images: usize, tau: f64, factor: f64) -> (f64, Vec<f64>) {
    let width = z.len() / images;
    let rows: Vec<Vec<f64>> = z.chunks(width).map(f64s).collect();
    let rate = 1.0 / (width as f64 * tau);
    let e =
        |i: usize, j: usize| (-rate * rows[i].iter().zip(&rows[j]).map(|(a, b)| (a - b).powi(2)).sum::<f64>()).exp();
    let pairs: Vec<Vec<f64>> = (0..images).map(|i| (0..images).map(|j| e(i, j)).collect()).collect();
    let total: f64 = pairs.iter().flatten().sum();
    let of = |i: usize, c: usize| (0..images).map(|j| pairs[i][j] * (rows[j][c] - rows[i][c])).sum::<f64>();
    let gradient = (0..images).flat_map(|i| (0..width).map(move |c| (i, c)));
    let gradient = gradient.map(|(i, c)| factor * 4.0 * rate / total * of(i, c)).collect();
    ((total / (images * images) as f64).ln(), gradient)
}

fn check_dispersive(images: usize, width: usize) {
    let (count, factor, temperature) = (images * width, 0.37f32, 0.7);
    // All images have much in common, and two are the same.
    let mut z: Vec<f32> = normal(3, count).iter().enumerate().map(|(i, x)| x + 5.0 * (i % width % 3) as f32).collect();
    if images > 2 {
        z.copy_within(..width, width);
    }
    let got = run(|card| {
        let a = Dispersive { images, width, temperature };
        let (states, factor) = (upload(card, &z, Type::F32), upload(card, &[factor], Type::F32));
        let [centred, gradient] = [(); 2].map(|()| unwritten(card, count, Type::F32));
        let [products, pairs] = [(); 2].map(|()| unwritten(card, images * images, Type::F32));
        let (partial, result) = (card.allocate(8 * images).unwrap(), unwritten(card, 1, Type::F32));
        let mut program = Program::default();
        program.launch(a.centre(states, centred).unwrap());
        let all = [images, images, width];
        program.matmul(Matmul::new(Form::Nt, all, [centred, centred, products], Type::F32));
        program.launch(a.pairs(products, pairs, partial).unwrap());
        program.launch(a.end(pairs, partial, factor, result).unwrap());
        let all = [images, width, images];
        program.matmul(Matmul::new(Form::Nn, all, [pairs, centred, gradient], Type::F32));
        (program, vec![(gradient, count, Type::F32), (result, 1, Type::F32)])
    });
    let (loss, gradient) = dispersed(&z, images, temperature, f64::from(factor));
    let errors = [error(&got[0], &gradient), error(&got[1], &[loss])];
    let slack = 128.0 * epsilon(Type::F32);
    assert!(errors.iter().all(|e| *e < slack), "{images} x {width}: {errors:?}");
}

#[test]
fn dispersion_and_its_gradient() {
    for (images, width) in [(2, 8), (5, 300), (40, 1028), (300, 4)] {
        check_dispersive(images, width);
    }
}

#[test]
fn batches_without_pairs_are_refused() {
    let none = Address::NULL;
    let a = NtXent {
        ty: Type::F32,
        projections: none,
        features: none,
        factor: none,
        dprojections: none,
        partial: none,
        images: 2,
        tokens: 1,
        width: 4,
        temperature: 0.1,
    };
    let refused = |a: &NtXent| nt_xent(a).is_err();
    assert!(!refused(&a) && !refused(&NtXent { images: MOST_IMAGES, ..a }));
    assert!(refused(&NtXent { images: 1, ..a }) && refused(&NtXent { images: MOST_IMAGES + 1, ..a }));
    assert!(refused(&NtXent { width: 6, ..a }) && refused(&NtXent { temperature: 0.0, ..a }));
    assert!(Dispersive { images: 1, width: 4, temperature: 1.0 }.centre(none, none).is_err());
}
