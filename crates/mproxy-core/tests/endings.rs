//! How sessions end: who said what last, what still arrives, and that all of them do.

use std::time::Duration;

use mproxy_codec::ReasonCode;
use mproxy_core::event::{Ended, Happening};
use mproxy_core::fault::{Fault, Party};
use mproxy_core::policy::{Action, Hook, Want};
use mproxy_core::session::OnUnavailable;
use mproxy_core::{Limits, Side};
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version, Will};
use mproxy_sim::{Reply, Stage, allow, refuse, refuse_as};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn publish(version: Version, qos: u8, packet_id: u16) -> Vec<u8> {
    wire::publish(version, &Publish { topic: "a", payload: b"p", qos, packet_id, ..Publish::default() })
}

fn goodbye(version: Version, reason: u8) -> Vec<u8> {
    if version == Version::V5 { wire::packet(0xE0, &[reason]) } else { Vec::new() }
}

fn ended(stage: &mut Stage) -> Ended {
    let mut ends = stage.events().into_iter().filter_map(|event| match event {
        Happening::Disconnect(ended) => Some(*ended),
        _ => None,
    });
    let end = ends.next().expect("Disconnect was reported");
    assert!(ends.next().is_none(), "Disconnect was reported twice");
    end
}

/// A session with a will, open.
fn with_will(version: Version) -> Stage {
    let mut stage = Stage::new();
    let will = Some(Will { topic: "gone", ..Will::default() });
    stage.client(&wire::connect(version, "c", &ConnectOptions { will, ..ConnectOptions::default() }));
    stage.broker(&wire::connack(version, false, 0, b""));
    stage.at_broker();
    stage.at_client();
    stage
}

#[test]
fn a_disconnect_is_passed_on_and_takes_the_will_away() {
    for version in VERSIONS {
        let mut stage = with_will(version);
        stage.client(&wire::disconnect());
        assert_eq!(stage.at_broker(), wire::disconnect());
        assert!(!stage.is_shut(Side::Client) && !stage.is_shut(Side::Broker), "the broker closes");
        assert_eq!(stage.finish(), Fault::Left { reason: ReasonCode::SUCCESS });
        assert_eq!(stage.at_client(), b"");
        assert!(ended(&mut stage).will_suppressed);
    }
}

#[test]
fn a_disconnect_with_will_leaves_the_will() {
    let mut stage = with_will(Version::V5);
    let disconnect = wire::disconnect_with(0x04, b"");
    stage.client(&disconnect);
    assert_eq!(stage.at_broker(), disconnect);
    stage.finish();
    assert!(!ended(&mut stage).will_suppressed);
}

#[test]
fn a_client_that_vanishes_is_cut_without_disconnect_so_that_the_will_fires() {
    for version in VERSIONS {
        let mut stage = with_will(version);
        stage.close(Side::Client);
        assert_eq!(stage.at_broker(), b"");
        assert!(stage.is_shut(Side::Broker) && !stage.is_shut(Side::Client));
        let fault = stage.finish();
        assert_eq!(fault.by(), Party::Client);
        let end = ended(&mut stage);
        assert!(!end.will_suppressed && end.fault == fault);
    }
}

#[test]
fn what_a_vanished_client_sent_before_still_reaches_the_broker() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        stage.client(&[publish(version, 0, 0), publish(version, 1, 1), publish(version, 0, 0)].concat());
        stage.close(Side::Client);
        assert!(!stage.is_shut(Side::Broker), "packets still wait for it");
        stage.rule(0, allow(Hook::Publish));
        stage.rule(2, allow(Hook::Publish));
        stage.rule(1, refuse(Hook::Publish));
        assert_eq!(stage.at_broker(), publish(version, 0, 0).repeat(2), "and no DISCONNECT");
        assert!(stage.is_shut(Side::Broker));
        assert!(matches!(stage.finish(), Fault::Lost { side: Side::Client, .. }));
    }
}

#[test]
fn a_lane_that_is_full_when_the_client_vanishes_still_loses_nothing() {
    let limits = Limits { lane_packets: 2, ..Limits::default() };
    let mut stage = Setup { limits, ..Setup::default() }.stage().open(Version::V311);
    stage.client(&publish(Version::V311, 0, 0).repeat(6));
    stage.close(Side::Client);
    for n in 0..6 {
        stage.rule(n, allow(Hook::Publish));
    }
    assert_eq!(stage.at_broker(), publish(Version::V311, 0, 0).repeat(6));
    stage.finish();
}

