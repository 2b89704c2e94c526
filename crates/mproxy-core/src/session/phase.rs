//! From CONNECT to CONNACK: the client is admitted, the broker is dialled, the broker answers.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mproxy_codec::error::{ErrorKind, Malformed};
use mproxy_codec::frame::Header;
use mproxy_codec::packet::{Auth, Connack, Connect};
use mproxy_codec::property::PropertyId;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::{PacketType, Version};

use super::ending::Ending;
use super::introduce::parse_connect;
use super::question::OpenQuestion;
use super::resolve::{Form, Resolution, resolve};
use super::terms::Terms;
use super::timer::Deadline;
use super::waiting::{Waiting, may_pass};
use super::{Effect, Session, Step, Who};
use crate::budget::{QUESTION, Room};
use crate::chain::Ruled;
use crate::event::{Happening, Kind};
use crate::fault::{Fault, Unreachable};
use crate::peer::{Encoded, Peer, Side};
use crate::policy::{Admission, ConnectDecision, ConnectQuestion, Hook, Ruling, Source, Want};

/// Where a session stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// CONNECT is awaited.
    Greeting,
    /// The advisers are asked about its CONNECT, perhaps not for the first time.
    Admitting(Box<Waiting>),
    /// The broker is being reached, perhaps not for the first time; it will get this CONNECT.
    Dialing(Box<Waiting>),
    /// The broker has the CONNECT; its CONNACK is awaited.
    Introduced,
    /// Both sides speak.
    Open,
    /// It is ending.
    Ending(Box<Ending>),
    /// It has ended.
    Over,
}

impl Phase {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Admitting(_) => "admitting",
            Self::Dialing(_) => "dialing",
            Self::Introduced => "introduced",
            Self::Open => "open",
            Self::Ending(_) => "ending",
            Self::Over => "over",
        }
    }

    pub(super) const fn ending(&self) -> bool {
        matches!(self, Self::Ending(_) | Self::Over)
    }

    /// Whether packets from that side are looked at. `auth`: AUTH may come before CONNACK.
    pub(super) const fn takes(&self, from: Side, auth: bool) -> bool {
        match (self, from) {
            (Self::Greeting, Side::Client) | (Self::Introduced, Side::Broker) | (Self::Open, _) => true,
            // What it still answers, until it has ended.
            (Self::Ending(_), Side::Broker) => true,
            // A client may send on without waiting for CONNACK. That stays where it is until there is one, and is not
            // even read, so that it cannot pile up. Only extended authentication has to be heard.
            (Self::Introduced, Side::Client) => auth,
            (Self::Admitting(_) | Self::Dialing(_) | Self::Over, _)
            | (Self::Ending(_), Side::Client)
            | (Self::Greeting, Side::Broker) => false,
        }
    }
}

impl Session {
    /// A packet before the session is open.
    pub(super) fn greeting_step(
        &mut self,
        from: Side,
        header: &Header,
        data: &[u8],
        now: Instant,
    ) -> Result<Step, Fault> {
        match (from, header.kind) {
            (Side::Client, PacketType::Connect) if matches!(self.phase, Phase::Greeting) => {
                self.connect_came(header, data, now)
            }
            (_, PacketType::Auth) if self.terms.auth => {
                let auth = Auth::parse(header, data, super::sender(from))
                    .map_err(|error| Fault::Malformed { side: from, error })?;
                self.auth_in_turn(from, &auth)?;
                if self.auth_step() {
                    self.timer.arm(Deadline::Connack, now, self.setting.limits.connack_timeout);
                }
                Ok(Step::Pass(header.total()))
            }
            // [MQTT-3.1.0-2], [MQTT-4.12.0-7]
            (Side::Client, PacketType::Connect | PacketType::Auth) => {
                Err(self.out_of_place(from, header.kind))
            }
            // [MQTT-3.1.2-30] leaves these two to a client that authenticates step by step.
            (Side::Client, PacketType::Disconnect) => self.other_step(from, header, data),
            (Side::Client, _) => Err(self.out_of_place(from, header.kind)),
            (Side::Broker, PacketType::Connack) => self.connack_came(header, data, now),
            (Side::Broker, _) => Err(self.out_of_place(from, header.kind)),
        }
    }

