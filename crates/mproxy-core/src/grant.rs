//! Grants: what a client may do without anybody being asked, as the policy said when it admitted the client.
//!
//! Rules, and the topics of whoever asks, are the client's own: a [`Mapping`] is applied after them on the way up and
//! undone before them on the way down.

mod mapping;
mod rewrites;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::QoS;
use serde::{Deserialize, Serialize};

pub use self::mapping::{Mapping, PrefixError};
pub use self::rewrites::{
    NoPlace, ROWS, Rewrite, RewriteClash, RewriteError, RewriteRule, RewriteSide, RewriteTable, find_clashes,
};
use crate::rule::condition::ConditionReads;
use crate::rule::{Act, AskedFilter, Message, Rule, RuleEffect, RuleFile, Who};
use crate::undecided::Undecided;

/// What a client may do. Shared by whoever is told of the client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grant {
    rules: Arc<[Rule]>,
    default: RuleEffect,
    receives: bool,
    #[serde(skip)]
    stale: Option<Box<Undecided>>,
    /// How much work it is to hold something against all of its rules.
    effort: usize,
    /// What its rules' conditions read, besides facts of the client.
    reads: ConditionReads,
    /// The policy's own name for it. Of no meaning here.
    pub version: Box<str>,
    /// How long it holds without being renewed.
    pub ttl: Option<Duration>,
    /// When the client is disconnected, whatever else holds.
    #[serde(skip)]
    pub expires_at: Option<Instant>,
    /// When it is disconnected because the token ends by which it was let in. Only a grant that comes with another token
    /// makes that later: see [`ends`](Self::ends).
    #[serde(skip)]
    pub token_ends_at: Option<Instant>,
    /// Bounds of this client's.
    pub limits: GrantLimits,
    /// Where its topics stand at the broker: by which names, and under which prefix.
    pub mapping: Option<Mapping>,
    /// When it came.
    #[serde(skip)]
    pub received: Option<Instant>,
    /// The endpoint of the policy service that gave it.
    pub endpoint: Option<Arc<str>>,
    /// The rule file that it stands in, with the lines of its rules, if it stands in one.
    #[serde(skip)]
    pub rule_file: Option<Arc<RuleFile>>,
}

impl PartialEq for Grant {
    /// Two are equal that say the same, whenever they came.
    fn eq(&self, other: &Self) -> bool {
        self.judges_like(other)
            && (&self.version, self.ttl, self.ends(), self.limits)
                == (&other.version, other.ttl, other.ends(), other.limits)
    }
}

/// What ends at the [end](Grant::ends) of a grant, as the client is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantExpiry {
    /// The grant itself.
    Grant,
    /// The token by which the client was let in.
    Token,
}

/// Bounds that a grant sets one client. `None`: only those that hold for everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GrantLimits {
    /// PUBLISH packets from the client.
    pub messages: Option<PerSecond>,
    /// Bytes from the client.
    pub bytes: Option<PerSecond>,
    /// What follows where it sends more.
    pub rate_action: RateAction,
    /// Bytes of one packet from the client.
    pub packet_size: Option<u32>,
    /// Subscriptions at a time.
    pub subscriptions: Option<u32>,
}

/// So many a second: more than none, and finite.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerSecond(f64);

impl PerSecond {
    /// This rate, if it is one.
    #[must_use]
    pub fn new(rate: f64) -> Option<Self> {
        (rate.is_finite() && rate > 0.0).then_some(Self(rate))
    }

    /// As a number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

/// What becomes of packets that come faster than a grant's limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RateAction {
    /// The client is not read until it is within its rate again.
    #[default]
    Wait,
    /// A PUBLISH is refused with 0x97.
    Refuse,
}

/// The part of a grant by which something is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantGround {
    /// This rule, counted from 0.
    Rule(u32),
    /// No rule applies: its default effect, or that the broker's own topics have to be named.
    Default,
    /// It says to ask, and there is nobody who could be asked.
    Unanswered,
    /// The topic or filter has no place under its prefix.
    Prefix,
    /// The topic or filter has no place beside its rewrites.
    Rewrite,
    /// It allows no subscription that would explain the delivery.
    Revoked,
    /// Its limit on subscriptions.
    Subscriptions,
    /// Its limits on what comes in a second.
    Rate,
    /// It has come to its end.
    Expired,
}

