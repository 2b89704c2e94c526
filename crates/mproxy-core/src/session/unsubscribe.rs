//! UNSUBSCRIBE and its answer: filters under the names that the broker knows them by, answered in the client's own.

use bytes::BytesMut;
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::{Unsuback, Unsubscribe, encode_unsubscribe};
use mproxy_codec::property::{Properties, PropertyEdit};
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{PacketId, PacketType, Sender};

use super::context::Context;
use super::leftovers::CleanupStage;
use super::link::Link;
use super::reply::{too_large_for, without_explanation};
use super::step::Passage;
use super::subscriptions::Unsubscribing;
use crate::budget::FILTER;
use crate::event::{Happening, Kind};
use crate::fault::Fault;
use crate::grant::NoPlace;
use crate::peer::Side;
use crate::policy::{Ground, Refusal, Source, Want};
use crate::record::{DecisionOutcome, DecisionSubject};

/// What goes to the broker for one filter of the client's.
enum SentFilter {
    /// The filter as the client says it.
    AsItIs(Box<str>),
    /// What the broker knows it as.
    Renamed(Box<str>),
    /// Nothing: what the broker knows it as stands for another filter, too.
    Shared(Box<str>),
}

impl SentFilter {
    const fn name(&self) -> &str {
        let (Self::AsItIs(name) | Self::Renamed(name) | Self::Shared(name)) = self;
        name
    }
}

impl Link {
    pub(super) fn forward_unsubscribe(
        &mut self,
        cx: &mut Context,
        header: &FixedHeader,
        bytes: &[u8],
    ) -> Result<Passage, Fault> {
        let passage = self.pass_unsubscribe(cx, header, bytes)?;
        // Counted where the broker is to answer it: as long as one is out, no packet id is surely free (ADR 0022).
        if matches!(passage, Passage::AsItIs | Passage::Instead(_)) {
            self.asking = self.asking.saturating_add(1);
        }
        Ok(passage)
    }

    fn pass_unsubscribe(
        &mut self,
        cx: &mut Context,
        header: &FixedHeader,
        bytes: &[u8],
    ) -> Result<Passage, Fault> {
        let unsubscribe = Unsubscribe::parse(header, bytes, Sender::Client, self.terms.version)
            .map_err(|error| Fault::Malformed { side: Side::Client, error })?;
        let told = cx.setting.sink.want(Kind::Unsubscribe) != Want::Nothing;
        if let Some(rare) = &mut self.rare {
            unsubscribe.filters().for_each(|filter| {
                // Before anything is decided: the client wants it gone, whatever becomes of this packet.
                rare.known.remove(filter.as_str());
            });
        }
        if self.cleanup != CleanupStage::None {
            unsubscribe.filters().for_each(|filter| self.keep_at_broker(filter.as_str()));
        }
        if !told && self.known_subscriptions().is_none() && !self.terms.mapped {
            return Ok(Passage::AsItIs);
        }
        let id = unsubscribe.packet_id;
        let count = unsubscribe.filters().len();
        if header.total() + count * FILTER > cx.setting.budget.connection()
            || cx.too_many_user_properties(unsubscribe.properties)
        {
            return self.refuse_large_unsubscribe(cx, id, count);
        }
        cx.spend(self.mapping_work(count, header.total()));
        let sent: Vec<SentFilter> =
            unsubscribe.filters().map(|filter| self.sent_filter(filter.as_str())).collect();
        let shared = sent.iter().any(|one| matches!(one, SentFilter::Shared(_)));
        if told || shared {
            let mask = match shared {
                true => sent.iter().map(|one| !matches!(one, SentFilter::Shared(_))).collect(),
                false => Box::default(),
            };
            let filters = match told {
                true => sent.iter().map(|one| one.name().into()).collect(),
                false => Box::default(),
            };
            self.subscriptions().add_unsubscribe(Unsubscribing { id, filters, mask });
        }
        if sent.iter().all(|one| matches!(one, SentFilter::AsItIs(_))) {
            return Ok(Passage::AsItIs);
        }
        if sent.iter().all(|one| matches!(one, SentFilter::Shared(_))) {
            self.unsuback_ours(cx, id);
            return Ok(Passage::Nowhere);
        }
        let mut out = BytesMut::new();
        let filters = sent
            .iter()
            .filter(|one| !matches!(one, SentFilter::Shared(_)))
            .filter_map(|one| TopicFilter::new_of(self.terms.version, one.name()).ok());
        let kept = PropertyEdit::keep(unsubscribe.properties);
        let written =
            encode_unsubscribe(self.terms.version, id, &kept, filters.collect::<Vec<_>>(), &mut out);
        if written.is_err() || out.len() > self.terms.max_packet_to(Side::Broker) as usize {
            return self.refuse_rewritten(cx, id, sent.len());
        }
        Ok(Passage::Instead(out.freeze()))
    }

