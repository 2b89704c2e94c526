//! What every state of a session has: its setting, effects, counts, the deadline, what it holds.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use mproxy_codec::property::Properties;
use mproxy_codec::reason::ReasonCode;

use super::effect::{Effect, Effects};
use super::holding::{Account, Holder};
use super::setting::Setting;
use super::timer::{Deadline, Timer};
use crate::event::{Event, Happening, Traffic};
use crate::meter::Outcome;
use crate::peer::{Peer, Side};
use crate::policy::{Hook, Source};

/// Comparisons with rules that one read may take: some 16 ns each, so an eighth of a millisecond. What is left is read in
/// another turn, so that a flood of packets against many rules keeps no thread from others.
pub(super) const WORK: u32 = 8 << 10;

/// Handed to every room that has something to do with the world outside.
pub(super) struct Context {
    pub(super) setting: Arc<Setting>,
    pub(super) effects: Effects,
    pub(super) traffic: Traffic,
    pub(super) timer: Timer,
    /// What it has put down against its budget.
    pub(super) account: Account,
    /// Comparisons that are left to this read.
    pub(super) work: u32,
    /// The last read of that side was cut short: what was left is to be given again, whatever comes.
    pub(super) cut: [bool; 2],
    /// Whether single packets are traced, as the meter said at the last read. A cell: decisions are told through a shared
    /// reference, and the trace of a packet that was refused says so.
    pub(super) tracing: Cell<PacketTracing>,
}

/// Whether single packets are traced. Two bytes: every session has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PacketTracing {
    /// No.
    #[default]
    Off,
    /// Yes.
    On,
    /// Yes, and the packet that is just dealt with was refused, or some of its filters were.
    Refused(Source, ReasonCode),
}

impl Context {
    /// Of a session that has just been accepted.
    pub(super) fn new(setting: Arc<Setting>, now: Instant) -> Self {
        let mut timer = Timer::default();
        timer.arm(Deadline::Connect, now, setting.limits.connect_timeout);
        Self {
            setting,
            effects: Effects::default(),
            traffic: Traffic::default(),
            timer,
            account: Account::default(),
            work: 0,
            cut: [false; 2],
            tracing: Cell::new(PacketTracing::Off),
        }
    }

    /// Whether single packets are traced.
    pub(super) const fn traces(&self) -> bool {
        !matches!(self.tracing.get(), PacketTracing::Off)
    }

    /// This much of what the read may take is used up.
    pub(super) fn spend(&mut self, comparisons: usize) {
        self.work = self.work.saturating_sub(u32::try_from(comparisons).unwrap_or(u32::MAX));
    }

    /// Puts down what is held now.
    pub(super) fn put_down(&mut self, holder: Holder<'_>, bytes: usize, now: Instant) {
        let Setting { budget, limits, .. } = &*self.setting;
        self.account.put_down(budget, limits.room_timeout, holder, bytes, now);
    }

    /// So much has come from that side.
    pub(super) fn count(&mut self, from: Side, packets: u64, bytes: u64) {
        let traffic = &mut self.traffic;
        let (all_packets, all_bytes) = match from {
            Side::Client => (&mut traffic.client_packets, &mut traffic.client_bytes),
            Side::Broker => (&mut traffic.broker_packets, &mut traffic.broker_bytes),
        };
        *all_packets += packets;
        *all_bytes += bytes;
    }

    /// So many packets, or filters, were refused because mproxy may not hold them.
    pub(super) fn count_over_budget(&self, hook: Hook, count: u64) {
        self.setting.meter.decisions(hook, Source::Budget, Outcome::Refused, count);
    }

    /// Tells of something that has happened to this client.
    pub(super) fn report(&mut self, peer: &Arc<Peer>, peer_weight: u32, what: Happening) {
        let mut event = Event { peer: Arc::clone(peer), what, purse: None };
        // It keeps its peer alive. All events of a client share that one, so the larger of the two stands for both.
        let weight = event.weight().max(peer_weight as usize);
        event.purse = self.account.purse_for(&self.setting.budget, weight, Holder::client(peer));
        self.effects.push(Effect::Report(event));
    }

    /// Whether a set of properties holds more user properties than a packet may have.
    pub(super) fn too_many_user_properties(&self, properties: Properties<'_>) -> bool {
        let most = self.setting.limits.max_user_properties;
        // Few packets come to the second line, which reads them all: an identifier and two lengths stand beside
        // each pair.
        properties.raw().len() > most
            && properties.user().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>() > most
    }
}
