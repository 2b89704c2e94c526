//! A hook service whose answers make no sense. What it leaves out is a failed answer, and the rule for those decides; what
//! cannot be carried out is refused whatever that rule says, a *Deny* stays one, and nothing else comes of any of it.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use mproxy_testkit::mosquitto::{Mosquitto, MosquittoOptions};
use mproxy_testkit::service::contract::{
    AuthConnectResponse, AuthDeliverResponse, AuthPublishResponse, AuthSubscribeResponse, ConnectAllow,
    DeliverAllow, Deny, FilterAllow, FilterVerdict, Grant, GrantRule, PublishAllow, TopicMapping,
    UserProperty, WillChange, WillReplace, will_change,
};
use mproxy_testkit::service::{Play, Running, Service, wants_everything};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use support::{Proxy, feed, receives};

/// More than tonic takes of one answer.
const HUGE: usize = 5 << 20;

/// Bytes of a packet that the broker takes, and tells 5.0 clients about.
const LIMIT: usize = 2000;

/// A bad answer, by what is bad in it, and the versions in which it is.
type Bad<T> = (&'static str, T, &'static [Version]);

/// What comes of a bad answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    /// It has failed: the failure rule decides.
    Failed,
    /// It is a no all the same.
    Denied,
    /// It cannot be carried out.
    Unusable,
    /// Something is too large.
    TooLarge,
}

impl Comes {
    /// By what is bad.
    fn of(what: &str) -> Self {
        match what {
            "unspecified" => Self::Failed,
            _ if what.starts_with("a no ") => Self::Denied,
            _ if ["too large", "larger", "over 65535"].iter().any(|one| what.contains(one)) => Self::TooLarge,
            _ => Self::Unusable,
        }
    }

    /// In CONNACK, in a 3.x CONNACK, in an acknowledgement.
    const fn codes(self) -> [u8; 3] {
        match self {
            // PUBACK, PUBREC and SUBACK have neither 0x88 nor 0x95.
            Self::Failed => [0x88, 3, 0x83],
            Self::Denied => [0x87, 5, 0x87],
            Self::Unusable => [0x83, 5, 0x83],
            Self::TooLarge => [0x95, 5, 0x97],
        }
    }

    const fn source(self, allow: bool) -> &'static str {
        match self {
            Self::Failed if allow => "source=\"failed_open\",outcome=\"allowed\"",
            Self::Failed => "source=\"failed_closed\",outcome=\"refused\"",
            Self::Denied => "source=\"policy_service\",outcome=\"refused\"",
            Self::Unusable | Self::TooLarge => "source=\"unusable\",outcome=\"refused\"",
        }
    }
}

/// How many bad answers came to what, for each hook.
type Count = std::collections::HashMap<(&'static str, &'static str), u32>;

const ALL: &[Version] = &[Version::V31, Version::V311, Version::V5];

fn contradictory<T: From<Deny>>() -> [Bad<T>; 3] {
    [
        ("a no with the code of a yes", Deny { reason_code: 0x10, ..Deny::default() }.into(), ALL),
        ("a no with a code that is none", Deny { reason_code: 0x1_0087, ..Deny::default() }.into(), ALL),
        ("a no with no action", Deny { action: Some(0), ..Deny::default() }.into(), ALL),
    ]
}

fn connects() -> Vec<Bad<AuthConnectResponse>> {
    let allow = |what, allow: ConnectAllow| (what, allow.into(), ALL);
    let none = ConnectAllow::default;
    let grant = |grant| Some(Grant { rules: vec![grant], ..Grant::default() });
    let mapping = |prefix: &str| {
        let mapping = Some(TopicMapping { prefix: prefix.to_owned() });
        Some(Grant { mapping, ..Grant::default() })
    };
    let mut bad = vec![
        ("unspecified", AuthConnectResponse::default(), ALL),
        allow("U+0000 in the client id", ConnectAllow { client_id: Some("a\0b".to_owned()), ..none() }),
        allow("too large", ConnectAllow { password: Some(vec![0; HUGE]), ..none() }),
        allow("a password over 65535 bytes", ConnectAllow { password: Some(vec![0; 65536]), ..none() }),
        allow("a will changed to nothing", ConnectAllow { will: Some(WillChange::default()), ..none() }),
        allow("a will changed that is not there", {
            let change = will_change::Change::Replace(WillReplace::default());
            ConnectAllow { will: Some(WillChange { change: Some(change) }), ..none() }
        }),
        allow("a rule without effect", ConnectAllow { grant: grant(GrantRule::default()), ..none() }),
        allow("a rule with half a filter", {
            let rule = GrantRule { effect: 1, topic_filters: vec!["a#".to_owned()], ..GrantRule::default() };
            ConnectAllow { grant: grant(rule), ..none() }
        }),
        allow("a mapping to nowhere", ConnectAllow { grant: mapping(""), ..none() }),
        allow("a mapping with a wildcard", ConnectAllow { grant: mapping("a/+/"), ..none() }),
    ];
    bad.extend(contradictory());
    bad
}

