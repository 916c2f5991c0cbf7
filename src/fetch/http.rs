//! One request for a file, or for what is still lacking of it, and what its answer means for whoever wants the file.
//! Redirects are followed, but none from https to http; a token goes no further than the server it is for. Proxies come
//! from the environment: ALL_PROXY, HTTPS_PROXY, HTTP_PROXY, the first that names one, for every host but those of
//! NO_PROXY.

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
/// Without a byte for so long, a connection is given up and the rest asked for anew.
const SILENCE: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 10;
/// What is said of an address behind which nobody answers.
pub const UNREACHED: &str = "cannot be reached";
/// Names a file of certificates, as for OpenSSL: of a network that looks into what passes it, or of a mirror of one's own.
const ROOTS: &str = "SSL_CERT_FILE";
/// Name a proxy.
const PROXIES: [&str; 6] = ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
/// The client starts one for itself, and one to look up the names of hosts.
const THREADS: usize = 2;
/// More than this a server may not ask us to wait.
const PATIENCE: Duration = Duration::from_secs(120);

/// What tells that a file on a server is still the one that was begun.
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

    /// The value of `If-Range`. Without one a rest cannot be asked for: it may be that of another file.
    pub fn if_range(&self) -> Option<&str> {
        self.etag.as_deref().or(self.last_modified.as_deref())
    }
}

/// What a server said.
pub enum Answer {
    /// The file from byte `from` on; 0 even if more was asked for.
    Body { from: u64, total: Option<u64>, validator: Validator, body: Box<dyn Read> },
    /// There are no bytes behind those that are here; the file has this many.
    Beyond(Option<u64>),
}

/// Why there is no answer.
pub enum Failure {
    /// May pass: to be tried again, after the time that the server asked for.
    Passing(Error, Option<Duration>),
    /// Stays as it is.
    Lasting(Error),
}

/// Made ready by the first request: whoever only looks what is here pays nothing.
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
        // Of an answer, and of each part of it.
        .timeout(SILENCE)
        // Followed here: a library takes every port of a host for the same server.
        .redirect(Policy::none())
        .user_agent(concat!("erw/", env!("CARGO_PKG_VERSION")))
        .default_headers(HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))]))
        // One file at a time: there is nothing to share a connection for.
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

/// Whom to trust: Mozilla's list, or what the user's network needs instead.
fn roots() -> Result<RootCertStore, Error> {
    let Some(path) = std::env::var_os(ROOTS).filter(|p| !p.is_empty()).map(PathBuf::from) else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let pem = std::fs::read(&path).map_err(|e| Error::io("read", &path, e).context(format!("{ROOTS} is of no use")))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if roots.is_empty() {
        return Err(Error::usage(format!("`{}`, named by {ROOTS}, holds no certificates", path.display())));
    }
    Ok(roots)
}

/// The bytes of an answer.
struct Body(Response);

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|e| io::Error::new(e.kind(), innermost(&e)))
    }
}

impl Client {
    /// Asks for `url`, from byte `from` on if it is still the file of `validator`.
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
                _ => Err(Failure::Lasting(Error::stage(format!("{url} answered with another part than asked for")))),
            },
            StatusCode::RANGE_NOT_SATISFIABLE if rest.is_some() => Ok(Answer::Beyond(range_total(&headers))),
            _ => Err(refusal(url, status, &headers, token.is_some())),
        }
    }

    /// The answer at the end of all redirects.
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
        Err(Failure::Lasting(Error::stage(format!("{url} is redirected again and again"))))
    }
}

/// Scheme, host and port: what a token is for.
fn server(url: &str) -> Option<Origin> {
    Some(Url::parse(url).ok()?.origin()).filter(Origin::is_tuple)
}

/// The address that `Location` means, as seen from `base`. What was asked for under encryption never comes without.
fn joined(base: &str, location: &str) -> Result<String, Error> {
    let lost = |why: &str| {
        let to: String = location.chars().filter(|c| !c.is_control()).take(200).collect();
        Error::stage(format!("{base} is redirected to `{to}`, {why}"))
            .hint("get the file by hand, or name another address of it")
    };
    let from = Url::parse(base).map_err(|_| lost("and is no address itself"))?;
    let to = from.join(location).map_err(|_| lost("which is no address"))?;
    match (from.scheme(), to.scheme()) {
        ("https", "http") => Err(lost("which is not encrypted")),
        (_, "http" | "https") => Ok(to.into()),
        _ => Err(lost("which is no web address")),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_string())
}

