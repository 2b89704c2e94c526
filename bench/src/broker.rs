//! The stand-in broker: takes everybody, acknowledges QoS 1, answers pings, and hands a message to those who
//! subscribed to just its topic. One thread and one epoll loop; it decodes no more of a packet than that takes.
//! On its one port it speaks WebSocket with those who begin with it.
//!
//! It keeps no queue that its clients do not bound: publishers to a topic with subscribers have a window, and a
//! connection whose output grows beyond [`WAITING`] all the same is closed and told of as a fault.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context as _, bail};
use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use slab::Slab;

use crate::control::{self, Count, Tally, Word};
use crate::edge::Until;
use crate::websocket::{self, Unframe};
use crate::{clock, frame};

const LISTENER: Token = Token(usize::MAX);
const WORD: Token = Token(usize::MAX - 1);
const SOCKET: Token = Token(usize::MAX - 2);

/// What one read takes at most.
const CHUNK: usize = 128 << 10;

/// Reads from one connection before the others get their turn.
const READS: usize = 4;

/// A frame that is longer is not gathered, but counted as it passes. Less than [`CHUNK`].
const LARGE: usize = 32 << 10;

/// Of a large frame, so much is gathered, to see topic and time.
const SEEN: usize = 512;

/// Bytes that may wait to be written to one connection.
const WAITING: usize = 16 << 20;

/// Listens at a free port, and at this Unix socket.
pub(crate) fn run(socket: &Path) -> anyhow::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let path = socket;
    let mut socket = UnixListener::bind(path)?;
    // Workers of an nginx that root has started are nobody.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    poll.registry().register(&mut socket, SOCKET, Interest::READABLE)?;
    let waker = Arc::new(Waker::new(poll.registry(), WORD)?);
    // Kept here, too: if the one who wakes closed it, its last call would be lost.
    let waking = Arc::clone(&waker);
    let words = control::words(move || {
        // Where it cannot be woken it sees the word with the next event.
        let _ = waking.wake();
    });
    control::say(&Tally { port: listener.local_addr()?.port(), ..Tally::default() })?;

    let mut broker = Broker::default();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; CHUNK];
    let mut again: Vec<(usize, Until)> = Vec::new();
    loop {
        let timeout = (!again.is_empty()).then_some(Duration::ZERO);
        if let Err(error) = poll.poll(&mut events, timeout) {
            if error.kind() == ErrorKind::Interrupted {
                continue;
            }
            return Err(error.into());
        }
        let mut ready = std::mem::take(&mut again);
        for event in &events {
            match event.token() {
                LISTENER => broker.accept(&poll, || {
                    let (stream, _) = listener.accept()?;
                    stream.set_nodelay(true)?;
                    Ok(Stream::Tcp(stream))
                })?,
                SOCKET => broker.accept(&poll, || Ok(Stream::Unix(socket.accept()?.0)))?,
                WORD => {
                    if broker.told(&words)? == Word::End {
                        return Ok(());
                    }
                }
                Token(link) => {
                    if event.is_writable() {
                        broker.write(link);
                    }
                    if event.is_readable() {
                        ready.push((link, Until::of(event)));
                    }
                }
            }
        }
        for (link, until) in ready {
            if broker.read(link, until, &mut buffer) == More::Perhaps {
                again.push((link, until));
            }
            broker.write_dirty();
        }
    }
}

#[derive(Default)]
struct Broker {
    links: Slab<Link>,
    /// Who gets what is published to a topic.
    subscribers: HashMap<Vec<u8>, Vec<usize>>,
    /// Links with something new to write.
    dirty: Vec<usize>,
    count: Count,
}

struct Link {
    stream: Stream,
    speaks: Speaks,
    /// The beginning of a frame.
    rest: Vec<u8>,
    passing: Option<Passing>,
    out: Vec<u8>,
    topics: Vec<Vec<u8>>,
}

/// What the client, or a proxy in between, came by.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.source().register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.source().reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.source().deregister(registry)
    }
}

impl io::Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a client speaks.
enum Speaks {
    /// It has not said anything.
    Nothing,
    Mqtt,
    WebSocket(Unframe),
}

/// A large frame of which more is to come.
struct Passing {
    left: usize,
    stamp: Option<u64>,
}

/// Whether there may be more to read, without another event to say so.
#[derive(PartialEq, Eq)]
enum More {
    Perhaps,
    No,
}

