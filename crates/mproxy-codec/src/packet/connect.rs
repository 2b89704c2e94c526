//! CONNECT: the only packet that is read before its version is known, because it is what tells it.

use crate::encode::{Body, EncodeError, packet};
use crate::error::{ErrorKind, Malformed};
use crate::frame::FixedHeader;
use crate::property::{Checked, Place, Properties, PropertyEdit, PropertyId};
use crate::read::BodyReader;
use crate::topic::check_name;
use crate::types::{PacketType, QoS, Sender, Version};
use bytes::BytesMut;

/// The bit of the protocol level by which Mosquitto's bridges tell themselves.
const BRIDGE: u8 = 0x80;

/// A CONNECT. To write a changed one, copy it with other fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version of everything that follows on this connection.
    pub version: Version,
    /// Whether the client says that it is a bridge (0x80 in the protocol level).
    pub bridge: bool,
    /// Clean Start; Clean Session in 3.x.
    pub clean_start: bool,
    /// Keep alive, in seconds; 0 is none.
    pub keep_alive: u16,
    /// The properties.
    pub properties: Properties<'a>,
    /// The client identifier; may be empty.
    pub client_id: &'a str,
    /// The will.
    pub will: Option<Will<'a>>,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password.
    pub password: Option<&'a [u8]>,
}

/// The message that the server publishes when the client vanishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// Its quality of service.
    pub qos: QoS,
    /// Its retain flag.
    pub retain: bool,
    /// Its properties.
    pub properties: Properties<'a>,
    /// Its topic name.
    pub topic: &'a str,
    /// The message itself.
    pub payload: &'a [u8],
}

impl<'a> Connect<'a> {
    /// Reads a whole packet; `bytes` begin with its first byte.
    ///
    /// # Errors
    /// Anything the standard calls malformed or a protocol error; an unknown name or level
    /// ([`ErrorKind::ProtocolName`], [`ErrorKind::UnsupportedVersion`]); a client identifier that may not be
    /// empty ([`ErrorKind::ClientIdEmpty`]). [`claimed_version`](Self::claimed_version) tells how to answer.
    pub fn parse(header: &FixedHeader, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = super::reader(header, bytes)?;
        let (version, bridge) = protocol(&mut reader)?;
        // [MQTT-2.1.3-1]; in 3.1 these bits are "not used".
        if header.flags != 0 && version != Version::V31 {
            return Err(reader.fault_at(ErrorKind::ReservedFlags, 0));
        }
        let flags = ConnectFlags::read(&mut reader, version)?;
        let keep_alive = reader.u16()?;
        let properties = own_properties(&mut reader, version)?;
        let client_id = client_id(&mut reader, version, flags.clean_start)?;
        let will = match flags.will {
            Some((qos, retain)) => Some(Will::read(&mut reader, version, qos, retain)?),
            None => None,
        };
        // 3.1: "the User Name flag is set, but the User Name string is missing. This is valid."
        let missing = |reader: &BodyReader<'_>| version == Version::V31 && reader.is_empty();
        let username = if flags.username && !missing(&reader) { Some(reader.text()?) } else { None };
        let password = if flags.password && !missing(&reader) { Some(reader.binary()?) } else { None };
        reader.end()?;
        let clean_start = flags.clean_start;
        Ok(Self { version, bridge, clean_start, keep_alive, properties, client_id, will, username, password })
    }

    /// The version that a CONNECT claims, however malformed it is behind that: in its words it is answered.
    /// `None`: the bytes do not tell, or tell of a version that mproxy does not know.
    #[must_use]
    pub fn claimed_version(bytes: &[u8]) -> Option<Version> {
        let (first, rest) = bytes.split_first()?;
        if first >> 4 != PacketType::Connect as u8 {
            return None;
        }
        // A length has four bytes at most (1.5.5).
        let width = rest.iter().take(4).position(|byte| *byte < 0x80)? + 1;
        protocol(&mut BodyReader::new(PacketType::Connect, bytes, 1 + width)).ok().map(|(version, _)| version)
    }

