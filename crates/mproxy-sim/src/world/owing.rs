//! What is decided, and what the session owes for it: answers that must arrive some time, and permits for what may reach
//! the broker.

use std::sync::Arc;

use mproxy_codec::{PacketType, QoS, ReasonCode, Version};
use mproxy_core::Side;
use mproxy_core::grant::{Grant, GrantLimits, Mapping};
use mproxy_core::policy::{Action, Admission, Decision, FilterChange, Hook, OnError};
use mproxy_core::rule::RuleEffect;

use super::World;
use crate::book::CONNECT;
use crate::model::{CACHED, ModelPublish, ack, suback};
use crate::path::{all_refused, id_of};
use crate::verdict::Verdict;

impl World {
    /// One of the open questions is answered.
    pub(super) fn decide(&mut self) {
        let heard = self.stage.session.phase_name() == "admitting";
        let (n, verdict) = {
            let mut book = self.book();
            if book.open.is_empty() {
                return;
            }
            let at = {
                let len = book.open.len();
                book.rng.below(len)
            };
            let (n, key) = book.open.swap_remove(at);
            let verdict = match &*key {
                CONNECT => book.connect(),
                _ => {
                    let verdict = book.verdicts[&key].0.clone();
                    book.answer(key);
                    verdict
                }
            };
            if !heard {
                // It has been waited for long enough.
                book.connects_said.clear();
            }
            (n, verdict)
        };
        // Before the session is told: what it says because of this verdict is looked for among what it owes.
        self.owe();
        let again = heard && matches!(verdict, Verdict::Failed(_) | Verdict::Overloaded(_));
        self.stage.rule(n, verdict);
        if again {
            // It has had its answer: another one to the same question counts for nothing.
            self.stage.allow_again(n);
        }
    }

    /// Refusals that were told make the session owe answers.
    pub(super) fn owe(&mut self) {
        let open = self.on_error.connect == OnError::Allow;
        let said = std::mem::take(&mut self.book().connects_said);
        for verdict in said {
            self.permits.connect(&verdict, open);
            self.entrance.note_verdict(&verdict, open);
        }
        let each = std::mem::take(&mut self.book().each);
        for topic in each {
            self.permits.publish(&topic, self.prefix, &Verdict::allow(Hook::Publish), false);
        }
        loop {
            let Some(key) = self.book().fresh.pop_front() else { return };
            let version = self.client.version;
            self.permit(&key);
            if let Some((id, qos, outcome)) = self.subscribed.get(&key) {
                if all_refused(outcome) {
                    let codes = merged_codes(version, qos, outcome);
                    let answer = suback(version, id_of(*id), &codes);
                    self.down.owed.push(answer);
                }
            } else if let Some(message) = self.published.get(&key).cloned() {
                self.owe_publish(&message);
            }
        }
    }

    /// Somebody has answered the question of this key.
    fn permit(&mut self, key: &str) {
        if key.starts_with(CACHED) {
            self.permits.cached(key);
        }
        let Some((verdict, _)) = self.book().verdicts.get(key).cloned() else { return };
        if let Some(filters) = self.filters.get(key) {
            let open = self.on_error.subscribe == OnError::Allow;
            self.permits.subscribe(filters, self.prefix, &verdict, open);
        } else if let Some(message) = self.published.get(key).filter(|_| key.starts_with('u')) {
            let open = self.on_error.publish == OnError::Allow;
            self.permits.publish(&message.topic, self.prefix, &verdict, open);
        }
    }

    pub(super) fn owe_publish(&mut self, message: &ModelPublish) {
        let version = self.client.version;
        let from = if message.key.starts_with('u') { Side::Client } else { Side::Broker };
        let Err(refusal) = message.fate.outcome(self.path_from(from).open) else { return };
        if refusal.action == Action::Disconnect {
            self.ending = true;
            self.must_arrive = None;
            self.answers = false;
            return;
        }
        let Some(id) = message.id else { return };
        let reason = match (refusal.action, from) {
            // Never acknowledged, on purpose: the packet id stays in use on the client's side for good.
            (Action::NoAck, Side::Client) => return,
            (Action::Reject, Side::Client) if version.is_v5() => refusal.reason,
            _ => ReasonCode::SUCCESS,
        };
        let kind = if message.qos == QoS::AtLeastOnce { PacketType::Puback } else { PacketType::Pubrec };
        let answer = ack(version, kind, id.get(), reason);
        self.path_to(from).owed.push(answer);
        let model = if from == Side::Client { &mut self.client } else { &mut self.broker };
        if let Some(flight) = model.flights.get_mut(&id.get()) {
            // A PUBREC with an error ends the flow; after one without comes PUBREL [MQTT-4.3.3-4], for the session to answer.
            flight.ours = !reason.is_error();
        }
    }
}

/// Yes, with a grant that puts the client's topics behind this prefix, unless that is empty, and has these limits.
pub(super) fn admission(prefix: &str, limits: GrantLimits) -> Verdict {
    let mut grant = Grant::new(Vec::new(), RuleEffect::Ask);
    grant.mapping = (!prefix.is_empty()).then(|| Mapping::new(prefix).expect("it is a prefix"));
    grant.limits = limits;
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    Verdict::Connect(Decision::Allow(Some(Box::new(admission))))
}

/// The codes that a client must get, if the broker grants what it is asked for.
pub(super) fn merged_codes(version: Version, qos: &[QoS], outcome: &[Decision<FilterChange>]) -> Vec<u8> {
    qos.iter()
        .zip(outcome)
        .map(|(qos, one)| match one {
            // The model's broker grants what reaches it, so the lowered QoS is what comes back.
            Decision::Allow(change) => change.max_qos.map_or(*qos, |most| most.min(*qos)) as u8,
            Decision::Refuse(refusal) if version.is_v5() => refusal.reason.0,
            Decision::Refuse(_) => 0x80,
        })
        .collect()
}
