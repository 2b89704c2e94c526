//! PUBLISH from the client: allowed, rewritten, refused, held.

use bytes::Bytes;
use mproxy_codec::ReasonCode;
use mproxy_core::event::Happening;
use mproxy_core::fault::Fault;
use mproxy_core::policy::{Action, Decision, Hook, OnError, PublishChange, Refusal, Want};
use mproxy_core::session::OnErrors;
use mproxy_core::{Limits, Side};
use mproxy_sim::Verdict;
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, Publish, Version};
use mproxy_sim::{Reply, Stage, allow, change, fail, refuse, refuse_as};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn publish(version: Version, qos: u8, packet_id: u16, topic: &str) -> Vec<u8> {
    wire::publish(version, &Publish { topic, payload: b"payload", qos, packet_id, ..Publish::default() })
}

fn dup(version: Version, packet_id: u16, topic: &str) -> Vec<u8> {
    wire::publish(
        version,
        &Publish { topic, payload: b"payload", qos: 2, packet_id, dup: true, ..Publish::default() },
    )
}

fn refused(refusal: Refusal) -> Verdict {
    Verdict::Publish(Decision::Refuse(refusal))
}

/// A session whose publishes to `no…` are refused at once, and others allowed at once.
fn judging(action: Action) -> Stage {
    Stage::answering(move |asked| {
        Reply::Now(if asked.hook == Hook::Publish && asked.what.starts_with("no") {
            refuse_as(action)
        } else {
            allow(asked.hook)
        })
    })
}

#[test]
fn an_allowed_publish_is_the_very_bytes_at_once_or_later() {
    for version in VERSIONS {
        for qos in 0..=2 {
            let packet = publish(version, qos, 1, "a/b");
            let mut stage = judging(Action::Reject).open(version);
            stage.client(&packet);
            assert_eq!(stage.at_broker(), packet);

            let mut stage = Stage::new().open(version);
            stage.client(&packet);
            assert_eq!(stage.at_broker(), b"");
            stage.rule(0, allow(Hook::Publish));
            assert_eq!(stage.at_broker(), packet);
        }
    }
}

#[test]
fn a_question_tells_topic_qos_dup_and_size() {
    let mut stage = Stage::new().open(Version::V311);
    stage.client(&dup(Version::V311, 9, "a/b"));
    let asked = stage.take_questions().remove(0);
    assert_eq!((asked.hook, asked.what.as_str(), asked.qos, asked.dup), (Hook::Publish, "a/b", 2, true));
    assert_eq!((asked.size, asked.payload), (7, None));
}

#[test]
fn a_payload_is_shown_where_it_is_wanted_and_not_too_large() {
    let mut stage = Stage::new().open(Version::V311);
    stage.script.want(Hook::Publish, Want::Payload(7));
    let long =
        wire::publish(Version::V311, &Publish { topic: "t", payload: b"12345678", ..Publish::default() });
    stage.client(&[publish(Version::V311, 0, 0, "t"), long].concat());
    let asked = stage.take_questions();
    assert_eq!(asked[0].payload.as_deref(), Some(&b"payload"[..]));
    assert_eq!((asked[1].payload.as_deref(), asked[1].size), (None, 8));
}

#[test]
fn a_dup_of_a_refused_qos_2_publish_is_answered_again_and_not_asked_about() {
    for version in [Version::V31, Version::V311] {
        let mut stage = Stage::new().open(version);
        stage.client(&publish(version, 2, 5, "no"));
        stage.rule(0, refuse(Hook::Publish));
        assert_eq!(stage.at_client(), wire::pubrec(5));
        stage.take_questions();
        stage.client(&[dup(version, 5, "no"), dup(version, 5, "no")].concat());
        assert!(stage.take_questions().is_empty());
        assert_eq!(stage.at_client(), [wire::pubrec(5), wire::pubrec(5)].concat());
        stage.client(&wire::pubrel(5));
        assert_eq!((stage.at_client(), stage.at_broker()), (wire::pubcomp(5), Vec::new()));
        // The id is free again.
        stage.client(&publish(version, 2, 5, "yes"));
        stage.rule(1, allow(Hook::Publish));
        assert_eq!(stage.at_broker(), publish(version, 2, 5, "yes"));
        stage.client(&wire::pubrel(5));
        assert_eq!(stage.at_broker(), wire::pubrel(5));
    }
}

