//! One record: what is kept of a decision. Whatever comes from outside is cut, so that a client with a name of 64 KiB takes
//! no more room than others.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use mproxy_codec::ReasonCode;
use mproxy_codec::types::Version;
use mproxy_core::command::DismissedBy;
use mproxy_core::fault::Fault;
use mproxy_core::grant::GrantGround;
use mproxy_core::peer::{Address, ConnectionId};
use mproxy_core::policy::{About, Action, Ground, Hook, Refusal, Source, Undecided};
use mproxy_core::record::{DecisionOutcome, DecisionRecord, DecisionSubject};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::super::field_lengths::{LONGEST_MESSAGE, LONGEST_VALUE};
use crate::timestamp::Timestamp;

/// The three outcomes.
pub(super) const REFUSED: &str = "refused";
pub(super) const ALLOWED: &str = "allowed";
pub(super) const CHANGED: &str = "changed";

/// Which outcomes are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutcomeFilter {
    /// What was refused.
    #[default]
    Refused,
    /// What was allowed, and is in the sample.
    Allowed,
    /// All.
    Any,
}

impl OutcomeFilter {
    /// `refused`, `allowed` or `any`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            REFUSED => Some(Self::Refused),
            ALLOWED => Some(Self::Allowed),
            "any" => Some(Self::Any),
            _ => None,
        }
    }
}

/// What is kept of a decision. What does not exist is absent.
#[derive(Clone, Debug)]
pub(in crate::telemetry) struct DecisionEntry {
    pub(super) time: SystemTime,
    /// `refused`, `allowed` or `changed`.
    pub(super) outcome: &'static str,
    pub(super) connection_id: ConnectionId,
    pub(super) listener: Arc<str>,
    pub(super) peer_addr: Option<Address>,
    pub(super) client_id: Option<Box<str>>,
    pub(super) username: Option<Box<str>>,
    pub(super) protocol: Option<Version>,
    pub(super) hook: Option<&'static str>,
    pub(super) packet: Option<&'static str>,
    pub(super) topic: Option<Box<str>>,
    pub(super) filter: Option<Box<str>>,
    pub(super) more_filters: usize,
    pub(super) qos: Option<u8>,
    pub(super) retain: Option<bool>,
    pub(super) by: DecidedBy,
    pub(super) reason_code: Option<u8>,
    pub(super) action: Option<&'static str>,
    /// What the service said to the client.
    pub(super) reason_string: Option<Box<str>>,
    pub(super) detail: Option<Box<str>>,
    pub(super) age_ms: u64,
}

/// Who decided.
#[derive(Clone, Debug, Default)]
pub(super) struct DecidedBy {
    pub(super) source: &'static str,
    /// What of a CONNECT was refused.
    pub(super) about: Option<&'static str>,
    pub(super) rule_file: Option<Arc<str>>,
    pub(super) rule: Option<u32>,
    pub(super) line: Option<u32>,
    pub(super) grant_version: Option<Box<str>>,
    /// What of a grant refused, where that was no rule.
    pub(super) grant_part: Option<&'static str>,
    pub(super) endpoint: Option<Arc<str>>,
    /// The limit of mproxy's own.
    pub(super) limit: Option<&'static str>,
    /// How an answer failed, or what is wrong with it.
    pub(super) kind: Option<&'static str>,
    /// Why the connection ended, as in the log.
    pub(super) cause: Option<&'static str>,
}

impl Default for DecisionEntry {
    fn default() -> Self {
        Self {
            time: SystemTime::UNIX_EPOCH,
            outcome: REFUSED,
            connection_id: ConnectionId(0),
            listener: Arc::from(""),
            peer_addr: None,
            client_id: None,
            username: None,
            protocol: None,
            hook: None,
            packet: None,
            topic: None,
            filter: None,
            more_filters: 0,
            qos: None,
            retain: None,
            by: DecidedBy::default(),
            reason_code: None,
            action: None,
            reason_string: None,
            detail: None,
            age_ms: 0,
        }
    }
}

/// No more than so many bytes of it, with a mark where it was cut.
pub(in crate::telemetry) fn cut(text: &str, most: usize) -> Box<str> {
    const MARK: char = '…';
    if text.len() <= most {
        return text.into();
    }
    let mut kept = text[..text.floor_char_boundary(most)].to_owned();
    kept.push(MARK);
    kept.into()
}

fn name(text: &str) -> Option<Box<str>> {
    Some(cut(text, LONGEST_VALUE))
}

