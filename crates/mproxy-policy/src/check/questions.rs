//! The questions and events, in the order in which they are put. They are the same each time.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use mproxy_codec::packet::connect::{Connect, Will};
use mproxy_codec::packet::subscribe::{FilterRequest, RetainHandling};
use mproxy_codec::property::{Place, Properties};
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{PacketType, QoS, Sender, Version};
use mproxy_core::event::{Ended, Event, Happening, Published, Traffic};
use mproxy_core::fault::{Closed, Fault};
use mproxy_core::peer::{Origin, Peer, Side, Transport};
use mproxy_core::policy::{
    ConnectQuestion, ExchangeQuestion, Payload, PublishQuestion, RenewQuestion, SubscribeQuestion,
};

use super::clients;
use crate::contract::{
    AuthConnect, AuthDeliver, AuthExchange, AuthPublish, AuthRequest, AuthSubscribe, EncodedEvent,
    EventClient, EventRequest, Rpc, WantedCall, Wants, Way,
};
use crate::remote::trim_payload;

/// The longest string of MQTT.
const LONGEST: usize = 65_535;

/// Of a CONNECT with everything in it: session expiry, receive maximum, maximum packet size, topic alias maximum, request
/// response and problem information, two user properties of one name.
const CONNECT_PROPERTIES: &[u8] = b"\x11\0\0\x0e\x10\x21\0\x14\x27\0\x01\0\0\x22\0\x0a\x19\x01\x17\0\
    \x26\0\x01k\0\x01a\x26\0\x01k\0\x01b";

/// Authentication method and data.
const ENHANCED: &[u8] = b"\x15\0\x0dSCRAM-SHA-256\x16\0\x01n";

/// Will delay, payload format, expiry, content type, response topic, correlation data, user property.
const WILL_PROPERTIES: &[u8] =
    b"\x18\0\0\0\x05\x01\x01\x02\0\0\0\x3c\x03\0\x0atext/plain\x08\0\x01r\x09\0\x02\0\xff\x26\0\x01k\0\x01v";

/// The same of a PUBLISH, which has no delay.
const PUBLISH_PROPERTIES: &[u8] =
    b"\x01\x01\x02\0\0\0\x3c\x03\0\x0atext/plain\x08\0\x01r\x09\0\x02\0\xff\x26\0\x01k\0\x01a\x26\0\x01k\0\x01b";

/// Of a delivery that two subscriptions match.
const DELIVER_PROPERTIES: &[u8] = b"\x0b\x01\x0b\x02";

/// Subscription identifier and a user property.
const SUBSCRIBE_PROPERTIES: &[u8] = b"\x0b\x05\x26\0\x01k\0\x01v";

/// Bytes that are no text, each value once.
const BINARY: [u8; 256] = {
    let mut all = [0; 256];
    let mut at = 0;
    while at < all.len() {
        all[at] = at as u8;
        at += 1;
    }
    all
};

/// Names that services stumble over, and what is odd about them.
const ODD_NAMES: &[(&str, &str, CheckRole)] = &[
    ("unicode", "z\u{fc}rich/\u{6e29}\u{5ea6}\u{1f321}\u{200f}e\u{301}", CheckRole::Wide),
    ("\"/\"", "mproxy/check", CheckRole::Wide),
    ("\"+\"", "mproxy+check", CheckRole::Wide),
    ("only \"+\"", "+", CheckRole::Wide),
    ("only \"#\"", "#", CheckRole::Wide),
    ("\"$\"", "$SYS", CheckRole::Plain),
    ("\"${clientid}\"", "${clientid}", CheckRole::Plain),
    ("spaces", "  mproxy check ", CheckRole::Plain),
    ("quotes", "a'b\"c\\d`e;--", CheckRole::Plain),
    ("a dot path", "..", CheckRole::Plain),
];

/// What a question is good for beyond itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckRole {
    Plain,
    /// The client of most questions connects.
    Main,
    /// A client without user name and password.
    Anonymous,
    /// A client whose name has characters that mean something in topics.
    Wide,
    /// A client that authenticates by a method that there is not.
    UnknownMethod,
}

/// Whether it is about the client that most questions are about.
pub(super) fn is_main(role: CheckRole) -> bool {
    role == CheckRole::Main
}

#[derive(Clone)]
pub(super) struct CheckQuestion {
    pub(super) rpc: Rpc,
    /// What is asked, for people.
    pub(super) label: String,
    pub(super) role: CheckRole,
    pub(super) ask: Asking,
}

