//! Getting published files: what is published where ([`registry`]), and how it comes here whole ([`library`]).
//!
//! Fetching is plain HTTPS. A download resumes where it was cut ([`download`]); one request and its answer are [`http`];
//! Hugging Face's settings and cache are [`hub`]; what nobody has a hash of is trusted on first use ([`pins`]).
//! Nothing here knows what is in the files, nor of stages and pipelines.

pub mod download;
pub mod http;
pub mod hub;
pub mod library;
pub mod pins;
pub mod registry;

/// Whoever waits for a file.
pub trait FetchObserver {
    /// Bytes that are here, of so many; 0 when nobody knows of how many.
    fn progress(&self, _done: u64, _total: u64) {}
    fn log(&self, _text: &str) {}
    /// Asked often; the work then ends with [`erw_base::error::Error::suspended`] and can be continued.
    fn should_stop(&self) -> bool {
        false
    }
}

/// Nobody watches.
impl FetchObserver for () {}
