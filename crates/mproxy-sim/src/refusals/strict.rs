//! What ends a client's connection without anybody being asked: malformed packets and protocol errors, each with the
//! number of the rule that it breaks, the versions that it breaks it in, and the code that a 5.0 client is told.
//!
//! Rule numbers are those of the 5.0 standard where it has the rule. Where it states a rule without a number, its section
//! stands here.

use crate::wire::{self, ConnectOptions, Publish, Version, Will};

use Version::{V5, V31, V311};

/// When the packet comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// First of all.
    First,
    /// In an open session.
    Open,
}

/// What the client hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedEnd {
    /// Nothing: the connection is closed.
    Nothing,
    /// 5.0: this code, in CONNACK before the session is open and in DISCONNECT after; earlier: closed.
    Code(u8),
    /// The same, and in 3.1.1 and 3.1 CONNACK with this return code.
    Codes(u8, u8),
}

/// One way to be wrong.
#[derive(Clone, Copy)]
pub struct StrictCase {
    /// The rule, or the section.
    pub rule: &'static str,
    /// What is wrong, in words.
    pub what: &'static str,
    /// When it comes.
    pub when: When,
    /// In which versions it is wrong.
    pub versions: &'static [Version],
    /// The packet.
    pub bytes: fn(Version) -> Vec<u8>,
    /// What the client hears.
    pub told: ExpectedEnd,
}

const ALL: &[Version] = &[V31, V311, V5];
const V3: &[Version] = &[V31, V311];
const LATER: &[Version] = &[V311, V5];
const ONLY_5: &[Version] = &[V5];

const MALFORMED: ExpectedEnd = ExpectedEnd::Code(0x81);
const PROTOCOL: ExpectedEnd = ExpectedEnd::Code(0x82);

const fn first(
    rule: &'static str,
    what: &'static str,
    versions: &'static [Version],
    told: ExpectedEnd,
    bytes: fn(Version) -> Vec<u8>,
) -> StrictCase {
    StrictCase { rule, what, when: When::First, versions, bytes, told }
}

const fn open(
    rule: &'static str,
    what: &'static str,
    versions: &'static [Version],
    told: ExpectedEnd,
    bytes: fn(Version) -> Vec<u8>,
) -> StrictCase {
    StrictCase { rule, what, when: When::Open, versions, bytes, told }
}

/// A CONNECT with these flags and this after the client id "c".
fn connect_with_flags(version: Version, flags: u8, rest: &[u8]) -> Vec<u8> {
    let head = match version {
        V31 => b"\0\x06MQIsdp\x03".to_vec(),
        V311 => b"\0\x04MQTT\x04".to_vec(),
        V5 => b"\0\x04MQTT\x05".to_vec(),
    };
    let properties: &[u8] = if version == V5 { &[0] } else { &[] };
    let body = [&head[..], &[flags], b"\0\0", properties, b"\0\x01c", rest].concat();
    wire::packet(0x10, &body)
}

fn connect_with(properties: &[u8]) -> Vec<u8> {
    wire::connect(V5, "c", &ConnectOptions { properties, ..ConnectOptions::default() })
}

fn publish_with(properties: &[u8]) -> Vec<u8> {
    wire::publish(V5, &Publish { topic: "a", properties, ..Publish::default() })
}

/// The body of a packet with a packet id: id 1, no properties, this.
fn identified(version: Version, rest: &[u8]) -> Vec<u8> {
    let properties: &[u8] = if version == V5 { &[0] } else { &[] };
    [b"\0\x01", properties, rest].concat()
}

