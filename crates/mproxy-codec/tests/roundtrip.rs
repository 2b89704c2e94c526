//! Packets of every kind there and back, whole, cut and damaged.

#[path = "support/packets.rs"]
mod packets;

use bytes::BytesMut;
use mproxy_codec::{
    Connect, FixedHeader, Frame, Malformed, Packet, PacketType, PublishHead, Sender, Version,
};
use packets::{any_valid, damage, damaged, framed};
use proptest::prelude::*;

/// The packet that fills `bytes`. `None`: they are not one whole packet.
fn parse(bytes: &[u8], from: Sender, version: Version) -> Result<Option<Packet<'_>>, Malformed> {
    match Frame::split(bytes, from, Some(version))? {
        Some((frame, [])) => Packet::parse(&frame, from, version).map(Some),
        _ => Ok(None),
    }
}

fn written(packet: &Packet<'_>, version: Version) -> BytesMut {
    let mut out = BytesMut::new();
    packet.encode(version, &mut out).expect("what was read can be written");
    out
}

/// What was taken must come back the same from its own bytes. Returns whether it was taken.
fn stands(bytes: &[u8], from: Sender, version: Version) -> Result<bool, TestCaseError> {
    let Ok(Some(packet)) = parse(bytes, from, version) else { return Ok(false) };
    // CONNECT is written in the version that it names.
    let version = if let Packet::Connect(connect) = packet { connect.version } else { version };
    let out = written(&packet, version);
    prop_assert_eq!(parse(&out, from, version), Ok(Some(packet)));
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_valid_packet_is_taken_and_comes_back((from, version, bytes) in any_valid()) {
        let packet = parse(&bytes, from, version);
        prop_assert!(matches!(packet, Ok(Some(_))), "{:?}", packet);
        prop_assert!(stands(&bytes, from, version)?);
        let packet = packet.unwrap().unwrap();
        let out = written(&packet, version);
        // Where the standard allows shorter forms, the shortest is written.
        let shortens = matches!(packet, Packet::Ack(_) | Packet::Disconnect(_) | Packet::Auth(_));
        prop_assert!(out == bytes || shortens && out.len() < bytes.len());
    }

    #[test]
    fn no_prefix_of_a_packet_is_a_packet((from, version, bytes) in any_valid()) {
        for cut in 0..bytes.len() {
            prop_assert_eq!(Frame::split(&bytes[..cut], from, Some(version)), Ok(None));
        }
    }

    #[test]
    fn a_packet_that_lost_its_end_is_refused_or_is_another_whole_one((from, version, bytes) in any_valid()) {
        let header = FixedHeader::parse(&bytes, from, Some(version)).unwrap().unwrap();
        for cut in usize::from(header.len)..bytes.len() {
            let cut = framed(bytes[0], &bytes[usize::from(header.len)..cut]);
            stands(&cut, from, version)?;
        }
    }

    #[test]
    fn damage_is_refused_or_means_something_else(
        (from, version, bytes) in any_valid(), damage in prop::collection::vec(damage(), 1..4),
    ) {
        stands(&damaged(&bytes, &damage), from, version)?;
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), first in any::<u8>()) {
        let tamed = framed(first, &bytes);
        for from in [Sender::Client, Sender::Server] {
            for version in Version::ALL {
                let _ = (parse(&bytes, from, version), stands(&tamed, from, version)?);
            }
        }
        let _ = (Connect::claimed_version(&bytes), Connect::claimed_version(&tamed));
    }

    #[test]
    fn the_head_of_a_publish_is_the_same_from_any_prefix_that_holds_it(
        (from, version, bytes) in any_valid(), damage in prop::collection::vec(damage(), 0..3),
    ) {
        let bytes = damaged(&bytes, &damage);
        let Ok(Some(header)) = FixedHeader::parse(&bytes, from, Some(version)) else { return Ok(()) };
        if header.kind != PacketType::Publish {
            return Ok(());
        }
        let whole = PublishHead::parse(&header, &bytes, from, version);
        prop_assert!(whole != Ok(None), "the whole packet is enough");
        for cut in 0..bytes.len() {
            match (PublishHead::parse(&header, &bytes[..cut], from, version), &whole) {
                (Ok(None), Ok(Some(head))) => prop_assert!(cut < head.len),
                (Ok(None), _) => {}
                (early, whole) => prop_assert_eq!(&early, whole, "{}", cut),
            }
        }
        if let Ok(Some(head)) = whole {
            prop_assert_eq!(head.len + head.payload_len, bytes.len());
        }
    }
}
