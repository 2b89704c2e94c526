//! The messages of the Observe stream. Events were encoded when they were reported and are only put together here.

use bytes::Bytes;
use mproxy_core::event::Kind;
use prost::Message;
use tonic::Status;

use super::event_client::EventClient;
use super::event_request::{EncodedEvent, encode_sequence, sequence_len};
use super::grpc_message::{GrpcMessage, bytes_len, number_len};
use super::wire;

/// One `ObserveRequest` while it is written, with gRPC's prefix.
pub(crate) struct ObserveMessage(GrpcMessage);

impl ObserveMessage {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self(GrpcMessage::with_room(0))
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What the first message of a stream says: who sends the events, and which numbering it is.
    pub(crate) fn start(&mut self, version: &str, instance: &str, run_id: &str) {
        // ObserveRequest.hello and run_id.
        const HELLO: u32 = 5;
        const RUN_ID: u32 = 6;
        let hello = wire::HelloRequest { version: version.to_owned(), instance: instance.to_owned() };
        self.0.message(HELLO, &hello);
        self.0.bytes(RUN_ID, run_id.as_bytes());
    }

    /// Introduces a client.
    pub(crate) fn introduce(&mut self, client_ref: u64, client: &EventClient) {
        self.0.introduce(client_ref, &client.field());
    }

    /// Adds an event.
    pub(crate) fn event(&mut self, sequence: u64, client_ref: u64, event: &EncodedEvent) {
        // ObserveRequest.events and StreamEvent.client_ref.
        const EVENTS: u32 = 2;
        const CLIENT_REF: u32 = 1;
        // StreamEvent.connect to disconnect.
        let kind = match event.kind {
            Kind::Connect => 2,
            Kind::Publish => 3,
            Kind::Subscribe => 4,
            Kind::Unsubscribe => 5,
            Kind::Disconnect => 6,
        };
        let own = event.fields.len() + sequence_len(sequence);
        self.0.key(EVENTS, number_len(client_ref) + bytes_len(own));
        self.0.number(CLIENT_REF, client_ref);
        self.0.key(kind, own);
        self.0.out().extend_from_slice(&event.fields);
        // Behind the others, which were encoded before the number was given: protobuf does not mind.
        encode_sequence(sequence, self.0.out());
    }

    /// Says that the events with these numbers were dropped.
    pub(crate) fn gap(&mut self, from: u64, to: u64) {
        // ObserveRequest.gaps
        self.0.message(3, &wire::Gap { from, to });
    }

    /// Says that these references are not used any more.
    pub(crate) fn forget(&mut self, client_refs: &[u64]) {
        // ObserveRequest.forget
        self.0.forget(4, client_refs);
    }

    /// The message; `None`: there is nothing in it.
    pub(crate) fn finish(self) -> Option<Bytes> {
        self.0.finish_if_any()
    }
}

/// How far the service says that events are safe.
///
/// # Errors
/// It is no `ObserveResponse`.
pub(crate) fn read_safe_up_to(message: Bytes) -> Result<u64, Status> {
    let message =
        wire::ObserveResponse::decode(message).map_err(|error| Status::internal(error.to_string()))?;
    Ok(message.safe_up_to)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use mproxy_codec::types::Version;
    use mproxy_core::event::{Event, Happening};
    use mproxy_core::peer::Peer;

    use super::super::event_client::KeptClient;
    use super::super::tests::peer;
    use super::super::{EventClient, EventRequest};
    use super::*;
    use crate::contract::grpc_message::PREFIX;

    fn unsubscribed(peer: &Arc<Peer>) -> EncodedEvent {
        let what = Happening::Unsubscribe { filters: ["a/b".into(), "c".into()].into() };
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        EncodedEvent::new(&Event { peer: Arc::clone(peer), what, purse: None }, time)
    }

    #[test]
    fn a_message_reads_as_the_contract_writes_it() {
        let peer = peer(Version::V5);
        let client = EventClient::Live(Arc::clone(&peer));
        let event = unsubscribed(&peer);
        let mut message = ObserveMessage::new();
        message.start("1.2.3", "edge-1", "a-run");
        message.introduce(300, &client);
        message.event(1 << 40, 300, &event);
        message.gap(7, 9);
        message.forget(&[1, 299]);
        let bytes = message.finish().expect("it has something in it");
        assert_eq!(bytes[1..PREFIX], u32::try_from(bytes.len() - PREFIX).unwrap().to_be_bytes());
        let read = wire::ObserveRequest::decode(&bytes[PREFIX..]).expect("what was encoded can be decoded");
        assert_eq!(
            read.hello.map(|hello| (hello.version, hello.instance)),
            Some(("1.2.3".into(), "edge-1".into()))
        );
        assert_eq!((read.run_id.as_str(), read.forget), ("a-run", vec![1, 299]));
        assert_eq!(read.gaps, [wire::Gap { from: 7, to: 9 }]);
        // Of a call it is the same, with the client in it.
        let call = EventRequest::new(&event, 1 << 40, &client).read::<wire::UnsubscribeEvent>();
        assert_eq!((read.introduce[0].client_ref, &read.introduce[0].client), (300, &call.client));
        let told = &read.events[0];
        assert_eq!(told.client_ref, 300);
        let wire::UnsubscribeEvent { time, filters, .. } = call;
        let alone = wire::UnsubscribeEvent { client: None, time, sequence: 1 << 40, filters };
        assert_eq!(told.event, Some(wire::stream_event::Event::Unsubscribe(alone)));
        assert!(ObserveMessage::new().finish().is_none());
    }

    #[test]
    fn a_client_from_disk_is_told_as_it_was() {
        let peer = peer(Version::V311);
        let (live, event) = (EventClient::Live(Arc::clone(&peer)), unsubscribed(&peer));
        let kept = KeptClient { connection: live.connection(), field: live.field() };
        let kept =
            EventClient::Kept(KeptClient { field: Arc::new(Bytes::copy_from_slice(&kept.field)), ..kept });
        let told = |client: &EventClient| {
            let mut message = ObserveMessage::new();
            message.introduce(1, client);
            (message.finish(), EventRequest::new(&event, 5, client).read::<wire::UnsubscribeEvent>())
        };
        assert_eq!(told(&live), told(&kept));
        assert!(kept.identity() == kept.identity() && live.identity() == live.identity());
        assert!(live.identity() != kept.identity());
        let mut changed = peer;
        let before = EventClient::Live(Arc::clone(&changed)).identity();
        Arc::make_mut(&mut changed).client_id = "other".into();
        assert!(before != EventClient::Live(changed).identity());
    }

    #[test]
    fn what_ended_without_notice_is_told_so() {
        let event = EncodedEvent::ended_without_notice(SystemTime::UNIX_EPOCH);
        let kept = KeptClient { connection: 1, field: Arc::new(Bytes::new()) };
        let told = EventRequest::new(&event, 3, &EventClient::Kept(kept)).read::<wire::DisconnectEvent>();
        assert_eq!((told.sequence, told.cause(), told.by()), (3, wire::Cause::Lost, wire::Party::Mproxy));
        assert_eq!(
            (told.detail.as_str(), told.traffic, told.will_suppressed),
            ("mproxy ended without notice", None, false)
        );
    }

    #[test]
    fn a_confirmation_that_is_none_is_an_error() {
        let message = wire::ObserveResponse { safe_up_to: 77 }.encode_to_vec();
        assert_eq!(read_safe_up_to(message.into()).ok(), Some(77));
        assert!(read_safe_up_to(Bytes::from_static(b"\xff\xff")).is_err());
    }
}
