//! What a session makes mproxy hold, put down against its budget; and what waits until there is room again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mproxy_codec::types::PacketType;

use super::{Phase, Session, Who};
use crate::budget::{self, Purse, RESERVE, Room, STEP, Stranger, shared_room};
use crate::fault::Fault;
use crate::neighbours::Neighbours;
use crate::peer::Side;

/// How long a side for which there was no room waits before it tries again, where nothing of its own has left meanwhile:
/// nobody tells us when others have made room.
const RETRY: Duration = Duration::from_millis(100);

/// Bytes that one read may add to those that wait for a side which does not read.
const MORE: usize = 64 << 10;

/// Bytes up to which an event is not put down.
const SMALL_EVENT: usize = 1 << 10;

/// There only while a session holds more than a [`STEP`], or waits for something: an idle one has none.
#[derive(Debug)]
pub(super) struct Holding {
    purse: Arc<Purse>,
    /// How much of the purse is the session's own; the rest is events'.
    own: usize,
    client: Waits,
    broker: Waits,
}

/// What waits in front of a side's lane.
#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    /// Bytes that were given to be read and not taken.
    left: usize,
    /// Bytes that have to be there before the packet at the front can be judged; fewer are not looked at.
    needs: usize,
    /// Room that it needs, and has not got.
    short: Option<Short>,
    /// Bytes that this side has not read of what was sent to it.
    unread: usize,
    /// There is no room for more of them: when to try again, and when to give up.
    stuck: Option<(Instant, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Short {
    bytes: usize,
    packet: PacketType,
    /// When to try again, whatever is known, and when to give up. `None`: it has only just been found.
    times: Option<(Instant, Instant)>,
}

impl Waits {
    const fn is_nothing(&self) -> bool {
        self.left == 0 && self.needs == 0 && self.short.is_none() && self.unread == 0
    }
}

impl Holding {
    const fn waits(&self, side: Side) -> &Waits {
        match side {
            Side::Client => &self.client,
            Side::Broker => &self.broker,
        }
    }

    const fn waits_mut(&mut self, side: Side) -> &mut Waits {
        match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        }
    }
}

impl Session {
    /// Bytes that this session makes mproxy hold, by its own count.
    #[must_use]
    pub fn held(&self) -> usize {
        let connect = match &self.phase {
            Phase::Admitting(waiting) | Phase::Dialing(waiting) => waiting.connect.len(),
            _ => 0,
        };
        let question = if matches!(self.phase, Phase::Admitting(_)) { budget::QUESTION + connect } else { 0 };
        let waits = |waits: &Waits| waits.left + waits.unread;
        let left = self.holding.as_ref().map_or(0, |holding| waits(&holding.client) + waits(&holding.broker));
        let ledger = self.ledger.as_ref().map_or(0, |ledger| ledger.weight());
        let aliases = |of: &super::Direction| of.aliases.as_ref().map_or(0, |aliases| aliases.weight());
        connect
            + question
            + left
            + ledger
            + self.up.lane.weight()
            + self.down.lane.weight()
            + aliases(&self.up)
            + aliases(&self.down)
            + self.peer_weight as usize
    }

    /// Puts down what is held now.
    pub(super) fn put_down(&mut self, now: Instant) {
        let own = self.sync();
        let patience = self.setting.limits.room_timeout;
        let Some(holding) = &mut self.holding else { return };
        for waits in [&mut holding.client, &mut holding.broker] {
            if let Some(short) = &mut waits.short {
                short.times.get_or_insert((now + RETRY, now + patience));
            }
            if waits.unread <= RESERVE || shared_room(&self.setting.budget, MORE) {
                waits.stuck = None;
            } else if waits.stuck.is_none() {
                waits.stuck = Some((now + RETRY, now + patience));
                budget::count_spent(&self.setting.budget, 0, MORE);
            }
        }
        // Events that wait are counted together with those to come.
        let shared = Arc::strong_count(&holding.purse) > 1;
        if own < STEP && !shared && holding.client.is_nothing() && holding.broker.is_nothing() {
            self.holding = None;
        }
    }

