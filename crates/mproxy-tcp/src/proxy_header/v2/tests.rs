use proptest::prelude::*;

use super::super::{HeaderError, HeaderVersion};
use super::*;

fn full() -> Header {
    Header {
        endpoints: Some(ProxiedAddresses {
            source: "192.0.2.1:1234".parse().unwrap(),
            destination: "192.0.2.2:8883".parse().unwrap(),
        }),
        authority: Some("broker.example".to_owned()),
        alpn: Some(b"mqtt".to_vec()),
        unique_id: Some(vec![7; 128]),
        tls: Some(ProxiedTls {
            version: Some("TLSv1.3".to_owned()),
            common_name: Some("device-7".to_owned()),
            certificate: ProxiedCertificate::Verified,
        }),
    }
}

/// A header with this command, family, and body.
fn raw(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u16).to_be_bytes();
    [&SIGNATURE[..], &[version_command, family], &len, body].concat()
}

/// An IPv4 header with these TLVs.
fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    raw(0x21, 0x11, &[&[192, 0, 2, 1, 192, 0, 2, 2, 4, 210, 7, 91], tlvs].concat())
}

fn malformed(bytes: &[u8]) -> &'static str {
    match Header::parse(bytes) {
        Err(HeaderError::Malformed(what)) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_can_be_read_from_no_less_than_all_of_it() {
    let v6 = |text: &str| text.parse().unwrap();
    let refused = ProxiedTls { certificate: ProxiedCertificate::Refused, ..ProxiedTls::default() };
    for header in [
        full(),
        Header::default(),
        Header { tls: Some(refused), ..full() },
        Header { tls: Some(ProxiedTls::default()), alpn: None, ..full() },
        Header {
            endpoints: Some(ProxiedAddresses { source: v6("[2001:db8::1]:1"), destination: v6("[::1]:2") }),
            ..Header::default()
        },
    ] {
        let bytes = header.encode(HeaderVersion::V2);
        let more = [&bytes[..], b"\x10\x10"].concat();
        assert_eq!(Header::parse(&more).unwrap().unwrap(), (header, bytes.len()));
        for cut in 0..bytes.len() {
            assert!(Header::parse(&bytes[..cut]).unwrap().is_none());
        }
    }
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let header = Header { endpoints: full().endpoints, tls: full().tls, ..Header::default() };
    let expected: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x29\xC0\0\x02\x01\xC0\0\x02\x02\x04\xD2\x22\xB3\
        \x20\0\x1A\x07\0\0\0\0\x21\0\x07TLSv1.3\x22\0\x08device-7";
    assert_eq!(header.encode(HeaderVersion::V2), expected);
}

#[test]
fn mixed_families_meet_in_ipv6() {
    let endpoints =
        ProxiedAddresses { source: "192.0.2.1:1".parse().unwrap(), destination: "[::1]:2".parse().unwrap() };
    let bytes = Header { endpoints: Some(endpoints), ..Header::default() }.encode(HeaderVersion::V2);
    let (header, _) = Header::parse(&bytes).unwrap().unwrap();
    assert_eq!(header.endpoints.unwrap().source, "[::ffff:192.0.2.1]:1".parse().unwrap());
}

#[test]
fn a_local_header_speaks_of_nobody() {
    let (header, len) = Header::parse(&raw(0x20, 0x11, b"whatever")).unwrap().unwrap();
    assert_eq!((header, len), (Header::default(), FIXED + 8));
}

#[test]
fn somebody_without_an_address_is_somebody() {
    for (family, body) in [(0x00, vec![]), (0x31, vec![0; 216])] {
        let (header, _) = Header::parse(&raw(0x21, family, &body)).unwrap().unwrap();
        assert_eq!(header, Header::default());
    }
}

#[test]
fn lengths_that_lie_are_refused() {
    assert_eq!(malformed(&raw(0x21, 0x11, &[0; 11])), "a length in it is too large");
    assert_eq!(malformed(&raw(0x21, 0x21, &[0; 12])), "a length in it is too large");
    assert_eq!(malformed(&raw(0x21, 0x31, &[0; 12])), "a length in it is too large");
    for tlvs in [&[ALPN][..], &[ALPN, 0], &[ALPN, 0, 5, b'm'], &[SSL, 0, 2, 1, 0]] {
        assert_eq!(malformed(&with_tlvs(tlvs)), "a length in it is too large", "{tlvs:?}");
    }
    let inner = [SSL, 0, 9, 1, 0, 0, 0, 0, SSL_CN, 0, 9, b'x'];
    assert_eq!(malformed(&with_tlvs(&inner)), "a length in it is too large");
    let endless = [&SIGNATURE[..], &[0x21, 0x11, 0xFF, 0xFF]].concat();
    assert_eq!(malformed(&endless), "it claims to be longer than any header is");
}

#[test]
fn what_cannot_be_is_refused_as_soon_as_it_is_seen() {
    assert_eq!(malformed(b"\r\n\r\n\0\r\nQUIX"), "neither version 1 nor version 2");
    assert_eq!(malformed(&[0x10, 0x10]), "neither version 1 nor version 2");
    assert_eq!(
        malformed(&[&SIGNATURE[..], &[0x31, 0x11, 0, 12]].concat()),
        "neither version 1 nor version 2"
    );
    assert_eq!(malformed(&[&SIGNATURE[..], &[0x22, 0x11, 0, 12]].concat()), "neither LOCAL nor PROXY");
    assert!(malformed(&raw(0x21, 0x12, &[0; 12])).starts_with("neither TCP"), "UDP");
    assert_eq!(malformed(&with_tlvs(&[AUTHORITY, 0, 1, 0xFF])), "a name that is not UTF-8");
    let name = [SSL, 0, 10, 3, 0, 0, 0, 0, SSL_CN, 0, 2, b'a', 0];
    assert_eq!(malformed(&with_tlvs(&name)), "a name with U+0000 in it");
    let id = [&[UNIQUE_ID, 0, 129][..], &[0; 129]].concat();
    assert_eq!(malformed(&with_tlvs(&id)), "a unique id of more than 128 bytes");
}

#[test]
fn a_checksum_is_checked() {
    assert_eq!(crc32c(b"123456789".iter().copied()), 0xE306_9283, "the check value of CRC-32C");
    let mut bytes = with_tlvs(&[CRC32C, 0, 4, 0, 0, 0, 0]);
    let sum = crc32c(bytes.iter().copied());
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&sum.to_be_bytes());
    assert!(Header::parse(&bytes).unwrap().is_some());
    bytes[at] ^= 1;
    assert_eq!(malformed(&bytes), "its checksum is wrong");
    bytes[at] ^= 1;
    bytes.extend_from_slice(&[CRC32C, 0, 4, 0, 0, 0, 0]);
    bytes[15] += 7;
    let sum = crc32c(bytes.iter().enumerate().map(|(i, byte)| if i < at || i >= at + 4 { *byte } else { 0 }));
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(malformed(&bytes), "two checksums");
}

#[test]
fn a_certificate_counts_only_where_one_was_shown() {
    let tls = |client, verify| {
        let (header, _) = Header::parse(&with_tlvs(&[SSL, 0, 5, client, 0, 0, 0, verify])).unwrap().unwrap();
        header.tls.map(|tls| tls.certificate)
    };
    assert_eq!(tls(0, 0), None, "no TLS at all");
    assert_eq!(tls(1, 0), Some(ProxiedCertificate::Absent));
    assert_eq!(tls(3, 0), Some(ProxiedCertificate::Verified));
    assert_eq!(tls(5, 0), Some(ProxiedCertificate::Verified));
    assert_eq!(tls(7, 1), Some(ProxiedCertificate::Refused));
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(
        version_command in any::<u8>(), family in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = Header::parse(&body);
        let bytes = raw(0x20 | version_command & 1, family, &body);
        let _ = Header::parse(&bytes);
        let _ = Header::parse(&with_tlvs(&body));
    }
}
