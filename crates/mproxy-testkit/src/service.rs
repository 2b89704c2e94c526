//! A hook service inside the test that answers as its script says, and remembers what it was asked and told. It speaks
//! types of its own, generated from the contract as somebody else's would be.

mod decide;
mod observe;
mod running;

pub use decide::{AnswerSender, StreamPlay, StreamScript};
pub use observe::{Confirmations, ObservePlay, ObserveScript};
pub use running::Running;
pub use tonic::{Request, Status};

use std::fmt;
use std::sync::Arc;

use contract::hooks_server::Hooks;
use contract::{
    Action, AuthConnectRequest, AuthConnectResponse, AuthDeliverRequest, AuthDeliverResponse,
    AuthExchangeRequest, AuthExchangeResponse, AuthPublishRequest, AuthPublishResponse, AuthSubscribeRequest,
    AuthSubscribeResponse, Client, ConnectAllow, ConnectEvent, DeliverAllow, Deny, DisconnectEvent,
    ExchangeContinue, ExchangeSuccess, FilterAllow, FilterVerdict, HelloRequest, HelloResponse, Hook,
    PublishAllow, PublishEvent, SubscribeEvent, UnsubscribeEvent, Want,
};
use tokio::sync::{mpsc, watch};
use tonic::Response;

/// The types of `proto/events.proto`.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod contract {
    tonic::include_proto!("mproxy.v1");
}

/// What a service does with a call.
#[derive(Debug)]
pub enum Play<T> {
    /// It answers.
    Answer(T),
    /// The call fails.
    Fail(Status),
    /// No answer ever comes.
    Never,
}

impl<T> Play<T> {
    /// It answers with what is an answer after a conversion: a `Deny`, an `Allow`.
    pub fn answer(with: impl Into<T>) -> Self {
        Self::Answer(with.into())
    }
}

/// What is done with each request of a kind.
pub type AnswerScript<Q, A> = Box<dyn Fn(&Request<Q>) -> Play<A> + Send + Sync>;

/// A service and what it does. By default it wants everything but deliveries, and allows everything.
pub struct Service {
    /// Its `Hello`; `None`: UNIMPLEMENTED.
    pub hello: Option<HelloResponse>,
    /// What it says to `AuthConnect`.
    pub connect: AnswerScript<AuthConnectRequest, AuthConnectResponse>,
    /// What it says to `AuthPublish`.
    pub publish: AnswerScript<AuthPublishRequest, AuthPublishResponse>,
    /// What it says to `AuthSubscribe`.
    pub subscribe: AnswerScript<AuthSubscribeRequest, AuthSubscribeResponse>,
    /// What it says to `AuthDeliver`, which only comes if `hello` wants it.
    pub deliver: AnswerScript<AuthDeliverRequest, AuthDeliverResponse>,
    /// What it says to `AuthExchange`, which only comes if `hello` wants it.
    pub exchange: AnswerScript<AuthExchangeRequest, AuthExchangeResponse>,
    /// What it says to any event.
    pub tell: Box<dyn Fn() -> Play<contract::Told> + Send + Sync>,
    /// What it does with an Observe stream, which only comes if `hello` serves streams.
    pub observe: ObservePlay,
    /// What it does with a Decide stream, which only comes if `hello` serves streams.
    pub decide: StreamPlay,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("hello", &self.hello).finish_non_exhaustive()
    }
}

impl Default for Service {
    fn default() -> Self {
        Self {
            hello: Some(HelloResponse::default()),
            connect: Box::new(|_| Play::answer(ConnectAllow::default())),
            publish: Box::new(|_| Play::answer(PublishAllow::default())),
            subscribe: each_filter(|_| FilterAllow::default().into()),
            deliver: Box::new(|_| Play::answer(DeliverAllow::default())),
            exchange: Box::new(|_| Play::answer(ExchangeSuccess::default())),
            tell: Box::new(|| Play::Answer(contract::Told {})),
            observe: ObservePlay::Confirm,
            decide: StreamPlay::Serve,
        }
    }
}

