//! A client that has said CONNECT and waits for its CONNACK: it is admitted, the broker is dialled, the broker answers.
//!
//! Trouble that passes (an answer that was unavailable or late, a limit of our own, a broker that is not there) is tried
//! again while the client waits, until admission's deadline: a client that is told of it may never come back. Once the
//! broker has the CONNECT nothing is tried again, for it may have taken it.

mod attempt;
mod authenticate;
mod obey;

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::{Auth, Connack, Connect, Disconnect};
use mproxy_codec::property::PropertyId;
use mproxy_codec::types::{PacketType, Version};

pub(super) use self::attempt::Attempt;
use self::attempt::{KeptOrders, may_pass};
pub(super) use self::authenticate::Unauthenticated;
use self::obey::{Obeyed, obey_kept, too_many_orders};
use super::context::Context;
use super::effect::Effect;
use super::foreign::out_of_place;
use super::introduce::{parse_connect, will_message};
use super::link::Link;
use super::question::OpenQuestion;
use super::resolve::{CarriedOut, Resolution, Resolved, resolve};
use super::sample::AllowedDecision;
use super::setting::{OnAuth, Setting};
use super::step::{Passage, Step};
use super::timer::Deadline;
use crate::budget::QUESTION;
use crate::chain::Ruled;
use crate::fault::{Fault, Unreachable};
use crate::gate::{ConnectProgress, ConnectTag, GateAnswer};
use crate::grant::GrantAnswer;
use crate::meter::Outcome;
use crate::peer::{Peer, Side};
use crate::policy::{
    About, Admission, ConnectDecision, ConnectQuestion, Failure, FailureKind, Hook, OnError, Refusal, Ruling,
    Source, Want,
};
use crate::record::DecisionSubject;
use crate::rule::{Act, Who};

/// A client that waits for its CONNACK.
pub(super) struct Opening {
    pub(super) link: Link,
    pub(super) waits: WaitsFor,
}

/// What it waits for.
pub(super) enum WaitsFor {
    /// The advisers' answer to its CONNECT, perhaps not for the first time.
    Admission(Box<Attempt>),
    /// The end of its authentication, which mproxy answers.
    Exchange(Box<Unauthenticated>),
    /// The broker's connection, perhaps not for the first time. It will get this CONNECT.
    Dial(Box<Attempt>),
    /// The broker's CONNACK. By the tag the gate knows it again.
    Connack { login: u64 },
}

impl WaitsFor {
    /// Bytes of the CONNECT that is kept for another try, and of the question about it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Admission(attempt) => QUESTION + 2 * attempt.connect.len(),
            Self::Exchange(waiting) => waiting.sent.len() + waiting.attempt.connect.len(),
            Self::Dial(attempt) => attempt.connect.len(),
            Self::Connack { .. } => 0,
        }
    }

    /// By what the gate knows again what the client logs in as.
    const fn login(&self) -> u64 {
        match self {
            Self::Admission(attempt) | Self::Dial(attempt) => attempt.tag.login,
            Self::Exchange(waiting) => waiting.attempt.tag.login,
            Self::Connack { login } => *login,
        }
    }
}

/// What came of a packet before the session is open.
pub(super) enum Opened {
    /// Still nothing.
    NotYet(Step),
    /// The broker has said yes; whether it goes on with an old session.
    Yes(Step, bool),
}

/// What the advisers say of a CONNECT.
pub(super) fn ask_admission(
    setting: &Setting,
    peer: &Arc<Peer>,
    connect: &Connect<'_>,
    packet: &Bytes,
    tag: ConnectTag,
) -> Ruled<ConnectDecision> {
    let (passes_auth, time) = (setting.on_auth == OnAuth::Pass, setting.clock.time());
    let question = ConnectQuestion { peer, connect, packet, passes_auth, time };
    match setting.gate.as_ref().map_or(GateAnswer::Open, |gate| gate.look(peer, tag)) {
        GateAnswer::Refuse(source, refusal) => Ruled::Now(Ruling::refuse(source, *refusal)),
        GateAnswer::InTurn => setting.advisers.connect_in_turn(&question),
        GateAnswer::Open => match setting.advisers.want(Hook::Connect) {
            Want::Nothing => Ruled::Now(Ruling::allow(Source::Unasked)),
            Want::Head | Want::Payload(_) => setting.advisers.connect(&question),
        },
    }
}

