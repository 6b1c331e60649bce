//! The reports: what a user viewed in the last 24 hours and by day, and what is viewed on the site.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::access::Caller;
use super::answer::Wanted;
use super::extract::{PathId, QueryParameters};
use super::openapi::{
    ByPage, CursorExpired, DateOrTime, IntervalWord, InvalidParameters, Malformed, NotAcceptable,
    NotModified, Overloaded,
};
use super::problem::Problem;
use super::state::Shared;
use crate::domain::{
    DailyReport, DaysQuery, DaysReport, Interval, PageTotal, PagesPage, PagesRequest, ReportWindow,
    SiteQuery, UserId,
};
use crate::pipeline::Freshness;
use crate::repository::Moment;

/// Views of the last 24 hours by page
///
/// Counts the user's views with `now - 24 h < created_at <= now`, most viewed page first. Exact and
/// current: it contains every view that was acknowledged with 201 before the request, see
/// `Data-Complete-Through`. `{}` for an unknown user. As CSV: `page_url,views`.
#[utoipa::path(get, path = "/api/traffic/daily/{user_id}", tag = "reports",
    security(("bearer" = ["read"])), extensions(("x-restricted-keys" = json!(true))),
    params(("user_id" = u32, Path, maximum = 4294967295_u64, description = "The user")),
    responses((status = OK, description = "Views by page URL",
            content((BTreeMap<String, u64> = "application/json",
                    example = json!({"/pricing": 12, "/": 3})),
                (String = "text/csv", example = "page_url,views\r\n/pricing,12\r\n/,3\r\n")),),
        Malformed, NotModified, NotAcceptable, Overloaded))]
pub(super) async fn daily(
    State(state): State<Shared>,
    caller: Caller,
    PathId(user_id): PathId<UserId>,
    wanted: Wanted,
) -> Result<Response, Problem> {
    caller.check_user(user_id)?;
    let freshness = state.delivery.freshness();
    let window = ReportWindow::ending_at(state.clock.now());
    let report = state.reports.daily(user_id, window).await?;
    let rows = report.pages.iter();
    let rows = rows.map(|(page, views)| [page.clone(), views.to_string()]);
    let body = wanted.body(&report, ["page_url", "views"], rows)?;
    Ok(wanted.answer(body, freshness, None))
}

/// The views of a user by day.
#[derive(Serialize, ToSchema)]
pub(super) struct UserDays {
    #[schema(example = 42)]
    user_id: u32,
    /// The time zone in which days begin and end.
    #[schema(example = "Europe/Berlin")]
    tz: &'static str,
    /// The first day.
    #[schema(example = "2026-01-25")]
    from: String,
    /// The first day that is left out.
    #[schema(example = "2026-02-01")]
    to: String,
    /// All views.
    #[schema(example = 15)]
    views: u64,
    /// Every day, also those without views.
    days: Vec<UserDay>,
}

/// One day.
#[derive(Serialize, ToSchema)]
pub(super) struct UserDay {
    #[schema(example = "2026-01-25")]
    date: String,
    #[schema(example = 12)]
    views: u64,
    /// With `by=page`: views by page, most viewed first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, u64>>, example = json!({"/pricing": 9, "/": 3}))]
    pages: Option<DailyReport>,
}

/// Views of a user by day
///
/// Days begin and end by the clocks of `tz`, so they have 23 or 25 hours where summer time begins or
/// ends. Exact and current as the daily report is. Every day of the range is listed, those without
/// views with zero. As CSV: `date,views`, or with `by=page` one line for each page,
/// `date,page_url,views`.
#[utoipa::path(get, path = "/api/traffic/users/{user_id}/days", tag = "reports",
    security(("bearer" = ["read"])),
    extensions(("x-restricted-keys" = json!(true)), ("x-cost" = json!(2))),
    params(("user_id" = u32, Path, maximum = 4294967295_u64, description = "The user"),
        ("from" = Option<String>, Query, format = Date, description = "The first day; by default \
            seven days before `to`. It must be wholly within the retention."),
        ("to" = Option<String>, Query, format = Date, description = "The first day that is left \
            out; by default tomorrow, so that today is in. At most 31 days beyond that."),
        ("tz" = Option<String>, Query, example = "Europe/Berlin", description = "The name of a time \
            zone (IANA); by default UTC"),
        ("by" = inline(Option<ByPage>), Query, description = "`page` to tell pages apart")),
    responses((status = OK, description = "Views by day",
            content((UserDays = "application/json"),
                (String = "text/csv", example = "date,views\r\n2026-01-25,12\r\n")),),
        Malformed, NotModified, NotAcceptable, InvalidParameters, Overloaded))]
