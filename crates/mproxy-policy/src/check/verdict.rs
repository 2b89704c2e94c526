//! What an answer means, in words: what becomes of the packet.

use std::time::Duration;

use mproxy_codec::types::QoS;
use mproxy_core::grant::Grant;
use mproxy_core::policy::{
    Action, Admission, Authenticated, ConnectDecision, Decision, ExchangeDecision, ExchangeStep,
    FilterChange, PublishChange, PublishDecision, Refusal, SubscribeDecision, Undecided, WillChange,
};

use super::report::{CheckedAnswer, CheckedFilter, CheckedResult};

/// Characters of a text of the service's that are shown.
const SHOWN: usize = 60;

/// What mproxy makes of an answer.
pub(super) struct Described {
    pub(super) result: CheckedResult,
    code: Option<u8>,
    /// What it changes, or how it refuses.
    details: Vec<String>,
    filters: Vec<CheckedFilter>,
}

impl Described {
    fn allow(details: Vec<String>) -> Self {
        Self { result: CheckedResult::Allow, code: None, details, filters: Vec::new() }
    }

    fn deny(refusal: &Refusal) -> Self {
        let (code, details) = refused(refusal);
        Self { result: CheckedResult::Deny, code: Some(code), details, filters: Vec::new() }
    }

    /// What went wrong, in one line.
    pub(super) fn summary(&self, call: &str) -> String {
        format!("{call}: {} answer: {}", self.result.name(), self.details.join(", "))
    }

    pub(super) fn into_answer(self, call: &'static str, question: String, took: Duration) -> CheckedAnswer {
        let Self { result, code, details, filters } = self;
        CheckedAnswer {
            reason_code: code,
            details,
            filters,
            ..CheckedAnswer::new(call, question, result, took)
        }
    }
}

/// Why there is no decision.
pub(super) fn undecided(call: &str, undecided: &Undecided) -> Described {
    let (result, kind, detail) = match undecided {
        Undecided::Failed(failure) => (CheckedResult::Failed, failure.kind.name(), &failure.detail),
        Undecided::Unusable(unusable) => (CheckedResult::Unusable, unusable.kind.name(), &unusable.detail),
        Undecided::Overloaded(overload) => (CheckedResult::Failed, overload.limit, &overload.detail),
    };
    // Details of failures begin with the call, which stands before them in a report anyway.
    let detail = detail.strip_prefix(call).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(detail);
    Described {
        result,
        // What the failure rule says is the operator's, and not known here.
        code: match undecided {
            Undecided::Unusable(unusable) => Some(unusable.reason.0),
            Undecided::Failed(_) | Undecided::Overloaded(_) => None,
        },
        details: vec![format!("{kind}: {detail}")],
        filters: Vec::new(),
    }
}

pub(super) fn connect(decision: &ConnectDecision) -> Described {
    match decision {
        Decision::Refuse(refusal) => Described::deny(refusal),
        Decision::Allow(None) => Described::allow(Vec::new()),
        Decision::Allow(Some(admission)) => Described::allow(admitted(admission)),
    }
}

pub(super) fn message(decision: &PublishDecision) -> Described {
    match decision {
        Decision::Refuse(refusal) => Described::deny(refusal),
        Decision::Allow(None) => Described::allow(Vec::new()),
        Decision::Allow(Some(change)) => Described::allow(changed(change)),
    }
}

pub(super) fn exchange(decision: &ExchangeDecision) -> Described {
    match decision {
        Decision::Refuse(refusal) => Described::deny(refusal),
        Decision::Allow(ExchangeStep::Continue { data }) => {
            let mut details = vec!["AUTH 0x18 to the client".to_owned()];
            details.extend(data.as_ref().map(|data| format!("data of {} bytes", data.len())));
            Described::allow(details)
        }
        Decision::Allow(ExchangeStep::Success(success)) => {
            let Authenticated { data, text, attributes, grant } = &**success;
            let mut details = vec!["authenticated".to_owned()];
            details.extend(data.as_ref().map(|data| format!("data of {} bytes", data.len())));
            details.extend(text.as_deref().map(shown));
            details.extend(attributes.iter().flat_map(|attributes| attribute_words(attributes)));
            details.extend(grant.as_deref().map(grant_in_words));
            Described::allow(details)
        }
    }
}

