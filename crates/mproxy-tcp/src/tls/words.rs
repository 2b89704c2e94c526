//! What went wrong with a handshake, in words for whoever has to mend it.

use std::fmt;

use rustls::{
    AlertDescription, CertRevocationListError, CertificateError, Error, OtherError, PeerIncompatible,
};

use super::dates::day;
use super::key;
use super::unverifiable::Unverifiable;

/// An error of rustls in words: what it is, and what to do.
#[derive(Debug)]
pub struct Explained(pub(super) Error);

impl std::error::Error for Explained {}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Error::InvalidCertificate(why) => certificate(why, f),
            Error::InvalidCertRevocationList(CertRevocationListError::BadSignature) => f.write_str(
                "a revocation list is not signed by the CA that it names: it belongs to another CA with the same name",
            ),
            Error::NoCertificatesPresented => {
                f.write_str("the peer presented no certificate, but one is required")
            }
            Error::NoApplicationProtocol => {
                f.write_str("the peer offers application protocols (ALPN), but none that is configured (tls.alpn)")
            }
            Error::PeerIncompatible(why) => incompatible(why, f),
            Error::AlertReceived(alert) => {
                write!(f, "the peer refused ({alert:?})")?;
                reaction(*alert).map_or(Ok(()), |text| write!(f, ": {text}"))
            }
            other => write!(f, "{other}"),
        }
    }
}

fn certificate(why: &CertificateError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match why {
        CertificateError::Expired => f.write_str("the certificate of the peer has expired"),
        CertificateError::ExpiredContext { not_after, .. } => {
            write!(f, "a certificate of the peer has expired on {}", day(seconds(not_after.as_secs())))
        }
        CertificateError::NotValidYet => f.write_str("the certificate of the peer is not valid yet"),
        CertificateError::NotValidYetContext { not_before, .. } => {
            write!(f, "a certificate of the peer is valid only from {} on", day(seconds(not_before.as_secs())))
        }
        CertificateError::Revoked => f.write_str("a certificate of the peer has been revoked"),
        CertificateError::UnknownIssuer => f.write_str(
            "the certificate of the peer is not signed by a CA of the CA file, and is not in that file itself; the peer \
             also has to send intermediate CAs",
        ),
        CertificateError::UnknownRevocationStatus => f.write_str(
            "there is no revocation list of the CA that signed a certificate of the peer; if there are any lists, each \
             CA needs one",
        ),
        CertificateError::ExpiredRevocationList => f.write_str("the revocation list has expired"),
        CertificateError::ExpiredRevocationListContext { next_update, .. } => {
            write!(f, "a revocation list has expired on {}", day(seconds(next_update.as_secs())))
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => f.write_str(
            "the extended key usage of the peer's certificate does not allow this: clientAuth for clients, serverAuth \
             for servers",
        ),
        CertificateError::BadSignature => f.write_str(
            "a signature on or by a certificate of the peer is invalid, or was made by an RSA key of less than 2048 \
             bits",
        ),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => f.write_str(
            "a certificate of the peer has a signature algorithm that is not accepted, such as SHA-1: issue it with SHA-256",
        ),
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            write!(f, "a certificate of the peer has, or is signed by, a key that is not supported: supported are {}", key::THEIRS)
        }
        CertificateError::BadEncoding => f.write_str("a certificate of the peer is malformed"),
        CertificateError::Other(OtherError(other)) => match (other.downcast_ref(), other.downcast_ref()) {
            (Some(unverifiable), _) => write!(f, "{}", unverifiable as &Unverifiable),
            (None, Some(webpki::Error::UnsupportedCertVersion)) => f.write_str(
                "a certificate of the peer's chain is X.509 version 1; version 3 is required",
            ),
            (None, Some(webpki::Error::UnsupportedCriticalExtension)) => {
                f.write_str("a certificate of the peer has a critical extension that is not understood")
            }
            (None, Some(webpki::Error::NameConstraintViolation)) => {
                f.write_str("a CA of the peer's chain may not sign for this name (name constraints)")
            }
            (None, _) => write!(f, "the certificate of the peer cannot be verified: {other}"),
        },
        other => write!(f, "the certificate of the peer cannot be verified: {other}"),
    }
}

