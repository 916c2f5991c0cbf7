//! Do the links of a tree stay inside of it? Told from the tree's own list, so that it is the same question for a folder on
//! disk and for a list that others wrote. A link is resolved as the kernel would, through the other links of the tree.
//! What is not there counts as a folder: a link to nowhere stays inside if its text does.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// Of a loop of links the kernel tires sooner. It leads nowhere, and so not out.
const STEPS: usize = 10_000;

/// The first of the links, given by where it lies and what it says, that leads out of the tree: up beyond its root or by an
/// absolute path.
pub fn astray<'a>(links: impl Iterator<Item = (&'a Path, &'a Path)>) -> Option<(&'a Path, &'a Path)> {
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
        astray(pairs).and_then(|(from, _)| from.to_str())
    }

    #[test]
    fn what_leads_out_is_found_and_nothing_else() {
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
    fn links_lead_on_through_links() {
        // By its text `l` stays inside; by way of `d` it is one folder higher.
        assert_eq!(first(&[("d", "."), ("l", "d/../x")]), Some("l"));
        assert_eq!(first(&[("d", "a/b"), ("l", "d/../x")]), None);
        assert_eq!(first(&[("a", "b"), ("b", "a"), ("l", "a/x")]), None);
        assert_eq!(first(&[("a/up", ".."), ("l", "a/up/up/../..")]), Some("l"));
    }
}
