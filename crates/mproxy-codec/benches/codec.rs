//! What the hot path costs: a header, a view of a small PUBLISH, a topic match, a containment.
//! `cargo bench -p mproxy-codec`.

use bytes::BytesMut;
use divan::{Bencher, black_box};
use mproxy_codec::peek::Peek;
use mproxy_codec::topic::{check_filter, contains, matches};
use mproxy_codec::{
    Ack, FixedHeader, Frame, PacketId, PacketType, Publish, PublishHead, ReasonCode, Sender, Version,
    encode_publish_head,
};
use mproxy_codec::{PropertyEdit, publish_flags};

fn main() {
    divan::main();
}

const TOPIC: &str = "building/7/floor/3/room/12/temperature";

/// A PUBLISH with QoS 1 and a payload of 64 bytes.
fn publish(version: Version) -> Vec<u8> {
    let mut out = BytesMut::new();
    let flags = publish_flags(false, mproxy_codec::QoS::AtLeastOnce, false);
    let id = PacketId::new(7);
    encode_publish_head(version, flags, TOPIC, id, &PropertyEdit::NONE, 64, &mut out).expect("it fits");
    out.extend_from_slice(&[b'x'; 64]);
    out.to_vec()
}

#[divan::bench(args = [Version::V311, Version::V5])]
fn header(bencher: Bencher<'_, '_>, version: Version) {
    let bytes = publish(version);
    bencher.bench_local(|| FixedHeader::parse(black_box(&bytes), Sender::Client, black_box(Some(version))));
}

#[divan::bench(args = [Version::V311, Version::V5])]
fn peek(bencher: Bencher<'_, '_>, version: Version) {
    let bytes = publish(version);
    bencher.bench_local(|| Peek::at(black_box(&bytes)).is_some_and(|seen| seen.is_plain(black_box(version))));
}

#[divan::bench(args = [Version::V311, Version::V5])]
fn frame(bencher: Bencher<'_, '_>, version: Version) {
    let bytes = publish(version);
    bencher
        .bench_local(|| Frame::split(black_box(&bytes), Sender::Client, black_box(Some(version))).map(drop));
}

#[divan::bench(args = [Version::V311, Version::V5])]
fn publish_view(bencher: Bencher<'_, '_>, version: Version) {
    let bytes = publish(version);
    let header = FixedHeader::parse(&bytes, Sender::Client, Some(version)).expect("valid").expect("whole");
    bencher.bench_local(|| {
        Publish::parse(black_box(&header), black_box(&bytes), Sender::Client, version).is_ok()
    });
}

#[divan::bench(args = [Version::V311, Version::V5])]
fn publish_head(bencher: Bencher<'_, '_>, version: Version) {
    let bytes = publish(version);
    let header = FixedHeader::parse(&bytes, Sender::Client, Some(version)).expect("valid").expect("whole");
    bencher.bench_local(|| {
        PublishHead::parse(black_box(&header), black_box(&bytes), Sender::Client, version).is_ok()
    });
}

#[divan::bench(args = [Version::V311, Version::V5])]
fn rewritten_head(bencher: Bencher<'_, '_>, version: Version) {
    let bytes = publish(version);
    let header = FixedHeader::parse(&bytes, Sender::Client, Some(version)).expect("valid").expect("whole");
    let head = PublishHead::parse(&header, &bytes, Sender::Client, version).expect("valid").expect("whole");
    let mut out = BytesMut::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        black_box(&head).encode(version, &mut out)
    });
}

#[divan::bench]
fn ack_view(bencher: Bencher<'_, '_>) {
    let mut bytes = BytesMut::new();
    let id = PacketId::new(7).expect("not zero");
    Ack::new(PacketType::Puback, id, ReasonCode::SUCCESS).encode(Version::V5, &mut bytes).expect("it fits");
    let header =
        FixedHeader::parse(&bytes, Sender::Server, Some(Version::V5)).expect("valid").expect("whole");
    bencher.bench_local(|| {
        Ack::parse(black_box(&header), black_box(&bytes), Sender::Server, Version::V5).is_ok()
    });
}

#[divan::bench(args = ["building/+/floor/+/room/+/temperature", "building/7/#", "#", TOPIC])]
fn topic_match(filter: &str) -> bool {
    matches(black_box(filter), black_box(TOPIC))
}

#[divan::bench(args = ["building/+/floor/#", "building/7/floor/3/room/12/#"])]
fn containment(outer: &str) -> bool {
    contains(black_box(outer), black_box("building/7/floor/3/room/12/+"))
}

#[divan::bench]
fn filter_check() -> bool {
    check_filter(black_box("building/+/floor/+/room/+/temperature")).is_ok()
}
