//! The objects of a remote by name, and a record as it came from one.

use crate::cache::action_cache::Record;
use crate::cache::key::Key;
use crate::files::digest::Digest;

/// A record of a remote, and its bytes as received.
#[derive(Debug, Clone)]
pub struct RemoteRecord {
    pub record: Record,
    pub bytes: Vec<u8>,
}

pub fn record_name(key: &Key) -> String {
    let key = key.to_string();
    format!("v1/actions/{}/{key}.json", &key[..2])
}

pub fn blob_name(digest: &Digest) -> String {
    let digest = digest.to_string();
    format!("v1/blobs/{}/{digest}", &digest[..2])
}

pub fn tree_name(digest: &Digest) -> String {
    let digest = digest.to_string();
    format!("v1/trees/{}/{digest}.json", &digest[..2])
}

/// The name of the pack of a pipeline, whose name may have any characters.
pub fn pack_name(pipeline: &str) -> String {
    format!("v1/packs/{}.tar.gz", Digest::of_bytes(pipeline.as_bytes()))
}
