//! What a client may make mproxy hold: what happens when that is spent, and that it comes back.

use std::sync::Arc;
use std::time::Duration;

use mproxy_core::Side;
use mproxy_core::budget::{Budget, QUESTION, RESERVE, STEP, Scope};
use mproxy_core::fault::Fault;
use mproxy_core::policy::{Hook, Want};
use mproxy_sim::stage::{DialScript, Setup};
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version};
use mproxy_sim::{Reply, Stage, allow};

fn stage(connection: usize, total: usize) -> (Stage, Arc<Budget>) {
    let budget = Arc::new(Budget::new(connection, total, Arc::new(Scope::new(total))));
    (Setup { budget: budget.clone(), ..Setup::default() }.stage(), budget)
}

/// A user property of so many bytes in all, as it stands in a packet.
fn user_properties(bytes: usize) -> Vec<u8> {
    b"\x26\0\0\0\0".repeat(bytes / 5)
}

fn publish(version: Version, qos: u8, topic: &str, props: &[u8]) -> Vec<u8> {
    let publish =
        Publish { topic, payload: b"x", qos, packet_id: 7, properties: props, ..Publish::default() };
    wire::publish(version, &publish)
}

#[test]
fn a_subscribe_that_is_more_than_its_connection_may_hold_is_refused_in_its_place() {
    let many = vec![("a", 0); 20_000];
    for (version, code) in [(Version::V311, 0x80), (Version::V5, 0x97)] {
        let (stage, budget) = stage(1 << 20, 1 << 30);
        let mut stage = stage.open(version);
        stage.client(&wire::subscribe(version, 1, &[("first", 0)]));
        stage.client(&wire::subscribe(version, 2, &many));
        stage.client(&wire::pingreq());
        assert_eq!(stage.take_questions().len(), 1, "nobody is asked about it");
        assert_eq!(stage.at_client(), b"");
        stage.rule(0, allow(Hook::Subscribe));
        assert!(stage.at_client() == wire::suback(version, 2, &[code; 20_000]));
        assert_eq!(
            stage.at_broker(),
            [wire::subscribe(version, 1, &[("first", 0)]), wire::pingreq()].concat()
        );
        assert_eq!(budget.total().held(), 0);
        assert!(budget.connections_spent() > 0);
    }
}

#[test]
fn twenty_thousand_short_filters_have_room() {
    let names: Vec<String> = (0..20_000).map(|n| format!("dev/{n:05}/x")).collect();
    let many: Vec<_> = names.iter().map(|name| (&**name, 1)).collect();
    let packet = wire::subscribe(Version::V5, 1, &many);
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&packet);
    stage.rule(0, allow(Hook::Subscribe));
    assert!(stage.at_broker() == packet);
    stage.broker(&wire::suback(Version::V5, 1, &[1; 20_000]));
    assert_eq!(stage.events().len(), 1, "it is told of");
}

#[test]
fn the_largest_credentials_and_will_have_room() {
    let (name, secret, will) = (wire::long_string(65_535), vec![7; 65_535], vec![8; 65_535]);
    let options = ConnectOptions {
        username: Some(&name),
        password: Some(&secret),
        will: Some(wire::Will { topic: "gone", payload: &will, ..wire::Will::default() }),
        ..ConnectOptions::default()
    };
    for version in [Version::V311, Version::V5] {
        let packet = wire::connect(version, "c", &options);
        let mut stage = Stage::new();
        stage.client(&packet);
        assert!(stage.at_broker() == packet);
    }
}

