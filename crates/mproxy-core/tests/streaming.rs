//! Publishes that are larger than what is held: the head is decided, the payload streams.

use bytes::Bytes;
use mproxy_core::Side;
use mproxy_core::event::Happening;
use mproxy_core::fault::Fault;
use mproxy_core::policy::{Action, Hook, PublishChange, Want};
use mproxy_sim::wire::{self, Publish, Version};
use mproxy_sim::{Reply, Stage, allow, change, refuse, refuse_as};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const LARGE: usize = 1 << 20;

fn large(version: Version, qos: u8, packet_id: u16, topic: &str) -> Vec<u8> {
    let payload: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
    wire::publish(version, &Publish { topic, payload: &payload, qos, packet_id, ..Publish::default() })
}

fn small(version: Version, packet_id: u16, topic: &str) -> Vec<u8> {
    wire::publish(version, &Publish { topic, payload: b"x", qos: 1, packet_id, ..Publish::default() })
}

fn judging() -> Stage {
    Stage::answering(|asked| {
        Reply::Now(if asked.what.starts_with("no") { refuse(asked.hook) } else { allow(asked.hook) })
    })
}

#[test]
fn a_large_payload_streams_as_it_comes() {
    for version in VERSIONS {
        let packet = large(version, 1, 1, "a");
        let mut stage = judging().open(version);
        let mut sent = 0;
        for chunk in packet.chunks(20_000) {
            stage.client(chunk);
            sent += chunk.len();
            assert!(sent <= 20_000 || stage.unread(Side::Client) == 0, "nothing stays behind");
            assert_eq!(stage.session.waiting(Side::Client), (0, 0));
        }
        assert!(stage.at_broker() == packet);
        stage.client(&wire::pingreq());
        assert_eq!(stage.at_broker(), wire::pingreq());
    }
}

#[test]
fn the_head_waits_for_its_verdict_and_the_body_stays_unread() {
    for version in VERSIONS {
        let packet = large(version, 2, 1, "a");
        let mut stage = Stage::new().open(version);
        stage.client(&packet[..30_000]);
        let asked = &stage.take_questions()[0];
        assert_eq!((asked.what.as_str(), asked.size as usize), ("a", LARGE));
        assert!(!stage.session.wants_read(Side::Client));
        let (packets, bytes) = stage.session.waiting(Side::Client);
        assert!(packets == 1 && bytes < 20, "only the head is held, not {bytes} bytes");
        stage.client(&packet[30_000..60_000]);
        assert_eq!(stage.at_broker(), b"");
        stage.rule(0, allow(Hook::Publish));
        stage.client(&packet[60_000..]);
        assert!(stage.at_broker() == packet);
    }
}

#[test]
fn a_refused_head_takes_its_body_with_it() {
    for version in VERSIONS {
        for later in [true, false] {
            let packet = large(version, 1, 1, "no");
            let mut stage = if later { Stage::new() } else { judging() }.open(version);
            stage.client(&packet[..30_000]);
            if later {
                stage.rule(0, refuse(Hook::Publish));
            }
            let ack =
                if version == Version::V5 { wire::packet(0x40, &[0, 1, 0x87]) } else { wire::puback(1) };
            assert_eq!(stage.at_client(), ack, "at once, not when the last byte has come");
            for chunk in packet[30_000..].chunks(100_000) {
                stage.client(chunk);
                assert_eq!(stage.unread(Side::Client), 0);
            }
            stage.client(&wire::pingreq());
            assert_eq!(stage.at_broker(), wire::pingreq());
        }
    }
}

#[test]
fn a_rewritten_topic_goes_before_the_same_body() {
    for version in VERSIONS {
        let packet = large(version, 1, 1, "a");
        let mut stage = Stage::new().open(version);
        stage.client(&packet[..30_000]);
        stage.rule(0, change(PublishChange { topic: Some("t/a".into()), ..PublishChange::default() }));
        stage.client(&packet[30_000..]);
        assert!(stage.at_broker() == large(version, 1, 1, "t/a"));
        stage.client(&wire::pingreq());
        assert_eq!(stage.at_broker(), wire::pingreq());
    }
}

