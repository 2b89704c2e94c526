#![no_main]
//! A session told anything in any order: bytes of both sides, verdicts good and bad, ends, time. It must not panic, must
//! keep its bounds, and must be silent after its end. And nothing reaches the broker that nobody allowed: no CONNECT, no
//! topic of a PUBLISH and no filter of a SUBSCRIBE, unless a verdict said so, or the failure rule for a missing one.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use mproxy_codec::{Frame, Packet, PropertyId, ReasonCode, Sender, Version};
use mproxy_core::event::{Event, Kind};
use mproxy_core::fault::{Closed, Unreachable};
use mproxy_core::grant::{Grant, Mapping};
use mproxy_core::meter::Unmetered;
use mproxy_core::policy::{
    Action, Admission, Answer, Authenticated, ConnectDecision, ConnectQuestion, Decision, ExchangeDecision,
    ExchangeQuestion, ExchangeStep, Failure, FailureKind, FilterChange, Hook, OnError, Overload,
    PublishChange, PublishDecision, PublishQuestion, Refusal, RenewQuestion, Ruling, Silence, Source,
    SubscribeDecision, SubscribeQuestion, Unusable, UnusableKind, Want,
};
use mproxy_core::rule;
use mproxy_core::session::{DrainReference, OnAuth, OnErrors, OnUnavailable, OpenQuestion};
use mproxy_core::{Chain, Decider, Effect, Limits, Session, Setting, Side, Sink};
use mproxy_sim::stage::origin;
use mproxy_sim::verdict::ScriptedDecision;
use mproxy_sim::{OpenVerdict, Verdict};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [first, second, calls @ ..] = input else { return };
    Play::new(*first, *second).run(calls);
});

/// Answers by what the last call left here.
struct Mood {
    mood: Mutex<u8>,
    deliveries: bool,
    exchanges: bool,
    permits: Mutex<Permits>,
}

/// What a question of the client's is about: topics, filters, or nothing for a CONNECT.
type About = (Hook, Vec<String>);

/// Who allowed what, kept apart from the session.
#[derive(Default)]
struct Permits {
    /// Failed answers allow.
    open: bool,
    /// Questions that are answered later and were not handed out yet, in their order.
    asked: VecDeque<(About, OpenVerdict)>,
    connect: bool,
    /// The client named an Authentication Method, and mproxy answers it; it has authenticated.
    method: bool,
    authenticated: bool,
    names: HashSet<String>,
}

impl Permits {
    /// This was said of that.
    fn said(&mut self, (hook, names): &About, verdict: &Verdict) {
        match (hook, verdict) {
            (Hook::Connect, Verdict::Connect(Decision::Allow(_))) => self.connect = true,
            (Hook::Connect, Verdict::Failed(_)) if self.open => self.connect = true,
            (Hook::Exchange, Verdict::Exchange(Decision::Allow(ExchangeStep::Success(_)))) => {
                self.authenticated = true;
            }
            (Hook::Publish, Verdict::Publish(Decision::Allow(change))) => {
                let new = change.as_ref().and_then(|change| change.topic.as_deref().map(str::to_owned));
                self.names.extend(new.map_or_else(|| names.clone(), |new| vec![new]));
            }
            (Hook::Subscribe, Verdict::SubscribeAll(Decision::Allow(()))) => {
                self.names.extend(names.iter().cloned());
            }
            (Hook::Subscribe, Verdict::Subscribe(all)) if all.len() == names.len() => {
                for (name, one) in names.iter().zip(all) {
                    let Decision::Allow(change) = one else { continue };
                    self.names.insert(change.filter.as_deref().unwrap_or(name).to_owned());
                }
            }
            (Hook::Publish | Hook::Subscribe, Verdict::Failed(_)) if self.open => {
                self.names.extend(names.iter().cloned());
            }
            _ => {}
        }
    }

    /// Whether this may stand in a packet to the broker, behind a prefix or not.
    fn covers(&self, name: &str) -> bool {
        let plain = |name: &str| {
            ["", "acme/", "acme"]
                .iter()
                .any(|prefix| name.strip_prefix(prefix).is_some_and(|own| self.names.contains(own)))
        };
        // A prefix goes behind the group of a shared subscription.
        let shared = name.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
        plain(name)
            || shared.is_some_and(|(group, filter)| {
                ["acme/", "acme"].iter().any(|prefix| {
                    filter
                        .strip_prefix(prefix)
                        .is_some_and(|own| self.names.contains(&format!("$share/{group}/{own}")))
                })
            })
    }
}

