use std::time::Duration;

use mproxy_codec::types::QoS;
use mproxy_core::command::Dismissal;
use mproxy_core::fault::Deadline;
use mproxy_core::grant::Grant;
use mproxy_core::peer::Peer;
use mproxy_core::rule::RuleEffect;

use super::*;
use crate::example_peer;

fn entry(version: Version, subject: DecisionSubject<'_>, outcome: DecisionOutcome<'_>) -> serde_json::Value {
    let peer = Peer { version, ..example_peer::peer(Arc::new(example_peer::origin(1)), "c") };
    let record = DecisionRecord { origin: &peer.origin, peer: Some(&peer), subject, outcome };
    serde_json::to_value(DecisionEntry::of(&record)).expect("it can be written")
}

fn ended(version: Version, fault: &Fault, ground: Option<&Ground>) -> serde_json::Value {
    let outcome = DecisionOutcome::Ended { fault, hook: None, ground };
    entry(version, DecisionSubject::Connection { will: None }, outcome)
}

#[test]
fn the_action_is_what_became_of_the_packet() {
    let refusal = |action| Refusal { action, ..Refusal::default() };
    let message = |hook| DecisionSubject::Message { hook, topic: "a", qos: QoS::AtLeastOnce, retain: false };
    let filter = DecisionSubject::Filter { filter: "a", qos: QoS::AtMostOnce, more: 0 };
    for (action, publish, deliver, subscribe, connect) in [
        (Action::Reject, "reject", "drop", "reject", "reject"),
        (Action::Drop, "drop", "drop", "reject", "reject"),
        (Action::NoAck, "no_ack", "drop", "reject", "reject"),
        (Action::Disconnect, "disconnect", "disconnect", "disconnect", "disconnect"),
    ] {
        let refusal = refusal(action);
        let of = |subject| entry(Version::V5, subject, DecisionOutcome::Refused(&refusal))["action"].clone();
        assert_eq!(of(message(Hook::Publish)), publish);
        assert_eq!(of(message(Hook::Deliver)), deliver, "{action:?}");
        assert_eq!(of(filter), subscribe, "{action:?}");
        let fault = Fault::Refused { hook: Hook::Connect, refusal: Box::new(refusal.clone()) };
        assert_eq!(ended(Version::V5, &fault, None)["action"], connect, "{action:?}");
    }
    let fault = Fault::RenewalRefused { refusal: Box::new(refusal(Action::Drop)) };
    assert_eq!(ended(Version::V5, &fault, None)["action"], "disconnect");
}

#[test]
fn a_refusal_of_the_broker_s_has_the_code_that_the_client_was_sent() {
    for (version, code, recorded) in [
        (Version::V5, 0x8C, 0x8C),
        (Version::V5, 0x9F, 0x9F),
        (Version::V311, 1, 0x84),
        (Version::V311, 2, 0x85),
        (Version::V31, 3, 0x88),
        (Version::V311, 4, 0x86),
        (Version::V311, 5, 0x87),
    ] {
        let told = ended(version, &Fault::BrokerRefused { code }, None);
        assert_eq!(told["reason_code"], recorded, "{version} {code}");
    }
}

#[test]
fn a_grant_that_has_expired_is_named_with_its_age() {
    let mut grant = Grant::new(Vec::new(), RuleEffect::Ask);
    (grant.version, grant.endpoint) = ("v7".into(), Some("http://hook".into()));
    grant.received = Instant::now().checked_sub(Duration::from_secs(5));
    let ground = Ground::Grant(Arc::new(grant), GrantGround::Expired);
    let told = ended(Version::V5, &Fault::TooLate(Deadline::Grant), Some(&ground));
    assert_eq!(
        (&told["source"], &told["grant_version"], &told["grant_part"]),
        (&"grant".into(), &"v7".into(), &"expired".into())
    );
    assert_eq!(told["endpoint"], "http://hook");
    assert!(told["age_ms"].as_u64() >= Some(5000), "{told}");
    let why = told["why"].as_str().expect("a sentence");
    assert!(why.starts_with("disconnected: grant \"v7\" has expired"), "{why}");
}

#[test]
fn a_command_is_no_refusal() {
    let mut dismissal = Dismissal::new(ReasonCode::ADMINISTRATIVE_ACTION);
    (dismissal.text, dismissal.endpoint) = (Some("account closed".into()), Some("http://hook".into()));
    let fault = Fault::Kicked { reason: dismissal.reason, dismissal: Some(Box::new(dismissal)) };
    let told = ended(Version::V5, &fault, None);
    assert_eq!(told["why"], "disconnected by a command of the hook service at http://hook: account closed");
    assert_eq!((&told["cause"], &told["reason_code"]), (&"kicked".into(), &0x98.into()));
}
