use std::sync::Arc;

use super::*;
use crate::grant::PerSecond;
use crate::rate::SharedRate;

/// Numbers that look random, the same each time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }

    /// From a thousandth to a thousand.
    fn rate(&mut self) -> f64 {
        10_f64.powi(self.below(6) as i32 - 3) * (1 + self.below(9)) as f64
    }
}

fn per_second(rate: f64) -> PerSecond {
    PerSecond::new(rate).expect("a rate")
}

fn limits(messages: Option<f64>, bytes: Option<f64>, rate_action: RateAction) -> GrantLimits {
    GrantLimits {
        messages: messages.map(per_second),
        bytes: bytes.map(per_second),
        rate_action,
        ..GrantLimits::default()
    }
}

/// What one that sends as fast as it may gets through, and when: packets of `sizes` in turn.
fn greedy(
    rates: &mut Rates,
    mut size: impl FnMut() -> usize,
    start: Instant,
    time: Duration,
) -> Vec<(Duration, usize)> {
    let (mut now, mut passed) = (start, Vec::new());
    let mut next = size();
    while now < start + time {
        rates.fill(now);
        match rates.pace(PacketType::Publish, next, Duration::MAX).expect("it has patience") {
            RateCheck::Within => {
                rates.charge(PacketType::Publish, next, next);
                passed.push((now - start, next));
                next = size();
            }
            RateCheck::Later(seconds) => {
                rates.pause(seconds, now);
                now = rates.resume_at.expect("it pauses").min(start + time);
            }
            RateCheck::Over(_) => now += Duration::from_millis(7),
        }
    }
    passed
}

#[test]
fn never_more_than_the_rate_and_a_second_s_worth() {
    let mut draw = Draw(1);
    for action in [RateAction::Wait, RateAction::Refuse] {
        for _ in 0..60 {
            let (rate, start) = (draw.rate(), Instant::now());
            let mut rates =
                Rates::new(&limits(Some(rate), None, action), None, Vec::new(), true, start).expect("rates");
            let passed = greedy(&mut rates, || 10, start, Duration::from_secs(20).div_f64(rate.max(1.0)));
            // Between any two of them.
            for (from, (begin, _)) in passed.iter().enumerate().step_by(1 + passed.len() / 40) {
                for (to, (end, _)) in passed.iter().enumerate().skip(from) {
                    let most = rate * (*end - *begin).as_secs_f64() + rate.max(1.0) + 1e-3;
                    assert!(
                        (to - from + 1) as f64 <= most,
                        "{rate}: {} in {:?}",
                        to - from + 1,
                        *end - *begin
                    );
                }
            }
        }
    }
}

#[test]
fn never_more_bytes_than_the_rate_and_a_second_s_worth_or_a_packet() {
    let mut draw = Draw(2);
    for action in [RateAction::Wait, RateAction::Refuse] {
        for _ in 0..60 {
            let (rate, largest, start) = (draw.rate() * 1000.0, 1 + draw.below(5000), Instant::now());
            let mut rates =
                Rates::new(&limits(None, Some(rate), action), None, Vec::new(), true, start).expect("rates");
            let time = Duration::from_secs_f64((100_000.0 / rate).min(1000.0));
            let passed = greedy(&mut rates, || 1 + draw.below(largest) as usize, start, time);
            let most = rate.max(1.0).max(largest as f64);
            for (from, (begin, _)) in passed.iter().enumerate().step_by(1 + passed.len() / 40) {
                let mut sum = 0;
                for (end, bytes) in &passed[from..] {
                    sum += bytes;
                    let allowed = rate * (*end - *begin).as_secs_f64() + most + 1e-3;
                    assert!(sum as f64 <= allowed, "{rate}: {sum} bytes in {:?}", *end - *begin);
                }
            }
        }
    }
}

#[test]
fn who_waits_never_starves_below_the_rate() {
    let mut draw = Draw(3);
    for _ in 0..60 {
        let (rate, start) = (draw.rate(), Instant::now());
        let time = Duration::from_secs_f64((500.0 / rate).max(2.0));
        let mut rates =
            Rates::new(&limits(Some(rate), None, RateAction::Wait), None, Vec::new(), true, start)
                .expect("rates");
        let passed = greedy(&mut rates, || 10, start, time).len() as f64;
        // Less than a slice may still be in the bucket, and a part of one message.
        let least = rate * time.as_secs_f64() - rate / SLICES - 1.0;
        assert!(passed >= least, "{rate}: {passed} of {least} in {time:?}");
        let bytes = limits(None, Some(rate * 100.0), RateAction::Wait);
        let mut rates = Rates::new(&bytes, None, Vec::new(), true, start).expect("rates");
        let passed: usize =
            greedy(&mut rates, || 1 + draw.below(150) as usize, start, time).iter().map(|one| one.1).sum();
        let least = rate * 100.0 * time.as_secs_f64() - rate * 100.0 / SLICES - 151.0;
        assert!(passed as f64 >= least, "{rate}: {passed} of {least} bytes in {time:?}");
    }
}

