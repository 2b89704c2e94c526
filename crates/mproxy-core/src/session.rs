//! One client's session between its client and its broker.
//!
//! Told: [`read`](Session::read), [`decide`](Session::decide), [`dialed`](Session::dialed),
//! [`shut`](Session::shut), [`closed`](Session::closed), [`drain`](Session::drain), [`revoke`](Session::revoke),
//! [`dismiss`](Session::dismiss),
//! [`command`](Session::command), [`recalled`](Session::recalled), [`handle_timeout`](Session::handle_timeout),
//! [`kept`](Session::kept), [`unread`](Session::unread).
//! Asked: [`poll_effect`](Session::poll_effect), [`poll_timeout`](Session::poll_timeout),
//! [`wants_read`](Session::wants_read), [`reads_at_once`](Session::reads_at_once),
//! [`may_wait_unread`](Session::may_wait_unread), [`short_of_room`](Session::short_of_room),
//! [`gives_up`](Session::gives_up), [`recall`](Session::recall).
//!
//! A session is a `State` and a `Context`: what every state has (effects, the deadline, counts). From the whole CONNECT on
//! the state owns a `Link`: the client, what it and its broker agreed on, and a `Direction` for what comes from each.
//!
//! | room | holds |
//! |---|---|
//! | `state`, `context` | where a session stands, and what it has wherever it stands |
//! | `greeting`, `rejected` | a connection without a client: CONNECT is awaited, or did not come |
//! | `opening` | from CONNECT to CONNACK: admission, the dial, the broker's answer; what failed is tried again |
//! | `introduce` | the CONNECT that the broker gets, the CONNACK that the client gets |
//! | `transitions` | how its states follow each other |
//! | `ending` | how a session comes to its end |
//! | `link`, `direction` | a client and its broker; what comes from one of them |
//! | `intake` | bytes become packets |
//! | `route`, `step` | which room a packet goes to; what becomes of it |
//! | `fast_path`, `decision_cache` | runs of packets that pass without a closer look; answers that stand for more than one |
//! | `cached_answers`, `learning`, `reuse` | answers of the policy service that may be used again |
//! | `forward` | packets that nobody is asked about |
//! | `publish`, `subscribe` | the two packets that are decided, rewritten and refused |
//! | `resolve` | what a ruling comes to, whatever it is about; the failure rule |
//! | `acknowledge` | acknowledgements that pass, and our own: PUBACK, PUBREC, PUBCOMP |
//! | `unsubscribe`, `disconnect`, `auth` | packets with rules of their own |
//! | `exchange`, `auth_method` | an enhanced authentication that mproxy answers in the broker's place, and how far it has come |
//! | `oversized` | packets with too many properties: refused without looking at those |
//! | `lane` | a direction's packets in their order while verdicts come in any |
//! | `flows`, `in_flight` | a direction's publishes under way, and their acknowledgements |
//! | `subscriptions`, `filters`, `known_filters` | SUBSCRIBEs under way; what the broker knows the client's filters as |
//! | `mapping` | topics under other names and a prefix; what the policy changed, held against the grant once more |
//! | `alias` | topic aliases: what the sender means, what the receiver was taught |
//! | `command` | a decision is taken back, whatever state the session is in |
//! | `replacement`, `revocation`, `rejudge`, `cleanup`, `leftovers` | another grant: what is in use ends, what waits is judged again, the broker is told |
//! | `recall`, `reporting` | what had left before it was taken back: commands are reported when that is written |
//! | `renewal`, `grant_clock` | a grant that holds for a time only |
//! | `rates`, `pacing` | how fast the client may send, and what follows where it is faster |
//! | `holding` | what is put down against the budget, and what waits for room there |
//! | `deferred` | packets of our own that wait for a streamed payload |
//! | `terms` | what CONNECT and CONNACK agreed on |
//! | `reply`, `rewrite` | the packets that mproxy itself writes |
//! | `foreign` | bytes of another protocol, packets out of place |
//! | `question` | a question whose answer is on its way, and that answer |
//! | `handover` | a session as bytes, for another process that goes on with it |
//! | `explain`, `describe` | what would be decided; what is known of a session, for whoever operates it |
//! | `setting`, `timer`, `effect`, `tally` | what sessions share; the one deadline; what is to be done; what is counted |
//! | `trace` | a line for each packet, where somebody traces |

