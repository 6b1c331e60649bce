//! From a JSON object to a page view, or to all that is wrong with it.
//!
//! The object is read field by field into loose scalars first, so that a wrong type in one field
//! does not hide a wrong value in another; only broken JSON syntax stops the reading.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use validator::{ValidateArgs, ValidationError, ValidationErrors};

use super::object::{Object, field_error, in_order};
use super::reading::Rejection;
use super::scalar::Scalar;
use super::values::{check_page_url, not_a_time, parse_time};
use super::{
    AcceptanceWindow, CreatedAt, FieldError, Invalid, PageUrl, PageView, PageViewChange, RequestId,
    UserId,
};

/// The fields, in the contract's order.
const FIELDS: [&str; 4] = ["request_id", "user_id", "created_at", "page_url"];

/// A page view as it came over the wire: `user_id`, `created_at`, `page_url`, and in a batch
/// `request_id`.
#[derive(Debug)]
pub(super) struct PageViewInput<'a>(Object<'a, 4>);

/// The fields that had the right JSON type, before the rules.
#[derive(validator::Validate)]
#[validate(context = AcceptanceWindow)]
struct Typed<'a> {
    #[validate(range(
        min = 0_i128,
        max = 4_294_967_295_i128,
        code = "out_of_range",
        message = "must be from 0 to 4294967295"
    ))]
    user_id: Option<i128>,
    #[validate(custom(function = "within_window", use_context))]
    created_at: Option<DateTime<Utc>>,
    #[validate(custom(function = "acceptable_page_url"))]
    page_url: Option<Cow<'a, str>>,
}

fn within_window(at: &DateTime<Utc>, window: &AcceptanceWindow) -> Result<(), ValidationError> {
    window.check(*at)
}

fn acceptable_page_url(text: &str) -> Result<(), ValidationError> {
    check_page_url(text)
}

impl<'a> PageViewInput<'a> {
    /// Reads one JSON object.
    ///
    /// # Errors
    /// What is no JSON, and what is no object.
    pub(super) fn read(json: &'a [u8]) -> Result<Self, Rejection> {
        Object::read(&FIELDS, json).map(Self)
    }

    /// The whole view under `request_id`.
    ///
    /// # Errors
    /// All bad, missing, repeated and unknown fields together.
    pub(super) fn into_view(
        mut self,
        request_id: RequestId,
        window: &AcceptanceWindow,
    ) -> Result<PageView, Invalid> {
        // Where the path says which view it is, the body has no say in it.
        self.0.refuse("request_id");
        self.whole(Some(request_id), Vec::new(), window)
    }

    /// The same under the request id that it names itself.
    pub(super) fn into_identified_view(
        mut self,
        window: &AcceptanceWindow,
    ) -> Result<PageView, Invalid> {
        let mut errors = Vec::new();
        let request_id = match self.0.take("request_id") {
            Scalar::Absent => {
                errors.push(FieldError::new("request_id", "required", "is required"));
                None
            }
            Scalar::Integer(n) => u64::try_from(n).ok().map(RequestId::new),
            // The numbers of some clients end at 2^53.
            Scalar::Text(text) => text.parse().ok(),
            other => {
                errors.push(other.wrong_type("request_id", "a whole number"));
                None
            }
        };
        if request_id.is_none() && errors.is_empty() {
            let detail = "must be from 0 to 18446744073709551615";
            errors.push(FieldError::new("request_id", "out_of_range", detail));
        }
        self.whole(request_id, errors, window)
    }

    fn whole(
        self,
        request_id: Option<RequestId>,
        mut errors: Vec<FieldError>,
        window: &AcceptanceWindow,
    ) -> Result<PageView, Invalid> {
        let (change, more) = self.check(window);
        errors.extend(more);
        let PageViewChange {
            user_id,
            created_at,
            page_url,
        } = change;
        for (field, given) in [
            ("user_id", user_id.is_some()),
            ("created_at", created_at.is_some()),
            ("page_url", page_url.is_some()),
        ] {
            if !given && !errors.iter().any(|e| e.field == field) {
                errors.push(FieldError::new(field, "required", "is required"));
            }
        }
        match (request_id, user_id, created_at, page_url) {
            (Some(request_id), Some(user_id), Some(created_at), Some(page_url))
                if errors.is_empty() =>
            {
                Ok(PageView {
                    request_id,
                    user_id,
                    created_at,
                    page_url,
                })
            }
            _ => Err(in_order(&FIELDS, errors)),
        }
    }

    /// The fields that were given, for a partial update; none at all is a change of nothing.
    ///
    /// # Errors
    /// All bad, repeated and unknown fields together.
    pub(super) fn into_change(
        mut self,
        window: &AcceptanceWindow,
    ) -> Result<PageViewChange, Invalid> {
        // Where the path says which view it is, the body has no say in it.
        self.0.refuse("request_id");
        let (change, errors) = self.check(window);
        if errors.is_empty() {
            Ok(change)
        } else {
            Err(in_order(&FIELDS, errors))
        }
    }

