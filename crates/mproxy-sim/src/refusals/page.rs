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

A refusal looks the same on the wire, whether the hook service, the rule file, a client's grant or a limit of mproxy's own refuses. `REJECT` is the default action; rules, grants and limits have no other. *The code* is the reason code of the refusal, or [its replacement](#which-code-the-client-sees) if the packet may not carry it.
";

const AFTER_TABLE: &str = "
- **Order.** The answer to a refused packet keeps the packet's place among the others, however long the decision takes. The acknowledgements of deliveries, mproxy's and the client's, reach the broker in the order of their PUBLISH packets ([MQTT-4.6.0-2], [MQTT-4.6.0-3]). Acknowledgements to the client need no order: those of mproxy do not wait for those of the broker, unless both have the same packet id.
- **Packet ids** are chosen by the client. When the flow of a refused PUBLISH is over, its packet id and its place in Receive Maximum are free again, as after an acknowledgement of the broker. mproxy does not enforce Receive Maximum; the two peers do. An id that is used twice is accepted, and each packet is decided and reported on its own. With NO_ACK the id stays in use for the client.
- **A refused PUBLISH with QoS 2 in 3.x.** mproxy completes the flow itself. If the broker has already started the flow, and a repeated PUBLISH (DUP) of it is refused, the repeated PUBLISH is not forwarded but answered with PUBREC, and the PUBREL goes to the broker. A refused flow ends with the connection: if the client reconnects and repeats the PUBLISH, it is decided again; if it repeats the PUBREL, the broker answers. The same applies to a refused delivery with QoS 2: if the connection ends during the flow, the client may receive the broker's PUBREL for a message that it never received, and answers with PUBCOMP as usual.
- **Topic aliases.** If the PUBLISH that introduced an alias was refused or rewritten, the next one that uses the alias is sent with the full topic.
- **Reason strings** are sent to 5.0 clients that did not turn them off ([MQTT-3.1.2-29]; CONNACK and DISCONNECT may always carry one), and only if the packet stays within the client's Maximum Packet Size. **Server references** are sent with 0x9C and 0x9D in CONNACK and DISCONNECT.
- **The will.** `DISCONNECT` closes the connection to the broker without a DISCONNECT packet, so the will is published. If the will itself is refused, the CONNECT is refused. A hook service can remove the will in its answer to `AuthConnect`; then the broker never receives it.
- **A rewrite** that makes an invalid packet (a wildcard in a topic, a packet over the receiver's Maximum Packet Size, U+0000 in a text) refuses the packet, whatever the failure rule: 0x83, or 0x95 if it is too large. The original packet is not forwarded instead. A rewritten topic or filter that the client's grant denies is refused.
- **AUTH** is forwarded in both directions, if the two sides take turns and use the method of the CONNECT. To refuse a method, refuse the CONNECT that names it: 0x8C, return code 4.
- **AUTH that mproxy answers**, because the hook service [wants AuthExchange](hooks.md#enhanced-authentication). Each row ends the connection; before CONNACK the broker never hears of the client:

| the exchange | while the client waits for its CONNACK | in an open session |
|---|---|---|
| is answered *Deny* | CONNACK with the code | DISCONNECT with the code; 0x8C becomes 0x87 |
| fails: no answer, a failed one, a limit of mproxy's own | [trouble](#what-trouble-looks-like-to-a-client-that-waits-for-its-connack), but not repeated | DISCONNECT 0x80 |
| has an unusable answer, or is to be continued after step 8 | CONNACK 0x83, 0x95 if something is too large | DISCONNECT 0x83, 0x95 |
| takes longer than `MPROXY_CONNECT_TIMEOUT`, and it is the client's turn | CONNACK 0x87 | DISCONNECT 0x87 |
| AUTH out of turn, or with another method | CONNACK 0x82 | DISCONNECT 0x82 |
| AUTH 0x19 while an exchange is under way | CONNACK 0x82 | DISCONNECT 0x82 |
| any other packet of the client, except DISCONNECT ([MQTT-3.1.2-30]) | CONNACK 0x82 | is handled as usual |
| AUTH from the broker ([MQTT-4.12.0-6]) | trouble | DISCONNECT 0x80, a protocol error of the broker |
";

const AFTER_CODES: &str = "
3.1.1 and 3.1 have codes only in CONNACK, and 0x80 in SUBACK. A refusal never becomes a success: a code below 0x80 counts as 0x87.

A *Deny* with a code below 0x80 or over 0xFF is a *Deny* with 0x87, and mproxy warns about it once for each endpoint of the service.

**A failed answer** (it arrived too late, was a gRPC error, could not be decoded, or had no verdict) is not a refusal. If the failure rule says *deny*, the client sees 0x88, Server unavailable, with `REJECT`, as in this table; for a CONNECT the question is repeated first, and then the table below applies. If it says *allow*, the packet is forwarded unchanged.

**An unusable answer** (the number of verdicts is not the number of filters, a grant has an error, a rewrite makes an invalid packet) refuses the packet, whatever the failure rule. The code is 0x83; 0x95 if the answer or the question is too large; 0x87 if a grant has already expired.

**A limit of mproxy's own** that prevents an answer refuses the packet with 0x97, whatever the failure rule; for a CONNECT the table below applies.

## What trouble looks like to a client that waits for its CONNACK

*Trouble* means that a client cannot be connected although nobody refused it ([why that is not a refusal](adr/0018-trouble-is-not-a-refusal.md)). A client that is refused may never try again. Therefore mproxy repeats what failed while the client waits, for another `MPROXY_CONNECT_TIMEOUT` after the complete CONNECT: the dial (all addresses, the last one that worked first), and the question to the hook service if its answer was unavailable or late. When the broker has received the CONNECT, nothing is repeated. After that time `MPROXY_ON_UNAVAILABLE` says what the client sees:

| trouble | `cause` in the log | `close`, the default | `connack` |
|---|---|---|---|
| the broker could not be reached in time | `unreachable` | the connection is closed without CONNACK | 0x88; 3.x: return code 3 |
| the answer of the hook service failed each time, or failed in a way that is not repeated, and the failure rule says *deny* | `policy_failed` | the same | the same |
| a limit of mproxy's own prevented an answer each time, whatever the failure rule | `overloaded` | the same | the same |
| the broker has received the CONNECT and closes without CONNACK, because of its own state or of what the client sent | `closed_before_connack` | the same | the same |
| the broker has received the CONNECT and sends nothing for 10 s, or something other than CONNACK | `too_late`, `malformed`, `not_mqtt`, `protocol_error` | the same | the same |
| mproxy is stopping | `drained` | the same | the same |
| the client [connects over and over](protection.md#clients-that-connect-over-and-over), and is put aside | `refused` | the same, and at once | 0x9F; 3.x: return code 3 |

A CONNACK of the broker is forwarded unchanged. That includes a 3.x CONNACK that refuses a 5.0 client, which may then try an older version. A 3.x CONNACK that accepts a 5.0 client is malformed.
";

const LIMITS: &str = "
## What limits look like

| limit | MQTT 5.0 | MQTT 3.1.1 and 3.1 |
|---|---|---|
| a packet over `max_packet_size`, or the grant's | stated in CONNACK (Maximum Packet Size); DISCONNECT 0x95; closed | closed |
| more messages or bytes per second than the grant's limit, with `RATE_ACTION_WAIT`, or than a rate for all, with `MPROXY_RATE_ACTION=wait` | the client is not read until it is within its rate; if that would take half its keep alive (30 s without one), DISCONNECT 0x96; closed | the same without DISCONNECT |
| the same with `RATE_ACTION_REFUSE`, or `MPROXY_RATE_ACTION=refuse` | as REJECT with 0x97, see the table of packets | as REJECT: acknowledged and dropped |
| a topic of a PUBLISH over `max_topic_length` or `max_topic_levels` | as REJECT with 0x90, see the table of packets | as REJECT: acknowledged and dropped |
| a filter over them | 0x8F in the SUBACK for it | 0x80 |
| a will topic over them | CONNACK 0x90; closed | CONNACK with return code 5; closed |
| more subscriptions than `max_subscriptions` or the grant's limit | 0x97 in the SUBACK for the further ones | 0x80 |
| a keep alive over `max_keep_alive`, or none | stated in CONNACK (Server Keep Alive) | CONNACK with return code 2 |
| a login of a user name of which [too many have failed](protection.md#failed-logins) from the same address | CONNACK 0x9F; closed | CONNACK with return code 3; closed |
| a session expiry over `max_session_expiry` | stated in CONNACK (Session Expiry Interval); reduced in DISCONNECT | – |
| a filter that is not possible under the grant's prefix | 0x8F in the SUBACK for it | 0x80 |
| an answer of mproxy that exceeds the client's Maximum Packet Size even without reason string and user properties | not sent; DISCONNECT 0x95 if that fits; closed | – |
| topic aliases whose names together exceed what mproxy stores | DISCONNECT 0x97; closed | – |
| the end of the grant | DISCONNECT 0xA0; closed | closed |
";

const BEFORE_STRICT: &str = "
## What closes a connection

A packet that the standard calls malformed or a protocol error closes the client's connection, even if the broker would accept it: two parsers that disagree are a security hole. A 5.0 client receives the code, in CONNACK before the session is open and in DISCONNECT afterwards; 3.x has no packet for it, so the connection is just closed. Packets that arrived earlier are still forwarded. The broker receives no DISCONNECT, so it publishes the will. mproxy trusts the broker more: it checks its framing, and what it has to understand.
";

/// The whole page.
#[must_use]
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n## What happens to the packet\n\n");
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
        (ToBroker::TheRest, _) => "the others are forwarded",
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
