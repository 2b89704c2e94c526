//! What is traced of single packets, and that tracing changes nothing else.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::{Arc, Mutex};

use mproxy_codec::types::{PacketId, PacketType};
use mproxy_core::meter::{Meter, Outcome, PacketDetail, PacketTrace, Unmetered};
use mproxy_core::peer::{Origin, Peer, Side};
use mproxy_core::policy::{Action, Failure, Hook, OnError, Overload, PublishChange, Source, Unusable, Want};
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version, Will};
use mproxy_sim::{QuestionRecord, Reply, Stage, Tracer, allow, change, refuse_as};

/// A line for each packet.
#[derive(Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// The meter that writes them.
    fn meter(&self) -> Arc<dyn Meter> {
        let lines = Arc::clone(&self.0);
        Arc::new(Tracer(move |packet: &PacketTrace<'_>| {
            let (from, kind, fate) = (packet.from.name(), packet.kind.name(), packet.fate.name());
            let (id, topic) = (packet.id.map_or(0, PacketId::get), packet.topic.unwrap_or("-"));
            lines.lock().unwrap().push(format!("{from} {kind} {id} {topic} {} {fate}", packet.size));
        }))
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Publishes to `no` are refused, to `old` rewritten, to `later` decided later, and others allowed.
fn stage(meter: Arc<dyn Meter>) -> Stage {
    let answering = Box::new(|asked: &QuestionRecord| match (asked.hook, &*asked.what) {
        (Hook::Publish, "no") => Reply::Now(refuse_as(Action::Reject)),
        (Hook::Publish, "old") => {
            Reply::Now(change(PublishChange { topic: Some("new".into()), ..PublishChange::default() }))
        }
        (Hook::Publish, "later") => Reply::Later,
        (hook, _) => Reply::Now(allow(hook)),
    });
    Setup { meter, telling: Want::Nothing, answering, ..Setup::default() }.stage().open(Version::V5)
}

fn publish(qos: u8, packet_id: u16, topic: &str) -> Vec<u8> {
    wire::publish(Version::V5, &Publish { topic, payload: b"secret", qos, packet_id, ..Publish::default() })
}

#[test]
fn each_packet_has_a_line() {
    let lines = Lines::default();
    let mut stage = stage(lines.meter());
    let connect = lines.take();
    assert_eq!(connect.len(), 2, "{connect:?}");
    assert!(
        connect[0].starts_with("client CONNECT 0 - ") && connect[0].ends_with(" deferred"),
        "{connect:?}"
    );
    assert!(
        connect[1].starts_with("broker CONNACK 0 - ") && connect[1].ends_with(" forwarded"),
        "{connect:?}"
    );

    stage.client(
        &[publish(0, 0, "yes"), publish(1, 7, "no"), publish(0, 0, "no"), publish(1, 8, "old")].concat(),
    );
    assert_eq!(
        lines.take(),
        [
            "client PUBLISH 0 yes 14 forwarded",
            "client PUBLISH 7 no 15 answered",
            "client PUBLISH 0 no 13 dropped",
            "client PUBLISH 8 old 16 changed"
        ]
    );
    stage.client(&[publish(1, 9, "later"), publish(0, 0, "yes"), wire::pingreq()].concat());
    assert_eq!(
        lines.take(),
        [
            "client PUBLISH 9 later 18 deferred",
            "client PUBLISH 0 yes 14 queued",
            "client PINGREQ 0 - 2 queued"
        ]
    );
    stage.rule(0, allow(Hook::Publish));
    assert_eq!(
        lines.take(),
        [
            "client PUBLISH 9 later 18 forwarded",
            "client PUBLISH 0 yes 14 forwarded",
            "client PINGREQ 0 - 2 forwarded"
        ]
    );
    stage.broker(&[wire::puback(8), publish(0, 0, "down")].concat());
    assert_eq!(lines.take(), ["broker PUBACK 8 - 4 forwarded", "broker PUBLISH 0 down 15 forwarded"]);
}

#[test]
fn tracing_changes_no_byte() {
    let heard = |traced: bool| {
        let lines = Lines::default();
        let mut stage = if traced { stage(lines.meter()) } else { stage(Arc::new(Unmetered)) };
        for qos in 0..=2 {
            let topics = ["yes", "no", "old", "yes"].into_iter().zip(1..);
            stage.client(&topics.map(|(topic, id)| publish(qos, id, topic)).collect::<Vec<_>>().concat());
        }
        stage.broker(&[wire::puback(1), wire::pubrel(3), publish(2, 4, "down")].concat());
        assert_eq!(lines.take().is_empty(), !traced);
        (stage.at_broker(), stage.at_client())
    };
    assert_eq!(heard(true), heard(false));
}

