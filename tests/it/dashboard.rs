//! The page at `/` in a real browser: it shows what the API says, to everybody, and trusts no text.
//!
//! With `DASHBOARD_SCREENSHOTS=target` pictures of it are left there as well.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::prelude::{BASE64_STANDARD, Engine};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use traffic_api::access::Scope;

use crate::auth::{self, made};
use crate::support::browser::{Browser, ENTER, TAB};
use crate::support::{TestApp, rfc3339};

const HOUR: i64 = 3600;

/// Nobody can say that these were rendered as anything but text.
const HOSTILE: [&str; 5] = [
    "/<img src=x onerror=window.ran=1>",
    "/<script>window.ran=1</script>",
    "/&lt;b&gt;&amp;\"'`${window.ran=1}",
    "/\u{1f600}\u{1f3fd}/\u{5e2}\u{5d1}\u{5e8}",
    "https://example.org/?<svg/onload=window.ran=1>",
];
/// It reads backwards if the browser is let.
const REVERSED: &str = "/a\u{202e}gpj.exe";
const USER: u32 = 7;
const ROWS: usize = 20;

struct Lab {
    app: TestApp,
    browser: Browser,
    next_id: AtomicU64,
}

impl Lab {
    /// A month of views, and a browser; nothing where there is no browser.
    async fn start(name: &str) -> Option<Self> {
        let Some(browser) = Browser::start(name).await else {
            println!("SKIPPED: no Chromium; install the packages chromium and chromium-driver");
            return None;
        };
        let app = TestApp::start().await;
        let next_id = AtomicU64::new(0);
        let lab = Self {
            app,
            browser,
            next_id,
        };
        lab.load(&month()).await;
        Some(lab)
    }

    /// Posts views under ids that were never used.
    async fn load(&self, views: &[(u32, i64, String)]) {
        let first = self
            .next_id
            .fetch_add(views.len() as u64, Ordering::Relaxed);
        let lines = (first..).zip(views).map(|(id, (user, at, page))| {
            json!({"request_id": id, "user_id": user, "created_at": rfc3339(*at), "page_url": page})
                .to_string()
        });
        let request = self.app.request(Method::POST, "/api/traffic");
        let request = request.header("content-type", "application/x-ndjson");
        let body = lines.collect::<Vec<_>>().join("\n");
        let answer = request.body(body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["accepted"], views.len(), "{answer}");
    }

    async fn open(&self, query: &str) {
        self.browser.open(&self.app.url(&format!("/{query}"))).await;
        self.settled().await;
    }

    /// Waits until nothing is loading.
    async fn settled(&self) {
        self.browser
            .until(
                "document.querySelectorAll('[aria-busy=false]').length === 3 \
                 && !document.getElementById('pages-next').disabled",
            )
            .await;
    }

    async fn click(&self, selector: &str) {
        self.browser.click(selector).await;
        self.settled().await;
    }

    async fn query(&self) -> String {
        let url = self.browser.url().await;
        url.split_once('?')
            .map_or_else(String::new, |(_, query)| query.to_owned())
    }

    async fn text(&self, selector: &str) -> String {
        let text = self
            .browser
            .script(&format!(
                "return document.querySelector('{selector}').innerText"
            ))
            .await;
        text.as_str().unwrap().to_owned()
    }

    async fn visible(&self, selector: &str) -> bool {
        self.browser
            .script(&format!(
                "return document.querySelector('{selector}').checkVisibility()"
            ))
            .await
            == true
    }

    /// The exact number in an element, which is also the one that it shows.
    async fn number(&self, selector: &str) -> Value {
        let found = self
            .browser
            .script(&format!(
                "const e = document.querySelector('{selector}'); \
                 return [Number(e.dataset.value), Number(e.firstChild.data.replace(/,/g, ''))]"
            ))
            .await;
        assert_eq!(found[0], found[1]);
        found[0].clone()
    }

    /// The rows of a table: what the head is about, and the exact numbers.
    async fn table(&self, id: &str) -> Value {
        let rows = self
            .browser
            .script(&format!(
                "return [...document.querySelectorAll('#{id} tbody tr')].map((row) => {{ \
                   const [head, ...cells] = row.cells; \
                   for (const c of cells) if (c.textContent.replace(/,/g, '') !== c.dataset.value) throw c.outerHTML; \
                   return [head.dataset.page ?? head.querySelector('time').dateTime, \
                           ...cells.map((c) => Number(c.dataset.value))]; }})"
            ))
            .await;
        assert!(rows.is_array());
        rows
    }

