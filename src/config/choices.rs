//! Settings that are one of a few words.

use clap::ValueEnum;

/// Where reports are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportPlan {
    /// Where it is cheaper.
    Auto,
    /// The pre-aggregate wherever it reaches.
    View,
    /// The views themselves.
    Claims,
}

/// Whether callers need a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// They do; while there are no keys, only this machine is served.
    On,
    /// Everybody who can reach the service may do everything.
    Off,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}
