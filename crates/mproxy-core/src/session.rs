//! One client's session between its client and its broker.
//!
//! Told: [`read`](Session::read), [`decide`](Session::decide), [`dialed`](Session::dialed),
//! [`shut`](Session::shut), [`closed`](Session::closed), [`drain`](Session::drain), [`revoke`](Session::revoke),
//! [`handle_timeout`](Session::handle_timeout), [`unread`](Session::unread).
//! Asked: [`poll_effect`](Session::poll_effect), [`poll_timeout`](Session::poll_timeout),
//! [`wants_read`](Session::wants_read), [`reads_at_once`](Session::reads_at_once),
//! [`may_wait_unread`](Session::may_wait_unread).
//!
//! | room | holds |
//! |---|---|
//! | `phase` | from CONNECT to CONNACK: admission, the dial, the broker's answer |
//! | `waiting` | a client that waits meanwhile: what failed is tried again, until when, and what it sees then |
//! | `introduce` | the CONNECT that the broker gets, the CONNACK that the client gets |
//! | `renewal` | a grant that holds for a time only |
//! | `auth` | whose turn it is in extended authentication |
//! | `from_client`, `from_broker` | what becomes of each packet once the session is open |
//! | `stride`, `standing` | runs of packets that pass without a closer look; answers that stand for more than one |
//! | `question` | a question whose answer is on its way, and that answer |
//! | `resolve` | what a ruling comes to, whatever it is about; the failure rule |
//! | `publish`, `subscribe` | the two packets that are decided, rewritten and refused |
//! | `oversized` | packets with too many properties: refused without looking at those |
//! | `unsubscribe` | the packet that has to find again what was rewritten |
//! | `lane` | a direction's packets in their order while verdicts come in any |
//! | `filters`, `plain` | what the broker knows the client's filters as |
//! | `mapped` | topics under a prefix; what was rewritten, held against the grant once more |
//! | `alias` | topic aliases: what the sender means, what the receiver was taught |
//! | `ledger` | packet ids that we answered, or must merge, or must keep in order |
//! | `holding` | what is put down against the budget, and what waits for room there |
//! | `flight`, `aside` | publishes under way; packets of our own that wait for a streamed payload |
//! | `terms` | what CONNECT and CONNACK agreed on |
//! | `reply`, `rewrite` | the packets that mproxy itself writes |
//! | `ending` | how a session comes to its end |
//! | `timer`, `effect` | the one deadline; what is to be done |

mod alias;
mod aside;
mod auth;
mod effect;
mod ending;
mod filters;
mod flight;
mod from_broker;
mod from_client;
mod holding;
mod introduce;
mod lane;
mod ledger;
mod mapped;
mod oversized;
mod phase;
mod plain;
mod publish;
mod question;
mod renewal;
mod reply;
mod resolve;
mod rewrite;
mod standing;
mod stride;
mod subscribe;
mod terms;
mod timer;
mod unsubscribe;
mod waiting;

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use mproxy_codec::frame::Header;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketType, Sender};

pub use self::effect::Effect;
pub use self::question::{Answered, OpenQuestion};
pub use self::waiting::OnUnavailable;

use self::alias::Aliases;
use self::aside::Aside;
use self::effect::Effects;
use self::flight::InFlight;
use self::holding::Holding;
use self::lane::{Lane, Slot, Waiting};
use self::ledger::Ledger;
use self::phase::Phase;
use self::plain::Plain;
use self::question::AnswerTo;
use self::renewal::Renewal;
use self::standing::Standing;
use self::terms::Terms;
use self::timer::{Deadline, Timer};
use crate::budget::{Budget, RESERVE, Room};
use crate::chain::Chain;
use crate::event::{Published, Sink, Traffic};
use crate::fault::{Closed, Fault};
use crate::limits::Limits;
use crate::meter::Meter;
use crate::peer::{Origin, Peer, Side};
use crate::policy::{Hook, OnError, Source};
use crate::rule;

/// Slots of this size and less are copied out of the buffer they came in, so that a packet that waits does not keep
/// a whole chunk alive.
const COPY_UP_TO: usize = 16 << 10;

