//! Limits that hold for all clients: how long and deep topics may be, how many subscriptions there are.

use std::sync::Arc;

use mproxy_codec::{QoS, ReasonCode};
use mproxy_core::grant::{Grant, GrantLimits};
use mproxy_core::limits::TopicLimits;
use mproxy_core::policy::{Admission, Decision, Foreseen, Hook, Want};
use mproxy_core::rule::{Act, RuleEffect};
use mproxy_core::{Limits, Side};
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version, Will};
use mproxy_sim::{Reply, Stage, Verdict, allow};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

const TOPIC: TopicLimits = TopicLimits { length: 12, levels: 3 };

/// Longer than that, and deeper.
const LONG: &str = "a/0123456789x";
const DEEP: &str = "a/b/c/d";

fn limited(limits: Limits) -> Setup {
    Setup { limits, ..Setup::default() }
}

/// An open session in which nobody is asked about anything.
fn unasked(version: Version, limits: Limits) -> Stage {
    let mut stage = limited(limits).stage();
    stage.script.want(Hook::Publish, Want::Nothing);
    stage.script.want(Hook::Subscribe, Want::Nothing);
    stage.open_with(version, &[], &[]);
    stage
}

fn of_topics() -> Limits {
    Limits { topic: TOPIC, ..Limits::default() }
}

fn publish(version: Version, qos: u8, packet_id: u16, topic: &str) -> Vec<u8> {
    wire::publish(version, &Publish { topic, payload: b"21", qos, packet_id, ..Publish::default() })
}

#[test]
fn a_publish_to_a_long_or_deep_topic_is_refused_and_nobody_is_asked() {
    for version in VERSIONS {
        let mut asked = limited(of_topics()).stage();
        asked.open_with(version, &[], &[]);
        for mut stage in [unasked(version, of_topics()), asked] {
            for topic in [LONG, DEEP] {
                stage.client(&[publish(version, 0, 0, topic), publish(version, 1, 1, topic)].concat());
                stage.client(&publish(version, 2, 2, topic));
                let refused = match version {
                    Version::V5 => [wire::packet(0x40, &[0, 1, 0x90]), wire::packet(0x50, &[0, 2, 0x90])],
                    Version::V31 | Version::V311 => [wire::puback(1), wire::pubrec(2)],
                };
                assert_eq!(stage.at_client(), refused.concat(), "{version:?} {topic}");
                if version != Version::V5 {
                    stage.client(&[publish(version, 2, 2, topic), wire::pubrel(2)].concat());
                    stage.at_client();
                }
            }
            assert_eq!((stage.take_questions().len(), stage.at_broker().len()), (0, 0));
        }
    }
}

#[test]
fn what_keeps_to_the_limits_passes_as_ever() {
    for version in VERSIONS {
        let mut stage = unasked(version, of_topics());
        let sound = [publish(version, 0, 0, "a/0123456789"), publish(version, 1, 1, "//")].concat();
        // A run of them, and one that has to be looked at.
        let sound = [sound, publish(version, 1, 2, "\u{e9}/b/c")].concat();
        stage.client(&sound);
        assert_eq!(stage.at_broker(), sound);
        let filters = wire::subscribe(version, 3, &[("a/+/#", 0), ("$share/g/a/b/c", 0)]);
        stage.client(&filters);
        assert_eq!(stage.at_broker(), filters, "the very bytes");
    }
}

#[test]
fn a_topic_behind_an_alias_counts_as_what_it_is() {
    let mut stage = limited(of_topics()).stage();
    stage.script.want(Hook::Publish, Want::Nothing);
    stage.open_with(Version::V5, &[], &[0x22, 0, 9]);
    let alias = |topic, packet_id| {
        let publish = Publish { topic, qos: 1, packet_id, properties: &[0x23, 0, 1], ..Publish::default() };
        wire::publish(Version::V5, &publish)
    };
    for id in [1, 2] {
        stage.client(&alias(if id == 1 { DEEP } else { "" }, id));
        assert_eq!(stage.at_client(), wire::packet(0x40, &[0, id as u8, 0x90]));
    }
    stage.client(&alias("a", 3));
    assert_eq!(stage.at_broker(), alias("a", 3));
}

#[test]
fn filters_over_the_limits_are_refused_and_the_others_go_on() {
    for version in VERSIONS {
        let code = if version == Version::V5 { 0x8F } else { 0x80 };
        let mut stage = unasked(version, of_topics());
        stage.client(&wire::subscribe(version, 1, &[("a", 0), (LONG, 0), ("a/b/c/#", 0)]));
        assert_eq!(stage.at_broker(), wire::subscribe(version, 1, &[("a", 0)]));
        stage.broker(&wire::suback(version, 1, &[0]));
        assert_eq!(stage.at_client(), wire::suback(version, 1, &[0, code, code]));
        stage.client(&wire::subscribe(version, 2, &[(DEEP, 0)]));
        assert_eq!((stage.at_client(), stage.at_broker().len()), (wire::suback(version, 2, &[code]), 0));
        // Whatever an adviser says.
        let mut stage = limited(of_topics()).stage();
        stage.open_with(version, &[], &[]);
        stage.client(&wire::subscribe(version, 1, &[("a", 0), (DEEP, 0)]));
        stage.rule(0, allow(Hook::Subscribe));
        assert_eq!(stage.at_broker(), wire::subscribe(version, 1, &[("a", 0)]));
    }
}