impl Opening {
    /// Of a client whose CONNECT has just come.
    pub(super) fn new(link: Link, connect: Bytes, tag: ConnectTag, until: Instant) -> Self {
        Self { link, waits: WaitsFor::Admission(Attempt::new(connect, tag, until)) }
    }

    /// The broker has accepted the client, or it ends for this reason: tells the gate.
    pub(super) fn note_end(&self, cx: &Context, fault: Option<&Fault>) {
        let login = self.waits.login();
        let progress = match fault {
            None => ConnectProgress::Accepted { login },
            Some(fault) if fault.refuses_login() => ConnectProgress::LoginRefused { login },
            Some(_) => return,
        };
        cx.setting.note(&self.link.peer, progress);
    }

    pub(super) const fn name(&self) -> &'static str {
        match self.waits {
            WaitsFor::Admission(_) => "admitting",
            WaitsFor::Exchange(_) => "authenticating",
            WaitsFor::Dial(_) => "dialing",
            WaitsFor::Connack { .. } => "introduced",
        }
    }

    /// Whether the broker has the CONNECT.
    pub(super) const fn is_introduced(&self) -> bool {
        matches!(self.waits, WaitsFor::Connack { .. })
    }

    /// The advisers were asked.
    ///
    /// # Errors
    /// They refuse it.
    pub(super) fn take_answer(
        &mut self,
        cx: &mut Context,
        ruled: Ruled<ConnectDecision>,
        now: Instant,
    ) -> Result<(), Fault> {
        let WaitsFor::Admission(attempt) = &self.waits else { return Ok(()) };
        cx.timer.arm_at(Deadline::Admission, attempt.until());
        match ruled {
            Ruled::Now(ruling) => self.resolve_admission(cx, ruling, now),
            Ruled::Later(pending) => {
                cx.effects.push(Effect::Ask(OpenQuestion::admission(attempt.number(), pending)));
                Ok(())
            }
        }
    }

    /// The advisers' answer to the question of this number.
    ///
    /// # Errors
    /// They refuse it.
    pub(super) fn answer_admission(
        &mut self,
        cx: &mut Context,
        seq: u32,
        ruling: Ruling<ConnectDecision>,
        now: Instant,
    ) -> Result<(), Fault> {
        match &self.waits {
            // The answer to a try that was given up may still come.
            WaitsFor::Admission(attempt) if attempt.number() == seq => {
                self.resolve_admission(cx, ruling, now)
            }
            WaitsFor::Admission(_) | WaitsFor::Exchange(_) | WaitsFor::Dial(_) | WaitsFor::Connack { .. } => {
                Ok(())
            }
        }
    }

    fn resolve_admission(
        &mut self,
        cx: &mut Context,
        ruling: Ruling<ConnectDecision>,
        now: Instant,
    ) -> Result<(), Fault> {
        let WaitsFor::Admission(attempt) = &mut self.waits else { return Ok(()) };
        self.link.settle_auth(cx);
        let (sent, peer) = (attempt.connect.clone(), Arc::clone(&self.link.peer));
        let (orders, ruling) = match mem::replace(&mut attempt.orders, KeptOrders::These(Vec::new())) {
            KeptOrders::These(orders) => (orders, ruling),
            KeptOrders::TooMany => (Vec::new(), too_many_orders(ruling.source)),
        };
        let mut obeyed = Obeyed::default();
        let granter = ruling.source;
        let resolved = resolve(&cx.setting, &peer, Hook::Connect, ruling, |admission| {
            let admission = if orders.is_empty() {
                admission
            } else {
                obeyed = obey_kept(&orders, &peer, &sent, admission);
                obeyed.admission.take()
            };
            // A grant that came by command is the service's.
            let granter = if obeyed.replaced { Source::Rpc } else { granter };
            let connect = self.link.introduce(cx, &sent, admission.as_deref(), granter)?;
            Ok(match admission {
                None => CarriedOut::Plain((connect, None)),
                Some(admission) => CarriedOut::Changed((connect, Some(admission))),
            })
        });
        if let Resolution::Undecided(undecided) = &resolved.what
            && may_pass(undecided)
            && self.will_try_again(cx, &undecided.clone().fault(Hook::Connect), now)
        {
            return Ok(());
        }
        resolved.count(&cx.setting, Hook::Connect);
        let changed = resolved.is_changed().unwrap_or_default();
        let Resolved { source, endpoint, what } = resolved;
        let (connect, admission) = match obeyed.dismissal.take() {
            Some(fault) => return Err(fault),
            None => what.form().map_err(|refused| refused.fault(Hook::Connect))?,
        };
        let answers_auth = self.link.answers_auth();
        // Only an exchange comes back to it.
        let authenticated = admission.as_ref().is_some_and(|admission| admission.authenticated);
        let kept = if answers_auth && !authenticated { admission.clone() } else { None };
        if let Some(admission) = admission {
            self.apply_admission(&connect, *admission, if obeyed.replaced { Source::Rpc } else { source })?;
        }
        self.link.sample(cx, || AllowedDecision {
            hook: Hook::Connect,
            subject: DecisionSubject::Connection { will: None },
            payload: 0,
            source,
            endpoint: endpoint.as_ref(),
            changed,
        });
        self.link.revoked |= obeyed.replaced;
        if obeyed.renews {
            self.link.rare().renews_at_once = true;
        }
        let WaitsFor::Admission(attempt) = &self.waits else { return Ok(()) };
        match (answers_auth, authenticated) {
            (true, false) => return self.authenticate(cx, sent, connect, kept, now),
            (true, true) => self.link.authenticate_at_once(cx, source, attempt.until())?,
            (false, _) => {}
        }
        self.begin_dial(cx, connect, now);
        Ok(())
    }

    /// The client has got in; the broker will get this CONNECT.
    pub(super) fn begin_dial(&mut self, cx: &mut Context, connect: Bytes, now: Instant) {
        let attempt = match &self.waits {
            WaitsFor::Admission(attempt) => attempt,
            WaitsFor::Exchange(waiting) => &waiting.attempt,
            WaitsFor::Dial(_) | WaitsFor::Connack { .. } => return,
        };
        let ConnectTag { client, .. } = attempt.tag;
        self.waits = WaitsFor::Dial(attempt.for_dial(connect, now));
        cx.setting.note(&self.link.peer, ConnectProgress::Admitted { client });
        // Somebody has let it in: from here on it does not count to what strangers may hold.
        cx.account.no_stranger_any_more();
        self.dial(cx);
    }

    /// The peer is from now on who the policy says it is.
    fn apply_admission(&mut self, connect: &[u8], admission: Admission, source: Source) -> Result<(), Fault> {
        let Some(connect) = parse_connect(connect) else { return Err(UNREADABLE) };
        let link = &mut self.link;
        link.terms.will = connect.will.is_some();
        if let Some(grant) = &admission.grant {
            link.rare().granter = Some(source);
            link.terms.mapped = grant.mapping.is_some();
            link.terms.granted_packet = grant.limits.packet_size.unwrap_or(u32::MAX);
        }
        // A copy where others hold it: questions on their way keep the client that they asked about.
        let peer = Peer::change(&mut link.peer);
        // From the packet as it was written, so that rules and events name the client as the broker does.
        let username = match &admission.broker_login {
            None => connect.username.map(Into::into),
            // The broker knows it by another name than everybody else.
            Some(_) => match admission.username {
                Some(name) => (!name.is_empty()).then_some(name),
                None => peer.username.clone(),
            },
        };
        let client_id = match &admission.broker_client_id {
            None => connect.client_id.into(),
            // Likewise.
            Some(_) => admission.client_id.unwrap_or_else(|| peer.client_id.clone()),
        };
        peer.rename(client_id, username);
        peer.broker_client_id = admission.broker_client_id;
        peer.attributes = admission.attributes.into();
        peer.grant = admission.grant;
        link.peer_weight = peer.weight() as u32;
        Ok(())
    }

    /// Whether there is time to try again what failed like this; then it will be, after a pause.
    fn will_try_again(&mut self, cx: &mut Context, fault: &Fault, now: Instant) -> bool {
        let id = self.link.peer.origin.connection_id;
        let (WaitsFor::Admission(attempt) | WaitsFor::Dial(attempt)) = &mut self.waits else { return false };
        let at = attempt.next_try(fault, id, now);
        if let Some(at) = at {
            cx.timer.arm_at(Deadline::Retry, at);
        }
        at.is_some()
    }

    /// A pause has passed.
    ///
    /// # Errors
    /// The advisers refuse the CONNECT.
    pub(super) fn try_again(&mut self, cx: &mut Context, now: Instant) -> Result<(), Fault> {
        match &mut self.waits {
            WaitsFor::Admission(attempt) => {
                attempt.forget_orders();
                let Some(connect) = parse_connect(&attempt.connect) else { return Err(UNREADABLE) };
                let ruled =
                    ask_admission(&cx.setting, &self.link.peer, &connect, &attempt.connect, attempt.tag);
                self.take_answer(cx, ruled, now)
            }
            WaitsFor::Dial(_) => {
                self.dial(cx);
                Ok(())
            }
            WaitsFor::Exchange(_) | WaitsFor::Connack { .. } => Ok(()),
        }
    }

    /// The broker is to be reached.
    fn dial(&self, cx: &mut Context) {
        let WaitsFor::Dial(attempt) = &self.waits else { return };
        let until = attempt.until();
        cx.timer.arm_at(Deadline::Admission, until);
        cx.effects.push(Effect::Dial { until });
    }

    /// What became of the dial.
    ///
    /// # Errors
    /// The broker could not be reached, and there is no more time.
    pub(super) fn finish_dial(
        &mut self,
        cx: &mut Context,
        outcome: Result<(), Unreachable>,
        now: Instant,
    ) -> Result<(), Fault> {
        let WaitsFor::Dial(attempt) = &self.waits else { return Ok(()) };
        match outcome {
            Err(why) => {
                let fault = Fault::Unreachable(why);
                if self.will_try_again(cx, &fault, now) { Ok(()) } else { Err(fault) }
            }
            Ok(()) => {
                let (connect, login) = (attempt.connect.clone(), attempt.tag.login);
                // From here on nothing is tried again: the broker may have taken the client's session over.
                self.waits = WaitsFor::Connack { login };
                cx.timer.arm(Deadline::Connack, now, cx.setting.limits.connack_timeout);
                cx.effects.send(Side::Broker, connect);
                Ok(())
            }
        }
    }

    /// Admission's deadline has passed while an answer or the broker was waited for: why the session ends.
    pub(super) fn waited_long_enough(&mut self, cx: &Context) -> Option<Fault> {
        match &mut self.waits {
            // The failure rule is for answers that failed. What kept this one is not known; it may be a queue of our own.
            WaitsFor::Admission(_) => {
                let failure = Failure::new(FailureKind::Deadline, "no answer within the admission deadline");
                cx.setting.meter.failed(Hook::Connect, &failure, OnError::Deny, &self.link.peer);
                cx.setting.meter.decisions(Hook::Connect, Source::FailedClosed, Outcome::Refused, 1);
                Some(Fault::PolicyFailed { hook: Hook::Connect, failure: Box::new(failure) })
            }
            WaitsFor::Dial(attempt) => {
                let silent = || Fault::Unreachable(Unreachable::away("it did not answer in time"));
                Some(attempt.last.take().unwrap_or_else(silent))
            }
            WaitsFor::Exchange(_) => Some(self.link.exchange_too_late(cx)),
            WaitsFor::Connack { .. } => None,
        }
    }

    /// Another grant does not allow the will of a client of whom the broker has not heard yet: why it is refused.
    pub(super) fn refused_will(&self, cx: &Context) -> Option<Fault> {
        let attempt = match &self.waits {
            WaitsFor::Exchange(waiting) => &waiting.attempt,
            WaitsFor::Dial(attempt) => attempt,
            WaitsFor::Admission(_) | WaitsFor::Connack { .. } => return None,
        };
        let grant = self.link.grant()?;
        let will = parse_connect(&attempt.connect)?.will?;
        let topic = self.link.policy_topic(Side::Broker, will.topic)?;
        let message = will_message(cx, &topic, &will);
        let (answer, part) = grant.judge_message(Act::Will, Who::from(&*self.link.peer), message);
        match answer {
            GrantAnswer::Ask | GrantAnswer::Allow(()) => None,
            GrantAnswer::Refuse(reason) => {
                let refusal = Refusal::new(reason).about(About::Will).by(self.link.grant_ground(part));
                Some(Fault::Refused { hook: Hook::Connect, refusal: Box::new(refusal) })
            }
        }
    }

    /// A packet before the session is open.
    ///
    /// # Errors
    /// It may not come now, or is wrong.
    pub(super) fn read(
        &mut self,
        cx: &mut Context,
        from: Side,
        header: &FixedHeader,
        data: &[u8],
        now: Instant,
    ) -> Result<Opened, Fault> {
        match (from, header.kind) {
            (_, PacketType::Auth) if self.link.terms.auth => {
                let auth = Auth::parse(header, data, super::sender(from))
                    .map_err(|error| Fault::Malformed { side: from, error })?;
                self.link.auth_in_turn(from, &auth, false)?;
                if self.link.auth_step() {
                    cx.timer.arm(Deadline::Connack, now, cx.setting.limits.connack_timeout);
                }
                Ok(Opened::NotYet(Step::pass(header.total())))
            }
            (Side::Client, PacketType::Auth) if self.link.answers_auth() => {
                let success = self.link.read_auth(cx, header, data, None)?;
                self.go_on_after(cx, success, now)?;
                Ok(Opened::NotYet(Step::swallow(header.total())))
            }
            (Side::Client, PacketType::Disconnect) if matches!(self.waits, WaitsFor::Exchange(_)) => {
                let disconnect =
                    Disconnect::parse(header, data, super::sender(from), self.link.terms.version)
                        .map_err(|error| Fault::Malformed { side: from, error })?;
                // There is no broker yet that could hear of it.
                Err(Fault::Left { reason: disconnect.reason })
            }
            // [MQTT-3.1.2-30] leaves these two to a client that authenticates step by step.
            (Side::Client, PacketType::Disconnect) => {
                self.link.forward_step(cx, from, header, data).map(Opened::NotYet)
            }
            (Side::Broker, PacketType::Connack) => self.connack(cx, header, data),
            // [MQTT-3.1.0-2], [MQTT-4.12.0-7]
            (Side::Client | Side::Broker, _) => Err(out_of_place(from, header.kind)),
        }
    }

    fn connack(&mut self, cx: &mut Context, header: &FixedHeader, data: &[u8]) -> Result<Opened, Fault> {
        let (link, total) = (&mut self.link, header.total());
        // A broker that knows no 5.0 refuses in 3.x's format, and the client falls back. Its "yes" in that format would be
        // another matter: two framings on one connection.
        let version = match Connack::parse(header, data, Version::V311) {
            Ok(Connack { reason: 1.., .. }) if link.terms.version.is_v5() => Version::V311,
            _ => link.terms.version,
        };
        let connack = Connack::parse(header, data, version)
            .map_err(|error| Fault::Malformed { side: Side::Broker, error })?;
        if connack.reason != 0 {
            let refused = Fault::BrokerRefused { code: connack.reason };
            return Ok(Opened::NotYet(Step::Take(total, Passage::Last(None, Box::new(refused)))));
        }
        cx.timer.disarm();
        link.terms.accept(&connack);
        // A broker of 3.1 cannot say that it goes on with one.
        link.terms.resumed |= version == Version::V31 && !link.peer.clean_start;
        if let Some(assigned) = connack.properties.text(PropertyId::AssignedClientIdentifier) {
            let peer = Peer::change(&mut link.peer);
            match &mut peer.broker_client_id {
                Some(own) => *own = assigned.into(),
                None => peer.client_id = assigned.into(),
            }
        }
        if let Some(seconds) = connack.properties.u16(PropertyId::ServerKeepAlive)
            && link.peer.grant.is_some()
        {
            link.rare().server_keep_alive = Some(seconds);
        }
        let passage = link.connack_for_client(cx, &connack)?.map_or(Passage::AsItIs, Passage::Instead);
        Ok(Opened::Yes(Step::Take(total, passage), connack.session_present))
    }
}

/// What was written or read a moment ago could not be read.
const UNREADABLE: Fault = Fault::Internal { what: "a CONNECT that was read before cannot be read" };
