//! What can go wrong with the spool, told apart by what the caller has to do about it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::FormatError;

/// Why the spool could not do what it was asked. Of what it was asked to keep, nothing was kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configured size is used up; room appears when batches are replayed.
    #[error("the spool is full: {used} of {max} bytes are taken")]
    Full {
        /// Bytes taken on disk.
        used: u64,
        /// Bytes it may take.
        max: u64,
    },
    /// Another process owns the directory.
    #[error("another traffic-api already uses {}", .0.display())]
    InUse(PathBuf),
    /// The batch breaks a rule of the format, so it could never be read back.
    #[error("the batch can't be spooled: {0}")]
    Unfit(FormatError),
    /// The operating system refused.
    #[error("{}can't {action} {} ({source})", diagnosis(.source), .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// The few causes that an operator can act on at once.
fn diagnosis(source: &io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::StorageFull => "the disk is full: ",
        ErrorKind::QuotaExceeded => "the disk quota is used up: ",
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only: ",
        ErrorKind::FileTooLarge => "the file size limit is too low: ",
        _ => "",
    }
}

/// Why a file of the spool could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No such file: it was replayed, or moved aside, or removed.
    #[error("the file is gone")]
    Gone,
    /// The file was read, and it is not what was written; reading it again will not help.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The operating system refused; reading it again may help.
    #[error("can't read the file ({0})")]
    Io(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::NotFound => Self::Gone,
            // The length was checked before, so the file has become shorter since.
            ErrorKind::UnexpectedEof => Self::Format(FormatError::Truncated),
            _ => Self::Io(source),
        }
    }
}
