//! Packets by hand, straight from the tables of the standard. Nothing is checked: a test may well want what is
//! wrong. Properties are raw bytes without their length, which is added; before 5.0 there are none.

/// The three protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V31,
    /// MQTT 3.1.1 (`MQTT`, level 4).
    V311,
    /// MQTT 5.0 (`MQTT`, level 5).
    V5,
}

/// What a CONNECT says besides its client id. The default is a clean session without keep-alive or credentials.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOptions<'a> {
    /// Clean Session, or Clean Start.
    pub clean: bool,
    /// Seconds; 0 is none.
    pub keep_alive: u16,
    /// User name.
    pub username: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
    /// Will.
    pub will: Option<Will<'a>>,
    /// CONNECT properties.
    pub properties: &'a [u8],
}

impl Default for ConnectOptions<'_> {
    fn default() -> Self {
        Self { clean: true, keep_alive: 0, username: None, password: None, will: None, properties: &[] }
    }
}

/// A will.
#[derive(Debug, Clone, Copy, Default)]
pub struct Will<'a> {
    /// Where to.
    pub topic: &'a str,
    /// What.
    pub payload: &'a [u8],
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether it is to be retained.
    pub retain: bool,
    /// Will properties.
    pub properties: &'a [u8],
}

/// A PUBLISH.
#[derive(Debug, Clone, Copy, Default)]
pub struct Publish<'a> {
    /// Where to.
    pub topic: &'a str,
    /// What.
    pub payload: &'a [u8],
    /// 0, 1 or 2.
    pub qos: u8,
    /// Written only where `qos` is not 0.
    pub packet_id: u16,
    /// RETAIN.
    pub retain: bool,
    /// DUP.
    pub dup: bool,
    /// PUBLISH properties.
    pub properties: &'a [u8],
}

/// A packet of any kind: first byte, length, body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    packet.extend(remaining_length(body.len()));
    packet.extend(body);
    packet
}

