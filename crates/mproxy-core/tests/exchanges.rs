//! Enhanced authentication that mproxy answers in the broker's place, before CONNACK and in open sessions.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mproxy_codec::ReasonCode;
use mproxy_codec::types::PacketType;
use mproxy_core::command::{Dismissal, Selector, SessionCommand};
use mproxy_core::fault::{Deadline, Fault};
use mproxy_core::grant::{Grant, Mapping};
use mproxy_core::meter::{ExchangeOutcome, Meter, Outcome};
use mproxy_core::policy::{
    Admission, Authenticated, Decision, ExchangeStep, Failure, Hook, OnError, Overload, Refusal, Source,
    Unusable, Want,
};
use mproxy_core::rule::RuleEffect;
use mproxy_core::session::{OnAuth, OnErrors, OnUnavailable, RecallStage};
use mproxy_core::{Limits, Peer, Side};
use mproxy_sim::stage::{DialScript, Setup};
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version, Will};
use mproxy_sim::{QuestionRecord, Reply, Stage, Verdict, allow, fail};

/// Authentication Method "m", and "n".
const METHOD: &[u8] = b"\x15\0\x01m";
const OTHER: &[u8] = b"\x15\0\x01n";

/// Of the clients, in seconds.
const KEEP_ALIVE: u16 = 20;

/// How long the broker hears nothing of a client that only authenticates: a quarter of that.
const BETWEEN_PINGS: Duration = Duration::from_secs(5);

/// Method "m" with this data.
fn with(data: &[u8]) -> Vec<u8> {
    [METHOD, b"\x16\0", &[data.len() as u8], data].concat()
}

fn connect(properties: &[u8]) -> Vec<u8> {
    let keep_alive = KEEP_ALIVE;
    wire::connect(Version::V5, "c", &ConnectOptions { keep_alive, properties, ..ConnectOptions::default() })
}

fn connack(properties: &[u8]) -> Vec<u8> {
    wire::connack(Version::V5, false, 0, properties)
}

fn refused(code: u8) -> Vec<u8> {
    wire::connack(Version::V5, false, code, &[])
}

fn disconnect(code: u8) -> Vec<u8> {
    wire::packet(0xE0, &[code])
}

fn go_on(data: &'static [u8]) -> Verdict {
    let data = (!data.is_empty()).then(|| data.into());
    Verdict::Exchange(Decision::Allow(ExchangeStep::Continue { data }))
}

fn success(with: Authenticated) -> Verdict {
    Verdict::Exchange(Decision::Allow(ExchangeStep::Success(Box::new(with))))
}

fn grants(grant: Grant) -> Authenticated {
    Authenticated { grant: Some(Arc::new(grant)), ..Authenticated::default() }
}

fn deny(code: u8) -> Verdict {
    Verdict::refuse(Hook::Exchange, Refusal::new(ReasonCode(code)))
}

/// A grant with this name that ends so many seconds from now.
fn grant(version: &str, seconds: u64) -> Grant {
    let mut grant = Grant::new(Vec::new(), RuleEffect::Ask);
    grant.version = version.into();
    grant.expires_at = Some(Instant::now() + Duration::from_secs(seconds));
    grant
}

/// CONNECT is allowed at once, and steps of authentications are asked about.
fn wanting(setup: Setup) -> Stage {
    let stage = setup.stage();
    stage.script.want(Hook::Exchange, Want::Head);
    stage
}

fn stage() -> Stage {
    wanting(Setup::default())
}

/// Admitted with this grant.
fn granted(grant: Grant) -> Stage {
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
    let answering = move |asked: &QuestionRecord| match asked.hook {
        Hook::Connect => Reply::Now(verdict.clone()),
        _ => Reply::Later,
    };
    wanting(Setup { answering: Box::new(answering), ..Setup::default() })
}

/// Opens the session: question 0 is answered with this.
fn open_with(mut stage: Stage, authenticated: Authenticated) -> Stage {
    stage.client(&connect(METHOD));
    stage.rule(0, success(authenticated));
    stage.broker(&connack(&[]));
    assert_eq!(stage.session.phase_name(), "open");
    stage.at_broker();
    stage.at_client();
    stage.take_questions();
    stage.events();
    stage
}

fn open() -> Stage {
    open_with(stage(), Authenticated::default())
}

/// The client begins to re-authenticate, as question 1.
fn again(stage: &mut Stage) {
    again_as(stage, 2);
}

/// It begins once more: then there have been so many questions.
fn again_as(stage: &mut Stage, questions: usize) {
    stage.client(&wire::auth(0x19, METHOD));
    assert_eq!(stage.questions(), questions);
}

fn version_in_force(stage: &Stage) -> &str {
    stage.session.peer().and_then(|peer| peer.grant.as_deref()).map_or("", |grant| &grant.version)
}

fn asked(stage: &mut Stage) -> Vec<(String, Option<Vec<u8>>)> {
    stage.take_questions().into_iter().map(|asked| (asked.what, asked.payload)).collect()
}

