//! From a JSON object to a page view, or to all that is wrong with it.
//!
//! The object is read field by field into loose scalars first, so that a wrong type in one field
//! does not hide a wrong value in another; only broken JSON syntax stops the reading.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use validator::{ValidateArgs, ValidationError, ValidationErrors};

use super::scalar::{CowStr, Scalar};
use super::values::{check_page_url, parse_time};
use super::{
    AcceptanceWindow, CreatedAt, FieldError, Invalid, PageUrl, PageView, PageViewChange, RequestId,
    UserId,
};

/// How many unknown fields are named before the rest is summed up.
const MAX_UNKNOWN_NAMED: usize = 16;
/// How much of an unknown field's name is repeated to the client, in characters.
const MAX_NAME_CHARS: usize = 64;

/// A page view as it came over the wire: `user_id`, `created_at`, `page_url`, and in a batch
/// `request_id`.
#[derive(Debug, Default)]
pub(super) struct PageViewInput<'a> {
    request_id: Scalar<'a>,
    user_id: Scalar<'a>,
    created_at: Scalar<'a>,
    page_url: Scalar<'a>,
    repeated: BTreeSet<&'static str>,
    unknown: Vec<String>,
    unknown_more: usize,
}

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
    /// The whole view under `request_id`.
    ///
    /// # Errors
    /// All bad, missing, repeated and unknown fields together.
    pub(super) fn into_view(
        mut self,
        request_id: RequestId,
        window: &AcceptanceWindow,
    ) -> Result<PageView, Invalid> {
        self.refuse_request_id();
        self.whole(Some(request_id), Vec::new(), window)
    }

    /// The same under the request id that it names itself.
    pub(super) fn into_identified_view(
        mut self,
        window: &AcceptanceWindow,
    ) -> Result<PageView, Invalid> {
        let mut errors = Vec::new();
        let request_id = match std::mem::take(&mut self.request_id) {
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
            _ => Err(in_contract_order(errors)),
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
        self.refuse_request_id();
        let (change, errors) = self.check(window);
        if errors.is_empty() {
            Ok(change)
        } else {
            Err(in_contract_order(errors))
        }
    }

    fn check(self, window: &AcceptanceWindow) -> (PageViewChange, Vec<FieldError>) {
        let mut errors: Vec<FieldError> = Vec::new();
        for field in self.repeated {
            errors.push(FieldError::new(
                field,
                "repeated_field",
                "is given more than once",
            ));
        }
        for field in self.unknown {
            errors.push(FieldError::new(
                field,
                "unknown_field",
                "is not a known field",
            ));
        }
        if self.unknown_more > 0 {
            let detail = format!("{} more unknown fields", self.unknown_more);
            errors.push(FieldError::new("", "unknown_field", detail));
        }
        let user_id = match self.user_id {
            Scalar::Absent => None,
            Scalar::Integer(n) => Some(n),
            other => {
                errors.push(other.wrong_type("user_id", "a whole number"));
                None
            }
        };
        let created_at = match self.created_at {
            Scalar::Absent => None,
            Scalar::Text(text) => {
                let parsed = parse_time(&text);
                if parsed.is_none() {
                    errors.push(FieldError::new(
                        "created_at",
                        "not_a_time",
                        "must be an RFC 3339 time such as 2026-01-31T12:00:00Z",
                    ));
                }
                parsed
            }
            other => {
                errors.push(other.wrong_type("created_at", "an RFC 3339 string"));
                None
            }
        };
        let page_url = match self.page_url {
            Scalar::Absent => None,
            Scalar::Text(text) => Some(text),
            other => {
                errors.push(other.wrong_type("page_url", "a string"));
                None
            }
        };
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

    /// Where the path says which view it is, the body has no say in it.
    fn refuse_request_id(&mut self) {
        if !matches!(self.request_id, Scalar::Absent) {
            self.repeated.remove("request_id");
            self.note_unknown("request_id");
        }
    }

    fn note_unknown(&mut self, name: &str) {
        if self.unknown.len() == MAX_UNKNOWN_NAMED {
            self.unknown_more += 1;
            return;
        }
        let shown: String = name.chars().take(MAX_NAME_CHARS).collect();
        self.unknown.push(shown);
    }
}

fn field_errors(broken: &ValidationErrors) -> Vec<FieldError> {
    broken
        .field_errors()
        .into_iter()
        .flat_map(|(field, errors)| errors.iter().map(move |e| (field.clone(), e)))
        .map(|(field, e)| {
            let code = match &e.code {
                Cow::Borrowed(code) => code,
                Cow::Owned(_) => "invalid",
            };
            let detail = e.message.clone().unwrap_or(Cow::Borrowed("is invalid"));
            FieldError::new(field.into_owned(), code, detail)
        })
        .collect()
}

/// The contract's fields first, in its order, whatever order the checks ran in.
fn in_contract_order(mut errors: Vec<FieldError>) -> Invalid {
    errors.sort_by_key(|e| match e.field.as_ref() {
        "request_id" => 0,
        "user_id" => 1,
        "created_at" => 2,
        "page_url" => 3,
        _ => 4,
    });
    match Invalid::check(errors) {
        Err(invalid) => invalid,
        Ok(()) => Invalid::one(FieldError::new("", "invalid", "is invalid")),
    }
}

impl<'de> Deserialize<'de> for PageViewInput<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = PageViewInput<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut input = PageViewInput::default();
                while let Some(name) = map.next_key::<CowStr<'de>>()? {
                    let (field, slot) = match name.0.as_ref() {
                        "request_id" => ("request_id", &mut input.request_id),
                        "user_id" => ("user_id", &mut input.user_id),
                        "created_at" => ("created_at", &mut input.created_at),
                        "page_url" => ("page_url", &mut input.page_url),
                        unknown => {
                            input.note_unknown(unknown);
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    if !matches!(slot, Scalar::Absent) {
                        input.repeated.insert(field);
                    }
                    *slot = map.next_value()?;
                }
                Ok(input)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> AcceptanceWindow {
        AcceptanceWindow::new(parse_time("2026-11-21T12:00:00Z").unwrap(), 90, 0)
    }

    fn errors(json: &str) -> Vec<(String, &'static str)> {
        let input: PageViewInput<'_> = serde_json::from_str(json).unwrap();
        let invalid = input.into_view(RequestId::new(1), &window()).unwrap_err();
        let pair = |e: &FieldError| (e.field.to_string(), e.code);
        invalid.errors().iter().map(pair).collect()
    }

    #[test]
    fn a_good_body_becomes_a_view() {
        let json = r#"{"user_id": 7, "created_at": "2026-11-21T11:59:59.9+00:00", "page_url": "\/a\u00e9"}"#;
        let input: PageViewInput<'_> = serde_json::from_str(json).unwrap();
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
            let input: PageViewInput<'_> = serde_json::from_str(json).unwrap();
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
