//! Valid packets of every type, version and sender, put together byte by byte without the crate's encoders,
//! and small damage to them.

use mproxy_codec::topic::check_filter;
use mproxy_codec::{PacketType, Place, PropertyId, ReasonCode, Sender, ValueType, Version};
use proptest::prelude::*;

type Bytes = Vec<u8>;

/// A packet with its length in front.
pub(crate) fn framed(first: u8, body: &[u8]) -> Bytes {
    let mut bytes = vec![first];
    bytes.extend(varint(body.len()));
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn varint(mut value: usize) -> Bytes {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7F) as u8;
        value >>= 7;
        bytes.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return bytes;
        }
    }
}

fn field(bytes: impl AsRef<[u8]>) -> Bytes {
    let bytes = bytes.as_ref();
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn text() -> impl Strategy<Value = Bytes> {
    "[a-zäß€𐍈/ +#]{0,9}".prop_map(field)
}

fn binary() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..9).prop_map(field)
}

fn topic_name() -> impl Strategy<Value = Bytes> {
    "[a-zä€𐍈/ $]{1,40}".prop_map(field)
}

fn topic_filter() -> impl Strategy<Value = Bytes> {
    let level = prop_oneof![Just(String::new()), Just("+".to_owned()), "[a-zä$]{1,3}"];
    (prop::collection::vec(level, 1..5), any::<bool>(), prop::option::weighted(0.2, "[a-z]{1,3}"))
        .prop_map(|(mut levels, open, share)| {
            if open {
                levels.push("#".to_owned());
            }
            share
                .into_iter()
                .flat_map(|name| ["$share".to_owned(), name])
                .chain(levels)
                .collect::<Vec<_>>()
                .join("/")
        })
        .prop_filter("a filter", |filter| check_filter(filter).is_ok())
        .prop_map(field)
}

fn packet_id() -> impl Strategy<Value = Bytes> {
    (1..=u16::MAX).prop_map(|id| id.to_be_bytes().to_vec())
}

/// A set of properties that may stand there, with its length; nothing before 5.0.
fn properties(place: Place, from: Sender, version: Version) -> BoxedStrategy<Bytes> {
    if !version.is_v5() {
        return Just(Bytes::new()).boxed();
    }
    let client = from == Sender::Client;
    let publish = Place::Packet(PacketType::Publish);
    let disconnect = Place::Packet(PacketType::Disconnect);
    let mut ids: Vec<_> = PropertyId::ALL.iter().copied().filter(|id| id.allowed_in(place)).collect();
    ids.retain(|id| match id {
        PropertyId::SubscriptionIdentifier => place != publish || !client,
        PropertyId::SessionExpiryInterval => place != disconnect || client,
        PropertyId::ServerReference => place != disconnect || !client,
        // Only ever together with the method.
        PropertyId::AuthenticationData => false,
        _ => true,
    });
    if ids.is_empty() {
        return Just(Bytes::new()).boxed();
    }
    let one = prop::sample::select(ids).prop_flat_map(|id| value(id).prop_map(move |value| (id, value)));
    prop_oneof![
        1 => Just(vec![0]),
        2 => prop::collection::vec(one, 0..5).prop_map(move |mut set| {
            let mut seen = Vec::new();
            set.retain(|(id, _)| {
                let fresh = !seen.contains(id) || id.may_repeat_in(place);
                seen.push(*id);
                fresh
            });
            let set: Bytes = set.into_iter().flat_map(|(id, value)| [vec![id as u8], value].concat()).collect();
            [varint(set.len()), set].concat()
        }),
    ]
    .boxed()
}

fn value(id: PropertyId) -> BoxedStrategy<Bytes> {
    match (id, id.value_type()) {
        (PropertyId::ResponseTopic, _) => topic_name().boxed(),
        (_, ValueType::Byte) => (0..=1_u8).prop_map(|value| vec![value]).boxed(),
        (_, ValueType::Two) => (1..=u16::MAX).prop_map(|value| value.to_be_bytes().to_vec()).boxed(),
        (_, ValueType::Four) => (1..=u32::MAX).prop_map(|value| value.to_be_bytes().to_vec()).boxed(),
        (_, ValueType::Var) => (1..=268_435_455_usize).prop_map(varint).boxed(),
        (_, ValueType::Text) => text().boxed(),
        (_, ValueType::Pair) => (text(), text()).prop_map(|(name, value)| [name, value].concat()).boxed(),
        (_, ValueType::Binary) => binary().boxed(),
    }
}