    fn connect_came(&mut self, header: &Header, data: &[u8], now: Instant) -> Result<Step, Fault> {
        let connect = Connect::parse(header, data).map_err(|error| {
            // In whose words the refusal is to be: those of the version it claims, or of the nearest one.
            self.answer_in_words_of(data, Some(&error));
            Fault::Malformed { side: Side::Client, error }
        })?;
        self.terms = Terms::proposed(&connect);
        let total = header.total();
        let will = connect.will.as_ref().map(|will| will.properties);
        // The packet, what the peer keeps of it, and the question about it.
        let room = self.room_for(Side::Client, PacketType::Connect, 3 * total + QUESTION);
        if room == Room::Never
            || [Some(connect.properties), will]
                .into_iter()
                .flatten()
                .any(|properties| self.too_many_user_properties(properties))
        {
            return Err(Fault::OverBudget { packet: PacketType::Connect });
        }
        if room == Room::Wait {
            return Ok(Step::Wait);
        }
        if let Some(method) = connect.properties.text(PropertyId::AuthenticationMethod) {
            self.cold().method = Some(method.into());
        }
        let Who::Stranger(origin) = &self.who else { return Ok(Step::Swallow(total)) };
        let peer = Arc::new(Peer {
            origin: Arc::clone(origin),
            version: connect.version,
            client_id: connect.client_id.into(),
            username: connect.username.map(Into::into),
            keep_alive: connect.keep_alive,
            clean_start: connect.clean_start,
            attributes: Box::default(),
            grant: None,
            user_properties: connect.properties.user().collect(),
            encoded: Encoded::default(),
        });
        self.peer_weight = peer.weight() as u32;
        let packet = Bytes::copy_from_slice(&data[..header.total()]);
        let answer = self.ask_about(&peer, &connect, &packet);
        self.who = Who::Known(peer);
        let until = now + self.setting.limits.admission_timeout;
        self.phase = Phase::Admitting(Waiting::new(packet, until));
        self.answered(answer, now);
        Ok(Step::Swallow(total))
    }

    /// Asks about the CONNECT once more.
    pub(super) fn ask_admission(&mut self, now: Instant) {
        let (Phase::Admitting(waiting), Who::Known(peer)) = (&self.phase, &self.who) else { return };
        // It was read before.
        let Some(connect) = parse_connect(&waiting.connect) else { return };
        let answer = self.ask_about(peer, &connect, &waiting.connect);
        self.answered(answer, now);
    }

    fn ask_about(&self, peer: &Arc<Peer>, connect: &Connect<'_>, packet: &Bytes) -> Ruled<ConnectDecision> {
        match self.setting.advisers.want(Hook::Connect) {
            Want::Nothing => Ruled::Now(Ruling::allowed(Source::Unasked)),
            Want::Head | Want::Payload(_) => {
                self.setting.advisers.connect(&ConnectQuestion { peer, connect, packet })
            }
        }
    }

    fn answered(&mut self, ruled: Ruled<ConnectDecision>, now: Instant) {
        let Phase::Admitting(waiting) = &self.phase else { return };
        self.timer.arm_at(Deadline::Admission, waiting.until());
        match ruled {
            Ruled::Now(ruling) => self.admitted(ruling, now),
            Ruled::Later(pending) => {
                self.effects.push(Effect::Ask(OpenQuestion::admission(waiting.asked(), pending)));
            }
        }
    }

