//! A grant that holds for a time only: who gave it is asked anew when it has passed. Until that one answers, the old grant
//! serves for a while; then every packet is asked about.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mproxy_codec::packet::Connect;
use mproxy_codec::property::{Place, Properties, PropertyEdit, PropertyId, Value};
use mproxy_codec::types::{PacketType, Sender};

use super::lane::{AskId, Asker};
use super::timer::Deadline;
use super::{Effect, Phase, Session, Who};
use crate::fault::Fault;
use crate::grant::Grant;
use crate::meter::Outcome;
use crate::peer::Peer;
use crate::policy::{
    Admission, Answer, ConnectQuestion, Decision, Failure, FailureKind, Hook, Ruling, Undecided, Unusable,
    UnusableKind, Verdict,
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
        let answer = match &self.who {
            Who::Known(peer) => self.ask_again(peer),
            Who::Stranger(_) => Answer::Pass,
        };
        match answer {
            Answer::Later(pending) => {
                self.effects.push(Effect::Ask { id: AskId { of: Asker::Refresh, seq: 0 }, pending });
            }
            Answer::Now(ruling) => self.refreshed(ruling, now),
            Answer::Pass => {
                let failure = Failure::new(FailureKind::Unavailable, "nobody renews it");
                self.not_refreshed(Undecided::Failed(failure), now)
            }
        }
    }

    /// The question about a client that said CONNECT long ago: all that is known of it now.
    fn ask_again(&self, peer: &Arc<Peer>) -> Answer {
        let user: Vec<_> = peer
            .user_properties
            .iter()
            .map(|(name, value)| (PropertyId::UserProperty, Value::Pair(name, value)))
            .collect();
        let raw = PropertyEdit::only(&user).to_bytes().unwrap_or_else(|_| BytesMut::new());
        let place = Place::Packet(PacketType::Connect);
        let connect = Connect {
            version: peer.version,
            bridge: false,
            clean_start: peer.clean_start,
            keep_alive: peer.keep_alive,
            properties: Properties::check(&raw, place, Sender::Client).unwrap_or(Properties::EMPTY),
            client_id: &peer.client_id,
            will: None,
            username: peer.username.as_deref(),
            password: None,
        };
        self.setting.decider.renew(&ConnectQuestion {
            peer,
            connect: &connect,
            packet: &Bytes::new(),
            refresh: true,
        })
    }

    /// The policy's answer.
    pub(super) fn refreshed(&mut self, ruling: Ruling, now: Instant) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        let Ruling { source, verdict } = ruling;
        let undecided = match verdict {
            Verdict::Connect(Decision::Allow(admission)) => {
                self.setting.meter.decisions(Hook::Connect, source, Outcome::Allowed, 1);
                return self.renewed(admission.map(|admission| *admission).unwrap_or_default(), now);
            }
            Verdict::Connect(Decision::Refuse(refusal)) => {
                self.setting.meter.decisions(Hook::Connect, source, Outcome::Refused, 1);
                return self.end(Fault::RenewalRefused { refusal: Box::new(refusal) }, now);
            }
            Verdict::Failed(failure) => Undecided::Failed(failure),
            Verdict::Unusable(unusable) => Undecided::Unusable(unusable),
            Verdict::Overloaded(overload) => Undecided::Overloaded(overload),
            Verdict::Publish(_) | Verdict::Subscribe(_) | Verdict::SubscribeAll(_) => {
                Unusable::other_question().into()
            }
        };
        self.not_refreshed(undecided, now);
    }

    fn not_refreshed(&mut self, undecided: Undecided, now: Instant) {
        // What follows from it is not this rule's to say: the old grant serves, and after it each packet has its own.
        let _ = self.resolve_undecided(Hook::Connect, undecided.clone());
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