#[test]
fn a_disconnect_behind_held_packets_waits_its_turn_and_is_the_reason() {
    for closes in [false, true] {
        let mut stage = with_will(Version::V311);
        stage.client(&[publish(Version::V311, 0, 0), wire::disconnect()].concat());
        if closes {
            stage.close(Side::Client);
        }
        assert_eq!(stage.at_broker(), b"");
        stage.rule(0, allow(Hook::Publish));
        assert_eq!(stage.at_broker(), [publish(Version::V311, 0, 0), wire::disconnect()].concat());
        assert_eq!(stage.finish(), Fault::Left { reason: ReasonCode::SUCCESS });
        let end = ended(&mut stage);
        assert!(end.will_suppressed && end.fault == Fault::Left { reason: ReasonCode::SUCCESS });
    }
}

#[test]
fn nothing_follows_a_disconnect() {
    for held in [false, true] {
        let mut stage = Stage::new().open(Version::V5);
        let before = if held { publish(Version::V5, 0, 0) } else { Vec::new() };
        stage.client(
            &[before.clone(), wire::disconnect(), publish(Version::V5, 0, 0), wire::pingreq()].concat(),
        );
        for n in 0..stage.questions() {
            stage.rule(n, allow(Hook::Publish));
        }
        assert_eq!(stage.at_broker(), [before, wire::disconnect()].concat());
        stage.finish();
    }
}

#[test]
fn a_disconnect_that_prolongs_a_session_of_no_length_is_a_protocol_error() {
    let disconnect = wire::disconnect_with(0, b"\x11\0\0\0\x0a");
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&disconnect);
    assert_eq!((stage.at_client(), stage.at_broker()), (goodbye(Version::V5, 0x82), Vec::new()));
    // By CONNECT's word, whatever the broker made of it.
    let mut stage = Stage::new();
    stage.open_with(Version::V5, b"\x11\0\0\0\x05", b"\x11\0\0\0\0");
    stage.client(&disconnect);
    assert_eq!(stage.at_broker(), disconnect);
}

#[test]
fn what_the_broker_sent_last_reaches_the_client() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        stage.broker(&publish(version, 0, 0).repeat(3));
        stage.close(Side::Broker);
        assert_eq!(stage.at_client(), publish(version, 0, 0).repeat(3), "and no DISCONNECT of ours");
        assert!(stage.is_shut(Side::Client) && !stage.is_shut(Side::Broker));
        let fault = stage.finish();
        assert_eq!(fault.by(), Party::Broker);
        assert!(ended(&mut stage).will_suppressed, "there was none");
    }
}

#[test]
fn what_the_broker_sent_last_waits_for_its_verdicts_first() {
    let mut stage = Stage::new().open(Version::V311);
    stage.script.want(Hook::Deliver, Want::Head);
    stage.broker(&publish(Version::V311, 0, 0).repeat(2));
    stage.close(Side::Broker);
    assert!(!stage.is_shut(Side::Client));
    stage.rule(1, allow(Hook::Deliver));
    stage.rule(0, allow(Hook::Deliver));
    assert_eq!(stage.at_client(), publish(Version::V311, 0, 0).repeat(2));
    assert!(stage.is_shut(Side::Client));
    stage.finish();
}

#[test]
fn publishes_that_wait_when_the_broker_goes_go_nowhere() {
    let mut stage = Stage::new().open(Version::V311);
    stage.client(&publish(Version::V311, 1, 1));
    stage.close(Side::Broker);
    stage.rule(0, refuse(Hook::Publish));
    assert_eq!((stage.at_broker(), stage.at_client()), (Vec::new(), Vec::new()));
    stage.finish();
}

