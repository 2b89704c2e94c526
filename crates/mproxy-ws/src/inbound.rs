//! Frames to payload, in place: what was read is what is handed on, without the heads. No stream, no clock; the only
//! memory is a head that is not whole yet, and a control frame while it comes in.

use crate::frame::{
    Head, LONGEST_CONTROL, LONGEST_HEAD, Opcode, Role, Violation, head_len, mask, may_be_sent,
};
use crate::short::Short;

/// Where in the stream of frames we are.
#[derive(Debug)]
pub(crate) struct Inbound {
    role: Role,
    /// The frame whose payload is coming in; `None` inside a head.
    frame: Option<CurrentFrame>,
    /// The beginning of a head.
    head: Short<LONGEST_HEAD>,
    /// Whether a message was begun and its last frame has not come.
    message: bool,
    control: Option<Box<Control>>,
}

/// What is known of the frame whose payload comes in.
#[derive(Clone, Copy, Debug)]
struct CurrentFrame {
    opcode: Opcode,
    /// As it stands for the next byte.
    mask: [u8; 4],
    /// Never 0.
    left: u64,
}

/// The payload of a control frame. A head that announces more was refused before.
pub(crate) type Control = Short<LONGEST_CONTROL>;

/// What a piece of the stream held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// So many bytes of payload stand at the front of the piece now.
    pub(crate) payload: usize,
    /// Frames that carried nothing for the reader: control frames and empty ones.
    pub(crate) hollow: u32,
    /// The last ping: older ones need no answer (RFC 6455, 5.5.3).
    pub(crate) ping: Option<Box<Control>>,
    /// Nothing behind it counts.
    pub(crate) end: Option<InboundEnd>,
}

/// How the stream of frames ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InboundEnd {
    /// With a close frame; its code, if it had one.
    Closed(Option<u16>),
    /// With something that may not be.
    Broken(Violation),
}

impl Inbound {
    pub(crate) fn new(role: Role) -> Self {
        Self { role, frame: None, head: Short::EMPTY, message: false, control: None }
    }

    /// Whether the stream may end here without anything being cut in two.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.frame.is_none() && self.head.as_slice().is_empty() && !self.message
    }

    /// Takes the next bytes of the stream and leaves their payload at the front of `raw`.
    pub(crate) fn decode(&mut self, raw: &mut [u8]) -> Decoded {
        let mut decoded = Decoded::default();
        let mut read = 0;
        while read < raw.len() && decoded.end.is_none() {
            match self.frame {
                Some(frame) => read += self.payload(frame, raw, read, &mut decoded),
                None => {
                    read += self.fill_head(raw.get(read..).unwrap_or_default());
                    if let Err(violation) = self.begin(&mut decoded) {
                        decoded.end = Some(InboundEnd::Broken(violation));
                    }
                }
            }
        }
        debug_assert!(decoded.payload <= read, "payload never grows over what was not read yet");
        decoded
    }

    /// Moves what belongs to the head there.
    fn fill_head(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        // Twice: how long it is stands in its second byte.
        for _ in 0..2 {
            let have = self.head.as_slice();
            let lacks = head_len(have).saturating_sub(have.len());
            let rest = bytes.get(taken..).unwrap_or_default();
            taken += self.head.push(rest.get(..lacks).unwrap_or(rest));
        }
        taken
    }

    /// Begins a frame once its head is whole.
    fn begin(&mut self, decoded: &mut Decoded) -> Result<(), Violation> {
        let Some(head) = Head::parse(self.head.as_slice(), self.role)? else { return Ok(()) };
        match (head.opcode, self.message) {
            (Opcode::Continuation, false) => return Err(Violation::Continuation),
            (Opcode::Binary, true) => return Err(Violation::Interleaved),
            (Opcode::Continuation | Opcode::Binary, _) => self.message = !head.last,
            (Opcode::Text | Opcode::Close | Opcode::Ping | Opcode::Pong, _) => {}
        }
        self.head.clear();
        // Each costs a turn, and a pong at worst, and moves no byte of MQTT. That is a way to keep us busy for
        // nothing, so the stream counts them.
        if head.opcode.is_control() || head.len == 0 {
            decoded.hollow += 1;
        }
        // No payload will come that could finish it.
        if head.len == 0 {
            return self.finish(head.opcode, decoded);
        }
        if head.opcode.is_control() {
            // Boxed while it comes in: a connection without one, which is nearly always, does not carry 125 bytes
            // for it.
            self.control = Some(Box::new(Control::EMPTY));
        }
        self.frame = Some(CurrentFrame { opcode: head.opcode, mask: head.mask, left: head.len });
        Ok(())
    }

    /// Takes payload from `raw[read..]`; how much.
    fn payload(
        &mut self,
        mut frame: CurrentFrame,
        raw: &mut [u8],
        read: usize,
        decoded: &mut Decoded,
    ) -> usize {
        debug_assert!(frame.left > 0, "a frame without payload is finished at its head");
        let here = raw.len() - read;
        // A length of up to 63 bits may not fit a usize. Then all that is here belongs to the frame.
        let n = usize::try_from(frame.left).map_or(here, |left| left.min(here));
        if frame.opcode.is_control() {
            let bytes = raw.get_mut(read..read + n).unwrap_or_default();
            frame.mask = mask(bytes, frame.mask);
            if let Some(control) = &mut self.control {
                control.push(bytes);
            }
        } else {
            let to = decoded.payload;
            // To the front, over the heads that stood there, and unmasked where it comes to lie.
            raw.copy_within(read..read + n, to);
            frame.mask = mask(raw.get_mut(to..to + n).unwrap_or_default(), frame.mask);
            decoded.payload += n;
        }
        frame.left -= n as u64;
        self.frame = Some(frame);
        if frame.left == 0 {
            self.frame = None;
            if let Err(violation) = self.finish(frame.opcode, decoded) {
                decoded.end = Some(InboundEnd::Broken(violation));
            }
        }
        n
    }

    /// A frame is whole.
    fn finish(&mut self, opcode: Opcode, decoded: &mut Decoded) -> Result<(), Violation> {
        let control = self.control.take();
        match opcode {
            Opcode::Ping => decoded.ping = Some(control.unwrap_or_else(|| Box::new(Control::EMPTY))),
            Opcode::Close => {
                decoded.end =
                    Some(InboundEnd::Closed(close_code(control.as_ref().map_or(&[], |c| c.as_slice()))?));
            }
            // A pong that nobody asked for is allowed (RFC 6455, 5.5.3), and we never ask.
            Opcode::Pong | Opcode::Continuation | Opcode::Binary | Opcode::Text => {}
        }
        Ok(())
    }
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(Violation::CloseCode),
        [a, b, reason @ ..] => (u16::from_be_bytes([*a, *b]), reason),
    };
    if !may_be_sent(code) {
        return Err(Violation::CloseCode);
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation::CloseReason);
    }
    Ok(Some(code))
}

#[cfg(test)]
mod tests;
