//! Where the admin API is that a command asks, and whom it has to be there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use mproxy_tcp::tls::{ClientTls, Identity, MaterialError, Reloadable, name_in_certificate};

use super::AdminCallError;
use crate::config::{AdminAddress, Config, Secret, admin, authority};
use crate::door::Causes;

/// Where to ask, and how.
#[derive(Clone)]
pub(super) struct AdminPlace {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) token: Option<Secret>,
    pub(super) tls: Option<PlaceTls>,
}

/// TLS towards it.
#[derive(Clone)]
pub(super) struct PlaceTls {
    pub(super) client: Arc<Reloadable<ClientTls>>,
    /// What its certificate has to be for.
    pub(super) name: String,
}

impl AdminPlace {
    /// The one that the settings name: by its URL, or as they say where mproxy serves it.
    pub(super) fn of(config: Config) -> Result<Self, AdminCallError> {
        let tls = tls(&config).map_err(|error| AdminCallError::File(Causes(&error).to_string()))?;
        let token = config.admin.token;
        match config.admin_client.url {
            Some(AdminAddress { host, port, .. }) => Ok(Self { host, port, token, tls }),
            None if config.admin.port == 0 => Err(AdminCallError::NoPort),
            None => Ok(Self { host: config.admin.host, port: config.admin.port, token, tls }),
        }
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        authority(&self.host, self.port)
    }

    /// The host to reach for whoever listens at this one.
    pub(super) fn reachable(&self) -> String {
        match self.host.parse() {
            Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Ipv4Addr::LOCALHOST.to_string(),
            Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Ipv6Addr::LOCALHOST.to_string(),
            Ok(_) | Err(_) => self.host.clone(),
        }
    }
}

fn tls(config: &Config) -> Result<Option<PlaceTls>, MaterialError> {
    let client = &config.admin_client;
    let own = admin::tls(&config.admin).and(config.admin.server_cert.as_ref());
    let (roots, name) = match (&client.url, own) {
        (Some(url), _) if url.is_tls => (client.ca_certs.clone(), url.host.clone()),
        // The mproxy whose settings these are shows this very certificate, whatever address it is reached at.
        (None, Some(certificate)) => {
            let name = name_in_certificate(certificate)?.unwrap_or_else(|| config.admin.host.clone());
            (client.ca_certs.clone().or_else(|| Some(certificate.clone())), name)
        }
        _ => return Ok(None),
    };
    let identity = client.cert.clone().zip(client.key.clone());
    let identity = identity.map(|(cert, key)| Identity { cert, key, ocsp: None });
    let tls = ClientTls { roots, identity, ..ClientTls::default() };
    Ok(Some(PlaceTls { client: Arc::new(Reloadable::new(tls)?), name }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_here() {
        let reachable =
            |host: &str| AdminPlace { host: host.to_owned(), port: 1, token: None, tls: None }.reachable();
        assert_eq!(reachable("0.0.0.0"), "127.0.0.1");
        assert_eq!(reachable("::"), "::1");
        assert_eq!(reachable("mproxy.internal"), "mproxy.internal");
    }
}