    /// Appends the packet in its own version.
    ///
    /// # Errors
    /// A field or the packet is too long, or there is a password without user name in 3.x.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.encode_with(&PropertyEdit::keep(self.properties), out)
    }

    /// Appends the packet with other properties of its own; those of the will stay.
    ///
    /// # Errors
    /// See [`encode`](Self::encode).
    pub fn encode_with(&self, properties: &PropertyEdit<'_>, out: &mut BytesMut) -> Result<(), EncodeError> {
        if self.password.is_some() && self.username.is_none() && !self.version.is_v5() {
            return Err(EncodeError::Impossible { what: "a password needs a user name before 5.0" });
        }
        packet(out, PacketType::Connect.first_byte(), |body| {
            body.field("protocol name", self.version.protocol_name().as_bytes())?;
            // Kept: Mosquitto sends a bridge its own messages not back, and without the bit they go in circles.
            body.u8(self.version.level() | if self.bridge { BRIDGE } else { 0 });
            body.u8(self.flags());
            body.u16(self.keep_alive);
            if self.version.is_v5() {
                properties.write(body)?;
            }
            body.field("client identifier", self.client_id.as_bytes())?;
            if let Some(will) = &self.will {
                will.write(self.version, body)?;
            }
            if let Some(username) = self.username {
                body.field("user name", username.as_bytes())?;
            }
            if let Some(password) = self.password {
                body.field("password", password)?;
            }
            Ok(())
        })
    }

    fn flags(&self) -> u8 {
        let will = self.will.map_or(0, |will| 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5);
        u8::from(self.clean_start) << 1
            | will
            | u8::from(self.password.is_some()) << 6
            | u8::from(self.username.is_some()) << 7
    }
}

impl<'a> Will<'a> {
    fn read(
        reader: &mut BodyReader<'a>,
        version: Version,
        qos: QoS,
        retain: bool,
    ) -> Result<Self, Malformed> {
        let properties = match version {
            Version::V5 => Checked::read(reader, Place::Will, Sender::Client)?.properties,
            Version::V31 | Version::V311 => Properties::EMPTY,
        };
        // A fault in the text stands behind the two bytes of its length.
        let at = reader.at() + 2;
        let topic = reader.text()?;
        check_name(topic).map_err(|error| reader.fault_at(error.into(), at + error.at()))?;
        Ok(Self { qos, retain, properties, topic, payload: reader.binary()? })
    }

    fn write(&self, version: Version, body: &mut Body<'_>) -> Result<(), EncodeError> {
        if version.is_v5() {
            PropertyEdit::keep(self.properties).write(body)?;
        }
        body.field("will topic", self.topic.as_bytes())?;
        body.field("will payload", self.payload)
    }
}

/// Name and level: the version, and whether a bridge speaks.
fn protocol(reader: &mut BodyReader<'_>) -> Result<(Version, bool), Malformed> {
    let at = reader.at();
    let name = reader.binary()?;
    // The name decides before the level does: level 3 under "MQTT" is no version that anybody has defined.
    let versions: &[Version] = match name {
        b"MQTT" => &[Version::V311, Version::V5],
        b"MQIsdp" => &[Version::V31],
        _ => return Err(reader.fault_at(ErrorKind::ProtocolName, at)),
    };
    let at = reader.at();
    let level = reader.u8()?;
    match versions.iter().find(|version| version.level() == level & !BRIDGE) {
        Some(version) => Ok((*version, level & BRIDGE != 0)),
        // Told apart from other faults: this one is answered with a CONNACK that says so [MQTT-3.1.2-2].
        None => Err(reader.fault_at(ErrorKind::UnsupportedVersion, at)),
    }
}

struct ConnectFlags {
    clean_start: bool,
    will: Option<(QoS, bool)>,
    password: bool,
    username: bool,
}

