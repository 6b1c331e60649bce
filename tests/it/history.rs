//! The data model's proof: random histories through HTTP, compared with a dictionary.
//!
//! Two instances with clocks that disagree work on one database. After every step both instances'
//! daily reports of every user must equal what the dictionary says. `HISTORY_CASES` sets how many
//! histories run (default 24; 6 with sealing), `HISTORY_SEED` repeats a run.
//!
//! The same steps make histories of events, as far as events have them: there is nothing to update, but
//! an event may come again with another time, and the earliest counts.
//!
//! The same histories run once more while hours are sealed at random moments: by two sealers at once,
//! in part, stopped between the steps, amid an update, with rows that come late or long after their
//! mark. Then one instance reads every report from the pre-aggregate and the other from the claims, and
//! reports on other windows and on the whole site are compared as well.
//!
//! Both run again on a cluster of two shards, each instance on another one, and the first once through
//! nginx, which chooses the instance, so there both have one clock. `HISTORY_CASES` is for all.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use traffic_api::domain::{
    Clock, CountersQuery, CreatedAt, DaysQuery, Hour, Interval, MAX_LIMIT, PagesQuery,
    PagesRequest, ReportWindow, SiteId, SiteQuery, Stream, UserId,
};
use traffic_api::repository::{
    EventReports, LEAST_SEAL_DELAY, Moment, Plan, Reconciler, Reports, RivalEvents, Seals,
    ServerTime,
};
use uuid::Uuid;

use crate::support::cluster::{CLUSTER, Cluster};
use crate::support::nginx::{self, Nginx};
use crate::support::{
    Answer, ClickHouse, MarkClock, TestApp, TestClock, fresh_database, repository, shared_engine,
    view,
};

const SLOTS: u64 = 6;
const USERS: u32 = 3;
const PAGES: [&str; 3] = ["/a", "/b", "https://example.org/c?d=\"'"];
/// How far the second instance's clock runs behind the first's, in seconds, where we know which one
/// answers.
const BEHIND: i64 = 20;
const DAY: i64 = 86_400;
/// Whose days begin at other minutes.
const ZONES: [Tz; 3] = [Tz::UTC, Tz::Asia__Kathmandu, Tz::America__St_Johns];
const INTERVALS: [(Interval, &str); 3] = [
    (Interval::Day, ""),
    (Interval::Hour, "/"),
    (Interval::Total, "https"),
];
/// What the pages are in a history of events.
const TYPES: [&str; 3] = ["serve", "solve", "click"];

/// What the histories are about: users and their pages, or sites and their types of events.
#[derive(Clone, Copy)]
struct Subject {
    stream: Stream,
    tables: &'static [&'static str],
    seals: &'static str,
    seals_of: fn(traffic_api::repository::ClickHouse, Duration) -> Seals,
}

const VIEWS: Subject = Subject {
    stream: Stream::PageViews,
    tables: &[
        "traffic",
        "traffic_by_request",
        "traffic_hourly",
        "traffic_hourly_pages",
        "traffic_seals",
    ],
    seals: "traffic_seals",
    seals_of: Seals::new,
};

const EVENTS: Subject = Subject {
    stream: Stream::Events,
    tables: &["events", "events_hourly", "events_seals"],
    seals: "events_seals",
    seals_of: Seals::of_events,
};

/// The service's reports below HTTP: from the pre-aggregate, and from the claims.
enum Readers {
    Views(Box<[Reports; 2]>),
    Events(Box<[EventReports; 2]>),
}

/// The site that stands for a user, and the correlation id that stands for a request id.
fn named(number: u64) -> Uuid {
    Uuid::from_u64_pair(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number)
}

/// The content of a view, as small choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    user: u32,
    age: i64,
    page: usize,
}

#[derive(Debug, Clone)]
enum Step {
    /// The view of a slot for the first time, or again: so many copies at once, so many after.
    Post {
        slot: u64,
        content: Content,
        at_once: usize,
        after: usize,
    },
    Put {
        slot: u64,
        content: Content,
    },
    PatchPage {
        slot: u64,
        page: usize,
    },
    PatchAge {
        slot: u64,
        age: i64,
    },
    /// There and back again.
    Return {
        slot: u64,
        between: Content,
    },
    Delete {
        slot: u64,
    },
    /// Two instances update one view at once.
    Race {
        slot: u64,
        one: Content,
        two: Content,
    },
    /// An update at once with late copies of the first post.
    RaceWithRetry {
        slot: u64,
        content: Content,
    },
    /// An update at once with a delete.
    RaceWithDelete {
        slot: u64,
        content: Content,
    },
    /// An event comes again with another time: to an instance that knows it, or to one that may not,
    /// and then a sweep follows.
    Again {
        slot: u64,
        age: i64,
        known: bool,
    },
    /// A user is erased, while a view of theirs arrives at the other instance.
    Erase {
        slot: u64,
        content: Content,
    },
    /// All parts merged into one.
    Optimize,
    /// Another time of day, forward or back.
    Clock {
        seconds: i64,
    },
    /// Some hours are sealed, by one sealer or two.
    Seal {
        hours: u64,
        late_only: bool,
        /// How many of its steps are done before the crash; 3 is all.
        steps: usize,
        twice: bool,
        amid: Option<(u64, Content)>,
    },
    /// Time passes on ClickHouse's clock.
    Pass {
        seconds: i64,
    },
    /// A post that is marked at once and readable only later, when some hours have been sealed
    /// meanwhile.
    Delayed {
        slot: u64,
        content: Content,
        seconds: i64,
        hours: u64,
    },
}