mod acknowledge;
mod alias;
mod auth;
mod auth_method;
mod cached_answers;
mod cleanup;
mod command;
mod context;
mod decision_cache;
mod deferred;
mod describe;
mod direction;
mod disconnect;
mod effect;
mod ending;
mod exchange;
mod explain;
mod fast_path;
mod filters;
mod flows;
mod foreign;
mod forward;
mod grant_clock;
mod greeting;
pub mod handover;
mod holding;
mod in_flight;
mod intake;
mod introduce;
mod judged;
mod known_filters;
mod lane;
mod learning;
mod leftovers;
mod link;
mod mapping;
mod opening;
mod oversized;
mod pacing;
mod publish;
mod question;
mod rates;
mod read_wait;
mod recall;
mod record;
mod rejected;
mod rejudge;
mod renewal;
mod replacement;
mod reply;
mod reporting;
mod resolve;
mod reuse;
mod revocation;
mod rewrite;
mod route;
mod sample;
mod setting;
mod state;
mod step;
mod subscribe;
mod subscriptions;
mod tally;
mod terms;
mod timer;
mod trace;
mod transitions;
mod unsubscribe;

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::Sender;

pub use self::describe::{SessionDescription, SubscriptionDescription};
pub use self::effect::Effect;
pub use self::question::{Answered, OpenQuestion};
pub use self::read_wait::ReadWait;
pub use self::recall::RecallStage;
pub use self::reply::legal_code;
pub use self::setting::{DrainReference, OnAuth, OnErrors, OnUnavailable, Setting};

use self::context::Context;
use self::direction::Follows;
use self::ending::{Ending, SideEnd};
use self::greeting::Greeting;
use self::holding::{may_wait_unread, reads_at_once};
use self::opening::Opening;
use self::question::AnswerTo;
use self::state::State;
use crate::command::Dismissal;
use crate::event::Traffic;
use crate::fault::{Closed, Deadline, Fault, Unreachable};
use crate::peer::{Origin, Peer, Side};

/// One MQTT session as a pure state machine. After each verb poll the effects until there are none.
pub struct Session {
    cx: Context,
    state: State,
}

