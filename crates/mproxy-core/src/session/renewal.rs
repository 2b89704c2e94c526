//! A grant that holds for a time only: who gave it is asked anew when it has passed. Until that one answers, the old grant
//! serves for a while; then every packet is asked about.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::question::OpenQuestion;
use super::resolve::{Resolution, resolve_renewal};
use super::timer::Deadline;
use super::{Effect, Phase, Session, Who};
use crate::chain::Ruled;
use crate::fault::Fault;
use crate::grant::Grant;
use crate::policy::{
    Admission, ConnectDecision, Failure, FailureKind, Hook, RenewQuestion, Ruling, Source, Undecided,
    UnusableKind,
};
use crate::rule::Effect as RuleEffect;

/// How long after an answer that failed it is asked again.
const AGAIN: Duration = Duration::from_secs(5);

/// How far a grant's renewal has come.
#[derive(Debug)]
pub(super) struct Renewal {
    /// When to ask; `None` while the answer is out.
    due: Option<Instant>,
    /// Until when the old grant serves; `None` once it does not.
    serves: Option<Instant>,
    /// Why the last answer was none.
    undecided: Option<Box<Undecided>>,
}

impl Session {
    /// The session is open, or has another grant: begins what the grant has of deadlines.
    pub(super) fn grant_begins(&mut self, now: Instant) {
        let grant = self.grant();
        let ttl = grant.and_then(|grant| grant.ttl);
        let packet_size = grant.and_then(|grant| grant.limits.packet_size);
        let serves = self.setting.limits.grant_staleness;
        self.terms.granted_packet = packet_size.unwrap_or(u32::MAX);
        // A time that no clock reaches is none.
        let renewal = ttl.and_then(|ttl| now.checked_add(ttl)).map(|due| Renewal {
            due: Some(due),
            serves: due.checked_add(serves),
            undecided: None,
        });
        if renewal.is_some() || self.cold.is_some() {
            self.cold().renewal = renewal;
        }
        self.arm_grant();
    }

    /// Arms the next of the grant's deadlines.
    fn arm_grant(&mut self) {
        let renewal = self.cold.as_ref().and_then(|cold| cold.renewal.as_ref());
        let ends = self.grant().and_then(|grant| grant.expires_at).map(|at| (at, Deadline::Grant));
        let due = renewal.and_then(|renewal| renewal.due).map(|at| (at, Deadline::Refresh));
        let stale = renewal.and_then(|renewal| renewal.serves).map(|at| (at, Deadline::Stale));
        match [ends, due, stale].into_iter().flatten().min_by_key(|(at, _)| *at) {
            Some((at, deadline)) => self.timer.arm_at(deadline, at),
            None => self.timer.disarm(),
        }
    }

    /// It is time to ask.
    pub(super) fn refresh(&mut self, now: Instant) {
        let Some(renewal) = self.cold.as_mut().and_then(|cold| cold.renewal.as_mut()) else { return };
        renewal.due = None;
        self.arm_grant();
        let Who::Known(peer) = &self.who else { return };
        let granter = self.cold.as_ref().and_then(|cold| cold.granter).unwrap_or(Source::Unknown);
        match self.setting.advisers.renew(granter, &RenewQuestion { peer }) {
            Ruled::Later(pending) => self.effects.push(Effect::Ask(OpenQuestion::renewal(pending))),
            Ruled::Now(ruling) => self.refreshed(ruling, now),
        }
    }

    /// The answer of who gave the grant.
    pub(super) fn refreshed(&mut self, ruling: Ruling<ConnectDecision>, now: Instant) {
        let (Phase::Open, Who::Known(peer)) = (&self.phase, &self.who) else { return };
        match resolve_renewal(&self.setting, peer, ruling) {
            Resolution::Allow(admission) | Resolution::AllowChanged(admission) => {
                self.renewed(admission, now)
            }
            Resolution::Refuse(refusal) => {
                self.end(Fault::RenewalRefused { refusal: Box::new(refusal) }, now);
            }
            Resolution::Undecided(undecided) => self.not_refreshed(undecided, now),
        }
    }

    fn not_refreshed(&mut self, undecided: Undecided, now: Instant) {
        if matches!(&undecided, Undecided::Unusable(one) if one.kind == UnusableKind::GrantExpired) {
            // It said that the client's time is over, and said it clearly.
            return self.end(undecided.fault(Hook::Connect), now);
        }
        if let Some(renewal) = self.cold.as_mut().and_then(|cold| cold.renewal.as_mut()) {
            renewal.due = now.checked_add(AGAIN);
            renewal.undecided = Some(Box::new(undecided.clone()));
        }
        if let Who::Known(peer) = &mut self.who
            && peer.grant.as_deref().is_some_and(|grant| grant.stale_because().is_some())
        {
            let peer = Arc::make_mut(peer);
            peer.grant = peer.grant.as_deref().map(|grant| Arc::new(grant.stale(undecided)));
        }
        self.arm_grant();
    }

    /// The old grant has served long enough: from now on each packet is asked about, and what nobody can be asked about
    /// is as undecided as the renewal.
    pub(super) fn stale(&mut self) {
        let mut because = None;
        if let Some(renewal) = self.cold.as_mut().and_then(|cold| cold.renewal.as_mut()) {
            renewal.serves = None;
            because = renewal.undecided.take();
        }
        let because = because.map_or_else(
            || Failure::new(FailureKind::Deadline, "the client's grant was not renewed in time").into(),
            |because| *because,
        );
        if let Who::Known(peer) = &mut self.who {
            let peer = Arc::make_mut(peer);
            peer.grant = peer.grant.as_deref().map(|grant| Arc::new(grant.stale(because)));
        }
        self.nothing_stands();
        self.arm_grant();
    }

    /// Another grant is in force; without one in the answer, everything is asked about from now on, and the end of the old
    /// grant holds. Where the client's topics stand at the broker does not change in the middle of a session: its
    /// subscriptions are there.
    fn renewed(&mut self, admission: Admission, now: Instant) {
        if let Who::Known(peer) = &mut self.who {
            let peer = Arc::make_mut(peer);
            let old = peer.grant.as_deref();
            let mut grant = match admission.grant {
                Some(grant) => (*grant).clone(),
                None => {
                    let mut grant = Grant::new(Vec::new(), RuleEffect::Ask);
                    grant.expires_at = old.and_then(|old| old.expires_at);
                    grant
                }
            };
            grant.mapping = old.and_then(|old| old.mapping.clone());
            peer.grant = Some(Arc::new(grant));
            if !admission.attributes.is_empty() {
                peer.attributes = admission.attributes.into();
            }
        }
        self.nothing_stands();
        self.timer.disarm();
        self.grant_begins(now);
    }
}
