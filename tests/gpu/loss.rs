//! `loss.cu`.

use super::embedding::place;
use super::support::{Output, TYPES, epsilon, error, normal, round_all, run, unwritten, upload};
use erw_gpu::kernels::embedding::Image;
use erw_gpu::kernels::loss::{self, CosineLoss, LossEnd, VelocityCosine, VelocityLoss, ZScore};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Launch, Program, Type};

fn program(launches: impl IntoIterator<Item = Launch>) -> Program {
    let mut program = Program::default();
    launches.into_iter().for_each(|l| program.launch(l));
    program
}

/// Room for f64 partial sums.
fn partial(card: &dyn Machine, count: usize) -> Address {
    card.allocate(8 * count).unwrap()
}

const IMAGES: [Image; 3] = [
    Image { samples: 2, channels: 4, side: 32, patch: 2 },
    Image { samples: 3, channels: 3, side: 12, patch: 2 },
    Image { samples: 1, channels: 4, side: 4, patch: 1 },
];

/// The target's numbers in the order of tokens.
fn as_tokens(image: &Image, target: &[f32]) -> Vec<f32> {
    let (channels, patch) = (image.channels, image.patch);
    let width = channels * patch * patch;
    let at = |i: usize| {
        let k = i % width;
        target[place(image, i / width, [k % channels, k / channels / patch, k / channels % patch])]
    };
    (0..image.count()).map(at).collect()
}

#[test]
fn squared_error_and_its_gradient() {
    for image in IMAGES {
        for ty in TYPES {
            let (count, factor) = (image.count(), 0.37f32);
            let (out, target) = (round_all(&normal(1, count), ty), normal(2, count));
            let got = run(|card| {
                let (tokens, targets) = (upload(card, &out, ty), upload(card, &target, Type::F32));
                let (dout, result) = (unwritten(card, count, ty), unwritten(card, 2, Type::F32));
                let factor = upload(card, &[factor], Type::F32);
                let (partial_of, cosine) = (Address::NULL, None);
                let launch =
                    VelocityLoss { image, ty, out: tokens, target: targets, factor, dout, partial: partial_of, cosine };
                let parts = launch.partial_count();
                let launch = VelocityLoss { partial: partial(card, parts), ..launch };
                let value_only = VelocityLoss { dout: Address::NULL, ..launch };
                let in_place = VelocityLoss { dout: tokens, ..launch };
                let end = LossEnd { partial: launch.partial, count: parts, result, terms: 2 * count, add: false };
                let all = [
                    loss::velocity_loss(&launch).unwrap(),
                    loss::loss_end(&end).unwrap(),
                    // As if there were a second micro-batch.
                    loss::velocity_loss(&value_only).unwrap(),
                    loss::loss_end(&LossEnd { add: true, ..end }).unwrap(),
                    loss::velocity_loss(&in_place).unwrap(),
                ];
                (program(all), vec![(dout, count, ty), (result, 1, Type::F32), (tokens, count, ty)])
            });
            let target = as_tokens(&image, &target);
            let apart: Vec<f64> = out.iter().zip(&target).map(|(o, t)| f64::from(*o) - f64::from(*t)).collect();
            let gradient: Vec<f64> = apart.iter().map(|d| 2.0 * f64::from(factor) * d).collect();
            let mean = apart.iter().map(|d| d * d).sum::<f64>() / count as f64;
            // A difference and a product in f32, then one rounding.
            assert!(error(&got[0], &gradient) < epsilon(ty) + 4.0 * epsilon(Type::F32), "{image:?} {ty:?}");
            // Squares in f32, their sum in f64.
            assert!(error(&got[1], &[mean]) < 4.0 * epsilon(Type::F32), "{image:?} {ty:?}");
            assert_eq!(got[0], got[2], "in place");
        }
    }
}

