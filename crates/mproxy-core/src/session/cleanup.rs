//! Subscriptions that were taken back end at the broker, too: by UNSUBSCRIBEs of our own, whose answers go nowhere. Nothing
//! hangs on that but the broker's work: deliveries are judged in any case.
//!
//! All packet ids are the client's to give. One is surely free when the broker has just been done with it, whatever else
//! is under way; and, unless the client goes on with an old session, one under which nothing that it has sent is under
//! way. While ours is, the client's own packet under this id waits for the answer (ADR 0022), for as long as a broker has.

use std::time::Instant;

use bytes::BytesMut;
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::encode_unsubscribe;
use mproxy_codec::property::PropertyEdit;
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{PacketId, PacketType};

use super::context::Context;
use super::leftovers::{CleanupStage, Leftovers};
use super::link::Link;
use crate::peer::Side;

impl Link {
    /// These subscriptions end at the broker, as soon as there is a packet id for it.
    pub(super) fn end_at_broker(&mut self, cx: &mut Context, names: Vec<Box<str>>) {
        if names.is_empty() {
            return;
        }
        self.rare().leftovers.get_or_insert_default().add(names);
        if self.cleanup == CleanupStage::None {
            self.cleanup = CleanupStage::WaitsForId;
        }
        self.clean_up_now(cx, None);
    }

    /// Begins under an id but this one, if one is known to be free.
    fn clean_up_now(&mut self, cx: &mut Context, but: Option<PacketId>) {
        // Of an old session that goes on, the client may have ids in use that were never seen here.
        if self.cleanup == CleanupStage::WaitsForId
            && !self.terms.resumed
            // SUBSCRIBEs and UNSUBSCRIBEs are counted, and their ids not remembered: while one is out, any id may
            // be its own.
            && self.asking == 0
            && !self.up.lane.has_requests()
            && let Some(id) = self.up.in_flight.unused(but)
        {
            self.clean_up_under(cx, id);
        }
    }

    /// Nothing is under way under this packet id: it may stand for an UNSUBSCRIBE of ours.
    pub(super) fn clean_up_under(&mut self, cx: &mut Context, id: PacketId) {
        if self.cleanup != CleanupStage::WaitsForId || !self.hears(Side::Broker) {
            return;
        }
        let (version, most) = (self.terms.version, self.terms.max_packet_to(Side::Broker) as usize);
        let Some(left) = self.rare.as_mut().and_then(|rare| rare.leftovers.as_mut()) else { return };
        while !left.is_empty() {
            let names = left.take_some(most);
            let filters: Vec<_> =
                names.iter().filter_map(|name| TopicFilter::new_of(version, name).ok()).collect();
            let mut out = BytesMut::new();
            let written = encode_unsubscribe(version, id, &PropertyEdit::NONE, filters, &mut out);
            // What the broker does not take in a packet of its own stays there.
            if written.is_ok() && out.len() <= most {
                left.id = Some(id);
                self.cleanup = CleanupStage::UnderWay;
                self.inject(cx, Side::Broker, out.freeze());
                return;
            }
        }
        self.finish_cleanup();
    }

    /// Whether this UNSUBACK answers an UNSUBSCRIBE of ours. If so, the next one may go under the same id.
    pub(super) fn take_cleaned_up(&mut self, cx: &mut Context, id: PacketId) -> bool {
        let under_way = matches!(self.cleanup, CleanupStage::UnderWay | CleanupStage::HoldsClient);
        let Some(left) = self.rare.as_mut().and_then(|rare| rare.leftovers.as_mut()) else { return false };
        debug_assert_eq!(under_way, left.id.is_some(), "an id is held as long as ours is under way");
        if !under_way || left.id != Some(id) {
            return false;
        }
        left.id = None;
        left.let_go();
        let held = self.cleanup == CleanupStage::HoldsClient;
        if left.is_empty() {
            self.finish_cleanup();
            return true;
        }
        self.cleanup = CleanupStage::WaitsForId;
        if held {
            // It is the client's turn to use this one.
            self.clean_up_now(cx, Some(id));
        } else {
            self.clean_up_under(cx, id);
        }
        true
    }

    fn leftovers(&mut self) -> Option<&mut Leftovers> {
        self.rare.as_mut()?.leftovers.as_deref_mut()
    }

    fn finish_cleanup(&mut self) {
        self.cleanup = CleanupStage::None;
        if let Some(rare) = &mut self.rare {
            rare.leftovers = None;
        }
    }

    /// The client subscribes to this filter anew, or unsubscribes from it itself: it does not have to end any more.
    pub(super) fn keep_at_broker(&mut self, asked: &str) {
        if self.cleanup == CleanupStage::None {
            return;
        }
        let mapped = self.mapped_filter(asked).unwrap_or_default();
        let name = mapped.as_deref().unwrap_or(asked);
        let Some(left) = self.rare.as_mut().and_then(|rare| rare.leftovers.as_mut()) else { return };
        left.remove(name);
        if left.is_empty() && self.cleanup == CleanupStage::WaitsForId {
            self.finish_cleanup();
        }
    }

    /// Whether the client's packet at the start of `data` has the packet id of an UNSUBSCRIBE of ours that is under way.
    /// The client is not read on then until that is answered.
    pub(super) fn waits_for_id(&mut self, header: &FixedHeader, data: &[u8]) -> bool {
        let own = self.rare.as_ref().and_then(|rare| rare.leftovers.as_ref()?.id);
        let waits = own.is_some() && packet_id(header, data) == own;
        if waits {
            self.cleanup = CleanupStage::HoldsClient;
        }
        waits
    }
}

impl Link {
    /// Of a client that is held for an UNSUBACK: it is not for longer than a broker has to answer. What it says meanwhile,
    /// a PINGREQ too, waits behind the packet that is held.
    pub(super) fn hold_client(&mut self, cx: &Context, now: Instant) {
        if self.cleanup == CleanupStage::HoldsClient
            && let Some(left) = self.leftovers()
        {
            left.hold(now, cx.setting.limits.connack_timeout);
        }
    }

    /// When the client has been held for an UNSUBACK for too long.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.rare.as_ref()?.leftovers.as_ref()?.held_until()
    }
}

/// The packet id with which a packet of the client's asks for something, as far as it is here.
fn packet_id(header: &FixedHeader, data: &[u8]) -> Option<PacketId> {
    let rest = data.get(usize::from(header.len)..)?;
    let two = |at: usize| rest.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two));
    let at = match header.kind {
        PacketType::Subscribe | PacketType::Unsubscribe => 0,
        PacketType::Publish if header.flags & 0b110 != 0 => 2 + usize::from(two(0)?),
        _ => return None,
    };
    PacketId::new(two(at)?)
}
