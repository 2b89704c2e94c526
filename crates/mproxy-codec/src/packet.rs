//! The control packets: a room each, all three versions inside it. A view borrows from the packet's bytes and
//! was checked whole when it was made, so that nothing that reads it later can fail.

pub mod ack;
pub mod auth;
pub mod connack;
pub mod connect;
pub mod disconnect;
mod list;
pub mod ping;
pub mod publish;
pub mod slim;
pub mod suback;
pub mod subscribe;
pub mod unsuback;
pub mod unsubscribe;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::Connack;
pub use connect::{Connect, Will};
pub use disconnect::Disconnect;
pub use ping::{PINGREQ, PINGRESP, encode_pingreq, encode_pingresp};
pub use publish::{Publish, PublishHead, PublishLayout, encode_publish_head, publish_flags};
pub use suback::Suback;
pub use subscribe::{
    FilterRequest, FilterRequests, RetainHandling, Subscribe, SubscribeLayout, encode_subscribe,
    subscribe_len,
};
pub use unsuback::Unsuback;
pub use unsubscribe::{Filters, Unsubscribe, encode_unsubscribe};

use crate::encode::{Body, EncodeError};
use crate::error::{ErrorKind, Malformed};
use crate::frame::{FixedHeader, Frame};
use crate::property::{Checked, Place, Properties, PropertyEdit};
use crate::read::BodyReader;
use crate::reason::ReasonCode;
use crate::types::{PacketId, PacketType, Sender, Version};
use bytes::BytesMut;

/// Any control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// CONNECT.
    Connect(Connect<'a>),
    /// CONNACK.
    Connack(Connack<'a>),
    /// PUBLISH.
    Publish(Publish<'a>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(Ack<'a>),
    /// SUBSCRIBE.
    Subscribe(Subscribe<'a>),
    /// SUBACK.
    Suback(Suback<'a>),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe<'a>),
    /// UNSUBACK.
    Unsuback(Unsuback<'a>),
    /// PINGREQ.
    Pingreq,
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT.
    Disconnect(Disconnect<'a>),
    /// AUTH.
    Auth(Auth<'a>),
}

impl<'a> Packet<'a> {
    /// Reads the packet of a frame that was split with the same sender and version.
    ///
    /// # Errors
    /// See the packets' own `parse`.
    pub fn parse(frame: &Frame<'a>, from: Sender, version: Version) -> Result<Self, Malformed> {
        let Frame { header, bytes } = frame;
        Ok(match header.kind {
            PacketType::Connect => Self::Connect(Connect::parse(header, bytes)?),
            PacketType::Connack => Self::Connack(Connack::parse(header, bytes, version)?),
            PacketType::Publish => Self::Publish(Publish::parse(header, bytes, from, version)?),
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
                Self::Ack(Ack::parse(header, bytes, from, version)?)
            }
            PacketType::Subscribe => Self::Subscribe(Subscribe::parse(header, bytes, from, version)?),
            PacketType::Suback => Self::Suback(Suback::parse(header, bytes, version)?),
            PacketType::Unsubscribe => Self::Unsubscribe(Unsubscribe::parse(header, bytes, from, version)?),
            PacketType::Unsuback => Self::Unsuback(Unsuback::parse(header, bytes, version)?),
            PacketType::Pingreq => Self::Pingreq,
            PacketType::Pingresp => Self::Pingresp,
            PacketType::Disconnect => Self::Disconnect(Disconnect::parse(header, bytes, from, version)?),
            PacketType::Auth => Self::Auth(Auth::parse(header, bytes, from)?),
        })
    }

    /// The type of the packet.
    #[must_use]
    pub const fn kind(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::Connack(_) => PacketType::Connack,
            Self::Publish(_) => PacketType::Publish,
            Self::Ack(ack) => ack.kind,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::Suback(_) => PacketType::Suback,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::Unsuback(_) => PacketType::Unsuback,
            Self::Pingreq => PacketType::Pingreq,
            Self::Pingresp => PacketType::Pingresp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Appends the packet. CONNECT is written in its own version, AUTH in 5.0.
    ///
    /// # Errors
    /// See the packets' own `encode`.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Connect(connect) => connect.encode(out),
            Self::Connack(connack) => connack.encode(version, out),
            Self::Publish(publish) => publish.encode(version, out),
            Self::Ack(ack) => ack.encode(version, out),
            Self::Subscribe(subscribe) => subscribe.encode(version, out),
            Self::Suback(suback) => suback.encode(version, out),
            Self::Unsubscribe(unsubscribe) => unsubscribe.encode(version, out),
            Self::Unsuback(unsuback) => unsuback.encode(version, out),
            Self::Pingreq => {
                encode_pingreq(out);
                Ok(())
            }
            Self::Pingresp => {
                encode_pingresp(out);
                Ok(())
            }
            Self::Disconnect(disconnect) => disconnect.encode(version, out),
            Self::Auth(auth) => auth.encode(out),
        }
    }
}

/// The packet alone, even if more follows it in `bytes`.
#[inline]
fn whole_packet<'a>(header: &FixedHeader, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
    bytes
        .get(..header.total())
        .ok_or_else(|| Malformed::new(ErrorKind::Overrun, Some(header.kind), bytes.len()))
}

/// A reader of what follows the fixed header.
#[inline]
fn reader<'a>(header: &FixedHeader, bytes: &'a [u8]) -> Result<BodyReader<'a>, Malformed> {
    Ok(BodyReader::new(header.kind, whole_packet(header, bytes)?, usize::from(header.len)))
}

