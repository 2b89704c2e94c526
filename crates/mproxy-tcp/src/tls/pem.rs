//! Files to certificates, keys and CRLs.

use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;

use super::provider;

/// A certificate and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Chain, PEM, leaf first.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// An OCSP response of its CA (DER) to be stapled; without meaning where we are the client.
    pub ocsp: Option<PathBuf>,
}

/// Why nothing could be made of the files: which one, and what is wrong with it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MaterialError {
    /// It is not there, or not for us.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no PEM.
    #[error("{} is not PEM", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// It is PEM, but what is wanted is not in it.
    #[error("{} holds no {wanted}", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
        /// What is wanted.
        wanted: &'static str,
    },
    /// It is there, and cannot be used.
    #[error("{} cannot be used: {why}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The files are good one by one, but not together.
    #[error("TLS cannot be set up: {0}")]
    Together(String),
    /// The system has no roots that could be trusted.
    #[error("this system has no trusted roots{}", .0.as_deref().map(|why| format!(": {why}")).unwrap_or_default())]
    NoSystemRoots(Option<String>),
}

impl MaterialError {
    /// The file at fault, where it is one alone.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. }
            | Self::Pem { path, .. }
            | Self::Empty { path, .. }
            | Self::Unusable { path, .. } => Some(path),
            Self::Together(_) | Self::NoSystemRoots(_) => None,
        }
    }

    pub(super) fn unusable(path: &Path, why: impl ToString) -> Self {
        Self::Unusable { path: path.to_owned(), why: why.to_string() }
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, MaterialError> {
    std::fs::read(path).map_err(|source| MaterialError::Read { path: path.to_owned(), source })
}

/// All certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    sections(path, "certificate")
}

/// All CRLs of a file, at least one.
pub(super) fn crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, MaterialError> {
    sections(path, "certificate revocation list")
}

fn sections<T: PemObject>(path: &Path, wanted: &'static str) -> Result<Vec<T>, MaterialError> {
    let bytes = read(path)?;
    let sections: Result<Vec<T>, _> = T::pem_slice_iter(&bytes).collect();
    let sections = sections.map_err(|source| MaterialError::Pem { path: path.to_owned(), source })?;
    if sections.is_empty() {
        return Err(MaterialError::Empty { path: path.to_owned(), wanted });
    }
    Ok(sections)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, MaterialError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => MaterialError::Empty { path: path.to_owned(), wanted: "private key" },
        source => MaterialError::Pem { path: path.to_owned(), source },
    })
}

/// Trusted roots from a file.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, MaterialError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| MaterialError::unusable(path, error))?;
    }
    Ok(roots)
}

impl Identity {
    /// The files in which it lies.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.cert), Some(&self.key), self.ocsp.as_ref()].into_iter().flatten().map(PathBuf::as_path)
    }

    /// What is wrong with each file by itself, or else with all of them together.
    pub(super) fn faults(&self) -> Vec<MaterialError> {
        let alone = [certificates(&self.cert).err(), key(&self.key).err()];
        let alone: Vec<_> = alone.into_iter().flatten().collect();
        if alone.is_empty() { self.load().err().into_iter().collect() } else { alone }
    }

    /// Reads it; certificate and key have to belong together.
    pub(super) fn load(&self) -> Result<CertifiedKey, MaterialError> {
        let (chain, key) = (certificates(&self.cert)?, key(&self.key)?);
        let signer = provider().key_provider.load_private_key(key);
        let signer = signer.map_err(|error| MaterialError::unusable(&self.key, error))?;
        let mut certified = CertifiedKey::new(chain, signer);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let why = format!("it is not the key of {}", self.cert.display());
                return Err(MaterialError::unusable(&self.key, why));
            }
            Err(error) => return Err(MaterialError::unusable(&self.cert, error)),
        }
        if let Some(path) = &self.ocsp {
            let response = read(path)?;
            // OCSPResponse, DER: a SEQUENCE. Clients would refuse a staple that is none.
            if response.first() != Some(&0x30) {
                return Err(MaterialError::unusable(path, "it is no OCSP response in DER"));
            }
            certified.ocsp = Some(response);
        }
        Ok(certified)
    }
}
