//! Grants, as core understands them. A grant that cannot be understood whole makes the answer that it came in a failed
//! one: half of what somebody may do is not what was meant.

use std::sync::Once;
use std::time::{Duration, Instant, SystemTime};

use mproxy_codec::types::QoS;
use mproxy_core::grant::{Grant, GrantLimits, Mapping};
use mproxy_core::rule::{Act, Actions, Effect, Pattern, Retain, Rule};
use tracing::warn;

use super::verdict::{Read, invalid, qos, unset};
use super::wire;

/// More rules than this are a mistake; each packet is held against them in turn.
const RULES: usize = 4096;

/// A hundred years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) fn grant(grant: wire::Grant) -> Read<Grant> {
    if grant.rules.len() > RULES {
        return Err(invalid(format!("a grant of {} rules; {RULES} are served", grant.rules.len())));
    }
    let rules = grant.rules.into_iter().map(rule).collect::<Read<_>>()?;
    let default = grant.default_effect.map_or(Ok(Effect::Ask), |number| effect("default_effect", number))?;
    let limits = grant.limits.map(limits).transpose()?.unwrap_or_default();
    let mapping = grant.mapping.map(|mapping| self::mapping(&mapping)).transpose()?;
    let expires_at = grant.expires_at.map(expiry).transpose()?.flatten();
    let ttl = grant.ttl.map(ttl).transpose()?;
    let mut read = Grant::new(rules, default);
    read.version = grant.version.into();
    (read.limits, read.mapping, read.expires_at, read.ttl) = (limits, mapping, expires_at, ttl);
    Ok(read)
}

fn rule(rule: wire::GrantRule) -> Read<Rule> {
    let effect = effect("rule", rule.effect)?;
    if effect != Effect::Allow && (rule.max_qos.is_some() || rule.retain.is_some()) {
        return Err(invalid("a rule of a grant bounds what it does not allow"));
    }
    let topics = match rule.topic_filters.is_empty() {
        true => [pattern("#")?].into(),
        false => rule.topic_filters.iter().map(|text| pattern(text)).collect::<Read<_>>()?,
    };
    Ok(Rule {
        effect,
        actions: actions(&rule.actions)?,
        topics,
        max_qos: rule.max_qos.map_or(Ok(QoS::ExactlyOnce), qos)?,
        retain: if rule.retain == Some(false) { Retain::Refused } else { Retain::Allowed },
    })
}

fn effect(what: &str, number: i32) -> Read<Effect> {
    match wire::Effect::try_from(number) {
        Ok(wire::Effect::Allow) => Ok(Effect::Allow),
        Ok(wire::Effect::Deny) => Ok(Effect::Deny),
        Ok(wire::Effect::Ask) => Ok(Effect::Ask),
        Ok(wire::Effect::Unspecified) => Err(unset(&format!("Grant.{what}"))),
        Err(error) => Err(invalid(format!("Grant.{what}: {error}"))),
    }
}

fn actions(numbers: &[i32]) -> Read<Actions> {
    if numbers.is_empty() {
        return Ok(Actions::ALL);
    }
    numbers.iter().try_fold(Actions::NONE, |actions, number| match wire::GrantAction::try_from(*number) {
        Ok(wire::GrantAction::Publish) => Ok(actions.with(Act::Publish)),
        Ok(wire::GrantAction::Subscribe) => Ok(actions.with(Act::Subscribe)),
        Ok(wire::GrantAction::Receive) => Ok(actions.with(Act::Receive)),
        Ok(wire::GrantAction::Will) => Ok(actions.with(Act::Will)),
        Ok(wire::GrantAction::Unspecified) => Err(unset("GrantRule.actions")),
        Err(error) => Err(invalid(format!("GrantRule.actions: {error}"))),
    })
}

fn pattern(text: &str) -> Read<Pattern> {
    Pattern::parse(text).map_err(|error| invalid(format!("a rule of a grant on {text:?}: {error}")))
}

fn limits(limits: wire::GrantLimits) -> Read<GrantLimits> {
    static RATES_IGNORED: Once = Once::new();
    if limits.messages_per_second.is_some() || limits.bytes_per_second.is_some() {
        RATES_IGNORED.call_once(|| {
            warn!("a grant limits messages or bytes per second; this version does not serve such limits");
        });
    }
    if limits.packet_size == Some(0) {
        return Err(invalid("a grant allows packets of no bytes"));
    }
    Ok(GrantLimits { packet_size: limits.packet_size, subscriptions: limits.subscriptions })
}

fn mapping(mapping: &wire::TopicMapping) -> Read<Mapping> {
    let prefix = &mapping.prefix;
    Mapping::new(prefix).map_err(|error| invalid(format!("the prefix {prefix:?} of a grant {error}")))
}

/// By our own clock; `None`: further away than a connection lasts. What has passed already ends at once.
fn expiry(at: prost_types::Timestamp) -> Read<Option<Instant>> {
    let at = SystemTime::try_from(at).map_err(|error| invalid(format!("Grant.expires_at: {error}")))?;
    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
    Ok((left < NEVER).then(|| Instant::now() + left))
}

