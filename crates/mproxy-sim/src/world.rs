//! The seeded simulator: a model client, a session, a model broker and a decider that answers when it likes. After
//! each step everything that arrived anywhere is held against what was sent and decided.
//!
//! [`run`] plays one seed and panics on the first thing that is not as it must be. The same seed plays the same game.

mod arrivals;
mod ends;
mod entrance;
mod owing;
mod setup;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mproxy_codec::packet::{Connack, Connect};
use mproxy_codec::{PacketType, Properties, PropertyEdit, PropertyId, QoS, ReasonCode, Value};
use mproxy_core::grant::GrantLimits;
use mproxy_core::policy::{Decision, FilterChange};
use mproxy_core::session::OnErrors;
use mproxy_core::{Limits, Side};

use self::entrance::Entrance;
use super::book::Book;
use super::fate::MAX_PACKET;
use super::model::{DENIED, Model, ModelPublish, Sent, What, ack, encode_bytes, is_swallowed, unsubscribe};
use super::path::{PacketPath, id_of};
use super::permits::Permits;
use super::rng::Rng;
use super::stage::Stage;

/// Plays one seed.
///
/// # Panics
/// Where the session breaks a promise. The message says which, and the seed.
pub fn run(seed: u64) {
    play(seed, false);
}

/// The same, and another process goes on with the session, again and again. Gives how often one did.
///
/// # Panics
/// As [`run`].
pub fn run_moving(seed: u64) -> usize {
    play(seed, true)
}

fn play(seed: u64, moves: bool) -> usize {
    let mut world = World::new(seed);
    world.moves = moves;
    if let Err(why) = world.play() {
        panic!("seed {seed}, step {}: {why}", world.steps);
    }
    world.moved
}

/// A SUBSCRIBE: its packet id, what it asked for, what was decided.
type PendingSubscribe = (u16, Vec<QoS>, Vec<Decision<FilterChange>>);

struct World {
    rng: Rng,
    stage: Stage,
    book: Arc<Mutex<Book>>,
    client: Model,
    broker: Model,
    up: PacketPath,
    down: PacketPath,
    /// Sent by each peer and not yet come to the session.
    wire: [Vec<u8>; 2],
    /// PUBACKs and PUBRECs in the order that the publishes of each peer ask for.
    order: [[VecDeque<u16>; 2]; 2],
    published: HashMap<String, Box<ModelPublish>>,
    /// By packet id: the codes of SUBACKs that wait for an UNSUBSCRIBE of the session's own.
    superseded: HashMap<u16, Vec<u8>>,
    /// What the client's topics are put behind at the broker; else empty.
    prefix: &'static str,
    /// How fast the client may send.
    rates: GrantLimits,
    /// When its rates began to count at the latest.
    since: Option<Instant>,
    messages_arrived: u64,
    bytes_arrived: u64,
    subscribed: HashMap<String, PendingSubscribe>,
    /// The filters of each SUBSCRIBE, as the client says them.
    filters: HashMap<String, Vec<String>>,
    permits: Permits,
    entrance: Entrance,
    on_error: OnErrors,
    limits: Limits,
    /// Something has happened that ends the session.
    ending: bool,
    /// It ended in such a way that all of that side's packets must still arrive.
    must_arrive: Option<Side>,
    /// The side that has said its last.
    silent: Option<Side>,
    /// It ended in such a way that the client must still get whatever the broker answers.
    answers: bool,
    /// It ended in such a way that whatever the broker answers must still be told of.
    accounted: bool,
    /// A refusal may do that.
    ends: bool,
    bytewise: bool,
    /// Another process goes on with the session, again and again.
    moves: bool,
    moved: usize,
    repeats: bool,
    told: [usize; 3],
    taken: usize,
    steps: usize,
}

