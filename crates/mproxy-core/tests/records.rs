//! What the decision log is told: by what each refusal came about, as a value from the place that decided.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mproxy_codec::{QoS, ReasonCode};
use mproxy_core::grant::{Grant, GrantLimits, Mapping, PerSecond, RateAction};
use mproxy_core::policy::{
    Admission, Decision, ExchangeStep, Foreseen, Ground, Hook, OnError, PublishChange, Refusal,
    ServiceAnswer, Want,
};
use mproxy_core::rule::{Act, Actions, Pattern, Retain, Rule, RuleEffect};
use mproxy_core::session::OnErrors;
use mproxy_core::{Limits, Side};
use mproxy_sim::stage::{DialScript, Setup};
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version, Will};
use mproxy_sim::{QuestionRecord, Recorder, Reply, Stage, Verdict, allow, change, fail};

fn rule(effect: RuleEffect, actions: Actions, topic: &str) -> Rule {
    Rule {
        effect,
        actions,
        topics: [Pattern::parse(topic).expect("a filter")].into(),
        max_qos: QoS::AtLeastOnce,
        retain: Retain::Refused,
        max_payload: None,
        condition: None,
    }
}

fn publish(qos: u8, packet_id: u16, topic: &str) -> Vec<u8> {
    wire::publish(Version::V5, &Publish { topic, payload: b"21", qos, packet_id, ..Publish::default() })
}

/// A session whose client has this grant, which is asked first.
fn granted(recorder: &Recorder, grant: Grant) -> Stage {
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
    let answering = Box::new(move |asked: &QuestionRecord| match asked.hook {
        Hook::Connect => Reply::Now(verdict.clone()),
        _ => Reply::Pass,
    });
    let meter = Arc::new(recorder.clone());
    let stage = Setup { grants: true, meter, answering, ..Setup::default() }.stage();
    stage.script.want(Hook::Deliver, Want::Head);
    stage.open(Version::V5)
}

#[test]
fn a_refusal_by_the_grant_names_its_rule_or_what_else_of_it_refused() {
    let recorder = Recorder::default();
    let rules = vec![
        rule(RuleEffect::Allow, Actions::ALL, "own/#"),
        rule(RuleEffect::Ask, Actions::ALL, "maybe"),
        rule(RuleEffect::Deny, Actions::NONE.with(Act::Publish).with(Act::Receive), "secret"),
    ];
    let mut grant = Grant::new(rules, RuleEffect::Deny);
    grant.limits = GrantLimits { subscriptions: Some(1), ..GrantLimits::default() };
    let mut stage = granted(&recorder, grant);
    for topic in ["own/x", "secret", "other", "maybe"] {
        stage.client(&publish(0, 0, topic));
    }
    stage.client(&publish(2, 1, "own/x"));
    stage.broker(&publish(0, 0, "secret"));
    stage.client(&wire::subscribe(Version::V5, 1, &[("own/1", 0), ("own/2", 0), ("other", 0)]));
    let by = |part: &str, action: &str| format!("by grant {part}: {action}");
    assert_eq!(
        recorder.take(),
        [
            format!("refused publish secret {}", by("Rule(2)", "reject 0x87")),
            format!("refused publish other {}", by("Default", "reject 0x87")),
            format!("refused publish maybe {}", by("Unanswered", "reject 0x87")),
            format!("refused publish own/x {}", by("Rule(0)", "reject 0x9b")),
            format!("refused deliver secret {}", by("Rule(2)", "reject 0x87")),
            format!("refused filter own/2 {}", by("Subscriptions", "reject 0x97")),
            format!("refused filter other {}", by("Default", "reject 0x87")),
        ]
    );
}

