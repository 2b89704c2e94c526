//! What is traced of single packets, and that tracing changes nothing else.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::{Arc, Mutex};

use mproxy_codec::types::{PacketId, PacketType};
use mproxy_core::meter::{Meter, Outcome, PacketTrace, Unmetered};
use mproxy_core::policy::{Action, Failure, Hook, OnError, Overload, PublishChange, Source, Unusable, Want};
use mproxy_core::{Peer, Side};
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, Publish, Version};
use mproxy_sim::{Asked, Reply, Stage, allow, change, refuse_as};

/// Keeps a line for each packet.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Meter for Lines {
    fn packets(&self, _from: Side, _kind: PacketType, _packets: u64, _bytes: u64) {}
    fn decisions(&self, _hook: Hook, _source: Source, _outcome: Outcome, _count: u64) {}
    fn failed(&self, _hook: Hook, _failure: &Failure, _rule: OnError, _peer: &Peer) {}
    fn unusable(&self, _hook: Hook, _unusable: &Unusable, _peer: &Peer) {}
    fn overloaded(&self, _hook: Hook, _overload: &Overload, _peer: &Peer) {}

    fn traces(&self) -> bool {
        true
    }

    fn packet(&self, packet: &PacketTrace<'_>) {
        let (from, kind, fate) = (packet.from.name(), packet.kind.name(), packet.fate.name());
        let (id, topic) = (packet.id.map_or(0, PacketId::get), packet.topic.unwrap_or("-"));
        self.0.lock().unwrap().push(format!("{from} {kind} {id} {topic} {} {fate}", packet.size));
    }
}

impl Lines {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Publishes to `no` are refused, to `old` rewritten, to `later` decided later, and others allowed.
fn stage(meter: Arc<dyn Meter>) -> Stage {
    let answering = Box::new(|asked: &Asked| match (asked.hook, &*asked.what) {
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
    let lines = Arc::new(Lines::default());
    let mut stage = stage(lines.clone());
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
        let lines = Arc::new(Lines::default());
        let mut stage = if traced { stage(lines.clone()) } else { stage(Arc::new(Unmetered)) };
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
