//! An endpoint behind a wire that swallows everything: no FIN, no reset, no refusal, only silence. Questions are answered by
//! the other endpoint within their deadlines, or fail; none is let through; and the endpoint is asked again within a second
//! of its return.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;
mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Ruling, numbered};
use futures_util::future::join_all;
use mproxy_core::policy::{Decision, FailureKind, Source};
use mproxy_policy::remote::{HealthState, Remote, RemoteConfig};
use mproxy_policy::watch::MoveReason;
use mproxy_sim::Verdict;
use mproxy_testkit::PATIENCE;
use mproxy_testkit::black_hole::BlackHole;
use mproxy_testkit::service::contract as wire;
use mproxy_testkit::service::{Play, Running, Service, wants_everything};
use service::{AMPLE, Seen, config};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Clients that ask all the time, and how many questions each has open.
const CLIENTS: u128 = 8;
const WINDOW: usize = 4;

/// How long a question may take here.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A service that allows every second topic and denies the others, and the highest round that it was asked in.
fn judging(streams: bool) -> (Service, Arc<AtomicUsize>) {
    let round = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&round);
    let service = Service {
        hello: Some(wire::HelloResponse { streams, ..wants_everything() }),
        publish: Box::new(move |asked| {
            let topic = asked.get_ref().topic.clone();
            let of = topic.split('/').next().unwrap().parse().unwrap();
            seen.fetch_max(of, Ordering::SeqCst);
            if topic.ends_with("/no") {
                return Play::answer(wire::Deny { reason_string: topic, ..wire::Deny::default() });
            }
            Play::answer(wire::PublishAllow::default())
        }),
        ..Service::default()
    };
    (service, round)
}

/// What the service says to this topic.
fn is_right(topic: &str, ruling: &Ruling) -> bool {
    match &ruling.verdict {
        Verdict::Publish(Decision::Allow(None)) => topic.ends_with("/yes"),
        Verdict::Publish(Decision::Refuse(refusal)) => {
            topic.ends_with("/no") && refusal.text.as_deref() == Some(topic)
        }
        _ => false,
    }
}

