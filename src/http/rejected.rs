//! Records that clients sent and that are not kept, by reason.

use prometheus::{IntCounter, IntCounterVec};

use super::problem::Kind;
use crate::pipeline;
use crate::telemetry::metrics::{EVENTS_REJECTED, Metrics, VIEWS_REJECTED};

/// Why a record is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It can't be read.
    Malformed,
    /// Fields are missing, unknown or out of range.
    Invalid,
    /// It is longer than it may be.
    TooLong,
    /// Another record is known under its id.
    Conflict,
    /// The ingest buffer is full.
    Full,
    /// ClickHouse refuses it for good; it is in quarantine.
    Quarantined,
    /// Neither ClickHouse nor the spool has it.
    Unavailable,
    /// The service is stopping.
    Stopping,
    /// Who sent it has no key, or none that is good for it.
    Forbidden,
    /// Who sent it has used up a limit.
    RateLimited,
    /// It is of a user who was erased, and from before that.
    Erased,
}

impl Reason {
    const ALL: &[(Reason, &str)] = &[
        (Reason::Malformed, "malformed"),
        (Reason::Invalid, "invalid"),
        (Reason::TooLong, "too_long"),
        (Reason::Conflict, "conflict"),
        (Reason::Full, "full"),
        (Reason::Quarantined, "quarantined"),
        (Reason::Unavailable, "unavailable"),
        (Reason::Stopping, "stopping"),
        (Reason::Forbidden, "forbidden"),
        (Reason::RateLimited, "rate_limited"),
        (Reason::Erased, "erased"),
    ];
}

impl From<pipeline::Error> for Reason {
    fn from(error: pipeline::Error) -> Self {
        match error {
            pipeline::Error::Full => Reason::Full,
            pipeline::Error::Unavailable => Reason::Unavailable,
            pipeline::Error::Refused => Reason::Quarantined,
            pipeline::Error::Stopping => Reason::Stopping,
        }
    }
}

/// Counts them; cheap to clone.
#[derive(Clone)]
pub struct Rejected(Vec<IntCounter>);

impl Rejected {
    /// Of page views: none yet, shown among `metrics`.
    pub fn views(metrics: &Metrics) -> Self {
        Self::of(metrics.counter(&VIEWS_REJECTED))
    }

    /// Of events, likewise.
    pub fn events(metrics: &Metrics) -> Self {
        Self::of(metrics.counter(&EVENTS_REJECTED))
    }

    fn of(counts: IntCounterVec) -> Self {
        let count = |(_, label): &(Reason, &str)| counts.with_label_values(&[*label]);
        Self(Reason::ALL.iter().map(count).collect())
    }

    pub(super) fn add(&self, reason: Reason) {
        self.0[reason as usize].inc();
    }

    /// A single record whose request ended with this problem.
    pub(super) fn single(&self, problem: Kind) {
        self.add(match problem {
            Kind::MalformedId
            | Kind::MalformedJson
            | Kind::UnsupportedMediaType
            | Kind::BodyTooSlow => Reason::Malformed,
            Kind::InvalidPageView | Kind::InvalidEvent => Reason::Invalid,
            Kind::BodyTooLarge => Reason::TooLong,
            Kind::RequestIdConflict => Reason::Conflict,
            Kind::BufferFull => Reason::Full,
            Kind::RefusedByStore => Reason::Quarantined,
            Kind::StoreUnavailable | Kind::NotYetKnown | Kind::Internal => Reason::Unavailable,
            Kind::Stopping => Reason::Stopping,
            Kind::Erased => Reason::Erased,
            Kind::Unauthenticated | Kind::Forbidden | Kind::ForeignPage | Kind::UnknownHost => {
                Reason::Forbidden
            }
            Kind::RateLimited => Reason::RateLimited,
            Kind::PageViewNotFound
            | Kind::NoSuchRoute
            | Kind::NotAcceptable
            | Kind::CursorExpired
            | Kind::MethodNotAllowed
            | Kind::ErasureUnfinished
            | Kind::InvalidParameters
            | Kind::AnswerTooLong => return,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_at_its_own_place() {
        for (place, (reason, _)) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
    }
}
