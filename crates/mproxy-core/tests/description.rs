//! What a session tells of itself, and what an administrator tells its client.

use std::sync::Arc;

use mproxy_codec::{QoS, ReasonCode};
use mproxy_core::command::{Dismissal, DismissedBy};
use mproxy_core::fault::{Fault, Party};
use mproxy_core::grant::{Grant, Mapping};
use mproxy_core::policy::{Admission, Decision, Hook, Want};
use mproxy_core::rule::RuleEffect;
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, Publish, Version};
use mproxy_sim::{Reply, Stage, Verdict, allow};

/// A client whose grant allows everything, under this prefix if there is one.
fn granted(prefix: Option<&str>) -> Stage {
    let mut grant = Grant::new(Vec::new(), RuleEffect::Allow);
    grant.mapping = prefix.and_then(|prefix| Mapping::new(prefix).ok());
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
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
}

/// Its subscriptions: as the client knows them, as the broker does, the QoS.
fn subscriptions(stage: &Stage) -> Vec<(String, Option<String>, Option<u8>)> {
    let described = stage.session.describe().expect("a client").subscriptions.expect("remembered");
    let plain = |name: Box<str>| String::from(name);
    described
        .into_iter()
        .map(|one| (plain(one.filter), one.at_broker.map(plain), one.granted.map(|qos| qos as u8)))
        .collect()
}

#[test]
fn a_session_tells_its_subscriptions_under_both_names_and_as_granted() {
    for v in [Version::V311, Version::V5] {
        let mut stage = granted(Some("acme")).open(v);
        stage.client(&wire::subscribe(v, 7, &[("a/+", 2), ("b", 1), ("c", 1)]));
        let named = |name: &str, granted| (name.to_owned(), Some(format!("acme/{name}")), granted);
        assert_eq!(subscriptions(&stage), [named("a/+", None), named("b", None), named("c", None)]);
        // Less than asked for, and one refused.
        stage.broker(&wire::suback(v, 7, &[1, 0, 0x80]));
        assert_eq!(subscriptions(&stage), [named("a/+", Some(1)), named("b", Some(0)), named("c", None)]);
        assert!(stage.session.subscribes_to("a/+") && stage.session.subscribes_to("a/x"));
        assert!(!stage.session.subscribes_to("a/#") && !stage.session.subscribes_to("acme/b"));
        stage.client(&wire::unsubscribe(v, 8, &["b"]));
        assert_eq!(subscriptions(&stage).len(), 2);
    }
}

#[test]
fn subscriptions_that_are_answered_leave_nothing_but_their_filters() {
    let v = Version::V5;
    let mut stage = granted(None).open(v);
    let before = stage.session.held();
    stage.client(&wire::subscribe(v, 7, &[("abc", 1)]));
    stage.broker(&wire::suback(v, 7, &[1]));
    assert_eq!(
        stage.session.describe().expect("a client").subscriptions.map(|all| all[0].granted),
        Some(Some(QoS::AtLeastOnce))
    );
    // A byte for what is known of it, two for its length.
    assert_eq!(stage.session.held() - before, "abc".len() + 3);
}

#[test]
fn deliveries_are_counted_until_the_client_acknowledges_them_and_only_where_somebody_decides() {
    for v in [Version::V311, Version::V5] {
        let in_flight = |stage: &Stage| {
            let described = stage.session.describe().expect("a client");
            (described.in_flight, described.deliveries_in_flight)
        };
        let delivery = |qos, packet_id| {
            wire::publish(v, &Publish { topic: "a", payload: b"x", qos, packet_id, ..Publish::default() })
        };
        let mut stage = Stage::answering(|asked| Reply::Now(allow(asked.hook))).open(v);
        stage.script.want(Hook::Deliver, Want::Head);
        assert_eq!(in_flight(&stage), (0, Some(0)));
        stage.broker(&[delivery(0, 0), delivery(1, 1), delivery(2, 2), delivery(1, 3)].concat());
        stage.client(&delivery(1, 1));
        assert_eq!(in_flight(&stage), (1, Some(3)));
        stage.client(&[wire::puback(1), wire::pubrec(2)].concat());
        assert_eq!(in_flight(&stage), (1, Some(1)));
        stage.client(&wire::puback(3));
        assert_eq!(in_flight(&stage), (1, Some(0)));

        let mut stage = Stage::answering(|asked| Reply::Now(allow(asked.hook))).open(v);
        stage.script.want(Hook::Deliver, Want::Nothing);
        stage.broker(&delivery(1, 1));
        assert_eq!(in_flight(&stage), (0, None));
    }
}

#[test]
fn an_administrators_words_reach_clients_of_5_0_and_the_log_knows_whose_they_are() {
    for v in [Version::V311, Version::V5] {
        let mut stage = granted(None).open(v);
        let dismissal = Dismissal {
            text: Some("moved".into()),
            by: DismissedBy::Administrator,
            ..Dismissal::new(ReasonCode::ADMINISTRATIVE_ACTION)
        };
        stage.session.dismiss(dismissal, stage.now);
        stage.run();
        let told = [b"\x1f".to_vec(), wire::string("moved")].concat();
        let goodbye = if v == Version::V5 { wire::disconnect_with(0x98, &told) } else { Vec::new() };
        assert_eq!(stage.at_client(), goodbye);
        let fault = stage.finish();
        assert!(matches!(fault, Fault::Kicked { .. }));
        assert_eq!((fault.refused_by(), fault.by()), (Some("administrator"), Party::Administrator));
        assert_eq!(fault.to_string(), "disconnected by an administrator (0x98)");
    }
}