impl DecisionEntry {
    pub(in crate::telemetry) fn of(decision: &DecisionRecord<'_>) -> Self {
        let DecisionRecord { origin, peer, subject, outcome } = *decision;
        let mut entry = Self {
            time: SystemTime::now(),
            connection_id: origin.connection_id,
            listener: Arc::clone(&origin.listener),
            peer_addr: Some(origin.remote.clone()),
            client_id: peer.and_then(|peer| name(&peer.client_id)),
            username: peer.and_then(|peer| name(peer.shown_username()?)),
            protocol: peer.map(|peer| peer.version),
            ..Self::default()
        };
        match subject {
            DecisionSubject::Connection { will } => entry.topic = will.and_then(name),
            DecisionSubject::Message { hook, topic, qos, retain } => {
                entry.hook = Some(hook.name());
                entry.topic = name(topic);
                (entry.qos, entry.retain) = (Some(qos as u8), Some(retain));
            }
            DecisionSubject::Filter { filter, qos, more } => {
                entry.hook = Some(Hook::Subscribe.name());
                (entry.filter, entry.more_filters) = (name(filter), more);
                entry.qos = Some(qos as u8);
            }
            DecisionSubject::Packet(packet) => entry.packet = Some(packet.name()),
        }
        match outcome {
            DecisionOutcome::Refused(refusal) => entry.refused(refusal),
            DecisionOutcome::Undecided(undecided) => {
                entry.action = Some(entry.carried_out(Action::Reject));
                entry.undecided(undecided);
            }
            DecisionOutcome::Ended { fault, hook, ground } => entry.ended(fault, hook, ground),
            DecisionOutcome::Allowed { hook, ground, endpoint, changed } => {
                entry.outcome = if changed { CHANGED } else { ALLOWED };
                entry.hook = Some(hook.name());
                entry.ground(ground);
                if let Some(endpoint) = endpoint {
                    entry.by.endpoint = Some(Arc::clone(endpoint));
                }
            }
        }
        entry
    }

