//! Answers of the policy service that it lets be used again: for the same question, until their time has passed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mproxy_codec::types::PacketType;
use mproxy_codec::{QoS, ReasonCode};
use mproxy_core::Side;
use mproxy_core::command::{Selector, SessionCommand};
use mproxy_core::grant::Grant;
use mproxy_core::meter::{Meter, Outcome};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    Action, Decision, Failure, FilterChange, Hook, OnError, Overload, PublishChange, Refusal, Source,
    Unusable, Want,
};
use mproxy_core::rule::RuleEffect;
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, Publish, Version};
use mproxy_sim::{Stage, Verdict, allow, change, fail};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

fn publish(version: Version, qos: u8, packet_id: u16, topic: &str) -> Vec<u8> {
    wire::publish(version, &Publish { topic, payload: b"21", qos, packet_id, ..Publish::default() })
}

fn yes() -> Verdict {
    change(PublishChange { cache_for: MINUTE, ..PublishChange::default() })
}

fn no() -> Verdict {
    let refusal = Refusal { text: Some("no".into()), ..Refusal::new(ReasonCode::TOPIC_NAME_INVALID) };
    Verdict::Publish(Decision::Refuse(Refusal { cache_for: MINUTE, ..refusal }))
}

#[test]
fn an_answer_is_used_again_until_its_time_has_passed() {
    for version in VERSIONS {
        for qos in 0..=2 {
            let mut stage = Stage::new().open(version);
            stage.client(&publish(version, qos, 1, "a"));
            stage.rule(0, yes());
            stage.take_questions();
            stage.pass(Duration::from_nanos(59_999_999_999));
            for id in 2..=5 {
                stage.client(&publish(version, qos, id, "a"));
            }
            let all: Vec<_> = (1..=5).map(|id| publish(version, qos, id, "a")).collect();
            assert_eq!(stage.at_broker(), all.concat());
            assert!(stage.take_questions().is_empty());
            stage.pass(Duration::from_nanos(1));
            stage.client(&publish(version, qos, 6, "a"));
            assert_eq!((stage.at_broker(), stage.take_questions().len()), (Vec::new(), 1), "it has passed");
        }
    }
}

#[test]
fn another_topic_qos_or_retain_is_another_question_and_another_payload_is_none() {
    let version = Version::V5;
    let mut stage = Stage::new();
    stage.script.want(Hook::Publish, Want::Payload(100));
    stage.open_with(version, &[], &[]);
    stage.client(&publish(version, 0, 0, "a"));
    stage.rule(0, yes());
    stage.take_questions();
    let sent = |payload, properties, dup| {
        wire::publish(version, &Publish { topic: "a", payload, properties, dup, ..Publish::default() })
    };
    stage.client(&sent(b"other", b"\x26\0\x01k\0\x01v", false));
    stage.client(&sent(&[7; 90_000], b"", false));
    assert!(stage.take_questions().is_empty());
    let retained = Publish { topic: "a", payload: b"21", retain: true, ..Publish::default() };
    for (n, other) in
        [publish(version, 0, 0, "b"), publish(version, 1, 1, "a"), wire::publish(version, &retained)]
            .into_iter()
            .enumerate()
    {
        stage.client(&other);
        assert_eq!(stage.take_questions().len(), 1);
        stage.rule(n + 1, allow(Hook::Publish));
    }
}

#[test]
fn a_topic_alias_is_known_by_the_topic_that_it_stands_for() {
    let aliased = |topic| {
        let properties = b"\x23\0\x01";
        wire::publish(Version::V5, &Publish { topic, payload: b"21", properties, ..Publish::default() })
    };
    let mut stage = Stage::new();
    stage.open_with(Version::V5, &[], b"\x22\0\x05");
    stage.client(&aliased("a"));
    stage.rule(0, yes());
    stage.client(&aliased(""));
    stage.client(&publish(Version::V5, 0, 0, "a"));
    assert_eq!(stage.questions(), 1);
    let all = [aliased("a"), aliased(""), publish(Version::V5, 0, 0, "a")];
    assert_eq!(stage.at_broker(), all.concat());
}

