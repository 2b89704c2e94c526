//! The signatures of handshakes, made with the key of a certificate of whatever version. Whether that certificate is
//! believed is not decided here.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};

use super::facts::parse;
use super::unverifiable::Unverifiable;
use super::{key, provider};

/// The public key of a certificate of whatever version: as webpki reads it where it does.
pub(super) fn public_key(der: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, &'static str> {
    // webpki's reading counts where there is one: two readers of one certificate must not see two keys.
    if let Ok(read) = ParsedCertificate::try_from(der) {
        return Ok(read.subject_public_key_info());
    }
    Ok(parse(der)?.public_key().raw.to_vec().into())
}

/// The signatures of handshakes, which show that the peer holds the key of its certificate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signatures(WebPkiSupportedAlgorithms);

impl Signatures {
    pub(super) fn new() -> Self {
        Self(provider().signature_verification_algorithms)
    }

    pub(super) fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }

    pub(super) fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = match raw_key(certificate) {
            Some(key) => self.tls12_raw(message, &key, signed),
            None => verify_tls12_signature(message, certificate, signed, &self.0),
        };
        verified.map_err(|why| over_key(certificate, why))
    }

    pub(super) fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = match raw_key(certificate) {
            Some(key) => verify_tls13_signature_with_raw_key(message, &key, signed, &self.0),
            None => verify_tls13_signature(message, certificate, signed, &self.0),
        };
        verified.map_err(|why| over_key(certificate, why))
    }

    /// What rustls has for TLS 1.3 alone: a scheme of TLS 1.2 names no curve, so each that fits the key is tried.
    fn tls12_raw(
        &self,
        message: &[u8],
        key: &SubjectPublicKeyInfoDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let fitting = self.0.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let (_, algorithms) = fitting.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let bad = || Error::from(CertificateError::BadSignature);
        let key = webpki::RawPublicKeyEntity::try_from(key).map_err(|_| bad())?;
        let verified =
            algorithms.iter().any(|one| key.verify_signature(*one, message, signed.signature()).is_ok());
        verified.then(HandshakeSignatureValid::assertion).ok_or_else(bad)
    }
}

/// The key of a certificate that webpki does not read; whether it may be used was decided before.
fn raw_key(certificate: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    if ParsedCertificate::try_from(certificate).is_ok() {
        return None;
    }
    public_key(certificate).ok()
}

fn over_key(certificate: &CertificateDer<'_>, why: Error) -> Error {
    let kind = parse(certificate).ok().and_then(|certificate| key::public(certificate.public_key()));
    match kind {
        Some(kind) if !kind.is_understood() => Unverifiable::Key(kind).into(),
        _ => why,
    }
}

/// The part of rustls's verifiers, of servers and of clients, that [`Signatures`] do: they are the field of this name.
macro_rules! checks_signatures {
    ($signatures:tt) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.$signatures.tls12(message, cert, dss)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.$signatures.tls13(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.$signatures.schemes()
        }
    };
}
pub(super) use checks_signatures;