    /// What becomes of a packet of this hook for which this was said.
    fn carried_out(&self, action: Action) -> &'static str {
        let hook = Hook::ALL.into_iter().find(|hook| self.hook == Some(hook.name()));
        hook.map_or(action, |hook| action.carried_out(hook)).name()
    }

    fn refused(&mut self, refusal: &Refusal) {
        self.by.about = (refusal.about != About::Unsaid).then(|| refusal.about.name());
        self.reason_string = refusal.text.as_deref().map(|text| cut(text, LONGEST_MESSAGE));
        self.ground(&refusal.ground);
        self.reason_code = Some(refusal.reason.0);
        self.action = Some(self.carried_out(refusal.action));
    }

    fn undecided(&mut self, undecided: &Undecided) {
        let by = &mut self.by;
        by.source = undecided.source().name();
        by.endpoint = undecided.endpoint().cloned();
        let detail = match undecided {
            Undecided::Failed(failure) => {
                by.kind = Some(failure.kind.name());
                &failure.detail
            }
            Undecided::Unusable(unusable) => {
                by.kind = Some(unusable.kind.name());
                &unusable.detail
            }
            Undecided::Overloaded(overload) => {
                by.limit = Some(overload.limit);
                &overload.detail
            }
        };
        self.reason_code = Some(undecided.reason().0);
        self.detail = Some(cut(detail, LONGEST_MESSAGE));
    }

    /// The connection ends. What refused it is told as of a packet.
    fn ended(&mut self, fault: &Fault, hook: Option<Hook>, ground: Option<&Ground>) {
        self.hook = hook.map(Hook::name);
        match fault {
            Fault::Refused { hook, refusal } => {
                self.hook = Some(hook.name());
                self.refused(refusal);
            }
            Fault::RenewalRefused { refusal } => {
                self.hook = Some(Hook::Connect.name());
                self.refused(refusal);
                self.action = Some(Action::Disconnect.name());
            }
            Fault::PolicyFailed { hook, failure } => {
                self.hook = Some(hook.name());
                self.undecided(&Undecided::Failed((**failure).clone()));
            }
            Fault::PolicyUnusable { hook, unusable } => {
                self.hook = Some(hook.name());
                self.undecided(&Undecided::Unusable((**unusable).clone()));
            }
            Fault::Overloaded { hook, overload } => {
                self.hook = Some(hook.name());
                self.undecided(&Undecided::Overloaded((**overload).clone()));
            }
            Fault::Kicked { dismissal: Some(dismissal), .. }
                if matches!(dismissal.by, DismissedBy::PolicyService) =>
            {
                self.by.source = fault.refused_by().unwrap_or("unspecified");
                self.reason_string = dismissal.text.as_deref().map(|text| cut(text, LONGEST_MESSAGE));
                self.by.endpoint = dismissal.endpoint.clone();
                self.detail = dismissal.detail.as_deref().map(|text| cut(text, LONGEST_MESSAGE));
            }
            _ => {
                if let Fault::RateExceeded { limit: Some(limit), .. } = fault {
                    self.by.limit = Some(limit.name());
                }
                self.by.source = fault.refused_by().unwrap_or("unspecified");
                self.detail = Some(cut(&fault.to_string(), LONGEST_MESSAGE));
            }
        }
        if let Some(ground) = ground {
            self.ground(ground);
        }
        self.by.cause = Some(fault.label());
        self.action.get_or_insert(Action::Disconnect.name());
        self.reason_code = Some(match fault {
            Fault::BrokerRefused { code } => self.code_of_connack(*code).0,
            fault => fault.reason().0,
        });
    }

    /// The code of the broker's CONNACK, which the client is sent, in words of 5.0.
    fn code_of_connack(&self, code: u8) -> ReasonCode {
        match (self.protocol, code) {
            (None | Some(Version::V5), code) => ReasonCode(code),
            (_, 1) => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            (_, 2) => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            (_, 3) => ReasonCode::SERVER_UNAVAILABLE,
            (_, 4) => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
            _ => ReasonCode::NOT_AUTHORIZED,
        }
    }

    /// By what it was refused, and for how long that has held.
    pub(super) fn ground(&mut self, ground: &Ground) {
        self.by.source = ground.source_name();
        let since = ground.since();
        self.age_ms = since.map_or(0, |since| {
            u64::try_from(Instant::now().saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX)
        });
        let by = &mut self.by;
        match ground {
            Ground::RuleFile(file, rule) => {
                by.rule_file = Some(Arc::clone(&file.name));
                by.rule = *rule;
                by.line = rule.and_then(|rule| file.lines.get(rule as usize).copied());
            }
            Ground::Grant(grant, part) => {
                by.endpoint = grant.endpoint.clone();
                by.grant_version = (!grant.version.is_empty()).then(|| cut(&grant.version, LONGEST_VALUE));
                match part {
                    GrantGround::Rule(rule) => {
                        by.rule = Some(*rule);
                        if let Some(file) = &grant.rule_file {
                            by.rule_file = Some(Arc::clone(&file.name));
                            by.line = file.lines.get(*rule as usize).copied();
                        }
                    }
                    part => by.grant_part = Some(part.name()),
                }
            }
            Ground::Service(answer) | Ground::Cache(answer) => {
                by.endpoint = Some(Arc::clone(&answer.endpoint));
            }
            Ground::Ban(reason) => self.detail = Some(cut(reason, LONGEST_MESSAGE)),
            Ground::Undecided(undecided) => self.undecided(undecided),
            Ground::Source(Source::Rate) => by.limit = Some("rate"),
            Ground::Limit(kind) => by.limit = Some(kind.name()),
            Ground::Unsaid | Ground::Source(_) => {}
        }
    }

    /// Whether it was allowed, with changes or without.
    pub(super) fn is_allowed(&self) -> bool {
        self.outcome != REFUSED
    }

    /// Bytes that it holds.
    pub(super) fn weight(&self) -> usize {
        let texts = [
            &self.client_id,
            &self.username,
            &self.topic,
            &self.filter,
            &self.by.grant_version,
            &self.reason_string,
            &self.detail,
        ];
        let text: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
        // With the counts of its Arc, and its place in the ring.
        size_of::<Self>() + 3 * size_of::<usize>() + text
    }
}

impl Serialize for DecisionEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        macro_rules! fields {
            ($($name:literal: $value:expr,)+) => {$(
                if let Some(value) = $value {
                    map.serialize_entry($name, &value)?;
                }
            )+};
        }
        let by = &self.by;
        fields! {
            "time": Some(Timestamp(self.time)),
            "outcome": Some(self.outcome),
            "why": Some(self.why()),
            "connection_id": Some(self.connection_id.to_string()),
            "client_id": self.client_id.as_deref(),
            "username": self.username.as_deref(),
            "listener": Some(&*self.listener),
            "peer_addr": self.peer_addr.as_ref().map(ToString::to_string),
            "protocol": self.protocol.map(|version| version.to_string()),
            "hook": self.hook,
            "packet": self.packet,
            "topic": self.topic.as_deref(),
            "filter": self.filter.as_deref(),
            "more_filters": (self.more_filters > 0).then_some(self.more_filters),
            "qos": self.qos,
            "retain": self.retain,
            "source": Some(by.source),
            "about": by.about,
            "rule_file": by.rule_file.as_deref(),
            "rule": by.rule,
            "line": by.line,
            "grant_version": by.grant_version.as_deref(),
            "grant_part": by.grant_part,
            "endpoint": by.endpoint.as_deref(),
            "limit": by.limit,
            "kind": by.kind,
            "cause": by.cause,
            "action": self.action,
            "reason_code": self.reason_code,
            "reason": self.reason_code.map(|code| ReasonCode(code).name()),
            "reason_string": self.reason_string.as_deref(),
            "detail": self.detail.as_deref(),
            "age_ms": Some(self.age_ms),
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;
