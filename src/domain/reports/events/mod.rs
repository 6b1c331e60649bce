//! What can be asked about events, and what the answers say.

mod counters;
mod cursor;
mod funnel;

pub use counters::{Counter, CountersPage, CountersQuery};
pub use cursor::CountersCursor;
pub use funnel::{Funnel, FunnelQuery, FunnelReport};

use super::parameters::{Reader, Refusal};
use crate::domain::SiteId;

/// The sites that are asked for, each once and in order; none stands for all.
fn sites(reader: &mut Reader<'_>) -> Vec<SiteId> {
    let parse = |text: &str| -> Result<SiteId, Refusal> {
        text.parse()
            .map_err(|reason: crate::domain::NotAUuid| ("not_a_uuid", reason.to_string()))
    };
    let mut sites = reader.read_all("site_id", parse);
    sites.sort_unstable();
    sites.dedup();
    sites
}