/// Comparisons with rules that one read may take: some 16 ns each, so an eighth of a millisecond. What is left is read in
/// another turn, so that a flood of packets against many rules keeps no thread from others.
const WORK: u32 = 8 << 10;

/// What all sessions of a listener share.
pub struct Setting {
    /// Who decides.
    pub advisers: Chain,
    /// Who is told.
    pub sink: Arc<dyn Sink>,
    /// Who counts.
    pub meter: Arc<dyn Meter>,
    /// Bounds and deadlines.
    pub limits: Limits,
    /// What an answer that failed means.
    pub on_error: OnErrors,
    /// What a client that waits for its CONNACK sees of trouble.
    pub on_unavailable: OnUnavailable,
    /// What its connections may make mproxy hold.
    pub budget: Arc<Budget>,
}

/// What an answer that failed means, hook by hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnErrors {
    /// For CONNECT.
    pub connect: OnError,
    /// For PUBLISH.
    pub publish: OnError,
    /// For SUBSCRIBE.
    pub subscribe: OnError,
    /// For deliveries.
    pub deliver: OnError,
}

impl OnErrors {
    /// The rule of one hook.
    #[must_use]
    pub const fn of(&self, hook: Hook) -> OnError {
        match hook {
            Hook::Connect => self.connect,
            Hook::Publish => self.publish,
            Hook::Subscribe => self.subscribe,
            Hook::Deliver => self.deliver,
        }
    }
}

/// One MQTT session as a pure state machine. After each verb poll the effects until there are none.
pub struct Session {
    setting: Arc<Setting>,
    who: Who,
    phase: Phase,
    terms: Terms,
    up: Direction,
    down: Direction,
    effects: Effects,
    ledger: Option<Box<Ledger>>,
    traffic: Traffic,
    timer: Timer,
    in_flight: InFlight,
    /// What few sessions have.
    cold: Option<Box<Cold>>,
    /// What it holds, while that is worth mentioning.
    holding: Option<Box<Holding>>,
    /// Bytes that the peer holds.
    peer_weight: u32,
    /// Comparisons that are left to this read.
    work: u32,
    /// The last read of that side was cut short: what was left is to be given again, whatever comes.
    cut: [bool; 2],
    /// `Connect` was reported, so `Disconnect` must be.
    reported: bool,
    /// The client's DISCONNECT that keeps the will from being published has gone to the broker.
    will_suppressed: bool,
    /// The session shall end as soon as nothing is in flight.
    draining: bool,
    /// The client's half of its stream ended before the broker's CONNACK.
    client_ended: bool,
}

/// State of few sessions, kept out of the way of the others.
#[derive(Debug, Default)]
struct Cold {
    /// The Authentication Method of the CONNECT.
    method: Option<Box<str>>,
    /// Who gave the client's grant, and renews it.
    granter: Option<Source>,
    /// Of a grant that has to be renewed.
    renewal: Option<Renewal>,
    /// Filters that the broker knows as the client says them: they may be rewritten when it subscribes again.
    plain: Plain,
    /// What is to be told of a PUBLISH of QoS 0 once its payload has gone on whole.
    streaming: Option<Box<Published>>,
    /// A packet of our own could not be sent, and the session ends for that.
    unsendable: Option<Box<Fault>>,
}

/// Who is at the client's side.
enum Who {
    /// Nobody has said CONNECT yet.
    Stranger(Arc<Origin>),
    /// This one has.
    Known(Arc<Peer>),
}

/// The packets that come from one side.
#[derive(Default)]
struct Direction {
    lane: Lane,
    body: Body,
    aliases: Option<Box<Aliases>>,
    /// Only where somebody decides by rules.
    standing: Option<Box<Standing>>,
    /// Packets of our own for the receiver, written while a streamed payload was on its way to it.
    aside: Aside,
}

impl Direction {
    fn aliases(&mut self) -> &mut Aliases {
        self.aliases.get_or_insert_default()
    }

    /// Whether the receiver is in the middle of a packet.
    fn mid_packet(&self) -> bool {
        self.body.left > 0 && self.body.fate == Fate::Pass
    }
}

