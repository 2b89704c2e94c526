//! Taps before packets that nobody sent.

use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketType, QoS, Version};
use mproxy_core::meter::{PacketDetail, PacketFate, TracedConnect, TracedRefusal};
use mproxy_core::peer::Side;
use mproxy_core::policy::Source;
use serde_json::{Value, json};

use super::*;
use crate::example_peer;

fn taps() -> Arc<Taps> {
    Taps::registered(&mut Registry::default())
}

fn peer(client_id: &str) -> Peer {
    example_peer::peer(Arc::new(example_peer::origin(7)), client_id)
}

/// A PUBLISH of the client's to this topic that is passed on.
fn publish<'a>(peer: &'a Peer, topic: &'a str) -> PacketTrace<'a> {
    PacketTrace {
        peer,
        from: Side::Client,
        kind: PacketType::Publish,
        id: None,
        topic: Some(topic),
        sent_topic: None,
        detail: PacketDetail::Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: true,
            payload: b"secret",
            payload_size: 6,
        },
        size: 14,
        fate: PacketFate::Forwarded,
        refusal: None,
    }
}

fn request(selection: TapSelection) -> TapRequest {
    TapRequest { selection, payload: 0, rate: 100 }
}

/// The packets that wait in it.
fn read(tap: &OpenTap) -> Vec<Value> {
    let events = std::iter::from_fn(|| tap.tap.queue.lock().pop());
    events
        .map(|event| match event {
            TapEvent::Packet(text) | TapEvent::Refusal(text) => {
                let mut value: Value = serde_json::from_str(&text).expect("JSON");
                assert!(value.as_object_mut().expect("an object").remove("time").is_some());
                value
            }
            TapEvent::Lost(count) => json!({ "lost": count }),
        })
        .collect()
}

#[test]
fn a_packet_is_shown_without_its_payload() {
    let (taps, peer) = (taps(), peer("c"));
    let tap = taps.open(request(TapSelection::default())).expect("room for a tap");
    taps.packet(&publish(&peer, "a/b"));
    assert_eq!(
        read(&tap),
        [json!({
            "connection_id": "00000000-0000-0000-0000-000000000007", "client_id": "c", "listener": "mqtt",
            "from": "client", "type": "PUBLISH", "topic": "a/b", "qos": 0, "retain": true, "dup": false,
            "payload_size": 6, "size": 14, "outcome": "forwarded",
        })]
    );
}

#[test]
fn topics_are_told_as_the_client_knows_them() {
    let (taps, peer) = (taps(), peer("c"));
    let tap = taps.open(request(TapSelection::default())).expect("room for a tap");
    let up = PacketTrace { sent_topic: Some("acme/a"), fate: PacketFate::Changed, ..publish(&peer, "a") };
    taps.packet(&up);
    taps.packet(&PacketTrace { from: Side::Broker, topic: Some("acme/a"), sent_topic: Some("a"), ..up });
    for shown in read(&tap) {
        assert_eq!((&shown["topic"], &shown["broker_topic"]), (&json!("a"), &json!("acme/a")), "{shown}");
    }
}

#[test]
fn who_refused_a_packet_stands_with_it() {
    let (taps, peer) = (taps(), peer("c"));
    let tap = taps.open(request(TapSelection::default())).expect("room for a tap");
    let refusal = Some(TracedRefusal { source: Source::Acl, reason: ReasonCode::NOT_AUTHORIZED });
    taps.packet(&PacketTrace { refusal, fate: PacketFate::Answered, ..publish(&peer, "a") });
    taps.packet(&PacketTrace { refusal, fate: PacketFate::Changed, ..publish(&peer, "a") });
    let shown = read(&tap);
    assert_eq!((&shown[0]["outcome"], &shown[0]["refused_by"]), (&json!("refused"), &json!("acl")));
    assert_eq!(shown[0]["refused_with"], 0x87);
    assert_eq!(shown[1]["outcome"], "changed", "of some of its filters");
}

