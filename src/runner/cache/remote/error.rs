//! What goes wrong with a remote, in words that a person can use and in which no secret stands.

use erw_base::error::{Error, innermost};
use object_store::Error as E;

/// Longer causes are pages of a server.
const LONG: usize = 200;

/// Variables that hold secrets; what stands in them never stands in a message.
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
    /// The remote itself is out of order.
    Remote(String),
    /// An object is not what its name says.
    Bad { name: String, why: String },
    /// An object that must be there is not.
    Absent(String),
    /// Access to this object is refused. S3 says so of absent ones to those who may not list the bucket.
    Denied(String),
    /// The fault is on this side.
    Local(Box<Error>),
    /// Nobody wants it any more.
    Stopped,
}

impl From<Error> for RemoteError {
    fn from(e: Error) -> Self {
        Self::Local(Box::new(e))
    }
}

/// What an error about the object `name` means.
pub fn of(name: &str, error: &E) -> RemoteError {
    let text = error.to_string();
    let code = text.split_once("<Code>").and_then(|(_, rest)| Some(rest.split_once("</Code>")?.0));
    match error {
        E::NotFound { .. } if code == Some("NoSuchBucket") => RemoteError::Remote("there is no such bucket".into()),
        E::NotFound { .. } => RemoteError::Absent(name.into()),
        E::PermissionDenied { .. } if matches!(code, None | Some("AccessDenied")) => RemoteError::Denied(name.into()),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            let code = code.map_or_else(String::new, |code| format!(" ({})", clean(code)));
            RemoteError::Remote(format!("it refuses access{code}"))
        }
        _ => RemoteError::Remote(clean(&innermost(error))),
    }
}

/// The first line, cut, without passwords and tokens.
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

/// An address without user, password, query and fragment; other words as they are.
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
