//! How fast a client may send, as its grant has it: it waits without being read, or its publishes are refused.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mproxy_codec::types::PacketType;
use mproxy_core::grant::{Grant, GrantLimits, PerSecond, RateAction};
use mproxy_core::meter::{Meter, Outcome};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{Admission, Decision, Failure, Hook, OnError, Overload, Source, Unusable, Want};
use mproxy_core::rule::RuleEffect;
use mproxy_core::{Fault, Side};
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version};
use mproxy_sim::{Reply, Stage, Verdict};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// What the meter was told.
#[derive(Default)]
struct Counts {
    waits: Mutex<u64>,
    refused: Mutex<u64>,
}

impl Meter for Counts {
    fn packets(&self, _: Side, _: PacketType, _: u64, _: u64) {}

    fn decisions(&self, _: Hook, source: Source, outcome: Outcome, count: u64) {
        if (source, outcome) == (Source::Rate, Outcome::Refused) {
            *self.refused.lock().expect("no test panicked here") += count;
        }
    }

    fn failed(&self, _: Hook, _: &Failure, _: OnError, _: &Peer) {}

    fn unusable(&self, _: Hook, _: &Unusable, _: &Peer) {}

    fn overloaded(&self, _: Hook, _: &Overload, _: &Peer) {}

    fn rate_wait(&self) {
        *self.waits.lock().expect("no test panicked here") += 1;
    }
}

fn messages(rate: f64, rate_action: RateAction) -> GrantLimits {
    GrantLimits { messages: PerSecond::new(rate), rate_action, ..GrantLimits::default() }
}

fn bytes(rate: f64, rate_action: RateAction) -> GrantLimits {
    GrantLimits { bytes: PerSecond::new(rate), rate_action, ..GrantLimits::default() }
}

fn granted(limits: GrantLimits) -> Verdict {
    let mut grant = Grant::new(Vec::new(), RuleEffect::Ask);
    (grant.limits, grant.ttl) = (limits, Some(Duration::from_secs(1000)));
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    Verdict::Connect(Decision::Allow(Some(Box::new(admission))))
}

/// A session whose client has these limits and this keep alive; nobody is asked about its publishes.
fn limited(version: Version, keep_alive: u16, limits: GrantLimits) -> (Stage, Arc<Counts>) {
    let (counts, verdict) = (Arc::new(Counts::default()), granted(limits));
    let mut asked = 0;
    let mut stage = Setup {
        meter: counts.clone(),
        answering: Box::new(move |_| {
            asked += 1;
            if asked == 1 { Reply::Now(verdict.clone()) } else { Reply::Later }
        }),
        ..Setup::default()
    }
    .stage();
    stage.script.want(Hook::Publish, Want::Nothing);
    let options = ConnectOptions { keep_alive, ..ConnectOptions::default() };
    stage.client(&wire::connect(version, "c", &options));
    stage.broker(&wire::connack(version, false, 0, &[]));
    stage.at_broker();
    stage.at_client();
    (stage, counts)
}