#[test]
fn a_refusal_is_used_again_and_looks_the_same() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        stage.client(&publish(version, 1, 1, "a"));
        stage.rule(0, no());
        let first = stage.at_client();
        for id in 2..=4 {
            stage.client(&publish(version, 1, id, "a"));
            let mut expected = first.clone();
            expected[3] = id as u8;
            assert_eq!(stage.at_client(), expected);
        }
        assert_eq!((stage.questions(), stage.at_broker()), (1, Vec::new()));
    }
}

#[test]
fn a_repeated_publish_that_was_refused_is_answered_as_before() {
    let mut stage = Stage::new().open(Version::V311);
    let repeated = Publish { topic: "a", qos: 2, packet_id: 1, dup: true, ..Publish::default() };
    stage.client(&publish(Version::V311, 2, 1, "a"));
    stage.rule(0, Verdict::Publish(Decision::Refuse(Refusal::default())));
    stage.client(&publish(Version::V311, 2, 2, "a"));
    stage.rule(1, yes());
    stage.at_client();
    stage.at_broker();
    stage.client(&wire::publish(Version::V311, &repeated));
    assert_eq!((stage.at_broker(), stage.at_client()), (Vec::new(), wire::pubrec(1)));
}

#[test]
fn another_topic_or_retain_in_the_answer_is_used_again_and_a_payload_or_properties_never() {
    let version = Version::V5;
    let mut stage = Stage::new().open(version);
    stage.client(&publish(version, 0, 0, "a"));
    let moved = PublishChange {
        topic: Some("b".into()),
        retain: Some(true),
        cache_for: MINUTE,
        ..Default::default()
    };
    stage.rule(0, change(moved));
    stage.client(&publish(version, 0, 0, "a"));
    let retained = Publish { topic: "b", payload: b"21", retain: true, ..Publish::default() };
    assert_eq!(stage.at_broker(), wire::publish(version, &retained).repeat(2));
    assert_eq!(stage.questions(), 1);
    let changes = [
        PublishChange { payload: Some("x".into()), cache_for: MINUTE, ..Default::default() },
        PublishChange {
            set_user_properties: vec![("k".into(), "v".into())],
            cache_for: MINUTE,
            ..Default::default()
        },
        PublishChange { remove_user_properties: vec!["k".into()], cache_for: MINUTE, ..Default::default() },
    ];
    for (n, one) in changes.into_iter().enumerate() {
        stage.client(&publish(version, 0, 0, "c"));
        assert_eq!(stage.questions(), n + 2);
        stage.rule(n + 1, change(one));
    }
}

#[test]
fn what_was_not_decided_or_cannot_be_carried_out_is_never_used_again() {
    let mut stage = Stage::new().open(Version::V5);
    let topic = |topic: String| {
        change(PublishChange { topic: Some(topic.into()), cache_for: MINUTE, ..PublishChange::default() })
    };
    for (n, verdict) in [
        fail(),
        Verdict::Unusable(Unusable::invalid("it")),
        Verdict::Overloaded(Overload::new("test", "it")),
        topic("b/#".into()),
        topic("x".repeat(65_536)),
    ]
    .into_iter()
    .enumerate()
    {
        stage.client(&publish(Version::V5, 1, 1, "a"));
        assert_eq!(stage.questions(), n + 1);
        stage.rule(n, verdict);
        assert_eq!(stage.at_broker(), b"");
    }
}

