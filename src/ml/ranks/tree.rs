//! The order in which the gradients of a step's micro-batches are added: one fixed binary tree.
//!
//! T(a, a + 1) is the gradient of micro-batch a. T(a, b) = T(a, m) + T(m, b), where m - a is the
//! largest power of two below b - a. Sums of floating-point numbers depend on their order, and a
//! tree has nodes that can be computed apart: with N ranks of which each has a power of two of the
//! micro-batches, each rank computes a node, and the nodes are added as the leaves of the same
//! tree. So the bits do not depend on the number of ranks.
//!
//! In a row, the tree is a stack of kept sums: [`merge`] says which of them each new leaf is added to,
//! and where the sum is kept in turn. Knows no gradients and no ranks.

use std::iter::Rev;
use std::ops::Range;

/// What happens to a leaf.
#[derive(Debug, Clone)]
pub struct Merge {
    /// The places of the kept sums that are added to it, in this order.
    pub add: Rev<Range<usize>>,
    /// The place where the sum is then kept; `None`: it is the whole.
    pub keep: Option<usize>,
}

/// What happens to leaf number `leaf` of `count`.
pub fn merge(leaf: usize, count: usize) -> Merge {
    let is_last = leaf + 1 >= count;
    // A kept sum for each power of two in the number of leaves before.
    let kept = leaf.count_ones() as usize;
    let left = if is_last { 0 } else { kept - leaf.trailing_ones() as usize };
    Merge { add: (left..kept).rev(), keep: (!is_last).then_some(left) }
}

/// How many sums are kept at most.
pub fn most_kept(count: usize) -> usize {
    (0..count).map(usize::count_ones).max().unwrap_or(0) as usize
}

/// Adds equally long rows by the tree. Without rows there is no sum.
pub(super) fn sum(rows: impl ExactSizeIterator<Item = Vec<f32>>) -> Option<Vec<f32>> {
    let (count, mut kept) = (rows.len(), Vec::<Vec<f32>>::new());
    for (leaf, mut row) in rows.enumerate() {
        let Merge { add, keep } = merge(leaf, count);
        for i in add {
            row.iter_mut().zip(&kept[i]).for_each(|(sum, x)| *sum += x);
        }
        let Some(keep) = keep else { return Some(row) };
        kept.truncate(keep);
        kept.push(row);
    }
    None
}

/// The micro-batches of rank `rank` of `ranks`.
pub fn share(micro_batches: usize, rank: usize, ranks: usize) -> Range<usize> {
    let each = micro_batches / ranks.max(1);
    rank * each..(rank + 1) * each
}

/// Whether so many ranks can share the micro-batches of a step: each has equally many, and if there
/// are several ranks, a power of two of them.
pub fn can_share(micro_batches: usize, ranks: usize) -> bool {
    let each = micro_batches.checked_div(ranks).unwrap_or(0);
    ranks == 1 || each.is_power_of_two() && each * ranks == micro_batches
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, as text.
    fn tree(a: usize, b: usize) -> String {
        if b - a == 1 {
            return a.to_string();
        }
        let left = (b - a).next_power_of_two() / 2;
        format!("({}+{})", tree(a, a + left), tree(a + left, b))
    }

    fn in_a_row(leaves: &[String]) -> (String, usize) {
        let (mut kept, mut most) = (vec![], 0);
        for (i, leaf) in leaves.iter().enumerate() {
            let (mut sum, Merge { add, keep }) = (leaf.clone(), merge(i, leaves.len()));
            for place in add {
                assert_eq!(place + 1, kept.len(), "the last one kept");
                sum = format!("({}+{sum})", kept.pop().unwrap());
            }
            if i + 1 == leaves.len() {
                assert!(kept.is_empty() && keep.is_none());
                return (sum, most);
            }
            assert_eq!(keep, Some(kept.len()));
            kept.push(sum);
            most = most.max(kept.len());
        }
        panic!("no leaves")
    }

    fn leaves(of: Range<usize>) -> Vec<String> {
        of.map(|leaf| leaf.to_string()).collect()
    }

    #[test]
    fn a_row_is_added_as_the_tree_is_defined() {
        for count in 1..70 {
            assert_eq!(in_a_row(&leaves(0..count)), (tree(0, count), most_kept(count)), "{count}");
        }
    }

    #[test]
    fn all_allowed_numbers_of_ranks_make_the_same_tree() {
        for count in 1..70 {
            for ranks in (1..=count).filter(|ranks| can_share(count, *ranks)) {
                let parts: Vec<String> =
                    (0..ranks).map(|rank| in_a_row(&leaves(share(count, rank, ranks))).0).collect();
                assert_eq!(in_a_row(&parts).0, tree(0, count), "{count} on {ranks} ranks");
            }
        }
        let allowed = |count| (1..=count).filter(|ranks| can_share(count, *ranks)).collect::<Vec<_>>();
        assert_eq!(allowed(8), [1, 2, 4, 8]);
        assert_eq!(allowed(12), [1, 3, 6, 12]);
        assert_eq!(allowed(7), [1, 7]);
        assert!(!can_share(8, 0) && !can_share(8, 16));
    }

    #[test]
    fn rows_of_numbers_are_added_by_the_tree() {
        let row = |x: f32| vec![x, -x];
        assert_eq!(sum([].into_iter()), None);
        // In the order of the leaves the small numbers would be lost one by one.
        let rows = [row(1.0), row(1e8), row(1.0), row(3.0)];
        assert_eq!(sum(rows.into_iter()), Some(row((1.0 + 1e8) + (1.0 + 3.0))));
    }
}
