//! Something that is tried for a client that waits, again and again until there is no more time: the question about its
//! CONNECT, the dial.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::command::Order;
use crate::fault::Fault;
use crate::gate::ConnectTag;
use crate::peer::ConnectionId;
use crate::policy::{FailureKind, Undecided};

/// The first pause, at most; it doubles with each try.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest pause. A broker that is back is found within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a dial gets at least, where the answer before it took all the time there was.
const DIAL_AT_LEAST: Duration = Duration::from_secs(1);

/// What is kept of a client that waits, while something is tried for it.
#[derive(Debug)]
pub(in super::super) struct Attempt {
    /// As it came, while the advisers are asked; as the broker gets it, while that is dialled.
    pub(in super::super) connect: Bytes,
    /// By what the gate knows it again.
    pub(in super::super) tag: ConnectTag,
    /// Nothing is tried again after this.
    until: Instant,
    /// Tries that failed, of what is tried at present.
    failed: u32,
    /// The reason of the end, if nothing changes until then.
    pub(in super::super) last: Option<Fault>,
    /// Commands that came after the question that is out, and may mean the client.
    pub(super) orders: KeptOrders,
}

/// Commands that are kept until it is known who the client is.
#[derive(Debug)]
pub(super) enum KeptOrders {
    /// These, in order.
    These(Vec<Arc<Order>>),
    /// More than are kept: the question is asked anew, and its answer will be newer.
    TooMany,
}

/// Commands that are kept for one client, at most.
const ORDERS: usize = 256;

impl Attempt {
    pub(in super::super) fn new(connect: Bytes, tag: ConnectTag, until: Instant) -> Box<Self> {
        Box::new(Self { connect, tag, until, failed: 0, last: None, orders: KeptOrders::These(Vec::new()) })
    }

    /// The same client one step further on.
    pub(in super::super) fn for_dial(&self, connect: Bytes, now: Instant) -> Box<Self> {
        // Anew: how often the question failed makes no pause of the dial's longer.
        Self::new(connect, self.tag, self.until.max(now + DIAL_AT_LEAST))
    }

    /// A command that may mean the client.
    pub(in super::super) fn keep_order(&mut self, order: &Arc<Order>) {
        match &mut self.orders {
            KeptOrders::These(orders) if orders.len() < ORDERS => orders.push(Arc::clone(order)),
            orders => *orders = KeptOrders::TooMany,
        }
    }

    /// A question is about to be asked: its answer will be newer than all commands so far.
    pub(super) fn forget_orders(&mut self) {
        self.orders = KeptOrders::These(Vec::new());
    }

    /// The number of the question that is out, or will be next.
    pub(in super::super) const fn number(&self) -> u32 {
        self.failed
    }

    pub(in super::super) const fn until(&self) -> Instant {
        self.until
    }

    /// When to try again after this failure; `None` if there is no time for it.
    pub(in super::super) fn next_try(
        &mut self,
        fault: &Fault,
        id: ConnectionId,
        now: Instant,
    ) -> Option<Instant> {
        let at = now + pause(self.failed, id);
        self.failed = self.failed.saturating_add(1);
        self.last = Some(fault.clone());
        (at < self.until).then_some(at)
    }
}

/// Whether a question about which nothing was decided may go well if it is asked again.
pub(in super::super) const fn may_pass(undecided: &Undecided) -> bool {
    match undecided {
        Undecided::Failed(failure) => {
            matches!(failure.kind, FailureKind::Unavailable | FailureKind::Deadline)
        }
        Undecided::Overloaded(_) => true,
        Undecided::Unusable(_) => false,
    }
}

/// Between half of the longest pause after so many failures and the whole of it. Which it is follows from the connection's
/// id, which is random: those that lost their broker together do not come to it together.
fn pause(failed: u32, id: ConnectionId) -> Duration {
    // The longest pause is reached long before the shift could be too wide.
    let longest = PAUSE.saturating_mul(1 << failed.min(10)).min(LONGEST_PAUSE);
    // The finalizer of SplitMix64: spreads whatever differs over all bits.
    let mut bits = (id.0 ^ (id.0 >> 64)) as u64;
    bits = bits.wrapping_add(u64::from(failed).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    longest / 2 + (longest / 2).mul_f64(f64::from((bits >> 32) as u32) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_differ_from_client_to_client() {
        for (failed, most) in [(0, 100), (1, 200), (3, 800), (4, 1000), (50, 1000), (u32::MAX, 1000)] {
            let most = Duration::from_millis(most);
            let mut seen = std::collections::HashSet::new();
            for client in 0..100_u128 {
                let pause = pause(failed, ConnectionId(client.wrapping_mul(0x0123_4567_89ab_cdef_0011_2233)));
                assert!(pause >= most / 2 && pause <= most, "{failed}: {pause:?}");
                seen.insert(pause);
            }
            assert!(seen.len() > 90, "{failed}: {} of 100 differ", seen.len());
        }
    }
}
