//! Decisions that are taken back: commands meet a session in whatever state it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mproxy_codec::types::PacketType;
use mproxy_codec::{QoS, ReasonCode};
use mproxy_core::command::{Dismissal, Reach, Selector, SessionCommand, WillChoice};
use mproxy_core::event::Happening;
use mproxy_core::fault::{Deadline, Fault, Party};
use mproxy_core::grant::{Grant, GrantLimits, Mapping};
use mproxy_core::meter::{Meter, Outcome};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    Admission, Decision, Failure, FailureKind, FilterChange, Hook, OnError, Overload, Source, Unusable, Want,
};
use mproxy_core::rule::{Act, Actions, Pattern, Retain, Rule, RuleEffect};
use mproxy_core::session::RecallStage;
use mproxy_core::{Limits, Side};
use mproxy_sim::stage::{DialScript, Setup};
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version, Will};
use mproxy_sim::{Reply, Stage, Verdict, allow, refuse};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// The highest packet id, which mproxy takes first for an UNSUBSCRIBE of its own.
const OURS: u16 = 65_535;

fn rule(effect: RuleEffect, act: Act, topics: &[&str]) -> Rule {
    Rule {
        effect,
        actions: Actions::NONE.with(act),
        topics: topics.iter().map(|topic| Pattern::parse(topic).expect("a filter")).collect(),
        max_qos: QoS::ExactlyOnce,
        retain: Retain::Allowed,
        max_payload: None,
        condition: None,
    }
}

/// A grant to subscribe to these, and to nothing else.
fn subscribes(topics: &[&str]) -> Grant {
    Grant::new(vec![rule(RuleEffect::Allow, Act::Subscribe, topics)], RuleEffect::Deny)
}

/// The same, called this.
fn named(version: &str, mut grant: Grant) -> Grant {
    grant.version = version.into();
    grant
}

fn replace(grant: Grant) -> SessionCommand {
    SessionCommand::ReplaceGrant(Some(Arc::new(grant)))
}

/// A client with this grant, which is asked before the script.
fn granted(grant: Grant) -> Stage {
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
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

/// A client without a grant, whose questions wait for their verdicts.
fn ungranted() -> Stage {
    Setup { grants: true, ..Setup::default() }.stage()
}

fn publish(version: Version, qos: u8, packet_id: u16, topic: &str) -> Vec<u8> {
    wire::publish(version, &Publish { topic, payload: b"21", qos, packet_id, ..Publish::default() })
}

/// The client subscribes to these filters under this packet id, and the broker grants all.
fn subscribe(stage: &mut Stage, version: Version, id: u16, filters: &[&str]) {
    let asked: Vec<_> = filters.iter().map(|filter| (*filter, 1)).collect();
    stage.client(&wire::subscribe(version, id, &asked));
    stage.broker(&wire::suback(version, id, &vec![1; filters.len()]));
    stage.at_broker();
    stage.at_client();
}

fn reach(clients: u64, subscriptions: u64) -> Reach {
    Reach { clients, subscriptions }
}

#[test]
fn what_is_taken_back_ends_at_once_and_then_at_the_broker() {
    for version in VERSIONS {
        let mut stage = granted(subscribes(&["a/#", "b"])).open(version);
        subscribe(&mut stage, version, 1, &["a/1", "a/2", "b"]);
        let met = stage.command(Selector::All, replace(subscribes(&["b", "a/2"])));
        assert_eq!(met, reach(1, 1));
        assert_eq!(stage.at_broker(), wire::unsubscribe(version, OURS, &["a/1"]));
        for qos in 0..=2 {
            stage.broker(&publish(version, qos, 7, "a/1"));
            assert_eq!(stage.at_client(), b"", "QoS {qos}");
            let taken = [vec![], wire::puback(7), wire::pubrec(7)];
            assert_eq!(stage.at_broker(), taken[usize::from(qos)]);
        }
        stage.broker(&wire::pubrel(7));
        assert_eq!(stage.at_broker(), wire::pubcomp(7));
        stage.broker(&publish(version, 1, 8, "b"));
        assert_eq!(stage.at_client(), publish(version, 1, 8, "b"));
        stage.client(&wire::puback(8));
        stage.at_broker();
        // The answer goes nowhere, and the broker may still have had some in hand.
        stage.broker(&wire::unsuback(version, OURS, &[0]));
        stage.broker(&publish(version, 1, 9, "a/1"));
        assert_eq!((stage.at_client(), stage.at_broker()), (Vec::new(), wire::puback(9)));
    }
}

/// The broker has been asked to end a subscription under a packet id that the client uses next.
fn held_for_an_unsuback(version: Version) -> Stage {
    let mut stage = granted(subscribes(&["a", "b"])).open(version);
    subscribe(&mut stage, version, 1, &["a"]);
    stage.command(Selector::All, replace(subscribes(&["b"])));
    assert_eq!(stage.at_broker(), wire::unsubscribe(version, OURS, &["a"]));
    stage
}

#[test]
fn a_client_is_not_held_for_an_unsuback_without_end() {
    for version in VERSIONS {
        let mut stage = held_for_an_unsuback(version);
        // Nobody waits for it yet.
        stage.pass(Duration::from_secs(60));
        assert_eq!(stage.session.phase_name(), "open");
        stage.client(&[wire::subscribe(version, OURS, &[("b", 0)]), wire::pingreq()].concat());
        stage.pass(Duration::from_secs(9));
        assert_eq!((stage.session.phase_name(), stage.at_broker()), ("open", Vec::new()));
        // More of the client's does not begin it anew.
        stage.client(&wire::pingreq());
        stage.pass(Duration::from_secs(2));
        let goodbye = if version == Version::V5 { wire::packet(0xE0, &[0x80]) } else { Vec::new() };
        assert_eq!(stage.at_client(), goodbye);
        let fault = stage.finish();
        assert_eq!(fault, Fault::TooLate(Deadline::Unsuback));
        assert_eq!(
            (fault.by(), fault.to_string()),
            (Party::Broker, "deadline exceeded: unsuback".to_owned())
        );
    }
}

#[test]
fn each_unsuback_has_its_own_time() {
    let v = Version::V5;
    let mut stage = held_for_an_unsuback(v);
    stage.client(&wire::subscribe(v, OURS, &[("b", 0)]));
    stage.pass(Duration::from_secs(9));
    stage.broker(&wire::unsuback(v, OURS, &[0]));
    assert_eq!(stage.at_broker(), wire::subscribe(v, OURS, &[("b", 0)]));
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.session.phase_name(), "open");
}

