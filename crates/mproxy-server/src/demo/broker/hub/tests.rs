//! Scenes with the broker of the demo, without a socket.

use bytes::{Bytes, BytesMut};
use mproxy_codec::{
    Disconnect, FilterRequest, Frame, PacketId, Place, Sender, TopicFilter, Version, Will, encode_subscribe,
};
use tokio::sync::mpsc::UnboundedReceiver;

use super::super::session::DemoMail;
use super::*;

/// A client, as the hub sees it.
struct Guest {
    number: u64,
    version: Version,
    mail: UnboundedReceiver<DemoMail>,
}

fn connect(version: Version, client_id: &str) -> Connect<'_> {
    Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive: 0,
        properties: Properties::EMPTY,
        client_id,
        will: None,
        username: None,
        password: None,
    }
}

fn publish<'a>(topic: &'a str, qos: QoS, id: u16, payload: &'a [u8]) -> Publish<'a> {
    let packet_id = PacketId::new(id);
    Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id,
        alias: None,
        properties: Properties::EMPTY,
        payload,
    }
}

impl Guest {
    fn new(hub: &mut DemoHub, asked: &Connect<'_>) -> Self {
        let (mailbox, mail) = Mailbox::new();
        let number = hub.attach(asked, mailbox).unwrap();
        let mut guest = Self { number, version: asked.version, mail };
        assert!(guest.next().starts_with("CONNACK 0"));
        guest
    }

    /// What the client is sent next, in words.
    fn next(&mut self) -> String {
        let Ok(mail) = self.mail.try_recv() else { return "nothing".to_owned() };
        if mail.bytes.is_empty() {
            return "end".to_owned();
        }
        words(&mail.bytes, self.version)
    }

    fn says(&self, hub: &mut DemoHub, packet: Packet<'_>) -> Result<(), DemoEnd> {
        // Over its bytes, as from a socket.
        let mut bytes = BytesMut::new();
        packet.encode(self.version, &mut bytes).unwrap();
        let (frame, _) = Frame::split(&bytes, Sender::Client, Some(self.version)).unwrap().unwrap();
        hub.receive(self.number, &Packet::parse(&frame, Sender::Client, self.version).unwrap())
    }

    fn subscribes(&mut self, hub: &mut DemoHub, filter: &str, qos: QoS) -> String {
        let asked = FilterRequest::new(TopicFilter::new(filter).unwrap(), qos);
        self.asks(hub, asked, &PropertyEdit::NONE);
        self.next()
    }

    fn asks(&self, hub: &mut DemoHub, asked: FilterRequest<'_>, properties: &PropertyEdit<'_>) {
        let mut bytes = BytesMut::new();
        let id = PacketId::new(9).unwrap();
        encode_subscribe(self.version, id, properties, [asked], &mut bytes).unwrap();
        let (frame, _) = Frame::split(&bytes, Sender::Client, Some(self.version)).unwrap().unwrap();
        hub.receive(self.number, &Packet::parse(&frame, Sender::Client, self.version).unwrap()).unwrap();
    }

    fn acknowledges(&self, hub: &mut DemoHub, kind: PacketType, id: u16) {
        let ack = Ack::new(kind, PacketId::new(id).unwrap(), ReasonCode::SUCCESS);
        self.says(hub, Packet::Ack(ack)).unwrap();
    }
}

fn words(bytes: &Bytes, version: Version) -> String {
    let (frame, rest) = Frame::split(bytes, Sender::Server, Some(version)).unwrap().unwrap();
    assert!(rest.is_empty());
    match Packet::parse(&frame, Sender::Server, version).unwrap() {
        Packet::Connack(connack) => format!("CONNACK {}", connack.reason),
        Packet::Publish(publish) => {
            let id = publish.packet_id.map_or(String::new(), |id| format!(" id {}", id.get()));
            let retained = if publish.retain { " retained" } else { "" };
            let payload = String::from_utf8_lossy(publish.payload);
            format!("{} {payload} QoS {}{id}{retained}", publish.topic, publish.qos as u8)
        }
        Packet::Ack(ack) => format!("{} {} {:#04x}", ack.kind.name(), ack.packet_id.get(), ack.reason.0),
        Packet::Suback(suback) => format!("SUBACK {:02x?}", suback.codes),
        Packet::Unsuback(unsuback) => format!("UNSUBACK {:02x?}", unsuback.codes),
        Packet::Disconnect(disconnect) => format!("DISCONNECT {:#04x}", disconnect.reason.0),
        other => other.kind().name().to_owned(),
    }
}

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