fn publish(version: Version, qos: u8, packet_id: u16, payload: &[u8]) -> Vec<u8> {
    wire::publish(version, &Publish { topic: "a", payload, qos, packet_id, ..Publish::default() })
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_client_that_sends_too_fast_waits_and_loses_nothing() {
    for version in VERSIONS {
        let (mut stage, counts) = limited(version, 60, messages(2.0, RateAction::Wait));
        let all: Vec<_> = (1..=6).map(|id| publish(version, 1, id, b"x")).collect();
        stage.client(&[all.concat(), wire::pingreq()].concat());
        assert_eq!(stage.at_broker(), all[..2].concat(), "a second's worth at once");
        assert!(!stage.session.wants_read(Side::Client), "it is not read");
        assert!(stage.session.wants_read(Side::Broker), "the broker is");
        for one in &all[2..] {
            stage.pass(millis(499));
            assert_eq!(stage.at_broker(), b"");
            stage.pass(Duration::from_nanos(1_000_010));
            let next = stage.at_broker();
            assert!(next.starts_with(one), "one each half second");
        }
        assert!(stage.session.wants_read(Side::Client));
        assert_eq!(*counts.waits.lock().unwrap(), 4);
        assert_eq!(*counts.refused.lock().unwrap(), 0);
    }
}

#[test]
fn what_stands_behind_the_last_message_passes_with_it() {
    let (mut stage, _) = limited(Version::V311, 60, messages(1.0, RateAction::Wait));
    let one = publish(Version::V311, 0, 0, b"x");
    stage.client(&[&one[..], &one, &wire::pingreq(), &wire::pingreq()].concat());
    assert_eq!(stage.at_broker(), one);
    stage.client(&wire::pingreq());
    assert_eq!(stage.at_broker(), b"", "a stream has one order");
}

#[test]
fn a_message_over_the_rate_is_refused_where_the_grant_says_so() {
    for version in VERSIONS {
        let (mut stage, counts) = limited(version, 60, messages(2.0, RateAction::Refuse));
        let all: Vec<_> = (1..=5).map(|id| publish(version, 1, id, b"x")).collect();
        stage.client(&[all.concat(), wire::pingreq(), publish(version, 0, 0, b"y")].concat());
        assert_eq!(stage.at_broker(), [all[..2].concat(), wire::pingreq()].concat());
        let refused = |id| match version {
            Version::V5 => wire::packet(0x40, &[0, id as u8, 0x97]),
            Version::V31 | Version::V311 => wire::puback(id),
        };
        assert_eq!(stage.at_client(), [refused(3), refused(4), refused(5)].concat());
        assert_eq!(*counts.refused.lock().unwrap(), 4);
        // A flow that was refused is over in 5.0, and mproxy's own before.
        stage.client(&publish(version, 2, 9, b"x"));
        let pubrec = match version {
            Version::V5 => wire::packet(0x50, &[0, 9, 0x97]),
            Version::V31 | Version::V311 => wire::pubrec(9),
        };
        assert_eq!(stage.at_client(), pubrec);
        stage.pass(millis(500));
        stage.client(&publish(version, 1, 6, b"x"));
        assert_eq!(stage.at_broker(), publish(version, 1, 6, b"x"), "refusals take nothing from the rate");
        assert_eq!(*counts.waits.lock().unwrap(), 0);
    }
}

#[test]
fn refusals_keep_their_place_behind_what_is_asked_about() {
    let (mut stage, _) = limited(Version::V5, 60, messages(1.0, RateAction::Refuse));
    stage.script.want(Hook::Publish, Want::Head);
    stage.client(&publish(Version::V5, 1, 1, b"x"));
    stage.client(&publish(Version::V5, 1, 2, b"x"));
    assert_eq!((stage.questions(), stage.at_client()), (1, Vec::new()));
    stage.rule(0, mproxy_sim::refuse(Hook::Publish));
    let both = [wire::packet(0x40, &[0, 1, 0x87]), wire::packet(0x40, &[0, 2, 0x97])];
    assert_eq!(stage.at_client(), both.concat());
}

#[test]
fn bytes_of_every_packet_count() {
    for version in VERSIONS {
        let (mut stage, _) = limited(version, 60, bytes(100.0, RateAction::Wait));
        // 2 bytes each.
        stage.client(&wire::pingreq().repeat(600));
        assert_eq!(stage.at_broker().len(), 100);
        let mut passed = 0;
        for tenth in 1..=50 {
            stage.pass(millis(100));
            passed += stage.at_broker().len();
            assert!((tenth * 10 - 8..=tenth * 10).contains(&passed), "{passed} in {tenth} tenths");
        }
    }
}

#[test]
fn a_large_payload_passes_at_the_rate() {
    for version in VERSIONS {
        let (mut stage, counts) = limited(version, 60, bytes(100_000.0, RateAction::Wait));
        let large = publish(version, 0, 0, &vec![7; 1_000_000]);
        let mut passed = Vec::new();
        for chunk in large.chunks(65_536) {
            stage.client(chunk);
        }
        passed.extend(stage.at_broker());
        assert!(passed.len() <= 100_000, "a second's worth: {}", passed.len());
        for tenth in 1..=100 {
            stage.pass(millis(100));
            passed.extend(stage.at_broker());
            let most = 100_000 + tenth * 10_000;
            assert!(passed.len() <= most, "{} of {most}", passed.len());
            assert!(passed.len() + 10_000 >= most.min(large.len()), "{} of {most}", passed.len());
        }
        assert!(passed == large);
        assert!(*counts.waits.lock().unwrap() <= 160, "it is woken sixteen times a second at most");
    }
}

#[test]
fn a_payload_that_goes_nowhere_counts_as_well() {
    let (mut stage, _) = limited(Version::V311, 60, bytes(100_000.0, RateAction::Wait));
    stage.script.want(Hook::Publish, Want::Head);
    let large = publish(Version::V311, 1, 1, &vec![7; 300_000]);
    for chunk in large.chunks(20_000) {
        stage.client(chunk);
    }
    stage.rule(0, mproxy_sim::refuse(Hook::Publish));
    assert!(stage.unread(Side::Client) >= 200_000);
    stage.pass(millis(2100));
    assert_eq!(stage.unread(Side::Client), 0);
}

#[test]
fn who_would_have_to_wait_for_half_its_keep_alive_is_disconnected() {
    for version in VERSIONS {
        for (keep_alive, rate, ends) in
            [(60, 0.034, false), (60, 0.033, true), (0, 0.033, true), (10, 0.1, true)]
        {
            let (mut stage, _) = limited(version, keep_alive, messages(rate, RateAction::Wait));
            let one = publish(version, 0, 0, b"x");
            stage.client(&[&one[..], &one].concat());
            assert_eq!(stage.at_broker(), one);
            if !ends {
                assert_eq!(stage.session.phase_name(), "open");
                stage.pass(Duration::from_secs(30));
                assert_eq!(stage.at_broker(), one, "just in time");
                continue;
            }
            let goodbye = if version == Version::V5 { wire::packet(0xE0, &[0x96]) } else { Vec::new() };
            assert_eq!(stage.at_client(), goodbye);
            assert_eq!(stage.at_broker(), b"", "without DISCONNECT: the will fires");
            let fault = stage.finish();
            assert!(matches!(fault, Fault::RateExceeded { packet: PacketType::Publish }), "{fault}");
        }
    }
}

#[test]
fn a_payload_that_would_take_half_the_keep_alive_does_not_begin() {
    let (mut stage, _) = limited(Version::V5, 20, bytes(1000.0, RateAction::Wait));
    let large = publish(Version::V5, 0, 0, &vec![7; 20_000]);
    stage.client(&large);
    assert_eq!(stage.at_broker(), b"");
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x96]));
}

