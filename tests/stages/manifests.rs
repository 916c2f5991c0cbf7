//! Manifests, the registry of kinds and the shipped pipelines are consistent.

use crate::support::space::Space;
use erw::runner::kind::manifest::Manifest;
use erw::stages::KINDS;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Files of a folder of the repository with this ending, sorted.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let listing = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("a folder");
    let mut files: Vec<PathBuf> = listing.map(|e| e.expect("an entry").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == ending));
    files.sort();
    files
}

fn stem(file: &Path) -> String {
    file.file_stem().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn every_kind_has_its_manifest_file_and_every_file_its_kind() {
    let registered: BTreeSet<String> = KINDS.iter().map(|k| k.name.to_string()).collect();
    let shipped: BTreeSet<String> = files("stages", "toml").iter().map(|f| stem(f)).collect();
    assert_eq!(registered, shipped);
    assert_eq!(registered.len(), KINDS.len(), "a kind is registered twice");
    for kind in KINDS {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("stages").join(format!("{}.toml", kind.name));
        assert_eq!(kind.manifest, std::fs::read_to_string(file).expect("a manifest"), "{}", kind.name);
    }
}

#[test]
fn every_value_of_a_manifest_has_a_comment() {
    for kind in KINDS {
        let m = Manifest::parse(kind.name, kind.manifest).unwrap_or_else(|e| panic!("stages/{}.toml: {e}", kind.name));
        assert!(m.revision >= 1 && !m.summary.is_empty(), "{}", kind.name);
        assert!(!m.outputs.is_empty(), "{} makes nothing", kind.name);
        let slots = m.inputs.iter().map(|s| (&s.name, &s.doc));
        let outputs = m.outputs.iter().map(|o| (&o.name, &o.doc));
        let fields = m.params.iter().chain(&m.operation).map(|f| (&f.name, &f.doc));
        let silent: Vec<&String> =
            slots.chain(outputs).chain(fields).filter(|(_, d)| d.is_empty()).map(|x| x.0).collect();
        assert!(silent.is_empty(), "stages/{}.toml: without a comment: {silent:?}", kind.name);
    }
}

/// Data and weights need not be there: then the plan says what is missing.
#[test]
fn every_shipped_pipeline_plans() {
    let pipelines = files("pipelines", "toml");
    assert!(pipelines.iter().any(|p| stem(p) == "digits"));
    let space = Space::new("");
    for file in pipelines {
        let said = space.erw(&["plan", &file.to_string_lossy()]).expect(0);
        let last = said.stdout.lines().last().unwrap_or_default();
        let judged = last.ends_with("stages would run") || last.starts_with("nothing would run:");
        assert!(judged, "{}: {}", stem(&file), said.stdout);
    }
}

/// What a number may be is in the manifest, so that an error has its name and place, and editors know
/// it.
#[test]
fn every_whole_number_has_a_least_value() {
    // Seeds are any number, and one that is negative is told by its name all the same.
    let without = ["seed"];
    for kind in KINDS {
        let m = Manifest::parse(kind.name, kind.manifest).unwrap();
        for field in m.params.iter().chain(&m.operation).filter(|f| !without.contains(&f.name.as_str())) {
            let is_whole = field.ty.describe().contains("integer");
            assert!(!is_whole || field.min.is_some(), "{}: `{}` has no `min`", kind.name, field.name);
        }
    }
}
