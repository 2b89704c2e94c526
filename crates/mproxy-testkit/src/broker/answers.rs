//! What the stand-in broker answers to the bytes it has recorded.

use super::{Acks, BrokerScript, ConnectReply};
use crate::wire::{self, Version, packet_len};

/// Reads the record packet by packet; `done` is where the next one begins.
#[derive(Debug)]
pub(super) struct Answers {
    connack: ConnectReply,
    acks: Acks,
    version: Version,
    done: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum BrokerReply {
    Bytes(Vec<u8>),
    Close,
}

impl Answers {
    pub(super) fn of(script: &BrokerScript) -> Self {
        Self { connack: script.connack.clone(), acks: script.acks, version: Version::V311, done: 0 }
    }

    /// The replies to what `bytes`, the whole record, has had added since the last call.
    pub(super) fn to(&mut self, bytes: &[u8]) -> Vec<BrokerReply> {
        let mut replies = Vec::new();
        while let Some(len) = packet_len(&bytes[self.done..]) {
            let packet = &bytes[self.done..][..len];
            self.done += len;
            replies.extend(self.answer(packet));
        }
        replies
    }

    fn answer(&mut self, packet: &[u8]) -> Vec<BrokerReply> {
        if packet[0] >> 4 == 1 {
            return self.answer_connect(packet);
        }
        match self.acks {
            Acks::ByHand => vec![],
            Acks::Auto => self.acknowledge(packet[0], body(packet)).into_iter().collect(),
        }
    }

    fn answer_connect(&mut self, packet: &[u8]) -> Vec<BrokerReply> {
        // "MQTT" with its length is 6 bytes, "MQIsdp" 8; the level follows. A bridge sets its high bit.
        let body = body(packet);
        let level = if body.starts_with(b"\0\x06MQIsdp") { body.get(8) } else { body.get(6) };
        self.version = match level.map(|level| level & 0x7f) {
            Some(3) => Version::V31,
            Some(5) => Version::V5,
            _ => Version::V311,
        };
        match &self.connack {
            ConnectReply::Accept => vec![BrokerReply::Bytes(wire::connack(self.version, false, 0, &[]))],
            ConnectReply::Refuse(code) => {
                vec![BrokerReply::Bytes(wire::connack(self.version, false, *code, &[])), BrokerReply::Close]
            }
            ConnectReply::Bytes(bytes) => vec![BrokerReply::Bytes(bytes.clone())],
            ConnectReply::Never => vec![],
        }
    }

    fn acknowledge(&self, first: u8, body: &[u8]) -> Option<BrokerReply> {
        let bytes = match first >> 4 {
            3 => {
                let qos = (first >> 1) & 3;
                let id = u16_at(body, 2 + usize::from(u16_at(body, 0)));
                match qos {
                    1 => wire::puback(id),
                    2 => wire::pubrec(id),
                    _ => return None,
                }
            }
            5 => wire::pubrel(u16_at(body, 0)),
            6 => wire::pubcomp(u16_at(body, 0)),
            8 => {
                let granted: Vec<u8> = self.filters(body, 1).iter().map(|options| options & 3).collect();
                wire::suback(self.version, u16_at(body, 0), &granted)
            }
            10 => {
                let codes = vec![0; self.filters(body, 0).len()];
                wire::unsuback(self.version, u16_at(body, 0), &codes)
            }
            12 => wire::pingresp(),
            14 => return Some(BrokerReply::Close),
            _ => return None,
        };
        Some(BrokerReply::Bytes(bytes))
    }

    /// The byte after each filter of a SUBSCRIBE (`extra` 1), or a zero for each of an UNSUBSCRIBE (`extra` 0).
    fn filters(&self, body: &[u8], extra: usize) -> Vec<u8> {
        let mut at = 2;
        if self.version == Version::V5 {
            // Read as a packet's length: the byte before stands for the type.
            at = 1 + packet_len(&body[1..]).unwrap_or_else(|| panic!("properties cut off: {body:02x?}"));
        }
        let mut found = Vec::new();
        while at < body.len() {
            at += 2 + usize::from(u16_at(body, at)) + extra;
            found.push(if extra == 1 { body.get(at - 1).copied().unwrap_or(0) } else { 0 });
        }
        found
    }
}

fn body(packet: &[u8]) -> &[u8] {
    let header = 1 + packet[1..].iter().take_while(|&byte| byte & 0x80 != 0).count() + 1;
    &packet[header..]
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}