#[test]
fn deliveries_are_answered_again_as_well() {
    for version in VERSIONS {
        let mut stage = Stage::new();
        stage.script.want(Hook::Deliver, Want::Head);
        stage.open_with(version, &[], &[]);
        stage.broker(&publish(version, 1, 1, "a"));
        stage.rule(0, yes());
        stage.broker(&publish(version, 1, 2, "a"));
        assert_eq!(stage.at_client(), [publish(version, 1, 1, "a"), publish(version, 1, 2, "a")].concat());
        stage.broker(&publish(version, 1, 3, "b"));
        stage.rule(1, no());
        stage.broker(&publish(version, 1, 4, "b"));
        assert_eq!((stage.questions(), stage.at_client()), (2, Vec::new()));
        stage.client(&publish(version, 0, 0, "a"));
        assert_eq!(stage.questions(), 3, "what may be delivered may not be published");
    }
}

#[test]
fn a_subscribe_is_answered_again_if_all_its_filters_are_known() {
    let version = Version::V5;
    let mut stage = Stage::new().open(version);
    let known = |filter: Option<&str>, max_qos, cache_for| {
        Decision::Allow(FilterChange { filter: filter.map(Into::into), max_qos, cache_for })
    };
    let refused = Decision::Refuse(Refusal { cache_for: MINUTE, ..Refusal::default() });
    stage.client(&wire::subscribe(version, 1, &[("a", 1), ("$share/g/b", 2), ("c", 0), ("d", 0)]));
    stage.rule(
        0,
        Verdict::Subscribe(vec![
            known(None, Some(QoS::AtMostOnce), MINUTE),
            known(Some("$share/g/other"), None, MINUTE),
            refused,
            known(None, None, None),
        ]),
    );
    let first = wire::subscribe(version, 1, &[("a", 0), ("$share/g/other", 2), ("d", 0)]);
    assert_eq!(stage.at_broker(), first);
    stage.broker(&wire::suback(version, 1, &[0, 2, 0]));
    stage.at_client();
    stage.client(&wire::subscribe(version, 2, &[("$share/g/b", 2), ("c", 0), ("a", 1)]));
    assert_eq!(stage.questions(), 1);
    assert_eq!(stage.at_broker(), wire::subscribe(version, 2, &[("$share/g/other", 2), ("a", 0)]));
    stage.broker(&wire::suback(version, 2, &[2, 0]));
    assert_eq!(stage.at_client(), wire::suback(version, 2, &[2, 0x87, 0]));
    for (n, filters) in
        [&[("a", 1), ("d", 0)][..], &[("a", 2)], &[("b", 2)], &[("$share/h/b", 2)]].iter().enumerate()
    {
        stage.client(&wire::subscribe(version, 3 + n as u16, filters));
        assert_eq!(stage.questions(), n + 2, "{filters:?}");
    }
}

#[test]
fn a_plain_subscribe_that_may_be_answered_again_leaves_as_it_came() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        let subscribe = wire::subscribe(version, 1, &[("a", 1)]);
        stage.client(&subscribe);
        stage.rule(
            0,
            Verdict::Subscribe(vec![Decision::Allow(FilterChange {
                cache_for: MINUTE,
                ..Default::default()
            })]),
        );
        stage.client(&subscribe);
        assert_eq!((stage.at_broker(), stage.questions()), (subscribe.repeat(2), 1));
    }
}

#[test]
fn forget_and_another_grant_end_what_was_answered_and_what_is_being_answered() {
    let version = Version::V5;
    for command in [
        SessionCommand::Forget,
        SessionCommand::ReplaceGrant(Some(Arc::new(Grant::new(Vec::new(), RuleEffect::Ask)))),
    ] {
        let mut stage = Stage::new().open(version);
        stage.client(&publish(version, 0, 0, "a"));
        stage.rule(0, yes());
        stage.client(&wire::subscribe(version, 1, &[("f", 0)]));
        let filter = || {
            Verdict::Subscribe(vec![Decision::Allow(FilterChange {
                cache_for: MINUTE,
                ..Default::default()
            })])
        };
        stage.rule(1, filter());
        stage.client(&publish(version, 0, 0, "b"));
        stage.client(&wire::subscribe(version, 2, &[("g", 0)]));
        assert_eq!(stage.questions(), 4);
        stage.command(Selector::All, command.clone());
        // Those that were out may have been asked anew.
        let replaced = stage.questions() - 4;
        assert_eq!(replaced, if matches!(command, SessionCommand::Forget) { 0 } else { 2 });
        stage.rule(2, yes());
        stage.rule(3, filter());
        let before = stage.questions();
        for (n, one) in [
            publish(version, 0, 0, "a"),
            wire::subscribe(version, 3, &[("f", 0)]),
            publish(version, 0, 0, "b"),
            wire::subscribe(version, 4, &[("g", 0)]),
        ]
        .iter()
        .enumerate()
        {
            stage.client(one);
            assert_eq!(stage.questions(), before + n + 1, "{command:?}");
        }
    }
}

