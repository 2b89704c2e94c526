//! PUBLISH from the broker, where rules for it exist, and what is told of everything.

use mproxy_core::Side;
use mproxy_core::event::{Happening, Published};
use mproxy_core::policy::{Action, Decision, FilterChange, Hook, PublishChange, Refusal, Want};
use mproxy_sim::Verdict;
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, Publish, Version};
use mproxy_sim::{Reply, Stage, allow, change, refuse, refuse_as};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn publish(version: Version, qos: u8, packet_id: u16, topic: &str) -> Vec<u8> {
    wire::publish(version, &Publish { topic, payload: b"p", qos, packet_id, ..Publish::default() })
}

/// A session whose publishes and deliveries of `no…` are refused at once, and all else allowed at once.
fn judging(version: Version) -> Stage {
    let stage = Stage::answering(|asked| {
        Reply::Now(if asked.what.starts_with("no") { refuse(asked.hook) } else { allow(asked.hook) })
    })
    .open(version);
    stage.script.want(Hook::Deliver, Want::Head);
    stage
}

#[test]
fn deliveries_pass_unasked_and_uncopied_where_nobody_cares() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        let packets = [publish(version, 0, 0, "a"), publish(version, 1, 1, "b"), wire::pingresp()].concat();
        stage.broker(&packets);
        assert_eq!(stage.at_client(), packets);
        assert!(stage.take_questions().is_empty());
    }
}

#[test]
fn a_refused_delivery_is_taken_and_dropped() {
    for version in VERSIONS {
        for action in [Action::Reject, Action::Drop, Action::NoAck] {
            let mut stage = judging(version);
            stage.script.answer(move |asked| {
                Reply::Now(if asked.what == "no" { refuse_as(action) } else { allow(asked.hook) })
            });
            stage.broker(&publish(version, 0, 0, "no"));
            assert_eq!((stage.at_client(), stage.at_broker()), (Vec::new(), Vec::new()));
            stage.broker(&publish(version, 1, 1, "no"));
            assert_eq!((stage.at_client(), stage.at_broker()), (Vec::new(), wire::puback(1)));
            stage.broker(&publish(version, 2, 2, "no"));
            assert_eq!((stage.at_client(), stage.at_broker()), (Vec::new(), wire::pubrec(2)));
            stage.broker(&wire::pubrel(2));
            assert_eq!((stage.at_client(), stage.at_broker()), (Vec::new(), wire::pubcomp(2)));
        }
    }
}

#[test]
fn our_acknowledgements_to_the_broker_keep_the_order_too() {
    let mut stage = judging(Version::V311);
    let sent = [
        publish(Version::V311, 1, 1, "yes"),
        publish(Version::V311, 1, 2, "no"),
        publish(Version::V311, 2, 3, "yes"),
        publish(Version::V311, 2, 4, "no"),
    ];
    stage.broker(&sent.concat());
    assert_eq!(stage.at_client(), [&sent[0][..], &sent[2]].concat());
    assert_eq!(stage.at_broker(), b"");
    stage.client(&wire::puback(1));
    assert_eq!(stage.at_broker(), [wire::puback(1), wire::puback(2)].concat());
    stage.client(&wire::pubrec(3));
    assert_eq!(stage.at_broker(), [wire::pubrec(3), wire::pubrec(4)].concat());
    stage.broker(&[wire::pubrel(4), wire::pubrel(3)].concat());
    assert_eq!((stage.at_client(), stage.at_broker()), (wire::pubrel(3), wire::pubcomp(4)));
}

#[test]
fn a_delivery_is_rewritten_within_the_client_s_maximum_packet_size() {
    let mut stage = Stage::new();
    stage.open_with(Version::V5, b"\x27\0\0\0\x20", b"");
    stage.script.want(Hook::Deliver, Want::Head);
    stage.broker(&publish(Version::V5, 1, 1, "a").repeat(2));
    let topic = |topic: &str| change(PublishChange { topic: Some(topic.into()), ..PublishChange::default() });
    stage.rule(0, topic("t/a"));
    stage.rule(1, topic(&"x".repeat(40)));
    assert_eq!(stage.at_client(), publish(Version::V5, 1, 1, "t/a"));
    stage.client(&wire::puback(1));
    assert_eq!(stage.at_broker(), wire::puback(1).repeat(2), "taken and dropped: a failed answer");
}

#[test]
fn a_refused_delivery_may_end_the_session() {
    let mut stage = judging(Version::V5);
    stage.script.answer(|_| Reply::Now(refuse_as(Action::Disconnect)));
    stage.broker(&publish(Version::V5, 1, 1, "a"));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x87]));
    assert!(stage.is_shut(Side::Broker));
}

