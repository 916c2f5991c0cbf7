//! `pooling.cu`.

use super::support::{TYPES, epsilon, error, normal, round_all, run, unwritten, upload};
use erw_gpu::kernels::pooling::{Pooling, Windows, mean_of_pixels};
use erw_gpu::program::{Program, Type};

const SAMPLES: usize = 2;
const SIZE: [usize; 2] = [7, 5];
const CHANNELS: usize = 12;

#[test]
fn windows_are_pooled() {
    for ty in TYPES {
        let x = round_all(&normal(1, SAMPLES * SIZE[0] * SIZE[1] * CHANNELS), ty);
        for (windows, step, pad) in [(Windows::Mean, 1, 1), (Windows::Max, 1, 1), (Windows::MaxHalving, 2, 0)] {
            let out = SIZE.map(|side| windows.side(side));
            let pixels = SAMPLES * out[0] * out[1];
            let pitch = CHANNELS + 4;
            let got = run(|card| {
                let y = upload(card, &vec![1.0; pixels * pitch], ty);
                let (x, size) = (upload(card, &x, ty), SIZE);
                let pooling = Pooling { windows, x, y, samples: SAMPLES, size, channels: CHANNELS, pitch, ty };
                let mut program = Program::default();
                program.launch(pooling.launch().unwrap());
                (program, vec![(y, pixels * pitch, ty)])
            });
            let mut want = vec![1.0; pixels * pitch];
            for (i, want) in want.iter_mut().enumerate().filter(|(i, _)| i % pitch < CHANNELS) {
                let (pixel, channel) = (i / pitch, i % pitch);
                let (n, row, column) = (pixel / out[1] / out[0], pixel / out[1] % out[0], pixel % out[1]);
                let around = |at: usize, side: usize| {
                    (at * step..at * step + 3).filter_map(move |a| a.checked_sub(pad).filter(|a| *a < side))
                };
                let inside: Vec<f64> = around(row, SIZE[0])
                    .flat_map(|r| around(column, SIZE[1]).map(move |c| (r, c)))
                    .map(|(r, c)| f64::from(x[((n * SIZE[0] + r) * SIZE[1] + c) * CHANNELS + channel]))
                    .collect();
                *want = match windows {
                    Windows::Mean => inside.iter().sum::<f64>() / inside.len() as f64,
                    Windows::Max | Windows::MaxHalving => inside.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b)),
                };
            }
            let off = error(&got[0], &want);
            assert!(off < epsilon(ty) + 4.0 * epsilon(Type::F32), "{windows:?} {ty:?}: {off:e}");
        }
    }
}

#[test]
fn nan_is_the_maximum() {
    let got = run(|card| {
        let mut x = vec![0.0; 9 * 4];
        x[4 * 4] = f32::NAN;
        let (x, y) = (upload(card, &x, Type::F32), unwritten(card, 4, Type::F32));
        let windows = Windows::MaxHalving;
        let pooling = Pooling { windows, x, y, samples: 1, size: [3, 3], channels: 4, pitch: 4, ty: Type::F32 };
        let mut program = Program::default();
        program.launch(pooling.launch().unwrap());
        (program, vec![(y, 4, Type::F32)])
    });
    assert!(got[0][0].is_nan() && got[0][1..] == [0.0; 3], "{got:?}");
}

#[test]
fn pixels_are_averaged() {
    let (samples, pixels, channels) = (3, 10, 1028);
    for ty in TYPES {
        let x = round_all(&normal(2, samples * pixels * channels), ty);
        let got = run(|card| {
            let (x, y) = (upload(card, &x, ty), unwritten(card, samples * channels, Type::F32));
            let mut program = Program::default();
            program.launch(mean_of_pixels(x, y, [samples, pixels, channels], ty).unwrap());
            (program, vec![(y, samples * channels, Type::F32)])
        });
        let want: Vec<f64> = (0..samples * channels)
            .map(|i| {
                let at = |p: usize| (i / channels * pixels + p) * channels + i % channels;
                (0..pixels).map(|p| f64::from(x[at(p)])).sum::<f64>() / pixels as f64
            })
            .collect();
        let off = error(&got[0], &want);
        assert!(off < 4.0 * epsilon(Type::F32), "{ty:?}: {off:e}");
    }
}
