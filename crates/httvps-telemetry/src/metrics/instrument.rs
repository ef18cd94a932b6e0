//! The kinds of metrics, and one of our own: a counter per label value.

use super::labels::Label;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, info::Info};
use prometheus_client::registry::Metric;
use std::marker::PhantomData;
use std::sync::Arc;

/// Upper bounds of the histograms' buckets, in seconds: from a backend on the same host to the
/// longest deadline.
pub(super) const BUCKETS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A counter for each value of a label; all of them show from the start. Clones count together.
///
/// Counting is one atomic addition: no lock, no look-up by text.
#[derive(Debug)]
pub struct Counts<L> {
    counters: Arc<[Counter]>,
    label: PhantomData<L>,
}

impl<L> Clone for Counts<L> {
    fn clone(&self) -> Self {
        Self { counters: self.counters.clone(), label: PhantomData }
    }
}

impl<L: Label> Counts<L> {
    /// Counts one.
    pub fn inc(&self, value: L) {
        self.counters[value.index()].inc();
    }

    /// Counts several.
    pub fn inc_by(&self, value: L, count: u64) {
        self.counters[value.index()].inc_by(count);
    }

    /// What was counted so far.
    pub fn get(&self, value: L) -> u64 {
        self.counters[value.index()].get()
    }
}

impl<L: Label> EncodeMetric for Counts<L> {
    fn encode(&self, mut encoder: MetricEncoder) -> std::fmt::Result {
        for (token, counter) in L::tokens().into_iter().zip(self.counters.iter()) {
            counter.encode(encoder.encode_family(&[(L::NAME, token)])?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// The version of the running gateway.
pub(super) type Build = Info<[(&'static str, &'static str); 1]>;

/// A metric that can be made and handed to the registry.
pub(super) trait Instrument {
    /// The type in the text format 0.0.4.
    const TYPE: &'static str;
    /// What the encoder adds to the name.
    const SUFFIX: &'static str = "";
    /// Whether there is one for each node, under the label `node`.
    const IS_PER_NODE: bool = false;

    fn create() -> Self;

    /// A handle on the same metric for the registry.
    fn handle(&self) -> impl Metric;

    /// The label and its values; no values = they are not known beforehand.
    fn label() -> Option<(&'static str, Vec<&'static str>)> {
        None
    }
}

impl Instrument for Counter {
    const TYPE: &'static str = "counter";
    const SUFFIX: &'static str = "_total";

    fn create() -> Self {
        Self::default()
    }

    fn handle(&self) -> impl Metric {
        self.clone()
    }
}

impl Instrument for Gauge {
    const TYPE: &'static str = "gauge";

    fn create() -> Self {
        Self::default()
    }

    fn handle(&self) -> impl Metric {
        self.clone()
    }
}

impl Instrument for Histogram {
    const TYPE: &'static str = "histogram";

    fn create() -> Self {
        Self::new(BUCKETS)
    }

    fn handle(&self) -> impl Metric {
        self.clone()
    }
}

impl<L: Label + std::fmt::Debug> Instrument for Counts<L> {
    const TYPE: &'static str = "counter";
    const SUFFIX: &'static str = "_total";

    fn create() -> Self {
        let counters = L::tokens().iter().map(|_| Counter::default()).collect();
        Self { counters, label: PhantomData }
    }

    fn handle(&self) -> impl Metric {
        self.clone()
    }

    fn label() -> Option<(&'static str, Vec<&'static str>)> {
        Some((L::NAME, L::tokens()))
    }
}

impl Instrument for Build {
    const TYPE: &'static str = "gauge";
    const SUFFIX: &'static str = "_info";

    fn create() -> Self {
        Self::new([("version", env!("CARGO_PKG_VERSION"))])
    }

    fn handle(&self) -> impl Metric {
        Self::create()
    }

    fn label() -> Option<(&'static str, Vec<&'static str>)> {
        Some(("version", Vec::new()))
    }
}