#[test]
fn deliveries_waiting_for_their_verdict_are_taken_back_too() {
    let v = Version::V5;
    let mut stage = granted(subscribes(&["a", "b"]));
    stage.script.want(Hook::Deliver, Want::Head);
    stage.open_with(v, &[], &[]);
    subscribe(&mut stage, v, 1, &["a", "b"]);
    stage.broker(&publish(v, 1, 5, "a"));
    stage.broker(&publish(v, 1, 6, "b"));
    stage.command(Selector::All, replace(subscribes(&["b"])));
    let unsubscribe = wire::unsubscribe(v, OURS, &["a"]);
    assert_eq!(stage.at_broker(), [unsubscribe, wire::puback(5)].concat());
    // `b` was asked about once more; the answer to the first question counts for nothing.
    stage.rule(1, refuse(Hook::Deliver));
    assert_eq!(stage.at_client(), b"");
    stage.rule(2, allow(Hook::Deliver));
    assert_eq!(stage.at_client(), publish(v, 1, 6, "b"));
}

#[test]
fn a_packet_id_in_use_is_not_taken() {
    for version in VERSIONS {
        let mut stage = granted(Grant::new(
            vec![
                rule(RuleEffect::Allow, Act::Subscribe, &["#"]),
                rule(RuleEffect::Allow, Act::Publish, &["#"]),
            ],
            RuleEffect::Deny,
        ))
        .open(version);
        subscribe(&mut stage, version, 1, &["a"]);
        stage.client(&publish(version, 1, OURS, "up"));
        stage.client(&publish(version, 2, OURS - 1, "up"));
        stage.at_broker();
        stage.command(Selector::All, replace(Grant::new(Vec::new(), RuleEffect::Deny)));
        assert_eq!(stage.at_broker(), wire::unsubscribe(version, OURS - 2, &["a"]));
    }
}

#[test]
fn while_a_subscribe_is_out_the_clean_up_waits_and_the_revocation_does_not() {
    for version in VERSIONS {
        let mut stage = granted(subscribes(&["a", "b"])).open(version);
        subscribe(&mut stage, version, 1, &["a"]);
        stage.client(&wire::subscribe(version, 2, &[("b", 1)]));
        stage.at_broker();
        assert_eq!(stage.command(Selector::All, replace(subscribes(&["b"]))), reach(1, 1));
        assert_eq!(stage.at_broker(), b"", "whether an id is free is not known");
        stage.broker(&publish(version, 0, 0, "a"));
        assert_eq!(stage.at_client(), b"");
        // The broker is done with this one.
        stage.broker(&wire::suback(version, 2, &[1]));
        assert_eq!(stage.at_broker(), wire::unsubscribe(version, 2, &["a"]));
        assert_eq!(stage.at_client(), wire::suback(version, 2, &[1]));
        // The client's next packet under it waits for ours to be answered, and those behind it.
        let next = [wire::subscribe(version, 2, &[("b", 0)]), wire::pingreq()].concat();
        stage.client(&next);
        assert_eq!(stage.at_broker(), b"");
        stage.broker(&wire::unsuback(version, 2, &[0]));
        assert_eq!((stage.at_broker(), stage.at_client()), (next, Vec::new()));
    }
}

#[test]
fn a_publish_under_our_packet_id_waits_and_others_do_not() {
    for version in VERSIONS {
        let all = || rule(RuleEffect::Allow, Act::Publish, &["#"]);
        let grant = |topics: &[&str]| {
            Grant::new(vec![rule(RuleEffect::Allow, Act::Subscribe, topics), all()], RuleEffect::Deny)
        };
        let mut stage = granted(grant(&["a"])).open(version);
        subscribe(&mut stage, version, 1, &["a"]);
        stage.command(Selector::All, replace(grant(&["b"])));
        stage.at_broker();
        stage.client(&publish(version, 1, 1, "up"));
        assert_eq!(stage.at_broker(), publish(version, 1, 1, "up"));
        stage.client(&publish(version, 2, OURS, "up"));
        assert_eq!(stage.at_broker(), b"");
        stage.broker(&wire::unsuback(version, OURS, &[0]));
        assert_eq!(stage.at_broker(), publish(version, 2, OURS, "up"));
    }
}

#[test]
fn in_a_resumed_session_what_was_never_seen_passes_by_its_exact_topic() {
    for version in VERSIONS {
        let mut stage = granted(subscribes(&["#"]));
        let options = ConnectOptions { clean: false, ..ConnectOptions::default() };
        stage.client(&wire::connect(version, "c", &options));
        // 3.1 cannot tell of it.
        stage.broker(&wire::connack(version, version != Version::V31, 0, b""));
        stage.at_broker();
        stage.at_client();
        subscribe(&mut stage, version, 1, &["seen/#"]);
        stage.command(Selector::All, replace(subscribes(&["mine/+", "seen/1"])));
        assert_eq!(stage.at_broker(), b"", "no packet id is surely free");
        for (topic, passes) in [("mine/1", true), ("other", false), ("seen/2", false), ("seen/1", true)] {
            stage.broker(&publish(version, 0, 0, topic));
            assert_eq!(stage.at_client().is_empty(), !passes, "{topic}");
        }
        // An id that the broker has just been done with.
        stage.client(&wire::subscribe(version, 9, &[("mine/x", 0)]));
        stage.at_broker();
        stage.broker(&wire::suback(version, 9, &[0]));
        assert_eq!(stage.at_broker(), wire::unsubscribe(version, 9, &["seen/#"]));
    }
}

#[test]
fn a_grant_that_is_no_change_costs_nothing() {
    let v = Version::V311;
    let mut stage = granted(subscribes(&["a"]));
    stage.client(&wire::connect(v, "c", &ConnectOptions { clean: false, ..ConnectOptions::default() }));
    stage.broker(&wire::connack(v, false, 0, b""));
    subscribe(&mut stage, v, 1, &["a"]);
    let same = named("2", subscribes(&["a"]));
    assert_eq!(stage.command(Selector::All, replace(same)), reach(1, 0));
    stage.broker(&publish(v, 1, 1, "unseen"));
    assert_eq!(stage.at_client(), publish(v, 1, 1, "unseen"));
    assert_eq!(&*stage.session.peer().unwrap().grant.as_ref().unwrap().version, "2");
}

