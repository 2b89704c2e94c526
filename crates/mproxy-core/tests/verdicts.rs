//! Bad verdicts, in a table: each is counted once, and nothing else happens. An answer that failed meets the failure rule;
//! one that cannot be used, and a limit of our own, are refused whatever it says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mproxy_codec::types::PacketType;
use mproxy_codec::{Properties, QoS};
use mproxy_core::chain::{Chain, Ruled};
use mproxy_core::meter::{Meter, Outcome};
use mproxy_core::peer::{Peer, Side};
use mproxy_core::policy::{
    Admission, Answer, Decision, Failure, FailureKind, FilterChange, Hook, OnError, Overload, Payload,
    PublishChange, PublishDecision, PublishQuestion, Refusal, Ruling, Silence, Source, Unusable,
    UnusableKind, Want, WillChange,
};
use mproxy_core::session::{OnErrors, OnUnavailable};
use mproxy_core::{Decider, Limits};
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version, Will};
use mproxy_sim::{QuestionRecord, Reply, Stage, Verdict, allow, change};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// What the meter was told.
#[derive(Default)]
struct Counts {
    undecided: Mutex<Vec<(Hook, VerdictKind)>>,
    decisions: Mutex<Vec<(Hook, Source)>>,
}

impl Meter for Counts {
    fn packets(&self, _: Side, _: PacketType, _: u64, _: u64) {}

    fn decisions(&self, hook: Hook, source: Source, _: Outcome, _: u64) {
        self.decisions.lock().expect("no test panicked here").push((hook, source));
    }

    fn failed(&self, hook: Hook, failure: &Failure, _: OnError, _: &Peer) {
        self.push(hook, VerdictKind::Failed(failure.kind));
    }

    fn unusable(&self, hook: Hook, unusable: &Unusable, _: &Peer) {
        self.push(hook, VerdictKind::Unusable(unusable.kind));
    }

    fn overloaded(&self, hook: Hook, overload: &Overload, _: &Peer) {
        self.push(hook, VerdictKind::Overloaded(overload.limit));
    }
}

impl Counts {
    fn push(&self, hook: Hook, kind: VerdictKind) {
        self.undecided.lock().expect("no test panicked here").push((hook, kind));
    }
}

/// In which way nothing was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VerdictKind {
    Failed(FailureKind),
    Unusable(UnusableKind),
    Overloaded(&'static str),
}

impl VerdictKind {
    /// The codes in CONNACK, in a 3.x CONNACK, in an acknowledgement.
    const fn codes(self) -> [u8; 3] {
        match self {
            Self::Failed(_) => [0x88, 3, 0x83],
            Self::Unusable(UnusableKind::TooLarge | UnusableKind::QuestionTooLarge) => [0x95, 5, 0x97],
            Self::Unusable(_) => [0x83, 5, 0x83],
            Self::Overloaded(_) => [0x88, 3, 0x97],
        }
    }

    const fn source(self) -> Source {
        match self {
            Self::Failed(_) => Source::FailedClosed,
            Self::Unusable(_) => Source::Unusable,
            Self::Overloaded(_) => Source::Overloaded,
        }
    }
}

/// One bad verdict: to which question, what is wrong with it, how it is counted.
struct Bad {
    hook: Hook,
    what: &'static str,
    kind: VerdictKind,
    /// Where it is no fault at all: user properties before 5.0.
    only_5: bool,
    verdict: Verdict,
}

fn bad(hook: Hook, what: &'static str, kind: VerdictKind, verdict: Verdict) -> Bad {
    Bad { hook, what, kind, only_5: false, verdict }
}

fn long(len: usize) -> Box<str> {
    "x".repeat(len).into()
}

fn topic(topic: impl Into<Box<str>>) -> PublishChange {
    PublishChange { topic: Some(topic.into()), ..PublishChange::default() }
}

fn admit(admission: Admission) -> Verdict {
    Verdict::Connect(Decision::Allow(Some(Box::new(admission))))
}

fn filters(filters: &[&str]) -> Verdict {
    let one = |filter: &&str| {
        let filter = (*filter != ".").then(|| (*filter).into());
        Decision::Allow(FilterChange { filter, max_qos: None, ..FilterChange::default() })
    };
    Verdict::Subscribe(filters.iter().map(one).collect())
}

fn will(topic: &str) -> Option<WillChange> {
    Some(WillChange::Replace { topic: Some(topic.into()), payload: None, qos: None, retain: None })
}

const INVALID: VerdictKind = VerdictKind::Unusable(UnusableKind::Invalid);
const LARGE: VerdictKind = VerdictKind::Unusable(UnusableKind::TooLarge);

