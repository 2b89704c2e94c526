//! Towards the broker.

use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};

use super::dates::Look;
use super::engine::TlsRole;
use super::facts::first_name;
use super::pem::{self, Identity, MaterialError};
use super::reload::Material;
use super::signatures::{Signatures, checks_signatures};
use super::trust::{self, Trust};
use super::{HandshakeError, TlsStream, VERSIONS, provider};

/// Whom we believe, and what we show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// PEM: trusted roots; the system's where absent.
    pub roots: Option<PathBuf>,
    /// Our own certificate, where we are asked for one.
    pub identity: Option<Identity>,
    /// PEM: lists of server certificates that do not count any more; as strict as those for clients.
    pub crls: Vec<PathBuf>,
    /// Application protocols that are offered.
    pub alpn: Vec<Vec<u8>>,
    /// How far the other end is looked at.
    pub verification: Verification,
}

/// How far a server is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// Its certificate has to be valid, for its name, and signed by somebody we trust.
    #[default]
    Full,
    /// Whoever answers is believed, and may read and change everything.
    Nobody,
}

impl Verification {
    /// What has to be written to get [`Verification::Nobody`]. Nobody types it by accident.
    pub const NOBODY: &str = "i-know-that-anybody-can-pretend-to-be-the-broker";

    /// `full`, or [`Self::NOBODY`]; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "full" => Some(Self::Full),
            Self::NOBODY => Some(Self::Nobody),
            _ => None,
        }
    }
}

impl Material for ClientTls {
    type Config = ClientConfig;

    fn files(&self) -> Vec<&Path> {
        let identity = self.identity.iter().flat_map(Identity::files);
        identity.chain(self.roots.iter().chain(&self.crls).map(PathBuf::as_path)).collect()
    }

    fn build(&self) -> Result<ClientConfig, MaterialError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|error| MaterialError::Together(error.to_string()))?;
        let builder = match self.verification {
            // That is rustls's word for every verifier but its own. This one is webpki's, with pins beside it (ADR
            // 0014).
            Verification::Full => builder.dangerous().with_custom_certificate_verifier(self.verifier()?),
            Verification::Nobody => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(Signatures::new())))
            }
        };
        let mut config = match &self.identity {
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.load()?)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        Ok(config)
    }

    fn faults(&self) -> Vec<MaterialError> {
        let mut faults: Vec<_> = self.identity.iter().flat_map(Identity::faults).collect();
        faults.extend(self.roots.iter().filter_map(|path| Trust::read(path, &[]).err()));
        faults.extend(self.crls.iter().filter_map(|path| trust::lists(slice::from_ref(path)).err()));
        // Together only where each is good by itself, or one fault would be told twice.
        if faults.is_empty() { self.build().err().into_iter().collect() } else { faults }
    }

    fn look(&self) -> Result<Look, MaterialError> {
        let mut look = Look::default();
        self.identity.iter().try_for_each(|identity| look.at_identity(identity))?;
        // Who believes anybody has no CA whose dates could matter.
        if self.verification == Verification::Full {
            look.at_trust(self.roots.as_ref(), &self.crls)?;
        }
        Ok(look)
    }
}

impl ClientTls {
    fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, MaterialError> {
        let lists = trust::lists(&self.crls)?;
        let trust = match &self.roots {
            Some(path) => Trust::read(path, &lists)?,
            None => Trust::system(system_roots()?),
        };
        trust.of_servers(lists)
    }
}

/// A name or address that the certificate in this file is for, the first of a chain; `None` where it has none. For whoever
/// expects this very certificate, and does not know what it is called.
///
/// # Errors
/// The file has no certificate that can be read.
pub fn name_in_certificate(path: &Path) -> Result<Option<String>, MaterialError> {
    let chain = pem::certificates(path)?;
    let name = chain.first().map(|leaf| first_name(leaf)).transpose();
    name.map(Option::flatten).map_err(|why| MaterialError::unusable(path, why))
}

fn system_roots() -> Result<RootCertStore, MaterialError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some old root among hundreds that cannot be read is no reason to trust none of them.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(MaterialError::NoSystemRoots(found.errors.first().map(ToString::to_string)));
    }
    Ok(roots)
}

/// Believes anybody, and looks at nothing of a certificate but its key: the signatures of the handshake have to be right.
#[derive(Debug)]
struct Anybody(Signatures);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    checks_signatures!(0);
}

/// Does the client's part of a handshake with a server that has to be called `name`: a host name or an address.
///
/// How long it may take is the caller's: dropping the future drops the connection, and nothing else was touched.
///
/// # Errors
/// When the server is not who it should be, does not want us, or goes.
pub async fn connect<S>(
    stream: S,
    config: Arc<ClientConfig>,
    name: &str,
) -> Result<TlsStream<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let server = server_name(name).ok_or_else(|| HandshakeError::ServerName(name.to_owned()))?;
    let connection = UnbufferedClientConnection::new(config, server).map_err(HandshakeError::failed)?;
    // Without a budget, which is for strangers: whoever configured the broker has chosen it.
    TlsStream::handshake(stream, TlsRole::Client(connection), |_| true).await
}

/// Whether a certificate could be for this: a host name or an address.
#[must_use]
pub fn is_server_name(name: &str) -> bool {
    server_name(name).is_some()
}

/// An IPv6 address may have its brackets; the interface behind one (`fe80::1%eth0`) is nobody's name.
fn server_name(name: &str) -> Option<ServerName<'static>> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    let bare = bare.split_once('%').map_or(bare, |(address, _)| address);
    ServerName::try_from(bare.to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_believed_by_accident() {
        assert_eq!(Verification::parse("full"), Some(Verification::Full));
        assert_eq!(Verification::parse(Verification::NOBODY), Some(Verification::Nobody));
        for text in ["", "none", "off", "false", "no", "insecure", "Full"] {
            assert_eq!(Verification::parse(text), None);
        }
    }
}
