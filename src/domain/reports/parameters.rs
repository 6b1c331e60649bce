//! The parameters of a question: each known, given once, and good, or else named.

use std::collections::HashSet;

use crate::domain::{FieldError, Invalid};

/// Names and values as the client gave them, decoded, in order; no value where it is not UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(pub Vec<(String, Option<String>)>);

/// Why a value is refused: a stable code, and a sentence.
pub(super) type Refusal = (&'static str, String);

/// How many bad values of one list, and unknown names, are named before the rest is summed up.
const MAX_BAD_NAMED: usize = 16;
/// How much of an unknown name is repeated to the client, in characters.
const MAX_NAME_CHARS: usize = 64;

fn utf8(value: &Option<String>) -> Result<&str, Refusal> {
    let not_utf8 = || ("not_utf8", "must be UTF-8".to_owned());
    value.as_deref().ok_or_else(not_utf8)
}

/// Reads parameters one by one and remembers what is wrong with them.
pub(super) struct Reader<'a> {
    parameters: &'a Parameters,
    errors: Vec<FieldError>,
}

impl<'a> Reader<'a> {
    /// `known` are all that the question has.
    pub(super) fn new(parameters: &'a Parameters, known: &[&str]) -> Self {
        Self::with_lists(parameters, known, &[])
    }

    /// The same; of `known`, those in `lists` may be given more than once.
    pub(super) fn with_lists(parameters: &'a Parameters, known: &[&str], lists: &[&str]) -> Self {
        let mut errors = Vec::new();
        let (mut seen, mut repeated) = (HashSet::new(), HashSet::new());
        let names = parameters.0.iter().map(|(name, _)| name.as_str());
        let mut unknown = 0;
        for name in names {
            let is_new = seen.insert(name);
            if !known.contains(&name) {
                unknown += usize::from(is_new);
                if is_new && unknown <= MAX_BAD_NAMED {
                    let shown: String = name.chars().take(MAX_NAME_CHARS).collect();
                    let detail = format!("must be one of {}", known.join(", "));
                    errors.push(FieldError::new(shown, "unknown_parameter", detail));
                }
            } else if !is_new && !lists.contains(&name) && repeated.insert(name) {
                let detail = "must be given only once";
                errors.push(FieldError::new(
                    name.to_owned(),
                    "repeated_parameter",
                    detail,
                ));
            }
        }
        if let Some(more @ 1..) = unknown.checked_sub(MAX_BAD_NAMED) {
            let detail = format!("{more} more unknown parameters");
            errors.push(FieldError::new("", "unknown_parameter", detail));
        }
        Self { parameters, errors }
    }

    /// The value of `name`; nothing where it is missing, and where it is bad, which is remembered.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&'a str) -> Result<T, Refusal>,
    ) -> Option<T> {
        let (_, value) = self.parameters.0.iter().find(|(known, _)| known == name)?;
        match utf8(value).and_then(parse) {
            Ok(value) => Some(value),
            Err(refusal) => {
                self.refuse(name, refusal);
                None
            }
        }
    }

    /// The good values of `name`, in order; the bad ones are remembered, each with its place.
    pub(super) fn read_all<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&'a str) -> Result<T, Refusal>,
    ) -> Vec<T> {
        let given = self.parameters.0.iter().filter(|(known, _)| known == name);
        let mut good = Vec::new();
        let mut bad = Vec::new();
        for (place, (_, value)) in given.enumerate() {
            match utf8(value).and_then(&parse) {
                Ok(value) => good.push(value),
                Err((code, detail)) => bad.push((code, format!("number {}: {detail}", place + 1))),
            }
        }
        let more = bad.len().saturating_sub(MAX_BAD_NAMED);
        bad.truncate(MAX_BAD_NAMED);
        for refusal in bad {
            self.refuse(name, refusal);
        }
        if more > 0 {
            self.refuse(name, ("more", format!("{more} more are bad")));
        }
        good
    }

    pub(super) fn refuse(&mut self, name: &'static str, (code, detail): Refusal) {
        self.errors.push(FieldError::new(name, code, detail));
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        self.parameters.0.iter().any(|(known, _)| known == name)
    }

    pub(super) fn is_bad(&self, name: &str) -> bool {
        self.errors.iter().any(|error| error.field == name)
    }

    /// `Ok` unless anything was wrong.
    pub(super) fn finish(self) -> Result<(), Invalid> {
        Invalid::check(self.errors)
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(words: &[(&str, T)], text: &str) -> Result<T, Refusal> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let detail = match words.as_slice() {
            [only] => format!("must be {only}"),
            words => format!("must be one of {}", words.join(", ")),
        };
        ("unknown_value", detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(names: impl IntoIterator<Item = String>) -> Vec<(String, &'static str)> {
        let given = names.into_iter().map(|name| (name, Some(String::new())));
        let parameters = Parameters(given.collect());
        let invalid = Reader::with_lists(&parameters, &["from", "site"], &["site"]).finish();
        let errors = invalid.err().map(|invalid| invalid.errors().to_vec());
        let pair = |e: FieldError| (e.field.to_string(), e.code);
        errors.unwrap_or_default().into_iter().map(pair).collect()
    }

    #[test]
    fn names_are_judged_once_each() {
        let named = |names: &[&str]| errors(names.iter().map(|name| (*name).to_owned()));
        assert_eq!(named(&["from", "site", "site"]), []);
        assert_eq!(
            named(&["x", "from", "x", "from", "from"]),
            [
                ("x".to_owned(), "unknown_parameter"),
                ("from".to_owned(), "repeated_parameter")
            ]
        );
    }

    #[test]
    fn a_flood_of_names_is_summed_up() {
        let began = std::time::Instant::now();
        let found = errors((0..100_000).map(|number| format!("{number}{}", "x".repeat(100))));
        assert_eq!(found.len(), MAX_BAD_NAMED + 1);
        assert!(found.iter().all(|(name, _)| name.len() <= MAX_NAME_CHARS));
        // By pairs it would be five thousand million comparisons.
        assert!(began.elapsed().as_secs() < 5);
    }
}
