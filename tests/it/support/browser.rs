//! A real headless Chromium, driven by WebDriver (<https://www.w3.org/TR/webdriver2/>).

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::directory;

const PATIENCE: Duration = Duration::from_secs(30);

pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";

/// One window. It and its driver end when this is dropped.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    http: reqwest::Client,
}

impl Browser {
    /// Nothing where Chromium or its driver is not installed.
    pub async fn start(name: &str) -> Option<Self> {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut output = BufReader::new(driver.stdout.take().unwrap());
        let port = loop {
            let mut line = String::new();
            let length = output.read_line(&mut line).unwrap();
            assert!(length > 0, "chromedriver ended");
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim().trim_end_matches('.').parse().unwrap();
            }
        };
        // It must never wait for somebody to read what it says.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        let mut browser = Self {
            driver,
            port,
            session: String::new(),
            http: reqwest::Client::new(),
        };
        let profile = directory(name).join("profile");
        let arguments = [
            "--headless=new".to_owned(),
            // Root may not use the sandbox, and all pages are ours.
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--lang=en-GB".to_owned(),
            "--window-size=1200,1000".to_owned(),
            format!("--user-data-dir={}", profile.display()),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let url = format!("http://127.0.0.1:{port}/session");
        let answer = browser.http.post(url).json(&capabilities).send().await;
        let answer: Value = answer.unwrap().json().await.unwrap();
        let Some(session) = answer["value"]["sessionId"].as_str() else {
            assert!(
                answer["value"]["message"]
                    .as_str()
                    .is_some_and(|why| why.contains("cannot find Chrome")),
                "{answer}"
            );
            return None;
        };
        browser.session = session.to_owned();
        Some(browser)
    }

    async fn command(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!(
            "http://127.0.0.1:{}/session/{}{path}",
            self.port, self.session
        );
        let request = self.http.request(method.clone(), url);
        let request = if method == Method::POST {
            request.json(&body)
        } else {
            request
        };
        let response = request.send().await.unwrap();
        let status = response.status();
        let mut answer: Value = response.json().await.unwrap();
        assert!(status.is_success(), "{path} {body}: {answer}");
        answer["value"].take()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.command(Method::POST, path, body).await
    }

    pub async fn open(&self, url: &str) {
        self.post("/url", json!({"url": url})).await;
    }

    pub async fn url(&self) -> String {
        let url = self.command(Method::GET, "/url", Value::Null).await;
        url.as_str().unwrap().to_owned()
    }

    pub async fn back(&self) {
        self.post("/back", json!({})).await;
    }

    /// The value of the body of a function in the page.
    pub async fn script(&self, body: &str) -> Value {
        self.post("/execute/sync", json!({"script": body, "args": []}))
            .await
    }

    /// Waits until an expression in the page is true.
    pub async fn until(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.script(&format!("return Boolean({expression})")).await != true {
            assert!(Instant::now() < deadline, "not in time: {expression}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn element(&self, selector: &str) -> String {
        let found = self.post(
            "/element",
            json!({"using": "css selector", "value": selector}),
        );
        let found = found.await;
        let id = found.as_object().unwrap().values().next().unwrap();
        id.as_str().unwrap().to_owned()
    }

    /// A click of the mouse, which fails where something else is in front.
    pub async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.post(&format!("/element/{element}/click"), json!({}))
            .await;
    }

    /// Replaces the text of a field.
    pub async fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.post(&format!("/element/{element}/clear"), json!({}))
            .await;
        self.post(&format!("/element/{element}/value"), json!({"text": text}))
            .await;
    }

    /// Presses keys, whatever has the focus.
    pub async fn press(&self, keys: &str) {
        let mut actions = Vec::new();
        for key in keys.chars() {
            actions.push(json!({"type": "keyDown", "value": key}));
            actions.push(json!({"type": "keyUp", "value": key}));
        }
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.post("/actions", json!({"actions": [keyboard]})).await;
    }

    /// A command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post(
            "/goog/cdp/execute",
            json!({"cmd": command, "params": parameters}),
        )
        .await
    }

    /// `light` or `dark`, as if the reader had set it.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features}))
            .await;
    }

    /// What the page shows in a window of this size, as PNG in base 64.
    pub async fn screenshot(&self, width: u32, height: u32) -> String {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size)
            .await;
        // Drawn again at this width.
        let drawn = "return new Promise((done) => setTimeout(done, 200))";
        self.script(drawn).await;
        let picture = self
            .devtools("Page.captureScreenshot", json!({"format": "png"}))
            .await;
        picture["data"].as_str().unwrap().to_owned()
    }

    /// The console since the last call: errors, warnings and violations of the content policy.
    pub async fn console(&self) -> Vec<String> {
        let entries = self.post("/se/log", json!({"type": "browser"})).await;
        let entries = entries.as_array().unwrap().iter();
        let text = |entry: &Value| entry["message"].as_str().unwrap().to_owned();
        entries.map(text).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its end ends Chromium; without an asynchronous client, since a test may be failing.
        if let Ok(mut connection) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ = connection.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = write!(
                connection,
                "DELETE /session/{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
                self.session
            );
            let _ = BufReader::new(connection).read_line(&mut String::new());
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
