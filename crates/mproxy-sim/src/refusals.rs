//! What a refusal looks like on the wire, as data: packet by packet, version by version, action by action. The tests of
//! `mproxy-core` and of `mproxy-server` play each line, and `docs/refusals.md` is written from it.
//!
//! | room | holds |
//! |---|---|
//! | here | what becomes of the packet |
//! | [`codes`] | which reason code the client sees |
//! | [`strict`] | what ends a connection without anybody being asked |
//! | `scene` | a line of it in bytes |
//! | [`page`] | all of it, as `docs/refusals.md` |

pub mod codes;
pub mod page;
mod scene;
pub mod strict;

use mproxy_core::policy::Action;

/// A packet that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedPacket {
    /// CONNECT.
    Connect,
    /// PUBLISH of the client, with this QoS.
    Publish(u8),
    /// Some filters of a SUBSCRIBE.
    SomeFilters,
    /// All filters of a SUBSCRIBE.
    AllFilters,
    /// PUBLISH of the broker, with this QoS.
    Delivery(u8),
}

/// What the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToClient {
    /// Nothing.
    Nothing,
    /// CONNACK with the code.
    Connack,
    /// The acknowledgement with the code.
    Refusal,
    /// The acknowledgement, as if the packet had been taken.
    Taken,
    /// One SUBACK in the client's order: the code for what is refused, the broker's codes for the rest.
    Suback,
    /// DISCONNECT with the code.
    Goodbye,
}

/// What the broker gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToBroker {
    /// Nothing. Of a CONNECT: it is not even dialled.
    Nothing,
    /// The SUBSCRIBE without what was refused.
    TheRest,
    /// The acknowledgement, as if the client had taken the message.
    Taken,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing: the session goes on.
    GoesOn,
    /// PUBREL is answered with PUBCOMP here, and a repeated PUBLISH (DUP) with PUBREC; neither goes further.
    OurFlow,
    /// The session ends. The broker sees no DISCONNECT, so a will is published.
    Ends,
}

/// What is seen of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalView {
    /// By the client.
    pub client: ToClient,
    /// By the broker.
    pub broker: ToBroker,
    /// What follows.
    pub then: Then,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct RefusalRow {
    /// What is refused.
    pub packet: RefusedPacket,
    /// How.
    pub action: Action,
    /// What is seen of it in MQTT 5.0.
    pub v5: RefusalView,
    /// What is seen of it in MQTT 3.1.1 and 3.1.
    pub v3: RefusalView,
}

const fn seen(client: ToClient, broker: ToBroker, then: Then) -> RefusalView {
    RefusalView { client, broker, then }
}

const fn same(packet: RefusedPacket, action: Action, seen: RefusalView) -> RefusalRow {
    RefusalRow { packet, action, v5: seen, v3: seen }
}

const fn ends(packet: RefusedPacket) -> RefusalRow {
    RefusalRow {
        packet,
        action: Action::Disconnect,
        v5: seen(ToClient::Goodbye, ToBroker::Nothing, Then::Ends),
        v3: seen(ToClient::Nothing, ToBroker::Nothing, Then::Ends),
    }
}

const NO_CONNACK: RefusalView = seen(ToClient::Connack, ToBroker::Nothing, Then::Ends);
const DROPPED: RefusalView = seen(ToClient::Nothing, ToBroker::Nothing, Then::GoesOn);
const REFUSED: RefusalView = seen(ToClient::Refusal, ToBroker::Nothing, Then::GoesOn);
const TAKEN: RefusalView = seen(ToClient::Taken, ToBroker::Nothing, Then::GoesOn);
const TAKEN_TWICE: RefusalView = seen(ToClient::Taken, ToBroker::Nothing, Then::OurFlow);
const MERGED: RefusalView = seen(ToClient::Suback, ToBroker::TheRest, Then::GoesOn);
const ANSWERED: RefusalView = seen(ToClient::Suback, ToBroker::Nothing, Then::GoesOn);
const DELIVERED: RefusalView = seen(ToClient::Nothing, ToBroker::Taken, Then::GoesOn);
const DELIVERED_TWICE: RefusalView = seen(ToClient::Nothing, ToBroker::Taken, Then::OurFlow);

/// The table: every packet that can be refused, every action.
pub const TABLE: &[RefusalRow] = &[
    same(RefusedPacket::Connect, Action::Reject, NO_CONNACK),
    same(RefusedPacket::Connect, Action::Drop, NO_CONNACK),
    same(RefusedPacket::Connect, Action::NoAck, NO_CONNACK),
    same(RefusedPacket::Connect, Action::Disconnect, NO_CONNACK),
    same(RefusedPacket::Publish(0), Action::Reject, DROPPED),
    same(RefusedPacket::Publish(0), Action::Drop, DROPPED),
    same(RefusedPacket::Publish(0), Action::NoAck, DROPPED),
    ends(RefusedPacket::Publish(0)),
    // [MQTT-3.3.5-2] leaves 3.x only this or closing.
    RefusalRow { packet: RefusedPacket::Publish(1), action: Action::Reject, v5: REFUSED, v3: TAKEN },
    same(RefusedPacket::Publish(1), Action::Drop, TAKEN),
    same(RefusedPacket::Publish(1), Action::NoAck, DROPPED),
    ends(RefusedPacket::Publish(1)),
    RefusalRow { packet: RefusedPacket::Publish(2), action: Action::Reject, v5: REFUSED, v3: TAKEN_TWICE },
    same(RefusedPacket::Publish(2), Action::Drop, TAKEN_TWICE),
    same(RefusedPacket::Publish(2), Action::NoAck, DROPPED),
    ends(RefusedPacket::Publish(2)),
    same(RefusedPacket::SomeFilters, Action::Reject, MERGED),
    same(RefusedPacket::SomeFilters, Action::Drop, MERGED),
    same(RefusedPacket::SomeFilters, Action::NoAck, MERGED),
    ends(RefusedPacket::SomeFilters),
    same(RefusedPacket::AllFilters, Action::Reject, ANSWERED),
    same(RefusedPacket::AllFilters, Action::Drop, ANSWERED),
    same(RefusedPacket::AllFilters, Action::NoAck, ANSWERED),
    ends(RefusedPacket::AllFilters),
    same(RefusedPacket::Delivery(0), Action::Reject, DROPPED),
    same(RefusedPacket::Delivery(0), Action::Drop, DROPPED),
    same(RefusedPacket::Delivery(0), Action::NoAck, DROPPED),
    ends(RefusedPacket::Delivery(0)),
    same(RefusedPacket::Delivery(1), Action::Reject, DELIVERED),
    same(RefusedPacket::Delivery(1), Action::Drop, DELIVERED),
    same(RefusedPacket::Delivery(1), Action::NoAck, DELIVERED),
    ends(RefusedPacket::Delivery(1)),
    same(RefusedPacket::Delivery(2), Action::Reject, DELIVERED_TWICE),
    same(RefusedPacket::Delivery(2), Action::Drop, DELIVERED_TWICE),
    same(RefusedPacket::Delivery(2), Action::NoAck, DELIVERED_TWICE),
    ends(RefusedPacket::Delivery(2)),
];
