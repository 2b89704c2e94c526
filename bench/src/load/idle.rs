//! Connections that say nothing, but for a ping each in the time that is measured.

use std::time::Duration;

use super::links::{Out, Scene};
use crate::clock;
use crate::control::Count;
use crate::frame::{self, Head, fixed};

pub(super) struct Idle {
    /// When each has pinged last.
    pinged: Vec<u64>,
    next: usize,
    due: u64,
    period: u64,
    going: bool,
}

impl Idle {
    pub(super) fn new(links: usize, seconds: f64) -> Self {
        let period = (seconds * 1e9 / links as f64) as u64;
        Self { pinged: vec![0; links], next: 0, due: 0, period: period.max(1), going: false }
    }
}

impl Scene for Idle {
    fn begin(&mut self, _: &mut Out, _: &mut Count) {
        self.going = true;
        self.due = clock::now();
    }

    fn frame(&mut self, link: usize, head: Head, frame: &[u8], now: u64, _: &mut Out, count: &mut Count) {
        if head.kind != frame::PINGRESP {
            count.fault(|| format!("link {link}: {frame:02X?} instead of a PINGRESP"));
            return;
        }
        count.messages += 1;
        count.latency.record(now - self.pinged[link]);
    }

    fn tick(&mut self, now: u64, out: &mut Out, count: &mut Count) -> Option<Duration> {
        if !self.going {
            return None;
        }
        while self.due <= now {
            self.due += self.period;
            out.push(self.next, fixed::PINGREQ);
            self.pinged[self.next] = now;
            count.sent += 1;
            self.next = (self.next + 1) % self.pinged.len();
        }
        Some(Duration::from_nanos(self.due - now))
    }

    fn stop(&mut self) {
        self.going = false;
    }
}
