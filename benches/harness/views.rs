//! Page views without end: each has a request id of its own; users, pages and times are drawn evenly.

use std::io::Write;

use chrono::{DateTime, Utc};

use super::setting;

/// How many different times of viewing are drawn from.
const TIMES: u64 = 512;

/// Who views what, and over how long a time.
#[derive(Debug, Clone, Copy)]
pub struct Population {
    pub users: u32,
    pub pages: u32,
    /// The views are spread over so many days before now; 0: over the last quarter of an hour.
    pub days: u32,
}

impl Population {
    /// As `BENCH_USERS`, `BENCH_PAGES` and `BENCH_DAYS` say.
    pub fn usual() -> Self {
        Self {
            users: setting("BENCH_USERS", 10_000),
            pages: setting("BENCH_PAGES", 200),
            days: setting("BENCH_DAYS", 0),
        }
    }
}

/// One view.
pub struct View<'a> {
    pub request_id: u64,
    pub user_id: u32,
    pub created_at: u32,
    /// The same as RFC 3339.
    pub created_at_text: &'a str,
    pub page_url: &'a str,
}

/// A source of views.
pub struct Views {
    counter: u64,
    users: u32,
    times: Vec<(u32, String)>,
    pages: Vec<String>,
}

impl Views {
    /// Views of `population` up to now.
    pub fn of(population: Population) -> Self {
        let now = Utc::now().timestamp() - 2;
        let span = match population.days {
            0 => 900,
            days => i64::from(days) * 86_400 - 120,
        };
        let time = |i: u64| {
            let unix = now - span * i as i64 / TIMES as i64;
            let text = DateTime::from_timestamp(unix, 0).expect("a time");
            let text = text.format("%Y-%m-%dT%H:%M:%SZ").to_string();
            (u32::try_from(unix).expect("before 2106"), text)
        };
        let page = |i| format!("/products/{}/page-{i}", i % 17);
        Self {
            counter: rand::random(),
            users: population.users,
            times: (0..TIMES).map(time).collect(),
            pages: (0..population.pages).map(page).collect(),
        }
    }

    /// The next view.
    pub fn next(&mut self) -> View<'_> {
        self.counter = self.counter.wrapping_add(1);
        let draw = mix(self.counter);
        let other = mix(draw);
        let (created_at, created_at_text) = &self.times[(other % TIMES) as usize];
        View {
            // One to one with the counter, so none comes twice.
            request_id: draw,
            user_id: ((other >> 16) % u64::from(self.users)) as u32,
            created_at: *created_at,
            created_at_text,
            page_url: &self.pages[(other >> 40) as usize % self.pages.len()],
        }
    }
}

/// The finalizer of SplitMix64, a bijection (<https://prng.di.unimi.it/splitmix64.c>).
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl View<'_> {
    /// The body of a single POST.
    pub fn body(&self, into: &mut Vec<u8>) {
        let Self {
            user_id,
            created_at_text,
            page_url,
            ..
        } = self;
        write!(
            into,
            r#"{{"user_id":{user_id},"created_at":"{created_at_text}","page_url":"{page_url}"}}"#
        )
        .expect("memory");
    }

    /// The same with its request id, as a batch has it.
    pub fn line(&self, into: &mut Vec<u8>) {
        write!(into, r#"{{"request_id":{},"#, self.request_id).expect("memory");
        let begin = into.len();
        self.body(into);
        into.remove(begin);
    }

    /// As ClickHouse's RowBinary takes it, in the order of [`COLUMNS`].
    pub fn row(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.request_id.to_le_bytes());
        into.extend_from_slice(&self.user_id.to_le_bytes());
        into.extend_from_slice(&self.created_at.to_le_bytes());
        // Page URLs in here are shorter than 128 bytes.
        into.push(self.page_url.len() as u8);
        into.extend_from_slice(self.page_url.as_bytes());
    }
}

/// The columns of [`View::row`]; the others take their defaults, which are those of a first POST.
pub const COLUMNS: &str = "request_id,user_id,created_at,page_url";
