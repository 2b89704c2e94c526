//! A session that is written down by one process and goes on in another one: what is under way there as here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mproxy_codec::{QoS, ReasonCode};
use mproxy_core::Side;
use mproxy_core::event::Happening;
use mproxy_core::fault::{Deadline, Fault};
use mproxy_core::grant::{Grant, GrantLimits, Mapping, PerSecond, RateAction};
use mproxy_core::policy::{Admission, Decision, Hook, LimitKind};
use mproxy_core::rate::{ClientRates, LimitedRate, RateLimit, RateUnit};
use mproxy_core::rule::condition::{BoolExpr, Condition, IntExpr, Relation, TextExpr, TextList};
use mproxy_core::rule::{Act, Actions, Pattern, Retain, Rule, RuleEffect, RuleFile};
use mproxy_core::session::handover::{FORMAT, MOST, NotExported, NotImported};
use mproxy_core::{Peer, Session, Setting};
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, Publish, Version};
use mproxy_sim::{QuestionRecord, Reply, Stage, Verdict, allow, refuse};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn publish(version: Version, qos: u8, packet_id: u16, topic: &str) -> Vec<u8> {
    wire::publish(version, &Publish { topic, payload: b"21", qos, packet_id, ..Publish::default() })
}

#[test]
fn what_was_asked_is_asked_once_more_and_the_order_stays() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        let packets = [publish(version, 1, 1, "a"), publish(version, 2, 2, "b"), wire::pingreq()];
        stage.client(&packets.concat());
        // The second one is answered, the first one is not.
        stage.rule(1, refuse(Hook::Publish));
        stage.take_questions();
        stage.hand_over().unwrap();
        let asked: Vec<_> = stage.take_questions().into_iter().map(|asked| asked.what).collect();
        assert_eq!(asked, ["a"], "what the service has answered stands");
        assert_eq!(stage.at_broker(), b"");
        stage.rule(2, allow(Hook::Publish));
        assert_eq!(stage.at_broker(), [&packets[0][..], &packets[2]].concat());
        let refused = if version == Version::V5 { vec![0x50, 3, 0, 2, 0x87] } else { wire::pubrec(2) };
        assert_eq!(stage.at_client(), refused);
    }
}

#[test]
fn a_payload_goes_on_where_it_was() {
    for version in VERSIONS {
        let payload: Vec<u8> = (0..16 << 20).map(|n: usize| (n % 251) as u8).collect();
        let message = Publish { topic: "a", payload: &payload, qos: 1, packet_id: 7, ..Publish::default() };
        let packet = wire::publish(version, &message);
        let mut stage = Stage::new().open(version);
        // Before its head has left, half way, and just before its end.
        stage.client(&packet[..90_000]);
        stage.hand_over().unwrap();
        stage.rule(stage.questions() - 1, allow(Hook::Publish));
        stage.client(&packet[90_000..packet.len() / 2]);
        stage.hand_over().unwrap();
        stage.client(&packet[packet.len() / 2..packet.len() - 1]);
        stage.hand_over().unwrap();
        stage.client(&packet[packet.len() - 1..]);
        assert!(stage.at_broker() == packet);
        stage.broker(&wire::puback(7));
        assert_eq!(stage.at_client(), wire::puback(7));
        assert!(matches!(&stage.events()[..], [Happening::Publish(told)] if told.size == 16 << 20));
    }
}

#[test]
fn connect_is_told_before_and_disconnect_after() {
    let mut stage = Stage::new().open(Version::V311);
    stage.client(&publish(Version::V311, 1, 1, "a"));
    stage.rule(0, allow(Hook::Publish));
    stage.hand_over().unwrap();
    assert!(stage.events().is_empty());
    stage.broker(&wire::puback(1));
    stage.reset(Side::Client);
    let traffic = stage.session.traffic();
    stage.finish();
    let told = stage.events();
    let [Happening::Publish(published), Happening::Disconnect(ended)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&*published.topic, ended.traffic), ("a", traffic));
    assert_eq!((traffic.client_packets, traffic.broker_packets), (2, 2), "CONNECT and CONNACK count");
}

