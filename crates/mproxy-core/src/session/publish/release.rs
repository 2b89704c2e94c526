//! A PUBLISH whose turn has come: what was decided of it is carried out, and what has to be remembered of it is written down.

use bytes::Bytes;
use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::reason::ReasonCode;

use super::super::acknowledge::acknowledgement;
use super::super::context::Context;
use super::super::direction::Follows;
use super::super::lane::{SlotState, WaitingPublish};
use super::super::link::Link;
use super::super::resolve::{self, Rejection, resolve};
use super::super::step::Stop;
use super::hook;
use super::outgoing::OutgoingPublish;
use crate::event::{Happening, Kind, Published};
use crate::fault::Fault;
use crate::grant::GrantGround;
use crate::meter::Outcome;
use crate::peer::Side;
use crate::policy::{Ground, PublishChange, PublishDecision, Source, Want};
use crate::record::DecisionSubject;

/// Payload bytes that one session keeps until the broker has acknowledged them, for events. Beyond, events go
/// without their payload.
const TOLD_BYTES: usize = 64 << 10;

/// A PUBLISH whose turn has come.
struct DuePublish<'a> {
    from: Side,
    /// The packet; of one that streams, its head.
    bytes: &'a Bytes,
    head: &'a PublishHead<'a>,
    /// The real topic.
    topic: &'a str,
    /// Its payload follows.
    streams: bool,
}

impl Link {
    /// Carries out what was decided of a PUBLISH whose turn has come.
    ///
    /// # Errors
    /// That ends the session.
    pub(in super::super) fn release_publish(
        &mut self,
        cx: &mut Context,
        from: Side,
        bytes: Bytes,
        publish: WaitingPublish,
    ) -> Result<(), Stop> {
        let WaitingPublish { state, layout, topic: alias_topic, streams } = publish;
        let Some(head) = layout.find(&bytes) else {
            return Err(Fault::Internal { what: "a waiting PUBLISH has changed" }.into());
        };
        let topic = alias_topic.as_deref().unwrap_or(head.topic);
        if matches!(state, SlotState::Again) {
            self.direction_mut(from).skip_body(streams);
            self.acknowledge(cx, from, &head, ReasonCode::SUCCESS, None);
            return Ok(());
        }
        let due = DuePublish { from, bytes: &bytes, head: &head, topic, streams };
        match self.resolve_publish(cx, &due, state) {
            Ok(outgoing) => {
                let as_it_came = outgoing.head.is_none();
                self.leave_publish(cx, &due, outgoing);
                if as_it_came {
                    // Here, where they are owned: a second reference to bytes that have one would be an allocation.
                    self.send(cx, from.other(), bytes);
                }
                Ok(())
            }
            Err(refused) => {
                self.record_refused_publish(cx, &due, &refused);
                self.direction_mut(from).skip_body(streams);
                self.refuse_publish(cx, from, &head, refused)
            }
        }
    }

    /// The form in which it goes on.
    ///
    /// # Errors
    /// It does not.
    fn resolve_publish(
        &self,
        cx: &Context,
        due: &DuePublish<'_>,
        state: SlotState<PublishDecision>,
    ) -> Result<OutgoingPublish, Rejection> {
        let (from, hook) = (due.from, hook(due.from));
        match state {
            SlotState::Go => match self.carry_out(cx, from, due.head, due.topic, None) {
                Ok(form) => Ok(form.into_inner()),
                // Only a topic that has to be taught anew, or under a prefix, gets here. It cannot go as it came.
                Err(unfit) => Err(resolve::refuse(&cx.setting, &self.peer, hook, unfit)),
            },
            SlotState::Ruled(ruling) => {
                let resolved = resolve(&cx.setting, &self.peer, hook, *ruling, |change| {
                    self.carry_out(cx, from, due.head, due.topic, change)
                });
                resolved.count(&cx.setting, hook);
                if let Some(changed) = resolved.is_changed() {
                    let by = (resolved.source, resolved.endpoint.as_ref(), changed);
                    self.sample_publish(cx, from, due.head, due.topic, by);
                }
                resolved.what.form()
            }
            SlotState::OverBudget => {
                cx.count_over_budget(hook, 1);
                Err(Rejection::with(ReasonCode::QUOTA_EXCEEDED, Ground::Source(Source::Budget)))
            }
            SlotState::OverRate => {
                cx.setting.meter.decisions(hook, Source::Rate, Outcome::Refused, 1);
                Err(Rejection::with(ReasonCode::QUOTA_EXCEEDED, self.grant_ground(GrantGround::Rate)))
            }
            SlotState::OverLimit(kind) => {
                cx.setting.meter.decisions(hook, Source::Limit, Outcome::Refused, 1);
                Err(Rejection::with(kind.reason(), Ground::Limit(kind)))
            }
            SlotState::Hold(_) | SlotState::Again => {
                debug_assert!(
                    false,
                    "the lane lets none go whose verdict is out, and a repeated one is answered before"
                );
                Err(Rejection::with(ReasonCode::NOT_AUTHORIZED, Ground::Unsaid))
            }
        }
    }

