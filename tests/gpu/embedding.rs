//! `embedding.cu`.

use super::support::{TYPES, epsilon, error, normal, round_all, run, unwritten, upload, upload_words};
use erw_gpu::kernels::embedding::{
    self, AddPositions, ConditionBackward, ConditionForward, Image, LabelRows, SINUSOID,
};
use erw_gpu::program::{Address, Launch, Program, Type};

fn program(launches: impl IntoIterator<Item = Launch>) -> Program {
    let mut program = Program::default();
    launches.into_iter().for_each(|l| program.launch(l));
    program
}

/// The place in an image `[B, C, S, S]` of number (c, y, x) within a patch of a token.
pub fn place(image: &Image, token: usize, [c, y, x]: [usize; 3]) -> usize {
    let Image { channels, side, patch, .. } = *image;
    let grid = side / patch;
    let (sample, row, column) = (token / (grid * grid), token / grid % grid, token % grid);
    ((sample * channels + c) * side + row * patch + y) * side + column * patch + x
}

const IMAGES: [Image; 4] = [
    Image { samples: 2, channels: 4, side: 16, patch: 2 },
    Image { samples: 1, channels: 3, side: 12, patch: 2 },
    Image { samples: 3, channels: 4, side: 8, patch: 1 },
    Image { samples: 1, channels: 1, side: 12, patch: 6 },
];

#[test]
fn patches_and_images_are_permutations() {
    for image in IMAGES {
        let Image { channels, patch, .. } = image;
        let width = channels * patch * patch;
        let numbers = normal(1, image.count());
        for ty in TYPES {
            let low = round_all(&numbers, ty);
            let got = run(|card| {
                let (from, tokens) = (upload(card, &numbers, Type::F32), upload(card, &low, ty));
                let (patches, back) = (unwritten(card, image.count(), ty), unwritten(card, image.count(), Type::F32));
                let all = [
                    embedding::patch_gather(&image, ty, from, patches).unwrap(),
                    embedding::unpatchify(&image, ty, tokens, back).unwrap(),
                ];
                (program(all), vec![(patches, image.count(), ty), (back, image.count(), Type::F32)])
            });
            let mut back = vec![f32::NAN; image.count()];
            for (i, patches) in got[0].iter().enumerate() {
                let (token, k) = (i / width, i % width);
                let (y, x) = (k / patch % patch, k % patch);
                assert_eq!(*patches, low[place(&image, token, [k / (patch * patch), y, x])], "{image:?} {i}");
                let (y, x) = (k / channels / patch, k / channels % patch);
                back[place(&image, token, [k % channels, y, x])] = low[i];
            }
            assert_eq!(got[1], back, "{image:?}");
        }
    }
}

#[test]
fn images_that_make_no_tokens_are_refused() {
    let bad = [(1, 4, 9, 2), (1, 3, 4, 1), (0, 4, 4, 2), (1, 4, 4, 0), (1, 0, 4, 2)];
    for (samples, channels, side, patch) in bad {
        let image = Image { samples, channels, side, patch };
        assert!(embedding::patch_gather(&image, Type::F32, Address::NULL, Address::NULL).is_err(), "{image:?}");
    }
}

#[test]
fn positions_are_added_to_every_sample() {
    let (samples, tokens, width) = (3, 5, 260);
    let positions = normal(2, tokens * width);
    for (ty, prefix) in TYPES.into_iter().flat_map(|ty| [(ty, 0), (ty, 2)]) {
        let y = round_all(&normal(3, samples * (tokens - prefix) * width), ty);
        let got = run(|card| {
            let (ys, p) = (upload(card, &y, ty), upload(card, &positions, Type::F32));
            let count = samples * tokens * width;
            let x = unwritten(card, count, Type::F32);
            let launch = AddPositions { ty, y: ys, positions: p, x, samples, prefix, tokens, width };
            (program([embedding::add_positions(&launch).unwrap()]), vec![(x, count, Type::F32)])
        });
        let (first, rest) = positions.split_at(prefix * width);
        let sample =
            |y: &[f32]| first.iter().copied().chain(y.iter().zip(rest).map(|(y, p)| y + p)).collect::<Vec<_>>();
        let want: Vec<f32> = y.chunks(rest.len()).flat_map(sample).collect();
        assert_eq!(got[0], want, "{ty:?} {prefix}");
    }
}