pub(super) async fn days(
    State(state): State<Shared>,
    caller: Caller,
    PathId(user_id): PathId<UserId>,
    QueryParameters(parameters): QueryParameters,
    wanted: Wanted,
) -> Result<Response, Problem> {
    caller.check_user(user_id)?;
    let query = DaysQuery::read(&parameters, &state.window()).map_err(Problem::parameters)?;
    let freshness = state.delivery.freshness();
    let report = state.reports.days(user_id, &query).await?;
    let answer = user_days(user_id, &query, report);
    let body = if query.is_by_page() {
        let rows = answer.days.iter().flat_map(|day| {
            let pages = day.pages.iter().flat_map(|report| &report.pages);
            pages.map(|(page, views)| [day.date.clone(), page.clone(), views.to_string()])
        });
        wanted.body(&answer, ["date", "page_url", "views"], rows)?
    } else {
        let rows = answer.days.iter();
        let rows = rows.map(|day| [day.date.clone(), day.views.to_string()]);
        wanted.body(&answer, ["date", "views"], rows)?
    };
    Ok(wanted.answer(body, freshness, None))
}

fn user_days(user_id: UserId, query: &DaysQuery, report: DaysReport) -> UserDays {
    let views = report.views();
    let days = report.days.into_iter().map(|day| UserDay {
        date: day.date.to_string(),
        views: day.views,
        pages: day.pages,
    });
    UserDays {
        user_id: user_id.get(),
        tz: query.zone(),
        from: query.from().to_string(),
        to: query.to().to_string(),
        views,
        days: days.collect(),
    }
}

/// The pages of the site.
#[derive(Serialize, ToSchema)]
pub(super) struct SitePages {
    /// The first second that counts.
    #[schema(example = "2026-01-31T00:00:00Z")]
    from: String,
    /// The first second that does not count any more.
    #[schema(example = "2026-02-01T00:00:00Z")]
    to: String,
    /// `hour`, `day` or `total`.
    #[schema(example = "day")]
    interval: &'static str,
    /// By start, then most viewed first, then by page.
    pages: Vec<SitePage>,
    /// Where there are more: what to send as `after`.
    next: Option<String>,
}

/// Views of one page in one interval.
#[derive(Serialize, ToSchema)]
pub(super) struct SitePage {
    /// Where the interval begins, which may be before `from`; for `total` it is `from`.
    #[schema(example = "2026-01-31T00:00:00Z")]
    start: String,
    #[schema(example = "/pricing")]
    page_url: String,
    #[schema(example = 10)]
    views: u64,
    /// How many users viewed it.
    #[schema(example = 3)]
    users: u64,
}

/// Views of the whole site by page
///
/// Views and distinct users of each page in each interval (of UTC), by start, then most viewed first.
/// Exact and current as the daily report is. A long answer comes in parts: `next`, which is also in
/// the `Link` header, asks for the next one as `after`. All parts are of the moment at which the first
/// was asked for, whatever comes in meanwhile, and can be read for an hour from any instance. `after`
/// stands for the whole question: leave `from`, `to`, `interval` and `prefix` out, or as they were.
/// As CSV: `start,page_url,views,users`.
#[utoipa::path(get, path = "/api/traffic/pages", tag = "reports",
    security(("bearer" = ["read"])), extensions(("x-cost" = json!(10))),
    params(("from" = inline(Option<DateOrTime>), Query, example = "2026-01-31", description = "A date, which is \
            its midnight in UTC, or an RFC 3339 time: the first second that counts; by default 24 \
            hours before `to`. It must be within the retention."),
        ("to" = inline(Option<DateOrTime>), Query, example = "2026-02-01T12:00:00Z", description = "The first \
            second that does not count any more; by default now is the last that does"),
        ("interval" = inline(Option<IntervalWord>), Query, description = "`hour`, `day` or `total` (the default)"),
        ("prefix" = Option<String>, Query, example = "/blog/", description = "Only pages that begin \
            with this text, byte for byte"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The most rows in \
            one answer; 100 by default"),
        ("after" = Option<String>, Query, description = "`next` of the answer before"),
        ("next" = Option<bool>, Query, description = "`false` if the rest will not be asked for: \
            `next` is then always null, and the answer costs less")),
    responses((status = OK, description = "Views by page",
            content((SitePages = "application/json"),
                (String = "text/csv",
                    example = "start,page_url,views,users\r\n2026-01-31T00:00:00Z,/pricing,10,3\r\n")),
            headers(("link" = String, description = "Where there is more: `<...>; rel=\"next\"`"))),
        NotModified, NotAcceptable, CursorExpired, InvalidParameters, Overloaded))]