fn published(stage: &mut Stage) -> Vec<Published> {
    stage
        .events()
        .into_iter()
        .map(|event| match event {
            Happening::Publish(told) => *told,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_publish_is_told_when_the_broker_took_it() {
    for version in VERSIONS {
        let mut stage = judging(version);
        stage.client(&publish(version, 0, 0, "zero"));
        assert_eq!(&*published(&mut stage)[0].topic, "zero");
        stage.client(&[publish(version, 1, 1, "one"), publish(version, 2, 2, "two")].concat());
        assert!(published(&mut stage).is_empty());
        stage.broker(&wire::pubrec(2));
        assert_eq!(&*published(&mut stage)[0].topic, "two");
        stage.broker(&wire::puback(1));
        let told = published(&mut stage).remove(0);
        assert_eq!((&*told.topic, told.qos as u8, told.size, told.payload), ("one", 1, 1, None));
        stage.client(&wire::pubrel(2));
        stage.broker(&wire::pubcomp(2));
        stage.broker(&wire::puback(1));
        assert!(published(&mut stage).is_empty(), "exactly once");
    }
}

#[test]
fn what_was_refused_here_or_by_the_broker_is_not_told() {
    let mut stage = judging(Version::V5);
    stage.client(
        &[
            publish(Version::V5, 0, 0, "no"),
            publish(Version::V5, 1, 1, "no"),
            publish(Version::V5, 1, 2, "yes"),
        ]
        .concat(),
    );
    stage.broker(&wire::packet(0x40, &[0, 2, 0x87]));
    assert!(published(&mut stage).is_empty());
    // No matching subscribers is no error.
    stage.client(&publish(Version::V5, 1, 3, "yes"));
    stage.broker(&wire::packet(0x40, &[0, 3, 0x10]));
    assert_eq!(published(&mut stage).len(), 1);
}

#[test]
fn a_publish_is_told_as_it_left() {
    let mut stage = Setup { telling: Want::Payload(100), ..Setup::default() }.stage().open(Version::V311);
    stage.client(&publish(Version::V311, 1, 1, "a"));
    stage.rule(
        0,
        change(PublishChange {
            topic: Some("t/a".into()),
            payload: Some(b"new".as_slice().into()),
            retain: Some(true),
            ..PublishChange::default()
        }),
    );
    stage.broker(&wire::puback(1));
    let told = published(&mut stage).remove(0);
    assert_eq!(
        (&*told.topic, told.retain, told.size, told.payload.as_deref()),
        ("t/a", true, 3, Some(&b"new"[..]))
    );
}

#[test]
fn payloads_are_told_up_to_the_size_that_is_wanted() {
    let mut stage = Setup { telling: Want::Payload(1), ..Setup::default() }.stage().open(Version::V311);
    stage.script.want(Hook::Publish, Want::Nothing);
    let long = wire::publish(Version::V311, &Publish { topic: "l", payload: b"12", ..Publish::default() });
    stage.client(&[publish(Version::V311, 0, 0, "s"), long].concat());
    let told = published(&mut stage);
    assert_eq!((told[0].payload.as_deref(), told[1].payload.as_deref()), (Some(&b"p"[..]), None));
}

#[test]
fn what_is_kept_to_be_told_has_a_bound_and_then_the_client_waits() {
    let limits = mproxy_core::Limits { lane_bytes: 10_000, ..mproxy_core::Limits::default() };
    let mut stage = Setup { limits, ..Setup::default() }.stage().open(Version::V311);
    stage.script.want(Hook::Publish, Want::Nothing);
    let topic = "x".repeat(1000);
    for id in 1..=20 {
        stage.client(&publish(Version::V311, 1, id, &topic));
    }
    assert!(!stage.session.wants_read(Side::Client));
    assert!(stage.unread(Side::Client) > 8_000, "the broker acknowledges none of them");
    for id in 1..=20 {
        stage.broker(&wire::puback(id));
    }
    assert_eq!((stage.unread(Side::Client), published(&mut stage).len()), (0, 20));
}

#[test]
fn a_subscribe_is_told_with_the_codes_that_were_given() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        stage.client(&wire::subscribe(version, 1, &[("a", 0), ("b", 1), ("c", 2)]));
        let rewritten = FilterChange { filter: Some("t/c".into()), max_qos: None, ..FilterChange::default() };
        stage.rule(
            0,
            Verdict::Subscribe(vec![
                Decision::Allow(FilterChange::default()),
                Decision::Refuse(Refusal::default()),
                Decision::Allow(rewritten),
            ]),
        );
        assert!(stage.events().is_empty());
        stage.broker(&wire::suback(version, 1, &[0, 1]));
        let [Happening::Subscribe { filters }] = &stage.events()[..] else { panic!() };
        let refused = if version == Version::V5 { 0x87 } else { 0x80 };
        let told: Vec<(&str, u8)> = filters.iter().map(|(filter, code)| (&**filter, *code)).collect();
        assert_eq!(told, [("a", 0), ("b", refused), ("t/c", 1)]);

        stage.client(&wire::unsubscribe(version, 2, &["a", "c"]));
        assert!(stage.events().is_empty());
        stage.broker(&wire::unsuback(version, 2, &[0, 0]));
        let [Happening::Unsubscribe { filters }] = &stage.events()[..] else { panic!() };
        assert_eq!(filters.iter().map(|filter| &**filter).collect::<Vec<_>>(), ["a", "t/c"]);
    }
}

#[test]
fn a_subscribe_that_never_reached_the_broker_is_told_with_its_refusals() {
    let mut stage = judging(Version::V5);
    stage.client(&wire::subscribe(Version::V5, 1, &[("no", 0)]));
    assert_eq!(stage.at_client(), wire::suback(Version::V5, 1, &[0x87]));
    let [Happening::Subscribe { filters }] = &stage.events()[..] else { panic!() };
    assert_eq!(**filters, [("no".into(), 0x87)]);
}

#[test]
fn what_a_resumed_session_brings_is_judged_from_its_first_packet() {
    for version in VERSIONS {
        let mut stage = Stage::answering(|asked| {
            Reply::Now(if asked.what.starts_with("no") { refuse(asked.hook) } else { allow(asked.hook) })
        });
        stage.script.want(Hook::Deliver, Want::Head);
        stage.client(&wire::connect(version, "c", &wire::ConnectOptions::default()));
        stage.at_broker();
        let present = version != Version::V31;
        let connack = wire::connack(version, present, 0, b"");
        // All in one segment, of subscriptions that nobody here was asked about.
        let waiting =
            [publish(version, 1, 1, "no"), publish(version, 1, 2, "yes"), publish(version, 2, 3, "no")];
        stage.broker(&[connack.clone(), waiting.concat()].concat());
        assert_eq!(stage.at_client(), [connack, waiting[1].clone()].concat());
        // Ours to the broker, each kind in its order: the PUBACK of 1 needs to wait for nobody.
        assert_eq!(stage.at_broker(), [wire::puback(1), wire::pubrec(3)].concat());
    }
}

#[test]
fn connect_and_disconnect_are_told_once_each_with_the_traffic() {
    let mut stage = Stage::new();
    stage.script.want(Hook::Publish, Want::Nothing);
    let connect = wire::connect(Version::V311, "c", &wire::ConnectOptions::default());
    let connack = wire::connack(Version::V311, true, 0, b"");
    stage.client(&connect);
    assert!(stage.events().is_empty());
    stage.broker(&connack);
    assert!(matches!(stage.events()[..], [Happening::Connect { session_present: true }]));
    let up = [publish(Version::V311, 1, 1, "a"), wire::pingreq(), wire::disconnect()].concat();
    let down = [wire::puback(1), wire::pingresp()].concat();
    stage.client(&up[..up.len() - 2]);
    stage.broker(&down);
    stage.events();
    stage.client(&wire::disconnect());
    stage.finish();
    let [Happening::Disconnect(end)] = &stage.events()[..] else { panic!() };
    let traffic = end.traffic;
    assert_eq!((traffic.client_packets, traffic.broker_packets), (4, 3));
    assert_eq!(traffic.client_bytes as usize, connect.len() + up.len());
    assert_eq!(traffic.broker_bytes as usize, connack.len() + down.len());
}

#[test]
fn nothing_is_told_where_nobody_wants_to_hear() {
    let mut stage = Setup { telling: Want::Nothing, ..Setup::default() }.stage().open(Version::V311);
    stage.script.want(Hook::Publish, Want::Nothing);
    stage.script.want(Hook::Subscribe, Want::Nothing);
    stage.client(
        &[
            publish(Version::V311, 1, 1, "a"),
            wire::subscribe(Version::V311, 2, &[("a", 0)]),
            wire::disconnect(),
        ]
        .concat(),
    );
    stage.finish();
    assert!(stage.events().is_empty());
}
