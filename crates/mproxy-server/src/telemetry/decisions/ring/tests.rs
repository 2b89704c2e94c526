use std::time::{Duration, UNIX_EPOCH};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mproxy_core::peer::Address;
use proptest::prelude::*;

use super::super::entry::ALLOWED;
use super::super::shares::{ADDRESS, CLIENT};
use super::*;

/// Bytes that a ring of one client with so many records has to have.
fn room(records: usize) -> usize {
    records * (entry(0, "a").weight() + PLACE) + CLIENT + ADDRESS
}

fn entry(second: u64, topic: &str) -> Arc<DecisionEntry> {
    let time = UNIX_EPOCH + Duration::from_secs(second);
    Arc::new(DecisionEntry { time, topic: Some(topic.into()), ..DecisionEntry::default() })
}

fn allowed(second: u64) -> Arc<DecisionEntry> {
    Arc::new(DecisionEntry { outcome: ALLOWED, ..(*entry(second, "a")).clone() })
}

fn numbers(ring: &Ring, before: u64, outcome: OutcomeFilter) -> Vec<u64> {
    ring.before(before, 99, outcome).iter().map(|(number, _)| *number).collect()
}

#[test]
fn the_oldest_make_room_and_it_says_since_when_it_has_all() {
    let refused = OutcomeFilter::Refused;
    let mut ring = Ring::new(room(3), false, UNIX_EPOCH);
    for second in 1..=3 {
        ring.push(entry(second, "a"));
    }
    assert_eq!((ring.begins(refused), numbers(&ring, u64::MAX, refused).len()), (UNIX_EPOCH, 3));
    ring.push(entry(4, "a"));
    assert_eq!(numbers(&ring, u64::MAX, refused), [4, 3, 2]);
    assert_eq!(ring.begins(refused), UNIX_EPOCH + Duration::from_secs(1));
    assert_eq!(ring.before(3, 1, refused)[0].0, 2);
    assert!(numbers(&ring, 2, refused).is_empty(), "it has been forgotten");
    // One that is larger than all that is kept is not kept.
    ring.push(entry(5, &"x".repeat(room(4))));
    assert!(numbers(&ring, u64::MAX, refused).is_empty() && ring.refused.held() == 0);
}

#[test]
fn what_was_allowed_drives_no_refusal_out_and_both_are_told_in_their_order() {
    // A quarter of it has room for two.
    let most = 4 * room(2);
    let mut ring = Ring::new(most, true, UNIX_EPOCH);
    ring.push(entry(1, "a"));
    for second in 2..1000 {
        ring.push(allowed(second));
        assert!(ring.refused.held() + ring.allowed.held() <= most);
    }
    ring.push(entry(1000, "a"));
    assert_eq!(numbers(&ring, u64::MAX, OutcomeFilter::Refused), [1000, 1]);
    assert_eq!(numbers(&ring, u64::MAX, OutcomeFilter::Allowed), [999, 998]);
    assert_eq!(numbers(&ring, u64::MAX, OutcomeFilter::Any), [1000, 999, 998, 1]);
    assert_eq!(numbers(&ring, 999, OutcomeFilter::Any), [998, 1]);
    assert_eq!(ring.begins(OutcomeFilter::Refused), UNIX_EPOCH);
    assert_eq!(ring.begins(OutcomeFilter::Allowed), UNIX_EPOCH + Duration::from_secs(997));
    assert_eq!(ring.begins(OutcomeFilter::Any), ring.begins(OutcomeFilter::Allowed));
}

#[test]
fn refusals_have_all_the_memory_where_nothing_is_sampled() {
    let mut ring = Ring::new(room(4), false, UNIX_EPOCH);
    for second in 1..=4 {
        ring.push(entry(second, "a"));
    }
    assert_eq!(numbers(&ring, u64::MAX, OutcomeFilter::Refused), [4, 3, 2, 1]);
}