    /// Answers an UNSUBSCRIBE that a rewrite to far longer filters made too large. The original would unsubscribe from what
    /// is not the client's, or from nothing.
    fn refuse_rewritten(&mut self, cx: &mut Context, id: PacketId, count: usize) -> Result<Passage, Fault> {
        if let Some(books) = self.known_subscriptions_mut() {
            books.take_unsubscribe(id);
        }
        let reason = ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR;
        if !self.terms.version.is_v5() {
            // 3.x has no word for it but the end.
            return Err(Fault::Protocol {
                side: Side::Client,
                packet: PacketType::Unsubscribe,
                what: "too large with the topic filters that the broker knows",
                rule: "MQTT-3.1.2-24",
                reason,
            });
        }
        let codes = vec![reason.0; count];
        let unsuback = Unsuback { packet_id: id, properties: Properties::EMPTY, codes: &codes };
        let mut out = BytesMut::new();
        let written = unsuback.encode(self.terms.version, &mut out);
        debug_assert!(written.is_ok(), "a bare UNSUBACK did not encode: {written:?}");
        self.inject(cx, Side::Client, out.freeze());
        Ok(Passage::Nowhere)
    }

    /// An UNSUBSCRIBE that is more than mproxy may hold for its connection. 3.x has no word for that.
    fn refuse_large_unsubscribe(
        &mut self,
        cx: &mut Context,
        id: PacketId,
        count: usize,
    ) -> Result<Passage, Fault> {
        if !self.terms.version.is_v5() {
            return Err(Fault::OverBudget { packet: PacketType::Unsubscribe });
        }
        self.refuse_unsubscribe(cx, id, count);
        Ok(Passage::Nowhere)
    }

    /// Answers a 5.0 UNSUBSCRIBE of so many filters with 0x83 for each.
    pub(super) fn refuse_unsubscribe(&mut self, cx: &mut Context, id: PacketId, count: usize) {
        let refusal =
            Refusal::new(ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR).by(Ground::Source(Source::Budget));
        let subject = DecisionSubject::Packet(PacketType::Unsubscribe);
        self.record(cx, subject, DecisionOutcome::Refused(&refusal));
        let codes = vec![ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR.0; count];
        let unsuback = Unsuback { packet_id: id, properties: Properties::EMPTY, codes: &codes };
        let mut out = BytesMut::new();
        let written = unsuback.encode(self.terms.version, &mut out);
        debug_assert!(written.is_ok(), "a bare UNSUBACK did not encode: {written:?}");
        self.inject(cx, Side::Client, out.freeze());
    }

