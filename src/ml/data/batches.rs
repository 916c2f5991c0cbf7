//! Splits a range of images into batches, and picks an evenly spread subset.

use crate::rng::{self, Purpose};
use std::ops::Range;

/// Splits 0..n into ranges of `batch`; the last may be shorter.
pub fn batches(n: u64, batch: usize) -> impl Iterator<Item = Range<u64>> {
    let batch = batch.max(1) as u64;
    (0..n.div_ceil(batch)).map(move |i| i * batch..(i * batch + batch).min(n))
}

/// `count` indices spread evenly over 0..n, ascending; all indices if n <= `count`. One index is
/// drawn from each of `count` equal parts, with a random stream selected by the part's number. A
/// fixed stride would be biased: if the class of an image is its index modulo 10, every fifth image
/// covers only two classes.
pub fn spread(n: u64, count: u64) -> Vec<u64> {
    let count = count.min(n);
    let begin = |i: u64| (u128::from(i) * u128::from(n) / u128::from(count)) as u64;
    let drawn = |i: u64| begin(i) + rng::stream(0, Purpose::Subset, 0, i).below(begin(i + 1) - begin(i));
    (0..count).map(drawn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_set_is_of_all_its_classes() {
        assert_eq!(spread(3, 5), [0, 1, 2]);
        assert_eq!(spread(0, 5), [0; 0]);
        for (n, count) in [(500, 300), (50_000, 10_000), (1000, 10)] {
            let chosen = spread(n, count);
            assert_eq!(chosen.len() as u64, count);
            for (i, at) in chosen.iter().enumerate() {
                let i = i as u64;
                assert!((i * n / count..(i + 1) * n / count).contains(at), "{at} of {n}");
            }
        }
        // Labels of samples cycle through 0 to 9.
        let mut counts = [0; 10];
        spread(50_000, 10_000).iter().for_each(|i| counts[(i % 10) as usize] += 1);
        assert!(counts.iter().all(|n| (900..1100).contains(n)), "{counts:?}");
    }
}
