//! `softmax.cu`.

use super::support::{TYPES, epsilon, error, normal, run, unwritten, upload};
use erw_gpu::kernels::softmax::softmax;
use erw_gpu::program::{Program, Type};

#[test]
fn rows_become_probabilities() {
    // Threads without a number; several numbers for each.
    for (rows, width) in [(3, 36), (2, 2052)] {
        let x: Vec<f32> = normal(1, rows * width).iter().map(|x| 30.0 * x).collect();
        for ty in TYPES {
            let got = run(|card| {
                let (scores, y) = (upload(card, &x, Type::F32), unwritten(card, rows * width, ty));
                let mut program = Program::default();
                program.launch(softmax(scores, y, [rows, width], 0.25, ty).unwrap());
                (program, vec![(y, rows * width, ty)])
            });
            let mut want = vec![];
            for row in x.chunks(width) {
                let e: Vec<f64> = row.iter().map(|x| (0.25 * f64::from(*x)).exp()).collect();
                let sum: f64 = e.iter().sum();
                want.extend(e.iter().map(|e| e / sum));
            }
            let off = error(&got[0], &want);
            // Scores of up to 30 in f32.
            assert!(off < epsilon(ty) + 64.0 * epsilon(Type::F32), "{ty:?}: {off:e}");
        }
    }
    assert!(softmax(Default::default(), Default::default(), [1, 6], 1.0, Type::F32).is_err());
}
