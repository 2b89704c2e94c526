//! What a handshake told about the peer, read from its certificate with x509-parser. By then rustls has verified it.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls::{CommonState, ProtocolVersion};
use x509_parser::asn1_rs::ToDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// What a TLS handshake told about the client. The fields of a certificate are there where it showed one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandshakeFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// Server name the client asked for.
    pub sni: Option<String>,
    /// Application protocol that was agreed on.
    pub alpn: Option<String>,
    /// Certificate chain as presented, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// Subject of the leaf, RFC 4514.
    pub subject: Option<String>,
    /// Common name of the leaf; the most specific where there are several.
    pub common_name: Option<String>,
    /// Subject alternative names of the leaf: `DNS:…`, `URI:…`, `IP:…`, `email:…`.
    pub subject_alt_names: Vec<String>,
    /// SHA-256 over the leaf's DER, lower-case hex.
    pub fingerprint: Option<String>,
    /// Serial number of the leaf, lower-case hex.
    pub serial: Option<String>,
}

/// What protects a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsProtection {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// Its name at IANA: `TLS13_AES_256_GCM_SHA384`.
    pub cipher_suite: &'static str,
}

impl TlsProtection {
    pub(super) fn of(connection: &CommonState) -> Self {
        let suite = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        Self { version: version(connection), cipher_suite: suite.unwrap_or("unknown") }
    }
}

fn version(connection: &CommonState) -> &'static str {
    match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        // The only other one that is spoken, see `VERSIONS`.
        _ => "TLSv1.3",
    }
}

impl HandshakeFacts {
    pub(super) fn of(connection: &CommonState, sni: Option<&str>) -> Result<Self, &'static str> {
        let mut facts = Self {
            version: version(connection),
            sni: sni.map(str::to_owned),
            alpn: connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            ..Self::default()
        };
        let chain = connection.peer_certificates().unwrap_or_default();
        facts.chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
        if let Some(leaf) = chain.first() {
            facts.read(leaf)?;
        }
        Ok(facts)
    }

    fn read(&mut self, leaf: &[u8]) -> Result<(), &'static str> {
        let certificate = parse(leaf)?;
        let subject = certificate.subject();
        self.subject = Some(rfc4514(subject));
        self.common_name = subject.iter_common_name().last().and_then(text);
        self.subject_alt_names = names(&certificate)?.iter().filter_map(alternative).collect();
        self.fingerprint = Some(hex(ring::digest::digest(&ring::digest::SHA256, leaf).as_ref()));
        self.serial = Some(serial(&certificate));
        Ok(())
    }
}

/// The DNS names of a certificate, in lower case.
pub(super) fn dns_names(certificate: &[u8]) -> Result<Vec<String>, &'static str> {
    let certificate = parse(certificate)?;
    let names = names(&certificate)?;
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok(dns.collect())
}

/// A name or address that a certificate is for, the first that it has.
pub(super) fn first_name(certificate: &[u8]) -> Result<Option<String>, &'static str> {
    let certificate = parse(certificate)?;
    Ok(names(&certificate)?.iter().find_map(|name| match name {
        // Any label may stand for the star.
        GeneralName::DNSName(name) => Some(whole(name)?.replacen('*', "any", 1)),
        GeneralName::IPAddress(bytes) => address(bytes).map(|ip| ip.to_string()),
        _ => None,
    }))
}

pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, &'static str> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        // Nobody has signed that.
        Ok(_) => Err("there is something behind it"),
        Err(_) => Err("it is no X.509 certificate"),
    }
}

fn names<'a>(certificate: &X509Certificate<'a>) -> Result<Vec<GeneralName<'a>>, &'static str> {
    let extension = certificate.subject_alternative_name();
    let extension = extension.map_err(|_| "its alternative names are malformed")?;
    Ok(extension.map(|extension| extension.value.general_names.clone()).unwrap_or_default())
}

