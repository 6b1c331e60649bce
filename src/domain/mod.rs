//! The words of the service: what a page view and an event are, when they are acceptable, how rival claims about it
//! are settled, and what a report says.
//!
//! Purpose: turn wire input into values that cannot be wrong, and hold the rules that make the
//! counts exact as pure functions that a test can call without a server.
//!
//! Invariants: a value of a type in here satisfies its rule (fields are private, the only
//! constructors check); a refusal names *every* bad field; nothing in here reads a clock, the
//! network or a file.
//!
//! Refuses to know: HTTP, ClickHouse, asynchronous run-times, configuration names.

mod claim;
mod clock;
mod erasures;
mod event;
mod event_input;
mod hour;
mod input;
mod invalid;
mod object;
mod page_view;
mod reading;
mod recent_writes;
mod reports;
mod scalar;
mod user_set;
mod values;
mod version;

pub use claim::{Claim, ClaimSet, Settlement, erase, highest_version, live, settle, supersede};
pub use clock::Clock;
pub use erasures::Erasures;
pub use event::{
    CorrelationId, Event, EventIdentity, EventType, EventTypes, MAX_EVENT_TYPE_BYTES, NotAUuid,
    NotAnEventType, SiteId,
};
pub use event_input::read_event;
pub use hour::Hour;
pub use invalid::{FieldError, Invalid};
pub use page_view::{PageView, PageViewChange};
pub use reading::{Rejection, read_change, read_identified_view, read_view};
pub use recent_writes::{Conflict, Fingerprint, OnConflict, Pending, PendingBlock, RecentWrites};
pub use reports::{
    Counter, CountersCursor, CountersPage, CountersQuery, Cursor, DailyReport, DayViews, DaysQuery,
    DaysReport, Funnel, FunnelQuery, FunnelReport, Interval, MAX_INTERVALS, MAX_LIMIT, PageTotal,
    PagesPage, PagesQuery, PagesRequest, Parameters, ReportWindow, SiteQuery, SiteTotal,
};
pub use user_set::{NotUsers, UserSet};
pub use values::{AcceptanceWindow, CreatedAt, MAX_PAGE_URL_BYTES, PageUrl, RequestId, UserId};
pub use version::{Version, VersionSource};

/// A kind of record that the pipeline carries; each has its own lane and its own table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Page views, the first stream.
    PageViews,
    /// Events by site: captchas, ads.
    Events,
}

impl Stream {
    /// All streams.
    pub const ALL: &[Stream] = &[Stream::PageViews, Stream::Events];

    /// The stream of a stable name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|stream| stream.name() == name)
    }

    /// The stable name, for logs and for files that outlive the process.
    pub const fn name(self) -> &'static str {
        match self {
            Stream::PageViews => "page_views",
            Stream::Events => "events",
        }
    }
}
