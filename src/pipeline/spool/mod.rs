//! The spool: batches that the store could not take, kept on disk until it can.
//!
//! ```text
//! lane ── put ─► <dir>/<name>.batch ── oldest, read ─► replay ── remove ─► (gone)
//!   │                     └── reject (damaged) ──► <dir>/rejected/
//!   └── quarantine (refused rows, as JSON lines) ──► <dir>/rejected/
//! ```
//!
//! Purpose: make an acknowledgement possible while the store is away. One file is one batch, so
//! there is no log to compact, no cursor to keep and no file that two batches could damage together.
//!
//! Invariants:
//! - What [`Spool::put`] or [`Spool::quarantine`] confirmed survives a crash of the process and of
//!   the machine; of what they refused, nothing stays and nothing is counted.
//! - Nothing is deleted except what was replayed, what an operator removes, and half-written files
//!   that nobody was ever told about. Whatever else can't be used is moved aside, under a name of
//!   its own.
//! - A file is either read back exactly as it was written or refused ([`mod@format`]): never a wrong
//!   row.
//! - One process owns a spool. Content never stops it from opening.
//! - Memory does not grow with the number of files: names are read from the directory when they are
//!   needed, and the index of what waits is bounded.
//!
//! Refuses to know: when to spool, when to replay, what the rows mean, how their sender is answered.
//! Everything in here blocks; asynchronous callers run it where blocking is allowed.

mod directory;
mod durable;
mod errors;
pub mod format;
mod glance;
mod ledger;
mod name;
mod opening;
mod purge;
mod shelf;
mod store;
mod waiting;

pub use errors::{Error, ReadError};
pub use format::{FormatError, Index, Spooled};
pub use name::Name;
pub use opening::Opened;
pub use purge::{Purged, purge};
pub use shelf::{Kind, Pending, Rejected, Shelf};
pub use store::{Spool, State};
pub use waiting::Held;
