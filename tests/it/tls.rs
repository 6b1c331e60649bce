//! TLS of the service's own, and towards ClickHouse.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Version};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use traffic_api::{config::Cli, domain::Clock, tls};

use crate::support::service::{Service, run, signal};
use crate::support::{ClickHouse, TestApp, directory, fresh_database, shared_engine, view};

/// An authority, which certifies 127.0.0.1 as often as wanted.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    fn new(name: &str) -> Self {
        let directory = directory(name);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Of the same name it would be taken for the other, with a wrong signature.
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.join("ca.pem"), certificate.pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            directory,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Writes `name`.pem and `name`.key; the text of the key.
    fn certify(&self, name: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
        key.serialize_pem()
    }

    /// The service with the certificate `name`.
    fn command(&self, name: &str, data_dir: &Path) -> Command {
        let mut command = Service::command(data_dir);
        let clickhouse = shared_engine();
        command
            .env("CLICKHOUSE_URL", &clickhouse.url)
            .env("CLICKHOUSE_USER", &clickhouse.user)
            .env("CLICKHOUSE_PASSWORD", &clickhouse.password)
            .env("CLICKHOUSE_DATABASE", fresh_database())
            .env("TLS_CERT_FILE", self.file(&format!("{name}.pem")))
            .env("TLS_KEY_FILE", self.file(&format!("{name}.key")));
        command
    }

    /// A client that believes this authority.
    fn client(&self, protocols: &[&str]) -> tokio_rustls::rustls::ClientConfig {
        let mut config = tls::client(Some(&self.file("ca.pem"))).unwrap();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        config
    }

    async fn send(&self, http_2: bool, request: Request<Body>) -> (Version, StatusCode, String) {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(self.client(&[]))
            .https_only();
        let connector = match http_2 {
            true => connector.enable_http2().build(),
            false => connector.enable_http1().build(),
        };
        let client = Client::builder(TokioExecutor::new())
            .http2_only(http_2)
            .build::<_, Body>(connector);
        let answer = client.request(request).await.unwrap();
        let (version, status) = (answer.version(), answer.status());
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (version, status, String::from_utf8(body.to_vec()).unwrap())
    }
}

