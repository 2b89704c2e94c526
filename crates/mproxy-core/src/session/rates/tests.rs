use super::*;

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
            RateCheck::Over => now += Duration::from_millis(7),
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
            let mut rates = Rates::new(&limits(Some(rate), None, action), None, true, start).expect("rates");
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
            let mut rates = Rates::new(&limits(None, Some(rate), action), None, true, start).expect("rates");
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
            Rates::new(&limits(Some(rate), None, RateAction::Wait), None, true, start).expect("rates");
        let passed = greedy(&mut rates, || 10, start, time).len() as f64;
        // Less than a slice may still be in the bucket, and a part of one message.
        let least = rate * time.as_secs_f64() - rate / SLICES - 1.0;
        assert!(passed >= least, "{rate}: {passed} of {least} in {time:?}");
        let bytes = limits(None, Some(rate * 100.0), RateAction::Wait);
        let mut rates = Rates::new(&bytes, None, true, start).expect("rates");
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
    let mut rates = Rates::new(&slow, None, true, start).expect("rates");
    assert!(message(&mut rates, start) && message(&mut rates, start) && !message(&mut rates, start));
    for _ in 0..10 {
        rates = Rates::new(&slow, Some(&rates), false, start).expect("rates");
        assert!(!message(&mut rates, start), "the same once more");
    }
    let fast = limits(Some(1000.0), None, RateAction::Wait);
    rates = Rates::new(&fast, Some(&rates), false, start).expect("rates");
    assert!(!message(&mut rates, start), "a faster one");
    assert!(message(&mut rates, start + Duration::from_millis(63)));
    let mut first = Rates::new(&slow, None, false, start).expect("rates");
    assert!(!message(&mut first, start), "the first one of a session that is open");
    assert!(Rates::new(&GrantLimits::default(), Some(&rates), false, start).is_none());
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
            let mut rates = Rates::new(&both, None, true, start).expect("rates");
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
