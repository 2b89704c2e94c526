//! The seeded simulator: a model client, a session, a model broker and a decider that answers when it likes. After
//! each step everything that arrived anywhere is held against what was sent and decided.
//!
//! [`run`] plays one seed and panics on the first thing that is not as it must be. The same seed plays the same game.

mod arrivals;
mod ends;
mod entrance;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mproxy_codec::packet::{Connack, Connect};
use mproxy_codec::{PacketType, Properties, PropertyEdit, PropertyId, QoS, ReasonCode, Value, Version};
use mproxy_core::grant::{Grant, Mapping};
use mproxy_core::meter::{Meter, Outcome, Unmetered};
use mproxy_core::policy::{
    Action, Admission, Decision, Failure, FilterChange, Hook, OnError, Overload, Source, Unusable, Want,
};
use mproxy_core::rule::Effect;
use mproxy_core::session::OnErrors;
use mproxy_core::{Limits, Peer, Side};

use self::entrance::Entrance;
use super::book::{Book, CONNECT};
use super::fate::MAX_PACKET;
use super::model::{Message, Model, Sent, What, ack, encoded, suback, swallowed, unsubscribe};
use super::permits::Permits;
use super::rng::Rng;
use super::stage::{Setup, Stage};
use super::verdict::Verdict;
use super::way::{Way, all_refused, id_of};

/// Plays one seed.
///
/// # Panics
/// Where the session breaks a promise. The message says which, and the seed.
pub fn run(seed: u64) {
    let mut world = World::new(seed);
    if let Err(why) = world.play() {
        panic!("seed {seed}, step {}: {why}", world.steps);
    }
}

/// Wants to be told of each packet, and listens to nothing.
struct Traced;

impl Meter for Traced {
    fn packets(&self, _from: Side, _kind: PacketType, _packets: u64, _bytes: u64) {}
    fn decisions(&self, _hook: Hook, _source: Source, _outcome: Outcome, _count: u64) {}
    fn failed(&self, _hook: Hook, _failure: &Failure, _rule: OnError, _peer: &Peer) {}
    fn unusable(&self, _hook: Hook, _unusable: &Unusable, _peer: &Peer) {}
    fn overloaded(&self, _hook: Hook, _overload: &Overload, _peer: &Peer) {}

    fn traces(&self) -> bool {
        true
    }
}

/// A SUBSCRIBE: its packet id, what it asked for, what was decided.
type Subscribing = (u16, Vec<QoS>, Vec<Decision<FilterChange>>);

