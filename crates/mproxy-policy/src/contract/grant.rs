//! Grants, as core understands them. A grant that cannot be understood whole makes the answer that it came in unusable:
//! half of what somebody may do is not what was meant.

use std::time::{Duration, Instant, SystemTime};

use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::QoS;
use mproxy_core::grant::{Grant, GrantLimits, Mapping, PerSecond, RateAction};
use mproxy_core::policy::{Unusable, UnusableKind};
use mproxy_core::rule::{Act, Actions, Pattern, Retain, Rule, RuleEffect};

use super::complaints::{Complaint, Complaints};
use super::verdict::{Read, qos};
use super::wire;

/// More rules than this are a mistake; each packet is held against them in turn.
const RULES: usize = 4096;

/// A grant is renewed no more often than this: a service that counts its `ttl` in other units would be asked hundreds
/// of times a second for each client.
const TTL_LEAST: Duration = Duration::from_secs(1);

/// Bytes of the longest version.
const VERSION_MOST: usize = 256;

/// A hundred years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) fn grant(grant: wire::Grant, complaints: &Complaints) -> Read<Grant> {
    if grant.rules.len() > RULES {
        return Err(invalid(format!("Grant.rules: {} rules, more than {RULES}", grant.rules.len())));
    }
    if grant.version.len() > VERSION_MOST {
        return Err(invalid(format!("Grant.version is longer than {VERSION_MOST} bytes")));
    }
    let rules = grant.rules.into_iter().map(rule).collect::<Read<Vec<_>>>()?;
    // Left out it is no yes: what no rule matches is asked about.
    let default =
        grant.default_effect.map_or(Ok(RuleEffect::Ask), |number| effect("default_effect", number))?;
    let limits = grant.limits.map(limits).transpose()?.unwrap_or_default();
    let mapping = grant.mapping.map(|mapping| self::mapping(&mapping)).transpose()?;
    let expires_at = grant.expires_at.map(expiry).transpose()?.flatten();
    let ttl = grant.ttl.map(|ttl| self::ttl(ttl, complaints)).transpose()?;
    let mut read = Grant::new(rules, default);
    // All fields are read before the grant is made: one that is wrong anywhere never exists in part.
    read.version = grant.version.into();
    (read.received, read.endpoint) = (Some(Instant::now()), complaints.endpoint());
    (read.limits, read.mapping, read.expires_at, read.ttl) = (limits, mapping, expires_at, ttl.flatten());
    Ok(read)
}

fn rule(rule: wire::GrantRule) -> Read<Rule> {
    let effect = effect("rule", rule.effect)?;
    // "Deny above QoS 0" cannot be said like this, and reading it as a whole deny, or as none, would be a guess.
    if effect != RuleEffect::Allow && (rule.max_qos.is_some() || rule.retain.is_some()) {
        return Err(invalid("GrantRule.max_qos or retain is set in a rule that is not ALLOW"));
    }
    let mut topics: Vec<_> = rule.topic_filters.iter().map(|text| pattern(text)).collect::<Read<_>>()?;
    // A list that nobody filled in allows nothing; "every topic" is `#`, said aloud.
    if topics.is_empty() && effect != RuleEffect::Allow {
        topics.push(pattern("#")?);
    }
    Ok(Rule {
        effect,
        actions: actions(&rule.actions)?,
        topics: topics.into(),
        // As in the rule file: what is left out does not bound.
        max_qos: rule.max_qos.map_or(Ok(QoS::ExactlyOnce), qos).map_err(|error| invalid(error.detail))?,
        retain: if rule.retain == Some(false) { Retain::Refused } else { Retain::Allowed },
        max_payload: None,
        condition: None,
    })
}

fn effect(what: &str, number: i32) -> Read<RuleEffect> {
    match wire::Effect::try_from(number) {
        Ok(wire::Effect::Allow) => Ok(RuleEffect::Allow),
        Ok(wire::Effect::Deny) => Ok(RuleEffect::Deny),
        Ok(wire::Effect::Ask) => Ok(RuleEffect::Ask),
        Ok(wire::Effect::Unspecified) => Err(invalid(format!("Grant.{what} is unset"))),
        Err(error) => Err(invalid(format!("Grant.{what}: {error}"))),
    }
}

