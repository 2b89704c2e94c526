//! SUBSCRIBE: decided filter by filter, rewritten, refused in part or whole.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mproxy_codec::frame::Header;
use mproxy_codec::packet::{FilterRequest, Subscribe, SubscribeLayout, encode_subscribe};
use mproxy_codec::property::PropertyEdit;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{PacketType, QoS, Sender};
use smallvec::SmallVec;

use super::effect::Effect;
use super::lane::{Slot, State, Waiting};
use super::ledger::Subscribing;
use super::question::OpenQuestion;
use super::reply::suback_code;
use super::resolve::{Refused, resolve_subscribe};
use super::{Session, Step};
use crate::budget::{FILTER, QUESTION, Room, WAITING};
use crate::chain::Ruled;
use crate::event::{Happening, Kind};
use crate::fault::Fault;
use crate::meter::Outcome;
use crate::peer::Side;
use crate::policy::{
    Action, Decision, FilterChange, Hook, Refusal, Ruling, Source, SubscribeDecision, SubscribeQuestion,
    Unusable, Want,
};

/// What was decided about one filter.
pub(super) type Decided = Decision<FilterChange>;

impl Session {
    pub(super) fn subscribe_step(&mut self, header: &Header, data: &[u8]) -> Result<Step, Fault> {
        let total = header.total();
        let subscribe = Subscribe::parse(header, &data[..total], Sender::Client, self.terms.version)
            .map_err(|error| Fault::Malformed { side: Side::Client, error })?;
        let layout = SubscribeLayout::of(&subscribe);
        let want = self.want_of(Hook::Subscribe);
        let count = subscribe.filters().len();
        let mut charge = 0;
        if self.keeps_filters(want) {
            // As a question, and from its answer on as decisions and names, filter by filter.
            charge = total + if want == Want::Nothing { 0 } else { QUESTION };
            let room =
                self.room_for(Side::Client, PacketType::Subscribe, total + WAITING + charge + count * FILTER);
            match room {
                Room::Yes if !self.too_many_user_properties(subscribe.properties) => {}
                Room::Wait => return Ok(Step::Wait),
                Room::Yes | Room::Never => {
                    let packet = Waiting::Subscribe(State::OverBudget, layout);
                    return Ok(Step::Keep(total, Slot { bytes: Bytes::new(), packet, charge: 0 }));
                }
            }
        }
        let ruled = match self.peer() {
            // Nobody is at the client's side before CONNECT, and nothing of nobody's is allowed.
            None => Ruled::Now(Ruling::refused(Source::Unknown, Refusal::default())),
            Some(_) if want == Want::Nothing => Ruled::Now(Ruling::allowed(Source::Unasked)),
            Some(peer) => {
                let filters: SmallVec<[FilterRequest<'_>; 8]> = subscribe.filters().collect();
                let question = SubscribeQuestion::new(peer, &filters, subscribe.properties);
                self.setting.advisers.subscribe(&question)
            }
        };
        let state = match ruled {
            Ruled::Later(pending) => {
                let question = OpenQuestion::subscribe(self.lane(Side::Client).next(), pending);
                self.effects.push(Effect::Ask(question));
                charge += count * FILTER;
                State::Hold
            }
            Ruled::Now(_) if want == Want::Nothing => State::Go,
            Ruled::Now(ruling) => State::Ruled(Box::new(ruling)),
        };
        if want != Want::Nothing {
            self.worked(Hook::Subscribe, count, total);
        }
        let charge = if matches!(state, State::Hold) { charge as u32 } else { 0 };
        let packet = Waiting::Subscribe(state, layout);
        Ok(Step::Keep(total, Slot { bytes: Bytes::new(), packet, charge }))
    }

    /// Whether more is made of a SUBSCRIBE than a packet that passes.
    fn keeps_filters(&self, want: Want) -> bool {
        want != Want::Nothing
            || self.grant().is_some()
            || self.ledger.is_some()
            || !self.lane(Side::Client).is_empty()
            || self.setting.sink.want(Kind::Subscribe) != Want::Nothing
    }

    /// Carries out what was decided of a SUBSCRIBE whose turn has come.
    pub(super) fn subscribe_released(
        &mut self,
        bytes: Bytes,
        state: State<SubscribeDecision>,
        layout: SubscribeLayout,
        now: Instant,
    ) {
        let (Some(subscribe), Some(peer)) = (layout.find(&bytes), self.peer()) else {
            return self.end(Fault::Internal { what: "a SUBSCRIBE that waits is not what it was" }, now);
        };
        if matches!(state, State::OverBudget) {
            let count = subscribe.filters().len();
            self.count_over_budget(Hook::Subscribe, count as u64);
            let code = suback_code(self.terms.version, ReasonCode::QUOTA_EXCEEDED);
            self.suback_ours(subscribe.packet_id, &vec![code; count], None);
            return;
        }
        let requests: SmallVec<[FilterRequest<'_>; 8]> = subscribe.filters().collect();
        let plain = || vec![Decision::Allow(FilterChange::default()); requests.len()];
        let (source, formed) = match state {
            // The lane lets none go whose verdict is out, and knows no SUBSCRIBE that was answered before.
            State::Hold | State::Again | State::OverBudget => {
                (Source::Unknown, Err(Refused::with(ReasonCode::NOT_AUTHORIZED)))
            }
            State::Go if self.grant().is_some() => (Source::Grant, Ok(plain())),
            State::Go => {
                self.subscribe_leaves(&subscribe, &requests, &[], Box::default());
                self.send(Side::Broker, bytes.clone());
                return;
            }
            State::Ruled(ruling) => {
                let resolved = resolve_subscribe(&self.setting, peer, requests.len(), *ruling, |each| {
                    Ok(self.check_filters(&subscribe, &requests, each)?)
                });
                (resolved.source, resolved.what.form())
            }
        };
        let mut decided = match formed {
            Ok(decided) => decided,
            Err(Refused::Said(refusal)) => vec![Decision::Refuse(refusal); requests.len()],
            Err(Refused::Undecided(undecided)) => vec![Decision::Refuse(undecided.refusal()); requests.len()],
        };
        for one in &decided {
            let outcome = match one {
                Decision::Allow(change) if *change == FilterChange::default() => Outcome::Allowed,
                Decision::Allow(_) => Outcome::Changed,
                Decision::Refuse(_) => Outcome::Refused,
            };
            self.setting.meter.decisions(Hook::Subscribe, source, outcome, 1);
        }
        // In this order: what has no place at the broker takes none among those that are counted.
        self.map_filters(&subscribe, &requests, &mut decided);
        let counted = self.count_subscriptions(&requests, &mut decided);
        let refusals = || decided.iter().filter_map(refusal);
        if let Some(refusal) = refusals().find(|refusal| refusal.action == Action::Disconnect) {
            let hook = Hook::Subscribe;
            return self.end(Fault::Refused { hook, refusal: Box::new(refusal.clone()) }, now);
        }
        let refused = refusals().count();
        if refused == requests.len() {
            let codes: SmallVec<[u8; 8]> = decided.iter().filter_map(|one| self.code(one)).collect();
            let text = refusals().find_map(|refusal| refusal.text.as_deref());
            self.suback_ours(subscribe.packet_id, &codes, text);
            if self.setting.sink.want(Kind::Subscribe) != Want::Nothing {
                let names = self.in_force(&requests, &decided).into_vec();
                self.report(Happening::Subscribe { filters: names.into_iter().zip(codes).collect() });
            }
            return;
        }
        if decided
            .iter()
            .all(|one| matches!(one, Decision::Allow(change) if *change == FilterChange::default()))
        {
            self.subscribe_leaves(&subscribe, &requests, &[], counted);
            self.send(Side::Broker, bytes.clone());
            return;
        }
        let sent = allowed_requests(&requests, &decided);
        let mut out = BytesMut::new();
        let kept = PropertyEdit::keep(subscribe.properties);
        if encode_subscribe(self.terms.version, subscribe.packet_id, &kept, sent.iter().copied(), &mut out)
            .is_err()
        {
            return self.end(Fault::Internal { what: "a checked rewrite did not encode" }, now);
        }
        self.subscribe_leaves(&subscribe, &requests, &decided, counted);
        self.send(Side::Broker, out.freeze());
    }

    /// Changes that say what the client said anyway are none; the others must make a valid SUBSCRIBE.
    fn check_filters(
        &self,
        subscribe: &Subscribe<'_>,
        requests: &[FilterRequest<'_>],
        mut decided: Vec<Decided>,
    ) -> Result<Vec<Decided>, Unusable> {
        let (mut renames, mut rename_bytes) = (0, 0);
        for (request, one) in requests.iter().zip(&mut decided) {
            let Decision::Allow(change) = one else { continue };
            if let Some(filter) = &change.filter {
                let filter =
                    TopicFilter::new(filter).map_err(|error| Unusable::topic("rewritten filter", error))?;
                if request.no_local && filter.share().is_some() {
                    // [MQTT-3.8.3-4]
                    return Err(Unusable::invalid("rewritten filter: a shared subscription with No Local"));
                }
                if filter.as_str() == request.filter.as_str() {
                    change.filter = None;
                } else if let Err(refusal) = self.recheck_filter(change) {
                    *one = Decision::Refuse(refusal);
                    continue;
                }
            }
            if change.max_qos.is_some_and(|most| most >= request.qos) {
                change.max_qos = None;
            }
            if let Some(filter) = &change.filter {
                renames += 1;
                rename_bytes += request.filter.as_str().len() + filter.len();
            }
        }
        if renames > 0 {
            let room = self.ledger.as_ref().is_none_or(|ledger| ledger.has_room_for(renames, rename_bytes));
            if !room {
                return Err(Unusable::too_large("more rewritten filters than one session remembers"));
            }
            let mut out = BytesMut::new();
            let kept = PropertyEdit::keep(subscribe.properties);
            let sent = allowed_requests(requests, &decided);
            encode_subscribe(self.terms.version, subscribe.packet_id, &kept, sent.iter().copied(), &mut out)
                .map_err(|error| Unusable::packet("rewritten SUBSCRIBE", &error))?;
            let (size, most) = (out.len(), self.terms.max_packet_to(Side::Broker));
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
    fn code(&self, decided: &Decided) -> Option<u8> {
        refusal(decided).map(|refusal| suback_code(self.terms.version, refusal.reason))
    }

    /// What the broker knows the filters as, and would know those that are refused.
    pub(super) fn in_force(&self, requests: &[FilterRequest<'_>], decided: &[Decided]) -> Box<[Box<str>]> {
        requests
            .iter()
            .enumerate()
            .map(|(at, request)| match decided.get(at) {
                Some(Decision::Allow(FilterChange { filter: Some(filter), .. })) => filter.clone(),
                Some(Decision::Allow(_)) | None => request.filter.as_str().into(),
                Some(Decision::Refuse(_)) => self.name_at_broker(request.filter.as_str()),
            })
            .collect()
    }

    /// Bookkeeping of a SUBSCRIBE at the moment it leaves; `decided` is empty where nothing was changed.
    fn subscribe_leaves(
        &mut self,
        subscribe: &Subscribe<'_>,
        requests: &[FilterRequest<'_>],
        decided: &[Decided],
        counted: Box<[Option<Box<str>>]>,
    ) {
        let renames =
            decided.iter().any(|one| matches!(one, Decision::Allow(FilterChange { filter: Some(_), .. })));
        let retire = if renames || self.ledger.as_ref().is_some_and(|ledger| ledger.has_renames()) {
            self.remember_renames(requests, decided)
        } else {
            Box::default()
        };
        self.remember_plain(requests, decided);
        let mask: Box<[Option<u8>]> = if decided.iter().any(|one| refusal(one).is_some()) {
            decided.iter().map(|one| self.code(one)).collect()
        } else {
            Box::default()
        };
        let told = self.setting.sink.want(Kind::Subscribe) != Want::Nothing;
        if mask.is_empty() && !told && retire.is_empty() && counted.is_empty() {
            return;
        }
        let filters = if told { self.in_force(requests, decided) } else { Box::default() };
        let id = subscribe.packet_id;
        self.ledger().subscribing(Subscribing { id, mask, filters, retire, counted });
    }
}

pub(super) const fn refusal(decided: &Decided) -> Option<&Refusal> {
    match decided {
        Decision::Allow(_) => None,
        Decision::Refuse(refusal) => Some(refusal),
    }
}

/// What goes to the broker.
pub(super) fn allowed_requests<'a>(
    requests: &[FilterRequest<'a>],
    decided: &'a [Decided],
) -> SmallVec<[FilterRequest<'a>; 8]> {
    requests
        .iter()
        .zip(decided)
        .filter_map(|(request, one)| {
            let Decision::Allow(change) = one else { return None };
            let filter = match &change.filter {
                Some(filter) => TopicFilter::new(filter).ok()?,
                None => request.filter,
            };
            let qos: QoS = change.max_qos.map_or(request.qos, |most| most.min(request.qos));
            Some(FilterRequest { filter, qos, ..*request })
        })
        .collect()
}
