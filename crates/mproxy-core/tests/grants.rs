//! Sessions whose client came with a grant: mapped topics, rewrites held against it, its limits and its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mproxy_codec::{QoS, ReasonCode};
use mproxy_core::command::{Selector, SessionCommand};
use mproxy_core::event::Happening;
use mproxy_core::fault::{Deadline, Fault};
use mproxy_core::grant::{Grant, GrantLimits, Mapping};
use mproxy_core::policy::{
    Admission, BrokerLogin, Decision, FilterChange, Hook, OnError, PublishChange, Refusal, Undecided,
    Unusable, UnusableKind, Want, WillChange,
};
use mproxy_core::rule::{Act, Actions, AskedFilter, Pattern, Retain, Rule, RuleEffect};
use mproxy_core::session::OnErrors;
use mproxy_sim::Verdict;
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version, Will};
use mproxy_sim::{QuestionRecord, Reply, Stage, allow, change, refuse};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn mapped() -> Grant {
    with(|grant| grant.mapping = Some(Mapping::new("acme/").expect("a prefix")))
}

/// A grant without rules, with this.
fn with(change: impl FnOnce(&mut Grant)) -> Grant {
    let mut grant = Grant::new(Vec::new(), RuleEffect::Ask);
    change(&mut grant);
    grant
}

fn rule(effect: RuleEffect, act: Act, topic: &str) -> Rule {
    Rule {
        effect,
        actions: Actions::NONE.with(act),
        topics: [Pattern::parse(topic).expect("a filter")].into(),
        max_qos: QoS::AtLeastOnce,
        retain: Retain::Refused,
        max_payload: None,
        condition: None,
    }
}

fn admits(admission: Admission) -> Stage {
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
    Stage::answering(move |asked| match asked.hook {
        Hook::Connect => Reply::Now(verdict.clone()),
        _ => Reply::Later,
    })
}

/// A session whose client has this grant; what the grant itself would decide is left to the script, as everything is.
fn granted(grant: Grant) -> Stage {
    admits(Admission { grant: Some(Arc::new(grant)), ..Admission::default() })
}

fn publish(version: Version, qos: u8, packet_id: u16, topic: &str) -> Vec<u8> {
    wire::publish(version, &Publish { topic, payload: b"21", qos, packet_id, ..Publish::default() })
}

fn topic(topic: &str) -> Verdict {
    change(PublishChange { topic: Some(topic.into()), ..PublishChange::default() })
}

#[test]
fn topics_are_mapped_on_the_way_up_and_down() {
    for version in VERSIONS {
        for qos in 0..=2 {
            let mut stage = granted(mapped()).open(version);
            stage.client(&publish(version, qos, 5, "room/1"));
            assert_eq!(
                stage.take_questions()[0].what,
                "room/1",
                "questions are about the client's own topics"
            );
            stage.rule(0, allow(Hook::Publish));
            assert_eq!(stage.at_broker(), publish(version, qos, 5, "acme/room/1"));
            stage.broker(&publish(version, qos, 6, "acme/room/2"));
            assert_eq!(stage.at_client(), publish(version, qos, 6, "room/2"));
        }
    }
}

#[test]
fn topics_are_mapped_where_nobody_is_asked_too() {
    let mut stage = granted(mapped());
    for hook in [Hook::Publish, Hook::Subscribe] {
        stage.script.want(hook, Want::Nothing);
    }
    stage.open_with(Version::V311, &[], &[]);
    stage.client(&publish(Version::V311, 0, 0, "a"));
    stage.client(&wire::subscribe(Version::V311, 1, &[("a/#", 1), ("$share/g/+", 0)]));
    let up = [
        publish(Version::V311, 0, 0, "acme/a"),
        wire::subscribe(Version::V311, 1, &[("acme/a/#", 1), ("$share/g/acme/+", 0)]),
    ];
    assert_eq!(stage.at_broker(), up.concat());
}

#[test]
fn a_large_payload_streams_behind_its_mapped_head() {
    let mut stage = granted(mapped());
    stage.script.want(Hook::Publish, Want::Nothing);
    stage.open_with(Version::V311, &[], &[]);
    let payload = vec![7; 100_000];
    let large =
        |topic| wire::publish(Version::V311, &Publish { topic, payload: &payload, ..Publish::default() });
    for chunk in large("a").chunks(20_000) {
        stage.client(chunk);
    }
    assert!(stage.at_broker() == large("acme/a"));
    for chunk in large("acme/b").chunks(20_000) {
        stage.broker(chunk);
    }
    assert!(stage.at_client() == large("b"));
}

