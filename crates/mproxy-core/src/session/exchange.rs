//! An enhanced authentication that mproxy answers in the broker's place (4.12): the client's AUTH is a question to the
//! advisers, their answer an AUTH to the client. The broker gets a CONNECT without method and data, and hears nothing of it.
//!
//! Before CONNACK a failure is CONNACK, in an open session DISCONNECT; meanwhile the session goes on under what it was
//! admitted with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::Auth;
use mproxy_codec::property::PropertyId;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::PacketType;

use super::auth::auth_fault;
use super::auth_method::{AuthMethod, ExchangeTurn, OpenExchange};
use super::context::{Context, WORK};
use super::effect::Effect;
use super::link::Link;
use super::question::OpenQuestion;
use super::resolve::{Resolution, resolve_exchange};
use super::sample::AllowedDecision;
use super::setting::OnAuth;
use super::step::{Passage, Step};
use crate::chain::Ruled;
use crate::fault::{Deadline, Fault};
use crate::meter::{ExchangeOutcome, Outcome};
use crate::peer::Side;
use crate::policy::{
    Authenticated, ExchangeDecision, ExchangeQuestion, ExchangeStep, Failure, FailureKind, Hook, Ruling,
    Source, Unusable,
};
use crate::record::DecisionSubject;

/// Questions of one exchange, at most: Kerberos takes three, SCRAM two.
const STEPS: u32 = 8;

/// What goes to the broker in the place of an AUTH that it does not get. A client that sends AUTH need not send PINGREQ
/// [MQTT-3.1.2-20], and the broker must not take it for dead [MQTT-3.1.2-22].
const PINGREQ: &[u8] = &[PacketType::Pingreq.first_byte(), 0];

/// What cannot be carried out is an answer of this endpoint.
fn said_by(unusable: Unusable, endpoint: Option<&Arc<str>>) -> Unusable {
    match endpoint {
        Some(endpoint) => unusable.at(endpoint),
        None => unusable,
    }
}

/// A client has authenticated.
pub(super) struct ExchangeSuccess {
    /// Who says so.
    pub(super) source: Source,
    /// What goes with it.
    pub(super) with: Authenticated,
    /// What is said there of attributes and grant is older than a command, and does not count.
    pub(super) outdated: bool,
    /// The grant was asked for meanwhile: that answer is the newer one.
    pub(super) renewing: bool,
    /// A command said meanwhile that it is to be renewed.
    pub(super) checked: bool,
}

/// What CONNACK has to say of an authentication.
pub(super) struct ConnackAuth<'a> {
    pub(super) method: &'a str,
    pub(super) data: Option<&'a [u8]>,
    pub(super) text: Option<&'a str>,
}

impl Link {
    fn method(&self) -> Option<&AuthMethod> {
        self.rare.as_ref()?.method.as_deref()
    }

    fn method_mut(&mut self) -> Option<&mut AuthMethod> {
        self.rare.as_mut()?.method.as_deref_mut()
    }

    fn exchange_mut(&mut self) -> Option<&mut OpenExchange> {
        self.method_mut()?.exchange.as_deref_mut()
    }

    /// Who answers the client's AUTH is settled here, once it is known what the advisers want and before the broker hears of
    /// the client. Where mproxy does, AUTH may not come from the broker.
    pub(super) fn settle_auth(&mut self, cx: &Context) {
        let wanted = || self.method().is_some_and(|method| cx.setting.advisers.takes_method(&method.name));
        let answers = cx.setting.on_auth == OnAuth::Ask && wanted();
        self.terms.auth &= !answers;
    }

    /// Whoever has admitted the client has judged what it authenticates with: it has authenticated, and is told so by
    /// CONNACK.
    ///
    /// # Errors
    /// It cannot be told.
    pub(super) fn authenticate_at_once(
        &mut self,
        cx: &mut Context,
        source: Source,
        until: Instant,
    ) -> Result<(), Fault> {
        self.open_exchange(false, until);
        self.succeed_exchange(cx, source, None, Authenticated::default()).map(drop)
    }

