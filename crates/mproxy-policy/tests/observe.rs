//! Events over HookStream.Observe: a real service, several where one is not enough.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod service;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::numbered;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::QoS;
use mproxy_core::budget::{Budget, Purse};
use mproxy_core::event::{Ended, Event, Happening, Kind, Published, Sink, Traffic};
use mproxy_core::fault::Fault;
use mproxy_core::policy::Want;
use mproxy_policy::remote::{Remote, RemoteConfig, SpoolConfig};
use mproxy_policy::watch::{DropReason, EventStreamEnd, SpoolLoss};
use mproxy_testkit::service::contract::{Gap, HelloResponse, ObserveRequest};
use mproxy_testkit::service::{Confirmations, ObservePlay, Play, Running, Service, Told};
use service::{AMPLE, Seen};
use tonic::Status;

fn config(urls: &[&str]) -> RemoteConfig {
    RemoteConfig {
        instance: "edge-1".into(),
        version: "1.2.3".into(),
        max_in_flight: 64,
        ..service::config(urls, AMPLE)
    }
}

fn started(config: RemoteConfig) -> (Arc<Remote>, Seen) {
    let seen = Seen::default();
    (Remote::start(config, Arc::new(seen.clone())).unwrap(), seen)
}

fn remote(urls: &[&str]) -> (Arc<Remote>, Seen) {
    started(config(urls))
}

/// A service that serves streams and does this with events.
fn streaming(observe: ObservePlay) -> Service {
    Service {
        hello: Some(HelloResponse { streams: true, ..HelloResponse::default() }),
        observe,
        ..Service::default()
    }
}

fn script(script: impl Fn(&ObserveRequest, &Confirmations) + Send + Sync + 'static) -> ObservePlay {
    ObservePlay::Script(Box::new(script))
}

fn event(connection: u128, what: Happening) -> Event {
    Event { peer: numbered(connection, &format!("c{connection}"), None).peer, what, purse: None }
}

fn publish_of(connection: u128, topic: &str) -> Event {
    let published =
        Published { topic: topic.into(), qos: QoS::AtMostOnce, retain: false, size: 0, payload: None };
    event(connection, Happening::Publish(Box::new(published)))
}

fn left() -> Happening {
    let fault = Fault::BrokerLeft { reason: ReasonCode::SUCCESS };
    Happening::Disconnect(Box::new(Ended { fault, will_suppressed: true, traffic: Traffic::default() }))
}

const CAME: Happening = Happening::Connect { session_present: false };

fn sequences(told: &[Told]) -> Vec<u64> {
    told.iter().map(|told| told.sequence).collect()
}

fn events_of(stream: usize, observed: &[(usize, ObserveRequest)]) -> Vec<u64> {
    let requests = observed.iter().filter(|(number, _)| *number == stream);
    requests.flat_map(|(_, request)| request.events.iter().map(|event| event.sequence())).collect()
}

#[tokio::test]
async fn all_events_go_over_one_stream_in_the_order_of_their_numbers() {
    let service = Running::start(streaming(ObservePlay::Confirm)).await;
    let (remote, seen) = remote(&[&service.url]);
    let peers: Vec<_> = (0..20).map(|client| numbered(client, &format!("c{client}"), None).peer).collect();
    for number in 0..500 {
        let peer = Arc::clone(&peers[number % 20]);
        remote.report(Event { peer, ..publish_of(0, &number.to_string()) });
    }
    remote.flush(AMPLE).await;
    let told = service.events();
    assert_eq!(sequences(&told), (1..=500).collect::<Vec<_>>());
    for (number, told) in told.iter().enumerate() {
        assert_eq!(
            (told.client_id.clone(), told.what.clone()),
            (format!("c{}", number % 20), number.to_string())
        );
    }
    let observed = service.observed();
    let first = &observed[0].1;
    let hello = first.hello.clone().unwrap();
    assert_eq!(
        (hello.version.as_str(), hello.instance.as_str(), first.run_id.len()),
        ("1.2.3", "edge-1", 36)
    );
    assert!(observed[1..].iter().all(|(_, request)| request.hello.is_none() && request.run_id.is_empty()));
    let introduced: usize = observed.iter().map(|(_, request)| request.introduce.len()).sum();
    assert_eq!(introduced, 20, "each client once");
    assert_eq!((service.calls("Publish"), service.calls("Observe")), (0, 1));
    assert_eq!((seen.events_confirmed(), seen.events_sent(), seen.events_kept()), (500, (500, 0), (0, 0)));
    assert_eq!(seen.event_streams_ended(), [EventStreamEnd::Finished]);
}

