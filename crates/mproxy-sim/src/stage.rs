//! A session between two byte pipes, on a clock that moves when the test says so.
//!
//! The stage does what a relay does and nothing more: it offers bytes while they are wanted, carries effects out in
//! their order, and says that a stream has ended only when nothing of it is left unread.

mod setup;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mproxy_core::command::{Order, Reach, Selector, SessionCommand};
use mproxy_core::event::Happening;
use mproxy_core::fault::{Closed, Fault, Unreachable};
use mproxy_core::peer::{ConnectionId, Origin, Transport};
use mproxy_core::policy::{Action, Decision, Failure, FailureKind, Hook, PublishChange, Refusal};
use mproxy_core::session::handover::NotExported;
use mproxy_core::session::{Answered, OpenQuestion, RecallStage};
use mproxy_core::{Effect, Session, Setting, Side};

pub use self::setup::Setup;
use super::script::{OpenVerdict, QuestionRecord, Reply, Script};
use super::verdict::Verdict;
use crate::wire::{self, Version};

/// What becomes of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialScript {
    /// The broker is there.
    Succeeds,
    /// It is not.
    Fails,
    /// Nobody knows yet.
    Hangs,
}

/// One side's pipe.
#[derive(Debug, Default)]
struct SidePipe {
    /// Sent by the peer, not yet taken by the session.
    unread: BytesMut,
    /// The peer's stream has ended behind that.
    ended: Option<Closed>,
    /// The session has been told so.
    told: bool,
    /// Sent by the session, not yet looked at by the test.
    heard: Vec<u8>,
    /// The session wants this stream ended.
    shut: bool,
    /// Our half of it has ended, and the session knows.
    written: bool,
    /// Both halves have ended, and the session knows.
    over: bool,
    /// The session has dropped it.
    cut: bool,
}

/// A session and everything around it. See the tests of `mproxy-core` for scenes.
pub struct Stage {
    /// The session itself.
    pub session: Session,
    setting: Arc<Setting>,
    /// The time.
    pub now: Instant,
    /// Who decides.
    pub script: Arc<Script>,
    /// What becomes of a dial.
    pub dialing: DialScript,
    /// How often the broker was dialled.
    pub dials: usize,
    /// Sides that read nothing: what is queued for them stays unwritten, and a shut of theirs is not carried out.
    pub stuck: [bool; 2],
    /// Questions whose verdicts are out, in the order in which they were asked; a verdict leaves a hole.
    open: Vec<Option<(OpenQuestion, OpenVerdict)>>,
    answered: Vec<Option<Answered>>,
    events: Vec<Happening>,
    client: SidePipe,
    broker: SidePipe,
    done: Option<Fault>,
}

/// Where a client of no importance comes from.
#[must_use]
pub fn origin() -> Origin {
    Origin {
        connection_id: ConnectionId(7),
        epoch: 1,
        instance: "stage".into(),
        listener: "mqtt".into(),
        transport: Transport::Tcp,
        remote: SocketAddr::from(([127, 0, 0, 1], 40_000)).into(),
        local: SocketAddr::from(([127, 0, 0, 1], 1883)).into(),
        tls: None,
        ws: None,
    }
}

impl Stage {
    /// A session whose CONNECT will be allowed at once and whose other questions wait for [`rule`](Stage::rule).
    #[must_use]
    pub fn new() -> Self {
        Setup::default().stage()
    }

    /// A session whose questions are answered like this.
    #[must_use]
    pub fn answering(answering: impl FnMut(&QuestionRecord) -> Reply + Send + 'static) -> Self {
        Setup { answering: Box::new(answering), ..Setup::default() }.stage()
    }

    /// The same, open: CONNECT and CONNACK of this version have passed.
    #[must_use]
    pub fn open(mut self, version: Version) -> Self {
        self.open_with(version, &[], &[]);
        self
    }

    /// Opens the session with these properties in CONNECT and CONNACK.
    pub fn open_with(&mut self, version: Version, connect: &[u8], connack: &[u8]) {
        let options = wire::ConnectOptions { properties: connect, ..wire::ConnectOptions::default() };
        self.client(&wire::connect(version, "c", &options));
        self.broker(&wire::connack(version, false, 0, connack));
        assert_eq!(self.session.phase_name(), "open", "it did not open: {:?}", self.done);
        self.at_broker();
        self.at_client();
        self.take_questions();
        self.events();
    }

    /// The client sends these bytes.
    pub fn client(&mut self, bytes: &[u8]) {
        self.sends(Side::Client, bytes);
    }

    /// The broker sends these bytes.
    pub fn broker(&mut self, bytes: &[u8]) {
        self.sends(Side::Broker, bytes);
    }

    /// A side sends these bytes.
    pub fn sends(&mut self, side: Side, bytes: &[u8]) {
        self.pipe(side).unread.extend_from_slice(bytes);
        self.run();
    }

