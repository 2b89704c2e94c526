//! The packets that mproxy itself says: refusals, acknowledgements, goodbyes, each in the words of the version.
//!
//! A code that the standard does not allow in a packet would make the client drop its connection, so it is replaced:
//! a refusal's by 0x87 Not authorized, a failed answer's 0x88 by 0x83 Implementation specific error.

use bytes::{Bytes, BytesMut};
use mproxy_codec::EncodeError;
use mproxy_codec::packet::{Ack, Connack, Disconnect, Suback};
use mproxy_codec::property::{Properties, PropertyEdit, PropertyId, Value};
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketId, PacketType, Sender, Version};

use super::terms::Terms;
use crate::peer::Side;

impl Terms {
    /// The CONNACK that refuses.
    pub(super) fn connack(&self, reason: ReasonCode, text: Option<&str>, reference: Option<&str>) -> Bytes {
        let code = match self.version {
            Version::V5 => legal(PacketType::Connack, reason).0,
            Version::V31 | Version::V311 if reason.is_error() => reason.connack_v3(),
            Version::V31 | Version::V311 => ReasonCode::NOT_AUTHORIZED.connack_v3(),
        };
        let connack = Connack { session_present: false, reason: code, properties: Properties::EMPTY };
        self.explained(text, reference, |edit, out| connack.encode_with(self.version, edit, out))
    }

    /// The DISCONNECT that says why, in 5.0; earlier versions have none from the server.
    pub(super) fn disconnect(
        &self,
        reason: ReasonCode,
        text: Option<&str>,
        reference: Option<&str>,
    ) -> Option<Bytes> {
        if !self.version.is_v5() {
            return None;
        }
        let goodbye =
            Disconnect { reason: legal(PacketType::Disconnect, reason), properties: Properties::EMPTY };
        Some(self.explained(text, reference, |edit, out| goodbye.encode_with(self.version, edit, out)))
    }

    /// An acknowledgement of ours to `to`.
    pub(super) fn ack(
        &self,
        to: Side,
        kind: PacketType,
        id: PacketId,
        reason: ReasonCode,
        text: Option<&str>,
    ) -> Bytes {
        let reason = if self.version.is_v5() { legal(kind, reason) } else { ReasonCode::SUCCESS };
        let ack = Ack::new(kind, id, reason);
        let text = text.filter(|_| self.problem_information && to == Side::Client);
        self.explained(text, None, |edit, out| ack.encode_with(self.version, edit, out))
    }

    /// A SUBACK with these codes.
    pub(super) fn suback(
        &self,
        id: PacketId,
        properties: Properties<'_>,
        codes: &[u8],
        text: Option<&str>,
    ) -> Bytes {
        let suback = Suback { packet_id: id, properties, codes };
        let text = text.filter(|_| self.problem_information);
        self.explained_over(properties, text, None, |edit, out| suback.encode_with(self.version, edit, out))
    }