    fn check(mut self, window: &AcceptanceWindow) -> (PageViewChange, Vec<FieldError>) {
        let mut errors = self.0.name_errors();
        let fields = &mut self.0;
        let user_id = match fields.take("user_id") {
            Scalar::Absent => None,
            Scalar::Integer(n) => Some(n),
            other => {
                errors.push(other.wrong_type("user_id", "a whole number"));
                None
            }
        };
        let created_at = fields.text("created_at", "an RFC 3339 string", &mut errors);
        let created_at = created_at.and_then(|text| {
            let parsed = parse_time(&text);
            if parsed.is_none() {
                errors.push(not_a_time("created_at"));
            }
            parsed
        });
        let page_url = fields.text("page_url", "a string", &mut errors);
        let typed = Typed {
            user_id,
            created_at,
            page_url,
        };
        if let Err(broken) = typed.validate_with_args(window) {
            errors.extend(field_errors(&broken));
        }
        let change = PageViewChange {
            user_id: typed
                .user_id
                .and_then(|n| u32::try_from(n).ok())
                .map(UserId::new),
            created_at: typed.created_at.and_then(CreatedAt::truncate),
            page_url: typed.page_url.map(PageUrl::trusted),
        };
        (change, errors)
    }
}

fn field_errors(broken: &ValidationErrors) -> Vec<FieldError> {
    broken
        .field_errors()
        .into_iter()
        .flat_map(|(field, errors)| errors.iter().map(move |e| (field.clone(), e)))
        .map(|(field, error)| field_error(field, error))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::object::{MAX_NAME_CHARS, MAX_UNKNOWN_NAMED};
    use super::*;

    fn window() -> AcceptanceWindow {
        AcceptanceWindow::new(parse_time("2026-11-21T12:00:00Z").unwrap(), 90, 0)
    }

    fn errors(json: &str) -> Vec<(String, &'static str)> {
        let input = PageViewInput::read(json.as_bytes()).unwrap();
        let invalid = input.into_view(RequestId::new(1), &window()).unwrap_err();
        let pair = |e: &FieldError| (e.field.to_string(), e.code);
        invalid.errors().iter().map(pair).collect()
    }

    #[test]
    fn a_good_body_becomes_a_view() {
        let json = r#"{"user_id": 7, "created_at": "2026-11-21T11:59:59.9+00:00", "page_url": "\/a\u00e9"}"#;
        let input = PageViewInput::read(json.as_bytes()).unwrap();
        let view = input.into_view(RequestId::new(1), &window()).unwrap();
        assert_eq!(view.user_id.get(), 7);
        assert_eq!(view.created_at.to_string(), "2026-11-21T11:59:59Z");
        assert_eq!(view.page_url.as_str(), "/aé");
    }

    #[test]
    fn every_bad_field_is_named_once_in_the_contracts_order() {
        let named = |list: &[(&str, &'static str)]| -> Vec<(String, &'static str)> {
            list.iter().map(|(f, c)| ((*f).to_owned(), *c)).collect()
        };
        assert_eq!(
            errors("{}"),
            named(&[
                ("user_id", "required"),
                ("created_at", "required"),
                ("page_url", "required")
            ])
        );
        assert_eq!(
            errors(r#"{"page_url": "", "created_at": "2026-11-21T12:00:01Z", "user_id": -1}"#),
            named(&[
                ("user_id", "out_of_range"),
                ("created_at", "in_future"),
                ("page_url", "empty")
            ])
        );
        assert_eq!(
            errors(
                r#"{"x": [1, {"y": 2}], "user_id": 4294967296, "created_at": 5, "page_url": null}"#
            ),
            named(&[
                ("user_id", "out_of_range"),
                ("created_at", "wrong_type"),
                ("page_url", "wrong_type"),
                ("x", "unknown_field")
            ])
        );
        assert_eq!(
            errors(
                r#"{"user_id": 1, "user_id": 2, "created_at": "2026-11-21T12:00:00Z", "page_url": "/"}"#
            ),
            named(&[("user_id", "repeated_field")])
        );
        assert_eq!(
            errors(r#"{"user_id": 1.5, "created_at": "x", "page_url": {}}"#),
            named(&[
                ("user_id", "wrong_type"),
                ("created_at", "not_a_time"),
                ("page_url", "wrong_type")
            ])
        );
    }

    #[test]
    fn a_flood_of_unknown_fields_gives_a_short_answer() {
        let fields: Vec<String> = (0..1000)
            .map(|i| format!("\"{i}{}\": 1", "é".repeat(100)))
            .collect();
        let found = errors(&format!("{{{}}}", fields.join(",")));
        assert_eq!(found.len(), 3 + MAX_UNKNOWN_NAMED + 1);
        assert!(
            found
                .iter()
                .all(|(field, _)| field.chars().count() <= MAX_NAME_CHARS)
        );
    }

    #[test]
    fn a_partial_update_takes_any_subset() {
        let change = |json: &str| {
            let input = PageViewInput::read(json.as_bytes()).unwrap();
            input.into_change(&window())
        };
        assert_eq!(change("{}"), Ok(PageViewChange::default()));
        assert_eq!(
            change(r#"{"page_url": "/b"}"#).unwrap().page_url,
            Some(PageUrl::trusted("/b"))
        );
        assert!(change(r#"{"page_url": null}"#).is_err());
    }
}
