//! Until when files of TLS hold, and what in them cannot do what it is there for: each of it good by itself, so that
//! reading them is no fault, and yet nobody gets in.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

use super::facts::{self, parse};
use super::pem::{self, Identity, MaterialError};
use super::{key, signatures, trust};

/// Certificates of one file whose dates are kept, those first that end first: a bundle of CAs has hundreds.
const PER_FILE: usize = 64;

/// Something with a date.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dated {
    /// Where it stands.
    pub file: PathBuf,
    /// What it is.
    pub kind: CertificateKind,
    /// Whose it is, RFC 4514; of a list, who has issued it.
    pub subject: String,
    /// Serial number, lower-case hex; of a list, its number in decimal.
    pub serial: String,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970; `None` where it never ends.
    pub not_after: Option<i64>,
}

/// What has a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateKind {
    /// A certificate that we show, or one of its chain.
    Certificate,
    /// A CA that we believe, or a certificate that is pinned.
    Ca,
    /// A list of certificates that do not count any more.
    Crl,
}

impl CertificateKind {
    /// A short name for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Ca => "ca",
            Self::Crl => "crl",
        }
    }
}

/// Something about a file that an operator has to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remark {
    /// Which file.
    pub file: PathBuf,
    /// What it was read for.
    pub kind: CertificateKind,
    /// What, and what to do.
    pub text: String,
}

/// What reading the files of one end showed, beside what is made of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Everything with a date.
    pub dates: Vec<Dated>,
    /// What no date will change.
    pub lasting: Vec<Remark>,
}

impl Look {
    /// What is to be told at this time (seconds since 1970).
    #[must_use]
    pub fn remarks(&self, now: i64) -> Vec<Remark> {
        let of_dates = self.dates.iter().filter_map(|dated| dated.remark(now));
        self.lasting.iter().cloned().chain(of_dates).collect()
    }

    /// Looks at what we show ourselves.
    pub(super) fn at_identity(&mut self, identity: &Identity) -> Result<(), MaterialError> {
        let chain = pem::certificates(&identity.cert)?;
        self.certificates(&identity.cert, &chain, CertificateKind::Certificate);
        Ok(())
    }

    /// Looks at whom we believe, and under which lists.
    pub(super) fn at_trust(
        &mut self,
        file: Option<&PathBuf>,
        lists: &[PathBuf],
    ) -> Result<(), MaterialError> {
        let cas = file.map(|file| pem::certificates(file)).transpose()?.unwrap_or_default();
        if let Some(file) = file {
            self.certificates(file, &cas, CertificateKind::Ca);
            self.keys(file, &cas);
        }
        let mut issuers = HashSet::new();
        for path in lists {
            let mut dates = Vec::new();
            for der in pem::crls(path)? {
                let Ok((_, list)) = CertificateRevocationList::from_der(&der) else { continue };
                issuers.insert(list.issuer().as_raw().to_vec());
                // The system's roots are not looked through for it.
                if file.is_some() && !is_by_any(&list, &cas) {
                    let text = format!(
                        "the revocation list of {} is by none of the CAs in force, and takes nothing back",
                        facts::rfc4514(list.issuer())
                    );
                    self.lasting.push(Remark { file: path.clone(), kind: CertificateKind::Crl, text });
                }
                dates.push(Dated {
                    file: path.clone(),
                    kind: CertificateKind::Crl,
                    subject: facts::rfc4514(list.issuer()),
                    serial: list.crl_number().map(ToString::to_string).unwrap_or_default(),
                    not_before: list.last_update().timestamp(),
                    not_after: list.next_update().map(|time| time.timestamp()),
                });
            }
            self.add(dates);
        }
        // Once there are lists at all, a CA without one refuses everybody: a missing list is no clearance.
        if let (Some(file), false) = (file, lists.is_empty()) {
            for certificate in cas.iter().filter_map(|der| parse(der).ok()) {
                if trust::may_sign(&certificate) && !issuers.contains(certificate.subject().as_raw()) {
                    let text = format!(
                        "there is no revocation list of {}, so every certificate that it has signed is refused",
                        facts::rfc4514(certificate.subject())
                    );
                    self.lasting.push(Remark { file: file.clone(), kind: CertificateKind::Ca, text });
                }
            }
        }
        Ok(())
    }

