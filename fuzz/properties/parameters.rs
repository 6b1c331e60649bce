//! The parameters of every report, in any number, order and spelling: what is accepted is a question
//! that can be answered, within the retention and within the limits; what is not, is named.
//!
//! The first byte chooses the moment; the rest is a query string without escapes.

use chrono::DateTime;
use traffic_api::domain::{
    AcceptanceWindow, CountersQuery, DaysQuery, FunnelQuery, Invalid, MAX_INTERVALS, MAX_LIMIT,
    PagesRequest, Parameters, ReportWindow, SiteQuery,
};

pub fn check(input: &[u8]) {
    let Some((moment, query)) = input.split_first() else {
        return;
    };
    // From when a week was over in which anything could be stored, to the last second that can be.
    let first = 10 * 86_400;
    let now = first + i64::from(*moment) * (i64::from(u32::MAX) - first) / 255;
    let now = DateTime::from_timestamp(now, 999_999_999).expect("a time");
    let accepted = AcceptanceWindow::new(now, 90, 0);
    let pairs = query.split(|byte| *byte == b'&').filter(|p| !p.is_empty());
    let parameters = pairs.map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let name = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let value = String::from_utf8(parts.next().unwrap_or_default().to_vec());
        (name, value.ok())
    });
    let parameters = Parameters(parameters.collect());

    match PagesRequest::read(&parameters, &accepted) {
        Ok(request) => {
            assert!((1..=MAX_LIMIT).contains(&request.limit()));
            if let PagesRequest::First(query) = request {
                is_good(query.window, &accepted);
            }
        }
        Err(invalid) => is_named(&invalid, &parameters),
    }
    match SiteQuery::read(&parameters, &accepted) {
        Ok(query) => {
            is_good(query.window(), &accepted);
            let intervals = query.report([]);
            assert!((1..=MAX_INTERVALS as usize).contains(&intervals.len()));
            assert!(intervals.is_sorted_by(|a, b| a.start < b.start));
        }
        Err(invalid) => is_named(&invalid, &parameters),
    }
    match DaysQuery::read(&parameters, &accepted) {
        Ok(query) => {
            let starts: Vec<_> = query.starts().collect();
            assert!((1..=90 + 33).contains(&starts.len()), "{}", starts.len());
            assert!(starts.is_sorted(), "days do not overlap");
            assert!(query.from() < query.to());
            assert!(query.window().from <= query.window().until);
            assert!(query.window().from >= accepted.first());
        }
        Err(invalid) => is_named(&invalid, &parameters),
    }
    match CountersQuery::read(&parameters, &accepted) {
        Ok(query) => {
            assert!((1..=MAX_LIMIT).contains(&query.limit));
            assert!(query.sites.is_sorted_by(|a, b| a < b));
            assert!(query.types.is_sorted_by(|a, b| a < b));
            if query.after.is_none() {
                is_good(query.window, &accepted);
            }
        }
        Err(invalid) => is_named(&invalid, &parameters),
    }
    match FunnelQuery::read(&parameters, &accepted) {
        Ok(query) => {
            is_good(query.window, &accepted);
            assert!(query.solves_until() >= query.window.until);
        }
        Err(invalid) => is_named(&invalid, &parameters),
    }
}

fn is_good(window: ReportWindow, accepted: &AcceptanceWindow) {
    assert!(window.from < window.until);
    assert!(window.from >= accepted.first());
}

/// Nothing is refused without a name that the client can find in its question: the beginning of one that
/// is long; and only the last of many has none.
fn is_named(invalid: &Invalid, parameters: &Parameters) {
    let errors = invalid.errors();
    assert!(!errors.is_empty());
    for error in errors {
        let field = error.field.as_ref();
        let is_given = |(name, _): &(String, _)| name.chars().take(64).eq(field.chars());
        let is_the_rest = field.is_empty() && errors.len() > 16;
        assert!(
            is_the_rest || parameters.0.iter().any(is_given),
            "{error:?}"
        );
    }
}