#[test]
fn the_broker_s_disconnect_is_passed_on_and_nothing_follows_it() {
    let disconnect = wire::disconnect_with(0x8E, b"");
    for held in [false, true] {
        let mut stage = Stage::new().open(Version::V5);
        stage.script.want(Hook::Deliver, Want::Head);
        let before = if held { publish(Version::V5, 0, 0) } else { Vec::new() };
        stage.client(&publish(Version::V5, 1, 1));
        stage.broker(&[before.clone(), disconnect.clone(), publish(Version::V5, 0, 0)].concat());
        for n in 1..stage.questions() {
            stage.rule(n, allow(Hook::Deliver));
        }
        assert_eq!(stage.at_client(), [before, disconnect.clone()].concat());
        assert!(stage.is_shut(Side::Client) && stage.is_shut(Side::Broker));
        stage.rule(0, allow(Hook::Publish));
        assert_eq!(stage.at_broker(), b"");
        assert_eq!(stage.finish(), Fault::BrokerLeft { reason: ReasonCode::SESSION_TAKEN_OVER });
    }
}

#[test]
fn a_broker_that_says_goodbye_behind_held_deliveries_and_goes_has_said_goodbye() {
    let mut stage = Stage::new().open(Version::V5);
    stage.script.want(Hook::Deliver, Want::Head);
    let disconnect = wire::disconnect_with(0x8E, b"");
    stage.broker(&[publish(Version::V5, 0, 0), disconnect.clone()].concat());
    stage.close(Side::Broker);
    stage.rule(0, refuse(Hook::Deliver));
    assert_eq!(stage.at_client(), disconnect);
    assert_eq!(stage.finish(), Fault::BrokerLeft { reason: ReasonCode::SESSION_TAKEN_OVER });
}

#[test]
fn a_broker_that_talks_nonsense_ends_the_session() {
    for version in VERSIONS {
        for nonsense in
            [&b"\x00\x00"[..], b"\xC0\x00", b"\x40\x02\0\0", b"\x82\x06\0\x01\0\x01a\0", b"\x20\x02\0\0"]
        {
            let mut stage = Stage::new().open(version);
            stage.broker(nonsense);
            assert_eq!(stage.at_client(), goodbye(version, 0x80), "{nonsense:x?}");
            let fault = stage.finish();
            assert_eq!(fault.by(), Party::Broker, "{fault}");
        }
    }
}

#[test]
fn a_kick_tells_the_reason_and_drops_what_waits() {
    for version in VERSIONS {
        let mut stage = with_will(version);
        stage.client(&publish(version, 1, 1));
        stage.session.revoke(ReasonCode::ADMINISTRATIVE_ACTION, stage.now);
        stage.run();
        assert_eq!(stage.at_client(), goodbye(version, 0x98));
        stage.rule(0, allow(Hook::Publish));
        assert_eq!(stage.at_broker(), b"", "neither the publish nor a DISCONNECT");
        let fault = stage.finish();
        assert_eq!(fault.by(), Party::Administrator);
        assert!(!ended(&mut stage).will_suppressed);
    }
}

#[test]
fn a_disconnect_action_drops_what_stands_behind_it() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        stage.client(&publish(version, 0, 0).repeat(3));
        stage.rule(0, allow(Hook::Publish));
        stage.rule(2, allow(Hook::Publish));
        stage.rule(1, refuse_as(Action::Disconnect));
        assert_eq!(stage.at_broker(), publish(version, 0, 0));
        assert_eq!(stage.at_client(), goodbye(version, 0x87));
        stage.finish();
    }
}

#[test]
fn a_drain_waits_for_what_is_in_flight_and_takes_nothing_new() {
    for version in VERSIONS {
        let mut stage = Stage::answering(|asked| Reply::Now(allow(asked.hook))).open(version);
        stage.client(&[publish(version, 1, 1), publish(version, 2, 2)].concat());
        stage.drain();
        assert!(!stage.is_shut(Side::Client));
        assert!(stage.session.wants_read(Side::Client), "a PUBREL is still to come");
        stage.broker(&[wire::pubrec(2), wire::puback(1)].concat());
        stage.client(&wire::pubrel(2));
        stage.broker(&wire::pubcomp(2));
        let heard = [wire::pubrec(2), wire::puback(1), wire::pubcomp(2), goodbye(version, 0x8B)].concat();
        assert_eq!(stage.at_client(), heard);
        assert_eq!(stage.finish(), Fault::Drained { elsewhere: false });
    }
}

