//! Payload to frames: each write is one frame, its head before the caller's own bytes. Of a frame that the stream took
//! in part, only the numbers are kept; the caller comes again with the rest of the bytes. The answers of the protocol
//! itself (a pong, a close) wait here, one of them at most.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::frame::{Head, LONGEST_CONTROL, LONGEST_HEAD, Opcode, Role, mask};
use crate::inbound::Control;
use crate::random;
use crate::short::{Outgoing, Short};

/// Slices of one write, the head's among them.
const SLICES: usize = 64;

/// Bytes of the largest frame that has to be copied.
const SCRATCH: usize = 64 << 10;

thread_local! {
    /// Where payload is masked. Of no connection: empty before and after each write.
    static SCRATCH_PAD: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// What goes out, between two writes.
#[derive(Debug)]
pub(crate) struct Outbound {
    role: Role,
    /// The head of the frame under way.
    head: Outgoing<LONGEST_HEAD>,
    /// As it stands for the next byte of payload.
    mask: [u8; 4],
    /// Bytes of payload that the frame under way still lacks.
    left: u64,
    /// A control frame that was begun or waits; only a close replaces one that waits.
    control: Option<Box<ControlFrame>>,
    closing: Closing,
}

/// A control frame in the form in which it leaves.
type ControlFrame = Outgoing<{ LONGEST_HEAD + LONGEST_CONTROL }>;

/// How far our half has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Open,
    /// The close frame waits behind a control frame that was begun.
    Wanted(u16),
    /// The close frame is the control frame, or has been written. Nothing comes after it.
    Said,
}

impl Outbound {
    pub(crate) fn new(role: Role) -> Self {
        Self { role, head: Outgoing::EMPTY, mask: [0; 4], left: 0, control: None, closing: Closing::Open }
    }

    /// Answers a ping. An older answer that has not begun to leave gives way; one that has stays the only one.
    pub(crate) fn pong(&mut self, ping: &Control) {
        let begun = self.control.as_ref().is_some_and(|control| control.has_begun());
        if self.closing == Closing::Open && !begun {
            self.control = Some(Box::new(self.control(Opcode::Pong, ping.as_slice())));
        }
    }

    /// Says goodbye, once.
    pub(crate) fn close(&mut self, code: u16) {
        if self.closing == Closing::Open {
            self.closing = Closing::Wanted(code);
            self.promote();
        }
    }

    /// Makes the wanted close the control frame as soon as none is half-way.
    fn promote(&mut self) {
        if let Closing::Wanted(code) = self.closing
            && self.control.as_ref().is_none_or(|control| !control.has_begun())
        {
            self.control = Some(Box::new(self.control(Opcode::Close, &code.to_be_bytes())));
            self.closing = Closing::Said;
        }
    }

    fn control(&self, opcode: Opcode, payload: &[u8]) -> ControlFrame {
        let key = self.new_mask();
        let mut masked = Control::EMPTY;
        masked.push(payload);
        mask(masked.as_mut_slice(), key.unwrap_or_default());
        let mut bytes = Short::EMPTY;
        bytes.push(Head::write(opcode, payload.len() as u64, key).as_slice());
        bytes.push(masked.as_slice());
        Outgoing::new(bytes)
    }

    fn new_mask(&self) -> Option<[u8; 4]> {
        match self.role {
            // A new one for each frame, which nobody can foresee (RFC 6455, 5.3).
            Role::Client => Some(random::mask()),
            Role::Server => None,
        }
    }

    /// Whether a control frame waits that may leave.
    pub(crate) fn has_work(&self) -> bool {
        self.control.is_some() && !self.is_mid_frame()
    }

    fn is_mid_frame(&self) -> bool {
        self.left > 0
    }