#[test]
fn rules_that_are_replaced_end_it_too() {
    let version = Version::V311;
    let mut stage = Stage::new().open(version);
    stage.client(&publish(version, 0, 0, "a"));
    stage.rule(0, yes());
    stage.client(&publish(version, 0, 0, "b"));
    stage.script.new_edition();
    stage.rule(1, yes());
    stage.client(&publish(version, 0, 0, "a"));
    assert_eq!(stage.questions(), 3, "it came behind rules that are no more");
    stage.client(&publish(version, 0, 0, "b"));
    assert_eq!(stage.questions(), 4, "it was asked for under them");
}

/// What the meter was told of publishes.
#[derive(Default)]
struct Counts(Mutex<Vec<(Source, Outcome, u64)>>);

impl Meter for Counts {
    fn packets(&self, _: Side, _: PacketType, _: u64, _: u64) {}

    fn decisions(&self, _: Hook, source: Source, outcome: Outcome, count: u64) {
        self.0.lock().expect("no test panicked here").push((source, outcome, count));
    }

    fn failed(&self, _: Hook, _: &Failure, _: OnError, _: &Peer) {}

    fn unusable(&self, _: Hook, _: &Unusable, _: &Peer) {}

    fn overloaded(&self, _: Hook, _: &Overload, _: &Peer) {}
}

#[test]
fn what_is_answered_again_is_counted_under_its_own_source() {
    let counts = Arc::new(Counts::default());
    let mut stage = Setup { meter: counts.clone(), ..Setup::default() }.stage().open(Version::V311);
    let both = [publish(Version::V311, 0, 0, "a"), publish(Version::V311, 0, 0, "b")];
    stage.client(&both.concat());
    stage.rule(0, yes());
    stage.rule(1, no());
    counts.0.lock().unwrap().clear();
    stage.client(&[both[0].repeat(3), both[1].clone()].concat());
    let counted = std::mem::take(&mut *counts.0.lock().unwrap());
    assert!(counted.iter().all(|one| one.0 == Source::Cache), "{counted:?}");
    let sum = |outcome| counted.iter().filter(|one| one.1 == outcome).map(|one| one.2).sum::<u64>();
    assert_eq!((sum(Outcome::Allowed), sum(Outcome::Refused)), (3, 1));
}

#[test]
fn answers_are_bounded_and_count_as_held() {
    let mut stage = Stage::new().open(Version::V311);
    let before = stage.session.held();
    let topic = |n: usize| format!("{}/{n}", "room".repeat(50));
    for n in 0..500 {
        stage.client(&publish(Version::V311, 0, 0, &topic(n)));
        stage.rule(n, yes());
        assert!(stage.session.held() - before <= 16 << 10);
    }
    assert!(stage.session.held() - before > 12 << 10);
    stage.client(&publish(Version::V311, 0, 0, &topic(499)));
    assert_eq!(stage.questions(), 500, "the youngest is there");
    stage.client(&publish(Version::V311, 0, 0, &topic(0)));
    assert_eq!(stage.questions(), 501, "the oldest is not");
    stage.pass(Duration::from_secs(60));
    stage.client(&wire::pingreq());
    let question = stage.session.held() - before;
    stage.rule(500, allow(Hook::Publish));
    assert!(question > 0 && stage.session.held() == before, "their time has passed");
}

