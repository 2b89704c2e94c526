//! The clients that the service is asked about. All addresses are those that RFC 5737 and RFC 3849 keep for documentation.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use mproxy_codec::packet::connect::Connect;
use mproxy_codec::property::Properties;
use mproxy_codec::types::Version;
use mproxy_core::peer::{
    Address, ConnectionId, Credentials, Encoded, Origin, Peer, TlsFacts, Transport, WsFacts,
};
use mproxy_core::policy::{Admission, ConnectDecision, Decision};
use uuid::Uuid;

use super::calls::INSTANCE;

/// A certificate for clients of nobody, in DER. What [`tls`] says about it is written in it.
const CERTIFICATE: &[u8] = include_bytes!("client.der");

/// Connections of this check have other names than those of the last one, and larger epochs, as connections of mproxy do.
static FIRST: LazyLock<(u128, u64)> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (Uuid::new_v4().as_u128(), u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
});

/// The CONNECT of this client, without will and password.
pub(super) fn connect_of(peer: &Peer) -> Connect<'_> {
    Connect {
        version: peer.version,
        bridge: false,
        clean_start: peer.clean_start,
        keep_alive: peer.keep_alive,
        properties: Properties::EMPTY,
        client_id: &peer.client_id,
        will: None,
        username: peer.username.as_deref(),
        password: None,
    }
}

/// The client that most questions are about.
pub(super) fn plain() -> Arc<Peer> {
    let origin = origin(1, Transport::Tcp);
    Arc::new(client(origin, Version::V5, "mproxy-check", Some("mproxy-check")))
}

/// The client as this answer admits it.
pub(super) fn admitted(client: &Arc<Peer>, decision: &ConnectDecision) -> Arc<Peer> {
    let Decision::Allow(Some(admission)) = decision else { return Arc::clone(client) };
    let Admission { client_id, username, attributes, .. } = &**admission;
    let mut admitted = (**client).clone();
    if let Some(client_id) = client_id {
        admitted.client_id = client_id.clone();
    }
    if let Some(username) = username {
        // An empty name in an answer takes the name away, as in the proxy.
        admitted.username = Some(username.clone()).filter(|name| !name.is_empty());
    }
    admitted.attributes = attributes.clone().into();
    Arc::new(admitted)
}

pub(super) fn client(origin: Origin, version: Version, client_id: &str, username: Option<&str>) -> Peer {
    Peer {
        origin: origin.into(),
        version,
        client_id: client_id.into(),
        username: username.map(Into::into),
        keep_alive: 60,
        clean_start: true,
        attributes: Box::default(),
        grant: None,
        said: None,
        broker_client_id: None,
        user_properties: [].into_iter().collect(),
        encoded: Encoded::default(),
    }
}

/// The connection with this number.
pub(super) fn origin(number: u16, transport: Transport) -> Origin {
    let (remote, local) = addresses(number, transport);
    let is_tls = matches!(transport, Transport::Tls | Transport::Wss);
    let is_ws = matches!(transport, Transport::Ws | Transport::Wss);
    Origin {
        connection_id: ConnectionId(FIRST.0 ^ u128::from(number)),
        epoch: FIRST.1.saturating_add(number.into()),
        instance: INSTANCE.into(),
        listener: transport.name().into(),
        transport,
        remote,
        local,
        tls: is_tls.then(|| Box::new(tls())),
        ws: is_ws.then(|| Box::new(ws())),
    }
}

fn addresses(number: u16, transport: Transport) -> (Address, Address) {
    let port = 50_000_u16.saturating_add(number);
    match transport {
        Transport::Unix => (
            Address::Process(Credentials { pid: Some(4242), uid: 1000, gid: 1000 }),
            Address::Path(Path::new("/run/mproxy/mqtt.sock").into()),
        ),
        // One transport with addresses of IPv6.
        Transport::Wss => {
            let (remote, local) = ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]);
            (SocketAddr::from((remote, port)).into(), SocketAddr::from((local, 443)).into())
        }
        Transport::Tcp | Transport::Tls | Transport::Ws => {
            let local = match transport {
                Transport::Tls => 8883,
                Transport::Ws => 80,
                _ => 1883,
            };
            (
                SocketAddr::from(([192, 0, 2, 1], port)).into(),
                SocketAddr::from(([198, 51, 100, 1], local)).into(),
            )
        }
    }
}

fn tls() -> TlsFacts {
    TlsFacts {
        chain: vec![CERTIFICATE.to_vec()],
        subject: Some("CN=mproxy-check,O=Example".to_owned()),
        common_name: Some("mproxy-check".to_owned()),
        subject_alt_names: vec![
            "DNS:mproxy-check.example".to_owned(),
            "URI:urn:example:mproxy-check".to_owned(),
        ],
        fingerprint: Some("e8affe111f7069ec3a671829067e61c9aaa77101af3d45766ee69e16cadb1dae".to_owned()),
        serial: Some("0badcafe".to_owned()),
        ..without_certificate()
    }
}

/// TLS of a client that showed no certificate.
pub(super) fn without_certificate() -> TlsFacts {
    TlsFacts {
        version: "TLSv1.3".to_owned(),
        sni: Some("mqtt.example".to_owned()),
        alpn: Some("mqtt".to_owned()),
        ..TlsFacts::default()
    }
}

fn ws() -> WsFacts {
    WsFacts {
        path: "/mqtt?check=1".to_owned(),
        host: "mqtt.example".to_owned(),
        headers: Vec::new(),
        token: None,
    }
}
