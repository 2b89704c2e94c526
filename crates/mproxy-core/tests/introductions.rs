//! What the broker gets to know of a client and the client of the broker: capped intervals, given names, whose turn it
//! is to authenticate.

use std::time::Duration;

use mproxy_core::Limits;
use mproxy_core::fault::{Deadline, Fault};
use mproxy_core::policy::{Admission, Decision, Hook, OnError};
use mproxy_core::session::OnErrors;
use mproxy_sim::Verdict;
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, ConnectOptions, Version};
use mproxy_sim::{Reply, Stage, fail, refuse};

const V3: [Version; 2] = [Version::V31, Version::V311];

fn connect(version: Version, keep_alive: u16, properties: &[u8]) -> Vec<u8> {
    wire::connect(version, "c", &ConnectOptions { keep_alive, properties, ..ConnectOptions::default() })
}

fn connack(properties: &[u8]) -> Vec<u8> {
    wire::connack(Version::V5, false, 0, properties)
}

fn capped() -> Setup {
    let limits = Limits { max_keep_alive: Some(60), max_session_expiry: Some(300), ..Limits::default() };
    Setup { limits, ..Setup::default() }
}

/// Opens a 5.0 session with a keep alive that is within the limit.
fn open(stage: &mut Stage, properties: &[u8]) {
    stage.client(&connect(Version::V5, 10, properties));
    stage.broker(&connack(b""));
    assert_eq!(stage.session.phase_name(), "open");
    stage.at_broker();
    stage.at_client();
}

/// Session Expiry Interval.
fn expiry(seconds: u8) -> Vec<u8> {
    vec![0x11, 0, 0, 0, seconds]
}

#[test]
fn a_keep_alive_over_the_limit_is_cut_short_and_the_client_told() {
    // What the client asks for, what the broker says to that, what the client is told.
    for (asked, sent, said, told) in [
        (30, 30, &b""[..], &b""[..]),
        (60, 60, b"", b""),
        (61, 60, b"", b"\x13\0\x3c"),
        (0, 60, b"", b"\x13\0\x3c"),
        (600, 60, b"\x13\0\x1e", b"\x13\0\x1e"),
        (600, 60, b"\x13\x02\x58", b"\x13\0\x3c"),
        (600, 60, b"\x13\0\0", b"\x13\0\x3c"),
    ] {
        let mut stage = capped().stage();
        stage.client(&connect(Version::V5, asked, &[]));
        assert_eq!(stage.at_broker(), connect(Version::V5, sent, &[]), "{asked}");
        stage.broker(&connack(said));
        assert_eq!(stage.at_client(), connack(told), "{asked} {said:?}");
    }
}

#[test]
fn who_cannot_be_told_of_a_shorter_keep_alive_is_refused() {
    for version in V3 {
        for (asked, answer) in [(60, None), (61, Some(2)), (0, Some(2))] {
            let mut stage = capped().stage();
            stage.client(&connect(version, asked, &[]));
            match answer {
                None => assert_eq!(stage.at_broker(), connect(version, asked, &[])),
                Some(code) => {
                    assert_eq!(stage.at_client(), wire::connack(version, false, code, &[]), "{asked}");
                    assert_eq!(stage.dials, 0);
                }
            }
        }
    }
}

#[test]
fn a_session_expiry_over_the_limit_is_cut_short_and_the_client_told() {
    let most = b"\x11\0\0\x01\x2c";
    let more = b"\x11\xff\xff\xff\xff";
    for (asked, sent, said, told) in [
        (&b""[..], &b""[..], &b""[..], &b""[..]),
        (most, most, b"", b""),
        (more, most, b"", most),
        (more, most, b"\x11\0\0\0\x09", b"\x11\0\0\0\x09"),
        (more, most, more, most),
    ] {
        let mut stage = capped().stage();
        stage.client(&connect(Version::V5, 10, asked));
        assert_eq!(stage.at_broker(), connect(Version::V5, 10, sent));
        stage.broker(&connack(said));
        assert_eq!(stage.at_client(), connack(told));
    }
}

#[test]
fn a_disconnect_does_not_prolong_a_session_over_the_limit() {
    for held in [false, true] {
        let mut stage = capped().stage();
        open(&mut stage, b"\x11\0\0\0\x09");
        if held {
            stage.client(&wire::publish(Version::V5, &wire::Publish { topic: "a", ..Default::default() }));
        }
        stage.client(&wire::disconnect_with(0, b"\x11\xff\xff\xff\xff"));
        if held {
            stage.rule(0, Verdict::allow(Hook::Publish));
            stage.at_broker();
        } else {
            assert_eq!(stage.at_broker(), wire::disconnect_with(0, b"\x11\0\0\x01\x2c"));
        }
        assert!(matches!(stage.finish(), Fault::Left { .. }));
    }
    let mut stage = capped().stage();
    open(&mut stage, &expiry(9));
    let within = wire::disconnect_with(0, &expiry(10));
    stage.client(&within);
    assert_eq!(stage.at_broker(), within);
}