#[test]
fn a_subscription_that_somebody_was_asked_about_stays_where_the_grant_asks() {
    let v = Version::V5;
    let some = Grant::new(vec![rule(RuleEffect::Allow, Act::Subscribe, &["own/#"])], RuleEffect::Ask);
    let mut stage = granted(some).open(v);
    stage.client(&wire::subscribe(v, 1, &[("own/1", 0), ("asked", 0), ("refused", 0)]));
    let yes = Decision::Allow(FilterChange::default());
    stage.rule(0, Verdict::Subscribe(vec![yes.clone(), yes]));
    stage.broker(&wire::suback(v, 1, &[0, 0, 0]));
    stage.at_broker();
    stage.at_client();
    let deny = Grant::new(vec![rule(RuleEffect::Deny, Act::Subscribe, &["refused"])], RuleEffect::Ask);
    assert_eq!(stage.command(Selector::All, replace(deny)), reach(1, 2));
    assert_eq!(stage.at_broker(), wire::unsubscribe(v, OURS, &["refused", "own/1"]));
    // The same without any grant.
    assert_eq!(stage.command(Selector::All, SessionCommand::ReplaceGrant(None)), reach(1, 0));
    stage.broker(&publish(v, 0, 0, "asked"));
    assert_eq!(stage.at_client(), publish(v, 0, 0, "asked"));
    let mut never = ungranted().open(v);
    assert_eq!(never.command(Selector::All, SessionCommand::ReplaceGrant(None)), reach(1, 0));
    assert!(never.session.peer().unwrap().grant.is_none());
}

#[test]
fn rewritten_and_mapped_filters_end_under_the_names_that_the_broker_knows() {
    let v = Version::V5;
    let mapped = |rules| {
        let mut grant = Grant::new(rules, RuleEffect::Ask);
        grant.mapping = Some(Mapping::new("acme").expect("a prefix"));
        grant
    };
    let mut stage = granted(mapped(Vec::new())).open(v);
    stage.client(&wire::subscribe(v, 1, &[("a", 0), ("$share/g/b/+", 0), ("c", 0), ("d", 0)]));
    let to = |filter: &str| {
        Decision::Allow(FilterChange {
            filter: Some(filter.into()),
            max_qos: None,
            ..FilterChange::default()
        })
    };
    let plain = || Decision::Allow(FilterChange::default());
    stage.rule(0, Verdict::Subscribe(vec![to("x"), plain(), to("y"), plain()]));
    stage.broker(&wire::suback(v, 1, &[0; 4]));
    stage.at_broker();
    stage.at_client();
    // The mapping of a session does not change, whatever the command says.
    let deny = Grant::new(vec![rule(RuleEffect::Deny, Act::Subscribe, &["x", "b/#"])], RuleEffect::Ask);
    assert_eq!(stage.command(Selector::All, replace(deny)), reach(1, 2));
    assert_eq!(stage.at_broker(), wire::unsubscribe(v, OURS, &["acme/x", "$share/g/acme/b/+"]));
    for (topic, passes) in [("acme/x", false), ("acme/b/1", false), ("acme/y", true), ("acme/d", true)] {
        stage.broker(&publish(v, 0, 0, topic));
        assert_eq!(stage.at_client().is_empty(), !passes, "{topic}");
    }
}

#[test]
fn a_filter_that_is_subscribed_to_again_does_not_end() {
    let v = Version::V311;
    let mut stage = granted(subscribes(&["#"])).open(v);
    subscribe(&mut stage, v, 1, &["a", "b"]);
    stage.client(&wire::subscribe(v, 2, &[("c", 0)]));
    stage.at_broker();
    stage.command(Selector::All, replace(subscribes(&["c"])));
    stage.command(Selector::All, replace(subscribes(&["a", "c"])));
    stage.client(&wire::subscribe(v, 3, &[("a", 0)]));
    stage.at_broker();
    stage.broker(&wire::suback(v, 2, &[0]));
    assert_eq!(stage.at_broker(), wire::unsubscribe(v, 2, &["b"]));
    stage.broker(&wire::suback(v, 3, &[0]));
    stage.at_client();
    stage.broker(&publish(v, 0, 0, "a"));
    assert_eq!(stage.at_client(), publish(v, 0, 0, "a"));
}

#[test]
fn many_filters_end_one_packet_after_the_other() {
    let v = Version::V5;
    let mut stage = granted(subscribes(&["#"])).open(v);
    let filters: Vec<String> = (0..3000).map(|n| format!("devices/{n}/status")).collect();
    let filters: Vec<&str> = filters.iter().map(|filter| &**filter).collect();
    for (n, some) in filters.chunks(500).enumerate() {
        subscribe(&mut stage, v, n as u16 + 1, some);
    }
    assert_eq!(stage.command(Selector::All, replace(subscribes(&["x"]))), reach(1, 3000));
    let (mut packets, mut ended) = (0, 0);
    loop {
        let sent = stage.at_broker();
        if sent.is_empty() {
            break;
        }
        assert!(sent.len() < 16 << 10, "{}", sent.len());
        assert_eq!(sent[3..5], OURS.to_be_bytes());
        packets += 1;
        ended += sent.windows(8).filter(|some| some == b"devices/").count();
        stage.broker(&wire::unsuback(v, OURS, &[0]));
    }
    assert_eq!((ended, stage.at_client()), (3000, Vec::new()));
    assert!((4..20).contains(&packets), "{packets}");
}

