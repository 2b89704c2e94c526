//! Real clients through mproxy to real brokers, with nothing but the inherited variables set: what works without
//! mproxy between them must work with it.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "support/devices.rs"]
mod devices;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use mproxy_testkit::embedded::EmbeddedBroker;
use mproxy_testkit::mosquitto::{Mosquitto, publish, subscribe, subscriber};
use mproxy_testkit::process::{Process, raise_file_limit};
use mproxy_testkit::wire::{self, Publish, Version, WireClient};
use support::{Proxy, until};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// What mosquitto and its clients speak.
const SPOKEN: [&str; 3] = ["mqttv31", "mqttv311", "mqttv5"];

/// What the embedded broker speaks.
const SPOKEN_EMBEDDED: [&str; 2] = ["mqttv311", "mqttv5"];

async fn said(process: &mut Process, line: &str) {
    process.line(line).await.unwrap_or_else(|failed| panic!("{failed}"));
}

/// `mosquitto_pub`, which must end well.
async fn sent(to: SocketAddr, args: &[&str]) {
    let ended = publish(to, args).await;
    assert_eq!(ended.code(), Some(0), "{args:?}: {:#?}", ended.lines);
}

// ---- the same for both brokers

async fn every_qos_arrives(door: SocketAddr, version: &str) {
    let topic = format!("qos/{version}/#");
    let mut reader =
        subscriber(door, ["-V", version, "-t", &topic, "-q", "2", "-F", "got %q %t %p", "-C", "3"]).await;
    for qos in ["0", "1", "2"] {
        sent(door, &["-V", version, "-q", qos, "-t", &format!("qos/{version}/{qos}"), "-m", "hello you"])
            .await;
        said(&mut reader, &format!("got {qos} qos/{version}/{qos} hello you")).await;
    }
    assert_eq!(reader.end().await.unwrap().code(), Some(0));
}

async fn retained_messages_wait(door: SocketAddr, version: &str) {
    let topic = format!("kept/{version}");
    let read = ["-V", version, "-t", &topic, "-F", "%r %p", "-C", "1", "-W", "15"];
    sent(door, &["-V", version, "-q", "1", "-t", &topic, "-r", "-m", "still here"]).await;
    let ended = subscribe(door, read).await;
    assert_eq!(ended.lines, ["1 still here"], "{version}");
    // An empty one takes it away; what comes then is not retained.
    sent(door, &["-V", version, "-q", "1", "-t", &topic, "-r", "-n"]).await;
    let mut reader = subscriber(door, read).await;
    sent(door, &["-V", version, "-q", "1", "-t", &topic, "-m", "fresh"]).await;
    said(&mut reader, "0 fresh").await;
}

async fn wills_fire(door: SocketAddr, version: &str) {
    let (topic, id) = (format!("wills/{version}"), format!("mortal-{version}"));
    let mut watcher = subscriber(door, ["-V", version, "-t", &topic, "-q", "2", "-F", "will: %p"]).await;
    let with_will = |name: &str| {
        let will = ["--will-topic", &topic, "--will-qos", "2", "--will-payload", name].map(str::to_owned);
        ["-V", version, "-i", &id, "-t", "nothing"].map(str::to_owned).into_iter().chain(will)
    };
    let killed = subscriber(door, with_will("of the killed")).await;
    killed.signal("KILL").await;
    said(&mut watcher, "will: of the killed").await;

    // Its DISCONNECT takes the will away. The broker has seen it when the same client comes back and is answered,
    // and the next will then shows that this one never came.
    let polite = publish(door, with_will("of the polite").chain(["-m".to_owned(), "bye".to_owned()])).await;
    assert_eq!(polite.code(), Some(0), "{:#?}", polite.lines);
    let another = subscriber(door, with_will("of another")).await;
    if version == "mqttv5" {
        // On SIGTERM mosquitto_sub says DISCONNECT with 0x04, which wants the will.
        another.signal("TERM").await;
    } else {
        another.signal("KILL").await;
    }
    said(&mut watcher, "will: of another").await;
    let wills: Vec<_> = watcher.lines().into_iter().filter(|line| line.starts_with("will:")).collect();
    assert_eq!(wills, ["will: of the killed", "will: of another"], "{version}");
}

// ---- mosquitto

#[tokio::test]
async fn messages_of_every_qos_and_version_arrive() {
    let broker = Mosquitto::start().await;
    let proxy = Proxy::before(broker.addr()).await;
    for version in SPOKEN {
        every_qos_arrives(proxy.mqtt, version).await;
    }
    proxy.stop().await;
}

