//! What is traced of single packets, and that tracing changes nothing else.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::{Arc, Mutex};

use mproxy_codec::types::PacketId;
use mproxy_core::meter::{Meter, PacketTrace, Unmetered};
use mproxy_core::policy::{Action, Hook, PublishChange, Want};
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, Publish, Version};
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