fn publishes() -> Vec<Bad<AuthPublishResponse>> {
    let allow = |what, allow: PublishAllow, versions| (what, allow.into(), versions);
    let topic = |topic: &str| PublishAllow { topic: Some(topic.to_owned()), ..PublishAllow::default() };
    let payload = |len| PublishAllow { payload: Some(vec![b'x'; len]), ..PublishAllow::default() };
    let property = |value: &str| UserProperty { name: "name".to_owned(), value: value.to_owned() };
    let mut bad = vec![
        ("unspecified", AuthPublishResponse::default(), ALL),
        allow("a wildcard in the topic", topic("a/#"), ALL),
        allow("no topic", topic(""), ALL),
        allow("U+0000 in the topic", topic("a\0"), ALL),
        allow("a topic over 65535 bytes", topic(&wire::long_string(65536)), ALL),
        allow("too large for a gRPC message", payload(HUGE), ALL),
        // Before 5.0 nobody knows what the broker takes.
        allow("larger than the broker takes", payload(LIMIT), &[Version::V5]),
        allow(
            "U+0000 in a user property",
            PublishAllow { set_user_properties: vec![property("a\0")], ..PublishAllow::default() },
            &[Version::V5],
        ),
    ];
    bad.extend(contradictory());
    bad
}

/// Answers to a SUBSCRIBE with two filters.
fn subscribes() -> Vec<Bad<AuthSubscribeResponse>> {
    let yes = || FilterVerdict::from(FilterAllow::default());
    let filter = |filter: &str| FilterAllow { filter: Some(filter.to_owned()), ..FilterAllow::default() };
    let second =
        |what, second: FilterVerdict| (what, AuthSubscribeResponse { verdicts: vec![yes(), second] }, ALL);
    let mut bad = vec![
        ("no verdicts", AuthSubscribeResponse::default(), ALL),
        ("one for two", AuthSubscribeResponse { verdicts: vec![yes()] }, ALL),
        ("three for two", AuthSubscribeResponse { verdicts: vec![yes(), yes(), yes()] }, ALL),
        second("one of two unset", FilterVerdict::default()),
        ("unspecified", AuthSubscribeResponse { verdicts: vec![FilterVerdict::default(); 2] }, ALL),
        second("# in the middle", filter("a/#/b").into()),
        second("no filter", filter("").into()),
        second("another share", filter("$share/g/a").into()),
        second("U+0000 in the filter", filter("a\0").into()),
        second("a filter over 65535 bytes", filter(&wire::long_string(65536)).into()),
        second("too large for a gRPC message", filter(&wire::long_string(HUGE)).into()),
        second("QoS 3", FilterAllow { max_qos: Some(3), ..FilterAllow::default() }.into()),
    ];
    bad.extend(contradictory().map(|(what, verdict, _): Bad<FilterVerdict>| {
        (what, AuthSubscribeResponse { verdicts: vec![verdict.clone(), verdict] }, ALL)
    }));
    bad
}

fn deliveries() -> Vec<Bad<AuthDeliverResponse>> {
    let topic = |what, topic: &str| {
        let allow = DeliverAllow { topic: Some(topic.to_owned()), ..DeliverAllow::default() };
        (what, allow.into(), ALL)
    };
    let payload = |len| DeliverAllow { payload: Some(vec![b'x'; len]), ..DeliverAllow::default() }.into();
    let mut bad = vec![
        ("unspecified", AuthDeliverResponse::default(), ALL),
        topic("a wildcard in the topic", "a/+"),
        topic("no topic", ""),
        ("too large for a gRPC message", payload(HUGE), ALL),
        ("larger than the client takes", payload(LIMIT), &[Version::V5]),
    ];
    bad.extend(contradictory());
    bad
}