fn alternative(name: &GeneralName<'_>) -> Option<String> {
    Some(match name {
        GeneralName::DNSName(name) => format!("DNS:{}", whole(name)?),
        GeneralName::URI(uri) => format!("URI:{}", whole(uri)?),
        GeneralName::RFC822Name(name) => format!("email:{}", whole(name)?),
        GeneralName::IPAddress(bytes) => format!("IP:{}", address(bytes)?),
        _ => return None,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    // Any other length is no address: networks stand in the constraints of CAs alone (RFC 5280, 4.2.1.10).
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

fn text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    attribute.as_str().ok().and_then(whole).map(str::to_owned)
}

/// A name with U+0000 in it is none: whoever reads text to there would take it for another.
fn whole(name: &str) -> Option<&str> {
    (!name.contains('\0')).then_some(name)
}

/// The name as text, the most specific part first, with everything escaped that could be taken for another name.
pub(super) fn rfc4514(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|rdn| rdn.iter().map(|attribute| part(attribute)).collect::<Vec<_>>().join("+"))
        .collect();
    // A certificate has the most general part first, and the text begins with the last one (RFC 4514, 2.1).
    parts.reverse();
    parts.join(",")
}

fn part(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT.iter().find(|(known, _)| *known == oid).map(|(_, short)| *short);
    match (short, attribute.as_str()) {
        (Some(short), Ok(value)) => format!("{short}={}", escaped(value)),
        // What has no name, or is no text, is written as its bytes.
        (short, _) => {
            let der = attribute.attr_value().to_der_vec().unwrap_or_default();
            format!("{}=#{}", short.unwrap_or(&oid), hex(&der))
        }
    }
}

/// The attributes with short names of their own (RFC 4514, 3), and two more that certificates of devices carry.
const SHORT: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("2.5.4.5", "serialNumber"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (at, char) in value.chars().enumerate() {
        match char {
            '\0' => text.push_str("\\00"),
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => text.extend(['\\', char]),
            '#' if at == 0 => text.push_str("\\#"),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            _ => text.push(char),
        }
    }
    text
}

pub(super) fn serial(certificate: &X509Certificate<'_>) -> String {
    hex(significant(certificate.raw_serial()))
}

/// Without the zeros that only say that the number is positive.
fn significant(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros.min(serial.len().saturating_sub(1))..]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, SerialNumber};

    fn facts(params: &CertificateParams) -> HandshakeFacts {
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut facts = HandshakeFacts::default();
        facts.read(certificate.der()).unwrap();
        facts
    }

    #[test]
    fn a_certificate_is_read_as_policies_name_it() {
        let mut params = CertificateParams::new(vec!["Device.example".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "AT");
        params.distinguished_name.push(DnType::OrganizationName, "Meters, Inc.");
        params.distinguished_name.push(DnType::CommonName, "device=7 ");
        params.serial_number = Some(SerialNumber::from_slice(&[0x8F, 0x01]));
        params.subject_alt_names.extend([
            SanType::URI("urn:device:7".try_into().unwrap()),
            SanType::Rfc822Name("seven@device.example".try_into().unwrap()),
            SanType::IpAddress("192.0.2.7".parse().unwrap()),
            SanType::IpAddress("2001:db8::7".parse().unwrap()),
        ]);
        let facts = facts(&params);
        assert_eq!(facts.subject.as_deref(), Some(r"CN=device\=7\ ,O=Meters\, Inc.,C=AT"));
        assert_eq!(facts.common_name.as_deref(), Some("device=7 "));
        let names = ["DNS:Device.example", "URI:urn:device:7", "email:seven@device.example", "IP:192.0.2.7"];
        assert_eq!(facts.subject_alt_names[..4], names);
        assert_eq!(facts.subject_alt_names[4], "IP:2001:db8::7");
        assert_eq!(facts.serial.as_deref(), Some("8f01"));
        assert_eq!(facts.fingerprint.map(|text| text.len()), Some(64));
    }

    #[test]
    fn a_name_cannot_be_dressed_up_as_another() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "#x,CN=admin\0+O=us;\"<>\\");
        params.subject_alt_names = vec![SanType::DnsName("admin\0.example".try_into().unwrap())];
        let facts = facts(&params);
        assert_eq!((facts.common_name, facts.subject_alt_names), (None, vec![]));
        let subject = facts.subject.unwrap();
        assert_eq!(subject, r#"CN=\#x\,CN\=admin\00\+O\=us\;\"\<\>\\"#);
    }

    #[test]
    fn an_unknown_attribute_is_written_as_its_bytes() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "x");
        assert_eq!(facts(&params).subject.as_deref(), Some("1.2.3.4=#0c0178"));
    }

    #[test]
    fn what_is_no_certificate_is_told() {
        assert!(HandshakeFacts::default().read(b"no").is_err());
        assert!(dns_names(b"no").is_err());
    }
}
