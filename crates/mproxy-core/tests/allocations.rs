//! What a session costs: no allocation for a packet that passes untouched, few bytes for one that sleeps.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use allocation_counter::measure;
use bytes::BytesMut;
use mproxy_core::event::Nobody;
use mproxy_core::meter::Unmetered;
use mproxy_core::policy::{
    Answer, ConnectDecision, ConnectQuestion, Decider, Decision, Hook, PublishChange, PublishDecision,
    PublishQuestion, Ruling, Source, SubscribeDecision, SubscribeQuestion, Want,
};
use mproxy_core::session::{DrainReference, OnAuth, OnErrors, OnUnavailable};
use mproxy_core::{Chain, Effect, Limits, Session, Setting, Side};
use mproxy_sim::stage::origin;
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version};

/// Packets, and from which side they come.
type Exchange = Vec<(Side, Vec<u8>)>;

/// Allows everything at once, as a grant does.
struct Yes;

impl Decider for Yes {
    fn connect(&self, _: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        Answer::Now(Ruling::allow(Source::Grant))
    }

    fn publish(&self, _: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        Answer::Now(Ruling::allow(Source::Grant))
    }

    fn subscribe(&self, _: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        Answer::Now(Ruling::allow(Source::Grant))
    }

    fn deliver(&self, _: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        Answer::Now(Ruling::allow(Source::Grant))
    }

    fn want(&self, hook: Hook) -> Want {
        if hook == Hook::Deliver { Want::Nothing } else { Want::Head }
    }
}

/// Allows everything for an hour, as the policy service does; counts how often it was asked.
#[derive(Default)]
struct ForAnHour(AtomicUsize);

impl ForAnHour {
    fn answer(&self) -> Answer<PublishDecision> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Answer::Later(Box::pin(async {
            let cache_for = Some(Duration::from_secs(3600));
            let change = PublishChange { cache_for, ..PublishChange::default() };
            Answer::Now(Ruling::new(Source::Rpc, Ok(Decision::Allow(Some(Box::new(change))))))
        }))
    }
}

impl Decider for ForAnHour {
    fn publish(&self, _: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.answer()
    }

    fn deliver(&self, _: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.answer()
    }

    fn want(&self, hook: Hook) -> Want {
        if matches!(hook, Hook::Publish | Hook::Deliver) { Want::Payload(1000) } else { Want::Nothing }
    }
}

fn setting(advisers: Chain) -> Arc<Setting> {
    Arc::new(Setting {
        advisers,
        sink: Arc::new(Nobody),
        meter: Arc::new(Unmetered),
        limits: Limits::default(),
        rates: None,
        on_error: OnErrors::default(),
        on_unavailable: OnUnavailable::default(),
        drain_reference: DrainReference::default(),
        on_auth: OnAuth::default(),
        gate: None,
        budget: Arc::default(),
        clock: mproxy_core::rule::WallClock::default(),
    })
}

fn drain(session: &mut Session, now: Instant) {
    while let Some(effect) = session.poll_effect() {
        match effect {
            Effect::Dial { .. } => session.dialed(Ok(()), now),
            Effect::Ask(question) => {
                let answered = pin!(question).poll(&mut Context::from_waker(Waker::noop()));
                let Poll::Ready(answered) = answered else { panic!("the answer is there") };
                session.decide(answered, now);
            }
            _ => {}
        }
    }
}

fn tell(session: &mut Session, from: Side, buf: &mut BytesMut, now: Instant) {
    session.read(from, buf, now);
    drain(session, now);
    assert!(buf.is_empty());
}

fn open(setting: &Arc<Setting>, version: Version, now: Instant) -> Session {
    let mut session = Session::new(origin(), setting.clone(), now);
    let connect = wire::connect(version, "a-client-of-usual-length", &ConnectOptions::default());
    tell(&mut session, Side::Client, &mut BytesMut::from(&connect[..]), now);
    let connack = wire::connack(version, false, 0, if version == Version::V5 { b"\x22\0\x0a" } else { b"" });
    tell(&mut session, Side::Broker, &mut BytesMut::from(&connack[..]), now);
    assert_eq!(session.phase_name(), "open");
    session
}

/// Allocations of a hundred rounds of these exchanges, each packet a read of its own, after some rounds to warm up.
/// The buffer that they are read into is shared before: the relay's pool pays for that, once for a chunk of many packets.
fn allocations(session: &mut Session, packets: &[(Side, Vec<u8>)], now: Instant) -> u64 {
    let mut chunk = BytesMut::new();
    for _ in 0..110 {
        for (_, packet) in packets {
            chunk.extend_from_slice(packet);
        }
    }
    // The first split makes the buffer a shared one.
    let mut round = |session: &mut Session| {
        for (from, packet) in packets {
            let mut buf = chunk.split_to(packet.len());
            session.read(*from, &mut buf, now);
            drain(session, now);
            assert!(buf.is_empty());
        }
    };
    (0..10).for_each(|_| round(session));
    measure(|| (0..100).for_each(|_| round(session))).count_total
}

