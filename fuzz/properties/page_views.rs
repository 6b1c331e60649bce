//! A body of one view, a line of a batch, a partial change: what is accepted obeys the contract, is read
//! the same however it is spelled, and is read back from what the service would write.

use chrono::DateTime;
use traffic_api::domain::{
    AcceptanceWindow, Invalid, MAX_PAGE_URL_BYTES, PageView, Rejection, RequestId, read_change,
    read_identified_view, read_view,
};

/// 2026-01-31T12:00:00Z, with a retention of ten years.
fn window() -> AcceptanceWindow {
    let now = DateTime::from_timestamp(1_769_860_800, 0).expect("a time");
    AcceptanceWindow::new(now, 3650, 0)
}

pub fn check(json: &[u8]) {
    let (window, id) = (window(), RequestId::new(7));
    let one = read_view(json, id, &window);
    let line = read_identified_view(json, &window);
    let change = read_change(json, &window);
    if let Some(other) = crate::spelling::escaped(json) {
        same(&one, &read_view(&other, id, &window));
        same(&line, &read_identified_view(&other, &window));
        same(&change, &read_change(&other, &window));
    }
    if let Ok(view) = &one {
        assert_eq!(view.request_id, id, "the path says which view it is");
        obeys(view);
        let written = written(view, false);
        assert_eq!(
            read_view(written.as_bytes(), id, &window).as_ref(),
            Ok(view)
        );
        // Whatever is a whole view is a change of all of it.
        let change = change.expect("a view is a change");
        assert_eq!(change.user_id, Some(view.user_id));
        assert_eq!(change.created_at, Some(view.created_at));
        assert_eq!(change.page_url.as_ref(), Some(&view.page_url));
    }
    if let Ok(view) = &line {
        obeys(view);
        assert!(one.is_err(), "a body under a path has no id of its own");
        let written = written(view, true);
        assert_eq!(
            read_identified_view(written.as_bytes(), &window).as_ref(),
            Ok(view)
        );
    }
}

/// The same value, or the same errors; where in the text it is no JSON may differ.
fn same<T: PartialEq + std::fmt::Debug>(one: &Result<T, Rejection>, other: &Result<T, Rejection>) {
    match (one, other) {
        (Err(Rejection::Malformed(_)), Err(Rejection::Malformed(_))) => {}
        (one, other) => assert_eq!(one, other),
    }
    if let Err(Rejection::Invalid(invalid)) = one {
        named(invalid);
    }
}

/// A refusal names something, and does not repeat a client's text without end.
fn named(invalid: &Invalid) {
    assert!(!invalid.errors().is_empty());
    assert!(invalid.errors().len() < 64);
    assert!(invalid.errors().iter().all(|e| e.field.len() <= 4 * 64));
}

fn obeys(view: &PageView) {
    let page = view.page_url.as_str();
    assert!((1..=MAX_PAGE_URL_BYTES).contains(&page.len()));
    assert!(!page.chars().any(char::is_control));
    assert!(page.starts_with('/') || page.contains("://"));
    let at = i64::from(view.created_at.unix());
    let now = window().now().timestamp();
    assert!(at <= now && at > now - 3650 * 86_400);
}

fn written(view: &PageView, with_id: bool) -> String {
    let mut object = serde_json::json!({
        "user_id": view.user_id.get(),
        "created_at": view.created_at.to_string(),
        "page_url": view.page_url.as_str(),
    });
    if with_id {
        object["request_id"] = view.request_id.get().into();
    }
    object.to_string()
}
