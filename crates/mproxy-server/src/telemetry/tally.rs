//! The counters of the packet path: flat arrays of plain atomics, several copies of them so that threads do
//! not fight over a cache line, added up only when somebody looks.

use std::cell::Cell;
use std::fmt::Error;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use mproxy_codec::types::PacketType;
use mproxy_core::Side;
use mproxy_core::meter::Outcome;
use mproxy_core::policy::{Hook, Source};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

const SIDES: [Side; 2] = [Side::Client, Side::Broker];

/// Slots of one side: packet types go from 1 to 15, slot 0 stays empty.
const TYPES: usize = 16;
const PACKET_SLOTS: usize = SIDES.len() * TYPES;
const DECISION_SLOTS: usize = Hook::ALL.len() * Source::ALL.len() * Outcome::ALL.len();

/// More copies than this cost more memory than they save time.
const MOST_COPIES: usize = 64;

/// Counts packets, bytes and decisions.
#[derive(Debug)]
pub(super) struct Tally {
    /// A power of two of them.
    copies: Box<[PacketCounts]>,
}

/// Two cache lines, because processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct PacketCounts {
    packets: [AtomicU64; PACKET_SLOTS],
    bytes: [AtomicU64; PACKET_SLOTS],
    decisions: [AtomicU64; DECISION_SLOTS],
}

impl PacketCounts {
    fn zero() -> Self {
        Self {
            packets: [const { AtomicU64::new(0) }; PACKET_SLOTS],
            bytes: [const { AtomicU64::new(0) }; PACKET_SLOTS],
            decisions: [const { AtomicU64::new(0) }; DECISION_SLOTS],
        }
    }
}

impl Tally {
    pub(super) fn new() -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let copies = threads.next_power_of_two().min(MOST_COPIES);
        Self { copies: (0..copies).map(|_| PacketCounts::zero()).collect() }
    }

    /// The copy of this thread.
    fn counts(&self) -> &PacketCounts {
        &self.copies[thread_number() & (self.copies.len() - 1)]
    }

    fn sum(&self, slot: impl Fn(&PacketCounts) -> &AtomicU64) -> u64 {
        // Relaxed: a page may show a packet whose bytes it does not show yet.
        self.copies.iter().map(|counts| slot(counts).load(Ordering::Relaxed)).sum()
    }
}

/// Numbers threads in the order in which they first count, so that workers spread evenly over the copies.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) });
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

const fn packet_slot(from: Side, kind: PacketType) -> usize {
    // Below PACKET_SLOTS in any case: there are two sides, and types end at 15.
    from as usize * TYPES + kind as usize
}

const fn decision_slot(hook: Hook, source: Source, outcome: Outcome) -> usize {
    (hook as usize * Source::ALL.len() + source as usize) * Outcome::ALL.len() + outcome as usize
}

impl Tally {
    pub(super) fn packets(&self, from: Side, kind: PacketType, packets: u64, bytes: u64) {
        let counts = self.counts();
        let slot = packet_slot(from, kind);
        counts.packets[slot].fetch_add(packets, Ordering::Relaxed);
        counts.bytes[slot].fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn decisions(&self, hook: Hook, source: Source, outcome: Outcome, count: u64) {
        self.counts().decisions[decision_slot(hook, source, outcome)].fetch_add(count, Ordering::Relaxed);
    }
}

impl Collector for Tally {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let kinds = || SIDES.into_iter().flat_map(|from| PacketType::ALL.map(|kind| (from, kind)));
        let labels = |from: Side, kind: PacketType| [("from", from.name()), ("type", kind.name())];

        let mut family =
            encoder.encode_descriptor("packets", "MQTT packets received", None, MetricType::Counter)?;
        for (from, kind) in kinds() {
            let sum = self.sum(|counts| &counts.packets[packet_slot(from, kind)]);
            if sum > 0 || passes(from, kind) {
                ConstCounter::new(sum).encode(family.encode_family(&labels(from, kind))?)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "packet_bytes",
            "Bytes of MQTT packets received",
            None,
            MetricType::Counter,
        )?;
        for (from, kind) in kinds() {
            let sum = self.sum(|counts| &counts.bytes[packet_slot(from, kind)]);
            if sum > 0 || passes(from, kind) {
                ConstCounter::new(sum).encode(family.encode_family(&labels(from, kind))?)?;
            }
        }
        let help = "Decisions by hook, by who decided, and by outcome";
        let mut family = encoder.encode_descriptor("decisions", help, None, MetricType::Counter)?;
        for (hook, source, outcome) in decisions() {
            let sum = self.sum(|counts| &counts.decisions[decision_slot(hook, source, outcome)]);
            if sum > 0 || arises(hook, source, outcome) {
                let labels = [("hook", hook.name()), ("source", source.name()), ("outcome", outcome.name())];
                ConstCounter::new(sum).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn decisions() -> impl Iterator<Item = (Hook, Source, Outcome)> {
    Hook::ALL.into_iter().flat_map(|hook| {
        Source::ALL.into_iter().flat_map(move |source| Outcome::ALL.map(|outcome| (hook, source, outcome)))
    })
}

/// Whether a series is shown before it was ever counted: a rate over a series that begins at 1 misses the first.
const fn passes(from: Side, kind: PacketType) -> bool {
    use PacketType::{
        Auth, Connack, Connect, Disconnect, Pingreq, Pingresp, Puback, Pubcomp, Publish, Pubrec, Pubrel,
        Suback, Subscribe, Unsuback, Unsubscribe,
    };
    match kind {
        Publish | Puback | Pubrec | Pubrel | Pubcomp | Disconnect | Auth => true,
        Connect | Subscribe | Unsubscribe | Pingreq => matches!(from, Side::Client),
        Connack | Suback | Unsuback | Pingresp => matches!(from, Side::Broker),
    }
}

/// The same for decisions. Deliveries and authentications are seldom decided: theirs come when they come.
const fn arises(hook: Hook, source: Source, outcome: Outcome) -> bool {
    if matches!(hook, Hook::Deliver | Hook::Exchange) {
        return false;
    }
    match source {
        Source::Unasked | Source::FailedOpen => matches!(outcome, Outcome::Allowed),
        Source::Unknown | Source::Budget | Source::FailedClosed => matches!(outcome, Outcome::Refused),
        Source::Acl => !matches!(outcome, Outcome::Changed),
        Source::Ban | Source::Limit => matches!((hook, outcome), (Hook::Connect, Outcome::Refused)),
        Source::Rpc => true,
        Source::Grant | Source::Cache | Source::Rate | Source::Unusable | Source::Overloaded => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_packet_and_decision_has_a_slot_of_its_own() {
        let mut seen = HashSet::new();
        for from in SIDES {
            for kind in PacketType::ALL {
                let slot = packet_slot(from, kind);
                assert!(slot < PACKET_SLOTS && seen.insert(slot));
            }
        }
        seen.clear();
        for (hook, source, outcome) in decisions() {
            let slot = decision_slot(hook, source, outcome);
            assert!(slot < DECISION_SLOTS && seen.insert(slot));
        }
        assert_eq!(seen.len(), DECISION_SLOTS);
    }

    #[test]
    fn counts_of_all_threads_add_up() {
        let tally = Tally::new();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    (0..1000).for_each(|_| tally.packets(Side::Client, PacketType::Publish, 2, 10))
                });
            }
        });
        let slot = packet_slot(Side::Client, PacketType::Publish);
        assert_eq!(tally.sum(|counts| &counts.packets[slot]), 16_000);
        assert_eq!(tally.sum(|counts| &counts.bytes[slot]), 80_000);
    }
}
