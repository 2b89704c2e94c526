//! A hook service that grants and takes back: everybody who connects has the grant of the moment, and commands go out on
//! the Control stream when the test says so.
#![expect(clippy::unwrap_used, reason = "a service that cannot be played fails its test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::codegen::BoxStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::PATIENCE;
use crate::service::contract::hook_stream_server::{HookStream, HookStreamServer};
use crate::service::contract::hooks_server::{Hooks, HooksServer};
use crate::service::contract::{
    AuthConnectRequest, AuthConnectResponse, AuthDeliverRequest, AuthDeliverResponse, AuthPublishRequest,
    AuthPublishResponse, AuthSubscribeRequest, AuthSubscribeResponse, CommandResult, ConnectAllow,
    ConnectEvent, ControlCommand, ControlReport, DecideRequest, DecideResponse, DisconnectEvent, Grant,
    GrantInForce, HelloRequest, HelloResponse, Hook, ObserveRequest, ObserveResponse, PublishEvent, Selector,
    SubscribeEvent, Told, UnsubscribeEvent, Want, control_command, control_report, selector,
};

/// Bytes of reports that may be on their way and not read: as many as HTTP/2 begins with (RFC 9113, 6.9.2).
const UNREAD: u32 = 65_535;

/// What mproxy has said on the stream that is open.
#[derive(Debug, Default)]
struct ControlRecord {
    /// Streams that were opened so far.
    streams: usize,
    /// The grants in force when this one began, once all are named.
    grants: Option<Vec<GrantInForce>>,
    /// Those that have come, while there are more to come.
    coming: Vec<GrantInForce>,
    results: BTreeMap<u64, CommandResult>,
    /// What came out of turn.
    wrong: Vec<String>,
}

/// Of the stream that is open.
type CommandSender = mpsc::UnboundedSender<Result<ControlCommand, Status>>;

#[derive(Clone)]
struct CommandingPlayer {
    grant: Arc<Mutex<Option<Grant>>>,
    commands: Arc<Mutex<Option<CommandSender>>>,
    heard: Arc<watch::Sender<ControlRecord>>,
    /// Whether it reads reports, once it has heard the grants.
    reads: Arc<watch::Sender<bool>>,
    serves: bool,
}

/// A running one.
pub struct CommandingService {
    /// Its address for `MPROXY_POLICY_URL`.
    pub url: String,
    player: CommandingPlayer,
    next: Mutex<u64>,
}

impl CommandingService {
    /// On a free port, with this grant for everybody; `serves`: whether it implements Control.
    pub async fn start(grant: Option<Grant>, serves: bool) -> Self {
        Self::start_at("127.0.0.1:0", grant, serves).await
    }

    /// The same, at this address.
    ///
    /// # Panics
    /// Somebody listens there.
    pub async fn start_at(address: &str, grant: Option<Grant>, serves: bool) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let player = CommandingPlayer {
            grant: Arc::new(Mutex::new(grant)),
            commands: Arc::default(),
            heard: Arc::new(watch::Sender::new(ControlRecord::default())),
            reads: Arc::new(watch::Sender::new(true)),
            serves,
        };
        // What mproxy may write before it is read.
        let server = Server::builder()
            .initial_stream_window_size(UNREAD)
            .add_service(HooksServer::new(player.clone()))
            .add_service(HookStreamServer::new(player.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { url, player, next: Mutex::new(0) }
    }

    /// From now on everybody who connects, or is asked for again, has this grant.
    pub fn grants(&self, grant: Option<Grant>) {
        *self.player.grant.lock().unwrap() = grant;
    }

    /// From now on it reads no reports, or reads them again.
    pub fn reads(&self, reads: bool) {
        self.player.reads.send_replace(reads);
    }

    /// Results that it has read.
    pub fn results(&self) -> usize {
        self.player.heard.borrow().results.len()
    }

    /// Whether there is a stream that takes commands.
    pub fn is_open(&self) -> bool {
        self.player.commands.lock().unwrap().as_ref().is_some_and(|commands| !commands.is_closed())
    }

    /// Streams that have begun.
    pub fn streams(&self) -> usize {
        self.player.heard.borrow().streams
    }

    /// Waits until so many streams have begun, and gives the grants in force that the last one named.
    pub async fn stream(&self, streams: usize) -> Vec<GrantInForce> {
        let heard =
            self.until(|heard| (heard.streams >= streams).then(|| heard.grants.clone()).flatten()).await;
        heard.unwrap_or_else(|heard| panic!("no such stream: {heard}"))
    }

    /// Sends a command, and gives its number.
    pub fn send(&self, by: Option<selector::By>, command: Option<control_command::Command>) -> u64 {
        let mut next = self.next.lock().unwrap();
        *next += 1;
        let command = ControlCommand { id: *next, selector: Some(Selector { by }), command };
        self.player.commands.lock().unwrap().as_ref().unwrap().send(Ok(command)).unwrap();
        *next
    }

    /// What became of the command of this number.
    pub async fn result(&self, id: u64) -> CommandResult {
        let result = self.until(|heard| heard.results.get(&id).cloned()).await;
        result.unwrap_or_else(|heard| panic!("no result of {id}: {heard}"))
    }

    /// Sends a command, and waits for what becomes of it.
    pub async fn command(&self, by: selector::By, command: control_command::Command) -> CommandResult {
        self.result(self.send(Some(by), Some(command))).await
    }

    /// Ends the stream that is open.
    pub fn end_stream(&self) {
        *self.player.commands.lock().unwrap() = None;
    }

    /// What mproxy said out of turn.
    pub fn wrong(&self) -> Vec<String> {
        self.player.heard.borrow().wrong.clone()
    }

    async fn until<T>(&self, found: impl Fn(&ControlRecord) -> Option<T>) -> Result<T, String> {
        let mut heard = self.player.heard.subscribe();
        let waited = timeout(PATIENCE, heard.wait_for(|heard| found(heard).is_some())).await;
        match waited {
            Ok(heard) => Ok(found(&heard.unwrap()).unwrap()),
            Err(_) => Err(format!("{:?}", self.player.heard.borrow())),
        }
    }
}

impl CommandingPlayer {
    fn hear(&self, report: ControlReport) {
        self.heard.send_modify(|heard| match report.report {
            Some(control_report::Report::Hello(_)) => {
                heard.streams += 1;
                (heard.grants, heard.coming) = (None, Vec::new());
            }
            Some(control_report::Report::Grants(grants)) => {
                if heard.grants.is_some() {
                    heard.wrong.push("grants behind the last ones".to_owned());
                }
                heard.coming.extend(grants.grants);
                if grants.complete {
                    heard.grants = Some(std::mem::take(&mut heard.coming));
                }
            }
            Some(control_report::Report::Result(result)) => {
                if heard.grants.is_none() {
                    heard.wrong.push("a result before the grants".to_owned());
                }
                heard.results.insert(result.id, result);
            }
            None => heard.wrong.push("an empty report".to_owned()),
        });
    }
}

#[tonic::async_trait]
impl HookStream for CommandingPlayer {
    async fn decide(
        &self,
        _: Request<Streaming<DecideRequest>>,
    ) -> Result<Response<BoxStream<DecideResponse>>, Status> {
        Err(Status::unimplemented("no questions here"))
    }