/// A record of this client at this address.
fn of(address: impl Into<IpAddr>, client: &str, second: u64) -> Arc<DecisionEntry> {
    let peer_addr = Some(Address::Ip((address.into(), second as u16).into()));
    Arc::new(DecisionEntry { peer_addr, client_id: Some(client.into()), ..(*entry(second, "a")).clone() })
}

fn kept(ring: &Ring, client: &str) -> Vec<u64> {
    let all = ring.before(u64::MAX, usize::MAX, OutcomeFilter::Any).into_iter();
    all.filter(|(_, entry)| entry.client_id.as_deref() == Some(client)).map(|(number, _)| number).collect()
}

#[test]
fn a_client_that_is_refused_all_the_time_drives_nobody_elses_refusals_out() {
    let (quiet, noisy) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    let mut ring = Ring::new(100 * (of(quiet, "quiet", 0).weight() + PLACE), false, UNIX_EPOCH);
    let mut gone = ring.push(of(quiet, "quiet", 1));
    for second in 2..10_000 {
        gone += ring.push(of(noisy, "noisy", second));
    }
    assert_eq!(kept(&ring, "quiet"), [1]);
    let noisy = kept(&ring, "noisy");
    assert_eq!(noisy[0], 9_999, "the newest");
    assert!(noisy.len() > 90 && noisy.is_sorted_by(|newer, older| newer == &(older + 1)), "{noisy:?}");
    assert_eq!(gone + 1 + noisy.len() as u64, 9_999);
}

#[test]
fn another_name_or_address_each_time_gives_no_larger_share() {
    let quiet = Ipv4Addr::new(192, 0, 2, 1);
    let most = 100 * (of(quiet, "quiet", 0).weight() + PLACE + CLIENT);
    // Another name, another address of the same network of IPv6; and with the same name and address as somebody else.
    let name: fn(u64) -> _ = |n| of(Ipv4Addr::new(192, 0, 2, 2), &format!("c{n}"), n);
    let network: fn(u64) -> _ =
        |n| of(Ipv6Addr::new(0x2001, 0xdb8, 0, 7, n as u16, 0, 0, 1), &format!("c{n}"), n);
    for noisy in [name, network] {
        let mut ring = Ring::new(most, false, UNIX_EPOCH);
        ring.push(of(quiet, "quiet", 1));
        for n in 2..5_000 {
            ring.push(noisy(n));
        }
        assert_eq!(kept(&ring, "quiet"), [1]);
    }
    // Behind one address each client has its share of it.
    let mut ring = Ring::new(most, false, UNIX_EPOCH);
    ring.push(of(quiet, "quiet", 1));
    for n in 2..5_000 {
        ring.push(of(quiet, "noisy", n));
    }
    assert_eq!(kept(&ring, "quiet"), [1]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever comes in whatever order: it is never more than it may be, each client keeps its newest records, and who
    /// has no more than an equal part of the room has all of them.
    #[test]
    fn nobody_loses_a_record_within_an_equal_share(
        records in proptest::collection::vec((0..5_u8, 0..3_u8, 0..60_usize), 1..400),
        room in 2_000..60_000_usize,
    ) {
        let mut ring = Ring::new(room, false, UNIX_EPOCH);
        let (mut sent, mut bytes) = (std::collections::HashMap::<_, Vec<u64>>::new(), [0; 5]);
        for (number, (address, client, long)) in (1..).zip(records) {
            let name = format!("{address}/{client}");
            let mut one = (*of(Ipv4Addr::new(10, 0, 0, address), &name, number)).clone();
            one.topic = Some("x".repeat(long).into());
            bytes[usize::from(address)] += one.weight() + PLACE;
            sent.entry((address, name)).or_default().insert(0, number);
            ring.push(Arc::new(one));
            prop_assert!(ring.refused.held() <= room);
            let share = (room.saturating_sub(5 * ADDRESS + 15 * CLIENT)) / 5;
            for ((address, name), sent) in &sent {
                let kept = kept(&ring, name);
                prop_assert_eq!(&sent[..kept.len()], &kept[..], "the newest are kept");
                prop_assert!(bytes[usize::from(*address)] > share || kept.len() == sent.len());
            }
        }
    }
}
