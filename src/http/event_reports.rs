//! Reports on events: how many of each type on each site, and how many went from serve to solve.

use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::answer::{NEXT_AFTER, Wanted};
use super::extract::QueryParameters;
use super::openapi::{
    DateOrTime, HourOrDay, InvalidParameters, NotAcceptable, NotModified, Overloaded, SiteUuid,
    TypeName,
};
use super::problem::Problem;
use super::state::Shared;
use crate::domain::{
    Counter, CountersCursor, CountersQuery, EventType, Funnel, FunnelQuery, FunnelReport,
};

/// The longest address in a `Link` header. It repeats all sites, and nginx for one answers 502 where all
/// headers of an answer have more than 4096 bytes.
const MAX_LINK_BYTES: usize = 2048;

/// Events by site.
#[derive(Serialize, ToSchema)]
pub(super) struct EventCounters {
    /// The first second that counts.
    #[schema(example = "2026-01-31T00:00:00Z")]
    from: String,
    /// The first second that does not count any more.
    #[schema(example = "2026-02-01T00:00:00Z")]
    to: String,
    /// `hour` or `day`.
    #[schema(example = "day")]
    interval: &'static str,
    /// By date, then by site.
    counters: Vec<EventCounter>,
    /// Where there are more: what to send as `after`.
    next: Option<String>,
}

/// The events of one site in one interval; there is none without events.
#[derive(Serialize, ToSchema)]
pub(super) struct EventCounter {
    /// Where the interval begins, which may be before `from`.
    #[schema(example = "2026-01-31T00:00:00Z")]
    date: String,
    #[schema(example = "c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c93", format = "uuid")]
    site_id: String,
    /// Events of the type `serve`; zero where `type` leaves them out.
    #[schema(example = 12)]
    served: u64,
    /// Events of the type `solve`; zero where `type` leaves them out.
    #[schema(example = 9)]
    solved: u64,
    /// Events by type, those that occur.
    #[schema(value_type = BTreeMap<String, u64>, example = json!({"serve": 12, "solve": 9}))]
    counts: Map<String, Value>,
}

impl EventCounter {
    fn new(counter: &Counter) -> Self {
        let counts = counter.counts.iter();
        Self {
            date: counter.start.to_string(),
            site_id: counter.site_id.to_string(),
            served: counter.count(EventType::SERVE),
            solved: counter.count(EventType::SOLVE),
            counts: counts
                .map(|(of, n)| (of.clone(), Value::from(*n)))
                .collect(),
        }
    }
}

/// Events by site
///
/// How many events of each type each site had in each interval (of UTC), by date, then by site in order
/// of its text. Exact and current: every event that was acknowledged with 201 before the request is
/// counted, once. Sites and intervals without events are left out, so the answer for an unknown site is
/// empty.
///
/// `site_id` and `type` may be given any number of times; left out, all are counted. A URL holds 65,534
/// bytes, some 1,400 sites; a longer one is answered with 414.
///
/// A long answer comes in parts: `next`, which is also in the `Next-After` header, asks for the next one as
/// `after`, beside the same `site_id` and `type`; up to some 40 sites the `Link` header has the whole
/// address. The order never changes for a row, so whatever is written meanwhile, no row that is there all
/// the time is repeated or left out; each part is as current as its own reading. As CSV:
/// `date,site_id,type,events`.
#[utoipa::path(get, path = "/report", tag = "reports",
    security(("bearer" = ["read"])), extensions(("x-cost" = json!(10))),
    params(("site_id" = inline(Option<Vec<SiteUuid>>), Query, description = "Which sites; repeat it for several"),
        ("type" = inline(Option<Vec<TypeName>>), Query, description = "Which types; repeat it for several"),
        ("from" = inline(Option<DateOrTime>), Query, example = "2026-01-31", description = "A date, which is \
            its midnight in UTC, or an RFC 3339 time: the first second that counts; by default 24 \
            hours before `to`. It must be within the retention of events."),
        ("to" = inline(Option<DateOrTime>), Query, example = "2026-02-01T12:00:00Z", description = "The first \
            second that does not count any more; by default now is the last that does"),
        ("interval" = inline(Option<HourOrDay>), Query, description = "`hour` or `day` (the default)"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The most counters \
            in one answer; 100 by default"),
        ("after" = Option<String>, Query, description = "`next` of the answer before")),
    responses((status = OK, description = "Events by interval and site",
            content((EventCounters = "application/json"),
                (String = "text/csv", example = "date,site_id,type,events\r\n\
                    2026-01-31T00:00:00Z,c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c93,serve,12\r\n")),
            headers(("next-after" = String, description = "Where there is more: what to send as `after`"),
                ("link" = String, description = "Where there is more, and its address has no more than \
                    2048 bytes: `<...>; rel=\"next\"`"))),
        NotModified, NotAcceptable, InvalidParameters, Overloaded))]
