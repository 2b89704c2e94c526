//! Rules with conditions in a session: what they look at is looked at each time, and nothing stands in its way.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::Arc;
use std::time::Duration;

use mproxy_codec::types::QoS;
use mproxy_core::grant::Grant;
use mproxy_core::policy::{Admission, Decision, Hook, PublishChange, Want};
use mproxy_core::rule::condition::{
    BoolExpr, Condition, IntExpr, Relation, TextExpr, TextList, TextTest, TimeField,
};
use mproxy_core::rule::{Act, Actions, Pattern, Retain, Rule, RuleEffect, WallTime};
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, Publish, Version};
use mproxy_sim::{Reply, Stage, Verdict, change};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// `size(payload) > 4`
fn is_large() -> BoolExpr {
    BoolExpr::Ints(Relation::Greater, Box::new((IntExpr::PayloadSize, IntExpr::Const(4))))
}

/// `time.hour >= 22`
fn is_late() -> BoolExpr {
    BoolExpr::Ints(Relation::GreaterOrEqual, Box::new((IntExpr::Time(TimeField::Hour), IntExpr::Const(22))))
}

fn rule(effect: RuleEffect, act: Act, topic: &str, condition: Option<BoolExpr>) -> Rule {
    Rule {
        effect,
        actions: Actions::NONE.with(act),
        topics: [Pattern::parse(topic).unwrap()].into(),
        max_qos: QoS::ExactlyOnce,
        retain: Retain::Allowed,
        max_payload: None,
        condition: condition.map(|one| Arc::new(Condition::new(one).unwrap())),
    }
}

