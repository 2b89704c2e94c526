//! Messages over a Unix socket, each with the descriptors that belong to it. Blocks, within deadlines.
//!
//! A message is its length and the number of its descriptors (four bytes each), and JSON. Descriptors travel with the first
//! bytes of their message, so that all are there when its last byte is.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::message::Message;

/// Descriptors that go with one piece. The kernel takes 253.
const AT_A_TIME: usize = 64;

/// Descriptors of one message at most: more listeners than anybody has.
const MOST_DESCRIPTORS: usize = 4096;

/// Bytes of one message at most.
const LARGEST: usize = 1 << 20;

/// Bytes behind a message at most, for each of what is said to follow. A session has less.
const LARGEST_BYTES: usize = 16 << 20;

/// Before the JSON of each message.
const HEAD: usize = 8;

/// How long the other side may take to make room for a message.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// One end.
#[derive(Debug)]
pub(super) struct Channel {
    socket: UnixStream,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_write_timeout(Some(WRITTEN_WITHIN))?;
        Ok(Self { socket, bytes: Vec::new(), descriptors: VecDeque::new() })
    }

    /// Sends a message with these descriptors, which the receiver gets copies of.
    ///
    /// # Errors
    /// The other side is gone, or takes nothing.
    pub(super) fn send(&mut self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_before(message, &[], descriptors)
    }

    /// The same, and these bytes behind it.
    ///
    /// # Errors
    /// The other side is gone, or takes nothing.
    pub(super) fn send_before(
        &mut self,
        message: &Message,
        more: &[&[u8]],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let json = serde_json::to_vec(message)?;
        let mut bytes = Vec::with_capacity(HEAD + json.len());
        bytes.extend_from_slice(&length(json.len())?);
        bytes.extend_from_slice(&length(descriptors.len())?);
        bytes.extend_from_slice(&json);
        more.iter().for_each(|more| bytes.extend_from_slice(more));
        let mut rest = &bytes[..];
        // Each piece of descriptors has to have a byte to travel with; a message has more bytes than it has pieces.
        for piece in descriptors.chunks(AT_A_TIME) {
            let (first, after) = rest.split_at(rest.len().min(1));
            self.send_with(first, piece)?;
            rest = after;
        }
        self.socket.write_all(rest)
    }

    fn send_with(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_A_TIME))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(descriptors));
        let sent = sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// The next message, and the descriptors that came with it.
    ///
    /// # Errors
    /// [`TimedOut`](io::ErrorKind::TimedOut): it was not there by then. [`UnexpectedEof`](io::ErrorKind::UnexpectedEof): the
    /// other side is gone. [`InvalidData`](io::ErrorKind::InvalidData): it says what nobody understands.
    pub(super) fn receive(&mut self, until: Instant) -> io::Result<(Message, Vec<OwnedFd>)> {
        loop {
            if let Some((len, count)) = self.head()? {
                if self.bytes.len() >= HEAD + len && self.descriptors.len() >= count {
                    let message = serde_json::from_slice(&self.bytes[HEAD..HEAD + len]);
                    self.bytes.drain(..HEAD + len);
                    return Ok((message?, self.descriptors.drain(..count).collect()));
                }
                if self.bytes.len() >= HEAD + len {
                    return Err(invalid("descriptors are missing"));
                }
            }
            self.fill(until)?;
        }
    }

    /// So many bytes that follow the last message.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub(super) fn receive_bytes(&mut self, len: usize, until: Instant) -> io::Result<Vec<u8>> {
        if len > LARGEST_BYTES {
            return Err(invalid("too many bytes"));
        }
        while self.bytes.len() < len {
            self.fill(until)?;
        }
        let rest = self.bytes.split_off(len);
        Ok(std::mem::replace(&mut self.bytes, rest))
    }

    fn head(&self) -> io::Result<Option<(usize, usize)>> {
        let Some(head) = self.bytes.first_chunk::<HEAD>() else { return Ok(None) };
        let [a, b, c, d, e, f, g, h] = *head;
        let (len, count) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        let (len, count) = (len as usize, count as usize);
        if len > LARGEST || count > MOST_DESCRIPTORS {
            return Err(invalid("a message is too large"));
        }
        Ok(Some((len, count)))
    }

    fn fill(&mut self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_A_TIME))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0; 32 << 10];
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut chunk)],
            &mut control,
            // What is started later must not inherit them.
            RecvFlags::CMSG_CLOEXEC,
        );
        let received = match received.map_err(io::Error::from) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.extend_from_slice(&chunk[..received.bytes]);
        Ok(())
    }
}

fn length(len: usize) -> io::Result<[u8; 4]> {
    Ok(u32::try_from(len).map_err(|_| invalid("a message is too large"))?.to_be_bytes())
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd as _;
    use std::thread;

    use super::super::message::SocketLabel;
    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn a_message_brings_its_descriptors_however_many() {
        let (mut old, mut new) = pair();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for count in [0, 1, AT_A_TIME, 3 * AT_A_TIME + 1] {
            let label = SocketLabel { name: "mqtt".into(), place: "x".into(), owns_file: false };
            let sockets = vec![label; count];
            let begin = Message::Begin { protocol: 1, version: "1".into(), pid: 1, sockets };
            let given = vec![listener.as_fd(); count];
            thread::scope(|scope| {
                scope.spawn(|| {
                    old.send(&begin, &given).unwrap();
                    old.send(&Message::TakeOver, &[]).unwrap();
                });
                let (message, taken) = new.receive(soon()).unwrap();
                assert_eq!((message, taken.len()), (begin.clone(), count));
                for socket in taken {
                    let at = TcpListener::from(socket).local_addr().unwrap();
                    assert_eq!(at, listener.local_addr().unwrap());
                }
                let (message, taken) = new.receive(soon()).unwrap();
                assert_eq!((message, taken.len()), (Message::TakeOver, 0), "in its own message");
            });
        }
    }

    #[test]
    fn what_is_late_gone_or_not_understood_is_an_error_of_its_own() {
        let (mut old, mut new) = pair();
        let late = Instant::now() + Duration::from_millis(20);
        assert_eq!(new.receive(late).unwrap_err().kind(), io::ErrorKind::TimedOut);
        old.socket.write_all(b"\xff\xff\xff\xff\0\0\0\0").unwrap();
        assert_eq!(new.receive(soon()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut old, mut new) = pair();
        old.socket.write_all(b"\0\0\0\x02\0\0\0\x01{}").unwrap();
        assert_eq!(new.receive(soon()).unwrap_err().kind(), io::ErrorKind::InvalidData, "no descriptor");
        let (old, mut new) = pair();
        drop(old);
        assert_eq!(new.receive(soon()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