#[test]
fn a_message_reaches_who_asked_for_it_with_the_lower_qos() {
    for version in VERSIONS {
        let mut hub = DemoHub::default();
        let mut desk = Guest::new(&mut hub, &connect(version, "desk"));
        let mut lamp = Guest::new(&mut hub, &connect(version, "lamp"));
        assert_eq!(desk.subscribes(&mut hub, "demo/#", QoS::AtLeastOnce), "SUBACK [01]");
        lamp.says(&mut hub, Packet::Publish(publish("demo/a", QoS::AtMostOnce, 0, b"on"))).unwrap();
        assert_eq!((desk.next(), lamp.next()), ("demo/a on QoS 0".into(), "nothing".into()));
        lamp.says(&mut hub, Packet::Publish(publish("demo/a", QoS::ExactlyOnce, 3, b"off"))).unwrap();
        assert_eq!(desk.next(), "demo/a off QoS 1 id 1");
        assert_eq!(lamp.next(), "PUBREC 3 0x00");
        lamp.says(&mut hub, Packet::Publish(publish("other", QoS::AtLeastOnce, 4, b"x"))).unwrap();
        assert_eq!((desk.next(), lamp.next()), ("nothing".into(), "PUBACK 4 0x00".into()));
    }
}

/// [MQTT-4.3.3-10]
#[test]
fn a_publish_that_comes_twice_before_its_release_is_passed_on_once() {
    let mut hub = DemoHub::default();
    let mut desk = Guest::new(&mut hub, &connect(Version::V311, "desk"));
    let mut lamp = Guest::new(&mut hub, &connect(Version::V311, "lamp"));
    desk.subscribes(&mut hub, "a", QoS::AtMostOnce);
    for expected in ["a on QoS 0", "nothing"] {
        lamp.says(&mut hub, Packet::Publish(publish("a", QoS::ExactlyOnce, 3, b"on"))).unwrap();
        assert_eq!((&*desk.next(), &*lamp.next()), (expected, "PUBREC 3 0x00"));
    }
    lamp.acknowledges(&mut hub, PacketType::Pubrel, 3);
    assert_eq!(lamp.next(), "PUBCOMP 3 0x00");
    lamp.says(&mut hub, Packet::Publish(publish("a", QoS::ExactlyOnce, 3, b"on"))).unwrap();
    assert_eq!(desk.next(), "a on QoS 0");
}

#[test]
fn overlapping_subscriptions_deliver_once() {
    let mut hub = DemoHub::default();
    let mut desk = Guest::new(&mut hub, &connect(Version::V5, "desk"));
    desk.subscribes(&mut hub, "a/#", QoS::AtMostOnce);
    desk.subscribes(&mut hub, "a/+", QoS::AtLeastOnce);
    desk.says(&mut hub, Packet::Publish(publish("a/b", QoS::AtLeastOnce, 1, b"x"))).unwrap();
    assert_eq!(desk.next(), "a/b x QoS 1 id 1");
    assert_eq!(desk.next(), "PUBACK 1 0x00");
    assert_eq!(desk.next(), "nothing");
}

