//! The PROXY protocol on both sides: what it says of a client that came by a proxy, and what a broker is told.

use mproxy_core::peer::{Address, Origin, TlsFacts};
use mproxy_tcp::proxy_header::{Header, HeaderVersion, ProxiedAddresses, ProxiedCertificate, ProxiedTls};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::transport::{HandshakeLimits, Known};
use super::{DialFailure, Refused, in_one_line};
use crate::config::SendProxy;

/// Takes over what the header says.
///
/// # Errors
/// Whom it names may not come in.
pub(super) fn believe(header: &Header, known: &mut Known, limits: &HandshakeLimits) -> Result<(), Refused> {
    // Without addresses (LOCAL, UNKNOWN) it is the proxy itself that speaks, a health check for example.
    if let Some(ProxiedAddresses { source, destination }) = header.endpoints {
        (known.remote, known.local) = (source.into(), destination.into());
        limits.admit(&known.remote)?;
    }
    // Where a handshake of our own follows, what that shows takes its place.
    known.tls = proxied(header).map(Box::new);
    Ok(())
}

/// What a proxy tells of the client's TLS. A name counts only if the proxy has verified it.
fn proxied(header: &Header) -> Option<TlsFacts> {
    let ProxiedTls { version, common_name, certificate } = header.tls.clone()?;
    Some(TlsFacts {
        version: version.unwrap_or_default(),
        sni: header.authority.clone(),
        // As text, which has no U+0000.
        alpn: header.alpn.as_deref().map(|name| String::from_utf8_lossy(name).replace('\0', "\u{fffd}")),
        common_name: common_name.filter(|_| certificate == ProxiedCertificate::Verified),
        ..TlsFacts::default()
    })
}

/// Sends the broker a header, where it wants one.
pub(super) async fn send(
    version: SendProxy,
    origin: &Origin,
    stream: &mut (impl AsyncWrite + Unpin),
) -> Result<(), DialFailure> {
    let version = match version {
        SendProxy::Off => return Ok(()),
        SendProxy::V1 => HeaderVersion::V1,
        SendProxy::V2 => HeaderVersion::V2,
    };
    let sent = stream.write_all(&header(origin).encode(version)).await;
    sent.map_err(|error| DialFailure::Unspoken(in_one_line(&error)))
}

/// What the broker is told of the client. That there is a certificate means that we have verified it, or that a proxy
/// before us has.
fn header(origin: &Origin) -> Header {
    let tls = origin.tls.as_deref();
    Header {
        // A process on this machine has no address that the protocol could name.
        endpoints: match (&origin.remote, &origin.local) {
            (Address::Ip(source), Address::Ip(destination)) => {
                Some(ProxiedAddresses { source: *source, destination: *destination })
            }
            _ => None,
        },
        authority: tls.and_then(|tls| tls.sni.clone()),
        alpn: tls.and_then(|tls| tls.alpn.clone()).map(String::into_bytes),
        unique_id: Some(origin.connection_id.to_string().into_bytes()),
        tls: tls.map(|tls| ProxiedTls {
            // Empty where a proxy before us has not said it.
            version: Some(tls.version.clone()).filter(|version| !version.is_empty()),
            common_name: tls.common_name.clone(),
            certificate: match (&tls.common_name, tls.chain.is_empty()) {
                (None, true) => ProxiedCertificate::Absent,
                _ => ProxiedCertificate::Verified,
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use mproxy_core::peer::{ConnectionId, Credentials, Transport};

    use super::*;

    #[test]
    fn a_client_of_a_unix_socket_is_passed_on_as_one_without_address() {
        let origin = Origin {
            connection_id: ConnectionId(1),
            epoch: 1,
            instance: "here".into(),
            listener: "unix".into(),
            transport: Transport::Unix,
            remote: Address::Process(Credentials { pid: None, uid: 1000, gid: 1000 }),
            local: Address::Path(Arc::from(Path::new("/run/mproxy/mqtt.sock"))),
            tls: None,
            ws: None,
        };
        let header = header(&origin);
        assert_eq!(header.encode(HeaderVersion::V1), b"PROXY UNKNOWN\r\n");
        let (read, _) = Header::parse(&header.encode(HeaderVersion::V2)).unwrap().unwrap();
        assert_eq!((read.endpoints, read.unique_id), (None, header.unique_id));
    }
}