#[test]
fn a_refused_qos_2_flow_that_a_lost_connection_cut_comes_to_its_end_all_the_same() {
    for version in [Version::V31, Version::V311] {
        let connect =
            wire::connect(version, "c", &wire::ConnectOptions { clean: false, ..Default::default() });
        let again = || {
            let mut stage = judging(Action::Reject);
            stage.client(&connect);
            stage.broker(&wire::connack(version, version != Version::V31, 0, &[]));
            stage.at_broker();
            stage.at_client();
            stage
        };
        // Lost before the client had its PUBREC: it repeats the PUBLISH, which is judged and answered anew.
        let mut stage = again();
        stage.client(&dup(version, 1, "no"));
        assert_eq!((stage.at_client(), stage.at_broker()), (wire::pubrec(1), Vec::new()));
        stage.client(&wire::pubrel(1));
        assert_eq!((stage.at_client(), stage.at_broker()), (wire::pubcomp(1), Vec::new()));
        // Lost after it: it repeats the PUBREL. Nobody here knows of the flow any more, but a broker completes those
        // that it does not know ([MQTT-4.4.0-1] makes repeated PUBRELs a matter of course).
        let mut stage = again();
        stage.client(&wire::pubrel(1));
        assert_eq!((stage.at_client(), stage.at_broker()), (Vec::new(), wire::pubrel(1)));
        stage.broker(&wire::pubcomp(1));
        assert_eq!(stage.at_client(), wire::pubcomp(1));
    }
}

#[test]
fn our_acknowledgements_to_the_client_wait_for_none_of_the_broker_s() {
    // 4.6 binds the client that acknowledges, not the server.
    for version in VERSIONS {
        let mut stage = judging(Action::Drop).open(version);
        stage.client(
            &[
                publish(version, 1, 1, "yes"),
                publish(version, 1, 2, "no"),
                publish(version, 2, 3, "yes"),
                publish(version, 2, 4, "no"),
            ]
            .concat(),
        );
        assert_eq!(stage.at_client(), [wire::puback(2), wire::pubrec(4)].concat());
        stage.broker(&[wire::puback(1), wire::pubrec(3)].concat());
        assert_eq!(stage.at_client(), [wire::puback(1), wire::pubrec(3)].concat());
    }
}

#[test]
fn a_broker_that_does_not_acknowledge_does_not_stop_the_client() {
    let mut stage = judging(Action::Reject).open(Version::V5);
    stage.client(&publish(Version::V5, 1, 1, "yes"));
    for _ in 0..100_000 {
        stage.client(&publish(Version::V5, 1, 2, "no"));
        assert!(!stage.at_client().is_empty());
    }
    assert_eq!(stage.unread(Side::Client), 0);
}

#[test]
fn an_id_used_twice_is_judged_told_and_answered_twice_in_order() {
    for version in VERSIONS {
        for qos in [1, 2] {
            let mut stage = judging(Action::Drop).open(version);
            let again = match version {
                Version::V5 => publish(version, qos, 1, "yes/b"),
                _ => wire::publish(
                    version,
                    &Publish {
                        topic: "yes/b",
                        payload: b"p",
                        qos,
                        packet_id: 1,
                        dup: true,
                        ..Publish::default()
                    },
                ),
            };
            let sent = [publish(version, qos, 1, "yes/a"), again].concat();
            stage.client(&sent);
            assert_eq!(stage.at_broker(), sent);
            stage.client(&publish(version, qos, 1, "no"));
            assert_eq!(stage.at_client(), b"", "not before those of the same id");
            let ack = if qos == 1 { wire::puback(1) } else { wire::pubrec(1) };
            stage.events();
            for topic in ["yes/a", "yes/b"] {
                stage.broker(&ack);
                let told = stage.events();
                assert!(matches!(&told[..], [Happening::Publish(told)] if *told.topic == *topic), "{told:?}");
            }
            assert_eq!(stage.at_client(), ack.repeat(3));
        }
    }
}

