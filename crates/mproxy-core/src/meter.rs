//! The counts a session makes on its way, for whoever keeps metrics.

use mproxy_codec::packet::{Subscribe, Unsubscribe};
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketId, PacketType, QoS, Version};

use crate::peer::{Origin, Peer, Side};
use crate::policy::{Failure, Hook, OnError, Overload, Source, Unusable};
use crate::record::DecisionRecord;

/// How a decision came out; a label of the decision counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Allowed as it was.
    Allowed,
    /// Allowed with changes.
    Changed,
    /// Refused.
    Refused,
}

impl Outcome {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Allowed, Self::Changed, Self::Refused];

    /// `"allowed"`, `"changed"` or `"refused"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Changed => "changed",
            Self::Refused => "refused",
        }
    }
}

/// How an authentication that mproxy answers came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeOutcome {
    /// The client is who it says it is.
    Success,
    /// An adviser refused it.
    Refused,
    /// An answer failed, could not be used, or a limit of our own kept it away.
    Failed,
    /// It took too long.
    TooLate,
    /// The session ended for another reason.
    Abandoned,
}

impl ExchangeOutcome {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Success, Self::Refused, Self::Failed, Self::TooLate, Self::Abandoned];

    /// `"success"`, `"refused"`, `"failed"`, `"too_late"` or `"abandoned"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::TooLate => "too_late",
            Self::Abandoned => "abandoned",
        }
    }
}

/// What became of a packet that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketFate {
    /// It goes to the other side as it is.
    Forwarded,
    /// It does, with changes.
    Changed,
    /// It waits until it is decided.
    Deferred,
    /// It waits for packets before it.
    Queued,
    /// It goes no further; mproxy answers it.
    Answered,
    /// It goes no further, and is not answered.
    Dropped,
}

impl PacketFate {
    /// `"forwarded"`, `"changed"`, `"deferred"`, `"queued"`, `"answered"` or `"dropped"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Changed => "changed",
            Self::Deferred => "deferred",
            Self::Queued => "queued",
            Self::Answered => "answered",
            Self::Dropped => "dropped",
        }
    }
}

/// One packet that came, and what became of it. One that waits is traced again when it leaves.
#[derive(Clone, Copy, Debug)]
pub struct PacketTrace<'a> {
    /// Its client.
    pub peer: &'a Peer,
    /// Who sent it.
    pub from: Side,
    /// Its type.
    pub kind: PacketType,
    /// Its packet identifier, if it has one.
    pub id: Option<PacketId>,
    /// The topic of a PUBLISH, as its sender means it.
    pub topic: Option<&'a str>,
    /// The topic with which a PUBLISH goes on, where that is another one.
    pub sent_topic: Option<&'a str>,
    /// What else is in it.
    pub detail: PacketDetail<'a>,
    /// Its bytes in all, payload included.
    pub size: usize,
    /// What became of it.
    pub fate: PacketFate,
    /// Why not all of it, or nothing, went on, where that was decided.
    pub refusal: Option<TracedRefusal>,
}

/// Who refused a packet, or some of its filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedRefusal {
    /// Who.
    pub source: Source,
    /// With this reason code.
    pub reason: ReasonCode,
}