#[test]
fn waves_of_times() {
    // The last is far outside of 0 to 1: the reduction of angles holds.
    let times = [0f32, 1.0, 0.5, 0.123, 1e-4, 999.0];
    for ty in TYPES {
        let got = run(|card| {
            let (t, waves) = (upload(card, &times, Type::F32), unwritten(card, times.len() * SINUSOID, ty));
            let launch = embedding::time_sinusoid(ty, t, waves, times.len()).unwrap();
            (program([launch]), vec![(waves, times.len() * SINUSOID, ty)])
        });
        let mut want = vec![];
        for t in times {
            let half = SINUSOID / 2;
            // Frequencies and angles are rounded to f32, as on the CPU.
            let angles: Vec<f64> =
                (0..half).map(|i| f64::from(t * (-10_000f64.ln() as f32 * i as f32 / half as f32).exp())).collect();
            want.extend(angles.iter().map(|a| a.cos()));
            want.extend(angles.iter().map(|a| a.sin()));
        }
        // Rounding of the result. An f32 exponential that is a unit off moves the angle 999 f by 999
        // units of f; none is here, where both are rounded correctly but for rare ties.
        let e = error(&got[0], &want);
        assert!(e < 1.01 * epsilon(ty) + 999.0 * epsilon(Type::F32) * 1e-3, "{ty:?} {e}");
    }
}

#[test]
fn the_condition_and_its_gradient() {
    // Labels 5 and 0 occur more than once, 2 never.
    let (labels, classes) = ([5u32, 0, 5, 1, 0, 5, 3], 6);
    for (width, ty) in [(128, Type::Bf16), (340, Type::F16), (1152, Type::F32), (1152, Type::Bf16)] {
        let samples = labels.len();
        let count = samples * width;
        let (time, ds) = (round_all(&normal(4, count), ty), normal(6, count));
        let (table, old) = (normal(5, classes * width), normal(7, classes * width));
        let low = round_all(&ds, ty);
        let got = run(|card| {
            let [rows, dtable, wide] = [&table, &old, &ds].map(|t| upload(card, t, Type::F32));
            let [times, narrow] = [&time, &low].map(|t| upload(card, t, ty));
            let labels = upload_words(card, &labels);
            let [c, dc, dc_wide, zeros] = [(); 4].map(|()| unwritten(card, count, Type::F32));
            let [active, half] = [(); 2].map(|()| unwritten(card, count, ty));
            let time = times;
            let forward = ConditionForward { ty, time, table: rows, classes, labels, c, active, samples, width };
            let backward = ConditionBackward { ty, dactive: narrow, input: ty, c, dc, dc_half: half, count };
            let from_wide =
                ConditionBackward { dactive: wide, input: Type::F32, dc: dc_wide, dc_half: Address::NULL, ..backward };
            let rows = LabelRows { dc: dc_wide, labels, dtable, classes, samples, width };
            let all = [
                embedding::condition_forward(&forward).unwrap(),
                embedding::condition_backward(&backward).unwrap(),
                embedding::condition_backward(&from_wide).unwrap(),
                embedding::label_rows_backward(&rows).unwrap(),
                embedding::fill_zero(zeros, count).unwrap(),
            ];
            let f32s = [c, dc, dc_wide, zeros].map(|at| (at, count, Type::F32));
            let halves = [(active, count, ty), (half, count, ty), (dtable, classes * width, Type::F32)];
            (program(all), f32s.into_iter().chain(halves).collect())
        });
        let [c, dc, dc_wide, zeros, active, half, dtable] = got.try_into().unwrap();
        let row = |k: usize| labels[k / width] as usize * width + k % width;
        let want: Vec<f32> = (0..count).map(|k| time[k] + table[row(k)]).collect();
        assert_eq!(c, want);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let slope = |x: f64| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)));
        let silu: Vec<f64> = c.iter().map(|c| f64::from(*c) * sigmoid(f64::from(*c))).collect();
        let by =
            |ds: &[f32]| -> Vec<f64> { ds.iter().zip(&c).map(|(d, c)| f64::from(*d) * slope(f64::from(*c))).collect() };
        // f32's exponential, division and sums cost a few units in the last place.
        let few = 8.0 * epsilon(Type::F32);
        let errors = [error(&dc, &by(&low)), error(&dc_wide, &by(&ds))];
        assert!(errors.iter().all(|e| *e < few), "{ty:?} {errors:?}");
        assert!(error(&active, &silu) < epsilon(ty) + few, "{ty:?}");
        assert_eq!(half, round_all(&dc, ty));
        assert_eq!(zeros, vec![0.0; count]);
        // In order of samples, then added to what was there: the same bits.
        let mut sums: Vec<Option<Vec<f32>>> = vec![None; classes];
        for (label, row) in labels.iter().zip(dc_wide.chunks(width)) {
            match &mut sums[*label as usize] {
                Some(sum) => sum.iter_mut().zip(row).for_each(|(s, r)| *s += r),
                none => *none = Some(row.to_vec()),
            }
        }
        let want: Vec<f32> = (0..classes * width)
            .map(|k| sums[k / width].as_ref().map_or(old[k], |sum| old[k] + sum[k % width]))
            .collect();
        assert_eq!(dtable, want);
    }
}
