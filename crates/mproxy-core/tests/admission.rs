//! From the first byte to CONNACK.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mproxy_codec::ReasonCode;
use mproxy_codec::packet::Connect;
use mproxy_core::event::{Happening, Nobody};
use mproxy_core::fault::{Deadline, Fault, Party, Severity, Unreachable};
use mproxy_core::gate::{ConnectGate, ConnectProgress, ConnectTag, GateAnswer};
use mproxy_core::meter::Unmetered;
use mproxy_core::policy::{
    About, Admission, Decision, Failure, FailureKind, Ground, Hook, LimitKind, OnError, Overload, Refusal,
    Source, WillChange,
};
use mproxy_core::session::{OnAuth, OnErrors, OnUnavailable};
use mproxy_core::{Chain, Effect, Limits, Peer, Session, Setting, Side};
use mproxy_sim::Verdict;
use mproxy_sim::stage::{DialScript, Setup};
use mproxy_sim::wire::{self, ConnectOptions, Version, Will};
use mproxy_sim::{QuestionRecord, Reply, Script, Stage, allow, fail, refuse};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn connect(version: Version) -> Vec<u8> {
    wire::connect(version, "c", &ConnectOptions::default())
}

/// A CONNECT with everything that an admission may change.
fn full_connect(version: Version) -> Vec<u8> {
    let will = Will { topic: "will/a", payload: b"gone", qos: 1, retain: true, properties: &[] };
    let options = ConnectOptions {
        keep_alive: 60,
        username: Some("ann"),
        password: Some(b"secret"),
        will: Some(will),
        ..ConnectOptions::default()
    };
    wire::connect(version, "c", &options)
}

fn deciding(verdict: Verdict) -> Stage {
    Stage::answering(move |asked| match asked.hook {
        Hook::Connect => Reply::Now(verdict.clone()),
        _ => Reply::Later,
    })
}

/// An answer that will not be another if it is asked for again.
fn unreadable() -> Verdict {
    Verdict::Failed(Failure::new(FailureKind::Unreadable, "not ours"))
}

/// A limit of our own.
fn overloaded() -> Verdict {
    Verdict::Overloaded(Overload::new("test", "too much"))
}

/// Nobody to answer.
fn missing() -> Verdict {
    Verdict::Failed(Failure::new(FailureKind::Unavailable, "nobody there"))
}

fn refused(refusal: Refusal) -> Verdict {
    Verdict::Connect(Decision::Refuse(refusal))
}

fn admitted(admission: Admission) -> Verdict {
    Verdict::Connect(Decision::Allow(Some(Box::new(admission))))
}

/// Says this of every CONNECT.
struct Gate(GateAnswer);

impl ConnectGate for Gate {
    fn look(&self, peer: &Peer, _tag: ConnectTag) -> GateAnswer {
        assert_eq!(&*peer.client_id, "c");
        self.0.clone()
    }
}

/// Lets everybody through, and keeps what it hears.
#[derive(Default)]
struct Watch(Mutex<Vec<ConnectProgress>>);

/// As [`full_connect`] and [`connect`] are known again.
const TAG: ConnectTag = ConnectTag { client: 7, login: 9 };

impl ConnectGate for Watch {
    fn tag(&self, connect: &Connect<'_>) -> ConnectTag {
        assert_eq!(connect.client_id, "c");
        TAG
    }

    fn look(&self, _peer: &Peer, tag: ConnectTag) -> GateAnswer {
        assert_eq!(tag, TAG);
        GateAnswer::Open
    }

    fn note(&self, _peer: &Peer, progress: ConnectProgress) {
        self.0.lock().expect("no test panicked here").push(progress);
    }
}

const ADMITTED: ConnectProgress = ConnectProgress::Admitted { client: TAG.client };
const ACCEPTED: ConnectProgress = ConnectProgress::Accepted { login: TAG.login };
const LOGIN_REFUSED: ConnectProgress = ConnectProgress::LoginRefused { login: TAG.login };

/// A stage whose CONNECTs meet this verdict, and what its gate has heard.
fn watched(verdict: Verdict) -> (Stage, Arc<Watch>) {
    let watch = Arc::<Watch>::default();
    let answering = Box::new(move |_: &QuestionRecord| Reply::Now(verdict.clone()));
    (Setup { gate: Some(watch.clone()), answering, ..Setup::default() }.stage(), watch)
}

fn heard(watch: &Watch) -> Vec<ConnectProgress> {
    std::mem::take(&mut watch.0.lock().expect("no test panicked here"))
}

#[test]
fn a_gate_hears_of_logins_that_an_adviser_refuses() {
    let by = |reason: u8, about| Refusal::new(ReasonCode(reason)).about(about);
    for (refusal, is_of_login) in [
        (by(0x86, About::Unsaid), true),
        (by(0x87, About::Service), true),
        (by(0x87, About::Token), true),
        (by(0x99, About::Password), true),
        (by(0x85, About::ClientId), false),
        (by(0x87, About::Will), false),
        (by(0x8A, About::Service), false),
        (by(0x9F, About::LoginBackoff), false),
    ] {
        let shown = format!("{refusal:?}");
        let (mut stage, watch) = watched(refused(refusal));
        stage.client(&connect(Version::V5));
        let expected = if is_of_login { vec![LOGIN_REFUSED] } else { Vec::new() };
        assert_eq!(heard(&watch), expected, "{shown}");
    }
    for verdict in [unreadable(), overloaded()] {
        let (mut stage, watch) = watched(verdict);
        stage.client(&connect(Version::V5));
        assert_eq!(heard(&watch), []);
    }
}

