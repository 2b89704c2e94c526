//! The same bytes through this crate and through three others, and an explicit list of the disagreements: which
//! of them take what we refuse, what of ours they refuse, and which side the text of the standard is on.
//!
//! - `mqtt-proto` 0.4 and `rmqtt-codec` 0.3: 3.1, 3.1.1 and 5.0.
//! - `mqtt-protocol` 0.12: 3.1 and 3.1.1 only.
//!
//! None of the three knows who sent a packet, so what only the sender makes wrong is never theirs to see.
//! The cases are generated from a fixed seed: a disagreement that nobody looked at fails this test, not some
//! unrelated change of next month. `ORACLE_CASES` asks for more of them.

#[path = "support/packets.rs"]
mod packets;

use bytes::BytesMut;
use mproxy_codec::{
    Connack, Connect, Disconnect, ErrorKind, Frame, Malformed, Packet, PacketType, Properties, PropertyId,
    Publish, ReasonCode, Sender, Value, Version, Will,
};
use packets::{any_valid, damage, damaged};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::io::Cursor;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Oracle {
    MqttProto,
    Rmqtt,
    MqttProtocol,
}
use Oracle::{MqttProto, MqttProtocol, Rmqtt};

const ALL: &[Oracle] = &[MqttProto, Rmqtt, MqttProtocol];

impl Oracle {
    fn speaks(self, version: Version) -> bool {
        self != MqttProtocol || !version.is_v5()
    }

    /// Reads one packet and writes it again. `None`: it refuses the bytes.
    fn again(self, bytes: &[u8], version: Version) -> Option<Vec<u8>> {
        match (self, version.is_v5()) {
            (MqttProto, true) => {
                Some(mqtt_proto::v5::Packet::decode(bytes).ok()??.encode().ok()?.as_ref().to_vec())
            }
            (MqttProto, false) => {
                Some(mqtt_proto::v3::Packet::decode(bytes).ok()??.encode().ok()?.as_ref().to_vec())
            }
            (Rmqtt, v5) => rmqtt(bytes, v5),
            (MqttProtocol, _) => {
                use mqtt::{Decodable, Encodable};
                let packet = mqtt::packet::VariablePacket::decode(&mut Cursor::new(bytes)).ok()?;
                let mut out = Vec::new();
                packet.encode(&mut out).ok()?;
                Some(out)
            }
        }
    }
}

fn rmqtt(bytes: &[u8], v5: bool) -> Option<Vec<u8>> {
    use tokio_util::codec::{Decoder, Encoder};
    let (mut bytes, mut out) = (BytesMut::from(bytes), BytesMut::new());
    if v5 {
        let (packet, _) = rmqtt_codec::v5::Codec::new(0, 0).decode(&mut bytes).ok()??;
        rmqtt_codec::v5::Codec::new(0, 0).encode(packet, &mut out).ok()?;
    } else {
        let (packet, _) = rmqtt_codec::v3::Codec::new(0).decode(&mut bytes).ok()??;
        rmqtt_codec::v3::Codec::new(0).encode(packet, &mut out).ok()?;
    }
    Some(out.to_vec())
}

fn ours(bytes: &[u8], from: Sender, version: Version) -> Result<Packet<'_>, Malformed> {
    let overrun = Malformed { kind: ErrorKind::Overrun, packet: None, offset: 0 };
    let (frame, rest) = Frame::split(bytes, from, Some(version))?.ok_or(overrun)?;
    assert!(rest.is_empty());
    Packet::parse(&frame, from, version)
}

