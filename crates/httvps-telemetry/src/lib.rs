//! What the programs of httvps say about themselves: log lines in the shapes of Go's `log/slog`, and the gateway's
//! Prometheus metrics.

pub mod log;
pub mod metrics;