#[test]
fn a_gate_hears_of_logins_that_the_broker_accepts_or_refuses() {
    for (version, code, then) in [
        (Version::V311, 0, Some(ACCEPTED)),
        (Version::V311, 3, None),
        (Version::V311, 4, Some(LOGIN_REFUSED)),
        (Version::V31, 5, Some(LOGIN_REFUSED)),
        (Version::V5, 0, Some(ACCEPTED)),
        (Version::V5, 0x85, None),
        (Version::V5, 0x86, Some(LOGIN_REFUSED)),
        (Version::V5, 0x87, Some(LOGIN_REFUSED)),
    ] {
        // Under other names than the client has said.
        let admission = Admission { username: Some("tenant".into()), ..Admission::default() };
        let (mut stage, watch) = watched(admitted(admission));
        stage.dialing = DialScript::Fails;
        stage.client(&full_connect(version));
        stage.pass(Duration::from_secs(1));
        stage.dialing = DialScript::Succeeds;
        stage.pass(Duration::from_secs(1));
        assert_eq!(heard(&watch), [ADMITTED], "once, however often the broker is dialled");
        stage.broker(&wire::connack(version, false, code, &[]));
        assert_eq!(heard(&watch), then.into_iter().collect::<Vec<_>>(), "{version:?} {code:#x}");
    }
}

#[test]
fn a_client_that_has_come_too_often_meets_trouble_and_no_refusal() {
    for (on_unavailable, version, answer) in [
        (OnUnavailable::Close, Version::V5, None),
        (OnUnavailable::Connack, Version::V5, Some(0x9F)),
        (OnUnavailable::Connack, Version::V311, Some(3)),
    ] {
        let refusal = Refusal::new(ReasonCode::CONNECTION_RATE_EXCEEDED)
            .about(About::Flapping)
            .by(Ground::Limit(LimitKind::Flapping));
        let refuse = GateAnswer::Refuse(Source::Limit, Box::new(refusal));
        let mut stage = Setup { on_unavailable, ..behind(refuse) }.stage();
        stage.client(&connect(version));
        let expected = answer.map(|code| wire::connack(version, false, code, &[])).unwrap_or_default();
        assert_eq!(stage.at_client(), expected, "{on_unavailable:?} {version:?}");
        // It is not held until it may come in: whoever asks so often has to wait by itself.
        assert_eq!((stage.take_questions().len(), stage.at_broker().len()), (0, 0));
        assert_eq!(stage.finish().refused_by(), Some("limit"));
    }
}

fn behind(answer: GateAnswer) -> Setup {
    Setup { gate: Some(Arc::new(Gate(answer))), ..Setup::default() }
}

#[test]
fn whom_the_gate_refuses_nobody_is_asked_about() {
    for (version, code) in [(Version::V31, 5), (Version::V311, 5), (Version::V5, 0x8A)] {
        let refusal = Box::new(Refusal::new(ReasonCode::BANNED));
        let mut stage = behind(GateAnswer::Refuse(Source::Rate, refusal)).stage();
        stage.client(&connect(version));
        assert_eq!(stage.at_client(), wire::connack(version, false, code, &[]));
        assert_eq!((stage.take_questions().len(), stage.at_broker().len()), (0, 0));
        assert_eq!(stage.finish().refused_by(), Some("rate"));
    }
}

#[test]
fn what_could_be_answered_at_once_waits_for_its_turn() {
    let script = Arc::new(Script::new(|_| Reply::Now(allow(Hook::Connect))));
    let now = Instant::now();
    // Of nobody, too: what is to be spared is the broker.
    for advisers in [Chain::of(script.clone()), Chain::default()] {
        let mut session = session_in_turn(advisers.clone(), now);
        let Some(Effect::Ask(question)) = session.poll_effect() else { panic!("it waits for its turn") };
        assert!(question.is_admission() && script.take_questions().is_empty());
        // When it is its turn, it is polled.
        let Poll::Ready(answered) = pin!(question).poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("the script answers at once")
        };
        session.decide(answered, now);
        assert!(matches!(session.poll_effect(), Some(Effect::Dial { .. })));
        script.take_questions();
        // When it is never, it is not.
        let mut session = session_in_turn(advisers, now);
        let Some(Effect::Ask(question)) = session.poll_effect() else { panic!("it waits for its turn") };
        let late = session.poll_timeout().unwrap() - Duration::from_millis(25);
        session.decide(question.overloaded(Overload::new("admissions", "too late")), late);
        assert!(script.take_questions().is_empty());
        // Closed without a word, and not asked again.
        let next = session.poll_effect();
        assert!(matches!(next, Some(Effect::Shut { side: Side::Client })), "{next:?}");
    }
}

/// A session whose CONNECT has come, behind a gate that has it wait for its turn.
fn session_in_turn(advisers: Chain, now: Instant) -> Session {
    let setting = Setting {
        gate: Some(Arc::new(Gate(GateAnswer::InTurn))),
        advisers,
        sink: Arc::new(Nobody),
        meter: Arc::new(Unmetered),
        limits: Limits::default(),
        rates: None,
        on_error: OnErrors::default(),
        on_unavailable: OnUnavailable::default(),
        drain_reference: None.into(),
        on_auth: OnAuth::default(),
        budget: Arc::default(),
        clock: mproxy_core::rule::WallClock::default(),
    };
    let mut session = Session::new(mproxy_sim::stage::origin(), Arc::new(setting), now);
    session.read(Side::Client, &mut BytesMut::from(&connect(Version::V5)[..]), now);
    session
}

#[test]
fn an_allowed_connect_reaches_the_broker_as_the_very_bytes() {
    for version in VERSIONS {
        let mut stage = Stage::new();
        stage.client(&full_connect(version));
        assert_eq!(stage.at_broker(), full_connect(version));
        let connack = wire::connack(version, false, 0, &[]);
        stage.broker(&connack);
        assert_eq!(stage.at_client(), connack);
        assert_eq!(stage.session.phase_name(), "open");
        assert!(stage.session.poll_timeout().is_none(), "an open session has no deadline");
        assert!(matches!(stage.events()[..], [Happening::Connect { session_present: false }]));
    }
}

#[test]
fn the_bridge_bit_passes() {
    let mut stage = Stage::new();
    let bridge = b"\x10\x0d\0\x04MQTT\x84\x02\0\x0a\0\x01b";
    stage.client(bridge);
    assert_eq!(stage.at_broker(), bridge);
}