    fn explained(
        &self,
        text: Option<&str>,
        reference: Option<&str>,
        encode: impl Fn(&PropertyEdit<'_>, &mut BytesMut) -> Result<(), EncodeError>,
    ) -> Bytes {
        self.explained_over(Properties::EMPTY, text, reference, encode)
    }

    /// Encodes with reason string and server reference if they are fit to be sent and the packet stays within the
    /// client's Maximum Packet Size ([MQTT-3.2.2-19], [MQTT-3.4.2-2], …); without them otherwise.
    fn explained_over(
        &self,
        properties: Properties<'_>,
        text: Option<&str>,
        reference: Option<&str>,
        encode: impl Fn(&PropertyEdit<'_>, &mut BytesMut) -> Result<(), EncodeError>,
    ) -> Bytes {
        let mut added = Vec::new();
        if let Some(text) = text.filter(|text| fit(text)) {
            added.push((PropertyId::ReasonString, Value::Text(text)));
        }
        if let Some(reference) = reference.filter(|reference| fit(reference)) {
            added.push((PropertyId::ServerReference, Value::Text(reference)));
        }
        let mut out = BytesMut::new();
        let most = self.max_packet_to(Side::Client) as usize;
        if !added.is_empty()
            && encode(&PropertyEdit::keep(properties).with(&added), &mut out).is_ok()
            && out.len() <= most
        {
            return out.freeze();
        }
        out.clear();
        // A handful of bytes over fixed fields: there is nothing in it that could be too long.
        let encoded = encode(&PropertyEdit::keep(properties), &mut out);
        debug_assert!(encoded.is_ok(), "a bare reply did not encode: {encoded:?}");
        out.freeze()
    }
}

/// The code for a refused filter in a SUBACK of this version.
pub(super) fn suback_code(version: Version, reason: ReasonCode) -> u8 {
    match version {
        Version::V5 => legal(PacketType::Suback, reason).0,
        Version::V31 | Version::V311 => ReasonCode::UNSPECIFIED_ERROR.0,
    }
}

/// `reason`, or the nearest code that this packet may carry. Nothing but an acknowledgement says success: where a
/// refusal comes without an error code, it must not turn into a yes.
fn legal(packet: PacketType, reason: ReasonCode) -> ReasonCode {
    let may_succeed =
        matches!(packet, PacketType::Puback | PacketType::Pubrec | PacketType::Pubcomp | PacketType::Pubrel);
    if reason.valid_in(packet, Sender::Server) && (reason.is_error() || may_succeed) {
        return reason;
    }
    match reason {
        ReasonCode::SERVER_UNAVAILABLE if packet == PacketType::Disconnect => ReasonCode::UNSPECIFIED_ERROR,
        ReasonCode::SERVER_UNAVAILABLE => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
        // Acknowledgements have no word for "too large"; SUBACK, PUBACK and PUBREC have one for "too much".
        ReasonCode::PACKET_TOO_LARGE | ReasonCode::QUOTA_EXCEEDED if packet == PacketType::Unsuback => {
            ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
        }
        ReasonCode::PACKET_TOO_LARGE => ReasonCode::QUOTA_EXCEEDED,
        // [MQTT-3.2.2-8] leaves these out of CONNACK.
        ReasonCode::SERVER_SHUTTING_DOWN
        | ReasonCode::ADMINISTRATIVE_ACTION
        | ReasonCode::MAXIMUM_CONNECT_TIME
            if packet == PacketType::Connack =>
        {
            ReasonCode::SERVER_UNAVAILABLE
        }
        ReasonCode::TOPIC_ALIAS_INVALID | ReasonCode::RECEIVE_MAXIMUM_EXCEEDED
            if packet == PacketType::Connack =>
        {
            ReasonCode::PROTOCOL_ERROR
        }
        _ => ReasonCode::NOT_AUTHORIZED,
    }
}

fn fit(text: &str) -> bool {
    !text.is_empty() && text.len() <= usize::from(u16::MAX) && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_the_packet_may_not_carry_is_replaced() {
        assert_eq!(legal(PacketType::Puback, ReasonCode::SERVER_UNAVAILABLE).0, 0x83);
        assert_eq!(legal(PacketType::Puback, ReasonCode::BANNED).0, 0x87);
        assert_eq!(legal(PacketType::Connack, ReasonCode::PACKET_TOO_LARGE).0, 0x95);
        assert_eq!(legal(PacketType::Pubrec, ReasonCode::PACKET_TOO_LARGE).0, 0x97);
        assert_eq!(legal(PacketType::Suback, ReasonCode::PACKET_TOO_LARGE).0, 0x97);
        assert_eq!(legal(PacketType::Unsuback, ReasonCode::PACKET_TOO_LARGE).0, 0x83);
        assert_eq!(legal(PacketType::Unsuback, ReasonCode::QUOTA_EXCEEDED).0, 0x83);
        assert_eq!(legal(PacketType::Connack, ReasonCode::SERVER_UNAVAILABLE).0, 0x88);
        assert_eq!(legal(PacketType::Connack, ReasonCode::SERVER_SHUTTING_DOWN).0, 0x88);
        assert_eq!(legal(PacketType::Disconnect, ReasonCode::SERVER_SHUTTING_DOWN).0, 0x8B);
        assert_eq!(legal(PacketType::Suback, ReasonCode::QUOTA_EXCEEDED).0, 0x97);
        assert_eq!(suback_code(Version::V311, ReasonCode::QUOTA_EXCEEDED), 0x80);
        assert_eq!(suback_code(Version::V5, ReasonCode::SUCCESS), 0x87);
        assert_eq!(legal(PacketType::Disconnect, ReasonCode::SUCCESS).0, 0x87);
    }

    #[test]
    fn a_reason_string_that_does_not_fit_is_left_out() {
        let mut terms = Terms { version: Version::V5, ..Terms::default() };
        let long = "x".repeat(70_000);
        assert_eq!(&terms.connack(ReasonCode::BANNED, Some(&long), None)[..], [0x20, 3, 0, 0x8A, 0]);
        let with = terms.connack(ReasonCode::BANNED, Some("go"), None);
        assert_eq!(&with[..], [0x20, 8, 0, 0x8A, 5, 0x1F, 0, 2, b'g', b'o']);
        terms.problem_information = false;
        let id = PacketId::new(1).unwrap();
        let ack = terms.ack(Side::Client, PacketType::Puback, id, ReasonCode::NOT_AUTHORIZED, Some("go"));
        assert_eq!(&ack[..], [0x40, 3, 0, 1, 0x87]);
    }
}