/// All of them.
#[rustfmt::skip]
pub const STRICT_CASES: &[StrictCase] = &[
    // ---- the first packet
    first("MQTT-3.1.0-1", "another packet before CONNECT", ALL, ExpectedEnd::Nothing, |v| wire::publish(v, &Publish { topic: "a", ..Publish::default() })),
    first("MQTT-3.1.0-1", "PINGREQ before CONNECT", ALL, ExpectedEnd::Nothing, |_| wire::pingreq()),
    first("MQTT-2.1.3-1", "CONNECT with flags in its first byte", LATER, MALFORMED, |v| [&[0x11], &connect_with_flags(v, 2, b"")[1..]].concat()),
    first("MQTT-3.1.2-1", "the protocol name of another protocol", &[V311], ExpectedEnd::Nothing, |_| wire::packet(0x10, b"\0\x04HTTP\x04\x02\0\0\0\x01c")),
    first("MQTT-3.1.2-2", "an unknown protocol level", ONLY_5, ExpectedEnd::Code(0x84), |_| wire::packet(0x10, b"\0\x04MQTT\x06\x02\0\0\0\0\x01c")),
    first("MQTT-3.1.2-2", "an unknown protocol level below 3.1.1", &[V311], ExpectedEnd::Codes(0x84, 1), |_| wire::packet(0x10, b"\0\x04MQTT\x02\x02\0\0\0\x01c")),
    first("MQTT-3.1.2-2", "an unknown protocol level with the name MQIsdp", &[V31], ExpectedEnd::Codes(0x84, 1), |_| wire::packet(0x10, b"\0\x06MQIsdp\x06\x02\0\0\0\x01c")),
    first("MQTT-3.1.2-3", "the reserved connect flag", LATER, MALFORMED, |v| connect_with_flags(v, 0x03, b"")),
    first("MQTT-3.1.2-11", "Will QoS without a will", LATER, MALFORMED, |v| connect_with_flags(v, 0x0A, b"")),
    first("MQTT-3.1.2-12", "Will QoS 3", ALL, MALFORMED, |v| connect_with_flags(v, 0x1E, b"")),
    first("MQTT-3.1.2-13", "Will Retain without a will", LATER, MALFORMED, |v| connect_with_flags(v, 0x22, b"")),
    first("MQTT-3.1.2-22", "a password without user name", V3, MALFORMED, |v| connect_with_flags(v, 0x42, b"\0\x01p")),
    first("MQTT-3.1.3-8", "no client id, without Clean Session", &[V311], ExpectedEnd::Codes(0x85, 2), |v| wire::connect(v, "", &ConnectOptions { clean: false, ..ConnectOptions::default() })),
    first("MQTT-3.1.3-8", "no client id at all", &[V31], ExpectedEnd::Codes(0x85, 2), |v| wire::connect(v, "", &ConnectOptions::default())),
    first("MQTT-1.5.4-1", "a client id that is not UTF-8", ALL, MALFORMED, |v| { let mut p = wire::connect(v, "c", &ConnectOptions::default()); if let Some(last) = p.last_mut() { *last = 0xFF } p }),
    first("MQTT-1.5.4-2", "U+0000 in the client id", ALL, MALFORMED, |v| wire::connect(v, "\0", &ConnectOptions::default())),
    first("MQTT-3.3.2-2", "a wildcard in the will topic", ALL, MALFORMED, |v| wire::connect(v, "c", &ConnectOptions { will: Some(Will { topic: "a/#", ..Will::default() }), ..ConnectOptions::default() })),
    first("3.1.3", "the user name flag without a user name", LATER, MALFORMED, |v| connect_with_flags(v, 0x82, b"")),
    first("3.1.3", "bytes after the last field of CONNECT", ALL, MALFORMED, |v| connect_with_flags(v, 0x02, b"x")),
    first("3.1.2.11.2", "Session Expiry Interval twice", ONLY_5, PROTOCOL, |_| connect_with(b"\x11\0\0\0\x01\x11\0\0\0\x01")),
    first("3.1.2.11.3", "Receive Maximum 0", ONLY_5, PROTOCOL, |_| connect_with(b"\x21\0\0")),
    first("3.1.2.11.4", "Maximum Packet Size 0", ONLY_5, PROTOCOL, |_| connect_with(b"\x27\0\0\0\0")),
    first("3.1.2.11.7", "Request Problem Information 2", ONLY_5, PROTOCOL, |_| connect_with(b"\x17\x02")),
    first("3.1.2.11.10", "Authentication Data without Method", ONLY_5, PROTOCOL, |_| connect_with(b"\x16\0\x01x")),
    first("2.2.2.2", "a property that CONNECT may not carry", ONLY_5, MALFORMED, |_| connect_with(b"\x23\0\x01")),
    first("2.2.2.2", "an unknown property", ONLY_5, MALFORMED, |_| connect_with(b"\x7F\0")),
    // ---- framing
    open("2.1.2", "packet type 0", ALL, MALFORMED, |_| vec![0, 0]),
    open("2.1.2", "packet type 15", V3, PROTOCOL, |_| vec![0xF0, 0]),
    open("MQTT-2.1.3-1", "PINGREQ with flags", LATER, MALFORMED, |_| vec![0xC1, 0]),
    open("MQTT-2.1.3-1", "PUBACK with flags", LATER, MALFORMED, |_| vec![0x41, 2, 0, 1]),
    open("MQTT-3.6.1-1", "PUBREL with other flags", ALL, MALFORMED, |_| vec![0x60, 2, 0, 1]),
    open("MQTT-3.8.1-1", "SUBSCRIBE with other flags", ALL, MALFORMED, |v| [&[0x80], &wire::subscribe(v, 1, &[("a", 0)])[1..]].concat()),
    open("MQTT-3.10.1-1", "UNSUBSCRIBE with other flags", ALL, MALFORMED, |v| [&[0xA0], &wire::unsubscribe(v, 1, &["a"])[1..]].concat()),
    open("MQTT-3.14.1-1", "DISCONNECT with flags", LATER, MALFORMED, |_| vec![0xE1, 0]),
    open("MQTT-3.15.1-1", "AUTH with flags", ONLY_5, MALFORMED, |_| vec![0xF1, 0]),
    open("MQTT-1.5.5-1", "a length in more bytes than it needs", ALL, MALFORMED, |_| vec![0xC0, 0x80, 0]),
    open("1.5.5", "a length of five bytes", ALL, MALFORMED, |_| vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]),
    open("3.12", "PINGREQ with a body", ALL, MALFORMED, |_| vec![0xC0, 1, 0]),
    open("MQTT-3.2.2-15", "a packet over the maximum size", ALL, ExpectedEnd::Code(0x95), |_| vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F]),
    // ---- packets that may not come
    open("MQTT-3.1.0-2", "a second CONNECT", ALL, PROTOCOL, |v| wire::connect(v, "c", &ConnectOptions::default())),
    open("2.1.2", "CONNACK from a client", ALL, PROTOCOL, |v| wire::connack(v, false, 0, b"")),
    open("2.1.2", "SUBACK from a client", ALL, PROTOCOL, |v| wire::suback(v, 1, &[0])),
    open("2.1.2", "UNSUBACK from a client", ALL, PROTOCOL, |v| wire::unsuback(v, 1, &[0])),
    open("2.1.2", "PINGRESP from a client", ALL, PROTOCOL, |_| wire::pingresp()),
    open("MQTT-4.12.0-7", "AUTH after a CONNECT without an authentication method", ONLY_5, PROTOCOL, |_| wire::auth(0x19, b"\x15\0\x01m")),
    // ---- PUBLISH
    open("MQTT-3.3.1-4", "QoS 3", ALL, MALFORMED, |v| [&[0x36], &wire::publish(v, &Publish { topic: "a", qos: 2, packet_id: 1, ..Publish::default() })[1..]].concat()),
    open("MQTT-3.3.1-2", "DUP with QoS 0", LATER, MALFORMED, |v| wire::publish(v, &Publish { topic: "a", dup: true, ..Publish::default() })),
    open("MQTT-3.3.2-2", "# in a topic", ALL, MALFORMED, |v| wire::publish(v, &Publish { topic: "a/#", ..Publish::default() })),
    open("MQTT-3.3.2-2", "+ in a topic", ALL, MALFORMED, |v| wire::publish(v, &Publish { topic: "+/a", ..Publish::default() })),
    open("MQTT-4.7.3-1", "an empty topic, and no alias", ALL, PROTOCOL, |v| wire::publish(v, &Publish::default())),
    open("MQTT-1.5.4-2", "U+0000 in a topic", ALL, MALFORMED, |v| wire::publish(v, &Publish { topic: "a\0", ..Publish::default() })),
    open("MQTT-1.5.4-1", "half a surrogate pair in a topic", ALL, MALFORMED, |v| { let p = wire::publish(v, &Publish { topic: "abc", ..Publish::default() }); p.iter().map(|b| match b { b'a' => 0xED, b'b' => 0xA0, b'c' => 0x80, b => *b }).collect() }),
    open("MQTT-2.2.1-3", "packet id 0 in a PUBLISH", ALL, PROTOCOL, |v| wire::publish(v, &Publish { topic: "a", qos: 1, ..Publish::default() })),
    open("1.5.4", "a topic longer than the packet", ALL, MALFORMED, |_| vec![0x30, 3, 0, 9, b'a']),
    open("3.3.2", "QoS 1 without a packet id", ALL, MALFORMED, |_| vec![0x32, 3, 0, 1, b'a']),
    open("MQTT-3.3.2-8", "topic alias 0", ONLY_5, ExpectedEnd::Code(0x94), |_| publish_with(b"\x23\0\0")),
    open("MQTT-3.3.2-9", "topic alias over the broker's maximum", ONLY_5, ExpectedEnd::Code(0x94), |_| publish_with(b"\x23\0\x63")),
    open("MQTT-3.3.2-8", "topic alias that was never introduced", ONLY_5, PROTOCOL, |_| wire::publish(V5, &Publish { properties: b"\x23\0\x01", ..Publish::default() })),
    open("3.3.2.3.4", "topic alias twice", ONLY_5, PROTOCOL, |_| publish_with(b"\x23\0\x01\x23\0\x01")),
    open("MQTT-3.3.4-6", "Subscription Identifier from a client", ONLY_5, PROTOCOL, |_| publish_with(b"\x0B\x01")),
    open("MQTT-3.3.2-14", "a wildcard in a response topic", ONLY_5, PROTOCOL, |_| publish_with(b"\x08\0\x01#")),
    open("2.2.2.2", "a property that PUBLISH may not carry", ONLY_5, MALFORMED, |_| publish_with(b"\x21\0\x01")),
    open("2.2.2.2", "properties longer than the packet", ONLY_5, MALFORMED, |_| vec![0x30, 4, 0, 1, b'a', 9]),
    // ---- acknowledgements
    open("MQTT-2.2.1-3", "packet id 0 in a PUBACK", ALL, PROTOCOL, |_| wire::puback(0)),
    open("3.4", "PUBACK without a packet id", ALL, MALFORMED, |_| vec![0x40, 1, 0]),
    open("3.4", "PUBACK with more than its packet id", V3, MALFORMED, |_| vec![0x40, 3, 0, 1, 0]),
    open("MQTT-3.4.2-1", "PUBACK with a code that it may not carry", ONLY_5, PROTOCOL, |_| vec![0x40, 3, 0, 1, 0x8A]),
    open("MQTT-3.5.2-1", "PUBREC with a code that it may not carry", ONLY_5, PROTOCOL, |_| vec![0x50, 3, 0, 1, 0x01]),
    open("MQTT-3.6.2-1", "PUBREL with a code that it may not carry", ONLY_5, PROTOCOL, |_| vec![0x62, 3, 0, 1, 0x87]),
    open("MQTT-3.7.2-1", "PUBCOMP with a code that it may not carry", ONLY_5, PROTOCOL, |_| vec![0x70, 3, 0, 1, 0x10]),
    open("3.4.2.2.2", "Reason String twice", ONLY_5, PROTOCOL, |_| wire::ack_with(0x40, 1, 0x87, b"\x1F\0\x01a\x1F\0\x01a")),
    // ---- SUBSCRIBE and UNSUBSCRIBE
    open("MQTT-3.8.3-2", "SUBSCRIBE without a filter", ALL, PROTOCOL, |v| wire::subscribe(v, 1, &[])),
    open("MQTT-2.2.1-3", "packet id 0 in a SUBSCRIBE", ALL, PROTOCOL, |v| wire::subscribe(v, 0, &[("a", 0)])),
    open("MQTT-4.7.3-1", "an empty filter", ALL, MALFORMED, |v| wire::subscribe(v, 1, &[("", 0)])),
    open("MQTT-4.7.1-1", "# not at the end of a filter", ALL, MALFORMED, |v| wire::subscribe(v, 1, &[("a/#/b", 0)])),
    open("MQTT-4.7.1-1", "# not alone in its level", ALL, MALFORMED, |v| wire::subscribe(v, 1, &[("a#", 0)])),
    open("MQTT-4.7.1-2", "+ not alone in its level", ALL, MALFORMED, |v| wire::subscribe(v, 1, &[("a+/b", 0)])),
    open("3.8.3.1", "SUBSCRIBE with QoS 3", ALL, PROTOCOL, |v| wire::subscribe(v, 1, &[("a", 3)])),
    open("MQTT-3.8.3-5", "reserved subscription options", ALL, MALFORMED, |v| wire::subscribe(v, 1, &[("a", 0x80)])),
    open("3.8.3.1", "Retain Handling 3", ONLY_5, PROTOCOL, |v| wire::subscribe(v, 1, &[("a", 0x30)])),
    open("MQTT-3.8.3-4", "No Local on a shared subscription", ONLY_5, PROTOCOL, |v| wire::subscribe(v, 1, &[("$share/g/a", 0x04)])),
    open("MQTT-4.8.2-1", "a shared subscription without a share name", ONLY_5, PROTOCOL, |v| wire::subscribe(v, 1, &[("$share//a", 0)])),
    open("MQTT-4.8.2-1", "a wildcard in a share name", ONLY_5, PROTOCOL, |v| wire::subscribe(v, 1, &[("$share/+/a", 0)])),
    open("MQTT-4.8.2-2", "a shared subscription without a filter", ONLY_5, PROTOCOL, |v| wire::subscribe(v, 1, &[("$share/g", 0)])),
    open("MQTT-4.8.2-2", "a shared subscription within a shared subscription", ALL, PROTOCOL, |v| wire::subscribe(v, 1, &[("$share/g/$share/h/a", 0)])),
    open("3.8.2.1.2", "Subscription Identifier 0", ONLY_5, PROTOCOL, |v| wire::subscribe_with(v, 1, &[("a", 0)], b"\x0B\0")),
    open("3.8.3", "a filter without its options", ALL, MALFORMED, |v| wire::packet(0x82, &identified(v, b"\0\x01a"))),
    open("MQTT-3.10.3-2", "UNSUBSCRIBE without a filter", ALL, PROTOCOL, |v| wire::unsubscribe(v, 1, &[])),
    open("MQTT-2.2.1-3", "packet id 0 in an UNSUBSCRIBE", ALL, PROTOCOL, |v| wire::unsubscribe(v, 0, &["a"])),
    open("MQTT-4.7.1-1", "UNSUBSCRIBE with an invalid filter", ALL, MALFORMED, |v| wire::unsubscribe(v, 1, &["#/a"])),
    // ---- DISCONNECT and AUTH
    open("3.14", "DISCONNECT with a body", V3, MALFORMED, |_| vec![0xE0, 1, 0]),
    open("MQTT-3.14.2-1", "DISCONNECT with a code that only servers send", ONLY_5, PROTOCOL, |_| wire::disconnect_with(0x8B, b"")),
    open("3.14.2.2.5", "Server Reference from a client", ONLY_5, PROTOCOL, |_| wire::disconnect_with(0, b"\x1C\0\x01x")),
    open("3.14.2.2.2", "a session expiry in DISCONNECT after 0 in CONNECT", ONLY_5, PROTOCOL, |_| wire::disconnect_with(0, b"\x11\0\0\0\x01")),
];