/// What they take although the standard forbids it. The standard is on our side in every row.
const THEY_TAKE: &[(ErrorKind, &[Oracle], &str)] = &[
    (ErrorKind::WrongDirection, ALL, "they do not know the sender"),
    (ErrorKind::WrongVersion, ALL, "they do not know the sender: DISCONNECT of a server before 5.0"),
    (ErrorKind::SubscriptionIdFromClient, ALL, "they do not know the sender"),
    (ErrorKind::SessionExpiryFromServer, ALL, "they do not know the sender"),
    (ErrorKind::ServerReferenceFromClient, ALL, "they do not know the sender"),
    (ErrorKind::ReasonCodeUnknown, &[MqttProto, Rmqtt], "they do not know the sender: AUTH, DISCONNECT"),
    (ErrorKind::TooLong, ALL, "bytes in PINGREQ, after an acknowledgement, in DISCONNECT before 5.0"),
    (ErrorKind::TooShort, ALL, "SUBACK without a code"),
    (ErrorKind::NoCode, &[MqttProto, Rmqtt], "SUBACK and UNSUBACK without a code"),
    (ErrorKind::TrailingBytes, ALL, "bytes after the last field"),
    (ErrorKind::TextHoldsNull, ALL, "U+0000 in topics, user names and properties"),
    (ErrorKind::IntegerNotMinimal, ALL, "lengths in more bytes than they need"),
    (ErrorKind::TopicNameEmpty, ALL, "an empty topic before 5.0, or with no alias for it"),
    (ErrorKind::PacketIdZero, &[MqttProtocol], "packet identifier 0"),
    (ErrorKind::ClientIdEmpty, ALL, "an empty client identifier for a session that is kept"),
    (ErrorKind::WillQosThree, &[MqttProtocol], "Will QoS 3"),
    (ErrorKind::WillQosWithoutWill, ALL, "Will QoS without a will"),
    (ErrorKind::WillRetainWithoutWill, ALL, "Will Retain without a will"),
    (ErrorKind::ResponseTopicWildcard, &[Rmqtt], "wildcards in the Response Topic"),
    (ErrorKind::ResponseTopicEmpty, &[Rmqtt], "an empty Response Topic"),
    (ErrorKind::TopicFilterPlus, &[MqttProto, Rmqtt], "+ beside other characters"),
    (ErrorKind::TopicFilterHash, &[Rmqtt], "# beside other characters, or in the middle"),
    (ErrorKind::TopicNameWildcard, &[Rmqtt], "wildcards in a topic name"),
    (ErrorKind::ShareName, ALL, "wildcards in a share name"),
    (ErrorKind::ShareFilter, ALL, "a share of nothing, or of a share"),
    (ErrorKind::SubscribeReserved, &[Rmqtt], "reserved options of SUBSCRIBE"),
    (ErrorKind::AuthenticationMethodMissing, &[MqttProto, Rmqtt], "AUTH without a method"),
    (ErrorKind::PasswordWithoutUserName, ALL, "a password without user name before 5.0"),
    (ErrorKind::DupWithoutQos, ALL, "DUP with QoS 0"),
    (ErrorKind::NoLocalOnShare, &[MqttProto, Rmqtt], "No Local on a shared subscription"),
    (ErrorKind::PropertyNotBoolean, &[Rmqtt], "Maximum QoS 2"),
    (ErrorKind::UnsupportedVersion, &[Rmqtt, MqttProtocol], "MQIsdp with level 4"),
    (ErrorKind::NoTopicFilter, &[MqttProtocol], "SUBSCRIBE and UNSUBSCRIBE of nothing"),
    (ErrorKind::Overrun, &[MqttProtocol], "a last filter that is cut"),
    (ErrorKind::ProtocolName, &[MqttProtocol], "any protocol name"),
];

