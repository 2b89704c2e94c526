//! Clients and their questions, for the tests of the advisers.
#![allow(dead_code, reason = "each test file takes what it needs")]

use std::sync::Arc;

use bytes::BytesMut;
use mproxy_codec::packet::connect::{Connect, Will};
use mproxy_codec::packet::subscribe::{FilterRequest, RetainHandling};
use mproxy_codec::property::{Place, Properties};
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{PacketType, QoS, Sender, Version};
use mproxy_core::Chain;
use mproxy_core::chain::Ruled;
use mproxy_core::grant::Grant;
use mproxy_core::peer::{Address, ConnectionId, Encoded, Origin, Peer, TlsFacts, Transport, UserProperties};
use mproxy_core::policy::{
    Answer, ConnectDecision, ConnectQuestion, Decider, ExchangeDecision, ExchangeQuestion, Hook, Payload,
    PublishDecision, PublishQuestion, RenewQuestion, Source, SubscribeDecision, SubscribeQuestion, Want,
};
use mproxy_sim::Verdict;
use mproxy_sim::verdict::ScriptedDecision;

/// What was ruled, whatever was asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ruling {
    pub(crate) source: Source,
    pub(crate) verdict: Verdict,
}

/// A chain, asked as one adviser.
pub(crate) struct Chained(pub(crate) Chain);

impl Chained {
    pub(crate) fn new(deciders: Vec<Arc<dyn Decider>>) -> Self {
        Self(Chain::new(deciders))
    }
}

fn ruled<D: ScriptedDecision>(ruled: Ruled<D>) -> Answer<D> {
    match ruled {
        Ruled::Now(ruling) => Answer::Now(ruling),
        Ruled::Later(pending) => Answer::Later(Box::pin(async move { Answer::Now(pending.await) })),
    }
}

impl Decider for Chained {
    fn connect(&self, question: &ConnectQuestion<'_>) -> Answer<ConnectDecision> {
        ruled(self.0.connect(question))
    }

    fn publish(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        ruled(self.0.publish(question))
    }

    fn subscribe(&self, question: &SubscribeQuestion<'_>) -> Answer<SubscribeDecision> {
        ruled(self.0.subscribe(question))
    }

    fn deliver(&self, question: &PublishQuestion<'_>) -> Answer<PublishDecision> {
        ruled(self.0.deliver(question))
    }

    fn renew(&self, question: &RenewQuestion<'_>) -> Answer<ConnectDecision> {
        ruled(self.0.renew(Source::Rpc, question))
    }

    fn exchange(&self, question: &ExchangeQuestion<'_>) -> Answer<ExchangeDecision> {
        ruled(self.0.exchange(question))
    }

    fn want(&self, hook: Hook) -> Want {
        self.0.want(hook)
    }
}

pub(crate) struct Client {
    pub(crate) peer: Arc<Peer>,
    pub(crate) password: Option<&'static str>,
    pub(crate) will: Option<Will<'static>>,
    /// Properties of its CONNECT.
    pub(crate) properties: Vec<u8>,
    /// Its listener passes AUTH to the broker.
    pub(crate) passes_auth: bool,
}

pub(crate) fn client(client_id: &str, username: Option<&str>) -> Client {
    numbered(1, client_id, username)
}

/// A client whose connection has this number.
pub(crate) fn numbered(connection: u128, client_id: &str, username: Option<&str>) -> Client {
    let address = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1883)));
    let origin = Origin {
        connection_id: ConnectionId(connection),
        epoch: 7,
        instance: "test".into(),
        listener: "mqtt".into(),
        transport: Transport::Tcp,
        remote: address.clone(),
        local: address,
        tls: None,
        ws: None,
    };
    let peer = Arc::new(Peer {
        origin: origin.into(),
        version: Version::V5,
        client_id: client_id.into(),
        username: username.map(Into::into),
        said: None,
        broker_client_id: None,
        keep_alive: 30,
        clean_start: true,
        attributes: Box::default(),
        grant: None,
        user_properties: UserProperties::default(),
        encoded: Encoded::default(),
    });
    Client { peer, password: None, will: None, properties: Vec::new(), passes_auth: false }
}

impl Client {
    pub(crate) fn granted(mut self, grant: Grant) -> Self {
        Arc::make_mut(&mut self.peer).grant = Some(Arc::new(grant));
        self
    }

