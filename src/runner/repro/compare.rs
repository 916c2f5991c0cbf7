//! Compares two results of one action. Byte for byte if the kind guarantees that, otherwise by
//! results within the kind's tolerance: sums in a different order round differently, and training
//! spreads that to every weight.
//!
//! Does not know where the two come from.

use crate::event::Measure;
use crate::files::digest::{Digest, entries};
use crate::host::SEVERAL;
use crate::kind::field::Exact;
use crate::kind::manifest::Manifest;
use crate::text::path_text;
use erw_base::error::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The digests of a folder's entries by name ([`path_text::text`]); empty for a single file.
pub type Listing = BTreeMap<String, Digest>;

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "agreement", rename_all = "snake_case")]
pub enum Agreement {
    Exact,
    /// Different bytes, results within the tolerance.
    Near {
        tolerance: f64,
        results: Vec<Pair>,
    },
    /// Different bytes from another machine class, or several, and no results to compare.
    Unknown,
    Differs {
        what: Vec<String>,
    },
}

/// A result, before and now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    pub name: String,
    pub old: f64,
    pub new: f64,
}

/// Results by name; NaN for a value that was not finite.
pub fn results(all: &[Measure]) -> BTreeMap<String, f64> {
    all.iter().map(|m| (m.name.clone(), m.value.unwrap_or(f64::NAN))).collect()
}

/// Whether equal bytes are required, given the machines of both (`Record::machine`). An unknown
/// machine counts as a different one, and so do several, since no record says when the machine
/// changed.
pub fn is_owed(manifest: &Manifest, old: &str, new: &str) -> bool {
    manifest.exact == Exact::Everywhere || (old == new && !old.is_empty() && old != SEVERAL)
}

/// Compares by results alone.
pub fn near(old: &BTreeMap<String, f64>, new: &BTreeMap<String, f64>, tolerance: f64) -> Agreement {
    if old.is_empty() && new.is_empty() {
        return Agreement::Unknown;
    }
    let (mut pairs, mut faults) = (vec![], vec![]);
    for (name, &old) in old {
        let Some(&new) = new.get(name) else {
            faults.push(format!("result `{name}` is missing"));
            continue;
        };
        if !is_near(old, new, tolerance) {
            faults.push(format!("result `{name}` is {new}, not {old} within {tolerance}"));
        }
        pairs.push(Pair { name: name.clone(), old, new });
    }
    if faults.is_empty() { Agreement::Near { tolerance, results: pairs } } else { Agreement::Differs { what: faults } }
}

fn is_near(old: f64, new: f64, tolerance: f64) -> bool {
    (old.is_nan() && new.is_nan()) || (old - new).abs() <= tolerance * old.abs().max(new.abs())
}

/// The differences of an output, in words.
pub fn files(output: &str, old: &Listing, new: &Listing) -> Vec<String> {
    let changed = old.iter().filter_map(|(name, digest)| match new.get(name) {
        None => Some(format!("output `{output}`: file `{name}` is missing")),
        Some(other) => (other != digest).then(|| format!("output `{output}`: file `{name}` differs")),
    });
    let came = new.keys().filter(|name| !old.contains_key(*name));
    let came = came.map(|name| format!("output `{output}`: file `{name}` is new"));
    let found: Vec<String> = changed.chain(came).collect();
    // A single file, or a folder too large to have been listed.
    if found.is_empty() || old.is_empty() { vec![format!("output `{output}` differs")] } else { found }
}

/// The entries of an artifact.
///
/// # Errors
/// When it cannot be read.
pub fn list(path: &Path) -> Result<Listing> {
    if !path.is_dir() {
        return Ok(Listing::new());
    }
    Ok(entries(path)?.iter().map(|entry| (path_text::text(&entry.path), entry.identity())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_compared_relative_to_the_larger() {
        let of = |x: f64| BTreeMap::from([("fd".to_string(), x)]);
        assert!(matches!(near(&of(1.0), &of(1.09), 0.1), Agreement::Near { .. }));
        assert!(matches!(near(&of(1.0), &of(1.2), 0.1), Agreement::Differs { .. }));
        assert!(matches!(near(&of(f64::NAN), &of(f64::NAN), 0.1), Agreement::Near { .. }));
        assert!(matches!(near(&of(f64::NAN), &of(1.0), 0.1), Agreement::Differs { .. }));
        assert!(matches!(near(&of(1.0), &BTreeMap::new(), 0.1), Agreement::Differs { .. }));
        assert_eq!(near(&BTreeMap::new(), &BTreeMap::new(), 0.1), Agreement::Unknown);
    }
}