impl Service {
    /// One that lets everybody in, and who came.
    pub fn admitting() -> (Self, mpsc::UnboundedReceiver<Client>) {
        let (came, clients) = mpsc::unbounded_channel();
        let connect: AnswerScript<AuthConnectRequest, AuthConnectResponse> = Box::new(move |request| {
            // Nobody listens any more at the end of a test.
            let _ = came.send(request.get_ref().client.clone().unwrap_or_default());
            Play::answer(ConnectAllow::default())
        });
        (Self { connect, ..Self::default() }, clients)
    }
}

/// A script that judges each filter by itself, by its text without `$share/group/`.
pub fn each_filter(
    judge: impl Fn(&str) -> FilterVerdict + Send + Sync + 'static,
) -> AnswerScript<AuthSubscribeRequest, AuthSubscribeResponse> {
    Box::new(move |asked| {
        let verdicts = asked.get_ref().filters.iter().map(|asked| judge(&asked.filter)).collect();
        Play::Answer(AuthSubscribeResponse { verdicts })
    })
}

/// A `Hello` that wants every call, deliveries too, with small payloads; authentications are left to the broker.
pub fn wants_everything() -> HelloResponse {
    let hooks = [
        Hook::AuthConnect,
        Hook::AuthPublish,
        Hook::AuthSubscribe,
        Hook::AuthDeliver,
        Hook::Connect,
        Hook::Publish,
        Hook::Subscribe,
        Hook::Unsubscribe,
        Hook::Disconnect,
    ];
    let want = |hook: Hook| Want { hook: hook.into(), payload_limit: 1024, ..Want::default() };
    HelloResponse { wants: hooks.map(want).into(), ..HelloResponse::default() }
}

impl From<ExchangeContinue> for AuthExchangeResponse {
    fn from(more: ExchangeContinue) -> Self {
        Self { verdict: Some(contract::auth_exchange_response::Verdict::ContinueAuthentication(more)) }
    }
}

impl From<ExchangeSuccess> for AuthExchangeResponse {
    fn from(success: ExchangeSuccess) -> Self {
        Self { verdict: Some(contract::auth_exchange_response::Verdict::Success(success)) }
    }
}

impl From<Deny> for AuthExchangeResponse {
    fn from(deny: Deny) -> Self {
        Self { verdict: Some(contract::auth_exchange_response::Verdict::Deny(deny)) }
    }
}

impl Deny {
    /// A no with this action and no code of its own: 0x87, Not authorized.
    pub fn with(action: Action) -> Self {
        Self { action: Some(action.into()), ..Self::default() }
    }
}

/// What an answer says is turned into the answer.
macro_rules! verdicts {
    ($($answer:ident, $room:ident, $allow:ident;)*) => {$(
        impl From<$allow> for $answer {
            fn from(allow: $allow) -> Self {
                Self { verdict: Some(contract::$room::Verdict::Allow(allow)) }
            }
        }

        impl From<Deny> for $answer {
            fn from(deny: Deny) -> Self {
                Self { verdict: Some(contract::$room::Verdict::Deny(deny)) }
            }
        }
    )*};
}

verdicts! {
    AuthConnectResponse, auth_connect_response, ConnectAllow;
    AuthPublishResponse, auth_publish_response, PublishAllow;
    FilterVerdict, filter_verdict, FilterAllow;
    AuthDeliverResponse, auth_deliver_response, DeliverAllow;
}

/// An event that the service was told.
#[derive(Clone, Debug)]
pub struct Told {
    /// Of whom.
    pub client_id: String,
    /// Of which of the connections of this client.
    pub epoch: u64,
    /// The number of the event.
    pub sequence: u64,
    /// `connect`, `disconnect`, `subscribe a=1 b=135`, `unsubscribe a b`, or the topic of a publish.
    pub what: String,
}

#[derive(Debug, Default)]
struct Log {
    calls: Vec<&'static str>,
    told: Vec<Told>,
    /// Messages on Observe streams, with the number of the stream.
    observed: Vec<(usize, contract::ObserveRequest)>,
    observe_streams: usize,
    /// Messages on Decide streams, with the number of the stream.
    batches: Vec<(usize, contract::DecideRequest)>,
    streams: usize,
}

#[derive(Clone)]
struct Player {
    service: Arc<Service>,
    log: Arc<watch::Sender<Log>>,
}