struct World {
    rng: Rng,
    stage: Stage,
    book: Arc<Mutex<Book>>,
    client: Model,
    broker: Model,
    up: Way,
    down: Way,
    /// Sent by each peer and not yet come to the session.
    wire: [Vec<u8>; 2],
    /// PUBACKs and PUBRECs in the order that the publishes of each peer ask for.
    order: [[VecDeque<u16>; 2]; 2],
    published: HashMap<String, Box<Message>>,
    /// By packet id: the codes of SUBACKs that wait for an UNSUBSCRIBE of the session's own.
    superseded: HashMap<u16, Vec<u8>>,
    /// What the client's topics are put behind at the broker; else empty.
    prefix: &'static str,
    subscribed: HashMap<String, Subscribing>,
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
    repeats: bool,
    told: [usize; 3],
    taken: usize,
    steps: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let version = *rng.pick(&Version::ALL);
        let book = Arc::new(Mutex::new(Book {
            rng: Rng::new(rng.any()),
            verdicts: HashMap::new(),
            connects: VecDeque::new(),
            connects_asked: 0,
            connects_said: Vec::new(),
            later: *rng.pick(&[0, 3, 7, 10]),
            open: Vec::new(),
            questions: 0,
            fresh: VecDeque::new(),
            answered: HashMap::new(),
            each: Vec::new(),
            wrong: None,
        }));
        let mut limits = Limits::default();
        if rng.one_in(2) {
            (limits.lane_packets, limits.lane_bytes) = (1 + rng.below(6), 1 + rng.below(500));
        }
        // In every other game all failed answers allow.
        let open = rng.one_in(2);
        let rule = |rng: &mut Rng| if open || rng.one_in(3) { OnError::Allow } else { OnError::Deny };
        let on_error = OnErrors {
            connect: rule(&mut rng),
            publish: rule(&mut rng),
            subscribe: rule(&mut rng),
            deliver: rule(&mut rng),
        };
        let entrance = Entrance::draw(&mut rng, &mut limits);
        let asking = book.clone();
        let mut stage = Setup {
            limits: limits.clone(),
            on_error,
            on_unavailable: entrance.on_unavailable,
            telling: *rng.pick(&[Want::Nothing, Want::Head, Want::Payload(100)]),
            // In some games each packet is traced, and none takes the fast path.
            meter: if seed % 4 == 3 { Arc::new(Traced) } else { Arc::new(Unmetered) },
            answering: Box::new(move |asked| asking.lock().expect("the world is whole").ask(asked)),
            ..Setup::default()
        }
        .stage();
        stage.stuck = [rng.one_in(4), rng.one_in(4)];
        let mut world = Self {
            stage,
            book,
            client: Model::new(Side::Client, version),
            broker: Model::new(Side::Broker, version),
            up: Way::new(Side::Broker, version),
            down: Way::new(Side::Client, version),
            wire: [Vec::new(), Vec::new()],
            order: Default::default(),
            published: HashMap::new(),
            superseded: HashMap::new(),
            prefix: "",
            subscribed: HashMap::new(),
            filters: HashMap::new(),
            permits: Permits::default(),
            entrance,
            on_error,
            limits,
            ending: false,
            must_arrive: None,
            silent: None,
            answers: false,
            accounted: true,
            ends: rng.one_in(3),
            bytewise: rng.one_in(8),
            repeats: false,
            told: [0; 3],
            taken: 0,
            steps: 0,
            rng,
        };
        world.up.open = on_error.publish == OnError::Allow;
        world.up.subscribes_open = on_error.subscribe == OnError::Allow;
        world.down.open = on_error.deliver == OnError::Allow;
        world.arrange();
        world
    }

    /// Who wants to be asked about what.
    fn arrange(&mut self) {
        let script = &self.stage.script;
        script.want(Hook::Publish, *self.rng.pick(&[Want::Head, Want::Payload(100), Want::Payload(1 << 20)]));
        self.up.decided = true;
        if self.rng.one_in(3) {
            self.prefix = "m/";
            (self.up.prefix, self.down.prefix, self.broker.prefix) = (self.prefix, self.prefix, self.prefix);
        }
        if self.rng.one_in(2) {
            script.want(Hook::Deliver, *self.rng.pick(&[Want::Head, Want::Payload(1 << 20)]));
            self.down.decided = true;
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("the world is whole")
    }

    fn play(&mut self) -> Result<(), String> {
        self.open()?;
        let length = 20 + self.rng.below(400);
        let mut end_at = if self.rng.one_in(2) { self.rng.below(length) } else { length };
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
            self.at_rest()?;
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
        let bytes = encoded(|out| connect.encode_with(&PropertyEdit::only(&properties), out));
        self.prepare_entrance();
        self.send(Side::Client, Sent { bytes, what: What::Plain });
        // Some do not wait for CONNACK.
        for _ in 0..if self.rng.one_in(3) { self.rng.below(6) } else { 0 } {
            self.speak(Side::Client)?;
        }
        self.enter()?;
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
        let bytes = encoded(|out| Connack::default().encode_with(version, &edit, out));
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
            8 if self.ending => self.stage.pass(Duration::from_millis(1)),
            8 => self.stage.pass(Duration::from_millis(self.rng.below(20) as u64)),
            9 => self.carry(Side::Client),
            10 => self.carry(Side::Broker),
            _ => {
                self.carry(Side::Client);
                self.carry(Side::Broker);
            }
        }
        self.look()
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
                self.way_to(side).owed.push(done);
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
                        && !swallowed(side, message)
                    {
                        self.order[side as usize][message.qos as usize - 1].push_back(id.get());
                    }
                    self.published.insert(message.key.clone(), message.clone());
                }
                if message.outside {
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
        self.way_from(side).sent.push_back(sent);
    }

    /// Some bytes of what a peer has sent reach the session.
    fn carry(&mut self, side: Side) {
        let wire = &mut self.wire[side as usize];
        if wire.is_empty() {
            return;
        }
        let n = match self.rng.below(4) {
            _ if self.bytewise && wire.len() < 2_000 => 1,
            0 => 1 + self.rng.below(wire.len().min(8)),
            1 => 1 + self.rng.below(wire.len()),
            _ => wire.len(),
        };
        let bytes: Vec<u8> = wire.drain(..n).collect();
        self.stage.sends(side, &bytes);
    }

    /// One of the open questions is answered.
    fn decide(&mut self) {
        let heard = self.stage.session.phase_name() == "admitting";
        let (n, verdict) = {
            let mut book = self.book();
            if book.open.is_empty() {
                return;
            }
            let at = {
                let len = book.open.len();
                book.rng.below(len)
            };
            let (n, key) = book.open.swap_remove(at);
            let verdict = match &*key {
                CONNECT => book.connect(),
                _ => {
                    let verdict = book.verdicts[&key].0.clone();
                    book.answer(key);
                    verdict
                }
            };
            if !heard {
                // It has been waited for long enough.
                book.connects_said.clear();
            }
            (n, verdict)
        };
        self.owe();
        let again = heard && matches!(verdict, Verdict::Failed(_) | Verdict::Overloaded(_));
        self.stage.rule(n, verdict);
        if again {
            // It has had its answer: another one to the same question counts for nothing.
            self.stage.allow_again(n);
        }
    }

    /// Refusals that were told make the session owe answers.
    fn owe(&mut self) {
        let open = self.on_error.connect == OnError::Allow;
        let said = std::mem::take(&mut self.book().connects_said);
        for verdict in said {
            self.permits.connect(&verdict, open);
            self.entrance.said(&verdict, open);
        }
        let each = std::mem::take(&mut self.book().each);
        for topic in each {
            self.permits.publish(&topic, self.prefix, &Verdict::allow(Hook::Publish), false);
        }
        loop {
            let Some(key) = self.book().fresh.pop_front() else { return };
            let version = self.client.version;
            self.permit(&key);
            if let Some((id, qos, outcome)) = self.subscribed.get(&key) {
                if all_refused(outcome) {
                    let codes = merged(version, qos, outcome);
                    let answer = suback(version, id_of(*id), &codes);
                    self.down.owed.push(answer);
                }
            } else if let Some(message) = self.published.get(&key).cloned() {
                self.owe_publish(&message);
            }
        }
    }

    /// Somebody has answered the question of this key.
    fn permit(&mut self, key: &str) {
        let Some((verdict, _)) = self.book().verdicts.get(key).cloned() else { return };
        if let Some(filters) = self.filters.get(key) {
            let open = self.on_error.subscribe == OnError::Allow;
            self.permits.subscribe(filters, self.prefix, &verdict, open);
        } else if let Some(message) = self.published.get(key).filter(|_| key.starts_with('u')) {
            let open = self.on_error.publish == OnError::Allow;
            self.permits.publish(&message.topic, self.prefix, &verdict, open);
        }
    }

    fn owe_publish(&mut self, message: &Message) {
        let version = self.client.version;
        let from = if message.key.starts_with('u') { Side::Client } else { Side::Broker };
        let Err(refusal) = message.fate.outcome(self.way_from(from).open) else { return };
        if refusal.action == Action::Disconnect {
            self.ending = true;
            self.must_arrive = None;
            self.answers = false;
            return;
        }
        let Some(id) = message.id else { return };
        let reason = match (refusal.action, from) {
            (Action::NoAck, Side::Client) => return,
            (Action::Reject, Side::Client) if version.is_v5() => refusal.reason,
            _ => ReasonCode::SUCCESS,
        };
        let kind = if message.qos == QoS::AtLeastOnce { PacketType::Puback } else { PacketType::Pubrec };
        let answer = ack(version, kind, id.get(), reason);
        self.way_to(from).owed.push(answer);
        let model = if from == Side::Client { &mut self.client } else { &mut self.broker };
        if let Some(flight) = model.flights.get_mut(&id.get()) {
            flight.ours = !reason.is_error();
        }
    }

    fn is_over(&self) -> bool {
        self.stage.done().is_some()
    }

    fn way_to(&mut self, side: Side) -> &mut Way {
        match side {
            Side::Client => &mut self.down,
            Side::Broker => &mut self.up,
        }
    }

    fn way_from(&mut self, side: Side) -> &mut Way {
        self.way_to(side.other())
    }
}

/// Whether these bytes of the broker's say that it has taken a publish.
fn says_taken(bytes: &[u8]) -> bool {
    matches!(bytes, [0x40 | 0x50, _, _, _] | [0x40 | 0x50, _, _, _, 0..0x80, ..])
}

/// Yes, with a grant that puts the client's topics behind this prefix.
fn mapped(prefix: &str) -> Verdict {
    let mut grant = Grant::new(Vec::new(), Effect::Ask);
    grant.mapping = Some(Mapping::new(prefix).expect("it is a prefix"));
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    Verdict::Connect(Decision::Allow(Some(Box::new(admission))))
}

/// The codes that a client must get, if the broker grants what it is asked for.
fn merged(version: Version, qos: &[QoS], outcome: &[Decision<FilterChange>]) -> Vec<u8> {
    qos.iter()
        .zip(outcome)
        .map(|(qos, one)| match one {
            Decision::Allow(change) => change.max_qos.map_or(*qos, |most| most.min(*qos)) as u8,
            Decision::Refuse(refusal) if version.is_v5() => refusal.reason.0,
            Decision::Refuse(_) => 0x80,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_same_seed_plays_the_same_game() {
        super::run(1);
        super::run(1);
    }
}
