//! MQTT 3.1.1 frames by hand: those that the load generator and the stand-in broker say, and where a frame ends.
//! It checks nothing that it does not need; strictness is mproxy's.

use anyhow::bail;

pub(crate) const CONNECT: u8 = 1;
pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const SUBSCRIBE: u8 = 8;
pub(crate) const SUBACK: u8 = 9;
pub(crate) const PINGREQ: u8 = 12;
pub(crate) const PINGRESP: u8 = 13;
pub(crate) const DISCONNECT: u8 = 14;

/// Whole packets without anything variable.
pub(crate) mod fixed {
    pub(crate) const CONNACK: &[u8] = &[0x20, 2, 0, 0];
    pub(crate) const PINGREQ: &[u8] = &[0xC0, 0];
    pub(crate) const PINGRESP: &[u8] = &[0xD0, 0];
    pub(crate) const DISCONNECT: &[u8] = &[0xE0, 0];
}

/// Seconds; a usual value, so that proxies which watch it have to.
const KEEP_ALIVE: u16 = 60;

/// Bytes of a payload that are the time it was sent, 0 if that is not to be looked at.
pub(crate) const STAMP: usize = 8;

/// User name and password in the flags of CONNECT.
const WITH_LOGIN: u8 = 0xC0;

/// A CONNECT with a clean session, and with a token as its password if there is one.
pub(crate) fn connect(client_id: &str, token: Option<&str>) -> Vec<u8> {
    let flags = if token.is_some() { 2 | WITH_LOGIN } else { 2 };
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, flags];
    body.extend(KEEP_ALIVE.to_be_bytes());
    text(&mut body, client_id);
    if let Some(token) = token {
        text(&mut body, "token");
        text(&mut body, token);
    }
    whole(CONNECT << 4, &body)
}

/// A SUBSCRIBE to one topic, QoS 0.
pub(crate) fn subscribe(topic: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    text(&mut body, topic);
    body.push(0);
    whole(SUBSCRIBE << 4 | 2, &body)
}

/// The SUBACK for it.
pub(crate) const fn suback(packet_id: [u8; 2]) -> [u8; 5] {
    [SUBACK << 4, 3, packet_id[0], packet_id[1], 0]
}

pub(crate) const fn puback(packet_id: [u8; 2]) -> [u8; 4] {
    [PUBACK << 4, 2, packet_id[0], packet_id[1]]
}

/// A PUBLISH whose time and packet id are written into it before it goes out.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    payload: usize,
}

impl Message {
    /// QoS 0.
    pub(crate) fn new(topic: &str, payload: usize) -> Self {
        Self::with(PUBLISH << 4, topic, &[], payload)
    }

    /// QoS 1.
    pub(crate) fn acknowledged(topic: &str, payload: usize) -> Self {
        Self::with(PUBLISH << 4 | 2, topic, &[0, 1], payload)
    }

    fn with(first: u8, topic: &str, packet_id: &[u8], payload: usize) -> Self {
        let mut body = Vec::new();
        text(&mut body, topic);
        body.extend(packet_id);
        let head = body.len();
        body.resize(head + payload.max(2 * STAMP), 0);
        let bytes = whole(first, &body);
        let payload = bytes.len() - (body.len() - head);
        Self { bytes, payload }
    }

    pub(crate) fn stamped(&mut self, at: u64) -> &[u8] {
        self.bytes[self.payload..][..STAMP].copy_from_slice(&at.to_be_bytes());
        &self.bytes
    }

    /// With a second number after the time.
    pub(crate) fn numbered(&mut self, at: u64, number: u64) -> &[u8] {
        self.bytes[self.payload + STAMP..][..STAMP].copy_from_slice(&number.to_be_bytes());
        self.stamped(at)
    }

    /// QoS 1 only.
    pub(crate) fn identified(&mut self, at: u64, packet_id: u16) -> &[u8] {
        self.bytes[self.payload - 2..][..2].copy_from_slice(&packet_id.to_be_bytes());
        self.stamped(at)
    }

    /// So many of them in one piece; only the first carries a time, see [`Self::restamp`].
    pub(crate) fn repeated(&mut self, times: usize) -> Vec<u8> {
        self.stamped(0).repeat(times)
    }