#[tokio::test]
async fn a_client_is_forgotten_once_its_disconnect_is_confirmed() {
    let service = Running::start(streaming(script(|request, confirmations| {
        if request.last() >= 3 {
            confirmations.send(request.last());
        }
    })))
    .await;
    let (remote, _) = remote(&[&service.url]);
    remote.report(event(1, CAME));
    remote.report(event(1, left()));
    service.events_when(|told| told.len() == 2).await;
    assert!(service.observed().iter().all(|(_, request)| request.forget.is_empty()));
    remote.report(event(2, CAME));
    let observed =
        service.observed_when(|all| all.iter().any(|(_, request)| !request.forget.is_empty())).await;
    let introduced = observed.iter().flat_map(|(_, request)| &request.introduce).next().unwrap();
    assert_eq!(observed.last().unwrap().1.forget, [introduced.client_ref]);
    assert_eq!(introduced.client.as_ref().unwrap().client_id, "c1");
}

#[tokio::test]
async fn what_was_not_confirmed_is_sent_again_after_the_service_died() {
    let part = script(|request, confirmations| confirmations.send(request.last().min(7)));
    let service = Running::start(streaming(part)).await;
    let (remote, seen) = remote(&[&service.url]);
    for number in 1..=10 {
        remote.report(publish_of(number, "a"));
    }
    service.events_when(|told| told.len() == 10).await;
    seen.until_confirmed(7).await;
    let run = service.observed()[0].1.run_id.clone();
    let address = service.address();
    service.kill();
    remote.report(publish_of(11, "while it was away"));
    let service = Running::start_at(address, streaming(ObservePlay::Confirm)).await;
    let told = service.events_when(|told| told.len() == 4).await;
    assert_eq!(sequences(&told), [8, 9, 10, 11]);
    assert_eq!(told[0].client_id, "c8", "introduced anew");
    assert_eq!(service.observed()[0].1.run_id, run, "the numbering is the same");
    remote.flush(AMPLE).await;
    let (sent, again) = seen.events_sent();
    assert_eq!((seen.events_confirmed(), sent - again), (11, 11));
    assert!((3..=4).contains(&again), "the last one may have been sent to the one that died");
}

#[tokio::test]
async fn a_service_that_knows_its_cursor_is_not_sent_the_rest_again() {
    let stored = Arc::new(AtomicU64::new(0));
    let store = Arc::clone(&stored);
    // It stores everything and dies before it can say so; when it is back it says first how far it is.
    let service = Running::start(streaming(script(move |request, _| {
        store.fetch_max(request.last(), Ordering::SeqCst);
    })))
    .await;
    let (remote, _) = remote(&[&service.url]);
    for number in 1..=10 {
        remote.report(publish_of(number, "a"));
    }
    service.events_when(|told| told.len() == 10).await;
    let address = service.address();
    service.kill();
    let cursor = stored.load(Ordering::SeqCst);
    let back = script(move |request, confirmations| confirmations.send(request.last().max(cursor)));
    let service = Running::start_at(address, streaming(back)).await;
    service.observed_when(|all| !all.is_empty()).await;
    remote.flush(AMPLE).await;
    // What was on its way may have come twice; nothing is waited for.
    assert!(service.events().len() <= 10);
}