impl GrantGround {
    /// `"rule"`, `"default"`, `"unanswered"`, `"prefix"`, `"rewrite"`, `"revoked"`, `"subscriptions"`,
    /// `"rate"` or `"expired"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rule(_) => "rule",
            Self::Default => "default",
            Self::Unanswered => "unanswered",
            Self::Prefix => "prefix",
            Self::Rewrite => "rewrite",
            Self::Revoked => "revoked",
            Self::Subscriptions => "subscriptions",
            Self::Rate => "rate",
            Self::Expired => "expired",
        }
    }
}

/// What a grant says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantAnswer<A> {
    /// Ask the policy.
    Ask,
    /// Yes.
    Allow(A),
    /// No, and the reason code for it.
    Refuse(ReasonCode),
}

impl<A> GrantAnswer<A> {
    /// The same with another yes.
    pub fn map<B>(self, change: impl FnOnce(A) -> B) -> GrantAnswer<B> {
        match self {
            Self::Ask => GrantAnswer::Ask,
            Self::Allow(yes) => GrantAnswer::Allow(change(yes)),
            Self::Refuse(reason) => GrantAnswer::Refuse(reason),
        }
    }
}

fn conditions_of(rules: &[Rule]) -> impl Iterator<Item = ConditionReads> {
    rules.iter().filter_map(|rule| rule.condition.as_ref()).map(|condition| condition.reads())
}

impl Grant {
    /// A grant of these rules; `default` is what follows where none of them speaks.
    #[must_use]
    pub fn new(rules: impl Into<Arc<[Rule]>>, default: RuleEffect) -> Self {
        let rules = rules.into();
        // A rule for everything does not count: reading every delivery is a price that has to be asked for.
        let names_receive =
            |rule: &Rule| rule.actions.has(Act::Receive) && rule.actions != crate::rule::Actions::ALL;
        Self {
            receives: rules.iter().any(names_receive),
            effort: rules.iter().map(Rule::effort).sum(),
            reads: conditions_of(&rules).fold(ConditionReads::default(), ConditionReads::and),
            rules,
            default,
            stale: None,
            version: Box::default(),
            ttl: None,
            expires_at: None,
            token_ends_at: None,
            limits: GrantLimits::default(),
            mapping: None,
            received: None,
            endpoint: None,
            rule_file: None,
        }
    }

    /// What is left where its time has passed and it was not renewed, because of this: its rules do not hold any more,
    /// and everything is asked about. What nobody can be asked about is as undecided as its renewal.
    #[must_use]
    pub fn stale(&self, because: Undecided) -> Self {
        // It goes on judging deliveries where it did: what it denied must not come through unasked.
        Self {
            rules: Arc::default(),
            default: RuleEffect::Ask,
            stale: Some(Box::new(because)),
            effort: 0,
            reads: ConditionReads::default(),
            ..self.clone()
        }
    }

    /// Why it is [stale](Self::stale), if it is.
    #[must_use]
    pub fn stale_because(&self) -> Option<&Undecided> {
        self.stale.as_deref()
    }

    /// When the client is disconnected, and what ends then.
    #[must_use]
    pub fn ends(&self) -> Option<(Instant, GrantExpiry)> {
        let own = self.expires_at.map(|at| (at, GrantExpiry::Grant));
        let token = self.token_ends_at.map(|at| (at, GrantExpiry::Token));
        // Of two at once the token: that can be had anew.
        token.into_iter().chain(own).min_by_key(|(at, _)| *at)
    }

    /// Whether both say the same of everything, whatever else differs.
    #[must_use]
    pub fn judges_like(&self, other: &Self) -> bool {
        // What else differs (version, times, limits) is put in force without judging anything again.
        self.default == other.default
            && self.stale == other.stale
            && self.mapping == other.mapping
            && self.rules == other.rules
    }

    /// Topic patterns of all rules.
    #[must_use]
    pub fn patterns(&self) -> usize {
        self.rules.iter().map(|rule| rule.topics.len()).sum()
    }

    /// The same and the parts of their conditions: what a filter that none of them names is held against.
    #[must_use]
    pub const fn effort(&self) -> usize {
        self.effort
    }

