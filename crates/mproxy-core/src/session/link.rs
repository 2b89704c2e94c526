//! A client and its broker, from the whole CONNECT on: who the client is, what the two agreed on, what is on its way
//! between them. It is moved from state to state, and never half there.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mproxy_codec::types::PacketType;
use serde::{Deserialize, Serialize};

use super::auth_method::AuthMethod;
use super::context::Context;
use super::direction::{Direction, Follows};
use super::grant_clock::GrantClock;
use super::holding::{Holder, Weight};
use super::known_filters::KnownFilters;
use super::leftovers::{CleanupStage, Leftovers};
use super::rates::Rates;
use super::recall::Recall;
use super::reply::too_large_for;
use super::subscriptions::Subscriptions;
use super::terms::Terms;
use crate::event::{Happening, Published};
use crate::fault::Fault;
use crate::limits::Limits;
use crate::peer::{Peer, Side};
use crate::policy::{Hook, Source, Want};
use crate::rule;

/// A client and its broker.
#[derive(Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) peer: Arc<Peer>,
    pub(super) terms: Terms,
    /// What comes from the client.
    pub(super) up: Direction,
    /// What comes from the broker.
    pub(super) down: Direction,
    /// SUBSCRIBEs and UNSUBSCRIBEs, where something has to be remembered of them.
    subscriptions: Option<Box<Subscriptions>>,
    /// What few sessions have.
    pub(super) rare: Option<Box<Rare>>,
    /// Bytes that the peer holds.
    pub(super) peer_weight: u32,
    /// Whether packets still go to that side.
    hears: [bool; 2],
    /// `Connect` was reported, so `Disconnect` must be.
    pub(super) reported: bool,
    /// The client's DISCONNECT that keeps the will from being published has gone to the broker.
    pub(super) will_suppressed: bool,
    /// The session shall end as soon as nothing is in flight.
    pub(super) draining: bool,
    /// That is because descriptors or memory run short.
    pub(super) shed: bool,
    /// The client's half of its stream ended before the broker's CONNACK.
    pub(super) client_ended: bool,
    /// A grant was replaced, and not all that the client had subscribed to is allowed any more: deliveries are held
    /// against what is.
    pub(super) revoked: bool,
    /// The broker goes on with an old session, and rules refuse some of what may have been subscribed to there: deliveries
    /// are held against them from the start.
    pub(super) judges_unseen: bool,
    /// How far UNSUBSCRIBEs of our own have come.
    pub(super) cleanup: CleanupStage,
    /// SUBSCRIBEs and UNSUBSCRIBEs that the broker has, and has not answered.
    pub(super) asking: u16,
}

/// State of few sessions, kept out of the way of the others.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Rare {
    /// The Authentication Method of the CONNECT, and what mproxy answers to it.
    pub(super) method: Option<Box<AuthMethod>>,
    /// Who gave the client's grant, and renews it.
    pub(super) granter: Option<Source>,
    /// Of a grant that has to be renewed.
    #[serde(skip)]
    pub(super) renewal: Option<GrantClock>,
    /// How fast the client may send, where its grant says so.
    #[serde(skip)]
    pub(super) rates: Option<Box<Rates>>,
    /// The keep alive that the broker has set, of a client with a grant.
    pub(super) server_keep_alive: Option<u16>,
    /// Filters that the broker knows as the client says them: they may be rewritten when it subscribes again, or be taken
    /// back.
    pub(super) known: KnownFilters,
    /// What is to be told of a PUBLISH of QoS 0 once its payload has gone on whole.
    pub(super) streaming: Option<Box<Published>>,
    /// A packet of our own could not be sent, and the session ends for that.
    #[serde(skip)]
    pub(super) unsendable: Option<Box<Fault>>,
    /// Subscriptions that have to end at the broker.
    #[serde(skip)]
    pub(super) leftovers: Option<Box<Leftovers>>,
    /// What keeps commands from being reported.
    #[serde(skip)]
    pub(super) recall: Option<Box<Recall>>,
    /// How often it was asked for another grant, or got one by command: answers to earlier questions do not count.
    pub(super) renewals: u32,
    /// A command said to renew the grant as soon as the session is open.
    pub(super) renews_at_once: bool,
}

