//! Maps as sorted lists, since most stages have few inputs and pipelines have many stages. Does not
//! know what they hold.

use litemap::LiteMap;
use std::collections::BTreeMap;

/// A small, long-lived map as a sorted list: a `BTreeMap` of one entry takes the memory of eleven.
/// A map that may become long is built as a tree first, because insertion is slow.
pub type SmallMap<T> = LiteMap<String, T>;

/// Such a map without spare capacity.
pub fn small_map<T>(tree: BTreeMap<String, T>) -> SmallMap<T> {
    let mut small_map = SmallMap::with_capacity(tree.len());
    tree.into_iter().for_each(|(name, value)| drop(small_map.insert(name, value)));
    small_map
}