impl Mood {
    fn answer<D: ScriptedDecision>(&self, about: About) -> Answer<D> {
        let mood = *self.mood.lock().expect("nothing panicked");
        let mut permits = self.permits.lock().expect("nothing panicked");
        match mood % 4 {
            0 => {
                let open = OpenVerdict::default();
                let answer = open.answer();
                permits.asked.push_back((about, open));
                Answer::Later(answer)
            }
            1 => Answer::Pass(Silence::DENIES),
            _ => {
                let verdict = verdict(mood / 4, about.0);
                permits.said(&about, &verdict);
                Answer::Now(Ruling { source: Source::Acl, endpoint: None, verdict: D::from_verdict(verdict) })
            }
        }
    }
}

impl Decider for Mood {
    fn connect(&self, question: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        let named = question.connect.properties.contains(PropertyId::AuthenticationMethod);
        self.permits.lock().expect("nothing panicked").method = named && self.exchanges;
        self.answer((Hook::Connect, Vec::new()))
    }

    fn publish(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.answer((Hook::Publish, vec![question.topic.to_owned()]))
    }

    fn subscribe(&self, question: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        let names = question.filters.iter().map(|one| one.filter.as_str().to_owned()).collect();
        self.answer((Hook::Subscribe, names))
    }

    fn deliver(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        self.answer((Hook::Deliver, vec![question.topic.to_owned()]))
    }

    fn renew(&self, _: &RenewQuestion<'_>) -> Answer<ConnectDecision> {
        self.answer((Hook::Connect, Vec::new()))
    }

    fn exchange(&self, _: &ExchangeQuestion<'_>) -> Answer<ExchangeDecision> {
        self.answer((Hook::Exchange, Vec::new()))
    }

    fn gives(&self, _: Source) -> bool {
        true
    }

    fn want(&self, hook: Hook) -> Want {
        match hook {
            Hook::Publish => Want::Payload(64),
            Hook::Deliver if !self.deliveries => Want::Nothing,
            Hook::Exchange if !self.exchanges => Want::Nothing,
            Hook::Connect | Hook::Subscribe | Hook::Deliver | Hook::Exchange => Want::Head,
        }
    }
}

/// Half of the verdicts can be carried out; the others make no sense.
fn verdict(which: u8, hook: Hook) -> Verdict {
    let refusal = |action| Refusal { action, text: Some("no".into()), ..Refusal::new(ReasonCode(which)) };
    // Some may be used again for a while.
    let cache_for = (which >= 128).then(|| Duration::from_secs(1));
    let topic =
        |topic: &str| PublishChange { topic: Some(topic.into()), cache_for, ..PublishChange::default() };
    let publishes = matches!(hook, Hook::Publish | Hook::Deliver);
    let changed = |change| match publishes {
        true => Verdict::Publish(Decision::Allow(Some(Box::new(change)))),
        false => Verdict::Unusable(Unusable::invalid("a change")),
    };
    let filters = |filters| match hook {
        Hook::Subscribe => Verdict::Subscribe(filters),
        Hook::Connect | Hook::Publish | Hook::Deliver | Hook::Exchange => {
            Verdict::Unusable(Unusable::invalid("filters"))
        }
    };
    let filter = |filter: &str| {
        Decision::Allow(FilterChange { filter: Some(filter.into()), max_qos: None, cache_for })
    };
    match which % 18 {
        0..3 if hook == Hook::Connect => granted(which),
        0..5 if hook == Hook::Exchange => continued(which),
        0..6 => Verdict::allow(hook),
        6 => Verdict::refuse(hook, refusal(Action::Reject)),
        7 => Verdict::refuse(hook, refusal(Action::Drop)),
        8 => Verdict::refuse(hook, refusal(Action::NoAck)),
        9 => Verdict::refuse(hook, refusal(Action::Disconnect)),
        10 => changed(topic("new/topic")),
        11 => changed(topic("a/#")),
        12 => changed(PublishChange { payload: Some(vec![0; 300].into()), ..PublishChange::default() }),
        13 => filters(vec![filter("new/#")]),
        14 => filters(vec![filter("a#"), Decision::Refuse(Refusal::default())]),
        15 => Verdict::Unusable(Unusable::new(UnusableKind::ALL[usize::from(which) % 6], "unusable")),
        16 => Verdict::Overloaded(Overload::new("fuzz", "too much")),
        _ => Verdict::Failed(Failure::new(FailureKind::Deadline, "late")),
    }
}

/// Yes to a CONNECT, with a grant: mapped, limited, to be renewed.
fn granted(which: u8) -> Verdict {
    let mut grant = Grant::new(Vec::new(), rule::RuleEffect::Ask);
    grant.mapping = Mapping::new(if which & 16 == 0 { "acme/" } else { "acme" }).ok();
    grant.ttl = Some(Duration::from_secs(1 + u64::from(which >> 6)));
    grant.limits.subscriptions = Some(u32::from(which >> 5));
    let admission = Admission { grant: Some(Arc::new(grant)), ..Admission::default() };
    Verdict::Connect(Decision::Allow(Some(Box::new(admission))))
}