fn reason(kind: PacketType, from: Sender) -> impl Strategy<Value = Bytes> {
    let codes: Vec<u8> = (0..=u8::MAX).filter(|code| ReasonCode(*code).valid_in(kind, from)).collect();
    prop::sample::select(codes).prop_map(|code| vec![code])
}

/// Reason code and properties, or a shorter form.
fn outcome(kind: PacketType, from: Sender, version: Version) -> BoxedStrategy<Bytes> {
    if !version.is_v5() {
        return Just(Bytes::new()).boxed();
    }
    prop_oneof![
        Just(Bytes::new()),
        reason(kind, from),
        (reason(kind, from), properties(Place::Packet(kind), from, version))
            .prop_map(|(code, set)| [code, set].concat()),
    ]
    .boxed()
}

fn connect(version: Version) -> BoxedStrategy<Bytes> {
    let will =
        (properties(Place::Will, Sender::Client, version), topic_name(), binary(), 0..=2_u8, any::<bool>());
    let rest = (
        any::<bool>(),
        any::<u16>(),
        properties(Place::Packet(PacketType::Connect), Sender::Client, version),
        "[a-z]{1,9}",
        prop::option::of(will),
        prop::option::of((text(), prop::option::of(binary()))),
    );
    rest.prop_map(move |(clean, keep_alive, set, client_id, will, credentials)| {
        let mut flags = u8::from(clean) << 1;
        let mut payload = field(client_id);
        if let Some((set, topic, message, qos, retain)) = will {
            flags |= 0x04 | qos << 3 | u8::from(retain) << 5;
            payload.extend([set, topic, message].concat());
        }
        if let Some((username, password)) = credentials {
            flags |= 0x80 | u8::from(password.is_some()) << 6;
            payload.extend(username);
            payload.extend(password.unwrap_or_default());
        }
        let name = field(version.protocol_name());
        let body = [&name[..], &[version.level(), flags], &keep_alive.to_be_bytes(), &set, &payload].concat();
        framed(0x10, &body)
    })
    .boxed()
}

fn publish(from: Sender, version: Version) -> BoxedStrategy<Bytes> {
    let head = (0..=2_u8, any::<bool>(), any::<bool>(), topic_name(), packet_id());
    let rest = (
        properties(Place::Packet(PacketType::Publish), from, version),
        prop::collection::vec(any::<u8>(), 0..300),
    );
    (head, rest)
        .prop_map(|((qos, dup, retain, topic, id), (set, payload))| {
            let flags = u8::from(dup && qos > 0) << 3 | qos << 1 | u8::from(retain);
            let id = if qos > 0 { id } else { Bytes::new() };
            framed(0x30 | flags, &[topic, id, set, payload].concat())
        })
        .boxed()
}

