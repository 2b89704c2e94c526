//! Events over HookStream.Observe: batches are confirmed, after a reconnect the rest comes again, gaps are told.

use std::sync::Arc;
use std::time::Duration;

use mproxy_core::peer::Peer;
use tokio::time::Instant;
use uuid::Uuid;

use super::calls::INSTANCE;
use super::conversation::{Conversation, StreamTrouble};
use super::{CheckConfig, CheckedAnswer, CheckedResult, LatencyFigures, MEASURED_WITHIN, Run, questions};
use crate::contract::{EncodedEvent, EventClient, ObserveMessage, StreamRpc, Wants, read_safe_up_to};

/// A service may confirm more seldom than it answers: so many deadlines are waited for a confirmation.
const PATIENCE: u32 = 10;

/// The one client that events are about.
const CLIENT_REF: u64 = 1;

/// A service that is told of events.
struct Telling<'a> {
    run: &'a mut Run,
    config: &'a CheckConfig,
    client: EventClient,
    run_id: String,
    talk: Conversation,
    /// The last number that was sent on any stream.
    sent: u64,
}

impl Run {
    pub(super) async fn observe(&mut self, client: &Arc<Peer>, wants: &Wants, config: &CheckConfig) {
        let mut life = questions::life(client);
        life.retain(|(_, event)| wants.of(event.kind.into()).is_some());
        // Who wants no events is not asked for a stream of them.
        let Some((_, last)) = life.last().cloned() else { return };
        // In two, so that the second half can come again by itself after a reconnect.
        let (early, late) = life.split_at(life.len().div_ceil(2));
        let talk = match Conversation::open(&self.calls, StreamRpc::Observe).await {
            Ok(talk) => talk,
            Err(trouble) => return self.not_observed("a batch", &trouble, Duration::ZERO),
        };
        let client = EventClient::Live(Arc::clone(client));
        // A numbering of its own for each check: the service may remember how far it is in an earlier one.
        let run_id = Uuid::new_v4().to_string();
        let mut telling = Telling { run: self, config, client, run_id, talk, sent: 0 };
        // Where one step fails the stream is over, as it is in the proxy.
        let _ = telling.play(early, late, &last).await;
    }

    fn not_observed(&mut self, question: &str, trouble: &StreamTrouble, took: Duration) {
        let question = question.to_owned();
        let result = match trouble {
            StreamTrouble::Unimplemented => {
                self.unimplemented.push(("Observe", "sends events by calls"));
                CheckedResult::NotWanted
            }
            StreamTrouble::Other(text) => {
                self.findings.error("observe_failed", format!("Observe: {text}"), Some(&question));
                CheckedResult::Failed
            }
        };
        let answer = CheckedAnswer::new("Observe", question, result, took);
        let details = vec![trouble.text().to_owned()];
        self.report.answers.push(CheckedAnswer { way: "stream", details, ..answer });
    }
}

/// A step failed, and that is noted.
struct Stopped;

impl Telling<'_> {
    async fn play(
        &mut self,
        early: &[(&'static str, EncodedEvent)],
        late: &[(&'static str, EncodedEvent)],
        last: &EncodedEvent,
    ) -> Result<(), Stopped> {
        let mut first = ObserveMessage::new();
        // In the same message as the events: that is how the proxy does it.
        first.introduce(CLIENT_REF, &self.client);
        self.fill(&mut first, early, 1);
        self.start();
        self.step(format!("a batch of {} events", early.len()), first).await?;
        let again = self.sent + 1;
        if !late.is_empty() {
            let mut rest = ObserveMessage::new();
            self.fill(&mut rest, late, again);
            self.step(format!("{} more", late.len()), rest).await?;
        }

        let lost = Conversation::open(&self.run.calls, StreamRpc::Observe).await;
        match lost {
            Ok(talk) => self.talk = talk,
            Err(trouble) => {
                self.run.not_observed("a reconnect", &trouble, Duration::ZERO);
                return Err(Stopped);
            }
        }
        let mut repeated = ObserveMessage::new();
        // References belong to a stream, so each one introduces its clients anew.
        repeated.introduce(CLIENT_REF, &self.client);
        self.fill(
            &mut repeated,
            if late.is_empty() { early } else { late },
            if late.is_empty() { 1 } else { again },
        );
        self.start();
        self.step("after a reconnect, the last events again".to_owned(), repeated).await?;

        let mut gap = ObserveMessage::new();
        gap.gap(self.sent + 1, self.sent + 2);
        // The numbers of a gap are spent: the service has to confirm beyond them.
        self.sent += 2;
        self.add(&mut gap, last);
        self.step("a gap, and an event after it".to_owned(), gap).await?;
        self.measure(last).await
    }

    /// Says who tells, in the first message of a stream.
    fn start(&self) {
        let mut start = ObserveMessage::new();
        start.start(&self.config.version, INSTANCE, &self.run_id);
        // A stream that takes nothing any more is found out when an answer is waited for.
        let _ = start.finish().map(|message| self.talk.send(message));
    }

    fn fill(&mut self, message: &mut ObserveMessage, events: &[(&'static str, EncodedEvent)], first: u64) {
        for ((_, event), sequence) in events.iter().zip(first..) {
            message.event(sequence, CLIENT_REF, event);
            self.sent = self.sent.max(sequence);
        }
    }

    fn add(&mut self, message: &mut ObserveMessage, event: &EncodedEvent) {
        self.sent += 1;
        message.event(self.sent, CLIENT_REF, event);
    }

    /// Sends the message, and waits until all that was sent is safe.
    async fn step(&mut self, question: String, message: ObserveMessage) -> Result<(), Stopped> {
        let began = Instant::now();
        match self.confirmed(message).await {
            Ok(()) => {
                let answer =
                    CheckedAnswer::new("Observe", question, CheckedResult::Received, began.elapsed());
                let details = vec![format!("confirmed up to {}", self.sent)];
                self.run.report.answers.push(CheckedAnswer { way: "stream", details, ..answer });
                Ok(())
            }
            Err(trouble) => {
                self.run.not_observed(&question, &trouble, began.elapsed());
                Err(Stopped)
            }
        }
    }

    async fn confirmed(&mut self, message: ObserveMessage) -> Result<(), StreamTrouble> {
        let deadline = (Instant::now() + self.config.timeout * PATIENCE).min(self.run.calls.until());
        if let Some(message) = message.finish() {
            self.talk.send(message)?;
        }
        loop {
            let up_to = read_safe_up_to(self.talk.receive(deadline).await?)?;
            if up_to > self.sent {
                return Err(StreamTrouble::other(format!(
                    "safe_up_to {up_to} was confirmed, and {} is the last that was sent: mproxy ends the stream",
                    self.sent
                )));
            }
            if up_to == self.sent {
                return Ok(());
            }
        }
    }

    async fn measure(&mut self, event: &EncodedEvent) -> Result<(), Stopped> {
        let until = (Instant::now() + MEASURED_WITHIN).min(self.run.calls.until());
        let mut times = Vec::new();
        for _ in 0..self.config.count {
            let mut message = ObserveMessage::new();
            self.add(&mut message, event);
            let began = Instant::now();
            if let Err(trouble) = self.confirmed(message).await {
                self.run.not_observed("one event after the other", &trouble, began.elapsed());
                return Err(Stopped);
            }
            times.push(began.elapsed());
            if Instant::now() >= until {
                break;
            }
        }
        self.run.report.latencies.extend(LatencyFigures::of("Observe", "stream", times, 0));
        Ok(())
    }
}
