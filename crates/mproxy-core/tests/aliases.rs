//! Topic aliases of 5.0, in both directions, under refusals and rewrites.

use mproxy_core::fault::Fault;
use mproxy_core::policy::{Hook, PublishChange, Want};
use mproxy_core::{Limits, Side};
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, Publish, Version};
use mproxy_sim::{Reply, Stage, allow, change, refuse};

/// Both sides take ten aliases.
fn stage() -> Stage {
    let mut stage = Stage::new();
    stage.open_with(Version::V5, b"\x22\0\x0a", b"\x22\0\x0a");
    stage
}

fn publish(topic: &str, alias: u8) -> Vec<u8> {
    let properties = [0x23, 0, alias];
    let properties = if alias == 0 { &[][..] } else { &properties };
    wire::publish(Version::V5, &Publish { topic, payload: b"p", properties, ..Publish::default() })
}

fn topics(stage: &mut Stage) -> Vec<String> {
    stage.take_questions().into_iter().map(|asked| asked.what).collect()
}

fn rename(topic: &str) -> mproxy_sim::Verdict {
    change(PublishChange { topic: Some(topic.into()), ..PublishChange::default() })
}

#[test]
fn allowed_aliases_pass_as_they_are_and_questions_carry_the_real_topic() {
    let mut stage = stage();
    let packets =
        [publish("a", 1), publish("", 1), publish("b", 1), publish("", 1), publish("c", 2), publish("", 1)];
    stage.client(&packets.concat());
    assert_eq!(topics(&mut stage), ["a", "a", "b", "b", "c", "b"]);
    for n in (0..6).rev() {
        stage.rule(n, allow(Hook::Publish));
    }
    assert_eq!(stage.at_broker(), packets.concat());
}

#[test]
fn an_alias_whose_introduction_was_refused_still_arrives_under_its_topic() {
    let mut stage = stage();
    stage.client(&[publish("a", 1), publish("", 1), publish("", 1)].concat());
    stage.rule(0, refuse(Hook::Publish));
    stage.rule(1, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), publish("a", 1), "the second one teaches it");
    stage.rule(2, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), publish("", 1));
}

#[test]
fn an_alias_that_was_introduced_anew_in_vain_is_taught_anew() {
    let mut stage = stage();
    stage.client(&[publish("a", 1), publish("b", 1), publish("", 1)].concat());
    stage.rule(0, allow(Hook::Publish));
    stage.rule(1, refuse(Hook::Publish));
    stage.rule(2, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), [publish("a", 1), publish("b", 1)].concat());
}

#[test]
fn a_rewritten_introduction_teaches_the_new_topic_and_the_next_use_the_old_one_again() {
    let mut stage = stage();
    stage.client(&[publish("a", 1), publish("", 1), publish("", 1)].concat());
    stage.rule(0, rename("t/a"));
    stage.rule(1, allow(Hook::Publish));
    stage.rule(2, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), [publish("t/a", 1), publish("a", 1), publish("", 1)].concat());
}

#[test]
fn a_rewritten_use_carries_its_topic_and_teaches_it() {
    let mut stage = stage();
    stage.client(&[publish("a", 1), publish("", 1), publish("", 1)].concat());
    stage.rule(0, allow(Hook::Publish));
    stage.rule(1, rename("t/a"));
    stage.rule(2, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), [publish("a", 1), publish("t/a", 1), publish("a", 1)].concat());
}

#[test]
fn answers_at_once_know_aliases_too() {
    let mut stage = stage();
    stage
        .script
        .answer(|asked| Reply::Now(if asked.what == "no" { refuse(asked.hook) } else { allow(asked.hook) }));
    stage.client(
        &[
            publish("no", 1),
            publish("", 1),
            publish("yes", 2),
            publish("", 2),
            publish("yes", 1),
            publish("", 1),
        ]
        .concat(),
    );
    assert_eq!(topics(&mut stage), ["no", "no", "yes", "yes", "yes", "yes"]);
    assert_eq!(
        stage.at_broker(),
        [publish("yes", 2), publish("", 2), publish("yes", 1), publish("", 1)].concat()
    );
}

#[test]
fn an_alias_over_the_maximum_is_a_protocol_error() {
    let mut stage = stage();
    stage.client(&publish("a", 11));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x94]));
    assert!(matches!(stage.finish(), Fault::Protocol { rule: "MQTT-3.3.2-9", .. }));
    // Where the broker named no maximum it takes none.
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&publish("a", 1));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x94]));
}