#[test]
fn a_client_authenticates_step_by_step_and_the_broker_hears_nothing_of_it() {
    let mut stage = stage();
    let expiry = b"\x11\0\0\0\x0a";
    stage.client(&connect(&[&with(b"one")[..], expiry].concat()));
    assert_eq!(stage.session.phase_name(), "authenticating");
    assert_eq!(stage.dials, 0, "the broker is not reached before");
    assert_eq!(
        asked(&mut stage),
        [("c".to_owned(), None), ("connect 1 m".to_owned(), Some(b"one".to_vec()))],
        "AuthConnect comes first"
    );
    stage.rule(0, go_on(b"two"));
    assert_eq!(stage.at_client(), wire::auth(0x18, &with(b"two")));
    stage.client(&wire::auth(0x18, &with(b"three")));
    assert_eq!(asked(&mut stage), [("connect 2 m".to_owned(), Some(b"three".to_vec()))]);
    let done =
        Authenticated { data: Some(b"four"[..].into()), text: Some("welcome".into()), ..Default::default() };
    stage.rule(1, success(done));
    assert_eq!(stage.at_broker(), connect(expiry), "without method and data");
    stage.broker(&connack(b"\x21\0\x05"));
    let told = [b"\x21\0\x05", &with(b"four")[..], b"\x1f\0\x07welcome"].concat();
    assert_eq!(stage.at_client(), connack(&told), "[MQTT-4.12.0-5]");
    assert_eq!(stage.session.phase_name(), "open");
}

#[test]
fn a_method_alone_may_be_enough() {
    let mut stage = stage();
    stage.client(&connect(METHOD));
    stage.rule(0, success(Authenticated::default()));
    assert_eq!(stage.at_broker(), connect(&[]));
    stage.broker(&connack(&[]));
    assert_eq!(stage.at_client(), connack(METHOD));
}

#[test]
fn a_failure_before_connack_is_a_connack() {
    let unusable = || Verdict::Unusable(Unusable::invalid("nonsense"));
    let overloaded = || Verdict::Overloaded(Overload::new("questions", "too many"));
    for (verdict, on_unavailable, told) in [
        (deny(0x87), OnUnavailable::Close, refused(0x87)),
        (deny(0x8C), OnUnavailable::Close, refused(0x8C)),
        // Trouble is no refusal.
        (fail(), OnUnavailable::Close, Vec::new()),
        (fail(), OnUnavailable::Connack, refused(0x88)),
        (overloaded(), OnUnavailable::Connack, refused(0x88)),
        (unusable(), OnUnavailable::Close, refused(0x83)),
    ] {
        for steps in [0, 1] {
            // The failure rule is for packets: it never says who a client is.
            let allow = OnError::Allow;
            let on_error = OnErrors { connect: allow, publish: allow, subscribe: allow, deliver: allow };
            let mut stage = wanting(Setup { on_error, on_unavailable, ..Setup::default() });
            stage.client(&connect(METHOD));
            if steps == 1 {
                stage.rule(0, go_on(b""));
                assert_eq!(stage.at_client(), wire::auth(0x18, METHOD));
                stage.client(&wire::auth(0x18, METHOD));
            }
            stage.rule(steps, verdict.clone());
            assert_eq!(stage.at_client(), told, "{verdict:?}");
            stage.finish();
            assert_eq!((stage.dials, stage.at_broker()), (0, Vec::new()));
        }
    }
}

#[test]
fn what_nobody_answers_is_never_a_success() {
    let mut stage = stage();
    stage.script.answer(|asked| match asked.hook {
        Hook::Connect => Reply::Now(allow(Hook::Connect)),
        _ => Reply::Pass,
    });
    stage.client(&connect(METHOD));
    assert!(matches!(stage.finish(), Fault::PolicyFailed { hook: Hook::Exchange, .. }));
    assert_eq!(stage.dials, 0);
}

#[test]
fn auth_passes_where_nobody_wants_it_or_the_listener_says_so() {
    let passed = wanting(Setup { on_auth: OnAuth::Pass, ..Setup::default() });
    for mut stage in [Stage::new(), passed] {
        stage.client(&connect(&with(b"one")));
        assert_eq!(stage.at_broker(), connect(&with(b"one")));
        stage.broker(&wire::auth(0x18, METHOD));
        assert_eq!(stage.at_client(), wire::auth(0x18, METHOD));
        stage.client(&wire::auth(0x18, METHOD));
        assert_eq!(stage.at_broker(), wire::auth(0x18, METHOD));
        stage.broker(&connack(METHOD));
        assert_eq!(stage.at_client(), connack(METHOD));
        stage.client(&wire::auth(0x19, METHOD));
        assert_eq!(stage.at_broker(), wire::auth(0x19, METHOD));
        assert_eq!(stage.questions(), 0);
    }
}

#[test]
fn a_method_that_no_adviser_takes_is_the_brokers() {
    let mut stage = stage();
    stage.script.take_only("n");
    stage.client(&connect(&with(b"one")));
    assert_eq!(stage.at_broker(), connect(&with(b"one")));
    stage.broker(&connack(METHOD));
    assert_eq!(stage.at_client(), connack(METHOD));
    stage.client(&wire::auth(0x19, METHOD));
    assert_eq!((stage.at_broker(), stage.questions()), (wire::auth(0x19, METHOD), 0));
    let mut taken = self::stage();
    taken.script.take_only("n");
    taken.client(&connect(OTHER));
    assert_eq!((taken.at_broker(), asked(&mut taken)[1].0.as_str()), (Vec::new(), "connect 1 n"));
}

