//! Why there is no engine. Every message is one line that an operator can act on.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why the engine could not be fetched or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No library is published for this operating system, processor or C library.
    #[error(
        "no embedded engine exists for {platform}: set CLICKHOUSE_URL to a ClickHouse of your own"
    )]
    UnsupportedPlatform {
        /// Operating system, processor and C library.
        platform: String,
    },
    /// The `npm` client is not on the `PATH`.
    #[error(
        "npm is needed to fetch the engine and was not found: install npm, or set CLICKHOUSE_URL to a ClickHouse of your own, or run both in containers: docker compose --profile dev up"
    )]
    NpmMissing,
    /// The `npm` client ran and failed.
    #[error(
        "npm could not fetch the engine ({reason}): check npm's registry and network settings, or set CLICKHOUSE_URL to a ClickHouse of your own"
    )]
    NpmFailed {
        /// The last telling line that npm printed.
        reason: String,
    },
    /// What npm delivered is not the pinned package.
    #[error(
        "the fetched engine {package} is not the one expected ({reason}) and was thrown away: start again, check npm's registry settings, or set CLICKHOUSE_URL to a ClickHouse of your own"
    )]
    Mismatch {
        /// Name and version of the package.
        package: String,
        /// What differs.
        reason: String,
    },
    /// Not enough room for the library.
    #[error(
        "no space left in {} to fetch the engine, which needs {needed_mb} MB: free some, or set ENGINE_CACHE_DIR to a directory on another disk, or set CLICKHOUSE_URL to a ClickHouse of your own",
        path.display()
    )]
    DiskFull {
        /// The cache directory.
        path: PathBuf,
        /// The most that fetching needs at once.
        needed_mb: u64,
    },
    /// The cache directory can't be used.
    #[error(
        "cannot write to the engine's cache directory {} ({source}): make it writable, or set ENGINE_CACHE_DIR to another one, or set CLICKHOUSE_URL to a ClickHouse of your own",
        path.display()
    )]
    CacheDir {
        /// The cache directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Neither `XDG_CACHE_HOME` nor `HOME` names a directory.
    #[error(
        "no place to keep the engine: set ENGINE_CACHE_DIR, or HOME to an absolute path, or set CLICKHOUSE_URL to a ClickHouse of your own"
    )]
    NoCacheDir,
    /// The data path can't be used.
    #[error("cannot write to the engine's data path {} ({source}): make it writable, or set DATA_DIR to another one", path.display())]
    DataPath {
        /// The data path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody else holds the data path.
    #[error(
        "another traffic-api (or ClickHouse) already uses {}: stop it, or set DATA_DIR to another directory",
        path.display()
    )]
    PathInUse {
        /// The data path.
        path: PathBuf,
    },
    /// The child process, or the thread that watches it, could not be created.
    #[error("cannot start the engine's process {} ({source})", program.display())]
    Spawn {
        /// The executable that was to become the engine.
        program: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The child ended before it answered.
    #[error("the engine did not start ({reason}): see {}", log.display())]
    Start {
        /// The telling line of what the child printed, and how it ended.
        reason: String,
        /// The engine's log.
        log: PathBuf,
    },
    /// The child neither answered nor ended.
    #[error("the engine did not answer within {} s of its start: see {}", deadline.as_secs(), log.display())]
    StartTimeout {
        /// How long was waited.
        deadline: Duration,
        /// The engine's log.
        log: PathBuf,
    },
    /// The engine was told to stop while it was starting.
    #[error("the engine was stopped while it was starting")]
    Stopped,
}

impl Error {
    pub(super) fn cache(path: &Path, source: io::Error, needed_bytes: u64) -> Self {
        if source.kind() == io::ErrorKind::StorageFull
            || source.kind() == io::ErrorKind::QuotaExceeded
        {
            Self::DiskFull {
                path: path.to_owned(),
                needed_mb: needed_bytes.div_ceil(1_000_000),
            }
        } else {
            Self::CacheDir {
                path: path.to_owned(),
                source,
            }
        }
    }

    pub(super) fn data(path: &Path, source: io::Error) -> Self {
        Self::DataPath {
            path: path.to_owned(),
            source,
        }
    }
}

/// Longest excerpt of foreign output that goes into a message.
const EXCERPT_CHARS: usize = 300;

/// One line of bounded length, whatever the text.
pub(super) fn excerpt(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_lower_case_line() {
        let full = Error::cache(
            Path::new("/c"),
            io::ErrorKind::StorageFull.into(),
            1_500_000,
        );
        assert!(
            full.to_string()
                .starts_with("no space left in /c to fetch the engine, which needs 2 MB")
        );
        for error in [
            full,
            Error::NpmMissing,
            Error::NoCacheDir,
            Error::PathInUse { path: "/d".into() },
        ] {
            let text = error.to_string();
            assert!(
                !text.contains('\n')
                    && !text.ends_with('.')
                    && text.starts_with(char::is_lowercase),
                "{text}"
            );
        }
    }

    #[test]
    fn excerpts_are_one_bounded_line() {
        assert_eq!(excerpt(" a\n b "), "a b");
        assert_eq!(
            excerpt(&"é".repeat(1000)).chars().count(),
            EXCERPT_CHARS + 3
        );
    }
}