    /// That side's stream ends in order, behind what it has sent.
    pub fn close(&mut self, side: Side) {
        self.pipe(side).ended.get_or_insert(Closed::Eof);
        self.run();
    }

    /// That side's stream breaks.
    pub fn reset(&mut self, side: Side) {
        let pipe = self.pipe(side);
        // The kernel throws away what was received and not read when a reset comes; a stage that kept it would be too kind.
        pipe.unread.clear();
        pipe.ended.get_or_insert_with(|| Closed::Error("reset".into()));
        self.run();
    }

    /// The verdict to the question that was asked as number `n`, counted from 0 over the whole scene and over those
    /// only that were not answered at once.
    pub fn rule(&mut self, n: usize, verdict: Verdict) {
        let open = self.open[n].take();
        let (question, open) = open.unwrap_or_else(|| panic!("question {n} was answered before"));
        let answered = open.say(verdict, question);
        self.answered[n] = Some(answered.clone());
        self.session.decide(answered, self.now);
        self.run();
    }

    /// A yes to a question that has had a verdict: the session must not take it.
    pub fn allow_again(&mut self, n: usize) {
        let answered = self.answered[n].clone().unwrap_or_else(|| panic!("question {n} is open"));
        self.session.decide(answered.as_allowed(), self.now);
        self.run();
    }

    /// How many questions were asked that were not answered at once.
    #[must_use]
    pub fn questions(&self) -> usize {
        self.open.len()
    }

    /// What became of a dial that hung.
    pub fn dialed(&mut self, outcome: Result<(), Unreachable>) {
        self.session.dialed(outcome, self.now);
        self.run();
    }