#[test]
fn aliases_and_renamed_filters_are_known_on() {
    let mut stage = Stage::answering(|asked| Reply::Now(allow(asked.hook)));
    stage.open_with(Version::V5, &[], &[0x22, 0, 9]);
    let alias = |topic: &'static str| {
        wire::publish(
            Version::V5,
            &Publish { topic, payload: b"x", properties: &[0x23, 0, 4], ..Publish::default() },
        )
    };
    stage.client(&alias("long/topic"));
    stage.at_broker();
    stage.take_questions();
    stage.hand_over().unwrap();
    stage.client(&alias(""));
    assert_eq!(stage.take_questions()[0].what, "long/topic");
    assert_eq!(stage.at_broker(), alias(""), "the broker was taught it");
}

fn example_grant() -> Grant {
    let rule = |effect, topic: &str| Rule {
        effect,
        actions: Actions::NONE.with(Act::Publish),
        topics: [Pattern::parse(topic).unwrap_or_else(|error| panic!("{topic}: {error}"))].into(),
        max_qos: QoS::AtLeastOnce,
        retain: Retain::Refused,
        max_payload: None,
        condition: None,
    };
    let small = BoolExpr::Ints(Relation::Less, Box::new((IntExpr::PayloadSize, IntExpr::Const(9))));
    let tenant = TextExpr::Attribute("claim.tenant".into());
    let own = BoolExpr::TextIn(Box::new((tenant, TextList::Levels)));
    let condition = Condition::new(BoolExpr::Any([small, own].into())).ok().map(Arc::new);
    let conditional = Rule { condition, ..rule(RuleEffect::Allow, "+/hall") };
    let rules = vec![
        rule(RuleEffect::Deny, "secret/${clientid}/#"),
        rule(RuleEffect::Allow, "+/room/#"),
        conditional,
    ];
    let mut grant = Grant::new(rules, RuleEffect::Ask);
    grant.mapping = Mapping::new("acme").ok();
    grant.limits = GrantLimits { packet_size: Some(2_000), ..GrantLimits::default() };
    grant.version = "7".into();
    grant
}

/// A client that is open, with this grant.
fn open_with(grant: Grant) -> Stage {
    let admission = Admission {
        grant: Some(Arc::new(grant)),
        attributes: vec![("tenant".into(), "acme".into())],
        ..Admission::default()
    };
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
    .open(Version::V5)
}

#[test]
fn a_grant_goes_over_with_its_times_limits_and_prefix() {
    let mut grant = example_grant();
    grant.rule_file =
        Some(Arc::new(RuleFile { name: "acl".into(), loaded: Instant::now(), lines: [3, 9].into() }));
    let mut stage = open_with(grant);
    let before = Arc::clone(stage.session.peer().unwrap());
    stage.hand_over().unwrap();
    let after = Arc::clone(stage.session.peer().unwrap());
    assert_eq!((&after.grant, &after.attributes), (&before.grant, &before.attributes));
    let [was, is] = [&before, &after].map(|peer| peer.grant.as_ref().unwrap());
    assert_eq!((&is.version, &is.rule_file), (&was.version, &was.rule_file));
    stage.client(&publish(Version::V5, 1, 1, "a/room/b"));
    assert_eq!(stage.at_broker(), publish(Version::V5, 1, 1, "acme/a/room/b"));
    stage.client(&publish(Version::V5, 1, 2, "secret/c/x"));
    assert_eq!(stage.at_client(), [0x40, 3, 0, 2, ReasonCode::NOT_AUTHORIZED.0]);
    stage.client(&publish(Version::V5, 1, 3, &format!("a/room/{}", "x".repeat(2_000))));
    assert!(matches!(stage.finish(), Fault::Protocol { .. }));
}

#[test]
fn a_grant_ends_when_it_would_have_ended() {
    let begun = Instant::now();
    let mut grant = Grant::new(Vec::new(), RuleEffect::Ask);
    grant.expires_at = Some(begun + Duration::from_secs(60));
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
    let mut stage = Stage::answering(move |asked| match asked.hook {
        Hook::Connect => Reply::Now(verdict.clone()),
        _ => Reply::Later,
    })
    .open(Version::V5);
    stage.pass(Duration::from_secs(30));
    stage.hand_over().unwrap();
    stage.pass(Duration::from_secs(29));
    assert!(stage.done().is_none());
    stage.pass(Duration::from_secs(2));
    assert!(matches!(stage.finish(), Fault::TooLate(Deadline::Grant)));
}

