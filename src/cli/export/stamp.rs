//! What an exported safetensors file says about itself: `format`, which some readers require, and the
//! key of the stage and the digest of the artifact from which it comes. Artifacts in the cache carry
//! neither, since their bytes decide their digests.

use erw_base::error::{Error, Result};
use erw_ml::formats::safetensors_metadata::annotate;
use erw_runner::cache::export::files;
use erw_runner::cache::key::Key;
use erw_runner::files::digest::Digest;
use std::collections::BTreeMap;
use std::path::Path;

/// Adds them to every safetensors file at or below `place`.
pub fn stamp(place: &Path, key: &Key, digest: &Digest) -> Result<()> {
    let entries =
        BTreeMap::from([("format", "pt".into()), ("erw.key", key.to_string()), ("erw.digest", digest.to_string())]);
    let is_one = |path: &Path| path.extension().is_some_and(|e| e == "safetensors");
    let mut found = files(place)?.into_iter().filter(|(path, kind)| kind.is_file() && is_one(path));
    found.try_for_each(|(path, _)| annotate(&path, &entries).map(drop).map_err(|e| Error::io("write", &path, e)))
}
