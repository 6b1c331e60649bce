//! What is state, read at each scrape.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::domain::{ClaimSet, Event, Stream};
use crate::engine::Vitals;
use crate::http::{AppState, Connections};
use crate::pipeline::{BreakerState, Buffer, Delivery, Writer};
use crate::repository::{ClickHouse, PeriodicCheck, Sealer, SealerStats};
use crate::telemetry::metrics::{self, Reading};

/// Everyone whose state is shown.
struct Observed {
    delivery: Arc<Delivery<ClickHouse>>,
    views: Writer<ClaimSet>,
    events: Writer<Event>,
    sealers: [(Stream, Arc<Sealer>); 2],
    check: Arc<PeriodicCheck>,
    engine: Option<Vitals>,
    connections: Connections,
    stopping: Arc<AtomicBool>,
}

/// Shows what the service does among its metrics.
pub(super) fn show(state: &AppState, engine: Option<Vitals>, connections: &Connections) {
    state.clickhouse.show(&state.metrics);
    state.reports.show(&state.metrics);
    let observed = Observed {
        delivery: Arc::clone(&state.delivery),
        views: state.views.writer.clone(),
        events: state.events.writer.clone(),
        sealers: [
            (Stream::PageViews, Arc::clone(&state.sealer)),
            (Stream::Events, Arc::clone(&state.event_sealer)),
        ],
        check: Arc::clone(&state.check),
        engine,
        connections: connections.clone(),
        stopping: Arc::clone(&state.stopping),
    };
    state.metrics.read(move |reading| observed.read(reading));
}

impl Observed {
    fn read(&self, reading: &mut Reading) {
        self.service(reading);
        self.write_path(reading);
        self.spool(reading);
        self.sealers(reading);
        self.check(reading);
    }

    fn service(&self, reading: &mut Reading) {
        let version = [(env!("CARGO_PKG_VERSION"), 1.0)];
        reading.gauges(&metrics::BUILD_INFO, version);
        let stopping = self.stopping.load(Ordering::Relaxed);
        reading.gauge(&metrics::STOPPING, stopping.into());
        let (open, limit) = (self.connections.open(), self.connections.limit());
        reading.gauge(&metrics::HTTP_CONNECTIONS, open as f64);
        reading.gauge(&metrics::HTTP_CONNECTIONS_LIMIT, limit as f64);
        if let Some(engine) = &self.engine {
            reading.gauge(&metrics::ENGINE_UP, engine.is_up().into());
            reading.counter(&metrics::ENGINE_RESTARTS, engine.restarts());
        }
    }

    fn write_path(&self, reading: &mut Reading) {
        let stats = self.delivery.stats();
        let outcomes = [
            ("stored", stats.rows),
            ("spooled", stats.spooled),
            ("replayed", stats.replayed),
        ];
        reading.counters(&metrics::ROWS, outcomes);
        reading.counter(&metrics::QUARANTINED, stats.refused);
        let buffers = [
            ("single", self.views.records()),
            ("batch", self.views.blocks()),
            ("events_single", self.events.records()),
            ("events_batch", self.events.blocks()),
        ];
        let used = |(name, buffer): &(&'static str, Buffer)| (*name, buffer.used_bytes as f64);
        let limit = |(name, buffer): &(&'static str, Buffer)| (*name, buffer.limit_bytes as f64);
        reading.gauges(&metrics::BUFFER, buffers.iter().map(used));
        reading.gauges(&metrics::BUFFER_LIMIT, buffers.iter().map(limit));
        let breaker = self.delivery.breaker();
        let now = breaker.state();
        let states = [
            ("closed", BreakerState::Closed),
            ("open", BreakerState::Open),
            ("half_open", BreakerState::HalfOpen),
        ];
        let states = states.map(|(name, state)| (name, f64::from(state == now)));
        reading.gauges(&metrics::BREAKER, states);
        reading.counter(&metrics::OUTAGES, breaker.outages());
    }

    fn spool(&self, reading: &mut Reading) {
        let spool = self.delivery.spool().state();
        reading.gauge(&metrics::SPOOL_BYTES, spool.bytes as f64);
        reading.gauge(&metrics::SPOOL_LIMIT, spool.max_bytes as f64);
        reading.gauge(&metrics::SPOOL_FILES, spool.files as f64);
        reading.gauge(&metrics::SPOOL_ROWS, spool.rows as f64);
        reading.gauge(&metrics::SPOOL_WRITE_FAILED, spool.last_write_failed.into());
        reading.gauge(&metrics::QUARANTINE_FILES, spool.rejected_files as f64);
        reading.gauge(&metrics::QUARANTINE_BYTES, spool.rejected_bytes as f64);
        let now_ms = chrono::Utc::now().timestamp_millis();
        let since = |ms: u64| (now_ms as f64 - ms as f64).max(0.0) / 1000.0;
        reading.gauge(&metrics::SPOOL_OLDEST, spool.oldest_ms.map_or(0.0, since));
        let freshness = self.delivery.freshness();
        reading.gauge(&metrics::REPORT_LAG, since(freshness.complete_through_ms));
    }

    fn sealers(&self, reading: &mut Reading) {
        let all = self.sealers.each_ref();
        let all = all.map(|(stream, sealer)| (stream.name(), sealer.stats()));
        let hours = all.iter().flat_map(|(stream, stats)| {
            [
                (["full", stream], stats.counted),
                (["late", stream], stats.recounted),
            ]
        });
        reading.counters_by(&metrics::SEALER_HOURS, hours);
        let failures = all.iter().map(|(stream, stats)| (*stream, stats.failures));
        reading.counters(&metrics::SEALER_FAILURES, failures);
        let mut show = |metric, value: fn(&SealerStats) -> Option<f64>| {
            let values = all.iter();
            let values = values.filter_map(|(stream, stats)| Some((*stream, value(stats)?)));
            reading.gauges(metric, values);
        };
        show(&metrics::SEALER_FAILING, |s| Some(s.failing.into()));
        show(&metrics::SEALER_UNSEALED, |s| Some(s.unsealed_hours as f64));
        show(&metrics::SEALER_LATE, |s| Some(s.late_hours as f64));
        show(&metrics::SEALER_DURATION, |s| {
            Some(s.last.map_or(0.0, |last| last.took.as_secs_f64()))
        });
        show(&metrics::SEALER_LOOKED, |s| {
            Some(s.surveyed_at?.millis() as f64 / 1000.0)
        });
        show(&metrics::SEALER_THROUGH, |s| Some(s.sealed?.1.into()));
    }

    fn check(&self, reading: &mut Reading) {
        let stats = self.check.stats();
        let runs = [("ended", stats.runs), ("failed", stats.failures)];
        reading.counters(&metrics::RECONCILE_RUNS, runs);
        reading.gauge(&metrics::RECONCILE_FAILING, stats.failing.into());
        reading.gauge(&metrics::RECONCILE_DURATION, stats.took.as_secs_f64());
        reading.gauge(&metrics::RECONCILE_DAYS, stats.differing_days as f64);
        reading.gauge(&metrics::RECONCILE_RIVALS, stats.rival_ids as f64);
        if let Some(checked) = stats.checked_at {
            let seconds = checked.timestamp_millis() as f64 / 1000.0;
            reading.gauge(&metrics::RECONCILE_CHECKED, seconds);
        }
    }
}
