//! The shipped nginx configuration in a real nginx, in front of real instances.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use traffic_api::domain::Stream;
use traffic_api::generate::{Shape, Times};
use uuid::Uuid;

use crate::chaos::{Load, SENDERS};
use crate::events::{event, sites};
use crate::generate::{any_port, beside, command, expected, reported, serve};
use crate::support::nginx::{self, Nginx, configure, free_address, is_missing};
use crate::support::service::{Service, run};
use crate::support::{Answer, fresh_database, rfc3339, shared_engine, view};

/// What a client has to try again after: "busy" and "try again" of an instance or of nginx.
const TEMPORARY: &[u16] = &[429, 502, 503, 504];

fn recently() -> i64 {
    chrono::Utc::now().timestamp() - 60
}

async fn answer(request: RequestBuilder) -> Answer {
    Answer::of(request.send().await.unwrap()).await
}

fn two_instances(name: &str, database: &str) -> [Service; 2] {
    let engine = shared_engine();
    [1, 2].map(|node| {
        serve(
            &format!("{name}-{node}"),
            &engine,
            database,
            any_port(),
            node,
        )
    })
}

fn certificate(directory: &std::path::Path) {
    std::fs::create_dir_all(directory.join("certs")).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.current_dir(directory).args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
        "-keyout",
        "certs/tls.key",
        "-out",
        "certs/tls.crt",
    ]);
    let (code, _, err) = run(openssl);
    assert_eq!(code, Some(0), "{err}");
}

/// What `openssl s_client` says of a handshake, or that it failed.
fn handshake(address: SocketAddr, flags: &[&str]) -> Result<String, String> {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(text),
        false => Err(text),
    }
}

