//! SUBSCRIBE and UNSUBSCRIBE: decided filter by filter, merged, rewritten, undone.

use mproxy_codec::{QoS, ReasonCode};
use mproxy_core::Side;
use mproxy_core::fault::Fault;
use mproxy_core::policy::{Action, Decision, FilterChange, Hook, OnError, Refusal};
use mproxy_core::session::OnErrors;
use mproxy_sim::Verdict;
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, Version};
use mproxy_sim::{Reply, Stage, allow, fail, refuse};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// `.` allows, `x` refuses, anything else rewrites to that.
fn verdicts(words: &[&str]) -> Verdict {
    Verdict::Subscribe(words.iter().map(|word| decision(word)).collect())
}

fn decision(word: &str) -> Decision<FilterChange> {
    match word {
        "." => Decision::Allow(FilterChange::default()),
        "x" => Decision::Refuse(Refusal::default()),
        filter => Decision::Allow(FilterChange {
            filter: Some(filter.into()),
            max_qos: None,
            ..FilterChange::default()
        }),
    }
}

fn no(version: Version) -> u8 {
    if version == Version::V5 { 0x87 } else { 0x80 }
}

#[test]
fn an_allowed_subscribe_is_the_very_bytes_and_so_is_its_answer() {
    for version in VERSIONS {
        for verdict in [allow(Hook::Subscribe), verdicts(&[".", "."]), verdicts(&["a/#", "b"])] {
            let mut stage = Stage::new().open(version);
            let packet = wire::subscribe(version, 3, &[("a/#", 1), ("b", 2)]);
            stage.client(&packet);
            assert_eq!(stage.take_questions()[0].what, "a/# b");
            assert_eq!(stage.at_broker(), b"");
            stage.rule(0, verdict);
            assert_eq!(stage.at_broker(), packet);
            let answer = wire::suback(version, 3, &[1, 0]);
            stage.broker(&answer);
            assert_eq!(stage.at_client(), answer);
        }
    }
}

#[test]
fn a_partial_refusal_is_one_suback_in_the_client_s_order() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        let filters = [("a", 0), ("b", 1), ("c", 2), ("d", 1), ("e", 0)];
        stage.client(&wire::subscribe(version, 3, &filters));
        stage.rule(0, verdicts(&["x", ".", "x", ".", "."]));
        assert_eq!(stage.at_broker(), wire::subscribe(version, 3, &[("b", 1), ("d", 1), ("e", 0)]));
        assert_eq!(stage.at_client(), b"");
        stage.broker(&wire::suback(version, 3, &[1, 0x80, 0]));
        let codes = [no(version), 1, no(version), 0x80, 0];
        assert_eq!(stage.at_client(), wire::suback(version, 3, &codes));
    }
}

#[test]
fn a_merged_suback_keeps_the_broker_s_properties_and_a_subscribe_the_client_s() {
    let mut stage = Stage::new().open(Version::V5);
    let properties = b"\x0b\x05\x26\0\x01k\0\x01v";
    // No Local, Retain As Published, Retain Handling 2.
    stage.client(&wire::subscribe_with(Version::V5, 3, &[("a", 0x2E), ("b", 1)], properties));
    stage.rule(0, verdicts(&[".", "x"]));
    assert_eq!(stage.at_broker(), wire::subscribe_with(Version::V5, 3, &[("a", 0x2E)], properties));
    stage.broker(b"\x90\x0b\0\x03\x07\x1f\0\x04text\x02");
    assert_eq!(stage.at_client(), b"\x90\x0c\0\x03\x07\x1f\0\x04text\x02\x87");
}

#[test]
fn a_broker_that_answers_too_few_or_too_many_cannot_change_the_count() {
    for (theirs, merged) in [(&[1][..], [0x87, 1, 0x80]), (&[1, 2, 0][..], [0x87, 1, 2])] {
        let mut stage = Stage::new().open(Version::V5);
        stage.client(&wire::subscribe(Version::V5, 3, &[("a", 0), ("b", 1), ("c", 2)]));
        stage.rule(0, verdicts(&["x", ".", "."]));
        stage.broker(&wire::suback(Version::V5, 3, theirs));
        assert_eq!(stage.at_client(), wire::suback(Version::V5, 3, &merged));
    }
}