/// A client whose rule allows payloads of so many bytes below `small/`.
fn bounded(most: u32) -> Stage {
    let rule = Rule { max_payload: Some(most), ..rule(RuleEffect::Allow, Act::Publish, "small/#") };
    let admission =
        Admission { grant: Some(Arc::new(Grant::new(vec![rule], RuleEffect::Deny))), ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
    Setup {
        grants: true,
        answering: Box::new(move |asked| match asked.hook {
            Hook::Connect => Reply::Now(verdict.clone()),
            _ => Reply::Later,
        }),
        ..Setup::default()
    }
    .stage()
}

#[test]
fn a_payload_over_its_rule_s_bound_is_refused_before_it_is_here() {
    for version in VERSIONS {
        let mut stage = bounded(1_000).open(version);
        let payload = vec![7; 20 << 20];
        let large = |qos, packet_id, payload| {
            let topic = "small/a";
            wire::publish(version, &Publish { topic, payload, qos, packet_id, ..Publish::default() })
        };
        let refused = |id| match version {
            Version::V5 => vec![0x40, 3, 0, id, 0x97],
            Version::V31 | Version::V311 => wire::puback(u16::from(id)),
        };
        let packet = large(1, 7, &payload);
        // Its head decides, in every version.
        stage.client(&packet[..70_000]);
        assert_eq!(stage.at_client(), refused(7));
        for chunk in packet[70_000..].chunks(100_000) {
            stage.client(chunk);
        }
        stage.client(&large(1, 8, &payload[..1_001]));
        assert_eq!((stage.at_broker(), stage.at_client()), (vec![], refused(8)));
        // As large as it may be; and one that is known to be allowed allows no larger one.
        for size in [3, 1_000] {
            stage.client(&large(1, 9, &payload[..size]));
            assert_eq!(stage.at_broker(), large(1, 9, &payload[..size]));
            stage.broker(&wire::puback(9));
            stage.at_client();
        }
        stage.client(&large(1, 10, &payload[..1_001]));
        assert_eq!((stage.at_broker(), stage.at_client()), (vec![], refused(10)));
    }
}

#[test]
fn nobody_waits_for_a_payload_that_a_rule_refuses() {
    let stage = bounded(1_000);
    stage.script.want(Hook::Publish, Want::Payload(1 << 20));
    let mut stage = stage.open(Version::V5);
    let payload = vec![7; 200_000];
    let message = Publish { topic: "small/a", payload: &payload, qos: 1, packet_id: 7, ..Publish::default() };
    let packet = wire::publish(Version::V5, &message);
    stage.client(&packet[..20_000]);
    assert_eq!(stage.at_client(), [0x40, 3, 0, 7, 0x97]);
}

#[test]
fn the_broker_s_own_topics_are_left_alone() {
    let mut stage = granted(mapped()).open(Version::V5);
    stage.client(&publish(Version::V5, 0, 0, "$SYS/x"));
    stage.rule(0, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), publish(Version::V5, 0, 0, "$SYS/x"));
    stage.broker(&publish(Version::V5, 0, 0, "$SYS/uptime"));
    assert_eq!(stage.at_client(), publish(Version::V5, 0, 0, "$SYS/uptime"));
    stage.client(&wire::subscribe(Version::V5, 1, &[("$SYS/#", 0)]));
    stage.rule(1, allow(Hook::Subscribe));
    assert_eq!(stage.at_broker(), wire::subscribe(Version::V5, 1, &[("$SYS/#", 0)]));
}

#[test]
fn what_the_broker_delivers_of_others_is_taken_and_dropped() {
    for version in VERSIONS {
        let mut stage = granted(mapped()).open(version);
        for other in ["other/room", "acme", "acmes/room", "room/1"] {
            stage.broker(&publish(version, 1, 6, other));
            assert_eq!(stage.at_client(), b"", "{other}");
            assert_eq!(stage.at_broker(), wire::puback(6), "{other}");
        }
        stage.broker(&publish(version, 2, 7, "other/room"));
        assert_eq!(stage.at_broker(), wire::pubrec(7));
        stage.broker(&wire::pubrel(7));
        assert_eq!((stage.at_broker(), stage.at_client()), (wire::pubcomp(7), Vec::new()));
    }
}

#[test]
fn deliveries_are_judged_under_the_client_s_topics() {
    let mut stage = granted(mapped());
    stage.script.want(Hook::Deliver, Want::Head);
    stage.open_with(Version::V311, &[], &[]);
    stage.broker(&publish(Version::V311, 0, 0, "acme/a"));
    assert_eq!(stage.take_questions()[0].what, "a");
    stage.rule(0, topic("b"));
    assert_eq!(stage.at_client(), publish(Version::V311, 0, 0, "b"));
    stage.broker(&publish(Version::V311, 0, 0, "acme/a"));
    stage.rule(1, topic("a"));
    assert_eq!(stage.at_client(), publish(Version::V311, 0, 0, "a"));
}

#[test]
fn a_rewritten_topic_is_mapped_like_the_client_s_own() {
    let mut stage = granted(mapped()).open(Version::V311);
    stage.client(&publish(Version::V311, 0, 0, "a"));
    stage.rule(0, topic("other/b"));
    assert_eq!(stage.at_broker(), publish(Version::V311, 0, 0, "acme/other/b"));
}

#[test]
fn a_mapped_topic_that_does_not_fit_is_refused() {
    let mut stage = granted(mapped()).open(Version::V5);
    stage.client(&publish(Version::V5, 1, 5, &"x".repeat(65_535)));
    stage.rule(0, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), b"");
    assert_eq!(stage.at_client(), wire::packet(0x40, &[0, 5, 0x97]));
}

#[test]
fn a_rewrite_is_held_against_the_grant_again() {
    let rules = || {
        vec![
            rule(RuleEffect::Deny, Act::Publish, "secret/#"),
            rule(RuleEffect::Allow, Act::Publish, "open/#"),
        ]
    };
    for (to, refused) in [("secret/x", Some(0x87)), ("open/x", None), ("else/x", None)] {
        let mut stage = granted(Grant::new(rules(), RuleEffect::Ask)).open(Version::V5);
        stage.client(&publish(Version::V5, 1, 5, "a"));
        stage.rule(0, topic(to));
        match refused {
            Some(code) => {
                assert_eq!(stage.at_client(), wire::packet(0x40, &[0, 5, code]));
                assert_eq!(stage.at_broker(), b"");
            }
            None => assert_eq!(stage.at_broker(), publish(Version::V5, 1, 5, to)),
        }
    }
    // Bounds of the rule hold for it as well.
    let mut stage = granted(Grant::new(rules(), RuleEffect::Ask)).open(Version::V5);
    stage.client(&publish(Version::V5, 2, 5, "a"));
    stage.rule(0, topic("open/x"));
    // QoS not supported cannot stand in a PUBREC.
    assert_eq!(stage.at_client(), wire::packet(0x50, &[0, 5, 0x87]));
    stage.client(&publish(Version::V5, 1, 6, "open/y"));
    stage.rule(1, change(PublishChange { retain: Some(true), ..PublishChange::default() }));
    assert_eq!(stage.at_client(), wire::packet(0x40, &[0, 6, 0x87]));
}

