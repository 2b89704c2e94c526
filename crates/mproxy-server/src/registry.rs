//! Who is connected: what the admin API shows of each connection, and the way to send it a command.

mod listing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::task::Context;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use futures_util::task::AtomicWaker;
use mproxy_codec::reason::ReasonCode;
use mproxy_core::Peer;
use mproxy_core::command::{Dismissal, DismissedBy};
use mproxy_core::event::Traffic;
use mproxy_core::peer::{ConnectionId, Origin};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::admin::view::{Page, SessionFilter, SessionView, TrafficView};
use crate::orders::{ExplainRequest, HandedOrder, OrderQueue, SessionInquiry};
use crate::timestamp::Timestamp;

/// Connections looked at while the registry is locked, when a page of them is asked for.
const AT_A_TIME: usize = 1024;

/// Bytes of a page after which no further session is put into it: a client's names may have 64 KiB each.
const PAGE_BYTES: usize = 1 << 20;

/// Said to a connection from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionCommand {
    /// mproxy is being stopped.
    Drain,
    /// The time for that is over: it shall end within this very turn.
    Cut,
    /// It shall end, with this reason.
    Kick(ReasonCode),
    /// It shall make room for others, if it still has not been admitted.
    Evict,
    /// It shall end, because descriptors or memory run short.
    Shed,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ConnectionPhase {
    Connecting,
    Admitting,
    Dialing,
    Open,
    Closing,
}

impl ConnectionPhase {
    const NAMES: [&'static str; 5] = ["connecting", "admitting", "dialling", "open", "closing"];
}

/// One connection, as others see it. Its task writes; the admin API reads, and sends commands.
pub(crate) struct Handle {
    origin: Arc<Origin>,
    accepted: SystemTime,
    /// Who the client is; before it is admitted, who it says it is.
    peer: ArcSwapOption<Peer>,
    /// It is admitted: looked at more often than who it is.
    has_peer: AtomicBool,
    phase: AtomicU8,
    traffic: [AtomicU64; 4],
    /// 0: none. 1: drain. 2: evict. 3: shed. 256 and more: kick, with the reason in the low byte. 512: cut. The larger one wins.
    command: AtomicU16,
    waker: AtomicWaker,
    /// Commands with something in them are in `orders`: looked at before that is locked.
    has_orders: AtomicBool,
    orders: Mutex<OrderSlot>,
}

/// Commands of the policy service that its task has not taken yet.
enum OrderSlot {
    Empty,
    /// Boxed: few connections have some.
    Some(Box<OrderQueue>),
    /// Its task is over: nobody takes any more.
    Closed,
}

const NO_COMMAND: u16 = 0;
const DRAIN: u16 = 1;
const EVICT: u16 = 2;
const SHED: u16 = 3;
// With its reason it is at most 0x1FF: over the others, and below CUT.
const KICK: u16 = 0x100;
const CUT: u16 = 0x200;
const _: () = assert!(DRAIN < EVICT && EVICT < SHED && SHED < KICK && KICK + 0xFF < CUT);

impl Handle {
    pub(crate) fn new(origin: &Arc<Origin>) -> Self {
        Self {
            origin: Arc::clone(origin),
            accepted: SystemTime::now(),
            peer: ArcSwapOption::empty(),
            has_peer: AtomicBool::new(false),
            phase: AtomicU8::new(ConnectionPhase::Connecting as u8),
            traffic: Default::default(),
            command: AtomicU16::new(NO_COMMAND),
            waker: AtomicWaker::new(),
            has_orders: AtomicBool::new(false),
            orders: Mutex::new(OrderSlot::Empty),
        }
    }

    /// Sends a command to its task.
    pub(crate) fn send(&self, command: ConnectionCommand) {
        let code = match command {
            ConnectionCommand::Drain => DRAIN,
            ConnectionCommand::Evict => EVICT,
            ConnectionCommand::Shed => SHED,
            ConnectionCommand::Kick(reason) => KICK | u16::from(reason.0),
            ConnectionCommand::Cut => CUT,
        };
        self.command.fetch_max(code, Ordering::AcqRel);
        self.waker.wake();
    }

