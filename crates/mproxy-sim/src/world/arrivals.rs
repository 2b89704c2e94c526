//! What has arrived anywhere, held against what was sent and decided; what was told of, and what waits.

use mproxy_codec::{Frame, Packet, PacketType, QoS};
use mproxy_core::Side;
use mproxy_core::event::Happening;

use super::World;
use super::owing::merged_codes;
use crate::model::What;
use crate::path::Arrival;

impl World {
    /// Looks at all that has arrived anywhere.
    pub(super) fn look(&mut self) -> Result<(), String> {
        self.owe();
        if let Some(wrong) = self.book().wrong.take() {
            return Err(wrong);
        }
        for event in self.stage.events() {
            match event {
                Happening::Connect { .. } => self.told[0] += 1,
                Happening::Publish(_) => self.told[1] += 1,
                Happening::Disconnect(_) => self.told[2] += 1,
                Happening::Subscribe { .. } | Happening::Unsubscribe { .. } => {}
            }
        }
        // Exactly one Disconnect for each Connect is a promise of the contract, whatever ended the session.
        if self.told[0] > 1 || self.told[2] > self.told[0] {
            return Err("Connect and Disconnect do not pair".into());
        }
        self.check_bounds()?;
        self.watch_entrance()?;
        for side in [Side::Broker, Side::Client] {
            let heard = if side == Side::Broker { self.stage.at_broker() } else { self.stage.at_client() };
            self.path_to(side).push(&heard);
            while let Some(bytes) =
                self.path_to(side).next().map_err(|why| format!("at the {side}: {why}"))?
            {
                self.take_arrival(side, &bytes).map_err(|why| format!("at the {side}: {why}"))?;
            }
        }
        Ok(())
    }

