//! Runs of packets that pass, taken at a stride: nobody is asked about them, or the answer stands; nobody is told of
//! them; so nothing of them is looked at but whether they are whole and sound.
//!
//! Whatever needs a closer look ends the stride, and goes the long way. So does every packet that a glance does not
//! recognise: this room may be left out without any difference but in time.

use mproxy_codec::glance::{Glance, is_plain_topic};
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketId, PacketType};

use super::from_client::Leaving;
use super::phase::Phase;
use super::{Session, Step, Tally, publish};
use crate::event::Kind;
use crate::meter::Outcome;
use crate::peer::Side;
use crate::policy::{Source, Want};

/// What passes at a stride, settled once for all that one read brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stride {
    publishes: Publishes,
    /// Bytes of the largest packet that is not too large.
    most: usize,
}

/// Which publishes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Publishes {
    /// Each is to be looked at.
    None,
    /// Those to topics about which an answer stands.
    Standing,
    /// Those that are sound.
    Sound,
    /// Those that are whole.
    Whole,
}

/// Decisions of one source, counted and not yet told to the meter.
#[derive(Default)]
struct Decided {
    source: Option<Source>,
    count: u64,
}

impl Session {
    /// The client has other rules than before: what they said does not stand any more.
    pub(super) fn nothing_stands(&mut self) {
        self.up.standing = None;
        self.down.standing = None;
    }

    /// What of that side's packets passes at a stride now.
    pub(super) fn stride_of(&mut self, from: Side) -> Stride {
        let told = from == Side::Client && self.setting.sink.want(Kind::Publish) != Want::Nothing;
        let publishes = match (from, self.want(from)) {
            _ if told || self.terms.mapped => Publishes::None,
            (Side::Client, Want::Nothing) => Publishes::Sound,
            (Side::Broker, Want::Nothing) if !self.reads_deliveries() => Publishes::Whole,
            // Aliases are followed.
            (Side::Broker, Want::Nothing) => Publishes::Sound,
            (_, Want::Head | Want::Payload(_)) => {
                let edition = self.setting.advisers.edition();
                match &mut self.direction(from).standing {
                    Some(standing) => {
                        standing.keep_to(edition);
                        Publishes::Standing
                    }
                    None => Publishes::None,
                }
            }
        };
        let most = match from {
            Side::Client => self.setting.limits.max_packet_size.min(self.terms.granted_packet) as usize,
            Side::Broker => usize::MAX,
        };
        Stride { publishes, most }
    }

    /// The packets from the start of `data` on that pass. `None`: the first one needs a closer look.
    pub(super) fn stride(
        &mut self,
        from: Side,
        mut stride: Stride,
        data: &[u8],
        tally: &mut Tally,
    ) -> Option<Step> {
        let at_rest = matches!(self.phase, Phase::Open)
            && self.direction_ref(from).body.left == 0
            && self.lane(from).is_empty();
        if !at_rest || !self.takes(from) {
            return None;
        }
        let (mut run, mut packets, mut answers) = (0, 0, false);
        let mut decided = Decided::default();
        while !answers
            && self.work > 0
            && let Some(seen) = Glance::at(&data[run..])
        {
            let len = seen.bytes.len();
            let passes = match seen.kind {
                PacketType::Publish => {
                    len <= stride.most && self.publish_passes(from, &mut stride, &seen, &mut decided)
                }
                PacketType::Pingreq => from == Side::Client && len == 2,
                PacketType::Pingresp => from == Side::Broker && len == 2,
                _ => match seen.acknowledges().and_then(|id| self.ack_passes(from, seen.kind, id)) {
                    None => false,
                    Some(follows) => {
                        answers = follows;
                        true
                    }
                },
            };
            if !passes {
                break;
            }
            run += len;
            packets += 1;
            tally.add(seen.kind, 1, len as u64, &*self.setting.meter, from);
        }
        if let Some(source) = decided.source {
            self.setting.meter.decisions(publish::hook(from), source, Outcome::Allowed, decided.count);
        }
        let (all, bytes) = match from {
            Side::Client => (&mut self.traffic.client_packets, &mut self.traffic.client_bytes),
            Side::Broker => (&mut self.traffic.broker_packets, &mut self.traffic.broker_bytes),
        };
        *all += packets;
        *bytes += run as u64;
        match (run, answers) {
            (0, _) => None,
            (_, false) => Some(Step::Pass(run)),
            (_, true) => Some(Step::PassThenAnswer(run)),
        }
    }

    /// Whether a PUBLISH passes. Where it does, it is accounted for.
    #[inline]
    fn publish_passes(
        &mut self,
        from: Side,
        stride: &mut Stride,
        seen: &Glance<'_>,
        decided: &mut Decided,
    ) -> bool {
        let publishes = stride.publishes;
        if publishes == Publishes::Whole {
            // As long as a PUBLISH is at least.
            return seen.bytes.len() > 4;
        }
        let Some(publish) = seen.publish(self.terms.version) else { return false };
        let source = match publishes {
            Publishes::None | Publishes::Whole => return false,
            Publishes::Sound if is_plain_topic(publish.topic) => None,
            Publishes::Sound => return false,
            // Nobody has to look whether a topic is sound that is the same as one that was.
            Publishes::Standing => match self.standing(from, seen.bytes, publish.topic) {
                Some(source) if decided.source.is_none_or(|other| other == source) => Some(source),
                Some(_) | None => return false,
            },
        };
        if let Some(id) = publish.packet_id {
            if from == Side::Client {
                self.in_flight.went(seen.qos(), id);
            }
            if source.is_some() || self.ledger.is_some() {
                self.ledger().expect(from, publish::acknowledgement(seen.qos()), id, None);
                // Behind this one, if the ledger is full now.
                stride.publishes = if self.takes(from) { publishes } else { Publishes::None };
            }
        }
        if source.is_some() {
            decided.source = source;
            decided.count += 1;
        }
        true
    }

    fn standing(&self, from: Side, packet: &[u8], topic: &[u8]) -> Option<Source> {
        self.direction_ref(from).standing.as_deref()?.allowed(*packet.first()?, topic)
    }

    /// Whether an acknowledgement of success passes, and if so whether packets of our own may follow it.
    #[inline]
    fn ack_passes(&mut self, from: Side, kind: PacketType, id: PacketId) -> Option<bool> {
        if kind == PacketType::Pubrel
            && let Some(ledger) = &mut self.ledger
            && ledger.flows(from).ours.contains(&id)
        {
            return None;
        }
        match self.acknowledged(from, kind, id, ReasonCode::SUCCESS) {
            Leaving::AsItIs => Some(false),
            Leaving::ThenAnswers => Some(self.has_answers(from)),
            Leaving::Instead(_) | Leaving::Nowhere | Leaving::Last(_) | Leaving::LastInstead(..) => None,
        }
    }
}
