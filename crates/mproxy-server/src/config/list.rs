//! Text to lists: members between commas. An empty text is an empty list.

use hyper::header::{self, HeaderName};
use mproxy_tcp::networks::Network;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::value::{file, name, quoted, target_port};

fn members<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|member| read(member.trim())).collect()
}

/// Whose PROXY headers are believed; at least one network, or nobody could come in.
pub(super) fn networks(text: &str) -> Result<Vec<Network>, String> {
    let networks = members(text, |member| member.parse().map_err(network_fault))?;
    if networks.is_empty() {
        return Err("must have at least one network, or nobody could connect".to_owned());
    }
    Ok(networks)
}

fn network_fault(error: mproxy_tcp::networks::NotANetwork) -> String {
    error.to_string()
}

/// Files.
pub(super) fn files(text: &str) -> Result<Vec<PathBuf>, String> {
    members(text, file)
}

/// Application protocols, as TLS names them.
pub(super) fn alpn(text: &str) -> Result<Vec<Vec<u8>>, String> {
    members(text, |name| {
        if (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(name.as_bytes().to_vec());
        }
        Err(format!(
            "{} is not the name of an application protocol, for example mqtt or http/1.1",
            quoted(name)
        ))
    })
}

/// What browsers send as Origin; `None`, from an empty list, permits all of them.
pub(super) fn origins(text: &str) -> Result<Option<Vec<String>>, String> {
    let origins = members(text, origin)?;
    Ok(Some(origins).filter(|origins| !origins.is_empty()))
}

/// An origin as browsers write it, which is how it is compared: small letters, and no port that goes without saying.
fn origin(text: &str) -> Result<String, String> {
    // What browsers send for a page without an origin, such as a file (RFC 6454, 6.1).
    if text == "null" {
        return Ok(text.to_owned());
    }
    let wrong = || {
        format!(
            "{} is not an origin: expected scheme, host and port as browsers send them, for example https://example.org",
            quoted(text)
        )
    };
    let (scheme, authority) = text.split_once("://").ok_or_else(wrong)?;
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if scheme.is_empty() || !scheme.chars().all(is_scheme) {
        return Err(wrong());
    }
    let scheme = scheme.to_ascii_lowercase();
    if let Some(page) = match &*scheme {
        "ws" => Some("http"),
        "wss" => Some("https"),
        _ => None,
    } {
        return Err(format!(
            "{} is the address of a WebSocket; an origin is the address of the page: {page}://{authority}",
            quoted(text)
        ));
    }
    let (host, port) = match authority.rsplit_once(':') {
        // Otherwise the colon is one of an IPv6 address.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = port.map(target_port).transpose().map_err(|fault| format!("{}: {fault}", quoted(text)))?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => {
            address.parse::<Ipv6Addr>().map(|address| format!("[{address}]")).map_err(|_| wrong())?
        }
        None if !host.contains(':') => name(host).map_err(|_| wrong())?.to_ascii_lowercase(),
        None => return Err(wrong()),
    };
    let goes_without_saying = matches!((&*scheme, port), ("http", Some(80)) | ("https", Some(443)));
    let port = port.filter(|_| !goes_without_saying).map(|port| format!(":{port}")).unwrap_or_default();
    Ok(format!("{scheme}://{host}{port}"))
}

/// Names of headers. All cookies at once are not to be had: they are named one by one.
pub(super) fn headers(text: &str) -> Result<Vec<HeaderName>, String> {
    members(text, |name| match name.parse() {
        Ok(header::COOKIE) => {
            Err("the header Cookie cannot be listed: name single cookies in ws.cookies".to_owned())
        }
        Ok(name) => Ok(name),
        Err(_) => Err(format!("{} is not the name of a header", quoted(name))),
    })
}

/// Names of cookies.
pub(super) fn cookies(text: &str) -> Result<Vec<String>, String> {
    members(text, |name| {
        // RFC 6265: a token, as the name of a header is.
        let is_token = name.parse::<HeaderName>().is_ok();
        if is_token {
            Ok(name.to_owned())
        } else {
            Err(format!("{} is not the name of a cookie", quoted(name)))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_between_commas() {
        assert_eq!(files("a.pem, b.pem"), Ok(vec!["a.pem".into(), "b.pem".into()]));
        assert_eq!(files(""), Ok(Vec::new()));
        assert!(files("a.pem,").is_err());
        assert_eq!(alpn("mqtt,http/1.1"), Ok(vec![b"mqtt".to_vec(), b"http/1.1".to_vec()]));
        assert!(alpn("no spaces").is_err());
    }

    #[test]
    fn nobody_to_believe_is_a_fault() {
        assert_eq!(networks("10.0.0.0/8, ::1").map(|networks| networks.len()), Ok(2));
        for wrong in ["", "10.0.0.0/8,", "10/8", "example.org"] {
            assert!(networks(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        let right = "https://example.org,http://localhost:8080,null";
        assert_eq!(origins(right).unwrap().unwrap().join(","), right);
        assert_eq!(origins(""), Ok(None));
        for (written, compared) in [
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:80", "http://a.example"),
            ("http://a.example:443", "http://a.example:443"),
            ("HTTPS://A.Example", "https://a.example"),
            ("http://[::0001]:80", "http://[::1]"),
            ("https://a.example:08443", "https://a.example:8443"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ] {
            assert_eq!(origins(written).unwrap().unwrap(), [compared]);
        }
        assert!(origins("wss://a.example").unwrap_err().contains("https://a.example"));
        for wrong in [
            "example.org",
            "https://",
            "https://example.org/",
            "https://*.example.org",
            "*",
            "://a",
            "https://a:",
            "https://a:0",
            "https://a:99999",
            "https://::1",
            "https://m\u{fc}ller.example",
        ] {
            assert!(origins(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn headers_and_cookies_have_names() {
        assert_eq!(headers("X-Tenant,authorization").unwrap()[0].as_str(), "x-tenant");
        assert!(headers("Cookie").unwrap_err().contains("ws.cookies"));
        assert!(headers("not right").is_err());
        assert_eq!(cookies("SID"), Ok(vec!["SID".to_owned()]));
        assert!(cookies("a=b").is_err());
    }
}