    fn open_exchange(&mut self, again: bool, until: Instant) {
        let turn = ExchangeTurn::Client;
        if let Some(method) = self.method_mut() {
            method.exchange = Some(Box::new(OpenExchange {
                turn,
                steps: 0,
                again,
                until,
                commanded: false,
                checked: false,
                renewals: 0,
            }));
        }
    }

    /// Whether the client authenticates step by step, whoever answers.
    pub(super) fn authenticates(&self) -> bool {
        self.method().is_some()
    }

    /// Whether mproxy answers the client's AUTH.
    pub(super) fn answers_auth(&self) -> bool {
        !self.terms.auth && self.method().is_some()
    }

    /// An exchange begins with this data, and the advisers are asked.
    ///
    /// # Errors
    /// See [`take_exchange_step`](Self::take_exchange_step).
    pub(super) fn begin_exchange(
        &mut self,
        cx: &mut Context,
        data: Option<&[u8]>,
        again: bool,
        until: Instant,
    ) -> Result<Option<ExchangeSuccess>, Fault> {
        self.open_exchange(again, until);
        self.ask_exchange(cx, data)
    }

    /// The client has said this; the advisers are asked what follows.
    fn ask_exchange(
        &mut self,
        cx: &mut Context,
        data: Option<&[u8]>,
    ) -> Result<Option<ExchangeSuccess>, Fault> {
        let Some(rare) = self.rare.as_deref_mut() else { return Ok(None) };
        let Some(method) = rare.method.as_deref_mut() else { return Ok(None) };
        let Some(exchange) = method.exchange.as_deref_mut() else { return Ok(None) };
        exchange.turn = ExchangeTurn::Adviser(data.map_or(0, <[u8]>::len));
        exchange.steps += 1;
        (exchange.commanded, exchange.checked, exchange.renewals) = (false, false, rare.renewals);
        method.asked = method.asked.wrapping_add(1);
        // A signature may be verified for it, which takes as long as all that one read may: a client that sends one AUTH after
        // the other has one in a turn.
        cx.spend(WORK as usize);
        let (seq, step, again) = (method.asked, exchange.steps, exchange.again);
        let time = cx.setting.clock.time();
        let question = ExchangeQuestion { peer: &self.peer, method: &method.name, data, step, again, time };
        match cx.setting.advisers.exchange(&question) {
            Ruled::Later(pending) => {
                cx.effects.push(Effect::Ask(OpenQuestion::exchange(seq, pending)));
                Ok(None)
            }
            Ruled::Now(ruling) => self.take_exchange_step(cx, seq, ruling),
        }
    }

    /// The answer to the question of this number: the client is to say more, or has authenticated. An answer to another
    /// question counts for nothing.
    ///
    /// # Errors
    /// It has not, or nobody can tell: the session ends.
    pub(super) fn take_exchange_step(
        &mut self,
        cx: &mut Context,
        seq: u32,
        mut ruling: Ruling<ExchangeDecision>,
    ) -> Result<Option<ExchangeSuccess>, Fault> {
        let waits = |exchange: &OpenExchange| matches!(exchange.turn, ExchangeTurn::Adviser(_));
        let asked = self.method().filter(|method| method.asked == seq);
        if !asked.and_then(|method| method.exchange.as_deref()).is_some_and(waits) {
            return Ok(None);
        }
        let (source, endpoint) = (ruling.source, ruling.endpoint.take());
        match resolve_exchange(&cx.setting, &self.peer, ruling) {
            Resolution::Allow(step) | Resolution::AllowChanged(step) => {
                self.sample(cx, || AllowedDecision {
                    hook: Hook::Exchange,
                    subject: DecisionSubject::Packet(PacketType::Auth),
                    payload: 0,
                    source,
                    endpoint: endpoint.as_ref(),
                    changed: false,
                });
                match step {
                    ExchangeStep::Continue { data } => {
                        self.continue_exchange(cx, data.as_deref(), endpoint.as_ref()).map(|()| None)
                    }
                    ExchangeStep::Success(with) => {
                        self.succeed_exchange(cx, source, endpoint.as_ref(), *with)
                    }
                }
            }
            Resolution::Refuse(refusal) => {
                Err(Fault::Refused { hook: Hook::Exchange, refusal: Box::new(refusal) })
            }
            Resolution::Undecided(undecided) => Err(undecided.fault(Hook::Exchange)),
        }
    }