    /// Has the purse say what is held, and gives it.
    fn sync(&mut self) -> usize {
        let own = self.held();
        if own < STEP && self.holding.is_none() {
            return own;
        }
        let holding = self.holding();
        match own.checked_sub(holding.own) {
            Some(0) => {}
            Some(more) => holding.purse.add(more),
            None => holding.purse.sub(holding.own - own),
        }
        holding.own = own;
        own
    }

    /// Whose share of what strangers may hold it has, while nobody has decided on its client.
    fn stranger(&self) -> Option<Stranger> {
        let held = self.holding.as_ref().map_or(0, |holding| holding.purse.held());
        self.is_stranger().then(|| Stranger::new(self.neighbours(), held))
    }

    const fn is_stranger(&self) -> bool {
        matches!(self.phase, Phase::Greeting | Phase::Admitting(_))
    }

    fn neighbours(&self) -> Neighbours {
        let origin = match &self.who {
            Who::Stranger(origin) => origin,
            Who::Known(peer) => &peer.origin,
        };
        origin.remote.ip().into()
    }

    /// Somebody has decided on the client.
    pub(super) fn no_stranger_any_more(&self) {
        if let Some(holding) = &self.holding {
            holding.purse.admit();
        }
    }

    fn holding(&mut self) -> &mut Holding {
        let new = if self.is_stranger() { Purse::of_stranger } else { Purse::new };
        let whose = self.neighbours();
        self.holding.get_or_insert_with(|| {
            Box::new(Holding {
                purse: new(&self.setting.budget, whose),
                own: 0,
                client: Waits::default(),
                broker: Waits::default(),
            })
        })
    }

    /// What an event of this weight is counted to while it waits. Small ones are bounded by the number of those that
    /// wait, and cost an idle session nothing.
    pub(super) fn purse_for(&mut self, event: usize) -> Option<Arc<Purse>> {
        (event.max(self.peer_weight as usize) > SMALL_EVENT).then(|| self.purse())
    }

    fn purse(&mut self) -> Arc<Purse> {
        Arc::clone(&self.holding().purse)
    }

    /// Whether there is room for so many bytes more for a packet of that side. Where there is not yet, the side is not
    /// read until there is.
    pub(super) fn room_for(&mut self, from: Side, packet: PacketType, bytes: usize) -> Room {
        let left = self.holding.as_ref().map_or(0, |holding| holding.waits(from).left);
        // The packet itself may be among what was left before; it is not put down twice.
        let held = self.sync().saturating_sub(left) + self.events_held();
        let room = budget::room(&self.setting.budget, held, bytes, self.stranger());
        let room = match room {
            // Nothing that could make room is on its way out.
            Room::Wait if !self.lets_go() && held + bytes > self.setting.budget.connection() => Room::Never,
            room => room,
        };
        let before = self.holding.as_ref().and_then(|holding| holding.waits(from).short);
        if room != Room::Yes && before.is_none() {
            budget::count_spent(&self.setting.budget, held, bytes);
        }
        if room == Room::Wait {
            let times = before.and_then(|short| short.times);
            self.holding().waits_mut(from).short = Some(Short { bytes, packet, times });
        } else if let Some(holding) = &mut self.holding {
            holding.waits_mut(from).short = None;
        }
        room
    }

    fn events_held(&self) -> usize {
        self.holding.as_ref().map_or(0, |holding| holding.purse.held().saturating_sub(holding.own))
    }

    /// Whether something of what is held goes by itself.
    fn lets_go(&self) -> bool {
        let unread = self.holding.as_ref().map_or(0, |holding| holding.client.unread + holding.broker.unread);
        self.events_held() > 0
            || unread > 0
            || !self.up.lane.is_empty()
            || !self.down.lane.is_empty()
            || self.ledger.as_ref().is_some_and(|ledger| ledger.awaits())
    }

