//! A packet as a tap shows it. Whatever comes from outside is cut as in the log; a payload is shown only as far as the tap
//! asked for it, and there is no field for a password.

use std::borrow::Cow;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mproxy_codec::types::QoS;
use mproxy_core::meter::{PacketDetail, PacketFate, PacketTrace, TracedConnect};
use mproxy_core::peer::Side;
use serde::Serialize;

use super::super::decisions::cut;
use super::super::field_lengths::LONGEST_VALUE;
use crate::timestamp::Timestamp;

/// Filters or codes of one packet that are shown.
const SHOWN: usize = 64;

/// What does not exist is absent.
#[derive(Debug, Default, Serialize)]
pub(super) struct TappedPacket<'a> {
    time: Option<Timestamp>,
    connection_id: String,
    client_id: Cow<'a, str>,
    listener: &'a str,
    from: &'static str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    packet_id: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    broker_topic: Option<Cow<'a, str>>,
    #[serde(flatten)]
    detail: TappedDetail<'a>,
    size: usize,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_with: Option<u8>,
}

/// What packets of one type have and others have not.
#[derive(Debug, Default, Serialize)]
struct TappedDetail<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dup: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_truncated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filters: Option<Vec<TappedFilter<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    more_filters: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason_codes: Option<&'a [u8]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    more_reason_codes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_present: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_client_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clean_start: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_alive: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    will_topic: Option<Cow<'a, str>>,
}

#[derive(Debug, Serialize)]
struct TappedFilter<'a> {
    filter: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<u8>,
}

/// No longer than the log has it.
fn name(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST_VALUE { text.into() } else { cut(text, LONGEST_VALUE).into_string().into() }
}

impl<'a> TappedPacket<'a> {
    /// The packet, with up to so many bytes of its payload; 0: with none.
    pub(super) fn of(packet: &PacketTrace<'a>, payload: usize) -> Self {
        let origin = &packet.peer.origin;
        // A topic is written as the client knows it, whoever sent the packet.
        let (topic, broker_topic) = match (packet.from, packet.sent_topic) {
            (Side::Broker, Some(sent)) => (Some(sent), packet.topic),
            (Side::Client, sent) => (packet.topic, sent),
            (Side::Broker, None) => (packet.topic, None),
        };
        let outcome = match (packet.fate, packet.refusal) {
            (PacketFate::Answered | PacketFate::Dropped, Some(_)) => "refused",
            (fate, _) => fate.name(),
        };
        Self {
            time: Some(Timestamp(SystemTime::now())),
            connection_id: origin.connection_id.to_string(),
            client_id: name(&packet.peer.client_id),
            listener: &origin.listener,
            from: packet.from.name(),
            r#type: packet.kind.name(),
            packet_id: packet.id.map(|id| id.get()),
            topic: topic.map(name),
            broker_topic: broker_topic.map(name),
            detail: TappedDetail::of(&packet.detail, payload),
            size: packet.size,
            outcome,
            refused_by: packet.refusal.map(|refusal| refusal.source.name()),
            refused_with: packet.refusal.map(|refusal| refusal.reason.0),
        }
    }

