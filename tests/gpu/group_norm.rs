//! `group_norm.cu`.

use super::support::{TYPES, epsilon, error, normal, round_all, run, unwritten, upload};
use erw_gpu::kernels::group_norm::GroupNorm;
use erw_gpu::program::{Address, Program, Type};

/// `real` channels in groups, padded with zeros to `channels`; numbers have mean `mean`.
fn check(samples: usize, pixels: usize, real: usize, channels: usize, groups: usize, mean: f32) {
    for (ty, silu) in TYPES.into_iter().flat_map(|ty| [(ty, false), (ty, true)]) {
        let mut x = normal(1, samples * pixels * channels);
        for (i, x) in x.iter_mut().enumerate() {
            *x = if i % channels < real { *x + mean } else { 0.0 };
        }
        let x = round_all(&x, ty);
        let pad = |mut numbers: Vec<f32>| {
            numbers[real..].fill(0.0);
            numbers
        };
        let (weight, bias) = (pad(normal(2, channels)), pad(normal(3, channels)));
        let got = run(|card| {
            let (y, in_place) = (unwritten(card, x.len(), ty), upload(card, &x, ty));
            let norm = GroupNorm {
                x: upload(card, &x, ty),
                y,
                weight: upload(card, &weight, Type::F32),
                bias: upload(card, &bias, Type::F32),
                space: Address::NULL,
                samples,
                pixels,
                channels,
                real,
                groups,
                eps: 1e-6,
                silu,
                ty,
            };
            let norm = GroupNorm { space: unwritten(card, norm.space(), Type::F32), ..norm };
            let mut program = Program::default();
            let second = GroupNorm { x: in_place, y: in_place, ..norm };
            norm.launches().unwrap().into_iter().chain(second.launches().unwrap()).for_each(|l| program.launch(l));
            (program, vec![(y, x.len(), ty), (in_place, x.len(), ty)])
        });
        let width = real / groups;
        let mut want = vec![0.0; x.len()];
        for (n, g) in (0..samples).flat_map(|n| (0..groups).map(move |g| (n, g))) {
            let at = |p: usize, c: usize| (n * pixels + p) * channels + g * width + c;
            let all: Vec<usize> = (0..pixels).flat_map(|p| (0..width).map(move |c| at(p, c))).collect();
            let count = all.len() as f64;
            let mean = all.iter().map(|i| f64::from(x[*i])).sum::<f64>() / count;
            let variance = all.iter().map(|i| (f64::from(x[*i]) - mean).powi(2)).sum::<f64>() / count;
            for i in all {
                let c = i % channels;
                let y = (f64::from(x[i]) - mean) / (variance + 1e-6).sqrt() * f64::from(weight[c]) + f64::from(bias[c]);
                want[i] = if silu { y / (1.0 + (-y).exp()) } else { y };
            }
        }
        let off = error(&got[0], &want);
        // The mean is rounded to f32 before it is subtracted.
        let tolerance = epsilon(ty) + (4.0 + f64::from(mean)) * 4.0 * epsilon(Type::F32);
        assert!(off < tolerance, "{ty:?} {silu}: {off:e} {tolerance:e}");
        assert_eq!(got[0], got[1], "in place");
    }
}

#[test]
fn groups_are_normalised() {
    check(2, 35, 32, 32, 8, 0.0);
    // Several chunks, and threads without a line of channels.
    check(1, 1100, 24, 24, 4, 1.0);
    // Groups of one channel, and channels without a group.
    check(2, 12, 6, 8, 6, 0.0);
}

#[test]
fn large_means_do_not_hide_the_variance() {
    check(1, 600, 8, 8, 2, 1000.0);
}