#[test]
fn limits_hold_where_failed_answers_open_the_door_too() {
    let on_error = OnErrors { connect: OnError::Allow, ..OnErrors::default() };
    let answering = Box::new(|_: &_| Reply::Now(fail()));
    let mut stage = Setup { on_error, answering, ..capped() }.stage();
    stage.client(&connect(Version::V5, 600, &[]));
    assert_eq!(stage.at_broker(), connect(Version::V5, 60, &[]));
    let answering = Box::new(|_: &_| Reply::Now(fail()));
    let mut stage = Setup { on_error, answering, ..capped() }.stage();
    stage.client(&connect(Version::V311, 600, &[]));
    assert_eq!(stage.at_client(), wire::connack(Version::V311, false, 2, &[]));
}

#[test]
fn a_client_without_a_name_is_told_the_one_that_the_policy_gave_it() {
    let named = |name: &str| {
        let admission = Admission { client_id: Some(name.into()), ..Admission::default() };
        let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
        Stage::answering(move |_| Reply::Now(verdict.clone()))
    };
    let assigned = [b"\x12".to_vec(), wire::string("given")].concat();
    let mut stage = named("given");
    stage.client(&wire::connect(Version::V5, "", &ConnectOptions::default()));
    assert_eq!(stage.at_broker(), wire::connect(Version::V5, "given", &ConnectOptions::default()));
    stage.broker(&connack(b""));
    assert_eq!(stage.at_client(), connack(&assigned), "[MQTT-3.2.2-16]");
    // Who has a name is not told that it is another at the broker.
    let mut stage = named("given");
    stage.client(&wire::connect(Version::V5, "own", &ConnectOptions::default()));
    stage.broker(&connack(b""));
    assert_eq!(stage.at_client(), connack(b""));
    let mut stage = named("given");
    stage.client(&wire::connect(Version::V311, "", &ConnectOptions::default()));
    stage.broker(&wire::connack(Version::V311, false, 0, b""));
    assert_eq!(stage.at_client(), wire::connack(Version::V311, false, 0, b""));
}

#[test]
fn a_limit_on_packets_is_told_to_those_who_can_be_told() {
    let setup =
        || Setup { limits: Limits { max_packet_size: 1000, ..Limits::default() }, ..Setup::default() };
    for (said, told) in [
        (&b""[..], &b"\x27\0\0\x03\xe8"[..]),
        (b"\x27\0\0\0\xff", b"\x27\0\0\0\xff"),
        (b"\x27\0\0\xff\xff", b"\x27\0\0\x03\xe8"),
    ] {
        let mut stage = setup().stage();
        stage.client(&connect(Version::V5, 0, &[]));
        stage.broker(&connack(said));
        assert_eq!(stage.at_client(), connack(told), "[MQTT-3.2.2-15]");
    }
    let mut stage = setup().stage();
    stage.client(&connect(Version::V311, 0, &[]));
    stage.broker(&wire::connack(Version::V311, false, 0, b""));
    assert_eq!(stage.at_client(), wire::connack(Version::V311, false, 0, b""));
}

/// Authentication Method "m", and "n".
const METHOD: &[u8] = b"\x15\0\x01m";
const OTHER: &[u8] = b"\x15\0\x01n";

fn authenticating() -> Stage {
    let mut stage = Stage::new();
    stage.client(&connect(Version::V5, 0, METHOD));
    stage.at_broker();
    stage
}

#[test]
fn an_auth_answers_one_of_the_broker_s_under_the_method_of_the_connect() {
    for (what, bytes, rule) in [
        ("unasked", wire::auth(0x18, METHOD), "MQTT-4.12.0-3"),
        ("anew", wire::auth(0x19, METHOD), "4.12.1"),
        ("anew and otherwise", wire::auth(0x19, OTHER), "MQTT-4.12.1-1"),
        ("otherwise", wire::auth(0x18, OTHER), "MQTT-4.12.0-5"),
    ] {
        let mut stage = authenticating();
        if what != "unasked" {
            stage.broker(&wire::auth(0x18, METHOD));
            stage.at_client();
        }
        stage.client(&bytes);
        assert_eq!(stage.at_client(), connack_refusing(0x82), "{what}");
        let fault = stage.finish();
        assert!(matches!(fault, Fault::Protocol { rule: broken, .. } if broken == rule), "{what}: {fault}");
    }
}