fn to_connect() -> Vec<Bad> {
    let invalid = |what, admission| bad(Hook::Connect, what, INVALID, admit(admission));
    let large = |what, admission| bad(Hook::Connect, what, LARGE, admit(admission));
    let none = Admission::default;
    vec![
        invalid("a client id with U+0000", Admission { client_id: Some("a\0".into()), ..none() }),
        invalid("a client id taken away", Admission { client_id: Some("".into()), ..none() }),
        large("a client id that is too long", Admission { client_id: Some(long(65_536)), ..none() }),
        invalid("a user name with U+0000", Admission { username: Some("\0".into()), ..none() }),
        large("a user name that is too long", Admission { username: Some(long(65_536)), ..none() }),
        large("a password too long", Admission { password: Some(vec![0; 65_536].into()), ..none() }),
        invalid(
            "a new password without user name",
            Admission { username: Some("".into()), password: Some(Bytes::from_static(b"p")), ..none() },
        ),
        invalid("a will topic with a wildcard", Admission { will: will("a/#"), ..none() }),
        invalid("an empty will topic", Admission { will: will(""), ..none() }),
        invalid("a will topic with U+0000", Admission { will: will("a\0"), ..none() }),
        large(
            "a will that is too long",
            Admission {
                will: Some(WillChange::Replace {
                    topic: None,
                    payload: Some(vec![0; 65_536].into()),
                    qos: None,
                    retain: None,
                }),
                ..none()
            },
        ),
    ]
}

fn to_publish(hook: Hook) -> Vec<Bad> {
    let invalid = |what, changes| bad(hook, what, INVALID, change(changes));
    let large = |what, changes| bad(hook, what, LARGE, change(changes));
    let only_5 = |bad| Bad { only_5: true, ..bad };
    let properties = |set: &[(&str, &str)], remove: &[&str]| PublishChange {
        set_user_properties: set.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        remove_user_properties: remove.iter().map(|&name| name.into()).collect(),
        ..PublishChange::default()
    };
    vec![
        invalid("a topic with a wildcard", topic("a/+")),
        invalid("an empty topic", topic("")),
        invalid("a topic with U+0000", topic("a\0")),
        large("a topic that is too long", topic(long(65_536))),
        only_5(invalid("a user property with U+0000", properties(&[("a", "\0")], &[]))),
        only_5(large("a user property that is too long", properties(&[("a", &long(65_536))], &[]))),
        only_5(invalid("a user property set and removed", properties(&[("a", "b")], &["a"]))),
        // The receiver takes 500 bytes.
        only_5(large("a topic over the Maximum Packet Size", topic(long(500)))),
        only_5(large(
            "a payload over the Maximum Packet Size",
            PublishChange { payload: Some(vec![0; 500].into()), ..PublishChange::default() },
        )),
    ]
}

fn to_subscribe() -> Vec<Bad> {
    let wrong = |what, kind, verdict| bad(Hook::Subscribe, what, kind, verdict);
    let length = VerdictKind::Unusable(UnusableKind::WrongLength);
    let invalid = INVALID;
    vec![
        wrong("no verdict", length, filters(&[])),
        wrong("a verdict too few", length, filters(&["."])),
        wrong("a verdict too many", length, filters(&[".", ".", "."])),
        wrong("# in the middle", invalid, filters(&["a/#/b", "."])),
        wrong("an empty filter", invalid, filters(&["", "."])),
        wrong("U+0000 in a filter", invalid, filters(&[".", "a\0"])),
        wrong("a share without a filter", invalid, filters(&["$share/g", "."])),
        wrong("a filter that is too long", LARGE, filters(&[&long(65_536), "."])),
        Bad { only_5: true, ..wrong("over the Maximum Packet Size", LARGE, filters(&[&long(500), "."])) },
    ]
}

fn table() -> Vec<Bad> {
    let mut table = to_connect();
    table.extend(to_publish(Hook::Publish));
    table.extend(to_publish(Hook::Deliver));
    table.extend(to_subscribe());
    for hook in Hook::ALL.into_iter().filter(|hook| *hook != Hook::Exchange) {
        for kind in [
            FailureKind::Deadline,
            FailureKind::Unavailable,
            FailureKind::Unreadable,
            FailureKind::Error,
            FailureKind::Unspecified,
        ] {
            let verdict = Verdict::Failed(Failure::new(kind, "test"));
            table.push(bad(hook, "no answer", VerdictKind::Failed(kind), verdict));
        }
        for kind in UnusableKind::ALL {
            let verdict = Verdict::Unusable(Unusable::new(kind, "test"));
            table.push(bad(hook, "an unusable answer", VerdictKind::Unusable(kind), verdict));
        }
        let verdict = Verdict::Overloaded(Overload::new("test", "too much"));
        table.push(bad(hook, "a limit of our own", VerdictKind::Overloaded("test"), verdict));
    }
    table
}