    /// For its task: the command that was sent since the last time. The task is woken by the next one.
    pub(crate) fn poll_command(&self, cx: &Context<'_>) -> Option<ConnectionCommand> {
        // First: a command that comes between this and the look at it wakes the task again, and is not lost.
        self.waker.register(cx.waker());
        if self.command.load(Ordering::Acquire) == NO_COMMAND {
            return None;
        }
        match self.command.swap(NO_COMMAND, Ordering::AcqRel) {
            NO_COMMAND => None,
            DRAIN => Some(ConnectionCommand::Drain),
            EVICT => Some(ConnectionCommand::Evict),
            SHED => Some(ConnectionCommand::Shed),
            CUT => Some(ConnectionCommand::Cut),
            kick => Some(ConnectionCommand::Kick(ReasonCode((kick & 0xFF) as u8))),
        }
    }

    /// Hands a command of the policy service to its task. One whose task is over is none to wait for.
    pub(crate) fn hand(&self, order: HandedOrder) {
        self.put(|queue| queue.orders.push(order));
    }

    /// Asks its task what would be decided.
    pub(crate) fn ask(&self, question: ExplainRequest) {
        self.put(|queue| queue.questions.push(question));
    }

    /// Asks its task about its session.
    pub(crate) fn inquire(&self, inquiry: SessionInquiry) {
        self.put(|queue| queue.inquiries.push(inquiry));
    }

    /// Has it end.
    pub(crate) fn kick(&self, dismissal: &Dismissal) {
        if dismissal.text.is_some() || dismissal.by == DismissedBy::Ban {
            self.put(|queue| queue.dismissals.push(dismissal.clone()));
        } else {
            // Takes no room, however often it comes.
            self.send(ConnectionCommand::Kick(dismissal.reason));
        }
    }

