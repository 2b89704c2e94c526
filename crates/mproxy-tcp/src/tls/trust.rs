//! Whom a file of CAs makes us believe: those whom a CA of it has signed, as webpki verifies that, and whoever holds the
//! key of a certificate that itself stands in the file.
//!
//! That second way, the pin, is for certificates that webpki does not take: X.509 v1, and those that sign themselves and
//! say that they are a CA, as `openssl req -x509` makes them. It opens nothing that was shut: whoever holds such a key
//! could have signed any other certificate with it.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Version;

use super::facts::parse;
use super::pem::{self, MaterialError};
use super::provider;
use super::signatures::{Signatures, checks_signatures};
use super::unverifiable::Unverifiable;

/// Bytes of names of CAs that a client is shown at most, as a hint which of its certificates to take. Beyond, it gets no
/// hint, and is free to choose.
const HINTS: usize = 16 << 10;

/// What becomes of a client that is asked for a certificate and shows none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WithoutCertificate {
    /// It stays out.
    #[default]
    Refuse,
    /// It comes in as somebody without one.
    Admit,
}

/// What stands in a file of CAs.
#[derive(Debug)]
pub(super) struct Trust {
    anchors: Arc<RootCertStore>,
    pins: Pins,
    hints: Vec<DistinguishedName>,
}

/// Every certificate of the file, and what the lists say of it.
#[derive(Debug, Default)]
struct Pins(HashMap<Vec<u8>, PinState>);

/// Where a certificate stands towards revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PinState {
    /// There are no lists, or it has signed itself, and nobody else could take it back.
    Clear,
    /// Its issuer's list leaves it alone, until then.
    ClearUntil(Option<i64>),
    /// There are lists, but none of its issuer: a missing list is no clearance.
    Unknown,
    Revoked,
}

/// Lists of certificates that do not count any more, each good by itself.
pub(super) fn lists(files: &[PathBuf]) -> Result<Vec<CertificateRevocationListDer<'static>>, MaterialError> {
    let mut all = Vec::new();
    for file in files {
        let read = pem::crls(file)?;
        for list in &read {
            webpki::OwnedCertRevocationList::from_der(list)
                .map_err(|error| MaterialError::unusable(file, list_fault(&error)))?;
        }
        all.extend(read);
    }
    Ok(all)
}

fn list_fault(error: &webpki::Error) -> String {
    match error {
        webpki::Error::UnsupportedCrlVersion => {
            "it is a revocation list of version 1, and version 2 is needed: set \
            crl_extensions with a crlNumber for `openssl ca -gencrl`"
                .to_owned()
        }
        webpki::Error::UnsupportedDeltaCrl => "it is a delta list: a complete one is needed".to_owned(),
        webpki::Error::UnsupportedIndirectCrl => {
            "it is an indirect list: one is needed that the CA itself has signed".to_owned()
        }
        error => format!("it cannot be read as a revocation list ({error:?})"),
    }
}