    pub(super) fn to_json(&self) -> String {
        // Texts, numbers and lists of them always are JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl<'a> TappedDetail<'a> {
    fn of(detail: &PacketDetail<'a>, payload: usize) -> Self {
        match detail {
            PacketDetail::None => Self::default(),
            PacketDetail::Connect(connect) => Self::connect(connect),
            PacketDetail::Connack { session_present, reason } => Self {
                session_present: Some(*session_present),
                reason_code: Some(*reason),
                ..Self::default()
            },
            PacketDetail::Publish { dup, qos, retain, payload: here, payload_size } => Self {
                qos: Some(*qos as u8),
                retain: Some(*retain),
                dup: Some(*dup),
                payload_size: Some(*payload_size),
                ..Self::payload(here, *payload_size, payload)
            },
            PacketDetail::Subscribe(subscribe) => {
                let filters = subscribe.filters();
                let rest = filters.len().saturating_sub(SHOWN);
                Self::filters(filters.map(|one| (one.filter.as_str(), Some(one.qos))), rest)
            }
            PacketDetail::Unsubscribe(unsubscribe) => {
                let filters = unsubscribe.filters();
                let rest = filters.len().saturating_sub(SHOWN);
                Self::filters(filters.map(|filter| (filter.as_str(), None)), rest)
            }
            PacketDetail::Codes(codes) => Self {
                reason_codes: Some(codes.get(..SHOWN).unwrap_or(codes)),
                more_reason_codes: codes.len().checked_sub(SHOWN).filter(|more| *more > 0),
                ..Self::default()
            },
            PacketDetail::Reason(reason) => Self { reason_code: Some(reason.0), ..Self::default() },
        }
    }

    fn connect(connect: &TracedConnect<'a>) -> Self {
        Self {
            protocol: Some(connect.version.to_string()),
            requested_client_id: Some(name(connect.client_id)),
            username: connect.username.map(name),
            clean_start: Some(connect.clean_start),
            keep_alive: Some(connect.keep_alive),
            will_topic: connect.will_topic.map(name),
            ..Self::default()
        }
    }

    fn filters(filters: impl Iterator<Item = (&'a str, Option<QoS>)>, rest: usize) -> Self {
        let shown = |(filter, qos): (&'a str, Option<QoS>)| TappedFilter {
            filter: name(filter),
            qos: qos.map(|qos| qos as u8),
        };
        Self {
            filters: Some(filters.take(SHOWN).map(shown).collect()),
            more_filters: (rest > 0).then_some(rest),
            ..Self::default()
        }
    }

    /// Up to `most` bytes of a payload, of which `here` has arrived.
    fn payload(here: &'a [u8], size: usize, most: usize) -> Self {
        if most == 0 {
            return Self::default();
        }
        let shown = here.get(..most).unwrap_or(here);
        let is_cut = shown.len() < size;
        let (text, base64) = match std::str::from_utf8(shown) {
            Ok(text) => (Some(text), None),
            // Cut within a character.
            Err(error) if is_cut && error.error_len().is_none() => {
                (std::str::from_utf8(&shown[..error.valid_up_to()]).ok(), None)
            }
            Err(_) => (None, Some(STANDARD.encode(shown))),
        };
        Self {
            payload: text.map(Cow::Borrowed),
            payload_base64: base64,
            payload_truncated: Some(is_cut),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(here: &[u8], size: usize, most: usize) -> String {
        serde_json::to_string(&TappedDetail::payload(here, size, most)).expect("JSON")
    }

    #[test]
    fn a_payload_is_shown_only_as_far_as_it_was_asked_for() {
        assert_eq!(payload(b"secret", 6, 0), "{}");
        assert_eq!(payload(b"secret", 6, 3), r#"{"payload":"sec","payload_truncated":true}"#);
        assert_eq!(payload(b"secret", 6, 6), r#"{"payload":"secret","payload_truncated":false}"#);
        assert_eq!(payload(b"sec", 6, 100), r#"{"payload":"sec","payload_truncated":true}"#);
        assert_eq!(payload(b"", 0, 100), r#"{"payload":"","payload_truncated":false}"#);
    }

    #[test]
    fn what_is_no_text_is_base64() {
        assert_eq!(payload(b"\xff\x00", 2, 9), r#"{"payload_base64":"/wA=","payload_truncated":false}"#);
        let cut = "aé".as_bytes();
        assert_eq!(payload(cut, 3, 2), r#"{"payload":"a","payload_truncated":true}"#, "within a character");
        assert_eq!(payload(&cut[..2], 2, 9), r#"{"payload_base64":"YcM=","payload_truncated":false}"#);
    }
}