#[test]
fn a_subscribe_that_is_refused_whole_is_answered_here() {
    for version in VERSIONS {
        for verdict in [refuse(Hook::Subscribe), verdicts(&["x", "x"])] {
            let mut stage = Stage::new().open(version);
            stage.client(&wire::subscribe(version, 3, &[("a", 0), ("b", 1)]));
            stage.rule(0, verdict);
            assert_eq!(stage.at_broker(), b"");
            assert_eq!(stage.at_client(), wire::suback(version, 3, &[no(version); 2]));
        }
    }
}

#[test]
fn actions_of_a_refused_subscribe() {
    let all = |action| Verdict::SubscribeAll(Decision::Refuse(Refusal { action, ..Refusal::default() }));
    for version in VERSIONS {
        let subscribe = wire::subscribe(version, 3, &[("a", 0), ("b", 2)]);
        let told = |action| {
            let mut stage = Stage::new().open(version);
            stage.client(&subscribe);
            stage.rule(0, all(action));
            assert_eq!(stage.at_broker(), b"");
            (stage.at_client(), stage.is_shut(Side::Client), stage)
        };
        let code = if version == Version::V5 { 0x87 } else { 0x80 };
        for action in [Action::Reject, Action::Drop, Action::NoAck] {
            let (heard, shut, _) = told(action);
            assert_eq!((heard, shut), (wire::suback(version, 3, &[code, code]), false), "{action:?}");
        }
        let (heard, shut, mut stage) = told(Action::Disconnect);
        let goodbye = if version == Version::V5 { wire::packet(0xE0, &[0x87]) } else { Vec::new() };
        assert_eq!((heard, shut), (goodbye, true));
        assert!(matches!(stage.finish(), Fault::Refused { hook: Hook::Subscribe, .. }));
    }
}

#[test]
fn a_refusal_never_turns_into_a_granted_qos() {
    for (said, told) in [(0x00, 0x87), (0x01, 0x87), (0x02, 0x87), (0x8F, 0x8F), (0x88, 0x83), (0x8A, 0x87)] {
        let mut stage = Stage::new().open(Version::V5);
        stage.client(&wire::subscribe(Version::V5, 3, &[("a", 2)]));
        let refusal = Refusal::new(ReasonCode(said));
        stage.rule(0, Verdict::Subscribe(vec![Decision::Refuse(refusal)]));
        assert_eq!(stage.at_client(), wire::suback(Version::V5, 3, &[told]));
    }
}

#[test]
fn the_granted_qos_can_be_capped() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        stage.client(&wire::subscribe(version, 3, &[("a", 2), ("b", 0)]));
        let capped = || {
            Decision::Allow(FilterChange {
                filter: None,
                max_qos: Some(QoS::AtLeastOnce),
                ..FilterChange::default()
            })
        };
        stage.rule(0, Verdict::Subscribe(vec![capped(), capped()]));
        assert_eq!(stage.at_broker(), wire::subscribe(version, 3, &[("a", 1), ("b", 0)]));
        let answer = wire::suback(version, 3, &[1, 0]);
        stage.broker(&answer);
        assert_eq!(stage.at_client(), answer);
    }
}

#[test]
fn a_rewritten_filter_is_undone_by_its_original() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        stage.client(&wire::subscribe(version, 3, &[("a", 0), ("b", 1), ("c", 2)]));
        stage.rule(0, verdicts(&["t/a", "x", "$share/g/t/c"]));
        assert_eq!(stage.at_broker(), wire::subscribe(version, 3, &[("t/a", 0), ("$share/g/t/c", 2)]));
        stage.broker(&wire::suback(version, 3, &[0, 2]));
        assert_eq!(stage.at_client(), wire::suback(version, 3, &[0, no(version), 2]));

        stage.client(&wire::unsubscribe(version, 4, &["c", "b", "a", "other"]));
        assert_eq!(stage.at_broker(), wire::unsubscribe(version, 4, &["$share/g/t/c", "b", "t/a", "other"]));
        let answer = wire::unsuback(version, 4, &[0, 0x11, 0, 0x11]);
        stage.broker(&answer);
        assert_eq!(stage.at_client(), answer);

        let again = wire::unsubscribe(version, 5, &["a"]);
        stage.client(&again);
        assert_eq!(stage.at_broker(), again, "it was forgotten with its subscription");
    }
}

