//! How fast a client may send, as its grant or a limit for all has it: it waits without being read, or its publishes are
//! refused.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mproxy_codec::types::PacketType;
use mproxy_core::grant::{Grant, GrantLimits, PerSecond, RateAction};
use mproxy_core::meter::{Meter, Outcome};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    Admission, Decision, Failure, Hook, LimitKind, OnError, Overload, Source, Unusable, Want,
};
use mproxy_core::rate::{ClientRates, LimitedRate, RateLimit, RateUnit, SharedRate};
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
    refused_by_limit: Mutex<u64>,
}

impl Meter for Counts {
    fn packets(&self, _: Side, _: PacketType, _: u64, _: u64) {}

    fn decisions(&self, _: Hook, source: Source, outcome: Outcome, count: u64) {
        if (source, outcome) == (Source::Rate, Outcome::Refused) {
            *self.refused.lock().expect("no test panicked here") += count;
        }
        if (source, outcome) == (Source::Limit, Outcome::Refused) {
            *self.refused_by_limit.lock().expect("no test panicked here") += count;
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
    limited_beside(version, keep_alive, limits, Vec::new())
}

/// Gives all clients these.
struct ForAll(Vec<RateLimit>);

impl ClientRates for ForAll {
    fn of(&self, _: &Peer) -> Vec<RateLimit> {
        self.0.clone()
    }
}

fn for_all(rate: f64, action: RateAction) -> Vec<RateLimit> {
    let rate = LimitedRate::Own(PerSecond::new(rate).expect("a rate"));
    vec![RateLimit { unit: RateUnit::Messages, rate, action, kind: LimitKind::ClientRate }]
}

/// The same beside rates for all.
fn limited_beside(
    version: Version,
    keep_alive: u16,
    limits: GrantLimits,
    all: Vec<RateLimit>,
) -> (Stage, Arc<Counts>) {
    let (counts, verdict) = (Arc::new(Counts::default()), granted(limits));
    let mut asked = 0;
    let mut stage = Setup {
        meter: counts.clone(),
        rates: Some(Arc::new(ForAll(all))),
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
            assert!(
                matches!(fault, Fault::RateExceeded { packet: PacketType::Publish, limit: None }),
                "{fault}"
            );
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

#[test]
fn of_a_grant_s_rate_and_one_for_all_the_stricter_holds() {
    for (own, all) in [(2.0, 5.0), (5.0, 2.0)] {
        let (mut stage, _) = limited_beside(
            Version::V311,
            60,
            messages(own, RateAction::Wait),
            for_all(all, RateAction::Wait),
        );
        let one = publish(Version::V311, 0, 0, b"x");
        stage.client(&one.repeat(6));
        assert_eq!(stage.at_broker(), one.repeat(2));
        for _ in 0..4 {
            stage.pass(millis(501));
            assert_eq!(stage.at_broker(), one);
        }
    }
    // What becomes of a PUBLISH is for each to say.
    let (mut stage, _) =
        limited_beside(Version::V5, 60, messages(1.0, RateAction::Wait), for_all(2.0, RateAction::Refuse));
    stage.client(&(1..=3).flat_map(|id| publish(Version::V5, 1, id, b"x")).collect::<Vec<_>>());
    assert_eq!(stage.at_broker(), publish(Version::V5, 1, 1, b"x"));
    assert!(!stage.session.wants_read(Side::Client));
}

#[test]
fn a_publish_over_a_rate_for_all_is_refused_by_that_limit() {
    for version in VERSIONS {
        let (mut stage, counts) =
            limited_beside(version, 60, GrantLimits::default(), for_all(1.0, RateAction::Refuse));
        stage.client(&[publish(version, 1, 1, b"x"), publish(version, 1, 2, b"x")].concat());
        assert_eq!(stage.at_broker(), publish(version, 1, 1, b"x"));
        let refused = match version {
            Version::V5 => wire::packet(0x40, &[0, 2, 0x97]),
            Version::V31 | Version::V311 => wire::puback(2),
        };
        assert_eq!(stage.at_client(), refused);
        assert_eq!((*counts.refused.lock().unwrap(), *counts.refused_by_limit.lock().unwrap()), (0, 1));
    }
}

#[test]
fn a_rate_for_all_outlasts_the_grant() {
    let all = for_all(1.0, RateAction::Wait);
    let (mut stage, _) = limited_beside(Version::V311, 60, messages(50.0, RateAction::Wait), all);
    let one = publish(Version::V311, 0, 0, b"x");
    stage.pass(Duration::from_secs(1000));
    stage.client(&one.repeat(2));
    assert_eq!(stage.at_broker(), one);
    stage.rule(0, granted(GrantLimits::default()));
    assert_eq!(stage.at_broker(), b"", "it goes on as it stands");
    stage.pass(millis(1001));
    assert_eq!(stage.at_broker(), one);
}

#[test]
fn who_shares_a_rate_with_too_many_is_disconnected_by_the_limit() {
    let now = std::time::Instant::now();
    let shared = Arc::new(SharedRate::new(PerSecond::new(0.1).expect("a rate"), now));
    let all = || {
        let rate = LimitedRate::Shared(Arc::clone(&shared));
        let kind = LimitKind::ListenerRate;
        vec![RateLimit { unit: RateUnit::Messages, rate, action: RateAction::Wait, kind }]
    };
    let one = publish(Version::V5, 0, 0, b"x");
    let mut stages: Vec<_> =
        (0..5).map(|_| limited_beside(Version::V5, 60, GrantLimits::default(), all()).0).collect();
    for (at, stage) in stages.iter_mut().enumerate() {
        stage.client(&one);
        // One at once, and one each ten seconds: the fifth would come after half its keep alive.
        assert_eq!(stage.session.phase_name() == "open", at < 4, "{at}");
    }
    let fault = stages.pop().expect("five").finish();
    let limit = Some(LimitKind::ListenerRate);
    assert_eq!(fault, Fault::RateExceeded { packet: PacketType::Publish, limit });
    assert_eq!(fault.refused_by(), Some("limit"));
    stages[1].pass(Duration::from_secs(10));
    assert_eq!(stages[1].at_broker(), one, "the next in turn");
}