/// `filters`: those that were asked about.
pub(super) fn subscribe(decision: &SubscribeDecision, filters: &[String]) -> Described {
    let each = match decision {
        SubscribeDecision::All(Decision::Allow(())) => return Described::allow(Vec::new()),
        SubscribeDecision::All(Decision::Refuse(refusal)) => return Described::deny(refusal),
        SubscribeDecision::Each(each) | SubscribeDecision::InPart(each, _) => each,
    };
    // Of a single filter there is nothing to list.
    if let ([Decision::Refuse(refusal)], [_]) = (&**each, filters) {
        return Described::deny(refusal);
    }
    if let ([Decision::Allow(change)], [_]) = (&**each, filters) {
        return Described::allow(granted(change));
    }
    let judged: Vec<_> = filters
        .iter()
        .zip(each)
        .map(|(filter, decision)| match decision {
            Decision::Refuse(refusal) => {
                let (code, details) = refused(refusal);
                CheckedFilter {
                    filter: shown(filter),
                    result: CheckedResult::Deny,
                    reason_code: Some(code),
                    details,
                }
            }
            Decision::Allow(change) => CheckedFilter {
                filter: shown(filter),
                result: CheckedResult::Allow,
                reason_code: None,
                details: granted(change),
            },
        })
        .collect();
    let denied = judged.iter().filter(|filter| filter.result == CheckedResult::Deny).count();
    let result = match denied {
        0 => CheckedResult::Allow,
        count if count == judged.len() => CheckedResult::Deny,
        _ => CheckedResult::Mixed,
    };
    let details = match result {
        CheckedResult::Mixed => vec![format!("{denied} of {} filters denied", judged.len())],
        _ => Vec::new(),
    };
    Described { result, code: None, details, filters: judged }
}

/// The code of a refusal, and what else there is to it.
fn refused(refusal: &Refusal) -> (u8, Vec<String>) {
    let mut details = vec![refusal.reason.to_string()];
    match refusal.action {
        Action::Reject => {}
        Action::Drop => details.push("DROP".to_owned()),
        Action::Disconnect => details.push("DISCONNECT".to_owned()),
        Action::NoAck => details.push("NO_ACK".to_owned()),
    }
    details.extend(refusal.text.as_deref().map(shown));
    details.extend(refusal.server_reference.as_deref().map(|other| format!("use {}", shown(other))));
    details.extend(refusal.cache_for.map(|time| format!("used again for {time:?}")));
    (refusal.reason.0, details)
}

fn admitted(admission: &Admission) -> Vec<String> {
    let Admission {
        client_id,
        username,
        password,
        will,
        attributes,
        grant,
        broker_login: _,
        authenticated: _,
        broker_client_id: _,
    } = admission;
    let mut details = Vec::new();
    details.extend(client_id.as_deref().map(|id| format!("client id becomes {}", shown(id))));
    details.extend(username.as_deref().map(|name| match name {
        "" => "user name removed".to_owned(),
        name => format!("user name becomes {}", shown(name)),
    }));
    details.extend(password.as_ref().map(|password| {
        if password.is_empty() { "password removed" } else { "password replaced" }.to_owned()
    }));
    details.extend(will.as_ref().map(|change| {
        if *change == WillChange::Remove { "will removed" } else { "will changed" }.to_owned()
    }));
    details.extend(attribute_words(attributes));
    details.extend(grant.as_deref().map(grant_in_words));
    details
}

fn attribute_words(attributes: &[(String, String)]) -> impl Iterator<Item = String> {
    attributes.iter().map(|(name, value)| format!("attribute {}={}", shown(name), shown(value)))
}

fn grant_in_words(grant: &Grant) -> String {
    let mut text = format!("grant with {} topic filters", grant.patterns());
    if !grant.version.is_empty() {
        text.push_str(&format!(", version {}", shown(&grant.version)));
    }
    if let Some(ttl) = grant.ttl {
        text.push_str(&format!(", renewed every {ttl:?}"));
    }
    if grant.expires_at.is_some() {
        text.push_str(", expires");
    }
    if grant.mapping.is_some() {
        text.push_str(", topics mapped");
    }
    if grant.receives() {
        text.push_str(", deliveries judged");
    }
    text
}

fn changed(change: &PublishChange) -> Vec<String> {
    let PublishChange { topic, payload, retain, set_user_properties, remove_user_properties, cache_for } =
        change;
    let mut details = Vec::new();
    details.extend(topic.as_deref().map(|topic| format!("topic becomes {}", shown(topic))));
    details.extend(payload.as_ref().map(|payload| format!("payload of {} bytes instead", payload.len())));
    details.extend(retain.map(|retain| format!("RETAIN becomes {}", u8::from(retain))));
    details.extend(set_user_properties.iter().map(|(name, _)| format!("user property {} set", shown(name))));
    details
        .extend(remove_user_properties.iter().map(|name| format!("user property {} removed", shown(name))));
    details.extend(cache_for.map(|time| format!("used again for {time:?}")));
    details
}

fn granted(change: &FilterChange) -> Vec<String> {
    let mut details = Vec::new();
    details.extend(change.filter.as_deref().map(|filter| format!("filter becomes {}", shown(filter))));
    details.extend(change.max_qos.map(|most: QoS| format!("QoS {} at most", most as u8)));
    details.extend(change.cache_for.map(|time| format!("used again for {time:?}")));
    details
}

/// In quotes, and not endlessly long.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}
