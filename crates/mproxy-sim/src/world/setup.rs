//! How a game is drawn: its rules, limits, peers, and who wants to be asked about what.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use mproxy_codec::Version;
use mproxy_core::grant::{GrantLimits, PerSecond};
use mproxy_core::meter::{PacketTrace, Unmetered};
use mproxy_core::policy::{Hook, OnError, Want};
use mproxy_core::session::OnErrors;
use mproxy_core::{Limits, Side};

use super::World;
use super::entrance::Entrance;
use crate::book::Book;
use crate::model::Model;
use crate::path::PacketPath;
use crate::permits::Permits;
use crate::rng::Rng;
use crate::stage::{Setup, Stage};
use crate::tracer::Tracer;

impl World {
    /// The game of this seed. The order of the draws is part of it: another order makes other games of old seeds.
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let version = *rng.pick(&Version::ALL);
        let book = draw_book(&mut rng);
        let mut limits = Limits::default();
        if rng.one_in(2) {
            // So tight that sides stop being read all the time: that is where order and ends go wrong.
            (limits.lane_packets, limits.lane_bytes) = (1 + rng.below(6), 1 + rng.below(500));
        }
        let on_error = draw_failure_rules(&mut rng);
        let entrance = Entrance::draw(&mut rng, &mut limits);
        let stage = draw_stage(seed, &mut rng, &limits, on_error, &entrance, &book);
        let mut world = Self {
            stage,
            book,
            client: Model::new(Side::Client, version),
            broker: Model::new(Side::Broker, version),
            up: PacketPath::new(Side::Broker, version),
            down: PacketPath::new(Side::Client, version),
            wire: [Vec::new(), Vec::new()],
            order: Default::default(),
            published: HashMap::new(),
            superseded: HashMap::new(),
            prefix: "",
            rates: draw_rates(&mut rng),
            since: None,
            messages_arrived: 0,
            bytes_arrived: 0,
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
            moves: false,
            moved: 0,
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
}

/// The decider: what it will say is written into it packet by packet.
fn draw_book(rng: &mut Rng) -> Arc<Mutex<Book>> {
    Arc::new(Mutex::new(Book {
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
    }))
}

/// How fast the client may send: fast enough for a game to come to its end, slow enough to be waited for.
fn draw_rates(rng: &mut Rng) -> GrantLimits {
    let mut rate = |rates: &[f64]| if rng.one_in(5) { PerSecond::new(*rng.pick(rates)) } else { None };
    GrantLimits {
        messages: rate(&[2.5, 20.0, 300.0]),
        bytes: rate(&[8_000.0, 30_000.0]),
        ..GrantLimits::default()
    }
}

/// What failed answers mean. In every other game all of them allow: a mix alone would seldom open every hook at once.
fn draw_failure_rules(rng: &mut Rng) -> OnErrors {
    let open = rng.one_in(2);
    let mut rule = || if open || rng.one_in(3) { OnError::Allow } else { OnError::Deny };
    OnErrors { connect: rule(), publish: rule(), subscribe: rule(), deliver: rule() }
}

fn draw_stage(
    seed: u64,
    rng: &mut Rng,
    limits: &Limits,
    on_error: OnErrors,
    entrance: &Entrance,
    book: &Arc<Mutex<Book>>,
) -> Stage {
    let asking = Arc::clone(book);
    let mut stage = Setup {
        limits: limits.clone(),
        on_error,
        on_unavailable: entrance.on_unavailable,
        telling: *rng.pick(&[Want::Nothing, Want::Head, Want::Payload(100)]),
        // In some games each packet is traced, and none takes the fast path.
        meter: if seed % 4 == 3 { Arc::new(Tracer(|_: &PacketTrace<'_>| {})) } else { Arc::new(Unmetered) },
        answering: Box::new(move |asked| asking.lock().expect("the world is whole").ask(asked)),
        ..Setup::default()
    }
    .stage();
    // A peer that reads nothing: its end must come by the clock.
    stage.stuck = [rng.one_in(4), rng.one_in(4)];
    stage
}
