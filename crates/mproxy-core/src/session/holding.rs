//! What a session makes mproxy hold, put down against its budget; and what waits until there is room again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mproxy_codec::types::PacketType;

use crate::budget::{self, Budget, Purse, RESERVE, Room, STEP, Stranger, shared_room};
use crate::fault::Fault;
use crate::neighbours::Neighbours;
use crate::peer::{Address, Origin, Peer, Side};

/// How long a side for which there was no room waits before it tries again, where nothing of its own has left meanwhile:
/// nobody tells us when others have made room.
const RETRY: Duration = Duration::from_millis(100);

/// Bytes that one read may add to those that wait for a side which does not read.
const MORE: usize = 64 << 10;

/// Bytes that are read at a time while there is no room for more: enough to see what a packet is, and little to hold for
/// one that has to wait.
const BITE: usize = STEP;

/// Bytes up to which an event is not put down.
const SMALL_EVENT: usize = 1 << 10;

/// There only while a session holds more than a [`STEP`], or waits for something: an idle one has none.
#[derive(Debug)]
pub(super) struct Holding {
    purse: Arc<Purse>,
    /// How much of the purse is the session's own; the rest is events'.
    own: usize,
    client: SideBacklog,
    broker: SideBacklog,
}

/// What waits in front of a side's lane.
#[derive(Clone, Copy, Debug, Default)]
struct SideBacklog {
    /// Bytes that were given to be read and not taken.
    left: usize,
    /// Bytes that have to be there before the packet at the front can be judged; fewer are not looked at.
    needs: usize,
    /// Room that it needs, and has not got.
    short: Option<Shortage>,
    /// Bytes that this side has not read of what was sent to it.
    unread: usize,
    /// There is no room for more of them: when to try again, and when to give up.
    stuck: Option<(Instant, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Shortage {
    bytes: usize,
    packet: PacketType,
    /// When to try again, whatever is known, and when to give up. `None`: it has only just been found.
    times: Option<(Instant, Instant)>,
}

impl SideBacklog {
    const fn is_nothing(&self) -> bool {
        // `stuck` is left out: it is set only while something is unread.
        self.left == 0 && self.needs == 0 && self.short.is_none() && self.unread == 0
    }
}

impl Holding {
    const fn waits(&self, side: Side) -> &SideBacklog {
        match side {
            Side::Client => &self.client,
            Side::Broker => &self.broker,
        }
    }

    const fn waits_mut(&mut self, side: Side) -> &mut SideBacklog {
        match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        }
    }
}

/// Whose share something is counted to. Whose neighbour that is, is worked out only where something is put down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder<'a> {
    remote: &'a Address,
    /// Nobody has decided on the client yet.
    stranger: bool,
}

impl<'a> Holder<'a> {
    /// Of a client that somebody has decided on.
    pub(super) fn client(peer: &'a Peer) -> Self {
        Self { remote: &peer.origin.remote, stranger: false }
    }

    /// Of one about whom nobody has decided.
    pub(super) const fn stranger(origin: &'a Origin) -> Self {
        Self { remote: &origin.remote, stranger: true }
    }

    fn whose(self) -> Neighbours {
        self.remote.into()
    }
}

/// What a state of a session makes mproxy hold, but for what was left unread.
pub(super) struct Weight<'a, L> {
    pub(super) holder: Holder<'a>,
    pub(super) bytes: usize,
    /// Says whether something of that goes by itself. Asked only where there is no room.
    pub(super) lets_go: L,
}

/// Whether so many bytes that a side has not read, and more, have room.
pub(super) fn may_wait_unread(budget: &Budget, bytes: usize) -> bool {
    bytes <= RESERVE || shared_room(budget, MORE)
}

/// Bytes that are to be read at a time; of a payload that streams, which is not held, more.
pub(super) fn reads_at_once(budget: &Budget, streams: bool, most: usize) -> usize {
    match (shared_room(budget, MORE), streams) {
        (true, _) => most,
        (false, true) => most.min(RESERVE),
        (false, false) => most.min(BITE),
    }
}

/// What a session has put down: nothing, for most of them and most of the time.
#[derive(Debug, Default)]
pub(super) struct Account(Option<Box<Holding>>);

impl Account {
    /// Bytes in front of the session and behind it: given to be read and not taken, or sent and not read.
    pub(super) fn around(&self) -> usize {
        let waits = |waits: &SideBacklog| waits.left + waits.unread;
        self.0.as_ref().map_or(0, |holding| waits(&holding.client) + waits(&holding.broker))
    }

    /// Whether nothing is put down, nor has to be for so few bytes of the session's own.
    #[inline]
    pub(super) const fn is_idle(&self, bytes: usize) -> bool {
        self.0.is_none() && bytes < STEP
    }

