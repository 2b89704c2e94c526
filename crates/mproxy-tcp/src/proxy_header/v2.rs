//! The binary form: a signature, a length, addresses, and TLVs behind them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Header, LONGEST, ProxiedAddresses, ProxiedCertificate, ProxiedTls};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length.
pub(super) const FIXED: usize = 16;

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;

/// Bits of the first byte of an SSL TLV.
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;

/// Bytes of the longest unique id that is allowed.
const LONGEST_ID: usize = 128;

/// Bytes of the longest value that we write: longer names and protocols do not exist.
const LONGEST_VALUE: usize = 512;

/// How long the header is that begins like this, once that can be seen.
pub(super) fn len(bytes: &[u8]) -> Option<usize> {
    let [a, b] = bytes.get(FIXED - 2..FIXED)? else { return None };
    Some(FIXED + usize::from(u16::from_be_bytes([*a, *b])))
}

pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, &'static str> {
    let n = bytes.len().min(SIGNATURE.len());
    // As far as it has come: MQTT or TLS without a header is refused at its first byte, and not waited for.
    if bytes[..n] != SIGNATURE[..n] {
        return Err("neither version 1 nor version 2");
    }
    let Some([version_command, family, ..]) = bytes.get(SIGNATURE.len()..FIXED) else { return Ok(None) };
    if version_command >> 4 != 2 {
        return Err("neither version 1 nor version 2");
    }
    let Some(len) = len(bytes) else { return Ok(None) };
    if len > LONGEST {
        return Err("it claims to be longer than any header is");
    }
    let is_local = match version_command & 0x0F {
        0 => true,
        1 => false,
        _ => return Err("neither LOCAL nor PROXY"),
    };
    let Some(whole) = bytes.get(..len) else { return Ok(None) };
    // LOCAL is the proxy's own health check: nobody is behind it, whatever addresses follow.
    let header = if is_local { Header::default() } else { proxied(*family, whole)? };
    Ok(Some((header, len)))
}

fn proxied(family: u8, whole: &[u8]) -> Result<Header, &'static str> {
    let mut rest = Rest(&whole[FIXED..]);
    let endpoints = match family {
        // AF_UNSPEC: the sender knows no addresses.
        0x00 => None,
        0x11 => {
            let (source, destination) = (Ipv4Addr::from(rest.array()?), Ipv4Addr::from(rest.array()?));
            Some(rest.ports(source.into(), destination.into())?)
        }
        0x21 => {
            let (source, destination) = (Ipv6Addr::from(rest.array()?), Ipv6Addr::from(rest.array()?));
            Some(rest.ports(source.into(), destination.into())?)
        }
        // A Unix socket: there is somebody, but at no address.
        0x31 => {
            // Two paths of 108 bytes each.
            rest.take(216)?;
            None
        }
        _ => return Err("neither TCP over IPv4, TCP over IPv6 nor a Unix stream"),
    };
    let mut header = Header { endpoints, ..Header::default() };
    let mut checked = false;
    while let Some((kind, value)) = rest.tlv()? {
        match kind {
            ALPN => header.alpn = Some(value.to_vec()),
            AUTHORITY => header.authority = Some(text(value)?),
            UNIQUE_ID if value.len() > LONGEST_ID => return Err("a unique id of more than 128 bytes"),
            UNIQUE_ID => header.unique_id = Some(value.to_vec()),
            // Each would be computed over all of the header.
            CRC32C if std::mem::replace(&mut checked, true) => return Err("two checksums"),
            CRC32C => checksum(whole, whole.len() - rest.0.len() - value.len(), value)?,
            SSL => header.tls = tls(value)?,
            // Types that are not known are to be ignored: new ones come over time.
            _ => {}
        }
    }
    Ok(header)
}

fn tls(value: &[u8]) -> Result<Option<ProxiedTls>, &'static str> {
    let mut rest = Rest(value);
    let [client] = rest.array()?;
    let verify = u32::from_be_bytes(rest.array()?);
    let mut tls = ProxiedTls::default();
    // 0 is the proxy's word that the certificate is good.
    if client & (CLIENT_CERT_CONN | CLIENT_CERT_SESS) != 0 {
        tls.certificate =
            if verify == 0 { ProxiedCertificate::Verified } else { ProxiedCertificate::Refused };
    }
    while let Some((kind, value)) = rest.tlv()? {
        match kind {
            SSL_VERSION => tls.version = Some(text(value)?),
            SSL_CN => tls.common_name = Some(text(value)?),
            _ => {}
        }
    }
    Ok((client & CLIENT_SSL != 0).then_some(tls))
}

