//! rustls without a socket and without buffers of its own: records in, records out. What is kept between two calls is
//! the beginning of a record, plaintext that nobody had room for, and records that were not written yet; each of them
//! only while there is any.

use std::fmt;
use std::mem;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error};
use tokio::io::ReadBuf;

/// One TLS connection.
#[derive(Debug)]
pub(super) struct Engine {
    /// Boxed: a kilobyte that need not move with its stream.
    side: Box<TlsRole>,
    /// Ciphertext that could not be taken yet: a record that is not whole, or whole ones while `plain` waits.
    pub(super) raw: Vec<u8>,
    /// Plaintext that the reader had no room for; what is before `.1` has been read.
    plain: (Vec<u8>, usize),
    /// Records to be written; what is before `.1` has been.
    unsent: (Vec<u8>, usize),
    /// `raw` may hold whole records: whoever read had no room for more.
    pub(super) backlog: bool,
    /// The peer has said that nothing more comes.
    pub(super) peer_closed: bool,
    /// We have.
    said_goodbye: bool,
    /// rustls has given up. It is not asked again.
    failed: bool,
    /// What the bytes that it gave up at begin with.
    first: [u8; 4],
}

pub(super) enum TlsRole {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl fmt::Debug for TlsRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client(_) => "Client",
            Self::Server(_) => "Server",
        })
    }
}

/// What both sides have in common, which rustls gives no name.
trait RecordLayer {
    type Data;

    fn records<'c, 'i>(&'c mut self, raw: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Whether the next thing that rustls has is something to be sent.
    fn has_to_send(&self) -> bool;
}

impl RecordLayer for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn records<'c, 'i>(&'c mut self, raw: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(raw)
    }

    fn has_to_send(&self) -> bool {
        self.wants_write()
    }
}

impl RecordLayer for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn records<'c, 'i>(&'c mut self, raw: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(raw)
    }

    fn has_to_send(&self) -> bool {
        self.wants_write()
    }
}

impl Engine {
    pub(super) fn new(side: TlsRole) -> Self {
        Self {
            side: Box::new(side),
            raw: Vec::new(),
            plain: (Vec::new(), 0),
            unsent: (Vec::new(), 0),
            backlog: false,
            peer_closed: false,
            said_goodbye: false,
            failed: false,
            first: [0; 4],
        }
    }

    pub(super) fn state(&self) -> &CommonState {
        match &*self.side {
            TlsRole::Client(connection) => connection,
            TlsRole::Server(connection) => connection,
        }
    }

    pub(super) fn said_goodbye(&self) -> bool {
        self.said_goodbye
    }

    /// What the bytes begin with that rustls gave up at.
    pub(super) fn first(&self) -> &[u8] {
        &self.first
    }

    /// Bytes that it holds beside rustls's state.
    pub(super) fn held_bytes(&self) -> usize {
        self.raw.len() + self.plain.0.len() + self.unsent.0.len()
    }

    /// Whether a read would bring something, or send something, though nothing more came.
    pub(super) fn has_work(&self) -> bool {
        let waits = self.backlog || !self.plain.0.is_empty() || !self.unsent.0.is_empty();
        waits || self.peer_closed || self.failed
    }