/// A client that is open, with these rules before this default.
fn open(version: Version, rules: Vec<Rule>, default: RuleEffect) -> Stage {
    let grant = Some(Arc::new(Grant::new(rules, default)));
    let admission = Admission { grant, ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
    let mut stage = Setup {
        grants: true,
        answering: Box::new(move |asked| match asked.hook {
            Hook::Connect => Reply::Now(verdict.clone()),
            _ => Reply::Later,
        }),
        ..Setup::default()
    }
    .stage()
    .open(version);
    stage.take_questions();
    stage
}

fn at(stage: &Stage, hour: u64) {
    stage.setting().clock.set(WallTime::since_1970(Duration::from_secs(86_400 * 20_000 + hour * 3600)));
}

fn publish(version: Version, topic: &str, payload: &[u8]) -> Vec<u8> {
    wire::publish(version, &Publish { topic, payload, ..Publish::default() })
}

fn deny_large() -> Vec<Rule> {
    vec![
        rule(RuleEffect::Deny, Act::Publish, "a/#", Some(is_large())),
        rule(RuleEffect::Allow, Act::Publish, "#", None),
    ]
}

#[test]
fn a_large_payload_is_refused_on_a_topic_on_which_small_ones_have_passed() {
    for version in VERSIONS {
        let mut stage = open(version, deny_large(), RuleEffect::Deny);
        let (small, large) = (publish(version, "a/b", b"1234"), publish(version, "a/b", b"12345"));
        for _ in 0..3 {
            stage.client(&[&small[..], &small, &large, &small].concat());
            assert_eq!(stage.at_broker(), [&small[..], &small, &small].concat());
        }
        // No rule looks at payloads there.
        let elsewhere = publish(version, "b", b"12345");
        stage.client(&[&elsewhere[..], &elsewhere].concat());
        assert_eq!(stage.at_broker(), [&elsewhere[..], &elsewhere].concat());
    }
}

#[test]
fn a_payload_that_is_refused_for_its_size_need_not_have_come() {
    let mut stage = open(Version::V5, deny_large(), RuleEffect::Deny);
    let packet = publish(Version::V5, "a/b", &[7; 1 << 20]);
    let (head, rest) = packet.split_at(1000);
    stage.client(head);
    assert_eq!(stage.at_broker(), b"");
    stage.client(rest);
    let small = publish(Version::V5, "a/b", b"1");
    stage.client(&small);
    assert_eq!(stage.at_broker(), small);
}

#[test]
fn the_time_of_day_is_that_of_each_packet() {
    for version in VERSIONS {
        let rules = vec![
            rule(RuleEffect::Deny, Act::Publish, "a", Some(is_late())),
            rule(RuleEffect::Allow, Act::Publish, "a", None),
        ];
        let mut stage = open(version, rules, RuleEffect::Deny);
        let packet = publish(version, "a", b"x");
        // Nobody has said what time it is: the rule that denies applies.
        for (hour, passes) in [(None, false), (Some(21), true), (Some(22), false), (Some(6), true)] {
            if let Some(hour) = hour {
                at(&stage, hour);
            }
            stage.client(&[&packet[..], &packet].concat());
            let expected = if passes { [&packet[..], &packet].concat() } else { Vec::new() };
            assert_eq!(stage.at_broker(), expected, "{version:?} {hour:?}");
        }
    }
}

#[test]
fn an_answer_that_may_be_used_again_is_not_where_a_rule_looks_at_the_size() {
    let version = Version::V5;
    let rules = vec![rule(RuleEffect::Deny, Act::Publish, "a/#", Some(is_large()))];
    let mut stage = open(version, rules, RuleEffect::Ask);
    let minute = Some(Duration::from_secs(60));
    let yes = || change(PublishChange { cache_for: minute, ..PublishChange::default() });
    for (topic, asked_again) in [("a/b", true), ("b", false)] {
        let (small, large) = (publish(version, topic, b"1"), publish(version, topic, b"12345"));
        stage.client(&small);
        let first = stage.questions() - 1;
        stage.rule(first, yes());
        assert_eq!((stage.at_broker(), stage.take_questions().len()), (small.clone(), 1));
        stage.client(&large);
        let expected = if asked_again { Vec::new() } else { large };
        assert_eq!(stage.at_broker(), expected, "{topic}");
        stage.client(&small);
        assert_eq!(stage.take_questions().len(), usize::from(asked_again), "{topic}");
        if asked_again {
            stage.rule(stage.questions() - 1, yes());
        }
        assert_eq!(stage.at_broker(), small, "{topic}");
    }
}

#[test]
fn a_payload_that_the_service_has_changed_is_held_against_the_size() {
    let version = Version::V5;
    let rules = vec![rule(RuleEffect::Deny, Act::Publish, "a", Some(is_large()))];
    for (payload, passes) in [("1234", true), ("12345", false)] {
        let mut stage = open(version, rules.clone(), RuleEffect::Ask);
        stage.client(&publish(version, "a", b"1"));
        let payload = Some(payload.into());
        stage.rule(stage.questions() - 1, change(PublishChange { payload, ..PublishChange::default() }));
        assert_eq!(!stage.at_broker().is_empty(), passes);
    }
}

#[test]
fn a_delivery_is_judged_by_its_size() {
    let version = Version::V311;
    let rules = vec![
        rule(RuleEffect::Deny, Act::Receive, "#", Some(is_large())),
        rule(RuleEffect::Allow, Act::Receive, "#", None),
    ];
    let mut stage = open(version, rules, RuleEffect::Allow);
    let (small, large) = (publish(version, "a", b"1"), publish(version, "a", b"12345"));
    stage.broker(&[&small[..], &small, &large, &small].concat());
    assert_eq!(stage.at_client(), [&small[..], &small, &small].concat());
}

#[test]
fn a_wildcard_is_no_way_around_a_condition_on_the_topic() {
    let version = Version::V5;
    let level = |place| TextExpr::Member(Box::new((TextList::Levels, IntExpr::Const(place))));
    let text = |text: &str| TextExpr::Const(text.into());
    let begins = BoolExpr::Test(TextTest::StartsWith, Box::new((TextExpr::Topic, text("a/open"))));
    let first = BoolExpr::Texts(Relation::Equal, Box::new((level(0), text("b"))));
    let rules = vec![
        rule(RuleEffect::Allow, Act::Subscribe, "#", Some(begins)),
        rule(RuleEffect::Allow, Act::Subscribe, "#", Some(first)),
    ];
    let mut stage = open(version, rules, RuleEffect::Deny);
    let filters = ["a/open/x", "a/open/#", "a/+", "#", "b/#", "b/+/c", "+/c", "$share/g/b/#"];
    let asked: Vec<_> = filters.iter().map(|filter| (*filter, 0)).collect();
    stage.client(&wire::subscribe(version, 1, &asked));
    let allowed = [("a/open/x", 0), ("b/#", 0), ("b/+/c", 0), ("$share/g/b/#", 0)];
    assert_eq!(stage.at_broker(), wire::subscribe(version, 1, &allowed));
}

#[test]
fn a_condition_goes_over_to_another_process() {
    let mut stage = open(Version::V5, deny_large(), RuleEffect::Deny);
    stage.hand_over().unwrap();
    let (small, large) = (publish(Version::V5, "a/b", b"1"), publish(Version::V5, "a/b", b"12345"));
    stage.client(&[&small[..], &large, &small].concat());
    assert_eq!(stage.at_broker(), [&small[..], &small].concat());
}

#[test]
fn a_rule_that_looks_at_payloads_does_not_ask_for_them() {
    let stage = open(Version::V5, deny_large(), RuleEffect::Deny);
    assert_eq!(stage.setting().advisers.want(Hook::Publish).and(Want::Nothing), Want::Head);
}
