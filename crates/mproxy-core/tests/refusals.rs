//! The refusal table, line by line: packet, version, action, decided at once and later. And its page.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mproxy_codec::ReasonCode;
use mproxy_core::fault::Fault;
use mproxy_core::meter::{Meter, Unmetered};
use mproxy_core::policy::{Action, Decision, FilterChange, Ground, Hook, Refusal, ServiceAnswer, Want};
use mproxy_core::{Limits, Side};
use mproxy_sim::Verdict;
use mproxy_sim::refusals::codes::CODES;
use mproxy_sim::refusals::strict::{self, ExpectedEnd, STRICT_CASES, When};
use mproxy_sim::refusals::{RefusalRow, RefusedPacket, TABLE, Then, ToBroker, page};
use mproxy_sim::stage::Setup;
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version, Will};
use mproxy_sim::{QuestionRecord, Recorder, Reply, Stage, allow};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

const FILTERS: [(&str, u8); 3] = [("a", 1), ("no", 2), ("b", 0)];

fn publish(version: Version, qos: u8) -> Vec<u8> {
    wire::publish(version, &Publish { topic: "no", payload: b"x", qos, packet_id: 1, ..Publish::default() })
}

fn verdict(packet: RefusedPacket, refusal: Refusal) -> Verdict {
    let yes = Decision::Allow(FilterChange::default());
    match packet {
        RefusedPacket::Connect => Verdict::Connect(Decision::Refuse(refusal)),
        RefusedPacket::Publish(_) | RefusedPacket::Delivery(_) => Verdict::Publish(Decision::Refuse(refusal)),
        RefusedPacket::SomeFilters => Verdict::Subscribe(vec![yes.clone(), Decision::Refuse(refusal), yes]),
        RefusedPacket::AllFilters => Verdict::SubscribeAll(Decision::Refuse(refusal)),
    }
}

const fn hook(packet: RefusedPacket) -> Hook {
    match packet {
        RefusedPacket::Connect => Hook::Connect,
        RefusedPacket::Publish(_) => Hook::Publish,
        RefusedPacket::SomeFilters | RefusedPacket::AllFilters => Hook::Subscribe,
        RefusedPacket::Delivery(_) => Hook::Deliver,
    }
}

/// A stage on which the packet has come and has been refused.
fn refused(packet: RefusedPacket, version: Version, refusal: &Refusal, later: bool) -> Stage {
    refused_before(Arc::new(Unmetered), packet, version, refusal, later)
}

/// The same, before this meter.
fn refused_before(
    meter: Arc<dyn Meter>,
    packet: RefusedPacket,
    version: Version,
    refusal: &Refusal,
    later: bool,
) -> Stage {
    let said = verdict(packet, refusal.clone());
    let at_once = said.clone();
    let answering = Box::new(move |asked: &QuestionRecord| match asked.hook {
        hook if hook != self::hook(packet) => Reply::Now(allow(hook)),
        _ if later => Reply::Later,
        _ => Reply::Now(at_once.clone()),
    });
    let mut stage = Setup { meter, answering, ..Setup::default() }.stage();
    stage.script.want(Hook::Deliver, Want::Head);
    if packet != RefusedPacket::Connect {
        let will = Will { topic: "will", ..Will::default() };
        let options = ConnectOptions { will: Some(will), ..ConnectOptions::default() };
        stage.client(&wire::connect(version, "c", &options));
        stage.broker(&wire::connack(version, false, 0, &[]));
        stage.at_client();
        stage.at_broker();
    }
    match packet {
        RefusedPacket::Connect => stage.client(&wire::connect(version, "c", &ConnectOptions::default())),
        RefusedPacket::Publish(qos) => stage.client(&publish(version, qos)),
        RefusedPacket::SomeFilters | RefusedPacket::AllFilters => {
            stage.client(&wire::subscribe(version, 1, &FILTERS))
        }
        RefusedPacket::Delivery(qos) => stage.broker(&publish(version, qos)),
    }
    if later {
        assert_eq!((stage.at_client(), stage.at_broker()), (Vec::new(), Vec::new()));
        stage.rule(0, said);
    }
    stage
}

