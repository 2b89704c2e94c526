//! SUBSCRIBE: decided filter by filter, rewritten, refused in part or whole.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mproxy_codec::frame::Header;
use mproxy_codec::packet::{FilterRequest, Subscribe, encode_subscribe};
use mproxy_codec::property::PropertyEdit;
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{QoS, Sender};
use smallvec::SmallVec;

use super::lane::{Slot, State};
use super::ledger::{Rename, Subscribing};
use super::reply::suback_code;
use super::{Session, Step};
use crate::chain::{allowed, failed_refusal};
use crate::event::Kind;
use crate::fault::Fault;
use crate::meter::Outcome;
use crate::peer::Side;
use crate::policy::{
    Action, Answer, Decision, Failure, FailureKind, FilterChange, Hook, OnError, Question, Refusal, Ruling,
    Source, SubscribeQuestion, Verdict, Want,
};

/// Rewritten filters that one session remembers. Beyond, a rewrite counts as a failed answer.
const RENAMES: usize = 1024;

/// What was decided about one filter.
type Decided = Decision<FilterChange>;

impl Session {
    pub(super) fn subscribe_step(
        &mut self,
        header: &Header,
        data: &[u8],
        now: Instant,
    ) -> Result<Step, Fault> {
        let total = header.total();
        let subscribe = Subscribe::parse(header, &data[..total], Sender::Client, self.terms.version)
            .map_err(|error| Fault::Malformed { side: Side::Client, error })?;
        let _ = now;
        let want = self.setting.decider.want(Hook::Subscribe);
        let answer = match self.peer() {
            Some(peer) if want != Want::Nothing => {
                let filters: SmallVec<[FilterRequest<'_>; 8]> = subscribe.filters().collect();
                let question =
                    SubscribeQuestion { peer, filters: &filters, properties: subscribe.properties };
                self.setting.decider.decide(&Question::Subscribe(question))
            }
            Some(_) | None => {
                Answer::Now(Ruling { source: Source::Unasked, verdict: allowed(Hook::Subscribe) })
            }
        };
        let state = match answer {
            Answer::Later(pending) => {
                self.ask(Side::Client, pending);
                State::Hold
            }
            Answer::Now(ruling) if ruling.source == Source::Unasked && want == Want::Nothing => State::Go,
            Answer::Now(ruling) => State::Ruled(Box::new(ruling)),
            Answer::Pass => State::Ruled(Box::new(Ruling {
                source: Source::Unknown,
                verdict: Verdict::SubscribeAll(Decision::Refuse(Refusal::default())),
            })),
        };
        Ok(Step::Keep(total, Slot { bytes: Bytes::new(), state, topic: None, streams: false }))
    }

    /// Carries out what was decided of a SUBSCRIBE whose turn has come.
    pub(super) fn subscribe_released(&mut self, slot: Slot, now: Instant) {
        let Slot { bytes, state, .. } = slot;
        // The bytes were read once already; they cannot be read differently now.
        let Ok(Some(header)) = Header::parse(&bytes, Sender::Client, Some(self.terms.version)) else {
            return;
        };
        let Ok(subscribe) = Subscribe::parse(&header, &bytes, Sender::Client, self.terms.version) else {
            return;
        };
        let requests: SmallVec<[FilterRequest<'_>; 8]> = subscribe.filters().collect();
        let (source, decided, failure) = match state {
            State::Go | State::Hold => {
                self.subscribe_leaves(&subscribe, &requests, &[]);
                self.effects.send(Side::Broker, bytes.clone());
                return;
            }
            State::Ruled(ruling) => self.subscribe_ruled(*ruling, &requests),
        };
        for one in &decided {
            let outcome = match one {
                Decision::Allow(change) if *change == FilterChange::default() => Outcome::Allowed,
                Decision::Allow(_) => Outcome::Changed,
                Decision::Refuse(_) => Outcome::Refused,
            };
            self.setting.meter.decision(Hook::Subscribe, source, outcome);
        }
        let refusals = || decided.iter().filter_map(refusal);
        if let Some(refusal) = refusals().find(|refusal| refusal.action == Action::Disconnect) {
            let hook = Hook::Subscribe;
            self.end(
                match failure {
                    Some(failure) => Fault::PolicyFailed { hook, failure: Box::new(failure) },
                    None => Fault::Refused { hook, refusal: Box::new(refusal.clone()) },
                },
                now,
            );
            return;
        }
        let refused = refusals().count();
        if refused == requests.len() {
            if refusals().all(|refusal| refusal.action == Action::NoAck) {
                return;
            }
            let codes: SmallVec<[u8; 8]> =
                requests.iter().zip(&decided).filter_map(|(request, one)| self.code(request, one)).collect();
            let text = refusals().find_map(|refusal| refusal.text.as_deref());
            self.suback_ours(subscribe.packet_id, &codes, text);
            return;
        }
        if decided
            .iter()
            .all(|one| matches!(one, Decision::Allow(change) if *change == FilterChange::default()))
        {
            self.subscribe_leaves(&subscribe, &requests, &[]);
            self.effects.send(Side::Broker, bytes.clone());
            return;
        }
        let sent = allowed_requests(&requests, &decided);
        let mut out = BytesMut::new();
        let kept = PropertyEdit::keep(subscribe.properties);
        if encode_subscribe(self.terms.version, subscribe.packet_id, &kept, sent.iter().copied(), &mut out)
            .is_err()
        {
            debug_assert!(false, "a checked rewrite did not encode");
            return;
        }
        self.remember_renames(&requests, &decided);
        self.subscribe_leaves(&subscribe, &requests, &decided);
        self.effects.send(Side::Broker, out.freeze());
    }

    /// A verdict, judged: one decision for each filter, valid ones only.
    fn subscribe_ruled(
        &mut self,
        ruling: Ruling,
        requests: &[FilterRequest<'_>],
    ) -> (Source, Vec<Decided>, Option<Failure>) {
        let Ruling { source, verdict } = ruling;
        let judged = match verdict {
            Verdict::SubscribeAll(Decision::Allow(())) => {
                Ok(vec![Decision::Allow(FilterChange::default()); requests.len()])
            }
            Verdict::SubscribeAll(Decision::Refuse(refusal)) => {
                Ok(vec![Decision::Refuse(refusal); requests.len()])
            }
            Verdict::Subscribe(decided) if decided.len() == requests.len() => {
                self.check_filters(requests, decided).map_err(|why| Failure::new(FailureKind::Invalid, why))
            }
            Verdict::Subscribe(decided) => Err(Failure::new(
                FailureKind::WrongLength,
                format!("{} verdicts for {} filters", decided.len(), requests.len()),
            )),
            Verdict::Failed(failure) => Err(failure),
            Verdict::Connect(_) | Verdict::Publish(_) => {
                Err(Failure::new(FailureKind::Invalid, "a verdict to another question"))
            }
        };
        match (judged, self.setting.on_error.subscribe) {
            (Ok(decided), _) => (source, decided, None),
            (Err(_), OnError::Allow) => {
                (Source::FailedOpen, vec![Decision::Allow(FilterChange::default()); requests.len()], None)
            }
            (Err(failure), OnError::Deny) => {
                let refused = vec![Decision::Refuse(failed_refusal()); requests.len()];
                (Source::FailedClosed, refused, Some(failure))
            }
        }
    }

    /// Changes that say what the client said anyway are none; the others must make a valid SUBSCRIBE.
    fn check_filters(
        &self,
        requests: &[FilterRequest<'_>],
        mut decided: Vec<Decided>,
    ) -> Result<Vec<Decided>, String> {
        let mut changed = false;
        for (request, one) in requests.iter().zip(&mut decided) {
            let Decision::Allow(change) = one else { continue };
            if let Some(filter) = &change.filter {
                let filter =
                    TopicFilter::new(filter).map_err(|error| format!("rewritten filter: {error}"))?;
                if request.no_local && filter.share().is_some() {
                    // [MQTT-3.8.3-4]
                    return Err("rewritten filter: a shared subscription with No Local".into());
                }
                if filter.as_str() == request.filter.as_str() {
                    change.filter = None;
                }
            }
            if change.max_qos.is_some_and(|most| most >= request.qos) {
                change.max_qos = None;
            }
            changed |= *change != FilterChange::default();
        }
        if changed {
            let known = self.ledger.as_ref().map_or(0, |ledger| ledger.renames.len());
            if known + requests.len() > RENAMES {
                return Err("more rewritten filters than one session remembers".into());
            }
            let size: usize = allowed_requests(requests, &decided)
                .iter()
                .map(|request| request.filter.as_str().len() + 3)
                .sum();
            let most = self.terms.max_packet_to(Side::Broker) as usize;
            if size + 16 > most {
                return Err(format!(
                    "rewritten SUBSCRIBE is over the broker's Maximum Packet Size of {most}"
                ));
            }
        }
        Ok(decided)
    }

    /// The code for a refused filter; `None` for one that goes to the broker.
    fn code(&self, request: &FilterRequest<'_>, decided: &Decided) -> Option<u8> {
        let refusal = refusal(decided)?;
        Some(match refusal.action {
            Action::Reject | Action::NoAck | Action::Disconnect => {
                suback_code(self.terms.version, refusal.reason)
            }
            // As if taken.
            Action::Drop => request.qos as u8,
        })
    }

    fn remember_renames(&mut self, requests: &[FilterRequest<'_>], decided: &[Decided]) {
        for (request, one) in requests.iter().zip(decided) {
            let asked = request.filter.as_str();
            let Decision::Allow(change) = one else { continue };
            if let Some(ledger) = &mut self.ledger {
                ledger.renames.retain(|rename| *rename.asked != *asked);
            }
            if let Some(sent) = &change.filter {
                self.ledger().renames.push(Rename { asked: asked.into(), sent: sent.clone() });
            }
        }
    }

    /// Bookkeeping of a SUBSCRIBE at the moment it leaves; `decided` is empty where nothing was changed.
    fn subscribe_leaves(
        &mut self,
        subscribe: &Subscribe<'_>,
        requests: &[FilterRequest<'_>],
        decided: &[Decided],
    ) {
        let mask: Box<[Option<u8>]> = if decided.iter().any(|one| refusal(one).is_some()) {
            requests.iter().zip(decided).map(|(request, one)| self.code(request, one)).collect()
        } else {
            Box::default()
        };
        let told = self.setting.sink.want(Kind::Subscribe) != Want::Nothing;
        if mask.is_empty() && !told {
            return;
        }
        let filters = if told { in_force(requests, decided) } else { Box::default() };
        let id = subscribe.packet_id;
        let subscribes = &mut self.ledger().subscribes;
        subscribes.retain(|one| one.id != id);
        subscribes.push(Subscribing { id, mask, filters });
    }
}

const fn refusal(decided: &Decided) -> Option<&Refusal> {
    match decided {
        Decision::Allow(_) => None,
        Decision::Refuse(refusal) => Some(refusal),
    }
}

fn in_force(requests: &[FilterRequest<'_>], decided: &[Decided]) -> Box<[Box<str>]> {
    requests
        .iter()
        .enumerate()
        .map(|(at, request)| match decided.get(at) {
            Some(Decision::Allow(FilterChange { filter: Some(filter), .. })) => filter.clone(),
            Some(Decision::Allow(_) | Decision::Refuse(_)) | None => request.filter.as_str().into(),
        })
        .collect()
}

/// What goes to the broker.
fn allowed_requests<'a>(
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
