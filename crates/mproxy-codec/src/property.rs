//! Properties of MQTT 5.0: a flat table with a row each, borrowed views of checked sets ([`Properties`]), and
//! sets to write that keep, drop and add ([`PropertyEdit`]).

mod edit;
mod view;

pub use edit::PropertyEdit;
pub(crate) use view::Checked;
pub use view::{Iter, Properties, UserPropertyIter};

use crate::error::ErrorKind;
use crate::types::PacketType;
use std::fmt;

/// The value of a property, by the type that the standard gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// One byte.
    Byte(u8),
    /// Two byte integer.
    Two(u16),
    /// Four byte integer.
    Four(u32),
    /// Variable byte integer.
    Var(u32),
    /// UTF-8 string.
    Text(&'a str),
    /// UTF-8 string pair.
    Pair(&'a str, &'a str),
    /// Binary data.
    Binary(&'a [u8]),
}

/// The type of a property's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// See [`Value::Byte`].
    Byte,
    /// See [`Value::Two`].
    Two,
    /// See [`Value::Four`].
    Four,
    /// See [`Value::Var`].
    Var,
    /// See [`Value::Text`].
    Text,
    /// See [`Value::Pair`].
    Pair,
    /// See [`Value::Binary`].
    Binary,
}

/// Where a set of properties stands: in a packet, or with the will inside CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The properties of the packet itself.
    Packet(PacketType),
    /// The properties of the will.
    Will,
}

impl Place {
    /// The bit of this place in the table's column. No packet has type 0, so the will takes its bit.
    const fn bit(self) -> u16 {
        match self {
            Self::Packet(kind) => 1 << kind as u8,
            Self::Will => WILL,
        }
    }
}

/// Which values a property may have, beyond what its type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    Any,
    Boolean,
    NotZero(ErrorKind),
    TopicName,
}

/// A row of the table.
#[derive(Clone, Copy)]
struct PropertyRow {
    id: PropertyId,
    name: &'static str,
    value: ValueType,
    places: u16,
    repeats_in: u16,
    allowed: Allowed,
}

const WILL: u16 = 1;
const CONNECT: u16 = 1 << PacketType::Connect as u8;
const CONNACK: u16 = 1 << PacketType::Connack as u8;
const PUBLISH: u16 = 1 << PacketType::Publish as u8;
const SUBSCRIBE: u16 = 1 << PacketType::Subscribe as u8;
const DISCONNECT: u16 = 1 << PacketType::Disconnect as u8;
const AUTH: u16 = 1 << PacketType::Auth as u8;
/// The packets that carry reason codes, and so reason strings.
const ANSWERS: u16 = CONNACK
    | 1 << PacketType::Puback as u8
    | 1 << PacketType::Pubrec as u8
    | 1 << PacketType::Pubrel as u8
    | 1 << PacketType::Pubcomp as u8
    | 1 << PacketType::Suback as u8
    | 1 << PacketType::Unsuback as u8
    | DISCONNECT
    | AUTH;
/// Every place that has properties at all.
const ALL: u16 = ANSWERS | CONNECT | PUBLISH | WILL | SUBSCRIBE | 1 << PacketType::Unsubscribe as u8;
const NEVER: u16 = 0;

macro_rules! properties {
    ($($id:literal $variant:ident $name:literal $value:ident in $places:expr, repeats in $repeats:expr, $allowed:expr;)*) => {
        /// The identifier of a property.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum PropertyId {
            $(#[doc = concat!($name, ".")] $variant = $id,)*
        }

        impl PropertyId {
            /// All properties, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
        }

        /// The rows, by number.
        const ROWS: [Option<PropertyRow>; 0x2B] = {
            let mut rows = [None; 0x2B];
            $(rows[$id] = Some(PropertyRow {
                id: PropertyId::$variant,
                name: $name,
                value: ValueType::$value,
                places: $places,
                repeats_in: $repeats,
                allowed: $allowed,
            });)*
            rows
        };
    };
}

use Allowed::{Any, Boolean, NotZero, TopicName};

