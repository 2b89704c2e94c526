//! In an upgrade plain sessions keep their two sockets: a new process goes on with them, and their clients notice nothing.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mproxy_testkit::broker::{Acks, BrokerScript, RecordingBroker};
use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::service::contract::HelloResponse;
use mproxy_testkit::service::{ObservePlay, Running, Service};
use mproxy_testkit::wire::{self, Publish, Version, WireClient};
use support::upgrading::{Old, says, says_ready, web, web_client};
use support::{http, until};
use tempfile::TempDir;

const VERSION: Version = Version::V311;

/// Publishes numbers, one at a time, each until it is acknowledged to the end. Gives the last.
async fn publishes(mut client: WireClient, qos: u8, goes_on: Arc<AtomicBool>) -> u32 {
    let topic = format!("numbers/{qos}");
    for number in 1.. {
        let payload = number.to_string();
        let message =
            Publish { topic: &topic, payload: payload.as_bytes(), qos, packet_id: 7, ..Publish::default() };
        client.send(&wire::publish(VERSION, &message)).await;
        match qos {
            // A PINGRESP behind it tells that it was read.
            0 => client.expect_nothing_but_pingresp().await,
            1 => client.expect(&wire::puback(7)).await,
            _ => {
                client.expect(&wire::pubrec(7)).await;
                client.send(&wire::pubrel(7)).await;
                client.expect(&wire::pubcomp(7)).await;
            }
        }
        if !goes_on.load(Ordering::SeqCst) {
            return number;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    unreachable!("numbers go on")
}

/// Takes what comes and acknowledges it, until somebody says that this is the end. Gives what came of each QoS, in order.
async fn listens(mut client: WireClient) -> BTreeMap<u8, Vec<u32>> {
    let mut came: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
    loop {
        let packet = client.packet().await;
        let (kind, qos) = (packet[0] >> 4, packet[0] >> 1 & 3);
        match kind {
            3 => {
                // Topics and payloads are short: one byte of length.
                let end = 4 + usize::from(packet[3]);
                let at = if qos == 0 { end } else { end + 2 };
                let number = std::str::from_utf8(&packet[at..]).unwrap();
                if number == "end" {
                    return came;
                }
                came.entry(qos).or_default().push(number.parse().unwrap());
                let id = packet[end..at].try_into().map_or(0, u16::from_be_bytes);
                match qos {
                    0 => {}
                    1 => client.send(&wire::puback(id)).await,
                    _ => client.send(&wire::pubrec(id)).await,
                }
            }
            6 => client.send(&wire::pubcomp(u16::from_be_bytes([packet[2], packet[3]]))).await,
            13 => {}
            other => panic!("{other}"),
        }
    }
}

async fn sessions(old: &Old) -> Vec<(String, String)> {
    let (status, page) = http(old.admin, "GET", "/api/v1/sessions?limit=1000").await;
    assert_eq!(status, 200, "{page}");
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    let one = |session: &serde_json::Value| {
        let text = |name: &str| session[name].as_str().unwrap_or_default().to_owned();
        (text("client_id"), format!("{} {}", text("connection_id"), text("connected_since")))
    };
    let mut sessions: Vec<_> = page["sessions"].as_array().unwrap().iter().map(one).collect();
    sessions.sort();
    sessions
}

async fn handed_over(old: &Old) -> Option<u64> {
    old.metric("mproxy_upgrade_sessions_total{outcome=\"handed_over\"}").await
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_sessions_go_through_upgrades_in_a_row_with_nothing_lost_and_nothing_doubled() {
    let broker = Mosquitto::start().await;
    let mut old = Old::start(broker.addr(), "", &[]).await;
    let goes_on = Arc::new(AtomicBool::new(true));
    let mut listener = WireClient::login(old.mqtt, VERSION, "listener").await;
    listener.send(&wire::subscribe(VERSION, 1, &[("numbers/#", 2)])).await;
    listener.packet().await;
    let listening = tokio::spawn(listens(listener));
    let mut publishing = Vec::new();
    for qos in 0..3 {
        let client = WireClient::login(old.mqtt, VERSION, &format!("publisher{qos}")).await;
        publishing.push(tokio::spawn(publishes(client, qos, Arc::clone(&goes_on))));
    }
    let before = sessions(&old).await;
    assert_eq!(before.len(), 4);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(old.upgrade().await.0, 200);
        until("the sessions", async || handed_over(&old).await == Some(4)).await;
        assert_eq!(sessions(&old).await, before, "the same connections");
    }
    goes_on.store(false, Ordering::SeqCst);
    let mut last = Vec::new();
    for publisher in publishing {
        last.push(publisher.await.expect("its socket is the same"));
    }
    let mut end = WireClient::login(broker.addr(), VERSION, "end").await;
    // Behind all others of QoS 2.
    let message = Publish { topic: "numbers/end", payload: b"end", ..Publish::default() };
    tokio::time::sleep(Duration::from_millis(300)).await;
    end.send(&wire::publish(VERSION, &message)).await;
    let came = listening.await.expect("its socket is the same");
    for (qos, last) in (0..3).zip(last) {
        assert_eq!(came[&qos], (1..=last).collect::<Vec<_>>(), "QoS {qos}");
        assert!(last > 20, "{last}");
    }
    assert_eq!(old.process.end().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn what_is_half_read_half_acknowledged_and_half_through_goes_on() {
    let mut broker =
        RecordingBroker::start(BrokerScript { acks: Acks::ByHand, ..BrokerScript::default() }).await;
    let mut old = Old::start(broker.addr(), "", &[]).await;
    let mut client = WireClient::login(old.mqtt, VERSION, "client").await;
    let mut session = broker.session().await;
    session.packets(1).await;
    // A QoS 2 flow is half way, and a payload is half through.
    let second = Publish { topic: "b", payload: b"2", qos: 2, packet_id: 2, ..Publish::default() };
    client.send(&wire::publish(VERSION, &second)).await;
    session.packets(2).await;
    session.send(wire::pubrec(2)).await;
    client.expect(&wire::pubrec(2)).await;
    let payload: Vec<u8> = (0..16 << 20).map(|n: usize| (n % 251) as u8).collect();
    let large = Publish { topic: "a", payload: &payload, qos: 1, packet_id: 3, ..Publish::default() };
    let large = wire::publish(VERSION, &large);
    let so_far = session.received().len();
    client.send(&large[..8 << 20]).await;
    session.bytes(so_far + (7 << 20)).await;
    assert_eq!(old.upgrade().await.0, 200);
    until("the session", async || handed_over(&old).await == Some(1)).await;
    assert_eq!(old.process.end().await.unwrap().code(), Some(0), "nobody is left in it");
    client.send(&large[8 << 20..]).await;
    let packets = session.packets(3).await;
    assert!(packets[2] == large);
    session
        .send(
            [wire::puback(3), wire::publish(VERSION, &Publish { topic: "down", ..Publish::default() })]
                .concat(),
        )
        .await;
    client.expect(&wire::puback(3)).await;
    client.packet().await;
    client.send(&wire::pubrel(2)).await;
    assert_eq!(session.packets(4).await[3], wire::pubrel(2));
    session.send(wire::pubcomp(2)).await;
    client.expect(&wire::pubcomp(2)).await;
}

#[tokio::test]
async fn a_session_over_unix_sockets_goes_over_too() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mqtt.sock");
    let mut old = Old::start(broker.addr(), &format!("unix.path = {path:?}\n"), &[]).await;
    let mut client = WireClient::open_unix(&path).await.logged_in(Version::V5, "near").await;
    assert_eq!(old.upgrade().await.0, 200);
    until("the session", async || handed_over(&old).await == Some(1)).await;
    client.expect_nothing_but_pingresp().await;
    assert_eq!(old.process.end().await.unwrap().code(), Some(0));
    client.expect_nothing_but_pingresp().await;
}

#[tokio::test]
async fn a_new_process_that_dies_half_way_leaves_the_session_where_it_was() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut old = Old::start(broker.addr(), "", &[]).await;
    let mut client = WireClient::login(old.mqtt, Version::V5, "client").await;
    let ready = says_ready();
    let refuses = says(r#"{"message":"received","refused":["full"]}"#);
    let nonsense = says(r#"{"message":"received","refused":[]}"#);
    for rest in ["exit 7", "head -c 1 >/dev/null", "exec sleep 60", &nonsense, &refuses] {
        old.replace_program(&format!("{ready}\n{rest}"));
        let (status, answer) = old.upgrade().await;
        assert_eq!(status, 422, "{rest}: {answer}");
        assert!(!answer.to_string().contains("out of turn"), "sessions were offered: {rest}: {answer}");
        client.expect_nothing_but_pingresp().await;
        old.still_serves("another").await;
    }
}

#[tokio::test]
async fn one_that_dies_with_a_part_of_them_has_none_of_them() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut old = Old::start(broker.addr(), "", &[]).await;
    // More than go over in one message.
    let mut clients = Vec::new();
    for number in 0..70 {
        clients.push(WireClient::login(old.mqtt, Version::V5, &format!("client{number}")).await);
    }
    let ready = says_ready();
    let nulls = vec!["null"; 64].join(",");
    let takes = says(&format!(r#"{{"message":"received","refused":[{nulls}]}}"#));
    old.replace_program(&format!("{ready}\n{takes}\nexec sleep 60"));
    let (status, answer) = old.upgrade().await;
    assert_eq!(status, 422, "{answer}");
    for client in &mut clients {
        client.expect_nothing_but_pingresp().await;
    }
    assert_eq!(sessions(&old).await.len(), 70);
    old.still_serves("another").await;
}

#[tokio::test]
async fn one_that_dies_before_it_serves_has_none_of_them() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut old = Old::start(broker.addr(), "", &[]).await;
    let mut client = WireClient::login(old.mqtt, Version::V5, "client").await;
    let (ready, takes) = (says_ready(), says(r#"{"message":"received","refused":[null]}"#));
    for rest in ["sleep 0.3; exit 7", "exec sleep 60"] {
        old.replace_program(&format!("{ready}\n{takes}\n{rest}"));
        let (status, answer) = old.upgrade().await;
        assert_eq!(status, 422, "{rest}: {answer}");
        client.expect_nothing_but_pingresp().await;
        assert_eq!(sessions(&old).await.len(), 1);
        old.still_serves("another").await;
    }
}

#[tokio::test]
async fn one_that_reads_another_form_of_sessions_gets_none() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let mut old = Old::start(broker.addr(), "upgrade_stay = \"20s\"\n", &[]).await;
    let mut client = WireClient::login(old.mqtt, Version::V5, "client").await;
    let ready = says(r#"{"message":"ready","protocol":1,"version":"9","session_form":"9.9"}"#);
    let serving = says(r#"{"message":"serving"}"#);
    old.replace_program(&format!("{ready}\n{serving}\nexec sleep 3"));
    assert_eq!(old.upgrade().await.0, 200);
    let line = old.process.line("another form of sessions").await.unwrap();
    assert!(line.contains("theirs=\"9.9\""), "{line}");
    let line = old.process.line("sessions handed over").await.unwrap();
    assert!(line.contains("handed_over=0") && line.contains("reasons=\"other_form=1\""), "{line}");
    client.expect_nothing_but_pingresp().await;
    drop(client);
    assert_eq!(old.process.end().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn what_is_more_than_a_socket_stays_and_is_counted() {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let settings = format!("upgrade_stay = \"20s\"\n{}", web(broker.addr()));
    let mut old = Old::start(broker.addr(), &settings, &[]).await;
    let mut stays = web_client(&mut old, "stays").await;
    let mut goes = WireClient::login(old.mqtt, Version::V5, "goes").await;
    assert_eq!(old.upgrade().await.0, 200);
    let series = "mproxy_upgrade_sessions_total{outcome=\"transport\"}";
    until("the counts", async || old.metric(series).await == Some(1)).await;
    assert_eq!(handed_over(&old).await, Some(1));
    assert_eq!(sessions(&old).await.len(), 1);
    stays.expect_nothing_but_pingresp().await;
    goes.expect_nothing_but_pingresp().await;
    assert!(old.process.is_running());
    drop(stays);
    assert_eq!(old.process.end().await.unwrap().code(), Some(0));
    goes.expect_nothing_but_pingresp().await;
}

/// Events, as `client: what`, and from how many processes.
async fn told_of_two_processes(spool: bool) {
    let broker = RecordingBroker::start(BrokerScript::default()).await;
    let service = Running::start(Service {
        hello: Some(HelloResponse { streams: true, ..HelloResponse::default() }),
        observe: ObservePlay::Confirm,
        ..Service::default()
    })
    .await;
    let folder = TempDir::new().unwrap();
    let mut settings = format!("policy.url = \"{}\"\n", service.url);
    if spool {
        settings += &format!("events.spool = {:?}\n", folder.path());
    }
    let mut old = Old::start(broker.addr(), &settings, &[]).await;
    old.process.line("policy endpoint healthy").await.unwrap();
    let mut client = WireClient::login(old.mqtt, Version::V5, "client").await;
    let subscribe = wire::subscribe(Version::V5, 1, &[("a", 1)]);
    client.send(&subscribe).await;
    client.packet().await;
    assert_eq!(old.upgrade().await.0, 200);
    until("the session", async || handed_over(&old).await == Some(1)).await;
    client.send(&wire::unsubscribe(Version::V5, 2, &["a"])).await;
    client.packet().await;
    client.send(&wire::disconnect()).await;
    let told = service.events_when(|told| told.len() == 4).await;
    let what: Vec<_> =
        told.iter().map(|told| told.what.trim_end_matches(" client disconnected (0x00)")).collect();
    assert_eq!(what, ["connect", "subscribe a=1", "unsubscribe a", "disconnect"]);
    assert!(told.iter().all(|one| one.epoch == told[0].epoch), "one connection");
}

#[tokio::test]
async fn connect_is_told_once_and_all_else_behind_it() {
    told_of_two_processes(false).await;
}

#[tokio::test]
async fn the_same_with_a_spool_that_changes_hands() {
    told_of_two_processes(true).await;
}