/// Gives all clients a message a second.
struct OneASecond;

impl ClientRates for OneASecond {
    fn of(&self, _: &Peer) -> Vec<RateLimit> {
        let rate = LimitedRate::Own(PerSecond::new(1.0).expect("a rate"));
        let (unit, action) = (RateUnit::Messages, RateAction::Wait);
        vec![RateLimit { unit, rate, action, kind: LimitKind::ClientRate }]
    }
}

#[test]
fn rates_hold_on_and_nobody_gets_a_second_s_worth_for_it() {
    let own = GrantLimits { messages: PerSecond::new(1.0), ..GrantLimits::default() };
    for (limits, all) in [(own, None), (GrantLimits::default(), Some(Arc::new(OneASecond) as _))] {
        let mut grant = Grant::new(Vec::new(), RuleEffect::Allow);
        grant.limits = limits;
        let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
        let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
        let answering = Box::new(move |_: &QuestionRecord| Reply::Now(verdict.clone()));
        let setup = Setup { grants: true, rates: all, answering, ..Setup::default() };
        let mut stage = setup.stage().open(Version::V311);
        stage.client(&publish(Version::V311, 0, 0, "a"));
        stage.at_broker();
        stage.hand_over().unwrap();
        stage.client(&publish(Version::V311, 0, 0, "b"));
        assert_eq!(stage.at_broker(), b"");
        stage.pass(Duration::from_millis(1001));
        assert_eq!(stage.at_broker(), publish(Version::V311, 0, 0, "b"));
    }
}

#[test]
fn what_is_not_open_or_ends_stays() {
    let mut stage = Stage::new();
    assert_eq!(stage.hand_over(), Err(NotExported::NotOpen));
    stage.open_with(Version::V5, &[], &[]);
    stage.client(&publish(Version::V5, 1, 1, "a"));
    stage.drain();
    assert_eq!(stage.hand_over(), Err(NotExported::NotOpen), "it waits for its end");
}

fn setting(stage: &Stage) -> Arc<Setting> {
    Arc::clone(stage.setting())
}

#[test]
fn another_form_is_told_and_a_damaged_one_never_taken_for_a_session() {
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&publish(Version::V5, 1, 1, "a"));
    let written = stage.session.export(stage.now).unwrap();
    assert!(written.len() < 200 && written.len() < MOST, "{}", written.len());
    let read = |bytes: &[u8]| Session::import(bytes, setting(&stage), stage.now).err();
    assert_eq!(read(&written), None);
    let mut other = written.clone();
    other[3] += 1;
    assert_eq!(read(&other), Some(NotImported::OtherFormat(FORMAT + 1)));
    for len in 0..written.len() {
        assert_eq!(read(&written[..len]), Some(NotImported::Damaged), "{len}");
    }
}

#[test]
fn the_end_of_a_token_goes_over_beside_that_of_the_grant() {
    for (grant_ends, token_ends, deadline) in [(90, 60, Deadline::Token), (60, 90, Deadline::Grant)] {
        let mut grant = example_grant();
        let at = |seconds| Some(Instant::now() + Duration::from_secs(seconds));
        (grant.expires_at, grant.token_ends_at) = (at(grant_ends), at(token_ends));
        let mut stage = open_with(grant);
        stage.hand_over().unwrap();
        stage.pass(Duration::from_secs(59));
        assert_eq!(stage.session.phase_name(), "open");
        stage.pass(Duration::from_secs(2));
        assert_eq!(stage.finish(), Fault::TooLate(deadline));
    }
}

/// The bytes of one session. Where they have changed, what is written has: [`FORMAT`] has to be another number then, so that
/// no process reads what it does not understand.
#[test]
fn what_is_written_changes_only_with_its_number() {
    let mut stage = open_with(example_grant());
    let subscribe = wire::subscribe(Version::V5, 9, &[("a/#", 1)]);
    stage.client(
        &[&subscribe[..], &publish(Version::V5, 2, 1, "a"), &publish(Version::V5, 0, 0, "b")].concat(),
    );
    stage.rule(0, allow(Hook::Subscribe));
    stage.rule(1, allow(Hook::Publish));
    let written = stage.session.export(stage.now).unwrap();
    let hex: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((FORMAT, hex.as_str()), (6, include_str!("handover.hex").trim()));
}