    /// Puts down what is held now: so many bytes of the session's own, and what is around it.
    pub(super) fn put_down(
        &mut self,
        budget: &Arc<Budget>,
        patience: Duration,
        holder: Holder<'_>,
        bytes: usize,
        now: Instant,
    ) {
        let own = self.sync(budget, holder, bytes);
        let Some(holding) = &mut self.0 else { return };
        for waits in [&mut holding.client, &mut holding.broker] {
            if let Some(short) = &mut waits.short {
                // From when it was first found: a try in between does not begin the patience anew.
                short.times.get_or_insert((now + RETRY, now + patience));
            }
            if waits.unread <= RESERVE || shared_room(budget, MORE) {
                waits.stuck = None;
            } else if waits.stuck.is_none() {
                waits.stuck = Some((now + RETRY, now + patience));
                // With 0 held: the connection's own budget is not what is spent here.
                budget::count_spent(budget, 0, MORE);
            }
        }
        // Events that wait are counted together with those to come.
        let shared = Arc::strong_count(&holding.purse) > 1;
        // What is left in the purse is given back with it.
        if own < STEP && !shared && holding.client.is_nothing() && holding.broker.is_nothing() {
            self.0 = None;
        }
    }

    /// It is over, and holds nothing any more. What its events hold goes with them.
    pub(super) fn let_go(&mut self) {
        if let Some(holding) = self.0.take() {
            holding.purse.sub(holding.own);
        }
    }

    /// Has the purse say what is held, and gives it.
    fn sync(&mut self, budget: &Arc<Budget>, holder: Holder<'_>, bytes: usize) -> usize {
        if self.is_idle(bytes) {
            return bytes;
        }
        let own = bytes + self.around();
        let holding = self.holding(budget, holder);
        match own.checked_sub(holding.own) {
            Some(0) => {}
            Some(more) => holding.purse.add(more),
            None => holding.purse.sub(holding.own - own),
        }
        holding.own = own;
        debug_assert!(holding.purse.held() >= own, "a session holds more than its purse says");
        own
    }

    /// Whose share of what strangers may hold it has, while nobody has decided on its client.
    fn stranger(&self, holder: Holder<'_>) -> Option<Stranger> {
        let held = self.0.as_ref().map_or(0, |holding| holding.purse.held());
        holder.stranger.then(|| Stranger::new(holder.whose(), held))
    }

    /// Somebody has decided on the client.
    pub(super) fn no_stranger_any_more(&self) {
        if let Some(holding) = &self.0 {
            holding.purse.admit();
        }
    }

    fn holding(&mut self, budget: &Arc<Budget>, holder: Holder<'_>) -> &mut Holding {
        let new = if holder.stranger { Purse::of_stranger } else { Purse::new };
        self.0.get_or_insert_with(|| {
            Box::new(Holding {
                purse: new(budget, holder.whose()),
                own: 0,
                client: SideBacklog::default(),
                broker: SideBacklog::default(),
            })
        })
    }

    /// What an event of this weight is counted to while it waits. Small ones are bounded by the number of those that
    /// wait, and cost an idle session nothing.
    pub(super) fn purse_for(
        &mut self,
        budget: &Arc<Budget>,
        event: usize,
        holder: Holder<'_>,
    ) -> Option<Arc<Purse>> {
        (event > SMALL_EVENT).then(|| Arc::clone(&self.holding(budget, holder).purse))
    }

    /// Whether there is room for so many bytes more for a packet of that side. Where there is not yet, the side is not
    /// read until there is.
    #[inline]
    pub(super) fn room_for(
        &mut self,
        budget: &Arc<Budget>,
        weight: Weight<'_, impl Fn() -> bool>,
        from: Side,
        packet: PacketType,
        bytes: usize,
    ) -> Room {
        if self.is_idle(weight.bytes) && budget::is_reserved(budget, weight.bytes + bytes) {
            return Room::Yes;
        }
        self.find_room(budget, weight, from, packet, bytes)
    }

    fn find_room(
        &mut self,
        budget: &Arc<Budget>,
        weight: Weight<'_, impl Fn() -> bool>,
        from: Side,
        packet: PacketType,
        bytes: usize,
    ) -> Room {
        let left = self.0.as_ref().map_or(0, |holding| holding.waits(from).left);
        // The packet itself may be among what was left before; it is not put down twice.
        let held = self.sync(budget, weight.holder, weight.bytes).saturating_sub(left) + self.events_held();
        let room = budget::room(budget, held, bytes, self.stranger(weight.holder));
        let lets_go = || (weight.lets_go)() || self.events_held() > 0 || self.unread() > 0;
        let room = match room {
            // Nothing that could make room is on its way out.
            Room::Wait if !lets_go() && held + bytes > budget.connection() => Room::Never,
            room => room,
        };
        let before = self.0.as_ref().and_then(|holding| holding.waits(from).short);
        // Counted once for each time that there is none, and not for each try.
        if room != Room::Yes && before.is_none() {
            budget::count_spent(budget, held, bytes);
        }
        if room == Room::Wait {
            let times = before.and_then(|short| short.times);
            self.holding(budget, weight.holder).waits_mut(from).short =
                Some(Shortage { bytes, packet, times });
        } else if let Some(holding) = &mut self.0 {
            holding.waits_mut(from).short = None;
        }
        room
    }

