//! SUBSCRIBE: decided filter by filter, rewritten, refused in part or whole.

mod suback;

use bytes::{Bytes, BytesMut};
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::{FilterRequest, Subscribe, SubscribeLayout, encode_subscribe};
use mproxy_codec::property::PropertyEdit;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{PacketType, Sender};
use smallvec::SmallVec;

use super::context::Context;
use super::effect::Effect;
use super::filters::{FilterDecision, allowed_requests};
use super::lane::{SlotState, WaitingPacket};
use super::link::Link;
use super::question::OpenQuestion;
use super::reply::suback_code;
use super::resolve::{Rejection, resolve_subscribe};
use super::sample::AllowedDecision;
use super::step::{Step, Stop};
use super::subscriptions::Subscribing;
use crate::budget::{FILTER, QUESTION, Room, WAITING};
use crate::chain::Ruled;
use crate::event::{Happening, Kind};
use crate::fault::Fault;
use crate::meter::Outcome;
use crate::peer::Side;
use crate::policy::{
    Action, Decision, FilterChange, Ground, Hook, Refusal, Ruling, Source, SubscribeDecision,
    SubscribeQuestion, Unusable, Want,
};
use crate::record::{DecisionOutcome, DecisionSubject};

/// Refused filters of one SUBSCRIBE that the decision log is told of one by one: half a million of them would keep a
/// thread from others, and drive everything else out of the log.
const RECORDED_FILTERS: usize = 64;