#[test]
fn a_qos_2_flow_that_is_the_broker_s_stays_the_broker_s_whatever_becomes_of_a_dup() {
    for version in [Version::V31, Version::V311] {
        for failed in [false, true] {
            for answered in [false, true] {
                let mut stage = Stage::new().open(version);
                stage.client(&publish(version, 2, 1, "a"));
                stage.rule(0, allow(Hook::Publish));
                assert_eq!(stage.at_broker(), publish(version, 2, 1, "a"));
                stage.client(&dup(version, 1, "a"));
                let verdict = if failed { fail() } else { refuse(Hook::Publish) };
                if answered {
                    stage.broker(&wire::pubrec(1));
                    stage.rule(1, verdict);
                } else {
                    stage.rule(1, verdict);
                    assert_eq!(stage.at_client(), b"", "the broker's own comes first");
                    stage.broker(&wire::pubrec(1));
                }
                assert_eq!(stage.at_client(), wire::pubrec(1).repeat(2));
                assert_eq!(stage.at_broker(), b"", "the DUP was refused");
                stage.client(&wire::pubrel(1));
                assert_eq!(stage.at_broker(), wire::pubrel(1));
                stage.broker(&wire::pubcomp(1));
                assert_eq!(stage.at_client(), wire::pubcomp(1));
            }
        }
    }
}

#[test]
fn what_is_in_flight_is_ids_in_use() {
    for version in VERSIONS {
        let mut stage = judging(Action::Drop).open(version);
        stage.client(&[publish(version, 2, 1, "yes"), publish(version, 1, 2, "yes")].concat());
        // Of no flow at all.
        stage.client(&wire::pubrel(9));
        stage.broker(&match version {
            Version::V5 => wire::packet(0x70, &[0, 9, 0x92]),
            _ => wire::pubcomp(9),
        });
        stage.broker(&[wire::puback(7), wire::pubcomp(2)].concat());
        stage.drain();
        assert!(!stage.is_shut(Side::Client), "1 and 2 are under way");
        stage.broker(&[wire::puback(2), wire::pubrec(1)].concat());
        assert!(!stage.is_shut(Side::Client), "1 is under way");
        stage.client(&wire::pubrel(1));
        stage.broker(&wire::pubcomp(1));
        assert!(stage.is_shut(Side::Client));
    }
}

#[test]
fn verdicts_out_of_order_never_reorder_packets() {
    let mut stage = Stage::new().open(Version::V311);
    let packets: Vec<Vec<u8>> = (0..4).map(|n| publish(Version::V311, 0, 0, &format!("t/{n}"))).collect();
    stage.client(&[packets.concat(), wire::pingreq()].concat());
    for n in [3, 1, 2] {
        stage.rule(n, allow(Hook::Publish));
        assert_eq!(stage.at_broker(), b"");
    }
    stage.rule(0, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), [packets.concat(), wire::pingreq()].concat());
}

#[test]
fn a_refused_publish_keeps_its_place() {
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&[publish(Version::V5, 1, 1, "a"), publish(Version::V5, 1, 2, "b")].concat());
    stage.rule(1, refuse(Hook::Publish));
    assert_eq!(stage.at_client(), b"", "the first is not even at the broker");
    stage.rule(0, refuse(Hook::Publish));
    let no = |id| wire::packet(0x40, &[0, id, 0x87]);
    assert_eq!(stage.at_client(), [no(1), no(2)].concat());
}

