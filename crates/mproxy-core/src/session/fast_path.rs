//! Runs of packets that pass, taken at a path: nobody is asked about them, or the answer stands; nobody is told of
//! them; so nothing of them is looked at but whether they are whole and sound.
//!
//! Whatever needs a closer look ends the path, and goes the long way. So does every packet that a peek does not
//! recognise: this room may be left out without any difference but in time.

use mproxy_codec::peek::{Peek, PlainPublish};
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::is_plain_name;
use mproxy_codec::types::{PacketId, PacketType};

use super::acknowledge::acknowledgement;
use super::context::Context;
use super::leftovers::CleanupStage;
use super::link::Link;
use super::publish::hook;
use super::sample::AllowedDecision;
use super::step::Passage;
use super::tally::PacketTally;
use crate::event::Kind;
use crate::limits::TopicLimits;
use crate::meter::Outcome;
use crate::peer::Side;
use crate::policy::{Source, Want};
use crate::record::DecisionSubject;

/// The flag of a PUBLISH that is retained, in its first byte.
const RETAIN: u8 = 1;

/// What passes at a path, settled once for all that one read brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct FastPath {
    publishes: Publishes,
    /// Bytes of the largest packet that is not too large.
    most: usize,
    /// What topics keep to.
    topic: TopicLimits,
    /// Some of what is allowed is told to the decision log.
    samples: bool,
}

/// Which publishes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Publishes {
    /// Each is to be looked at.
    None,
    /// Those to topics about which an answer stands.
    Cached,
    /// Those that are sound.
    Sound,
    /// Those that are whole.
    Whole,
}

/// A PUBLISH that passed because an answer stands.
fn passed_decision<'a>(
    from: Side,
    seen: &Peek<'_>,
    publish: &PlainPublish<'a>,
    source: Source,
) -> AllowedDecision<'a> {
    let PlainPublish { topic, payload_len: payload, .. } = *publish;
    let hook = hook(from);
    let retain = seen.bytes.first().is_some_and(|first| first & RETAIN != 0);
    // The same bytes as those of a topic that was read before.
    let topic = std::str::from_utf8(topic).unwrap_or_default();
    let subject = DecisionSubject::Message { hook, topic, qos: seen.qos(), retain };
    AllowedDecision { hook, subject, payload, source, endpoint: None, changed: false }
}

/// What has passed.
pub(super) struct Passed {
    /// So many bytes; 0: the first packet needs a closer look.
    pub(super) bytes: usize,
    /// Packets of our own are to follow them.
    pub(super) ours: bool,
}

impl Passed {
    const NOTHING: Self = Self { bytes: 0, ours: false };
}

/// Decisions of one source, counted and not yet told to the meter.
#[derive(Default)]
struct DecisionRun {
    source: Option<Source>,
    count: u64,
}

impl FastPath {
    /// Whether the packet at the start of `data` is one of those that never pass here.
    fn leaves_out(self, data: &[u8]) -> bool {
        let is_publish = |first: &u8| PacketType::from_nibble(first >> 4) == Some(PacketType::Publish);
        self.publishes == Publishes::None && data.first().is_some_and(is_publish)
    }
}

impl Link {
    /// What of that side's packets passes at a path now.
    pub(super) fn fast_path(&mut self, cx: &Context, from: Side) -> FastPath {
        let told = from == Side::Client && cx.setting.sink.want(Kind::Publish) != Want::Nothing;
        let publishes = match (from, self.want(cx, from)) {
            // Each has to be copied for its event, or gets another topic.
            _ if told || self.terms.mapped => Publishes::None,
            // Topics of deliveries, or packet ids of the client's, are looked at.
            (Side::Broker, _) if self.explains_deliveries() => Publishes::None,
            (Side::Client, _) if self.cleanup != CleanupStage::None || self.draining => Publishes::None,
            (Side::Client, Want::Nothing) => Publishes::Sound,
            (Side::Broker, Want::Nothing) if !self.reads_deliveries(cx) => Publishes::Whole,
            // Aliases are followed.
            (Side::Broker, Want::Nothing) => Publishes::Sound,
            (_, Want::Head | Want::Payload(_)) => {
                let edition = cx.setting.advisers.edition();
                match &mut self.direction_mut(from).cache {
                    Some(cache) => {
                        cache.sync_edition(edition);
                        Publishes::Cached
                    }
                    None => Publishes::None,
                }
            }
        };
        let limits = &cx.setting.limits;
        let (most, topic) = match from {
            Side::Client => (limits.max_packet_size.min(self.terms.granted_packet) as usize, limits.topic),
            Side::Broker => (usize::MAX, TopicLimits::ANY),
        };
        FastPath { publishes, most, topic, samples: cx.setting.meter.samples_allowed() }
    }