/// Why they refuse a packet that we take, or `None` if nobody looked at that yet.
fn why_they_refuse(
    oracle: Oracle,
    packet: &Packet<'_>,
    bytes: &[u8],
    from: Sender,
    version: Version,
) -> Option<&'static str> {
    let canonical = packet.kind().first_byte() & 0x0F;
    if version == Version::V31 && bytes[0] & 0x0F != canonical && packet.kind() != PacketType::Publish {
        return Some("3.1 says that these flags are not used, and repeats requests with DUP");
    }
    if from == Sender::Server && has_unlisted_code(packet, version) {
        return Some("the standard is on their side; we let a server's codes pass, they are its own affair");
    }
    match (oracle, packet) {
        (_, Packet::Connack(_)) if version == Version::V31 => Some("3.1 does not use the first byte"),
        (_, Packet::Connect(_)) if version == Version::V31 => Some(
            "3.1 does not use the reserved flag, disregards the flags of a will that is not there, and lets \
                the announced user name be missing",
        ),
        (_, Packet::Connect(Connect { bridge: true, .. })) => {
            Some("the standard does not know the bridge bit; Mosquitto's bridges send it")
        }
        (_, Packet::Auth(auth)) if !auth.properties.contains(PropertyId::AuthenticationMethod) => {
            Some("the standard is on their side; we let a server's pass")
        }
        (MqttProto, Packet::Publish(publish))
            if from == Sender::Server && several_subscriptions(publish.properties) =>
        {
            Some("the standard is on our side: a server sends one for each subscription that matched (3.3.4)")
        }
        (_, Packet::Publish(Publish { properties, .. }))
        | (_, Packet::Connect(Connect { will: Some(Will { properties, .. }), .. }))
            if properties.byte(PropertyId::PayloadFormatIndicator) > Some(1) =>
        {
            Some("no MUST stands behind 0 and 1 of the Payload Format Indicator (3.3.2.3.2)")
        }
        (MqttProto, Packet::Publish(publish)) if is_text(publish.properties) => Some(
            "both may be: a receiver MAY validate that the payload is the text it says it is (3.3.2.3.2)",
        ),
        (MqttProto, Packet::Connect(Connect { will: Some(will), .. })) if is_text(will.properties) => {
            Some("both may be: see PUBLISH")
        }
        (MqttProtocol, Packet::Connect(Connect { password: Some(password), .. }))
            if str::from_utf8(password).is_err() =>
        {
            Some("the standard is on our side: a password is binary (3.1.3.5)")
        }
        _ => None,
    }
}

fn is_text(properties: Properties<'_>) -> bool {
    properties.byte(PropertyId::PayloadFormatIndicator) == Some(1)
}

fn several_subscriptions(properties: Properties<'_>) -> bool {
    properties.iter().filter(|(id, _)| *id == PropertyId::SubscriptionIdentifier).count() > 1
}

fn has_unlisted_code(packet: &Packet<'_>, version: Version) -> bool {
    let unlisted = |code| !ReasonCode(code).valid_in(packet.kind(), Sender::Server);
    match packet {
        Packet::Connack(connack) if version.is_v5() => unlisted(connack.reason),
        Packet::Connack(connack) => connack.reason > 5,
        Packet::Ack(ack) => unlisted(ack.reason.0),
        Packet::Suback(suback) if version.is_v5() => suback.codes.iter().copied().any(unlisted),
        Packet::Suback(suback) => suback.codes.iter().any(|code| !matches!(code, 0..=2 | 0x80)),
        Packet::Unsuback(unsuback) => unsuback.codes.iter().copied().any(unlisted),
        Packet::Disconnect(disconnect) => unlisted(disconnect.reason.0),
        Packet::Auth(auth) => unlisted(auth.reason.0),
        _ => false,
    }
}

