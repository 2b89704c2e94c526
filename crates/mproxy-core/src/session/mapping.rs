//! Topics of a session whose grant rewrites them, or puts them under a prefix. Without a mapping everything here gives back
//! what it was given, and copies nothing.

use std::borrow::Cow;

use bytes::Bytes;
use mproxy_codec::packet::publish::PublishHead;
use mproxy_codec::property::PropertyId;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::QoS;

use super::context::Context;
use super::judged::judged_message;
use super::link::Link;
use crate::grant::{Grant, GrantAnswer, GrantGround, Mapping, NoPlace};
use crate::peer::Side;
use crate::policy::{FilterChange, PublishChange, Refusal};
use crate::rule::{Act, AskedFilter, Message, Who};

/// What a client is told of a topic that the rewrites give to another one.
pub(super) const TOPIC_WITHOUT_PLACE: &str = "another topic is rewritten to this one";
const RESPONSE_WITHOUT_PLACE: &str = "another topic is rewritten to the response topic";

impl Link {
    pub(super) fn grant(&self) -> Option<&Grant> {
        self.peer.grant.as_deref()
    }

    fn mapping(&self) -> Option<&Mapping> {
        if !self.terms.mapped {
            return None;
        }
        self.grant().and_then(|grant| grant.mapping.as_ref())
    }

