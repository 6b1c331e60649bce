//! Metrics in the text format of Prometheus (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! Invariants: what is counted on a hot path is counted through a handle that was made once; what is
//! state (the spool, the breaker) is read from it at each scrape and kept nowhere else, so it can't
//! drift. Every service in one process has metrics of its own.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};
use tracing::error;

pub use super::catalog::*;

/// Upper bounds for everything that somebody waits for, in seconds.
pub const LATENCY_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// What the text format is called (`Content-Type`).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type Reader = Box<dyn Fn(&mut Reading) + Send + Sync>;

/// All metrics of one service; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    readers: Mutex<Vec<Reader>>,
}

impl Default for Metrics {
    /// Those of the process, and nothing else yet.
    fn default() -> Self {
        let metrics = Self(Arc::new(Inner {
            registry: Registry::new(),
            readers: Mutex::default(),
        }));
        metrics.register(ProcessCollector::for_self());
        metrics
    }
}

impl Metrics {
    /// Shows what `collector` counts.
    pub fn register(&self, collector: impl Collector + 'static) {
        if let Err(error) = self.0.registry.register(Box::new(collector)) {
            error!(%error, "metric not registered");
        }
    }

    /// Asks `reader` for the state at every scrape.
    pub fn read(&self, reader: impl Fn(&mut Reading) + Send + Sync + 'static) {
        self.readers().push(Box::new(reader));
    }

    /// A counter that is shown.
    pub fn counter(&self, definition: &Definition) -> IntCounterVec {
        let counter = counter(definition);
        self.register(counter.clone());
        counter
    }

    /// A histogram that is shown.
    pub fn histogram(&self, definition: &Definition, bounds: &[f64]) -> HistogramVec {
        let histogram = histogram(definition, bounds);
        self.register(histogram.clone());
        histogram
    }

    /// A scrape.
    pub fn render(&self) -> String {
        let mut reading = Reading(self.0.registry.gather());
        for reader in self.readers().iter() {
            reader(&mut reading);
        }
        let text = TextEncoder::new().encode_to_string(&reading.0);
        text.unwrap_or_else(|error| {
            error!(%error, "metrics not written");
            String::new()
        })
    }

    fn readers(&self) -> std::sync::MutexGuard<'_, Vec<Reader>> {
        let readers = &self.0.readers;
        readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counter that is not shown yet ([`Metrics::register`]).
pub fn counter(definition: &Definition) -> IntCounterVec {
    let options = Opts::new(definition.name, definition.help);
    IntCounterVec::new(options, definition.labels)
        .unwrap_or_else(|error| unreachable!("{}: {error}", definition.name))
}

/// A histogram that is not shown yet ([`Metrics::register`]).
pub fn histogram(definition: &Definition, bounds: &[f64]) -> HistogramVec {
    let options = HistogramOpts::new(definition.name, definition.help).buckets(bounds.to_vec());
    HistogramVec::new(options, definition.labels)
        .unwrap_or_else(|error| unreachable!("{}: {error}", definition.name))
}

/// The one series of a histogram without labels.
pub fn only(histogram: &HistogramVec) -> Histogram {
    histogram.with_label_values::<&str>(&[])
}

/// The state at one scrape.
pub struct Reading(Vec<MetricFamily>);

impl Reading {
    /// A value that may fall.
    pub fn gauge(&mut self, definition: &Definition, value: f64) {
        self.add(definition, MetricType::GAUGE, [([], value)]);
    }

    /// Several values that may fall, by the metric's one label.
    pub fn gauges<'a>(
        &mut self,
        definition: &Definition,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        let values = values.into_iter().map(|(label, value)| ([label], value));
        self.add(definition, MetricType::GAUGE, values);
    }

    /// A value that only rises.
    pub fn counter(&mut self, definition: &Definition, value: u64) {
        self.add(definition, MetricType::COUNTER, [([], value as f64)]);
    }

    /// Several values that only rise, by the metric's one label.
    pub fn counters<'a>(
        &mut self,
        definition: &Definition,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        let values = values.into_iter().map(|(label, value)| ([label], value));
        self.counters_by(definition, values);
    }

    /// The same by all labels of the metric, in the order of their names.
    pub fn counters_by<'a, const N: usize>(
        &mut self,
        definition: &Definition,
        values: impl IntoIterator<Item = ([&'a str; N], u64)>,
    ) {
        let values = values
            .into_iter()
            .map(|(labels, value)| (labels, value as f64));
        self.add(definition, MetricType::COUNTER, values);
    }

    /// A metric without a value is not shown at all.
    fn add<'a, const N: usize>(
        &mut self,
        definition: &Definition,
        kind: MetricType,
        values: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) {
        let metrics = values.into_iter().map(|(labels, value)| {
            let mut metric = Metric::default();
            let pair = |(name, label): (&&str, &str)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value(label.to_owned());
                pair
            };
            metric.set_label(definition.labels.iter().zip(labels).map(pair).collect());
            if kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        });
        let metrics: Vec<Metric> = metrics.collect();
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(definition.name.to_owned());
        family.set_help(definition.help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}
