//! What inserts and reports cost, counted through handles that are made once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};
use tracing::warn;

use super::Error;
use super::statements::Statements;
use crate::domain::Stream;
use crate::pipeline::{Batch, Failure, Seldom};
use crate::telemetry::metrics::{self, LATENCY_SECONDS, Metrics};

/// Upper bounds for the rows of an insert, from one to the most that a batch may have.
const ROWS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
];
/// Upper bounds for its bytes.
const BYTES: &[f64] = &[
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Measures of all inserts through one client and its copies.
pub(super) struct InsertMeasures {
    durations: HistogramVec,
    all_rows: HistogramVec,
    all_bytes: HistogramVec,
    failures: IntCounterVec,
    confirmed: Histogram,
    failed: Histogram,
    /// By stream.
    rows: Vec<Histogram>,
    bytes: Vec<Histogram>,
    unreachable: IntCounter,
    transient: IntCounter,
    refused: IntCounter,
    unknown: IntCounter,
    log: Seldom,
}

impl Default for InsertMeasures {
    fn default() -> Self {
        let duration = metrics::histogram(&metrics::INSERT_DURATION, LATENCY_SECONDS);
        let rows = metrics::histogram(&metrics::INSERT_ROWS, ROWS);
        let bytes = metrics::histogram(&metrics::INSERT_BYTES, BYTES);
        let failures = metrics::counter(&metrics::INSERT_FAILURES);
        let class = |class| failures.with_label_values(&[class]);
        Self {
            confirmed: duration.with_label_values(&["confirmed"]),
            failed: duration.with_label_values(&["failed"]),
            rows: by_stream(&rows),
            bytes: by_stream(&bytes),
            unreachable: class("unreachable"),
            transient: class("transient"),
            refused: class("refused"),
            unknown: class("unknown"),
            log: Seldom::new(),
            durations: duration,
            all_rows: rows,
            all_bytes: bytes,
            failures,
        }
    }
}

impl InsertMeasures {
    pub(super) fn show(&self, metrics: &Metrics) {
        metrics.register(self.durations.clone());
        metrics.register(self.all_rows.clone());
        metrics.register(self.all_bytes.clone());
        metrics.register(self.failures.clone());
    }

    /// One insert has ended, with this error or well.
    pub(super) fn note(
        &self,
        batch: &Batch,
        took: Duration,
        query_id: &str,
        error: Option<&Error>,
    ) {
        let stream = batch.stream as usize;
        self.rows[stream].observe(batch.rows as f64);
        self.bytes[stream].observe(batch.bytes.len() as f64);
        let failure = error.map(Failure::from);
        if let (Some(error), Some(failure)) = (error, &failure) {
            let (rows, took_ms) = (batch.rows, milliseconds(took));
            let say = |left_out| {
                warn!(%error, query_id, rows, took_ms, left_out, "insert failed");
            };
            match failure {
                // Who looks for a refused row fails many times at once.
                Failure::Refused(_) => self.log.say(say),
                _ => say(0),
            }
        }
        let (duration, failures) = match failure {
            None => (&self.confirmed, None),
            Some(Failure::Unreachable(_)) => (&self.failed, Some(&self.unreachable)),
            Some(Failure::Transient(_)) => (&self.failed, Some(&self.transient)),
            Some(Failure::Refused(_)) => (&self.failed, Some(&self.refused)),
            Some(Failure::Unknown(_)) => (&self.failed, Some(&self.unknown)),
        };
        duration.observe(took.as_secs_f64());
        if let Some(failures) = failures {
            failures.inc();
        }
    }
}

/// One histogram of each stream, at its own place.
fn by_stream(histogram: &HistogramVec) -> Vec<Histogram> {
    let of = |stream: &Stream| histogram.with_label_values(&[stream.name()]);
    Stream::ALL.iter().map(of).collect()
}

/// Which report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    Daily,
    Days,
    Pages,
    Site,
    Counters,
    Funnel,
}

impl Report {
    const ALL: [Report; 6] = [
        Report::Daily,
        Report::Days,
        Report::Pages,
        Report::Site,
        Report::Counters,
        Report::Funnel,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Report::Daily => "daily",
            Report::Days => "days",
            Report::Pages => "pages",
            Report::Site => "site",
            Report::Counters => "counters",
            Report::Funnel => "funnel",
        }
    }
}

/// What a report was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The claims alone.
    Claims,
    /// Sealed hours, and the claims for the rest.
    View,
    /// An answer that was written down before.
    Kept,
}

impl Source {
    const ALL: [Source; 3] = [Source::Claims, Source::View, Source::Kept];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Source::Claims => "claims",
            Source::View => "view",
            Source::Kept => "kept",
        }
    }
}

/// Measures of all reports.
pub(super) struct ReportMeasures {
    durations: HistogramVec,
    failures: IntCounterVec,
}

impl Default for ReportMeasures {
    fn default() -> Self {
        let measures = Self {
            durations: metrics::histogram(&metrics::REPORT_DURATION, LATENCY_SECONDS),
            failures: metrics::counter(&metrics::REPORT_FAILURES),
        };
        for report in Report::ALL {
            measures.failures.with_label_values(&[report.name()]);
            for source in Source::ALL {
                let is_read = match source {
                    Source::Claims => true,
                    Source::View => report != Report::Funnel,
                    Source::Kept => report == Report::Pages,
                };
                if is_read {
                    measures.duration(report, source);
                }
            }
        }
        measures
    }
}

impl ReportMeasures {
    pub(super) fn show(&self, metrics: &Metrics) {
        metrics.register(self.durations.clone());
        metrics.register(self.failures.clone());
    }

    fn duration(&self, report: Report, source: Source) -> Histogram {
        let labels = [report.name(), source.name()];
        self.durations.with_label_values(&labels)
    }

    /// Runs a report, whose statements are to have the common name that it is given, and notes what it
    /// cost; one that takes as long as `slow` is logged.
    pub(super) async fn run<T>(
        &self,
        report: Report,
        slow: Duration,
        answer: impl AsyncFnOnce(&Arc<Statements>) -> Result<(T, Source), Error>,
    ) -> Result<T, Error> {
        let (began, statements) = (Instant::now(), Arc::new(Statements::of(report.name())));
        let outcome = answer(&statements).await;
        let took = began.elapsed();
        let source = outcome.as_ref().map(|(_, source)| *source);
        if let Ok(source) = source
            && took >= slow
        {
            log(report, source, took, &statements);
        }
        self.note(report, took, source);
        outcome.map(|(answer, _)| answer)
    }

    /// One report has ended. A look-up of its series costs nothing beside a statement.
    fn note(&self, report: Report, took: Duration, outcome: Result<Source, &Error>) {
        match outcome {
            Ok(source) => self.duration(report, source).observe(took.as_secs_f64()),
            // The client's to mend, not ClickHouse's.
            Err(Error::SnapshotGone | Error::AnswerTooLong { .. }) => {}
            Err(_) => self.failures.with_label_values(&[report.name()]).inc(),
        }
    }
}

/// Names a report that took long.
fn log(report: Report, source: Source, took: Duration, named: &Statements) {
    warn!(
        report = report.name(),
        source = source.name(),
        took_ms = milliseconds(took),
        query_id = named.name(),
        statements = named.sent(),
        "slow report"
    );
}

/// As a number that a log in JSON holds as one.
fn milliseconds(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
