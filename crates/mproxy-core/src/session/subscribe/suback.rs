//! SUBACK: the broker's codes, and ours where we refused; or all ours.

use bytes::Bytes;
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::Suback;
use mproxy_codec::types::{PacketId, PacketType, QoS};

use super::super::context::Context;
use super::super::link::Link;
use super::super::reply::too_large_for;
use super::super::step::Passage;
use crate::event::Happening;
use crate::fault::Fault;
use crate::peer::Side;

impl Link {
    /// A SUBACK: the broker's codes, and ours where we refused.
    pub(in super::super) fn forward_suback(
        &mut self,
        cx: &mut Context,
        header: &FixedHeader,
        bytes: &[u8],
    ) -> Result<Passage, Fault> {
        let suback = Suback::parse(header, bytes, self.terms.version)
            .map_err(|error| Fault::Malformed { side: Side::Broker, error })?;
        // Saturating: a broker may answer what it was not asked.
        self.asking = self.asking.saturating_sub(1);
        let known = self.known_subscriptions_mut().and_then(|books| books.take_subscribe(suback.packet_id));
        let Some(subscribing) = known else {
            self.clean_up_under(cx, suback.packet_id);
            return Ok(Passage::AsItIs);
        };
        let mut theirs = suback.codes.iter().copied();
        let merged: Vec<u8> = if subscribing.mask.is_empty() {
            suback.codes.to_vec()
        } else {
            // A broker that sends too few codes leaves the rest refused.
            subscribing
                .mask
                .iter()
                .map(|ours| ours.unwrap_or_else(|| theirs.next().unwrap_or(0x80)))
                .collect()
        };
        if !subscribing.filters.is_empty() {
            let filters = subscribing.filters.into_vec().into_iter().zip(merged.iter().copied()).collect();
            self.report(cx, Happening::Subscribe { filters });
        }
        self.count_refused(&subscribing.counted, &merged);
        self.remember_granted(&subscribing.asked, &merged);
        // Otherwise the id goes to the UNSUBSCRIBE of what this one has left behind.
        if subscribing.retire.is_empty() {
            self.clean_up_under(cx, suback.packet_id);
        }
        if subscribing.mask.is_empty() && subscribing.retire.is_empty() {
            self.forget_empty_subscriptions();
            return Ok(Passage::AsItIs);
        }
        let reply = if subscribing.mask.is_empty() {
            Bytes::copy_from_slice(bytes)
        } else {
            let merged = self.terms.suback(suback.packet_id, suback.properties, &merged, None);
            merged.ok_or(too_large_for(Side::Client, PacketType::Suback))?
        };
        let reply = self.retire(cx, suback.packet_id, &subscribing.retire, reply);
        self.forget_empty_subscriptions();
        Ok(reply.map_or(Passage::Nowhere, Passage::Instead))
    }

    /// The client's filters were answered with these codes.
    fn remember_granted(&mut self, asked: &[Box<str>], codes: &[u8]) {
        let Some(rare) = &mut self.rare else { return };
        for (filter, code) in asked.iter().zip(codes) {
            // A code of 0x80 or more changes nothing of a subscription that was there before.
            if let Some(qos) = QoS::from_bits(*code) {
                rare.known.grant(filter, qos);
            }
        }
    }

    /// Sends a SUBACK that is all ours.
    pub(in super::super) fn suback_ours(
        &mut self,
        cx: &mut Context,
        id: PacketId,
        codes: &[u8],
        text: Option<&str>,
    ) {
        match self.terms.suback(id, mproxy_codec::property::Properties::EMPTY, codes, text) {
            Some(reply) => self.inject(cx, Side::Client, reply),
            None => self.unsendable(Side::Client, PacketType::Suback),
        }
    }
}
