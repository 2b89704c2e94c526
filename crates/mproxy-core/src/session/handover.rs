//! A session as bytes, for another process that goes on with it: its two streams go over with what was read of them and not
//! taken, and what was sent and not written.
//!
//! Written down is what the session cannot do without: who the client is and its grant, what CONNECT and CONNACK agreed on,
//! what is under way (packet ids, acknowledgements, SUBSCRIBEs, a payload that streams), topic aliases, what is owed to
//! whoever is told. Packets that wait for a verdict go over whole, and are asked about anew. Answers that were remembered are
//! not: they are asked for again.
//!
//! See docs/adr/0044.
//!
//! The form has a number. Whoever changes what is written changes [`FORMAT`]; a test holds the two against each other. Bytes
//! are believed: they come from an mproxy that was started by the same hands.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::{PublishHead, PublishLayout, Subscribe, SubscribeLayout};
use mproxy_codec::types::{PacketId, Version};
use serde::{Deserialize, Serialize};

use super::auth_method::AuthMethod;
use super::context::Context;
use super::grant_clock::GrantClock;
use super::lane::{FORGOTTEN, Slot, SlotState, WaitingPacket, WaitingPublish};
use super::leftovers::CleanupStage;
use super::link::Link;
use super::rates::{Rates, WrittenRates};
use super::setting::Setting;
use super::state::State;
use super::{Session, sender};
use crate::event::Traffic;
use crate::grant::Grant;
use crate::peer::{Peer, Side};
use crate::policy::{LimitKind, PublishDecision, Ruling, SubscribeDecision, Undecided};
use crate::rule::RuleFile;

/// The form in which sessions are written down.
pub const FORMAT: u32 = 6;

/// Bytes of one session at most.
pub const MOST: usize = 4 << 20;

/// Why a session is not written down. It is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotExported {
    /// It is not open, or ends.
    NotOpen,
    /// It is in the middle of something that is soon over: a command is being carried out, the client authenticates again,
    /// its grant is stale.
    NotNow,
    /// It holds more than [`MOST`].
    TooLarge,
}

/// Why bytes are no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotImported {
    /// They are written in this form, which is not [`FORMAT`].
    OtherFormat(u32),
    /// They are in no form.
    Damaged,
}

impl fmt::Display for NotImported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherFormat(theirs) => {
                write!(f, "written in form {theirs}, and this version reads form {FORMAT}")
            }
            Self::Damaged => f.write_str("damaged"),
        }
    }
}

/// What is written; [`ReadSession`] is the same, read.
#[derive(Serialize)]
struct WrittenSession<'a> {
    traffic: Traffic,
    moments: Moments,
    waiting: [Vec<WrittenSlot>; 2],
    link: &'a Link,
}

#[derive(Deserialize)]
struct ReadSession {
    traffic: Traffic,
    moments: Moments,
    waiting: [Vec<WrittenSlot>; 2],
    link: Link,
}

/// What is measured by the clock of a process, as times from now on.
#[derive(Debug, Serialize, Deserialize)]
struct Moments {
    /// Until the grant ends.
    grant_ends: Option<Duration>,
    /// Until the client's token does.
    token_ends: Option<Duration>,
    /// Since it came.
    grant_age: Option<Duration>,
    /// The rule file that it stands in.
    rule_file: Option<WrittenRuleFile>,
    renewal: Option<WrittenClock>,
    rates: Option<WrittenRates>,
}

/// A [`RuleFile`], and since when it is read.
#[derive(Debug, Serialize, Deserialize)]
struct WrittenRuleFile {
    name: Arc<str>,
    age: Duration,
    lines: Box<[u32]>,
}

/// A [`GrantClock`].
#[derive(Debug, Serialize, Deserialize)]
struct WrittenClock {
    due: Option<Duration>,
    serves: Option<Duration>,
}

/// A packet that waits.
#[derive(Debug, Serialize, Deserialize)]
struct WrittenSlot {
    bytes: Bytes,
    packet: WrittenPacket,
}

#[derive(Debug, Serialize, Deserialize)]
enum WrittenPacket {
    Publish { state: WrittenState<PublishDecision>, topic: Option<Arc<str>>, streams: bool },
    Subscribe(WrittenState<SubscribeDecision>),
    Other,
    Refused { id: PacketId, filters: usize },
}

/// What becomes of it when it is at the front.
#[derive(Debug, Serialize, Deserialize)]
enum WrittenState<D> {
    /// It is to be judged: somebody is asked, or nobody has to be.
    Unjudged,
    /// This was said.
    Judged(Ruling<D>),
    Again,
    OverBudget,
    OverRate,
    OverLimit(LimitKind),
}

