//! Events, as the contract tells them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use mproxy_codec::reason::ReasonCode;
use mproxy_core::event::{Ended, Event, Happening, Kind, Published, Traffic};
use mproxy_core::fault::{Deadline, Fault, Party};
use prost::Message;
use tonic::Status;

use super::call::{CallChannel, call, read};
use super::event_client::EventClient;
use super::request_body::RequestBody;
use super::{Rpc, split_filter, wire};
use crate::trace_context::TraceContext;

/// The field of every event that has its number.
const SEQUENCE: u32 = 3;

/// An event as it waits: encoded, but for its number and its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncodedEvent {
    pub(crate) kind: Kind,
    pub(crate) fields: Bytes,
}

impl EncodedEvent {
    /// Of what happened at this time.
    pub(crate) fn new(event: &Event, time: SystemTime) -> Self {
        let mut fields = BytesMut::new();
        encode_fields(event, time, &mut fields);
        // What is held is what was written.
        Self { kind: event.what.kind(), fields: Bytes::copy_from_slice(&fields) }
    }

    /// The end of a connection whose mproxy was not there to see it.
    pub(crate) fn ended_without_notice(noticed: SystemTime) -> Self {
        let fields = wire::DisconnectEvent {
            client: None,
            time: Some(noticed.into()),
            sequence: 0,
            cause: wire::Cause::Lost.into(),
            by: wire::Party::Mproxy.into(),
            reason_code: ReasonCode::UNSPECIFIED_ERROR.0.into(),
            detail: "mproxy ended without notice".to_owned(),
            // Whoever had a will was cut off from its broker.
            will_suppressed: false,
            traffic: None,
        };
        Self { kind: Kind::Disconnect, fields: fields.encode_to_vec().into() }
    }
}

/// Bytes of the field with the number.
pub(super) fn sequence_len(sequence: u64) -> usize {
    prost::encoding::uint64::encoded_len(SEQUENCE, &sequence)
}

/// Writes the field with the number.
pub(super) fn encode_sequence(sequence: u64, out: &mut BytesMut) {
    prost::encoding::uint64::encode(SEQUENCE, &sequence, out);
}

/// An event for a call of its own.
#[derive(Clone)]
pub(crate) struct EventRequest {
    body: RequestBody,
    rpc: Rpc,
    context: Option<Arc<TraceContext>>,
}

impl EventRequest {
    pub(crate) fn new(event: &EncodedEvent, sequence: u64, client: &EventClient) -> Self {
        let body = RequestBody::encode_with(client.field(), |out| {
            out.extend_from_slice(&event.fields);
            encode_sequence(sequence, out);
        });
        Self { body, rpc: event.kind.into(), context: None }
    }

    /// The same, with the trace context that the service is told.
    pub(crate) fn with_context(self, context: Option<Arc<TraceContext>>) -> Self {
        Self { context, ..self }
    }

    pub(crate) const fn rpc(&self) -> Rpc {
        self.rpc
    }

    pub(super) async fn send(self, channel: CallChannel, within: Duration) -> Result<(), Status> {
        let Self { body, rpc, context } = self;
        let answer = call(rpc.path(), body, channel, within, context).await?;
        // Nothing is in it, but an answer that is no `Told` comes from something that is no hook service.
        read::<wire::Told>(answer).map(drop)
    }

    #[cfg(test)]
    pub(super) fn read<M: Message + Default>(&self) -> M {
        self.body.read()
    }
}

/// Its fields but for number and client; filters one by one, as there may be thousands.
fn encode_fields(event: &Event, time: SystemTime, out: &mut BytesMut) {
    /// In SubscribeEvent and UnsubscribeEvent.
    const FILTERS: u32 = 4;
    // The number is given later; 0 is not written.
    let (client, time, sequence, peer) = (None, Some(time.into()), 0, &event.peer);
    match &event.what {
        Happening::Connect { session_present } => wire::ConnectEvent {
            client,
            time,
            sequence,
            session_present: *session_present,
            clean_start: peer.clean_start,
            keep_alive: peer.keep_alive.into(),
        }
        .encode_raw(out),
        Happening::Publish(published) => {
            let Published { topic, qos, retain, size, payload } = &**published;
            wire::PublishEvent {
                client,
                time,
                sequence,
                topic: (&**topic).into(),
                qos: *qos as u32,
                retain: *retain,
                payload: payload.clone(),
                payload_size: *size,
            }
            .encode_raw(out);
        }
        Happening::Subscribe { filters } => {
            wire::SubscribeEvent { client, time, sequence, filters: Vec::new() }.encode_raw(out);
            for (filter, code) in filters {
                prost::encoding::message::encode(FILTERS, &granted_filter(filter, *code), out);
            }
        }
        Happening::Unsubscribe { filters } => {
            wire::UnsubscribeEvent { client, time, sequence, filters: Vec::new() }.encode_raw(out);
            for filter in filters {
                prost::encoding::message::encode(FILTERS, &ended_filter(filter), out);
            }
        }
        Happening::Disconnect(ended) => {
            let Ended { fault, will_suppressed, traffic } = &**ended;
            wire::DisconnectEvent {
                client,
                time,
                sequence,
                cause: cause(fault).into(),
                by: party(fault.by()).into(),
                reason_code: fault.reason().0.into(),
                detail: fault.to_string(),
                will_suppressed: *will_suppressed,
                traffic: Some(self::traffic(*traffic)),
            }
            .encode_raw(out);
        }
    }
}

