//! What `mproxy import mosquitto` makes of an `acl_file`, held against a real mosquitto that has the same file: what it
//! answers to a PUBLISH, which filters it grants, what it delivers.

use std::fmt::Write;

use mproxy_core::rule::Act;
use mproxy_policy::acl::{Acl, TrialClient, TrialQuestion};
use mproxy_policy::import::mosquitto::{ImportNoteKind, ImportOptions, import};
use mproxy_sim::rng::Rng;
use mproxy_testkit::mosquitto::{Mosquitto, MosquittoOptions};
use mproxy_testkit::wire::{
    ConnectOptions, Publish, Version, WireClient, connect, pingreq, pingresp, publish, subscribe,
};

const V5: Version = Version::V5;

/// Files, and topics that each client tries in each.
const FILES: u64 = 40;
const TOPICS: usize = 25;

const CLIENTS: [(&str, Option<&str>); 5] =
    [("c1", None), ("c1", Some("ann")), ("a", Some("bob")), ("b", Some("a")), ("ann", Some("c1"))];

fn word(rng: &mut Rng, of: &[&'static str]) -> &'static str {
    of[rng.below(of.len())]
}

fn filter(rng: &mut Rng) -> String {
    if rng.one_in(20) {
        return "#".to_owned();
    }
    let mut text = word(rng, &["a", "b", "+", "%c", "%u", "$x", "c1", "a b"]).to_owned();
    for _ in 0..rng.below(3) {
        text.push('/');
        text.push_str(word(rng, &["a", "b", "c1", "+", "%c", "%u", "s-%c", "%u-%c", ""]));
    }
    text.push_str(word(rng, &["", "", "/#"]));
    text
}

fn topic(rng: &mut Rng) -> String {
    let mut text = word(rng, &["a", "b", "c1", "ann", "$x", "a b", "bob"]).to_owned();
    for _ in 0..rng.below(4) {
        text.push('/');
        text.push_str(word(rng, &["a", "b", "c1", "ann", "s-c1", "ann-c1", "bob", ""]));
    }
    text
}

fn acl_file(rng: &mut Rng) -> String {
    let mut text = String::new();
    for _ in 0..rng.below(12) {
        let whose = match rng.below(6) {
            0 => "user ann\ntopic",
            1 => "user bob\ntopic",
            2 | 3 => "pattern",
            _ => "topic",
        };
        let access = word(rng, &["", "read ", "write ", "readwrite ", "deny ", "deny "]);
        let mut filter = filter(rng);
        if access.is_empty() {
            filter = filter.replace(' ', "-");
        }
        let _ = writeln!(text, "{whose} {access}{filter}");
    }
    text
}

async fn connected(broker: &Mosquitto, id: &str, username: Option<&str>) -> WireClient {
    let mut client = WireClient::open(broker.addr()).await;
    client.send(&connect(V5, id, &ConnectOptions { username, ..ConnectOptions::default() })).await;
    let connack = client.packet().await;
    assert_eq!(connack[3], 0, "{id} {username:?}: {connack:02x?}");
    client
}

/// Whether it may be published to, by the reason code of the PUBACK.
async fn publishes(client: &mut WireClient, topic: &str) -> bool {
    client
        .send(&publish(V5, &Publish { topic, payload: b"x", qos: 1, packet_id: 7, ..Publish::default() }))
        .await;
    let answer = client.packet().await;
    assert_eq!(answer[0], 0x40, "{topic}: {answer:02x?}");
    match answer.get(4) {
        Some(0x87) => false,
        None | Some(0x00 | 0x10) => true,
        Some(other) => panic!("{topic}: {other:#04x}"),
    }
}

/// The topics of all that has been delivered.
async fn received(client: &mut WireClient) -> Vec<String> {
    client.send(&pingreq()).await;
    let mut topics = Vec::new();
    loop {
        let packet = client.packet().await;
        if packet == pingresp() {
            return topics;
        }
        assert_eq!(packet[0] >> 4, 3, "{packet:02x?}");
        let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        topics.push(String::from_utf8(packet[4..4 + len].to_vec()).expect("a topic"));
    }
}

#[tokio::test]
async fn a_real_mosquitto_decides_the_same() {
    let (mut compared, mut allowed) = (0, 0);
    for seed in 0..FILES {
        let mut rng = Rng::new(seed);
        let acl = acl_file(&mut rng);
        let made =
            import(&acl, None, ImportOptions::default()).unwrap_or_else(|errors| panic!("{errors}\n{acl}"));
        assert!(made.notes.iter().all(|note| note.kind != ImportNoteKind::Changed), "{:?}", made.notes);
        assert!(made.is_same(), "{:?}\n{acl}", made.proof);
        let rules = Acl::parse(&made.text, "made").unwrap_or_else(|errors| panic!("{errors}\n{}", made.text));

        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join("acl");
        // Somebody who may do everything, to whom no other line applies.
        std::fs::write(&file, format!("{acl}\nuser root\ntopic #\ntopic $x/#\n")).expect("a file");
        let extra = vec![format!("acl_file {}", file.display())];
        let broker = Mosquitto::start_with(MosquittoOptions { extra, ..MosquittoOptions::default() }).await;
        let mut root = connected(&broker, "root", Some("root")).await;
        let topics: Vec<_> = (0..TOPICS).map(|_| topic(&mut rng)).collect();
        for (id, username) in CLIENTS {
            let who = TrialClient {
                client_id: id.to_owned(),
                username: username.map(ToOwned::to_owned),
                ..TrialClient::default()
            };
            let says = |act, name: &str| {
                let question = TrialQuestion::plain(act, name);
                rules.rules_allow(&who, &question)
            };
            let mut client = connected(&broker, id, username).await;
            // With No Local: what it publishes itself is not of interest here.
            for any in ["#", "$x/#"] {
                client.send(&subscribe(V5, 1, &[(any, 0x04)])).await;
                let suback = client.packet().await;
                assert_eq!(suback.last(), Some(&0), "{any}");
                // What begins with another $ than those of the lines could deliver nothing, and is refused here.
                assert_eq!(says(Act::Subscribe, any), any == "#" || acl.contains("$x"), "{any}\n{acl}");
            }
            for topic in &topics {
                let is = publishes(&mut client, topic).await;
                assert_eq!(
                    is,
                    says(Act::Publish, topic),
                    "{id} {username:?} publishes {topic}\n{acl}\n{}",
                    made.text
                );
                assert_eq!(is, says(Act::Will, topic));
                assert!(publishes(&mut root, topic).await, "{topic}");
                let got = received(&mut client).await;
                let expected = if says(Act::Receive, topic) { vec![topic.clone()] } else { Vec::new() };
                assert_eq!(got, expected, "{id} {username:?} receives\n{acl}\n{}", made.text);
                compared += 2;
                allowed += usize::from(is) + got.len();
            }
            client.finish().await;
        }
    }
    assert!(
        compared == 2 * TOPICS * CLIENTS.len() * FILES as usize && allowed > compared / 20,
        "{allowed} of {compared}"
    );
}
