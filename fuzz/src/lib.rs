//! What must be true of any bytes: no panic, and whatever is taken as a packet keeps its meaning when it is
//! written again, from any prefix that holds its head, and with other properties.

use bytes::BytesMut;
use mproxy_codec::{
    Connect, FixedHeader, Frame, Malformed, Packet, PacketType, Properties, PropertyEdit, PropertyId,
    PublishHead, Sender, Version, peek::Peek, varint,
};

/// Takes `bytes` as a stream of packets, and once more as a single packet whose length is right.
pub fn check(bytes: &[u8], from: Sender, version: Version) {
    stream(bytes, from, version);
    if let Some((first, body)) = bytes.split_first() {
        stream(&[&[*first], &*varint::bytes(body.len() as u32), body].concat(), from, version);
    }
    let _ = Connect::claimed_version(bytes);
}

fn stream(mut bytes: &[u8], from: Sender, version: Version) {
    loop {
        check_peek(bytes, from, version);
        let known = if is_connect(bytes) { None } else { Some(version) };
        match Frame::split(bytes, from, known) {
            Ok(Some((frame, rest))) => {
                packet(&frame, from, version);
                bytes = rest;
            }
            Ok(None) => return,
            Err(error) => return told(&error, bytes),
        }
    }
}

/// What a peek takes for plain is what the parsers find nothing more in.
fn check_peek(bytes: &[u8], from: Sender, version: Version) {
    let Some(seen) = Peek::at(bytes) else { return };
    let belongs = match seen.kind {
        PacketType::Pingreq => from == Sender::Client,
        PacketType::Pingresp => from == Sender::Server,
        _ => true,
    };
    if !belongs || !seen.is_plain(version) {
        return;
    }
    let (frame, _) = Frame::split(bytes, from, Some(version)).expect("valid").expect("whole");
    assert_eq!((frame.header.kind, frame.bytes), (seen.kind, seen.bytes));
    match Packet::parse(&frame, from, version).expect("valid") {
        Packet::Publish(publish) => {
            let brief = seen.publish(version).expect("a PUBLISH");
            assert_eq!((brief.topic, brief.packet_id), (publish.topic.as_bytes(), publish.packet_id));
            assert_eq!((seen.qos(), seen.retain()), (publish.qos, publish.retain));
            assert!(!publish.dup && publish.properties.is_empty());
        }
        Packet::Ack(ack) => {
            assert_eq!(Some(ack.packet_id), seen.acknowledges());
            assert_eq!(ack.reason, mproxy_codec::ReasonCode::SUCCESS);
        }
        Packet::Pingreq | Packet::Pingresp => {}
        other => panic!("{other:?}"),
    }
}

fn is_connect(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| first >> 4 == PacketType::Connect as u8)
}

fn told(error: &Malformed, bytes: &[u8]) {
    assert!(error.offset as usize <= bytes.len(), "{error}");
    assert!(!error.to_string().is_empty());
}

fn packet(frame: &Frame<'_>, from: Sender, version: Version) {
    if frame.header.kind == PacketType::Publish {
        head_from_any_prefix(&frame.header, frame.bytes, from, version);
    }
    let packet = match Packet::parse(frame, from, version) {
        Ok(packet) => packet,
        Err(error) => return told(&error, frame.bytes),
    };
    let version = if let Packet::Connect(connect) = packet { connect.version } else { version };
    let mut out = BytesMut::new();
    packet.encode(version, &mut out).expect("what was read can be written");
    assert_eq!(again(&out, from, version), packet);
    read_all(&packet);
    edited(&packet, from, version);
}

/// Reads what was just written.
fn again(bytes: &[u8], from: Sender, version: Version) -> Packet<'_> {
    let known = if is_connect(bytes) { None } else { Some(version) };
    let (frame, rest) = Frame::split(bytes, from, known).expect("valid").expect("whole");
    assert!(rest.is_empty());
    Packet::parse(&frame, from, version).expect("valid")
}

fn head_from_any_prefix(header: &FixedHeader, bytes: &[u8], from: Sender, version: Version) {
    let whole = PublishHead::parse(header, bytes, from, version);
    assert_ne!(whole, Ok(None));
    for cut in 0..bytes.len().min(256) {
        match PublishHead::parse(header, &bytes[..cut], from, version) {
            Ok(None) => {
                assert!(whole.is_err() || whole.is_ok_and(|head| head.is_some_and(|head| cut < head.len)))
            }
            early => assert_eq!(early, whole),
        }
    }
}

/// The lazy parts: none may come up short.
fn read_all(packet: &Packet<'_>) {
    match packet {
        Packet::Subscribe(subscribe) => assert_eq!(subscribe.filters().count(), subscribe.filters().len()),
        Packet::Unsubscribe(unsubscribe) => {
            assert_eq!(unsubscribe.filters().count(), unsubscribe.filters().len())
        }
        _ => {}
    }
    let properties = properties(packet);
    let mut edit = PropertyEdit::keep(properties);
    for (id, value) in properties {
        assert!(properties.contains(id));
        assert!(
            properties.value(id) == Some(value)
                || properties.iter().filter(|(other, _)| *other == id).count() > 1
        );
        edit = edit.without(id);
    }
    assert!(edit.is_empty());
}

fn properties<'a>(packet: &Packet<'a>) -> Properties<'a> {
    match packet {
        Packet::Connect(connect) => connect.properties,
        Packet::Connack(connack) => connack.properties,
        Packet::Publish(publish) => publish.properties,
        Packet::Ack(ack) => ack.properties,
        Packet::Subscribe(subscribe) => subscribe.properties,
        Packet::Suback(suback) => suback.properties,
        Packet::Unsubscribe(unsubscribe) => unsubscribe.properties,
        Packet::Unsuback(unsuback) => unsuback.properties,
        Packet::Disconnect(disconnect) => disconnect.properties,
        Packet::Auth(auth) => auth.properties,
        Packet::Pingreq | Packet::Pingresp => Properties::EMPTY,
    }
}

/// A PUBLISH that was given another topic and lost a property is still one.
fn edited(packet: &Packet<'_>, from: Sender, version: Version) {
    let Packet::Publish(publish) = packet else { return };
    let user = [(PropertyId::UserProperty, mproxy_codec::Value::Pair("k", "v"))];
    let edit = PropertyEdit::keep(publish.properties).without(PropertyId::TopicAlias).with(&user);
    let flags = mproxy_codec::publish_flags(publish.dup, publish.qos, publish.retain);
    let (topic, payload) = ("other/topic", publish.payload);
    let mut out = BytesMut::new();
    mproxy_codec::encode_publish_head(
        version,
        flags,
        topic,
        publish.packet_id,
        &edit,
        payload.len(),
        &mut out,
    )
    .expect("it fits");
    out.extend_from_slice(payload);
    let Packet::Publish(new) = again(&out, from, version) else { panic!("a PUBLISH") };
    assert_eq!((new.topic, new.payload, new.alias, new.packet_id), (topic, payload, None, publish.packet_id));
    let kept = publish.properties.user().chain(version.is_v5().then_some(("k", "v")));
    assert!(new.properties.user().eq(kept));
}