// Table 2-4 of the standard.
properties! {
    0x01 PayloadFormatIndicator "Payload Format Indicator" Byte in PUBLISH | WILL, repeats in NEVER, Any;
    0x02 MessageExpiryInterval "Message Expiry Interval" Four in PUBLISH | WILL, repeats in NEVER, Any;
    0x03 ContentType "Content Type" Text in PUBLISH | WILL, repeats in NEVER, Any;
    0x08 ResponseTopic "Response Topic" Text in PUBLISH | WILL, repeats in NEVER, TopicName;
    0x09 CorrelationData "Correlation Data" Binary in PUBLISH | WILL, repeats in NEVER, Any;
// A message that matched several subscriptions carries the identifier of each (3.3.4).
    0x0B SubscriptionIdentifier "Subscription Identifier" Var in PUBLISH | SUBSCRIBE, repeats in PUBLISH,
        NotZero(ErrorKind::SubscriptionIdZero);
    0x11 SessionExpiryInterval "Session Expiry Interval" Four in CONNECT | CONNACK | DISCONNECT, repeats in NEVER, Any;
    0x12 AssignedClientIdentifier "Assigned Client Identifier" Text in CONNACK, repeats in NEVER, Any;
    0x13 ServerKeepAlive "Server Keep Alive" Two in CONNACK, repeats in NEVER, Any;
    0x15 AuthenticationMethod "Authentication Method" Text in CONNECT | CONNACK | AUTH, repeats in NEVER, Any;
    0x16 AuthenticationData "Authentication Data" Binary in CONNECT | CONNACK | AUTH, repeats in NEVER, Any;
    0x17 RequestProblemInformation "Request Problem Information" Byte in CONNECT, repeats in NEVER, Boolean;
    0x18 WillDelayInterval "Will Delay Interval" Four in WILL, repeats in NEVER, Any;
    0x19 RequestResponseInformation "Request Response Information" Byte in CONNECT, repeats in NEVER, Boolean;
    0x1A ResponseInformation "Response Information" Text in CONNACK, repeats in NEVER, Any;
    0x1C ServerReference "Server Reference" Text in CONNACK | DISCONNECT, repeats in NEVER, Any;
    0x1F ReasonString "Reason String" Text in ANSWERS, repeats in NEVER, Any;
    0x21 ReceiveMaximum "Receive Maximum" Two in CONNECT | CONNACK, repeats in NEVER,
        NotZero(ErrorKind::ReceiveMaximumZero);
    0x22 TopicAliasMaximum "Topic Alias Maximum" Two in CONNECT | CONNACK, repeats in NEVER, Any;
    0x23 TopicAlias "Topic Alias" Two in PUBLISH, repeats in NEVER, NotZero(ErrorKind::TopicAliasZero);
    0x24 MaximumQoS "Maximum QoS" Byte in CONNACK, repeats in NEVER, Boolean;
    0x25 RetainAvailable "Retain Available" Byte in CONNACK, repeats in NEVER, Boolean;
    0x26 UserProperty "User Property" Pair in ALL, repeats in ALL, Any;
    0x27 MaximumPacketSize "Maximum Packet Size" Four in CONNECT | CONNACK, repeats in NEVER,
        NotZero(ErrorKind::MaximumPacketSizeZero);
    0x28 WildcardSubscriptionAvailable "Wildcard Subscription Available" Byte in CONNACK, repeats in NEVER, Boolean;
    0x29 SubscriptionIdentifierAvailable "Subscription Identifier Available" Byte in CONNACK, repeats in NEVER, Boolean;
    0x2A SharedSubscriptionAvailable "Shared Subscription Available" Byte in CONNACK, repeats in NEVER, Boolean;
}

#[inline]
fn row(id: u8) -> Option<&'static PropertyRow> {
    // Numbers have holes between them, and any byte may come off the wire.
    ROWS.get(usize::from(id))?.as_ref()
}

impl PropertyId {
    /// The property with this number.
    #[inline]
    #[must_use]
    pub fn from_byte(id: u8) -> Option<Self> {
        row(id).map(|row| row.id)
    }

    /// The name as the standard writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        row(self as u8).map_or("", |row| row.name)
    }

    /// The type of its value.
    #[must_use]
    pub fn value_type(self) -> ValueType {
        row(self as u8).map_or(ValueType::Binary, |row| row.value)
    }

    /// Whether it may stand there.
    #[must_use]
    pub fn allowed_in(self, place: Place) -> bool {
        row(self as u8).is_some_and(|row| row.places & place.bit() != 0)
    }

    /// Whether it may stand there more than once.
    #[must_use]
    pub fn may_repeat_in(self, place: Place) -> bool {
        row(self as u8).is_some_and(|row| row.repeats_in & place.bit() != 0)
    }
}

impl fmt::Display for PropertyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of property identifiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PropertySet(u64);

impl PropertySet {
    /// The set of none.
    pub const EMPTY: Self = Self(0);

    /// This set and one more.
    #[inline]
    #[must_use]
    pub const fn with(self, id: PropertyId) -> Self {
        // The largest number is 0x2A, so a word holds them all.
        Self(self.0 | 1 << id as u8)
    }

    /// Whether `id` is in it.
    #[inline]
    #[must_use]
    pub const fn contains(self, id: PropertyId) -> bool {
        self.0 >> id as u8 & 1 == 1
    }

    /// Whether nothing is in it.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_all_27_rows_under_their_numbers() {
        assert_eq!(PropertyId::ALL.len(), 27);
        assert_eq!(ROWS.iter().flatten().count(), 27);
        for id in PropertyId::ALL {
            assert_eq!(PropertyId::from_byte(*id as u8), Some(*id));
            assert!(!id.name().is_empty());
        }
        assert_eq!(PropertyId::from_byte(0), None);
        assert_eq!(PropertyId::from_byte(0x2B), None);
    }

    #[test]
    fn only_user_properties_and_subscription_identifiers_repeat() {
        let publish = Place::Packet(PacketType::Publish);
        let repeating: Vec<_> = PropertyId::ALL.iter().filter(|id| id.may_repeat_in(publish)).collect();
        assert_eq!(repeating, [&PropertyId::SubscriptionIdentifier, &PropertyId::UserProperty]);
        assert!(!PropertyId::SubscriptionIdentifier.may_repeat_in(Place::Packet(PacketType::Subscribe)));
    }

    #[test]
    fn a_ping_has_no_properties() {
        for kind in [PacketType::Pingreq, PacketType::Pingresp] {
            assert!(PropertyId::ALL.iter().all(|id| !id.allowed_in(Place::Packet(kind))));
        }
    }
}