    fn unread(&self) -> usize {
        self.0.as_ref().map_or(0, |holding| holding.client.unread + holding.broker.unread)
    }

    fn events_held(&self) -> usize {
        self.0.as_ref().map_or(0, |holding| holding.purse.held().saturating_sub(holding.own))
    }

    /// Whether that side has to wait for room.
    pub(super) fn short_of_room(&self, budget: &Arc<Budget>, side: Side, holder: Holder<'_>) -> bool {
        let Some(holding) = &self.0 else { return false };
        let waits = holding.waits(side);
        waits.short.is_some_and(|short| {
            // The packet that waits is among what was left.
            let held = holding.purse.held().saturating_sub(waits.left);
            budget::room(budget, held, short.bytes, self.stranger(holder)) == Room::Wait
        })
    }

    /// So many bytes that were sent to that side are not written yet. Whether that is news.
    pub(super) fn note_unread(
        &mut self,
        budget: &Arc<Budget>,
        by: Side,
        bytes: usize,
        holder: Holder<'_>,
    ) -> bool {
        // An outbox that is never quite empty must not give each session an account.
        let bytes = if bytes < STEP { 0 } else { bytes };
        if bytes == 0 && self.0.is_none() {
            return false;
        }
        let waits = self.holding(budget, holder).waits_mut(by);
        if bytes == waits.unread {
            return false;
        }
        if bytes < waits.unread {
            // It reads, however slowly.
            waits.stuck = None;
        }
        waits.unread = bytes;
        true
    }

    /// When a side that waits for room tries again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let holding = self.0.as_ref()?;
        let times = |waits: &SideBacklog| [waits.short.and_then(|short| short.times), waits.stuck];
        let all = times(&holding.client).into_iter().chain(times(&holding.broker));
        all.flatten().map(|(retry, _)| retry).min()
    }

    /// It is time to try again, or to give up: then for this reason.
    pub(super) fn retry(&mut self, now: Instant) -> Option<Fault> {
        let holding = self.0.as_mut()?;
        let mut over = None;
        for (side, waits) in [(Side::Client, &mut holding.client), (Side::Broker, &mut holding.broker)] {
            if let Some((retry, until)) = &mut waits.stuck {
                // A broker that does not read is waited for: its other clients are not to blame, and it is heard
                // all the same.
                if now >= *until && side == Side::Client {
                    over = Some(Fault::Unread);
                    waits.stuck = None;
                } else if now >= *retry {
                    *retry = now + RETRY;
                }
            }
            let Some(Shortage { packet, times: Some((retry, until)), .. }) = &mut waits.short else {
                continue;
            };
            if now >= *until {
                over = Some(Fault::OverBudget { packet: *packet });
                waits.short = None;
            } else if now >= *retry {
                *retry = now + RETRY;
            }
        }
        over
    }

    /// Whether so few bytes of that side need not be looked at.
    pub(super) fn needs_more(&self, from: Side, here: usize) -> bool {
        self.0.as_ref().is_some_and(|holding| here < holding.waits(from).needs)
    }

    /// The packet at the front is to be looked at when so many bytes of it are there.
    pub(super) fn needs(&mut self, budget: &Arc<Budget>, holder: Holder<'_>, from: Side, bytes: usize) {
        self.holding(budget, holder).waits_mut(from).needs = bytes;
    }

    /// So many bytes were left at the end of a read.
    pub(super) fn note_left(&mut self, budget: &Arc<Budget>, from: Side, bytes: usize, holder: Holder<'_>) {
        let kept = if bytes < STEP { 0 } else { bytes };
        if kept > 0 {
            self.holding(budget, holder).waits_mut(from).left = kept;
        } else if let Some(holding) = &mut self.0 {
            holding.waits_mut(from).left = 0;
        }
    }

    /// A packet of that side was taken: what the one behind it needs is not known.
    pub(super) fn taken(&mut self, from: Side) {
        if let Some(holding) = &mut self.0 {
            let waits = holding.waits_mut(from);
            (waits.needs, waits.short) = (0, None);
        }
    }
}