#[test]
fn a_thousand_packets_in_one_segment_are_a_thousand_packets() {
    let mut stage = judging(Action::Reject).open(Version::V311);
    let packets: Vec<u8> = (0..1000)
        .flat_map(|n| publish(Version::V311, 0, 0, &format!("{}/{n}", if n % 3 == 0 { "no" } else { "yes" })))
        .collect();
    let allowed: Vec<u8> = (0..1000)
        .filter(|n| n % 3 != 0)
        .flat_map(|n| publish(Version::V311, 0, 0, &format!("yes/{n}")))
        .collect();
    stage.client(&packets);
    assert_eq!(stage.at_broker(), allowed);
}

#[test]
fn packets_may_come_byte_by_byte() {
    for version in VERSIONS {
        let mut stage = judging(Action::Drop).open(version);
        let packets = [publish(version, 1, 1, "yes"), publish(version, 1, 2, "no"), wire::pingreq()].concat();
        for byte in &packets {
            stage.client(&[*byte]);
        }
        assert_eq!(stage.at_broker(), [publish(version, 1, 1, "yes"), wire::pingreq()].concat());
        assert_eq!(stage.at_client(), wire::puback(2));
        for byte in wire::puback(1) {
            stage.broker(&[byte]);
        }
        assert_eq!(stage.at_client(), wire::puback(1));
    }
}

#[test]
fn a_full_lane_stops_reading_and_goes_on_when_it_empties() {
    let limits = Limits { lane_packets: 4, ..Limits::default() };
    let mut stage = Setup { limits, ..Setup::default() }.stage().open(Version::V311);
    let packet = publish(Version::V311, 0, 0, "a");
    stage.client(&packet.repeat(10));
    assert_eq!(stage.session.waiting(Side::Client), (4, 4 * packet.len()));
    assert_eq!((stage.questions(), stage.unread(Side::Client)), (4, 6 * packet.len()));
    assert!(!stage.session.wants_read(Side::Client));
    assert!(stage.session.wants_read(Side::Broker), "the other way is free");
    for n in 0..10 {
        stage.rule(n, allow(Hook::Publish));
    }
    assert_eq!(stage.at_broker(), packet.repeat(10));
}

#[test]
fn codes_that_a_packet_may_not_carry_are_replaced() {
    for (said, puback) in [
        (ReasonCode::BANNED, 0x87),
        (ReasonCode::QUOTA_EXCEEDED, 0x97),
        (ReasonCode::TOPIC_NAME_INVALID, 0x90),
        (ReasonCode::SERVER_UNAVAILABLE, 0x83),
        (ReasonCode::SUCCESS, 0x87),
        (ReasonCode::NO_MATCHING_SUBSCRIBERS, 0x87),
        (ReasonCode(0x77), 0x87),
        (ReasonCode(0xFF), 0x87),
    ] {
        for qos in [1, 2] {
            let mut stage = Stage::new().open(Version::V5);
            stage.client(&publish(Version::V5, qos, 1, "a"));
            stage.rule(0, refused(Refusal::new(said)));
            let first = if qos == 1 { 0x40 } else { 0x50 };
            assert_eq!(stage.at_client(), wire::packet(first, &[0, 1, puback]), "{said:?}");
        }
    }
}

#[test]
fn a_reason_string_goes_out_only_where_the_client_allows_it() {
    let refusal = Refusal { text: Some("not here".into()), ..Refusal::default() };
    let with_text = wire::ack_with(0x40, 1, 0x87, b"\x1f\0\x08not here");
    let bare = wire::packet(0x40, &[0, 1, 0x87]);
    for (connect, expected) in [
        (&b""[..], &with_text),
        (b"\x17\x01", &with_text),
        (b"\x17\x00", &bare),
        // Maximum Packet Size 10: it would not fit.
        (b"\x27\0\0\0\x0a", &bare),
    ] {
        let mut stage = Stage::new();
        stage.open_with(Version::V5, connect, b"");
        stage.client(&publish(Version::V5, 1, 1, "a"));
        stage.rule(0, refused(refusal.clone()));
        assert_eq!(&stage.at_client(), expected);
    }
    // As if taken means: without a word about it.
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&publish(Version::V5, 1, 1, "a"));
    stage.rule(0, refused(Refusal { action: Action::Drop, ..refusal }));
    assert_eq!(stage.at_client(), wire::puback(1));
}