/// The payload of a PUBLISH that streams: what of it is still to come, and what becomes of that.
#[derive(Clone, Copy, Debug, Default)]
struct Body {
    left: u32,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    /// Its head has left: it follows.
    #[default]
    Pass,
    /// Its head was refused, or its payload replaced.
    Skip,
    /// Its head still waits. That side is not read.
    Waiting,
}

/// What becomes of the packet at the start of the buffer.
enum Step {
    /// It is not all there, or it is not its turn.
    Wait,
    /// So many bytes leave as they are.
    Pass(usize),
    /// They do, and now it may be the turn of packets of our own behind them.
    PassThenAnswer(usize),
    /// So many bytes leave in this form instead.
    Replace(usize, Bytes),
    /// So many bytes go into the lane, as this slot (whose `bytes` they become).
    Keep(usize, Slot),
    /// So many bytes go nowhere.
    Swallow(usize),
    /// So many bytes leave as they are, and the session ends.
    Last(usize, Fault),
}

/// The bytes of packets of one type that were counted and not yet told to the meter.
#[derive(Default)]
struct Tally {
    kind: Option<PacketType>,
    packets: u64,
    bytes: u64,
}

impl Session {
    /// A session that has just been accepted. CONNECT must be there within the connect timeout from `now` on.
    #[must_use]
    pub fn new(origin: impl Into<Arc<Origin>>, setting: Arc<Setting>, now: Instant) -> Self {
        let mut timer = Timer::default();
        timer.arm(Deadline::Connect, now, setting.limits.connect_timeout);
        Self {
            setting,
            who: Who::Stranger(origin.into()),
            phase: Phase::Greeting,
            terms: Terms::default(),
            up: Direction::default(),
            down: Direction::default(),
            effects: Effects::default(),
            ledger: None,
            traffic: Traffic::default(),
            timer,
            in_flight: InFlight::default(),
            cold: None,
            holding: None,
            peer_weight: 0,
            work: 0,
            cut: [false; 2],
            reported: false,
            will_suppressed: false,
            draining: false,
            client_ended: false,
        }
    }

    /// Told: these bytes came from that side, after what was left in `buf` the last time. Takes whole packets from the
    /// front; what it leaves must be given again, with more behind it.
    ///
    /// What is left may be whole packets that had no room, or their turn another time ([`cut_short`](Session::cut_short)):
    /// whenever [`wants_read`](Session::wants_read) has turned
    /// true, `buf` is to be given again even if nothing new has come.
    pub fn read(&mut self, from: Side, buf: &mut BytesMut, now: Instant) {
        if self.discards(from) {
            buf.clear();
            self.left(from, 0);
            return;
        }
        let mut run = 0;
        let mut tally = Tally::default();
        let stride = self.stride_of(from);
        self.work = WORK;
        while run < buf.len() && self.work > 0 {
            let step = match self.stride(from, stride, &buf[run..], &mut tally) {
                Some(step) => Ok(step),
                None => self.step(from, &buf[run..], &mut tally, now),
            };
            match step {
                Ok(Step::Wait) => break,
                Ok(Step::Pass(n)) => run += n,
                Ok(Step::PassThenAnswer(n)) => {
                    run += n;
                    if self.has_answers(from) {
                        self.flush(from, buf, &mut run);
                        self.answers(from);
                    }
                }
                Ok(Step::Replace(n, bytes)) => {
                    self.flush(from, buf, &mut run);
                    buf.advance(n);
                    self.send(from.other(), bytes);
                }
                Ok(Step::Swallow(n)) => {
                    self.flush(from, buf, &mut run);
                    buf.advance(n);
                }
                Ok(Step::Last(n, fault)) => {
                    run += n;
                    self.flush(from, buf, &mut run);
                    self.end(fault, now);
                }
                Ok(Step::Keep(n, mut slot)) => {
                    self.flush(from, buf, &mut run);
                    let shared = buf.split_to(n).freeze();
                    // Unless it waits for its verdict, it leaves in this very call, or with others that do not stay either.
                    let stays = slot.holds() || !self.lane(from).is_empty();
                    slot.bytes =
                        if stays && n <= COPY_UP_TO { Bytes::copy_from_slice(&shared) } else { shared };
                    self.direction(from).lane.push(slot);
                    self.release(from, now);
                }
                Err(fault) => {
                    let fault = self.unlike_mqtt(from, buf).unwrap_or(fault);
                    self.flush(from, buf, &mut run);
                    buf.clear();
                    // Where the session is ending anyway, what comes from there is not looked at any more.
                    self.direction(from).lane.close();
                    self.end(fault, now);
                }
            }
            if self.discards(from) {
                run = run.min(buf.len());
                self.flush(from, buf, &mut run);
                buf.clear();
                break;
            }
        }
        self.flush(from, buf, &mut run);
        tally.tell(&*self.setting.meter, from);
        self.left(from, buf.len());
        self.cut[from as usize] = self.work == 0 && !buf.is_empty();
        self.settle(now);
    }