#[test]
fn ten_filters_three_refused_two_rewritten_unsubscribed_all() {
    let names: Vec<String> = (0..10).map(|n| format!("f/{n}")).collect();
    let words = [".", "x", ".", "new/3", ".", "x", "new/6", ".", "x", "."];
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        let filters: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        stage.client(&wire::subscribe(version, 1, &filters));
        stage.rule(0, verdicts(&words));
        stage.broker(&wire::suback(version, 1, &[1; 7]));
        let refused = no(version);
        let codes = [1, refused, 1, 1, 1, refused, 1, 1, refused, 1];
        assert_eq!(stage.at_client(), wire::suback(version, 1, &codes));
        stage.at_broker();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        stage.client(&wire::unsubscribe(version, 2, &all));
        let mut sent = all.clone();
        (sent[3], sent[6]) = ("new/3", "new/6");
        assert_eq!(stage.at_broker(), wire::unsubscribe(version, 2, &sent));
    }
}

#[test]
fn a_filter_that_is_subscribed_again_unchanged_is_known_by_its_own_name_again() {
    let mut stage = Stage::new().open(Version::V311);
    for (n, word) in ["t/a", "."].into_iter().enumerate() {
        stage.client(&wire::subscribe(Version::V311, 3, &[("a", 0)]));
        stage.rule(n, verdicts(&[word]));
        stage.broker(&wire::suback(Version::V311, 3, &[0]));
    }
    stage.at_broker();
    stage.client(&wire::unsubscribe(Version::V311, 4, &["a"]));
    assert_eq!(stage.at_broker(), wire::unsubscribe(Version::V311, 4, &["a"]));
}

#[test]
fn an_unsubscribe_behind_a_held_subscribe_knows_its_rewrite() {
    let mut stage = Stage::new().open(Version::V311);
    stage.client(&wire::subscribe(Version::V311, 3, &[("a", 0)]));
    stage.client(&wire::unsubscribe(Version::V311, 4, &["a"]));
    assert_eq!(stage.at_broker(), b"");
    stage.rule(0, verdicts(&["t/a"]));
    let expected =
        [wire::subscribe(Version::V311, 3, &[("t/a", 0)]), wire::unsubscribe(Version::V311, 4, &["t/a"])]
            .concat();
    assert_eq!(stage.at_broker(), expected);
}

#[test]
fn bad_verdicts_are_failed_answers() {
    let shared_no_local = ("$share/g/a", 0x04);
    for verdict in [
        verdicts(&["."]),
        verdicts(&[".", ".", "."]),
        verdicts(&[]),
        verdicts(&["a/#/b", "."]),
        verdicts(&["", "."]),
        verdicts(&["a\0", "."]),
        verdicts(&[shared_no_local.0, "."]),
        verdicts(&[&"x".repeat(70_000), "."]),
        // Over the broker's Maximum Packet Size.
        verdicts(&[&"x".repeat(100), "."]),
        fail(),
    ] {
        for on_error in [OnError::Deny, OnError::Allow] {
            // Of all of these only an answer that never came is one that failed.
            let passes = on_error == OnError::Allow && verdict == fail();
            let on_error = OnErrors { subscribe: on_error, ..OnErrors::default() };
            let mut stage = Setup { on_error, ..Setup::default() }.stage();
            stage.open_with(Version::V5, b"", b"\x27\0\0\0\x64");
            let packet = wire::subscribe(Version::V5, 3, &[("a", 0x04), ("b", 0)]);
            stage.client(&packet);
            stage.rule(0, verdict.clone());
            let large = matches!(&verdict, Verdict::Subscribe(one) if one.iter().any(
                |one| matches!(one, Decision::Allow(FilterChange { filter: Some(filter), .. }) if filter.len() >= 100),
            ));
            let code = if large { 0x97 } else { 0x83 };
            let (broker, client) = if passes {
                (packet, Vec::new())
            } else {
                (Vec::new(), wire::suback(Version::V5, 3, &[code; 2]))
            };
            assert_eq!((stage.at_broker(), stage.at_client()), (broker, client), "{verdict:?}");
        }
    }
}