#[test]
fn who_admits_a_client_may_have_judged_what_it_authenticates_with() {
    let admission =
        Admission { authenticated: true, grant: Some(Arc::new(grant("old", 10))), ..Admission::default() };
    for (admission, asks) in
        [(admission.clone(), false), (Admission { authenticated: false, ..admission }, true)]
    {
        let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
        let answering = move |asked: &QuestionRecord| match asked.hook {
            Hook::Connect => Reply::Now(verdict.clone()),
            _ => Reply::Later,
        };
        let mut stage = wanting(Setup { answering: Box::new(answering), ..Setup::default() });
        stage.client(&connect(&with(b"token")));
        assert_eq!(stage.questions(), usize::from(asks), "and nobody is asked once more");
        if asks {
            assert_eq!(stage.at_broker(), b"");
            continue;
        }
        assert_eq!(stage.at_broker(), connect(b""), "without method and data");
        // A client has nothing to answer.
        stage.broker(&connack(&[]));
        assert_eq!(stage.at_client(), connack(METHOD));
        stage.client(&wire::auth(0x19, &with(b"newer")));
        stage.rule(0, success(grants(grant("new", 100))));
        assert_eq!(stage.at_client(), wire::auth(0x00, METHOD));
        assert_eq!(version_in_force(&stage), "new");
        stage.pass(Duration::from_secs(60));
        assert_eq!(stage.session.phase_name(), "open");
    }
}

#[test]
fn a_listener_that_passes_auth_says_so_in_the_question() {
    for (on_auth, passes) in [(OnAuth::Ask, false), (OnAuth::Pass, true)] {
        let mut stage = wanting(Setup { on_auth, ..Setup::default() });
        stage.client(&connect(METHOD));
        assert_eq!(stage.take_questions()[0].passes_auth, passes);
    }
}

#[test]
fn a_client_without_a_method_is_not_asked_about_and_may_not_begin() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut stage = stage().open(version);
        stage.client(&wire::auth(0x19, METHOD));
        assert_eq!(stage.questions(), 0);
        let fault = stage.finish();
        match version {
            Version::V5 => assert!(matches!(fault, Fault::Protocol { rule: "MQTT-4.12.0-7", .. }), "{fault}"),
            // It has no such packet.
            _ => assert!(matches!(fault, Fault::Malformed { side: Side::Client, .. }), "{fault}"),
        }
    }
}

#[test]
fn out_of_turn_before_connack() {
    let publish = wire::publish(Version::V5, &Publish { topic: "a", ..Publish::default() });
    for (what, bytes, rule) in [
        ("an answer too many", wire::auth(0x18, METHOD), "MQTT-4.12.0-3"),
        ("re-authentication", wire::auth(0x19, METHOD), "4.12.1"),
        ("another method", wire::auth(0x18, OTHER), "MQTT-4.12.0-5"),
        ("PUBLISH", publish, "MQTT-3.1.2-30"),
        ("PINGREQ", wire::pingreq(), "MQTT-3.1.2-30"),
        ("another CONNECT", connect(METHOD), "MQTT-3.1.0-2"),
    ] {
        for state in ["asked", "asking", "dialing"] {
            // In that state they are in order.
            if state == "asking" && what == "an answer too many" {
                continue;
            }
            let mut stage = stage();
            stage.client(&connect(METHOD));
            match state {
                "asking" => stage.rule(0, go_on(b"")),
                "dialing" => stage.rule(0, success(Authenticated::default())),
                _ => {}
            }
            stage.at_client();
            stage.client(&bytes);
            assert_eq!(stage.at_client(), refused(0x82), "{what}, {state}");
            let fault = stage.finish();
            assert!(
                matches!(fault, Fault::Protocol { rule: broken, .. } if broken == rule),
                "{what}: {fault}"
            );
        }
    }
}

#[test]
fn out_of_turn_in_an_open_session() {
    for (what, bytes, rule) in [
        ("an answer to nothing", wire::auth(0x18, METHOD), "MQTT-4.12.0-3"),
        ("another method", wire::auth(0x19, OTHER), "MQTT-4.12.1-1"),
    ] {
        let mut stage = open();
        stage.client(&bytes);
        assert_eq!(stage.at_client(), disconnect(0x82), "{what}");
        let fault = stage.finish();
        assert!(matches!(fault, Fault::Protocol { rule: broken, .. } if broken == rule), "{what}: {fault}");
    }
    for (what, bytes, rule) in [
        ("an answer to nothing", wire::auth(0x18, METHOD), "MQTT-4.12.0-3"),
        ("one while another is under way", wire::auth(0x19, METHOD), "4.12.1"),
        ("another method", wire::auth(0x18, OTHER), "MQTT-4.12.0-5"),
    ] {
        let mut stage = open();
        again(&mut stage);
        stage.client(&bytes);
        assert_eq!(stage.at_client(), disconnect(0x82), "{what}");
        let fault = stage.finish();
        assert!(matches!(fault, Fault::Protocol { rule: broken, .. } if broken == rule), "{what}: {fault}");
        stage.allow_again_is_nothing();
    }
}

