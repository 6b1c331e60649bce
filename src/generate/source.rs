//! What is sent, whichever stream it is of: as lines, and as requests one by one.

use std::ops::Range;

use reqwest::Method;

use super::client::Request;
use super::{Traffic, Visits, events, lines};
use crate::domain::PageView;

/// The records of one stream, by numbers from 0 in the order of time.
#[derive(Debug, Clone)]
pub enum Source {
    /// Page views: a number is a view.
    Views(Traffic),
    /// Events: a number is a visit with all of its events.
    Visits(Visits),
}

impl Source {
    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        match self {
            Source::Views(traffic) => traffic.views(),
            Source::Visits(visits) => visits.count(),
        }
    }

    /// What is numbered, for people.
    pub fn noun(&self) -> &'static str {
        match self {
            Source::Views(_) => "views",
            Source::Visits(_) => "visits",
        }
    }

    /// Where batches are posted.
    pub(super) fn path(&self) -> &'static str {
        match self {
            Source::Views(_) => "/api/traffic",
            Source::Visits(_) => "/v1/events",
        }
    }

    /// Appends the lines of all that is posted for some numbers; how many.
    pub(super) fn lines(&self, numbers: Range<u64>, into: &mut Vec<u8>) -> u64 {
        let mut count = 0;
        match self {
            Source::Views(traffic) => {
                for view in traffic.posts(numbers) {
                    lines::line(&view, into);
                    count += 1;
                }
            }
            Source::Visits(visits) => {
                for event in visits.posts(numbers) {
                    into.extend_from_slice(events::line(&event).as_bytes());
                    into.push(b'\n');
                    count += 1;
                }
            }
        }
        count
    }

    /// The same for one number, each in a request of its own.
    pub(super) fn singles(&self, number: u64) -> Vec<Request> {
        let numbers = number..number + 1;
        match self {
            Source::Views(traffic) => {
                let post = |view| one(Method::POST, &view);
                traffic.posts(numbers).map(post).collect()
            }
            Source::Visits(visits) => {
                let posts = visits.posts(numbers);
                let post = |event| json(Method::POST, self.path().to_owned(), events::line(&event));
                posts.map(post).collect()
            }
        }
    }

    /// What corrects a number's record later, if anything does.
    pub(super) fn update(&self, number: u64) -> Option<Request> {
        match self {
            Source::Views(traffic) => Some(one(Method::PUT, &traffic.update(number)?)),
            // What has happened stays so.
            Source::Visits(_) => None,
        }
    }
}

fn one(method: Method, view: &PageView) -> Request {
    let path = format!("/api/traffic/{}", view.request_id.get());
    json(method, path, lines::body(view))
}

fn json(method: Method, path: String, body: impl Into<Vec<u8>>) -> Request {
    Request {
        method,
        path,
        content_type: "application/json",
        encoding: None,
        body: body.into().into(),
        may_be_on_its_way: false,
    }
}
