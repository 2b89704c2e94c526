//! One connection, as others see it, and the way to send it a command.

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
use mproxy_core::peer::Origin;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::admin::view::{SessionView, TrafficView};
use crate::handover::OfferRequest;
use crate::orders::{ExplainRequest, HandedOrder, OrderQueue, SessionInquiry};
use crate::timestamp::Timestamp;

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
    /// Closing, and it never was admitted.
    Refused,
    Dialing,
    Open,
    Closing,
}

impl ConnectionPhase {
    const NAMES: [&'static str; 6] = ["connecting", "admitting", "closing", "dialling", "open", "closing"];
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
        Self::accepted_at(origin, SystemTime::now())
    }

    /// Of a connection that another process has accepted, at that time.
    pub(crate) fn accepted_at(origin: &Arc<Origin>, accepted: SystemTime) -> Self {
        Self {
            origin: Arc::clone(origin),
            accepted,
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

    /// Has it offered to another process, where that is possible. It is told of this by the answer alone.
    pub(crate) fn offer(&self, request: OfferRequest) {
        self.put(|queue| queue.offer = Some(request));
    }

    /// Another process is about to go on with its session: nothing reaches it any more. `false` where something has reached it
    /// that its task has not taken: then it is not closed.
    pub(crate) fn close_to_hand_over(&self) -> bool {
        let mut orders = self.orders.lock();
        let is_quiet =
            matches!(*orders, OrderSlot::Empty) && self.command.load(Ordering::Acquire) == NO_COMMAND;
        if is_quiet {
            *orders = OrderSlot::Closed;
        }
        is_quiet
    }

    /// No other process does.
    pub(crate) fn reopen(&self) {
        *self.orders.lock() = OrderSlot::Empty;
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

    pub(super) fn put(&self, push: impl FnOnce(&mut OrderQueue)) {
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
    pub(super) fn close_orders(&self) {
        let left = std::mem::replace(&mut *self.orders.lock(), OrderSlot::Closed);
        // When the lock is free again: it wakes those who wait for what becomes of a command.
        drop(left);
    }

    /// Its session is over, and what it said last is on its way.
    pub(crate) fn begin_closing(&self) {
        let phase = if self.is_admitted() { ConnectionPhase::Closing } else { ConnectionPhase::Refused };
        self.set_phase(phase);
    }

    /// It is closing, and never was admitted.
    pub(crate) fn is_refused(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == ConnectionPhase::Refused as u8
    }

    pub(crate) fn set_phase(&self, phase: ConnectionPhase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The broker is being dialled, or was.
    pub(crate) fn is_admitted(&self) -> bool {
        self.phase.load(Ordering::Relaxed) >= ConnectionPhase::Dialing as u8
    }

    /// Its CONNECT has come, and its broker has not said yes.
    pub(crate) fn is_opening(&self) -> bool {
        let phase = self.phase.load(Ordering::Relaxed);
        [ConnectionPhase::Admitting, ConnectionPhase::Dialing].iter().any(|opening| *opening as u8 == phase)
    }

    pub(crate) const fn accepted(&self) -> SystemTime {
        self.accepted
    }

    pub(crate) fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    pub(super) fn id(&self) -> u128 {
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
            && !self.is_refused()
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
            broker_client_id: peer.and_then(|peer| peer.broker_client_id.as_deref().map(str::to_owned)),
            username: peer.and_then(|peer| peer.shown_username().map(ToOwned::to_owned)),
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

    pub(super) fn phase_name(&self) -> &'static str {
        let phase = usize::from(self.phase.load(Ordering::Relaxed));
        ConnectionPhase::NAMES.get(phase).copied().unwrap_or("closing")
    }

    /// The sum of these counts, as they stand in [`count`](Self::count).
    pub(super) fn traffic_of(&self, counts: [usize; 2]) -> u64 {
        counts.into_iter().map(|at| self.traffic[at].load(Ordering::Relaxed)).sum()
    }
}
