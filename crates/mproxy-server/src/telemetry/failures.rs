//! Questions that were not decided: a counter for each kind, and log lines that a service which is down, or a client that
//! asks for them, cannot turn into a flood.

use std::time::{Duration, Instant};

use mproxy_core::Peer;
use mproxy_core::policy::{Failure, Hook, OnError, Overload, Unusable};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tracing::warn;

/// Lines a second at most. What is not written is counted, and told with the next line.
const LINES: u32 = 5;

/// Counts and tells.
#[derive(Debug, Default)]
pub(super) struct Failures {
    pub(super) counted: Family<Failed, Counter>,
    pub(super) unusable: Family<UnusableAnswer, Counter>,
    pub(super) overloaded: Family<Overloaded, Counter>,
    lines: Mutex<Lines>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct UnusableAnswer {
    hook: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Overloaded {
    hook: &'static str,
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Failed {
    hook: &'static str,
    kind: &'static str,
    rule: &'static str,
}

#[derive(Debug, Default)]
struct Lines {
    second: Option<Instant>,
    written: u32,
    unwritten: u64,
}

impl Failures {
    pub(super) fn failed(&self, hook: Hook, failure: &Failure, rule: OnError, peer: &Peer) {
        let rule = match rule {
            OnError::Deny => "deny",
            OnError::Allow => "allow",
        };
        let (hook, kind) = (hook.name(), failure.kind.name());
        self.counted.get_or_create(&Failed { hook, kind, rule }).inc();
        let Some(unwritten) = self.lines.lock().take(Instant::now()) else { return };
        warn!(
            connection = %peer.origin.connection_id,
            client = &*peer.client_id,
            hook,
            rule,
            unwritten,
            error = %failure,
            "answer failed"
        );
    }

    pub(super) fn unusable(&self, hook: Hook, unusable: &Unusable, peer: &Peer) {
        let (hook, kind) = (hook.name(), unusable.kind.name());
        self.unusable.get_or_create(&UnusableAnswer { hook, kind }).inc();
        let Some(unwritten) = self.lines.lock().take(Instant::now()) else { return };
        warn!(
            connection = %peer.origin.connection_id,
            client = &*peer.client_id,
            hook,
            reason = format_args!("0x{:02X}", unusable.reason.0),
            unwritten,
            "answer cannot be used, packet refused: {unusable}"
        );
    }

    pub(super) fn overloaded(&self, hook: Hook, overload: &Overload, peer: &Peer) {
        let (hook, limit) = (hook.name(), overload.limit);
        self.overloaded.get_or_create(&Overloaded { hook, limit }).inc();
        let Some(unwritten) = self.lines.lock().take(Instant::now()) else { return };
        warn!(
            connection = %peer.origin.connection_id,
            client = &*peer.client_id,
            hook,
            unwritten,
            "mproxy is overloaded, packet refused: {overload}"
        );
    }
}

impl Lines {
    /// Whether a line may be written now, and how many were not since the last one.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if self.second.is_none_or(|second| now >= second + Duration::from_secs(1)) {
            self.second = Some(now);
            self.written = 0;
        }
        if self.written >= LINES {
            self.unwritten += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.unwritten))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_failures_is_a_few_lines_that_tell_of_the_rest() {
        let mut lines = Lines::default();
        let now = Instant::now();
        let written = (0..100).filter(|_| lines.take(now).is_some()).count();
        assert_eq!(written, 5);
        assert_eq!(lines.take(now + Duration::from_secs(1)), Some(95));
    }
}