    /// Stamps the first of [`Self::repeated`].
    pub(crate) fn restamp(&self, repeated: &mut [u8], at: u64) {
        repeated[self.payload..][..STAMP].copy_from_slice(&at.to_be_bytes());
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// What a PUBLISH says, as far as anybody here looks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub(crate) topic: &'a [u8],
    /// QoS 1 and 2.
    pub(crate) packet_id: Option<[u8; 2]>,
    /// When it was sent, if it says so.
    pub(crate) stamp: Option<u64>,
    /// What follows the time.
    pub(crate) number: u64,
}

/// Reads the beginning of a PUBLISH; nothing after its first 16 bytes of payload needs to be there.
pub(crate) fn read_publish(frame: &[u8], head: usize) -> Option<Publish<'_>> {
    let body = frame.get(head..)?;
    let (length, rest) = body.split_first_chunk::<2>()?;
    let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let (packet_id, payload) = match frame[0] & 0b110 {
        0 => (None, rest),
        _ => rest.split_first_chunk::<2>().map(|(id, rest)| (Some(*id), rest))?,
    };
    let (stamp, payload) = payload.split_first_chunk::<STAMP>()?;
    let number = payload.first_chunk::<STAMP>()?;
    let stamp = u64::from_be_bytes(*stamp);
    Some(Publish {
        topic,
        packet_id,
        stamp: (stamp != 0).then_some(stamp),
        number: u64::from_be_bytes(*number),
    })
}

/// The fixed header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: u8,
    /// Bytes of the fixed header.
    pub(crate) len: usize,
    /// Bytes of the whole frame.
    pub(crate) total: usize,
}

/// The head of the frame that begins here; `None` if there is not enough of it.
pub(crate) fn head(bytes: &[u8]) -> anyhow::Result<Option<Head>> {
    let mut body = 0;
    for place in 1..=4 {
        let Some(&byte) = bytes.get(place) else { return Ok(None) };
        body |= usize::from(byte & 0x7F) << (7 * (place - 1));
        if byte & 0x80 == 0 {
            let kind = bytes[0] >> 4;
            if !(CONNECT..=DISCONNECT).contains(&kind) {
                bail!("there is no packet type {kind}");
            }
            let len = place + 1;
            return Ok(Some(Head { kind, len, total: len + body }));
        }
    }
    bail!("a length of more than four bytes");
}

/// Calls `each` with every whole frame; says how many bytes these were.
pub(crate) fn walk(bytes: &[u8], mut each: impl FnMut(Head, &[u8])) -> anyhow::Result<usize> {
    let mut at = 0;
    while let Some(head) = head(&bytes[at..])? {
        let Some(frame) = bytes[at..].get(..head.total) else { break };
        each(head, frame);
        at += head.total;
    }
    Ok(at)
}

fn text(to: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("topics and client ids here are short");
    to.extend(length.to_be_bytes());
    to.extend(text.as_bytes());
}

fn whole(first: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7F).expect("seven bits");
        length >>= 7;
        frame.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    frame.extend(body);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_again() {
        let mut message = Message::acknowledged("a/b", 300);
        let mut bytes = message.identified(77, 5).to_vec();
        bytes.extend(fixed::PINGREQ);
        bytes.extend(&bytes.clone()[..4]);
        let mut kinds = Vec::new();
        let walked = walk(&bytes, |head, frame| {
            kinds.push(head.kind);
            if head.kind == PUBLISH {
                let publish = read_publish(frame, head.len).expect("it is whole");
                let said = Publish { topic: b"a/b", packet_id: Some([0, 5]), stamp: Some(77), number: 0 };
                assert_eq!(publish, said);
            }
        });
        assert_eq!(walked.expect("well formed"), bytes.len() - 4);
        assert_eq!(kinds, [PUBLISH, PINGREQ]);
    }

    #[test]
    fn a_large_message_has_a_long_length() {
        let mut message = Message::new("t", 256 << 10);
        let bytes = message.stamped(0);
        let head = head(bytes).expect("well formed").expect("it is whole");
        assert_eq!((head.len, head.total), (4, bytes.len()));
    }
}
