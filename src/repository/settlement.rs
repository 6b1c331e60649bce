//! Updates whose end is not known: the connection broke, or the answer did not come in time.
//!
//! Their rows may have arrived or may yet arrive, without the second look that settles rivals. So
//! somebody else looks, as soon as ClickHouse can be asked and nothing can be under way any more. An
//! aid within one life of the service: what it does not live to settle, the next update of the view
//! does.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::info;

use super::{INSERT_DEADLINE, PageViews};
use crate::domain::RequestId;

const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(30);

/// When an update that failed now can be settled: ClickHouse has by then finished or given up
/// whatever was sent to it.
pub(super) fn due() -> Instant {
    Instant::now() + INSERT_DEADLINE
}

/// The updates to settle; does nothing until [`Unfinished::run`].
pub struct Unfinished {
    page_views: Weak<PageViews>,
    received: mpsc::Receiver<(RequestId, Instant)>,
}

impl Unfinished {
    pub(super) fn new(
        page_views: Weak<PageViews>,
        received: mpsc::Receiver<(RequestId, Instant)>,
    ) -> Self {
        Self {
            page_views,
            received,
        }
    }

    /// Settles one after the other until the service is gone; may be dropped at any time.
    pub async fn run(mut self) {
        while let Some((request_id, due)) = self.received.recv().await {
            sleep_until(due).await;
            let mut backoff = FIRST_BACKOFF;
            loop {
                let Some(page_views) = self.page_views.upgrade() else {
                    return;
                };
                if page_views.settle(request_id).await.is_ok() {
                    info!(
                        request_id = request_id.get(),
                        "update of unknown outcome settled"
                    );
                    break;
                }
                drop(page_views);
                sleep(backoff).await;
                backoff = (backoff * 2).min(LAST_BACKOFF);
            }
        }
    }
}