/// The number in `bad/7/…`.
fn chosen(wish: &str) -> Option<usize> {
    wish.strip_prefix("bad/")?.split('/').next()?.parse().ok()
}

/// A service that answers so, where a topic, a filter or a user name asks for it.
async fn babbles() -> Running {
    Running::start(Service {
        hello: Some(wants_everything()),
        connect: Box::new(|asked| {
            let username = asked.get_ref().client.as_ref().and_then(|client| client.username.as_deref());
            let chosen = username.and_then(chosen);
            Play::Answer(
                chosen.map_or_else(|| ConnectAllow::default().into(), |at| connects().swap_remove(at).1),
            )
        }),
        publish: Box::new(|asked| {
            let chosen = chosen(&asked.get_ref().topic).unwrap();
            Play::Answer(publishes().swap_remove(chosen).1)
        }),
        subscribe: Box::new(|asked| {
            let asked = &asked.get_ref().filters;
            let yes = || AuthSubscribeResponse { verdicts: vec![FilterAllow::default().into()] };
            let chosen = chosen(&asked[0].filter);
            Play::Answer(chosen.map_or_else(yes, |at| subscribes().swap_remove(at).1))
        }),
        deliver: Box::new(|asked| {
            let chosen = asked.get_ref().topic.strip_prefix("down/").and_then(chosen);
            let bad = chosen.map(|at| deliveries().swap_remove(at).1);
            Play::Answer(bad.unwrap_or_else(|| DeliverAllow::default().into()))
        }),
        ..Service::default()
    })
    .await
}

