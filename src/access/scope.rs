//! What a key is good for.

use std::fmt;
use std::str::FromStr;

/// One right. None implies another: a key that erases people need not be able to read about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To take in, change and delete views.
    Write,
    /// To look views up, and the reports.
    Read,
    /// What an operator does.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Scope; 3] = [Scope::Write, Scope::Read, Scope::Admin];

    /// Its name, in key files and in the API's document.
    pub const fn name(self) -> &'static str {
        match self {
            Scope::Write => "write",
            Scope::Read => "read",
            Scope::Admin => "admin",
        }
    }
}

/// A word that is no scope.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be write, read or admin")]
pub struct NotAScope;

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Self, NotAScope> {
        let mut all = Self::ALL.into_iter();
        all.find(|scope| scope.name() == text).ok_or(NotAScope)
    }
}

/// Some scopes, without order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Whether `scope` is among them.
    pub const fn have(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }

    /// The names, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = Scope::ALL.into_iter();
        all.filter(move |scope| self.have(*scope)).map(Scope::name)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        let mut bits = 0;
        for scope in scopes {
            bits |= 1 << scope as u8;
        }
        Self(bits)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}
