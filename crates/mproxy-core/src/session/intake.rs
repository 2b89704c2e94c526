//! Bytes become packets: what a read brought is taken from its front, packet by packet.

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::PacketType;

use super::Session;
use super::context::{PacketTracing, WORK};
use super::direction::Follows;
use super::foreign::{out_of_place, unlike_mqtt};
use super::lane::Slot;
use super::opening::{Opened, Opening};
use super::state::State;
use super::step::{Passage, Step, Stop};
use super::tally::PacketTally;
use crate::budget::{RESERVE, Room};
use crate::fault::Fault;
use crate::peer::Side;

/// Slots of this size and less are copied out of the buffer they came in, so that a packet that waits does not keep
/// a whole chunk alive.
const COPY_UP_TO: usize = 16 << 10;

impl Session {
    /// Takes packets from the front of `buf`.
    pub(super) fn take(&mut self, from: Side, buf: &mut BytesMut, now: Instant) {
        let mut run = 0;
        let mut tally = PacketTally::default();
        let traces = self.cx.setting.meter.traces() && self.is_traced();
        self.cx.tracing.set(if traces { PacketTracing::On } else { PacketTracing::Off });
        if let Some(link) = self.state.link_mut() {
            link.expire_answers(from, now);
        }
        let path = match &mut self.state {
            // Each packet of a client that has a rate is counted by itself.
            State::Open(link) if from == Side::Client && link.is_rated() => None,
            // An answer to a PINGREQ of ours is looked for.
            State::Open(link) if from == Side::Broker && link.awaits_pingresp() => None,
            State::Open(link) if !traces => Some(link.fast_path(&self.cx, from)),
            _ => None,
        };
        // A read begins with its whole allowance: what the last one left unread has waited for this turn.
        self.cx.work = WORK;
        while run < buf.len() && self.cx.work > 0 {
            if let (State::Open(link), Some(path)) = (&mut self.state, path) {
                let passed = link.take_fast(&mut self.cx, from, path, &buf[run..], &mut tally);
                run += passed.bytes;
                if passed.ours {
                    self.send_ours(from, buf, &mut run);
                }
                if passed.bytes > 0 {
                    continue;
                }
            }
            match self.step(from, &buf[run..], &mut tally, now) {
                Ok(Step::Wait) => {
                    if let State::Open(link) = &mut self.state {
                        link.hold_client(&self.cx, now);
                    }
                    break;
                }
                Ok(Step::Take(n, passage)) => self.carry_out(from, buf, &mut run, n, passage, now),
                Ok(Step::Keep { bytes: n, packet, charge }) => {
                    // What passes before this packet leaves before it: order holds across runs, slots and our own packets.
                    self.flush(from, buf, &mut run);
                    let shared = buf.split_to(n).freeze();
                    if let Some(link) = self.state.link_mut() {
                        let lane = &mut link.direction_mut(from).lane;
                        // Unless it waits for its verdict, it leaves in this very call, or with others that do not stay
                        // either.
                        let stays = packet.holds() || !lane.is_empty();
                        let bytes =
                            if stays && n <= COPY_UP_TO { Bytes::copy_from_slice(&shared) } else { shared };
                        lane.push(Slot { bytes, packet, charge });
                    }
                    self.release(from, now);
                }
                Err(fault) => {
                    // Of the first bytes only: whoever has spoken MQTT before sends a malformed packet.
                    let fault =
                        self.is_first(from).then(|| unlike_mqtt(from, buf)).flatten().unwrap_or(fault);
                    self.flush(from, buf, &mut run);
                    buf.clear();
                    // Where the session is ending anyway, what comes from there is not looked at any more.
                    if let Some(link) = self.state.link_mut() {
                        link.direction_mut(from).lane.close();
                    }
                    self.end(fault, now);
                }
            }
            if self.state.discards(from) {
                run = run.min(buf.len());
                self.flush(from, buf, &mut run);
                buf.clear();
                break;
            }
        }
        self.flush(from, buf, &mut run);
        tally.tell(&*self.cx.setting.meter, from);
        self.cx.cut[from as usize] = self.cx.work == 0 && !buf.is_empty();
    }

    /// Whether packets of this connection are traced, where some are.
    fn is_traced(&self) -> bool {
        let meter = &self.cx.setting.meter;
        match &self.state {
            State::Greeting(greeting) => meter.traces_connection(&greeting.origin, None),
            state => {
                state.link().is_some_and(|link| meter.traces_connection(&link.peer.origin, Some(&link.peer)))
            }
        }
    }