pub(super) async fn counters(
    State(state): State<Shared>,
    QueryParameters(parameters): QueryParameters,
    wanted: Wanted,
) -> Result<Response, Problem> {
    let window = state.events.window();
    let query = CountersQuery::read(&parameters, &window).map_err(Problem::parameters)?;
    let freshness = state.delivery.freshness();
    let page = state.event_reports.counters(&query).await?;
    let next = page.next;
    let answer = EventCounters {
        from: query.window.from.to_string(),
        to: query.window.until.to_string(),
        interval: query.interval.name(),
        counters: page.counters.iter().map(EventCounter::new).collect(),
        next: next.map(|cursor| cursor.to_string()),
    };
    let rows = page.counters.iter().flat_map(|counter| {
        counter.counts.iter().map(|(of, events)| {
            let (date, site) = (counter.start.to_string(), counter.site_id.to_string());
            [date, site, of.clone(), events.to_string()]
        })
    });
    let body = wanted.body(&answer, ["date", "site_id", "type", "events"], rows)?;
    let link = next.and_then(|cursor| link(&query, &cursor));
    let mut response = wanted.answer(body, freshness, link.as_deref());
    if let Some(after) = next.and_then(|cursor| HeaderValue::try_from(cursor.to_string()).ok()) {
        response.headers_mut().insert(NEXT_AFTER, after);
    }
    Ok(response)
}

/// Where the next part is; nothing where the question is too long for a header.
fn link(query: &CountersQuery, cursor: &CountersCursor) -> Option<String> {
    let mut link = format!("/v1/report?limit={}&after={cursor}", query.limit);
    for site in &query.sites {
        link.push_str(&format!("&site_id={site}"));
    }
    for of in &query.types {
        link.push_str(&format!("&type={}", of.as_str()));
    }
    (link.len() <= MAX_LINK_BYTES).then_some(link)
}

/// The funnel from serve to solve.
#[derive(Serialize, ToSchema)]
pub(super) struct FunnelDocument {
    /// The first second in which a serve counts.
    #[schema(example = "2026-01-31T00:00:00Z")]
    from: String,
    /// The first second in which none counts any more.
    #[schema(example = "2026-02-01T00:00:00Z")]
    to: String,
    /// How long after its serve a solve counts, in seconds.
    #[schema(example = 86_400)]
    solve_within: u32,
    /// All sites together.
    #[serde(flatten)]
    total: FunnelFigures,
    /// Each site that was asked for by name and served anything, in order of its text.
    sites: Vec<SiteFunnel>,
}

/// The figures of a funnel.
#[derive(Serialize, ToSchema)]
pub(super) struct FunnelFigures {
    /// Distinct correlation ids served.
    #[schema(example = 120)]
    served: u64,
    /// How many of those then solved.
    #[schema(example = 96)]
    solved: u64,
    /// Their share; null where none was served.
    #[schema(example = 0.8)]
    solve_rate: Option<f64>,
    /// Null where none solved.
    time_to_solve: Option<TimeToSolve>,
}

