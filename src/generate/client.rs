//! One request until it is answered, or given up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt;
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER,
};
use reqwest::{Body, Method, StatusCode};
use tokio::time::{Instant, sleep};
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::Tally;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Above the service's own: it answers within seconds, or says 503.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The waits between tries double from the first to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// What a `Retry-After` is believed to at most.
const LONGEST_ASKED: Duration = Duration::from_secs(30);

/// What is to be sent.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) content_type: &'static str,
    pub(super) encoding: Option<&'static str>,
    pub(super) body: Bytes,
    /// The view was spooled a moment ago: "unknown" means "not yet".
    pub(super) may_be_on_its_way: bool,
}

/// What the service said in the end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    patience: Duration,
    /// A trouble that was told is not told again before it is over.
    troubled: AtomicBool,
}

impl Client {
    /// # Errors
    /// A key that no header can carry.
    pub(super) fn new(url: &str, key: Option<&str>, patience: Duration) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let value = HeaderValue::try_from(format!("Bearer {key}"));
            let mut value = value.map_err(|_| "API_KEY is not a key".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .tcp_nodelay(true)
            // The service is to be measured, not a proxy that some variable names.
            .no_proxy()
            .default_headers(headers)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            http,
            url: url.trim_end_matches('/').to_owned(),
            patience,
            troubled: AtomicBool::new(false),
        })
    }

    /// Sends until there is an answer other than "try again", at most as long as our patience lasts
    /// from the first failure on.
    ///
    /// # Errors
    /// Why it was given up, in words.
    pub(super) async fn send(
        &self,
        request: &Request,
        tally: &Tally,
        stop: &CancellationToken,
        tell: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Answer, String> {
        let (mut deadline, mut wait) = (None, FIRST_WAIT);
        loop {
            let (trouble, asked) = match self.try_once(request).await {
                Ok((answer, _)) if !is_temporary(answer.status, request) => {
                    self.troubled.store(false, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok((answer, asked)) => (format!("answers {}", in_words(&answer)), asked),
                Err(error) => (reason(&error), None),
            };
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.patience);
            // Some randomness keeps many senders from coming back at one moment.
            let pause = asked
                .unwrap_or(wait)
                .mul_f64(rand::rng().random_range(1.0..1.25));
            if Instant::now() + pause > deadline {
                return Err(format!("{} {trouble}", self.url));
            }
            if !self.troubled.swap(true, Ordering::Relaxed) {
                tell(&format!("{} {trouble}; trying again", self.url));
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return Err(format!("{} {trouble}", self.url)),
            }
            tally.add_retry();
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn try_once(&self, request: &Request) -> reqwest::Result<(Answer, Option<Duration>)> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(request.content_type));
        if let Some(encoding) = request.encoding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        let response = self
            .http
            .request(
                request.method.clone(),
                format!("{}{}", self.url, request.path),
            )
            .headers(headers)
            .body(Body::from(request.body.clone()))
            .send()
            .await?;
        let status = response.status();
        let asked = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(|seconds| Duration::from_secs(seconds).min(LONGEST_ASKED));
        let body = response.bytes().await?;
        Ok((Answer { status, body }, asked))
    }
}

/// Whether the same request may well succeed later. 502 and 504 come from proxies.
fn is_temporary(status: StatusCode, request: &Request) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    ) || (status == StatusCode::NOT_FOUND && request.may_be_on_its_way)
}

/// The status, and what the problem document says.
pub(super) fn in_words(answer: &Answer) -> String {
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let said = ["title", "detail"].map(|part| problem[part].as_str().unwrap_or_default());
    let first = problem["errors"][0]["detail"].as_str().unwrap_or_default();
    let said: Vec<&str> = said
        .into_iter()
        .chain([first])
        .filter(|part| !part.is_empty())
        .collect();
    match said.is_empty() {
        true => answer.status.to_string(),
        false => format!("{}: {}", answer.status.as_u16(), said.join("; ")),
    }
}

/// The innermost cause: those around it only say that a request failed.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "does not answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    format!("does not answer: {}", cause.to_string().to_lowercase())
}