#[test]
fn a_prefix_and_a_rate_are_named_and_the_topic_is_the_client_s() {
    let recorder = Recorder::default();
    let mut grant = Grant::new(vec![rule(RuleEffect::Allow, Actions::ALL, "own/#")], RuleEffect::Deny);
    grant.mapping = Some(Mapping::new("acme/").expect("a prefix"));
    grant.limits = GrantLimits {
        messages: PerSecond::new(1.0),
        rate_action: RateAction::Refuse,
        ..GrantLimits::default()
    };
    let mut stage = granted(&recorder, grant);
    stage.client(&publish(0, 0, "own/x"));
    stage.client(&publish(0, 0, "own/x"));
    stage.broker(&publish(0, 0, "others/own/x"));
    assert_eq!(
        recorder.take(),
        [
            "refused publish own/x by rate Rate: reject 0x97",
            "refused deliver others/own/x by grant Prefix: reject 0x87",
        ]
    );
}

#[test]
fn a_cached_refusal_is_told_as_that_with_the_endpoint_that_gave_it() {
    let recorder = Recorder::default();
    let mut stage = Setup { meter: Arc::new(recorder.clone()), ..Setup::default() }.stage().open(Version::V5);
    let answer = Arc::new(ServiceAnswer { endpoint: "http://hook".into(), at: Instant::now() });
    let cache_for = Some(Duration::from_secs(60));
    let refusal = Refusal { cache_for, text: Some("keep out".into()), ..Refusal::default() };
    stage.client(&publish(0, 0, "a"));
    stage.rule(0, Verdict::Publish(Decision::Refuse(refusal.by(Ground::Service(answer)))));
    let now = stage.now;
    let explained = stage.session.explain(Act::Publish, "a", (QoS::AtMostOnce, false, 0), now);
    assert_eq!(explained.and_then(|told| told.text).as_deref(), Some("keep out"));
    stage.client(&publish(0, 0, "a"));
    let by = |source| format!("refused publish a by {source} http://hook: reject 0x87");
    assert_eq!(recorder.take(), [by("policy_service"), by("cache")]);
}

#[test]
fn a_failed_answer_is_recorded_where_the_failure_rule_denies_and_not_where_it_allows() {
    for on_error in [OnError::Deny, OnError::Allow] {
        let recorder = Recorder::default();
        let on_error = OnErrors { publish: on_error, ..OnErrors::default() };
        let meter = Arc::new(recorder.clone());
        let mut stage = Setup { meter, on_error, ..Setup::default() }.stage().open(Version::V5);
        stage.client(&publish(1, 1, "a"));
        stage.rule(0, fail());
        let lines = recorder.take();
        if on_error.publish == OnError::Allow {
            assert_eq!(lines, [""; 0]);
            continue;
        }
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(
            line.starts_with("refused publish a by failed_closed ") && line.ends_with(": 0x88"),
            "{line}"
        );
    }
}

#[test]
fn of_many_refused_filters_some_have_records_and_the_last_of_them_says_how_many_follow() {
    let recorder = Recorder::default();
    let answering = Box::new(|asked: &QuestionRecord| match asked.hook {
        Hook::Subscribe => Reply::Now(Verdict::SubscribeAll(Decision::Refuse(Refusal::default()))),
        hook => Reply::Now(allow(hook)),
    });
    let meter = Arc::new(recorder.clone());
    let mut stage = Setup { meter, answering, ..Setup::default() }.stage().open(Version::V5);
    let names: Vec<String> = (0..1000).map(|n| format!("f/{n}")).collect();
    let filters: Vec<(&str, u8)> = names.iter().map(|name| (&**name, 0)).collect();
    stage.client(&wire::subscribe(Version::V5, 1, &filters));
    let lines = recorder.take();
    assert_eq!(lines.len(), 64);
    assert!(lines[63].starts_with("refused filter f/63 and 936 more by "), "{}", lines[63]);
}

#[test]
fn a_refused_will_is_recorded_with_its_topic() {
    let recorder = Recorder::default();
    let grant = Grant::new(vec![rule(RuleEffect::Deny, Actions::ALL, "gone/#")], RuleEffect::Ask);
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
    let answering = Box::new(move |_: &QuestionRecord| Reply::Now(verdict.clone()));
    let mut stage = Setup { meter: Arc::new(recorder.clone()), answering, ..Setup::default() }.stage();
    let will = Will { topic: "gone/c", ..Will::default() };
    let options = ConnectOptions { will: Some(will), ..ConnectOptions::default() };
    stage.client(&wire::connect(Version::V5, "c", &options));
    assert_eq!(recorder.take(), ["refused connection with will gone/c by grant: refused 0x87"]);
}