impl Session {
    /// Asked: this session in bytes, for another process that goes on with it. Effects have been polled. The session itself
    /// is as it was: whoever gives it away tells it nothing more.
    ///
    /// # Errors
    /// It cannot go over, or not now.
    pub fn export(&self, now: Instant) -> Result<Vec<u8>, NotExported> {
        let State::Open(link) = &self.state else { return Err(NotExported::NotOpen) };
        if link.draining || link.client_ended {
            return Err(NotExported::NotOpen);
        }
        if link.is_in_between() || self.cx.effects.len() > 0 {
            return Err(NotExported::NotNow);
        }
        if link.bytes() > MOST {
            return Err(NotExported::TooLarge);
        }
        let written = WrittenSession {
            traffic: self.cx.traffic,
            moments: Moments::of(link, now),
            waiting: [Side::Client, Side::Broker]
                .map(|side| link.direction(side).lane.slots().map(WrittenSlot::of).collect()),
            link,
        };
        // A path that is no text cannot be written; no listener has one.
        let bytes = postcard::to_extend(&written, FORMAT.to_be_bytes().to_vec());
        bytes.ok().filter(|bytes| bytes.len() <= MOST).ok_or(NotExported::TooLarge)
    }

    /// A session that another process has [exported](Self::export), as it goes on here. Effects are to be polled: packets
    /// that wait are asked about anew.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn import(bytes: &[u8], setting: Arc<Setting>, now: Instant) -> Result<Self, NotImported> {
        let (format, rest) = bytes.split_first_chunk().ok_or(NotImported::Damaged)?;
        let format = u32::from_be_bytes(*format);
        if format != FORMAT {
            return Err(NotImported::OtherFormat(format));
        }
        let ReadSession { traffic, moments, waiting, mut link } =
            postcard::from_bytes(rest).map_err(|_| NotImported::Damaged)?;
        let version = link.terms.version;
        link.peer_weight = link.peer.weight() as u32;
        moments.restore(&mut link, now);
        let mut cx = Context::new(setting, now);
        cx.traffic = traffic;
        link.resume_rates(&cx, now);
        link.arm_grant(&mut cx);
        for (side, slots) in [Side::Client, Side::Broker].into_iter().zip(waiting) {
            for slot in slots {
                let slot = slot.read(side, version).ok_or(NotImported::Damaged)?;
                link.direction_mut(side).lane.push(slot);
            }
            link.judge_waiting_again(&mut cx, side);
        }
        let mut session = Self { cx, state: State::Open(link) };
        session.settle(now);
        Ok(session)
    }
}

impl Link {
    /// Whether it is in the middle of something of which another process would know nothing.
    fn is_in_between(&self) -> bool {
        let authenticates = |method: &AuthMethod| method.exchange.is_some();
        self.cleanup != CleanupStage::None
            || !(self.hears(Side::Client) && self.hears(Side::Broker))
            || [&self.up, &self.down]
                .into_iter()
                .flat_map(|direction| direction.lane.slots())
                .any(is_overloaded)
            || self.grant().is_some_and(|grant| grant.stale_because().is_some())
            || self.rare.as_ref().is_some_and(|rare| {
                rare.unsendable.is_some()
                    || rare.leftovers.is_some()
                    || rare.recall.is_some()
                    || rare.method.as_deref().is_some_and(authenticates)
            })
    }
}

impl Moments {
    fn of(link: &Link, now: Instant) -> Self {
        let until = |at: Instant| at.saturating_duration_since(now);
        let rare = link.rare.as_deref();
        Self {
            grant_ends: link.grant().and_then(|grant| grant.expires_at).map(until),
            token_ends: link.grant().and_then(|grant| grant.token_ends_at).map(until),
            grant_age: link
                .grant()
                .and_then(|grant| grant.received)
                .map(|at| now.saturating_duration_since(at)),
            rule_file: link.grant().and_then(|grant| grant.rule_file.as_deref()).map(|file| {
                WrittenRuleFile {
                    name: Arc::clone(&file.name),
                    age: now.saturating_duration_since(file.loaded),
                    lines: file.lines.clone(),
                }
            }),
            renewal: rare.and_then(|rare| rare.renewal.as_ref()).map(|clock| WrittenClock {
                // Where the answer is out, it is asked for again.
                due: Some(clock.due.map_or(Duration::ZERO, until)),
                serves: clock.serves.map(until),
            }),
            rates: link.rates().map(|rates| rates.write(now)),
        }
    }