    /// The advisers' answer to the CONNECT.
    pub(super) fn admitted(&mut self, ruling: Ruling<ConnectDecision>, now: Instant) {
        let (Phase::Admitting(waiting), Who::Known(peer)) = (&self.phase, &self.who) else { return };
        let (sent, setting, peer) = (waiting.connect.clone(), Arc::clone(&self.setting), Arc::clone(peer));
        let resolved = resolve(&setting, &peer, Hook::Connect, ruling, |admission| {
            let connect = self.introduce(&sent, admission.as_deref())?;
            Ok(match admission {
                None => Form::Plain((connect, None)),
                Some(admission) => Form::Changed((connect, Some(admission))),
            })
        });
        let source = resolved.source;
        let may_pass = match &resolved.what {
            Resolution::Undecided(undecided) => may_pass(undecided),
            Resolution::Allow(_) | Resolution::AllowChanged(_) | Resolution::Refuse(_) => false,
        };
        if may_pass && let Resolution::Undecided(undecided) = &resolved.what {
            let fault = undecided.clone().fault(Hook::Connect);
            if self.will_try_again(&fault, now) {
                return;
            }
        }
        resolved.count(&setting, Hook::Connect);
        match resolved.what.form() {
            Ok((bytes, admission)) => {
                if let Some(admission) = admission {
                    self.apply_admission(&bytes, *admission, source);
                }
                if let Phase::Admitting(waiting) = &self.phase {
                    self.phase = Phase::Dialing(waiting.admitted(bytes, now));
                }
                self.no_stranger_any_more();
                self.dial();
            }
            Err(refused) => self.end(refused.fault(Hook::Connect), now),
        }
    }

    /// The peer is from now on who the policy says it is.
    fn apply_admission(&mut self, bytes: &[u8], admission: Admission, source: Source) {
        let Some(connect) = parse_connect(bytes) else { return };
        self.terms.will = connect.will.is_some();
        if let Some(grant) = &admission.grant {
            self.cold().granter = Some(source);
            self.terms.mapped = grant.mapping.is_some();
            self.terms.granted_packet = grant.limits.packet_size.unwrap_or(u32::MAX);
        }
        if let Who::Known(peer) = &mut self.who {
            let peer = Arc::make_mut(peer);
            peer.client_id = connect.client_id.into();
            peer.username = connect.username.map(Into::into);
            peer.attributes = admission.attributes.into();
            peer.grant = admission.grant;
            self.peer_weight = peer.weight() as u32;
        }
    }

    /// What became of the dial.
    pub(super) fn met_broker(&mut self, outcome: Result<(), Unreachable>, now: Instant) {
        let Phase::Dialing(waiting) = &self.phase else { return };
        match outcome {
            Err(why) => {
                let fault = Fault::Unreachable(why);
                if !self.will_try_again(&fault, now) {
                    self.end(fault, now);
                }
            }
            Ok(()) => {
                let connect = waiting.connect.clone();
                self.phase = Phase::Introduced;
                self.timer.arm(Deadline::Connack, now, self.setting.limits.connack_timeout);
                self.effects.send(Side::Broker, connect);
            }
        }
    }

    fn connack_came(&mut self, header: &Header, data: &[u8], now: Instant) -> Result<Step, Fault> {
        // A broker that knows no 5.0 refuses in 3.x's format, and the client falls back. Its "yes" in that format would be
        // another matter: two framings on one connection.
        let version = match Connack::parse(header, data, Version::V311) {
            Ok(Connack { reason: 1.., .. }) if self.terms.version.is_v5() => Version::V311,
            _ => self.terms.version,
        };
        let connack = Connack::parse(header, data, version)
            .map_err(|error| Fault::Malformed { side: Side::Broker, error })?;
        if connack.reason != 0 {
            return Ok(Step::Last(header.total(), Fault::BrokerRefused { code: connack.reason }));
        }
        self.timer.disarm();
        self.terms.accept(&connack);
        if let Some(assigned) = connack.properties.text(PropertyId::AssignedClientIdentifier)
            && let Who::Known(peer) = &mut self.who
        {
            Arc::make_mut(peer).client_id = assigned.into();
        }
        let replaced = self.connack_for_client(&connack)?;
        self.phase = Phase::Open;
        self.grant_begins(now);
        self.reported = true;
        if self.setting.sink.want(Kind::Connect) != Want::Nothing {
            self.report(Happening::Connect { session_present: connack.session_present });
        }
        Ok(match replaced {
            None => Step::Pass(header.total()),
            Some(bytes) => Step::Replace(header.total(), bytes),
        })
    }

    /// Sets the version in which a CONNECT is refused that could not be read: the one it claims, or the nearest.
    pub(super) fn answer_in_words_of(&mut self, connect: &[u8], error: Option<&Malformed>) {
        self.terms.version = Connect::claimed_version(connect).unwrap_or_else(|| {
            let unknown = error.filter(|error| error.kind == ErrorKind::UnsupportedVersion);
            let Some((name, level)) = unknown
                .and_then(|error| connect.split_at_checked(error.offset as usize))
                .and_then(|(name, rest)| rest.first().map(|level| (name, level & 0x7F)))
            else {
                return Version::V311;
            };
            match level {
                // Whoever says the old name knows the old words.
                _ if name.ends_with(Version::V31.protocol_name().as_bytes()) => Version::V31,
                5.. => Version::V5,
                _ => Version::V311,
            }
        });
    }