#[test]
fn what_waits_in_the_lane_is_judged_by_the_new_grant() {
    let v = Version::V5;
    let ask = || Grant::new(Vec::new(), RuleEffect::Ask);
    let mut stage = granted(ask()).open(v);
    for (id, topic) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        stage.client(&publish(v, 1, id, topic));
    }
    stage.client(&wire::subscribe(v, 5, &[("a", 0), ("b", 0), ("c", 0)]));
    // The service's own answer stays where the grant leaves it to the service.
    stage.rule(2, allow(Hook::Publish));
    stage.rule(1, allow(Hook::Publish));
    let rules = vec![
        rule(RuleEffect::Allow, Act::Publish, &["a"]),
        rule(RuleEffect::Deny, Act::Publish, &["b"]),
        rule(RuleEffect::Allow, Act::Subscribe, &["a"]),
        rule(RuleEffect::Deny, Act::Subscribe, &["b"]),
    ];
    stage.command(Selector::All, replace(Grant::new(rules, RuleEffect::Ask)));
    assert_eq!(stage.at_broker(), [publish(v, 1, 1, "a"), publish(v, 1, 3, "c")].concat());
    assert_eq!(stage.at_client(), wire::packet(0x40, &[0, 2, 0x87]));
    // `d` and the filter `c` were asked about again, and the old answers count for nothing.
    stage.rule(3, refuse(Hook::Publish));
    stage.rule(4, Verdict::SubscribeAll(Decision::Allow(())));
    assert_eq!((stage.at_broker(), stage.at_client()), (Vec::new(), Vec::new()));
    stage.rule(5, allow(Hook::Publish));
    stage.rule(6, Verdict::Subscribe(vec![Decision::Allow(FilterChange::default())]));
    assert_eq!(
        stage.at_broker(),
        [publish(v, 1, 4, "d"), wire::subscribe(v, 5, &[("a", 0), ("c", 0)])].concat()
    );
}

#[test]
fn limits_and_deadlines_are_those_of_the_new_grant() {
    let v = Version::V5;
    let mut first = subscribes(&["#"]);
    first.ttl = Some(Duration::from_secs(1));
    let mut stage = granted(first).open(v);
    stage.script.answer(|_| Reply::Later);
    let mut grant = subscribes(&["#"]);
    grant.limits = GrantLimits { subscriptions: Some(1), packet_size: Some(40), ..GrantLimits::default() };
    grant.ttl = Some(Duration::from_secs(60));
    grant.expires_at = Some(stage.now + Duration::from_secs(90));
    stage.command(Selector::All, replace(grant));
    stage.pass(Duration::from_secs(50));
    assert!(stage.take_questions().is_empty(), "the ttl of the old grant is none any more");
    stage.client(&wire::subscribe(v, 1, &[("a", 0), ("b", 0)]));
    assert_eq!(stage.at_broker(), wire::subscribe(v, 1, &[("a", 0)]));
    stage.broker(&wire::suback(v, 1, &[0]));
    stage.pass(Duration::from_secs(20));
    assert_eq!(stage.take_questions().len(), 1, "that of the new one has passed");
    stage.pass(Duration::from_secs(30));
    stage.at_client();
    assert_eq!(stage.finish(), Fault::TooLate(Deadline::Grant));
}

#[test]
fn a_renewal_that_was_asked_before_the_command_counts_for_nothing() {
    let v = Version::V5;
    let mut first = subscribes(&["a"]);
    first.ttl = Some(Duration::from_secs(10));
    let mut stage = granted(first).open(v);
    stage.script.answer(|_| Reply::Later);
    stage.pass(Duration::from_secs(10));
    assert_eq!(stage.questions(), 1, "it is asked for another grant");
    let commanded = named("commanded", subscribes(&["b"]));
    stage.command(Selector::All, replace(commanded));
    let old = Admission { grant: Some(Arc::new(subscribes(&["a"]))), ..Admission::default() };
    stage.rule(0, Verdict::Connect(Decision::Allow(Some(Box::new(old)))));
    assert_eq!(&*stage.session.peer().unwrap().grant.as_ref().unwrap().version, "commanded");
}

#[test]
fn a_renewed_grant_takes_back_what_a_command_would() {
    let v = Version::V5;
    let mut stage = granted(subscribes(&["a", "b"])).open(v);
    subscribe(&mut stage, v, 1, &["a", "b"]);
    let next = Admission { grant: Some(Arc::new(subscribes(&["b"]))), ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(next))));
    stage.script.answer(move |_| Reply::Now(verdict.clone()));
    let check = |version: &str| SessionCommand::CheckGrant { version: version.into() };
    assert_eq!(stage.command(Selector::All, check("2")), reach(1, 0));
    stage.pass(Duration::ZERO);
    assert_eq!(stage.take_questions().len(), 1);
    assert_eq!(stage.at_broker(), wire::unsubscribe(v, OURS, &["a"]));
    stage.broker(&publish(v, 0, 0, "a"));
    assert_eq!(stage.at_client(), b"");
}

#[test]
fn only_another_version_is_renewed_and_failures_are_tried_again() {
    let v = Version::V5;
    let mut stage = granted(named("7", subscribes(&["a"]))).open(v);
    stage.script.answer(|_| Reply::Now(Verdict::Failed(Failure::new(FailureKind::Unavailable, "gone"))));
    let check = |version: &str| SessionCommand::CheckGrant { version: version.into() };
    assert_eq!(stage.command(Selector::All, check("7")), reach(1, 0));
    stage.pass(Duration::from_secs(60));
    assert!(stage.take_questions().is_empty());
    for other in ["8", ""] {
        stage.command(Selector::All, check(other));
        stage.pass(Duration::from_secs(1));
        assert_eq!(stage.take_questions().len(), 1, "{other:?}");
    }
    stage.pass(Duration::from_secs(5));
    assert_eq!(stage.take_questions().len(), 1);
    let same = Admission { grant: Some(Arc::new(subscribes(&["a"]))), ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(same))));
    stage.script.answer(move |_| Reply::Now(verdict.clone()));
    stage.pass(Duration::from_secs(5));
    assert_eq!(stage.take_questions().len(), 1);
    stage.pass(Duration::from_secs(60));
    assert!(stage.take_questions().is_empty() && stage.done().is_none());
}