#[test]
fn an_alias_that_was_never_introduced_is_a_protocol_error() {
    let mut stage = stage();
    stage.client(&publish("", 1));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x82]));
}

#[test]
fn aliases_of_the_two_directions_are_two_things() {
    let mut stage = stage();
    stage.script.answer(|asked| Reply::Now(allow(asked.hook)));
    stage.client(&publish("up", 1));
    stage.broker(&[publish("down", 1), publish("", 1)].concat());
    stage.client(&publish("", 1));
    assert_eq!(stage.at_broker(), [publish("up", 1), publish("", 1)].concat());
    assert_eq!(stage.at_client(), [publish("down", 1), publish("", 1)].concat());
}

#[test]
fn a_delivery_whose_introduction_was_refused_still_arrives_under_its_topic() {
    let mut stage = stage();
    stage.script.want(Hook::Deliver, Want::Head);
    stage.broker(&[publish("a", 1), publish("", 1), publish("", 1)].concat());
    assert_eq!(topics(&mut stage), ["a", "a", "a"]);
    stage.rule(0, refuse(Hook::Deliver));
    stage.rule(1, allow(Hook::Deliver));
    stage.rule(2, rename("t/a"));
    assert_eq!(stage.at_client(), [publish("a", 1), publish("t/a", 1)].concat());
}

#[test]
fn aliases_of_deliveries_are_followed_before_anybody_asks() {
    let mut stage = stage();
    stage.broker(&publish("a", 1));
    stage.script.want(Hook::Deliver, Want::Head);
    stage.broker(&publish("", 1));
    assert_eq!(topics(&mut stage), ["a"]);
    stage.rule(0, allow(Hook::Deliver));
    assert_eq!(stage.at_client(), [publish("a", 1), publish("", 1)].concat());
}

#[test]
fn a_broker_s_bad_alias_ends_the_session() {
    for packet in [publish("a", 11), publish("", 1)] {
        let mut stage = stage();
        stage.broker(&packet);
        assert!(matches!(stage.finish(), Fault::Protocol { side: Side::Broker, .. }));
    }
}

#[test]
fn topics_behind_aliases_have_a_bound() {
    let limits = Limits { alias_bytes: 1000, ..Limits::default() };
    let mut stage = Setup { limits, ..Setup::default() }.stage();
    stage.open_with(Version::V5, b"", b"\x22\0\x0a");
    stage.script.answer(|asked| Reply::Now(allow(asked.hook)));
    for alias in 1..=4 {
        stage.client(&publish(&"x".repeat(249 + usize::from(alias)), alias));
    }
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x97]));
}

#[test]
fn what_the_broker_was_taught_is_forgotten_rather_than_piled_up() {
    let limits = Limits { alias_bytes: 100, ..Limits::default() };
    let mut stage = Setup { limits, ..Setup::default() }.stage();
    stage.open_with(Version::V5, b"", b"\x22\0\x0a");
    let long = "x".repeat(200);
    let new = rename(&long);
    stage.script.answer(move |_| Reply::Now(new.clone()));
    stage.client(&[publish("a", 1), publish("b", 2)].concat());
    stage.at_broker();
    stage.client(&[publish("", 1), publish("", 2)].concat());
    assert_eq!(stage.at_broker(), [publish(&long, 1), publish(&long, 2)].concat());
}

#[test]
fn a_topic_that_has_to_be_taught_anew_and_does_not_fit_is_refused() {
    let mut stage = Stage::new();
    // Topic Alias Maximum 10, Maximum Packet Size 60.
    stage.open_with(Version::V5, b"", b"\x22\0\x0a\x27\0\0\0\x3c");
    let use_it = |payload: &[u8]| {
        wire::publish(
            Version::V5,
            &Publish {
                topic: "",
                payload,
                qos: 1,
                packet_id: 1,
                properties: &[0x23, 0, 1],
                ..Publish::default()
            },
        )
    };
    stage.client(&publish(&"x".repeat(40), 1));
    stage.rule(0, refuse(Hook::Publish));
    stage.client(&use_it(&[0; 30]));
    stage.rule(1, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), b"");
    assert_eq!(stage.at_client(), wire::packet(0x40, &[0, 1, 0x97]));
}