    fn restore(self, link: &mut Link, now: Instant) {
        // What is further away than the clock reaches never comes.
        let at = |after: Duration| now.checked_add(after);
        if let Some(grant) = &mut Peer::change(&mut link.peer).grant {
            let grant: &mut Grant = Arc::make_mut(grant);
            grant.expires_at = self.grant_ends.and_then(at);
            grant.token_ends_at = self.token_ends.and_then(at);
            grant.received = self.grant_age.and_then(|age| now.checked_sub(age));
            grant.rule_file = self.rule_file.map(|WrittenRuleFile { name, age, lines }| {
                let loaded = now.checked_sub(age).unwrap_or(now);
                Arc::new(RuleFile { name, loaded, lines })
            });
        }
        if let Some(WrittenClock { due, serves }) = self.renewal {
            let clock = GrantClock { due: due.and_then(at), serves: serves.and_then(at), undecided: None };
            link.rare().renewal = Some(clock);
        }
        if let Some(rates) = self.rates {
            link.rare().rates = Some(Box::new(Rates::read(rates, now)));
        }
    }
}

impl WrittenSlot {
    fn of(slot: &Slot) -> Self {
        let packet = match &slot.packet {
            WaitingPacket::Publish(WaitingPublish { state, topic, streams, .. }) => WrittenPacket::Publish {
                state: WrittenState::of(state),
                topic: topic.clone(),
                streams: *streams,
            },
            WaitingPacket::Subscribe(state, _) => WrittenPacket::Subscribe(WrittenState::of(state)),
            WaitingPacket::Other(_) => WrittenPacket::Other,
            WaitingPacket::Refused { id, filters } => WrittenPacket::Refused { id: *id, filters: *filters },
        };
        Self { bytes: slot.bytes.clone(), packet }
    }

    /// `None`: it is no packet.
    fn read(self, from: Side, version: Version) -> Option<Slot> {
        let Self { bytes, packet } = self;
        let header = FixedHeader::parse(&bytes, sender(from), Some(version)).ok()??;
        let packet = match packet {
            WrittenPacket::Publish { state, topic, streams } => {
                let head = PublishHead::parse(&header, &bytes, sender(from), version).ok()??;
                let layout = PublishLayout::of(&header, &head);
                WaitingPacket::Publish(WaitingPublish { state: state.read(), layout, topic, streams })
            }
            WrittenPacket::Subscribe(state) => {
                let subscribe = Subscribe::parse(&header, &bytes, sender(from), version).ok()?;
                WaitingPacket::Subscribe(state.read(), SubscribeLayout::of(&subscribe))
            }
            WrittenPacket::Other => WaitingPacket::Other(header),
            WrittenPacket::Refused { id, filters } => WaitingPacket::Refused { id, filters },
        };
        Some(Slot { bytes, packet, charge: 0 })
    }
}

impl<D: Clone> WrittenState<D> {
    fn of(state: &SlotState<D>) -> Self {
        match state {
            SlotState::Ruled(ruling) => Self::Judged((**ruling).clone()),
            SlotState::Go | SlotState::Hold(_) => Self::Unjudged,
            SlotState::Again => Self::Again,
            SlotState::OverBudget => Self::OverBudget,
            SlotState::OverRate => Self::OverRate,
            SlotState::OverLimit(kind) => Self::OverLimit(*kind),
        }
    }

    fn read(self) -> SlotState<D> {
        match self {
            // It is judged before anything leaves.
            Self::Unjudged => SlotState::Hold(FORGOTTEN),
            Self::Judged(ruling) => SlotState::Ruled(Box::new(ruling)),
            Self::Again => SlotState::Again,
            Self::OverBudget => SlotState::OverBudget,
            Self::OverRate => SlotState::OverRate,
            Self::OverLimit(kind) => SlotState::OverLimit(kind),
        }
    }
}

/// Whether it waits to be refused for a limit of this process, which means nothing in another one.
fn is_overloaded(slot: &Slot) -> bool {
    let undecided = match &slot.packet {
        WaitingPacket::Publish(WaitingPublish { state: SlotState::Ruled(ruling), .. }) => {
            ruling.verdict.as_ref().err()
        }
        WaitingPacket::Subscribe(SlotState::Ruled(ruling), _) => match &ruling.verdict {
            Ok(SubscribeDecision::InPart(_, undecided)) | Err(undecided) => Some(undecided),
            Ok(SubscribeDecision::All(_) | SubscribeDecision::Each(_)) => None,
        },
        WaitingPacket::Publish(_)
        | WaitingPacket::Subscribe(..)
        | WaitingPacket::Other(_)
        | WaitingPacket::Refused { .. } => None,
    };
    matches!(undecided, Some(Undecided::Overloaded(_)))
}
