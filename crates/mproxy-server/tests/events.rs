//! Events over a stream, of a real mproxy with clients and a broker: killed, restarted, with its disk full.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::service::contract::HelloResponse;
use mproxy_testkit::service::{ObservePlay, Running, Service, Told};
use mproxy_testkit::wire::{self, Publish, Version, WireClient};
use support::Proxy;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// A service that serves streams, allows everything and confirms events once `confirms` says so.
fn service(confirms: &Arc<AtomicBool>) -> Service {
    let confirms = Arc::clone(confirms);
    let observe = ObservePlay::Script(Box::new(move |request, confirmations| {
        if confirms.load(Ordering::SeqCst) && request.last() > 0 {
            confirmations.send(request.last());
        }
    }));
    Service {
        hello: Some(HelloResponse { streams: true, ..HelloResponse::default() }),
        observe,
        ..Service::default()
    }
}

/// Publishes with QoS 1, one after the other, until mproxy is gone. Gives how many were acknowledged.
async fn publishes(mut client: WireClient, name: String, acknowledged: Arc<AtomicU64>) {
    for number in 1_u64.. {
        let topic = format!("{name}/{number}");
        let message = Publish { topic: &topic, payload: b"x", qos: 1, packet_id: 1, ..Publish::default() };
        if client.try_send(&wire::publish(Version::V311, &message)).await.is_err() {
            return;
        }
        if client.try_packet().await.is_none() {
            return;
        }
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

struct Heard {
    /// Events by number; each was told alike however often it was.
    events: BTreeMap<u64, Told>,
    dropped: BTreeSet<u64>,
    runs: BTreeSet<String>,
}

fn heard(service: &Running) -> Heard {
    let mut events: BTreeMap<u64, Told> = BTreeMap::new();
    for told in service.events() {
        if let Some(before) = events.insert(told.sequence, told.clone()) {
            assert_eq!(
                (&before.client_id, before.epoch, &before.what),
                (&told.client_id, told.epoch, &told.what)
            );
        }
    }
    let (mut dropped, mut runs) = (BTreeSet::new(), BTreeSet::new());
    for (_, request) in service.observed() {
        dropped.extend(request.gaps.iter().flat_map(|gap| gap.from..=gap.to));
        runs.extend(Some(request.run_id).filter(|run| !run.is_empty()));
    }
    Heard { events, dropped, runs }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_every_event_is_told_or_in_a_gap() {
    let (broker, folder, confirms) = (Mosquitto::start().await, TempDir::new().unwrap(), Arc::default());
    let service = Running::start(service(&confirms)).await;
    let spool = folder.path().join("spool");
    let variables = [("MPROXY_EVENTS_SPOOL", spool.to_str().unwrap())];
    let mut proxy = Proxy::asking(&service, broker.addr(), &variables).await;
    let (mut clients, acknowledged) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
    for client in 0..8 {
        let name = format!("load{client}");
        let client = proxy.login(Version::V311, &name).await;
        clients.spawn(publishes(client, name, Arc::clone(&acknowledged)));
    }
    // Half of the time with a service that confirms, and then with one that does not.
    confirms.store(true, Ordering::SeqCst);
    service.events_when(|told| told.len() > 500).await;
    confirms.store(false, Ordering::SeqCst);
    service.events_when(|told| told.len() > 1500).await;
    proxy.signal("KILL").await;
    drop(proxy.end().await);
    while clients.join_next().await.is_some() {}

    confirms.store(true, Ordering::SeqCst);
    let proxy = Proxy::asking(&service, broker.addr(), &variables).await;
    let mut client = proxy.login(Version::V311, "later").await;
    client
        .send(&wire::publish(Version::V311, &Publish { topic: "last", payload: b"x", ..Publish::default() }))
        .await;
    service.events_when(|told| told.iter().any(|told| told.what == "last")).await;
    drop(client);
    service
        .events_when(|told| {
            told.iter().any(|told| told.client_id == "later" && told.what.starts_with("disconnect"))
        })
        .await;
    proxy.stop().await;

    let Heard { events, dropped, runs } = heard(&service);
    assert_eq!(runs.len(), 1, "the numbering goes on");
    let last = *events.last_key_value().unwrap().0;
    let missing: Vec<u64> =
        (1..=last).filter(|sequence| !events.contains_key(sequence) && !dropped.contains(sequence)).collect();
    assert!(missing.is_empty(), "neither told nor in a gap: {missing:?}");
    // What was acknowledged just before the end and was not written yet is in the gap.
    let told = events.values().filter(|told| told.what.starts_with("load")).count() as u64;
    let lost = acknowledged.load(Ordering::SeqCst).saturating_sub(told);
    assert!(lost <= dropped.len() as u64 && lost < 200, "{lost} of {told} lost, {} in gaps", dropped.len());
    let mut open = HashMap::new();
    for told in events.values() {
        match told.what.as_str() {
            "connect" => assert!(open.insert(told.epoch, told.client_id.clone()).is_none()),
            what if what.starts_with("disconnect") => {
                assert_eq!(open.remove(&told.epoch).as_ref(), Some(&told.client_id), "each once: {what}");
                assert_eq!(
                    what.contains("mproxy ended without notice"),
                    told.client_id.starts_with("load"),
                    "{what}"
                );
            }
            _ => {}
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let later = events.values().find(|told| told.client_id == "later").unwrap();
    assert!(
        events.values().all(|told| told.client_id == "later" || told.epoch < later.epoch),
        "epochs grow over restarts"
    );
}

#[tokio::test]
async fn a_spool_that_cannot_be_used_opens_no_port() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    let env = [
        ("MPROXY_EVENTS_SPOOL", file.to_str().unwrap()),
        ("MPROXY_POLICY_URL", "http://127.0.0.1:1"),
        ("MPROXY_MQTT_PORT", "0"),
        ("MPROXY_WS_PORT", "0"),
        ("MPROXY_ADMIN_PORT", "0"),
    ];
    let ended = mproxy_testkit::hook::MproxyProcess::run(&env, &[]).await;
    assert_ne!(ended.code(), Some(0));
    assert!(ended.has_line("event spool") && ended.has_line("file"), "{:#?}", ended.lines);
}
