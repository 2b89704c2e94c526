//! What is wrong with a packet: the fault, where it stands, which rule of the standard it breaks and with
//! which reason code a 5.0 connection is told of it. A flat table, one row for each fault.

use crate::reason::ReasonCode;
use crate::topic::TopicError;
use crate::types::PacketType;
use std::error::Error;
use std::fmt;

/// Why bytes are not a valid packet. Small, so that a `Result` of it stays cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The fault.
    pub kind: ErrorKind,
    /// The type of the packet, as far as its first byte told it.
    pub packet: Option<PacketType>,
    /// Where the fault stands, counted from the packet's first byte.
    pub offset: u32,
}

impl Malformed {
    #[cold]
    pub(crate) fn new(kind: ErrorKind, packet: Option<PacketType>, offset: usize) -> Self {
        Self { kind, packet, offset: u32::try_from(offset).unwrap_or(u32::MAX) }
    }

    /// The number of the broken rule, such as `MQTT-3.3.1-4`. Numbers are those of MQTT 5.0; rules that only
    /// 3.x has carry theirs. Empty where the text states the rule without a number.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match (self.kind, self.packet) {
            // Rules that the standard states once for each packet.
            (ErrorKind::ReservedFlags, Some(PacketType::Pubrel)) => "MQTT-3.6.1-1",
            (ErrorKind::ReservedFlags, Some(PacketType::Subscribe)) => "MQTT-3.8.1-1",
            (ErrorKind::ReservedFlags, Some(PacketType::Unsubscribe)) => "MQTT-3.10.1-1",
            (ErrorKind::ReservedFlags, Some(PacketType::Disconnect)) => "MQTT-3.14.1-1",
            (ErrorKind::ReservedFlags, Some(PacketType::Auth)) => "MQTT-3.15.1-1",
            (ErrorKind::ReasonCodeUnknown, Some(PacketType::Puback)) => "MQTT-3.4.2-1",
            (ErrorKind::ReasonCodeUnknown, Some(PacketType::Pubrec)) => "MQTT-3.5.2-1",
            (ErrorKind::ReasonCodeUnknown, Some(PacketType::Pubrel)) => "MQTT-3.6.2-1",
            (ErrorKind::ReasonCodeUnknown, Some(PacketType::Pubcomp)) => "MQTT-3.7.2-1",
            (ErrorKind::ReasonCodeUnknown, Some(PacketType::Disconnect)) => "MQTT-3.14.2-1",
            (ErrorKind::ReasonCodeUnknown, Some(PacketType::Auth)) => "MQTT-3.15.2-1",
            (ErrorKind::NoTopicFilter, Some(PacketType::Unsubscribe)) => "MQTT-3.10.3-2",
            (kind, _) => kind.rule(),
        }
    }

    /// The reason code of the DISCONNECT or CONNACK that ends a 5.0 connection for this fault.
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        self.kind.reason()
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(packet) = self.packet {
            write!(f, "{packet}: ")?;
        }
        write!(f, "{} at byte {}", self.kind.message(), self.offset)?;
        match self.rule() {
            // The standard states some rules in its text alone; their number would be an invention.
            "" => Ok(()),
            rule => write!(f, " [{rule}]"),
        }
    }
}

impl Error for Malformed {}

const MALFORMED: ReasonCode = ReasonCode::MALFORMED_PACKET;
const PROTOCOL: ReasonCode = ReasonCode::PROTOCOL_ERROR;
const VERSION: ReasonCode = ReasonCode::UNSUPPORTED_PROTOCOL_VERSION;
const CLIENT_ID: ReasonCode = ReasonCode::CLIENT_IDENTIFIER_NOT_VALID;
const ALIAS: ReasonCode = ReasonCode::TOPIC_ALIAS_INVALID;

