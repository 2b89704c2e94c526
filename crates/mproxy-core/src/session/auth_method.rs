//! The Authentication Method of a client, and how far an authentication has come that mproxy answers; see `exchange`.

use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::budget::QUESTION;

/// Of a client whose CONNECT named an Authentication Method.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AuthMethod {
    /// As in CONNECT.
    pub(super) name: Box<str>,
    /// The exchange that is under way; a successful one of a CONNECT, until CONNACK.
    #[serde(skip)]
    pub(super) exchange: Option<Box<OpenExchange>>,
    /// The number of the last question, over all exchanges.
    pub(super) asked: u32,
    /// The broker has yet to answer a PINGREQ of ours.
    pub(super) pinged: bool,
    /// When the last one was sent.
    #[serde(skip)]
    pub(super) pinged_at: Option<Instant>,
}

/// One authentication.
#[derive(Debug)]
pub(super) struct OpenExchange {
    pub(super) turn: ExchangeTurn,
    /// Questions so far.
    pub(super) steps: u32,
    /// Of an open session.
    pub(super) again: bool,
    /// When it must have come to its end.
    pub(super) until: Instant,
    /// A command has set the client's grant since the question was asked that is out: the answer may be older.
    pub(super) commanded: bool,
    /// A command has said since that the grant is to be renewed.
    pub(super) checked: bool,
    /// How often the grant was asked for when that question was asked.
    pub(super) renewals: u32,
}

/// What it waits for.
#[derive(Debug)]
pub(super) enum ExchangeTurn {
    /// The answer to a question of so many bytes.
    Adviser(usize),
    /// The client's AUTH.
    Client,
    /// CONNACK, which brings this to the client.
    Connack { data: Option<Bytes>, text: Option<Box<str>> },
}

impl AuthMethod {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), exchange: None, asked: 0, pinged: false, pinged_at: None }
    }

    /// Bytes that count as held.
    pub(super) fn weight(&self) -> usize {
        match self.exchange.as_ref().map(|exchange| &exchange.turn) {
            Some(ExchangeTurn::Adviser(bytes)) => QUESTION + bytes,
            Some(ExchangeTurn::Connack { data, .. }) => data.as_ref().map_or(0, Bytes::len),
            Some(ExchangeTurn::Client) | None => 0,
        }
    }

    /// When its exchange must have come to its end, if one is under way.
    pub(super) fn until(&self) -> Option<Instant> {
        self.exchange.as_ref().map(|exchange| exchange.until)
    }

    /// A command has set the client's grant: an answer that is on its way may be older.
    pub(super) fn outdate(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.commanded = true;
        }
    }

    /// A command has said that the client's grant is to be renewed, which is not to be forgotten for an older answer.
    pub(super) fn note_check(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.checked = true;
        }
    }
}