    /// A client with a certificate of this common name.
    pub(crate) fn certified(mut self, common_name: &str) -> Self {
        let tls = TlsFacts { common_name: Some(common_name.to_owned()), ..TlsFacts::default() };
        let peer = Arc::make_mut(&mut self.peer);
        Arc::make_mut(&mut peer.origin).tls = Some(Box::new(tls));
        self
    }

    /// A client that comes from there.
    pub(crate) fn from(mut self, remote: std::net::SocketAddr) -> Self {
        let peer = Arc::make_mut(&mut self.peer);
        Arc::make_mut(&mut peer.origin).remote = remote.into();
        self
    }

    pub(crate) fn password(mut self, password: &'static str) -> Self {
        self.password = Some(password);
        self
    }

    pub(crate) fn will(mut self, topic: &'static str, qos: QoS, retain: bool) -> Self {
        self.will = Some(Will { qos, retain, properties: Properties::EMPTY, topic, payload: b"gone" });
        self
    }

    /// A client that authenticates by this method, with this data.
    pub(crate) fn method(mut self, method: &str, data: Option<&str>) -> Self {
        let field =
            |id: u8, text: &str| [&[id][..], &(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
        self.properties =
            [field(0x15, method), data.map(|data| field(0x16, data)).unwrap_or_default()].concat();
        self
    }

    /// Of its open session: the client authenticates anew.
    pub(crate) async fn authenticates(&self, adviser: &dyn Decider, data: Option<&str>) -> Option<Ruling> {
        let (peer, method) = (&self.peer, "JWT");
        let data = data.map(str::as_bytes);
        heard(adviser.exchange(&ExchangeQuestion { peer, method, data, step: 1, again: true, time: None }))
            .await
    }

    pub(crate) async fn connects(&self, adviser: &dyn Decider) -> Option<Ruling> {
        let place = Place::Packet(PacketType::Connect);
        let connect = Connect {
            version: self.peer.version,
            bridge: false,
            clean_start: self.peer.clean_start,
            keep_alive: self.peer.keep_alive,
            properties: Properties::check(&self.properties, place, Sender::Client).unwrap(),
            client_id: &self.peer.client_id,
            will: self.will,
            username: self.peer.username.as_deref(),
            password: self.password.map(str::as_bytes),
        };
        let mut packet = BytesMut::new();
        connect.encode(&mut packet).unwrap();
        let packet = &packet.freeze();
        let answer = adviser.connect(&ConnectQuestion {
            peer: &self.peer,
            connect: &connect,
            packet,
            passes_auth: self.passes_auth,
            time: None,
        });
        heard(answer).await
    }

    pub(crate) async fn renews(&self, adviser: &dyn Decider) -> Option<Ruling> {
        heard(adviser.renew(&RenewQuestion { peer: &self.peer })).await
    }

    pub(crate) fn publish<'a>(&'a self, topic: &'a str) -> PublishQuestion<'a> {
        PublishQuestion {
            peer: &self.peer,
            topic,
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            payload: Payload::Whole(b"21 degrees"),
            properties: Properties::EMPTY,
            time: None,
        }
    }

    pub(crate) async fn publishes(&self, adviser: &dyn Decider, topic: &str) -> Option<Ruling> {
        heard(adviser.publish(&self.publish(topic))).await
    }

    pub(crate) async fn receives(&self, adviser: &dyn Decider, topic: &str) -> Option<Ruling> {
        heard(adviser.deliver(&self.publish(topic))).await
    }

    pub(crate) async fn subscribes(&self, adviser: &dyn Decider, filters: &[&str]) -> Option<Ruling> {
        let filters: Vec<_> = filters.iter().map(|filter| request(filter)).collect();
        let answer = adviser.subscribe(&SubscribeQuestion::new(&self.peer, &filters, Properties::EMPTY));
        heard(answer).await
    }
}

pub(crate) fn request(filter: &str) -> FilterRequest<'_> {
    FilterRequest {
        filter: TopicFilter::new(filter).unwrap(),
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

/// What was answered, waited for; `None`: the adviser passed.
pub(crate) async fn heard<D: ScriptedDecision>(mut answer: Answer<D>) -> Option<Ruling> {
    loop {
        match answer {
            Answer::Pass(_) => return None,
            Answer::Partial(_) => panic!("it knows a part only"),
            Answer::Now(ruling) => {
                return Some(Ruling { source: ruling.source, verdict: D::into_verdict(ruling.verdict) });
            }
            Answer::Later(pending) => answer = pending.await,
        }
    }
}
