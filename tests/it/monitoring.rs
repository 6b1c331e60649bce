//! The shipped alerts and the shipped dashboard: judged by promtool, and asked of a real Prometheus that
//! scrapes the real service.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::Value;

use crate::support::nginx::free_address;
use crate::support::service::{Service, signal};
use crate::support::{directory, view};

const PATIENCE: Duration = Duration::from_secs(60);
/// Only once an hour is counted, which takes one.
const NOT_YET: &str = "traffic_sealer_sealed_through_timestamp_seconds";

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(shipped(path)).unwrap()
}

/// The files of a directory, sorted.
fn files(path: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(shipped(path)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn is_missing(tool: &str) -> bool {
    let missing = Command::new(tool).arg("--version").output().is_err();
    if missing {
        println!("SKIPPED: {tool} is not installed; .ci/run installs it");
    }
    missing
}

fn promtool(words: &[&str], files: &[PathBuf]) {
    let output = Command::new("promtool").args(words).args(files).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// The shipped rules as text, all files in one.
fn rules() -> String {
    let texts = files("deploy/prometheus/rules");
    let texts = texts
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap());
    texts.collect()
}

/// Name and text of each alert.
fn alerts() -> BTreeMap<String, String> {
    let text = rules();
    let alerts = text.split("- alert: ").skip(1);
    alerts
        .map(|alert| {
            let (name, rest) = alert.split_once('\n').unwrap();
            (name.to_owned(), rest.to_owned())
        })
        .collect()
}

#[test]
fn alerts_are_complete_and_each_has_a_section_for_the_operator() {
    let operations = read("docs/operations.md");
    let sections: BTreeSet<&str> = operations
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .filter(|title| title.starts_with("TrafficApi") || title.starts_with("ClickHouse"))
        .collect();
    let alerts = alerts();
    assert!(alerts.len() > 30);
    let names: BTreeSet<&str> = alerts.keys().map(String::as_str).collect();
    assert_eq!(names, sections);
    for (name, text) in &alerts {
        let runbook = format!("runbook_url: docs/operations.md#{}\n", name.to_lowercase());
        assert!(text.contains(&runbook), "{name}");
        let severe = ["critical", "warning"].map(|s| text.contains(&format!("severity: {s}")));
        assert_eq!(severe.iter().filter(|is| **is).count(), 1, "{name}");
        for part in ["expr: ", "summary: ", "description: "] {
            assert!(text.contains(part), "{name} has no {part}");
        }
    }
}

#[test]
fn each_alert_fires_when_it_should_and_not_before() {
    let tests: String = files("deploy/prometheus/tests")
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    for name in alerts().keys() {
        let fires = format!("labels: '{{alertname=\"{name}\"");
        assert!(tests.contains(&fires), "no test makes {name} fire");
    }
    if is_missing("promtool") {
        return;
    }
    promtool(&["check", "rules"], &files("deploy/prometheus/rules"));
    promtool(&["test", "rules"], &files("deploy/prometheus/tests"));
}

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/grafana/dashboards/traffic-api.json")).unwrap()
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().unwrap()
}

/// A panel's query.
struct Query {
    panel: String,
    expr: String,
    legend: String,
}

/// Every query of the dashboard, with its variables filled in.
fn queries() -> Vec<Query> {
    let dashboard = dashboard();
    let mut queries = Vec::new();
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"].as_str().unwrap();
            let expr = expr
                .replace("$job", "traffic-api")
                .replace("$instance", ".*")
                .replace("$__rate_interval", "1m");
            assert!(!expr.contains('$'), "{expr}");
            queries.push(Query {
                panel: panel["title"].as_str().unwrap().to_owned(),
                expr,
                legend: target["legendFormat"].as_str().unwrap().to_owned(),
            });
        }
    }
    queries
}

