//! Sessions whose client's topics have other names at the broker: rewritten on the way up, and back on the way down.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::Arc;

use mproxy_codec::ReasonCode;
use mproxy_core::event::Happening;
use mproxy_core::fault::Fault;
use mproxy_core::grant::{Grant, Mapping, RewriteRule, RewriteTable};
use mproxy_core::policy::{Admission, Decision, FilterChange, Hook, PublishChange, Want};
use mproxy_core::rule::{RuleEffect, Who};
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version, Will};
use mproxy_sim::{Reply, Stage, Verdict, allow, change};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

const ROWS: [(&str, &str); 2] =
    [("sensors/{id}/temp", "v2/{id}/temperature"), ("cmd/{rest...}", "fleet/${clientid}/{rest...}")];

fn table() -> Arc<RewriteTable> {
    let who = Who { client_id: "c", ..Who::NOBODY };
    let row = |(from, to): &(&str, &str)| RewriteRule::parse(from, to).unwrap().expand(who).unwrap();
    Arc::new(RewriteTable::new(ROWS.iter().map(row).collect()))
}

fn stage_with(mapping: Mapping) -> Stage {
    let mut grant = Grant::new(Vec::new(), RuleEffect::Ask);
    grant.mapping = Some(mapping);
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
    Stage::answering(move |asked| match asked.hook {
        Hook::Connect => Reply::Now(verdict.clone()),
        _ => Reply::Later,
    })
}

/// A session with rewrites, in which everything is asked about.
fn rewriting() -> Stage {
    stage_with(Mapping::rewriting(table()))
}

/// The same, in which nobody is asked.
fn unasked(version: Version) -> Stage {
    let stage = rewriting();
    for hook in [Hook::Publish, Hook::Subscribe, Hook::Deliver] {
        stage.script.want(hook, Want::Nothing);
    }
    stage.open(version)
}

fn publish(version: Version, qos: u8, packet_id: u16, topic: &str) -> Vec<u8> {
    wire::publish(version, &Publish { topic, payload: b"21", qos, packet_id, ..Publish::default() })
}

#[test]
fn topics_have_the_broker_s_names_there_and_the_client_s_here() {
    for version in VERSIONS {
        for qos in 0..=2 {
            let mut stage = rewriting().open(version);
            for (own, broker) in [
                ("sensors/7/temp", "v2/7/temperature"),
                ("cmd", "fleet/c"),
                ("cmd/a/b", "fleet/c/a/b"),
                ("other", "other"),
            ] {
                stage.client(&publish(version, qos, 5, own));
                let asked = stage.questions() - 1;
                assert_eq!(
                    stage.take_questions()[0].what,
                    own,
                    "questions are about the client's own topics"
                );
                stage.rule(asked, allow(Hook::Publish));
                assert_eq!(stage.at_broker(), publish(version, qos, 5, broker));
                stage.broker(&publish(version, qos, 6, broker));
                assert_eq!(stage.at_client(), publish(version, qos, 6, own));
                if qos > 0 {
                    break;
                }
            }
        }
    }
}

#[test]
fn the_prefix_stands_before_what_was_rewritten() {
    let mapping = Mapping::new("acme").unwrap().with_rewrites(table());
    let stage = stage_with(mapping);
    stage.script.want(Hook::Publish, Want::Nothing);
    let mut stage = stage.open(Version::V311);
    stage.client(&publish(Version::V311, 0, 0, "sensors/7/temp"));
    stage.client(&publish(Version::V311, 0, 0, "other"));
    let up =
        [publish(Version::V311, 0, 0, "acme/v2/7/temperature"), publish(Version::V311, 0, 0, "acme/other")];
    assert_eq!(stage.at_broker(), up.concat());
    stage.broker(&up.concat());
    let down = [publish(Version::V311, 0, 0, "sensors/7/temp"), publish(Version::V311, 0, 0, "other")];
    assert_eq!(stage.at_client(), down.concat());
    // Of others, and what the client could not name.
    for topic in ["v2/7/temperature", "acme2/other", "acme/sensors/7/temp"] {
        stage.broker(&publish(Version::V311, 0, 0, topic));
    }
    assert_eq!(stage.at_client(), b"");
}