impl Broker {
    fn accept(&mut self, poll: &Poll, next: impl Fn() -> io::Result<Stream>) -> anyhow::Result<()> {
        loop {
            let mut stream = match next() {
                Ok(stream) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error).context("the stand-in broker cannot accept"),
            };
            let entry = self.links.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(entry.key()), interest)?;
            entry.insert(Link {
                stream,
                speaks: Speaks::Nothing,
                rest: vec![],
                passing: None,
                out: vec![],
                topics: vec![],
            });
            self.count.open += 1;
        }
    }

    fn told(&mut self, words: &Receiver<Word>) -> anyhow::Result<Word> {
        while let Ok(word) = words.try_recv() {
            if word == Word::End {
                return Ok(word);
            }
            control::say(&self.count.tally())?;
        }
        Ok(Word::Mark)
    }

    fn read(&mut self, link: usize, until: Until, buffer: &mut [u8]) -> More {
        for _ in 0..READS {
            let Some(Link { stream, rest, .. }) = self.links.get_mut(link) else { return More::No };
            let kept = rest.len();
            buffer[..kept].copy_from_slice(rest);
            rest.clear();
            let room = buffer.len() - kept;
            let came = match stream.read(&mut buffer[kept..]) {
                Ok(0) => {
                    self.close(link);
                    return More::No;
                }
                Ok(came) => came,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    rest.extend(&buffer[..kept]);
                    return More::No;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    self.close(link);
                    return More::No;
                }
                Err(error) => {
                    self.fault(link, || format!("read: {error}"));
                    return More::No;
                }
            };
            if let Err(error) = self.came(link, &mut buffer[..kept + came], kept) {
                self.fault(link, || format!("{error:#}"));
                return More::No;
            }
            if came < room && until == Until::Short {
                return More::No;
            }
        }
        More::Perhaps
    }

    /// What came, behind so many bytes that were kept.
    fn came(&mut self, link: usize, bytes: &mut [u8], kept: usize) -> anyhow::Result<()> {
        let Some(Link { speaks, rest, out, .. }) = self.links.get_mut(link) else { return Ok(()) };
        let mut whole = bytes.len();
        let mut is_closed = false;
        match speaks {
            Speaks::Mqtt => {}
            Speaks::WebSocket(frames) => {
                whole = kept + frames.take(&mut bytes[kept..])?;
                is_closed = frames.is_closed;
            }
            Speaks::Nothing if !websocket::is_request(bytes) => *speaks = Speaks::Mqtt,
            Speaks::Nothing => {
                match websocket::answer(bytes)? {
                    None => rest.extend_from_slice(bytes),
                    Some(answer) => {
                        mark(out, &mut self.dirty, link);
                        out.extend(answer);
                        *speaks = Speaks::WebSocket(Unframe::default());
                    }
                }
                return Ok(());
            }
        }
        self.take(link, &bytes[..whole])?;
        if is_closed {
            self.close(link);
        }
        Ok(())
    }

    /// Does what these bytes ask for, and keeps what is no whole frame yet.
    fn take(&mut self, link: usize, mut bytes: &[u8]) -> anyhow::Result<()> {
        let now = clock::now();
        if let Some(passing) = self.links.get_mut(link).and_then(|link| link.passing.take()) {
            bytes = self.pass(link, passing, bytes, now);
        }
        while let Some(head) = frame::head(bytes)? {
            if let Some((frame, rest)) = bytes.split_at_checked(head.total) {
                if head.kind == frame::DISCONNECT {
                    self.close(link);
                    return Ok(());
                }
                self.frame(link, head, frame, now)?;
                bytes = rest;
            } else if head.total > LARGE && bytes.len() >= SEEN {
                let publish = frame::read_publish(bytes, head.len);
                let Some(publish) = publish.filter(|_| head.kind == frame::PUBLISH) else {
                    bail!("a large packet that is no PUBLISH");
                };
                if publish.packet_id.is_some() || self.subscribers.contains_key(publish.topic) {
                    bail!("a large PUBLISH that asks for more than to be counted");
                }
                let passing = Passing { left: head.total, stamp: publish.stamp };
                bytes = self.pass(link, passing, bytes, now);
            } else {
                break;
            }
        }
        if let Some(link) = self.links.get_mut(link) {
            link.rest.extend(bytes);
        }
        Ok(())
    }

    /// What follows the large frame.
    fn pass<'a>(&mut self, link: usize, mut passing: Passing, bytes: &'a [u8], now: u64) -> &'a [u8] {
        let (gone, rest) = bytes.split_at(passing.left.min(bytes.len()));
        passing.left -= gone.len();
        if passing.left == 0 {
            self.arrived(passing.stamp, now);
        } else if let Some(link) = self.links.get_mut(link) {
            link.passing = Some(passing);
        }
        rest
    }

    fn arrived(&mut self, stamp: Option<u64>, now: u64) {
        self.count.messages += 1;
        if let Some(stamp) = stamp {
            self.count.latency.record(now.saturating_sub(stamp));
        }
    }

    fn frame(&mut self, link: usize, head: frame::Head, frame: &[u8], now: u64) -> anyhow::Result<()> {
        match head.kind {
            frame::PUBLISH => {
                let publish = frame::read_publish(frame, head.len).context("a PUBLISH without its number")?;
                self.arrived(publish.stamp, now);
                if let Some(packet_id) = publish.packet_id {
                    self.send(link, &frame::puback(packet_id));
                }
                if !self.subscribers.is_empty()
                    && let Some(subscribers) = self.subscribers.get(publish.topic)
                {
                    for &subscriber in subscribers {
                        if let Some(to) = self.links.get_mut(subscriber) {
                            to.send(&mut self.dirty, subscriber, frame);
                        }
                    }
                }
            }
            frame::CONNECT => {
                self.count.sent += 1;
                self.send(link, frame::fixed::CONNACK);
            }
            frame::SUBSCRIBE => {
                let body = &frame[head.len..];
                let (packet_id, filter) = body.split_first_chunk::<2>().context("a SUBSCRIBE without id")?;
                let topic = filter.get(2..filter.len() - 1).context("a SUBSCRIBE without filter")?.to_vec();
                self.subscribers.entry(topic.clone()).or_default().push(link);
                if let Some(link) = self.links.get_mut(link) {
                    link.topics.push(topic);
                }
                self.send(link, &frame::suback(*packet_id));
            }
            frame::PINGREQ => self.send(link, frame::fixed::PINGRESP),
            frame::PUBACK => {}
            kind => bail!("a packet of type {kind}, which no client sends here"),
        }
        Ok(())
    }

    fn send(&mut self, link: usize, bytes: &[u8]) {
        if let Some(to) = self.links.get_mut(link) {
            to.send(&mut self.dirty, link, bytes);
        }
    }

    fn write_dirty(&mut self) {
        while let Some(link) = self.dirty.pop() {
            self.write(link);
        }
    }

    fn write(&mut self, link: usize) {
        let Some(Link { stream, out, .. }) = self.links.get_mut(link) else { return };
        let mut written = 0;
        let outcome = loop {
            if written == out.len() {
                break Ok(());
            }
            match stream.write(&out[written..]) {
                Ok(gone) => written += gone,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        out.drain(..written);
        match outcome {
            Err(error) if gone(&error) => self.close(link),
            Err(error) => self.fault(link, || format!("write: {error}")),
            Ok(()) if out.len() > WAITING => self.fault(link, || "it does not read".to_owned()),
            Ok(()) => {}
        }
    }

    fn fault(&mut self, link: usize, what: impl FnOnce() -> String) {
        self.count.fault(|| format!("broker: {}", what()));
        self.close(link);
    }

    fn close(&mut self, link: usize) {
        // Closing the socket takes it out of epoll.
        let Some(gone) = self.links.try_remove(link) else { return };
        self.count.open -= 1;
        for topic in gone.topics {
            if let Some(subscribers) = self.subscribers.get_mut(&topic) {
                subscribers.retain(|&other| other != link);
                if subscribers.is_empty() {
                    self.subscribers.remove(&topic);
                }
            }
        }
    }
}

impl Link {
    /// A packet, in a frame of its own.
    fn send(&mut self, dirty: &mut Vec<usize>, link: usize, packet: &[u8]) {
        mark(&self.out, dirty, link);
        if let Speaks::WebSocket(_) = self.speaks {
            websocket::head(&mut self.out, packet.len(), None);
        }
        self.out.extend_from_slice(packet);
    }
}

/// It has something new to write, if nothing waited yet.
fn mark(out: &[u8], dirty: &mut Vec<usize>, link: usize) {
    if out.is_empty() {
        dirty.push(link);
    }
}

/// The other side left without waiting for us, which clients may.
fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
