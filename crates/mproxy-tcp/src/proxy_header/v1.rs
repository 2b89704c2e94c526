//! `PROXY TCP4 192.0.2.1 192.0.2.2 1234 1883\r\n`.

use std::net::{IpAddr, SocketAddr};

use super::{Header, ProxiedAddresses};

const START: &[u8] = b"PROXY ";

/// Bytes of the shortest line, `PROXY UNKNOWN\r\n`.
pub(super) const SHORTEST: usize = 15;

/// Bytes of the longest line, its end included.
const LONGEST: usize = 107;

pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, &'static str> {
    // As far as it has come: whoever sends something else is refused at its first byte, and not waited for.
    let n = bytes.len().min(START.len());
    if bytes[..n] != START[..n] {
        return Err("neither version 1 nor version 2");
    }
    let line = &bytes[..bytes.len().min(LONGEST)];
    let Some(end) = line.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if line.len() == LONGEST { Err("the line has no end") } else { Ok(None) };
    };
    match &line[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if line.len() < LONGEST => return Ok(None),
        _ => return Err("the line does not end in CRLF"),
    }
    let text = std::str::from_utf8(&line[START.len()..end]).map_err(|_| "the line is not text")?;
    Ok(Some((Header { endpoints: endpoints(text)?, ..Header::default() }, end + 2)))
}

fn endpoints(text: &str) -> Result<Option<ProxiedAddresses>, &'static str> {
    let mut fields = text.split(' ');
    let is_v4 = match fields.next() {
        // What else the line says is to be ignored.
        Some("UNKNOWN") => return Ok(None),
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Err("neither TCP4, TCP6 nor UNKNOWN"),
    };
    let (Some(source), Some(destination), Some(source_port), Some(destination_port), None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("not two addresses and two ports");
    };
    let address = |text: &str| {
        let address: IpAddr = text.parse().map_err(|_| "an address that is none")?;
        if address.is_ipv4() == is_v4 { Ok(address) } else { Err("an address of the other family") }
    };
    Ok(Some(ProxiedAddresses {
        source: SocketAddr::new(address(source)?, port(source_port)?),
        destination: SocketAddr::new(address(destination)?, port(destination_port)?),
    }))
}

fn port(text: &str) -> Result<u16, &'static str> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    // Leading zeros could be read as octal, and two readers of one line must not see two ports.
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return Err("a port that is none");
    }
    text.parse().map_err(|_| "a port that is none")
}

pub(super) fn encode(endpoints: Option<ProxiedAddresses>) -> Vec<u8> {
    let Some(endpoints) = endpoints else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let ProxiedAddresses { source, destination } = endpoints.of_one_family();
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::HeaderVersion;
    use super::*;

    fn endpoints_of(source: &str, destination: &str) -> Option<ProxiedAddresses> {
        Some(ProxiedAddresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
    }

    #[test]
    fn lines_are_read_whole_and_not_further() {
        let cases = [
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 1234 1883\r\n",
                endpoints_of("192.0.2.1:1234", "192.0.2.2:1883"),
            ),
            ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", endpoints_of("[2001:db8::1]:1", "[::1]:65535")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN what ever it says\r\n", None),
        ];
        for (line, endpoints) in cases {
            let bytes = [line.as_bytes(), b"\x10\x10\r\n"].concat();
            let (header, len) = Header::parse(&bytes).unwrap().unwrap();
            assert_eq!((header.endpoints, len), (endpoints, line.len()));
            for cut in 0..line.len() {
                assert!(Header::parse(&bytes[..cut]).unwrap().is_none(), "{cut} of {line}");
            }
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        for line in [
            "POST / HTTP/1.1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1234 1883\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1234 1883\rx",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1234\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1234 1883 5\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1234 1883\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1234 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +234 1883\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 0234 1883\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2  1883\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.2 1234 1883\r\n",
            "PROXY TCP4 ::1 ::1 1234 1883\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1234 1883\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1234 1883\r\n",
            "PROXY \r\n",
            &long,
        ] {
            assert!(Header::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for (source, destination) in [
            ("192.0.2.1:1234", "192.0.2.2:1883"),
            ("[2001:db8::1]:1", "[::1]:65535"),
            ("1.2.3.4:5", "[::1]:6"),
        ] {
            let header = Header { endpoints: endpoints_of(source, destination), ..Header::default() };
            let (read, _) = Header::parse(&header.encode(HeaderVersion::V1)).unwrap().unwrap();
            assert_eq!(read.endpoints.unwrap().source.port(), header.endpoints.unwrap().source.port());
            assert_eq!(
                read.endpoints.unwrap().source.ip().to_canonical(),
                header.endpoints.unwrap().source.ip()
            );
        }
        assert_eq!(Header::default().encode(HeaderVersion::V1), b"PROXY UNKNOWN\r\n");
    }
}