/// Loss and gradient of the velocity's squared error with its direction.
#[test]
fn direction_and_its_gradient() {
    let wide = Image { samples: 1, channels: 32, side: 6, patch: 1 };
    for image in IMAGES.into_iter().chain([wide]) {
        for ty in TYPES {
            let (count, factor, by_cosine) = (image.count(), 0.37f32, 1.7f32);
            // The first place has no direction, as in the first step of a training.
            let mut out = round_all(&normal(1, count), ty);
            out[..image.channels].fill(0.0);
            let target = normal(2, count);
            let got = run(|card| {
                let (tokens, targets) = (upload(card, &out, ty), upload(card, &target, Type::F32));
                let (dout, result) = (unwritten(card, count, ty), unwritten(card, 2, Type::F32));
                let [factor, by_cosine] = [factor, by_cosine].map(|f| upload(card, &[f], Type::F32));
                let parts = loss::velocity_partials(&image, true);
                let [squares, directions] = [(); 2].map(|()| partial(card, parts));
                let launch = VelocityLoss {
                    image,
                    ty,
                    out: tokens,
                    target: targets,
                    factor,
                    dout,
                    partial: squares,
                    cosine: Some(VelocityCosine { factor: by_cosine, partial: directions }),
                };
                assert_eq!(launch.partial_count(), parts);
                let end = LossEnd { partial: squares, count: parts, result, terms: count, add: false };
                let of_directions =
                    LossEnd { partial: directions, result: result.offset(4), terms: image.places(), ..end };
                let all = [
                    loss::velocity_loss(&launch).unwrap(),
                    loss::loss_end(&end).unwrap(),
                    loss::loss_end(&of_directions).unwrap(),
                    loss::velocity_loss(&VelocityLoss { dout: Address::NULL, ..launch }).unwrap(),
                    loss::velocity_loss(&VelocityLoss { dout: tokens, ..launch }).unwrap(),
                ];
                (program(all), vec![(dout, count, ty), (result, 2, Type::F32), (tokens, count, ty)])
            });
            let target = as_tokens(&image, &target);
            let (mean, along) = negative_cosine(&out, &target, image.channels, f64::from(by_cosine), 1e-8);
            let apart: Vec<f64> = out.iter().zip(&target).map(|(o, t)| f64::from(*o) - f64::from(*t)).collect();
            let gradient: Vec<f64> =
                apart.iter().zip(&along).map(|(d, along)| 2.0 * f64::from(factor) * d + along).collect();
            let squares = apart.iter().map(|d| d * d).sum::<f64>() / count as f64;
            let slack = 8.0 * epsilon(Type::F32);
            assert!(error(&got[1], &[squares, 1.0 + mean]) < slack, "{image:?} {ty:?}");
            assert_eq!(got[0], got[2], "in place");
            // The gradient without a direction is the inverse of the least length, beyond f16.
            let (none, rest) = (&got[0][..image.channels], &got[0][image.channels..]);
            let (want_none, want) = (&gradient[..image.channels], &gradient[image.channels..]);
            assert!(error(rest, want) < epsilon(ty) + slack, "{image:?} {ty:?}");
            if ty != Type::F16 {
                assert!(error(none, want_none) < epsilon(ty) + slack, "{image:?} {ty:?}");
            }
        }
    }
}

/// Loss and gradient of one micro-batch: mean of -cos, and factor times the gradient of its sum. Rows
/// count as at least as long as `least`.
fn negative_cosine(p: &[f32], f: &[f32], width: usize, factor: f64, least: f64) -> (f64, Vec<f64>) {
    let (mut sum, mut gradient) = (0.0, vec![]);
    for (p, f) in p.chunks(width).zip(f.chunks(width)) {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let (pp, ff, pf) = (dot(p, p) + least * least, dot(f, f) + least * least, dot(p, f));
        let lengths = pp.sqrt() * ff.sqrt();
        sum -= pf / lengths;
        let one = |(p, f): (&f32, &f32)| -factor * (f64::from(*f) - f64::from(*p) * pf / pp) / lengths;
        gradient.extend(p.iter().zip(f).map(one));
    }
    (sum / (p.len() / width) as f64, gradient)
}