#[test]
fn an_unsubscribe_that_is_too_much_is_refused() {
    let many = vec!["a"; 20_000];
    let (stage, _) = stage(1 << 20, 1 << 30);
    let mut stage = stage.open(Version::V5);
    stage.client(&wire::unsubscribe(Version::V5, 3, &many));
    assert!(stage.at_client() == wire::unsuback(Version::V5, 3, &[0x83; 20_000]));
    assert_eq!(stage.at_broker(), b"");
    let (stage, _) = self::stage(1 << 20, 1 << 30);
    let mut stage = stage.open(Version::V311);
    stage.client(&wire::unsubscribe(Version::V311, 3, &many));
    assert!(matches!(stage.finish(), Fault::OverBudget { .. }), "3.1.1 has no word for it");
}

#[test]
fn a_publish_with_too_many_user_properties_is_refused() {
    let props = user_properties(70_000);
    for (qos, answer) in [(1, 0x40), (2, 0x50)] {
        let mut stage = Stage::new().open(Version::V5);
        stage.client(&publish(Version::V5, qos, "t", &props));
        assert_eq!(stage.at_client(), wire::packet(answer, &[0, 7, 0x97]));
        stage.client(&wire::pingreq());
        assert_eq!(stage.at_broker(), wire::pingreq());
    }
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&publish(Version::V5, 0, "t", &props));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x97]), "QoS 0 has no answer");
}

#[test]
fn a_connect_with_too_many_user_properties_is_refused_unasked() {
    let props = user_properties(70_000);
    let mut stage = Stage::new();
    stage.client(&wire::connect(
        Version::V5,
        "c",
        &ConnectOptions { properties: &props, ..ConnectOptions::default() },
    ));
    assert_eq!(stage.at_client(), wire::connack(Version::V5, false, 0x97, b""));
    assert_eq!((stage.take_questions().len(), stage.dials), (0, 0));
}

#[test]
fn a_connect_that_is_too_large_is_refused_by_its_header() {
    let name = wire::long_string(60_000);
    let props = user_properties(400_000);
    let options = ConnectOptions { username: Some(&name), properties: &props, ..ConnectOptions::default() };
    let mut stage = Stage::new();
    stage.client(&wire::connect(Version::V5, "c", &options)[..20]);
    assert_eq!(stage.at_client(), wire::connack(Version::V5, false, 0x95, b""));
}

#[test]
fn small_publishes_are_asked_about_side_by_side_until_the_budget_is_spent() {
    let (stage, budget) = stage(64 << 10, 1 << 30);
    let mut stage = stage.open(Version::V311);
    let one = publish(Version::V311, 0, "t", b"");
    stage.client(&one.repeat(300));
    let open = stage.questions();
    assert!((4..(64 << 10) / QUESTION).contains(&open), "{open}");
    assert!(stage.unread(Side::Client) > 0, "the others are not read yet");
    assert!(budget.total().held() <= 64 << 10);
    let mut passed = 0;
    for n in 0..300 {
        stage.rule(n, allow(Hook::Publish));
        passed += stage.at_broker().len();
    }
    assert_eq!(passed, 300 * one.len(), "each in its turn");
    assert_eq!(budget.total().held(), 0);
}

#[test]
fn a_client_waits_while_others_hold_the_total_and_goes_on_when_they_are_gone() {
    let total = Arc::new(Scope::new(100 << 10));
    let budget = Arc::new(Budget::new(1 << 20, 1 << 30, total.clone()));
    let setup = || Setup { budget: budget.clone(), ..Setup::default() };
    let large = Publish { topic: "t", payload: &[0; 15_000], ..Publish::default() };
    let large = wire::publish(Version::V311, &large);
    let mut greedy = setup().stage().open(Version::V311);
    greedy.client(&large.repeat(4));
    // What was read before it was known that there is no room is held, too: one read at most.
    assert!(greedy.unread(Side::Client) > 0);
    assert!(total.held() <= (100 << 10) + greedy.unread(Side::Client));

    let mut modest = setup().stage().open(Version::V311);
    let small = publish(Version::V311, 0, "t", b"");
    modest.client(&small);
    assert_eq!(modest.take_questions().len(), 1, "small packets have a reserve");
    modest.rule(0, allow(Hook::Publish));
    modest.at_broker();
    modest.client(&large);
    assert_eq!(modest.questions(), 1, "a large one waits");
    drop(greedy);
    modest.pass(Duration::from_millis(100));
    assert_eq!(modest.questions(), 2);
    modest.rule(1, allow(Hook::Publish));
    assert!(modest.at_broker() == large);
    assert_eq!(total.held(), 0);
    assert!(total.times_spent() > 0);
}

