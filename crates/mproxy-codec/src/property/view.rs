//! A borrowed set of properties: checked once, read as often as wanted, without a copy.

use super::{Allowed, Place, PropertyId, PropertyRow, PropertySet, Value, ValueType, row};
use crate::error::{ErrorKind, Malformed};
use crate::read::BodyReader;
use crate::topic::{TopicError, check_name};
use crate::types::{PacketType, Sender};
use crate::{text, varint};
use std::fmt;

/// A checked set of properties: the bytes behind the length. In 3.x packets it is [`EMPTY`](Self::EMPTY).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    raw: &'a [u8],
}

impl<'a> Properties<'a> {
    /// No properties.
    pub const EMPTY: Self = Self { raw: &[] };

    /// A set that was checked before, in the same bytes.
    pub(crate) const fn assume_checked(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// Checks the bytes of a set, without the length before them.
    ///
    /// # Errors
    /// An unknown, misplaced or repeated property, or a bad value; offsets count from the start of `raw`.
    pub fn check(raw: &'a [u8], place: Place, from: Sender) -> Result<Self, Malformed> {
        let kind = match place {
            Place::Packet(kind) => kind,
            Place::Will => PacketType::Connect,
        };
        let section = BodyReader::new(kind, raw, 0);
        Ok(Checked::section(section, place, from)?.properties)
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The bytes, without the length before them.
    #[inline]
    #[must_use]
    pub const fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// All properties in the order in which they stand.
    #[inline]
    #[must_use]
    pub const fn iter(&self) -> Iter<'a> {
        Iter { raw: self.raw }
    }

    /// The first value of a property.
    #[must_use]
    pub fn value(&self, id: PropertyId) -> Option<Value<'a>> {
        let mut rest = self.raw;
        while let Some((row, value, next)) = split(rest) {
            if row.id == id {
                // The first is the only one: a set with a second was not let in.
                return decode(row.value, value);
            }
            rest = next;
        }
        None
    }

    /// Whether the property stands in the set.
    #[must_use]
    pub fn contains(&self, id: PropertyId) -> bool {
        self.value(id).is_some()
    }

    /// The value of a one-byte property.
    #[must_use]
    pub fn byte(&self, id: PropertyId) -> Option<u8> {
        if let Some(Value::Byte(value)) = self.value(id) { Some(value) } else { None }
    }

    /// The value of a two-byte property.
    #[must_use]
    pub fn u16(&self, id: PropertyId) -> Option<u16> {
        if let Some(Value::Two(value)) = self.value(id) { Some(value) } else { None }
    }

    /// The value of a four-byte property, or of one that is a variable byte integer.
    #[must_use]
    pub fn u32(&self, id: PropertyId) -> Option<u32> {
        if let Some(Value::Four(value) | Value::Var(value)) = self.value(id) { Some(value) } else { None }
    }

    /// The value of a text property.
    #[must_use]
    pub fn text(&self, id: PropertyId) -> Option<&'a str> {
        if let Some(Value::Text(value)) = self.value(id) { Some(value) } else { None }
    }

    /// The value of a binary property.
    #[must_use]
    pub fn binary(&self, id: PropertyId) -> Option<&'a [u8]> {
        if let Some(Value::Binary(value)) = self.value(id) { Some(value) } else { None }
    }

    /// The user properties, name and value, in order.
    #[must_use]
    pub const fn user(&self) -> UserPropertyIter<'a> {
        UserPropertyIter { all: self.iter() }
    }
}

impl<'a> IntoIterator for Properties<'a> {
    type Item = (PropertyId, Value<'a>);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The properties of a set, in order.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    raw: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = (PropertyId, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (row, value, rest) = split(self.raw)?;
        self.raw = rest;
        Some((row.id, decode(row.value, value)?))
    }
}

/// The user properties of a set, in order.
#[derive(Clone, Debug)]
pub struct UserPropertyIter<'a> {
    all: Iter<'a>,
}

impl<'a> Iterator for UserPropertyIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.all.find_map(
            |(_, value)| if let Value::Pair(name, value) = value { Some((name, value)) } else { None },
        )
    }
}

/// Splits the first property off: its row, the bytes of its value, and what follows.
#[inline]
pub(super) fn split(raw: &[u8]) -> Option<(&'static PropertyRow, &[u8], &[u8])> {
    let (id, after) = raw.split_first()?;
    let row = row(*id)?;
    let len = match row.value {
        ValueType::Byte => 1,
        ValueType::Two => 2,
        ValueType::Four => 4,
        ValueType::Var => usize::from(varint::read(after).ok()??.1),
        ValueType::Text | ValueType::Binary => field_len(after)?,
        ValueType::Pair => {
            let name = field_len(after)?;
            name + field_len(after.get(name..)?)?
        }
    };
    let (value, rest) = after.split_at_checked(len)?;
    Some((row, value, rest))
}

#[inline]
fn field_len(bytes: &[u8]) -> Option<usize> {
    Some(2 + usize::from(u16::from_be_bytes(*bytes.first_chunk()?)))
}