#[test]
fn a_drain_sends_who_is_open_to_another_server() {
    let elsewhere = || Setup { drain_reference: Some("b:1"), ..Setup::default() };
    for version in VERSIONS {
        let mut stage = elsewhere().stage().open(version);
        stage.drain();
        // DISCONNECT, "Use another server", with a Server Reference [MQTT-3.14.2.2.5].
        let told = [&[0x9c, 6, 0x1c, 0, 3][..], b"b:1"].concat();
        let told = if version == Version::V5 { wire::packet(0xE0, &told) } else { Vec::new() };
        assert_eq!((stage.at_client(), stage.finish()), (told, Fault::Drained { elsewhere: true }));
    }
}

#[test]
fn a_connack_that_says_server_unavailable_names_no_server() {
    let on_unavailable = OnUnavailable::Connack;
    let mut stage = Setup { drain_reference: Some("b:1"), on_unavailable, ..Setup::default() }.stage();
    stage.client(&wire::connect(Version::V5, "c", &ConnectOptions::default()));
    stage.drain();
    // 3.2.2.3.16
    assert_eq!(stage.at_client(), wire::connack(Version::V5, false, 0x88, &[]));
    assert_eq!(stage.finish(), Fault::Drained { elsewhere: false });
}

#[test]
fn a_drain_comes_to_its_end_under_a_steady_stream() {
    let mut stage = Stage::answering(|asked| Reply::Now(allow(asked.hook))).open(Version::V311);
    stage.client(&[publish(Version::V311, 1, 1), publish(Version::V311, 1, 2)].concat());
    stage.drain();
    stage.client(&publish(Version::V311, 1, 3));
    assert_eq!(stage.unread(Side::Client), publish(Version::V311, 1, 3).len());
    stage.broker(&[wire::puback(1), wire::puback(2)].concat());
    assert_eq!(stage.finish(), Fault::Drained { elsewhere: false });
    assert_eq!(stage.at_broker(), [publish(Version::V311, 1, 1), publish(Version::V311, 1, 2)].concat());
}

#[test]
fn a_drain_begins_no_exchange_while_others_are_finished() {
    for version in VERSIONS {
        for asked in [Want::Nothing, Want::Head] {
            let stage = Stage::answering(|asked| Reply::Now(allow(asked.hook)));
            stage.script.want(Hook::Publish, asked);
            let mut stage = stage.open(version);
            stage.client(&publish(version, 2, 1));
            stage.broker(&wire::pubrec(1));
            stage.drain();
            // A client that has always one open: it begins the next before it ends the last.
            let [two, one, none] = [(2, 2), (1, 3), (0, 0)].map(|(qos, id)| publish(version, qos, id));
            stage.client(&[two, one, none.clone(), wire::pubrel(1)].concat());
            assert_eq!(stage.at_broker(), [publish(version, 2, 1), none, wire::pubrel(1)].concat());
            assert!(stage.done().is_none());
            stage.broker(&wire::pubcomp(1));
            let heard = [wire::pubrec(1), wire::pubcomp(1), goodbye(version, 0x8B)].concat();
            assert_eq!(stage.at_client(), heard, "and no acknowledgement of what went nowhere");
            assert_eq!(stage.finish(), Fault::Drained { elsewhere: false });
            assert_eq!(stage.at_broker(), b"");
        }
    }
}

#[test]
fn a_drain_does_not_wait_for_a_payload_that_goes_nowhere() {
    let mut stage = Stage::answering(|asked| Reply::Now(allow(asked.hook))).open(Version::V5);
    stage.client(&publish(Version::V5, 2, 1));
    stage.broker(&wire::pubrec(1));
    stage.drain();
    let payload = vec![0; 100_000];
    let large = Publish { topic: "a", payload: &payload, qos: 2, packet_id: 2, ..Publish::default() };
    stage.client(&[wire::pubrel(1), wire::publish(Version::V5, &large)].concat()[..50_000]);
    stage.broker(&wire::pubcomp(1));
    assert_eq!(stage.finish(), Fault::Drained { elsewhere: false });
    assert_eq!(stage.at_broker(), [publish(Version::V5, 2, 1), wire::pubrel(1)].concat());
}