#[test]
fn an_end_that_the_client_did_not_choose_is_recorded_once_and_one_that_it_chose_is_not() {
    let scene = |play: &dyn Fn(&mut Stage)| {
        let recorder = Recorder::default();
        let limits = Limits { max_packet_size: 1000, ..Limits::default() };
        let meter = Arc::new(recorder.clone());
        let mut stage = Setup { limits, meter, ..Setup::default() }.stage().open(Version::V5);
        play(&mut stage);
        stage.close(Side::Client);
        recorder.take()
    };
    let nothing = [""; 0];
    assert_eq!(scene(&|stage| stage.client(&wire::packet(0xE0, &[]))), nothing);
    assert_eq!(scene(&|stage| stage.close(Side::Client)), nothing);
    assert_eq!(scene(&|stage| stage.close(Side::Broker)), nothing);
    assert_eq!(
        scene(&|stage| {
            let now = stage.now;
            stage.session.revoke(ReasonCode(0x98), now);
            stage.run();
        }),
        ["refused connection by administrator: kicked 0x98"]
    );
    let large = publish(0, 0, &"t".repeat(2000));
    assert_eq!(scene(&|stage| stage.client(&large)), ["refused connection by protocol: protocol_error 0x95"]);
}

#[test]
fn a_broker_that_cannot_be_reached_or_refuses_is_recorded_when_that_is_settled() {
    let recorder = Recorder::default();
    let mut stage = Setup { meter: Arc::new(recorder.clone()), ..Setup::default() }.stage();
    stage.dialing = DialScript::Fails;
    stage.client(&wire::connect(Version::V5, "c", &ConnectOptions::default()));
    assert_eq!(recorder.take(), [""; 0], "it is tried again");
    stage.pass(Duration::from_secs(60));
    assert_eq!(recorder.take(), ["refused connection by broker: unreachable 0x88"]);

    let mut stage = Setup { meter: Arc::new(recorder.clone()), ..Setup::default() }.stage();
    stage.client(&wire::connect(Version::V5, "c", &ConnectOptions::default()));
    stage.broker(&wire::connack(Version::V5, false, 0x8A, &[]));
    assert_eq!(recorder.take(), ["refused connection by broker: broker_refused 0x88"]);
}

/// One client with a grant for `own/#`, whose service is asked about the rest and says yes, with changes to `other`.
fn sampled(recorder: &Recorder) -> Stage {
    let receive = rule(RuleEffect::Allow, Actions::NONE.with(Act::Receive), "own/#");
    let rules = vec![rule(RuleEffect::Allow, Actions::ALL, "own/#"), receive];
    let grant = Grant::new(rules, RuleEffect::Ask);
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
    let answering = Box::new(move |asked: &QuestionRecord| match (asked.hook, &*asked.what) {
        (Hook::Connect, _) => Reply::Now(verdict.clone()),
        (Hook::Publish, "other") => {
            Reply::Now(change(PublishChange { retain: Some(true), ..PublishChange::default() }))
        }
        (hook, _) => Reply::Now(allow(hook)),
    });
    let meter = Arc::new(recorder.clone());
    let stage = Setup { grants: true, meter, answering, ..Setup::default() }.stage();
    stage.script.want(Hook::Deliver, Want::Head);
    stage.open(Version::V5)
}

