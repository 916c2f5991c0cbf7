//! A real Chromium, headless, driven through chromedriver's HTTP interface (WebDriver and its
//! `goog/cdp` extension). Where `ERW_TEST_BROWSER` is not set and there is none, tests are skipped.

use super::{http, skip};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub struct Browser {
    /// A shell that ends the driver when its own input ends, which is when this process does.
    #[expect(dead_code, reason = "holds the pipe open")]
    driver: Child,
    address: SocketAddr,
    /// The path of its session.
    session: String,
}

impl Browser {
    /// `None`, and the test is skipped: there is no browser.
    #[track_caller]
    pub fn start() -> Option<Self> {
        let is_there = Command::new("chromedriver").arg("--version").output().is_ok_and(|o| o.status.success());
        if !is_there && std::env::var_os("ERW_TEST_BROWSER").is_none() {
            skip("needs chromium and chromedriver");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = "chromedriver --port=\"$0\" >/dev/null 2>&1 & driver=$!; cat >/dev/null; kill $driver";
        let driver = Command::new("sh").args(["-c", script, &port.to_string()]).stdin(Stdio::piped()).spawn().unwrap();
        let mut browser = Self { driver, address: ([127, 0, 0, 1], port).into(), session: String::new() };
        let options = json!({ "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900"
        ] });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            "goog:chromeOptions": options,
        } } });
        for _ in 0..600 {
            if let Ok(made) = browser.ask("/session", &wanted) {
                let id = made["sessionId"].as_str().expect("a session").to_string();
                browser.session = format!("/session/{id}");
                return Some(browser);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("chromedriver does not answer");
    }

    fn ask(&self, path: &str, body: &Value) -> Result<Value, String> {
        let (path, head) = (format!("{}{path}", self.session), "Content-Type: application/json\r\n");
        let answer = http::ask(self.address, "POST", &path, head, body.to_string().as_bytes());
        let answer = answer.map_err(|(status, body)| format!("{status} {}", String::from_utf8_lossy(&body)))?;
        let value: Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
        Ok(value["value"].clone())
    }

    #[track_caller]
    fn done(&self, path: &str, body: &Value) -> Value {
        self.ask(path, body).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// A command of the DevTools protocol.
    #[track_caller]
    pub fn devtools(&self, command: &str, params: Value) -> Value {
        self.done("/goog/cdp/execute", &json!({ "cmd": command, "params": params }))
    }

    #[track_caller]
    pub fn open(&self, page: &Path) {
        self.go(&format!("file://{}", page.display()));
    }

    #[track_caller]
    pub fn go(&self, address: &str) {
        self.done("/url", &json!({ "url": address }));
    }

    /// The value that a script returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.done("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The value with which an asynchronous script calls its last argument.
    #[track_caller]
    pub fn wait(&self, script: &str) -> Value {
        self.done("/execute/async", &json!({ "script": script, "args": [] }))
    }

    /// Clicks what a CSS selector finds first.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let id = self.element(selector);
        self.done(&format!("/element/{id}/click"), &json!({}));
    }

    /// Types into it.
    #[track_caller]
    pub fn keys(&self, selector: &str, text: &str) {
        let id = self.element(selector);
        self.done(&format!("/element/{id}/value"), &json!({ "text": text }));
    }

    #[track_caller]
    fn element(&self, selector: &str) -> String {
        let found = self.done("/element", &json!({ "using": "css selector", "value": selector }));
        found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_string()
    }

    /// What the console said, and every request that was to leave the page, since the last look.
    #[track_caller]
    pub fn complaints(&self) -> Vec<String> {
        let log = |kind: &str| self.done("/se/log", &json!({ "type": kind })).as_array().unwrap().clone();
        let mut all: Vec<String> = log("browser").iter().map(|entry| entry["message"].to_string()).collect();
        for entry in log("performance") {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let message = &message["message"];
            let address = message["params"]["request"]["url"].as_str().unwrap_or_default();
            let is_inside = address.starts_with("file:") || address.starts_with("data:");
            if message["method"] == "Network.requestWillBeSent" && !is_inside {
                all.push(format!("request of {address}"));
            }
        }
        all
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = http::ask(self.address, "DELETE", &self.session, "", &[]);
    }
}