#[test]
fn a_drain_waits_for_verdicts_and_payloads_too() {
    let mut stage = Stage::new().open(Version::V5);
    let payload = vec![0; 100_000];
    let large = wire::publish(Version::V5, &Publish { topic: "a", payload: &payload, ..Publish::default() });
    stage.client(&large[..50_000]);
    stage.drain();
    stage.rule(0, allow(Hook::Publish));
    assert!(!stage.is_shut(Side::Client));
    stage.client(&large[50_000..]);
    assert!(stage.at_broker() == large);
    assert_eq!(stage.at_client(), goodbye(Version::V5, 0x8B));
    assert_eq!(stage.finish(), Fault::Drained { elsewhere: false });
}

#[test]
fn told_again_to_drain_it_waits_for_nothing() {
    for version in VERSIONS {
        let mut stage = Stage::answering(|asked| Reply::Now(allow(asked.hook))).open(version);
        stage.client(&publish(version, 1, 1));
        stage.drain();
        assert!(!stage.is_shut(Side::Client));
        stage.drain();
        assert!(stage.is_shut(Side::Client) && stage.is_shut(Side::Broker));
        assert_eq!(stage.at_client(), goodbye(version, 0x8B));
        assert_eq!(stage.finish(), Fault::Drained { elsewhere: false });
    }
}

#[test]
fn an_idle_session_drains_at_once() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        stage.drain();
        assert_eq!(stage.at_client(), goodbye(version, 0x8B));
        assert_eq!(stage.at_broker(), b"");
        assert_eq!(stage.finish(), Fault::Drained { elsewhere: false });
    }
}

#[test]
fn refused_and_swallowed_publishes_do_not_hold_a_drain_up() {
    for version in VERSIONS {
        for (qos, action) in
            [(1, Action::Reject), (1, Action::NoAck), (2, Action::NoAck), (0, Action::Reject)]
        {
            let mut stage = Stage::answering(move |asked| {
                Reply::Now(if asked.hook == Hook::Publish { refuse_as(action) } else { allow(asked.hook) })
            })
            .open(version);
            stage.client(&publish(version, qos, 1));
            stage.drain();
            assert_eq!(stage.finish(), Fault::Drained { elsewhere: false });
        }
    }
}

#[test]
fn peers_that_do_not_close_are_cut_in_time() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        stage.client(&wire::disconnect());
        stage.pass(Duration::from_millis(4_999));
        assert!(stage.done().is_none());
        stage.pass(Duration::from_millis(1));
        assert!(matches!(stage.done(), Some(Fault::Left { .. })));
        ended(&mut stage);
    }
}

#[test]
fn a_verdict_that_never_comes_does_not_keep_a_lost_session_alive() {
    for side in [Side::Client, Side::Broker] {
        let mut stage = Stage::new().open(Version::V311);
        stage.script.want(Hook::Deliver, Want::Head);
        stage.sends(side, &publish(Version::V311, 1, 1));
        stage.close(side);
        assert!(stage.session.poll_timeout().is_some(), "an end always has a clock");
        stage.pass(Duration::from_secs(20));
        assert!(matches!(stage.done(), Some(Fault::Lost { .. })));
        let over = match side {
            Side::Client => allow(Hook::Publish),
            Side::Broker => allow(Hook::Deliver),
        };
        // Whatever comes now comes too late, and nothing follows Done (the stage watches).
        stage.rule(0, over);
        stage.session.drain(stage.now);
        stage.session.revoke(ReasonCode::BANNED, stage.now);
        stage.run();
        assert!(stage.session.poll_effect().is_none());
    }
}

#[test]
fn both_sides_may_vanish_in_either_order() {
    for order in [[Side::Client, Side::Broker], [Side::Broker, Side::Client]] {
        let mut stage = Stage::new().open(Version::V5);
        stage.client(&publish(Version::V5, 1, 1));
        stage.reset(order[0]);
        stage.reset(order[1]);
        assert!(matches!(stage.done(), Some(Fault::Lost { side, .. }) if *side == order[0]));
        ended(&mut stage);
        stage.rule(0, allow(Hook::Publish));
    }
}

#[test]
fn the_first_reason_counts() {
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&[0]);
    stage.session.revoke(ReasonCode::BANNED, stage.now);
    stage.drain();
    stage.close(Side::Broker);
    assert!(matches!(stage.finish(), Fault::Malformed { .. }));
    assert_eq!(stage.at_client(), goodbye(Version::V5, 0x81));
}

/// Everything is allowed at once.
fn allowing(version: Version) -> Stage {
    Stage::answering(|asked| Reply::Now(allow(asked.hook))).open(version)
}

