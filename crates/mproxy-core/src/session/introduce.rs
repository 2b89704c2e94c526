//! How an admitted client is introduced to the broker, and the broker's CONNACK to the client: what the admission
//! changed, what the grant maps, what our own limits cut short.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mproxy_codec::frame::FixedHeader;
use mproxy_codec::packet::{Connack, Connect, Disconnect, Will};
use mproxy_codec::property::{Place, Properties, PropertyEdit, PropertyId, Value};
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::check_name;
use mproxy_codec::types::{PacketType, Sender};

use super::context::Context;
use super::exchange::ConnackAuth;
use super::link::Link;
use super::mapping::TOPIC_WITHOUT_PLACE;
use super::reply::{is_fit, too_large_for, without_explanation};
use super::resolve::Unfit;
use super::rewrite;
use crate::fault::Fault;
use crate::grant::{Grant, GrantAnswer, GrantGround, Mapping};
use crate::peer::Side;
use crate::policy::{About, Admission, Ground, LimitKind, Refusal, Source, Unusable};
use crate::rule::{Act, Message, Who};

/// The protocol's own bound on packets [MQTT-2.2.3].
const ANY_PACKET: u32 = 268_435_460;

impl Link {
    /// The CONNECT for the broker; the very bytes where nothing changes. `source`: who gave the grant.
    pub(super) fn introduce(
        &mut self,
        cx: &Context,
        sent: &Bytes,
        admission: Option<&Admission>,
        source: Source,
    ) -> Result<Bytes, Unfit> {
        let asked =
            parse_connect(sent).ok_or_else(|| Unusable::invalid("CONNECT could not be read again"))?;
        let mut connect = match admission {
            Some(admission) => rewrite::connect(&asked, admission)?,
            None => asked,
        };
        let grant = admission.and_then(|admission| admission.grant.as_ref());
        // The rule file has looked at it with its own rules before those of the grant, and they have the first word.
        if let (Some(grant), Some(will)) = (grant, &connect.will)
            && source != Source::Acl
        {
            self.judge_will(cx, grant, admission, &connect, will)?;
        }
        let exceeded = connect.will.and_then(|will| cx.setting.limits.topic.exceeded(will.topic.as_bytes()));
        if let Some(kind) = exceeded {
            return Err(unfit(ReasonCode::TOPIC_NAME_INVALID, About::Will, Ground::Limit(kind)));
        }
        // After the will was judged, for which the client is who it is.
        if let Some(login) = admission.and_then(|admission| admission.broker_login.as_deref()) {
            connect.username = login.username.as_deref();
            connect.password = login.password.as_deref();
        }
        let broker_client_id = admission.and_then(|admission| admission.broker_client_id.as_deref());
        if let Some(id) = broker_client_id {
            connect.client_id = id;
        }
        connect.keep_alive = self.capped_keep_alive(cx, &connect)?;
        // Remembered for the CONNACK, which has to tell the client of it.
        let expiry = self.capped_expiry(cx, connect.properties).map(Value::Four);
        self.terms.expiry_capped = expiry.is_some();
        self.terms.keep_alive_capped = connect.keep_alive != asked.keep_alive;
        // It must learn the name under which its session stands [MQTT-3.2.2-16], or it could never come back to it.
        self.terms.id_given = asked.client_id.is_empty() && !connect.client_id.is_empty();

        let mapping = grant.and_then(|grant| grant.mapping.as_ref().map(|mapping| (grant, mapping)));
        let (topic, properties) = match (mapping, &connect.will) {
            (Some((grant, mapping)), Some(will)) => mapped_will(grant, mapping, will)?,
            (_, None) | (None, _) => (Cow::Borrowed(""), None),
        };
        if let (Some(_), Some(will)) = (mapping, &mut connect.will) {
            will.topic = &topic;
            if let Some(properties) = &properties {
                will.properties = Properties::check(properties, Place::Will, Sender::Client)
                    .map_err(|error| Unusable::invalid(format!("mapped will: {error}")))?;
            }
        }
        let answers_auth = self.answers_auth();
        if connect == asked && expiry.is_none() && !answers_auth {
            return Ok(sent.clone());
        }
        let expiry = expiry.map(|value| (PropertyId::SessionExpiryInterval, value));
        let mut kept = PropertyEdit::keep(connect.properties);
        if answers_auth {
            // The broker would answer a method that it does not know by refusing the client [MQTT-4.12.0-1].
            kept = kept.without(PropertyId::AuthenticationMethod).without(PropertyId::AuthenticationData);
        }
        let mut out = BytesMut::new();
        connect
            .encode_with(&kept.with(expiry.as_slice()), &mut out)
            .map_err(|error| Unusable::packet("rewritten CONNECT", &error))?;
        Ok(out.freeze())
    }