#[test]
fn a_topic_that_another_one_is_rewritten_to_has_no_place() {
    for version in VERSIONS {
        let mut stage = unasked(version);
        stage.client(&publish(version, 1, 5, "v2/7/temperature"));
        stage.client(&publish(version, 0, 0, "fleet/c/a"));
        assert_eq!(stage.at_broker(), b"");
        let told = stage.at_client();
        match version {
            Version::V5 => {
                assert_eq!(told[..5], [0x40, told.len() as u8 - 2, 0, 5, 0x90]);
                let text = String::from_utf8_lossy(&told);
                assert!(text.contains("another topic is rewritten to this one"), "{text}");
            }
            Version::V31 | Version::V311 => assert_eq!(told, wire::puback(5)),
        }
        // Nor the other way round: by this name the client would publish to another place.
        stage.broker(&publish(version, 1, 9, "sensors/7/temp"));
        assert_eq!((stage.at_client(), stage.at_broker()), (vec![], wire::puback(9)));
    }
}

#[test]
fn filters_are_rewritten_behind_their_group_and_undone_by_their_originals() {
    for version in VERSIONS {
        let mut stage = unasked(version);
        let filters = ["sensors/+/temp", "cmd/#", "other/#", "#", "$share/g/sensors/+/temp", "$SYS/#"];
        let sent = ["v2/+/temperature", "fleet/c/#", "other/#", "#", "$share/g/v2/+/temperature", "$SYS/#"];
        let asks = |filters: &[&'static str]| filters.iter().map(|one| (*one, 1)).collect::<Vec<_>>();
        stage.client(&wire::subscribe(version, 1, &asks(&filters)));
        assert_eq!(stage.at_broker(), wire::subscribe(version, 1, &asks(&sent)));
        stage.broker(&wire::suback(version, 1, &[1; 6]));
        stage.at_client();
        stage.client(&wire::unsubscribe(version, 2, &filters));
        assert_eq!(stage.at_broker(), wire::unsubscribe(version, 2, &sent));
    }
}

#[test]
fn a_filter_that_would_bring_more_or_less_is_refused_and_the_others_go_on() {
    for version in VERSIONS {
        let mut stage = unasked(version);
        let asks = [("sensors/#", 1), ("sensors/+/temp", 1), ("v2/#", 0), ("+/c/a", 0), ("fine", 0)];
        stage.client(&wire::subscribe(version, 1, &asks));
        let sent = [("v2/+/temperature", 1), ("fine", 0)];
        assert_eq!(stage.at_broker(), wire::subscribe(version, 1, &sent));
        stage.broker(&wire::suback(version, 1, &[1, 0]));
        let no = if version == Version::V5 { 0x8F } else { 0x80 };
        assert_eq!(stage.at_client(), wire::suback(version, 1, &[no, 1, no, no, 0]));
        // The broker never had them; by these names it may have others.
        stage.client(&wire::unsubscribe(version, 2, &["sensors/#", "v2/+/temperature"]));
        assert_eq!(stage.at_broker(), b"");
    }
}

#[test]
fn a_client_is_told_why_its_filter_has_no_place() {
    for (filter, why) in [
        (
            "sensors/#",
            "topic filter covers rewritten topics in part: subscribe to them by a filter of their own",
        ),
        ("v2/+/temperature", "topic filter covers topics that are rewritten and have other names here"),
    ] {
        let mut stage = unasked(Version::V5);
        stage.client(&wire::subscribe(Version::V5, 1, &[(filter, 1)]));
        assert_eq!(stage.at_broker(), b"");
        let told = stage.at_client();
        assert_eq!(told.last(), Some(&0x8F));
        assert!(String::from_utf8_lossy(&told).contains(why), "{told:?}");
    }
}

#[test]
fn response_topics_are_rewritten_too() {
    let mut stage = unasked(Version::V5);
    let with_response = |topic: &'static str, response: &str| {
        let mut properties = vec![0x08, 0, response.len() as u8];
        properties.extend(response.as_bytes());
        wire::publish(
            Version::V5,
            &Publish {
                topic,
                payload: b"?",
                qos: 1,
                packet_id: 3,
                properties: &properties,
                ..Publish::default()
            },
        )
    };
    stage.client(&with_response("other", "cmd/answers"));
    assert_eq!(stage.at_broker(), with_response("other", "fleet/c/answers"));
    stage.broker(&wire::puback(3));
    stage.at_client();
    stage.broker(&with_response("v2/7/temperature", "fleet/c/answers"));
    assert_eq!(stage.at_client(), with_response("sensors/7/temp", "cmd/answers"));
    stage.client(&wire::puback(3));
    stage.at_broker();
    // Whoever answered there would answer to another topic.
    stage.client(&with_response("other", "fleet/c/answers"));
    assert_eq!(stage.at_broker(), b"");
    assert_eq!(stage.at_client()[4], 0x90);
}

