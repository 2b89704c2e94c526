//! The contract: what core and the other rooms mean, said in the generated types of `proto/events.proto`, and
//! back. Only this room names them. What an answer leaves out becomes a failure here, and
//! what it gets wrong becomes unusable.

mod auth_request;
mod call;
mod complaints;
mod control;
mod decide;
mod event_client;
mod event_request;
mod examine;
mod fields;
mod grant;
mod grpc_message;
mod hello;
mod json;
mod observe;
mod request_body;
mod stream;
mod unreadable;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use mproxy_codec::property::{Properties, PropertyId, Value};
use mproxy_codec::topic::split_share;
use mproxy_codec::types::Version;
use mproxy_core::event::Kind;
use mproxy_core::peer::{Credentials, Peer, TlsFacts, Transport, WsFacts};
use mproxy_core::policy::{Hook, Undecided};
use tonic::{Request, Status};

pub(crate) use self::auth_request::{
    AuthConnect, AuthDeliver, AuthExchange, AuthPublish, AuthRequest, AuthRpc, AuthSubscribe, Way,
};
pub(crate) use self::call::CallChannel;
use self::call::{HELLO, call, read};
pub(crate) use self::complaints::{Complaint, Complaints};
pub(crate) use self::control::{ControlCommands, ControlReport, NumberedOrder};
pub(crate) use self::decide::{DecideMessage, EncodedClient, StreamAnswer, StreamQuestion, read_answers};
pub(crate) use self::event_client::{ClientIdentity, EventClient, KeptClient};
pub(crate) use self::event_request::{EncodedEvent, EventRequest};
pub(crate) use self::examine::{Examine, Examined};
pub(crate) use self::hello::{Hello, WantedCall, Wants};
pub(crate) use self::observe::{ObserveMessage, read_safe_up_to};
use self::request_body::RequestBody;
pub(crate) use self::stream::{StreamRpc, open_stream};

#[expect(
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    reason = "generated"
)]
mod wire {
    use std::fmt;

    tonic::include_proto!("mproxy.v1");

    // By hand: derived, it would print the password.
    impl fmt::Debug for AuthConnectRequest {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("AuthConnectRequest").field("client", &self.client).finish_non_exhaustive()
        }
    }

    impl fmt::Debug for AuthExchangeRequest {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("AuthExchangeRequest").field("client", &self.client).finish_non_exhaustive()
        }
    }
}

/// The calls that a service may want or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rpc {
    AuthConnect,
    AuthPublish,
    AuthSubscribe,
    AuthDeliver,
    AuthExchange,
    Connect,
    Publish,
    Subscribe,
    Unsubscribe,
    Disconnect,
}

impl Rpc {
    pub(crate) const ALL: [Self; 10] = [
        Self::AuthConnect,
        Self::AuthPublish,
        Self::AuthSubscribe,
        Self::AuthDeliver,
        Self::AuthExchange,
        Self::Connect,
        Self::Publish,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Disconnect,
    ];

    /// As the contract calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::AuthConnect => "AuthConnect",
            Self::AuthPublish => "AuthPublish",
            Self::AuthSubscribe => "AuthSubscribe",
            Self::AuthDeliver => "AuthDeliver",
            Self::AuthExchange => "AuthExchange",
            Self::Connect => "Connect",
            Self::Publish => "Publish",
            Self::Subscribe => "Subscribe",
            Self::Unsubscribe => "Unsubscribe",
            Self::Disconnect => "Disconnect",
        }
    }
}

impl Rpc {
    /// Whether it decides; the others tell.
    pub(crate) const fn decides(self) -> bool {
        match self {
            Self::AuthConnect
            | Self::AuthPublish
            | Self::AuthSubscribe
            | Self::AuthDeliver
            | Self::AuthExchange => true,
            Self::Connect | Self::Publish | Self::Subscribe | Self::Unsubscribe | Self::Disconnect => false,
        }
    }