    /// Whether it may say something else the next time of this topic or filter, with the same QoS and RETAIN.
    #[must_use]
    pub fn varies(&self, act: Act, name: &str, who: Who<'_>) -> bool {
        self.reads.varies()
            && self.rules.iter().any(|rule| rule.has_varying_condition() && rule.varies(act, name, who))
    }

    /// Whether some rule names deliveries. Where none does, they are none of the grant's business.
    #[must_use]
    pub const fn receives(&self) -> bool {
        self.receives
    }

    /// Whether there is a topic that it refuses.
    #[must_use]
    pub fn may_refuse(&self) -> bool {
        // "Everything" is without the broker's own topics, and so is whatever is mapped.
        self.default != RuleEffect::Ask
            || self.mapping.is_some()
            || self.rules.iter().any(|rule| rule.effect == RuleEffect::Deny)
    }

    /// May this be published, stand as a will, or be delivered?
    #[must_use]
    pub fn message(&self, act: Act, who: Who<'_>, message: Message<'_>) -> GrantAnswer<()> {
        self.judge_message(act, who, message).0
    }

    /// The same, and by which part of it.
    #[must_use]
    pub fn judge_message(
        &self,
        act: Act,
        who: Who<'_>,
        message: Message<'_>,
    ) -> (GrantAnswer<()>, GrantGround) {
        let applies =
            |rule: &Rule| self.may_decide(rule, message.topic) && rule.applies_to_message(act, message, who);
        match self.first_rule(applies) {
            None => (self.apply_default(message.topic, ()), self.default_ground(message.topic)),
            Some((at, rule)) => {
                let answer = match rule.effect {
                    RuleEffect::Ask => GrantAnswer::Ask,
                    RuleEffect::Deny => GrantAnswer::Refuse(ReasonCode::NOT_AUTHORIZED),
                    RuleEffect::Allow => {
                        rule.bounds(act, message).map_or_else(GrantAnswer::Refuse, GrantAnswer::Allow)
                    }
                };
                (answer, GrantGround::Rule(at))
            }
        }
    }

    /// May this filter be subscribed to, and up to which QoS?
    #[must_use]
    pub fn filter(&self, who: Who<'_>, asked: AskedFilter<'_>) -> GrantAnswer<QoS> {
        self.judge_filter(who, asked).0
    }

    /// The same, and by which part of it.
    #[must_use]
    pub fn judge_filter(&self, who: Who<'_>, asked: AskedFilter<'_>) -> (GrantAnswer<QoS>, GrantGround) {
        let plain = asked.plain();
        let applies = |rule: &Rule| self.may_decide(rule, plain) && rule.applies_to_filter(asked, who);
        match self.first_rule(applies) {
            None => (self.apply_default(plain, QoS::ExactlyOnce), self.default_ground(plain)),
            Some((at, rule)) => {
                let answer = match rule.effect {
                    RuleEffect::Ask => GrantAnswer::Ask,
                    RuleEffect::Deny => GrantAnswer::Refuse(ReasonCode::NOT_AUTHORIZED),
                    // Lowered by SUBACK and not refused (3.9.3); retained messages are bounded where they are published.
                    RuleEffect::Allow => GrantAnswer::Allow(rule.max_qos),
                };
                (answer, GrantGround::Rule(at))
            }
        }
    }

    fn first_rule(&self, applies: impl Fn(&Rule) -> bool) -> Option<(u32, &Rule)> {
        (0..).zip(&*self.rules).find(|(_, rule)| applies(rule))
    }

    /// Of a mapped client the broker's own topics are nobody else's to allow: they lie outside of the mapping. So a rule
    /// that would have them asked about has to name them.
    fn may_decide(&self, rule: &Rule, topic: &str) -> bool {
        rule.effect != RuleEffect::Ask
            || self.mapping.is_none()
            || !topic.starts_with('$')
            || rule.names_dollar()
    }

    /// By what [`apply_default`](Self::apply_default) decides. It is the prefix where the default alone would not have refused.
    fn default_ground(&self, topic: &str) -> GrantGround {
        let outside = topic.starts_with('$') && self.mapping.is_some() && self.default != RuleEffect::Deny;
        if outside { GrantGround::Prefix } else { GrantGround::Default }
    }