macro_rules! faults {
    ($($kind:ident: $message:literal, $rule:literal, $reason:ident;)*) => {
        /// A fault that a packet can have.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum ErrorKind {
            $(#[doc = concat!("A fault: ", $message, ".")] $kind,)*
        }

        impl ErrorKind {
            /// All faults.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The fault in words.
            #[must_use]
            pub const fn message(self) -> &'static str {
                match self { $(Self::$kind => $message,)* }
            }

            /// The rule where the packet does not matter; see [`Malformed::rule`].
            #[must_use]
            pub const fn rule(self) -> &'static str {
                match self { $(Self::$kind => $rule,)* }
            }

            /// See [`Malformed::reason`].
            #[must_use]
            pub const fn reason(self) -> ReasonCode {
                match self { $(Self::$kind => $reason,)* }
            }
        }
    };
}

faults! {
    // the fixed header
    TypeZero: "packet type 0 is reserved", "", MALFORMED;
    NotConnect: "the first packet is not CONNECT", "MQTT-3.1.0-1", PROTOCOL;
    NotConnack: "the first packet is not CONNACK", "MQTT-3.2.0-1", PROTOCOL;
    WrongDirection: "this packet is not allowed in this direction", "", PROTOCOL;
    WrongVersion: "this packet does not exist in this version", "", PROTOCOL;
    ReservedFlags: "reserved flag bits have wrong values", "MQTT-2.1.3-1", MALFORMED;
    QosThree: "QoS 3", "MQTT-3.3.1-4", MALFORMED;
    DupWithoutQos: "DUP with QoS 0", "MQTT-3.3.1-2", MALFORMED;
    TooShort: "the remaining length is too small for the packet", "", MALFORMED;
    TooLong: "the remaining length is too large for the packet", "", MALFORMED;
    // fields
    IntegerNotMinimal: "a variable byte integer in more bytes than it needs", "MQTT-1.5.5-1", MALFORMED;
    IntegerTooLong: "a variable byte integer of more than four bytes", "", MALFORMED;
    Overrun: "a field is longer than the packet", "", MALFORMED;
    TrailingBytes: "bytes after the last field", "", MALFORMED;
    TextNotUtf8: "text is not well-formed UTF-8", "MQTT-1.5.4-1", MALFORMED;
    TextHoldsNull: "text contains U+0000", "MQTT-1.5.4-2", MALFORMED;
    PacketIdZero: "packet identifier 0", "MQTT-2.2.1-3", PROTOCOL;
    // topics
    TopicNameEmpty: "topic name is empty", "MQTT-4.7.3-1", PROTOCOL;
    TopicNameWildcard: "topic name contains a wildcard", "MQTT-3.3.2-2", MALFORMED;
    TopicFilterEmpty: "topic filter is empty", "MQTT-4.7.3-1", MALFORMED;
    TopicFilterHash: "# is not alone in the last level of the topic filter", "MQTT-4.7.1-1", MALFORMED;
    TopicFilterPlus: "+ is not alone in its level of the topic filter", "MQTT-4.7.1-2", MALFORMED;
    ShareName: "the share name is empty or contains a wildcard", "MQTT-4.8.2-1", PROTOCOL;
    ShareFilter: "the share name is not followed by a topic filter", "MQTT-4.8.2-2", PROTOCOL;
    // properties
    PropertyUnknown: "unknown property", "", MALFORMED;
    PropertyMisplaced: "property that this packet may not carry", "", MALFORMED;
    PropertyTwice: "property that may appear only once", "", PROTOCOL;
    PropertyNotBoolean: "property that must be 0 or 1", "", PROTOCOL;
    ReceiveMaximumZero: "Receive Maximum 0", "", PROTOCOL;
    MaximumPacketSizeZero: "Maximum Packet Size 0", "", PROTOCOL;
    TopicAliasZero: "Topic Alias 0", "MQTT-3.3.2-8", ALIAS;
    SubscriptionIdZero: "Subscription Identifier 0", "", PROTOCOL;
    SubscriptionIdFromClient: "Subscription Identifier in a PUBLISH of a client", "MQTT-3.3.4-6", PROTOCOL;
    ResponseTopicWildcard: "Response Topic contains a wildcard", "MQTT-3.3.2-14", PROTOCOL;
    ResponseTopicEmpty: "Response Topic is empty", "MQTT-4.7.3-1", PROTOCOL;
    SessionExpiryFromServer: "Session Expiry Interval in a DISCONNECT of a server", "MQTT-3.14.2-2", PROTOCOL;
    ServerReferenceFromClient: "Server Reference in a DISCONNECT of a client", "", PROTOCOL;
    AuthenticationMethodMissing: "authentication without an Authentication Method", "", PROTOCOL;
    // CONNECT
    ProtocolName: "unknown protocol name", "MQTT-3.1.2-1", VERSION;
    UnsupportedVersion: "unsupported protocol level", "MQTT-3.1.2-2", VERSION;
    ConnectReserved: "the reserved connect flag is set", "MQTT-3.1.2-3", MALFORMED;
    WillQosWithoutWill: "Will QoS without a will", "MQTT-3.1.2-11", MALFORMED;
    WillQosThree: "Will QoS 3", "MQTT-3.1.2-12", MALFORMED;
    WillRetainWithoutWill: "Will Retain without a will", "MQTT-3.1.2-13", MALFORMED;
    PasswordWithoutUserName: "password without user name", "MQTT-3.1.2-22", MALFORMED;
    ClientIdEmpty: "client identifier is empty", "MQTT-3.1.3-8", CLIENT_ID;
    // the other packets
    ConnackReserved: "reserved acknowledge flags are set", "MQTT-3.2.2-1", MALFORMED;
    ReasonCodeUnknown: "reason code that this packet may not carry", "", PROTOCOL;
    NoCode: "no reason code for any topic filter", "", MALFORMED;
    NoTopicFilter: "no topic filter", "MQTT-3.8.3-2", PROTOCOL;
    SubscribeReserved: "reserved subscription options are set", "MQTT-3.8.3-5", MALFORMED;
    SubscribeQosThree: "requested QoS 3", "", PROTOCOL;
    RetainHandlingThree: "Retain Handling 3", "", PROTOCOL;
    NoLocalOnShare: "No Local on a shared subscription", "MQTT-3.8.3-4", PROTOCOL;
}

