//! How a game ends: everything comes to rest, or something ends it, and then nothing may be missing.

use std::time::Duration;

use mproxy_codec::ReasonCode;
use mproxy_core::Side;
use mproxy_core::grant::GrantLimits;

use super::World;
use crate::model::{Model, Sent, What};

impl World {
    /// Everything comes to its end: questions, flows, bytes.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.bytewise = false;
        // A session that never comes to rest is a fault, too, and must not hang the run.
        for _ in 0..20_000 {
            let missing = self.must_arrive.is_some_and(|side| !self.path_from(side).is_through())
                || self.answers && !self.down.is_through();
            let owes = |model: &Model| self.silent != Some(model.side) && model.owes();
            let owing = owes(&self.client) || owes(&self.broker);
            let pending = !self.book().open.is_empty()
                || self.wire.iter().any(|wire| !wire.is_empty())
                || owing && (missing || self.answers || !self.ending)
                || self.is_paced();
            if !pending || self.is_over() {
                self.look()?;
                let end = format!("{}, {:?}", self.stage.session.phase_name(), self.stage.done());
                let unread = [Side::Client, Side::Broker].map(|side| self.stage.unread(side));
                let must = |side| self.must_arrive == Some(side) || self.answers && side == Side::Broker;
                let ways = [(Side::Client, &self.up), (Side::Broker, &self.down)];
                if let Some((_, way)) = ways.iter().find(|(from, way)| must(*from) && !way.is_through()) {
                    return Err(format!(
                        "lost on the way to the {} ({end}, unread {unread:?}): {:?}",
                        way.to, way.sent
                    ));
                }
                return self.check_events();
            }
            self.step(false)?;
        }
        Err("it does not come to rest".into())
    }

    /// Nothing is under way any more, so nothing may be missing.
    pub(super) fn check_at_rest(&mut self) -> Result<(), String> {
        for (way, model) in [(&self.up, &self.client), (&self.down, &self.broker)] {
            if !way.is_through() || !way.owed.is_empty() || way.torn() > 0 {
                return Err(format!("not all reached the {}: {:?}, owed {:?}", way.to, way.sent, way.owed));
            }
            if model.waits() {
                return Err(format!("the {} waits for {:?} {:?}", model.side, model.flights, model.asking));
            }
            if self.stage.unread(model.side) > 0 || self.stage.session.waiting(model.side) != (0, 0) {
                return Err(format!("something of the {} was not read", model.side));
            }
        }
        if self.stage.session.phase_name() != "open" || self.stage.session.poll_timeout().is_some() {
            return Err("it is not at rest".into());
        }
        self.check_events()
    }

    /// Whatever the broker took and said so was told of, whoever is still there to hear the broker.
    fn check_events(&self) -> Result<(), String> {
        if self.told[0] > 0 && self.accounted && !self.repeats && self.told[1] != self.taken {
            return Err(format!("{} publishes were told of, {} were taken", self.told[1], self.taken));
        }
        Ok(())
    }

    /// Something ends the session.
    pub(super) fn begin_to_end(&mut self) -> Result<(), String> {
        if self.ending {
            return Ok(());
        }
        self.ending = true;
        let side = if self.rng.one_in(2) { Side::Client } else { Side::Broker };
        let open = self.stage.session.phase_name() == "open";
        match self.rng.below(6) {
            0 => {
                let says = side == Side::Client || self.client.version.is_v5();
                let side = if says { side } else { Side::Client };
                self.must_arrive = open.then_some(side);
                self.answers = open && side == Side::Client;
                self.accounted = side == Side::Client;
                self.send(side, Sent { bytes: vec![0xE0, 0], what: What::Plain });
                self.silent = Some(side);
            }
            1 | 2 => {
                // In order: what was sent before must arrive.
                self.must_arrive = open.then_some(side);
                self.answers = open && side == Side::Client;
                self.accounted = side == Side::Client;
                while !self.wire[side as usize].is_empty() {
                    self.carry(side);
                    self.look()?;
                }
                self.stage.close(side);
                self.silent = Some(side);
            }
            3 => {
                self.accounted = side == Side::Client;
                self.stage.reset(side);
                self.silent = Some(side);
            }
            4 if self.rng.one_in(2) => {
                self.stage.session.revoke(ReasonCode::ADMINISTRATIVE_ACTION, self.stage.now);
                self.stage.run();
            }
            4 => {
                self.path_from(Side::Client).drains = true;
                self.stage.drain();
            }
            _ => {
                self.accounted = side == Side::Client;
                self.send(side, Sent { bytes: vec![0, 0], what: What::Plain });
            }
        }
        self.look()
    }

    /// Both peers vanish, and time passes.
    pub(super) fn close(&mut self) -> Result<(), String> {
        self.look()?;
        // What is ending ends by itself, too; what only drains does not.
        let ending = self.stage.session.phase_name() == "ending";
        let orders = [&[Side::Client, Side::Broker][..], &[Side::Broker, Side::Client], &[Side::Client], &[]];
        for side in orders[self.rng.below(if ending { 4 } else { 2 })] {
            self.stage.close(*side);
            self.look()?;
        }
        // More than every deadline there is: whatever still waits behind that waits for ever.
        self.stage.pass(Duration::from_secs(60));
        self.look()?;
        // An end that stands behind packets without verdict is not even read. But verdicts carry deadlines of their own. A
        // client that waits for its rate asks again each time that it is read.
        for _ in 0..if self.rates == GrantLimits::default() { 1 } else { 50 } {
            while !self.is_over() && !self.book().open.is_empty() {
                self.decide();
                self.look()?;
            }
            self.stage.pass(Duration::from_secs(60));
            self.look()?;
        }
        if !self.is_over() {
            return Err(format!("it does not end: {}", self.stage.session.phase_name()));
        }
        if self.told[0] != self.told[2] {
            return Err("Connect without Disconnect".into());
        }
        self.check_client_answer()?;
        // Nothing happens any more, whatever comes.
        while !self.book().open.is_empty() {
            self.decide();
        }
        self.stage.dialed(Ok(()));
        self.stage.session.drain(self.stage.now);
        self.stage.run();
        match self.stage.session.poll_effect() {
            None => Ok(()),
            Some(effect) => Err(format!("after the end: {effect:?}")),
        }
    }
}
