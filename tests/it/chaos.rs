//! Kills at random moments, under load: whatever was acknowledged is counted exactly once. Half of the
//! senders send page views, the other half events, so both streams share the spool.
//!
//! `CHAOS_ROUNDS` sets how many kills there are (default 10), `CHAOS_SEED` repeats a run's choices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;

use traffic_api::domain::Stream;
use uuid::Uuid;

use crate::events::event;
use crate::support::service::{Service, signal};
use crate::support::{directory, view};

pub const SENDERS: u64 = 16;
pub const USERS: u64 = 4;
/// How often a sender repeats a post before it gives up and never learns what became of it.
const TRIES: usize = 3;
/// What is done to the processes.
const ACTS: [&str; 4] = ["engine", "service", "both", "term"];
const PATIENCE: Duration = Duration::from_secs(60);

/// What the senders know of one view.
#[derive(Clone, Copy, Default)]
struct Known {
    stream: Option<Stream>,
    posted: bool,
    move_tried: bool,
    moved: bool,
    delete_tried: bool,
    deleted: bool,
}

/// Single posts, moves and deletes, and what was answered.
pub struct Load {
    pub address: RwLock<String>,
    pub stop: AtomicBool,
    /// What a client must survive.
    tolerated: &'static [u16],
    /// The only instance, which knows every view that it acknowledged.
    alone: bool,
    next_id: AtomicU64,
    known: Mutex<BTreeMap<u64, Known>>,
    answers: Mutex<BTreeMap<String, u64>>,
}

impl Load {
    pub fn new(address: SocketAddr, tolerated: &'static [u16], alone: bool) -> Self {
        Self {
            address: RwLock::new(address.to_string()),
            stop: AtomicBool::new(false),
            tolerated,
            alone,
            next_id: AtomicU64::new(0),
            known: Mutex::default(),
            answers: Mutex::default(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address.read().unwrap())
    }

    fn count(&self, answer: String) {
        *self.answers.lock().unwrap().entry(answer).or_default() += 1;
    }

    pub async fn send(self: Arc<Self>, seed: u64, stream: Stream) {
        let mut random = StdRng::seed_from_u64(seed);
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        while !self.stop.load(Ordering::Relaxed) {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let user = u32::try_from(id % USERS).unwrap();
            let at = chrono::Utc::now().timestamp() - 5;
            let (path, body) = match stream {
                Stream::PageViews => (
                    format!("/api/traffic/{id}"),
                    view(user, at, &format!("/{id}")),
                ),
                // On a site of its own, so that the report tells it from the others.
                Stream::Events => {
                    let event = event(Uuid::from_u128(id.into()), "serve", Uuid::nil(), at);
                    ("/v1/events".to_owned(), event)
                }
            };
            let disk = random.random_bool(0.2);
            let known = Known {
                stream: Some(stream),
                ..Known::default()
            };
            self.known.lock().unwrap().insert(id, known);
            for _ in 0..TRIES {
                let mut request = http.post(self.url(&path)).json(&body);
                if disk {
                    request = request.header("prefer", "respond-async");
                }
                match request.send().await.map(|r| r.status()) {
                    Ok(status) if status.is_success() => {
                        self.known.lock().unwrap().get_mut(&id).unwrap().posted = true;
                        self.count(status.to_string());
                        // A client may repeat itself even after an answer.
                        if random.random_bool(0.9) {
                            break;
                        }
                    }
                    Ok(status) => {
                        assert!(self.tolerated.contains(&status.as_u16()), "{status}");
                        self.count(status.to_string());
                    }
                    Err(_) => self.count("no answer".to_owned()),
                }
                tokio::time::sleep(Duration::from_millis(random.random_range(1..30))).await;
            }
            if stream == Stream::Events {
                continue;
            }
            if random.random_bool(0.1) {
                self.known.lock().unwrap().get_mut(&id).unwrap().move_tried = true;
                let moved = view(user, at, &format!("/{id}/moved"));
                let request = http
                    .put(self.url(&format!("/api/traffic/{id}")))
                    .json(&moved);
                if self.outcome("PUT", id, request).await == Some(StatusCode::OK) {
                    self.known.lock().unwrap().get_mut(&id).unwrap().moved = true;
                }
            } else if random.random_bool(0.05) {
                self.known
                    .lock()
                    .unwrap()
                    .get_mut(&id)
                    .unwrap()
                    .delete_tried = true;
                let request = http.delete(self.url(&format!("/api/traffic/{id}")));
                if self.outcome("DELETE", id, request).await == Some(StatusCode::NO_CONTENT) {
                    self.known.lock().unwrap().get_mut(&id).unwrap().deleted = true;
                }
            }
        }
    }
}

impl Load {
    /// What an update is answered with, if it is.
    async fn outcome(&self, method: &str, id: u64, request: RequestBuilder) -> Option<StatusCode> {
        let status = request.send().await.map(|response| response.status());
        let unknown = matches!(status, Ok(StatusCode::NOT_FOUND));
        let posted = self.known.lock().unwrap()[&id].posted;
        assert!(
            !(unknown && posted && self.alone),
            "{method}: {id} was acknowledged and is unknown"
        );
        match &status {
            Ok(status) => self.count(format!("{method} {status}")),
            Err(_) => self.count(format!("{method} no answer")),
        }
        status.ok()
    }