/// A question as the proxy puts it.
#[derive(Clone)]
pub(super) enum Asking {
    Connect(AuthRequest<AuthConnect>),
    Publish(AuthRequest<AuthPublish>),
    Subscribe(AuthRequest<AuthSubscribe>, Vec<String>),
    Deliver(AuthRequest<AuthDeliver>),
    Exchange(AuthRequest<AuthExchange>),
    Event(EventRequest),
    /// The proxy would not ask.
    Nothing(String),
}

// ------------------------------------------------------------------------------------------------ AuthConnect

// Questions are made for a stream, over which a service that has streams is asked the same; they can go by a call, too.

/// All kinds of clients, and a grant that is to be renewed.
pub(super) fn connects() -> Vec<CheckQuestion> {
    // 1 is the client that most questions are about.
    let mut numbers = Numbers(1);
    let mut all = vec![main_connect()];
    all.extend(over_transports(&mut numbers));
    all.extend(credentials(&mut numbers));
    all.extend(wills_and_properties(&mut numbers));
    all.extend(odd_names(&mut numbers));
    let request = AuthRequest::renewal(&RenewQuestion { peer: &clients::plain() }, Way::Stream, false);
    all.push(CheckQuestion {
        rpc: Rpc::AuthConnect,
        label: "refresh of a grant".to_owned(),
        role: CheckRole::Plain,
        ask: Asking::Connect(request),
    });
    all
}

/// Each connection has a number of its own.
struct Numbers(u16);

impl Numbers {
    fn over(&mut self, transport: Transport) -> Origin {
        self.0 += 1;
        clients::origin(self.0, transport)
    }

    fn tcp(&mut self, version: Version, client_id: &str, username: Option<&str>) -> Peer {
        clients::client(self.over(Transport::Tcp), version, client_id, username)
    }
}

const USER: Option<&str> = Some("mproxy-check");

fn over_transports(numbers: &mut Numbers) -> Vec<CheckQuestion> {
    use Transport::{Tcp, Tls, Unix, Ws, Wss};
    let mut all = Vec::new();
    for transport in [Tcp, Tls, Ws, Wss, Unix] {
        for version in Version::ALL {
            let client_id = format!("mproxy-check-{}-{}", transport.name(), version.level());
            let peer = clients::client(numbers.over(transport), version, &client_id, USER);
            let label = format!("{}, MQTT {version}", transport.name());
            all.push(connect(&label, CheckRole::Plain, peer, PASSWORD));
        }
    }
    let mut origin = numbers.over(Tls);
    origin.tls = Some(Box::new(clients::without_certificate()));
    let peer = clients::client(origin, Version::V5, "mproxy-check-no-cert", USER);
    all.push(connect("tls without a client certificate", CheckRole::Plain, peer, PASSWORD));
    all
}

fn credentials(numbers: &mut Numbers) -> Vec<CheckQuestion> {
    let (v311, v5) = (Version::V311, Version::V5);
    let anonymous = numbers.tcp(v5, "mproxy-check-anonymous", None);
    let user = numbers.tcp(v311, "mproxy-check-user", USER);
    let password = numbers.tcp(v5, "mproxy-check-password", None);
    let scram = numbers.tcp(v5, "mproxy-check-scram", None);
    vec![
        connect("no user name, no password", CheckRole::Anonymous, anonymous, |_| {}),
        connect("user name without password", CheckRole::Plain, user, |_| {}),
        connect("password without user name", CheckRole::Plain, password, PASSWORD),
        connect("enhanced authentication", CheckRole::Plain, scram, |connect| {
            connect.properties = checked(ENHANCED, CONNECT, Sender::Client);
        }),
    ]
}

