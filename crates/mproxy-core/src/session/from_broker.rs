//! What becomes of a packet from the broker once the session is open.

use bytes::Bytes;
use mproxy_codec::frame::Header;
use mproxy_codec::packet::Suback;
use mproxy_codec::types::{PacketId, PacketType};

use super::from_client::Leaving;
use super::reply::too_large_for;
use super::{Body, Fate, Session, Step};
use crate::event::Happening;
use crate::fault::Fault;
use crate::peer::Side;

impl Session {
    pub(super) fn broker_step(&mut self, header: &Header, data: &[u8]) -> Result<Step, Fault> {
        match header.kind {
            // It goes nowhere; what comes behind it may be an acknowledgement.
            PacketType::Publish if !self.hears(Side::Client) => {
                let (here, total) = (data.len().min(header.total()), header.total());
                self.down.body = Body { left: (total - here) as u32, fate: Fate::Skip };
                Ok(Step::Swallow(here))
            }
            PacketType::Publish => self.publish_step(Side::Broker, header, data),
            _ => self.other_step(Side::Broker, header, data),
        }
    }

    /// A SUBACK: the broker's codes, and ours where we refused.
    pub(super) fn suback_leaves(&mut self, header: &Header, bytes: &[u8]) -> Result<Leaving, Fault> {
        let suback = Suback::parse(header, bytes, self.terms.version)
            .map_err(|error| Fault::Malformed { side: Side::Broker, error })?;
        let known = self.ledger.as_mut().and_then(|ledger| ledger.subscribed(suback.packet_id));
        let Some(subscribing) = known else { return Ok(Leaving::AsItIs) };
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
            self.report(Happening::Subscribe { filters });
        }
        self.count_refused(&subscribing.counted, &merged);
        if subscribing.mask.is_empty() && subscribing.retire.is_empty() {
            return Ok(Leaving::AsItIs);
        }
        let reply = if subscribing.mask.is_empty() {
            Bytes::copy_from_slice(bytes)
        } else {
            let merged = self.terms.suback(suback.packet_id, suback.properties, &merged, None);
            merged.ok_or(too_large_for(Side::Client, PacketType::Suback))?
        };
        let reply = self.retire(suback.packet_id, &subscribing.retire, reply);
        Ok(reply.map_or(Leaving::Nowhere, Leaving::Instead))
    }

    /// Sends a SUBACK that is all ours.
    pub(super) fn suback_ours(&mut self, id: PacketId, codes: &[u8], text: Option<&str>) {
        match self.terms.suback(id, mproxy_codec::property::Properties::EMPTY, codes, text) {
            Some(reply) => self.inject(Side::Client, reply),
            None => self.unsendable(Side::Client, PacketType::Suback),
        }
    }
}