#[test]
fn who_waits_for_room_too_long_is_told_so() {
    let total = Arc::new(Scope::new(64 << 10));
    let budget = Arc::new(Budget::new(1 << 20, 1 << 30, total));
    let setup = || Setup { budget: budget.clone(), ..Setup::default() };
    let large =
        wire::publish(Version::V5, &Publish { topic: "t", payload: &[0; 15_000], ..Publish::default() });
    let mut greedy = setup().stage().open(Version::V5);
    greedy.client(&large.repeat(20));
    let mut modest = setup().stage().open(Version::V5);
    modest.client(&large);
    assert_eq!(modest.questions(), 0);
    modest.pass(Duration::from_secs(31));
    assert_eq!(modest.at_client(), wire::packet(0xE0, &[0x97]));
}

#[test]
fn what_a_side_does_not_read_is_put_down_and_leaves_others_without_room() {
    let (stage, budget) = stage(1 << 20, 256 << 10);
    let mut stage = stage.open(Version::V5);
    for side in [Side::Client, Side::Broker] {
        stage.session.unread(side, 100 << 10, stage.now);
    }
    assert_eq!(budget.total().held(), 200 << 10);
    assert_eq!(stage.session.reads_at_once(Side::Client, 64 << 10), STEP, "small bites");
    assert!(!stage.session.may_wait_unread(RESERVE + 1) && stage.session.may_wait_unread(RESERVE));
    assert!(stage.session.poll_timeout().is_some(), "nobody else says when there is room");
    for side in [Side::Client, Side::Broker] {
        stage.session.unread(side, 0, stage.now);
    }
    assert_eq!(budget.total().held(), 0);
    assert_eq!(stage.session.reads_at_once(Side::Client, 64 << 10), 64 << 10);
    assert_eq!(stage.session.poll_timeout(), None);
}

#[test]
fn who_does_not_read_while_memory_is_scarce_is_ended_and_who_reads_slowly_is_not() {
    let scarce = || stage(1 << 20, 128 << 10).0.open(Version::V5);
    let mut idle = scarce();
    idle.session.unread(Side::Client, 100 << 10, idle.now);
    idle.pass(Duration::from_secs(29));
    assert_eq!(idle.at_client(), b"");
    idle.pass(Duration::from_secs(2));
    assert_eq!(idle.at_client(), wire::packet(0xE0, &[0x97]));
    assert!(matches!(idle.finish(), Fault::Unread));

    let (mut slow, mut broker) = (scarce(), scarce());
    broker.session.unread(Side::Broker, 100 << 10, broker.now);
    for left in (70..100).rev() {
        slow.session.unread(Side::Client, left << 10, slow.now);
        slow.pass(Duration::from_secs(10));
        broker.pass(Duration::from_secs(10));
    }
    assert_eq!(slow.at_client(), b"");
    assert_eq!(broker.at_client(), b"", "a broker that is slow is not its clients' fault");
}

#[test]
fn a_wanted_payload_of_the_most_that_a_service_may_ask_for_has_room() {
    let mut stage = Stage::new().open(Version::V311);
    stage.script.want(Hook::Publish, Want::Payload(1 << 20));
    let packet = wire::publish(
        Version::V311,
        &Publish { topic: "t", payload: &vec![1; 1 << 20], ..Publish::default() },
    );
    stage.client(&packet);
    stage.rule(0, allow(Hook::Publish));
    assert!(stage.at_broker() == packet);
}

