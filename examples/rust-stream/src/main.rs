//! A hook service for mproxy: refuses one user, protects two topic trees, rewrites a third, gives sensors a grant,
//! disconnects the client ID when `admin` publishes to `kick/ID`, and prints the events.
//!
//! ```sh
//! cargo run -p mproxy-example-hook -- 127.0.0.1:50051
//! MPROXY_POLICY_URL=http://127.0.0.1:50051 cargo run
//! ```
//!
//! The address is the first argument or `HOOK_ADDRESS`: `host:port` (port 0: any) or `unix:/path`. With `HOOK_EVENTS=off` it
//! wants no events. Decisions, events and commands go over streams as well, see `stream.rs`.

use std::env;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::broadcast;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

mod stream;

// Not `expect`: whoever copies this has other lints.
#[allow(
    unreachable_pub,
    unused_qualifications,
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
mod proto {
    tonic::include_proto!("mproxy.v1");
}

use proto::hook_stream_server::HookStreamServer;
use proto::hooks_server::{Hooks, HooksServer};
use proto::stream_event::Event;
use proto::*;

#[derive(Clone)]
struct Example {
    /// For each mproxy that has opened Control.
    commands: broadcast::Sender<ControlCommand>,
    last_command: Arc<AtomicU64>,
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Hooks for Example {
    /// What this service wants: publishes by size only, and no word of subscriptions that ended.
    async fn hello(&self, _: Request<HelloRequest>) -> Reply<HelloResponse> {
        use Hook::*;
        let hooks = [AuthConnect, AuthPublish, AuthSubscribe, Connect, Publish, Subscribe, Disconnect];
        let wanted =
            if env::var("HOOK_EVENTS").is_ok_and(|events| events == "off") { 3 } else { hooks.len() };
        let wants = hooks
            .iter()
            .take(wanted)
            .map(|hook| Want { hook: (*hook).into(), ..Default::default() })
            .collect();
        Ok(Response::new(HelloResponse { wants, streams: true, name: "example".into() }))
    }

    async fn auth_connect(&self, request: Request<AuthConnectRequest>) -> Reply<AuthConnectResponse> {
        let request = request.into_inner();
        Ok(Response::new(decide_connect(request.client.as_ref())))
    }

    async fn auth_publish(&self, request: Request<AuthPublishRequest>) -> Reply<AuthPublishResponse> {
        let request = request.into_inner();
        Ok(Response::new(self.decide_publish(request.client.as_ref(), &request)))
    }

    async fn auth_subscribe(&self, request: Request<AuthSubscribeRequest>) -> Reply<AuthSubscribeResponse> {
        Ok(Response::new(decide_subscribe(&request.into_inner())))
    }

    async fn connect(&self, event: Request<ConnectEvent>) -> Reply<Told> {
        let mut event = event.into_inner();
        tell(event.client.take(), &Event::Connect(event))
    }

    async fn publish(&self, event: Request<PublishEvent>) -> Reply<Told> {
        let mut event = event.into_inner();
        tell(event.client.take(), &Event::Publish(event))
    }

    async fn subscribe(&self, event: Request<SubscribeEvent>) -> Reply<Told> {
        let mut event = event.into_inner();
        tell(event.client.take(), &Event::Subscribe(event))
    }

    async fn disconnect(&self, event: Request<DisconnectEvent>) -> Reply<Told> {
        let mut event = event.into_inner();
        tell(event.client.take(), &Event::Disconnect(event))
    }
}

impl Example {
    fn decide_publish(&self, client: Option<&Client>, request: &AuthPublishRequest) -> AuthPublishResponse {
        use auth_publish_response::Verdict::{Allow, Deny};
        let allow = |topic| Allow(PublishAllow { topic, ..Default::default() });
        let verdict = match request.topic.split_once('/') {
            Some(("forbidden", _)) => Deny(refusal("nobody publishes here")),
            Some(("kick", client_id)) if client.map(Client::username) == Some("admin") => {
                self.kick(client_id);
                allow(None)
            }
            Some(("kick", _)) => Deny(refusal("only admin publishes here")),
            Some(("old", rest)) => allow(Some(format!("new/{rest}"))),
            _ => allow(None),
        };
        AuthPublishResponse { verdict: Some(verdict) }
    }
}

fn decide_connect(client: Option<&Client>) -> AuthConnectResponse {
    use auth_connect_response::Verdict::{Allow, Deny};
    let client_id = client.map_or("", |client| &client.client_id);
    let verdict = match client.map(Client::username) {
        Some("mallory") => Deny(refusal("mallory may not come in")),
        // Such an id would be more than one level of a topic, or match the topics of others.
        _ if client_id.contains(['/', '+', '#']) => {
            Deny(proto::Deny { reason_code: 0x85, ..Default::default() })
        }
        Some("sensor") => Allow(ConnectAllow { grant: Some(sensor()), ..Default::default() }),
        _ => Allow(ConnectAllow::default()),
    };
    AuthConnectResponse { verdict: Some(verdict) }
}

/// Sensors say something about themselves, and hear what is said to them. What no rule matches is refused, and nobody is
/// asked.
fn sensor() -> Grant {
    let allow = |action: GrantAction, filter: &str| GrantRule {
        effect: Effect::Allow.into(),
        actions: vec![action.into()],
        topic_filters: vec![filter.into()],
        ..Default::default()
    };
    Grant {
        version: "sensor-1".into(),
        rules: vec![
            allow(GrantAction::Publish, "sensors/${clientid}/#"),
            allow(GrantAction::Subscribe, "commands/${clientid}/#"),
        ],
        default_effect: Some(Effect::Deny.into()),
        ..Default::default()
    }
}

fn decide_subscribe(request: &AuthSubscribeRequest) -> AuthSubscribeResponse {
    use filter_verdict::Verdict::{Allow, Deny};
    let judge = |asked: &SubscribeFilter| match asked.filter.split('/').next() {
        Some("secret" | "+" | "#") => Deny(refusal("this would show what is secret")),
        _ => Allow(FilterAllow::default()),
    };
    let verdicts = request.filters.iter().map(|asked| FilterVerdict { verdict: Some(judge(asked)) });
    AuthSubscribeResponse { verdicts: verdicts.collect() }
}

/// Not authorized (0x87), with a word for 5.0 clients.
fn refusal(why: &str) -> Deny {
    Deny { reason_string: why.into(), ..Default::default() }
}

fn tell(client: Option<Client>, event: &Event) -> Reply<Told> {
    println!("{}", line(client.as_ref(), event));
    Ok(Response::new(Told {}))
}

/// An event as a line: its number, the client, and what happened.
fn line(client: Option<&Client>, event: &Event) -> String {
    let what = match event {
        Event::Connect(_) => "connected".to_owned(),
        Event::Publish(event) => format!("published {} bytes to {}", event.payload_size, event.topic),
        Event::Subscribe(event) => {
            let filters = event.filters.iter().map(|one| format!("{}={}", one.filter, one.reason_code));
            format!("subscribed to {}", filters.collect::<Vec<_>>().join(" "))
        }
        Event::Unsubscribe(_) => "unsubscribed".to_owned(),
        Event::Disconnect(event) => format!("disconnected: {}", event.detail),
    };
    let client_id = client.map_or("", |client| &client.client_id);
    format!("{} {client_id} {what}", sequence(event))
}

const fn sequence(event: &Event) -> u64 {
    match event {
        Event::Connect(event) => event.sequence,
        Event::Publish(event) => event.sequence,
        Event::Subscribe(event) => event.sequence,
        Event::Unsubscribe(event) => event.sequence,
        Event::Disconnect(event) => event.sequence,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).or_else(|| env::var("HOOK_ADDRESS").ok());
    let address = address.unwrap_or_else(|| "127.0.0.1:50051".into());
    let example = Example { commands: broadcast::channel(256).0, last_command: Arc::default() };
    let server = Server::builder()
        .add_service(HooksServer::new(example.clone()))
        .add_service(HookStreamServer::new(example));
    if let Some(path) = address.strip_prefix("unix:") {
        // Left over from a run that was killed; if it is not there, so much the better.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        println!("listening on {address}");
        server.serve_with_incoming(UnixListenerStream::new(listener)).await?;
    } else {
        let listener = TcpListener::bind(&address).await?;
        println!("listening on {}", listener.local_addr()?);
        // Else an answer may wait 40 ms for the acknowledgement of what was sent before it.
        server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))).await?;
    }
    Ok(())
}