impl Trust {
    /// What this file makes us believe, under these lists.
    pub(super) fn read(
        path: &Path,
        lists: &[CertificateRevocationListDer<'static>],
    ) -> Result<Self, MaterialError> {
        let mut anchors = RootCertStore::empty();
        let mut hints = BTreeSet::new();
        let certificates = pem::certificates(path)?;
        let mut pins = HashMap::new();
        for der in &certificates {
            let certificate = parse(der).map_err(|why| MaterialError::unusable(path, why))?;
            if may_sign(&certificate) {
                anchors.add(der.clone()).map_err(|error| MaterialError::unusable(path, error))?;
                hints.insert(certificate.subject().as_raw().to_vec());
            }
            // Clients look for a certificate of theirs by who has issued it.
            hints.insert(certificate.issuer().as_raw().to_vec());
            pins.insert(der.to_vec(), PinState::of(&certificate, lists));
        }
        let total: usize = hints.iter().map(Vec::len).sum();
        let hints = if total > HINTS { BTreeSet::new() } else { hints };
        Ok(Self {
            anchors: Arc::new(anchors),
            pins: Pins(pins),
            hints: hints.into_iter().map(DistinguishedName::from).collect(),
        })
    }

    /// The system's roots: nobody has chosen them one by one, so none of them is a pin.
    pub(super) fn system(anchors: RootCertStore) -> Self {
        Self { anchors: Arc::new(anchors), pins: Pins::default(), hints: Vec::new() }
    }

    /// Verifies brokers.
    pub(super) fn of_servers(
        self,
        lists: Vec<CertificateRevocationListDer<'static>>,
    ) -> Result<Arc<dyn ServerCertVerifier>, MaterialError> {
        let chain = if self.anchors.is_empty() {
            None
        } else {
            let mut builder = WebPkiServerVerifier::builder_with_provider(self.anchors, provider());
            // A list that is out of date lets nobody in, as with nginx and haproxy (ADR 0014).
            if !lists.is_empty() {
                builder = builder.with_crls(lists).enforce_revocation_expiration();
            }
            Some(builder.build().map_err(|error| MaterialError::Together(error.to_string()))?)
        };
        Ok(Arc::new(Servers { chain, pins: self.pins, signatures: Signatures::new() }))
    }

    /// Verifies clients that show a certificate, and says what becomes of others.
    pub(super) fn of_clients(
        self,
        lists: Vec<CertificateRevocationListDer<'static>>,
        without_certificate: WithoutCertificate,
    ) -> Result<Arc<dyn ClientCertVerifier>, MaterialError> {
        let chain = if self.anchors.is_empty() {
            None
        } else {
            let mut builder = WebPkiClientVerifier::builder_with_provider(self.anchors, provider());
            if !lists.is_empty() {
                builder = builder.with_crls(lists).enforce_revocation_expiration();
            }
            Some(builder.build().map_err(|error| MaterialError::Together(error.to_string()))?)
        };
        let Self { pins, hints, .. } = self;
        Ok(Arc::new(ClientTrust { chain, pins, hints, without_certificate, signatures: Signatures::new() }))
    }
}

/// Whether a certificate of a CA file signs others: one that says so, or that is older than the field for it and has
/// signed itself. What OpenSSL takes, too. Any other would let each of many pinned devices make certificates of others.
pub(super) fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    match certificate.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) if certificate.version() == X509Version::V1 => signs_itself(certificate),
        Ok(None) => matches!(certificate.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign()),
        Err(_) => false,
    }
}

fn signs_itself(certificate: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == certificate.subject().as_raw()
}

impl PinState {
    fn of(certificate: &X509Certificate<'_>, lists: &[CertificateRevocationListDer<'static>]) -> Self {
        let mut standing = match lists.is_empty() || signs_itself(certificate) {
            true => Self::Clear,
            false => Self::Unknown,
        };
        // Without leading zeros: DER puts one before a number whose first bit is set.
        let serial =
            |bytes: &[u8]| -> Vec<u8> { bytes.iter().copied().skip_while(|byte| *byte == 0).collect() };
        let own = serial(certificate.raw_serial());
        for list in lists {
            let Ok((_, list)) = CertificateRevocationList::from_der(list) else { continue };
            // Numbers of another issuer are those of other certificates.
            if list.issuer().as_raw() != certificate.issuer().as_raw() {
                continue;
            }
            if list.iter_revoked_certificates().any(|revoked| serial(revoked.raw_serial()) == own) {
                return Self::Revoked;
            }
            if standing != Self::Clear {
                standing = Self::ClearUntil(list.next_update().map(|time| time.timestamp()));
            }
        }
        standing
    }

    fn check(self, now: i64) -> Result<(), Error> {
        match self {
            Self::ClearUntil(Some(until)) if now > until => {
                Err(CertificateError::ExpiredRevocationList.into())
            }
            Self::Clear | Self::ClearUntil(_) => Ok(()),
            Self::Unknown => Err(CertificateError::UnknownRevocationStatus.into()),
            Self::Revoked => Err(CertificateError::Revoked.into()),
        }
    }
}

/// What a certificate is shown for.
enum Use<'a> {
    Server(&'a ServerName<'a>),
    Client,
}

