//! Requests that are refused while their bodies are still on their way.

use std::time::{Duration, Instant};

use axum::http::Version;
use reqwest::{Client, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::support::{TestApp, view};

const PATIENCE: Duration = Duration::from_secs(20);
/// More than the kernel takes in for a service that does not read.
const LONG: usize = 8 << 20;

fn head(path: &str, content_type: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\n\
         content-length: {length}\r\n\r\n"
    )
}

async fn connected(app: &TestApp, sent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(app.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    stream
}

/// One answer, to its last byte.
async fn answer(stream: &mut (impl AsyncReadExt + Unpin), what: &str) -> String {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let length = timeout(PATIENCE, stream.read(&mut piece)).await;
        let length = length.expect("an answer in time");
        let length = length.unwrap_or_else(|error| panic!("{what}: {error} after {bytes:?}"));
        bytes.extend(&piece[..length]);
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut fields = head.lines();
            let declared = fields.find_map(|field| field.strip_prefix("content-length: "));
            if declared.expect("a length").parse() == Ok(body.len()) {
                return text.into_owned();
            }
        }
        assert!(length > 0, "{what}: closed after {text:?}");
    }
}

fn closes(answer: &str) -> bool {
    answer.contains("\r\nconnection: close\r\n")
}

async fn open(app: &TestApp) -> f64 {
    let text = app.request(Method::GET, "/metrics").send().await.unwrap();
    let text = text.text().await.unwrap();
    let mut lines = text.lines();
    let open = lines.find_map(|line| line.strip_prefix("traffic_http_connections "));
    open.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_on_still_reads_why_it_was_refused() {
    let app = TestApp::start().await;
    let json = "application/json";
    let body = vec![b'x'; LONG];
    for round in 0..10 {
        for (status, head) in [
            ("415", head("/api/traffic", "text/plain", LONG)),
            ("415", head("/api/traffic/1", "text/plain", LONG)),
            ("400", head("/api/traffic/x", json, LONG)),
            ("413", head("/api/traffic/1", json, LONG)),
            ("404", head("/nowhere", json, LONG)),
            ("405", head("/health", json, LONG)),
            // What follows is no chunk.
            (
                "400",
                head("/api/traffic/1", json, 0)
                    .replace("content-length: 0", "transfer-encoding: chunked"),
            ),
        ] {
            let what = format!("round {round}, {head:?}");
            let (mut reader, mut writer) = connected(&app, &head).await.into_split();
            let said = if round % 5 == 0 {
                let reading = answer(&mut reader, &what);
                let writing = async {
                    for piece in body.chunks(LONG / 16) {
                        let _ = writer.write_all(piece).await;
                        sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::join!(reading, writing).0
            } else {
                // It looks for the answer when all is sent.
                if let Err(error) = writer.write_all(&body).await {
                    panic!("{what}: {error}");
                }
                answer(&mut reader, &what).await
            };
            assert!(
                said.starts_with(&format!("HTTP/1.1 {status}")),
                "{what}: {said}"
            );
            assert!(closes(&said), "{what}: {said}");
            let rest = timeout(PATIENCE, reader.read(&mut [0])).await;
            assert_eq!(rest.expect("the service closes").unwrap(), 0, "{what}");
        }
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_has_no_connection_that_is_about_to_close() {
    let app = TestApp::start().await;
    let client = Client::new();
    let now = chrono::Utc::now().timestamp() - 1;
    for id in 0..200 {
        let length = [200 << 10, 100, 1 << 20, 60 << 10][id % 4];
        let refused = client
            .post(app.url("/api/traffic"))
            .header("content-type", "text/plain")
            .body(vec![b'x'; length]);
        let refused = refused.send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let good = client
            .post(app.url(&format!("/api/traffic/{id}")))
            .json(&view(1, now, "/a"));
        assert_eq!(good.send().await.unwrap().status(), StatusCode::CREATED);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_body_that_is_refused_keeps_the_connection() {
    let app = TestApp::start().await;
    let plain = head("/api/traffic", "text/plain", 1000);
    let mut stream = connected(&app, "").await;
    for pause in [0, 0, 20] {
        stream.write_all(plain.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(pause)).await;
        stream.write_all(&[b'x'; 1000]).await.unwrap();
        let said = answer(&mut stream, "a length").await;
        assert!(said.starts_with("HTTP/1.1 415") && !closes(&said), "{said}");
    }
    let chunked = plain.replace("content-length: 1000", "transfer-encoding: chunked");
    for chunks in ["5\r\nabcde\r\n0\r\n\r\n", "0\r\n\r\n"] {
        stream.write_all(chunked.as_bytes()).await.unwrap();
        stream.write_all(chunks.as_bytes()).await.unwrap();
        let said = answer(&mut stream, "chunks").await;
        assert!(said.starts_with("HTTP/1.1 415") && !closes(&said), "{said}");
    }
    let last = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(last).await.unwrap();
    let said = answer(&mut stream, "a request of no body").await;
    assert!(said.starts_with("HTTP/1.1 200") && !closes(&said), "{said}");

    // What does not come is not waited for.
    stream.write_all(plain.as_bytes()).await.unwrap();
    let began = Instant::now();
    let said = answer(&mut stream, "a body that does not come").await;
    assert!(said.starts_with("HTTP/1.1 415") && closes(&said), "{said}");
    assert!(began.elapsed() < Duration::from_secs(5));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_first_is_not_told_to_send_what_is_refused() {
    let app = TestApp::start().await;
    for length in [10, LONG] {
        let plain = head("/api/traffic", "text/plain", length);
        let asks = plain.replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
        let mut stream = connected(&app, &asks).await;
        let mut said = String::new();
        let ended = timeout(PATIENCE, stream.read_to_string(&mut said)).await;
        ended.expect("the service closes").unwrap();
        assert!(said.starts_with("HTTP/1.1 415") && closes(&said), "{said}");
        assert!(!said.contains("100 Continue"), "{said}");
    }
    app.stop().await;
}

/// Sends after its answer until it can't; after how long, and how many bytes.
async fn sends_on(mut stream: TcpStream, bytes: &[u8], pause: Duration) -> (Duration, usize) {
    let said = answer(&mut stream, "a dripping body").await;
    assert!(closes(&said), "{said}");
    let (began, mut sent) = (Instant::now(), 0);
    while stream.write_all(bytes).await.is_ok() {
        assert!(began.elapsed() < PATIENCE, "it is never closed");
        sent += bytes.len();
        sleep(pause).await;
    }
    (began.elapsed(), sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_on_for_ever_loses_its_connection() {
    let app = TestApp::start().await;
    let before = open(&app).await;
    let endless = head("/api/traffic", "text/plain", 1 << 40);
    let drips = connected(&app, &endless).await;
    let dripping = tokio::spawn(sends_on(drips, b"x", Duration::from_millis(50)));
    sleep(Duration::from_millis(500)).await;
    assert_eq!(open(&app).await, before + 1.0, "it keeps its place");
    let (took, _) = dripping.await.unwrap();
    let seconds = took.as_secs_f64();
    assert!((1.5..5.0).contains(&seconds), "closed after {seconds} s");
    let is_free = async {
        while open(&app).await > before {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, is_free).await.expect("its place is free");

    let flood = connected(&app, &endless).await;
    let (_, sent) = sends_on(flood, &[b'x'; 64 << 10], Duration::ZERO).await;
    // And what the kernel holds.
    assert!(sent < 40 << 20, "{sent} bytes");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stop_does_not_wait_for_who_sends_on() {
    let app = TestApp::start().await;
    let endless = head("/api/traffic", "text/plain", 1 << 40);
    let drips = connected(&app, &endless).await;
    let dripping = tokio::spawn(sends_on(drips, b"x", Duration::from_millis(20)));
    sleep(Duration::from_millis(300)).await;
    assert!(!dripping.is_finished());
    let began = Instant::now();
    let stopping = tokio::spawn(app.stop());
    dripping.await.unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_millis(1200), "{took:?}");
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_refused_singly() {
    let app = TestApp::start().await;
    let before = open(&app).await;
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    let now = chrono::Utc::now().timestamp() - 1;
    for id in 0..20 {
        let refused = client
            .post(app.url("/api/traffic"))
            .header("content-type", "text/plain")
            .body(vec![b'x'; if id % 2 == 0 { LONG } else { 100 }]);
        let refused = refused.send().await.unwrap();
        assert_eq!(refused.version(), Version::HTTP_2);
        assert_eq!(refused.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert!(!refused.headers().contains_key("connection"));
        let good = client
            .post(app.url(&format!("/api/traffic/{id}")))
            .json(&view(1, now, "/a"));
        assert_eq!(good.send().await.unwrap().status(), StatusCode::CREATED);
    }
    assert_eq!(open(&app).await, before + 1.0, "one connection for all");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_too_long_is_refused_before_it_is_sent() {
    let app = TestApp::start().await;
    let began = Instant::now();
    for method in ["POST", "PUT", "PATCH"] {
        for expect in ["", "expect: 100-continue\r\n"] {
            let head = head("/api/traffic/1", "application/json", 1_000_000_000_000);
            let head = head.replace("POST", method);
            let head = head.replace("host: ", &format!("{expect}host: "));
            let mut stream = connected(&app, &head).await;
            let said = answer(&mut stream, &head).await;
            assert!(said.starts_with("HTTP/1.1 413"), "{head}: {said}");
            assert!(closes(&said), "{head}: {said}");
        }
    }
    // Nobody waited for a byte of it.
    assert!(began.elapsed() < PATIENCE / 2);
    app.stop().await;
}