fn connack_refusing(code: u8) -> Vec<u8> {
    wire::connack(Version::V5, false, code, &[])
}

#[test]
fn an_open_session_authenticates_anew_in_turns() {
    let open = || {
        let mut stage = authenticating();
        stage.broker(&connack(METHOD));
        stage.at_client();
        stage
    };
    let mut stage = open();
    for (side, reason) in [(0, 0x19), (1, 0x18), (0, 0x18), (1, 0x00)] {
        let step = wire::auth(reason, METHOD);
        let step = if reason == 0 { wire::packet(0xF0, &[]) } else { step };
        if side == 0 {
            stage.client(&step);
            assert_eq!(stage.at_broker(), step);
        } else {
            stage.broker(&step);
            assert_eq!(stage.at_client(), step);
        }
    }
    for wrong in [wire::auth(0x18, METHOD), wire::auth(0x19, OTHER)] {
        let mut stage = open();
        stage.client(&wrong);
        assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x82]));
    }
}

#[test]
fn two_that_never_come_to_an_end_with_authenticating_meet_the_deadline() {
    let mut stage = authenticating();
    for _ in 0..1000 {
        for step in 0..2 {
            let auth = wire::auth(0x18, METHOD);
            if step == 0 {
                stage.broker(&auth)
            } else {
                stage.client(&auth)
            }
            stage.pass(Duration::from_secs(5));
            if let "ending" | "over" = stage.session.phase_name() {
                assert_eq!(stage.finish(), Fault::TooLate(Deadline::Connack));
                return;
            }
        }
    }
    panic!("they talk and talk");
}

/// A CONNECT whose keep alive is cut short, from a client that takes packets up to this size.
fn narrow(most: u8) -> Stage {
    let mut stage = capped().stage();
    stage.client(&connect(Version::V5, 600, &[0x27, 0, 0, 0, most]));
    assert_eq!(stage.at_broker(), connect(Version::V5, 60, &[0x27, 0, 0, 0, most]));
    stage
}

#[test]
fn a_client_never_keeps_to_another_keep_alive_than_holds() {
    let theirs = [&b"\x1f\0\x05hello"[..], b"\x26\0\x01k\0\x01v"].concat();
    // What the broker explains makes room.
    let mut stage = narrow(12);
    stage.broker(&connack(&theirs[..8]));
    assert_eq!(stage.at_client(), connack(b"\x13\0\x3c"));
    assert_eq!(stage.session.phase_name(), "open");
    let mut stage = narrow(40);
    stage.broker(&connack(&theirs));
    assert_eq!(stage.at_client(), connack(&[&theirs[..], b"\x13\0\x3c"].concat()));
    // Nothing makes room: it is not let in.
    for (most, told) in [(7, &b"\x20\x03\0\x95\0"[..]), (5, b"\x20\x03\0\x95\0"), (4, b"")] {
        let mut stage = narrow(most);
        stage.broker(&connack(b""));
        assert_eq!(stage.at_client(), told);
        assert!(matches!(stage.finish(), Fault::Protocol { rule: "MQTT-3.1.2-24", .. }));
        assert!(stage.events().is_empty(), "it was never connected");
    }
}

#[test]
fn the_maximum_packet_size_is_told_only_if_there_is_room() {
    let limits = Limits { max_packet_size: 1000, max_keep_alive: Some(60), ..Limits::default() };
    let mut stage = Setup { limits, ..Setup::default() }.stage();
    stage.client(&connect(Version::V5, 600, b"\x27\0\0\0\x08"));
    stage.broker(&connack(b""));
    assert_eq!(stage.at_client(), connack(b"\x13\0\x3c"));
}

#[test]
fn a_refusal_that_the_client_would_not_take_is_not_sent() {
    for (most, heard) in [(2, &b""[..]), (4, b""), (5, b"\x20\x03\0\x87\0")] {
        let mut stage = Stage::answering(|_| Reply::Now(refuse(Hook::Connect)));
        stage.client(&connect(Version::V5, 10, &[0x27, 0, 0, 0, most]));
        assert_eq!(stage.at_client(), heard);
        stage.finish();
    }
}

#[test]
fn who_says_the_old_name_is_answered_in_the_old_words() {
    let mut stage = Stage::new();
    stage.client(&wire::packet(0x10, b"\0\x06MQIsdp\x06\x02\0\0\0\x01c"));
    assert_eq!(stage.at_client(), b"\x20\x02\0\x01");
    stage.finish();
}
