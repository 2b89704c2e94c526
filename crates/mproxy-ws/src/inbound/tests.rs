use proptest::prelude::*;

use super::*;

const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut head = Head::write(Opcode::Binary, payload.len() as u64, Some(KEY));
    head.as_mut_slice()[0] = first;
    let mut bytes = [head.as_slice(), payload].concat();
    mask(&mut bytes[head.as_slice().len()..], KEY);
    bytes
}

/// All that came of a stream that arrived in these pieces.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    payload: Vec<u8>,
    pings: Vec<Vec<u8>>,
    hollow: u32,
    end: Option<InboundEnd>,
}

fn hear<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Heard {
    let mut inbound = Inbound::new(Role::Server);
    let mut heard = Heard::default();
    for piece in pieces {
        let mut raw = piece.to_vec();
        let decoded = inbound.decode(&mut raw);
        heard.payload.extend_from_slice(&raw[..decoded.payload]);
        heard.pings.extend(decoded.ping.map(|ping| ping.as_slice().to_vec()));
        heard.hollow += decoded.hollow;
        if decoded.end.is_some() {
            heard.end = decoded.end;
            break;
        }
    }
    heard
}

fn hear_whole(bytes: &[u8]) -> Heard {
    hear([bytes])
}

#[test]
fn frames_become_one_run_of_bytes() {
    let bytes = [frame(0x82, b"one"), frame(0x82, b""), frame(0x82, b" two")].concat();
    let heard = hear_whole(&bytes);
    assert_eq!((heard.payload.as_slice(), heard.hollow, heard.end), (&b"one two"[..], 1, None));
}

#[test]
fn a_control_frame_may_stand_between_fragments() {
    let bytes = [frame(0x02, b"ab"), frame(0x89, b"ping"), frame(0x00, b"cd"), frame(0x80, b"ef")].concat();
    let heard = hear_whole(&bytes);
    assert_eq!(heard.payload, b"abcdef");
    assert_eq!(heard.pings, [b"ping"]);
}

#[test]
fn fragments_out_of_order_are_refused() {
    assert_eq!(hear_whole(&frame(0x80, b"x")).end, Some(InboundEnd::Broken(Violation::Continuation)));
    let bytes = [frame(0x02, b"x"), frame(0x82, b"y")].concat();
    let heard = hear_whole(&bytes);
    assert_eq!(heard.payload, b"x", "what came before counts");
    assert_eq!(heard.end, Some(InboundEnd::Broken(Violation::Interleaved)));
}

#[test]
fn a_close_frame_is_the_end_and_its_code_is_checked() {
    let cases: &[(&[u8], InboundEnd)] = &[
        (&[], InboundEnd::Closed(None)),
        (&[0x03, 0xE8], InboundEnd::Closed(Some(1000))),
        (&[0x0F, 0xA0, b'o', b'k'], InboundEnd::Closed(Some(4000))),
        (&[0x03], InboundEnd::Broken(Violation::CloseCode)),
        (&[0x03, 0xED], InboundEnd::Broken(Violation::CloseCode)),
        (&[0x00, 0x00], InboundEnd::Broken(Violation::CloseCode)),
        (&[0x03, 0xE8, 0xFF], InboundEnd::Broken(Violation::CloseReason)),
    ];
    for (payload, end) in cases {
        let bytes = [frame(0x88, payload), frame(0x82, b"late")].concat();
        let heard = hear_whole(&bytes);
        assert_eq!((heard.payload.len(), heard.end), (0, Some(*end)), "{payload:02X?}");
    }
}

#[test]
fn an_end_between_messages_is_told_from_one_inside() {
    let mut inbound = Inbound::new(Role::Server);
    assert!(inbound.is_between_messages());
    inbound.decode(&mut frame(0x02, b"begin"));
    assert!(!inbound.is_between_messages());
    inbound.decode(&mut frame(0x80, b"end"));
    assert!(inbound.is_between_messages());
    inbound.decode(&mut [0x82]);
    assert!(!inbound.is_between_messages());
}

#[test]
fn a_frame_of_any_length_passes_without_being_kept() {
    let mut head = Head::write(Opcode::Binary, 1 << 40, Some([0; 4]));
    let mut inbound = Inbound::new(Role::Server);
    assert_eq!(inbound.decode(head.as_mut_slice()), Decoded::default());
    let mut chunk = vec![7; 1 << 16];
    for _ in 0..64 {
        assert_eq!(inbound.decode(&mut chunk).payload, 1 << 16);
    }
    assert!(size_of::<Inbound>() <= 64, "{}", size_of::<Inbound>());
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..200);
    let first = prop_oneof![
        8 => Just(0x82),
        2 => Just(0x02),
        2 => Just(0x00),
        2 => Just(0x80),
        2 => Just(0x89),
        1 => Just(0x8A),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    (first, payload).prop_map(|(first, mut payload): (u8, Vec<u8>)| {
        if first & 0x08 != 0 {
            payload.truncate(LONGEST_CONTROL);
        }
        frame(first, &payload)
    })
}

proptest! {
    #[test]
    fn it_does_not_matter_how_the_stream_is_cut(
        frames in prop::collection::vec(any_frame(), 0..12),
        cuts in prop::collection::vec(1usize..40, 1..60),
    ) {
        let bytes = frames.concat();
        let whole = hear_whole(&bytes);
        let mut rest = &bytes[..];
        let mut pieces = Vec::new();
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let heard = hear(pieces);
        prop_assert_eq!(&heard.payload, &whole.payload);
        prop_assert_eq!(heard.hollow, whole.hollow);
        prop_assert_eq!(heard.end, whole.end);
        // Whoever hears several pings in one piece answers the last one.
        prop_assert_eq!(heard.pings.last(), whole.pings.last());
    }

    #[test]
    fn no_bytes_are_too_strange(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for role in [Role::Client, Role::Server] {
            let decoded = Inbound::new(role).decode(&mut bytes);
            prop_assert!(decoded.payload <= bytes.len());
        }
    }
}
