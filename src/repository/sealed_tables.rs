//! Which tables hold the claims of a stream, the counts of its closed hours, and their seals.
//!
//! Sealing and reading by hours are the same for every stream; what differs is here.

use super::render::Schema;

/// How far back hours of events are counted where nothing expires, in days: for older ones reports
/// read the claims.
const MAX_COUNTED_DAYS: u32 = 400;

/// The tables of one stream.
#[derive(Debug)]
pub(super) struct SealedTables {
    /// The stream's name, for the log.
    pub(super) stream: &'static str,
    /// The claims, with a column `late_at`.
    pub(super) claims: &'static str,
    /// Their column that says when it happened.
    pub(super) time: &'static str,
    /// Which hours are sealed.
    pub(super) seals: &'static str,
    /// The migration since which late rows are marked: what was sealed before it ran is not to be
    /// trusted.
    pub(super) marked_since: &'static str,
    /// Asked to count all of an hour.
    pub(super) count_whole: &'static str,
    /// Asked to count what the hour's late rows are about, where that is less than all.
    pub(super) count_late: Option<&'static str>,
    /// Asked after either.
    pub(super) count_rest: Option<&'static str>,
    /// How far back hours are counted, in days.
    pub(super) days: fn(&Schema) -> u32,
}

/// Page views: users first, then the pages of the site.
pub(super) static PAGE_VIEWS: SealedTables = SealedTables {
    stream: "page_views",
    claims: "traffic",
    time: "created_at",
    seals: "traffic_seals",
    marked_since: super::migrate::MARKS,
    count_whole: "traffic_seal_users",
    count_late: Some("traffic_seal_late_users"),
    count_rest: Some("traffic_seal_pages"),
    days: |schema| schema.retention_days,
};

/// Events: all sites at once, for an hour has few sites and types.
pub(super) static EVENTS: SealedTables = SealedTables {
    stream: "events",
    claims: "events",
    time: "time",
    seals: "events_seals",
    marked_since: super::migrate::EVENTS,
    count_whole: "events_seal_hours",
    count_late: None,
    count_rest: None,
    days: |schema| {
        let kept = schema.event_retention_days.unwrap_or(MAX_COUNTED_DAYS);
        kept.min(MAX_COUNTED_DAYS)
    },
};
