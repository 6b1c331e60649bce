//! A JSON object with a few known fields, each read into a loose scalar; whatever else is in it is
//! noted rather than kept.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use validator::ValidationError;

use super::reading::Rejection;
use super::scalar::{CowStr, Scalar};
use super::{FieldError, Invalid};

/// How many unknown fields are named before the rest is summed up.
pub(super) const MAX_UNKNOWN_NAMED: usize = 16;
/// How much of an unknown field's name is repeated to the client, in characters.
pub(super) const MAX_NAME_CHARS: usize = 64;

/// The known fields in the order of their names, and what was wrong with the names.
#[derive(Debug)]
pub(super) struct Object<'a, const N: usize> {
    names: &'static [&'static str; N],
    fields: [Scalar<'a>; N],
    repeated: BTreeSet<&'static str>,
    unknown: Vec<String>,
    unknown_more: usize,
}

impl<'a, const N: usize> Object<'a, N> {
    /// Reads one object and nothing behind it.
    ///
    /// # Errors
    /// What is no JSON, and what is no object.
    pub(super) fn read(
        names: &'static [&'static str; N],
        json: &'a [u8],
    ) -> Result<Self, Rejection> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let parsed = Names(names)
            .deserialize(&mut reader)
            .and_then(|object| reader.end().map(|()| object));
        parsed.map_err(|error| match error.classify() {
            // A value of the wrong type stops the reading, so what follows it is looked at only here.
            // The error about the type would quote it, however long.
            serde_json::error::Category::Data => match serde_json::from_slice::<IgnoredAny>(json) {
                Ok(IgnoredAny) => Rejection::Invalid(Invalid::one(FieldError::new(
                    "",
                    "wrong_type",
                    "must be a JSON object",
                ))),
                Err(error) => Rejection::Malformed(error.to_string()),
            },
            _ => Rejection::Malformed(error.to_string()),
        })
    }

    /// Takes a field out; absent afterwards.
    pub(super) fn take(&mut self, name: &str) -> Scalar<'a> {
        let place = self.names.iter().position(|known| *known == name);
        place
            .and_then(|place| self.fields.get_mut(place))
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Takes a text out; one of another type is refused.
    pub(super) fn text(
        &mut self,
        name: &'static str,
        wanted: &'static str,
        errors: &mut Vec<FieldError>,
    ) -> Option<Cow<'a, str>> {
        match self.take(name) {
            Scalar::Absent => None,
            Scalar::Text(text) => Some(text),
            other => {
                errors.push(other.wrong_type(name, wanted));
                None
            }
        }
    }

    /// Makes a known field an unknown one, where it is given.
    pub(super) fn refuse(&mut self, name: &'static str) {
        if !matches!(self.take(name), Scalar::Absent) {
            self.repeated.remove(name);
            self.note_unknown(name);
        }
    }

    /// What was wrong with the names.
    pub(super) fn name_errors(&self) -> Vec<FieldError> {
        let repeated = self.repeated.iter();
        let repeated = repeated
            .map(|name| FieldError::new(*name, "repeated_field", "is given more than once"));
        let unknown = self.unknown.iter();
        let unknown = unknown
            .map(|name| FieldError::new(name.clone(), "unknown_field", "is not a known field"));
        let mut errors: Vec<FieldError> = repeated.chain(unknown).collect();
        if self.unknown_more > 0 {
            let detail = format!("{} more unknown fields", self.unknown_more);
            errors.push(FieldError::new("", "unknown_field", detail));
        }
        errors
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

/// All errors together, the known fields first, in the order of `names`, whatever order the checks ran
/// in.
pub(super) fn in_order(names: &[&str], mut errors: Vec<FieldError>) -> Invalid {
    let place = |error: &FieldError| names.iter().position(|name| *name == error.field);
    errors.sort_by_key(|error| place(error).unwrap_or(names.len()));
    match Invalid::check(errors) {
        Err(invalid) => invalid,
        Ok(()) => Invalid::one(FieldError::new("", "invalid", "is invalid")),
    }
}

/// The same refusal in the words of a field error.
pub(super) fn field_error(
    field: impl Into<Cow<'static, str>>,
    error: &ValidationError,
) -> FieldError {
    let code = match &error.code {
        Cow::Borrowed(code) => code,
        Cow::Owned(_) => "invalid",
    };
    let detail = error.message.clone();
    FieldError::new(field, code, detail.unwrap_or(Cow::Borrowed("is invalid")))
}

/// The names of the known fields, on their way to an object.
struct Names<const N: usize>(&'static [&'static str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Names<N> {
    type Value = Object<'de, N>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Names<N> {
    type Value = Object<'de, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = Object {
            names: self.0,
            fields: std::array::from_fn(|_| Scalar::Absent),
            repeated: BTreeSet::new(),
            unknown: Vec::new(),
            unknown_more: 0,
        };
        while let Some(name) = map.next_key::<CowStr<'de>>()? {
            let Some(place) = self.0.iter().position(|known| *known == name.0.as_ref()) else {
                object.note_unknown(&name.0);
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let slot = &mut object.fields[place];
            if !matches!(slot, Scalar::Absent) {
                object.repeated.insert(self.0[place]);
            }
            *slot = map.next_value()?;
        }
        Ok(object)
    }
}