    /// What becomes of `n` bytes that are taken, behind a `run` of bytes that leave as they are.
    fn carry_out(
        &mut self,
        from: Side,
        buf: &mut BytesMut,
        run: &mut usize,
        n: usize,
        passage: Passage,
        now: Instant,
    ) {
        match passage {
            Passage::AsItIs => *run += n,
            Passage::ThenOurs => {
                *run += n;
                self.send_ours(from, buf, run);
            }
            Passage::Instead(bytes) => {
                self.flush(from, buf, run);
                buf.advance(n);
                self.send(from.other(), bytes);
            }
            Passage::Nowhere => {
                self.flush(from, buf, run);
                buf.advance(n);
            }
            Passage::Last(None, fault) => {
                *run += n;
                self.flush(from, buf, run);
                self.stop(Stop::Disconnected(from, *fault), now);
            }
            Passage::Last(Some(bytes), fault) => {
                self.flush(from, buf, run);
                buf.advance(n);
                self.send(from.other(), bytes);
                self.stop(Stop::Disconnected(from, *fault), now);
            }
        }
    }

    /// Sends the packets of our own that may follow a `run` that has gone on, behind it.
    fn send_ours(&mut self, from: Side, buf: &mut BytesMut, run: &mut usize) {
        if self.state.link().is_some_and(|link| link.has_ours(from)) {
            self.flush(from, buf, run);
            if let Some(link) = self.state.link_mut() {
                link.send_ours(&mut self.cx, from);
            }
        }
    }

    /// Sends the run of untouched packets at the front of `buf` as one slice of it.
    fn flush(&mut self, from: Side, buf: &mut BytesMut, run: &mut usize) {
        if *run > 0 {
            let bytes = buf.split_to(*run).freeze();
            *run = 0;
            self.send(from.other(), bytes);
        }
    }

    fn send(&mut self, to: Side, bytes: Bytes) {
        if let Some(link) = self.state.link() {
            link.send(&mut self.cx, to, bytes);
        }
    }

    /// Whether nothing of that side was ever understood.
    fn is_first(&self, from: Side) -> bool {
        match &self.state {
            State::Greeting(_) => from == Side::Client,
            State::Opening(opening) => from == Side::Broker && opening.is_introduced(),
            State::Open(_) | State::Ending(_) | State::Rejected(_) | State::Over(_) => false,
        }
    }

    fn step(
        &mut self,
        from: Side,
        data: &[u8],
        tally: &mut PacketTally,
        now: Instant,
    ) -> Result<Step, Fault> {
        if let Some(step) = self.body_step(from, data, tally, now)? {
            return Ok(step);
        }
        if !self.state.takes(&self.cx, from) || self.cx.account.needs_more(from, data.len()) {
            return Ok(Step::Wait);
        }
        let version = self.state.link().map(|link| link.terms.version);
        let header = FixedHeader::parse(data, super::sender(from), version)
            .map_err(|error| Fault::Malformed { side: from, error })?;
        let Some(header) = header else { return Ok(Step::Wait) };
        let total = header.total();
        if self.is_too_large(from, &header) {
            // The CONNECT is not read, but its first bytes say in which version the refusal can be understood.
            if let State::Greeting(greeting) = &mut self.state {
                greeting.answer_in_words_of(data, None);
            }
            return Err(larger_than_allowed(from, header.kind));
        }
        if from == Side::Client
            && let State::Open(link) = &mut self.state
            && !link.keeps_rate(&self.cx, header.kind, total, now)?
        {
            return Ok(Step::Wait);
        }
        if header.kind != PacketType::Publish && data.len() < total {
            // More than every connection has: room for all of it is found before more of it is read.
            if from == Side::Client && total > RESERVE {
                return self.wait_for_whole(header.kind, total);
            }
            return Ok(Step::Wait);
        }
        let effects = if self.cx.traces() { self.cx.effects.len() } else { 0 };
        // Looked at where it is: to take it out and give it on would move it twice for each packet.
        let result = self.read_packet(from, &header, data, now);
        let Ok(step) = &result else { return result };
        if self.cx.traces()
            && let Some(link) = self.state.link()
        {
            self.cx.trace_step(link, from, &header, data, step, effects);
        }
        if let Some(here) = step.taken() {
            self.cx.count(from, 1, here as u64);
            self.cx.account.taken(from);
            tally.add(header.kind, 1, here as u64, &*self.cx.setting.meter, from);
            if from == Side::Client
                && let State::Open(link) = &mut self.state
            {
                link.charge_rate(header.kind, here, total);
            }
        }
        result
    }