fn content() -> impl Strategy<Value = Content> {
    // Around the edges of the report's window and of an hour, and anywhere in three days.
    let age = prop_oneof![
        Just(BEHIND),
        Just(BEHIND + 1),
        Just(DAY - 1),
        Just(DAY),
        Just(DAY + 1),
        Just(3599_i64),
        Just(3600_i64),
        BEHIND..3 * DAY,
    ];
    (0..USERS, age, 0..PAGES.len()).prop_map(|(user, age, page)| Content { user, age, page })
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..SLOTS;
    prop_oneof![
        6 => (slot.clone(), content(), 1..4_usize, 0..2_usize).prop_map(
            |(slot, content, at_once, after)| Step::Post { slot, content, at_once, after }),
        4 => (slot.clone(), content()).prop_map(|(slot, content)| Step::Put { slot, content }),
        2 => (slot.clone(), 0..PAGES.len()).prop_map(|(slot, page)| Step::PatchPage { slot, page }),
        2 => (slot.clone(), BEHIND..3 * DAY).prop_map(|(slot, age)| Step::PatchAge { slot, age }),
        1 => (slot.clone(), content()).prop_map(|(slot, between)| Step::Return { slot, between }),
        1 => slot.clone().prop_map(|slot| Step::Delete { slot }),
        2 => (slot.clone(), content(), content())
            .prop_map(|(slot, one, two)| Step::Race { slot, one, two }),
        1 => (slot.clone(), content())
            .prop_map(|(slot, content)| Step::RaceWithRetry { slot, content }),
        1 => (slot.clone(), content())
            .prop_map(|(slot, content)| Step::RaceWithDelete { slot, content }),
        1 => (slot, content()).prop_map(|(slot, content)| Step::Erase { slot, content }),
        1 => Just(Step::Optimize),
        2 => (-3 * DAY..3 * DAY).prop_map(|seconds| Step::Clock { seconds }),
    ]
}

fn event_step() -> impl Strategy<Value = Step> {
    let slot = 0..SLOTS;
    prop_oneof![
        6 => (slot.clone(), content(), 1..4_usize, 0..2_usize).prop_map(
            |(slot, content, at_once, after)| Step::Post { slot, content, at_once, after }),
        3 => (slot, content(), any::<bool>()).prop_map(
            |(slot, content, known)| Step::Again { slot, age: content.age, known }),
        1 => Just(Step::Optimize),
        2 => (-3 * DAY..3 * DAY).prop_map(|seconds| Step::Clock { seconds }),
    ]
}

fn sealing_step(step: impl Strategy<Value = Step>) -> impl Strategy<Value = Step> {
    // Around the time after which counts cover a mark, and far behind it.
    let seconds = prop_oneof![
        Just(1_i64),
        Just(59),
        Just(60),
        Just(61),
        Just(3000),
        Just(DAY)
    ];
    let hours = || (any::<u64>(), any::<u64>()).prop_map(|(a, b)| a & b);
    let seal = (
        hours(),
        any::<bool>(),
        prop_oneof![4 => Just(3_usize), 1 => 0..3_usize],
        any::<bool>(),
        option::weighted(0.3, (0..SLOTS, content())),
    );
    prop_oneof![
        20 => step,
        8 => seal.prop_map(|(hours, late_only, steps, twice, amid)| {
            Step::Seal { hours, late_only, steps, twice, amid }
        }),
        6 => seconds.prop_map(|seconds| Step::Pass { seconds }),
        // Merges drop rows that do not count, and their marks.
        3 => Just(Step::Optimize),
        3 => (0..SLOTS, content(), 0..60_i64, hours()).prop_map(
            |(slot, content, seconds, hours)| Step::Delayed { slot, content, seconds, hours }),
    ]
}

/// A view as the dictionary has it: user, time, page.
type Entry = (u32, i64, usize);

/// One history: its own users and request ids, so that many can share a database.
struct History<'a> {
    subject: Subject,
    rivals: &'a RivalEvents,
    nodes: &'a [TestApp; 2],
    clock: &'a TestClock,
    /// How far the second one's is behind.
    behind: i64,
    first_id: u64,
    first_user: u32,
    posted: BTreeMap<u64, Entry>,
    current: BTreeMap<u64, Entry>,
    /// Of each user the last second that is erased.
    erased: BTreeMap<u32, i64>,
    turn: usize,
    sealing: Option<Sealing<'a>>,
    checks: Cell<usize>,
}

/// What a history needs to be sealed.
struct Sealing<'a> {
    subject: Subject,
    marks: &'a MarkClock,
    seals: &'a [Seals; 2],
    readers: &'a Readers,
    /// ClickHouse's clock, in milliseconds.
    now: i64,
    /// What rows are marked with.
    marked: Option<i64>,
    /// The hours that rows were ever in.
    hours: BTreeSet<Hour>,
}