fn told(stage: &mut Stage) -> Vec<&'static str> {
    stage.events().iter().map(|event| event.kind().name()).collect()
}

#[test]
fn what_the_broker_answers_after_disconnect_reaches_the_client_and_is_told() {
    for version in VERSIONS {
        for ends in [None, Some(false), Some(true)] {
            let mut stage = allowing(version);
            let sent = [publish(version, 1, 1), publish(version, 2, 2), wire::disconnect()].concat();
            stage.client(&sent);
            assert_eq!(stage.at_broker(), sent);
            match ends {
                None => assert!(!stage.is_shut(Side::Broker), "it is the broker's turn to close"),
                // The end of the client's stream is passed on, however it came; a reset hears no more.
                Some(false) => stage.close(Side::Client),
                Some(true) => stage.reset(Side::Client),
            }
            assert_eq!(stage.is_shut(Side::Broker), ends.is_some());
            let answers = [wire::puback(1), wire::pubrec(2)].concat();
            stage.broker(&answers);
            let reset = ends == Some(true);
            assert_eq!(stage.at_client(), if reset { Vec::new() } else { answers });
            assert_eq!(told(&mut stage), ["publish", "publish"]);
            stage.close(Side::Broker);
            assert_eq!(told(&mut stage), ["disconnect"]);
            assert_eq!(stage.finish(), Fault::Left { reason: ReasonCode::SUCCESS });
        }
    }
}

#[test]
fn a_half_closed_client_hears_what_the_broker_answers() {
    for version in VERSIONS {
        let mut stage = with_will(version);
        stage.events();
        stage.client(&[wire::subscribe(version, 3, &[("a", 0)]), publish(version, 1, 1)].concat());
        stage.close(Side::Client);
        stage.rule(0, allow(Hook::Subscribe));
        assert!(!stage.is_shut(Side::Broker), "a packet still waits for it");
        stage.rule(1, allow(Hook::Publish));
        let sent = [wire::subscribe(version, 3, &[("a", 0)]), publish(version, 1, 1)].concat();
        assert_eq!(stage.at_broker(), sent, "and no DISCONNECT");
        assert!(stage.is_shut(Side::Broker) && !stage.is_shut(Side::Client));
        let answers = [wire::suback(version, 3, &[0]), wire::puback(1), publish(version, 0, 0)].concat();
        stage.broker(&answers);
        assert_eq!(stage.at_client(), answers);
        assert_eq!(told(&mut stage), ["subscribe", "publish"]);
        assert!(!stage.is_shut(Side::Client));
        assert!(matches!(stage.finish(), Fault::Lost { side: Side::Client, .. }));
        assert!(!ended(&mut stage).will_suppressed);
    }
}

#[test]
fn a_half_closed_client_hears_our_own_answers() {
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&publish(Version::V5, 1, 1));
    stage.close(Side::Client);
    stage.rule(0, refuse(Hook::Publish));
    assert_eq!(stage.at_client(), wire::packet(0x40, &[0, 1, 0x87]));
    stage.finish();
}

#[test]
fn deliveries_to_a_half_closed_client_wait_for_their_verdicts() {
    let mut stage = allowing(Version::V311);
    stage.script.want(Hook::Deliver, Want::Head);
    stage.script.answer(|_| Reply::Later);
    stage.close(Side::Client);
    stage.broker(&[publish(Version::V311, 0, 0), wire::pingresp()].concat());
    stage.close(Side::Broker);
    assert!(!stage.is_shut(Side::Client));
    stage.rule(0, allow(Hook::Deliver));
    assert_eq!(stage.at_client(), [publish(Version::V311, 0, 0), wire::pingresp()].concat());
    stage.finish();
}

#[test]
fn a_stream_that_ends_before_connack_still_gets_it() {
    for version in VERSIONS {
        let mut stage = Stage::new();
        stage.client(&wire::connect(version, "c", &ConnectOptions::default()));
        stage.close(Side::Client);
        assert!(stage.done().is_none() && !stage.is_shut(Side::Broker));
        let connack = wire::connack(version, false, 0, b"");
        stage.broker(&connack);
        assert_eq!(stage.at_client(), connack);
        assert!(stage.is_shut(Side::Broker));
        stage.finish();
        ended(&mut stage);
    }
}

