//! From the bytes of a client to an event, or to all that is wrong with it.
//!
//! As with page views: the plain form is read in one pass, anything else field by field, and a property
//! test holds both ways together.

use serde::Deserialize;

use super::object::{Object, field_error, in_order};
use super::values::{not_a_time, parse_time};
use super::{
    AcceptanceWindow, CreatedAt, Event, EventIdentity, EventType, EventTypes, FieldError, Rejection,
};

/// The fields, in the contract's order.
const FIELDS: [&str; 4] = ["site_id", "type", "correlation_id", "time"];

/// The event in `json`.
///
/// # Errors
/// A [`Rejection`] that names everything bad.
pub fn read_event(
    json: &[u8],
    window: &AcceptanceWindow,
    types: &EventTypes,
) -> Result<Event, Rejection> {
    if let Some(event) = read_plain(json, window, types) {
        return Ok(event);
    }
    let object = Object::read(&FIELDS, json)?;
    read_fields(object, window, types)
        .map_err(|errors| Rejection::Invalid(in_order(&FIELDS, errors)))
}

/// The plain form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain<'a> {
    site_id: &'a str,
    #[serde(rename = "type")]
    of: &'a str,
    correlation_id: &'a str,
    time: &'a str,
}

/// The event; nothing where a closer look is needed.
fn read_plain(json: &[u8], window: &AcceptanceWindow, types: &EventTypes) -> Option<Event> {
    let plain: Plain<'_> = serde_json::from_slice(json).ok()?;
    let at = parse_time(plain.time)?;
    window.check(at).ok()?;
    let of = plain.of.parse().ok().filter(|of| types.accept(*of))?;
    Some(Event {
        identity: EventIdentity {
            site_id: plain.site_id.parse().ok()?,
            correlation_id: plain.correlation_id.parse().ok()?,
            of,
        },
        time: CreatedAt::truncate(at)?,
    })
}

fn read_fields(
    mut object: Object<'_, 4>,
    window: &AcceptanceWindow,
    types: &EventTypes,
) -> Result<Event, Vec<FieldError>> {
    let mut errors = object.name_errors();
    let mut text = |name, wanted, errors: &mut Vec<FieldError>| {
        let before = errors.len();
        let text = object.text(name, wanted, errors);
        if text.is_none() && errors.len() == before {
            errors.push(FieldError::new(name, "required", "is required"));
        }
        text
    };
    let site_id = text("site_id", "a UUID", &mut errors);
    let of = text("type", "a string", &mut errors);
    let correlation_id = text("correlation_id", "a UUID", &mut errors);
    let time = text("time", "an RFC 3339 string", &mut errors);

    let mut parsed = |name, code, reason: String| {
        errors.push(FieldError::new(name, code, reason));
    };
    let site_id = site_id.and_then(|text| {
        let refuse =
            |reason: super::event::NotAUuid| parsed("site_id", "not_a_uuid", reason.to_string());
        text.parse().map_err(refuse).ok()
    });
    let correlation_id = correlation_id.and_then(|text| {
        let refuse = |reason: super::event::NotAUuid| {
            parsed("correlation_id", "not_a_uuid", reason.to_string())
        };
        text.parse().map_err(refuse).ok()
    });
    let of = of.and_then(|text| match text.parse::<EventType>() {
        Ok(of) if types.accept(of) => Some(of),
        Ok(_) => {
            parsed("type", "unknown_type", unknown_type(types));
            None
        }
        Err(reason) => {
            parsed("type", "not_a_type", reason.to_string());
            None
        }
    });
    let time = time.and_then(|text| {
        let Some(at) = parse_time(&text) else {
            errors.push(not_a_time("time"));
            return None;
        };
        if let Err(refused) = window.check(at) {
            errors.push(field_error("time", &refused));
        }
        CreatedAt::truncate(at)
    });
    match (site_id, of, correlation_id, time) {
        (Some(site_id), Some(of), Some(correlation_id), Some(time)) if errors.is_empty() => {
            let identity = EventIdentity {
                site_id,
                correlation_id,
                of,
            };
            Ok(Event { identity, time })
        }
        _ => Err(errors),
    }
}

