//! A PUBLISH that was allowed, in the form in which it goes on: as it came, or with a new head.

use bytes::{Bytes, BytesMut};
use mproxy_codec::packet::publish::PublishHead;

use super::super::context::Context;
use super::super::link::Link;
use super::super::mapping::TOPIC_WITHOUT_PLACE;
use super::super::resolve::{CarriedOut, Unfit};
use super::super::rewrite;
use crate::peer::Side;
use crate::policy::{PublishChange, Unusable};

/// A PUBLISH as it goes on.
pub(super) struct OutgoingPublish {
    /// What was changed.
    pub(super) change: Option<Box<PublishChange>>,
    /// Its head, written anew; `None`: it goes as it came.
    pub(super) head: Option<BytesMut>,
}

impl Link {
    /// A PUBLISH that was allowed, perhaps with changes, in the form in which it goes on.
    ///
    /// # Errors
    /// It makes no valid packet, or the client's grant forbids what it was changed to.
    pub(super) fn carry_out(
        &self,
        cx: &Context,
        from: Side,
        head: &PublishHead<'_>,
        topic: &str,
        change: Option<Box<PublishChange>>,
    ) -> Result<CarriedOut<OutgoingPublish>, Unfit> {
        let known = self.policy_topic(from, topic);
        let known = known.as_deref().unwrap_or(topic);
        let change =
            change.map(|change| real_change(change, head, known)).filter(|change| !change.is_empty());
        let Some(change) = change else {
            let head = match self.receiver_knows(from, head, topic) {
                true => None,
                false => Some(self.rewrite_head(from, head, topic, None)?),
            };
            return Ok(CarriedOut::Plain(OutgoingPublish { change: None, head }));
        };
        let head_anew = self.rewrite_head(from, head, topic, Some(&change))?;
        // After the head was written: a rewrite that makes no packet is the policy's fault, and told as that.
        self.recheck(cx, from, head, known, &change).map_err(Unfit::Denied)?;
        Ok(CarriedOut::Changed(OutgoingPublish { change: Some(change), head: Some(head_anew) }))
    }

    /// Whether a PUBLISH could go on with these changes.
    pub(in super::super) fn can_carry_out(
        &self,
        cx: &Context,
        from: Side,
        head: &PublishHead<'_>,
        topic: &str,
        change: &PublishChange,
    ) -> bool {
        self.carry_out(cx, from, head, topic, Some(Box::new(change.clone()))).is_ok()
    }

    /// The new head of a PUBLISH, unless that makes an invalid packet, or a topic of it has no place at the other side.
    fn rewrite_head(
        &self,
        from: Side,
        head: &PublishHead<'_>,
        topic: &str,
        change: Option<&PublishChange>,
    ) -> Result<BytesMut, Unfit> {
        let Some(topic) = self.outgoing_topic(from, topic, change) else {
            return Err(Unfit::Denied(self.without_place(TOPIC_WITHOUT_PLACE)));
        };
        let topic = &*topic;
        let response = self.outgoing_response(from, head).map_err(Unfit::Denied)?;
        mproxy_codec::topic::check_name(topic).map_err(|error| Unusable::topic("rewritten topic", error))?;
        let new_payload = change.and_then(|change| change.payload.as_ref());
        let payload_len = new_payload.map_or(head.payload_len, Bytes::len);
        let mut out = BytesMut::new();
        rewrite::publish_head(
            head,
            topic,
            response.as_deref(),
            change,
            payload_len,
            self.terms.version,
            &mut out,
        )
        .map_err(|error| Unusable::packet("rewritten packet", &error))?;
        let (size, most) = (out.len() + payload_len, self.terms.max_packet_to(from.other()));
        // The receiver would close on it ([MQTT-3.1.2-24], [MQTT-3.2.2-15]).
        if size > most as usize {
            let to = from.other();
            return Err(Unfit::Unusable(Unusable::too_large(format!(
                "rewritten packet of {size} bytes is over the {to}'s Maximum Packet Size of {most}"
            ))));
        }
        Ok(out)
    }
}

/// A change without what says the same as the packet does.
fn real_change(mut change: Box<PublishChange>, head: &PublishHead<'_>, topic: &str) -> Box<PublishChange> {
    change.topic.take_if(|new| **new == *topic);
    change.retain.take_if(|new| *new == head.retain);
    change
}
