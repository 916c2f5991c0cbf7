//! Errors of a remote, in words for people and without secrets. Does not know the consequences of
//! an error (`client`).

use erw_base::error::{Error, innermost};
use object_store::Error as E;

/// Longer causes are HTML pages of a server and are cut.
const LONG: usize = 200;

/// Environment variables that hold secrets. Their values never appear in a message.
const SECRETS: [&str; 8] = [
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_STORAGE_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
];

#[derive(Debug)]
pub enum RemoteError {
    /// The remote itself does not work.
    Remote(String),
    /// An object does not match its name.
    Bad { name: String, why: String },
    /// An object that must exist is missing.
    Absent(String),
    /// Access to this object is denied. S3 says this of absent objects to accounts that may not
    /// list the bucket.
    Denied(String),
    /// The fault is on this side.
    Local(Box<Error>),
    /// The transfer was stopped.
    Stopped,
}

impl From<Error> for RemoteError {
    fn from(e: Error) -> Self {
        Self::Local(Box::new(e))
    }
}

/// Classifies an error about the object `name`.
pub fn of(name: &str, error: &E) -> RemoteError {
    let text = error.to_string();
    let code = text.split_once("<Code>").and_then(|(_, rest)| Some(rest.split_once("</Code>")?.0));
    match error {
        E::NotFound { .. } if code == Some("NoSuchBucket") => RemoteError::Remote("the bucket does not exist".into()),
        E::NotFound { .. } => RemoteError::Absent(name.into()),
        E::PermissionDenied { .. } if matches!(code, None | Some("AccessDenied")) => RemoteError::Denied(name.into()),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            let code = code.map_or_else(String::new, |code| format!(" ({})", clean(code)));
            RemoteError::Remote(format!("access denied{code}"))
        }
        _ => RemoteError::Remote(clean(&innermost(error))),
    }
}

/// The first line, shortened, without passwords and tokens.
pub fn clean(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut text = line.split(' ').map(address).collect::<Vec<_>>().join(" ");
    for secret in SECRETS.iter().filter_map(|name| std::env::var(name).ok()).filter(|s| s.len() > 3) {
        text = text.replace(&secret, "…");
    }
    match text.char_indices().nth(LONG) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.trim_end_matches([':', ' ']).into(),
    }
}

/// A URL without user, password, query and fragment; other words unchanged.
pub fn address(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.into() };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_secrets() {
        assert_eq!(address("https://me:secret@host:1/a/b?sig=secret#secret"), "https://host:1/a/b");
        assert_eq!(address("https://host?token=secret"), "https://host");
        assert_eq!(address("s3://bucket/a@b"), "s3://bucket/a@b");
        assert_eq!(
            clean("cannot get (https://u:p@h/x?y=z) now\n<Secret>"),
            "cannot get (https://h/x now",
            "what follows a query is lost with it"
        );
        assert_eq!(clean(&"x".repeat(999)).chars().count(), LONG + 1);
    }
}