#[test]
fn a_will_over_the_limits_refuses_the_connect() {
    for (version, code) in [(Version::V31, 5), (Version::V311, 5), (Version::V5, 0x90)] {
        let mut stage = limited(of_topics()).stage();
        let will = Will { topic: DEEP, payload: b"", qos: 0, retain: false, properties: &[] };
        let options = ConnectOptions { will: Some(will), ..ConnectOptions::default() };
        stage.client(&wire::connect(version, "c", &options));
        assert_eq!(stage.at_client(), wire::connack(version, false, code, &[]));
        assert_eq!(stage.finish().refused_by(), Some("limit"));
    }
}

#[test]
fn subscriptions_over_the_number_for_all_are_refused() {
    let mut stage = unasked(Version::V5, Limits { subscriptions: Some(2), ..Limits::default() });
    let subscribe = |id, filters| wire::subscribe(Version::V5, id, filters);
    stage.client(&subscribe(1, &[("a", 0), ("b", 0), ("c", 0)]));
    assert_eq!(stage.at_broker(), subscribe(1, &[("a", 0), ("b", 0)]));
    stage.broker(&wire::suback(Version::V5, 1, &[0, 0x87]));
    assert_eq!(
        stage.at_client(),
        wire::suback(Version::V5, 1, &[0, 0x87, 0x97]),
        "the broker's own no is none"
    );
    stage.client(&subscribe(2, &[("c", 0)]));
    assert_eq!(stage.at_broker(), subscribe(2, &[("c", 0)]));
    stage.broker(&wire::suback(Version::V5, 2, &[0]));
    stage.client(&subscribe(3, &[("a", 1)]));
    assert_eq!(stage.at_broker(), subscribe(3, &[("a", 1)]), "again is not more");
    stage.at_client();
    stage.client(&subscribe(4, &[("d", 1)]));
    assert_eq!(stage.at_client(), wire::suback(Version::V5, 4, &[0x97]));
    stage.client(&wire::unsubscribe(Version::V5, 5, &["a"]));
    stage.client(&subscribe(6, &[("d", 1)]));
    let up = [wire::unsubscribe(Version::V5, 5, &["a"]), subscribe(6, &[("d", 1)])];
    assert_eq!(stage.at_broker(), up.concat());
}

#[test]
fn of_two_limits_on_subscriptions_the_stricter_holds() {
    for (all, own) in [(1, 3), (3, 1)] {
        let mut grant = Grant::new(Vec::new(), RuleEffect::Allow);
        grant.limits = GrantLimits { subscriptions: Some(own), ..GrantLimits::default() };
        let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
        let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
        let mut stage = Setup {
            limits: Limits { subscriptions: Some(all), ..Limits::default() },
            answering: Box::new(move |_| Reply::Now(verdict.clone())),
            ..Setup::default()
        }
        .stage();
        stage.script.want(Hook::Subscribe, Want::Nothing);
        stage.open_with(Version::V5, &[], &[]);
        stage.client(&wire::subscribe(Version::V5, 1, &[("a", 0), ("b", 0)]));
        stage.broker(&wire::suback(Version::V5, 1, &[0]));
        assert_eq!(stage.at_client(), wire::suback(Version::V5, 1, &[0, ReasonCode::QUOTA_EXCEEDED.0]));
        assert!(stage.session.wants_read(Side::Client));
    }
}

#[test]
fn what_a_limit_would_refuse_is_foreseen() {
    let mut stage = unasked(Version::V5, of_topics());
    let now = stage.now;
    for (act, name, expected) in [
        (Act::Publish, DEEP, Err(ReasonCode::TOPIC_NAME_INVALID)),
        (Act::Publish, "a", Ok(QoS::AtMostOnce)),
        (Act::Subscribe, "a/b/c/#", Err(ReasonCode::TOPIC_FILTER_INVALID)),
        (Act::Receive, DEEP, Ok(QoS::AtMostOnce)),
    ] {
        let told = stage.session.explain(act, name, (QoS::AtMostOnce, false, 0), now).unwrap();
        let Foreseen::Decides(decision) = told.outcome else { panic!("nobody is asked about {name}") };
        assert_eq!(decision.verdict, expected, "{act:?} {name}");
    }
}
