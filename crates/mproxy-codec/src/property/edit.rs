//! A set of properties to write: what is kept of an old set, and what is added.

use super::view::split;
use super::{Properties, PropertyId, PropertySet, Value, ValueType};
use crate::encode::{Body, EncodeError, measure};

/// An old set minus some properties plus others. Borrows everything; nothing is copied before it is written.
///
/// ```
/// use mproxy_codec::{Properties, PropertyEdit, PropertyId, Value};
///
/// let alias = [(PropertyId::TopicAlias, Value::Two(7))];
/// let edit = PropertyEdit::keep(Properties::EMPTY).without(PropertyId::UserProperty).with(&alias);
/// assert!(!edit.is_empty());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct PropertyEdit<'a> {
    kept: Properties<'a>,
    dropped: PropertySet,
    added: &'a [(PropertyId, Value<'a>)],
}

impl<'a> PropertyEdit<'a> {
    /// No properties.
    pub const NONE: Self = Self { kept: Properties::EMPTY, dropped: PropertySet::EMPTY, added: &[] };

    /// All of `properties`, byte for byte.
    #[must_use]
    pub const fn keep(properties: Properties<'a>) -> Self {
        Self { kept: properties, ..Self::NONE }
    }

    /// Only these.
    #[must_use]
    pub const fn only(added: &'a [(PropertyId, Value<'a>)]) -> Self {
        Self { added, ..Self::NONE }
    }

    /// Drops every `id` of the old set.
    #[must_use]
    pub const fn without(mut self, id: PropertyId) -> Self {
        self.dropped = self.dropped.with(id);
        self
    }

    /// Adds these behind the old set. Each takes the place of its namesake there, except user properties and
    /// subscription identifiers, which join theirs unless [`without`](Self::without) drops them.
    #[must_use]
    pub const fn with(mut self, added: &'a [(PropertyId, Value<'a>)]) -> Self {
        self.added = added;
        let mut rest = added;
        while let [(id, _), tail @ ..] = rest {
            // Two of one property are a protocol error, but for these two, of which there may be many.
            if !matches!(id, PropertyId::UserProperty | PropertyId::SubscriptionIdentifier) {
                self.dropped = self.dropped.with(*id);
            }
            rest = tail;
        }
        self
    }

    /// Whether nothing would be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let mut rest = self.kept.raw();
        while let Some((row, _, next)) = split(rest) {
            if !self.dropped.contains(row.id) {
                return false;
            }
            rest = next;
        }
        self.added.is_empty()
    }

    /// The bytes of the set, without the length before them: for a set that stands inside of a packet's other fields.
    ///
    /// # Errors
    /// A property is too long.
    pub fn to_bytes(&self) -> Result<bytes::BytesMut, EncodeError> {
        let mut out = bytes::BytesMut::new();
        self.write_set(&mut Body::over(&mut out))?;
        Ok(out)
    }

    /// Writes length and set.
    pub(crate) fn write(&self, body: &mut Body<'_>) -> Result<(), EncodeError> {
        // The length stands before the set and has no fixed width, so the set is measured before it is written.
        body.varint(measure(|body| self.write_set(body))?)?;
        self.write_set(body)
    }

    fn write_set(&self, body: &mut Body<'_>) -> Result<(), EncodeError> {
        if self.dropped.is_empty() {
            // As a whole: what nobody touches keeps its bytes and its order.
            body.raw(self.kept.raw());
        } else {
            let mut rest = self.kept.raw();
            while let Some((row, value, next)) = split(rest) {
                if !self.dropped.contains(row.id) {
                    body.u8(row.id as u8);
                    body.raw(value);
                }
                rest = next;
            }
        }
        self.added.iter().try_for_each(|(id, value)| write_one(body, *id, *value))
    }
}

impl<'a> From<Properties<'a>> for PropertyEdit<'a> {
    fn from(properties: Properties<'a>) -> Self {
        Self::keep(properties)
    }
}

fn write_one(body: &mut Body<'_>, id: PropertyId, value: Value<'_>) -> Result<(), EncodeError> {
    body.u8(id as u8);
    match (id.value_type(), value) {
        (ValueType::Byte, Value::Byte(value)) => body.u8(value),
        (ValueType::Two, Value::Two(value)) => body.u16(value),
        (ValueType::Four, Value::Four(value)) => body.u32(value),
        (ValueType::Var, Value::Var(value)) => body.varint(value as usize)?,
        (ValueType::Text, Value::Text(value)) => body.field(id.name(), value.as_bytes())?,
        (ValueType::Binary, Value::Binary(value)) => body.field(id.name(), value)?,
        (ValueType::Pair, Value::Pair(name, value)) => {
            body.field(id.name(), name.as_bytes())?;
            body.field(id.name(), value.as_bytes())?;
        }
        // Written all the same it would shift every field behind it.
        _ => return Err(EncodeError::PropertyType { id }),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::property::Place;
    use crate::types::{PacketType, Sender};
    use bytes::BytesMut;

    const OLD: &[u8] = b"\x23\0\x05\x26\0\x01k\0\x01v\x03\0\x01t";

    fn old() -> Properties<'static> {
        Properties::check(OLD, Place::Packet(PacketType::Publish), Sender::Client).unwrap()
    }

    fn written(edit: PropertyEdit<'_>) -> Vec<u8> {
        let mut out = BytesMut::new();
        crate::encode::packet(&mut out, 0, |body| edit.write(body)).unwrap();
        assert_eq!(edit.is_empty(), out[2..] == [0]);
        assert_eq!(usize::from(out[2]), out.len() - 3);
        out[3..].to_vec()
    }

    #[test]
    fn a_kept_set_is_the_same_bytes() {
        assert_eq!(written(PropertyEdit::keep(old())), OLD);
        assert_eq!(written(PropertyEdit::NONE), b"");
    }

    #[test]
    fn dropped_properties_leave_and_the_rest_keeps_its_order() {
        let edit = PropertyEdit::keep(old()).without(PropertyId::UserProperty);
        assert_eq!(written(edit), b"\x23\0\x05\x03\0\x01t");
        let edit = edit.without(PropertyId::TopicAlias).without(PropertyId::ContentType);
        assert!(edit.is_empty());
        assert_eq!(written(edit), b"");
    }

    #[test]
    fn an_added_property_takes_the_place_of_its_namesake() {
        let alias = [(PropertyId::TopicAlias, Value::Two(9))];
        assert_eq!(
            written(PropertyEdit::keep(old()).with(&alias)),
            b"\x26\0\x01k\0\x01v\x03\0\x01t\x23\0\x09"
        );
    }

    #[test]
    fn user_properties_join_unless_the_old_are_dropped() {
        let user = [(PropertyId::UserProperty, Value::Pair("a", "b"))];
        let joined = PropertyEdit::keep(old()).with(&user);
        assert_eq!(written(joined), b"\x23\0\x05\x26\0\x01k\0\x01v\x03\0\x01t\x26\0\x01a\0\x01b");
        let replaced = joined.without(PropertyId::UserProperty);
        assert_eq!(written(replaced), b"\x23\0\x05\x03\0\x01t\x26\0\x01a\0\x01b");
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        let wrong = [(PropertyId::TopicAlias, Value::Byte(9))];
        let mut out = BytesMut::new();
        let error = crate::encode::packet(&mut out, 0, |body| PropertyEdit::only(&wrong).write(body));
        assert_eq!(error, Err(EncodeError::PropertyType { id: PropertyId::TopicAlias }));
        assert!(out.is_empty());
    }
}