    async fn observe(
        &self,
        _: Request<Streaming<ObserveRequest>>,
    ) -> Result<Response<BoxStream<ObserveResponse>>, Status> {
        Err(Status::unimplemented("no events here"))
    }

    async fn control(
        &self,
        request: Request<Streaming<ControlReport>>,
    ) -> Result<Response<BoxStream<ControlCommand>>, Status> {
        if !self.serves {
            return Err(Status::unimplemented("no commands here"));
        }
        let (commands, outgoing) = mpsc::unbounded_channel();
        *self.commands.lock().unwrap() = Some(commands);
        let (player, mut reports) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let mut reads = player.reads.subscribe();
            while reads.wait_for(|reads| *reads).await.is_ok()
                && let Ok(Some(report)) = reports.message().await
            {
                player.hear(report);
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(outgoing))))
    }
}

#[tonic::async_trait]
impl Hooks for CommandingPlayer {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        let wants = vec![Want { hook: Hook::AuthConnect.into(), ..Want::default() }];
        Ok(Response::new(HelloResponse { wants, streams: true, name: "commanding".to_owned() }))
    }

    /// The user name is what stands before the `-` in the client id.
    async fn auth_connect(
        &self,
        request: Request<AuthConnectRequest>,
    ) -> Result<Response<AuthConnectResponse>, Status> {
        let client = request.into_inner().client.unwrap_or_default();
        let username = client.client_id.split_once('-').map(|(name, _)| name.to_owned());
        let attributes = username.iter().map(|name| ("group".to_owned(), name.clone())).collect();
        let grant = self.grant.lock().unwrap().clone();
        Ok(Response::new(ConnectAllow { username, attributes, grant, ..ConnectAllow::default() }.into()))
    }

    async fn auth_publish(
        &self,
        _: Request<AuthPublishRequest>,
    ) -> Result<Response<AuthPublishResponse>, Status> {
        Err(Status::unimplemented("not wanted"))
    }

    async fn auth_subscribe(
        &self,
        _: Request<AuthSubscribeRequest>,
    ) -> Result<Response<AuthSubscribeResponse>, Status> {
        Err(Status::unimplemented("not wanted"))
    }

    async fn auth_deliver(
        &self,
        _: Request<AuthDeliverRequest>,
    ) -> Result<Response<AuthDeliverResponse>, Status> {
        Err(Status::unimplemented("not wanted"))
    }

    async fn connect(&self, _: Request<ConnectEvent>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented("not wanted"))
    }

    async fn publish(&self, _: Request<PublishEvent>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented("not wanted"))
    }

    async fn subscribe(&self, _: Request<SubscribeEvent>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented("not wanted"))
    }

    async fn unsubscribe(&self, _: Request<UnsubscribeEvent>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented("not wanted"))
    }

    async fn disconnect(&self, _: Request<DisconnectEvent>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented("not wanted"))
    }
}