/// [MQTT-3.3.4-9]
#[test]
fn no_more_is_under_way_than_a_client_takes() {
    let mut hub = DemoHub::default();
    let raw = PropertyEdit::only(&[(PropertyId::ReceiveMaximum, Value::Two(1))]).to_bytes().unwrap();
    let properties = Properties::check(&raw, Place::Packet(PacketType::Connect), Sender::Client).unwrap();
    let mut desk = Guest::new(&mut hub, &Connect { properties, ..connect(Version::V5, "desk") });
    let lamp = Guest::new(&mut hub, &connect(Version::V5, "lamp"));
    desk.subscribes(&mut hub, "#", QoS::ExactlyOnce);
    for (id, qos) in [(1, QoS::ExactlyOnce), (2, QoS::AtLeastOnce)] {
        lamp.says(&mut hub, Packet::Publish(publish("a", qos, id, b"x"))).unwrap();
    }
    assert_eq!((desk.next(), desk.next()), ("a x QoS 2 id 1".into(), "nothing".into()));
    desk.acknowledges(&mut hub, PacketType::Pubrec, 1);
    assert_eq!((desk.next(), desk.next()), ("PUBREL 1 0x00".into(), "nothing".into()));
    desk.acknowledges(&mut hub, PacketType::Pubcomp, 1);
    assert_eq!(desk.next(), "a x QoS 1 id 2");
}

#[test]
fn a_retained_message_comes_with_the_subscription_until_it_is_taken_away() {
    let mut hub = DemoHub::default();
    let lamp = Guest::new(&mut hub, &connect(Version::V311, "lamp"));
    let retained = |payload| Publish { retain: true, ..publish("a/b", QoS::AtMostOnce, 0, payload) };
    lamp.says(&mut hub, Packet::Publish(retained(b"on"))).unwrap();
    let mut desk = Guest::new(&mut hub, &connect(Version::V5, "desk"));
    assert_eq!(desk.subscribes(&mut hub, "a/+", QoS::AtLeastOnce), "SUBACK [01]");
    assert_eq!(desk.next(), "a/b on QoS 0 retained");
    let asked = FilterRequest::new(TopicFilter::new("a/+").unwrap(), QoS::AtMostOnce);
    let asked = FilterRequest { retain_handling: RetainHandling::SendIfNew, ..asked };
    desk.asks(&mut hub, asked, &PropertyEdit::NONE);
    assert_eq!((desk.next(), desk.next()), ("SUBACK [00]".into(), "nothing".into()));
    // To who is subscribed already it is a message like others.
    lamp.says(&mut hub, Packet::Publish(retained(b""))).unwrap();
    assert_eq!(desk.next(), "a/b  QoS 0");
    let mut late = Guest::new(&mut hub, &connect(Version::V31, "late"));
    assert_eq!(
        (late.subscribes(&mut hub, "#", QoS::AtMostOnce), late.next()),
        ("SUBACK [00]".into(), "nothing".into())
    );
    assert_eq!(hub.retained_bytes, 0);
}

#[test]
fn the_will_of_a_client_is_published_unless_it_says_that_it_leaves() {
    let will = Will {
        qos: QoS::AtMostOnce,
        retain: false,
        properties: Properties::EMPTY,
        topic: "gone",
        payload: b"lamp",
    };
    for (reason, published) in [(ReasonCode::SUCCESS, false), (ReasonCode::DISCONNECT_WITH_WILL, true)] {
        let mut hub = DemoHub::default();
        let mut desk = Guest::new(&mut hub, &connect(Version::V5, "desk"));
        desk.subscribes(&mut hub, "gone", QoS::AtMostOnce);
        let lamp = Guest::new(&mut hub, &Connect { will: Some(will), ..connect(Version::V5, "lamp") });
        let disconnect = Packet::Disconnect(Disconnect { reason, properties: Properties::EMPTY });
        let end = lamp.says(&mut hub, disconnect).unwrap_err();
        hub.detach(lamp.number, end);
        assert_eq!(desk.next(), if published { "gone lamp QoS 0" } else { "nothing" });
    }
}