    async fn api(&self, path: &str) -> Value {
        let answer = self.app.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.body
    }

    /// The page's range, as it asks the API for it.
    async fn range(&self) -> (String, String) {
        let range = "const { from, to, interval } = document.getElementById('shown').dataset; \
                     return [`from=${from}&to=${to}`, interval]";
        let range = self.browser.script(range).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&range[0]), text(&range[1]))
    }

    /// Compares what the page shows of the site with the API.
    async fn check_site(&self) {
        let (range, interval) = self.range().await;
        let series = format!("/api/traffic/site?{range}&interval={interval}");
        let series = self.api(&series).await;
        assert_eq!(
            self.table("site-table").await,
            rows(&series["intervals"], &["start", "views", "users"])
        );
        let total = self.api(&format!("/api/traffic/site?{range}")).await;
        let total = &total["intervals"][0];
        assert_eq!(self.number("#site-views").await, total["views"]);
        assert_eq!(self.number("#site-users").await, total["users"]);
        assert_eq!(series["views"], total["views"]);
        let bars = "return document.querySelectorAll('#site-chart rect.views').length";
        let counted = series["intervals"].as_array().unwrap().iter();
        let counted = counted.filter(|row| row["views"] != 0).count();
        assert_eq!(self.browser.script(bars).await, counted);
        let pages = self
            .api(&format!("/api/traffic/pages?{range}&limit={ROWS}"))
            .await;
        assert_eq!(
            self.table("pages-table").await,
            rows(&pages["pages"], &["page_url", "views", "users"])
        );
    }

    /// Compares what the page shows of a user with the API.
    async fn check_user(&self, user: u32, days: &str) {
        let daily = self.api(&format!("/api/traffic/daily/{user}")).await;
        let shown = self.table("user-table").await;
        let shown = shown.as_array().unwrap().iter();
        let shown = shown.map(|row| (row[0].as_str().unwrap().to_owned(), row[1].clone()));
        assert_eq!(Value::Object(shown.collect()), daily);
        let views = daily.as_object().unwrap().values();
        let views: u64 = views.map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(self.number("#user-views").await, views);
        let days = self
            .api(&format!("/api/traffic/users/{user}/days?{days}"))
            .await;
        assert_eq!(
            self.table("days-table").await,
            rows(&days["days"], &["date", "views"])
        );
        assert_eq!(self.number("#days-views").await, days["views"]);
    }

    async fn end(self) {
        drop(self.browser);
        self.app.stop().await;
    }
}