fn cosine_case(ty: Type, features_type: Type, rows: usize, width: usize) {
    let (count, factor) = (rows * width, 0.37f32);
    let p = round_all(&normal(3, count), ty);
    // Related to the projections: a random pair has a cosine near 0.
    let f: Vec<f32> = p.iter().zip(normal(4, count)).map(|(p, n)| 0.7 * p + n).collect();
    let f = round_all(&f, features_type);
    let got = run(|card| {
        let (projections, features) = (upload(card, &p, ty), upload(card, &f, features_type));
        let (d, result) = (unwritten(card, count, ty), unwritten(card, 1, Type::F32));
        let factor = upload(card, &[factor], Type::F32);
        let launch = CosineLoss {
            ty,
            projections,
            features,
            features_type,
            factor,
            dprojections: d,
            partial: Address::NULL,
            rows,
            width,
        };
        let parts = launch.partial_count();
        let launch = CosineLoss { partial: partial(card, parts), ..launch };
        let value_only = CosineLoss { dprojections: Address::NULL, ..launch };
        let end = LossEnd { partial: launch.partial, count: parts, result, terms: 2 * rows, add: false };
        let all = [
            loss::cosine_loss(&launch).unwrap(),
            loss::loss_end(&end).unwrap(),
            loss::cosine_loss(&value_only).unwrap(),
            loss::loss_end(&LossEnd { add: true, ..end }).unwrap(),
        ];
        (program(all), vec![(d, count, ty), (result, 1, Type::F32)])
    });
    let (mean, gradient) = negative_cosine(&p, &f, width, f64::from(factor), 1e-12);
    let errors = [error(&got[0], &gradient), error(&got[1], &[mean])];
    // Sums of a row in f32: 36 numbers a lane, then five steps. One rounding of the gradient.
    let sums = 16.0 * epsilon(Type::F32);
    assert!(errors[0] < epsilon(ty) + sums && errors[1] < sums, "{ty:?} {features_type:?} {width} {errors:?}");
}

#[test]
fn cosine_loss_of_every_width_and_type() {
    // Ragged: 32 rows a block, 8 at a time.
    for width in [128, 384, 768, 1024, 1152] {
        cosine_case(Type::Bf16, Type::Bf16, 37, width);
        cosine_case(Type::F16, Type::F32, 3, width);
    }
    // A width that is no multiple of a warp's 128.
    for width in [4, 340] {
        cosine_case(Type::F32, Type::F32, 33, width);
        cosine_case(Type::Bf16, Type::F32, 8, width);
        cosine_case(Type::F16, Type::F16, 8, width);
    }
    for width in [128, 384, 768, 1024, 1152] {
        cosine_case(Type::F32, Type::F32, 2, width);
        cosine_case(Type::Bf16, Type::F32, 2, width);
        cosine_case(Type::F16, Type::F16, 2, width);
    }
}

#[test]
fn a_zero_row_has_cosine_zero_and_a_finite_gradient() {
    let width = 128;
    let f = normal(5, width);
    let got = run(|card| {
        let (p, features) = (upload(card, &vec![0.0; width], Type::F32), upload(card, &f, Type::F32));
        let (d, result) = (unwritten(card, width, Type::F32), unwritten(card, 1, Type::F32));
        let launch = CosineLoss {
            ty: Type::F32,
            projections: p,
            features,
            features_type: Type::F32,
            factor: upload(card, &[1.0], Type::F32),
            dprojections: d,
            partial: partial(card, 1),
            rows: 1,
            width,
        };
        let end = LossEnd { partial: launch.partial, count: 1, result, terms: 1, add: false };
        let all = [loss::cosine_loss(&launch).unwrap(), loss::loss_end(&end).unwrap()];
        (program(all), vec![(d, width, Type::F32), (result, 1, Type::F32)])
    });
    let (mean, gradient) = negative_cosine(&vec![0.0; width], &f, width, 1.0, 1e-12);
    assert_eq!((f64::from(got[1][0]), got[0].iter().all(|d| d.is_finite())), (mean, true));
    assert!(error(&got[0], &gradient) < 16.0 * epsilon(Type::F32));
}