    /// Whether there is any use in going on.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.failed { Err(Error::General("the connection has failed before".to_owned())) } else { Ok(()) }
    }

    /// Takes ciphertext: plaintext goes to `to`, and what does not fit there waits; the rest of `raw` is kept. Alerts
    /// and answers of the protocol are unsent afterwards, also after an error.
    pub(super) fn take(&mut self, raw: &mut [u8], to: Option<&mut ReadBuf<'_>>) -> Result<(), Error> {
        self.check()?;
        // Before rustls, which decrypts in place.
        let first = raw.first_chunk().copied();
        let mut out = Out { to, rest: &mut self.plain.0 };
        let unsent = &mut self.unsent.0;
        let pumped = match &mut *self.side {
            TlsRole::Client(connection) => pump(connection, raw, unsent, &mut out),
            TlsRole::Server(connection) => pump(connection, raw, unsent, &mut out),
        };
        // From here on rustls is not asked again: it would want to send a second alert (ADR 0015).
        self.failed = pumped.is_err();
        if self.failed {
            self.first = first.unwrap_or_default();
        }
        let Pumped { taken, closed, full } = pumped?;
        self.peer_closed |= closed;
        self.backlog = full && taken < raw.len();
        // What comes after the end is nobody's.
        // Copied out of the pad, which is the next connection's in a moment.
        self.raw = if self.peer_closed { Vec::new() } else { raw[taken..].to_vec() };
        Ok(())
    }

    /// The same with what was kept, which is put together with what comes next.
    pub(super) fn take_kept(&mut self, to: Option<&mut ReadBuf<'_>>) -> Result<(), Error> {
        let mut raw = mem::take(&mut self.raw);
        self.take(&mut raw, to)
    }

    /// Reads plaintext that waits. Whether there was any.
    pub(super) fn read(&mut self, to: &mut ReadBuf<'_>) -> bool {
        let (bytes, read) = &mut self.plain;
        let n = (bytes.len() - *read).min(to.remaining());
        to.put_slice(&bytes[*read..*read + n]);
        *read += n;
        if *read == bytes.len() {
            // Let go of and not cleared: an idle connection holds no buffer.
            self.plain = (Vec::new(), 0);
        }
        n > 0
    }

    /// Encrypts into `records`; how many bytes that became. `None` when nothing more can be sent.
    pub(super) fn encrypt(&mut self, plain: &[u8], records: &mut [u8]) -> Result<Option<usize>, Error> {
        // rustls lets us write only once it has nothing to do itself.
        self.take_kept(None)?;
        let raw = &mut self.raw;
        let wrote = match &mut *self.side {
            TlsRole::Client(connection) => with_traffic(connection, raw, |mut on| on.encrypt(plain, records)),
            TlsRole::Server(connection) => with_traffic(connection, raw, |mut on| on.encrypt(plain, records)),
        };
        Ok(wrote.and_then(Result::ok))
    }

    /// Says `close_notify`, once.
    pub(super) fn goodbye(&mut self) {
        if mem::replace(&mut self.said_goodbye, true) || self.take_kept(None).is_err() {
            return;
        }
        // An alert, encrypted.
        let mut record = [0; 64];
        let raw = &mut self.raw;
        let wrote = match &mut *self.side {
            TlsRole::Client(connection) => {
                with_traffic(connection, raw, |mut on| on.queue_close_notify(&mut record))
            }
            TlsRole::Server(connection) => {
                with_traffic(connection, raw, |mut on| on.queue_close_notify(&mut record))
            }
        };
        if let Some(Ok(n)) = wrote {
            self.unsent.0.extend_from_slice(&record[..n]);
        }
    }

    pub(super) fn unsent(&self) -> &[u8] {
        &self.unsent.0[self.unsent.1..]
    }

    /// Puts records behind those that wait.
    pub(super) fn queue(&mut self, records: &[u8]) {
        self.unsent.0.extend_from_slice(records);
    }

    /// So many bytes of what waited have been written.
    pub(super) fn mark_written(&mut self, n: usize) {
        self.unsent.1 += n;
        debug_assert!(self.unsent.1 <= self.unsent.0.len(), "more was written than waited");
        if self.unsent.1 == self.unsent.0.len() {
            // As above: not a byte is kept for a connection that has nothing to send.
            self.unsent = (Vec::new(), 0);
        }
    }
}

/// Where plaintext goes.
struct Out<'a, 'b> {
    to: Option<&'a mut ReadBuf<'b>>,
    rest: &'a mut Vec<u8>,
}

impl Out<'_, '_> {
    fn put(&mut self, plain: &[u8]) {
        let mut rest = plain;
        // Behind what waits already: bytes must not overtake each other.
        if let Some(to) = &mut self.to
            && self.rest.is_empty()
        {
            let (front, behind) = plain.split_at(plain.len().min(to.remaining()));
            to.put_slice(front);
            rest = behind;
        }
        self.rest.extend_from_slice(rest);
    }

    /// Whoever reads has enough for now.
    fn is_full(&self) -> bool {
        self.to.as_ref().is_some_and(|to| to.remaining() == 0)
    }
}

struct Pumped {
    /// Bytes of the front that are done with.
    taken: usize,
    closed: bool,
    /// It stopped because there was no room for more plaintext.
    full: bool,
}

/// Lets rustls do all that it can do with these bytes.
fn pump<C: RecordLayer>(
    connection: &mut C,
    raw: &mut [u8],
    unsent: &mut Vec<u8>,
    out: &mut Out<'_, '_>,
) -> Result<Pumped, Error> {
    let mut pumped = Pumped { taken: 0, closed: false, full: false };
    loop {
        let UnbufferedStatus { mut discard, state, .. } = connection.records(&mut raw[pumped.taken..]);
        let mut waits = false;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    out.put(record.payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, unsent),
            // As good as sent: it waits in `unsent`, before which nothing else is written.
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => pumped.closed = true,
            // Early data is never allowed; every other state waits for one of us or for the peer.
            Ok(_) => waits = true,
            Err(error) => {
                alert(connection, unsent);
                return Err(error);
            }
        }
        pumped.taken += discard;
        pumped.full = !waits && out.is_full();
        if waits || pumped.full {
            return Ok(pumped);
        }
    }
}

/// After an error: what the peer is told about it. Not asked for more than that: rustls would fail anew.
fn alert<C: RecordLayer>(connection: &mut C, unsent: &mut Vec<u8>) {
    while connection.has_to_send() {
        match connection.records(&mut []).state {
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, unsent),
            _ => return,
        }
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, unsent: &mut Vec<u8>) {
    let start = unsent.len();
    // Asked with no room at all, it says how much it needs.
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut [])
    {
        unsent.resize(start + required_size, 0);
        let wrote = data.encode(&mut unsent[start..]).unwrap_or(0);
        unsent.truncate(start + wrote);
    }
}

/// Does something that needs nothing else to be done first.
fn with_traffic<C: RecordLayer, T>(
    connection: &mut C,
    raw: &mut [u8],
    act: impl FnOnce(WriteTraffic<'_, C::Data>) -> T,
) -> Option<T> {
    match connection.records(raw).state {
        Ok(ConnectionState::WriteTraffic(traffic)) => Some(act(traffic)),
        _ => None,
    }
}
