//! From ClickHouse's errors to what the rest of the service must decide: later, or never.

use std::time::Duration;

use tracing::debug;

use crate::domain::{Hour, UserId};
use crate::pipeline::Failure;

/// Why a call to ClickHouse failed. The texts are for the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server is known to be down; nothing was sent.
    #[error("clickhouse is not running")]
    Down,
    /// No answer in time; the call may still have had its effect.
    #[error("no answer from clickhouse within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The server could not be reached, or the connection broke.
    #[error("can't reach clickhouse: {0}")]
    Network(String),
    /// The server answered with an error. Shown is its name alone: the text may quote rows and
    /// statements, which no log and no client should see.
    #[error("clickhouse error {code}{}", name(text))]
    Server {
        /// Its number (`SELECT * FROM system.errors`), 0 where none was given.
        code: u32,
        /// Its text, as it came.
        text: String,
    },
    /// An answer that this version does not understand.
    #[error("unexpected answer from clickhouse: {0}")]
    Unexpected(String),
    /// The cluster can't be written to as it is.
    #[error("CLICKHOUSE_CLUSTER: {0}")]
    Cluster(String),
    /// An update could not be written.
    #[error("update not written: {0}")]
    Write(#[from] crate::pipeline::Error),
    /// ClickHouse does not know the view, but it may be among those that wait in this node's spool.
    #[error("the view may still wait in the spool")]
    Waiting,
    /// The rest of a long answer is not kept any more.
    #[error("the snapshot is gone")]
    SnapshotGone,
    /// An answer has more rows than are kept for reading it in parts.
    #[error("the answer has {rows} rows; at most {max} are kept")]
    AnswerTooLong {
        /// How many it has.
        rows: u64,
        /// How many are kept.
        max: u64,
    },
    /// The view is of a user who was erased, and from before that.
    #[error("user {} was erased", .0.get())]
    Erased(UserId),
    /// Rows of a user are still there after an erasure; it may be asked for again.
    #[error("the erasure is not done yet")]
    Erasing,
    /// The hour can't be sealed yet.
    #[error("the hour from {0} is not closed yet")]
    NotClosed(Hour),
}

/// What a server error says about trying the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// The server or the network is in trouble.
    Transient,
    /// The data of this very batch is at fault: it will fail every time.
    Deterministic,
    /// Neither is known (a missing table, a missing right): an operator can mend it, so the data
    /// must not be condemned.
    Unknown,
}

/// Codes as of ClickHouse's `src/Common/ErrorCodes.cpp`.
fn class(code: u32) -> Class {
    match code {
        // TIMEOUT_EXCEEDED, READONLY, TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, NETWORK_ERROR,
        // ABORTED, MEMORY_LIMIT_EXCEEDED, TABLE_IS_READ_ONLY, NOT_ENOUGH_SPACE, TOO_MANY_PARTS,
        // ALL_CONNECTION_TRIES_FAILED, TOO_FEW_LIVE_REPLICAS,
        // UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE, UNKNOWN_STATUS_OF_INSERT, QUERY_WAS_CANCELLED,
        // KEEPER_EXCEPTION
        159 | 164 | 202 | 209 | 210 | 236 | 241 | 242 | 243 | 252 | 279 | 285 | 286 | 319 | 394
        | 999 => Class::Transient,
        // CANNOT_PARSE_TEXT, CANNOT_PARSE_QUOTED_STRING, CANNOT_PARSE_INPUT_ASSERTION_FAILED,
        // ATTEMPT_TO_READ_AFTER_EOF, CANNOT_READ_ALL_DATA, CANNOT_PARSE_DATE, CANNOT_PARSE_DATETIME,
        // CANNOT_PARSE_NUMBER, INCORRECT_DATA, VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE,
        // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO, VIOLATED_CONSTRAINT. Not those that an altered table
        // gives for good rows too (TYPE_MISMATCH, CANNOT_CONVERT_TYPE).
        6 | 26 | 27 | 32 | 33 | 38 | 41 | 72 | 117 | 321 | 395 | 469 => Class::Deterministic,
        _ => Class::Unknown,
    }
}

