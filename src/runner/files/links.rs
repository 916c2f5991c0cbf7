//! Checks that the links of a tree stay inside it. Works on the list of entries, so that the same
//! check serves a folder on disk and a list that others wrote. A link is resolved as the kernel
//! would, through the other links of the tree. A missing entry counts as a folder: a broken link
//! stays inside if its text does.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// The kernel gives up on a loop of links earlier. A loop leads nowhere, so not outside.
const STEPS: usize = 10_000;

/// The first link (path and text) that leads out of the tree: above its root, or by an absolute
/// path.
pub fn first_escaping<'a>(links: impl Iterator<Item = (&'a Path, &'a Path)>) -> Option<(&'a Path, &'a Path)> {
    let links: BTreeMap<&Path, &Path> = links.collect();
    links.iter().find(|(from, to)| !stays(from, to, &links)).map(|(from, to)| (*from, *to))
}

fn stays(from: &Path, to: &Path, links: &BTreeMap<&Path, &Path>) -> bool {
    let mut at: PathBuf = from.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut ahead: VecDeque<Component<'_>> = to.components().collect();
    for _ in 0..STEPS {
        let Some(step) = ahead.pop_front() else { return true };
        match step {
            Component::CurDir => {}
            Component::Normal(name) => {
                at.push::<&OsStr>(name);
                if let Some(further) = links.get(at.as_path()) {
                    at.pop();
                    further.components().rev().for_each(|c| ahead.push_front(c));
                }
            }
            Component::ParentDir if at.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(links: &[(&'static str, &'static str)]) -> Option<&'static str> {
        let pairs = links.iter().map(|(from, to)| (Path::new(*from), Path::new(*to)));
        first_escaping(pairs).and_then(|(from, _)| from.to_str())
    }

    #[test]
    fn only_escaping_links_are_found() {
        for (from, to) in [
            ("l", "f"),
            ("l", "./a/../f"),
            ("l", "."),
            ("l", "l"),
            ("l", "nowhere/at/all"),
            ("a/b/l", "../../f"),
            ("a/l", ".."),
            ("l", "a//b/"),
        ] {
            assert_eq!(first(&[(from, to)]), None, "{from} -> {to}");
        }
        for (from, to) in
            [("l", "/etc/hostname"), ("l", "/"), ("l", ".."), ("a/l", "../../f"), ("l", "a/../../f"), ("l", "../x")]
        {
            assert_eq!(first(&[(from, to)]), Some(from), "{from} -> {to}");
        }
    }

    #[test]
    fn links_are_resolved_through_links() {
        // By its text `l` stays inside; through `d` it is one level higher.
        assert_eq!(first(&[("d", "."), ("l", "d/../x")]), Some("l"));
        assert_eq!(first(&[("d", "a/b"), ("l", "d/../x")]), None);
        assert_eq!(first(&[("a", "b"), ("b", "a"), ("l", "a/x")]), None);
        assert_eq!(first(&[("a/up", ".."), ("l", "a/up/up/../..")]), Some("l"));
    }
}
