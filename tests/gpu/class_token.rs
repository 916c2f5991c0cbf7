//! `class_token.cu`.

use super::support::{TYPES, epsilon, error, normal, round_all, run, unwritten, upload};
use erw_gpu::kernels::class_token::{ClassNorm, ClassNormGradients, CopyRows, copy_rows};
use erw_gpu::program::{Address, Program, Type};

const EPS: f32 = 1e-6;

#[test]
fn rows_of_samples_are_copied() {
    let (samples, tokens, width) = (3, 5, 36);
    let x = normal(1, samples * tokens * width);
    for ty in TYPES {
        let low = round_all(&x, ty);
        let got = run(|card| {
            let (narrow, wide) = (upload(card, &low, ty), upload(card, &x, Type::F32));
            let count = (tokens - 1) * width;
            let [patches, from_wide] = [(); 2].map(|()| unwritten(card, samples * count, ty));
            // What is not copied stays.
            let back = upload(card, &vec![0.0; x.len()], ty);
            let (from_step, to_step) = (tokens * width, count);
            let from = narrow.offset(width * ty.size());
            let rows = CopyRows { ty, from, input: ty, to: patches, from_step, to_step, samples, count };
            let from = wide.offset(4 * width);
            let widely = CopyRows { from, input: Type::F32, to: from_wide, ..rows };
            let to = back.offset(width * ty.size());
            let again = CopyRows { from: patches, to, from_step: to_step, to_step: from_step, ..rows };
            let mut program = Program::default();
            [rows, widely, again].iter().for_each(|rows| program.launch(copy_rows(rows).unwrap()));
            let outputs = [(patches, samples * count, ty), (from_wide, samples * count, ty), (back, x.len(), ty)];
            (program, outputs.to_vec())
        });
        let patches: Vec<f32> = low.chunks(tokens * width).flat_map(|row| row[width..].to_vec()).collect();
        assert_eq!((&got[0], &got[1]), (&patches, &patches));
        let back = low.iter().enumerate().map(|(i, x)| if i % (tokens * width) < width { 0.0 } else { *x });
        assert!(got[2].iter().copied().eq(back));
    }
}

fn check_norm(ty: Type, samples: usize, tokens: usize, width: usize) {
    let (count, all) = (samples * width, samples * tokens * width);
    let y = round_all(&normal(1, count).iter().map(|x| 2.0 * x + 0.3).collect::<Vec<_>>(), ty);
    let [weight, bias, position] = [2, 3, 4].map(|seed| normal(seed, width));
    let dx = normal(5, all);
    let got = run(|card| {
        let f32s = |x: &[f32]| upload(card, x, Type::F32);
        let norm = ClassNorm { ty, y: upload(card, &y, ty), weight: f32s(&weight), samples, tokens, width, eps: EPS };
        let (x, dy) = (f32s(&vec![0.0; all]), unwritten(card, count, ty));
        let [weight_of_sample, bias_of_sample] = [(); 2].map(|()| unwritten(card, count, Type::F32));
        let mut program = Program::default();
        program.launch(norm.forward(f32s(&bias), f32s(&position), x).unwrap());
        let to = ClassNormGradients { dy, weight_of_sample, bias_of_sample };
        program.launch(norm.backward(f32s(&dx), &to).unwrap());
        let f32s = [(x, all), (weight_of_sample, count), (bias_of_sample, count)];
        let f32s = f32s.into_iter().map(|(at, count)| (at, count, Type::F32));
        (program, f32s.chain([(dy, count, ty)]).collect())
    });
    let (mut x, mut dy, mut dweight, mut dbias) = (vec![0.0; all], vec![], vec![], vec![]);
    for (sample, y) in y.chunks(width).enumerate() {
        let y: Vec<f64> = y.iter().map(|y| f64::from(*y)).collect();
        let mean = y.iter().sum::<f64>() / width as f64;
        let variance = y.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / width as f64;
        let inverse = 1.0 / (variance + f64::from(EPS)).sqrt();
        let normal: Vec<f64> = y.iter().map(|y| (y - mean) * inverse).collect();
        let first = sample * tokens * width;
        let d = |c: usize| f64::from(dx[first + c]);
        let g: Vec<f64> = (0..width).map(|c| d(c) * f64::from(weight[c])).collect();
        let mean = g.iter().sum::<f64>() / width as f64;
        let along = g.iter().zip(&normal).map(|(g, n)| g * n).sum::<f64>() / width as f64;
        for c in 0..width {
            x[first + c] = normal[c] * f64::from(weight[c]) + f64::from(bias[c]) + f64::from(position[c]);
            dy.push(inverse * (g[c] - mean - normal[c] * along));
            dweight.push(d(c) * normal[c]);
            dbias.push(d(c));
        }
    }
    let slack = 32.0 * epsilon(Type::F32);
    let errors = [error(&got[0], &x), error(&got[1], &dweight), error(&got[2], &dbias)];
    assert!(errors.iter().all(|e| *e < slack), "{samples} x {tokens} x {width} in {ty:?}: {errors:?}");
    let off = error(&got[3], &dy);
    assert!(off < epsilon(ty) + slack, "{samples} x {tokens} x {width} in {ty:?}: {off:e}");
}

#[test]
fn the_norm_of_class_tokens_and_its_gradient() {
    for ty in TYPES {
        for (samples, tokens, width) in [(2, 17, 128), (11, 1, 36), (9, 3, 1152)] {
            check_norm(ty, samples, tokens, width);
        }
    }
}

#[test]
fn impossible_copies_are_refused() {
    let none = Address::NULL;
    let rows = CopyRows {
        ty: Type::Bf16,
        from: none,
        input: Type::Bf16,
        to: none,
        from_step: 8,
        to_step: 4,
        samples: 2,
        count: 4,
    };
    assert!(copy_rows(&rows).is_ok());
    assert!(copy_rows(&CopyRows { count: 8, ..rows }).is_err() && copy_rows(&CopyRows { to_step: 6, ..rows }).is_err());
    assert!(
        copy_rows(&CopyRows { input: Type::F16, ..rows }).is_err()
            && copy_rows(&CopyRows { samples: 0, ..rows }).is_err()
    );
}
