//! Which images go together, and which are looked at.

use erw_ml::rng::{self, Purpose};
use std::ops::Range;

/// 0..n in ranges of `batch`.
pub fn batches(n: u64, batch: usize) -> impl Iterator<Item = Range<u64>> {
    let batch = batch.max(1) as u64;
    (0..n.div_ceil(batch)).map(move |i| i * batch..(i * batch + batch).min(n))
}

/// `count` indices spread evenly over 0..n, all of them when there are no more: one out of each of `count` equal parts, drawn
/// by its number. Every fifth of images whose class is their number modulo 10 would be of two classes.
pub fn spread(n: u64, count: u64) -> Vec<u64> {
    let count = count.min(n);
    let begin = |i: u64| (u128::from(i) * u128::from(n) / u128::from(count)) as u64;
    let drawn = |i: u64| begin(i) + rng::stream(0, Purpose::Subset, 0, i).below(begin(i + 1) - begin(i));
    (0..count).map(drawn).collect()
}