fn wills_and_properties(numbers: &mut Numbers) -> Vec<CheckQuestion> {
    let (v311, v5) = (Version::V311, Version::V5);
    let plain = numbers.tcp(v311, "mproxy-check-will", USER);
    let whole = numbers.tcp(v5, "mproxy-check-will-5", USER);
    let mut properties = numbers.tcp(v5, "mproxy-check-properties", USER);
    properties.user_properties = [("k", "a"), ("k", "b")].into_iter().collect();
    let bridge = numbers.tcp(v311, "mproxy-check-bridge", USER);
    vec![
        connect("will, MQTT 3.1.1", CheckRole::Plain, plain, |connect| {
            PASSWORD(connect);
            connect.will = Some(will(Properties::EMPTY, b"gone", QoS::AtMostOnce, false));
        }),
        connect("will with all properties, retained, QoS 2", CheckRole::Plain, whole, |connect| {
            PASSWORD(connect);
            let properties = checked(WILL_PROPERTIES, Place::Will, Sender::Client);
            connect.will = Some(will(properties, &BINARY, QoS::ExactlyOnce, true));
        }),
        connect("all properties", CheckRole::Plain, properties, |connect| {
            PASSWORD(connect);
            connect.properties = checked(CONNECT_PROPERTIES, CONNECT, Sender::Client);
        }),
        connect("a bridge, session kept", CheckRole::Plain, bridge, |connect| {
            PASSWORD(connect);
            (connect.bridge, connect.clean_start, connect.keep_alive) = (true, false, 0);
        }),
    ]
}

fn odd_names(numbers: &mut Numbers) -> Vec<CheckQuestion> {
    let mut all = Vec::new();
    for version in [Version::V311, Version::V5] {
        let peer = numbers.tcp(version, "", USER);
        all.push(connect(&format!("empty client id, MQTT {version}"), CheckRole::Plain, peer, PASSWORD));
    }
    for (odd, name, role) in ODD_NAMES {
        let peer = numbers.tcp(Version::V5, name, Some(*name));
        all.push(connect(&format!("client id and user name: {odd}"), *role, peer, PASSWORD));
    }
    let long = "n".repeat(LONGEST);
    let peer = numbers.tcp(Version::V5, &long, Some(&long));
    let label = "client id, user name and password of 64 KiB";
    all.push(connect(label, CheckRole::Plain, peer, |connect| connect.password = Some(LONG_PASSWORD)));
    all
}

const CONNECT: Place = Place::Packet(PacketType::Connect);

/// As long as a password may be.
static LONG_PASSWORD: &[u8] = &[b'p'; LONGEST];

const PASSWORD: fn(&mut Connect<'_>) = |connect| connect.password = Some(b"mproxy-check");

fn main_connect() -> CheckQuestion {
    let peer = (*clients::plain()).clone();
    connect("user name and password", CheckRole::Main, peer, PASSWORD)
}

fn connect(label: &str, role: CheckRole, peer: Peer, change: impl FnOnce(&mut Connect<'_>)) -> CheckQuestion {
    let peer = Arc::new(peer);
    let mut connect = clients::connect_of(&peer);
    change(&mut connect);
    // The packet's bytes are for those who come back to it later.
    let packet = &Bytes::new();
    let request = AuthRequest::connect(
        &ConnectQuestion { peer: &peer, connect: &connect, packet, passes_auth: false, time: None },
        Way::Stream,
    );
    CheckQuestion { rpc: Rpc::AuthConnect, label: label.to_owned(), role, ask: Asking::Connect(request) }
}

const fn will<'a>(properties: Properties<'a>, payload: &'a [u8], qos: QoS, retain: bool) -> Will<'a> {
    Will { qos, retain, properties, topic: "mproxy-check/will", payload }
}

/// Properties that stand above; a test holds that they are sound.
fn checked(raw: &[u8], place: Place, from: Sender) -> Properties<'_> {
    Properties::check(raw, place, from).unwrap_or(Properties::EMPTY)
}

// -------------------------------------------------------------------------------------- what comes after CONNECT

/// What this client does, and what an anonymous one does.
pub(super) fn after_connect(client: &Arc<Peer>, wants: &Wants) -> Vec<CheckQuestion> {
    let mut all = Vec::new();
    if let Some(wanted) = wants.of(Rpc::AuthPublish) {
        let make =
            |question: &PublishQuestion<'_>| Asking::Publish(AuthRequest::publish(question, Way::Stream));
        all.extend(messages(Rpc::AuthPublish, client, wanted, PUBLISH_PROPERTIES, make));
    }
    all.extend(subscribes(client));
    if let Some(wanted) = wants.of(Rpc::AuthDeliver) {
        let make =
            |question: &PublishQuestion<'_>| Asking::Deliver(AuthRequest::deliver(question, Way::Stream));
        let both = [PUBLISH_PROPERTIES, DELIVER_PROPERTIES].concat();
        all.extend(messages(Rpc::AuthDeliver, client, wanted, &both, make));
    }
    if wants.of(Rpc::AuthExchange).is_some() {
        all.extend(exchanges(client));
    }
    all.extend(events(client));
    all
}

/// The plainest question of the kind that is asked most often, to be asked again and again.
pub(super) fn measured(client: &Arc<Peer>, wants: &Wants) -> Option<CheckQuestion> {
    let most_often = [Rpc::AuthPublish, Rpc::AuthSubscribe, Rpc::AuthConnect, Rpc::AuthDeliver];
    let rpc = most_often.into_iter().find(|rpc| wants.of(*rpc).is_some())?;
    let (label, role) = ("the same question".to_owned(), CheckRole::Plain);
    Some(CheckQuestion { rpc, label, role, ask: plain(rpc, client, wants) })
}

fn plain(rpc: Rpc, client: &Arc<Peer>, wants: &Wants) -> Asking {
    let topic = wants.of(rpc).map_or_else(|| TOPIC.to_owned(), |wanted| wanted.topic_within(TOPIC));
    let question = PublishQuestion { topic: &topic, ..message(client) };
    match rpc {
        Rpc::AuthConnect => main_connect().ask,
        Rpc::AuthSubscribe => subscribe(client, &[&topic], &[], |_| {}),
        Rpc::AuthDeliver => Asking::Deliver(AuthRequest::deliver(&question, Way::Stream)),
        _ => Asking::Publish(AuthRequest::publish(&question, Way::Stream)),
    }
}

const TOPIC: &str = "mproxy-check";

const fn message(peer: &Arc<Peer>) -> PublishQuestion<'_> {
    PublishQuestion {
        peer,
        topic: TOPIC,
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        payload: Payload::Whole(b"21.5"),
        properties: Properties::EMPTY,
        time: None,
    }
}