    /// Told: the answer to an [`Effect::Ask`].
    pub fn decide(&mut self, answered: Answered, now: Instant) {
        match answered.0 {
            AnswerTo::Admission(seq, ruling) => self.admission_decided(seq, ruling, now),
            AnswerTo::Renewal(ruling) => self.refreshed(ruling, now),
            AnswerTo::Publish(from, seq, ruling) => self.direction(from).lane.rule_publish(seq, ruling),
            AnswerTo::Subscribe(seq, ruling) => self.up.lane.rule_subscribe(seq, ruling),
        }
        self.settle(now);
    }

    /// Told: what became of an [`Effect::Dial`].
    pub fn dialed(&mut self, outcome: Result<(), crate::fault::Unreachable>, now: Instant) {
        self.met_broker(outcome, now);
        self.settle(now);
    }

    /// Told: an [`Effect::Shut`] has been carried out. All that was queued for that side is written, and our half of its
    /// stream has ended; the other half may still be open. (Where it is not, [`closed`](Session::closed) says more.)
    pub fn shut(&mut self, side: Side, now: Instant) {
        self.all_written(side);
        self.settle(now);
    }

    /// Told: nothing more comes from that side, and nothing of it is left unread: what had been received was given to
    /// [`read`](Session::read) until [`wants_read`](Session::wants_read) said that it took all that it could. (Where
    /// the stream broke with an error there is no need to wait.)
    ///
    /// A client whose half has ended in order is still written to, until [`Effect::Shut`]; when that has been carried
    /// out this is told once more, and the stream is gone. A broker that ends, and whoever ends with an error, is gone at
    /// once.
    pub fn closed(&mut self, side: Side, how: Closed, now: Instant) {
        self.lost(side, how, now);
        self.settle(now);
    }

