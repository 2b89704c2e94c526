//! A grant that holds for a time only: who gave it is asked anew when it has passed. Until that one answers, the old grant
//! serves for a while; then every packet is asked about.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::auth_method::AuthMethod;
use super::context::Context;
use super::effect::Effect;
use super::grant_clock::GrantClock;
use super::link::Link;
use super::question::OpenQuestion;
use super::resolve::{Resolution, resolve_renewal};
use super::timer::Deadline;
use crate::chain::Ruled;
use crate::fault::Fault;
use crate::grant::{Grant, GrantExpiry};
use crate::peer::Peer;
use crate::policy::{
    Admission, ConnectDecision, Failure, FailureKind, Hook, RenewQuestion, Ruling, Source, Undecided,
    UnusableKind,
};
use crate::rule::RuleEffect;

/// How long after an answer that failed it is asked again.
const AGAIN: Duration = Duration::from_secs(5);

impl Link {
    /// The session is open, or has another grant: begins what the grant has of deadlines.
    pub(super) fn begin_grant(&mut self, cx: &mut Context, now: Instant) {
        let grant = self.grant();
        let ttl = grant.and_then(|grant| grant.ttl);
        let packet_size = grant.and_then(|grant| grant.limits.packet_size);
        let serves = cx.setting.limits.grant_staleness;
        self.terms.granted_packet = packet_size.unwrap_or(u32::MAX);
        // A time that no clock reaches is none.
        let renewal = ttl.and_then(|ttl| now.checked_add(ttl)).map(|due| GrantClock {
            due: Some(due),
            serves: due.checked_add(serves),
            undecided: None,
        });
        debug_assert!(
            renewal.as_ref().is_none_or(|clock| clock.serves.is_none_or(|serves| clock.due <= Some(serves))),
            "a grant serves until after it was to be renewed"
        );
        if renewal.is_some() || self.rare.is_some() {
            self.rare().renewal = renewal;
        }
        self.set_rates(cx, now);
        self.arm_grant(cx);
    }

    /// Arms the next of the grant's deadlines, and that of an authentication.
    pub(super) fn arm_grant(&mut self, cx: &mut Context) {
        let renewal = self.rare.as_ref().and_then(|rare| rare.renewal.as_ref());
        let ends = self.grant().and_then(Grant::ends).map(|(at, expiry)| (at, deadline(expiry)));
        let due = renewal.and_then(|renewal| renewal.due).map(|at| (at, Deadline::Refresh));
        let stale = renewal.and_then(|renewal| renewal.serves).map(|at| (at, Deadline::Stale));
        let method = self.rare.as_ref().and_then(|rare| rare.method.as_deref());
        let exchange = method.and_then(AuthMethod::until).map(|at| (at, Deadline::Exchange));
        match [ends, due, stale, exchange].into_iter().flatten().min_by_key(|(at, _)| *at) {
            Some((at, deadline)) => cx.timer.arm_at(deadline, at),
            None => cx.timer.disarm(),
        }
    }

    /// The grant shall be renewed as soon as it can be, whatever its time.
    pub(super) fn renew_soon(&mut self, cx: &mut Context, now: Instant) {
        let rare = self.rare();
        // Commands come from the policy service, and so does what it is asked for now.
        rare.granter.get_or_insert(Source::Rpc);
        let clock = rare.renewal.get_or_insert(GrantClock { due: None, serves: None, undecided: None });
        clock.due = Some(now);
        self.arm_grant(cx);
    }

    /// It is time to ask.
    ///
    /// # Errors
    /// The answer ends the session.
    pub(super) fn renew(&mut self, cx: &mut Context, now: Instant) -> Result<(), Fault> {
        let Some(renewal) = self.rare.as_mut().and_then(|rare| rare.renewal.as_mut()) else { return Ok(()) };
        // Before it is asked: an answer at once arms the clock anew, and must not find the old time in it.
        renewal.due = None;
        self.arm_grant(cx);
        let rare = self.rare();
        rare.renewals = rare.renewals.wrapping_add(1);
        let (granter, seq) = (rare.granter.unwrap_or(Source::Unknown), rare.renewals);
        match cx.setting.advisers.renew(granter, &RenewQuestion { peer: &self.peer }) {
            Ruled::Later(pending) => {
                cx.effects.push(Effect::Ask(OpenQuestion::renewal(seq, pending)));
                Ok(())
            }
            Ruled::Now(ruling) => self.take_renewal(cx, seq, ruling, now),
        }
    }

