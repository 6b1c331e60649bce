//! From the bytes of a client to a page view, or to why it is none.
//!
//! Nearly every client sends the plain form: the known fields once, no escapes, all values good. That
//! is read in one pass. Anything else is read again field by field, so that all its errors are named.
//! Both ways apply the same rules, and a property test holds them together.

use serde::{Deserialize, Deserializer};

use super::input::PageViewInput;
use super::values::{check_page_url, parse_time};
use super::{
    AcceptanceWindow, CreatedAt, Invalid, PageUrl, PageView, PageViewChange, RequestId, UserId,
};

/// Why bytes are not a page view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// Not JSON; in words, with the place.
    Malformed(String),
    /// JSON, but not a page view.
    Invalid(Invalid),
}

impl From<Invalid> for Rejection {
    fn from(invalid: Invalid) -> Self {
        Rejection::Invalid(invalid)
    }
}

/// The view in `body`, which has no `request_id` of its own.
///
/// # Errors
/// A [`Rejection`] that names everything bad.
pub fn read_view(
    body: &[u8],
    request_id: RequestId,
    window: &AcceptanceWindow,
) -> Result<PageView, Rejection> {
    if let Some((None, view)) = read_plain(body, window) {
        return Ok(PageView { request_id, ..view });
    }
    Ok(PageViewInput::read(body)?.into_view(request_id, window)?)
}

/// The view in one line of a batch, with its `request_id`.
///
/// # Errors
/// A [`Rejection`] that names everything bad.
pub fn read_identified_view(line: &[u8], window: &AcceptanceWindow) -> Result<PageView, Rejection> {
    if let Some((Some(_), view)) = read_plain(line, window) {
        return Ok(view);
    }
    Ok(PageViewInput::read(line)?.into_identified_view(window)?)
}

/// The fields in `body` that a view is to take on.
///
/// # Errors
/// A [`Rejection`] that names everything bad.
pub fn read_change(body: &[u8], window: &AcceptanceWindow) -> Result<PageViewChange, Rejection> {
    Ok(PageViewInput::read(body)?.into_change(window)?)
}

/// The plain form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain<'a> {
    #[serde(default, deserialize_with = "some")]
    request_id: Option<u64>,
    user_id: u32,
    created_at: &'a str,
    page_url: &'a str,
}

/// A field that is there has a value: `null` is not plain.
fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    u64::deserialize(deserializer).map(Some)
}