    /// Everything that was answered, and how often.
    pub fn answers(&self) -> BTreeMap<String, u64> {
        self.answers.lock().unwrap().clone()
    }

    /// Compares what was acknowledged with what is counted; returns how many page views and how many
    /// events were acknowledged.
    pub async fn verify(&self, story: &str) -> [u64; 2] {
        let http = reqwest::Client::new();
        let mut counted: BTreeMap<String, u64> = BTreeMap::new();
        for user in 0..USERS {
            let report = get(&http, self.url(&format!("/api/traffic/daily/{user}")))
                .await
                .unwrap();
            for (page, views) in report.as_object().unwrap() {
                counted.insert(page.clone(), views.as_u64().unwrap());
            }
        }
        let mut next = String::new();
        loop {
            let path = format!("/v1/report?limit=1000&interval=day{next}");
            let report = get(&http, self.url(&path)).await.unwrap();
            for counter in report["counters"].as_array().unwrap() {
                // A run may go on over midnight.
                let site = counter["site_id"].as_str().unwrap().to_owned();
                *counted.entry(site).or_default() += counter["served"].as_u64().unwrap();
            }
            match report["next"].as_str() {
                Some(cursor) => next = format!("&after={cursor}"),
                None => break,
            }
        }
        let known = self.known.lock().unwrap();
        let views = |page: String| counted.get(&page).copied().unwrap_or(0);
        let mut acknowledged = [0_u64; 2];
        for (id, known) in known.iter() {
            let of_events = known.stream == Some(Stream::Events);
            let name = match of_events {
                true => Uuid::from_u128((*id).into()).to_string(),
                false => format!("/{id}"),
            };
            let (here, there) = (views(name), views(format!("/{id}/moved")));
            assert!(
                here + there <= 1,
                "{id} is counted {here} + {there} times; {story}"
            );
            if known.deleted {
                assert_eq!(here + there, 0, "{id} was deleted and is counted; {story}");
            }
            if known.posted && !known.delete_tried {
                acknowledged[usize::from(of_events)] += 1;
                assert_eq!(
                    here + there,
                    1,
                    "{id} was acknowledged and is lost; {story}"
                );
            }
            if known.moved {
                assert_eq!(there, 1, "the move of {id} is lost; {story}");
            }
            assert!(known.move_tried || there == 0, "{id} moved by itself");
        }
        println!(
            "{story}: {} views and events, {acknowledged:?} acknowledged, none lost, none counted twice; {:?}",
            known.len(),
            self.answers()
        );
        acknowledged
    }
}

async fn start(data: &Path) -> Service {
    let data = data.to_owned();
    tokio::task::spawn_blocking(move || Service::start(&data))
        .await
        .unwrap()
}

async fn get(http: &reqwest::Client, url: String) -> Option<Value> {
    let answer = http.get(url).send().await.ok()?;
    (answer.status() == 200).then_some(answer.json().await.ok()?)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_views_survive_kills_at_random_moments() {
    let seed = number("CHAOS_SEED", rand::random());
    println!("CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let data = directory("chaos");
    let mut service = start(&data).await;
    let load = Arc::new(Load::new(service.address, &[429, 503], true));
    let senders: Vec<_> = (0..SENDERS)
        .map(|n| {
            let stream = Stream::ALL[(n % 2) as usize];
            tokio::spawn(Arc::clone(&load).send(seed ^ n, stream))
        })
        .collect();

    // Every act comes round, in random order.
    let rounds = usize::try_from(number("CHAOS_ROUNDS", 10)).unwrap();
    let mut acts: Vec<&str> = ACTS.iter().copied().cycle().take(rounds).collect();
    acts.shuffle(&mut random);
    let mut story = Vec::new();
    for act in acts {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..700))).await;
        let engine = service.children().first().copied();
        story.push(act);
        match (act, engine) {
            ("engine", Some(engine)) => signal(engine, "KILL"),
            // It is just being started again.
            ("engine", None) => {}
            ("both", Some(engine)) => {
                signal(engine, "KILL");
                service.kill();
            }
            ("term", _) => {
                let status = tokio::task::block_in_place(|| service.terminate());
                assert!(status.success(), "{status}");
            }
            _ => service.kill(),
        }
        if act != "engine" {
            service = start(&data).await;
            *load.address.write().unwrap() = service.address.to_string();
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    load.stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await.unwrap();
    }

    let http = reqwest::Client::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ready = get(&http, load.url("/health/ready"))
            .await
            .unwrap_or_default();
        if ready["status"] == "ok" && ready["spool"]["files"] == 0 {
            assert_eq!(ready["spool"]["rejected_files"], 0, "{ready}");
            break;
        }
        assert!(Instant::now() < deadline, "no recovery: {ready}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let acknowledged = load.verify(&format!("{story:?}")).await;
    let answers = load.answers();
    assert!(
        answers.keys().any(|a| a.starts_with("201"))
            && answers.keys().any(|a| a.starts_with("202"))
    );
    assert!(
        acknowledged.iter().all(|n| *n > 100),
        "too little load to prove anything"
    );
    assert!(tokio::task::block_in_place(|| service.terminate()).success());
}
