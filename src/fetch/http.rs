//! One HTTP request for a file or the missing part of it, and the meaning of its answer for the
//! download. Redirects are followed, but never from https to http; a token goes only to the server
//! it is for. Proxies come from the environment: the first of ALL_PROXY, HTTPS_PROXY and HTTP_PROXY
//! that is set, for every host not in NO_PROXY.

use erw_base::error::{Error, innermost};
use erw_base::limits;
use reqwest::blocking::Response;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{NoProxy, Proxy, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use url::{Origin, Url};

const CONNECT: Duration = Duration::from_secs(20);
/// A connection without a byte for this long is dropped and the rest requested again.
const SILENCE: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 10;
/// The message for a server that does not answer.
pub const UNREACHED: &str = "cannot be reached";
/// Names a file of CA certificates, as for OpenSSL: for networks that intercept TLS and for private
/// mirrors.
const ROOTS: &str = "SSL_CERT_FILE";
/// Variables that name a proxy.
const PROXIES: [&str; 6] = ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
/// Threads of the client: its own, and one for name resolution.
const THREADS: usize = 2;
/// The longest `Retry-After` that is obeyed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Identifies a version of a file on a server, to check that it has not changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Validator {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}

impl Validator {
    fn of(headers: &HeaderMap) -> Self {
        let etag = text(headers, header::ETAG).filter(|tag| !tag.starts_with("W/"));
        Self { etag, last_modified: text(headers, header::LAST_MODIFIED) }
    }

    /// The value of `If-Range`. Without one no rest can be requested: it might belong to another
    /// file.
    pub fn if_range(&self) -> Option<&str> {
        self.etag.as_deref().or(self.last_modified.as_deref())
    }
}

/// What a server said.
pub enum Answer {
    /// The file from byte `from` on; 0 even if more was requested.
    Body { from: u64, total: Option<u64>, validator: Validator, body: Box<dyn Read> },
    /// There are no bytes beyond those already received; the file has this many.
    Beyond(Option<u64>),
}

/// Why a request failed.
pub enum Failure {
    /// May pass: retry, after the time the server asked for.
    Passing(Error, Option<Duration>),
    /// Permanent.
    Lasting(Error),
}

/// Built on the first request, so that commands that only look at local files do not pay for it.
#[derive(Debug, Default)]
pub struct Client {
    client: OnceLock<Result<reqwest::blocking::Client, Error>>,
}

fn client() -> Result<reqwest::blocking::Client, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::usage("cannot start a client for downloads").because(e);
    // The library panics where it gets no thread.
    limits::probe(THREADS).map_err(|e| Error::usage("cannot start the threads of a download").caused(e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = tls.map_err(|e| failed(&e))?.with_root_certificates(roots()?).with_no_client_auth();
    let builder = reqwest::blocking::Client::builder()
        .connect_timeout(CONNECT)
        // For the response, and for each read of its body.
        .timeout(SILENCE)
        // Redirects are followed here, because the library treats all ports of a host as the same
        // server.
        .redirect(Policy::none())
        .user_agent(concat!("erw/", env!("CARGO_PKG_VERSION")))
        .default_headers(HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))]))
        // One file at a time: nothing to multiplex.
        .http1_only()
        .tls_backend_preconfigured(tls);
    let builder = match proxy() {
        Some(proxy) => builder.proxy(proxy),
        None => builder.no_proxy(),
    };
    builder.build().map_err(|e| failed(&innermost(&e)))
}

fn proxy() -> Option<Proxy> {
    let named = |name: &&str| Proxy::all(std::env::var(name).ok().filter(|v| !v.is_empty())?).ok();
    Some(PROXIES.iter().find_map(named)?.no_proxy(NoProxy::from_env()))
}

/// Trusted root certificates: Mozilla's list, or those of SSL_CERT_FILE.
fn roots() -> Result<RootCertStore, Error> {
    let Some(path) = std::env::var_os(ROOTS).filter(|p| !p.is_empty()).map(PathBuf::from) else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let pem = std::fs::read(&path).map_err(|e| Error::io("read", &path, e).context(format!("cannot use {ROOTS}")))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if roots.is_empty() {
        return Err(Error::usage(format!("`{}` (from {ROOTS}) contains no certificates", path.display())));
    }
    Ok(roots)
}

/// The body of a response.
struct Body(Response);

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|e| io::Error::new(e.kind(), innermost(&e)))
    }
}

