//! One frame's head (RFC 6455, 5.2), what may not be in it, and the mask. Knows no stream and keeps nothing.

use thiserror::Error;

use crate::short::Short;

/// Which end of the connection this is. A client masks what it sends, a server does not (RFC 6455, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We asked for the upgrade.
    Client,
    /// We were asked.
    Server,
}

/// Bytes of the longest head: two, eight of length, four of mask.
pub(crate) const LONGEST_HEAD: usize = 14;

/// Bytes of the longest payload of a control frame (RFC 6455, 5.5).
pub(crate) const LONGEST_CONTROL: usize = 125;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn of(nibble: u8) -> Option<Self> {
        Some(match nibble {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Why the peer may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// A reserved bit is set, and no extension was agreed on.
    #[error("a reserved bit is set")]
    ReservedBit,
    /// An opcode that RFC 6455 does not know.
    #[error("the opcode is reserved")]
    ReservedOpcode,
    /// MQTT travels in binary frames only.
    #[error("a text frame")]
    Text,
    /// A control frame in pieces.
    #[error("a fragmented control frame")]
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    #[error("a control frame of more than 125 bytes")]
    LongControl,
    /// A frame of a client without mask.
    #[error("a frame without mask")]
    Unmasked,
    /// A frame of a server with mask.
    #[error("a masked frame")]
    Masked,
    /// A length in more bytes than it needs, or of more than 63 bits.
    #[error("a length that is not minimal or too large")]
    Length,
    /// A continuation of nothing.
    #[error("a continuation without a beginning")]
    Continuation,
    /// A message inside another one.
    #[error("a new message before the end of the last one")]
    Interleaved,
    /// A close frame with half a code, or with one that must not be sent.
    #[error("a close frame with an invalid code")]
    CloseCode,
    /// A close frame whose reason is not UTF-8.
    #[error("a close frame whose reason is not UTF-8")]
    CloseReason,
    /// Frames that carry nothing, faster than anybody needs them.
    #[error("a flood of frames without content")]
    Flood,
}

impl Violation {
    /// The code that our close frame carries (RFC 6455, 7.4.1).
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::CloseReason => 1007,
            Self::Flood => 1008,
            _ => 1002,
        }
    }
}

/// A frame's head that holds in itself; whether it may come now is not its matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) last: bool,
    pub(crate) opcode: Opcode,
    pub(crate) mask: [u8; 4],
    pub(crate) len: u64,
}

/// How many bytes the head takes that begins with these; 2 while they cannot tell.
pub(crate) fn head_len(bytes: &[u8]) -> usize {
    let [_, second, ..] = bytes else { return 2 };
    let length = match second & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & 0x80 != 0 { 4 } else { 0 }
}

impl Head {
    /// Reads a head that came to us in this role. `bytes` are at least two and at most [`head_len`] of them; `None`
    /// where more are needed. What is wrong is told as soon as it can be seen.
    pub(crate) fn parse(bytes: &[u8], role: Role) -> Result<Option<Self>, Violation> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        // No extension is ever agreed on, so none can have given these bits a meaning (RFC 6455, 5.2).
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBit);
        }
        let last = first & 0x80 != 0;
        let opcode = Opcode::of(first & 0x0F).ok_or(Violation::ReservedOpcode)?;
        let masked = second & 0x80 != 0;
        // A client has to mask and a server must not; each has to close on the other's mistake (RFC 6455, 5.1).
        // Without masks, what a page's script sends could pass for HTTP in the eyes of a cache on the way (10.3).
        match role {
            Role::Server if !masked => return Err(Violation::Unmasked),
            Role::Client if masked => return Err(Violation::Masked),
            _ => {}
        }
        let short = second & 0x7F;
        // From the first two bytes alone: whoever breaks a rule there may never send the rest of the head.
        if opcode == Opcode::Text {
            return Err(Violation::Text);
        }
        // Control frames may stand between the pieces of a message, so they come whole and short (RFC 6455, 5.5).
        if opcode.is_control() && !last {
            return Err(Violation::FragmentedControl);
        }
        if opcode.is_control() && short as usize > LONGEST_CONTROL {
            return Err(Violation::LongControl);
        }
        if bytes.len() < head_len(bytes) {
            return Ok(None);
        }
        let (len, rest) = match (short, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest)
            }
            _ => (u64::from(short), rest),
        };
        // The shortest form is the only one that is allowed (RFC 6455, 5.2).
        let minimal = match short {
            126 => len > 125,
            // Its most significant bit must be 0 (RFC 6455, 5.2).
            127 => len > 0xFFFF && len >> 63 == 0,
            _ => true,
        };
        if !minimal {
            return Err(Violation::Length);
        }
        let mask = match rest {
            [a, b, c, d, ..] if masked => [*a, *b, *c, *d],
            _ => [0; 4],
        };
        Ok(Some(Self { last, opcode, mask, len }))
    }

    /// The head of an unfragmented frame. Without `mask` the mask bit is not set.
    pub(crate) fn write(opcode: Opcode, len: u64, mask: Option<[u8; 4]>) -> Short<LONGEST_HEAD> {
        let masked = if mask.is_some() { 0x80 } else { 0 };
        let mut head = Short::EMPTY;
        head.push(&[0x80 | opcode as u8]);
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(len @ 0..=125), _) => {
                head.push(&[len | masked]);
            }
            (_, Ok(len)) => {
                head.push(&[126 | masked]);
                head.push(&len.to_be_bytes());
            }
            _ => {
                head.push(&[127 | masked]);
                head.push(&len.to_be_bytes());
            }
        }
        if let Some(mask) = mask {
            head.push(&mask);
        }
        head
    }
}

