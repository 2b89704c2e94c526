//! The seeded game of grants that are taken back: a client that subscribes and publishes, a broker that answers when it
//! likes and delivers what it still has in hand, and commands in between. Everything that reaches either side is held
//! against what must.
//!
//! [`run`] plays one seed and panics on the first thing that is not as it must be.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mproxy_codec::QoS;
use mproxy_core::Side;
use mproxy_core::command::{Selector, SessionCommand};
use mproxy_core::grant::Grant;
use mproxy_core::policy::{Admission, Decision, Hook, Want};
use mproxy_core::rule::{Act, Actions, Pattern, Retain, Rule, RuleEffect};

use crate::rng::Rng;
use crate::script::Reply;
use crate::stage::{Setup, Stage};
use crate::verdict::Verdict;
use crate::wire::{self, ConnectOptions, Publish, Version};

/// What is published and delivered.
const TOPICS: [&str; 5] = ["a", "b", "c", "d/1", "d/2"];

/// What is subscribed to, and allowed.
const FILTERS: [&str; 9] = ["a", "b", "c", "d/1", "d/2", "d/+", "d/#", "#", "$share/g/a"];

/// Packet ids of the client's: few, and those among them that mproxy would take for its own.
const IDS: [u16; 6] = [1, 2, 3, 65_533, 65_534, 65_535];

/// Plays one seed.
///
/// # Panics
/// Where the session breaks a promise. The message says which, and the seed.
pub fn run(seed: u64) {
    let mut game = Game::new(seed);
    for step in 0..20 + game.rng.below(200) {
        if let Err(why) = game.step() {
            panic!("seed {seed}, step {step}: {why}");
        }
    }
    if let Err(why) = game.finish() {
        panic!("seed {seed}, at the end: {why}");
    }
}

