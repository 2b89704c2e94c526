//! What CONNECT and CONNACK agreed on, as far as mproxy has to keep to it.

use mproxy_codec::packet::{Connack, Connect};
use mproxy_codec::property::PropertyId;
use mproxy_codec::types::Version;
use serde::{Deserialize, Serialize};

use crate::peer::Side;

/// Small and plain: every session carries one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Terms {
    pub(super) version: Version,
    /// The client may have reason strings in acknowledgements [MQTT-3.1.2-29].
    pub(super) problem_information: bool,
    /// The CONNECT that went to the broker holds a will.
    pub(super) will: bool,
    /// The broker was asked for enhanced authentication: AUTH passes.
    pub(super) auth: bool,
    /// The broker has sent an AUTH that the client is to answer.
    pub(super) auth_asked: bool,
    /// Steps of authentication before CONNACK.
    pub(super) auth_steps: u8,
    /// What the client asked for was cut short, and it has to be told by CONNACK.
    pub(super) keep_alive_capped: bool,
    pub(super) expiry_capped: bool,
    /// The policy named a client that had no name; likewise.
    pub(super) id_given: bool,
    /// CONNECT let the session end with the connection: DISCONNECT may not say otherwise (3.14.2.2.2), whatever
    /// CONNACK said in between.
    pub(super) expires_at_once: bool,
    /// The broker goes on with an old session, or may: there are subscriptions that we have not seen.
    pub(super) resumed: bool,
    /// The client's topics stand elsewhere at the broker.
    pub(super) mapped: bool,
    /// Bytes of the largest packet that the client's grant lets it send.
    pub(super) granted_packet: u32,
    pub(super) client_max_packet: u32,
    pub(super) broker_max_packet: u32,
    /// Topic aliases that the client takes.
    pub(super) client_aliases: u16,
    /// Topic aliases that the broker takes.
    pub(super) broker_aliases: u16,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            version: Version::V311,
            problem_information: true,
            will: false,
            auth: false,
            auth_asked: false,
            auth_steps: 0,
            keep_alive_capped: false,
            expiry_capped: false,
            id_given: false,
            expires_at_once: false,
            resumed: false,
            mapped: false,
            granted_packet: u32::MAX,
            client_max_packet: u32::MAX,
            broker_max_packet: u32::MAX,
            client_aliases: 0,
            broker_aliases: 0,
        }
    }
}

impl Terms {
    /// The client's half.
    pub(super) fn from_connect(connect: &Connect<'_>) -> Self {
        let properties = &connect.properties;
        Self {
            version: connect.version,
            // Absent means 1 (3.1.2.11.7).
            problem_information: properties.byte(PropertyId::RequestProblemInformation) != Some(0),
            will: connect.will.is_some(),
            auth: properties.contains(PropertyId::AuthenticationMethod),
            // Absent means 0 (3.1.2.11.2).
            expires_at_once: properties.u32(PropertyId::SessionExpiryInterval).unwrap_or(0) == 0,
            // Absent, there is no bound but the protocol's own (3.1.2.11.4), and no alias is taken (3.1.2.11.5).
            client_max_packet: properties.u32(PropertyId::MaximumPacketSize).unwrap_or(u32::MAX),
            client_aliases: properties.u16(PropertyId::TopicAliasMaximum).unwrap_or(0),
            ..Self::default()
        }
    }

    /// The broker's half.
    pub(super) fn accept(&mut self, connack: &Connack<'_>) {
        self.resumed = connack.session_present;
        let properties = &connack.properties;
        // Absent, as in CONNECT (3.2.2.3.6, 3.2.2.3.8).
        self.broker_max_packet = properties.u32(PropertyId::MaximumPacketSize).unwrap_or(u32::MAX);
        self.broker_aliases = properties.u16(PropertyId::TopicAliasMaximum).unwrap_or(0);
    }

    /// Bytes of the largest packet that side takes.
    pub(super) const fn max_packet_to(&self, side: Side) -> u32 {
        match side {
            Side::Client => self.client_max_packet,
            Side::Broker => self.broker_max_packet,
        }
    }

    /// Topic aliases that side takes.
    pub(super) const fn aliases_to(&self, side: Side) -> u16 {
        match side {
            Side::Client => self.client_aliases,
            Side::Broker => self.broker_aliases,
        }
    }
}