#[test]
fn many_partial_sums_are_added() {
    // More than a block has threads, in f64: the result is exact.
    let numbers: Vec<f64> = (0..1000).map(|i| f64::from(i) + 0.25).collect();
    let got = run(|card| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_ne_bytes()).collect();
        let (parts, result) = (partial(card, numbers.len()), unwritten(card, 1, Type::F32));
        card.write(parts, &bytes).unwrap();
        let end = LossEnd { partial: parts, count: numbers.len(), result, terms: 4, add: false };
        let outputs: Vec<Output> = vec![(result, 1, Type::F32)];
        (program([loss::loss_end(&end).unwrap()]), outputs)
    });
    assert_eq!(got[0], [(numbers.iter().sum::<f64>() / 4.0) as f32]);
}

#[test]
fn z_scores_of_features() {
    let samples = 2;
    for (tokens, width) in [(64, 128), (9, 132), (2, 384)] {
        for (ty, alpha) in [(Type::Bf16, 0.6f32), (Type::F16, 1.0), (Type::F32, 0.6), (Type::F32, 0.0)] {
            let count = samples * tokens * width;
            // A mean and a deviation that differ from channel to channel.
            let x: Vec<f32> = normal(6, count)
                .iter()
                .enumerate()
                .map(|(i, x)| x * (0.5 + (i % 5) as f32) + (i % width % 7) as f32 - 3.0)
                .collect();
            let x = round_all(&x, ty);
            let got = run(|card| {
                let [xs, in_place] = [(); 2].map(|()| upload(card, &x, ty));
                let y = unwritten(card, count, ty);
                let launch = ZScore { ty, x: xs, y, samples, tokens, width, alpha };
                let all = [
                    loss::z_score(&launch).unwrap(),
                    loss::z_score(&ZScore { x: in_place, y: in_place, ..launch }).unwrap(),
                ];
                (program(all), vec![(y, count, ty), (in_place, count, ty)])
            });
            let mut want = vec![0f64; count];
            for column in 0..samples * width {
                let at = |t: usize| (column / width * tokens + t) * width + column % width;
                let all: Vec<f64> = (0..tokens).map(|t| f64::from(x[at(t)])).collect();
                let mean = all.iter().sum::<f64>() / tokens as f64;
                let square = all.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (tokens - 1) as f64;
                for (t, x) in all.iter().enumerate() {
                    want[at(t)] = (x - f64::from(alpha) * mean) / (square.sqrt() + 1e-6);
                }
            }
            // With two tokens the deviation can be small beside the mean, which is off by half a unit
            // in its last place: where it is a thirtieth, scores are off by so much more.
            let slack = if tokens == 2 { 1e-4 } else { 32.0 * epsilon(Type::F32) };
            let e = error(&got[0], &want);
            assert!(e < epsilon(ty) + slack, "{tokens} x {width} {ty:?} {e}");
            assert_eq!(got[0], got[1], "in place");
        }
    }
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    let z = ZScore { ty: Type::F32, x: Address::NULL, y: Address::NULL, samples: 1, tokens: 1, width: 4, alpha: 0.0 };
    assert!(loss::z_score(&z).is_err());
    assert!(loss::z_score(&ZScore { tokens: 2, width: 6, ..z }).is_err());
    let c = CosineLoss {
        ty: Type::Bf16,
        projections: Address::NULL,
        features: Address::NULL,
        features_type: Type::F16,
        factor: Address::NULL,
        dprojections: Address::NULL,
        partial: Address::NULL,
        rows: 1,
        width: 128,
    };
    assert!(loss::cosine_loss(&c).is_err());
    assert!(loss::cosine_loss(&CosineLoss { features_type: Type::F32, width: 130, ..c }).is_err());
}
