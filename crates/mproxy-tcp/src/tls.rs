//! TLS 1.2 and 1.3 on either side, with rustls and ring. Certificates, keys, CAs and CRLs are PEM files that can be
//! read anew under running connections. Whether the client may come in is decided by whoever reads its [`HandshakeFacts`].
//!
//! | room | holds |
//! |---|---|
//! | [`server`] | towards clients: certificates by SNI, client certificates, ALPN, OCSP staple |
//! | [`client`] | towards the broker: roots, our certificate, the name that has to be its |
//! | [`reload`] | the configuration in force, and what becomes of a broken file |
//! | [`facts`] | what a handshake told about the client |
//! | [`stream`] | the encrypted byte stream |
//! | `engine` | rustls, between ciphertext and plaintext |
//! | `pem` | files to certificates, keys and CRLs, or which file is wrong and why |
//! | `signatures` | whether the peer holds the key of its certificate |
//! | `trust` | whom a file of CAs makes us believe |
//! | [`dates`] | until when files hold |
//! | `key` | which kinds of keys can be used |
//! | `unverifiable` | why a certificate cannot be verified, where rustls does not say |
//! | `words` | what went wrong, and what to do |

pub mod client;
pub mod dates;
mod engine;
pub mod facts;
mod key;
mod pem;
pub mod reload;
pub mod server;
mod signatures;
pub mod stream;
mod trust;
mod unverifiable;
mod words;

pub use client::{ClientTls, Verification, connect, name_in_certificate};
pub use dates::{Dated, Look, Remark};
pub use facts::{HandshakeFacts, TlsProtection};
pub use pem::{Identity, MaterialError, PemItem, read_regular, read_text};
pub use reload::{Material, Reloadable};
pub use server::{ServerTls, accept};
pub use stream::TlsStream;
pub use trust::WithoutCertificate;
pub use words::Explained;

use std::io;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use thiserror::Error;

/// The one provider; nothing is left to a process-wide default.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Both versions that are worth speaking.
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// Why a handshake came to nothing. On our listeners it is the client's doing, towards the broker the broker's, unless
/// the text says otherwise.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// What came first is no TLS: somebody took one port for another.
    #[error("expected TLS{0}")]
    NotTls(&'static str),
    /// The peer left in the middle.
    #[error("the connection ended during the TLS handshake; maybe the peer does not expect TLS")]
    Ended,
    /// The two could not agree, or one did not believe the other.
    #[error("the TLS handshake failed")]
    Failed(#[source] Explained),
    /// The two have nothing in common that a handshake needs.
    #[error("the TLS of the peer is incompatible: {0}")]
    Incompatible(&'static str),
    /// The peer's certificate was verified, but cannot be read.
    #[error("the certificate of the peer cannot be read: {0}")]
    Unreadable(&'static str),
    /// What the peer sends is more than there is room for.
    #[error("the TLS handshake is too large for the memory that is free for it")]
    NoRoom,
    /// What the broker is called is neither a host name nor an address. The configuration's doing.
    #[error("{0:?} is neither a host name nor an address")]
    ServerName(String),
    /// The connection broke.
    #[error("the connection broke during the TLS handshake")]
    Io(#[source] io::Error),
}

/// Whether reading failed because the peer has refused the connection: in TLS 1.3 it may do so after the handshake.
#[must_use]
pub fn is_refusal(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::AlertReceived(_)))
}

impl HandshakeError {
    fn failed(error: rustls::Error) -> Self {
        Self::Failed(Explained(error))
    }

    fn of(error: rustls::Error, first: &[u8]) -> Self {
        use rustls::{ContentType, Error, InvalidMessage};
        match error {
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            )
            | Error::InappropriateMessage { got_type: ContentType::ApplicationData, .. } => {
                Self::NotTls(words::instead_of_tls(first))
            }
            error => Self::failed(error),
        }
    }

    /// A short name for counters: of the cases that somebody who runs this wants to tell apart.
    #[must_use]
    pub fn label(&self) -> &'static str {
        use rustls::Error;
        match self {
            Self::NotTls(_) => "not_tls",
            Self::Ended => "ended",
            Self::Unreadable(_) => "unreadable_certificate",
            Self::NoRoom => "no_room",
            Self::ServerName(_) => "server_name",
            Self::Io(_) => "broken",
            Self::Incompatible(_) => "incompatible",
            Self::Failed(Explained(error)) => match error {
                Error::NoCertificatesPresented => "no_certificate",
                Error::InvalidCertificate(why) => words::label(why),
                Error::InvalidCertRevocationList(_) => "bad_crl",
                Error::AlertReceived(_) => "refused_by_peer",
                Error::NoApplicationProtocol => "no_alpn",
                Error::PeerIncompatible(_) => "incompatible",
                _ => "failed",
            },
        }
    }
}
