//! The packets that mproxy itself says: refusals, acknowledgements, goodbyes, each in the words of the version, and within
//! its receiver's Maximum Packet Size [MQTT-3.1.2-24]: what explains is left out first, and what is too large all the same
//! is not sent.
//!
//! A code that the standard does not allow in a packet would make the client drop its connection, so it is replaced:
//! a refusal's by 0x87 Not authorized, a failed answer's 0x88 by 0x83 Implementation specific error.

use bytes::{Bytes, BytesMut};
use mproxy_codec::EncodeError;
use mproxy_codec::packet::{Ack, Auth, Connack, Disconnect, Suback};
use mproxy_codec::property::{Properties, PropertyEdit, PropertyId, Value};
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketId, PacketType, Sender, Version};

use super::terms::Terms;
use crate::fault::Fault;
use crate::peer::Side;

impl Terms {
    /// The CONNACK that refuses.
    pub(super) fn connack(
        &self,
        reason: ReasonCode,
        text: Option<&str>,
        reference: Option<&str>,
    ) -> Option<Bytes> {
        let code = match self.version {
            Version::V5 => legal_code(PacketType::Connack, reason).0,
            Version::V31 | Version::V311 if reason.is_error() => reason.connack_v3(),
            // A code that is no error must not become return code 0, which accepts.
            Version::V31 | Version::V311 => ReasonCode::NOT_AUTHORIZED.connack_v3(),
        };
        let connack = Connack { session_present: false, reason: code, properties: Properties::EMPTY };
        self.encode_explained(Side::Client, text, reference.filter(|_| names_server(code)), |edit, out| {
            connack.encode_with(self.version, edit, out)
        })
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
        let reason = legal_code(PacketType::Disconnect, reason);
        let goodbye = Disconnect { reason, properties: Properties::EMPTY };
        self.encode_explained(
            Side::Client,
            text,
            reference.filter(|_| names_server(reason.0)),
            |edit, out| goodbye.encode_with(self.version, edit, out),
        )
    }

    /// An AUTH to the client. `None`: it is too large for the client, even without the text.
    pub(super) fn auth_packet(
        &self,
        reason: ReasonCode,
        method: &str,
        data: Option<&[u8]>,
        text: Option<&str>,
    ) -> Option<Bytes> {
        let auth = Auth { reason, properties: Properties::EMPTY };
        // [MQTT-4.12.0-5]
        let mut added = vec![(PropertyId::AuthenticationMethod, Value::Text(method))];
        added.extend(data.map(|data| (PropertyId::AuthenticationData, Value::Binary(data))));
        let must = added.len();
        let text = text.filter(|text| self.problem_information && is_fit(text));
        added.extend(text.map(|text| (PropertyId::ReasonString, Value::Text(text))));
        let mut out = BytesMut::new();
        // [MQTT-3.15.2-2]
        for added in [&added[..], &added[..must]] {
            out.clear();
            let edit = PropertyEdit::only(added);
            if auth.encode_with(&edit, &mut out).is_ok() && out.len() <= self.client_max_packet as usize {
                return Some(out.freeze());
            }
        }
        None
    }

    /// Whether a CONNACK can bring this to the client, whatever else stands in it.
    pub(super) fn connack_fits(&self, method: &str, data: Option<&[u8]>) -> bool {
        let mut added = vec![(PropertyId::AuthenticationMethod, Value::Text(method))];
        added.extend(data.map(|data| (PropertyId::AuthenticationData, Value::Binary(data))));
        let connack = Connack { session_present: false, reason: 0, properties: Properties::EMPTY };
        let mut out = BytesMut::new();
        let encoded = connack.encode_with(self.version, &PropertyEdit::only(&added), &mut out);
        encoded.is_ok() && out.len() <= self.client_max_packet as usize
    }

    /// An acknowledgement of ours to `to`.
    pub(super) fn ack(
        &self,
        to: Side,
        kind: PacketType,
        id: PacketId,
        reason: ReasonCode,
        text: Option<&str>,
    ) -> Option<Bytes> {
        // 3.x acknowledgements have no code: a refusal looks like a success there, or the connection ends.
        let reason = if self.version.is_v5() { legal_code(kind, reason) } else { ReasonCode::SUCCESS };
        let ack = Ack::new(kind, id, reason);
        let text = text.filter(|_| self.problem_information && to == Side::Client);
        self.encode_explained(to, text, None, |edit, out| ack.encode_with(self.version, edit, out))
    }

