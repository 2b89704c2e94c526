//! What would be decided, in the words of a record.

use std::sync::Arc;

use mproxy_codec::ReasonCode;
use mproxy_core::policy::{Explanation, Foreseen, ForeseenDecision, Ground};
use mproxy_core::rule::Act;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::field_lengths::LONGEST_MESSAGE;
use super::entry::{DecisionEntry, cut};

/// What would be decided, and by what. What does not exist is absent.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ExplainedDecision {
    /// `allowed`, `refused`, `asked` (the hook service would be asked), or `unknown`.
    pub decision: &'static str,
    /// The same in a sentence.
    pub why: String,
    /// By what.
    #[serde(flatten)]
    by: ExplainedBy,
    /// The QoS that a subscription would be granted; absent for what is no subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_qos: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The reason string that the client would get.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason_string: Option<String>,
    age_ms: u64,
    /// Who is heard first and leaves it to others.
    passed: Vec<ExplainedBy>,
}

/// Who, by which rule.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
struct ExplainedBy {
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant_part: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
}

impl ExplainedBy {
    fn of(entry: &DecisionEntry) -> Self {
        let by = &entry.by;
        Self {
            source: by.source,
            rule_file: by.rule_file.as_deref().map(str::to_owned),
            rule: by.rule,
            line: by.line,
            grant_version: by.grant_version.as_deref().map(str::to_owned),
            grant_part: by.grant_part,
            endpoint: by.endpoint.as_deref().map(str::to_owned),
        }
    }
}

fn entry(outcome: &'static str, ground: &Ground, reason: Option<ReasonCode>) -> DecisionEntry {
    let mut entry = DecisionEntry { outcome, ..DecisionEntry::default() };
    entry.ground(ground);
    entry.reason_code = reason.map(|reason| reason.0);
    entry
}

impl ExplainedDecision {
    /// Of something that would be done so.
    #[must_use]
    pub fn of(explanation: &Explanation, act: Act) -> Self {
        let passed = explanation
            .passed
            .iter()
            .map(|ground| ExplainedBy::of(&entry("refused", ground, None)))
            .collect();
        match &explanation.outcome {
            Foreseen::Decides(ForeseenDecision { verdict, ground }) => {
                let decision = if verdict.is_ok() { "allowed" } else { "refused" };
                let mut entry = entry(decision, ground, verdict.err());
                entry.reason_string = explanation.text.as_deref().map(|text| cut(text, LONGEST_MESSAGE));
                Self {
                    decision,
                    why: entry.why(),
                    by: ExplainedBy::of(&entry),
                    max_qos: verdict.ok().filter(|_| act == Act::Subscribe).map(|qos| qos as u8),
                    reason_code: entry.reason_code,
                    reason: verdict.err().map(ReasonCode::name),
                    reason_string: entry.reason_string.as_deref().map(str::to_owned),
                    age_ms: entry.age_ms,
                    passed,
                }
            }
            Foreseen::Asks(endpoint) => Self::asked(endpoint.as_ref(), passed),
            // Of a chain there is none like this.
            Foreseen::Passes(..) => Self::asked(None, passed),
        }
    }
}

impl ExplainedDecision {
    fn asked(endpoint: Option<&Arc<str>>, passed: Vec<ExplainedBy>) -> Self {
        let why = match endpoint {
            Some(endpoint) => format!("the hook service at {endpoint} would be asked"),
            None => "the hook service would be asked, and no endpoint is healthy".to_owned(),
        };
        let endpoint = endpoint.map(ToString::to_string);
        Self {
            decision: "asked",
            why,
            by: ExplainedBy { source: "policy_service", endpoint, ..ExplainedBy::default() },
            max_qos: None,
            reason_code: None,
            reason: None,
            reason_string: None,
            age_ms: 0,
            passed,
        }
    }

    /// Whether the rule file decides, which nobody else can change.
    #[must_use]
    pub fn is_by_rule_file(&self) -> bool {
        self.by.source == "acl"
    }

    /// Of a client that is not connected, where it takes more to know.
    #[must_use]
    pub fn unknown(self) -> Self {
        let why = "the rule file does not decide it; what the client's grant says, and whether the hook service would be \
                   asked, is known when it connects";
        Self {
            decision: "unknown",
            why: why.to_owned(),
            max_qos: None,
            reason_code: None,
            reason: None,
            reason_string: None,
            ..self
        }
    }
}
