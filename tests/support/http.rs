//! A real HTTP/1.1 server on this machine, which keeps a log of what it was asked and sent, and
//! misbehaves on demand.

use super::space::Space;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One request to a server on this machine, with further head lines. The body of the answer; else
/// its status and body, or the error of the connection.
pub fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    head: &str,
    body: &[u8],
) -> Result<Vec<u8>, (String, Vec<u8>)> {
    let failed = |e: std::io::Error| (e.to_string(), vec![]);
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(failed)?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).map_err(failed)?;
    let mut answer = BufReader::new(stream);
    let (mut head, mut line) = (String::new(), String::new());
    while answer.read_line(&mut line).map_err(failed)? > 2 {
        head.push_str(&std::mem::take(&mut line).to_lowercase());
    }
    // Some servers keep the connection open whatever they are asked.
    let length = head.split("\ncontent-length:").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
    let mut body = vec![];
    answer.take(length.unwrap_or(u64::MAX)).read_to_end(&mut body).map_err(failed)?;
    let status = head.split(' ').nth(1).unwrap_or("no answer").to_string();
    if status.starts_with('2') { Ok(body) } else { Err((status, body)) }
}

/// What lies under a path.
#[derive(Clone)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub etag: Option<&'static str>,
    pub content_type: &'static str,
    pub faults: Vec<Fault>,
}

/// Something that goes wrong, once each, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The connection is closed after so many bytes of the body.
    CutAfter(usize),
    /// This status, without the file.
    Status(u16),
    /// This status and `Retry-After: 0`.
    Later(u16),
    /// The whole file whatever was asked for.
    WholeOnly,
    /// The server sleeps so many milliseconds after each 16 KiB.
    Slowly(u64),
    None,
}

/// A request and what came of it.
#[derive(Clone, Debug)]
pub struct Asked {
    #[expect(dead_code, reason = "shown when a test fails")]
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub status: u16,
    /// Bytes of the body that were sent.
    pub sent: usize,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Content>,
    /// Path to address.
    redirects: BTreeMap<String, String>,
    log: Vec<Asked>,
    /// Addresses that were asked for through `CONNECT`.
    tunnels: Vec<String>,
}