    /// Never more than a second's worth and what the rate lets come since.
    fn check_rates(&mut self, bytes: usize, packet: &Packet<'_>) -> Result<(), String> {
        self.bytes_arrived += bytes as u64;
        self.messages_arrived += u64::from(packet.kind() == PacketType::Publish);
        let passed = self.since.map_or(0.0, |since| self.stage.now.duration_since(since).as_secs_f64());
        let most = |rate: f64| rate * passed + rate.max(1.0);
        if let Some(rate) = self.rates.messages
            && self.messages_arrived as f64 > most(rate.get()) + 0.01
        {
            return Err(format!("{} publishes in {passed} s at {rate:?}", self.messages_arrived));
        }
        // A payload that a rewrite put there was not sent, and a packet that was there whole passed whole.
        let slack = 60 * self.messages_arrived + 70_000;
        if let Some(rate) = self.rates.bytes
            && self.bytes_arrived as f64 > most(rate.get()) + slack as f64
        {
            return Err(format!("{} bytes in {passed} s at {rate:?}", self.bytes_arrived));
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result<(), String> {
        for side in [Side::Client, Side::Broker] {
            let (packets, bytes) = self.stage.session.waiting(side);
            // One more packet than the bound in bytes may be in: of at most this size here.
            if packets > self.limits.lane_packets || bytes > self.limits.lane_bytes + 70_000 {
                return Err(format!("{packets} packets of {bytes} bytes wait in the lane of the {side}"));
            }
        }
        Ok(())
    }

    fn take_arrival(&mut self, side: Side, bytes: &[u8]) -> Result<(), String> {
        let (version, from) = (self.client.version, self.path_to(side).sender());
        let (frame, _) = Frame::split(bytes, from, Some(version))
            .map_err(|error| error.to_string())?
            .ok_or("half a packet")?;
        let packet = Packet::parse(&frame, from, version).map_err(|error| error.to_string())?;
        match (side, &packet) {
            (Side::Broker, Packet::Connect(_)) => self.permits.check_use(&packet, self.prefix)?,
            (Side::Broker, _) => {
                self.permits.check_use(&packet, self.prefix)?;
                self.check_rates(bytes.len(), &packet)?;
            }
            (Side::Client, Packet::Connack(connack)) => self.take_connack(connack)?,
            (Side::Client, _) => {}
        }
        let arrival = if self.is_again(side, bytes, &packet) {
            Arrival::Ours
        } else {
            let (ending, book) = (self.ending || self.is_over(), self.book.clone());
            let book = book.lock().expect("the world is whole");
            self.path_to(side).judge(bytes, &packet, &book.answered, ending)?
        };
        if arrival == Arrival::Goodbye {
            return Ok(());
        }
        self.check_order(side, &packet, arrival == Arrival::Theirs)?;
        if let (Side::Broker, Packet::Subscribe(subscribe)) = (side, &packet) {
            let (_, qos, outcome) = self
                .subscribed
                .values()
                .find(|(id, ..)| *id == subscribe.packet_id.get() && self.client.asking.contains(id))
                .ok_or("a SUBSCRIBE from nowhere")?;
            let codes = merged_codes(version, qos, outcome);
            // The broker grants what it is asked for; what the client must see of it was worked out from the verdicts.
            let theirs: Vec<u8> = subscribe.filters().map(|one| one.qos as u8).collect();
            let left_behind = std::mem::take(&mut self.up.left_behind);
            self.broker.owe_suback(subscribe.packet_id, &theirs, codes, left_behind);
        }
        if let (Side::Broker, Packet::Unsubscribe(unsubscribe)) = (side, &packet) {
            let id = unsubscribe.packet_id.get();
            let what = match (arrival, self.superseded.remove(&id)) {
                (Arrival::Ours, Some(codes)) => What::Suback { id, codes },
                _ => What::Plain,
            };
            self.broker.owe_unsuback(unsubscribe.packet_id, unsubscribe.filters().len(), what);
        }
        let told = matches!(&packet, Packet::Publish(publish) if publish.qos == QoS::AtMostOnce);
        self.taken += usize::from(told && side == Side::Broker);
        let model = if side == Side::Client { &mut self.client } else { &mut self.broker };
        model.hear(&packet)
    }

    /// Whether this is the answer to a repeated PUBLISH that nobody was asked about again.
    fn is_again(&mut self, side: Side, bytes: &[u8], packet: &Packet<'_>) -> bool {
        let Packet::Ack(ack) = packet else { return false };
        side == Side::Client
            && ack.kind == PacketType::Pubrec
            && !self.down.owed.iter().any(|owed| owed == bytes)
            && self
                .client
                .flights
                .get(&ack.packet_id.get())
                .is_some_and(|flight| flight.ours && flight.acks > 0 && flight.acks < flight.copies)
    }

    /// [MQTT-4.6.0-2], [MQTT-4.6.0-3]
    fn check_order(&mut self, side: Side, packet: &Packet<'_>, theirs: bool) -> Result<(), String> {
        let Packet::Ack(ack) = packet else { return Ok(()) };
        let kind = match ack.kind {
            PacketType::Puback => 0,
            PacketType::Pubrec => 1,
            _ => return Ok(()),
        };
        let order = &mut self.order[side as usize][kind];
        let at = match (side, theirs) {
            // What the session says itself to the client waits for nobody.
            (Side::Client, false) => order.iter().position(|id| *id == ack.packet_id.get()),
            _ => (order.front() == Some(&ack.packet_id.get())).then_some(0),
        };
        if let Some(at) = at {
            order.remove(at);
            return Ok(());
        }
        let model = if side == Side::Client { &self.client } else { &self.broker };
        // A PUBLISH that was repeated has several acknowledgements under one id, and either may come first.
        if model.flights.get(&ack.packet_id.get()).is_some_and(|flight| flight.copies > 1) {
            return Ok(());
        }
        Err(format!("{} {} came before that of {:?}", ack.kind.name(), ack.packet_id, order.front()))
    }
}