    /// Time passes; deadlines fire on the way.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.session.poll_timeout().filter(|at| *at <= end) {
            // A deadline may lie before now (a stage that was told late): time does not go back for it.
            self.now = at.max(self.now);
            self.session.handle_timeout(self.now);
            self.run();
        }
        self.now = end;
    }

    /// Descriptors or memory run short, and the session has to go.
    pub fn shed(&mut self) {
        self.session.shed(self.now);
        self.run();
    }

    /// Stops the session gently.
    pub fn drain(&mut self) {
        self.session.drain(self.now);
        self.run();
    }

    /// What the session shares with others.
    #[must_use]
    pub fn setting(&self) -> &Arc<Setting> {
        &self.setting
    }

    /// Another process goes on with the session, where that is possible: questions that are out are asked there once more,
    /// and a verdict to one of the old ones reaches nobody.
    ///
    /// # Errors
    /// It stays where it is.
    pub fn hand_over(&mut self) -> Result<(), NotExported> {
        let written = self.session.export(self.now)?;
        let taken = Session::import(&written, Arc::clone(&self.setting), self.now);
        self.session = taken.unwrap_or_else(|error| panic!("what was written cannot be read: {error}"));
        self.open.iter_mut().for_each(|open| *open = None);
        self.run();
        Ok(())
    }

    /// Commands come for whoever is meant.
    pub fn command(&mut self, selector: Selector, command: SessionCommand) -> Reach {
        let reach = self.session.command(&Arc::new(Order { selector, command }), self.now);
        self.run();
        reach
    }

    /// Takes what the broker got.
    pub fn at_broker(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.broker.heard)
    }

    /// Takes what the client got.
    pub fn at_client(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.client.heard)
    }

    /// Takes what was asked.
    pub fn take_questions(&mut self) -> Vec<QuestionRecord> {
        self.script.take_questions()
    }

    /// Takes what was told.
    pub fn events(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.events)
    }

    /// Whether the session wants that side's stream ended.
    #[must_use]
    pub fn is_shut(&self, side: Side) -> bool {
        match side {
            Side::Client => self.client.shut,
            Side::Broker => self.broker.shut,
        }
    }

    /// Bytes of that side that the session did not take yet.
    #[must_use]
    pub fn unread(&self, side: Side) -> usize {
        match side {
            Side::Client => self.client.unread.len(),
            Side::Broker => self.broker.unread.len(),
        }
    }

    /// Whether that side's stream was dropped with what was queued for it.
    #[must_use]
    pub fn is_cut(&self, side: Side) -> bool {
        match side {
            Side::Client => self.client.cut,
            Side::Broker => self.broker.cut,
        }
    }

    /// Why the session is over, if it is.
    #[must_use]
    pub fn done(&self) -> Option<&Fault> {
        self.done.as_ref()
    }

    /// The broker of a session that is ending closes, then the client what the session shut; it must be over then.
    pub fn finish(&mut self) -> Fault {
        if self.session.phase_name() == "ending" {
            self.close(Side::Broker);
        }
        if self.is_shut(Side::Client) {
            self.close(Side::Client);
        }
        self.done.clone().expect("the session is not over")
    }

    /// Carries out effects and offers bytes until neither is left. Called by everything that tells the session
    /// something; tests that call the session directly call it themselves.
    pub fn run(&mut self) {
        loop {
            self.effects();
            // Not `||`: both sides are offered each time, as a relay polls both.
            let moved = self.offer(Side::Client) | self.offer(Side::Broker);
            // What was sent is written at once, unless nobody reads it.
            if self.session.recall() == RecallStage::Sent && !self.stuck[Side::Client as usize] {
                self.session.recalled();
            }
            // Once more, as an offer that took nothing may still have armed or answered something.
            if !moved && self.effects() == 0 {
                return;
            }
        }
    }

    fn offer(&mut self, side: Side) -> bool {
        let stuck = self.stuck[side as usize];
        let (pipe, session, now) = match side {
            Side::Client => (&mut self.client, &mut self.session, self.now),
            Side::Broker => (&mut self.broker, &mut self.session, self.now),
        };
        if pipe.cut {
            return false;
        }
        let mut moved = false;
        if (session.wants_read(side) || session.discards(side)) && !pipe.unread.is_empty() {
            let before = pipe.unread.len();
            session.read(side, &mut pipe.unread, now);
            moved = pipe.unread.len() != before;
        }
        // A relay reads a little ahead while the session opens, so that it sees a client leave.
        let ahead = side == Side::Client && session.opening() && pipe.unread.is_empty();
        let wanted = session.wants_read(side) || session.discards(side) || ahead;
        // After an error nothing waits behind the end any more; after a FIN what was sent before it comes first.
        let broken = matches!(pipe.ended, Some(Closed::Error(_)));
        if let (Some(how), false) = (&pipe.ended, pipe.told)
            && (broken || wanted && !moved)
        {
            pipe.told = true;
            session.closed(side, how.clone(), now);
            moved = true;
        } else if pipe.told && pipe.shut && !pipe.over && !stuck && session.phase_name() == "ending" {
            // Its half had ended before ours.
            pipe.over = true;
            session.closed(side, Closed::Eof, now);
            moved = true;
        } else if pipe.shut && !pipe.told && !pipe.written && !stuck {
            pipe.written = true;
            session.shut(side, now);
            moved = true;
        }
        moved
    }

    fn effects(&mut self) -> usize {
        // All of them first: carrying one out may add others, which come behind, as they would in a relay.
        let mut queue = VecDeque::new();
        while let Some(effect) = self.session.poll_effect() {
            queue.push_back(effect);
        }
        let count = queue.len();
        for effect in queue {
            assert!(self.done.is_none(), "an effect after Done: {effect:?}");
            match effect {
                Effect::Dial { .. } => {
                    self.dials += 1;
                    match self.dialing {
                        DialScript::Succeeds => self.session.dialed(Ok(()), self.now),
                        DialScript::Fails => {
                            self.session.dialed(Err(Unreachable::away("connection refused")), self.now);
                        }
                        // The scene calls `dialed` when it likes, or never.
                        DialScript::Hangs => {}
                    }
                }
                Effect::Ask(question) => {
                    let verdict = self.script.open().expect("the script was asked");
                    // The question asked the script while it was made, so the script's first open verdict is the one to it.
                    self.open.push(Some((question, verdict)));
                    self.answered.push(None);
                }
                Effect::Send { to, bytes } => {
                    let pipe = self.pipe(to);
                    // A relay has ended its half by then, and would lose the bytes.
                    assert!(!pipe.shut && !pipe.cut, "bytes for the {to} after Shut or Cut");
                    assert!(!bytes.is_empty(), "an empty Send");
                    pipe.heard.extend_from_slice(&bytes);
                }
                Effect::Shut { side } => {
                    assert!(
                        !self.pipe(side).shut && !self.pipe(side).cut,
                        "Shut twice for the {side}, or after Cut"
                    );
                    self.pipe(side).shut = true;
                }
                Effect::Cut { side } => {
                    let pipe = self.pipe(side);
                    assert!(!pipe.cut, "Cut twice for the {side}");
                    pipe.cut = true;
                    pipe.unread.clear();
                }
                Effect::Report(event) => self.events.push(event.what),
                Effect::Done(fault) => self.done = Some(*fault),
            }
        }
        count
    }

    fn pipe(&mut self, side: Side) -> &mut SidePipe {
        match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        }
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

/// Yes, as it is.
#[must_use]
pub fn allow(hook: Hook) -> Verdict {
    Verdict::allow(hook)
}

/// Yes to a PUBLISH, with these changes.
#[must_use]
pub fn change(change: PublishChange) -> Verdict {
    Verdict::Publish(Decision::Allow(Some(Box::new(change))))
}

/// No, 0x87.
#[must_use]
pub fn refuse(hook: Hook) -> Verdict {
    Verdict::refuse(hook, Refusal::default())
}

/// No to a PUBLISH, done like this.
#[must_use]
pub fn refuse_as(action: Action) -> Verdict {
    Verdict::Publish(Decision::Refuse(Refusal { action, ..Refusal::default() }))
}

/// No answer.
#[must_use]
pub fn fail() -> Verdict {
    Verdict::Failed(Failure::new(FailureKind::Deadline, "too slow"))
}