impl Link {
    pub(super) fn subscribe_step(
        &mut self,
        cx: &mut Context,
        header: &FixedHeader,
        data: &[u8],
    ) -> Result<Step, Fault> {
        let total = header.total();
        let subscribe = Subscribe::parse(header, &data[..total], Sender::Client, self.terms.version)
            .map_err(|error| Fault::Malformed { side: Side::Client, error })?;
        let layout = SubscribeLayout::of(&subscribe);
        let want = self.want_of(cx, Hook::Subscribe);
        let count = subscribe.filters().len();
        let mut charge = 0;
        if self.keeps_filters(cx, want) {
            // As a question, and from its answer on as decisions and names, filter by filter.
            charge = total + if want == Want::Nothing { 0 } else { QUESTION };
            let room = cx.account.room_for(
                &cx.setting.budget,
                self.weight(),
                Side::Client,
                PacketType::Subscribe,
                total + WAITING + charge + count * FILTER,
            );
            match room {
                Room::Yes if !cx.too_many_user_properties(subscribe.properties) => {}
                Room::Wait => return Ok(Step::Wait),
                Room::Yes | Room::Never => {
                    let packet = WaitingPacket::Subscribe(SlotState::OverBudget, layout);
                    return Ok(Step::Keep { bytes: total, packet, charge: 0 });
                }
            }
        }
        let edition = cx.setting.advisers.edition();
        let ruled = if want == Want::Nothing {
            Ruled::Now(Ruling::allow(Source::Unasked))
        } else if let Some(known) = self.cached_filters(cx, &subscribe) {
            Ruled::Now(known)
        } else {
            let filters: SmallVec<[FilterRequest<'_>; 8]> = subscribe.filters().collect();
            let question = SubscribeQuestion::new(&self.peer, &filters, subscribe.properties)
                .at(cx.setting.clock.time());
            cx.setting.advisers.subscribe(&question)
        };
        let state = match ruled {
            Ruled::Later(pending) => {
                let question = OpenQuestion::subscribe(self.up.lane.next(), pending);
                cx.effects.push(Effect::Ask(question));
                charge += count * FILTER;
                SlotState::Hold(edition)
            }
            // Even where the client has a grant: its limits and mapping are applied when its turn has come.
            Ruled::Now(_) if want == Want::Nothing => SlotState::Go,
            Ruled::Now(ruling) => SlotState::Ruled(Box::new(ruling)),
        };
        if want != Want::Nothing {
            self.charge_work(cx, Hook::Subscribe, count, total);
        }
        cx.spend(self.mapping_work(count, total));
        let charge = if matches!(state, SlotState::Hold(_)) { charge as u32 } else { 0 };
        let packet = WaitingPacket::Subscribe(state, layout);
        Ok(Step::Keep { bytes: total, packet, charge })
    }

    /// Whether more is made of a SUBSCRIBE than a packet that passes.
    fn keeps_filters(&self, cx: &Context, want: Want) -> bool {
        want != Want::Nothing
            || self.grant().is_some()
            || self.known_subscriptions().is_some()
            || !self.up.lane.is_empty()
            || cx.setting.limits.of_filters()
            || cx.setting.sink.want(Kind::Subscribe) != Want::Nothing
            || cx.setting.advisers.want(Hook::Subscribe) != Want::Nothing
    }

    /// Carries out what was decided of a SUBSCRIBE whose turn has come.
    ///
    /// # Errors
    /// That ends the session.
    pub(super) fn release_subscribe(
        &mut self,
        cx: &mut Context,
        bytes: Bytes,
        state: SlotState<SubscribeDecision>,
        layout: SubscribeLayout,
    ) -> Result<(), Stop> {
        let Some(subscribe) = layout.find(&bytes) else {
            return Err(Fault::Internal { what: "a waiting SUBSCRIBE has changed" }.into());
        };
        if matches!(state, SlotState::OverBudget) {
            let count = subscribe.filters().len();
            cx.count_over_budget(Hook::Subscribe, count as u64);
            if let Some(first) = subscribe.filters().next() {
                let refusal = Refusal::new(ReasonCode::QUOTA_EXCEEDED).by(Ground::Source(Source::Budget));
                self.record_refused_filter(cx, &first, &refusal, count - 1);
            }
            let code = suback_code(self.terms.version, ReasonCode::QUOTA_EXCEEDED);
            self.suback_ours(cx, subscribe.packet_id, &vec![code; count], None);
            return Ok(());
        }
        let requests: SmallVec<[FilterRequest<'_>; 8]> = subscribe.filters().collect();
        if matches!(state, SlotState::Go) && self.grant().is_none() && !cx.setting.limits.of_filters() {
            self.record_subscribe(cx, &subscribe, &requests, &[], Box::default());
            self.send(cx, Side::Broker, bytes.clone());
            return Ok(());
        }
        let mut decided = self.resolve_filters(cx, &subscribe, &requests, state);
        // In this order: what has no place at the broker takes none among those that are counted.
        self.map_filters(&subscribe, &requests, &mut decided);
        let counted = self.count_subscriptions(cx, &requests, &mut decided);
        self.record_refused_filters(cx, &requests, &decided);
        let refusals = || decided.iter().filter_map(refusal);
        if let Some(refusal) = refusals().find(|refusal| refusal.action == Action::Disconnect) {
            let hook = Hook::Subscribe;
            return Err(Fault::Refused { hook, refusal: Box::new(refusal.clone()) }.into());
        }
        // The broker gets no SUBSCRIBE without filters, which there is not [MQTT-3.8.3-2]: the answer is all ours.
        if refusals().count() == requests.len() {
            self.refuse_subscribe(cx, &subscribe, &requests, &decided);
        } else if decided.iter().all(is_unchanged) {
            self.record_subscribe(cx, &subscribe, &requests, &[], counted);
            self.send(cx, Side::Broker, bytes.clone());
        } else {
            let sent = allowed_requests(&requests, &decided);
            let kept = PropertyEdit::keep(subscribe.properties);
            let mut out = BytesMut::new();
            encode_subscribe(self.terms.version, subscribe.packet_id, &kept, sent.iter().copied(), &mut out)
                .map_err(|_| Fault::Internal { what: "a checked rewrite did not encode" })?;
            self.record_subscribe(cx, &subscribe, &requests, &decided, counted);
            self.send(cx, Side::Broker, out.freeze());
        }
        Ok(())
    }

    /// What the rulings come to for each filter; counted.
    fn resolve_filters(
        &self,
        cx: &Context,
        subscribe: &Subscribe<'_>,
        requests: &[FilterRequest<'_>],
        state: SlotState<SubscribeDecision>,
    ) -> Vec<FilterDecision> {
        let (source, endpoint, formed) = match state {
            // The lane lets none go whose verdict is out, and knows no SUBSCRIBE that was answered before.
            SlotState::Hold(_)
            | SlotState::Again
            | SlotState::OverBudget
            | SlotState::OverRate
            | SlotState::OverLimit(_) => {
                (Source::Unknown, None, Err(Rejection::with(ReasonCode::NOT_AUTHORIZED, Ground::Unsaid)))
            }
            SlotState::Go => {
                let source = if self.grant().is_some() { Source::Grant } else { Source::Unasked };
                (source, None, Ok(vec![Decision::Allow(FilterChange::default()); requests.len()]))
            }
            SlotState::Ruled(ruling) => {
                let resolved = resolve_subscribe(&cx.setting, &self.peer, requests.len(), *ruling, |each| {
                    Ok(self.check_filters(cx, subscribe, requests, each)?)
                });
                (resolved.source, resolved.endpoint, resolved.what.form())
            }
        };
        let mut decided = match formed {
            Ok(decided) => decided,
            Err(Rejection::Said(refusal)) => vec![Decision::Refuse(refusal); requests.len()],
            Err(Rejection::Undecided(undecided)) => {
                vec![Decision::Refuse(undecided.refusal()); requests.len()]
            }
        };
        for (request, one) in requests.iter().zip(&mut decided) {
            let exceeded = cx.setting.limits.topic.exceeded_by_filter(request.filter.as_str());
            let mut source = source;
            if let (Decision::Allow(_), Some(kind)) = (&*one, exceeded) {
                source = Source::Limit;
                let refusal = Refusal::new(ReasonCode::TOPIC_FILTER_INVALID).by(Ground::Limit(kind));
                *one = Decision::Refuse(refusal);
            }
            if let Some(refusal) = one.refusal_mut() {
                refusal.ground = std::mem::take(&mut refusal.ground).or_source(source);
            }
            let outcome = match one {
                Decision::Allow(_) if is_unchanged(one) => Outcome::Allowed,
                Decision::Allow(_) => Outcome::Changed,
                Decision::Refuse(_) => Outcome::Refused,
            };
            // Nobody was asked: as of a SUBSCRIBE that is not even looked at.
            if source == Source::Unasked {
                continue;
            }
            let hook = Hook::Subscribe;
            cx.setting.meter.decisions(hook, source, outcome, 1);
            if outcome != Outcome::Refused {
                self.sample(cx, || {
                    let (filter, qos) = (request.filter.as_str(), request.qos);
                    let subject = DecisionSubject::Filter { filter, qos, more: 0 };
                    let changed = outcome == Outcome::Changed;
                    AllowedDecision {
                        hook,
                        subject,
                        payload: 0,
                        source,
                        endpoint: endpoint.as_ref(),
                        changed,
                    }
                });
            }
        }
        decided
    }

    /// Tells the decision log of the filters that are refused.
    fn record_refused_filters(
        &self,
        cx: &Context,
        requests: &[FilterRequest<'_>],
        decided: &[FilterDecision],
    ) {
        let refused = || requests.iter().zip(decided).filter_map(|(one, of)| Some((one, refusal(of)?)));
        let count = refused().count();
        for (at, (request, refusal)) in refused().take(RECORDED_FILTERS).enumerate() {
            // The last one stands for those that have no record of their own.
            let more = if at + 1 == RECORDED_FILTERS { count - RECORDED_FILTERS } else { 0 };
            self.record_refused_filter(cx, request, refusal, more);
        }
    }

    fn record_refused_filter(
        &self,
        cx: &Context,
        request: &FilterRequest<'_>,
        refusal: &Refusal,
        more: usize,
    ) {
        let subject = DecisionSubject::Filter { filter: request.filter.as_str(), qos: request.qos, more };
        self.record(cx, subject, DecisionOutcome::Refused(refusal));
    }

    /// Answers a SUBSCRIBE of which no filter is allowed.
    fn refuse_subscribe(
        &mut self,
        cx: &mut Context,
        subscribe: &Subscribe<'_>,
        requests: &[FilterRequest<'_>],
        decided: &[FilterDecision],
    ) {
        let codes: SmallVec<[u8; 8]> = decided.iter().filter_map(|one| self.code(one)).collect();
        let text = decided.iter().filter_map(refusal).find_map(|refusal| refusal.text.as_deref());
        self.suback_ours(cx, subscribe.packet_id, &codes, text);
        if cx.setting.sink.want(Kind::Subscribe) != Want::Nothing {
            let names = self.names_in_force(requests, decided).into_vec();
            self.report(cx, Happening::Subscribe { filters: names.into_iter().zip(codes).collect() });
        }
    }

    /// Changes that say what the client said anyway are none; the others must make a valid SUBSCRIBE.
    pub(super) fn check_filters(
        &self,
        cx: &Context,
        subscribe: &Subscribe<'_>,
        requests: &[FilterRequest<'_>],
        mut decided: Vec<FilterDecision>,
    ) -> Result<Vec<FilterDecision>, Unusable> {
        let (mut renames, mut rename_bytes) = (0, 0);
        for (request, one) in requests.iter().zip(&mut decided) {
            let Decision::Allow(change) = one else { continue };
            // Seen to when the answer came, and no change of the filter.
            change.cache_for = None;
            if let Some(filter) = &change.filter {
                let filter =
                    TopicFilter::new(filter).map_err(|error| Unusable::topic("rewritten filter", error))?;
                if request.no_local && filter.share().is_some() {
                    // [MQTT-3.8.3-4]
                    return Err(Unusable::invalid("rewritten filter: a shared subscription with No Local"));
                }
                if filter.as_str() == request.filter.as_str() {
                    change.filter = None;
                } else if let Err(refusal) = self.recheck_filter(cx, change, request.qos) {
                    *one = Decision::Refuse(refusal);
                    continue;
                }
            }
            // A bound that bounds nothing is no change either, and the packet may go as it came.
            if change.max_qos.is_some_and(|most| most >= request.qos) {
                change.max_qos = None;
            }
            if let Some(filter) = &change.filter {
                renames += 1;
                rename_bytes += request.filter.as_str().len() + filter.len();
            }
        }
        if renames > 0 {
            let room =
                self.known_subscriptions().is_none_or(|books| books.has_room_for(renames, rename_bytes));
            if !room {
                return Err(Unusable::too_large("more rewritten filters than one session remembers"));
            }
            let size = self
                .rewritten_len(subscribe, &allowed_requests(requests, &decided))
                .map_err(|error| Unusable::packet("rewritten SUBSCRIBE", &error))?;
            let most = self.terms.max_packet_to(Side::Broker);
            if size > most as usize {
                return Err(Unusable::too_large(format!(
                    "rewritten SUBSCRIBE of {size} bytes is over the broker's Maximum Packet Size of {most}"
                )));
            }
        }
        Ok(decided)
    }

    /// The code for a refused filter; `None` for one that goes to the broker. What to do with a refused PUBLISH that is
    /// not answered means nothing here: a filter is refused with its code, or the session ends.
    fn code(&self, decided: &FilterDecision) -> Option<u8> {
        refusal(decided).map(|refusal| suback_code(self.terms.version, refusal.reason))
    }

    /// Bookkeeping of a SUBSCRIBE at the moment it leaves; `decided` is empty where nothing was changed.
    fn record_subscribe(
        &mut self,
        cx: &mut Context,
        subscribe: &Subscribe<'_>,
        requests: &[FilterRequest<'_>],
        decided: &[FilterDecision],
        counted: Box<[Option<Box<str>>]>,
    ) {
        self.asking = self.asking.saturating_add(1);
        let renames =
            decided.iter().any(|one| matches!(one, Decision::Allow(FilterChange { filter: Some(_), .. })));
        let retire = if renames || self.known_subscriptions().is_some_and(|books| books.has_renames()) {
            self.remember_renames(requests, decided)
        } else {
            Box::default()
        };
        self.remember_known(cx, requests, decided);
        let mask: Box<[Option<u8>]> = if decided.iter().any(|one| refusal(one).is_some()) {
            decided.iter().map(|one| self.code(one)).collect()
        } else {
            Box::default()
        };
        let told = cx.setting.sink.want(Kind::Subscribe) != Want::Nothing;
        let asked: Box<[Box<str>]> = match cx.setting.advisers.want(Hook::Subscribe) {
            Want::Nothing => Box::default(),
            _ => requests.iter().map(|request| request.filter.as_str().into()).collect(),
        };
        if mask.is_empty() && !told && retire.is_empty() && counted.is_empty() && asked.is_empty() {
            return;
        }
        let filters = if told { self.names_in_force(requests, decided) } else { Box::default() };
        let id = subscribe.packet_id;
        self.subscriptions().add_subscribe(Subscribing { id, mask, filters, retire, counted, asked });
    }
}

/// Whether a filter is allowed as it was asked for.
fn is_unchanged(decided: &FilterDecision) -> bool {
    matches!(decided, Decision::Allow(change) if *change == FilterChange::default())
}

pub(super) const fn refusal(decided: &FilterDecision) -> Option<&Refusal> {
    match decided {
        Decision::Allow(_) => None,
        Decision::Refuse(refusal) => Some(refusal),
    }
}