/// The client is to say more, or has authenticated with another grant.
fn continued(which: u8) -> Verdict {
    let data = (which & 32 != 0).then(|| vec![which; usize::from(which)].into());
    Verdict::Exchange(Decision::Allow(match granted(which) {
        Verdict::Connect(Decision::Allow(Some(admission))) if which & 64 == 0 => {
            let grant = admission.grant;
            ExchangeStep::Success(Box::new(Authenticated { data, grant, ..Authenticated::default() }))
        }
        _ => ExchangeStep::Continue { data },
    }))
}

struct All;

impl Sink for All {
    fn report(&self, _event: Event) {}

    fn want(&self, kind: Kind) -> Want {
        if kind == Kind::Publish { Want::Payload(32) } else { Want::Head }
    }
}

struct Play {
    session: Session,
    mood: Arc<Mood>,
    limits: Limits,
    now: Instant,
    unread: [BytesMut; 2],
    open: Vec<(OpenQuestion, About, OpenVerdict)>,
    /// What the broker got of a packet that is not whole, and what it takes each alias for.
    heard: BytesMut,
    aliases: BTreeMap<u16, String>,
    shut: [bool; 2],
    done: bool,
    fed: usize,
    effects: usize,
}

impl Play {
    fn new(first: u8, second: u8) -> Self {
        let now = Instant::now();
        let permits = Mutex::new(Permits { open: first & 4 != 0, ..Permits::default() });
        let mood = Arc::new(Mood {
            mood: Mutex::new(2 * 4 + 2),
            deliveries: first & 1 != 0,
            exchanges: second & 1 != 0,
            permits,
        });
        let limits = Limits {
            max_packet_size: if first & 2 != 0 { 40_000 } else { 268_435_460 },
            max_held_packet: 20_000,
            lane_packets: 1 + usize::from(first >> 4),
            lane_bytes: 1 + usize::from(second) * 8,
            alias_bytes: 100,
            ..Limits::default()
        };
        let rule = if first & 4 != 0 { OnError::Allow } else { OnError::Deny };
        let setting = Arc::new(Setting {
            advisers: Chain::of(mood.clone()),
            sink: Arc::new(All),
            meter: Arc::new(Unmetered),
            limits: limits.clone(),
            rates: None,
            on_error: OnErrors { connect: rule, publish: rule, subscribe: rule, deliver: rule },
            on_unavailable: if first & 8 != 0 { OnUnavailable::Close } else { OnUnavailable::Connack },
            drain_reference: DrainReference::default(),
            on_auth: OnAuth::default(),
            gate: None,
            clock: mproxy_core::rule::WallClock::default(),
            budget: Arc::default(),
        });
        Self {
            session: Session::new(origin(), setting, now),
            mood,
            limits,
            now,
            unread: Default::default(),
            open: Vec::new(),
            heard: BytesMut::new(),
            aliases: BTreeMap::new(),
            shut: [false; 2],
            done: false,
            fed: 0,
            effects: 0,
        }
    }

    fn run(&mut self, mut calls: &[u8]) {
        let mut count = 0;
        while let [call, arg, rest @ ..] = calls {
            calls = rest;
            count += 1;
            match call % 16 {
                0..5 => calls = self.feed(Side::Client, *arg, calls),
                5..8 => calls = self.feed(Side::Broker, *arg, calls),
                8 => *self.mood.mood.lock().expect("nothing panicked") = *arg,
                9 | 10 => self.decide(*arg),
                11 => {
                    // A payload that need not stand in the input.
                    let zeros = vec![0; usize::from(*arg) * 200];
                    self.read(if call & 16 == 0 { Side::Client } else { Side::Broker }, &zeros);
                }
                12 => {
                    self.now += Duration::from_millis(u64::from(*arg) * 50);
                    self.session.handle_timeout(self.now);
                }
                13 if arg & 2 == 0 => self.session.closed(side(*arg), Closed::Eof, self.now),
                13 => self.session.closed(side(*arg), Closed::Error("reset".into()), self.now),
                14 if arg % 4 == 0 => self.session.drain(self.now),
                14 if arg % 4 == 1 => self.session.revoke(ReasonCode(*arg), self.now),
                14 => self.session.dialed(Err(Unreachable::away("no")), self.now),
                _ => self.read(side(*arg), &[]),
            }
            self.drain();
            self.check(count);
        }
        self.end();
    }

