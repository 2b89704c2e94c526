//! Questions and events, field by field: what a hook service gets to see.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mproxy_codec::packet::connect::{Connect, Will};
use mproxy_codec::packet::subscribe::{FilterRequest, RetainHandling};
use mproxy_codec::property::Place;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{PacketType, QoS, Sender};
use mproxy_core::event::{Ended, Event, Happening, Published, Traffic};
use mproxy_core::fault::Fault;
use mproxy_core::peer::{Address, ConnectionId, Encoded, Origin, Side};
use mproxy_core::policy::{ConnectQuestion, Payload, PublishQuestion, RenewQuestion, SubscribeQuestion};

use super::*;

pub(crate) fn peer(version: Version) -> Arc<Peer> {
    let tls = TlsFacts {
        version: "TLSv1.3".to_owned(),
        chain: vec![vec![1, 2, 3]],
        common_name: Some("cn".to_owned()),
        ..TlsFacts::default()
    };
    let ws = WsFacts {
        path: "/mqtt?x".to_owned(),
        host: "host".to_owned(),
        headers: vec![("cookie".to_owned(), "c".to_owned())],
        token: None,
    };
    let origin = Origin {
        connection_id: ConnectionId(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
        epoch: 9,
        instance: "one".into(),
        listener: "wss".into(),
        transport: Transport::Wss,
        remote: "[2001:db8::1]:50000".parse::<SocketAddr>().unwrap().into(),
        local: "192.0.2.1:8883".parse::<SocketAddr>().unwrap().into(),
        tls: Some(Box::new(tls)),
        ws: Some(Box::new(ws)),
    };
    Arc::new(Peer {
        origin: origin.into(),
        version,
        client_id: "c1".into(),
        username: Some("ann".into()),
        keep_alive: 30,
        clean_start: true,
        attributes: vec![("tenant".to_owned(), "acme".to_owned())].into(),
        grant: None,
        said: None,
        broker_client_id: None,
        user_properties: [("a", "1"), ("a", "2")].into_iter().collect(),
        encoded: Encoded::default(),
    })
}

fn connect_request(question: ConnectQuestion<'_>) -> wire::AuthConnectRequest {
    AuthRequest::connect(&question, Way::Call).body().read()
}

fn publish_request(question: PublishQuestion<'_>) -> wire::AuthPublishRequest {
    AuthRequest::publish(&question, Way::Call).body().read()
}

fn told(event: &Event, time: SystemTime, sequence: u64) -> EventRequest {
    EventRequest::new(&EncodedEvent::new(event, time), sequence, &EventClient::Live(Arc::clone(&event.peer)))
}

/// The client as it stands in an event about it.
fn client_in_event(peer: &Arc<Peer>) -> wire::Client {
    let event =
        Event { peer: Arc::clone(peer), what: Happening::Connect { session_present: false }, purse: None };
    told(&event, SystemTime::now(), 1).read::<wire::ConnectEvent>().client.unwrap()
}

#[test]
fn a_large_client_is_encoded_once_for_all_that_is_on_its_way() {
    let mut large = (*peer(Version::V5)).clone();
    large.user_properties = (0..3000).map(|_| ("k", "v")).collect();
    let large = Arc::new(large);
    let event =
        Event { peer: Arc::clone(&large), what: Happening::Connect { session_present: false }, purse: None };
    let told = told(&event, SystemTime::now(), 1);
    let shared = large.encoded.or_encode(|| unreachable!("the event holds it"));
    assert!(Arc::strong_count(&shared) > 1 && shared.len() > 3000 * 6);
    let client = told.read::<wire::ConnectEvent>().client.unwrap();
    assert_eq!((client.user_properties.len(), &*client.client_id), (3000, "c1"));
}

#[test]
fn a_client_of_a_unix_socket_is_told_with_its_credentials() {
    let mut peer = (*peer(Version::V5)).clone();
    let origin = Arc::make_mut(&mut peer.origin);
    let root = Credentials { pid: None, uid: 0, gid: 0 };
    origin.transport = Transport::Unix;
    (origin.remote, origin.local) = (Address::Process(root), Address::Path(Path::new("/run/a.sock").into()));
    (origin.tls, origin.ws) = (None, None);
    let told = client_in_event(&Arc::new(peer));
    assert_eq!(told.transport(), wire::Transport::Unix);
    assert_eq!((&*told.remote_address, &*told.local_address), ("unix:uid=0,gid=0", "unix:/run/a.sock"));
    // Root is not the same as unknown.
    assert_eq!(told.unix_peer, Some(wire::UnixPeer { pid: None, uid: Some(0), gid: Some(0) }));
    assert_eq!(client_in_event(&self::peer(Version::V5)).unix_peer, None);
}

#[test]
fn a_client_is_told_whole() {
    let told = client_in_event(&peer(Version::V5));
    assert_eq!(told.connection_id, "01234567-89ab-cdef-0011-223344556677");
    assert_eq!((told.epoch, told.instance.as_str(), told.listener.as_str()), (9, "one", "wss"));
    assert_eq!(told.transport(), wire::Transport::Wss);
    assert_eq!(told.protocol_version(), wire::ProtocolVersion::Mqtt50);
    assert_eq!((told.client_id.as_str(), told.username()), ("c1", "ann"));
    assert_eq!((&*told.remote_address, &*told.local_address), ("[2001:db8::1]:50000", "192.0.2.1:8883"));
    assert_eq!(told.attributes["tenant"], "acme");
    assert_eq!(told.user_properties.iter().map(|pair| &*pair.value).collect::<Vec<_>>(), ["1", "2"]);
    let tls = told.tls.unwrap();
    assert_eq!((tls.common_name(), &tls.subject), ("cn", &None));
    assert_eq!(tls.certificate_chain, [Bytes::from_static(&[1, 2, 3])]);
    let ws = told.web_socket.unwrap();
    assert_eq!((&*ws.path, &*ws.host, &*ws.headers[0].name), ("/mqtt?x", "host", "cookie"));
}

#[test]
fn a_connect_is_told_with_its_will_and_properties() {
    let own = [&[0x11, 0, 0, 0, 60][..], &[0x21, 0, 20], &[0x15, 0, 5], b"SCRAM", &[0x17, 0]].concat();
    let wills = [&[0x18, 0, 0, 0, 5][..], &[0x01, 1], &[0x26, 0, 1, b'k', 0, 1, b'v']].concat();
    let will = Will {
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: Properties::check(&wills, Place::Will, Sender::Client).unwrap(),
        topic: "gone",
        payload: b"bye",
    };
    let connect = Connect {
        version: Version::V5,
        bridge: true,
        clean_start: true,
        keep_alive: 30,
        properties: Properties::check(&own, Place::Packet(PacketType::Connect), Sender::Client).unwrap(),
        client_id: "c1",
        will: Some(will),
        username: Some("ann"),
        password: Some(b"sesame"),
    };
    let peer = peer(Version::V5);
    let packet = &Bytes::new();
    let question = ConnectQuestion { peer: &peer, connect: &connect, packet, passes_auth: false, time: None };
    let told = connect_request(question);
    assert_eq!((told.password(), told.clean_start, told.keep_alive), (&b"sesame"[..], true, 30));
    assert_eq!((told.session_expiry, told.receive_maximum), (Some(60), Some(20)));
    assert_eq!((told.authentication_method(), told.request_problem_information), ("SCRAM", Some(false)));
    assert_eq!((told.maximum_packet_size, told.topic_alias_maximum), (None, None));
    assert!(told.bridge && !told.refresh);
    let will = told.will.as_ref().unwrap();
    assert_eq!((&*will.topic, &*will.payload, will.qos, will.retain), ("gone", &b"bye"[..], 1, true));
    assert_eq!(will.delay_interval, Some(5));
    let properties = will.properties.as_ref().unwrap();
    assert_eq!(properties.payload_format, Some(1));
    assert_eq!(properties.user_properties[0].name, "k");

    let shown = format!("{told:?}");
    assert!(!shown.contains("sesame") && !shown.contains("password"), "{shown}");
    let told: wire::AuthConnectRequest =
        AuthRequest::renewal(&RenewQuestion { peer: &peer }, Way::Stream, false).body().read();
    assert_eq!((told.refresh, told.password, told.will), (true, None, None));
    assert_eq!((told.clean_start, told.keep_alive), (peer.clean_start, peer.keep_alive.into()));
}

#[test]
fn a_publish_is_told_with_its_payload_or_its_size() {
    let raw = [&[0x02, 0, 0, 0, 9][..], &[0x03, 0, 1, b't'], &[0x08, 0, 1, b'r'], &[0x09, 0, 1, 7]].concat();
    let peer = peer(Version::V5);
    let question = PublishQuestion {
        peer: &peer,
        topic: "a/b",
        qos: QoS::ExactlyOnce,
        retain: true,
        dup: true,
        payload: Payload::Whole(b"21"),
        properties: Properties::check(&raw, Place::Packet(PacketType::Publish), Sender::Client).unwrap(),
        time: None,
    };
    let told = publish_request(question);
    assert_eq!((&*told.topic, told.qos, told.retain, told.dup), ("a/b", 2, true, true));
    assert_eq!((told.payload(), told.payload_size), (&b"21"[..], 2));
    let properties = told.properties.unwrap();
    assert_eq!((properties.message_expiry, properties.content_type()), (Some(9), "t"));
    assert_eq!((properties.response_topic(), properties.correlation_data()), ("r", &[7][..]));

    let told = publish_request(PublishQuestion { payload: Payload::Size(1 << 20), ..question });
    assert_eq!((told.payload, told.payload_size), (None, 1 << 20));
    let old = self::peer(Version::V311);
    assert_eq!(publish_request(PublishQuestion { peer: &old, ..question }).properties, None);
}

#[test]
fn a_subscribe_is_told_with_groups_apart() {
    let line = |filter| FilterRequest {
        filter: TopicFilter::new(filter).unwrap(),
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let raw = [0x0B, 5];
    let properties = Properties::check(&raw, Place::Packet(PacketType::Subscribe), Sender::Client).unwrap();
    let (peer, filters) = (peer(Version::V5), [line("a/+"), line("$share/g/a/#")]);
    let question = SubscribeQuestion::new(&peer, &filters, properties);
    let told: wire::AuthSubscribeRequest = AuthRequest::subscribe(&question, Way::Call).body().read();
    assert_eq!(told.subscription_identifier, Some(5));
    let first = &told.filters[0];
    assert_eq!((&*first.filter, &first.share_group, first.qos), ("a/+", &None, 1));
    assert!(first.no_local && first.retain_as_published && first.retain_handling == 2);
    assert_eq!((&*told.filters[1].filter, told.filters[1].share_group()), ("a/#", "g"));
}

fn event_request(what: Happening) -> EventRequest {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
    told(&Event { peer: peer(Version::V311), what, purse: None }, time, 42)
}

#[test]
fn events_carry_who_when_and_which() {
    let event: wire::ConnectEvent = event_request(Happening::Connect { session_present: true }).read();
    assert_eq!(event.client.unwrap().client_id, "c1");
    let time = event.time.unwrap();
    assert_eq!((time.seconds, time.nanos, event.sequence), (1, 500_000_000, 42));
    assert!(event.session_present && event.clean_start && event.keep_alive == 30);

    let published = Published {
        topic: "t".into(),
        qos: QoS::AtLeastOnce,
        retain: true,
        size: 3,
        payload: Some(Bytes::from_static(b"abc")),
    };
    let event: wire::PublishEvent = event_request(Happening::Publish(Box::new(published))).read();
    assert_eq!((&*event.topic, event.qos, event.retain, event.payload_size), ("t", 1, true, 3));
    assert_eq!(event.payload(), b"abc");

    let filters = vec![("a".into(), 1), ("$share/g/b".into(), 0x80)].into();
    let event: wire::SubscribeEvent = event_request(Happening::Subscribe { filters }).read();
    assert_eq!((&*event.filters[0].filter, event.filters[0].reason_code), ("a", 1));
    assert_eq!((event.filters[1].share_group(), event.filters[1].reason_code), ("g", 0x80));

    let filters = vec!["$share/g/b".into()].into();
    let event: wire::UnsubscribeEvent = event_request(Happening::Unsubscribe { filters }).read();
    assert_eq!((&*event.filters[0].filter, event.filters[0].share_group()), ("b", "g"));
}

#[test]
fn a_disconnect_says_why_and_whose_doing_it_was() {
    let traffic = Traffic { client_packets: 1, client_bytes: 2, broker_packets: 3, broker_bytes: 4 };
    let ended = |fault| Happening::Disconnect(Box::new(Ended { fault, will_suppressed: true, traffic }));
    let kicked = Fault::Kicked { reason: ReasonCode::ADMINISTRATIVE_ACTION, dismissal: None };
    let event: wire::DisconnectEvent = event_request(ended(kicked)).read();
    assert_eq!((event.cause(), event.by()), (wire::Cause::Kicked, wire::Party::Policy));
    assert_eq!((event.reason_code, event.will_suppressed), (0x98, true));
    assert!(event.detail.contains("administrator"), "{}", event.detail);
    assert_eq!(event.traffic.unwrap().broker_bytes, 4);

    let how = mproxy_core::fault::Closed::Eof;
    let event: wire::DisconnectEvent = event_request(ended(Fault::Lost { side: Side::Client, how })).read();
    assert_eq!((event.cause(), event.by()), (wire::Cause::Lost, wire::Party::Client));
}