impl Sealing<'_> {
    fn pass(&mut self, millis: i64) {
        self.now += millis;
    }

    async fn set_mark_clock(&mut self) {
        if self.marked != Some(self.now) {
            self.marks.set(self.now).await;
            self.marked = Some(self.now);
        }
    }

    /// The hours that a mask chooses, those with rows and some without.
    fn chosen(&self, mask: u64) -> Vec<Hour> {
        let last = Hour::containing(u32::try_from(self.now / 1000).unwrap());
        let around = [2_u32, 3, 12, 24, 25, 26].map(|ago| last.start() - ago * 3600);
        let all = self.hours.iter().copied();
        let all: BTreeSet<Hour> = all.chain(around.map(Hour::containing)).collect();
        let chosen = all.into_iter().enumerate();
        chosen
            .filter(|(i, _)| mask >> (i % 64) & 1 == 1)
            .map(|(_, hour)| hour)
            .collect()
    }

    async fn seal(&self, node: usize, hours: &[Hour], as_of: i64, late_only: bool, steps: usize) {
        let (seals, as_of) = (&self.seals[node], ServerTime::from_millis(as_of));
        for hour in hours {
            if !seals.is_closed(*hour, as_of) {
                continue;
            }
            let recorded = format!(
                "SELECT count() FROM {} WHERE hour = toDateTime({}, 'UTC')",
                self.subject.seals,
                hour.start()
            );
            // Late users alone may be counted only where all were counted before.
            let late_only = late_only && self.marks.sql(&recorded).await != "0";
            if steps > 0 && late_only {
                seals.count_late(*hour, as_of).await.unwrap();
            } else if steps > 0 {
                seals.count_whole(*hour, as_of).await.unwrap();
            }
            if steps > 1 {
                seals.count_rest(*hour, as_of).await.unwrap();
            }
            if steps > 2 {
                seals.record(*hour, as_of, as_of).await.unwrap();
            }
        }
    }
}