/// Why a type is refused that would be a good one.
fn unknown_type(types: &EventTypes) -> String {
    match types {
        EventTypes::Open => String::new(),
        EventTypes::Closed(types) => {
            let names: Vec<&str> = types.iter().map(EventType::as_str).collect();
            format!("must be one of {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SITE: &str = "c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c93";

    fn window() -> AcceptanceWindow {
        AcceptanceWindow::unlimited(parse_time("2026-11-21T12:00:00Z").unwrap(), 0)
    }

    fn closed() -> EventTypes {
        EventTypes::Closed(vec![EventType::SERVE, EventType::SOLVE])
    }

    fn errors(json: &str, types: &EventTypes) -> Vec<(String, &'static str)> {
        match read_event(json.as_bytes(), &window(), types) {
            Err(Rejection::Invalid(invalid)) => {
                let pair = |e: &FieldError| (e.field.to_string(), e.code);
                invalid.errors().iter().map(pair).collect()
            }
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn an_old_event_is_taken_where_nothing_expires() {
        let json = format!(
            r#"{{"site_id": "{SITE}", "type": "serve", "correlation_id": "{SITE}", "time": "2001-01-01T05:55:07"}}"#
        );
        let event = read_event(json.as_bytes(), &window(), &closed()).unwrap();
        assert_eq!(event.time.to_string(), "2001-01-01T05:55:07Z");
        assert_eq!(event.identity.of, EventType::SERVE);
        let recent = AcceptanceWindow::new(window().now(), 30, 0);
        assert!(read_event(json.as_bytes(), &recent, &closed()).is_err());
        let before = json.replace("2001", "1969");
        assert_eq!(
            errors(&before, &closed()),
            [("time".to_owned(), "before_retention")]
        );
    }

    #[test]
    fn every_bad_field_is_named_once_in_the_contracts_order() {
        let named = |list: &[(&str, &'static str)]| -> Vec<(String, &'static str)> {
            list.iter().map(|(f, c)| ((*f).to_owned(), *c)).collect()
        };
        let required = ["site_id", "type", "correlation_id", "time"].map(|f| (f, "required"));
        assert_eq!(errors("{}", &closed()), named(&required));
        assert_eq!(
            errors(
                r#"{"x": 1, "time": "2026-11-21T12:00:01Z", "correlation_id": 5, "type": "click", "site_id": "a"}"#,
                &closed()
            ),
            named(&[
                ("site_id", "not_a_uuid"),
                ("type", "unknown_type"),
                ("correlation_id", "wrong_type"),
                ("time", "in_future"),
                ("x", "unknown_field"),
            ])
        );
        assert_eq!(
            errors(
                &format!(
                    r#"{{"site_id": "{SITE}", "type": "Serve", "type": "Serve", "correlation_id": "{SITE}", "time": "x"}}"#
                ),
                &EventTypes::Open
            ),
            named(&[
                ("type", "repeated_field"),
                ("type", "not_a_type"),
                ("time", "not_a_time"),
            ])
        );
        assert_eq!(
            errors("[]", &EventTypes::Open),
            named(&[("", "wrong_type")])
        );
    }

    /// Values that are good, nearly good and bad, in every field.
    fn object() -> impl Strategy<Value = String> {
        let id = prop_oneof![
            4 => Just(format!("\"{SITE}\"")),
            1 => Just(format!("\"{}\"", SITE.to_uppercase())),
            1 => Just("\"c1a7e5d0\\u002d3b52-4f86-9d41-5e0f7a2b6c93\"".to_owned()),
            1 => Just("\"\"".to_owned()),
            1 => Just("null".to_owned()),
        ];
        let of = prop_oneof![
            3 => Just("\"serve\""),
            1 => Just("\"sol\\u0076e\""),
            1 => Just("\"click\""),
            1 => Just("\"Serve\""),
            1 => Just("7"),
        ];
        let time = prop_oneof![
            3 => Just("\"2026-11-21T11:59:59Z\""),
            1 => Just("\"2001-01-01T05:55:07\""),
            1 => Just("\"2026-11-21T12:00:01Z\""),
            1 => Just("\"1969-12-31T23:59:59Z\""),
            1 => Just("\"\""),
        ];
        let field = prop_oneof![
            4 => id.clone().prop_map(|v| format!("\"site_id\": {v}")),
            4 => of.prop_map(|v| format!("\"type\":{v}")),
            4 => id.prop_map(|v| format!("\"correlation_id\" : {v}")),
            4 => time.prop_map(|v| format!("\"time\": {v}")),
            1 => Just("\"x\": 1".to_owned()),
        ];
        proptest::collection::vec(field, 3..6)
            .prop_map(|fields| format!("{{{}}}", fields.join(",")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn both_ways_of_reading_say_the_same(json in object()) {
            let (window, types) = (window(), closed());
            let object = Object::read(&FIELDS, json.as_bytes()).unwrap();
            let slow = read_fields(object, &window, &types).ok();
            prop_assert_eq!(read_event(json.as_bytes(), &window, &types).ok(), slow);
            if let Some(plain) = read_plain(json.as_bytes(), &window, &types) {
                prop_assert_eq!(Some(plain), slow);
            }
        }
    }
}