impl Client {
    /// Requests `url`, starting at byte `from` if the file still matches `validator`.
    pub fn get(&self, url: &str, token: Option<&str>, from: u64, validator: &Validator) -> Result<Answer, Failure> {
        let rest = validator.if_range().filter(|_| from > 0);
        let response = self.follow(url, token, rest.map(|same| (from, same)))?;
        let (status, headers) = (response.status(), response.headers().clone());
        match status {
            StatusCode::OK => {
                refuse_page(url, &headers)?;
                let total = text(&headers, header::CONTENT_LENGTH).and_then(|n| n.parse().ok());
                let validator = Validator::of(&headers);
                Ok(Answer::Body { from: 0, total, validator, body: Box::new(Body(response)) })
            }
            StatusCode::PARTIAL_CONTENT => match range(&headers) {
                Some((start, total)) if rest.is_some() && start == from => {
                    Ok(Answer::Body { from, total, validator: Validator::of(&headers), body: Box::new(Body(response)) })
                }
                _ => {
                    Err(Failure::Lasting(Error::stage(format!("{url} returned a different byte range than requested"))))
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE if rest.is_some() => Ok(Answer::Beyond(range_total(&headers))),
            _ => Err(refusal(url, status, &headers, token.is_some())),
        }
    }

    /// The response after all redirects.
    fn follow(&self, url: &str, token: Option<&str>, rest: Option<(u64, &str)>) -> Result<Response, Failure> {
        let client = self.client.get_or_init(client).as_ref().map_err(|e| Failure::Lasting(e.clone()))?;
        let mut at = url.to_string();
        for _ in 0..=REDIRECTS {
            let mut request = client.get(&at);
            if let Some(token) = token.filter(|_| server(&at) == server(url)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some((from, same)) = rest {
                request = request.header(header::RANGE, format!("bytes={from}-")).header(header::IF_RANGE, same);
            }
            let response = request.send().map_err(|e| no_answer(&at, &e))?;
            let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            match text(response.headers(), header::LOCATION).filter(|_| moved) {
                Some(to) => at = joined(&at, &to).map_err(Failure::Lasting)?,
                None => return Ok(response),
            }
        }
        Err(Failure::Lasting(Error::stage(format!("{url} redirects too many times"))))
    }
}

/// Scheme, host and port: the scope of a token.
fn server(url: &str) -> Option<Origin> {
    Some(Url::parse(url).ok()?.origin()).filter(Origin::is_tuple)
}

/// Resolves `Location` against `base`. Refuses to go from https to http.
fn joined(base: &str, location: &str) -> Result<String, Error> {
    let lost = |why: &str| {
        let to: String = location.chars().filter(|c| !c.is_control()).take(200).collect();
        Error::stage(format!("{base} redirects to `{to}`, {why}"))
            .hint("download the file by hand, or give another URL")
    };
    let from = Url::parse(base).map_err(|_| lost("and is not a valid URL itself"))?;
    let to = from.join(location).map_err(|_| lost("which is not a valid URL"))?;
    match (from.scheme(), to.scheme()) {
        ("https", "http") => Err(lost("which is not encrypted")),
        (_, "http" | "https") => Ok(to.into()),
        _ => Err(lost("which is not an http or https URL")),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_string())
}

/// First byte and total size in `Content-Range: bytes 5-9/10`.
fn range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let value = text(headers, header::CONTENT_RANGE)?;
    let (start, _) = value.strip_prefix("bytes ")?.split_once('-')?;
    Some((start.parse().ok()?, range_total(headers)))
}

fn range_total(headers: &HeaderMap) -> Option<u64> {
    text(headers, header::CONTENT_RANGE)?.rsplit_once('/')?.1.parse().ok()
}

/// Refuses an HTML page in place of a file: an error, a login, a quota.
fn refuse_page(url: &str, headers: &HeaderMap) -> Result<(), Failure> {
    match text(headers, header::CONTENT_TYPE) {
        Some(ty) if ty.starts_with("text/html") => Err(Failure::Lasting(page(url))),
        _ => Ok(()),
    }
}

pub fn page(url: &str) -> Error {
    Error::stage(format!("{url} returned a web page instead of the file"))
        .hint("open the URL in a browser to see what it asks for, such as a login; or download the file by hand")
}

fn refusal(url: &str, status: StatusCode, headers: &HeaderMap, with_token: bool) -> Failure {
    let said = match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    };
    let error = Error::stage(format!("{url} returned {said}"));
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Lasting(error.hint(match with_token {
            true => "the token in HF_TOKEN has no access: accept the licence on the file's page with that account",
            false => "it may require a login: accept the licence on the file's page, and set HF_TOKEN for Hugging Face",
        })),
        StatusCode::NOT_FOUND | StatusCode::GONE => Failure::Lasting(error.hint("the file was moved or withdrawn")),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Failure::Passing(error, text(headers, header::RETRY_AFTER).and_then(|s| seconds(&s)))
        }
        s if s.is_server_error() => {
            Failure::Passing(error, text(headers, header::RETRY_AFTER).and_then(|s| seconds(&s)))
        }
        _ => Failure::Lasting(error),
    }
}