#[test]
fn a_head_that_comes_byte_by_byte_is_not_read_again_at_each() {
    // Were it read anew at each byte, this would take minutes.
    let (stage, _) = stage(64 << 20, 1 << 30);
    let mut stage = stage.open(Version::V5);
    stage.script.want(Hook::Publish, Want::Payload(1 << 20));
    let pair = [b"\x26".to_vec(), wire::string(""), wire::string(wire::long_string(2_000))].concat();
    let props = pair.repeat(30);
    let packet = wire::publish(
        Version::V5,
        &Publish { topic: "t", payload: &[7; 20_000], properties: &props, ..Publish::default() },
    );
    for byte in packet.chunks(1) {
        stage.client(byte);
    }
    assert_eq!(stage.take_questions().len(), 1);
    stage.rule(0, allow(Hook::Publish));
    assert!(stage.at_broker() == packet);
}

#[test]
fn the_connect_of_a_client_that_waits_is_put_down_until_the_broker_has_it() {
    let (mut stage, budget) = stage(3 << 20, 8 << 20);
    stage.dialing = DialScript::Hangs;
    stage.script.answer(|_| Reply::Later);
    let password = [b'p'; 60_000];
    let options =
        ConnectOptions { username: Some("u"), password: Some(&password), ..ConnectOptions::default() };
    let connect = wire::connect(Version::V5, "c", &options);
    stage.client(&connect);
    let held = || budget.total().held();
    assert!(held() >= 2 * password.len(), "the packet and the question about it: {}", held());
    stage.rule(0, allow(Hook::Connect));
    let whole_steps = password.len() - STEP..2 * password.len();
    assert!(whole_steps.contains(&held()), "the packet: {}", held());
    stage.dialed(Ok(()));
    assert_eq!(stage.at_broker(), connect);
    assert_eq!(held(), 0);
}

#[test]
fn an_alias_counts_as_the_topic_that_it_stands_for() {
    let (mut stage, budget) = stage(1 << 20, 1 << 30);
    stage.open_with(Version::V5, &[], b"\x22\0\x05");
    let topic = wire::long_string(60_000);
    stage.client(&publish(Version::V5, 0, &topic, b"\x23\0\x01"));
    stage.client(&publish(Version::V5, 0, "", b"\x23\0\x01").repeat(200));
    let open = stage.questions();
    assert!((2..=(1 << 20) / topic.len()).contains(&open), "{open}");
    assert!(stage.unread(Side::Client) > 0);
    for n in 0..201 {
        stage.rule(n, allow(Hook::Publish));
        stage.at_broker();
    }
    assert!(budget.total().held() >= 60_000, "the alias itself");
    assert_eq!(stage.unread(Side::Client), 0);
}

#[test]
fn acknowledgements_that_have_to_be_looked_for_are_cut_into_turns() {
    let stage = Stage::answering(|asked| Reply::Now(allow(asked.hook)));
    stage.script.want(Hook::Deliver, Want::Head);
    let mut stage = stage.open(Version::V311);
    for packet_id in 1..=60_000 {
        let delivery = Publish { topic: "t", payload: b"", qos: 1, packet_id, ..Publish::default() };
        stage.broker(&wire::publish(Version::V311, &delivery));
    }
    let in_order: Vec<u8> = (1..=100).flat_map(|id| wire::packet(0x40, &u16::to_be_bytes(id))).collect();
    let mut came = in_order.as_slice().into();
    stage.session.read(Side::Client, &mut came, stage.now);
    assert!(came.is_empty(), "the first is found at once");
    // Of an id that is not there, or the last first.
    let mut flood: bytes::BytesMut = (0..1000)
        .flat_map(|n: u16| {
            wire::packet(0x40, &u16::to_be_bytes(if n.is_multiple_of(2) { 60_001 } else { 60_000 - n }))
        })
        .collect();
    let before = flood.len();
    stage.session.read(Side::Client, &mut flood, stage.now);
    assert!(before - flood.len() <= 5 * 4, "{} bytes in one turn", before - flood.len());
    assert!(stage.session.cut_short(Side::Client));
}