fn actions(numbers: &[i32]) -> Read<Actions> {
    // As in the rule file: what is left out does not bound.
    if numbers.is_empty() {
        return Ok(Actions::ALL);
    }
    numbers.iter().try_fold(Actions::NONE, |actions, number| match wire::GrantAction::try_from(*number) {
        Ok(wire::GrantAction::Publish) => Ok(actions.with(Act::Publish)),
        Ok(wire::GrantAction::Subscribe) => Ok(actions.with(Act::Subscribe)),
        Ok(wire::GrantAction::Receive) => Ok(actions.with(Act::Receive)),
        Ok(wire::GrantAction::Will) => Ok(actions.with(Act::Will)),
        Ok(wire::GrantAction::Unspecified) => Err(invalid("GrantRule.actions contains UNSPECIFIED")),
        Err(error) => Err(invalid(format!("GrantRule.actions: {error}"))),
    })
}

fn pattern(text: &str) -> Read<Pattern> {
    Pattern::parse(text).map_err(|error| invalid(format!("GrantRule.topic_filters {text:?}: {error}")))
}

fn limits(limits: wire::GrantLimits) -> Read<GrantLimits> {
    let rate = |name, rate: Option<f64>| {
        // Zero among them: of a service that fills in zeros for what it did not set.
        let per_second =
            |rate| PerSecond::new(rate).ok_or_else(|| invalid(format!("GrantLimits.{name}: {rate}")));
        rate.map(per_second).transpose()
    };
    let messages = rate("messages_per_second", limits.messages_per_second)?;
    let bytes = rate("bytes_per_second", limits.bytes_per_second)?;
    let rate_action = match limits.rate_action.map(wire::RateAction::try_from) {
        None | Some(Ok(wire::RateAction::Wait)) => RateAction::Wait,
        Some(Ok(wire::RateAction::Refuse)) => RateAction::Refuse,
        Some(Ok(wire::RateAction::Unspecified)) => {
            return Err(invalid("GrantLimits.rate_action is UNSPECIFIED"));
        }
        Some(Err(error)) => return Err(invalid(format!("GrantLimits.rate_action: {error}"))),
    };
    // Of a service that fills in zeros for what it did not set: the client could not even send a PINGREQ.
    if limits.packet_size == Some(0) {
        return Err(invalid("GrantLimits.packet_size: must be greater than zero"));
    }
    Ok(GrantLimits {
        messages,
        bytes,
        rate_action,
        packet_size: limits.packet_size,
        subscriptions: limits.subscriptions,
    })
}

fn mapping(mapping: &wire::TopicMapping) -> Read<Mapping> {
    let prefix = &mapping.prefix;
    Mapping::new(prefix).map_err(|error| invalid(format!("the prefix {prefix:?} of a grant {error}")))
}

/// By our own clock; `None`: further away than a connection lasts.
fn expiry(at: prost_types::Timestamp) -> Read<Option<Instant>> {
    // The conversion wants nanoseconds in order, and panics over some that are not.
    if !(0..1_000_000_000).contains(&at.nanos) {
        return Err(invalid(format!("Grant.expires_at: {} nanoseconds", at.nanos)));
    }
    let nanos = Duration::from_nanos(u64::from(at.nanos.unsigned_abs()));
    let since_epoch = u64::try_from(at.seconds).ok().map(Duration::from_secs).map(|secs| secs + nanos);
    // Wall clock once, then monotonic: whoever sets the clock of the machine does not prolong or end grants in force.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match since_epoch.and_then(|at| at.checked_sub(now)).filter(|left| !left.is_zero()) {
        None => Err(Unusable {
            reason: ReasonCode::NOT_AUTHORIZED,
            ..Unusable::new(
                UnusableKind::GrantExpired,
                format!("Grant.expires_at ({} s) has passed", at.seconds),
            )
        }),
        Some(left) => Ok((left < NEVER).then(|| Instant::now().checked_add(left)).flatten()),
    }
}

/// Not below [`TTL_LEAST`]; `None`: further away than a connection lasts.
fn ttl(ttl: prost_types::Duration, complaints: &Complaints) -> Read<Option<Duration>> {
    let (seconds, nanos) = (u64::try_from(ttl.seconds), u32::try_from(ttl.nanos));
    let (Ok(seconds), Ok(nanos @ 0..1_000_000_000)) = (seconds, nanos) else {
        return Err(invalid(format!("Grant.ttl: {} s and {} ns", ttl.seconds, ttl.nanos)));
    };
    let ttl = Duration::new(seconds, nanos);
    if ttl.is_zero() {
        return Err(invalid("Grant.ttl: must be greater than zero"));
    }
    if ttl < TTL_LEAST {
        complaints
            .say(Complaint::ShortTtl, format_args!("Grant.ttl of {ttl:?} is too short, using {TTL_LEAST:?}"));
    }
    Ok((ttl < NEVER).then(|| ttl.max(TTL_LEAST)))
}

