//! A connection whose CONNECT is awaited.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mproxy_codec::error::{ErrorKind, Malformed};
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::Connect;
use mproxy_codec::property::PropertyId;
use mproxy_codec::types::{PacketType, Version};

use super::auth_method::AuthMethod;
use super::context::Context;
use super::effect::Effect;
use super::ending::SideEnd;
use super::holding::{Holder, Weight};
use super::link::Link;
use super::opening::ask_admission;
use super::rejected::Rejected;
use super::setting::OnUnavailable;
use super::terms::Terms;
use super::timer::Deadline;
use crate::budget::{QUESTION, Room};
use crate::chain::Ruled;
use crate::fault::Fault;
use crate::gate::ConnectTag;
use crate::peer::{Encoded, Origin, Peer, Side};
use crate::policy::ConnectDecision;

/// A connection whose CONNECT is awaited.
pub(super) struct Greeting {
    pub(super) origin: Arc<Origin>,
    /// In whose words it would be refused.
    terms: Terms,
}

/// A client that has said CONNECT.
pub(super) struct Greeted {
    pub(super) link: Link,
    /// Its packet.
    pub(super) connect: Bytes,
    /// By what the gate knows it again.
    pub(super) tag: ConnectTag,
    /// What the advisers say of it.
    pub(super) ruled: Ruled<ConnectDecision>,
}

impl Greeting {
    pub(super) fn new(origin: Arc<Origin>) -> Self {
        Self { origin, terms: Terms::default() }
    }

    /// A whole CONNECT has come. `None`: there is no room for it now.
    ///
    /// # Errors
    /// It cannot be read, or is more than mproxy may hold.
    pub(super) fn read(
        &mut self,
        cx: &mut Context,
        header: &FixedHeader,
        data: &[u8],
    ) -> Result<Option<Greeted>, Fault> {
        let connect = Connect::parse(header, data).map_err(|error| {
            // In whose words the refusal is to be: those of the version it claims, or of the nearest one.
            self.answer_in_words_of(data, Some(&error));
            Fault::Malformed { side: Side::Client, error }
        })?;
        self.terms = Terms::from_connect(&connect);
        let total = header.total();
        let will = connect.will.as_ref().map(|will| will.properties);
        // The packet, what the peer keeps of it, and the question about it.
        let weight = Weight { holder: Holder::stranger(&self.origin), bytes: 0, lets_go: || false };
        let room = cx.account.room_for(
            &cx.setting.budget,
            weight,
            Side::Client,
            PacketType::Connect,
            3 * total + QUESTION,
        );
        if room == Room::Never
            || [Some(connect.properties), will]
                .into_iter()
                .flatten()
                .any(|properties| cx.too_many_user_properties(properties))
        {
            return Err(Fault::OverBudget { packet: PacketType::Connect });
        }
        if room == Room::Wait {
            return Ok(None);
        }
        let peer = Arc::new(Peer {
            origin: Arc::clone(&self.origin),
            version: connect.version,
            client_id: connect.client_id.into(),
            username: connect.username.map(Into::into),
            said: None,
            broker_client_id: None,
            keep_alive: connect.keep_alive,
            clean_start: connect.clean_start,
            attributes: Box::default(),
            grant: None,
            user_properties: connect.properties.user().collect(),
            encoded: Encoded::default(),
        });
        // Copied: kept as a slice, it would hold the 64 KiB that it was read into for as long as the client waits.
        let packet = Bytes::copy_from_slice(&data[..total]);
        let tag = cx.setting.gate.as_ref().map_or_else(ConnectTag::default, |gate| gate.tag(&connect));
        let ruled = ask_admission(&cx.setting, &peer, &connect, &packet, tag);
        let mut link = Link::new(peer, self.terms);
        if let Some(method) = connect.properties.text(PropertyId::AuthenticationMethod) {
            link.rare().method = Some(Box::new(AuthMethod::new(method)));
        }
        Ok(Some(Greeted { link, connect: packet, tag, ruled }))
    }

    /// It ends without a client, for this reason.
    pub(super) fn reject(self, cx: &mut Context, fault: Fault, now: Instant) -> Rejected {
        // Whoever was lost hears nothing; trouble is not a refusal.
        let silent = cx.setting.on_unavailable == OnUnavailable::Close && fault.is_trouble();
        if !silent && let Some(bytes) = self.answer(&fault) {
            cx.effects.push(Effect::Send { to: Side::Client, bytes });
        }
        cx.timer.arm(Deadline::Close, now, cx.setting.limits.close_timeout);
        let gone = matches!(fault, Fault::Lost { side: Side::Client, .. });
        Rejected { origin: self.origin, fault, client: if gone { SideEnd::Gone } else { SideEnd::Open } }
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
    pub(super) fn answer(&self, fault: &Fault) -> Option<Bytes> {
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
        // 3.x answers with a return code only what one of them says; anything else it closes upon (3.1.4 of 3.1.1).
        let told = self.terms.version.is_v5()
            || matches!(error.kind, ErrorKind::UnsupportedVersion | ErrorKind::ClientIdEmpty);
        if told { self.terms.connack(error.reason(), None, None) } else { None }
    }
}