/// An answer to a question that nobody waits for any more.
trait LateAnswer {
    fn allow_again_is_nothing(&mut self);
}

impl LateAnswer for Stage {
    fn allow_again_is_nothing(&mut self) {
        self.rule(1, success(Authenticated::default()));
        assert_eq!(self.at_client(), b"");
    }
}

#[test]
fn the_broker_may_not_send_auth_where_mproxy_answers_it() {
    let mut before = stage();
    before.client(&connect(METHOD));
    before.rule(0, success(Authenticated::default()));
    for mut stage in [before, open()] {
        stage.broker(&wire::auth(0x18, METHOD));
        let fault = stage.finish();
        let wrong = matches!(fault, Fault::Protocol { side: Side::Broker, rule: "MQTT-4.12.0-6", .. });
        assert!(wrong, "{fault}");
    }
}

#[test]
fn a_client_that_gives_up_is_gone_and_the_broker_never_heard_of_it() {
    for steps in [0, 1] {
        let mut stage = stage();
        stage.client(&connect(METHOD));
        if steps == 1 {
            stage.rule(0, go_on(b""));
            stage.at_client();
        }
        stage.client(&wire::disconnect_with(0x04, &[]));
        assert_eq!(stage.finish(), Fault::Left { reason: ReasonCode(0x04) });
        assert_eq!((stage.at_client(), stage.dials), (Vec::new(), 0));
    }
    let mut stage = stage();
    stage.client(&connect(METHOD));
    stage.close(Side::Client);
    assert!(matches!(stage.done(), Some(Fault::Lost { side: Side::Client, .. })));
}

#[test]
fn an_open_session_authenticates_anew_while_it_goes_on() {
    let mut stage = open();
    stage.client(&wire::auth(0x19, &with(b"one")));
    assert_eq!(asked(&mut stage), [("again 1 m".to_owned(), Some(b"one".to_vec()))]);
    let ping = wire::pingreq();
    assert_eq!(stage.at_broker(), ping, "it hears that the client lives");
    let publish = wire::publish(Version::V5, &Publish { topic: "a", ..Publish::default() });
    stage.client(&publish);
    stage.rule(2, allow(Hook::Publish));
    stage.broker(&publish);
    assert_eq!((stage.at_broker(), stage.at_client()), (publish.clone(), publish));
    stage.rule(1, go_on(b"two"));
    assert_eq!(stage.at_client(), wire::auth(0x18, &with(b"two")));
    stage.client(&wire::auth(0x18, &with(b"three")));
    let done =
        Authenticated { data: Some(b"four"[..].into()), text: Some("ok".into()), ..Default::default() };
    stage.rule(3, success(done));
    assert_eq!(stage.at_client(), wire::auth(0x00, &[&with(b"four")[..], b"\x1f\0\x02ok"].concat()));
    assert_eq!(stage.at_broker(), b"", "one PINGREQ is enough until it is answered");
    stage.broker(&[wire::pingresp(), wire::pingresp()].concat());
    assert_eq!(stage.at_client(), wire::pingresp(), "one of them is not the client's");
    stage.client(&wire::auth(0x19, METHOD));
    stage.rule(4, go_on(b"five"));
    assert_eq!(stage.at_broker(), b"", "it has just heard that the client lives");
    stage.pass(BETWEEN_PINGS);
    stage.client(&wire::auth(0x18, METHOD));
    assert_eq!(stage.at_broker(), ping, "and so on");
}

#[test]
fn a_client_that_wants_no_problem_information_gets_no_text() {
    let mut stage = stage();
    stage.client(&connect(&[METHOD, b"\x17\0"].concat()));
    stage.rule(0, success(Authenticated::default()));
    stage.broker(&connack(&[]));
    stage.at_client();
    again(&mut stage);
    stage.rule(1, success(Authenticated { text: Some("ok".into()), ..Default::default() }));
    assert_eq!(stage.at_client(), wire::auth(0x00, METHOD));
}

#[test]
fn a_failure_in_an_open_session_is_a_disconnect() {
    for (verdict, code) in [
        (deny(0x87), 0x87),
        // DISCONNECT has no word for it.
        (deny(0x8C), 0x87),
        // As it is told of every answer that failed (ADR 0003).
        (fail(), 0x80),
        (Verdict::Unusable(Unusable::invalid("nonsense")), 0x83),
        (Verdict::Overloaded(Overload::new("questions", "too many")), 0x80),
    ] {
        let mut stage = open();
        again(&mut stage);
        stage.at_broker();
        stage.rule(1, verdict.clone());
        assert_eq!(stage.at_client(), disconnect(code), "{verdict:?}");
        assert_eq!(stage.at_broker(), b"", "without DISCONNECT: the will fires");
        stage.finish();
    }
}

