//! The gauges of one session.

use httvps_telemetry::metrics::Metrics;

/// Counts the session, and what waits in it, for as long as it is there, also when a panic unwinds its
/// task.
pub(super) struct Counted {
    metrics: Metrics,
    /// What this session has added to the gauges.
    for_targets: i64,
    for_client: i64,
}

impl Counted {
    pub(super) fn new(metrics: Metrics) -> Self {
        metrics.active_sessions.inc();
        Self { metrics, for_targets: 0, for_client: 0 }
    }

    /// Notes how many bytes wait in the session now.
    pub(super) fn note_waiting(&mut self, for_targets: usize, for_client: usize) {
        let Self { metrics, for_targets: noted, for_client: noted_for_client } = self;
        for (gauge, noted, now) in [
            (&metrics.target_queue, noted, for_targets),
            (&metrics.client_queue, noted_for_client, for_client),
        ] {
            let now = i64::try_from(now).unwrap_or(i64::MAX);
            // All sessions share the gauges: they are left alone as long as nothing has changed.
            if now != *noted {
                gauge.inc_by(now - *noted);
                *noted = now;
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.note_waiting(0, 0);
        self.metrics.active_sessions.dec();
    }
}