#[test]
fn whatever_ends_the_client_what_the_broker_took_is_told() {
    for version in VERSIONS {
        for ends in ["reset", "nonsense", "kick", "refusal", "drain"] {
            let mut stage = allowing(version);
            stage.script.want(Hook::Deliver, Want::Head);
            stage.script.answer(|asked| match asked.hook {
                Hook::Deliver => Reply::Later,
                _ if asked.what == "no" => Reply::Now(refuse_as(Action::Disconnect)),
                hook => Reply::Now(allow(hook)),
            });
            stage.client(&[publish(version, 1, 1), publish(version, 1, 2)].concat());
            // The first answer stands behind a delivery that waits.
            stage.broker(&[publish(version, 1, 9), wire::puback(1)].concat());
            match ends {
                "reset" => stage.reset(Side::Client),
                "nonsense" => stage.client(&[0, 0]),
                "kick" => {
                    stage.session.revoke(ReasonCode::ADMINISTRATIVE_ACTION, stage.now);
                    stage.run();
                }
                "refusal" => {
                    stage.client(&wire::publish(version, &Publish { topic: "no", ..Publish::default() }))
                }
                _ => {
                    stage.drain();
                    stage.drain();
                }
            }
            let heard = stage.at_client();
            let large = vec![0; 40_000];
            let large =
                wire::publish(version, &Publish { topic: "a", payload: &large, ..Publish::default() });
            stage.broker(&[large, wire::puback(2)].concat());
            assert_eq!(stage.at_client(), b"", "{ends}: nothing follows {heard:x?}");
            // Where mproxy ended it, these were all the answers that were due.
            let over = if ends == "reset" { &[][..] } else { &["disconnect"] };
            assert_eq!(told(&mut stage), [&["publish", "publish"], over].concat(), "{ends}");
            assert!(stage.take_questions().iter().filter(|asked| asked.hook == Hook::Deliver).count() <= 1);
            if ends == "reset" {
                assert!(stage.done().is_none());
                stage.close(Side::Broker);
                assert_eq!(told(&mut stage), ["disconnect"]);
            }
            assert!(stage.done().is_some(), "whoever has not closed");
        }
    }
}

#[test]
fn nothing_follows_a_disconnect_whatever_comes_behind_it() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        let first = publish(version, 0, 0);
        stage.client(&[first.clone(), wire::disconnect(), publish(version, 0, 0), vec![0]].concat());
        stage.rule(0, allow(Hook::Publish));
        assert_eq!(stage.questions(), 1, "nobody is asked about what comes too late");
        assert_eq!(stage.at_broker(), [first, wire::disconnect()].concat());
        assert_eq!(stage.finish(), Fault::Left { reason: ReasonCode::SUCCESS });
    }
}

#[test]
fn after_disconnect_the_session_sends_nothing_of_its_own_either() {
    let mut stage = Stage::new().open(Version::V311);
    stage.script.want(Hook::Deliver, Want::Head);
    stage.broker(&publish(Version::V311, 1, 7));
    stage.client(&wire::disconnect());
    stage.rule(0, refuse(Hook::Deliver));
    assert_eq!(stage.at_broker(), wire::disconnect(), "and no PUBACK");
    stage.finish();
}

#[test]
fn a_client_that_is_shut_out_after_its_stream_ended_publishes_no_more() {
    let mut stage = Stage::new().open(Version::V311);
    stage.client(&publish(Version::V311, 0, 0).repeat(2));
    stage.close(Side::Client);
    stage.rule(1, allow(Hook::Publish));
    stage.rule(0, refuse_as(Action::Disconnect));
    assert_eq!(stage.at_broker(), b"");
    stage.finish();
}

#[test]
fn a_broker_that_errs_after_the_client_s_disconnect_is_not_heard_any_more() {
    let mut stage = allowing(Version::V5);
    stage.client(&[publish(Version::V5, 1, 1), wire::disconnect()].concat());
    stage.broker(&[wire::puback(1), vec![0, 0], wire::pingresp()].concat());
    assert_eq!(stage.at_client(), wire::puback(1));
    assert!(stage.is_shut(Side::Client) && stage.is_shut(Side::Broker));
    assert_eq!(stage.finish(), Fault::Left { reason: ReasonCode::SUCCESS });
}