fn decode(kind: ValueType, bytes: &[u8]) -> Option<Value<'_>> {
    Some(match kind {
        ValueType::Byte => Value::Byte(*bytes.first()?),
        ValueType::Two => Value::Two(u16::from_be_bytes(*bytes.first_chunk()?)),
        ValueType::Four => Value::Four(u32::from_be_bytes(*bytes.first_chunk()?)),
        ValueType::Var => Value::Var(varint::read(bytes).ok()??.0),
        ValueType::Text => Value::Text(text::assume_checked(bytes.get(2..)?)),
        ValueType::Binary => Value::Binary(bytes.get(2..)?),
        ValueType::Pair => {
            let (name, value) = bytes.split_at_checked(field_len(bytes)?)?;
            Value::Pair(text::assume_checked(name.get(2..)?), text::assume_checked(value.get(2..)?))
        }
    })
}

/// A set that was just checked, and which properties are in it.
#[derive(Clone, Copy)]
pub(crate) struct Checked<'a> {
    pub(crate) properties: Properties<'a>,
    pub(crate) present: PropertySet,
}

impl<'a> Checked<'a> {
    pub(crate) const NONE: Self = Self { properties: Properties::EMPTY, present: PropertySet::EMPTY };

    /// Takes length and set off the reader. An empty set costs a byte's look.
    #[inline]
    pub(crate) fn read(reader: &mut BodyReader<'a>, place: Place, from: Sender) -> Result<Self, Malformed> {
        match reader.varint()? {
            0 => Ok(Self::NONE),
            len => Self::section(reader.section(len as usize)?, place, from),
        }
    }

    /// Checks a set that fills the rest of the reader.
    pub(crate) fn section(mut reader: BodyReader<'a>, place: Place, from: Sender) -> Result<Self, Malformed> {
        let properties = Properties { raw: reader.rest() };
        let mut present = PropertySet::EMPTY;
        while !reader.is_empty() {
            let at = reader.at();
            // Malformed and not skipped: without its type nobody knows where the next one begins.
            let Some(row) = row(reader.u8()?) else {
                return Err(reader.fault_at(ErrorKind::PropertyUnknown, at));
            };
            if let Some(fault) = placement_fault(row, place, from, present) {
                return Err(reader.fault_at(fault, at));
            }
            check_value(&mut reader, row)?;
            present = present.with(row.id);
        }
        Ok(Self { properties, present })
    }
}

#[inline]
fn placement_fault(row: &PropertyRow, place: Place, from: Sender, present: PropertySet) -> Option<ErrorKind> {
    if row.places & place.bit() == 0 {
        return Some(ErrorKind::PropertyMisplaced);
    }
    // The standard forbids a second one, and whoever takes the first where a broker takes the last is walked around.
    if present.contains(row.id) && row.repeats_in & place.bit() == 0 {
        return Some(ErrorKind::PropertyTwice);
    }
    match (row.id, place, from) {
        // [MQTT-3.3.4-6]
        (PropertyId::SubscriptionIdentifier, Place::Packet(PacketType::Publish), Sender::Client) => {
            Some(ErrorKind::SubscriptionIdFromClient)
        }
        // [MQTT-3.14.2-2]
        (PropertyId::SessionExpiryInterval, Place::Packet(PacketType::Disconnect), Sender::Server) => {
            Some(ErrorKind::SessionExpiryFromServer)
        }
        // 3.14.2.2.5
        (PropertyId::ServerReference, Place::Packet(PacketType::Disconnect), Sender::Client) => {
            Some(ErrorKind::ServerReferenceFromClient)
        }
        _ => None,
    }
}

#[inline]
fn check_value(reader: &mut BodyReader<'_>, row: &PropertyRow) -> Result<(), Malformed> {
    let at = reader.at();
    let number = match row.value {
        ValueType::Byte => u32::from(reader.u8()?),
        ValueType::Two => u32::from(reader.u16()?),
        ValueType::Four => reader.u32()?,
        ValueType::Var => reader.varint()?,
        // Any bytes may stand there: nothing to check but that they are all there.
        ValueType::Binary => return reader.binary().map(drop),
        ValueType::Pair => {
            reader.text()?;
            return reader.text().map(drop);
        }
        ValueType::Text => {
            let text = reader.text()?;
            return match row.allowed {
                // A Response Topic is published to by somebody else later: a wildcard in it would be that one's protocol error.
                Allowed::TopicName => check_name(text).map_err(|error| response_topic(reader, at, error)),
                _ => Ok(()),
            };
        }
    };
    match row.allowed {
        Allowed::Boolean if number > 1 => Err(reader.fault_at(ErrorKind::PropertyNotBoolean, at)),
        Allowed::NotZero(fault) if number == 0 => Err(reader.fault_at(fault, at)),
        _ => Ok(()),
    }
}