fn ttl(ttl: prost_types::Duration) -> Read<Duration> {
    let ttl = Duration::try_from(ttl).map_err(|error| invalid(format!("Grant.ttl: {error}")))?;
    if ttl.is_zero() { Err(invalid("Grant.ttl: 0")) } else { Ok(ttl) }
}

#[cfg(test)]
mod tests {
    use mproxy_core::grant::Word;
    use mproxy_core::policy::FailureKind;
    use mproxy_core::rule::{Message, Who};

    use super::*;

    fn allow(topics: &[&str]) -> wire::GrantRule {
        wire::GrantRule {
            effect: wire::Effect::Allow.into(),
            topic_filters: topics.iter().map(|&topic| topic.into()).collect(),
            ..Default::default()
        }
    }

    fn of(rule: wire::GrantRule) -> wire::Grant {
        wire::Grant { rules: vec![rule], ..Default::default() }
    }

    #[test]
    fn what_is_left_out_of_a_grant_has_its_default() {
        let read = grant(of(allow(&[]))).unwrap();
        let who = Who { client_id: "c", username: None, common_name: None, attributes: &[] };
        let word =
            |topic| read.message(Act::Publish, who, Message { topic, qos: QoS::ExactlyOnce, retain: true });
        assert_eq!(word("a/b"), Word::Allow(()));
        assert_eq!(word("$SYS/x"), Word::Ask);
        assert!(read.expires_at.is_none() && read.ttl.is_none() && read.mapping.is_none());
        assert!(!read.receives());
    }

    #[test]
    fn a_grant_that_is_wrong_anywhere_is_a_failed_answer() {
        let rule = |change: fn(&mut wire::GrantRule)| {
            let mut rule = allow(&["a"]);
            change(&mut rule);
            of(rule)
        };
        let with = |change: fn(&mut wire::Grant)| {
            let mut grant = of(allow(&["a"]));
            change(&mut grant);
            grant
        };
        for (what, kind, wrong) in [
            ("no effect", FailureKind::Unspecified, rule(|rule| rule.effect = 0)),
            ("unknown effect", FailureKind::Invalid, rule(|rule| rule.effect = 77)),
            ("no action", FailureKind::Unspecified, rule(|rule| rule.actions = vec![1, 0])),
            ("unknown action", FailureKind::Invalid, rule(|rule| rule.actions = vec![77])),
            ("no filter", FailureKind::Invalid, rule(|rule| rule.topic_filters = vec!["a/#/b".into()])),
            ("empty filter", FailureKind::Invalid, rule(|rule| rule.topic_filters = vec![String::new()])),
            ("share", FailureKind::Invalid, rule(|rule| rule.topic_filters = vec!["$share/g/a".into()])),
            ("variable", FailureKind::Invalid, rule(|rule| rule.topic_filters = vec!["${what}".into()])),
            ("QoS 3", FailureKind::Invalid, rule(|rule| rule.max_qos = Some(3))),
            (
                "a bounded deny",
                FailureKind::Invalid,
                rule(|rule| (rule.effect, rule.retain) = (wire::Effect::Deny.into(), Some(false))),
            ),
            ("no default", FailureKind::Unspecified, with(|grant| grant.default_effect = Some(0))),
            ("unknown default", FailureKind::Invalid, with(|grant| grant.default_effect = Some(9))),
            ("ttl 0", FailureKind::Invalid, with(|grant| grant.ttl = Some(Default::default()))),
            (
                "negative ttl",
                FailureKind::Invalid,
                with(|grant| grant.ttl = Some(prost_types::Duration { seconds: -1, nanos: 0 })),
            ),
            (
                "packets of nothing",
                FailureKind::Invalid,
                with(|grant| {
                    grant.limits = Some(wire::GrantLimits { packet_size: Some(0), ..Default::default() });
                }),
            ),
            ("no prefix", FailureKind::Invalid, with(|grant| grant.mapping = Some(Default::default()))),
            (
                "a shared prefix",
                FailureKind::Invalid,
                with(|grant| grant.mapping = Some(wire::TopicMapping { prefix: "$share/g/".into() })),
            ),
            (
                "too many rules",
                FailureKind::Invalid,
                with(|grant| grant.rules = vec![allow(&["a"]); RULES + 1]),
            ),
        ] {
            assert_eq!(grant(wrong).err().map(|failure| failure.kind), Some(kind), "{what}");
        }
    }

    #[test]
    fn an_end_that_has_passed_is_now_and_one_beyond_all_clocks_is_none() {
        let before = Instant::now();
        let passed = expiry(prost_types::Timestamp { seconds: 1, nanos: 0 }).unwrap().unwrap();
        assert!(passed >= before && passed <= Instant::now());
        assert_eq!(expiry(prost_types::Timestamp { seconds: i64::MAX / 2, nanos: 0 }).ok().flatten(), None);
    }
}
