//! Many connections in one epoll loop, for workloads that read. What they do is a [`Scene`].

use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use super::stream::{Coat, Stream};
use super::wait_for_go;
use crate::clock;
use crate::control::{self, Count, Word};
use crate::edge::Until;
use crate::frame::{self, Head};

const WORD: Token = Token(usize::MAX);

/// What one read takes at most; no answer of a workload is larger.
const CHUNK: usize = 128 << 10;

/// Reads from one connection before the others get their turn.
const READS: usize = 4;

/// What the connections of a workload do. Links are known by their place.
pub(super) trait Scene {
    /// The load begins.
    fn begin(&mut self, out: &mut Out, count: &mut Count);
    /// A whole frame came in.
    fn frame(&mut self, link: usize, head: Head, frame: &[u8], now: u64, out: &mut Out, count: &mut Count);
    /// All of what lay ready on this link has been seen.
    fn read(&mut self, _link: usize, _now: u64, _out: &mut Out, _count: &mut Count) {}
    /// Time passes. When to be called again, at the latest.
    fn tick(&mut self, _now: u64, _out: &mut Out, _count: &mut Count) -> Option<Duration> {
        None
    }
    /// Nothing new is to begin.
    fn stop(&mut self);
}

/// What is to be written, one write for each link and turn.
#[derive(Debug)]
pub(super) struct Out {
    waiting: Vec<Vec<u8>>,
    dirty: Vec<usize>,
}

impl Out {
    pub(super) fn push(&mut self, link: usize, bytes: &[u8]) {
        let waiting = &mut self.waiting[link];
        if waiting.is_empty() {
            self.dirty.push(link);
        }
        waiting.extend_from_slice(bytes);
    }
}

struct Links {
    poll: Poll,
    sockets: Vec<Socket>,
    out: Out,
    count: Count,
    buffer: Vec<u8>,
}

struct Socket {
    /// `None`: it was closed on us.
    stream: Option<TcpStream>,
    coat: Coat,
    /// The beginning of a frame.
    rest: Vec<u8>,
    /// Of what is to go over the wire, what was not taken.
    unsent: Vec<u8>,
}

/// Plays a scene until it is told to end.
pub(super) fn run(streams: Vec<Stream>, mut scene: impl Scene) -> anyhow::Result<()> {
    let mut links = Links::new(streams)?;
    let waker = Arc::new(Waker::new(links.poll.registry(), WORD)?);
    // Kept here, too: if the one who wakes closed it, its last call would be lost.
    let waking = Arc::clone(&waker);
    let words = control::words(move || {
        // Where it cannot be woken it sees the word with the next event.
        let _ = waking.wake();
    });
    wait_for_go(&words)?;
    scene.begin(&mut links.out, &mut links.count);
    let mut events = Events::with_capacity(1024);
    let mut again: Vec<(usize, Until)> = Vec::new();
    loop {
        let tick = scene.tick(clock::now(), &mut links.out, &mut links.count);
        links.write_dirty();
        let timeout = if again.is_empty() { tick } else { Some(Duration::ZERO) };
        if let Err(error) = links.poll.poll(&mut events, timeout)
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error).context("the load generator cannot wait");
        }
        let mut ready = std::mem::take(&mut again);
        for event in &events {
            match event.token() {
                WORD => {
                    for word in words.try_iter() {
                        match word {
                            Word::Go | Word::Mark => {}
                            Word::Stop => scene.stop(),
                            Word::End => {
                                links.leave();
                                return Ok(());
                            }
                        }
                        control::say(&links.count.tally())?;
                    }
                }
                Token(link) => {
                    if event.is_writable() {
                        links.write(link);
                    }
                    if event.is_readable() {
                        ready.push((link, Until::of(event)));
                    }
                }
            }
        }
        for (link, until) in ready {
            if links.read(link, until, &mut scene) {
                again.push((link, until));
            }
        }
    }
}

impl Links {
    fn new(streams: Vec<Stream>) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let mut sockets = Vec::with_capacity(streams.len());
        for (link, Stream { tcp, coat, plain }) in streams.into_iter().enumerate() {
            tcp.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(tcp);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(link), interest)?;
            sockets.push(Socket { stream: Some(stream), coat, rest: plain, unsent: vec![] });
        }
        let open = sockets.len();
        Ok(Self {
            poll,
            out: Out { waiting: vec![vec![]; open], dirty: vec![] },
            count: Count::of(open),
            sockets,
            buffer: vec![0; CHUNK],
        })
    }

    /// Whether there may be more, without another event to say so.
    fn read(&mut self, link: usize, until: Until, scene: &mut impl Scene) -> bool {
        for _ in 0..READS {
            let Socket { stream: Some(stream), coat, rest, .. } = &mut self.sockets[link] else {
                return false;
            };
            let came = match stream.read(&mut self.buffer) {
                Ok(0) => {
                    self.lost(link, || "closed by the other side".to_owned());
                    return false;
                }
                Ok(came) => came,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => {
                    self.lost(link, || error.to_string());
                    return false;
                }
            };
            let now = clock::now();
            let walked = coat.unwrap(&self.buffer[..came], rest).and_then(|()| {
                frame::walk(rest, |head, frame| {
                    scene.frame(link, head, frame, now, &mut self.out, &mut self.count);
                })
            });
            match walked {
                Ok(taken) => drop(rest.drain(..taken)),
                Err(error) => {
                    self.lost(link, || format!("{error:#}"));
                    return false;
                }
            }
            scene.read(link, now, &mut self.out, &mut self.count);
            if came < self.buffer.len() && until == Until::Short {
                return false;
            }
        }
        true
    }

    fn write_dirty(&mut self) {
        while let Some(link) = self.out.dirty.pop() {
            self.write(link);
        }
    }

    fn write(&mut self, link: usize) {
        let waiting = &mut self.out.waiting[link];
        let Socket { stream: Some(stream), coat, unsent, .. } = &mut self.sockets[link] else {
            waiting.clear();
            return;
        };
        let wrapped = if waiting.is_empty() { Ok(&[][..]) } else { coat.wrap(waiting) };
        let outcome = wrapped.and_then(|wire| {
            unsent.extend_from_slice(wire);
            let mut written = 0;
            while written < unsent.len() {
                match stream.write(&unsent[written..]) {
                    Ok(gone) => written += gone,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            unsent.drain(..written);
            Ok(())
        });
        waiting.clear();
        if let Err(error) = outcome {
            self.lost(link, || error.to_string());
        }
    }

    fn lost(&mut self, link: usize, how: impl FnOnce() -> String) {
        self.sockets[link].stream = None;
        self.count.open -= 1;
        self.count.fault(|| format!("link {link}: {}", how()));
    }

    /// Says goodbye on all links.
    fn leave(&mut self) {
        for Socket { stream, coat, .. } in &mut self.sockets {
            if let (Some(stream), Ok(wire)) = (stream, coat.wrap(frame::fixed::DISCONNECT)) {
                // Whoever has gone already needs no farewell.
                let _ = stream.write(wire);
            }
        }
    }
}