impl History<'_> {
    fn node(&mut self) -> &TestApp {
        self.turn += 1;
        &self.nodes[self.turn % 2]
    }

    fn entry(&self, content: Content) -> Entry {
        (content.user, self.clock.now() - content.age, content.page)
    }

    fn body(&self, (user, at, page): Entry) -> Value {
        view(self.first_user + user, at, PAGES[page])
    }

    fn id(&self, slot: u64) -> u64 {
        self.first_id + slot
    }

    /// After a race: what the service says the view is; it must be one of the candidates.
    async fn adopt(&mut self, slot: u64, candidates: &[Option<Entry>]) {
        let (id, node) = (self.id(slot), self.node());
        let answer = node.get(&format!("/api/traffic/{id}")).await;
        let found = candidates.iter().find(|candidate| match candidate {
            None => answer.status == StatusCode::NOT_FOUND,
            Some(entry) => {
                let body = self.body(*entry);
                answer.status == StatusCode::OK
                    && ["user_id", "created_at", "page_url"]
                        .iter()
                        .all(|f| answer.body[f] == body[f])
            }
        });
        match found.unwrap_or_else(|| panic!("{answer:?} is none of {candidates:?}")) {
            Some(entry) => self.current.insert(slot, *entry),
            None => self.current.remove(&slot),
        };
    }

    async fn update(&mut self, slot: u64, entry: Entry) {
        let (id, body) = (self.id(slot), self.body(entry));
        let is_erased = self.is_erased(entry);
        let expected = match self.current.get_mut(&slot) {
            Some(_) if is_erased => StatusCode::GONE,
            Some(current) => {
                *current = entry;
                StatusCode::OK
            }
            None => StatusCode::NOT_FOUND,
        };
        let answer = self.node().put(id, &body).await;
        assert_eq!(answer.status, expected, "{answer:?}");
    }

    async fn patch(&mut self, slot: u64, change: Value, entry: impl Fn(Entry) -> Entry) {
        let id = self.id(slot);
        let answer = self.node().patch(id, &change).await;
        let changed = self.current.get(&slot).map(|current| entry(*current));
        let is_erased = changed.is_some_and(|changed| self.is_erased(changed));
        match self.current.get_mut(&slot) {
            Some(_) if is_erased => assert_eq!(answer.status, StatusCode::GONE, "{answer:?}"),
            Some(current) => {
                *current = entry(*current);
                assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            }
            None => assert_eq!(answer.status, StatusCode::NOT_FOUND),
        }
    }

    async fn send(&self, node: &TestApp, slot: u64, entry: Entry) -> Answer {
        match self.subject.stream {
            Stream::PageViews => node.post(self.id(slot), &self.body(entry)).await,
            Stream::Events => crate::events::post(node, &self.event(slot, entry)).await,
        }
    }

    fn event(&self, slot: u64, (site, at, of): Entry) -> Value {
        let site = named((self.first_user + site).into());
        crate::events::event(site, TYPES[of], named(self.id(slot)), at)
    }

    /// Sends a known event with another time.
    async fn again(&mut self, slot: u64, age: i64, known: bool) {
        let time = self.clock.now() - age;
        let Some(entry) = self.current.get(&slot).copied() else {
            return;
        };
        if time > self.clock.now() - BEHIND {
            return;
        }
        // The first instance was told of every event.
        let node = &self.nodes[usize::from(!known)];
        let answer = self.send(node, slot, (entry.0, time, entry.2)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        if !known {
            self.rivals.settle().await.unwrap();
        }
        self.current
            .insert(slot, (entry.0, entry.1.min(time), entry.2));
        if let Some(sealing) = &mut self.sealing {
            let hour = Hour::containing(u32::try_from(time).unwrap());
            sealing.hours.insert(hour);
        }
    }

    async fn post(&mut self, slot: u64, entry: Entry, at_once: usize) {
        let nodes = self.nodes;
        let copies = (0..at_once).map(|copy| self.send(&nodes[copy % 2], slot, entry));
        for answer in join_all(copies).await {
            // An instance that has not heard of an erasure takes in what does not count.
            let is_fine = answer.status == StatusCode::CREATED
                || (answer.status == StatusCode::GONE && self.is_erased(entry));
            assert!(is_fine, "{answer:?}");
        }
    }

    fn is_erased(&self, (user, at, _): Entry) -> bool {
        self.erased.get(&user).is_some_and(|until| at <= *until)
    }

    /// Erases the user of a view while the view arrives, for the first time or again.
    async fn erase(&mut self, slot: u64, content: Content) {
        let known = self.posted.get(&slot).copied();
        let entry = known.unwrap_or_else(|| self.entry(content));
        if entry.1 > self.clock.now() - BEHIND {
            return;
        }
        let body = self.body(entry);
        let path = format!("/api/users/{}/traffic", self.first_user + entry.0);
        let (eraser, other) = (&self.nodes[self.turn % 2], &self.nodes[(self.turn + 1) % 2]);
        let answers = tokio::join!(
            eraser.call(Method::DELETE, &path, &Value::Null),
            other.post(self.id(slot), &body)
        );
        assert_eq!(answers.0.status, StatusCode::OK, "{:?}", answers.0);
        let posted = answers.1.status;
        assert!(posted == StatusCode::CREATED || posted == StatusCode::GONE);
        let until = answers.0.body["erased_until"].as_str().unwrap();
        let until = DateTime::parse_from_rfc3339(until).unwrap().timestamp();
        let newest = self.erased.entry(entry.0).or_insert(until);
        *newest = until.max(*newest);
        self.posted.insert(slot, entry);
        let mut current = std::mem::take(&mut self.current);
        current.retain(|_, entry| !self.is_erased(*entry));
        self.current = current;
        if known.is_none() && !self.is_erased(entry) {
            self.current.insert(slot, entry);
        }
    }

    async fn apply(&mut self, step: &Step) {
        if let Some(sealing) = &mut self.sealing {
            let now = self.clock.now() * 1000;
            sealing.pass(1 + (now - sealing.now).max(0));
            sealing.set_mark_clock().await;
        }
        self.take(step).await;
        let entries = self.posted.values().chain(self.current.values());
        let hour = |entry: &Entry| Hour::containing(u32::try_from(entry.1).unwrap());
        let hours: Vec<Hour> = entries.map(hour).collect();
        if let Some(sealing) = &mut self.sealing {
            sealing.hours.extend(hours);
        }
    }

    async fn seal(&mut self, step: &Step) {
        let Step::Seal {
            hours,
            late_only,
            steps,
            twice,
            amid,
        } = *step
        else {
            return;
        };
        let amid = amid.filter(|(slot, _)| self.current.contains_key(slot));
        let update = amid.map(|(slot, content)| {
            let (owner, at, of) = self.entry(content);
            match (self.subject.stream, self.current[&slot]) {
                (Stream::PageViews, _) => (slot, (owner, at, of)),
                // An event comes again, a little earlier.
                (Stream::Events, (owner, at, of)) => (slot, (owner, at - content.age, of)),
            }
        });
        // The clock may have gone back since the event.
        let update = update.filter(|(_, (_, at, _))| *at <= self.clock.now());
        let update = update.filter(|(_, entry)| !self.is_erased(*entry));
        let sealing = self.sealing.as_ref().unwrap();
        let (hours, now) = (sealing.chosen(hours), sealing.now);
        let rival = async {
            if twice {
                sealing.seal(1, &hours, now - 1, late_only, steps).await;
            }
        };
        let updated = async {
            if let Some((slot, entry)) = update {
                let (answer, expected) = match self.subject.stream {
                    Stream::PageViews => {
                        let body = self.body(entry);
                        let answer = self.nodes[0].put(self.id(slot), &body).await;
                        (answer, StatusCode::OK)
                    }
                    Stream::Events => (
                        self.send(&self.nodes[0], slot, entry).await,
                        StatusCode::CREATED,
                    ),
                };
                assert_eq!(answer.status, expected, "{answer:?}");
            }
        };
        tokio::join!(
            sealing.seal(0, &hours, now, late_only, steps),
            rival,
            updated
        );
        if let Some((slot, entry)) = update {
            self.current.insert(slot, entry);
        }
    }

    /// ClickHouse looks at the clock at one time, and the row can be read later.
    async fn delayed(&mut self, slot: u64, content: Content, seconds: i64, hours: u64) {
        let entry = self.entry(content);
        let is_odd = entry.1 > self.clock.now() - BEHIND || self.is_erased(entry);
        if self.posted.contains_key(&slot) || is_odd {
            return;
        }
        let (user, at, page) = entry;
        let (id, owner) = (self.id(slot), self.first_user + user);
        let row = match self.subject.stream {
            Stream::PageViews => {
                let page = PAGES[page].replace('\'', "\\'");
                format!("INSERT INTO traffic VALUES ({id}, {owner}, {at}, '{page}', 0, 0)")
            }
            Stream::Events => format!(
                "INSERT INTO events VALUES ('{}', '{}', {at}, '{}', 0, 0)",
                named(owner.into()),
                TYPES[page],
                named(id)
            ),
        };
        let sealing = self.sealing.as_mut().unwrap();
        // The clock of marks stands still meanwhile.
        sealing.pass(seconds * 1000);
        let hours = sealing.chosen(hours);
        sealing.seal(0, &hours, sealing.now, false, 3).await;
        sealing.marks.sql(&row).await;
        // What no instance was told of, the first one is told now; it is the same row.
        if self.subject.stream == Stream::Events {
            self.post(slot, entry, 1).await;
        }
        self.posted.insert(slot, entry);
        self.current.insert(slot, entry);
    }

    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Post {
                slot,
                content,
                at_once,
                after,
            } => {
                let known = self.posted.get(&slot).copied();
                let entry = known.unwrap_or_else(|| self.entry(content));
                if entry.1 > self.clock.now() - BEHIND {
                    return; // in the future after the clock went back
                }
                self.post(slot, entry, at_once).await;
                for _ in 0..after {
                    self.post(slot, entry, 1).await;
                }
                if known.is_none() {
                    self.posted.insert(slot, entry);
                    if !self.is_erased(entry) {
                        self.current.insert(slot, entry);
                    }
                }
            }
            Step::Put { slot, content } => self.update(slot, self.entry(content)).await,
            Step::PatchPage { slot, page } => {
                self.patch(slot, json!({"page_url": PAGES[page]}), |(u, t, _)| {
                    (u, t, page)
                })
                .await;
            }
            Step::PatchAge { slot, age } => {
                let at = self.clock.now() - age;
                let change = json!({"created_at": crate::support::rfc3339(at)});
                self.patch(slot, change, |(u, _, p)| (u, at, p)).await;
            }
            Step::Return { slot, between } => {
                let Some(before) = self.current.get(&slot).copied() else {
                    return;
                };
                if before.1 > self.clock.now() - BEHIND {
                    return;
                }
                self.update(slot, self.entry(between)).await;
                self.update(slot, before).await;
            }
            Step::Delete { slot } => {
                let id = self.id(slot);
                let expected = match self.current.remove(&slot) {
                    Some(_) => StatusCode::NO_CONTENT,
                    None => StatusCode::NOT_FOUND,
                };
                assert_eq!(self.node().delete(id).await.status, expected);
            }
            Step::Race { slot, one, two } => {
                if !self.current.contains_key(&slot) {
                    return;
                }
                let (one, two) = (self.entry(one), self.entry(two));
                if self.is_erased(one) || self.is_erased(two) {
                    return;
                }
                let (id, a, b) = (self.id(slot), self.body(one), self.body(two));
                let answers = tokio::join!(self.nodes[0].put(id, &a), self.nodes[1].put(id, &b));
                assert_eq!(
                    (answers.0.status, answers.1.status),
                    (StatusCode::OK, StatusCode::OK)
                );
                self.adopt(slot, &[Some(one), Some(two)]).await;
            }
            Step::RaceWithRetry { slot, content } => {
                let (Some(first), true) = (
                    self.posted.get(&slot).copied(),
                    self.current.contains_key(&slot),
                ) else {
                    return;
                };
                if first.1 > self.clock.now() - BEHIND {
                    return;
                }
                let entry = self.entry(content);
                if self.is_erased(entry) || self.is_erased(first) {
                    return;
                }
                let (id, retry, update) = (self.id(slot), self.body(first), self.body(entry));
                let answers = tokio::join!(
                    self.nodes[0].post(id, &retry),
                    self.nodes[1].put(id, &update)
                );
                assert_eq!(answers.0.status, StatusCode::CREATED, "{:?}", answers.0);
                assert_eq!(answers.1.status, StatusCode::OK);
                self.current.insert(slot, entry);
            }
            Step::RaceWithDelete { slot, content } => {
                if !self.current.contains_key(&slot) {
                    return;
                }
                let entry = self.entry(content);
                if self.is_erased(entry) {
                    return;
                }
                let (id, update) = (self.id(slot), self.body(entry));
                let answers =
                    tokio::join!(self.nodes[0].delete(id), self.nodes[1].put(id, &update));
                assert_eq!(answers.0.status, StatusCode::NO_CONTENT);
                let updated = answers.1.status;
                assert!(updated == StatusCode::OK || updated == StatusCode::NOT_FOUND);
                self.adopt(slot, &[Some(entry), None]).await;
            }
            Step::Again { slot, age, known } => self.again(slot, age, known).await,
            Step::Erase { slot, content } => self.erase(slot, content).await,
            Step::Optimize => {
                let node = &self.nodes[0];
                for table in self.subject.tables {
                    let table = node.clickhouse.rows_of(table);
                    node.sql(&format!("OPTIMIZE TABLE {table} FINAL")).await;
                }
            }
            Step::Clock { seconds } => self.clock.set(self.clock.now() + seconds),
            Step::Seal { .. } => self.seal(step).await,
            Step::Pass { seconds } => self.sealing.as_mut().unwrap().pass(seconds * 1000),
            Step::Delayed {
                slot,
                content,
                seconds,
                hours,
            } => self.delayed(slot, content, seconds, hours).await,
        }
    }

    /// Compares every cell (user, page) of both instances' reports; returns how many.
    async fn check(&self) -> u64 {
        match self.subject.stream {
            Stream::PageViews => self.check_views().await,
            Stream::Events => self.check_events().await,
        }
    }

    /// Compares every cell (site, type) of both instances' reports, and of other windows.
    async fn check_events(&self) -> u64 {
        let sites = (0..USERS).map(|site| named((self.first_user + site).into()));
        let sites: Vec<Uuid> = sites.collect();
        let mut cells = 0;
        let (now, interval) = (self.clock.now(), self.in_turn(&[3600, DAY]));
        for (node, behind) in self.nodes.iter().zip([0, self.behind]) {
            let (from, until) = (now - behind - DAY + 1, now - behind + 1);
            let named: String = sites
                .iter()
                .map(|site| format!("&site_id={site}"))
                .collect();
            let query = format!(
                "from={}&to={}&interval={}{named}",
                crate::support::rfc3339(from),
                crate::support::rfc3339(until),
                if interval == DAY { "day" } else { "hour" }
            );
            let found = crate::events::counted(node, &query).await;
            assert_eq!(found, self.events(from, until, interval), "at {now}");
            cells += u64::from(USERS) * TYPES.len() as u64;
        }
        self.checks.set(self.checks.get() + 1);
        let Some(sealing) = &self.sealing else {
            return cells;
        };
        let Readers::Events(reports) = sealing.readers else {
            return cells;
        };
        let hour = now - now % 3600;
        for (from, until) in [(hour - DAY, hour), (now - 3 * DAY, now - 1800)] {
            let query = CountersQuery {
                window: window(from, until),
                interval: if interval == DAY {
                    Interval::Day
                } else {
                    Interval::Hour
                },
                sites: sites.iter().map(|site| SiteId::new(*site)).collect(),
                types: Vec::new(),
                limit: MAX_LIMIT,
                after: None,
            };
            let reports = &reports[usize::from(self.checks.get() % 4 == 3)];
            let mut found = Vec::new();
            for counter in reports.counters(&query).await.unwrap().counters {
                let (start, site) = (counter.start.to_string(), counter.site_id.to_string());
                let row = |(of, n)| (start.clone(), site.clone(), of, n);
                found.extend(counter.counts.into_iter().map(row));
            }
            assert_eq!(
                found,
                self.events(from, until, interval),
                "{from}..{until} at {now}"
            );
            cells += found.len().max(TYPES.len()) as u64;
        }
        cells
    }

    /// What the dictionary has of a window: (start, site, type) and how many.
    fn events(&self, from: i64, until: i64, interval: i64) -> Vec<(String, String, String, u64)> {
        let mut counts: BTreeMap<(String, String, String), u64> = BTreeMap::new();
        for (site, at, of) in self
            .current
            .values()
            .filter(|e| (from..until).contains(&e.1))
        {
            let site = named((self.first_user + site).into()).to_string();
            let start = crate::support::rfc3339(at - at % interval);
            *counts
                .entry((start, site, TYPES[*of].to_owned()))
                .or_default() += 1;
        }
        let row = |((start, site, of), n)| (start, site, of, n);
        counts.into_iter().map(row).collect()
    }

    async fn check_views(&self) -> u64 {
        let mut cells = 0;
        for user in 0..USERS {
            for (node, behind) in self.nodes.iter().zip([0, self.behind]) {
                let now = self.clock.now() - behind;
                let mut expected = serde_json::Map::new();
                for (_, at, page) in self.current.values().filter(|(u, ..)| *u == user) {
                    if now - DAY < *at && *at <= now {
                        let count = expected.entry(PAGES[*page]).or_insert(json!(0));
                        *count = json!(count.as_u64().unwrap() + 1);
                    }
                }
                let report = node.daily(self.first_user + user).await;
                assert_eq!(report, Value::Object(expected), "user {user} at {now}");
                cells += PAGES.len() as u64;
            }
        }
        if let Some(sealing) = &self.sealing
            && let Readers::Views(reports) = sealing.readers
        {
            // Whole hours, none of them, and edges.
            let now = self.clock.now();
            let hour = now - now % 3600;
            let windows = [(hour - DAY, hour), (now - 3 * DAY, now - 1800)];
            self.checks.set(self.checks.get() + 1);
            // Mostly from the pre-aggregate: the claims have no more ways than one to be wrong.
            let reports = &reports[usize::from(self.checks.get() % 4 == 3)];
            for (from, until) in windows {
                cells += self.check_window(reports, from, until).await;
            }
            cells += self.check_days(reports, now - 3 * DAY, now).await;
        }
        cells
    }

    /// Compares the reports of every user and of the site on any window.
    async fn check_window(&self, reports: &Reports, from: i64, until: i64) -> u64 {
        let window = window(from, until);
        let within = self
            .current
            .values()
            .filter(|(_, at, _)| (from..until).contains(at));
        let mut by_user: BTreeMap<(u32, usize), u64> = BTreeMap::new();
        for (user, _, page) in within {
            *by_user.entry((*user, *page)).or_default() += 1;
        }
        let mut cells = 0;
        for user in 0..USERS {
            cells += PAGES.len() as u64;
            let id = UserId::new(self.first_user + user);
            let report = reports.daily(id, window).await.unwrap();
            let found: BTreeMap<&str, u64> = report
                .pages
                .iter()
                .map(|(page, n)| (page.as_str(), *n))
                .collect();
            let own = by_user.iter().filter(|((u, _), _)| *u == user);
            let expected = own.map(|((_, page), n)| (PAGES[*page], *n)).collect();
            assert_eq!(found, expected, "user {user} in {from}..{until}");
        }
        for (interval, prefix) in [(Interval::Total, ""), self.in_turn(&INTERVALS)] {
            cells += self
                .check_pages(reports, (from, until), interval, prefix)
                .await;
        }
        let interval = self.in_turn(&[Interval::Total, Interval::Day, Interval::Hour]);
        cells + self.check_site(reports, (from, until), interval).await
    }

    /// One of several, another one at each check.
    fn in_turn<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.checks.get() % choices.len()]
    }

    /// Compares the days of every user in a zone.
    async fn check_days(&self, reports: &Reports, from: i64, until: i64) -> u64 {
        let zone = self.in_turn(&ZONES);
        let local = |at: i64| {
            let at = DateTime::from_timestamp(at, 0).unwrap();
            at.with_timezone(&zone).date_naive()
        };
        let query = DaysQuery::new(zone, local(from), local(until).succ_opt().unwrap(), true);
        let dates = query.from().iter_days();
        let dates: Vec<_> = dates.take_while(|date| *date < query.to()).collect();
        for user in 0..USERS {
            let mut expected: BTreeMap<(NaiveDate, &str), u64> = BTreeMap::new();
            for (_, at, page) in self.current.values().filter(|(u, ..)| *u == user) {
                if dates.contains(&local(*at)) {
                    *expected.entry((local(*at), PAGES[*page])).or_default() += 1;
                }
            }
            let id = UserId::new(self.first_user + user);
            let report = reports.days(id, &query).await.unwrap();
            let listed = report.days.iter().map(|day| day.date);
            assert!(listed.eq(dates.iter().copied()));
            let mut found = BTreeMap::new();
            for day in &report.days {
                let pages = &day.pages.as_ref().unwrap().pages;
                assert_eq!(day.views, pages.iter().map(|(_, n)| n).sum::<u64>());
                found.extend(
                    pages
                        .iter()
                        .map(|(page, n)| ((day.date, page.as_str()), *n)),
                );
            }
            assert_eq!(found, expected, "user {user} by day in {zone} from {from}");
            // Without pages the counts come from another column.
            let query = DaysQuery::new(zone, query.from(), query.to(), false);
            let totals = reports.days(id, &query).await.unwrap().days;
            let by_page = report.days.iter().map(|day| day.views);
            assert!(totals.iter().map(|day| day.views).eq(by_page));
        }
        u64::from(USERS) * (dates.len() * (PAGES.len() + 1)) as u64
    }

    /// Compares the pages of the site.
    async fn check_pages(
        &self,
        reports: &Reports,
        (from, until): (i64, i64),
        interval: Interval,
        prefix: &str,
    ) -> u64 {
        let length = interval.seconds().map(i64::from);
        let start = |at: i64| length.map_or(from, |length| at - at % length);
        let mut expected: BTreeMap<(i64, &str), (u64, BTreeSet<u32>)> = BTreeMap::new();
        for (user, at, page) in self.current.values() {
            if (from..until).contains(at) && PAGES[*page].starts_with(prefix) {
                let cell = expected.entry((start(*at), PAGES[*page])).or_default();
                cell.0 += 1;
                cell.1.insert(*user);
            }
        }
        let mut rows: Vec<_> = expected
            .into_iter()
            .map(|((start, page), (n, users))| (start, n, page, users.len() as u64))
            .collect();
        rows.sort_by_key(|(start, n, page, _)| (*start, u64::MAX - n, *page));
        let query = PagesRequest::First(PagesQuery {
            interval,
            prefix: prefix.to_owned(),
            ..PagesQuery::top(window(from, until), MAX_LIMIT)
        });
        let answer = reports.pages(&query, Moment::default()).await.unwrap();
        let found = answer.pages.iter().map(|row| {
            let start = i64::from(row.start.unix());
            (start, row.views, row.page_url.as_str(), row.users)
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found, rows, "site by {interval:?} in {from}..{until}");
        2 * rows.len().max(PAGES.len()) as u64
    }

    /// Compares the traffic of the site, also of intervals without views, which are not counted.
    async fn check_site(
        &self,
        reports: &Reports,
        (from, until): (i64, i64),
        interval: Interval,
    ) -> u64 {
        let length = interval.seconds().map(i64::from);
        let start = |at: i64| length.map_or(from, |length| at - at % length);
        let step = length.unwrap_or(until - from).cast_unsigned();
        let starts = (start(from)..until).step_by(usize::try_from(step).unwrap());
        let mut expected: BTreeMap<i64, (u64, BTreeSet<u32>)> =
            starts.map(|start| (start, Default::default())).collect();
        for (user, at, _) in self.current.values() {
            if (from..until).contains(at) {
                let cell = expected.get_mut(&start(*at)).unwrap();
                cell.0 += 1;
                cell.1.insert(*user);
            }
        }
        let rows = expected
            .into_iter()
            .map(|(start, (n, users))| (start, n, users.len() as u64));
        let rows: Vec<_> = rows.collect();
        let query = SiteQuery::new(window(from, until), interval);
        let found = reports.site(&query).await.unwrap();
        let found = found
            .iter()
            .map(|row| (i64::from(row.start.unix()), row.views, row.users));
        let found: Vec<_> = found.collect();
        assert_eq!(found, rows, "traffic by {interval:?} in {from}..{until}");
        2 * rows.iter().filter(|(_, n, _)| *n > 0).count() as u64
    }
}

