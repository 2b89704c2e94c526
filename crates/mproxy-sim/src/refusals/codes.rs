//! Which reason code the client sees where a refusal says which: a code that the standard does not allow in a packet
//! would make a strict client hang up. Written down from the standard's own lists, not from the code that follows them.

/// One reason code, and what it is in each packet.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// As the refusal says it.
    pub reason: u8,
    /// Its name in the standard.
    pub name: &'static str,
    /// In a 5.0 CONNACK (3.2.2.2).
    pub connack: u8,
    /// In a CONNACK of 3.1.1 and 3.1.
    pub connack_v3: u8,
    /// In PUBACK (3.4.2.1) and PUBREC (3.5.2.1).
    pub ack: u8,
    /// In SUBACK (3.9.3); 0x80 in 3.1.1 and 3.1.
    pub suback: u8,
    /// In DISCONNECT (3.14.2.1).
    pub disconnect: u8,
}

const fn code(
    reason: u8,
    name: &'static str,
    connack: u8,
    connack_v3: u8,
    ack: u8,
    suback: u8,
    disconnect: u8,
) -> Code {
    Code { reason, name, connack, connack_v3, ack, suback, disconnect }
}

/// All reason codes of 5.0 that refuse.
#[rustfmt::skip]
pub const CODES: &[Code] = &[
    //                                                    CONNACK   3.x  PUBACK  SUBACK  DISCONNECT
    code(0x80, "Unspecified error",                        0x80,     5,   0x80,   0x80,   0x80),
    code(0x81, "Malformed Packet",                         0x81,     5,   0x87,   0x87,   0x81),
    code(0x82, "Protocol Error",                           0x82,     5,   0x87,   0x87,   0x82),
    code(0x83, "Implementation specific error",            0x83,     5,   0x83,   0x83,   0x83),
    code(0x84, "Unsupported Protocol Version",             0x84,     1,   0x87,   0x87,   0x87),
    code(0x85, "Client Identifier not valid",              0x85,     2,   0x87,   0x87,   0x87),
    code(0x86, "Bad User Name or Password",                0x86,     4,   0x87,   0x87,   0x87),
    code(0x87, "Not authorized",                           0x87,     5,   0x87,   0x87,   0x87),
    code(0x88, "Server unavailable",                       0x88,     3,   0x83,   0x83,   0x80),
    code(0x89, "Server busy",                              0x89,     3,   0x87,   0x87,   0x89),
    code(0x8A, "Banned",                                   0x8A,     5,   0x87,   0x87,   0x87),
    code(0x8B, "Server shutting down",                     0x88,     5,   0x87,   0x87,   0x8B),
    code(0x8C, "Bad authentication method",                0x8C,     4,   0x87,   0x87,   0x87),
    code(0x8D, "Keep Alive timeout",                       0x87,     5,   0x87,   0x87,   0x8D),
    code(0x8E, "Session taken over",                       0x87,     5,   0x87,   0x87,   0x8E),
    code(0x8F, "Topic Filter invalid",                     0x87,     5,   0x87,   0x8F,   0x8F),
    code(0x90, "Topic Name invalid",                       0x90,     5,   0x90,   0x87,   0x90),
    code(0x91, "Packet Identifier in use",                 0x87,     5,   0x91,   0x91,   0x87),
    code(0x92, "Packet Identifier not found",              0x87,     5,   0x87,   0x87,   0x87),
    code(0x93, "Receive Maximum exceeded",                 0x82,     5,   0x87,   0x87,   0x93),
    code(0x94, "Topic Alias invalid",                      0x82,     5,   0x87,   0x87,   0x94),
    code(0x95, "Packet too large",                         0x95,     5,   0x97,   0x97,   0x95),
    code(0x96, "Message rate too high",                    0x87,     5,   0x87,   0x87,   0x96),
    code(0x97, "Quota exceeded",                           0x97,     3,   0x97,   0x97,   0x97),
    code(0x98, "Administrative action",                    0x88,     5,   0x87,   0x87,   0x98),
    code(0x99, "Payload format invalid",                   0x99,     5,   0x99,   0x87,   0x99),
    code(0x9A, "Retain not supported",                     0x9A,     5,   0x87,   0x87,   0x9A),
    code(0x9B, "QoS not supported",                        0x9B,     5,   0x87,   0x87,   0x9B),
    code(0x9C, "Use another server",                       0x9C,     5,   0x87,   0x87,   0x9C),
    code(0x9D, "Server moved",                             0x9D,     5,   0x87,   0x87,   0x9D),
    code(0x9E, "Shared Subscriptions not supported",       0x87,     5,   0x87,   0x9E,   0x9E),
    code(0x9F, "Connection rate exceeded",                 0x9F,     3,   0x87,   0x87,   0x9F),
    code(0xA0, "Maximum connect time",                     0x88,     5,   0x87,   0x87,   0xA0),
    code(0xA1, "Subscription Identifiers not supported",   0x87,     5,   0x87,   0xA1,   0xA1),
    code(0xA2, "Wildcard Subscriptions not supported",     0x87,     5,   0x87,   0xA2,   0xA2),
];