impl Rare {
    /// What of it counts as held.
    fn weight(&self) -> usize {
        self.known.weight()
            + self.leftovers.as_ref().map_or(0, |left| left.weight())
            + self.method.as_ref().map_or(0, |method| method.weight())
    }
}

impl Link {
    /// Of a client that has said CONNECT.
    pub(super) fn new(peer: Arc<Peer>, terms: Terms) -> Self {
        Self {
            peer_weight: peer.weight() as u32,
            peer,
            terms,
            up: Direction::default(),
            down: Direction::default(),
            subscriptions: None,
            rare: None,
            hears: [true; 2],
            reported: false,
            will_suppressed: false,
            draining: false,
            shed: false,
            client_ended: false,
            revoked: false,
            judges_unseen: false,
            cleanup: CleanupStage::None,
            asking: 0,
        }
    }

    pub(super) const fn direction(&self, side: Side) -> &Direction {
        match side {
            Side::Client => &self.up,
            Side::Broker => &self.down,
        }
    }

    pub(super) const fn direction_mut(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.up,
            Side::Broker => &mut self.down,
        }
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(super) fn subscriptions(&mut self) -> &mut Subscriptions {
        self.subscriptions.get_or_insert_default()
    }

    /// What is remembered of its subscriptions, if anything is.
    pub(super) fn known_subscriptions(&self) -> Option<&Subscriptions> {
        self.subscriptions.as_deref()
    }

    /// Lets go of what is remembered, where that is nothing: an idle client has none.
    pub(super) fn forget_empty_subscriptions(&mut self) {
        if self.subscriptions.as_ref().is_some_and(|subscriptions| subscriptions.is_empty()) {
            self.subscriptions = None;
        }
    }

    pub(super) fn known_subscriptions_mut(&mut self) -> Option<&mut Subscriptions> {
        self.subscriptions.as_deref_mut()
    }

    /// How fast its client may send, where its grant says so.
    pub(super) fn rates_mut(&mut self) -> Option<&mut Rates> {
        self.rare.as_mut()?.rates.as_deref_mut()
    }

    /// The same, to look at.
    pub(super) fn rates(&self) -> Option<&Rates> {
        self.rare.as_ref()?.rates.as_deref()
    }

    /// When its client is read again, that is not read for its rate.
    pub(super) fn resumes_at(&self) -> Option<Instant> {
        self.rates()?.resume_at
    }

    /// Whether packets still go to that side.
    #[inline]
    pub(super) const fn hears(&self, side: Side) -> bool {
        self.hears[side as usize]
    }

    /// Whether they do from now on.
    pub(super) const fn set_hears(&mut self, client: bool, broker: bool) {
        self.hears = [client, broker];
    }