    /// The answer of who gave the grant to the question of this number. An older one counts for nothing: the grant was asked
    /// for once more, or replaced by command.
    ///
    /// # Errors
    /// It ends the session.
    pub(super) fn take_renewal(
        &mut self,
        cx: &mut Context,
        seq: u32,
        ruling: Ruling<ConnectDecision>,
        now: Instant,
    ) -> Result<(), Fault> {
        if self.rare.as_ref().is_none_or(|rare| rare.renewals != seq) {
            return Ok(());
        }
        match resolve_renewal(&cx.setting, &self.peer, ruling) {
            Resolution::Allow(admission) | Resolution::AllowChanged(admission) => {
                self.apply_renewal(cx, admission, now);
                Ok(())
            }
            Resolution::Refuse(refusal) => Err(Fault::RenewalRefused { refusal: Box::new(refusal) }),
            Resolution::Undecided(undecided) => {
                self.take_awaited_renewal();
                self.postpone_renewal(cx, undecided, now)
            }
        }
    }

    fn postpone_renewal(
        &mut self,
        cx: &mut Context,
        undecided: Undecided,
        now: Instant,
    ) -> Result<(), Fault> {
        if matches!(&undecided, Undecided::Unusable(one) if one.kind == UnusableKind::GrantExpired) {
            // It said that the client's time is over, and said it clearly.
            return Err(undecided.fault(Hook::Connect));
        }
        if let Some(renewal) = self.rare.as_mut().and_then(|rare| rare.renewal.as_mut()) {
            renewal.due = now.checked_add(AGAIN);
            renewal.undecided = Some(Box::new(undecided.clone()));
        }
        if self.grant().is_some_and(|grant| grant.stale_because().is_some()) {
            let peer = Peer::change(&mut self.peer);
            peer.grant = peer.grant.as_deref().map(|grant| Arc::new(grant.stale(undecided)));
        }
        self.arm_grant(cx);
        Ok(())
    }

    /// The old grant has served long enough: from now on each packet is asked about, and what nobody can be asked about
    /// is as undecided as the renewal.
    pub(super) fn make_grant_stale(&mut self, cx: &mut Context) {
        let mut because = None;
        if let Some(renewal) = self.rare.as_mut().and_then(|rare| rare.renewal.as_mut()) {
            renewal.serves = None;
            because = renewal.undecided.take();
        }
        let because = because.map_or_else(
            || Failure::new(FailureKind::Deadline, "the client's grant was not renewed in time").into(),
            |because| *because,
        );
        let peer = Peer::change(&mut self.peer);
        peer.grant = peer.grant.as_deref().map(|grant| Arc::new(grant.stale(because)));
        // What its rules allowed must not stand any longer.
        self.forget_decisions();
        self.arm_grant(cx);
    }

    /// Another grant is in force; without one in the answer, everything is asked about from now on, and the end of the old
    /// grant holds.
    fn apply_renewal(&mut self, cx: &mut Context, admission: Admission, now: Instant) {
        let grant = admission.grant.or_else(|| {
            let old = self.grant()?;
            let mut grant = Grant::new(Vec::new(), RuleEffect::Ask);
            grant.expires_at = old.expires_at;
            Some(Arc::new(grant))
        });
        let awaited = self.take_awaited_renewal();
        // Where the answer has none they stay.
        let attributes = Some(admission.attributes).filter(|attributes| !attributes.is_empty());
        if self.replace_grant(cx, grant, attributes).takes_back && awaited {
            self.begin_recall(cx, now);
        }
        cx.timer.disarm();
        self.begin_grant(cx, now);
    }
}

/// The deadline of a session for which this ends.
const fn deadline(expiry: GrantExpiry) -> Deadline {
    match expiry {
        GrantExpiry::Grant => Deadline::Grant,
        GrantExpiry::Token => Deadline::Token,
    }
}