#[test]
fn nothing_is_dialled_before_the_verdict() {
    let mut stage = Stage::answering(|_| Reply::Later);
    stage.client(&connect(Version::V311));
    assert_eq!((stage.dials, stage.session.phase_name()), (0, "admitting"));
    stage.rule(0, allow(Hook::Connect));
    assert_eq!(stage.dials, 1);
    assert_eq!(stage.at_broker(), connect(Version::V311));
}

#[test]
fn a_refusal_is_a_connack_in_the_version_s_words_and_the_broker_never_hears_of_it() {
    for (reason, v3) in [
        (0x84, 1),
        (0x85, 2),
        (0x86, 4),
        (0x87, 5),
        (0x88, 3),
        (0x89, 3),
        (0x8A, 5),
        (0x8C, 4),
        (0x97, 3),
        (0x9F, 3),
    ] {
        for version in VERSIONS {
            let mut stage = deciding(refused(Refusal::new(ReasonCode(reason))));
            stage.client(&connect(version));
            let code = if version == Version::V5 { reason } else { v3 };
            assert_eq!(
                stage.at_client(),
                wire::connack(version, false, code, &[]),
                "{reason:#x} {version:?}"
            );
            assert_eq!(stage.dials, 0);
            assert!(stage.is_shut(Side::Client) && !stage.is_shut(Side::Broker));
            assert!(matches!(stage.finish(), Fault::Refused { hook: Hook::Connect, .. }));
            assert!(stage.events().is_empty(), "nobody connected, so nobody disconnected");
        }
    }
}

#[test]
fn a_refusal_says_why_and_where_else_in_5_0() {
    let refusal = Refusal {
        text: Some("no".into()),
        server_reference: Some("b".into()),
        ..Refusal::new(ReasonCode::USE_ANOTHER_SERVER)
    };
    let mut stage = deciding(refused(refusal));
    // Request Problem Information 0 does not forbid it in a CONNACK [MQTT-3.1.2-29].
    let options = ConnectOptions { properties: &[0x17, 0], ..ConnectOptions::default() };
    stage.client(&wire::connect(Version::V5, "c", &options));
    let why = b"\x1f\0\x02no\x1c\0\x01b";
    assert_eq!(stage.at_client(), wire::connack(Version::V5, false, 0x9C, why));
}

#[test]
fn a_refusal_with_a_code_that_says_yes_is_still_a_refusal() {
    let mut stage = deciding(refused(Refusal::new(ReasonCode::SUCCESS)));
    stage.client(&connect(Version::V5));
    assert_eq!(stage.at_client(), wire::connack(Version::V5, false, 0x87, &[]));
    let mut stage = deciding(refused(Refusal::new(ReasonCode::SUCCESS)));
    stage.client(&connect(Version::V311));
    assert_eq!(stage.at_client(), wire::connack(Version::V311, false, 5, &[]));
}

/// CONNACK 0x88 / 3.
fn unavailable(version: Version) -> Vec<u8> {
    wire::connack(version, false, if version == Version::V5 { 0x88 } else { 3 }, &[])
}

/// Trouble is told by CONNACK.
fn telling() -> Setup {
    Setup { on_unavailable: OnUnavailable::Connack, ..Setup::default() }
}

#[test]
fn a_failed_answer_is_no_refusal_or_open_as_configured() {
    for version in VERSIONS {
        for on_unavailable in [OnUnavailable::Close, OnUnavailable::Connack] {
            let answering = Box::new(|_: &QuestionRecord| Reply::Now(unreadable()));
            let mut stage = Setup { on_unavailable, answering, ..Setup::default() }.stage();
            stage.client(&connect(version));
            let told = match on_unavailable {
                OnUnavailable::Close => Vec::new(),
                OnUnavailable::Connack => unavailable(version),
            };
            assert_eq!(stage.at_client(), told);
            assert_eq!(stage.take_questions().len(), 1, "the same question would get the same answer");
            assert!(matches!(stage.finish(), Fault::PolicyFailed { hook: Hook::Connect, .. }));
        }

        let on_error = OnErrors { connect: OnError::Allow, ..OnErrors::default() };
        let mut stage =
            Setup { on_error, answering: Box::new(|_| Reply::Now(fail())), ..Setup::default() }.stage();
        stage.client(&connect(version));
        assert_eq!(stage.at_broker(), connect(version));
    }
}

#[test]
fn silence_at_the_end_of_the_chain_refuses() {
    let mut stage = Stage::answering(|_| Reply::Pass);
    stage.client(&connect(Version::V5));
    assert_eq!(stage.at_client(), wire::connack(Version::V5, false, 0x87, &[]));
}

#[test]
fn an_admission_rewrites_identity_credentials_and_will() {
    for version in VERSIONS {
        let mut stage = deciding(admitted(Admission {
            client_id: Some("tenant-c".into()),
            username: Some("bob".into()),
            password: Some(Bytes::from_static(b"other")),
            will: Some(WillChange::Replace {
                topic: Some("tenant/will".into()),
                payload: None,
                qos: Some(mproxy_codec::QoS::AtMostOnce),
                retain: Some(false),
            }),
            attributes: vec![("role".into(), "sensor".into())],
            ..Admission::default()
        }));
        stage.client(&full_connect(version));
        let will = Will { topic: "tenant/will", payload: b"gone", ..Will::default() };
        let expected = ConnectOptions {
            keep_alive: 60,
            username: Some("bob"),
            password: Some(b"other"),
            will: Some(will),
            ..ConnectOptions::default()
        };
        assert_eq!(stage.at_broker(), wire::connect(version, "tenant-c", &expected));
        let peer = stage.session.peer().unwrap();
        assert_eq!((&*peer.client_id, peer.username.as_deref()), ("tenant-c", Some("bob")));
        assert_eq!(peer.attribute("role"), Some("sensor"));
    }
}

