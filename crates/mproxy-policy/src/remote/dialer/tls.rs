//! TLS towards a policy service. It lies below HTTP and above what watches a connection, which tonic's own does not: over
//! that a GOAWAY is seen by nobody.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::remote::endpoint::{RemoteTls, RemoteTlsError};

/// What is spoken over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HttpVersion {
    Http1,
    Http2,
}

impl HttpVersion {
    /// As it is offered and chosen in a handshake (RFC 7301; RFC 9113, 3.2).
    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// Does the handshakes with one endpoint.
#[derive(Clone)]
pub(in crate::remote) struct TlsDialer {
    version: HttpVersion,
    /// For the next connection; all clones share it.
    config: Arc<ArcSwap<ClientConfig>>,
    name: ServerName<'static>,
}

impl std::fmt::Debug for TlsDialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsDialer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl TlsDialer {
    pub(super) fn new(host: &str, tls: &RemoteTls, version: HttpVersion) -> Result<Self, RemoteTlsError> {
        let config = Arc::new(ArcSwap::new(client_config(tls, version)?));
        Ok(Self { version, config, name: ServerName::try_from(host.to_owned())? })
    }

    /// The same with other certificates and keys, for [`set`](Self::set).
    pub(in crate::remote) fn prepare(&self, tls: &RemoteTls) -> Result<Arc<ClientConfig>, RemoteTlsError> {
        client_config(tls, self.version)
    }

    /// From now on connections are made with this.
    pub(in crate::remote) fn set(&self, config: Arc<ClientConfig>) {
        self.config.store(config);
    }

    pub(super) async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let stream = TlsConnector::from(self.config.load_full()).connect(self.name.clone(), stream).await?;
        let chosen = stream.get_ref().1.alpn_protocol();
        // Who chooses nothing speaks what was spoken before there was a choice.
        let is_spoken = chosen.map_or(self.version == HttpVersion::Http1, |it| it == self.version.alpn());
        if !is_spoken {
            let error = match self.version {
                HttpVersion::Http1 => "the policy service did not choose HTTP/1.1 in the TLS handshake",
                HttpVersion::Http2 => "the policy service did not choose HTTP/2 in the TLS handshake",
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(stream)
    }
}

fn client_config(tls: &RemoteTls, version: HttpVersion) -> Result<Arc<ClientConfig>, RemoteTlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(tls)?);
    let mut config = match &tls.identity {
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(RemoteTlsError::Key)?;
            builder.with_client_auth_cert(certificates(chain)?, key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![version.alpn().to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, RemoteTlsError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(RemoteTlsError::Certificates)
}

fn roots(tls: &RemoteTls) -> Result<RootCertStore, RemoteTlsError> {
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        // Some old root among hundreds that cannot be used is no reason to trust none of them.
        Some(pem) => roots.add_parsable_certificates(certificates(pem)?),
        None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    };
    if roots.is_empty() && tls.ca.is_none() {
        return Err(RemoteTlsError::NoSystemRoots);
    }
    Ok(roots)
}