async fn connect(address: std::net::SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_are_spoken_over_tls() {
    let authority = Authority::new("tls-http");
    authority.certify("own");
    let flags = [
        format!("--tls-cert-file={}", authority.text("own.pem")),
        format!("--tls-key-file={}", authority.text("own.key")),
        "--header-timeout-secs=1".to_owned(),
    ];
    let flags = flags.each_ref().map(String::as_str);
    let (engine, database) = (shared_engine(), fresh_database());
    let app = TestApp::start_with(&engine, &database, Clock::system(), &flags).await;
    let address = app.address();
    let now = chrono::Utc::now().timestamp() - 1;
    for (http_2, version) in [(false, Version::HTTP_11), (true, Version::HTTP_2)] {
        let id = u8::from(http_2);
        let post = Request::post(format!("https://{address}/api/traffic/{id}"))
            .header("content-type", "application/json")
            .body(Body::from(view(5, now, "/tls").to_string()));
        let (spoken, status, answer) = authority.send(http_2, post.unwrap()).await;
        assert_eq!((spoken, status), (version, StatusCode::CREATED), "{answer}");
    }
    let get = Request::get(format!("https://{address}/api/traffic/daily/5"));
    let (_, _, answer) = authority.send(true, get.body(Body::empty()).unwrap()).await;
    let report: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(report, json!({"/tls": 2}));

    // What is offered decides, HTTP/2 first.
    let name = ServerName::from(address.ip());
    for (offered, chosen) in [
        (&["http/1.1", "h2"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let connector = TlsConnector::from(Arc::new(authority.client(offered)));
        let stream = connector
            .connect(name.clone(), connect(address).await)
            .await;
        assert_eq!(stream.unwrap().get_ref().1.alpn_protocol(), chosen);
    }
    // Whoever does not know the authority does not talk to it.
    let stranger = Authority::new("tls-http-stranger");
    let connector = TlsConnector::from(Arc::new(stranger.client(&[])));
    let refused = connector
        .connect(name.clone(), connect(address).await)
        .await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    // Nobody waits for a handshake for ever, nor for a request after it.
    let mut silent = connect(address).await;
    let connector = TlsConnector::from(Arc::new(authority.client(&[])));
    let mut shaken = connector
        .connect(name, connect(address).await)
        .await
        .unwrap();
    let began = std::time::Instant::now();
    let patience = Duration::from_secs(10);
    let (mut rest, mut more) = (Vec::new(), Vec::new());
    let ended = tokio::time::timeout(patience, async {
        tokio::join!(silent.read_to_end(&mut rest), shaken.read_to_end(&mut more))
    });
    let _ = ended.await.expect("both are closed");
    assert!(began.elapsed() > Duration::from_millis(800));
    // Plain HTTP gets no answer, and does no harm.
    let plain = reqwest::get(format!("http://{address}/health")).await;
    assert!(plain.is_err());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_on_over_tls_still_reads_why_it_was_refused() {
    const LONG: usize = 8 << 20;
    let authority = Authority::new("tls-refused");
    authority.certify("own");
    let flags = [
        format!("--tls-cert-file={}", authority.text("own.pem")),
        format!("--tls-key-file={}", authority.text("own.key")),
    ];
    let flags = flags.each_ref().map(String::as_str);
    let (engine, database) = (shared_engine(), fresh_database());
    let app = TestApp::start_with(&engine, &database, Clock::system(), &flags).await;
    let connector = TlsConnector::from(Arc::new(authority.client(&[])));
    let mut request = format!(
        "POST /api/traffic HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n\
         content-length: {LONG}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + LONG, b'x');
    for round in 0..10 {
        let socket = connect(app.address()).await;
        let name = ServerName::from(app.address().ip());
        let mut stream = connector.connect(name, socket).await.unwrap();
        let written = stream.write_all(&request).await;
        written.unwrap_or_else(|error| panic!("round {round}: {error}"));
        let mut answer = String::new();
        // To the end that TLS says itself.
        let ended = stream.read_to_string(&mut answer).await;
        ended.unwrap_or_else(|error| panic!("round {round}: {error} after {answer}"));
        assert!(answer.starts_with("HTTP/1.1 415"), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.ends_with('}'), "{answer}");
    }
    app.stop().await;
}

#[test]
fn a_certificate_is_replaced_without_a_restart() {
    let authority = Authority::new("tls-reload");
    let key = authority.certify("own");
    let data = directory("tls-reload-data");
    let log = data.join("log");
    let mut command = authority.command("own", &data);
    command.env("LOG_LEVEL", "trace");
    let mut service = Service::spawn_with_json_log(command, &log);

    // The health check of a container still works.
    let mut probe = authority.command("own", &data);
    probe.env("LISTEN_ADDR", service.address.to_string());
    probe.args(["probe", "--ready"]);
    let (code, output, error) = run(probe);
    assert_eq!(code, Some(0), "{output}{error}");

    let first = served(&authority, service.address);
    let said = |what: &str, times: usize| {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while std::fs::read_to_string(&log).unwrap().matches(what).count() < times {
            assert!(std::time::Instant::now() < deadline, "nothing of {what:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let newer = authority.certify("own");
    signal(service.pid(), "HUP");
    said("certificate read again", 1);
    let second = served(&authority, service.address);
    assert_ne!(first, second);

    // A key of another, and half a file: what is in force stays.
    authority.certify("other");
    std::fs::copy(authority.file("other.key"), authority.file("own.key")).unwrap();
    signal(service.pid(), "HUP");
    said("certificate not read again", 1);
    assert_eq!(served(&authority, service.address), second);
    std::fs::write(
        authority.file("own.pem"),
        "-----BEGIN CERTIFICATE-----\nMII",
    )
    .unwrap();
    signal(service.pid(), "HUP");
    said("certificate not read again", 2);
    assert_eq!(served(&authority, service.address), second);

    assert!(service.terminate().success());
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("not that of the first certificate"), "{log}");
    for key in [key, newer] {
        for line in key.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!log.contains(line), "the key is in the log");
        }
    }
}

/// The certificate that a connection gets.
fn served(authority: &Authority, address: std::net::SocketAddr) -> Vec<u8> {
    let config = Arc::new(authority.client(&[]));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connector = TlsConnector::from(config);
        let name = ServerName::from(address.ip());
        let stream = connector.connect(name, connect(address).await).await;
        let stream = stream.unwrap();
        let (_, connection) = stream.get_ref();
        connection.peer_certificates().unwrap()[0].to_vec()
    })
}

#[test]
fn a_bad_certificate_stops_the_start_and_says_why() {
    let authority = Authority::new("tls-bad");
    authority.certify("own");
    let key = authority.certify("other");
    std::fs::write(authority.file("none.pem"), "nothing in here\n").unwrap();
    std::fs::write(authority.file("none.key"), "nothing in here\n").unwrap();
    let data = directory("tls-bad-data");
    for (certificate, secret, why) in [
        (
            "missing.pem",
            "own.key",
            "missing.pem can't be read: No such file",
        ),
        (
            "own.pem",
            "missing.key",
            "missing.key can't be read: No such file",
        ),
        ("none.pem", "own.key", "none.pem has no certificate in PEM"),
        ("own.pem", "none.key", "none.key has no private key in PEM"),
        ("own.key", "own.key", "own.key has no certificate in PEM"),
        ("own.pem", "own.pem", "own.pem has no private key in PEM"),
        (
            "own.pem",
            "other.key",
            "is not that of the first certificate",
        ),
    ] {
        let mut command = authority.command("own", &data);
        command
            .env("TLS_CERT_FILE", authority.file(certificate))
            .env("TLS_KEY_FILE", authority.file(secret));
        let (code, _, error) = run(command);
        assert_eq!(code, Some(1), "{error}");
        let line = error.lines().last().unwrap();
        assert!(
            line.contains("TLS_CERT_FILE") && line.contains(why),
            "{error}"
        );
        let secret = key.lines().nth(1).unwrap();
        assert!(!error.contains(secret), "{error}");
    }
    let open = tls::Certificate::open(authority.file("own.pem"), authority.file("own.key"));
    let shown = format!("{:?}", open.unwrap());
    assert!(shown.ends_with(".key\", .. }"), "{shown}");
}

/// The shared engine behind TLS. This kind of engine listens for TCP and HTTP only, so its TLS ends here.
async fn engine_behind_tls(authority: &Authority) -> ClickHouse {
    authority.certify("engine");
    let certificate =
        tls::Certificate::open(authority.file("engine.pem"), authority.file("engine.key"));
    let acceptor = TlsAcceptor::from(certificate.unwrap().config());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let clickhouse = shared_engine();
    let engine = clickhouse.url.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (acceptor, engine) = (acceptor.clone(), engine.clone());
            tokio::spawn(async move {
                // Whoever does not believe us goes away again.
                if let Ok(mut outside) = acceptor.accept(socket).await {
                    let mut inside = TcpStream::connect(engine).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                }
            });
        }
    });
    ClickHouse {
        url: format!("https://{address}"),
        ..clickhouse
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_is_reached_over_tls_by_those_who_believe_it() {
    let authority = Authority::new("tls-clickhouse");
    let clickhouse = engine_behind_tls(&authority).await;
    let trusting = format!("--clickhouse-ca-file={}", authority.text("ca.pem"));
    let database = fresh_database();
    let app = TestApp::start_with(&clickhouse, &database, Clock::system(), &[&trusting]).await;
    let now = chrono::Utc::now().timestamp() - 1;
    let answer = app.post(1, &view(6, now, "/over-tls")).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    let answer = app.put(1, &view(6, now, "/changed")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(app.daily(6).await, json!({"/changed": 1}));
    let count = "SELECT count() FROM traffic FINAL";
    assert_eq!(shared_engine().sql(&database, count).await, "1");
    app.stop().await;

    // Nobody else's word is taken for it.
    let stranger = Authority::new("tls-clickhouse-stranger");
    for (file, why) in [
        (
            stranger.text("ca.pem"),
            "invalid peer certificate: UnknownIssuer",
        ),
        (authority.text("no-such.pem"), "no-such.pem can't be read"),
    ] {
        let mut arguments = vec![
            "traffic-api".to_owned(),
            "--listen-addr=127.0.0.1:0".to_owned(),
        ];
        let data = directory("tls-clickhouse-stranger-data");
        arguments.push(format!("--data-dir={}", data.display()));
        arguments.push(format!("--clickhouse-ca-file={file}"));
        arguments.extend(clickhouse.flags());
        let settings = Cli::read(arguments.into_iter().map(Into::into));
        let settings = settings
            .unwrap_or_else(|_| panic!("good settings"))
            .settings;
        let started = traffic_api::app::start(&settings, Clock::system()).await;
        let Err(error) = started else {
            panic!("it starts with {file}");
        };
        let error = format!("{error:#}");
        assert!(error.contains(why), "{error}");
    }
}
