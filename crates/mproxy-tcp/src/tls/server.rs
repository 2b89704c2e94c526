//! Towards clients.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};

use super::dates::Look;
use super::engine::TlsRole;
use super::facts::{HandshakeFacts, dns_names};
use super::pem::{Identity, MaterialError};
use super::reload::Material;
use super::trust::{self, Trust, WithoutCertificate};
use super::{HandshakeError, TlsStream, VERSIONS, provider, words};

/// What a listener shows and asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// At least one. The name that a client asks for picks among them; without one, and where none fits, it is the
    /// first.
    pub identities: Vec<Identity>,
    /// PEM: where set, a client is asked for a certificate that one of these signed. One that it shows has to be good.
    pub client_ca: Option<PathBuf>,
    /// What becomes of a client that is asked and shows none.
    pub without_certificate: WithoutCertificate,
    /// PEM: lists of client certificates that do not count any more. Where there are any, each CA of a client's chain
    /// (except for the root) needs one, and one that is out of date lets nobody in: a missing list is no clearance.
    pub crls: Vec<PathBuf>,
    /// Application protocols, the best first. A client that offers only others is refused; one that offers none is
    /// not.
    pub alpn: Vec<Vec<u8>>,
}

/// What MQTT clients offer: the registered name, and the one that makes AWS IoT listen on port 443.
#[must_use]
pub fn mqtt_alpn() -> Vec<Vec<u8>> {
    vec![b"mqtt".to_vec(), b"x-amzn-mqtt-ca".to_vec()]
}

impl Material for ServerTls {
    type Config = ServerConfig;

    fn files(&self) -> Vec<&Path> {
        let identities = self.identities.iter().flat_map(Identity::files);
        identities.chain(self.client_ca.iter().chain(&self.crls).map(PathBuf::as_path)).collect()
    }

    fn build(&self) -> Result<ServerConfig, MaterialError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|error| MaterialError::Together(error.to_string()))?;
        let builder = match &self.client_ca {
            Some(path) => builder.with_client_cert_verifier(self.verifier(path)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Certificates::load(&self.identities)?));
        config.alpn_protocols.clone_from(&self.alpn);
        // Nothing is kept here for sessions to come: a client that comes again brings a ticket, or starts anew.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if self.client_ca.is_none() {
            // A ticket of which nothing is kept here: a fleet that comes back at once is cheap (ADR 0014).
            config.ticketer = rustls::crypto::ring::Ticketer::new()
                .map_err(|error| MaterialError::Together(error.to_string()))?;
            config.send_tls13_tickets = 1;
        } else {
            // A ticket would stand for a certificate that nobody looks at again, neither its end nor the CRLs. Nor has a
            // client one that has shown none: rustls does not ask for certificates anew when it resumes.
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }

    fn faults(&self) -> Vec<MaterialError> {
        let mut faults: Vec<_> = self.identities.iter().flat_map(Identity::faults).collect();
        faults.extend(self.client_ca.iter().filter_map(|path| Trust::read(path, &[]).err()));
        faults.extend(self.crls.iter().filter_map(|path| trust::lists(slice::from_ref(path)).err()));
        if faults.is_empty() { self.build().err().into_iter().collect() } else { faults }
    }

    fn look(&self) -> Result<Look, MaterialError> {
        let mut look = Look::default();
        self.identities.iter().try_for_each(|identity| look.at_identity(identity))?;
        if self.client_ca.is_some() {
            look.at_trust(self.client_ca.as_ref(), &self.crls)?;
        }
        Ok(look)
    }
}

impl ServerTls {
    fn verifier(&self, path: &Path) -> Result<Arc<dyn ClientCertVerifier>, MaterialError> {
        let lists = trust::lists(&self.crls)?;
        Trust::read(path, &lists)?.of_clients(lists, self.without_certificate)
    }
}

thread_local! {
    /// The name in the hello that was resolved last. rustls shows it to the resolver and to nobody else here, and
    /// resolves within one call of ours: whoever made the call takes it out before anybody else can come.
    static ASKED: Cell<Option<String>> = const { Cell::new(None) };

    /// Why the hello that was resolved last got no certificate; taken out in the same way.
    static UNSERVED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Certificates by name.
#[derive(Debug)]
struct Certificates(Vec<Named>);

#[derive(Debug)]
struct Named {
    /// Lower case; `*.` in front stands for exactly one label.
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

impl Certificates {
    fn load(identities: &[Identity]) -> Result<Self, MaterialError> {
        let mut all = Vec::new();
        for identity in identities {
            let key = identity.load()?;
            let leaf = key.cert.first().map_or(&[][..], |leaf| leaf);
            // One whose names cannot be read is still shown to whoever asks for no other.
            let names = dns_names(leaf).unwrap_or_default();
            all.push(Named { names, key: Arc::new(key) });
        }
        if all.is_empty() {
            return Err(MaterialError::Together("there is no certificate to show".to_owned()));
        }
        Ok(Self(all))
    }
}

impl Named {
    fn is_for(&self, asked: &str) -> bool {
        let behind_first = asked.split_once('.').map(|(_, rest)| rest);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(domain) => behind_first.is_some_and(|rest| rest.eq_ignore_ascii_case(domain)),
            None => name.eq_ignore_ascii_case(asked),
        })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Of several for one name (RSA and ECDSA), the first that the client can verify.
        let usable = |named: &&Named| named.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let asked = hello.server_name();
        ASKED.set(asked.map(str::to_owned));
        let fitting = asked.and_then(|name| self.0.iter().filter(|named| named.is_for(name)).find(usable));
        let chosen = fitting.or_else(|| self.0.iter().find(usable));
        UNSERVED.set(chosen.is_none().then(|| why_unserved(&hello)));
        chosen.map(|named| Arc::clone(&named.key))
    }
}

/// What a client lacks for which no certificate is usable: rustls has left out the signatures that none of its cipher
/// suites can go with.
fn why_unserved(hello: &ClientHello<'_>) -> &'static str {
    match hello.signature_schemes() {
        [] => words::NO_CIPHER_SUITE,
        _ => "it takes no signature that the key of a certificate of ours can make",
    }
}

/// Does the server's part of a handshake, and tells what came out about the client.
///
/// How long it may take is the caller's: dropping the future drops the connection, and nothing else was touched. So is
/// how much it may hold: `room` is asked with the bytes of messages that are not whole, each time that more has come.
///
/// # Errors
/// When the client cannot or may not (it was sent the alert that says why), or there is no room for what it sends.
pub async fn accept<S>(
    stream: S,
    config: Arc<ServerConfig>,
    mut room: impl FnMut(usize) -> bool,
) -> Result<(TlsStream<S>, HandshakeFacts), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connection = UnbufferedServerConnection::new(config).map_err(HandshakeError::failed)?;
    let (mut sni, mut unserved) = (None, None);
    // Should anything be left of an earlier hello, it must not be told of this client.
    ASKED.take();
    UNSERVED.take();
    let note = |held| {
        if let Some(asked) = ASKED.take() {
            sni = Some(asked);
        }
        unserved = UNSERVED.take().or(unserved);
        room(held)
    };
    let shaken = TlsStream::handshake(stream, TlsRole::Server(connection), note).await;
    let stream = match (shaken, unserved) {
        (Err(HandshakeError::Failed(_)), Some(why)) => return Err(HandshakeError::Incompatible(why)),
        (shaken, _) => shaken?,
    };
    let facts = HandshakeFacts::of(stream.state(), sni.as_deref()).map_err(HandshakeError::Unreadable)?;
    Ok((stream, facts))
}