#[test]
fn a_failed_answer_refuses_or_lets_pass_as_configured() {
    for (on_error, passes) in [(OnError::Deny, false), (OnError::Allow, true)] {
        let on_error = OnErrors { publish: on_error, ..OnErrors::default() };
        let mut stage = Setup { on_error, ..Setup::default() }.stage().open(Version::V5);
        let packet = publish(Version::V5, 1, 1, "a");
        stage.client(&packet);
        stage.rule(0, fail());
        let (broker, client) =
            if passes { (packet, Vec::new()) } else { (Vec::new(), wire::packet(0x40, &[0, 1, 0x83])) };
        assert_eq!((stage.at_broker(), stage.at_client()), (broker, client));
    }
}

#[test]
fn a_rewrite_changes_what_it_says_and_nothing_else() {
    for version in VERSIONS {
        for qos in 0..=2 {
            for later in [true, false] {
                let new = PublishChange {
                    topic: Some("t/a".into()),
                    payload: Some(Bytes::from_static(b"new")),
                    retain: Some(true),
                    ..PublishChange::default()
                };
                let mut stage = Stage::new().open(version);
                let verdict = change(new.clone());
                if !later {
                    stage.script.answer(move |_| Reply::Now(verdict.clone()));
                }
                stage.client(&publish(version, qos, 7, "a"));
                if later {
                    stage.rule(0, change(new));
                }
                let expected = Publish {
                    topic: "t/a",
                    payload: b"new",
                    qos,
                    packet_id: 7,
                    retain: true,
                    ..Publish::default()
                };
                assert_eq!(stage.at_broker(), wire::publish(version, &expected));
            }
        }
    }
}

#[test]
fn a_rewrite_to_what_it_was_is_none() {
    let mut stage = Stage::new().open(Version::V5);
    // A length that mproxy itself would write in other bytes cannot come; a property order can.
    let properties = b"\x26\0\x01k\0\x01v\x01\x01";
    let packet =
        wire::publish(Version::V5, &Publish { topic: "a", payload: b"p", properties, ..Publish::default() });
    stage.client(&packet);
    stage.rule(
        0,
        change(PublishChange { topic: Some("a".into()), retain: Some(false), ..PublishChange::default() }),
    );
    assert_eq!(stage.at_broker(), packet);
}

#[test]
fn user_properties_are_set_replaced_and_removed_in_5_0_and_unknown_before() {
    let edit = || {
        change(PublishChange {
            set_user_properties: vec![("k".into(), "new".into()), ("n".into(), "1".into())],
            remove_user_properties: vec!["gone".into()],
            ..PublishChange::default()
        })
    };
    let mut stage = Stage::new().open(Version::V5);
    let properties = b"\x26\0\x01k\0\x03old\x26\0\x04gone\0\0\x01\x01\x26\0\x01o\0\x01o";
    let packet = Publish { topic: "a", payload: b"p", properties, ..Publish::default() };
    stage.client(&wire::publish(Version::V5, &packet));
    stage.rule(0, edit());
    let properties = b"\x01\x01\x26\0\x01o\0\x01o\x26\0\x01k\0\x03new\x26\0\x01n\0\x011";
    assert_eq!(stage.at_broker(), wire::publish(Version::V5, &Publish { properties, ..packet }));

    let mut stage = Stage::new().open(Version::V311);
    stage.client(&publish(Version::V311, 0, 0, "a"));
    stage.rule(0, edit());
    assert_eq!(stage.at_broker(), publish(Version::V311, 0, 0, "a"));
}