/// Clients that ask without a pause.
struct Load {
    clients: JoinSet<(usize, Duration)>,
    round: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Load {
    fn start(remote: &Arc<Remote>) -> Self {
        let (round, over) = (Arc::new(AtomicUsize::new(1)), Arc::new(AtomicBool::new(false)));
        let mut clients = JoinSet::new();
        for n in 0..CLIENTS {
            let (remote, round, over) = (Arc::clone(remote), Arc::clone(&round), Arc::clone(&over));
            clients.spawn(async move {
                let client = numbered(n, &format!("c{n}"), None);
                let (mut asked, mut slowest) = (0, Duration::ZERO);
                while !over.load(Ordering::SeqCst) {
                    let round = round.load(Ordering::SeqCst);
                    let topic = |at: usize| {
                        format!("{round}/{}/{}", asked + at, if at.is_multiple_of(2) { "yes" } else { "no" })
                    };
                    let topics: Vec<_> = (0..WINDOW).map(topic).collect();
                    let since = Instant::now();
                    let rulings =
                        join_all(topics.iter().map(|topic| client.publishes(&*remote, topic))).await;
                    for (topic, ruling) in topics.iter().zip(rulings) {
                        let ruling = ruling.unwrap();
                        assert_eq!(ruling.source, Source::Rpc);
                        assert!(is_right(topic, &ruling), "{topic}: {ruling:?}");
                    }
                    asked += WINDOW;
                    slowest = slowest.max(since.elapsed());
                    sleep(Duration::from_millis(2)).await;
                }
                (asked, slowest)
            });
        }
        Self { clients, round, over }
    }

    /// Begins another round, and waits until a service is asked in it. Gives how long that took.
    async fn until_asked(&self, service: &AtomicUsize) -> Duration {
        let round = self.round.fetch_add(1, Ordering::SeqCst) + 1;
        let since = Instant::now();
        let asked = async {
            while service.load(Ordering::SeqCst) < round {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, asked).await.expect("is not asked");
        since.elapsed()
    }

    /// Questions that were asked, and how long the slowest took.
    async fn end(mut self) -> (usize, Duration) {
        self.over.store(true, Ordering::SeqCst);
        let mut all = (0, Duration::ZERO);
        while let Some(ended) = self.clients.join_next().await {
            let (asked, slowest) = ended.unwrap();
            all = (all.0 + asked, all.1.max(slowest));
        }
        all
    }
}

async fn started(config: RemoteConfig) -> (Arc<Remote>, Seen) {
    let seen = Seen::default();
    let endpoints = config.endpoints.len();
    let remote = Remote::start(config, Arc::new(seen.clone())).unwrap();
    seen.until(|seen| seen.healthy_now() == endpoints).await;
    (remote, seen)
}

/// For so long the first of two endpoints is not there.
async fn one_of_two_disappears(streams: bool, absences: &[Duration]) {
    let ((first, first_round), (second, second_round)) = (judging(streams), judging(streams));
    let (first, second) = (Running::start(first).await, Running::start(second).await);
    let hole = BlackHole::start(first.address()).await;
    let config = RemoteConfig { streams, ..config(&[&hole.url(), &second.url], TIMEOUT) };
    let (remote, seen) = started(config).await;
    let load = Load::start(&remote);
    load.until_asked(&first_round).await;
    assert_eq!(second_round.load(Ordering::SeqCst), 0, "the first is asked as long as it is there");
    for absence in absences {
        hole.swallow();
        load.until_asked(&second_round).await;
        sleep(*absence).await;
        hole.release();
        let back = load.until_asked(&first_round).await;
        assert!(
            back < Duration::from_secs(1),
            "asked again after {back:?}, having been away for {absence:?}"
        );
    }
    let (asked, slowest) = load.end().await;
    assert!(slowest < TIMEOUT, "{slowest:?}");
    assert!(asked > 1000, "{asked}");
    let moved = seen.now(|seen| seen.moved().to_vec());
    assert!(moved.contains(&MoveReason::Silent), "{moved:?}");
    // What waited when it began, and no more: others are not sent after it.
    assert!(moved.len() <= absences.len() * 2 * WINDOW * CLIENTS as usize, "{}", moved.len());
}

/// Shorter than what has an effect on the connection, and longer than its end and that of what was dialled instead.
const ABSENCES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(8)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_swallowed_costs_streams_nothing_but_its_silence() {
    one_of_two_disappears(true, &ABSENCES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_swallowed_costs_calls_nothing_but_its_silence() {
    one_of_two_disappears(false, &ABSENCES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_another_endpoint_questions_fail_by_their_deadline_and_are_not_let_through() {
    for streams in [true, false] {
        let (judge, round) = judging(streams);
        let service = Running::start(judge).await;
        let hole = BlackHole::start(service.address()).await;
        let timeout = Duration::from_millis(400);
        let (remote, _) = started(RemoteConfig { streams, ..config(&[&hole.url()], timeout) }).await;
        let c1 = numbered(1, "c1", None);
        assert!(is_right("1/0/yes", &c1.publishes(&*remote, "1/0/yes").await.unwrap()));
        hole.swallow();
        for _ in 0..6 {
            let since = Instant::now();
            let answers = join_all((0..10).map(|_| c1.publishes(&*remote, "2/0/yes"))).await;
            let took = since.elapsed();
            assert!(took < timeout + Duration::from_millis(500), "{took:?}");
            for answer in answers {
                let Verdict::Failed(failure) = answer.unwrap().verdict else { panic!("let through") };
                assert!(matches!(failure.kind, FailureKind::Deadline | FailureKind::Unavailable));
            }
        }
        hole.release();
        let since = Instant::now();
        while !c1.publishes(&*remote, "3/0/yes").await.is_some_and(|ruling| is_right("3/0/yes", &ruling)) {
            assert!(
                since.elapsed() < Duration::from_secs(1),
                "no answer {:?} after its return",
                since.elapsed()
            );
        }
        assert_eq!(round.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_that_hangs_keeps_nobody_from_the_other_endpoint() {
    let ((first, first_round), (second, _)) = (judging(true), judging(true));
    let (first, second) = (Running::start(first).await, Running::start(second).await);
    let hole = BlackHole::start(first.address()).await;
    hole.swallow();
    let seen = Seen::default();
    let remote = Remote::start(config(&[&hole.url(), &second.url], AMPLE), Arc::new(seen.clone())).unwrap();
    seen.until(|seen| seen.healthy_now() == 1).await;
    let since = Instant::now();
    let load = Load::start(&remote);
    // The dial has a deadline, after which it is tried again.
    while remote.health()[0].state != HealthState::Unhealthy {
        assert!(since.elapsed() < PATIENCE, "nobody gives up the dial");
        sleep(Duration::from_millis(10)).await;
    }
    hole.release();
    let back = load.until_asked(&first_round).await;
    assert!(back < Duration::from_secs(1), "{back:?}");
    let (_, slowest) = load.end().await;
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}