fn invalid(detail: impl Into<Box<str>>) -> Unusable {
    Unusable::new(UnusableKind::Grant, detail)
}

#[cfg(test)]
mod tests {
    use mproxy_core::grant::GrantAnswer;
    use mproxy_core::rule::{AskedFilter, Message, Who};

    use super::*;

    fn allow(topics: &[&str]) -> wire::GrantRule {
        wire::GrantRule {
            effect: wire::Effect::Allow.into(),
            topic_filters: topics.iter().map(|&topic| topic.into()).collect(),
            ..Default::default()
        }
    }

    fn grant(grant: wire::Grant) -> Read<Grant> {
        super::grant(grant, &Complaints::new("test"))
    }

    fn message(topic: &str, qos: QoS, retain: bool) -> Message<'_> {
        Message { topic, qos, retain, payload: 0, time: None }
    }

    fn asked(filter: &str) -> AskedFilter<'_> {
        AskedFilter { filter, qos: None, time: None }
    }

    fn of(rule: wire::GrantRule) -> wire::Grant {
        wire::Grant { rules: vec![rule], ..Default::default() }
    }

    #[test]
    fn what_is_left_out_of_a_grant_has_its_default() {
        let read = grant(of(allow(&["#"]))).unwrap();
        let who = Who { client_id: "c", ..Who::NOBODY };
        let word = |topic| read.message(Act::Publish, who, message(topic, QoS::ExactlyOnce, true));
        assert_eq!(word("a/b"), GrantAnswer::Allow(()));
        assert_eq!(word("$SYS/x"), GrantAnswer::Ask);
        assert!(read.expires_at.is_none() && read.ttl.is_none() && read.mapping.is_none());
        assert!(!read.receives());
    }

    #[test]
    fn a_list_of_no_filters_allows_nothing_and_denies_everything() {
        let who = Who { client_id: "c", ..Who::NOBODY };
        for (effect, default, expected) in [
            (wire::Effect::Allow, wire::Effect::Deny, GrantAnswer::Refuse(ReasonCode::NOT_AUTHORIZED)),
            (wire::Effect::Deny, wire::Effect::Allow, GrantAnswer::Refuse(ReasonCode::NOT_AUTHORIZED)),
            (wire::Effect::Ask, wire::Effect::Allow, GrantAnswer::Ask),
        ] {
            let rule = wire::GrantRule { effect: effect.into(), ..Default::default() };
            let read = grant(wire::Grant { default_effect: Some(default.into()), ..of(rule) }).unwrap();
            for topic in ["a/b", "$SYS/x"] {
                let message = message(topic, QoS::AtMostOnce, false);
                for act in [Act::Publish, Act::Receive, Act::Will] {
                    assert_eq!(read.message(act, who, message), expected, "{effect:?} {topic}");
                }
                assert!(
                    read.filter(who, asked(topic)) != GrantAnswer::Allow(QoS::ExactlyOnce),
                    "{effect:?} {topic}"
                );
            }
            assert!(read.filter(who, asked("#")) != GrantAnswer::Allow(QoS::ExactlyOnce), "{effect:?}");
        }
    }

    #[test]
    fn deliveries_are_named_by_a_list_of_all_actions_and_not_by_an_empty_one() {
        for (actions, receives) in [(vec![], false), (vec![1, 2, 3, 4], true), (vec![3], true)] {
            let rule = wire::GrantRule { actions, ..allow(&["#"]) };
            assert_eq!(grant(of(rule)).unwrap().receives(), receives);
        }
    }

    #[test]
    fn a_grant_that_is_wrong_anywhere_makes_the_answer_unusable() {
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
        for (what, wrong) in [
            ("no effect", rule(|rule| rule.effect = 0)),
            ("unknown effect", rule(|rule| rule.effect = 77)),
            ("no action", rule(|rule| rule.actions = vec![1, 0])),
            ("unknown action", rule(|rule| rule.actions = vec![77])),
            ("no filter", rule(|rule| rule.topic_filters = vec!["a/#/b".into()])),
            ("empty filter", rule(|rule| rule.topic_filters = vec![String::new()])),
            ("share", rule(|rule| rule.topic_filters = vec!["$share/g/a".into()])),
            ("variable", rule(|rule| rule.topic_filters = vec!["${what}".into()])),
            ("QoS 3", rule(|rule| rule.max_qos = Some(3))),
            (
                "a bounded deny",
                rule(|rule| (rule.effect, rule.retain) = (wire::Effect::Deny.into(), Some(false))),
            ),
            ("no default", with(|grant| grant.default_effect = Some(0))),
            ("unknown default", with(|grant| grant.default_effect = Some(9))),
            ("ttl 0", with(|grant| grant.ttl = Some(Default::default()))),
            ("negative ttl", with(|grant| grant.ttl = Some(prost_types::Duration { seconds: -1, nanos: 0 }))),
            (
                "packets of nothing",
                with(|grant| {
                    grant.limits = Some(wire::GrantLimits { packet_size: Some(0), ..Default::default() });
                }),
            ),
            ("a long version", with(|grant| grant.version = "v".repeat(VERSION_MOST + 1))),
            ("no prefix", with(|grant| grant.mapping = Some(Default::default()))),
            (
                "a shared prefix",
                with(|grant| grant.mapping = Some(wire::TopicMapping { prefix: "$share/g/".into() })),
            ),
            ("too many rules", with(|grant| grant.rules = vec![allow(&["a"]); RULES + 1])),
        ] {
            assert_eq!(grant(wrong).err().map(|unusable| unusable.kind), Some(UnusableKind::Grant), "{what}");
        }
    }

    #[test]
    fn an_end_that_has_passed_admits_nobody_and_one_beyond_all_clocks_is_none() {
        let at = |seconds, nanos| expiry(prost_types::Timestamp { seconds, nanos });
        for passed in [at(1, 0), at(0, 0), at(-1, 0), at(i64::MIN, 0)] {
            let unusable = passed.unwrap_err();
            assert_eq!(unusable.kind, UnusableKind::GrantExpired);
            assert_eq!(unusable.reason, ReasonCode::NOT_AUTHORIZED);
        }
        for nanos in [-1, i32::MIN, 1_000_000_000, i32::MAX] {
            assert!(at(i64::MAX, nanos).is_err_and(|unusable| unusable.kind == UnusableKind::Grant));
        }
        assert_eq!(at(i64::MAX / 2, 0), Ok(None));
        assert_eq!(at(i64::MAX, 999_999_999), Ok(None));
    }

    #[test]
    fn a_time_beyond_all_clocks_is_for_ever_and_one_too_short_has_a_floor() {
        let ttl = |seconds, nanos| ttl(prost_types::Duration { seconds, nanos }, &Complaints::new("test"));
        assert_eq!(ttl(i64::MAX, 999_999_999), Ok(None));
        assert_eq!(ttl(60, 5), Ok(Some(Duration::new(60, 5))));
        assert_eq!(ttl(0, 1_000_000), Ok(Some(TTL_LEAST)));
        for (seconds, nanos) in [(0, 0), (-1, 0), (i64::MIN, -1), (1, -1), (1, i32::MIN), (1, 1_000_000_000)]
        {
            assert!(ttl(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
    }

    #[test]
    fn rates_are_numbers_that_there_can_be() {
        let messages =
            |rate| limits(wire::GrantLimits { messages_per_second: Some(rate), ..Default::default() });
        let bytes = |rate| limits(wire::GrantLimits { bytes_per_second: Some(rate), ..Default::default() });
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(messages(wrong).is_err() && bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(messages(0.5).unwrap().messages, PerSecond::new(0.5));
        assert_eq!(bytes(1e9).unwrap().bytes, PerSecond::new(1e9));
    }

    #[test]
    fn what_follows_a_rate_that_is_exceeded_is_waiting_unless_it_is_said() {
        let action = |action| {
            let read = limits(wire::GrantLimits { rate_action: action, ..Default::default() });
            read.map(|limits| limits.rate_action)
        };
        assert_eq!(action(None), Ok(RateAction::Wait));
        assert_eq!(action(Some(1)), Ok(RateAction::Wait));
        assert_eq!(action(Some(2)), Ok(RateAction::Refuse));
        assert!(action(Some(0)).is_err() && action(Some(77)).is_err());
    }
}