/// A valid packet of this type.
pub(crate) fn valid(kind: PacketType, from: Sender, version: Version) -> BoxedStrategy<Bytes> {
    let first = kind.first_byte();
    let set = properties(Place::Packet(kind), from, version);
    match kind {
        PacketType::Connect => connect(version),
        PacketType::Connack => {
            let code = if version.is_v5() {
                reason(kind, from).boxed()
            } else {
                (0..=5_u8).prop_map(|code| vec![code]).boxed()
            };
            // [MQTT-3.2.2-6]
            (any::<bool>(), code, set)
                .prop_map(move |(present, code, set)| {
                    let present = u8::from(present && code == [0] && version != Version::V31);
                    framed(first, &[vec![present], code, set].concat())
                })
                .boxed()
        }
        PacketType::Publish => publish(from, version),
        PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
            (packet_id(), outcome(kind, from, version))
                .prop_map(move |(id, outcome)| framed(first, &[id, outcome].concat()))
                .boxed()
        }
        PacketType::Subscribe => {
            let options = if version.is_v5() {
                (0..=2_u8, 0..=1_u8, 0..=2_u8).boxed()
            } else {
                (0..=2_u8, 0..1_u8, 0..1_u8).boxed()
            };
            let request = (topic_filter(), options).prop_map(|(filter, (qos, as_published, handling))| {
                [filter, vec![qos | as_published << 3 | handling << 4]].concat()
            });
            (packet_id(), set, prop::collection::vec(request, 1..4))
                .prop_map(move |(id, set, requests)| framed(first, &[id, set, requests.concat()].concat()))
                .boxed()
        }
        PacketType::Unsubscribe => (packet_id(), set, prop::collection::vec(topic_filter(), 1..4))
            .prop_map(move |(id, set, filters)| framed(first, &[id, set, filters.concat()].concat()))
            .boxed(),
        PacketType::Suback | PacketType::Unsuback => {
            let code = if version.is_v5() {
                reason(kind, from).boxed()
            } else {
                prop::sample::select(vec![vec![0_u8], vec![1], vec![2], vec![0x80]]).boxed()
            };
            let none = kind == PacketType::Unsuback && !version.is_v5();
            (packet_id(), set, prop::collection::vec(code, 1..4))
                .prop_map(move |(id, set, codes)| {
                    let codes = if none { Bytes::new() } else { codes.concat() };
                    framed(first, &[id, set, codes].concat())
                })
                .boxed()
        }
        PacketType::Pingreq | PacketType::Pingresp => Just(framed(first, &[])).boxed(),
        PacketType::Disconnect => {
            outcome(kind, from, version).prop_map(move |body| framed(first, &body)).boxed()
        }
        PacketType::Auth => (reason(kind, from), "[a-z]{1,5}", prop::option::of(binary()))
            .prop_map(move |(code, method, data)| {
                let mut set = [vec![0x15], field(method)].concat();
                if let Some(data) = data {
                    set.push(0x16);
                    set.extend(data);
                }
                framed(first, &[code, varint(set.len()), set].concat())
            })
            .boxed(),
    }
}

/// Whether this side sends this type in this version.
pub(crate) fn belongs(kind: PacketType, from: Sender, version: Version) -> bool {
    match kind {
        PacketType::Connect | PacketType::Subscribe | PacketType::Unsubscribe | PacketType::Pingreq => {
            from == Sender::Client
        }
        PacketType::Connack | PacketType::Suback | PacketType::Unsuback | PacketType::Pingresp => {
            from == Sender::Server
        }
        PacketType::Disconnect => from == Sender::Client || version.is_v5(),
        PacketType::Auth => version.is_v5(),
        _ => true,
    }
}

/// Any valid packet, with who sent it in which version.
pub(crate) fn any_valid() -> impl Strategy<Value = (Sender, Version, Bytes)> {
    let mut all = Vec::new();
    for from in [Sender::Client, Sender::Server] {
        for version in Version::ALL {
            for kind in PacketType::ALL {
                if belongs(kind, from, version) {
                    all.push((kind, from, version));
                }
            }
        }
    }
    prop::sample::select(all).prop_flat_map(|(kind, from, version)| {
        valid(kind, from, version).prop_map(move |bytes| (from, version, bytes))
    })
}

/// What befalls a packet on its way here.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Cut(prop::sample::Index),
}

pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (at(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, 1 << bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        at().prop_map(Damage::Remove),
        at().prop_map(Damage::Cut),
    ]
}

/// The packet after the damage to its first byte or body; its length stays right.
pub(crate) fn damaged(packet: &[u8], damage: &[Damage]) -> Bytes {
    let header = 1 + packet[1..].iter().position(|byte| *byte < 0x80).expect("a valid packet") + 1;
    let mut bytes = [&packet[..1], &packet[header..]].concat();
    for damage in damage {
        match damage {
            Damage::Set(at, byte) => *at.get_mut(&mut bytes) = *byte,
            Damage::Flip(at, bit) => *at.get_mut(&mut bytes) ^= bit,
            Damage::Insert(at, byte) => bytes.insert(1 + at.index(bytes.len()), *byte),
            Damage::Remove(at) if bytes.len() > 1 => drop(bytes.remove(1 + at.index(bytes.len() - 1))),
            Damage::Cut(at) => bytes.truncate(1 + at.index(bytes.len())),
            Damage::Remove(_) => {}
        }
    }
    framed(bytes[0], &bytes[1..])
}