pub(super) async fn pages(
    State(state): State<Shared>,
    QueryParameters(parameters): QueryParameters,
    wanted: Wanted,
) -> Result<Response, Problem> {
    let request = PagesRequest::read(&parameters, &state.window()).map_err(Problem::parameters)?;
    let now = state.delivery.freshness();
    let freshness = match &request {
        PagesRequest::First(_) => now,
        PagesRequest::Next(cursor, _) => Freshness {
            complete_through_ms: cursor.complete_through_ms,
            ..now
        },
    };
    let moment = Moment {
        now_ms: u64::try_from(state.clock.now().timestamp_millis()).unwrap_or(0),
        complete_through_ms: now.complete_through_ms,
    };
    let limit = request.limit();
    let part = state.reports.pages(&request, moment).await?;
    let next = part.next.as_ref();
    let next = next.map(|cursor| format!("/api/traffic/pages?limit={limit}&after={cursor}"));
    let answer = site_pages(part);
    let columns = ["start", "page_url", "views", "users"];
    let rows = answer.pages.iter().map(|page| {
        let (views, users) = (page.views.to_string(), page.users.to_string());
        [page.start.clone(), page.page_url.clone(), views, users]
    });
    let body = wanted.body(&answer, columns, rows)?;
    Ok(wanted.answer(body, freshness, next.as_deref()))
}

fn site_pages(part: PagesPage) -> SitePages {
    let row = |total: PageTotal| SitePage {
        start: total.start.to_string(),
        page_url: total.page_url,
        views: total.views,
        users: total.users,
    };
    SitePages {
        from: part.window.from.to_string(),
        to: part.window.until.to_string(),
        interval: Interval::name(part.interval),
        pages: part.pages.into_iter().map(row).collect(),
        next: part.next.map(|cursor| cursor.to_string()),
    }
}

/// The traffic of the site over time.
#[derive(Serialize, ToSchema)]
pub(super) struct SiteTraffic {
    /// The first second that counts.
    #[schema(example = "2026-01-31T00:00:00Z")]
    from: String,
    /// The first second that does not count any more.
    #[schema(example = "2026-02-01T00:00:00Z")]
    to: String,
    /// `hour`, `day` or `total`.
    #[schema(example = "hour")]
    interval: &'static str,
    /// All views.
    #[schema(example = 10)]
    views: u64,
    /// Every interval in order, also those without views.
    intervals: Vec<SiteInterval>,
}

/// Views of all pages in one interval.
#[derive(Serialize, ToSchema)]
pub(super) struct SiteInterval {
    /// Where the interval begins, which may be before `from`; for `total` it is `from`.
    #[schema(example = "2026-01-31T00:00:00Z")]
    start: String,
    #[schema(example = 10)]
    views: u64,
    /// How many users viewed anything; one who comes again in another interval counts there too.
    #[schema(example = 3)]
    users: u64,
}

/// Traffic of the whole site over time
///
/// Views and distinct users in each interval (of UTC). Exact and current as the daily report is. Every
/// interval of the range is listed, those without views with zeros; at most 2,400 of them.
/// As CSV: `start,views,users`.
#[utoipa::path(get, path = "/api/traffic/site", tag = "reports",
    security(("bearer" = ["read"])), extensions(("x-cost" = json!(10))),
    params(("from" = inline(Option<DateOrTime>), Query, example = "2026-01-31", description = "A date, which is \
            its midnight in UTC, or an RFC 3339 time: the first second that counts; by default 24 \
            hours before `to`. It must be within the retention."),
        ("to" = inline(Option<DateOrTime>), Query, example = "2026-02-01T12:00:00Z", description = "The first \
            second that does not count any more; by default now is the last that does"),
        ("interval" = inline(Option<IntervalWord>), Query, description = "`hour`, `day` or `total` (the default)")),
    responses((status = OK, description = "Views and users by interval",
            content((SiteTraffic = "application/json"),
                (String = "text/csv",
                    example = "start,views,users\r\n2026-01-31T00:00:00Z,10,3\r\n")),),
        NotModified, NotAcceptable, InvalidParameters, Overloaded))]
pub(super) async fn site(
    State(state): State<Shared>,
    QueryParameters(parameters): QueryParameters,
    wanted: Wanted,
) -> Result<Response, Problem> {
    let query = SiteQuery::read(&parameters, &state.window()).map_err(Problem::parameters)?;
    let freshness = state.delivery.freshness();
    let totals = state.reports.site(&query).await?;
    let intervals = totals.iter().map(|total| SiteInterval {
        start: total.start.to_string(),
        views: total.views,
        users: total.users,
    });
    let answer = SiteTraffic {
        from: query.window().from.to_string(),
        to: query.window().until.to_string(),
        interval: query.interval().name(),
        views: totals.iter().map(|total| total.views).sum(),
        intervals: intervals.collect(),
    };
    let rows = answer.intervals.iter();
    let rows = rows.map(|row| {
        let (views, users) = (row.views.to_string(), row.users.to_string());
        [row.start.clone(), views, users]
    });
    let body = wanted.body(&answer, ["start", "views", "users"], rows)?;
    Ok(wanted.answer(body, freshness, None))
}