impl Session {
    /// A session that has just been accepted. CONNECT must be there within the connect timeout from `now` on.
    #[must_use]
    pub fn new(origin: impl Into<Arc<Origin>>, setting: Arc<Setting>, now: Instant) -> Self {
        Self { cx: Context::new(setting, now), state: State::Greeting(Greeting::new(origin.into())) }
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
        } else {
            self.take(from, buf, now);
        }
        self.note_left(from, buf.len());
        self.settle(now);
    }

    /// Told: the answer to an [`Effect::Ask`].
    pub fn decide(&mut self, answered: Answered, now: Instant) {
        let ended = match (answered.0, &mut self.state) {
            (AnswerTo::Admission(seq, ruling), State::Opening(opening)) => {
                opening.answer_admission(&mut self.cx, seq, ruling, now)
            }
            (AnswerTo::Renewal(seq, ruling), State::Open(link)) => {
                link.take_renewal(&mut self.cx, seq, ruling, now)
            }
            (
                AnswerTo::Publish(from, seq, mut ruling),
                State::Open(link) | State::Ending(Ending { link, .. }),
            ) => {
                // First: once the ruling is in its slot, nobody knows under which rules it was asked for.
                link.learn_publish(&self.cx, from, seq, &mut ruling, now);
                link.direction_mut(from).lane.rule_publish(seq, ruling);
                Ok(())
            }
            (
                AnswerTo::Subscribe(seq, mut ruling),
                State::Open(link) | State::Ending(Ending { link, .. }),
            ) => {
                link.learn_filters(&self.cx, seq, &mut ruling, now);
                link.up.lane.rule_subscribe(seq, ruling);
                Ok(())
            }
            (AnswerTo::Exchange(seq, ruling), State::Opening(opening)) => {
                opening.answer_exchange(&mut self.cx, seq, ruling, now)
            }
            (AnswerTo::Exchange(seq, ruling), State::Open(link)) => {
                link.answer_exchange(&mut self.cx, seq, ruling, now)
            }
            // Nobody waits for it any more.
            (
                AnswerTo::Admission(..)
                | AnswerTo::Exchange(..)
                | AnswerTo::Renewal(..)
                | AnswerTo::Publish(..)
                | AnswerTo::Subscribe(..),
                _,
            ) => Ok(()),
        };
        self.end_if(ended, now);
        self.settle(now);
    }

    /// Told: what became of an [`Effect::Dial`].
    pub fn dialed(&mut self, outcome: Result<(), Unreachable>, now: Instant) {
        if let State::Opening(opening) = &mut self.state {
            let ended = opening.finish_dial(&mut self.cx, outcome, now);
            self.end_if(ended, now);
        }
        self.settle(now);
    }

    /// Told: an [`Effect::Shut`] has been carried out. All that was queued for that side is written, and our half of its
    /// stream has ended; the other half may still be open. (Where it is not, [`closed`](Session::closed) says more.)
    pub fn shut(&mut self, side: Side, now: Instant) {
        match &mut self.state {
            State::Ending(ending) => ending.mark_written(side),
            State::Rejected(rejected) if side == Side::Client => rejected.client = SideEnd::Written,
            State::Greeting(_) | State::Opening(_) | State::Open(_) | State::Rejected(_) | State::Over(_) => {
            }
        }
        self.settle(now);
    }

    /// Told: nothing more comes from that side, and nothing of it is left unread: what had been received was given to
    /// [`read`](Session::read) until [`wants_read`](Session::wants_read) said that it took all that it could. (Where
    /// the stream broke with an error there is no need to wait, nor where [`gives_up`](Session::gives_up) says so.)
    ///
    /// A client whose half has ended in order is still written to, until [`Effect::Shut`]; when that has been carried
    /// out this is told once more, and the stream is gone. A broker that ends, and whoever ends with an error, is gone at
    /// once.
    pub fn closed(&mut self, side: Side, how: Closed, now: Instant) {
        // What had come was given, or is wanted by nobody any more.
        self.note_left(side, 0);
        self.lose(side, how, now);
        self.settle(now);
    }

    /// Told: mproxy is being stopped. A session that is open takes no more publishes (its client is read only while a
    /// QoS 2 flow needs its PUBREL, and no exchange that it begins meanwhile is taken) and ends when nothing is in flight any more; any other ends at once, and so does one
    /// that is told again.
    pub fn drain(&mut self, now: Instant) {
        match &mut self.state {
            State::Open(link) if !link.draining => link.draining = true,
            _ => self.end(self.drained(), now),
        }
        self.settle(now);
    }

    /// Told: descriptors or memory run short, and this session has to go. It goes as in a [drain](Session::drain), for
    /// another reason.
    pub fn shed(&mut self, now: Instant) {
        if let Some(link) = self.state.link_mut() {
            link.shed = true;
        }
        self.drain(now);
    }

    /// Told: somebody takes this session away. A 5.0 client is told `reason`.
    pub fn revoke(&mut self, reason: ReasonCode, now: Instant) {
        self.end(Fault::Kicked { reason, dismissal: None }, now);
        self.settle(now);
    }

    /// Told: somebody takes this session away, and says more to the client than the reason.
    pub fn dismiss(&mut self, dismissal: Dismissal, now: Instant) {
        self.end(Fault::Kicked { reason: dismissal.reason, dismissal: Some(Box::new(dismissal)) }, now);
        self.settle(now);
    }

    /// Told: the time of [`poll_timeout`](Session::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(fault) = self.cx.account.retry(now) {
            self.end(fault, now);
        }
        self.end_recall(now);
        if let Some(deadline) = self.cx.timer.take_passed(now) {
            self.handle_deadline(deadline, now);
        }
        if let State::Open(link) = &mut self.state {
            link.resume(now);
            if link.held_until().is_some_and(|until| now >= until) {
                self.end(Fault::TooLate(Deadline::Unsuback), now);
            }
        }
        self.settle(now);
    }

    /// Told: so many bytes of that side were read while they are not wanted, and are kept until they are.
    pub fn kept(&mut self, from: Side, bytes: usize, now: Instant) {
        self.note_left(from, bytes);
        self.settle(now);
    }

    /// Told: of what was sent to that side, so many bytes are not written yet, or what they hold in memory: after each
    /// write that left something, and when all is gone.
    pub fn unread(&mut self, by: Side, bytes: usize, now: Instant) {
        // Without settling anything: this comes with every turn, and lets no packet go.
        if let Some(holder) = self.state.holder()
            && self.cx.account.note_unread(&self.cx.setting.budget, by, bytes, holder)
        {
            self.cx.put_down(holder, self.state.bytes(), now);
        }
    }

    /// Asked: whether so many bytes that a side has not read, and more, have room. Where they have not, nothing is read
    /// that would add to them. Each connection may have [`RESERVE`](crate::budget::RESERVE) of them in any case.
    #[must_use]
    pub fn may_wait_unread(&self, bytes: usize) -> bool {
        may_wait_unread(&self.cx.setting.budget, bytes)
    }

    /// Asked: bytes that are to be read of that side at a time. While the shared budgets have no room for that many, it is
    /// a part of what each connection has for itself: of a packet that then has to wait, only its beginning is held.
    #[must_use]
    pub fn reads_at_once(&self, from: Side, most: usize) -> usize {
        let streams = self.state.link().is_some_and(|link| link.direction(from).body.left > 0);
        reads_at_once(&self.cx.setting.budget, streams, most)
    }

    /// Asked: whether that side is not read because there is no room for its packet.
    #[must_use]
    pub fn short_of_room(&self, side: Side) -> bool {
        let Some(holder) = self.state.holder() else { return false };
        self.cx.account.short_of_room(&self.cx.setting.budget, side, holder)
    }

    /// Asked: what a side that is not read waits for, where it is its own packets.
    #[must_use]
    pub fn waits_for(&self, side: Side) -> Option<ReadWait> {
        let link = self.state.link()?;
        if side == Side::Client && link.resumes_at().is_some() {
            Some(ReadWait::Rate)
        } else if self.short_of_room(side) {
            Some(ReadWait::Budget)
        } else {
            link.is_full(&self.cx, side).then_some(ReadWait::Queue)
        }
    }

    /// Asked: whether a side that waits for room is to be given up, as its stream has ended like this, though bytes that it
    /// sent before have not been read. It is where nobody is there any more who could hear what becomes of them, or
    /// nobody of whom anything is known.
    #[must_use]
    pub fn gives_up(&self, side: Side, how: &Closed) -> bool {
        match how {
            Closed::Error(_) => true,
            Closed::Eof => side == Side::Client && matches!(self.state, State::Greeting(_)),
        }
    }

    /// Asked: what is to be done next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.cx.effects.pop()
    }

    /// Asked: when to say [`handle_timeout`](Session::handle_timeout), if ever.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let retry = match &self.state {
            State::Greeting(_) | State::Opening(_) | State::Open(_) => self.cx.account.retry_at(),
            // An end has a deadline of its own, and waits for no room.
            State::Ending(_) | State::Rejected(_) | State::Over(_) => None,
        };
        let resume = match &self.state {
            State::Open(link) => link.resumes_at().into_iter().chain(link.held_until()).min(),
            _ => None,
        };
        let recall = match &self.state {
            State::Open(link) | State::Ending(Ending { link, .. }) => link.recall_until(),
            State::Greeting(_) | State::Opening(_) | State::Rejected(_) | State::Over(_) => None,
        };
        [self.cx.timer.at(), retry, resume, recall].into_iter().flatten().min()
    }

    /// Asked: whether bytes of that side would be taken now. While not, they should not be read.
    #[must_use]
    pub fn wants_read(&self, side: Side) -> bool {
        match self.state.link() {
            // What was begun is finished, however full the lane: nothing else can come before it has.
            Some(link) if link.direction(side).body.left > 0 => {
                let waits = side == Side::Client && link.resumes_at().is_some();
                link.direction(side).body.follows != Follows::Verdict && !waits && !self.discards(side)
            }
            _ => self.state.takes(&self.cx, side),
        }
    }

    /// Asked: whether the last read of that side was cut short because it was work enough for one turn. What it left is to
    /// be given again, after others have had theirs.
    #[must_use]
    pub fn cut_short(&self, side: Side) -> bool {
        self.cx.cut[side as usize]
    }

    /// Asked: whether bytes of that side go nowhere any more. They are to be read all the same, and thrown away, until its
    /// stream ends.
    #[must_use]
    pub fn discards(&self, side: Side) -> bool {
        self.state.discards(side)
    }

    /// Asked: whether the client's next packets wait for the session to open. Reading a little ahead then tells early
    /// that the client has gone.
    #[must_use]
    pub fn opening(&self) -> bool {
        matches!(self.state, State::Opening(_))
    }

    /// Asked: who the client is, once it has said CONNECT.
    #[must_use]
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.state.peer()
    }

    /// Asked: a word for where the session stands.
    #[must_use]
    pub fn phase_name(&self) -> &'static str {
        self.state.name()
    }

    /// Asked: what has passed so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.cx.traffic
    }

    /// Asked: bytes and packets that wait in that direction's lane, for those who check its bound.
    #[must_use]
    pub fn waiting(&self, from: Side) -> (usize, usize) {
        let lane = self.state.link().map(|link| &link.direction(from).lane);
        lane.map_or((0, 0), |lane| (lane.len(), lane.bytes()))
    }

    /// Bytes that this session makes mproxy hold, by its own count.
    #[must_use]
    pub fn held(&self) -> usize {
        self.state.bytes() + self.cx.account.around()
    }

    /// It is over at once, whatever state it is in: nothing more is sent, and only what is owed to whoever listens is still
    /// told. For when mproxy itself failed in the middle of it, or it has to make room.
    pub fn abandon(&mut self, fault: Fault) {
        self.record_end(&fault);
        let peer = match mem::replace(&mut self.state, State::Over(None)) {
            State::Over(peer) => {
                self.state = State::Over(peer);
                return;
            }
            State::Greeting(_) | State::Rejected(_) => None,
            State::Opening(Opening { mut link, .. })
            | State::Open(mut link)
            | State::Ending(Ending { mut link, .. }) => {
                ending::report_end(&mut link, &mut self.cx, &fault);
                Some(link.peer)
            }
        };
        self.be_over(peer, fault);
    }

    /// So many bytes of that side are left unread.
    fn note_left(&mut self, from: Side, bytes: usize) {
        if !self.cx.account.is_idle(bytes)
            && let Some(holder) = self.state.holder()
        {
            self.cx.account.note_left(&self.cx.setting.budget, from, bytes, holder);
        }
    }
}

const fn sender(side: Side) -> Sender {
    match side {
        Side::Client => Sender::Client,
        Side::Broker => Sender::Server,
    }
}