#[test]
fn a_replaced_payload_goes_instead_of_the_body() {
    for version in VERSIONS {
        let packet = large(version, 1, 1, "a");
        let mut stage = Stage::new().open(version);
        stage.client(&packet[..30_000]);
        stage.rule(
            0,
            change(PublishChange { payload: Some(Bytes::from_static(b"new")), ..PublishChange::default() }),
        );
        let new = Publish { topic: "a", payload: b"new", qos: 1, packet_id: 1, ..Publish::default() };
        assert_eq!(stage.at_broker(), wire::publish(version, &new));
        stage.client(&[&packet[30_000..], &wire::pingreq()].concat());
        assert_eq!(stage.at_broker(), wire::pingreq());
    }
}

#[test]
fn a_payload_replaced_by_nothing_is_an_empty_publish() {
    let mut stage = Stage::new().open(Version::V311);
    stage.client(&small(Version::V311, 1, "a"));
    stage.rule(0, change(PublishChange { payload: Some(Bytes::new()), ..PublishChange::default() }));
    let new = Publish { topic: "a", payload: b"", qos: 1, packet_id: 1, ..Publish::default() };
    assert_eq!(stage.at_broker(), wire::publish(Version::V311, &new));
}

#[test]
fn a_large_publish_waits_behind_held_ones() {
    let mut stage = Stage::new().open(Version::V311);
    let (first, second) = (small(Version::V311, 1, "a"), large(Version::V311, 1, 2, "b"));
    stage.client(&[&first[..], &second[..20_000]].concat());
    stage.rule(1, allow(Hook::Publish));
    stage.client(&second[20_000..]);
    assert_eq!(stage.at_broker(), b"");
    stage.rule(0, allow(Hook::Publish));
    assert!(stage.at_broker() == [first, second].concat());
}

#[test]
fn a_wanted_payload_is_held_whole() {
    let mut stage = Stage::new().open(Version::V311);
    stage.script.want(Hook::Publish, Want::Payload(2 << 20));
    let packet = large(Version::V311, 0, 0, "a");
    for chunk in packet.chunks(100_000) {
        assert_eq!(stage.questions(), 0);
        stage.client(chunk);
    }
    assert_eq!(stage.take_questions()[0].payload.as_ref().map(Vec::len), Some(LARGE));
    stage.rule(0, allow(Hook::Publish));
    assert!(stage.at_broker() == packet);
}

#[test]
fn a_reply_to_the_client_waits_for_the_end_of_a_streamed_delivery() {
    for version in VERSIONS {
        let delivery = large(version, 0, 0, "d");
        let mut stage = judging().open(version);
        stage.broker(&delivery[..50_000]);
        stage.client(
            &[small(version, 1, "no"), small(version, 2, "no"), wire::subscribe(version, 3, &[("no", 0)])]
                .concat(),
        );
        assert!(stage.at_client() == delivery[..50_000], "nothing in the middle of it");
        stage.broker(&delivery[50_000..]);
        let no = |id| {
            if version == Version::V5 { wire::packet(0x40, &[0, id, 0x87]) } else { wire::puback(id.into()) }
        };
        let code = if version == Version::V5 { 0x87 } else { 0x80 };
        let rest = [&delivery[50_000..], &no(1), &no(2), &wire::suback(version, 3, &[code])].concat();
        assert!(stage.at_client() == rest);
    }
}

#[test]
fn an_answer_to_the_broker_waits_for_the_end_of_a_streamed_publish() {
    for version in VERSIONS {
        let mut stage = judging().open(version);
        stage.script.want(Hook::Deliver, Want::Head);
        let packet = large(version, 1, 1, "a");
        stage.client(&packet[..50_000]);
        stage.broker(&small(version, 9, "no"));
        assert!(stage.at_broker() == packet[..50_000]);
        assert_eq!(stage.at_client(), b"", "the delivery was refused");
        stage.client(&packet[50_000..]);
        assert!(stage.at_broker() == [&packet[50_000..], &wire::puback(9)].concat());
    }
}

#[test]
fn released_packets_wait_for_the_end_of_a_streamed_payload() {
    // Two directions, each streaming, each with answers of ours for the other.
    let version = Version::V5;
    let mut stage = judging().open(version);
    stage.script.want(Hook::Deliver, Want::Head);
    let (up, down) = (large(version, 1, 1, "u"), large(version, 1, 2, "d"));
    stage.client(&up[..30_000]);
    stage.broker(&down[..30_000]);
    stage.client(&up[30_000..]);
    stage.client(&small(version, 3, "no"));
    stage.client(&wire::pingreq());
    assert!(stage.at_broker() == [up, wire::pingreq()].concat());
    assert!(stage.at_client() == down[..30_000]);
    stage.broker(&down[30_000..]);
    assert!(stage.at_client() == [&down[30_000..], &[0x40, 3, 0, 3, 0x87]].concat());
    stage.broker(&wire::puback(1));
    assert_eq!(stage.at_client(), wire::puback(1));
}

