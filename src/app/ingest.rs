//! Where records come in, by the settings.

use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Result, anyhow};

use super::store::event_retention_days;
use crate::config::Settings;
use crate::domain::{ClaimSet, Clock, Erasures, Event, EventTypes, NotAnEventType};
use crate::http::{Acceptance, EventRules, Ingest, Rejected};
use crate::pipeline::Writer;
use crate::repository::RivalEvents;
use crate::telemetry::metrics::Metrics;

/// How many posted ids of each stream are remembered to find conflicts: about 20 MB and 40 MB.
const RECENT_IDS: NonZeroUsize = NonZeroUsize::new(200_000).unwrap();

pub(super) fn view_ingest(
    settings: &Settings,
    writer: Writer<ClaimSet>,
    erasures: Erasures,
    clock: Clock,
    metrics: &Metrics,
) -> Ingest<ClaimSet> {
    let acceptance = acceptance(settings, Some(settings.retention_days));
    let rejected = Rejected::views(metrics);
    Ingest::new(writer, RECENT_IDS, acceptance, erasures, clock, rejected)
}

/// # Errors
/// A type of events that can't be one.
pub(super) fn event_ingest(
    settings: &Settings,
    writer: Writer<Event>,
    rivals: Arc<RivalEvents>,
    clock: Clock,
    metrics: &Metrics,
) -> Result<Ingest<Event>> {
    let acceptance = acceptance(settings, event_retention_days(settings));
    let rules = EventRules {
        types: event_types(settings)?,
        rivals,
    };
    let rejected = Rejected::events(metrics);
    Ok(Ingest::new(
        writer, RECENT_IDS, acceptance, rules, clock, rejected,
    ))
}

fn acceptance(settings: &Settings, retention_days: Option<u32>) -> Acceptance {
    Acceptance {
        retention_days,
        max_clock_skew_secs: settings.max_clock_skew_secs,
    }
}

/// The types of events that are taken in.
///
/// # Errors
/// In one line, the name that can't be one.
fn event_types(settings: &Settings) -> Result<EventTypes> {
    if settings.event_types.is_empty() {
        return Ok(EventTypes::Open);
    }
    let names = settings.event_types.iter();
    let types = names.map(|name| {
        let of = name.trim().parse();
        of.map_err(|reason: NotAnEventType| anyhow!("EVENT_TYPES: {name:?} {reason}"))
    });
    Ok(EventTypes::Closed(types.collect::<Result<_>>()?))
}