#[cold]
fn response_topic(reader: &BodyReader<'_>, at: usize, error: TopicError) -> Malformed {
    let kind = match error {
        TopicError::EmptyName => ErrorKind::ResponseTopicEmpty,
        _ => ErrorKind::ResponseTopicWildcard,
    };
    reader.fault_at(kind, at + 2 + error.at())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISH: Place = Place::Packet(PacketType::Publish);
    const CONNECT: Place = Place::Packet(PacketType::Connect);

    fn fault(raw: &[u8], place: Place) -> (ErrorKind, u32) {
        let error = Properties::check(raw, place, Sender::Client).expect_err("it has a fault");
        (error.kind, error.offset)
    }

    #[test]
    fn every_type_of_value_is_read() {
        let raw =
            b"\x01\x01\x02\0\0\0\x07\x03\0\x01t\x09\0\x02\xff\0\x23\0\x05\x26\0\x01k\0\x01v\x26\0\0\0\x01w";
        let set = Properties::check(raw, PUBLISH, Sender::Client).unwrap();
        assert_eq!(set.byte(PropertyId::PayloadFormatIndicator), Some(1));
        assert_eq!(set.u32(PropertyId::MessageExpiryInterval), Some(7));
        assert_eq!(set.text(PropertyId::ContentType), Some("t"));
        assert_eq!(set.binary(PropertyId::CorrelationData), Some(&b"\xff\0"[..]));
        assert_eq!(set.u16(PropertyId::TopicAlias), Some(5));
        assert_eq!(set.user().collect::<Vec<_>>(), [("k", "v"), ("", "w")]);
        assert_eq!(set.iter().count(), 7);
        assert_eq!(set.text(PropertyId::ResponseTopic), None);
        assert!(set.contains(PropertyId::TopicAlias) && !set.contains(PropertyId::ReasonString));
    }

    #[test]
    fn unknown_misplaced_and_repeated_properties_are_told_apart() {
        assert_eq!(fault(&[0x04, 0], PUBLISH), (ErrorKind::PropertyUnknown, 0));
        assert_eq!(fault(&[0x80, 0x01, 0], PUBLISH), (ErrorKind::PropertyUnknown, 0));
        assert_eq!(fault(&[0x21, 0, 1], PUBLISH), (ErrorKind::PropertyMisplaced, 0));
        assert_eq!(fault(&[0x23, 0, 1, 0x23, 0, 1], PUBLISH), (ErrorKind::PropertyTwice, 3));
        assert_eq!(fault(&[0x18, 0, 0, 0, 0], CONNECT), (ErrorKind::PropertyMisplaced, 0));
        assert!(Properties::check(&[0x18, 0, 0, 0, 0], Place::Will, Sender::Client).is_ok());
    }

    #[test]
    fn values_out_of_range_name_themselves() {
        assert!(
            Properties::check(&[0x01, 2], PUBLISH, Sender::Client).is_ok(),
            "no MUST stands behind 0 and 1"
        );
        assert_eq!(fault(&[0x23, 0, 0], PUBLISH), (ErrorKind::TopicAliasZero, 1));
        assert_eq!(fault(&[0x21, 0, 0], CONNECT), (ErrorKind::ReceiveMaximumZero, 1));
        assert_eq!(fault(&[0x27, 0, 0, 0, 0], CONNECT), (ErrorKind::MaximumPacketSizeZero, 1));
        assert_eq!(fault(&[0x17, 9], CONNECT), (ErrorKind::PropertyNotBoolean, 1));
        assert_eq!(fault(b"\x08\0\x03a/+", PUBLISH), (ErrorKind::ResponseTopicWildcard, 5));
        assert_eq!(fault(b"\x08\0\0", PUBLISH), (ErrorKind::ResponseTopicEmpty, 3));
        let subscribe = Place::Packet(PacketType::Subscribe);
        assert_eq!(fault(&[0x0B, 0], subscribe), (ErrorKind::SubscriptionIdZero, 1));
        assert_eq!(fault(&[0x0B, 1, 0x0B, 2], subscribe), (ErrorKind::PropertyTwice, 2));
    }

    #[test]
    fn a_value_may_not_reach_out_of_its_set() {
        assert_eq!(fault(&[0x02, 0, 0], PUBLISH).0, ErrorKind::Overrun);
        assert_eq!(fault(b"\x03\0\x02t", PUBLISH).0, ErrorKind::Overrun);
        assert_eq!(fault(b"\x26\0\x01k", PUBLISH).0, ErrorKind::Overrun);
        assert_eq!(fault(b"\x03\0\x01\0", PUBLISH), (ErrorKind::TextHoldsNull, 3));
    }

    #[test]
    fn some_properties_belong_to_one_side() {
        let subscription = [0x0B, 1, 0x0B, 0xFF, 0x7F];
        assert_eq!(fault(&subscription, PUBLISH), (ErrorKind::SubscriptionIdFromClient, 0));
        let set = Properties::check(&subscription, PUBLISH, Sender::Server).unwrap();
        assert_eq!(
            set.iter().map(|(_, value)| value).collect::<Vec<_>>(),
            [Value::Var(1), Value::Var(16_383)]
        );
        let expiry = [0x11, 0, 0, 0, 1];
        let disconnect = Place::Packet(PacketType::Disconnect);
        assert!(Properties::check(&expiry, disconnect, Sender::Client).is_ok());
        let error = Properties::check(&expiry, disconnect, Sender::Server).unwrap_err();
        assert_eq!(error.kind, ErrorKind::SessionExpiryFromServer);
    }
}
