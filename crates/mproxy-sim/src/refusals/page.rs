//! The tables as a page for people: `docs/refusals.md`.

use std::fmt::Write as _;

use mproxy_core::policy::Action;

use super::codes::CODES;
use super::strict::{ExpectedEnd, STRICT_CASES, When};
use super::{RefusalView, RefusedPacket, TABLE, Then, ToBroker, ToClient};
use crate::wire::Version;

const HEAD: &str = "\
# What a refusal looks like

<!-- Written by a test from the tables that the other tests play: `MPROXY_WRITE_DOCS=1 cargo test -p mproxy-core --test refusals`. -->

It does not matter who refuses: refusals of the hook service, the rule file, a client's grant and mproxy's own limits all look the same on the wire. `REJECT` is the default action, and the only one of rules, grants and limits; *the code* is the reason code of the refusal, [replaced](#which-code-the-client-sees) if the packet may not carry it.
";

const AFTER_TABLE: &str = "
- **Order.** The answer to a refused packet keeps the packet's place among the others, however long the decision takes. Acknowledgements of deliveries reach the broker in the order of their PUBLISH packets ([MQTT-4.6.0-2], [MQTT-4.6.0-3]), both mproxy's and the client's. Acknowledgements to the client need no order: mproxy's do not wait for the broker's, except under the same packet id.
- **Packet ids** are the client's. The id of a refused PUBLISH is free again when its flow is over, as after an acknowledgement of the broker; so is its place in Receive Maximum, which mproxy leaves to the two peers. An id that is used twice is accepted, and each packet is decided and reported on its own. With NO_ACK the id stays in use on the client's side.
- **PUBLISH with QoS 2 refused before 5.0**: mproxy completes the flow itself. A repeated PUBLISH (DUP) of a flow that the broker has started does not change that, even if it is refused: it is not forwarded, it is answered with PUBREC, and its PUBREL goes to the broker. A refused flow ends with the connection: if a client reconnects and repeats the PUBLISH, it is judged again; if it repeats the PUBREL, the broker answers. The same is true of a refused delivery with QoS 2: if the connection ends during the flow, a resumed session may get the broker's PUBREL for a message that it never received, and answers it with PUBCOMP like any other.
- **Topic aliases.** If the PUBLISH that introduced an alias was refused or rewritten, the next one that uses the alias is sent with the full topic.
- **Reason strings** go to 5.0 clients that did not turn them off ([MQTT-3.1.2-29]; CONNACK and DISCONNECT may always carry one), and only if the packet stays within the client's Maximum Packet Size. **Server references** go with 0x9C and 0x9D in CONNACK and DISCONNECT.
- **The will.** `DISCONNECT` closes the connection to the broker without a DISCONNECT packet, so the will is published. If the will itself is refused, the CONNECT is refused. A hook service can remove the will in its answer to `AuthConnect`; then the broker never receives it.
- **A rewrite** that makes an invalid packet (a wildcard in a topic, a packet over the receiver's Maximum Packet Size, U+0000 in a text) refuses the packet whatever the failure rule: 0x83, or 0x95 if it is too large. The original is not forwarded instead. A rewritten topic or filter that the client's grant denies is refused.
- **AUTH** is forwarded in both directions, in turn and under the method of the CONNECT. To refuse a method, refuse the CONNECT that names it: 0x8C, return code 4.
";

const AFTER_CODES: &str = "
3.1.1 and 3.1 have codes only in CONNACK, and 0x80 in SUBACK. A refusal never becomes a success: a code below 0x80 counts as 0x87.

A *Deny* with a code below 0x80 or over 0xFF is a *Deny* with 0x87, and mproxy warns about it once for each endpoint of the service.

**A failed answer** (it arrived too late, could not be decoded, or had no verdict) is not a refusal. If the failure rule says *deny*, the client sees 0x88, Server unavailable, with `REJECT`, as in this table; for a CONNECT the question is repeated first, and then the table below applies. *Allow* forwards the packet unchanged.

**An unusable answer** (the number of verdicts is not the number of filters, a grant has an error, a rewrite makes an invalid packet) refuses the packet whatever the failure rule: 0x83, or 0x95 if something is too large, including the question. A grant that has already expired: 0x87.

**Limits of mproxy's own** that prevent an answer: 0x97 whatever the failure rule; for a CONNECT the table below applies.

## What trouble looks like to a client that waits for its CONNACK

*Trouble* is what keeps a client from being connected although nobody refused it ([why that is not a refusal](adr/0018-trouble-is-not-a-refusal.md)). A client that is refused may never try again. Therefore mproxy repeats what failed while the client waits, for another `MPROXY_CONNECT_TIMEOUT` from the complete CONNECT: the dial (all addresses, the last good one first), and the question to the hook service if its answer was unavailable or late. Once the broker has the CONNECT nothing is repeated. After that `MPROXY_ON_UNAVAILABLE` says what the client sees:

| trouble | in the log | `close`, the default | `connack` |
|---|---|---|---|
| the broker could not be reached in time | `unreachable` | the connection ends without CONNACK | 0x88; 3.x: return code 3 |
| the answer of the hook service failed until then, or in a way that is not repeated; the failure rule says *deny* | `policy_failed` | the same | the same |
| a limit of mproxy's own prevented an answer until then, whatever the failure rule | `overloaded` | the same | the same |
| the broker has the CONNECT and closes without CONNACK (because of its own state, or of what the client sent: nobody is blamed) | `closed_before_connack` | the same | the same |
| the broker has the CONNECT and sends nothing for 10 s, or something other than CONNACK | `too_late`, `malformed`, `not_mqtt`, `protocol_error` | the same | the same |
| mproxy is stopping | `drained` | the same | the same |

A CONNACK of the broker is forwarded unchanged. That includes a CONNACK of 3.x with a return code other than 0 to a 5.0 client, which then may try an older version. A CONNACK of 3.x that accepts a 5.0 client is malformed.
";

const LIMITS: &str = "
## What limits look like

| limit | MQTT 5.0 | MQTT 3.1.1 and 3.1 |
|---|---|---|
| a packet over `max_packet_size`, or the grant's | told in CONNACK (Maximum Packet Size); then DISCONNECT 0x95; closed | closed |
| more subscriptions than the grant's | 0x97 in their places of the SUBACK | 0x80 |
| a keep alive over `max_keep_alive`, or none | told in CONNACK (Server Keep Alive) | CONNACK with return code 2 |
| a session expiry over `max_session_expiry` | told in CONNACK (Session Expiry Interval); cut short in DISCONNECT | – |
| a filter that is not possible under the grant's prefix | 0x8F in its place of the SUBACK | 0x80 |
| an answer of mproxy that exceeds the client's Maximum Packet Size even without reason string and user properties | not sent; DISCONNECT 0x95 if that fits; closed | – |
| topic names behind aliases that exceed what mproxy keeps | DISCONNECT 0x97; closed | – |
| the end of the grant | DISCONNECT 0xA0; closed | closed |
";

const BEFORE_STRICT: &str = "
## What ends a connection

What the standard calls malformed or a protocol error ends the client's connection, even if the broker would accept it: two parsers that disagree are a security hole. A 5.0 client receives the code, in CONNACK before the session is open and in DISCONNECT after; for other clients the connection is closed, because 3.x has no packet for it. Packets that arrived before are still forwarded, and the broker gets no DISCONNECT, so a will is published. The broker is trusted more: mproxy checks its framing, and what it has to understand.
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
    page.push_str("A strict client closes its connection because of a code that a packet may not carry. Therefore such a code is replaced by the nearest one that the packet may carry ([why](adr/0003-reason-codes.md)).\n\n");
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
            write!(page, "\n### {title}\n\n| what | versions | 5.0 receives | rule |\n|---|---|---|---|\n");
        for fault in STRICT_CASES.iter().filter(|fault| fault.when == when) {
            let told = match fault.told {
                ExpectedEnd::Nothing => "nothing".to_owned(),
                ExpectedEnd::Code(_) if !fault.versions.contains(&Version::V5) => "–".to_owned(),
                ExpectedEnd::Code(code) => hex(code),
                ExpectedEnd::Codes(code, v3) => match fault.versions.contains(&Version::V5) {
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

const fn packet(packet: RefusedPacket) -> &'static str {
    match packet {
        RefusedPacket::Connect => "CONNECT",
        RefusedPacket::Publish(0) => "PUBLISH, QoS 0",
        RefusedPacket::Publish(1) => "PUBLISH, QoS 1",
        RefusedPacket::Publish(_) => "PUBLISH, QoS 2",
        RefusedPacket::SomeFilters => "SUBSCRIBE, some filters",
        RefusedPacket::AllFilters => "SUBSCRIBE, all filters",
        RefusedPacket::Delivery(0) => "delivery, QoS 0",
        RefusedPacket::Delivery(1) => "delivery, QoS 1",
        RefusedPacket::Delivery(_) => "delivery, QoS 2",
    }
}

fn said(packet: RefusedPacket, seen: RefusalView, v5: bool) -> String {
    let ack = match packet {
        RefusedPacket::Publish(2) | RefusedPacket::Delivery(2) => "PUBREC",
        _ => "PUBACK",
    };
    let code = if v5 { "the code" } else { "0x80" };
    let client = match seen.client {
        ToClient::Nothing => String::new(),
        ToClient::Connack => "CONNACK with the code; the broker is not dialled".to_owned(),
        ToClient::Refusal => format!("{ack} with the code; dropped"),
        ToClient::Taken => format!("{ack} as if accepted; dropped"),
        ToClient::Suback => format!("one SUBACK in the client's order, {code} where refused"),
        ToClient::Goodbye => "DISCONNECT with the code".to_owned(),
    };
    let broker = match (seen.broker, packet) {
        (ToBroker::Nothing, _) => "",
        (ToBroker::TheRest, _) => "the rest is forwarded",
        (ToBroker::Taken, RefusedPacket::Delivery(2)) => "dropped; the broker gets PUBREC as if accepted",
        (ToBroker::Taken, _) => "dropped; the broker gets PUBACK as if accepted",
    };
    let then = match (seen.then, packet) {
        (Then::GoesOn, RefusedPacket::Publish(2)) if seen.client == ToClient::Refusal => "the flow is over",
        (Then::GoesOn, _) => "",
        (Then::OurFlow, RefusedPacket::Delivery(_)) => "mproxy answers its PUBREL with PUBCOMP",
        (Then::OurFlow, _) => "mproxy answers PUBREL with PUBCOMP, and a DUP with PUBREC",
        (Then::Ends, _) => "closed",
    };
    let parts: Vec<&str> = [&*client, broker, then].into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "dropped without an answer".to_owned() } else { parts.join("; ") }
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