    /// Told: mproxy is being stopped. A session that is open takes no more publishes (its client is read only while a
    /// QoS 2 flow needs its PUBREL) and ends when nothing is in flight any more; any other ends at once, and so does one
    /// that is told again.
    pub fn drain(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Open) && !self.draining {
            self.draining = true;
        } else {
            self.end(Fault::Drained, now);
        }
        self.settle(now);
    }

    /// Told: somebody takes this session away. A 5.0 client is told `reason`.
    pub fn revoke(&mut self, reason: ReasonCode, now: Instant) {
        self.end(Fault::Kicked { reason }, now);
        self.settle(now);
    }

    /// Told: the time of [`poll_timeout`](Session::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.retry(now);
        match self.timer.passed(now) {
            None => {}
            Some(Deadline::Close) => self.finish(),
            Some(Deadline::Refresh) => self.refresh(now),
            Some(Deadline::Stale) => self.stale(),
            Some(Deadline::Retry) => self.try_again(now),
            Some(Deadline::Admission) => self.waited_long_enough(now),
            Some(deadline) => {
                self.end(Fault::TooLate(deadline), now);
            }
        }
        self.settle(now);
    }

    /// Asked: what is to be done next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop()
    }

    /// Asked: when to say [`handle_timeout`](Session::handle_timeout), if ever.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timer.at().into_iter().chain(self.retry_at()).min()
    }

    /// Asked: whether bytes of that side would be taken now. While not, they should not be read.
    #[must_use]
    pub fn wants_read(&self, side: Side) -> bool {
        let body = self.direction_ref(side).body;
        if body.left > 0 {
            // What was begun is finished, however full the lane: nothing else can come before it has.
            return body.fate != Fate::Waiting && !self.discards(side);
        }
        self.takes(side)
    }

    /// Asked: whether the last read of that side was cut short because it was work enough for one turn. What it left is to
    /// be given again, after others have had theirs.
    #[must_use]
    pub fn cut_short(&self, side: Side) -> bool {
        self.cut[side as usize]
    }

    /// Asked: whether bytes of that side go nowhere any more. They are to be read all the same, and thrown away, until its
    /// stream ends.
    #[must_use]
    pub fn discards(&self, side: Side) -> bool {
        self.lane(side).is_closed() || matches!(self.phase, Phase::Over)
    }

    /// Asked: whether the client's next packets wait for the session to open. Reading a little ahead then tells early
    /// that the client has gone.
    #[must_use]
    pub fn opening(&self) -> bool {
        matches!(self.phase, Phase::Admitting(_) | Phase::Dialing(_) | Phase::Introduced)
    }

    /// Asked: who the client is, once it has said CONNECT.
    #[must_use]
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        match &self.who {
            Who::Stranger(_) => None,
            Who::Known(peer) => Some(peer),
        }
    }

    /// Asked: a word for where the session stands.
    #[must_use]
    pub fn phase_name(&self) -> &'static str {
        self.phase.name()
    }

    /// Asked: what has passed so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Asked: bytes and packets that wait in that direction's lane, for those who check its bound.
    #[must_use]
    pub fn waiting(&self, from: Side) -> (usize, usize) {
        let lane = self.lane(from);
        (lane.len(), lane.bytes())
    }

    fn step(&mut self, from: Side, data: &[u8], tally: &mut Tally, now: Instant) -> Result<Step, Fault> {
        let body = &mut self.direction(from).body;
        if body.left > 0 {
            let n = data.len().min(body.left as usize);
            return Ok(match body.fate {
                Fate::Waiting => Step::Wait,
                Fate::Skip | Fate::Pass => {
                    body.left -= n as u32;
                    let (last, fate) = (body.left == 0, body.fate);
                    self.count_body(from, n, tally);
                    match fate {
                        Fate::Pass if last => {
                            self.streamed(from);
                            Step::PassThenAnswer(n)
                        }
                        Fate::Pass => Step::Pass(n),
                        Fate::Skip | Fate::Waiting => Step::Swallow(n),
                    }
                }
            });
        }
        if !self.takes(from) {
            return Ok(Step::Wait);
        }
        if self.needs_more(from, data.len()) {
            return Ok(Step::Wait);
        }
        let version = (!matches!(self.phase, Phase::Greeting)).then_some(self.terms.version);
        let header = Header::parse(data, sender(from), version)
            .map_err(|error| Fault::Malformed { side: from, error })?;
        let Some(header) = header else { return Ok(Step::Wait) };
        let total = header.total();
        let limits = &self.setting.limits;
        let too_large = (from == Side::Client
            && (total > limits.max_packet_size as usize || total > self.terms.granted_packet as usize))
            || (header.kind == PacketType::Connect && total > limits.max_connect as usize)
            || (header.kind != PacketType::Publish && total > limits.max_held_packet as usize);
        if too_large {
            if matches!(self.phase, Phase::Greeting) {
                self.answer_in_words_of(data, None);
            }
            return Err(larger_than_allowed(from, header.kind));
        }
        if header.kind != PacketType::Publish && data.len() < total {
            if from == Side::Client && total > RESERVE {
                return self.wait_for_whole(header.kind, total);
            }
            return Ok(Step::Wait);
        }
        let step = match (&self.phase, from) {
            (Phase::Open, Side::Client) => self.client_step(&header, data)?,
            (Phase::Open | Phase::Ending(_), Side::Broker) => self.broker_step(&header, data)?,
            _ => self.greeting_step(from, &header, data, now)?,
        };
        if let Some(here) = step.takes() {
            let (packets, bytes) = match from {
                Side::Client => (&mut self.traffic.client_packets, &mut self.traffic.client_bytes),
                Side::Broker => (&mut self.traffic.broker_packets, &mut self.traffic.broker_bytes),
            };
            *packets += 1;
            *bytes += here as u64;
            self.taken(from);
            tally.add(header.kind, 1, here as u64, &*self.setting.meter, from);
        }
        Ok(step)
    }

    /// A packet of the client's is not whole yet. It is read on only while there is room for all of it.
    fn wait_for_whole(&mut self, packet: PacketType, total: usize) -> Result<Step, Fault> {
        match self.room_for(Side::Client, packet, total) {
            Room::Yes | Room::Wait => Ok(Step::Wait),
            Room::Never => Err(Fault::OverBudget { packet }),
        }
    }

    fn count_body(&mut self, from: Side, n: usize, tally: &mut Tally) {
        match from {
            Side::Client => self.traffic.client_bytes += n as u64,
            Side::Broker => self.traffic.broker_bytes += n as u64,
        }
        tally.add(PacketType::Publish, 0, n as u64, &*self.setting.meter, from);
    }

    /// Sends the run of untouched packets at the front of `buf` as one slice of it.
    fn flush(&mut self, from: Side, buf: &mut BytesMut, run: &mut usize) {
        if *run > 0 {
            let bytes = buf.split_to(*run).freeze();
            *run = 0;
            self.send(from.other(), bytes);
        }
    }

    /// `here` of `total` bytes leave as they are, and so will the rest of them when it comes.
    fn pass(&mut self, from: Side, here: usize, total: usize) -> Step {
        self.direction(from).body = Body { left: (total - here) as u32, fate: Fate::Pass };
        Step::Pass(here)
    }

    /// Whether packets of that side are taken in this phase, and there is room for them.
    fn takes(&self, from: Side) -> bool {
        if self.lane(from).is_closed() || !self.phase.takes(from, self.terms.auth) {
            return false;
        }
        if self.draining && from == Side::Client && !self.in_flight.awaits_release() {
            return false;
        }
        if from == Side::Broker && !self.hears(Side::Client) {
            // Nothing of it is kept.
            return true;
        }
        let Limits { lane_packets: packets, lane_bytes: bytes, .. } = self.setting.limits;
        !self.lane(from).full(packets, bytes)
            && self.ledger.as_ref().is_none_or(|ledger| !ledger.full(from, packets, bytes))
            && !self.direction_ref(from.other()).aside.full(packets, bytes)
            && !self.short_of_room(from)
    }

    /// Bytes for that side, if it still hears any.
    fn send(&mut self, to: Side, bytes: Bytes) {
        if self.hears(to) {
            self.effects.send(to, bytes);
        }
    }

    /// A packet of our own for that side, never into the middle of another.
    fn inject(&mut self, to: Side, bytes: Bytes) {
        if !self.hears(to) {
            return;
        }
        if bytes.len() > self.terms.max_packet_to(to) as usize {
            let kind = bytes.first().and_then(|first| PacketType::from_nibble(first >> 4));
            return self.unsendable(to, kind.unwrap_or(PacketType::Disconnect));
        }
        let towards = self.direction(to.other());
        if towards.mid_packet() {
            towards.aside.push(bytes);
        } else {
            self.effects.send(to, bytes);
        }
    }

    /// Whether [`answers`](Session::answers) would have something to send.
    fn has_answers(&mut self, from: Side) -> bool {
        !self.direction_ref(from).aside.is_empty()
            || self.ledger.as_mut().is_some_and(|ledger| ledger.flows(from.other()).has_ready())
    }

    /// After a packet from `from` has gone on: what of our own may follow it to the same receiver.
    fn answers(&mut self, from: Side) {
        if self.direction_ref(from).mid_packet() {
            return;
        }
        let to = from.other();
        for bytes in self.direction(from).aside.take() {
            self.send(to, bytes);
        }
        // Acknowledgements that came from `from` are of publishes that came from the other side.
        while let Some(ack) = self.ledger.as_mut().and_then(|ledger| ledger.flows(to).ready()) {
            self.send(to, ack);
        }
    }

    /// Lets everything leave whose turn has come.
    fn release(&mut self, from: Side, now: Instant) {
        while !self.direction_ref(from).mid_packet()
            && let Some(slot) = self.direction(from).lane.leave()
        {
            match slot.packet {
                Waiting::Publish(publish) => self.publish_released(from, slot.bytes, publish, now),
                Waiting::Subscribe(state, layout) => self.subscribe_released(slot.bytes, state, layout, now),
                Waiting::Other(header) => self.other_released(from, slot.bytes, &header, now),
                Waiting::Refused { id, filters } => self.refuse_unsubscribe(id, filters),
            }
        }
    }

    /// After every verb: packets leave, and an end goes on.
    fn settle(&mut self, now: Instant) {
        if self.client_ended && matches!(self.phase, Phase::Open) {
            self.lost(Side::Client, Closed::Eof, now);
        }
        self.release(Side::Client, now);
        self.release(Side::Broker, now);
        if let Some(fault) = self.cold.as_mut().and_then(|cold| cold.unsendable.take()) {
            self.end(*fault, now);
        }
        let halfway = self.up.body.left > 0 || self.down.body.left > 0;
        if self.draining && self.in_flight.total() == 0 && self.up.lane.is_empty() && !halfway {
            self.end(Fault::Drained, now);
        }
        self.go_on_ending(now);
        self.put_down(now);
    }

    /// Somebody was asked about so many topics or filters of a packet, of so many bytes together.
    fn worked(&mut self, hook: Hook, count: usize, bytes: usize) {
        let Some(peer) = self.peer() else { return };
        let effort = self.setting.advisers.effort(hook, peer);
        self.spend(rule::toil(effort, count, bytes, rule::Who::from(&**peer)));
    }

    /// This much of what the read may take is used up.
    fn spend(&mut self, comparisons: usize) {
        self.work = self.work.saturating_sub(u32::try_from(comparisons).unwrap_or(u32::MAX));
    }

    fn cold(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    fn ledger(&mut self) -> &mut Ledger {
        self.ledger.get_or_insert_default()
    }

    fn lane(&self, from: Side) -> &Lane {
        &self.direction_ref(from).lane
    }

    fn direction_ref(&self, from: Side) -> &Direction {
        match from {
            Side::Client => &self.up,
            Side::Broker => &self.down,
        }
    }

    fn direction(&mut self, from: Side) -> &mut Direction {
        match from {
            Side::Client => &mut self.up,
            Side::Broker => &mut self.down,
        }
    }
}