impl ConnectFlags {
    fn read(reader: &mut BodyReader<'_>, version: Version) -> Result<Self, Malformed> {
        let at = reader.at();
        let bits = reader.u8()?;
        let fault = |kind| Err(reader.fault_at(kind, at));
        // 3.1 does not use the reserved bit, and disregards QoS and retain flag of a will that is not there.
        let strict = version != Version::V31;
        let (qos, retain) = (QoS::from_bits(bits >> 3 & 0b11), bits & 0x20 != 0);
        let will = match (bits & 0x04 != 0, qos) {
            (true, Some(qos)) => Some((qos, retain)),
            (true, None) => return fault(ErrorKind::WillQosThree),
            (false, qos) if strict && qos != Some(QoS::AtMostOnce) => {
                return fault(ErrorKind::WillQosWithoutWill);
            }
            (false, _) if strict && retain => return fault(ErrorKind::WillRetainWithoutWill),
            (false, _) => None,
        };
        if strict && bits & 0x01 != 0 {
            return fault(ErrorKind::ConnectReserved);
        }
        let (password, username) = (bits & 0x40 != 0, bits & 0x80 != 0);
        // 5.0 lifted this, so that a token can come alone (3.1.2.9).
        if password && !username && !version.is_v5() {
            return fault(ErrorKind::PasswordWithoutUserName);
        }
        Ok(Self { clean_start: bits & 0x02 != 0, will, password, username })
    }
}

fn own_properties<'a>(reader: &mut BodyReader<'a>, version: Version) -> Result<Properties<'a>, Malformed> {
    if !version.is_v5() {
        return Ok(Properties::EMPTY);
    }
    let at = reader.at();
    let checked = Checked::read(reader, Place::Packet(PacketType::Connect), Sender::Client)?;
    // 3.1.2.11.10
    if checked.present.contains(PropertyId::AuthenticationData)
        && !checked.present.contains(PropertyId::AuthenticationMethod)
    {
        return Err(reader.fault_at(ErrorKind::AuthenticationMethodMissing, at));
    }
    Ok(checked.properties)
}