fn rows(list: &Value, columns: &[&str]) -> Value {
    let row = |row: &Value| columns.iter().map(|column| row[column].clone()).collect();
    list.as_array()
        .unwrap()
        .iter()
        .map(row)
        .collect::<Vec<Value>>()
        .into()
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

fn pages() -> Vec<String> {
    let mut pages: Vec<String> = "/ /pricing /docs /docs/start /blog/ /blog/exact-counts \
        /blog/why-we-fsync /login /signup /about /contact /changelog /careers \
        https://shop.example.org/cart https://shop.example.org/checkout?step=2"
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    pages.extend((1..=30).map(|n| format!("/blog/2026/post-{n:02}")));
    pages
}

/// More by day than by night and at weekends, a few pages and users more than others. The same on
/// every run but for its end.
fn month() -> Vec<(u32, i64, String)> {
    let (now, pages) = (now(), pages());
    let mut random = StdRng::seed_from_u64(5);
    let mut views = Vec::new();
    for hour in (0..30 * 24_i64).map(|ago| now / HOUR - ago) {
        let daytime = 9 - (hour % 24 - 13).abs().min(9);
        let is_weekend = (hour / 24 + 4) % 7 % 6 == 0;
        let usual = if is_weekend { 2 } else { 3 } + daytime / if is_weekend { 2 } else { 1 };
        for _ in 0..random.random_range(usual / 2..=usual * 3 / 2) {
            let at = (hour * HOUR + random.random_range(0..HOUR)).min(now);
            // Squared, so that low numbers are the likeliest.
            let mut skewed = |range: f64| (random.random::<f64>().powi(2) * range) as u32;
            let (user, page) = (skewed(60.0), skewed(pages.len() as f64));
            views.push((user, at, pages[page as usize].clone()));
        }
    }
    // Somebody who was there lately at any hour of the day.
    views.extend((0..12).map(|n| (USER, now - 7000 * n - 60, pages[n as usize % 5].clone())));
    views
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_its_parts_are_served_from_the_binary() {
    let app = TestApp::start().await;
    let mut open = vec!["/".to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = open.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let response = app.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let (etag, content_type) = (header("etag"), header("content-type"));
        let expected = match path.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(content_type, expected);
        assert!(etag.starts_with('"'), "strong: {etag}");
        assert_eq!(header("cache-control"), "no-cache");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        let policy = header("content-security-policy");
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "form-action 'self'",
        ] {
            assert!(policy.split("; ").any(|r| r == rule), "{rule} in {policy}");
        }
        let again = app
            .request(Method::GET, &path)
            .header("if-none-match", &etag);
        let again = again.send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(again.headers()["etag"], etag);
        let text = response.text().await.unwrap();
        assert!(!text.contains("innerHTML"), "{path}");
        for mark in ["src=\"", "<link rel=\"stylesheet\" href=\"", "from \""] {
            for (at, _) in text.match_indices(mark) {
                let name = text[at + mark.len()..].split('"').next().unwrap();
                assert!(!name.starts_with('/') && !name.contains("://"), "{name}");
                let folder = if path == "/" { "/" } else { "/dashboard/" };
                open.push(format!("{folder}{}", name.trim_start_matches("./")));
            }
        }
    }
    assert_eq!(seen.len(), 7, "{seen:?}");
    let post = app.request(Method::POST, "/").send().await.unwrap();
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_the_api_says() {
    let Some(lab) = Lab::start("dashboard-numbers").await else {
        return;
    };
    lab.open("").await;
    assert_eq!(lab.range().await.1, "hour");
    lab.check_site().await;
    assert!(!lab.visible("#user .content").await);
    for (button, interval) in [("7d", "day"), ("30d", "day"), ("24h", "hour")] {
        lab.click(&format!("[data-range=\"{button}\"]")).await;
        assert_eq!(lab.range().await.1, interval);
        lab.check_site().await;
        let pressed = "return document.querySelector('[aria-pressed=true]').dataset.range";
        assert_eq!(lab.browser.script(pressed).await, button);
    }
    lab.open(&format!("?user={USER}&range=7d")).await;
    lab.check_user(USER, "").await;
    lab.open(&format!("?user={USER}")).await;
    lab.check_user(USER, "").await;

    let date = |ago: i64| rfc3339(now() - ago * 86_400)[..10].to_owned();
    let (from, to) = (date(5), date(3));
    lab.open(&format!("?from={from}&to={to}&user={USER}")).await;
    assert_eq!(
        lab.range().await,
        (format!("from={from}&to={}", date(2)), "hour".to_owned())
    );
    lab.check_site().await;
    lab.check_user(USER, &format!("from={from}&to={}", date(2)))
        .await;
    assert_eq!(lab.browser.console().await, Vec::<String>::new());

    // What is taken in is shown, and what can't be counted yet is said.
    lab.open("").await;
    let views = lab.number("#site-views").await.as_u64().unwrap();
    lab.load(&[(1, now(), "/new".to_owned())]).await;
    lab.click("#refresh").await;
    assert_eq!(lab.number("#site-views").await, views + 1);
    lab.check_site().await;
    let freshness = lab.text("#freshness").await;
    assert!(freshness.ends_with("None wait on its disk."), "{freshness}");
    lab.app.sql("RENAME TABLE traffic_by_request TO away").await;
    for n in 0..3 {
        lab.load(&[(2, now(), format!("/waiting-{n}"))]).await;
    }
    lab.click("#refresh").await;
    lab.browser
        .until("document.getElementById('freshness').dataset.rowsSpooled === '3'")
        .await;
    let freshness = lab.text("#freshness").await;
    assert!(freshness.contains("3 rows wait on its disk"), "{freshness}");
    lab.app.sql("RENAME TABLE away TO traffic_by_request").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_has_a_link_and_the_back_button_works() {
    let Some(lab) = Lab::start("dashboard-links").await else {
        return;
    };
    lab.open("?range=30d").await;
    let top = lab.table("pages-table").await;
    lab.click("#pages-next").await;
    let second = lab.table("pages-table").await;
    let link = lab.query().await;
    assert!(link.starts_with("range=30d&after="), "{link}");
    lab.click("#pages-next").await;
    let third = lab.table("pages-table").await;
    assert!(!lab.visible("#pages-next").await, "that was all");
    let all = |parts: [&Value; 3]| -> Vec<Value> {
        parts
            .iter()
            .flat_map(|part| part.as_array().unwrap().clone())
            .collect()
    };
    let (range, _) = lab.range().await;
    let whole = lab
        .api(&format!("/api/traffic/pages?{range}&limit=1000"))
        .await;
    assert_eq!(
        Value::Array(all([&top, &second, &third])),
        rows(&whole["pages"], &["page_url", "views", "users"])
    );
    lab.browser.back().await;
    lab.settled().await;
    assert_eq!(
        (lab.table("pages-table").await, lab.query().await),
        (second.clone(), link.clone())
    );
    lab.browser.back().await;
    lab.settled().await;
    assert_eq!(
        (lab.table("pages-table").await, lab.query().await),
        (top.clone(), "range=30d".into())
    );
    // Somebody else opens the link.
    lab.open(&format!("?{link}")).await;
    assert_eq!(lab.table("pages-table").await, second);
    lab.click("#pages-first").await;
    assert_eq!(
        (lab.table("pages-table").await, lab.query().await),
        (top, "range=30d".into())
    );

    lab.browser.fill("#prefix", "https://").await;
    lab.click("#prefix-form button").await;
    assert_eq!(lab.query().await, "range=30d&prefix=https%3A%2F%2F");
    let (range, _) = lab.range().await;
    let some = lab
        .api(&format!("/api/traffic/pages?{range}&prefix=https://"))
        .await;
    let some = rows(&some["pages"], &["page_url", "views", "users"]);
    assert_eq!(
        (
            lab.table("pages-table").await,
            some.as_array().unwrap().len()
        ),
        (some, 2)
    );
    lab.browser.fill("#prefix", "/nowhere").await;
    lab.click("#prefix-form button").await;
    assert!(!lab.visible("#pages-table").await);
    let words = lab.text("#pages .state").await;
    assert_eq!(words, "No viewed page begins with this text in this range.");
    lab.browser.back().await;
    lab.browser.back().await;
    lab.settled().await;
    let prefix = "return document.getElementById('prefix').value";
    assert_eq!(lab.browser.script(prefix).await, "");

    // A user, with the keyboard alone, from the top of the page.
    lab.open("").await;
    let focus = "const e = document.activeElement; return e.id || e.textContent";
    lab.browser.press(TAB).await;
    assert_eq!(lab.browser.script(focus).await, "Skip to the numbers");
    lab.browser.press(ENTER).await;
    for _ in 0..40 {
        lab.browser.press(TAB).await;
        // A focus that can't be seen is none.
        let ring = "const e = document.activeElement; \
                    return getComputedStyle(e).outlineStyle === 'solid' ? '' : e.outerHTML";
        assert_eq!(lab.browser.script(ring).await, "");
        if lab.browser.script(focus).await == "user-id" {
            break;
        }
    }
    lab.browser.press(&format!("{USER}{ENTER}")).await;
    lab.settled().await;
    assert!(lab.query().await.ends_with(&format!("user={USER}")));
    lab.check_user(USER, "").await;
    let said = "document.getElementById('announcement').textContent.startsWith('User 7: ')";
    lab.browser.until(said).await;
    assert_eq!(lab.browser.console().await, Vec::<String>::new());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_strangers_stays_text() {
    let Some(lab) = Lab::start("dashboard-hostile").await else {
        return;
    };
    let at = now() - 60;
    let hostile: Vec<&str> = HOSTILE.iter().copied().chain([REVERSED]).collect();
    let many = hostile
        .iter()
        .flat_map(|page| (0..2000).map(|_| (99, at, (*page).to_owned())));
    lab.load(&many.collect::<Vec<_>>()).await;
    lab.open("?user=99&prefix=%3Cimg%20src%3Dx%20onerror%3Dwindow.ran%3D1%3E")
        .await;
    lab.open("?user=99").await;
    for table in ["pages-table", "user-table"] {
        let shown = format!(
            "return Object.fromEntries([...document.querySelectorAll('#{table} .page')].slice(0, 6)\
             .map((cell) => [cell.dataset.page, [cell.textContent, cell.querySelector('bdi').title]]))"
        );
        let shown = lab.browser.script(&shown).await;
        for page in HOSTILE {
            assert_eq!(shown[page], json!([page, page]));
        }
        assert_eq!(shown[REVERSED], json!(["/aU+202Egpj.exe", REVERSED]));
        let made =
            format!("return document.querySelectorAll('#{table} :is(img, script, svg, b)').length");
        assert_eq!(lab.browser.script(&made).await, 0);
    }
    lab.check_site().await;
    lab.check_user(99, "").await;
    assert_eq!(
        lab.browser.script("return typeof window.ran").await,
        "undefined"
    );
    assert_eq!(lab.browser.console().await, Vec::<String>::new());

    // If the page had a flaw, nothing would come of it, and this test would see it.
    let flaw = "try { document.body.innerHTML = '<img src=x onerror=window.ran=1>'; } \
                catch (error) { return error.name; }";
    assert_eq!(lab.browser.script(flaw).await, "TypeError");
    let handler = "try { document.body.setAttribute('onclick', 'window.ran=1'); } \
                   catch (error) { return error.name; }";
    assert_eq!(lab.browser.script(handler).await, "TypeError");
    let script = "const s = document.createElement('script'); s.src = 'data:text/javascript,ran=1'; \
                  document.body.append(s);";
    let script = format!("try {{ {script} }} catch (error) {{ return error.name; }}");
    assert_eq!(lab.browser.script(&script).await, "TypeError");
    assert_eq!(
        lab.browser.script("return typeof window.ran").await,
        "undefined"
    );
    let elsewhere = "return new Promise((done) => { const image = new Image(); \
                     image.onload = () => done('loaded'); image.onerror = () => done('refused'); \
                     image.src = `http://localhost:${location.port}/picture`; })";
    assert_eq!(lab.browser.script(elsewhere).await, "refused");
    let console = lab.browser.console().await.join("\n");
    for refusal in ["TrustedHTML", "TrustedScript", "Content Security Policy"] {
        assert!(console.contains(refusal), "{console}");
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_said() {
    let Some(lab) = Lab::start("dashboard-errors").await else {
        return;
    };
    lab.open("?from=2001-01-01&to=2001-01-05&user=x%2F1").await;
    let days = lab
        .app
        .get("/api/traffic/site?from=2001-01-01&to=2001-01-06")
        .await
        .body;
    assert_eq!(days["status"], 422);
    let detail = days["errors"][0]["detail"].as_str().unwrap();
    // What follows is the moment of this request, not of the page's.
    let (detail, _) = detail.split_once(" is 20").expect("it names a moment");
    for section in ["#site", "#pages"] {
        let problem = lab.text(&format!("{section} .problem")).await;
        for part in [
            days["title"].as_str().unwrap(),
            days["errors"][0]["field"].as_str().unwrap(),
            detail,
        ] {
            assert!(problem.contains(part), "{part} in {problem}");
        }
        assert!(!lab.visible(&format!("{section} .content")).await);
    }
    let problem = lab.text("#user .problem").await;
    let user = lab.app.get("/api/traffic/daily/x").await.body;
    for part in [&user["title"], &user["detail"]] {
        assert!(
            problem.contains(part.as_str().unwrap()),
            "{part} in {problem}"
        );
    }
    lab.open("?from=nonsense&to=2026-01-01&after=old").await;
    assert!(
        lab.text("#site .problem")
            .await
            .contains("from must be a date")
    );
    assert!(
        lab.text("#pages .problem")
            .await
            .contains("after is not a cursor")
    );
    lab.click("[data-range=\"24h\"]").await;
    lab.check_site().await;
    let open =
        "return [...document.querySelectorAll('.problem')].map((p) => p.textContent).join('')";
    assert_eq!(lab.browser.script(open).await, "");
    // The browser itself notes each answer of 4xx, and nothing else was noted.
    let console = lab.browser.console().await;
    let noted = |line: &String| line.contains("Failed to load resource");
    assert!(
        !console.is_empty() && console.iter().all(noted),
        "{console:?}"
    );

    lab.open("?after=0").await;
    lab.click("#pages .problem button").await;
    assert_eq!(lab.query().await, "", "it starts from the top");
    lab.check_site().await;

    // Nobody there.
    let offline = |offline: bool| json!({"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
    lab.browser.devtools("Network.enable", json!({})).await;
    lab.browser
        .devtools("Network.emulateNetworkConditions", offline(true))
        .await;
    lab.click("#refresh").await;
    let problem = lab.text("#site .problem").await;
    assert!(
        problem.contains("The service can't be reached"),
        "{problem}"
    );
    lab.browser
        .devtools("Network.emulateNetworkConditions", offline(false))
        .await;
    lab.click("#site .problem button").await;
    lab.check_site().await;
    lab.end().await;
}

/// Contrast by WCAG 2.2 (1.4.3), from the styles as the browser computed them.
const CONTRASTS: &str = r"
const rgba = (text) => text.match(/[\d.]+/g).map(Number);
const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const share = e.querySelector(':scope > .share');
    const color = rgba(getComputedStyle(share ?? e).backgroundColor);
    if (color.length < 4 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
const seen = {};
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim() !== '');
  if ((!own && !e.matches('input')) || !e.checkVisibility() || e.closest('svg, .unseen')) continue;
  for (const part of e.matches('input') ? [null, '::placeholder'] : [null]) {
    const [a, b] = [light(rgba(getComputedStyle(e, part).color)), light(ground(e))];
    const name = `${e.tagName} ${e.className} ${e.getAttribute('aria-pressed') ?? ''} ${part ?? ''}`.trim();
    seen[name] = Math.min(seen[name] ?? 99, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
}
return seen;";

#[tokio::test(flavor = "multi_thread")]
async fn everybody_can_read_it_by_day_and_by_night() {
    let Some(lab) = Lab::start("dashboard-readers").await else {
        return;
    };
    let unlabelled = "return [...document.querySelectorAll('input, button, a, summary')]\
        .filter((e) => e.checkVisibility() && !(e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)";
    let headings = "return [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((e) => Number(e.tagName[1]))";
    let regions = "return [...document.querySelectorAll('section, nav, form, [role=group], [role=region]')]\
        .filter((e) => !e.ariaLabel && !document.getElementById(e.getAttribute('aria-labelledby')) && !e.matches('#range-form'))\
        .map((e) => e.outerHTML)";
    let doubled = "const ids = [...document.querySelectorAll('[id]')].map((e) => e.id); return ids.length - new Set(ids).size";
    let mut grounds = BTreeSet::new();
    for scheme in ["light", "dark"] {
        lab.browser.prefer(scheme).await;
        // With numbers, and with problems.
        for query in [
            &format!("?range=30d&user={USER}"),
            "?from=2001-01-01&user=x",
        ] {
            lab.open(query).await;
            let contrasts = lab.browser.script(CONTRASTS).await;
            let contrasts = contrasts.as_object().unwrap();
            assert!(contrasts.len() > 10, "{contrasts:?}");
            for (name, contrast) in contrasts {
                assert!(
                    contrast.as_f64().unwrap() >= 4.5,
                    "{scheme}: {name} {contrast}"
                );
            }
            for none in [unlabelled, regions] {
                assert_eq!(lab.browser.script(none).await, json!([]));
            }
            assert_eq!(lab.browser.script(doubled).await, 0);
            let levels = lab.browser.script(headings).await;
            let levels: Vec<u64> = serde_json::from_value(levels).unwrap();
            assert_eq!(levels.iter().filter(|level| **level == 1).count(), 1);
            assert!(
                levels[0] == 1 && levels.windows(2).all(|two| two[1] <= two[0] + 1),
                "{levels:?}"
            );
        }
        let ground = "return getComputedStyle(document.body).backgroundColor";
        grounds.insert(lab.browser.script(ground).await.to_string());
    }
    assert_eq!(grounds.len(), 2, "{grounds:?}");

    // On a phone nothing sticks out at the side, and the chart fits again.
    lab.open(&format!("?range=30d&user={USER}")).await;
    let phone = lab.browser.screenshot(360, 780).await;
    let wide = "const all = [...document.querySelectorAll('main *')].filter((e) => e.checkVisibility() && !e.closest('.scroll, .unseen, svg')); \
                return [document.documentElement.scrollWidth, Math.max(...all.map((e) => e.getBoundingClientRect().right))]";
    let wide = lab.browser.script(wide).await;
    assert!(
        wide[0] == 360 && wide[1].as_f64().unwrap() <= 348.0,
        "{wide}: the margin is 12"
    );
    lab.browser.prefer("light").await;
    lab.open(&format!("?range=30d&user={USER}")).await;
    let light = lab.browser.screenshot(1200, 1180).await;
    lab.browser.prefer("dark").await;
    let dark = lab.browser.screenshot(1200, 1180).await;
    assert_ne!(light, dark);
    if let Some(folder) = std::env::var_os("DASHBOARD_SCREENSHOTS") {
        for (name, picture) in [
            ("dashboard", light),
            ("dashboard-dark", dark),
            ("dashboard-phone", phone),
        ] {
            let file = std::path::Path::new(&folder).join(format!("{name}.png"));
            std::fs::write(file, BASE64_STANDARD.decode(picture).unwrap()).unwrap();
        }
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_asked_for_where_one_is_needed_and_stays_in_the_tab() {
    let Some(browser) = Browser::start("dashboard-key").await else {
        println!("SKIPPED: no Chromium; install the packages chromium and chromium-driver");
        return;
    };
    let reader = made(&[Scope::Read], |_| {});
    let writer = made(&[Scope::Write], |_| {});
    let app = auth::start(&[&reader, &writer], &[]).await;
    let body = json!({"user_id": USER, "created_at": rfc3339(now()), "page_url": "/pricing"});
    let request = app.request(Method::POST, "/api/traffic/1").json(&body);
    let posted = request.bearer_auth(&writer.secret).send().await.unwrap();
    assert_eq!(posted.status(), StatusCode::CREATED);

    let settled = "document.querySelectorAll('[aria-busy=false]').length === 3";
    let text = async |selector: &str| {
        browser.until(settled).await;
        let script = format!("return document.querySelector('{selector}').innerText");
        browser.script(&script).await.as_str().unwrap().to_owned()
    };
    let shown = "return document.getElementById('key-form').checkVisibility()";
    browser.open(&app.url("/")).await;
    assert!(text("#site .problem").await.contains("A key is needed"));
    assert_eq!(browser.script(shown).await, true);

    let enter = async |secret: &str| {
        browser.fill("#key", secret).await;
        browser.press(ENTER).await;
        browser
            .until("document.getElementById('key').value === ''")
            .await;
    };
    enter(&writer.secret).await;
    browser
        .until("document.querySelector('#site .problem').innerText.includes('scope read')")
        .await;
    enter(&reader.secret).await;
    let views = "document.getElementById('site-views').dataset.value === '1'";
    browser.until(views).await;
    assert_eq!(text("#site .problem").await, "");

    // It is in no address, it survives a reload, and it can be forgotten.
    browser.open(&app.url(&format!("/?user={USER}"))).await;
    browser.until(views).await;
    assert_eq!(text("#user-views").await, "1");
    assert!(!browser.url().await.contains(&reader.secret));
    let kept = "return Object.keys(localStorage).length + document.cookie.length";
    assert_eq!(browser.script(kept).await, 0);
    browser.click("#key-forget").await;
    browser
        .until("document.querySelector('#site .problem').innerText.includes('A key is needed')")
        .await;
    assert_eq!(browser.script("return sessionStorage.length").await, 0);

    // The browser notes the answers of 4xx, and no violation of the policy.
    let console = browser.console().await;
    let noted = |line: &String| line.contains("Failed to load resource");
    assert!(console.iter().all(noted), "{console:?}");
    assert!(
        !console
            .iter()
            .any(|line| line.contains(&reader.secret[16..40]))
    );
    drop(browser);
    app.stop().await;
}
