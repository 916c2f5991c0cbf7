//! Sums over rows: gradients of biases.

use super::support::{TYPES, error, normal, round_all, run, unwritten, upload};
use erw_gpu::kernels::column_sums::{chunks, column_sums, column_sums_end};
use erw_gpu::program::{Program, Type};

/// Against f64. f32 sums of some 300 numbers in runs of 16 are off by a few
/// units in the last place of the largest partial sum: at most 1.8e-7 of the largest result were measured.
fn check(rows: usize, width: usize, ty: Type) {
    let dy = round_all(&normal(1, rows * width), ty);
    let got = run(|card| {
        let partial = unwritten(card, chunks(rows) * width, Type::F32);
        let sums = unwritten(card, width, Type::F32);
        let mut program = Program::default();
        program.launch(column_sums(upload(card, &dy, ty), partial, rows, width, ty).unwrap());
        program.launch(column_sums_end(partial, sums, chunks(rows), width).unwrap());
        (program, vec![(sums, width, Type::F32)])
    });
    let sum = |c: usize| dy.iter().skip(c).step_by(width).map(|x| f64::from(*x)).sum::<f64>();
    let want: Vec<f64> = (0..width).map(sum).collect();
    let off = error(&got[0], &want);
    assert!(off < 1e-6, "{rows} x {width} {ty:?}: {off:.1e}");
}

#[test]
fn sums_of_columns_match() {
    for ty in TYPES {
        check(128, 128, ty);
        // Several chunks, ragged rows and columns.
        check(301, 132, ty);
        // Fewer rows than warps.
        check(3, 4, ty);
    }
}

#[test]
fn sums_of_columns_of_odd_widths_match() {
    for ty in TYPES {
        check(150, 37, ty);
        check(1, 1, ty);
    }
}

/// More chunks than warps: runs of several chunks.
#[test]
fn many_chunks_are_added() {
    check(128 * 19 + 5, 36, Type::Bf16);
}