#[test]
fn a_command_is_newer_than_the_answer_that_is_out() {
    for version in VERSIONS {
        let v = version;
        let connecting = || {
            let mut stage =
                Setup { grants: true, answering: Box::new(|_| Reply::Later), ..Setup::default() }.stage();
            stage.client(&wire::connect(v, "c", &ConnectOptions::default()));
            stage
        };
        let wide = || {
            let attributes = vec![("plan".to_owned(), "free".to_owned())];
            let admission = Admission {
                username: Some("ann".into()),
                attributes,
                grant: Some(Arc::new(subscribes(&["#"]))),
                ..Admission::default()
            };
            Verdict::Connect(Decision::Allow(Some(Box::new(admission))))
        };
        let of_plan = Selector::Attribute { name: "plan".into(), value: "free".into() };
        let of_ann = Selector::Username("ann".into());
        for selector in [of_plan, of_ann, Selector::ClientId("c".into()), Selector::All] {
            let mut stage = connecting();
            let narrow = named("narrow", subscribes(&["a"]));
            assert_eq!(stage.command(selector.clone(), replace(narrow)), reach(0, 0), "nobody knows yet");
            stage.rule(0, wide());
            let granted = stage.session.peer().unwrap().grant.clone().unwrap();
            assert_eq!(&*granted.version, "narrow", "{selector:?}");
            stage.broker(&wire::connack(v, false, 0, b""));
            stage.at_client();
            stage.client(&wire::subscribe(v, 1, &[("b", 0)]));
            let refused = if v == Version::V5 { 0x87 } else { 0x80 };
            assert_eq!(stage.at_client(), wire::suback(v, 1, &[refused]));

            let mut stage = connecting();
            let dismissal = Dismissal::new(ReasonCode::BANNED);
            stage.command(selector, SessionCommand::Disconnect(dismissal));
            if stage.done().is_none() && stage.questions() == 1 && stage.session.phase_name() == "admitting" {
                stage.rule(0, wide());
            }
            assert_eq!(stage.dials, 0);
            assert!(matches!(stage.finish(), Fault::Kicked { .. }));
        }
        // Somebody else is not met.
        let mut stage = connecting();
        stage.command(Selector::Username("bob".into()), replace(subscribes(&["a"])));
        stage.rule(0, wide());
        let granted = stage.session.peer().unwrap().grant.clone().unwrap();
        assert_eq!(*granted, subscribes(&["#"]));
    }
}

#[test]
fn a_question_that_is_asked_again_is_newer_than_the_command() {
    let v = Version::V5;
    let mut stage = Setup { answering: Box::new(|_| Reply::Later), ..Setup::default() }.stage();
    stage.client(&wire::connect(v, "c", &ConnectOptions::default()));
    stage.command(
        Selector::ClientId("c".into()),
        SessionCommand::Disconnect(Dismissal::new(ReasonCode::BANNED)),
    );
    stage.rule(0, Verdict::Failed(Failure::new(FailureKind::Unavailable, "restarting")));
    stage.pass(Duration::from_millis(200));
    assert_eq!(stage.questions(), 2);
    stage.rule(1, allow(Hook::Connect));
    stage.broker(&wire::connack(v, false, 0, b""));
    assert_eq!(stage.session.phase_name(), "open");
}

#[test]
fn more_commands_than_are_kept_have_the_connect_decided_anew() {
    let v = Version::V5;
    let mut stage = Setup { answering: Box::new(|_| Reply::Later), ..Setup::default() }.stage();
    stage.client(&wire::connect(v, "c", &ConnectOptions::default()));
    for n in 0..300 {
        stage.command(Selector::Username(n.to_string().into()), replace(subscribes(&["a"])));
    }
    stage.rule(0, allow(Hook::Connect));
    assert_eq!((stage.dials, stage.session.phase_name()), (0, "admitting"));
    stage.pass(Duration::from_millis(200));
    stage.rule(1, allow(Hook::Connect));
    assert_eq!(stage.dials, 1);
}

#[test]
fn a_client_that_is_being_introduced_has_the_new_grant_from_the_start() {
    let v = Version::V5;
    for dialing in [DialScript::Hangs, DialScript::Succeeds] {
        let mut stage = granted(subscribes(&["#"]));
        stage.dialing = dialing;
        stage.client(&wire::connect(v, "c", &ConnectOptions::default()));
        assert_eq!(stage.command(Selector::ClientId("c".into()), replace(subscribes(&["a"]))), reach(1, 0));
        if dialing == DialScript::Hangs {
            stage.dialed(Ok(()));
        }
        stage.broker(&wire::connack(v, false, 0, b""));
        stage.at_client();
        stage.client(&wire::subscribe(v, 1, &[("b", 0)]));
        assert_eq!(stage.at_client(), wire::suback(v, 1, &[0x87]));
    }
}

#[test]
fn an_old_session_that_goes_on_brings_nothing_that_was_taken_back_meanwhile() {
    let v = Version::V5;
    for present in [true, false] {
        let mut stage = granted(subscribes(&["#"]));
        stage.client(&wire::connect(v, "c", &ConnectOptions { clean: false, ..ConnectOptions::default() }));
        stage.command(Selector::All, replace(subscribes(&["a"])));
        stage.broker(&wire::connack(v, present, 0, b""));
        stage.at_client();
        stage.broker(&publish(v, 0, 0, "a"));
        assert_eq!(stage.at_client(), publish(v, 0, 0, "a"));
        stage.broker(&publish(v, 0, 0, "b"));
        assert_eq!(stage.at_client().is_empty(), present);
    }
}

#[test]
fn a_will_that_the_new_grant_denies_does_not_reach_the_broker() {
    let v = Version::V5;
    let mut stage = granted(Grant::new(vec![rule(RuleEffect::Allow, Act::Will, &["#"])], RuleEffect::Deny));
    stage.dialing = DialScript::Hangs;
    let will = Some(Will { topic: "gone", payload: b"x", ..Will::default() });
    stage.client(&wire::connect(v, "c", &ConnectOptions { will, ..ConnectOptions::default() }));
    stage.command(Selector::All, replace(subscribes(&["a"])));
    assert_eq!(stage.at_client(), wire::connack(v, false, 0x87, b""));
    assert!(stage.at_broker().is_empty());
}