/// The view, and its id where it names one; nothing where a closer look is needed.
fn read_plain(json: &[u8], window: &AcceptanceWindow) -> Option<(Option<RequestId>, PageView)> {
    let plain: Plain<'_> = serde_json::from_slice(json).ok()?;
    let at = parse_time(plain.created_at)?;
    window.check(at).ok()?;
    check_page_url(plain.page_url).ok()?;
    let request_id = plain.request_id.map(RequestId::new);
    let view = PageView {
        request_id: request_id.unwrap_or(RequestId::new(0)),
        user_id: UserId::new(plain.user_id),
        created_at: CreatedAt::truncate(at)?,
        page_url: PageUrl::trusted(plain.page_url),
    };
    Some((request_id, view))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::FieldError;
    use proptest::prelude::*;

    fn window() -> AcceptanceWindow {
        AcceptanceWindow::new(parse_time("2026-11-21T12:00:00Z").unwrap(), 90, 0)
    }

    fn errors(line: &str) -> Vec<(String, &'static str)> {
        match read_identified_view(line.as_bytes(), &window()) {
            Err(Rejection::Invalid(invalid)) => {
                let pair = |e: &FieldError| (e.field.to_string(), e.code);
                invalid.errors().iter().map(pair).collect()
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_line_names_its_own_id() {
        let rest = r#""user_id": 7, "created_at": "2026-11-21T11:59:59Z", "page_url": "/a""#;
        let view = |id: &str| {
            let line = format!("{{\"request_id\": {id}, {rest}}}");
            read_identified_view(line.as_bytes(), &window()).map(|view| view.request_id.get())
        };
        assert_eq!(view("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(view("\"18446744073709551615\""), Ok(u64::MAX));
        for (id, code) in [
            ("18446744073709551616", "wrong_type"),
            ("-1", "out_of_range"),
            ("\"x\"", "out_of_range"),
            ("1.5", "wrong_type"),
            ("null", "wrong_type"),
        ] {
            let line = format!("{{\"request_id\": {id}, {rest}}}");
            assert_eq!(errors(&line), [("request_id".to_owned(), code)], "{id}");
        }
        let named: Vec<String> = errors("{}").into_iter().map(|(field, _)| field).collect();
        assert_eq!(named, ["request_id", "user_id", "created_at", "page_url"]);
        let twice = format!("{{\"request_id\": 1, \"request_id\": 1, {rest}}}");
        assert_eq!(
            errors(&twice),
            [("request_id".to_owned(), "repeated_field")]
        );
    }

    #[test]
    fn a_body_under_a_path_has_no_id() {
        let body = br#"{"request_id": 1, "user_id": 7, "created_at": "2026-11-21T11:59:59Z", "page_url": "/a"}"#;
        let Err(Rejection::Invalid(invalid)) = read_view(body, RequestId::new(1), &window()) else {
            panic!("accepted");
        };
        assert_eq!(invalid.errors().len(), 1);
        assert_eq!(invalid.errors()[0].field, "request_id");
        assert_eq!(invalid.errors()[0].code, "unknown_field");
        assert!(read_change(br#"{"request_id": 1}"#, &window()).is_err());
    }

    #[test]
    fn what_is_no_object_is_told_from_what_is_no_json() {
        let read = |json: &[u8]| read_identified_view(json, &window());
        assert!(matches!(read(b"[1]"), Err(Rejection::Invalid(_))));
        for bad in [
            &b"{"[..],
            b"",
            b"{} {}",
            b"{\"request_id\": 1e999}",
            b"\"\xff\"",
        ] {
            assert!(matches!(read(bad), Err(Rejection::Malformed(_))), "{bad:?}");
        }
    }

    /// Values that are good, nearly good and bad, in every field.
    fn object() -> impl Strategy<Value = String> {
        let id = prop_oneof![
            Just("1"),
            Just("0"),
            Just("18446744073709551615"),
            Just("18446744073709551616"),
            Just("-1"),
            Just("-0"),
            Just("1.0"),
            Just("1e2"),
            Just("null"),
            Just("\"1\""),
            Just("true"),
            Just("[]"),
        ];
        let time = prop_oneof![
            Just("\"2026-11-21T11:59:59Z\""),
            Just("\"2026-11-21T12:00:00.9Z\""),
            Just("\"2026-11-21T12:00:01Z\""),
            Just("\"2026-11-21T13:00:00+02:00\""),
            Just("\"2026-11-21T11:00:00\""),
            Just("\"2026-11-21 11:00:00Z\""),
            Just("\"2026-08-23T12:00:00Z\""),
            Just("\"2026-11-21T11:59:60Z\""),
            Just("\"2026-11-21T11:59:5\\u0039Z\""),
            Just("\"2026-02-29T11:59:59Z\""),
            Just("\"\""),
            Just("5"),
        ];
        let page = prop_oneof![
            Just("\"/a\""),
            Just("\"https://example.org/?q=ü\""),
            Just("\"a\""),
            Just("\"\""),
            Just("\"/\\n\""),
            Just("\"/\u{7f}\""),
            Just("\"/\u{85}\""),
            Just("\"\\/a\""),
            Just("null"),
        ];
        let field = prop_oneof![
            4 => id.clone().prop_map(|v| format!("\"request_id\": {v}")),
            4 => id.prop_map(|v| format!("\"user_id\":{v}")),
            4 => time.prop_map(|v| format!("\"created_at\" : {v}")),
            4 => page.prop_map(|v| format!("\"page_url\": {v}")),
            1 => Just("\"x\": 1".to_owned()),
            1 => Just("\"user\\u005fid\": 3".to_owned()),
        ];
        proptest::collection::vec(field, 0..6)
            .prop_map(|fields| format!("{{{}}}", fields.join(",")))
    }

    /// A whole object with the usual fields in the usual order, so that good ones are common.
    fn likely() -> impl Strategy<Value = String> {
        (object(), any::<bool>()).prop_map(|(object, with_id)| {
            let id = if with_id { "\"request_id\": 4, " } else { "" };
            format!(
                "{{{id}\"user_id\": 7, \"created_at\": \"2026-11-21T11:00:00Z\", \"page_url\": \"/a\"{}{}",
                if object == "{}" { "" } else { ", " },
                &object[1..]
            )
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn both_ways_of_reading_say_the_same(json in prop_oneof![object(), likely()]) {
            let (window, id) = (window(), RequestId::new(9));
            let slow = PageViewInput::read(json.as_bytes()).unwrap().into_view(id, &window);
            prop_assert_eq!(read_view(json.as_bytes(), id, &window).ok(), slow.ok());
            let slow = PageViewInput::read(json.as_bytes()).unwrap().into_identified_view(&window);
            prop_assert_eq!(read_identified_view(json.as_bytes(), &window).ok(), slow.ok());
        }
    }
}