#[test]
fn the_dashboard_is_laid_out_well_and_explains_itself() {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables: Vec<_> = variables.iter().map(|v| v["name"].as_str()).collect();
    assert_eq!(
        variables,
        [Some("datasource"), Some("job"), Some("instance")]
    );
    let (mut ids, mut titles, mut taken) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: id");
        assert!(titles.insert(title), "{title}: twice");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}: {x} + {w}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title}: lies on another at {cell:?}");
        }
        if panel["type"] == "row" {
            assert_eq!((x, w, h), (0, 24, 1), "{title}");
            continue;
        }
        let description = panel["description"].as_str().unwrap_or_default();
        assert!(description.ends_with('.'), "{title}: {description:?}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let unit = if panel["type"] == "heatmap" {
            &panel["options"]["yAxis"]["unit"]
        } else {
            &panel["fieldConfig"]["defaults"]["unit"]
        };
        assert!(unit.is_string(), "{title}: unit");
        let targets = panel["targets"].as_array().unwrap();
        let names: BTreeSet<_> = targets.iter().map(|t| t["refId"].as_str()).collect();
        assert!(
            !targets.is_empty() && names.len() == targets.len(),
            "{title}"
        );
    }
    if is_missing("promtool") {
        return;
    }
    // Prometheus' own parser reads every query, as a rule.
    let mut text = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, query) in queries().iter().enumerate() {
        let expr = query.expr.replace('\'', "''");
        text += &format!("      - {{record: 'panel:{number}', expr: '{expr}'}}\n");
    }
    let file = directory("dashboard").join("rules.yml");
    std::fs::write(&file, text).unwrap();
    promtool(&["check", "rules"], &[file]);
}

/// The series of the service that an expression names, each with its matchers.
fn selectors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    for prefix in ["traffic_", "process_"] {
        for (start, _) in text.match_indices(prefix) {
            let name: &str = text[start..].split(|c| !is_name(c)).next().unwrap();
            // The middle of a record's name, or of another word.
            if text[..start].ends_with(is_name) || name.contains(':') {
                continue;
            }
            let rest = &text[start + name.len()..];
            let mut quoted = false;
            let end = rest.starts_with('{').then(|| {
                rest.find(|c| {
                    quoted ^= c == '"';
                    c == '}' && !quoted
                })
            });
            let end = end.flatten().map_or(0, |end| end + 1);
            found.insert(format!("{name}{}", &rest[..end]));
        }
    }
    found
}

/// The expressions of the shipped rules, without what else stands in them.
fn expressions() -> Vec<String> {
    let text = rules();
    let rules = text.split("\n        expr: ").skip(1);
    let rules = rules.map(|rest| {
        let ends = ["\n        for:", "\n        labels:", "\n      - ", "\n\n"];
        let end = ends.iter().filter_map(|end| rest.find(end)).min();
        let expr = &rest[..end.unwrap_or(rest.len())];
        let expr = expr.trim_start_matches(">-").trim().trim_matches('\'');
        expr.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    rules.collect()
}

/// A real Prometheus; it ends when this is dropped.
struct Prometheus {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// With the shipped rules, scraping `target` as the job that they expect.
    fn start(target: std::net::SocketAddr) -> Self {
        let directory = directory("prometheus");
        let rules = shipped("deploy/prometheus/rules");
        let configuration = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 500ms}}\n\
             rule_files: ['{}/*.yml']\n\
             scrape_configs:\n  - job_name: traffic-api\n    scrape_timeout: 200ms\n    \
             static_configs: [{{targets: ['{target}']}}]\n",
            rules.display()
        );
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, configuration).unwrap();
        let address = free_address();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .spawn();
        Self {
            child: child.unwrap(),
            url: format!("http://{address}"),
            http: reqwest::Client::new(),
        }
    }

    async fn ask(&self, path: &str) -> Option<Value> {
        let response = self.http.get(format!("{}{path}", self.url)).send().await;
        response.ok()?.json().await.ok()
    }

    /// The labels of each series of the answer.
    async fn series(&self, expr: &str) -> Vec<BTreeMap<String, String>> {
        let encoded: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.ask(&format!("/api/v1/query?query={encoded}")).await;
        let answer = answer.unwrap_or_default();
        assert_eq!(answer["status"], "success", "{expr}: {answer}");
        let result = answer["data"]["result"].as_array().unwrap().clone();
        result
            .into_iter()
            .map(|mut series| serde_json::from_value(series["metric"].take()).unwrap())
            .collect()
    }
}

