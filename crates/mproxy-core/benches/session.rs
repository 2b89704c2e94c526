//! What a session costs: one PUBLISH forwarded, in floods and alone, allowed by nobody's objection and by a rule.
//! `cargo bench -p mproxy-core`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use divan::Bencher;
use divan::counter::ItemsCount;
use mproxy_codec::types::QoS;
use mproxy_core::event::Nobody;
use mproxy_core::grant::Grant;
use mproxy_core::meter::Unmetered;
use mproxy_core::policy::{
    Answer, ConnectDecision, ConnectQuestion, Decider, Hook, PublishDecision, PublishQuestion, Ruling,
    Source, SubscribeDecision, SubscribeQuestion, Want,
};
use mproxy_core::rule::condition::{
    BoolExpr, Condition, IntExpr, Presence, Relation, TextExpr, TextList, TextTest,
};
use mproxy_core::rule::{Act, Actions, Message, Pattern, Retain, Rule, RuleEffect, WallClock, WallTime, Who};
use mproxy_core::session::{DrainReference, OnAuth, OnErrors, OnUnavailable};
use mproxy_core::{Chain, Effect, Limits, Session, Setting, Side};
use mproxy_sim::stage::origin;
use mproxy_sim::wire::{self, ConnectOptions, Publish, Version};

fn main() {
    divan::main();
}

/// Allows everything, and says whose word that was.
struct Yes(Source);

impl Decider for Yes {
    fn connect(&self, _: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        Answer::Now(Ruling::allow(self.0))
    }

    fn publish(&self, _: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        Answer::Now(Ruling::allow(self.0))
    }

    fn subscribe(&self, _: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        Answer::Now(Ruling::allow(self.0))
    }

    fn deliver(&self, _: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        Answer::Now(Ruling::allow(self.0))
    }

    fn want(&self, hook: Hook) -> Want {
        if hook == Hook::Deliver { Want::Nothing } else { Want::Head }
    }
}

#[derive(Clone, Copy, Debug)]
enum Decided {
    /// Nobody is asked.
    ByNobody,
    /// By rules, whose answers stand.
    ByRules,
    /// By somebody who is asked each time.
    EachTime,
}

const ALL: [Decided; 3] = [Decided::ByNobody, Decided::ByRules, Decided::EachTime];

fn open(decided: Decided) -> Session {
    let advisers = match decided {
        Decided::ByNobody => Chain::default(),
        Decided::ByRules => Chain::of(Arc::new(Yes(Source::Acl))),
        Decided::EachTime => Chain::of(Arc::new(Yes(Source::Cache))),
    };
    let setting = Setting {
        advisers,
        sink: Arc::new(Nobody),
        meter: Arc::new(Unmetered),
        limits: Limits::default(),
        rates: None,
        on_error: OnErrors::default(),
        on_unavailable: OnUnavailable::default(),
        drain_reference: DrainReference::default(),
        on_auth: OnAuth::default(),
        gate: None,
        budget: Arc::default(),
        clock: WallClock::default(),
    };
    let now = Instant::now();
    let mut session = Session::new(origin(), Arc::new(setting), now);
    let connect = wire::connect(Version::V311, "lamp", &ConnectOptions::default());
    tell(&mut session, Side::Client, &mut BytesMut::from(&connect[..]), now);
    let connack = wire::connack(Version::V311, false, 0, b"");
    tell(&mut session, Side::Broker, &mut BytesMut::from(&connack[..]), now);
    session
}

fn tell(session: &mut Session, from: Side, buf: &mut BytesMut, now: Instant) {
    session.read(from, buf, now);
    while let Some(effect) = session.poll_effect() {
        if let Effect::Dial { .. } = effect {
            session.dialed(Ok(()), now);
        }
    }
}

fn publish(qos: u8) -> Vec<u8> {
    let publish = Publish {
        topic: "building/7/floor/3/lamp",
        payload: &[b'x'; 64],
        qos,
        packet_id: 1,
        ..Publish::default()
    };
    wire::publish(Version::V311, &publish)
}

/// A read of so many QoS 0 messages of 64 bytes.
fn forward(bencher: Bencher<'_, '_>, decided: Decided, count: usize) {
    let mut session = open(decided);
    let (many, now) = (publish(0).repeat(count), Instant::now());
    bencher.counter(ItemsCount::new(count)).with_inputs(|| BytesMut::from(&many[..])).bench_local_refs(
        |buf| {
            tell(&mut session, Side::Client, buf, now);
        },
    );
}