#[test]
fn the_broker_may_know_a_client_by_another_id_than_everybody_else() {
    for version in VERSIONS {
        let mut stage =
            deciding(admitted(Admission { broker_client_id: Some("acme-c".into()), ..Admission::default() }));
        stage.client(&connect(version));
        assert_eq!(stage.at_broker(), wire::connect(version, "acme-c", &ConnectOptions::default()));
        let peer = stage.session.peer().unwrap();
        assert_eq!((&*peer.client_id, peer.broker_client_id.as_deref()), ("c", Some("acme-c")));
        assert_eq!(peer.client_ids().collect::<Vec<_>>(), ["c", "acme-c"]);
        stage.broker(&wire::connack(version, false, 0, &[]));
        assert_eq!(stage.at_client(), wire::connack(version, false, 0, &[]));
        stage.hand_over().unwrap();
        assert_eq!(stage.session.peer().unwrap().broker_client_id.as_deref(), Some("acme-c"));
    }
}

#[test]
fn a_client_is_told_the_id_by_which_it_comes_back_to_its_session() {
    let assigned = |id: &str| [b"\x12".to_vec(), wire::string(id)].concat();
    let given = Admission {
        client_id: Some("7f".into()),
        broker_client_id: Some("acme-7f".into()),
        ..Admission::default()
    };
    let known = Admission { broker_client_id: Some("acme-c".into()), ..Admission::default() };
    for (own, admission, from_broker, told) in [
        ("", &given, vec![], assigned("7f")),
        // Whatever the broker calls it: by its own name the client gets there again.
        ("", &given, assigned("acme-7f"), assigned("7f")),
        ("c", &known, assigned("other"), assigned("c")),
        ("c", &known, vec![], vec![]),
    ] {
        let mut stage = deciding(admitted(admission.clone()));
        stage.client(&wire::connect(Version::V5, own, &ConnectOptions::default()));
        stage.at_broker();
        stage.broker(&wire::connack(Version::V5, false, 0, &from_broker));
        assert_eq!(stage.at_client(), wire::connack(Version::V5, false, 0, &told));
    }
}

#[test]
fn an_admission_takes_will_and_credentials_away() {
    for version in VERSIONS {
        let mut stage = deciding(admitted(Admission {
            username: Some("".into()),
            will: Some(WillChange::Remove),
            ..Admission::default()
        }));
        stage.client(&full_connect(version));
        let bare = ConnectOptions { keep_alive: 60, ..ConnectOptions::default() };
        assert_eq!(stage.at_broker(), wire::connect(version, "c", &bare));
    }
}

#[test]
fn an_admission_that_changes_no_byte_leaves_the_very_bytes() {
    let mut stage = deciding(admitted(Admission {
        client_id: Some("c".into()),
        attributes: vec![("a".into(), "b".into())],
        grant: None,
        ..Admission::default()
    }));
    stage.client(&full_connect(Version::V5));
    assert_eq!(stage.at_broker(), full_connect(Version::V5));
}

#[test]
fn an_admission_that_makes_an_invalid_connect_is_a_failed_answer() {
    let will = |topic: &str| {
        Some(WillChange::Replace { topic: Some(topic.into()), payload: None, qos: None, retain: None })
    };
    for (admission, with_will) in [
        (Admission { client_id: Some("a\0b".into()), ..Admission::default() }, true),
        (Admission { client_id: Some("".into()), ..Admission::default() }, true),
        (Admission { username: Some("\0".into()), ..Admission::default() }, true),
        (Admission { will: will("a/#"), ..Admission::default() }, true),
        (Admission { will: will(""), ..Admission::default() }, true),
        (Admission { will: will("a"), ..Admission::default() }, false),
        (Admission { client_id: Some("x".repeat(70_000).into()), ..Admission::default() }, true),
        (Admission { password: Some(vec![0; 70_000].into()), ..Admission::default() }, true),
        // 3.x: a password needs a user name.
        (Admission { password: Some(Bytes::from_static(b"p")), ..Admission::default() }, false),
    ] {
        let mut stage = deciding(admitted(admission.clone()));
        stage.client(&if with_will { full_connect(Version::V311) } else { connect(Version::V311) });
        assert_eq!(stage.at_client(), wire::connack(Version::V311, false, 5, &[]), "{admission:?}");
        assert!(matches!(stage.finish(), Fault::PolicyUnusable { .. }));
        assert_eq!(stage.dials, 0);
    }
}

#[test]
fn anything_before_connect_is_cut_without_a_word() {
    for bytes in [&wire::pingreq()[..], &wire::publish(Version::V311, &wire::Publish::default()), &[0]] {
        let mut stage = Stage::new();
        stage.client(bytes);
        assert_eq!(stage.at_client(), b"");
        assert!(matches!(stage.finish(), Fault::Malformed { side: Side::Client, .. }));
        assert!(stage.take_questions().is_empty() && stage.dials == 0);
    }
}

#[test]
fn another_protocol_is_called_by_its_name() {
    for (bytes, name) in [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "an HTTP request"),
        (b"POST / HTTP/1.1\r\n", "an HTTP request"),
        (b"OPTIONS * HTTP/1.1\r\n", "an HTTP request"),
        (b"PRI * HTTP/2.0\r\n\r\n", "HTTP/2"),
        (&[0x16, 3, 1, 2, 0, 1, 0], "TLS: use a port with TLS"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "a PROXY header"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "a PROXY header"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
    ] {
        let mut stage = Stage::new();
        stage.client(bytes);
        assert_eq!(stage.at_client(), b"");
        let fault = stage.finish();
        assert!(matches!(fault, Fault::NotMqtt { side: Side::Client, .. }), "{fault}");
        assert!(
            fault.to_string().starts_with(&format!("client does not speak MQTT: received {name}")),
            "{fault}"
        );
        assert!(stage.take_questions().is_empty() && stage.dials == 0);
    }
}

#[test]
fn a_broker_that_speaks_another_protocol_is_told_as_such() {
    for (bytes, name) in [
        (&[0x15, 3, 3, 0, 2, 2, 80][..], "TLS: set the target's scheme to mqtts"),
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "an HTTP answer"),
    ] {
        let mut stage = Stage::new();
        stage.client(&connect(Version::V311));
        stage.broker(bytes);
        let fault = stage.finish();
        assert!(matches!(fault, Fault::NotMqtt { side: Side::Broker, .. }), "{fault}");
        assert!(fault.to_string().contains(name), "{fault}");
    }
}