#[test]
fn packets_that_pass_untouched_allocate_nothing() {
    let now = Instant::now();
    for version in [Version::V31, Version::V311, Version::V5] {
        let publish = |qos, packet_id| {
            let publish = Publish {
                topic: "room/1/temperature",
                payload: &[0; 64],
                qos,
                packet_id,
                ..Publish::default()
            };
            wire::publish(version, &publish)
        };
        let exchanges: [(&str, Exchange); 6] = [
            ("QoS 0", vec![(Side::Client, publish(0, 0))]),
            ("QoS 1", vec![(Side::Client, publish(1, 1)), (Side::Broker, wire::puback(1))]),
            (
                "QoS 2",
                vec![
                    (Side::Client, publish(2, 1)),
                    (Side::Broker, wire::pubrec(1)),
                    (Side::Client, wire::pubrel(1)),
                    (Side::Broker, wire::pubcomp(1)),
                ],
            ),
            ("ping", vec![(Side::Client, wire::pingreq()), (Side::Broker, wire::pingresp())]),
            ("delivery", vec![(Side::Broker, publish(1, 9)), (Side::Client, wire::puback(9))]),
            ("a hundred at once", vec![(Side::Client, publish(0, 0).repeat(100))]),
        ];
        for (advisers, name) in
            [(Chain::default(), "nobody asked"), (Chain::of(Arc::new(Yes)), "allowed at once")]
        {
            let setting = setting(advisers);
            for (what, packets) in &exchanges {
                let count = allocations(&mut open(&setting, version, now), packets, now);
                assert_eq!(count, 0, "{what} in {version:?}, {name}");
            }
        }
    }
}

#[test]
fn what_is_answered_again_allocates_nothing_and_asks_nobody() {
    let now = Instant::now();
    for version in [Version::V31, Version::V311, Version::V5] {
        for qos in 0..=2 {
            let publish = |topic| {
                let packet_id = u16::from(qos > 0);
                wire::publish(
                    version,
                    &Publish { topic, payload: &[0; 64], qos, packet_id, ..Publish::default() },
                )
            };
            let answers = |from, to| match qos {
                0 => vec![],
                1 => vec![(to, wire::puback(1))],
                _ => vec![(to, wire::pubrec(1)), (from, wire::pubrel(1)), (to, wire::pubcomp(1))],
            };
            for (from, to) in [(Side::Client, Side::Broker), (Side::Broker, Side::Client)] {
                let advisers = Arc::new(ForAnHour::default());
                let mut session = open(&setting(Chain::of(advisers.clone())), version, now);
                let mut exchange = Vec::new();
                for topic in ["room/1/temperature", "room/1/humidity", "room/2/temperature"] {
                    exchange.push((from, publish(topic)));
                    exchange.extend(answers(from, to));
                }
                let count = allocations(&mut session, &exchange, now);
                assert_eq!(count, 0, "QoS {qos} of the {from} in {version:?}");
                assert_eq!(advisers.0.load(Ordering::Relaxed), 3, "once for each topic");
            }
        }
    }
}

#[test]
fn an_alias_that_both_sides_know_allocates_nothing() {
    let now = Instant::now();
    let publish = |topic| {
        wire::publish(
            Version::V5,
            &Publish { topic, payload: &[0; 64], properties: &[0x23, 0, 1], ..Publish::default() },
        )
    };
    let mut session = open(&setting(Chain::of(Arc::new(Yes))), Version::V5, now);
    tell(&mut session, Side::Client, &mut BytesMut::from(&publish("room/1")[..]), now);
    assert_eq!(allocations(&mut session, &[(Side::Client, publish(""))], now), 0);
}

#[test]
fn a_sleeping_session_is_small() {
    let now = Instant::now();
    println!("Session: {} bytes, Effect: {} bytes", size_of::<Session>(), size_of::<Effect>());
    assert!(size_of::<Session>() <= 512, "a Session takes {} bytes", size_of::<Session>());
    for version in [Version::V311, Version::V5] {
        let setting = setting(Chain::of(Arc::new(Yes)));
        let mut session = None;
        let opened = measure(|| session = Some(open(&setting, version, now)));
        let session = session.as_mut().expect("it was opened");
        // What stays is the peer, who it is and where it came from.
        println!(
            "{version:?}: {} bytes stay on the heap, of {} at most",
            opened.bytes_current, opened.bytes_max
        );
        assert!(opened.bytes_current <= 512, "{} bytes stay", opened.bytes_current);
        // Talk comes and goes.
        let talked = measure(|| {
            for id in 1..=200 {
                let publish = Publish { topic: "a", qos: 1, packet_id: id, ..Publish::default() };
                tell(session, Side::Client, &mut BytesMut::from(&wire::publish(version, &publish)[..]), now);
            }
            for id in 1..=200 {
                tell(session, Side::Broker, &mut BytesMut::from(&wire::puback(id)[..]), now);
            }
        });
        println!("{version:?}: {} bytes more after 200 publishes in flight", talked.bytes_current);
        assert!(talked.bytes_current <= 1024, "{} bytes stay", talked.bytes_current);
    }
}