/// A Maximum Packet Size of 500 bytes, where there is such a thing.
const fn most(version: Version) -> &'static [u8] {
    if matches!(version, Version::V5) { b"\x27\0\0\x01\xf4" } else { b"" }
}

fn connect(version: Version) -> Vec<u8> {
    let will = Will { topic: "will", payload: b"gone", ..Will::default() };
    let options = ConnectOptions {
        username: Some("ann"),
        password: Some(b"secret"),
        will: Some(will),
        properties: most(version),
        ..ConnectOptions::default()
    };
    wire::connect(version, "c", &options)
}

/// The packet in question, what the receiver of its refusal gets, and whether that is the client.
fn packet(hook: Hook, version: Version, [connack, connack_v3, ack]: [u8; 3]) -> (Vec<u8>, Vec<u8>, Side) {
    let v5 = version == Version::V5;
    let publish = wire::publish(
        version,
        &Publish { topic: "a", payload: b"x", qos: 1, packet_id: 5, ..Publish::default() },
    );
    match hook {
        Hook::Connect => {
            let code = if v5 { connack } else { connack_v3 };
            (connect(version), wire::connack(version, false, code, &[]), Side::Client)
        }
        Hook::Publish if v5 => (publish, wire::packet(0x40, &[0, 5, ack]), Side::Client),
        Hook::Publish => (publish, wire::puback(5), Side::Client),
        Hook::Subscribe => {
            let code = if v5 { ack } else { 0x80 };
            let subscribe = wire::subscribe(version, 5, &[("a", 1), ("b", 0)]);
            (subscribe, wire::suback(version, 5, &[code; 2]), Side::Client)
        }
        Hook::Deliver => (publish, wire::puback(5), Side::Broker),
        Hook::Exchange => panic!("no packet is refused by it: the session ends"),
    }
}

fn heard(stage: &mut Stage, side: Side) -> Vec<u8> {
    if side == Side::Client { stage.at_client() } else { stage.at_broker() }
}

fn play(bad: &Bad, version: Version, rule: OnError, later: bool) {
    let Bad { hook, what, kind, verdict, .. } = bad;
    let what = format!("{what} to {hook:?} in {version:?}, {rule:?}, later: {later}");
    let counts = Arc::new(Counts::default());
    let (asked, answer) = (*hook, verdict.clone());
    let setup = Setup {
        on_error: OnErrors { connect: rule, publish: rule, subscribe: rule, deliver: rule },
        // Nothing is tried again, and the client is told: one question, one answer.
        limits: Limits { admission_timeout: Duration::ZERO, ..Limits::default() },
        on_unavailable: OnUnavailable::Connack,
        drain_reference: None,
        meter: counts.clone(),
        answering: Box::new(move |question| match question.hook {
            hook if hook != asked => Reply::Now(allow(hook)),
            _ if later => Reply::Later,
            _ => Reply::Now(answer.clone()),
        }),
        ..Setup::default()
    };
    let mut stage = setup.stage();
    stage.script.want(Hook::Deliver, Want::Head);
    let (packet, refusal, to) = packet(*hook, version, kind.codes());
    let from = if *hook == Hook::Deliver { Side::Broker } else { Side::Client };
    if *hook != Hook::Connect {
        stage.client(&connect(version));
        stage.broker(&wire::connack(version, false, 0, most(version)));
        stage.at_client();
        stage.at_broker();
    }
    stage.sends(from, &packet);
    if later {
        stage.rule(0, verdict.clone());
    }
    let opens = rule == OnError::Allow && matches!(kind, VerdictKind::Failed(_));
    match opens {
        false => {
            assert_eq!(heard(&mut stage, to), refusal, "{what}");
            assert_eq!(heard(&mut stage, to.other()), b"", "{what}");
        }
        true => {
            assert_eq!(heard(&mut stage, from.other()), packet, "{what}: as it came");
            assert_eq!(heard(&mut stage, from), b"", "{what}");
        }
    }
    assert_eq!(*counts.undecided.lock().expect("whole"), [(*hook, *kind)], "{what}");
    let source = if opens { Source::FailedOpen } else { kind.source() };
    let decisions = counts.decisions.lock().expect("whole");
    let failed = decisions.iter().filter(|(of, from)| of == hook && *from == source).count();
    // A SUBSCRIBE counts one for each filter.
    assert_eq!(failed, if *hook == Hook::Subscribe { 2 } else { 1 }, "{what}");
    drop(decisions);
    if *hook == Hook::Connect && !opens {
        assert!(stage.is_shut(Side::Client) && stage.dials == 0, "{what}");
        return;
    }
    if *hook != Hook::Connect {
        stage.client(&wire::pingreq());
        assert_eq!(stage.at_broker(), wire::pingreq(), "it goes on: {what}");
    }
}

