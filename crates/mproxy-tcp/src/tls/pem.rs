//! Files to certificates, keys and CRLs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;

use super::{key, provider, signatures};

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
    /// What is wanted is not in it.
    #[error("{} contains no {wanted}{found}", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
        /// What is wanted.
        wanted: &'static str,
        /// What is there instead, and what to do.
        found: PemItem,
    },
    /// A key that nobody can read without a passphrase.
    #[error(
        "{} contains an encrypted private key, which mproxy cannot use: decrypt it with `openssl pkey -in {} \
         -out NEW`",
        path.display(),
        path.display()
    )]
    Encrypted {
        /// Which file.
        path: PathBuf,
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
            | Self::Encrypted { path }
            | Self::Unusable { path, .. } => Some(path),
            Self::Together(_) | Self::NoSystemRoots(_) => None,
        }
    }

    pub(super) fn unusable(path: &Path, why: impl ToString) -> Self {
        Self::Unusable { path: path.to_owned(), why: why.to_string() }
    }
}

/// What a file holds instead of what was looked for in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PemItem {
    /// Nothing that looks like PEM.
    Nothing,
    /// It is empty.
    Empty,
    /// The binary form of what PEM carries.
    Der,
    /// Certificates and keys in the binary form of Windows and Java.
    Pkcs12,
    /// Text in 16-bit characters.
    Utf16,
    /// PEM whose lines do not begin where the line begins.
    Indented,
    /// Other sections of PEM: their labels.
    Sections(Vec<String>),
}

impl fmt::Display for PemItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str(" in PEM (`-----BEGIN …`)"),
            Self::Empty => f.write_str(": it is empty"),
            Self::Der => f.write_str(
                " in PEM: it is DER, which `openssl x509` and its like turn into PEM with `-inform DER`",
            ),
            Self::Pkcs12 => f.write_str(
                " in PEM: it is PKCS#12 (.p12, .pfx), which `openssl pkcs12 -nodes -in … -out …` takes apart",
            ),
            Self::Utf16 => f.write_str(": it is text in UTF-16; save it as ASCII or UTF-8"),
            Self::Indented => {
                f.write_str(": its lines are indented, and PEM begins at the beginning of a line")
            }
            Self::Sections(labels) => {
                write!(f, ", only {}", labels.join(", "))?;
                f.write_str(labels.iter().find_map(|label| advice(label)).unwrap_or_default())
            }
        }
    }
}

fn advice(label: &str) -> Option<&'static str> {
    match label {
        "TRUSTED CERTIFICATE" => Some(": `openssl x509 -in … -out …` makes a plain certificate of it"),
        "OPENSSH PRIVATE KEY" => Some(": `ssh-keygen -p -m PKCS8 -f …` turns it into PEM"),
        "PUBLIC KEY" => Some(": the private key is needed"),
        "PKCS7" => Some(": `openssl pkcs7 -print_certs` takes it apart"),
        _ => None,
    }
}

/// Looks at a file in which something was not found.
fn found(bytes: &[u8]) -> PemItem {
    match bytes {
        [] => return PemItem::Empty,
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => return PemItem::Utf16,
        // PFX: a SEQUENCE that begins with version 3.
        [0x30, 0x82, _, _, 0x02, 0x01, 0x03, ..] => return PemItem::Pkcs12,
        [0x30, 0x80..=0x84, ..] => return PemItem::Der,
        _ => {}
    }
    let lines = || bytes.split(|byte| matches!(byte, b'\n' | b'\r'));
    let label = |line: &[u8]| {
        let label = line.strip_prefix(b"-----BEGIN ")?;
        let label = label.split(|byte| *byte == b'-').next().unwrap_or_default();
        Some(String::from_utf8_lossy(&label[..label.len().min(40)]).into_owned())
    };
    let mut labels: Vec<String> = Vec::new();
    for label in lines().filter_map(label) {
        // They become part of an error text, whatever the file is.
        if labels.len() < 4 && !labels.contains(&label) {
            labels.push(label);
        }
    }
    let is_indented = || lines().any(|line| line.trim_ascii_start().starts_with(b"-----BEGIN "));
    match labels.is_empty() {
        false => PemItem::Sections(labels),
        true if is_indented() => PemItem::Indented,
        true => PemItem::Nothing,
    }
}

