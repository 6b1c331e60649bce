//! Which of two forms of a report a client would rather have (RFC 9110, section 12.5.1).

use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, header, request};

use super::problem::{Kind, Problem};

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// JSON, also where a client does not say or does not care.
    Json,
    /// CSV (RFC 4180) with a header line.
    Csv,
}

impl Form {
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Csv => "text/csv; charset=utf-8; header=present",
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Form {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Problem> {
        wanted(&parts.headers).ok_or_else(|| {
            Problem::new(Kind::NotAcceptable).with_detail("accept application/json or text/csv")
        })
    }
}

fn wanted(headers: &HeaderMap) -> Option<Form> {
    let values = headers.get_all(header::ACCEPT);
    let lists: Vec<&str> = values.iter().filter_map(|v| v.to_str().ok()).collect();
    if lists.iter().all(|list| list.trim().is_empty()) {
        return Some(Form::Json);
    }
    let json = weight(&lists, "application", "json");
    let csv = weight(&lists, "text", "csv");
    match (json, csv) {
        ((0, _), (0, _)) => None,
        (json, csv) if csv > json => Some(Form::Csv),
        _ => Some(Form::Json),
    }
}

/// What the most specific range that a type is in says of it: its quality in thousandths, and how
/// specific it is, so that a type that is named is preferred to one that is only not excluded.
fn weight(lists: &[&str], of_type: &str, subtype: &str) -> (u16, u8) {
    let ranges = lists
        .iter()
        .flat_map(|list| list.split(','))
        .filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let (range_type, range_subtype) = parts.next()?.split_once('/')?;
            let specific = match (range_type, range_subtype) {
                ("*", "*") => 1,
                (t, "*") if t.eq_ignore_ascii_case(of_type) => 2,
                (t, s) if t.eq_ignore_ascii_case(of_type) && s.eq_ignore_ascii_case(subtype) => 3,
                _ => return None,
            };
            let quality = parts.filter_map(|part| part.split_once('='));
            let mut quality = quality.filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
            let quality = quality
                .next()
                .map_or(Some(1000), |(_, text)| thousandths(text.trim()));
            Some((specific, quality?))
        });
    let most_specific = ranges.max();
    most_specific.map_or((0, 0), |(specific, quality)| (quality, specific))
}

/// `0`, `0.5`, `1.000`: at most three digits behind the point, at most one.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let plain = fraction.len() <= 3 && fraction.bytes().all(|b| b.is_ascii_digit());
    let fraction: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" if plain => Some(fraction),
        "1" if plain && fraction == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_both_forms_is_chosen() {
        let (json, csv) = (Some(Form::Json), Some(Form::Csv));
        for (accept, form) in [
            ("", json),
            ("*/*", json),
            ("application/json", json),
            ("text/csv", csv),
            ("Text/CSV;charset=utf-8", csv),
            ("text/*", csv),
            ("application/*", json),
            ("text/csv, */*", csv),
            ("text/csv;q=0.9, */*", json),
            ("text/csv, application/json", json),
            ("text/csv;q=0.5, application/json;q=0.4", csv),
            ("text/csv;q=0.5,application/json;Q=0.500", json),
            ("application/json;q=0, */*", csv),
            ("application/json;q=0", None),
            ("*/*;q=0", None),
            ("text/csv;q=0, text/*", None),
            ("*/*;q=0, text/csv;q=0.001", csv),
            ("text/html, image/*;q=0.8", None),
            ("text/html,application/xhtml+xml,*/*;q=0.8", json),
            ("text/csv;q=2", None),
            ("text/csv;q=0.0001", None),
            ("text/csv;q=x, */*;q=0.1", json),
            ("csv", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(wanted(&headers), form, "{accept:?}");
        }
        assert_eq!(wanted(&HeaderMap::new()), json);
        let mut two = HeaderMap::new();
        two.append(header::ACCEPT, "text/html".parse().unwrap());
        two.append(header::ACCEPT, "text/csv".parse().unwrap());
        assert_eq!(wanted(&two), csv);
    }
}