/// `len` as a variable byte integer, in as few bytes as it takes.
pub fn remaining_length(mut len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let [low, ..] = (len & 0x7f).to_le_bytes();
        len >>= 7;
        if len == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A string, or binary data, with its two bytes of length. Panics over 65,535 bytes.
pub fn string(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let len = u16::try_from(bytes.len()).unwrap_or_else(|_| panic!("{} bytes in one string", bytes.len()));
    [&len.to_be_bytes(), bytes].concat()
}

/// A text of exactly `len` bytes, for topics and names that try a limit.
pub fn long_string(len: usize) -> String {
    "x".repeat(len)
}

/// CONNECT.
pub fn connect(version: Version, client_id: &str, options: &ConnectOptions<'_>) -> Vec<u8> {
    let (name, level) = match version {
        Version::V31 => ("MQIsdp", 3),
        Version::V311 => ("MQTT", 4),
        Version::V5 => ("MQTT", 5),
    };
    let mut flags = u8::from(options.clean) << 1;
    if let Some(will) = &options.will {
        flags |= 1 << 2 | will.qos << 3 | u8::from(will.retain) << 5;
    }
    flags |= u8::from(options.password.is_some()) << 6 | u8::from(options.username.is_some()) << 7;

    let mut body = string(name);
    body.extend([level, flags]);
    body.extend(options.keep_alive.to_be_bytes());
    body.extend(properties(version, options.properties));
    body.extend(string(client_id));
    if let Some(will) = &options.will {
        body.extend(properties(version, will.properties));
        body.extend(string(will.topic));
        body.extend(string(will.payload));
    }
    body.extend(options.username.map(string).unwrap_or_default());
    body.extend(options.password.map(string).unwrap_or_default());
    packet(0x10, &body)
}

/// CONNACK; `code` is a return code before 5.0, a reason code in it.
pub fn connack(version: Version, session_present: bool, code: u8, props: &[u8]) -> Vec<u8> {
    let mut body = vec![u8::from(session_present), code];
    body.extend(properties(version, props));
    packet(0x20, &body)
}

/// PUBLISH.
pub fn publish(version: Version, publish: &Publish<'_>) -> Vec<u8> {
    let first = 0x30 | u8::from(publish.dup) << 3 | publish.qos << 1 | u8::from(publish.retain);
    let mut body = string(publish.topic);
    if publish.qos > 0 {
        body.extend(publish.packet_id.to_be_bytes());
    }
    body.extend(properties(version, publish.properties));
    body.extend(publish.payload);
    packet(first, &body)
}

/// PUBACK in the short form, right in every version.
pub fn puback(packet_id: u16) -> Vec<u8> {
    packet(0x40, &packet_id.to_be_bytes())
}

/// PUBREC in the short form, right in every version.
pub fn pubrec(packet_id: u16) -> Vec<u8> {
    packet(0x50, &packet_id.to_be_bytes())
}

/// PUBREL in the short form, right in every version.
pub fn pubrel(packet_id: u16) -> Vec<u8> {
    packet(0x62, &packet_id.to_be_bytes())
}

/// PUBCOMP in the short form, right in every version.
pub fn pubcomp(packet_id: u16) -> Vec<u8> {
    packet(0x70, &packet_id.to_be_bytes())
}

/// A 5.0 acknowledgement in its long form: `first` is 0x40 (PUBACK), 0x50 (PUBREC), 0x62 (PUBREL) or 0x70
/// (PUBCOMP).
pub fn ack_with(first: u8, packet_id: u16, reason: u8, props: &[u8]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.push(reason);
    body.extend(properties(Version::V5, props));
    packet(first, &body)
}

/// SUBSCRIBE; each filter comes with its options byte, which before 5.0 is the QoS.
pub fn subscribe(version: Version, packet_id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    subscribe_with(version, packet_id, filters, &[])
}

/// SUBSCRIBE with properties.
pub fn subscribe_with(version: Version, packet_id: u16, filters: &[(&str, u8)], props: &[u8]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend(properties(version, props));
    for (filter, options) in filters {
        body.extend(string(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

/// SUBACK with a code per filter.
pub fn suback(version: Version, packet_id: u16, codes: &[u8]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend(properties(version, &[]));
    body.extend(codes);
    packet(0x90, &body)
}

/// UNSUBSCRIBE.
pub fn unsubscribe(version: Version, packet_id: u16, filters: &[&str]) -> Vec<u8> {
    unsubscribe_with(version, packet_id, filters, &[])
}

/// UNSUBSCRIBE with properties.
pub fn unsubscribe_with(version: Version, packet_id: u16, filters: &[&str], props: &[u8]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend(properties(version, props));
    body.extend(filters.iter().flat_map(string));
    packet(0xa2, &body)
}

/// UNSUBACK; the codes, one per filter, exist only in 5.0.
pub fn unsuback(version: Version, packet_id: u16, codes: &[u8]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.extend(properties(version, &[]));
        body.extend(codes);
    }
    packet(0xb0, &body)
}

/// PINGREQ.
pub fn pingreq() -> Vec<u8> {
    packet(0xc0, &[])
}

/// PINGRESP.
pub fn pingresp() -> Vec<u8> {
    packet(0xd0, &[])
}

/// DISCONNECT without a body, right in every version.
pub fn disconnect() -> Vec<u8> {
    packet(0xe0, &[])
}

/// A 5.0 DISCONNECT with its reason.
pub fn disconnect_with(reason: u8, props: &[u8]) -> Vec<u8> {
    let mut body = vec![reason];
    body.extend(properties(Version::V5, props));
    packet(0xe0, &body)
}

/// AUTH (5.0).
pub fn auth(reason: u8, props: &[u8]) -> Vec<u8> {
    let mut body = vec![reason];
    body.extend(properties(Version::V5, props));
    packet(0xf0, &body)
}

fn properties(version: Version, raw: &[u8]) -> Vec<u8> {
    match version {
        Version::V5 => [remaining_length(raw.len()), raw.to_vec()].concat(),
        Version::V31 | Version::V311 => {
            assert!(raw.is_empty(), "{version:?} has no properties");
            Vec::new()
        }
    }
}

/// The whole packets that `bytes` begin with.
pub fn packets(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while let Some(len) = packet_len(bytes) {
        packets.push(bytes[..len].to_vec());
        bytes = &bytes[len..];
    }
    packets
}

/// The length of the packet that `bytes` begin with, if it is there as a whole.
pub fn packet_len(bytes: &[u8]) -> Option<usize> {
    let mut body = 0usize;
    for (place, &byte) in bytes.get(1..)?.iter().take(4).enumerate() {
        body |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let len = 2 + place + body;
            return (bytes.len() >= len).then_some(len);
        }
    }
    // More than four bytes of length are no packet at all.
    assert!(bytes.len() < 5, "not MQTT: {:02x?}", &bytes[..5]);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_grow_a_byte_where_the_standard_says() {
        // Table 2-4 of 3.1.1.
        for (len, bytes) in [
            (0, &[0][..]),
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xff, 0xff, 0x7f]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (268_435_455, &[0xff, 0xff, 0xff, 0x7f]),
        ] {
            assert_eq!(remaining_length(len), bytes);
        }
    }

    #[test]
    fn a_connect_differs_by_version_where_it_has_to() {
        let options = ConnectOptions { keep_alive: 10, ..ConnectOptions::default() };
        assert_eq!(connect(Version::V31, "a", &options), b"\x10\x0f\0\x06MQIsdp\x03\x02\0\x0a\0\x01a");
        assert_eq!(connect(Version::V311, "a", &options), b"\x10\x0d\0\x04MQTT\x04\x02\0\x0a\0\x01a");
        assert_eq!(connect(Version::V5, "a", &options), b"\x10\x0e\0\x04MQTT\x05\x02\0\x0a\0\0\x01a");
    }

    #[test]
    fn a_connect_carries_its_will_before_its_credentials() {
        let options = ConnectOptions {
            clean: false,
            username: Some("u"),
            password: Some(b"pw"),
            will: Some(Will { topic: "t", payload: b"gone", qos: 1, retain: true, properties: &[1, 1] }),
            properties: &[0x21, 0, 9],
            ..ConnectOptions::default()
        };
        assert_eq!(
            connect(Version::V5, "", &options),
            b"\x10\x23\0\x04MQTT\x05\xec\0\0\x03\x21\0\x09\0\0\x02\x01\x01\0\x01t\0\x04gone\0\x01u\0\x02pw"
        );
    }

    #[test]
    fn a_publish_has_an_id_only_above_qos_0() {
        let at_most_once =
            Publish { topic: "a/b", payload: b"x", packet_id: 7, retain: true, ..Publish::default() };
        assert_eq!(publish(Version::V311, &at_most_once), b"\x31\x06\0\x03a/bx");
        let exactly_once = Publish { qos: 2, dup: true, retain: false, ..at_most_once };
        assert_eq!(publish(Version::V311, &exactly_once), b"\x3c\x08\0\x03a/b\0\x07x");
        assert_eq!(publish(Version::V5, &exactly_once), b"\x3c\x09\0\x03a/b\0\x07\0x");
    }

    #[test]
    fn subscriptions_and_their_answers() {
        assert_eq!(
            subscribe(Version::V311, 1, &[("a", 1), ("b", 2)]),
            b"\x82\x0a\0\x01\0\x01a\x01\0\x01b\x02"
        );
        assert_eq!(
            subscribe_with(Version::V5, 1, &[("a", 1)], &[0x0b, 5]),
            b"\x82\x09\0\x01\x02\x0b\x05\0\x01a\x01"
        );
        assert_eq!(suback(Version::V311, 1, &[1, 0x80]), b"\x90\x04\0\x01\x01\x80");
        assert_eq!(suback(Version::V5, 1, &[1]), b"\x90\x04\0\x01\0\x01");
        assert_eq!(unsubscribe(Version::V31, 2, &["a"]), b"\xa2\x05\0\x02\0\x01a");
        assert_eq!(unsubscribe(Version::V5, 2, &["a"]), b"\xa2\x06\0\x02\0\0\x01a");
        assert_eq!(unsuback(Version::V31, 2, &[0]), b"\xb0\x02\0\x02");
        assert_eq!(unsuback(Version::V5, 2, &[0]), b"\xb0\x04\0\x02\0\0");
    }

    #[test]
    fn the_small_ones() {
        assert_eq!(puback(1), [0x40, 2, 0, 1]);
        assert_eq!(pubrec(1), [0x50, 2, 0, 1]);
        assert_eq!(pubrel(1), [0x62, 2, 0, 1]);
        assert_eq!(pubcomp(1), [0x70, 2, 0, 1]);
        assert_eq!(ack_with(0x40, 1, 0x87, &[]), [0x40, 4, 0, 1, 0x87, 0]);
        assert_eq!(connack(Version::V311, true, 0, &[]), [0x20, 2, 1, 0]);
        assert_eq!(connack(Version::V5, false, 0x87, &[]), [0x20, 3, 0, 0x87, 0]);
        assert_eq!(pingreq(), [0xc0, 0]);
        assert_eq!(pingresp(), [0xd0, 0]);
        assert_eq!(disconnect(), [0xe0, 0]);
        assert_eq!(disconnect_with(0x04, &[]), [0xe0, 2, 4, 0]);
        assert_eq!(auth(0x18, &[0x15, 0, 1, b'm']), [0xf0, 6, 0x18, 4, 0x15, 0, 1, b'm']);
    }

    #[test]
    fn a_packet_is_measured_by_its_header() {
        assert_eq!(packet_len(&[]), None);
        assert_eq!(packet_len(&[0xc0]), None);
        assert_eq!(packet_len(&[0xc0, 0]), Some(2));
        assert_eq!(packet_len(&[0x30, 0x80]), None);
        assert_eq!(packet_len(&packet(0x30, &[0; 127])), Some(129));
        assert_eq!(packet_len(&packet(0x30, &[0; 128])), Some(131));
        assert_eq!(packet_len(&packet(0x30, &[0; 128])[..130]), None);
    }
}
