//! A watch that remembers what it saw, and certificates for the services to be played.
#![allow(dead_code, reason = "each test file takes what it needs")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mproxy_core::event::Kind;
use mproxy_policy::remote::{RemoteConfig, STREAM_LIFETIME};
use mproxy_policy::watch::{
    AnswerDrop, CallOutcome, DropReason, EventStreamEnd, MoveReason, SpoolLoss, StreamEnd, Watch,
};
use mproxy_testkit::PATIENCE;
use tokio::sync::watch;
use tokio::time::timeout;

/// Long enough for a loaded machine where nothing is to be waited for.
pub(crate) const AMPLE: Duration = Duration::from_secs(20);

/// Services at these addresses, over streams where they serve them.
pub(crate) fn config(urls: &[&str], timeout: Duration) -> RemoteConfig {
    RemoteConfig {
        endpoints: urls.iter().map(|url| url.parse().unwrap()).collect(),
        timeout,
        instance: "test".into(),
        version: "0.0.0".into(),
        event_queue: 1600,
        event_buffer: 1 << 20,
        confirm_within: AMPLE,
        event_spool: None,
        events_wait: None,
        max_in_flight: 1024,
        tls: Default::default(),
        streams: true,
        stream_lifetime: STREAM_LIFETIME,
        tracer: None,
    }
}

/// A certificate authority for one test.
pub(crate) struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self(rcgen::CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// A certificate and its key.
    pub(crate) fn issue(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

/// An address at which nobody listens.
pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A watch that remembers.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<watch::Sender<Record>>);

#[derive(Default)]
pub(crate) struct Record {
    calls: Vec<(&'static str, CallOutcome)>,
    dropped: Vec<(Kind, DropReason)>,
    endpoints: Vec<(String, bool)>,
    events_kept: (usize, usize),
    events_sent: (u64, u64),
    events_confirmed: u64,
    event_streams_ended: Vec<EventStreamEnd>,
    not_spooled: Vec<(SpoolLoss, u64)>,
    streams: Vec<Option<StreamEnd>>,
    dropped_answers: Vec<AnswerDrop>,
    moved: Vec<MoveReason>,
}

impl Record {
    pub(crate) fn endpoint_changes(&self) -> &[(String, bool)] {
        &self.endpoints
    }

    /// Streams that were opened.
    pub(crate) fn streams_opened(&self) -> usize {
        self.streams.iter().filter(|end| end.is_none()).count()
    }

    /// Streams that ended for this reason.
    pub(crate) fn streams_ended(&self, reason: StreamEnd) -> usize {
        self.streams.iter().filter(|end| **end == Some(reason)).count()
    }

    /// Answers that were dropped.
    pub(crate) fn dropped_answers(&self) -> &[AnswerDrop] {
        &self.dropped_answers
    }

    /// Questions that were asked again elsewhere.
    pub(crate) fn moved(&self) -> &[MoveReason] {
        &self.moved
    }

    /// Endpoints whose last word was "healthy".
    pub(crate) fn healthy_now(&self) -> usize {
        let mut last = std::collections::HashMap::new();
        last.extend(self.endpoints.iter().map(|(url, healthy)| (url, *healthy)));
        last.values().filter(|healthy| **healthy).count()
    }
}

impl Seen {
    /// What was seen so far.
    pub(crate) fn now<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.0.borrow())
    }

    pub(crate) fn calls(&self, rpc: &str) -> Vec<CallOutcome> {
        let calls = &self.0.borrow().calls;
        calls.iter().filter(|(name, _)| *name == rpc).map(|(_, outcome)| *outcome).collect()
    }

    pub(crate) fn dropped(&self, kind: Kind, why: DropReason) -> usize {
        self.0.borrow().dropped.iter().filter(|dropped| **dropped == (kind, why)).count()
    }

    /// Events that wait for a confirmation, and their bytes.
    pub(crate) fn events_kept(&self) -> (usize, usize) {
        self.0.borrow().events_kept
    }

    /// Events that were sent, and those among them that were sent again.
    pub(crate) fn events_sent(&self) -> (u64, u64) {
        self.0.borrow().events_sent
    }

    pub(crate) fn events_confirmed(&self) -> u64 {
        self.0.borrow().events_confirmed
    }

    /// Events that were not written to the spool for this reason.
    pub(crate) fn not_spooled(&self, why: SpoolLoss) -> u64 {
        let lost = &self.0.borrow().not_spooled;
        lost.iter().filter(|(reason, _)| *reason == why).map(|(_, events)| events).sum()
    }

    /// Until events were not written to the spool.
    pub(crate) async fn until_not_spooled(&self) {
        self.until(|record| !record.not_spooled.is_empty()).await;
    }

    pub(crate) fn event_streams_ended(&self) -> Vec<EventStreamEnd> {
        self.0.borrow().event_streams_ended.clone()
    }

    /// Until so many events were confirmed.
    pub(crate) async fn until_confirmed(&self, events: u64) {
        self.until(|record| record.events_confirmed >= events).await;
    }

    pub(crate) async fn until(&self, mut seen: impl FnMut(&Record) -> bool) {
        let mut changes = self.0.subscribe();
        timeout(PATIENCE, changes.wait_for(|record| seen(record))).await.expect("was never seen").unwrap();
    }

    /// Until the last word on the (only) endpoint is this.
    pub(crate) async fn until_healthy(&self, healthy: bool) {
        self.until(|record| record.endpoints.last().is_some_and(|(_, last)| *last == healthy)).await;
    }

    /// Until an endpoint was unhealthy at some time: it may be healthy again by now.
    pub(crate) async fn until_given_up(&self) {
        self.until(|record| record.endpoints.iter().any(|(_, healthy)| !healthy)).await;
    }
}