#[test]
fn a_rewrite_under_a_long_set_of_properties_is_measured_whole() {
    let mut stage = Stage::new();
    stage.open_with(Version::V5, b"", b"\x27\0\0\0\x64");
    let properties = [b"\x26\0\x01k\0\x40".to_vec(), vec![b'v'; 64]].concat();
    stage.client(&wire::subscribe_with(Version::V5, 3, &[("a", 0)], &properties));
    stage.rule(0, verdicts(&[&"x".repeat(30)]));
    assert_eq!(stage.at_client(), wire::suback(Version::V5, 3, &[0x97]));
}

#[test]
fn rewritten_filters_have_a_bound() {
    let mut stage = Stage::new().open(Version::V311);
    let long = "x".repeat(60_000);
    for n in 0..10 {
        stage.client(&wire::subscribe(Version::V311, 3, &[(&format!("f/{n}"), 0)]));
        stage.rule(n, verdicts(&[&long]));
        if stage.at_broker().is_empty() {
            assert_eq!(stage.at_client(), wire::suback(Version::V311, 3, &[0x80]));
            assert!(n > 2, "it came too early");
            return;
        }
    }
    panic!("600,000 bytes of filters were remembered");
}

#[test]
fn a_reason_string_goes_with_our_own_suback_only_where_the_client_allows_it() {
    let refusal = Refusal { text: Some("no".into()), ..Refusal::default() };
    for (connect, expected) in
        [(&b""[..], &b"\x90\x09\0\x03\x05\x1f\0\x02no\x87"[..]), (b"\x17\x00", b"\x90\x04\0\x03\0\x87")]
    {
        let mut stage = Stage::new();
        stage.open_with(Version::V5, connect, b"");
        stage.client(&wire::subscribe(Version::V5, 3, &[("a", 0)]));
        stage.rule(0, Verdict::SubscribeAll(Decision::Refuse(refusal.clone())));
        assert_eq!(stage.at_client(), expected);
    }
}

#[test]
fn a_subscribe_under_an_id_in_use_loses_neither_answer_nor_event() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut stage = Stage::answering(|asked| Reply::Now(allow(asked.hook))).open(version);
        let (one, two) = (wire::subscribe(version, 7, &[("a", 0)]), wire::subscribe(version, 7, &[("b", 1)]));
        let away = [wire::unsubscribe(version, 8, &["a"]), wire::unsubscribe(version, 8, &["b"])].concat();
        stage.client(&[&one[..], &two, &away].concat());
        assert_eq!(stage.at_broker(), [&one[..], &two, &away].concat());
        let answers = [
            wire::suback(version, 7, &[0]),
            wire::suback(version, 7, &[1]),
            wire::unsuback(version, 8, &[0]),
            wire::unsuback(version, 8, &[0]),
        ];
        stage.broker(&answers.concat());
        assert_eq!(stage.at_client(), answers.concat());
        let told: Vec<String> = stage
            .events()
            .into_iter()
            .map(|event| match event {
                mproxy_core::event::Happening::Subscribe { filters } => format!("{filters:?}"),
                mproxy_core::event::Happening::Unsubscribe { filters } => format!("{filters:?}"),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [r#"[("a", 0)]"#, r#"[("b", 1)]"#, r#"["a"]"#, r#"["b"]"#]);
    }
}

#[test]
fn an_answer_over_the_client_s_maximum_packet_size_is_not_sent() {
    let filters: Vec<(&str, u8)> = vec![("a", 0); 30];
    let mut stage = Stage::answering(|asked| {
        Reply::Now(match asked.hook {
            Hook::Subscribe => refuse(Hook::Subscribe),
            hook => allow(hook),
        })
    });
    stage.open_with(Version::V5, b"\x27\0\0\0\x14", b"");
    stage.client(&wire::subscribe(Version::V5, 1, &filters[..5]));
    assert_eq!(stage.at_client(), wire::suback(Version::V5, 1, &[0x87; 5]));
    stage.client(&wire::subscribe(Version::V5, 2, &filters));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x95]));
    assert!(matches!(stage.finish(), Fault::Protocol { rule: "MQTT-3.1.2-24", .. }));
}
