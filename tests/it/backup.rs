//! Back up, lose, restore: what docs/operations.md tells the operator to do, step by step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chrono::Utc;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use traffic_api::domain::{Clock, Stream};
use traffic_api::repository::{LEAST_SEAL_DELAY, Seals, ServerTime};

use crate::privacy::{NOTHING, created, erase, left, until_nothing_is_left};
use crate::support::nginx::free_address;
use crate::support::service::{Service, run};
use crate::support::{
    ClickHouse, MarkClock, TestApp, cache_dir, directory, fresh_database, repository, rfc3339,
    shared_engine, view,
};

const PATIENCE: Duration = Duration::from_secs(30);
const USERS: u32 = 4;

/// A ClickHouse that may write backups, which the service's own engine may not.
struct Server {
    child: Child,
    clickhouse: ClickHouse,
    backups: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// With a directory of its own: tests run beside each other.
    async fn start(name: &str) -> Self {
        // Fetches the library where it is missing.
        shared_engine();
        let versions = std::fs::read_dir(cache_dir()).unwrap().flatten();
        let mut libraries = versions.map(|version| version.path().join("libchdb.so"));
        let library = libraries.find(|library| library.exists()).unwrap();
        let data = directory(&format!("{name}/data"));
        let backups = directory(&format!("{name}/backups"));
        let configuration = format!(
            "<clickhouse><users_config>users.xml</users_config>\
             <backups><allowed_path>{}</allowed_path></backups></clickhouse>",
            backups.display()
        );
        std::fs::write(data.join("config.xml"), configuration).unwrap();
        let users = "<clickhouse><profiles><default/></profiles><quotas><default/></quotas>\
             <users><default><password></password><networks><ip>127.0.0.1</ip></networks>\
             <profile>default</profile><quota>default</quota></default></users></clickhouse>";
        std::fs::write(data.join("users.xml"), users).unwrap();
        let address = free_address();
        let child = Command::new(env!("CARGO_BIN_EXE_traffic-api"))
            .arg("engine-child")
            .arg(library)
            .arg(std::process::id().to_string())
            .arg("--config-file=config.xml")
            .arg(format!("--path={}", data.display()))
            .arg("--listen_host=127.0.0.1")
            .arg(format!("--http_port={}", address.port()))
            .arg(format!("--logger.log={}", data.with_file_name("server.log").display()))
            .arg("--log-level=information")
            .arg("--query=SYSTEM START LISTEN HTTP; SELECT count() FROM file('/dev/stdin', 'LineAsString') FORMAT Null")
            .current_dir(&data)
            .env_clear()
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let clickhouse = ClickHouse {
            url: format!("http://{address}"),
            user: "default".to_owned(),
            password: String::new(),
            cluster: None,
        };
        let deadline = Instant::now() + PATIENCE;
        while reqwest::get(&clickhouse.url).await.is_err() {
            assert!(Instant::now() < deadline, "the server does not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self {
            child,
            clickhouse,
            backups,
        }
    }

    async fn service(&self, database: &str, data_dir: &Path) -> TestApp {
        let data_dir = format!("--data-dir={}", data_dir.display());
        let flags = [
            &data_dir,
            "--sealer=false",
            "--reconcile-interval-secs=0",
            "--report-plan=view",
        ];
        TestApp::start_with(&self.clickhouse, database, Clock::system(), &flags).await
    }
}

/// What a sender keeps to be able to send it again.
#[derive(Clone)]
enum Call {
    Post(u64, Value),
    Patch(u64, Value),
    Delete(u64),
}

/// The views as they should stand.
#[derive(Default)]
struct Expected(BTreeMap<u64, Value>);

impl Expected {
    fn apply(&mut self, call: &Call) {
        match call {
            Call::Post(id, view) => {
                self.0.entry(*id).or_insert_with(|| view.clone());
            }
            Call::Patch(id, change) => {
                self.0.get_mut(id).unwrap()["page_url"] = change["page_url"].clone()
            }
            Call::Delete(id) => {
                self.0.remove(id);
            }
        }
    }