/// Through an outage, so that each metric has something to say.
async fn live(service: &Service) {
    let http = reqwest::Client::new();
    let deadline = Instant::now() + PATIENCE;
    let mut seen = BTreeSet::new();
    let mut killed = false;
    for id in 0.. {
        assert!(Instant::now() < deadline, "not in time: {seen:?}");
        let at = chrono::Utc::now().timestamp() - 10;
        let post = http.post(service.url(&format!("/api/traffic/{id}")));
        let post = post.json(&view(1, at, "/a")).send().await.unwrap();
        seen.insert(("post", post.status()));
        let paths = ["daily/1", "users/1/days", "pages?limit=1", "site"];
        for path in paths {
            let report = http.get(service.url(&format!("/api/traffic/{path}")));
            seen.insert(("report", report.send().await.unwrap().status()));
        }
        if !killed && id > 3 {
            for engine in service.children() {
                signal(engine, "KILL");
            }
            killed = true;
        }
        let spooled = seen.contains(&("post", StatusCode::ACCEPTED));
        let failed = seen.contains(&("report", StatusCode::SERVICE_UNAVAILABLE));
        if spooled && failed && post.status() == StatusCode::CREATED {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_finds_every_series_that_dashboard_and_rules_name() {
    if is_missing("prometheus") {
        return;
    }
    let data = directory("monitoring");
    let service = tokio::task::spawn_blocking(move || {
        let mut command = Service::command(&data);
        command.env("RECONCILE_INTERVAL_SECS", "1");
        Service::spawn(command)
    });
    let mut service = service.await.unwrap();
    let prometheus = Prometheus::start(service.address);
    // A series must be there before what happens, or its rise is not seen.
    until_found(&prometheus, &["up == 1".to_owned()]).await;
    live(&service).await;

    let mut wanted: BTreeSet<String> = queries()
        .iter()
        .flat_map(|query| selectors(&query.expr))
        .collect();
    let expressions = expressions();
    wanted.extend(expressions.iter().flat_map(|expr| selectors(expr)));
    let before = wanted.len();
    assert!(before > 60, "{wanted:#?}");
    wanted.retain(|selector| !selector.starts_with(NOT_YET));
    assert_eq!(wanted.len(), before - 1);
    let wanted: Vec<_> = wanted.into_iter().collect();
    until_found(&prometheus, &wanted).await;

    // The words in a legend are labels of the series.
    for query in queries() {
        // Of the past; or not counted yet.
        if query.expr.contains("offset") || query.expr.contains(NOT_YET) {
            continue;
        }
        // A rate needs two scrapes.
        until_found(&prometheus, std::slice::from_ref(&query.expr)).await;
        let shown = prometheus.series(&query.expr).await;
        let words = query.legend.split("{{").skip(1);
        for word in words.map(|word| word.split("}}").next().unwrap()) {
            let has = |labels: &BTreeMap<String, String>| labels.contains_key(word);
            assert!(shown.iter().all(has), "{}: no {word}", query.panel);
        }
    }

    let rules = prometheus.ask("/api/v1/rules").await.unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap());
    let mut count = 0;
    let mut recorded = Vec::new();
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule:#}");
        count += 1;
        if rule["type"] == "recording" {
            recorded.push(rule["name"].as_str().unwrap().to_owned());
        }
    }
    // A rule is evaluated after the scrapes.
    until_found(&prometheus, &recorded).await;
    assert_eq!(count, expressions.len());
    let restarted = "ALERTS{alertname=\"TrafficApiEngineRestarts\", alertstate=\"firing\"}";
    until_found(&prometheus, &[restarted.to_owned()]).await;
    drop(prometheus);
    assert!(service.terminate().success());
}

async fn until_found(prometheus: &Prometheus, expressions: &[String]) {
    let deadline = Instant::now() + PATIENCE;
    while prometheus.ask("/-/ready").await.is_none() && Instant::now() < deadline {
        // It answers in plain text once it is ready, and not at all before.
        let ready = prometheus.http.get(format!("{}/-/ready", prometheus.url));
        if ready
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for expr in expressions {
        while prometheus.series(expr).await.is_empty() {
            assert!(Instant::now() < deadline, "no such series: {expr}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