#[test]
fn a_goodbye_is_never_said_in_the_middle_of_a_delivery() {
    let delivery = large(Version::V5, 0, 0, "d");
    let mut stage = judging().open(Version::V5);
    stage.broker(&delivery[..50_000]);
    stage.at_client();
    stage.client(&[0]);
    assert_eq!(stage.at_client(), b"");
    assert!(stage.is_shut(Side::Client));
}

#[test]
fn a_dup_of_a_large_refused_publish_is_skipped_with_its_body() {
    let mut packet = large(Version::V311, 2, 1, "no");
    let mut stage = judging().open(Version::V311);
    stage.client(&packet);
    packet[0] |= 0x08;
    for chunk in packet.chunks(70_000) {
        stage.client(chunk);
    }
    stage.client(&wire::pingreq());
    assert_eq!(stage.at_client(), [wire::pubrec(1), wire::pubrec(1)].concat());
    assert_eq!(stage.at_broker(), wire::pingreq());
}

#[test]
fn a_client_that_vanishes_in_a_body_leaves_a_torn_packet_and_nothing_behind_it() {
    let packet = large(Version::V311, 1, 1, "a");
    let mut stage = judging().open(Version::V311);
    stage.client(&packet[..50_000]);
    stage.close(Side::Client);
    assert!(stage.at_broker() == packet[..50_000]);
    assert!(stage.is_shut(Side::Broker));
    assert!(matches!(stage.finish(), Fault::Lost { side: Side::Client, .. }));
}

#[test]
fn a_client_that_vanishes_before_the_verdict_on_a_head_leaves_nothing_of_it() {
    let mut stage = Stage::new().open(Version::V311);
    let (first, second) = (small(Version::V311, 1, "a"), large(Version::V311, 1, 2, "b"));
    stage.client(&[&first[..], &second[..50_000]].concat());
    stage.reset(Side::Client);
    stage.rule(1, allow(Hook::Publish));
    stage.rule(0, allow(Hook::Publish));
    assert_eq!(stage.at_broker(), first);
    assert!(stage.is_shut(Side::Broker));
}

#[test]
fn a_disconnect_action_on_a_large_head_ends_the_session() {
    let packet = large(Version::V5, 1, 1, "a");
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&packet[..50_000]);
    stage.rule(0, refuse_as(Action::Disconnect));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x87]));
    stage.client(&packet[50_000..]);
    assert_eq!((stage.at_broker(), stage.unread(Side::Client)), (Vec::new(), 0));
}

#[test]
fn a_streamed_publish_that_nobody_acknowledges_is_told_when_the_broker_has_it_whole() {
    for version in VERSIONS {
        let packet = large(version, 0, 0, "a");
        let (most, last) = packet.split_at(packet.len() - 1);
        let mut stage = judging().open(version);
        stage.client(most);
        assert!(stage.at_broker() == most && stage.events().is_empty());
        stage.client(last);
        assert!(matches!(&stage.events()[..], [Happening::Publish(told)] if told.size as usize == LARGE));
        // One that is cut in two never was.
        stage.client(most);
        stage.reset(Side::Client);
        stage.close(Side::Broker);
        assert!(matches!(&stage.events()[..], [Happening::Disconnect(_)]));
        // Nor is one whose verdict came first, and its payload never.
        let mut stage = Stage::new().open(version);
        stage.client(&packet[..30_000]);
        stage.rule(0, allow(Hook::Publish));
        assert!(stage.events().is_empty());
        stage.client(&packet[30_000..]);
        assert!(matches!(&stage.events()[..], [Happening::Publish(_)]));
    }
}

#[test]
fn the_size_of_a_streamed_publish_is_told_and_its_traffic_counted() {
    let mut stage = judging().open(Version::V311);
    let before = stage.session.traffic();
    let packet = large(Version::V311, 0, 0, "a");
    for chunk in packet.chunks(10_000) {
        stage.client(chunk);
    }
    let Happening::Publish(told) = stage.events().remove(0) else { panic!("not a PUBLISH") };
    assert_eq!((told.size as usize, &*told.topic), (LARGE, "a"));
    let after = stage.session.traffic();
    assert_eq!(after.client_packets - before.client_packets, 1);
    assert_eq!((after.client_bytes - before.client_bytes) as usize, packet.len());
}
