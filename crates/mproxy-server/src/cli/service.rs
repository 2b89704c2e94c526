//! A hook service as the tools for hook services are told of it: its address and its files for TLS.

use std::path::{Path, PathBuf};

use clap::Args;
use mproxy_policy::remote::{Endpoint, RemoteTls};
use mproxy_tcp::tls::read_text;

/// The files for a service over TLS.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceTls {
    /// CAs that the service's certificate is checked with (PEM); without it the system's
    #[arg(long, value_name = "FILE", env = "MPROXY_POLICY_CA_CERTS")]
    ca_certs: Option<PathBuf>,
    /// Certificate to show to the service (PEM)
    #[arg(long, value_name = "FILE", env = "MPROXY_POLICY_CERT", requires = "key")]
    cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, value_name = "FILE", env = "MPROXY_POLICY_KEY", requires = "cert")]
    key: Option<PathBuf>,
}

impl ServiceTls {
    /// # Errors
    /// A file cannot be read.
    pub(super) fn read(&self) -> anyhow::Result<RemoteTls> {
        let read = |path: &Path| read_text(path);
        Ok(RemoteTls {
            ca: self.ca_certs.as_deref().map(read).transpose()?,
            identity: match (&self.cert, &self.key) {
                (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
                _ => None,
            },
        })
    }
}

pub(super) fn endpoint(url: &str) -> Result<Endpoint, String> {
    url.parse().map_err(|error: mproxy_policy::remote::EndpointError| error.to_string())
}