impl Player {
    async fn play<T>(&self, rpc: &'static str, play: Play<T>) -> Result<Response<T>, Status> {
        self.log.send_modify(|log| log.calls.push(rpc));
        match play {
            Play::Answer(answer) => Ok(Response::new(answer)),
            Play::Fail(status) => Err(status),
            Play::Never => std::future::pending().await,
        }
    }

    async fn answer_event(
        &self,
        rpc: &'static str,
        client: Option<Client>,
        sequence: u64,
        what: String,
    ) -> Result<Response<contract::Told>, Status> {
        let Client { client_id, epoch, .. } = client.unwrap_or_else(|| panic!("{rpc} of nobody"));
        // Before it answers: what it fails, or never answers, it was told all the same.
        self.log.send_modify(|log| log.told.push(Told { client_id, epoch, sequence, what }));
        self.play(rpc, (self.service.tell)()).await
    }
}

#[tonic::async_trait]
impl contract::hook_stream_server::HookStream for Player {
    async fn decide(
        &self,
        request: Request<tonic::Streaming<contract::DecideRequest>>,
    ) -> RpcResult<tonic::codegen::BoxStream<contract::DecideResponse>> {
        self.play_decide(request)
    }

    async fn observe(
        &self,
        request: Request<tonic::Streaming<contract::ObserveRequest>>,
    ) -> RpcResult<tonic::codegen::BoxStream<contract::ObserveResponse>> {
        self.play_observe(request)
    }
}

type RpcResult<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Hooks for Player {
    async fn hello(&self, _: Request<HelloRequest>) -> RpcResult<HelloResponse> {
        let none = || Play::Fail(Status::unimplemented("no Hello here"));
        self.play("Hello", self.service.hello.clone().map_or_else(none, Play::Answer)).await
    }

    async fn auth_connect(&self, asked: Request<AuthConnectRequest>) -> RpcResult<AuthConnectResponse> {
        self.play("AuthConnect", (self.service.connect)(&asked)).await
    }

    async fn auth_publish(&self, asked: Request<AuthPublishRequest>) -> RpcResult<AuthPublishResponse> {
        self.play("AuthPublish", (self.service.publish)(&asked)).await
    }

    async fn auth_subscribe(&self, asked: Request<AuthSubscribeRequest>) -> RpcResult<AuthSubscribeResponse> {
        self.play("AuthSubscribe", (self.service.subscribe)(&asked)).await
    }

    async fn auth_deliver(&self, asked: Request<AuthDeliverRequest>) -> RpcResult<AuthDeliverResponse> {
        self.play("AuthDeliver", (self.service.deliver)(&asked)).await
    }

    async fn auth_exchange(&self, asked: Request<AuthExchangeRequest>) -> RpcResult<AuthExchangeResponse> {
        self.play("AuthExchange", (self.service.exchange)(&asked)).await
    }

    async fn connect(&self, event: Request<ConnectEvent>) -> RpcResult<contract::Told> {
        let event = event.into_inner();
        self.answer_event("Connect", event.client, event.sequence, "connect".to_owned()).await
    }

    async fn publish(&self, event: Request<PublishEvent>) -> RpcResult<contract::Told> {
        let event = event.into_inner();
        self.answer_event("Publish", event.client, event.sequence, event.topic).await
    }

    async fn subscribe(&self, event: Request<SubscribeEvent>) -> RpcResult<contract::Told> {
        let event = event.into_inner();
        let filters = event.filters.iter().map(|of| format!(" {}={}", of.filter, of.reason_code));
        let what = format!("subscribe{}", filters.collect::<String>());
        self.answer_event("Subscribe", event.client, event.sequence, what).await
    }

    async fn unsubscribe(&self, event: Request<UnsubscribeEvent>) -> RpcResult<contract::Told> {
        let event = event.into_inner();
        let filters = event.filters.iter().map(|of| format!(" {}", of.filter));
        let what = format!("unsubscribe{}", filters.collect::<String>());
        self.answer_event("Unsubscribe", event.client, event.sequence, what).await
    }

    async fn disconnect(&self, event: Request<DisconnectEvent>) -> RpcResult<contract::Told> {
        let event = event.into_inner();
        self.answer_event("Disconnect", event.client, event.sequence, "disconnect".to_owned()).await
    }
}