#[divan::bench(args = ALL)]
fn one_message(bencher: Bencher<'_, '_>, decided: Decided) {
    forward(bencher, decided, 1);
}

#[divan::bench(args = ALL)]
fn a_flood(bencher: Bencher<'_, '_>, decided: Decided) {
    forward(bencher, decided, 500);
}

/// A QoS 1 message and its PUBACK.
#[divan::bench(args = ALL)]
fn acknowledged(bencher: Bencher<'_, '_>, decided: Decided) {
    let mut session = open(decided);
    let (publish, puback, now) = (publish(1), wire::puback(1), Instant::now());
    bencher.with_inputs(|| (BytesMut::from(&publish[..]), BytesMut::from(&puback[..]))).bench_local_refs(
        |(up, down)| {
            tell(&mut session, Side::Client, up, now);
            tell(&mut session, Side::Broker, down, now);
        },
    );
}

/// What a rule looks at besides the topic.
#[derive(Clone, Copy, Debug)]
enum Looked {
    /// Nothing.
    Topic,
    /// `size(payload) <= 1024`
    Size,
    /// `has(claim.plan) && claim.plan != "free" && levels[1] in claim.sites`
    Claims,
    /// `client.address.startsWith("192.0.2.") && client.listener == "mqtts" && !(time.weekday in ["saturday", "sunday"])`
    Client,
}

impl Looked {
    fn condition(self) -> Option<BoolExpr> {
        let text = |text: &str| TextExpr::Const(text.into());
        let attribute = |name: &str| TextExpr::Attribute(name.into());
        let all: Box<[BoolExpr]> = match self {
            Self::Topic => return None,
            Self::Size => {
                let both = (IntExpr::PayloadSize, IntExpr::Const(1024));
                [BoolExpr::Ints(Relation::LessOrEqual, Box::new(both))].into()
            }
            Self::Claims => {
                let level = TextExpr::Member(Box::new((TextList::Levels, IntExpr::Const(1))));
                let sites = TextList::Attribute("claim.sites".into());
                [
                    BoolExpr::Has(Presence::Attribute("claim.plan".into())),
                    BoolExpr::Texts(Relation::NotEqual, Box::new((attribute("claim.plan"), text("free")))),
                    BoolExpr::TextIn(Box::new((level, sites))),
                ]
                .into()
            }
            Self::Client => {
                let weekend = TextList::Listed([text("saturday"), text("sunday")].into());
                let begins = Box::new((TextExpr::Address, text("192.0.2.")));
                [
                    BoolExpr::Test(TextTest::StartsWith, begins),
                    BoolExpr::Texts(Relation::Equal, Box::new((TextExpr::Listener, text("mqtts")))),
                    BoolExpr::Not(BoolExpr::TextIn(Box::new((TextExpr::Weekday, weekend))).into()),
                ]
                .into()
            }
        };
        Some(BoolExpr::All(all))
    }
}

/// One decision of a rule, with and without a condition.
#[divan::bench(args = [Looked::Topic, Looked::Size, Looked::Claims, Looked::Client])]
fn a_rule_with_condition(bencher: Bencher<'_, '_>, looked: Looked) {
    let rule = Rule {
        effect: RuleEffect::Allow,
        actions: Actions::NONE.with(Act::Publish),
        topics: [Pattern::parse("sites/+/up/${clientid}/#").expect("a filter")].into(),
        max_qos: QoS::ExactlyOnce,
        retain: Retain::Allowed,
        max_payload: None,
        condition: looked.condition().map(|one| Arc::new(Condition::new(one).expect("small enough"))),
    };
    let grant = Grant::new(vec![rule], RuleEffect::Deny);
    let attributes =
        [("group", "device"), ("claim.plan", "gold"), ("claim.sites", "berlin"), ("claim.sites", "kyoto")];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let who = Who {
        client_id: "lamp-17",
        listener: Some("mqtts"),
        address: Some([192, 0, 2, 17].into()),
        attributes: &attributes,
        ..Who::NOBODY
    };
    let message = Message {
        topic: "sites/kyoto/up/lamp-17/temperature",
        qos: QoS::AtLeastOnce,
        retain: false,
        payload: 100,
        time: Some(WallTime::since_1970(Duration::from_secs(1_795_794_727))),
    };
    bencher.bench(|| divan::black_box(&grant).message(Act::Publish, who, divan::black_box(message)));
}