#[test]
fn the_shipped_files_are_valid_and_tls_is_modern() {
    if is_missing() {
        return;
    }
    let plain = free_address();
    let directory = configure("nginx-tls", plain, &[free_address()]);
    let test = || {
        let mut command = nginx::command(&directory);
        command.arg("-t");
        run(command)
    };
    let (code, _, err) = test();
    assert_eq!(code, Some(0), "{err}");
    assert!(!err.contains("warn"), "{err}");

    certificate(&directory);
    let secure = free_address();
    let example = std::fs::read_to_string(directory.join("tls.conf.example")).unwrap();
    assert!(example.contains("listen 8443 ssl"));
    let example = example.replace("listen 8443 ssl", &format!("listen {secure} ssl"));
    std::fs::write(directory.join("conf.d/tls.conf"), example).unwrap();
    let (code, _, err) = test();
    assert_eq!(code, Some(0), "{err}");

    let _nginx = Nginx::run(directory, plain);
    let modern = handshake(secure, &["-alpn", "h2", "-tls1_3"]).unwrap();
    assert!(modern.contains("ALPN protocol: h2"), "{modern}");
    assert!(handshake(secure, &["-tls1_2"]).is_ok());
    // Also where the client's own security level would allow it.
    assert!(handshake(secure, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_see_the_service_and_problems() {
    if is_missing() {
        return;
    }
    let database = fresh_database();
    let mut instances = tokio::task::block_in_place(|| two_instances("nginx-contract", &database));
    let nginx = Nginx::start("nginx-contract", &instances.each_ref().map(|i| i.address));
    let http = Client::new();
    let post = |id: u64, body: &Value| {
        http.post(nginx.url(&format!("/api/traffic/{id}")))
            .json(body)
    };

    // One id, one instance: each conflict is seen, each repeat is welcome.
    let at = recently();
    for id in 0..40 {
        let body = view(1, at, "/a");
        let first = answer(post(id, &body)).await;
        assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
        assert_eq!(answer(post(id, &body)).await.status, StatusCode::CREATED);
        let other = answer(post(id, &view(1, at, "/b"))).await;
        assert_eq!(other.status, StatusCode::CONFLICT, "{other:?}");
        let padded = format!("/api/traffic/00{id}?x=1");
        let padded = answer(http.post(nginx.url(&padded)).json(&view(1, at, "/b"))).await;
        assert_eq!(padded.status, StatusCode::CONFLICT, "{padded:?}");
    }
    let daily = answer(http.get(nginx.url("/api/traffic/daily/1"))).await;
    assert_eq!(daily.body, json!({"/a": 40}));
    assert!(daily.header("etag").starts_with('"'), "{daily:?}");
    let page = http.get(nginx.url("/")).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);

    // Problems of nginx look like the service's.
    let padding = " ".repeat(70_000);
    let large = post(99, &Value::Null).body(format!("{padding}{}", view(1, at, "/a")));
    let large = answer(large).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE, "{large:?}");
    assert_eq!(large.header("content-type"), "application/problem+json");
    assert_eq!(large.body["type"], "/problems#body-too-large");
    assert_eq!(large.body["status"], 413);
    for hidden in ["/metrics", "/health/ready", "/=post"] {
        let hidden = answer(http.get(nginx.url(hidden))).await;
        assert_eq!(hidden.status, StatusCode::NOT_FOUND, "{hidden:?}");
        assert_eq!(hidden.body["type"], "/problems#no-such-route");
    }
    assert_eq!(
        answer(http.get(nginx.url("/health"))).await.body["status"],
        "ok"
    );
    let named = http
        .get(nginx.url("/health"))
        .header("x-request-id", "abc-1");
    let named = answer(named).await;
    assert_eq!(named.header("x-request-id"), "abc-1");
    assert_eq!(named.headers.get_all("x-request-id").iter().count(), 1);
    assert_eq!(named.header("server"), "nginx");
    let forged = http
        .get(nginx.url("/health"))
        .header("x-request-id", "a\" b");
    assert_eq!(answer(forged).await.header("x-request-id").len(), 32);
    let unknown = answer(http.request(Method::OPTIONS, nginx.url("/api/traffic"))).await;
    assert_eq!(unknown.body["type"], "/problems#method-not-allowed");

    // One connection for many requests, and no body before it is asked for.
    let mut connection = TcpStream::connect(nginx.address).unwrap();
    connection
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    for id in [200, 201] {
        let body = view(2, at, "/kept").to_string();
        let head = format!(
            "POST /api/traffic/{id} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nexpect: 100-continue\r\n\r\n",
            body.len()
        );
        connection.write_all(head.as_bytes()).unwrap();
        assert_eq!(read_head(&mut reader).0, 100);
        connection.write_all(body.as_bytes()).unwrap();
        let (status, length) = read_head(&mut reader);
        assert_eq!(status, 201);
        reader.read_exact(&mut vec![0; length]).unwrap();
    }

    // Events: as many sites in one question as the service takes, and part by part.
    let sites = sites(1_400);
    let of = |n: usize| event(sites[n], "serve", Uuid::from_u128(n as u128), at).to_string();
    let lines: Vec<String> = (0..sites.len()).map(of).collect();
    let lines = http
        .post(nginx.url("/latest/events"))
        .header("content-type", "application/x-ndjson")
        .body(lines.join("\n"));
    assert_eq!(answer(lines).await.body["stored"], 1_400);
    let named: String = sites.iter().map(|s| format!("&site_id={s}")).collect();
    let question = format!("/v1/report?limit=1000{named}");
    let first = answer(http.get(nginx.url(&question))).await;
    assert_eq!(first.status, StatusCode::OK, "{first:?}");
    let rest = format!("{question}&after={}", first.header("next-after"));
    let rest = answer(http.get(nginx.url(&rest))).await;
    assert_eq!(rest.body["counters"].as_array().unwrap().len(), 400);
    let log = nginx.log();
    let routes: Vec<_> = log
        .iter()
        .rev()
        .map(|line| &line["route"])
        .take(3)
        .collect();
    assert_eq!(routes, ["/v1/report", "/v1/report", "/v1/events"]);

    // What can't be read as HTTP is no fault of the server.
    let long = format!("GET /{} HTTP/1.1", "a".repeat(80_000));
    let header = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(80_000));
    for request in [
        "GET /%zz HTTP/1.1",
        "GET /a%00b HTTP/1.1",
        "GET /../../x HTTP/1.1",
        "garbage",
        &long,
        &header,
    ] {
        let mut connection = TcpStream::connect(nginx.address).unwrap();
        let wait = Some(Duration::from_secs(20));
        connection.set_read_timeout(wait).unwrap();
        let _ = connection.write_all(format!("{request}\r\nhost: localhost\r\n\r\n").as_bytes());
        let mut answer = String::new();
        let _ = connection.read_to_string(&mut answer);
        let shown = &request[..request.len().min(30)];
        assert!(answer.starts_with("HTTP/1.1 400 "), "{shown}: {answer}");
        assert!(
            answer.contains("\r\nContent-Type: application/problem+json\r\n"),
            "{shown}: {answer}"
        );
        assert!(answer.contains("\"status\":400"), "{shown}: {answer}");
    }

    // Nobody there.
    for instance in &mut instances {
        instance.kill();
    }
    for path in ["/api/traffic/daily/1", "/api/traffic/1", "/"] {
        let gone = answer(http.get(nginx.url(path))).await;
        assert_eq!(gone.status, StatusCode::BAD_GATEWAY, "{gone:?}");
        assert_eq!(gone.header("content-type"), "application/problem+json");
        assert_eq!(gone.header("retry-after"), "2");
        assert_eq!(gone.body["status"], 502);
    }
    let log = nginx.log();
    assert!(log.len() > 100);
    let text = std::fs::read_to_string(nginx.directory.join("access.log")).unwrap();
    for word in ["127.0.0.1\"", "daily/1", "x=1", "kept", "traffic/20"] {
        assert!(!text.contains(word), "{word} in the log");
    }
    for instance in &instances {
        let its = |line: &&Value| line["upstream"] == instance.address.to_string();
        assert!(
            log.iter().filter(its).count() > 10,
            "the load is not shared"
        );
    }
}

