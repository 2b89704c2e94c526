//! One publisher to many subscribers, and many publishers to one. The next message begins when one has arrived.

use super::links::{self, Scene};
use crate::clock;
use crate::control::Count;
use crate::frame::{self, Head, Message, Publish};

/// Who subscribes here subscribes to this.
pub(super) const TOPIC: &str = "shared/news";

/// One to many. Link 0 publishes.
pub(super) struct Out {
    message: Message,
    subscribers: usize,
    window: u64,
    next: u64,
    /// How often the messages `next - window..next` have arrived, each at its number modulo the window.
    arrived: Vec<usize>,
    /// What each subscriber expects next.
    expected: Vec<u64>,
    going: bool,
}

impl Out {
    pub(super) fn new(subscribers: usize, window: usize, payload: usize) -> Self {
        Self {
            message: Message::new(TOPIC, payload),
            subscribers,
            window: window as u64,
            next: 0,
            arrived: vec![0; window],
            expected: vec![0; subscribers + 1],
            going: true,
        }
    }

    fn publish(&mut self, out: &mut links::Out, count: &mut Count) {
        out.push(0, self.message.numbered(clock::now(), self.next));
        self.next += 1;
        count.sent += self.subscribers as u64;
    }
}

impl Scene for Out {
    fn begin(&mut self, out: &mut links::Out, count: &mut Count) {
        for _ in 0..self.window {
            self.publish(out, count);
        }
    }

    fn frame(
        &mut self,
        link: usize,
        head: Head,
        frame: &[u8],
        now: u64,
        out: &mut links::Out,
        count: &mut Count,
    ) {
        let Some(Publish { number, .. }) = delivered(link, head, frame, now, count) else { return };
        if number != std::mem::replace(&mut self.expected[link], number + 1) {
            count.fault(|| format!("link {link}: number {number} is not the next"));
        }
        let arrived = &mut self.arrived[(number % self.window) as usize];
        *arrived += 1;
        if *arrived == self.subscribers {
            *arrived = 0;
            if self.going {
                self.publish(out, count);
            }
        }
    }

    fn stop(&mut self) {
        self.going = false;
    }
}

/// Many to one. Link 0 subscribes.
pub(super) struct In {
    /// By link, of which the first is not used.
    messages: Vec<Message>,
    window: usize,
    /// How many each has sent, and how many of these have arrived.
    sent: Vec<u64>,
    arrived: Vec<u64>,
    going: bool,
}

/// The number of a message is its publisher's place, and above it how many came before.
const PUBLISHER: u64 = 1 << 16;

impl In {
    pub(super) fn new(publishers: usize, window: usize, payload: usize) -> Self {
        let links = publishers + 1;
        Self {
            messages: vec![Message::new(TOPIC, payload); links],
            window,
            sent: vec![0; links],
            arrived: vec![0; links],
            going: true,
        }
    }

    fn publish(&mut self, publisher: usize, out: &mut links::Out, count: &mut Count) {
        let number = publisher as u64 + self.sent[publisher] * PUBLISHER;
        out.push(publisher, self.messages[publisher].numbered(clock::now(), number));
        self.sent[publisher] += 1;
        count.sent += 1;
    }
}

impl Scene for In {
    fn begin(&mut self, out: &mut links::Out, count: &mut Count) {
        for publisher in 1..self.messages.len() {
            for _ in 0..self.window {
                self.publish(publisher, out, count);
            }
        }
    }

    fn frame(
        &mut self,
        link: usize,
        head: Head,
        frame: &[u8],
        now: u64,
        out: &mut links::Out,
        count: &mut Count,
    ) {
        let Some(Publish { number, .. }) = delivered(link, head, frame, now, count) else { return };
        let publisher = (number % PUBLISHER) as usize;
        match self.arrived.get_mut(publisher) {
            Some(arrived) if *arrived == number / PUBLISHER => *arrived += 1,
            _ => count.fault(|| format!("number {number} is not its publisher's next")),
        }
        if self.going && publisher < self.messages.len() {
            self.publish(publisher, out, count);
        }
    }

    fn stop(&mut self) {
        self.going = false;
    }
}

/// Counts a delivery.
fn delivered<'a>(
    link: usize,
    head: Head,
    frame: &'a [u8],
    now: u64,
    count: &mut Count,
) -> Option<Publish<'a>> {
    let publish = frame::read_publish(frame, head.len).filter(|_| head.kind == frame::PUBLISH);
    match publish {
        Some(Publish { stamp: Some(stamp), .. }) => {
            count.messages += 1;
            count.latency.record(now.saturating_sub(stamp));
        }
        Some(_) | None => count.fault(|| format!("link {link}: {frame:02X?} instead of a delivery")),
    }
    publish
}