    /// Whether that side has to wait for room.
    pub(super) fn short_of_room(&self, side: Side) -> bool {
        let Some(holding) = &self.holding else { return false };
        let waits = holding.waits(side);
        waits.short.is_some_and(|short| {
            let held = holding.purse.held().saturating_sub(waits.left);
            budget::room(&self.setting.budget, held, short.bytes, self.stranger()) == Room::Wait
        })
    }

    /// Told: of what was sent to that side, so many bytes are not written yet, or what they hold in memory: after each
    /// write that left something, and when all is gone.
    pub fn unread(&mut self, by: Side, bytes: usize, now: Instant) {
        let bytes = if bytes < STEP { 0 } else { bytes };
        if bytes == 0 && self.holding.is_none() {
            return;
        }
        let waits = self.holding().waits_mut(by);
        if bytes == waits.unread {
            return;
        }
        if bytes < waits.unread {
            // It reads, however slowly.
            waits.stuck = None;
        }
        waits.unread = bytes;
        self.put_down(now);
    }

    /// Asked: whether so many bytes that a side has not read, and more, have room. Where they have not, nothing is read
    /// that would add to them. Each connection may have [`RESERVE`] of them in any case.
    #[must_use]
    pub fn may_wait_unread(&self, bytes: usize) -> bool {
        bytes <= RESERVE || shared_room(&self.setting.budget, MORE)
    }

    /// Asked: bytes that are to be read at a time. While the shared budgets have no room for that many, it is what each
    /// connection has for itself.
    #[must_use]
    pub fn reads_at_once(&self, most: usize) -> usize {
        if shared_room(&self.setting.budget, MORE) { most } else { most.min(RESERVE) }
    }

    /// When a side that waits for room tries again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let holding = self.holding.as_ref().filter(|_| !self.phase.ending())?;
        let times = |waits: &Waits| [waits.short.and_then(|short| short.times), waits.stuck];
        let all = times(&holding.client).into_iter().chain(times(&holding.broker));
        all.flatten().map(|(retry, _)| retry).min()
    }

    /// It is time to try again, or to give up.
    pub(super) fn retry(&mut self, now: Instant) {
        let Some(holding) = &mut self.holding else { return };
        let mut over = None;
        for (side, waits) in [(Side::Client, &mut holding.client), (Side::Broker, &mut holding.broker)] {
            if let Some((retry, until)) = &mut waits.stuck {
                if now >= *until && side == Side::Client {
                    over = Some(Fault::Unread);
                    waits.stuck = None;
                } else if now >= *retry {
                    *retry = now + RETRY;
                }
            }
            let Some(Short { packet, times: Some((retry, until)), .. }) = &mut waits.short else { continue };
            if now >= *until {
                over = Some(Fault::OverBudget { packet: *packet });
                waits.short = None;
            } else if now >= *retry {
                *retry = now + RETRY;
            }
        }
        if let Some(fault) = over {
            self.end(fault, now);
        }
    }

    /// Whether so few bytes of that side need not be looked at.
    pub(super) fn needs_more(&self, from: Side, here: usize) -> bool {
        self.holding.as_ref().is_some_and(|holding| here < holding.waits(from).needs)
    }

    /// The packet at the front is to be looked at when so many bytes of it are there.
    pub(super) fn needs(&mut self, from: Side, bytes: usize) {
        self.holding().waits_mut(from).needs = bytes;
    }

    /// So many bytes were left at the end of a read.
    pub(super) fn left(&mut self, from: Side, bytes: usize) {
        let kept = if bytes < STEP { 0 } else { bytes };
        if kept == 0 && self.holding.is_none() {
            return;
        }
        let waits = self.holding().waits_mut(from);
        waits.left = kept;
    }

    /// A packet of that side was taken: what the one behind it needs is not known.
    pub(super) fn taken(&mut self, from: Side) {
        if let Some(holding) = &mut self.holding {
            let waits = holding.waits_mut(from);
            (waits.needs, waits.short) = (0, None);
        }
    }
}