    /// Tells the decision log.
    fn record_refused_publish(&self, cx: &Context, due: &DuePublish<'_>, refused: &Rejection) {
        let DuePublish { from, head, topic, .. } = *due;
        let known = self.policy_topic(from, topic);
        let topic = known.as_deref().unwrap_or(topic);
        let subject =
            DecisionSubject::Message { hook: hook(from), topic, qos: head.qos, retain: head.retain };
        self.record(cx, subject, refused.outcome());
    }

    /// It leaves in this form: what has to be remembered is written down, and what was written anew is sent.
    fn leave_publish(&mut self, cx: &mut Context, due: &DuePublish<'_>, outgoing: OutgoingPublish) {
        let DuePublish { from, bytes, head, topic, streams } = *due;
        let OutgoingPublish { change, head: out } = outgoing;
        // It has one, or it would not leave.
        let sent_topic = self.outgoing_topic(from, topic, change.as_deref()).unwrap_or_else(|| topic.into());
        let new_payload = change.as_ref().and_then(|change| change.payload.clone());
        let payload = match &new_payload {
            Some(payload) => Some(&payload[..]),
            None if streams => None,
            None => Some(&bytes[head.len..]),
        };
        // Before it is remembered: whoever acknowledges it takes the event from there.
        let event = self.published_event(cx, from, head, &sent_topic, payload, change.as_deref());
        self.record_publish(
            cx,
            from,
            head,
            (out.is_some() || !head.topic.is_empty()).then_some(&*sent_topic),
            event,
            streams && new_payload.is_none(),
        );
        let to = from.other();
        if let Some(out) = out {
            self.send(cx, to, out.freeze());
            // Of a payload that stays, the very bytes that were read.
            self.send(cx, to, new_payload.clone().unwrap_or_else(|| bytes.slice(head.len..)));
        }
        let direction = self.direction_mut(from);
        if new_payload.is_some() {
            direction.skip_body(streams);
        } else if streams {
            direction.body.follows = Follows::Head;
        }
    }

    /// Bookkeeping of a PUBLISH at the moment it leaves, with this topic in it if with one. `streams`: its payload follows.
    pub(super) fn record_publish(
        &mut self,
        cx: &mut Context,
        from: Side,
        head: &PublishHead<'_>,
        topic: Option<&str>,
        told: Option<Box<Published>>,
        streams: bool,
    ) {
        if let (Some(alias), Some(topic)) = (head.alias, topic) {
            let most = cx.setting.limits.alias_bytes;
            self.direction_mut(from).aliases().set_receiver_topic(alias, topic, most);
        }
        let Some(id) = head.packet_id else {
            match told {
                // Nobody acknowledges it; but until it is whole the broker has nothing.
                Some(told) if streams => self.rare().streaming = Some(told),
                Some(told) => self.report(cx, Happening::Publish(told)),
                None => {}
            }
            return;
        };
        if from == Side::Client {
            self.up.in_flight.add_forwarded(head.qos, id);
        }
        // What lies outside of the prefix is dropped, and our acknowledgements of it need their place among the
        // client's.
        let mapped = self.terms.mapped && from == Side::Broker;
        if self.want(cx, from) != Want::Nothing
            || mapped
            || told.is_some()
            || self.direction(from).known_flows().is_some()
        {
            self.direction_mut(from).flows().expect(acknowledgement(head.qos), id, told);
        }
    }

    /// The last byte of a streamed payload goes on.
    pub(in super::super) fn finish_stream(&mut self, cx: &mut Context, from: Side) {
        if from == Side::Client
            && let Some(told) = self.rare.as_mut().and_then(|rare| rare.streaming.take())
        {
            self.report(cx, Happening::Publish(told));
        }
    }

    /// What to tell of a PUBLISH that leaves.
    pub(super) fn published_event(
        &self,
        cx: &Context,
        from: Side,
        head: &PublishHead<'_>,
        topic: &str,
        payload: Option<&[u8]>,
        change: Option<&PublishChange>,
    ) -> Option<Box<Published>> {
        if from == Side::Broker {
            return None;
        }
        let most = match cx.setting.sink.want(Kind::Publish) {
            Want::Nothing => return None,
            Want::Head => 0,
            Want::Payload(most) => most as usize,
        };
        let kept = self.up.kept_bytes();
        let size = change.and_then(|change| change.payload.as_ref()).map_or(head.payload_len, Bytes::len);
        // Copied: a slice would keep the whole read in memory until the broker acknowledges.
        let payload = payload
            .filter(|payload| payload.len() <= most && most > 0 && kept + payload.len() <= TOLD_BYTES)
            .map(Bytes::copy_from_slice);
        Some(Box::new(Published {
            topic: topic.into(),
            qos: head.qos,
            retain: change.and_then(|change| change.retain).unwrap_or(head.retain),
            size: size as u64,
            payload,
        }))
    }
}