    /// The topic of a PUBLISH as the client and the policy know it. `None`: one of the broker's that is none of this
    /// client's.
    pub(super) fn policy_topic<'t>(&self, from: Side, topic: &'t str) -> Option<Cow<'t, str>> {
        match (self.mapping(), from) {
            (None, _) | (_, Side::Client) => Some(topic.into()),
            (Some(mapping), Side::Broker) => mapping.down(topic),
        }
    }

    /// How much work it is to map so many topics or filters of so many bytes together.
    pub(super) fn mapping_work(&self, count: usize, bytes: usize) -> usize {
        self.mapping().map_or(0, |mapping| mapping.work(count, bytes))
    }

    /// What a PUBLISH is refused by whose topic has no place at the other side. Of the client's that is its own topic, for
    /// which there is a code; of the broker's it is none of the client's.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn check_place(&self, from: Side, topic: &str) -> Result<(), Refusal> {
        let Some(mapping) = self.mapping() else { return Ok(()) };
        match from {
            Side::Client if mapping.rewrites() && mapping.up(topic).is_none() => {
                Err(self.without_place(TOPIC_WITHOUT_PLACE))
            }
            Side::Client => Ok(()),
            Side::Broker if mapping.down(topic).is_some() => Ok(()),
            Side::Broker => {
                let part =
                    if mapping.is_under_prefix(topic) { GrantGround::Rewrite } else { GrantGround::Prefix };
                Err(Refusal::default().by(self.grant_ground(part)))
            }
        }
    }

    /// The refusal of a topic of the client's that the rewrites give to another one.
    pub(super) fn without_place(&self, text: &str) -> Refusal {
        let refusal =
            Refusal::new(ReasonCode::TOPIC_NAME_INVALID).by(self.grant_ground(GrantGround::Rewrite));
        Refusal { text: Some(text.into()), ..refusal }
    }

    /// The same of a filter.
    pub(super) fn filter_without_place(&self, why: NoPlace) -> Refusal {
        let (part, text) = match why {
            NoPlace::TooLong => (GrantGround::Prefix, None),
            NoPlace::Divided | NoPlace::Renamed => (GrantGround::Rewrite, Some(why.text().into())),
        };
        Refusal { text, ..Refusal::new(ReasonCode::TOPIC_FILTER_INVALID).by(self.grant_ground(part)) }
    }

    /// The topic under which a PUBLISH leaves that came under `topic`; `None` if it has no place at the other side.
    pub(super) fn outgoing_topic<'t>(
        &self,
        from: Side,
        topic: &'t str,
        change: Option<&'t PublishChange>,
    ) -> Option<Cow<'t, str>> {
        let changed = change.and_then(|change| change.topic.as_deref());
        let Some(mapping) = self.mapping() else { return Some(changed.unwrap_or(topic).into()) };
        match (from, changed) {
            (Side::Client, changed) => mapping.up(changed.unwrap_or(topic)),
            (Side::Broker, Some(changed)) => Some(changed.into()),
            (Side::Broker, None) => mapping.down(topic),
        }
    }

    /// The response topic with which it leaves, if that is another than it came with.
    ///
    /// # Errors
    /// The client's has no place at the broker: whoever answers would answer to another one.
    pub(super) fn outgoing_response<'t>(
        &self,
        from: Side,
        head: &PublishHead<'t>,
    ) -> Result<Option<Cow<'t, str>>, Refusal> {
        let Some(mapping) = self.mapping() else { return Ok(None) };
        let Some(came) = head.properties.text(PropertyId::ResponseTopic) else { return Ok(None) };
        let leaves = match from {
            Side::Client => mapping.up(came).ok_or_else(|| self.without_place(RESPONSE_WITHOUT_PLACE))?,
            // Not the client's to answer under; but what it means is between the two that speak.
            Side::Broker => mapping.down(came).unwrap_or_else(|| came.into()),
        };
        Ok((leaves != came).then_some(leaves))
    }

    /// The filter that the broker is asked for instead, `None` if that is the client's own.
    ///
    /// # Errors
    /// The client's filter has no place at the broker.
    pub(super) fn mapped_filter(&self, filter: &str) -> Result<Option<Box<str>>, NoPlace> {
        let Some(mapping) = self.mapping() else { return Ok(None) };
        let mapped = mapping.up_filter(filter)?;
        Ok((mapped != filter).then(|| mapped.into()))
    }

    /// What the client would call a filter that the broker knows by this name. `None`: it lies outside of the prefix.
    pub(super) fn client_s_filter<'t>(&self, name: &'t str) -> Option<Cow<'t, str>> {
        match self.mapping() {
            None => Some(name.into()),
            Some(mapping) => mapping.down_filter(name),
        }
    }

    /// What the broker would know the client's filter as, valid or not: for events.
    pub(super) fn name_at_broker(&self, filter: &str) -> Box<str> {
        self.mapping().map_or_else(|| filter.into(), |mapping| mapping.name_of(filter).into())
    }

    /// A rewritten PUBLISH, held against the grant once more.
    ///
    /// # Errors
    /// How the grant refuses it.
    pub(super) fn recheck(
        &self,
        cx: &Context,
        from: Side,
        head: &PublishHead<'_>,
        topic: &str,
        change: &PublishChange,
    ) -> Result<(), Refusal> {
        // The rest of a change (user properties) is nothing that a grant's rules speak of.
        if change.topic.is_none() && change.retain.is_none() && change.payload.is_none() {
            return Ok(());
        }
        let Some(grant) = self.grant() else { return Ok(()) };
        let act = match from {
            Side::Client => Act::Publish,
            Side::Broker if grant.receives() => Act::Receive,
            // The grant's rules have nothing to say on deliveries.
            Side::Broker => return Ok(()),
        };
        let own = judged_message(cx, change.topic.as_deref().unwrap_or(topic), head);
        let message = Message {
            retain: change.retain.unwrap_or(own.retain),
            payload: change.payload.as_ref().map_or(own.payload, Bytes::len),
            ..own
        };
        let (answer, part) = grant.judge_message(act, Who::from(&*self.peer), message);
        match answer {
            GrantAnswer::Refuse(reason) => Err(Refusal::new(reason).by(self.grant_ground(part))),
            // Who rewrote it was asked.
            GrantAnswer::Ask | GrantAnswer::Allow(()) => Ok(()),
        }
    }

    /// A rewritten filter, held against the grant once more: it may lower the QoS.
    ///
    /// # Errors
    /// How the grant refuses it.
    pub(super) fn recheck_filter(
        &self,
        cx: &Context,
        change: &mut FilterChange,
        qos: QoS,
    ) -> Result<(), Refusal> {
        let Some(filter) = &change.filter else { return Ok(()) };
        let Some(grant) = self.grant() else { return Ok(()) };
        let qos = Some(change.max_qos.map_or(qos, |most| most.min(qos)));
        let asked = AskedFilter { filter, qos, time: cx.setting.clock.time() };
        let (answer, part) = grant.judge_filter(Who::from(&*self.peer), asked);
        match answer {
            GrantAnswer::Refuse(reason) => Err(Refusal::new(reason).by(self.grant_ground(part))),
            // Whoever rewrote it was asked, and said yes.
            GrantAnswer::Ask => Ok(()),
            GrantAnswer::Allow(most) => {
                // The lower of both: neither the policy's rewrite nor the grant may lift what the other bounds.
                change.max_qos = Some(change.max_qos.map_or(most, |own| own.min(most)));
                Ok(())
            }
        }
    }
}