#[test]
fn a_rewritten_filter_is_held_against_the_grant_again() {
    let rules = vec![
        rule(RuleEffect::Deny, Act::Subscribe, "secret/#"),
        rule(RuleEffect::Allow, Act::Subscribe, "open/#"),
    ];
    let mut stage = granted(Grant::new(rules, RuleEffect::Ask)).open(Version::V5);
    stage.client(&wire::subscribe(Version::V5, 1, &[("a", 2), ("b", 2), ("c", 2)]));
    let to = |filter: &str| {
        Decision::Allow(FilterChange {
            filter: Some(filter.into()),
            max_qos: None,
            ..FilterChange::default()
        })
    };
    stage.rule(0, Verdict::Subscribe(vec![to("+/x"), to("open/x"), to("else")]));
    // `+/x` meets what is denied; what is allowed is allowed up to QoS 1.
    assert_eq!(stage.at_broker(), wire::subscribe(Version::V5, 1, &[("open/x", 1), ("else", 2)]));
    stage.broker(&wire::suback(Version::V5, 1, &[1, 2]));
    assert_eq!(stage.at_client(), wire::suback(Version::V5, 1, &[0x87, 1, 2]));
}

#[test]
fn mapped_filters_are_undone_by_their_originals() {
    for version in VERSIONS {
        let mut stage = granted(mapped()).open(version);
        stage.client(&wire::subscribe(version, 1, &[("a/#", 1), ("b", 1), ("$share/g/+/c", 1)]));
        let to = |filter: Option<&str>| {
            Decision::Allow(FilterChange {
                filter: filter.map(Into::into),
                max_qos: None,
                ..FilterChange::default()
            })
        };
        stage.rule(0, Verdict::Subscribe(vec![to(None), to(Some("d")), to(None)]));
        let sent = wire::subscribe(version, 1, &[("acme/a/#", 1), ("acme/d", 1), ("$share/g/acme/+/c", 1)]);
        assert_eq!(stage.at_broker(), sent);
        stage.broker(&wire::suback(version, 1, &[1, 1, 1]));
        assert_eq!(stage.at_client(), wire::suback(version, 1, &[1, 1, 1]));
        stage.client(&wire::unsubscribe(version, 2, &["$share/g/+/c", "b", "a/#"]));
        let sent = wire::unsubscribe(version, 2, &["$share/g/acme/+/c", "acme/d", "acme/a/#"]);
        assert_eq!(stage.at_broker(), sent);
        stage.broker(&wire::unsuback(version, 2, &[0, 0, 0]));
        assert_eq!(stage.at_client(), wire::unsuback(version, 2, &[0, 0, 0]));
    }
}

#[test]
fn a_prefix_that_does_not_end_a_level_reaches_nothing_that_begins_alike() {
    let grant = with(|grant| grant.mapping = Some(Mapping::new("acme").expect("a prefix")));
    let mut stage = granted(grant).open(Version::V5);
    stage.client(&wire::subscribe(Version::V5, 1, &[("#", 0), ("2/a", 0)]));
    stage.rule(0, allow(Hook::Subscribe));
    assert_eq!(stage.at_broker(), wire::subscribe(Version::V5, 1, &[("acme/#", 0), ("acme/2/a", 0)]));
    stage.broker(&wire::suback(Version::V5, 1, &[0, 0]));
    assert_eq!(stage.at_client(), wire::suback(Version::V5, 1, &[0, 0]));
    stage.broker(&wire::publish(Version::V5, &Publish { topic: "acme2/a", ..Publish::default() }));
    stage.broker(&wire::publish(Version::V5, &Publish { topic: "acme/2/a", ..Publish::default() }));
    let heard = wire::publish(Version::V5, &Publish { topic: "2/a", ..Publish::default() });
    assert_eq!(stage.at_client(), heard);
}

#[test]
fn a_filter_that_is_too_long_under_the_prefix_is_refused() {
    let mut stage = granted(mapped()).open(Version::V5);
    let long = "x".repeat(65_535);
    stage.client(&wire::subscribe(Version::V5, 1, &[(&long, 0), ("a", 0)]));
    stage.rule(0, allow(Hook::Subscribe));
    assert_eq!(stage.at_broker(), wire::subscribe(Version::V5, 1, &[("acme/a", 0)]));
    stage.broker(&wire::suback(Version::V5, 1, &[0]));
    assert_eq!(stage.at_client(), wire::suback(Version::V5, 1, &[0x8F, 0]));
}

#[test]
fn before_5_0_an_incomplete_share_passes_as_it_came() {
    for version in [Version::V31, Version::V311] {
        let stage = Stage::new();
        stage.script.want(Hook::Subscribe, Want::Nothing);
        let mut stage = stage.open(version);
        let odd = wire::subscribe(version, 1, &[("$share/x", 0), ("$share/+/a", 1)]);
        let away = wire::unsubscribe(version, 2, &["$share/x"]);
        stage.client(&odd);
        stage.client(&away);
        assert_eq!(stage.at_broker(), [odd, away].concat());

        // It has no place under a prefix, and its UNSUBSCRIBE is not lost among those that have.
        let mut stage = granted(mapped()).open(version);
        stage.client(&wire::unsubscribe(version, 1, &["$share/x", "a"]));
        assert_eq!(stage.at_broker(), wire::unsubscribe(version, 1, &["$share/x", "acme/a"]));
    }
}

