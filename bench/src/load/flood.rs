//! QoS 0 as fast as it is taken: a blocking thread for each link, many messages to a write.

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::{Stream, Target, connect_all, own_topic, wait_for_go};
use crate::clock;
use crate::control::{self, Count, Word};
use crate::frame::Message;

/// Bytes of a write, unless one message is longer.
const WRITE: usize = 64 << 10;

struct Flood {
    sent: AtomicU64,
    stop: AtomicBool,
    faults: Mutex<Vec<String>>,
}

pub(super) fn run(target: Target, links: usize, payload: usize) -> anyhow::Result<()> {
    let streams = connect_all(target, links)?;
    let words = control::words(|| {});
    wait_for_go(&words)?;

    let flood = Arc::new(Flood { sent: 0.into(), stop: false.into(), faults: Mutex::default() });
    for (link, stream) in streams.into_iter().enumerate() {
        let flood = Arc::clone(&flood);
        let message = Message::new(&own_topic(link), payload);
        // They end with the process, which may have to end while the other side does not read.
        thread::spawn(move || flood.publish(stream, message));
    }
    let mut count = Count::of(links);
    loop {
        match words.recv()? {
            Word::Go => {}
            Word::Mark => {}
            Word::Stop => flood.stop.store(true, Ordering::Relaxed),
            Word::End => return Ok(()),
        }
        for fault in flood.faults.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            count.fault(|| fault);
        }
        count.sent = flood.sent.load(Ordering::Relaxed);
        control::say(&count.tally())?;
    }
}

impl Flood {
    fn publish(&self, mut stream: Stream, mut message: Message) {
        let Stream { tcp, coat, .. } = &mut stream;
        let times = (WRITE / message.len()).max(1);
        let mut bytes = message.repeated(times);
        while !self.stop.load(Ordering::Relaxed) {
            message.restamp(&mut bytes, clock::now());
            if let Err(error) = coat.wrap(&bytes).and_then(|wire| self.write(tcp, wire)) {
                self.faults
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(format!("publisher: {error}"));
                return;
            }
            self.sent.fetch_add(times as u64, Ordering::Relaxed);
        }
        // Stays open until the process ends: what is on its way is to arrive.
        loop {
            thread::park();
        }
    }

    /// All of it, however long that takes: a policy service may be slow.
    fn write(&self, stream: &mut TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.stop.load(Ordering::Relaxed) => {
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
