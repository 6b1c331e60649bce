//! The parameters of a question: each known, given once, and good, or else named.

use crate::domain::{FieldError, Invalid};

/// Names and values as the client gave them, decoded, in order; no value where it is not UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(pub Vec<(String, Option<String>)>);

/// Why a value is refused: a stable code, and a sentence.
pub(super) type Refusal = (&'static str, String);

/// How many bad values of one list are named before the rest is summed up.
const MAX_BAD_NAMED: usize = 16;

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
        let names: Vec<&str> = parameters.0.iter().map(|(name, _)| name.as_str()).collect();
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                continue;
            }
            let (code, detail) = if !known.contains(name) {
                let known = known.join(", ");
                ("unknown_parameter", format!("must be one of {known}"))
            } else if names[i + 1..].contains(name) && !lists.contains(name) {
                ("repeated_parameter", "must be given only once".to_owned())
            } else {
                continue;
            };
            errors.push(FieldError::new((*name).to_owned(), code, detail));
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