    /// The client is to say more.
    fn continue_exchange(
        &mut self,
        cx: &mut Context,
        data: Option<&[u8]>,
        endpoint: Option<&Arc<str>>,
    ) -> Result<(), Fault> {
        let Some(exchange) = self.exchange_mut() else { return Ok(()) };
        if exchange.steps >= STEPS {
            let unusable = Unusable::invalid(format!("step {STEPS} is the last, and is to be continued"));
            let unusable = said_by(unusable, endpoint);
            cx.setting.meter.unusable(Hook::Exchange, &unusable, &self.peer);
            return Err(Fault::PolicyUnusable { hook: Hook::Exchange, unusable: Box::new(unusable) });
        }
        exchange.turn = ExchangeTurn::Client;
        // [MQTT-4.12.0-2]
        self.send_auth(cx, ReasonCode::CONTINUE_AUTHENTICATION, data, None, endpoint)
    }

    /// The client has authenticated, and is told so: by AUTH in an open session, else by CONNACK.
    fn succeed_exchange(
        &mut self,
        cx: &mut Context,
        source: Source,
        endpoint: Option<&Arc<str>>,
        mut with: Authenticated,
    ) -> Result<Option<ExchangeSuccess>, Fault> {
        let (data, text) = (with.data.take(), with.text.take());
        let again = self.exchange_mut().is_some_and(|exchange| exchange.again);
        // Before anything is done about it: the broker must not hear of a client that cannot be told.
        if again {
            self.send_auth(cx, ReasonCode::SUCCESS, data.as_deref(), text.as_deref(), endpoint)?;
        } else if let Some(method) = self.method()
            && !self.terms.connack_fits(&method.name, data.as_deref())
        {
            return Err(self.untellable(cx, PacketType::Connack, endpoint));
        }
        let Some(rare) = self.rare.as_deref_mut() else { return Ok(None) };
        let Some(method) = rare.method.as_deref_mut() else { return Ok(None) };
        let Some(mut exchange) = method.exchange.take() else { return Ok(None) };
        cx.setting.meter.exchange(again, ExchangeOutcome::Success);
        let (outdated, checked) = (exchange.commanded, exchange.checked);
        let renewing = exchange.renewals != rare.renewals;
        if !again {
            exchange.turn = ExchangeTurn::Connack { data, text };
            method.exchange = Some(exchange);
        }
        Ok(Some(ExchangeSuccess { source, with, outdated, renewing, checked }))
    }

    /// # Errors
    /// It is larger than the client takes.
    fn send_auth(
        &mut self,
        cx: &mut Context,
        reason: ReasonCode,
        data: Option<&[u8]>,
        text: Option<&str>,
        endpoint: Option<&Arc<str>>,
    ) -> Result<(), Fault> {
        let Some(method) = self.method() else { return Ok(()) };
        let Some(bytes) = self.terms.auth_packet(reason, &method.name, data, text) else {
            return Err(self.untellable(cx, PacketType::Auth, endpoint));
        };
        self.inject(cx, Side::Client, bytes);
        Ok(())
    }

    /// An answer whose data the client cannot be sent, because of its Maximum Packet Size [MQTT-3.1.2-24].
    fn untellable(&self, cx: &Context, packet: PacketType, endpoint: Option<&Arc<str>>) -> Fault {
        let what = format!("its data makes {} larger than the client's Maximum Packet Size", packet.name());
        let unusable = said_by(Unusable::too_large(what), endpoint);
        cx.setting.meter.unusable(Hook::Exchange, &unusable, &self.peer);
        Fault::PolicyUnusable { hook: Hook::Exchange, unusable: Box::new(unusable) }
    }