#[test]
fn a_disconnected_client_is_told_why_and_its_will_goes_as_was_said() {
    for version in VERSIONS {
        for (will, up) in [(WillChoice::Published, Vec::new()), (WillChoice::Suppressed, wire::disconnect())]
        {
            let mut stage = ungranted();
            let options = ConnectOptions {
                will: Some(Will { topic: "gone", payload: b"x", ..Will::default() }),
                ..ConnectOptions::default()
            };
            stage.client(&wire::connect(version, "c", &options));
            stage.broker(&wire::connack(version, false, 0, b""));
            stage.at_broker();
            stage.at_client();
            stage.events();
            let dismissal = Dismissal {
                text: Some("moved".into()),
                server_reference: Some("other:1883".into()),
                will,
                detail: Some("rebalancing".into()),
                ..Dismissal::new(ReasonCode::USE_ANOTHER_SERVER)
            };
            let met = stage.command(Selector::Listener("mqtt".into()), SessionCommand::Disconnect(dismissal));
            assert_eq!(met, reach(1, 0));
            let told =
                [b"\x1f".to_vec(), wire::string("moved"), b"\x1c".to_vec(), wire::string("other:1883")];
            let goodbye = wire::disconnect_with(0x9C, &told.concat());
            assert_eq!(stage.at_client(), if version == Version::V5 { goodbye } else { Vec::new() });
            assert_eq!(stage.at_broker(), up);
            assert!(stage.is_shut(Side::Broker) && stage.is_shut(Side::Client));
            stage.finish();
            let events = stage.events();
            let Some(Happening::Disconnect(ended)) = events.last() else { panic!("{events:?}") };
            assert_eq!(ended.will_suppressed, will == WillChoice::Suppressed);
            let text = ended.fault.to_string();
            assert_eq!(text, "disconnected by the policy service (0x9c): rebalancing");
        }
    }
}

#[test]
fn who_is_disconnected_while_connecting_is_not_asked_to_come_again() {
    for version in VERSIONS {
        for answered in [false, true] {
            let mut stage = Setup { answering: Box::new(|_| Reply::Later), ..Setup::default() }.stage();
            stage.dialing = DialScript::Hangs;
            stage.client(&wire::connect(version, "c", &ConnectOptions::default()));
            if answered {
                stage.rule(0, allow(Hook::Connect));
            }
            let dismissal = Dismissal::new(ReasonCode::ADMINISTRATIVE_ACTION);
            stage.command(Selector::ClientId("c".into()), SessionCommand::Disconnect(dismissal));
            if !answered {
                stage.rule(0, allow(Hook::Connect));
            }
            let code = if version == Version::V5 { 0x87 } else { 5 };
            assert_eq!(stage.at_client(), wire::connack(version, false, code, b""));
            assert!(stage.at_broker().is_empty());
            assert!(matches!(stage.finish(), Fault::Kicked { .. }));
        }
    }
}

#[test]
fn a_server_reference_goes_with_its_two_codes_alone() {
    let v = Version::V5;
    let mut stage = ungranted().open(v);
    let dismissal = Dismissal {
        server_reference: Some("other:1883".into()),
        ..Dismissal::new(ReasonCode::ADMINISTRATIVE_ACTION)
    };
    stage.command(Selector::All, SessionCommand::Disconnect(dismissal));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x98]));
}

#[test]
fn who_is_not_meant_is_not_touched() {
    let v = Version::V5;
    let mut stage = granted(subscribes(&["a"])).open(v);
    subscribe(&mut stage, v, 1, &["a"]);
    for command in [
        replace(subscribes(&["b"])),
        SessionCommand::Disconnect(Dismissal::new(ReasonCode::BANNED)),
        SessionCommand::CheckGrant { version: "x".into() },
        SessionCommand::Forget,
    ] {
        assert_eq!(stage.command(Selector::ClientId("d".into()), command), reach(0, 0));
    }
    stage.pass(Duration::from_secs(1));
    stage.broker(&publish(v, 1, 1, "a"));
    assert_eq!(stage.at_client(), publish(v, 1, 1, "a"));
    assert!(stage.at_broker().is_empty() && stage.take_questions().is_empty());
}

#[test]
fn commands_to_sessions_without_a_client_or_at_their_end_do_nothing() {
    let v = Version::V5;
    let mut stage = ungranted();
    let kick = || SessionCommand::Disconnect(Dismissal::new(ReasonCode::BANNED));
    assert_eq!(stage.command(Selector::All, kick()), reach(0, 0));
    let mut stage = stage.open(v);
    stage.close(Side::Broker);
    assert_eq!(stage.command(Selector::All, kick()), reach(0, 0));
    stage.finish();
    assert_eq!(stage.command(Selector::All, replace(subscribes(&["a"]))), reach(0, 0));
}

#[test]
fn answers_that_stand_are_forgotten() {
    let v = Version::V5;
    let mut stage =
        granted(Grant::new(vec![rule(RuleEffect::Allow, Act::Publish, &["a"])], RuleEffect::Ask)).open(v);
    for _ in 0..2 {
        stage.client(&publish(v, 0, 0, "a"));
    }
    assert!(stage.take_questions().is_empty());
    stage.command(Selector::All, replace(Grant::new(Vec::new(), RuleEffect::Deny)));
    stage.at_broker();
    stage.client(&publish(v, 1, 1, "a"));
    assert_eq!((stage.at_broker(), stage.at_client()), (Vec::new(), wire::packet(0x40, &[0, 1, 0x87])));
    assert_eq!(stage.command(Selector::All, SessionCommand::Forget), reach(1, 0));
}

#[test]
fn a_revoked_delivery_that_streams_goes_nowhere() {
    let v = Version::V311;
    let mut stage = granted(subscribes(&["a"])).open(v);
    subscribe(&mut stage, v, 1, &["a"]);
    stage.command(Selector::All, replace(subscribes(&["b"])));
    stage.at_broker();
    let payload = vec![7; 100_000];
    let large = wire::publish(
        v,
        &Publish { topic: "a", payload: &payload, qos: 1, packet_id: 3, ..Publish::default() },
    );
    for chunk in large.chunks(20_000) {
        stage.broker(chunk);
    }
    stage.broker(&wire::pingresp());
    assert_eq!((stage.at_client(), stage.at_broker()), (wire::pingresp(), wire::puback(3)));
}

#[test]
fn refused_filters_of_a_subscribe_are_none_to_end() {
    let v = Version::V5;
    let mut stage = granted(subscribes(&["a"])).open(v);
    stage.client(&wire::subscribe(v, 1, &[("a", 0), ("b", 0)]));
    stage.broker(&wire::suback(v, 1, &[0]));
    stage.at_broker();
    let none = Grant::new(Vec::new(), RuleEffect::Deny);
    assert_eq!(stage.command(Selector::All, replace(none)), reach(1, 1));
    assert_eq!(stage.at_broker(), wire::unsubscribe(v, OURS, &["a"]));
}

/// Open, subscribed to `a` and `b`; what is sent to the client is not written.
fn unread() -> Stage {
    let mut stage = granted(subscribes(&["a", "b"])).open(Version::V5);
    subscribe(&mut stage, Version::V5, 1, &["a", "b"]);
    stage.stuck[Side::Client as usize] = true;
    stage
}

