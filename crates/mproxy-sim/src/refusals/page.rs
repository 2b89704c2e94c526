//! The tables as a page for people: `docs/refusals.md`.

use std::fmt::Write as _;

use mproxy_core::policy::Action;

use super::codes::CODES;
use super::strict::{FAULTS, Told, When};
use super::{Refused, Seen, TABLE, Then, ToBroker, ToClient};
use crate::wire::Version;

const HEAD: &str = "\
# What a refusal looks like

<!-- Written by a test from the tables that the other tests play: `MPROXY_WRITE_DOCS=1 cargo test -p mproxy-core --test refusals`. -->

Who refuses does not matter: the hook service, the rule file, a client's grant and mproxy's own limits all look the same on the wire. `REJECT` is the action of a refusal that names none, and the only one of rules, grants and limits; *the code* is that of the refusal, [replaced](#which-code-the-client-sees) where the packet may not carry it.
";

const AFTER_TABLE: &str = "
- **In its place.** A refused packet keeps its place among the others, however long its verdict took. Acknowledgements of deliveries reach the broker in the order of their PUBLISH packets ([MQTT-4.6.0-2], [MQTT-4.6.0-3]), ours among the client's. Those to the client need no order: ours wait for none of the broker's, except under the same packet id.
- **Packet ids** are the client's. One whose PUBLISH was refused is free again when its flow is over, as after an acknowledgement of the broker's; so is its place in Receive Maximum, which the two peers keep to between themselves. Ids used twice pass, and each packet is decided and told on its own. A PUBLISH that is swallowed keeps its id on the client's side.
- **PUBLISH of QoS 2 refused before 5.0**: the flow is mproxy's. A repeated PUBLISH (DUP) of a flow that is the broker's leaves it there, even where it is itself refused: it goes nowhere and is answered with PUBREC, and its PUBREL goes to the broker. A refused flow outlives nothing: a client that reconnects and repeats the PUBLISH is judged again; one that repeats the PUBREL has it answered by the broker. So it is with a refused delivery of QoS 2: where the connection ends in the middle of it, a resumed session may get the broker's PUBREL for a message that never came, which is to be answered with PUBCOMP like any other.
- **Topic aliases.** Where the PUBLISH that introduced an alias was refused or rewritten, the next one that uses it goes out with its topic.
- **Reason strings** go to 5.0 clients that did not turn them off ([MQTT-3.1.2-29]; CONNACK and DISCONNECT may always carry one), and only if the packet stays within the client's Maximum Packet Size. **Server references** go with 0x9C and 0x9D in CONNACK and DISCONNECT.
- **The will.** `DISCONNECT` cuts the broker's connection without a DISCONNECT, so the will is published. A will that is itself refused refuses the CONNECT. A hook service that wants none removes it in its answer to `AuthConnect`; then the broker never hears of it.
- **A rewrite** that makes an invalid packet (a wildcard in a topic, a packet over the receiver's Maximum Packet Size, U+0000 in a text) refuses the packet whatever the failure rule: 0x83, or 0x95 where it is too large. The original does not go instead. A rewritten topic or filter that the client's grant denies is refused.
- **AUTH** passes in both directions, in turn and under the method of the CONNECT. Who refuses a method refuses the CONNECT that names it: 0x8C, return code 4.
";

const AFTER_CODES: &str = "
3.1.1 and 3.1 have no codes but those of CONNACK, and 0x80 in SUBACK. No refusal turns into a success: a code below 0x80 counts as 0x87.

A *Deny* with a code below 0x80 or over 0xFF is a *Deny* with 0x87, and mproxy warns of it once for each endpoint of the service.

**An answer that failed** (it came too late, could not be read, its verdict was unset) is no refusal. Where the failure rule says *deny*, the client sees it as 0x88, Server unavailable, with `REJECT`, as this table says; a CONNECT is asked about again first, and then meets trouble as below. *Allow* lets the packet go as it came.

**An answer that cannot be used** (another number of verdicts than filters, a grant that is wrong, a rewrite that makes no valid packet) is refused whatever the failure rule: 0x83, or 0x95 where something is too large, the question included. A grant that has ended already: 0x87.

**Limits of mproxy's own** that keep a question from being answered: 0x97 whatever the failure rule; a CONNECT meets trouble as below.

## What trouble looks like to a client that waits for its CONNACK

A refusal is a refusal; trouble is not ([why](adr/0018-trouble-is-not-a-refusal.md)). A client that is refused may never come again, so what may pass is tried again while it waits, until `MPROXY_CONNECT_TIMEOUT` has passed anew since its whole CONNECT: the dial (all addresses, the last good one first), and the question to the hook service where its answer was unavailable or late. Once the broker has the CONNECT nothing is tried again. Then `MPROXY_ON_UNAVAILABLE` says what the client sees:

| trouble | in the log | `close`, the default | `connack` |
|---|---|---|---|
| the broker could not be reached in time | `unreachable` | the connection ends without CONNACK | 0x88; 3.x: return code 3 |
| the answer of the hook service failed until then, or in a way that does not pass; the failure rule says *deny* | `policy_failed` | the same | the same |
| a limit of mproxy's own kept the question from being answered until then, whatever the failure rule | `overloaded` | the same | the same |
| the broker has the CONNECT and closes without CONNACK (its doing, or the client's bytes: nobody is blamed) | `closed_before_connack` | the same | the same |
| it has it and is silent for 10 s, or sends what is no CONNACK | `too_late`, `malformed`, `not_mqtt`, `protocol_error` | the same | the same |
| mproxy is being stopped | `drained` | the same | the same |

A CONNACK of the broker goes on as it is, also one of 3.x with a return code other than 0 to a 5.0 client, which then may try an older version. One of 3.x that says yes to a 5.0 client is malformed.
";

const LIMITS: &str = "
## What limits look like

| limit | MQTT 5.0 | MQTT 3.1.1 and 3.1 |
|---|---|---|
| a packet over `max_packet_size`, or the grant's | told in CONNACK (Maximum Packet Size); then DISCONNECT 0x95; closed | closed |
| more subscriptions than the grant's | 0x97 in their places of the SUBACK | 0x80 |
| a keep alive over `max_keep_alive`, or none | told in CONNACK (Server Keep Alive) | CONNACK with return code 2 |
| a session expiry over `max_session_expiry` | told in CONNACK (Session Expiry Interval); cut short in DISCONNECT | – |
| a filter that has no place under the grant's prefix | 0x8F in its place of the SUBACK | 0x80 |
| an answer of mproxy's over the client's Maximum Packet Size, also without reason string and user properties | not sent; DISCONNECT 0x95 if that fits; closed | – |
| topics behind aliases that are too many to be kept | DISCONNECT 0x97; closed | – |
| the end of the grant | DISCONNECT 0xA0; closed | closed |
";

const BEFORE_STRICT: &str = "
## What ends a connection

What the standard calls malformed or a protocol error ends the client's connection, also where the broker would let it pass: two parsers that disagree are a hole. A 5.0 client is told the code, in CONNACK before the session is open and in DISCONNECT after; others are closed upon, for 3.x has no word for it. What came before is still delivered, and the broker sees no DISCONNECT, so a will is published. The broker's side is trusted more: its framing is checked, and what mproxy has to understand of it.
";

/// The whole page.
#[must_use]
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n## What becomes of the packet\n\n");
    page.push_str("| packet | action | MQTT 5.0 | MQTT 3.1.1 and 3.1 |\n|---|---|---|---|\n");
    let mut at = 0;
    while at < TABLE.len() {
        // Actions that look the same share a line.
        let row = TABLE[at];
        let alike = TABLE[at..]
            .iter()
            .take_while(|other| other.packet == row.packet && (other.v5, other.v3) == (row.v5, row.v3))
            .count();
        let actions: Vec<_> = TABLE[at..at + alike].iter().map(|row| action(row.action)).collect();
        let (v5, v3) = (said(row.packet, row.v5, true), said(row.packet, row.v3, false));
        let v3 = if v3 == v5 { "the same".to_owned() } else { v3 };
        line(&mut page, &[packet(row.packet), &actions.join(", "), &v5, &v3]);
        at += alike;
    }
    page.push_str(AFTER_TABLE);
    page.push_str("\n## Which code the client sees\n\n");
    page.push_str("A client that is strict drops its connection over a code that a packet may not carry. So each is replaced by the nearest that it may ([why](adr/0003-reason-codes.md)).\n\n");
    page.push_str("| refused with | CONNACK | CONNACK, 3.x | PUBACK, PUBREC | SUBACK | DISCONNECT |\n|---|---|---|---|---|---|\n");
    for code in CODES {
        let sent = |sent: u8| if sent == code.reason { "as it is".to_owned() } else { hex(sent) };
        let cells = [
            format!("{} {}", hex(code.reason), code.name),
            sent(code.connack),
            code.connack_v3.to_string(),
            sent(code.ack),
            sent(code.suback),
            sent(code.disconnect),
        ];
        line(&mut page, &cells.each_ref().map(|cell| &**cell));
    }
    page.push_str(AFTER_CODES);
    page.push_str(LIMITS);
    page.push_str(BEFORE_STRICT);
    for (when, title) in [(When::First, "Before the session is open"), (When::Open, "In an open session")] {
        let _ =
            write!(page, "\n### {title}\n\n| what | versions | 5.0 is told | rule |\n|---|---|---|---|\n");
        for fault in FAULTS.iter().filter(|fault| fault.when == when) {
            let told = match fault.told {
                Told::Nothing => "nothing".to_owned(),
                Told::Code(_) if !fault.versions.contains(&Version::V5) => "–".to_owned(),
                Told::Code(code) => hex(code),
                Told::Codes(code, v3) => match fault.versions.contains(&Version::V5) {
                    true => format!("{}; 3.x: return code {v3}", hex(code)),
                    false => format!("–; 3.x: return code {v3}"),
                },
            };
            line(&mut page, &[fault.what, &versions(fault.versions), &told, fault.rule]);
        }
    }
    page
}

fn line(page: &mut String, cells: &[&str]) {
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}

fn hex(code: u8) -> String {
    format!("0x{code:02X}")
}

const fn action(action: Action) -> &'static str {
    match action {
        Action::Reject => "REJECT",
        Action::Drop => "DROP",
        Action::Disconnect => "DISCONNECT",
        Action::NoAck => "NO_ACK",
    }
}

const fn packet(packet: Refused) -> &'static str {
    match packet {
        Refused::Connect => "CONNECT",
        Refused::Publish(0) => "PUBLISH, QoS 0",
        Refused::Publish(1) => "PUBLISH, QoS 1",
        Refused::Publish(_) => "PUBLISH, QoS 2",
        Refused::SomeFilters => "SUBSCRIBE, some filters",
        Refused::AllFilters => "SUBSCRIBE, all filters",
        Refused::Delivery(0) => "delivery, QoS 0",
        Refused::Delivery(1) => "delivery, QoS 1",
        Refused::Delivery(_) => "delivery, QoS 2",
    }
}

