//! A body of one event: what is accepted obeys the contract, is read the same however it is spelled,
//! and is read back from what the service would write.

use chrono::DateTime;
use traffic_api::domain::{AcceptanceWindow, Event, EventType, EventTypes, Rejection, read_event};

/// 2026-01-31T12:00:00Z; no event is too old.
fn window() -> AcceptanceWindow {
    let now = DateTime::from_timestamp(1_769_860_800, 0).expect("a time");
    AcceptanceWindow::unlimited(now, 0)
}

pub fn check(json: &[u8]) {
    let (window, open) = (window(), EventTypes::Open);
    let event = read_event(json, &window, &open);
    if let Some(other) = crate::spelling::escaped(json) {
        match (&event, &read_event(&other, &window, &open)) {
            (Err(Rejection::Malformed(_)), Err(Rejection::Malformed(_))) => {}
            (one, other) => assert_eq!(one, other),
        }
    }
    let types = vec![EventType::SERVE, EventType::SOLVE];
    let closed = read_event(json, &window, &EventTypes::Closed(types.clone()));
    match (&event, &closed) {
        (Ok(event), Ok(again)) => {
            assert_eq!(event, again);
            assert!(types.contains(&event.identity.of));
        }
        (Ok(event), Err(_)) => assert!(!types.contains(&event.identity.of)),
        (Err(_), closed) => assert!(closed.is_err(), "a list of types lets more in"),
    }
    let Ok(event) = event else { return };
    let name = event.identity.of.as_str();
    assert!((1..=32).contains(&name.len()) && name.is_ascii() && !name.contains('\0'));
    assert!(i64::from(event.time.unix()) <= window.now().timestamp());
    assert_eq!(
        read_event(written(&event).as_bytes(), &window, &open),
        Ok(event)
    );
}

fn written(event: &Event) -> String {
    serde_json::json!({
        "site_id": event.identity.site_id.to_string(),
        "type": event.identity.of.as_str(),
        "correlation_id": event.identity.correlation_id.to_string(),
        "time": event.time.to_string(),
    })
    .to_string()
}