#[test]
fn another_grant_changes_the_rate_and_adds_nothing() {
    let start = Instant::now();
    let message = |rates: &mut Rates, now| {
        rates.fill(now);
        let within = matches!(rates.pace(PacketType::Publish, 10, Duration::MAX), Ok(RateCheck::Within));
        if within {
            rates.charge(PacketType::Publish, 10, 10);
        }
        within
    };
    let slow = limits(Some(2.0), None, RateAction::Wait);
    let mut rates = Rates::new(&slow, None, Vec::new(), true, start).expect("rates");
    assert!(message(&mut rates, start) && message(&mut rates, start) && !message(&mut rates, start));
    for _ in 0..10 {
        rates = Rates::new(&slow, Some(rates), Vec::new(), false, start).expect("rates");
        assert!(!message(&mut rates, start), "the same once more");
    }
    let fast = limits(Some(1000.0), None, RateAction::Wait);
    rates = Rates::new(&fast, Some(rates), Vec::new(), false, start).expect("rates");
    assert!(!message(&mut rates, start), "a faster one");
    assert!(message(&mut rates, start + Duration::from_millis(63)));
    let mut first = Rates::new(&slow, None, Vec::new(), false, start).expect("rates");
    assert!(!message(&mut first, start), "the first one of a session that is open");
    assert!(Rates::new(&GrantLimits::default(), Some(rates), Vec::new(), false, start).is_none());
}

#[test]
fn rates_that_are_none_do_not_exist() {
    for wrong in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(PerSecond::new(wrong), None, "{wrong}");
    }
    assert!(PerSecond::new(f64::MIN_POSITIVE).is_some() && PerSecond::new(f64::MAX).is_some());
}

#[test]
fn the_smallest_and_the_largest_rate_break_nothing() {
    for rate in [f64::MIN_POSITIVE, 1e-300, 1e300, f64::MAX] {
        for action in [RateAction::Wait, RateAction::Refuse] {
            let start = Instant::now();
            let both = limits(Some(rate), Some(rate), action);
            let mut rates = Rates::new(&both, None, Vec::new(), true, start).expect("rates");
            for n in 0..5 {
                let now = start + Duration::from_secs(n);
                rates.fill(now);
                if let Ok(pace) = rates.pace(PacketType::Publish, 100, PATIENCE) {
                    if let RateCheck::Later(seconds) = pace {
                        rates.pause(seconds, now);
                    }
                    rates.charge(PacketType::Publish, 100, 100);
                }
                let _ = rates.payload(100, 1000, PATIENCE, now);
            }
        }
    }
}

// ---- rates that several share

fn shared(rate: f64, now: Instant) -> Arc<SharedRate> {
    Arc::new(SharedRate::new(per_second(rate), now))
}

fn sharing(rate: &Arc<SharedRate>, unit: RateUnit, action: RateAction, now: Instant) -> Rates {
    let rate = LimitedRate::Shared(Arc::clone(rate));
    let limit = RateLimit { unit, rate, action, kind: LimitKind::UserRate };
    Rates::new(&GrantLimits::default(), None, vec![limit], true, now).expect("rates")
}

/// What several that send as fast as they may get through together: packets of these sizes, each of its own.
fn crowd(
    sessions: &mut [(Rates, usize)],
    start: Instant,
    time: Duration,
) -> (Vec<usize>, Vec<(Duration, usize)>) {
    let mut due: Vec<Instant> = vec![start; sessions.len()];
    let (mut each, mut passed) = (vec![0; sessions.len()], Vec::new());
    loop {
        let Some(next) = (0..due.len()).min_by_key(|at| due[*at]).filter(|at| due[*at] < start + time) else {
            return (each, passed);
        };
        let (now, (rates, size)) = (due[next], &mut sessions[next]);
        rates.fill(now);
        match rates.pace(PacketType::Publish, *size, Duration::MAX).expect("it has patience") {
            RateCheck::Within => {
                rates.charge(PacketType::Publish, *size, *size);
                each[next] += 1;
                passed.push((now - start, *size));
                // It has the next one at once, but others come in between.
                due[next] = now + Duration::from_nanos(1);
            }
            RateCheck::Later(seconds) => {
                rates.pause(seconds, now);
                due[next] = rates.resume_at.expect("it pauses");
            }
            RateCheck::Over(of) => {
                assert_eq!(of, RateOf::All(LimitKind::UserRate));
                due[next] = now + Duration::from_millis(7);
            }
        }
    }
}

