//! A real S3-speaking server (moto, in the environment that `tests/tools/venv.sh` makes), and a
//! proxy in front of it that cuts connections.

use super::{http, venv};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const SIGNED: &str =
    "AWS4-HMAC-SHA256 Credential=me/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// The server and its end: a shell that ends it when its own input ends, which is when this process
/// does.
pub struct Moto {
    pub address: SocketAddr,
    #[expect(dead_code, reason = "holds the pipe open")]
    shell: Child,
}

impl Moto {
    /// One for all tests; each makes a bucket of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Moto> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub fn start() -> Self {
        let program = venv::program("moto_server");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = "\"$0\" -H 127.0.0.1 -p \"$1\" >/dev/null 2>&1 & server=$!; cat >/dev/null; kill $server";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(program).arg(port.to_string()).stdin(Stdio::piped());
        let shell = shell.spawn().unwrap();
        let moto = Self { address: ([127, 0, 0, 1], port).into(), shell };
        for _ in 0..600 {
            if moto.ask("GET", "/moto-api/", &[]).is_ok() {
                return moto;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the S3 server does not answer");
    }

    /// A plain request; moto reads who signed it and not the signature. The body of the answer.
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, String> {
        let signed = format!("Authorization: {SIGNED}\r\n");
        http::ask(self.address, method, path, &signed, body).map_err(|(status, _)| status)
    }

    pub fn bucket(&'static self, name: &'static str) -> Bucket {
        self.ask("PUT", &format!("/{name}"), &[]).unwrap();
        Bucket { moto: self, name }
    }
}

pub struct Bucket {
    moto: &'static Moto,
    pub name: &'static str,
}

impl Bucket {
    /// Keys in order.
    pub fn keys(&self) -> Vec<String> {
        let list = self.moto.ask("GET", &format!("/{}?list-type=2", self.name), &[]).unwrap();
        let text = String::from_utf8(list).unwrap();
        text.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_string()).collect()
    }
    pub fn get(&self, key: &str) -> Vec<u8> {
        self.moto.ask("GET", &format!("/{}/{key}", self.name), &[]).unwrap()
    }
    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.moto.ask("PUT", &format!("/{}/{key}", self.name), bytes).unwrap();
    }
    pub fn delete(&self, key: &str) {
        self.moto.ask("DELETE", &format!("/{}/{key}", self.name), &[]).unwrap();
    }
}

/// Passes bytes on, and closes every connection after so many bytes of answers.
#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    limit: Arc<AtomicUsize>,
    passed: Arc<AtomicUsize>,
}

impl Proxy {
    pub fn before(target: SocketAddr, limit: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Self { address, limit: Arc::new(limit.into()), passed: Arc::default() };
        let all = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let proxy = all.clone();
                std::thread::spawn(move || drop(proxy.serve(&client, target)));
            }
        });
        proxy
    }

    pub fn cut_after(&self, limit: usize) {
        self.limit.store(limit, Ordering::SeqCst);
    }

    /// Bytes of answers since the last look.
    pub fn passed(&self) -> usize {
        self.passed.swap(0, Ordering::SeqCst)
    }

    fn serve(&self, client: &TcpStream, target: SocketAddr) -> std::io::Result<()> {
        let server = TcpStream::connect(target)?;
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        });
        let (mut buffer, mut left) = (vec![0; 16 * 1024], self.limit.load(Ordering::SeqCst));
        loop {
            let n = (&server).read(&mut buffer)?;
            // Gone is gone, for connections that are kept too.
            let n = if self.limit.load(Ordering::SeqCst) == 0 { 0 } else { n.min(left) };
            self.passed.fetch_add(n, Ordering::SeqCst);
            let mut out = client;
            out.write_all(&buffer[..n])?;
            left -= n;
            if n == 0 || left == 0 {
                server.shutdown(Shutdown::Both)?;
                return client.shutdown(Shutdown::Both);
            }
        }
    }
}

/// Answers everything with this status.
pub fn refusing(status: u16) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 64 * 1024]);
                let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            });
        }
    });
    address
}