/// How long those took who solved.
#[derive(Serialize, ToSchema)]
pub(super) struct TimeToSolve {
    /// The median, in seconds.
    #[schema(example = 7.0)]
    median: f64,
    /// The 95th percentile, in seconds.
    #[schema(example = 21.5)]
    p95: f64,
}

/// The funnel of one site.
#[derive(Serialize, ToSchema)]
pub(super) struct SiteFunnel {
    #[schema(example = "c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c93", format = "uuid")]
    site_id: String,
    #[serde(flatten)]
    figures: FunnelFigures,
}

impl From<Funnel> for FunnelFigures {
    fn from(funnel: Funnel) -> Self {
        let took = funnel.time_to_solve;
        Self {
            served: funnel.served,
            solved: funnel.solved,
            solve_rate: funnel.solve_rate(),
            time_to_solve: took.map(|(median, p95)| TimeToSolve { median, p95 }),
        }
    }
}

/// From serve to solve
///
/// Of the correlation ids that a site served in `from` to `to` (half-open): how many went on to solve,
/// what share that is, and how long they took: the median and the 95th percentile, exact, interpolated
/// between neighbours. A solve counts if it is not before its serve and at most `solve_within` seconds
/// after it, also behind `to`; so the newest serves may still be on their way. One correlation id on two
/// sites is two. `sites` has the same for each site that was named. As CSV:
/// `site_id,served,solved,solve_rate,median,p95`, the first line for all together, without a site.
#[utoipa::path(get, path = "/report/funnel", tag = "reports",
    security(("bearer" = ["read"])), extensions(("x-cost" = json!(10))),
    params(("site_id" = inline(Option<Vec<SiteUuid>>), Query, description = "Which sites; repeat it for \
            several; left out, all together"),
        ("from" = inline(Option<DateOrTime>), Query, example = "2026-01-31", description = "As in `/v1/report`"),
        ("to" = inline(Option<DateOrTime>), Query, example = "2026-02-01", description = "As in `/v1/report`"),
        ("solve_within" = Option<u32>, Query, minimum = 1, maximum = 604_800, description = "How long \
            after its serve a solve counts, in seconds; a day by default")),
    responses((status = OK, description = "The funnel",
            content((FunnelDocument = "application/json"),
                (String = "text/csv",
                    example = "site_id,served,solved,solve_rate,median,p95\r\n,120,96,0.8,7,21.5\r\n"))),
        NotModified, NotAcceptable, InvalidParameters, Overloaded))]
pub(super) async fn funnel(
    State(state): State<Shared>,
    QueryParameters(parameters): QueryParameters,
    wanted: Wanted,
) -> Result<Response, Problem> {
    let window = state.events.window();
    let query = FunnelQuery::read(&parameters, &window).map_err(Problem::parameters)?;
    let freshness = state.delivery.freshness();
    let FunnelReport { total, sites } = state.event_reports.funnel(&query).await?;
    let columns = ["site_id", "served", "solved", "solve_rate", "median", "p95"];
    let row = |site: String, funnel: &Funnel| {
        let text = |number: Option<f64>| number.map_or(String::new(), |number| number.to_string());
        let took = funnel.time_to_solve;
        [
            site,
            funnel.served.to_string(),
            funnel.solved.to_string(),
            text(funnel.solve_rate()),
            text(took.map(|(median, _)| median)),
            text(took.map(|(_, p95)| p95)),
        ]
    };
    let named = sites
        .iter()
        .map(|(site, funnel)| row(site.to_string(), funnel));
    let rows: Vec<_> = std::iter::once(row(String::new(), &total))
        .chain(named)
        .collect();
    let answer = FunnelDocument {
        from: query.window.from.to_string(),
        to: query.window.until.to_string(),
        solve_within: query.solve_within,
        total: total.into(),
        sites: sites
            .into_iter()
            .map(|(site, funnel)| SiteFunnel {
                site_id: site.to_string(),
                figures: funnel.into(),
            })
            .collect(),
    };
    let body = wanted.body(&answer, columns, rows)?;
    Ok(wanted.answer(body, freshness, None))
}