    /// Whether it may reach the service once only, whatever becomes of it: a step of an authentication may use something up
    /// (ADR 0029).
    pub(crate) const fn is_asked_once(self) -> bool {
        matches!(self, Self::AuthExchange)
    }
}

impl From<Hook> for Rpc {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Connect => Self::AuthConnect,
            Hook::Publish => Self::AuthPublish,
            Hook::Subscribe => Self::AuthSubscribe,
            Hook::Deliver => Self::AuthDeliver,
            Hook::Exchange => Self::AuthExchange,
        }
    }
}

impl From<Kind> for Rpc {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Connect => Self::Connect,
            Kind::Publish => Self::Publish,
            Kind::Subscribe => Self::Subscribe,
            Kind::Unsubscribe => Self::Unsubscribe,
            Kind::Disconnect => Self::Disconnect,
        }
    }
}

/// A policy service at the other end of a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ServiceClient {
    channel: CallChannel,
    complaints: Arc<Complaints>,
}

impl ServiceClient {
    pub(crate) const fn new(channel: CallChannel, complaints: Arc<Complaints>) -> Self {
        Self { channel, complaints }
    }

    /// What it was warned of.
    pub(crate) const fn complaints(&self) -> &Arc<Complaints> {
        &self.complaints
    }

    /// Asks what it wants. The failure is for the log.
    pub(crate) async fn hello(
        &self,
        version: &str,
        instance: &str,
        within: Duration,
    ) -> Result<Result<Hello, String>, Status> {
        let request = wire::HelloRequest { version: version.to_owned(), instance: instance.to_owned() };
        let answer = call(HELLO, RequestBody::of(&request), self.channel.clone(), within, None).await?;
        Ok(Hello::read(read(answer)?).map(|hello| self.within_channel(hello)))
    }

    /// A service cannot serve what has no way there.
    fn within_channel(&self, mut hello: Hello) -> Hello {
        if hello.streams && matches!(self.channel, CallChannel::Json(_)) {
            self.complaints.say(
                Complaint::StreamsOfJson,
                format_args!(
                    "Hello says that streams are served, which there are none of over JSON: ignored"
                ),
            );
            hello.streams = false;
        }
        hello
    }

    /// Whether the end of its connection is the end of it: over JSON there are many, and each may end at any time.
    pub(crate) const fn is_one_connection(&self) -> bool {
        matches!(self.channel, CallChannel::Grpc(_))
    }

    /// Asks a question. What cannot be used in the answer is [`Undecided::Unusable`].
    pub(crate) async fn decide<R: AuthRpc>(
        &self,
        request: AuthRequest<R>,
        within: Duration,
    ) -> Result<Result<R::Decision, Undecided>, Status> {
        request.send(self.channel.clone(), within, &self.complaints).await
    }

    /// Reads the answer to a question that a stream brought.
    pub(crate) fn read_answer<R: AuthRpc>(
        &self,
        request: AuthRequest<R>,
        answer: Option<StreamAnswer>,
    ) -> Result<Result<R::Decision, Undecided>, Status> {
        request.read(answer, &self.complaints)
    }

    /// Tells of an event.
    pub(crate) async fn report(&self, event: EventRequest, within: Duration) -> Result<(), Status> {
        event.send(self.channel.clone(), within).await
    }
}

/// The contract as it was compiled, with the names that the generated types do not have.
const fn descriptors() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"))
}

fn with_timeout<M>(message: M, within: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}

