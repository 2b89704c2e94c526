//! Connect, wait for CONNACK, disconnect, again and again: a blocking thread for each client.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Stream, Target, client_id, enter, wait_for_go};
use crate::control::{self, Count, Word};
use crate::{clock, frame};

/// A client that failed waits so long: faults are to be counted, not to be made by the thousand.
const AFTER_FAULT: Duration = Duration::from_millis(20);

pub(super) fn run(target: Target, clients: usize) -> anyhow::Result<()> {
    let words = control::words(|| {});
    wait_for_go(&words)?;
    let stop = Arc::new(AtomicBool::new(false));
    // Each client has a count of its own, so that none waits for another.
    let counts: Vec<_> = (0..clients).map(|_| Arc::new(Mutex::new(Count::default()))).collect();
    for (number, count) in counts.iter().enumerate() {
        let (count, stop) = (Arc::clone(count), Arc::clone(&stop));
        let connect = target.connect(&client_id(number));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let began = clock::now();
                let outcome = once(target, &connect);
                let took = clock::now() - began;
                let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
                count.sent += 1;
                match outcome {
                    Ok(answered) => {
                        count.messages += 1;
                        count.latency.record(answered - began);
                    }
                    Err(error) => {
                        count.fault(|| format!("after {took} ns: {error:#}"));
                        drop(count);
                        thread::sleep(AFTER_FAULT);
                    }
                }
            }
        });
    }
    loop {
        match words.recv()? {
            Word::Go | Word::Mark => {}
            Word::Stop => stop.store(true, Ordering::Relaxed),
            Word::End => return Ok(()),
        }
        let mut all = Count::default();
        for count in &counts {
            all.add(&mut count.lock().unwrap_or_else(PoisonError::into_inner));
        }
        control::say(&all.tally())?;
    }
}

/// One client's stay. When it was let in.
fn once(target: Target, connect: &[u8]) -> anyhow::Result<u64> {
    let mut stream = Stream::open(target)?;
    enter(&mut stream, connect)?;
    let answered = clock::now();
    stream.write_all(frame::fixed::DISCONNECT)?;
    Ok(answered)
}
