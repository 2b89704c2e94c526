//! The packets that come from one side, and all that follows from them on their way to the other.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::alias::Aliases;
use super::decision_cache::DecisionCache;
use super::deferred::Deferred;
use super::flows::Flows;
use super::in_flight::InFlight;
use super::lane::Lane;
use super::step::Step;

/// One direction of a session.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Direction {
    /// Packets that wait for their turn.
    #[serde(skip)]
    pub(super) lane: Lane,
    /// The payload that is just passing.
    pub(super) body: StreamedBody,
    /// Topic aliases, once there are some.
    aliases: Option<Box<Aliases>>,
    /// Answers that stand; only where somebody decides by rules.
    #[serde(skip)]
    pub(super) cache: Option<Box<DecisionCache>>,
    /// Packets of our own for the receiver, written while a streamed payload was on its way to it.
    pub(super) deferred: Deferred,
    /// Packet ids of its publishes that are under way. Of the client's alone: the broker counts its own.
    pub(super) in_flight: InFlight,
    /// Acknowledgements of its publishes, where their order or their coming matters.
    flows: Option<Box<Flows>>,
}

/// The payload of a PUBLISH that streams: what of it is still to come, and what becomes of that.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct StreamedBody {
    pub(super) left: u32,
    pub(super) follows: Follows,
}

/// What becomes of a payload that streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Follows {
    /// Its head has left: it follows.
    #[default]
    Head,
    /// Its head was refused, or it was replaced: it goes nowhere.
    Nothing,
    /// Its head still waits. That side is not read.
    Verdict,
}

impl Direction {
    /// Whether nothing of it waits, and no payload is half through.
    pub(super) fn is_at_rest(&self) -> bool {
        self.body.left == 0 && self.lane.is_empty()
    }

    /// Whether the receiver is in the middle of a packet.
    pub(super) fn mid_packet(&self) -> bool {
        self.body.left > 0 && self.body.follows == Follows::Head
    }

    /// `here` of `total` bytes leave as they are, and so will the rest of them when it comes.
    pub(super) fn pass(&mut self, here: usize, total: usize) -> Step {
        // No packet has more than 28 bits of length (2.1.4), and no more of it is here than it has.
        self.body = StreamedBody { left: (total - here) as u32, follows: Follows::Head };
        Step::pass(here)
    }

    /// `here` of `total` bytes go nowhere, and neither will the rest of them when it comes.
    pub(super) fn skip(&mut self, here: usize, total: usize) -> Step {
        self.body = StreamedBody { left: (total - here) as u32, follows: Follows::Nothing };
        Step::swallow(here)
    }

    /// The payload that was to follow a head that has left its lane follows nothing.
    pub(super) fn skip_body(&mut self, streams: bool) {
        if streams {
            self.body.follows = Follows::Nothing;
        }
    }

    pub(super) fn aliases(&mut self) -> &mut Aliases {
        self.aliases.get_or_insert_default()
    }

    /// What its sender means by `alias`.
    pub(super) fn alias_topic(&self, alias: u16) -> Option<Arc<str>> {
        self.aliases.as_ref()?.sender_topic(alias)
    }

    /// Whether the receiver takes `alias` for `topic`.
    pub(super) fn receiver_knows(&self, alias: u16, topic: &str) -> bool {
        self.aliases.as_ref().is_some_and(|aliases| aliases.receiver_has(alias, topic))
    }

    /// The acknowledgements that matter, from now on.
    pub(super) fn flows(&mut self) -> &mut Flows {
        self.flows.get_or_insert_default()
    }

    /// The same, if any has mattered.
    pub(super) fn known_flows(&self) -> Option<&Flows> {
        self.flows.as_deref()
    }

    pub(super) fn known_flows_mut(&mut self) -> Option<&mut Flows> {
        self.flows.as_deref_mut()
    }

    /// Whether a flow of this id was ours to answer, and is still open.
    pub(super) fn answers_itself(&self, id: mproxy_codec::types::PacketId) -> bool {
        self.flows.as_ref().is_some_and(|flows| flows.ours.contains(&id))
    }

    /// Bytes kept until the receiver acknowledges, for events.
    pub(super) fn kept_bytes(&self) -> usize {
        self.flows.as_ref().map_or(0, |flows| flows.kept_bytes())
    }

    /// Whether its sender has to wait until some of what it has published is acknowledged.
    pub(super) fn flows_full(&self) -> bool {
        self.flows.as_ref().is_some_and(|flows| flows.full())
    }

    /// Bytes that it makes us hold.
    pub(super) fn weight(&self) -> usize {
        self.lane.weight()
            + self.cache.as_ref().map_or(0, |cache| cache.weight())
            + self.aliases.as_ref().map_or(0, |aliases| aliases.weight())
            + self.flows.as_ref().map_or(0, |flows| flows.weight())
    }

    /// Whether something of that goes by itself.
    pub(super) fn lets_go(&self) -> bool {
        !self.lane.is_empty() || self.flows.as_ref().is_some_and(|flows| flows.weight() > 0)
    }

    /// Whether its receiver may have yet to acknowledge a PUBLISH.
    pub(super) fn is_owed(&self) -> bool {
        self.in_flight.any_forwarded() || self.flows.as_ref().is_some_and(|flows| flows.weight() > 0)
    }

    /// Packets of our own that waited for the end of a payload.
    pub(super) fn take_deferred(&mut self) -> VecDeque<Bytes> {
        self.deferred.take()
    }

    /// It is all over: nothing of it is remembered.
    pub(super) fn forget(&mut self) {
        self.lane.clear();
        self.flows = None;
    }
}