fn client_id<'a>(reader: &mut BodyReader<'a>, version: Version, clean: bool) -> Result<&'a str, Malformed> {
    let at = reader.at();
    let client_id = reader.text()?;
    let may_be_empty = match version {
        // 3.1 wants 1 to 23 characters; longer ones are in use everywhere.
        Version::V31 => false,
        // [MQTT-3.1.3-7] of 3.1.1
        // A session that outlives its connection needs a name to come back to.
        Version::V311 => clean,
        Version::V5 => true,
    };
    if client_id.is_empty() && !may_be_empty {
        return Err(reader.fault_at(ErrorKind::ClientIdEmpty, at));
    }
    Ok(client_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    fn parse(bytes: &[u8]) -> Result<Connect<'_>, ErrorKind> {
        let (frame, _) = Frame::split(bytes, Sender::Client, None).unwrap().unwrap();
        Connect::parse(&frame.header, frame.bytes).map_err(|error| error.kind)
    }

    /// A CONNECT of 3.1.1 with these flags and this payload.
    fn v311(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x10, 10 + u8::try_from(payload.len()).unwrap()];
        bytes.extend_from_slice(b"\0\x04MQTT\x04");
        bytes.extend_from_slice(&[flags, 0, 60]);
        bytes.extend_from_slice(payload);
        bytes
    }

    /// A CONNECT of 5.0 with everything in it.
    fn full() -> Vec<u8> {
        let mut bytes = b"\x10\0\0\x04MQTT\x85\xee\0\x3c\x03\x21\0\x05\0\x01c\x05\x18\0\0\0\x09\
            \0\x02w/\0\x02\0\xff\0\x01u\0\x01p"
            .to_vec();
        bytes[1] = u8::try_from(bytes.len() - 2).unwrap();
        bytes
    }

    #[test]
    fn all_fields_are_read_and_written_back() {
        let bytes = full();
        let connect = parse(&bytes).unwrap();
        assert_eq!((connect.version, connect.bridge, connect.clean_start), (Version::V5, true, true));
        assert_eq!((connect.keep_alive, connect.client_id), (60, "c"));
        assert_eq!(connect.properties.u16(PropertyId::ReceiveMaximum), Some(5));
        let will = connect.will.unwrap();
        assert_eq!(
            (will.topic, will.payload, will.qos, will.retain),
            ("w/", &[0, 0xFF][..], QoS::AtLeastOnce, true)
        );
        assert_eq!(will.properties.u32(PropertyId::WillDelayInterval), Some(9));
        assert_eq!((connect.username, connect.password), (Some("u"), Some(&b"p"[..])));
        let mut out = BytesMut::new();
        connect.encode(&mut out).unwrap();
        assert_eq!(out, bytes);
    }

    #[test]
    fn changed_fields_are_written_and_the_rest_is_kept() {
        let bytes = full();
        let connect = parse(&bytes).unwrap();
        let mut out = BytesMut::new();
        Connect { client_id: "other", username: None, ..connect }.encode(&mut out).unwrap();
        let changed = parse(&out).unwrap();
        assert_eq!(changed, Connect { client_id: "other", username: None, ..connect });
    }

    #[test]
    fn name_and_level_tell_the_version() {
        for (start, version) in [
            (&b"\0\x06MQIsdp\x03"[..], Ok(Version::V31)),
            (b"\0\x04MQTT\x04", Ok(Version::V311)),
            (b"\0\x04MQTT\x84", Ok(Version::V311)),
            (b"\0\x06MQIsdp\x83", Ok(Version::V31)),
            (b"\0\x04MQTT\x03", Err(ErrorKind::UnsupportedVersion)),
            (b"\0\x04MQTT\x06", Err(ErrorKind::UnsupportedVersion)),
            (b"\0\x06MQIsdp\x04", Err(ErrorKind::UnsupportedVersion)),
            (b"\0\x04mqtt\x04", Err(ErrorKind::ProtocolName)),
        ] {
            let mut bytes = vec![0x10, u8::try_from(start.len()).unwrap() + 6];
            bytes.extend_from_slice(start);
            bytes.extend_from_slice(b"\x02\0\0\0\x01c");
            assert_eq!(parse(&bytes).map(|connect| connect.version), version, "{start:?}");
            assert_eq!(Connect::claimed_version(&bytes), version.ok());
        }
        assert_eq!(Connect::claimed_version(b"\x10\x0d\0\x04MQTT"), None);
        assert_eq!(Connect::claimed_version(b"\xc0\0"), None);
    }

    #[test]
    fn flags_must_agree_with_each_other_and_with_the_payload() {
        for (flags, payload, fault) in [
            (0x03, &b"\0\x01c"[..], ErrorKind::ConnectReserved),
            (0x0A, b"\0\x01c", ErrorKind::WillQosWithoutWill),
            (0x22, b"\0\x01c", ErrorKind::WillRetainWithoutWill),
            (0x1E, b"\0\x01c\0\x01w\0\0", ErrorKind::WillQosThree),
            (0x42, b"\0\x01c\0\x01p", ErrorKind::PasswordWithoutUserName),
            (0x82, b"\0\x01c", ErrorKind::Overrun),
            (0x02, b"\0\x01c\0\x01u", ErrorKind::TrailingBytes),
            (0x00, b"\0\0", ErrorKind::ClientIdEmpty),
            (0x06, b"\0\x01c\0\0\0\0", ErrorKind::TopicNameEmpty),
            (0x06, b"\0\x01c\0\x01#\0\0", ErrorKind::TopicNameWildcard),
            (0x02, b"\0\x01\0", ErrorKind::TextHoldsNull),
        ] {
            assert_eq!(parse(&v311(flags, payload)), Err(fault), "{flags:#x} {payload:?}");
        }
        assert_eq!(parse(&v311(0x02, b"\0\0")).unwrap().client_id, "");
    }

    #[test]
    fn authentication_data_needs_a_method() {
        let bytes = b"\x10\x12\0\x04MQTT\x05\x02\0\0\x04\x16\0\x01x\0\x01c";
        assert_eq!(parse(bytes), Err(ErrorKind::AuthenticationMethodMissing));
    }

    #[test]
    fn old_clients_may_leave_out_the_user_name_they_announced() {
        let connect = parse(b"\x14\x0f\0\x06MQIsdp\x03\xc2\0\0\0\x01c").unwrap();
        assert_eq!((connect.username, connect.password), (None, None));
        assert_eq!(parse(b"\x10\x0e\0\x06MQIsdp\x03\x02\0\0\0\0"), Err(ErrorKind::ClientIdEmpty));
    }

    #[test]
    fn flags_that_mean_nothing_are_let_be_in_3_1_only() {
        let connect = parse(b"\x14\x0f\0\x06MQIsdp\x03\x3b\0\0\0\x01c").unwrap();
        assert_eq!((connect.clean_start, connect.will), (true, None));
        let mut bytes = v311(2, b"\0\x01c");
        bytes[0] = 0x14;
        assert_eq!(parse(&bytes), Err(ErrorKind::ReservedFlags));
    }
}