fn said(packet: Refused, seen: Seen, v5: bool) -> String {
    let ack = match packet {
        Refused::Publish(2) | Refused::Delivery(2) => "PUBREC",
        _ => "PUBACK",
    };
    let code = if v5 { "the code" } else { "0x80" };
    let client = match seen.client {
        ToClient::Nothing => String::new(),
        ToClient::Connack => "CONNACK with the code; the broker is not even dialled".to_owned(),
        ToClient::Refusal => format!("{ack} with the code; dropped"),
        ToClient::Taken => format!("{ack} as if taken; dropped"),
        ToClient::Suback => format!("one SUBACK in the client's order, {code} where refused"),
        ToClient::Goodbye => "DISCONNECT with the code".to_owned(),
    };
    let broker = match (seen.broker, packet) {
        (ToBroker::Nothing, _) => "",
        (ToBroker::TheRest, _) => "the rest goes on",
        (ToBroker::Taken, Refused::Delivery(2)) => "dropped; the broker gets PUBREC as if taken",
        (ToBroker::Taken, _) => "dropped; the broker gets PUBACK as if taken",
    };
    let then = match (seen.then, packet) {
        (Then::GoesOn, Refused::Publish(2)) if seen.client == ToClient::Refusal => "the flow is over",
        (Then::GoesOn, _) => "",
        (Then::OurFlow, Refused::Delivery(_)) => "its PUBREL is answered with PUBCOMP here",
        (Then::OurFlow, _) => "PUBREL is answered with PUBCOMP, a DUP with PUBREC, here",
        (Then::Ends, _) => "closed",
    };
    let parts: Vec<&str> = [&*client, broker, then].into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "dropped without a word".to_owned() } else { parts.join("; ") }
}

fn versions(versions: &[Version]) -> String {
    let name = |version: &Version| match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5.0",
    };
    if versions.len() == 3 {
        "all".to_owned()
    } else {
        versions.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}