/// A stage, and what `look` makes of each packet.
fn looking<T: Send + 'static>(
    look: impl Fn(&PacketTrace<'_>) -> T + Send + Sync + 'static,
) -> (Stage, Arc<Mutex<Vec<T>>>) {
    let seen = Arc::<Mutex<Vec<T>>>::default();
    let kept = Arc::clone(&seen);
    let meter = Tracer(move |packet: &PacketTrace<'_>| kept.lock().unwrap().push(look(packet)));
    let stage = stage(Arc::new(meter));
    seen.lock().unwrap().clear();
    (stage, seen)
}

#[test]
fn a_packet_that_is_refused_says_by_whom_and_the_next_does_not() {
    let (mut stage, seen) =
        looking(|packet| packet.refusal.map(|refusal| (refusal.source, refusal.reason.0)));
    stage.client(&[publish(1, 7, "no"), publish(1, 8, "later"), publish(0, 0, "yes")].concat());
    stage.rule(0, refuse_as(Action::Reject));
    let refused = Some((Source::Rpc, 0x87));
    // The first; the second waits, and so does the third; then they leave.
    assert_eq!(*seen.lock().unwrap(), [refused, None, None, refused, None]);
}

#[test]
fn topics_are_there_as_they_came_and_as_they_go() {
    let (mut stage, seen) =
        looking(|packet| (packet.topic.map(str::to_owned), packet.sent_topic.map(str::to_owned)));
    let topics = |came: &str, sent: Option<&str>| (Some(came.to_owned()), sent.map(str::to_owned));
    stage.client(&[publish(1, 8, "old"), publish(1, 9, "yes")].concat());
    assert_eq!(*seen.lock().unwrap(), [topics("old", Some("new")), topics("yes", None)]);
}

#[test]
fn the_topic_behind_an_alias_is_told() {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&seen);
    let meter = Tracer(move |packet: &PacketTrace<'_>| {
        kept.lock().unwrap().extend(packet.topic.map(str::to_owned));
    });
    let mut stage = Setup { meter: Arc::new(meter), telling: Want::Nothing, ..Setup::default() }.stage();
    // The broker takes five aliases.
    stage.open_with(Version::V5, &[], &[0x22, 0, 5]);
    let properties = &[0x23, 0, 1][..];
    let publish = |topic| wire::publish(Version::V5, &Publish { topic, properties, ..Publish::default() });
    stage.client(&[publish("long/topic"), publish("")].concat());
    assert_eq!(*seen.lock().unwrap(), ["long/topic", "long/topic"]);
}

#[test]
fn what_a_trace_has_of_a_connect_is_neither_its_password_nor_its_will() {
    for version in [Version::V311, Version::V5] {
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&seen);
        let meter = Tracer(move |packet: &PacketTrace<'_>| {
            kept.lock().unwrap().push(format!("{:?}", packet.detail));
        });
        let mut stage = Setup { meter: Arc::new(meter), ..Setup::default() }.stage();
        let options = ConnectOptions {
            username: Some("ann"),
            password: Some(b"hunter2"),
            will: Some(Will { topic: "gone", payload: b"my secret", ..Will::default() }),
            ..ConnectOptions::default()
        };
        stage.client(&wire::connect(version, "c", &options));
        if version == Version::V5 {
            stage.client(&wire::auth(
                0x18,
                &[0x15, 0, 1, b'x', 0x16, 0, 7, b'h', b'u', b'n', b't', b'e', b'r', b'2'],
            ));
        }
        let seen = seen.lock().unwrap().join("\n");
        assert!(seen.contains("ann") && seen.contains("gone"), "{seen}");
        for secret in ["hunter2", "my secret", "104, 117, 110, 116"] {
            assert!(!seen.contains(secret), "{seen}");
        }
    }
}

#[test]
fn filters_and_codes_are_there() {
    let (mut stage, seen) = looking(|packet| match &packet.detail {
        PacketDetail::Subscribe(subscribe) => {
            subscribe.filters().map(|one| format!("{} {}", one.filter.as_str(), one.qos as u8)).collect()
        }
        PacketDetail::Codes(codes) => codes.iter().map(u8::to_string).collect(),
        PacketDetail::Unsubscribe(unsubscribe) => {
            unsubscribe.filters().map(|filter| filter.as_str().to_owned()).collect()
        }
        other => vec![format!("{other:?}")],
    });
    stage.client(&wire::subscribe(Version::V5, 3, &[("a/#", 1), ("b", 2)]));
    stage.broker(&wire::suback(Version::V5, 3, &[1, 0x87]));
    stage.client(&wire::unsubscribe(Version::V5, 4, &["b"]));
    assert_eq!(*seen.lock().unwrap(), [vec!["a/# 1", "b 2"], vec!["1", "135"], vec!["b"]]);
}

/// Traces what comes from one client, and counts what is traced of all.
struct Choosy(Mutex<Vec<(String, bool)>>);

impl Meter for Choosy {
    fn packets(&self, _from: Side, _kind: PacketType, _packets: u64, _bytes: u64) {}
    fn decisions(&self, _hook: Hook, _source: Source, _outcome: Outcome, _count: u64) {}
    fn failed(&self, _hook: Hook, _failure: &Failure, _rule: OnError, _peer: &Peer) {}
    fn unusable(&self, _hook: Hook, _unusable: &Unusable, _peer: &Peer) {}
    fn overloaded(&self, _hook: Hook, _overload: &Overload, _peer: &Peer) {}

    fn traces(&self) -> bool {
        true
    }

    fn traces_connection(&self, _origin: &Origin, peer: Option<&Peer>) -> bool {
        peer.is_some_and(|peer| &*peer.client_id == "desk")
    }

    fn packet(&self, packet: &PacketTrace<'_>) {
        let name = packet.peer.client_id.to_string();
        self.0.lock().unwrap().push((name, packet.kind == PacketType::Publish));
    }
}

#[test]
fn a_connection_that_is_not_meant_has_no_lines() {
    let meter = Arc::new(Choosy(Mutex::default()));
    for name in ["desk", "lamp"] {
        let mut stage = Setup { meter: Arc::clone(&meter) as _, ..Setup::default() }.stage();
        let connect = wire::connect(Version::V311, name, &ConnectOptions::default());
        stage.client(&connect);
        stage.broker(&wire::connack(Version::V311, false, 0, &[]));
        let message = Publish { topic: "a", ..Publish::default() };
        stage.client(&wire::publish(Version::V311, &message));
    }
    let seen = meter.0.lock().unwrap();
    assert!(seen.iter().all(|(name, _)| name == "desk"), "{seen:?}");
    assert!(seen.contains(&("desk".to_owned(), true)), "{seen:?}");
}