#[test]
fn what_is_allowed_is_told_at_each_hook_with_by_what_where_all_of_it_is_sampled() {
    let recorder = Recorder::sampling(1);
    let mut stage = sampled(&recorder);
    assert_eq!(recorder.take(), ["changed connection by policy_service http://hook"]);
    // The second one passes at the fast path, by the answer that stands.
    for _ in 0..2 {
        stage.client(&publish(1, 1, "own/x"));
        stage.broker(&wire::packet(0x40, &[0, 1]));
    }
    stage.client(&publish(0, 0, "ask"));
    stage.client(&publish(0, 0, "other"));
    stage.broker(&publish(0, 0, "own/y"));
    stage.client(&wire::subscribe(Version::V5, 1, &[("own/1", 0), ("ask/1", 0), ("own/2", 2)]));
    assert_eq!(
        recorder.take(),
        [
            "allowed publish own/x by grant Rule(0)",
            "allowed publish own/x by grant Rule(0)",
            "allowed publish ask by policy_service http://hook",
            "changed publish other by policy_service http://hook",
            "allowed deliver own/y by grant Rule(0)",
            "allowed filter own/1 by grant Rule(0)",
            "allowed filter ask/1 by policy_service http://hook",
            "changed filter own/2 by grant Rule(0)",
        ]
    );
}

#[test]
fn one_in_so_many_is_told_of_packets_at_the_fast_path_too_and_all_pass_as_they_came() {
    let recorder = Recorder::sampling(10);
    let mut stage = sampled(&recorder);
    let (_, _) = (recorder.take(), stage.at_broker());
    let run = publish(0, 0, "own/x").repeat(1000);
    let before = recorder.asked();
    stage.client(&run);
    assert_eq!(stage.at_broker(), run);
    assert_eq!(recorder.asked() - before, 1000);
    assert_eq!(recorder.take(), vec!["allowed publish own/x by grant Rule(0)"; 100]);
}

#[test]
fn an_answer_that_is_used_again_is_told_as_that_with_the_endpoint_that_gave_it() {
    let recorder = Recorder::sampling(1);
    let mut stage = Setup { meter: Arc::new(recorder.clone()), ..Setup::default() }.stage().open(Version::V5);
    let _ = recorder.take();
    let minute = Some(Duration::from_secs(60));
    stage.client(&publish(0, 0, "a"));
    stage.rule(0, change(PublishChange { cache_for: minute, ..PublishChange::default() }));
    stage.client(&publish(0, 0, "a"));
    let told = ["allowed publish a by policy_service http://hook", "allowed publish a by cache http://hook"];
    assert_eq!(recorder.take(), told);
}

#[test]
fn nobody_is_asked_whether_to_tell_of_what_is_allowed_where_none_of_it_is_told() {
    let recorder = Recorder::default();
    let mut stage = sampled(&recorder);
    stage.client(&publish(0, 0, "own/x").repeat(1000));
    stage.client(&publish(0, 0, "ask"));
    assert_eq!((recorder.asked(), recorder.take()), (0, Vec::new()));
}

#[test]
fn what_the_failure_rule_allows_is_told_as_that() {
    let recorder = Recorder::sampling(1);
    let on_error = OnErrors { publish: OnError::Allow, ..OnErrors::default() };
    let meter = Arc::new(recorder.clone());
    let mut stage = Setup { meter, on_error, ..Setup::default() }.stage().open(Version::V5);
    let _ = recorder.take();
    stage.client(&publish(1, 1, "a"));
    stage.rule(0, fail());
    assert_eq!(recorder.take(), ["allowed publish a by failed_open"]);
}