impl Watch for Seen {
    fn call(&self, rpc: &'static str, outcome: CallOutcome, _: Duration) {
        self.0.send_modify(|record| record.calls.push((rpc, outcome)));
    }

    fn events_dropped(&self, kind: Kind, why: DropReason, count: u64) {
        for _ in 0..count {
            self.0.send_modify(|record| record.dropped.push((kind, why)));
        }
    }

    fn events_kept(&self, events: usize, bytes: usize) {
        self.0.send_modify(|record| record.events_kept = (events, bytes));
    }

    fn events_sent(&self, events: u64, again: u64) {
        self.0.send_modify(|record| {
            record.events_sent = (record.events_sent.0 + events, record.events_sent.1 + again);
        });
    }

    fn events_not_spooled(&self, reason: SpoolLoss, events: u64) {
        self.0.send_modify(|record| record.not_spooled.push((reason, events)));
    }

    fn events_confirmed(&self, events: u64) {
        self.0.send_modify(|record| record.events_confirmed += events);
    }

    fn event_stream_ended(&self, reason: EventStreamEnd) {
        self.0.send_modify(|record| record.event_streams_ended.push(reason));
    }

    fn stream_opened(&self) {
        self.0.send_modify(|record| record.streams.push(None));
    }

    fn stream_ended(&self, reason: StreamEnd) {
        self.0.send_modify(|record| record.streams.push(Some(reason)));
    }

    fn answers_dropped(&self, reason: AnswerDrop, count: u64) {
        for _ in 0..count {
            self.0.send_modify(|record| record.dropped_answers.push(reason));
        }
    }

    fn question_moved(&self, reason: MoveReason) {
        self.0.send_modify(|record| record.moved.push(reason));
    }

    fn shadow_endpoint(&self, url: &str, healthy: bool) {
        self.endpoint(url, healthy);
    }

    fn endpoint(&self, url: &str, healthy: bool) {
        self.0.send_modify(|record| record.endpoints.push((url.to_owned(), healthy)));
    }
}