#[test]
fn aliases_stand_for_what_each_side_calls_the_topic() {
    let mut stage = rewriting();
    stage.script.want(Hook::Publish, Want::Nothing);
    stage.open_with(Version::V5, &[0x22, 0, 9], &[0x22, 0, 9]);
    let alias = |topic: &'static str| {
        wire::publish(
            Version::V5,
            &Publish { topic, payload: b"x", properties: &[0x23, 0, 4], ..Publish::default() },
        )
    };
    stage.client(&alias("sensors/7/temp"));
    assert_eq!(stage.at_broker(), alias("v2/7/temperature"));
    stage.client(&alias(""));
    assert_eq!(stage.at_broker(), alias(""), "the broker was taught it");
    stage.broker(&alias("fleet/c/go"));
    assert_eq!(stage.at_client(), alias("cmd/go"));
    stage.broker(&alias(""));
    assert_eq!(stage.at_client(), alias(""));
    // One whose introduction has no place teaches nobody, and still means what the client says.
    stage.client(&alias("v2/7/temperature"));
    stage.client(&alias(""));
    assert_eq!(stage.at_broker(), b"");
}

#[test]
fn the_will_is_rewritten_or_refused() {
    let dying = |topic: &'static str| {
        let will = Will { topic, payload: b"gone", ..Will::default() };
        ConnectOptions { will: Some(will), ..ConnectOptions::default() }
    };
    for version in VERSIONS {
        let mut stage = rewriting();
        stage.client(&wire::connect(version, "c", &dying("sensors/7/temp")));
        assert_eq!(stage.at_broker(), wire::connect(version, "c", &dying("v2/7/temperature")));
        let mut stage = rewriting();
        stage.client(&wire::connect(version, "c", &dying("v2/7/temperature")));
        assert_eq!(stage.at_broker(), b"");
        let Some(Fault::Refused { refusal, .. }) = stage.done() else { panic!("{:?}", stage.done()) };
        assert_eq!(refusal.reason, ReasonCode::TOPIC_NAME_INVALID);
    }
}

#[test]
fn a_topic_that_the_service_names_is_rewritten_like_the_client_s_own() {
    let named = |topic: &str| change(PublishChange { topic: Some(topic.into()), ..PublishChange::default() });
    let mut stage = rewriting().open(Version::V5);
    stage.client(&publish(Version::V5, 1, 5, "x"));
    stage.rule(0, named("sensors/7/temp"));
    assert_eq!(stage.at_broker(), publish(Version::V5, 1, 5, "v2/7/temperature"));
    stage.client(&publish(Version::V5, 1, 6, "x"));
    stage.rule(1, named("v2/7/temperature"));
    assert_eq!(stage.at_broker(), b"", "never as it came");
    assert_eq!(stage.at_client()[4], 0x90);
    stage.client(&wire::subscribe(Version::V5, 7, &[("x", 0), ("y", 0)]));
    let filter = |filter: &str| {
        Decision::Allow(FilterChange { filter: Some(filter.into()), ..FilterChange::default() })
    };
    stage.rule(2, Verdict::Subscribe(vec![filter("cmd/#"), filter("sensors/#")]));
    assert_eq!(stage.at_broker(), wire::subscribe(Version::V5, 7, &[("fleet/c/#", 0)]));
}

#[test]
fn a_rewritten_session_goes_over_as_it_is() {
    for version in VERSIONS {
        let mut stage = unasked(version);
        stage.client(&wire::subscribe(version, 1, &[("sensors/+/temp", 1)]));
        stage.broker(&wire::suback(version, 1, &[1]));
        stage.at_client();
        stage.at_broker();
        stage.hand_over().unwrap();
        stage.client(&publish(version, 0, 0, "cmd/x"));
        stage.broker(&publish(version, 0, 0, "v2/8/temperature"));
        assert_eq!(stage.at_broker(), publish(version, 0, 0, "fleet/c/x"));
        assert_eq!(stage.at_client(), publish(version, 0, 0, "sensors/8/temp"));
        stage.client(&wire::unsubscribe(version, 2, &["sensors/+/temp"]));
        assert_eq!(stage.at_broker(), wire::unsubscribe(version, 2, &["v2/+/temperature"]));
    }
}

#[test]
fn events_tell_the_names_of_the_broker() {
    let mut stage = unasked(Version::V311);
    stage.client(&publish(Version::V311, 0, 0, "sensors/7/temp"));
    let told = stage.events();
    assert!(
        matches!(&told[..], [Happening::Publish(told)] if &*told.topic == "v2/7/temperature"),
        "{told:?}"
    );
}