    fn put(&self, push: impl FnOnce(&mut OrderQueue)) {
        {
            let mut slot = self.orders.lock();
            match &mut *slot {
                OrderSlot::Empty => {
                    let mut queue = Box::<OrderQueue>::default();
                    push(&mut queue);
                    *slot = OrderSlot::Some(queue);
                }
                OrderSlot::Some(queue) => push(queue),
                OrderSlot::Closed => return,
            }
        }
        // Behind the push, so that whoever sees it finds something.
        self.has_orders.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// For its task, after [`poll_command`](Self::poll_command), which has it woken by the next: what was handed to it.
    pub(crate) fn take_orders(&self) -> Option<Box<OrderQueue>> {
        if !self.has_orders.load(Ordering::Relaxed) || !self.has_orders.swap(false, Ordering::AcqRel) {
            return None;
        }
        let mut slot = self.orders.lock();
        match std::mem::replace(&mut *slot, OrderSlot::Empty) {
            OrderSlot::Some(orders) => Some(orders),
            OrderSlot::Empty => None,
            OrderSlot::Closed => {
                *slot = OrderSlot::Closed;
                None
            }
        }
    }

    /// Its task is over.
    fn close_orders(&self) {
        let left = std::mem::replace(&mut *self.orders.lock(), OrderSlot::Closed);
        // When the lock is free again: it wakes those who wait for what becomes of a command.
        drop(left);
    }

    pub(crate) fn set_phase(&self, phase: ConnectionPhase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The broker is being dialled, or was: nobody has to decide on its CONNECT any more.
    pub(crate) fn is_admitted(&self) -> bool {
        self.phase.load(Ordering::Relaxed) >= ConnectionPhase::Dialing as u8
    }

    pub(crate) fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    fn id(&self) -> u128 {
        self.origin.connection_id.0
    }

    /// Who the client is, once it is admitted.
    pub(crate) fn peer(&self) -> Option<Arc<Peer>> {
        // In this order: who was admitted between the two is shown as admitted the next time.
        if self.has_peer() { self.claimed_peer() } else { None }
    }

    /// Who the client is, or says it is while it waits to be admitted: for people who look, and for nothing that decides.
    pub(crate) fn claimed_peer(&self) -> Option<Arc<Peer>> {
        self.peer.load_full()
    }

    pub(crate) fn has_peer(&self) -> bool {
        self.has_peer.load(Ordering::Acquire)
    }

    /// Who the client says it is. Nobody has decided yet whether that is so.
    pub(crate) fn claim_peer(&self, peer: &Arc<Peer>) {
        self.peer.store(Some(Arc::clone(peer)));
    }

    /// Who the client is, the first time and whenever its grant or its attributes are others.
    pub(crate) fn set_peer(&self, peer: &Arc<Peer>) {
        // Before the flag: who sees that finds whom the policy let in.
        self.peer.store(Some(Arc::clone(peer)));
        // It may have opened and begun to end within one turn.
        if !self.has_peer.swap(true, Ordering::Release)
            && self.phase.load(Ordering::Relaxed) != ConnectionPhase::Closing as u8
        {
            self.set_phase(ConnectionPhase::Open);
        }
    }

    pub(crate) fn count(&self, traffic: Traffic) {
        let counts =
            [traffic.client_packets, traffic.client_bytes, traffic.broker_packets, traffic.broker_bytes];
        // One by one: whoever reads meanwhile may see two that do not belong together, and is shown newer ones next time.
        for (shown, count) in self.traffic.iter().zip(counts) {
            shown.store(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn view(&self) -> SessionView {
        let peer = self.claimed_peer();
        let peer = peer.as_deref();
        let count = |at: usize| self.traffic[at].load(Ordering::Relaxed);
        SessionView {
            connection_id: Uuid::from_u128(self.id()),
            epoch: self.origin.epoch,
            client_id: peer.map(|peer| peer.client_id.to_string()),
            username: peer.and_then(|peer| peer.username.as_ref().map(ToString::to_string)),
            listener: self.origin.listener.to_string(),
            transport: self.origin.transport.name(),
            peer_addr: self.origin.remote.to_string(),
            local_addr: self.origin.local.to_string(),
            protocol: peer.map(|peer| peer.version.to_string()),
            grant_version: peer.and_then(|peer| {
                let version = &peer.grant.as_ref()?.version;
                (!version.is_empty()).then(|| version.to_string())
            }),
            connected_since: Timestamp(self.accepted),
            phase: self.phase_name(),
            traffic: TrafficView {
                client_packets: count(0),
                client_bytes: count(1),
                broker_packets: count(2),
                broker_bytes: count(3),
            },
        }
    }

    fn phase_name(&self) -> &'static str {
        let phase = usize::from(self.phase.load(Ordering::Relaxed));
        ConnectionPhase::NAMES.get(phase).copied().unwrap_or("closing")
    }

    /// The sum of these counts, as they stand in [`count`](Self::count).
    fn traffic_of(&self, counts: [usize; 2]) -> u64 {
        counts.into_iter().map(|at| self.traffic[at].load(Ordering::Relaxed)).sum()
    }
}

/// All connections, by id.
#[derive(Default)]
pub(crate) struct Registry {
    connections: Mutex<BTreeMap<u128, Arc<Handle>>>,
}

impl Registry {
    pub(crate) fn enter(&self, handle: &Arc<Handle>) {
        let before = self.connections.lock().insert(handle.id(), Arc::clone(handle));
        debug_assert!(before.is_none(), "two connections have one id");
    }

    pub(crate) fn leave(&self, handle: &Handle) {
        let gone = self.connections.lock().remove(&handle.id());
        debug_assert!(gone.is_some(), "who leaves has entered, and leaves once");
        handle.close_orders();
    }

    /// Whether there is one whose broker has not said yes.
    pub(crate) fn is_anybody_opening(&self) -> bool {
        let is_opening =
            |handle: &Arc<Handle>| handle.phase.load(Ordering::Relaxed) < ConnectionPhase::Open as u8;
        self.connections.lock().values().any(is_opening)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        self.connections.lock().values().cloned().collect()
    }

    /// Whether there was one to be told.
    pub(crate) fn kick(&self, id: Uuid, dismissal: &Dismissal) -> bool {
        let handle = self.find(id.as_u128());
        if let Some(handle) = &handle {
            handle.kick(dismissal);
        }
        handle.is_some()
    }

    /// In the order of their ids.
    fn page(&self, filter: &SessionFilter, after: Option<u128>, limit: usize) -> Page {
        let mut sessions: Vec<SessionView> = Vec::new();
        let mut bytes = 0;
        let mut from = after.map_or(Some(0), |after| after.checked_add(1));
        while let Some(start) = from {
            // In pieces, so that connections that come and go wait for none of this.
            let some: Vec<_> = self
                .connections
                .lock()
                .range(start..)
                .take(AT_A_TIME)
                .map(|(_, one)| Arc::clone(one))
                .collect();
            from = if some.len() < AT_A_TIME {
                None
            } else {
                some.last().and_then(|one| one.id().checked_add(1))
            };
            for one in some.iter().filter(|one| one.passes(filter)) {
                // This one tells that there is a next page.
                if sessions.len() >= limit || bytes >= PAGE_BYTES {
                    let next = sessions.last().map(|last| last.connection_id.to_string());
                    return Page { sessions, next };
                }
                let view = one.view();
                bytes += view.json_size();
                sessions.push(view);
            }
        }
        Page { sessions, next: None }
    }

    /// The newest connection of the client with this id.
    pub(crate) fn find_client(&self, client_id: &str) -> Option<Arc<Handle>> {
        let (mut newest, mut after): (Option<Arc<Handle>>, _) = (None, None);
        loop {
            let (some, next) = self.some_after(after, AT_A_TIME);
            for handle in some {
                let is_its = handle.peer().is_some_and(|peer| &*peer.client_id == client_id);
                if is_its && newest.as_ref().is_none_or(|other| other.origin.epoch < handle.origin.epoch) {
                    newest = Some(handle);
                }
            }
            if next.is_none() {
                return newest;
            }
            after = next;
        }
    }

    pub(crate) fn find(&self, id: u128) -> Option<Arc<Handle>> {
        self.connections.lock().get(&id).cloned()
    }

    /// So many connections behind this one, in the order of their ids, and the last of them if there may be more.
    pub(crate) fn some_after(
        &self,
        after: Option<ConnectionId>,
        most: usize,
    ) -> (Vec<Arc<Handle>>, Option<ConnectionId>) {
        let Some(from) = after.map_or(Some(0), |after| after.0.checked_add(1)) else {
            return Default::default();
        };
        let some: Vec<_> =
            self.connections.lock().range(from..).take(most).map(|(_, one)| Arc::clone(one)).collect();
        let last = some.last().filter(|_| some.len() == most).map(|one| one.origin.connection_id);
        (some, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{SessionCursor, SessionOrder, SessionsQuestion};
    use crate::example_peer;

    fn handle(id: u128, listener: &str) -> Arc<Handle> {
        let origin = Origin { epoch: id as u64, listener: listener.into(), ..example_peer::origin(id) };
        Arc::new(Handle::new(&Arc::new(origin)))
    }

    fn named(name: &str, origin: &Arc<Origin>) -> Arc<Peer> {
        let peer = example_peer::peer(Arc::clone(origin), name);
        Arc::new(Peer { username: Some(name.into()), ..peer })
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_overlap() {
        let registry = Registry::default();
        for id in 1..=5 {
            registry.enter(&handle(id, if id % 2 == 1 { "odd" } else { "even" }));
        }
        let all = SessionFilter::default();
        let first = registry.page(&all, None, 2);
        let ids = |page: &Page| page.sessions.iter().map(|one| one.epoch).collect::<Vec<_>>();
        assert_eq!(ids(&first), [1, 2]);
        let next = |page: &Page| {
            page.next.as_deref().and_then(|next| Uuid::parse_str(next).ok()).map(|id| id.as_u128())
        };
        let second = registry.page(&all, next(&first), 2);
        assert_eq!(ids(&second), [3, 4]);
        let last = registry.page(&all, next(&second), 2);
        assert_eq!((ids(&last), last.next), (vec![5], None));
        let odd = SessionFilter { listener: Some("odd".into()), ..all };
        assert_eq!(ids(&registry.page(&odd, None, 10)), [1, 3, 5]);
    }

    #[test]
    fn a_page_ends_when_it_has_grown_large_and_the_next_goes_on_there() {
        let registry = Registry::default();
        for id in 1..=40 {
            let one = handle(id, "mqtt");
            one.set_peer(&named(&"n".repeat(60_000), one.origin()));
            registry.enter(&one);
        }
        let (mut seen, mut after) = (Vec::new(), None);
        for _ in 0..40 {
            let page = registry.page(&SessionFilter::default(), after, 1000);
            let bytes = serde_json::to_vec(&page).unwrap().len();
            assert!(bytes < 2 * PAGE_BYTES, "{bytes}");
            seen.extend(page.sessions.iter().map(|one| one.epoch));
            after = page.next.and_then(|next| Uuid::parse_str(&next).ok()).map(|id| id.as_u128());
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, (1..=40).collect::<Vec<_>>());
    }

    #[test]
    fn who_waits_is_found_by_what_it_says_of_itself_and_is_nobody_for_those_who_decide() {
        let registry = Registry::default();
        let one = handle(1, "mqtt");
        registry.enter(&one);
        one.claim_peer(&named("lamp", one.origin()));
        let filter = SessionFilter { client_id: Some("lamp".into()), ..SessionFilter::default() };
        let found = registry.page(&filter, None, 10).sessions;
        assert_eq!(found[0].client_id.as_deref(), Some("lamp"));
        assert!(one.peer().is_none() && registry.find_client("lamp").is_none());
        one.set_peer(&named("lamp", one.origin()));
        assert!(one.peer().is_some() && registry.find_client("lamp").is_some());
    }

    #[test]
    fn a_kick_is_not_lost_to_a_drain() {
        let one = handle(1, "mqtt");
        one.send(ConnectionCommand::Kick(ReasonCode::ADMINISTRATIVE_ACTION));
        one.send(ConnectionCommand::Drain);
        let cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(one.poll_command(&cx), Some(ConnectionCommand::Kick(ReasonCode::ADMINISTRATIVE_ACTION)));
        assert_eq!(one.poll_command(&cx), None);
    }

    #[tokio::test]
    async fn every_order_has_pages_without_gap_or_overlap() {
        let registry = Registry::default();
        for id in 1..=50_u128 {
            let one = handle(id, "mqtt");
            one.set_peer(&named(&format!("c{}", id * 37 % 50), one.origin()));
            let packets = id as u64 * 7 % 5;
            one.count(Traffic { client_packets: packets, client_bytes: packets * 9, ..Traffic::default() });
            registry.enter(&one);
        }
        let orders = [
            SessionOrder::ConnectionId,
            SessionOrder::ConnectedSince,
            SessionOrder::Packets,
            SessionOrder::Bytes,
            SessionOrder::ClientId,
        ];
        for order in orders {
            let mut question =
                SessionsQuestion { filter: SessionFilter::default(), order, after: None, limit: 7 };
            let mut seen = Vec::new();
            loop {
                let page = registry.list(&question).await;
                assert!(page.sessions.len() <= 7);
                seen.extend(page.sessions);
                let Some(next) = page.next else { break };
                question.after = Some(SessionCursor::parse(&next, order).expect("its own cursor"));
            }
            let mut ids: Vec<_> = seen.iter().map(|one| one.epoch).collect();
            let is_sorted = match order {
                SessionOrder::ConnectionId => ids.is_sorted(),
                SessionOrder::ConnectedSince => ids.iter().rev().is_sorted(),
                SessionOrder::Packets | SessionOrder::Bytes => {
                    seen.iter().rev().is_sorted_by_key(|one| one.traffic.client_packets)
                }
                SessionOrder::ClientId => seen.is_sorted_by_key(|one| one.client_id.clone()),
            };
            assert!(is_sorted, "{order:?}");
            ids.sort_unstable();
            assert_eq!(ids, (1..=50).collect::<Vec<_>>(), "{order:?}");
        }
    }

    #[tokio::test]
    async fn those_that_pass_are_disconnected_and_no_others() {
        let registry = Registry::default();
        let all: Vec<_> = (1..=10).map(|id| handle(id, if id % 2 == 1 { "odd" } else { "even" })).collect();
        all.iter().for_each(|one| registry.enter(one));
        let filter = SessionFilter { listener: Some("odd".into()), ..SessionFilter::default() };
        let dismissal = Dismissal::new(ReasonCode::ADMINISTRATIVE_ACTION);
        assert_eq!(registry.kick_all(&filter, &dismissal).await, 5);
        let told = Dismissal { text: Some("bye".into()), ..dismissal };
        let filter = SessionFilter { listener: Some("even".into()), ..SessionFilter::default() };
        assert_eq!(registry.kick_all(&filter, &told).await, 5);
        let cx = Context::from_waker(std::task::Waker::noop());
        for one in all {
            let kicked = one.poll_command(&cx).is_some();
            let told = one.take_orders().map_or(0, |queue| queue.dismissals.len());
            assert_eq!((kicked, told), if &*one.origin().listener == "odd" { (true, 0) } else { (false, 1) });
        }
    }
}
