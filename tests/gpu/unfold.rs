//! `unfold.cu`.

use super::support::{TYPES, epsilon, error, normal, round_all, run, unwritten, upload};
use erw_gpu::kernels::unfold::Grids;
use erw_gpu::program::{Address, Program, Type};

/// The tap of token `at` that lies at token `other` of the same grid.
fn tap(at: usize, other: usize, side: usize) -> Option<usize> {
    let part = |from: usize, to: usize| (to + 1).checked_sub(from).filter(|d| *d < 3);
    Some(part(at / side, other / side)? * 3 + part(at % side, other % side)?)
}

#[test]
fn windows_and_their_gradient() {
    for (samples, side, width) in [(2, 5, 12), (1, 1, 4), (3, 2, 260)] {
        let (tokens, grids) = (side * side, |ty| Grids { samples, side, width, ty });
        for ty in TYPES {
            let x = round_all(&normal(1, samples * tokens * width), ty);
            let du = round_all(&normal(2, 9 * x.len()), ty);
            let got = run(|card| {
                let (u, dx) = (unwritten(card, 9 * x.len(), ty), unwritten(card, x.len(), ty));
                let mut program = Program::default();
                program.launch(grids(ty).unfold(upload(card, &x, ty), u).unwrap());
                program.launch(grids(ty).fold(upload(card, &du, ty), dx).unwrap());
                (program, vec![(u, 9 * x.len(), ty), (dx, x.len(), ty)])
            });
            let (mut u, mut dx) = (vec![0.0; du.len()], vec![0f64; x.len()]);
            for (at, other) in
                (0..samples * tokens).flat_map(|a| (0..tokens).map(move |b| (a, a / tokens * tokens + b)))
            {
                let Some(tap) = tap(at % tokens, other % tokens, side) else { continue };
                for c in 0..width {
                    let window = (at * width + c) * 9 + tap;
                    u[window] = x[other * width + c];
                    dx[other * width + c] += f64::from(du[window]);
                }
            }
            assert_eq!(got[0], u);
            let off = error(&got[1], &dx);
            assert!(off < epsilon(ty) + 8.0 * epsilon(Type::F32), "{ty:?}: {off:e}");
        }
    }
    let odd = Grids { samples: 1, side: 2, width: 6, ty: Type::F32 };
    assert!(odd.unfold(Address(256), Address(512)).is_err());
}