/// `Retry-After` in seconds; dates are ignored.
fn seconds(text: &str) -> Option<Duration> {
    Some(Duration::from_secs(text.parse().ok()?).min(PATIENCE))
}

fn no_answer(url: &str, error: &reqwest::Error) -> Failure {
    let told = Error::stage(format!("{url} {UNREACHED}")).because(innermost(error));
    let told = match PROXIES.iter().find(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty())) {
        Some(name) => told.hint(format!("the request went through the proxy in {name}")),
        None => told,
    };
    // A malformed address stays malformed: no retry.
    if error.is_builder() { Failure::Lasting(told) } else { Failure::Passing(told, None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, value.parse().unwrap());
            (range(&headers), range_total(&headers))
        };
        assert_eq!(of("bytes 5-9/10"), (Some((5, Some(10))), Some(10)));
        assert_eq!(of("bytes 5-9/*"), (Some((5, None)), None));
        assert_eq!(of("bytes */10"), (None, Some(10)));
        assert_eq!(of("pages 1-2/3").0, None);
    }

    #[test]
    fn redirects_are_joined() {
        let of = |to: &str| joined("https://a.example:8/x/y?z=1", to).unwrap();
        assert_eq!(of("https://b.example/f"), "https://b.example/f");
        assert_eq!(joined("http://a.example/", "https://b.example/f").unwrap(), "https://b.example/f");
        assert_eq!(joined("http://a.example/", "http://b.example/f").unwrap(), "http://b.example/f");
        assert_eq!(of("//b.example/f"), "https://b.example/f");
        assert_eq!(of("/f?g"), "https://a.example:8/f?g");
        assert_eq!(of("f"), "https://a.example:8/x/f");
        // A `://` within the query does not make a scheme.
        assert_eq!(of("/f?from=http://c.example/"), "https://a.example:8/f?from=http://c.example/");
        assert_eq!(of("g?to=ftp://c#d://e"), "https://a.example:8/x/g?to=ftp://c#d://e");
        assert_eq!(of("?z=http://c"), "https://a.example:8/x/y?z=http://c");
        assert_eq!(of("../h/./i"), "https://a.example:8/h/i");
        assert_eq!(of("HTTPS://B.example/F"), "https://b.example/F");
        assert_ne!(server("https://a.example:8/x"), server("https://a.example:9/x"));
        assert_ne!(server("https://a.example/x"), server("http://a.example/x"));
    }

    #[test]
    fn redirects_away_from_https_or_to_other_schemes_are_refused() {
        let said = |base: &str, to: &str| joined(base, to).unwrap_err().message;
        assert_eq!(
            said("https://a.example/x", "http://a.example/x"),
            "https://a.example/x redirects to `http://a.example/x`, which is not encrypted"
        );
        assert!(said("https://a.example/x", "HTTP:x").ends_with("which is not encrypted"));
        for odd in ["ftp://a.example/x", "file:///etc/passwd", "data:text/plain,x"] {
            assert!(said("http://a.example/x", odd).ends_with("which is not an http or https URL"), "{odd}");
        }
        assert!(said("http://a.example/x", "http://[1").ends_with("which is not a valid URL"));
    }

    #[test]
    fn weak_etags_are_not_used_to_resume() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, "W/\"a\"".parse().unwrap());
        assert_eq!(Validator::of(&headers).if_range(), None);
        headers.insert(header::LAST_MODIFIED, "Mon, 01 Jan 2024 00:00:00 GMT".parse().unwrap());
        assert_eq!(Validator::of(&headers).if_range(), Some("Mon, 01 Jan 2024 00:00:00 GMT"));
        assert_eq!(seconds("3600"), Some(PATIENCE));
        assert_eq!(seconds("Fri, 31 Dec 1999 23:59:59 GMT"), None);
    }
}