#[test]
fn a_success_replaces_the_grant_and_its_end() {
    let mut stage = open_with(granted(grant("old", 10)), Authenticated::default());
    assert_eq!(version_in_force(&stage), "old");
    again(&mut stage);
    stage.rule(1, success(grants(grant("new", 100))));
    assert_eq!(version_in_force(&stage), "new");
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.session.phase_name(), "open", "the old end is past");
    stage.pass(Duration::from_secs(41));
    assert_eq!(stage.finish(), Fault::TooLate(Deadline::Grant));
}

#[test]
fn without_a_grant_the_old_one_stays_and_ends_in_time() {
    let mut stage = open_with(granted(grant("old", 10)), Authenticated::default());
    again(&mut stage);
    stage.rule(
        1,
        success(Authenticated { attributes: Some(vec![("a".into(), "b".into())]), ..Default::default() }),
    );
    assert_eq!(version_in_force(&stage), "old");
    assert_eq!(stage.session.peer().and_then(|peer| peer.attribute("a")), Some("b"));
    stage.pass(Duration::from_millis(9_900));
    assert_eq!(stage.session.phase_name(), "open");
    stage.pass(Duration::from_millis(200));
    assert_eq!(stage.finish(), Fault::TooLate(Deadline::Grant));
}

#[test]
fn one_authentication_is_work_enough_for_one_turn() {
    let mut stage = open();
    stage.script.answer(|_| Reply::Now(success(Authenticated::default())));
    let mut flood = BytesMut::from(&wire::auth(0x19, &with(b"x")).repeat(3)[..]);
    for left in [2, 1, 0] {
        stage.session.read(Side::Client, &mut flood, stage.now);
        assert_eq!(stage.take_questions().len(), 1);
        assert_eq!((flood.len(), stage.session.cut_short(Side::Client)), (left * flood_part(), left > 0));
    }
}

/// Bytes of one AUTH of that flood.
fn flood_part() -> usize {
    wire::auth(0x19, &with(b"x")).len()
}

#[test]
fn attributes_that_are_said_to_be_none_are_none() {
    let mut stage = open();
    again(&mut stage);
    stage.rule(
        1,
        success(Authenticated { attributes: Some(vec![("a".into(), "b".into())]), ..Default::default() }),
    );
    again_as(&mut stage, 3);
    stage.rule(2, success(Authenticated::default()));
    assert_eq!(
        stage.session.peer().and_then(|peer| peer.attribute("a")),
        Some("b"),
        "nothing was said of them"
    );
    again_as(&mut stage, 4);
    stage.rule(3, success(Authenticated { attributes: Some(Vec::new()), ..Default::default() }));
    assert_eq!(stage.session.peer().and_then(|peer| peer.attribute("a")), None);
}

#[test]
fn a_grant_ends_on_time_while_its_client_authenticates() {
    let mut stage = open_with(granted(grant("old", 5)), Authenticated::default());
    again(&mut stage);
    stage.pass(Duration::from_millis(5_100));
    assert_eq!(stage.at_client(), disconnect(0xA0));
    assert_eq!(stage.finish(), Fault::TooLate(Deadline::Grant));
}

#[test]
fn the_grant_of_an_authenticated_connect_is_in_force_before_the_broker_hears_of_it() {
    let mut mapped = grant("mapped", 100);
    mapped.mapping = Mapping::new("acme/").ok();
    let will = Will { topic: "gone", ..Will::default() };
    let connect = |topic, properties| {
        let will = Some(Will { topic, ..will });
        wire::connect(Version::V5, "c", &ConnectOptions { will, properties, ..ConnectOptions::default() })
    };
    let mut stage = stage();
    stage.client(&connect("gone", METHOD));
    stage.rule(0, success(grants(mapped)));
    assert_eq!(stage.at_broker(), connect("acme/gone", b""));
    stage.broker(&connack(&[]));
    assert_eq!(version_in_force(&stage), "mapped");
    stage.at_client();
    stage.client(&wire::publish(Version::V5, &Publish { topic: "a", ..Publish::default() }));
    stage.rule(1, allow(Hook::Publish));
    assert_eq!(
        stage.at_broker(),
        wire::publish(Version::V5, &Publish { topic: "acme/a", ..Publish::default() })
    );

    // A will that it denies keeps the client out.
    let mut stage = self::stage();
    stage.client(&connect("gone", METHOD));
    let mut denies = Grant::new(Vec::new(), RuleEffect::Deny);
    denies.version = "denies".into();
    stage.rule(0, success(grants(denies)));
    assert_eq!(stage.at_client(), refused(0x87));
    assert_eq!(stage.dials, 0);
}