#[tokio::test]
async fn clients_of_one_version_hear_those_of_another() {
    let broker = Mosquitto::start().await;
    let proxy = Proxy::before(broker.addr()).await;
    for (from, to) in [("mqttv31", "mqttv5"), ("mqttv5", "mqttv311"), ("mqttv311", "mqttv31")] {
        let mut reader = subscriber(proxy.mqtt, ["-V", to, "-t", "a/+", "-q", "1", "-F", "got %p"]).await;
        sent(proxy.mqtt, &["-V", from, "-t", "a/b", "-q", "1", "-m", &format!("from {from}")]).await;
        said(&mut reader, &format!("got from {from}")).await;
    }
    proxy.stop().await;
}

#[tokio::test]
async fn retained_messages_are_kept_for_those_who_come_later() {
    let broker = Mosquitto::start().await;
    let proxy = Proxy::before(broker.addr()).await;
    for version in SPOKEN {
        retained_messages_wait(proxy.mqtt, version).await;
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_will_fires_for_the_killed_and_not_for_the_polite() {
    let broker = Mosquitto::start().await;
    let proxy = Proxy::before(broker.addr()).await;
    for version in SPOKEN {
        wills_fire(proxy.mqtt, version).await;
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_persistent_session_is_found_again_with_what_it_missed() {
    let broker = Mosquitto::start().await;
    let proxy = Proxy::before(broker.addr()).await;
    for version in SPOKEN {
        let id = format!("desk-{version}");
        let topic = format!("queue/{version}");
        let mut args = vec!["-V", version, "-i", &id, "-c", "-q", "1", "-t", &topic, "-F", "got %p"];
        if version == "mqttv5" {
            args.extend(["-x", "300"]);
        }
        let away = subscriber(proxy.mqtt, &args).await;
        away.signal("TERM").await;
        away.end().await.unwrap();
        for message in ["one", "two", "three"] {
            sent(proxy.mqtt, &["-V", version, "-q", "1", "-t", &topic, "-m", message]).await;
        }
        let mut back = subscriber(proxy.mqtt, &args).await;
        said(&mut back, "got three").await;
        let got: Vec<_> = back.lines().into_iter().filter(|line| line.starts_with("got ")).collect();
        assert_eq!(got, ["got one", "got two", "got three"], "{version}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_shared_subscription_gives_each_message_to_one() {
    const MESSAGES: usize = 20;
    let broker = Mosquitto::start().await;
    let proxy = Proxy::before(broker.addr()).await;
    for version in ["mqttv311", "mqttv5"] {
        let filter = format!("$share/workers/jobs/{version}/#");
        let args = ["-V", version, "-q", "1", "-t", &filter, "-F", "job %p"];
        let workers = [subscriber(proxy.mqtt, args).await, subscriber(proxy.mqtt, args).await];
        let sends: Vec<String> = (0..MESSAGES).map(|job| job.to_string()).collect();
        for job in &sends {
            sent(proxy.mqtt, &["-V", version, "-q", "1", "-t", &format!("jobs/{version}/x"), "-m", job])
                .await;
        }
        let jobs = || {
            let lines = workers.iter().map(Process::lines);
            let jobs = lines.map(|lines| lines.into_iter().filter(|line| line.starts_with("job ")).count());
            jobs.collect::<Vec<_>>()
        };
        until("the last job", || {
            let done: usize = jobs().iter().sum();
            async move { done >= MESSAGES }
        })
        .await;
        let mut done: Vec<String> = workers.iter().flat_map(Process::lines).collect();
        done.retain(|line| line.starts_with("job "));
        done.sort();
        let mut expected: Vec<String> = sends.iter().map(|job| format!("job {job}")).collect();
        expected.sort();
        assert_eq!(done, expected, "{version}: none lost, none twice");
        assert!(jobs().iter().all(|&share| share > 0), "{version}: {:?}", jobs());
    }
    proxy.stop().await;
}

#[tokio::test]
async fn large_payloads_arrive_whole() {
    let broker = Mosquitto::start().await;
    let proxy = Proxy::before(broker.addr()).await;
    let folder = tempfile::tempdir().unwrap();
    // No period of it is a power of two, as those of buffers are.
    let payload: Vec<u8> = (0..5_000_003u32).map(|at| (at % 251) as u8).collect();
    let file = folder.path().join("payload");
    std::fs::write(&file, &payload).unwrap();
    for (version, flag) in support::VERSIONS.map(|version| (version, support::flag(version))) {
        let mut reader = proxy.login(version, "reader").await;
        reader.send(&wire::subscribe(version, 1, &[("large", 2)])).await;
        reader.expect(&wire::suback(version, 1, &[2])).await;
        for qos in [0u8, 1, 2] {
            let name = file.to_str().unwrap();
            sent(proxy.mqtt, &["-V", flag, "-q", &qos.to_string(), "-t", "large", "-f", name]).await;
            let delivered = reader.packet().await;
            assert_eq!(delivered[0] >> 1 & 3, qos);
            assert!(delivered.ends_with(&payload), "{flag} QoS {qos}: {} bytes", delivered.len());
        }
        // And down to a real client.
        let length = payload.len().to_string();
        let mut real = subscriber(proxy.mqtt, ["-V", flag, "-t", "large/down", "-F", "length %l"]).await;
        let large = Publish { topic: "large/down", payload: &payload, ..Publish::default() };
        proxy.login(version, "writer").await.send(&wire::publish(version, &large)).await;
        said(&mut real, &format!("length {length}")).await;
    }
    proxy.stop().await;
}

// ---- the embedded broker

#[tokio::test]
async fn the_embedded_broker_is_reached_as_well() {
    let broker = EmbeddedBroker::start().await;
    let proxy = Proxy::before(broker.addr()).await;
    for version in SPOKEN_EMBEDDED {
        every_qos_arrives(proxy.mqtt, version).await;
        retained_messages_wait(proxy.mqtt, version).await;
        wills_fire(proxy.mqtt, version).await;
    }
    proxy.stop().await;
}

// ---- rumqttc

#[tokio::test]
async fn rumqttc_talks_to_itself_through_it() {
    let broker = Mosquitto::start().await;
    let mut proxy = Proxy::before(broker.addr()).await;
    devices::rumqttc_311(proxy.mqtt).await;
    proxy.line(&["client_id=\"rumqttc-4\"", "cause=\"left\""]).await;
    devices::rumqttc_5(proxy.mqtt).await;
    proxy.line(&["client_id=\"rumqttc-5\"", "cause=\"left\""]).await;
    proxy.stop().await;
}

// ---- many

#[tokio::test]
async fn a_thousand_clients_at_once_exchange_a_message_each() {
    const CLIENTS: u16 = 1000;
    // Two connections for each in mproxy, one in mosquitto, one here.
    raise_file_limit(4 * u64::from(CLIENTS));
    let broker = Mosquitto::start().await;
    let proxy = Proxy::before(broker.addr()).await;
    let (door, all_here) = (proxy.mqtt, Arc::new(Barrier::new(usize::from(CLIENTS) + 1)));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let all_here = Arc::clone(&all_here);
        clients.spawn(async move {
            let version = [Version::V31, Version::V311, Version::V5][usize::from(number % 3)];
            let qos = (number % 2) as u8 + 1;
            let mut client = WireClient::login(door, version, &format!("many-{number}")).await;
            client.send(&wire::subscribe(version, 1, &[(&format!("many/{number}"), qos)])).await;
            client.expect(&wire::suback(version, 1, &[qos])).await;
            all_here.wait().await;
            all_here.wait().await;
            let (next, words) = ((number + 1) % CLIENTS, format!("from {number}"));
            let message = Publish {
                topic: &format!("many/{next}"),
                payload: words.as_bytes(),
                qos: 1,
                packet_id: 2,
                ..Publish::default()
            };
            client.send(&wire::publish(version, &message)).await;
            // Its acknowledgement and the neighbour's message come in either order.
            let mut came = [client.packet().await, client.packet().await];
            came.sort_by_key(|packet| packet[0] >> 4);
            let before = (number + CLIENTS - 1) % CLIENTS;
            assert_eq!(came[0][0] >> 4, 3, "{number} got no message: {came:02x?}");
            assert!(came[0].ends_with(format!("from {before}").as_bytes()), "{number} got {:02x?}", came[0]);
            assert_eq!(came[1][0] >> 4, 4, "{number} got no PUBACK: {came:02x?}");
        });
    }
    all_here.wait().await;
    assert_eq!(proxy.metric("mproxy_connections_open{listener=\"mqtt\"}").await, f64::from(CLIENTS));
    all_here.wait().await;
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    until("the end of all sessions", async || {
        proxy.metric("mproxy_connections_open{listener=\"mqtt\"}").await == 0.0
    })
    .await;
    proxy.stop().await;
}