#[test]
fn response_topics_are_mapped_too() {
    let response = |topic: &str| [b"\x08".to_vec(), wire::string(topic)].concat();
    let publish = |topic: &str, response: &[u8]| {
        wire::publish(Version::V5, &Publish { topic, properties: response, ..Publish::default() })
    };
    let mut stage = granted(mapped()).open(Version::V5);
    stage.client(&publish("ask", &response("answer/c")));
    stage.rule(0, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), publish("acme/ask", &response("acme/answer/c")));
    stage.broker(&publish("acme/ask", &response("acme/answer/d")));
    assert_eq!(stage.at_client(), publish("ask", &response("answer/d")));
    // Not this client's to answer under: what it means is not ours to say.
    stage.broker(&publish("acme/ask", &response("other/answer")));
    assert_eq!(stage.at_client(), publish("ask", &response("other/answer")));
    stage.client(&publish("ask", &response("$SYS/answer")));
    stage.rule(1, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), publish("acme/ask", &response("$SYS/answer")));
}

#[test]
fn aliases_of_mapped_topics_pass_once_they_are_taught() {
    let alias = |topic: &str, alias: u8| {
        wire::publish(Version::V5, &Publish { topic, properties: &[0x23, 0, alias], ..Publish::default() })
    };
    let mut stage = granted(mapped());
    stage.script.want(Hook::Publish, Want::Nothing);
    stage.open_with(Version::V5, b"\x22\0\x05", b"\x22\0\x05");
    for (client, broker) in [("a", "acme/a"), ("", ""), ("b", "acme/b"), ("", "")] {
        stage.client(&alias(client, 1));
        assert_eq!(stage.at_broker(), alias(broker, 1));
        stage.broker(&alias(broker, 2));
        assert_eq!(stage.at_client(), alias(client, 2));
    }
}

#[test]
fn the_will_is_mapped_and_judged_as_it_will_be_published() {
    let will = |topic, properties| Will { topic, payload: b"gone", qos: 1, properties, ..Will::default() };
    let connect = |version, topic, properties| {
        let options = ConnectOptions { will: Some(will(topic, properties)), ..ConnectOptions::default() };
        wire::connect(version, "c", &options)
    };
    for version in VERSIONS {
        let mut stage = granted(mapped());
        stage.client(&connect(version, "will/c", b""));
        assert_eq!(stage.at_broker(), connect(version, "acme/will/c", b""));
    }
    let (came, left) = (
        [b"\x08".to_vec(), wire::string("answer")].concat(),
        [b"\x08".to_vec(), wire::string("acme/answer")].concat(),
    );
    let mut stage = granted(mapped());
    stage.client(&connect(Version::V5, "will/c", &came));
    assert_eq!(stage.at_broker(), connect(Version::V5, "acme/will/c", &left));

    let rules = vec![rule(RuleEffect::Allow, Act::Will, "will/${clientid}")];
    for (topic, qos, retain, code) in [
        ("will/c", 1, false, None),
        ("will/d", 1, false, Some(0x87)),
        ("will/c", 2, false, Some(0x9B)),
        ("will/c", 0, true, Some(0x9A)),
    ] {
        let mut stage = granted(Grant::new(rules.clone(), RuleEffect::Deny));
        let will = Will { topic, payload: b"gone", qos, retain, ..Will::default() };
        let options = ConnectOptions { will: Some(will), ..ConnectOptions::default() };
        stage.client(&wire::connect(Version::V5, "c", &options));
        match code {
            Some(code) => {
                assert_eq!(stage.at_client(), wire::connack(Version::V5, false, code, &[]), "{topic}")
            }
            None => assert_eq!(stage.dials, 1),
        }
    }
    // As the admission rewrites it, not as it came.
    let replaced =
        WillChange::Replace { topic: Some("will/d".into()), payload: None, qos: None, retain: None };
    let grant = Some(Arc::new(Grant::new(rules, RuleEffect::Deny)));
    let mut stage = admits(Admission { will: Some(replaced), grant, ..Admission::default() });
    stage.client(&connect(Version::V311, "will/c", b""));
    assert_eq!(stage.at_client(), wire::connack(Version::V311, false, 5, &[]));
    assert_eq!(stage.dials, 0);
}

#[test]
fn events_tell_topics_and_filters_as_the_broker_has_them() {
    let mut stage = granted(mapped()).open(Version::V311);
    stage.client(&publish(Version::V311, 0, 0, "a"));
    stage.rule(0, allow(Hook::Publish));
    stage.client(&wire::subscribe(Version::V311, 1, &[("a", 0)]));
    stage.rule(1, allow(Hook::Subscribe));
    stage.broker(&wire::suback(Version::V311, 1, &[0]));
    let events = stage.events();
    assert!(
        matches!(&events[0], Happening::Publish(published) if &*published.topic == "acme/a"),
        "{events:?}"
    );
    assert!(
        matches!(&events[1], Happening::Subscribe { filters } if &*filters[0].0 == "acme/a"),
        "{events:?}"
    );
}