    /// An AUTH of a client whose AUTH mproxy answers.
    ///
    /// # Errors
    /// It is wrong, out of turn, or at once answered by the end of the session.
    pub(super) fn read_auth(
        &mut self,
        cx: &mut Context,
        header: &FixedHeader,
        data: &[u8],
        reauthenticates_until: Option<Instant>,
    ) -> Result<Option<ExchangeSuccess>, Fault> {
        self.oversized_step(cx, header, data)?;
        let auth = Auth::parse(header, data, super::sender(Side::Client))
            .map_err(|error| Fault::Malformed { side: Side::Client, error })?;
        self.check_method(&auth)?;
        if cx.too_many_user_properties(auth.properties) {
            return Err(Fault::OverBudget { packet: PacketType::Auth });
        }
        let data = auth.properties.binary(PropertyId::AuthenticationData);
        let turn = self.method().and_then(|method| Some(&method.exchange.as_ref()?.turn));
        match (auth.reason, turn, reauthenticates_until) {
            // The codec takes these two from a client, and no other.
            (ReasonCode::RE_AUTHENTICATE, _, None) => {
                Err(auth_fault(Side::Client, "re-authentication before CONNACK", "4.12.1"))
            }
            (ReasonCode::RE_AUTHENTICATE, None, Some(until)) => self.begin_exchange(cx, data, true, until),
            (ReasonCode::RE_AUTHENTICATE, Some(_), Some(_)) => {
                Err(auth_fault(Side::Client, "re-authentication while another one is under way", "4.12.1"))
            }
            (_, Some(ExchangeTurn::Client), _) => self.ask_exchange(cx, data),
            (_, Some(ExchangeTurn::Adviser(_) | ExchangeTurn::Connack { .. }) | None, _) => {
                Err(auth_fault(Side::Client, "an answer to no AUTH of the server's", "MQTT-4.12.0-3"))
            }
        }
    }

    /// An AUTH in an open session.
    ///
    /// # Errors
    /// See [`read_auth`](Self::read_auth).
    pub(super) fn answer_auth(
        &mut self,
        cx: &mut Context,
        header: &FixedHeader,
        data: &[u8],
        now: Instant,
    ) -> Result<Step, Fault> {
        // As long as a client has that waits for its CONNACK.
        let until = now + cx.setting.limits.admission_timeout;
        let success = self.read_auth(cx, header, data, Some(until))?;
        self.go_on_after(cx, success, now);
        let ping = self.owes_ping(cx, now);
        let passage = if ping { Passage::Instead(Bytes::from_static(PINGREQ)) } else { Passage::Nowhere };
        Ok(Step::Take(header.total(), passage))
    }

    /// Whether the broker is to hear now that the client lives, since it does not get its AUTH. Who sends one after the
    /// other gets no more PINGREQs out of us than the broker needs.
    fn owes_ping(&mut self, cx: &Context, now: Instant) -> bool {
        let asked = self.peer.keep_alive;
        let most = cx.setting.limits.max_keep_alive.unwrap_or(u16::MAX);
        let capped = if asked == 0 && self.terms.keep_alive_capped { most } else { asked.min(most) };
        let in_force = self.rare.as_ref().and_then(|rare| rare.server_keep_alive).unwrap_or(capped);
        // Together with the Keep Alive itself less than one and a half of it [MQTT-3.1.2-22].
        let apart = Duration::from_secs(in_force.into()) / 4;
        let Some(method) = self.method_mut() else { return false };
        if in_force == 0 || method.pinged || method.pinged_at.is_some_and(|at| now < at + apart) {
            return false;
        }
        (method.pinged, method.pinged_at) = (true, Some(now));
        true
    }

    /// The answer to a question of an open session.
    ///
    /// # Errors
    /// It ends the session.
    pub(super) fn answer_exchange(
        &mut self,
        cx: &mut Context,
        seq: u32,
        ruling: Ruling<ExchangeDecision>,
        now: Instant,
    ) -> Result<(), Fault> {
        let success = self.take_exchange_step(cx, seq, ruling)?;
        self.go_on_after(cx, success, now);
        Ok(())
    }