#[test]
fn a_second_connect_ends_the_session() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        stage.client(&connect(version));
        let told = if version == Version::V5 { wire::packet(0xE0, &[0x82]) } else { Vec::new() };
        assert_eq!(stage.at_client(), told);
        assert_eq!(stage.at_broker(), b"", "and not with a DISCONNECT, so that the will fires");
        assert!(matches!(stage.finish(), Fault::Protocol { side: Side::Client, rule: "MQTT-3.1.0-2", .. }));
    }
}

#[test]
fn a_malformed_connect_is_answered_in_the_words_of_its_version() {
    for version in VERSIONS {
        // A client id longer than the packet.
        let mut bytes = connect(version);
        let length = bytes.len() - 2;
        bytes[length] = 9;
        let mut stage = Stage::new();
        stage.client(&bytes);
        let told = match version {
            Version::V5 => wire::connack(version, false, 0x81, &[]),
            Version::V31 | Version::V311 => Vec::new(),
        };
        assert_eq!(stage.at_client(), told, "{version:?}");
        assert!(matches!(stage.finish(), Fault::Malformed { .. }));
        assert!(stage.take_questions().is_empty());
    }
}

#[test]
fn an_empty_client_id_with_a_session_to_keep_is_refused_by_return_code_2() {
    let mut stage = Stage::new();
    let options = ConnectOptions { clean: false, ..ConnectOptions::default() };
    stage.client(&wire::connect(Version::V311, "", &options));
    assert_eq!(stage.at_client(), wire::connack(Version::V311, false, 2, &[]));
}

#[test]
fn an_unknown_level_is_told_so() {
    for (level, answer) in
        [(6, wire::connack(Version::V5, false, 0x84, &[])), (2, wire::connack(Version::V311, false, 1, &[]))]
    {
        let mut bytes = connect(Version::V311);
        bytes[8] = level;
        let mut stage = Stage::new();
        stage.client(&bytes);
        assert_eq!(stage.at_client(), answer);
    }
    let mut stage = Stage::new();
    stage.client(b"\x10\x0d\0\x04HTTP\x04\x02\0\x0a\0\x01a");
    assert_eq!(stage.at_client(), b"", "another protocol has no words for it");
}

#[test]
fn a_connect_may_come_byte_by_byte() {
    for version in VERSIONS {
        let mut stage = Stage::new();
        for byte in full_connect(version) {
            assert_eq!(stage.at_broker(), b"");
            stage.client(&[byte]);
        }
        assert_eq!(stage.at_broker(), full_connect(version));
    }
}

#[test]
fn a_connect_that_never_ends_meets_its_deadline() {
    let mut stage = Stage::new();
    stage.client(&connect(Version::V5)[..9]);
    stage.pass(Duration::from_millis(9_999));
    assert!(!stage.is_shut(Side::Client));
    stage.pass(Duration::from_millis(1));
    assert!(stage.is_shut(Side::Client));
    assert_eq!(stage.finish(), Fault::TooLate(Deadline::Connect));
}

#[test]
fn a_connect_over_the_limit_is_told_before_it_is_buffered() {
    let limits = Limits { max_packet_size: 100, ..Limits::default() };
    for version in VERSIONS {
        let mut stage = Setup { limits: limits.clone(), ..Setup::default() }.stage();
        let bytes = wire::connect(version, &"c".repeat(200), &ConnectOptions::default());
        stage.client(&bytes[..20]);
        let told = match version {
            Version::V5 => wire::connack(version, false, 0x95, &[]),
            Version::V31 | Version::V311 => Vec::new(),
        };
        assert_eq!(stage.at_client(), told);
        assert!(matches!(stage.finish(), Fault::Protocol { reason: ReasonCode::PACKET_TOO_LARGE, .. }));
    }
}

