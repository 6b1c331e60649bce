//! The requests that the benchmarks send.

use std::io::Write;
use std::net::SocketAddr;

use traffic_api::domain::Event;
use traffic_api::generate::{EventShape, Times, Visits, line};
use traffic_api::pipeline::Record;

use super::load::{Load, Outcome};
use super::stack::Stack;
use super::views::{COLUMNS, Population, Views};

/// Single POSTs of views that are all different, with `headers` (each ending in CRLF) beside the
/// usual ones.
pub fn posts(load: Load, population: Population, headers: &str) -> Outcome {
    let mut views = Views::of(population);
    let mut body = Vec::new();
    load.run(|request| {
        let view = views.next();
        body.clear();
        view.body(&mut body);
        let (id, length) = (view.request_id, body.len());
        write!(
            request,
            "POST /api/traffic/{id} HTTP/1.1\r\nhost: localhost\r\n\
             content-type: application/json\r\n{headers}content-length: {length}\r\n\r\n"
        )
        .expect("memory");
        request.extend_from_slice(&body);
        &[]
    })
}

/// Single POSTs of events that are all different.
pub fn events(load: Load) -> Outcome {
    let mut events = recent_events();
    load.run(|request| {
        let body = line(&events.next().expect("without end"));
        write!(
            request,
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("memory");
        &[]
    })
}

/// The same events as one INSERT each, straight to ClickHouse.
pub fn event_inserts(load: Load, stack: &Stack, database: &str) -> Outcome {
    let columns = <Event as Record>::COLUMNS.join(", ");
    let sql = format!("INSERT INTO events ({columns}) FORMAT RowBinary");
    let head = stack.head(database, &sql, "&async_insert=0");
    let mut events = recent_events();
    let mut row = Vec::new();
    load.run(|request| {
        row.clear();
        events.next().expect("without end").encode(&mut row);
        request.extend_from_slice(head.as_bytes());
        write!(request, "{}\r\n\r\n", row.len()).expect("memory");
        request.extend_from_slice(&row);
        &[]
    })
}

/// Events of the last quarter of an hour on 20 sites, without end: they begin anew when the time is up,
/// on other sites.
fn recent_events() -> impl Iterator<Item = Event> {
    let now = u32::try_from(chrono::Utc::now().timestamp()).expect("before 2106");
    let shape = move |seed| EventShape {
        seed,
        sites: 20,
        visits: 100_000,
        duplicates: 0.0,
        times: Times::Even(now - 1000, now - 200),
    };
    let first: u64 = rand::random();
    (0..).flat_map(move |n| {
        let shape = shape(first.wrapping_add(n));
        let visits = Visits::new(shape);
        (0..shape.visits).flat_map(move |number| visits.visit(number))
    })
}

/// The same views as one INSERT each, straight to ClickHouse.
pub fn inserts(load: Load, population: Population, stack: &Stack, database: &str) -> Outcome {
    let sql = format!("INSERT INTO traffic ({COLUMNS}) FORMAT RowBinary");
    let head = stack.head(database, &sql, "&async_insert=0");
    let mut views = Views::of(population);
    let mut row = Vec::new();
    load.run(|request| {
        row.clear();
        views.next().row(&mut row);
        request.extend_from_slice(head.as_bytes());
        write!(request, "{}\r\n\r\n", row.len()).expect("memory");
        request.extend_from_slice(&row);
        &[]
    })
}

/// The reports of `users`, in turn.
pub fn reports(load: Load, users: &[u32]) -> Outcome {
    let mut users = users.iter().cycle();
    load.run(|request| {
        let user = users.next().copied().unwrap_or_default();
        write!(
            request,
            "GET /api/traffic/daily/{user} HTTP/1.1\r\nhost: localhost\r\n\r\n"
        )
        .expect("memory");
        &[]
    })
}

/// Sends prepared requests in turn: a head, and a body that is not copied.
pub fn prepared(load: Load, requests: &[(Vec<u8>, Vec<u8>)]) -> Outcome {
    let mut turn = requests.iter().cycle();
    load.run(|request| match turn.next() {
        Some((head, body)) => {
            request.extend_from_slice(head);
            body.as_slice()
        }
        None => &[],
    })
}

/// A POST of `body` to the service, in the form of [`prepared`].
pub fn post(path: &str, headers: &str, body: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\r\n"
    );
    (head.into_bytes(), body)
}

/// A POST of `body` to ClickHouse, in the form of [`prepared`].
pub fn query(
    stack: &Stack,
    database: &str,
    sql: &str,
    settings: &str,
    body: Vec<u8>,
) -> (Vec<u8>, Vec<u8>) {
    let head = format!(
        "{}{}\r\n\r\n",
        stack.head(database, sql, settings),
        body.len()
    );
    (head.into_bytes(), body)
}

/// A closed loop.
pub fn closed(
    address: SocketAddr,
    connections: usize,
    expected_status: u16,
    amount: super::load::Amount,
) -> Load {
    Load {
        address,
        connections,
        expected_status,
        pace: super::load::Pace::Closed,
        amount,
    }
}
