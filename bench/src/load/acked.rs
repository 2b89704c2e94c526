//! QoS 1, each link with a window of messages that wait for their PUBACK.

use std::collections::VecDeque;

use super::links::{Out, Scene};
use super::own_topic;
use crate::clock;
use crate::control::Count;
use crate::frame::{self, Head, Message};

pub(super) struct Acked {
    publishers: Vec<Publisher>,
    window: usize,
    going: bool,
}

struct Publisher {
    message: Message,
    packet_id: u16,
    /// When those that wait for PUBACK were sent, the oldest first: PUBACKs come in order.
    waiting: VecDeque<(u16, u64)>,
    /// PUBACKs that came with this read.
    free: usize,
}

impl Acked {
    pub(super) fn new(links: usize, window: usize, payload: usize) -> Self {
        let publisher = |link| Publisher {
            message: Message::acknowledged(&own_topic(link), payload),
            packet_id: 0,
            waiting: VecDeque::with_capacity(window),
            free: window,
        };
        Self { publishers: (0..links).map(publisher).collect(), window, going: true }
    }

    fn fill(&mut self, link: usize, now: u64, out: &mut Out, count: &mut Count) {
        let publisher = &mut self.publishers[link];
        for _ in 0..std::mem::take(&mut publisher.free) {
            // From 1 on, never 0; the window is far smaller than the circle.
            publisher.packet_id = publisher.packet_id % u16::MAX + 1;
            publisher.waiting.push_back((publisher.packet_id, now));
            out.push(link, publisher.message.identified(now, publisher.packet_id));
            count.sent += 1;
        }
        debug_assert!(publisher.waiting.len() <= self.window);
    }
}

impl Scene for Acked {
    fn begin(&mut self, out: &mut Out, count: &mut Count) {
        for link in 0..self.publishers.len() {
            self.fill(link, clock::now(), out, count);
        }
    }

    fn frame(&mut self, link: usize, head: Head, frame: &[u8], now: u64, _: &mut Out, count: &mut Count) {
        let publisher = &mut self.publishers[link];
        let id = frame[head.len..].first_chunk().map(|id| u16::from_be_bytes(*id));
        match publisher.waiting.pop_front() {
            Some((expected, sent)) if head.kind == frame::PUBACK && id == Some(expected) => {
                count.messages += 1;
                count.latency.record(now - sent);
                publisher.free += 1;
            }
            other => count.fault(|| format!("link {link}: {frame:02X?} instead of a PUBACK for {other:?}")),
        }
    }

    fn read(&mut self, link: usize, now: u64, out: &mut Out, count: &mut Count) {
        if self.going {
            self.fill(link, now, out, count);
        }
    }

    fn stop(&mut self) {
        self.going = false;
    }
}