/// First byte and size of the whole in `Content-Range: bytes 5-9/10`.
fn range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let value = text(headers, header::CONTENT_RANGE)?;
    let (start, _) = value.strip_prefix("bytes ")?.split_once('-')?;
    Some((start.parse().ok()?, range_total(headers)))
}

fn range_total(headers: &HeaderMap) -> Option<u64> {
    text(headers, header::CONTENT_RANGE)?.rsplit_once('/')?.1.parse().ok()
}

/// A page where a file should be: of an error, a login, a quota.
fn refuse_page(url: &str, headers: &HeaderMap) -> Result<(), Failure> {
    match text(headers, header::CONTENT_TYPE) {
        Some(ty) if ty.starts_with("text/html") => Err(Failure::Lasting(page(url))),
        _ => Ok(()),
    }
}

pub fn page(url: &str) -> Error {
    Error::stage(format!("{url} answered with a web page instead of the file"))
        .hint("open the address in a browser to see what it wants, such as a login; or get the file by hand")
}

fn refusal(url: &str, status: StatusCode, headers: &HeaderMap, with_token: bool) -> Failure {
    let said = match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    };
    let error = Error::stage(format!("{url} answered {said}"));
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Lasting(error.hint(match with_token {
            true => "the token in HF_TOKEN does not open it: accept the licence on the file's page with that account",
            false => "it may want a login: accept the licence on the file's page, and set HF_TOKEN for Hugging Face",
        })),
        StatusCode::NOT_FOUND | StatusCode::GONE => Failure::Lasting(error.hint("the file has moved or was withdrawn")),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Failure::Passing(error, text(headers, header::RETRY_AFTER).and_then(|s| seconds(&s)))
        }
        s if s.is_server_error() => {
            Failure::Passing(error, text(headers, header::RETRY_AFTER).and_then(|s| seconds(&s)))
        }
        _ => Failure::Lasting(error),
    }
}

/// `Retry-After` in seconds; a date is as good as no word.
fn seconds(text: &str) -> Option<Duration> {
    Some(Duration::from_secs(text.parse().ok()?).min(PATIENCE))
}

fn no_answer(url: &str, error: &reqwest::Error) -> Failure {
    let told = Error::stage(format!("{url} {UNREACHED}")).because(innermost(error));
    let told = match PROXIES.iter().find(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty())) {
        Some(name) => told.hint(format!("the proxy of {name} was asked")),
        None => told,
    };
    // An address of which no request can be made is one tomorrow no more than today.
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
        // What stands in a query is no scheme.
        assert_eq!(of("/f?from=http://c.example/"), "https://a.example:8/f?from=http://c.example/");
        assert_eq!(of("g?to=ftp://c#d://e"), "https://a.example:8/x/g?to=ftp://c#d://e");
        assert_eq!(of("?z=http://c"), "https://a.example:8/x/y?z=http://c");
        assert_eq!(of("../h/./i"), "https://a.example:8/h/i");
        assert_eq!(of("HTTPS://B.example/F"), "https://b.example/F");
        assert_ne!(server("https://a.example:8/x"), server("https://a.example:9/x"));
        assert_ne!(server("https://a.example/x"), server("http://a.example/x"));
    }

    #[test]
    fn redirects_to_what_is_no_file_of_the_web_or_not_encrypted_are_refused() {
        let said = |base: &str, to: &str| joined(base, to).unwrap_err().message;
        assert_eq!(
            said("https://a.example/x", "http://a.example/x"),
            "https://a.example/x is redirected to `http://a.example/x`, which is not encrypted"
        );
        assert!(said("https://a.example/x", "HTTP:x").ends_with("which is not encrypted"));
        for odd in ["ftp://a.example/x", "file:///etc/passwd", "data:text/plain,x"] {
            assert!(said("http://a.example/x", odd).ends_with("which is no web address"), "{odd}");
        }
        assert!(said("http://a.example/x", "http://[1").ends_with("which is no address"));
    }

    #[test]
    fn weak_validators_do_not_hold_a_file_to_its_bytes() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, "W/\"a\"".parse().unwrap());
        assert_eq!(Validator::of(&headers).if_range(), None);
        headers.insert(header::LAST_MODIFIED, "Mon, 01 Jan 2024 00:00:00 GMT".parse().unwrap());
        assert_eq!(Validator::of(&headers).if_range(), Some("Mon, 01 Jan 2024 00:00:00 GMT"));
        assert_eq!(seconds("3600"), Some(PATIENCE));
        assert_eq!(seconds("Fri, 31 Dec 1999 23:59:59 GMT"), None);
    }
}