fn window(from: i64, until: i64) -> ReportWindow {
    let second = |at: i64| CreatedAt::from_unix(u32::try_from(at).unwrap());
    ReportWindow {
        from: second(from),
        until: second(until),
    }
}

async fn assert_reconciled(reconciler: &Reconciler) {
    let comparison = reconciler.compare(0..u32::MAX).await.unwrap();
    assert_eq!(comparison.findings.total(), 0, "{comparison:#?}");
    assert!(comparison.days.iter().all(|day| day.agree()));
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[test]
fn random_histories_are_counted_exactly() {
    let servers = single_server();
    run(VIEWS, 24, vec(step(), 1..40), Setting::Plain, &servers);
}

#[test]
fn random_histories_are_counted_exactly_through_nginx() {
    if !nginx::is_missing() {
        let servers = single_server();
        run(VIEWS, 8, vec(step(), 1..40), Setting::Nginx, &servers);
    }
}

#[test]
fn random_histories_are_counted_exactly_while_hours_are_sealed() {
    let (steps, servers) = (vec(sealing_step(step()), 1..50), single_server());
    run(VIEWS, 6, steps, Setting::Sealed, &servers);
}

#[test]
fn random_histories_are_counted_exactly_on_a_cluster() {
    run(VIEWS, 5, vec(step(), 1..30), Setting::Plain, &cluster());
}

#[test]
fn random_histories_are_counted_exactly_on_a_cluster_while_hours_are_sealed() {
    let steps = vec(sealing_step(step()), 10..30);
    run(VIEWS, 2, steps, Setting::Sealed, &cluster());
}

#[test]
fn random_histories_of_events_are_counted_exactly() {
    let servers = single_server();
    run(
        EVENTS,
        12,
        vec(event_step(), 1..40),
        Setting::Plain,
        &servers,
    );
}

#[test]
fn random_histories_of_events_are_counted_exactly_while_hours_are_sealed() {
    let (steps, servers) = (vec(sealing_step(event_step()), 1..50), single_server());
    run(EVENTS, 6, steps, Setting::Sealed, &servers);
}

#[test]
fn random_histories_of_events_are_counted_exactly_on_a_cluster() {
    let steps = vec(event_step(), 1..30);
    run(EVENTS, 3, steps, Setting::Plain, &cluster());
}

#[test]
fn random_histories_of_events_are_counted_exactly_on_a_cluster_while_hours_are_sealed() {
    let steps = vec(sealing_step(event_step()), 10..30);
    run(EVENTS, 2, steps, Setting::Sealed, &cluster());
}

/// How histories happen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Setting {
    Plain,
    Sealed,
    Nginx,
}

