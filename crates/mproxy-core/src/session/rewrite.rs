//! Packets of the client's that the policy changed, written anew.

use bytes::BytesMut;
use mproxy_codec::EncodeError;
use mproxy_codec::packet::connect::{Connect, Will};
use mproxy_codec::packet::publish::{PublishHead, encode_publish_head, publish_flags};
use mproxy_codec::property::{PropertyEdit, PropertyId, Value};
use mproxy_codec::topic::check_name;
use mproxy_codec::types::Version;

use crate::policy::{Admission, PublishChange, Unusable, WillChange};

/// Appends the head of a PUBLISH under `topic` with the changes; a payload of `payload_len` bytes follows. `response`
/// takes the place of its response topic.
pub(super) fn publish_head(
    head: &PublishHead<'_>,
    topic: &str,
    response: Option<&str>,
    change: Option<&PublishChange>,
    payload_len: usize,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let retain = change.and_then(|change| change.retain).unwrap_or(head.retain);
    let flags = publish_flags(head.dup, head.qos, retain);
    let kept = PropertyEdit::keep(head.properties);
    let response = response.map(|topic| (PropertyId::ResponseTopic, Value::Text(topic)));
    let Some(change) = change.filter(|change| touches_user_properties(change)) else {
        let kept = kept.with(response.as_slice());
        return encode_publish_head(version, flags, topic, head.packet_id, &kept, payload_len, out);
    };
    // Which of the two was meant cannot be told, and half of a change is none that anybody asked for.
    if change.set_user_properties.iter().any(|(set, _)| change.remove_user_properties.contains(set)) {
        return Err(EncodeError::Impossible { what: "a user property is set and removed" });
    }
    if change
        .set_user_properties
        .iter()
        .flat_map(|(name, value)| [name, value])
        .any(|text| text.contains('\0'))
    {
        return Err(EncodeError::Impossible { what: "a user property contains U+0000" });
    }
    let gone = |name: &str| {
        change.remove_user_properties.iter().any(|removed| removed == name)
            || change.set_user_properties.iter().any(|(set, _)| set == name)
    };
    let user: Vec<_> = head
        .properties
        .user()
        .filter(|(name, _)| !gone(name))
        .chain(change.set_user_properties.iter().map(|(name, value)| (&**name, &**value)))
        .map(|(name, value)| (PropertyId::UserProperty, Value::Pair(name, value)))
        .chain(response)
        .collect();
    let edit = kept.without(PropertyId::UserProperty).with(&user);
    encode_publish_head(version, flags, topic, head.packet_id, &edit, payload_len, out)
}

fn touches_user_properties(change: &PublishChange) -> bool {
    !change.set_user_properties.is_empty() || !change.remove_user_properties.is_empty()
}

/// A CONNECT with the changes of its admission. `Err` says what is wrong with them.
pub(super) fn connect<'a>(sent: &Connect<'a>, admission: &'a Admission) -> Result<Connect<'a>, Unusable> {
    let mut connect = *sent;
    if let Some(client_id) = &admission.client_id {
        plain("client id", client_id)?;
        if client_id.is_empty() && !sent.client_id.is_empty() {
            return Err(Unusable::invalid("client id: may not be taken away"));
        }
        connect.client_id = client_id;
    }
    if let Some(username) = &admission.username {
        plain("user name", username)?;
        connect.username = (!username.is_empty()).then_some(username);
        if connect.username.is_none() {
            // In 3.x it could not stay [MQTT-3.1.2-22]; in 5.0 it would mean something else alone.
            connect.password = None;
        }
    }
    if let Some(password) = &admission.password {
        if connect.username.is_none() && sent.username.is_some() && !password.is_empty() {
            return Err(Unusable::invalid("password: a new one without the user name that it belongs to"));
        }
        connect.password = (!password.is_empty()).then_some(password);
    }
    match &admission.will {
        None => {}
        Some(WillChange::Remove) => connect.will = None,
        Some(WillChange::Replace { topic, payload, qos, retain }) => {
            let Some(will) = connect.will else {
                return Err(Unusable::invalid("will: the client sent none"));
            };
            let topic = topic.as_deref().unwrap_or(will.topic);
            check_name(topic).map_err(|error| Unusable::topic("will topic", error))?;
            connect.will = Some(Will {
                topic,
                payload: payload.as_deref().unwrap_or(will.payload),
                qos: qos.unwrap_or(will.qos),
                retain: retain.unwrap_or(will.retain),
                properties: will.properties,
            });
        }
    }
    Ok(connect)
}

fn plain(what: &str, text: &str) -> Result<(), Unusable> {
    // [MQTT-1.5.4-2]
    if text.contains('\0') { Err(Unusable::invalid(format!("{what}: contains U+0000"))) } else { Ok(()) }
}
