//! A way to a real ClickHouse on which its client's requests can be changed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::ClickHouse;

/// Passes requests on to one server.
pub struct Relay {
    pub address: SocketAddr,
    state: Arc<Between>,
    task: JoinHandle<()>,
}

struct Between {
    server: ClickHouse,
    http: reqwest::Client,
    /// Added to each request's address.
    settings: Mutex<String>,
    /// What the client says who it is, as it came.
    credentials: Mutex<String>,
}

impl Relay {
    /// To `server`, as the user who may use it, whoever the client says it is.
    pub async fn start(server: &ClickHouse) -> Self {
        let state = Arc::new(Between {
            server: server.clone(),
            http: reqwest::Client::new(),
            settings: Mutex::default(),
            credentials: Mutex::default(),
        });
        let router = Router::new()
            .fallback(pass_on)
            .with_state(Arc::clone(&state));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            state,
            task,
        }
    }

    /// Settings that every request has from now on, such as `readonly=1`; they stand first, so `database` is
    /// taken from them.
    pub fn set(&self, settings: &str) {
        *self.state.settings.lock().unwrap() = settings.to_owned();
    }

    /// What the client said last of who it is.
    pub fn credentials(&self) -> String {
        self.state.credentials.lock().unwrap().clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(State(between): State<Arc<Between>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let query = parts.uri.query().unwrap_or_default();
    let settings = between.settings.lock().unwrap().clone();
    let url = format!("{}/?{settings}&{query}", between.server.url);
    let mut passed = between.http.request(parts.method, url).body(body);
    let mut said = String::new();
    for (name, value) in &parts.headers {
        let text = String::from_utf8_lossy(value.as_bytes());
        match name.as_str() {
            "x-clickhouse-user" | "x-clickhouse-key" | "authorization" => {
                said.push_str(&format!("{name}: {text}\n"));
            }
            "host" | "content-length" | "transfer-encoding" | "connection" => {}
            _ => passed = passed.header(name, value),
        }
    }
    *between.credentials.lock().unwrap() = said;
    passed = passed
        .header("x-clickhouse-user", &between.server.user)
        .header("x-clickhouse-key", &between.server.password);
    let Ok(answer) = passed.send().await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let (status, headers) = (answer.status(), answer.headers().clone());
    let bytes = answer.bytes().await.unwrap_or_default();
    let mut response = (status, Body::from(bytes)).into_response();
    for (name, value) in &headers {
        if !["content-length", "transfer-encoding", "connection"].contains(&name.as_str()) {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
    response
}