impl Step {
    /// Bytes of the packet that this step deals with; `None` if it deals with none.
    fn takes(&self) -> Option<usize> {
        match self {
            Self::Wait => None,
            Self::Pass(n)
            | Self::PassThenAnswer(n)
            | Self::Replace(n, _)
            | Self::Keep(n, _)
            | Self::Last(n, _)
            | Self::Swallow(n) => Some(*n),
        }
    }
}

impl Tally {
    #[inline]
    fn add(&mut self, kind: PacketType, packets: u64, bytes: u64, meter: &dyn Meter, from: Side) {
        if self.kind != Some(kind) {
            self.tell(meter, from);
            self.kind = Some(kind);
        }
        self.packets += packets;
        self.bytes += bytes;
    }

    fn tell(&mut self, meter: &dyn Meter, from: Side) {
        if let Some(kind) = self.kind.take() {
            meter.packets(from, kind, self.packets, self.bytes);
            (self.packets, self.bytes) = (0, 0);
        }
    }
}

fn larger_than_allowed(side: Side, packet: PacketType) -> Fault {
    Fault::Protocol {
        side,
        packet,
        what: "larger than allowed",
        rule: if matches!(side, Side::Client) { "MQTT-3.2.2-15" } else { "MQTT-3.1.2-24" },
        reason: ReasonCode::PACKET_TOO_LARGE,
    }
}

const fn sender(side: Side) -> Sender {
    match side {
        Side::Client => Sender::Client,
        Side::Broker => Sender::Server,
    }
}
