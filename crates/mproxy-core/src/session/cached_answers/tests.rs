use std::time::Duration;

use super::*;

fn cached(name: &str, until: Instant) -> CachedAnswer {
    let verdict = CachedVerdict::Publish(Decision::Allow(None));
    CachedAnswer { about: 0x30, name: name.into(), until, verdict, answer: None }
}

#[test]
fn the_oldest_answers_make_room_and_the_bound_holds() {
    let (now, mut answers) = (Instant::now(), CachedAnswers::default());
    for n in 0..1000 {
        answers.learn(cached(&format!("room/{n}"), now + Duration::from_secs(60)), MOST);
        assert!(answers.weight() <= MOST);
        let sum: usize = answers.answers.iter().map(CachedAnswer::weight).sum();
        assert_eq!(sum, answers.weight());
    }
    assert!(answers.find(0x30, b"room/999").is_some() && answers.find(0x30, b"room/0").is_none());
    assert!(answers.answers.len() > 100);
    answers.learn(cached(&"x".repeat(MOST), now), MOST);
    assert!(answers.find(0x30, b"room/999").is_some(), "what never fits drives nobody out");
}

#[test]
fn an_answer_goes_when_its_time_has_passed() {
    let (now, mut answers) = (Instant::now(), CachedAnswers::default());
    for n in 1..=3 {
        answers.learn(cached(&n.to_string(), now + Duration::from_secs(n)), MOST);
    }
    for gone in 1..=3 {
        answers.expire(now + Duration::from_secs(gone) - Duration::from_nanos(1));
        assert!(answers.find(0x30, gone.to_string().as_bytes()).is_some());
        answers.expire(now + Duration::from_secs(gone));
        assert!(answers.find(0x30, gone.to_string().as_bytes()).is_none());
    }
    assert_eq!(answers.weight(), 0);
}

#[test]
fn a_later_answer_takes_the_place_of_the_same() {
    let (now, mut answers) = (Instant::now(), CachedAnswers::default());
    answers.learn(cached("a", now + Duration::from_secs(60)), MOST);
    let refused = CachedVerdict::Publish(Decision::Refuse(Refusal::default()));
    let until = now + Duration::from_secs(1);
    answers.learn(CachedAnswer { verdict: refused.clone(), until, ..cached("a", until) }, MOST);
    assert_eq!(answers.find(0x30, b"a"), Some(&refused));
    answers.expire(until);
    assert_eq!(answers.find(0x30, b"a"), None, "the longer time of the earlier one is gone with it");
}

#[test]
fn qos_retain_and_hook_are_other_questions() {
    let mut seen = std::collections::HashSet::new();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for retain in [false, true] {
            assert!(seen.insert(about_publish(qos, retain)));
        }
        assert!(seen.insert(about_filter(qos)));
    }
}