    /// Where no rule speaks of this topic or filter. The broker's own topics lie outside of any mapping, and outside of
    /// what is allowed in general: a rule has to name them.
    fn apply_default<A>(&self, topic: &str, yes: A) -> GrantAnswer<A> {
        let dollar = topic.starts_with('$');
        match self.default {
            // "Everything" does not mean the broker's own topics: who opens a tenant's door does not open `$SYS`.
            RuleEffect::Allow if !dollar => GrantAnswer::Allow(yes),
            RuleEffect::Ask if !dollar || self.mapping.is_none() => GrantAnswer::Ask,
            RuleEffect::Allow | RuleEffect::Ask | RuleEffect::Deny => {
                GrantAnswer::Refuse(ReasonCode::NOT_AUTHORIZED)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Actions, Pattern, Retain};
    use crate::undecided::{Failure, FailureKind};

    const C1: Who<'static> = Who { client_id: "c1", ..Who::NOBODY };

    fn rule(effect: RuleEffect, actions: Actions, topics: &[&str]) -> Rule {
        let topics = topics.iter().map(|topic| Pattern::parse(topic).unwrap()).collect();
        Rule {
            effect,
            actions,
            topics,
            max_qos: QoS::AtLeastOnce,
            retain: Retain::Refused,
            max_payload: None,
            condition: None,
        }
    }

    fn publish(grant: &Grant, topic: &str) -> GrantAnswer<()> {
        grant.message(Act::Publish, C1, message(topic, QoS::AtMostOnce, false))
    }

    fn message(topic: &str, qos: QoS, retain: bool) -> Message<'_> {
        Message { topic, qos, retain, payload: 0, time: None }
    }

    fn asked(filter: &str) -> AskedFilter<'_> {
        AskedFilter { filter, qos: None, time: None }
    }

    const NO: ReasonCode = ReasonCode::NOT_AUTHORIZED;

    #[test]
    fn the_first_rule_that_speaks_decides_and_then_the_default() {
        let rules = vec![
            rule(RuleEffect::Deny, Actions::ALL, &["a/secret"]),
            rule(RuleEffect::Ask, Actions::ALL, &["a/maybe"]),
            rule(RuleEffect::Allow, Actions::ALL, &["a/#", "own/${clientid}"]),
        ];
        for (default, else_) in [
            (RuleEffect::Ask, GrantAnswer::Ask),
            (RuleEffect::Deny, GrantAnswer::Refuse(NO)),
            (RuleEffect::Allow, GrantAnswer::Allow(())),
        ] {
            let grant = Grant::new(rules.clone(), default);
            assert_eq!(publish(&grant, "a/b"), GrantAnswer::Allow(()));
            assert_eq!(publish(&grant, "own/c1"), GrantAnswer::Allow(()));
            assert_eq!(publish(&grant, "a/secret"), GrantAnswer::Refuse(NO));
            assert_eq!(publish(&grant, "a/maybe"), GrantAnswer::Ask);
            assert_eq!(publish(&grant, "b"), else_);
        }
    }

    #[test]
    fn a_wide_filter_meets_what_is_denied_or_to_be_asked_about() {
        let grant = Grant::new(
            vec![
                rule(RuleEffect::Ask, Actions::ALL, &["a/maybe"]),
                rule(RuleEffect::Deny, Actions::ALL, &["b/secret"]),
                rule(RuleEffect::Allow, Actions::ALL, &["a/#", "b/#"]),
            ],
            RuleEffect::Deny,
        );
        assert_eq!(grant.filter(C1, asked("a/#")), GrantAnswer::Ask);
        assert_eq!(grant.filter(C1, asked("b/+")), GrantAnswer::Refuse(NO));
        assert_eq!(grant.filter(C1, asked("a/x/#")), GrantAnswer::Allow(QoS::AtLeastOnce));
        assert_eq!(grant.filter(C1, asked("$share/g/a/x")), GrantAnswer::Allow(QoS::AtLeastOnce));
        assert_eq!(grant.filter(C1, asked("+/x")), GrantAnswer::Refuse(NO));
    }

    #[test]
    fn bounds_of_a_rule_have_codes_of_their_own() {
        let grant = Grant::new(vec![rule(RuleEffect::Allow, Actions::ALL, &["#"])], RuleEffect::Deny);
        let word = |qos, retain| grant.message(Act::Publish, C1, message("a", qos, retain));
        assert_eq!(word(QoS::ExactlyOnce, false), GrantAnswer::Refuse(ReasonCode::QOS_NOT_SUPPORTED));
        assert_eq!(word(QoS::AtLeastOnce, true), GrantAnswer::Refuse(ReasonCode::RETAIN_NOT_SUPPORTED));
    }