    /// Views by day and page.
    fn days(&self, user_id: u32) -> BTreeMap<(String, String), u64> {
        let mut days = BTreeMap::new();
        for view in self.0.values().filter(|view| view["user_id"] == user_id) {
            let day = view["created_at"].as_str().unwrap()[..10].to_owned();
            let page = view["page_url"].as_str().unwrap().to_owned();
            *days.entry((day, page)).or_default() += 1;
        }
        days
    }
}

async fn send(app: &TestApp, call: &Call) {
    let status = match call {
        Call::Post(id, view) => app.post(*id, view).await.status,
        Call::Patch(id, change) => app.patch(*id, change).await.status,
        Call::Delete(id) => app.delete(*id).await.status,
    };
    // A deletion that is sent again finds nothing.
    let fine =
        status.is_success() || (matches!(call, Call::Delete(_)) && status == StatusCode::NOT_FOUND);
    assert!(fine, "{status}");
}

/// The posts among the calls, as one batch.
async fn send_posts(app: &TestApp, calls: &[Call]) {
    let lines = calls.iter().filter_map(|call| match call {
        Call::Post(id, view) => {
            let mut line = view.clone();
            line["request_id"] = json!(id);
            Some(line.to_string() + "\n")
        }
        _ => None,
    });
    let batch = app.request(Method::POST, "/api/traffic");
    let batch = batch.header("content-type", "application/x-ndjson");
    let answer = batch.body(lines.collect::<String>()).send().await.unwrap();
    let receipt: Value = answer.json().await.unwrap();
    assert_eq!(receipt["rejected_count"], 0, "{receipt}");
}

async fn days(app: &TestApp, user_id: u32) -> BTreeMap<(String, String), u64> {
    let answer = app
        .get(&format!("/api/traffic/users/{user_id}/days?by=page"))
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let mut days = BTreeMap::new();
    for day in answer.body["days"].as_array().unwrap() {
        for (page, views) in day["pages"].as_object().unwrap() {
            let day = day["date"].as_str().unwrap().to_owned();
            days.insert((day, page.clone()), views.as_u64().unwrap());
        }
    }
    days
}

async fn is_exact(app: &TestApp, expected: &Expected) -> bool {
    for user_id in 1..=USERS {
        if days(app, user_id).await != expected.days(user_id) {
            return false;
        }
    }
    let now = Utc::now().timestamp();
    let [from, to] = [now - 4 * 86_400, now + 86_400].map(|at| rfc3339(at)[..10].to_owned());
    let site = app
        .get(&format!("/api/traffic/site?from={from}&to={to}"))
        .await;
    assert_eq!(site.status, StatusCode::OK, "{site:?}");
    site.body["views"] == json!(expected.0.len())
}

async fn becomes_exact(app: &TestApp, expected: &Expected) {
    let deadline = Instant::now() + PATIENCE;
    while !is_exact(app, expected).await {
        assert!(
            Instant::now() < deadline,
            "the reports are not what was sent"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_the_spools_and_what_is_sent_again_make_the_same_reports() {
    let server = Server::start("backup-restored").await;
    let (database, clickhouse) = (fresh_database(), &server.clickhouse);
    let [disk, copied] = ["backup-disk", "backup-copied"].map(directory);
    let app = server.service(&database, &disk).await;
    let mut expected = Expected::default();
    let now = Utc::now().timestamp();

    // Two days of views, of which all closed hours are counted.
    let marks = MarkClock::new(clickhouse, &database, Stream::PageViews).await;
    marks.stop().await;
    let mut calls: Vec<_> = (0..240)
        .map(|id: u64| {
            let at =
                now - 60 - 3600 * [0, 1, 2, 5, 9, 20, 26, 44][usize::try_from(id).unwrap() % 8];
            let page = format!("/{}", id % 7);
            let user_id = u32::try_from(id).unwrap() % USERS + 1;
            Call::Post(id, view(user_id, at, &page))
        })
        .collect();
    calls.extend((0..10).map(|n| Call::Patch(n * 11, json!({"page_url": "/patched"}))));
    calls.extend((0..5).map(|n| Call::Delete(n * 23 + 1)));
    send_posts(&app, &calls).await;
    for call in &calls {
        if !matches!(call, Call::Post(..)) {
            send(&app, call).await;
        }
        expected.apply(call);
    }
    let seals = Seals::new(repository(clickhouse, &database), LEAST_SEAL_DELAY);
    for hour in seals.survey().await.unwrap().hours.into_keys() {
        let as_of = (i64::from(hour.end()) + 2400) * 1000;
        if as_of < now * 1000 {
            seals
                .seal(hour, ServerTime::from_millis(as_of))
                .await
                .unwrap();
        }
    }
    let counted: u32 = app
        .sql("SELECT uniqExact(hour) FROM traffic_seals")
        .await
        .parse()
        .unwrap();
    assert!(counted >= 6, "{counted}");
    marks.set(Utc::now().timestamp_millis()).await;
    assert!(is_exact(&app, &expected).await);

    // The backup is made beside live traffic: no two tables are of one moment.
    let backup = format!("File('{}')", server.backups.join("one").display());
    let sql = format!("BACKUP DATABASE {database} TO {backup}");
    let beside: Vec<_> = (1000..1040)
        .map(|id| Call::Post(id, view(1, now - 7200, "/beside")))
        .collect();
    let sending = async {
        for call in &beside {
            send(&app, call).await;
        }
    };
    tokio::join!(app.sql(&sql), sending);
    let since: Vec<_> = [
        Call::Patch(2, json!({"page_url": "/after"})),
        Call::Delete(3),
        Call::Post(2000, view(2, now - 86_400, "/after")),
        Call::Patch(0, json!({"page_url": "/after"})),
    ]
    .into();
    for call in &since {
        send(&app, call).await;
    }
    let since: Vec<_> = beside.into_iter().chain(since).collect();
    since.iter().for_each(|call| expected.apply(call));
    assert!(is_exact(&app, &expected).await);

    // The store is lost. What comes then is on this instance's disk only.
    app.sql("RENAME TABLE traffic TO lost").await;
    for id in 3000..3010 {
        let late = view(3, now - 3600, "/spooled");
        assert_eq!(app.post(id, &late).await.status, StatusCode::ACCEPTED);
        expected.apply(&Call::Post(id, late));
    }
    app.stop().await;
    let spooled = std::fs::read_dir(disk.join("spool")).unwrap().count();
    assert!(spooled >= 10, "{spooled}");
    copy(&disk.join("spool"), &copied.join("spool"));
    clickhouse
        .sql("default", &format!("DROP DATABASE {database} SYNC"))
        .await;

    clickhouse
        .sql(
            "default",
            &format!("RESTORE DATABASE {database} FROM {backup}"),
        )
        .await;
    clickhouse
        .sql(&database, "TRUNCATE TABLE traffic_seals")
        .await;

    // The disk and its copy: what both hold counts once.
    for disk in [&disk, &copied] {
        let app = server.service(&database, disk).await;
        let deadline = Instant::now() + PATIENCE;
        while app.get("/health/ready").await.body["spool"]["files"] != 0 {
            assert!(Instant::now() < deadline, "not replayed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        app.stop().await;
    }
    // What came after the backup is gone unless its sender has it.
    let app = server.service(&database, &disk).await;
    assert!(!is_exact(&app, &expected).await);
    for call in &since {
        send(&app, call).await;
    }
    // Everything else may be sent again too.
    send_posts(&app, &calls).await;
    becomes_exact(&app, &expected).await;

    let data_dir = directory("backup-reconcile");
    let mut command = Service::command(&data_dir);
    command
        .env("CLICKHOUSE_DATABASE", &database)
        .args(["reconcile", "--patience=0", "--repair"])
        .args(clickhouse.flags());
    let (code, out, _) = tokio::task::spawn_blocking(move || run(command))
        .await
        .unwrap();
    assert_eq!(code, Some(0), "{out}");
    assert!(is_exact(&app, &expected).await);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_erased_since_the_backup_does_not_come_back_with_it() {
    let server = Server::start("backup-erased").await;
    let (database, clickhouse) = (fresh_database(), &server.clickhouse);
    let app = server.service(&database, &directory("erased-backup")).await;
    let at = Utc::now().timestamp() - 5 * 3600;
    for (id, user) in [(1, 7), (2, 8), (3, 7), (4, 9)] {
        created(&app, id, &view(user, at, "/a")).await;
    }
    assert_eq!(erase(&app, 9).await.status, StatusCode::OK);
    let backup = format!("File('{}')", server.backups.join("erased").display());
    let sql = format!("BACKUP DATABASE {database} TO {backup}");
    app.sql(&sql).await;
    assert_eq!(erase(&app, 7).await.status, StatusCode::OK);
    let table = "traffic_erasures FORMAT Native";
    let kept = native(
        clickhouse,
        &database,
        &format!("SELECT * FROM {table}"),
        vec![],
    )
    .await;
    app.stop().await;
    for sql in [
        format!("DROP DATABASE {database} SYNC"),
        format!("RESTORE DATABASE {database} FROM {backup}"),
    ] {
        clickhouse.sql("default", &sql).await;
    }
    // The control: the backup has the person.
    let sql = "SELECT count() FROM traffic WHERE user_id = 7";
    assert_eq!(clickhouse.sql(&database, sql).await, "2");

    // Twice is once.
    for _ in 0..2 {
        let sql = format!("INSERT INTO {table}");
        native(clickhouse, &database, &sql, kept.clone()).await;
    }
    clickhouse
        .sql(&database, "TRUNCATE TABLE traffic_seals")
        .await;
    let app = server
        .service(&database, &directory("erased-restored"))
        .await;
    assert_eq!(app.daily(7).await, json!({}));
    assert_eq!(app.daily(8).await, json!({"/a": 1}));
    assert_eq!(
        app.post(1, &view(7, at, "/a")).await.status,
        StatusCode::GONE
    );
    until_nothing_is_left(&app, 7).await;
    assert_eq!(left(&app, 9).await, NOTHING);
    assert_eq!(app.daily(8).await, json!({"/a": 1}));
    app.stop().await;
}

/// What the server answers to a statement with these data behind it, in bytes.
async fn native(clickhouse: &ClickHouse, database: &str, sql: &str, data: Vec<u8>) -> Vec<u8> {
    let request = reqwest::Client::new()
        .post(&clickhouse.url)
        .header("x-clickhouse-database", database);
    let body = [sql.as_bytes(), b"\n", &data].concat();
    let answer = request.body(body).send().await.unwrap();
    assert!(answer.status().is_success(), "{sql}");
    answer.bytes().await.unwrap().to_vec()
}