#[test]
fn a_subscribe_is_told_whatever_became_of_it_under_the_names_of_the_broker() {
    for version in VERSIONS {
        let no = if version == Version::V5 { 0x87 } else { 0x80 };
        let mut stage = granted(mapped()).open(version);
        let verdicts = |allowed: &[bool]| {
            let one = |allowed: &bool| match allowed {
                true => Decision::Allow(FilterChange::default()),
                false => Decision::Refuse(Refusal::default()),
            };
            Verdict::Subscribe(allowed.iter().map(one).collect())
        };
        let told = |stage: &mut Stage| {
            let events = stage.events();
            let [Happening::Subscribe { filters }] = &events[..] else { panic!("{events:?}") };
            filters.iter().map(|(filter, code)| (filter.to_string(), *code)).collect::<Vec<_>>()
        };
        stage.client(&wire::subscribe(version, 1, &[("a", 0), ("b", 1), ("$share/g/c", 0)]));
        stage.rule(0, verdicts(&[true, false, false]));
        stage.broker(&wire::suback(version, 1, &[0]));
        let expected = [("acme/a", 0), ("acme/b", no), ("$share/g/acme/c", no)];
        assert_eq!(told(&mut stage), expected.map(|(filter, code)| (filter.to_owned(), code)));

        stage.client(&wire::subscribe(version, 2, &[("d", 0), ("$SYS/x", 1)]));
        stage.rule(1, verdicts(&[false, false]));
        assert_eq!(stage.at_broker(), wire::subscribe(version, 1, &[("acme/a", 0)]));
        let expected = [("acme/d", no), ("$SYS/x", no)];
        assert_eq!(told(&mut stage), expected.map(|(filter, code)| (filter.to_owned(), code)));
    }
}

#[test]
fn a_grant_ends_the_session_in_time() {
    for version in VERSIONS {
        let expires_at = Some(Instant::now() + Duration::from_secs(3600));
        let mut stage = granted(with(|grant| grant.expires_at = expires_at)).open(version);
        stage.pass(Duration::from_secs(3500));
        assert_eq!(stage.session.phase_name(), "open");
        stage.pass(Duration::from_secs(101));
        // Maximum connect time.
        let goodbye = if version == Version::V5 { wire::packet(0xE0, &[0xA0]) } else { Vec::new() };
        assert_eq!(stage.at_client(), goodbye);
        assert_eq!(stage.at_broker(), b"", "without DISCONNECT: the will fires");
        assert_eq!(stage.finish(), Fault::TooLate(Deadline::Grant));
    }
}

#[test]
fn packets_over_the_grant_s_size_end_the_session_and_5_0_is_told_of_it_before() {
    let limits = GrantLimits { packet_size: Some(100), ..GrantLimits::default() };
    for version in VERSIONS {
        let mut stage = granted(with(|grant| grant.limits = limits));
        stage.client(&wire::connect(version, "c", &ConnectOptions::default()));
        stage.broker(&wire::connack(version, false, 0, &[]));
        let told: &[u8] = if version == Version::V5 { b"\x27\0\0\0\x64" } else { b"" };
        assert_eq!(stage.at_client(), wire::connack(version, false, 0, told));
        stage.client(&publish(version, 0, 0, &"x".repeat(90)));
        assert_eq!(stage.session.phase_name(), "open");
        stage.client(&publish(version, 0, 0, &"x".repeat(100)));
        let goodbye = if version == Version::V5 { wire::packet(0xE0, &[0x95]) } else { Vec::new() };
        assert_eq!(stage.at_client(), goodbye);
    }
}

#[test]
fn subscriptions_over_the_grant_s_number_are_refused() {
    let limits = GrantLimits { subscriptions: Some(2), ..GrantLimits::default() };
    let mut stage = granted(with(|grant| grant.limits = limits));
    stage.script.want(Hook::Subscribe, Want::Nothing);
    stage.open_with(Version::V5, &[], &[]);
    let subscribe = |id, filters| wire::subscribe(Version::V5, id, filters);
    stage.client(&subscribe(1, &[("a", 0), ("b", 0), ("c", 0)]));
    assert_eq!(stage.at_broker(), subscribe(1, &[("a", 0), ("b", 0)]));
    // The broker refuses one: it does not count.
    stage.broker(&wire::suback(Version::V5, 1, &[0, 0x87]));
    assert_eq!(stage.at_client(), wire::suback(Version::V5, 1, &[0, 0x87, 0x97]));
    stage.client(&subscribe(2, &[("c", 0)]));
    assert_eq!(stage.at_broker(), subscribe(2, &[("c", 0)]));
    stage.broker(&wire::suback(Version::V5, 2, &[0]));
    assert_eq!(stage.at_client(), wire::suback(Version::V5, 2, &[0]));
    // Again is not more.
    stage.client(&subscribe(3, &[("a", 1)]));
    assert_eq!(stage.at_broker(), subscribe(3, &[("a", 1)]));
    stage.client(&subscribe(4, &[("d", 1)]));
    assert_eq!(stage.at_client(), wire::suback(Version::V5, 4, &[0x97]));
    stage.client(&wire::unsubscribe(Version::V5, 5, &["a"]));
    stage.client(&subscribe(6, &[("d", 1)]));
    let up = [wire::unsubscribe(Version::V5, 5, &["a"]), subscribe(6, &[("d", 1)])];
    assert_eq!(stage.at_broker(), up.concat());
}

#[test]
fn what_has_no_place_under_the_prefix_uses_up_no_subscriptions() {
    let mut grant = mapped();
    grant.limits = GrantLimits { subscriptions: Some(2), ..GrantLimits::default() };
    let mut stage = granted(grant);
    stage.script.want(Hook::Subscribe, Want::Nothing);
    stage.open_with(Version::V5, &[], &[]);
    let long = "x".repeat(65_535);
    for id in 1..=3 {
        stage.client(&wire::subscribe(Version::V5, id, &[(&long, 0), (&long[1..], 0)]));
        assert_eq!(stage.at_client(), wire::suback(Version::V5, id, &[0x8F, 0x8F]));
    }
    stage.client(&wire::subscribe(Version::V5, 4, &[(&long, 0), ("a", 0), ("b", 0), ("c", 0)]));
    assert_eq!(stage.at_broker(), wire::subscribe(Version::V5, 4, &[("acme/a", 0), ("acme/b", 0)]));
    stage.broker(&wire::suback(Version::V5, 4, &[0, 0]));
    assert_eq!(stage.at_client(), wire::suback(Version::V5, 4, &[0x8F, 0, 0, 0x97]));
}

