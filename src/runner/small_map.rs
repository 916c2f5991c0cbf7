//! Sorted lists as maps: most stages have few inputs, and pipelines have many stages.

use litemap::LiteMap;
use std::collections::BTreeMap;

/// A map that has few entries and lives long, as a sorted list: a tree of one entry takes the memory of eleven. One that
/// may become long is made of a tree, since it is slow to insert into.
pub type SmallMap<T> = LiteMap<String, T>;

/// Such a map with no room to spare.
pub fn small_map<T>(tree: BTreeMap<String, T>) -> SmallMap<T> {
    let mut small_map = SmallMap::with_capacity(tree.len());
    tree.into_iter().for_each(|(name, value)| drop(small_map.insert(name, value)));
    small_map
}