/// A packet of the client's.
#[derive(Clone, Debug)]
enum ClientPacket {
    Subscribe(u16, Vec<&'static str>),
    Unsubscribe(u16, Vec<&'static str>),
    Publish(u16, u8),
    /// An acknowledgement.
    Answer(Vec<u8>),
}

/// What the broker has to answer.
#[derive(Clone, Debug)]
enum OutstandingRequest {
    /// The client's; these bytes must reach it.
    Clients(Vec<u8>),
    /// mproxy's own; nothing must.
    Ours,
}

struct Game {
    rng: Rng,
    version: Version,
    stage: Stage,
    resumed: bool,
    /// What the grant in force allows to be subscribed to.
    allowed: Vec<&'static str>,
    /// Something was taken back, or may have been.
    revoked: bool,
    /// What the client has to say, and what of that has been sent and not taken yet.
    outbox: VecDeque<ClientPacket>,
    held: Option<ClientPacket>,
    in_use: BTreeSet<u16>,
    /// What the client has subscribed to and may have.
    subscribed: BTreeSet<&'static str>,
    /// What the broker knows, and what it has not answered yet.
    known: BTreeSet<String>,
    requests: BTreeMap<u16, OutstandingRequest>,
    releases: VecDeque<u16>,
    /// Ids whose PUBREL is still to come.
    released: BTreeSet<u16>,
    /// What must reach the broker, in this order, and the client, now.
    due: VecDeque<Vec<u8>>,
    codes: BTreeMap<u16, Vec<u8>>,
    owed: Vec<u8>,
    number: u32,
}

impl Game {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let version = *rng.pick(&[Version::V31, Version::V311, Version::V5]);
        let resumed = version != Version::V31 && rng.one_in(3);
        let allowed = draw_allowed(&mut rng);
        let admission = Admission { grant: Some(Arc::new(grant(&allowed))), ..Admission::default() };
        let verdict = Verdict::Connect(Decision::Allow(Some(Box::new(admission))));
        let mut stage = Setup {
            grants: true,
            telling: *rng.pick(&[Want::Nothing, Want::Head]),
            answering: Box::new(move |asked| match asked.hook {
                Hook::Connect => Reply::Now(verdict.clone()),
                hook => Reply::Now(Verdict::allow(hook)),
            }),
            ..Setup::default()
        }
        .stage();
        let options = ConnectOptions { clean: !resumed, ..ConnectOptions::default() };
        stage.client(&wire::connect(version, "c", &options));
        stage.broker(&wire::connack(version, resumed, 0, b""));
        stage.at_broker();
        stage.at_client();
        let known = if resumed {
            draw_allowed(&mut rng).into_iter().map(str::to_owned).collect()
        } else {
            BTreeSet::new()
        };
        Self {
            rng,
            version,
            stage,
            resumed,
            allowed,
            revoked: false,
            outbox: VecDeque::new(),
            held: None,
            in_use: BTreeSet::new(),
            subscribed: BTreeSet::new(),
            known,
            requests: BTreeMap::new(),
            releases: VecDeque::new(),
            released: BTreeSet::new(),
            due: VecDeque::new(),
            codes: BTreeMap::new(),
            owed: Vec::new(),
            number: 0,
        }
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.below(10) {
            0 | 1 => self.ask(),
            2..=4 => self.send(),
            5 | 6 => self.answer(),
            7 | 8 => self.deliver(),
            _ => self.replace()?,
        }
        self.look()
    }

    /// The client has something to say.
    fn ask(&mut self) {
        let Some(id) = self.free_id() else { return };
        let some =
            |rng: &mut Rng| (0..1 + rng.below(3)).map(|_| *rng.pick(&FILTERS)).collect::<BTreeSet<_>>();
        let sent = match self.rng.below(4) {
            0 | 1 => ClientPacket::Subscribe(id, some(&mut self.rng).into_iter().collect()),
            2 => ClientPacket::Unsubscribe(id, some(&mut self.rng).into_iter().collect()),
            _ => ClientPacket::Publish(id, 1 + self.rng.below(2) as u8),
        };
        self.in_use.insert(id);
        self.outbox.push_back(sent);
    }

    fn free_id(&mut self) -> Option<u16> {
        let free: Vec<u16> = IDS.into_iter().filter(|id| !self.in_use.contains(id)).collect();
        (!free.is_empty()).then(|| *self.rng.pick(&free))
    }

    /// The client says it, once what it said before was taken.
    fn send(&mut self) {
        if self.held.is_some() {
            return;
        }
        let Some(sent) = self.outbox.pop_front() else { return };
        let bytes = match &sent {
            ClientPacket::Subscribe(id, filters) => wire::subscribe(
                self.version,
                *id,
                &filters.iter().map(|filter| (*filter, 0)).collect::<Vec<_>>(),
            ),
            ClientPacket::Unsubscribe(id, filters) => wire::unsubscribe(self.version, *id, filters),
            ClientPacket::Publish(id, qos) => self.publish(*id, *qos),
            ClientPacket::Answer(bytes) => bytes.clone(),
        };
        // Bytes come in pieces; what they are is clear with the last one.
        let cut = self.rng.below(bytes.len());
        self.stage.client(&bytes[..cut]);
        self.stage.client(&bytes[cut..]);
        self.held = Some(sent);
        self.taken();
    }

    fn publish(&self, packet_id: u16, qos: u8) -> Vec<u8> {
        wire::publish(
            self.version,
            &Publish { topic: "up", payload: b"x", qos, packet_id, ..Publish::default() },
        )
    }

    /// What the client has said may have been taken by now: what follows.
    fn taken(&mut self) {
        if self.stage.unread(Side::Client) > 0 {
            return;
        }
        match self.held.take() {
            None => {}
            Some(ClientPacket::Subscribe(id, filters)) => {
                let no = if self.version == Version::V5 { 0x87 } else { 0x80 };
                let may: Vec<bool> = filters.iter().map(|filter| self.may(filter)).collect();
                let codes: Vec<u8> = may.iter().map(|may| if *may { 0 } else { no }).collect();
                let passing: Vec<_> =
                    filters.iter().zip(&may).filter(|(_, may)| **may).map(|(one, _)| (*one, 0)).collect();
                if passing.is_empty() {
                    self.owed.extend(wire::suback(self.version, id, &codes));
                    self.in_use.remove(&id);
                } else {
                    self.subscribed.extend(passing.iter().map(|(filter, _)| *filter));
                    self.due.push_back(wire::subscribe(self.version, id, &passing));
                    self.codes.insert(id, codes);
                }
            }
            Some(ClientPacket::Unsubscribe(id, filters)) => {
                filters.iter().for_each(|filter| {
                    self.subscribed.remove(filter);
                });
                self.due.push_back(wire::unsubscribe(self.version, id, &filters));
            }
            Some(ClientPacket::Publish(id, qos)) => self.due.push_back(self.publish(id, qos)),
            Some(ClientPacket::Answer(bytes)) if bytes[0] == 0x40 => {}
            Some(ClientPacket::Answer(bytes)) => self.due.push_back(bytes),
        }
    }

    fn may(&self, filter: &str) -> bool {
        self.allowed.iter().any(|allowed| covers(allowed, filter))
    }

    /// The broker answers something.
    fn answer(&mut self) {
        let waiting: Vec<u16> = self.requests.keys().copied().collect();
        let at = self.rng.below(waiting.len() + self.releases.len() + 1);
        if let Some(id) = waiting.get(at)
            && let Some(request) = self.requests.remove(id)
        {
            match request {
                OutstandingRequest::Clients(bytes) => {
                    if bytes[0] == 0x50 {
                        // The id is in use until PUBCOMP.
                        self.outbox.push_back(ClientPacket::Answer(wire::pubrel(*id)));
                        self.released.insert(*id);
                    } else {
                        self.in_use.remove(id);
                    }
                    // Of a SUBSCRIBE the broker knows what was asked of it alone.
                    let merged = self.codes.remove(id).map(|codes| wire::suback(self.version, *id, &codes));
                    self.owed.extend(merged.as_ref().unwrap_or(&bytes));
                    self.stage.broker(&bytes);
                }
                OutstandingRequest::Ours => {
                    let codes = [0; 16];
                    self.stage.broker(&wire::unsuback(self.version, *id, &codes[..1]));
                }
            }
        } else if let Some(id) = self.releases.pop_front() {
            self.in_use.remove(&id);
            self.owed.extend(wire::pubcomp(id));
            self.stage.broker(&wire::pubcomp(id));
        }
        self.taken();
    }

    /// The broker delivers something: what somebody subscribed to, or what it still had in hand.
    fn deliver(&mut self) {
        let topic = *self.rng.pick(&TOPICS);
        self.number += 1;
        let payload = self.number.to_be_bytes();
        let qos = self.rng.below(2) as u8;
        let packet_id = (self.number % 60_000) as u16 + 1;
        let delivery = Publish { topic, payload: &payload, qos, packet_id, ..Publish::default() };
        let bytes = wire::publish(self.version, &delivery);
        let explained =
            self.subscribed.iter().any(|filter| covers(filter, topic)) || self.resumed && self.may(topic);
        // What rules refuse does not come of an old session, from the start.
        if !(self.revoked || self.resumed) || explained {
            self.owed.extend(&bytes);
            if qos == 1 {
                self.outbox.push_back(ClientPacket::Answer(wire::puback(packet_id)));
            }
        }
        self.stage.broker(&bytes);
    }

    /// Another grant is in force.
    fn replace(&mut self) -> Result<(), String> {
        let allowed = if self.rng.one_in(5) { self.allowed.clone() } else { draw_allowed(&mut self.rng) };
        let changed = allowed != self.allowed;
        self.allowed = allowed;
        let kept: BTreeSet<_> = self.subscribed.iter().copied().filter(|filter| self.may(filter)).collect();
        let ended = self.subscribed.len() - kept.len();
        self.subscribed = kept;
        self.revoked |= ended > 0 || changed && self.resumed;
        let command = SessionCommand::ReplaceGrant(Some(Arc::new(grant(&self.allowed))));
        let reach = self.stage.command(Selector::ClientId("c".into()), command);
        if (reach.clients, reach.subscriptions) != (1, ended as u64) {
            return Err(format!("{reach:?}, but {ended} subscriptions had to end"));
        }
        Ok(())
    }

    /// What has reached either side is what had to.
    fn look(&mut self) -> Result<(), String> {
        for packet in wire::packets(&self.stage.at_broker()) {
            self.at_broker(&packet)?;
        }
        if let Some(missing) = self.due.front() {
            return Err(format!("{missing:02x?} has not reached the broker"));
        }
        let heard = self.stage.at_client();
        if heard != self.owed {
            return Err(format!("the client got {heard:02x?}, not {:02x?}", self.owed));
        }
        self.owed.clear();
        match self.stage.done() {
            Some(fault) => Err(format!("it has ended: {fault}")),
            None => Ok(()),
        }
    }

    fn at_broker(&mut self, packet: &[u8]) -> Result<(), String> {
        let ours = self.due.front().is_none_or(|due| due != packet);
        let id = match packet[0] {
            0x82 | 0xA2 => u16::from_be_bytes([packet[2], packet[3]]),
            0x32 | 0x34 => u16::from_be_bytes([packet[6], packet[7]]),
            0x62 => {
                self.due.pop_front();
                let id = u16::from_be_bytes([packet[2], packet[3]]);
                self.released.remove(&id);
                self.releases.push_back(id);
                return Ok(());
            }
            // Of deliveries.
            0x40 => return Ok(()),
            _ => return Err(format!("the broker got {packet:02x?}")),
        };
        if self.requests.contains_key(&id) || self.releases.contains(&id) || self.released.contains(&id) {
            return Err(format!("packet id {id} is in use, and the broker got {packet:02x?}"));
        }
        let filters = filters_of(packet, self.version);
        if ours {
            // What the client subscribes to again just behind it is subscribed to.
            let comes = |one: &String| {
                self.due.iter().any(|due| due[0] == 0x82 && filters_of(due, self.version).contains(one))
            };
            let ends = |one: &String| !self.subscribed.contains(&**one) || comes(one);
            let takes_back = packet[0] == 0xA2 && filters.iter().all(ends);
            if !takes_back {
                return Err(format!("nobody sent {packet:02x?} to the broker"));
            }
            filters.iter().for_each(|filter| {
                self.known.remove(filter);
            });
            self.requests.insert(id, OutstandingRequest::Ours);
            return Ok(());
        }
        self.due.pop_front();
        let answer = match packet[0] {
            0x82 => {
                let codes = vec![0; filters.len()];
                self.known.extend(filters);
                wire::suback(self.version, id, &codes)
            }
            0xA2 => {
                let codes = vec![0; filters.len()];
                filters.iter().for_each(|filter| {
                    self.known.remove(filter);
                });
                wire::unsuback(self.version, id, &codes)
            }
            0x32 => wire::puback(id),
            _ => wire::pubrec(id),
        };
        self.requests.insert(id, OutstandingRequest::Clients(answer));
        Ok(())
    }

    /// Everybody answers everything: then the broker knows no more than the client may have.
    fn finish(&mut self) -> Result<(), String> {
        for _ in 0..2_000 {
            self.send();
            self.look()?;
            self.answer();
            self.look()?;
        }
        if !self.outbox.is_empty() || self.held.is_some() || !self.requests.is_empty() {
            return Err(format!("{:?} and {:?} were never answered", self.held, self.requests));
        }
        let left: Vec<_> = self.known.iter().filter(|one| !self.subscribed.contains(&***one)).collect();
        if !self.resumed && !left.is_empty() {
            return Err(format!("the broker still has {left:?}"));
        }
        Ok(())
    }
}

/// The filters of a SUBSCRIBE or an UNSUBSCRIBE; none of another packet.
fn filters_of(packet: &[u8], version: Version) -> Vec<String> {
    let options = match packet[0] {
        0x82 => 1,
        0xA2 => 0,
        _ => return Vec::new(),
    };
    let mut rest = &packet[if version == Version::V5 { 5 } else { 4 }..];
    let mut filters = Vec::new();
    while let [high, low, more @ ..] = rest {
        let (text, behind) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        filters.push(String::from_utf8_lossy(text).into_owned());
        rest = &behind[options..];
    }
    filters
}

/// Whether all topics that one filter of the game matches are matched by another; shares count as what they share.
fn covers(outer: &str, inner: &str) -> bool {
    let plain = |filter: &str| filter.trim_start_matches("$share/g/").to_owned();
    let (outer, inner) = (plain(outer), plain(inner));
    outer == inner
        || match &*outer {
            "#" => true,
            "d/#" => inner.starts_with("d/"),
            "d/+" => inner.starts_with("d/") && inner != "d/#",
            _ => false,
        }
}

fn draw_allowed(rng: &mut Rng) -> Vec<&'static str> {
    let plain: Vec<_> = FILTERS.into_iter().filter(|filter| !filter.starts_with('$')).collect();
    let mut some: Vec<_> = plain.into_iter().filter(|_| rng.one_in(3)).collect();
    // Not too often.
    some.retain(|filter| *filter != "#" || rng.one_in(3));
    some
}

/// To publish anything, and to subscribe to these.
fn grant(filters: &[&str]) -> Grant {
    let rule = |act, filters: &[&str]| Rule {
        effect: RuleEffect::Allow,
        actions: Actions::NONE.with(act),
        topics: filters.iter().map(|filter| Pattern::parse(filter).expect("a filter")).collect(),
        max_qos: QoS::ExactlyOnce,
        retain: Retain::Allowed,
        max_payload: None,
        condition: None,
    };
    Grant::new(vec![rule(Act::Publish, &["#"]), rule(Act::Subscribe, filters)], RuleEffect::Deny)
}
