//! Metrics that exist once for each node: Outline, SOCKS5, HTTP.

use super::Metrics;
use super::instrument::{BUCKETS, Instrument};
use super::labels::{Label, NodeDial, NodeProbe};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Metric;
use std::marker::PhantomData;

type Labels<const N: usize> = [(&'static str, String); N];

/// A metric for each node, under the label `node`.
#[derive(Debug)]
pub struct PerNode<M>(Family<Labels<1>, M, fn() -> M>);

/// A counter for each node and value of a label.
#[derive(Debug)]
pub struct CountsPerNode<L>(Family<Labels<2>, Counter>, PhantomData<L>);

fn node_label(id: &str) -> (&'static str, String) {
    ("node", id.to_owned())
}

impl<M: Clone> PerNode<M> {
    fn get(&self, id: &str) -> M {
        self.0.get_or_create_owned(&[node_label(id)])
    }

    fn remove(&self, id: &str) {
        self.0.remove(&[node_label(id)]);
    }
}

impl<L: Label> CountsPerNode<L> {
    fn labels(id: &str) -> impl Iterator<Item = Labels<2>> {
        L::tokens().into_iter().map(move |token| [node_label(id), (L::NAME, token.to_owned())])
    }

    fn get(&self, id: &str) -> Box<[Counter]> {
        Self::labels(id).map(|labels| self.0.get_or_create_owned(&labels)).collect()
    }

    fn remove(&self, id: &str) {
        for labels in Self::labels(id) {
            self.0.remove(&labels);
        }
    }
}

impl Instrument for PerNode<Counter> {
    const TYPE: &'static str = "counter";
    const SUFFIX: &'static str = "_total";
    const IS_PER_NODE: bool = true;

    fn create() -> Self {
        Self(Family::new_with_constructor(Counter::default))
    }

    fn handle(&self) -> impl Metric {
        self.0.clone()
    }
}

impl Instrument for PerNode<Gauge> {
    const TYPE: &'static str = "gauge";
    const IS_PER_NODE: bool = true;

    fn create() -> Self {
        Self(Family::new_with_constructor(Gauge::default))
    }

    fn handle(&self) -> impl Metric {
        self.0.clone()
    }
}

impl Instrument for PerNode<Histogram> {
    const TYPE: &'static str = "histogram";
    const IS_PER_NODE: bool = true;

    fn create() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(BUCKETS)))
    }

    fn handle(&self) -> impl Metric {
        self.0.clone()
    }
}

impl<L: Label + std::fmt::Debug> Instrument for CountsPerNode<L> {
    const TYPE: &'static str = "counter";
    const SUFFIX: &'static str = "_total";
    const IS_PER_NODE: bool = true;

    fn create() -> Self {
        Self(Family::default(), PhantomData)
    }

    fn handle(&self) -> impl Metric {
        self.0.clone()
    }

    fn label() -> Option<(&'static str, Vec<&'static str>)> {
        Some((L::NAME, L::tokens()))
    }
}

/// The metrics of one node. While it lives they show; there must be one for an id at a time.
#[derive(Debug)]
pub struct NodeMetrics {
    id: String,
    metrics: Metrics,
    /// 0 healthy, 1 degraded, 2 down.
    pub state: Gauge,
    /// Streams that are open.
    pub active_streams: Gauge,
    /// Seconds of the dials that stood.
    pub dial_duration: Histogram,
    /// Seconds from a stream's first byte to the first one back.
    pub first_byte_duration: Histogram,
    /// Payload to the node.
    pub bytes_in: Counter,
    /// Payload from the node.
    pub bytes_out: Counter,
    dials: Box<[Counter]>,
    probes: Box<[Counter]>,
}

impl NodeMetrics {
    /// Counts a dial.
    pub fn dialed(&self, result: NodeDial) {
        self.dials[result.index()].inc();
    }

    /// Counts a probe.
    pub fn probed(&self, result: NodeProbe) {
        self.probes[result.index()].inc();
    }
}

impl Metrics {
    /// The metrics of a node.
    pub fn node(&self, id: &str) -> NodeMetrics {
        NodeMetrics {
            state: self.outline_node_state.get(id),
            active_streams: self.outline_active_streams.get(id),
            dial_duration: self.outline_dial_duration.get(id),
            first_byte_duration: self.outline_first_byte_duration.get(id),
            bytes_in: self.outline_bytes_in.get(id),
            bytes_out: self.outline_bytes_out.get(id),
            dials: self.outline_dials.get(id),
            probes: self.outline_probes.get(id),
            id: id.to_owned(),
            metrics: self.clone(),
        }
    }
}

impl Drop for NodeMetrics {
    fn drop(&mut self) {
        self.metrics.outline_node_state.remove(&self.id);
        self.metrics.outline_active_streams.remove(&self.id);
        self.metrics.outline_dial_duration.remove(&self.id);
        self.metrics.outline_first_byte_duration.remove(&self.id);
        self.metrics.outline_bytes_in.remove(&self.id);
        self.metrics.outline_bytes_out.remove(&self.id);
        self.metrics.outline_dials.remove(&self.id);
        self.metrics.outline_probes.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_metrics_show_while_it_lives() {
        let metrics = Metrics::new();
        let node = metrics.node("fra-1");
        node.dialed(NodeDial::Timeout);
        node.probed(NodeProbe::Ok);
        node.bytes_in.inc_by(7);
        node.state.set(2);
        let (_, text) = metrics.encode(None);
        for line in [
            "outline_dials_total{node=\"fra-1\",result=\"ok\"} 0",
            "outline_dials_total{node=\"fra-1\",result=\"timeout\"} 1",
            "outline_probes_total{node=\"fra-1\",result=\"ok\"} 1",
            "outline_bytes_in_total{node=\"fra-1\"} 7",
            "outline_node_state{node=\"fra-1\"} 2",
            "outline_first_byte_duration_seconds_count{node=\"fra-1\"} 0",
        ] {
            assert!(text.contains(&format!("httvps_gateway_{line}\n")), "{line}");
        }
        drop(node);
        assert!(!metrics.encode(None).1.contains("fra-1"));
    }
}