#[test]
fn a_command_is_newer_than_the_answer_to_an_older_question() {
    let replace = || SessionCommand::ReplaceGrant(Some(Arc::new(grant("commanded", 50))));
    let mut stage = open_with(granted(grant("old", 10)), Authenticated::default());
    again(&mut stage);
    stage.command(Selector::All, replace());
    stage.rule(1, success(grants(grant("older", 1000))));
    assert_eq!(stage.at_client(), wire::auth(0x00, METHOD), "it has authenticated");
    assert_eq!(version_in_force(&stage), "commanded");
    stage.pass(Duration::from_secs(51));
    assert_eq!(stage.finish(), Fault::TooLate(Deadline::Grant));

    // A question that was asked after it has an answer that is newer.
    let mut stage = open_with(granted(grant("old", 10)), Authenticated::default());
    again(&mut stage);
    stage.rule(1, go_on(b""));
    stage.command(Selector::All, replace());
    stage.client(&wire::auth(0x18, METHOD));
    stage.rule(2, success(grants(grant("newest", 1000))));
    assert_eq!(version_in_force(&stage), "newest");

    // Before CONNACK.
    let mut stage = granted(grant("old", 10));
    stage.client(&connect(METHOD));
    stage.command(Selector::All, replace());
    stage.rule(0, success(grants(grant("older", 1000))));
    stage.broker(&connack(&[]));
    assert_eq!(version_in_force(&stage), "commanded");
}

#[test]
fn a_renewal_that_was_asked_for_later_has_the_last_word() {
    let check = || SessionCommand::CheckGrant { version: "third".into() };
    let renewed = |version| {
        let admission = Admission { grant: Some(Arc::new(grant(version, 100))), ..Admission::default() };
        Verdict::Connect(Decision::Allow(Some(Box::new(admission))))
    };
    let later = |_: &QuestionRecord| Reply::Later;
    // Asked before: its answer is the older one.
    let mut stage = open_with(granted(grant("first", 100)), Authenticated::default());
    stage.script.answer(later);
    stage.command(Selector::All, check());
    stage.pass(Duration::ZERO);
    stage.client(&wire::auth(0x19, METHOD));
    assert_eq!(stage.questions(), 3);
    stage.rule(2, success(grants(grant("second", 100))));
    assert_eq!(stage.session.recall(), RecallStage::None, "the command can be reported");
    stage.rule(1, renewed("older"));
    assert_eq!(version_in_force(&stage), "second");

    // Asked after, or to be asked.
    for asked in [true, false] {
        let mut stage = open_with(granted(grant("first", 100)), Authenticated::default());
        stage.script.answer(later);
        again(&mut stage);
        stage.command(Selector::All, check());
        if asked {
            stage.pass(Duration::ZERO);
            assert_eq!(stage.questions(), 3);
        }
        stage.rule(1, success(grants(grant("second", 100))));
        assert_eq!(version_in_force(&stage), "second");
        stage.pass(Duration::ZERO);
        stage.rule(stage.questions() - 1, renewed("third"));
        assert_eq!(version_in_force(&stage), "third");
        assert_eq!(stage.session.recall(), RecallStage::None, "the command can be reported");
    }

    // A renewal in its own time.
    let mut timed = grant("first", 100);
    timed.ttl = Some(Duration::from_secs(1));
    let mut stage = open_with(granted(timed), Authenticated::default());
    stage.script.answer(later);
    again(&mut stage);
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.questions(), 3);
    stage.rule(1, success(grants(grant("second", 100))));
    stage.rule(2, renewed("third"));
    assert_eq!(version_in_force(&stage), "third");
}

#[test]
fn an_exchange_that_never_ends_is_ended() {
    for open_first in [false, true] {
        // By the number of its steps: the service is to blame.
        let mut stage = if open_first { open() } else { stage() };
        let first = usize::from(open_first);
        let begin = if open_first { wire::auth(0x19, METHOD) } else { connect(METHOD) };
        stage.client(&begin);
        for step in 0..7 {
            stage.rule(first + step, go_on(b""));
            assert_eq!(stage.at_client(), wire::auth(0x18, METHOD));
            stage.client(&wire::auth(0x18, METHOD));
        }
        stage.rule(first + 7, go_on(b""));
        let told = if open_first { disconnect(0x83) } else { refused(0x83) };
        assert_eq!(stage.at_client(), told);
        let ended = stage.finish();
        let Fault::PolicyUnusable { hook: Hook::Exchange, unusable } = &ended else { panic!("{ended}") };
        assert_eq!(unusable.endpoint.as_deref(), Some("http://hook"), "who is to blame");

        // By the clock, over all steps: here the client is slow.
        let mut stage = if open_first { open() } else { self::stage() };
        stage.client(&begin);
        for step in 0..3 {
            stage.pass(Duration::from_secs(3));
            stage.rule(first + step, go_on(b""));
            stage.at_client();
            if step < 2 {
                stage.client(&wire::auth(0x18, METHOD));
            }
        }
        stage.pass(Duration::from_millis(1_100));
        let told = if open_first { disconnect(0x87) } else { refused(0x87) };
        assert_eq!(stage.at_client(), told);
        assert_eq!(stage.finish(), Fault::TooLate(Deadline::Exchange));

        // And here the service.
        let mut stage = if open_first { open() } else { self::stage() };
        stage.client(&begin);
        stage.pass(Duration::from_millis(10_100));
        assert_eq!(stage.at_client(), if open_first { disconnect(0x80) } else { Vec::new() });
        assert!(matches!(stage.finish(), Fault::PolicyFailed { hook: Hook::Exchange, .. }));
    }
}