impl From<TopicError> for ErrorKind {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::EmptyName => Self::TopicNameEmpty,
            TopicError::Wildcard { .. } => Self::TopicNameWildcard,
            TopicError::Null { .. } => Self::TextHoldsNull,
            TopicError::TooLong => Self::TooLong,
            TopicError::EmptyFilter => Self::TopicFilterEmpty,
            TopicError::Hash { .. } => Self::TopicFilterHash,
            TopicError::Plus { .. } => Self::TopicFilterPlus,
            TopicError::ShareName { .. } => Self::ShareName,
            TopicError::ShareFilter { .. } => Self::ShareFilter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_small() {
        assert!(size_of::<Malformed>() <= 8);
        assert!(size_of::<Result<(), Malformed>>() <= 12);
    }

    #[test]
    fn display_tells_packet_fault_place_and_rule() {
        let error = Malformed::new(ErrorKind::TopicNameWildcard, Some(PacketType::Publish), 4);
        assert_eq!(error.to_string(), "PUBLISH: topic name contains a wildcard at byte 4 [MQTT-3.3.2-2]");
        let error = Malformed::new(ErrorKind::TypeZero, None, 0);
        assert_eq!(error.to_string(), "packet type 0 is reserved at byte 0");
    }

    #[test]
    fn a_rule_that_is_stated_for_each_packet_is_told_by_its_own_number() {
        let rule = |packet| Malformed::new(ErrorKind::NoTopicFilter, Some(packet), 4).rule();
        assert_eq!(rule(PacketType::Subscribe), "MQTT-3.8.3-2");
        assert_eq!(rule(PacketType::Unsubscribe), "MQTT-3.10.3-2");
    }

    #[test]
    fn every_fault_has_a_message_and_an_error_code() {
        for kind in ErrorKind::ALL {
            assert!(!kind.message().is_empty());
            assert!(kind.reason().is_error(), "{kind:?}");
            assert!(kind.rule().is_empty() || kind.rule().starts_with("MQTT-"), "{kind:?}");
        }
    }
}