    /// The answer to somebody whose CONNECT was never understood, if there is one.
    pub(super) fn greeting_answer(&self, fault: &Fault) -> Option<Bytes> {
        let error = match fault {
            Fault::Malformed { error, .. } => error,
            Fault::Protocol { packet: PacketType::Connect, reason, .. } if self.terms.version.is_v5() => {
                return self.terms.connack(*reason, None, None);
            }
            Fault::OverBudget { packet: PacketType::Connect } => {
                return self.terms.connack(fault.reason(), None, None);
            }
            _ => return None,
        };
        // Before the version is known there are no words to answer in, and neither are there for another protocol.
        if error.packet != Some(PacketType::Connect) || error.kind == ErrorKind::ProtocolName {
            return None;
        }
        let told = self.terms.version.is_v5()
            || matches!(error.kind, ErrorKind::UnsupportedVersion | ErrorKind::ClientIdEmpty);
        if told { self.terms.connack(error.reason(), None, None) } else { None }
    }

    /// What is wrong with these bytes, where they are the first of that side and belong to another protocol. To call them
    /// a malformed packet would be right, and help nobody.
    pub(super) fn unlike_mqtt(&self, side: Side, first: &[u8]) -> Option<Fault> {
        let came = match (&self.phase, side) {
            (Phase::Greeting, Side::Client) => from_a_client(first)?,
            (Phase::Introduced, Side::Broker) => from_a_broker(first)?,
            _ => return None,
        };
        Some(Fault::NotMqtt { side, came })
    }

    pub(super) fn out_of_place(&self, side: Side, packet: PacketType) -> Fault {
        let rule = match packet {
            PacketType::Connect => "MQTT-3.1.0-2",
            PacketType::Auth if side == Side::Client => "MQTT-4.12.0-7",
            PacketType::Auth => "MQTT-4.12.0-6",
            PacketType::Connack => "MQTT-3.2.0-2",
            _ if side == Side::Client => "MQTT-3.1.2-30",
            _ => "MQTT-3.2.0-1",
        };
        Fault::Protocol { side, packet, what: "may not come now", rule, reason: ReasonCode::PROTOCOL_ERROR }
    }
}

/// What a client means that begins so. No CONNECT does: its first byte is 0x10.
fn from_a_client(first: &[u8]) -> Option<&'static str> {
    const METHODS: [&[u8]; 8] = [b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"DELE", b"CONN", b"PATC"];
    Some(match first {
        // A handshake record, and the ClientHello of SSLv2.
        [0x16, 3, ..] | [0x80, _, 1, 3, ..] => {
            "TLS: use a port with TLS (mqtts), or turn TLS off in the client"
        }
        [b'P', b'R', b'O', b'X', b'Y', ..] | [b'\r', b'\n', b'\r', b'\n', 0, ..] => {
            "a PROXY header: set proxy_protocol for this listener, or turn it off in the load balancer"
        }
        [b'S', b'S', b'H', b'-', ..] => "SSH",
        [b'P', b'R', b'I', b' ', ..] => "HTTP/2",
        _ if METHODS.iter().any(|method| first.starts_with(method)) => {
            "an HTTP request: use a port for WebSocket (ws, wss), or the admin port for health checks and metrics"
        }
        _ => return None,
    })
}

/// The same of a broker, whose first byte should be 0x20 or 0xF0.
fn from_a_broker(first: &[u8]) -> Option<&'static str> {
    Some(match first {
        [0x15 | 0x16, 3, ..] => "TLS: set the target's scheme to mqtts",
        [b'H', b'T', b'T', b'P', ..] => {
            "an HTTP answer: set the target's scheme to ws, or use the broker's MQTT port"
        }
        [b'S', b'S', b'H', b'-', ..] => "SSH: this is not the broker's port",
        _ => return None,
    })
}
