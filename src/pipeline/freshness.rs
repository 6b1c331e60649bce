//! How much of what was acknowledged readers of the sink can see.

use super::Delivery;
use super::delivery::now_ms;

/// What a read that begins now will see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Every record acknowledged here before this moment is in the sink, refused ones aside; by the
    /// machine's clock, in milliseconds since the Unix epoch.
    pub complete_through_ms: u64,
    /// Rows that wait in the spool.
    pub spooled_rows: u64,
}

impl<S> Delivery<S> {
    /// To be asked before the read, never after.
    pub fn freshness(&self) -> Freshness {
        // The time first: what is spooled after it was acknowledged after it.
        let now = now_ms();
        let spool = self.spool.state();
        Freshness {
            complete_through_ms: spool.oldest_ms.map_or(now, |oldest| oldest.min(now)),
            spooled_rows: spool.rows,
        }
    }
}