    /// Writes the control frame that waits, unless a frame is under way: nothing may stand inside it.
    pub(crate) fn poll_control<S: AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_mid_frame() {
            return Poll::Ready(Ok(()));
        }
        let mut any = false;
        while let Some(control) = &mut self.control {
            control.advance(some(ready!(stream.as_mut().poll_write(cx, control.rest()))?)?);
            any = true;
            if control.rest().is_empty() {
                self.control = None;
                self.promote();
            }
        }
        // Streams that keep something back (TLS) are asked to let it go.
        if any { stream.poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    /// Writes payload as one frame, or as the rest of the one under way; how much of it.
    pub(crate) fn poll_write<S: AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
        payload: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_control(stream.as_mut(), cx))?;
        // No data follows a close frame (RFC 6455, 5.5.1).
        if self.closing != Closing::Open {
            let text = "the WebSocket is closing";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, text)));
        }
        let copies = self.role == Role::Client || !stream.is_write_vectored();
        if !self.is_mid_frame() {
            // A whole frame fits the pad, so that its head and payload leave in one write.
            let most = if copies { SCRATCH - LONGEST_HEAD } else { usize::MAX };
            // One slice is the head's. What is not part of this frame is a frame of the next write.
            let len: usize = payload.iter().take(SLICES - 1).map(|slice| slice.len()).sum();
            match len.min(most) {
                0 => return Poll::Ready(Ok(0)),
                len => self.begin(len as u64),
            }
        }
        loop {
            let wrote = if copies {
                ready!(self.write_copy(stream.as_mut(), cx, payload))?
            } else {
                ready!(self.write_slices(stream.as_mut(), cx, payload))?
            };
            let taken = self.advance(some(wrote)?);
            // The head alone may have gone. To say 0 would mean that the stream takes no more.
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
    }

    fn begin(&mut self, len: u64) {
        debug_assert!(self.left == 0 && self.head.rest().is_empty(), "a frame begins inside another one");
        let key = self.new_mask();
        self.head = Outgoing::new(Head::write(Opcode::Binary, len, key));
        self.mask = key.unwrap_or_default();
        self.left = len;
    }

    /// The head and the caller's own bytes in one vectored write.
    fn write_slices<S: AsyncWrite>(
        &self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
        payload: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let parts = iter::once(self.head.rest()).chain(self.of_frame(payload));
        for (bytes, slice) in parts.zip(&mut slices) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        stream.poll_write_vectored(cx, slices.get(..count).unwrap_or(&slices))
    }

    /// The head and a masked copy in one write. What is not taken is masked again when the caller comes with it.
    fn write_copy<S: AsyncWrite>(
        &self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
        payload: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A copy, since the bytes are the caller's and must not change: what is not taken comes again.
        let mut pad = SCRATCH_PAD.take().unwrap_or_else(|| vec![0; SCRATCH].into_boxed_slice());
        let mut len = 0;
        for bytes in iter::once(self.head.rest()).chain(self.of_frame(payload)) {
            let room = pad.get_mut(len..).unwrap_or_default();
            let n = bytes.len().min(room.len());
            if let (Some(to), Some(from)) = (room.get_mut(..n), bytes.get(..n)) {
                to.copy_from_slice(from);
                len += n;
            }
        }
        mask(pad.get_mut(self.head.rest().len()..len).unwrap_or_default(), self.mask);
        let wrote = stream.poll_write(cx, pad.get(..len).unwrap_or_default());
        SCRATCH_PAD.set(Some(pad));
        wrote
    }

    /// The slices of `payload` as far as the frame goes.
    fn of_frame<'a>(&self, payload: &'a [IoSlice<'_>]) -> impl Iterator<Item = &'a [u8]> {
        let mut left = self.left;
        payload.iter().map_while(move |slice| {
            let n = usize::try_from(left).map_or(slice.len(), |left| left.min(slice.len()));
            left -= n as u64;
            (n > 0 || left > 0).then(|| slice.get(..n).unwrap_or(slice))
        })
    }

    /// So many bytes went out; how many of them were payload.
    fn advance(&mut self, wrote: usize) -> usize {
        let head = wrote.min(self.head.rest().len());
        self.head.advance(head);
        let payload = wrote - head;
        debug_assert!(payload as u64 <= self.left, "more was taken than the frame holds");
        self.left = self.left.saturating_sub(payload as u64);
        // The key goes on where this write ended.
        self.mask.rotate_left(payload % 4);
        payload
    }
}

/// A stream that takes nothing is at its end.
fn some(wrote: usize) -> io::Result<usize> {
    if wrote == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(wrote) }
}