#[tokio::test]
async fn what_has_no_room_is_told_as_one_gap() {
    let held: Arc<Mutex<Option<Confirmations>>> = Arc::default();
    let hold = Arc::clone(&held);
    let service = Running::start(streaming(script(move |_, confirmations| {
        *hold.lock().unwrap() = Some(confirmations.clone());
    })))
    .await;
    let (remote, seen) = started(RemoteConfig { event_buffer: 4000, ..config(&[&service.url]) });
    seen.until_healthy(true).await;
    for _ in 0..30 {
        remote.report(publish_of(1, "flood"));
    }
    let dropped = seen.dropped(Kind::Publish, DropReason::QueueFull) as u64;
    assert!((15..30).contains(&dropped), "{dropped}");
    // The last quarter is for these.
    remote.report(event(2, CAME));
    let kept = 30 - dropped;
    service.events_when(|told| told.len() as u64 == kept + 1).await;
    let gaps = |service: &Running| -> Vec<Gap> {
        service.observed().iter().flat_map(|(_, request)| request.gaps.clone()).collect()
    };
    let total: u64 = gaps(&service).iter().map(|gap| gap.to - gap.from + 1).sum();
    assert_eq!((total, gaps(&service)[0].from, gaps(&service).last().unwrap().to), (dropped, kept + 1, 30));
    // Nobody makes room but a confirmation.
    let confirmations = held.lock().unwrap().clone().unwrap();
    confirmations.send(31);
    seen.until_confirmed(kept + 1).await;
    remote.report(publish_of(1, "room again"));
    service.events_when(|told| told.iter().any(|told| told.sequence == 32)).await;
    assert_eq!(gaps(&service).iter().map(|gap| gap.to - gap.from + 1).sum::<u64>(), dropped, "told once");
}

#[tokio::test]
async fn what_an_event_holds_is_put_down_until_it_is_confirmed() {
    let held: Arc<Mutex<Option<Confirmations>>> = Arc::default();
    let hold = Arc::clone(&held);
    let service = Running::start(streaming(script(move |_, confirmations| {
        *hold.lock().unwrap() = Some(confirmations.clone());
    })))
    .await;
    let (remote, seen) = remote(&[&service.url]);
    let budget = Arc::new(Budget::default());
    let purse = Purse::new(&budget, std::net::IpAddr::from([127, 0, 0, 1]).into());
    remote.report(Event { purse: Some(Arc::clone(&purse)), ..publish_of(1, "a") });
    service.events_when(|told| told.len() == 1).await;
    assert!(purse.held() > 0, "sent is not safe");
    let confirmations = held.lock().unwrap().clone().unwrap();
    confirmations.send(1);
    seen.until_confirmed(1).await;
    assert_eq!(purse.held(), 0);
}

#[tokio::test]
async fn a_cursor_from_the_future_ends_the_stream_and_loses_nothing() {
    let service = Running::start(streaming(script(|request, confirmations| {
        let ahead = if confirmations.stream == 1 { 1000 } else { 0 };
        if request.last() > 0 {
            confirmations.send(request.last() + ahead);
        }
    })))
    .await;
    let (remote, seen) = remote(&[&service.url]);
    for number in 1..=5 {
        remote.report(publish_of(number, "a"));
    }
    remote.flush(AMPLE).await;
    let observed = service.observed();
    assert_eq!(events_of(2, &observed), [1, 2, 3, 4, 5]);
    assert_eq!(seen.event_streams_ended()[0], EventStreamEnd::Future);
    assert_eq!(seen.events_confirmed(), 5);
}

#[tokio::test]
async fn a_cursor_that_goes_back_is_passed_over() {
    let service = Running::start(streaming(script(|request, confirmations| {
        if request.last() > 0 {
            confirmations.send(request.last());
            confirmations.send(1);
            confirmations.send(0);
        }
    })))
    .await;
    let (remote, seen) = remote(&[&service.url]);
    for number in 1..=5 {
        remote.report(publish_of(number, "a"));
        seen.until_confirmed(number as u64).await;
    }
    remote.flush(AMPLE).await;
    assert_eq!(sequences(&service.events()), [1, 2, 3, 4, 5]);
    assert_eq!(service.calls("Observe"), 1);
}

#[tokio::test]
async fn a_service_that_confirms_nothing_is_left_for_another() {
    let silent = Running::start(streaming(script(|_, _| {}))).await;
    let other = Running::start(streaming(ObservePlay::Confirm)).await;
    let impatient =
        RemoteConfig { confirm_within: Duration::from_millis(200), ..config(&[&silent.url, &other.url]) };
    let (remote, seen) = started(impatient);
    seen.until(|seen| seen.healthy_now() == 2).await;
    for number in 1..=5 {
        remote.report(publish_of(number, "a"));
    }
    other.events_when(|told| told.len() == 5).await;
    remote.flush(AMPLE).await;
    assert_eq!(sequences(&other.events()), [1, 2, 3, 4, 5]);
    assert!(seen.event_streams_ended().contains(&EventStreamEnd::Unconfirmed));
}