/// Bytes of the largest file that is read: lists of revoked certificates are the largest there are, of some MiB.
const LARGEST: u64 = 64 << 20;

/// A file, if it is one: opening a pipe waits for who writes into it, perhaps for ever, and some devices have no end.
///
/// # Errors
/// Where it cannot be read, is no regular file, or has more than 64 MiB.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    // A folder passes, and reading it says in the system's own words what it is.
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    if metadata.is_file() && metadata.len() > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 64 MiB"));
    }
    std::fs::read(path)
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, MaterialError> {
    read_regular(path).map_err(|source| MaterialError::Read { path: path.to_owned(), source })
}

/// A file of PEM, without the mark that Windows' editors put in front.
///
/// # Errors
/// Where it cannot be read.
pub fn read_text(path: &Path) -> Result<Vec<u8>, MaterialError> {
    let mut bytes = read(path)?;
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        bytes.drain(..3);
    }
    Ok(bytes)
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
    let bytes = read_text(path)?;
    // The lines of an encrypted key are no base64; it may stand beside what is wanted.
    let sections: Result<Vec<T>, _> = T::pem_slice_iter(&without_keys(&bytes)).collect();
    let sections = sections.map_err(|source| MaterialError::Pem { path: path.to_owned(), source })?;
    if sections.is_empty() {
        return Err(MaterialError::Empty { path: path.to_owned(), wanted, found: found(&bytes) });
    }
    Ok(sections)
}

/// A file without its private keys.
fn without_keys(bytes: &[u8]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(bytes.len());
    let mut inside = false;
    for line in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        let marks =
            |mark: &[u8]| line.starts_with(mark) && line.windows(11).any(|word| word == b"PRIVATE KEY");
        inside |= marks(b"-----BEGIN ");
        if !inside {
            rest.extend_from_slice(line);
        }
        inside &= !marks(b"-----END ");
    }
    rest
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let bytes = read_text(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        // Whatever the reader says of it: to it such a key is bad base64, or nothing at all.
        _ if is_encrypted(&bytes) => MaterialError::Encrypted { path: path.to_owned() },
        pem::Error::NoItemsFound => {
            MaterialError::Empty { path: path.to_owned(), wanted: "private key", found: found(&bytes) }
        }
        source => MaterialError::Pem { path: path.to_owned(), source },
    })
}

/// In the way of PKCS#8, or of OpenSSL's older one (RFC 1421, 4.6.1.1).
fn is_encrypted(bytes: &[u8]) -> bool {
    bytes.split(|byte| matches!(byte, b'\n' | b'\r')).any(|line| {
        line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY") || line.starts_with(b"Proc-Type: 4,ENCRYPTED")
    })
}

impl Identity {
    /// The files in which it lies.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.cert), Some(&self.key), self.ocsp.as_ref()].into_iter().flatten().map(PathBuf::as_path)
    }

    /// What is wrong with each file by itself, or else with all of them together.
    pub(super) fn faults(&self) -> Vec<MaterialError> {
        let alone = [certificates(&self.cert).err(), private_key(&self.key).err()];
        let alone: Vec<_> = alone.into_iter().flatten().collect();
        if alone.is_empty() { self.load().err().into_iter().collect() } else { alone }
    }

    /// Reads it; certificate and key have to belong together.
    pub(super) fn load(&self) -> Result<CertifiedKey, MaterialError> {
        let (chain, key) = (certificates(&self.cert)?, private_key(&self.key)?);
        // Of a certificate that is ours only the key counts: whether it is any good is for whoever is shown it to say.
        let own = chain.first().map(signatures::public_key).transpose();
        let own = own.map_err(|why| MaterialError::unusable(&self.cert, why))?;
        let refusal = key::refusal(&key);
        let signer = provider().key_provider.load_private_key(key);
        let signer = signer.map_err(|_| MaterialError::unusable(&self.key, refusal))?;
        if signer.public_key().is_some_and(|public| own.is_some_and(|own| own != public)) {
            let why = format!("it is not the key of {}", self.cert.display());
            return Err(MaterialError::unusable(&self.key, why));
        }
        let mut certified = CertifiedKey::new(chain, signer);
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