#[test]
fn a_session_that_is_over_waits_for_nobody_to_close() {
    for version in VERSIONS {
        let ends: [fn(&mut Stage); 6] = [
            |stage| stage.close(Side::Broker),
            |stage| stage.reset(Side::Broker),
            |stage| stage.broker(&[0, 0]),
            |stage| {
                stage.session.revoke(ReasonCode::ADMINISTRATIVE_ACTION, stage.now);
                stage.run();
            },
            |stage| stage.drain(),
            |stage| stage.client(&[0, 0]),
        ];
        for (n, end) in ends.into_iter().enumerate() {
            let mut stage = allowing(version);
            end(&mut stage);
            assert!(stage.done().is_some(), "{n}");
            assert_eq!(told(&mut stage), ["disconnect"], "{n}");
        }
        let mut stage = Stage::answering(|asked| Reply::Now(refuse(asked.hook)));
        stage.client(&wire::connect(version, "c", &ConnectOptions::default()));
        assert!(!stage.at_client().is_empty() && matches!(stage.done(), Some(Fault::Refused { .. })));
        assert_eq!(told(&mut stage), Vec::<&str>::new());
    }
    let mut stage = allowing(Version::V5);
    stage.broker(&wire::disconnect_with(0x8E, b""));
    let taken_over = Fault::BrokerLeft { reason: ReasonCode::SESSION_TAKEN_OVER };
    assert_eq!(stage.done(), Some(&taken_over), "though neither of the two has closed");
    assert_eq!(told(&mut stage), ["disconnect"]);
}

#[test]
fn what_was_meant_for_a_client_that_reads_slowly_is_waited_for() {
    for (reads, ends) in [(true, "close"), (false, "close"), (true, "refusal"), (false, "refusal")] {
        let refused = ends == "refusal";
        let mut stage = if refused {
            Stage::answering(|asked| Reply::Now(refuse(asked.hook)))
        } else {
            allowing(Version::V311)
        };
        stage.stuck[Side::Client as usize] = true;
        if refused {
            stage.client(&wire::connect(Version::V311, "c", &ConnectOptions::default()));
        } else {
            stage.broker(&publish(Version::V311, 0, 0));
            stage.close(Side::Broker);
            assert_eq!(told(&mut stage), ["disconnect"], "what is still written changes nothing of it");
        }
        stage.pass(Duration::from_millis(4_999));
        assert!(stage.done().is_none(), "{ends}");
        if reads {
            stage.stuck[Side::Client as usize] = false;
            stage.run();
        } else {
            stage.pass(Duration::from_millis(1));
        }
        assert!(stage.done().is_some(), "{ends}");
    }
}

#[test]
fn a_broker_that_does_not_close_keeps_a_kicked_session_only_while_it_owes_answers() {
    let mut stage = allowing(Version::V311);
    stage.client(&[publish(Version::V311, 1, 1), wire::subscribe(Version::V311, 2, &[("a", 0)])].concat());
    stage.session.revoke(ReasonCode::ADMINISTRATIVE_ACTION, stage.now);
    stage.run();
    stage.broker(&wire::puback(1));
    assert_eq!(told(&mut stage), ["publish"]);
    stage.broker(&wire::suback(Version::V311, 2, &[0]));
    assert_eq!(told(&mut stage), ["subscribe", "disconnect"]);
    assert!(stage.done().is_some());
}

#[test]
fn who_has_to_go_for_want_of_descriptors_finishes_what_is_in_flight_and_is_told_so() {
    for version in VERSIONS {
        let sent = || {
            let mut stage = Stage::answering(|asked| Reply::Now(allow(asked.hook))).open(version);
            stage.client(&publish(version, 1, 7));
            stage.shed();
            assert!(!stage.is_shut(Side::Client), "a PUBACK is awaited");
            stage
        };
        let mut stage = sent();
        stage.broker(&wire::puback(7));
        assert_eq!(stage.at_client(), [wire::puback(7), goodbye(version, 0x89)].concat());
        let fault = stage.finish();
        assert_eq!((fault.label(), fault.by(), fault.is_trouble()), ("shed", Party::Mproxy, true));
        // Told again, it waits for nothing.
        let mut stage = sent();
        stage.shed();
        assert_eq!(stage.finish(), Fault::Shed);
    }
}
