//! QoS 0 at a steady rate, each message in a write of its own, over all links in turn. One in so many may be forbidden.

use std::sync::mpsc::TryRecvError;
use std::thread;
use std::time::Duration;

use super::{FORBIDDEN, Target, connect_all, own_topic, wait_for_go};
use crate::clock;
use crate::control::{self, Count, Word};
use crate::frame::{Message, fixed};

/// What was missed for longer than this is not made up for: it would be a flood.
const MADE_UP: u64 = 50_000_000;

pub(super) fn run(
    target: Target,
    links: usize,
    rate: u64,
    payload: usize,
    one_refused_in: Option<u64>,
) -> anyhow::Result<()> {
    let mut streams = connect_all(target, links)?;
    let mut messages: Vec<_> = (0..links).map(|link| Message::new(&own_topic(link), payload)).collect();
    let mut forbidden = Message::new(FORBIDDEN, payload);
    let mut count = Count::of(links);
    let words = control::words(|| {});
    wait_for_go(&words)?;

    let period = 1_000_000_000 / rate;
    let mut due = clock::now();
    let mut pacing = true;
    let mut link = 0;
    let mut turn = 0;
    loop {
        match words.try_recv() {
            Ok(Word::Mark) => control::say(&count.tally())?,
            Ok(Word::Stop) => {
                pacing = false;
                control::say(&count.tally())?;
            }
            Ok(Word::Go) | Err(TryRecvError::Empty) => {}
            Ok(Word::End) | Err(TryRecvError::Disconnected) => break,
        }
        let now = clock::now();
        if !pacing {
            thread::sleep(Duration::from_millis(1));
        } else if now < due {
            thread::sleep(Duration::from_nanos(due - now));
        } else {
            turn += 1;
            let refused = one_refused_in.is_some_and(|one_in| turn % one_in == 0);
            let message = if refused { &mut forbidden } else { &mut messages[link] };
            let sent = streams[link].write_all(message.stamped(now));
            if let Err(error) = sent {
                count.fault(|| format!("publisher {link}: {error}"));
                pacing = false;
                continue;
            }
            count.sent += u64::from(!refused);
            link = (link + 1) % links;
            due = (due + period).max(now.saturating_sub(MADE_UP));
        }
    }
    for stream in &mut streams {
        // Whoever has gone already needs no farewell.
        let _ = stream.write_all(fixed::DISCONNECT);
    }
    Ok(())
}
