//! The sentence that answers "why?": made of what a record says, for people.

use std::fmt::Write as _;

use mproxy_codec::ReasonCode;

use super::entry::DecisionEntry;

impl DecisionEntry {
    /// Who decided, and by what, as a person would say it.
    pub(super) fn why(&self) -> String {
        let verb = match self.outcome {
            "refused" => "refused",
            _ => "allowed",
        };
        let mut text = match self.by.source {
            "acl" => self.why_rule_file(verb),
            "grant" => self.why_grant(verb),
            // Nothing was asked, and so nothing refused.
            "policy_service" if self.by.cause == Some("kicked") => match &self.by.endpoint {
                Some(endpoint) => format!("disconnected by a command of the hook service at {endpoint}"),
                None => "disconnected by a command of the hook service".to_owned(),
            },
            "policy_service" => match &self.by.endpoint {
                Some(endpoint) => format!("{verb} by the hook service at {endpoint}"),
                None => format!("{verb} by the hook service"),
            },
            "cache" => format!(
                "{verb} by an earlier answer of the hook service{}, which it lets be used again",
                self.by.endpoint.as_ref().map_or_else(String::new, |endpoint| format!(" at {endpoint}"))
            ),
            "default_allow" => {
                "allowed because neither a rule file nor a hook service is asked about it".to_owned()
            }
            "default_deny" => {
                "refused because no rule matches, and no hook service is asked about it".to_owned()
            }
            "failed_open" => "allowed by the failure rule: the hook service's answer failed".to_owned(),
            // The failure rule does not speak of it: without an answer nobody has authenticated.
            "failed_closed" if self.hook == Some("exchange") => {
                "refused because the hook service's answer failed, and without it nobody has authenticated"
                    .to_owned()
            }
            "failed_closed" => "refused by the failure rule: the hook service's answer failed".to_owned(),
            "unusable" => "refused because the hook service's answer cannot be carried out".to_owned(),
            "overloaded" => "refused because a limit of mproxy prevented an answer".to_owned(),
            "budget" => "refused because it exceeds a memory budget".to_owned(),
            "rate" => "refused because the client sends faster than its grant allows".to_owned(),
            "ban" => "refused by a ban of an administrator's".to_owned(),
            "limit" if self.by.limit == Some("flapping") => {
                "refused because the client has connected too often in a short time".to_owned()
            }
            "limit" if self.by.limit == Some("login_backoff") => {
                "refused because logins of this user name from this address failed before, and the next has to wait"
                    .to_owned()
            }
            "limit" if self.by.limit == Some("watermark") => {
                "refused because descriptors or memory have reached the first watermark: GET /api/v1/protection says which; more of \
                 it, or a higher descriptors_refuse or memory_refuse, lets others in"
                    .to_owned()
            }
            "limit" => match self.by.limit {
                Some("topic_length") => "refused because the topic is longer than max_topic_length",
                Some("topic_levels") => "refused because the topic has more levels than max_topic_levels",
                Some("client_rate") => "refused because the client sends faster than clients may",
                Some("user_rate") => "refused because clients of its user name send faster than they may together",
                Some("listener_rate") => "refused because clients of its listener send faster than they may together",
                Some("subscriptions") => "refused because the client has max_subscriptions subscriptions",
                Some("keep_alive") => "refused because the keep alive is over max_keep_alive",
                _ => "refused by a limit for all clients",
            }
            .to_owned(),
            "protocol" => "disconnected because of what the client sent".to_owned(),
            "broker" => "ended by the broker".to_owned(),
            "administrator" => "disconnected by an administrator".to_owned(),
            other => format!("{verb} by {other}"),
        };
        if let Some(kind) = self.by.kind.or(self.by.limit) {
            // Writing to a String cannot fail.
            let _ = write!(text, " ({kind})");
        }
        for said in [&self.detail, &self.reason_string].into_iter().flatten() {
            // What an administrator did says so itself.
            if said.starts_with(&text) {
                text.clear();
                text.push_str(said);
                continue;
            }
            let _ = write!(text, ": {said}");
        }
        text
    }

    fn why_rule_file(&self, verb: &str) -> String {
        let by = &self.by;
        let file = by.rule_file.as_deref().unwrap_or("the rule file");
        let Some(rule) = by.rule else {
            return match by.about {
                Some("username") => format!("{verb} by {file}: no user name, or one that it does not know"),
                Some("password") => format!("{verb} by {file}: wrong password"),
                Some("client_id") => format!("{verb} by {file}: client_ids does not allow this client id"),
                Some("will") => format!("{verb} by {file}: no rule matches the will"),
                _ => format!("{verb} by {file}"),
            };
        };
        let line = by.line.map_or_else(String::new, |line| format!(":{line}"));
        format!("{verb} by rules[{rule}] ({file}{line}){}", self.bound())
    }

    fn why_grant(&self, verb: &str) -> String {
        let by = &self.by;
        let version = by.grant_version.as_ref().map_or_else(String::new, |version| format!(" {version:?}"));
        let part = match (by.rule, by.grant_part) {
            (Some(rule), _) => return format!("{verb} by rules[{rule}] of grant{version}{}", self.bound()),
            (None, Some("default")) if verb == "allowed" => "no rule matches, and its default allows it",
            (None, Some("default")) => "no rule matches, and its default does not allow it",
            (None, Some("unanswered")) => "it says to ask the hook service, which does not want to be asked",
            (None, Some("prefix")) => "it has no place under the grant's prefix",
            (None, Some("rewrite")) => "its rewrites leave no place for it",
            (None, Some("expired")) => return format!("disconnected: grant{version} has expired"),
            (None, Some("revoked")) => "no subscription that it still allows explains the delivery",
            (None, Some("subscriptions")) => "its limit on subscriptions is reached",
            (None, _) => return format!("{verb} by grant{version}"),
        };
        format!("{verb} by grant{version}: {part}")
    }

    /// What an allowing rule does not allow.
    fn bound(&self) -> &'static str {
        match self.reason_code.map(ReasonCode) {
            Some(ReasonCode::QOS_NOT_SUPPORTED) => ": its max_qos is lower",
            Some(ReasonCode::RETAIN_NOT_SUPPORTED) => ": it does not allow retained messages",
            // No other bound of a rule has this code.
            Some(ReasonCode::QUOTA_EXCEEDED) => ": its max_payload is lower",
            _ => "",
        }
    }
}