#[tokio::test]
async fn an_idle_service_owes_no_confirmation() {
    let service = Running::start(streaming(ObservePlay::Confirm)).await;
    let (remote, seen) =
        started(RemoteConfig { confirm_within: Duration::from_millis(50), ..config(&[&service.url]) });
    remote.report(publish_of(1, "a"));
    seen.until_confirmed(1).await;
    // Several times as long as it may take: a stream that had been given up would be a second one.
    tokio::time::sleep(Duration::from_millis(300)).await;
    remote.report(publish_of(1, "b"));
    seen.until_confirmed(2).await;
    assert_eq!(service.calls("Observe"), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_is_opened_again_from_the_first_that_was_not_confirmed() {
    let service = Running::start(streaming(script(|request, confirmations| {
        match (confirmations.stream, request.last()) {
            (_, 0) => {}
            (1, last) => {
                confirmations.send(last.min(2));
                confirmations.fail(Status::data_loss("half of it"));
            }
            (_, last) => confirmations.send(last),
        }
    })))
    .await;
    let (remote, seen) = remote(&[&service.url]);
    for number in 1..=5 {
        remote.report(publish_of(number, "a"));
    }
    remote.flush(AMPLE).await;
    let observed = service.observed();
    let again = events_of(2, &observed);
    assert!(again.len() >= 3 && again.ends_with(&[3, 4, 5]), "{again:?}");
    assert_eq!(seen.event_streams_ended()[0], EventStreamEnd::Broken);
    assert_eq!(seen.events_confirmed(), 5);
}

#[tokio::test]
async fn events_follow_the_endpoint_that_comes_first() {
    let first = Running::start(streaming(ObservePlay::Confirm)).await;
    let second = Running::start(streaming(ObservePlay::Confirm)).await;
    let address = first.address();
    let (remote, seen) = remote(&[&first.url, &second.url]);
    seen.until(|seen| seen.healthy_now() == 2).await;
    remote.report(publish_of(1, "a"));
    first.events_when(|told| told.len() == 1).await;
    first.kill();
    remote.report(publish_of(1, "b"));
    second.events_when(|told| told.iter().any(|told| told.what == "b")).await;
    let first = Running::start_at(address, streaming(ObservePlay::Confirm)).await;
    first.until_called("Observe").await;
    remote.report(publish_of(1, "c"));
    first.events_when(|told| told.iter().any(|told| told.what == "c")).await;
    remote.flush(AMPLE).await;
    assert!(seen.event_streams_ended().contains(&EventStreamEnd::Moved));
    assert_eq!((seen.events_confirmed(), second.calls("Publish")), (3, 0));
}

#[tokio::test]
async fn a_stream_that_is_not_implemented_falls_back_to_calls_once() {
    let service = Running::start(streaming(ObservePlay::Unimplemented)).await;
    let (remote, seen) = remote(&[&service.url]);
    for number in 0..20 {
        remote.report(publish_of(number % 3, &number.to_string()));
    }
    remote.flush(AMPLE).await;
    assert_eq!((service.calls("Observe"), service.calls("Publish")), (1, 20));
    let told = service.events();
    for client in 0..3 {
        let id = format!("c{client}");
        let own: Vec<_> = told.iter().filter(|told| told.client_id == id).map(|told| told.sequence).collect();
        assert!(own.is_sorted(), "{own:?}");
    }
    assert_eq!(seen.event_streams_ended(), [EventStreamEnd::Unimplemented]);
    assert_eq!(seen.dropped(Kind::Publish, DropReason::Shutdown), 0);
}

#[tokio::test]
async fn what_is_left_unconfirmed_at_the_end_is_counted() {
    let service = Running::start(streaming(script(|_, _| {}))).await;
    let (remote, seen) = remote(&[&service.url]);
    for number in 1..=5 {
        remote.report(publish_of(number, "a"));
    }
    service.events_when(|told| told.len() == 5).await;
    remote.flush(Duration::from_millis(20)).await;
    assert_eq!(seen.dropped(Kind::Publish, DropReason::Shutdown), 5);
    remote.report(publish_of(1, "too late"));
    assert_eq!(seen.dropped(Kind::Publish, DropReason::Shutdown), 6);
}

#[tokio::test]
async fn an_event_that_no_message_can_carry_is_a_gap() {
    let service = Running::start(streaming(ObservePlay::Confirm)).await;
    let (remote, seen) = started(RemoteConfig { event_buffer: 32 << 20, ..config(&[&service.url]) });
    let filters = (0..60).map(|_| ("f".repeat(60_000).into(), 0)).collect();
    remote.report(event(1, Happening::Subscribe { filters }));
    remote.report(event(1, left()));
    remote.flush(AMPLE).await;
    assert_eq!(seen.dropped(Kind::Subscribe, DropReason::TooLarge), 1);
    let observed = service.observed();
    let gaps: Vec<_> = observed.iter().flat_map(|(_, request)| request.gaps.clone()).collect();
    assert_eq!((gaps, sequences(&service.events())), (vec![Gap { from: 1, to: 1 }], vec![2]));
}

/// A library that waits for its streams at the end would wait for ever.
#[tokio::test]
async fn a_service_that_stops_in_order_is_not_held_up_by_the_stream() {
    let service = Running::start(streaming(ObservePlay::Confirm)).await;
    let (remote, seen) = remote(&[&service.url]);
    remote.report(publish_of(1, "a"));
    seen.until_confirmed(1).await;
    service.stop().await;
    remote.report(publish_of(1, "b"));
    remote.flush(Duration::from_millis(10)).await;
    assert_eq!(seen.dropped(Kind::Publish, DropReason::Shutdown), 1);
}

/// Events of what nobody implements by a call stay wanted while they go over the stream.
#[tokio::test]
async fn calls_that_are_not_implemented_say_nothing_of_the_stream() {
    let service = Running::start(Service {
        tell: Box::new(|| Play::Fail(Status::unimplemented("no"))),
        ..streaming(ObservePlay::Confirm)
    })
    .await;
    let (remote, _) = remote(&[&service.url]);
    remote.report(event(1, CAME));
    service.events_when(|told| told.len() == 1).await;
    assert_ne!(Sink::want(&*remote, Kind::Connect), Want::Nothing);
    remote.flush(AMPLE).await;
}

fn spooling(folder: &std::path::Path, size: u64, url: &str) -> RemoteConfig {
    RemoteConfig {
        event_spool: Some(SpoolConfig { folder: folder.to_owned(), size, succeeds: false }),
        ..config(&[url])
    }
}

/// An address at which nobody listens.
fn nobody() -> String {
    format!("http://{}", service::free_address())
}

#[tokio::test]
async fn events_outlive_mproxy_in_a_spool_and_the_numbering_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (remote, seen) = started(spooling(folder.path(), 1 << 20, &nobody()));
    remote.report(event(1, CAME));
    for number in 2..=6 {
        remote.report(publish_of(1, &number.to_string()));
    }
    remote.report(event(2, CAME));
    remote.report(event(2, left()));
    remote.flush(Duration::from_millis(10)).await;
    assert_eq!(seen.dropped(Kind::Publish, DropReason::Shutdown), 0, "they are kept");
    drop(remote);

    let service = Running::start(streaming(ObservePlay::Confirm)).await;
    let (remote, _) = started(spooling(folder.path(), 1 << 20, &service.url));
    remote.report(publish_of(3, "new"));
    let told = service.events_when(|told| told.len() == 10).await;
    assert_eq!(sequences(&told), (1..=10).collect::<Vec<_>>());
    assert_eq!(
        (told[0].what.as_str(), told[4].what.as_str(), told[9].what.as_str()),
        ("connect", "5", "new")
    );
    // The first client never left, as far as anybody knows; the second did.
    assert_eq!(
        (told[8].client_id.as_str(), told[8].what.as_str()),
        ("c1", "disconnect mproxy ended without notice")
    );
    let run = service.observed()[0].1.run_id.clone();
    remote.flush(AMPLE).await;
    drop(remote);

    let service = Running::start(streaming(ObservePlay::Confirm)).await;
    let (remote, _) = started(spooling(folder.path(), 1 << 20, &service.url));
    remote.report(publish_of(3, "newer"));
    let told = service.events_when(|told| !told.is_empty()).await;
    assert_eq!(
        (sequences(&told), service.observed()[0].1.run_id == run),
        (vec![11], true),
        "nothing is told twice"
    );
    assert!(service.observed().iter().all(|(_, request)| request.gaps.is_empty()));
}

#[tokio::test]
async fn without_a_spool_a_new_numbering_has_a_new_name() {
    let service = Running::start(streaming(ObservePlay::Confirm)).await;
    for start in 1..=2 {
        let (remote, _) = remote(&[&service.url]);
        remote.report(publish_of(1, "a"));
        service.events_when(|told| told.len() == start).await;
        remote.flush(AMPLE).await;
    }
    let runs: std::collections::HashSet<_> = service
        .observed()
        .into_iter()
        .map(|(_, request)| request.run_id)
        .filter(|run| !run.is_empty())
        .collect();
    assert_eq!((runs.len(), sequences(&service.events())), (2, vec![1, 1]));
}

#[tokio::test]
async fn a_disk_that_fails_or_is_full_keeps_no_event_from_the_service() {
    for size in [1 << 20, 64 << 10] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let address = service::free_address();
        let (remote, seen) = started(spooling(&path, size, &format!("http://{address}")));
        if size == 1 << 20 {
            std::fs::remove_dir_all(&path).unwrap();
        }
        let large = "x".repeat(1000);
        for number in 0..200 {
            remote.report(publish_of(number % 7, &large));
        }
        seen.until_not_spooled().await;
        let service = Running::start_at(address, streaming(ObservePlay::Confirm)).await;
        let told = service.events_when(|told| told.len() == 200).await;
        assert_eq!(sequences(&told), (1..=200).collect::<Vec<_>>());
        let (failed, full) = (seen.not_spooled(SpoolLoss::Failed), seen.not_spooled(SpoolLoss::Full));
        assert!(if size == 1 << 20 { failed > 0 } else { full > 0 }, "{failed} {full}");
        remote.flush(AMPLE).await;
        assert_eq!(seen.dropped(Kind::Publish, DropReason::Shutdown), 0);
    }
}

