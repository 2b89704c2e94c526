//! WebSocket by hand, as little as the load generator and the stand-in broker need: one step out of HTTP, heads of
//! frames, masks. Like `frame` it checks nothing that it does not need.

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

/// What every frame of a client is masked with. A real one draws each mask by lot; for the one who takes it off that
/// makes no difference.
pub(crate) const MASK: [u8; 4] = [0x5A, 0xC3, 0x17, 0x8E];

/// What a client says first. Its key is the one of the standard's example.
pub(crate) const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Whether a connection begins in HTTP: no MQTT packet of a client begins so.
pub(crate) fn is_request(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'G')
}

/// The answer to a request; `None` if more of it is to come.
pub(crate) fn answer(request: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(rest) = after_head(request) else { return Ok(None) };
    if rest > 0 {
        bail!("frames before the answer");
    }
    let request = str::from_utf8(request)?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
    };
    let key = request.lines().find_map(header).context("a request without a key")?;
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(digest.finish());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Ok(Some(answer.into_bytes()))
}

/// Whether these bytes are all of an answer; wrong if it is no.
pub(crate) fn is_answered(bytes: &[u8]) -> anyhow::Result<bool> {
    match after_head(bytes) {
        None => Ok(false),
        Some(0) if bytes.starts_with(b"HTTP/1.1 101 ") => Ok(true),
        Some(_) => {
            bail!("no WebSocket: {}", String::from_utf8_lossy(bytes).lines().next().unwrap_or_default())
        }
    }
}

/// How many bytes follow the empty line.
fn after_head(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(bytes.len() - end - 4)
}

/// Begins a binary frame with so many bytes in it.
pub(crate) fn head(to: &mut Vec<u8>, len: usize, mask: Option<[u8; 4]>) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    to.push(0x82);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..126), _) => to.push(masked | len),
        (_, Ok(len)) => {
            to.push(masked | 126);
            to.extend(len.to_be_bytes());
        }
        (_, Err(_)) => {
            to.push(masked | 127);
            to.extend((len as u64).to_be_bytes());
        }
    }
    to.extend(mask.unwrap_or_default().iter().take(if mask.is_some() { 4 } else { 0 }));
}

/// Masks, or unmasks, what begins at the first byte of a mask.
pub(crate) fn mask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (eights, rest) = bytes.as_chunks_mut::<8>();
    for eight in eights {
        *eight = (u64::from_ne_bytes(*eight) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Takes frames off what the other side sends, wherever reads have cut them.
#[derive(Debug, Default)]
pub(crate) struct Unframe {
    /// So much of a frame's head as is there.
    head: [u8; 14],
    have: usize,
    /// Bytes in the frame that are still to come, ...
    left: u64,
    /// ... and the mask of the next.
    mask: [u8; 4],
    /// The other side has said goodbye: what follows means nothing.
    pub(crate) is_closed: bool,
}

impl Unframe {
    /// In place: what was in the frames is at the beginning afterwards, so many bytes.
    pub(crate) fn take(&mut self, bytes: &mut [u8]) -> anyhow::Result<usize> {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() && !self.is_closed {
            if self.left == 0 {
                self.head[self.have] = bytes[from];
                self.have += 1;
                from += 1;
                self.begin()?;
                continue;
            }
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            let here = left.min(bytes.len() - from);
            if self.mask != [0; 4] {
                mask(&mut bytes[from..from + here], self.mask);
                self.mask.rotate_left(here % 4);
            }
            bytes.copy_within(from..from + here, to);
            self.left -= here as u64;
            from += here;
            to += here;
        }
        Ok(to)
    }

    /// Begins the frame if its head is whole.
    fn begin(&mut self) -> anyhow::Result<()> {
        let head = &self.head[..self.have];
        let [first, second, rest @ ..] = head else { return Ok(()) };
        let (len, masked) = (second & 0x7F, second & 0x80 != 0);
        let long = match len {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((length, mask)) = rest.split_at_checked(long) else { return Ok(()) };
        if masked && mask.len() < 4 {
            return Ok(());
        }
        self.left = match long {
            0 => u64::from(len),
            _ => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        self.mask = mask.first_chunk().copied().unwrap_or_default();
        match first & 0x0F {
            0 | 2 => {}
            8 => self.is_closed = true,
            other => bail!("a frame with the opcode {other}, which nobody sends here"),
        }
        self.have = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(payload: &[u8], with: Option<[u8; 4]>) -> Vec<u8> {
        let mut bytes = Vec::new();
        head(&mut bytes, payload.len(), with);
        let at = bytes.len();
        bytes.extend(payload);
        mask(&mut bytes[at..], with.unwrap_or_default());
        bytes
    }

    #[test]
    fn a_frame_is_as_the_standard_shows() {
        // RFC 6455, 5.7, but for the opcode.
        let masked = [0x82, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58];
        assert_eq!(framed(b"Hello", Some([0x37, 0xFA, 0x21, 0x3D])), masked);
        assert_eq!(framed(b"Hello", None), [0x82, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F]);
        assert_eq!(framed(&[0; 256], None)[..4], [0x82, 0x7E, 1, 0]);
        assert_eq!(framed(&[0; 65_536], None)[..10], [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn frames_are_taken_off_wherever_they_are_cut() {
        let payload: Vec<u8> = (0..70_000_u32).map(|number| number as u8).collect();
        let parts = [&payload[..5], &payload[5..5], &payload[5..305], &payload[305..]];
        for with in [None, Some(MASK)] {
            let sent = parts.map(|part| framed(part, with)).concat();
            for cut in [1, 3, 7, 64, 4_099, sent.len()] {
                let (mut unframe, mut came) = (Unframe::default(), Vec::<u8>::new());
                for piece in sent.clone().chunks_mut(cut) {
                    let len = unframe.take(piece).expect("well formed");
                    came.extend(&piece[..len]);
                }
                assert!(came == payload, "in pieces of {cut}");
            }
        }
    }

    #[test]
    fn nothing_follows_a_goodbye() {
        let mut bytes = framed(b"ab", Some(MASK));
        bytes.extend([0x88, 0x82, 0, 0, 0, 0, 3, 0xE8]);
        let mut unframe = Unframe::default();
        assert_eq!(unframe.take(&mut bytes).expect("well formed"), 2);
        assert_eq!(&bytes[..2], b"ab");
        assert!(unframe.is_closed);
    }

    #[test]
    fn a_request_is_answered_when_it_is_whole() {
        assert!(is_request(REQUEST));
        assert_eq!(answer(&REQUEST[..REQUEST.len() - 1]).expect("so far so good"), None);
        let answer = answer(REQUEST).expect("well formed").expect("it is whole");
        assert!(is_answered(&answer).expect("it is a yes"));
        assert!(!is_answered(&answer[..answer.len() - 1]).expect("so far so good"));
        let text = String::from_utf8(answer).expect("HTTP");
        assert!(text.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
        assert!(is_answered(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
    }
}
