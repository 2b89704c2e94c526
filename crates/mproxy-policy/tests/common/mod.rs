//! Clients and their questions, for the tests of the advisers.
#![allow(dead_code, reason = "each test file takes what it needs")]

use std::sync::Arc;

use bytes::BytesMut;
use mproxy_codec::packet::connect::{Connect, Will};
use mproxy_codec::packet::subscribe::{FilterRequest, RetainHandling};
use mproxy_codec::property::Properties;
use mproxy_codec::topic::TopicFilter;
use mproxy_codec::types::{QoS, Version};
use mproxy_core::grant::Grant;
use mproxy_core::peer::{ConnectionId, Encoded, Origin, Peer, TlsFacts, Transport, UserProperties};
use mproxy_core::policy::{
    Answer, ConnectQuestion, Decider, Payload, PublishQuestion, Question, Ruling, SubscribeQuestion,
};

pub(crate) struct Client {
    pub(crate) peer: Arc<Peer>,
    pub(crate) password: Option<&'static str>,
    pub(crate) will: Option<Will<'static>>,
}

pub(crate) fn client(client_id: &str, username: Option<&str>) -> Client {
    numbered(1, client_id, username)
}

/// A client whose connection has this number.
pub(crate) fn numbered(connection: u128, client_id: &str, username: Option<&str>) -> Client {
    let address = ([127, 0, 0, 1], 1883).into();
    let origin = Origin {
        connection_id: ConnectionId(connection),
        epoch: 7,
        instance: "test".into(),
        listener: "mqtt".into(),
        transport: Transport::Tcp,
        remote: address,
        local: address,
        tls: None,
        ws: None,
    };
    let peer = Arc::new(Peer {
        origin: origin.into(),
        version: Version::V5,
        client_id: client_id.into(),
        username: username.map(Into::into),
        keep_alive: 30,
        clean_start: true,
        attributes: Box::default(),
        grant: None,
        user_properties: UserProperties::default(),
        encoded: Encoded::default(),
    });
    Client { peer, password: None, will: None }
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
        Arc::make_mut(&mut peer.origin).remote = remote;
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

    pub(crate) async fn connects(&self, adviser: &dyn Decider) -> Option<Ruling> {
        self.asks_to_connect(adviser, false).await
    }

    pub(crate) async fn refreshes(&self, adviser: &dyn Decider) -> Option<Ruling> {
        self.asks_to_connect(adviser, true).await
    }

    pub(crate) async fn renews(&self, adviser: &dyn Decider) -> Option<Ruling> {
        heard(self.question(true, |question| adviser.renew(&question))).await
    }

    async fn asks_to_connect(&self, adviser: &dyn Decider, refresh: bool) -> Option<Ruling> {
        heard(self.question(refresh, |question| adviser.decide(&Question::Connect(question)))).await
    }

    fn question(&self, refresh: bool, ask: impl FnOnce(ConnectQuestion<'_>) -> Answer) -> Answer {
        let connect = Connect {
            version: self.peer.version,
            bridge: false,
            clean_start: self.peer.clean_start,
            keep_alive: self.peer.keep_alive,
            properties: Properties::EMPTY,
            client_id: &self.peer.client_id,
            will: self.will,
            username: self.peer.username.as_deref(),
            password: self.password.map(str::as_bytes),
        };
        let mut packet = BytesMut::new();
        connect.encode(&mut packet).unwrap();
        let packet = &packet.freeze();
        ask(ConnectQuestion { peer: &self.peer, connect: &connect, packet, refresh })
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
        }
    }

    pub(crate) async fn publishes(&self, adviser: &dyn Decider, topic: &str) -> Option<Ruling> {
        heard(adviser.decide(&Question::Publish(self.publish(topic)))).await
    }

    pub(crate) async fn receives(&self, adviser: &dyn Decider, topic: &str) -> Option<Ruling> {
        heard(adviser.decide(&Question::Deliver(self.publish(topic)))).await
    }

    pub(crate) async fn subscribes(&self, adviser: &dyn Decider, filters: &[&str]) -> Option<Ruling> {
        let filters: Vec<_> = filters.iter().map(|filter| request(filter)).collect();
        let question =
            SubscribeQuestion { peer: &self.peer, filters: &filters, properties: Properties::EMPTY };
        heard(adviser.decide(&Question::Subscribe(question))).await
    }
}

fn request(filter: &str) -> FilterRequest<'_> {
    FilterRequest {
        filter: TopicFilter::new(filter).unwrap(),
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

/// What was answered, waited for; `None`: the adviser passed.
pub(crate) async fn heard(answer: Answer) -> Option<Ruling> {
    match answer {
        Answer::Pass => None,
        Answer::Now(ruling) => Some(ruling),
        Answer::Later(pending) => Some(pending.await),
    }
}