    /// A SUBACK with these codes.
    pub(super) fn suback(
        &self,
        id: PacketId,
        properties: Properties<'_>,
        codes: &[u8],
        text: Option<&str>,
    ) -> Option<Bytes> {
        let suback = Suback { packet_id: id, properties, codes };
        let text = text.filter(|_| self.problem_information);
        self.encode_over(Side::Client, properties, text, None, |edit, out| {
            suback.encode_with(self.version, edit, out)
        })
    }

    fn encode_explained(
        &self,
        to: Side,
        text: Option<&str>,
        reference: Option<&str>,
        encode: impl Fn(&PropertyEdit<'_>, &mut BytesMut) -> Result<(), EncodeError>,
    ) -> Option<Bytes> {
        self.encode_over(to, Properties::EMPTY, text, reference, encode)
    }

    /// Encodes with reason string and server reference if they are fit to be sent and the packet stays within the
    /// receiver's Maximum Packet Size ([MQTT-3.2.2-19], [MQTT-3.4.2-2], …); without them otherwise, and then without
    /// those that the broker gave. `None`: it is too large even so.
    fn encode_over(
        &self,
        to: Side,
        properties: Properties<'_>,
        text: Option<&str>,
        reference: Option<&str>,
        encode: impl Fn(&PropertyEdit<'_>, &mut BytesMut) -> Result<(), EncodeError>,
    ) -> Option<Bytes> {
        let mut added = Vec::new();
        if let Some(text) = text.filter(|text| is_fit(text)) {
            added.push((PropertyId::ReasonString, Value::Text(text)));
        }
        if let Some(reference) = reference.filter(|reference| is_fit(reference)) {
            added.push((PropertyId::ServerReference, Value::Text(reference)));
        }
        let mut out = BytesMut::new();
        let most = self.max_packet_to(to) as usize;
        let kept = PropertyEdit::keep(properties);
        // What explains goes first; an answer without words is better than none.
        for edit in [kept.with(&added), kept, without_explanation(properties)] {
            out.clear();
            if encode(&edit, &mut out).is_ok() && out.len() <= most {
                return Some(out.freeze());
            }
        }
        None
    }
}

/// Whether a packet with this code may name another server (3.2.2.3.16, 3.14.2.2.5).
const fn names_server(code: u8) -> bool {
    matches!(ReasonCode(code), ReasonCode::USE_ANOTHER_SERVER | ReasonCode::SERVER_MOVED)
}

/// Without what may be left out where a packet gets too large ([MQTT-3.2.2-19], [MQTT-3.2.2-20], …).
pub(super) const fn without_explanation(properties: Properties<'_>) -> PropertyEdit<'_> {
    PropertyEdit::keep(properties).without(PropertyId::ReasonString).without(PropertyId::UserProperty)
}

/// The fault of a side that takes less than what it has to be told.
pub(super) const fn too_large_for(side: Side, packet: PacketType) -> Fault {
    Fault::Protocol {
        side,
        packet,
        what: "does not fit into its own Maximum Packet Size",
        rule: "MQTT-3.1.2-24",
        reason: ReasonCode::PACKET_TOO_LARGE,
    }
}

/// The code for a refused filter in a SUBACK of this version.
pub(super) fn suback_code(version: Version, reason: ReasonCode) -> u8 {
    match version {
        Version::V5 => legal_code(PacketType::Suback, reason).0,
        // 3.1 has no code for it. There 0x80 is at least none of the QoS that could have been granted.
        Version::V31 | Version::V311 => ReasonCode::UNSPECIFIED_ERROR.0,
    }
}

/// `reason`, or the nearest code that this packet may carry. Nothing but an acknowledgement says success: where a
/// refusal comes without an error code, it must not turn into a yes.
#[must_use]
pub fn legal_code(packet: PacketType, reason: ReasonCode) -> ReasonCode {
    let may_succeed =
        matches!(packet, PacketType::Puback | PacketType::Pubrec | PacketType::Pubcomp | PacketType::Pubrel);
    if reason.valid_in(packet, Sender::Server) && (reason.is_error() || may_succeed) {
        return reason;
    }
    match reason {
        ReasonCode::SERVER_UNAVAILABLE if packet == PacketType::Disconnect => ReasonCode::UNSPECIFIED_ERROR,
        // A failed answer: not 0x87, so that a client can tell it from a refusal (ADR 0003).
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

pub(super) fn is_fit(text: &str) -> bool {
    !text.is_empty() && text.len() <= usize::from(u16::MAX) && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_the_packet_may_not_carry_is_replaced() {
        assert_eq!(legal_code(PacketType::Puback, ReasonCode::SERVER_UNAVAILABLE).0, 0x83);
        assert_eq!(legal_code(PacketType::Puback, ReasonCode::BANNED).0, 0x87);
        assert_eq!(legal_code(PacketType::Connack, ReasonCode::PACKET_TOO_LARGE).0, 0x95);
        assert_eq!(legal_code(PacketType::Pubrec, ReasonCode::PACKET_TOO_LARGE).0, 0x97);
        assert_eq!(legal_code(PacketType::Suback, ReasonCode::PACKET_TOO_LARGE).0, 0x97);
        assert_eq!(legal_code(PacketType::Unsuback, ReasonCode::PACKET_TOO_LARGE).0, 0x83);
        assert_eq!(legal_code(PacketType::Unsuback, ReasonCode::QUOTA_EXCEEDED).0, 0x83);
        assert_eq!(legal_code(PacketType::Connack, ReasonCode::SERVER_UNAVAILABLE).0, 0x88);
        assert_eq!(legal_code(PacketType::Connack, ReasonCode::SERVER_SHUTTING_DOWN).0, 0x88);
        assert_eq!(legal_code(PacketType::Disconnect, ReasonCode::SERVER_SHUTTING_DOWN).0, 0x8B);
        assert_eq!(legal_code(PacketType::Suback, ReasonCode::QUOTA_EXCEEDED).0, 0x97);
        assert_eq!(suback_code(Version::V311, ReasonCode::QUOTA_EXCEEDED), 0x80);
        assert_eq!(suback_code(Version::V5, ReasonCode::SUCCESS), 0x87);
        assert_eq!(legal_code(PacketType::Disconnect, ReasonCode::SUCCESS).0, 0x87);
    }

    #[test]
    fn a_reason_string_that_does_not_fit_is_left_out() {
        let mut terms = Terms { version: Version::V5, ..Terms::default() };
        let long = "x".repeat(70_000);
        assert_eq!(terms.connack(ReasonCode::BANNED, Some(&long), None).unwrap()[..], [0x20, 3, 0, 0x8A, 0]);
        let with = terms.connack(ReasonCode::BANNED, Some("go"), None).unwrap();
        assert_eq!(&with[..], [0x20, 8, 0, 0x8A, 5, 0x1F, 0, 2, b'g', b'o']);
        terms.problem_information = false;
        let id = PacketId::new(1).unwrap();
        let ack = terms.ack(Side::Client, PacketType::Puback, id, ReasonCode::NOT_AUTHORIZED, Some("go"));
        assert_eq!(ack.unwrap()[..], [0x40, 3, 0, 1, 0x87]);
    }

    #[test]
    fn nothing_of_ours_is_over_the_receiver_s_maximum_packet_size() {
        let id = PacketId::new(1).unwrap();
        for most in 1..40 {
            let terms = Terms {
                version: Version::V5,
                client_max_packet: most,
                broker_max_packet: most,
                ..Terms::default()
            };
            let no = ReasonCode::NOT_AUTHORIZED;
            let raw = [0x1F, 0, 1, b'r', 0x26, 0, 1, b'k', 0, 1, b'v'];
            let place = mproxy_codec::property::Place::Packet(PacketType::Suback);
            let theirs = Properties::check(&raw, place, Sender::Server).unwrap();
            for (packet, least) in [
                (terms.connack(no, Some("why"), Some("there")), 5),
                (terms.disconnect(no, Some("why"), Some("there")), 3),
                (terms.ack(Side::Client, PacketType::Puback, id, no, Some("why")), 5),
                (terms.ack(Side::Client, PacketType::Pubcomp, id, ReasonCode::SUCCESS, None), 4),
                (terms.ack(Side::Broker, PacketType::Pubrec, id, ReasonCode::SUCCESS, None), 4),
                (terms.suback(id, theirs, &[0x87, 0], Some("why")), 7),
            ] {
                match packet {
                    Some(bytes) => assert!(bytes.len() <= most as usize, "{bytes:?} over {most}"),
                    None => assert!(most < least, "{most} is enough for {least}"),
                }
            }
        }
    }
}
