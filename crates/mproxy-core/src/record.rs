//! What the decision log is told: one refusal, or one decision of those that are sampled, and by what it came about.

use std::sync::Arc;

use mproxy_codec::types::{PacketType, QoS};

use crate::fault::Fault;
use crate::peer::{Origin, Peer};
use crate::policy::{Ground, Hook, Refusal, Undecided};

/// One decision. It borrows everything: whoever keeps it copies what it keeps.
#[derive(Clone, Copy, Debug)]
pub struct DecisionRecord<'a> {
    /// Its connection.
    pub origin: &'a Origin,
    /// The client; `None` where its CONNECT could not be read.
    pub peer: Option<&'a Peer>,
    /// What was decided about.
    pub subject: DecisionSubject<'a>,
    /// What was decided.
    pub outcome: DecisionOutcome<'a>,
}

/// What was decided about.
#[derive(Clone, Copy, Debug)]
pub enum DecisionSubject<'a> {
    /// The connection: its CONNECT, or whether it may go on.
    Connection {
        /// The topic of its will, where that was refused.
        will: Option<&'a str>,
    },
    /// A PUBLISH of the client's, or a delivery to it.
    Message {
        /// [`Hook::Publish`] or [`Hook::Deliver`].
        hook: Hook,
        /// Its topic, as the client knows it.
        topic: &'a str,
        /// Its QoS.
        qos: QoS,
        /// Its RETAIN flag.
        retain: bool,
    },
    /// A filter of a SUBSCRIBE.
    Filter {
        /// As the client sent it.
        filter: &'a str,
        /// The QoS that was asked for.
        qos: QoS,
        /// How many further filters of the same SUBSCRIBE were refused and have no record of their own.
        more: usize,
    },
    /// Another packet of the client's.
    Packet(PacketType),
}

/// What was decided.
#[derive(Clone, Copy, Debug)]
pub enum DecisionOutcome<'a> {
    /// It was refused.
    Refused(&'a Refusal),
    /// It was refused, because nothing was decided.
    Undecided(&'a Undecided),
    /// The connection ends because of it.
    Ended {
        /// It.
        fault: &'a Fault,
        /// What it is a matter of, where the fault does not say it.
        hook: Option<Hook>,
        /// By what, where the fault does not say it.
        ground: Option<&'a Ground>,
    },
    /// It was allowed, and is one of those that are [sampled](crate::Meter::samples_allowed).
    Allowed {
        /// What was asked.
        hook: Hook,
        /// By what it was allowed.
        ground: &'a Ground,
        /// The endpoint of the policy service that allowed it in answer to this very question.
        endpoint: Option<&'a Arc<str>>,
        /// With changes.
        changed: bool,
    },
}