#[test]
fn a_bad_verdict_opens_nothing_but_where_it_failed_and_failures_allow() {
    for bad in table() {
        for version in VERSIONS.iter().filter(|version| !bad.only_5 || **version == Version::V5) {
            for rule in [OnError::Deny, OnError::Allow] {
                for later in [false, true] {
                    play(&bad, *version, rule, later);
                }
            }
        }
    }
}

/// A decider that is asked and says nothing lets nothing pass, whatever its failures mean: silence is no failed answer.
#[test]
fn silence_is_a_refusal_whatever_the_failure_rule() {
    for rule in [OnError::Deny, OnError::Allow] {
        for version in VERSIONS {
            let on_error = OnErrors { connect: rule, publish: rule, subscribe: rule, deliver: rule };
            let answering = Box::new(|asked: &QuestionRecord| match asked.hook {
                Hook::Connect => Reply::Now(allow(Hook::Connect)),
                Hook::Publish | Hook::Subscribe | Hook::Deliver | Hook::Exchange => Reply::Pass,
            });
            let stage = Setup { on_error, answering, ..Setup::default() }.stage();
            stage.script.want(Hook::Deliver, Want::Head);
            let mut stage = stage.open(version);
            let message = Publish { topic: "a", payload: b"x", qos: 1, packet_id: 7, ..Publish::default() };
            stage.client(&wire::publish(version, &Publish { qos: 0, packet_id: 0, ..message }));
            stage.client(&wire::publish(version, &message));
            stage.client(&wire::subscribe(version, 8, &[("a", 0), ("#", 1)]));
            assert!(stage.at_broker().is_empty(), "{rule:?} {version:?}");
            let (puback, no) = match version {
                Version::V5 => (wire::packet(0x40, &[0, 7, 0x87]), 0x87),
                Version::V31 | Version::V311 => (wire::puback(7), 0x80),
            };
            assert_eq!(stage.at_client(), [puback, wire::suback(version, 8, &[no, no])].concat());
            stage.broker(&wire::publish(version, &message));
            assert_eq!((stage.at_client(), stage.at_broker()), (Vec::new(), wire::puback(7)));
        }
    }
}

/// Somebody who is asked and never answers.
struct Mute(Silence, Want);

impl Decider for Mute {
    fn publish(&self, _: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        Answer::Pass(self.0)
    }

    fn want(&self, _: Hook) -> Want {
        self.1
    }
}

/// Silence is a yes only where nobody was asked whose silence is a no.
#[test]
fn the_silence_of_all_is_a_no_if_that_of_one_is() {
    let stage = Stage::new().open(Version::V5);
    let question = PublishQuestion {
        peer: stage.session.peer().expect("it is open"),
        topic: "a",
        qos: QoS::AtMostOnce,
        retain: false,
        dup: false,
        payload: Payload::Size(1),
        properties: Properties::EMPTY,
        time: None,
    };
    let (no, yes) = (|want| Mute(Silence::DENIES, want), |want| Mute(Silence::Abstains, want));
    let agrees = || Mute(Silence::Agrees(Source::Acl), Want::Head);
    for (all, source) in [
        (vec![], Source::Unasked),
        (vec![yes(Want::Head), yes(Want::Nothing)], Source::Unasked),
        (vec![no(Want::Nothing), yes(Want::Head)], Source::Unasked),
        (vec![no(Want::Head)], Source::Unknown),
        (vec![no(Want::Head), yes(Want::Head)], Source::Unknown),
        (vec![yes(Want::Head), no(Want::Payload(1))], Source::Unknown),
        (vec![yes(Want::Head), agrees(), yes(Want::Head)], Source::Acl),
        (vec![agrees(), no(Want::Head)], Source::Unknown),
    ] {
        let chain = Chain::new(all.into_iter().map(|one| Arc::new(one) as Arc<dyn Decider>).collect());
        let Ruled::Now(ruling) = chain.publish(&question) else { panic!("a chain answers") };
        let expected = match source {
            Source::Unknown => Ruling::refuse(source, Refusal::default()),
            source => Ruling::allow(source),
        };
        assert_eq!(ruling, expected);
    }
}
