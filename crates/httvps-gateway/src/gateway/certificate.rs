//! The certificate while the gateway serves: read again, and its dates watched.

use crate::context::Context;
use httvps_telemetry::metrics::ReloadResult;
use httvps_tls::ReloadOutcome;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

/// How often the dates of the certificate in use are looked at.
const DATES_INTERVAL: Duration = Duration::from_hours(1);

/// How often a problem with the dates is said again while it lasts.
const DATES_REPEAT: Duration = Duration::from_hours(24);

/// Reads the certificate again when told to, and every so often; for ever. Sessions keep the one
/// that they were greeted with, and a broken new one leaves the old in place. Says when no client
/// accepts the one in use for its dates, or soon will not: the first time before it returns.
pub(super) fn watch(
    context: Arc<Context>,
    told: Arc<Notify>,
) -> impl Future<Output = ()> + Send + 'static {
    let mut dates = Dates::default();
    dates.look(&context);
    keep_watching(context, told, dates)
}

async fn keep_watching(context: Arc<Context>, told: Arc<Notify>, mut dates: Dates) {
    let interval = context.config.tls_reload_interval;
    let mut reload_due = (!interval.is_zero()).then(|| {
        let mut due = tokio::time::interval_at(Instant::now() + interval, interval);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        due
    });
    let mut last_error = None;
    let mut dates_due = tokio::time::interval(DATES_INTERVAL);
    loop {
        let due = async {
            match &mut reload_due {
                Some(due) => due.tick().await,
                None => std::future::pending().await,
            }
        };
        let is_told = tokio::select! {
            _ = dates_due.tick() => {
                dates.look(&context);
                continue;
            }
            () = told.notified() => true,
            _ = due => false,
        };
        let reloading = context.clone();
        let outcome = tokio::task::spawn_blocking(move || reloading.tls.reload()).await;
        match outcome {
            Ok(Ok(ReloadOutcome::Unchanged)) => {
                last_error = None;
                if is_told {
                    tracing::info!("certificate_unchanged");
                }
            }
            Ok(Ok(_)) => {
                last_error = None;
                context.metrics.certificate_reloaded(ReloadResult::Replaced);
                tracing::info!("certificate_reloaded");
                dates.look(&context);
            }
            Ok(Err(error)) => {
                let error = error.to_string();
                // A file that stays broken is one event, not one in every interval.
                if is_told || last_error.as_ref() != Some(&error) {
                    context.metrics.certificate_reloaded(ReloadResult::Failed);
                    tracing::error!(error = error.as_str(), "certificate_reload_failed");
                }
                last_error = Some(error);
            }
            Err(_) => {}
        }
    }
}

/// What was last said of the dates of the certificate.
#[derive(Default)]
struct Dates {
    said: Option<(String, Instant)>,
}

impl Dates {
    /// Shows the end of the certificate in use as a metric, and warns of its dates: when there is
    /// something new to say, and once a day.
    fn look(&mut self, context: &Context) {
        let Some(facts) = context.tls.facts() else { return };
        context.metrics.set_certificate_expiry(facts.not_after);
        if let Some(warning) = self.news(facts.date_words(SystemTime::now()), Instant::now()) {
            let not_after = facts.end().to_string();
            tracing::warn!(warning, not_after, "certificate_warning");
        }
    }

    /// What is to be said now, of a problem that is there or not.
    fn news(&mut self, problem: Option<String>, now: Instant) -> Option<&str> {
        let Some(problem) = problem else {
            self.said = None;
            return None;
        };
        match &self.said {
            Some((said, at)) if *said == problem && now.duration_since(*at) < DATES_REPEAT => None,
            _ => Some(&self.said.insert((problem, now)).0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_problem_with_the_dates_is_said_once_a_day_and_when_it_changes() {
        let mut dates = Dates::default();
        let mut said = |problem: Option<&str>| {
            dates.news(problem.map(str::to_owned), Instant::now()).map(str::to_owned)
        };
        assert_eq!(said(None), None);
        assert_eq!(said(Some("soon")).as_deref(), Some("soon"));
        assert_eq!(said(Some("soon")), None);
        tokio::time::advance(DATES_REPEAT / 2).await;
        assert_eq!(said(Some("expired")).as_deref(), Some("expired"));
        tokio::time::advance(DATES_REPEAT).await;
        assert_eq!(said(Some("expired")).as_deref(), Some("expired"));
        assert_eq!(said(None), None);
        assert_eq!(said(Some("expired")).as_deref(), Some("expired"));
    }
}