#[test]
fn a_grant_whose_mapping_refuses_nothing_leaves_refusals_as_they_are() {
    let mut stage = granted(mapped()).open(Version::V5);
    stage.client(&publish(Version::V5, 2, 5, "a"));
    stage.rule(0, Verdict::Publish(Decision::Refuse(Refusal::default())));
    assert_eq!(stage.at_client(), wire::packet(0x50, &[0, 5, 0x87]));
    stage.client(&publish(Version::V5, 1, 5, "b"));
    stage.rule(1, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), publish(Version::V5, 1, 5, "acme/b"));
}

/// A session whose grant, of this, holds for a minute; questions are answered later.
fn timed(grant: Grant) -> Stage {
    let mut grant = grant;
    grant.ttl = Some(Duration::from_secs(60));
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
    let mut asked = 0;
    let mut stage = Stage::answering(move |question| {
        asked += usize::from(question.hook == Hook::Connect);
        if asked == 1 { Reply::Now(verdict.clone()) } else { Reply::Later }
    });
    stage.open_with(Version::V5, &[], &[]);
    stage
}

fn regranted(grant: Option<Grant>) -> Verdict {
    let admission = Admission { grant: grant.map(Arc::new), ..Admission::default() };
    Verdict::Connect(Decision::Allow(Some(Box::new(admission))))
}

#[test]
fn a_grant_is_renewed_in_time_and_its_mapping_stays() {
    let mut stage = timed(mapped());
    for n in 0..5 {
        stage.pass(Duration::from_secs(59));
        assert_eq!(stage.questions(), n);
        stage.pass(Duration::from_secs(1));
        assert_eq!(stage.questions(), n + 1, "it is asked about");
        let question = stage.take_questions().pop().expect("it was asked");
        assert_eq!((question.hook, &*question.what), (Hook::Connect, "c"));
        stage.rule(
            n,
            regranted(Some(with(|grant| {
                grant.ttl = Some(Duration::from_secs(60));
                grant.version = n.to_string().into();
                // Where its topics stand does not change under its subscriptions.
                grant.mapping = Some(Mapping::new("other/").expect("a prefix"));
            }))),
        );
        let grant = stage.session.peer().and_then(|peer| peer.grant.clone()).expect("it has one");
        assert_eq!(*grant.version, *n.to_string());
    }
    stage.client(&publish(Version::V5, 0, 0, "a"));
    stage.rule(5, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), publish(Version::V5, 0, 0, "acme/a"));
}

#[test]
fn a_renewal_that_is_refused_ends_the_session() {
    let mut stage = timed(mapped());
    stage.pass(Duration::from_secs(60));
    stage.rule(0, Verdict::Connect(Decision::Refuse(Refusal::default())));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x87]));
    let fault = stage.finish();
    assert_eq!(fault, Fault::RenewalRefused { refusal: Box::default() });
    assert_eq!((fault.label(), fault.reason().0), ("renewal_refused", 0x87));
    assert_eq!(fault.to_string(), "renewal of the grant refused (0x87)");
}

#[test]
fn an_old_grant_serves_until_it_is_stale_and_is_asked_for_all_the_while() {
    let mut stage =
        timed(Grant::new(vec![rule(RuleEffect::Deny, Act::Publish, "secret")], RuleEffect::Allow));
    let default = |stage: &Stage| {
        let grant = stage.session.peer().and_then(|peer| peer.grant.clone()).expect("it has one");
        let who = mproxy_core::rule::Who::from(&**stage.session.peer().expect("it is open"));
        grant.filter(who, AskedFilter { filter: "a", qos: None, time: None })
    };
    stage.pass(Duration::from_secs(60));
    for n in 0..11 {
        stage.rule(n, mproxy_sim::fail());
        assert_eq!(default(&stage), mproxy_core::grant::GrantAnswer::Allow(QoS::ExactlyOnce), "{n}");
        stage.pass(Duration::from_secs(5));
        assert_eq!(stage.questions(), n + 2);
    }
    stage.pass(Duration::from_secs(5));
    assert_eq!(default(&stage), mproxy_core::grant::GrantAnswer::Ask, "stale");
    // It is found again when the service is.
    stage.rule(11, regranted(Some(Grant::new(Vec::new(), RuleEffect::Allow))));
    assert_eq!(default(&stage), mproxy_core::grant::GrantAnswer::Allow(QoS::ExactlyOnce));
    assert!(stage.session.poll_timeout().is_none(), "this one holds for ever");
}

#[test]
fn a_client_that_is_granted_nothing_any_more_is_asked_about() {
    let mut stage = timed(Grant::new(Vec::new(), RuleEffect::Allow));
    stage.pass(Duration::from_secs(60));
    stage.rule(0, allow(Hook::Connect));
    let grant = stage.session.peer().and_then(|peer| peer.grant.clone()).expect("it has one that asks");
    let who = mproxy_core::rule::Who::from(&**stage.session.peer().expect("it is open"));
    assert_eq!(
        grant.filter(who, AskedFilter { filter: "a", qos: None, time: None }),
        mproxy_core::grant::GrantAnswer::Ask
    );
    assert!(stage.session.poll_timeout().is_none());
}