#[test]
fn a_session_at_rest_is_not_ended_by_an_exchange_that_is_over() {
    let mut stage = open();
    again(&mut stage);
    stage.rule(1, success(Authenticated::default()));
    assert_eq!(stage.session.poll_timeout(), None);
    stage.pass(Duration::from_secs(3600));
    assert_eq!(stage.session.phase_name(), "open");
}

#[test]
fn an_answer_that_the_client_cannot_be_sent_is_unusable_before_the_broker_hears_of_anything() {
    let small = [b"\x27\0\0\0\x64", METHOD].concat();
    let large: &'static [u8] = &[7; 200];
    let answers: [fn(&'static [u8]) -> Verdict; 2] =
        [go_on, |data| success(Authenticated { data: Some(data.into()), ..Authenticated::default() })];
    for answer in answers {
        let mut stage = stage();
        stage.client(&connect(&small));
        stage.rule(0, answer(large));
        assert_eq!((stage.at_client(), stage.dials), (refused(0x95), 0));
        assert!(matches!(stage.finish(), Fault::PolicyUnusable { hook: Hook::Exchange, .. }));

        let mut stage = self::stage();
        stage.client(&connect(&small));
        stage.rule(0, success(Authenticated::default()));
        stage.broker(&connack(&[]));
        stage.at_client();
        again(&mut stage);
        stage.rule(1, answer(large));
        assert_eq!(stage.at_client(), disconnect(0x95));
        assert!(matches!(stage.finish(), Fault::PolicyUnusable { hook: Hook::Exchange, .. }));
    }
}

#[test]
fn an_auth_has_no_more_user_properties_than_any_other_packet() {
    let limits = || Limits { max_user_properties: 1000, ..Limits::default() };
    let pair = b"\x26\0\x03key\0\x05value";
    for (pairs, ends) in [(70, false), (80, true)] {
        let mut stage =
            open_with(wanting(Setup { limits: limits(), ..Setup::default() }), Authenticated::default());
        stage.client(&wire::auth(0x19, &[METHOD, &pair.repeat(pairs)].concat()));
        assert_eq!(stage.at_client(), if ends { disconnect(0x97) } else { Vec::new() });
        assert_eq!(stage.questions(), if ends { 1 } else { 2 });
    }
}

#[test]
fn a_drained_session_does_not_wait_for_an_exchange() {
    let mut stage = open();
    again(&mut stage);
    stage.drain();
    assert_eq!(stage.at_client(), disconnect(0x8B));
    stage.rule(1, success(grants(grant("late", 100))));
    assert_eq!((stage.at_client(), version_in_force(&stage)), (Vec::new(), ""));
    assert_eq!(stage.finish(), Fault::Drained { elsewhere: false });

    let mut stage = self::stage();
    stage.client(&connect(METHOD));
    stage.drain();
    stage.rule(0, success(Authenticated::default()));
    assert_eq!(stage.finish(), Fault::Drained { elsewhere: false });
    assert_eq!(stage.dials, 0);
}

#[test]
fn a_disconnect_command_ends_an_exchange() {
    for open_first in [false, true] {
        let mut stage = if open_first { open() } else { stage() };
        let begin = if open_first { wire::auth(0x19, METHOD) } else { connect(METHOD) };
        stage.client(&begin);
        let reason = ReasonCode::ADMINISTRATIVE_ACTION;
        let command = SessionCommand::Disconnect(Dismissal::new(reason));
        assert_eq!(stage.command(Selector::ClientId("c".into()), command).clients, 1);
        assert_eq!(stage.at_client(), if open_first { disconnect(0x98) } else { refused(0x87) });
        stage.rule(usize::from(open_first), success(Authenticated::default()));
        assert!(matches!(stage.finish(), Fault::Kicked { .. }));
    }
}

#[test]
fn an_answer_told_twice_counts_once() {
    let mut stage = stage();
    stage.client(&connect(METHOD));
    stage.rule(0, go_on(b""));
    stage.allow_again(0);
    assert_eq!(stage.session.phase_name(), "authenticating");
    stage.client(&wire::auth(0x18, METHOD));
    stage.allow_again(0);
    assert_eq!(stage.dials, 0, "a yes to the first question is none to the second");
    stage.rule(1, success(Authenticated::default()));
    stage.allow_again(1);
    assert_eq!(stage.dials, 1);
}

#[test]
fn a_text_that_does_not_fit_is_left_out() {
    let narrow = [METHOD, b"\x27\0\0\0\x10"].concat();
    let mut stage = stage();
    stage.client(&connect(&narrow));
    stage.rule(0, success(Authenticated { text: Some("a long text".into()), ..Default::default() }));
    stage.broker(&connack(&[]));
    assert_eq!(stage.at_client(), connack(METHOD));
}

#[test]
fn a_pingreq_of_ours_waits_for_the_end_of_a_payload_and_an_auth_for_that_of_a_delivery() {
    let mut stage = open();
    stage.script.want(Hook::Publish, Want::Nothing);
    let whole =
        wire::publish(Version::V5, &Publish { topic: "a", payload: &[1; 300_000], ..Publish::default() });
    let (head, rest) = whole.split_at(1000);
    stage.broker(head);
    again(&mut stage);
    stage.rule(1, success(Authenticated::default()));
    stage.broker(rest);
    assert_eq!(stage.at_client(), [whole.clone(), wire::auth(0x00, METHOD)].concat());
    stage.at_broker();
    stage.broker(&wire::pingresp());
    stage.pass(BETWEEN_PINGS);
    stage.client(head);
    stage.client(&[rest, &wire::auth(0x19, METHOD)].concat());
    assert_eq!(stage.at_broker(), [whole, wire::pingreq()].concat());
}

#[test]
fn what_a_failed_dial_makes_of_an_authenticated_client() {
    let mut stage = stage();
    stage.dialing = DialScript::Fails;
    stage.client(&connect(METHOD));
    stage.rule(0, success(Authenticated::default()));
    assert_eq!(stage.dials, 1);
    stage.pass(Duration::from_secs(2));
    assert!(stage.dials > 1, "tried again, and not asked again");
    stage.dialing = DialScript::Succeeds;
    stage.pass(Duration::from_secs(2));
    stage.broker(&connack(&[]));
    assert_eq!(stage.at_client(), connack(METHOD));
    assert_eq!(stage.questions(), 1);
}

/// What happens in it, and what is counted.
type ExchangeScene = (&'static str, fn(&mut Stage), &'static [(bool, ExchangeOutcome)]);

#[test]
fn each_exchange_is_counted_once_by_how_it_ended() {
    let scenes: [ExchangeScene; 6] = [
        (
            "both succeed",
            |stage| stage.rule(1, success(Authenticated::default())),
            &[(false, ExchangeOutcome::Success), (true, ExchangeOutcome::Success)],
        ),
        (
            "refused",
            |stage| stage.rule(1, deny(0x87)),
            &[(false, ExchangeOutcome::Success), (true, ExchangeOutcome::Refused)],
        ),
        (
            "failed",
            |stage| stage.rule(1, fail()),
            &[(false, ExchangeOutcome::Success), (true, ExchangeOutcome::Failed)],
        ),
        (
            "unusable",
            |stage| stage.rule(1, Verdict::Unusable(Unusable::invalid("x"))),
            &[(false, ExchangeOutcome::Success), (true, ExchangeOutcome::Failed)],
        ),
        (
            "too late",
            |stage| {
                stage.rule(1, go_on(b""));
                stage.pass(Duration::from_secs(11));
            },
            &[(false, ExchangeOutcome::Success), (true, ExchangeOutcome::TooLate)],
        ),
        (
            "left",
            |stage| stage.client(&wire::disconnect()),
            &[(false, ExchangeOutcome::Success), (true, ExchangeOutcome::Abandoned)],
        ),
    ];
    for (what, end, counted) in scenes {
        let meter = Arc::new(Counts::default());
        let mut stage =
            open_with(wanting(Setup { meter: meter.clone(), ..Setup::default() }), Authenticated::default());
        again(&mut stage);
        end(&mut stage);
        stage.drain();
        assert_eq!(*meter.0.lock().unwrap(), counted, "{what}");
    }
}

#[test]
fn an_answer_that_comes_too_late_is_a_failed_exchange_and_a_refused_decision() {
    let meter = Arc::new(Counts::default());
    let mut stage =
        open_with(wanting(Setup { meter: meter.clone(), ..Setup::default() }), Authenticated::default());
    meter.1.lock().unwrap().clear();
    again(&mut stage);
    stage.pass(Duration::from_secs(11));
    // What comes now counts for nothing.
    stage.rule(1, success(Authenticated::default()));
    assert_eq!(
        *meter.0.lock().unwrap(),
        [(false, ExchangeOutcome::Success), (true, ExchangeOutcome::Failed)],
        "too_late is a client that says nothing"
    );
    let told = ["failed exchange deadline, deny", "exchange failed_closed refused 1"];
    assert_eq!(*meter.1.lock().unwrap(), told);
}

/// What was counted of exchanges, and of decisions and failures, a line each.
#[derive(Default)]
struct Counts(Mutex<Vec<(bool, ExchangeOutcome)>>, Mutex<Vec<String>>);

impl Meter for Counts {
    fn packets(&self, _: Side, _: PacketType, _: u64, _: u64) {}

    fn decisions(&self, hook: Hook, source: Source, outcome: Outcome, count: u64) {
        let line = format!("{} {} {} {count}", hook.name(), source.name(), outcome.name());
        self.1.lock().expect("nobody panicked with it").push(line);
    }

    fn failed(&self, hook: Hook, failure: &Failure, rule: OnError, _: &Peer) {
        let rule = if rule == OnError::Deny { "deny" } else { "allow" };
        let line = format!("failed {} {}, {rule}", hook.name(), failure.kind.name());
        self.1.lock().expect("nobody panicked with it").push(line);
    }

    fn unusable(&self, _: Hook, _: &Unusable, _: &Peer) {}
    fn overloaded(&self, _: Hook, _: &Overload, _: &Peer) {}

    fn exchange(&self, again: bool, outcome: ExchangeOutcome) {
        self.0.lock().expect("nobody panicked with it").push((again, outcome));
    }
}