/// So long may a client take to read what had left for it.
const READ_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn what_had_left_is_written_before_the_command_is_reported() {
    let mut stage = unread();
    let commands = [replace(subscribes(&["b"])), replace(subscribes(&["x"]))];
    for command in commands {
        stage.command(Selector::All, command);
        assert_eq!(stage.session.recall(), RecallStage::Sent, "as far as the session goes");
        stage.session.recalled();
        assert_eq!(stage.session.recall(), RecallStage::None);
    }
    stage.pass(2 * READ_WITHIN);
    assert_eq!((stage.session.phase_name(), stage.is_cut(Side::Client)), ("open", false));
    // Nothing is taken back: there is nothing to wait for, however slowly the client reads.
    let wider = || replace(subscribes(&["x", "y"]));
    for command in [wider(), SessionCommand::Forget, wider()] {
        stage.command(Selector::All, command);
        assert_eq!(stage.session.recall(), RecallStage::None);
    }
}

#[test]
fn who_does_not_read_what_had_left_is_cut_off_and_the_will_is_published() {
    let mut stage = unread();
    stage.command(Selector::All, replace(subscribes(&["b"])));
    stage.pass(READ_WITHIN / 2);
    // The first command is not reported later for another one.
    stage.command(Selector::All, replace(subscribes(&["x"])));
    stage.at_broker();
    stage.pass(READ_WITHIN / 2);
    assert!(stage.is_cut(Side::Client) && stage.is_shut(Side::Broker));
    assert_eq!(
        (stage.at_client(), stage.at_broker()),
        (Vec::new(), Vec::new()),
        "not even a word of farewell"
    );
    assert_eq!(stage.session.recall(), RecallStage::None);
    stage.broker(&publish(Version::V5, 0, 0, "x"));
    assert_eq!(stage.at_client(), b"");
    let fault = stage.finish();
    assert_eq!((&fault, fault.label()), (&Fault::RecallUnread, "slow_reader"));
}

#[test]
fn a_delivery_that_is_half_through_is_waited_for_as_well() {
    let mut stage = unread();
    stage.stuck[Side::Client as usize] = false;
    let payload = [7; 40_000];
    let delivery =
        wire::publish(Version::V5, &Publish { topic: "a", payload: &payload, ..Publish::default() });
    stage.broker(&delivery[..20_000]);
    stage.command(Selector::All, replace(subscribes(&["b"])));
    assert_eq!(stage.session.recall(), RecallStage::Coming);
    stage.broker(&delivery[20_000..39_000]);
    assert_eq!(stage.session.recall(), RecallStage::Coming);
    stage.broker(&delivery[39_000..]);
    assert_eq!((stage.session.recall(), stage.at_client()), (RecallStage::None, delivery.clone()));
    // A broker that does not end it in time.
    stage.command(Selector::All, replace(subscribes(&["a"])));
    subscribe(&mut stage, Version::V5, 2, &["a"]);
    stage.broker(&delivery[..20_000]);
    stage.command(Selector::All, replace(subscribes(&["c"])));
    stage.pass(READ_WITHIN);
    assert!(stage.is_cut(Side::Client));
}

#[test]
fn a_client_that_is_disconnected_gets_nothing_after_the_report() {
    let mut stage = unread();
    let kick = || SessionCommand::Disconnect(Dismissal::new(ReasonCode::ADMINISTRATIVE_ACTION));
    assert_eq!(stage.command(Selector::All, kick()), reach(1, 0));
    assert_eq!(stage.session.recall(), RecallStage::Sent);
    stage.pass(READ_WITHIN);
    assert!(stage.is_cut(Side::Client));
    let fault = stage.finish();
    assert!(matches!(fault, Fault::Kicked { .. }), "the first reason counts");
    assert_eq!(fault.by(), Party::Policy, "a command is the hook service's");
}

#[test]
fn a_client_that_is_leaving_is_met_as_well() {
    for kicked in [false, true] {
        let mut stage = unread();
        // Its half has ended; the broker is still heard.
        stage.close(Side::Client);
        stage.broker(&publish(Version::V5, 0, 0, "a"));
        assert_eq!(stage.at_client(), publish(Version::V5, 0, 0, "a"));
        let command = match kicked {
            false => replace(subscribes(&["b"])),
            true => SessionCommand::Disconnect(Dismissal::new(ReasonCode::ADMINISTRATIVE_ACTION)),
        };
        assert_eq!(stage.command(Selector::All, command), reach(0, 0), "it is not counted");
        assert_eq!(stage.session.recall(), RecallStage::Sent);
        stage.broker(&publish(Version::V5, 0, 0, "a"));
        assert_eq!(stage.at_client(), b"");
        stage.broker(&publish(Version::V5, 0, 0, "b"));
        assert_eq!(stage.at_client().is_empty(), kicked);
        stage.pass(READ_WITHIN);
        assert!(stage.is_cut(Side::Client));
        assert!(matches!(stage.finish(), Fault::Lost { side: Side::Client, .. }));
    }
}

#[test]
fn a_check_is_reported_when_the_renewal_has_come_and_what_it_took_back_is_written() {
    let check = || SessionCommand::CheckGrant { version: "2".into() };
    let renewed = |grant: Grant| {
        let admission = Admission { grant: Some(Arc::new(named("2", grant))), ..Admission::default() };
        Verdict::Connect(Decision::Allow(Some(Box::new(admission))))
    };
    for (verdict, takes_back) in [
        (renewed(subscribes(&["b"])), true),
        (renewed(subscribes(&["a", "b", "c"])), false),
        (Verdict::Failed(Failure::new(FailureKind::Deadline, "too slow")), false),
    ] {
        let mut stage = unread();
        stage.script.answer(|_| Reply::Later);
        stage.command(Selector::All, check());
        stage.pass(2 * READ_WITHIN);
        // The service may take its time: it is not the client that is slow.
        assert_eq!((stage.session.recall(), stage.is_cut(Side::Client)), (RecallStage::Coming, false));
        stage.rule(0, verdict);
        let stage_then = if takes_back { RecallStage::Sent } else { RecallStage::None };
        assert_eq!(stage.session.recall(), stage_then);
        stage.pass(READ_WITHIN);
        assert_eq!(stage.is_cut(Side::Client), takes_back);
    }
    // The end of the session ends the wait, and so does a grant by command, for which the answer counts for nothing.
    let mut stage = unread();
    stage.script.answer(|_| Reply::Later);
    stage.command(Selector::All, check());
    stage.close(Side::Client);
    assert_eq!((stage.session.phase_name(), stage.session.recall()), ("ending", RecallStage::None));
    let mut stage = unread();
    stage.script.answer(|_| Reply::Later);
    stage.command(Selector::All, check());
    stage.pass(Duration::ZERO);
    stage.command(Selector::All, replace(subscribes(&["a", "b", "c"])));
    assert_eq!(stage.session.recall(), RecallStage::None);
}