/// [MQTT-3.1.4-3]
#[test]
fn a_second_connection_of_a_client_ends_the_first() {
    for version in VERSIONS {
        let mut hub = DemoHub::default();
        let mut first = Guest::new(&mut hub, &connect(version, "lamp"));
        first.subscribes(&mut hub, "a", QoS::AtMostOnce);
        let mut second = Guest::new(&mut hub, &connect(version, "lamp"));
        assert_eq!(first.next(), if version.is_v5() { "DISCONNECT 0x8e" } else { "end" });
        assert_eq!(first.says(&mut hub, Packet::Pingreq), Err(DemoEnd::Left));
        hub.detach(first.number, DemoEnd::Vanished);
        // Nothing is kept for it, and it is there.
        second.says(&mut hub, Packet::Publish(publish("a", QoS::AtLeastOnce, 1, b"x"))).unwrap();
        assert_eq!(second.next(), "PUBACK 1 0x00");
        assert_eq!(hub.sessions.len(), 1);
    }
}

#[test]
fn what_the_demo_does_not_have_is_refused() {
    let mut hub = DemoHub::default();
    let mut desk = Guest::new(&mut hub, &connect(Version::V5, "desk"));
    assert_eq!(desk.subscribes(&mut hub, "$share/g/a", QoS::AtMostOnce), "SUBACK [9e]");
    let identifier = [(PropertyId::SubscriptionIdentifier, Value::Var(1))];
    let asked = FilterRequest::new(TopicFilter::new("a").unwrap(), QoS::AtMostOnce);
    desk.asks(&mut hub, asked, &PropertyEdit::only(&identifier));
    assert_eq!(desk.next(), "SUBACK [a1]");
    let mut old = Guest::new(&mut hub, &connect(Version::V311, "old"));
    assert_eq!(old.subscribes(&mut hub, "$share/g/a", QoS::AtMostOnce), "SUBACK [80]");
    let raw = PropertyEdit::only(&[(PropertyId::AuthenticationMethod, Value::Text("x"))]).to_bytes().unwrap();
    let properties = Properties::check(&raw, Place::Packet(PacketType::Connect), Sender::Client).unwrap();
    let (mailbox, mut mail) = Mailbox::new();
    assert_eq!(hub.attach(&Connect { properties, ..connect(Version::V5, "x") }, mailbox), None);
    assert_eq!(words(&mail.try_recv().unwrap().bytes, Version::V5), "CONNACK 140");
}

#[test]
fn who_does_not_read_is_kept_within_bounds() {
    let mut hub = DemoHub::default();
    let desk = Guest::new(&mut hub, &connect(Version::V5, "desk"));
    let mut lamp = Guest::new(&mut hub, &connect(Version::V5, "lamp"));
    desk.asks(
        &mut hub,
        FilterRequest::new(TopicFilter::new("#").unwrap(), QoS::AtMostOnce),
        &PropertyEdit::NONE,
    );
    let large = vec![0; 8 << 20];
    for id in 1..=6 {
        lamp.says(&mut hub, Packet::Publish(publish("a", QoS::AtLeastOnce, id, &large))).unwrap();
        assert_eq!(lamp.next(), format!("PUBACK {id} 0x00"));
    }
    // SUBACK, and as much as there is room for.
    assert_eq!(desk.mail.len(), 1 + 3);
}

#[test]
fn filters_are_forgotten_when_the_client_says_so() {
    let mut hub = DemoHub::default();
    let mut desk = Guest::new(&mut hub, &connect(Version::V5, "desk"));
    desk.subscribes(&mut hub, "a", QoS::AtMostOnce);
    let mut bytes = BytesMut::new();
    let filters = ["a", "b"].map(|filter| TopicFilter::new(filter).unwrap());
    let id = PacketId::new(2).unwrap();
    mproxy_codec::encode_unsubscribe(Version::V5, id, &PropertyEdit::NONE, filters, &mut bytes).unwrap();
    let (frame, _) = Frame::split(&bytes, Sender::Client, Some(Version::V5)).unwrap().unwrap();
    hub.receive(desk.number, &Packet::parse(&frame, Sender::Client, Version::V5).unwrap()).unwrap();
    assert_eq!(desk.next(), "UNSUBACK [00, 11]");
    desk.says(&mut hub, Packet::Publish(publish("a", QoS::AtMostOnce, 0, b"x"))).unwrap();
    assert_eq!(desk.next(), "nothing");
}