/// Of a [`CertificateError`], for counters.
pub(super) fn label(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not_yet_valid",
        CertificateError::Revoked => "revoked",
        CertificateError::UnknownIssuer => "unknown_ca",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "wrong_name",
        CertificateError::UnknownRevocationStatus => "no_crl",
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "crl_expired"
        }
        CertificateError::Other(OtherError(other)) => match other.downcast_ref() {
            Some(Unverifiable::Version1) => "version_1",
            Some(Unverifiable::OfCa) => "ca_certificate",
            Some(Unverifiable::Key(_)) => "unsupported_key",
            None => "bad_certificate",
        },
        _ => "bad_certificate",
    }
}

fn incompatible(why: &PeerIncompatible, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let text = match why {
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::SupportedVersionsExtensionRequired => "it supports neither TLS 1.2 nor TLS 1.3",
        PeerIncompatible::NoCipherSuitesInCommon => NO_CIPHER_SUITE,
        PeerIncompatible::NoKxGroupsInCommon | PeerIncompatible::NamedGroupsExtensionRequired => {
            "there is no key exchange in common; mproxy supports X25519, P-256 and P-384"
        }
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            "it accepts no signature algorithm of mproxy's certificate"
        }
        other => return write!(f, "the TLS of the peer is incompatible: {other:?}"),
    };
    write!(f, "the TLS of the peer is incompatible: {text}")
}

/// With the cipher suites that are spoken here.
pub(super) const NO_CIPHER_SUITE: &str = "there is no cipher suite in common; mproxy supports those of TLS 1.3 and, \
    with TLS 1.2, ECDHE with AES-GCM or ChaCha20-Poly1305 for the kind of key of its certificate";

/// What to do about an alert.
fn reaction(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::UnknownCA => "it does not trust the CA of mproxy's certificate",
        AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => {
            "it does not accept mproxy's certificate"
        }
        AlertDescription::CertificateExpired => {
            "mproxy's certificate has expired, or the clock of the peer is wrong"
        }
        AlertDescription::CertificateRevoked => "mproxy's certificate has been revoked",
        AlertDescription::CertificateRequired => {
            "it requires a client certificate of mproxy (target.cert, target.key)"
        }
        AlertDescription::AccessDenied => "it denies access",
        AlertDescription::ProtocolVersion => "it supports neither TLS 1.2 nor TLS 1.3",
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            "there is no cipher suite in common, or it requires a client certificate"
        }
        AlertDescription::NoApplicationProtocol => {
            "it supports none of the application protocols that mproxy offers (ALPN)"
        }
        AlertDescription::UnrecognisedName => "it does not know the server name that it was asked for (SNI)",
        _ => return None,
    })
}

fn seconds(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// What came where TLS was to begin, as far as it can be told from its first bytes.
pub(super) fn instead_of_tls(first: &[u8]) -> &'static str {
    // `PRI ` begins HTTP/2 (RFC 9113, 3.4).
    const HTTP: [&[u8]; 8] = [b"GET ", b"POST", b"PUT ", b"HEAD", b"HTTP", b"OPTI", b"CONN", b"PRI "];
    // A CONNECT begins with 0x10, a CONNACK with 0x20; two ends of a line begin the binary PROXY header.
    match first {
        [0x10, ..] => ", received MQTT without TLS: the client has to use TLS, or another port",
        [0x20, ..] => ", received MQTT without TLS: this port of the broker has no TLS",
        [b'P', b'R', b'O', b'X', ..] | [b'\r', b'\n', b'\r', b'\n', ..] => {
            ", received a PROXY header: set proxy_protocol for this listener, or turn it off in the load balancer"
        }
        _ if HTTP.iter().any(|word| first.starts_with(word)) => ", received HTTP without TLS",
        _ => "",
    }
}