/// Serves until dropped with the process.
#[derive(Clone)]
pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = Self { address: listener.local_addr().expect("an address"), state: Arc::default() };
        let all = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = all.clone();
                std::thread::spawn(move || drop(server.serve(stream)));
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.put_with(path, bytes, &[]);
    }

    pub fn put_with(&self, path: &str, bytes: &[u8], faults: &[Fault]) {
        let content = Content {
            bytes: bytes.into(),
            etag: Some("\"one\""),
            content_type: "application/octet-stream",
            faults: faults.into(),
        };
        self.put_content(path, content);
    }

    pub fn put_content(&self, path: &str, content: Content) {
        self.state.lock().unwrap().files.insert(path.into(), content);
    }

    pub fn redirect(&self, path: &str, to: &str) {
        self.state.lock().unwrap().redirects.insert(path.into(), to.into());
    }

    pub fn log(&self) -> Vec<Asked> {
        self.state.lock().unwrap().log.clone()
    }

    pub fn tunnels(&self) -> Vec<String> {
        self.state.lock().unwrap().tunnels.clone()
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut words = line.split_whitespace().map(String::from);
            let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let mut headers = BTreeMap::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let Some((name, value)) = line.trim_end().split_once(':') else { break };
                headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
            }
            if method == "CONNECT" {
                // A proxy whose every destination is this server.
                self.state.lock().unwrap().tunnels.push(target);
                (&stream).write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
                continue;
            }
            if !self.answer(&stream, &target, headers)? {
                return stream.shutdown(std::net::Shutdown::Both);
            }
        }
    }

    /// False: the connection is to be closed.
    fn answer(&self, mut stream: &TcpStream, target: &str, headers: BTreeMap<String, String>) -> std::io::Result<bool> {
        // A proxy is asked for whole addresses.
        let path = target.strip_prefix("http://").map_or(target, |rest| &rest[rest.find('/').unwrap_or(rest.len())..]);
        let path = path.to_string();
        let (file, fault, redirect) = {
            let mut state = self.state.lock().unwrap();
            let redirect = state.redirects.get(&path).cloned();
            let file = state.files.get_mut(&path);
            let fault =
                file.map_or(Fault::None, |f| if f.faults.is_empty() { Fault::None } else { f.faults.remove(0) });
            (state.files.get(&path).cloned(), fault, redirect)
        };
        let log = |status: u16, sent: usize| {
            let asked = Asked { path: path.clone(), headers: headers.clone(), status, sent };
            self.state.lock().unwrap().log.push(asked);
        };
        let empty = |status: u16, more: &str| format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{more}\r\n");
        if let Some(to) = redirect {
            log(302, 0);
            stream.write_all(empty(302, &format!("Location: {to}\r\n")).as_bytes())?;
            return Ok(true);
        }
        let refused = match (&file, fault) {
            (None, _) => Some((404, "")),
            (_, Fault::Status(status)) => Some((status, "")),
            (_, Fault::Later(status)) => Some((status, "Retry-After: 0\r\n")),
            _ => None,
        };
        if let Some((status, more)) = refused {
            log(status, 0);
            stream.write_all(empty(status, more).as_bytes())?;
            return Ok(true);
        }
        let file = file.expect("looked at above");
        let total = file.bytes.len();
        let same = headers.get("if-range").is_none_or(|tag| Some(tag.as_str()) == file.etag);
        let start = headers
            .get("range")
            .filter(|_| same && fault != Fault::WholeOnly)
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        if start.is_some_and(|start| start >= total) {
            log(416, 0);
            stream.write_all(empty(416, &format!("Content-Range: bytes */{total}\r\n")).as_bytes())?;
            return Ok(true);
        }
        let body = &file.bytes[start.unwrap_or(0)..];
        let mut head = format!(
            "HTTP/1.1 {} X\r\nContent-Length: {}\r\nContent-Type: {}\r\nAccept-Ranges: bytes\r\n",
            if start.is_some() { 206 } else { 200 },
            body.len(),
            file.content_type
        );
        if let Some(start) = start {
            head.push_str(&format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1));
        }
        if let Some(tag) = file.etag {
            head.push_str(&format!("ETag: {tag}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        let (body, cut) = match fault {
            Fault::CutAfter(n) if n < body.len() => (&body[..n], true),
            _ => (body, false),
        };
        log(if start.is_some() { 206 } else { 200 }, body.len());
        match fault {
            Fault::Slowly(pause) => body.chunks(16 * 1024).try_for_each(|chunk| {
                std::thread::sleep(std::time::Duration::from_millis(pause));
                stream.write_all(chunk)
            })?,
            _ => stream.write_all(body)?,
        }
        if cut {
            // What is still under way must arrive before the end does.
            stream.flush()?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let _ = stream.read(&mut [0; 64]);
        }
        Ok(!cut)
    }
}

/// The program without this machine's settings of networks, and with the registry of the space if
/// there is one.
pub fn unconfigured(space: &Space, args: &[&str]) -> Command {
    const SETTINGS: [&str; 9] = [
        "SSL_CERT_FILE",
        "ALL_PROXY",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "HF_ENDPOINT",
        "HF_TOKEN",
        "HF_HOME",
        "HF_HUB_CACHE",
    ];
    let mut command = space.command(args);
    for name in SETTINGS {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env_remove("ERW_REGISTRY").env_remove("XDG_CACHE_HOME").env("HOME", space.path("home"));
    if space.path("registry.toml").exists() {
        command.env("ERW_REGISTRY", space.path("registry.toml"));
    }
    command
}