    /// Lets the packets from the start of `data` on pass that need no closer look.
    pub(super) fn take_fast(
        &mut self,
        cx: &mut Context,
        from: Side,
        mut path: FastPath,
        data: &[u8],
        tally: &mut PacketTally,
    ) -> Passed {
        // Behind one that waits nothing passes: the path knows no order but its own.
        if path.leaves_out(data) || !self.direction(from).is_at_rest() || !self.takes(cx, from) {
            return Passed::NOTHING;
        }
        let (mut run, mut packets, mut ours) = (0, 0, false);
        let mut decided = DecisionRun::default();
        // An acknowledgement of ours that is ready now has its place right behind this packet.
        while !ours
            && cx.work > 0
            && let Some(seen) = Peek::at(&data[run..])
        {
            let len = seen.bytes.len();
            let passes = match seen.kind {
                PacketType::Publish => {
                    len <= path.most && self.publish_passes(cx, from, &mut path, &seen, &mut decided)
                }
                // Any other length is malformed, which the parsers tell.
                PacketType::Pingreq => from == Side::Client && len == 2,
                PacketType::Pingresp => from == Side::Broker && len == 2,
                _ => match seen.acknowledges().and_then(|id| self.ack_passes(cx, from, seen.kind, id)) {
                    None => false,
                    Some(follows) => {
                        ours = follows;
                        true
                    }
                },
            };
            if !passes {
                break;
            }
            run += len;
            packets += 1;
            tally.add(seen.kind, 1, len as u64, &*cx.setting.meter, from);
        }
        if let Some(source) = decided.source {
            cx.setting.meter.decisions(hook(from), source, Outcome::Allowed, decided.count);
        }
        cx.count(from, packets, run as u64);
        Passed { bytes: run, ours }
    }

    /// Whether a PUBLISH passes. Where it does, it is accounted for.
    #[inline]
    fn publish_passes(
        &mut self,
        cx: &mut Context,
        from: Side,
        path: &mut FastPath,
        seen: &Peek<'_>,
        decided: &mut DecisionRun,
    ) -> bool {
        let publishes = path.publishes;
        if publishes == Publishes::Whole {
            // As long as a PUBLISH is at least.
            return seen.bytes.len() > 4;
        }
        let Some(publish) = seen.publish(self.terms.version) else { return false };
        let source = match publishes {
            Publishes::None | Publishes::Whole => return false,
            Publishes::Sound if is_plain_name(publish.topic) && path.topic.allow(publish.topic) => None,
            Publishes::Sound => return false,
            // Nobody has to look whether a topic is sound that is the same as one that was.
            Publishes::Cached => match self.cached_source(from, seen.bytes, &publish) {
                // Told to the meter in one call for the run, so a run has one source.
                Some(source) if decided.source.is_none_or(|other| other == source) => Some(source),
                Some(_) | None => return false,
            },
        };
        if let Some(id) = publish.packet_id {
            if from == Side::Client {
                self.up.in_flight.add_forwarded(seen.qos(), id);
            }
            if source.is_some() || self.direction(from).known_flows().is_some() {
                self.direction_mut(from).flows().expect(acknowledgement(seen.qos()), id, None);
                // Behind this one, if too much is under way now.
                path.publishes = if self.takes(cx, from) { publishes } else { Publishes::None };
            }
        }
        if let Some(source) = source {
            decided.source = Some(source);
            decided.count += 1;
            if path.samples {
                self.sample(cx, || passed_decision(from, seen, &publish, source));
            }
        }
        true
    }

    fn cached_source(&self, from: Side, packet: &[u8], publish: &PlainPublish<'_>) -> Option<Source> {
        self.direction(from).cache.as_deref()?.find(*packet.first()?, publish.topic, publish.payload_len)
    }

    /// Whether an acknowledgement of success passes, and if so whether packets of our own may follow it.
    #[inline]
    fn ack_passes(&mut self, cx: &mut Context, from: Side, kind: PacketType, id: PacketId) -> Option<bool> {
        if kind == PacketType::Pubrel && self.direction(from).answers_itself(id) {
            return None;
        }
        match self.pass_acknowledgement(cx, from, kind, id, ReasonCode::SUCCESS) {
            Passage::AsItIs => Some(false),
            Passage::ThenOurs => Some(self.has_ours(from)),
            Passage::Instead(_) | Passage::Nowhere | Passage::Last(..) => None,
        }
    }
}
