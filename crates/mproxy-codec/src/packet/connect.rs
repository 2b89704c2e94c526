//! CONNECT: the only packet that is read before its version is known, because it is what tells it.

use crate::encode::{Body, EncodeError, packet};
use crate::error::{ErrorKind, Malformed};
use crate::frame::Header;
use crate::property::{Checked, Place, Properties, PropertyEdit, PropertyId};
use crate::read::Reader;
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
    pub fn parse(header: &Header, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = super::reader(header, bytes)?;
        let (version, bridge) = protocol(&mut reader)?;
        // [MQTT-2.1.3-1]; in 3.1 these bits are "not used".
        if header.flags != 0 && version != Version::V31 {
            return Err(reader.fault_at(ErrorKind::ReservedFlags, 0));
        }
        let flags = Flags::read(&mut reader, version)?;
        let keep_alive = reader.u16()?;
        let properties = own_properties(&mut reader, version)?;
        let client_id = client_id(&mut reader, version, flags.clean_start)?;
        let will = match flags.will {
            Some((qos, retain)) => Some(Will::read(&mut reader, version, qos, retain)?),
            None => None,
        };
        // 3.1: "the User Name flag is set, but the User Name string is missing. This is valid."
        let missing = |reader: &Reader<'_>| version == Version::V31 && reader.is_empty();
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
        let width = rest.iter().take(4).position(|byte| *byte < 0x80)? + 1;
        protocol(&mut Reader::new(PacketType::Connect, bytes, 1 + width)).ok().map(|(version, _)| version)
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
    fn read(reader: &mut Reader<'a>, version: Version, qos: QoS, retain: bool) -> Result<Self, Malformed> {
        let properties = match version {
            Version::V5 => Checked::read(reader, Place::Will, Sender::Client)?.properties,
            Version::V31 | Version::V311 => Properties::EMPTY,
        };
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
fn protocol(reader: &mut Reader<'_>) -> Result<(Version, bool), Malformed> {
    let at = reader.at();
    let name = reader.binary()?;
    let versions: &[Version] = match name {
        b"MQTT" => &[Version::V311, Version::V5],
        b"MQIsdp" => &[Version::V31],
        _ => return Err(reader.fault_at(ErrorKind::ProtocolName, at)),
    };
    let at = reader.at();
    let level = reader.u8()?;
    match versions.iter().find(|version| version.level() == level & !BRIDGE) {
        Some(version) => Ok((*version, level & BRIDGE != 0)),
        None => Err(reader.fault_at(ErrorKind::UnsupportedVersion, at)),
    }
}

struct Flags {
    clean_start: bool,
    will: Option<(QoS, bool)>,
    password: bool,
    username: bool,
}

impl Flags {
    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, Malformed> {
        let at = reader.at();
        let bits = reader.u8()?;
        let fault = |kind| Err(reader.fault_at(kind, at));
        let (qos, retain) = (QoS::from_bits(bits >> 3 & 0b11), bits & 0x20 != 0);
        let will = match (bits & 0x04 != 0, qos) {
            (true, Some(qos)) => Some((qos, retain)),
            (true, None) => return fault(ErrorKind::WillQosThree),
            (false, Some(QoS::AtMostOnce)) if !retain => None,
            (false, Some(QoS::AtMostOnce)) => return fault(ErrorKind::WillRetainWithoutWill),
            (false, _) => return fault(ErrorKind::WillQosWithoutWill),
        };
        if bits & 0x01 != 0 {
            return fault(ErrorKind::ConnectReserved);
        }
        let (password, username) = (bits & 0x40 != 0, bits & 0x80 != 0);
        if password && !username && !version.is_v5() {
            return fault(ErrorKind::PasswordWithoutUserName);
        }
        Ok(Self { clean_start: bits & 0x02 != 0, will, password, username })
    }
}

fn own_properties<'a>(reader: &mut Reader<'a>, version: Version) -> Result<Properties<'a>, Malformed> {
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

fn client_id<'a>(reader: &mut Reader<'a>, version: Version, clean: bool) -> Result<&'a str, Malformed> {
    let at = reader.at();
    let client_id = reader.text()?;
    let may_be_empty = match version {
        // 3.1 wants 1 to 23 characters; longer ones are in use everywhere.
        Version::V31 => false,
        // [MQTT-3.1.3-7] of 3.1.1
        Version::V311 => clean,
        Version::V5 => true,
    };
    if client_id.is_empty() && !may_be_empty {
        return Err(reader.fault_at(ErrorKind::ClientIdEmpty, at));
    }
    Ok(client_id)
}