/// Takes a reason code off the reader.
#[inline]
fn reason(reader: &mut BodyReader<'_>, kind: PacketType, from: Sender) -> Result<ReasonCode, Malformed> {
    // A fault is told where the code stands, which has been taken by then.
    let before = *reader;
    let code = ReasonCode(reader.u8()?);
    check_reason(&before, code, kind, from)
}

/// Passes the code if the packet may carry it. What a server answers is its own affair.
#[inline]
fn check_reason(
    reader: &BodyReader<'_>,
    code: ReasonCode,
    kind: PacketType,
    from: Sender,
) -> Result<ReasonCode, Malformed> {
    // A broker's odd code reaches its client as it would without us; a client's is judged, as the broker would.
    if from == Sender::Server || code.valid_in(kind, from) {
        Ok(code)
    } else {
        Err(reader.fault(ErrorKind::ReasonCodeUnknown))
    }
}

/// Takes the properties off the reader; before 5.0 there are none.
#[inline]
fn properties<'a>(
    reader: &mut BodyReader<'a>,
    kind: PacketType,
    from: Sender,
    version: Version,
) -> Result<Properties<'a>, Malformed> {
    match version {
        Version::V5 => Ok(Checked::read(reader, Place::Packet(kind), from)?.properties),
        // Whatever stands there in 3.x is payload, or an error of the packet's own parser.
        Version::V31 | Version::V311 => Ok(Properties::EMPTY),
    }
}

/// The packet identifier and the properties that a packet begins with, and a reader of what follows them.
#[inline]
fn id_and_properties<'a>(
    header: &FixedHeader,
    bytes: &'a [u8],
    from: Sender,
    version: Version,
) -> Result<(PacketId, Properties<'a>, BodyReader<'a>), Malformed> {
    let mut reader = reader(header, bytes)?;
    let packet_id = reader.packet_id()?;
    let properties = properties(&mut reader, header.kind, from, version)?;
    Ok((packet_id, properties, reader))
}

/// Reason code and properties up to the packet's end. Either may be left out, and 3.x has neither: that is success.
#[inline]
fn reason_and_properties<'a>(
    reader: &mut BodyReader<'a>,
    kind: PacketType,
    from: Sender,
    version: Version,
) -> Result<(ReasonCode, Properties<'a>), Malformed> {
    // A remaining length of 2, or of 0 where there is no identifier: success (3.4.2.1, 3.14.2.1).
    if reader.is_empty() {
        return Ok((ReasonCode::SUCCESS, Properties::EMPTY));
    }
    if !version.is_v5() {
        return Err(reader.fault(ErrorKind::TrailingBytes));
    }
    let reason = reason(reader, kind, from)?;
    // Where no length of properties follows, it is 0 (3.4.2.2.1).
    if reader.is_empty() {
        return Ok((reason, Properties::EMPTY));
    }
    let properties = properties(reader, kind, from, version)?;
    reader.end()?;
    Ok((reason, properties))
}

/// Gives a packet its `encode` and `encode_with`, made of its `write`, which appends what follows the fixed header.
macro_rules! encoders {
    ($packet:ident, |$this:ident| $kind:expr) => {
        impl $packet<'_> {
            /// Appends the packet in its shortest form.
            ///
            /// # Errors
            /// The packet is too long, or of a type that does not have this form.
            pub fn encode(&self, version: Version, out: &mut bytes::BytesMut) -> Result<(), EncodeError> {
                self.encode_with(version, &PropertyEdit::keep(self.properties), out)
            }

            /// Appends the packet with other properties, in its shortest form.
            ///
            /// # Errors
            /// A property or the packet is too long, or the packet is of a type that does not have this form.
            pub fn encode_with(
                &self,
                version: Version,
                properties: &PropertyEdit<'_>,
                out: &mut bytes::BytesMut,
            ) -> Result<(), EncodeError> {
                let $this = self;
                let first = $kind.first_byte();
                crate::encode::packet(out, first, |body| self.write(version, properties, body))
            }
        }
    };
}
use encoders;

/// Writes the properties; nothing in 3.x, which has none.
fn write_properties(
    body: &mut Body<'_>,
    version: Version,
    properties: &PropertyEdit<'_>,
) -> Result<(), EncodeError> {
    if version.is_v5() { properties.write(body) } else { Ok(()) }
}

/// Writes reason code and properties, each only if it says something. Nothing in 3.x.
fn write_reason(
    body: &mut Body<'_>,
    version: Version,
    reason: ReasonCode,
    properties: &PropertyEdit<'_>,
) -> Result<(), EncodeError> {
    if !version.is_v5() {
        return Ok(());
    }
    let bare = properties.is_empty();
    if bare && reason == ReasonCode::SUCCESS {
        return Ok(());
    }
    body.u8(reason.0);
    if bare { Ok(()) } else { properties.write(body) }
}