    fn feed<'a>(&mut self, from: Side, len: u8, calls: &'a [u8]) -> &'a [u8] {
        let (bytes, rest) = calls.split_at(calls.len().min(usize::from(len)));
        self.read(from, bytes);
        rest
    }

    fn read(&mut self, from: Side, bytes: &[u8]) {
        self.fed += bytes.len();
        let unread = &mut self.unread[from as usize];
        unread.extend_from_slice(bytes);
        self.session.read(from, unread, self.now);
    }

    fn decide(&mut self, arg: u8) {
        if self.open.is_empty() {
            return;
        }
        let (question, about, open) = self.open.swap_remove(usize::from(arg) % self.open.len());
        let verdict = verdict(arg, about.0);
        self.mood.permits.lock().expect("nothing panicked").said(&about, &verdict);
        let answered = open.say(verdict, question);
        self.session.decide(answered.clone(), self.now);
        if arg & 64 != 0 {
            // Twice is once too often, and must not matter.
            self.session.decide(answered, self.now);
        }
    }

    fn drain(&mut self) {
        while let Some(effect) = self.session.poll_effect() {
            self.effects += 1;
            assert!(!self.done, "after Done: {effect:?}");
            match effect {
                Effect::Dial { .. } => self.session.dialed(Ok(()), self.now),
                Effect::Ask(question) => {
                    let asked = self.mood.permits.lock().expect("nothing panicked").asked.pop_front();
                    let (about, open) = asked.expect("a question for each answer");
                    self.open.push((question, about, open));
                }
                Effect::Send { to, bytes } => {
                    assert!(!bytes.is_empty() && !self.shut[to as usize], "Send after Shut, or of nothing");
                    if to == Side::Broker {
                        self.heard.extend_from_slice(&bytes);
                        self.was_allowed();
                    }
                }
                Effect::Shut { side } => {
                    assert!(!std::mem::replace(&mut self.shut[side as usize], true), "Shut twice");
                    // Not every stream takes what is written at once.
                    if self.effects & 1 == 0 {
                        self.session.shut(side, self.now);
                    }
                }
                Effect::Cut { side } => self.shut[side as usize] = true,
                Effect::Report(_) => {}
                Effect::Done(_) => self.done = true,
            }
        }
    }

    /// Holds what the broker got against what was said.
    fn was_allowed(&mut self) {
        let version = self.session.peer().map_or(Version::V311, |peer| peer.version);
        let permits = self.mood.permits.lock().expect("nothing panicked");
        while let Ok(Some((frame, _))) = Frame::split(&self.heard, Sender::Client, Some(version)) {
            match Packet::parse(&frame, Sender::Client, version) {
                Ok(Packet::Connect(connect)) => {
                    assert!(permits.connect, "a CONNECT that nobody allowed");
                    assert!(!permits.method || permits.authenticated, "a CONNECT of nobody in particular");
                    let named = connect.properties.contains(PropertyId::AuthenticationMethod);
                    assert!(!self.mood.exchanges || !named, "a method that is not for the broker");
                }
                Ok(Packet::Auth(_)) => assert!(!self.mood.exchanges, "an AUTH that is not for the broker"),
                Ok(Packet::Publish(publish)) => {
                    let topic = match publish.alias {
                        Some(alias) if publish.topic.is_empty() => self.aliases[&alias].clone(),
                        Some(alias) => {
                            self.aliases.insert(alias, publish.topic.to_owned());
                            publish.topic.to_owned()
                        }
                        None => publish.topic.to_owned(),
                    };
                    assert!(permits.covers(&topic), "a PUBLISH to {topic:?} that nobody allowed");
                }
                Ok(Packet::Subscribe(subscribe)) => {
                    for one in subscribe.filters() {
                        let filter = one.filter.as_str();
                        assert!(permits.covers(filter), "a SUBSCRIBE to {filter:?} that nobody allowed");
                    }
                }
                _ => {}
            }
            let len = frame.bytes.len();
            self.heard.advance(len);
        }
    }

    fn check(&self, calls: usize) {
        for side in [Side::Client, Side::Broker] {
            let (packets, bytes) = self.session.waiting(side);
            assert!(packets <= self.limits.lane_packets, "{packets} packets wait");
            assert!(bytes <= self.limits.lane_bytes + 20_000, "{bytes} bytes wait");
        }
        assert!(
            self.effects <= 4 * self.fed + 16 * calls + 16,
            "{} effects of {} bytes",
            self.effects,
            self.fed
        );
        assert!(self.done == (self.session.phase_name() == "over"));
    }

    fn end(&mut self) {
        // A client that has ended its half is gone when ours has ended, too.
        for side in [Side::Client, Side::Broker, Side::Client] {
            self.session.closed(side, Closed::Eof, self.now);
            self.drain();
        }
        assert!(self.done && self.session.poll_timeout().is_none(), "both peers have gone");
        for n in 0..=u8::MAX {
            self.decide(n);
            self.drain();
        }
    }
}

fn side(arg: u8) -> Side {
    if arg % 2 == 0 { Side::Client } else { Side::Broker }
}