/// Numbers that look random, the same each time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// What is said of this, always. `cache_for` alone is drawn.
fn verdict(hook: Hook, what: &str, cache_for: Option<Duration>) -> Verdict {
    let refusal = |action| Refusal { action, cache_for, ..Refusal::new(ReasonCode::QUOTA_EXCEEDED) };
    if hook == Hook::Subscribe {
        let one = |filter: &str| match filter.len() % 4 {
            0 => Decision::Refuse(refusal(Action::Reject)),
            1 => Decision::Allow(FilterChange {
                filter: Some(format!("to/{filter}").into()),
                cache_for,
                ..Default::default()
            }),
            2 => Decision::Allow(FilterChange {
                max_qos: Some(QoS::AtMostOnce),
                cache_for,
                ..Default::default()
            }),
            _ => Decision::Allow(FilterChange { cache_for, ..Default::default() }),
        };
        return Verdict::Subscribe(what.split(' ').map(one).collect());
    }
    let plain = PublishChange { cache_for, ..PublishChange::default() };
    match what.len() % 8 {
        0 => Verdict::Publish(Decision::Refuse(refusal(Action::Reject))),
        1 => Verdict::Publish(Decision::Refuse(refusal(Action::Drop))),
        2 => change(PublishChange { topic: Some(format!("to/{what}").into()), ..plain }),
        3 => change(PublishChange { retain: Some(true), ..plain }),
        4 => change(PublishChange { payload: Some("new".into()), ..plain }),
        5 => Verdict::Publish(Decision::Refuse(refusal(Action::NoAck))),
        _ => change(plain),
    }
}

/// Plays the same game with answers that are used again, or not. What arrived at either side, and how much was asked.
fn play(seed: u64, cached: bool) -> (Vec<u8>, Vec<u8>, usize) {
    let mut draw = Draw(seed);
    let version = VERSIONS[draw.below(3) as usize];
    let mut stage = Stage::new();
    stage.script.want(Hook::Deliver, Want::Head);
    stage.open_with(version, &[], &[]);
    let (mut broker, mut client, mut ruled) = (Vec::new(), Vec::new(), 0);
    for id in 1..300 {
        let name = "x".repeat(1 + draw.below(16) as usize);
        let (qos, retain) = (draw.below(3) as u8, draw.below(2) == 0);
        let message =
            Publish { topic: &name, payload: b"p", qos, retain, packet_id: id, ..Publish::default() };
        match draw.below(8) {
            0 => {
                let other = "y".repeat(1 + draw.below(8) as usize);
                stage.client(&wire::subscribe(version, id, &[(&name, qos), (&other, 1)]));
            }
            1..=3 => stage.broker(&wire::publish(version, &message)),
            _ => stage.client(&wire::publish(version, &message)),
        }
        stage.pass(Duration::from_millis(draw.below(50)));
        let ttl = Duration::from_millis(1 + draw.below(2000));
        for asked in stage.take_questions() {
            stage.rule(ruled, verdict(asked.hook, &asked.what, cached.then_some(ttl)));
            ruled += 1;
        }
        broker.extend(stage.at_broker());
        client.extend(stage.at_client());
    }
    (broker, client, stage.questions())
}

#[test]
fn the_same_happens_as_if_each_were_asked_about() {
    let mut saved = 0;
    for seed in 0..60 {
        let (broker, client, asked) = play(seed, false);
        let (cached_broker, cached_client, cached_asked) = play(seed, true);
        assert!(broker == cached_broker && client == cached_client, "seed {seed}");
        assert!(cached_asked <= asked, "seed {seed}");
        saved += asked - cached_asked;
    }
    assert!(saved > 2000, "{saved} questions less");
}