#[test]
fn the_end_of_a_grant_holds_whatever_its_renewal_leaves_out() {
    let ends = Instant::now() + Duration::from_secs(100);
    let mut stage = timed(with(|grant| grant.expires_at = Some(ends)));
    stage.pass(Duration::from_secs(60));
    stage.rule(0, allow(Hook::Connect));
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0xA0]));
    assert_eq!(stage.finish(), Fault::TooLate(Deadline::Grant));
}

#[test]
fn a_renewal_that_cannot_be_used_keeps_the_old_grant_and_then_refuses() {
    let unusable = || Unusable::new(UnusableKind::Grant, "no prefix");
    let mut stage = timed(Grant::new(Vec::new(), RuleEffect::Allow));
    let stale = |stage: &Stage| {
        let grant = stage.session.peer().and_then(|peer| peer.grant.clone()).expect("it has one");
        grant.stale_because().cloned()
    };
    stage.pass(Duration::from_secs(60));
    for n in 0..11 {
        stage.rule(n, Verdict::Unusable(unusable()));
        assert_eq!(stale(&stage), None);
        stage.pass(Duration::from_secs(5));
    }
    stage.pass(Duration::from_secs(10));
    assert_eq!(stale(&stage), Some(Undecided::Unusable(unusable())), "no failure rule opens that");
    stage.rule(11, mproxy_sim::fail());
    assert!(matches!(stale(&stage), Some(Undecided::Failed(_))), "the last word counts");
}

#[test]
fn a_renewal_with_a_grant_that_has_ended_ends_the_session() {
    let mut stage = timed(mapped());
    stage.pass(Duration::from_secs(60));
    let reason = ReasonCode::NOT_AUTHORIZED;
    let ended = Unusable { reason, ..Unusable::new(UnusableKind::GrantExpired, "it has passed") };
    stage.rule(0, Verdict::Unusable(ended));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x87]));
    assert!(matches!(stage.finish(), Fault::PolicyUnusable { hook: Hook::Connect, .. }));
}

#[test]
fn a_time_that_no_clock_reaches_is_none() {
    let mut stage = timed(with(|grant| grant.ttl = Some(Duration::MAX)));
    stage.pass(Duration::from_secs(60));
    stage.rule(0, regranted(Some(with(|grant| grant.ttl = Some(Duration::MAX)))));
    assert!(stage.session.poll_timeout().is_none());
}

#[test]
fn a_will_that_is_too_long_under_its_prefix_refuses_the_connect_whatever_the_failure_rule() {
    for version in VERSIONS {
        let topic = "w".repeat(65_531);
        let grant = Some(Arc::new(mapped()));
        let verdict =
            Verdict::Connect(Decision::Allow(Some(Box::new(Admission { grant, ..Admission::default() }))));
        let on_error = OnErrors { connect: OnError::Allow, ..OnErrors::default() };
        let answering = Box::new(move |_: &_| Reply::Now(verdict.clone()));
        let mut stage = Setup { on_error, answering, ..Setup::default() }.stage();
        let will = Will { topic: &topic, payload: b"gone", ..Will::default() };
        stage.client(&wire::connect(
            version,
            "c",
            &ConnectOptions { will: Some(will), ..ConnectOptions::default() },
        ));
        let code = if version == Version::V5 { 0x95 } else { 5 };
        assert_eq!(stage.at_client(), wire::connack(version, false, code, &[]));
        assert_eq!(stage.dials, 0);
    }
}

#[test]
fn a_rewrite_over_the_broker_s_maximum_never_goes_as_it_came() {
    let on_error = OnErrors { publish: OnError::Allow, subscribe: OnError::Allow, ..OnErrors::default() };
    let mut stage = Setup { on_error, ..Setup::default() }.stage();
    // Maximum Packet Size 100, and a PUBLISH that fills it.
    stage.open_with(Version::V5, b"", b"\x27\0\0\0\x64");
    let payload = [b'x'; 92];
    let full = Publish { topic: "a", payload: &payload, qos: 1, packet_id: 5, ..Publish::default() };
    stage.client(&wire::publish(Version::V5, &full));
    stage.rule(0, topic("quarantine/a"));
    assert_eq!((stage.at_broker(), stage.at_client()), (Vec::new(), wire::packet(0x40, &[0, 5, 0x97])));
}

#[test]
fn an_unsubscribe_that_does_not_fit_under_the_prefix_does_not_go_as_it_came() {
    for version in VERSIONS {
        let prefix = format!("{}/", "p".repeat(60));
        let mut stage = granted(with(|grant| grant.mapping = Mapping::new(&prefix).ok()));
        let connack: &[u8] = if version == Version::V5 { b"\x27\0\0\0\x64" } else { b"" };
        stage.open_with(version, b"", connack);
        let filters: Vec<String> = (0..10).map(|n| format!("{n:04}")).collect();
        let filters: Vec<&str> = filters.iter().map(|one| &**one).collect();
        stage.client(&wire::unsubscribe(version, 7, &filters));
        if version == Version::V5 {
            assert_eq!(stage.at_client(), wire::unsuback(version, 7, &[0x83; 10]));
            assert_eq!(stage.at_broker(), b"");
        } else {
            assert!(!stage.at_broker().is_empty(), "3.x knows no Maximum Packet Size");
        }
    }
}

