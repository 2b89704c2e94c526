//! Where something listens or is reached: ports, hosts, paths and URLs.

use std::net::{IpAddr, Ipv6Addr};

use hyper::http::uri::PathAndQuery;
use mproxy_policy::Endpoint;

use super::quoted;

/// Where Kubernetes sets addresses, `tcp://10.0.0.1:1883`.
pub(in crate::config) fn is_service_link(text: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme))
}

fn port(text: &str) -> Result<u16, String> {
    if is_service_link(text) {
        return Err(format!(
            "{} is not a port but a service address, which Kubernetes sets in every pod for a service of this \
             name: set `enableServiceLinks: false` in the pod spec",
            quoted(text)
        ));
    }
    text.parse()
        .map_err(|_| format!("{} is not a port: expected a whole number from 0 to 65535", quoted(text)))
}

/// A port to bind. 0 takes any free one.
pub(in crate::config) fn bind_port(text: &str) -> Result<u16, String> {
    port(text)
}

/// The same, or `off`, which opens none.
pub(in crate::config) fn port_or_off(text: &str) -> Result<Option<u16>, String> {
    if text.eq_ignore_ascii_case("off") { Ok(None) } else { port(text).map(Some) }
}

/// A port to connect to.
pub(in crate::config) fn target_port(text: &str) -> Result<u16, String> {
    match port(text)? {
        0 => Err("port 0 cannot be connected to: expected a whole number from 1 to 65535".to_owned()),
        port => Ok(port),
    }
}

/// An address or host name to bind or to connect to; an IPv6 address may have its brackets. One of a single link has to
/// say of which, `fe80::1%eth0`: without that the system knows no way to it.
pub(in crate::config) fn host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let (address, zone) = match bare.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (bare, None),
    };
    let is_of_link = address.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_unicast_link_local());
    match zone {
        Some(zone) if is_of_link && is_interface(zone) => Ok(bare.to_owned()),
        None if is_of_link => {
            Err(format!("{} is link-local and needs its interface, for example {address}%eth0", quoted(text)))
        }
        Some(_) if address.parse::<IpAddr>().is_ok() => Err(format!(
            "{} names an interface, which only a link-local IPv6 address can have, for example fe80::1%eth0",
            quoted(text)
        )),
        Some(_) | None => name(text),
    }
}

/// What an interface may be called: Linux allows 15 bytes.
fn is_interface(zone: &str) -> bool {
    (1..=15).contains(&zone.len())
        && zone.bytes().all(|byte| byte.is_ascii_graphic() && !b"/%]".contains(&byte))
}

/// An address or host name as a certificate or a URL has it, without an interface.
pub(in crate::config) fn name(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    // DNS can hold no longer name.
    let is_name = !bare.is_empty() && bare.len() <= 253 && bare.chars().all(is_name_char);
    if bare.parse::<IpAddr>().is_ok() || (is_name && bare == text) {
        return Ok(bare.to_owned());
    }
    Err(format!("{} is not an address or host name (expected without scheme, port or path)", quoted(text)))
}

/// What is asked of a WebSocket broker: a path, and perhaps a query behind it.
pub(in crate::config) fn path(text: &str) -> Result<String, String> {
    // What HTTP's own parser does not take could never be sent, nor would it come.
    let parsed = text.parse::<PathAndQuery>().is_ok_and(|parsed| parsed.as_str() == text);
    if text.starts_with('/') && parsed && text.chars().all(|c| c.is_ascii_graphic() && c != '#') {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not a path: it must start with / and have no spaces; write what a URL cannot hold as %20",
        quoted(text)
    ))
}

/// The path of a WebSocket listener, which is what requests are compared with.
pub(in crate::config) fn own_path(text: &str) -> Result<String, String> {
    if let Some((before, _)) = text.split_once('?') {
        return Err(format!(
            "{} can never match: requests are compared without their query, write {} instead",
            quoted(text),
            quoted(before)
        ));
    }
    path(text)
}

/// Addresses of a policy service, tried in turn.
pub(in crate::config) fn policy_urls(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(|url| policy_url(url.trim())).collect()
}

fn policy_url(url: &str) -> Result<String, String> {
    let of_web = |url| {
        const SCHEMES: [&str; 4] = ["http://", "https://", "http+json://", "https+json://"];
        SCHEMES.iter().find_map(|scheme| str::strip_prefix(url, scheme))
    };
    // A slash behind the port, or behind a prefix, is what many write, and says nothing.
    let url = url.strip_suffix('/').filter(|_| of_web(url).is_some()).unwrap_or(url);
    // Read by whoever connects to it later, so that nothing passes here that fails there.
    let endpoint: Endpoint = url.parse().map_err(|_| no_policy_url(url))?;
    let authority = of_web(url).map(|rest| rest.split('/').next().unwrap_or(rest));
    if authority.is_some_and(|authority| !is_authority(authority)) {
        return Err(no_policy_url(url));
    }
    Ok(match url.strip_prefix("unix://") {
        Some(path) => format!("unix:{path}"),
        None => endpoint.to_string(),
    })
}

/// Does not repeat what might be a user name and password.
fn no_policy_url(url: &str) -> String {
    const FORMS: &str = "http://host:port, https://host:port, unix:/path, http+json://host:port/prefix or \
                         https+json://host:port/prefix";
    if url.contains('@') {
        return format!("must not have a user name and password: expected {FORMS}");
    }
    format!("{} is not a policy URL: expected {FORMS}", quoted(url))
}

fn is_authority(text: &str) -> bool {
    let name_and_port = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => target_port(port).map(|_| name).ok(),
        _ => Some(text),
    };
    name_and_port.is_some_and(|host| name(host).is_ok() && (host.starts_with('[') || !host.contains(':')))
}

/// Where an admin API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminAddress {
    /// Whether it is reached over TLS.
    pub is_tls: bool,
    /// Address or host name.
    pub host: String,
    /// Port, never 0.
    pub port: u16,
}

/// `http://host:port` or `https://host:port`; the port may be the scheme's own.
pub(in crate::config) fn admin_url(text: &str) -> Result<AdminAddress, String> {
    let plain = text.strip_prefix("http://").map(|rest| (false, rest));
    let url = plain.or_else(|| text.strip_prefix("https://").map(|rest| (true, rest)));
    let parsed = url.and_then(|(is_tls, rest)| {
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, target_port(port).ok()?),
            _ => (authority, if is_tls { 443 } else { 80 }),
        };
        let is_one = is_authority(authority);
        is_one.then(|| name(host).ok()).flatten().map(|host| AdminAddress { is_tls, host, port })
    });
    // Does not repeat what might be a user name and password.
    parsed.ok_or_else(|| {
        "is not the URL of an admin API: expected http://host:port or https://host:port".to_owned()
    })
}

/// Where OpenTelemetry data goes.
pub(in crate::config) fn otlp_endpoint(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let authority = rest.map(|rest| rest.split('/').next().unwrap_or(rest));
    if authority.is_some_and(is_authority) {
        return Ok(text.to_owned());
    }
    Err("is not an OTLP endpoint: expected http://host:port or https://host:port".to_owned())
}
