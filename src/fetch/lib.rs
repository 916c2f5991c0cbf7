//! Fetching published files: what is published where ([`registry`]), and how to get a complete
//! local copy ([`library`]).
//!
//! Fetching is plain HTTPS. An interrupted download resumes ([`download`]); [`http`] is one request
//! and its answer; [`hub`] has Hugging Face's settings and cache; files without a known hash are
//! trusted on first use ([`pins`]). Nothing here knows the contents of the files, stages or
//! pipelines.

pub mod download;
pub mod http;
pub mod hub;
pub mod library;
pub mod pins;
pub mod registry;

/// Receives progress and decides when a fetch stops.
pub trait FetchObserver {
    /// Bytes received so far and in total; the total is 0 if unknown.
    fn progress(&self, _done: u64, _total: u64) {}
    fn log(&self, _text: &str) {}
    /// Polled often. A fetch that stops ends with [`erw_base::error::Error::suspended`] and can be
    /// resumed.
    fn should_stop(&self) -> bool {
        false
    }
}

/// Ignores progress and never stops.
impl FetchObserver for () {}
