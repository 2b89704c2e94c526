//! A client that is admitted, and authenticates step by step before the broker hears of it; see `exchange`.

use std::time::Instant;

use bytes::Bytes;
use mproxy_codec::property::PropertyId;

use super::super::context::Context;
use super::super::exchange::ExchangeSuccess;
use super::super::introduce::parse_connect;
use super::super::resolve::refuse;
use super::super::timer::Deadline;
use super::{Attempt, Opening, UNREADABLE, WaitsFor};
use crate::fault::Fault;
use crate::policy::{Admission, ExchangeDecision, Hook, Ruling};

/// What is kept of a client until it has authenticated.
pub(in super::super) struct Unauthenticated {
    /// Its CONNECT as it came.
    pub(super) sent: Bytes,
    /// The CONNECT for the broker, unless the authentication brings another grant; until when both have to be done.
    pub(in super::super) attempt: Box<Attempt>,
    /// With what it was admitted.
    admission: Option<Box<Admission>>,
}

impl Opening {
    /// The client is admitted, and its authentication begins with what its CONNECT says.
    ///
    /// # Errors
    /// It has ended already, and the client does not get in.
    pub(super) fn authenticate(
        &mut self,
        cx: &mut Context,
        sent: Bytes,
        connect: Bytes,
        admission: Option<Box<Admission>>,
        now: Instant,
    ) -> Result<(), Fault> {
        let WaitsFor::Admission(attempt) = &self.waits else { return Ok(()) };
        let until = attempt.until();
        let attempt = Attempt::new(connect, attempt.tag, until);
        self.waits = WaitsFor::Exchange(Box::new(Unauthenticated { sent: sent.clone(), attempt, admission }));
        cx.timer.arm_at(Deadline::Admission, until);
        let asked = parse_connect(&sent).ok_or(UNREADABLE)?;
        let data = asked.properties.binary(PropertyId::AuthenticationData);
        let success = self.link.begin_exchange(cx, data, false, until)?;
        self.go_on_after(cx, success, now)
    }

    /// The answer to a step of its authentication.
    ///
    /// # Errors
    /// It ends the session.
    pub(in super::super) fn answer_exchange(
        &mut self,
        cx: &mut Context,
        seq: u32,
        ruling: Ruling<ExchangeDecision>,
        now: Instant,
    ) -> Result<(), Fault> {
        let success = self.link.take_exchange_step(cx, seq, ruling)?;
        self.go_on_after(cx, success, now)
    }

    /// The client has authenticated, and the broker is dialled; or it is to say more.
    ///
    /// # Errors
    /// What the success brings cannot be carried out.
    pub(super) fn go_on_after(
        &mut self,
        cx: &mut Context,
        success: Option<ExchangeSuccess>,
        now: Instant,
    ) -> Result<(), Fault> {
        let Some(ExchangeSuccess { source, with, outdated, .. }) = success else { return Ok(()) };
        let WaitsFor::Exchange(waiting) = &mut self.waits else { return Ok(()) };
        let mut connect = waiting.attempt.connect.clone();
        let changes = with.grant.is_some() || with.attributes.is_some();
        if changes && !outdated {
            let (sent, mut admission) = (waiting.sent.clone(), waiting.admission.take().unwrap_or_default());
            let granter = self.link.rare.as_ref().and_then(|rare| rare.granter);
            let source = if with.grant.is_some() { source } else { granter.unwrap_or(source) };
            // A command may have set another since it was admitted.
            admission.grant = with.grant.or_else(|| self.link.peer.grant.clone());
            if let Some(attributes) = with.attributes {
                admission.attributes = attributes;
            }
            // Once more: its will is judged by the new grant, and topics may stand under another prefix.
            connect = self.link.introduce(cx, &sent, Some(&admission), source).map_err(|unfit| {
                refuse(&cx.setting, &self.link.peer, Hook::Exchange, unfit).fault(Hook::Exchange)
            })?;
            self.apply_admission(&connect, *admission, source)?;
        }
        self.begin_dial(cx, connect, now);
        Ok(())
    }
}
