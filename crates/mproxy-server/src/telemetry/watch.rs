//! What the advisers tell of themselves, counted.

use std::time::Duration;

use mproxy_core::event::Kind;
use mproxy_core::policy::Hook;
use mproxy_policy::comparison::Comparison;
use mproxy_policy::watch::{
    AnswerDrop, CallOutcome, CommandCount, DropReason, EventStreamEnd, KeyReadOutcome, MoveReason, SpoolLoss,
    StreamEnd, TokenOutcome, Watch,
};

use super::metrics::Metrics;

impl Watch for Metrics {
    fn call(&self, rpc: &'static str, outcome: CallOutcome, took: Duration) {
        self.policy().record_call(rpc, outcome.name(), took);
    }

    fn events_dropped(&self, kind: Kind, reason: DropReason, count: u64) {
        self.events().count_dropped(kind.name(), reason.name(), count);
    }

    fn events_kept(&self, events: usize, bytes: usize) {
        self.events().set_unconfirmed(events, bytes);
    }

    fn events_sent(&self, events: u64, again: u64) {
        self.events().count_sent(events, again);
    }

    fn events_confirmed(&self, events: u64) {
        self.events().count_confirmed(events);
    }

    fn event_spool(&self, bytes: u64) {
        self.events().set_spool(bytes);
    }

    fn events_not_spooled(&self, reason: SpoolLoss, events: u64) {
        self.events().count_not_spooled(reason.name(), events);
    }

    fn event_spool_damaged(&self, bytes: u64) {
        self.events().count_spool_damage(bytes);
    }

    fn event_stream(&self, open: bool) {
        self.events().set_open(open);
    }

    fn event_stream_ended(&self, reason: EventStreamEnd) {
        self.events().count_ended(reason.name());
    }

    fn command(&self, kind: &'static str, outcome: CommandCount) {
        self.policy().count_command(kind, outcome.name());
    }

    fn stream_opened(&self) {
        self.streams().count_opened();
    }

    fn stream_ended(&self, reason: StreamEnd) {
        self.streams().count_ended(reason.name());
    }

    fn stream_message(&self) {
        self.streams().count_message();
    }

    fn answers_dropped(&self, reason: AnswerDrop, count: u64) {
        self.streams().count_dropped_answers(reason.name(), count);
    }

    fn question_moved(&self, reason: MoveReason) {
        self.streams().count_moved(reason.name());
    }

    fn shadow_compared(&self, comparison: &Comparison<'_>) {
        self.shadow().record(comparison);
    }

    fn shadow_endpoint(&self, url: &str, healthy: bool) {
        self.shadow().set_endpoint_health(url, healthy);
    }

    fn shadow_skipped(&self, hook: Hook) {
        self.shadow().count_skipped(hook);
    }

    fn token(&self, outcome: TokenOutcome) {
        self.tokens().count(outcome);
    }

    fn key_set_read(&self, outcome: KeyReadOutcome) {
        self.tokens().count_read(outcome);
    }

    fn endpoint(&self, url: &str, healthy: bool) {
        self.policy().set_endpoint_health(url, healthy);
    }
}
