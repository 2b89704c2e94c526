#![no_main]
//! A PROXY header told anything. It must not panic; where a header ends and whether it is one must not depend on how
//! many bytes are there; nobody is waited for without end; and what was understood survives being written.

use mproxy_tcp::proxy_header::{Header, HeaderVersion};

/// More than the longest header.
const ENOUGH: usize = 5000;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [kind, a, b, rest @ ..] = input else { return };
    let rest = &rest[..rest.len().min(ENOUGH)];
    let bytes = match kind % 4 {
        0 => rest.to_vec(),
        1 => [b"PROXY TCP4 192.0.2.1 ", rest].concat(),
        2 => [b"\r\n\r\n\0\r\nQUIT\n\x21", rest].concat(),
        // The length is right: what follows is looked at.
        _ => {
            let family = [0x00, 0x11, 0x21, 0x31][usize::from(*a) % 4];
            let [high, low] = (rest.len() as u16).to_be_bytes();
            [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family, high, low][..], rest].concat()
        }
    };
    let cut = usize::from(u16::from_be_bytes([*a, *b])) % (bytes.len() + 1);
    match Header::parse(&bytes) {
        Ok(Some((header, len))) => {
            assert_eq!(Header::parse(&bytes[..len]).unwrap(), Some((header.clone(), len)));
            for shorter in [cut.min(len - 1), len - 1] {
                assert_eq!(Header::parse(&bytes[..shorter]).unwrap(), None);
            }
            survives(&header);
        }
        Ok(None) => {
            assert!(bytes.len() < 4096, "waits for more than the longest header");
            assert_eq!(Header::parse(&bytes[..cut]).unwrap(), None);
        }
        // A shorter piece may still have looked like one, but never have been one.
        Err(_) => assert!(!matches!(Header::parse(&bytes[..cut]), Ok(Some(_)))),
    }
});

fn survives(header: &Header) {
    let line = header.encode(HeaderVersion::V1);
    let (read, len) = Header::parse(&line).unwrap().unwrap();
    assert_eq!((read.endpoints, len), (header.endpoints, line.len()));

    let tls = header.tls.as_ref();
    let names = [
        &header.authority,
        &tls.and_then(|tls| tls.version.clone()),
        &tls.and_then(|tls| tls.common_name.clone()),
    ]
    .map(|name| name.as_ref().map_or(0, String::len));
    let longest = names.into_iter().chain(header.alpn.as_ref().map(Vec::len)).max();
    // Longer ones do not exist, and are left out.
    if longest.is_none_or(|longest| longest <= 512) {
        let binary = header.encode(HeaderVersion::V2);
        assert_eq!(Header::parse(&binary).unwrap(), Some((header.clone(), binary.len())));
    }
}
