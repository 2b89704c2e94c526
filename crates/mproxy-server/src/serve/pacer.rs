//! Clients that wait to be admitted: each with its own deadline, and a task for each listener that admits them when it is
//! their turn.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use mproxy_core::policy::Overload;
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};

use crate::protect::admissions::{AdmissionAnswer, AdmissionLimits, Admissions, WaitState, WaitingPlace};
use crate::share::Neighbours;
use crate::telemetry::admissions::AdmissionMetrics;

/// So long before its own deadline somebody who waits gives up: the session then ends for what it is, and there is no time
/// for another try, whose first pause is longer than this.
const EARLY: Duration = Duration::from_millis(25);

/// Admits the clients of one listener.
pub(crate) struct Pacer {
    pub(crate) admissions: Arc<Admissions>,
    metrics: AdmissionMetrics,
    /// Somebody has begun to wait, or may go on sooner.
    changed: Notify,
}

/// Somebody who waits, as it is counted. Dropped before that is over, it has left.
struct CountedWait<'a> {
    metrics: &'a AdmissionMetrics,
    since: Instant,
    outcome: &'static str,
}

impl Drop for CountedWait<'_> {
    fn drop(&mut self) {
        self.metrics.waiting.dec();
        self.metrics.count(self.outcome, now().saturating_duration_since(self.since));
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Pacer {
    pub(crate) fn new(limits: AdmissionLimits, metrics: AdmissionMetrics) -> Arc<Self> {
        Arc::new(Self {
            admissions: Admissions::new(limits, Instant::now()),
            metrics,
            changed: Notify::new(),
        })
    }

    /// Whether clients may have to wait.
    pub(crate) fn is_on(&self) -> bool {
        self.admissions.limits().per_second.is_some()
    }

    /// From now on these hold, also for those who wait.
    pub(crate) fn set_limits(&self, limits: AdmissionLimits) {
        self.admissions.set_limits(limits);
        self.changed.notify_one();
    }

    /// Waits until somebody from there is admitted, or there is no more time. Cancel safe: whoever is dropped has left, and
    /// neither place nor turn is lost.
    pub(super) async fn wait(
        self: Arc<Self>,
        whose: Neighbours,
        until: Option<Instant>,
    ) -> Result<(), Overload> {
        let since = now();
        let place = match self.admissions.ask(whose, since) {
            AdmissionAnswer::Admitted => {
                self.metrics.count("admitted", Duration::ZERO);
                return Ok(());
            }
            AdmissionAnswer::Full => {
                self.metrics.count("queue_full", Duration::ZERO);
                return Err(overload("as many clients as may already wait to be admitted"));
            }
            AdmissionAnswer::Waits(place) => place,
        };
        self.changed.notify_one();
        self.metrics.waiting.inc();
        let mut waiting = CountedWait { metrics: &self.metrics, since, outcome: "left" };
        match told(&place, until).await {
            WaitState::Admitted if place.take() => {
                waiting.outcome = "admitted";
                Ok(())
            }
            WaitState::Evicted => {
                waiting.outcome = "evicted";
                Err(overload("its address had the most clients that wait to be admitted, and others came"))
            }
            WaitState::Waits | WaitState::Admitted | WaitState::Taken => {
                waiting.outcome = "timed_out";
                Err(overload("it was not admitted in time, because of max_admissions_per_second"))
            }
        }
    }

    /// Admits those who wait, for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            match self.admissions.admit(now()) {
                None => self.changed.notified().await,
                Some(next) => sleep_until(next.into()).await,
            }
        }
    }
}

fn overload(detail: &str) -> Overload {
    Overload::new(Overload::ADMISSIONS, detail)
}

/// What has become of somebody who waits, at the latest shortly before its deadline.
async fn told(place: &WaitingPlace, until: Option<Instant>) -> WaitState {
    let told = poll_fn(|cx| match place.poll(cx) {
        WaitState::Waits => Poll::Pending,
        state => Poll::Ready(state),
    });
    let Some(until) = until else { return told.await };
    let left = until.saturating_duration_since(now()).saturating_sub(EARLY);
    tokio::select! {
        biased;
        state = told => state,
        () = sleep(left) => WaitState::Waits,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::telemetry::exposition::Format;
    use crate::telemetry::metrics::Metrics;

    fn of(text: &str) -> Neighbours {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[tokio::test(start_paused = true)]
    async fn clients_are_admitted_in_turn_and_what_becomes_of_them_is_counted() {
        let metrics = Metrics::new();
        let limits = AdmissionLimits { per_second: Some(10), waiting: 3 };
        let pacer = Pacer::new(limits, metrics.admissions("mqtt"));
        let running = tokio::spawn(Arc::clone(&pacer).run());
        let wait = |until| Arc::clone(&pacer).wait(of("192.0.2.1"), until);
        assert_eq!(wait(None).await, Ok(()));
        let second = tokio::spawn(wait(None));
        let third = tokio::spawn(wait(None));
        let soon = now() + Duration::from_millis(150);
        let late = tokio::spawn(wait(Some(soon)));
        tokio::task::yield_now().await;
        assert!(wait(None).await.is_err(), "three wait");
        third.abort();
        assert_eq!(second.await.expect("a task"), Ok(()));
        let late = late.await.expect("a task");
        assert_eq!(late.map_err(|overload| overload.limit), Err("admissions"));
        assert!(now() < soon, "before the session's own deadline");
        let page = metrics.expose(Format::Prometheus);
        let shown = |line: &str| assert!(page.contains(line), "{line}: {page}");
        for (outcome, count) in
            [("admitted", 2), ("queue_full", 1), ("left", 1), ("timed_out", 1), ("evicted", 0)]
        {
            shown(&format!("mproxy_admissions_total{{listener=\"mqtt\",outcome=\"{outcome}\"}} {count}\n"));
        }
        shown("mproxy_admissions_waiting{listener=\"mqtt\"} 0\n");
        running.abort();
    }
}
