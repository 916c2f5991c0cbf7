//! `convolution.cu`.

use super::support::{TYPES, epsilon, error, normal, round_all, run, upload};
use erw_gpu::kernels::convolution::Convolution;
use erw_gpu::program::{Address, Program, Type};

/// Samples, height and width, channels, outputs, kernel, stride, pad.
struct Case {
    samples: usize,
    size: [usize; 2],
    channels: usize,
    out: [usize; 2],
    outputs: usize,
    kernel: [usize; 2],
    stride: usize,
    pad: [usize; 2],
    upsample: bool,
}

/// 3 x 3 that keeps the size.
const SAME: Case = Case {
    samples: 2,
    size: [9, 7],
    channels: 16,
    out: [9, 7],
    outputs: 24,
    kernel: [3, 3],
    stride: 1,
    pad: [1, 1],
    upsample: false,
};

impl Case {
    fn known(&self, x: &[f32], weight: &[f32]) -> Vec<f64> {
        let Self { size, channels, out, outputs, kernel, .. } = *self;
        let zoom = if self.upsample { 2 } else { 1 };
        let mut y = vec![];
        for (sample, row, column, output) in (0..self.samples).flat_map(|n| {
            (0..out[0]).flat_map(move |r| (0..out[1]).flat_map(move |c| (0..outputs).map(move |o| (n, r, c, o))))
        }) {
            let mut sum = 0.0;
            for (dy, dx) in (0..kernel[0]).flat_map(|dy| (0..kernel[1]).map(move |dx| (dy, dx))) {
                let inside = |at: usize, pad: usize, side: usize| at.checked_sub(pad).filter(|at| *at < side * zoom);
                let row = inside(row * self.stride + dy, self.pad[0], size[0]);
                let column = inside(column * self.stride + dx, self.pad[1], size[1]);
                let (Some(row), Some(column)) = (row, column) else { continue };
                let from = ((sample * size[0] + row / zoom) * size[1] + column / zoom) * channels;
                let tap = ((output * kernel[0] + dy) * kernel[1] + dx) * channels;
                let terms = x[from..from + channels].iter().zip(&weight[tap..tap + channels]);
                sum += terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            }
            y.push(sum);
        }
        y
    }

    fn check(&self) {
        let Self { samples, size, channels, out, outputs, kernel, .. } = *self;
        let pixels = samples * out[0] * out[1];
        for ty in TYPES {
            let x = round_all(&normal(1, samples * size[0] * size[1] * channels), ty);
            let weight = round_all(&normal(2, outputs * kernel[0] * kernel[1] * channels), ty);
            let bias: Vec<f32> = normal(3, outputs).iter().map(|b| 10.0 * b).collect();
            let residual = round_all(&normal(4, pixels * outputs), ty);
            // Results lie in rows of other results.
            let pitch = outputs + 8;
            let got = run(|card| {
                let beside = vec![1.0; pixels * pitch];
                let [plain, all] = [(); 2].map(|()| upload(card, &beside, ty));
                let convolution = Convolution {
                    x: upload(card, &x, ty),
                    weight: upload(card, &weight, ty),
                    bias: Address::NULL,
                    residual: Address::NULL,
                    y: plain,
                    samples,
                    size,
                    channels,
                    out,
                    outputs,
                    pitch,
                    kernel,
                    stride: self.stride,
                    pad: self.pad,
                    upsample: self.upsample,
                    relu: false,
                    ty,
                };
                let mut program = Program::default();
                program.launch(convolution.launch().unwrap());
                let (bias, residual) = (upload(card, &bias, Type::F32), upload(card, &residual, ty));
                let with_all = Convolution { bias, residual, y: all, relu: true, ..convolution };
                program.launch(with_all.launch().unwrap());
                (program, vec![(plain, pixels * pitch, ty), (all, pixels * pitch, ty)])
            });
            let sums = self.known(&x, &weight);
            let all = sums
                .iter()
                .enumerate()
                .map(|(i, s)| (s + f64::from(bias[i % outputs])).max(0.0) + f64::from(residual[i]));
            for (got, want) in got.iter().zip([sums.clone(), all.collect()]) {
                let rows = || got.chunks(pitch);
                assert!(rows().all(|row| row[outputs..].iter().all(|x| *x == 1.0)), "beside");
                let inside: Vec<f32> = rows().flat_map(|row| &row[..outputs]).copied().collect();
                let off = error(&inside, &want);
                // Two roundings; before them f32 sums of up to some 900 terms.
                assert!(off < 2.0 * epsilon(ty) + 1e-6, "{ty:?}: {off:e}");
            }
        }
    }
}

#[test]
fn convolutions_that_keep_the_size() {
    SAME.check();
    // Several tiles of pixels; a sum that ends within a step; columns of two tiles of 128.
    Case { samples: 3, outputs: 136, channels: 40, ..SAME }.check();
}

#[test]
fn convolutions_of_other_kernels() {
    Case { kernel: [1, 1], pad: [0, 0], channels: 8, ..SAME }.check();
    Case { kernel: [1, 7], pad: [0, 3], ..SAME }.check();
    Case { kernel: [7, 1], pad: [3, 0], outputs: 72, ..SAME }.check();
    Case { pad: [0, 0], out: [7, 5], ..SAME }.check();
}

#[test]
fn convolutions_that_halve_and_double() {
    // Padded at the bottom and on the right alone, as the autoencoder has it; whole windows, as
    // Inception has it.
    Case { stride: 2, pad: [0, 0], size: [8, 6], out: [4, 3], ..SAME }.check();
    Case { stride: 2, pad: [0, 0], out: [4, 3], ..SAME }.check();
    Case { upsample: true, size: [5, 4], out: [10, 8], ..SAME }.check();
}

#[test]
fn sizes_that_the_kernel_does_not_take_are_refused() {
    let at = Address(256);
    let good = Convolution {
        x: at,
        weight: at,
        bias: Address::NULL,
        residual: Address::NULL,
        y: at,
        samples: 1,
        size: [4, 4],
        channels: 8,
        out: [4, 4],
        outputs: 8,
        pitch: 8,
        kernel: [1, 1],
        stride: 1,
        pad: [0, 0],
        upsample: false,
        relu: false,
        ty: Type::F32,
    };
    assert!(good.launch().is_ok());
    let bad = [
        Convolution { channels: 4, ..good },
        Convolution { outputs: 12, ..good },
        Convolution { pitch: 9, ..good },
        Convolution { stride: 0, ..good },
        Convolution { samples: 0, ..good },
        Convolution { x: Address::NULL, ..good },
        Convolution { y: Address(264), ..good },
        Convolution { size: [4, usize::MAX], ..good },
    ];
    assert!(bad.iter().all(|convolution| convolution.launch().is_err()));
}
