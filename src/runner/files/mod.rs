//! Files and folders: digests ([`digest`]), durable writes ([`disk`]), the files of a folder that
//! are watched ([`watched`]), canonical path names ([`lexical`]), links that lead out of a folder
//! ([`links`]). Does not know stores.

pub mod digest;
pub mod disk;
pub mod lexical;
pub mod links;
pub mod watched;