fn client(peer: &Peer) -> wire::Client {
    let origin = &peer.origin;
    wire::Client {
        connection_id: origin.connection_id.to_string(),
        epoch: origin.epoch,
        instance: origin.instance.to_string(),
        listener: origin.listener.to_string(),
        transport: transport(origin.transport).into(),
        protocol_version: protocol_version(peer.version).into(),
        client_id: peer.client_id.to_string(),
        username: peer.username.as_deref().map(str::to_owned),
        // As text, and of the client itself where a PROXY header told it: a service counts and bans by this.
        remote_address: origin.remote.to_string(),
        local_address: origin.local.to_string(),
        tls: origin.tls.as_deref().map(tls),
        web_socket: origin.ws.as_deref().map(web_socket),
        unix_peer: origin.remote.credentials().map(unix_peer),
        attributes: peer.attribute_table().into_iter().collect(),
        // Written by itself, see `request_body`: as a list it would hold each text twice.
        user_properties: Vec::new(),
    }
}

const fn transport(transport: Transport) -> wire::Transport {
    match transport {
        Transport::Tcp => wire::Transport::Tcp,
        Transport::Tls => wire::Transport::Tls,
        Transport::Ws => wire::Transport::Ws,
        Transport::Wss => wire::Transport::Wss,
        Transport::Unix => wire::Transport::Unix,
    }
}

const fn unix_peer(credentials: &Credentials) -> wire::UnixPeer {
    let Credentials { pid, uid, gid } = *credentials;
    wire::UnixPeer { pid, uid: Some(uid), gid: Some(gid) }
}

const fn protocol_version(version: Version) -> wire::ProtocolVersion {
    match version {
        Version::V31 => wire::ProtocolVersion::Mqtt31,
        Version::V311 => wire::ProtocolVersion::Mqtt311,
        Version::V5 => wire::ProtocolVersion::Mqtt50,
    }
}

fn tls(facts: &TlsFacts) -> wire::Tls {
    wire::Tls {
        version: facts.version.clone(),
        server_name: facts.sni.clone(),
        alpn: facts.alpn.clone(),
        // DER, as the client sent it: fields that X.509 has and this contract has not are there for whoever needs them.
        certificate_chain: facts.chain.iter().map(|der| der.clone().into()).collect(),
        subject: facts.subject.clone(),
        common_name: facts.common_name.clone(),
        subject_alt_names: facts.subject_alt_names.clone(),
        fingerprint_sha256: facts.fingerprint.clone(),
        serial: facts.serial.clone(),
    }
}

fn web_socket(facts: &WsFacts) -> wire::WebSocket {
    let header = |(name, value): &(String, String)| wire::Header { name: name.clone(), value: value.clone() };
    wire::WebSocket {
        path: facts.path.clone(),
        host: facts.host.clone(),
        headers: facts.headers.iter().map(header).collect(),
    }
}

/// `None` in 3.x.
fn publish_properties(version: Version, properties: Properties<'_>) -> Option<wire::PublishProperties> {
    version.is_v5().then(|| wire::PublishProperties {
        payload_format: properties.byte(PropertyId::PayloadFormatIndicator).map(u32::from),
        message_expiry: properties.u32(PropertyId::MessageExpiryInterval),
        content_type: properties.text(PropertyId::ContentType).map(str::to_owned),
        response_topic: properties.text(PropertyId::ResponseTopic).map(str::to_owned),
        correlation_data: properties.binary(PropertyId::CorrelationData).map(bytes::Bytes::copy_from_slice),
        user_properties: user_properties(properties),
        subscription_identifiers: properties
            .iter()
            .filter_map(|(id, value)| match (id, value) {
                // The only property that a delivery may have several times: one for each subscription that matched (3.3.4).
                (PropertyId::SubscriptionIdentifier, Value::Var(number)) => Some(number),
                _ => None,
            })
            .collect(),
    })
}

fn user_properties(properties: Properties<'_>) -> Vec<wire::UserProperty> {
    properties
        .user()
        .map(|(name, value)| wire::UserProperty { name: name.to_owned(), value: value.to_owned() })
        .collect()
}

/// A filter in two: what is behind `$share/group/`, and the group.
fn split_filter(filter: &str) -> (String, Option<String>) {
    let (group, plain) = split_share(filter);
    (plain.to_owned(), group.map(str::to_owned))
}

#[cfg(test)]
pub(crate) mod tests;
