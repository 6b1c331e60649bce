//! A refusal that names every bad field at once.

use std::borrow::Cow;
use std::fmt;

/// One field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field as the client spelled it (`user_id`); empty for the document as a whole.
    pub field: Cow<'static, str>,
    /// A stable, machine-readable reason (`out_of_range`).
    pub code: &'static str,
    /// One sentence for a person, lower case, without a full stop.
    pub detail: Cow<'static, str>,
}

impl FieldError {
    /// Builds one error.
    pub fn new(
        field: impl Into<Cow<'static, str>>,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            field: field.into(),
            code,
            detail: detail.into(),
        }
    }
}

/// Everything that is wrong with one input, in the order of the contract's fields; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Invalid(Vec<FieldError>);

impl Invalid {
    /// An input with a single error.
    pub fn one(error: FieldError) -> Self {
        Self(vec![error])
    }

    /// `Ok` when there is nothing to complain about.
    pub fn check(errors: Vec<FieldError>) -> Result<(), Self> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Self(errors))
        }
    }

    /// The errors, at least one.
    pub fn errors(&self) -> &[FieldError] {
        &self.0
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", error.field, error.detail)?;
        }
        Ok(())
    }
}
