//! The words of MQTT 3.1, 3.1.1 and 5.0: strict, borrowing views of control packets, and encoders.
//! Knows bytes and the standard; knows no time, no policy, no socket.
//!
//! - [`frame`]: one control packet, undecoded, with its original bytes; what its fixed header gives away
//! - [`peek`]: the packets that traffic is made of, recognised without being read
//! - [`packet`]: a view and an encoder for each control packet
//! - [`property`]: the properties of 5.0: the table, views, sets to write
//! - [`topic`]: names and filters; matching, containment, `$share`
//! - [`types`]: version, sender, packet type, QoS, packet identifier
//! - [`reason`]: the reason codes of 5.0 and what becomes of them in 3.x
//! - [`error`]: what is wrong with a packet, where, by which rule
//! - [`encode`]: why a packet cannot be written
//! - [`text`], [`varint`]: strings and variable byte integers
//!
//! No parser allocates; nothing that came off the wire can make one panic.
//!
//! ```
//! use mproxy_codec::{Frame, Packet, Sender, Version};
//!
//! let bytes = b"\x30\x05\x00\x01ahi and what follows";
//! let (frame, rest) = Frame::split(bytes, Sender::Client, Some(Version::V311))?.expect("it is whole");
//! let Packet::Publish(publish) = Packet::parse(&frame, Sender::Client, Version::V311)? else { panic!() };
//! assert_eq!((publish.topic, publish.payload), ("a", &b"hi"[..]));
//! assert_eq!(rest, b" and what follows");
//! # Ok::<(), mproxy_codec::Malformed>(())
//! ```

// What comes from the network is neither cut to size nor looked up unchecked.
#![warn(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::string_slice
)]

pub mod encode;
pub mod error;
pub mod frame;
pub mod packet;
pub mod peek;
pub mod property;
mod read;
pub mod reason;
pub mod text;
pub mod topic;
pub mod types;
pub mod varint;

pub use encode::EncodeError;
pub use error::{ErrorKind, Malformed};
pub use frame::{FixedHeader, Frame};
pub use packet::*;
pub use property::{Place, Properties, PropertyEdit, PropertyId, PropertySet, Value, ValueType};
pub use reason::ReasonCode;
pub use topic::{TopicError, TopicFilter, TopicName};
pub use types::{PacketId, PacketType, QoS, Sender, Version};