/// The servers that the two instances talk to.
fn single_server() -> [ClickHouse; 2] {
    let engine = shared_engine();
    [engine.clone(), engine]
}

/// Each instance talks to another shard.
fn cluster() -> [ClickHouse; 2] {
    let gate = |i: usize| Cluster::shared().gates[i].in_cluster(CLUSTER);
    [gate(0), gate(1)]
}

fn run(
    subject: Subject,
    cases: u64,
    steps: impl Strategy<Value = Vec<Step>>,
    setting: Setting,
    servers: &[ClickHouse; 2],
) {
    let sealed = setting == Setting::Sealed;
    let behind = match setting {
        Setting::Nginx => 0,
        Setting::Plain | Setting::Sealed => BEHIND,
    };
    let runtime = Arc::new(tokio::runtime::Runtime::new().unwrap());
    let clock = TestClock::frozen();
    let database = fresh_database();
    let plans = match sealed {
        true => ["--report-plan=view", "--report-plan=claims"],
        false => ["--report-plan=auto", "--report-plan=auto"],
    };
    let mut nodes = runtime.block_on(async {
        let start = async |server, clock, flags: &[&str]| {
            let fixed = [
                "--sealer=false",
                // The TTL of events is too short for these histories.
                "--events-retention-days=0",
                // A cluster's default is for its Keeper; here it would only take time.
                "--ingest-min-interval-ms=0",
            ];
            let flags = [&fixed, flags].concat();
            TestApp::start_with(server, &database, clock, &flags).await
        };
        let flags = [["--node-id=1", plans[0]], ["--node-id=2", plans[1]]];
        // At once: both find the database missing.
        let (first, second) = tokio::join!(
            start(&servers[0], clock.behind(0), &flags[0]),
            start(&servers[1], clock.behind(behind), &flags[1]),
        );
        [first, second]
    });
    let proxy = (setting == Setting::Nginx).then(|| {
        let instances = [nodes[0].address(), nodes[1].address()];
        Nginx::start("nginx-history", &instances)
    });
    for node in &mut nodes {
        node.proxy = proxy.as_ref().map(|nginx| nginx.address);
    }
    let marks = runtime.block_on(MarkClock::new(&servers[0], &database, subject.stream));
    let both = servers
        .each_ref()
        .map(|server| repository(server, &database));
    let seals = both
        .each_ref()
        .map(|at| (subject.seals_of)(at.clone(), LEAST_SEAL_DELAY));
    let [first, second] = both;
    let plans = [(&first, Plan::View), (&second, Plan::Claims)];
    let readers = match subject.stream {
        Stream::PageViews => Readers::Views(Box::new(
            plans.map(|(at, plan)| Reports::new(at.clone(), plan)),
        )),
        Stream::Events => Readers::Events(Box::new(
            plans.map(|(at, plan)| EventReports::new(at.clone(), plan)),
        )),
    };
    let rivals = RivalEvents::new(first.clone());
    let database_itself = first;
    let reconciler = Reconciler::new(database_itself, Clock::system(), Duration::ZERO, 10);
    // Real time bounds the histories: the TTL must not take what they write.
    let (newest, oldest) = (
        Utc::now().timestamp() - 4 * DAY,
        Utc::now().timestamp() - 40 * DAY,
    );

    let seed = number("HISTORY_SEED", rand::random());
    println!("HISTORY_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: u32::try_from(number("HISTORY_CASES", cases)).unwrap(),
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let (histories, cells) = (AtomicU64::new(0), AtomicU64::new(0));
    let outcome = runner.run(&(oldest..newest, steps), |(start, steps)| {
        let number = histories.fetch_add(1, Ordering::Relaxed);
        clock.set(start);
        let sealing = Sealing {
            subject,
            marks: &marks,
            seals: &seals,
            readers: &readers,
            now: start * 1000,
            marked: None,
            hours: BTreeSet::new(),
        };
        let mut history = History {
            subject,
            rivals: &rivals,
            nodes: &nodes,
            clock: &clock,
            behind,
            first_id: number * SLOTS,
            first_user: u32::try_from(number).unwrap() * USERS,
            posted: BTreeMap::new(),
            current: BTreeMap::new(),
            erased: BTreeMap::new(),
            turn: 0,
            sealing: sealed.then_some(sealing),
            checks: Cell::new(0),
        };
        runtime.block_on(async {
            if sealed {
                // ClickHouse's clock never goes back, and each history has its own.
                for table in subject.tables {
                    let table = servers[0].rows_of(table);
                    marks.sql(&format!("TRUNCATE TABLE {table}")).await;
                }
            }
            for step in &steps {
                history.apply(step).await;
                cells.fetch_add(history.check().await, Ordering::Relaxed);
            }
            // No history leaves anything to mend.
            if sealed {
                assert_reconciled(&reconciler).await;
            }
        });
        Ok(())
    });
    println!(
        "{} histories, {} cells compared",
        histories.load(Ordering::Relaxed),
        cells.load(Ordering::Relaxed)
    );
    if let Err(error) = outcome {
        panic!("{error}");
    }
    runtime.block_on(async {
        assert_reconciled(&reconciler).await;
        for node in nodes {
            node.stop().await;
        }
    });
}