/// A client with this grant, whose old session the broker goes on with.
fn resumed(version: Version, setup: impl FnOnce(&mut Setup), grant: Grant) -> Stage {
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
    let mut own = Setup {
        grants: true,
        answering: Box::new(move |asked| match asked.hook {
            Hook::Connect => Reply::Now(verdict.clone()),
            _ => Reply::Later,
        }),
        ..Setup::default()
    };
    setup(&mut own);
    let mut stage = own.stage();
    let options = ConnectOptions { clean: false, ..ConnectOptions::default() };
    stage.client(&wire::connect(version, "c", &options));
    stage.broker(&wire::connack(version, version != Version::V31, 0, b""));
    stage.at_broker();
    stage.at_client();
    stage
}

/// Whether a delivery on each of these topics reaches the client.
fn arrive(stage: &mut Stage, version: Version, topics: &[&str]) -> Vec<bool> {
    let arrives = |topic: &&str| {
        stage.broker(&publish(version, 0, 0, topic));
        !stage.at_client().is_empty()
    };
    topics.iter().map(arrives).collect()
}

#[test]
fn an_old_session_that_goes_on_brings_nothing_that_the_grant_refuses() {
    for version in VERSIONS {
        let counted = Arc::new(Counted::default());
        let meter = Arc::clone(&counted);
        let mut stage = resumed(version, |setup| setup.meter = meter, subscribes(&["mine/+", "a/#"]));
        let topics = ["mine/1", "mine/1/2", "a/b/c", "other"];
        assert_eq!(arrive(&mut stage, version, &topics), [true, false, true, false]);
        // The broker is told that it was taken, and nothing of why: there is no filter to unsubscribe from.
        for (qos, taken) in [(1, wire::puback(7)), (2, wire::pubrec(7))] {
            stage.broker(&publish(version, qos, 7, "other"));
            assert_eq!((stage.at_client(), stage.at_broker()), (Vec::new(), taken));
        }
        stage.broker(&wire::pubrel(7));
        assert_eq!(stage.at_broker(), wire::pubcomp(7));
        assert_eq!(counted.0.load(Ordering::Relaxed), 4);
        // What it says here itself is known.
        subscribe(&mut stage, version, 1, &["a/x"]);
        assert_eq!(arrive(&mut stage, version, &["a/x"]), [true]);
    }
}

#[test]
fn what_a_grant_leaves_to_others_comes_of_an_old_session_and_what_it_names_to_receive() {
    let v = Version::V5;
    let deny = |topics: &[&str]| rule(RuleEffect::Deny, Act::Subscribe, topics);
    let asks = Grant::new(vec![deny(&["no/#"])], RuleEffect::Ask);
    let mut stage = resumed(v, |_| {}, asks);
    assert_eq!(arrive(&mut stage, v, &["no/1", "any", "$SYS/x"]), [false, true, true]);
    // After a command it has to be allowed.
    stage.command(Selector::All, replace(Grant::new(vec![deny(&["none"])], RuleEffect::Ask)));
    assert_eq!(arrive(&mut stage, v, &["no/1", "any"]), [false, false]);

    let open = Grant::new(Vec::new(), RuleEffect::Allow);
    assert_eq!(arrive(&mut resumed(v, |_| {}, open), v, &["any", "$SYS/x"]), [true, false]);

    let receives = |default| Grant::new(vec![rule(RuleEffect::Allow, Act::Receive, &["in/#"])], default);
    let mut stage = resumed(v, |_| {}, receives(RuleEffect::Deny));
    assert_eq!(arrive(&mut stage, v, &["in/1", "other"]), [true, false]);
    stage.command(Selector::All, replace(receives(RuleEffect::Allow)));
    assert_eq!(arrive(&mut stage, v, &["in/1", "$SYS/x"]), [true, false]);
}

#[test]
fn without_a_grant_an_old_session_is_not_looked_into() {
    let v = Version::V5;
    let mut stage = ungranted();
    stage.client(&wire::connect(v, "c", &ConnectOptions { clean: false, ..ConnectOptions::default() }));
    stage.broker(&wire::connack(v, true, 0, b""));
    stage.at_client();
    assert_eq!(arrive(&mut stage, v, &["any", "$SYS/x"]), [true, true]);
}

#[test]
fn what_an_old_session_brings_while_the_grant_is_stale_is_for_the_failure_rule() {
    let v = Version::V5;
    for on_error in [OnError::Deny, OnError::Allow] {
        let mut grant = subscribes(&["a"]);
        grant.ttl = Some(Duration::from_secs(1));
        let mut stage = resumed(v, |setup| setup.on_error.deliver = on_error, grant);
        stage.script.answer(|_| Reply::Now(Verdict::Failed(Failure::new(FailureKind::Unavailable, "gone"))));
        assert_eq!(arrive(&mut stage, v, &["a", "b"]), [true, false]);
        stage.pass(Limits::default().grant_staleness + Duration::from_secs(2));
        assert_eq!(arrive(&mut stage, v, &["a", "b"]), [on_error == OnError::Allow; 2]);
    }
}

/// How many deliveries were refused as taken back.
#[derive(Default)]
struct Counted(AtomicU64);

impl Meter for Counted {
    fn revoked_deliveries(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn packets(&self, _from: Side, _kind: PacketType, _packets: u64, _bytes: u64) {}

    fn decisions(&self, _hook: Hook, _source: Source, _outcome: Outcome, _count: u64) {}

    fn failed(&self, _hook: Hook, _failure: &Failure, _rule: OnError, _peer: &Peer) {}

    fn unusable(&self, _hook: Hook, _unusable: &Unusable, _peer: &Peer) {}

    fn overloaded(&self, _hook: Hook, _overload: &Overload, _peer: &Peer) {}
}