/// Plays all of it; gives how many answers of each kind were bad. `open`: failed answers allow.
async fn play(proxy: &Proxy, feeder: &mut WireClient, watcher: &mut WireClient, open: bool) -> Count {
    let mut bad = Count::new();
    for version in ALL {
        let v5 = *version == Version::V5;
        for (at, (what, _, versions)) in connects().into_iter().enumerate() {
            assert_eq!(versions, ALL);
            let username = format!("bad/{at}");
            let options = ConnectOptions { username: Some(&username), ..ConnectOptions::default() };
            let (mut client, connack) = proxy.connect(*version, "bad", &options).await;
            let comes = Comes::of(what);
            let allow = open && comes == Comes::Failed;
            if allow {
                assert_eq!(connack[3], 0, "{what} in {version:?}: {connack:02x?}");
                client.expect_nothing_but_pingresp().await;
                client.send(&wire::disconnect()).await;
            } else {
                let code = comes.codes()[usize::from(!v5)];
                assert_eq!(connack, wire::connack(*version, false, code, &[]), "{what} in {version:?}");
            }
            client.expect_closed().await;
            *bad.entry(("connect", comes.source(open))).or_default() += 1;
        }

        // Maximum Packet Size (3.1.2.11.4): 1000.
        let properties: &[u8] = if v5 { &[0x27, 0, 0, 3, 0xE8] } else { &[] };
        let options = ConnectOptions { properties, ..ConnectOptions::default() };
        let (mut client, _) = proxy.connect(*version, "good", &options).await;
        for (at, (what, _, versions)) in publishes().into_iter().enumerate() {
            for qos in 0..=2 {
                if !versions.contains(version) {
                    continue;
                }
                println!("{what} in {version:?}, QoS {qos}");
                let (topic, payload) = (format!("bad/{at}/{qos}"), what.as_bytes());
                let message = Publish { topic: &topic, payload, qos, packet_id: 1, ..Publish::default() };
                client.send(&wire::publish(*version, &message)).await;
                let comes = Comes::of(what);
                let allow = open && comes == Comes::Failed;
                let refused = [0, 1, comes.codes()[2]];
                let refused = if v5 && !allow { &refused[..] } else { &refused[..2] };
                match qos {
                    0 => {}
                    1 => client.expect(&wire::packet(0x40, refused)).await,
                    _ => client.expect(&wire::packet(0x50, refused)).await,
                }
                if qos == 2 && refused.len() == 2 {
                    client.send(&wire::pubrel(1)).await;
                    client.expect(&wire::pubcomp(1)).await;
                }
                // As it came.
                if allow {
                    let came = Publish { topic: &topic, payload, ..Publish::default() };
                    watcher.expect(&wire::publish(Version::V311, &came)).await;
                }
                *bad.entry(("publish", comes.source(open))).or_default() += 1;
            }
        }
        for (at, (what, _, versions)) in subscribes().into_iter().enumerate() {
            assert_eq!(versions, ALL);
            println!("{what} in {version:?}");
            let filter = format!("bad/{at}/+");
            client.send(&wire::subscribe(*version, 1, &[(&filter, 1), ("as/well", 2)])).await;
            let comes = Comes::of(what);
            let codes = match (open && comes == Comes::Failed, v5) {
                (true, _) => [1, 2],
                (false, true) => [comes.codes()[2]; 2],
                (false, false) => [0x80; 2],
            };
            client.expect(&wire::suback(*version, 1, &codes)).await;
            // Decisions on SUBSCRIBE are counted by filter.
            *bad.entry(("subscribe", comes.source(open))).or_default() += 2;
        }

        client.send(&wire::subscribe(*version, 2, &[("down/#", 2)])).await;
        client.expect(&wire::suback(*version, 2, &[2])).await;
        for (at, (what, _, versions)) in deliveries().into_iter().enumerate() {
            for qos in 0..=2 {
                if !versions.contains(version) {
                    continue;
                }
                println!("{what} to {version:?}, QoS {qos}");
                let comes = Comes::of(what);
                let allow = open && comes == Comes::Failed;
                let down = format!("down/bad/{at}/{qos}");
                // Of a dropped one the flow is ended for the client; what comes next shows that it was.
                for (topic, comes) in [(down.as_str(), allow), ("down/next", true)] {
                    let message = Publish { topic, payload: what.as_bytes(), ..Publish::default() };
                    feed(feeder, watcher, &message, qos).await;
                    if comes {
                        receives(&mut client, &message, qos).await;
                    }
                }
                *bad.entry(("deliver", comes.source(open))).or_default() += 1;
            }
        }
        client.expect_nothing_but_pingresp().await;
        client.send(&wire::disconnect()).await;
        client.expect_closed().await;
    }
    watcher.expect_nothing_but_pingresp().await;
    bad
}

async fn a_bad_verdict_is_no_verdict(rule: &str) {
    let extra = vec![format!("max_packet_size {LIMIT}")];
    let broker = Mosquitto::start_with(MosquittoOptions { extra, ..MosquittoOptions::default() }).await;
    let service = babbles().await;
    let variables = [("MPROXY_POLICY_ON_ERROR", rule), ("MPROXY_ON_UNAVAILABLE", "connack")];
    let mut proxy = Proxy::asking(&service, broker.addr(), &variables).await;
    let mut watcher = WireClient::login(broker.addr(), Version::V311, "watcher").await;
    watcher.send(&wire::subscribe(Version::V311, 1, &[("#", 0)])).await;
    watcher.expect(&wire::suback(Version::V311, 1, &[0])).await;
    let mut feeder = WireClient::login(broker.addr(), Version::V311, "feeder").await;

    let bad = play(&proxy, &mut feeder, &mut watcher, rule == "allow").await;
    for ((hook, source), bad) in bad {
        let counted = proxy.metric(&format!("mproxy_decisions_total{{hook=\"{hook}\",{source}}}")).await;
        assert_eq!(counted, f64::from(bad), "{hook} {source}");
    }
    proxy.line(&["WARN", "policy answer failed", &format!("on_error=\"{rule}\"")]).await;
    proxy.line(&["WARN", "policy answer unusable, packet refused"]).await;
    proxy.line(&["WARN", "Deny.reason_code 16", "0x87"]).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_bad_verdict_denies_where_failures_deny() {
    a_bad_verdict_is_no_verdict("deny").await;
}

#[tokio::test]
async fn of_bad_verdicts_only_failed_ones_allow_where_failures_allow() {
    a_bad_verdict_is_no_verdict("allow").await;
}