    /// The will as the grant sees it, by its own rules for wills. Whoever gave the grant was asked about it already.
    fn judge_will(
        &self,
        cx: &Context,
        grant: &Arc<Grant>,
        admission: Option<&Admission>,
        connect: &Connect<'_>,
        will: &Will<'_>,
    ) -> Result<(), Unfit> {
        let who = Who {
            client_id: connect.client_id,
            username: connect.username,
            attributes: admission.map_or(&[], |admission| &admission.attributes[..]),
            ..Who::from(&*self.peer)
        };
        let message = will_message(cx, will.topic, will);
        let (answer, part) = grant.judge_message(Act::Will, who, message);
        match answer {
            GrantAnswer::Refuse(reason) => {
                Err(unfit(reason, About::Will, Ground::Grant(Arc::clone(grant), part)))
            }
            GrantAnswer::Ask | GrantAnswer::Allow(()) => Ok(()),
        }
    }

    fn capped_keep_alive(&self, cx: &Context, connect: &Connect<'_>) -> Result<u16, Unfit> {
        match cx.setting.limits.max_keep_alive {
            Some(most) if connect.keep_alive == 0 || connect.keep_alive > most => {
                // 3.x clients cannot be told; silently closing on one that keeps its own time would be worse.
                if connect.version.is_v5() {
                    Ok(most)
                } else {
                    // Return code 2, as by Mosquitto.
                    Err(unfit(
                        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
                        About::KeepAlive,
                        Ground::Limit(LimitKind::KeepAlive),
                    ))
                }
            }
            Some(_) | None => Ok(connect.keep_alive),
        }
    }

    /// The Session Expiry Interval that takes the place of the one in there.
    fn capped_expiry(&self, cx: &Context, properties: Properties<'_>) -> Option<u32> {
        let most = cx.setting.limits.max_session_expiry?;
        let asked = properties.u32(PropertyId::SessionExpiryInterval)?;
        (asked > most).then_some(most)
    }

    /// The broker's CONNACK as the client has to have it, `None` if that is how it came.
    ///
    /// # Errors
    /// What the client must know does not fit into its Maximum Packet Size: it would keep to other terms than those that
    /// hold.
    pub(super) fn connack_for_client(
        &self,
        cx: &Context,
        connack: &Connack<'_>,
    ) -> Result<Option<Bytes>, Fault> {
        if !self.terms.version.is_v5() {
            return Ok(None);
        }
        let properties = connack.properties;
        let limits = &cx.setting.limits;
        let mut added = Vec::new();
        if let (true, Some(most)) = (self.terms.keep_alive_capped, limits.max_keep_alive)
            && !properties.u16(PropertyId::ServerKeepAlive).is_some_and(|own| own != 0 && own <= most)
        {
            // [MQTT-3.2.2-21]
            added.push((PropertyId::ServerKeepAlive, Value::Two(most)));
        }
        if let (true, Some(most)) = (self.terms.expiry_capped, limits.max_session_expiry)
            && properties.u32(PropertyId::SessionExpiryInterval).is_none_or(|own| own > most)
        {
            // 3.2.2.3.2: the client is told that it is another than it asked for.
            added.push((PropertyId::SessionExpiryInterval, Value::Four(most)));
        }
        if self.terms.id_given && !properties.contains(PropertyId::AssignedClientIdentifier) {
            // [MQTT-3.2.2-16]
            added.push((PropertyId::AssignedClientIdentifier, Value::Text(&self.peer.client_id)));
        } else if self.peer.broker_client_id.is_some()
            && let Some(assigned) = properties.text(PropertyId::AssignedClientIdentifier)
            && *assigned != *self.peer.client_id
        {
            // The broker's name for it. By its own the client comes back to the same session.
            added.push((PropertyId::AssignedClientIdentifier, Value::Text(&self.peer.client_id)));
        }
        let auth = self.connack_auth();
        if let Some(ConnackAuth { method, data, .. }) = auth {
            added.push((PropertyId::AuthenticationMethod, Value::Text(method)));
            added.extend(data.map(|data| (PropertyId::AuthenticationData, Value::Binary(data))));
        }
        // Up to here: without these the client would keep to terms that do not hold.
        let must = added.len();
        if let Some(ConnackAuth { text: Some(text), .. }) = auth
            && is_fit(text)
            && !properties.contains(PropertyId::ReasonString)
        {
            added.push((PropertyId::ReasonString, Value::Text(text)));
        }
        let largest = limits.max_packet_size.min(self.terms.granted_packet);
        if largest < ANY_PACKET
            && properties.u32(PropertyId::MaximumPacketSize).is_none_or(|own| own > largest)
        {
            // [MQTT-3.2.2-15]
            added.push((PropertyId::MaximumPacketSize, Value::Four(largest)));
        }
        if added.is_empty() {
            return Ok(None);
        }
        let mut out = BytesMut::new();
        // Maximum Packet Size goes last: who does not know it is told by 0x95.
        let plain = without_explanation(properties);
        for edit in [
            PropertyEdit::keep(properties).with(&added),
            plain.with(&added),
            PropertyEdit::keep(properties).with(&added[..must]),
            plain.with(&added[..must]),
        ] {
            out.clear();
            let fits = connack.encode_with(self.terms.version, &edit, &mut out).is_ok();
            if fits && out.len() <= self.terms.client_max_packet as usize {
                return Ok(Some(out.freeze()));
            }
        }
        if must == 0 { Ok(None) } else { Err(too_large_for(Side::Client, PacketType::Connack)) }
    }

