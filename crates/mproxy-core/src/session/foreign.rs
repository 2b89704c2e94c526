//! Bytes of another protocol, and packets that come when they may not.

use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::PacketType;

use crate::fault::Fault;
use crate::peer::Side;

/// What is wrong with these bytes, which are the first of that side, where they belong to another protocol. To call them a
/// malformed packet would be right, and help nobody.
pub(super) fn unlike_mqtt(side: Side, first: &[u8]) -> Option<Fault> {
    let came = match side {
        Side::Client => from_a_client(first)?,
        Side::Broker => from_a_broker(first)?,
    };
    Some(Fault::NotMqtt { side, came })
}

/// A packet that may not come now.
pub(super) fn out_of_place(side: Side, packet: PacketType) -> Fault {
    let rule = match packet {
        PacketType::Connect => "MQTT-3.1.0-2",
        PacketType::Auth if side == Side::Client => "MQTT-4.12.0-7",
        PacketType::Auth => "MQTT-4.12.0-6",
        PacketType::Connack => "MQTT-3.2.0-2",
        _ if side == Side::Client => "MQTT-3.1.2-30",
        _ => "MQTT-3.2.0-1",
    };
    Fault::Protocol {
        side,
        packet,
        what: "not allowed at this point",
        rule,
        reason: ReasonCode::PROTOCOL_ERROR,
    }
}

/// What a client means that begins so. No CONNECT does: its first byte is 0x10.
fn from_a_client(first: &[u8]) -> Option<&'static str> {
    const METHODS: [&[u8]; 8] = [b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"DELE", b"CONN", b"PATC"];
    Some(match first {
        // A handshake record, and the ClientHello of SSLv2.
        [0x16, 3, ..] | [0x80, _, 1, 3, ..] => {
            "TLS: use a port with TLS (mqtts), or turn TLS off in the client"
        }
        [b'P', b'R', b'O', b'X', b'Y', ..] | [b'\r', b'\n', b'\r', b'\n', 0, ..] => {
            "a PROXY header: set proxy_protocol for this listener, or turn it off in the load balancer"
        }
        // Scanners, mostly. Named, so that an operator need not ask what "packet type 5" was.
        [b'S', b'S', b'H', b'-', ..] => "SSH",
        [b'P', b'R', b'I', b' ', ..] => "HTTP/2",
        _ if METHODS.iter().any(|method| first.starts_with(method)) => {
            "an HTTP request: use a port for WebSocket (ws, wss), or the admin port for health checks and metrics"
        }
        _ => return None,
    })
}

/// The same of a broker, whose first byte should be 0x20 or 0xF0.
fn from_a_broker(first: &[u8]) -> Option<&'static str> {
    Some(match first {
        [0x15 | 0x16, 3, ..] => "TLS: set the target's scheme to mqtts",
        [b'H', b'T', b'T', b'P', ..] => {
            "an HTTP answer: set the target's scheme to ws, or use the broker's MQTT port"
        }
        [b'S', b'S', b'H', b'-', ..] => "SSH: this is not the broker's port",
        _ => return None,
    })
}
