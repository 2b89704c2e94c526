//! A hook service for mproxy: refuses one user and two topic trees, rewrites a third, and gives sensors a grant.
//! README.md says how to start it.

use std::env;
use std::error::Error;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[allow(clippy::all, reason = "generated")]
mod proto {
    tonic::include_proto!("mproxy.v1");
}

use proto::hooks_server::{Hooks, HooksServer};
use proto::*;

struct Example;

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Hooks for Example {
    /// The calls that this service wants; the others are never made.
    async fn hello(&self, _: Request<HelloRequest>) -> Reply<HelloResponse> {
        let hooks = [Hook::AuthConnect, Hook::AuthPublish, Hook::AuthSubscribe];
        let wants = hooks.map(|hook| Want { hook: hook.into(), ..Default::default() });
        Ok(Response::new(HelloResponse { wants: wants.into(), name: "rust".into(), ..Default::default() }))
    }

    async fn auth_connect(&self, request: Request<AuthConnectRequest>) -> Reply<AuthConnectResponse> {
        let client = request.into_inner().client.unwrap_or_default();
        Ok(Response::new(AuthConnectResponse { verdict: Some(decide_connect(&client)) }))
    }

    async fn auth_publish(&self, request: Request<AuthPublishRequest>) -> Reply<AuthPublishResponse> {
        let topic = request.into_inner().topic;
        Ok(Response::new(AuthPublishResponse { verdict: Some(decide_publish(&topic)) }))
    }

    async fn auth_subscribe(&self, request: Request<AuthSubscribeRequest>) -> Reply<AuthSubscribeResponse> {
        let filters = request.into_inner().filters;
        let verdicts =
            filters.iter().map(|asked| FilterVerdict { verdict: Some(decide_filter(&asked.filter)) });
        Ok(Response::new(AuthSubscribeResponse { verdicts: verdicts.collect() }))
    }
}

fn decide_connect(client: &Client) -> auth_connect_response::Verdict {
    use auth_connect_response::Verdict;
    match client.username() {
        "mallory" => Verdict::Deny(refusal("mallory may not come in")),
        // Such an id would be more than one level of a topic, or match the topics of others.
        _ if client.client_id.contains(['/', '+', '#']) => {
            Verdict::Deny(Deny { reason_code: 0x85, ..Default::default() })
        }
        "sensor" => Verdict::Allow(ConnectAllow { grant: Some(sensor()), ..Default::default() }),
        _ => Verdict::Allow(ConnectAllow::default()),
    }
}

fn decide_publish(topic: &str) -> auth_publish_response::Verdict {
    use auth_publish_response::Verdict;
    match topic.split_once('/') {
        Some(("forbidden", _)) => Verdict::Deny(refusal("nobody publishes here")),
        Some(("old", rest)) => {
            Verdict::Allow(PublishAllow { topic: Some(format!("new/{rest}")), ..Default::default() })
        }
        _ => Verdict::Allow(PublishAllow::default()),
    }
}

fn decide_filter(filter: &str) -> filter_verdict::Verdict {
    use filter_verdict::Verdict;
    // Judge what a filter matches: "+" and "#" also match secret topics.
    match filter.split('/').next() {
        Some("secret" | "+" | "#") => Verdict::Deny(refusal("this would show what is secret")),
        _ => Verdict::Allow(FilterAllow::default()),
    }
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

/// Not authorized (0x87), with a word for 5.0 clients.
fn refusal(why: &str) -> Deny {
    Deny { reason_string: why.into(), ..Default::default() }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("HOOK_ADDRESS").unwrap_or_else(|_| "127.0.0.1:50051".into());
    let listener = TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);
    // Without it an answer may wait 40 ms for the acknowledgement of what was sent before it.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    // What is asked already is answered; mproxy asks another endpoint, if there is one, or this one when it is back.
    let mut stop = signal(SignalKind::terminate())?;
    let stopped = async move { stop.recv().await.unwrap_or_default() };
    Server::builder()
        .add_service(HooksServer::new(Example))
        .serve_with_incoming_shutdown(incoming, stopped)
        .await?;
    Ok(())
}
