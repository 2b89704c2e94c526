//! Where a policy service is and what it speaks, as it is written.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;
use rustls::pki_types::{InvalidDnsNameError, pem};

/// One address of the policy service: `http://host:port`, `https://host:port` or `unix:/path` for gRPC,
/// `http+json://host:port/prefix` or `https+json://host:port/prefix` for JSON.
///
/// ```
/// use mproxy_policy::Endpoint;
///
/// let endpoint: Endpoint = "http://127.0.0.1:50051".parse()?;
/// assert_eq!(endpoint.to_string(), "http://127.0.0.1:50051");
/// assert!("127.0.0.1:50051".parse::<Endpoint>().is_err());
/// # Ok::<(), mproxy_policy::remote::EndpointError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    url: Arc<str>,
    address: EndpointAddress,
    protocol: EndpointProtocol,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EndpointAddress {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

/// What is spoken there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EndpointProtocol {
    Grpc,
    /// A POST for each call, to a path below this URL, which has no slash at its end.
    Json {
        base: Arc<str>,
    },
}

/// Why a text is no [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy service {url:?}: {what}")]
pub struct EndpointError {
    url: String,
    what: &'static str,
}

impl Endpoint {
    pub(super) const fn address(&self) -> &EndpointAddress {
        &self.address
    }

    pub(super) const fn protocol(&self) -> &EndpointProtocol {
        &self.protocol
    }

