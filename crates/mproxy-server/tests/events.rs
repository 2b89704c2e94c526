//! Events over a stream, of a real mproxy with clients and a broker: killed, restarted, with its disk full.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::process::free_port;
use mproxy_testkit::service::contract::{HelloResponse, Hook, Want};
use mproxy_testkit::service::{ObservePlay, Running, Service, Told};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, WireClient};
use support::Proxy;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

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

/// Publishes with QoS 1 fifty times a second until it is over, and comes again whenever its connection ends. Gives which
/// messages were acknowledged.
async fn publishes_on(to: SocketAddr, name: String, over: Arc<AtomicBool>) -> BTreeSet<String> {
    let (mut acknowledged, mut number) = (BTreeSet::new(), 0_u64);
    let mut ticks = interval(Duration::from_millis(20));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !over.load(Ordering::SeqCst) {
        ticks.tick().await;
        let Ok(stream) = TcpStream::connect(to).await else { continue };
        let mut client = WireClient::over(stream);
        let hello = wire::connect(Version::V311, &name, &ConnectOptions::default());
        if client.try_send(&hello).await.is_err() || client.try_packet().await.is_none() {
            continue;
        }
        while !over.load(Ordering::SeqCst) {
            ticks.tick().await;
            number += 1;
            let topic = format!("{name}/{number}");
            let message =
                Publish { topic: &topic, payload: b"x", qos: 1, packet_id: 1, ..Publish::default() };
            let sent = client.try_send(&wire::publish(Version::V311, &message)).await;
            if sent.is_err() || client.try_packet().await.is_none() {
                break;
            }
            acknowledged.insert(topic);
        }
        if over.load(Ordering::SeqCst) {
            let _ = client.try_send(&wire::disconnect()).await;
            client.rest().await;
        }
    }
    acknowledged
}

/// Clients that publish fifty times a second each.
const PACED: usize = 10;

/// mproxy is killed and started again, and so is the service: once by itself, and once so that it is away when mproxy comes
/// back. What one service has confirmed the next one knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_its_service_under_load_every_event_is_told_or_in_a_gap() {
    let (broker, folder) = (Mosquitto::start().await, TempDir::new().unwrap());
    let spool = folder.path().join("spool");
    let port = free_port().to_string();
    let telling = || {
        let wants = [Hook::Connect, Hook::Publish, Hook::Disconnect];
        let wants = wants.map(|hook| Want { hook: hook.into(), ..Want::default() }).into();
        Service {
            hello: Some(HelloResponse { wants, streams: true, ..HelloResponse::default() }),
            ..service(&Arc::new(AtomicBool::new(true)))
        }
    };
    let mut services = vec![Running::start(telling()).await];
    let (address, url) = (services[0].address(), services[0].url.clone());
    let variables = [
        ("MPROXY_EVENTS_SPOOL", spool.to_str().unwrap()),
        ("MPROXY_POLICY_URL", &url),
        ("MPROXY_MQTT_PORT", &port),
    ];
    let mut proxy = Proxy::with(broker.addr(), &variables).await;
    proxy.line(&["policy endpoint healthy"]).await;
    let (over, to) = (Arc::new(AtomicBool::new(false)), proxy.mqtt);
    let mut clients = JoinSet::new();
    for client in 0..PACED {
        clients.spawn(publishes_on(to, format!("load{client}"), Arc::clone(&over)));
    }
    let more = async |service: &Running, events: usize| {
        service.events_when(|told| told.len() > events).await;
    };
    more(&services[0], 500).await;
    // The service alone.
    services[0].kill();
    sleep(Duration::from_millis(500)).await;
    services.push(Running::start_at(address, telling()).await);
    more(&services[1], 500).await;
    // Both; mproxy is back first.
    services[1].kill();
    sleep(Duration::from_millis(300)).await;
    proxy.signal("KILL").await;
    drop(proxy.end().await);
    let proxy = Proxy::with(broker.addr(), &variables).await;
    sleep(Duration::from_millis(500)).await;
    services.push(Running::start_at(address, telling()).await);
    more(&services[2], 1000).await;
    over.store(true, Ordering::SeqCst);
    let mut acknowledged = BTreeSet::new();
    while let Some(client) = clients.join_next().await {
        acknowledged.extend(client.unwrap());
    }
    // It ends when all is told, and the service has confirmed it.
    proxy.stop().await;

    let mut all = Heard { events: BTreeMap::new(), dropped: BTreeSet::new(), runs: BTreeSet::new() };
    for service in &services {
        let Heard { events, dropped, runs } = heard(service);
        for (sequence, told) in events {
            if let Some(before) = all.events.insert(sequence, told.clone()) {
                let same = (&before.client_id, before.epoch, &before.what);
                assert_eq!(same, (&told.client_id, told.epoch, &told.what), "told again, and otherwise");
            }
        }
        all.dropped.extend(dropped);
        all.runs.extend(runs);
    }
    let Heard { events, dropped, runs } = all;
    assert_eq!(runs.len(), 1, "the numbering goes on");
    let last = *events.last_key_value().unwrap().0;
    let missing: Vec<_> =
        (1..=last).filter(|sequence| !events.contains_key(sequence) && !dropped.contains(sequence)).collect();
    assert!(missing.is_empty(), "neither told nor in a gap: {missing:?}");
    let told: HashMap<_, _> = events.values().map(|told| (told.what.as_str(), told)).collect();
    let lost = acknowledged.iter().filter(|topic| !told.contains_key(topic.as_str())).count();
    println!(
        "{} acknowledged, {} events, {} numbers in gaps, {lost} acknowledged and not told",
        acknowledged.len(),
        events.len(),
        dropped.len()
    );
    assert!(acknowledged.len() > 1500, "{}", acknowledged.len());
    assert!(lost <= dropped.len() && lost < 100, "{lost} lost, {} in gaps", dropped.len());
    // Each connection begins and ends once, and its publishes stand between in their order.
    let mut open = HashMap::new();
    for told in events.values() {
        let key = (told.client_id.clone(), told.epoch);
        match told.what.as_str() {
            "connect" => assert!(open.insert(key, 0).is_none()),
            what if what.starts_with("disconnect") => assert!(open.remove(&key).is_some(), "{told:?}"),
            topic => {
                let number: u64 = topic.split_once('/').unwrap().1.parse().unwrap();
                let before = open.get_mut(&key).unwrap_or_else(|| panic!("of nobody: {told:?}"));
                assert!(number > *before, "out of order: {told:?} behind {before}");
                *before = number;
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
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