/// What is in a packet, apart from its topic. Passwords and what is in AUTH are never here.
#[derive(Clone, Copy, Debug)]
pub enum PacketDetail<'a> {
    /// Nothing, or nothing that could be read.
    None,
    /// Of a CONNECT.
    Connect(TracedConnect<'a>),
    /// Of a CONNACK.
    Connack {
        /// The broker has a session of this client.
        session_present: bool,
        /// The reason code (5.0) or return code (3.x).
        reason: u8,
    },
    /// Of a PUBLISH.
    Publish {
        /// It is sent again.
        dup: bool,
        /// Its QoS.
        qos: QoS,
        /// Its RETAIN flag.
        retain: bool,
        /// As much of the payload as is here.
        payload: &'a [u8],
        /// The size of the whole payload.
        payload_size: usize,
    },
    /// The filters of a SUBSCRIBE.
    Subscribe(Subscribe<'a>),
    /// The filters of an UNSUBSCRIBE.
    Unsubscribe(Unsubscribe<'a>),
    /// The codes of a SUBACK or an UNSUBACK.
    Codes(&'a [u8]),
    /// Of an acknowledgement, a DISCONNECT or an AUTH.
    Reason(ReasonCode),
}

/// A CONNECT as it came, without its password and what is in its will.
#[derive(Clone, Copy, Debug)]
pub struct TracedConnect<'a> {
    /// The protocol version.
    pub version: Version,
    /// The client identifier.
    pub client_id: &'a str,
    /// The user name.
    pub username: Option<&'a str>,
    /// Clean Start (5.0) or Clean Session (3.x).
    pub clean_start: bool,
    /// Seconds; 0 is no keep alive.
    pub keep_alive: u16,
    /// The topic of its will.
    pub will_topic: Option<&'a str>,
}

/// Somebody who counts. Called on the packet path: implementations hold cached handles and never look up labels.
pub trait Meter: Send + Sync {
    /// So many packets of this type came from this side, of so many bytes in all. Runs of one type come as one call.
    fn packets(&self, from: Side, kind: PacketType, packets: u64, bytes: u64);

    /// So many decisions were taken (a SUBSCRIBE counts one for each filter), all alike.
    fn decisions(&self, hook: Hook, source: Source, outcome: Outcome, count: u64);

    /// An answer about this client failed, and this is what that means for the packet. The decision itself is counted
    /// besides.
    fn failed(&self, hook: Hook, failure: &Failure, rule: OnError, peer: &Peer);

    /// An answer about this client cannot be carried out: the packet is refused. Counted besides, too.
    fn unusable(&self, hook: Hook, unusable: &Unusable, peer: &Peer);

    /// A limit of mproxy's own kept a question about this client from being answered: the packet is refused. Counted
    /// besides, too.
    fn overloaded(&self, hook: Hook, overload: &Overload, peer: &Peer);

    /// So many deliveries were dropped because no subscription that a replaced grant still allows explains them. The
    /// decision is counted besides, too.
    fn revoked_deliveries(&self, count: u64) {
        let _ = count;
    }

    /// A client is not read from now on, until it is within its rates again.
    fn rate_wait(&self) {}

    /// Whether some of what is allowed is to be recorded, too: once a read for what passes at a fast path, and else with each
    /// decision. While it is not, the next is not asked.
    fn samples_allowed(&self) -> bool {
        false
    }

    /// Whether this decision, which allows, is one of those. Asked for each of them: cheap.
    fn picks_allowed(&self) -> bool {
        false
    }

    /// Something was refused, or was [picked](Self::picks_allowed). Called for each refusal.
    fn record(&self, decision: &DecisionRecord<'_>) {
        let _ = decision;
    }

    /// An authentication that mproxy answers came to its end: one of a CONNECT, or one of an open session `again`.
    fn exchange(&self, again: bool, outcome: ExchangeOutcome) {
        let _ = (again, outcome);
    }

    /// Whether [`packet`](Self::packet) is wanted of any connection. Asked once a read.
    fn traces(&self) -> bool {
        false
    }

    /// Whether it is wanted of this one, whose client is known once its CONNECT has been read. Asked once a read where some
    /// are; while it is, packets of that connection take no fast path.
    fn traces_connection(&self, origin: &Origin, peer: Option<&Peer>) -> bool {
        let _ = (origin, peer);
        true
    }

    /// One packet came, and this became of it.
    fn packet(&self, packet: &PacketTrace<'_>) {
        let _ = packet;
    }
}

/// A meter that counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unmetered;

impl Meter for Unmetered {
    fn packets(&self, _from: Side, _kind: PacketType, _packets: u64, _bytes: u64) {}

    fn decisions(&self, _hook: Hook, _source: Source, _outcome: Outcome, _count: u64) {}

    fn failed(&self, _hook: Hook, _failure: &Failure, _rule: OnError, _peer: &Peer) {}

    fn unusable(&self, _hook: Hook, _unusable: &Unusable, _peer: &Peer) {}

    fn overloaded(&self, _hook: Hook, _overload: &Overload, _peer: &Peer) {}
}
