//! Clients that are slow, silent, too many or hostile, over raw sockets.

use std::time::{Duration, Instant};

use axum::http::Version;
use reqwest::{Method, StatusCode};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use traffic_api::domain::Clock;

use crate::support::{TestApp, TestClock, fresh_database, shared_engine, view};

const PATIENCE: Duration = Duration::from_secs(20);

async fn app_with(flags: &[&str]) -> TestApp {
    TestApp::start_with(&shared_engine(), &fresh_database(), Clock::system(), flags).await
}

async fn connect(app: &TestApp) -> TcpStream {
    let stream = TcpStream::connect(app.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn connected(app: &TestApp, sent: &[u8]) -> TcpStream {
    let mut stream = connect(app).await;
    stream.write_all(sent).await.unwrap();
    stream
}

/// All that comes until the service closes, and how long that takes.
async fn until_closed(mut stream: TcpStream) -> (String, Duration) {
    let (began, mut answer) = (Instant::now(), Vec::new());
    // A reset is an end, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the service closes");
    (
        String::from_utf8_lossy(&answer).into_owned(),
        began.elapsed(),
    )
}

/// Sends `byte` ten times a second until the service closes; what it said, and after how long.
async fn drip(stream: TcpStream, byte: &'static [u8]) -> (String, Duration) {
    let (mut reader, mut writer) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while writer.write_all(byte).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    let (began, mut answer) = (Instant::now(), Vec::new());
    let _ = timeout(PATIENCE, reader.read_to_end(&mut answer))
        .await
        .expect("the service closes");
    dripping.abort();
    (
        String::from_utf8_lossy(&answer).into_owned(),
        began.elapsed(),
    )
}

fn assert_about(seconds: f64, took: Duration, what: &str) {
    let took = took.as_secs_f64();
    // Other tests have the machine, too.
    assert!(
        (seconds - 0.2..seconds + 3.0).contains(&took),
        "{what}: closed after {took} s"
    );
}

/// One answer to a GET over a connection that stays open.
async fn get(stream: &mut TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 64 << 10];
    let length = timeout(PATIENCE, stream.read(&mut answer)).await;
    String::from_utf8_lossy(&answer[..length.unwrap().unwrap()]).into_owned()
}

async fn metric(app: &TestApp, line: &str) -> f64 {
    let text = app.request(Method::GET, "/metrics").send().await.unwrap();
    let text = text.text().await.unwrap();
    let value = text.lines().find_map(|found| found.strip_prefix(line));
    value.map_or(0.0, |value| value.trim().parse().unwrap())
}

async fn closed(app: &TestApp, reason: &str) -> f64 {
    let line = format!("traffic_http_connections_closed_total{{reason=\"{reason}\"}}");
    metric(app, &line).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_nothing_or_never_ends_a_head_is_closed() {
    let app = app_with(&["--header-timeout-secs=1", "--idle-timeout-secs=60"]).await;
    let silent = until_closed(connect(&app).await);
    let half_a_line = until_closed(connected(&app, b"GET /hea").await);
    let half_a_preface = until_closed(connected(&app, b"PRI * HTTP/2.0\r\n").await);
    let no_stream = until_closed(
        connected(
            &app,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        )
        .await,
    );
    let dripping = drip(
        connected(&app, b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: ").await,
        b"a",
    );
    let second_head = async {
        let mut stream = connect(&app).await;
        assert!(
            get(&mut stream, "/health")
                .await
                .starts_with("HTTP/1.1 200")
        );
        // Within the time for idling.
        sleep(Duration::from_millis(1500)).await;
        drip(stream, b"G").await
    };
    let (silent, half_a_line, half_a_preface, no_stream, dripping, second_head) = tokio::join!(
        silent,
        half_a_line,
        half_a_preface,
        no_stream,
        dripping,
        second_head
    );
    for (what, (answer, took)) in [
        ("nothing", silent),
        ("half a line", half_a_line),
        ("half a preface", half_a_preface),
        ("a dripping head", dripping),
        ("a dripping second head", second_head),
    ] {
        assert_about(1.0, took, what);
        assert_eq!(answer, "", "{what}");
    }
    assert_about(1.0, no_stream.1, "HTTP/2 without a stream");
    assert_eq!(closed(&app, "slow_head").await, 6.0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_idle_for_so_long() {
    let app = app_with(&["--header-timeout-secs=1", "--idle-timeout-secs=3"]).await;
    let mut stream = connect(&app).await;
    for _ in 0..2 {
        assert!(
            get(&mut stream, "/health")
                .await
                .starts_with("HTTP/1.1 200")
        );
        // Longer than a head may take.
        sleep(Duration::from_millis(1800)).await;
    }
    assert!(
        get(&mut stream, "/health")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let (answer, took) = until_closed(stream).await;
    assert_eq!(answer, "");
    assert_about(3.0, took, "an idle connection");
    assert_eq!(closed(&app, "idle").await, 1.0);
    assert_eq!(closed(&app, "slow_head").await, 0.0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused() {
    let app = TestApp::start().await;
    let large = format!("GET /health HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(200_000));
    let many = format!("GET /health HTTP/1.1\r\n{}\r\n", "x: a\r\n".repeat(150));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(200_000));
    for (what, head, status) in [
        ("a large field", large, "431"),
        ("many fields", many, "431"),
        ("a long path", long, "4"),
        ("no HTTP", "\x16\x03\x01 hello\r\n\r\n".to_owned(), "400"),
    ] {
        let (answer, _) = until_closed(connected(&app, head.as_bytes()).await).await;
        let start = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&start), "{what}: {answer:?}");
    }
    // As large as it may well be.
    let mut stream = connected(
        &app,
        format!(
            "GET /health HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n",
            "a".repeat(30_000)
        )
        .as_bytes(),
    )
    .await;
    stream.write_all(b"\r\n").await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_cut_off_and_a_slow_one_is_not() {
    let clock = TestClock::frozen();
    let (engine, database) = (shared_engine(), fresh_database());
    let flags = ["--body-timeout-secs=2"];
    let app = TestApp::start_with(&engine, &database, clock.behind(0), &flags).await;
    let head = |path: &str, content_type: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\n\
             transfer-encoding: chunked\r\n\r\n"
        )
    };
    let json = "application/json";
    let lines = "application/x-ndjson";
    let single = connected(&app, head("/api/traffic/1", json).as_bytes()).await;
    let batch = connected(&app, head("/api/traffic", lines).as_bytes()).await;
    let events = connected(&app, head("/v1/events", json).as_bytes()).await;
    let paused = async {
        let line = view(7, clock.now(), "/kept").to_string();
        let line = line.replacen('{', "{\"request_id\": 70, ", 1);
        let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
        let mut stream = connected(&app, head("/api/traffic", lines).as_bytes()).await;
        stream.write_all(chunk.as_bytes()).await.unwrap();
        until_closed(stream).await
    };
    // 1,500 bytes a second, for longer than a pause may take.
    let slow = async {
        let mut stream = connected(&app, head("/api/traffic", lines).as_bytes()).await;
        for id in 0..40 {
            let url = format!("/slow/{}", "a".repeat(60));
            let line = view(8, clock.now(), &url).to_string();
            let line = line.replacen('{', &format!("{{\"request_id\": {id}, "), 1);
            let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
            stream.write_all(chunk.as_bytes()).await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    let chunk = b"1\r\n \r\n";
    let (single, batch, events, paused, slow) = tokio::join!(
        drip(single, chunk),
        drip(batch, chunk),
        drip(events, chunk),
        paused,
        slow
    );
    for (what, (answer, took)) in [
        ("a single view", single),
        ("a batch", batch),
        ("an event", events),
        ("a batch that pauses", paused),
    ] {
        assert!(answer.starts_with("HTTP/1.1 408"), "{what}: {answer}");
        assert!(
            answer.contains("/problems#body-too-slow"),
            "{what}: {answer}"
        );
        let most = Duration::from_secs(8);
        assert!(took > Duration::from_millis(1800) && took < most, "{what}");
    }
    assert!(slow.starts_with("HTTP/1.1 200"), "{slow}");
    assert!(slow.contains("\"accepted\":40"), "{slow}");
    // What came before the pause is kept.
    assert_eq!(app.daily(7).await, json!({"/kept": 1}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_is_closed() {
    let app = app_with(&["--write-timeout-secs=2", "--idle-timeout-secs=60"]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(app.address()).await.unwrap();
    let requests = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1000);
    let mut sent = 0;
    let began = Instant::now();
    let took = loop {
        assert!(began.elapsed() < PATIENCE, "it is never closed");
        match stream.try_write(&requests[sent % requests.len()..]) {
            Ok(bytes) => sent += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(_) => break began.elapsed(),
        }
    };
    assert_about(2.0, took, "a client that never reads");
    assert_eq!(closed(&app, "slow_reader").await, 1.0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_so_many_connections() {
    let app = app_with(&["--max-connections-per-address=3"]).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(&app).await;
        assert!(
            get(&mut stream, "/health")
                .await
                .starts_with("HTTP/1.1 200")
        );
        kept.push(stream);
    }
    let (answer, took) = until_closed(connect(&app).await).await;
    assert_eq!(answer, "");
    assert!(took < Duration::from_secs(2), "{took:?}");
    drop(kept.pop());
    let mut again = String::new();
    for _ in 0..100 {
        sleep(Duration::from_millis(20)).await;
        let mut stream = connect(&app).await;
        let request = b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n";
        let _ = stream.write_all(request).await;
        again = until_closed(stream).await.0;
        if !again.is_empty() {
            break;
        }
    }
    assert!(again.contains("{reason=\"address_limit\"}"), "{again}");
    drop(kept);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_proxies_have_as_many_as_they_like() {
    let flags = [
        "--max-connections-per-address=1",
        "--trusted-proxies=127.0.0.0/8",
    ];
    let app = app_with(&flags).await;
    let mut kept = Vec::new();
    for _ in 0..10 {
        let mut stream = connect(&app).await;
        assert!(
            get(&mut stream, "/health")
                .await
                .starts_with("HTTP/1.1 200")
        );
        kept.push(stream);
    }
    drop(kept);
    app.stop().await;
}

/// Both ends of each connection are in this process.
fn allow_open_files(number: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < number) {
        limit.current = limit
            .maximum
            .map_or(Some(number), |most| Some(most.min(number)));
        setrlimit(Resource::Nofile, limit).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_idle_connections_do_no_harm() {
    const IDLE: usize = 2000;
    allow_open_files(3 * IDLE as u64);
    let app = TestApp::start().await;
    let mut idle = Vec::with_capacity(IDLE);
    for i in 0..IDLE {
        let begins: &[u8] = if i % 2 == 0 { b"" } else { b"POST /api/tra" };
        idle.push(connected(&app, begins).await);
    }
    let now = chrono::Utc::now().timestamp() - 1;
    for id in 0..200 {
        let answer = app.post(id, &view(9, now, "/a")).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    }
    // The kernel says yes before the service has looked.
    let all_are_taken = async {
        while metric(&app, "traffic_http_connections ").await < IDLE as f64 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, all_are_taken)
        .await
        .expect("all are taken");
    assert_eq!(app.daily(9).await, json!({"/a": 200}));
    drop(idle);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_with_prior_knowledge() {
    let app = TestApp::start().await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let now = chrono::Utc::now().timestamp() - 1;
    let posts = (0..300_u64).map(|id| {
        let post = client
            .post(app.url(&format!("/api/traffic/{id}")))
            .json(&view(11, now, "/h2"));
        async move {
            let answer = post.send().await.unwrap();
            assert_eq!(answer.version(), Version::HTTP_2);
            assert_eq!(answer.status(), StatusCode::CREATED);
        }
    });
    futures_util::future::join_all(posts).await;
    // More than the windows of a stream and of the connection.
    let line = view(12, now, &format!("/{}", "b".repeat(1000))).to_string();
    let lines: Vec<String> = (1000..3000)
        .map(|id| line.replacen('{', &format!("{{\"request_id\": {id}, "), 1))
        .collect();
    let batch = client
        .post(app.url("/api/traffic"))
        .header("content-type", "application/x-ndjson")
        .body(lines.join("\n"));
    let receipt: serde_json::Value = batch.send().await.unwrap().json().await.unwrap();
    assert_eq!(receipt["accepted"], 2000);
    let document = client.get(app.url("/openapi.json")).send().await.unwrap();
    let document = document.bytes().await.unwrap();
    assert!(document.ends_with(b"}"), "{}", document.len());
    // The same port still speaks HTTP/1.1, and it is one count.
    assert_eq!(app.daily(11).await, json!({"/h2": 300}));
    app.stop().await;
}

/// HTTP/2 by hand (RFC 9113), to do what no library does.
mod frames {
    use super::*;

    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;

    pub struct Frame {
        pub kind: u8,
        pub flags: u8,
        pub stream: u32,
        pub payload: Vec<u8>,
    }

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// The preface, and settings of ours.
    pub fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
        let settings = settings.iter().flat_map(|(name, value)| {
            let name = name.to_be_bytes().into_iter();
            name.chain(value.to_be_bytes()).collect::<Vec<_>>()
        });
        let settings: Vec<u8> = settings.collect();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &settings));
        bytes
    }

    /// A head of the static table's fields (RFC 7541): its method by index, its path as it is.
    pub fn head(method: u8, path: &str) -> Vec<u8> {
        let mut block = vec![method, 0x86, 0x04, path.len() as u8];
        block.extend(path.as_bytes());
        // :authority
        block.extend(b"\x01\x09localhost");
        block
    }
    pub const GET: u8 = 0x82;
    pub const POST: u8 = 0x83;

    /// The next frame; none when the connection has ended.
    pub async fn read(stream: &mut TcpStream) -> Option<Frame> {
        let mut head = [0; 9];
        let read = timeout(PATIENCE, stream.read_exact(&mut head));
        read.await.expect("a frame or an end").ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..].try_into().unwrap()),
            payload,
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_has_so_many_streams_and_says_so() {
    let app = TestApp::start().await;
    let mut stream = connected(&app, &frames::preface(&[])).await;
    let settings = frames::read(&mut stream).await.unwrap();
    assert_eq!((settings.kind, settings.flags), (frames::SETTINGS, 0));
    let announced: Vec<(u16, u32)> = settings
        .payload
        .chunks(6)
        .map(|setting| {
            let name = u16::from_be_bytes(setting[..2].try_into().unwrap());
            (name, u32::from_be_bytes(setting[2..].try_into().unwrap()))
        })
        .collect();
    // SETTINGS_MAX_CONCURRENT_STREAMS, SETTINGS_MAX_HEADER_LIST_SIZE.
    assert!(announced.contains(&(3, 100)), "{announced:?}");
    assert!(announced.contains(&(6, 72 << 10)), "{announced:?}");

    stream
        .write_all(&frames::frame(frames::SETTINGS, 1, 0, &[]))
        .await
        .unwrap();
    // Bodies that don't come: each stream stays open.
    let mut block = frames::head(frames::POST, "/api/traffic/1");
    // content-type, by its name in the static table.
    block.extend(b"\x0f\x10\x10application/json");
    for number in 0..101_u32 {
        let head = frames::frame(frames::HEADERS, frames::END_HEADERS, 2 * number + 1, &block);
        stream.write_all(&head).await.unwrap();
    }
    let refused = loop {
        let frame = frames::read(&mut stream).await.expect("an answer");
        if frame.kind == frames::RST_STREAM {
            break frame;
        }
    };
    // REFUSED_STREAM.
    assert_eq!((refused.stream, refused.payload), (201, vec![0, 0, 0, 7]));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_streams_to_give_them_up_is_sent_away() {
    let app = TestApp::start().await;
    let mut stream = connected(&app, &frames::preface(&[])).await;
    let block = frames::head(frames::GET, "/health");
    let flags = frames::END_HEADERS | frames::END_STREAM;
    let mut flood = Vec::new();
    for number in 0..2000_u32 {
        let id = 2 * number + 1;
        flood.extend(frames::frame(frames::HEADERS, flags, id, &block));
        flood.extend(frames::frame(frames::RST_STREAM, 0, id, &[0, 0, 0, 8]));
    }
    // It may be gone before all is sent.
    let _ = stream.write_all(&flood).await;
    let mut sent_away = None;
    while let Some(frame) = frames::read(&mut stream).await {
        if frame.kind == frames::GOAWAY {
            sent_away = Some(frame.payload[4..8].to_vec());
        }
    }
    // ENHANCE_YOUR_CALM.
    assert_eq!(sent_away, Some(vec![0, 0, 0, 11]));
    assert_eq!(app.get("/health").await.status, StatusCode::OK);
    app.stop().await;
}

/// A client that asks for a long answer, of which each stream may send so many bytes
/// (SETTINGS_INITIAL_WINDOW_SIZE).
async fn asked_within_window(app: &TestApp, window: u32) -> TcpStream {
    let mut stream = connected(app, &frames::preface(&[(4, window)])).await;
    let block = frames::head(frames::GET, "/openapi.json");
    let flags = frames::END_HEADERS | frames::END_STREAM;
    let head = frames::frame(frames::HEADERS, flags, 1, &block);
    stream.write_all(&head).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn who_grants_no_window_is_closed() {
    let app = app_with(&["--write-timeout-secs=2", "--idle-timeout-secs=60"]).await;
    let mut stream = asked_within_window(&app, 0).await;
    let began = Instant::now();
    let mut answered = false;
    while let Some(frame) = frames::read(&mut stream).await {
        answered |= frame.kind == frames::HEADERS;
    }
    assert!(answered, "the head of an answer needs no window");
    assert_about(2.0, began.elapsed(), "a client without a window");
    assert_eq!(closed(&app, "slow_reader").await, 1.0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_grants_a_window_of_one_byte_is_closed() {
    let app = app_with(&["--write-timeout-secs=2", "--idle-timeout-secs=60"]).await;
    let mut stream = asked_within_window(&app, 1).await;
    let began = Instant::now();
    let mut bytes = 0;
    while let Some(frame) = frames::read(&mut stream).await {
        if frame.kind == frames::DATA {
            bytes += frame.payload.len();
        }
    }
    assert_eq!(bytes, 1);
    assert_about(2.0, began.elapsed(), "a client with a window of one byte");
    assert_eq!(closed(&app, "slow_reader").await, 1.0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_left_lying_is_not_kept_by_others() {
    let app = app_with(&["--write-timeout-secs=2", "--idle-timeout-secs=60"]).await;
    let mut stream = connected(&app, &frames::preface(&[(4, 0)])).await;
    let flags = frames::END_HEADERS | frames::END_STREAM;
    let block = frames::head(frames::GET, "/openapi.json");
    let left_lying = frames::frame(frames::HEADERS, flags, 1, &block);
    stream.write_all(&left_lying).await.unwrap();
    let began = Instant::now();
    let (mut reader, mut writer) = stream.into_split();
    let busy = tokio::spawn(async move {
        let block = frames::head(frames::GET, "/health");
        for id in (3_u32..).step_by(2) {
            let mut call = frames::frame(frames::HEADERS, flags, id, &block);
            let room = (1_u32 << 20).to_be_bytes();
            call.extend(frames::frame(frames::WINDOW_UPDATE, 0, id, &room));
            if writer.write_all(&call).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    });
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, reader.read_to_end(&mut answer)).await;
    let _ = ended.expect("the service closes");
    let took = began.elapsed();
    // The others are served until they have been told to go elsewhere.
    assert_about(3.0, took, "a client that leaves one answer lying");
    let goaway = [frames::GOAWAY, 0, 0, 0, 0, 0];
    assert!(answer.windows(6).any(|window| window == goaway));
    busy.abort();
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stop_does_not_wait_for_slow_clients() {
    let app = app_with(&["--header-timeout-secs=60", "--idle-timeout-secs=60"]).await;
    let silent = connect(&app).await;
    let half = connected(&app, b"GET /hea").await;
    let mut idle = connect(&app).await;
    assert!(get(&mut idle, "/health").await.starts_with("HTTP/1.1 200"));
    let began = Instant::now();
    app.stop().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    drop((silent, half, idle));
}