#[test]
fn a_flood_of_aliases_of_a_long_topic_is_cut_into_turns() {
    let mut stage = Stage::new();
    stage.open_with(Version::V5, &[], b"\x22\0\x05");
    stage.script.want(Hook::Publish, Want::Nothing);
    stage.client(&publish(Version::V5, 0, &wire::long_string(60_000), b"\x23\0\x01"));
    let one = publish(Version::V5, 0, "", b"\x23\0\x01");
    let mut flood = one.repeat(5_000).as_slice().into();
    let mut turns = 0;
    loop {
        let before = bytes::BytesMut::len(&flood);
        stage.session.read(Side::Client, &mut flood, stage.now);
        let taken = before - flood.len();
        assert!(taken <= 20 * one.len(), "{taken} bytes in one turn");
        turns += 1;
        if flood.is_empty() || turns > 5_000 {
            break;
        }
        assert!(stage.session.cut_short(Side::Client));
    }
    assert!(turns >= 250);
}

#[test]
fn properties_too_long_for_any_packet_are_refused_unread() {
    // Were they looked at, 0x77 would be found to be no property, and the connection would end.
    let nonsense = vec![0x77; 300_000];
    for (qos, answer) in [(1, 0x40), (2, 0x50)] {
        let mut stage = Stage::new().open(Version::V5);
        let packet = publish(Version::V5, qos, "t", &nonsense);
        let (first, rest) = packet.split_at(100);
        stage.client(first);
        assert_eq!(
            stage.at_client(),
            wire::packet(answer, &[0, 7, 0x97]),
            "as soon as their length is there"
        );
        stage.client(rest);
        stage.client(&wire::pingreq());
        assert_eq!(stage.at_broker(), wire::pingreq(), "nothing of it follows");
        assert_eq!(stage.take_questions().len(), 0);
    }
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&publish(Version::V5, 0, "t", &nonsense)[..100]);
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x97]), "QoS 0 has no answer");

    let mut stage = Stage::new().open(Version::V5);
    stage.client(&wire::subscribe(Version::V5, 1, &[("first", 0)]));
    stage.client(&wire::subscribe_with(Version::V5, 2, &[("a", 0), ("b", 1)], &nonsense));
    stage.client(&wire::unsubscribe_with(Version::V5, 3, &["a"], &nonsense));
    assert_eq!(stage.at_client(), b"", "each in its place");
    stage.rule(0, allow(Hook::Subscribe));
    let (suback, unsuback) =
        (wire::suback(Version::V5, 2, &[0x97; 2]), wire::unsuback(Version::V5, 3, &[0x83]));
    assert_eq!(stage.at_client(), [suback, unsuback].concat());
    assert_eq!(stage.at_broker(), wire::subscribe(Version::V5, 1, &[("first", 0)]));
}

#[test]
fn an_acknowledgement_of_nothing_but_properties_ends_the_session() {
    let props = user_properties(200_000);
    for packet in [
        wire::ack_with(0x40, 1, 0x10, &props),
        wire::ack_with(0x62, 1, 0x92, &props),
        wire::disconnect_with(0, &props),
    ] {
        let mut stage = Stage::new().open(Version::V5);
        stage.client(&packet);
        assert_eq!(stage.at_broker(), b"");
        assert!(matches!(stage.finish(), Fault::OverBudget { .. }));
    }
    // A Reason String as long as there can be is none of that.
    let reason = [b"\x1f".to_vec(), wire::string(wire::long_string(65_535))].concat();
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&wire::ack_with(0x40, 1, 0x10, &reason));
    assert!(stage.at_broker() == wire::ack_with(0x40, 1, 0x10, &reason));
}
