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
pub enum Refused {
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
pub struct Seen {
    /// By the client.
    pub client: ToClient,
    /// By the broker.
    pub broker: ToBroker,
    /// What follows.
    pub then: Then,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What is refused.
    pub packet: Refused,
    /// How.
    pub action: Action,
    /// What is seen of it in MQTT 5.0.
    pub v5: Seen,
    /// What is seen of it in MQTT 3.1.1 and 3.1.
    pub v3: Seen,
}

const fn seen(client: ToClient, broker: ToBroker, then: Then) -> Seen {
    Seen { client, broker, then }
}

const fn same(packet: Refused, action: Action, seen: Seen) -> Row {
    Row { packet, action, v5: seen, v3: seen }
}

const fn ends(packet: Refused) -> Row {
    Row {
        packet,
        action: Action::Disconnect,
        v5: seen(ToClient::Goodbye, ToBroker::Nothing, Then::Ends),
        v3: seen(ToClient::Nothing, ToBroker::Nothing, Then::Ends),
    }
}

const NO_CONNACK: Seen = seen(ToClient::Connack, ToBroker::Nothing, Then::Ends);
const DROPPED: Seen = seen(ToClient::Nothing, ToBroker::Nothing, Then::GoesOn);
const REFUSED: Seen = seen(ToClient::Refusal, ToBroker::Nothing, Then::GoesOn);
const TAKEN: Seen = seen(ToClient::Taken, ToBroker::Nothing, Then::GoesOn);
const TAKEN_TWICE: Seen = seen(ToClient::Taken, ToBroker::Nothing, Then::OurFlow);
const MERGED: Seen = seen(ToClient::Suback, ToBroker::TheRest, Then::GoesOn);
const ANSWERED: Seen = seen(ToClient::Suback, ToBroker::Nothing, Then::GoesOn);
const DELIVERED: Seen = seen(ToClient::Nothing, ToBroker::Taken, Then::GoesOn);
const DELIVERED_TWICE: Seen = seen(ToClient::Nothing, ToBroker::Taken, Then::OurFlow);

/// The table: every packet that can be refused, every action.
pub const TABLE: &[Row] = &[
    same(Refused::Connect, Action::Reject, NO_CONNACK),
    same(Refused::Connect, Action::Drop, NO_CONNACK),
    same(Refused::Connect, Action::NoAck, NO_CONNACK),
    same(Refused::Connect, Action::Disconnect, NO_CONNACK),
    same(Refused::Publish(0), Action::Reject, DROPPED),
    same(Refused::Publish(0), Action::Drop, DROPPED),
    same(Refused::Publish(0), Action::NoAck, DROPPED),
    ends(Refused::Publish(0)),
    // [MQTT-3.3.5-2] leaves 3.x only this or closing.
    Row { packet: Refused::Publish(1), action: Action::Reject, v5: REFUSED, v3: TAKEN },
    same(Refused::Publish(1), Action::Drop, TAKEN),
    same(Refused::Publish(1), Action::NoAck, DROPPED),
    ends(Refused::Publish(1)),
    Row { packet: Refused::Publish(2), action: Action::Reject, v5: REFUSED, v3: TAKEN_TWICE },
    same(Refused::Publish(2), Action::Drop, TAKEN_TWICE),
    same(Refused::Publish(2), Action::NoAck, DROPPED),
    ends(Refused::Publish(2)),
    same(Refused::SomeFilters, Action::Reject, MERGED),
    same(Refused::SomeFilters, Action::Drop, MERGED),
    same(Refused::SomeFilters, Action::NoAck, MERGED),
    ends(Refused::SomeFilters),
    same(Refused::AllFilters, Action::Reject, ANSWERED),
    same(Refused::AllFilters, Action::Drop, ANSWERED),
    same(Refused::AllFilters, Action::NoAck, ANSWERED),
    ends(Refused::AllFilters),
    same(Refused::Delivery(0), Action::Reject, DROPPED),
    same(Refused::Delivery(0), Action::Drop, DROPPED),
    same(Refused::Delivery(0), Action::NoAck, DROPPED),
    ends(Refused::Delivery(0)),
    same(Refused::Delivery(1), Action::Reject, DELIVERED),
    same(Refused::Delivery(1), Action::Drop, DELIVERED),
    same(Refused::Delivery(1), Action::NoAck, DELIVERED),
    ends(Refused::Delivery(1)),
    same(Refused::Delivery(2), Action::Reject, DELIVERED_TWICE),
    same(Refused::Delivery(2), Action::Drop, DELIVERED_TWICE),
    same(Refused::Delivery(2), Action::NoAck, DELIVERED_TWICE),
    ends(Refused::Delivery(2)),
];