/// Masks, or unmasks, and gives the key as it stands for the bytes that follow.
pub(crate) fn mask(bytes: &mut [u8], key: [u8; 4]) -> [u8; 4] {
    let [a, b, c, d] = key;
    // Eight bytes at a time. Bytes and key lie in memory alike, so the order of the machine does not matter.
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut next = key;
    // Byte i of a frame goes with byte i mod 4 of its key (RFC 6455, 5.3), however reads and writes cut the frame.
    next.rotate_left(bytes.len() % 4);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    next
}

/// Whether a peer may send this code (RFC 6455, 7.4).
pub(crate) fn may_be_sent(code: u16) -> bool {
    // 1004 is reserved. 1005, 1006 and 1015 stand for what was not said, and must not be sent (RFC 6455, 7.4.1).
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_at_every_edge_of_its_length() {
        for len in [0, 1, 125, 126, 127, 0xFFFF, 0x1_0000, u64::MAX >> 1] {
            for key in [None, Some([1, 2, 3, 4])] {
                let role = if key.is_some() { Role::Server } else { Role::Client };
                let written = Head::write(Opcode::Binary, len, key);
                let bytes = written.as_slice();
                let wrote = bytes.len();
                assert_eq!(head_len(&bytes[..2]), wrote);
                for cut in 2..wrote {
                    assert_eq!(Head::parse(&bytes[..cut], role), Ok(None));
                }
                let head = Head::parse(&bytes[..wrote], role).unwrap().unwrap();
                let mask = key.unwrap_or_default();
                assert_eq!(head, Head { last: true, opcode: Opcode::Binary, mask, len });
            }
        }
    }

    #[test]
    fn what_a_head_may_not_be_is_named() {
        let cases: &[(&[u8], Role, Violation)] = &[
            (&[0xC2, 0x80], Role::Server, Violation::ReservedBit),
            (&[0xA2, 0x80], Role::Server, Violation::ReservedBit),
            (&[0x92, 0x80], Role::Server, Violation::ReservedBit),
            (&[0x83, 0x80], Role::Server, Violation::ReservedOpcode),
            (&[0x8B, 0x80], Role::Server, Violation::ReservedOpcode),
            (&[0x82, 0x00], Role::Server, Violation::Unmasked),
            (&[0x82, 0x80], Role::Client, Violation::Masked),
            (&[0x81, 0x80], Role::Server, Violation::Text),
            (&[0x01, 0x80], Role::Server, Violation::Text),
            (&[0x09, 0x80], Role::Server, Violation::FragmentedControl),
            (&[0x89, 0xFE], Role::Server, Violation::LongControl),
            (&[0x88, 0xFF], Role::Server, Violation::LongControl),
            (&[0x82, 126, 0, 125], Role::Client, Violation::Length),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], Role::Client, Violation::Length),
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 1, 0, 0], Role::Client, Violation::Length),
        ];
        for (bytes, role, violation) in cases {
            assert_eq!(Head::parse(bytes, *role), Err(*violation), "{bytes:02X?}");
        }
    }

    #[test]
    fn a_mask_in_pieces_is_the_mask_of_the_whole() {
        let whole: Vec<u8> = (0..100).collect();
        let key = [0xAA, 0x55, 0x0F, 0xF1];
        for cut in 0..whole.len() {
            let mut bytes = whole.clone();
            let (front, back) = bytes.split_at_mut(cut);
            let next = mask(front, key);
            mask(back, next);
            let expected: Vec<u8> =
                whole.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            assert_eq!(bytes, expected);
        }
    }
}