/// Every way in which a client may meet trouble while it waits for its CONNACK, and what the session ends with.
type Trouble = (&'static str, fn(Setup) -> Setup, fn(&mut Stage, Version));

fn troubles() -> Vec<Trouble> {
    let come = |stage: &mut Stage, version| stage.client(&connect(version));
    vec![
        (
            "unreachable",
            |setup| setup,
            |stage, version| {
                stage.dialing = DialScript::Fails;
                stage.client(&connect(version));
                stage.pass(Duration::from_secs(10));
            },
        ),
        (
            "unreachable",
            |setup| setup,
            |stage, version| {
                stage.dialing = DialScript::Hangs;
                stage.client(&connect(version));
                stage.pass(Duration::from_secs(10));
            },
        ),
        (
            "policy_failed",
            |setup| answered_by(setup, || Reply::Now(fail())),
            |stage, version| {
                stage.client(&connect(version));
                stage.pass(Duration::from_secs(10));
            },
        ),
        (
            "policy_failed",
            |setup| answered_by(setup, || Reply::Later),
            |stage, version| {
                stage.client(&connect(version));
                stage.pass(Duration::from_secs(10));
            },
        ),
        ("policy_failed", |setup| answered_by(setup, || Reply::Now(unreadable())), come),
        (
            "overloaded",
            |setup| answered_by(setup, || Reply::Now(overloaded())),
            |stage, version| {
                stage.client(&connect(version));
                stage.pass(Duration::from_secs(10));
            },
        ),
        (
            "too_late",
            |setup| setup,
            |stage, version| {
                stage.client(&connect(version));
                stage.pass(Duration::from_secs(10));
            },
        ),
        (
            "closed_before_connack",
            |setup| setup,
            |stage, version| {
                stage.client(&connect(version));
                stage.close(Side::Broker);
            },
        ),
        (
            "closed_before_connack",
            |setup| setup,
            |stage, version| {
                stage.client(&connect(version));
                stage.reset(Side::Broker);
            },
        ),
        (
            "protocol_error",
            |setup| setup,
            |stage, version| {
                stage.client(&connect(version));
                stage.broker(&wire::pingresp());
            },
        ),
        (
            "malformed",
            |setup| setup,
            |stage, version| {
                stage.client(&connect(version));
                stage.broker(b"\x20\x01\0");
            },
        ),
        (
            "drained",
            |setup| setup,
            |stage, version| {
                stage.client(&connect(version));
                stage.drain();
            },
        ),
    ]
}

fn answered_by(setup: Setup, reply: fn() -> Reply) -> Setup {
    Setup { answering: Box::new(move |_| reply()), ..setup }
}

#[test]
fn trouble_is_told_as_configured_whatever_it_is() {
    for version in VERSIONS {
        for (label, set, meet) in troubles() {
            let mut stage = set(Setup::default()).stage();
            meet(&mut stage, version);
            assert_eq!(stage.at_client(), b"", "{label} {version:?}: the client would not come again");
            assert!(stage.is_shut(Side::Client), "{label}");
            let fault = stage.finish();
            assert_eq!(fault.label(), label, "{fault}");
            assert!(fault.is_trouble() && stage.events().is_empty(), "{fault}");

            let mut stage = set(telling()).stage();
            meet(&mut stage, version);
            assert_eq!(stage.at_client(), unavailable(version), "{label} {version:?}");
            assert_eq!(stage.finish().label(), label);
        }
    }
}

#[test]
fn a_refusal_is_told_whatever_is_configured_for_trouble() {
    for on_unavailable in [OnUnavailable::Close, OnUnavailable::Connack] {
        let answering = Box::new(|_: &QuestionRecord| Reply::Now(refuse(Hook::Connect)));
        let mut stage = Setup { on_unavailable, answering, ..Setup::default() }.stage();
        stage.client(&connect(Version::V5));
        assert_eq!(stage.at_client(), wire::connack(Version::V5, false, 0x87, &[]));
        assert!(!stage.finish().is_trouble());
        // An administrator's word is no trouble, either.
        let mut stage = Setup { on_unavailable, ..Setup::default() }.stage();
        stage.client(&connect(Version::V5));
        stage.session.revoke(ReasonCode::ADMINISTRATIVE_ACTION, stage.now);
        stage.run();
        assert_eq!(stage.at_client(), wire::connack(Version::V5, false, 0x88, &[]));
    }
}

#[test]
fn a_broker_that_comes_back_in_time_gets_the_connect_of_everybody_who_waits() {
    for version in VERSIONS {
        let mut stage = Stage::new();
        stage.dialing = DialScript::Fails;
        stage.client(&connect(version));
        stage.pass(Duration::from_secs(2));
        assert!((4..12).contains(&stage.dials), "{} tries in 2 s", stage.dials);
        assert_eq!((stage.at_client(), stage.session.phase_name()), (Vec::new(), "dialing"));
        stage.dialing = DialScript::Succeeds;
        stage.pass(Duration::from_secs(1));
        assert_eq!(stage.at_broker(), connect(version));
        stage.broker(&wire::connack(version, false, 0, &[]));
        assert_eq!(stage.session.phase_name(), "open");
        assert_eq!(stage.take_questions().len(), 1, "who was admitted is not asked about again");
    }
}

#[test]
fn a_service_that_comes_back_in_time_admits_everybody_who_waits() {
    let full = full_connect(Version::V5);
    for failing in [fail(), missing(), overloaded()] {
        let mut stage = Stage::answering(|_| Reply::Later);
        stage.client(&full);
        stage.rule(0, failing.clone());
        for n in 1..4 {
            assert_eq!((stage.questions(), stage.dials, stage.at_client()), (n, 0, Vec::new()));
            stage.pass(Duration::from_secs(1));
            assert_eq!(stage.questions(), n + 1, "asked again within a second, and only once");
            stage.rule(n, failing.clone());
        }
        stage.pass(Duration::from_secs(1));
        stage.rule(4, allow(Hook::Connect));
        assert_eq!(stage.at_broker(), full);
        let asked = stage.take_questions();
        assert_eq!(asked.len(), 5);
        let whole = |one: &QuestionRecord| one.what == "c" && one.payload.as_deref() == Some(b"secret");
        assert!(asked.iter().all(whole), "{asked:?}");
    }
}

#[test]
fn a_no_after_trouble_is_a_no() {
    let mut stage = Stage::answering(|_| Reply::Later);
    stage.client(&connect(Version::V5));
    stage.rule(0, fail());
    stage.pass(Duration::from_secs(1));
    stage.rule(1, refuse(Hook::Connect));
    assert_eq!(stage.at_client(), wire::connack(Version::V5, false, 0x87, &[]));
    assert_eq!(stage.dials, 0);
}

#[test]
fn the_failure_rule_allow_holds_after_the_first_failure() {
    let on_error = OnErrors { connect: OnError::Allow, ..OnErrors::default() };
    let answering = Box::new(|_: &QuestionRecord| Reply::Later);
    let mut stage = Setup { on_error, answering, ..Setup::default() }.stage();
    stage.client(&connect(Version::V5));
    stage.rule(0, fail());
    assert_eq!((stage.questions(), stage.dials), (1, 1));
    assert_eq!(stage.at_broker(), connect(Version::V5));

    // It is for answers that failed, not for one that nobody knows anything of: a queue of our own may hold it back.
    let answering = Box::new(|_: &QuestionRecord| Reply::Later);
    let mut stage = Setup { on_error, answering, ..Setup::default() }.stage();
    stage.client(&connect(Version::V5));
    stage.pass(Duration::from_secs(10));
    assert_eq!((stage.dials, stage.is_shut(Side::Client)), (0, true));
    stage.rule(0, allow(Hook::Connect));
    assert_eq!(stage.dials, 0, "what comes after that is not heard");
}

#[test]
fn admission_is_bounded_however_its_time_is_spent() {
    // The time of one counts for the other: 10 s for both.
    let mut stage = Stage::answering(|_| Reply::Later);
    stage.dialing = DialScript::Fails;
    stage.client(&connect(Version::V5));
    stage.pass(Duration::from_millis(9_500));
    stage.rule(0, allow(Hook::Connect));
    assert_eq!(stage.session.phase_name(), "dialing");
    stage.pass(Duration::from_secs(1));
    assert!(stage.is_shut(Side::Client));
    // The reason is what was tried last, not that it took long.
    assert!(stage.finish().to_string().contains("connection refused"));
}

#[test]
fn a_verdict_said_twice_counts_once_while_the_next_question_is_due() {
    let mut stage = Stage::answering(|_| Reply::Later);
    stage.client(&connect(Version::V5));
    stage.rule(0, fail());
    stage.allow_again(0);
    assert_eq!((stage.dials, stage.session.phase_name()), (0, "admitting"));
}

#[test]
fn nothing_is_tried_again_once_the_broker_has_the_connect() {
    let mut stage = Stage::new();
    stage.client(&connect(Version::V311));
    stage.at_broker();
    stage.close(Side::Broker);
    stage.pass(Duration::from_secs(4));
    assert_eq!((stage.dials, stage.at_broker()), (1, Vec::new()));
    let fault = stage.finish();
    assert_eq!(fault.to_string(), "broker closed before CONNACK");
    assert_eq!(fault.by(), Party::Unknown, "the client's bytes may be why");
}

#[test]
fn a_client_that_goes_while_it_waits_is_not_waited_with() {
    let scenes: [fn(&mut Stage); 2] = [
        |stage| stage.rule(0, fail()),
        |stage| {
            stage.dialing = DialScript::Fails;
            stage.rule(0, allow(Hook::Connect));
        },
    ];
    for wait in scenes {
        let mut stage = Stage::answering(|_| Reply::Later);
        stage.client(&connect(Version::V5));
        wait(&mut stage);
        let (questions, dials) = (stage.questions(), stage.dials);
        stage.close(Side::Client);
        assert!(matches!(stage.finish(), Fault::Lost { side: Side::Client, .. }));
        stage.pass(Duration::from_secs(10));
        assert_eq!((stage.questions(), stage.dials), (questions, dials));
    }
}

#[test]
fn what_mproxy_lacks_to_dial_with_is_its_own_doing() {
    let mut stage = telling().stage();
    stage.dialing = DialScript::Hangs;
    stage.client(&connect(Version::V311));
    stage.dialed(Err(Unreachable::lacking("too many open files")));
    stage.pass(Duration::from_secs(60));
    let fault = stage.finish();
    assert_eq!((fault.by(), fault.severity()), (Party::Mproxy, Severity::Notice), "{fault:?}");
}

#[test]
fn a_broker_that_cannot_be_reached_in_time_is_given_up() {
    let mut stage = telling().stage();
    stage.dialing = DialScript::Hangs;
    stage.client(&connect(Version::V311));
    stage.pass(Duration::from_millis(9_999));
    assert_eq!(stage.at_client(), b"");
    stage.pass(Duration::from_millis(1));
    assert_eq!(stage.at_client(), wire::connack(Version::V311, false, 3, &[]));
    stage.dialed(Ok(()));
    stage.dialed(Err(Unreachable::away("late")));
    assert_eq!(stage.at_broker(), b"");
    assert!(matches!(stage.finish(), Fault::Unreachable(_)));
}

#[test]
fn a_broker_that_stays_silent_meets_its_deadline() {
    for version in VERSIONS {
        let mut stage = telling().stage();
        stage.client(&connect(version));
        stage.pass(Duration::from_secs(10));
        assert_eq!(stage.at_client(), unavailable(version));
        assert!(stage.is_shut(Side::Broker));
        assert_eq!(stage.finish(), Fault::TooLate(Deadline::Connack));
    }
}

#[test]
fn a_broker_that_knows_no_5_0_says_so_in_its_own_format() {
    // Return code 1, unacceptable protocol version: the client falls back.
    for code in 1..=5 {
        let mut stage = Stage::new();
        stage.client(&connect(Version::V5));
        stage.broker(&[0x20, 2, 0, code]);
        assert_eq!(stage.at_client(), [0x20, 2, 0, code]);
        let fault = stage.finish();
        assert_eq!((&fault, fault.severity()), (&Fault::BrokerRefused { code }, Severity::Notice));
        assert!(stage.events().is_empty());
    }
    // A yes in that format would put two framings on one connection.
    let mut stage = Stage::new();
    stage.client(&connect(Version::V5));
    stage.broker(b"\x20\x02\0\0");
    assert_eq!(stage.at_client(), b"");
    let fault = stage.finish();
    assert!(matches!(fault, Fault::Malformed { side: Side::Broker, .. }), "{fault}");
    // And no 3.x client is told in 5.0's.
    let mut stage = Stage::new();
    stage.client(&connect(Version::V311));
    stage.broker(&wire::connack(Version::V5, false, 0x84, &[]));
    assert!(matches!(stage.finish(), Fault::Malformed { side: Side::Broker, .. }));
}

#[test]
fn a_takeover_is_everyday_life_and_nobody_s_fault() {
    let mut stage = Stage::new().open(Version::V5);
    let taken_over = wire::packet(0xE0, &[0x8E]);
    stage.broker(&taken_over);
    assert_eq!(stage.at_client(), taken_over);
    let fault = stage.finish();
    assert_eq!(
        (fault.label(), fault.by(), fault.severity()),
        ("taken_over", Party::Client, Severity::Routine)
    );
    // 3.x brokers have no word for it, and close.
    for ends in [Stage::close, Stage::reset] {
        let mut stage = Stage::new().open(Version::V311);
        ends(&mut stage, Side::Broker);
        let fault = stage.finish();
        assert_eq!((fault.label(), fault.severity()), ("lost", Severity::Notice));
    }
}

#[test]
fn a_broker_that_says_no_is_passed_on() {
    let mut stage = Stage::new();
    stage.client(&connect(Version::V5));
    let no = wire::connack(Version::V5, false, 0x86, b"\x1f\0\x02no");
    stage.broker(&no);
    assert_eq!(stage.at_client(), no);
    assert_eq!(stage.finish(), Fault::BrokerRefused { code: 0x86 });
    assert!(stage.events().is_empty());
}

#[test]
fn what_comes_before_connack_waits_unread_and_then_goes_on() {
    for version in VERSIONS {
        let mut stage = Stage::answering(|_| Reply::Now(allow(Hook::Connect)));
        stage.script.want(Hook::Publish, mproxy_core::policy::Want::Nothing);
        stage.script.want(Hook::Subscribe, mproxy_core::policy::Want::Nothing);
        let publish =
            wire::publish(version, &wire::Publish { topic: "a", payload: b"1", ..wire::Publish::default() });
        let subscribe = wire::subscribe(version, 1, &[("b", 0)]);
        let pipelined = [publish, subscribe, wire::pingreq()].concat();
        stage.client(&[connect(version), pipelined.clone()].concat());
        assert_eq!(stage.at_broker(), connect(version));
        assert_eq!(stage.unread(Side::Client), pipelined.len());
        assert!(!stage.session.wants_read(Side::Client), "it must not pile up");
        stage.broker(&wire::connack(version, false, 0, &[]));
        assert_eq!(stage.at_broker(), pipelined);
    }
}

#[test]
fn a_client_that_says_all_and_closes_before_connack_is_still_served() {
    let mut stage = Stage::answering(|_| Reply::Now(allow(Hook::Connect)));
    stage.script.want(Hook::Publish, mproxy_core::policy::Want::Nothing);
    let publish = wire::publish(
        Version::V311,
        &wire::Publish { topic: "a", payload: b"1", ..wire::Publish::default() },
    );
    stage.client(&[connect(Version::V311), publish.clone(), wire::disconnect()].concat());
    stage.close(Side::Client);
    stage.at_broker();
    stage.broker(&wire::connack(Version::V311, false, 0, &[]));
    assert_eq!(stage.at_broker(), [publish, wire::disconnect()].concat());
    assert!(matches!(stage.finish(), Fault::Left { .. }));
}

/// Authentication Method "m".
const METHOD: &[u8] = b"\x15\0\x01m";

#[test]
fn steps_of_extended_authentication_pass_before_connack() {
    let mut stage = Stage::new();
    let options = ConnectOptions { properties: METHOD, ..ConnectOptions::default() };
    stage.client(&wire::connect(Version::V5, "c", &options));
    stage.at_broker();
    for _ in 0..3 {
        let step = wire::auth(0x18, METHOD);
        stage.broker(&step);
        assert_eq!(stage.at_client(), step);
        stage.pass(Duration::from_secs(6));
        stage.client(&step);
        assert_eq!(stage.at_broker(), step);
        stage.pass(Duration::from_secs(6));
    }
    stage.broker(&wire::connack(Version::V5, false, 0, METHOD));
    assert_eq!(stage.session.phase_name(), "open");
}

#[test]
fn a_client_that_authenticates_says_nothing_else_before_connack() {
    let mut stage = Stage::new();
    let options = ConnectOptions { properties: METHOD, ..ConnectOptions::default() };
    stage.client(&[wire::connect(Version::V5, "c", &options), wire::pingreq()].concat());
    assert_eq!(stage.at_client(), wire::connack(Version::V5, false, 0x82, &[]));
    assert!(matches!(stage.finish(), Fault::Protocol { rule: "MQTT-3.1.2-30", .. }));
}

#[test]
fn auth_without_a_method_in_connect_is_a_protocol_error() {
    let mut stage = Stage::new().open(Version::V5);
    stage.client(&wire::auth(0x19, METHOD));
    assert_eq!(stage.at_client(), wire::packet(0xE0, &[0x82]));
}

#[test]
fn the_client_id_that_the_broker_assigned_is_the_client_s() {
    let mut stage = Stage::new();
    stage.client(&wire::connect(Version::V5, "", &ConnectOptions::default()));
    stage.broker(&wire::connack(Version::V5, true, 0, b"\x12\0\x03new"));
    assert_eq!(&*stage.session.peer().unwrap().client_id, "new");
    assert!(matches!(stage.events()[..], [Happening::Connect { session_present: true }]));
}

#[test]
fn a_drain_before_the_session_is_open_ends_it_at_once() {
    type Way = fn(&mut Stage);
    let phases: [(&str, Way); 4] = [
        ("greeting", |_| {}),
        ("admitting", |stage| stage.client(&connect(Version::V311))),
        ("dialing", |stage| {
            stage.dialing = DialScript::Hangs;
            stage.client(&connect(Version::V311));
            stage.rule(0, allow(Hook::Connect));
        }),
        ("introduced", |stage| {
            stage.client(&connect(Version::V311));
            stage.rule(0, allow(Hook::Connect));
        }),
    ];
    for (phase, go) in phases {
        let mut stage = Stage::answering(|_| Reply::Later);
        go(&mut stage);
        assert_eq!(stage.session.phase_name(), phase);
        stage.drain();
        assert_eq!(stage.at_client(), b"", "{phase}: it finds another mproxy, or this one's successor");
        assert_eq!(stage.finish(), Fault::Drained { elsewhere: false });
    }
}

#[test]
fn a_client_that_vanishes_in_any_phase_ends_the_session() {
    let phases: [fn(&mut Stage); 4] = [
        |_| {},
        |stage| stage.client(&connect(Version::V5)),
        |stage| {
            stage.dialing = DialScript::Hangs;
            stage.client(&connect(Version::V5));
            stage.rule(0, allow(Hook::Connect));
        },
        |stage| {
            stage.client(&connect(Version::V5));
            stage.rule(0, allow(Hook::Connect));
        },
    ];
    for (at, go) in phases.into_iter().enumerate() {
        let mut stage = Stage::answering(|_| Reply::Later);
        go(&mut stage);
        match at {
            // The broker has its CONNECT, and is going to answer it: only a client that is gone does not wait for that.
            3 => stage.reset(Side::Client),
            _ => stage.close(Side::Client),
        }
        assert!(matches!(stage.finish(), Fault::Lost { side: Side::Client, .. }));
        assert_eq!(stage.at_client(), b"");
        if stage.questions() == 1 && stage.dials == 0 {
            stage.rule(0, allow(Hook::Connect));
            assert_eq!(stage.dials, 0, "nobody is dialled for somebody who has gone");
        }
    }
}