    /// What requests of gRPC name as where they go, if that is a host.
    pub(super) fn origin(&self) -> Option<Uri> {
        match self.address {
            // It was read as one before.
            EndpointAddress::Tcp { .. } => self.url.parse().ok(),
            EndpointAddress::Unix(_) => None,
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, EndpointError> {
        let fault = |what| EndpointError { url: url.to_owned(), what };
        let (address, protocol) = match url.strip_prefix("unix:") {
            Some(path) => (EndpointAddress::Unix(socket_path(path).map_err(fault)?), EndpointProtocol::Grpc),
            None => tcp_address(url).map_err(fault)?,
        };
        Ok(Self { url: url.into(), address, protocol })
    }
}

fn socket_path(path: &str) -> Result<PathBuf, &'static str> {
    // `unix:/path` and `unix:///path` are the same.
    let path = path.strip_prefix("//").unwrap_or(path);
    if !Path::new(path).is_absolute() {
        return Err("a Unix socket is written unix:/path, with an absolute path");
    }
    Ok(path.into())
}

fn tcp_address(url: &str) -> Result<(EndpointAddress, EndpointProtocol), &'static str> {
    const FORM: &str = "write http://host:port, https://host:port, unix:/path, http+json://host:port/prefix \
                        or https+json://host:port/prefix";
    let uri: Uri = url.parse().map_err(|_| FORM)?;
    let (scheme, json, tls) = match uri.scheme_str().map(|scheme| (scheme, scheme.split_once('+'))) {
        Some(("http", _)) => ("http", false, false),
        Some(("https", _)) => ("https", false, true),
        Some((_, Some(("http", "json")))) => ("http", true, false),
        Some((_, Some(("https", "json")))) => ("https", true, true),
        Some(_) | None => return Err(FORM),
    };
    let authority = uri.authority().ok_or(FORM)?;
    // It would be logged with the URL, and is not sent.
    if authority.as_str().contains('@') {
        return Err("a user name or password has no place in this address");
    }
    let protocol = if json {
        if uri.query().is_some() {
            return Err("a query may not follow: the names of calls are put behind the path");
        }
        let base = format!("{scheme}://{authority}{}", uri.path().trim_end_matches('/'));
        EndpointProtocol::Json { base: base.into() }
    } else {
        if uri.path() != "/" || uri.query().is_some() || url.ends_with('/') {
            return Err("nothing may follow the port: gRPC has its own paths");
        }
        EndpointProtocol::Grpc
    };
    // A hook service has no port of its own; 80 or 443 would be a guess that fails far from here.
    let port = uri.port_u16().ok_or("the port is missing")?;
    // A bare IPv6 address is what the resolver takes.
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() {
        return Err("the host is missing");
    }
    Ok((EndpointAddress::Tcp { host, port, tls }, protocol))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// TLS towards the policy service. All of it PEM.
#[derive(Clone, Default)]
pub struct RemoteTls {
    /// Trusted roots; `None`: the system's.
    pub ca: Option<Vec<u8>>,
    /// The certificate chain and key that mproxy presents.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for RemoteTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteTls")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteTlsError {
    /// The trusted roots, or mproxy's own certificates, cannot be read.
    #[error("certificates cannot be read")]
    Certificates(#[source] pem::Error),
    /// mproxy's own key cannot be read.
    #[error("no private key can be read")]
    Key(#[source] pem::Error),
    /// The system has no trusted roots.
    #[error("the system has no trusted roots")]
    NoSystemRoots,
    /// No certificate can be for this host.
    #[error("no certificate can be for this host")]
    Host(#[from] InvalidDnsNameError),
    /// The parts do not go together.
    #[error("roots, certificate and key do not go together")]
    Together(#[from] rustls::Error),
}

/// A policy service cannot be spoken to as configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// TLS cannot be set up.
    #[error("policy service {url}: TLS cannot be set up")]
    Tls {
        /// The endpoint.
        url: String,
        /// Why.
        source: RemoteTlsError,
    },
    /// Events cannot be kept on disk.
    #[error("event spool {}: cannot be used", folder.display())]
    Spool {
        /// Where they were to be kept.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> EndpointAddress {
        url.parse::<Endpoint>().unwrap_or_else(|error| panic!("{error}")).address
    }

    #[test]
    fn three_kinds_of_address_are_read() {
        let tcp = |host: &str, port, tls| EndpointAddress::Tcp { host: host.to_owned(), port, tls };
        assert_eq!(address("http://hooks:50051"), tcp("hooks", 50051, false));
        assert_eq!(address("https://10.0.0.1:443"), tcp("10.0.0.1", 443, true));
        assert_eq!(address("http://[::1]:1"), tcp("::1", 1, false));
        assert_eq!(address("unix:/run/hooks.sock"), EndpointAddress::Unix("/run/hooks.sock".into()));
        assert_eq!(address("unix:///run/hooks.sock"), EndpointAddress::Unix("/run/hooks.sock".into()));
    }

    #[test]
    fn an_address_for_json_has_a_prefix_or_none() {
        for (url, base, tls) in [
            ("http+json://hooks:8000", "http://hooks:8000", false),
            ("http+json://hooks:8000/", "http://hooks:8000", false),
            ("https+json://10.0.0.1:443/v1/hooks/", "https://10.0.0.1:443/v1/hooks", true),
            ("http+json://[::1]:1/a", "http://[::1]:1/a", false),
        ] {
            let endpoint: Endpoint = url.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(endpoint.protocol, EndpointProtocol::Json { base: base.into() }, "{url}");
            assert!(matches!(endpoint.address, EndpointAddress::Tcp { tls: is, .. } if is == tls), "{url}");
            assert_eq!(endpoint.to_string(), url);
        }
    }

    #[test]
    fn what_is_no_address_is_told_with_the_text() {
        for (url, what) in [
            ("", "write http://"),
            ("hooks:50051", "write http://"),
            ("tcp://hooks:50051", "write http://"),
            ("http://hooks", "port is missing"),
            ("http://hooks:1/path", "follow the port"),
            ("http://hooks:1/?x", "follow the port"),
            ("http://me:secret@hooks:1", "user name or password"),
            ("unix:run/hooks.sock", "absolute path"),
            ("unix:", "absolute path"),
            ("json://hooks:1", "write http://"),
            ("http+xml://hooks:1", "write http://"),
            ("http+json://hooks/path", "port is missing"),
            ("http+json://hooks:1/path?x", "a query"),
            ("http+json://me:secret@hooks:1/", "user name or password"),
        ] {
            let error = url.parse::<Endpoint>().expect_err(url).to_string();
            assert!(error.contains(what) && error.contains(url), "{url}: {error}");
        }
    }
}
