//! `planes.cu`.

use super::support::{TYPES, normal, round_all, run, unwritten, upload};
use erw_gpu::kernels::planes::{channels_last, padded, planes};
use erw_gpu::program::{Program, Type};

#[test]
fn planes_there_and_back() {
    for (samples, channels, pixels) in [(2, 3, 35), (3, 8, 4), (1, 13, 300)] {
        for ty in TYPES {
            let x = round_all(&normal(1, samples * channels * pixels), ty);
            let count = samples * pixels * padded(channels);
            let got = run(|card| {
                let (last, back) = (unwritten(card, count, ty), unwritten(card, x.len(), Type::F32));
                let (x, sizes) = (upload(card, &x, Type::F32), [samples, channels, pixels]);
                let mut program = Program::default();
                program.launch(channels_last(x, last, sizes, ty).unwrap());
                program.launch(planes(last, back, sizes, ty).unwrap());
                (program, vec![(last, count, ty), (back, samples * channels * pixels, Type::F32)])
            });
            assert_eq!(got[1], x);
            for (i, number) in got[0].iter().enumerate() {
                let (pixel, channel) = (i / padded(channels), i % padded(channels));
                let at = (pixel / pixels * channels + channel) * pixels + pixel % pixels;
                assert_eq!(*number, if channel < channels { x[at] } else { 0.0 });
            }
        }
    }
}