#[test]
fn what_the_failure_rule_would_allow_is_explained_as_that_and_as_a_refusal_where_it_denies() {
    for on_error in [OnError::Allow, OnError::Deny] {
        let mut grant = Grant::new(Vec::new(), RuleEffect::Allow);
        grant.ttl = Some(Duration::from_secs(1));
        let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
        let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
        let answering = Box::new(move |_: &QuestionRecord| Reply::Now(verdict.clone()));
        let on_error = OnErrors { publish: on_error, ..OnErrors::default() };
        let stage = Setup { grants: true, on_error, answering, ..Setup::default() }.stage();
        stage.script.want(Hook::Publish, Want::Nothing);
        let mut stage = stage.open(Version::V5);
        let explain = |stage: &mut Stage| {
            let now = stage.now;
            let told = stage.session.explain(Act::Publish, "a", (QoS::AtMostOnce, false, 0), now);
            let Some(Foreseen::Decides(decided)) = told.map(|told| told.outcome) else { panic!("decided") };
            (decided.verdict, decided.ground.source_name())
        };
        assert_eq!(explain(&mut stage), (Ok(QoS::AtMostOnce), "grant"));
        // The service goes away, and the grant gets old.
        stage.script.answer(|_| Reply::Now(fail()));
        stage.pass(Limits::default().grant_staleness + Duration::from_secs(2));
        let told = match on_error.publish {
            OnError::Allow => (Ok(QoS::AtMostOnce), "failed_open"),
            OnError::Deny => (Err(ReasonCode::SERVER_UNAVAILABLE), "failed_closed"),
        };
        assert_eq!(explain(&mut stage), told);
        stage.client(&publish(0, 0, "a"));
        let passes = !stage.at_broker().is_empty();
        assert_eq!(passes, on_error.publish == OnError::Allow, "as it was explained");
    }
}

#[test]
fn a_grant_that_ends_a_session_is_named() {
    let recorder = Recorder::default();
    let mut grant = Grant::new(Vec::new(), RuleEffect::Ask);
    grant.expires_at = Some(Instant::now() + Duration::from_secs(100));
    let mut stage = granted(&recorder, grant);
    stage.pass(Duration::from_secs(101));
    assert_eq!(recorder.take(), ["refused connection by grant Expired: expired 0xa0"]);
}

#[test]
fn what_has_no_place_under_a_prefix_is_refused_by_that_and_not_by_the_default() {
    let refused = |topic: &str, default, mapped: bool| {
        let recorder = Recorder::default();
        let mut grant = Grant::new(Vec::new(), default);
        grant.mapping = mapped.then(|| Mapping::new("acme/").expect("a prefix"));
        let mut stage = granted(&recorder, grant);
        stage.client(&publish(0, 0, topic));
        stage.client(&wire::subscribe(Version::V5, 1, &[(topic, 0)]));
        recorder.take()
    };
    let both = |by: &str| {
        ["publish", "filter"].map(|what| format!("refused {what} $SYS/x by grant {by}: reject 0x87")).to_vec()
    };
    for default in [RuleEffect::Ask, RuleEffect::Allow] {
        assert_eq!(refused("$SYS/x", default, true), both("Prefix"), "{default:?}");
    }
    assert_eq!(refused("$SYS/x", RuleEffect::Deny, true), both("Default"));
    assert_eq!(refused("$SYS/x", RuleEffect::Allow, false), both("Default"));
}

#[test]
fn an_authentication_that_ends_a_session_is_told_as_that() {
    /// Authentication Method "m", and "n".
    const METHODS: [&[u8]; 2] = [b"\x15\0\x01m", b"\x15\0\x01n"];
    let begun = |recorder: &Recorder| {
        let meter = Arc::new(recorder.clone());
        let answering = Box::new(|asked: &QuestionRecord| match asked.hook {
            Hook::Exchange => {
                Reply::Now(Verdict::Exchange(Decision::Allow(ExchangeStep::Continue { data: None })))
            }
            hook => Reply::Now(allow(hook)),
        });
        let mut stage = Setup { meter, answering, ..Setup::default() }.stage();
        stage.script.want(Hook::Exchange, Want::Head);
        let properties = METHODS[0];
        stage.client(&wire::connect(
            Version::V5,
            "c",
            &ConnectOptions { properties, ..ConnectOptions::default() },
        ));
        stage
    };
    let recorder = Recorder::default();
    begun(&recorder).pass(Duration::from_secs(60));
    assert_eq!(recorder.take(), ["refused connection (exchange) by limit: too_late 0x87"]);
    begun(&recorder).client(&wire::auth(0x18, METHODS[1]));
    assert_eq!(recorder.take(), ["refused connection (exchange) by protocol: protocol_error 0x82"]);
}