fn play(row: &RefusalRow, version: Version, later: bool) {
    let what = format!("{:?} {:?} in {version:?}, later: {later}", row.packet, row.action);
    let seen = row.seen(version);
    let refusal = Refusal { action: row.action, ..Refusal::default() };
    let mut stage = refused(row.packet, version, &refusal, later);
    let broker = match seen.broker {
        ToBroker::Nothing => Vec::new(),
        ToBroker::TheRest => wire::subscribe(version, 1, &[FILTERS[0], FILTERS[2]]),
        ToBroker::Taken => wire::packet(row.packet.acknowledged_by(), &[0, 1]),
    };
    assert_eq!(stage.at_broker(), broker, "{what}");
    if seen.broker == ToBroker::TheRest {
        assert_eq!(stage.at_client(), b"", "{what}");
        stage.broker(&wire::suback(version, 1, &[1, 0]));
    }
    assert_eq!(stage.at_client(), row.client_gets(version), "{what}");
    let from = if matches!(row.packet, RefusedPacket::Delivery(_)) { Side::Broker } else { Side::Client };
    match seen.then {
        Then::Ends => {
            assert!(stage.is_shut(Side::Client), "{what}");
            assert_eq!(stage.dials, usize::from(row.packet != RefusedPacket::Connect), "{what}");
            assert_eq!(stage.at_broker(), b"", "no DISCONNECT, so that the will fires: {what}");
            let fault = stage.finish();
            assert!(
                matches!(&fault, Fault::Refused { hook, .. } if *hook == self::hook(row.packet)),
                "{fault}"
            );
            return;
        }
        Then::OurFlow => {
            let answers = |stage: &mut Stage| match from {
                Side::Client => (stage.at_client(), stage.at_broker()),
                Side::Broker => (stage.at_broker(), stage.at_client()),
            };
            if from == Side::Client && version != Version::V5 {
                let mut again = publish(version, 2);
                again[0] |= 0x08;
                stage.client(&again);
                assert_eq!(answers(&mut stage), (wire::pubrec(1), Vec::new()), "{what}");
            }
            stage.sends(from, &wire::pubrel(1));
            assert_eq!(answers(&mut stage), (wire::pubcomp(1), Vec::new()), "{what}");
        }
        Then::GoesOn => {}
    }
    // The session is as good as before.
    stage.client(&wire::pingreq());
    assert_eq!((stage.at_broker(), stage.at_client()), (wire::pingreq(), Vec::new()), "{what}");
}

#[test]
fn every_line_of_the_table_is_what_is_seen_on_the_wire() {
    for row in TABLE {
        for version in VERSIONS {
            for later in [false, true] {
                play(row, version, later);
            }
        }
    }
}

#[test]
fn every_refusal_of_the_table_is_recorded_once_and_with_who_refused_it() {
    for row in TABLE {
        for (version, later) in VERSIONS.into_iter().flat_map(|version| [(version, false), (version, true)]) {
            let recorder = Recorder::default();
            let answer = ServiceAnswer { endpoint: "http://hook".into(), at: Instant::now() };
            let ground = Ground::Service(Arc::new(answer));
            let refusal = Refusal { action: row.action, ..Refusal::default().by(ground) };
            let mut stage = refused_before(Arc::new(recorder.clone()), row.packet, version, &refusal, later);
            if row.packet == RefusedPacket::SomeFilters && row.action != Action::Disconnect {
                stage.broker(&wire::suback(version, 1, &[1, 0]));
            }
            let by = "by policy_service http://hook:";
            let by = format!("{by} {} 0x87", row.action.name());
            let expected = match row.packet {
                RefusedPacket::Connect => {
                    vec!["refused connection by policy_service: refused 0x87".to_owned()]
                }
                RefusedPacket::Publish(_) => vec![format!("refused publish no {by}")],
                RefusedPacket::Delivery(_) => vec![format!("refused deliver no {by}")],
                RefusedPacket::SomeFilters => vec![format!("refused filter no {by}")],
                RefusedPacket::AllFilters => {
                    FILTERS.iter().map(|(filter, _)| format!("refused filter {filter} {by}")).collect()
                }
            };
            // What follows has no record of its own: neither a repeated PUBLISH nor the end of the session.
            if row.seen(version).then == Then::OurFlow && version != Version::V5 {
                let mut again = publish(version, 2);
                again[0] |= 0x08;
                stage.client(&again);
            }
            stage.close(Side::Client);
            assert_eq!(
                recorder.take(),
                expected,
                "{:?} {:?} {version:?} later: {later}",
                row.packet,
                row.action
            );
        }
    }
}

#[test]
fn every_malformed_packet_and_protocol_error_is_recorded() {
    for case in STRICT_CASES {
        for version in case.versions {
            let recorder = Recorder::default();
            let limits = Limits { max_packet_size: 1 << 20, ..Limits::default() };
            let meter = Arc::new(recorder.clone());
            let mut stage = Setup { limits, meter, ..Setup::default() }.stage();
            if case.when == When::Open {
                let connack: &[u8] = if *version == Version::V5 { b"\x22\0\x02\x21\0\x02" } else { b"" };
                stage.open_with(*version, &[], connack);
            }
            stage.client(&(case.bytes)(*version));
            let lines = recorder.take();
            let [line] = &lines[..] else { panic!("{}: {lines:?}", case.what) };
            assert!(line.starts_with("refused connection by protocol: "), "{}: {line}", case.what);
        }
    }
}

#[test]
fn the_table_has_a_line_for_every_packet_and_action() {
    let packets = [
        RefusedPacket::Connect,
        RefusedPacket::Publish(0),
        RefusedPacket::Publish(1),
        RefusedPacket::Publish(2),
        RefusedPacket::SomeFilters,
        RefusedPacket::AllFilters,
        RefusedPacket::Delivery(0),
        RefusedPacket::Delivery(1),
        RefusedPacket::Delivery(2),
    ];
    for packet in packets {
        for action in [Action::Reject, Action::Drop, Action::Disconnect, Action::NoAck] {
            let lines = TABLE.iter().filter(|row| row.packet == packet && row.action == action).count();
            assert_eq!(lines, 1, "{packet:?} {action:?}");
        }
    }
}