fn messages(
    rpc: Rpc,
    client: &Arc<Peer>,
    wanted: &WantedCall,
    properties: &[u8],
    make: impl Fn(&PublishQuestion<'_>) -> Asking,
) -> Vec<CheckQuestion> {
    let from = if rpc == Rpc::AuthDeliver { Sender::Server } else { Sender::Client };
    let all_properties = checked(properties, Place::Packet(PacketType::Publish), from);
    let within = wanted.topic_within(TOPIC);
    // Under a topic that the service wants to be asked about, or the proxy would not ask at all.
    let long = format!("{within}/").repeat(LONGEST / (within.len() + 1));
    let long = format!("{long}{}", "t".repeat(LONGEST.saturating_sub(long.len())));
    let mut old = (**client).clone();
    old.version = Version::V31;
    let old = Arc::new(old);
    let mut nobody = (**client).clone();
    nobody.username = None;
    let nobody = Arc::new(nobody);
    let plain = PublishQuestion { topic: &within, ..message(client) };
    let odd = format!("{within}/ a'b\"c\\/\u{6e29}\u{5ea6}\u{1f321}//");
    let list: &[(&str, PublishQuestion<'_>)] = &[
        ("QoS 0", PublishQuestion { qos: QoS::AtMostOnce, ..plain }),
        ("QoS 1", plain),
        ("QoS 2", PublishQuestion { qos: QoS::ExactlyOnce, ..plain }),
        ("retained", PublishQuestion { retain: true, ..plain }),
        ("duplicate", PublishQuestion { dup: true, ..plain }),
        ("empty payload, retained", PublishQuestion { payload: Payload::Whole(b""), retain: true, ..plain }),
        ("binary payload", PublishQuestion { payload: Payload::Whole(&BINARY), ..plain }),
        ("payload by its size only", PublishQuestion { payload: Payload::Size(256 << 20), ..plain }),
        ("all properties", PublishQuestion { properties: all_properties, ..plain }),
        ("MQTT 3.1", PublishQuestion { peer: &old, ..plain }),
        ("client without a user name", PublishQuestion { peer: &nobody, ..plain }),
        ("topic $SYS/broker/uptime", PublishQuestion { topic: "$SYS/broker/uptime", ..plain }),
        ("topic \"/\"", PublishQuestion { topic: "/", ..plain }),
        ("topic with quotes, unicode, empty levels", PublishQuestion { topic: &odd, ..plain }),
        ("topic of 64 KiB", PublishQuestion { topic: &long, ..plain }),
    ];
    let question = |(label, question): &(&str, PublishQuestion<'_>)| CheckQuestion {
        rpc,
        label: (*label).to_owned(),
        role: CheckRole::Plain,
        // As in the proxy.
        ask: if wanted.covers(question.topic) {
            make(&trim_payload(question, wanted))
        } else {
            Asking::Nothing("outside of the topic_filters of Hello: no objection".to_owned())
        },
    };
    list.iter().map(question).collect()
}

fn subscribes(client: &Arc<Peer>) -> Vec<CheckQuestion> {
    let mut nobody = (**client).clone();
    nobody.username = None;
    nobody.client_id = "mproxy-check-anonymous".into();
    let nobody = Arc::new(nobody);
    let mut old = (**client).clone();
    old.version = Version::V31;
    let old = Arc::new(old);
    let many: Vec<String> = (0..100).map(|n| format!("mproxy-check/{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "f".repeat(LONGEST);
    let question = |label: &str, role, ask| CheckQuestion {
        rpc: Rpc::AuthSubscribe,
        label: label.to_owned(),
        role,
        ask,
    };
    let plain = |label: &str, filters: &[&str]| {
        question(label, CheckRole::Plain, subscribe(client, filters, &[], |_| {}))
    };
    vec![
        plain("one filter", &["mproxy-check/a"]),
        question("MQTT 3.1", CheckRole::Plain, subscribe(&old, &["mproxy-check/a"], &[], |_| {})),
        plain("three filters", &["mproxy-check/a", "mproxy-check/b", "mproxy-check/c"]),
        plain("100 filters", &many),
        plain("the same filter twice", &["mproxy-check/a", "mproxy-check/a"]),
        plain("shared and not shared", &["$share/group/mproxy-check/a", "mproxy-check/a"]),
        plain("wildcards", &["mproxy-check/+/a", "mproxy-check/#", "+/+"]),
        plain("everything", &["#"]),
        plain("everything, shared", &["$share/group/#"]),
        plain("$SYS/#", &["$SYS/#"]),
        plain("empty levels", &["//"]),
        plain("filter of 64 KiB", &[&long]),
        question(
            "subscription identifier and user properties",
            CheckRole::Plain,
            subscribe(client, &["mproxy-check/a"], SUBSCRIBE_PROPERTIES, |_| {}),
        ),
        question(
            "all options",
            CheckRole::Plain,
            subscribe(client, &["mproxy-check/a"], &[], |request| {
                request.no_local = true;
                request.retain_as_published = true;
                request.retain_handling = RetainHandling::DoNotSend;
            }),
        ),
        question(
            "everything, without a user name",
            CheckRole::Anonymous,
            subscribe(&nobody, &["#"], &[], |_| {}),
        ),
    ]
}

fn subscribe(
    client: &Arc<Peer>,
    filters: &[&str],
    properties: &[u8],
    change: impl Fn(&mut FilterRequest<'_>),
) -> Asking {
    let requests: Vec<_> = filters
        .iter()
        .filter_map(|filter| TopicFilter::new(filter).ok())
        .map(|filter| {
            let mut request = FilterRequest::new(filter, QoS::ExactlyOnce);
            change(&mut request);
            request
        })
        .collect();
    let properties = checked(properties, Place::Packet(PacketType::Subscribe), Sender::Client);
    let question = SubscribeQuestion::new(client, &requests, properties);
    let names = requests.iter().map(|request| request.filter.as_str().to_owned()).collect();
    Asking::Subscribe(AuthRequest::subscribe(&question, Way::Stream), names)
}

/// There is no such method of authentication.
const NO_METHOD: &str = "mproxy-check/\u{6e29}";

/// Steps of authentications, each by itself: what an honest client would send next only the service knows.
fn exchanges(client: &Arc<Peer>) -> Vec<CheckQuestion> {
    let question = |label: &str, method, data, step, again| {
        let question = ExchangeQuestion { peer: client, method, data, step, again, time: None };
        let request = AuthRequest::exchange(&question, Way::Stream);
        let role = if method == NO_METHOD { CheckRole::UnknownMethod } else { CheckRole::Plain };
        let label = label.to_owned();
        CheckQuestion { rpc: Rpc::AuthExchange, label, role, ask: Asking::Exchange(request) }
    };
    let (scram, first) = ("SCRAM-SHA-256", Some(&b"n,,n=mproxy-check,r=fyko+d2lbbFgONRv9qkxdawL"[..]));
    vec![
        question("SCRAM-SHA-256, step 1", scram, first, 1, false),
        question("a step 2 without a step 1", scram, Some(b"c=biws"), 2, false),
        question("re-authentication, step 1", scram, first, 1, true),
        question("no data", scram, None, 1, false),
        question("binary data", scram, Some(&BINARY), 1, false),
        question("a method that nobody knows", NO_METHOD, Some(b""), 1, false),
    ]
}

fn events(client: &Arc<Peer>) -> Vec<CheckQuestion> {
    let whose = EventClient::Live(Arc::clone(client));
    let question = |((label, event), sequence): ((&str, EncodedEvent), u64)| {
        let event = EventRequest::new(&event, sequence, &whose);
        let (label, role) = (label.to_owned(), CheckRole::Plain);
        CheckQuestion { rpc: event.rpc(), label, role, ask: Asking::Event(event) }
    };
    life(client).into_iter().zip(1..).map(question).collect()
}

/// The life of one client, event by event.
pub(super) fn life(client: &Arc<Peer>) -> Vec<(&'static str, EncodedEvent)> {
    let published = |payload: Option<&'static [u8]>, size| {
        let payload = payload.map(Bytes::from_static);
        let topic = TOPIC.into();
        Happening::Publish(Box::new(Published { topic, qos: QoS::AtLeastOnce, retain: false, size, payload }))
    };
    let traffic = Traffic { client_packets: 7, client_bytes: 512, broker_packets: 5, broker_bytes: 300 };
    let ended =
        |fault, will_suppressed| Happening::Disconnect(Box::new(Ended { fault, will_suppressed, traffic }));
    let lost = Fault::Lost { side: Side::Client, how: Closed::Eof };
    let list = [
        ("connected", Happening::Connect { session_present: false }),
        ("published", published(Some(b"21.5"), 4)),
        ("published, payload by its size only", published(None, 1 << 20)),
        (
            "one filter granted, one refused",
            Happening::Subscribe { filters: [(TOPIC.into(), 1), ("$share/group/#".into(), 0x87)].into() },
        ),
        ("unsubscribed", Happening::Unsubscribe { filters: [TOPIC.into()].into() }),
        ("left", ended(Fault::Left { reason: ReasonCode::SUCCESS }, true)),
        ("connection lost", ended(lost, false)),
    ];
    let encoded =
        |what| EncodedEvent::new(&Event { peer: Arc::clone(client), what, purse: None }, SystemTime::now());
    list.into_iter().map(|(label, what)| (label, encoded(what))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_sound() {
        let publish = Place::Packet(PacketType::Publish);
        let subscribe = Place::Packet(PacketType::Subscribe);
        for (raw, place, from) in [
            (CONNECT_PROPERTIES, CONNECT, Sender::Client),
            (ENHANCED, CONNECT, Sender::Client),
            (WILL_PROPERTIES, Place::Will, Sender::Client),
            (PUBLISH_PROPERTIES, publish, Sender::Client),
            (DELIVER_PROPERTIES, publish, Sender::Server),
            (SUBSCRIBE_PROPERTIES, subscribe, Sender::Client),
        ] {
            assert!(Properties::check(raw, place, from).is_ok(), "{raw:?}");
        }
    }

    #[test]
    fn every_question_can_be_sent_and_has_a_name_of_its_own() {
        let wants = Wants::everything();
        let mut names = std::collections::HashSet::new();
        let mut rpcs = std::collections::HashSet::new();
        for CheckQuestion { rpc, label, ask, .. } in
            connects().into_iter().chain(after_connect(&clients::plain(), &wants))
        {
            rpcs.insert(rpc);
            assert!(names.insert((rpc, label.clone())), "{label}");
            match ask {
                Asking::Connect(request) => assert_eq!(request.fits(), Ok(()), "{label}"),
                Asking::Publish(request) => assert_eq!(request.fits(), Ok(()), "{label}"),
                Asking::Deliver(request) => assert_eq!(request.fits(), Ok(()), "{label}"),
                Asking::Subscribe(request, filters) => {
                    assert_eq!(request.fits(), Ok(()), "{label}");
                    assert!(!filters.is_empty(), "{label}");
                }
                Asking::Exchange(request) => assert_eq!(request.fits(), Ok(()), "{label}"),
                Asking::Event(_) => {}
                Asking::Nothing(why) => panic!("{label}: {why}"),
            }
        }
        assert_eq!(rpcs.len(), Rpc::ALL.len() - 2, "all but AuthDeliver and AuthExchange are wanted");
    }
}