    /// What it makes mproxy hold.
    pub(super) fn weight(&self) -> Weight<'_, impl Fn() -> bool> {
        Weight { holder: Holder::client(&self.peer), bytes: self.bytes(), lets_go: || self.lets_go() }
    }

    /// The bytes of that.
    pub(super) fn bytes(&self) -> usize {
        self.up.weight()
            + self.down.weight()
            + self.known_subscriptions().map_or(0, Subscriptions::weight)
            + self.rare.as_ref().map_or(0, |rare| rare.weight())
            + self.peer_weight as usize
    }

    /// Whether something of that goes by itself.
    pub(super) fn lets_go(&self) -> bool {
        self.up.lets_go()
            || self.down.lets_go()
            || self.known_subscriptions().is_some_and(|subscriptions| subscriptions.kept() > 0)
    }

    /// Whether nothing of it leaves or ends by itself: no packet waits, no end is near.
    pub(super) fn is_settled(&self) -> bool {
        self.up.lane.is_empty()
            && self.down.lane.is_empty()
            && !self.draining
            && !self.client_ended
            && self.rare.as_ref().is_none_or(|rare| rare.unsendable.is_none())
    }

    /// Whether there is room for packets of that side.
    pub(super) fn takes(&self, cx: &Context, from: Side) -> bool {
        let direction = self.direction(from);
        if direction.lane.is_closed() {
            return false;
        }
        // Without its PUBREL a flow of QoS 2 would never be over, and nothing drained.
        if self.draining && from == Side::Client && !self.up.in_flight.awaits_release() {
            return false;
        }
        if from == Side::Client && (self.cleanup == CleanupStage::HoldsClient || self.resumes_at().is_some())
        {
            return false;
        }
        if from == Side::Broker && !self.hears(Side::Client) {
            // Nothing of it is kept.
            return true;
        }
        !self.is_full(cx, from)
            && !cx.account.short_of_room(&cx.setting.budget, from, Holder::client(&self.peer))
    }

    /// Whether as many packets of that side wait as may.
    pub(super) fn is_full(&self, cx: &Context, from: Side) -> bool {
        let direction = self.direction(from);
        let Limits { lane_packets: packets, lane_bytes: bytes, .. } = cx.setting.limits;
        let books_full = || {
            let subscriptions = self.subscriptions.as_deref();
            let (asked, kept) = subscriptions.map_or((0, 0), |books| (books.under_way(), books.kept()));
            asked >= packets || kept + self.up.kept_bytes() >= bytes
        };
        direction.lane.full(packets, bytes)
            || direction.flows_full()
            || (from == Side::Client
                && (self.subscriptions.is_some() || self.up.kept_bytes() > 0)
                && books_full())
            // Answers of our own wait behind a payload that goes to it: whoever sends more gets more of them.
            || self.direction(from.other()).deferred.full(packets, bytes)
    }

    /// Bytes for that side, if it still hears any.
    pub(super) fn send(&self, cx: &mut Context, to: Side, bytes: Bytes) {
        if self.hears(to) {
            cx.effects.send(to, bytes);
        }
    }

    /// A packet of our own for that side, never into the middle of another.
    pub(super) fn inject(&mut self, cx: &mut Context, to: Side, bytes: Bytes) {
        if !self.hears(to) {
            return;
        }
        // [MQTT-3.1.2-24]: a receiver may take a larger packet for a fault and hang up on it.
        if bytes.len() > self.terms.max_packet_to(to) as usize {
            let kind = bytes.first().and_then(|first| PacketType::from_nibble(first >> 4));
            return self.unsendable(to, kind.unwrap_or(PacketType::Disconnect));
        }
        let towards = self.direction_mut(to.other());
        if towards.mid_packet() {
            towards.deferred.push(bytes);
        } else {
            cx.effects.send(to, bytes);
        }
    }

    /// A packet of our own that the receiver must have is over its Maximum Packet Size: the session ends for it.
    pub(super) fn unsendable(&mut self, to: Side, packet: PacketType) {
        let fault = too_large_for(to, packet);
        self.rare().unsendable = Some(Box::new(fault));
    }

    /// Whether nothing of the client's is under way any more.
    pub(super) fn is_drained(&self) -> bool {
        let up = &self.up;
        // A payload that goes nowhere is not waited for.
        let passes = up.body.left > 0 && up.body.follows != Follows::Nothing;
        up.in_flight.total() == 0 && up.lane.is_empty() && !passes && self.down.body.left == 0
    }

    /// Whether the broker may have yet to answer a PUBLISH, SUBSCRIBE or UNSUBSCRIBE that is told of.
    pub(super) fn broker_owes(&self) -> bool {
        let subscriptions = self.subscriptions.as_deref();
        self.up.is_owed() || subscriptions.is_some_and(Subscriptions::is_owed)
    }

    /// What the advisers want to know of this client.
    pub(super) fn want_of(&self, cx: &Context, hook: Hook) -> Want {
        cx.setting.advisers.want_of(hook, &self.peer)
    }

    /// Somebody was asked about so many topics or filters of a packet, of so many bytes together.
    pub(super) fn charge_work(&self, cx: &mut Context, hook: Hook, count: usize, bytes: usize) {
        let effort = cx.setting.advisers.effort(hook, &self.peer);
        cx.spend(rule::comparisons(effort, count, bytes, rule::Who::from(&*self.peer)));
    }

    /// Tells of something that has happened.
    pub(super) fn report(&self, cx: &mut Context, what: Happening) {
        cx.report(&self.peer, self.peer_weight, what);
    }

    /// The client has other rules than before, or the service has changed its mind: what was said does not stand any more,
    /// nor what is said to questions that are out.
    pub(super) fn forget_decisions(&mut self) {
        for direction in [&mut self.up, &mut self.down] {
            direction.cache = None;
            direction.lane.forget_asked();
        }
    }

    /// It is all over: nothing is remembered.
    pub(super) fn forget(&mut self) {
        self.up.forget();
        self.down.forget();
        self.subscriptions = None;
    }
}