    /// A whole packet, or the beginning of a PUBLISH, is for the state to read.
    fn read_packet(
        &mut self,
        from: Side,
        header: &FixedHeader,
        data: &[u8],
        now: Instant,
    ) -> Result<Step, Fault> {
        match &mut self.state {
            State::Greeting(greeting) if (from, header.kind) == (Side::Client, PacketType::Connect) => {
                let Some(greeted) = greeting.read(&mut self.cx, header, data)? else { return Ok(Step::Wait) };
                // From the whole CONNECT on: a client that sends it slowly has had the connect timeout for that.
                let until = now + self.cx.setting.limits.admission_timeout;
                let mut opening = Opening::new(greeted.link, greeted.connect, greeted.tag, until);
                let asked = opening.take_answer(&mut self.cx, greeted.ruled, now);
                self.state = State::Opening(opening);
                self.end_if(asked, now);
                Ok(Step::swallow(header.total()))
            }
            State::Opening(opening) => match opening.read(&mut self.cx, from, header, data, now)? {
                Opened::NotYet(step) => Ok(step),
                Opened::Yes(step, session_present) => {
                    self.open(session_present, now);
                    Ok(step)
                }
            },
            State::Open(link) => link.read(&mut self.cx, from, header, data, now),
            State::Ending(ending) if from == Side::Broker => {
                ending.link.read(&mut self.cx, from, header, data, now)
            }
            State::Greeting(_) | State::Ending(_) | State::Rejected(_) | State::Over(_) => {
                Err(out_of_place(from, header.kind))
            }
        }
    }

    /// A payload that streams goes on, or goes nowhere. `None`: it is none.
    ///
    /// # Errors
    /// The client sends it too fast.
    fn body_step(
        &mut self,
        from: Side,
        data: &[u8],
        tally: &mut PacketTally,
        now: Instant,
    ) -> Result<Option<Step>, Fault> {
        let Some(link) = self.state.link_mut() else { return Ok(None) };
        let body = link.direction(from).body;
        if body.left == 0 {
            return Ok(None);
        }
        // Its head has not left: the payload stays in the buffer, and that side is not read.
        if body.follows == Follows::Verdict {
            return Ok(Some(Step::Wait));
        }
        let n = data.len().min(body.left as usize);
        let n = link.paced_payload(&self.cx, from, n, now)?;
        if n == 0 {
            return Ok(Some(Step::Wait));
        }
        let body = &mut link.direction_mut(from).body;
        body.left -= n as u32;
        let (last, follows) = (body.left == 0, body.follows);
        self.cx.count(from, 0, n as u64);
        tally.add(PacketType::Publish, 0, n as u64, &*self.cx.setting.meter, from);
        Ok(Some(match follows {
            // Packets of our own that waited for its end go right behind it.
            Follows::Head if last => {
                link.finish_stream(&mut self.cx, from);
                Step::Take(n, Passage::ThenOurs)
            }
            Follows::Head => Step::pass(n),
            // What was refused is read to its end all the same, or the next packet could not be found.
            Follows::Nothing | Follows::Verdict => Step::swallow(n),
        }))
    }

    fn is_too_large(&self, from: Side, header: &FixedHeader) -> bool {
        let (limits, total) = (&self.cx.setting.limits, header.total());
        let granted = self.state.link().map_or(u32::MAX, |link| link.terms.granted_packet);
        (from == Side::Client && total > limits.max_packet_size.min(granted) as usize)
            || (header.kind == PacketType::Connect && total > limits.max_connect as usize)
            || (header.kind != PacketType::Publish && total > limits.max_held_packet as usize)
    }

    /// A packet of the client's is not whole yet. It is read on only while there is room for all of it.
    fn wait_for_whole(&mut self, packet: PacketType, total: usize) -> Result<Step, Fault> {
        let Some(weight) = self.state.weight() else { return Ok(Step::Wait) };
        match self.cx.account.room_for(&self.cx.setting.budget, weight, Side::Client, packet, total) {
            Room::Yes | Room::Wait => Ok(Step::Wait),
            Room::Never => Err(Fault::OverBudget { packet }),
        }
    }
}

const fn larger_than_allowed(side: Side, packet: PacketType) -> Fault {
    Fault::Protocol {
        side,
        packet,
        what: "larger than allowed",
        rule: if matches!(side, Side::Client) { "MQTT-3.2.2-15" } else { "MQTT-3.1.2-24" },
        reason: ReasonCode::PACKET_TOO_LARGE,
    }
}