    /// An open session's client has authenticated, or is to say more.
    fn go_on_after(&mut self, cx: &mut Context, success: Option<ExchangeSuccess>, now: Instant) {
        let Some(ExchangeSuccess { source, with, outdated, renewing, checked }) = success else {
            return self.arm_grant(cx);
        };
        let Authenticated { attributes, grant, .. } = with;
        if outdated || (grant.is_none() && attributes.is_none()) {
            return self.arm_grant(cx);
        }
        if grant.is_some() {
            let rare = self.rare();
            rare.granter = Some(source);
            // Answers to what was asked before count no more, and this one is what they were waited for.
            let mut awaited = false;
            if !renewing && !checked {
                rare.renewals = rare.renewals.wrapping_add(1);
                awaited = self.take_awaited_renewal();
            }
            if self.replace_grant(cx, grant, attributes).takes_back && awaited {
                self.begin_recall(cx, now);
            }
            cx.timer.disarm();
            self.begin_grant(cx, now);
            if checked {
                self.renew_soon(cx, now);
            }
        } else {
            let same = self.peer.grant.clone();
            self.replace_grant(cx, same, attributes);
            self.arm_grant(cx);
        }
    }

    /// Its time is over: why the session ends.
    pub(super) fn exchange_too_late(&mut self, cx: &Context) -> Fault {
        match self.exchange_mut().map(|exchange| &exchange.turn) {
            Some(ExchangeTurn::Adviser(_)) => {
                let failure = Failure::new(FailureKind::Deadline, "no answer within the exchange's deadline");
                let hook = Hook::Exchange;
                cx.setting.meter.failed(hook, &failure, cx.setting.on_error.of(hook), &self.peer);
                cx.setting.meter.decisions(hook, Source::FailedClosed, Outcome::Refused, 1);
                Fault::PolicyFailed { hook, failure: Box::new(failure) }
            }
            Some(ExchangeTurn::Client | ExchangeTurn::Connack { .. }) | None => {
                Fault::TooLate(Deadline::Exchange)
            }
        }
    }

    /// The session ends for this reason: an exchange that is under way ends with it, and is counted.
    pub(super) fn end_exchange(&mut self, cx: &Context, fault: &Fault) {
        let Some(exchange) = self.method_mut().and_then(|method| method.exchange.take()) else { return };
        if matches!(exchange.turn, ExchangeTurn::Connack { .. }) {
            return;
        }
        let outcome = match fault {
            Fault::Refused { hook: Hook::Exchange, .. } => ExchangeOutcome::Refused,
            Fault::PolicyFailed { hook: Hook::Exchange, .. }
            | Fault::PolicyUnusable { hook: Hook::Exchange, .. }
            | Fault::Overloaded { hook: Hook::Exchange, .. } => ExchangeOutcome::Failed,
            Fault::TooLate(Deadline::Exchange) => ExchangeOutcome::TooLate,
            _ => ExchangeOutcome::Abandoned,
        };
        cx.setting.meter.exchange(exchange.again, outcome);
    }

    /// What CONNACK has to say of an authentication that mproxy answered: the method [MQTT-4.12.0-5], data, a text.
    pub(super) fn connack_auth(&self) -> Option<ConnackAuth<'_>> {
        let method = self.method().filter(|_| !self.terms.auth)?;
        match &method.exchange.as_ref()?.turn {
            ExchangeTurn::Connack { data, text } => {
                Some(ConnackAuth { method: &method.name, data: data.as_deref(), text: text.as_deref() })
            }
            ExchangeTurn::Adviser(_) | ExchangeTurn::Client => None,
        }
    }

    /// The client has its CONNACK.
    pub(super) fn forget_exchange(&mut self) {
        if let Some(method) = self.method_mut() {
            method.exchange = None;
        }
    }

    /// Whether the broker has yet to answer a PINGREQ of ours.
    #[inline]
    pub(super) fn awaits_pingresp(&self) -> bool {
        self.method().is_some_and(|method| method.pinged)
    }

    /// A PINGRESP of the broker's: whether it is for us. One is like another, so it need not be the very one.
    pub(super) fn takes_pingresp(&mut self) -> bool {
        self.method_mut().is_some_and(|method| std::mem::replace(&mut method.pinged, false))
    }
}