    /// The client unsubscribes from this filter.
    fn sent_filter(&mut self, asked: &str) -> SentFilter {
        if let Some(books) = self.known_subscriptions_mut() {
            books.names.remove(asked);
            if let Some(name) = books.take_rename(asked) {
                return if books.is_sent(&name) {
                    SentFilter::Shared(name)
                } else {
                    SentFilter::Renamed(name)
                };
            }
        }
        match self.mapped_filter(asked) {
            Ok(Some(name)) => SentFilter::Renamed(name),
            Ok(None) | Err(NoPlace::TooLong) => SentFilter::AsItIs(asked.into()),
            // The client never had it; at the broker it may be what another filter of it was rewritten to.
            Err(NoPlace::Divided | NoPlace::Renamed) => SentFilter::Shared(asked.into()),
        }
    }

    /// Answers an UNSUBSCRIBE of which nothing goes to the broker.
    fn unsuback_ours(&mut self, cx: &mut Context, id: PacketId) {
        let Some(known) = self.known_subscriptions_mut().and_then(|books| books.take_unsubscribe(id)) else {
            return;
        };
        let codes =
            // UNSUBACK of 3.x has no payload (3.11.3 of 3.1.1).
            vec![ReasonCode::SUCCESS.0; if self.terms.version.is_v5() { known.mask.len() } else { 0 }];
        let unsuback = Unsuback { packet_id: id, properties: Properties::EMPTY, codes: &codes };
        let mut out = BytesMut::new();
        let written = unsuback.encode(self.terms.version, &mut out);
        debug_assert!(written.is_ok(), "a bare UNSUBACK did not encode: {written:?}");
        self.inject(cx, Side::Client, out.freeze());
        self.tell_unsubscribed(cx, known);
    }

    pub(super) fn forward_unsuback(
        &mut self,
        cx: &mut Context,
        header: &FixedHeader,
        bytes: &[u8],
    ) -> Result<Passage, Fault> {
        let unsuback = Unsuback::parse(header, bytes, self.terms.version)
            .map_err(|error| Fault::Malformed { side: Side::Broker, error })?;
        if self.take_cleaned_up(cx, unsuback.packet_id) {
            return Ok(Passage::Nowhere);
        }
        // Saturating: a broker may answer what it was not asked.
        self.asking = self.asking.saturating_sub(1);
        self.clean_up_under(cx, unsuback.packet_id);
        let Some(books) = self.known_subscriptions_mut() else { return Ok(Passage::AsItIs) };
        // An answer to an UNSUBSCRIBE of ours: the client, who has not sent one, gets the SUBACK that waited for it.
        if let Some(reply) = books.take_retired(unsuback.packet_id) {
            return Ok(Passage::Instead(reply));
        }
        let Some(known) = books.take_unsubscribe(unsuback.packet_id) else { return Ok(Passage::AsItIs) };
        let leaving = match known.mask.is_empty() || !self.terms.version.is_v5() {
            true => Passage::AsItIs,
            false => {
                let mut theirs = unsuback.codes.iter().copied();
                let code = |sent: &bool| match sent {
                    // A broker that sends too few codes has not said that it failed.
                    true => theirs.next().unwrap_or(ReasonCode::SUCCESS.0),
                    false => ReasonCode::SUCCESS.0,
                };
                let codes: Vec<u8> = known.mask.iter().map(code).collect();
                let (mut out, most) = (BytesMut::new(), self.terms.max_packet_to(Side::Client) as usize);
                let merged = Unsuback { codes: &codes, ..unsuback };
                let properties =
                    [PropertyEdit::keep(unsuback.properties), without_explanation(unsuback.properties)];
                let fits = properties.iter().any(|edit| {
                    out.clear();
                    merged.encode_with(self.terms.version, edit, &mut out).is_ok() && out.len() <= most
                });
                if !fits {
                    return Err(too_large_for(Side::Client, PacketType::Unsuback));
                }
                Passage::Instead(out.freeze())
            }
        };
        self.tell_unsubscribed(cx, known);
        Ok(leaving)
    }

    fn tell_unsubscribed(&mut self, cx: &mut Context, known: Unsubscribing) {
        if !known.filters.is_empty() {
            self.report(cx, Happening::Unsubscribe { filters: known.filters });
        }
    }
}