#[tokio::test]
async fn whoever_takes_the_place_of_another_waits_for_its_spool_within_the_buffer() {
    let folder = tempfile::tempdir().unwrap();
    let service = Running::start(streaming(ObservePlay::Confirm)).await;
    let (old, _) = started(spooling(folder.path(), 1 << 20, &service.url));
    old.report(event(1, CAME));
    service.events_when(|told| told.len() == 1).await;
    let mut config = spooling(folder.path(), 1 << 20, &service.url);
    config.event_spool.as_mut().unwrap().succeeds = true;
    config.event_buffer = 5 << 10;
    let (new, seen) = started(config);
    let large = "x".repeat(1500);
    for number in 2..=5 {
        new.report(publish_of(number, &format!("{number}{large}")));
    }
    new.report(event(6, CAME));
    assert_eq!(
        seen.dropped(Kind::Publish, DropReason::QueueFull),
        0,
        "they are counted when they have numbers"
    );
    old.report(event(1, left()));
    old.flush(AMPLE).await;
    drop(old);
    let told = service.events_when(|told| told.len() == 4).await;
    let told: Vec<_> = told.iter().map(|told| (told.sequence, &told.what[..1])).collect();
    assert_eq!(told, [(1, "c"), (2, "d"), (3, "2"), (4, "3")]);
    // Whoever comes later is told of as ever.
    new.report(event(7, CAME));
    service.events_when(|told| told.len() == 5).await;
    let gaps: Vec<_> = service
        .observed()
        .into_iter()
        .flat_map(|(_, request)| request.gaps)
        .map(|gap| (gap.from, gap.to))
        .collect();
    assert!(gaps.contains(&(5, 7)), "{gaps:?}");
    assert_eq!(seen.dropped(Kind::Publish, DropReason::QueueFull), 2);
    assert_eq!(
        seen.dropped(Kind::Connect, DropReason::QueueFull),
        1,
        "once one is lost, so are those behind it"
    );
    new.flush(AMPLE).await;
}

#[tokio::test]
async fn a_spool_that_another_has_is_an_error_of_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (_remote, _) = started(spooling(folder.path(), 1 << 20, &nobody()));
    let error = Remote::start(spooling(folder.path(), 1 << 20, &nobody()), Arc::new(Seen::default()));
    let Err(error) = error else { panic!("both have it") };
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
}