#[test]
fn a_rewrite_that_makes_an_invalid_packet_is_a_failed_answer() {
    let topic = |topic: &str| PublishChange { topic: Some(topic.into()), ..PublishChange::default() };
    for bad in [
        topic(""),
        topic("a/#"),
        topic("+"),
        topic("a\0"),
        topic(&"x".repeat(70_000)),
        PublishChange { set_user_properties: vec![("a\0".into(), "".into())], ..PublishChange::default() },
        PublishChange {
            set_user_properties: vec![("x".repeat(70_000), "".into())],
            ..PublishChange::default()
        },
        // Over the broker's Maximum Packet Size.
        PublishChange { payload: Some(vec![0; 100].into()), ..PublishChange::default() },
        topic(&"x".repeat(100)),
    ] {
        let mut stage = Stage::new();
        stage.open_with(Version::V5, b"", b"\x27\0\0\0\x64");
        stage.client(&publish(Version::V5, 1, 1, "a"));
        stage.rule(0, change(bad.clone()));
        assert_eq!(stage.at_broker(), b"");
        let code = stage.at_client().pop();
        assert!(matches!(code, Some(0x83 | 0x97)), "{code:?}");
    }
}

#[test]
fn an_invalid_rewrite_is_refused_where_failed_answers_allow_too() {
    let on_error = OnErrors { publish: OnError::Allow, ..OnErrors::default() };
    let mut stage = Setup { on_error, ..Setup::default() }.stage().open(Version::V5);
    stage.client(&publish(Version::V5, 1, 1, "a"));
    stage.rule(0, change(PublishChange { topic: Some("#".into()), ..PublishChange::default() }));
    assert_eq!((stage.at_broker(), stage.at_client()), (Vec::new(), wire::packet(0x40, &[0, 1, 0x83])));
}

#[test]
fn receive_maximum_is_between_the_two_peers() {
    for held in [false, true] {
        let mut stage = judging(Action::Drop);
        stage.open_with(Version::V5, b"", b"\x21\0\x02");
        if held {
            stage.script.answer(|_| Reply::Later);
        }
        let many: Vec<u8> = (1..=200).flat_map(|id| publish(Version::V5, 1, id, "yes")).collect();
        stage.client(&many);
        // More than may be asked about at once: the others follow as those before them are answered.
        let mut n = 0;
        while n < stage.questions() {
            stage.rule(n, allow(Hook::Publish));
            n += 1;
        }
        assert_eq!(stage.at_broker(), many);
        assert_eq!(stage.at_client(), b"");
    }
}

#[test]
fn a_packet_over_the_limit_is_refused_before_it_is_buffered() {
    let limits = Limits { max_packet_size: 1000, ..Limits::default() };
    let mut stage = Setup { limits, ..Setup::default() }.stage().open(Version::V5);
    stage.client(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x95]));
}

#[test]
fn properties_larger_than_what_is_held_are_refused() {
    let limits = Limits { max_held_packet: 20_000, ..Limits::default() };
    let mut stage = Setup { limits, ..Setup::default() }.stage().open(Version::V5);
    let properties = b"\x26\0\x01k\0\x01v".repeat(5_000);
    let packet =
        wire::publish(Version::V5, &Publish { topic: "a", properties: &properties, ..Publish::default() });
    stage.client(&packet[..30_000]);
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x95]));
}

#[test]
fn what_was_sent_before_a_malformed_packet_still_arrives() {
    let mut stage = Stage::new().open(Version::V5);
    let packet = publish(Version::V5, 1, 1, "a");
    stage.client(&[packet.clone(), vec![0, 0]].concat());
    assert!(stage.is_shut(Side::Client) && !stage.is_shut(Side::Broker));
    stage.rule(0, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), packet);
    assert!(stage.is_shut(Side::Broker));
    assert!(matches!(stage.finish(), Fault::Malformed { .. }));
}