    #[test]
    fn dollar_topics_have_to_be_named() {
        let everything = rule(RuleEffect::Allow, Actions::ALL, &["#"]);
        let mut mapped = Grant::new(vec![everything.clone()], RuleEffect::Ask);
        assert_eq!(publish(&mapped, "$SYS/x"), GrantAnswer::Ask);
        mapped.mapping = Some(Mapping::new("t/").unwrap());
        assert_eq!(publish(&mapped, "$SYS/x"), GrantAnswer::Refuse(NO));
        assert_eq!(mapped.filter(C1, asked("$share/g/$SYS/#")), GrantAnswer::Refuse(NO));
        let open = Grant::new(vec![everything], RuleEffect::Allow);
        assert_eq!(publish(&open, "$SYS/x"), GrantAnswer::Refuse(NO));
        assert_eq!(open.filter(C1, asked("$SYS/#")), GrantAnswer::Refuse(NO));
        for topics in [&["#"][..], &["+/x"], &["${username}/x"]] {
            // What is asked about reaches wide, but for a client whose topics are mapped.
            let mut asking = Grant::new(vec![rule(RuleEffect::Ask, Actions::ALL, topics)], RuleEffect::Allow);
            assert_eq!(publish(&asking, "$SYS/x"), GrantAnswer::Ask, "{topics:?}");
            assert_eq!(asking.filter(C1, asked("$share/g/$SYS/x")), GrantAnswer::Ask, "{topics:?}");
            asking.mapping = Some(Mapping::new("t/").unwrap());
            assert_eq!(publish(&asking, "$SYS/x"), GrantAnswer::Refuse(NO), "{topics:?}");
            assert_eq!(asking.filter(C1, asked("$share/g/$SYS/x")), GrantAnswer::Refuse(NO), "{topics:?}");
        }
        let named = Grant::new(vec![rule(RuleEffect::Allow, Actions::ALL, &["$SYS/#"])], RuleEffect::Deny);
        assert_eq!(publish(&named, "$SYS/x"), GrantAnswer::Allow(()));
    }

    #[test]
    fn a_whole_share_is_judged_by_what_it_shares_and_an_odd_one_as_it_stands() {
        let rules = || {
            vec![
                rule(RuleEffect::Deny, Actions::ALL, &["secret/#"]),
                rule(RuleEffect::Allow, Actions::ALL, &["#"]),
            ]
        };
        let grant = Grant::new(rules(), RuleEffect::Allow);
        for shared in ["$share/g/open", "$share/+/open", "$share//open"] {
            assert_eq!(grant.filter(C1, asked(shared)), GrantAnswer::Allow(QoS::AtLeastOnce), "{shared}");
        }
        // What begins with `$` and is nothing else has to be named.
        for refused in
            ["$share/g/secret/a", "$share//secret", "$share/g/#", "$share/x", "$share/x/", "$share/"]
        {
            assert_eq!(grant.filter(C1, asked(refused)), GrantAnswer::Refuse(NO), "{refused}");
        }
    }

    #[test]
    fn a_stale_grant_asks_about_everything_and_goes_on_judging_deliveries() {
        let receive = Actions::NONE.with(Act::Receive);
        let grant = Grant::new(vec![rule(RuleEffect::Deny, receive, &["x"])], RuleEffect::Ask);
        let failure = Failure::new(FailureKind::Unavailable, "gone");
        let stale = grant.stale(failure.clone().into());
        assert_eq!(publish(&stale, "a"), GrantAnswer::Ask);
        assert!(stale.receives(), "what RECEIVE rules denied does not come through");
        assert_eq!(stale.stale_because(), Some(&failure.into()));
    }

    #[test]
    fn deliveries_are_judged_only_where_a_rule_names_them() {
        assert!(!Grant::new(vec![rule(RuleEffect::Deny, Actions::ALL, &["#"])], RuleEffect::Deny).receives());
        let receive = Actions::NONE.with(Act::Receive);
        assert!(Grant::new(vec![rule(RuleEffect::Deny, receive, &["x"])], RuleEffect::Ask).receives());
    }
}
