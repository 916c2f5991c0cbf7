//! Files and folders: their digests ([`digest`]), durable writes ([`disk`]), what of a folder is watched ([`watched`]), paths
//! that may be gone ([`lexical`]), links that lead out of a folder ([`links`]). Knows nothing of stores.

pub mod digest;
pub mod disk;
pub mod lexical;
pub mod links;
pub mod watched;