    /// A client's DISCONNECT that asks for a longer session than it may have.
    pub(super) fn disconnect_for_broker(&self, cx: &Context, disconnect: &Disconnect<'_>) -> Option<Bytes> {
        let most = self.capped_expiry(cx, disconnect.properties)?;
        let added = [(PropertyId::SessionExpiryInterval, Value::Four(most))];
        let edit = PropertyEdit::keep(disconnect.properties).with(&added);
        let mut out = BytesMut::new();
        disconnect.encode_with(self.terms.version, &edit, &mut out).ok()?;
        Some(out.freeze())
    }
}

/// The client is refused with this code.
fn unfit(reason: ReasonCode, about: About, ground: Ground) -> Unfit {
    Unfit::Refused(Refusal::new(reason).about(about).by(ground))
}

/// A will as rules see it, under this topic.
pub(super) fn will_message<'t>(cx: &Context, topic: &'t str, will: &Will<'_>) -> Message<'t> {
    Message {
        topic,
        qos: will.qos,
        retain: will.retain,
        payload: will.payload.len(),
        time: cx.setting.clock.time(),
    }
}

/// Topic and, where they change, properties of a will at the broker.
fn mapped_will<'w>(
    grant: &Arc<Grant>,
    mapping: &Mapping,
    will: &Will<'w>,
) -> Result<(Cow<'w, str>, Option<BytesMut>), Unfit> {
    let without_place = || {
        let ground = Ground::Grant(Arc::clone(grant), GrantGround::Rewrite);
        let refusal = Refusal::new(ReasonCode::TOPIC_NAME_INVALID).about(About::Will).by(ground);
        Unfit::Refused(Refusal { text: Some(TOPIC_WITHOUT_PLACE.into()), ..refusal })
    };
    // With the prefix before it, it may be longer than a topic can be.
    let topic = mapping.up(will.topic).ok_or_else(without_place)?;
    check_name(&topic).map_err(|error| Unusable::topic("mapped will topic", error))?;
    let Some(response) = will.properties.text(PropertyId::ResponseTopic) else { return Ok((topic, None)) };
    let response = mapping.up(response).ok_or_else(without_place)?;
    let response = [(PropertyId::ResponseTopic, Value::Text(&response))];
    let properties = PropertyEdit::keep(will.properties)
        .with(&response)
        .to_bytes()
        .map_err(|error| Unusable::packet("mapped will", &error))?;
    Ok((topic, Some(properties)))
}

pub(super) fn parse_connect(bytes: &[u8]) -> Option<Connect<'_>> {
    let header = FixedHeader::parse(bytes, Sender::Client, None).ok()??;
    Connect::parse(&header, bytes).ok()
}