#[test]
fn the_broker_s_word_on_the_keep_alive_counts() {
    let verdict = granted(messages(0.05, RateAction::Wait));
    let mut stage = Stage::answering(move |_| Reply::Now(verdict.clone()));
    stage.script.want(Hook::Publish, Want::Nothing);
    let options = ConnectOptions { keep_alive: 600, ..ConnectOptions::default() };
    stage.client(&wire::connect(Version::V5, "c", &options));
    stage.broker(&wire::connack(Version::V5, false, 0, b"\x13\0\x14"));
    stage.at_client();
    stage.client(&publish(Version::V5, 0, 0, b"x").repeat(2));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x96]), "20 s are longer than half of 20 s");
}

#[test]
fn a_renewal_brings_another_rate_and_no_second_s_worth() {
    let (mut stage, _) = limited(Version::V311, 60, messages(5.0, RateAction::Wait));
    stage.pass(Duration::from_secs(1000));
    let one = publish(Version::V311, 0, 0, b"x");
    stage.client(&one.repeat(20));
    assert_eq!(stage.at_broker(), one.repeat(5));
    stage.rule(0, granted(messages(50.0, RateAction::Wait)));
    assert_eq!(stage.at_broker(), b"");
    for _ in 0..3 {
        stage.pass(millis(63));
        assert_eq!(stage.at_broker(), one.repeat(3), "at the new rate, sixteen times a second");
    }
    stage.pass(Duration::from_secs(1000));
    stage.at_broker();
    stage.rule(1, granted(GrantLimits::default()));
    stage.client(&one.repeat(1000));
    assert_eq!(stage.at_broker(), one.repeat(1000), "no limit any more");
    assert!(stage.session.wants_read(Side::Client));
}

#[test]
fn a_client_that_waits_and_ends_is_heard_to_its_end() {
    let (mut stage, _) = limited(Version::V311, 60, messages(1.0, RateAction::Wait));
    let one = publish(Version::V311, 0, 0, b"x");
    stage.client(&[one.repeat(3), wire::disconnect()].concat());
    stage.close(Side::Client);
    assert_eq!((stage.at_broker(), stage.session.phase_name()), (one.clone(), "open"));
    stage.pass(millis(2001));
    assert_eq!(stage.at_broker(), [one.repeat(2), wire::disconnect()].concat());
    assert!(matches!(stage.finish(), Fault::Left { .. }));
}

#[test]
fn a_session_that_ends_while_its_client_waits_ends_at_once() {
    let (mut stage, _) = limited(Version::V5, 60, bytes(10_000.0, RateAction::Wait));
    for chunk in publish(Version::V5, 0, 0, &[7; 100_000])[..60_000].chunks(20_000) {
        stage.client(chunk);
    }
    assert!(stage.unread(Side::Client) > 0);
    stage.session.revoke(mproxy_codec::ReasonCode::ADMINISTRATIVE_ACTION, stage.now);
    stage.run();
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x98]));
    assert_eq!(stage.unread(Side::Client), 0);
    assert!(matches!(stage.finish(), Fault::Kicked { .. }));
}
