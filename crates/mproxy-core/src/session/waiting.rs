//! A client that has said CONNECT and waits for its CONNACK.
//!
//! Trouble that passes (an answer that was unavailable or late, a limit of our own, a broker that is not there) is tried again while the client
//! waits, until admission's deadline: a client that is told of it may never come back. Once the broker has the CONNECT
//! nothing is tried again, for it may have taken it.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::timer::Deadline;
use super::{Effect, Phase, Session, Who};
use crate::fault::{Fault, Unreachable};
use crate::meter::Outcome;
use crate::peer::ConnectionId;
use crate::policy::{ConnectDecision, Failure, FailureKind, Hook, OnError, Ruling, Source, Undecided};

/// The first pause, at most; it doubles with each try.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest pause. A broker that is back is found within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a dial gets at least, where the answer before it took all the time there was.
const DIAL_AT_LEAST: Duration = Duration::from_secs(1);

/// What a client that waits for its CONNACK sees where the broker, or an answer about it, stayed away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnUnavailable {
    /// Its connection ends without a word, as if no broker were there: clients come again.
    #[default]
    Close,
    /// CONNACK 0x88 / 3.
    Connack,
}

/// What is kept of a client that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// As it came, while the advisers are asked; as the broker gets it, while that is dialled.
    pub(super) connect: Bytes,
    /// Nothing is tried again after this.
    until: Instant,
    /// Tries that failed, of what is tried at present.
    failed: u32,
    /// The reason of the end, if nothing changes until then.
    last: Option<Fault>,
}

impl Waiting {
    pub(super) fn new(connect: Bytes, until: Instant) -> Box<Self> {
        Box::new(Self { connect, until, failed: 0, last: None })
    }

    /// The same client one step further on.
    pub(super) fn admitted(&self, connect: Bytes, now: Instant) -> Box<Self> {
        Self::new(connect, self.until.max(now + DIAL_AT_LEAST))
    }

    /// The number of the question that is out, or will be next.
    pub(super) const fn asked(&self) -> u32 {
        self.failed
    }

    pub(super) const fn until(&self) -> Instant {
        self.until
    }

    /// When to try again after this failure; `None` if there is no time for it.
    fn again(&mut self, fault: &Fault, id: ConnectionId, now: Instant) -> Option<Instant> {
        let at = now + pause(self.failed, id);
        self.failed = self.failed.saturating_add(1);
        self.last = Some(fault.clone());
        (at < self.until).then_some(at)
    }
}

/// Whether a question about which nothing was decided may go well if it is asked again.
pub(super) const fn may_pass(undecided: &Undecided) -> bool {
    match undecided {
        Undecided::Failed(failure) => {
            matches!(failure.kind, FailureKind::Unavailable | FailureKind::Deadline)
        }
        Undecided::Overloaded(_) => true,
        Undecided::Unusable(_) => false,
    }
}

impl Session {
    /// Whether there is time to try again what failed like this; then it will be, after a pause.
    pub(super) fn will_try_again(&mut self, fault: &Fault, now: Instant) -> bool {
        let id = match &self.who {
            Who::Stranger(origin) => origin.connection_id,
            Who::Known(peer) => peer.origin.connection_id,
        };
        let (Phase::Admitting(waiting) | Phase::Dialing(waiting)) = &mut self.phase else { return false };
        let at = waiting.again(fault, id, now);
        if let Some(at) = at {
            self.timer.arm_at(Deadline::Retry, at);
        }
        at.is_some()
    }

    /// The advisers' answer to a question about the CONNECT.
    pub(super) fn admission_decided(&mut self, seq: u32, ruling: Ruling<ConnectDecision>, now: Instant) {
        if matches!(&self.phase, Phase::Admitting(waiting) if waiting.asked() == seq) {
            self.admitted(ruling, now);
        }
    }

    /// A pause has passed.
    pub(super) fn try_again(&mut self, now: Instant) {
        match &self.phase {
            Phase::Admitting(_) => self.ask_admission(now),
            Phase::Dialing(_) => self.dial(),
            _ => {}
        }
    }

    /// The broker is to be reached.
    pub(super) fn dial(&mut self) {
        let Phase::Dialing(waiting) = &self.phase else { return };
        let until = waiting.until();
        self.timer.arm_at(Deadline::Admission, until);
        self.effects.push(Effect::Dial { until });
    }

    /// Admission's deadline has passed while an answer or the broker was waited for.
    pub(super) fn waited_long_enough(&mut self, now: Instant) {
        match &mut self.phase {
            // The failure rule is for answers that failed. What kept this one is not known; it may be a queue of our own.
            Phase::Admitting(_) => {
                let failure = Failure::new(FailureKind::Deadline, "no answer within the admission deadline");
                if let Who::Known(peer) = &self.who {
                    self.setting.meter.failed(Hook::Connect, &failure, OnError::Deny, peer);
                }
                self.setting.meter.decisions(Hook::Connect, Source::FailedClosed, Outcome::Refused, 1);
                self.end(Fault::PolicyFailed { hook: Hook::Connect, failure: Box::new(failure) }, now);
            }
            Phase::Dialing(waiting) => {
                let last = waiting.last.take();
                let silent = || Fault::Unreachable(Unreachable("it did not answer in time".into()));
                self.end(last.unwrap_or_else(silent), now);
            }
            _ => {}
        }
    }

    /// Whether the client, which waits for its CONNACK, is told nothing of this: a refusal is a refusal, trouble is not.
    pub(super) fn keeps_silent_about(&self, fault: &Fault) -> bool {
        match self.setting.on_unavailable {
            OnUnavailable::Close => fault.is_trouble(),
            OnUnavailable::Connack => false,
        }
    }
}

/// Between half of the longest pause after so many failures and the whole of it. Which it is follows from the connection's
/// id, which is random: those that lost their broker together do not come to it together.
fn pause(failed: u32, id: ConnectionId) -> Duration {
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