#[test]
fn every_code_is_one_that_its_packet_may_carry() {
    assert_eq!(CODES.len(), 0xA3 - 0x80);
    for code in CODES {
        let refusal = Refusal::new(ReasonCode(code.reason));
        for version in VERSIONS {
            let v5 = version == Version::V5;
            let heard = |packet, refusal: &Refusal| refused(packet, version, refusal, false).at_client();
            let connack = if v5 { code.connack } else { code.connack_v3 };
            assert_eq!(
                heard(RefusedPacket::Connect, &refusal),
                wire::connack(version, false, connack, &[]),
                "{code:?}"
            );
            let suback = if v5 { code.suback } else { 0x80 };
            assert_eq!(
                heard(RefusedPacket::AllFilters, &refusal),
                wire::suback(version, 1, &[suback; 3]),
                "{code:?}"
            );
            if v5 {
                assert_eq!(
                    heard(RefusedPacket::Publish(1), &refusal),
                    wire::packet(0x40, &[0, 1, code.ack]),
                    "{code:?}"
                );
                assert_eq!(
                    heard(RefusedPacket::Publish(2), &refusal),
                    wire::packet(0x50, &[0, 1, code.ack]),
                    "{code:?}"
                );
                let ends = Refusal { action: Action::Disconnect, ..refusal.clone() };
                assert_eq!(
                    heard(RefusedPacket::Publish(0), &ends),
                    wire::packet(0xE0, &[code.disconnect]),
                    "{code:?}"
                );
            }
        }
    }
}

/// The rule that a fault names.
fn rule(fault: &Fault) -> &'static str {
    match fault {
        Fault::Malformed { side: Side::Client, error } => error.rule(),
        Fault::Protocol { side: Side::Client, rule, .. } => rule,
        other => panic!("not the client's doing: {other}"),
    }
}

/// What is not as the table says, if anything.
fn play_fault(fault: &strict::StrictCase, version: Version, bytewise: bool) -> Result<(), String> {
    let limits = Limits { max_packet_size: 1 << 20, ..Limits::default() };
    let mut stage = Setup { limits, ..Setup::default() }.stage();
    if fault.when == When::Open {
        // Two aliases and two publishes at a time are all that the broker takes.
        let connack: &[u8] = if version == Version::V5 { b"\x22\0\x02\x21\0\x02" } else { b"" };
        stage.open_with(version, &[], connack);
    }
    let bytes = (fault.bytes)(version);
    bytes.chunks(if bytewise { 1 } else { bytes.len() }).for_each(|piece| stage.client(piece));
    let code = match (fault.told, version) {
        (ExpectedEnd::Code(code) | ExpectedEnd::Codes(code, _), Version::V5) => Some(code),
        (ExpectedEnd::Codes(_, code), _) => Some(code),
        (ExpectedEnd::Nothing | ExpectedEnd::Code(_), _) => None,
    };
    let told = match (code, fault.when) {
        (None, _) => Vec::new(),
        (Some(code), When::First) => wire::connack(version, false, code, &[]),
        (Some(code), When::Open) => wire::packet(0xE0, &[code]),
    };
    let heard = stage.at_client();
    if heard != told {
        return Err(format!("{heard:02x?} instead of {told:02x?}"));
    }
    if !stage.is_shut(Side::Client) {
        return Err("it goes on".into());
    }
    // Without DISCONNECT, so that the will fires; publishes go nowhere before their verdict.
    if stage.dials > usize::from(fault.when == When::Open) || !stage.at_broker().is_empty() {
        return Err("the broker heard of it".into());
    }
    stage.pass(Duration::from_secs(60));
    let broken = rule(stage.done().ok_or("it does not end")?);
    let numbered = fault.rule.starts_with("MQTT-");
    if if numbered { broken == fault.rule } else { !broken.starts_with("MQTT-") } {
        Ok(())
    } else {
        Err(format!("for breaking {broken:?}"))
    }
}

#[test]
fn every_malformed_packet_and_protocol_error_ends_the_connection_in_its_way() {
    let mut wrong = Vec::new();
    for fault in STRICT_CASES {
        for version in fault.versions {
            for bytewise in [false, true] {
                if let Err(why) = play_fault(fault, *version, bytewise) {
                    let (what, rule) = (fault.what, fault.rule);
                    wrong.push(format!("{what} [{rule}] in {version:?}, bytewise {bytewise}: {why}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_page_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/refusals.md");
    if std::env::var_os("MPROXY_WRITE_DOCS").is_some() {
        std::fs::write(&path, page::page()).expect("docs can be written");
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == page::page(),
        "docs/refusals.md is old: MPROXY_WRITE_DOCS=1 cargo test -p mproxy-core --test refusals"
    );
}