    fn certificates(&mut self, file: &Path, all: &[CertificateDer<'_>], kind: CertificateKind) {
        let dated = |certificate: X509Certificate<'_>| Dated {
            file: file.to_owned(),
            kind,
            subject: facts::rfc4514(certificate.subject()),
            serial: facts::serial(&certificate),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: Some(certificate.validity().not_after.timestamp()),
        };
        self.add(all.iter().filter_map(|der| parse(der).ok()).map(dated).collect());
    }

    /// CAs whose signatures nobody here can verify.
    fn keys(&mut self, file: &Path, all: &[CertificateDer<'_>]) {
        for certificate in all.iter().filter_map(|der| parse(der).ok()) {
            let kind = key::public(certificate.public_key()).filter(|kind| !kind.is_understood());
            if let Some(kind) = kind {
                let text = format!(
                    "{} has {kind}, so nobody who shows it, or what it has signed, can be verified; what can be \
                     verified is {}",
                    facts::rfc4514(certificate.subject()),
                    key::THEIRS
                );
                self.lasting.push(Remark { file: file.to_owned(), kind: CertificateKind::Ca, text });
            }
        }
    }

    fn add(&mut self, mut dates: Vec<Dated>) {
        // Those that end first are kept: they are the ones that somebody has to know of.
        dates.sort_by_key(|dated| dated.not_after.unwrap_or(i64::MAX));
        dates.dedup();
        dates.truncate(PER_FILE);
        self.dates.extend(dates);
    }
}

impl Dated {
    /// Whether something is wrong with it at this time.
    fn remark(&self, now: i64) -> Option<Remark> {
        let what = match self.kind {
            CertificateKind::Certificate => "the certificate of",
            CertificateKind::Ca => "the CA certificate of",
            CertificateKind::Crl => "the revocation list of",
        };
        let follows = match self.kind {
            CertificateKind::Certificate => "peers that look at it refuse it",
            CertificateKind::Ca => "replace it",
            CertificateKind::Crl => "nobody whose certificate it is about gets in until there is a new one",
        };
        let when = match self.not_after.filter(|end| *end < now) {
            Some(end) => format!("has expired on {}", day(end)),
            None if self.not_before > now => format!("is valid only from {} on", day(self.not_before)),
            None => return None,
        };
        let text = format!("{what} {} {when}: {follows}", self.subject);
        Some(Remark { file: self.file.clone(), kind: self.kind, text })
    }
}

/// The day of a time, as people write it.
pub(super) fn day(time: i64) -> String {
    ASN1Time::from_timestamp(time)
        .map_or_else(|_| time.to_string(), |time| time.to_datetime().date().to_string())
}

/// Whether one of these CAs has signed the list.
fn is_by_any(list: &CertificateRevocationList<'_>, cas: &[CertificateDer<'_>]) -> bool {
    let algorithms = super::provider().signature_verification_algorithms;
    cas.iter().any(|der| {
        // By name first, as signatures cost more; but not by name alone: a CA that was made anew often has that of
        // the old one.
        let is_its = parse(der).is_ok_and(|ca| ca.subject().as_raw() == list.issuer().as_raw());
        let Some(key) = is_its.then(|| signatures::public_key(der).ok()).flatten() else { return false };
        let Ok(key) = webpki::RawPublicKeyEntity::try_from(&key) else { return false };
        let signature = list.signature_value.data.as_ref();
        algorithms
            .all
            .iter()
            .any(|one| key.verify_signature(*one, list.tbs_cert_list.as_ref(), signature).is_ok())
    })
}
