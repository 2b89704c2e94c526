//! Why a certificate cannot be verified, where rustls has no words for it.

use std::fmt;
use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError};

use super::key;

/// What rustls has no words for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unverifiable {
    /// X.509 v1, and not pinned.
    Version1,
    /// A certificate of a CA in the place of one's own, and not pinned.
    OfCa,
    /// Its key is of no use.
    Key(key::KeyKind),
}

impl fmt::Display for Unverifiable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version1 => f.write_str(
                "the certificate of the peer is X.509 version 1, which can only be verified where it stands in the CA \
                 file itself: add it there, or issue it as version 3 (`openssl x509 -req -extfile` with a \
                 subjectAltName)",
            ),
            Self::OfCa => f.write_str(
                "the certificate of the peer is one of a CA (CA:TRUE), which only proves who it is where it stands in \
                 the CA file itself: add it there, or issue one with basicConstraints=CA:FALSE",
            ),
            Self::Key(kind) => {
                write!(f, "the certificate of the peer has {kind}, and what can be verified is {}", key::THEIRS)
            }
        }
    }
}

impl std::error::Error for Unverifiable {}

impl From<Unverifiable> for Error {
    fn from(why: Unverifiable) -> Self {
        CertificateError::Other(OtherError(Arc::new(why))).into()
    }
}
