//! What the settings of the admin port come to together: its TLS, and what is wrong with it.

use mproxy_tcp::tls::{Identity, ServerTls, WithoutCertificate};

use super::reader::{SettingReader, spoken};
use super::settings::SettingPlace;
use super::{AdminClientSettings, AdminSettings};

/// Application protocols of the admin port.
const ALPN: &[u8] = b"http/1.1";

/// What the admin port shows and asks for; `None`: it has no TLS.
#[must_use]
pub fn tls(admin: &AdminSettings) -> Option<ServerTls> {
    let (cert, key) = admin.server_cert.clone().zip(admin.server_key.clone())?;
    Some(ServerTls {
        identities: vec![Identity { cert, key, ocsp: None }],
        client_ca: admin.ca_certs.clone(),
        without_certificate: WithoutCertificate::Refuse,
        crls: admin.crls.clone().unwrap_or_default(),
        alpn: vec![ALPN.to_vec()],
    })
}

/// The admin port as it is written.
pub(super) fn read(reader: &mut SettingReader<'_>) -> AdminSettings {
    let admin = AdminSettings::read(reader, SettingPlace::Process);
    let has_certificate = reader.identity("admin.tls.server_cert", "admin.tls.server_key").is_some();
    let is_written = |reader: &SettingReader<'_>, key| reader.written.get(key).is_some();
    let (ca_certs, crls) = ("admin.tls.ca_certs", "admin.tls.crls");
    // Whoever names a CA means that callers need a certificate: without TLS nobody would ask them for one.
    if is_written(reader, ca_certs) && !has_certificate && !is_written(reader, "admin.tls.server_cert") {
        reader.fault(ca_certs, format!("needs {}, too", spoken("admin.tls.server_cert")));
    }
    if is_written(reader, crls) && !is_written(reader, ca_certs) {
        reader.fault(crls, format!("needs {}, too", spoken(ca_certs)));
    }
    let loopback =
        admin.host == "localhost" || admin.host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    if admin.token.is_none() && !loopback {
        let who = if admin.ca_certs.is_some() { "whoever has a client certificate" } else { "everybody" };
        reader.warn(
            "admin.host",
            format!(
                "without MPROXY_ADMIN_TOKEN only this machine may use the admin API; health and metrics are open to {who}"
            ),
        );
    }
    admin
}

/// How commands reach it.
pub(super) fn read_client(reader: &mut SettingReader<'_>, admin: &AdminSettings) -> AdminClientSettings {
    let client = AdminClientSettings::read(reader, SettingPlace::Process);
    let _ = reader.identity("admin.client.cert", "admin.client.key");
    let is_tls = client.url.as_ref().map_or_else(|| tls(admin).is_some(), |url| url.is_tls);
    // One that cannot be read has been told of.
    let is_clear = client.url.is_some() || reader.written.get("admin.client.url").is_none();
    for key in ["admin.client.ca_certs", "admin.client.cert", "admin.client.key"] {
        if is_clear && !is_tls && reader.written.get(key).is_some() {
            reader.fault(key, format!("needs an https:// URL in {}", spoken("admin.client.url")));
        }
    }
    client
}