impl Pins {
    /// Whether a certificate that has not been verified for this reason stands in the file itself, and is good.
    fn judge(
        &self,
        der: &CertificateDer<'_>,
        now: UnixTime,
        why: Error,
        usage: &Use<'_>,
    ) -> Result<(), Error> {
        let Ok(certificate) = parse(der) else { return Err(why) };
        let Some(standing) = self.0.get(der.as_ref()) else { return Err(unverifiable(&certificate, why)) };
        // Its issuer took it back, or has no list that clears it: a pin does not overrule that. Whoever has signed itself has
        // no issuer who could.
        if is_of_revocation(&why) && !signs_itself(&certificate) {
            return Err(why);
        }
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = certificate.validity();
        if now < validity.not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > validity.not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        standing.check(now)?;
        let purpose = match (certificate.extended_key_usage(), usage) {
            (Ok(None), _) => true,
            (Ok(Some(purposes)), Use::Server(_)) => purposes.value.any || purposes.value.server_auth,
            (Ok(Some(purposes)), Use::Client) => purposes.value.any || purposes.value.client_auth,
            // What cannot be read permits nothing.
            (Err(_), _) => false,
        };
        if !purpose {
            return Err(CertificateError::InvalidPurpose.into());
        }
        match (usage, certificate.subject_alternative_name()) {
            // Without alternative names there is none to compare, and the key alone says who it is.
            (Use::Client, _) | (Use::Server(_), Ok(None)) => Ok(()),
            (Use::Server(name), _) => verify_server_name(&ParsedCertificate::try_from(der)?, name),
        }
    }
}

fn is_of_revocation(error: &Error) -> bool {
    match error {
        Error::InvalidCertRevocationList(_) => true,
        Error::InvalidCertificate(why) => matches!(
            why,
            CertificateError::Revoked
                | CertificateError::UnknownRevocationStatus
                | CertificateError::ExpiredRevocationList
                | CertificateError::ExpiredRevocationListContext { .. }
        ),
        _ => false,
    }
}

fn unverifiable(certificate: &X509Certificate<'_>, why: Error) -> Error {
    if certificate.version() == X509Version::V1 {
        return Unverifiable::Version1.into();
    }
    match &why {
        Error::InvalidCertificate(CertificateError::Other(OtherError(other)))
            if matches!(other.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) =>
        {
            Unverifiable::OfCa.into()
        }
        _ => why,
    }
}

/// Brokers, or whoever else is a server.
#[derive(Debug)]
struct Servers {
    /// Absent where the file holds no CA, only pins.
    chain: Option<Arc<WebPkiServerVerifier>>,
    pins: Pins,
    signatures: Signatures,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // webpki first: pins are for what it does not take.
        let why = match &self.chain {
            None => CertificateError::UnknownIssuer.into(),
            Some(chain) => {
                match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
                    Ok(verified) => return Ok(verified),
                    Err(why) => why,
                }
            }
        };
        self.pins.judge(end_entity, now, why, &Use::Server(server_name))?;
        Ok(ServerCertVerified::assertion())
    }

    checks_signatures!(signatures);
}

#[derive(Debug)]
struct ClientTrust {
    /// Absent where the file holds no CA, only pins.
    chain: Option<Arc<dyn ClientCertVerifier>>,
    pins: Pins,
    hints: Vec<DistinguishedName>,
    without_certificate: WithoutCertificate,
    signatures: Signatures,
}

impl ClientCertVerifier for ClientTrust {
    fn client_auth_mandatory(&self) -> bool {
        match self.without_certificate {
            WithoutCertificate::Refuse => true,
            WithoutCertificate::Admit => false,
        }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let why = match &self.chain {
            None => CertificateError::UnknownIssuer.into(),
            Some(chain) => match chain.verify_client_cert(end_entity, intermediates, now) {
                Ok(verified) => return Ok(verified),
                Err(why) => why,
            },
        };
        self.pins.judge(end_entity, now, why, &Use::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    checks_signatures!(signatures);
}
