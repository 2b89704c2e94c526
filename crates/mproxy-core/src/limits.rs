//! Every bound and deadline of a session, with its default and the reason for it.

mod topic;

use std::time::Duration;

pub use self::topic::TopicLimits;

/// Bounds of one session. What happens at a bound is said on its field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the largest packet a client may send, fixed header included. Larger: 0x95 and the end.
    pub max_packet_size: u32,
    /// Bytes of a packet, or of a PUBLISH up to its payload, that are held to be looked at. Larger: 0x95 and the end.
    pub max_held_packet: u32,
    /// Bytes of the largest CONNECT. Larger: 0x95 and the end.
    pub max_connect: u32,
    /// Bytes of user properties that a packet of the client's may have, will included. More: refused with 0x97.
    pub max_user_properties: usize,
    /// Packets of one direction that may wait for a verdict. At the bound that side is not read.
    pub lane_packets: usize,
    /// Bytes of one direction that may wait for a verdict. At the bound that side is not read.
    pub lane_bytes: usize,
    /// Of the topics of a client's PUBLISH packets and will, and its filters. Beyond: refused, with 0x90 or, a filter, 0x8F.
    pub topic: TopicLimits,
    /// Subscriptions of a client at a time, those of its earlier connections aside. More: refused with 0x97. `None`: no limit.
    pub subscriptions: Option<u32>,
    /// Bytes of topics that a client's topic aliases may hold. Beyond: 0x97 and the end.
    pub alias_bytes: usize,
    /// Seconds of the longest keep alive. 5.0 clients are told of a shorter one (Server Keep Alive); 3.x has no word for
    /// that, so a client that asks for more, or for none, is refused. `None`: as the client wants.
    pub max_keep_alive: Option<u16>,
    /// Seconds that a 5.0 session may outlast its connection at most. A client that asks for more is told.
    pub max_session_expiry: Option<u32>,
    /// How long a grant serves after its time, while the policy is asked for another and does not answer.
    pub grant_staleness: Duration,
    /// Accept to CONNECT read whole: the relay starts the clock at accept.
    pub connect_timeout: Duration,
    /// CONNECT read whole to the broker reached: so long a question whose answer did not come, and the dial, are tried
    /// again. Then as [`OnUnavailable`](crate::session::OnUnavailable) says.
    pub admission_timeout: Duration,
    /// How long the broker may think about a CONNECT. Then as [`OnUnavailable`](crate::session::OnUnavailable) says.
    pub connack_timeout: Duration,
    /// How long a packet may wait for room in the budget of its listener or in all. Then 0x97 and the end.
    pub room_timeout: Duration,
    /// How long a side that is to be closed may take to read what is still meant for it, and verdicts to come for
    /// packets that a vanished side had sent. Then it is cut. Longer than the advisers' own deadline.
    pub close_timeout: Duration,
}

impl Limits {
    /// Whether filters are limited in any way but by their packet.
    pub(crate) fn of_filters(&self) -> bool {
        self.subscriptions.is_some() || self.topic != TopicLimits::ANY
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // The protocol's own: 4 bytes of length, and the fixed header [MQTT-2.2.3].
            max_packet_size: 268_435_460,
            // A SUBSCRIBE of 20,000 filters or a CONNECT with every field at 65,535 bytes fits.
            max_held_packet: 2 << 20,
            // User name, password and will payload at 65,535 bytes each, their topic, and as much again.
            max_connect: 384 << 10,
            // Hundreds of them; each pair is stored, sent along with every question, and looked through by advisers.
            max_user_properties: 64 << 10,
            // Enough to keep a policy service busy over a slow link. A question on its way costs some 8 KiB however small its
            // packet is, so that tiny packets make mproxy hold less than 1 MiB.
            lane_packets: 112,
            lane_bytes: 1 << 20,
            // Mosquitto allows 10 aliases, EMQX 65,535: a bound in bytes serves both.
            alias_bytes: 256 << 10,
            topic: TopicLimits::ANY,
            subscriptions: None,
            max_keep_alive: None,
            max_session_expiry: None,
            // A restart of the policy service should pass unnoticed.
            grant_staleness: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            // Longer than a broker's restart, shorter than clients wait for a CONNACK (MQTT.js: 30 s).
            admission_timeout: Duration::from_secs(10),
            connack_timeout: Duration::from_secs(10),
            // Longer than a burst of others, shorter than what a usual keep alive allows.
            room_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(5),
        }
    }
}