impl World {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("the world is whole")
    }

    fn play(&mut self) -> Result<(), String> {
        self.open()?;
        let length = 20 + self.rng.below(400);
        let mut end_at = if self.rng.one_in(2) { self.rng.below(length) } else { length };
        // Up to 420 steps: long enough for lanes to fill and ids to wrap, short enough for tens of thousands of seeds in one run.
        while self.steps < length && !self.is_over() {
            if self.steps >= end_at {
                self.begin_to_end()?;
                end_at = usize::MAX;
            }
            self.step(true)?;
        }
        if self.ending && self.rng.one_in(3) {
            // Verdicts stay out, bytes stay on the wire.
            return self.close();
        }
        self.settle()?;
        if !self.ending {
            self.check_at_rest()?;
            self.begin_to_end()?;
            self.settle()?;
        }
        self.close()
    }

    /// CONNECT and CONNACK.
    fn open(&mut self) -> Result<(), String> {
        let version = self.client.version;
        let mut properties = Vec::new();
        if version.is_v5() {
            properties.push((PropertyId::MaximumPacketSize, Value::Four(MAX_PACKET)));
        }
        if version.is_v5() && self.rng.one_in(2) {
            self.broker.aliases = 4;
            properties.push((PropertyId::TopicAliasMaximum, Value::Two(4)));
        }
        let connect = Connect {
            version,
            bridge: false,
            clean_start: true,
            keep_alive: 0,
            properties: Properties::EMPTY,
            client_id: "c",
            will: None,
            username: None,
            password: None,
        };
        let bytes = encode_bytes(|out| connect.encode_with(&PropertyEdit::only(&properties), out));
        self.prepare_entrance();
        self.send(Side::Client, Sent { bytes, what: What::Plain });
        // Some do not wait for CONNACK.
        for _ in 0..if self.rng.one_in(3) { self.rng.below(6) } else { 0 } {
            self.speak(Side::Client)?;
        }
        self.enter()?;
        self.since = Some(self.stage.now);
        if !matches!(self.stage.session.phase_name(), "introduced" | "open") {
            return Ok(());
        }
        let mut properties = vec![
            (PropertyId::ReceiveMaximum, Value::Two(10)),
            (PropertyId::MaximumPacketSize, Value::Four(MAX_PACKET)),
        ];
        if self.rng.one_in(2) {
            self.client.aliases = 4;
            properties.push((PropertyId::TopicAliasMaximum, Value::Two(4)));
        }
        let properties = if version.is_v5() { &properties[..] } else { &[] };
        let edit = PropertyEdit::only(properties);
        let bytes = encode_bytes(|out| Connack::default().encode_with(version, &edit, out));
        // The draw is made in every version, so that a seed's game does not change with the version it drew.
        if !version.is_v5() {
            self.client.aliases = 0;
        }
        self.send(Side::Broker, Sent { bytes, what: What::Plain });
        Ok(())
    }

    /// One thing happens.
    fn step(&mut self, fresh: bool) -> Result<(), String> {
        self.steps += 1;
        let speaking = fresh && !self.ending;
        match self.rng.below(12) {
            0..=2 if speaking => self.speak(Side::Client)?,
            3 if speaking => self.speak(Side::Broker)?,
            4 => self.reply(Side::Client)?,
            5 => self.reply(Side::Broker)?,
            6 | 7 => self.decide(),
            8 if self.is_paced() => self.stage.pass(Duration::from_millis(self.rng.below(400) as u64)),
            8 if self.ending => self.stage.pass(Duration::from_millis(1)),
            8 => self.stage.pass(Duration::from_millis(self.rng.below(20) as u64)),
            9 => self.carry(Side::Client),
            10 => self.carry(Side::Broker),
            _ => {
                self.carry(Side::Client);
                self.carry(Side::Broker);
            }
        }
        if self.moves && self.rng.one_in(6) {
            self.hand_over();
        }
        self.look()
    }

    /// Another process goes on with the session.
    fn hand_over(&mut self) {
        // Before it asks anew: what was asked before has an answer, or never gets one.
        let open = std::mem::take(&mut self.book().open);
        if self.stage.hand_over().is_err() {
            self.book().open = open;
        } else {
            self.moved += 1;
        }
    }

    fn speak(&mut self, side: Side) -> Result<(), String> {
        let (ends, rng) = (self.ends, &mut self.rng);
        let model = if side == Side::Client { &mut self.client } else { &mut self.broker };
        if let Some(sent) = model.begin(rng, ends) {
            self.send(side, sent);
        }
        Ok(())
    }

    fn reply(&mut self, side: Side) -> Result<(), String> {
        if self.silent == Some(side) {
            return Ok(());
        }
        let model = if side == Side::Client { &mut self.client } else { &mut self.broker };
        if let Some(sent) = model.answer(&mut self.rng) {
            self.taken += usize::from(side == Side::Broker && says_taken(&sent.bytes));
            if let What::Release { id, ours: true } = sent.what {
                let done = ack(model.version, PacketType::Pubcomp, id, ReasonCode::SUCCESS);
                self.path_to(side).owed.push(done);
            }
            self.send(side, sent);
        }
        Ok(())
    }

    /// A peer has sent something.
    fn send(&mut self, side: Side, sent: Sent) {
        match &sent.what {
            What::Publish(message) => {
                let topic = match side {
                    Side::Client => &message.topic,
                    Side::Broker => message.topic.strip_prefix(self.prefix).unwrap_or(&message.topic),
                };
                let topic = topic.to_owned();
                self.book().verdicts.insert(message.key.clone(), (message.fate.verdict(), Some(topic)));
                self.repeats |= message.dup;
                if !message.dup {
                    if let Some(id) = message.id
                        && !is_swallowed(side, message)
                    {
                        self.order[side as usize][message.qos as usize - 1].push_back(id.get());
                    }
                    self.published.insert(message.key.clone(), message.clone());
                }
                if message.outside || message.topic.starts_with(DENIED) {
                    self.owe_publish(&message.clone());
                }
            }
            What::Subscribe { key, id, filters, fate } => {
                let outcome = fate.outcome(filters.len(), self.up.subscribes_open);
                self.book().verdicts.insert(key.clone(), (fate.verdict(), None));
                let qos = filters.iter().map(|(_, qos)| *qos).collect();
                self.subscribed.retain(|_, (other, ..)| other != id);
                let names = filters.iter().map(|(filter, _)| filter.clone()).collect();
                self.filters.insert(key.clone(), names);
                self.subscribed.insert(key.clone(), (*id, qos, outcome));
            }
            What::Superseded { id, codes, names } => {
                self.up.owed.push(unsubscribe(self.client.version, id_of(*id), names));
                self.superseded.insert(*id, codes.clone());
            }
            What::Unsubscribe { .. } | What::Suback { .. } | What::Release { .. } | What::Plain => {}
        }
        self.wire[side as usize].extend_from_slice(&sent.bytes);
        self.path_from(side).sent.push_back(sent);
    }

    /// Some bytes of what a peer has sent reach the session.
    fn carry(&mut self, side: Side) {
        let wire = &mut self.wire[side as usize];
        if wire.is_empty() {
            return;
        }
        // Bytes come as TCP cuts them: single ones, halves of headers, several packets at once.
        let n = match self.rng.below(4) {
            _ if self.bytewise && wire.len() < 2_000 => 1,
            0 => 1 + self.rng.below(wire.len().min(8)),
            1 => 1 + self.rng.below(wire.len()),
            _ => wire.len(),
        };
        let bytes: Vec<u8> = wire.drain(..n).collect();
        self.stage.sends(side, &bytes);
    }

    /// Whether the client waits until it is within its rates again.
    fn is_paced(&self) -> bool {
        self.rates != GrantLimits::default()
            && self.stage.session.phase_name() == "open"
            && self.stage.unread(Side::Client) > 0
            && self.stage.session.poll_timeout().is_some()
    }

    fn is_over(&self) -> bool {
        self.stage.done().is_some()
    }

    fn path_to(&mut self, side: Side) -> &mut PacketPath {
        match side {
            Side::Client => &mut self.down,
            Side::Broker => &mut self.up,
        }
    }

    fn path_from(&mut self, side: Side) -> &mut PacketPath {
        self.path_to(side.other())
    }
}

/// Whether these bytes of the broker's say that it has taken a publish.
fn says_taken(bytes: &[u8]) -> bool {
    // A PUBACK or PUBREC whose reason code is an error has not taken it, and nothing is told of it.
    matches!(bytes, [0x40 | 0x50, _, _, _] | [0x40 | 0x50, _, _, _, 0..0x80, ..])
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_same_seed_plays_the_same_game() {
        super::run(1);
        super::run(1);
    }
}