#[test]
fn a_token_ends_the_session_in_time_and_the_client_is_told() {
    for version in VERSIONS {
        let expires_at = Some(Instant::now() + Duration::from_secs(3600));
        let mut stage = granted(with(|grant| grant.token_ends_at = expires_at)).open(version);
        stage.pass(Duration::from_secs(3598));
        assert_eq!(stage.session.phase_name(), "open");
        stage.pass(Duration::from_secs(2));
        let text = [&[0x1F, 0, 13][..], b"token expired"].concat();
        let told = [&[0x87, 16][..], &text].concat();
        let goodbye = if version == Version::V5 { wire::packet(0xE0, &told) } else { Vec::new() };
        assert_eq!(stage.at_client(), goodbye);
        assert_eq!(stage.at_broker(), b"", "without DISCONNECT: the will fires");
        assert_eq!(stage.finish(), Fault::TooLate(Deadline::Token));
    }
}

/// The service that replaces a grant has not seen the token.
#[test]
fn no_other_grant_makes_a_token_longer() {
    let now = Instant::now();
    let at = |after| Some(now + Duration::from_secs(after));
    let of_token = |after| with(|grant| grant.token_ends_at = at(after));
    let ends = |after| with(|grant| grant.expires_at = at(after));
    let commanded = |begin: Grant, replacing: Vec<Option<Grant>>| {
        let mut stage = granted(begin).open(Version::V5);
        for grant in replacing {
            stage.command(Selector::All, SessionCommand::ReplaceGrant(grant.map(Arc::new)));
        }
        stage
    };
    for replacing in [None, Some(with(|_| {})), Some(ends(7200))] {
        let mut stage = commanded(of_token(3600), vec![replacing]);
        stage.pass(Duration::from_secs(3601));
        assert_eq!(stage.finish(), Fault::TooLate(Deadline::Token));
    }
    let mut stage = commanded(of_token(3600), vec![Some(ends(60))]);
    stage.pass(Duration::from_secs(61));
    assert_eq!(stage.finish(), Fault::TooLate(Deadline::Grant));
    // Nor if one in between ended sooner, or the first one itself did.
    let sooner = with(|grant| (grant.expires_at, grant.token_ends_at) = (at(60), at(3600)));
    for mut stage in [
        commanded(of_token(3600), vec![Some(ends(60)), Some(ends(7200))]),
        commanded(sooner, vec![Some(ends(7200))]),
    ] {
        stage.pass(Duration::from_secs(3599));
        assert_eq!(stage.session.phase_name(), "open");
        stage.pass(Duration::from_secs(2));
        assert_eq!(stage.finish(), Fault::TooLate(Deadline::Token));
    }
}

#[test]
fn the_broker_knows_the_client_by_its_own_login_and_nobody_else_does() {
    for version in VERSIONS {
        let login =
            BrokerLogin { username: Some("proxy".into()), password: Some(Bytes::from_static(b"secret")) };
        let mut stage = admits(Admission {
            username: Some("ann".into()),
            broker_login: Some(Arc::new(login)),
            ..Admission::default()
        });
        let token =
            ConnectOptions { username: Some("any"), password: Some(b"token"), ..ConnectOptions::default() };
        stage.client(&wire::connect(version, "c", &token));
        let expected = ConnectOptions {
            username: Some("proxy"),
            password: Some(b"secret"),
            ..ConnectOptions::default()
        };
        assert_eq!(stage.at_broker(), wire::connect(version, "c", &expected));
        assert_eq!(stage.session.peer().expect("a client").username.as_deref(), Some("ann"));
    }
}

#[test]
fn a_grant_that_ends_while_it_is_renewed_has_ended() {
    let expires_at = Some(Instant::now() + Duration::from_secs(70));
    let mut stage = timed(with(|grant| grant.expires_at = expires_at));
    stage.pass(Duration::from_secs(71));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0xA0]));
    stage.rule(0, regranted(None));
    assert_eq!(stage.finish(), Fault::TooLate(Deadline::Grant));
}

/// An open session of 3.1.1 with a grant that holds for a minute, whose publishes are answered like this; nobody is told
/// of them, so that answers may stand.
fn untold(answer: fn() -> Reply) -> Stage {
    let grant = with(|grant| grant.ttl = Some(Duration::from_secs(60)));
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
    let answering = Box::new(move |asked: &QuestionRecord| match asked.hook {
        Hook::Connect => Reply::Now(verdict.clone()),
        _ => answer(),
    });
    let mut stage = Setup { telling: Want::Nothing, answering, ..Setup::default() }.stage();
    stage.open_with(Version::V311, &[], &[]);
    stage
}

#[test]
fn what_a_grant_said_stands_as_long_as_the_grant_does() {
    for renewed in [true, false] {
        let mut stage = untold(|| Reply::Stands(allow(Hook::Publish)));
        let sent = publish(Version::V311, 0, 0, "a");
        let passes = |stage: &mut Stage| {
            stage.client(&sent);
            stage.at_broker() == sent
        };
        assert!(passes(&mut stage) && stage.take_questions().len() == 1);
        stage.script.answer(|asked| match asked.hook {
            Hook::Connect => Reply::Later,
            _ => Reply::Now(refuse(Hook::Publish)),
        });
        assert!(passes(&mut stage) && stage.take_questions().is_empty(), "it stands");
        stage.pass(Duration::from_secs(60));
        if renewed {
            stage.rule(0, regranted(Some(Grant::new(Vec::new(), RuleEffect::Ask))));
        } else {
            stage.pass(Duration::from_secs(60));
        }
        stage.take_questions();
        assert!(!passes(&mut stage) && stage.take_questions().len() == 1, "renewed: {renewed}");
    }
}

#[test]
fn what_the_service_said_of_one_publish_stands_for_no_other() {
    let mut stage = untold(|| Reply::Now(allow(Hook::Publish)));
    for _ in 0..3 {
        stage.client(&publish(Version::V311, 0, 0, "a"));
        assert_eq!((stage.at_broker(), stage.take_questions().len()), (publish(Version::V311, 0, 0, "a"), 1));
    }
}
