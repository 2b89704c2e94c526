//! Reason codes of MQTT 5.0: names, which packet may carry which, and what they become in 3.x.

use crate::types::{PacketType, Sender};
use std::fmt;

/// A reason code. Any byte can be held; [`valid_in`](Self::valid_in) tells where the standard allows it.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReasonCode(pub u8);

macro_rules! codes {
    ($($konst:ident = $value:literal, $name:literal;)*) => {
        impl ReasonCode {
            $(#[doc = $name] pub const $konst: Self = Self($value);)*

            /// The name that the standard gives the code. 0x00, 0x01 and 0x02 mean other things in a
            /// SUBACK or a DISCONNECT; their general name is returned.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => $name,)*
                    _ => "Unknown reason code",
                }
            }
        }
    };
}

codes! {
    SUCCESS = 0x00, "Success";
    GRANTED_QOS_1 = 0x01, "Granted QoS 1";
    GRANTED_QOS_2 = 0x02, "Granted QoS 2";
    DISCONNECT_WITH_WILL = 0x04, "Disconnect with Will Message";
    NO_MATCHING_SUBSCRIBERS = 0x10, "No matching subscribers";
    NO_SUBSCRIPTION_EXISTED = 0x11, "No subscription existed";
    CONTINUE_AUTHENTICATION = 0x18, "Continue authentication";
    RE_AUTHENTICATE = 0x19, "Re-authenticate";
    UNSPECIFIED_ERROR = 0x80, "Unspecified error";
    MALFORMED_PACKET = 0x81, "Malformed Packet";
    PROTOCOL_ERROR = 0x82, "Protocol Error";
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83, "Implementation specific error";
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, "Unsupported Protocol Version";
    CLIENT_IDENTIFIER_NOT_VALID = 0x85, "Client Identifier not valid";
    BAD_USER_NAME_OR_PASSWORD = 0x86, "Bad User Name or Password";
    NOT_AUTHORIZED = 0x87, "Not authorized";
    SERVER_UNAVAILABLE = 0x88, "Server unavailable";
    SERVER_BUSY = 0x89, "Server busy";
    BANNED = 0x8A, "Banned";
    SERVER_SHUTTING_DOWN = 0x8B, "Server shutting down";
    BAD_AUTHENTICATION_METHOD = 0x8C, "Bad authentication method";
    KEEP_ALIVE_TIMEOUT = 0x8D, "Keep Alive timeout";
    SESSION_TAKEN_OVER = 0x8E, "Session taken over";
    TOPIC_FILTER_INVALID = 0x8F, "Topic Filter invalid";
    TOPIC_NAME_INVALID = 0x90, "Topic Name invalid";
    PACKET_IDENTIFIER_IN_USE = 0x91, "Packet Identifier in use";
    PACKET_IDENTIFIER_NOT_FOUND = 0x92, "Packet Identifier not found";
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, "Receive Maximum exceeded";
    TOPIC_ALIAS_INVALID = 0x94, "Topic Alias invalid";
    PACKET_TOO_LARGE = 0x95, "Packet too large";
    MESSAGE_RATE_TOO_HIGH = 0x96, "Message rate too high";
    QUOTA_EXCEEDED = 0x97, "Quota exceeded";
    ADMINISTRATIVE_ACTION = 0x98, "Administrative action";
    PAYLOAD_FORMAT_INVALID = 0x99, "Payload format invalid";
    RETAIN_NOT_SUPPORTED = 0x9A, "Retain not supported";
    QOS_NOT_SUPPORTED = 0x9B, "QoS not supported";
    USE_ANOTHER_SERVER = 0x9C, "Use another server";
    SERVER_MOVED = 0x9D, "Server moved";
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E, "Shared Subscriptions not supported";
    CONNECTION_RATE_EXCEEDED = 0x9F, "Connection rate exceeded";
    MAXIMUM_CONNECT_TIME = 0xA0, "Maximum connect time";
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1, "Subscription Identifiers not supported";
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2, "Wildcard Subscriptions not supported";
}

impl ReasonCode {
    /// Whether the code says that something failed.
    #[inline]
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// The return code of a 3.1 or 3.1.1 CONNACK that says the same, as near as those versions can.
    #[must_use]
    pub const fn connack_v3(self) -> u8 {
        match self.0 {
            0x00 => 0,
            0x84 => 1,
            0x85 => 2,
            0x88 | 0x89 | 0x97 | 0x9F => 3,
            0x86 | 0x8C => 4,
            // Whatever else the code says: not 0, which accepts.
            _ => 5,
        }
    }

    /// Whether a 5.0 packet of this type from this sender may carry the code.
    #[must_use]
    pub const fn valid_in(self, packet: PacketType, from: Sender) -> bool {
        let client = matches!(from, Sender::Client);
        match packet {
            // [MQTT-3.2.2-8]
            PacketType::Connack => matches!(
                self.0,
                0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
            ),
            // [MQTT-3.4.2-1], [MQTT-3.5.2-1]
            PacketType::Puback | PacketType::Pubrec => {
                matches!(self.0, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            // [MQTT-3.6.2-1], [MQTT-3.7.2-1]
            PacketType::Pubrel | PacketType::Pubcomp => matches!(self.0, 0x00 | 0x92),
            // [MQTT-3.9.3-2]
            PacketType::Suback => {
                matches!(self.0, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
            }
            // [MQTT-3.11.3-2]
            PacketType::Unsuback => matches!(self.0, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
            // [MQTT-3.14.2-1]
            PacketType::Disconnect => match self.0 {
                0x00 | 0x80..=0x83 | 0x90 | 0x93..=0x99 => true,
                0x04 => client,
                0x87 | 0x89 | 0x8B | 0x8D..=0x8F | 0x9A..=0xA2 => !client,
                _ => false,
            },
            // [MQTT-3.15.2-1]
            PacketType::Auth => match self.0 {
                0x18 => true,
                0x00 => !client,
                0x19 => client,
                _ => false,
            },
            PacketType::Connect
            | PacketType::Publish
            | PacketType::Subscribe
            | PacketType::Unsubscribe
            | PacketType::Pingreq
            | PacketType::Pingresp => false,
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.name(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_connect_have_a_return_code_in_3_x() {
        for (code, v3) in [(0, 0), (0x84, 1), (0x85, 2), (0x88, 3), (0x89, 3), (0x97, 3), (0x9F, 3)] {
            assert_eq!(ReasonCode(code).connack_v3(), v3, "{code:#x}");
        }
        for (code, v3) in [(0x86, 4), (0x8C, 4), (0x87, 5), (0x80, 5), (0x8A, 5), (0xFF, 5)] {
            assert_eq!(ReasonCode(code).connack_v3(), v3, "{code:#x}");
        }
    }

    #[test]
    fn disconnect_codes_depend_on_the_sender() {
        let with_will = ReasonCode::DISCONNECT_WITH_WILL;
        assert!(with_will.valid_in(PacketType::Disconnect, Sender::Client));
        assert!(!with_will.valid_in(PacketType::Disconnect, Sender::Server));
        let moved = ReasonCode::SERVER_MOVED;
        assert!(!moved.valid_in(PacketType::Disconnect, Sender::Client));
        assert!(moved.valid_in(PacketType::Disconnect, Sender::Server));
    }

    #[test]
    fn display_tells_name_and_number() {
        assert_eq!(ReasonCode::NOT_AUTHORIZED.to_string(), "Not authorized (0x87)");
        assert_eq!(ReasonCode(0x77).to_string(), "Unknown reason code (0x77)");
    }
}