impl From<clickhouse::error::Error> for Error {
    fn from(error: clickhouse::error::Error) -> Self {
        use clickhouse::error::Error as E;
        match error {
            E::BadResponse(text) => {
                debug!(text, "clickhouse answered with an error");
                match error_code(&text) {
                    Some(code) => Error::Server { code, text },
                    // A proxy's page, a cut connection.
                    None => Error::Network(format!("{} bytes that are no answer", text.len())),
                }
            }
            E::Network(source) => Error::Network(innermost(source.as_ref())),
            E::TimedOut => Error::TimedOut(super::INSERT_DEADLINE),
            other => Error::Unexpected(one_line(&other.to_string())),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        (&error).into()
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        match error {
            Error::Server { code, .. } => match class(*code) {
                Class::Transient => Failure::Transient(error.to_string()),
                // For quarantine, where the rows are too.
                Class::Deterministic => Failure::Refused(error.in_full()),
                Class::Unknown => Failure::Unknown(error.to_string()),
            },
            Error::Unexpected(_) | Error::Cluster(_) => Failure::Unknown(error.to_string()),
            _ => Failure::Unreachable(error.to_string()),
        }
    }
}

impl Error {
    /// With the server's text, in one line: not for a log.
    pub fn in_full(&self) -> String {
        match self {
            Error::Server { code, text } => format!("clickhouse error {code}: {}", one_line(text)),
            other => other.to_string(),
        }
    }
}

/// ` (VIOLATED_CONSTRAINT)`, of a server's text; empty where it has none.
fn name(text: &str) -> &str {
    let is_name = |name: &str| {
        let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(plain)
    };
    // The last ones are the server's own: before its version.
    let opened = text.rmatch_indices(" (").map(|(place, _)| place);
    let names = opened.filter_map(|place| {
        let length = text[place..].find(')')?;
        let name = &text[place..=place + length];
        is_name(&name[2..name.len() - 1]).then_some(name)
    });
    names.into_iter().next().unwrap_or_default()
}

/// The number in `Code: 252. DB::Exception: ...`.
fn error_code(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("Code: ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// The last cause says what happened (`Connection refused`), the outer ones only where.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    one_line(&error.to_string())
}

/// Names of errors are shorter.
const MAX_NAME_BYTES: usize = 80;
const MAX_TEXT_CHARS: usize = 500;

fn one_line(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(MAX_TEXT_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> Failure {
        Error::from(clickhouse::error::Error::BadResponse(text.to_owned())).into()
    }

    #[test]
    fn only_the_name_of_an_error_is_shown() {
        let text = "Code: 469. DB::Exception: Constraint `no_bad` for table t is violated at row 1. \
                    Column values: page_url = '/secret (A)'. (VIOLATED_CONSTRAINT) (version 26.7.3.1 \
                    (official build))";
        let error = Error::from(clickhouse::error::Error::BadResponse(text.to_owned()));
        assert_eq!(
            error.to_string(),
            "clickhouse error 469 (VIOLATED_CONSTRAINT)"
        );
        assert!(error.in_full().contains("/secret"));
        assert!(matches!(Failure::from(error), Failure::Refused(text) if text.contains("no_bad")));
        let nameless = failure("Code: 60. DB::Exception: in scope SELECT 7 (x)");
        assert_eq!(nameless.to_string(), "clickhouse error 60");
        let page = failure("<html>user 42</html>");
        assert!(!page.to_string().contains("42"));
    }

    #[test]
    fn the_code_decides_between_later_and_never() {
        let overloaded =
            failure("Code: 252. DB::Exception: Too many parts (3000). (TOO_MANY_PARTS)");
        assert!(matches!(overloaded, Failure::Transient(_)));
        let bad_row = failure("Code: 469. DB::Exception: Constraint `c` violated");
        assert!(matches!(bad_row, Failure::Refused(_)));
        let missing_table =
            failure("Code: 60. DB::Exception: Table traffic.traffic does not exist");
        assert!(matches!(missing_table, Failure::Unknown(_)));
        assert!(matches!(
            failure("<html>502 Bad Gateway</html>"),
            Failure::Unreachable(_)
        ));
    }
}