/// Why what they write is not what we read, or `None` if nobody looked at that yet.
fn why_they_differ(oracle: Oracle, packet: &Packet<'_>, version: Version) -> Option<&'static str> {
    match (oracle, packet) {
        (MqttProto, Packet::Suback(suback)) if !version.is_v5() && suback.codes.contains(&0x80) => {
            Some("the standard is on our side: failure is written as 0x80, not as 3")
        }
        (Rmqtt, Packet::Connect(_)) if version == Version::V31 => {
            Some("the standard is on our side: MQIsdp goes with level 3, not 4")
        }
        _ => None,
    }
}

/// What a packet says, apart from the order of its properties and from those that say the default.
fn essence(packet: &Packet<'_>) -> String {
    let none = Properties::EMPTY;
    match *packet {
        Packet::Connect(connect) => {
            let will = connect.will.map(|will| (set(will.properties), Will { properties: none, ..will }));
            format!(
                "{:?} {:?} {will:?}",
                Connect { properties: none, will: None, ..connect },
                set(connect.properties)
            )
        }
        Packet::Connack(connack) => {
            format!("{:?} {:?}", Connack { properties: none, ..connack }, set(connack.properties))
        }
        Packet::Publish(publish) => {
            format!("{:?} {:?}", Publish { properties: none, ..publish }, set(publish.properties))
        }
        Packet::Ack(ack) => {
            format!("{:?} {:?}", mproxy_codec::Ack { properties: none, ..ack }, set(ack.properties))
        }
        Packet::Subscribe(subscribe) => {
            let filters: Vec<_> = subscribe.filters().collect();
            format!("{:?} {filters:?} {:?}", subscribe.packet_id, set(subscribe.properties))
        }
        Packet::Suback(suback) => {
            format!("{:?} {:?} {:?}", suback.packet_id, suback.codes, set(suback.properties))
        }
        Packet::Unsubscribe(unsubscribe) => {
            let filters: Vec<_> = unsubscribe.filters().collect();
            format!("{:?} {filters:?} {:?}", unsubscribe.packet_id, set(unsubscribe.properties))
        }
        Packet::Unsuback(unsuback) => {
            format!("{:?} {:?} {:?}", unsuback.packet_id, unsuback.codes, set(unsuback.properties))
        }
        Packet::Pingreq | Packet::Pingresp => format!("{packet:?}"),
        Packet::Disconnect(disconnect) => {
            format!("{:?} {:?}", Disconnect { properties: none, ..disconnect }, set(disconnect.properties))
        }
        Packet::Auth(auth) => format!("{:?} {:?}", auth.reason, set(auth.properties)),
    }
}

fn set(properties: Properties<'_>) -> Vec<String> {
    let default = |(id, value): &(PropertyId, Value<'_>)| match (id, value) {
        (PropertyId::ReceiveMaximum, Value::Two(value)) => *value == 65_535,
        (PropertyId::PayloadFormatIndicator | PropertyId::RequestResponseInformation, Value::Byte(value)) => {
            *value == 0
        }
        (_, Value::Byte(value)) => *value == 1,
        (_, Value::Two(0) | Value::Four(0)) => true,
        _ => false,
    };
    let mut set: Vec<_> =
        properties.iter().filter(|one| !default(one)).map(|one| format!("{one:?}")).collect();
    set.sort();
    set
}

/// Malformed packets of a client, put down by hand: what is wrong, and which of the others take it.
#[rustfmt::skip]
const BY_HAND: &[(Version, &[u8], ErrorKind, &[Oracle])] = &[
    // the fixed header
    (Version::V311, b"\xc0\x80\x00", ErrorKind::IntegerNotMinimal, ALL),
    (Version::V5, b"\xc0\x80\x00", ErrorKind::IntegerNotMinimal, &[MqttProto, Rmqtt]),
    (Version::V311, b"\x30\x85\x00\0\x01ahi", ErrorKind::IntegerNotMinimal, ALL),
    (Version::V311, b"\xc0\x80\x80\x80\x80\x00", ErrorKind::IntegerTooLong, &[]),
    (Version::V311, b"\x00\x00", ErrorKind::TypeZero, &[]),
    (Version::V311, b"\xf0\x00", ErrorKind::WrongVersion, &[]),
    (Version::V311, b"\xc1\x00", ErrorKind::ReservedFlags, &[]),
    (Version::V5, b"\xe1\x00", ErrorKind::ReservedFlags, &[]),
    (Version::V311, b"\x60\x02\0\x01", ErrorKind::ReservedFlags, &[]),
    (Version::V311, b"\x80\x06\0\x01\0\x01a\0", ErrorKind::ReservedFlags, &[]),
    (Version::V5, b"\xa0\x06\0\x01\0\0\x01a", ErrorKind::ReservedFlags, &[]),
    (Version::V311, b"\x36\x05\0\x01a\0\x01", ErrorKind::QosThree, &[]),
    (Version::V5, b"\x36\x06\0\x01a\0\x01\0", ErrorKind::QosThree, &[]),
    (Version::V311, b"\x38\x05\0\x01ahi", ErrorKind::DupWithoutQos, ALL),
    (Version::V5, b"\x38\x06\0\x01a\0hi", ErrorKind::DupWithoutQos, &[MqttProto, Rmqtt]),
    (Version::V311, b"\xc0\x01\0", ErrorKind::TooLong, ALL),
    (Version::V5, b"\xc0\x01\0", ErrorKind::TooLong, &[MqttProto, Rmqtt]),
    (Version::V311, b"\xe0\x01\0", ErrorKind::TooLong, ALL),
    (Version::V311, b"\x40\x03\0\x01\0", ErrorKind::TooLong, &[MqttProto, MqttProtocol]),
    // CONNECT
    (Version::V311, b"\x10\x0d\0\x04MQTT\x04\x03\0\0\0\x01c", ErrorKind::ConnectReserved, &[]),
    (Version::V5, b"\x10\x0e\0\x04MQTT\x05\x03\0\0\0\0\x01c", ErrorKind::ConnectReserved, &[]),
    (Version::V311, b"\x10\x0d\0\x04MQTT\x04\x0a\0\0\0\x01c", ErrorKind::WillQosWithoutWill, &[MqttProtocol]),
    (Version::V5, b"\x10\x0e\0\x04MQTT\x05\x22\0\0\0\0\x01c", ErrorKind::WillRetainWithoutWill, &[MqttProto, Rmqtt]),
    (Version::V311, b"\x10\x13\0\x04MQTT\x04\x1e\0\0\0\x01c\0\x01w\0\x01m", ErrorKind::WillQosThree, &[MqttProtocol]),
    (Version::V311, b"\x10\x13\0\x04MQTT\x04\x06\0\0\0\x01c\0\x01#\0\x01m", ErrorKind::TopicNameWildcard, &[Rmqtt]),
    (Version::V311, b"\x10\x10\0\x04MQTT\x04\x42\0\0\0\x01c\0\x01p", ErrorKind::PasswordWithoutUserName, ALL),
    (Version::V311, b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x01cX", ErrorKind::TrailingBytes, ALL),
    (Version::V5, b"\x10\x0f\0\x04MQTT\x05\x02\0\0\0\0\x01cX", ErrorKind::TrailingBytes, &[MqttProto, Rmqtt]),
    (Version::V311, b"\x10\x0c\0\x04MQTT\x04\0\0\0\0\0", ErrorKind::ClientIdEmpty, &[MqttProto, MqttProtocol]),
    (Version::V311, b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01\0", ErrorKind::TextHoldsNull, ALL),
    (Version::V5, b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\x01c", ErrorKind::ReceiveMaximumZero, &[MqttProto]),
    (Version::V5, b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\0\0\x01c", ErrorKind::MaximumPacketSizeZero, &[MqttProto]),
    (Version::V5, b"\x10\x10\0\x04MQTT\x05\x02\0\0\x02\x17\x02\0\x01c", ErrorKind::PropertyNotBoolean, &[]),
    (Version::V5, b"\x10\x12\0\x04MQTT\x05\x02\0\0\x04\x16\0\x01x\0\x01c", ErrorKind::AuthenticationMethodMissing, &[MqttProto, Rmqtt]),
    (Version::V5, b"\x10\x14\0\x04MQTT\x05\x02\0\0\x06\x21\0\x01\x21\0\x01\0\x01c", ErrorKind::PropertyTwice, &[]),
    // PUBLISH
    (Version::V311, b"\x30\x04\0\0hi", ErrorKind::TopicNameEmpty, &[MqttProto]),
    (Version::V5, b"\x30\x05\0\0\0hi", ErrorKind::TopicNameEmpty, &[MqttProto, Rmqtt]),
    (Version::V311, b"\x30\x05\0\x01+hi", ErrorKind::TopicNameWildcard, &[Rmqtt]),
    (Version::V5, b"\x30\x06\0\x01#\0hi", ErrorKind::TopicNameWildcard, &[Rmqtt]),
    (Version::V311, b"\x30\x05\0\x01\0hi", ErrorKind::TextHoldsNull, &[Rmqtt, MqttProtocol]),
    (Version::V311, b"\x30\x05\0\x01\xffhi", ErrorKind::TextNotUtf8, &[]),
    (Version::V311, b"\x30\x05\0\x09ahi", ErrorKind::Overrun, &[MqttProtocol]),
    (Version::V311, b"\x32\x05\0\x01a\0\0", ErrorKind::PacketIdZero, &[MqttProtocol]),
    (Version::V5, b"\x30\x07\0\x01a\x03\x23\0\0", ErrorKind::TopicAliasZero, &[MqttProto]),
    (Version::V5, b"\x30\x06\0\x01a\x02\x0b\x01", ErrorKind::SubscriptionIdFromClient, &[MqttProto, Rmqtt]),
    (Version::V5, b"\x30\x08\0\x01a\x04\x08\0\x01+", ErrorKind::ResponseTopicWildcard, &[Rmqtt]),
    (Version::V5, b"\x30\x06\0\x01a\x02\x17\x01", ErrorKind::PropertyMisplaced, &[]),
    (Version::V5, b"\x30\x06\0\x01a\x02\x04\x01", ErrorKind::PropertyUnknown, &[]),
    (Version::V5, b"\x30\x06\0\x01a\x09hi", ErrorKind::Overrun, &[]),
    (Version::V5, b"\x30\x06\0\x01a\x80\x00x", ErrorKind::IntegerNotMinimal, &[Rmqtt]),
    // acknowledgements
    (Version::V311, b"\x40\x02\0\0", ErrorKind::PacketIdZero, &[MqttProtocol]),
    (Version::V5, b"\x40\x03\0\x01\x92", ErrorKind::ReasonCodeUnknown, &[]),
    (Version::V5, b"\x40\x05\0\x01\0\0X", ErrorKind::TrailingBytes, &[MqttProto]),
    // SUBSCRIBE, UNSUBSCRIBE
    (Version::V311, b"\x82\x02\0\x01", ErrorKind::NoTopicFilter, &[MqttProtocol]),
    (Version::V5, b"\xa2\x03\0\x01\0", ErrorKind::NoTopicFilter, &[]),
    (Version::V311, b"\x82\x06\0\0\0\x01a\0", ErrorKind::PacketIdZero, &[MqttProtocol]),
    (Version::V311, b"\x82\x06\0\x01\0\x01a\x03", ErrorKind::SubscribeQosThree, &[]),
    (Version::V311, b"\x82\x06\0\x01\0\x01a\x04", ErrorKind::SubscribeReserved, &[Rmqtt]),
    (Version::V5, b"\x82\x07\0\x01\0\0\x01a\xc0", ErrorKind::SubscribeReserved, &[]),
    (Version::V5, b"\x82\x07\0\x01\0\0\x01a\x30", ErrorKind::RetainHandlingThree, &[]),
    (Version::V311, b"\x82\x05\0\x01\0\0\0", ErrorKind::TopicFilterEmpty, &[]),
    (Version::V311, b"\x82\x07\0\x01\0\x02a#\0", ErrorKind::TopicFilterHash, &[Rmqtt]),
    (Version::V311, b"\x82\x08\0\x01\0\x03#/a\0", ErrorKind::TopicFilterHash, &[Rmqtt]),
    (Version::V5, b"\x82\x08\0\x01\0\0\x02a+\0", ErrorKind::TopicFilterPlus, &[Rmqtt]),
    (Version::V5, b"\x82\x10\0\x01\0\0\x0a$share/g/a\x04", ErrorKind::NoLocalOnShare, &[MqttProto, Rmqtt]),
    (Version::V5, b"\x82\x0e\0\x01\0\0\x08$share/g\0", ErrorKind::ShareFilter, &[Rmqtt]),
    (Version::V5, b"\x82\x0f\0\x01\0\0\x09$share//a\0", ErrorKind::ShareName, &[Rmqtt]),
    (Version::V5, b"\x82\x09\0\x01\x02\x0b\0\0\x01a\0", ErrorKind::SubscriptionIdZero, &[MqttProto]),
    (Version::V5, b"\x82\x0b\0\x01\x04\x0b\x01\x0b\x02\0\x01a\0", ErrorKind::PropertyTwice, &[]),
    (Version::V311, b"\xa2\x05\0\x01\0\x02a", ErrorKind::Overrun, &[MqttProtocol]),
    // DISCONNECT, AUTH
    (Version::V5, b"\xe0\x01\x8b", ErrorKind::ReasonCodeUnknown, &[MqttProto, Rmqtt]),
    (Version::V5, b"\xe0\x03\0\0X", ErrorKind::TrailingBytes, &[MqttProto]),
    (Version::V5, b"\xf0\x02\x18\0", ErrorKind::AuthenticationMethodMissing, &[MqttProto, Rmqtt]),
    (Version::V5, b"\xf0\x06\x17\x04\x15\0\x01m", ErrorKind::ReasonCodeUnknown, &[]),
];

#[test]
fn malformed_packets_put_down_by_hand_are_refused_whoever_takes_them() {
    let mut wrong = Vec::new();
    for (version, bytes, fault, takers) in BY_HAND {
        let found = ours(bytes, Sender::Client, *version).map_err(|error| error.kind);
        let take: Vec<_> = ALL
            .iter()
            .copied()
            .filter(|oracle| oracle.speaks(*version) && oracle.again(bytes, *version).is_some())
            .collect();
        if found.err() != Some(*fault) || take != *takers {
            wrong.push(format!("{version} {bytes:02x?}: {found:?}, taken by {take:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_disagreement_about_generated_packets_is_a_known_one() {
    let cases = std::env::var("ORACLE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(10_000);
    let packets = (any_valid(), prop::collection::vec(damage(), 0..3));
    let mut runner = TestRunner::deterministic();
    let mut unknown: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..cases {
        let ((from, version, bytes), damage) =
            packets.new_tree(&mut runner).expect("no filter is that strict").current();
        let bytes = damaged(&bytes, &damage);
        for oracle in ALL.iter().copied().filter(|oracle| oracle.speaks(version)) {
            let what = match (ours(&bytes, from, version), oracle.again(&bytes, version)) {
                (Err(_), None) => continue,
                (Err(fault), Some(_)) => {
                    let known = THEY_TAKE
                        .iter()
                        .any(|(kind, oracles, _)| *kind == fault.kind && oracles.contains(&oracle));
                    if known {
                        continue;
                    }
                    format!("takes {:?}", fault.kind)
                }
                (Ok(packet), None) => match why_they_refuse(oracle, &packet, &bytes, from, version) {
                    Some(_) => continue,
                    None => format!("refuses {:?} {:?}", from, packet.kind()),
                },
                (Ok(packet), Some(again)) => {
                    let agrees =
                        ours(&again, from, version).is_ok_and(|again| essence(&again) == essence(&packet));
                    if agrees || why_they_differ(oracle, &packet, version).is_some() {
                        continue;
                    }
                    format!("changes {:?} {:?} to {again:02x?}", from, packet.kind())
                }
            };
            unknown
                .entry(format!("{oracle:?} {version} {what:.20}"))
                .or_insert_with(|| format!("{what} {bytes:02x?}"));
        }
    }
    let unknown: Vec<_> = unknown.iter().map(|(key, case)| format!("{key}: {case:.800}")).collect();
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}