#[test]
fn those_who_share_a_rate_get_no_more_than_it_together() {
    for (action, unit) in [RateAction::Wait, RateAction::Refuse]
        .into_iter()
        .flat_map(|action| [RateUnit::Messages, RateUnit::Bytes].map(|unit| (action, unit)))
    {
        let (start, per_second) = (Instant::now(), if unit == RateUnit::Messages { 50.0 } else { 5000.0 });
        let rate = shared(per_second, start);
        let mut sessions: Vec<_> =
            (0..5).map(|n| (sharing(&rate, unit, action, start), 50 + 30 * n)).collect();
        let (_, passed) = crowd(&mut sessions, start, Duration::from_secs(10));
        for (from, (begin, _)) in passed.iter().enumerate().step_by(7) {
            let mut sum = 0.0;
            for (end, bytes) in &passed[from..] {
                sum += if unit == RateUnit::Messages { 1.0 } else { *bytes as f64 };
                let most = per_second * (*end - *begin).as_secs_f64() + per_second + 1e-3;
                assert!(sum <= most, "{action:?} {unit:?}: {sum} in {:?}", *end - *begin);
            }
        }
        let sum: f64 =
            passed.iter().map(|one| if unit == RateUnit::Messages { 1.0 } else { one.1 as f64 }).sum();
        assert!(sum >= per_second * 10.0 * 0.95, "{action:?} {unit:?}: and they get all of it: {sum}");
    }
}

#[test]
fn nobody_who_shares_a_rate_starves_beside_others() {
    let start = Instant::now();
    let rate = shared(10.0, start);
    let mut sessions: Vec<_> =
        (0..20).map(|_| (sharing(&rate, RateUnit::Messages, RateAction::Wait, start), 10)).collect();
    let (each, _) = crowd(&mut sessions, start, Duration::from_secs(100));
    assert!(each.iter().all(|got| (45..=65).contains(got)), "fifty each: {each:?}");
    // One with packets of nearly a second's worth, beside many with small ones.
    let rate = shared(1000.0, start);
    let mut sessions: Vec<_> = (0..20)
        .map(|n| {
            let size = if n == 0 { 900 } else { 10 };
            (sharing(&rate, RateUnit::Bytes, RateAction::Wait, start), size)
        })
        .collect();
    let (each, _) = crowd(&mut sessions, start, Duration::from_secs(100));
    assert!(each.iter().all(|got| *got >= 80), "each in its turn: {each:?}");
}

#[test]
fn what_a_session_has_claimed_and_not_used_is_there_for_others() {
    let start = Instant::now();
    let rate = shared(1.0, start);
    let mut one = sharing(&rate, RateUnit::Messages, RateAction::Wait, start);
    let message = |rates: &mut Rates, now| {
        rates.fill(now);
        match rates.pace(PacketType::Publish, 10, Duration::MAX) {
            Ok(RateCheck::Within) => {
                rates.charge(PacketType::Publish, 10, 10);
                0.0
            }
            Ok(RateCheck::Later(seconds)) => seconds.round(),
            Ok(RateCheck::Over(_)) | Err(_) => panic!("it waits"),
        }
    };
    assert_eq!(message(&mut one, start), 0.0);
    let mut many: Vec<_> =
        (0..5).map(|_| sharing(&rate, RateUnit::Messages, RateAction::Wait, start)).collect();
    let waits: Vec<_> = many.iter_mut().map(|rates| message(rates, start)).collect();
    assert_eq!(waits, [1.0, 2.0, 3.0, 4.0, 5.0], "one after the other");
    assert_eq!(message(&mut many[4], start), 5.0, "asked again it is not more");
    drop(many);
    assert_eq!(message(&mut one, start), 1.0);
    // Another rate holds for those who share it already.
    let mut other = sharing(&rate, RateUnit::Messages, RateAction::Wait, start);
    rate.set(per_second(10.0));
    assert_eq!(message(&mut other, start + Duration::from_secs(2)), 0.0);
}

#[test]
fn a_payload_passes_at_the_rate_that_it_shares() {
    let start = Instant::now();
    let rate = shared(16_000.0, start);
    let mut two = [0, 1].map(|_| (sharing(&rate, RateUnit::Bytes, RateAction::Wait, start), 0_usize, start));
    let end = start + Duration::from_secs(20);
    while let Some((rates, passed, due)) = two.iter_mut().min_by_key(|one| one.2).filter(|one| one.2 < end) {
        let now = *due;
        match rates.payload(4096, 200_000, Duration::MAX, now).expect("it has patience") {
            0 => *due = rates.resume_at.expect("it pauses"),
            bytes => {
                *passed += bytes;
                *due = now + Duration::from_nanos(1);
            }
        }
    }
    let [one, other] = two.map(|one| one.1);
    assert!((300_000..=337_000).contains(&(one + other)), "{one} and {other}");
    assert!(one.abs_diff(other) <= 20_000, "{one} and {other}");
}
