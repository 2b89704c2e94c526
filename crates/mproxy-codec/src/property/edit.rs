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

    /// Writes length and set.
    pub(crate) fn write(&self, body: &mut Body<'_>) -> Result<(), EncodeError> {
        body.varint(measure(|body| self.write_set(body))?)?;
        self.write_set(body)
    }

    fn write_set(&self, body: &mut Body<'_>) -> Result<(), EncodeError> {
        if self.dropped.is_empty() {
            body.raw(self.kept.raw());
        } else {
            let mut rest = self.kept.raw();
            while let Some((row, _, next)) = split(rest) {
                if !self.dropped.contains(row.id) {
                    body.raw(&rest[..rest.len() - next.len()]);
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
        _ => return Err(EncodeError::PropertyType { id }),
    }
    Ok(())
}