/// The status of an answer and the length of its body.
fn read_head(reader: &mut impl BufRead) -> (u16, usize) {
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_lowercase();
        if line.is_empty() {
            return (status, length);
        }
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest[..3].parse().unwrap();
        }
        if let Some(rest) = line.strip_prefix("content-length: ") {
            length = rest.parse().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_dies_under_load_costs_nothing_that_was_acknowledged() {
    if is_missing() {
        return;
    }
    let (engine, database) = (shared_engine(), fresh_database());
    let [mut one, mut two] =
        tokio::task::block_in_place(|| two_instances("nginx-failover", &database));
    let nginx = Nginx::start("nginx-failover", &[one.address, two.address]);
    let load = Arc::new(Load::new(nginx.address, TEMPORARY, false));
    let senders = (0..SENDERS).map(|n| tokio::spawn(Arc::clone(&load).send(n, Stream::PageViews)));
    let senders: Vec<_> = senders.collect();
    // Batches and their updates besides, of users that the single posts don't have.
    let until = u32::try_from(recently()).unwrap();
    let shape = Shape {
        seed: 3,
        views: 8000,
        users: 60,
        pages: 40,
        duplicates: 0.1,
        updates: 0.02,
        times: Times::Daily(until - 86_400, until),
    };
    let mut batches = command("nginx-failover-client", &shape);
    batches.args([
        &format!("--to=http://{}", nginx.address),
        "--updates=0.02",
        "--batch-size=200",
        "--rate=1000",
        "--connections=4",
    ]);
    let batches = tokio::spawn(beside(batches));

    tokio::time::sleep(Duration::from_millis(1500)).await;
    one.kill();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut one = tokio::task::block_in_place(|| {
        serve("nginx-failover-1", &engine, &database, one.address, 1)
    });
    // As a new version is rolled out: once nginx uses the first again.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(tokio::task::block_in_place(|| two.terminate()).success());
    let mut two = tokio::task::block_in_place(|| {
        serve("nginx-failover-2", &engine, &database, two.address, 2)
    });
    let (code, out, err) = batches.await.unwrap();
    println!("{out}{err}");
    assert_eq!(code, Some(0), "{out}{err}");
    load.stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await.unwrap();
    }
    // Nothing was spooled, or it has arrived.
    for instance in [&one, &two] {
        for _ in 0..200 {
            let ready = answer(Client::new().get(instance.url("/health/ready"))).await;
            if ready.body["spool"]["files"] == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let acknowledged = load.verify("killed and rolled").await;
    assert!(acknowledged[0] > 100, "too little load to prove anything");
    let (mut found, mut expected) = (reported(nginx.address, &shape).await, expected(&shape));
    for counts in [&mut found, &mut expected] {
        counts.retain(|(user, ..), _| *user > 3);
    }
    assert_eq!(found, expected);
    // Views whose instance was killed or stopped went to the other one.
    let log = nginx.log();
    let twice = log.iter().filter(|line| {
        let upstream = line["upstream"].as_str().unwrap_or_default();
        upstream.contains(", ") && line["status"] == 201
    });
    println!("{} posts were taken by the second instance", twice.count());
    for instance in [&mut one, &mut two] {
        assert!(tokio::task::block_in_place(|| instance.terminate()).success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_any_length_passes_through_without_being_kept() {
    if is_missing() {
        return;
    }
    const LINES: usize = 3400;
    const LINE_BYTES: usize = 60_000;
    let database = fresh_database();
    let service = tokio::task::block_in_place(|| {
        serve("nginx-stream", &shared_engine(), &database, any_port(), 1)
    });
    let nginx = Nginx::start("nginx-stream", &[service.address]);
    let service_before = nginx::peak_memory_kib(service.pid());
    let (at, padding) = (rfc3339(recently()), " ".repeat(LINE_BYTES));
    let lines = (0..LINES).map(move |id| {
        let line = format!(
            r#"{{"request_id": {id},{padding} "user_id": 1, "created_at": "{at}", "page_url": "/"}}"#
        );
        Ok::<_, std::io::Error>(Bytes::from(line + "\n"))
    });
    let body = reqwest::Body::wrap_stream(stream::iter(lines));
    let request = Client::new()
        .post(nginx.url("/api/traffic"))
        .header("content-type", "application/x-ndjson")
        .body(body);
    let sent = tokio::spawn(answer(request));
    let mut temporary = 0;
    while !sent.is_finished() {
        temporary = temporary.max(nginx.temporary_bytes());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let receipt = sent.await.unwrap();
    assert_eq!(receipt.status, StatusCode::OK, "{receipt:?}");
    assert_eq!(receipt.body["accepted"], LINES, "{receipt:?}");
    let service_grew = nginx::peak_memory_kib(service.pid()) - service_before;
    let worker = nginx.peak_memory_kib();
    println!(
        "{} MB: nginx had at most {worker} KiB, the service grew by {service_grew} KiB",
        LINES * LINE_BYTES / 1_000_000
    );
    assert_eq!(temporary, 0, "nginx wrote the body to a file");
    assert!(worker < 40_000, "nginx took {worker} KiB");
    assert!(
        service_grew < 60_000,
        "the service grew by {service_grew} KiB"
    );
}