#[test]
fn a_tap_shows_what_it_selects() {
    let (taps, desk) = (taps(), peer("desk"));
    let select = |selection| taps.open(request(selection)).expect("room for a tap");
    let filter = |filter: &str| TapSelection { filter: Some(filter.to_owned()), ..TapSelection::default() };
    let selections = [
        (TapSelection { connection_id: Some(7), ..TapSelection::default() }, true),
        (TapSelection { connection_id: Some(8), ..TapSelection::default() }, false),
        (TapSelection { client_id: Some("desk".into()), ..TapSelection::default() }, true),
        (TapSelection { client_id: Some("lamp".into()), ..TapSelection::default() }, false),
        (TapSelection { username: Some("ann".into()), ..TapSelection::default() }, true),
        (TapSelection { username: Some("bob".into()), ..TapSelection::default() }, false),
        (TapSelection { listener: Some("mqtts".into()), ..TapSelection::default() }, false),
        (filter("room/+"), true),
        (filter("room"), false),
        (TapSelection { types: vec![PacketType::Publish], ..TapSelection::default() }, true),
        (TapSelection { types: vec![PacketType::Puback], ..TapSelection::default() }, false),
        (TapSelection { from: Some(Side::Broker), ..TapSelection::default() }, false),
    ];
    for (selection, shown) in selections {
        let tap = select(selection.clone());
        taps.packet(&publish(&desk, "room/1"));
        assert_eq!(!read(&tap).is_empty(), shown, "{selection:?}");
    }
    // By the topic that only the broker sees, too; and of packets without a topic none.
    let tap = select(filter("acme/#"));
    taps.packet(&PacketTrace { sent_topic: Some("acme/room/1"), ..publish(&desk, "room/1") });
    taps.packet(&PacketTrace {
        kind: PacketType::Pingreq,
        topic: None,
        detail: PacketDetail::None,
        ..publish(&desk, "")
    });
    assert_eq!(read(&tap).len(), 1);
}

#[test]
fn a_connection_that_no_tap_is_about_takes_its_fast_path() {
    let (taps, desk, lamp) = (taps(), peer("desk"), peer("lamp"));
    assert!(!taps.are_open());
    let selection = TapSelection { client_id: Some("desk".into()), ..TapSelection::default() };
    let tap = taps.open(request(selection)).expect("room for a tap");
    assert!(taps.are_open());
    assert!(taps.watch(&desk.origin, Some(&desk)));
    assert!(!taps.watch(&lamp.origin, Some(&lamp)));
    assert!(taps.watch(&lamp.origin, None), "who it is has not been said yet");
    drop(tap);
    assert!(!taps.are_open() && !taps.watch(&desk.origin, Some(&desk)));
}

#[test]
fn there_are_only_so_many() {
    let taps = taps();
    let open: Vec<_> =
        (0..MOST_TAPS).map_while(|_| taps.open(request(TapSelection::default())).ok()).collect();
    assert_eq!(open.len(), MOST_TAPS);
    assert!(taps.open(request(TapSelection::default())).is_err());
    drop(open);
    assert!(taps.open(request(TapSelection::default())).is_ok());
}

#[test]
fn a_name_of_64_kib_is_cut() {
    let (taps, peer) = (taps(), peer(&"x".repeat(60_000)));
    let tap = taps.open(request(TapSelection::default())).expect("room for a tap");
    let long = "t".repeat(60_000);
    let detail = PacketDetail::Connect(TracedConnect {
        version: Version::V5,
        client_id: &long,
        username: Some(&long),
        clean_start: true,
        keep_alive: 0,
        will_topic: Some(&long),
    });
    taps.packet(&PacketTrace { detail, kind: PacketType::Connect, ..publish(&peer, &long) });
    let shown = read(&tap);
    assert!(shown[0].to_string().len() < 2_500, "{}", shown[0].to_string().len());
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_is_told_though_nothing_follows() {
    let (taps, peer) = (taps(), peer("c"));
    let tap = taps.open(TapRequest { rate: 1, ..TapRequest::default() }).expect("room for a tap");
    (0..5).for_each(|_| taps.packet(&publish(&peer, "a")));
    assert!(matches!(tap.next().await, TapEvent::Packet(_)));
    assert_eq!(tap.next().await, TapEvent::Lost(4));
}
