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

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}