fn text(value: &[u8]) -> Result<String, &'static str> {
    let text = std::str::from_utf8(value).map_err(|_| "a name that is not UTF-8")?;
    // Nobody is told text with U+0000 in it.
    if text.contains('\0') { Err("a name with U+0000 in it") } else { Ok(text.to_owned()) }
}

/// A checksum has to be right where there is one: it was made with its own bytes, which stand at `at`, as 0.
fn checksum(whole: &[u8], at: usize, value: &[u8]) -> Result<(), &'static str> {
    let claimed: [u8; 4] = value.try_into().map_err(|_| "a checksum of another length than 4")?;
    let bytes = whole.iter().enumerate().map(|(i, byte)| if (at..at + 4).contains(&i) { 0 } else { *byte });
    if crc32c(bytes) == u32::from_be_bytes(claimed) { Ok(()) } else { Err("its checksum is wrong") }
}

/// CRC-32C, bit by bit: once per connection at most.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    })
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let (front, rest) = self.0.split_at_checked(n).ok_or("a length in it is too large")?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (front, rest) = self.0.split_first_chunk().ok_or("a length in it is too large")?;
        self.0 = rest;
        Ok(*front)
    }

    fn ports(&mut self, source: IpAddr, destination: IpAddr) -> Result<ProxiedAddresses, &'static str> {
        let (from, to) = (u16::from_be_bytes(self.array()?), u16::from_be_bytes(self.array()?));
        Ok(ProxiedAddresses {
            source: SocketAddr::new(source, from),
            destination: SocketAddr::new(destination, to),
        })
    }

    fn tlv(&mut self) -> Result<Option<(u8, &'a [u8])>, &'static str> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let [kind] = self.array()?;
        let len = u16::from_be_bytes(self.array()?);
        Ok(Some((kind, self.take(usize::from(len))?)))
    }
}

impl ProxiedAddresses {
    /// Both addresses in one family: IPv4 goes into IPv6 where the other end needs it.
    pub(super) fn of_one_family(self) -> Self {
        let Self { source, destination } = self;
        if source.is_ipv4() == destination.is_ipv4() {
            return self;
        }
        let v6 = |address: SocketAddr| match address.ip() {
            IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(_) => address,
        };
        Self { source: v6(source), destination: v6(destination) }
    }
}

pub(super) fn encode(header: &Header) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    // Version 2, PROXY; no family as long as no addresses follow.
    bytes.extend_from_slice(&[0x21, 0x00, 0, 0]);
    if let Some(endpoints) = header.endpoints {
        let ProxiedAddresses { source, destination } = endpoints.of_one_family();
        bytes[13] = if source.is_ipv4() { 0x11 } else { 0x21 };
        for address in [source.ip(), destination.ip()] {
            match address {
                IpAddr::V4(v4) => bytes.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
            }
        }
        bytes.extend_from_slice(&source.port().to_be_bytes());
        bytes.extend_from_slice(&destination.port().to_be_bytes());
    }
    tlv(&mut bytes, ALPN, header.alpn.as_deref());
    tlv(&mut bytes, AUTHORITY, header.authority.as_deref().map(str::as_bytes));
    tlv(&mut bytes, UNIQUE_ID, header.unique_id.as_deref().filter(|id| id.len() <= LONGEST_ID));
    if let Some(tls) = &header.tls {
        let (seen, verify) = match tls.certificate {
            ProxiedCertificate::Absent => (0, 0u32),
            ProxiedCertificate::Verified => (CLIENT_CERT_CONN | CLIENT_CERT_SESS, 0),
            ProxiedCertificate::Refused => (CLIENT_CERT_CONN | CLIENT_CERT_SESS, 1),
        };
        let mut value = vec![CLIENT_SSL | seen];
        value.extend_from_slice(&verify.to_be_bytes());
        tlv(&mut value, SSL_VERSION, tls.version.as_deref().map(str::as_bytes));
        tlv(&mut value, SSL_CN, tls.common_name.as_deref().map(str::as_bytes));
        tlv(&mut bytes, SSL, Some(&value));
    }
    // Six values of at most 512 bytes, and one of those inside another: never more than 64 KiB.
    let len = (bytes.len() - FIXED) as u16;
    bytes[14..16].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// Appends a TLV; one that is too long to be true is left out.
fn tlv(bytes: &mut Vec<u8>, kind: u8, value: Option<&[u8]>) {
    let most = if kind == SSL { 3 * LONGEST_VALUE } else { LONGEST_VALUE };
    if let Some(value) = value.filter(|value| value.len() <= most) {
        bytes.push(kind);
        bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        bytes.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests;