fn granted_filter(filter: &str, code: u8) -> wire::GrantedFilter {
    let (filter, share_group) = split_filter(filter);
    wire::GrantedFilter { filter, share_group, reason_code: code.into() }
}

fn ended_filter(filter: &str) -> wire::EndedFilter {
    let (filter, share_group) = split_filter(filter);
    wire::EndedFilter { filter, share_group }
}

const fn traffic(traffic: Traffic) -> wire::Traffic {
    let Traffic { client_packets, client_bytes, broker_packets, broker_bytes } = traffic;
    wire::Traffic { client_packets, client_bytes, broker_packets, broker_bytes }
}

const fn party(whose: Party) -> wire::Party {
    match whose {
        Party::Client => wire::Party::Client,
        Party::Broker => wire::Party::Broker,
        // The contract has one word for both.
        Party::Policy | Party::Administrator => wire::Party::Policy,
        Party::Mproxy => wire::Party::Mproxy,
        Party::Unknown => wire::Party::Unspecified,
    }
}

const fn cause(fault: &Fault) -> wire::Cause {
    match fault {
        Fault::Left { .. } => wire::Cause::Left,
        Fault::Lost { .. } => wire::Cause::Lost,
        Fault::BrokerLeft { .. } => wire::Cause::BrokerLeft,
        Fault::BrokerRefused { .. } => wire::Cause::BrokerRefused,
        Fault::Malformed { .. } => wire::Cause::Malformed,
        Fault::Protocol { .. } => wire::Cause::ProtocolError,
        Fault::TooLate(Deadline::Grant | Deadline::Token) => wire::Cause::Expired,
        // A client that does not read is late, too; it has no cause of its own in the contract.
        Fault::TooLate(_) | Fault::Unread | Fault::RecallUnread => wire::Cause::TooLate,
        Fault::Refused { .. } => wire::Cause::Refused,
        Fault::RenewalRefused { .. } => wire::Cause::RenewalRefused,
        Fault::PolicyFailed { .. } => wire::Cause::PolicyFailed,
        Fault::PolicyUnusable { .. } => wire::Cause::PolicyUnusable,
        Fault::Overloaded { .. } => wire::Cause::Overloaded,
        Fault::Unreachable(_) => wire::Cause::Unreachable,
        // Told of sessions that were open: these never were.
        Fault::ClosedBeforeConnack { .. } => wire::Cause::Lost,
        Fault::Kicked { .. } => wire::Cause::Kicked,
        Fault::OverBudget { .. } => wire::Cause::ProtocolError,
        Fault::RateExceeded { .. } => wire::Cause::RateExceeded,
        Fault::Drained { .. } => wire::Cause::Drained,
        // The contract's word for a cause that it does not know yet; the detail tells it.
        _ => wire::Cause::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_grant_ended_is_told_by_its_own_cause() {
        for (fault, expected) in [
            (Fault::TooLate(Deadline::Grant), wire::Cause::Expired),
            (Fault::TooLate(Deadline::Token), wire::Cause::Expired),
            (Fault::TooLate(Deadline::Connack), wire::Cause::TooLate),
            (Fault::RenewalRefused { refusal: Box::default() }, wire::Cause::RenewalRefused),
            (
                Fault::RateExceeded { packet: mproxy_codec::PacketType::Publish, limit: None },
                wire::Cause::RateExceeded,
            ),
        ] {
            assert_eq!(cause(&fault), expected, "{fault}");
            assert!(
                fault.label() == "too_late"
                    || expected.as_str_name().ends_with(&fault.label().to_uppercase())
            );
        }
    }
}
